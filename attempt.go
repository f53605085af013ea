package activity

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// An attempt is one run of an activity's function, and the Context it gets. The
// embedded context is the standard library's cancelCtx, which context.Cause and
// cheap child contexts depend on; it ends when the attempt is over.
type attempt struct {
	context.Context
	cancel context.CancelCauseFunc // called with activity.mu held

	a           *activity
	number      int
	started     moment
	closeBy     instant // the earlier deadline of start-to-close and schedule-to-close
	resumesFrom []byte  // details; never written
	lastFailure error   // how the attempt before it ended

	// over fences the attempt: nothing it reports or returns counts any more.
	// Set once, under activity.mu and after the Context has ended.
	over atomic.Bool

	// Guarded by activity.mu.
	beatBy      instant       // the heartbeat deadline; see heartbeatBy
	granted     time.Duration // by how much pauses of the process have moved beatBy since the last heartbeat
	outermost   Context       // what an Interceptor passed on: the attempt, or a wrapper of it
	progressed  bool          // it recorded details that differ from those it resumed from
	causeGiven  bool          // Sleep, Idle, Range or Guard returned the Context's cause
	rangeCalled bool
	guards      int32 // functions inside Guard now
	syncing     int32 // heartbeats that wait for the Store now

	// Guarded by Runtime.mu.
	abandoned     bool         // left behind by a timeout, or at the end of CancelGrace
	verdict       verdict      // about the error that it ended in
	returnedEarly bool         // abandoned by a timeout, and its function returned while Retryable was being asked
	logs          *instantLogs // of the instant at which it timed out
}

func (t *attempt) String() string { return fmt.Sprintf("%s, attempt %d", t.a, t.number) }

// A result is what an attempt's function returned.
type result struct {
	out     any
	err     error
	verdict verdict // what err itself says
	text    string  // of err, if it is to be stored
}

// run is the attempt's goroutine.
func (t *attempt) run() {
	var r result
	defer t.end(&r) // deferred for a function that calls runtime.Goexit
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

// intercepted is not a part of call because its closure moves the result to the
// heap. The Interceptor may call next in another goroutine and not wait for it, so the
// result is guarded, and a panic of the function is caught here, where it happens.
func (t *attempt) intercepted(intercept func(Context, func(Context) error) error) (any, error) {
	var mu sync.Mutex
	var result any
	err := intercept(t, func(c Context) (err error) {
		t.a.mu.Lock()
		t.outermost = c
		over := t.over.Load()
		t.a.mu.Unlock()
		if over { // nothing that the function does would count
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

// end takes what the function returned.
func (t *attempt) end(r *result) {
	if t.over.Load() {
		t.a.rt.returns.add(t.a.rt, t)
		return
	}
	var cause error
	// Deferred because methods of the error, and of the caller's context, may call
	// runtime.Goexit.
	defer func() { t.returned(r, cause) }()
	if r.err != nil {
		r.verdict.read(r.err)
		if t.a.rec != nil {
			r.text = cutFailure(short(r.err))
		}
	}
	cause = t.a.callerEnded()
}

// callerEnded returns the cause if the caller's context has ended, which the function may
// know before the Runtime does. It calls user code, so no lock may be held.
func (a *activity) callerEnded() (cause error) {
	defer func() {
		if recover() != nil {
			cause = ended(a.base)
		}
	}()
	return ended(a.parent)
}

// returned does what the function's return leads to. If the caller's context has ended,
// cause is not nil. That comes before what is due now.
func (t *attempt) returned(r *result, cause error) {
	a, rt := t.a, t.a.rt
	rt.lock()
	if cause != nil {
		a.cancelLocked(cause)
	}
	rt.settleLocked()
	ask := a.functionReturnedLocked(t, r)
	rt.leave()
	if ask {
		t.askRetryable(r.err)
	}
}

// returns are the attempts whose abandoned functions have returned. When thousands
// return together, because they have stalled at one instant, only one of their
// goroutines waits for Runtime.mu, and it does the others' work too.
type returns struct {
	mu      sync.Mutex
	waiting []*attempt
	busy    bool // a goroutine is working on those that wait
}

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

// timedOut is the timeout that has ended the attempt, or 0 if it ended in another
// way. It must be the activity's latest. Runtime.mu is held.
func (t *attempt) timedOut() TimeoutType {
	if err, ok := t.a.failure.(*TimeoutError); ok && t.abandoned {
		return err.Type
	}
	return 0
}

// heartbeatBy is the heartbeat deadline. There is none while a heartbeat waits
// for the Store. Activity.mu is held.
func (t *attempt) heartbeatBy() instant {
	if t.syncing > 0 {
		return never
	}
	return t.beatBy
}

// lockSettled locks activity.mu. If one of the attempt's deadlines is due, the
// scheduler settles it first.
func (t *attempt) lockSettled(now instant) {
	a := t.a
	a.mu.Lock()
	if now >= t.heartbeatBy() || now >= t.closeBy {
		a.mu.Unlock()
		a.rt.enter()
		a.rt.leave()
		a.mu.Lock()
	}
}

// attemptKey finds the attempt below all wrappers.
type attemptKey struct{}

func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// heartbeatAfterEnd returns what Heartbeat returns to a function that has ctx, which
// is derived from an attempt's Context and outlives it. To record the same details
// again changes nothing. Another engine does not tell how its Heartbeat went.
func heartbeatAfterEnd(ctx Context, details []any) error {
	if t := attemptOf(ctx); t != nil {
		return t.heartbeat(ctx, details)
	}
	return nil
}

// noteCause tells the engine that the function is about to get err.
func noteCause(ctx Context, err error) error {
	if t := attemptOf(ctx); t != nil {
		return t.noteCause(err)
	}
	if cause := ctx.Sleep(0); cause != nil {
		return cause
	}
	return err
}

// noteCause returns err to the function. It notes that the function has been given
// the Context's cause, if err is that and not the cause of a derived context.
func (t *attempt) noteCause(err error) error {
	if err == nil {
		return nil
	}
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if cause := ended(t.Context); cause != nil && same(err, cause) {
		t.causeGiven = true
	}
	return err
}

// The methods below implement Context, except Heartbeat, and Engine.

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

// Deadline is for the standard library, which compares it with the wall clock:
// under any other clock there is none.
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
	if ctx.Err() == nil && d > 0 {
		alarm := t.a.rt.newWaitTimer(d)
		select {
		case <-alarm.c:
		case <-ctx.Done():
			alarm.stop()
		}
	}
	// The context may have ended at the instant of the wake-up: a timeout comes first.
	return t.noteCause(ended(ctx))
}

// Guard implements [Engine].
func (t *attempt) Guard(f func() error) error {
	a := t.a
	t.lockSettled(a.rt.read())
	if err := ended(t.Context); err != nil {
		a.mu.Unlock()
		return t.noteCause(err)
	}
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
