// Tests of what the end of an activity leaves in the Store: success, failure, cancellation.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Success.

// Rule 22. Given a function that succeeded, when the Delete of its checkpoint hangs, then
// the caller gets the result only once the checkpoint is gone, and the ID is in use until
// then.
func TestStoreEnd_SuccessIsReportedAfterDelete(t *testing.T) {
	bothDurable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Delete")
		h := e.start(job, func(ctx activity.Context) error { return ctx.Heartbeat(7) })
		other := e.launch(e.ctx, activity.Options{ID: "b"}, noop)
		e.pass(time.Hour)
		check := func(told bool) {
			t.Helper()
			want := []activity.EventKind{activity.EventScheduled, activity.EventAttemptStarted, activity.EventHeartbeat}
			if told {
				want = append(want, activity.EventCompleted)
			}
			checkDiff(t, "events", e.kinds("a"), want)
			checkState(t, h, activity.StateCompleted)
			select {
			case <-h.Done():
				if !told {
					t.Error("told early")
				}
			default:
				if told {
					t.Error("not told")
				}
			}
		}
		check(false)
		if _, err := activity.Start(e.ctx, e.rt, job, func(activity.Context, int) (int, error) { return 0, nil }, 0); !errors.Is(err, activity.ErrAlreadyRunning) {
			t.Error(err)
		}
		checkDiff(t, "unfinished", e.unfinished(), []string(nil))
		if at := e.started("b", 1); at >= 0 { // its slot is free, but the Store is not
			t.Errorf("b started at %s", at)
		}
		open()
		synctest.Wait()
		check(true)
		s.want(activity.Checkpoint{ID: "a"})
		out, err := h.Wait(e.ctx)
		if err != nil || out != "done" {
			t.Error(out, err)
		}
		checkErr(t, e.end(other.h), nil)
		if all := s.of("Delete"); len(all) != 2 || len(all[0].ids) != 1 || all[0].ids[0] != "a" {
			t.Errorf("%+v", all)
		}
	})
}

// Rule 22. Given MaxConcurrent, when the end of an activity is being saved, then it holds
// no slot.
func TestStoreEnd_HoldsNoSlot(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		s.block("Delete")
		e.start(job, noop)
		h := e.start(activity.Options{}, noop)
		checkErr(t, e.end(h), nil)
	})
}

// Rule 24. Given a Delete that fails, then it is tried again after SaveInterval, with
// pauses that double up to 5 s, or SaveInterval if that is longer.
func TestStoreEnd_DeleteIsRetriedUntilItWorks(t *testing.T) {
	for _, test := range []struct {
		interval time.Duration
		want     []time.Duration
	}{
		{0, times(time.Millisecond, 0, 100, 300, 700, 1500, 3100, 6300, 11300, 16300)},
		{3 * time.Second, times(time.Second, 0, 3, 8, 13)},
		{7 * time.Second, times(time.Second, 0, 7, 14, 21)},
	} {
		t.Run(test.interval.String(), func(t *testing.T) {
			bothDurable(t, activity.Config{SaveInterval: test.interval}, func(t *testing.T, e *env, s *faultyStore) {
				var tries []time.Duration
				last := len(test.want) - 1
				s.on("Delete", func(context.Context) error {
					if tries = append(tries, e.clock.Now().Sub(e.base)); len(tries) <= last {
						return errDisk
					}
					return nil
				})
				h := e.start(job, noop)
				for i := 1; i <= last; i++ { // one by one, for a mock's timers come late else
					e.pass(test.want[i] - test.want[i-1] - 1)
					checkSaving(t, h, activity.StateCompleted)
					e.pass(1)
				}
				checkErr(t, e.end(h), nil)
				checkDiff(t, "tries", tries, test.want)
				s.want(activity.Checkpoint{ID: "a"})
			})
		})
	}
}

