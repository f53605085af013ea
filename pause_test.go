package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// checkSteer wants an error that contains all of what.
func checkSteer(t *testing.T, err error, what ...string) {
	t.Helper()
	if err == nil || !containsAll(err.Error(), what...) {
		t.Errorf("got %v, want an error with %q", err, what)
	}
}

// Rule 32. Given a running attempt, when Pause is called, then its Context ends with ErrPaused.
// The function returns, and the activity is paused, without a slot. Its callers keep waiting.
// After Unpause the next attempt has the same number, and resumes from the details.
func TestPause_OfARunningAttempt(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		var resumed []int
		opts := activity.Options{ID: "a", Name: "job", HeartbeatTimeout: time.Minute, RetryPolicy: once}
		h := e.start(opts, func(ctx activity.Context) error {
			n, err := activity.Resume(ctx, 0)
			if resumed = append(resumed, n); err != nil {
				return err
			}
			for n++; ; n++ {
				if err := ctx.Sleep(time.Second); err != nil {
					if cause := context.Cause(ctx); cause != activity.ErrPaused || err != cause {
						t.Errorf("Sleep returns %v, the cause is %v", err, cause)
					}
					return fmt.Errorf("before %d: %w", n, errors.Join(ctx.Heartbeat(10*n), err))
				}
			}
		})
		e.pass(2500 * time.Millisecond)
		for range 2 { // the second does nothing
			checkErr(t, e.rt.Pause("a"), nil)
			synctest.Wait()
		}
		if s, st := h.Status(), e.rt.Stats(); s.State != activity.StatePaused || s.Attempt != 1 || s.Abandoned != 0 || st.Paused != 1 || st.Running != 0 {
			t.Errorf("%+v, %+v", s, st)
		}
		checkErr(t, e.rt.Run(e.ctx, activity.Options{}, noop), nil) // gets the slot
		e.pass(time.Hour)
		checkState(t, h, activity.StatePaused)

		checkErr(t, e.rt.Unpause("a"), nil)
		synctest.Wait()
		checkState(t, h, activity.StateRunning)
		checkErr(t, e.rt.Pause("a"), nil)
		synctest.Wait()
		checkErr(t, e.rt.Cancel("a", errCancel), nil)
		synctest.Wait()
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
		checkDiff(t, "details", resumed, []int{0, 30})
		checkDiff(t, "events", e.lines("a", activity.EventHeartbeat), []string{
			"0s scheduled 0", "0s attempt started 1", "2.5s paused 1",
			"1h0m2.5s unpaused 1", "1h0m2.5s attempt started 1", "1h0m2.5s paused 1", "1h0m2.5s canceled 1",
		})
	})
}

// Rules 17 and 32. Given a function that returns nil after its attempt was paused, then it has
// completed, unless a helper that cuts work short had returned the cause to it.
func TestPause_ThatReturnsNil(t *testing.T) {
	for name, test := range map[string]struct {
		point     func(ctx activity.Context) error
		completes bool
	}{
		"nothing":   {func(ctx activity.Context) error { return context.Cause(ctx) }, true},
		"Heartbeat": {func(ctx activity.Context) error { return ctx.Heartbeat(7) }, true},
		"Sleep":     {func(ctx activity.Context) error { return ctx.Sleep(0) }, false},
		"Idle":      {func(ctx activity.Context) error { return activity.Idle(ctx, time.Minute) }, false},
		"Guard":     {func(ctx activity.Context) error { return activity.Guard(ctx, never) }, false},
		"Range": {func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 3, func(int) error { return errBoom })
		}, false},
		"RangeParallel": {func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 3, 2, func(activity.Context, int) error { return errBoom })
		}, false},
		"Read": {func(ctx activity.Context) error {
			_, err := activity.Reader(ctx, strings.NewReader("")).Read(make([]byte, 3))
			return err
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{ID: "a"}, func(ctx activity.Context) error {
					<-e.gate("step")
					if err := test.point(ctx); err != activity.ErrPaused {
						t.Errorf("it returns %v", err)
					}
					return nil
				})
				checkErr(t, e.rt.Pause("a"), nil)
				e.pass(time.Second)
				checkState(t, h, activity.StateRunning)
				checkSteer(t, e.rt.Unpause("a"), `activity "a"`, "not unpaused", "running and is being paused")
				e.open("step")
				if test.completes {
					checkErr(t, e.end(h), nil)
				} else {
					checkState(t, h, activity.StatePaused)
				}
			})
		})
	}
}

