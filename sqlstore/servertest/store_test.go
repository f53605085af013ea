package servertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/pgserver"
	"github.com/seed-9da638b0/activity/sqlstore"
)

var errLink = errors.New("the connection is lost")

// Given a COMMIT that fails, before or after it has happened, then Commit finds out, and each row
// is there once.
func TestCommit_UnknownOutcome(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprint("after ", after), func(t *testing.T) {
			hook := &hooks{}
			db := openHooked(t, postgres(t).DSN(), hook)
			direct := openDB(t, "pgx", postgres(t).DSN())
			rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{Table: newTable()})), newRows(t, direct)
			n := 0
			fail := func() error {
				if n++; n%2 == 0 {
					return errLink
				}
				return nil
			}
			if after {
				hook.afterCommit = fail
			} else {
				hook.beforeCommit = fail
			}
			attempts := 0
			checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
				attempts++
				return sqlstore.Range(ctx, db, 0, 10, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
			}), nil)
			rows.want(upTo(10)...)
			if want := map[bool]int{false: 10, true: 1}[after]; attempts != want {
				t.Errorf("%d attempts, want %d: Commit knows what has happened", attempts, want)
			}
		})
	}
}

// Given a server that crashes around each COMMIT, so that Commit cannot ask it at once, then each
// row is there once.
func TestCommit_ServerCrashes(t *testing.T) {
	server := pgserver.Start(t)
	hook := &hooks{}
	db, direct := openHooked(t, server.DSN(), hook), openDB(t, "pgx", server.DSN())
	rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{})), newRows(t, direct)
	n := 0
	crash := func(rest int) func() error {
		return func() error {
			if n++; n%4 != rest {
				return nil
			}
			result := make(chan error, 1)
			go func() { result <- server.Crash() }()
			for direct.Ping() == nil && len(result) == 0 {
			}
			t.Cleanup(func() { checkErr(t, <-result, nil) })
			return errLink
		}
	}
	hook.beforeCommit, hook.afterCommit = crash(1), crash(3)
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		return sqlstore.Range(ctx, db, 0, 10, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
	}), nil)
	rows.want(upTo(10)...)
}

// Given checkpoints that are locked by a transaction, then a Save ends with its context, and a
// later one works, on the same connection.
func TestSave_EndsWithItsContext(t *testing.T) {
	db, table := openDB(t, "pgx", postgres(t).DSN()), newTable()
	s := open(t, db, sqlstore.Options{Table: table, Owner: t.Name()})
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	session := func() (pid int) {
		checkErr(t, db.QueryRow("SELECT pid FROM pg_stat_activity WHERE application_name = $1", "activity sqlstore "+t.Name()).Scan(&pid), nil)
		return pid
	}
	before := session()
	tx, err := db.Begin()
	checkErr(t, err, nil)
	defer tx.Rollback()
	if _, err := tx.Exec("SELECT 1 FROM " + table + " FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(100*time.Millisecond, func() { cancel(errBoom) })
	checkErr(t, s.Save(ctx, []activity.Checkpoint{checkpoint("a", 2)}), errBoom)
	// A deadline, while the Save before may still be on its way to its end.
	ctx2, cancel2 := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel2()
	checkErr(t, s.Save(ctx2, []activity.Checkpoint{checkpoint("a", 3)}), context.DeadlineExceeded)
	checkErr(t, tx.Rollback(), nil)
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 4)}), nil)
	if cp, _, err := s.Load(t.Context(), "a"); cp.Sequence != 4 || err != nil {
		t.Errorf("sequence %d (%v)", cp.Sequence, err)
	}
	if after := session(); after != before {
		t.Errorf("session %d became %d", before, after)
	}
}

// Given a newer checkpoint in the table, then an older Save leaves it, and a Commit is refused.
func TestSave_KeepsNewest(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		s := open(t, db, sqlstore.Options{Table: table})
		if !s.KeepsNewest() {
			t.Error("it says that it does not")
		}
		checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 5), checkpoint("b", 5)}), nil)
		older, newer := checkpoint("a", 4), checkpoint("b", 6)
		older.Name, newer.Name = "older", "newer"
		checkErr(t, s.Save(t.Context(), []activity.Checkpoint{older, newer}), nil)
		for id, name := range map[string]string{"a": "job", "b": "newer"} {
			if cp, _, err := s.Load(t.Context(), id); cp.Name != name || err != nil {
				t.Errorf("%s is %q (%v), want %q", id, cp.Name, err, name)
			}
		}
		rt, rows := newRuntime(t, s), newRows(t, db)
		opts := fast("c")
		opts.RetryPolicy.MaximumAttempts = 1
		for _, change := range []string{"UPDATE " + table + " SET sequence = '99999999999999999999'", "DELETE FROM " + table} {
			err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
				if _, err := db.ExecContext(ctx, change); err != nil {
					return err
				}
				return sqlstore.Range(ctx, db, 0, 1, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
			})
			if err == nil {
				t.Errorf("after %s, Commit has succeeded", change)
			}
			checkErr(t, rt.Forget(t.Context(), "c"), nil)
		}
		rows.want()
	})
}

