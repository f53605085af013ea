package activity

import (
	"container/list"
	"context"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"time"
)

// An activity is one execution, with all its attempts.
//
// There are two locks. Runtime.mu guards the life of every activity. activity.mu guards
// the fields that heartbeats touch, so that heartbeats of different activities do not
// contend. If both are needed, Runtime.mu is locked first. User code runs under neither,
// except Config.Clock and Config.Rand. A function whose name ends in Locked needs
// Runtime.mu, unless its comment names activity.mu.
type activity struct {
	rt     *Runtime
	opts   Options // the caller's Options, with defaults
	body   body
	parent context.Context // the caller's context, as passed to Start; its methods are user code
	base   context.Context // the parent of the attempts' contexts, which may be canceled under a lock: see standardContext
	rec    *record         // the pending checkpoint; nil if the activity is not stored

	// These two release the caller's context. Both are set before the activity can end.
	stopWatch   func() bool        // stops the context.AfterFunc on base; nil if base cannot end, or if the goroutine in Run watches it
	releaseBase context.CancelFunc // frees base, and may run user code; nil if base is parent or cannot end

	// Guarded by Runtime.mu.
	phase       phase         // changed only by setPhaseLocked
	stalled     bool          // whether the previous attempt that failed did so with a heartbeat timeout
	onPurpose   bool          // whether cancelCause came from Handle.Cancel; set before cancelCause
	released    bool          // set once, when the activity has ended or was refused and its last event is delivered
	place       int32         // the alarm's place in scheduler.alarms, from 1; 0 if no alarm is set
	until       instant       // when the phase's alarm rings; not updated by heartbeats, so see alarmAtLocked in phaseRunning
	number      uint64        // position in the order of scheduling, from 1; 0 for the placeholder that Forget registers
	prev, next  *activity     // neighbors in Runtime.ring; nil once the activity has ended or was refused
	queued      *list.Element // element of slots.queue; nil if not in the queue
	scheduled   moment        // when the execution was first scheduled, by an earlier process if it was resumed
	latest      *attempt      // the newest attempt that this process has started; nil before the first
	attempts    int           // number of the newest attempt, including those of earlier processes
	countedFrom int           // number of the last attempt that no longer counts toward MaximumAttempts and the interval
	progressed  int           // number of the last attempt that made progress; 0 if none did
	abandoned   int           // number of abandoned functions that still run
	due         instant       // when the next attempt may start, after an attempt that failed; 0 while one runs
	failure     error         // error of the last attempt that failed; nil if none did
	cancelCause error         // set once, by the first cancellation
	paused      bool          // whether Pause was called and Unpause was not; true in phasePausing and phasePaused
	doneChan    chan struct{} // closed with released; created by the first call of done
	outcome     State         // final State; set once, by finishLocked
	out         any           // result of the function; set once, before outcome
	err         error         // *Error that callers get; set once, with outcome

	mu       sync.Mutex // guards the fields below
	details  recorded
	beats    uint64      // number of heartbeats, of attempts that were not over
	lastBeat instant     // instant of the last heartbeat; valid if beats is not 0
	loop     *rangeState // progress of Range; nil before the function calls it
	delivery *delivery   // events and log lines to deliver; nil before the first
}

// A body is an activity's function with its input. The methods run, encode and reencode
// call user code.
type body interface {
	run(ctx Context) (any, error)
	function() any                  // returns the function, for its name
	takesInput() bool               // reports whether the function has an input that is stored
	encode(c Codec) ([]byte, error) // encodes the input
	release()                       // drops the input; run must not be called after that
	// reencode decodes a stored input into the function's input type, and encodes the
	// result. So inputs that differ only in their encoding become equal.
	reencode(c Codec, stored []byte) ([]byte, error)
}

type plain func(Context) error

func (f plain) run(ctx Context) (any, error)                    { return nil, f(ctx) }
func (f plain) function() any                                   { return f }
func (f plain) takesInput() bool                                { return false }
func (f plain) encode(Codec) ([]byte, error)                    { return nil, nil }
func (f plain) release()                                        {}
func (f plain) reencode(_ Codec, stored []byte) ([]byte, error) { return stored, nil }

type call[In, Out any] struct {
	fn func(Context, In) (Out, error)
	in In
}

