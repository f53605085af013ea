package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 24. Given a Store that fails during a run, then each outage is logged and tried
// again, and the activity does not notice.
func TestStoreFails_ActivityContinues(t *testing.T) {
	log := &logbook{}
	durable(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env, s *faultyStore) {
		beat := func(ctx activity.Context) error {
			<-e.gate("broken")
			for i := range 70 {
				if err := errors.Join(ctx.Heartbeat(i), ctx.Sleep(time.Second)); err != nil {
					return err
				}
			}
			return untilEnded(ctx)
		}
		for i := range 3 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, beat)
		}
		at := time.Now()
		e.pass(time.Minute)
		before := len(s.of("Save"))
		s.on("Save", failing)
		e.open("broken")
		at = at.Add(time.Minute)
		e.pass(20 * time.Second)
		// First the batch and its parts are tried, then all together and each by itself. What is recorded
		// meanwhile does not make it be tried more often.
		var want []time.Duration
		for i, at := range times(time.Millisecond, 100, 200, 400, 800, 1600, 3200, 6400, 11400, 16400) {
			want = append(want, slices.Repeat([]time.Duration{at}, map[bool]int{true: 5, false: 4}[i == 0])...)
		}
		checkDiff(t, "times of Save", s.times("Save", at)[before:], want)
		if n := log.has(slog.LevelError, errDisk.Error(), "checkpoints=3", "retry_in=100ms"); n != 1 {
			t.Errorf("%d lines: %v", n, log.lines)
		}
		if got := e.rt.Stats(); got.SaveFailures != uint64(len(want)) || !got.StoreFailingSince.Equal(at.Add(100*time.Millisecond)) {
			t.Errorf("%+v", got)
		}
		s.on("Save", nil)
		e.pass(1400 * time.Millisecond)
		for i := range 3 { // the newest
			checkDetails(t, stored{s.get(fmt.Sprint(i))}, 21)
		}
		e.pass(time.Second)
		checkDetails(t, stored{s.get("0")}, 22) // as soon as ever again
		if got := e.rt.Stats(); got.Running != 3 || got.Attempts != 3 || got.SaveFailures != uint64(len(want)) || !got.StoreFailingSince.IsZero() {
			t.Errorf("%+v", got)
		}
		if all, n := len(log.lines), log.has(slog.LevelInfo, "works again and holds everything", "after=21.3s"); all != 2 || n != 1 {
			t.Errorf("%d lines: %v", n, log.lines)
		}
	})
}

// Rule 24. Given a Save that fails, panics or exits when a later attempt is to start,
// then the attempt starts after that one try, and the Save is tried again.
func TestStoreFails_LaterAttemptStartsAfterOneTry(t *testing.T) {
	for name, hook := range map[string]func(context.Context) error{
		"fails":  func(context.Context) error { time.Sleep(time.Minute); return errDisk },
		"panics": func(context.Context) error { time.Sleep(time.Minute); panicHere(errDisk); return nil },
		"goexit": func(context.Context) error { time.Sleep(time.Minute); runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				e.start(job, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 1 {
						return activity.RetryAfter(errBoom, time.Second)
					}
					return untilEnded(ctx)
				})
				e.pass(time.Second - 1)
				s.on("Save", hook)
				e.pass(time.Minute)
				if at := e.started("a", 2); at >= 0 {
					t.Errorf("started at %s", at)
				}
				e.pass(1)
				e.wantStarted("a", 2, time.Minute+time.Second)
				if got := s.get("a"); got.Attempt != 1 {
					t.Errorf("%+v", got)
				}
				s.on("Save", nil)
				e.pass(2 * time.Minute)
				s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 2, Input: []byte("{}"), LastFailure: "boom"})
			})
		})
	}
}

