package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 19. Given an idle Runtime, when it is shut down twice, even with an ended ctx,
// then Shutdown returns nil, and new activities are refused with ErrShutdown.
func TestShutdown_IdleRuntime(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 {
			if err := rt.Shutdown(ended); err != nil {
				t.Error(err)
			}
		}
		fn := func(activity.Context) error { t.Error("it runs"); return nil }
		call := func(ctx activity.Context, _ int) (int, error) { return 1, fn(ctx) }
		def := activity.Definition[int, int]{Name: "d", Func: call}
		_, executed := activity.Execute(t.Context(), rt, activity.Options{}, call, 0)
		_, started := activity.Start(t.Context(), rt, activity.Options{ID: "x"}, call, 0)
		_, defined := def.Start(t.Context(), rt, "x", 0)
		for _, err := range []error{rt.Run(t.Context(), activity.Options{}, fn), executed, started, defined} {
			var e *activity.Error
			if !errors.Is(err, activity.ErrShutdown) || errors.As(err, &e) {
				t.Errorf("%v (%T)", err, err)
			}
		}
		if s := rt.Stats(); s != (activity.Stats{}) {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 19. Given running, waiting and backing-off activities, when Shutdown is called,
// then they are canceled with ErrShutdown, and it waits until their functions have
// returned.
func TestShutdown_WaitsForFunctions(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var cleaned atomic.Int32
		clean := func(ctx activity.Context) error {
			<-ctx.Done()
			if context.Cause(ctx) != activity.ErrShutdown {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			time.Sleep(2 * time.Second)
			cleaned.Add(1)
			return context.Cause(ctx)
		}
		h := start(t, rt, activity.Options{}, clean)
		start(t, rt, activity.Options{}, clean)
		at := time.Now()
		var wg sync.WaitGroup
		for range 3 { // at the same time
			wg.Go(func() {
				if err := rt.Shutdown(t.Context()); err != nil || cleaned.Load() != 2 || time.Since(at) != 2*time.Second {
					t.Errorf("%v after %s, %d have cleaned up", err, time.Since(at), cleaned.Load())
				}
			})
		}
		wg.Wait()
		if err := rt.Shutdown(t.Context()); err != nil { // and afterwards
			t.Error(err)
		}
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
	})
}

// Rules 17 and 19. Given a function that ignores its end, when CancelGrace has passed,
// then Shutdown does not wait for it any longer, and logs it.
func TestShutdown_GivesUpAtCancelGrace(t *testing.T) {
	log := &logbook{}
	bubble(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		h := start(t, rt, activity.Options{ID: "deaf"}, func(activity.Context) error { <-release; return nil })
		start(t, rt, activity.Options{CancelGrace: time.Hour}, untilEnded)
		at := time.Now()
		if err := rt.Shutdown(t.Context()); err != nil || time.Since(at) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(at))
		}
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
		if n := rt.Stats().Abandoned; n != 1 || log.has(slog.LevelWarn, "abandoned=1") == 0 || log.has(slog.LevelWarn, "deaf") == 0 {
			t.Errorf("%d abandoned, log: %v", n, log.lines)
		}
		// Only an abandoned one is left: nothing to wait for.
		if err := rt.Shutdown(t.Context()); err != nil || time.Since(at) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(at))
		}
		close(release)
		synctest.Wait()
		if n := rt.Stats().Abandoned; n != 0 {
			t.Errorf("%d abandoned", n)
		}
	})
}

// Rule 19. Given functions that timeouts left behind, when Shutdown is called, then it
// does not wait for them, and logs how many there are.
func TestShutdown_DoesNotWaitForAbandoned(t *testing.T) {
	log := &logbook{}
	bubble(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}
		_ = rt.Run(t.Context(), opts, func(activity.Context) error { <-release; return nil })
		at := time.Now()
		if err := rt.Shutdown(t.Context()); err != nil || time.Since(at) != 0 {
			t.Errorf("%v after %s", err, time.Since(at))
		}
		if log.has(slog.LevelWarn, "abandoned=2") == 0 {
			t.Errorf("log: %v", log.lines)
		}
		close(release)
	})
}

// Rule 19. Given activities that take their time to return, when Shutdown's ctx ends,
// then it returns the cause and says how many are left.
func TestShutdown_ContextEnds(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		for i := range 5 {
			start(t, rt, activity.Options{}, func(ctx activity.Context) error {
				<-ctx.Done()
				time.Sleep(time.Duration(i) * time.Second)
				return nil
			})
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second+time.Second/2, errCancel)
		defer cancel()
		at := time.Now()
		err := rt.Shutdown(ctx)
		if !errors.Is(err, errCancel) || !strings.Contains(fmt.Sprint(err), `shutdown: 2 activities ("#4", "#5") not ended`) || time.Since(at) != 2*time.Second+time.Second/2 {
			t.Errorf("%v after %s", err, time.Since(at))
		}
		if err := rt.Shutdown(ctx); !errors.Is(err, errCancel) {
			t.Errorf("again: %v", err)
		}
		if err := rt.Shutdown(t.Context()); err != nil || time.Since(at) != 4*time.Second {
			t.Errorf("the rest: %v after %s", err, time.Since(at))
		}
	})
}