func (c *call[In, Out]) run(ctx Context) (any, error) { return c.fn(ctx, c.in) }
func (c *call[In, Out]) function() any                { return c.fn }
func (c *call[In, Out]) takesInput() bool             { return true }

func (c *call[In, Out]) encode(codec Codec) (data []byte, err error) {
	// The default Codec refuses values that would not decode into their type again. An
	// interface type gets lost when its value is passed as an any, so a pointer is passed.
	if _, strict := codec.(jsonCodec); strict && reflect.TypeFor[In]().Kind() == reflect.Interface {
		data, err = marshal(codec, &c.in)
	} else {
		data, err = marshal(codec, c.in)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot encode the input (%s): %w", reflect.TypeFor[In](), err)
	}
	return data, nil
}

func (c *call[In, Out]) release() {
	var zero In
	c.in = zero
}

func (c *call[In, Out]) reencode(codec Codec, stored []byte) ([]byte, error) {
	var other call[In, Out]
	if err := unmarshal(codec, stored, &other.in); err != nil {
		return nil, fmt.Errorf("cannot be decoded into the new one's type (%w)", err)
	}
	data, err := other.encode(codec)
	if err != nil {
		return nil, fmt.Errorf("cannot be encoded again (%w)", err)
	}
	return data, nil
}

// id returns Options.ID or the generated ID. The latter is formatted on demand, to save
// an allocation for each activity whose ID nobody reads.
func (a *activity) id() string {
	if a.opts.ID != "" {
		return a.opts.ID
	}
	return madeUpPrefix + strconv.FormatUint(a.number, 10)
}

// name returns Options.Name or the name of the function.
func (a *activity) name() string {
	if a.opts.Name != "" {
		return a.opts.Name
	}
	return runtime.FuncForPC(reflect.ValueOf(a.body.function()).Pointer()).Name()
}

func (a *activity) String() string { return label(a.id(), a.name()) }

// closeBy returns the schedule-to-close deadline, or never. It counts from the first
// start of the execution, so it may have passed before a resumed activity starts.
func (a *activity) closeBy() instant { return a.scheduled.at.deadline(a.opts.ScheduleToCloseTimeout) }

// The functions below are the moves from phase to phase, in the order of an attempt's
// life. alarmLocked and cancelLocked in state.go choose between them. All of them need
// Runtime.mu.

// proceedLocked begins the next attempt, or enters the phase in which the activity waits
// for what that attempt needs: the return of earlier functions, and then a slot. An
// activity whose phase holds a slot keeps it. The caller must have called
// checkParentLocked at this instant, because a canceled activity must not proceed.
func (a *activity) proceedLocked() {
	switch rt := a.rt; {
	case a.blockedLocked():
		a.setPhaseLocked(phaseBlocked, min(rt.now.add(blockedLogAfter), a.closeBy()))
		a.emitLocked(EventBlocked, a.attempts, a.failure, 0, nil)
	case !a.phase.holdsSlot() && !rt.slots.freeLocked():
		a.setPhaseLocked(phaseQueued, min(rt.now.deadline(a.opts.ScheduleToStartTimeout), a.closeBy()))
	default:
		a.beginLocked()
	}
}

// blockedLocked reports whether the next attempt must wait until functions of earlier
// attempts return, because there are too many abandoned ones or one is inside Guard, or
// until the Store has said whether a Commit that failed has happened.
func (a *activity) blockedLocked() bool {
	return a.latest != nil && (a.abandoned > a.opts.MaxAbandoned || a.guardedLocked() || a.unresolvedLocked())
}

// unresolvedLocked reports whether a Commit has failed, and the Store has not said yet
// whether it has happened.
func (a *activity) unresolvedLocked() bool { return a.rec != nil && a.rec.unresolved != 0 }

// guardedLocked reports whether a function is inside Guard. That can only be the latest
// attempt's function, since no attempt starts while an earlier one is inside Guard.
func (a *activity) guardedLocked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.guarded()
}

// guarded is guardedLocked for callers that hold activity.mu as well.
func (a *activity) guarded() bool { return a.latest != nil && a.latest.guards > 0 }

