package activity_test

import (
	"context"
	"errors"
	"fmt"
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

// Rule 19. Given running activities, when Shutdown is called several times at once, then
// they are canceled with ErrShutdown, and each call waits until their functions have
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

// Rule 19. Given a Shutdown whose ctx has ended, when a caller's context is behind a
// lock, then Shutdown returns without the lock, because its own caller may hold it.
func TestShutdown_EndedContextDoesNotWaitForCallersLock(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	rt := activity.New(activity.Config{Logger: quiet})
	locked := newLockedContext(t.Context())
	finish, down := make(chan struct{}), make(chan struct{})
	h := startWith(t, locked, rt, activity.Options{}, func(activity.Context) error { <-finish; return nil })
	locked.lock <- struct{}{}
	close(finish)
	for h.Status().State != activity.StateCompleted {
		runtime.Gosched()
	}
	go func() {
		_ = rt.Shutdown(ended)
		close(down)
	}()
	select {
	case <-down:
	case <-time.After(10 * time.Second): // it may take its time, but not for ever
		t.Error("it waits")
	}
	<-locked.lock
	<-h.Done()
	<-down
}

// Rule 19. Given a caller that cannot be answered yet, when Shutdown waits, then it
// returns only after that caller has its answer.
func TestShutdown_ReturnsAfterCallersAreAnswered(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	locked := newLockedContext(t.Context())
	h := startWith(t, locked, rt, activity.Options{}, untilEnded)
	locked.lock <- struct{}{}
	down := make(chan struct{})
	go func() {
		defer close(down)
		checkErr(t, rt.Shutdown(context.Background()), nil)
		select {
		case <-h.Done():
		default:
			t.Error("it has returned before the answer")
		}
	}()
	for h.Status().State != activity.StateCanceled {
		runtime.Gosched()
	}
	for range 100_000 { // time for it to return too early
		runtime.Gosched()
	}
	<-locked.lock
	<-down
}

// Rule 35. Given an attempt that failed with RetryAfter, when Shutdown comes while
// Retryable is being asked, then the next execution waits for the rest of the time.
func TestShutdown_WhileRetryableIsAskedKeepsBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		asked := make(chan struct{})
		opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { <-asked; return true }}}
		fn := func(ctx activity.Context) error {
			if ctx.Info().Attempt > 1 {
				return nil
			}
			return activity.RetryAfter(errBoom, time.Hour)
		}
		rt := activity.New(activity.Config{Store: s, Logger: quiet})
		_, err := rt.Start(context.Background(), opts, fn)
		checkErr(t, err, nil)
		synctest.Wait()
		checkErr(t, rt.Shutdown(t.Context()), nil)
		close(asked)
		synctest.Wait()
		t.Logf("%+v", s.get("a"))
		rt = activity.New(activity.Config{Store: s, Logger: quiet})
		begin := time.Now()
		checkErr(t, rt.Run(t.Context(), opts, fn), nil)
		if took := time.Since(begin); took < time.Hour {
			t.Errorf("attempt 2 came %s after RetryAfter(err, 1h)", took)
		}
	})
}

// A hangingHandler hangs at the line about a Shutdown.
type hangingHandler struct {
	slog.Handler
	gate chan struct{}
}

func (h hangingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h hangingHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "shut down") {
		<-h.gate
	}
	return nil
}

// Rule 19. Given a Logger that hangs, when ctx ends, then Shutdown returns at once.
func TestShutdown_LoggerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, hang := make(chan struct{}), make(chan struct{})
		rt := activity.New(activity.Config{Logger: slog.New(hangingHandler{quiet.Handler(), gate})})
		_ = rt.Run(t.Context(), activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error { <-hang; return nil })
		returned := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			returned <- rt.Shutdown(ctx)
		}()
		time.Sleep(time.Hour)
		select {
		case <-returned:
		default:
			t.Error("Shutdown has not returned an hour after its ctx has ended")
		}
		close(gate)
		close(hang)
	})
}

// Shutdown.

// Rule 19. Given a Store and a long SaveInterval, when Shutdown returns, then the Store
// holds everything that was recorded.
func TestShutdown_SavesEverything(t *testing.T) {
	bothDurable(t, activity.Config{SaveInterval: time.Hour}, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 5 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				_ = ctx.Heartbeat(i)
				if i == 4 {
					return activity.RetryAfter(errBoom, time.Hour)
				}
				return untilEnded(ctx)
			})
		}
		saves := len(s.of("Save"))
		e.stop()
		for i := range 5 {
			want := activity.Checkpoint{ID: fmt.Sprint(i), State: activity.CheckpointInterrupted, Input: []byte("{}"), Details: details(i)}
			if i == 4 { // which had failed
				want.Attempt, want.Progressed, want.LastFailure = 1, 1, "boom"
				want.NextAttempt = e.base.Add(time.Hour)
			}
			s.want(want)
		}
		calls := len(s.of(""))
		if n := len(s.of("Save")) - saves; n > 5 {
			t.Errorf("%d Saves", n)
		}
		e.stop()
		e.pass(10 * time.Hour)
		checkErr(t, e.rt.Run(e.ctx, job, noop), activity.ErrShutdown)
		if n := len(s.of("")); n != calls {
			t.Errorf("%d calls of the Store", n-calls)
		}
		// Each continues with its number.
		after, _ := e.reboot(s, activity.Config{})
		for i, want := range []int{1, 1, 1, 1, 2} {
			after.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				if n := ctx.Info().Attempt; n != want {
					t.Errorf("%d goes on with attempt %d", i, n)
				}
				checkDetails(t, ctx, i)
				return nil
			})
		}
		checkErr(t, s.Close(), nil) // is safe
		checkErr(t, e.rt.Shutdown(e.ctx), nil)
	})
}