// Rule 24. Given a success whose Delete fails or hangs, when its caller cancels, then
// success is reported, within CancelGrace, and the ID counts as absent though the Store
// still has it.
func TestStoreEnd_CancelWhileDeleteFails(t *testing.T) {
	for how, end := range map[string]func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc){
		"context": func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) },
		"handle":  func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) },
	} {
		for what, hook := range map[string]func(context.Context) error{"fails": failing, "hangs": nil} {
			t.Run(how+"/"+what, func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					told := time.Hour
					ctx, cancel := context.WithCancelCause(e.ctx)
					defer cancel(nil)
					open := func() { s.on("Delete", nil) }
					if s.on("Delete", hook); hook == nil {
						open = s.block("Delete")
					}
					h := startWith(t, ctx, e.rt, job, func(ctx activity.Context) error { return ctx.Heartbeat(7) })
					e.pass(time.Hour)
					checkSaving(t, h, activity.StateCompleted)
					end(e, h, cancel)
					synctest.Wait()
					if hook == nil { // the first try is under way
						e.pass(10*time.Second - 1)
						checkSaving(t, h, activity.StateCompleted)
						e.pass(1)
						told += 10 * time.Second
					}
					if out, err := h.Wait(e.ctx); err != nil || out != "done" || time.Since(e.base) != told {
						t.Error(out, err, time.Since(e.base))
					}
					checkDiff(t, "the last event", e.kinds("a")[3], activity.EventCompleted)
					checkState(t, h, activity.StateCompleted)
					if s.get("a").State == 0 {
						t.Fatal("it is deleted")
					}
					checkDiff(t, "unfinished", e.unfinished(), []string(nil))
					loads := len(s.of("Load"))
					if n, err := e.rt.Recover(e.ctx, definition("job", nil)); n != 0 || err != nil {
						t.Error(n, err)
					}
					e.pass(time.Second)
					next := e.launch(e.ctx, job, func(ctx activity.Context) error {
						if i := ctx.Info(); i.Attempt != 1 || !i.ScheduledAt.Equal(e.base.Add(told+time.Second)) {
							t.Errorf("%+v", i)
						}
						if found, err := ctx.HeartbeatDetails(); found || err != nil {
							t.Errorf("%v, %v", found, err)
						}
						return untilEnded(ctx)
					})
					open()
					e.pass(time.Hour)
					if !next.returned.Load() || next.err != nil {
						t.Fatalf("%v, %v", next.returned.Load(), next.err)
					}
					s.want(activity.Checkpoint{
						ID: "a", State: activity.CheckpointRunning, Attempt: 1, ScheduledAt: e.base.Add(told + time.Second), Input: []byte("{}"),
					})
					if n := len(s.of("Load")); n != loads {
						t.Errorf("%d Loads", n-loads)
					}
				})
			})
		}
	}
}

// Rule 24. Given a Delete that is under way, when the caller cancels or Shutdown is
// called, then it is waited for.
func TestStoreEnd_CancelWaitsForDeleteUnderWay(t *testing.T) {
	for how, end := range map[string]func(e *env, h *activity.Handle[string]){
		"handle":   func(_ *env, h *activity.Handle[string]) { h.Cancel(errCancel) },
		"shutdown": func(e *env, _ *activity.Handle[string]) { go e.rt.Shutdown(e.t.Context()) },
	} {
		for _, result := range []error{nil, errDisk} {
			t.Run(fmt.Sprint(how, "/", result), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					s.on("Delete", func(context.Context) error { time.Sleep(3 * time.Second); return result })
					h := e.start(job, noop)
					e.pass(time.Second)
					end(e, h)
					e.pass(2*time.Second - 1)
					checkSaving(t, h, activity.StateCompleted)
					e.pass(1)
					checkErr(t, e.end(h), nil)
				})
			})
		}
	}
}

// Rule 24. Given a success that was reported before its Delete worked, when the Store
// works again, then the checkpoint is deleted.
func TestStoreEnd_DeleteIsDoneAfterTheAnswer(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		h := e.start(job, noop)
		h.Cancel(errCancel)
		synctest.Wait()
		checkErr(t, e.end(h), nil)
		e.pass(time.Hour)
		s.on("Delete", nil)
		e.pass(5*time.Second - 1)
		e.pass(1)
		s.want(activity.Checkpoint{ID: "a"})
	})
}