// unblockLocked is called when the function of an attempt that is over has returned or
// has left Guard, or when a Commit that failed is resolved. If nothing else blocks the
// activity, its next attempt proceeds. If the activity has ended, its ID becomes free.
func (a *activity) unblockLocked() {
	switch {
	case a.phase == phaseBlocked && !a.blockedLocked():
		if !a.checkParentLocked() {
			a.proceedLocked()
		}
	case a.phase == phaseEnded:
		a.freeIDLocked()
	}
}

// freeIDLocked removes an activity that has ended from Runtime.ids, with two exceptions.
// If its last event is still to be delivered, it stays, because the next execution of the
// ID must deliver its own events after that: see followLocked. If its function is inside
// Guard, it stays, because the ID must be refused until then.
func (a *activity) freeIDLocked() {
	if a.opts.ID != "" && a.released && !a.guardedLocked() {
		a.rt.freeIDLocked(a)
	}
}

// beginLocked starts the next attempt. If the activity is stored, the function does not
// run before the start is saved, so that an attempt that kills the process counts. Only
// if an earlier attempt has run in this process, a failure to save does not stop the next
// one. startSavedLocked continues. The activity holds its slot meanwhile.
func (a *activity) beginLocked() {
	if a.rec == nil {
		a.startAttemptLocked()
		return
	}
	a.setPhaseLocked(phaseSavingStart, a.closeBy())
	a.rec.begins++
	n := a.rec.begins
	a.rec.saveLocked(a.rt, func(err error) {
		// Pause may have ended the wait, and Unpause have begun another. What was saved in
		// between is not the start of an attempt.
		if a.phase == phaseSavingStart && n == a.rec.begins {
			a.startSavedLocked(err)
		}
	})
}

// startAttemptLocked makes the next attempt the latest one. Its goroutine is started by
// leave, after the timer is set: the deadlines must be armed before the function's first
// line runs (rule 25).
func (a *activity) startAttemptLocked() {
	rt, now := a.rt, a.rt.now
	t := &attempt{
		a: a, number: a.countedLocked() + 1, started: rt.moment(now), ended: never, lastFailure: oneLevel(a.failure),
		beatBy: now.deadline(a.opts.HeartbeatTimeout), closeBy: min(a.closeBy(), now.deadline(a.opts.StartToCloseTimeout)),
	}
	// Deriving from base runs no user code: see standardContext.
	t.Context, t.cancel = context.WithCancelCause(a.base)
	a.mu.Lock()
	t.resumesFrom = a.details.share()
	a.latest = t
	a.mu.Unlock()
	a.attempts, a.due = t.number, 0
	rt.counts.attempts++
	a.setPhaseLocked(phaseRunning, min(t.beatBy, t.closeBy))
	a.emitLocked(EventAttemptStarted, t.number, nil, 0, nil)
	rt.scheduler.starting = append(rt.scheduler.starting, t)
}

// functionReturnedLocked ends attempt t, whose function has returned r. If it reports
// true, the caller must call askRetryable once it holds no lock, which then decides
// whether to retry.
func (a *activity) functionReturnedLocked(t *attempt, r *result) (ask bool) {
	// The attempt was not over when its goroutine looked, without the lock. Since then a
	// deadline or the end of CancelGrace has abandoned it, so the result does not count.
	if t.abandoned {
		t.abandonedReturnedLocked()
		return false
	}
	t.ended = a.rt.now
	a.mu.Lock()
	causeGiven := t.causeGiven
	// The error of an inner activity or start, too, can say that the Runtime drains.
	drainTold := t.drainTold || t.beatsTold > 0 || r.verdict.shutdown && a.rt.drain.begun.Load()
	if drainTold && (causeGiven || r.err != nil) && a.phase == phaseRunning {
		a.mu.Unlock()
		a.cancelLocked(ErrShutdown)
		a.mu.Lock()
	}
	// The Context ends and the attempt is fenced in one step for Heartbeat, which looks
	// at both under activity.mu. If the Context has ended before, it keeps its cause.
	t.cancel(errReturned)
	t.over.Store(true)
	a.mu.Unlock()
	switch {
	// A canceled or paused function that returns nil has completed, unless a helper such as Range
	// returned the cause to it: it then stopped early, and ignored the error (rule 17).
	case r.err == nil && !(t.stopped && causeGiven):
		a.out = r.out
		a.finishLocked(StateCompleted, 0, nil)
	case a.phase == phasePausing:
		a.attemptPausedLocked(r)
	case a.phase == phaseCanceling && r.err == nil:
		a.finishCanceledLocked(a.cancelCause)
	case a.phase == phaseCanceling:
		a.finishCanceledLocked(&canceledError{cause: a.cancelCause, result: r.err})
	default:
		a.failure, t.verdict = r.err, r.verdict
		if a.rec != nil {
			a.rec.failureText.set(r.err, r.text)
		}
		a.setPhaseLocked(phaseDeciding, a.closeBy())
		if a.opts.RetryPolicy.Retryable != nil && !r.verdict.final && !a.rt.drain.begun.Load() {
			return true
		}
		a.decideLocked()
	}
	return false
}

