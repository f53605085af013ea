// Pauses of the whole process, which are not stalls.

package activity_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// A pauseEnv is an env on a pauseClock. Its functions do only what
// the test tells them to.
type pauseEnv struct {
	*env
	pause *pauseClock
	do    map[string]chan func(activity.Context) bool // by the activity's ID; true: return
}

func pauseTest(t *testing.T, cfg activity.Config, test func(t *testing.T, e *pauseEnv)) {
	synctest.Test(t, func(t *testing.T) {
		c := &pauseClock{Mock: clock.NewMock()}
		cfg.Clock = c
		test(t, &pauseEnv{newEnv(t, cfg, c.Mock), c, map[string]chan func(activity.Context) bool{}})
	})
}

// begin starts an activity of one attempt whose function waits for orders.
func (e *pauseEnv) begin(id string, opts activity.Options) *activity.Handle[string] {
	e.t.Helper()
	do := make(chan func(activity.Context) bool)
	e.do[id] = do
	opts.ID = id
	opts.RetryPolicy.MaximumAttempts = 1
	return e.start(opts, func(ctx activity.Context) error {
		for {
			select {
			case f := <-do:
				if f(ctx) {
					return nil
				}
			case <-e.gate("end"):
				return nil
			}
		}
	})
}

// pauseOptions of a heartbeat timeout.
func pauseOptions(timeout time.Duration) activity.Options {
	return activity.Options{HeartbeatTimeout: timeout}
}

func (e *pauseEnv) heartbeat(id string) (err error) {
	e.do[id] <- func(ctx activity.Context) bool { err = ctx.Heartbeat(); return false }
	synctest.Wait()
	return err
}

func (e *pauseEnv) finish(id string) {
	e.do[id] <- func(activity.Context) bool { return true }
	synctest.Wait()
}

// now is the time since the start.
func (e *pauseEnv) now() time.Duration { return e.pause.Now().Sub(e.base) }

// late has the timer that is set for at come late.
func (e *pauseEnv) late(at, late time.Duration) {
	left := at - e.now()
	e.pause.jump(late)
	e.pass(left)
}

// wantEnd checks that an activity times out at an instant, and not 1 ns before.
// Its timer is in time.
func (e *pauseEnv) wantEnd(h *activity.Handle[string], at time.Duration, typ activity.TimeoutType) {
	e.t.Helper()
	if left := at - e.now(); left > 0 {
		if left > 1 {
			e.pass(left - 1)
		}
		e.wantAlive(h)
		e.pass(1)
	}
	e.wantEnded(h, at, typ)
}

func (e *pauseEnv) wantEnded(h *activity.Handle[string], at time.Duration, typ activity.TimeoutType) {
	e.t.Helper()
	if got := timeoutType(e.end(h)); got != typ {
		e.t.Errorf("%s ended in %s, want %s", h.ID(), got, typ)
	}
	for _, event := range e.all() {
		if event.ID == h.ID() && event.Kind == activity.EventFailed && event.Time.Sub(e.base) != at {
			e.t.Errorf("%s ended at %s, want %s", h.ID(), event.Time.Sub(e.base), at)
		}
	}
}

func (e *pauseEnv) wantAlive(h *activity.Handle[string]) {
	e.t.Helper()
	select {
	case <-h.Done():
		e.t.Fatalf("%s has ended at %s", h.ID(), e.now())
	default:
	}
}

