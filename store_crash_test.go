// Tests of the next process, which finds a checkpoint: crashes, backoffs, attempts used up.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
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

// Rules 20 and 28. Given an attempt whose process ended, when the next process starts or
// recovers it, then the log says what became of it.
func TestCrash_LogOfRestart(t *testing.T) {
	for _, recovering := range []bool{true, false} {
		t.Run(fmt.Sprint("Recover ", recovering), func(t *testing.T) { logOfARestart(t, recovering) })
	}
}

func logOfARestart(t *testing.T, recovering bool) {
	running := func(attempt, progressed int) activity.Checkpoint {
		return activity.Checkpoint{State: activity.CheckpointRunning, Attempt: attempt, Progressed: progressed}
	}
	for name, test := range map[string]struct {
		found activity.Checkpoint
		down  time.Duration
		log   []string // nil: nothing
	}{
		"with progress":           {running(1, 1), 0, []string{"the process ended during attempt 1", "attempt=1", "retry_in=0s"}},
		"without":                 {running(1, 0), 0, []string{"the process ended during attempt 1", "attempt=1", "retry_in=1s"}},
		"the last attempt":        {running(3, 3), 0, []string{"the process ended during attempt 3", "attempt=3", "no_retry=maximum attempts reached"}},
		"schedule-to-close":       {running(1, 1), time.Hour, []string{"schedule-to-close", "the process ended during attempt 1", "no_retry=timeout"}},
		"no time for the backoff": {running(1, 0), time.Hour - time.Second/2, []string{"the process ended during attempt 1", "no_retry=timeout"}},
		"interrupted":             {activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &logbook{}
				store := &storetest.Memory{}
				cp := test.found
				cp.ID, cp.Name, cp.Input = "a", "job", []byte("{}")
				cp.ScheduledAt, cp.UpdatedAt = time.Now().Add(-test.down), time.Now()
				if err := store.Save(t.Context(), []activity.Checkpoint{cp}); err != nil {
					t.Fatal(err)
				}
				rt := activity.New(activity.Config{Store: store, Logger: slog.New(log)})
				def := &activity.Definition[struct{}, struct{}]{
					Name:    "job",
					Options: activity.Options{ScheduleToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}},
					Func:    func(activity.Context, struct{}) (struct{}, error) { return struct{}{}, nil },
				}
				if recovering {
					if n, err := rt.Recover(t.Context(), def); n != 1 || err != nil {
						t.Error(n, err)
					}
				} else if _, err := def.Start(t.Context(), rt, "a", struct{}{}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
				checkErr(t, rt.Shutdown(t.Context()), nil)
				crashed := map[bool]string{true: "1", false: "0"}[cp.State == activity.CheckpointRunning]
				if n := log.has(slog.LevelInfo, "activity: recovered activities", "activities=1", "process_ended_during_an_attempt="+crashed); recovering != (n == 1) {
					t.Errorf("%d summaries: %+v", n, log.lines)
				}
				want := test.log
				if recovering && len(want) > 0 && strings.HasPrefix(want[len(want)-1], "retry_in") {
					want = nil // the summary counts it
				}
				if n := log.has(slog.LevelWarn); n != min(len(want), 1) {
					t.Errorf("%d warnings", n)
				}
				if want != nil && log.has(slog.LevelWarn, want...) != 1 {
					t.Errorf("no warning with %q: %+v", want, log.lines)
				}
			})
		})
	}
}

// Rules 15 and 20. Given ResetOnProgress and MaximumAttempts, when a program is killed
// and restarted at random, then attempts are counted as a small model says.
func TestCrash_ResetOnProgressOverManyLives(t *testing.T) {
	for seed := range repeated(150) {
		bad := false
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 9))
			most := 1 + r.IntN(4)
			m := &storetest.Memory{}
			opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{MaximumAttempts: most, ResetOnProgress: true, InitialInterval: time.Second, BackoffCoefficient: 1}}
			var log []string
			say := func(f string, a ...any) { log = append(log, fmt.Sprintf(f, a...)) }
			rt := activity.New(activity.Config{Store: m, Logger: quiet})
			c, number, seq := 0, 0, 0
			for step := range 40 {
				life := rt
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				progress, end := r.IntN(2) == 0, []string{"fail", "interrupt", "kill", "shutdown", "cannot"}[r.IntN(5)]
				ran := false
				got := 0
				h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ int) (int, error) {
					if ran || life != rt {
						return 0, untilEnded(ctx)
					}
					ran = true
					got = ctx.Info().Attempt
					if progress {
						seq++
						_ = ctx.Heartbeat(seq)
					}
					_ = ctx.Sleep(time.Second)
					switch end {
					case "fail":
						return 0, errBoom
					case "cannot":
						return 0, activity.ErrCannotResume
					}
					return 0, untilEnded(ctx)
				}, 1)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				say("step %d: c %d number %d; progress %v, %s; ran %v attempt %d; %s", step, c, number, progress, end, ran, got, h.Status().State)
				if c >= most {
					if ran || h.Status().State != activity.StateFailed {
						say("PROBLEM: it must have no attempts left")
						bad = true
						break
					}
					c, number = 0, 0
					cancel()
					continue
				}
				if !ran || got != number+1 {
					say("PROBLEM: ran %v attempt %d", ran, got)
					bad = true
					break
				}
				n := c + 1
				if progress {
					n = 1
				}
				switch end {
				case "fail":
					c, number = n, number+1
					final := h.Status().State == activity.StateFailed
					if final != (c >= most) {
						say("PROBLEM: final %v", final)
						bad = true
					}
					if final {
						c, number = 0, 0
					} else { // the next attempt runs, or will: interrupt it
						cancel()
						synctest.Wait()
					}
				case "cannot":
					if h.Status().State != activity.StateFailed {
						say("PROBLEM")
						bad = true
					}
					if progress {
						c = 0
					}
				case "interrupt":
					if progress {
						c = 0
					}
					cancel()
					synctest.Wait()
				case "shutdown":
					if progress {
						c = 0
					}
					_ = rt.Shutdown(t.Context())
					rt = activity.New(activity.Config{Store: m, Logger: quiet})
				case "kill":
					c, number = n, number+1
					m = m.Clone()
					rt = activity.New(activity.Config{Store: m, Logger: quiet})
				}
				time.Sleep(time.Second)
				cancel()
				if bad {
					break
				}
			}
			if bad {
				for _, l := range log {
					t.Log(l)
				}
				t.Errorf("seed %d, MaximumAttempts %d", seed, most)
			}
			time.Sleep(time.Hour)
		})
		if bad {
			break
		}
	}
}

