package activity_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// A program that is stopped in the middle, and the next one, which picks up all
// that was left in one line. Yours opens a Store of package boltstore.
func ExampleRuntime_Recover() {
	ctx := context.Background()
	store := &storetest.Memory{}

	// The first process is stopped at row 2.
	atRow2 := make(chan struct{})
	copyRows := &activity.Definition[int, int]{Name: "copy rows", Func: func(ctx activity.Context, rows int) (int, error) {
		return rows, activity.Range(ctx, 0, rows, func(row int) error {
			if row == 2 {
				close(atRow2)
				<-ctx.Done()
				return context.Cause(ctx)
			}
			fmt.Println("row", row)
			return nil
		})
	}}
	rt := activity.New(activity.Config{Store: store, Logger: quiet})
	if _, err := copyRows.Start(ctx, rt, "customers", 4); err != nil {
		fmt.Println(err)
	}
	<-atRow2
	fmt.Println("shutdown:", rt.Shutdown(ctx))

	// The next process.
	done := make(chan struct{})
	copyRows.Func = func(ctx activity.Context, rows int) (int, error) {
		defer close(done)
		return rows, activity.Range(ctx, 0, rows, func(row int) error {
			fmt.Println("row", row)
			return nil
		})
	}
	rt = activity.New(activity.Config{Store: store, Logger: quiet})
	_, err := rt.Recover(ctx, copyRows)
	<-done
	fmt.Println("recover:", err)
	// Output:
	// row 0
	// row 1
	// shutdown: <nil>
	// row 2
	// row 3
	// recover: <nil>
}

// What has failed for good stays in the Store: run it again, and it resumes, or
// forget it.
func ExampleRuntime_Checkpoints() {
	ctx := context.Background()
	rt := activity.New(activity.Config{Store: &storetest.Memory{}, Logger: quiet})
	for _, id := range []string{"customers", "orders"} {
		_ = rt.Run(ctx, activity.Options{ID: id, Name: "import"}, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(41); err != nil {
				return err
			}
			return activity.NonRetryable(errors.New("row 42 has no key"))
		})
	}
	if err := rt.Forget(ctx, "customers"); err != nil {
		fmt.Println(err)
	}
	for cp, err := range rt.Checkpoints(ctx) {
		if err != nil {
			fmt.Println(err)
			break
		}
		var done int
		_, err := cp.HeartbeatDetails(nil, &done)
		fmt.Println(cp.ID, cp.State, "in attempt", cp.Attempt, "after row", done, err, "-", cp.LastFailure)
	}
	// Output: orders failed in attempt 1 after row 41 <nil> - row 42 has no key
}
