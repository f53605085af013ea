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

// Rule 20. Given an attempt that was killed with its process, when the next process
// starts its ID, then the attempt counts, and the next one gets its details and a
// LastFailure that says so.
func TestCrash_NextProcessContinues(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		e.pass(time.Minute)
		after, s2 := e.reboot(s, activity.Config{})
		var info activity.Info
		after.start(job, func(ctx activity.Context) error {
			info = ctx.Info()
			checkDetails(t, ctx, 7)
			return untilEnded(ctx)
		})
		if info.Attempt != 2 || !info.ScheduledAt.Equal(e.base) || !info.StartedAt.Equal(e.base.Add(time.Minute)) {
			t.Errorf("%+v", info)
		}
		if got := fmt.Sprint(info.LastFailure); !strings.Contains(got, "process ended") || !strings.Contains(got, "attempt 1") {
			t.Errorf("LastFailure %s", got)
		}
		s2.want(activity.Checkpoint{
			ID: "a", State: activity.CheckpointRunning, Attempt: 2, Progressed: 1, ScheduledAt: e.base, UpdatedAt: e.base.Add(time.Minute),
			Input: []byte("{}"), Details: details(7), LastFailure: info.LastFailure.Error(), Sequence: s.get("a").Sequence + 1,
		})
	})
}

// Rule 20. Given processes that are killed one after another, when an attempt made no
// progress, then each next one waits longer; after progress it starts at once.
func TestCrash_WithoutProgressWaitsLonger(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		beats := map[int]int{1: 1, 4: 1, 5: 2} // attempt 4 records what it resumes from
		// Each process is killed one second after its attempt started.
		for i, wait := range times(time.Second, 0, 0, 1, 2, 4, 0, 1) {
			h := e.start(job, func(ctx activity.Context) error {
				if ctx.Info().Attempt != i+1 {
					t.Errorf("attempt %d, want %d", ctx.Info().Attempt, i+1)
				}
				if n := beats[i+1]; n > 0 {
					_ = ctx.Heartbeat(n)
				}
				return untilEnded(ctx)
			})
			updated := s.get("a").UpdatedAt
			if wait > 0 {
				e.pass(time.Until(updated.Add(wait)) - 1)
				checkState(t, h, activity.StateBackingOff)
				if at := h.Status().NextAttempt; at.Sub(updated) != wait || h.Status().Attempt != i {
					t.Errorf("%+v", h.Status())
				}
				e.pass(1)
			}
			checkState(t, h, activity.StateRunning)
			e.pass(500 * time.Millisecond)
			e, s = e.reboot(s, activity.Config{})
		}
	})
}

// Rule 20. Given a checkpoint, when its ID is started again, then the wait is the
// policy's interval, counted from UpdatedAt, if the crashed attempt made no progress.
func TestCrash_IntervalByCheckpoint(t *testing.T) {
	jitter := activity.RetryPolicy{Jitter: 0.5}
	reset := activity.RetryPolicy{ResetOnProgress: true}
	for _, test := range []struct {
		name   string
		policy activity.RetryPolicy
		cp     activity.Checkpoint
		ago    time.Duration // that it was updated
		want   time.Duration
	}{
		{"first", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 1}, 0, time.Second},
		{"third", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 3}, 0, 4 * time.Second},
		{"second without progress", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 5, Progressed: 3}, 0, 2 * time.Second},
		{"progress", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 5, Progressed: 5}, 0, 0},
		{"counted from", reset, activity.Checkpoint{Attempt: 5, CountedFrom: 2, Progressed: 3}, 0, 2 * time.Second},
		{"most", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 90}, 0, 100 * time.Second},
		{"policy", activity.RetryPolicy{InitialInterval: time.Minute, BackoffCoefficient: 3, MaximumInterval: time.Hour}, activity.Checkpoint{Attempt: 3}, 0, 9 * time.Minute},
		{"jitter", jitter, activity.Checkpoint{Attempt: 1}, 0, 875 * time.Millisecond},
		{"some downtime", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 1}, time.Second - 1, 1},
		{"enough downtime", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 1}, time.Second, 0},
		{"much downtime", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 1}, 1000 * time.Hour, 0},
		{"the clock was set back", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 1}, -time.Hour, time.Second},
		{"interrupted", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 3, State: activity.CheckpointInterrupted}, 0, 0},
		{"failed", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 3, State: activity.CheckpointFailed}, 0, 0},
		{"canceled", activity.RetryPolicy{}, activity.Checkpoint{Attempt: 3, State: activity.CheckpointCanceled}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothDurable(t, activity.Config{Rand: func() float64 { return 0.25 }}, func(t *testing.T, e *env, s *faultyStore) {
				cp := test.cp
				cp.UpdatedAt = e.base.Add(-test.ago)
				cp.ScheduledAt = e.base.Add(-2000 * time.Hour)
				number := cp.Attempt + 1
				switch cp.State {
				case 0:
					cp.State = activity.CheckpointRunning
				case activity.CheckpointFailed, activity.CheckpointCanceled:
					number = 1
				}
				s.put(cp)
				opts := job
				opts.RetryPolicy = test.policy
				h := e.start(opts, untilEnded)
				if test.want > 0 {
					e.pass(test.want - 1)
					checkState(t, h, activity.StateBackingOff)
					e.pass(1)
				}
				checkState(t, h, activity.StateRunning)
				e.wantStarted("a", number, test.want)
			})
		})
	}
}