// abandonLocked marks the attempt, which is over, as abandoned: its function still runs.
func (t *attempt) abandonLocked() {
	t.abandoned = true
	t.a.abandoned++
	t.a.rt.counts.abandoned++
}

// abandonedReturnedLocked reports that an abandoned function has returned, and unblocks
// the activity if it was waiting for that.
func (t *attempt) abandonedReturnedLocked() {
	a := t.a
	// The timeout is not reported before Retryable has answered. EventAbandonedReturned
	// must come after EventAbandoned, so decideLocked calls this function again.
	if a.latest == t && a.phase == phaseDeciding {
		t.returnedEarly = true
		return
	}
	a.abandoned--
	a.rt.counts.abandoned--
	a.emitLocked(EventAbandonedReturned, t.number, nil, 0, nil)
	if a.released {
		a.dropLocked()
	}
	a.unblockLocked()
}

// timeOutLocked ends the running attempt if one of its deadlines has passed, and moves
// the activity to phaseDeciding. If none has, it sets the alarm to the next deadline. late
// is how late the Runtime itself settles: see takeDueLocked.
func (a *activity) timeOutLocked(late time.Duration) {
	rt, now := a.rt, a.rt.now
	t, timeout := a.latest, a.opts.HeartbeatTimeout
	a.mu.Lock()
	// A pause of the whole process is not a stall (rule 11). A pause makes the alarm late
	// as well, whereas a stall of the function alone does not. Between two heartbeats the
	// extensions are limited to one HeartbeatTimeout, so that a stall ends in any case.
	if t.heartbeatBy() <= now && late > max(timeout/10, time.Millisecond) {
		if grant := min(late, timeout-t.granted); grant > 0 {
			t.beatBy = now.add(grant)
			t.granted += grant
		}
	}
	// The earliest deadline counts. At one instant schedule-to-close comes before
	// start-to-close, and start-to-close before heartbeat (rule 7).
	typ, when := TimeoutHeartbeat, t.heartbeatBy()
	if t.closeBy <= when {
		typ, when = TimeoutStartToClose, t.closeBy
		if t.closeBy == a.closeBy() {
			typ = TimeoutScheduleToClose
		}
	}
	if when > now {
		a.mu.Unlock()
		a.setAlarmLocked(when)
		return
	}
	// The error must be complete before the Context ends, because the function sees it
	// as the cause from then on. The stack must be taken before that too, because the
	// function then leaves the place where it hangs. The end of the Context and the fence
	// are one step for Heartbeat, which looks at both under activity.mu.
	err := a.timeoutLocked(typ)
	err.Stack, err.noStack = rt.stackLocked(t)
	t.cancel(err)
	// If the caller's context has just ended, the Context has that cause, and the function
	// may have seen it. Then this is a cancellation and not a timeout.
	if context.Cause(t.Context) != error(err) {
		a.mu.Unlock()
		a.checkParentLocked()
		return
	}
	t.over.Store(true)
	a.mu.Unlock()

	t.ended = when
	rt.counts.timeouts++
	t.abandonLocked()
	t.logs = rt.scheduler.logsLocked()
	t.logs.deciding++
	a.failure = err
	a.setPhaseLocked(phaseDeciding, a.closeBy())
	if typ == TimeoutScheduleToClose || a.opts.RetryPolicy.Retryable == nil || rt.drain.begun.Load() {
		a.decideLocked()
	} else {
		go t.askRetryable(err)
	}
}

