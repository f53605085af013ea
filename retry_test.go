package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// failUntil fails all attempts before last with what fail returns.
func failUntil(last int, fail func(n int) error) func(activity.Context, int) error {
	return func(_ activity.Context, n int) error {
		if n >= last {
			return nil
		}
		return fail(n)
	}
}

func plainly(int) error { return errBoom }

// Rule 13. Given a policy, then the wait before attempt n+1 is InitialInterval x
// BackoffCoefficient^(n-1), and at most MaximumInterval.
func TestBackoff_Interval(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, tt := range []struct {
		name   string
		policy activity.RetryPolicy
		want   []time.Duration
	}{
		{"zero policy", activity.RetryPolicy{}, times(s, 1, 2, 4, 8, 16, 32, 64, 100, 100, 100)},
		{"initial only", activity.RetryPolicy{InitialInterval: 10 * ms}, times(ms, 10, 20, 40, 80, 160, 320, 640, 1000, 1000)},
		{"initial of 1 ns", activity.RetryPolicy{InitialInterval: 1}, times(1, 1, 2, 4, 8, 16, 32, 64, 100, 100)},
		{"maximum only, above 1 s", activity.RetryPolicy{MaximumInterval: 5 * s}, times(s, 1, 2, 4, 5, 5)},
		{"maximum only, 1 s", activity.RetryPolicy{MaximumInterval: s}, times(s, 1, 1, 1)},
		{"maximum only, 1 ns under 1 s", activity.RetryPolicy{MaximumInterval: s - 1}, times(1, 999999999, 999999999)},
		{"maximum only, 300 ms", activity.RetryPolicy{MaximumInterval: 300 * ms}, times(ms, 300, 300, 300)},
		{"maximum only, 1 ns", activity.RetryPolicy{MaximumInterval: 1}, times(1, 1, 1)},
		{"maximum equals initial", activity.RetryPolicy{InitialInterval: 3 * s, MaximumInterval: 3 * s}, times(s, 3, 3, 3)},
		{"maximum 1 ns above a power", activity.RetryPolicy{InitialInterval: s, MaximumInterval: 4*s + 1}, append(times(s, 1, 2, 4), 4*s+1, 4*s+1)},
		{"maximum 1 ns under a power", activity.RetryPolicy{InitialInterval: s, MaximumInterval: 4*s - 1}, append(times(s, 1, 2), 4*s-1, 4*s-1)},
		{"coefficient 1", activity.RetryPolicy{InitialInterval: 3 * s, BackoffCoefficient: 1}, times(s, 3, 3, 3, 3)},
		{"coefficient 1.5", activity.RetryPolicy{BackoffCoefficient: 1.5}, times(s, 1, 1.5, 2.25, 3.375)},
		{"coefficient 10", activity.RetryPolicy{InitialInterval: ms, BackoffCoefficient: 10, MaximumInterval: s}, times(ms, 1, 10, 100, 1000, 1000)},
		{"largest coefficient", activity.RetryPolicy{InitialInterval: 1, BackoffCoefficient: math.MaxFloat64, MaximumInterval: time.Hour}, []time.Duration{1, time.Hour, time.Hour, time.Hour}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delays, err := runDelays(t, activity.Config{}, activity.Options{RetryPolicy: tt.policy}, failUntil(len(tt.want)+1, plainly))
			if err != nil {
				t.Error(err)
			}
			checkDiff(t, "delays", delays, tt.want)
		})
	}
}

// Rule 13. Given 3,000 attempts, when the power is more than a float64 holds, then the
// interval stays at its maximum.
func TestBackoff_ManyAttemptsDoNotOverflow(t *testing.T) {
	const attempts = 3000 // 2^3000 is more than a float64 holds
	delays, err := runDelays(t, activity.Config{}, activity.Options{}, failUntil(attempts+1, plainly))
	if err != nil || len(delays) != attempts {
		t.Fatalf("%d delays, error %v", len(delays), err)
	}
	for i, d := range delays {
		if want := min(time.Second<<min(i, 7), 100*time.Second); d != want {
			t.Fatalf("after attempt %d: %s, want %s", i+1, d, want)
		}
	}
}