// Rule 11. Given a Runtime that settles late, by the larger of a tenth of the heartbeat
// timeout and 1 ms, then that is no pause; 1 ns more is one, whoever finds it.
func TestPause_Threshold(t *testing.T) {
	for timeout, threshold := range map[time.Duration]time.Duration{
		10 * time.Second:         time.Second,
		time.Second:              100 * time.Millisecond,
		20 * time.Millisecond:    2 * time.Millisecond,
		10*time.Millisecond + 10: time.Millisecond + 1,
		10 * time.Millisecond:    time.Millisecond,
		5 * time.Millisecond:     time.Millisecond,
	} {
		for _, first := range []string{"timer", "heartbeat", "return", "status"} {
			for _, more := range []time.Duration{0, 1} {
				t.Run(fmt.Sprintf("%s/%s/%d", timeout, first, more), func(t *testing.T) {
					pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
						late := threshold + more
						h := e.begin("a", pauseOptions(timeout))
						e.pass(timeout - 1)
						e.pause.jump(late)
						if first == "timer" {
							e.pass(1)
						} else {
							e.pause.jump(1) // the timer is to come 1 ns later still
						}
						at, deadline := timeout+late, timeout+late+late
						var err error
						switch first {
						case "heartbeat":
							err = e.heartbeat("a")
							deadline = at + timeout
						case "return":
							e.finish("a")
						case "status":
							h.Status()
							synctest.Wait()
						}
						switch {
						case more == 0:
							e.wantEnded(h, at, activity.TimeoutHeartbeat)
							if first == "heartbeat" && timeoutType(err) != activity.TimeoutHeartbeat {
								t.Errorf("Heartbeat returned %v", err)
							}
						case err != nil:
							t.Errorf("Heartbeat returned %v", err)
						case first == "return":
							if err := e.end(h); err != nil {
								t.Error(err)
							}
						default:
							e.wantEnd(h, deadline, activity.TimeoutHeartbeat)
						}
					})
				})
			}
		}
	}
}

// Rule 11. Given a pause, then the heartbeat deadline moves to now plus the lateness, and
// by at most one HeartbeatTimeout between two heartbeats, so that a real stall is found.
func TestPause_MovesDeadlineByLateness(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		name string
		late []time.Duration // of the timer, again and again
		want []time.Duration // the deadline then; 0: it has timed out
	}{
		{"once", []time.Duration{4 * s}, []time.Duration{18 * s}},
		{"just over the threshold", []time.Duration{s + 1}, []time.Duration{12*s + 2}},
		{"all at once", []time.Duration{10 * s}, []time.Duration{30 * s}},
		{"longer than the timeout", []time.Duration{25 * s}, []time.Duration{45 * s}},
		{"much longer", []time.Duration{1000 * time.Hour}, []time.Duration{1000*time.Hour + 20*s}},
		{"then in time", []time.Duration{4 * s, 0}, []time.Duration{18 * s, 0}},
		{"then less than a pause", []time.Duration{4 * s, s}, []time.Duration{18 * s, 0}},
		{"again", []time.Duration{4 * s, 4 * s}, []time.Duration{18 * s, 26 * s}},
		{"up to the timeout", []time.Duration{4 * s, 4 * s, 4 * s}, []time.Duration{18 * s, 26 * s, 32 * s}},
		{"no more", []time.Duration{4 * s, 4 * s, 4 * s, 4 * s}, []time.Duration{18 * s, 26 * s, 32 * s, 0}},
		{"up to it in two", []time.Duration{5 * s, 5 * s, 5 * s}, []time.Duration{20 * s, 30 * s, 0}},
		{"all but 1 ns", []time.Duration{10*s - 1, 5 * s, 5 * s}, []time.Duration{30*s - 2, 35*s - 1, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
				h := e.begin("a", pauseOptions(10*s))
				deadline := 10 * s
				for i, late := range test.late {
					e.wantAlive(h)
					e.late(deadline, late)
					deadline = test.want[i]
				}
				if deadline == 0 {
					e.wantEnded(h, e.now(), activity.TimeoutHeartbeat)
				} else {
					e.wantEnd(h, deadline, activity.TimeoutHeartbeat)
				}
			})
		})
	}
}

// Rule 11. Given a deadline that was moved as far as it may, when the function
// heartbeats, then the next pause can move it again.
func TestPause_HeartbeatGrantsAnew(t *testing.T) {
	const s = time.Second
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.begin("a", pauseOptions(10*s))
		e.late(10*s, 10*s) // at 20 s, until 30 s
		e.pass(5 * s)
		if err := e.heartbeat("a"); err != nil { // at 25 s, until 35 s
			t.Fatal(err)
		}
		e.pass(5 * s)      // the timer is set for 35 s
		e.late(35*s, 10*s) // at 45 s, until 55 s
		e.wantEnd(h, 55*s, activity.TimeoutHeartbeat)
	})
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.start(pauseOptions(10*s), e.hang)
		e.late(10*s, 10*s) // at 20 s, until 30 s
		e.pass(10 * s)     // the second attempt, until 40 s
		e.late(40*s, 10*s) // at 50 s, until 60 s
		e.pass(10*s - 1)
		if n := h.Status().Attempt; n != 2 {
			t.Errorf("attempt %d runs, want 2", n)
		}
		e.pass(1)
		if s := h.Status(); s.State != activity.StateBackingOff {
			t.Errorf("the second attempt is %s", s.State)
		}
	})
}

