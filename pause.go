package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// Pause stops the activity with this ID until [Runtime.Unpause], without ending it. Its
// callers keep waiting, and so does its schedule-to-close timeout keep running.
//
// If an attempt runs, its Context ends with [ErrPaused] as the cause. When the function has
// returned, or Options.CancelGrace later, when it is abandoned, the activity is in
// StatePaused, and its slot is free. That attempt does not count, and the next one has its
// number. As after a cancellation, a function that returns nil has completed, unless Sleep,
// [Idle], [Range], [RangeParallel], [Guard] or a [Reader] had returned ErrPaused to it. A wait
// for a slot, a backoff or a function that hangs ends at once, as does what is left of a
// backoff.
//
// With a Config.Store a pause outlives the process. It is given to the Store at once, and
// [Runtime.Shutdown], [Runtime.Drain] and the end of the caller's context leave it there. A
// paused activity that Recover or Start continues is still paused.
//
// Pause returns nil if the activity is paused already, or about to be. If no such activity
// runs, it returns [ErrNotFound]. If the activity is being canceled, or its outcome is
// decided, the error names its State. While the Store has not taken the start of the activity,
// Pause returns an error, as [Runtime.Cancel] does.
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

// Unpause ends a pause: the next attempt starts as soon as there is a slot, and as soon as
// functions of earlier attempts do not block it. What was left of a backoff is not waited out.
//
// If no such activity runs, Unpause returns [ErrNotFound]: the pause of an activity that is only
// stored is ended by [Runtime.Recover], or by a start of its ID, and then by Unpause. If the
// activity is not paused, the error names its State. That is also so while the function of the
// attempt that Pause has ended is still running.
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
		return fmt.Errorf("the activity is %s, and being canceled", a.stateLocked())
	case a.phase == phasePausing, a.phase == phaseDeciding && a.paused:
		return fmt.Errorf("the activity is %s, and being paused", a.stateLocked())
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
			a.rt.log(slog.LevelWarn, "activity: function returned an error when it was paused", a, number, slog.String("error", short(err)))
		}
	}
	a.noteProgressLocked(a.latest)
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
