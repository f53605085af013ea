package servertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// childEnv is the environment variable that makes the test binary run a function of child.
const childEnv = "SQLSTORE_TEST_CHILD"

// child has the programs that tests start as processes of their own.
var child = map[string]func(){"import": importer}

const (
	importRows  = 10000
	importBatch = 20 // rows of a transaction
)

// importer is a service of which several instances run: it stands by, takes over, and imports
// what is not imported yet. Its settings are environment variables. It exits with 0 once
// everything is imported.
func importer() {
	db, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("DSN"))
	exitIf(err)
	for {
		err := importOnce(db)
		switch {
		case err == nil:
			os.Exit(0)
		case errors.Is(err, activity.ErrStoreLost):
			continue // and stand by again
		}
		fmt.Fprintln(os.Stderr, err)
		time.Sleep(50 * time.Millisecond) // the database is away
	}
}

func importOnce(db *sql.DB) error {
	ctx := context.Background()
	lease, err := time.ParseDuration(os.Getenv("LEASE"))
	exitIf(err)
	store, err := sqlstore.Open(ctx, db, &sqlstore.Options{Wait: sqlstore.Forever, Lease: lease, Logger: quiet})
	if err != nil {
		return err
	}
	defer store.Close()
	rt := activity.New(activity.Config{Store: store, Logger: quiet})
	// The others wait for the Store, so that only its owner comes here.
	finished := 0
	if err := db.QueryRow("SELECT count(*) FROM finished").Scan(&finished); err != nil || finished > 0 {
		return err
	}
	def := &activity.Definition[string, struct{}]{Name: "import", Func: func(ctx activity.Context, mode string) (struct{}, error) {
		return struct{}{}, importAll(ctx, db, mode)
	}, Options: activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: 10 * time.Millisecond, MaximumInterval: 100 * time.Millisecond, ResetOnProgress: true}}}
	_, err = def.Execute(ctx, rt, "the import", os.Getenv("MODE"))
	shutdown, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return errors.Join(err, rt.Shutdown(shutdown))
}

// importAll imports all rows, and notes that this is done. Mode "plain" records the progress with
// heartbeats, beside the transactions.
func importAll(ctx activity.Context, db *sql.DB, mode string) error {
	insert := func(tx *sql.Tx, i int) error {
		for n := i * importBatch; n < (i+1)*importBatch; n++ {
			if _, err := tx.ExecContext(ctx, "INSERT INTO imported (n) VALUES ("+strconv.Itoa(n)+")"); err != nil {
				return err
			}
		}
		return nil
	}
	var err error
	if mode == "plain" {
		err = activity.Range(ctx, 0, importRows/importBatch, func(i int) error {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback()
			if err := insert(tx, i); err != nil {
				return err
			}
			return tx.Commit()
		})
	} else {
		err = sqlstore.Range(ctx, db, 0, importRows/importBatch, insert)
	}
	if err == nil {
		_, err = db.ExecContext(ctx, "INSERT INTO finished (n) VALUES (1)")
	}
	return err
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
