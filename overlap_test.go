package activity_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// Rule 9. Given the default MaxAbandoned, when eleven functions hang, then the activity
// is blocked until one returns, which is counted, reported and logged.
func TestAbandoned_ElevenHangs(t *testing.T) {
	log := &logbook{}
	both(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env) {
		log.lines = nil
		var places [20]stackPlace
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			n := ctx.Info().Attempt
			return stackHangA(e.gate(fmt.Sprint(n)), &places[n])
		})
		e.pass(24 * time.Hour)
		s := h.Status()
		if s.State != activity.StateBlocked || s.Attempt != 11 || s.Abandoned != 11 {
			t.Errorf("the status is %+v", s)
		}
		if s := e.rt.Stats(); s.Blocked != 1 || s.Running != 0 || s.Abandoned != 11 || s.Attempts != 11 {
			t.Errorf("Stats are %+v", s)
		}
		events := e.all()
		last := events[len(events)-1]
		if last.Kind != activity.EventBlocked || last.Attempt != 11 {
			t.Errorf("the last event is %+v", last)
		}
		at := places[11]
		if log.has(slog.LevelError, at.function+"(", at.line) != 1 || log.has(slog.LevelError) != 1 {
			t.Errorf("%d lines say that it is blocked, %d where it hangs", log.has(slog.LevelError), log.has(slog.LevelError, at.function+"(", at.line))
		}
		e.wantStarted("a", 12, -1)
		e.open("3")
		e.wantStarted("a", 12, 24*time.Hour)
		e.pass(10 * time.Second) // it hangs too, and backs off
		e.pass(24 * time.Hour)
		e.wantStarted("a", 13, -1)
		if s := h.Status(); s.State != activity.StateBlocked || s.Attempt != 12 || s.Abandoned != 11 {
			t.Errorf("the status is %+v", s)
		}
	})
}

// Rule 9. Given MaxAbandoned, when that many abandoned functions run, then another
// attempt starts; with one more the activity is blocked.
func TestAbandoned_MaxAbandoned(t *testing.T) {
	for maxAbandoned, want := range map[int]int{activity.NoOverlap: 1, 1: 2, 2: 3, 9: 10, 11: 12} {
		both(t, activity.Config{}, func(t *testing.T, e *env) {
			h := e.start(activity.Options{StartToCloseTimeout: time.Second, MaxAbandoned: maxAbandoned}, e.hang)
			e.pass(24 * time.Hour)
			if s := h.Status(); s.State != activity.StateBlocked || s.Attempt != want {
				t.Errorf("with MaxAbandoned %d the status is %+v", maxAbandoned, s)
			}
		})
	}
}

// Rule 9. Given NoOverlap, when a timed-out function still runs, then the next attempt
// starts once it has returned. Meanwhile the slot is free, and schedule-to-start does not
// count.
func TestAbandoned_NoOverlap(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap, ScheduleToStartTimeout: time.Second}, e.hang)
		e.start(activity.Options{ID: "b"}, e.hang)
		e.pass(time.Hour)
		e.open("b1")
		e.open("a1")
		e.open("a2")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s blocked 1",
			"1h0m0s abandoned returned 1",
			"1h0m0s attempt started 2",
			"1h0m0s completed 2")
		e.want("b", "0s scheduled 0", "10s attempt started 1", "1h0m0s completed 1")
	})
	// What was blocked waits for a slot again, and for no longer than schedule-to-start.
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap, ScheduleToStartTimeout: time.Second}, e.hang)
		e.start(activity.Options{ID: "b"}, e.hang)
		e.pass(time.Minute)
		e.open("a1")
		if s := h.Status().State; s != activity.StateWaiting {
			t.Errorf("it is %s", s)
		}
		e.pass(time.Second - 1)
		if s := h.Status().State; s != activity.StateWaiting {
			t.Errorf("it is %s", s)
		}
		e.pass(1)
		if typ := timeoutType(e.end(h)); typ != activity.TimeoutScheduleToStart {
			t.Errorf("it ended in %s", typ)
		}
	})
	// A function that returns during the backoff blocks nothing.
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "a", StartToCloseTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap}, e.hang)
		e.pass(11*time.Second - 1)
		e.open("a1")
		e.pass(1)
		e.open("a2")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: start-to-close timeout, next in 1s",
			"10s abandoned 1",
			"10.999999999s abandoned returned 1",
			"11s attempt started 2",
			"11s completed 2")
	})
}