// Rule 19. Given a Store that fails, when Shutdown's ctx ends, then its error says how
// many activities are not saved; once the Store works, the next Shutdown returns nil.
func TestShutdown_StoreFails(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 3 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				_ = ctx.Heartbeat(i)
				return untilEnded(ctx)
			})
		}
		e.start(activity.Options{ID: "b"}, func(ctx activity.Context) error { <-ctx.Done(); return nil }) // succeeds
		s.on("Save", failing)
		s.on("Delete", failing)
		shutdown := func(d time.Duration) error {
			ctx, cancel := context.WithTimeoutCause(e.t.Context(), d, errCancel)
			defer cancel()
			return e.rt.Shutdown(ctx)
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				err := shutdown(time.Minute)
				if checkErr(t, err, errCancel); !strings.Contains(fmt.Sprint(err), `4 activities ("0", "1", "2", "b") not saved`) || time.Since(e.base) != time.Minute {
					t.Errorf("%v after %s", err, time.Since(e.base))
				}
			})
		}
		wg.Wait()
		if n := len(e.rt.Activities()); n != 0 {
			t.Errorf("%d activities have not been told", n)
		}
		s.on("Delete", nil)
		if err := shutdown(time.Minute); !strings.Contains(fmt.Sprint(err), `3 activities ("0", "1", "2") not saved`) {
			t.Error(err)
		}
		time.AfterFunc(time.Minute, func() { s.on("Save", nil) })
		at := time.Now()
		if err := shutdown(time.Hour); err != nil || time.Since(at) > time.Minute+5*time.Second { // it is tried meanwhile
			t.Errorf("%v after %s", err, time.Since(at))
		}
		for i := range 3 {
			s.want(activity.Checkpoint{ID: fmt.Sprint(i), State: activity.CheckpointInterrupted, Input: []byte("{}"), Details: details(i)})
		}
		s.want(activity.Checkpoint{ID: "b"})
	})
}

// Rule 19. Given one activity that is not saved, when Shutdown gives up, then its error
// names that one.
func TestShutdown_OneUnsavedActivity(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, untilEnded)
		open := s.block("Save")
		ctx, cancel := context.WithTimeoutCause(e.ctx, time.Minute, errCancel)
		defer cancel()
		err := e.rt.Shutdown(ctx)
		if checkErr(t, err, errCancel); !strings.Contains(fmt.Sprint(err), `1 activity ("a") not saved`) {
			t.Error(err)
		}
		open()
		e.stop()
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointInterrupted, Input: []byte("{}")})
	})
}

// Rules 19 and 24. Given a success whose Delete fails, when Shutdown is called, then it
// tries the Delete at once, and the caller is answered.
func TestShutdown_EndsWaitForFailingDelete(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		h := e.start(job, noop)
		e.pass(time.Hour)
		checkSaving(t, h, activity.StateCompleted)
		s.on("Delete", nil)
		e.stop() // at once
		checkErr(t, e.end(h), nil)
		s.want(activity.Checkpoint{ID: "a"})
		if d := time.Since(e.base); d != time.Hour {
			t.Errorf("after %s", d)
		}
	})
}

// Rule 19. Given starts of which one is being saved and others wait for a slot, when
// Shutdown is called, then all are refused with ErrShutdown, and none runs.
func TestShutdown_DuringStarts(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		var all []*launch
		for i := range 5 {
			all = append(all, e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, func(activity.Context) error { t.Error("it runs"); return nil }))
		}
		done := make(chan error, 1)
		go func() { done <- e.rt.Shutdown(e.t.Context()) }()
		synctest.Wait()
		for i, l := range all {
			if !l.returned.Load() {
				t.Errorf("Start %d has not returned", i)
			} else if l.err == nil {
				l.err = e.end(l.h)
			}
			checkErr(t, l.err, activity.ErrShutdown)
		}
		select {
		case err := <-done:
			t.Errorf("Shutdown has returned: %v", err)
		default:
		}
		open()
		checkErr(t, <-done, nil)
		for i := range 5 {
			s.want(activity.Checkpoint{ID: fmt.Sprint(i)})
		}
	})
}

// Rule 35. Given an attempt that ended in RetryAfter, when a Shutdown comes while
// Retryable is being asked, then the checkpoint says when the next attempt is due.
func TestShutdown_KeepsRetryAfterWhileRetryableIsAsked(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 5, Retryable: func(error) bool { time.Sleep(10 * time.Millisecond); return true }}
		e.start(opts, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			return activity.RetryAfter(errBoom, time.Hour)
		})
		time.Sleep(time.Second + 5*time.Millisecond)
		e.stop()
		got := s.get("a")
		if !got.NextAttempt.Equal(e.base.Add(time.Hour+time.Second)) && !got.NextAttempt.After(e.base.Add(time.Minute)) {
			t.Errorf("%s, attempt %d, next attempt %s", got.State, got.Attempt, got.NextAttempt)
		}
	})
}