// Rule 11. Given a function that sleeps through a pause of an hour, when it wakes and
// heartbeats, then it is in time.
func TestPause_DuringSleep(t *testing.T) {
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			if err := ctx.Sleep(9 * time.Second); err != nil {
				return err
			}
			return ctx.Heartbeat()
		})
		e.late(9*time.Second, time.Hour)
		if err := e.end(h); err != nil {
			t.Error(err)
		}
		e.want("a", "0s scheduled 0", "0s attempt started 1", "1h0m9s heartbeat 1", "1h0m9s completed 1")
	})
}

// Rules 7 and 11. Given a pause, then only the heartbeat deadline moves, before the
// others are looked at; of those, the earlier comes first.
func TestPause_OtherDeadlinesStay(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		heartbeat, start, schedule, now time.Duration
		want                            activity.TimeoutType
		at                              time.Duration
	}{
		{0, 10_000 * ms, 0, 15_000 * ms, activity.TimeoutStartToClose, 15_000 * ms},
		{0, 0, 10_000 * ms, 15_000 * ms, activity.TimeoutScheduleToClose, 15_000 * ms},
		{10_000 * ms, 20_000 * ms, 0, 18_000 * ms, activity.TimeoutStartToClose, 20_000 * ms},
		{10_000 * ms, 0, 20_000 * ms, 18_000 * ms, activity.TimeoutScheduleToClose, 20_000 * ms},
		{10_000 * ms, 27_000 * ms, 28_000 * ms, 18_000 * ms, activity.TimeoutHeartbeat, 26_000 * ms},
		{10_000 * ms, 12_000 * ms, 0, 15_000 * ms, activity.TimeoutStartToClose, 15_000 * ms},
		{10_000 * ms, 10_000 * ms, 0, 15_000 * ms, activity.TimeoutStartToClose, 15_000 * ms},
		{10_000 * ms, 12_000 * ms, 12_000 * ms, 15_000 * ms, activity.TimeoutScheduleToClose, 15_000 * ms},
		{10_000 * ms, 12_000 * ms, 13_000 * ms, 15_000 * ms, activity.TimeoutStartToClose, 15_000 * ms},
		{10_000 * ms, 13_000 * ms, 12_000 * ms, 15_000 * ms, activity.TimeoutScheduleToClose, 15_000 * ms},
		// Late, and no pause.
		{10_000 * ms, 10_500 * ms, 0, 10_900 * ms, activity.TimeoutHeartbeat, 10_900 * ms},
		{10_000 * ms, 10_500 * ms, 10_400 * ms, 10_900 * ms, activity.TimeoutHeartbeat, 10_900 * ms},
		{10_500 * ms, 10_200 * ms, 10_400 * ms, 10_900 * ms, activity.TimeoutStartToClose, 10_900 * ms},
		{10_500 * ms, 10_400 * ms, 10_200 * ms, 10_900 * ms, activity.TimeoutScheduleToClose, 10_900 * ms},
		{10_200 * ms, 10_200 * ms, 10_400 * ms, 10_900 * ms, activity.TimeoutStartToClose, 10_900 * ms},
	} {
		t.Run(fmt.Sprint(test.heartbeat, test.start, test.schedule, test.now), func(t *testing.T) {
			pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
				h := e.begin("a", activity.Options{
					HeartbeatTimeout: test.heartbeat, StartToCloseTimeout: test.start, ScheduleToCloseTimeout: test.schedule,
				})
				first := time.Hour
				for _, d := range []time.Duration{test.heartbeat, test.start, test.schedule} {
					if d > 0 {
						first = min(first, d)
					}
				}
				e.late(first, test.now-first)
				e.wantEnd(h, test.at, test.want)
			})
		})
	}
}

