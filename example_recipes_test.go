// Recipes for programs with several activities, pollers and workers.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// A service starts its pollers under IDs that stay the same, and then recovers everything else. If
// a poller got a new ID at every start of the program, Recover would start the old one beside it.
// The activities do not get the context of the signal: its end would cut the steps that they are
// in, whereas Drain lets these finish.
func ExampleRuntime_Recover_service() {
	store := &storetest.Memory{} // or boltstore
	news := []string{"one", "two"}
	upToDate := make(chan struct{})
	poll := &activity.Definition[string, struct{}]{
		Name:    "poll",
		Options: activity.Options{HeartbeatTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{ResetAfter: 5 * time.Minute}},
		Func: func(ctx activity.Context, feed string) (struct{}, error) {
			seen, err := activity.Resume(ctx, 0)
			for ; err == nil; err = activity.Idle(ctx, time.Hour) {
				for ; seen < len(news); seen++ {
					fmt.Println(feed, news[seen])
					if err := ctx.Heartbeat(seen + 1); err != nil {
						return struct{}{}, err
					}
				}
				upToDate <- struct{}{}
			}
			return struct{}{}, err
		},
	}
	serve := func(stopped <-chan struct{}) {
		rt := activity.New(activity.Config{Store: store, Logger: config.Logger})
		if _, err := poll.Start(context.Background(), rt, "poll the news", "news"); err != nil {
			fmt.Println(err)
			return
		}
		n, err := rt.Recover(context.Background(), poll) // and the other Definitions
		<-stopped                                        // by signal.NotifyContext
		fmt.Println("recovered besides:", n, err)
		for _, end := range []func(context.Context) error{rt.Drain, rt.Shutdown} {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			if err := end(ctx); err != nil {
				fmt.Println(err)
			}
			cancel()
		}
	}
	serve(upToDate)
	news = append(news, "three")
	serve(upToDate) // the next process
	// Output:
	// news one
	// news two
	// recovered besides: 0 <nil>
	// news three
	// recovered besides: 0 <nil>
}

// Two workers import a file each. Every heartbeat records the rows of both files, under the lock
// under which they have changed. If each worker recorded its own row, it would erase the other's.
// If it recorded them after the unlocking, they could arrive in the wrong order. The rows of a
// single list are simpler with RangeParallel.
func ExampleContext_detailsSharedByWorkers() {
	rt := activity.New(config)
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		rows, err := activity.Resume(ctx, map[string]int{}) // by file, the number of rows that are done
		if err != nil {
			return err
		}
		var mu sync.Mutex
		rowIsDone := func(file string) error {
			mu.Lock()
			defer mu.Unlock()
			rows[file]++
			return ctx.Heartbeat(rows)
		}
		importFrom := func(file string, row int) error {
			for ; row < 2; row++ {
				if file == "b.csv" && row == 1 && ctx.Info().Attempt == 1 {
					return errors.New("connection lost")
				}
				fmt.Println(file, "row", row)
				if err := rowIsDone(file); err != nil {
					return err
				}
			}
			return nil
		}
		from := maps.Clone(rows) // the workers change rows
		errs := make(chan error)
		for _, file := range []string{"a.csv", "b.csv"} {
			go func() { errs <- importFrom(file, from[file]) }()
		}
		return errors.Join(<-errs, <-errs) // both have returned
	})
	fmt.Println("error:", err)
	// Unordered output:
	// a.csv row 0
	// a.csv row 1
	// b.csv row 0
	// b.csv row 1
	// error: <nil>
}

// A poller makes no progress that ResetOnProgress could notice. With ResetAfter, an error now
// and then is followed by the first interval, and not by one that has grown since the program started.
func ExampleRetryPolicy_poller() {
	rt := activity.New(config)
	polls := 0
	opts := activity.Options{
		HeartbeatTimeout: time.Minute, // Idle heartbeats
		RetryPolicy:      activity.RetryPolicy{InitialInterval: time.Millisecond, ResetAfter: 5 * time.Minute},
	}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		for ; polls < 3; polls++ {
			if err := activity.Idle(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	fmt.Println(polls, "polls, error:", err)
	// Output: 3 polls, error: <nil>
}

// A limiter stands for one such as that of golang.org/x/time/rate.
type limiter struct{ next time.Time }

// Delay reserves the next turn, and returns how long it is until then.
func (l *limiter) Delay() time.Duration {
	now := time.Now()
	turn := l.next
	if turn.Before(now) {
		turn = now
	}
	l.next = turn.Add(time.Millisecond)
	return turn.Sub(now)
}

// A loop that keeps to a rate waits with Idle, which heartbeats. The limiter's own Wait would look
// like a stall if it takes longer than the heartbeat timeout, and it would not end in a drain.
func ExampleIdle_rateLimit() {
	rt := activity.New(config)
	var limit limiter
	err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, 3, func(i int) error {
			if err := activity.Idle(ctx, limit.Delay()); err != nil {
				return err
			}
			fmt.Println("request", i)
			return nil
		})
	})
	fmt.Println("error:", err)
	// Output:
	// request 0
	// request 1
	// request 2
	// error: <nil>
}

// A step that must not be cut in the middle runs on a context that a cancellation does not end.
// CancelGrace must be longer than the step, because the function is abandoned after that. A step
// on ctx itself would be cut, and a step in a goroutine of its own would outlive the attempt.
func ExampleOptions_stepThatMustNotBeCut() {
	rt := activity.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	transfer := func(ctx context.Context) error {
		cancel() // the user gives up in the middle of it
		return ctx.Err()
	}
	opts := activity.Options{CancelGrace: time.Minute}
	err := rt.Run(ctx, opts, func(ctx activity.Context) error {
		if err := transfer(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		fmt.Println("transferred")
		return ctx.Heartbeat("transferred") // is recorded, and returns that the activity is canceled
	})
	fmt.Println("canceled:", errors.Is(err, context.Canceled))
	// Output:
	// transferred
	// canceled: true
}
