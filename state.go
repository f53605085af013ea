package activity

import (
	"context"
	"time"
)

// State is where an activity is in its life.
type State int

const (
	_               State = iota
	StateWaiting          // for a slot of MaxConcurrent, or for the Store
	StateRunning          // an attempt runs, or has just failed and RetryPolicy.Retryable is being asked
	StateBackingOff       // until the next attempt
	StateBlocked          // the next attempt waits for functions of earlier ones that hang, or are inside Guard
	StateCompleted        // final: the function returned nil
	StateFailed           // final: there is no further attempt
	StateCanceled         // final
)

func (s State) String() string {
	return enum("State", int(s), "", "waiting", "running", "backing off", "blocked", "completed", "failed", "canceled")
}

// A phase is where an activity is in its life, as the Runtime sees it. An
// activity is in exactly one, and setPhaseLocked is the only way into another.
//
//	phase        State        entered by                             its alarm                                         a cancellation
//	new          -            Runtime.start; refuseLocked            -                                                 is noted; Start refuses it
//	loading      waiting      Runtime.schedule, if stored            -                                                 ends Load; Start refuses it
//	queued       waiting      proceedLocked, without a free slot     schedule-to-start or -close: fails                finishes it (1)
//	savingStart  waiting      beginLocked, if stored                 schedule-to-close: fails                          finishes it (1)
//	startFailed  waiting      startSavedLocked, if accepted          the Store is tried again: proceeds, or fails      finishes it
//	running      running      startAttemptLocked                     heartbeat, start- or schedule-to-close: deciding  leads to canceling
//	canceling    running      cancelLocked                           CancelGrace: abandons the attempt, finishes it    is not the first, and ignored
//	deciding     running      functionReturnedLocked, timeOutLocked  schedule-to-close: fails                          finishes it
//	backingOff   backing off  decideLocked, resumeLocked             the next attempt: proceeds, or too late: fails    finishes it (1)
//	blocked      blocked      proceedLocked                          once a log line, then schedule-to-close: fails    finishes it
//	savingEnd    its outcome  finishLocked, if stored                schedule-to-close, or CancelGrace                 ends the wait for the Store,
//	                                                                 once canceled: ended                              or limits it to CancelGrace
//	ended        its outcome  endLocked                              -                                                 is ignored
//
// (1) If Start has not been accepted, a cancellation refuses it.
//
// Stored means that there is a record, because there are a Config.Store and an
// Options.ID. To fail and to finish is to call finishLocked, which leads to
// savingEnd or straight to ended. An alarm first looks at the caller's context,
// and whether its deadline has moved. After a pause of the whole process, the
// running phase's alarm moves the heartbeat deadline once more.
//
// The usual way is new, running, ended. If stored it is new, loading,
// savingStart, running, savingEnd, ended. A failed attempt leads to deciding,
// and from there to backingOff, straight to the next attempt (proceedLocked),
// which may have to wait in blocked, queued or savingStart, or to the end. What
// waits in queued begins when grantSlotsLocked, called by leave, has a slot. A
// start that is refused is in new, again or still.
//
// alarmLocked and cancelLocked below choose the next move. The moves are in
// activity.go; those of a start, and what is resumed from a checkpoint, are in
// start.go.
type phase uint8

const (
	phaseNew phase = iota
	phaseLoading
	phaseQueued
	phaseSavingStart
	phaseStartFailed
	phaseRunning
	phaseCanceling
	phaseDeciding
	phaseBackingOff
	phaseBlocked
	phaseSavingEnd
	phaseEnded
)

// holdsSlot reports whether an activity in phase p has one of the slots of
// Config.MaxConcurrent.
func (p phase) holdsSlot() bool {
	switch p {
	case phaseSavingStart, phaseRunning, phaseCanceling, phaseDeciding:
		return true
	}
	return false
}

// startDecidedLocked reports whether Start may return: the Store holds the start of
// an attempt, or the activity waits and the Store holds that, or it has ended.
// Runtime.mu is held.
func (a *activity) startDecidedLocked() bool {
	switch a.phase {
	case phaseNew, phaseLoading, phaseSavingStart:
		return false
	case phaseQueued, phaseBackingOff:
		return a.rec.start.held
	}
	return true
}

// stateLocked is what a user sees of the phase. Runtime.mu is held.
func (a *activity) stateLocked() State {
	switch a.phase {
	case phaseNew:
		return 0
	case phaseLoading, phaseQueued, phaseSavingStart, phaseStartFailed:
		return StateWaiting
	case phaseBackingOff:
		return StateBackingOff
	case phaseBlocked:
		return StateBlocked
	case phaseSavingEnd, phaseEnded:
		return a.outcome
	}
	return StateRunning
}

