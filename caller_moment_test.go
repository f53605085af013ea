// The caller's context ends at the moment at which the Runtime is about to act, and
// the Runtime has not been told yet: it must look itself.

package activity_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// An armedClock calls what it is armed with, once, at its next reading. The Runtime
// reads its clock when it has locked itself: who wants to tell it of an end that
// comes then has to wait until it has acted.
type armedClock struct {
	clock.Clock
	armed atomic.Pointer[func()]
}

func (c *armedClock) arm(f func()) { c.armed.Store(&f) }

func (c *armedClock) Now() time.Time {
	if f := c.armed.Swap(nil); f != nil {
		(*f)()
	}
	return c.Clock.Now()
}

// A moment is a test in which the caller's context ends at one.
type moment struct {
	*env
	store *faultyStore
	clock *armedClock
	ctx   context.Context
	end   func() // ends ctx
}

// atMoment runs test in a bubble, with a Store if durable.
func atMoment(t *testing.T, cfg activity.Config, durable bool, test func(t *testing.T, m *moment)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		c := &armedClock{Clock: clock.New()}
		m := &moment{clock: c, ctx: ctx, end: func() { cancel(errCancel) }}
		cfg.Clock = c
		if durable {
			m.store = newStore(t)
			m.env = storeEnv(t, cfg, nil, m.store)
		} else {
			m.env = newEnv(t, cfg, nil)
		}
		test(t, m)
		if c.armed.Load() != nil {
			t.Error("the clock was not read, and the caller's context did not end")
		}
	})
}

func (m *moment) start(opts activity.Options, fn func(activity.Context) error) *activity.Handle[string] {
	m.t.Helper()
	opts.ID, opts.Name = "a", "job"
	h := startWith(m.t, m.ctx, m.rt, opts, fn)
	synctest.Wait()
	return h
}

// wantCanceled checks the events, and that the activity was canceled after so many
// attempts.
func (m *moment) wantCanceled(h *activity.Handle[string], attempts int, events ...string) {
	m.t.Helper()
	synctest.Wait()
	checkEnd(m.t, m.env.end(h), attempts, activity.RetryStateCancelRequested, errCancel)
	m.want("a", events...)
}

// Rule 17. Given an attempt whose start is being saved, when the caller's context ends as
// the Store has it, then the function does not run.
func TestCallerMoment_StartIsSaved(t *testing.T) {
	t.Run("first attempt", func(t *testing.T) {
		atMoment(t, activity.Config{}, true, func(t *testing.T, m *moment) {
			m.store.on("Save", func(context.Context) error { m.store.on("Save", nil); m.clock.arm(m.end); return nil })
			_, err := m.rt.Start(m.ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, errCancel)
			m.want("a")
			synctest.Wait()
			m.store.want(activity.Checkpoint{ID: "a"})
		})
	})
	t.Run("retry", func(t *testing.T) {
		atMoment(t, activity.Config{}, true, func(t *testing.T, m *moment) {
			h := m.start(activity.Options{}, func(ctx activity.Context) error {
				if ctx.Info().Attempt > 1 {
					t.Error("it runs again")
				}
				return errBoom
			})
			m.pass(time.Second - 1) // the failure is saved
			m.store.on("Save", func(context.Context) error { m.store.on("Save", nil); m.clock.arm(m.end); return nil })
			m.pass(1)
			m.wantCanceled(h, 1,
				"0s scheduled 0",
				"0s attempt started 1",
				"0s attempt failed 1: boom, next in 1s",
				"1s canceled 1")
		})
	})
}

