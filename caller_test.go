// Tests of a caller and its context: the end of the context at any moment, its lock,
// its type.

package activity_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// A lockedContext is a context whose values are behind a lock of its user's. The
// standard library asks for one when it lets go of a context.
type lockedContext struct {
	context.Context
	lock chan struct{} // a mutex that a bubble knows how to wait for
}

func newLockedContext(ctx context.Context) *lockedContext {
	return &lockedContext{ctx, make(chan struct{}, 1)}
}

func (c *lockedContext) Value(key any) any {
	c.lock <- struct{}{}
	defer func() { <-c.lock }()
	return c.Context.Value(key)
}

// A hookedContext has an AfterFunc of its own. To take a hook back takes a while.
type hookedContext struct {
	context.Context
	hooks atomic.Int32
}

func (c *hookedContext) AfterFunc(f func()) func() bool {
	c.hooks.Add(1)
	stop := context.AfterFunc(c.Context, f)
	return func() bool {
		time.Sleep(time.Second)
		stopped := stop()
		if stopped {
			c.hooks.Add(-1)
		}
		return stopped
	}
}

func (c *hookedContext) Value(any) any { return nil } // else the standard library finds what is below

// Rule 17. Given a caller's context, when the activity has ended or its start was
// refused, then no hook is left on the context.
func TestCaller_ContextIsReleasedAtTheEnd(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		ctx, cancel := context.WithCancel(t.Context())
		hooked := &hookedContext{Context: ctx}
		left := func(when string, want bool) {
			t.Helper()
			if n := hooked.hooks.Load(); (n > 0) != want {
				t.Errorf("%s: %d hooks are set", when, n)
			}
		}
		checkErr(t, rt.Run(hooked, activity.Options{}, noop), nil)
		left("completed", false)
		checkErr(t, rt.Run(hooked, activity.Options{RetryPolicy: once}, func(activity.Context) error { return errBoom }), errBoom)
		left("failed", false)

		busy := startWith(t, hooked, rt, activity.Options{ID: "a1"}, untilEnded)
		left("running", true)
		running := hooked.hooks.Load()
		checkErr(t, rt.Run(hooked, activity.Options{ID: "a1"}, noop), activity.ErrAlreadyRunning)
		if n := hooked.hooks.Load(); n != running {
			t.Errorf("refused: %d hooks are set, want %d", n, running)
		}
		busy.Cancel(errCancel)
		checkErr(t, wait(t, busy), errCancel)
		left("canceled", false)

		late := startWith(t, hooked, rt, activity.Options{}, untilEnded)
		cancel()
		checkErr(t, wait(t, late), context.Canceled)

		checkErr(t, rt.Shutdown(t.Context()), nil)
		hooked = &hookedContext{Context: t.Context()}
		checkErr(t, rt.Run(hooked, activity.Options{}, noop), activity.ErrShutdown)
		left("shut down", false)
	})
}

// Rule 17. Given a Run that is about to start, when its caller's context ends meanwhile,
// then Run succeeds or returns that cause, and nothing is left of the activity.
func TestCaller_ContextEndsWhileStartIsUnderWay(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet, MaxConcurrent: 1})
	for round := range 1000 {
		std, cancel := context.WithCancelCause(context.Background())
		ctx := context.Context(std)
		if round%2 == 1 {
			ctx = &struct{ context.Context }{std}
		}
		var wg sync.WaitGroup
		wg.Go(func() { cancel(errCancel) })
		if err := rt.Run(ctx, activity.Options{ID: "a1"}, noop); err != nil && !errors.Is(err, errCancel) {
			t.Fatal(err)
		}
		wg.Wait()
	}
	if s := rt.Stats(); s.Running+s.Waiting+s.Abandoned != 0 {
		t.Errorf("something is left: %+v", s)
	}
	checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a1"}, noop), nil)
}

// Rule 17. Given a Store that fails Load or Save, when a start is refused for it, then no
// hook is left on the caller's context.
func TestCaller_ContextIsReleasedWhenStoreRefusesStart(t *testing.T) {
	for _, method := range []string{"Load", "Save"} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			rt := activity.New(activity.Config{Store: s, Logger: quiet})
			s.on(method, func(context.Context) error { return errBoom })
			hooked := &hookedContext{Context: t.Context()}
			checkErr(t, rt.Run(hooked, activity.Options{ID: "a"}, noop), errBoom)
			if n := hooked.hooks.Load(); n != 0 {
				t.Errorf("%s has failed: %d hooks are set", method, n)
			}
			s.on(method, nil)
			checkErr(t, rt.Shutdown(t.Context()), nil)
		})
	}
}

