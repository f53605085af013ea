package sqlstore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// postgres is the backend on PostgreSQL.
//
// One session holds an advisory lock, and all writes of the Store go through it: if the session
// ends, the Store has neither the lock nor a way to write. The server ends the session if it is
// silent for a lease, because its process is stopped or the network is cut. The Store therefore
// calls regain several times in each lease.
//
// A transaction of the user's is in another session. It locks the row of its checkpoint. Whoever
// takes over changes the epoch in all rows, so that such a transaction either commits before that,
// or finds another epoch.
type postgres struct {
	db    *sql.DB
	names names
	owner string
	lease time.Duration
	ids   *idSet // filled by whoever gets the lock
	text  pgStatements
	key   int64 // of the advisory lock; set by takeOver

	conn *sql.Conn    // nil if it was lost; guarded by Store.turn
	pid  atomic.Int64 // of the session of conn, or of the last one
}

// pgStatements are the statements that are executed often. They are made once, because that takes
// about as long as a round trip to a server on the same machine.
type pgStatements struct{ insertOne, insertMany, deleteOne, deleteMany, findOne, findMany, ids, await, owner string }

func newPostgres(db *sql.DB, n names, owner string, lease time.Duration, ids *idSet) *postgres {
	const (
		ids2 = "IN (SELECT decode(v, 'base64') FROM json_array_elements_text($2::text::json) AS v)"
		ids3 = "IN (SELECT decode(v, 'base64') FROM json_array_elements_text($3::text::json) AS v)"
		// owns is a condition: that the epoch is the Store's.
		owns = "EXISTS (SELECT 1 FROM {owners} WHERE owner = $1::text AND epoch = $2::bigint)"
	)
	one := []string{"$1::text", "$2::bigint"}
	for i, c := range columns {
		one = append(one, fmt.Sprintf("$%d::%s", i+3, columnType(c, "text", "bigint", "bytea")))
	}
	remove := "DELETE FROM {table} WHERE owner = $1::text AND " + owns + " AND id "
	find := "SELECT " + strings.Join(columns, ", ") + " FROM {table} WHERE owner = $1::text AND id "
	return &postgres{db: db, names: n, owner: owner, lease: lease, ids: ids, text: pgStatements{
		insertOne:  n.insert("SELECT "+strings.Join(one, ", "), owns),
		insertMany: n.insert("SELECT $1::text, $2::bigint, "+rowValues+" FROM json_to_recordset($3::text::json) AS r("+rowType+")", owns),
		deleteOne:  n.expand(remove + "= $3::bytea"),
		deleteMany: n.expand(remove + ids3),
		findOne:    n.expand(find + "= $2::bytea"),
		findMany:   n.expand(find + ids2),
		ids:        n.expand("SELECT id, sequence FROM {table} WHERE owner = $1::text"),
		await:      n.expand("SELECT 1 FROM {table} WHERE owner = $1::text AND id = $2::bytea FOR SHARE"),
		owner:      n.expand("SELECT epoch FROM {owners} WHERE owner = $1::text"),
	}}
}

func (p *postgres) tableExists(ctx context.Context, name string) (bool, error) {
	exists := false
	err := p.db.QueryRowContext(ctx, "SELECT to_regclass($1::text) IS NOT NULL", name).Scan(&exists)
	return exists, err
}

func (p *postgres) reader() *sql.DB { return p.db }

func (p *postgres) lockSchema(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1::bigint)", lockKey("schema", p.names.table))
	return err
}

