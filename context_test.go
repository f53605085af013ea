package activity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// Rule 12. Given timeouts and a caller's deadline, then Context.Deadline reports the
// earliest under the real clock and none under another; Info().Deadline has the earliest
// timeout under both.
func TestContext_DeadlineOnlyUnderRealClock(t *testing.T) {
	tests := []struct {
		attempt, all, caller time.Duration
		want, info           time.Duration // 0: none
	}{
		{0, 0, 0, 0, 0},
		{time.Minute, 0, 0, time.Minute, time.Minute},
		{0, time.Minute, 0, time.Minute, time.Minute},
		{time.Minute, time.Hour, 0, time.Minute, time.Minute},
		{time.Hour, time.Minute, 0, time.Minute, time.Minute},
		{0, 0, time.Minute, time.Minute, 0},
		{time.Minute, 0, time.Minute - 1, time.Minute - 1, time.Minute},
		{time.Minute, 0, time.Minute + 1, time.Minute, time.Minute},
	}
	for _, test := range tests {
		for _, kind := range []string{"nil", "real", "mock"} {
			synctest.Test(t, func(t *testing.T) {
				cfg := activity.Config{Logger: quiet}
				begun := time.Now()
				switch kind {
				case "real":
					cfg.Clock = clock.New()
				case "mock":
					mock := clock.NewMock()
					cfg.Clock, begun = mock, mock.Now()
				}
				ctx := t.Context()
				if test.caller > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.caller)
					defer cancel()
				}
				opts := activity.Options{StartToCloseTimeout: test.attempt, ScheduleToCloseTimeout: test.all}
				err := activity.New(cfg).Run(ctx, opts, func(ctx activity.Context) error {
					child, _ := activity.FromContext(context.WithValue(ctx, key{}, 1))
					for _, ctx := range []context.Context{ctx, child} {
						got, ok := ctx.Deadline()
						if wanted := kind != "mock" && test.want > 0; ok != wanted || ok && !got.Equal(begun.Add(test.want)) {
							t.Errorf("%s clock, %v: Deadline is %s after the start, %v", kind, test, got.Sub(begun), ok)
						}
					}
					info := ctx.Info().Deadline
					if info.IsZero() != (test.info == 0) || test.info > 0 && !info.Equal(begun.Add(test.info)) {
						t.Errorf("%s clock, %v: Info().Deadline is %s after the start", kind, test, info.Sub(begun))
					}
					return nil
				})
				checkErr(t, err, nil)
			})
		}
	}
}

// Given an activity with options, when its function asks for Info and logs, then both say
// which activity and attempt it is.
func TestContext_Info(t *testing.T) {
	var buf bytes.Buffer
	bubble(t, activity.Config{Logger: slog.New(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo}))}, func(t *testing.T, rt *activity.Runtime) {
		opts := activity.Options{
			ID: "one", Name: "work", StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second, ScheduleToCloseTimeout: time.Minute + 2*time.Second,
			RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3, InitialInterval: 5 * time.Second},
		}
		begun := time.Now().Round(0)
		attempts := 0
		err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			attempts++
			want := activity.Info{
				ID: "one", Name: "work", Attempt: attempts, ScheduledAt: begun, StartedAt: begun, Deadline: begun.Add(time.Minute),
				StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second, ScheduleToCloseTimeout: time.Minute + 2*time.Second, MaximumAttempts: 3,
			}
			if attempts == 2 { // the start-to-close deadline would come after schedule-to-close
				want.StartedAt, want.Deadline, want.LastFailure = begun.Add(5*time.Second), begun.Add(time.Minute+2*time.Second), errBoom
			}
			if diff := cmp.Diff(want, ctx.Info(), cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
				t.Errorf("Info, -want +got:\n%s", diff)
			}
			if attempts == 1 {
				return errBoom
			}
			buf.Reset()
			ctx.Logger().Info("hello", "more", 1)
			return nil
		})
		checkErr(t, err, nil)
		var line map[string]any
		if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, &buf)
		}
		delete(line, "time")
		want := map[string]any{"level": "INFO", "msg": "hello", "id": "one", "name": "work", "attempt": 2.0, "more": 1.0}
		checkDiff(t, "Logger", line, want)
		// A made-up ID and a function's name.
		run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			info := ctx.Info()
			if info.ID == "" || info.ID != rt.Activities()[0].ID || info.Name == "" || !info.Deadline.IsZero() || info.LastFailure != nil {
				t.Errorf("Info is %+v", info)
			}
			return nil
		})
	})
}