// Rule 13. Given an interval that is longer than a program lives, then it is reported,
// and the wait can be canceled.
func TestBackoff_HugeIntervals(t *testing.T) {
	const huge = time.Duration(math.MaxInt64)
	for _, tt := range []struct {
		name   string
		policy activity.RetryPolicy
		err    error
		want   time.Duration
	}{
		{"both the largest", activity.RetryPolicy{InitialInterval: huge, MaximumInterval: huge}, errBoom, huge},
		{"default maximum saturates", activity.RetryPolicy{InitialInterval: huge}, errBoom, huge},
		{"largest coefficient", activity.RetryPolicy{InitialInterval: huge, BackoffCoefficient: math.MaxFloat64}, errBoom, huge},
		{"RetryAfter", activity.RetryPolicy{}, activity.RetryAfter(errBoom, huge), huge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var j journal
			bubble(t, activity.Config{Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
				time.Sleep(time.Hour) // so that now plus the interval would overflow
				h := start(t, rt, activity.Options{RetryPolicy: tt.policy}, func(activity.Context) error { return tt.err })
				time.Sleep(time.Hour)
				checkDiff(t, "delays", j.delays(), []time.Duration{tt.want})
				if s := h.Status().State; s != activity.StateBackingOff {
					t.Errorf("state is %s", s)
				}
				h.Cancel(nil)
				if err := wait(t, h); !errors.Is(err, context.Canceled) || !errors.Is(err, errBoom) {
					t.Error(err)
				}
			})
		})
	}
}

// Rule 13. Given Jitter, then the interval is cut by a random part of up to that
// fraction, whatever Config.Rand returns.
func TestBackoff_Jitter(t *testing.T) {
	below1 := math.Nextafter(1, 0)
	value := func(f float64) func() float64 { return func() float64 { return f } }
	for _, tt := range []struct {
		name     string
		jitter   float64
		rand     func() float64
		min, max time.Duration
	}{
		{"half of it, 0", 0.5, value(0), time.Second, time.Second},
		{"half of it, 0.5", 0.5, value(0.5), 750 * time.Millisecond, 750 * time.Millisecond},
		{"half of it, just under 1", 0.5, value(below1), 500 * time.Millisecond, 500*time.Millisecond + 1},
		{"all of it, 0", 1, value(0), time.Second, time.Second},
		{"all of it, 0.25", 1, value(0.25), 750 * time.Millisecond, 750 * time.Millisecond},
		{"all of it, just under 1", 1, value(below1), 0, 1},
		{"none", 0, value(0.5), time.Second, time.Second},
		{"default Rand", 0.5, nil, 500 * time.Millisecond, time.Second},
		// A bad Rand stays within what Jitter allows.
		{"NaN", 0.5, value(math.NaN()), 500 * time.Millisecond, time.Second},
		{"1", 0.5, value(1), 500 * time.Millisecond, time.Second},
		{"2", 0.5, value(2), 500 * time.Millisecond, time.Second},
		{"-1", 0.5, value(-1), 500 * time.Millisecond, time.Second},
		{"infinite", 1, value(math.Inf(1)), 0, time.Second},
		{"negative infinite", 1, value(math.Inf(-1)), 0, time.Second},
		{"panic", 0.5, func() float64 { panic("no dice") }, 500 * time.Millisecond, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{Jitter: tt.jitter}}
			delays, err := runDelays(t, activity.Config{Rand: tt.rand}, opts, failUntil(2, plainly))
			if err != nil || len(delays) != 1 || delays[0] < tt.min || delays[0] > tt.max {
				t.Errorf("delays %v, error %v; want one from %s to %s", delays, err, tt.min, tt.max)
			}
		})
	}
}