// Rules 18 and 20. Given an activity that waits after a crash, when it is canceled or
// shut down, then it ends at once, and the Store holds what that kind of end leaves.
func TestCrash_CanceledDuringInterval(t *testing.T) {
	for _, test := range []struct {
		how   string
		end   func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc)
		cause error
	}{
		{"context", func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) }, errCancel},
		{"shutdown", func(e *env, _ *activity.Handle[string], _ context.CancelCauseFunc) { e.stop() }, activity.ErrShutdown},
		{"handle", func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) }, errCancel},
	} {
		t.Run(test.how, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				left := s.put(activity.Checkpoint{
					State: activity.CheckpointRunning, Attempt: 2, Progressed: 1, Details: details(1), LastFailure: "eh", Input: []byte("{}"),
				})
				ctx, cancel := context.WithCancelCause(e.ctx)
				defer cancel(nil)
				h := startWith(t, ctx, e.rt, job, func(activity.Context) error { t.Error("it runs"); return nil })
				e.pass(time.Second - 1)
				test.end(e, h, cancel)
				synctest.Wait()
				checkEnd(t, e.end(h), 2, activity.RetryStateCancelRequested, test.cause)
				e.pass(time.Hour)
				if test.how == "handle" {
					left.State, left.Sequence, left.Input, left.UpdatedAt = activity.CheckpointCanceled, 8, []byte("{}"), e.base.Add(time.Second-1)
					left.LastFailure = s.get("a").LastFailure
				} else if n := len(s.of("Save")); n != 0 {
					t.Errorf("%d Saves", n)
				}
				s.want(left)
			})
		})
	}
}

