package servertest

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// refused opens a Store, which must fail with an error that contains all of text.
func refused(t testing.TB, db *sql.DB, opts sqlstore.Options, text ...string) error {
	t.Helper()
	opts.Logger = quiet
	s, err := sqlstore.Open(context.Background(), db, &opts)
	if err == nil {
		s.Close()
		t.Errorf("Open with %+v succeeded, want an error with %q", opts, text)
		return nil
	}
	for _, text := range append(text, "sqlstore: ") {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("Open: %v, want %q in it", err, text)
		}
	}
	return err
}

func TestOpen_Options(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		refused(t, db, sqlstore.Options{Dialect: 3}, "Options.Dialect", "Dialect(3)")
		refused(t, db, sqlstore.Options{Table: "a b"}, "Options.Table", `"a b"`)
		refused(t, db, sqlstore.Options{Table: "a.b.c"}, "Options.Table")
		refused(t, db, sqlstore.Options{Table: strings.Repeat("x", 51)}, "Options.Table")
		refused(t, db, sqlstore.Options{Owner: strings.Repeat("x", 201)}, "Options.Owner")
		refused(t, db, sqlstore.Options{Wait: -1}, "Options.Wait", "-1ns")
		refused(t, db, sqlstore.Options{Lease: -time.Second}, "Options.Lease", "-1s")
		refused(t, db, sqlstore.Options{Lease: time.Millisecond}, "Options.Lease", "1ms")
		refused(t, db, sqlstore.Options{Table: newTable(), ReadOnly: true}, "does not exist")
		refused(t, nil, sqlstore.Options{}, "nil")
		db.Close()
		refused(t, db, sqlstore.Options{}, "closed")
		refused(t, db, sqlstore.Options{Dialect: sqlstore.SQLite}, "closed")
		refused(t, db, sqlstore.Options{Dialect: sqlstore.PostgreSQL}, "closed")
	})
}

func TestOpen_InUse(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		first := open(t, db, sqlstore.Options{Table: table, Owner: "it's \"me\"/.."})
		err := refused(t, connect(), sqlstore.Options{Table: table, Owner: "it's \"me\"/.."}, "in use by process", table, "it's")
		checkErr(t, err, sqlstore.ErrInUse)
		err = refused(t, connect(), sqlstore.Options{Table: table, Owner: "it's \"me\"/..", Wait: 300 * time.Millisecond}, "300ms")
		checkErr(t, err, sqlstore.ErrInUse)
		// Another Owner, or another table, is independent.
		open(t, connect(), sqlstore.Options{Table: table})
		open(t, connect(), sqlstore.Options{Table: newTable(), Owner: "it's \"me\"/.."})

		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := sqlstore.Open(ctx, connect(), &sqlstore.Options{Table: table, Owner: "it's \"me\"/..", Wait: sqlstore.Forever, Logger: quiet})
			result <- err
		}()
		cancel(errBoom)
		checkErr(t, <-result, errBoom)

		opened := make(chan *sqlstore.Store, 1)
		go func() {
			s, err := sqlstore.Open(t.Context(), connect(), &sqlstore.Options{Table: table, Owner: "it's \"me\"/..", Wait: sqlstore.Forever, Logger: quiet})
			checkErr(t, err, nil)
			opened <- s
		}()
		checkErr(t, first.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
		checkErr(t, first.Close(), nil)
		second := <-opened
		defer second.Close()
		if _, found, err := second.Load(t.Context(), "a"); !found || err != nil {
			t.Errorf("found %t (%v)", found, err)
		}
		select {
		case <-first.Lost():
			t.Error("a Store that was closed is lost")
		default:
		}
	})
}

func checkpoint(id string, sequence uint64) activity.Checkpoint {
	return activity.Checkpoint{ID: id, Name: "job", State: activity.CheckpointRunning, Attempt: 1, Sequence: sequence, Details: []byte{1, '0'}}
}

// Two programs that open the Store for the first time at once.
func TestOpen_CreatesTablesOnce(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		table := newTable()
		var all sync.WaitGroup
		for range 5 {
			db := connect()
			all.Go(func() {
				s, err := sqlstore.Open(context.Background(), db, &sqlstore.Options{Table: table, Wait: sqlstore.Forever, Logger: quiet})
				if err != nil {
					t.Error(err)
					return
				}
				checkErr(t, s.Close(), nil)
			})
		}
		all.Wait()
	})
}