// Rule 13. Given Jitter and MaximumInterval, then the jitter cuts the interval that
// MaximumInterval has bounded, with a new random number each time.
func TestBackoff_JitterCutsBoundedInterval(t *testing.T) {
	values := []float64{0.5, 0, 0.25, 0.5}
	rnd := func() float64 { v := values[0]; values = values[1:]; return v }
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 2 * time.Second, Jitter: 1}}
	delays, err := runDelays(t, activity.Config{Rand: rnd}, opts, failUntil(5, plainly))
	if err != nil {
		t.Error(err)
	}
	checkDiff(t, "delays", delays, times(time.Millisecond, 500, 2000, 1500, 1000))
}

// Given Config.Rand, when many activities fail at once, then one goroutine at a time
// calls it.
func TestBackoff_RandIsCalledByOneGoroutineAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0 // unguarded: the race detector looks on
		rnd := func() float64 { calls++; return 0.5 }
		rt := activity.New(activity.Config{Rand: rnd, Logger: quiet})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				opts := activity.Options{RetryPolicy: activity.RetryPolicy{Jitter: 1, BackoffCoefficient: 1}}
				if err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
					return failUntil(4, plainly)(ctx, ctx.Info().Attempt)
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if calls != 150 {
			t.Errorf("%d calls, want 150", calls)
		}
	})
}

// A delayer is another package's error that has RetryAfter's method.
type delayer time.Duration

func (delayer) Error() string               { return "later" }
func (d delayer) RetryDelay() time.Duration { return time.Duration(d) }

// Rule 13. Given RetryAfter with a positive duration, then that replaces one interval,
// and the attempt counts for the exponent; zero or less means the policy's interval.
func TestBackoff_RetryAfter(t *testing.T) {
	const s = time.Second
	after := func(d time.Duration) error { return activity.RetryAfter(errBoom, d) }
	for _, tt := range []struct {
		name string
		fail []error
		want []time.Duration
	}{
		{"0", []error{after(0), after(0), after(0)}, times(s, 1, 2, 4)},
		{"negative", []error{after(-time.Hour)}, times(s, 1)},
		{"the most negative", []error{after(math.MinInt64)}, times(s, 1)},
		{"1 ns", []error{after(1)}, []time.Duration{1}},
		{"beyond MaximumInterval", []error{after(time.Hour)}, []time.Duration{time.Hour}},
		{"counts for the exponent", []error{after(7 * s), errBoom, after(1), errBoom}, []time.Duration{7 * s, 2 * s, 1, 8 * s}},
		{"wrapped", []error{fmt.Errorf("x: %w", after(7*s))}, times(s, 7)},
		{"joined", []error{errors.Join(errors.New("x"), fmt.Errorf("y: %w", after(7*s)))}, times(s, 7)},
		{"the outer of two", []error{activity.RetryAfter(after(3*s), 7*s)}, times(s, 7)},
		{"the outer of two is 0", []error{activity.RetryAfter(after(3*s), 0)}, times(s, 1)},
		{"another package's", []error{fmt.Errorf("x: %w", delayer(7*s))}, times(s, 7)},
		{"another package's negative", []error{delayer(-7 * s)}, times(s, 1)},
		{"of an inner activity", []error{&activity.Error{Err: after(7 * s)}}, times(s, 1)},
		{"of an inner activity, wrapped", []error{fmt.Errorf("x: %w", &activity.Error{Err: after(7 * s)})}, times(s, 1)},
		{"around an inner activity's", []error{activity.RetryAfter(&activity.Error{Err: after(3 * s)}, 7*s)}, times(s, 7)},
		{"beside an inner activity's", []error{errors.Join(&activity.Error{Err: after(3 * s)}, after(7*s))}, times(s, 7)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumInterval: 20 * time.Second}}
			step := failUntil(len(tt.fail)+1, func(n int) error { return tt.fail[n-1] })
			delays, err := runDelays(t, activity.Config{}, opts, step)
			if err != nil {
				t.Error(err)
			}
			checkDiff(t, "delays", delays, tt.want)
		})
	}
}