// Rules 9 and 32. Given a function that ignores the pause, then CancelGrace later it is abandoned
// and the activity is paused, and not a nanosecond before. With NoOverlap, Unpause then waits for
// the function, and the log says where that hangs.
func TestPause_CancelGrace(t *testing.T) {
	log := &logbook{}
	both(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env) {
		opts := activity.Options{ID: "a", Name: "job", CancelGrace: 3 * time.Second, MaxAbandoned: activity.NoOverlap, HeartbeatTimeout: time.Second}
		h := e.start(opts, e.hang)
		checkErr(t, e.rt.Pause("a"), nil)
		e.pass(3*time.Second - 1)
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		checkState(t, h, activity.StatePaused)
		checkErr(t, e.rt.Unpause("a"), nil)
		checkState(t, h, activity.StateBlocked)
		if n := log.has(slog.LevelError, "blocked"); n > 0 {
			t.Errorf("%d lines at once", n)
		}
		e.pass(time.Second)
		if log.has(slog.LevelError, "blocked", "(*env).hang") == 0 {
			t.Errorf("%+v", log.lines)
		}
		checkErr(t, e.rt.Pause("a"), nil) // ends the block
		checkState(t, h, activity.StatePaused)
		e.open("a1")
		checkState(t, h, activity.StatePaused)
		checkErr(t, e.rt.Unpause("a"), nil)
		synctest.Wait()
		checkErr(t, e.end(h), nil)
		e.want("a", "0s scheduled 0", "0s attempt started 1", "3s abandoned 1", "3s paused 1", "3s unpaused 1", "3s blocked 1",
			"4s paused 1", "4s abandoned returned 1", "4s unpaused 1", "4s attempt started 1", "4s completed 1")
		log.lines = nil
	})
}

// Rule 32. Given a function that returns just before the end of CancelGrace, or at that instant,
// then it has returned in time, or is abandoned and its success does not count.
func TestPause_ReturnsAtTheEndOfTheGrace(t *testing.T) {
	for _, early := range []time.Duration{0, 1} {
		t.Run(fmt.Sprint(early), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, activity.Config{}, nil)
				h := e.start(activity.Options{ID: "a", CancelGrace: time.Minute}, func(ctx activity.Context) error {
					if ctx.Info().StartedAt.After(e.base) {
						return ctx.Sleep(time.Hour)
					}
					<-ctx.Done()
					time.Sleep(time.Minute - early)
					return nil
				})
				checkErr(t, e.rt.Pause("a"), nil)
				e.pass(time.Minute)
				if early > 0 {
					checkErr(t, e.end(h), nil)
				} else {
					checkState(t, h, activity.StatePaused)
				}
			})
		})
	}
}

// Rules 27 and 32. Given a paused function that is inside Guard, when Unpause is called, then the
// next attempt does not start before the function has left Guard.
func TestPause_InsideGuard(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a", CancelGrace: time.Second}, func(ctx activity.Context) error {
			if e.clock.Since(e.base) > 0 {
				return nil
			}
			return activity.Guard(ctx, func() error { <-e.gate("guard"); return nil })
		})
		checkErr(t, e.rt.Pause("a"), nil)
		e.pass(time.Second)
		checkErr(t, e.rt.Unpause("a"), nil)
		e.pass(time.Minute)
		checkState(t, h, activity.StateBlocked)
		e.open("guard")
		checkErr(t, e.end(h), nil)
	})
}

// Rule 32. Given an activity that waits for a slot or for a backoff, when Pause is called, then the
// wait ends. After Unpause it gets the next free slot, and waits for no backoff.
func TestPause_EndsWaits(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		opts := activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
		opts.ID = "fails"
		failed := e.start(opts, func(ctx activity.Context) error { return errBoom })
		first := e.start(activity.Options{ID: "first"}, func(activity.Context) error { <-e.gate("slot"); return nil })
		opts.ID, opts.ScheduleToStartTimeout = "waits", time.Second
		waits := e.start(opts, noop)
		checkState(t, failed, activity.StateBackingOff)
		checkState(t, waits, activity.StateWaiting)
		checkErr(t, e.rt.Pause("waits"), nil)
		for _, h := range []*activity.Handle[string]{failed, waits} {
			checkErr(t, e.rt.Pause(h.ID()), nil)
			e.pass(time.Minute)
			if s := h.Status(); s.State != activity.StatePaused || !s.NextAttempt.IsZero() {
				t.Errorf("%+v", s)
			}
			checkSteer(t, e.rt.RetryNow(h.ID()), "no backoff to end: the activity is paused")
			if _, err := e.rt.Stack(h.ID()); true {
				checkSteer(t, err, "the activity is paused")
			}
			checkErr(t, e.rt.Unpause(h.ID()), nil)
			checkState(t, h, activity.StateWaiting)
			checkSteer(t, e.rt.Unpause(h.ID()), "not unpaused: the activity is waiting")
			checkErr(t, e.rt.Pause(h.ID()), nil)
		}
		e.open("slot")
		checkErr(t, e.end(first), nil)
		checkErr(t, e.rt.Unpause("waits"), nil)
		synctest.Wait()
		checkErr(t, e.end(waits), nil)
		checkErr(t, e.rt.Unpause("fails"), nil)
		synctest.Wait()
		if s := failed.Status(); s.Attempt != 2 || s.State != activity.StateBackingOff {
			t.Errorf("%+v", s)
		}
	})
}

