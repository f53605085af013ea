package activity_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

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
				// The runtime reads the clock before it sets its timer. Whoever waits is quick.
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
