package servertest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// Given a statement after whose error SQLite rolls back the whole transaction, and a body that
// ignores that, then Commit records no progress.
func TestCommit_RolledBackBySQLite(t *testing.T) {
	eachSQLite(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
		if _, err := db.Exec("CREATE TABLE u (k int UNIQUE); INSERT INTO u VALUES (1)"); err != nil {
			t.Fatal(err)
		}
		ignores := true
		checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			err := sqlstore.Range(ctx, db, 0, 5, func(tx *sql.Tx, i int) error {
				if err := rows.insert(ctx, tx, i); err != nil {
					return err
				}
				if i == 2 && ignores {
					_, _ = tx.Exec("INSERT OR ROLLBACK INTO u VALUES (1)")
				}
				return nil
			})
			if ignores && (err == nil || !strings.Contains(err.Error(), "SQLite has rolled the transaction back")) {
				t.Error(err)
			}
			ignores = false
			return err
		}), nil)
		rows.want(upTo(5)...)
	})
}

// Given rows that somebody has changed, then the owner's Save and Delete do not pass over them.
func TestSave_OfForeignRows(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		s := open(t, db, sqlstore.Options{Table: table})
		checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1), checkpoint("b", 1)}), nil)
		if _, err := db.Exec("UPDATE " + table + " SET epoch = 7"); err != nil {
			t.Fatal(err)
		}
		checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 2)}), nil)
		if cp, _, _ := s.Load(t.Context(), "a"); cp.Sequence != 2 {
			t.Errorf("sequence %d", cp.Sequence)
		}
		checkErr(t, s.Delete(t.Context(), []string{"b"}), nil)
		if _, found, _ := s.Load(t.Context(), "b"); found {
			t.Error("Delete returned nil; it is there")
		}
	})
}

// Given an owner whose epoch is no longer the one in the database, then its Save and Delete are
// refused, and change nothing.
func TestSave_OfAnotherEpoch(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		for _, method := range []string{"Save", "Save of many", "Delete", "Delete of many"} {
			db, table := connect(), newTable()
			s := open(t, db, sqlstore.Options{Table: table})
			checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
			if _, err := db.Exec("UPDATE " + table + "_owners SET epoch = epoch + 1"); err != nil {
				t.Fatal(err)
			}
			var err error
			switch method {
			case "Save":
				err = s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 2)})
			case "Save of many":
				err = s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 2), checkpoint("b", 1)})
			case "Delete":
				err = s.Delete(t.Context(), []string{"a"})
			case "Delete of many":
				err = s.Delete(t.Context(), []string{"a", "c"})
			}
			checkErr(t, err, activity.ErrStoreLost)
			<-s.Lost()
			reader := open(t, db, sqlstore.Options{Table: table, ReadOnly: true})
			if cp, _, err := reader.Load(t.Context(), "a"); cp.Sequence != 1 || err != nil {
				t.Errorf("%s: sequence %d (%v)", method, cp.Sequence, err)
			}
			if _, found, _ := reader.Load(t.Context(), "b"); found {
				t.Errorf("%s: b was inserted", method)
			}
		}
	})
}

// Given a process that was replaced while its transaction was open, then that cannot commit.
func TestCommit_OfAnotherEpoch(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: table})), newRows(t, db)
		checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			for _, statement := range []string{"UPDATE " + table + "_owners SET epoch = epoch + 1", "UPDATE " + table + " SET epoch = epoch + 1"} {
				if _, err := db.Exec(statement); err != nil {
					t.Error(err)
				}
			}
			tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
			checkErr(t, err, nil)
			checkErr(t, rows.insert(context.WithoutCancel(ctx), tx, 1), nil)
			err = sqlstore.Commit(ctx, tx, 1)
			checkErr(t, err, activity.ErrStoreLost)
			return err
		}), activity.ErrStoreLost)
		rows.want()
	})
}

// Given a server that stands still when it gets a COMMIT, and executes it after Commit has given up,
// then each row is there once.
func TestCommit_ServerPaused(t *testing.T) {
	server := pgserver.Start(t)
	hook := &hooks{}
	direct, db := openDB(t, "pgx", server.DSN()), openHooked(t, server.DSN(), hook)
	rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{Lease: 200 * time.Millisecond})), newRows(t, direct)
	n := 0
	hook.beforeCommit = func() error {
		if n++; n == 2 {
			checkErr(t, server.Pause(), nil)
		}
		return nil
	}
	attempts := 0
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		attempts++
		err := sqlstore.Range(ctx, db, 0, 4, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
		if attempts == 1 {
			if err == nil || !strings.Contains(err.Error(), "unknown") {
				t.Error(err)
			}
			go server.Resume()
		}
		return err
	}), nil)
	rows.want(upTo(4)...)
}