// Rules 10 and 32. Given a schedule-to-close timeout, then it ends a paused activity at its instant,
// and also one whose function has not returned since Pause. Unpause a nanosecond before starts an
// attempt.
func TestPause_ScheduleToClose(t *testing.T) {
	for _, test := range []struct {
		name  string
		grace time.Duration // 0: the function returns at once
		want  []string
	}{
		{"paused", 0, []string{"1s paused 1", "1m0s failed 1: schedule-to-close timeout, timeout"}},
		{"hangs", time.Hour, []string{"1m0s abandoned 1", "1m0s failed 1: schedule-to-close timeout, timeout"}},
		{"hangs, and the grace ends", 59 * time.Second, []string{"1m0s abandoned 1", "1m0s failed 1: schedule-to-close timeout, timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				opts := activity.Options{ID: "a", ScheduleToCloseTimeout: time.Minute, CancelGrace: test.grace, StartToCloseTimeout: 2 * time.Second}
				h := e.start(opts, func(ctx activity.Context) error {
					if test.grace > 0 {
						return e.hang(ctx)
					}
					return untilEnded(ctx)
				})
				e.pass(time.Second)
				checkErr(t, e.rt.Pause("a"), nil)
				synctest.Wait()
				e.pass(59*time.Second - 1)
				if s := h.Status(); s.State != activity.StatePaused && test.grace == 0 || !s.Deadline.Equal(e.base.Add(time.Minute)) {
					t.Errorf("%+v", s)
				}
				e.pass(1)
				checkSteer(t, e.rt.Unpause("a"), "no activity with this ID")
				checkEnd(t, e.end(h), 1, activity.RetryStateTimeout, context.DeadlineExceeded)
				if stack := asTimeout(t, e.end(h)).Stack; (len(stack) > 0) != (test.grace > 0) {
					t.Errorf("the stack is %q", stack)
				}
				checkDiff(t, "events", e.lines("a")[2:], test.want)
			})
		})
	}
	t.Run("unpaused before", func(t *testing.T) {
		both(t, activity.Config{}, func(t *testing.T, e *env) {
			h := e.start(activity.Options{ID: "a", ScheduleToCloseTimeout: time.Minute}, untilEnded)
			checkErr(t, e.rt.Pause("a"), nil)
			e.pass(time.Minute - 1)
			checkErr(t, e.rt.Unpause("a"), nil)
			synctest.Wait()
			checkState(t, h, activity.StateRunning)
			e.pass(1)
			checkEnd(t, e.end(h), 1, activity.RetryStateTimeout, context.DeadlineExceeded)
		})
	})
}

// Rule 32. Given activities that are being canceled or whose outcome is being saved, then Pause is
// refused, and names the state. The same holds for Unpause.
func TestPause_OfWhatEnds(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, e.hang)
		checkSteer(t, e.rt.Unpause("a"), "not unpaused: the activity is running")
		h.Cancel(errCancel)
		checkSteer(t, e.rt.Pause("a"), "not paused: the activity is running and is being canceled")
		checkSteer(t, e.rt.Unpause("a"), "not unpaused: the activity is running and is being canceled")
		open := s.block("Delete")
		e.open("a1")
		checkSaving(t, h, activity.StateCompleted)
		checkSteer(t, e.rt.Pause("a"), "not paused: the activity is completed")
		checkSteer(t, e.rt.Unpause("a"), "not unpaused: the activity is completed")
		open()
		synctest.Wait()
		checkErr(t, e.end(h), nil)
		if err := e.rt.Pause("a"); !errors.Is(err, activity.ErrNotFound) {
			t.Error(err)
		}
	})
}

// Rule 32. Given a caller's context that has ended, when Pause is called before the Runtime has
// noticed, then the activity is canceled, and Pause says so.
func TestPause_AfterTheCallersContextHasEnded(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		ctx, cancel := context.WithCancelCause(e.ctx)
		h := startWith(t, ctx, e.rt, activity.Options{ID: "a"}, untilEnded)
		synctest.Wait()
		waits := startWith(t, ctx, e.rt, activity.Options{ID: "waits"}, func(activity.Context) error { return errBoom })
		paused := startWith(t, ctx, e.rt, activity.Options{ID: "paused"}, untilEnded)
		synctest.Wait()
		checkErr(t, e.rt.Pause("paused"), nil)
		synctest.Wait()
		cancel(errCancel)
		// The end may be noticed in another goroutine before each call.
		for call, err := range map[string]error{"Pause a": e.rt.Pause("a"), "Pause waits": e.rt.Pause("waits"), "Unpause": e.rt.Unpause("paused")} {
			if err == nil {
				t.Errorf("%s returns nil", call)
			}
		}
		synctest.Wait()
		for _, h := range []*activity.Handle[string]{h, waits, paused} {
			checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
		}
	})
}

