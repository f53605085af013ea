package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// connections is the size of each pool of connections to PostgreSQL.
const connections = 10

// databases has the databases of a run: one PostgreSQL server, and one file of SQLite. Each
// exists from its first use until stop.
type databases struct {
	server func() (*pgserver.Server, error)
	file   func() (string, error)
	stop   func() error

	version string // of the server; empty before it has started
}

func newDatabases() *databases {
	var stops []func() error
	d := &databases{
		file: sync.OnceValues(func() (string, error) {
			dir, remove, err := tempDir()
			if err == nil {
				stops = append(stops, remove)
			}
			return filepath.Join(dir, "data.db"), err
		}),
		stop: func() error {
			var errs []error
			for _, stop := range stops {
				errs = append(errs, stop())
			}
			return errors.Join(errs...)
		},
	}
	d.server = sync.OnceValues(func() (*pgserver.Server, error) {
		s, err := pgserver.New()
		if err != nil {
			return nil, err
		}
		stops = append(stops, s.Stop)
		db, err := sql.Open("pgx", s.DSN())
		if err != nil {
			return nil, err
		}
		defer db.Close()
		return s, db.QueryRow("SELECT split_part(current_setting('server_version'), ' ', 1)").Scan(&d.version)
	})
	return d
}

// A database is one of the databases.
type database struct {
	name     string
	settings string // for the report
	dialect  sqlstore.Dialect
	counts   bool         // it counts the transactions that write
	missing  func() error // see section
	connect  func() (*sql.DB, error)
}

func (d *databases) postgres() database {
	return database{
		name: "PostgreSQL", dialect: sqlstore.PostgreSQL, counts: true,
		settings: fmt.Sprintf("a server on the same machine with its default settings, through its Unix socket, pgx and a pool of %d connections", connections),
		missing: func() error {
			_, err := d.server()
			missing := errors.Is(err, pgserver.ErrNotFound) || errors.Is(err, errors.ErrUnsupported)
			if !missing || os.Getenv(pgserver.RequireEnv) != "" {
				return nil // if there is an error, connect returns it
			}
			return err
		},
		connect: func() (*sql.DB, error) {
			s, err := d.server()
			if err != nil {
				return nil, err
			}
			db, err := sql.Open("pgx", s.DSN())
			if err == nil {
				db.SetMaxOpenConns(connections)
				db.SetMaxIdleConns(connections)
			}
			return db, err
		},
	}
}

func (d *databases) sqlite() database {
	return database{
		name: "SQLite", dialect: sqlstore.SQLite,
		settings: "a file in the directory for temporary files, through modernc.org/sqlite and one connection, with a write-ahead log and synchronous=FULL",
		connect: func() (*sql.DB, error) {
			file, err := d.file()
			if err != nil {
				return nil, err
			}
			db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)")
			if err == nil {
				db.SetMaxOpenConns(1)
			}
			return db, err
		},
	}
}

// An sqlClient is one row's use of a database.
type sqlClient struct {
	database
	db    *sql.DB
	table string // the row's own tables have this name, or one that begins with it
}

// row returns the function that opens a row. open makes its subject of a client, which is closed
// after the subject.
func (d database) row(table string, open func(*sqlClient) (subject, error)) func() (subject, error) {
	return func() (subject, error) {
		db, err := d.connect()
		if err != nil {
			return subject{}, err
		}
		sub, err := open(&sqlClient{d, db, "bench_" + table})
		if err != nil {
			return subject{}, errors.Join(err, db.Close())
		}
		first := sub.close
		sub.close = func() error { return errors.Join(first(), db.Close()) }
		return sub, nil
	}
}

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// runtime returns a Runtime with a Store in the database.
func (c *sqlClient) runtime() (rt *activity.Runtime, end func() error, err error) {
	store, err := sqlstore.Open(context.Background(), c.db, &sqlstore.Options{Table: c.table, Logger: discard})
	if err != nil {
		return nil, nil, err
	}
	rt = activity.New(activity.Config{Store: store})
	return rt, func() error { return errors.Join(rt.Shutdown(context.Background()), store.Close()) }, nil
}

func (c *sqlClient) exec(statements ...string) error {
	for _, s := range statements {
		if _, err := c.db.Exec(s); err != nil {
			return err
		}
	}
	return nil
}

// transactions returns the number of transactions that have written so far. It is zero if the
// database does not count them.
func (c *sqlClient) transactions() (n float64, err error) {
	if c.counts {
		// PostgreSQL numbers them.
		err = c.db.QueryRow("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").Scan(&n)
	}
	return n, err
}

