package activity

import (
	"container/list"
	"context"
	"fmt"
	"reflect"
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
	StateWaiting          // for a slot of MaxConcurrent, or for the Store to hold the next attempt's start
	StateRunning          // an attempt runs, or has just ended and RetryPolicy.Retryable is being asked, or the Store told of the end
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
	rt        *Runtime
	opts      settings
	body      body
	base      context.Context // what attempts derive from
	caller    *caller         // nil: base is Start's context, and never ends
	scheduled instant
	moved     time.Duration  // see Runtime.wallMoved; when it was scheduled
	rec       *record        // nil: nothing of it is stored
	ended     sync.WaitGroup // done when err is set and the last event is delivered

	// Guarded by Runtime.mu.
	prev, next  *activity     // in the list from Runtime.head; next also in Runtime.answers
	number      uint64        // in order of scheduling
	waiting     *list.Element // in Runtime.waiting
	latest      *attempt      // the last that was started
	countedFrom int           // attempts up to this number no longer count
	failure     error         // how latest ended
	until       instant       // StateWaiting: schedule-to-start; StateBackingOff: the next attempt; canceled: the end of CancelGrace
	cancelCause error         // set once
	out         any           // set once
	err         error         // set once
	state       State
	abandoned   int32 // abandoned functions that still run
	place       int32 // of its alarm in Runtime.queue; 0: it is not set
	running     bool  // latest is not over
	deciding    bool  // latest has failed, and what follows is not decided yet
	slot        bool  // has a slot of MaxConcurrent
	stalled     bool  // the attempt before latest ended in a heartbeat timeout

	answered   bool // guarded by mu, and up here for the size: ended is done
	isInt      bool // the same: the newest details are intDetails
	mu         sync.Mutex
	details    []byte // the newest recorded, or, if isInt, intDetails; nil: none; see encodedDetails
	intDetails int
	beats      uint64
	lastBeat   instant
	loop       *rangeState   // of its Range; nil: none yet
	mail       *mailbox      // nil until there is something to tell
	done       chan struct{} // closed with answered; nil until somebody asks for it

	first attempt
}

// A caller is what becomes of a context, given to Start, that can end. Attempts
// derive from a context of the standard library's between it and them, so that
// no user code runs when they are made or canceled.
type caller struct {
	ctx    context.Context
	stop   func() bool // no word of its end any more
	cancel context.CancelCauseFunc
}

func (c *caller) release() {
	c.stop()
	c.cancel(nil)
}

// id is made up each time where it is not given: it is seldom asked for.
func (a *activity) id() string {
	if a.opts.ID != "" {
		return a.opts.ID
	}
	return madeUpID(a.number)
}

const madeUpPrefix = "#" // which no given ID begins with

func madeUpID(number uint64) string {
	return string(strconv.AppendUint([]byte(madeUpPrefix), number, 10))
}

func (a *activity) name() string {
	if a.opts.Name != "" {
		return a.opts.Name
	}
	return runtime.FuncForPC(reflect.ValueOf(a.body.function()).Pointer()).Name()
}

func (a *activity) String() string { return label(a.id(), a.name()) }

func (t *attempt) String() string { return fmt.Sprintf("%s, attempt %d", t.a, t.number) }

// closeBy is the schedule-to-close deadline.
func (a *activity) closeBy() instant { return a.scheduled.deadline(a.opts.ScheduleToCloseTimeout) }

// scheduledAt is the time of day when it was scheduled.
func (a *activity) scheduledAt() time.Time { return a.rt.wallAt(a.scheduled, a.moved) }

// attempt is the number of the last attempt that was started.
func (a *activity) attempt() int {
	switch {
	case a.latest != nil:
		return a.latest.number
	case a.rec != nil:
		return a.rec.before
	}
	return 0
}

// The life of an activity. All that follows, down to the goroutine of an
// attempt, needs Runtime.mu, but for decide.

// checkCaller cancels the activity, and returns true, if the caller's context has ended
// and we have not been told yet.
func (a *activity) checkCaller(now instant) bool {
	if a.caller == nil || a.cancelCause != nil || a.base.Err() == nil {
		return false
	}
	a.cancel(now, nil)
	return true
}