// Rule 13. Given Jitter and RetryAfter, then the wait is exactly the given duration.
func TestBackoff_RetryAfterHasNoJitter(t *testing.T) {
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{Jitter: 1}}
	fail := func(int) error { return activity.RetryAfter(errBoom, 8*time.Second) }
	delays, _ := runDelays(t, activity.Config{Rand: func() float64 { return 0.5 }}, opts, failUntil(2, fail))
	checkDiff(t, "delays", delays, []time.Duration{8 * time.Second})
}

// Rules 13 and 14. Given a panic with a RetryAfter error, then its duration replaces the
// interval.
func TestBackoff_RetryAfterInPanic(t *testing.T) {
	delays, err := runDelays(t, activity.Config{}, activity.Options{}, failUntil(2, func(int) error { panic(activity.RetryAfter(errBoom, 7*time.Second)) }))
	if err != nil {
		t.Error(err)
	}
	checkDiff(t, "delays", delays, []time.Duration{7 * time.Second})
}

// Given RetryAfter, then nil stays nil, and an error keeps its text, unwraps, and has the
// method RetryDelay, which is never negative.
func TestBackoff_RetryAfterWraps(t *testing.T) {
	if err := activity.RetryAfter(nil, time.Second); err != nil {
		t.Errorf("of nil: %v", err)
	}
	err := fmt.Errorf("x: %w", activity.RetryAfter(errBoom, -1))
	var r interface{ RetryDelay() time.Duration }
	if !errors.As(err, &r) || r.RetryDelay() != 0 {
		t.Errorf("RetryDelay of a negative one: %v", r)
	}
	err = fmt.Errorf("x: %w", activity.RetryAfter(errBoom, 3))
	if !errors.As(err, &r) || r.RetryDelay() != 3 || !errors.Is(err, errBoom) || err.Error() != "x: boom" {
		t.Errorf("%v, delay %v", err, r)
	}
}

// Rule 15. Given attempts that RetryAfter hastens, then they count for MaximumAttempts.
func TestRetry_RetryAfterCountsForMaximumAttempts(t *testing.T) {
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}
	delays, err := runDelays(t, activity.Config{}, opts, failUntil(9, func(int) error { return activity.RetryAfter(errBoom, 1) }))
	checkEnd(t, err, 3, activity.RetryStateMaximumAttemptsReached, errBoom)
	checkDiff(t, "delays", delays, []time.Duration{1, 1, 0})
}

// Rule 15. Given MaximumAttempts, then the last attempt may still succeed, and its
// failure ends the activity.
func TestRetry_MaximumAttempts(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: limit}}
			delays, err := runDelays(t, activity.Config{}, opts, failUntil(limit+1, plainly))
			checkEnd(t, err, limit, activity.RetryStateMaximumAttemptsReached, errBoom)
			if len(delays) != limit || delays[limit-1] != 0 {
				t.Errorf("delays %v, want %d of which the last is 0", delays, limit)
			}
			// The last one may still succeed.
			if _, err := runDelays(t, activity.Config{}, opts, failUntil(limit, plainly)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Rule 15. Given MaximumAttempts, then attempts that timed out count.
func TestRetry_TimeoutsCountForMaximumAttempts(t *testing.T) {
	opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}
	_, err := runDelays(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
		if n > 2 {
			return nil
		}
		return ctx.Sleep(time.Hour)
	})
	checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
}