// timeoutLocked returns the error of a timeout of type typ, without a stack. Runtime.mu
// and activity.mu are held.
func (a *activity) timeoutLocked(typ TimeoutType) *TimeoutError {
	e := &TimeoutError{
		ID: a.id(), Name: a.name(), Type: typ, Attempt: a.attempts,
		LastFailure: oneLevel(a.failure), Details: a.details.share(), Codec: a.rt.cfg.Codec,
	}
	switch typ {
	case TimeoutHeartbeat:
		e.After = a.opts.HeartbeatTimeout
	case TimeoutStartToClose:
		e.After = a.opts.StartToCloseTimeout
	case TimeoutScheduleToStart:
		e.After = a.opts.ScheduleToStartTimeout
	case TimeoutScheduleToClose:
		e.After = a.opts.ScheduleToCloseTimeout
	}
	return e
}

// failWaitLocked ends an activity whose wait for the next attempt has timed out.
func (a *activity) failWaitLocked(typ TimeoutType) {
	a.finishLocked(StateFailed, RetryStateTimeout, a.waitTimeoutLocked(typ))
}

// waitTimeoutLocked counts, and returns the error of, a timeout while no attempt runs.
func (a *activity) waitTimeoutLocked(typ TimeoutType) *TimeoutError {
	a.rt.counts.timeouts++
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.timeoutLocked(typ)
}

// abandonStoppedLocked abandons the function of a canceled or paused attempt, which has not
// returned within CancelGrace. It returns the function's stack, or the reason why there is none.
func (a *activity) abandonStoppedLocked() (stack []byte, noStack string) {
	t := a.latest
	stack, noStack = a.rt.stackLocked(t)
	log := a.abandonedLog(stack, noStack)
	a.mu.Lock()
	t.over.Store(true)
	a.mu.Unlock()
	t.ended = a.rt.now
	t.abandonLocked()
	a.emitLocked(EventAbandoned, t.number, nil, 0, log)
	return stack, noStack
}

// askRetryable calls RetryPolicy.Retryable with the error of the attempt, which has just
// failed, and acts on the answer. If Retryable panics, the error is retryable. It is user
// code, so no lock may be held. The activity waits in phaseDeciding.
func (t *attempt) askRetryable(err error) {
	a, retryable := t.a, true
	// Deferred, so that the activity does not hang if Retryable calls runtime.Goexit.
	defer func() {
		a.rt.enter()
		// Otherwise a cancellation or an alarm has decided without waiting for the answer.
		if a.phase == phaseDeciding && a.latest == t {
			t.verdict.final = !retryable
			a.decideLocked()
		}
		a.rt.leave()
	}()
	a.rt.protect(a, "RetryPolicy.Retryable", func() { retryable = a.opts.RetryPolicy.Retryable(err) })
}