// Rule 24. Given an activity that was canceled and completes nevertheless, then its
// caller is answered after one try of the Delete, and when CancelGrace ends at the
// latest.
func TestStoreEnd_SuccessAfterCancelWaitsForOneDelete(t *testing.T) {
	for _, test := range []struct {
		name string
		hook func(context.Context) error // nil: it hangs
		told time.Duration
	}{
		{"fails", failing, 3 * time.Second},
		{"hangs", nil, 10 * time.Second},
		{"takes its time", func(context.Context) error { time.Sleep(4 * time.Second); return nil }, 7 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				if s.on("Delete", test.hook); test.hook == nil {
					s.block("Delete")
				}
				h := e.start(job, func(ctx activity.Context) error {
					<-ctx.Done()
					time.Sleep(3 * time.Second)
					return nil
				})
				h.Cancel(errCancel)
				e.pass(test.told - 1)
				if test.told > 3*time.Second { // the function has returned
					checkSaving(t, h, activity.StateCompleted)
				}
				e.pass(1)
				if out, err := h.Wait(e.ctx); err != nil || out != "done" || time.Since(e.base) != test.told {
					t.Error(out, err, time.Since(e.base))
				}
				checkDiff(t, "unfinished", e.unfinished(), []string(nil))
			})
		})
	}
}

// Rule 23. Given a Save that is under way, when the activity completes, then that Save
// comes before the Delete, and nothing is written after it.
func TestStoreEnd_NoWriteAfterDelete(t *testing.T) {
	for _, last := range []bool{false, true} { // one more heartbeat, that no Save has yet
		t.Run(fmt.Sprint(last), func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				gate := e.gate("save is under way")
				h := e.start(job, func(ctx activity.Context) error {
					_ = ctx.Heartbeat(7)
					<-gate
					if last {
						_ = ctx.Heartbeat(8)
					}
					return nil
				})
				open := s.block("Save")
				e.pass(100 * time.Millisecond)
				e.open("save is under way")
				checkSaving(t, h, activity.StateCompleted)
				open()
				synctest.Wait()
				checkErr(t, e.end(h), nil)
				e.pass(time.Hour)
				var calls []string
				for _, c := range s.of("") {
					calls = append(calls, c.method)
				}
				checkDiff(t, "calls", calls, []string{"Load", "Save", "Save", "Delete"})
				s.want(activity.Checkpoint{ID: "a"})
			})
		})
	}
}

// Failure.

// Rule 22. Given an activity that fails for good, for any reason, then its checkpoint
// stays, with its details, and its next execution resumes from them.
func TestStoreEnd_FinalFailureStays(t *testing.T) {
	for _, test := range []struct {
		name    string
		set     func(o *activity.Options)
		fn      func(ctx activity.Context) error
		attempt int
		failure string
	}{
		{"the last attempt", func(o *activity.Options) { o.RetryPolicy.MaximumAttempts = 2 },
			func(activity.Context) error { return errBoom }, 2, "boom"},
		{"non-retryable", func(*activity.Options) {}, func(activity.Context) error { return activity.NonRetryable(errBoom) }, 1, "boom"},
		{"panic", func(o *activity.Options) { o.RetryPolicy = once }, func(activity.Context) error { panicHere("ouch"); return nil }, 1, "ouch"},
		{"heartbeat", func(o *activity.Options) { o.HeartbeatTimeout, o.RetryPolicy = time.Second, once }, untilEnded, 1, "heartbeat"},
		{"schedule-to-close", func(o *activity.Options) { o.ScheduleToCloseTimeout = time.Second }, untilEnded, 1, "schedule-to-close"},
		{"the next would be too late", func(o *activity.Options) { o.ScheduleToCloseTimeout = time.Second },
			func(activity.Context) error { return errBoom }, 1, "boom"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				test.set(&opts)
				h := e.start(opts, func(ctx activity.Context) error {
					_ = ctx.Heartbeat(7)
					return test.fn(ctx)
				})
				e.pass(time.Second)
				_ = e.end(h)
				got := s.get("a")
				s.want(activity.Checkpoint{
					ID: "a", State: activity.CheckpointFailed, Attempt: test.attempt, Progressed: 1, ScheduledAt: e.base,
					Input: []byte("{}"), Details: details(7), LastFailure: got.LastFailure,
				})
				if !strings.Contains(got.LastFailure, test.failure) {
					t.Errorf("LastFailure %q", got.LastFailure)
				}
				checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
				err := e.rt.Run(e.ctx, job, func(ctx activity.Context) error { // a new execution
					if i := ctx.Info(); i.Attempt != 1 || i.LastFailure != nil || !i.ScheduledAt.Equal(e.clock.Now()) {
						t.Errorf("%+v", i)
					}
					checkDetails(t, ctx, 7)
					return nil
				})
				checkErr(t, err, nil)
			})
		})
	}
}

