package activity

import (
	"context"
	"fmt"
)

// aliveLocked returns the activity with this ID that has not ended, or an error that
// wraps [ErrNotFound].
func (rt *Runtime) aliveLocked(id string) (*activity, error) {
	if a := rt.findLocked(id); a != nil && a.next != nil { // it is in Runtime.ring
		return a, nil
	}
	return nil, fmt.Errorf("activity %q: %w", id, ErrNotFound)
}

// Lookup describes the activity with this ID. It reports false if no such activity runs:
// what is only stored is in [Runtime.Checkpoints]. An activity whose outcome is decided and
// still being saved is found, in its final State.
func (rt *Runtime) Lookup(id string) (Status, bool) {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil {
		return Status{}, false
	}
	return a.statusLocked(), true
}

// Cancel cancels the activity with this ID as [Handle.Cancel] does: it stays canceled, also
// over a restart. If no such activity runs, Cancel returns [ErrNotFound]. While the Store has not
// taken the start of the activity, Cancel returns an error, because the start may still be
// refused. A checkpoint that is only stored is deleted by [Runtime.Forget].
func (rt *Runtime) Cancel(id string, cause error) error {
	if cause == nil {
		cause = context.Canceled
	}
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	switch {
	case err != nil:
		return err
	case a.rec != nil && !a.rec.start.accepted: // it would be refused, and its checkpoint would stay
		return fmt.Errorf("%s: not canceled: %w", a, errStarting)
	}
	a.cancelOnPurposeLocked(cause)
	return nil
}

// cancelOnPurposeLocked cancels an activity by [Handle.Cancel] or [Runtime.Cancel].
func (a *activity) cancelOnPurposeLocked(cause error) {
	if !a.checkParentLocked() && a.cancelCause == nil {
		a.onPurpose = true
		a.cancelLocked(cause)
	}
}

// RetryNow ends the backoff of the activity with this ID: its next attempt starts as soon
// as there is a slot. If no such activity runs, RetryNow returns [ErrNotFound]. If it is
// not backing off, the error names its State.
func (rt *Runtime) RetryNow(id string) error {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil {
		return err
	}
	if !a.checkParentLocked() && a.phase == phaseBackingOff {
		a.due = rt.now
		a.proceedLocked()
		if a.rec != nil {
			a.rec.start.dropFoundLocked()
			a.rec.saveSoonLocked(rt)
		}
		return nil
	}
	return fmt.Errorf("%s: no backoff to end: the activity is %s", a, a.stateLocked())
}

// Stack returns the stack of the function that the activity with this ID runs right now, as
// runtime.Stack prints it. If that waits in [RangeParallel], the stacks of the bodies come first. It dumps the stacks of all goroutines, which stops the program
// for some 4 us for each. So dumps take at most a twentieth of the time, and none is taken of
// more than 4,000 goroutines: the error then says so. If no such activity runs, Stack returns
// [ErrNotFound]. If no attempt of it runs, the error names its State.
func (rt *Runtime) Stack(id string) ([]byte, error) {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil {
		return nil, err
	}
	if a.phase != phaseRunning && a.phase != phasePausing && a.phase != phaseCanceling {
		return nil, fmt.Errorf("%s: no attempt to take the stack of: the activity is %s", a, a.stateLocked())
	}
	stack, none := rt.dumpStacks().of(a.latest)
	if stack == nil {
		return nil, fmt.Errorf("%s: no stack: %s", a, none)
	}
	return stack, nil
}

// Handle returns a Handle of the activity with this ID, which [Runtime.Recover] or another
// part of the program has started. It reports false if no such activity runs, or if it is
// another Definition's: its name, In and Out must be the same.
func (d *Definition[In, Out]) Handle(rt *Runtime, id string) (*Handle[Out], bool) {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil || a.rec != nil && !a.rec.start.accepted { // its start may still be refused
		return nil, false
	}
	if _, same := a.body.(*call[In, Out]); !same || a.name() != d.Name {
		return nil, false
	}
	return &Handle[Out]{a}, true
}