// decideLocked decides what follows an attempt that has failed: the end, a backoff, or
// the next attempt at once. It runs once for each failed attempt, in phaseDeciding, and
// leaves that phase.
func (a *activity) decideLocked() {
	// In phaseDeciding a cancellation calls decideLocked itself.
	if a.checkParentLocked() {
		return
	}
	if a.rt.drain.begun.Load() && a.cancelCause == nil { // there is no other attempt
		a.cancelCause = ErrShutdown
	}
	rt, t, p := a.rt, a.latest, &a.opts.RetryPolicy
	timeout, v := t.timedOut(), t.verdict
	// This comes before n, because with ResetOnProgress it moves countedFrom.
	a.noteProgressLocked(t)
	n := t.number - a.countedFrom

	var retry RetryState
	switch {
	case timeout == TimeoutScheduleToClose:
		retry = RetryStateTimeout
	case v.final:
		retry = RetryStateNonRetryableFailure
	case p.MaximumAttempts > 0 && n >= p.MaximumAttempts:
		retry = RetryStateMaximumAttemptsReached
	}
	var delay time.Duration
	switch {
	case retry != 0, a.paused: // Unpause waits for no backoff
	case timeout == TimeoutHeartbeat && !a.stalled:
		// No delay, because the timeout was the wait. After a second heartbeat timeout
		// in a row without progress there is one, so that a function that always hangs
		// does not retry as fast as it times out.
	case v.delay > 0:
		delay = v.delay
	default:
		delay = p.interval(n, rt.random(p))
	}
	a.due = rt.now.add(delay)
	switch {
	case a.cancelCause != nil:
		// due stays set: an interrupted activity stores it, and the next execution waits
		// for the rest of the backoff.
		retry, delay = RetryStateCancelRequested, 0
	case retry == 0 && a.closeBy() != never && a.due >= a.closeBy():
		// The next attempt would begin at the deadline or after it. So the activity fails
		// now, with the error of the last attempt, and does not wait for the deadline.
		retry, delay = RetryStateTimeout, 0
	}
	a.stalled = timeout == TimeoutHeartbeat

	a.emitLocked(EventAttemptFailed, t.number, a.failure, delay, a.failedLog(retry, delay))
	if t.abandoned {
		a.emitLocked(EventAbandoned, t.number, nil, 0, nil)
	}
	// So that the failure and the end of the backoff are durable within SaveInterval
	// (rule 35).
	if a.rec != nil {
		a.rec.saveSoonLocked(rt)
	}
	switch {
	case retry == RetryStateCancelRequested:
		a.finishLocked(StateCanceled, retry, &canceledError{cause: a.cancelCause, result: a.failure})
	case retry != 0:
		a.finishLocked(StateFailed, retry, a.failure)
	case a.paused:
		a.enterPausedLocked(nil, nil)
	case delay == 0:
		// phaseDeciding holds a slot. Unless it is blocked, the next attempt keeps that
		// slot and does not queue.
		a.proceedLocked()
	default:
		a.setPhaseLocked(phaseBackingOff, a.due)
	}
	if t.returnedEarly {
		t.abandonedReturnedLocked()
	}
	t.logs.decidedLocked()
}

// noteProgressLocked records whether the latest attempt, t, which is over, made progress.
func (a *activity) noteProgressLocked(t *attempt) {
	a.mu.Lock()
	progressed := t.progressed
	a.mu.Unlock()
	if progressed {
		a.progressed, a.stalled = a.countedLocked(), false
	}
	if a.opts.RetryPolicy.resets(progressed, t.ranLocked()) {
		a.countedFrom = t.number - 1
	}
}

// countedLocked returns the number of the last attempt that counts. The latest one does not
// if it was canceled or paused, or if it has ended in ErrCannotResume. The next attempt, which another
// process may start, then has its number.
func (a *activity) countedLocked() int {
	if t := a.latest; t != nil && (t.stopped || t.verdict.cannotResume) {
		return t.number - 1
	}
	return a.attempts
}

// finishCanceledLocked ends an activity whose attempt was canceled with err.
func (a *activity) finishCanceledLocked(err error) {
	a.noteProgressLocked(a.latest)
	a.finishLocked(StateCanceled, RetryStateCancelRequested, err)
}

// finishLocked sets the outcome of the activity, which does not change any more. err is
// nil if the activity has completed. If the activity is not stored, it ends at once. A
// stored success ends when its checkpoint is deleted. A stored failure or cancellation
// ends after one try to save its checkpoint.
//
// If the Store is lost, the activity ends at once and is canceled, whatever the outcome was.
func (a *activity) finishLocked(outcome State, retry RetryState, err error) {
	lost := a.rec != nil && a.rt.writer.lost
	if lost {
		outcome, retry, err = StateCanceled, RetryStateCancelRequested, lostError(err)
		a.rec.a, a.rec.waiters = nil, nil
	}
	a.decideOutcomeLocked(outcome, retry, err)
	// If there is no time left to wait for the Store, the activity ends now. Its record
	// stays dirty, and is saved in the background.
	if !lost && a.rec != nil && a.rec.saveEndLocked(err) {
		if until := a.endByLocked(); until > a.rt.now {
			a.setPhaseLocked(phaseSavingEnd, until)
			return
		}
	}
	a.endLocked()
}

// decideOutcomeLocked sets the outcome and the callers' error. err is nil if the activity has
// completed. In phaseSavingEnd it replaces an outcome that is being saved.
func (a *activity) decideOutcomeLocked(outcome State, retry RetryState, err error) {
	states := &a.rt.counts.states
	states[a.stateLocked()]--
	a.outcome = outcome
	states[a.stateLocked()]++
	if err != nil {
		a.err = &Error{ID: a.id(), Name: a.name(), Attempt: a.attempts, RetryState: retry, Err: err}
	}
}

