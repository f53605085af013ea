package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A storeCall is one call of a method of the Store. It has a goroutine of its own,
// because it may hang for longer than anybody can wait, and may call runtime.Goexit.
type storeCall struct {
	rt       *Runtime
	method   string
	within   time.Duration           // how long it may take
	cancel   context.CancelCauseFunc // of the context that it gets
	late     *ring                   // after within
	returned chan struct{}           // closed when it has returned
	err      error                   // how, once returned is closed
}

var errStoreGoexit = errors.New("the Store called runtime.Goexit")

// callStore calls f, which calls the method.
func (rt *Runtime) callStore(ctx context.Context, method string, f func(context.Context) error) *storeCall {
	rt.enter()
	c := rt.newCallLocked(method, rt.cfg.StoreTimeout)
	rt.leave()
	c.start(ctx, f)
	return c
}

// newCallLocked returns a call that is about to start. Its alarm is set before: a Clock
// may take its time for that.
func (rt *Runtime) newCallLocked(method string, within time.Duration) *storeCall {
	return &storeCall{rt: rt, method: method, within: within, late: rt.ringAfterLocked(within), returned: make(chan struct{}), err: errStoreGoexit}
}

func (c *storeCall) start(ctx context.Context, f func(context.Context) error) {
	ctx, c.cancel = context.WithCancelCause(ctx)
	go c.run(ctx, f)
}

// run makes a panic of the Store an error, and names the method in it.
func (c *storeCall) run(ctx context.Context, f func(context.Context) error) {
	defer close(c.returned) // deferred for a Store that calls runtime.Goexit
	defer c.cancel(nil)
	defer func() {
		if v := recover(); v != nil {
			p := newPanicError(v)
			go c.rt.log(slog.LevelError, "activity: Store."+c.method+" panicked", nil, 0, slog.Any("error", p), slog.String("stack", string(p.Stack)))
			c.err = fmt.Errorf("the Store's %s panicked: %w", c.method, p)
		}
	}()
	if c.err = f(ctx); c.err != nil {
		c.err = fmt.Errorf("the Store's %s: %w", c.method, c.err)
	}
}

// wait waits until the call has returned, and returns its error. If that takes too
// long, the call's context ends, and wait reports that it is late:
// then the call is still under way, and has failed for all that wait for it.
func (c *storeCall) wait() (err error, late bool) {
	if err := c.await(nil); err != nil {
		return err, true
	}
	return c.err, false
}

// await waits until the call has returned, or until something was received from ready.
// It returns an error if its time passes first.
func (c *storeCall) await(ready <-chan struct{}) error {
	select {
	case <-c.returned:
	case <-ready:
	case <-c.late.c:
	}
	if !c.late.stop() {
		return nil
	}
	err := fmt.Errorf("the Store's %s has not returned after %s: %w", c.method, c.within, context.DeadlineExceeded)
	c.cancel(err)
	go c.rt.log(slog.LevelError, "activity: the Store hangs; until its call has returned, nothing else is written", nil, 0, slog.Any("error", err))
	return err
}

// errNotTried is for those that have waited for a call that could not be made.
func (rt *Runtime) errNotTried() error {
	return fmt.Errorf("the Store was not tried for %s (Config.StoreTimeout), because an earlier call has not returned: %w", rt.cfg.StoreTimeout, context.DeadlineExceeded)
}

// A ring is a channel that is closed at an instant.
type ring struct {
	rt   *Runtime
	c    chan struct{}
	rang bool // guarded by Runtime.mu
	sleeper
}

// ringAfter returns a ring that is closed after d.
func (rt *Runtime) ringAfter(d time.Duration) *ring {
	rt.enter()
	defer rt.leave()
	return rt.ringAfterLocked(d)
}

func (rt *Runtime) ringAfterLocked(d time.Duration) *ring {
	r := &ring{rt: rt, c: make(chan struct{})}
	r.wake = func() {
		r.rang = true
		rt.scheduler.closing = append(rt.scheduler.closing, r.c)
	}
	rt.scheduler.setSleeperLocked(&r.sleeper, rt.now.add(d))
	return r
}

// stop is called by who waits no longer. It reports whether the ring was closed, also if
// something else happened at that instant.
func (r *ring) stop() bool {
	r.rt.enter()
	defer r.rt.leave()
	r.rt.scheduler.alarms.remove(r.place)
	return r.rang
}

// errorIfNot returns an error unless c is the checkpoint of id and makes sense.
func (c *Checkpoint) errorIfNot(id string) error {
	switch {
	case c.ID != id:
		return fmt.Errorf("it has given the checkpoint of another ID: %q", c.ID)
	case !c.sound():
		return fmt.Errorf("its checkpoint makes no sense: %s, attempt %d, counted from %d, progressed %d", c.State, c.Attempt, c.CountedFrom, c.Progressed)
	}
	return nil
}

// load returns what the Store holds of id; the State is 0 if that is nothing. It takes
// no longer than within. While one Load of an ID has not returned, there is no other.
func (rt *Runtime) load(ctx context.Context, id string, within time.Duration) (Checkpoint, error) {
	c, err := rt.loadTurn(ctx, id, within)
	if err != nil {
		return Checkpoint{}, err
	}
	var loaded Checkpoint
	c.start(ctx, func(ctx context.Context) error {
		defer func() {
			rt.enter()
			delete(rt.writer.loads, id)
			rt.leave()
		}()
		cp, found, err := rt.cfg.Store.Load(ctx, id)
		if err != nil || !found {
			return err
		}
		loaded = cp
		return cp.errorIfNot(id)
	})
	if err, _ := c.wait(); err != nil {
		return Checkpoint{}, err
	}
	return loaded, nil
}

// loadTurn waits until there is no Load of id, and returns the next one.
func (rt *Runtime) loadTurn(ctx context.Context, id string, within time.Duration) (*storeCall, error) {
	var late *ring
	for {
		rt.enter()
		before := rt.writer.loads[id]
		if before == nil {
			defer rt.leave()
			c := rt.newCallLocked("Load", within)
			rt.writer.loads[id] = c
			return c, nil
		}
		rt.leave()
		if late == nil {
			late = rt.ringAfter(within)
			defer late.stop()
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx) // one from outside a bubble would block it
			defer cancel()
		}
		select {
		case <-before.returned:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-late.c:
			return nil, rt.errNotTried()
		}
	}
}
