package boltstore_test

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

var importFile = &activity.Definition[string, int]{
	Name:    "import file",
	Options: activity.Options{HeartbeatTimeout: 10 * time.Second, CancelGrace: time.Second},
	Func: func(ctx activity.Context, file string) (int, error) {
		const rows = 1000
		return rows, activity.Range(ctx, 0, rows, func(row int) error {
			return ctx.Sleep(10 * time.Millisecond) // the work
		})
	},
}

// A service continues what the process before has left, and serves until it is stopped. (README.md quotes this.)
func Example_service() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := boltstore.Open("activities.db", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	rt := activity.New(activity.Config{Store: store})

	if _, err := importFile.Start(context.Background(), rt, "customers", "customers.csv"); err != nil {
		log.Println(err)
	}
	n, err := rt.Recover(context.Background(), importFile) // everything else that is unfinished
	log.Println("recovered:", n, err)

	<-ctx.Done() // serve until Ctrl-C or SIGTERM
	stop()       // a second one ends the program at once
	drain, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	log.Println("drained:", rt.Drain(drain)) // each activity stops after the step that it is in
	shutdown, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	log.Println("shut down:", rt.Shutdown(shutdown)) // cancels the rest, and saves the last details
}