// lockKey returns the key of an advisory lock.
func lockKey(parts ...string) int64 {
	sum := sha256.Sum256([]byte("activity/sqlstore\x00" + strings.Join(parts, "\x00")))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

func (p *postgres) warnings(ctx context.Context, users *sql.DB) ([]string, error) {
	var found []string
	var fsync, synchronous, fullPages string
	err := users.QueryRowContext(ctx, "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes')").Scan(&fsync, &synchronous, &fullPages)
	if fsync == "off" {
		found = append(found, "fsync is off: a loss of power can damage the database")
	}
	if fullPages == "off" {
		found = append(found, "full_page_writes is off: a loss of power can damage the database")
	}
	if synchronous == "off" {
		found = append(found, "synchronous_commit is off: a crash of the server can undo the last transactions of the application, with their progress")
	}
	return found, err
}

// execute calls f, which executes statements of the Store's own connection, with a context that is not
// the caller's, because a context that ends during a statement makes the driver close the connection.
// When ctx ends, the server is asked to cancel the statement. If that does not help within a lease, or
// if the server is silent for three leases, the context ends.
func (p *postgres) execute(ctx context.Context, f func(context.Context) error) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*p.lease)
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		p.interrupt(limit)
		cancel()
	})
	err := f(limit)
	if !stop() {
		cancel()
		<-interrupted // so that the cancel request does not hit what is executed next
	}
	return err
}

// interrupt asks the server to cancel the statement of the Store's own connection. It returns a lease
// after that, or when limit ends. If the pool has no connection for it, the statement may go on.
func (p *postgres) interrupt(limit context.Context) {
	_, err := p.db.ExecContext(limit, "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE "+ownLock, p.pid.Load(), p.key)
	if err == nil {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeout(limit, p.lease)
		defer cancel()
	}
	<-limit.Done()
}

// connect makes a connection for the Store's own use, with the settings that it needs.
func (p *postgres) connect(ctx context.Context) (*sql.Conn, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*p.lease)
	defer cancel()
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("getting a connection of the pool: %w", err)
	}
	// synchronous_commit: what Save has written must be durable, whatever the default is.
	// lock_timeout: a transaction that hangs must not make the session look dead.
	pid := int64(0)
	err = conn.QueryRowContext(ctx, `
		SELECT pg_backend_pid()
		FROM (SELECT
			set_config('idle_session_timeout', $1::text, false),
			set_config('lock_timeout', $1::text, false),
			set_config('statement_timeout', '0', false),
			set_config('application_name', $2::text, false),
			set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
		) AS settings`, strconv.FormatInt(p.lease.Milliseconds(), 10), "activity sqlstore "+p.owner).Scan(&pid)
	if err != nil {
		discard(conn)
		return nil, 0, err
	}
	return conn, pid, nil
}

// checkServer returns an error if the server cannot keep a lock for the Store.
func (p *postgres) checkServer(ctx context.Context) error {
	version, recovery := 0, false
	if err := p.db.QueryRowContext(ctx, "SELECT current_setting('server_version_num')::int, pg_is_in_recovery()").Scan(&version, &recovery); err != nil {
		return err
	}
	switch {
	case version < 140000:
		return &finalError{fmt.Errorf("PostgreSQL 14 or newer is required (the server has %d)", version/10000)}
	case recovery:
		return &finalError{errors.New("the server is a read-only standby")}
	case p.db.Stats().MaxOpenConnections == 1:
		return &finalError{errors.New("the *sql.DB allows one open connection, and the Store needs one for itself: call SetMaxOpenConns with 2 or more")}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*p.lease)
	defer cancel()
	for range 3 {
		if err := p.checkPooler(ctx); errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the pool has no two free connections (SetMaxOpenConns): %w", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// checkPooler returns an error if a pooler gives each transaction another session: the lock would
// be in a session of others. It holds a transaction in one connection, and looks whether that has
// taken the session of another connection, which is idle, or whether that one has another session
// by then.
func (p *postgres) checkPooler(ctx context.Context) error {
	conn, err := p.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	pid := func(q querier) (n int64, err error) {
		return n, q.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&n)
	}
	before, err := pid(conn)
	if err != nil {
		return err
	}
	tx, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	other, err := pid(tx)
	if err != nil {
		return err
	}
	again, err := pid(conn)
	if err != nil {
		return err
	}
	if other == before || again != before {
		return &finalError{errPooler}
	}
	return nil
}

var errPooler = errors.New("a connection pooler such as PgBouncer shares sessions between connections, so that a session cannot hold a lock: connect to the server itself, or use session pooling")

func (p *postgres) takeOver(ctx context.Context) (int64, error) {
	if p.conn == nil {
		if err := p.checkServer(ctx); err != nil {
			return 0, err
		}
		// By the OID, so that it does not matter how the table is named.
		oid := ""
		if err := p.db.QueryRowContext(ctx, "SELECT $1::text::regclass::oid::text", p.names.table).Scan(&oid); err != nil {
			return 0, err
		}
		p.key = lockKey("owner", oid, p.owner)
		conn, pid, err := p.connect(ctx)
		if err != nil {
			return 0, err
		}
		p.conn = conn
		p.pid.Store(pid)
	}
	locked, epoch := false, int64(0)
	err := p.execute(ctx, func(ctx context.Context) (err error) {
		if locked, err = p.tryLock(ctx, p.conn); err != nil || !locked {
			return err
		}
		// This waits for transactions of the owner before, which have locked their checkpoints.
		err = p.conn.QueryRowContext(ctx, p.names.expand(`
			WITH o AS (
				INSERT INTO {owners} AS o (owner, epoch, holder) VALUES ($1::text, $2::bigint, $3::text)
				ON CONFLICT (owner) DO UPDATE SET epoch = o.epoch + 1, holder = EXCLUDED.holder
				RETURNING epoch
			),
			c AS (UPDATE {table} SET epoch = o.epoch FROM o WHERE owner = $1::text)
			SELECT epoch FROM o`), p.owner, firstEpoch(), holder()).Scan(&epoch)
		if err != nil {
			return err
		}
		return p.ids.fill(p.conn.QueryContext(ctx, p.text.ids, p.owner))
	})
	switch {
	case err != nil:
		p.drop()
		return 0, err
	case !locked:
		return 0, errOwned
	}
	return epoch, nil
}

func (p *postgres) tryLock(ctx context.Context, conn *sql.Conn) (locked bool, err error) {
	err = conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1::bigint)", p.key).Scan(&locked)
	return locked, err
}

