package activity

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync/atomic"
	"time"
)

// Context is what an activity's function gets. It is a context.Context: it ends
// when the attempt is over, and context.Cause says why. (Err says
// context.Canceled in every case, a timeout included. A library that looks at
// Err alone takes a timeout for a cancellation.)
//
// Its methods may be called by several goroutines at once, and after the
// attempt is over.
//
// Wrappers and other engines implement it too. To wrap one, embed it: it may
// grow methods.
type Context interface {
	context.Context

	// Sleep returns nil once d has passed on the runtime's clock. If the
	// attempt is over or canceled before, it returns context.Cause at once.
	// Sleeping is not a heartbeat; [Idle] is both.
	Sleep(d time.Duration) error

	// Heartbeat says that the attempt is alive and, with details, how far it
	// got: what a later attempt needs to go on from there. Details are encoded
	// at once; the newest win. Without details, or with a single nil, those
	// recorded before stay.
	//
	// It returns context.Cause once the attempt is over or canceled: return
	// that error from the function. Details that cannot be encoded or are too
	// large ([ErrDetailsTooLarge]) are a [NonRetryable] error; the attempt still
	// counts as alive, and the details recorded before stay.
	Heartbeat(details ...any) error

	// HeartbeatDetails decodes what this attempt resumes from into the
	// pointers given: the details recorded last before it started. It reports
	// false if there are none. Details that do not decode into what is asked
	// for, or are fewer, are a [NonRetryable] error; more are not. The default
	// Codec refuses fields that the target lacks; a field that was not
	// recorded stays zero.
	HeartbeatDetails(into ...any) (bool, error)

	// Info describes the attempt.
	Info() Info

	// Logger is the runtime's, with the attributes id, name and attempt.
	Logger() *slog.Logger
}

// Info describes an attempt to its function.
type Info struct {
	ID, Name               string
	Attempt                int           // from 1
	ScheduledAt            time.Time     // when the activity was scheduled: the same for all attempts, restarts included
	StartedAt              time.Time     // when this attempt started
	Deadline               time.Time     // the earlier of start-to-close and schedule-to-close, on the runtime's clock; zero if there is none
	StartToCloseTimeout    time.Duration // 0: none, as below
	HeartbeatTimeout       time.Duration
	ScheduleToCloseTimeout time.Duration
	MaximumAttempts        int   // 0: no limit
	LastFailure            error // how the attempt before ended; nil for the first
}

// An attempt is one run of an activity's function, and the Context it gets.
type attempt struct {
	a       *activity
	number  int
	started instant
	from    *origin  // nil: nothing to resume from, no failure, and the activity's moved
	next    *attempt // in Runtime.runFirst, and when abandoned in handedIn

	// Guarded by activity.mu.
	std        atomic.Pointer[standard] // nil until somebody asks; written under mu, and read without
	cause      error                    // why the Context has ended, while std is nil; see ended
	over       atomic.Bool              // fences the attempt: set once, after the Context has ended; read without mu too
	beatBy     instant                  // the heartbeat deadline; see heartbeatBy
	closeBy    instant                  // the earlier of start-to-close and schedule-to-close; set once
	granted    time.Duration            // what beatBy was moved by since the last heartbeat, for pauses of the process
	progressed bool                     // recorded other details than it resumed from
	told       bool                     // Sleep, Idle, Range or Guard returned the attempt's cause
	ranged     bool                     // Range was called
	guards     int32                    // functions inside Guard now
	syncing    int32                    // heartbeats that wait for the Store now

	// Guarded by Runtime.mu.
	returned  bool   // the function has returned
	abandoned bool   // left behind by a timeout, or at the end of CancelGrace
	reported  bool   // EventAbandoned was told
	burst     *burst // of the attempts that timed out at the same instant
}

// An origin is what an attempt starts from.
type origin struct {
	details []byte        // what it resumes from; never written
	failure error         // how the attempt before ended
	moved   time.Duration // see Runtime.wallMoved
}

func (t *attempt) resume() []byte {
	if t.from == nil {
		return nil
	}
	return t.from.details
}

func (t *attempt) lastFailure() error {
	if t.from == nil {
		return nil
	}
	return t.from.failure
}

type (
	contextKey struct{} // finds the Context
	attemptKey struct{} // finds the *attempt under all wrappers
)

// A standard is a cancelCtx of the standard library: context.Cause and cheap child
// contexts depend on it.
type standard struct {
	context.Context
	cancel context.CancelCauseFunc
}

