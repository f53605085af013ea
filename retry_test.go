package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var (
	retryQuiet = slog.New(slog.DiscardHandler)
	errBoom    = errors.New("boom")
)

// A retryLog is an Observer that keeps what it is told.
type retryLog struct {
	mu     sync.Mutex
	events []activity.Event
}

func (l *retryLog) observe(e activity.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *retryLog) of(kind activity.EventKind) []activity.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []activity.Event
	for _, e := range l.events {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

func (l *retryLog) kinds(id string) []activity.EventKind {
	l.mu.Lock()
	defer l.mu.Unlock()
	var kinds []activity.EventKind
	for _, e := range l.events {
		if e.ID == id {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (l *retryLog) delays() []time.Duration {
	var all []time.Duration
	for _, e := range l.of(activity.EventAttemptFailed) {
		all = append(all, e.Delay)
	}
	return all
}

// retryRun runs, in a bubble, an activity whose attempts call step with their
// number until it returns nil. It returns the delays that were told, and checks
// that they are the time that passed.
func retryRun(t *testing.T, cfg activity.Config, opts activity.Options, step func(ctx activity.Context, n int) error) ([]time.Duration, error) {
	t.Helper()
	var delays []time.Duration
	var err error
	synctest.Test(t, func(t *testing.T) {
		var l retryLog
		cfg.Observer, cfg.Logger = l.observe, retryQuiet
		rt := activity.New(cfg)
		err = rt.Run(t.Context(), opts, func(ctx activity.Context) error { return step(ctx, ctx.Info().Attempt) })
		delays = l.delays()
		failed, started := l.of(activity.EventAttemptFailed), l.of(activity.EventAttemptStarted)
		for i := 1; i < len(started); i++ {
			if got := started[i].Time.Sub(failed[i-1].Time); got != failed[i-1].Delay {
				t.Errorf("attempt %d started %s after the failure of the one before, and its Delay was %s", i+1, got, failed[i-1].Delay)
			}
		}
	})
	return delays, err
}

// retryFail fails all attempts before last with what fail returns.
func retryFail(last int, fail func(n int) error) func(activity.Context, int) error {
	return func(_ activity.Context, n int) error {
		if n >= last {
			return nil
		}
		return fail(n)
	}
}

func retryPlain(int) error { return errBoom }

func retryDiff(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func retryTimes(unit time.Duration, n ...float64) []time.Duration {
	var all []time.Duration
	for _, f := range n {
		all = append(all, time.Duration(f*float64(unit)))
	}
	return all
}

func TestRule13Interval(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	for _, tt := range []struct {
		name   string
		policy activity.RetryPolicy
		want   []time.Duration
	}{
		{"zero policy", activity.RetryPolicy{}, retryTimes(s, 1, 2, 4, 8, 16, 32, 64, 100, 100, 100)},
		{"initial only", activity.RetryPolicy{InitialInterval: 10 * ms}, retryTimes(ms, 10, 20, 40, 80, 160, 320, 640, 1000, 1000)},
		{"initial of 1 ns", activity.RetryPolicy{InitialInterval: 1}, retryTimes(1, 1, 2, 4, 8, 16, 32, 64, 100, 100)},
		{"maximum only, above 1 s", activity.RetryPolicy{MaximumInterval: 5 * s}, retryTimes(s, 1, 2, 4, 5, 5)},
		{"maximum only, 1 s", activity.RetryPolicy{MaximumInterval: s}, retryTimes(s, 1, 1, 1)},
		{"maximum only, 1 ns under 1 s", activity.RetryPolicy{MaximumInterval: s - 1}, retryTimes(1, 999999999, 999999999)},
		{"maximum only, 300 ms", activity.RetryPolicy{MaximumInterval: 300 * ms}, retryTimes(ms, 300, 300, 300)},
		{"maximum only, 1 ns", activity.RetryPolicy{MaximumInterval: 1}, retryTimes(1, 1, 1)},
		{"maximum equals initial", activity.RetryPolicy{InitialInterval: 3 * s, MaximumInterval: 3 * s}, retryTimes(s, 3, 3, 3)},
		{"maximum 1 ns above a power", activity.RetryPolicy{InitialInterval: s, MaximumInterval: 4*s + 1}, append(retryTimes(s, 1, 2, 4), 4*s+1, 4*s+1)},
		{"maximum 1 ns under a power", activity.RetryPolicy{InitialInterval: s, MaximumInterval: 4*s - 1}, append(retryTimes(s, 1, 2), 4*s-1, 4*s-1)},
		{"coefficient 1", activity.RetryPolicy{InitialInterval: 3 * s, BackoffCoefficient: 1}, retryTimes(s, 3, 3, 3, 3)},
		{"coefficient 1.5", activity.RetryPolicy{BackoffCoefficient: 1.5}, retryTimes(s, 1, 1.5, 2.25, 3.375)},
		{"coefficient 10", activity.RetryPolicy{InitialInterval: ms, BackoffCoefficient: 10, MaximumInterval: s}, retryTimes(ms, 1, 10, 100, 1000, 1000)},
		{"largest coefficient", activity.RetryPolicy{InitialInterval: 1, BackoffCoefficient: math.MaxFloat64, MaximumInterval: time.Hour}, []time.Duration{1, time.Hour, time.Hour, time.Hour}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delays, err := retryRun(t, activity.Config{}, activity.Options{RetryPolicy: tt.policy}, retryFail(len(tt.want)+1, retryPlain))
			if err != nil {
				t.Error(err)
			}
			retryDiff(t, "delays", delays, tt.want)
		})
	}
}

func TestRule13ManyAttemptsDoNotOverflow(t *testing.T) {
	const attempts = 3000 // 2^3000 is more than a float64 holds
	delays, err := retryRun(t, activity.Config{}, activity.Options{}, retryFail(attempts+1, retryPlain))
	if err != nil || len(delays) != attempts {
		t.Fatalf("%d delays, error %v", len(delays), err)
	}
	for i, d := range delays {
		if want := min(time.Second<<min(i, 7), 100*time.Second); d != want {
			t.Fatalf("after attempt %d: %s, want %s", i+1, d, want)
		}
	}
}

// A backoff that is longer than a program lives is shown, and can be canceled.
func TestRule13HugeIntervals(t *testing.T) {
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
			synctest.Test(t, func(t *testing.T) {
				var l retryLog
				rt := activity.New(activity.Config{Observer: l.observe, Logger: retryQuiet})
				time.Sleep(time.Hour) // so that now plus the interval would overflow
				h, err := activity.Start(t.Context(), rt, activity.Options{RetryPolicy: tt.policy}, func(activity.Context, int) (int, error) { return 0, tt.err }, 0)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				retryDiff(t, "delays", l.delays(), []time.Duration{tt.want})
				if s := h.Status().State; s != activity.StateBackingOff {
					t.Errorf("state is %s", s)
				}
				h.Cancel(nil)
				if _, err := h.Wait(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, errBoom) {
					t.Error(err)
				}
			})
		})
	}
}

func TestRule13Jitter(t *testing.T) {
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
			delays, err := retryRun(t, activity.Config{Rand: tt.rand}, opts, retryFail(2, retryPlain))
			if err != nil || len(delays) != 1 || delays[0] < tt.min || delays[0] > tt.max {
				t.Errorf("delays %v, error %v; want one from %s to %s", delays, err, tt.min, tt.max)
			}
		})
	}
}

