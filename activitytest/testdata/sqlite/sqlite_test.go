// Package sqlite_test continues package zoo_test with activities that write to a real SQLite.
package sqlite_test

import (
	"context"
	"database/sql"
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

const people = "ada,36\nbarbara,84\nchien-shiung,84\n"

var options = activity.Options{ID: "import", HeartbeatTimeout: 10 * time.Second}

// An opener opens the database for one life of the program.
type opener func(w *activitytest.World, path string) *sql.DB

func wrapped(w *activitytest.World, path string) *sql.DB { return w.Driver(&sqlite.Driver{}).DB(path) }

func plain(_ *activitytest.World, path string) *sql.DB {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		panic(err)
	}
	return db
}

// imports runs an import of a CSV file, with every interruption. Then the database must have each row once.
func imports(t *testing.T, plan activitytest.Plan, open opener, schema string, rows func(ctx activity.Context, db *sql.DB, rows [][]string) error) {
	t.Helper()
	plan.MaxRuns = 400 // each run waits for the disk
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		path := filepath.Join(t.TempDir(), "people.db")
		csvRows, err := csv.NewReader(strings.NewReader(people)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		create(t, path, schema)
		err = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			db := open(w, path)
			defer db.Close()
			return rt.Run(ctx, options, func(ctx activity.Context) error { return rows(ctx, db, csvRows) })
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := names(t, path), []string{"ada", "barbara", "chien-shiung"}; !slices.Equal(got, want) {
			t.Errorf("imported %q, want %q", got, want)
		}
	})
}

func create(t *testing.T, path, schema string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(schema); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, path string) (names []string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT name FROM people ORDER BY name")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

const (
	table = "CREATE TABLE people (name TEXT, age INTEGER)"
	keyed = "CREATE TABLE people (name TEXT PRIMARY KEY, age INTEGER)"
)

// Bug: a row is inserted again if the process is interrupted before the heartbeat.

func TestCSV_Wrong(t *testing.T) { eachRow(t, table, "INSERT INTO people VALUES (?, ?)") }
func TestCSV_Right(t *testing.T) { eachRow(t, keyed, "INSERT OR REPLACE INTO people VALUES (?, ?)") }

func eachRow(t *testing.T, schema, insert string) {
	imports(t, activitytest.Plan{}, wrapped, schema, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			_, err := db.ExecContext(ctx, insert, rows[i][0], rows[i][1])
			return err
		})
	})
}

// Bug: the rows of a batch are recorded before their transaction commits.

func TestRecordedBeforeCommit_Wrong(t *testing.T) { batches(t, true) }
func TestRecordedBeforeCommit_Right(t *testing.T) { batches(t, false) }

func batches(t *testing.T, wrong bool) {
	imports(t, activitytest.Plan{}, wrapped, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		next, err := activity.Resume(ctx, 0)
		for err == nil && next < len(rows) {
			to := min(next+2, len(rows))
			err = transact(ctx, db, func(tx *sql.Tx) error {
				for _, row := range rows[next:to] {
					if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)", row[0], row[1]); err != nil {
						return err
					}
				}
				if wrong {
					return ctx.Heartbeat(to)
				}
				return nil
			})
			if next = to; err == nil && !wrong {
				err = ctx.Heartbeat(to)
			}
		}
		return err
	})
}

func transact(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Bug: the progress is in the database beside the rows, but not in their transaction.

func TestProgressBeside_Wrong(t *testing.T) { beside(t, true) }
func TestProgressBeside_Right(t *testing.T) { beside(t, false) }

func beside(t *testing.T, wrong bool) {
	schema := table + "; CREATE TABLE progress (next INTEGER); INSERT INTO progress VALUES (0)"
	imports(t, activitytest.Plan{}, wrapped, schema, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		for {
			done := false
			err := activity.Guard(ctx, func() error {
				return transact(ctx, db, func(tx *sql.Tx) error {
					var next int
					if err := tx.QueryRowContext(ctx, "SELECT next FROM progress").Scan(&next); err != nil {
						return err
					}
					if done = next == len(rows); done {
						return nil
					}
					if _, err := tx.ExecContext(ctx, "INSERT INTO people VALUES (?, ?)", rows[next][0], rows[next][1]); err != nil {
						return err
					}
					if wrong {
						if err := tx.Commit(); err != nil {
							return err
						}
						_, err := db.ExecContext(ctx, "UPDATE progress SET next = ?", next+1)
						return err
					}
					_, err := tx.ExecContext(ctx, "UPDATE progress SET next = ?", next+1)
					return err
				})
			})
			if wrong && errors.Is(err, sql.ErrTxDone) {
				err = nil // it was committed early
			}
			if err == nil {
				err = ctx.Heartbeat()
			}
			if done || err != nil {
				return err
			}
		}
	})
}