// Rules 10 and 13. Given RetryAfter, when the wait would end 1 ns before
// schedule-to-close, the next attempt runs; at that instant or later, the activity fails
// at once.
func TestBackoff_RetryAfterAtScheduleToClose(t *testing.T) {
	const limit = time.Minute
	for _, tt := range []struct {
		after time.Duration
		runs  bool
	}{{limit - 1, true}, {limit, false}, {limit + 1, false}, {math.MaxInt64, false}} {
		t.Run(tt.after.String(), func(t *testing.T) {
			opts := activity.Options{ScheduleToCloseTimeout: limit}
			delays, err := runDelays(t, activity.Config{}, opts, failUntil(2, func(int) error { return activity.RetryAfter(errBoom, tt.after) }))
			if tt.runs {
				if err != nil {
					t.Error(err)
				}
				checkDiff(t, "delays", delays, []time.Duration{tt.after})
				return
			}
			checkEnd(t, err, 1, activity.RetryStateTimeout, errBoom)
			checkDiff(t, "delays", delays, []time.Duration{0})
		})
	}
}

// Rule 15. Given ResetOnProgress, when an attempt made progress, then the backoff begins
// anew.
func TestRetry_ResetOnProgressBackoff(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name   string
		policy activity.RetryPolicy
		report []any // of each attempt; nil: a plain heartbeat
		want   []time.Duration
	}{
		{"off", activity.RetryPolicy{}, []any{nil, 1, 2, nil}, times(s, 1, 2, 4, 8)},
		{"no progress", activity.RetryPolicy{ResetOnProgress: true}, []any{nil, nil, nil}, times(s, 1, 2, 4)},
		{"progress each time", activity.RetryPolicy{ResetOnProgress: true}, []any{1, 2, 3, 4}, times(s, 1, 1, 1, 1)},
		{"progress now and then", activity.RetryPolicy{ResetOnProgress: true}, []any{nil, nil, 1, nil, nil, 2, nil}, times(s, 1, 2, 1, 2, 4, 1, 2)},
		{"the same details are none", activity.RetryPolicy{ResetOnProgress: true}, []any{1, 1, 1, 2}, times(s, 1, 2, 4, 1)},
		{"less is progress too", activity.RetryPolicy{ResetOnProgress: true}, []any{9, 1, 9}, times(s, 1, 1, 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delays, err := runDelays(t, activity.Config{}, activity.Options{RetryPolicy: tt.policy}, func(ctx activity.Context, n int) error {
				if n > len(tt.report) {
					return nil
				}
				if err := ctx.Heartbeat(tt.report[n-1]); err != nil {
					return err
				}
				return errBoom
			})
			if err != nil {
				t.Error(err)
			}
			checkDiff(t, "delays", delays, tt.want)
		})
	}
}

// Rule 15. Given ResetOnProgress, when an attempt made progress, then it counts as the
// first of MaximumAttempts again.
func TestRetry_ResetOnProgressMaximumAttempts(t *testing.T) {
	for _, tt := range []struct {
		name     string
		maximum  int
		progress []bool
		attempt  int // the last
	}{
		{"1 means no retry", 1, []bool{true, true, true}, 1},
		{"2, no progress", 2, []bool{false, false, false}, 2},
		{"2, progress in the first", 2, []bool{true, false, false}, 2},
		{"2, progress in the second", 2, []bool{false, true, false, false}, 3},
		{"2, progress in three", 2, []bool{true, true, true, false, false}, 4},
		{"3, progress in the last", 3, []bool{false, false, true, false, false, false}, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: tt.maximum, ResetOnProgress: true}}
			_, err := runDelays(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
				if n > len(tt.progress) {
					return nil
				}
				if tt.progress[n-1] {
					if err := ctx.Heartbeat(n); err != nil {
						return err
					}
				}
				return errBoom
			})
			checkEnd(t, err, tt.attempt, activity.RetryStateMaximumAttemptsReached, errBoom)
		})
	}
}

// An opError is the usual wrapper of an error.
type opError struct{ err error }

func (e *opError) Error() string { return "op: " + e.err.Error() }

func (e *opError) Unwrap() error { return e.err }

// Rule 15. Given a NonRetryable error around a nil pointer whose Unwrap panics, when a
// function returns it, then the activity is not retried.
func TestRetry_NonRetryableTypedNil(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, atMost(3), func(activity.Context) error {
		var e *opError
		return activity.NonRetryable(e)
	})
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts, want 1", calls)
	}
}