// Rule 22. Given a stored failure, when its next execution fails before it gets a slot,
// then the checkpoint stays, with the details of before.
func TestStoreEnd_FailureBeforeFirstAttempt(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 3, Details: details(7)})
		e.start(activity.Options{}, untilDone(time.Hour))
		opts := job
		opts.ScheduleToStartTimeout = time.Second
		h := e.start(opts, noop)
		e.pass(time.Second)
		checkEnd(t, e.end(h), 0, activity.RetryStateTimeout, context.DeadlineExceeded)
		s.want(activity.Checkpoint{
			ID: "a", State: activity.CheckpointFailed, ScheduledAt: e.base, UpdatedAt: e.base.Add(time.Second),
			Input: []byte("{}"), Details: details(7), LastFailure: s.get("a").LastFailure,
		})
	})
}

// Rule 24. Given a final failure, when its Save works, fails, panics or hangs, then the
// caller gets the result after that one try, or when it cancels.
func TestStoreEnd_FailureIsReportedAfterOneSave(t *testing.T) {
	for _, test := range []struct {
		name  string
		hook  func(context.Context) error
		after time.Duration
	}{
		{"works", func(context.Context) error { time.Sleep(time.Minute); return nil }, time.Minute},
		{"fails", func(context.Context) error { time.Sleep(time.Minute); return errDisk }, time.Minute},
		{"panics", func(context.Context) error { time.Sleep(time.Minute); panic(errDisk) }, time.Minute},
		{"hangs, and it is canceled", func(context.Context) error { time.Sleep(time.Hour); return nil }, 2 * time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.RetryPolicy = once
				h := e.start(opts, func(ctx activity.Context) error {
					s.on("Save", test.hook)
					return errors.Join(ctx.Heartbeat(7), errBoom)
				})
				time.AfterFunc(2*time.Minute, func() { h.Cancel(errCancel) })
				checkSaving(t, h, activity.StateFailed)
				checkErr(t, e.rt.Run(e.ctx, opts, noop), activity.ErrAlreadyRunning)
				e.pass(test.after - 1)
				checkSaving(t, h, activity.StateFailed)
				e.pass(1)
				checkState(t, h, activity.StateFailed)
				err := e.end(h)
				checkEnd(t, err, 1, activity.RetryStateMaximumAttemptsReached, errBoom)
				if errors.Is(err, errDisk) || errors.Is(err, errCancel) {
					t.Error(err)
				}
				s.on("Save", nil)
				e.pass(2 * time.Hour)
				if got := s.get("a"); got.State != activity.CheckpointFailed || got.UpdatedAt != e.base || got.LastFailure != "boom" {
					t.Errorf("%+v", got)
				}
				checkDetails(t, stored{s.get("a")}, 7)
			})
		})
	}
}

// Cancellation.

