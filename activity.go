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

// An activity is one execution: all its attempts, from Start until done is closed.
//
// Runtime.mu guards its life, activity.mu what heartbeats touch, so that
// heartbeats of different activities do not contend. The order is Runtime.mu,
// then activity.mu. User code runs under neither. Functions whose names end in
// Locked need Runtime.mu, unless their comment names activity.mu.
type activity struct {
	rt     *Runtime
	opts   Options // with defaults
	body   body
	parent context.Context // as given to Start
	base   context.Context // what attempts derive from: see standardContext
	rec    *record         // nil if nothing of it is stored: no Config.Store, or no Options.ID

	// Both let go of the caller's context, and are set before the activity can end.
	stopWatch   func() bool        // ends the watch for its end; nil if Run's goroutine watches, or if it cannot end
	releaseBase context.CancelFunc // frees base, and may run the caller's code; nil if base needs no freeing

	// Guarded by Runtime.mu.
	phase        phase
	stalled      bool          // the attempt before latest ended in a heartbeat timeout
	onPurpose    bool          // cancelCause came from Handle.Cancel
	cannotResume bool          // the latest attempt ended in ErrCannotResume, and does not count
	released     bool          // the callers may go on: it has ended or was refused, and the last event is delivered
	place        int32         // of the alarm in the queue of alarms; 0 if it is not set
	until        instant       // when the phase's alarm rings; of no use in phaseRunning, see alarmAtLocked
	number       uint64        // in order of scheduling
	prev, next   *activity     // in Runtime.ring
	queued       *list.Element // in Runtime.slots
	scheduled    moment
	latest       *attempt      // the last one of this execution; nil before the first
	attempts     int           // the number of the last attempt, those of earlier processes included
	countedFrom  int           // attempts up to this number no longer count
	progressed   int           // the number of the last attempt that made progress
	abandoned    int           // abandoned functions that still run
	due          instant       // when the next attempt may start, if a backoff comes first
	failure      error         // how the last attempt that failed ended
	cancelCause  error         // set once, by the first cancellation
	doneChan     chan struct{} // closed when the callers are released; nil until somebody asks for it
	outcome      State         // set once, with the next two
	out          any
	err          error

	mu       sync.Mutex
	details  recorded
	beats    uint64
	lastBeat instant
	loop     *rangeState // of its Range; nil before that
	delivery *delivery   // nil until there is something to deliver
}

