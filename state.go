package activity

import (
	"context"
	"fmt"
	"time"
)

// The states of an activity: the State that users see, the phase that the Runtime uses,
// and what an alarm and a cancellation do in each phase. The table below is the state
// machine. Every move goes through setPhaseLocked.

// A State is a stage of an activity's life, as [Status] reports it.
type State int

const (
	_               State = iota
	StateWaiting          // waiting for a slot of Config.MaxConcurrent, or for the Store
	StateRunning          // running an attempt, or calling RetryPolicy.Retryable for an attempt that has just failed
	StateBackingOff       // waiting for the backoff before the next attempt
	StateBlocked          // waiting for functions of earlier attempts, which hang or are inside Guard, or for the Store after a Commit that failed
	StateCompleted        // final: the function returned nil
	StateFailed           // final: the last attempt failed, and is not retried
	StateCanceled         // final: canceled by the caller's context, Handle.Cancel, Runtime.Cancel, Drain or Shutdown
	StatePaused           // paused by Runtime.Pause, until Runtime.Unpause
)

// String returns the state's name in lower case, such as "backing off".
func (s State) String() string {
	return enum("State", int(s), "", "waiting", "running", "backing off", "blocked", "completed", "failed", "canceled", "paused")
}

// A phase is a stage of an activity's life, in more detail than State. An activity is in
// exactly one phase, and only setPhaseLocked changes it.
//
//	phase        State        entered by                             its alarm                                         a cancellation
//	new          -            Runtime.start; refuseLocked            -                                                 is noted; Start refuses it
//	loading      waiting      Runtime.schedule, if stored            -                                                 ends Load; Start refuses it
//	queued       waiting      proceedLocked, without a free slot     schedule-to-start or -close: fails                finishes it (1)
//	savingStart  waiting      beginLocked, if stored                 schedule-to-close: fails                          finishes it (1)
//	startFailed  waiting      startSavedLocked, if accepted          the Store is tried again: proceeds, or fails      finishes it
//	running      running      startAttemptLocked                     heartbeat, start- or schedule-to-close: deciding  leads to canceling
//	pausing      running      pauseLocked                            CancelGrace: abandons the attempt, paused;        leads to canceling
//	                                                                 or schedule-to-close: fails
//	canceling    running      cancelLocked                           CancelGrace: abandons the attempt, finishes it    is not the first, and ignored
//	deciding     running      functionReturnedLocked, timeOutLocked  schedule-to-close: fails                          finishes it
//	backingOff   backing off  decideLocked, resumeLocked             the next attempt: proceeds, or too late: fails    finishes it (1)
//	blocked      blocked      proceedLocked                          once a log line, then schedule-to-close: fails    finishes it
//	paused       paused       enterPausedLocked                      schedule-to-close: fails                          finishes it (1)
//	savingEnd    its outcome  finishLocked, if stored                schedule-to-close, or CancelGrace                 ends the wait for the Store,
//	                                                                 once canceled: ended                              or limits it to CancelGrace
//	ended        its outcome  endLocked                              -                                                 is ignored
//
// (1) If the start is not accepted yet, Start refuses it with the cause instead.
//
// "Stored" means that the activity has a record, because there are a Config.Store and an
// Options.ID. "Fails" and "finishes" mean a call of finishLocked. If the activity is
// stored, that leads to savingEnd, and otherwise to ended. Before an alarm acts, it checks
// whether the caller's context has ended and whether its deadline has moved. After a pause
// of the whole process, the alarm of the running phase first extends the heartbeat deadline.
//
// The usual path is new, running, ended. For a stored activity it is new, loading,
// savingStart, running, savingEnd, ended. An attempt that fails leads to deciding. From
// there the activity ends, backs off, or proceeds to the next attempt at once. An attempt
// that is about to begin may have to wait in blocked, queued or savingStart. A queued
// activity leaves the queue when leave calls grantSlotsLocked and a slot is free. An
// activity whose start is refused returns to new, or never leaves it.
//
// A pause leads from running to pausing, and from every phase of a wait to paused. In deciding
// it is noted, and decideLocked enters paused instead of the next phase of the attempts.
//
// alarmLocked, cancelLocked and pauseLocked choose the next move. The moves themselves are in
// activity.go, except those of a start and of a resume from a checkpoint: these are in
// start.go.
type phase uint8