// Rule 22. Given a canceled activity, when Handle.Cancel came first, then its checkpoint
// is canceled; after the end of a context or a Shutdown it is interrupted.
func TestStoreEnd_CheckpointAfterCancel(t *testing.T) {
	handle := func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) }
	ctxEnd := func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) }
	shutdown := func(e *env, _ *activity.Handle[string], _ context.CancelCauseFunc) { go e.rt.Shutdown(e.t.Context()) }
	none := func(*env, *activity.Handle[string], context.CancelCauseFunc) {}
	for _, test := range []struct {
		name          string
		first, second func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc)
		left          activity.CheckpointState
		cause         error
	}{
		{"handle", handle, none, activity.CheckpointCanceled, errCancel},
		{"context", ctxEnd, none, activity.CheckpointInterrupted, errCancel},
		{"shutdown", shutdown, none, activity.CheckpointInterrupted, activity.ErrShutdown},
		{"handle, context", handle, ctxEnd, activity.CheckpointCanceled, errCancel},
		{"context, handle", ctxEnd, handle, activity.CheckpointInterrupted, errCancel},
		{"handle, shutdown", handle, shutdown, activity.CheckpointCanceled, errCancel},
		{"shutdown, handle", shutdown, handle, activity.CheckpointInterrupted, activity.ErrShutdown},
	} {
		for _, phase := range []string{"running", "backing off"} {
			t.Run(test.name+"/"+phase, func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					ctx, cancel := context.WithCancelCause(e.ctx)
					defer cancel(nil)
					h := startWith(t, ctx, e.rt, job, func(ctx activity.Context) error {
						_ = ctx.Heartbeat(1)
						if phase == "backing off" {
							return errors.Join(ctx.Heartbeat(2), errBoom)
						}
						<-ctx.Done()
						time.Sleep(time.Second)
						if err := ctx.Heartbeat(2); !errors.Is(err, test.cause) { // is still recorded
							t.Error(err)
						}
						return errBoom
					})
					e.pass(time.Second / 2)
					test.first(e, h, cancel)
					synctest.Wait()
					test.second(e, h, cancel)
					synctest.Wait()
					left := activity.Checkpoint{
						ID: "a", State: test.left, ScheduledAt: e.base, UpdatedAt: time.Now(), Input: []byte("{}"), Details: details(2),
					}
					if phase == "running" { // the attempt does not count
						left.UpdatedAt = time.Now().Add(time.Second)
					} else {
						left.Attempt, left.Progressed = 1, 1
					}
					e.pass(time.Second)
					checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, test.cause, errBoom)
					left.LastFailure = s.get("a").LastFailure
					if test.left == activity.CheckpointInterrupted && phase == "backing off" {
						left.LastFailure, left.NextAttempt = "boom", e.base.Add(time.Second)
					}
					s.want(left)
				})
			})
		}
	}
}

// Rule 22. Given an activity that was canceled on purpose, when it is started again, then
// that is a new execution, which resumes from the details; Recover does not start it.
func TestStoreEnd_ExecutionAfterCancelIsNew(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		h.Cancel(errCancel)
		synctest.Wait()
		e.pass(time.Hour)
		after, _ := e.reboot(s, activity.Config{})
		if n, err := after.rt.Recover(e.ctx, definition("job", nil)); n != 0 || err != nil {
			t.Error(n, err)
		}
		err := after.rt.Run(e.ctx, job, func(ctx activity.Context) error {
			if i := ctx.Info(); i.Attempt != 1 || i.LastFailure != nil || !i.ScheduledAt.Equal(after.base) {
				t.Errorf("%+v", i)
			}
			checkDetails(t, ctx, 7)
			return nil
		})
		checkErr(t, err, nil)
	})
}

