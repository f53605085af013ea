// A Store whose calls do not return.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// limits are what the tests of Config.StoreTimeout use.
var limits = activity.Config{StoreTimeout: 30 * time.Second}

// returnedAt wants l to return at this time after e.base, and not before.
func (e *env) returnedAt(l *launch, at time.Duration) {
	e.t.Helper()
	e.pass(at - time.Since(e.base) - 1)
	if l.returned.Load() {
		e.t.Fatalf("it has returned before %s: %v", at, l.err)
	}
	e.pass(1)
	if !l.returned.Load() {
		e.t.Fatalf("it has not returned after %s", at)
	}
}

// Rule 24. Given a Store that hangs, when StoreTimeout passes, then the start fails, and
// so does one that came later, StoreTimeout after it came. Once the Store works, it holds
// what stood before.
func TestStoreHangs_Start(t *testing.T) {
	for _, method := range []string{"Load", "Save"} {
		for _, heeds := range []bool{false, true} {
			t.Run(fmt.Sprint(method, ", heeds its context: ", heeds), func(t *testing.T) {
				log := &logbook{}
				cfg := limits
				cfg.Logger = slog.New(log)
				durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
					before := s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 3, Progressed: 2, Details: details(7), LastFailure: "boom"})
					open := s.block(method)
					if heeds {
						s.on(method, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
					}
					l := e.launch(e.ctx, job, noop)
					e.pass(10 * time.Second)
					other := e.launch(e.ctx, activity.Options{ID: "b"}, noop)
					again := e.launch(e.ctx, job, noop)
					checkErr(t, again.err, activity.ErrAlreadyRunning)
					e.returnedAt(l, 30*time.Second)
					checkErr(t, l.err, context.DeadlineExceeded)
					if text := fmt.Sprint(l.err); !strings.Contains(text, `"a"`) || !strings.Contains(text, method+" has not returned after 30s") {
						t.Error(text)
					}
					if n := log.has(slog.LevelError, method, "30s"); n == 0 {
						t.Errorf("log: %v", log.lines)
					}
					if method == "Save" && heeds {
						e.returnedAt(other, 60*time.Second) // it has had its own try
					} else {
						e.returnedAt(other, 40*time.Second)
					}
					checkErr(t, other.err, context.DeadlineExceeded)
					if method == "Load" && !heeds { // until it has returned, there is no other
						waits := e.launch(e.ctx, job, noop)
						e.returnedAt(waits, 70*time.Second)
						checkErr(t, waits.err, context.DeadlineExceeded)
						if n := len(s.of("Load")); n != 2 {
							t.Errorf("%d Loads", n)
						}
					}
					s.on(method, nil)
					open()
					e.pass(10 * time.Second)
					before.Sequence = s.get("a").Sequence
					s.want(before)
					s.want(activity.Checkpoint{ID: "b"})
					e.start(job, func(ctx activity.Context) error {
						if i := ctx.Info(); i.Attempt != 4 {
							t.Errorf("attempt %d", i.Attempt)
						}
						checkDetails(t, ctx, 7)
						return nil
					})
					e.stop()
				})
			})
		}
	}
}

// Rule 24. Given an activity that runs, when the Store hangs, then it continues; a
// failure is reported once a try was late, a success once its checkpoint is gone.
func TestStoreHangs_DuringRun(t *testing.T) {
	for name, result := range map[string]error{"fails": activity.NonRetryable(errBoom), "succeeds": nil} {
		t.Run(name, func(t *testing.T) {
			durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
				h := e.start(job, func(ctx activity.Context) error {
					return errors.Join(ctx.Heartbeat(7), ctx.Sleep(time.Hour), result)
				})
				e.pass(time.Minute)
				opens := []func(){s.block("Save"), s.block("Delete")}
				e.pass(time.Hour - time.Minute + 30*time.Second - 1)
				checkSaving(t, h, map[bool]activity.State{true: activity.StateCompleted, false: activity.StateFailed}[result == nil])
				e.pass(1)
				if result != nil {
					checkErr(t, e.end(h), errBoom)
				} else {
					e.pass(time.Hour)
					checkSaving(t, h, activity.StateCompleted)
				}
				for _, open := range opens {
					open()
				}
				e.pass(time.Minute)
				checkErr(t, e.end(h), result)
				if result == nil {
					s.want(activity.Checkpoint{ID: "a"})
				} else if got := s.get("a"); got.State != activity.CheckpointFailed {
					t.Errorf("%+v", got)
				}
				if got := e.rt.Stats(); got.SaveFailures != 1 || !got.StoreFailingSince.IsZero() {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// Rule 24. Given a Store that hangs, when StoreTimeout has passed, then SyncHeartbeats
// and Forget return its error.
func TestStoreHangs_SyncHeartbeatsAndForget(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		var at []time.Duration
		e.start(opts, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			for i := range 3 {
				checkErr(t, ctx.Heartbeat(i), context.DeadlineExceeded)
				at = append(at, time.Since(e.base))
			}
			return untilEnded(ctx)
		})
		open := s.block("Save")
		e.pass(20 * time.Second)
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "b") }()
		e.pass(10 * time.Minute)
		// The first gets the error when its own call is late, the next StoreTimeout after it came.
		checkDiff(t, "heartbeats", at, times(time.Second, 31, 61, 91))
		checkErr(t, <-forgotten, context.DeadlineExceeded)
		if n := len(s.of("Delete")); n != 0 {
			t.Errorf("%d Deletes", n)
		}
		open()
		e.pass(time.Second)
		checkDetails(t, stored{s.get("a")}, 2)

		open = s.block("Delete")
		go func() { forgotten <- e.rt.Forget(e.ctx, "b") }()
		e.pass(30*time.Second - 1)
		if len(forgotten) > 0 {
			t.Error("Forget has returned early")
		}
		e.pass(1)
		checkErr(t, <-forgotten, context.DeadlineExceeded)
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop), activity.ErrAlreadyRunning) // the Delete may still come
		open()
		synctest.Wait()
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop), nil)
	})
}