// Given a child context with its own value and cancellation, when FromContext makes a
// Context of it, then both are kept, and the attempt lives on when the child ends.
func TestFromContext_Child(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		cfg := activity.Config{}
		if wrapped {
			cfg.Interceptor = func(ctx activity.Context, next func(activity.Context) error) error {
				return next(&countingWrapper{Context: ctx})
			}
		}
		bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			if c, ok := activity.FromContext(context.WithValue(t.Context(), key{}, 1)); ok || c != nil {
				t.Errorf("a Context from nothing: %v", c)
			}
			caller := context.WithValue(t.Context(), key{}, "caller's")
			err := rt.Run(caller, activity.Options{HeartbeatTimeout: time.Minute, RetryPolicy: once}, func(ctx activity.Context) error {
				if v := ctx.Value(key{}); v != "caller's" {
					t.Errorf("the caller's value is %v", v)
				}
				if c, ok := activity.FromContext(ctx); !ok || c != ctx {
					t.Errorf("FromContext of the Context itself: %v, %v", c, ok)
				}
				derived, cancel := context.WithTimeoutCause(context.WithValue(ctx, key{}, "child's"), 10*time.Second, errBoom)
				defer cancel()
				child, ok := activity.FromContext(derived)
				if !ok || child.Value(key{}) != "child's" || child.Info().ID != ctx.Info().ID || !child.Info().StartedAt.Equal(ctx.Info().StartedAt) {
					t.Errorf("%v, value %v, %v", ok, child.Value(key{}), child.Info())
				}
				if err := child.Sleep(10*time.Second - 1); err != nil {
					t.Error(err)
				}
				if err := child.Heartbeat(1); err != nil {
					t.Error(err)
				}
				if err := child.Sleep(time.Hour); err != errBoom {
					t.Errorf("the child's Sleep returned %v", err)
				}
				if d := time.Since(ctx.Info().StartedAt); d != 10*time.Second {
					t.Errorf("it ended after %s", d)
				}
				if err := child.Heartbeat(2); err != errBoom { // and records
					t.Errorf("the child's Heartbeat returned %v", err)
				}
				if err := activity.Guard(child, never); err != errBoom {
					t.Errorf("the child's Guard returned %v", err)
				}
				if err := activity.Guard(&countingWrapper{Context: child}, never); err != errBoom {
					t.Errorf("Guard of a wrapper of the child returned %v", err)
				}
				if err := activity.Idle(child, time.Second); err != errBoom {
					t.Errorf("the child's Idle returned %v", err)
				}
				if child.Sleep(0) != errBoom || child.Err() == nil || ctx.Err() != nil || ctx.Sleep(30*time.Second) != nil {
					t.Errorf("the child ended with %v, the attempt with %v", child.Err(), ctx.Err())
				}
				checkDetails(t, rt.Activities()[0], 2)
				ctx.Sleep(time.Hour) // until the attempt times out
				if err := child.Heartbeat(3); err != context.Cause(ctx) {
					t.Errorf("the fenced child's Heartbeat returned %v", err)
				}
				return nil
			})
			if timeoutType(err) == 0 {
				t.Errorf("got %v, want a timeout", err)
			}
			synctest.Wait()
		})
	}
}

// countingWrapper is a Context that embeds another and counts.
type countingWrapper struct {
	activity.Context
	sleeps, beats, reads atomic.Int64
}

func (w *countingWrapper) Sleep(d time.Duration) error { w.sleeps.Add(1); return w.Context.Sleep(d) }

func (w *countingWrapper) Heartbeat(details ...any) error {
	w.beats.Add(1)
	return w.Context.Heartbeat(details...)
}

func (w *countingWrapper) HeartbeatDetails(into ...any) (bool, error) {
	w.reads.Add(1)
	return w.Context.HeartbeatDetails(into...)
}

// countingEngine is an Engine besides.
type countingEngine struct {
	countingWrapper
	guards atomic.Int64
}

func (w *countingEngine) SleepContext(ctx context.Context, d time.Duration) error {
	w.sleeps.Add(1)
	return w.Context.(activity.Engine).SleepContext(ctx, d)
}

func (w *countingEngine) Guard(f func() error) error {
	w.guards.Add(1)
	return activity.Guard(w.Context, f)
}

