package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Details can be a struct: what a loop of several phases needs to go on.
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