// Rule 22. Given an activity that another one started with its Context, when the outer
// one returns or times out, then the inner one is interrupted.
func TestStoreEnd_OuterActivityInterruptsInner(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"return": 0, "timeout": time.Second} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				outer := activity.Options{RetryPolicy: once, StartToCloseTimeout: timeout}
				var inner *activity.Handle[string]
				e.start(outer, func(ctx activity.Context) error {
					inner = startWith(t, ctx, e.rt, job, untilEnded)
					_ = ctx.Sleep(2 * time.Second)
					return nil
				})
				e.pass(2 * time.Second)
				checkEnd(t, e.end(inner), 1, activity.RetryStateCancelRequested)
				if got := s.get("a"); got.State != activity.CheckpointInterrupted || got.Attempt != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// Rule 18. Given a Store, when a canceled function has returned, then its caller is
// answered after one try of the Save, and when CancelGrace ends at the latest.
func TestCancel_WaitsForOneSaveWithinGrace(t *testing.T) {
	for what, hook := range map[string]func(context.Context) error{"fails": failing, "hangs": nil} {
		t.Run(what, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				h := e.start(job, func(ctx activity.Context) error {
					_ = ctx.Heartbeat(7)
					return untilEnded(ctx)
				})
				open := func() { s.on("Save", nil) }
				if s.on("Save", hook); hook == nil {
					open = s.block("Save")
				}
				h.Cancel(errCancel)
				synctest.Wait()
				if hook == nil {
					e.pass(10*time.Second - 1)
					checkSaving(t, h, activity.StateCanceled)
					e.pass(1)
				}
				checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
				// It stands for the ID until it is saved.
				for cp, err := range e.rt.Checkpoints(e.ctx) {
					checkErr(t, err, nil)
					checkCheckpoint(t, cp, activity.Checkpoint{
						ID: "a", State: activity.CheckpointCanceled, Input: []byte("{}"), Details: details(7), LastFailure: cp.LastFailure,
					})
				}
				if got := s.get("a").State; got != activity.CheckpointRunning {
					t.Errorf("%s", got)
				}
				open()
				e.pass(time.Minute)
				if got := s.get("a"); got.State != activity.CheckpointCanceled || got.UpdatedAt != e.base {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// Rule 24. Given an end that the Store has not taken yet, when the ID is started again,
// then the next execution continues as if the end were saved.
func TestStoreEnd_UnsavedEndCountsForNextExecution(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		ctx, cancel := context.WithCancelCause(e.ctx)
		startWith(t, ctx, e.rt, job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		e.pass(time.Second)
		open := s.block("Save")
		cancel(errCancel)
		e.pass(10 * time.Second)
		loads := len(s.of("Load"))
		l := e.launch(e.ctx, job, func(ctx activity.Context) error {
			if i := ctx.Info(); i.Attempt != 2 || fmt.Sprint(i.LastFailure) != "boom" || !i.ScheduledAt.Equal(e.base) {
				t.Errorf("%+v", i)
			}
			checkDetails(t, ctx, 7)
			return untilEnded(ctx)
		})
		open()
		synctest.Wait()
		if !l.returned.Load() || l.err != nil || len(s.of("Load")) != loads {
			t.Errorf("%v, %v, %d Loads", l.returned.Load(), l.err, len(s.of("Load"))-loads)
		}
		e.pass(time.Minute)
		s.want(activity.Checkpoint{
			ID: "a", State: activity.CheckpointRunning, Attempt: 2, Progressed: 1, ScheduledAt: e.base,
			Input: []byte("{}"), Details: details(7), LastFailure: "boom",
		})
	})
}

// Abandoned functions.

// Rule 23. Given an attempt that has timed out, when its function heartbeats late, during
// the next attempt or after the end of the activity, then nothing of it is stored.
func TestStoreEnd_LateHeartbeatsAreNeverStored(t *testing.T) {
	for _, end := range []activity.CheckpointState{0, activity.CheckpointFailed} { // 0: it succeeds
		t.Run(end.String(), func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				late := e.gate("late")
				opts := job
				opts.HeartbeatTimeout, opts.RetryPolicy.MaximumAttempts = time.Second, 2
				h := e.start(opts, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 1 {
						_ = ctx.Heartbeat(1)
						for i := 90; i < 99; i++ {
							<-late
							if err := ctx.Heartbeat(i); !errors.Is(err, context.DeadlineExceeded) {
								t.Error(err)
							}
							time.Sleep(300 * time.Millisecond)
						}
						return nil
					}
					checkDetails(t, ctx, 1)
					_ = ctx.Heartbeat(2)
					_ = ctx.Sleep(time.Second - 1)
					if end == activity.CheckpointFailed {
						return errBoom
					}
					return nil
				})
				e.pass(time.Second)
				e.open("late")
				for range 9 {
					e.pass(100 * time.Millisecond)
					if cp := s.get("a"); cp.Attempt == 2 && cp.Progressed == 2 {
						checkDetails(t, stored{cp}, 2)
					}
				}
				e.pass(100*time.Millisecond - 1)
				_ = e.end(h)
				if n := e.rt.Stats().Abandoned; n != 1 {
					t.Errorf("%d abandoned", n)
				}
				calls := len(s.of(""))
				if got := s.get("a"); got.State != end {
					t.Errorf("%+v", got)
				}
				e.pass(time.Hour)
				if n := len(s.of("")); n != calls {
					t.Errorf("%d calls of the Store", n-calls)
				}
			})
		})
	}
}

