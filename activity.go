package activity

import (
	"container/list"
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// State is where an activity is in its life.
type State int

const (
	_               State = iota
	StateWaiting          // for a slot of MaxConcurrent
	StateRunning          // an attempt runs, or has just ended and RetryPolicy.Retryable is being asked
	StateBackingOff       // until the next attempt
	StateBlocked          // the next attempt waits for functions of earlier ones that hang, or are inside Guard
	StateCompleted        // final: the function returned nil
	StateFailed           // final: there is no further attempt
	StateCanceled         // final
)

func (s State) String() string {
	return enum("State", int(s), "", "waiting", "running", "backing off", "blocked", "completed", "failed", "canceled")
}

func (s State) ended() bool { return s >= StateCompleted }

// An activity is one execution: all attempts, from Start to the answer.
//
// Runtime.mu guards its life, activity.mu what heartbeats touch, so that the
// heartbeats of many activities do not meet. The order is Runtime.mu, then
// activity.mu.
type activity struct {
	rt          *Runtime
	opts        Options // with defaults
	body        func(Context) (any, error)
	fn          uintptr         // the function that names the activity if Options.Name does not
	number      uint64          // in order of scheduling; makes the ID if Options.ID does not
	caller      context.Context // Start's
	base        context.Context // what attempts derive from; the standard library's own, so that no user code runs when they do
	release     func()          // takes base off caller; nil: nothing to do
	scheduledAt time.Time
	scheduled   instant
	closeBy     instant       // the schedule-to-close deadline
	ended       chan struct{} // closed when out and err are set and the last event is delivered

	// Guarded by Runtime.mu.
	state       State
	prev, next  *activity // in Runtime.live
	alarm       alarm
	waiting     *list.Element // in Runtime.waiting
	slot        bool          // has a slot of MaxConcurrent
	current     *attempt      // the attempt that runs; nil: it is over
	latest      *attempt      // the last that was started
	countedFrom int           // attempts up to this number no longer count
	failure     error         // how latest ended
	stalled     bool          // the attempt before latest ended in a heartbeat timeout
	startBy     instant       // in StateWaiting: the schedule-to-start deadline
	backoffTo   instant       // in StateBackingOff
	graceBy     instant       // once canceled: when a function that does not return is given up
	cancelCause error         // set once
	zombies     int           // abandoned functions that still run
	out         any           // set once
	err         error         // set once

	mu         sync.Mutex
	details    []byte // the newest recorded; the buffer is used again, see record
	recorded   bool   // there are details
	beats      uint64
	lastBeat   instant
	rangeDone  int
	rangeTotal int
	outbox     []letter
	delivering bool

	first attempt
}

// id is made up each time where it is not given: it is seldom asked for.
func (a *activity) id() string {
	if a.opts.ID != "" {
		return a.opts.ID
	}
	return madeUpID(a.number)
}

const madeUpPrefix = "activity-"

func madeUpID(number uint64) string { return madeUpPrefix + strconv.FormatUint(number, 10) }

func (a *activity) name() string {
	if a.opts.Name != "" {
		return a.opts.Name
	}
	return runtime.FuncForPC(a.fn).Name()
}

func (a *activity) String() string { return label(a.id(), a.name()) }

// attempt is the number of the last attempt that was started.
func (a *activity) attempt() int {
	if a.latest == nil {
		return 0
	}
	return a.latest.number
}

// The life of an activity. All that follows, to the end of expire, needs
// Runtime.mu.

// proceed starts the next attempt, or waits for what it needs.
func (a *activity) proceed(now instant) {
	rt := a.rt
	if a.blocked() {
		a.setState(StateBlocked)
		a.setAlarm()
		a.tell(now, Event{Kind: EventBlocked, Attempt: a.attempt(), Err: a.failure}, rt.blockedLog(a.latest))
		a.giveUpSlot(now)
		return
	}
	if !a.slot && rt.cfg.MaxConcurrent > 0 {
		a.startBy = now.deadline(a.opts.ScheduleToStartTimeout)
		a.waiting = rt.waiting.PushBack(a)
		a.setState(StateWaiting)
		a.setAlarm()
		rt.grantSlots(now)
		return
	}
	a.begin(now)
}

// blocked reports whether the next attempt must wait for a function of an
// earlier one.
func (a *activity) blocked() bool {
	if a.latest == nil {
		return false
	}
	return a.zombies > max(a.opts.MaxAbandoned, 0) || a.guarded()
}

// guarded reports whether a function is inside Guard. It can only be the latest
// attempt's, since no later one starts meanwhile.
func (a *activity) guarded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.latest != nil && a.latest.guards > 0
}

