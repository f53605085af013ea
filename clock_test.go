// Clocks: the order at one instant, determinism, wall clocks that are set.

package activity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given a Mock that is set further than an instant can hold, forward or back, then what is
// due is done, what is not due waits, and the Runtime works on. Its timer does not turn the
// Mock back.
func TestClock_SetBeyondAnInstant(t *testing.T) {
	for name, to := range map[string]time.Time{
		"forward": time.Unix(0, 0).AddDate(1000, 0, 0),
		"back":    time.Unix(0, 0).AddDate(-1000, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mock := clock.NewMock()
				e := newEnv(t, activity.Config{}, mock)
				far := e.start(activity.Options{ID: "far", StartToCloseTimeout: math.MaxInt64, RetryPolicy: once}, e.hang)
				near := e.start(activity.Options{ID: "near", StartToCloseTimeout: time.Hour, RetryPolicy: once}, untilEnded)
				mock.Set(to)
				synctest.Wait()
				checkErr(t, e.rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Minute}, activity.Context.Err), nil)
				if name == "forward" {
					checkErr(t, e.end(near), context.DeadlineExceeded)
				} else {
					checkState(t, near, activity.StateRunning)
				}
				checkState(t, far, activity.StateRunning)
				if got := mock.Now(); !got.Equal(to) {
					t.Errorf("the Mock is at %s, want %s", got, to)
				}
				e.open("far1")
				checkErr(t, e.end(far), nil)
			})
		})
	}
}

// Rule 7. Given a Mock that is set far back, when its time comes again, then a deadline
// that was set before is reached at its own instant.
func TestClock_SetBackAndForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		e := newEnv(t, activity.Config{}, mock)
		h := e.start(activity.Options{ID: "a", StartToCloseTimeout: time.Hour, RetryPolicy: once}, untilEnded)
		mock.Set(time.Unix(0, 0).AddDate(-1000, 0, 0))
		synctest.Wait()
		checkErr(t, e.rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Minute}, noop), nil)
		mock.Set(time.Unix(0, 0).Add(time.Hour - 1))
		synctest.Wait()
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		checkErr(t, e.end(h), context.DeadlineExceeded)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"1h0m0s attempt failed 1: start-to-close timeout, next in 0s",
			"1h0m0s abandoned 1",
			"1h0m0s failed 1: start-to-close timeout, maximum attempts reached",
			"1h0m0s abandoned returned 1")
	})
}

// Rule 24. Given a Store that has worked, when it fails after the clock was set back,
// then it is tried again after Config.SaveInterval.
func TestClock_SetBackBeforeAStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock, s := clock.NewMock(), newStore(t)
		e := newEnv(t, activity.Config{Store: s, SaveInterval: time.Second}, mock)
		e.pass(time.Hour)
		checkErr(t, e.end(e.start(activity.Options{ID: "before"}, noop)), nil)
		mock.Set(time.Unix(0, 0))
		synctest.Wait()
		s.on("Delete", func(context.Context) error { return errDisk })
		h := e.start(activity.Options{ID: "a"}, noop)
		checkSaving(t, h, activity.StateCompleted)
		s.on("Delete", nil)
		e.pass(time.Second - 1)
		checkSaving(t, h, activity.StateCompleted)
		e.pass(1)
		checkErr(t, e.end(h), nil)
	})
}

// A wallClock is a bubble's clock on a machine whose wall clock moves by itself, as it
// does when it is set, or when the machine sleeps.
type wallClock struct {
	clock.Clock
	begun time.Time // in the bubble
	base  time.Time // of outside it: a bubble's time has no monotonic reading
	moved atomic.Int64
}

func (c *wallClock) Now() time.Time {
	return moveWall(c.base.Add(time.Since(c.begun)), time.Duration(c.moved.Load()))
}

func (c *wallClock) set(moved time.Duration) { c.moved.Store(int64(moved)) }

// at is the time of day d after the start, on a wall clock that has moved.
func (c *wallClock) at(d, moved time.Duration) time.Time { return c.base.Round(0).Add(d + moved) }

// moveWall moves t's wall reading alone, which no method of a Time does.
func moveWall(t time.Time, d time.Duration) time.Time {
	const nanoseconds = 1<<30 - 1
	wall := (*uint64)(unsafe.Pointer(&t))
	d += time.Duration(*wall & nanoseconds)
	s := d / time.Second
	if d %= time.Second; d < 0 {
		d, s = d+time.Second, s-1
	}
	*wall = *wall&^nanoseconds + uint64(s)<<30 + uint64(d)
	return t
}