// Rule 17. Given a Store whose Load calls runtime.Goexit, when a start ends so, then no
// hook is left on the caller's context.
func TestCaller_ContextIsReleasedAfterLoadGoexit(t *testing.T) {
	for _, background := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			rt := activity.New(activity.Config{Store: s, Logger: quiet})
			s.on("Load", func(context.Context) error { runtime.Goexit(); return nil })
			hooked := &hookedContext{Context: t.Context()}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if background {
					_, _ = rt.Start(hooked, activity.Options{ID: "a"}, noop)
				} else {
					_ = rt.Run(hooked, activity.Options{ID: "a"}, noop)
				}
			}()
			<-done
			if n := hooked.hooks.Load(); n != 0 {
				t.Errorf("background %v: %d hooks are set", background, n)
			}
			s.on("Load", nil)
			checkErr(t, rt.Shutdown(t.Context()), nil)
		})
	}
}

// Rule 26. Given a Run in a bubble whose context was made outside it, when the activity
// sleeps, then the bubble's time passes.
func TestRun_ContextFromOutsideTheBubble(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_ = ctx.Done() // as made by whoever derived from it before
	watchdog := time.AfterFunc(time.Minute, func() { panic("time stands still") })
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet})
		checkErr(t, rt.Run(ctx, activity.Options{HeartbeatTimeout: 2 * time.Second}, func(c activity.Context) error {
			return c.Sleep(time.Second)
		}), nil)
	})
}

// Rule 17. Given an activity in any state, when the caller's context ends, then Run and
// Execute cancel the activity at once.
func TestRun_WatchesTheCallersContext(t *testing.T) {
	for name, test := range map[string]struct {
		fn    func(ctx activity.Context) error
		opts  activity.Options
		after time.Duration // from the end of the context to Run's return
	}{
		"the function returns": {fn: untilEnded},
		"it is deaf": {fn: func(ctx activity.Context) error {
			time.Sleep(2 * time.Hour)
			return nil
		}, opts: activity.Options{CancelGrace: time.Minute}, after: time.Minute},
		"it backs off": {fn: func(activity.Context) error { return activity.RetryAfter(errBoom, 2*time.Hour) }},
		"the second attempt runs": {fn: func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return activity.RetryAfter(errBoom, time.Minute)
			}
			return untilEnded(ctx)
		}},
		"an attempt after a stall runs": {fn: func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return untilEnded(ctx)
			}
			return activity.Idle(ctx, 2*time.Hour)
		}, opts: activity.Options{HeartbeatTimeout: time.Minute}},
		"it is blocked": {fn: func(ctx activity.Context) error {
			time.Sleep(2 * time.Hour)
			return nil
		}, opts: activity.Options{HeartbeatTimeout: time.Minute, MaxAbandoned: activity.NoOverlap}},
	} {
		for kind, wrap := range map[string]func(ctx context.Context) context.Context{
			"standard": func(ctx context.Context) context.Context { return ctx },
			"values":   func(ctx context.Context) context.Context { return context.WithValue(ctx, key{}, 1) },
			"foreign":  func(ctx context.Context) context.Context { return &struct{ context.Context }{ctx} },
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(time.Hour, func() { cancel(errCancel) })
					began := time.Now()
					checkErr(t, rt.Run(wrap(ctx), test.opts, test.fn), errCancel)
					if d := time.Since(began) - time.Hour; d != test.after {
						t.Errorf("Run returned %s after the end of its context, want %s", d, test.after)
					}
					time.Sleep(3 * time.Hour) // until all functions have returned
				})
			})
		}
	}
}

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
// it is refused, and no Event reports it.
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

// Given activities that end at one instant, when one caller's context is behind a lock,
// then only that caller waits for the lock.
func TestCaller_LockedContextDelaysNoOtherCaller(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		busy := start(t, rt, activity.Options{}, untilEnded)
		locked := newLockedContext(t.Context())
		contexts := []context.Context{context.Background(), t.Context(), locked, context.Background(), t.Context()}
		var handles []*activity.Handle[string]
		for _, ctx := range contexts {
			handles = append(handles, startWith(t, ctx, rt, activity.Options{ScheduleToStartTimeout: time.Second}, noop))
		}
		locked.lock <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		for i, h := range handles {
			select {
			case <-h.Done():
			default:
				if contexts[i] != locked {
					t.Errorf("activity %d waits for the lock of another's caller", i)
				}
			}
		}
		<-locked.lock
		for i, h := range handles {
			if typ := timeoutType(wait(t, h)); typ != activity.TimeoutScheduleToStart {
				t.Errorf("activity %d ended in %s", i, typ)
			}
		}
		busy.Cancel(nil)
		<-busy.Done()
	})
}

