package activity_test

import (
	"bytes"
	"context"
	"expvar"
	"fmt"
	"runtime/pprof"
	"strings"

	"github.com/seed-9da638b0/activity"
)

// With labels, profiles tell the activities apart, and so do dumps of goroutines. Goroutines that
// the function starts inherit them.
func ExampleConfig_pprofLabels() {
	rt := activity.New(activity.Config{
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) (err error) {
			labels := pprof.Labels("activity", ctx.Info().Name, "id", ctx.Info().ID)
			pprof.Do(ctx, labels, func(context.Context) { err = next(ctx) })
			return err
		},
	})
	err := rt.Run(context.Background(), activity.Options{ID: "7", Name: "import"}, func(activity.Context) error {
		var goroutines bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&goroutines, 1); err != nil {
			return err
		}
		fmt.Println(strings.Contains(goroutines.String(), `labels: {"activity":"import", "id":"7"}`))
		return nil
	})
	fmt.Println("error:", err)
	// Output:
	// true
	// error: <nil>
}

// An expvar shows how many attempts of each kind run.
func ExampleConfig_expvar() {
	running := new(expvar.Map) // yours is expvar.NewMap("activities"), which publishes it
	rt := activity.New(activity.Config{
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			running.Add(ctx.Info().Name, 1)
			defer running.Add(ctx.Info().Name, -1)
			return next(ctx)
		},
	})
	err := rt.Run(context.Background(), activity.Options{Name: "import"}, func(activity.Context) error {
		fmt.Println(running)
		return nil
	})
	fmt.Println(running, "error:", err)
	// Output:
	// {"import": 1}
	// {"import": 0} error: <nil>
}
