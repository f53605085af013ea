package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

func Example() {
	folder, err := os.MkdirTemp("", "boltstore")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)

	store, err := boltstore.Open(filepath.Join(folder, "activities.db"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close() // after Shutdown, which may still save

	ctx := context.Background()
	rt := activity.New(activity.Config{Store: store})
	defer rt.Shutdown(ctx)

	// The next process finds the details by the ID.
	err = rt.Run(ctx, activity.Options{ID: "import customers.csv"}, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, 3, func(row int) error {
			fmt.Println("row", row)
			return nil
		})
	})
	if err != nil {
		fmt.Println(err)
	}
	// Output:
	// row 0
	// row 1
	// row 2
}

// A program that replaces its predecessor can wait until the predecessor has shut down.
func ExampleOpen_inUse() {
	folder, err := os.MkdirTemp("", "boltstore")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	path := filepath.Join(folder, "activities.db")

	predecessor, err := boltstore.Open(path, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer predecessor.Close()

	// Here, the predecessor does not shut down. A real program should wait longer than the
	// predecessor's Shutdown may take.
	opts := &boltstore.Options{LockTimeout: 10 * time.Millisecond}
	store, err := boltstore.Open(path, opts)
	if errors.Is(err, boltstore.ErrInUse) {
		fmt.Println("the predecessor is still running")
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	fmt.Println("open")
	// Output: the predecessor is still running
}
