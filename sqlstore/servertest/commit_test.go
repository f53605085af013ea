package servertest

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
)

var errBoom = errors.New("boom")

// A table is one of the user's, with a column of numbers.
type table struct {
	t    testing.TB
	db   *sql.DB
	name string
}

func newRows(t testing.TB, db *sql.DB) *table {
	t.Helper()
	r := &table{t, db, newTable() + "_rows"}
	if _, err := db.Exec("CREATE TABLE " + r.name + " (n bigint NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	return r
}

// insert inserts n in tx.
func (r *table) insert(ctx context.Context, tx *sql.Tx, n int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO "+r.name+" (n) VALUES ($1)", n)
	return err
}

// all returns the numbers in the table.
func (r *table) all() (all []int) {
	r.t.Helper()
	rows, err := r.db.Query("SELECT n FROM " + r.name + " ORDER BY n")
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		n := 0
		if err := rows.Scan(&n); err != nil {
			r.t.Fatal(err)
		}
		all = append(all, n)
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
	return all
}

func (r *table) want(want ...int) {
	r.t.Helper()
	if got := r.all(); !slices.Equal(got, want) {
		r.t.Errorf("the table has %d, want %d", got, want)
	}
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func checkErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("got %v, want %v", err, want)
	}
}

// runtime returns a Runtime on s, which is shut down at the end of the test.
func newRuntime(t testing.TB, s activity.Store) *activity.Runtime {
	rt := activity.New(activity.Config{Store: s, Logger: quiet, SaveInterval: 10 * time.Millisecond})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := rt.Shutdown(ctx); err != nil && !errors.Is(err, activity.ErrStoreLost) {
			t.Error(err)
		}
	})
	return rt
}

func fast(id string) activity.Options {
	return activity.Options{ID: id, Name: "job", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 100}}
}

// Given bodies that fail before and after their row, then each row is there once.
func TestRange_EachBodyOnce(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
		failed := map[int]int{}
		err := rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			return sqlstore.Range(ctx, db, 0, 20, func(tx *sql.Tx, i int) error {
				if failed[i]++; failed[i] == 1 && i%3 == 1 {
					return errBoom
				}
				if err := rows.insert(ctx, tx, i); err != nil {
					return err
				}
				switch {
				case failed[i] == 1 && i%3 == 2:
					return errBoom
				case failed[i] == 2 && i%3 == 1:
					panic(errBoom)
				}
				return nil
			})
		})
		checkErr(t, err, nil)
		rows.want(upTo(20)...)
	})
}

// Given steps of a function's own, then each Commit keeps the step with its details.
func TestCommit_WithDetails(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		table := newTable()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: table})), newRows(t, db)
		attempts := 0
		err := rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			attempts++
			n, err := activity.Resume(ctx, 0)
			for ; err == nil && n < 10; n++ {
				var tx *sql.Tx
				if tx, err = db.BeginTx(ctx, nil); err != nil {
					return err
				}
				defer tx.Rollback()
				if err = rows.insert(ctx, tx, n); err != nil {
					return err
				}
				if err = sqlstore.Commit(ctx, tx, n+1); err == nil && n == 5 && attempts == 1 {
					return errBoom
				}
			}
			return err
		})
		checkErr(t, err, nil)
		rows.want(upTo(10)...)
		if attempts != 2 {
			t.Errorf("%d attempts", attempts)
		}
		left := 0
		if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&left); err != nil || left != 0 {
			t.Errorf("%d checkpoints are left (%v)", left, err)
		}
	})
}

// Given a Commit that may not happen, then the transaction is rolled back.
func TestCommit_RollsBack(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
		begin := func(ctx context.Context) *sql.Tx {
			tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
			checkErr(t, err, nil)
			checkErr(t, rows.insert(context.WithoutCancel(ctx), tx, 1), nil)
			return tx
		}
		ended := func(what string, tx *sql.Tx) {
			t.Helper()
			if err := tx.Rollback(); !errors.Is(err, sql.ErrTxDone) {
				t.Errorf("%s: the transaction is still open (%v)", what, err)
			}
		}
		_ = rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
			tx := begin(ctx)
			err := sqlstore.Commit(ctx, tx, func() {})
			if err == nil || !strings.Contains(err.Error(), "nothing was committed") {
				t.Errorf("bad details: %v", err)
			}
			ended("bad details", tx)
			if err := sqlstore.Commit(ctx, nil, 1); err == nil || !strings.Contains(err.Error(), "nil") {
				t.Errorf("nil: %v", err)
			}
			checkErr(t, rt.Cancel("a", errBoom), nil)
			tx = begin(ctx)
			checkErr(t, sqlstore.Commit(ctx, tx, 1), errBoom)
			ended("canceled", tx)
			return nil
		})
		checkErr(t, activity.New(activity.Config{Logger: quiet}).Run(t.Context(), activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, func(ctx activity.Context) error {
			tx := begin(ctx)
			err := sqlstore.Commit(ctx, tx, 1)
			if err == nil || !strings.Contains(err.Error(), "*sqlstore.Store") {
				t.Errorf("another Store: %v", err)
			}
			ended("another Store", tx)
			return nil
		}), nil)
		rows.want()
	})
}

