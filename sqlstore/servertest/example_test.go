package servertest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// An import that fails in the middle of a step. The row of that step is rolled back, and inserted
// once.
func ExampleRange() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	db, _ := sql.Open("sqlite", filepath.Join(dir, "data.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)")
	defer db.Close()
	_, _ = db.Exec("CREATE TABLE customers (name text)")
	store, err := sqlstore.Open(context.Background(), db, &sqlstore.Options{Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	rt := activity.New(activity.Config{Store: store, Logger: quiet})
	rows := []string{"Ada", "Grace", "Edsger"}
	opts := activity.Options{ID: "customers", RetryPolicy: activity.RetryPolicy{InitialInterval: 1}}
	err = rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		return sqlstore.Range(ctx, db, 0, len(rows), func(tx *sql.Tx, i int) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO customers (name) VALUES (?)", rows[i]); err != nil {
				return err
			}
			if i == 1 && ctx.Info().Attempt == 1 {
				return fmt.Errorf("the file server does not answer")
			}
			return nil
		})
	})
	n := 0
	_ = db.QueryRow("SELECT count(*) FROM customers").Scan(&n)
	fmt.Println(n, "customers", err)
	// Output: 3 customers <nil>
}

// Two replicas of a service. The second one stands by, and continues what the first one has left.
func ExampleOpen_twoReplicas() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	connect := func() *sql.DB {
		db, _ := sql.Open("sqlite", filepath.Join(dir, "data.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)")
		return db
	}
	replica := func(name string, started chan<- struct{}, stop <-chan struct{}) {
		db := connect()
		defer db.Close()
		store, err := sqlstore.Open(context.Background(), db, &sqlstore.Options{Wait: sqlstore.Forever, Logger: quiet})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer store.Close()
		rt := activity.New(activity.Config{Store: store, Logger: quiet})
		poll := &activity.Definition[string, struct{}]{Name: "poll", Func: func(ctx activity.Context, what string) (struct{}, error) {
			n, err := activity.Resume(ctx, 0)
			if err != nil {
				return struct{}{}, err
			}
			fmt.Println(name, "polls", what, "from", n)
			if err := ctx.Heartbeat(n + 10); err != nil {
				return struct{}{}, err
			}
			close(started)
			<-ctx.Done()
			return struct{}{}, context.Cause(ctx)
		}}
		if n, err := rt.Recover(context.Background(), poll); n == 0 && err == nil {
			_, err = poll.Start(context.Background(), rt, "the inbox", "the inbox")
			if err != nil {
				fmt.Println(err)
			}
		}
		<-stop
		if err := rt.Shutdown(context.Background()); err != nil {
			fmt.Println(err)
		}
	}
	first, second, stop, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	go replica("the first replica", first, stop)
	<-first
	go func() {
		replica("the second replica", second, second)
		close(stopped)
	}()
	close(stop)
	<-stopped
	// Output:
	// the first replica polls the inbox from 0
	// the second replica polls the inbox from 10
}