// Given an owner that does nothing, then it notices nevertheless that another one has taken over.
func TestOwner_NoticesWhenIdle(t *testing.T) {
	t.Run("PostgreSQL", func(t *testing.T) {
		server := pgserver.Start(t)
		proxy, err := server.Proxy()
		if err != nil {
			t.Fatal(err)
		}
		direct, cut := openDB(t, "pgx", server.DSN()), openDB(t, "pgx", proxy.DSN())
		opts := sqlstore.Options{Lease: 300 * time.Millisecond}
		first := open(t, cut, opts)
		proxy.Cut()
		opts.Wait = sqlstore.Forever
		open(t, direct, opts)
		proxy.Heal()
		<-first.Lost()
	})
	t.Run("SQLite", func(t *testing.T) { // if somebody removes the lock file
		file := filepath.Join(t.TempDir(), "data.db")
		first := open(t, openSQLite(t, file), sqlstore.Options{Lease: 200 * time.Millisecond})
		if err := os.Remove(file + "-activity_checkpoints-default.lock"); err != nil {
			t.Fatal(err)
		}
		open(t, openSQLite(t, file), sqlstore.Options{})
		<-first.Lost()
	})
}

// Given an owner whose connections break, and nobody who stands by, then it is the owner again, and the
// Save that has met that succeeds.
func TestOwner_ConnectionsBreak(t *testing.T) {
	server := pgserver.Start(t)
	proxy, err := server.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, openDB(t, "pgx", proxy.DSN()), sqlstore.Options{})
	proxy.Drop()
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
}

// Given a reader that is cut off while it reads, then another process can take over.
func TestOwner_CutOffDuringLoad(t *testing.T) {
	server := pgserver.Start(t)
	proxy, err := server.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	direct, cut := openDB(t, "pgx", server.DSN()), openDB(t, "pgx", proxy.DSN())
	opts := sqlstore.Options{Lease: 300 * time.Millisecond}
	first := open(t, cut, opts)
	for i := range 8 {
		cp := checkpoint(fmt.Sprint(i), 1)
		cp.Details = make([]byte, 2<<20)
		checkErr(t, first.Save(t.Context(), []activity.Checkpoint{cp}), nil)
	}
	for i := range 80 {
		go first.Load(context.Background(), fmt.Sprint(i%8))
	}
	for writing := 0; writing == 0; { // until a session of the server waits for its client
		proxy.Cut()
		checkErr(t, direct.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'").Scan(&writing), nil)
		if writing == 0 {
			proxy.Heal()
			go first.Load(context.Background(), "1")
		}
	}
	opts.Wait = sqlstore.Forever
	second := open(t, direct, opts)
	checkErr(t, second.Save(t.Context(), []activity.Checkpoint{checkpoint("1", 2)}), nil)
	proxy.Heal()
}

// A login may act as another role.
func TestOpen_SetRole(t *testing.T) {
	dsn := pgserver.Start(t).DSN()
	db := openDB(t, "pgx", dsn)
	for _, s := range []string{"CREATE ROLE app", "CREATE ROLE login LOGIN IN ROLE app", "GRANT CREATE ON SCHEMA public TO app", "ALTER ROLE login SET role = 'app'"} {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, openDB(t, "pgx", strings.Replace(dsn, "user=postgres", "user=login", 1)), sqlstore.Options{Owner: t.Name()})
	terminate(t, db, t.Name())
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
}

// Given tables that were dropped and made again, then the owner of the old ones is none of the new ones.
func TestOpen_TablesMadeAgain(t *testing.T) {
	db, table := openDB(t, "pgx", postgres(t).DSN()), newTable()
	before := open(t, db, sqlstore.Options{Table: table})
	if _, err := db.Exec(fmt.Sprintf("DROP TABLE %[1]s, %[1]s_owners, %[1]s_version", table)); err != nil {
		t.Fatal(err)
	}
	after := open(t, db, sqlstore.Options{Table: table})
	checkErr(t, before.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), activity.ErrStoreLost)
	checkErr(t, after.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
}

// Given a transaction whose snapshot is out of date, then Commit fails at once, and the next attempt
// succeeds.
func TestCommit_BusySnapshot(t *testing.T) {
	eachSQLite(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		s := open(t, db, sqlstore.Options{Table: newTable()})
		rt := newRuntime(t, s)
		attempts := 0
		checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			attempts++
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			n := 0
			checkErr(t, tx.QueryRow("SELECT count(*) FROM sqlite_master").Scan(&n), nil)
			if attempts == 1 {
				checkErr(t, s.Save(ctx, []activity.Checkpoint{checkpoint("b", 1)}), nil)
			}
			err = sqlstore.Commit(ctx, tx, 1)
			if failed := err != nil; failed != (attempts == 1) || failed && !strings.Contains(err.Error(), "database is locked") {
				t.Error(err)
			}
			return err
		}), nil)
	})
}