// context makes what the standard library is to know of the attempt when somebody
// asks for it. A function that only sends heartbeats never does, and what was not
// made need not be canceled.
func (t *attempt) context() *standard {
	if s := t.std.Load(); s != nil {
		return s
	}
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	s := t.std.Load()
	if s == nil {
		base := a.base
		if a.caller == nil || t.cause != nil { // it never ends, or came too late
			base = context.WithoutCancel(base)
		}
		s = &standard{}
		s.Context, s.cancel = context.WithCancelCause(base)
		if t.cause != nil {
			s.cancel(t.cause)
		}
		t.std.Store(s)
	}
	return s
}

// ended returns why the Context has ended, or nil if it has not. Activity.mu is held.
func (t *attempt) ended() error {
	switch s := t.std.Load(); {
	case s != nil:
		return ended(s)
	case t.cause == nil && t.a.caller != nil:
		return ended(t.a.base)
	}
	return t.cause
}

// cancel ends the Context, if it has not ended yet. Activity.mu is held.
func (t *attempt) cancel(cause error) {
	if s := t.std.Load(); s != nil {
		s.cancel(cause)
	} else if t.ended() == nil {
		t.cause = cause
	}
}

// Done implements [context.Context].
func (t *attempt) Done() <-chan struct{} { return t.context().Done() }

// Err implements [context.Context].
func (t *attempt) Err() error { return t.context().Err() }

// Value implements [context.Context].
func (t *attempt) Value(key any) any {
	switch key {
	case contextKey{}, attemptKey{}:
		return t
	}
	return t.context().Value(key)
}

// Deadline is for the standard library, which compares it with the wall clock:
// under any other clock there is none.
func (t *attempt) Deadline() (time.Time, bool) {
	if !t.a.rt.real {
		return time.Time{}, false
	}
	callers, ok := t.a.base.Deadline()
	own := t.deadline()
	if own.IsZero() || ok && callers.Before(own) {
		return callers, ok
	}
	return own, true
}

func (t *attempt) startedAt() time.Time {
	moved := t.a.moved
	if t.from != nil {
		moved = t.from.moved
	}
	return t.a.rt.wallAt(t.started, moved)
}

func (t *attempt) deadline() time.Time {
	if t.closeBy == never {
		return time.Time{}
	}
	return t.startedAt().Add(time.Duration(t.closeBy - t.started))
}

// heartbeatBy is the heartbeat deadline, which rests while a heartbeat waits for
// the Store. Activity.mu is held.
func (t *attempt) heartbeatBy() instant {
	if t.syncing > 0 {
		return never
	}
	return t.beatBy
}

// due reports whether a deadline has been reached. Activity.mu is held.
func (t *attempt) due(now instant) bool {
	return now >= t.heartbeatBy() || now >= t.closeBy
}

// noteTold notes that the function has been told of the attempt's end, if err, which
// it is about to get, is the attempt's cause and not that of a context of its own.
func (t *attempt) noteTold(err error) error {
	if err != nil {
		t.a.mu.Lock()
		defer t.a.mu.Unlock()
		if cause := t.ended(); cause != nil && (!reflect.ValueOf(cause).Comparable() || err == cause) {
			t.told = true
		}
	}
	return err
}

// noteTold does so for the attempt that ctx is derived from. Another engine notes
// what its Sleep has returned.
func noteTold(ctx Context, err error) error {
	if t := attemptOf(ctx); t != nil {
		return t.noteTold(err)
	}
	if told := ctx.Sleep(0); told != nil {
		return told
	}
	return err
}

// methodsOf finds methods that a Context may have besides Context's: its own, or
// those of what it wraps.
func methodsOf[T any](ctx Context) (T, bool) {
	for _, c := range [...]any{ctx, ctx.Value(contextKey{}), ctx.Value(attemptKey{})} {
		if m, ok := c.(T); ok {
			return m, true
		}
	}
	var none T
	return none, false
}

func attemptOf(ctx context.Context) *attempt {
	t, _ := ctx.Value(attemptKey{}).(*attempt)
	return t
}

// Info implements [Context].
func (t *attempt) Info() Info {
	o := &t.a.opts
	return Info{
		ID: t.a.id(), Name: t.a.name(),
		Attempt:     t.number,
		ScheduledAt: t.a.scheduledAt(), StartedAt: t.startedAt(), Deadline: t.deadline(),
		StartToCloseTimeout: o.StartToCloseTimeout, HeartbeatTimeout: o.HeartbeatTimeout, ScheduleToCloseTimeout: o.ScheduleToCloseTimeout,
		MaximumAttempts: o.RetryPolicy.MaximumAttempts,
		LastFailure:     t.lastFailure(),
	}
}