func onWallClock(t *testing.T, test func(t *testing.T, c *wallClock)) {
	t.Helper()
	base := time.Now()
	if moved := moveWall(base, time.Hour); moved.Sub(base) != 0 || !moved.Round(0).Equal(base.Round(0).Add(time.Hour)) {
		t.Skip("a Time is not what it was")
	}
	synctest.Test(t, func(t *testing.T) { test(t, &wallClock{Clock: clock.New(), begun: time.Now(), base: base}) })
}

// Given a wall clock that is set, forwards or back, by more than 10 ms, then times of day
// follow within 100 ms, and timeouts and intervals stay.
func TestWallClock_IsSet(t *testing.T) {
	const look, slack = 100 * time.Millisecond, 10 * time.Millisecond
	for _, moved := range []time.Duration{time.Hour, -time.Hour, slack + 1, -slack - 1, slack, -slack} {
		t.Run(fmt.Sprint(moved), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				var j journal
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, Observer: j.observe})
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					for range 2 {
						_ = ctx.Heartbeat()
						_ = ctx.Sleep(look - 1)
						_ = ctx.Heartbeat()
						_ = ctx.Sleep(1)
					}
					return nil
				})
				synctest.Wait() // it has looked at the beginning
				c.set(moved)
				checkErr(t, wait(t, h), nil)
				seen := moved
				if moved == slack || moved == -slack {
					seen = 0
				}
				latest := c.at(0, 0)
				want := []time.Time{latest, latest} // of EventScheduled and EventAttemptStarted
				for _, d := range []time.Duration{0, look - 1, look, 2*look - 1, 2 * look} {
					if d < look {
						latest = c.at(d, 0)
					} else if at := c.at(d, seen); at.After(latest) {
						latest = at // an activity's events do not run backwards
					}
					want = append(want, latest)
				}
				var got []time.Time
				for _, e := range j.all() {
					got = append(got, e.Time)
				}
				checkDiff(t, "times of the events", got, want)
			})
		})
	}
}

// Given a wall clock that is set, then each attempt keeps the time of day at which it
// started.
func TestWallClock_OfEachAttempt(t *testing.T) {
	for _, moved := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(moved.String(), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, MaxConcurrent: 1})
				var got []activity.Info
				look := func(ctx activity.Context) error {
					got = append(got, ctx.Info())
					_ = ctx.Sleep(2 * time.Second)
					got = append(got, ctx.Info())
					if ctx.Info().Attempt == 1 {
						return activity.RetryAfter(errBoom, time.Second)
					}
					return nil
				}
				opts := activity.Options{Name: "job", StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}
				first := start(t, rt, opts, look)
				time.Sleep(time.Second)
				c.set(moved)
				checkErr(t, wait(t, first), nil)
				busy := start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
				waits := start(t, rt, opts, func(ctx activity.Context) error {
					got = append(got, ctx.Info())
					return nil
				})
				c.set(2 * moved) // while it waits for its slot
				checkErr(t, wait(t, busy), nil)
				checkErr(t, wait(t, waits), nil)

				type day struct{ Scheduled, Started, Deadline time.Time }
				var days []day
				for _, i := range got {
					days = append(days, day{i.ScheduledAt, i.StartedAt, i.Deadline})
				}
				begun, again := c.at(0, 0), c.at(3*time.Second, moved)
				last := c.at(6*time.Second, 2*moved)
				checkDiff(t, "what the attempts are told", days, []day{
					{begun, begun, begun.Add(time.Minute)},
					{begun, begun, begun.Add(time.Minute)},
					{begun, again, again.Add(time.Minute)},
					{begun, again, again.Add(time.Minute)},
					{c.at(5*time.Second, moved), last, last.Add(time.Minute)},
				})
				if s := first.Status(); !s.ScheduledAt.Equal(begun) || !s.StartedAt.Equal(again) {
					t.Errorf("the Status says scheduled at %s, started at %s; want %s and %s", s.ScheduledAt, s.StartedAt, begun, again)
				}
			})
		})
	}
}

