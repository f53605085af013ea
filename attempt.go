package activity

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity/internal/ctxchain"
)

// An attempt is one run of an activity's function. It is also the Context that the
// function gets. The embedded context is the standard library's own cancelCtx, because
// only that makes context.Cause and cheap child contexts work. It ends when the attempt is
// over, canceled or paused.
//
// An attempt ends in one of two ways. Either its function returns, and the attempt's
// goroutine reports the result. Or a timeout, or the end of CancelGrace, fences the
// attempt first: the function is then abandoned, and what it reports or returns later is
// ignored.
type attempt struct {
	context.Context
	cancel context.CancelCauseFunc // called with activity.mu held; the first cause wins

	// Set before the attempt starts, and not changed.
	a           *activity
	number      int
	started     moment
	closeBy     instant // the start-to-close or the schedule-to-close deadline, whichever is earlier
	resumesFrom []byte  // the encoded details from which the attempt resumes
	lastFailure error   // error of the last attempt that failed; nil if none did

	// over fences the attempt: nothing that the function reports or returns counts any
	// more. Set once, under activity.mu, after the Context has ended. It may be read
	// without the lock, but only under activity.mu it cannot change meanwhile.
	over atomic.Bool

	// Guarded by activity.mu.
	beatBy         instant       // the heartbeat deadline, unless a heartbeat waits for the Store; see heartbeatBy
	granted        time.Duration // total extension of beatBy since the last heartbeat, for pauses of the process
	outermost      Context       // the Context that an Interceptor passed to next; nil before that
	progressed     bool          // set once, by details that differ from resumesFrom
	causeGiven     bool          // set once, when a helper that cuts work short, such as Sleep, returns the Context's cause, or ErrShutdown in a drain, to the function
	drainTold      bool          // set once, when one of these returns ErrShutdown in a drain
	beatsTold      int32         // number of heartbeats that have returned ErrShutdown in a drain, without those that the function does not see: see swallowed
	longNoted      bool          // set once, by the first heartbeat after RetryPolicy.ResetAfter
	rangeCalled    bool          // set once, by BeginRange
	guards         int32         // number of functions inside Guard, with those inside Commit
	storeWaits     int32         // number of heartbeats and Commits that wait for the Store
	drainCommitted bool          // set once, by the first Commit that begins in a drain
	commitFailed   error         // error of a Commit that failed, and may have happened; set once

	// Guarded by Runtime.mu.
	ended         instant      // when the function returned, or the attempt timed out or was abandoned; never until then
	stopped       bool         // set once, when the attempt is canceled or paused
	abandoned     bool         // set once, by a timeout or at the end of CancelGrace, while the function runs
	verdict       verdict      // whether the error of the attempt is retried; set when the attempt has failed
	returnedEarly bool         // whether the abandoned function returned before decideLocked had reported the timeout
	logs          *instantLogs // log lines of the instant at which the attempt timed out; nil if it did not
}

// ranLocked is how long the attempt has run, or ran. Runtime.mu is held.
func (t *attempt) ranLocked() time.Duration {
	return min(t.ended, t.a.rt.now).since(t.started.at)
}

func (t *attempt) String() string { return fmt.Sprintf("%s, attempt %d", t.a, t.number) }

// A result is what an attempt's function returned, with everything about the error that
// only user code knows. That is found out before Runtime.mu is locked.
type result struct {
	out     any
	err     error
	verdict verdict // decision of err itself about a retry
	text    string  // the text of err, for the checkpoint; empty if nothing is stored
}

// run is the attempt's goroutine.
func (t *attempt) run() {
	var r result
	// Deferred, so that the attempt ends even if the function calls runtime.Goexit.
	defer t.end(&r)
	// The attempt may be over before its goroutine gets a processor. Then the function
	// must not begin, since a later attempt may be running already.
	if !t.over.Load() {
		t.call(&r)
	}
}