// Rules 17, 18 and 32. Given a paused activity, when it is canceled, then it ends at once. If its
// function has not returned since Pause, CancelGrace counts from the cancellation.
func TestPause_ThenCancel(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		ctx, cancel := context.WithCancelCause(e.ctx)
		a := startWith(t, ctx, e.rt, activity.Options{ID: "a"}, untilEnded)
		b := e.start(activity.Options{ID: "b", CancelGrace: 3 * time.Second}, e.hang)
		c := e.start(activity.Options{ID: "c"}, untilEnded)
		for _, h := range []*activity.Handle[string]{a, b, c} {
			checkErr(t, e.rt.Pause(h.ID()), nil)
		}
		e.pass(2 * time.Second)
		cancel(errCancel)
		synctest.Wait()
		checkEnd(t, e.end(a), 1, activity.RetryStateCancelRequested, errCancel)
		b.Cancel(errCancel)
		checkSteer(t, e.rt.Pause("b"), "being canceled")
		e.pass(3*time.Second - 1)
		checkState(t, b, activity.StateRunning)
		e.pass(1)
		checkEnd(t, e.end(b), 1, activity.RetryStateCancelRequested, errCancel)
		checkErr(t, e.rt.Cancel("c", nil), nil)
		synctest.Wait()
		checkEnd(t, e.end(c), 1, activity.RetryStateCancelRequested, context.Canceled)
	})
}

// Rules 15 and 32. Given an attempt that has failed and about whose error Retryable is asked, when
// Pause is called, then that attempt counts: if it is retried the activity is paused, and otherwise
// it fails.
func TestPause_WhileRetryableIsAsked(t *testing.T) {
	for _, retryable := range []bool{true, false} {
		t.Run(fmt.Sprint(retryable), func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{ID: "a", RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool {
					<-e.gate("answer")
					return retryable
				}}}, func(activity.Context) error { return errBoom })
				checkErr(t, e.rt.Pause("a"), nil)
				checkErr(t, e.rt.Pause("a"), nil)
				checkSteer(t, e.rt.Unpause("a"), "running and is being paused")
				e.open("answer")
				if !retryable {
					checkEnd(t, e.end(h), 1, activity.RetryStateNonRetryableFailure, errBoom)
					return
				}
				checkState(t, h, activity.StatePaused)
				checkErr(t, h.Status().LastFailure, errBoom)
				checkErr(t, e.rt.Unpause("a"), nil)
				e.pass(0)
				e.want("a", "0s scheduled 0", "0s attempt started 1", "0s attempt failed 1: boom, next in 0s", "0s paused 1",
					"0s unpaused 1", "0s attempt started 2", "0s attempt failed 2: boom, next in 2s")
			})
		})
	}
}

// Rules 10 and 32. Given an attempt that fails, and whose backoff would end after schedule-to-close,
// when Pause comes while Retryable is asked, then the activity is paused, because no backoff follows.
// A Shutdown, a Drain or the end of the caller's context leaves it so.
func TestPause_DropsTheBackoff(t *testing.T) {
	for name, stop := range map[string]func(e *env, cancel context.CancelFunc){
		"answer":   nil,
		"Shutdown": func(e *env, _ context.CancelFunc) { go e.rt.Shutdown(context.Background()) },
		"Drain":    func(e *env, _ context.CancelFunc) { go e.rt.Drain(context.Background()) },
		"context":  func(_ *env, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.ScheduleToCloseTimeout = time.Hour
				opts.RetryPolicy = activity.RetryPolicy{InitialInterval: 40 * time.Minute, Retryable: func(error) bool { <-e.gate("answer"); return true }}
				ctx, cancel := context.WithCancel(e.ctx)
				defer cancel()
				startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
					_ = ctx.Sleep(30 * time.Minute)
					return errBoom
				})
				e.pass(30 * time.Minute)
				checkErr(t, e.rt.Pause("a"), nil)
				if stop == nil {
					e.open("answer")
				} else {
					stop(e, cancel)
				}
				e.pass(time.Second)
				s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Attempt: 1, LastFailure: "boom", Input: []byte("{}")})
				e2, _ := e.reboot(s, activity.Config{})
				checkState(t, e2.start(opts, untilEnded), activity.StatePaused)
			})
		})
	}
}

// Rule 32. Given a stored pause with a NextAttempt, when its execution continues, then it is paused,
// even if the backoff would end after schedule-to-close.
func TestPause_IgnoresAStoredBackoff(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointPaused, Attempt: 1, NextAttempt: time.Now().Add(2 * time.Hour)})
		opts := job
		opts.ScheduleToCloseTimeout = time.Hour
		checkState(t, e.start(opts, untilEnded), activity.StatePaused)
	})
}