// A body is an activity's function, with its input.
type body interface {
	run(ctx Context) (any, error)
	function() any                  // for its name
	takesInput() bool               // Execute's and Start's does
	encode(c Codec) ([]byte, error) // the input
	release()                       // lets go of the input; run is not called any more
	// again decodes a stored input into the function's type, and encodes that.
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
	if _, strict := codec.(jsonCodec); strict && reflect.TypeFor[In]().Kind() == reflect.Interface {
		data, err = marshal(codec, &c.in) // which keeps the type that it will be decoded into
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

// id is made up on demand, since few ask for it.
func (a *activity) id() string {
	if a.opts.ID != "" {
		return a.opts.ID
	}
	return madeUpPrefix + strconv.FormatUint(a.number, 10)
}

func (a *activity) name() string {
	if a.opts.Name != "" {
		return a.opts.Name
	}
	return runtime.FuncForPC(reflect.ValueOf(a.body.function()).Pointer()).Name()
}

func (a *activity) String() string { return label(a.id(), a.name()) }

// closeBy is the schedule-to-close deadline.
func (a *activity) closeBy() instant { return a.scheduled.at.deadline(a.opts.ScheduleToCloseTimeout) }

// The moves from phase to phase, in the order of an attempt's life. alarmLocked and
// cancelLocked, which choose between them, are in state.go. All need Runtime.mu.

// proceedLocked starts the next attempt, or waits for what the attempt needs.
// checkParentLocked must have been called just before.
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

// blockedLocked reports whether the next attempt must wait for the function of
// an earlier one.
func (a *activity) blockedLocked() bool {
	return a.latest != nil && (a.abandoned > a.opts.MaxAbandoned || a.guardedLocked())
}

// guardedLocked reports whether a function is inside Guard. It can only be the
// latest attempt's, since no later one starts meanwhile.
func (a *activity) guardedLocked() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.guarded()
}

// guarded is guardedLocked with activity.mu held too.
func (a *activity) guarded() bool { return a.latest != nil && a.latest.guards > 0 }

// unblockLocked is called when the function of an attempt that is over has
// returned or left Guard. It lets the next attempt start, or another execution
// have the ID, if nothing else is in the way.
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

// freeIDLocked forgets the ID of an activity that has ended, unless its last event is
// still to be delivered, because the events of the next execution follow it, or its
// function is still inside Guard.
func (a *activity) freeIDLocked() {
	if a.opts.ID != "" && a.released && !a.guardedLocked() {
		a.rt.freeIDLocked(a)
	}
}

// beginLocked starts the next attempt. If the activity is stored, the attempt waits
// until the Store holds its start, or, if it is not the first, has failed to save it.
func (a *activity) beginLocked() {
	if a.rec == nil {
		a.startAttemptLocked()
		return
	}
	a.setPhaseLocked(phaseSavingStart, a.closeBy())
	a.rec.saveLocked(a.rt, a.startSavedLocked)
}

func (a *activity) startAttemptLocked() {
	rt, now := a.rt, a.rt.now
	t := &attempt{
		a: a, number: a.attempts + 1, started: rt.moment(now), lastFailure: oneLevel(a.failure),
		beatBy: now.deadline(a.opts.HeartbeatTimeout), closeBy: min(a.closeBy(), now.deadline(a.opts.StartToCloseTimeout)),
	}
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

// functionReturnedLocked does what the return of attempt t's function leads to. It
// reports whether RetryPolicy.Retryable is to be asked.
func (a *activity) functionReturnedLocked(t *attempt, r *result) (ask bool) {
	if t.abandoned { // since its goroutine looked: a deadline was due
		t.abandonedReturnedLocked()
		return false
	}
	a.mu.Lock()
	causeGiven := t.causeGiven
	t.cancel(errReturned)
	t.over.Store(true)
	a.mu.Unlock()
	switch {
	case r.err == nil && !(a.phase == phaseCanceling && causeGiven):
		a.out = r.out
		a.finishLocked(StateCompleted, 0, nil)
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
		if a.opts.RetryPolicy.Retryable != nil && !r.verdict.final {
			return true
		}
		a.decideLocked()
	}
	return false
}

// abandonLocked counts a function that is left behind.
func (t *attempt) abandonLocked() {
	t.abandoned = true
	t.a.abandoned++
	t.a.rt.counts.abandoned++
}

// abandonedReturnedLocked takes back an abandoned function that has returned.
func (t *attempt) abandonedReturnedLocked() {
	a := t.a
	if a.latest == t && a.phase == phaseDeciding {
		t.returnedEarly = true // decideLocked comes back here, after it has reported the abandonment
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

// timeOutLocked fences the running attempt if it has timed out.
func (a *activity) timeOutLocked(late time.Duration) {
	rt, now := a.rt, a.rt.now
	t, timeout := a.latest, a.opts.HeartbeatTimeout
	a.mu.Lock()
	// A pause of the whole process is not a stall. It makes the alarm late as well.
	if t.heartbeatBy() <= now && late > max(timeout/10, time.Millisecond) {
		if grant := min(late, timeout-t.granted); grant > 0 {
			t.beatBy = now.add(grant)
			t.granted += grant
		}
	}
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
	// The error is complete before anybody can see it, and the stack is taken
	// before the Context ends and the function moves on. The Context's end and
	// the fence are one step for Heartbeat, which looks at both under this lock.
	err := a.timeoutLocked(typ)
	err.Stack, err.noStack = rt.stackLocked(t)
	t.cancel(err)
	if context.Cause(t.Context) != error(err) { // the caller's cancellation was just before
		a.mu.Unlock()
		a.checkParentLocked()
		return
	}
	t.over.Store(true)
	a.mu.Unlock()

	rt.counts.timeouts++
	t.abandonLocked()
	t.logs = rt.scheduler.logsLocked()
	t.logs.deciding++
	a.failure = err
	a.setPhaseLocked(phaseDeciding, a.closeBy())
	if typ == TimeoutScheduleToClose || a.opts.RetryPolicy.Retryable == nil {
		a.decideLocked()
	} else {
		go t.askRetryable(err)
	}
}

// timeoutLocked makes the error of a timeout. Both locks are held.
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

// failWaitLocked ends an activity that has waited for an attempt for too long.
func (a *activity) failWaitLocked(typ TimeoutType) {
	a.finishLocked(StateFailed, RetryStateTimeout, a.waitTimeoutLocked(typ))
}

// waitTimeoutLocked makes and counts the error of a timeout that no attempt meets.
func (a *activity) waitTimeoutLocked(typ TimeoutType) *TimeoutError {
	a.rt.counts.timeouts++
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.timeoutLocked(typ)
}

// abandonCanceledLocked ends a canceled activity whose function does not return.
func (a *activity) abandonCanceledLocked() {
	t := a.latest
	log := a.abandonedLog(a.rt.stackLocked(t))
	a.mu.Lock()
	t.over.Store(true)
	a.mu.Unlock()
	t.abandonLocked()
	a.emitLocked(EventAbandoned, t.number, nil, 0, log)
	a.finishCanceledLocked(&canceledError{
		cause: a.cancelCause,
		note:  fmt.Sprintf("; its function had not returned %s later and is abandoned", a.opts.CancelGrace),
	})
}

// askRetryable asks the user's code whether the failure of the attempt, which has just
// ended, is final, and acts on the answer. A panic is none. No lock is held.
func (t *attempt) askRetryable(err error) {
	a, retryable := t.a, true
	defer func() { // deferred for a Retryable that calls runtime.Goexit
		a.rt.enter()
		if a.phase == phaseDeciding && a.latest == t { // else a cancellation or an alarm has decided
			t.verdict.final = !retryable
			a.decideLocked()
		}
		a.rt.leave()
	}()
	a.rt.protect(a, "RetryPolicy.Retryable", func() { retryable = a.opts.RetryPolicy.Retryable(err) })
}

// decideLocked decides what follows an attempt that has failed.
func (a *activity) decideLocked() {
	if a.checkParentLocked() {
		return // checkParentLocked has called decideLocked
	}
	rt, t, p := a.rt, a.latest, &a.opts.RetryPolicy
	timeout, v := t.timedOut(), t.verdict
	progressed := a.noteProgressLocked(t)
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
	case retry != 0:
	case timeout == TimeoutHeartbeat && !(a.stalled && !progressed):
		// The timeout was the wait: no delay.
	case v.delay > 0:
		delay = v.delay
	default:
		delay = p.interval(n, rt.random(p))
	}
	a.due = rt.now.add(delay)
	a.cannotResume = v.cannotResume && retry == RetryStateNonRetryableFailure
	switch {
	case a.cancelCause != nil: // what is stored says when the next execution may continue
		retry, delay = RetryStateCancelRequested, 0
	case retry == 0 && a.closeBy() != never && a.due >= a.closeBy():
		retry, delay = RetryStateTimeout, 0
	}
	a.stalled = timeout == TimeoutHeartbeat

	a.emitLocked(EventAttemptFailed, t.number, a.failure, delay, a.failedLog(retry, delay))
	if t.abandoned {
		a.emitLocked(EventAbandoned, t.number, nil, 0, nil)
	}
	if a.rec != nil {
		a.rec.saveSoonLocked(rt)
	}
	switch {
	case retry == RetryStateCancelRequested:
		a.finishLocked(StateCanceled, retry, &canceledError{cause: a.cancelCause, result: a.failure})
	case retry != 0:
		a.finishLocked(StateFailed, retry, a.failure)
	case delay == 0: // after a heartbeat timeout
		a.proceedLocked() // with its slot, unless it is blocked
	default:
		a.setPhaseLocked(phaseBackingOff, a.due)
	}
	if t.returnedEarly { // while Retryable was asked
		t.abandonedReturnedLocked()
	}
	t.logs.decidedLocked()
}

// noteProgressLocked notes whether an attempt that is over made progress.
func (a *activity) noteProgressLocked(t *attempt) bool {
	a.mu.Lock()
	progressed := t.progressed
	a.mu.Unlock()
	if progressed {
		a.progressed = t.number
		if a.opts.RetryPolicy.ResetOnProgress {
			a.countedFrom = t.number - 1
		}
	}
	return progressed
}

// finishCanceledLocked ends an activity whose attempt was canceled. What is stored
// does not count that attempt: see saveEndLocked.
func (a *activity) finishCanceledLocked(err error) {
	a.noteProgressLocked(a.latest)
	a.finishLocked(StateCanceled, RetryStateCancelRequested, err)
}

// finishLocked decides how the activity has ended. If it is not stored, it ends at once.
// A stored success ends when its checkpoint is deleted, and any other end when its
// checkpoint was tried to be saved.
func (a *activity) finishLocked(outcome State, retry RetryState, err error) {
	a.outcome = outcome
	if err != nil {
		a.err = &Error{ID: a.id(), Name: a.name(), Attempt: a.attempts, RetryState: retry, Err: err}
	}
	if a.rec != nil && a.rec.saveEndLocked(err) {
		if until := a.endByLocked(); until > a.rt.now {
			a.setPhaseLocked(phaseSavingEnd, until)
			return
		}
	}
	a.endLocked()
}

// endSoon is how long an end at the schedule-to-close deadline waits for the Store.
const endSoon = 100 * time.Millisecond

// endByLocked is until when the end waits for the Store, however long that takes.
func (a *activity) endByLocked() instant {
	now := a.rt.now
	switch {
	case a.phase == phaseCanceling: // also if it has succeeded nevertheless
		return a.until
	case a.outcome == StateCanceled:
		return now.add(a.opts.CancelGrace)
	case a.outcome == StateCompleted:
		return never
	case a.closeBy() > now:
		return a.closeBy()
	case len(a.rt.writer.turn) > 0: // the Store is busy, and may hang
		return now
	}
	return now.add(endSoon)
}

// endSavedLocked is called when the Store was tried in phaseSavingEnd, and ends
// the activity. A success that was not canceled waits until its delete works.
// Runtime.mu is held.
func (a *activity) endSavedLocked(err error) {
	switch r := a.rec; {
	case a.phase != phaseSavingEnd: // a cancellation has ended the wait
	case err != nil && r.gone && a.cancelCause == nil:
		r.endFailed = true
		r.waiters = append(r.waiters, a.endSavedLocked)
	default:
		a.endLocked()
	}
}

// endLocked reports the end, and lets the callers go on once that is delivered.
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

// releaseLocked lets go of the caller's context, and then the callers go on.
func (a *activity) releaseLocked() {
	if a.stopWatch != nil {
		a.stopWatch()
		if a.releaseBase != nil {
			go func() { // a caller of the Runtime may hold a lock that the context needs
				defer func() { // it runs code of the caller's
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

// dropLocked lets go of the input of an activity that has ended, which a Handle would
// keep. A function that still runs keeps it, and with an Interceptor nobody knows.
func (a *activity) dropLocked() {
	if a.rec != nil {
		a.rec.input = nil
	}
	if a.abandoned == 0 && a.rt.cfg.Interceptor == nil {
		a.body.release()
	}
}

// done is closed when the callers may go on. Runtime.mu is not held.
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