// proceed starts the next attempt, or waits for what it needs.
func (a *activity) proceed(now instant) {
	rt := a.rt
	if a.checkCaller(now) {
		return
	}
	if a.blocked() {
		a.setState(StateBlocked)
		a.setAlarm()
		a.tell(now, EventBlocked, a.attempt(), a.failure, 0, a.blockedLog())
		a.giveUpSlot(now)
		return
	}
	if !a.slot && rt.cfg.MaxConcurrent > 0 {
		a.until = now.deadline(a.opts.ScheduleToStartTimeout)
		a.waiting = rt.waiting.PushBack(a)
		a.setState(StateWaiting)
		a.setAlarm()
		if rt.grantSlots(now); a.waiting != nil {
			a.accept()
		}
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
	return int(a.abandoned) > a.opts.MaxAbandoned || a.guarded()
}

// guarded reports whether a function is inside Guard. It can only be the latest
// attempt's, since no later one starts meanwhile.
func (a *activity) guarded() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.inGuard()
}

// inGuard is guarded with activity.mu held.
func (a *activity) inGuard() bool { return a.latest != nil && a.latest.guards > 0 }

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

// begin starts the next attempt; its start is durable before its function runs.
func (a *activity) begin(now instant) {
	if a.rec != nil {
		a.saveStart()
	} else {
		a.startAttempt(now)
	}
}

func (a *activity) startAttempt(now instant) {
	rt, o := a.rt, &a.opts
	t := &a.first
	if a.latest != nil {
		t = &attempt{a: a}
	}
	t.number, t.started = a.attempt()+1, now
	t.beatBy = now.deadline(o.HeartbeatTimeout)
	t.closeBy = min(a.closeBy(), now.deadline(o.StartToCloseTimeout))
	a.mu.Lock()
	details, moved := a.latestDetails(), rt.wallMoved(now)
	if details != nil || a.failure != nil || moved != a.moved {
		t.from = &origin{details, oneLevel(a.failure), moved}
	}
	a.mu.Unlock()
	a.latest, a.running = t, true
	a.setState(StateRunning)
	a.setAlarmAt(min(t.beatBy, t.closeBy))
	rt.attempts++
	a.accept()
	a.tell(now, EventAttemptStarted, t.number, nil, 0, nil)
	rt.run(t)
}

// nextAlarm is what the activity waits for at present.
func (a *activity) nextAlarm() (when instant, rank int) {
	switch a.state {
	case StateWaiting:
		return min(a.until, a.closeBy()), rankTimeout
	case StateBlocked:
		return a.closeBy(), rankTimeout
	case StateBackingOff:
		return a.until, rankStart
	case StateRunning:
		switch t := a.latest; {
		case a.cancelCause != nil:
			return a.until, rankTimeout
		case a.ending():
		case !a.running:
			return a.closeBy(), rankTimeout
		default:
			a.mu.Lock()
			defer a.mu.Unlock()
			return min(t.heartbeatBy(), t.closeBy), rankTimeout
		}
	}
	return never, rankTimeout
}

// expire does what is due. late is how long ago the earliest deadline of all
// that are due was.
func (a *activity) expire(now instant, late time.Duration) {
	if a.checkCaller(now) {
		return
	}
	if when, _ := a.nextAlarm(); when > now {
		a.setAlarm() // something that was done at the same instant has changed it
		return
	}
	switch a.state {
	case StateWaiting:
		typ := TimeoutScheduleToStart
		if a.closeBy() <= a.until {
			typ = TimeoutScheduleToClose
		}
		a.expireWait(now, typ)
	case StateBlocked:
		a.expireWait(now, TimeoutScheduleToClose)
	case StateBackingOff:
		if a.closeBy() <= now { // the timer comes late
			a.finish(now, StateFailed, RetryStateTimeout, a.failure)
		} else {
			a.proceed(now)
		}
	case StateRunning:
		switch {
		case a.ending():
			a.conclude(now, a.rec.ending)
		case !a.running:
			a.resolve(now, verdict{}) // Retryable takes its time
		case a.cancelCause != nil:
			a.giveUp(now)
		default:
			a.expireAttempt(now, late)
		}
	}
}