// Logger implements [Context].
func (t *attempt) Logger() *slog.Logger {
	return t.a.rt.logger().With("id", t.a.id(), "name", t.a.name(), "attempt", t.number)
}

// Sleep implements [Context].
func (t *attempt) Sleep(d time.Duration) error { return t.SleepContext(t, d) }

// SleepContext is Sleep that ends when ctx ends, too; see [FromContext].
func (t *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	if ctx.Err() == nil && d > 0 {
		rt := t.a.rt
		s := &sleeper{wake: make(chan struct{}, 1)}
		now := rt.lock()
		s.seq = rt.nextSeq()
		rt.queue.push(alarm{when: now.add(d), s: s})
		rt.unlock()
		awake := false
		select {
		case <-s.wake:
			awake = true
		case <-ctx.Done():
		case <-t.Done(): // ctx need not be derived from t
		}
		if !awake {
			rt.lock()
			rt.queue.remove(s.place)
			rt.unlock()
		}
	}
	// Looked at after the wake-up too: at the same instant, a timeout comes first.
	err := ended(ctx)
	if err == nil {
		err = ended(t)
	}
	return t.noteTold(err)
}

// ended returns the cause of a context that has ended, else nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// Guard implements [Guard].
func (t *attempt) Guard(f func() error) error {
	a := t.a
	now := a.rt.now()
	a.mu.Lock()
	if t.due(now) {
		a.mu.Unlock()
		a.rt.catchUp()
		a.mu.Lock()
	}
	if err := t.ended(); err != nil {
		a.mu.Unlock()
		return t.noteTold(err)
	}
	t.guards++
	a.mu.Unlock()

	defer func() {
		a.mu.Lock()
		t.guards--
		free := t.guards == 0 && t.over.Load()
		a.mu.Unlock()
		if free {
			now := a.rt.lock()
			a.unblock(now)
			a.rt.unlock()
		}
	}()
	return f()
}

// NewContext returns a context, derived from ctx, from which [FromContext] gives
// c. It is for wrappers and other engines.
func NewContext(ctx context.Context, c Context) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the activity's Context that ctx is derived from, and
// whether there is one. What it returns keeps ctx's own values and
// cancellation: its Sleep ends when ctx ends, and its Heartbeat then returns
// ctx's cause, although it still records.
//
// For that Sleep, a Context that has a method SleepContext(ctx context.Context,
// d time.Duration) error, which ends when ctx ends, is asked by that method. The
// runtime's own has it. A wrapper that does not is passed over, and another
// engine's Context that does not sleeps on until its own end.
func FromContext(ctx context.Context) (Context, bool) {
	if c, ok := ctx.(Context); ok {
		return c, true
	}
	c, ok := ctx.Value(contextKey{}).(Context)
	if !ok {
		return nil, false
	}
	return &derived{Context: c, ctx: ctx}, true
}

// derived is an activity's Context as seen from a context derived from it.
type derived struct {
	Context
	ctx context.Context
}

func (d *derived) Deadline() (time.Time, bool) { return d.ctx.Deadline() }
func (d *derived) Done() <-chan struct{}       { return d.ctx.Done() }
func (d *derived) Err() error                  { return d.ctx.Err() }
func (d *derived) Value(key any) any           { return d.ctx.Value(key) }
func (d *derived) String() string              { return fmt.Sprint(d.Context) }

func (d *derived) Heartbeat(details ...any) error {
	if err := d.Context.Heartbeat(details...); err != nil {
		return err
	}
	return ended(d.ctx)
}

func (d *derived) Sleep(dur time.Duration) error {
	if d.ctx.Done() == d.Context.Done() {
		return d.Context.Sleep(dur)
	}
	return d.SleepContext(d.ctx, dur)
}

func (d *derived) SleepContext(ctx context.Context, dur time.Duration) error {
	type sleeper interface {
		SleepContext(ctx context.Context, d time.Duration) error
	}
	if s, ok := d.Context.(sleeper); ok {
		return s.SleepContext(ctx, dur)
	}
	if t := attemptOf(d); t != nil {
		return t.SleepContext(ctx, dur)
	}
	if err := d.Context.Sleep(dur); err != nil {
		return err
	}
	return ended(ctx)
}

func (d *derived) Guard(f func() error) error {
	if err := ended(d.ctx); err != nil {
		return noteTold(d, err)
	}
	return Guard(d.Context, f)
}