func (w *countingEngine) BeginRange() bool { return w.Context.(activity.Engine).BeginRange() }

func (w *countingEngine) Value(key any) any { return activity.NewContext(w.Context, w).Value(key) }

// Given an Interceptor that passes a wrapper on, then the function, Range and Guard use
// the wrapper, and the wrapper's own engine if it has one.
func TestInterceptor_WrapperIsUsed(t *testing.T) {
	for _, own := range []bool{false, true} {
		var guarder *countingEngine
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			guarder = &countingEngine{countingWrapper: countingWrapper{Context: ctx}}
			if own {
				return next(guarder)
			}
			return next(&guarder.countingWrapper)
		}}
		bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			h := start(t, rt, activity.Options{HeartbeatTimeout: time.Minute, CancelGrace: time.Second, ID: "one"}, func(ctx activity.Context) error {
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				child, _ := activity.FromContext(derived)
				same, _ := activity.FromContext(ctx)
				plain, _ := activity.FromContext(context.WithValue(ctx, key{}, 1))
				grandchild, _ := activity.FromContext(context.WithValue(child, key{}, 1))
				for i, c := range []activity.Context{ctx, same, plain, child, grandchild} {
					sleeps := 3 * (i + 1)
					if !own { // a child's Sleep, which ends with the child, passes the wrapper by
						sleeps = min(sleeps, 9)
					}
					want := fmt.Sprint([]int{(i + 1), 2 * (i + 1), sleeps})
					activity.Resume(c, 0)
					c.Sleep(1)
					activity.Idle(c, time.Minute)
					if got := fmt.Sprint([]int64{guarder.reads.Load(), guarder.beats.Load(), guarder.sleeps.Load()}); got != want {
						t.Errorf("context %d: reads, heartbeats and sleeps are %s, want %s", i, got, want)
					}
					ran := false
					err := activity.Guard(c, func() error { ran = true; return nil })
					if n := guarder.guards.Load(); !ran || err != nil || own && n != int64(i+1) {
						t.Errorf("context %d: Guard ran %v, %v, %d calls of the wrapper's", i, ran, err, n)
					}
				}
				reads, beats := guarder.reads.Load(), guarder.beats.Load()
				if err := activity.Range(child, 0, 3, func(int) error { return nil }); err != nil {
					t.Error(err)
				}
				if r, b := guarder.reads.Load()-reads, guarder.beats.Load()-beats; r != 1 || b != 3 {
					t.Errorf("Range: %d reads, %d heartbeats", r, b)
				}
				if err := activity.Range(ctx, 0, 3, nil); err == nil {
					t.Error("a second Range is not refused")
				}
				return activity.Guard(ctx, func() error { time.Sleep(time.Hour); return nil })
			})
			time.Sleep(10 * time.Minute)
			checkState(t, h, activity.StateBlocked) // Guard reaches the attempt
			if s := h.Status(); s.Done != 3 || s.Total != 3 {
				t.Errorf("%d of %d are done", s.Done, s.Total)
			}
			h.Cancel(errCancel)
			checkErr(t, wait(t, h), errCancel)
			time.Sleep(time.Hour)
		})
	}
}

// Given an Interceptor that passes any Context to next, then the function gets that very
// Context, and FromContext finds it from below, even if an inner wrapper is registered.
func TestInterceptor_FunctionGetsItsContext(t *testing.T) {
	for name, wrap := range map[string]func(ctx activity.Context) activity.Context{
		"the attempt":          func(ctx activity.Context) activity.Context { return ctx },
		"a wrapper":            func(ctx activity.Context) activity.Context { return &countingWrapper{Context: ctx} },
		"a registered wrapper": func(ctx activity.Context) activity.Context { return itself{ctx} },
		"two wrappers":         func(ctx activity.Context) activity.Context { return &countingWrapper{Context: itself{ctx}} },
		"two of one type": func(ctx activity.Context) activity.Context {
			return &countingWrapper{Context: &countingWrapper{Context: ctx}}
		},
		"not to be compared": func(ctx activity.Context) activity.Context { return uncomparable{ctx, nil} },
	} {
		t.Run(name, func(t *testing.T) {
			var passed activity.Context
			cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				passed = wrap(ctx)
				return next(passed)
			}}
			bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
				checkErr(t, run(t, rt, activity.Options{}, func(ctx activity.Context) error {
					if _, ok := ctx.(uncomparable); !ok && ctx != passed {
						t.Errorf("the function got %T %p, want %T %p", ctx, ctx, passed, passed)
					}
					c, ok := activity.FromContext(context.WithValue(ctx, key{}, 1))
					if !ok || c.Value(key{}) != 1 {
						t.Fatal("FromContext finds nothing")
					}
					if w, ok := passed.(*countingWrapper); ok {
						_ = c.Heartbeat()
						if n := w.beats.Load(); n != 1 {
							t.Errorf("a heartbeat from below was counted %d times", n)
						}
					}
					// A value that the function itself registers is found first.
					mine := &countingWrapper{Context: ctx}
					c, _ = activity.FromContext(activity.NewContext(ctx, mine))
					_ = c.Heartbeat()
					if n := mine.beats.Load(); n != 1 {
						t.Errorf("the function's own wrapper has counted %d heartbeats", n)
					}
					return nil
				}), nil)
			})
		})
	}
}