// Range begins as a writer, so that a body that reads first can write.
func TestRange_ReadsFirst(t *testing.T) {
	eachSQLite(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		s := open(t, db, sqlstore.Options{Table: newTable()})
		rt, rows := newRuntime(t, s), newRows(t, db)
		opts := fast("a")
		opts.RetryPolicy.MaximumAttempts = 1
		checkErr(t, rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			return sqlstore.Range(ctx, db, 0, 5, func(tx *sql.Tx, i int) error {
				n := 0
				if err := tx.QueryRow("SELECT count(*) FROM " + rows.name).Scan(&n); err != nil {
					return err
				}
				saved := make(chan error, 1)
				go func() {
					saved <- s.Save(context.WithoutCancel(ctx), []activity.Checkpoint{checkpoint("b", uint64(i+1))})
				}()
				select {
				case <-saved: // only if the transaction is no writer yet
				case <-time.After(50 * time.Millisecond):
				}
				return rows.insert(ctx, tx, i)
			})
		}), nil)
		rows.want(upTo(5)...)
	})
}

// Given a server that does not answer, then a Save returns when its context ends.
func TestSave_ServerPaused(t *testing.T) {
	server := pgserver.Start(t)
	s := open(t, openDB(t, "pgx", server.DSN()), sqlstore.Options{Lease: 500 * time.Millisecond})
	checkErr(t, server.Pause(), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	checkErr(t, s.Save(ctx, []activity.Checkpoint{checkpoint("a", 1)}), context.DeadlineExceeded)
	checkErr(t, server.Resume(), nil)
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 2)}), nil)
}

// Given a Save that waits for a transaction of the user's, then Close ends it.
func TestClose_WhileLocked(t *testing.T) {
	eachSQLite(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rows, s := newRows(t, db), open(t, db, sqlstore.Options{Table: newTable()})
		tx, err := db.Begin()
		checkErr(t, err, nil)
		defer tx.Rollback()
		checkErr(t, rows.insert(t.Context(), tx, 1), nil)
		saved := make(chan error, 1)
		go func() { saved <- s.Save(context.Background(), []activity.Checkpoint{checkpoint("a", 1)}) }()
		checkErr(t, s.Close(), nil)
		if err := <-saved; err == nil {
			t.Error("Save returned nil")
		}
		checkErr(t, s.Close(), nil)
	})
}

// Given a Store that is closed, then Commit is refused.
func TestCommit_Closed(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		s := open(t, db, sqlstore.Options{Table: newTable()})
		rt, rows := activity.New(activity.Config{Store: s, Logger: quiet}), newRows(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		err := rt.Run(ctx, fast("a"), func(ctx activity.Context) error {
			return sqlstore.Range(ctx, db, 0, 3, func(tx *sql.Tx, i int) error {
				if i == 1 {
					checkErr(t, s.Close(), nil)
					cancel()
				}
				return rows.insert(context.WithoutCancel(ctx), tx, i)
			})
		})
		if err == nil {
			t.Error("Run returned nil")
		}
		rows.want(0)
	})
}

// Given an owner whose name looks like a part of SQLite's own files, then its lock is kept.
func TestOpen_LockFileNames(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	for _, suffix := range []string{"-wal", "-journal"} {
		open(t, openSQLite(t, file), sqlstore.Options{Owner: "x" + suffix})
		checkErr(t, open(t, openSQLite(t, file), sqlstore.Options{Owner: "x"}).Close(), nil)
		refused(t, openSQLite(t, file), sqlstore.Options{Owner: "x" + suffix}, "in use")
	}
}

// Given a COMMIT whose answer is lost, and another process that has taken over and written since,
// then Commit does not claim that it was rolled back.
func TestCommit_UnknownAfterTakeover(t *testing.T) {
	hook := &hooks{}
	dsn := postgres(t).DSN()
	table := newTable()
	direct, db := openDB(t, "pgx", dsn), openHooked(t, dsn, hook)
	rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{Table: table})), newRows(t, direct)
	hook.afterCommit = func() error { // as a process that takes over does
		if _, err := direct.Exec("UPDATE " + table + "_owners SET epoch = epoch + 1"); err != nil {
			t.Error(err)
		}
		if _, err := direct.Exec("UPDATE " + table + " SET epoch = epoch + 1, sequence = '00000000000000000099'"); err != nil {
			t.Error(err)
		}
		return errLink
	}
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
		checkErr(t, err, nil)
		checkErr(t, rows.insert(ctx, tx, 1), nil)
		err = sqlstore.Commit(ctx, tx, 1)
		checkErr(t, err, activity.ErrStoreLost)
		if err == nil || !strings.Contains(err.Error(), "unknown") {
			t.Error(err)
		}
		return err
	}), activity.ErrStoreLost)
}