// Rule 20. Given a wall clock that was set, when an execution continues from the Store,
// then it has the schedule time that the Store holds.
func TestWallClock_OfCheckpoint(t *testing.T) {
	for _, moved := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(moved.String(), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				s := newStore(t)
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, Store: s})
				c.set(moved)
				time.Sleep(time.Second)
				c.set(2 * moved) // the Store is asked at one time of day, and answers at another
				at := c.at(0, -24*time.Hour)
				s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, ScheduledAt: at, UpdatedAt: at})
				s.on("Load", func(ctx context.Context) error {
					time.Sleep(time.Second)
					c.set(3 * moved)
					time.Sleep(time.Second)
					return nil
				})
				h := start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error {
					i := ctx.Info()
					checkDiff(t, "when it was scheduled, and started", []time.Time{i.ScheduledAt, i.StartedAt}, []time.Time{at, c.at(3*time.Second, 3*moved)})
					return nil
				})
				checkErr(t, wait(t, h), nil)
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}

// Rule 7. Given two timeouts that are found due at once, then the earlier one is settled
// first, in whatever order the activities were started. Random numbers are drawn in the
// order of the failures.
func TestOrder_EarlierDeadlineFirst(t *testing.T) {
	for _, timeouts := range [][2]time.Duration{{1 * time.Second, 2 * time.Second}, {2 * time.Second, 1 * time.Second}, {time.Second, time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			c := &pauseClock{Mock: clock.NewMock()}
			var failures atomic.Int32
			rt := activity.New(activity.Config{Clock: c, Logger: quiet, Rand: func() float64 { return float64(failures.Add(1)-1) / 2 }})
			policy := activity.RetryPolicy{InitialInterval: time.Second, Jitter: 1}
			var handles []*activity.Handle[string]
			for _, timeout := range timeouts {
				handles = append(handles, start(t, rt, activity.Options{StartToCloseTimeout: timeout, RetryPolicy: policy}, untilEnded))
			}
			c.jump(3 * time.Second)
			now := c.Now()
			var got []time.Duration
			for _, h := range handles {
				got = append(got, h.Status().NextAttempt.Sub(now))
			}
			want := []time.Duration{time.Second, time.Second / 2}
			if timeouts[0] > timeouts[1] {
				want[0], want[1] = want[1], want[0]
			}
			checkDiff(t, "intervals", got, want)
			for _, h := range handles {
				h.Cancel(nil)
				<-h.Done()
			}
			synctest.Wait()
		})
	}
}

// Rule 25. Given activities whose attempts time out at one instant, then they are settled
// in the order in which they were scheduled, and so are their retries.
func TestOrder_OfActivitiesAtOneInstant(t *testing.T) {
	const n = 8
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		failures, cfg := 0, activity.Config{Logger: quiet, MaxConcurrent: n}
		if e.mock != nil {
			cfg.Clock = e.mock
		}
		cfg.Rand = func() float64 { failures++; return float64(failures-1) / n }
		rt := activity.New(cfg)
		var handles []*activity.Handle[string]
		for range n {
			opts := activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: n * time.Second, Jitter: 1}}
			handles = append(handles, startWith(t, e.ctx, rt, opts, untilEnded))
		}
		e.pass(time.Second)
		var got, want []time.Duration
		for i, h := range handles {
			got = append(got, h.Status().NextAttempt.Sub(e.clock.Now()))
			want = append(want, time.Duration(n-i)*time.Second)
		}
		checkDiff(t, "intervals", got, want)
	})
	both(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env) {
		var got, want []int
		for i := range n {
			e.start(activity.Options{}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					return errBoom
				}
				got = append(got, i)
				return nil
			})
			want = append(want, i)
		}
		e.pass(time.Second)
		checkDiff(t, "retries", got, want)
	})
}

// A hookClock calls hook, once set, at its next reading.
type hookClock struct {
	*clock.Mock
	hook atomic.Pointer[func()]
}

func (c *hookClock) Now() time.Time {
	if hook := c.hook.Load(); hook != nil {
		(*hook)()
	}
	return c.Mock.Now()
}

