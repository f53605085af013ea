package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// sqlite is the backend on SQLite.
//
// The Store owns its checkpoints as long as it holds a write transaction on a file of its
// own, beside the database. The operating system ends that with the process. The Store has
// connections of its own, opened with the driver of the user's *sql.DB: that may allow only one,
// which a transaction of the user's may occupy.
type sqlite struct {
	names names
	owner string
	ids   *idSet // filled by takeOver
	text  sqliteStatements

	db      *sql.DB   // the Store's own connections to the database
	session *session  // nil before the first write, and after one that failed
	lock    *sql.DB   // the Store's connection to the lock file
	held    *sql.Conn // has the transaction; nil before takeOver has succeeded
}

// sqliteStatements are the statements that are executed often. They are made once, because that takes
// about as long as executing them.
type sqliteStatements struct{ insert, remove, find, owner, begin string }

// A connector opens a file with the driver of another *sql.DB.
type connector struct {
	driver driver.Driver
	file   string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.file) }
func (c connector) Driver() driver.Driver                        { return c.driver }

// fileName returns the name of a file for a driver. Drivers take what follows a question mark for
// settings, unless the name is a URI.
func fileName(path string) string {
	if !strings.ContainsAny(path, "?#%") {
		return path
	}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String()
}

// newSQLite returns the backend for the database file of users.
func newSQLite(ctx context.Context, users *sql.DB, names names, owner string, ids *idSet) (*sqlite, error) {
	path := ""
	err := retryLocked(ctx, func() error {
		return users.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path)
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking SQLite for the name of the file: %w", err)
	case path == "":
		return nil, errors.New("an SQLite database in memory cannot keep checkpoints: use a file")
	}
	lock := path + "-" + names.table + "-" + ownerFile(owner) + ".lock"
	return &sqlite{
		names: names, owner: owner, ids: ids,
		text: sqliteStatements{
			insert: names.insert("SELECT ?, ?"+strings.Repeat(", ?", len(columns)), ownsSQLite),
			remove: names.expand("DELETE FROM {table} WHERE owner = ? AND id = ? AND " + ownsSQLite),
			find:   names.expand("SELECT " + strings.Join(columns, ", ") + " FROM {table} WHERE owner = ? AND id = ?"),
			owner:  names.expand("SELECT epoch FROM {owners} WHERE owner = ?"),
			begin:  names.expand("DELETE FROM {owners} WHERE 0"),
		},
		db:   sql.OpenDB(connector{users.Driver(), fileName(path)}),
		lock: sql.OpenDB(connector{users.Driver(), fileName(lock)}),
	}, nil
}

var simpleName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// ownerFile returns the owner's part of the name of the lock file.
func ownerFile(owner string) string {
	if simpleName.MatchString(owner) {
		return owner
	}
	sum := sha256.Sum256([]byte(owner))
	return hex.EncodeToString(sum[:16])
}

func (q *sqlite) reader() *sql.DB { return q.db }

func (q *sqlite) tableExists(ctx context.Context, name string) (exists bool, err error) {
	err = retryLocked(ctx, func() error {
		return q.db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?)", name).Scan(&exists)
	})
	return exists, err
}

// lockSchema does nothing, because the first CREATE makes tx the only writer.
func (q *sqlite) lockSchema(context.Context, *sql.Tx) error { return nil }

func (q *sqlite) warnings(ctx context.Context, users *sql.DB) ([]string, error) {
	var found []string
	synchronous, timeout, journal := 0, 0, ""
	err := retryLocked(ctx, func() error {
		if err := users.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&synchronous); err != nil {
			return err
		}
		if err := users.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout); err != nil {
			return err
		}
		return users.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&journal)
	})
	if synchronous == 0 {
		found = append(found, "PRAGMA synchronous is OFF: a loss of power can damage the database")
	}
	if timeout == 0 {
		found = append(found, "PRAGMA busy_timeout is 0: a transaction fails if another connection is writing")
	}
	if journal = strings.ToLower(journal); journal == "off" || journal == "memory" {
		found = append(found, "PRAGMA journal_mode is "+journal+": a process that is killed can damage the database")
	}
	return found, err
}

