package activity

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/seed-9da638b0/activity/internal/ctxchain"
)

// Drain lets the program stop between two steps. It refuses new activities, and asks every
// attempt to stop at its next safe point: Heartbeat (which records first), Sleep, [Idle],
// [Range] and [RangeParallel] before a body, [Guard] before it begins, and the Read of a
// [Reader] return [ErrShutdown]. A Sleep in progress returns at once. The attempt's Context
// does not end, so that the step in progress can finish.
//
// A context from [context.WithoutCancel] is not asked. If a goroutine sends heartbeats beside a
// long step, let it use such a context, with [FromContext]: otherwise its heartbeat is asked,
// and the function counts as stopped although the step has finished.
//
// If a function that was asked returns an error, the activity is canceled, with that error
// beside ErrShutdown, and the attempt does not count. An error that wraps ErrShutdown, such as
// that of an inner activity, means that the function was asked. If the function returns nil,
// the activity is canceled too, unless only Heartbeat has asked it: then it has completed. If a
// function fails or stalls before it is asked, there is no other attempt, but its attempt
// counts. Waiting activities are canceled at once. With a Config.Store, all of them are stored
// as interrupted, so that [Runtime.Recover] continues them.
//
// Drain returns nil when all activities have ended. If ctx ends first, Drain returns an error
// that says how many have not ended, names some of them, and wraps ctx's cause. A program
// usually ends with Drain, with a deadline, and then with [Runtime.Shutdown], which cancels
// the rest. An activity must not call Drain and wait.
func (rt *Runtime) Drain(ctx context.Context) error {
	rt.enter()
	rt.shutdown.begun = true
	rt.drain.beginLocked()
	for a := range rt.allLocked() {
		a.drainLocked()
	}
	idle := rt.shutdown.idleLocked()
	rt.leave()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
	}
	rt.enter()
	left, ids := rt.shutdown.open, rt.openLocked()
	rt.leave()
	if left == 0 {
		return nil
	}
	return fmt.Errorf("activity: drain: %s not ended: %w", count(left, ids), context.Cause(ctx))
}

// drain is the state of Runtime.Drain.
type drain struct {
	begun  atomic.Bool
	signal chan struct{} // closed when it begins
}

func (d *drain) beginLocked() {
	if !d.begun.Swap(true) {
		close(d.signal)
	}
}

// drainLocked cancels an activity that waits. It leaves a running attempt to its next safe
// point, but has the Store note that it is to be interrupted: a kill meanwhile is no crash.
func (a *activity) drainLocked() {
	switch a.phase {
	case phaseRunning:
		if a.rec != nil {
			a.rec.saveLocked(a.rt, nil)
		}
	case phasePausing, phaseCanceling, phaseSavingEnd, phaseEnded:
	default:
		a.cancelLocked(ErrShutdown)
	}
}

// asked reports whether the function is to stop at a safe point that uses ctx.
func (t *attempt) asked(ctx context.Context) bool {
	return t.a.rt.drain.begun.Load() && ctxchain.EndsWithAttempt(ctx)
}

// An askedError is what a heartbeat returns in a drain if its details were not recorded, or not
// saved. If they were, it returns ErrShutdown.
type askedError struct{ failed error }

func (e *askedError) Error() string   { return ErrShutdown.Error() + "; " + e.failed.Error() }
func (e *askedError) Unwrap() []error { return []error{ErrShutdown, e.failed} }

// asks reports whether the error of a heartbeat asks the function to stop, and returns what else
// it says.
func asks(err error) (asked bool, failed error) {
	if err == ErrShutdown {
		return true, nil
	}
	if e, ok := err.(*askedError); ok {
		return true, e.failed
	}
	return false, err
}

// swallowed notes that the function does not see that one heartbeat has asked it.
func swallowed(ctx Context) {
	if t := attemptOf(ctx); t != nil {
		t.a.mu.Lock()
		t.beatsTold = max(0, t.beatsTold-1) // another heartbeat may have told it
		t.a.mu.Unlock()
	} else if e, ok := engineOf(ctx).(ctxchain.Unseen); ok {
		e.Unseen()
	}
}

// stopped returns what a safe point that uses ctx returns to the function: the cause if ctx
// has ended, ErrShutdown if the Runtime drains, else nil. Another engine says that in its Sleep.
func stopped(ctx Context) error {
	if err := ended(ctx); err != nil { // also if only a context derived from the attempt's has ended
		return noteCause(ctx, err)
	}
	if t := attemptOf(ctx); t != nil {
		return t.noteCause(t.drained(ctx))
	}
	return ctx.Sleep(0)
}

// isAsked reports whether ctx has not ended, and its safe points return ErrShutdown.
func isAsked(ctx Context) bool {
	if t := attemptOf(ctx); t != nil {
		return t.asked(ctx)
	}
	return ctx.Err() == nil && ctx.Sleep(0) == ErrShutdown
}

// drained returns what a safe point returns because the Runtime drains, or nil. A timeout
// that is due at this instant comes first.
func (t *attempt) drained(ctx context.Context) error {
	if !t.asked(ctx) {
		return nil
	}
	t.a.rt.enter()
	t.a.rt.leave()
	if err := ended(ctx); err != nil {
		return err
	}
	return ErrShutdown
}