// Rule 17. Given a checkpoint that is being loaded, when the caller's context ends as the
// Store has given it, then the start is refused.
func TestCallerMoment_CheckpointIsLoaded(t *testing.T) {
	atMoment(t, activity.Config{}, true, func(t *testing.T, m *moment) {
		m.store.on("Load", func(context.Context) error { m.clock.arm(m.end); return nil })
		_, err := m.rt.Start(m.ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
		checkEnd(t, err, 0, activity.RetryStateCancelRequested, errCancel)
		m.store.want(activity.Checkpoint{ID: "a"})
	})
}

// Rule 17. Given a start, when the caller's context ends as the Runtime takes it in, then
// it is refused, and nothing is told of it.
func TestCallerMoment_Start(t *testing.T) {
	for _, durable := range []bool{false, true} {
		atMoment(t, activity.Config{}, durable, func(t *testing.T, m *moment) {
			m.clock.arm(m.end)
			_, err := m.rt.Start(m.ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, errCancel)
			synctest.Wait()
			m.want("a")
		})
	}
}

// Rule 17. Given a failure that is about to be judged, when the caller's context ends as
// Retryable has answered, then the activity is canceled, and has not failed.
func TestCallerMoment_RetryableHasAnswered(t *testing.T) {
	for name, policy := range map[string]activity.RetryPolicy{
		"retry":           {MaximumAttempts: 5},
		"last attempt":    {MaximumAttempts: 1},
		"not retryable":   {MaximumAttempts: 5, InitialInterval: -1},
		"at once, please": {MaximumAttempts: 5, InitialInterval: 1},
	} {
		t.Run(name, func(t *testing.T) {
			atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
				retryable := policy.InitialInterval >= 0
				policy.InitialInterval = max(policy.InitialInterval, 0)
				policy.Retryable = func(error) bool { m.clock.arm(m.end); return retryable }
				h := m.start(activity.Options{RetryPolicy: policy}, func(activity.Context) error { return errBoom })
				m.wantCanceled(h, 1,
					"0s scheduled 0",
					"0s attempt started 1",
					"0s attempt failed 1: boom, next in 0s",
					"0s canceled 1")
				checkErr(t, wait(t, h), errBoom)
			})
		})
	}
}

// Rule 18. Given an activity that waits, when the caller's context ends as the alarm
// rings that ends the wait, then it is canceled: it neither fails nor gets its next
// attempt.
func TestCallerMoment_AlarmRings(t *testing.T) {
	t.Run("backoff", func(t *testing.T) {
		atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
			h := m.start(activity.Options{}, func(activity.Context) error { return errBoom })
			m.clock.arm(m.end)
			m.pass(time.Second)
			m.wantCanceled(h, 1,
				"0s scheduled 0",
				"0s attempt started 1",
				"0s attempt failed 1: boom, next in 1s",
				"1s canceled 1")
		})
	})
	t.Run("schedule-to-start", func(t *testing.T) {
		atMoment(t, activity.Config{MaxConcurrent: 1}, false, func(t *testing.T, m *moment) {
			m.env.start(activity.Options{}, m.hang)
			h := m.start(activity.Options{ScheduleToStartTimeout: time.Second}, noop)
			m.clock.arm(m.end)
			m.pass(time.Second)
			m.wantCanceled(h, 0, "0s scheduled 0", "1s canceled 0")
			if n := m.rt.Stats().Timeouts; n != 0 {
				t.Errorf("%d timeouts are counted", n)
			}
		})
	})
	t.Run("schedule-to-close", func(t *testing.T) {
		atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
			h := m.start(activity.Options{HeartbeatTimeout: time.Second, ScheduleToCloseTimeout: 5 * time.Second, MaxAbandoned: activity.NoOverlap}, m.hang)
			m.pass(time.Second)
			checkState(t, h, activity.StateBlocked)
			m.pass(2 * time.Second) // it has been logged
			m.clock.arm(m.end)
			m.pass(2 * time.Second)
			m.wantCanceled(h, 1,
				"0s scheduled 0",
				"0s attempt started 1",
				"1s attempt failed 1: heartbeat timeout, next in 0s",
				"1s abandoned 1",
				"1s blocked 1",
				"5s canceled 1")
		})
	})
	t.Run("heartbeat timeout", func(t *testing.T) {
		atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
			h := m.start(activity.Options{HeartbeatTimeout: time.Second}, untilEnded)
			m.clock.arm(m.end)
			m.pass(time.Second)
			m.wantCanceled(h, 1, "0s scheduled 0", "0s attempt started 1", "1s canceled 1")
		})
	})
	t.Run("heartbeat timeout, while its stack is taken", func(t *testing.T) {
		atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
			h := m.start(activity.Options{HeartbeatTimeout: time.Second}, untilEnded)
			m.clock.arm(func() { m.clock.arm(m.end) }) // the second reading is the stack's
			m.pass(time.Second)
			m.wantCanceled(h, 1, "0s scheduled 0", "0s attempt started 1", "1s canceled 1")
		})
	})
}