// Rule 23. Given a canceled attempt, when it heartbeats 1 ns before CancelGrace ends,
// that is stored; 1 ns after it, that is not.
func TestStoreEnd_HeartbeatAfterCancelGrace(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-ctx.Done()
			time.Sleep(10*time.Second - 1)
			_ = ctx.Heartbeat(1)
			time.Sleep(2 * time.Nanosecond)
			_ = ctx.Heartbeat(2)
			return nil
		})
		h.Cancel(errCancel)
		e.pass(time.Hour)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
		s.want(activity.Checkpoint{
			ID: "a", State: activity.CheckpointCanceled, UpdatedAt: e.base.Add(10 * time.Second),
			Input: []byte("{}"), Details: details(1), LastFailure: s.get("a").LastFailure,
		})
	})
}

// Rule 18. Given a Store and a canceled activity in any state, when its caller is
// answered, then one Save was tried, so that the next process does not find it running.
func TestCancel_CallerIsAnsweredAfterOneSave(t *testing.T) {
	for _, where := range []string{"backing off", "running", "waiting"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				rt := activity.New(activity.Config{Store: s, Logger: quiet, MaxConcurrent: 1})
				gate := make(chan struct{})
				if where == "waiting" {
					start(t, rt, activity.Options{}, func(activity.Context) error { <-gate; return nil })
				}
				h := start(t, rt, activity.Options{ID: "a", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(ctx activity.Context) error {
					if where == "backing off" {
						return errBoom
					}
					return untilEnded(ctx)
				})
				time.Sleep(time.Minute)
				s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
				h.Cancel(errCancel)
				checkErr(t, wait(t, h), errCancel)
				if cp := s.get("a"); cp.State != activity.CheckpointCanceled { // a kill now
					t.Errorf("the caller is told, and the Store has %s", cp.State)
				}
				close(gate)
				synctest.Wait()
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}

// Rule 34. Given an activity in any state, when its canceled caller is answered, then the
// Store holds the cancellation.
func TestCancel_IsDurableWhenCallerIsAnswered(t *testing.T) {
	for _, how := range []string{"running", "backing off", "waiting"} {
		t.Run(how, func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				if how == "waiting" {
					e.start(activity.Options{}, untilEnded)
				}
				h := e.start(job, func(ctx activity.Context) error {
					if how == "backing off" {
						return activity.RetryAfter(errBoom, time.Hour)
					}
					return untilEnded(ctx)
				})
				e.pass(time.Second)
				s.on("Save", func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
				h.Cancel(errCancel)
				_, err := h.Wait(e.ctx)
				checkErr(t, err, errCancel)
				e2, _ := e.reboot(s, activity.Config{}) // killed after Wait returned
				n, err := e2.rt.Recover(e2.ctx, &activity.Definition[struct{}, int]{Name: "job", Func: func(ctx activity.Context, _ struct{}) (int, error) {
					t.Errorf("attempt %d runs after Wait said canceled", ctx.Info().Attempt)
					return 0, nil
				}})
				if n != 0 || err != nil {
					t.Errorf("recovered %d, %v", n, err)
				}
				e2.pass(2 * time.Hour)
			})
		})
	}
}

