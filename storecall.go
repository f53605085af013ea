package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A storeCall is a call of the Store that somebody waits for. It has a goroutine of its
// own, because it may hang for longer than anybody can wait. (The writer has a goroutine
// already, and nobody waits for that.)
type storeCall struct {
	rt      *Runtime
	method  string
	id      string // of a Load
	within  time.Duration
	ctx     context.Context
	cancel  context.CancelCauseFunc
	decided chan struct{} // closed when the call has returned, or is late

	// Guarded by Runtime.mu. Late and err are set before decided is closed, once.
	sleeper  // rings when the call is late
	over     bool
	late     bool
	err      error
	ended    bool          // the call has returned
	result   error         // how, also if that was late
	returned chan struct{} // closed when the call has returned; nil if nobody waits for that
}

var errStoreGoexit = errors.New("the Store called runtime.Goexit")

// newCallLocked returns a call that is about to start. Its alarm is set before: a Clock
// may take its time for that.
func (rt *Runtime) newCallLocked(ctx context.Context, method string, within time.Duration) *storeCall {
	c := &storeCall{rt: rt, method: method, within: within, decided: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.wake = c.lateLocked
	rt.scheduler.setSleeperLocked(&c.sleeper, rt.now.add(within))
	return c
}

// callStore starts a call of f, which calls the method.
func (rt *Runtime) callStore(ctx context.Context, method string, f func(context.Context) error) *storeCall {
	rt.enter()
	c := rt.newCallLocked(ctx, method, rt.cfg.StoreTimeout)
	rt.leave()
	go c.run(f)
	return c
}

// run is the goroutine of the call.
func (c *storeCall) run(f func(context.Context) error) {
	err := errStoreGoexit
	defer func() { // deferred for a Store that calls runtime.Goexit
		c.cancel(nil)
		c.rt.enter()
		defer c.rt.leave()
		if c.rt.writer.loads[c.id] == c {
			delete(c.rt.writer.loads, c.id)
		}
		c.ended, c.result = true, err
		if c.late && c.method == "Delete" {
			c.rt.writer.hangsLocked(false)
			c.rt.writer.recoveredLocked(false)
		}
		c.decideLocked(err)
		if c.returned != nil {
			c.rt.scheduler.closing = append(c.rt.scheduler.closing, c.returned)
		}
	}()
	err = c.rt.protectStore(c.method, func() error { return f(c.ctx) })
}

// decideLocked lets go of those that wait, if nothing has before.
func (c *storeCall) decideLocked(err error) {
	c.rt.scheduler.alarms.remove(c.place)
	if !c.over {
		c.over, c.err = true, err
		c.rt.scheduler.closing = append(c.rt.scheduler.closing, c.decided)
	}
}

// pause and proceed stop and start the clock of a call. The time that the loop's body takes
// is not the Store's.
func (c *storeCall) pause() {
	c.rt.enter()
	defer c.rt.leave()
	c.rt.scheduler.alarms.remove(c.place)
}

func (c *storeCall) proceed() {
	c.rt.enter()
	defer c.rt.leave()
	if !c.over {
		c.rt.scheduler.setSleeperLocked(&c.sleeper, c.rt.now.add(c.within))
	}
}

// lateLocked ends the call's context. The call has failed for all that wait for it.
func (c *storeCall) lateLocked() {
	c.late = true
	if c.method == "Delete" { // Forget's, which keeps the writer waiting
		c.rt.writer.hangsLocked(true)
	}
	c.decideLocked(c.rt.lateCallLocked(c.method, c.within, c.cancel))
}

// lateCallLocked ends the context of a call that is late, and returns its error.
func (rt *Runtime) lateCallLocked(method string, within time.Duration, cancel context.CancelCauseFunc) error {
	err := fmt.Errorf("Store.%s has not returned after %s: %w", method, within, context.DeadlineExceeded)
	cancel(err)
	if rt.writer.isNewsLocked(err.Error()) {
		go rt.log(slog.LevelError, "activity: the Store hangs; nothing else is written until its call returns", nil, 0, slog.Any("error", err))
	}
	return err
}

// returnedLocked returns a channel that is closed when the call has returned.
func (c *storeCall) returnedLocked() <-chan struct{} {
	if c.returned == nil {
		c.returned = make(chan struct{})
		if c.ended {
			close(c.returned)
		}
	}
	return c.returned
}

// protectStore names the method in its error, and makes a panic one.
func (rt *Runtime) protectStore(method string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p := newPanicError(v)
			rt.enter()
			news := rt.writer.isNewsLocked(method + p.Error())
			rt.leave()
			if news {
				go rt.log(slog.LevelError, "activity: Store."+method+" panicked", nil, 0, slog.Any("error", p), slog.String("stack", string(p.Stack)))
			}
			err = fmt.Errorf("Store.%s panicked: %w", method, p)
		}
	}()
	if err := f(); err != nil {
		return fmt.Errorf("Store.%s: %w", method, err)
	}
	return nil
}

