package activity_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 10. Given ScheduleToStartTimeout, when a slot gets free 1 ns before it, the
// activity gets the slot; at that instant the slot is the next one's. It bounds the wait
// of a retry too.
func TestSlots_ScheduleToStart(t *testing.T) {
	const s = time.Second
	for _, how := range []string{"return before the timer", "return after the timer", "timeout"} {
		for _, more := range []time.Duration{-1, 0, 1} {
			t.Run(fmt.Sprintf("%s/%d", how, more), func(t *testing.T) {
				both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
					free := 5*s + more
					early, opts := e.clock.After(free), activity.Options{RetryPolicy: once}
					if how == "timeout" {
						opts.StartToCloseTimeout = free
					}
					e.start(opts, func(ctx activity.Context) error {
						switch how {
						case "return before the timer":
							<-early
						case "return after the timer":
							<-e.clock.After(free)
						default:
							<-ctx.Done()
						}
						return nil
					})
					h := e.start(activity.Options{ID: "a", ScheduleToStartTimeout: 5 * s, RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { return true }}}, noop)
					e.start(activity.Options{ID: "b"}, noop)
					if n := e.rt.Stats().Waiting; n != 2 {
						t.Errorf("%d wait for a slot", n)
					}
					e.pass(free)
					e.pass(s)
					err := e.end(h)
					e.wantStarted("b", 1, free)
					if more < 0 {
						e.wantStarted("a", 1, free)
						return
					}
					e.want("a", "0s scheduled 0", "5s failed 0: schedule-to-start timeout, timeout")
					if end := err.(*activity.Error); end.Attempt != 0 || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("it ended with %#v", end)
					}
				})
			})
		}
	}
	t.Run("retry", func(t *testing.T) {
		both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
			failed := errors.New("failed")
			h := e.start(activity.Options{ID: "a", ScheduleToStartTimeout: 5 * s}, func(activity.Context) error { return failed })
			e.start(activity.Options{ID: "b"}, e.hang)
			e.pass(6 * s)
			err := e.end(h)
			e.want("a",
				"0s scheduled 0",
				"0s attempt started 1",
				"0s attempt failed 1: failed, next in 1s",
				"6s failed 1: schedule-to-start timeout, timeout")
			timeout := asTimeout(t, err)
			if timeout.Attempt != 1 || timeout.LastFailure != failed || timeout.Stack != nil {
				t.Errorf("it ended with %#v", timeout)
			}
		})
	})
	t.Run("schedule-to-close while waiting", func(t *testing.T) {
		both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
			e.start(activity.Options{StartToCloseTimeout: 5 * s, RetryPolicy: once}, e.hang)
			e.start(activity.Options{ID: "a", ScheduleToCloseTimeout: 5 * s}, e.hang)
			e.start(activity.Options{ID: "b", ScheduleToCloseTimeout: 5*s + 1}, e.hang)
			e.pass(5 * s)
			e.want("a", "0s scheduled 0", "5s failed 0: schedule-to-close timeout, timeout")
			e.want("b", "0s scheduled 0", "5s attempt started 1")
		})
	})
}

// Given several activities that wait for a slot, then the one that has waited longest
// gets it, and a canceled one is passed over.
func TestSlots_FirstInFirstOut(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, e *env) {
		handles := map[string]*activity.Handle[string]{}
		for i := range 8 {
			id := string(rune('a' + i))
			handles[id] = e.start(activity.Options{ID: id}, e.hang)
		}
		running := func() (ids string) {
			for _, s := range e.rt.Activities() {
				if s.State == activity.StateRunning {
					ids += s.ID
				}
			}
			return ids
		}
		var got []string
		got = append(got, running())
		handles["d"].Cancel(nil)
		synctest.Wait()
		got = append(got, running())
		for _, id := range []string{"b", "a", "c", "f", "e"} {
			e.open(id + "1")
			got = append(got, running())
		}
		checkDiff(t, "running", got, []string{"ab", "ab", "ac", "ce", "ef", "eg", "gh"})
		e.want("d", "0s scheduled 0", "0s canceled 0")
		if s := e.rt.Stats(); s.Running != 2 || s.Waiting != 0 {
			t.Errorf("Stats are %+v", s)
		}
	})
}

