package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 16. Given options that cannot be, then the start is refused before anything runs,
// with an error that names the field and the value.
func TestOptions_Bad(t *testing.T) {
	const s = time.Second
	policy := func(p activity.RetryPolicy) activity.Options { return activity.Options{RetryPolicy: p} }
	for _, tt := range []struct {
		opts         activity.Options
		field, value string
	}{
		{activity.Options{StartToCloseTimeout: -1}, "Options.StartToCloseTimeout", "-1ns"},
		{activity.Options{HeartbeatTimeout: -2 * s}, "Options.HeartbeatTimeout", "-2s"},
		{activity.Options{ScheduleToStartTimeout: -3 * s}, "Options.ScheduleToStartTimeout", "-3s"},
		{activity.Options{ScheduleToCloseTimeout: -4 * s}, "Options.ScheduleToCloseTimeout", "-4s"},
		{activity.Options{CancelGrace: -5 * s}, "Options.CancelGrace", "-5s"},
		{activity.Options{MaxAbandoned: -2}, "Options.MaxAbandoned", "-2"},
		{activity.Options{ID: strings.Repeat("x", 1025)}, "Options.ID", "1025"},
		{activity.Options{ID: "a", SyncHeartbeats: true}, "Options.SyncHeartbeats", "true"}, // no Store
		{activity.Options{ID: "#7"}, "Options.ID", "#7"},
		{activity.Options{ID: "#" + strings.Repeat("x", 1000)}, "Options.ID", "#xxx"},
		{activity.Options{HeartbeatDetails: []any{1, make(chan int)}}, "Options.HeartbeatDetails", "chan int"},
		{activity.Options{HeartbeatDetails: []any{strings.Repeat("x", 3<<20)}}, "Options.HeartbeatDetails", "3145730"},
		{policy(activity.RetryPolicy{InitialInterval: -6 * s}), "RetryPolicy.InitialInterval", "-6s"},
		{policy(activity.RetryPolicy{MaximumInterval: -7 * s}), "RetryPolicy.MaximumInterval", "-7s"},
		{policy(activity.RetryPolicy{InitialInterval: 8 * s, MaximumInterval: 8*s - 1}), "RetryPolicy.MaximumInterval", "7.999999999s"},
		{policy(activity.RetryPolicy{MaximumAttempts: -9}), "RetryPolicy.MaximumAttempts", "-9"},
		{policy(activity.RetryPolicy{BackoffCoefficient: -2}), "RetryPolicy.BackoffCoefficient", "-2"},
		{policy(activity.RetryPolicy{BackoffCoefficient: 0.5}), "RetryPolicy.BackoffCoefficient", "0.5"},
		{policy(activity.RetryPolicy{BackoffCoefficient: math.Nextafter(1, 0)}), "RetryPolicy.BackoffCoefficient", "0.9999999999999999"},
		{policy(activity.RetryPolicy{BackoffCoefficient: math.SmallestNonzeroFloat64}), "RetryPolicy.BackoffCoefficient", "5e-324"},
		{policy(activity.RetryPolicy{BackoffCoefficient: math.NaN()}), "RetryPolicy.BackoffCoefficient", "NaN"},
		{policy(activity.RetryPolicy{BackoffCoefficient: math.Inf(1)}), "RetryPolicy.BackoffCoefficient", "+Inf"},
		{policy(activity.RetryPolicy{BackoffCoefficient: math.Inf(-1)}), "RetryPolicy.BackoffCoefficient", "-Inf"},
		{policy(activity.RetryPolicy{Jitter: -0.25}), "RetryPolicy.Jitter", "-0.25"},
		{policy(activity.RetryPolicy{Jitter: math.Nextafter(1, 2)}), "RetryPolicy.Jitter", "1.0000000000000002"},
		{policy(activity.RetryPolicy{Jitter: math.NaN()}), "RetryPolicy.Jitter", "NaN"},
		{policy(activity.RetryPolicy{Jitter: math.Inf(1)}), "RetryPolicy.Jitter", "+Inf"},
	} {
		t.Run(tt.field+" "+tt.value, func(t *testing.T) {
			calls, err := runCalls(t, activity.Config{}, tt.opts, noop)
			var e *activity.Error
			if calls != 0 || err == nil || errors.As(err, &e) {
				t.Fatalf("%d attempts, %v", calls, err)
			}
			if !strings.Contains(err.Error(), tt.field) || !strings.Contains(err.Error(), tt.value) {
				t.Errorf("%q does not name %s and %s", err, tt.field, tt.value)
			}
			if len(err.Error()) > 300 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// Rule 16. Given options at the edge of what is allowed, then the activity runs.
func TestOptions_GoodEdges(t *testing.T) {
	policy := func(p activity.RetryPolicy) activity.Options { return activity.Options{RetryPolicy: p} }
	for i, opts := range []activity.Options{
		{},
		{ID: strings.Repeat("x", 1024)},
		{MaxAbandoned: activity.NoOverlap},
		{StartToCloseTimeout: 1, HeartbeatTimeout: math.MaxInt64, ScheduleToStartTimeout: 1, ScheduleToCloseTimeout: math.MaxInt64, CancelGrace: 1, MaxAbandoned: math.MaxInt},
		policy(activity.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Second}),
		policy(activity.RetryPolicy{MaximumInterval: 1}),
		policy(activity.RetryPolicy{BackoffCoefficient: 1}),
		policy(activity.RetryPolicy{BackoffCoefficient: math.MaxFloat64, MaximumAttempts: math.MaxInt}),
		policy(activity.RetryPolicy{Jitter: 1}),
	} {
		if calls, err := runCalls(t, activity.Config{}, opts, noop); calls != 1 || err != nil {
			t.Errorf("%d: %d attempts, %v", i, calls, err)
		}
	}
}

// Rule 16. Given a nil function, then each way to start it returns an error.
func TestOptions_NilFunction(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	def := &activity.Definition[int, int]{Name: "d"}
	_, executed := activity.Execute[int, int](t.Context(), rt, activity.Options{}, nil, 0)
	_, started := activity.Start[int, int](t.Context(), rt, activity.Options{}, nil, 0)
	_, defined := def.Execute(t.Context(), rt, "x", 0)
	for _, err := range []error{rt.Run(t.Context(), activity.Options{}, nil), executed, started, defined} {
		if err == nil || !strings.Contains(err.Error(), "nil") {
			t.Error(err)
		}
	}
}

// Rule 16. Given a start with several faults, then the error is about the options first,
// then the ended context, then the shutdown, then the ID.
func TestOptions_OrderOfChecks(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		h := start(t, rt, activity.Options{ID: "used"}, func(activity.Context) error { <-release; return nil })
		done, cancel := context.WithCancelCause(t.Context())
		cancel(io.EOF)
		fn := func(activity.Context) error { t.Error("it runs"); return nil }
		used, bad := activity.Options{ID: "used"}, activity.Options{ID: "used", CancelGrace: -1}

		if err := rt.Run(t.Context(), used, fn); !errors.Is(err, activity.ErrAlreadyRunning) {
			t.Errorf("ID: %v", err)
		}
		_ = rt.Shutdown(done)
		if err := rt.Run(t.Context(), used, fn); !errors.Is(err, activity.ErrShutdown) || errors.Is(err, activity.ErrAlreadyRunning) {
			t.Errorf("shutdown before ID: %v", err)
		}
		err := rt.Run(done, used, fn)
		checkEnd(t, err, 0, activity.RetryStateCancelRequested, io.EOF)
		if errors.Is(err, activity.ErrShutdown) {
			t.Errorf("ended context before shutdown: %v", err)
		}
		if err := rt.Run(done, bad, fn); err == nil || !strings.Contains(err.Error(), "CancelGrace") || errors.Is(err, io.EOF) {
			t.Errorf("options before ended context: %v", err)
		}
		close(release)
		<-h.Done()
	})
}

// Given a Config with a negative field, then New panics, and names the field and the
// value.
func TestNew_PanicsOnNegativeFields(t *testing.T) {
	for field, cfg := range map[string]activity.Config{
		"MaxConcurrent":  {MaxConcurrent: -1},
		"MaxDetailsSize": {MaxDetailsSize: -1},
		"SaveInterval":   {SaveInterval: -1},
	} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); !strings.Contains(v, field) || !strings.Contains(v, "-1") {
					t.Errorf("%s: panic %v", field, v)
				}
			}()
			activity.New(cfg)
		}()
	}
}