func (p *postgres) drop() {
	if p.conn != nil {
		discard(p.conn)
		p.conn = nil
	}
}

func (p *postgres) regain(ctx context.Context, epoch int64) (fresh bool, err error) {
	if p.conn != nil {
		pid := int64(0)
		err := p.execute(ctx, func(ctx context.Context) error {
			return p.conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid)
		})
		if err == nil && pid == p.pid.Load() || isCanceled(err) {
			return false, nil
		}
		p.drop()
		if pid != 0 {
			return false, errPooler
		}
	}
	conn, pid, err := p.connect(ctx)
	if err != nil {
		return false, err
	}
	if err := p.relock(ctx, conn, epoch); err != nil {
		discard(conn)
		return false, err
	}
	p.conn = conn
	p.pid.Store(pid)
	return true, nil
}

func (p *postgres) connected() bool { return p.conn != nil }

// relock takes the lock again in a new session, if nobody has had it meanwhile. If another
// session has it and has not raised the epoch, it may be the Store's own last session, whose end
// the server has not noticed: relock then ends that.
func (p *postgres) relock(ctx context.Context, conn *sql.Conn, epoch int64) error {
	ctx, cancel := context.WithTimeout(ctx, 3*p.lease)
	defer cancel()
	locked, err := p.tryLock(ctx, conn)
	if err != nil {
		return err
	}
	if err := p.checkOwner(ctx, conn, epoch); err != nil {
		return err
	}
	if locked { // a server that was restarted may have an older database
		return p.ids.fill(conn.QueryContext(ctx, p.text.ids, p.owner))
	}
	_, err = conn.ExecContext(ctx, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE "+ownLock, p.pid.Load(), p.key)
	return errors.Join(errors.New("another session has the lock"), err)
}

// ownLock finds the session of a PID in pg_locks, if it has the lock with that key.
const ownLock = "locktype = 'advisory' AND granted AND pid = $1::bigint AND objsubid = 1 AND (classid::bigint << 32 | objid::bigint) = $2::bigint"

func (p *postgres) close() error {
	p.drop() // the end of the session gives up the lock
	return nil
}

// rowType is the type of the rows in a JSON array.
var rowType = func() string {
	var all []string
	for _, c := range columns {
		all = append(all, c+" "+columnType(c, "text", "bigint", "text"))
	}
	return strings.Join(all, ", ")
}()

// rowValues are the columns of a row r from JSON, as they are stored.
var rowValues = func() string {
	var all []string
	for _, c := range columns {
		v := "r." + c
		if binaryColumns[c] {
			v = "decode(" + v + ", 'base64')"
		}
		all = append(all, v+" AS "+c)
	}
	return strings.Join(all, ", ")
}()

func (p *postgres) save(ctx context.Context, epoch int64, batch []row) error {
	if len(batch) == 1 {
		return p.write(ctx, epoch, 1, p.text.insertOne, append([]any{p.owner, epoch}, batch[0].values()...)...)
	}
	data, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	return p.write(ctx, epoch, len(batch), p.text.insertMany, p.owner, epoch, string(data))
}

func (p *postgres) remove(ctx context.Context, epoch int64, ids [][]byte) error {
	if len(ids) == 1 {
		return p.write(ctx, epoch, 1, p.text.deleteOne, p.owner, epoch, ids[0])
	}
	data, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	return p.write(ctx, epoch, len(ids), p.text.deleteMany, p.owner, epoch, string(data))
}

// write executes a statement that changes at most n rows. If it changes fewer, some of them are
// newer or missing, or another process is the owner.
func (p *postgres) write(ctx context.Context, epoch int64, n int, query string, args ...any) error {
	return p.execute(ctx, func(ctx context.Context) error {
		result, err := p.conn.ExecContext(ctx, query, args...)
		if err != nil {
			return err
		}
		if changed, err := result.RowsAffected(); err != nil || changed >= int64(n) {
			return err
		}
		return p.checkOwner(ctx, p.conn, epoch)
	})
}

func (p *postgres) checkOwner(ctx context.Context, in querier, epoch int64) error {
	return checkOwner(ctx, in, p.text.owner, p.owner, epoch)
}

func (p *postgres) commitStatement() string {
	var set []string
	for _, c := range columns {
		if !fixedColumns[c] {
			set = append(set, fmt.Sprintf("%s = $%d", c, len(set)+6))
		}
	}
	// set_config: if this process stops before COMMIT, the server must end the transaction, for
	// which another process may wait.
	return p.names.expand("UPDATE {table} SET " + strings.Join(set, ", ") + `
		WHERE owner = $1::text AND id = $2::bytea AND epoch = $3::bigint AND sequence < $4::text
		AND set_config('idle_in_transaction_session_timeout', $5::text, true) <> ''`)
}

func (p *postgres) commitArguments(epoch int64, r *row) []any {
	return append([]any{p.owner, r.ID, epoch, r.Sequence, strconv.FormatInt(p.lease.Milliseconds(), 10)}, r.changing()...)
}

func (p *postgres) begin(context.Context, *sql.Tx) error { return nil }

// checkOpen does nothing, because the server executes nothing in a transaction that has failed.
func (p *postgres) checkOpen(context.Context, *sql.Tx) error { return nil }

func (p *postgres) load(ctx context.Context, ids [][]byte) (rows []row, err error) {
	query, arg := p.text.findOne, any(ids[0])
	if len(ids) > 1 {
		data, err := json.Marshal(ids)
		if err != nil {
			return nil, err
		}
		query, arg = p.text.findMany, string(data)
	}
	found, err := p.db.QueryContext(ctx, query, p.owner, arg)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		var r row
		if err := found.Scan(r.fields()...); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, found.Err()
}

// await returns nothing but a number, because the lock lasts until the result is read.
func (p *postgres) await(ctx context.Context, id []byte) error {
	n := 0
	err := p.db.QueryRowContext(ctx, p.text.await, p.owner, id).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	return err
}

func (p *postgres) writtenQuery() string {
	return "SELECT epoch, sequence FROM {table} WHERE owner = $1::text AND id = $2::bytea"
}

func (p *postgres) allQuery() string {
	return "SELECT " + strings.Join(columns, ", ") + " FROM {table} WHERE owner = $1::text AND id > $2::bytea ORDER BY id LIMIT " + page
}

func (p *postgres) holderQuery() string { return "SELECT holder FROM {owners} WHERE owner = $1::text" }
