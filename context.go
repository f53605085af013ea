package activity

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/seed-9da638b0/activity/internal/ctxchain"
)

// A Context is the context that an activity's function gets. It is a context.Context that
// ends when the attempt is over, canceled or paused, and context.Cause returns the reason. Err
// returns context.Canceled in every case, even after a timeout, so a library that looks
// only at Err takes a timeout for a cancellation.
//
// Its methods may be called by several goroutines at once, and after the attempt is over.
//
// Wrappers and other engines implement Context too. A wrapper should embed the Context that
// it wraps, because later versions may add methods. See [Engine] for optional methods.
type Context interface {
	context.Context

	// Sleep returns nil once d has passed on the Runtime's clock. If the attempt is over or
	// canceled before that, Sleep returns context.Cause at once. During a [Runtime.Drain]
	// it returns [ErrShutdown] at once, although the Context has not ended. Sleeping is not
	// a heartbeat. [Idle] does both.
	Sleep(d time.Duration) error

	// Heartbeat records that the attempt is alive. With details, it also records how far
	// the attempt got, so that a later attempt can resume from there. Details are encoded
	// at once, and replace those recorded before. Without details, or with a single nil or
	// nil pointer, the details recorded before stay.
	//
	// Once the attempt is over, canceled or paused, Heartbeat returns context.Cause. During a
	// [Runtime.Drain] it records, and returns [ErrShutdown]. Return these errors from the
	// function. If the details cannot be encoded, would not decode to equal
	// values (see [Codec]), or are too large ([ErrDetailsTooLarge]), Heartbeat returns a
	// [NonRetryable] error. The attempt then still counts as alive, and the details
	// recorded before stay.
	Heartbeat(details ...any) error

	// HeartbeatDetails decodes the details from which this attempt resumes into the given
	// pointers. These are the details recorded last before the attempt started. It reports
	// false if there are none. If a value does not decode into its pointer, or if there are
	// fewer values than pointers, it returns [ErrCannotResume]. If there are more values,
	// the rest is ignored. The default Codec refuses a recorded field that the target
	// lacks. A field that was not recorded stays zero.
	HeartbeatDetails(into ...any) (bool, error)

	// Info describes the attempt.
	Info() Info

	// Logger returns Config.Logger with the attributes id, name and attempt.
	Logger() *slog.Logger
}

// Info describes an attempt to its function.
type Info struct {
	ID, Name               string
	Attempt                int           // number of the attempt, from 1
	ScheduledAt            time.Time     // when the activity was scheduled; the same for all attempts, even after a restart of the program
	StartedAt              time.Time     // when this attempt started
	Deadline               time.Time     // start-to-close or schedule-to-close deadline, whichever is earlier; zero if there is none
	StartToCloseTimeout    time.Duration // zero if there is no limit
	HeartbeatTimeout       time.Duration // zero if no heartbeats are needed
	ScheduleToCloseTimeout time.Duration // zero if there is no limit
	MaximumAttempts        int           // zero if there is no limit
	LastFailure            error         // error of the last attempt that failed; nil if none did

	// Header is Options.Header or, if a stored execution continues, what was stored of it. It
	// must not be changed.
	Header map[string]string
}

// An Engine has the methods that [Guard], [Range] and the Sleep of a derived context need
// besides those of Context. The section on wrappers and engines in the package
// documentation says who must implement it, and how.
type Engine interface {
	// SleepContext returns nil once d has passed. If ctx ends before that, it returns
	// ctx's cause at once. ctx is derived from the Context, but through
	// [context.WithoutCancel] may outlive it, so the end of the Context itself must not
	// end the sleep.
	SleepContext(ctx context.Context, d time.Duration) error
	// Guard does what the function [Guard] does, for a Context that has not ended.
	Guard(f func() error) error
	// BeginRange reports whether this is its first call in this attempt.
	BeginRange() bool
}

// Keys of Context.Value.
type (
	contextKey struct{} // the innermost registered Context
	engineKey  struct{} // the Engine
	wrappedKey struct{} // the Context that the Interceptor passed to next
)

// engineOf returns the Engine that ctx is or wraps, or nil if there is none.
func engineOf(ctx Context) Engine {
	if d, ok := ctx.(*derived); ok {
		return engineOf(d.Context)
	}
	e, ok := ctx.(Engine)
	if !ok {
		e, _ = ctx.Value(engineKey{}).(Engine)
	}
	return e
}