// The jitter cuts the interval that MaximumInterval has bounded, each time anew.
func TestRule13JitterIsOfTheBoundedInterval(t *testing.T) {
	values := []float64{0.5, 0, 0.25, 0.5}
	rnd := func() float64 { v := values[0]; values = values[1:]; return v }
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 2 * time.Second, Jitter: 1}}
	delays, err := retryRun(t, activity.Config{Rand: rnd}, opts, retryFail(5, retryPlain))
	if err != nil {
		t.Error(err)
	}
	retryDiff(t, "delays", delays, retryTimes(time.Millisecond, 500, 2000, 1500, 1000))
}

func TestRule13RandIsCalledByOneGoroutineAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0 // unguarded: the race detector looks on
		rnd := func() float64 { calls++; return 0.5 }
		rt := activity.New(activity.Config{Rand: rnd, Logger: retryQuiet})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				opts := activity.Options{RetryPolicy: activity.RetryPolicy{Jitter: 1, BackoffCoefficient: 1}}
				if err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
					return retryFail(4, retryPlain)(ctx, ctx.Info().Attempt)
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

// A retryDelayer is another package's error that has RetryAfter's method.
type retryDelayer time.Duration

func (retryDelayer) Error() string               { return "later" }
func (d retryDelayer) RetryDelay() time.Duration { return time.Duration(d) }