const (
	phaseNew phase = iota
	phaseLoading
	phaseQueued
	phaseSavingStart
	phaseStartFailed
	phaseRunning
	phasePausing
	phaseCanceling
	phaseDeciding
	phaseBackingOff
	phaseBlocked
	phasePaused
	phaseSavingEnd
	phaseEnded
)

// holdsSlot reports whether an activity in phase p occupies a slot of
// Config.MaxConcurrent. A start that is being saved does, so that the attempt can begin as
// soon as it is saved. Backing off, being blocked and being paused do not, however short the wait.
func (p phase) holdsSlot() bool {
	switch p {
	case phaseSavingStart, phaseRunning, phasePausing, phaseCanceling, phaseDeciding:
		return true
	}
	return false
}

// startDecidedLocked reports whether Start of a stored activity may return nil. It may
// once the Store holds the start of an attempt, or holds the waiting activity, or the
// activity has ended. Runtime.mu is held.
func (a *activity) startDecidedLocked() bool {
	switch a.phase {
	case phaseNew, phaseLoading, phaseSavingStart:
		return false
	case phaseQueued, phaseBackingOff, phasePaused:
		return a.rec.start.held
	}
	return true
}

// stateLocked returns the State of the activity's phase. It is 0 for an activity that is
// not scheduled. Runtime.mu is held.
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
	case phasePaused:
		return StatePaused
	case phaseSavingEnd, phaseEnded:
		return a.outcome
	}
	return StateRunning
}

// setPhaseLocked moves the activity to phase p, whose alarm rings at until. It also
// updates everything that is a function of the phase: the Runtime's counts, the slots and
// their queue, the alarm, and whether Start of a stored activity may return. Fields that
// the new phase reads, such as outcome and latest, must be set before. Runtime.mu is held.
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