// ended returns the cause of ctx if it has ended, and otherwise nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// NewContext returns a context derived from ctx, for which [FromContext] returns c. If c is
// an [Engine], then [Guard], [Range] and Sleep use it. NewContext is for wrappers and
// engines.
func NewContext(ctx context.Context, c Context) context.Context {
	if _, ok := c.(Engine); ok {
		ctx = context.WithValue(ctx, engineKey{}, c)
	}
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the activity's Context from which ctx is derived, and whether there
// is one. The Context that it returns has ctx's own values and cancellation: if ctx ends,
// its Sleep ends, and its Heartbeat returns ctx's cause, although it still records.
//
// If ctx does not end with the attempt, because of [context.WithoutCancel], Sleep and
// Heartbeat do not return the attempt's cause, so that a clean-up can use both. After a
// cancellation, Heartbeat then still records. It returns an error only if the details are
// rejected or, with Options.SyncHeartbeats, not saved. Once the attempt is over, Heartbeat
// records nothing and returns nil. A [Runtime.Drain] does not ask such a context to stop. It
// recognizes context.WithoutCancel, and contexts whose Done returns nil.
func FromContext(ctx context.Context) (Context, bool) {
	if c, ok := ctx.(Context); ok {
		return c, true
	}
	c, ok := ctx.Value(contextKey{}).(Context)
	if !ok {
		return nil, false
	}
	// The function of this attempt got the Interceptor's Context, so FromContext returns
	// that. If a wrapper was registered after that, c is the wrapper and stays.
	if w, ok := ctx.Value(wrappedKey{}).(Context); ok && same(c, w.Value(contextKey{})) {
		c = w
	}
	return &derived{Context: c, ctx: ctx}, true
}

// same reports whether v and w are equal. Values of one type that cannot be compared count
// as equal.
func same(v, w any) bool {
	return reflect.TypeOf(v) == reflect.TypeOf(w) && (!reflect.ValueOf(v).Comparable() || v == w)
}

// derived is the result of FromContext: the methods of an activity's Context, with the
// values and the end of ctx, which is derived from it.
type derived struct {
	Context
	ctx context.Context
}

func (d *derived) Deadline() (time.Time, bool) { return d.ctx.Deadline() }
func (d *derived) Done() <-chan struct{}       { return d.ctx.Done() }
func (d *derived) Err() error                  { return d.ctx.Err() }
func (d *derived) Value(key any) any           { return d.ctx.Value(key) }
func (d *derived) String() string              { return fmt.Sprint(d.Context) }

// Parent implements [ctxchain.Child].
func (d *derived) Parent() context.Context { return d.ctx }

func (d *derived) Heartbeat(details ...any) error {
	err := d.Context.Heartbeat(details...)
	end := ended(d.ctx)
	// A drain asks only contexts that end with the attempt, and have not ended.
	if asked, failed := asks(err); asked && ended(d.Context) == nil && (end != nil || !ctxchain.EndsWithAttempt(d.ctx)) {
		swallowed(d.Context)
		err = failed
	}
	switch {
	case err == nil:
		return end
	case end == nil && same(err, ended(d.Context)):
		// d.ctx does not end with the attempt, so the attempt's cause is no error for it.
		return heartbeatAfterEnd(d, details)
	}
	return err
}

func (d *derived) Sleep(dur time.Duration) error {
	if d.ctx.Done() == d.Context.Done() {
		return d.Context.Sleep(dur)
	}
	if e := engineOf(d.Context); e != nil {
		return e.SleepContext(d.ctx, dur)
	}
	if err := d.Context.Sleep(dur); err != nil {
		return err
	}
	return ended(d.ctx)
}

// standardContext returns a context with the values and the end of ctx, of one of the
// standard library's types. Deriving a context from it and canceling that context run no
// user code, so both may be done under a lock. If release is not nil, it must be called to
// release ctx. It may run user code.
func standardContext(ctx context.Context) (std context.Context, release context.CancelFunc) {
	switch reflect.TypeOf(ctx) {
	case typeBackground, typeCancel, typeTimer:
		return ctx, nil
	}
	if ctx.Done() == nil {
		return context.WithoutCancel(ctx), nil
	}
	return context.WithCancel(ctx)
}

var typeBackground, typeCancel, typeTimer = func() (_, _, _ reflect.Type) {
	ctx := context.Background()
	cancelable, cancel := context.WithCancel(ctx)
	defer cancel()
	timed, stop := context.WithDeadline(ctx, time.Time{}) // the deadline has passed, so this needs no timer
	defer stop()
	return reflect.TypeOf(ctx), reflect.TypeOf(cancelable), reflect.TypeOf(timed)
}()
