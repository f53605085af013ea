// Package servertest tests sqlstore on a real PostgreSQL, and on SQLite.
package servertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"
	_ "modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
	"github.com/seed-9da638b0/activity/storetest"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// shared is the server of the tests that do not break it. It is started by the first one.
var shared struct {
	sync.Mutex
	server *pgserver.Server
}

func TestMain(m *testing.M) {
	if f := child[os.Getenv(childEnv)]; f != nil {
		f()
		return
	}
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// postgres returns the shared server.
func postgres(t testing.TB) *pgserver.Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		s, err := pgserver.New()
		if errors.Is(err, pgserver.ErrNotFound) && os.Getenv(pgserver.RequireEnv) == "" {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	return shared.server
}

// openDB opens a database until the end of the test.
func openDB(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

var tables atomic.Int64

// newTable returns the name of a table that no other test uses.
func newTable() string { return fmt.Sprintf("checkpoints_%d", tables.Add(1)) }

// A database is one kind of database, for tests that run on each.
type database struct {
	name string
	open func(t testing.TB) func() *sql.DB // returns a function that connects to one database
}

var databases = []database{
	{"PostgreSQL", func(t testing.TB) func() *sql.DB {
		dsn := postgres(t).DSN()
		return func() *sql.DB { return openDB(t, "pgx", dsn) }
	}},
	{"SQLite", func(t testing.TB) func() *sql.DB {
		file := filepath.Join(t.TempDir(), "data.db")
		return func() *sql.DB { return openSQLite(t, file) }
	}},
}

// openSQLite opens a file as programs do that care: with a write-ahead log, durably.
func openSQLite(t testing.TB, file string) *sql.DB {
	return openDB(t, "sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)")
}

// each runs a test on each database.
func each(t *testing.T, test func(t *testing.T, connect func() *sql.DB)) {
	for _, d := range databases {
		t.Run(d.name, func(t *testing.T) { test(t, d.open(t)) })
	}
}

// eachSQLite runs a test on each driver for SQLite.
func eachSQLite(t *testing.T, test func(t *testing.T, connect func() *sql.DB)) {
	for _, d := range databases[1:] {
		t.Run(d.name, func(t *testing.T) { test(t, d.open(t)) })
	}
}

// open opens a Store until the end of the test.
func open(t testing.TB, db *sql.DB, opts sqlstore.Options) *sqlstore.Store {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = quiet
	}
	s, err := sqlstore.Open(context.Background(), db, &opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		storetest.Run(t, func(t *testing.T) (activity.Store, func() activity.Store) {
			table := newTable()
			return open(t, db, sqlstore.Options{Table: table}), func() activity.Store {
				return open(t, db, sqlstore.Options{Table: table, ReadOnly: true})
			}
		})
	})
}