// Rules 15 and 32. Given an attempt that reaches ResetAfter during the clean-up after Pause, when the
// process is killed, then that attempt has reset the count.
func TestPause_ResetAfterDuringTheCleanUp(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: 2, ResetAfter: 8 * time.Second}
		e.start(opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			<-ctx.Done()
			time.Sleep(4 * time.Second)
			return context.Cause(ctx)
		})
		e.pass(6 * time.Second)
		checkErr(t, e.rt.Pause("a"), nil)
		e.pass(time.Minute)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Attempt: 1, CountedFrom: 1, LastFailure: "boom", Input: []byte("{}")})
	})
}

// Rules 20 and 32. Given a process that has continued a paused or waiting activity with a clock that
// was wrong, when the clock is set and the Runtime shuts down, then the stored time is right.
func TestPause_WallClockIsSet(t *testing.T) {
	for _, state := range []activity.CheckpointState{activity.CheckpointPaused, activity.CheckpointWaiting} {
		t.Run(state.String(), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				const wrong = -56 * 365 * 24 * time.Hour
				opts := job
				opts.ScheduleToCloseTimeout = 24 * time.Hour
				s := newStore(t)
				c.set(wrong)
				cp := activity.Checkpoint{State: state, ScheduledAt: c.at(-time.Hour, wrong), UpdatedAt: c.at(-time.Hour, wrong)}
				cp.NextAttempt = cp.UpdatedAt.Add(10 * time.Hour)
				s.put(cp)
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, Store: s})
				start(t, rt, opts, untilEnded)
				time.Sleep(10 * time.Minute)
				c.set(0)
				time.Sleep(20 * time.Minute)
				checkErr(t, rt.Shutdown(t.Context()), nil)
				if got, want := s.get("a").ScheduledAt, c.at(-time.Hour, 0); got.Sub(want).Abs() > time.Second {
					t.Errorf("ScheduledAt is %s, want %s", got, want)
				}
			})
		})
	}
}

// Rules 20, 32 and 34. Given activities that are paused and unpaused at random, whenever one is paused
// and at rest, then a kill and a Shutdown leave the same checkpoint, and the next process finds the
// activity paused.
func TestPause_KillAndShutdownAgree(t *testing.T) {
	for seed := range uint64(repeated(100)) {
		durable(t, activity.Config{SaveInterval: time.Millisecond}, func(t *testing.T, e *env, s *faultyStore) {
			var mu sync.Mutex
			r, beats := rand.New(rand.NewPCG(seed, 3)), 0
			n := func(n int) int {
				mu.Lock()
				defer mu.Unlock()
				return r.IntN(n)
			}
			ms := func(most int) time.Duration {
				return time.Duration(1+n(most))*time.Millisecond + time.Duration(n(1000))
			}
			opts := job
			opts.HeartbeatTimeout = []time.Duration{0, ms(300), ms(3000)}[n(3)]
			opts.CancelGrace, opts.SyncHeartbeats = ms(2000), n(3) == 0
			opts.MaxAbandoned = []int{0, activity.NoOverlap, 1}[n(3)]
			opts.RetryPolicy = activity.RetryPolicy{InitialInterval: ms(1000), MaximumInterval: 2 * time.Second, ResetOnProgress: n(2) == 0, MaximumAttempts: 1000}
			opts.RetryPolicy.ResetAfter = []time.Duration{0, ms(2000)}[n(2)]
			if n(2) == 0 {
				opts.RetryPolicy.Retryable = func(error) bool { time.Sleep(ms(500)); return true }
			}
			fn := func(ctx activity.Context) error {
				for range n(8) {
					switch n(6) {
					case 0, 1:
						if err := ctx.Sleep(ms(800)); err != nil && n(3) > 0 {
							return err
						}
					case 2:
						time.Sleep(ms(800))
					case 3:
						mu.Lock()
						beats++
						v := beats
						mu.Unlock()
						_ = ctx.Heartbeat(v)
					case 4:
						_ = activity.Guard(ctx, func() error { time.Sleep(ms(500)); return nil })
					case 5:
						_ = ctx.Heartbeat()
					}
				}
				return errBoom
			}
			h := e.start(opts, fn)
			for range 12 {
				for range n(3) {
					steer := []func(string) error{e.rt.Pause, e.rt.Pause, e.rt.Unpause}[n(3)]
					_ = steer("a")
					e.pass(ms(300))
				}
				e.pass([]time.Duration{ms(20), 10 * time.Second}[n(2)])
				before := h.Status()
				e.pass(2 * time.Millisecond) // until what it has recorded is saved
				if after := h.Status(); before.State != activity.StatePaused || after.State != before.State {
					continue
				}
				killed := s.get("a")
				next, left := e.reboot(s, activity.Config{SaveInterval: time.Millisecond})
				again := next.start(opts, fn)
				checkState(t, again, activity.StatePaused)
				ends, content := e, s
				if n(2) == 0 {
					ends, content = next, left
				} else {
					e, s, h = next, left, again
				}
				checkErr(t, ends.rt.Shutdown(t.Context()), nil)
				shut := content.get("a")
				shut.Sequence, shut.UpdatedAt = killed.Sequence, killed.UpdatedAt
				checkDiff(t, fmt.Sprintf("seed %d: after a Shutdown", seed), shut, killed)
			}
		})
	}
}