// Rules 9 and 27. Given a timed-out function that leaves Guard and still runs, then the
// activity stays blocked until it returns, and is reported as blocked once.
func TestBlocked_UntilFunctionReturnsAfterGuard(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				return nil
			}
			if err := activity.Guard(ctx, func() error { <-e.gate("guard"); return nil }); err != nil {
				return err
			}
			return e.hang(ctx)
		})
		e.pass(15 * time.Second)
		e.open("guard")
		e.pass(5 * time.Second)
		e.open("a1")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s blocked 1",
			"20s abandoned returned 1",
			"20s attempt started 2",
			"20s completed 2")
	})
}

// Rule 9. Given a blocked activity, when its function returns 1 ns before
// schedule-to-close, the next attempt runs; at that instant or later, the activity fails.
func TestBlocked_ScheduleToCloseCounts(t *testing.T) {
	for _, more := range []time.Duration{-1, 0, 1} {
		both(t, activity.Config{}, func(t *testing.T, e *env) {
			alarm := e.clock.After(20*time.Second + more)
			h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, ScheduleToCloseTimeout: 20 * time.Second, MaxAbandoned: activity.NoOverlap}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					<-alarm
				}
				return nil
			})
			e.pass(20*time.Second + more)
			err := e.end(h)
			want := []string{
				"0s scheduled 0",
				"0s attempt started 1",
				"10s attempt failed 1: heartbeat timeout, next in 0s",
				"10s abandoned 1",
				"10s blocked 1",
			}
			if more < 0 {
				want = append(want, "19.999999999s abandoned returned 1", "19.999999999s attempt started 2", "19.999999999s completed 2")
			} else {
				want = append(want, "20s failed 1: schedule-to-close timeout, timeout", fmt.Sprintf("%s abandoned returned 1", 20*time.Second+more))
			}
			e.want("a", want...)
			if (err != nil) != (more >= 0) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// Rule 9. Given an activity that has ended, when its abandoned function still runs, then
// a new execution of the ID does not wait for it.
func TestAbandoned_ReturnsAfterTheEnd(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{ID: "a", HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap, RetryPolicy: once}
		first := e.start(opts, func(activity.Context) error { <-e.gate("first"); return nil })
		e.pass(time.Second)
		e.end(first)
		second := e.start(opts, noop)
		if err := e.end(second); err != nil {
			t.Error(err)
		}
		if s := e.rt.Stats(); s.Abandoned != 1 || s.Completed != 1 || s.Failed != 1 {
			t.Errorf("Stats are %+v", s)
		}
		e.pass(time.Second)
		e.open("first")
		if n := e.rt.Stats().Abandoned; n != 0 {
			t.Errorf("%d functions are abandoned after the last has returned", n)
		}
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"1s attempt failed 1: heartbeat timeout, next in 0s",
			"1s abandoned 1",
			"1s failed 1: heartbeat timeout, maximum attempts reached",
			"1s scheduled 0",
			"1s attempt started 1",
			"1s completed 1",
			"2s abandoned returned 1")
	})
}

// Rule 9. Given two attempts that have timed out, when the first one's function returns
// while Retryable is asked about the second, then its return is told at once, and it is
// the second that is abandoned.
func TestAbandoned_EarlierReturnsWhileRetryableIsAsked(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{
			ID: "a", HeartbeatTimeout: time.Second,
			RetryPolicy: activity.RetryPolicy{Retryable: func(err error) bool {
				if asTimeout(t, err).Attempt == 2 {
					<-e.gate("answer")
				}
				return true
			}},
		}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 3 {
				return nil
			}
			return e.hang(ctx)
		})
		e.pass(2 * time.Second)
		e.open("a1")
		events := []string{
			"0s scheduled 0",
			"0s attempt started 1",
			"1s attempt failed 1: heartbeat timeout, next in 0s",
			"1s abandoned 1",
			"1s attempt started 2",
			"2s abandoned returned 1",
		}
		e.want("a", events...)
		if n := h.Status().Abandoned; n != 1 {
			t.Errorf("%d are abandoned, want the second", n)
		}
		e.open("answer")
		e.pass(time.Second) // the second stall in a row backs off
		e.open("a2")
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		e.want("a", append(events,
			"2s attempt failed 2: heartbeat timeout, next in 2s",
			"2s abandoned 2",
			"3s abandoned returned 2",
			"4s attempt started 3",
			"4s completed 3")...)
		if n := e.rt.Stats().Abandoned; n != 0 {
			t.Errorf("%d are abandoned in the end", n)
		}
	})
}