// Rule 13. Given a RetryAfter error around a nil pointer whose Unwrap panics, when a
// function returns it, then its duration replaces the interval.
func TestRetry_RetryAfterTypedNil(t *testing.T) {
	delays, _ := runDelays(t, activity.Config{}, atMost(2), func(ctx activity.Context, n int) error {
		var e *opError
		return activity.RetryAfter(e, time.Hour)
	})
	checkDiff(t, "delays", delays[:1], []time.Duration{time.Hour})
}

// Rule 15. Given errors.Join of a nil pointer whose Unwrap panics and a NonRetryable
// error, when a function returns it, then the activity is not retried.
func TestRetry_NonRetryableBesideTypedNil(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, atMost(3), func(activity.Context) error {
		var e *opError
		return errors.Join(e, activity.NonRetryable(errBoom))
	})
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts, want 1", calls)
	}
}

// typedFinal is another package's error that has NonRetryable's method.
type typedFinal bool

func (typedFinal) Error() string        { return "typed" }
func (e typedFinal) NonRetryable() bool { return bool(e) }

// Rule 15. Given an error with a NonRetryable mark in it, then it is not retried, unless
// it is the end of an inner activity.
func TestRetry_NonRetryableErrors(t *testing.T) {
	final := activity.NonRetryable(errBoom)
	inner := &activity.Error{ID: "inner", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: final}
	goexit := &activity.Error{ID: "inner", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: activity.ErrGoexit}
	for _, tt := range []struct {
		name  string
		err   error
		final bool
	}{
		{"itself", final, true},
		{"wrapped", fmt.Errorf("x: %w", fmt.Errorf("y: %w", final)), true},
		{"joined", errors.Join(io.EOF, final), true},
		{"two %w", fmt.Errorf("%w, %w", io.EOF, final), true},
		{"in RetryAfter", activity.RetryAfter(final, time.Second), true},
		{"around RetryAfter", activity.NonRetryable(activity.RetryAfter(errBoom, time.Second)), true},
		{"typed method", typedFinal(true), true},
		{"typed method, wrapped", fmt.Errorf("x: %w", typedFinal(true)), true},
		{"typed method that says no", typedFinal(false), false},
		{"one that says no around one", errors.Join(typedFinal(false), typedFinal(true)), true},
		{"plain", errBoom, false},
		{"an inner activity's", inner, false},
		{"an inner activity's, wrapped", fmt.Errorf("x: %w", inner), false},
		{"an inner activity's, joined", errors.Join(io.EOF, inner), false},
		{"an inner activity's, in RetryAfter", activity.RetryAfter(inner, time.Second), false},
		{"an inner activity's Goexit", goexit, false},
		{"around an inner activity's", activity.NonRetryable(inner), true},
		{"beside an inner activity's", errors.Join(inner, final), true},
	} {
		for _, panics := range []bool{false, true} {
			name := tt.name
			if panics {
				name += ", in a panic"
			}
			t.Run(name, func(t *testing.T) {
				calls, err := runCalls(t, activity.Config{}, atMost(2), func(activity.Context) error {
					if panics {
						panic(tt.err)
					}
					return tt.err
				})
				if tt.final {
					checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure, tt.err)
				} else {
					checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, tt.err)
				}
				if want := map[bool]int{true: 1, false: 2}[tt.final]; calls != want {
					t.Errorf("%d attempts, want %d", calls, want)
				}
			})
		}
	}
}

// Rule 15. Given an outer activity that returns the *Error of an inner one that was not
// retried, then the outer one is retried.
func TestRetry_InnerActivitysEndIsRetried(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		inner, outer := 0, 0
		err := rt.Run(t.Context(), activity.Options{Name: "outer"}, func(ctx activity.Context) error {
			outer++
			if outer == 3 {
				return nil
			}
			err := rt.Run(ctx, activity.Options{Name: "inner"}, func(activity.Context) error {
				inner++
				return activity.NonRetryable(errBoom)
			})
			if outer == 1 {
				return err
			}
			return fmt.Errorf("step one: %w", err)
		})
		if err != nil || inner != 2 || outer != 3 {
			t.Errorf("inner %d, outer %d, %v", inner, outer, err)
		}
	})
}