// Given a caller's context behind a lock, when the goroutine that holds the lock calls
// the Runtime and finds a due timeout, then the call returns.
func TestCaller_MayHoldLockOfContextWhileAskingRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &pauseClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet, MaxConcurrent: 1})
		busy := start(t, rt, activity.Options{}, untilEnded)
		locked := newLockedContext(t.Context())
		h := startWith(t, locked, rt, activity.Options{ScheduleToStartTimeout: time.Second}, noop)
		locked.lock <- struct{}{}
		c.jump(time.Second) // no timer has run: who asks next finds the timeout
		asked := make(chan activity.Stats, 1)
		go func() { asked <- rt.Stats() }()
		synctest.Wait()
		select {
		case s := <-asked:
			if s.Timeouts != 1 {
				t.Errorf("%+v", s)
			}
		default:
			t.Error("Stats waits for a lock that its caller may hold")
		}
		<-locked.lock
		<-h.Done()
		busy.Cancel(nil)
		<-busy.Done()
		synctest.Wait()
	})
}

// An exitingContext is a context of the user with a Done of its own and odd methods.
type exitingContext struct {
	context.Context
	err func()
}

func (c exitingContext) Err() error { c.err(); return c.Context.Err() }

// Given a caller's context whose Err calls runtime.Goexit or panics, when the activity
// ends, then its caller is answered nevertheless.
func TestCaller_ContextWhoseErrExits(t *testing.T) {
	for name, exit := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panicHere(errBoom) }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := activity.New(activity.Config{Logger: quiet})
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				var armed atomic.Bool
				ctx := exitingContext{parent, func() {
					if armed.Swap(false) {
						exit()
					}
				}}
				h, err := rt.Start(ctx, activity.Options{}, func(activity.Context) error { armed.Store(true); return nil })
				checkErr(t, err, nil)
				synctest.Wait()
				select {
				case <-h.Done():
				default:
					t.Errorf("the function has returned, and the activity is %s", h.Status().State)
				}
			})
		})
	}
}

// The caller's context.

// A countedClock calls hook in its n-th reading.
type countedClock struct {
	clock.Clock
	left atomic.Int32
	hook func()
}

func (c *countedClock) Now() time.Time {
	if c.left.Add(-1) == 0 {
		c.hook()
	}
	return c.Clock.Now()
}

// Rule 17. Given an activity with and without a Store, when the caller's context ends at
// any moment at which the Runtime reads the clock, most of them under its lock, then the
// activity ends.
func TestCaller_ContextEndsAtEachClockReading(t *testing.T) {
	for name, store := range map[string]func() activity.Store{
		"without a Store": func() activity.Store { return nil },
		"with a Store":    func() activity.Store { return &storetest.Memory{} },
	} {
		t.Run(name, func(t *testing.T) {
			for n := int32(1); ; n++ {
				reached := false
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					c := &countedClock{Clock: clock.New(), hook: func() { reached = true; cancel() }}
					rt := activity.New(activity.Config{Clock: c, Store: store(), Logger: quiet, Observer: func(activity.Event) {}, MaxConcurrent: 1})
					opts := activity.Options{ID: "a", HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 4}}
					c.left.Store(n)
					h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ int) (string, error) {
						switch ctx.Info().Attempt {
						case 1:
							return "", untilEnded(ctx)
						case 2:
							return "", errBoom
						case 3:
							time.Sleep(2 * time.Second)
						}
						return "done", ctx.Heartbeat(1)
					}, 0)
					if err != nil {
						return
					}
					time.Sleep(time.Minute)
					select {
					case <-h.Done():
					default:
						t.Errorf("canceled at reading %d, and it does not end: %+v", n, h.Status())
					}
				})
				if !reached {
					break
				}
			}
		})
	}
}

// A shortContext ends when it is asked for its Done channel.
type shortContext struct {
	context.Context
	cancel context.CancelFunc
}

func (c shortContext) Done() <-chan struct{} {
	c.cancel()
	return c.Context.Done()
}

// Rule 17. Given a context that ends while Start takes hold of it, then the race detector
// finds nothing, and an error is that of a canceled start.
func TestCaller_ContextEndsWhileStartTakesIt(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	for range 1000 {
		ctx, cancel := context.WithCancel(context.Background())
		err := rt.Run(shortContext{ctx, cancel}, activity.Options{}, noop)
		if err != nil {
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, context.Canceled)
		}
	}
}