// Given many starts at once, then they do not need a connection each.
func TestStore_ManyStartsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db := connect()
		db.SetMaxIdleConns(1000) // those that are opened stay
		rt := newRuntime(t, open(t, db, sqlstore.Options{Table: newTable()}))
		var all sync.WaitGroup
		for i := range 200 {
			all.Go(func() {
				checkErr(t, rt.Run(t.Context(), fast(fmt.Sprint(i)), func(ctx activity.Context) error { return nil }), nil)
			})
		}
		all.Wait()
		if n := db.Stats().OpenConnections; n > 4 {
			t.Errorf("%d connections", n)
		}
	})
}

// Given a transaction that has locked a row, then Load has the row as it was.
func TestLoad_DoesNotWait(t *testing.T) {
	db, table := openDB(t, "pgx", postgres(t).DSN()), newTable()
	s := open(t, db, sqlstore.Options{Table: table})
	checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1)}), nil)
	tx, err := db.Begin()
	checkErr(t, err, nil)
	defer tx.Rollback()
	if _, err := tx.Exec("UPDATE " + table + " SET sequence = '00000000000000000007'"); err != nil {
		t.Fatal(err)
	}
	if cp, _, err := s.Load(t.Context(), "a"); cp.Sequence != 1 || err != nil {
		t.Errorf("sequence %d (%v)", cp.Sequence, err)
	}
}

// Given a connection that is cut off during COMMIT, then Commit waits until the server has ended the
// transaction, and knows that it was rolled back.
func TestCommit_CutOff(t *testing.T) {
	server := pgserver.Start(t)
	proxy, err := server.Proxy()
	if err != nil {
		t.Fatal(err)
	}
	hook := &hooks{}
	direct, cut := openDB(t, "pgx", server.DSN()), openHooked(t, proxy.DSN(), hook)
	rt, rows := newRuntime(t, open(t, direct, sqlstore.Options{Lease: 300 * time.Millisecond})), newRows(t, direct)
	n := 0
	hook.beforeCommit = func() error {
		if n++; n == 2 {
			proxy.Cut()
		}
		return nil
	}
	attempts := 0
	checkErr(t, rt.Run(t.Context(), fast("a"), func(ctx activity.Context) error {
		if attempts++; attempts == 2 {
			proxy.Heal()
		}
		err := sqlstore.Range(ctx, cut, 0, 4, func(tx *sql.Tx, i int) error { return rows.insert(ctx, tx, i) })
		if attempts == 1 && (err == nil || !strings.Contains(err.Error(), "it was rolled back")) {
			t.Error(err)
		}
		return err
	}), nil)
	rows.want(upTo(4)...)
}

// A batch of 1,000 is one statement.
func TestSave_OneRoundTrip(t *testing.T) {
	db, table := openDB(t, "pgx", postgres(t).DSN()), newTable()
	s := open(t, db, sqlstore.Options{Table: table})
	var batch []activity.Checkpoint
	var ids []string
	for i := range 1000 {
		batch = append(batch, checkpoint(fmt.Sprint(i), 1))
		ids = append(ids, fmt.Sprint(i))
	}
	checkErr(t, s.Save(t.Context(), batch), nil)
	var transactions, rows int
	checkErr(t, db.QueryRow("SELECT count(DISTINCT xmin::text), count(*) FROM "+table).Scan(&transactions, &rows), nil)
	if transactions != 1 || rows != 1000 {
		t.Errorf("%d rows in %d transactions", rows, transactions)
	}
	checkErr(t, s.Delete(t.Context(), ids), nil)
	checkErr(t, db.QueryRow("SELECT count(*) FROM "+table).Scan(&rows), nil)
	if rows != 0 {
		t.Errorf("%d rows are left", rows)
	}
}

// Given an owner, then MayHold knows which IDs are stored, also those of the owner before. A Store
// that only reads does not.
func TestMayHold(t *testing.T) {
	each(t, func(t *testing.T, connect func() *sql.DB) {
		db, table := connect(), newTable()
		s := open(t, db, sqlstore.Options{Table: table})
		want := func(s *sqlstore.Store, want ...bool) {
			t.Helper()
			for i, id := range []string{"a", "b\xff", "c"} {
				if got := s.MayHold(id); got != want[i] {
					t.Errorf("MayHold(%q) = %t, want %t", id, got, want[i])
				}
			}
		}
		want(s, false, false, false)
		checkErr(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", 1), checkpoint("b\xff", 1)}), nil)
		want(s, true, true, false)
		checkErr(t, s.Delete(t.Context(), []string{"a", "c"}), nil)
		want(s, false, true, false)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		checkErr(t, s.Delete(ended, []string{"b\xff"}), context.Canceled)
		want(s, false, true, false)
		want(open(t, db, sqlstore.Options{Table: table, ReadOnly: true}), true, true, true)
		want(open(t, db, sqlstore.Options{Table: table, Owner: "other"}), false, false, false)
		checkErr(t, s.Close(), nil)
		s = open(t, db, sqlstore.Options{Table: table})
		want(s, false, true, false)
		if _, err := db.Exec("DROP TABLE " + table); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), []string{"b\xff"}); err == nil {
			t.Error("Delete returns nil without a table")
		}
		want(s, false, true, false)
	})
}