// unblock looks again at what a function that is out of the way had held up.
func (a *activity) unblock(now instant) {
	switch {
	case a.state == StateBlocked:
		if !a.blocked() {
			a.proceed(now)
		}
	case a.state.ended() && !a.guarded():
		a.rt.freeID(a)
	}
}

// begin starts an attempt.
func (a *activity) begin(now instant) {
	rt, o := a.rt, &a.opts
	t := &a.first
	if a.latest != nil {
		t = &attempt{}
		t.Context, t.cancel = context.WithCancelCause(a.base)
	}
	t.a, t.number, t.started, t.startAt, t.last = a, a.attempt()+1, now, a.scheduledAt, oneLevel(a.failure)
	if now != a.scheduled {
		t.startAt = rt.wall(now)
	}
	a.mu.Lock()
	t.resume = a.latestDetails()
	t.beatBy = now.deadline(o.HeartbeatTimeout)
	t.closeBy = min(a.closeBy, now.deadline(o.StartToCloseTimeout))
	a.mu.Unlock()
	a.latest, a.current = t, t
	a.setState(StateRunning)
	a.setAlarm()
	rt.attempts++
	a.tell(now, Event{Kind: EventAttemptStarted, Attempt: t.number}, nil)
	go t.run()
}

// nextAlarm is what the activity waits for now.
func (a *activity) nextAlarm() (instant, int) {
	switch a.state {
	case StateWaiting:
		return min(a.startBy, a.closeBy), rankTimeout
	case StateBlocked:
		return a.closeBy, rankTimeout
	case StateBackingOff:
		return a.backoffTo, rankStart
	case StateRunning:
		switch t := a.current; {
		case t == nil:
		case a.cancelCause != nil:
			return a.graceBy, rankTimeout
		default:
			a.mu.Lock()
			defer a.mu.Unlock()
			return min(t.beatBy, t.closeBy), rankTimeout
		}
	}
	return never, rankTimeout
}

// expire does what is due. late is how long ago the earliest deadline of all
// that are due was.
func (a *activity) expire(now instant, late time.Duration) {
	if when, _ := a.nextAlarm(); when > now {
		a.setAlarm() // something that was done at the same instant has changed it
		return
	}
	switch a.state {
	case StateWaiting:
		if a.closeBy <= a.startBy {
			a.finish(now, StateFailed, RetryStateTimeout, a.timeout(TimeoutScheduleToClose))
		} else {
			a.finish(now, StateFailed, RetryStateTimeout, a.timeout(TimeoutScheduleToStart))
		}
	case StateBlocked:
		a.finish(now, StateFailed, RetryStateTimeout, a.timeout(TimeoutScheduleToClose))
	case StateBackingOff:
		a.proceed(now)
	case StateRunning:
		if a.cancelCause != nil {
			a.giveUp(now)
		} else {
			a.expireAttempt(now, late)
		}
	}
}

// expireAttempt fences the running attempt if it has timed out.
func (a *activity) expireAttempt(now instant, late time.Duration) {
	t, timeout := a.current, a.opts.HeartbeatTimeout
	if t.Err() != nil {
		a.cancel(now, t.cause()) // the caller's cancellation was there first
		return
	}
	a.mu.Lock()
	// A pause of the process is not a stall: then we come late as well.
	if t.beatBy <= now && late > max(timeout/10, time.Millisecond) {
		if grant := min(late, timeout-t.granted); grant > 0 {
			t.beatBy = now.add(grant)
			t.granted += grant
		}
	}
	typ, when := TimeoutHeartbeat, t.beatBy
	if t.closeBy <= when {
		typ, when = TimeoutStartToClose, t.closeBy
		if t.closeBy == a.closeBy {
			typ = TimeoutScheduleToClose
		}
	}
	if when > now {
		a.mu.Unlock()
		a.setAlarm()
		return
	}
	// The error is whole before anybody sees it, and the stack is taken before
	// the function can hear of it. To fence and to cancel is one step for
	// Heartbeat, which looks at both under this lock.
	err := a.timeout(typ)
	err.LastFailure = t.last
	err.Details = a.latestDetails()
	err.Stack, err.noStack = a.rt.stack(t, now)
	t.over = err
	t.cancel(err)
	a.mu.Unlock()

	a.abandon(t)
	a.current, a.failure = nil, err
	if a.rt.stalls == nil {
		a.rt.stalls = &burst{}
	}
	a.rt.stalls.total++
	t.stall = a.rt.stalls
	if typ == TimeoutScheduleToClose || a.opts.RetryPolicy.Retryable == nil {
		a.resolve(now, verdict{})
	} else {
		go a.decide(err)
	}
}

