package activity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Details can be a struct: what a loop of several phases needs to continue.
func ExampleResume() {
	type progress struct {
		Phase string
		Done  int
	}
	rt := activity.New(config)
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		p, err := activity.Resume(ctx, progress{Phase: "download"})
		if err != nil {
			return err
		}
		fmt.Printf("attempt %d: %+v\n", ctx.Info().Attempt, p)
		if p.Phase == "download" {
			if err := ctx.Heartbeat(progress{Phase: "index", Done: 3}); err != nil {
				return err
			}
			return errors.New("disk full")
		}
		return nil
	})
	fmt.Println("error:", err)
	// Output:
	// attempt 1: {Phase:download Done:0}
	// attempt 2: {Phase:index Done:3}
	// error: <nil>
}

// A poller: Idle sleeps, and beats often enough for the heartbeat timeout.
func ExampleIdle() {
	rt := activity.New(config)
	polls := 0
	err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
		for ready := false; !ready; ready = polls == 3 {
			if err := activity.Idle(ctx, time.Millisecond); err != nil {
				return err
			}
			polls++
		}
		return nil
	})
	fmt.Println(polls, "polls, error:", err)
	// Output: 3 polls, error: <nil>
}

// Options.HeartbeatDetails start a function in the middle, as a retry would.
func ExampleOptions_heartbeatDetails() {
	rt := activity.New(config)
	opts := activity.Options{HeartbeatDetails: []any{98}}
	_ = rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		next, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		for ; next < 100; next++ {
			fmt.Println("row", next)
		}
		return nil
	})
	// Output:
	// row 98
	// row 99
}

func ExampleTimeoutError() {
	rt := activity.New(config)
	opts := activity.Options{
		ID: "nightly", Name: "export",
		StartToCloseTimeout: 500 * time.Millisecond,
		RetryPolicy:         activity.RetryPolicy{MaximumAttempts: 1},
	}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		if err := ctx.Heartbeat("page 7"); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	var timeout *activity.TimeoutError
	if errors.As(err, &timeout) {
		var page string
		_, _ = timeout.HeartbeatDetails(&page)
		fmt.Printf("%s of attempt %d, at %s\n", timeout.Type, timeout.Attempt, page)
	}
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// start-to-close timeout of attempt 1, at page 7
	// true
}

// Attempts wait for a slot. What runs and waits is in Activities and Stats.
func ExampleRuntime_Activities() {
	rt := activity.New(activity.Config{Logger: quiet, MaxConcurrent: 1})
	for _, id := range []string{"a", "b"} {
		_, err := activity.Start(context.Background(), rt, activity.Options{ID: id}, func(ctx activity.Context, _ struct{}) (struct{}, error) {
			return struct{}{}, ctx.Sleep(time.Hour)
		}, struct{}{})
		if err != nil {
			fmt.Println(err)
		}
	}
	for _, s := range rt.Activities() {
		fmt.Println(s.ID, s.State, s.Attempt)
	}
	fmt.Println(rt.Stats().Running, "runs,", rt.Stats().Waiting, "waits")
	_ = rt.Shutdown(context.Background())
	fmt.Println(rt.Stats().Canceled, "canceled")
	// Output:
	// a running 1
	// b waiting 0
	// 1 runs, 1 waits
	// 2 canceled
}

// tracing is a wrapper: it embeds the Context and changes one method.
type tracing struct{ activity.Context }

func (t tracing) Heartbeat(details ...any) error {
	fmt.Println("heartbeat", details)
	return t.Context.Heartbeat(details...)
}

// An Interceptor hands on a wrapper, and FromContext finds it everywhere below.
func ExampleFromContext_wrapper() {
	rt := activity.New(activity.Config{
		Logger: quiet,
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			return next(tracing{ctx})
		},
	})
	_ = rt.Run(context.Background(), activity.Options{}, func(ctx activity.Context) error {
		child, cancel := context.WithCancel(ctx)
		defer cancel()
		c, _ := activity.FromContext(child)
		return c.Heartbeat("from below")
	})
	// Output: heartbeat [from below]
}

// Another engine, or a test, gives its own Context to code that looks for one.
func ExampleNewContext() {
	rt := activity.New(config)
	_ = rt.Run(context.Background(), activity.Options{Name: "report"}, func(ctx activity.Context) error {
		elsewhere := activity.NewContext(context.Background(), ctx)
		c, ok := activity.FromContext(elsewhere)
		fmt.Println(ok, c.Info().Name)
		return nil
	})
	// Output: true report
}

// The policy asks Retryable about errors and timeouts.
func ExampleRetryPolicy() {
	rt := activity.New(config)
	errGone := errors.New("410 gone")
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{
		InitialInterval: time.Millisecond,
		MaximumAttempts: 10,
		Retryable:       func(err error) bool { return !errors.Is(err, errGone) },
	}}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 1 {
			return errors.New("503 try again")
		}
		return errGone
	})
	var e *activity.Error
	fmt.Println(errors.As(err, &e), e.Attempt, e.RetryState, e.Err)
	// Output: true 2 non-retryable failure 410 gone
}

// The log carries who and which attempt.
func ExampleContext() {
	logger := slog.New(slog.NewTextHandler(stdout{}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	rt := activity.New(activity.Config{Logger: logger})
	_ = rt.Run(context.Background(), activity.Options{ID: "7", Name: "mail"}, func(ctx activity.Context) error {
		ctx.Logger().Info("sent", "to", 3)
		return ctx.Sleep(time.Millisecond)
	})
	// Output: level=INFO msg=sent id=7 name=mail attempt=1 to=3
}

// stdout writes to what the example prints on.
type stdout struct{}

func (stdout) Write(b []byte) (int, error) { return fmt.Print(string(b)) }

// An Observer that writes every event as a line of JSON.
func ExampleEvent_json() {
	mock := clock.NewMock() // for times that are the same in each run
	mock.Set(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	lines := json.NewEncoder(os.Stdout)
	rt := activity.New(activity.Config{Clock: mock, Logger: quiet, Observer: func(e activity.Event) { _ = lines.Encode(e) }})
	_ = rt.Run(context.Background(), activity.Options{ID: "i7", Name: "import"}, func(ctx activity.Context) error {
		return ctx.Heartbeat(activity.RangeProgress{Next: 3, To: 10})
	})
	// Output:
	// {"Kind":"scheduled","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":0,"Err":null,"Delay":"0s","Details":null}
	// {"Kind":"attempt started","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":null}
	// {"Kind":"heartbeat","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":{"Next":3,"To":10}}
	// {"Kind":"completed","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":null}
}

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

// An activity that has failed for good stays in the Store: run it again, and it
// resumes, or forget it.
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
