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

	"github.com/seed-9da638b0/activity"
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

// Rule 19. Given a caller that cannot be answered yet, when Shutdown waits, then it
// returns only after that caller has its answer.
func TestShutdown_ReturnsAfterCallersAreAnswered(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	locked := newLockedContext(t.Context())
	h := startWith(t, locked, rt, activity.Options{}, untilEnded)
	locked.lock <- struct{}{}
	down := make(chan struct{})
	go func() {
		defer close(down)
		checkErr(t, rt.Shutdown(context.Background()), nil)
		select {
		case <-h.Done():
		default:
			t.Error("it has returned before the answer")
		}
	}()
	for h.Status().State != activity.StateCanceled {
		runtime.Gosched()
	}
	for range 100_000 { // time for it to return too early
		runtime.Gosched()
	}
	<-locked.lock
	<-down
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

// Given many goroutines that wait on one Handle, when the activity ends, then Done is one
// channel for all of them, whether asked for before the end or after it.
func TestHandle_ManyWaiters(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		var n atomic.Int32
		for range 10 {
			go func() { <-h.Done(); n.Add(1) }()
			go func() { checkErr(t, wait(t, h), nil); n.Add(1) }()
			go func() { _, _ = h.Wait(context.Background()); n.Add(1) }()
		}
		e.pass(time.Second - 1)
		before := h.Done()
		if n := n.Load(); n != 0 {
			t.Errorf("%d have an answer before there is one", n)
		}
		e.pass(1)
		if n := n.Load(); n != 30 {
			t.Errorf("%d of 30 have their answer", n)
		}
		if h.Done() != before {
			t.Error("another channel after the end")
		}
	})
}

// Rule 17. Given an attempt that a timeout, its caller and a Handle end at once, then
// everything that reports the cause reports the same one.
func TestCancel_OneCauseForAllObservers(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		rt := activity.New(activity.Config{Logger: quiet})
		ctx, cancel := context.WithCancelCause(context.Background())
		begun := make(chan activity.Context, 1)
		h := startWith(t, ctx, rt, activity.Options{StartToCloseTimeout: time.Millisecond, RetryPolicy: once}, func(c activity.Context) error {
			begun <- c
			switch round % 3 {
			case 1:
				for c.Heartbeat() == nil {
					runtime.Gosched()
				}
			case 2:
				<-c.Done()
			}
			return nil
		})
		var c activity.Context
		select {
		case c = <-begun:
		case <-h.Done(): // on a machine so slow that the timeout came before the function
			cancel(nil)
			continue
		}
		var mu sync.Mutex
		seen := map[error]bool{}
		note := func(all ...error) {
			mu.Lock()
			defer mu.Unlock()
			for _, err := range all {
				seen[err] = true
			}
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { <-c.Done(); note(context.Cause(c), c.Heartbeat()) })
			wg.Go(func() {
				var err error
				for err == nil {
					runtime.Gosched()
					err = c.Heartbeat()
				}
				if c.Err() == nil {
					t.Error("a heartbeat knows of an end, and Err does not")
				}
				note(err, context.Cause(c))
			})
			wg.Go(func() {
				for c.Err() == nil {
					runtime.Gosched()
				}
				note(context.Cause(c), c.Sleep(time.Hour), activity.Guard(c, never))
			})
			wg.Go(func() { note(c.Sleep(time.Hour)) })
		}
		wg.Go(func() { cancel(errBoom) })
		wg.Go(func() { h.Cancel(errCancel) })
		wg.Go(func() { checkErr(t, rt.Shutdown(context.Background()), nil) })
		wg.Wait()
		if len(seen) != 1 {
			t.Fatalf("round %d: the causes are %v", round, seen)
		}
		_, _ = h.Wait(context.Background())
		cancel(nil)
	}
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