func TestRule13RetryAfter(t *testing.T) {
	const s = time.Second
	after := func(d time.Duration) error { return activity.RetryAfter(errBoom, d) }
	for _, tt := range []struct {
		name string
		fail []error
		want []time.Duration
	}{
		{"0", []error{after(0)}, []time.Duration{0}},
		{"negative", []error{after(-time.Hour)}, []time.Duration{0}},
		{"the most negative", []error{after(math.MinInt64)}, []time.Duration{0}},
		{"1 ns", []error{after(1)}, []time.Duration{1}},
		{"beyond MaximumInterval", []error{after(time.Hour)}, []time.Duration{time.Hour}},
		{"counts for the exponent", []error{after(7 * s), errBoom, after(0), errBoom}, retryTimes(s, 7, 2, 0, 8)},
		{"wrapped", []error{fmt.Errorf("x: %w", after(7*s))}, retryTimes(s, 7)},
		{"joined", []error{errors.Join(errors.New("x"), fmt.Errorf("y: %w", after(7*s)))}, retryTimes(s, 7)},
		{"the outer of two", []error{activity.RetryAfter(after(3*s), 7*s)}, retryTimes(s, 7)},
		{"another package's", []error{fmt.Errorf("x: %w", retryDelayer(7*s))}, retryTimes(s, 7)},
		{"another package's negative", []error{retryDelayer(-7 * s)}, retryTimes(s, 0)},
		{"of an inner activity", []error{&activity.Error{Err: after(7 * s)}}, retryTimes(s, 1)},
		{"of an inner activity, wrapped", []error{fmt.Errorf("x: %w", &activity.Error{Err: after(7 * s)})}, retryTimes(s, 1)},
		{"around an inner activity's", []error{activity.RetryAfter(&activity.Error{Err: after(3 * s)}, 7*s)}, retryTimes(s, 7)},
		{"beside an inner activity's", []error{errors.Join(&activity.Error{Err: after(3 * s)}, after(7*s))}, retryTimes(s, 7)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumInterval: 20 * time.Second}}
			step := retryFail(len(tt.fail)+1, func(n int) error { return tt.fail[n-1] })
			delays, err := retryRun(t, activity.Config{}, opts, step)
			if err != nil {
				t.Error(err)
			}
			retryDiff(t, "delays", delays, tt.want)
		})
	}
}

func TestRule13RetryAfterHasNoJitter(t *testing.T) {
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{Jitter: 1}}
	fail := func(int) error { return activity.RetryAfter(errBoom, 8*time.Second) }
	delays, _ := retryRun(t, activity.Config{Rand: func() float64 { return 0.5 }}, opts, retryFail(2, fail))
	retryDiff(t, "delays", delays, []time.Duration{8 * time.Second})
}

func TestRule13RetryAfterInAPanic(t *testing.T) {
	delays, err := retryRun(t, activity.Config{}, activity.Options{}, retryFail(2, func(int) error { panic(activity.RetryAfter(errBoom, 7*time.Second)) }))
	if err != nil {
		t.Error(err)
	}
	retryDiff(t, "delays", delays, []time.Duration{7 * time.Second})
}

