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

// A program can back up its own Store while activities run.
func ExampleStore_WriteTo() {
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
	defer store.Close()
	err = store.Save(context.Background(), []activity.Checkpoint{{ID: "import customers.csv"}}) // as the Runtime does
	if err != nil {
		fmt.Println(err)
		return
	}

	backup, err := os.Create(filepath.Join(folder, "activities.new"))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = store.WriteTo(backup)
	if err := errors.Join(err, backup.Sync(), backup.Close()); err != nil {
		fmt.Println(err)
		return
	}
	// Only a complete copy gets the name of the backup.
	if err := os.Rename(backup.Name(), filepath.Join(folder, "activities.backup")); err != nil {
		fmt.Println(err)
		return
	}

	old, err := boltstore.Open(filepath.Join(folder, "activities.backup"), &boltstore.Options{ReadOnly: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer old.Close()
	for checkpoint, err := range old.All(context.Background()) {
		fmt.Println(checkpoint.ID, err)
	}
	// Output: import customers.csv <nil>
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