// Resume returns what the attempt resumes from: the heartbeat details recorded
// last, or initial if there are none. It returns initial with the error of
// [Context.HeartbeatDetails].
func Resume[T any](ctx Context, initial T) (T, error) {
	var details T
	found, err := ctx.HeartbeatDetails(&details)
	if err != nil || !found {
		return initial, err
	}
	return details, nil
}

// RangeProgress is what [Range] records: the next number, and where it ends.
type RangeProgress struct{ Next, To int }

// Range is a loop that resumes: it calls body for each i with from <= i < to,
// starting with the first that no earlier attempt has recorded as done, and
// records a [RangeProgress] with a heartbeat after each. A body must heartbeat
// only without details, if it takes longer than the heartbeat timeout.
//
// An error of body ends the loop and is returned as it is. Range returns the
// cause if the attempt is over before the last body is done, and the error if
// recording fails. Once the last body is done it returns nil.
//
// One activity has one Range: a second one, details that no Range recorded and
// a recorded Next above to are NonRetryable errors. For phases, [Resume] a
// struct of your own.
//
// Another engine's Context says whether a Range is the first of its attempt by a
// method BeginRange() bool.
func Range(ctx Context, from, to int, body func(i int) error) error {
	if r, ok := methodsOf[interface{ BeginRange() bool }](ctx); ok && !r.BeginRange() {
		return NonRetryable(fmt.Errorf("%s: attempt %d called activity.Range twice; one activity has one Range, for phases Resume a struct of your own", label(ctx.Info().ID, ctx.Info().Name), ctx.Info().Attempt))
	}
	var progress RangeProgress
	found, err := ctx.HeartbeatDetails(&progress)
	if err != nil {
		return fmt.Errorf("activity.Range: what was recorded is not a Range's: %w", err)
	}
	next := from
	if found {
		next = max(from, progress.Next)
	}
	if found && progress.Next > to {
		return NonRetryable(fmt.Errorf("activity.Range from %d to %d: an earlier attempt recorded %d as the next, which is beyond the end", from, to, progress.Next))
	}
	if t := attemptOf(ctx); t != nil {
		t.a.noteRange(&rangeState{from, next, to})
	}
	for i := next; i < to; i++ {
		if err := ended(ctx); err != nil {
			return noteTold(ctx, err)
		}
		if err := body(i); err != nil {
			return err
		}
		err := ctx.Heartbeat(RangeProgress{i + 1, to})
		if err == nil || ctx.Err() != nil {
			continue // recorded, or else logged
		}
		if i+1 < to {
			return err
		}
		ctx.Logger().Error("activity: the end of a Range is not recorded, a later attempt would run its last body again", "error", err)
	}
	return nil
}

// BeginRange reports whether this is the attempt's first [Range].
func (t *attempt) BeginRange() bool {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	first := !t.ranged
	t.ranged = true
	return first
}

// rangeState is a Range, for Status.
type rangeState struct{ from, next, to int }

func (a *activity) noteRange(s *rangeState) {
	a.mu.Lock()
	a.loop = s
	a.mu.Unlock()
}

// Idle is a Sleep for pollers: it sends a heartbeat without details when it
// begins, and at least one every half HeartbeatTimeout until d has passed. It
// returns what [Context.Sleep] and [Context.Heartbeat] do.
func Idle(ctx Context, d time.Duration) error {
	step := d
	if timeout := ctx.Info().HeartbeatTimeout; timeout > 0 {
		step = max(timeout/2, 1)
	}
	for {
		if err := ctx.Heartbeat(); err != nil {
			return noteTold(ctx, err)
		}
		if d <= 0 {
			return nil
		}
		nap := min(d, step)
		if err := ctx.Sleep(nap); err != nil {
			return err
		}
		if d -= nap; d <= 0 {
			return nil
		}
	}
}

// Guard runs f, for side effects that must not overlap the work of a later
// attempt: it runs f only while the attempt's Context has not ended, else it
// returns the cause; and while f runs no later attempt starts, nor a new
// execution of the same ID ([ErrAlreadyRunning]). f's error or panic passes
// through. Keep f short: a stall inside f holds up the retry.
//
// A Context that has a method Guard(f func() error) error does it itself. A
// wrapper that has one, and may be wrapped again, needs a Value method as well,
// which passes on to NewContext(inner, wrapper).Value.
func Guard(ctx Context, f func() error) error {
	type guard interface{ Guard(f func() error) error }
	if g, ok := ctx.(guard); ok {
		return g.Guard(f)
	}
	if err := ended(ctx); err != nil { // the wrapper's own end
		return noteTold(ctx, err)
	}
	if g, ok := methodsOf[guard](ctx); ok {
		return g.Guard(f)
	}
	return f()
}