// Rule 32. Given a paused function that returns an error of its own, then EventPaused has the error
// and the log a line, because nobody else gets it. An error that only says that the attempt was
// stopped is not told.
func TestPause_ErrorOfTheFunction(t *testing.T) {
	for _, test := range []struct {
		returns error
		told    bool
	}{
		{errBoom, true},
		{activity.NonRetryable(errBoom), true},
		{activity.ErrCannotResume, true},
		{errors.Join(activity.ErrPaused, errBoom), true},
		{fmt.Errorf("%w, and the clean-up: %w", context.Canceled, errBoom), true},
		{&activity.PanicError{Value: errBoom, Stack: []byte("where it panicked")}, true},
		{errors.Join(activity.ErrPaused, context.Canceled), false},
		{fmt.Errorf("row 7: %w", activity.ErrPaused), false},
		{fmt.Errorf("fetch: %w", context.Canceled), false},
	} {
		t.Run(test.returns.Error(), func(t *testing.T) {
			log := &logbook{}
			bubble(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
				var j journal
				rt.Subscribe(j.observe, activity.EventPaused)
				h := start(t, rt, activity.Options{ID: "a", Name: "job"}, func(ctx activity.Context) error {
					_ = ctx.Sleep(time.Hour)
					return test.returns
				})
				checkErr(t, rt.Pause("a"), nil)
				synctest.Wait()
				checkState(t, h, activity.StatePaused)
				events := j.all()
				if len(events) != 1 || test.told != (events[0].Err == test.returns) || !test.told && events[0].Err != nil {
					t.Errorf("%+v", events)
				}
				if p, ok := test.returns.(*activity.PanicError); ok && log.has(slog.LevelWarn, string(p.Stack)) == 0 {
					t.Errorf("the stack is not logged: %+v", log.lines)
				}
				if told := log.has(slog.LevelWarn, "activity: function returned an error when it was paused", "id=a", "attempt=1", test.returns.Error()) > 0; told != test.told {
					t.Errorf("%+v", log.lines)
				}
				h.Cancel(nil)
				checkEnd(t, wait(t, h), 1, activity.RetryStateCancelRequested)
			})
		})
	}
}

// Rules 15, 20 and 32. Given MaximumAttempts and ResetOnProgress, then a paused attempt neither
// counts nor is it a heartbeat timeout in a row, but its progress counts.
func TestPause_CountsNoAttempt(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{ID: "a", HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Minute, MaximumAttempts: 3}}
		progress := false
		h := e.start(opts, func(ctx activity.Context) error {
			if progress {
				checkErr(t, ctx.Heartbeat(e.clock.Since(e.base)), nil)
			}
			return untilEnded(ctx)
		})
		e.pass(time.Second) // attempt 1 stalls, and attempt 2 starts
		for _, progress = range []bool{false, true} {
			checkErr(t, e.rt.Pause("a"), nil)
			synctest.Wait()
			checkErr(t, e.rt.Unpause("a"), nil)
			synctest.Wait()
		}
		progress = false
		checkErr(t, e.rt.Pause("a"), nil) // with progress, so the next stall is the first in a row
		synctest.Wait()
		checkErr(t, e.rt.Unpause("a"), nil)
		e.pass(time.Second)
		if s := h.Status(); s.State != activity.StateRunning || s.Attempt != 3 {
			t.Errorf("%+v", s)
		}
		e.pass(time.Second)
		checkEnd(t, e.end(h), 3, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
	})
}

// Rules 20 and 32. Given a paused attempt that made progress, then the attempt that follows and has
// its number has made none: if that kills the process, a backoff comes first.
func TestPause_ProgressIsNotThatOfTheNextAttempt(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			checkErr(t, ctx.Heartbeat(7), nil)
			return untilEnded(ctx)
		})
		checkErr(t, e.rt.Pause("a"), nil)
		synctest.Wait()
		checkErr(t, e.rt.Unpause("a"), nil)
		synctest.Wait()
		want := activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Details: details(7), Input: []byte("{}")}
		s.want(want)
		e.pass(time.Second) // the heartbeat of the second attempt, with the same details, is saved too
		s.want(want)
	})
}