// Rule 10. Given a Store that hangs anywhere, then ScheduleToCloseTimeout bounds Run.
func TestStoreHangs_ScheduleToCloseBoundsRun(t *testing.T) {
	for _, test := range []struct {
		hangs string
		after time.Duration
		fn    func(ctx activity.Context) error
	}{
		{"Load", 0, noop},
		{"Save", 0, noop},
		{"Save", 1, untilEnded},
		{"Save", 1, func(ctx activity.Context) error { return errors.Join(ctx.Heartbeat(1), untilEnded(ctx)) }},
		{"Save", 1, func(ctx activity.Context) error {
			_ = ctx.Sleep(50 * time.Second)
			return activity.NonRetryable(errBoom)
		}},
		{"Save", 1, func(ctx activity.Context) error { _ = ctx.Sleep(50 * time.Second); return errBoom }},
	} {
		for _, timeout := range []time.Duration{time.Second, time.Hour} {
			t.Run(fmt.Sprint(test.hangs, " ", test.after, " ", timeout), func(t *testing.T) {
				cfg := limits
				cfg.StoreTimeout = timeout
				durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
					opts := job
					opts.ScheduleToCloseTimeout = time.Minute
					if test.after == 0 {
						s.block(test.hangs)
					}
					var err error
					var at time.Duration
					go func() {
						err = e.rt.Run(e.ctx, opts, test.fn)
						at = time.Since(e.base)
					}()
					e.pass(test.after)
					s.block(test.hangs)
					e.pass(time.Minute + 100*time.Millisecond)
					switch {
					case at == 0 || at > time.Minute+100*time.Millisecond || err == nil:
						t.Errorf("after %s: %v", at, err)
					case test.after == 0 && timeout == time.Second && at != timeout:
						t.Errorf("after %s: %v", at, err)
					case test.after == 0 && timeout == time.Hour && (at != time.Minute || timeoutType(err) != activity.TimeoutScheduleToClose):
						t.Errorf("after %s: %v", at, err)
					}
				})
			})
		}
	}
}

// Rule 24. Given calls of the Store that hung, when the Store works again, then no
// goroutine of them is left.
func TestStoreHangs_NoGoroutineIsLeft(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		e.pass(0)
		before := bubbled(t)
		for _, method := range []string{"Load", "Save", "Delete", "All"} {
			open := s.block(method)
			for i := range 3 {
				e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, noop)
			}
			go func() { _ = e.rt.Forget(e.ctx, "x") }()
			go func() {
				for range e.rt.Checkpoints(e.ctx) {
				}
			}()
			e.pass(10 * time.Minute)
			open()
			e.pass(time.Minute)
			if now := bubbled(t); now != before {
				t.Errorf("%s: %d goroutines, %d before", method, now, before)
			}
		}
	})
}

// refusing makes Save refuse every batch for which bad returns true.
func (s *faultyStore) refusing(bad func(batch []activity.Checkpoint) bool) {
	s.on("Save", func(context.Context) error {
		if bad(s.batch()) {
			return errDisk
		}
		return nil
	})
}

func has(batch []activity.Checkpoint, ids ...string) bool {
	return slices.ContainsFunc(batch, func(cp activity.Checkpoint) bool { return slices.Contains(ids, cp.ID) })
}