// Rule 25. Given a goroutine that learns of an end or wakes from a Sleep, when it moves a
// mock on, then the timer of the other activities is set.
func TestOrder_TimerIsSetBeforeAnybodyWakes(t *testing.T) {
	for name, test := range map[string]struct {
		slots int
		other func(t *testing.T, rt *activity.Runtime, gate <-chan struct{}) (seen <-chan struct{})
	}{
		"an end is seen": {1, func(t *testing.T, rt *activity.Runtime, _ <-chan struct{}) <-chan struct{} {
			return startWith(t, t.Context(), rt, activity.Options{ScheduleToStartTimeout: 10 * time.Second}, noop).Done()
		}},
		"a Sleep ends": {0, func(t *testing.T, rt *activity.Runtime, gate <-chan struct{}) <-chan struct{} {
			awake := make(chan struct{})
			startWith(t, t.Context(), rt, activity.Options{}, func(ctx activity.Context) error {
				err := ctx.Sleep(10 * time.Second)
				close(awake)
				<-gate
				return err
			})
			return awake
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &hookClock{Mock: clock.NewMock()}
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, MaxConcurrent: test.slots})
				gate := make(chan struct{})
				defer close(gate)
				stalls := startWith(t, t.Context(), rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if ctx.Info().Attempt < 3 {
						<-gate // and not for Runtime.mu, which the hook holds up
					}
					return nil
				})
				seen := test.other(t, rt, gate)
				moveOn := sync.OnceFunc(func() {
					c.hook.Store(nil)
					c.Add(15 * time.Second) // 25 s: the second attempt has stalled, and the third has begun at 22 s
				})
				// The runtime reads the clock before it sets its timer, so a waiting function can wake here.
				hook := func() {
					for range 1000 { // time for it to wake, if it can already
						select {
						case <-seen:
							moveOn()
							return
						default:
							runtime.Gosched()
						}
					}
				}
				synctest.Wait() // for the first attempt to be in its function
				c.hook.Store(&hook)
				c.Add(10 * time.Second)
				<-seen
				moveOn()
				synctest.Wait()
				select {
				case <-stalls.Done():
				default:
					t.Errorf("at 25 s the third attempt has not begun: %+v", stalls.Status())
					stalls.Cancel(nil)
				}
			})
		})
	}
}

// The Store.

// A slowClock holds who sets a timer.
type slowClock struct {
	*clock.Mock
	gate chan struct{}
}

func (c slowClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	<-c.gate
	return c.Mock.AfterFunc(d, f)
}

// Rule 25. Given a Store and a mock clock that is slow to set a timer, when Start
// returns, then the timer is set, so that the mock can be moved on.
func TestClock_TimerIsSetBeforeStoredStartReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slowClock{clock.NewMock(), make(chan struct{})}
		rt := activity.New(activity.Config{Clock: c, Store: &storetest.Memory{}, Logger: quiet})
		var returned atomic.Bool
		go func() {
			start(t, rt, activity.Options{ID: "a", HeartbeatTimeout: time.Second}, noop)
			returned.Store(true)
		}()
		synctest.Wait()
		if returned.Load() {
			t.Error("Start has returned, and the timer is not set")
		}
		close(c.gate)
		synctest.Wait()
		if !returned.Load() {
			t.Error("Start has not returned")
		}
	})
}

// Rule 20. Given a boot in 1970 and an activity that writes nothing, when the clock is
// set, then the Store gets the right time.
func TestWallClock_SetWhileNothingIsWritten(t *testing.T) {
	for _, how := range []string{"running", "waiting"} {
		t.Run(how, func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				const day = 24 * time.Hour
				opts := job
				opts.ScheduleToCloseTimeout = day
				s := newStore(t)
				c.set(-56 * 365 * day)
				cfg := activity.Config{Clock: c, Logger: quiet, Store: s, MaxConcurrent: 1}
				rt := activity.New(cfg)
				if how == "waiting" {
					start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
				}
				start(t, rt, opts, untilEnded)
				time.Sleep(10 * time.Minute)
				c.set(0) // NTP
				time.Sleep(20 * time.Minute)
				s2 := storeOn(t, s.Clone())
				_ = rt.Shutdown(t.Context())
				cfg.Store = s2
				rt2 := activity.New(cfg)
				h := start(t, rt2, opts, untilEnded)
				time.Sleep(time.Minute)
				select {
				case <-h.Done():
					t.Errorf("30 minutes old, and: %v", wait(t, h))
				default:
				}
				_ = rt2.Shutdown(t.Context())
			})
		})
	}
}