func TestRetryAfterError(t *testing.T) {
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

// The attempts that RetryAfter speeds up count for MaximumAttempts as well.
func TestRule15RetryAfterCounts(t *testing.T) {
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}
	delays, err := retryRun(t, activity.Config{}, opts, retryFail(9, func(int) error { return activity.RetryAfter(errBoom, 0) }))
	retryEnd(t, err, 3, activity.RetryStateMaximumAttemptsReached, errBoom)
	retryDiff(t, "delays", delays, []time.Duration{0, 0, 0})
}

// retryEnd checks how an activity ended.
func retryEnd(t *testing.T, err error, attempt int, state activity.RetryState, is ...error) {
	t.Helper()
	var e *activity.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v (%T), want an *Error", err, err)
		return
	}
	if e.Attempt != attempt || e.RetryState != state {
		t.Errorf("ended in attempt %d, %s; want attempt %d, %s: %v", e.Attempt, e.RetryState, attempt, state, err)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("%v does not wrap %v", err, target)
		}
	}
}

func TestRule15MaximumAttempts(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: limit}}
			delays, err := retryRun(t, activity.Config{}, opts, retryFail(limit+1, retryPlain))
			retryEnd(t, err, limit, activity.RetryStateMaximumAttemptsReached, errBoom)
			if len(delays) != limit || delays[limit-1] != 0 {
				t.Errorf("delays %v, want %d of which the last is 0", delays, limit)
			}
			// The last one may still succeed.
			if _, err := retryRun(t, activity.Config{}, opts, retryFail(limit, retryPlain)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRule15TimeoutsCountForMaximumAttempts(t *testing.T) {
	opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}
	_, err := retryRun(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
		if n > 2 {
			return nil
		}
		return ctx.Sleep(time.Hour)
	})
	retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
}

// The wait that would end at the schedule-to-close timeout is not waited for.
func TestRule13RetryAfterAtScheduleToClose(t *testing.T) {
	const limit = time.Minute
	for _, tt := range []struct {
		after time.Duration
		runs  bool
	}{{limit - 1, true}, {limit, false}, {limit + 1, false}, {math.MaxInt64, false}} {
		t.Run(tt.after.String(), func(t *testing.T) {
			opts := activity.Options{ScheduleToCloseTimeout: limit}
			delays, err := retryRun(t, activity.Config{}, opts, retryFail(2, func(int) error { return activity.RetryAfter(errBoom, tt.after) }))
			if tt.runs {
				if err != nil {
					t.Error(err)
				}
				retryDiff(t, "delays", delays, []time.Duration{tt.after})
				return
			}
			retryEnd(t, err, 1, activity.RetryStateTimeout, errBoom)
			retryDiff(t, "delays", delays, []time.Duration{0})
		})
	}
}

func TestRule15ResetOnProgressBackoff(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name   string
		policy activity.RetryPolicy
		report []any // of each attempt; nil: a plain heartbeat
		want   []time.Duration
	}{
		{"off", activity.RetryPolicy{}, []any{nil, 1, 2, nil}, retryTimes(s, 1, 2, 4, 8)},
		{"no progress", activity.RetryPolicy{ResetOnProgress: true}, []any{nil, nil, nil}, retryTimes(s, 1, 2, 4)},
		{"progress each time", activity.RetryPolicy{ResetOnProgress: true}, []any{1, 2, 3, 4}, retryTimes(s, 1, 1, 1, 1)},
		{"progress now and then", activity.RetryPolicy{ResetOnProgress: true}, []any{nil, nil, 1, nil, nil, 2, nil}, retryTimes(s, 1, 2, 1, 2, 4, 1, 2)},
		{"the same details are none", activity.RetryPolicy{ResetOnProgress: true}, []any{1, 1, 1, 2}, retryTimes(s, 1, 2, 4, 1)},
		{"less is progress too", activity.RetryPolicy{ResetOnProgress: true}, []any{9, 1, 9}, retryTimes(s, 1, 1, 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delays, err := retryRun(t, activity.Config{}, activity.Options{RetryPolicy: tt.policy}, func(ctx activity.Context, n int) error {
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
			retryDiff(t, "delays", delays, tt.want)
		})
	}
}

func TestRule15ResetOnProgressMaximumAttempts(t *testing.T) {
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
			_, err := retryRun(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
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
			retryEnd(t, err, tt.attempt, activity.RetryStateMaximumAttemptsReached, errBoom)
		})
	}
}