// Rule 24. Given a loop over Checkpoints, when its body takes longer than StoreTimeout,
// then the loop continues: that time is not the Store's.
func TestStoreHangs_BodyOfLoopMayTakeItsTime(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		n := len(seed(s, "job"))
		for _, err := range e.rt.Checkpoints(e.ctx) {
			checkErr(t, err, nil)
			n--
			time.Sleep(time.Hour)
		}
		if n != 0 {
			t.Errorf("%d were not yielded", n)
		}
	})
}

// Rule 24. Given two starts in a batch that fails, when the Store hangs at the part of
// one, then the other fails too, StoreTimeout later.
func TestStoreHangs_StartBehindPartOfBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		a := e.launch(e.ctx, activity.Options{ID: "a"}, noop)
		b := e.launch(e.ctx, activity.Options{ID: "b"}, noop)
		open()
		gate := e.gate("hang")
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if len(batch) > 1 {
				return errDisk
			}
			if has(batch, "a", "b") {
				<-gate
			}
			return nil
		})
		e.pass(2 * time.Minute)
		if !a.returned.Load() || !b.returned.Load() {
			t.Errorf("after 2 minutes: a has returned: %t, b: %t", a.returned.Load(), b.returned.Load())
		}
		e.pass(10 * time.Hour)
		if !a.returned.Load() || !b.returned.Load() {
			t.Errorf("after 10 hours: a has returned: %t, b: %t", a.returned.Load(), b.returned.Load())
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rule 24. Given the ends of two activities in a batch that fails, when the Store hangs
// at the part of one, then the other's caller gets the result StoreTimeout later.
func TestStoreHangs_EndBehindPartOfBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		var hs []*activity.Handle[string]
		for _, id := range []string{"a", "b"} {
			hs = append(hs, e.start(activity.Options{ID: id}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second)
				return activity.NonRetryable(errBoom)
			}))
		}
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "x"}, noop)
		e.pass(time.Second)
		gate := e.gate("hang")
		open()
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if len(batch) > 1 {
				return errDisk
			}
			if has(batch, "a", "b") {
				<-gate
			}
			return nil
		})
		e.pass(time.Hour)
		for _, h := range hs {
			select {
			case <-h.Done():
			default:
				t.Errorf("%s: not told after an hour", h.ID())
			}
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rule 24. Given a batch of more than 16 MiB, which goes in several calls, when the first
// hangs, then those that wait for the others get the error.
func TestStoreHangs_FirstCallOfLargeBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		first := e.gate("first")
		s.on("Save", func(context.Context) error { <-first; return nil })
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		var all []*launch
		large := strings.Repeat("x", 9<<20)
		for i := range 4 {
			l := &launch{}
			all = append(all, l)
			go func() {
				_, l.err = activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context, _ string) (string, error) { return "", nil }, large)
				l.returned.Store(true)
			}()
		}
		synctest.Wait()
		gate := e.gate("hang")
		s.on("Save", func(context.Context) error { <-gate; return nil })
		e.open("first")
		e.pass(10 * time.Minute)
		for i, l := range all {
			if !l.returned.Load() {
				t.Errorf("%d has not returned after 10 minutes", i)
				continue
			}
			checkErr(t, l.err, context.DeadlineExceeded)
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rules 10 and 24. Given a Load of the ID that hangs, when a second start waits for it,
// then ScheduleToCloseTimeout bounds that wait and its own Load together.
func TestStoreHangs_ScheduleToCloseBoundsTwoLoads(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Load")
		first := e.launch(e.ctx, job, noop)
		e.returnedAt(first, 30*time.Second)
		opts := job
		opts.ScheduleToCloseTimeout = 20 * time.Second
		l := e.launch(e.ctx, opts, noop)
		at := time.Now()
		e.pass(19 * time.Second)
		open()
		gate := e.gate("load")
		s.on("Load", func(context.Context) error { <-gate; return nil })
		for !l.returned.Load() && time.Since(at) < time.Minute {
			e.pass(100 * time.Millisecond)
		}
		if took := time.Since(at); took > 20*time.Second+200*time.Millisecond {
			t.Errorf("Start took %s: %v", took, l.err)
		}
		s.on("Load", nil)
		e.open("load")
	})
}

// Rule 24. Given a loop over Checkpoints whose body panics, when All hangs as it is told
// to stop, then the loop ends StoreTimeout later.
func TestStoreHangs_AllAfterBodyEndsLoop(t *testing.T) {
	for _, how := range []string{"break", "panic", "goexit"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				gate := make(chan struct{})
				as := anyAllStore{s, func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
					return func(yield func(activity.Checkpoint, error) bool) {
						if !yield(activity.Checkpoint{ID: "x", Name: "job", State: activity.CheckpointWaiting}, nil) {
							select {
							case <-gate:
							case <-ctx.Done():
							}
						}
					}
				}}
				rt := activity.New(activity.Config{Store: as, Logger: quiet, StoreTimeout: 30 * time.Second})
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					for range rt.Checkpoints(context.Background()) {
						switch how {
						case "break":
							return
						case "panic":
							panic(1)
						default:
							runtime.Goexit()
						}
					}
				}()
				time.Sleep(time.Hour)
				select {
				case <-done:
				default:
					t.Error("the loop has not ended after an hour")
				}
				close(gate)
				synctest.Wait()
			})
		})
	}
}