func TestOpen_NewerVersion(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		checkErr(t, open(t, db, sqlstore.Options{Table: table}).Close(), nil)
		if _, err := db.Exec("UPDATE " + table + "_version SET version = 2"); err != nil {
			t.Fatal(err)
		}
		refused(t, db, sqlstore.Options{Table: table}, "version 2", "newer")
		refused(t, db, sqlstore.Options{Table: table, ReadOnly: true}, "version 2", "newer")
	})
}

// The tables that Schema prints are those that Open makes, and Open takes them.
func TestSchema(t *testing.T) {
	for i, d := range []sqlstore.Dialect{sqlstore.PostgreSQL, sqlstore.SQLite} {
		t.Run(d.String(), func(t *testing.T) {
			db, table := databases[i].open(t)(), newTable()
			schema := sqlstore.Schema(d)
			if !strings.Contains(schema, "activity_checkpoints_owners") {
				t.Error(schema)
			}
			for _, statement := range strings.Split(strings.ReplaceAll(schema, "activity_checkpoints", table), ";\n") {
				if _, err := db.Exec(statement); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
			s := open(t, db, sqlstore.Options{Table: table})
			checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
		})
	}
	if s := sqlstore.Schema(0); s != "" {
		t.Errorf("Schema(0) is %q", s)
	}
}

// On PostgreSQL, tables may be in a schema, and the program may have no right to make tables.
func TestOpen_WithoutRights(t *testing.T) {
	dsn := postgres(t).DSN()
	db := openDB(t, "pgx", dsn)
	for _, statement := range []string{
		"DROP SCHEMA IF EXISTS jobs CASCADE", "DROP ROLE IF EXISTS worker", "CREATE SCHEMA jobs", "CREATE ROLE worker LOGIN",
		"GRANT USAGE ON SCHEMA jobs TO worker",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	worker := openDB(t, "pgx", strings.Replace(dsn, "user=postgres", "user=worker", 1))
	err := refused(t, worker, sqlstore.Options{Table: "jobs.points"}, "Schema has the statements", "permission denied")
	if errors.Is(err, context.Canceled) {
		t.Errorf("nobody has canceled it: %v", err)
	}
	checkErr(t, open(t, db, sqlstore.Options{Table: "jobs.points"}).Close(), nil)
	if _, err := db.Exec("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobs TO worker"); err != nil {
		t.Fatal(err)
	}
	s := open(t, worker, sqlstore.Options{Table: "jobs.points"})
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	refused(t, db, sqlstore.Options{Table: "jobs.points"}, "in use")
}

// Given a search_path without a schema, then Open says so.
func TestOpen_NoSchema(t *testing.T) {
	db := openDB(t, "pgx", postgres(t).DSN()+" search_path=missing")
	refused(t, db, sqlstore.Options{Table: newTable()}, "finding the schema of the table checkpoints", "search_path")
}

func TestOpen_Warns(t *testing.T) {
	warned := func(t *testing.T, db *sql.DB, text string) {
		t.Helper()
		var log bytes.Buffer
		open(t, db, sqlstore.Options{Table: newTable(), Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if !strings.Contains(log.String(), text) || text == "" && log.Len() > 0 {
			t.Errorf("the log is %q, want %q in it", log.String(), text)
		}
	}
	t.Run("PostgreSQL", func(t *testing.T) {
		dsn := postgres(t).DSN()
		warned(t, openDB(t, "pgx", dsn), "")
		warned(t, openDB(t, "pgx", dsn+" synchronous_commit=off"), "synchronous_commit is off")
		careless := pgserver.Start(t, "fsync=off", "full_page_writes=off")
		warned(t, openDB(t, "pgx", careless.DSN()), "fsync is off")
		warned(t, openDB(t, "pgx", careless.DSN()), "full_page_writes is off")
	})
	t.Run("SQLite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "data.db")
		warned(t, openSQLite(t, file), "")
		warned(t, openDB(t, "sqlite", file+"?_pragma=synchronous(OFF)"), "synchronous is OFF")
		warned(t, openDB(t, "sqlite", filepath.Join(t.TempDir(), "data.db")+"?_pragma=journal_mode(MEMORY)"), "journal_mode is memory")
	})
}

// Given a driver whose connections do not flush, when Save returns, then the checkpoint is flushed.
func TestSave_IsDurableOnSQLite(t *testing.T) {
	var settings []int64
	weak := weakSQLite{openDB(t, "sqlite", "").Driver(), func(conn fileConn) {
		rows, err := conn.QueryContext(t.Context(), "PRAGMA synchronous", nil)
		checkErr(t, err, nil)
		defer rows.Close()
		value := make([]driver.Value, 1)
		checkErr(t, rows.Next(value), nil)
		settings = append(settings, value[0].(int64))
	}}
	db := sql.OpenDB(connector{weak, filepath.Join(t.TempDir(), "data.db")})
	t.Cleanup(func() { db.Close() })
	s := open(t, db, sqlstore.Options{})
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	if len(settings) == 0 || slices.Min(settings) < 2 { // FULL is 2
		t.Errorf("synchronous is %d at each COMMIT of the Store", settings)
	}
}

// Given a server whose default is not to flush, when Save returns, then the checkpoint is flushed.
func TestSave_IsDurableOnPostgreSQL(t *testing.T) {
	db := openDB(t, "pgx", pgserver.Start(t, "wal_writer_delay=10s").DSN()+" synchronous_commit=off")
	s := open(t, db, sqlstore.Options{Table: newTable(), Owner: "durable"})
	flushed := func() (n int64) {
		checkErr(t, db.QueryRow("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn").Scan(&n), nil)
		return n
	}
	before := flushed()
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	if after := flushed(); after <= before {
		t.Error("nothing was flushed")
	}
}

// On SQLite the user's pool may have a single connection, in use by a transaction. On PostgreSQL the
// Store needs one.
func TestOpen_OneConnection(t *testing.T) {
	t.Run("PostgreSQL", func(t *testing.T) {
		db := openDB(t, "pgx", postgres(t).DSN())
		db.SetMaxOpenConns(1)
		refused(t, db, sqlstore.Options{Table: newTable()}, "SetMaxOpenConns")
		db.SetMaxOpenConns(2)
		open(t, db, sqlstore.Options{Table: newTable()})
	})
	t.Run("SQLite", func(t *testing.T) {
		for name, file := range map[string]string{"plain": "data.db", "odd": "a b?c%d#é.db"} {
			path := filepath.Join(t.TempDir(), file)
			dsn := path
			if name == "odd" {
				dsn = "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
			}
			db := openDB(t, "sqlite", dsn+"?_pragma=busy_timeout(10000)") // in rollback mode
			db.SetMaxOpenConns(1)
			rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
			checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
				return sqlstore.Range(ctx, db, 0, 20, func(tx *sql.Tx, i int) error {
					return errors.Join(ctx.Heartbeat(), ctx.Sleep(2*time.Millisecond), rows.insert(ctx, tx, i))
				})
			}), nil)
			rows.want(upTo(20)...)
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
		refused(t, openDB(t, "sqlite", ":memory:"), sqlstore.Options{}, "in memory")
	})
}

// Two SQLite activities at once, whose transactions wait for each other and for Saves.
func TestRange_Contended(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
		var all sync.WaitGroup
		for _, id := range []string{"a", "b", "c", "d"} {
			all.Go(func() {
				checkErr(t, rt.Run(t.Context(), fast(id), func(ctx activity.Context) error {
					return sqlstore.Range(ctx, db, 0, 50, func(tx *sql.Tx, i int) error {
						return errors.Join(rows.insert(ctx, tx, i), ctx.Heartbeat())
					})
				}), nil)
			})
		}
		all.Wait()
		if n := len(rows.all()); n != 200 {
			t.Errorf("%d rows, want 200", n)
		}
	})
}