type uncomparable struct {
	activity.Context
	_ []int
}

// itself is a wrapper that FromContext gives, and that has no Guard of its own.
type itself struct{ activity.Context }

func (w itself) Value(key any) any { return activity.NewContext(w.Context, w).Value(key) }

// Rules 6 and 27. Given a wrapper that does not implement Engine, when the function calls
// Range twice and Guard at the timeout, then the rules hold as without it.
func TestInterceptor_GuardAndRangeUnderWrapper(t *testing.T) {
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error { return next(itself{ctx}) }}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
			if c, ok := activity.FromContext(context.WithValue(ctx, key{}, 1)); !ok || c.Value(key{}) != 1 {
				t.Error("FromContext does not find it")
			}
			checkErr(t, activity.Range(ctx, 0, 0, nil), nil)
			if err := activity.Range(ctx, 0, 0, nil); err == nil {
				t.Error("a second Range is not refused")
			}
			return activity.Guard(ctx, func() error { time.Sleep(time.Hour); return nil })
		})
		time.Sleep(10 * time.Minute)
		checkState(t, h, activity.StateBlocked)
		h.Cancel(errCancel)
		time.Sleep(time.Hour)
	})
}

// Given any duration, then Sleep takes exactly that long, returns at once for zero and
// less, and ends with the attempt, however long it is.
func TestSleep_Edges(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		opts := activity.Options{StartToCloseTimeout: time.Hour, RetryPolicy: once}
		for _, huge := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2} {
			var last error
			err := run(t, rt, opts, func(ctx activity.Context) error {
				begun := time.Now()
				for _, d := range []time.Duration{0, -1, math.MinInt64} {
					if err := ctx.Sleep(d); err != nil || !time.Now().Equal(begun) {
						t.Errorf("Sleep(%d) took %s and returned %v", d, time.Since(begun), err)
					}
				}
				if err := ctx.Sleep(1); err != nil || time.Since(begun) != 1 {
					t.Errorf("Sleep(1) took %s and returned %v", time.Since(begun), err)
				}
				var wg sync.WaitGroup
				for i := range 20 { // several at once, each its own time
					wg.Go(func() {
						d := time.Duration(20-i) * time.Second
						at := time.Now()
						if err := ctx.Sleep(d); err != nil || time.Since(at) != d {
							t.Errorf("Sleep(%s) took %s and returned %v", d, time.Since(at), err)
						}
					})
				}
				wg.Wait()
				if last = ctx.Sleep(huge); !isTimeout(last, activity.TimeoutStartToClose) || time.Since(begun) != time.Hour {
					t.Errorf("Sleep(%d) returned %v after %s", huge, last, time.Since(begun))
				}
				for _, d := range []time.Duration{-1, 0, 1, huge} {
					if err := ctx.Sleep(d); err != last || time.Since(begun) != time.Hour {
						t.Errorf("Sleep(%d) after the end returned %v", d, err)
					}
				}
				return nil
			})
			checkErr(t, err, context.DeadlineExceeded)
			synctest.Wait()
		}
	})
}

// Given a Context that is kept, when its function has returned, then it has ended, its
// cause says so, and Heartbeat returns that cause.
func TestContext_EndsWhenFunctionHasReturned(t *testing.T) {
	for _, result := range []error{nil, errBoom} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			var kept activity.Context
			_ = run(t, rt, atMost(1), func(ctx activity.Context) error { kept = ctx; return result })
			cause := context.Cause(kept)
			if kept.Err() != context.Canceled || !errors.Is(cause, context.Canceled) || !strings.Contains(fmt.Sprint(cause), "has returned") {
				t.Errorf("Err is %v, the cause %v", kept.Err(), cause)
			}
			<-kept.Done()
			if err := kept.Heartbeat(1); err != cause {
				t.Errorf("Heartbeat returned %v", err)
			}
			if err := kept.Sleep(time.Hour); err != cause {
				t.Errorf("Sleep returned %v", err)
			}
		})
	}
}

