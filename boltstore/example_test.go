package boltstore_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

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

	store, err := boltstore.Open(filepath.Join(folder, "activities.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close() // after Shutdown, which still saves

	ctx := context.Background()
	rt := activity.New(activity.Config{Store: store})
	defer rt.Shutdown(ctx)

	// The ID is what the next process finds the details by.
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
