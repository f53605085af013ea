package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Four workers share a list. The second attempt does only what is missing. Workers that share
// one Heartbeat with their own row would lose rows: the newest row says nothing about the others.
// A body gets a Context of its own, which ends when another body fails.
func ExampleRangeParallel() {
	rt := activity.New(config)
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		return activity.RangeParallel(ctx, 0, 100, 4, func(ctx activity.Context, row int) error {
			if row == 60 && ctx.Info().Attempt == 1 {
				return errors.New("connection lost")
			}
			return ctx.Err() // the work: pass ctx on
		})
	})
	fmt.Println("error:", err)
	// Output: error: <nil>
}

// The copy of a large file is no stall as long as bytes pass.
func ExampleReader() {
	rt := activity.New(config)
	err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
		n, err := io.Copy(io.Discard, activity.Reader(ctx, strings.NewReader("a large file")))
		fmt.Println(n, "bytes")
		return err
	})
	fmt.Println("error:", err)
	// Output:
	// 12 bytes
	// error: <nil>
}

// A program ends in two steps. Drain lets each activity finish the step that it is in. Shutdown
// cancels the activities that have not stopped by then. Neither loses progress: the next
// process resumes them.
func ExampleRuntime_Drain() {
	store := &storetest.Memory{} // or boltstore
	rt := activity.New(activity.Config{Store: store, Logger: config.Logger})
	h, err := rt.Start(context.Background(), activity.Options{ID: "import", Name: "import"}, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, 1000, func(int) error { return ctx.Sleep(time.Hour) })
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, end := range []struct {
		stop   func(context.Context) error
		within time.Duration
	}{{rt.Drain, 20 * time.Second}, {rt.Shutdown, 10 * time.Second}} {
		ctx, cancel := context.WithTimeout(context.Background(), end.within)
		fmt.Println(end.stop(ctx))
		cancel()
	}
	_, err = h.Wait(context.Background())
	fmt.Println(errors.Is(err, activity.ErrShutdown))
	for cp := range store.All(context.Background()) {
		fmt.Println(cp.ID, cp.State)
	}
	// Output:
	// <nil>
	// <nil>
	// true
	// import interrupted
}

// Metrics need a few kinds of events, and not the heartbeats, which are by far the most frequent.
func ExampleRuntime_Subscribe() {
	rt := activity.New(config)
	cancel := rt.Subscribe(func(e activity.Event) { fmt.Println(e.ID, e.Kind) }, activity.EventCompleted, activity.EventFailed)
	defer cancel()
	_ = rt.Run(context.Background(), activity.Options{ID: "import"}, func(ctx activity.Context) error { return ctx.Heartbeat(1) })
	// Output: import completed
}

// While a database is being moved, an import is paused. It keeps its progress, its callers wait,
// and with a Store it stays paused over a restart. To cancel it, and to start it again later, would
// answer its callers with an error.
func ExampleRuntime_Pause() {
	rt := activity.New(config)
	events := make(chan activity.EventKind, 10)
	rt.Subscribe(func(e activity.Event) { events <- e.Kind }, activity.EventAttemptStarted, activity.EventPaused)
	h, err := rt.Start(context.Background(), activity.Options{ID: "import"}, func(ctx activity.Context) error {
		row, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		fmt.Println("attempt", ctx.Info().Attempt, "from row", row)
		if row > 0 {
			return nil
		}
		if err := ctx.Heartbeat(50); err != nil {
			return err
		}
		return ctx.Sleep(time.Hour) // the work: it ends with ErrPaused
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-events // the attempt has started
	fmt.Println("pause:", rt.Pause("import"))
	<-events // and now the activity is paused
	fmt.Println("the import is", h.Status().State)
	fmt.Println("unpause:", rt.Unpause("import"))
	_, err = h.Wait(context.Background())
	fmt.Println("error:", err)
	// Unordered output:
	// pause: <nil>
	// attempt 1 from row 0
	// the import is paused
	// unpause: <nil>
	// attempt 1 from row 50
	// error: <nil>
}

// An operator who knows that the cause is mended need not wait for the backoff.
func ExampleRuntime_RetryNow() {
	rt := activity.New(config)
	mended := false
	opts := activity.Options{ID: "import", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
	failed := make(chan struct{})
	defer rt.Subscribe(func(activity.Event) { close(failed) }, activity.EventAttemptFailed)()
	h, err := rt.Start(context.Background(), opts, func(activity.Context) error {
		if !mended {
			return errors.New("no such table")
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-failed
	mended = true
	fmt.Println("retry now:", rt.RetryNow("import"))
	_, err = h.Wait(context.Background())
	fmt.Println("error:", err)
	// Output:
	// retry now: <nil>
	// error: <nil>
}

// Recover gives no handles. A Definition finds the activities that it has started.
func ExampleDefinition_Handle() {
	store := &storetest.Memory{}
	def := &activity.Definition[int, string]{Name: "count", Func: func(ctx activity.Context, n int) (string, error) {
		return fmt.Sprint("counted to ", n), ctx.Sleep(time.Millisecond)
	}}
	first := activity.New(activity.Config{Store: store, Logger: config.Logger})
	if _, err := def.Start(context.Background(), first, "a", 7); err != nil {
		fmt.Println(err)
		return
	}
	rt := activity.New(activity.Config{Store: store.Clone(), Logger: config.Logger}) // as after a crash
	n, err := rt.Recover(context.Background(), def)
	fmt.Println("recovered:", n, err)
	if h, ok := def.Handle(rt, "a"); ok {
		fmt.Println(h.Wait(context.Background()))
	}
	// Output:
	// recovered: 1 <nil>
	// counted to 7 <nil>
}