// call runs the function. It must not be inlined: dumpStacks finds the
// attempt's goroutine by this frame's receiver.
//
//go:noinline
func (t *attempt) call(r *result) {
	returned := false
	defer func() {
		if returned {
			return
		}
		// If the function has neither returned nor panicked, it has called
		// runtime.Goexit. The goroutine then ends after its deferred calls.
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
	// A dump prints the receiver's address reliably only while the receiver is live.
	runtime.KeepAlive(t)
}

// intercepted calls the Interceptor around the function. It is not a part of call,
// because its closure moves the result to the heap, which attempts without an Interceptor
// would pay for.
//
// The Interceptor may call next in another goroutine and not wait for it. So the result
// is guarded by a lock, and a panic of the function is caught here, where it happens:
// the deferred function of call runs in the attempt's goroutine only.
func (t *attempt) intercepted(intercept func(Context, func(Context) error) error) (any, error) {
	var mu sync.Mutex
	var result any
	err := intercept(t, func(c Context) (err error) {
		t.a.mu.Lock()
		t.outermost = c
		over := t.over.Load()
		t.a.mu.Unlock()
		// The Interceptor may call next late. Nothing that the function does would count.
		if over {
			return ended(t.Context)
		}
		defer func() {
			if v := recover(); v != nil {
				err = newPanicError(v)
			}
		}()
		out, err := t.a.body.run(c)
		mu.Lock()
		result = out
		mu.Unlock()
		return err
	})
	mu.Lock()
	defer mu.Unlock()
	return result, err
}

// end reports the result of the function to the Runtime. It calls all user code that is
// needed for that first, because no lock is held yet.
func (t *attempt) end(r *result) {
	if t.over.Load() {
		t.a.rt.returns.add(t.a.rt, t)
		return
	}
	var cause error
	// Deferred, because the methods of the error and of the caller's context are user
	// code, which may call runtime.Goexit. The attempt must end even then.
	defer func() { t.returned(r, cause) }()
	if r.err != nil {
		r.verdict.read(r.err)
		if t.a.rec != nil {
			r.text = cutFailure(short(r.err))
		}
	}
	cause = t.a.callerEnded()
}

// callerEnded returns the cause of the caller's context if that has ended, and otherwise
// nil. It looks at the caller's own context, because base may end a moment later, and the
// function may have returned because it saw the caller's end. It calls user code, so no
// lock may be held.
func (a *activity) callerEnded() (cause error) {
	defer func() {
		if recover() != nil {
			cause = ended(a.base)
		}
	}()
	return ended(a.parent)
}

// returned ends the attempt with the result of its function. If cause is not nil, the
// caller's context has ended with it. In that case the activity is canceled before
// deadlines that are due now are settled, because the function may have returned on
// account of that end. Otherwise a deadline that is due now comes before the return.
func (t *attempt) returned(r *result, cause error) {
	a, rt := t.a, t.a.rt
	rt.lock()
	if cause != nil {
		a.cancelLocked(cause)
	}
	rt.settleLocked()
	deliver := a.takeDelivery()
	ask := a.functionReturnedLocked(t, r)
	rt.leave()
	switch {
	case deliver && ask:
		go a.deliver() // a subscriber must not keep Retryable from being asked
	case deliver:
		a.deliver()
	}
	if ask {
		t.askRetryable(r.err)
	}
}

// returns is a queue of attempts whose abandoned functions have returned. If thousands
// stall at one instant, their functions also return together when their Contexts end. Then
// only one of their goroutines locks Runtime.mu, and processes the returns of all others,
// so that they do not contend for it.
type returns struct {
	mu      sync.Mutex // leaf lock: not held while Runtime.mu is being locked
	waiting []*attempt
	busy    bool // whether a goroutine is processing the queue
}

// add queues t. Unless another goroutine is doing that, it processes the queue until it is
// empty.
func (r *returns) add(rt *Runtime, t *attempt) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, t)
	if r.busy {
		return
	}
	r.busy = true
	for len(r.waiting) > 0 {
		batch := r.waiting
		r.waiting = nil
		r.mu.Unlock()
		rt.enter()
		for _, t := range batch {
			t.abandonedReturnedLocked()
		}
		rt.leave()
		r.mu.Lock()
	}
	r.busy = false
}

// timedOut returns the type of the timeout that ended the attempt, or 0 if it ended in
// another way. An error that the function returned may be a *TimeoutError too, of an inner
// activity, but then the attempt is not abandoned. The attempt must be the activity's
// latest. Runtime.mu is held.
func (t *attempt) timedOut() TimeoutType {
	if err, ok := t.a.failure.(*TimeoutError); ok && t.abandoned {
		return err.Type
	}
	return 0
}

// heartbeatBy returns the heartbeat deadline. It is never while a heartbeat waits for the
// Store, because a slow Store is not a stall of the function. activity.mu is held.
func (t *attempt) heartbeatBy() instant {
	if t.storeWaits > 0 {
		return never
	}
	return t.beatBy
}

// lockSettled locks activity.mu. If one of the attempt's deadlines is due at now, it has
// the scheduler settle that first, because a heartbeat at the deadline is too late. So the
// caller need only look at over and at the Context.
func (t *attempt) lockSettled(now instant) {
	a := t.a
	a.mu.Lock()
	if now >= t.heartbeatBy() || now >= t.closeBy {
		// Runtime.mu comes before activity.mu. enter settles what is due.
		a.mu.Unlock()
		a.rt.enter()
		a.rt.leave()
		a.mu.Lock()
	}
}

// attemptKey is the key under which Value returns the attempt itself, below all wrappers.
type attemptKey struct{}

// attemptOf returns the attempt from which ctx is derived, or nil if ctx belongs to
// another engine.
func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// heartbeatAfterEnd repeats a heartbeat whose Context had ended, for ctx, which is derived
// from that Context but does not end with it. It returns only errors of the heartbeat
// itself. Recording the same details a second time changes nothing. Of another engine it
// is not known how its Heartbeat went, so that counts as a success.
func heartbeatAfterEnd(ctx Context, details []any) error {
	if t := attemptOf(ctx); t != nil {
		return t.heartbeat(ctx, details)
	}
	return nil
}