// Rule 34. Given a caller whose context ends, when Execute returns and the process ends,
// then the attempt does not count.
func TestCancel_EndOfContextIsDurableWhenCallerIsAnswered(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		ctx, cancel := context.WithCancelCause(e.ctx)
		time.AfterFunc(time.Second, func() {
			s.on("Save", func(context.Context) error { time.Sleep(5 * time.Millisecond); return nil })
			cancel(errCancel)
		})
		_, err := activity.Execute(ctx, e.rt, opts, func(ctx activity.Context, _ struct{}) (string, error) { return "", untilEnded(ctx) }, struct{}{})
		checkErr(t, err, errCancel)
		e2, _ := e.reboot(s, activity.Config{}) // e.g. main returns
		h := e2.start(opts, untilEnded)
		select {
		case <-h.Done():
			t.Errorf("the next boot: %v", e2.end(h))
		default:
		}
	})
}

// Rule 34. Given a canceled function that cleans up, when the process is killed meanwhile,
// then the cancellation stands: what was canceled on purpose is not recovered, and what was
// interrupted continues without the attempt having counted.
func TestCancel_KillDuringCleanUp(t *testing.T) {
	for _, test := range []struct {
		how  string
		stop func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc)
		left activity.CheckpointState
	}{
		{"handle", func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) }, activity.CheckpointCanceled},
		{"context", func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) }, activity.CheckpointInterrupted},
		{"shutdown", func(e *env, _ *activity.Handle[string], _ context.CancelCauseFunc) {
			ctx, cancel := context.WithTimeout(e.ctx, time.Second)
			defer cancel()
			checkErr(e.t, e.rt.Shutdown(ctx), context.DeadlineExceeded)
		}, activity.CheckpointInterrupted},
	} {
		t.Run(test.how, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 3}
				runs := 0
				for range 4 { // one more than there are attempts
					runs++
					ctx, cancel := context.WithCancelCause(e.ctx)
					h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
						if n := ctx.Info().Attempt; n != 1 {
							t.Errorf("attempt %d", n)
						}
						_ = ctx.Heartbeat(7)
						<-ctx.Done()
						time.Sleep(time.Second)
						_ = ctx.Heartbeat(8) // a canceled attempt's details are recorded
						time.Sleep(2 * time.Second)
						return context.Cause(ctx)
					})
					e.pass(time.Second)
					go test.stop(e, h, cancel)
					synctest.Wait()
					s.want(activity.Checkpoint{ID: "a", State: test.left, Input: []byte("{}"), Details: details(7), LastFailure: s.get("a").LastFailure})
					e.pass(2 * time.Second)
					s.want(activity.Checkpoint{ID: "a", State: test.left, Input: []byte("{}"), Details: details(8), LastFailure: s.get("a").LastFailure})
					after, next := e.reboot(s, activity.Config{}) // the kill
					if test.left == activity.CheckpointCanceled {
						n, err := after.rt.Recover(e.ctx, &activity.Definition[struct{}, int]{Name: "job"})
						if n != 0 || err != nil {
							t.Error(n, err)
						}
						return
					}
					e, s = after, next
				}
			})
		})
	}
}

// Rule 34. Given a canceled function, when it returns nil nevertheless, then nothing is
// left of the cancellation in the Store.
func TestCancel_CompletesNevertheless(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			return nil
		})
		h.Cancel(errCancel)
		synctest.Wait()
		if got := s.get("a").State; got != activity.CheckpointCanceled {
			t.Errorf("it is stored as %s", got)
		}
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		s.want(activity.Checkpoint{ID: "a"})
	})
}