// A pq driver works too.
func TestStore_AnotherDriver(t *testing.T) {
	db := openDB(t, "postgres", postgres(t).DSN())
	rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		return sqlstore.Range(ctx, db, 0, 20, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
	}), nil)
	rows.want(upTo(20)...)
}

// terminate ends the session that holds the lock.
func terminate(t testing.TB, db *sql.DB, owner string) {
	t.Helper()
	ended := false
	if err := db.QueryRow("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = $1", "activity sqlstore "+owner).Scan(&ended); err != nil || !ended {
		t.Fatalf("the session has ended: %t (%v)", ended, err)
	}
}

// Given an owner whose session ends while nobody stands by, then it is the owner again.
func TestOwner_Regains(t *testing.T) {
	db, table := openDB(t, "pgx", postgres(t).DSN()), newTable()
	s := open(t, db, sqlstore.Options{Table: table, Owner: t.Name()})
	epoch := func() (n int) {
		checkErr(t, db.QueryRow("SELECT epoch FROM "+table+"_owners").Scan(&n), nil)
		return n
	}
	before := epoch()
	rt, rows := newRuntime(t, s), newRows(t, db)
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		return sqlstore.Range(ctx, db, 0, 10, func(tx *sql.Tx, i int) error {
			if i%3 == 1 {
				terminate(t, db, t.Name())
			}
			if i%3 == 2 {
				checkErr(t, s.Save(ctx, []activity.Checkpoint{checkpoint("b", uint64(i))}), nil)
			}
			return rows.insert(ctx, tx, i)
		})
	}), nil)
	rows.want(upTo(10)...)
	if after := epoch(); after != before {
		t.Errorf("epoch %d became %d: another owner came between", before, after)
	}
}