// abandon counts a function that is left behind. It may have returned at this
// very instant: then end, which comes next, takes it back.
func (a *activity) abandon(t *attempt) {
	t.abandoned = true
	a.zombies++
	a.rt.abandoned++
}

// giveUp ends a canceled activity whose function does not return.
func (a *activity) giveUp(now instant) {
	t := a.current
	stack, noStack := a.rt.stack(t, now)
	a.mu.Lock()
	t.over = a.cancelCause
	a.mu.Unlock()
	a.abandon(t)
	a.tell(now, Event{Kind: EventAbandoned, Attempt: t.number}, a.rt.abandonedLog(t, stack, noStack))
	t.reported = true
	a.finish(now, StateCanceled, RetryStateCancelRequested, &canceledError{
		cause: a.cancelCause,
		note:  fmt.Sprintf("; its function had not returned %s later and is abandoned", a.opts.CancelGrace),
	})
}

// decide asks the user's code whether the failure of the attempt that has just
// ended is final, and acts on it.
func (a *activity) decide(err error) {
	var v verdict
	defer func() { // also if it calls runtime.Goexit
		now := a.rt.lock()
		a.resolve(now, v)
		a.rt.unlock()
	}()
	v = a.judge(err)
}

// resolve decides what follows an attempt that has failed.
func (a *activity) resolve(now instant, v verdict) {
	t, p := a.latest, &a.opts.RetryPolicy
	timeout, _ := a.failure.(*TimeoutError)
	heartbeat := timeout != nil && timeout.Type == TimeoutHeartbeat
	a.mu.Lock()
	progressed := t.progressed
	a.mu.Unlock()
	if p.ResetOnProgress && progressed {
		a.countedFrom = t.number - 1
	}
	n := t.number - a.countedFrom

	var retry RetryState
	var delay time.Duration
	switch {
	case a.cancelCause != nil:
		retry = RetryStateCancelRequested
	case timeout != nil && timeout.Type == TimeoutScheduleToClose:
		retry = RetryStateTimeout
	case v.final:
		retry = RetryStateNonRetryableFailure
	case p.MaximumAttempts > 0 && n >= p.MaximumAttempts:
		retry = RetryStateMaximumAttemptsReached
	case heartbeat && !(a.stalled && !progressed):
		// The timeout was the wait.
	case v.override:
		delay = v.delay
	default:
		delay = p.interval(n, a.rt.random(p))
	}
	next := now.add(delay)
	if retry == 0 && a.closeBy != never && next >= a.closeBy {
		retry, delay = RetryStateTimeout, 0
	}
	keepSlot := heartbeat && delay == 0
	a.stalled = heartbeat

	a.tell(now, Event{Kind: EventAttemptFailed, Attempt: t.number, Err: a.failure, Delay: delay}, a.rt.failedLog(t, a.failure, retry, delay))
	if t.abandoned {
		a.tell(now, Event{Kind: EventAbandoned, Attempt: t.number}, nil)
		t.reported = true
		if t.returned {
			a.tell(now, Event{Kind: EventAbandonedReturned, Attempt: t.number}, nil)
		}
	}
	switch {
	case retry == RetryStateCancelRequested:
		a.finish(now, StateCanceled, retry, &canceledError{cause: a.cancelCause, result: a.failure})
		return
	case retry != 0:
		a.finish(now, StateFailed, retry, a.failure)
		return
	}
	if !keepSlot {
		a.giveUpSlot(now)
	}
	if delay == 0 {
		a.proceed(now)
		return
	}
	a.backoffTo = next
	a.setState(StateBackingOff)
	a.setAlarm()
}

// cancel ends the attempt's context, or the wait for the next attempt. The
// first cause wins.
func (a *activity) cancel(now instant, cause error) {
	if a.state.ended() || a.cancelCause != nil {
		return
	}
	a.cancelCause = cause
	switch {
	case a.state == 0: // start sees it
	case a.state != StateRunning:
		err := cause
		if a.failure != nil {
			err = &canceledError{cause: cause, result: a.failure}
		}
		a.finish(now, StateCanceled, RetryStateCancelRequested, err)
	case a.current != nil:
		a.current.cancel(cause)
		a.cancelCause = a.current.cause()
		a.graceBy = now.add(a.opts.CancelGrace)
		a.setAlarm()
	}
}