// Rule 20. Given a boot in 1970 and an activity that backs off, when the clock is set,
// then the Store gets the right time.
func TestWallClock_SetDuringABackoff(t *testing.T) {
	onWallClock(t, func(t *testing.T, c *wallClock) {
		s := newStore(t)
		c.set(-56 * 365 * 24 * time.Hour)
		cfg := activity.Config{Clock: c, Logger: quiet, Store: s}
		rt := activity.New(cfg)
		start(t, rt, job, func(ctx activity.Context) error { return activity.RetryAfter(errBoom, time.Hour) })
		time.Sleep(10 * time.Minute)
		c.set(0)
		time.Sleep(10 * time.Minute)
		cfg.Store = storeOn(t, s.Clone())
		_ = rt.Shutdown(t.Context())
		rt = activity.New(cfg)
		h := start(t, rt, job, untilEnded)
		synctest.Wait()
		if st := h.Status(); st.State != activity.StateBackingOff {
			t.Errorf("20 minutes after RetryAfter(1h): %s, attempt %d", st.State, st.Attempt)
		}
		_ = rt.Shutdown(t.Context())
	})
}

// Rule 20. Given a stored activity with a schedule-to-close timeout, when its process once
// ran with the clock at 1970, then neither that nor the right time afterwards costs it.
func TestWallClock_BootIn1970(t *testing.T) {
	const day = 24 * time.Hour
	for name, ntp := range map[string]bool{"the clock is set in the next boot": false, "the clock is set in that boot": true} {
		for _, stored := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/stored %v", name, stored), func(t *testing.T) {
				onWallClock(t, func(t *testing.T, c *wallClock) {
					const wrong = -56 * 365 * day
					opts := job
					opts.ScheduleToCloseTimeout = day
					s := newStore(t)
					scheduled := c.at(-time.Hour, 0)
					if stored {
						s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, ScheduledAt: scheduled, UpdatedAt: scheduled})
					} else {
						scheduled = c.at(0, 0)
					}
					c.set(wrong)
					for boot := range 3 {
						rt := activity.New(activity.Config{Clock: c, Logger: quiet, Store: s})
						h := start(t, rt, opts, func(ctx activity.Context) error {
							for i := range 20 {
								_ = ctx.Heartbeat(boot, i) // so that it is saved
								if err := ctx.Sleep(time.Minute); err != nil {
									return err
								}
							}
							return untilEnded(ctx)
						})
						time.Sleep(10 * time.Minute)
						if boot == 1 || ntp {
							c.set(0)
						}
						time.Sleep(20 * time.Minute)
						checkErr(t, rt.Shutdown(t.Context()), nil)
						checkErr(t, wait(t, h), activity.ErrShutdown)
						got := s.get("a").ScheduledAt
						if boot == 0 && !ntp && !stored {
							scheduled = got // by the wrong clock, which nobody can know
						} else if boot == 1 && !ntp && !stored {
							scheduled = c.at(0, 0) // once the clock is right, the age is right
						}
						if !got.Equal(scheduled) {
							t.Errorf("boot %d: the Store has it scheduled at %s, want %s", boot, got, scheduled)
						}
					}
				})
			})
		}
	}
}

// A movingClock is a pauseClock whose time moves on while it is being used.
type movingClock struct {
	*pauseClock
	setting time.Duration // by so much while a timer is being set
	looking time.Duration // and by so much at each look
	looks   atomic.Int64
}

func (c *movingClock) Now() time.Time {
	if n := c.looks.Add(1); n < 1000 { // it stops some time: a loop must end for the test to fail
		c.jump(c.looking)
	}
	return c.pauseClock.Now()
}

func (c *movingClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.jump(c.setting)
	return c.Mock.AfterFunc(d, f)
}

// Rules 7 and 25. Given a clock that moves on while a timer is set, then the timer is in
// time nevertheless.
func TestClock_MovesWhileTimerIsSet(t *testing.T) {
	for name, c := range map[string]*movingClock{
		"in AfterFunc":  {setting: time.Second},
		"at every look": {looking: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.pauseClock = &pauseClock{Mock: clock.NewMock()}
				e := newEnv(t, activity.Config{Clock: c}, c.Mock)
				h := e.start(activity.Options{StartToCloseTimeout: 10 * time.Second, RetryPolicy: once}, e.hang)
				if n := c.looks.Load(); n > 100 {
					t.Errorf("the start looked at the clock %d times", n)
				}
				e.pass(10*time.Second - c.setting)
				if typ := timeoutType(e.end(h)); typ != activity.TimeoutStartToClose {
					t.Errorf("it ended in %s", typ)
				}
			})
		})
	}
}