// alarmAtLocked returns the instant at which the activity's alarm is to ring. In
// phaseRunning each heartbeat moves that instant. To keep heartbeats cheap, they change
// the deadline in the attempt, under activity.mu, and leave the queue of alarms alone. So
// the queue may hold an earlier instant, but never a later one, and the scheduler calls
// alarmAtLocked again when the alarm is due. Runtime.mu is held.
func (a *activity) alarmAtLocked() instant {
	if a.phase != phaseRunning {
		return a.until
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(a.latest.heartbeatBy(), a.latest.closeBy)
}

// alarmLocked acts on the activity's alarm, which is due. late is the age of the oldest
// timeout among all the alarms that are due now: see takeDueLocked. Runtime.mu is held.
func (a *activity) alarmLocked(late time.Duration) {
	// If the caller's context has ended, its cause wins over the timeout, because it may
	// have ended before this instant.
	if a.checkParentLocked() {
		return
	}
	now := a.rt.now
	// takeDueLocked collects all alarms before the first one acts. An earlier alarm of
	// this instant may have moved the activity to another phase, whose alarm is later.
	if when := a.alarmAtLocked(); when > now {
		a.setAlarmLocked(when)
		return
	}
	switch a.phase {
	case phaseQueued:
		typ := TimeoutScheduleToStart
		if a.closeBy() <= a.until {
			typ = TimeoutScheduleToClose
		}
		a.failWaitLocked(typ)
	case phaseSavingStart, phasePaused:
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
	case phasePausing:
		stack, noStack := a.abandonStoppedLocked()
		if a.closeBy() > now {
			a.attemptPausedLocked(nil)
			return
		}
		a.noteProgressLocked(a.latest)
		err := a.waitTimeoutLocked(TimeoutScheduleToClose)
		err.Stack, err.noStack = stack, noStack
		a.finishLocked(StateFailed, RetryStateTimeout, err)
	case phaseCanceling:
		a.abandonStoppedLocked()
		a.finishCanceledLocked(&canceledError{
			cause: a.cancelCause,
			note:  fmt.Sprintf("; its function had not returned %s later and is abandoned", a.opts.CancelGrace),
		})
	case phaseDeciding:
		// Schedule-to-close is due before Retryable has returned. The activity fails
		// without its answer, since there is no time for another attempt anyway.
		a.decideLocked()
	case phaseStartFailed:
		if a.closeBy() <= now {
			a.failWaitLocked(TimeoutScheduleToClose)
		} else {
			a.proceedLocked()
		}
	case phaseBackingOff:
		// decideLocked lets no backoff begin that ends at closeBy or later. It has
		// passed only if the timer is late.
		if a.closeBy() <= now {
			a.finishLocked(StateFailed, RetryStateTimeout, a.failure)
		} else {
			a.proceedLocked()
		}
	case phaseSavingEnd:
		a.endLocked()
	}
}

// cancelLocked cancels the activity: it ends the Context of the running attempt, or
// whatever the activity waits for. The first cause wins, and later cancellations are
// ignored. If the caller's context has ended, its cause replaces the given one, because
// it came first even if the Runtime had not noticed yet. Runtime.mu is held.
func (a *activity) cancelLocked(cause error) {
	if a.cancelCause != nil || a.phase == phaseEnded {
		return
	}
	if err := ended(a.base); err != nil {
		cause = err
	}
	a.cancelCause = cause
	switch a.phase {
	case phaseNew:
		// Runtime.schedule looks at cancelCause next, and refuses the start.
	case phaseLoading:
		// If the Load has not begun, find looks at cancelCause when it begins. Either way
		// activity.loaded refuses the start.
		if cancel := a.rec.start.cancelLoad; cancel != nil {
			cancel(cause)
		}
	case phaseRunning:
		a.mu.Lock()
		a.latest.cancel(cause)
		// The attempt's Context is derived from base, whose end may have come between
		// the look at base above and this cancel. The function must see the same cause
		// as the caller.
		a.cancelCause = context.Cause(a.latest.Context)
		a.mu.Unlock()
		a.cancelingLocked()
	case phasePausing:
		// The Context has ended already, and keeps ErrPaused as its cause.
		a.cancelingLocked()
	case phaseDeciding:
		a.decideLocked()
	case phaseSavingEnd:
		// The callers of a success still wait until the Delete was tried once, but at
		// most for CancelGrace. If it was tried already, or if something else is being
		// saved, they wait no longer.
		if r := a.rec; r.gone && !r.endFailed {
			a.setPhaseLocked(phaseSavingEnd, a.rt.now.add(a.opts.CancelGrace))
		} else {
			a.endLocked()
		}
	default:
		// A wait for a slot, a backoff, a blocked attempt or a start that is being saved.
		// Phase canceling does not come here, since its cancelCause is set.
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

// cancelingLocked gives an attempt whose Context has ended CancelGrace to return. The
// cancellation is saved now and not when the function has returned: a kill while the function
// cleans up must neither undo the cancellation nor count as a crash.
func (a *activity) cancelingLocked() {
	a.latest.stopped = true
	a.setPhaseLocked(phaseCanceling, a.rt.now.add(a.opts.CancelGrace))
	if a.rec != nil {
		a.rec.saveLocked(a.rt, nil)
	}
}

// checkParentLocked cancels the activity and returns true if the caller's context has
// ended and the activity is not canceled yet. The activity is then in another phase, so
// the caller must not continue with its own move. Runtime.mu is held.
func (a *activity) checkParentLocked() bool {
	if a.cancelCause != nil || a.base.Err() == nil {
		return false
	}
	a.cancelLocked(nil)
	return true
}
