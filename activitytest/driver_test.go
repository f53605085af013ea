package activitytest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// A memory is a database with one table, in memory. A statement is a row to insert. Each Query returns all rows. A
// transaction locks it. Its driver has nothing but what a driver must have.
type memory struct {
	mu     sync.Mutex
	rows   []string
	locked *memoryConn
	open   int // connections
}

var errLocked = errors.New("locked")

func (m *memory) Open(string) (driver.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return &memoryConn{m: m}, nil
}

type memoryConn struct {
	m       *memory
	pending []string
}

func (c *memoryConn) Prepare(query string) (driver.Stmt, error) { return &memoryStmt{c, query}, nil }

func (c *memoryConn) Close() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.open--
	return nil
}

func (c *memoryConn) Begin() (driver.Tx, error) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	if c.m.locked != nil {
		return nil, errLocked
	}
	c.m.locked, c.pending = c, nil
	return c, nil
}

func (c *memoryConn) Commit() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.rows = append(c.m.rows, c.pending...)
	c.m.locked = nil
	return nil
}

func (c *memoryConn) Rollback() error {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.locked = nil
	return nil
}

type memoryStmt struct {
	c     *memoryConn
	query string
}

func (s *memoryStmt) Close() error  { return nil }
func (s *memoryStmt) NumInput() int { return -1 }

func (s *memoryStmt) Exec(args []driver.Value) (driver.Result, error) {
	m := s.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	row := s.query + strings.Trim(fmt.Sprint(args), "[]")
	switch m.locked {
	case s.c:
		s.c.pending = append(s.c.pending, row)
	case nil:
		m.rows = append(m.rows, row)
	default:
		return nil, errLocked
	}
	return driver.RowsAffected(1), nil
}

func (s *memoryStmt) Query([]driver.Value) (driver.Rows, error) {
	return &memoryRows{append([]string(nil), s.c.m.rows...)}, nil
}

type memoryRows struct{ rest []string }

func (r *memoryRows) Columns() []string { return []string{"row"} }
func (r *memoryRows) Close() error      { return nil }

func (r *memoryRows) Next(dest []driver.Value) error {
	if len(r.rest) == 0 {
		return io.EOF
	}
	dest[0], r.rest = r.rest[0], r.rest[1:]
	return nil
}

func read(db *sql.DB) (rows []string, err error) {
	r, err := db.Query("")
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for r.Next() {
		var row string
		if err := r.Scan(&row); err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, r.Err()
}

// Given a driver without any optional method, then all that database/sql does works without an activity.
func TestDriver_LikeTheRealOne(t *testing.T) {
	var w activitytest.World
	m := &memory{}
	db := w.Driver(m).DB("")
	ctx := t.Context()
	if err := db.PingContext(ctx); err != nil {
		t.Error(err)
	}
	if _, err := db.ExecContext(ctx, "a", 1, time.Unix(0, 0).UTC()); err != nil {
		t.Error(err)
	}
	if _, err := db.Exec("b", sql.Named("name", 1)); err == nil || !strings.Contains(err.Error(), "Named Parameters") {
		t.Errorf("a named value: %v", err)
	}
	if _, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a read-only transaction: %v", err)
	}
	for _, commit := range []bool{false, true} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec("c"); err != nil {
			t.Error(err)
		}
		end := tx.Rollback
		if commit {
			end = tx.Commit
		}
		if err := end(); err != nil {
			t.Error(err)
		}
	}
	got, err := read(db)
	if diff := cmp.Diff([]string{"a1 1970-01-01 00:00:00 +0000 UTC", "c"}, got); diff != "" || err != nil {
		t.Errorf("rows (-want +got):\n%s, error %v", diff, err)
	}
	if err := db.Close(); err != nil || m.open != 0 {
		t.Errorf("%v, %d connections are open", err, m.open)
	}
}