// Rule 18. Given an activity whose next attempt is blocked, when the caller's context
// ends as what blocks it is over, then no attempt starts.
func TestCallerMoment_BlockIsOver(t *testing.T) {
	for _, how := range []string{"the function returns", "Guard returns"} {
		t.Run(how, func(t *testing.T) {
			atMoment(t, activity.Config{}, false, func(t *testing.T, m *moment) {
				opts := activity.Options{HeartbeatTimeout: time.Second}
				if how == "the function returns" {
					opts.MaxAbandoned = activity.NoOverlap
				}
				h := m.start(opts, func(ctx activity.Context) error {
					if ctx.Info().Attempt > 1 {
						t.Error("it runs again")
						return nil
					}
					hang := func() error {
						<-m.gate("hang")
						m.clock.arm(m.end)
						return nil
					}
					if how == "the function returns" {
						return hang()
					}
					_ = activity.Guard(ctx, hang)
					<-m.gate("return")
					return nil
				})
				m.pass(2 * time.Second)
				checkState(t, h, activity.StateBlocked)
				m.open("hang")
				m.open("return")
				checkEnd(t, m.env.end(h), 1, activity.RetryStateCancelRequested, errCancel)
				if n := len(m.of(activity.EventAttemptStarted)); n != 1 {
					t.Errorf("%d attempts have started", n)
				}
			})
		})
	}
}

// Rule 18. Given an activity that waits for a slot, when its caller's context ends as one
// gets free, then it is canceled, and the slot is the next one's.
func TestCallerMoment_SlotGetsFree(t *testing.T) {
	atMoment(t, activity.Config{MaxConcurrent: 1}, false, func(t *testing.T, m *moment) {
		m.env.start(activity.Options{}, func(activity.Context) error {
			<-m.gate("slot")
			m.clock.arm(m.end)
			return nil
		})
		h := m.start(activity.Options{}, func(activity.Context) error { t.Error("it runs"); return nil })
		next := m.env.start(activity.Options{ID: "b"}, noop)
		m.open("slot")
		m.wantCanceled(h, 0, "0s scheduled 0", "0s canceled 0")
		checkErr(t, m.env.end(next), nil)
	})
}

// Rule 17. Given a running activity, when its caller's context ends just before
// Handle.Cancel acts, then that is the cause, and the checkpoint is that of an
// interruption.
func TestCallerMoment_HandleIsCanceled(t *testing.T) {
	atMoment(t, activity.Config{}, true, func(t *testing.T, m *moment) {
		h := m.start(activity.Options{}, untilEnded)
		m.clock.arm(m.end)
		h.Cancel(errBoom)
		m.wantCanceled(h, 1, "0s scheduled 0", "0s attempt started 1", "0s canceled 1")
		if got := m.store.get("a").State; got != activity.CheckpointInterrupted {
			t.Errorf("the checkpoint's state is %s", got)
		}
	})
}

// A contextThatLags says that it has ended before its Done channel is closed.
type contextThatLags struct {
	*cancelOwn
	hasEnded atomic.Bool
}

func (c *contextThatLags) Err() error {
	if c.hasEnded.Load() {
		return errCancel
	}
	return c.cancelOwn.Err()
}

// Rule 17. Given an attempt whose deadline is reached and whose timer has not run, when
// its function returns because the caller's context has ended, then the activity is
// canceled, although the Runtime learns of both in that moment.
func TestCallerMoment_FunctionReturnsAtItsDeadline(t *testing.T) {
	for name, opts := range map[string]activity.Options{
		"heartbeat":      {HeartbeatTimeout: time.Second},
		"start-to-close": {StartToCloseTimeout: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &pauseClock{Mock: clock.NewMock()}
				e := newEnv(t, activity.Config{Clock: c}, c.Mock)
				caller := &contextThatLags{cancelOwn: cancelNewOwn(t.Context())}
				opts.ID = "a"
				h := startWith(t, caller, e.rt, opts, func(ctx activity.Context) error {
					synctest.Wait() // for Start to have set its timer
					c.jump(time.Second)
					caller.hasEnded.Store(true)
					return errBoom
				})
				checkEnd(t, wait(t, h), 1, activity.RetryStateCancelRequested, errCancel, errBoom)
				e.want("a", "0s scheduled 0", "0s attempt started 1", "1s canceled 1")
				caller.cancel()
				synctest.Wait()
			})
		})
	}
}
