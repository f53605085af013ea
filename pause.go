package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Pause stops the activity with this ID until [Runtime.Unpause], without ending it. Its
// callers keep waiting, and its schedule-to-close timeout keeps running.
//
// If an attempt runs, its Context ends with [ErrPaused] as the cause. When the function
// returns, the activity is in StatePaused and its slot is free. If it does not return within
// Options.CancelGrace, it is abandoned. The attempt does not count, and the next one reuses its
// number. As after a cancellation, a function that returns nil has completed, unless Sleep,
// [Idle], [Range], [RangeParallel], [Guard] or a [Reader] had returned ErrPaused to it. If the
// activity is waiting for a slot, backing off or blocked, it is paused at once. The rest of a
// backoff is dropped.
//
// With a Config.Store and an Options.ID, a pause survives a restart. It is given to the Store at
// once, but Pause does not wait until it is saved. [Runtime.Shutdown], [Runtime.Drain] and the
// end of the caller's context do not end a pause: when Recover or a start of the ID continues
// the activity, it is still paused.
//
// An activity that the function has started with its Context is canceled, not paused. If it has
// an ID, Recover continues it after a restart even while its parent is paused.
//
// Pause returns nil if the activity is paused already, or about to be. If there is no such
// activity, or if it has ended, it returns [ErrNotFound]. If the activity is being canceled, or
// its outcome is decided, the error names its State. While the Store has not taken the start of
// the activity, Pause returns an error, as [Runtime.Cancel] does.
func (rt *Runtime) Pause(id string) error {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil {
		return err
	}
	if err := a.pauseLocked(); err != nil {
		return fmt.Errorf("%s: not paused: %w", a, err)
	}
	return nil
}

// Unpause ends a pause: the next attempt starts once a slot is free and no function of an
// earlier attempt blocks it. There is no backoff.
//
// If there is no such activity, or if it has ended, Unpause returns [ErrNotFound]. To unpause an
// activity that is only stored, start it first, with [Runtime.Recover] or by its ID. If the
// activity is not paused, the error names its State. An activity whose function is still
// returning after Pause is not paused yet. EventPaused reports when it is.
func (rt *Runtime) Unpause(id string) error {
	rt.enter()
	defer rt.leave()
	a, err := rt.aliveLocked(id)
	if err != nil {
		return err
	}
	if err := a.unpauseLocked(); err != nil {
		return fmt.Errorf("%s: not unpaused: %w", a, err)
	}
	return nil
}

// errStarting refuses to steer an activity whose start may still be refused.
var errStarting = errors.New("its start is still being saved")

// pauseLocked ends the running attempt, or what the activity waits for.
func (a *activity) pauseLocked() error {
	a.checkParentLocked()
	switch {
	case a.rec != nil && !a.rec.start.accepted:
		return errStarting
	case a.cancelCause != nil, a.phase == phaseSavingEnd:
		return a.steeredLocked()
	case a.paused:
		return nil
	case a.phase == phaseRunning:
		t := a.latest
		a.mu.Lock()
		t.cancel(ErrPaused)
		cause := context.Cause(t.Context)
		a.mu.Unlock()
		// The caller's context may have ended since checkParentLocked looked at it.
		if cause != ErrPaused && a.checkParentLocked() {
			return a.steeredLocked()
		}
		t.stopped = true
		a.setPhaseLocked(phasePausing, min(a.rt.now.add(a.opts.CancelGrace), a.closeBy()))
	case a.phase == phaseDeciding:
		// The attempt has failed by itself, and counts. decideLocked continues.
	default:
		a.enterPausedLocked(nil, nil)
	}
	a.paused = true
	if a.rec != nil {
		a.rec.start.dropFoundLocked()
		a.rec.saveLocked(a.rt, nil)
	}
	return nil
}

// steeredLocked returns an error that says in which state the activity is.
func (a *activity) steeredLocked() error {
	switch {
	case a.phase == phaseCanceling:
		return fmt.Errorf("the activity is %s and is being canceled", a.stateLocked())
	case a.phase == phasePausing, a.phase == phaseDeciding && a.paused:
		return fmt.Errorf("the activity is %s and is being paused", a.stateLocked())
	}
	return fmt.Errorf("the activity is %s", a.stateLocked())
}

// attemptPausedLocked continues a pause when the function of the attempt has returned, with r,
// or is abandoned, and r is nil. Nobody gets the error that the function has returned. So if it
// says more than that the attempt was stopped, it is logged.
func (a *activity) attemptPausedLocked(r *result) {
	var err error
	var log func()
	if r != nil && r.err != nil && !r.verdict.stopped {
		err = r.err
		number := a.latest.number
		log = func() {
			attrs := []slog.Attr{slog.String("error", short(err))}
			if stack := stackOf(err); stack != nil {
				attrs = append(attrs, slog.String("stack", string(stack)))
			}
			a.rt.log(slog.LevelWarn, "activity: function returned an error when it was paused", a, number, attrs...)
		}
	}
	a.noteProgressLocked(a.latest)
	// Since Pause was stored, the attempt may have reached RetryPolicy.ResetAfter.
	if a.rec != nil && a.opts.RetryPolicy.ResetAfter > 0 {
		a.rec.saveSoonLocked(a.rt)
	}
	a.enterPausedLocked(err, log)
}

// enterPausedLocked moves the activity to phasePaused. err is what the function returned, if
// that is logged.
func (a *activity) enterPausedLocked(err error, log func()) {
	a.due = 0
	a.setPhaseLocked(phasePaused, a.closeBy())
	if a.rec == nil || a.rec.start.accepted { // otherwise the event follows that of the start
		a.emitLocked(EventPaused, a.attempts, err, 0, log)
	}
	if a.rt.drain.begun.Load() { // there is no other attempt
		a.cancelLocked(ErrShutdown)
	}
}

// unpauseLocked lets the next attempt begin.
func (a *activity) unpauseLocked() error {
	a.checkParentLocked()
	switch {
	case a.rec != nil && !a.rec.start.accepted:
		return errStarting
	case a.phase != phasePaused:
		return a.steeredLocked()
	}
	a.paused = false
	a.emitLocked(EventUnpaused, a.attempts, nil, 0, nil)
	a.proceedLocked()
	if a.rec != nil {
		a.rec.start.dropFoundLocked()
		a.rec.saveLocked(a.rt, nil)
	}
	return nil
}