// Rule 19. Given seven activities that do not return, when Shutdown gives up, then its
// error names the five oldest.
func TestShutdown_NamesSomeOfMany(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		for i := range 7 {
			start(t, rt, activity.Options{ID: fmt.Sprint(7 - i)}, func(ctx activity.Context) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				return nil
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		const want = `activity: shutdown: 7 activities ("7", "6", "5", "4", "3", 2 more) not ended: context deadline exceeded`
		if err := rt.Shutdown(ctx); fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
		time.Sleep(time.Second)
	})
}

// Rule 19. Given a Runtime without a Store, then it owns no goroutine while nothing runs,
// before and after activities.
func TestRuntime_OwnsNoGoroutineWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := bubbled(t)
		check := func(what string, extra int) {
			t.Helper()
			synctest.Wait()
			if n := goroutines(t, before+extra) - before; n != extra {
				t.Errorf("%s: %d goroutines more than before, want %d", what, n, extra)
			}
		}
		var j journal
		rt := activity.New(activity.Config{Logger: quiet, Observer: j.observe, MaxConcurrent: 1})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		check("new", 0)
		opts := activity.Options{HeartbeatTimeout: time.Hour, StartToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
		if err := rt.Run(ctx, opts, func(ctx activity.Context) error { return ctx.Heartbeat(1) }); err != nil {
			t.Error(err)
		}
		check("one has run", 0)
		var handles []*activity.Handle[string]
		for range 20 {
			handles = append(handles, startWith(t, ctx, rt, opts, func(activity.Context) error { return io.EOF }))
		}
		check("20 back off", 0)
		for range 20 {
			handles = append(handles, startWith(t, ctx, rt, opts, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }))
		}
		check("one runs, and 19 wait", 1)
		cancel()
		for _, h := range handles {
			<-h.Done()
		}
		check("the end", 0)
	})
}

// Given activities that wait for a slot or back off, then no goroutine exists for them.
func TestRuntime_NoGoroutineForAWait(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		before := bubbled(t)
		ctx, cancel := context.WithCancel(t.Context())
		for range 100 { // each takes the slot, fails, and backs off or waits for the slot again
			startWith(t, ctx, rt, activity.Options{}, func(activity.Context) error { return errBoom })
		}
		synctest.Wait()
		if got := rt.Stats(); got.BackingOff+got.Waiting != 100 {
			t.Fatalf("%+v", got)
		}
		if got := goroutines(t, before); got > before {
			t.Errorf("%d goroutines more than without", got-before)
		}
		cancel()
		synctest.Wait()
		if got := goroutines(t, before); got > before {
			t.Errorf("%d goroutines are left", got-before)
		}
		if got := rt.Stats(); got.Canceled != 100 {
			t.Errorf("%+v", got)
		}
	})
}

// Rule 19. Given an Observer that takes its time over each canceled activity, when
// Shutdown's ctx ends, then Shutdown returns.
func TestShutdown_SlowObserver(t *testing.T) {
	cfg := activity.Config{Observer: func(e activity.Event) {
		if e.Kind == activity.EventCanceled {
			time.Sleep(time.Second)
		}
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		for range 20 {
			start(t, rt, activity.Options{}, func(activity.Context) error { return activity.RetryAfter(errBoom, time.Hour) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errCancel)
		defer cancel()
		at := time.Now()
		err := rt.Shutdown(ctx)
		if !errors.Is(err, errCancel) || !strings.Contains(fmt.Sprint(err), "20 activities") || time.Since(at) != 100*time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(at))
		}
		checkErr(t, rt.Shutdown(t.Context()), nil)
	})
}

// Rule 19. Given a caller that has its answer, when it calls Shutdown with an ended ctx,
// then nothing is left.
func TestShutdown_RightAfterTheAnswer(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, observer := range map[string]func(activity.Event){"": nil, "observer": func(activity.Event) {}} {
		t.Run(name, func(t *testing.T) {
			for range 1000 {
				rt := activity.New(activity.Config{Logger: quiet, Observer: observer})
				ctx, cancel := context.WithCancel(t.Context())
				go func() { // others want the lock, too
					for ctx.Err() == nil {
						for range 100 {
							rt.Stats()
						}
						runtime.Gosched()
					}
				}()
				checkErr(t, rt.Run(ctx, activity.Options{}, noop), nil)
				checkErr(t, rt.Shutdown(ended), nil)
				cancel()
			}
		})
	}
}

// panicHandler is a slog.Handler that panics.
type panicHandler struct{ *logbook }

func (h panicHandler) Handle(ctx context.Context, r slog.Record) error {
	_ = h.logbook.Handle(ctx, r)
	panic("the Handler")
}

// Rule 24. Given a Logger that panics, when Shutdown logs the functions that still run,
// then it returns nevertheless.
func TestShutdown_LoggerThatPanics(t *testing.T) {
	log := &logbook{}
	both(t, activity.Config{Logger: slog.New(panicHandler{log})}, func(t *testing.T, e *env) {
		log.lines = nil
		h := e.start(activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}, e.hang)
		e.pass(time.Second)
		checkErr(t, e.end(h), context.DeadlineExceeded)
		checkErr(t, e.rt.Shutdown(t.Context()), nil)
		if n := log.has(slog.LevelWarn, "shut down", "abandoned=1"); n != 1 {
			t.Errorf("%d lines, want 1", n)
		}
	})
}