// Rules 32 and 34. Given a Store, then Pause is stored at once, while the function is still cleaning
// up. When the process is killed, then Recover and Start continue the activity as a paused one, with
// both events, and without a slot. After Unpause the attempt resumes, and has its number.
func TestPause_IsDurable(t *testing.T) {
	for _, name := range []string{"Start", "Recover"} {
		t.Run(name, func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				def := &activity.Definition[struct{}, string]{Name: "job", Func: func(ctx activity.Context, _ struct{}) (string, error) {
					if ctx.Info().StartedAt.After(e.base) {
						checkDetails(t, ctx, 7)
						return fmt.Sprint(ctx.Info().Attempt), nil
					}
					checkErr(t, ctx.Heartbeat(7), nil)
					<-e.gate("clean-up")
					return "", context.Cause(ctx)
				}}
				if _, err := def.Start(e.ctx, e.rt, "a", struct{}{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				checkErr(t, e.rt.Pause("a"), nil)
				synctest.Wait()
				paused := activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Input: []byte("{}"), Details: details(7)}
				s.want(paused)

				e2, s2 := e.reboot(s, activity.Config{MaxConcurrent: 1})
				e2.pass(time.Hour)
				if name == "Recover" {
					if n, err := e2.rt.Recover(e2.ctx, def); n != 1 || err != nil {
						t.Error(n, err)
					}
				} else if _, err := def.Start(e2.ctx, e2.rt, "a", struct{}{}); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				h, _ := def.Handle(e2.rt, "a")
				if st := h.Status(); st.State != activity.StatePaused || e2.rt.Stats().Paused != 1 || st.Attempt != 0 {
					t.Errorf("%+v", st)
				}
				checkErr(t, e2.rt.Run(e2.ctx, activity.Options{}, noop), nil) // gets the slot
				e2.pass(time.Hour)
				s2.want(paused)
				checkErr(t, e2.rt.Unpause("a"), nil)
				synctest.Wait()
				if out, err := h.Wait(e2.ctx); out != "1" || err != nil {
					t.Error(out, err)
				}
				checkDiff(t, "events", e2.lines("a"), []string{"1h0m0s scheduled 0", "1h0m0s paused 0", "2h0m0s unpaused 0", "2h0m0s attempt started 1", "2h0m0s completed 1"})
			})
		})
	}
}

// Rule 32. Given a paused activity, when the Runtime shuts down or drains, or the caller's context
// ends, then it stays paused in the Store, whether its function has returned or not. After
// Handle.Cancel it is canceled.
func TestPause_WhatAnEndLeaves(t *testing.T) {
	stop := map[string]func(e *env, cancel context.CancelFunc, h *activity.Handle[string]){
		"Shutdown": func(e *env, _ context.CancelFunc, _ *activity.Handle[string]) { go e.rt.Shutdown(context.Background()) },
		"Drain":    func(e *env, _ context.CancelFunc, _ *activity.Handle[string]) { go e.rt.Drain(context.Background()) },
		"context":  func(_ *env, cancel context.CancelFunc, _ *activity.Handle[string]) { cancel() },
		"Cancel":   func(_ *env, _ context.CancelFunc, h *activity.Handle[string]) { h.Cancel(errCancel) },
	}
	for name, stop := range stop {
		for _, hangs := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", name, hangs), func(t *testing.T) {
				bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					ctx, cancel := context.WithCancel(e.ctx)
					defer cancel()
					h := startWith(t, ctx, e.rt, job, func(ctx activity.Context) error {
						<-ctx.Done()
						if hangs {
							<-e.gate("clean-up")
						}
						return context.Cause(ctx)
					})
					synctest.Wait()
					checkErr(t, e.rt.Pause("a"), nil)
					synctest.Wait()
					stop(e, cancel, h)
					synctest.Wait()
					want := activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Input: []byte("{}")}
					if name == "Cancel" {
						want.State, want.LastFailure = activity.CheckpointCanceled, s.get("a").LastFailure
						checkSteer(t, errors.New(want.LastFailure), errCancel.Error())
					}
					s.want(want)
					if hangs {
						checkState(t, h, activity.StateRunning)
						e.open("clean-up")
					}
					checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested)
					if name == "Cancel" {
						want.LastFailure = s.get("a").LastFailure
					}
					s.want(want)
				})
			})
		}
	}
}

// Rule 32. Given a recovered activity that waits for the rest of its backoff, when it is paused and
// unpaused while no slot is free, then a Shutdown leaves it interrupted, and without the backoff.
func TestPause_OfARecoveredWait(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		cp := s.put(activity.Checkpoint{State: activity.CheckpointWaiting, Attempt: 2, NextAttempt: time.Now().Add(time.Hour), LastFailure: "boom"})
		e.start(activity.Options{}, untilEnded) // has the slot
		h := e.start(job, noop)
		checkState(t, h, activity.StateBackingOff)
		s.want(cp)
		checkErr(t, e.rt.Pause("a"), nil)
		synctest.Wait()
		want := activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Attempt: 2, LastFailure: "boom", Input: cp.Input}
		s.want(want)
		checkErr(t, e.rt.Unpause("a"), nil)
		synctest.Wait()
		want.State = activity.CheckpointWaiting
		s.want(want)
		checkErr(t, e.rt.Shutdown(t.Context()), nil)
		want.State = activity.CheckpointInterrupted
		s.want(want)
	})
}