// endSoon is how long an activity that fails at its schedule-to-close deadline or later
// still waits for the Store. Without it, no such failure would be saved before its caller
// gets the error.
const endSoon = 100 * time.Millisecond

// endByLocked returns when phaseSavingEnd is over, even if the Store has not answered.
func (a *activity) endByLocked() instant {
	now := a.rt.now
	switch {
	case a.phase == phaseCanceling:
		// The rest of CancelGrace, even if the function has completed: it bounds
		// everything that follows a cancellation.
		return a.until
	case a.outcome == StateCanceled:
		return now.add(a.opts.CancelGrace)
	case a.outcome == StateCompleted:
		return never
	case a.closeBy() > now:
		return a.closeBy()
	case len(a.rt.writer.turn) > 0:
		// A write is in flight, which may hang. Schedule-to-close has passed already.
		return now
	}
	return now.add(endSoon)
}

// endSavedLocked is called with the result of each try to save the end of the activity.
// It ends the activity, except a success whose checkpoint could not be deleted: that waits
// for the next try, unless it was canceled. Runtime.mu is held.
func (a *activity) endSavedLocked(err error) {
	switch r := a.rec; {
	case a.phase != phaseSavingEnd: // a cancellation or the alarm has ended the activity
	case err != nil && r.gone && a.cancelCause == nil:
		r.endFailed = true
		r.waiters = append(r.waiters, a.endSavedLocked)
	default:
		a.endLocked()
	}
}

// endLocked ends the activity and reports that. The callers are released once the last
// event is delivered: by the goroutine that delivers it or, if nothing is to be delivered,
// at once.
func (a *activity) endLocked() {
	rt := a.rt
	a.setPhaseLocked(phaseEnded, never)
	rt.unlinkLocked(a)
	kind := EventCompleted
	switch a.outcome {
	case StateFailed:
		kind = EventFailed
	case StateCanceled:
		kind = EventCanceled
	}
	a.emitLocked(kind, a.attempts, a.err, 0, nil)
	a.mu.Lock()
	rt.counts.heartbeats += a.beats
	release := !a.delivery.closeLocked()
	a.mu.Unlock()
	if release {
		a.releaseLocked()
	}
}

// releaseLocked releases the caller's context, and then the callers. So the context no
// longer references the activity when Wait returns. For Run, Run's own goroutine releases
// the context.
func (a *activity) releaseLocked() {
	if a.stopWatch != nil {
		a.stopWatch()
		if a.releaseBase != nil {
			// Not in this goroutine: releaseBase may call methods of the caller's
			// context, which may need a lock that a caller of the Runtime holds.
			go func() {
				defer func() { // deferred because these methods may panic or call runtime.Goexit
					_ = recover()
					a.rt.enter()
					a.closeDoneLocked()
					a.rt.leave()
				}()
				a.releaseBase()
			}()
			return
		}
	}
	a.closeDoneLocked()
}

// closeDoneLocked releases the callers: awaitEnd and Wait return, and Shutdown no longer
// waits for the activity.
func (a *activity) closeDoneLocked() {
	a.released = true
	a.freeIDLocked()
	if a.phase == phaseEnded {
		a.dropLocked()
	}
	if a.doneChan != nil {
		a.rt.scheduler.closing = append(a.rt.scheduler.closing, a.doneChan)
	}
	a.rt.shutdown.doneLocked()
}

// dropLocked drops the input of an activity that has ended, so that a Handle does not
// keep it in memory. The body keeps its input while an abandoned function may still read
// it. With an Interceptor that is not known, since it may call the function in a goroutine
// of its own.
func (a *activity) dropLocked() {
	if a.rec != nil {
		a.rec.input = nil
	}
	if a.abandoned == 0 && a.rt.cfg.Interceptor == nil {
		a.body.release()
	}
}

// done returns a channel that is closed when the callers are released. It is created on
// demand, because Run usually does without it. Runtime.mu must not be held.
func (a *activity) done() <-chan struct{} {
	a.rt.mu.Lock()
	defer a.rt.mu.Unlock()
	if a.doneChan == nil {
		a.doneChan = make(chan struct{})
		if a.released {
			close(a.doneChan)
		}
	}
	return a.doneChan
}