// Bug: a statement's error is taken for a row that is there already.

func TestErrorIgnored_Wrong(t *testing.T) { faults(t, true) }
func TestErrorIgnored_Right(t *testing.T) { faults(t, false) }

func faults(t *testing.T, wrong bool) {
	imports(t, activitytest.Plan{Kinds: activitytest.Fault}, wrapped, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			_, err := db.ExecContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)", rows[i][0], rows[i][1])
			if wrong {
				return nil
			}
			return err
		})
	})
}

// Bug of the test itself: the database is opened without the World's driver, so the lock of a dead
// life's transaction is never freed.

func TestLockOfTheDead_Wrong(t *testing.T) { locked(t, plain) }
func TestLockOfTheDead_Right(t *testing.T) { locked(t, wrapped) }

func locked(t *testing.T, open opener) {
	imports(t, activitytest.Plan{Kinds: activitytest.Crash}, open, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		if ctx.Info().Attempt > 5 {
			return activity.NonRetryable(errors.New("gave up"))
		}
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			return transact(ctx, db, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)", rows[i][0], rows[i][1])
				activitytest.Point(ctx, "inserted")
				return err
			})
		})
	})
}

// The pool has one connection, as is usual for SQLite. A Commit that stalls holds it, and with it the lock of
// the database. No program can do without, so this is no fault.
func TestOneConnection_Right(t *testing.T) {
	one := func(w *activitytest.World, path string) *sql.DB {
		db := wrapped(w, path)
		db.SetMaxOpenConns(1)
		return db
	}
	imports(t, activitytest.Plan{Kinds: activitytest.Stall}, one, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			return transact(ctx, db, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)", rows[i][0], rows[i][1])
				return err
			})
		})
	})
}

// A prepared statement is closed by an attempt that wakes while the next one uses its connection.
func TestPrepared_Right(t *testing.T) {
	imports(t, activitytest.Plan{}, wrapped, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		insert, err := db.PrepareContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)")
		if err != nil {
			return err
		}
		defer insert.Close()
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			_, err := insert.ExecContext(ctx, rows[i][0], rows[i][1])
			return err
		})
	})
}

// A transaction has a timeout of its own, which ends even if its process has crashed.
func TestStatementTimeout_Right(t *testing.T) {
	imports(t, activitytest.Plan{}, wrapped, keyed, func(ctx activity.Context, db *sql.DB, rows [][]string) error {
		db.SetMaxOpenConns(1)
		return activity.Range(ctx, 0, len(rows), func(i int) error {
			short, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			return transact(short, db, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(short, "INSERT OR REPLACE INTO people VALUES (?, ?)", rows[i][0], rows[i][1])
				return err
			})
		})
	})
}

// Several connections share a database in memory. One of them waits for another's lock in a mutex.
func TestInMemory_Right(t *testing.T) {
	memories := 0
	activitytest.Plan{MaxRuns: 100, Kinds: activitytest.Crash | activitytest.Stall}.Run(t, func(t *testing.T, w *activitytest.World) {
		memories++
		dsn := fmt.Sprintf("file:memory%d?mode=memory&cache=shared", memories)
		keep := plain(w, dsn)
		defer keep.Close()
		if _, err := keep.Exec(keyed); err != nil {
			t.Fatal(err)
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			db := wrapped(w, dsn)
			defer db.Close()
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 2, func(i int) error {
					return transact(ctx, db, func(tx *sql.Tx) error {
						_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO people VALUES (?, ?)", i, i)
						return err
					})
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