// A slot that another activity waits for does not count as backoff: the wait
// for it comes on top of the interval.
func TestRule13IntervalThenSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l retryLog
		var others atomic.Int32
		rt := activity.New(activity.Config{MaxConcurrent: 1, Observer: l.observe, Logger: retryQuiet})
		h, err := activity.Start(t.Context(), rt, activity.Options{ID: "a"}, func(ctx activity.Context, _ int) (int, error) {
			return 0, retryFail(2, retryPlain)(ctx, ctx.Info().Attempt)
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := rt.Run(t.Context(), activity.Options{ID: "b"}, func(ctx activity.Context) error {
			others.Add(1)
			return ctx.Sleep(5 * time.Second)
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		started := l.of(activity.EventAttemptStarted)
		if got := started[2].Time.Sub(started[0].Time); got != 5*time.Second || others.Load() != 1 {
			t.Errorf("the second attempt started after %s, want 5s, when the slot was free", got)
		}
		retryDiff(t, "delays", l.delays(), []time.Duration{time.Second})
	})
}

func TestRule16BadOptions(t *testing.T) {
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
			calls, err := errorsRun(t, activity.Config{}, tt.opts, func(activity.Context) error { return nil })
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

func TestRule16GoodEdges(t *testing.T) {
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
		if calls, err := errorsRun(t, activity.Config{}, opts, func(activity.Context) error { return nil }); calls != 1 || err != nil {
			t.Errorf("%d: %d attempts, %v", i, calls, err)
		}
	}
}

func TestRule16NilFunction(t *testing.T) {
	rt := activity.New(activity.Config{Logger: retryQuiet})
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

func TestRule16Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		release := make(chan struct{})
		h, err := activity.Start(t.Context(), rt, activity.Options{ID: "used"}, func(activity.Context, int) (int, error) { <-release; return 0, nil }, 0)
		if err != nil {
			t.Fatal(err)
		}
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
		err = rt.Run(done, used, fn)
		retryEnd(t, err, 0, activity.RetryStateCancelRequested, io.EOF)
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

func TestRule16NewPanicsOnNegativeFields(t *testing.T) {
	for field, cfg := range map[string]activity.Config{
		"MaxConcurrent":  {MaxConcurrent: -1},
		"MaxDetailsSize": {MaxDetailsSize: -1},
		"SyncInterval":   {SyncInterval: -1},
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

func retryFuzzed(ctx activity.Context) error {
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
	f.Add("activity-1", int64(time.Minute), int64(time.Second), int64(time.Second), int64(time.Hour), 1, int64(time.Second), int64(time.Second), int64(time.Minute), 2.0, 3, 0.5, true)
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
			"ID":                     len(id) > 1024,
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
		synctest.Test(t, func(t *testing.T) {
			// The bubble's time does not reach the end of a backoff of 292 years.
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			rt := activity.New(activity.Config{MaxConcurrent: 1, Logger: retryQuiet})
			err = rt.Run(ctx, opts, func(ctx activity.Context) error {
				calls = ctx.Info().Attempt
				return retryFuzzed(ctx)
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
			if is && strings.HasPrefix(err.Error(), "activity: Options."+field+" is ") || is && strings.HasPrefix(err.Error(), "activity: Options.RetryPolicy."+field+" is ") {
				return
			}
		}
		t.Errorf("%v names no bad field of %+v", err, opts)
	})
}