// expireWait ends an activity that waited for an attempt for too long.
func (a *activity) expireWait(now instant, typ TimeoutType) {
	a.mu.Lock()
	err := a.timeout(typ)
	a.mu.Unlock()
	a.rt.timeouts++
	a.finish(now, StateFailed, RetryStateTimeout, err)
}

// expireAttempt fences the running attempt if it has timed out.
func (a *activity) expireAttempt(now instant, late time.Duration) {
	t, timeout := a.latest, a.opts.HeartbeatTimeout
	a.mu.Lock()
	// A pause of the process is not a stall: then we come late as well.
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
		a.setAlarm()
		return
	}
	// The error is whole before anybody sees it, and the stack is taken before
	// the function can hear of it. To fence and to cancel is one step for
	// Heartbeat, which looks at both under this lock.
	err := a.timeout(typ)
	err.Stack, err.noStack = a.rt.stack(t, now)
	t.cancel(err)
	if t.ended() != error(err) { // the caller's cancellation was just there first
		a.mu.Unlock()
		a.checkCaller(now)
		return
	}
	t.over.Store(true)
	a.mu.Unlock()

	a.rt.timeouts++
	a.abandon(t)
	t.burst = a.rt.burstNow()
	t.burst.pending++
	a.running, a.failure, a.deciding = false, err, true
	a.setAlarm()
	if typ == TimeoutScheduleToClose || a.opts.RetryPolicy.Retryable == nil {
		a.resolve(now, verdict{})
	} else {
		go a.decide(err)
	}
}

// timedOut is the timeout that the latest attempt, t, has run into, which abandons it.
func (t *attempt) timedOut() TimeoutType {
	if err, ok := t.a.failure.(*TimeoutError); ok && t.abandoned {
		return err.Type
	}
	return 0
}

// abandon counts a function that is left behind. It may have returned at this
// very instant: then it is handed in next, and takeIn takes it back.
func (a *activity) abandon(t *attempt) {
	t.abandoned = true
	a.abandoned++
	a.rt.abandoned++
}

// giveUp ends a canceled activity whose function does not return.
func (a *activity) giveUp(now instant) {
	t := a.latest
	stack, noStack := a.rt.stack(t, now)
	a.mu.Lock()
	t.over.Store(true)
	a.mu.Unlock()
	a.abandon(t)
	a.tell(now, EventAbandoned, t.number, nil, 0, a.abandonedLog(stack, noStack))
	t.reported = true
	a.uncount(t)
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
		a.rt.own = a
		a.resolve(now, v)
		a.rt.unlock()
	}()
	a.judge(err, &v)
}