// Rule 4. Given a child of context.WithoutCancel, when the attempt times out or is
// canceled, then the child sleeps on, and its heartbeats return nil. Those of a canceled
// attempt are recorded, those of a fenced one are not.
func TestFromContext_WithoutCancel(t *testing.T) {
	for name, opts := range map[string]activity.Options{
		"a timeout":      {HeartbeatTimeout: 10 * time.Second, RetryPolicy: once},
		"a cancellation": {CancelGrace: 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				done := make(chan struct{})
				h := start(t, rt, opts, func(ctx activity.Context) error {
					defer close(done)
					child, _ := activity.FromContext(context.WithValue(context.WithoutCancel(ctx), key{}, 1))
					checkErr(t, child.Heartbeat(1), nil)
					begun := time.Now()
					if err := child.Sleep(time.Hour); err != nil || time.Since(begun) != time.Hour {
						t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
					}
					if ctx.Err() == nil || child.Err() != nil {
						t.Errorf("the attempt ended with %v, the child with %v", ctx.Err(), child.Err())
					}
					checkErr(t, child.Heartbeat(), nil)
					checkErr(t, child.Heartbeat(2), nil)
					if err := child.Heartbeat(make(chan int)); opts.HeartbeatTimeout == 0 && !errors.As(err, new(interface{ NonRetryable() bool })) {
						t.Errorf("a canceled attempt's Heartbeat of what cannot be encoded returned %v", err)
					}
					checkErr(t, child.Sleep(0), nil)
					if err := activity.Guard(child, never); err != context.Cause(ctx) {
						t.Errorf("Guard returned %v", err)
					}
					return context.Cause(ctx)
				})
				want := 1
				if opts.CancelGrace > 0 {
					time.Sleep(time.Minute)
					h.Cancel(errCancel)
					want = 2
				}
				<-done
				_ = wait(t, h)
				checkDetails(t, h.Status(), want)
			})
		})
	}
}

// Rule 4. Given a child of context.WithoutCancel with a deadline of its own, when the
// attempt has timed out, then Sleep ends at the child's deadline.
func TestFromContext_WithoutCancelButDeadline(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		_ = run(t, rt, activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}, func(ctx activity.Context) error {
			own, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errCancel)
			defer cancel()
			child, _ := activity.FromContext(own)
			begun := time.Now()
			if err := child.Sleep(time.Hour); err != errCancel || time.Since(begun) != time.Minute {
				t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
			}
			if err := child.Heartbeat(1); timeoutType(err) != activity.TimeoutStartToClose {
				t.Errorf("Heartbeat returned %v", err)
			}
			return nil
		})
		time.Sleep(time.Hour)
	})
}

// Given a Context that other goroutines use, when it is printed, then it shows activity
// and attempt, and reads nothing without a lock.
func TestContext_PrintsActivityAndAttempt(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		const want = `activity "a1" (job), attempt 1`
		err := run(t, rt, atMost(1), func(ctx activity.Context) error {
			child, _ := activity.FromContext(context.WithValue(ctx, key{}, 1))
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for i := range 1000 {
					_ = ctx.Heartbeat(i, "details")
				}
			})
			for range 100 {
				if got := fmt.Sprint(ctx); got != want {
					return fmt.Errorf("it prints as %s", got)
				}
				for _, c := range []context.Context{child, context.WithValue(ctx, key{}, 1)} {
					if got := fmt.Sprint(c); !strings.Contains(got, want) {
						return fmt.Errorf("a child prints as %s", got)
					}
				}
				runtime.Gosched()
			}
			return nil
		})
		checkErr(t, err, nil)
	})
}