// Rule 11. Given several activities and a pause, then the lateness counts from the
// earliest deadline that is due, whosever it is, and deadlines that are not due stay.
func TestPause_SeveralActivities(t *testing.T) {
	const s = time.Second
	const heartbeat = activity.TimeoutHeartbeat
	run := func(name string, test func(t *testing.T, e *pauseEnv)) {
		t.Run(name, func(t *testing.T) { pauseTest(t, activity.Config{MaxConcurrent: 4}, test) })
	}
	run("both moved", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		e.pass(s / 2)
		b := e.begin("b", pauseOptions(10*s))
		e.late(10*s, s+1)
		e.wantEnd(b, 12*s+2, heartbeat)
		e.wantEnded(a, 12*s+2, heartbeat)
	})
	run("late by the threshold", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		e.pass(s / 2)
		b := e.begin("b", pauseOptions(10*s))
		e.late(10*s, s)
		e.wantEnded(a, 11*s, heartbeat)
		e.wantEnded(b, 11*s, heartbeat)
	})
	run("due at that instant", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		e.pass(2 * s)
		b := e.begin("b", pauseOptions(10*s))
		e.late(10*s, 2*s)
		e.wantEnd(b, 14*s, heartbeat)
		e.wantEnded(a, 14*s, heartbeat)
	})
	run("not yet due", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		e.pass(2*s + 1)
		b := e.begin("b", pauseOptions(10*s))
		e.late(10*s, 2*s)
		e.wantEnd(b, 12*s+1, heartbeat)
		e.wantEnd(a, 14*s, heartbeat)
	})
	run("each its own threshold", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(60*s))
		e.pass(50 * s)
		b := e.begin("b", pauseOptions(10*s))
		e.late(60*s, 6*s)
		e.wantEnded(a, 66*s, heartbeat)
		e.wantEnd(b, 72*s, heartbeat)
	})
	run("each its own limit", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		b := e.begin("b", pauseOptions(5*s))
		e.late(5*s, 8*s) // at 13 s
		e.wantEnd(b, 18*s, heartbeat)
		e.wantEnd(a, 21*s, heartbeat)
	})
	run("counted from a start-to-close", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", activity.Options{StartToCloseTimeout: 5 * s})
		b := e.begin("b", pauseOptions(10*s))
		e.late(5*s, 6*s)
		e.wantEnded(a, 11*s, activity.TimeoutStartToClose)
		e.wantEnd(b, 17*s, heartbeat)
	})
	run("counted from a schedule-to-start", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		for i := range 3 {
			e.begin(fmt.Sprint(i), activity.Options{})
		}
		b := e.begin("b", activity.Options{ScheduleToStartTimeout: 5 * s})
		e.late(5*s, 6*s)
		e.wantEnded(b, 11*s, activity.TimeoutScheduleToStart)
		e.wantEnd(a, 17*s, heartbeat)
	})
	run("not counted from the end of a backoff", func(t *testing.T, e *pauseEnv) {
		policy := activity.RetryPolicy{InitialInterval: 5 * s, MaximumAttempts: 2}
		a := e.start(activity.Options{RetryPolicy: policy}, func(activity.Context) error { return errBoom })
		b := e.begin("b", pauseOptions(10*s))
		e.late(5*s, 6*s)
		checkEnd(t, e.end(a), 2, activity.RetryStateMaximumAttemptsReached)
		e.wantEnded(b, 11*s, heartbeat)
	})
	run("one finds it for all", func(t *testing.T, e *pauseEnv) {
		a := e.begin("a", pauseOptions(10*s))
		e.pass(s / 2)
		b := e.begin("b", pauseOptions(10*s))
		e.pass(9*s + s/2 - 1)
		e.pause.jump(s + 2) // at 11 s and 1 ns
		if err := e.heartbeat("b"); err != nil {
			t.Fatal(err)
		}
		e.wantEnd(a, 12*s+2, heartbeat)
		e.wantEnd(b, 21*s+1, heartbeat)
	})
}