// Given an immediate retry, then it keeps the slot, even while Retryable is asked. A
// backoff gives the slot up, and an abandoned function holds none.
func TestSlots_Retry(t *testing.T) {
	const s = time.Second
	for _, retryable := range []func(error) bool{nil, func(error) bool { return true }} {
		t.Run(fmt.Sprint(retryable != nil), func(t *testing.T) {
			both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
				policy := activity.RetryPolicy{Retryable: retryable}
				e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * s, RetryPolicy: policy}, e.hang)
				e.start(activity.Options{ID: "b", StartToCloseTimeout: 3 * s, RetryPolicy: policy}, e.hang)
				e.start(activity.Options{ID: "c"}, e.hang)
				e.pass(time.Minute)
				e.want("a",
					"0s scheduled 0",
					"0s attempt started 1",
					"10s attempt failed 1: heartbeat timeout, next in 0s",
					"10s abandoned 1",
					"10s attempt started 2",
					"20s attempt failed 2: heartbeat timeout, next in 2s",
					"20s abandoned 2")
				e.want("b",
					"0s scheduled 0",
					"20s attempt started 1",
					"23s attempt failed 1: start-to-close timeout, next in 1s",
					"23s abandoned 1")
				e.wantStarted("c", 1, 23*s)
				if s := e.rt.Stats(); s.Running != 1 || s.Waiting != 2 || s.Abandoned != 3 || s.Timeouts != 3 {
					t.Errorf("Stats are %+v", s)
				}
				e.open("c1")
				e.wantStarted("a", 3, 60*s) // it has waited since 22 s
				e.wantStarted("b", 2, -1)   // and this one since 24 s
			})
		})
	}
}

// Rule 13. Given a retry whose slot is taken, then the wait for a slot comes on top of
// the interval.
func TestSlots_WaitComesAfterBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		var others atomic.Int32
		rt := activity.New(activity.Config{MaxConcurrent: 1, Observer: j.observe, Logger: quiet})
		h := start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error {
			return failUntil(2, plainly)(ctx, ctx.Info().Attempt)
		})
		synctest.Wait()
		if err := rt.Run(t.Context(), activity.Options{ID: "b"}, func(ctx activity.Context) error {
			others.Add(1)
			return ctx.Sleep(5 * time.Second)
		}); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, h); err != nil {
			t.Fatal(err)
		}
		started := j.of(activity.EventAttemptStarted)
		if got := started[2].Time.Sub(started[0].Time); got != 5*time.Second || others.Load() != 1 {
			t.Errorf("the second attempt started after %s, want 5s, when the slot was free", got)
		}
		checkDiff(t, "delays", j.delays(), []time.Duration{time.Second})
	})
}

// Given an activity that backs off for a nanosecond, when another waits for its
// slot, then that one gets it.
func TestSlots_ShortBackoffGivesSlotUp(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "a"}, func(ctx activity.Context) error {
			_ = e.hang(ctx)
			if ctx.Info().Attempt == 1 {
				return activity.RetryAfter(errBoom, 1)
			}
			return nil
		})
		b := e.start(activity.Options{ID: "b"}, e.hang)
		e.pass(time.Second)
		e.open("a1")
		checkState(t, b, activity.StateRunning)
		e.wantStarted("a", 2, -1)
		e.pass(1)
		e.wantStarted("a", 2, -1)
		e.pass(time.Second)
		e.open("b1")
		e.wantStarted("a", 2, 2*time.Second+1)
	})
}

// Given an activity that waits for an inner one with too few slots, when the caller's
// context ends, then both end, and the slot is free.
func TestSlots_NestedActivitiesWithTooFew(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCancel)
		defer cancel()
		begun := time.Now()
		err := rt.Run(ctx, activity.Options{ID: "outer"}, func(ctx activity.Context) error {
			err := rt.Run(ctx, activity.Options{ID: "inner"}, func(activity.Context) error { t.Error("it has a slot"); return nil })
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, errCancel)
			return err
		})
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
		if d := time.Since(begun); d != time.Minute {
			t.Errorf("it took %s", d)
		}
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "inner"}, noop), nil)
		if s := rt.Stats(); s.Running != 0 || s.Waiting != 0 || time.Since(begun) != time.Minute {
			t.Errorf("afterwards: %+v after %s", s, time.Since(begun))
		}
	})
}

// Rule 17. Given a canceled attempt whose function still runs, when others wait for its
// slot, then they get it as the function returns, or as CancelGrace has passed and it is
// abandoned.
func TestSlots_CanceledFunctionKeepsItsSlot(t *testing.T) {
	for _, returns := range []bool{true, false} {
		t.Run(fmt.Sprint("returns ", returns), func(t *testing.T) {
			both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{ID: "a", CancelGrace: 5 * time.Second}, e.hang)
				e.start(activity.Options{ID: "b"}, e.hang)
				h.Cancel(errCancel)
				e.pass(5*time.Second - 1)
				e.start(activity.Options{ID: "c"}, noop)
				if s := e.rt.Stats(); s.Running != 1 || s.Waiting != 2 {
					t.Errorf("the slot is given away: %+v", s)
				}
				want := 5*time.Second - 1
				if returns {
					e.open("a1")
				} else {
					want = 5 * time.Second
					e.pass(1)
				}
				e.wantStarted("b", 1, want)
				e.wantStarted("c", 1, -1)
			})
		})
	}
}
