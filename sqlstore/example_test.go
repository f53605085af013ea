package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// A service of several replicas. One of them runs the activities, and the others stand by. When it
// is killed or cut off, another one continues them.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	importFile := &activity.Definition[string, int]{Name: "import file", Func: func(ctx activity.Context, file string) (int, error) {
		rows, err := readRows(file)
		if err != nil {
			return 0, err
		}
		return len(rows), sqlstore.Range(ctx, db, 0, len(rows), func(tx *sql.Tx, i int) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO customers (name) VALUES ($1)", rows[i])
			return err
		})
	}}

	store, err := sqlstore.Open(ctx, db, &sqlstore.Options{Wait: sqlstore.Forever}) // stands by
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	rt := activity.New(activity.Config{Store: store})
	n, err := rt.Recover(context.Background(), importFile) // what the owner before has left
	log.Println("recovered:", n, err)

	select {
	case <-ctx.Done(): // serve until Ctrl-C or SIGTERM
	case <-store.Lost():
		log.Println("another replica has taken over") // exit, to be restarted and to stand by
	}
	stop()
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	log.Println("drained:", rt.Drain(drain))
	log.Println("shut down:", rt.Shutdown(drain))
}

func readRows(string) ([]string, error) { return nil, errors.New("not shown") }

// A step of a function's own loop. The transaction and the progress commit together.
func ExampleCommit() {
	var db *sql.DB // opened elsewhere
	transfer := func(ctx activity.Context, accounts []string) error {
		next, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		for ; next < len(accounts); next++ {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			defer tx.Rollback() // does nothing after Commit
			if _, err := tx.ExecContext(ctx, "UPDATE accounts SET balance = balance + 1 WHERE name = $1", accounts[next]); err != nil {
				return err
			}
			if err := sqlstore.Commit(ctx, tx, next+1); err != nil {
				return err
			}
		}
		return nil
	}
	_ = transfer
}
