package servertest

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// Given an import into SQLite that is killed before or after any statement, of its own or of the
// Store, or whose statements fail, then each row is there once.
func TestInterrupted_SQLite(t *testing.T) {
	plan := activitytest.Plan{Kinds: activitytest.Crash | activitytest.Fault | activitytest.Twice, MaxRuns: 250}
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		file := filepath.Join(t.TempDir(), "data.db")
		users := openSQLite(t, file)
		if _, err := users.Exec("CREATE TABLE imported (n bigint NOT NULL); CREATE TABLE finished (n bigint NOT NULL)"); err != nil {
			t.Fatal(err)
		}
		d := w.Driver(&sqlite.Driver{})
		err := w.Run(func(ctx context.Context, _ *activity.Runtime) error {
			db := d.DB("file:" + file + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(100)")
			defer db.Close()
			store, err := sqlstore.Open(ctx, db, &sqlstore.Options{Dialect: sqlstore.SQLite, Logger: quiet})
			if err != nil {
				return err
			}
			defer store.Close()
			rt := activity.New(activity.Config{Store: store, Logger: quiet})
			defer func() {
				end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
				defer cancel()
				_ = rt.Shutdown(end)
			}()
			finished := 0
			if err := db.QueryRowContext(ctx, "SELECT count(*) FROM finished").Scan(&finished); err != nil || finished > 0 {
				return err
			}
			return rt.Run(ctx, fast("import"), func(ctx activity.Context) error {
				err := sqlstore.Range(ctx, db, 0, 4, func(tx *sql.Tx, i int) error {
					_, err := tx.ExecContext(ctx, "INSERT INTO imported (n) VALUES (?)", i)
					return err
				})
				if err == nil {
					_, err = db.ExecContext(ctx, "INSERT INTO finished (n) VALUES (1)")
				}
				return err
			})
		})
		if err != nil {
			t.Error(err)
		}
		if got := (&table{t, users, "imported"}).all(); !slices.Equal(got, upTo(4)) {
			t.Errorf("the rows are %d", got)
		}
	})
}