func runFuzzed(ctx activity.Context) error {
	n := ctx.Info().Attempt
	if n == 9 { // it times out again and again
		return activity.NonRetryable(errBoom)
	}
	if err := ctx.Heartbeat(n); err != nil {
		return err
	}
	if err := ctx.Sleep(time.Second); err != nil {
		return err
	}
	switch n {
	case 1:
		return errBoom
	case 2:
		panic(2)
	case 3:
		return activity.RetryAfter(errBoom, 0)
	case 4:
		return ctx.Sleep(time.Minute)
	}
	return nil
}

// Any Options are refused with an error that names a bad field, or the activity runs and ends.
func FuzzOptions(f *testing.F) {
	f.Add("", int64(0), int64(0), int64(0), int64(0), 0, int64(0), int64(0), int64(0), 0.0, 0, 0.0, false)
	f.Add("x", int64(1), int64(1), int64(1), int64(1), -1, int64(1), int64(1), int64(1), 1.0, 1, 1.0, true)
	f.Add("#1", int64(time.Minute), int64(time.Second), int64(time.Second), int64(time.Hour), 1, int64(time.Second), int64(time.Second), int64(time.Minute), 2.0, 3, 0.5, true)
	f.Add("x", int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), math.MaxInt32, int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64), math.MaxFloat64, math.MaxInt32, 1.0, false)
	f.Add("x", int64(-1), int64(-1), int64(-1), int64(-1), -2, int64(-1), int64(-1), int64(-1), math.NaN(), -1, math.Inf(1), false)
	f.Add("x", int64(0), int64(0), int64(0), int64(0), 0, int64(0), int64(2), int64(1), 0.5, 0, -1.0, false)
	f.Add("x", int64(0), int64(5e8), int64(0), int64(0), -1, int64(0), int64(0), int64(0), 0.0, 0, 0.0, false)
	f.Fuzz(func(t *testing.T, id string, startToClose, heartbeat, toStart, toClose int64, abandoned int, grace, initial, maximum int64, coefficient float64, attempts int, jitter float64, reset bool) {
		d := func(n int64) time.Duration { return time.Duration(n) }
		opts := activity.Options{
			ID: id, StartToCloseTimeout: d(startToClose), HeartbeatTimeout: d(heartbeat), ScheduleToStartTimeout: d(toStart), ScheduleToCloseTimeout: d(toClose),
			MaxAbandoned: abandoned, CancelGrace: d(grace),
			RetryPolicy: activity.RetryPolicy{InitialInterval: d(initial), MaximumInterval: d(maximum), BackoffCoefficient: coefficient, MaximumAttempts: attempts, Jitter: jitter, ResetOnProgress: reset},
		}
		bad := map[string]bool{
			"ID":                     len(id) > 1024 || strings.HasPrefix(id, "#"),
			"StartToCloseTimeout":    startToClose < 0,
			"HeartbeatTimeout":       heartbeat < 0,
			"ScheduleToStartTimeout": toStart < 0,
			"ScheduleToCloseTimeout": toClose < 0,
			"MaxAbandoned":           abandoned < -1,
			"CancelGrace":            grace < 0,
			"InitialInterval":        initial < 0,
			"MaximumInterval":        maximum < 0 || maximum > 0 && maximum < initial,
			"BackoffCoefficient":     coefficient != 0 && (math.IsNaN(coefficient) || math.IsInf(coefficient, 0) || coefficient < 1),
			"MaximumAttempts":        attempts < 0,
			"Jitter":                 math.IsNaN(jitter) || jitter < 0 || jitter > 1,
		}
		calls, err := 0, error(nil)
		bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
			// The bubble's time does not reach the end of a backoff of 292 years.
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			err = rt.Run(ctx, opts, func(ctx activity.Context) error {
				calls = ctx.Info().Attempt
				return runFuzzed(ctx)
			})
		})
		if err == nil {
			for field, is := range bad {
				if is {
					t.Errorf("Options.%s was accepted: %+v", field, opts)
				}
			}
			return
		}
		var e *activity.Error
		if errors.As(err, &e) {
			if e.RetryState == 0 || calls < 1 {
				t.Errorf("%d calls, %v", calls, err)
			}
			return
		}
		if calls != 0 {
			t.Errorf("%d calls, %v", calls, err)
		}
		for field, is := range bad {
			if is && strings.HasPrefix(err.Error(), "activity: Options."+field+" must ") || is && strings.HasPrefix(err.Error(), "activity: Options.RetryPolicy."+field+" must ") {
				return
			}
		}
		t.Errorf("%v names no bad field of %+v", err, opts)
	})
}