// Rule 24. Given a Store that panics or calls runtime.Goexit, then that is logged and
// counts as the Store's error.
func TestStoreFails_PanicIsItsError(t *testing.T) {
	for name, hook := range map[string]func(context.Context) error{
		"panic":  func(context.Context) error { panicHere(errDisk); return nil },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			log := &logbook{}
			durable(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env, s *faultyStore) {
				s.on("Save", hook)
				err := e.rt.Run(e.ctx, job, noop)
				if err == nil || !strings.Contains(err.Error(), "Store") || name == "panic" && !errors.Is(err, errDisk) {
					t.Error(err)
				}
				synctest.Wait() // until what stood for the ID is back
				s.on("Save", nil)
				s.on("Delete", hook)
				h := e.start(job, noop)
				other := activity.Options{ID: "b", RetryPolicy: once}
				checkErr(t, e.rt.Run(e.ctx, other, func(activity.Context) error { return errBoom }), errBoom)
				checkSaving(t, h, activity.StateCompleted)
				s.on("Delete", nil)
				e.pass(5 * time.Second)
				checkErr(t, e.end(h), nil)
				checkDiff(t, "unfinished", e.unfinished(), []string{"b"})
				if n := log.has(slog.LevelError, "panicHere"); name == "panic" && n < 2 {
					t.Errorf("%d lines: %v", n, log.lines)
				}
			})
		})
	}
}

// Rule 24. Given a Save and a Delete at one moment, when one of them fails, then the
// other works.
func TestStoreFails_SaveAndDeleteFailApart(t *testing.T) {
	for broken, want := range map[string][]string{"Save": {"failed"}, "Delete": {"failed"}} {
		t.Run(broken, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				end := e.gate("end")
				done := e.start(activity.Options{ID: "done"}, func(activity.Context) error { <-end; return nil })
				failed := e.start(activity.Options{ID: "failed"}, func(activity.Context) error { <-end; return activity.NonRetryable(errBoom) })
				open := s.block("Save")
				e.launch(e.ctx, activity.Options{ID: "x"}, noop) // holds the Store
				e.open("end")
				s.on(broken, failing)
				open()
				s.on(broken, failing)
				synctest.Wait()
				checkErr(t, e.end(failed), errBoom)
				checkDiff(t, "unfinished", e.unfinished(), want)
				if broken == "Save" {
					checkErr(t, e.end(done), nil)
					return
				}
				checkSaving(t, done, activity.StateCompleted)
				if got := s.get("failed").State; got != activity.CheckpointFailed {
					t.Errorf("%s", got)
				}
			})
		})
	}
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
		// Each goes on with its number.
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

// Rule 24. Given details that the Store did not take, when starts fail one after the
// other before they are tried again, then that does not put the next try off: only a try
// that follows a pause doubles it.
func TestStoreFails_ManyFailuresAreOnePause(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-e.gate("beat")
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		s.on("Save", failing)
		e.open("beat")
		e.pass(100 * time.Millisecond) // the first try
		for i := range 8 {
			l := e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, noop)
			checkErr(t, l.err, errDisk)
		}
		s.on("Save", nil)
		e.pass(100*time.Millisecond - 1)
		checkDiff(t, "details", s.get("a").Details, []byte(nil))
		e.pass(1)
		checkDetails(t, stored{s.get("a")}, 7)
		checkState(t, h, activity.StateRunning)
	})
}

// Rule 24. Given a Store that has failed several times, when it has worked again and
// fails anew, then the first pause is SaveInterval again.
func TestStoreFails_SuccessResetsThePause(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			for i := range 2 {
				<-e.gate(fmt.Sprint(i))
				_ = ctx.Heartbeat(i)
			}
			return untilEnded(ctx)
		})
		for i, pause := range []time.Duration{800 * time.Millisecond, 100 * time.Millisecond} {
			s.on("Save", failing)
			e.open(fmt.Sprint(i))
			e.pass(100 * time.Millisecond)
			if i == 0 {
				e.pass((100 + 200 + 400) * time.Millisecond) // three more tries
			}
			before := s.get("a").Details
			s.on("Save", nil)
			e.pass(pause - 1)
			checkDiff(t, "details", s.get("a").Details, before)
			e.pass(1)
			checkDetails(t, stored{s.get("a")}, i)
			e.pass(time.Minute)
		}
	})
}

// Rule 24. Given a Delete that is to be tried again in seconds, when starts are saved
// meanwhile, then it is not tried with each of them.
func TestStoreFails_DeleteIsNotTriedWithEachSave(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		h := e.start(job, noop)
		e.pass(time.Minute) // the tries are 5 s apart by now
		tries := s.times("Delete", e.base)
		next := tries[len(tries)-1] + 5*time.Second
		for i := range 8 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, untilEnded)
		}
		checkDiff(t, "times of Delete", s.times("Delete", e.base), tries)
		s.on("Delete", nil)
		e.pass(next - time.Since(e.base) - 1)
		checkSaving(t, h, activity.StateCompleted)
		e.pass(1)
		checkErr(t, e.end(h), nil)
	})
}