func (q *sqlite) takeOver(ctx context.Context) (int64, error) {
	if q.held == nil {
		held, err := q.lock.Conn(ctx)
		if err != nil {
			return 0, err
		}
		// EXCLUSIVE would fail a second Open, because some drivers read the file when they open it.
		for _, statement := range []string{"PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE"} {
			if _, err = held.ExecContext(context.Background(), statement); err != nil {
				discard(held)
				if isLocked(err) {
					return 0, errOwned
				}
				return 0, &finalError{fmt.Errorf("locking the file beside the database: %w", err)}
			}
		}
		q.held = held
	}
	epoch := int64(0)
	err := q.write(ctx, func(c *session) error {
		err := c.QueryRowContext(context.Background(), q.names.expand(`
			INSERT INTO {owners} (owner, epoch, holder) VALUES (?, ?, ?)
			ON CONFLICT (owner) DO UPDATE SET epoch = epoch + 1, holder = excluded.holder
			RETURNING epoch`), q.owner, firstEpoch(), holder()).Scan(&epoch)
		if err != nil {
			return err
		}
		if _, err = c.exec(q.names.expand("UPDATE {table} SET epoch = ? WHERE owner = ?"), epoch, q.owner); err != nil {
			return err
		}
		return q.ids.fill(c.conn.QueryContext(context.Background(), q.names.expand("SELECT id, sequence FROM {table} WHERE owner = ?"), q.owner))
	})
	return epoch, err
}

func (q *sqlite) connected() bool { return true }

func (q *sqlite) regain(ctx context.Context, epoch int64) (fresh bool, err error) {
	err = q.checkOwner(ctx, q.db, epoch)
	if isLocked(err) {
		err = nil
	}
	return false, err
}

// A session is the connection through which the Store writes, with its prepared statements. Its
// statements have no context that ends, because drivers interrupt a statement by damaging the
// connection.
type session struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt
}

func (c *session) prepare(statement string) (*sql.Stmt, error) {
	if s := c.statements[statement]; s != nil {
		return s, nil
	}
	s, err := c.conn.PrepareContext(context.Background(), statement)
	if err == nil {
		c.statements[statement] = s
	}
	return s, err
}

// exec executes a statement, and returns the number of rows that it has changed.
func (c *session) exec(statement string, args ...any) (int64, error) {
	s, err := c.prepare(statement)
	if err != nil {
		return 0, err
	}
	result, err := s.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// QueryRowContext implements querier.
func (c *session) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return c.conn.QueryRowContext(ctx, query, args...)
}

// write calls f in a transaction of the Store's own. If anything fails, the connection may still be
// in the transaction, and is not used any more.
func (q *sqlite) write(ctx context.Context, f func(*session) error) error {
	return retryLocked(ctx, func() error {
		if q.session == nil {
			conn, err := q.db.Conn(ctx)
			if err != nil {
				return err
			}
			q.session = &session{conn, map[string]*sql.Stmt{}}
			// What Save has written must be durable. A wait for a lock must end with ctx.
			if _, err := conn.ExecContext(context.Background(), "PRAGMA synchronous = FULL; PRAGMA busy_timeout = 0"); err != nil {
				q.drop()
				return err
			}
		}
		_, err := q.session.exec("BEGIN IMMEDIATE")
		if isLocked(err) {
			return err
		}
		if err == nil {
			err = f(q.session)
		}
		if err == nil {
			// Retried alone: readers that come meanwhile must wait.
			err = retryLocked(ctx, func() error {
				_, err := q.session.exec("COMMIT")
				return err
			})
		}
		if err != nil {
			q.drop()
		}
		return err
	})
}

func (q *sqlite) drop() {
	if q.session != nil {
		discard(q.session.conn)
		q.session = nil
	}
}