// Rule 20. Given a checkpoint whose attempts are used up, when its ID is started, then it
// fails at once with MaximumAttemptsReached, and its next execution is a new one.
func TestCrash_AttemptsUsedUp(t *testing.T) {
	three := activity.RetryPolicy{MaximumAttempts: 3}
	reset := activity.RetryPolicy{MaximumAttempts: 3, ResetOnProgress: true}
	for _, test := range []struct {
		name   string
		policy activity.RetryPolicy
		cp     activity.Checkpoint
		used   bool
	}{
		{"two of three", three, activity.Checkpoint{Attempt: 2, Progressed: 2}, false},
		{"three of three", three, activity.Checkpoint{Attempt: 3, Progressed: 3}, true},
		{"no progress", three, activity.Checkpoint{Attempt: 3}, true},
		{"interrupted after two", three, activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 2}, false},
		{"interrupted after three", three, activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 3}, true},
		{"failed", three, activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 3}, false},
		{"progress counts", reset, activity.Checkpoint{Attempt: 5, CountedFrom: 1, Progressed: 5}, false},
		{"earlier progress", reset, activity.Checkpoint{Attempt: 5, CountedFrom: 3, Progressed: 4}, false},
		{"progress too long ago", reset, activity.Checkpoint{Attempt: 5, CountedFrom: 2, Progressed: 3}, true},
		{"only one", activity.RetryPolicy{MaximumAttempts: 1, ResetOnProgress: true}, activity.Checkpoint{Attempt: 1, Progressed: 1}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				cp := test.cp
				cp.Details, cp.Input, cp.ScheduledAt = details(7), []byte("{}"), e.base.Add(-time.Hour)
				if cp.State == 0 {
					cp.State = activity.CheckpointRunning
				}
				cp = s.put(cp)
				opts := job
				opts.RetryPolicy = test.policy
				l := e.launch(e.ctx, opts, noop)
				if !test.used {
					e.pass(time.Hour)
					checkErr(t, e.end(l.h), nil)
					return
				}
				checkEnd(t, e.end(l.h), cp.Attempt, activity.RetryStateMaximumAttemptsReached)
				checkDiff(t, "events", e.kinds("a"), []activity.EventKind{activity.EventScheduled, activity.EventFailed})
				got := s.get("a")
				if crashed := cp.State == activity.CheckpointRunning; crashed && !strings.Contains(got.LastFailure, "process ended") {
					t.Errorf("LastFailure %q", got.LastFailure)
				}
				checkDetails(t, stored{got}, 7)
				if got.State != activity.CheckpointFailed || got.Attempt != cp.Attempt {
					t.Errorf("%+v", got)
				}
				e.pass(time.Second)
				err := e.rt.Run(e.ctx, opts, func(ctx activity.Context) error { // a new one
					if i := ctx.Info(); i.Attempt != 1 || i.LastFailure != nil || !i.ScheduledAt.Equal(e.base.Add(time.Second)) {
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

// Rules 15 and 20. Given ResetOnProgress, when the process crashes, then CountedFrom is
// kept, and MaximumAttempts continues to count from it.
func TestCrash_ResetOnProgressGoesOnCounting(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 2, ResetOnProgress: true}
		e.start(opts, func(ctx activity.Context) error {
			if n := ctx.Info().Attempt; n <= 3 {
				return errors.Join(ctx.Heartbeat(n), errBoom)
			}
			_ = ctx.Heartbeat(4)
			return untilEnded(ctx)
		})
		e.pass(time.Minute)
		if got := s.get("a"); got.Attempt != 4 || got.CountedFrom != 3 || got.Progressed != 4 {
			t.Errorf("%+v", got)
		}
		after, s2 := e.reboot(s, activity.Config{})
		h := after.start(opts, func(activity.Context) error { return errBoom })
		after.pass(time.Minute)
		checkEnd(t, after.end(h), 5, activity.RetryStateMaximumAttemptsReached, errBoom)
		if got := s2.get("a"); got.Attempt != 5 || got.CountedFrom != 3 || got.Progressed != 4 {
			t.Errorf("%+v", got)
		}
	})
}

// Rule 20. Given ScheduleToCloseTimeout, when no process runs for a while, then that time
// counts: 1 ns before the deadline the activity runs, at the deadline it fails.
func TestCrash_ScheduleToCloseCountsDowntime(t *testing.T) {
	type outcome int
	const (
		runs    outcome = iota
		over            // the deadline has passed
		tooLate         // the interval would end at it or after it
	)
	for _, test := range []struct {
		name string
		cp   activity.Checkpoint
		ago  time.Duration // that it was scheduled; it was updated just now
		want outcome
	}{
		{"1 ns is left", activity.Checkpoint{Attempt: 1, Progressed: 1}, time.Hour - 1, runs},
		{"nothing is left", activity.Checkpoint{Attempt: 1, Progressed: 1}, time.Hour, over},
		{"long ago", activity.Checkpoint{Attempt: 1, Progressed: 1}, 10000 * time.Hour, over},
		{"no progress", activity.Checkpoint{Attempt: 1}, time.Hour, over},
		{"interrupted, 1 ns is left", activity.Checkpoint{State: activity.CheckpointInterrupted, LastFailure: "eh"}, time.Hour - 1, runs},
		{"interrupted", activity.Checkpoint{State: activity.CheckpointInterrupted, LastFailure: "eh"}, time.Hour, over},
		{"the interval fits", activity.Checkpoint{Attempt: 1}, time.Hour - time.Second - 1, runs},
		{"the interval does not", activity.Checkpoint{Attempt: 1}, time.Hour - time.Second, tooLate},
		{"failed", activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1}, time.Hour, runs},
		{"the clock was set back", activity.Checkpoint{Attempt: 1, Progressed: 1}, -time.Hour, runs},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				cp := test.cp
				cp.ScheduledAt, cp.UpdatedAt, cp.Details = e.base.Add(-test.ago), e.base, details(7)
				if cp.State == 0 {
					cp.State = activity.CheckpointRunning
				}
				s.put(cp)
				opts := job
				opts.ScheduleToCloseTimeout = time.Hour
				var deadline time.Duration
				h := e.start(opts, func(ctx activity.Context) error {
					deadline = ctx.Info().Deadline.Sub(e.base)
					return nil
				})
				if test.want == runs {
					e.pass(time.Second)
					checkErr(t, e.end(h), nil)
					want := time.Hour - test.ago
					if cp.State == activity.CheckpointFailed || test.ago < 0 { // is scheduled now
						want = time.Hour
					}
					if deadline != want {
						t.Errorf("the deadline is in %s, want %s", deadline, want)
					}
					return
				}
				err := e.end(h)
				checkEnd(t, err, cp.Attempt, activity.RetryStateTimeout)
				if (timeoutType(err) == activity.TimeoutScheduleToClose) != (test.want == over) {
					t.Error(err)
				}
				failure := err
				if test.want == over {
					failure = asTimeout(t, err).LastFailure
				}
				if text := fmt.Sprint(failure); !strings.Contains(text, "process ended") && !strings.Contains(text, "eh") {
					t.Errorf("the failure before: %s", text)
				}
				if got := s.get("a"); got.State != activity.CheckpointFailed || got.Attempt != cp.Attempt {
					t.Errorf("%+v", got)
				}
				checkDetails(t, stored{s.get("a")}, 7)
				checkDiff(t, "events", e.kinds("a"), []activity.EventKind{activity.EventScheduled, activity.EventFailed})
			})
		})
	}
}

