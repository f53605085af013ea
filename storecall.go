package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Calls of the Store may hang. Each of them gets a context that ends after
// Config.StoreTimeout. A call that has not returned by then is late: it has failed for
// everyone who waits for it, even if it succeeds later. A Store may ignore its context, so
// nothing relies on the return of a late call.
//
// This file has the calls of Load, All and, for Forget, Delete. The calls of the writer are
// in batch.go.

// A storeCall is a call of the Store in a goroutine of its own, so that the caller need
// not wait for longer than Config.StoreTimeout. The writer needs no storeCall, since
// nobody waits for its goroutine.
type storeCall struct {
	rt      *Runtime
	method  string                  // name of the Store's method
	id      string                  // ID to load; empty if the method is not Load
	within  time.Duration           // time after which the call is late
	ctx     context.Context         // passed to the Store; ends when the call is late
	cancel  context.CancelCauseFunc // of ctx
	decided chan struct{}           // closed when the call has returned or is late, whichever comes first

	// Guarded by Runtime.mu. late and err do not change once decided is closed.
	sleeper                // alarm for the moment when the call is late
	over     bool          // set once, when decided is about to be closed
	late     bool          // set once, when the call is late
	err      error         // result for those who wait; set once, with over
	ended    bool          // set once, when the call has returned
	result   error         // error of the call itself, even if it was late; set once, with ended
	returned chan struct{} // closed when the call has returned; nil if nobody waits for that
}

// errStoreGoexit is the error of a call that has neither returned nor panicked.
var errStoreGoexit = errors.New("the Store called runtime.Goexit")

// newCallLocked returns a call that is about to start. Its alarm is already set, so that a
// Mock clock that advances during the call makes it late.
func (rt *Runtime) newCallLocked(ctx context.Context, method string, within time.Duration) *storeCall {
	c := &storeCall{rt: rt, method: method, within: within, decided: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.wake = c.lateLocked
	rt.scheduler.setSleeperLocked(&c.sleeper, rt.now.add(within))
	return c
}

// callStore starts a call of f, which must call the Store's method with that name.
func (rt *Runtime) callStore(ctx context.Context, method string, f func(context.Context) error) *storeCall {
	rt.enter()
	c := rt.newCallLocked(ctx, method, rt.cfg.StoreTimeout)
	rt.leave()
	go c.run(f)
	return c
}

// run is the goroutine of the call.
func (c *storeCall) run(f func(context.Context) error) {
	// Deferred, and with this error, in case the Store calls runtime.Goexit.
	err := errStoreGoexit
	defer func() {
		c.cancel(nil)
		c.rt.enter()
		defer c.rt.leave()
		if c.rt.writer.loads[c.id] == c {
			delete(c.rt.writer.loads, c.id)
		}
		c.ended, c.result = true, err
		if c.late && c.method == "Delete" { // undoes what lateLocked did
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

// decideLocked gives err to those who wait for the call, unless they have a result
// already.
func (c *storeCall) decideLocked(err error) {
	c.rt.scheduler.alarms.remove(c.place)
	if !c.over {
		c.over, c.err = true, err
		c.rt.scheduler.closing = append(c.rt.scheduler.closing, c.decided)
	}
}

// pause stops the time limit of a call of All while the body of the loop over its
// checkpoints runs, because that time is not the Store's.
func (c *storeCall) pause() {
	c.rt.enter()
	defer c.rt.leave()
	c.rt.scheduler.alarms.remove(c.place)
}

// proceed restarts the time limit after pause, from zero.
func (c *storeCall) proceed() {
	c.rt.enter()
	defer c.rt.leave()
	if !c.over {
		c.rt.scheduler.setSleeperLocked(&c.sleeper, c.rt.now.add(c.within))
	}
}

// lateLocked is called when the call is late. It ends the call's context, and gives an
// error to those who wait.
func (c *storeCall) lateLocked() {
	c.late = true
	// A Delete is Forget's, which holds writer.turn until the call returns. So the
	// writer's own waiters must not wait forever either.
	if c.method == "Delete" {
		c.rt.writer.hangsLocked(true)
	}
	c.decideLocked(c.rt.lateCallLocked(c.method, c.within, c.cancel))
}

// lateCallLocked ends the context of a late call, logs it, and returns its error.
func (rt *Runtime) lateCallLocked(method string, within time.Duration, cancel context.CancelCauseFunc) error {
	err := fmt.Errorf("a call of Store.%s has not returned after %s: %w", method, within, context.DeadlineExceeded)
	cancel(err)
	if rt.writer.isNewsLocked(err.Error()) {
		msg := "activity: the Store hangs"
		if method == "Save" || method == "Delete" {
			msg += "; nothing else is written until its call returns"
		}
		go rt.log(slog.LevelError, msg, nil, 0, slog.Any("error", err))
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

// protectStore calls f, which calls the Store's method with that name. It adds the name to
// the error, and turns a panic into an error.
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
			err = fmt.Errorf("a call of Store.%s panicked: %w", method, p)
		}
	}()
	if err := f(); err != nil {
		return fmt.Errorf("calling Store.%s: %w", method, err)
	}
	return nil
}

// errNotTried returns the error for those who have waited for Config.StoreTimeout while an
// earlier call hung, so that theirs was not made.
func (rt *Runtime) errNotTried() error {
	return fmt.Errorf("the Store was not called for %s (Config.StoreTimeout), because an earlier call has not returned: %w", rt.cfg.StoreTimeout, context.DeadlineExceeded)
}

// mayHold reports whether the Store may have a checkpoint of id. It calls the Store, so no
// lock may be held.
func (rt *Runtime) mayHold(id string) bool {
	may := true
	if f := rt.writer.mayHold; f != nil {
		rt.protect(nil, "Store.MayHold", func() { may = f(id) })
	}
	return may
}

// load returns the Store's checkpoint of id, or one whose State is 0 if there is none. It
// waits until by at the latest. At most one Load of an ID is in flight (rule 24). If
// cancelable is not nil, it is called, with Runtime.mu held, with a function that ends the
// wait.
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

// loadTurn waits until no Load of id is in flight, registers the next one, and returns it
// for the caller to start. cancelable may be called twice: once for the wait and once for
// the Load itself.
func (rt *Runtime) loadTurn(ctx context.Context, id string, by instant, cancelable func(context.CancelCauseFunc)) (*storeCall, error) {
	var late *waitTimer
	waiting := ctx // ends the wait; the Load itself gets ctx, because waiting ends with this call
	for {
		rt.enter()
		within := min(rt.cfg.StoreTimeout, by.since(rt.now))
		before := rt.writer.loads[id]
		if before == nil {
			defer rt.leave()
			if err := ended(waiting); err != nil { // at the instant at which the other Load has returned
				return nil, err
			}
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
			waiting, cancel = context.WithCancelCause(ctx)
			defer cancel(nil)
			if cancelable != nil {
				cancelable(cancel)
			}
		}
		rt.leave()
		select {
		case <-returned:
		case <-waiting.Done():
			return nil, context.Cause(waiting)
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