// setPhaseLocked moves the activity to phase p, whose alarm rings at until. It
// also keeps what follows from the phase: the Runtime's counts, the slots and
// their queue, the alarm, and whether Start of a stored activity may return.
// Runtime.mu is held.
func (a *activity) setPhaseLocked(p phase, until instant) {
	rt, old := a.rt, a.phase
	rt.counts.states[a.stateLocked()]--
	a.phase, a.until = p, until
	rt.counts.states[a.stateLocked()]++
	rt.slots.moveLocked(a, old, p)
	a.setAlarmLocked(until)
	if a.rec != nil && a.startDecidedLocked() {
		a.acceptLocked()
	}
}

// alarmAtLocked is when the activity's alarm is to ring. In phaseRunning every
// heartbeat moves that, but does not touch the queue of alarms. So the scheduler
// asks again when the alarm comes up. Runtime.mu is held.
func (a *activity) alarmAtLocked() instant {
	if a.phase != phaseRunning {
		return a.until
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(a.latest.heartbeatBy(), a.latest.closeBy)
}

// alarmLocked does what the activity's alarm is for. Of all the deadlines that are
// due now, late is the age of the oldest. Runtime.mu is held.
func (a *activity) alarmLocked(late time.Duration) {
	if a.checkParentLocked() {
		return
	}
	now := a.rt.now
	if when := a.alarmAtLocked(); when > now {
		a.setAlarmLocked(when) // another alarm at this instant has moved it
		return
	}
	switch a.phase {
	case phaseQueued:
		typ := TimeoutScheduleToStart
		if a.closeBy() <= a.until {
			typ = TimeoutScheduleToClose
		}
		a.failWaitLocked(typ)
	case phaseSavingStart:
		a.failWaitLocked(TimeoutScheduleToClose)
	case phaseBlocked:
		if a.closeBy() <= now {
			a.failWaitLocked(TimeoutScheduleToClose)
			return
		}
		a.logBlockedLocked()
		a.until = a.closeBy()
		a.setAlarmLocked(a.until)
	case phaseRunning:
		a.timeOutLocked(late)
	case phaseCanceling:
		a.abandonCanceledLocked()
	case phaseDeciding:
		a.decideLocked() // without the answer of Retryable, which has not come in time
	case phaseStartFailed:
		if a.closeBy() <= now {
			a.failWaitLocked(TimeoutScheduleToClose)
		} else {
			a.proceedLocked()
		}
	case phaseBackingOff:
		if a.closeBy() <= now { // the timer is late
			a.finishLocked(StateFailed, RetryStateTimeout, a.failure)
		} else {
			a.proceedLocked()
		}
	case phaseSavingEnd:
		a.endLocked()
	}
}

// cancelLocked ends the attempt's Context, or what the activity waits for. The
// first cause wins: if the caller's context has ended, that is its cause.
// Runtime.mu is held.
func (a *activity) cancelLocked(cause error) {
	if a.cancelCause != nil || a.phase == phaseEnded {
		return
	}
	if err := ended(a.base); err != nil { // the caller's context was first
		cause = err
	}
	a.cancelCause = cause
	switch a.phase {
	case phaseNew:
	case phaseLoading:
		if cancel := a.rec.start.cancelLoad; cancel != nil {
			cancel(cause)
		}
	case phaseRunning:
		a.mu.Lock()
		a.latest.cancel(cause)
		a.cancelCause = context.Cause(a.latest.Context) // another one if the caller's context has just ended
		a.mu.Unlock()
		a.setPhaseLocked(phaseCanceling, a.rt.now.add(a.opts.CancelGrace))
		if a.rec != nil {
			a.rec.saveLocked(a.rt, nil) // a kill while the function cleans up must not undo it
		}
	case phaseDeciding:
		a.decideLocked()
	case phaseSavingEnd:
		// The callers of a success wait until the delete was tried once, and at most
		// CancelGrace.
		if r := a.rec; r.gone && !r.endFailed {
			a.setPhaseLocked(phaseSavingEnd, a.rt.now.add(a.opts.CancelGrace))
		} else {
			a.endLocked()
		}
	default:
		if a.rec != nil && !a.rec.start.accepted {
			a.refuseLocked(a.canceledStart())
			return
		}
		err := cause
		if a.failure != nil {
			err = &canceledError{cause: cause, result: a.failure}
		}
		a.finishLocked(StateCanceled, RetryStateCancelRequested, err)
	}
}

// checkParentLocked cancels the activity, and returns true, if the caller's
// context has ended and that is not known yet. Runtime.mu is held.
func (a *activity) checkParentLocked() bool {
	if a.cancelCause != nil || a.base.Err() == nil {
		return false
	}
	a.cancelLocked(nil)
	return true
}