// Given a server that waits for a synchronous standby, which does not answer, when the context of a
// Save ends, then Save returns an error: the checkpoint is on one server only.
func TestSave_SynchronousStandby(t *testing.T) {
	db := openDB(t, "pgx", pgserver.Start(t).DSN())
	s := open(t, db, sqlstore.Options{})
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = 'missing'", "SELECT pg_reload_conf()"} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	for n := uint64(1); ; n++ { // until the server has read its configuration
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		err := s.Save(ctx, []activity.Checkpoint{checkpoint("a", n)})
		ended := ctx.Err() != nil
		if cancel(); err != nil {
			checkErr(t, err, context.DeadlineExceeded)
			return
		}
		if ended {
			t.Fatal("Save has returned nil")
		}
	}
}

// A resetConn is a connection whose server does not notice when it breaks.
type resetConn struct {
	net.Conn
	reset *atomic.Bool
}

func (c resetConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.reset.Load() {
		return 0, errLink
	}
	return n, err
}

func (c resetConn) Write(b []byte) (int, error) {
	if c.reset.Load() {
		return 0, errLink
	}
	return c.Conn.Write(b)
}

func (c resetConn) Close() error {
	if c.reset.Load() {
		return nil
	}
	return c.Conn.Close()
}

// Given a connection that breaks, and a server that has not noticed and still has the lock for the
// old session, then the Store ends that session, and is still the owner.
func TestOwner_EndsItsLastSession(t *testing.T) {
	config, err := pgx.ParseConfig(postgres(t).DSN())
	checkErr(t, err, nil)
	var mu sync.Mutex
	var resets []*atomic.Bool
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		mu.Lock()
		defer mu.Unlock()
		reset := new(atomic.Bool)
		resets = append(resets, reset)
		return resetConn{conn, reset}, nil
	}
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() { db.Close() })
	table := newTable()
	s := open(t, db, sqlstore.Options{Table: table, Lease: time.Hour})
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	mu.Lock()
	for _, reset := range resets {
		reset.Store(true)
	}
	mu.Unlock()
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 2)}), nil)
	if cp, _, err := s.Load(t.Context(), "a"); cp.Sequence != 2 || err != nil {
		t.Errorf("sequence %d (%v)", cp.Sequence, err)
	}
	select {
	case <-s.Lost():
		t.Error("it is lost")
	default:
	}
	refused(t, db, sqlstore.Options{Table: table}, "in use")
}

// Given a server that comes back with an older state of the database, in which a checkpoint is that was
// deleted since, then the Store is lost: a Save of that ID could be older than the checkpoint.
func TestOwner_DatabaseRestored(t *testing.T) {
	for _, first := range []string{"a", "b"} { // what is started first, and connects again
		t.Run(first, func(t *testing.T) {
			server := pgserver.Start(t)
			db := openDB(t, "pgx", server.DSN())
			s := open(t, db, sqlstore.Options{})
			execute := func(statement string) {
				if _, err := db.Exec(statement); err != nil {
					t.Fatal(err)
				}
			}
			checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 5)}), nil)
			execute("CREATE TABLE backup AS TABLE activity_checkpoints")
			checkErr(t, s.Delete(t.Context(), []string{"a"}), nil)
			execute("INSERT INTO activity_checkpoints TABLE backup")
			checkErr(t, server.Restart(), nil)
			err := newRuntime(t, s).Run(t.Context(), fast(first), func(activity.Context) error {
				t.Error("it runs")
				return nil
			})
			checkErr(t, err, activity.ErrStoreLost)
			checkErr(t, s.Close(), nil)

			// The next owner finds the checkpoint.
			next := newRuntime(t, open(t, db, sqlstore.Options{}))
			checkErr(t, next.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
				found, err := ctx.HeartbeatDetails(new(int))
				if !found {
					t.Error("it begins anew")
				}
				return err
			}), nil)
		})
	}
}