// Rule 24. Given a Store that hangs for one ID and heeds its context, then the others are
// saved as soon as ever: a batch of one never means that the Store is down.
func TestStoreHangs_OneIDDelaysNoOther(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		e.start(activity.Options{ID: "x"}, beatEvery(time.Second))
		e.start(activity.Options{ID: "y"}, beatEvery(time.Second))
		e.pass(time.Second)
		var returned time.Time
		var gaps []time.Duration
		s.saveHook(func(ctx context.Context, batch []activity.Checkpoint) error {
			if has(batch, "x") {
				<-ctx.Done()
				returned = time.Now()
				return context.Cause(ctx)
			}
			if !returned.IsZero() {
				gaps = append(gaps, time.Since(returned))
				returned = time.Time{}
			}
			return nil
		})
		e.pass(10 * time.Minute)
		for i, g := range gaps {
			if i > 1 && g > 200*time.Millisecond {
				t.Errorf("y was saved %s after the call had returned", gaps)
				break
			}
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given a Forget whose Delete is late and heeds its context, when it has
// returned, then the next write is made. Delete returns while Forget is about to wait for
// that, so the race runs many times.
func TestStoreHangs_WriteAfterLateForget(t *testing.T) {
	for range 3000 {
		durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Delete", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
			checkErr(t, e.rt.Forget(e.ctx, "a"), context.DeadlineExceeded)
			s.on("Delete", nil)
			checkErr(t, e.rt.Forget(e.ctx, "b"), nil)
		})
		if t.Failed() {
			return
		}
	}
}

// Rule 24. Given a Load that hangs, when the caller's context ends or Shutdown is called,
// then Start returns.
func TestStoreHangs_LoadEndsWithCallerOrShutdown(t *testing.T) {
	heeding := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	refused := func(t *testing.T, l *launch) {
		t.Helper()
		synctest.Wait()
		if e := (*activity.Error)(nil); !errors.Is(l.err, activity.ErrShutdown) || errors.As(l.err, &e) {
			t.Errorf("%v (%T)", l.err, l.err)
		}
	}
	t.Run("context", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Load", heeding)
			ctx, cancel := context.WithCancelCause(e.ctx)
			l := e.launch(ctx, job, noop)
			e.pass(time.Hour)
			if all := e.rt.Activities(); l.returned.Load() || len(all) != 1 || all[0].State != activity.StateWaiting {
				t.Errorf("%v, %+v", l.returned.Load(), all)
			}
			checkErr(t, e.rt.Run(e.ctx, job, noop), activity.ErrAlreadyRunning)
			cancel(errCancel)
			synctest.Wait()
			checkEnd(t, l.err, 0, activity.RetryStateCancelRequested, errCancel)
			s.on("Load", nil)
			checkErr(t, e.rt.Run(e.ctx, job, noop), nil)
			e.stop()
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Load", heeding)
			l := e.launch(e.ctx, job, noop)
			e.stop()
			refused(t, l)
		})
	})
	t.Run("shutdown, and Load succeeds", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			open := s.block("Load") // it does not heed its context
			l := e.launch(e.ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
			ctx, cancel := context.WithTimeoutCause(e.ctx, time.Minute, errCancel)
			defer cancel()
			err := e.rt.Shutdown(ctx)
			if checkErr(t, err, errCancel); !strings.Contains(fmt.Sprint(err), "1 activity") {
				t.Error(err)
			}
			open()
			e.stop()
			refused(t, l)
			if n := len(s.of("Save")); n != 0 {
				t.Errorf("%d Saves", n)
			}
		})
	})
}

// Rule 24. Given a start that waits for an earlier Load of its ID, when that returns, then its own Load
// has a context that has not ended.
func TestStoreHangs_LoadAfterAnotherOfTheID(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 5 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		first := make(chan struct{})
		s.on("Load", func(context.Context) error { <-first; return nil })
		late := e.launch(e.ctx, job, noop)
		e.pass(5 * time.Second)
		checkErr(t, late.err, context.DeadlineExceeded)
		s.on("Load", func(ctx context.Context) error { return context.Cause(ctx) })
		waits := e.launch(e.ctx, job, noop)
		if waits.returned.Load() {
			t.Fatal("it did not wait")
		}
		close(first)
		synctest.Wait()
		checkErr(t, waits.err, nil)
		checkErr(t, e.end(waits.h), nil)
	})
}