// Given NonRetryable, then nil stays nil, and an error keeps its text, unwraps, and has
// the method NonRetryable.
func TestRetry_NonRetryableWraps(t *testing.T) {
	if err := activity.NonRetryable(nil); err != nil {
		t.Errorf("of nil: %v", err)
	}
	err := fmt.Errorf("x: %w", activity.NonRetryable(errBoom))
	var n interface{ NonRetryable() bool }
	if !errors.As(err, &n) || !n.NonRetryable() || !errors.Is(err, errBoom) || err.Error() != "x: boom" {
		t.Error(err)
	}
}

// Rule 15. Given RetryPolicy.Retryable, then it is asked about errors and timeouts,
// outside every lock, and its no ends the activity.
func TestRetry_RetryableIsAsked(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var asked []string
		var h *activity.Handle[string]
		set := make(chan struct{})
		opts := activity.Options{StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second}
		opts.RetryPolicy.Retryable = func(err error) bool {
			// None of these may meet a lock.
			rt.Stats()
			rt.Activities()
			s := h.Status()
			asked = append(asked, fmt.Sprint(s.Attempt, " ", s.State))
			switch s.Attempt {
			case 1:
				return errors.Is(err, errBoom)
			case 2:
				return timeoutType(err) == activity.TimeoutHeartbeat
			case 3:
				return timeoutType(err) == activity.TimeoutStartToClose
			case 4:
				var p *activity.PanicError
				return errors.As(err, &p)
			}
			return !errors.Is(err, io.EOF)
		}
		h = start(t, rt, opts, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				<-set
				return errBoom
			case 2:
				return ctx.Sleep(time.Hour)
			case 3:
				return activity.Idle(ctx, time.Hour)
			case 4:
				panic("four")
			}
			return io.EOF
		})
		close(set)
		err := wait(t, h)
		checkEnd(t, err, 5, activity.RetryStateNonRetryableFailure, io.EOF)
		checkDiff(t, "asked", asked, []string{"1 running", "2 running", "3 running", "4 running", "5 running"})
	})
}

// Rule 15. Given RetryPolicy.Retryable, when an attempt succeeded, was canceled, was
// NonRetryable or ran into schedule-to-close, then it is not asked.
func TestRetry_RetryableIsNotAsked(t *testing.T) {
	ask := func(err error) bool { t.Errorf("asked about %v", err); return true }
	for name, fn := range map[string]func(ctx activity.Context) error{
		"NonRetryable":      func(activity.Context) error { return activity.NonRetryable(errBoom) },
		"schedule-to-close": func(ctx activity.Context) error { return ctx.Sleep(time.Hour) },
		"success":           noop,
	} {
		t.Run(name, func(t *testing.T) {
			opts := activity.Options{ScheduleToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{Retryable: ask}}
			if calls, err := runCalls(t, activity.Config{}, opts, fn); calls != 1 || (err == nil) != (name == "success") {
				t.Errorf("%d attempts, %v", calls, err)
			}
		})
	}
	t.Run("cancellation", func(t *testing.T) {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := rt.Run(ctx, activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: ask}}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
			checkEnd(t, err, 1, activity.RetryStateCancelRequested, context.DeadlineExceeded)
		})
	})
}

// Rules 15 and 18. Given a Retryable that cancels the activity, then no further attempt
// starts.
func TestRetry_RetryableThatCancels(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var h *activity.Handle[string]
		set := make(chan struct{})
		opts := activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { h.Cancel(io.EOF); return true }}}
		h = start(t, rt, opts, func(activity.Context) error {
			<-set
			return activity.RetryAfter(errBoom, 0)
		})
		close(set)
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, io.EOF, errBoom)
	})
}