// Rule 7. Given an attempt whose deadline is reached before its goroutine has begun, then
// its function is not called.
func TestTimeout_BeforeFunctionBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paused := &pauseClock{Mock: clock.NewMock()}
		c := &armedClock{Clock: paused}
		e := newEnv(t, activity.Config{Clock: c}, paused.Mock)
		c.arm(func() { // at the reading with which the start begins
			c.arm(func() { paused.jump(time.Second) }) // at that which sets the timer
		})
		h := e.start(activity.Options{ID: "a", StartToCloseTimeout: time.Second}, func(ctx activity.Context) error {
			if n := ctx.Info().Attempt; n != 2 {
				t.Errorf("attempt %d is called", n)
			}
			return nil
		})
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"1s attempt failed 1: start-to-close timeout, next in 1s",
			"1s abandoned 1",
			"1s abandoned returned 1",
			"2s attempt started 2",
			"2s completed 2")
	})
}

// Rule 9. Given an activity that is blocked, then EventBlocked has the failure of the
// attempt that blocks it.
func TestBlocked_EventHasTheFailure(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "a", HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap}, e.hang)
		e.pass(time.Second)
		failed, blocked := e.of(activity.EventAttemptFailed), e.of(activity.EventBlocked)
		if len(failed) != 1 || len(blocked) != 1 || blocked[0].Attempt != 1 || !isTimeout(blocked[0].Err, activity.TimeoutHeartbeat) || blocked[0].Err != failed[0].Err {
			t.Errorf("the failures are %v, and it is blocked by %v", failed, blocked)
		}
	})
}

// Rule 9. Given a function that still runs when its attempt is over, when the next attempt is
// blocked by it, then EventBlocked comes at once, and the log line when a second has passed.
func TestBlocked_LogAfterASecond(t *testing.T) {
	for name, guarded := range map[string]bool{"NoOverlap": false, "Guard": true} {
		for _, lasts := range []time.Duration{0, time.Second - 1, time.Second} {
			t.Run(fmt.Sprintf("%s/%s", name, lasts), func(t *testing.T) {
				log := &logbook{}
				both(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env) {
					log.lines = nil
					opts := activity.Options{ID: "a", HeartbeatTimeout: 5 * time.Second, MaxAbandoned: activity.NoOverlap}
					if guarded {
						opts.MaxAbandoned = 0
					}
					e.start(opts, func(ctx activity.Context) error {
						if ctx.Info().Attempt > 1 {
							return untilEnded(ctx)
						}
						hang := func() error {
							<-ctx.Done()
							if lasts > 0 {
								<-e.gate("1")
							}
							return context.Cause(ctx)
						}
						if guarded {
							return activity.Guard(ctx, hang)
						}
						return hang()
					})
					e.pass(5 * time.Second)
					// Whether one that leaves Guard at that instant is in the way is not fixed.
					if n := len(e.of(activity.EventBlocked)); n != 1 && !(guarded && lasts == 0) {
						t.Errorf("%d times blocked", n)
					}
					e.pass(lasts)
					e.open("1")
					e.wantStarted("a", 2, 5*time.Second+lasts)
					want := 0
					if lasts == time.Second {
						want = 1
					}
					if n := log.has(slog.LevelError); n != want {
						t.Errorf("%d lines, want %d", n, want)
					}
				})
			})
		}
	}
}

// Rules 9 and 11. The line about a blocked activity is no timeout: that it comes late is no
// reason to extend a heartbeat deadline that is due later.
func TestBlocked_LateLogIsNoLateTimeout(t *testing.T) {
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		e.start(activity.Options{ID: "blocked", HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap}, e.hang)
		e.pass(1200 * time.Millisecond) // the line is due at 2 s
		h := e.begin("beats", pauseOptions(time.Second))
		e.pause.jump(time.Second) // to the instant of the timeout
		checkErr(t, e.heartbeat("beats"), context.DeadlineExceeded)
		checkState(t, h, activity.StateFailed)
	})
}