// Rule 25. Given one program, when it runs many times in bubbles with the zero Config,
// then it gives the same events every time.
func TestDeterminism_SameEventsEveryTime(t *testing.T) {
	var first string
	for i := range repeated(100) {
		var got string
		synctest.Test(t, func(t *testing.T) { got = eventsOfAProgram(t) })
		if i == 0 {
			first = got
			if n := strings.Count(got, "\n"); n < 100 {
				t.Fatalf("only %d events:\n%s", n, got)
			}
		}
		if got != first {
			t.Fatalf("run %d differs: %s", i, cmp.Diff(first, got))
		}
	}
}

// eventsOfAProgram runs activities that stall, fail, beat and wait for slots,
// many of them at the same instants.
func eventsOfAProgram(t *testing.T) string {
	var mu sync.Mutex
	events := map[string]*bytes.Buffer{}
	rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
		mu.Lock()
		defer mu.Unlock()
		if events[e.ID] == nil {
			events[e.ID] = &bytes.Buffer{}
		}
		fmt.Fprintf(events[e.ID], "%+v\n", e)
	}})
	var all []*activity.Handle[int]
	for i := range 12 {
		opts := activity.Options{
			HeartbeatTimeout:       time.Duration(1+i%3) * time.Second,
			StartToCloseTimeout:    6 * time.Second,
			ScheduleToCloseTimeout: 40 * time.Second,
			RetryPolicy:            activity.RetryPolicy{MaximumAttempts: 6},
			MaxAbandoned:           activity.NoOverlap,
		}
		h, err := activity.Start(t.Context(), rt, opts, func(ctx activity.Context, i int) (int, error) {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return 0, err
			}
			for ; next < 8; next++ {
				if err := ctx.Sleep(time.Duration(1+(i+next)%3) * time.Second); err != nil {
					return 0, err
				}
				if err := ctx.Heartbeat(next); err != nil {
					return 0, err
				}
				if (next+i)%5 == 4 && ctx.Info().Attempt%2 == 1 {
					return 0, errors.New("fails")
				}
			}
			return i, nil
		}, i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	var b strings.Builder
	for _, h := range all {
		out, err := h.Wait(t.Context())
		fmt.Fprintln(&b, h.ID(), out, err)
	}
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	for _, h := range all {
		b.Write(events[h.ID()].Bytes())
	}
	return b.String()
}

// Rule 25. Given a timeout, when the function returns at that instant, before or after
// Retryable has answered, then the events are the same.
func TestDeterminism_ReturnWhileRetryableIsAsked(t *testing.T) {
	for _, maxAbandoned := range []int{0, activity.NoOverlap} {
		t.Run(fmt.Sprintf("MaxAbandoned=%d", maxAbandoned), func(t *testing.T) {
			var seen [2][]string
			for i := range seen {
				synctest.Test(t, func(t *testing.T) {
					e := newEnv(t, activity.Config{}, nil)
					h := e.start(activity.Options{
						ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: maxAbandoned,
						RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool {
							if i == 0 {
								synctest.Wait() // until the function has returned
							}
							return true
						}},
					}, func(ctx activity.Context) error {
						if ctx.Info().Attempt == 2 {
							return ctx.Sleep(time.Second)
						}
						<-ctx.Done()
						if i == 1 {
							synctest.Wait() // until Retryable has answered
						}
						return nil
					})
					e.pass(time.Minute)
					e.end(h)
					seen[i] = e.lines("a")
				})
			}
			if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
				t.Errorf("events (-return first +answer first):\n%s", diff)
			}
		})
	}
}

// Rule 7. Given a clock that was set back to before the Runtime was made, then timeouts
// are as ever.
func TestClock_SetBackBeforeRuntimeWasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		mock.Add(time.Hour)
		e := newEnv(t, activity.Config{}, mock)
		mock.Set(mock.Now().Add(-time.Hour))
		e.base = mock.Now()
		e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return e.hang(ctx)
			}
			return ctx.Sleep(time.Second)
		})
		e.pass(10*time.Second - 1)
		e.want("a", "0s scheduled 0", "0s attempt started 1")
		e.pass(1)
		e.pass(time.Second)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s attempt started 2",
			"11s completed 2")
	})
}