// resolve decides what follows an attempt that has failed.
func (a *activity) resolve(now instant, v verdict) {
	if !a.deciding {
		return // something has decided meanwhile
	}
	if a.checkCaller(now) {
		return // which has brought us here once more
	}
	a.deciding = false
	t, p := a.latest, &a.opts.RetryPolicy
	timeout := t.timedOut()
	heartbeat := timeout == TimeoutHeartbeat
	progressed := a.noteProgress(t)
	n := t.number - a.countedFrom

	var retry RetryState
	var delay time.Duration
	switch {
	case a.cancelCause != nil:
		retry = RetryStateCancelRequested
	case timeout == TimeoutScheduleToClose:
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
	if retry == 0 && a.closeBy() != never && next >= a.closeBy() {
		retry, delay = RetryStateTimeout, 0
	}
	a.stalled = heartbeat

	a.tell(now, EventAttemptFailed, t.number, a.failure, delay, a.failedLog(retry, delay))
	if t.abandoned {
		a.tell(now, EventAbandoned, t.number, nil, 0, nil)
		t.reported = true
	}
	if a.rec != nil {
		a.rec.saveBy(a.rt, now)
	}
	switch {
	case retry == RetryStateCancelRequested:
		a.finish(now, StateCanceled, retry, &canceledError{cause: a.cancelCause, result: a.failure})
	case retry != 0:
		a.finish(now, StateFailed, retry, a.failure)
	case delay == 0:
		if !heartbeat {
			a.giveUpSlot(now)
		}
		a.proceed(now)
	default:
		a.backOff(next)
		a.giveUpSlot(now)
	}
	if t.abandoned && t.returned { // while Retryable was asked
		t.endAbandoned(now)
	}
	t.burst.resolved()
}

// backOff waits for the next attempt.
func (a *activity) backOff(next instant) {
	a.until = next
	a.setState(StateBackingOff)
	a.setAlarm()
}

// cancel ends the attempt's context, or the wait for the next attempt. The
// first cause wins.
func (a *activity) cancel(now instant, cause error) {
	if a.state.ended() || a.cancelCause != nil {
		return
	}
	if a.caller != nil && a.base.Err() != nil {
		cause = context.Cause(a.base)
	}
	a.cancelCause = cause
	switch {
	case a.ending():
		a.cancelEnding(now)
	case a.state == 0: // schedule sees it
	case a.rec != nil && a.rec.loading: // recall sees it
		a.cancelAttempt(&a.first)
	case a.running:
		a.cancelAttempt(a.latest)
		a.until = now.add(a.opts.CancelGrace)
		a.setAlarm()
	case a.deciding:
		a.resolve(now, verdict{})
	case a.failure != nil:
		a.finish(now, StateCanceled, RetryStateCancelRequested, &canceledError{cause: cause, result: a.failure})
	default:
		a.finish(now, StateCanceled, RetryStateCancelRequested, cause)
	}
}

// cancelAttempt ends t's Context, if it has not ended yet.
func (a *activity) cancelAttempt(t *attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t.cancel(a.cancelCause)
	a.cancelCause = t.ended()
}

// finish ends the activity. Its callers hear of success once its checkpoint is
// gone, of a failure once the Store was tried, and of a cancellation at once.
func (a *activity) finish(now instant, state State, retry RetryState, err error) {
	a.running = false
	a.accept()
	if err != nil {
		a.err = &Error{ID: a.id(), Name: a.name(), Attempt: a.attempt(), RetryState: retry, Err: err}
	}
	switch r := a.rec; {
	case r == nil:
	case state == StateCanceled:
		r.end(now, state, err, nil)
	default:
		r.end(now, state, err, a.endTried)
		r.ending = state
		a.setState(StateRunning)
		a.setAlarm()
		a.giveUpSlot(now)
		return
	}
	a.conclude(now, state)
}

// ending reports whether the activity has ended, and its callers are to hear of it
// when that is saved.
func (a *activity) ending() bool { return a.rec != nil && a.rec.ending != 0 }

// conclude tells of the end.
func (a *activity) conclude(now instant, state State) {
	rt := a.rt
	a.setState(state)
	a.setAlarm()
	rt.unlink(a)
	kind := EventCompleted
	switch {
	case state == StateCanceled:
		kind = EventCanceled
	case a.err != nil:
		kind = EventFailed
	}
	a.tell(now, kind, a.attempt(), a.err, 0, nil)
	if !a.close() { // else unblock does it
		rt.freeID(a)
	}
	a.giveUpSlot(now)
}

// setState moves the activity to state, and keeps the Runtime's counts.
func (a *activity) setState(state State) {
	a.rt.states[a.state]--
	a.rt.states[state]++
	a.state = state
	if a.waiting != nil && (state != StateWaiting || a.slot) {
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
	if rt.shutdown.Load() {
		return // whoever waits is about to be canceled
	}
	for e := rt.waiting.Front(); e != nil && rt.slots > 0; {
		a := e.Value.(*activity)
		e = e.Next()
		if min(a.until, a.closeBy()) <= now {
			continue // timed out at this instant, and about to be told
		}
		if a.checkCaller(now) {
			continue
		}
		rt.slots--
		a.slot = true
		a.begin(now)
	}
}

// The goroutine of an attempt.

// A result is what an attempt's function returned.
type result struct {
	out any
	err error
}

func (t *attempt) run() {
	var r result
	defer t.end(&r) // also if the function calls runtime.Goexit
	if !t.over.Load() {
		t.call(&r)
	}
}

// call runs the function. The receiver that a dump of all goroutines prints for
// this method finds the attempt's goroutine, which costs a run nothing.
//
//go:noinline
func (t *attempt) call(r *result) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			r.err = newPanicError(v)
		} else {
			r.err = NonRetryable(ErrGoexit)
		}
	}()
	if intercept := t.a.rt.cfg.Interceptor; intercept == nil {
		r.out, r.err = t.a.body.run(t)
	} else {
		r.out, r.err = t.intercepted(intercept)
	}
	returned = true
	runtime.KeepAlive(t)
}