// Rules 3 and 16. Given Options.HeartbeatDetails that cannot be encoded or are too large,
// then the start is refused with an error that names the field.
func TestOptions_HeartbeatDetailsAreChecked(t *testing.T) {
	bubble(t, activity.Config{MaxDetailsSize: 10}, func(t *testing.T, rt *activity.Runtime) {
		for _, details := range [][]any{{func() {}}, {1, marshalPanics{}}, {"123456789"}} {
			err := rt.Run(t.Context(), activity.Options{HeartbeatDetails: details}, func(activity.Context) error {
				t.Error("it ran")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), "HeartbeatDetails") {
				t.Errorf("%v: got %v", details, err)
			}
		}
	})
}

// Rule 2. Given Options.HeartbeatDetails with a single nil or nil pointer, then there is
// nothing to resume from.
func TestOptions_HeartbeatDetailsNilPointer(t *testing.T) {
	for _, details := range [][]any{nil, {nil}, {(*int)(nil)}} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			checkErr(t, run(t, rt, activity.Options{HeartbeatDetails: details}, func(ctx activity.Context) error {
				if found, err := ctx.HeartbeatDetails(new(int)); found || err != nil {
					t.Errorf("%#v: %v, %v", details, found, err)
				}
				return nil
			}), nil)
		})
	}
}

// Rule 16. Given a Definition without a name or with an ID or a name in its Options, then
// it is refused with an error that names the field.
func TestDefinition_Refused(t *testing.T) {
	fn := func(activity.Context, int) (int, error) { panic("runs") }
	for want, d := range map[string]*activity.Definition[int, int]{
		"Definition.Name must not be empty":                            {Func: fn},
		`Definition.Options.ID must be empty (got "x")`:                {Name: "n", Options: activity.Options{ID: "x"}, Func: fn},
		`Definition.Options.Name must be empty (got "x"); Definition.`: {Name: "n", Options: activity.Options{Name: "x"}, Func: fn},
	} {
		rt := activity.New(activity.Config{Logger: quiet})
		_, executed := d.Execute(t.Context(), rt, "d1", 1)
		_, started := d.Start(t.Context(), rt, "d1", 1)
		for _, err := range []error{executed, started} {
			if err == nil || !strings.HasPrefix(err.Error(), `activity "d1": not started: `+want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if _, err := rt.Recover(t.Context(), d); err == nil || !strings.HasPrefix(err.Error(), "activity: Recover: "+want) {
			t.Errorf("Recover: got %v, want %s", err, want)
		}
	}
}
