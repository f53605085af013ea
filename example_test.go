package activity_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-9da638b0/activity"
)

// The examples' Runtimes log nothing, since the log carries stacks and times.
var config = activity.Config{Logger: quiet}

// A function that stalls: after the heartbeat timeout the next attempt continues
// from the last heartbeat's details.
func Example() {
	rt := activity.New(config)
	opts := activity.Options{StartToCloseTimeout: time.Hour, HeartbeatTimeout: 500 * time.Millisecond}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		next, err := activity.Resume(ctx, 1)
		if err != nil {
			return err
		}
		fmt.Printf("attempt %d begins with step %d\n", ctx.Info().Attempt, next)
		for step := next; step <= 100; step++ {
			if err := ctx.Heartbeat(step + 1); err != nil {
				return err
			}
			if step == 42 && ctx.Info().Attempt == 1 {
				<-ctx.Done() // hangs
				return context.Cause(ctx)
			}
		}
		return nil
	})
	fmt.Println("error:", err)
	// Output:
	// attempt 1 begins with step 1
	// attempt 2 begins with step 43
	// error: <nil>
}

func ExampleRange() {
	rt := activity.New(config)
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
	err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
		return activity.Range(ctx, 0, 5, func(i int) error {
			if i == 3 && ctx.Info().Attempt == 1 {
				return errors.New("connection lost")
			}
			fmt.Println("row", i, "in attempt", ctx.Info().Attempt)
			return nil
		})
	})
	fmt.Println("error:", err)
	// Output:
	// row 0 in attempt 1
	// row 1 in attempt 1
	// row 2 in attempt 1
	// row 3 in attempt 2
	// row 4 in attempt 2
	// error: <nil>
}

func ExampleExecute() {
	rt := activity.New(config)
	sum := func(ctx activity.Context, numbers []int) (int, error) {
		total := 0
		for _, n := range numbers {
			total += n
			if err := ctx.Heartbeat(); err != nil {
				return 0, err
			}
		}
		return total, nil
	}
	total, err := activity.Execute(context.Background(), rt, activity.Options{HeartbeatTimeout: time.Minute}, sum, []int{1, 2, 3})
	fmt.Println(total, err)
	// Output: 6 <nil>
}

func ExampleStart() {
	rt := activity.New(config)
	h, err := activity.Start(context.Background(), rt, activity.Options{ID: "poll"}, func(ctx activity.Context, every time.Duration) (int, error) {
		for {
			if err := activity.Idle(ctx, every); err != nil {
				return 0, err
			}
		}
	}, time.Hour)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.ID(), h.Status().State)
	h.Cancel(errors.New("no longer needed"))
	_, err = h.Wait(context.Background())
	var e *activity.Error
	fmt.Println(errors.As(err, &e), e.RetryState, e.Err)
	// Output:
	// poll running
	// true cancel requested no longer needed
}

func ExampleNonRetryable() {
	rt := activity.New(config)
	err := rt.Run(context.Background(), activity.Options{ID: "order 7", Name: "charge"}, func(ctx activity.Context) error {
		return activity.NonRetryable(errors.New("card expired"))
	})
	fmt.Println(err)
	// Output: activity "order 7" (charge) failed in attempt 1, no further attempt (non-retryable failure): card expired
}

func ExampleRetryAfter() {
	rt := activity.New(config)
	err := rt.Run(context.Background(), activity.Options{}, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 1 {
			return activity.RetryAfter(errors.New("busy, try again in 50 ms"), 50*time.Millisecond)
		}
		fmt.Println("attempt", ctx.Info().Attempt, "after:", ctx.Info().LastFailure)
		return nil
	})
	fmt.Println("error:", err)
	// Output:
	// attempt 2 after: busy, try again in 50 ms
	// error: <nil>
}

// A function that Guard runs never overlaps a later attempt, even if its own
// attempt times out meanwhile.
func ExampleGuard() {
	rt := activity.New(config)
	var log []string
	err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: 500 * time.Millisecond}, func(ctx activity.Context) error {
		return activity.Guard(ctx, func() error {
			if ctx.Info().Attempt == 1 {
				<-ctx.Done() // times out in here
			}
			log = append(log, fmt.Sprintf("attempt %d writes", ctx.Info().Attempt))
			return nil
		})
	})
	fmt.Println(log, err)
	// Output: [attempt 1 writes attempt 2 writes] <nil>
}

func ExampleFromContext() {
	rt := activity.New(config)
	fetch := func(ctx context.Context, url string) {
		if c, ok := activity.FromContext(ctx); ok {
			_ = c.Heartbeat() // deep in code that knows only a context.Context
			fmt.Println("attempt", c.Info().Attempt, "fetches", url)
		}
	}
	err := rt.Run(context.Background(), activity.Options{}, func(ctx activity.Context) error {
		child, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		fetch(child, "https://example.com")
		return nil
	})
	fmt.Println("error:", err)
	// Output:
	// attempt 1 fetches https://example.com
	// error: <nil>
}

func ExampleConfig_observer() {
	rt := activity.New(activity.Config{
		Logger:   quiet,
		Observer: func(e activity.Event) { fmt.Println(e.Kind, e.Attempt) },
	})
	_ = rt.Run(context.Background(), activity.Options{}, func(ctx activity.Context) error {
		return ctx.Heartbeat("halfway")
	})
	// Output:
	// scheduled 0
	// attempt started 1
	// heartbeat 1
	// completed 1
}

func ExampleConfig_interceptor() {
	rt := activity.New(activity.Config{
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			err := next(ctx)
			fmt.Printf("%s, attempt %d: %v\n", ctx.Info().Name, ctx.Info().Attempt, err)
			return err
		},
	})
	_ = rt.Run(context.Background(), activity.Options{Name: "import"}, func(ctx activity.Context) error { return nil })
	// Output: import, attempt 1: <nil>
}

func ExampleRuntime_Start() {
	rt := activity.New(config)
	h, err := rt.Start(context.Background(), activity.Options{ID: "poll"}, func(ctx activity.Context) error {
		return activity.Idle(ctx, time.Hour)
	})
	fmt.Println(h.ID(), err)
	h.Cancel(errors.New("no longer needed"))
	_, err = h.Wait(context.Background())
	fmt.Println(err)
	// Output:
	// poll <nil>
	// activity "poll" (github.com/seed-9da638b0/activity_test.ExampleRuntime_Start.func1) was canceled in attempt 1: no longer needed
}

func ExampleRuntime_Shutdown() {
	rt := activity.New(config)
	h, _ := rt.Start(context.Background(), activity.Options{}, func(ctx activity.Context) error {
		return ctx.Sleep(time.Hour)
	})
	fmt.Println(rt.Shutdown(context.Background()))
	_, err := h.Wait(context.Background())
	fmt.Println(errors.Is(err, activity.ErrShutdown))
	// Output:
	// <nil>
	// true
}

func ExampleDefinition() {
	double := &activity.Definition[int, int]{
		Name:    "double",
		Options: activity.Options{StartToCloseTimeout: time.Minute},
		Func:    func(ctx activity.Context, n int) (int, error) { return 2 * n, nil },
	}
	out, err := double.Execute(context.Background(), activity.New(config), "double 21", 21)
	fmt.Println(out, err)
	// Output: 42 <nil>
}