// intercepted is apart from call for the sake of the closure's variable, which
// would cost every run an allocation there.
func (t *attempt) intercepted(intercept func(Context, func(Context) error) error) (out any, err error) {
	err = intercept(t, func(c Context) (err error) {
		out, err = t.a.body.run(handOn(c))
		return err
	})
	return out, err
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

// end is told what the function returned.
func (t *attempt) end(r *result) {
	a, rt := t.a, t.a.rt
	if t.over.Load() {
		rt.handIn(t)
		return
	}
	// The function may know of the caller's cancellation before we do.
	var cause error
	if a.caller != nil && a.caller.ctx.Err() != nil {
		cause = context.Cause(a.caller.ctx)
	}
	rt.enter()
	now := rt.now()
	if cause != nil {
		a.cancel(now, cause)
	}
	rt.settle(now)
	rt.own = a
	if !a.running || t != a.latest {
		t.abandonedReturned(now)
		rt.unlock()
		return
	}
	a.mu.Lock()
	told := t.told
	t.cancel(errReturned)
	t.over.Store(true)
	a.mu.Unlock()
	a.running = false
	switch {
	case r.err == nil && !(a.cancelCause != nil && told):
		a.out = r.out
		a.finish(now, StateCompleted, 0, nil)
	case a.cancelCause != nil:
		a.uncount(t)
		err := a.cancelCause
		if r.err != nil {
			err = &canceledError{cause: a.cancelCause, result: r.err}
		}
		a.finish(now, StateCanceled, RetryStateCancelRequested, err)
	default:
		a.failure, a.deciding = r.err, true
		rt.unlock()
		a.decide(r.err)
		return
	}
	rt.unlock()
}

// handIn hands in an abandoned function that has returned. Thousands may do so while
// the lock is held, and they do not queue for it: who holds it takes them in.
func (rt *Runtime) handIn(t *attempt) {
	for {
		t.next = rt.handedIn.Load()
		if rt.handedIn.CompareAndSwap(t.next, t) {
			break
		}
	}
	if rt.mu.TryLock() {
		rt.settle(rt.now())
		rt.unlock()
	}
}

// takeIn takes in what was handed in. Runtime.mu is held.
func (rt *Runtime) takeIn(now instant) {
	var first *attempt
	for t := rt.handedIn.Swap(nil); t != nil; {
		next := t.next
		t.next, first = first, t
		t = next
	}
	for t := first; t != nil; {
		next := t.next
		t.next = nil
		t.abandonedReturned(now)
		t = next
	}
}

// abandonedReturned is told when an abandoned function has returned. Runtime.mu is held.
func (t *attempt) abandonedReturned(now instant) {
	t.returned = true
	if t.reported { // else resolve does it, so that the order is the same with a Retryable and without
		t.endAbandoned(now)
	}
}

// endAbandoned notes that an abandoned function has returned. Runtime.mu is held.
func (t *attempt) endAbandoned(now instant) {
	a := t.a
	a.abandoned--
	a.rt.abandoned--
	a.tell(now, EventAbandonedReturned, t.number, nil, 0, nil)
	a.unblock(now)
}

// timeout makes the error of a timeout. Activity.mu is held.
func (a *activity) timeout(typ TimeoutType) *TimeoutError {
	e := &TimeoutError{
		ID: a.id(), Name: a.name(), Type: typ, Attempt: a.attempt(),
		LastFailure: oneLevel(a.failure), Details: a.latestDetails(), Codec: a.rt.cfg.Codec,
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