// Given an owner that is cut off until another has taken over, then it is lost: its activity ends,
// its Save and its open transaction are refused, and the other continues.
func TestOwner_Loses(t *testing.T) {
	server := pgserver.Start(t)
	proxy, err := server.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	direct, cut := openDB(t, "pgx", server.DSN()), openDB(t, "pgx", proxy.DSN())
	opts := sqlstore.Options{Lease: 500 * time.Millisecond}
	first := open(t, cut, opts)
	rt, rows := newRuntime(t, first), newRows(t, direct)
	opened := make(chan *sqlstore.Store, 1)
	result := make(chan error, 1)
	go func() {
		result <- rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			return sqlstore.Range(ctx, cut, 0, 10, func(tx *sql.Tx, i int) error {
				if i < 5 {
					return rows.insert(ctx, tx, i)
				}
				// A transaction of another session than the one that is cut off.
				other, err := direct.BeginTx(context.WithoutCancel(ctx), nil)
				checkErr(t, err, nil)
				checkErr(t, rows.insert(context.WithoutCancel(ctx), other, 100), nil)
				proxy.Cut()
				opts := opts
				opts.Wait, opts.Logger = sqlstore.Forever, quiet
				second, err := sqlstore.Open(t.Context(), direct, &opts)
				checkErr(t, err, nil)
				opened <- second
				err = sqlstore.Commit(ctx, other, activity.RangeProgress{Next: 6, To: 10})
				checkErr(t, err, activity.ErrStoreLost)
				proxy.Heal()
				<-first.Lost()
				<-ctx.Done()
				return context.Cause(ctx)
			})
		})
	}()
	second := <-opened
	defer second.Close()
	checkErr(t, <-result, activity.ErrStoreLost)
	checkErr(t, first.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1000)}), activity.ErrStoreLost)
	rows.want(upTo(5)...)

	next := newRuntime(t, second)
	checkErr(t, next.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		return sqlstore.Range(ctx, direct, 0, 10, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
	}), nil)
	rows.want(upTo(10)...)
}

// Given a process that is stopped after it has written its progress in a transaction, and before
// it commits that, then another can take over nevertheless.
func TestOwner_StoppedBeforeCommit(t *testing.T) {
	server := pgserver.Start(t)
	proxy, err := server.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	direct := openDB(t, "pgx", server.DSN())
	hook := &hooks{}
	cut := openHooked(t, proxy.DSN(), hook)
	opts := sqlstore.Options{Lease: 500 * time.Millisecond}
	rt, rows := newRuntime(t, open(t, cut, opts)), newRows(t, direct)
	hook.beforeCommit = func() error { // the COMMIT arrives when the server has given up
		proxy.Cut()
		return nil
	}
	result := make(chan error, 1)
	go func() {
		result <- rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			return sqlstore.Range(ctx, cut, 0, 3, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
		})
	}()
	opts.Wait, opts.Logger = sqlstore.Forever, quiet
	second, err := sqlstore.Open(t.Context(), direct, &opts)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	cp, _, err := second.Load(t.Context(), "a")
	checkErr(t, err, nil)
	proxy.Heal()
	checkErr(t, <-result, activity.ErrStoreLost)
	rows.want()
	if len(cp.Details) > 0 {
		t.Errorf("the progress is %q, and the row is not there", cp.Details)
	}
}

// Given a pooler that shares sessions among transactions, then Open refuses.
func TestOpen_Pooler(t *testing.T) {
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		bin = "/usr/sbin/pgbouncer"
	}
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv(pgserver.RequireEnv) != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	server := postgres(t)
	for mode, fails := range map[string]bool{"transaction": true, "session": false} {
		t.Run(mode, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "bouncer")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Dir(server.Socket())
			config := "[databases]\n* = host=" + socket + " port=5432\n[pgbouncer]\nlisten_addr=\nunix_socket_dir=" + dir +
				"\nlisten_port=6432\nauth_type=any\npool_mode=" + mode + "\nignore_startup_parameters=extra_float_digits\n"
			config = strings.Replace(config, "* = host="+socket+" port=5432", "postgres = host="+socket+" port=5432 user=postgres dbname=postgres", 1)
			file := filepath.Join(dir, "pgbouncer.ini")
			if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
				t.Fatal(err)
			}
			args := []string{file}
			if os.Geteuid() == 0 {
				args = append([]string{"-u", "postgres"}, args...)
			}
			cmd := exec.Command(bin, args...)
			var log bytes.Buffer
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
			db := openDB(t, "pgx", "host="+dir+" port=6432 user=postgres dbname=postgres sslmode=disable default_query_exec_mode=simple_protocol")
			for db.Ping() != nil {
				if cmd.ProcessState != nil || t.Context().Err() != nil {
					t.Fatal(log.String())
				}
				time.Sleep(10 * time.Millisecond)
			}
			if fails {
				refused(t, db, sqlstore.Options{Table: newTable()}, "PgBouncer")
			} else {
				open(t, db, sqlstore.Options{Table: newTable()})
			}
		})
	}
}