// Given a process that crashes in a transaction, then the transaction is rolled back and its lock is free
// when the next life begins, and nothing of the dead process is executed after that.
func TestDriver_Crash(t *testing.T) {
	plan := activitytest.Plan{Kinds: activitytest.Crash | activitytest.Twice}
	_, got := runs(t, plan, func(t *testing.T, w *activitytest.World, l *log) {
		m := &memory{}
		life := 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			life++
			life := life
			if m.locked != nil || m.open != 0 {
				t.Errorf("life %d begins with a lock, or with %d connections", life, m.open)
			}
			db := w.Driver(m).DB("")
			defer db.Close()
			return rt.Run(ctx, job, func(ctx activity.Context) error {
				tx, err := db.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer tx.Rollback()
				for i := range 2 {
					if _, err := tx.ExecContext(ctx, fmt.Sprintf("life %d row ", life), i); err != nil {
						return err
					}
				}
				return tx.Commit()
			})
		})
		if err != nil {
			t.Error(err)
		}
		l.add(fmt.Sprint(len(m.rows)))
		time.Sleep(time.Minute)
		for i := 0; i < len(m.rows); i += 2 { // each committed transaction is whole
			if i+1 == len(m.rows) || m.rows[i][:8] != m.rows[i+1][:8] {
				t.Errorf("rows %q", m.rows)
			}
		}
	})
	for name, want := range map[string]string{
		"crash_before_exec_life_1_row_1": "2", "crash_before_commit_1": "2", "crash_after_commit_1": "4",
	} {
		if diff := cmp.Diff([]string{want}, got[name]); diff != "" {
			t.Errorf("%s: rows (-want +got):\n%s", name, diff)
		}
	}
}

// Given a statement and a Commit that fail because of a Fault, then they fail before they are executed, or
// after that, and the transaction's lock is free.
func TestDriver_Fault(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Fault}, func(t *testing.T, w *activitytest.World, l *log) {
		m := &memory{}
		live(t, w, job, func(ctx activity.Context) error {
			db := w.Driver(m).DB("")
			defer db.Close()
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			_, err = tx.Exec("row") // has no context
			if err == nil {
				err = tx.Commit()
			}
			if err != nil {
				l.add(fmt.Sprintf("%t %d", errors.Is(err, activitytest.ErrFault), len(m.rows)))
			}
			return err
		})
		l.add(fmt.Sprint(len(m.rows)))
	})
	want := map[string][]string{
		"":                        {"1"},
		"fault_before_exec_row_1": {"true 0", "1"},
		"fault_after_exec_row_1":  {"true 0", "1"},
		"fault_before_commit_1":   {"true 0", "1"},
		"fault_after_commit_1":    {"true 1", "2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Given a Commit that stalls, then it is executed late; a statement whose context has ended is not.
func TestDriver_Stall(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		m := &memory{}
		live(t, w, job, func(ctx activity.Context) error {
			db := w.Driver(m).DB("")
			defer db.Close()
			attempt := fmt.Sprintf("attempt %d", ctx.Info().Attempt)
			if attempt == "attempt 1" {
				_, err := db.ExecContext(ctx, "row of "+attempt)
				if err != nil {
					l.add(err.Error())
					return err
				}
				tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
				if err != nil {
					return err
				}
				_, _ = tx.Exec("late")
				l.add(fmt.Sprint(tx.Commit()))
			}
			return ctx.Heartbeat()
		})
		for _, row := range m.rows {
			l.add(row)
		}
	})
	for name, want := range map[string][]string{
		"stall_before_exec_row_of_attempt_1_1": {"context canceled"},
		"stall_before_exec_late_1":             {"<nil>", "row of attempt 1", "late"},
		"stall_before_commit_1":                {"<nil>", "row of attempt 1", "late"},
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A waiter is a memory whose statements wait until their contexts end.
type waiter struct{ *memory }

func (w waiter) Open(name string) (driver.Conn, error) {
	c, err := w.memory.Open(name)
	return &waiterConn{c.(*memoryConn)}, err
}

type waiterConn struct{ *memoryConn }

func (c *waiterConn) ExecContext(ctx context.Context, _ string, _ []driver.NamedValue) (driver.Result, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Given a statement that is being executed, when its process crashes, then the statement is canceled, and the
// connection closed before the next life begins.
func TestDriver_CrashDuringAStatement(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		m, lives := &memory{}, 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if lives++; lives > 1 {
				if m.open != 0 {
					t.Errorf("%d connections are open", m.open)
				}
				return rt.Run(ctx, job, func(ctx activity.Context) error { return nil })
			}
			db := w.Driver(waiter{m}).DB("")
			defer db.Close()
			statement, cancel := context.WithCancel(context.WithoutCancel(ctx))
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			wg.Go(func() { _, _ = db.ExecContext(statement, "wait") })
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Given a goroutine that opens a database again and again, when its process has crashed, then it opens none.
func TestDriver_DeadProcessOpensNothing(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		m, lives := &memory{}, 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			lives++
			if lives == 1 {
				go func() {
					for ctx.Err() == nil {
						time.Sleep(time.Second)
						db := w.Driver(m).DB("")
						_ = db.Ping()
						time.Sleep(time.Second)
						_ = db.Close()
					}
				}()
			}
			before := m.open
			err := rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(5500 * time.Millisecond) })
			if lives == 2 && (before != 0 || m.open != 0) {
				t.Errorf("life 2 begins with %d open connections and ends with %d", before, m.open)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
