package activity

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"time"
)

// Context is what an activity's function gets. It is a context.Context that ends
// when the attempt is over, and context.Cause says why. (Err returns
// context.Canceled in every case, even after a timeout. A library that looks at
// Err alone takes a timeout for a cancellation.)
//
// Its methods may be called by several goroutines at once, and after the
// attempt is over.
//
// Wrappers and other engines implement it too. To wrap one, embed it, since it
// may grow methods; see [Engine] for what else one may implement.
type Context interface {
	context.Context

	// Sleep returns nil once d has passed on the runtime's clock. As soon as the
	// attempt is over or canceled, it returns context.Cause. Sleeping is not a
	// heartbeat; [Idle] does both.
	Sleep(d time.Duration) error

	// Heartbeat records that the attempt is alive. With details, it also records how
	// far the attempt got, so that a later attempt can resume from there. Details
	// are encoded at once, and the newest win. Without details, or with a single
	// nil or nil pointer, those recorded before stay.
	//
	// Once the attempt is over or canceled, Heartbeat returns context.Cause: return
	// that error from the function. If the details cannot be encoded, would not come
	// back as they were (see [Codec]), or are too large ([ErrDetailsTooLarge]), it
	// returns a [NonRetryable] error. The attempt then still counts as alive, and the
	// details recorded before stay.
	Heartbeat(details ...any) error

	// HeartbeatDetails decodes what this attempt resumes from, which is the details
	// recorded last before it started, into the pointers given. It reports false if
	// there are none. It returns [ErrCannotResume] if a value does not decode into
	// its pointer, or if there are fewer values than pointers. More values are no
	// error. The default Codec refuses fields that the target lacks; a field
	// that was not recorded stays zero.
	HeartbeatDetails(into ...any) (bool, error)

	// Info describes the attempt.
	Info() Info

	// Logger returns the runtime's Logger with the attributes id, name and attempt.
	Logger() *slog.Logger
}

// Info describes an attempt to its function.
type Info struct {
	ID, Name               string
	Attempt                int           // the attempt's number, from 1
	ScheduledAt            time.Time     // when the activity was scheduled: the same for all attempts, restarts included
	StartedAt              time.Time     // when this attempt started
	Deadline               time.Time     // the earlier of start-to-close and schedule-to-close, on the runtime's clock; zero if there is none
	StartToCloseTimeout    time.Duration // zero if there is none, as below
	HeartbeatTimeout       time.Duration
	ScheduleToCloseTimeout time.Duration
	MaximumAttempts        int   // zero if there is no limit
	LastFailure            error // how the attempt before ended; nil for the first
}

// An Engine has the methods that [Guard], [Range] and the Sleep of a derived context need
// of a Context besides its own. The section on wrappers and engines in the package's doc
// says who must implement it, and how.
type Engine interface {
	// SleepContext returns nil once d has passed. If ctx ends before that, it
	// returns ctx's cause at once. The Context's own end does not matter: ctx is
	// derived from it, but with [context.WithoutCancel] does not end with it.
	SleepContext(ctx context.Context, d time.Duration) error
	// Guard does what the function [Guard] says.
	Guard(f func() error) error
	// BeginRange reports whether this is the first call in this attempt.
	BeginRange() bool
}

type (
	contextKey struct{} // finds the Context
	engineKey  struct{} // finds the Engine
	wrappedKey struct{} // finds what the Interceptor passed on
)

// engineOf finds the Engine that ctx is or wraps, or returns nil.
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

// ended returns the cause of a context that has ended, else nil.
func ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// NewContext returns a context, derived from ctx, from which [FromContext] returns c. If c
// is an [Engine], it is found too. NewContext is for wrappers and engines.
func NewContext(ctx context.Context, c Context) context.Context {
	if _, ok := c.(Engine); ok {
		ctx = context.WithValue(ctx, engineKey{}, c)
	}
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the activity's Context that ctx is derived from, and
// whether there is one. What it returns keeps ctx's own values and cancellation:
// its Sleep ends when ctx ends, and its Heartbeat then returns ctx's cause,
// although it still records.
//
// If ctx does not end with the attempt, because of [context.WithoutCancel], then
// Sleep and Heartbeat do not return the attempt's cause, so that a clean-up can use
// both. Heartbeat still records after a cancellation, and returns the error of
// details that are rejected or, with Options.SyncHeartbeats, not saved. Once the
// attempt is over it records nothing and returns nil.
func FromContext(ctx context.Context) (Context, bool) {
	if c, ok := ctx.(Context); ok {
		return c, true
	}
	c, ok := ctx.Value(contextKey{}).(Context)
	if !ok {
		return nil, false
	}
	// An Interceptor's wrapper that is not registered itself gives what it wraps.
	if w, ok := ctx.Value(wrappedKey{}).(Context); ok && same(c, w.Value(contextKey{})) {
		c = w
	}
	return &derived{Context: c, ctx: ctx}, true
}

// same reports whether two values are the same. Values of one type that cannot be
// compared count as the same.
func same(v, w any) bool {
	return reflect.TypeOf(v) == reflect.TypeOf(w) && (!reflect.ValueOf(v).Comparable() || v == w)
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
	err := d.Context.Heartbeat(details...)
	switch end := ended(d.ctx); {
	case err == nil:
		return end
	case end == nil && same(err, ended(d.Context)): // d.ctx does not end with the attempt
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

// standardContext returns a context with the values and the end of ctx that is
// the standard library's own: to derive from it, and to cancel what was derived,
// runs no other code, and may be done under a lock. If release is not nil it
// lets go of ctx, and may run any code.
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
	timed, stop := context.WithDeadline(ctx, time.Time{}) // which has passed: no timer is made
	defer stop()
	return reflect.TypeOf(ctx), reflect.TypeOf(cancelable), reflect.TypeOf(timed)
}()