// Rules 31 and 32. Given a paused checkpoint, when its ID is started with another input that is
// accepted, then Start returns once the Store has that input, and the activity is still paused. Until
// then it can be neither paused nor unpaused.
func TestPause_StartWithANewInput(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointPaused, Input: []byte("7")})
		open := s.block("Save")
		opts := job
		opts.AcceptNewInput = true
		l := e.launch(e.ctx, opts, noop)
		for _, steer := range []func(string) error{e.rt.Pause, e.rt.Unpause} {
			checkSteer(t, steer("a"), "its start is still being saved")
		}
		if l.returned.Load() {
			t.Error("Start has returned")
		}
		open()
		synctest.Wait()
		checkState(t, l.h, activity.StatePaused)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Input: []byte("{}")})
		checkErr(t, e.rt.Unpause("a"), nil)
		synctest.Wait()
		checkErr(t, e.end(l.h), nil)
		e.want("a", "0s scheduled 0", "0s paused 0", "0s unpaused 0", "0s attempt started 1", "0s completed 1")
	})
}

// Rules 20 and 32. Given an attempt whose start waits for a Save, when the activity is paused, and
// unpaused while the pause is being saved, then the attempt starts when the Store has its start.
func TestPause_WhileAStartIsSaved(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.InitialInterval = time.Minute
		h := e.start(opts, func(activity.Context) error { return errBoom })
		e.pass(30 * time.Second)
		saves := make(chan struct{})
		s.on("Save", func(context.Context) error { <-saves; return nil })
		next := func() { saves <- struct{}{}; synctest.Wait() } // ends a Save
		l := e.launch(e.ctx, activity.Options{ID: "b"}, untilEnded)
		e.pass(30 * time.Second)
		checkState(t, h, activity.StateWaiting) // for the Save of attempt 2
		checkErr(t, e.rt.Pause("a"), nil)
		next()
		checkErr(t, l.err, nil)
		checkErr(t, e.rt.Unpause("a"), nil)
		next()
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointPaused, Attempt: 1, LastFailure: "boom", Input: []byte("{}")})
		checkState(t, h, activity.StateWaiting)
		next()
		if st := h.Status(); st.Attempt != 2 || st.State != activity.StateBackingOff {
			t.Errorf("%+v", st)
		}
		close(saves)
	})
}

// Rules 25, 30 and 32. Given activities that several goroutines pause and unpause all the time, outside
// of a bubble, then each body has been done when its activity completes, and nothing hangs.
func TestPause_FromManyGoroutines(t *testing.T) {
	const activities, bodies, steers = 10, 30, 2000
	rt := activity.New(activity.Config{Logger: quiet, Store: &storetest.Memory{}, MaxConcurrent: activities / 2})
	var mu sync.Mutex
	done := map[string]map[int]bool{}
	var handles []*activity.Handle[string]
	for n := range activities {
		done[fmt.Sprint(n)] = map[int]bool{}
	}
	for n := range activities {
		id := fmt.Sprint(n)
		h, err := activity.Start(t.Context(), rt, activity.Options{ID: id, Name: "job", RetryPolicy: once}, func(ctx activity.Context, _ struct{}) (string, error) {
			return "done", activity.RangeParallel(ctx, 0, bodies, 3, func(ctx activity.Context, i int) error {
				if err := ctx.Sleep(100 * time.Microsecond); err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				done[id][i] = true
				return nil
			})
		}, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, h)
	}
	var steering sync.WaitGroup
	for g := range 4 {
		steering.Go(func() {
			for n := range steers {
				id := fmt.Sprint((n + g) % activities)
				_ = []func(string) error{rt.Pause, rt.Unpause, rt.RetryNow}[(n/activities+g)%3](id)
			}
		})
	}
	steering.Wait()
	for _, h := range handles {
		for ended := false; !ended; {
			_ = rt.Unpause(h.ID()) // refused while the function returns
			select {
			case <-h.Done():
				ended = true
			case <-time.After(time.Millisecond):
			}
		}
		checkErr(t, wait(t, h), nil)
		if n := len(done[h.ID()]); n != bodies {
			t.Errorf("%d bodies of %s are done", n, h.ID())
		}
	}
	if s := rt.Stats(); s.Completed != activities || s.Paused+s.Running+s.Waiting+s.BackingOff+s.Blocked+s.Abandoned != 0 {
		t.Errorf("%+v", s)
	}
	checkErr(t, rt.Shutdown(t.Context()), nil)
}