// noteCause tells the engine of ctx that the function is about to get err, which may be
// the cause of its Context, and returns err. It is for the helpers that cut work short,
// such as Range. Another engine notes that in its Sleep, so Sleep(0) is called.
func noteCause(ctx Context, err error) error {
	if t := attemptOf(ctx); t != nil {
		return t.noteCause(err)
	}
	if cause := ctx.Sleep(0); cause != nil {
		return cause
	}
	return err
}

// noteCause returns err. If err is the cause of the attempt's Context, and not that of a
// derived context, it records that the function has got the cause: from then on, a nil
// that the function returns does not mean that it has completed.
func (t *attempt) noteCause(err error) error {
	if err == nil {
		return nil
	}
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if cause := ended(t.Context); cause != nil && same(err, cause) {
		t.causeGiven = true
	} else if err == ErrShutdown && t.a.rt.drain.begun.Load() {
		t.causeGiven, t.drainTold = true, true
	}
	return err
}

// The methods below implement Context and Engine. Heartbeat and HeartbeatDetails are in
// heartbeat.go.

// Value implements [context.Context].
func (t *attempt) Value(key any) any {
	switch key {
	case contextKey{}, engineKey{}, attemptKey{}:
		return t
	case wrappedKey{}:
		t.a.mu.Lock()
		defer t.a.mu.Unlock()
		return t.outermost
	}
	return t.Context.Value(key)
}

// Deadline implements [context.Context]. The standard library compares the deadline with
// the wall clock, so under any clock but the real one there is none. Info().Deadline has
// it under every clock.
func (t *attempt) Deadline() (time.Time, bool) {
	if !t.a.rt.real {
		return time.Time{}, false
	}
	callers, ok := t.Context.Deadline()
	own := t.deadline()
	if own.IsZero() || ok && callers.Before(own) {
		return callers, ok
	}
	return own, true
}

// deadline returns closeBy as a time of day, or the zero Time if there is none.
func (t *attempt) deadline() time.Time {
	if t.closeBy == never {
		return time.Time{}
	}
	return t.a.rt.time(moment{t.closeBy, t.started.moved})
}

// Info implements [Context].
func (t *attempt) Info() Info {
	o := &t.a.opts
	return Info{
		ID: t.a.id(), Name: t.a.name(),
		Attempt:     t.number,
		ScheduledAt: t.a.rt.time(t.a.scheduled), StartedAt: t.a.rt.time(t.started), Deadline: t.deadline(),
		StartToCloseTimeout: o.StartToCloseTimeout, HeartbeatTimeout: o.HeartbeatTimeout, ScheduleToCloseTimeout: o.ScheduleToCloseTimeout,
		MaximumAttempts: o.RetryPolicy.MaximumAttempts,
		LastFailure:     t.lastFailure,
		Header:          o.Header,
	}
}

// Logger implements [Context].
func (t *attempt) Logger() *slog.Logger {
	return t.a.rt.logger().With("id", t.a.id(), "name", t.a.name(), "attempt", t.number)
}

// Sleep implements [Context].
func (t *attempt) Sleep(d time.Duration) error { return t.SleepContext(t, d) }

// SleepContext implements [Engine].
func (t *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	var drain <-chan struct{} // nil if ctx outlives the attempt
	if ctxchain.EndsWithAttempt(ctx) {
		drain = t.a.rt.drain.signal
	}
	if ctx.Err() == nil && d > 0 && !t.asked(ctx) {
		alarm := t.a.rt.newWaitTimer(d)
		select {
		case <-alarm.c:
		case <-ctx.Done():
			alarm.stop()
		case <-drain:
			alarm.stop()
		}
	}
	// The context may have ended at the instant of the wake-up. A timeout comes first.
	if err := ended(ctx); err != nil {
		return t.noteCause(err)
	}
	return t.noteCause(t.drained(ctx))
}

// Guard implements [Engine].
func (t *attempt) Guard(f func() error) error {
	a := t.a
	t.lockSettled(a.rt.read())
	if err := ended(t.Context); err != nil {
		a.mu.Unlock()
		return t.noteCause(err)
	}
	// Counted under the same lock under which the Context was found alive. So if the
	// attempt ends now, proceedLocked sees the guard and does not start the next attempt.
	t.guards++
	a.mu.Unlock()

	defer func() {
		a.mu.Lock()
		t.guards--
		release := t.guards == 0 && t.over.Load()
		a.mu.Unlock()
		if release {
			a.rt.enter()
			a.unblockLocked()
			a.rt.leave()
		}
	}()
	return f()
}

// BeginRange implements [Engine].
func (t *attempt) BeginRange() bool {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	first := !t.rangeCalled
	t.rangeCalled = true
	return first
}