// Rule 24. Given a Retryable that panics or calls runtime.Goexit, then that counts as
// yes.
func TestRetry_RetryableThatPanicsOrExits(t *testing.T) {
	for name, f := range map[string]func(){"panic": func() { panic("hm") }, "Goexit": runtime.Goexit} {
		for _, fail := range []error{errBoom, activity.RetryAfter(errBoom, 7*time.Second), nil} {
			t.Run(fmt.Sprintf("%s after %T", name, fail), func(t *testing.T) {
				var asked atomic.Int32
				opts := activity.Options{StartToCloseTimeout: time.Minute}
				opts.RetryPolicy.Retryable = func(error) bool { asked.Add(1); f(); return false }
				delays, err := runDelays(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
					switch {
					case n == 3:
						return nil
					case fail == nil:
						return ctx.Sleep(time.Hour) // a timeout
					}
					return fail
				})
				if err != nil || asked.Load() != 2 {
					t.Errorf("asked %d times, %v; it counts as yes", asked.Load(), err)
				}
				want := times(time.Second, 1, 2)
				if d, ok := fail.(interface{ RetryDelay() time.Duration }); ok {
					want = []time.Duration{d.RetryDelay(), d.RetryDelay()}
				}
				checkDiff(t, "delays", delays, want)
			})
		}
	}
}

// Rule 15. Given a poller that runs for a while and fails, when it ran for ResetAfter, then the
// next interval is the first again; when it ran for a nanosecond less, the intervals grow.
func TestResetAfter_IntervalOfAPoller(t *testing.T) {
	for ran, want := range map[time.Duration][]time.Duration{
		time.Minute:     times(time.Second, 1, 1, 1, 1),
		time.Minute - 1: times(time.Second, 1, 2, 4, 8),
	} {
		both(t, activity.Config{}, func(t *testing.T, e *env) {
			opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{ResetAfter: time.Minute, MaximumAttempts: 5}}
			calls := 0
			h := e.start(opts, func(ctx activity.Context) error {
				if calls++; calls > 4 {
					return activity.NonRetryable(errBoom)
				}
				_ = ctx.Sleep(ran)
				return errBoom
			})
			e.pass(time.Hour)
			_ = e.end(h)
			checkDiff(t, "the delays", e.delays()[:4], want)
		})
	}
}

// Rule 15. Given an attempt that times out exactly ResetAfter after its start, then it counts as the
// first again. With MaximumAttempts 1 there is still no retry.
func TestResetAfter_TimeoutAndMaximumAttempts(t *testing.T) {
	for _, test := range []struct {
		timeout  time.Duration
		max      int
		attempts int
	}{
		{time.Minute, 2, 5},
		{time.Minute - 1, 2, 2},
		{time.Minute, 1, 1},
	} {
		both(t, activity.Config{}, func(t *testing.T, e *env) {
			opts := activity.Options{StartToCloseTimeout: test.timeout, RetryPolicy: activity.RetryPolicy{ResetAfter: time.Minute, MaximumAttempts: test.max}}
			h := e.start(opts, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 5 {
					return activity.NonRetryable(errBoom)
				}
				return untilEnded(ctx)
			})
			for range 10 {
				e.pass(time.Minute)
			}
			_ = e.end(h)
			if got := h.Status().Attempt; got != test.attempts {
				t.Errorf("timeout %s, at most %d: %d attempts, want %d", test.timeout, test.max, got, test.attempts)
			}
		})
	}
}

// Rule 16. Given a negative ResetAfter, then the start is refused.
func TestResetAfter_Negative(t *testing.T) {
	err := activity.New(activity.Config{}).Run(t.Context(), activity.Options{RetryPolicy: activity.RetryPolicy{ResetAfter: -1}}, noop)
	if want := "activity: Options.RetryPolicy.ResetAfter must not be negative (got -1ns)"; fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