// errNotTried is for those that have waited for a call that could not be made.
func (rt *Runtime) errNotTried() error {
	return fmt.Errorf("the Store was not called for %s (Config.StoreTimeout), because an earlier call has not returned: %w", rt.cfg.StoreTimeout, context.DeadlineExceeded)
}

// load returns what the Store holds of id; the State is 0 if that is nothing. It does not
// wait longer than by. While one Load of an ID has not returned, there is no other.
// Cancelable, if not nil, is called with Runtime.mu held, and gets what ends the wait.
func (rt *Runtime) load(ctx context.Context, id string, by instant, cancelable func(context.CancelCauseFunc)) (Checkpoint, error) {
	c, err := rt.loadTurn(ctx, id, by, cancelable)
	if err != nil {
		return Checkpoint{}, err
	}
	var loaded Checkpoint
	go c.run(func(ctx context.Context) error {
		cp, found, err := rt.cfg.Store.Load(ctx, id)
		if err != nil || !found {
			return err
		}
		loaded = cp
		return cp.errorIfNot(id)
	})
	<-c.decided
	if c.err != nil {
		return Checkpoint{}, c.err
	}
	return loaded, nil
}

// loadTurn waits until there is no Load of id, and returns the next one, to be started.
func (rt *Runtime) loadTurn(ctx context.Context, id string, by instant, cancelable func(context.CancelCauseFunc)) (*storeCall, error) {
	var late *waitTimer
	for {
		rt.enter()
		within := min(rt.cfg.StoreTimeout, by.since(rt.now))
		before := rt.writer.loads[id]
		if before == nil {
			defer rt.leave()
			c := rt.newCallLocked(ctx, "Load", within)
			c.id = id
			rt.writer.loads[id] = c
			if cancelable != nil {
				cancelable(c.cancel)
			}
			return c, nil
		}
		returned := before.returnedLocked()
		if late == nil {
			late = rt.newWaitTimerLocked(within)
			defer late.stop()
			var cancel context.CancelCauseFunc
			ctx, cancel = context.WithCancelCause(ctx)
			defer cancel(nil)
			if cancelable != nil {
				cancelable(cancel)
			}
		}
		rt.leave()
		select {
		case <-returned:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-late.c:
			return nil, rt.errNotTried()
		}
	}
}

// errorIfNot returns an error unless c is the checkpoint of id and makes sense.
func (c *Checkpoint) errorIfNot(id string) error {
	switch {
	case c.ID != id:
		return fmt.Errorf("returned the checkpoint of another ID (%q)", c.ID)
	case !c.valid():
		return fmt.Errorf("returned an invalid checkpoint (state %s, attempt %d, counted from %d, progressed %d)", c.State, c.Attempt, c.CountedFrom, c.Progressed)
	}
	return nil
}