// Rule 4. Given an attempt that has ended, when its function asks for Err, Cause or a
// heartbeat for the first time afterwards, then it gets the same answers as if it had
// asked before.
func TestContext_CauseDoesNotDependOnFirstUse(t *testing.T) {
	gone, mine := errors.New("gone"), errors.New("mine")
	type end struct {
		Err   error
		Cause string
		Beat  string
	}
	tests := []struct {
		name   string
		opts   activity.Options
		cancel func(h *activity.Handle[string], cancel context.CancelCauseFunc)
		want   end
	}{
		{"heartbeat timeout", activity.Options{HeartbeatTimeout: time.Second}, nil, end{context.Canceled, "heartbeat", "heartbeat"}},
		{"the caller's cancellation", activity.Options{}, func(_ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(gone) }, end{context.Canceled, "gone", "gone"}},
		{"the caller's deadline", activity.Options{}, func(*activity.Handle[string], context.CancelCauseFunc) {}, end{context.DeadlineExceeded, "deadline", "deadline"}},
		{"Handle.Cancel", activity.Options{}, func(h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(mine) }, end{context.Canceled, "mine", "mine"}},
		{"a return", activity.Options{}, nil, end{context.Canceled, "returned", "returned"}},
	}
	for _, test := range tests {
		for _, early := range []bool{true, false} {
			for _, cancellable := range []bool{true, false} {
				if !cancellable && strings.HasPrefix(test.name, "the caller") {
					continue
				}
				t.Run(fmt.Sprintf("%s/asked early %t/cancellable %t", test.name, early, cancellable), func(t *testing.T) {
					bubble(t, activity.Config{Logger: quiet}, func(t *testing.T, rt *activity.Runtime) {
						ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
						ctx, stop := context.WithTimeout(ctx, 3*time.Second)
						defer stop()
						if !cancellable {
							ctx = context.WithoutCancel(ctx)
						}
						var first activity.Context
						look := make(chan struct{})
						opts := test.opts
						opts.RetryPolicy.MaximumAttempts = 1
						h := startWith(t, ctx, rt, opts, func(ctx activity.Context) error {
							first = ctx
							if early && ctx.Err() != nil {
								t.Error("ended at its start")
							}
							if test.name != "a return" {
								<-look
							}
							return nil
						})
						time.Sleep(2 * time.Second)
						if test.cancel != nil {
							test.cancel(h, cancel)
						}
						time.Sleep(2 * time.Second) // the caller's context ends as well
						cancel(errors.New("too late"))
						synctest.Wait()
						var got end
						<-first.Done()
						got.Err = first.Err()
						for _, is := range []struct {
							err  error
							what *string
						}{{context.Cause(first), &got.Cause}, {first.Heartbeat(), &got.Beat}} {
							switch {
							case isTimeout(is.err, activity.TimeoutHeartbeat):
								*is.what = "heartbeat"
							case errors.Is(is.err, gone):
								*is.what = "gone"
							case errors.Is(is.err, mine):
								*is.what = "mine"
							case errors.Is(is.err, context.DeadlineExceeded):
								*is.what = "deadline"
							case strings.Contains(fmt.Sprint(is.err), "returned"):
								*is.what = "returned"
							default:
								*is.what = fmt.Sprint(is.err)
							}
						}
						checkDiff(t, "what the function learns", fmt.Sprint(got), fmt.Sprint(test.want))
						if got := first.Value(key{}); got != "value" {
							t.Errorf("the value is %v", got)
						}
						close(look)
						_, _ = h.Wait(context.Background())
					})
				})
			}
		}
	}
}

// Rule 14. Given an Interceptor that gives up on next in a goroutine of its own, when the
// function then returns, panics or calls Goexit there, then the attempt has the Interceptor's
// result, and nothing of the function's.
func TestInterceptor_GivesUpOnNext(t *testing.T) {
	for name, end := range map[string]func(){
		"returns": func() {}, "panics": func() { panic("ouch") }, "Goexit": runtime.Goexit,
	} {
		for _, result := range []error{nil, errBoom} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					late := make(chan error, 1)
					rt := activity.New(activity.Config{Logger: quiet, Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
						go func() { late <- next(ctx) }()
						time.Sleep(time.Second)
						return result
					}})
					out, err := activity.Execute(t.Context(), rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context, _ int) (string, error) {
						<-ctx.Done()
						end()
						return "late", nil
					}, 0)
					if result == nil {
						checkErr(t, err, nil)
					} else {
						checkEnd(t, err, 1, activity.RetryStateMaximumAttemptsReached, errBoom)
					}
					if out != "" {
						t.Errorf("the result is %q", out)
					}
					synctest.Wait()
					var p *activity.PanicError
					select {
					case err := <-late:
						if (name == "panics") != errors.As(err, &p) {
							t.Errorf("next returned %v", err)
						}
					default:
						if name != "Goexit" {
							t.Error("next has not returned")
						}
					}
				})
			})
		}
	}
}