// A floorTable is a table like that of a Store, with the statements of a durable run.
type floorTable struct {
	*sqlClient
	find, upsert, remove string
	values               []any // of the upsert; the second one is the ID
}

// floorTable creates the table.
func (c *sqlClient) floorTable() (*floorTable, error) {
	schema := strings.ReplaceAll(sqlstore.Schema(c.dialect), "activity_checkpoints", c.table)
	if err := c.exec(schema); err != nil {
		return nil, err
	}
	f := &floorTable{sqlClient: c, remove: "DELETE FROM " + c.table + " WHERE owner = $1 AND id = $2"}
	now := time.Now().UTC().Format("2006-01-02T15:04:05.000000000Z")
	var names, marks, sets []string
	for _, column := range []struct {
		name  string
		value any
	}{
		{"owner", "default"}, {"id", nil}, {"epoch", 1}, {"sequence", fmt.Sprintf("%020d", 1)},
		{"attempt", 1}, {"counted_from", 0}, {"progressed", 0}, {"state", int(activity.CheckpointRunning)},
		{"name", []byte("main.looks")}, {"scheduled_at", now}, {"updated_at", now}, {"next_attempt", ""},
		{"input", []byte{}}, {"details", []byte{}}, {"header", []byte{}}, {"last_failure", []byte{}},
	} {
		names, f.values = append(names, column.name), append(f.values, column.value)
		marks = append(marks, fmt.Sprintf("$%d", len(names)))
		sets = append(sets, column.name+" = EXCLUDED."+column.name)
	}
	f.upsert = fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT (owner, id) DO UPDATE SET %s",
		c.table, strings.Join(names, ", "), strings.Join(marks, ", "), strings.Join(sets[2:], ", "))
	f.find = "SELECT " + strings.Join(names, ", ") + " FROM " + c.table + " WHERE owner = $1 AND id = $2"
	return f, nil
}

// load reports whether the row is there.
func (f *floorTable) load(ctx context.Context, id string) (bool, error) {
	rows, err := f.db.QueryContext(ctx, f.find, f.values[0], []byte(id))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	return rows.Next(), rows.Err()
}

func (f *floorTable) save(ctx context.Context, id string) error {
	values := append([]any{}, f.values...)
	values[1] = []byte(id)
	_, err := f.db.ExecContext(ctx, f.upsert, values...)
	return err
}

func (f *floorTable) delete(ctx context.Context, id string) error {
	result, err := f.db.ExecContext(ctx, f.remove, f.values[0], []byte(id))
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	return errors.Join(err, same(int(n), 1, "deleted rows"))
}

// A stepTable is a table that gets rows from each step.
type stepTable struct {
	*sqlClient
	insert string
	size   int // the rows of a step
	last   int // the number in the last row
	rows   int // the rows that verify has counted
}

// stepTable creates the table, without a key, so that a step that is done twice shows.
func (c *sqlClient) stepTable(size int) (*stepTable, error) {
	name := c.table + "_rows"
	err := c.exec("CREATE TABLE " + name + " (n bigint NOT NULL)")
	marks := make([]string, size)
	for i := range marks {
		marks[i] = fmt.Sprintf("($%d)", i+1)
	}
	return &stepTable{sqlClient: c, insert: "INSERT INTO " + name + " (n) VALUES " + strings.Join(marks, ", "), size: size}, err
}

// step is a transaction that adds rows.
func (t *stepTable) step(ctx context.Context, commit func(*sql.Tx) error) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := t.add(ctx, tx); err != nil {
		return err
	}
	return commit(tx)
}

func (t *stepTable) add(ctx context.Context, tx *sql.Tx) error {
	numbers := make([]any, t.size)
	for i := range numbers {
		t.last++
		numbers[i] = t.last
	}
	_, err := tx.ExecContext(ctx, t.insert, numbers...)
	return err
}

// verify returns an error if n steps since the last call have not added their rows.
func (t *stepTable) verify(n int) error {
	rows, distinct := 0, 0
	if err := t.db.QueryRow("SELECT count(*), count(DISTINCT n) FROM "+t.table+"_rows").Scan(&rows, &distinct); err != nil {
		return err
	}
	did := rows - t.rows
	t.rows = rows
	return errors.Join(same(did, n*t.size, "rows"), same(distinct, rows, "distinct rows"))
}
