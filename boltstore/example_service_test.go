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

// A service continues what the process before has left, and serves until it is stopped. Its
// arguments are files to import. (README.md quotes this.)
func Example_service() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	store, err := boltstore.Open("activities.db", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	rt := activity.New(activity.Config{Store: store})

	for _, file := range os.Args[1:] {
		if _, err := importFile.Start(ctx, rt, file, file); err != nil {
			log.Println(err)
		}
	}
	n, err := rt.Recover(ctx, importFile) // everything else that is unfinished
	log.Println("recovered:", n, err)

	<-ctx.Done() // serve until Ctrl-C or SIGTERM
	stop()       // a second one ends the program at once
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	log.Println("shut down:", rt.Shutdown(ctx)) // saves the last details
}