// Given a transaction that the function has committed itself, then Commit returns an error.
func TestCommit_TransactionEnded(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()}))
		opts := fast("a")
		opts.RetryPolicy.MaximumAttempts = 1
		checkErr(t, rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			return sqlstore.Range(ctx, db, 0, 3, func(tx *sql.Tx, i int) error { return tx.Commit() })
		}), sql.ErrTxDone)
	})
}

// Given a timeout during the body, then its transaction ends with the attempt, and the next one
// does the step.
func TestRange_TimesOut(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		rt, rows := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()})), newRows(t, db)
		opts := fast("a")
		opts.StartToCloseTimeout = 500 * time.Millisecond
		attempts := 0
		err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			attempts++
			first := attempts == 1
			return sqlstore.Range(ctx, db, 0, 5, func(tx *sql.Tx, i int) error {
				if err := rows.insert(ctx, tx, i); err != nil {
					return err
				}
				if first && i == 3 {
					<-ctx.Done()
				}
				return nil
			})
		})
		checkErr(t, err, nil)
		rows.want(upTo(5)...)
	})
}

// Given another database, or one without the tables, then Range says so.
func TestRange_AnotherDatabase(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		table := newTable()
		rt := newRuntime(t, open(t, connect(), sqlstore.Options{Table: table}))
		file := filepath.Join(t.TempDir(), "other.db")
		other := openSQLite(t, file)
		if !strings.Contains(t.Name(), "SQLite") {
			other = openDB(t, "pgx", pgserver.Start(t).DSN())
		}
		opts := fast("a")
		opts.RetryPolicy.MaximumAttempts = 1
		try := func() error {
			return rt.Run(t.Context(), opts, func(ctx activity.Context) error {
				return sqlstore.Range(ctx, other, 0, 1, func(*sql.Tx, int) error { return nil })
			})
		}
		if err := try(); err == nil || !strings.Contains(err.Error(), "*sql.DB of Range") {
			t.Errorf("without tables: %v", err)
		}
		for range 2 { // its epoch differs
			checkErr(t, open(t, other, sqlstore.Options{Table: table}).Close(), nil)
		}
		if err := try(); err == nil || !strings.Contains(err.Error(), "not the database of the Store") {
			t.Errorf("another epoch: %v", err)
		}
	})
}

// Given a schema that needs quotes and is on the search_path only when the Store is opened, then
// transactions with another search_path record their progress in it.
func TestRange_AnotherSearchPath(t *testing.T) {
	dsn := postgres(t).DSN()
	plain := openDB(t, "pgx", dsn)
	table := newTable()
	for _, statement := range []string{`CREATE SCHEMA "Odd one"`, "CREATE SCHEMA tenant"} {
		if _, err := plain.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	db := openDB(t, "pgx", dsn+` search_path='"Odd one"'`)
	s := open(t, db, sqlstore.Options{Table: table})
	rt, rows := newRuntime(t, s), newRows(t, plain)
	decoy := open(t, plain, sqlstore.Options{Table: table}) // in the schema public
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		return sqlstore.Range(ctx, plain, 0, 5, func(tx *sql.Tx, i int) error {
			if i == 2 {
				if _, err := tx.Exec("SET LOCAL search_path = tenant, public"); err != nil {
					return err
				}
			}
			if cp, found, err := s.Load(ctx, "a"); !found || err != nil || i > 0 && len(cp.Details) == 0 {
				t.Errorf("body %d finds %+v (%v)", i, cp, err)
			}
			return rows.insert(ctx, tx, i)
		})
	}), nil)
	rows.want(upTo(5)...)
	if _, found, err := decoy.Load(t.Context(), "a"); found || err != nil {
		t.Errorf("found in another schema (%v)", err)
	}
}

// Given a COMMIT on SQLite that takes long, because a disk is slow, then Commit waits for it.
func TestCommit_SlowDisk(t *testing.T) {
	hook := &hooks{beforeCommit: func() error {
		time.Sleep(time.Second)
		return nil
	}}
	file := filepath.Join(t.TempDir(), "data.db")
	direct := openSQLite(t, file)
	db := sql.OpenDB(connector{hookedSQLite{direct.Driver(), hook}, "file:" + file + "?_pragma=busy_timeout(10000)"})
	defer db.Close()
	rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{Lease: 100 * time.Millisecond})), newRows(t, direct)
	attempts := 0
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		attempts++
		return sqlstore.Range(ctx, db, 0, 2, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
	}), nil)
	rows.want(0, 1)
	if attempts != 1 {
		t.Errorf("%d attempts", attempts)
	}
}