// finish ends the activity.
func (a *activity) finish(now instant, state State, retry RetryState, err error) {
	rt := a.rt
	a.current = nil
	a.setState(state)
	a.setAlarm()
	rt.unlink(a)
	if !a.guarded() {
		rt.freeID(a)
	}
	a.mu.Lock()
	rt.beats += a.beats
	a.mu.Unlock()
	kind := EventCompleted
	if err != nil {
		a.err = &Error{ID: a.id(), Name: a.name(), Attempt: a.attempt(), RetryState: retry, Err: err}
		kind = EventFailed
		if state == StateCanceled {
			kind = EventCanceled
		}
	}
	a.tell(now, Event{Kind: kind, Attempt: a.attempt(), Err: a.err}, nil)
	a.close()
	a.giveUpSlot(now)
}

// setState moves the activity to state, and keeps the Runtime's counts.
func (a *activity) setState(state State) {
	a.rt.states[a.state]--
	a.rt.states[state]++
	a.state = state
	if a.waiting != nil && state != StateWaiting {
		a.rt.waiting.Remove(a.waiting)
		a.waiting = nil
	}
}

// giveUpSlot passes the activity's slot on, if it has one.
func (a *activity) giveUpSlot(now instant) {
	if a.slot {
		a.slot = false
		a.rt.slots++
		a.rt.grantSlots(now)
	}
}

// grantSlots gives free slots to who has waited longest.
func (rt *Runtime) grantSlots(now instant) {
	for e := rt.waiting.Front(); e != nil && rt.slots > 0; {
		a := e.Value.(*activity)
		e = e.Next()
		if min(a.startBy, a.closeBy) <= now {
			continue // timed out at this instant, and about to be told
		}
		rt.slots--
		a.slot = true
		a.begin(now)
	}
}

// The goroutine of an attempt.

func (t *attempt) run() {
	defer t.end() // also if the function calls runtime.Goexit
	t.a.mu.Lock()
	over := t.over != nil
	t.a.mu.Unlock()
	if !over {
		t.call()
	}
}

// call runs the function. The receiver that a dump of all goroutines prints for
// this method finds the attempt's goroutine, which costs a run nothing.
//
//go:noinline
func (t *attempt) call() {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			t.err = newPanicError(v)
		} else {
			t.err = NonRetryable(ErrGoexit)
		}
	}()
	if intercept := t.a.rt.cfg.Interceptor; intercept == nil {
		t.out, t.err = t.a.body(t)
	} else {
		t.err = intercept(t, func(c Context) (err error) {
			t.out, err = t.a.body(handOn(c))
			return err
		})
	}
	returned = true
	runtime.KeepAlive(t)
}

// handOn makes c what FromContext finds.
func handOn(c Context) Context {
	if t, ok := c.(*attempt); ok {
		return t
	}
	return &derived{Context: c, ctx: NewContext(c, c)}
}

func newPanicError(v any) *PanicError {
	return &PanicError{Value: v, Stack: debug.Stack()}
}

// end hands in what the function returned.
func (t *attempt) end() {
	a, rt := t.a, t.a.rt
	// The function may know of the caller's cancellation before we do.
	var cause error
	if a.caller.Err() != nil {
		cause = context.Cause(a.caller)
	}
	rt.mu.Lock()
	now := rt.now()
	if cause != nil {
		a.cancel(now, cause)
	}
	rt.settle(now)
	t.returned = true
	if t != a.current {
		t.endAbandoned(now)
		rt.unlock()
		return
	}
	a.mu.Lock()
	told := t.told
	t.over = errReturned
	t.cancel(errReturned)
	a.mu.Unlock()
	a.current = nil
	switch {
	case t.err == nil && !(a.cancelCause != nil && told):
		a.out = t.out
		a.finish(now, StateCompleted, 0, nil)
	case a.cancelCause != nil:
		err := a.cancelCause
		if t.err != nil {
			err = &canceledError{cause: a.cancelCause, result: t.err}
		}
		a.finish(now, StateCanceled, RetryStateCancelRequested, err)
	default:
		a.failure = t.err
		a.setAlarm()
		rt.unlock()
		a.decide(t.err)
		return
	}
	rt.unlock()
}

// endAbandoned notes that an abandoned function has returned. Runtime.mu is held.
func (t *attempt) endAbandoned(now instant) {
	a := t.a
	a.zombies--
	a.rt.abandoned--
	if t.reported {
		a.tell(now, Event{Kind: EventAbandonedReturned, Attempt: t.number}, nil)
	}
	a.unblock(now)
}

// timeout makes the error of a timeout.
func (a *activity) timeout(typ TimeoutType) *TimeoutError {
	a.rt.timeouts++
	e := &TimeoutError{
		ID: a.id(), Name: a.name(), Type: typ, Attempt: a.attempt(),
		LastFailure: oneLevel(a.failure), Codec: a.rt.cfg.Codec,
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