// Rule 14. Given a function that panics, then next returns that as an error, with the stack
// of the panic, and the Interceptor decides.
func TestInterceptor_FunctionPanics(t *testing.T) {
	for name, swallow := range map[string]bool{"passed on": false, "swallowed": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				err := next(ctx)
				var p *activity.PanicError
				if !errors.As(err, &p) || p.Value != "ouch" || !strings.Contains(string(p.Stack), "panicHere") {
					t.Errorf("next returned %v", err)
				}
				if swallow {
					return nil
				}
				return err
			}}, func(t *testing.T, rt *activity.Runtime) {
				err := rt.Run(context.Background(), activity.Options{RetryPolicy: once}, func(activity.Context) error { panicHere("ouch"); return nil })
				var p *activity.PanicError
				if errors.As(err, &p) == swallow {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// Rule 14. Given an Interceptor that has returned, or whose attempt has timed out, when it
// calls next afterwards, then the function is not called, and next returns the cause.
func TestInterceptor_NextAfterTheEnd(t *testing.T) {
	for name, stalls := range map[string]bool{"returned": false, "timed out": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				late := make(chan error, 1)
				rt := activity.New(activity.Config{Logger: quiet, Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
					go func() {
						time.Sleep(time.Minute)
						late <- next(ctx)
					}()
					if stalls {
						time.Sleep(time.Hour)
					}
					return errBoom
				}})
				err := rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error { t.Error("it runs"); return nil })
				checkEnd(t, err, 1, activity.RetryStateMaximumAttemptsReached)
				if err := <-late; errors.Is(err, context.DeadlineExceeded) != stalls || err == nil {
					t.Errorf("next returned %v", err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

// otherEngine is the Context of another engine, which knows nothing of Guard.
type otherEngine struct {
	context.Context
	beats, told int
}

func (e *otherEngine) Sleep(time.Duration) error {
	if e.Err() != nil {
		e.told++
	}
	return context.Cause(e)
}
func (e *otherEngine) Heartbeat(...any) error              { e.beats++; return nil }
func (*otherEngine) HeartbeatDetails(...any) (bool, error) { return false, nil }
func (*otherEngine) Info() activity.Info                   { return activity.Info{ID: "theirs"} }
func (*otherEngine) Logger() *slog.Logger                  { return quiet }

// fullEngine is another engine that implements Engine.
type fullEngine struct {
	otherEngine
	sleeps, guards, ranges int
}

func (e *fullEngine) SleepContext(ctx context.Context, d time.Duration) error {
	e.sleeps++
	return context.Cause(ctx)
}
func (e *fullEngine) Guard(f func() error) error { e.guards++; return f() }
func (e *fullEngine) BeginRange() bool           { e.ranges++; return e.ranges < 2 }

// Given a Context of another engine, when it is used directly, through a child, a wrapper
// or both, then Sleep, Range and Guard use that engine.
func TestEngine_ForeignEngine(t *testing.T) {
	base, end := context.WithCancel(context.Background())
	defer end()
	for name, wrap := range map[string]func(ctx context.Context, e *fullEngine) activity.Context{
		"itself": func(_ context.Context, e *fullEngine) activity.Context { return e },
		"a child": func(ctx context.Context, e *fullEngine) activity.Context {
			c, _ := activity.FromContext(activity.NewContext(ctx, e))
			return c
		},
		"a wrapper": func(_ context.Context, e *fullEngine) activity.Context { return itself{e} },
		"a wrapper's child": func(ctx context.Context, e *fullEngine) activity.Context {
			c, _ := activity.FromContext(activity.NewContext(ctx, itself{e}))
			return c
		},
	} {
		ctx, cancel := context.WithCancel(base)
		engine := &fullEngine{}
		engine.Context = activity.NewContext(base, engine)
		c := wrap(ctx, engine)
		checkErr(t, activity.Guard(c, func() error { return errBoom }), errBoom)
		checkErr(t, activity.Range(c, 0, 0, nil), nil)
		if err := activity.Range(c, 0, 0, nil); err == nil {
			t.Errorf("%s: a second Range is not refused", name)
		}
		checkErr(t, c.Sleep(time.Second), nil)
		// Guard sleeps twice, and Sleep once; "itself" and "a wrapper" do without SleepContext.
		if want := map[bool]int{true: 0, false: 3}[name == "itself" || name == "a wrapper"]; engine.guards != 1 || engine.ranges != 2 || engine.sleeps != want {
			t.Errorf("%s: %d guards, %d ranges, %d sleeps", name, engine.guards, engine.ranges, engine.sleeps)
		}
		cancel()
	}
}

// askingEngine is another engine that wants its function to stop, although its Context has not
// ended.
type askingEngine struct{ otherEngine }

func (e *askingEngine) SleepContext(ctx context.Context, d time.Duration) error { return e.Sleep(d) }
func (e *askingEngine) Guard(f func() error) error                              { return f() }
func (e *askingEngine) BeginRange() bool                                        { return true }
func (e *askingEngine) Sleep(time.Duration) error                               { e.told++; return activity.ErrShutdown }
func (e *askingEngine) Heartbeat(...any) error                                  { return activity.ErrShutdown }

// Rule 19. Given another engine that wants its function to stop, then no step begins, and the step
// in progress can finish.
func TestEngine_ForeignEngineAsks(t *testing.T) {
	engine := &askingEngine{}
	engine.Context = activity.NewContext(context.Background(), engine)
	checkErr(t, activity.Guard(engine, never), activity.ErrShutdown)
	checkErr(t, activity.Range(engine, 0, 1, func(int) error { return never() }), activity.ErrShutdown)
	if _, err := activity.Reader(engine, strings.NewReader("x")).Read(make([]byte, 1)); err != activity.ErrShutdown {
		t.Errorf("Read returned %v", err)
	}
	if engine.told != 3 {
		t.Errorf("the engine has told the function %d times", engine.told)
	}

	// Its heartbeat asks a context that ends with the attempt, and no other.
	child, cancel := context.WithCancel(engine)
	for name, test := range map[string]struct {
		ctx  context.Context
		want error
	}{
		"a child":               {child, activity.ErrShutdown},
		"one that outlives it":  {context.WithoutCancel(child), nil},
		"a child of the latter": {context.WithValue(context.WithoutCancel(child), key{}, 1), nil},
	} {
		if c, _ := activity.FromContext(test.ctx); c.Heartbeat(1) != test.want {
			t.Errorf("%s: Heartbeat does not return %v", name, test.want)
		}
	}
	cancel()
}

// Given a Context that is not of this package, when NewContext registers it, then
// FromContext finds it below, with the child's values and cancellation.
func TestNewContext_ForeignContext(t *testing.T) {
	base, end := context.WithCancelCause(context.Background())
	engine := &otherEngine{Context: base}
	ctx, cancel := context.WithCancelCause(activity.NewContext(context.WithValue(base, key{}, 1), engine))
	c, ok := activity.FromContext(ctx)
	if !ok || c.Value(key{}) != 1 || c.Info().ID != "theirs" {
		t.Fatalf("FromContext gave %v, value %v, %v", ok, c.Value(key{}), c.Info())
	}
	calls := 0
	f := func() error { calls++; return errBoom }
	checkErr(t, activity.Range(c, 0, 3, func(int) error { return nil }), nil)
	checkErr(t, activity.Idle(c, time.Second), nil)
	checkErr(t, activity.Guard(c, f), errBoom)
	checkErr(t, activity.Guard(engine, f), errBoom)
	if calls != 2 || engine.beats != 4 {
		t.Errorf("f ran %d times, %d heartbeats", calls, engine.beats)
	}
	cancel(errCancel)
	checkErr(t, c.Heartbeat(), errCancel)
	checkErr(t, c.Sleep(0), errCancel)
	checkErr(t, activity.Guard(c, never), errCancel)
	checkErr(t, activity.Range(c, 0, 1, nil), errCancel)
	checkErr(t, activity.Guard(engine, f), errBoom) // whose own context has not ended
	end(errCancel)
	if engine.told > 0 {
		t.Error("the engine's own end was told before it came")
	}
	checkErr(t, activity.Guard(engine, never), errCancel)
	checkErr(t, activity.Idle(engine, 0), nil) // its Heartbeat knows of no end
	if engine.told != 1 {
		t.Errorf("Guard told %d times of the end", engine.told)
	}
	checkErr(t, activity.Range(engine, 0, 1, nil), errCancel)
	if engine.told != 2 {
		t.Error("Range did not tell of the end")
	}
}