// Rule 20. Given a checkpoint with a ScheduledAt in the future, when its ID is started,
// then it counts as now, and the stored one is not rewritten.
func TestCrash_ScheduledAtInTheFuture(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, ScheduledAt: e.base.Add(1)})
		e.pass(1)
		e.start(job, func(ctx activity.Context) error { // it is now
			if at := ctx.Info().ScheduledAt.Sub(e.base); at != 1 {
				t.Errorf("scheduled at %s", at)
			}
			return untilEnded(ctx)
		})
	})
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, ScheduledAt: e.base.Add(time.Hour)})
		h := e.start(job, func(ctx activity.Context) error {
			if i := ctx.Info(); !i.ScheduledAt.Equal(e.base) || !i.StartedAt.Equal(e.base) {
				t.Errorf("%+v", i)
			}
			return untilEnded(ctx)
		})
		if at := h.Status().ScheduledAt; !at.Equal(e.base) {
			t.Errorf("scheduled at %s", at)
		}
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, ScheduledAt: e.base.Add(time.Hour), UpdatedAt: e.base, Input: []byte("{}")})
	})
}

// Rule 35. Given a backoff, when the process ends meanwhile, then the next one waits for
// the rest of it, and LastFailure is how the attempt had failed.
func TestBackoff_ContinuesInNextProcess(t *testing.T) {
	const backoff = 100 * time.Hour
	for name, end := range map[string]func(e *env){"shutdown": (*env).stop, "crash": func(*env) {}} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.RetryPolicy.MaximumAttempts = 3
				e.start(opts, func(activity.Context) error { return activity.RetryAfter(errBoom, backoff) })
				e.pass(time.Hour)
				for i := range 5 { // as many as would use up the attempts
					want := activity.Checkpoint{ID: "a", State: activity.CheckpointWaiting, Attempt: 1, Input: []byte("{}"), LastFailure: "boom", NextAttempt: e.base.Add(backoff - time.Duration(i)*time.Hour)}
					if i > 0 && name == "shutdown" {
						want.State = activity.CheckpointInterrupted
					}
					s.want(want)
					end(e)
					e, s = e.reboot(s, activity.Config{})
					h := e.start(opts, untilEnded)
					checkState(t, h, activity.StateBackingOff)
					if at := h.Status().NextAttempt; !at.Equal(want.NextAttempt) {
						t.Errorf("the next attempt is at %s, want %s", at, want.NextAttempt)
					}
					e.pass(time.Hour)
				}
				end(e)
				e, _ = e.reboot(s, activity.Config{})
				infos := make(chan activity.Info, 1)
				e.start(opts, func(ctx activity.Context) error {
					infos <- ctx.Info()
					return untilEnded(ctx)
				})
				e.pass(backoff - 6*time.Hour - 1)
				if len(infos) > 0 {
					t.Fatalf("attempt %d runs too early", (<-infos).Attempt)
				}
				e.pass(1)
				if info := <-infos; info.Attempt != 2 || fmt.Sprint(info.LastFailure) != "boom" {
					t.Errorf("%+v", info)
				}
			})
		})
	}
}

// Rule 20. Given an attempt that was interrupted, when its ID is started again, then its
// number is used again, and the details that it recorded are kept.
func TestCrash_InterruptedAttemptDoesNotCount(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 2, ResetOnProgress: true}
		var e2 *env
		for i := range 3 { // attempt 2, three times
			h := e.start(opts, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					return errBoom
				}
				if n := ctx.Info().Attempt; n != 2 || i > 0 && fmt.Sprint(ctx.Info().LastFailure) != "boom" {
					t.Errorf("process %d: %+v", i, ctx.Info())
				}
				_ = ctx.Heartbeat(i)
				return untilEnded(ctx)
			})
			if i == 0 {
				e.pass(time.Second)
			}
			checkState(t, h, activity.StateRunning) // at once
			e.stop()
			checkEnd(t, e.end(h), 2, activity.RetryStateCancelRequested, activity.ErrShutdown)
			s.want(activity.Checkpoint{
				ID: "a", State: activity.CheckpointInterrupted, Attempt: 1, CountedFrom: 1, Progressed: 1,
				Input: []byte("{}"), Details: details(i), LastFailure: "boom",
			})
			e2, s = e.reboot(s, activity.Config{})
			e = e2
		}
		// With the progress of the attempts 2, the next is the first of two again.
		h := e.start(opts, func(activity.Context) error { return errBoom })
		e.pass(time.Hour)
		checkEnd(t, e.end(h), 3, activity.RetryStateMaximumAttemptsReached, errBoom)
	})
}