// change executes a statement for each of a list of arguments, in one transaction, if the Store is
// the owner.
func (q *sqlite) change(ctx context.Context, epoch int64, statement string, all [][]any) error {
	changed := int64(0)
	err := q.write(ctx, func(c *session) error {
		changed = 0
		for _, args := range all {
			n, err := c.exec(statement, args...)
			if err != nil {
				return err
			}
			changed += n
		}
		return nil
	})
	if err != nil || changed >= int64(len(all)) {
		return err
	}
	return retryLocked(ctx, func() error { return q.checkOwner(context.Background(), q.db, epoch) })
}

func (q *sqlite) save(ctx context.Context, epoch int64, batch []row) error {
	var all [][]any
	for i := range batch {
		all = append(all, append(append([]any{q.owner, epoch}, batch[i].values()...), q.owner, epoch))
	}
	return q.change(ctx, epoch, q.text.insert, all)
}

// ownsSQLite is a condition: that the epoch is the Store's. Its arguments are the owner and the epoch.
const ownsSQLite = "EXISTS (SELECT 1 FROM {owners} WHERE owner = ? AND epoch = ?)"

func (q *sqlite) remove(ctx context.Context, epoch int64, ids [][]byte) error {
	var all [][]any
	for _, id := range ids {
		all = append(all, []any{q.owner, id, q.owner, epoch})
	}
	return q.change(ctx, epoch, q.text.remove, all)
}

func (q *sqlite) checkOwner(ctx context.Context, in querier, epoch int64) error {
	return checkOwner(ctx, in, q.text.owner, q.owner, epoch)
}

func (q *sqlite) commitStatement() string {
	var set []string
	for _, c := range columns {
		if !fixedColumns[c] {
			set = append(set, c+" = ?")
		}
	}
	return q.names.expand("UPDATE {table} SET " + strings.Join(set, ", ") + " WHERE owner = ? AND id = ? AND epoch = ? AND sequence < ?")
}

func (q *sqlite) commitArguments(epoch int64, r *row) []any {
	return append(r.changing(), q.owner, r.ID, epoch, r.Sequence)
}

// begin makes tx the writer. If it read first, and another connection wrote before it did, SQLite
// would refuse its write.
func (q *sqlite) begin(ctx context.Context, tx *sql.Tx) error {
	return retryLocked(ctx, func() error {
		_, err := tx.ExecContext(ctx, q.text.begin)
		return err
	})
}

// checkOpen begins another transaction, which fails if one is open. SQLite rolls a whole transaction
// back after some errors, such as a full disk, an interrupted statement, or INSERT OR ROLLBACK. What
// comes after that is then not in it.
func (q *sqlite) checkOpen(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, "BEGIN"); err != nil {
		return nil
	}
	_, err := tx.ExecContext(ctx, "ROLLBACK")
	return errors.Join(errors.New("SQLite has rolled the transaction back after an error of a statement; return such errors from the function"), err)
}

// await does nothing, because a COMMIT on SQLite has returned when it has ended.
func (q *sqlite) await(context.Context, []byte) error { return nil }

func (q *sqlite) close() error {
	q.drop()
	if q.held != nil {
		discard(q.held)
		q.held = nil
	}
	return errors.Join(q.lock.Close(), q.db.Close())
}

func (q *sqlite) load(ctx context.Context, ids [][]byte) (rows []row, err error) {
	for _, id := range ids {
		var r row
		err := q.db.QueryRowContext(ctx, q.text.find, q.owner, id).Scan(r.fields()...)
		switch {
		case err == nil:
			rows = append(rows, r)
		case !errors.Is(err, sql.ErrNoRows):
			return nil, err
		}
	}
	return rows, nil
}

func (q *sqlite) writtenQuery() string {
	return "SELECT epoch, sequence FROM {table} WHERE owner = ? AND id = ?"
}

func (q *sqlite) allQuery() string {
	return "SELECT " + strings.Join(columns, ", ") + " FROM {table} WHERE owner = ? AND id > ? ORDER BY id LIMIT " + page
}

func (q *sqlite) holderQuery() string { return "SELECT holder FROM {owners} WHERE owner = ?" }