// Rule 35. Given a stored backoff, when the wall clock was wrong before or is now, then the
// wait is no longer than the backoff was when it was stored, and no shorter than it says.
func TestBackoff_WallClock(t *testing.T) {
	const hour = time.Hour
	for name, test := range map[string]struct {
		updated, next time.Duration // relative to now
		want          time.Duration
	}{
		"in time":             {-hour, hour, hour},
		"just over":           {-hour, 0, 0},
		"long over":           {-3 * hour, -hour, 0},
		"set back by a day":   {24 * hour, 26 * hour, 2 * hour},
		"set back by a year":  {365 * 24 * hour, 365*24*hour + 1, 1},
		"boot in 1970":        {56 * 365 * 24 * hour, 56*365*24*hour + hour, hour},
		"next before updated": {-hour, -2 * hour, 0},
	} {
		for _, state := range []activity.CheckpointState{activity.CheckpointWaiting, activity.CheckpointInterrupted} {
			t.Run(name+"/"+state.String(), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					s.put(activity.Checkpoint{
						State: state, Attempt: 1, ScheduledAt: e.base.Add(-9 * hour), UpdatedAt: e.base.Add(test.updated), NextAttempt: e.base.Add(test.next), LastFailure: "boom",
					})
					e.start(job, untilEnded)
					if test.want > 0 {
						e.pass(test.want - 1)
						e.wantStarted("a", 2, -1)
						e.pass(1)
					}
					e.wantStarted("a", 2, test.want)
				})
			})
		}
	}
}

// Rules 15 and 20. Given a stored poller that has failed four times, when its next attempt has run for
// ResetAfter and was saved since, and the process is killed, then the failures no longer count.
func TestCrash_ResetAfter(t *testing.T) {
	for ran, want := range map[time.Duration]time.Duration{time.Minute: time.Second, time.Minute - time.Second: 16 * time.Second} {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			opts := job
			opts.RetryPolicy = activity.RetryPolicy{ResetAfter: time.Minute}
			poll := func(ctx activity.Context) error {
				if ctx.Info().Attempt < 5 {
					return errBoom
				}
				_ = ctx.Heartbeat(1) // of an earlier process: no progress is made from here on
				_ = ctx.Sleep(ran)
				_ = ctx.Heartbeat(1)
				return untilEnded(ctx)
			}
			opts.HeartbeatDetails = []any{1}
			e.start(opts, poll)
			e.pass(15*time.Second + ran + time.Second)
			e, _ = e.reboot(s, activity.Config{})
			h := e.start(opts, noop)
			checkState(t, h, activity.StateBackingOff)
			if got := h.Status().NextAttempt.Sub(s.get("a").UpdatedAt); got != want {
				t.Errorf("ran %s: the interval is %s, want %s", ran, got, want)
			}
			e.pass(time.Minute)
			checkErr(t, e.end(h), nil)
		})
	}
}

// Rules 15 and 20. Given a stored poller that records nothing, when its process is killed once
// an hour, then with ResetAfter the kills do not add up.
func TestCrash_ResetAfterOfAPoller(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.HeartbeatTimeout = time.Minute
		opts.RetryPolicy = activity.RetryPolicy{ResetAfter: time.Minute, MaximumAttempts: 3}
		for i := range 4 {
			h := e.start(opts, func(ctx activity.Context) error { return activity.Idle(ctx, 1000*time.Hour) })
			e.pass(time.Hour)
			if st := h.Status(); st.State != activity.StateRunning {
				t.Fatalf("boot %d: %s %v", i, st.State, e.end(h))
			}
			e, s = e.reboot(s, activity.Config{})
		}
	})
}
