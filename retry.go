package activity

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"
)

// A RetryPolicy decides whether and when a failed attempt is followed by another. The zero
// policy retries forever, after 1 s, 2 s, 4 s and so on, up to 100 s. The formula and the
// names are Temporal's (https://docs.temporal.io/encyclopedia/retry-policies). The interval
// between attempts n and n+1 is
//
//	min(InitialInterval x BackoffCoefficient^(n-1), MaximumInterval)
//
// less the jitter. The first retry after a heartbeat timeout does not wait, because the
// timeout was the wait: see the section on retries in the package documentation.
type RetryPolicy struct {
	// InitialInterval is the interval before the first retry. If zero, 1 s, or
	// MaximumInterval if that is less.
	InitialInterval time.Duration
	// BackoffCoefficient is the factor from one interval to the next. It must be at least
	// 1. If zero, 2.
	BackoffCoefficient float64
	// MaximumInterval is the longest interval. If zero, 100 x InitialInterval.
	MaximumInterval time.Duration
	// MaximumAttempts is the largest number of attempts. 1 means no retry. If zero, there
	// is no limit.
	MaximumAttempts int
	// Jitter is a fraction from 0 to 1. Each interval is shortened by a random part of up
	// to this fraction. If zero, intervals are exact.
	Jitter float64

	// ResetOnProgress makes an attempt that made progress count as the first again, both
	// for the interval and for MaximumAttempts. An attempt has made progress if it recorded
	// heartbeat details that differ from those it resumed from.
	ResetOnProgress bool
	// ResetAfter makes an attempt that ran for at least this long count as the first again,
	// both for the interval and for MaximumAttempts. It is for pollers, which make no
	// progress: without it, one error a day makes the intervals 1 s, 2 s, 4 s and so on. The
	// time runs from the start of the attempt to its end or, if the process ends before
	// that, to the last save of the activity. If zero, the time does not matter.
	ResetAfter time.Duration

	// Retryable reports whether an attempt that ended with err may be retried. It is also
	// called for start-to-close and heartbeat timeouts, but not for NonRetryable errors,
	// ErrCannotResume and cancellations. It must be quick, because the activity waits for
	// it and counts as running. If it panics, the error is retried. If nil, every error is
	// retried.
	Retryable func(err error) bool
}

// validate returns an error that names the first invalid field, or nil.
func (p *RetryPolicy) validate() error {
	switch {
	case p.InitialInterval < 0:
		return invalid("RetryPolicy.InitialInterval", p.InitialInterval, "must not be negative")
	case p.MaximumInterval < 0:
		return invalid("RetryPolicy.MaximumInterval", p.MaximumInterval, "must not be negative")
	case p.MaximumInterval > 0 && p.MaximumInterval < p.InitialInterval:
		return invalid("RetryPolicy.MaximumInterval", p.MaximumInterval, "must not be less than InitialInterval, %s", p.InitialInterval)
	case p.BackoffCoefficient != 0 && !(p.BackoffCoefficient >= 1 && p.BackoffCoefficient <= math.MaxFloat64):
		return invalid("RetryPolicy.BackoffCoefficient", p.BackoffCoefficient, "must be at least 1, or zero")
	case p.MaximumAttempts < 0:
		return invalid("RetryPolicy.MaximumAttempts", p.MaximumAttempts, "must not be negative")
	case p.ResetAfter < 0:
		return invalid("RetryPolicy.ResetAfter", p.ResetAfter, "must not be negative")
	case !(p.Jitter >= 0 && p.Jitter <= 1):
		return invalid("RetryPolicy.Jitter", p.Jitter, "must be between 0 and 1")
	}
	return nil
}

// invalid returns the error for a field of Options. rule is a format for args.
func invalid(field string, value any, rule string, args ...any) error {
	return fmt.Errorf("activity: Options.%s %s (got %v)", field, fmt.Sprintf(rule, args...), value)
}

// setDefaults replaces zero fields by their defaults.
func (p *RetryPolicy) setDefaults() {
	if p.InitialInterval == 0 {
		p.InitialInterval = time.Second
		if p.MaximumInterval > 0 {
			p.InitialInterval = min(p.InitialInterval, p.MaximumInterval)
		}
	}
	if p.BackoffCoefficient == 0 {
		p.BackoffCoefficient = 2
	}
	if p.MaximumInterval == 0 {
		p.MaximumInterval = math.MaxInt64
		if p.InitialInterval <= math.MaxInt64/100 {
			p.MaximumInterval = 100 * p.InitialInterval
		}
	}
}

// resets reports whether an attempt counts as the first again.
func (p *RetryPolicy) resets(progressed bool, ran time.Duration) bool {
	return progressed && p.ResetOnProgress || p.ResetAfter > 0 && ran >= p.ResetAfter
}

// interval returns the interval after the n-th attempt that counts. p must have its
// defaults. random, in [0,1), scales the jitter.
func (p *RetryPolicy) interval(n int, random float64) time.Duration {
	d := p.MaximumInterval
	// Compared as floats, because converting a float that is too large for a Duration has
	// an implementation-dependent result.
	if f := float64(p.InitialInterval) * math.Pow(p.BackoffCoefficient, float64(n-1)); f < float64(d) {
		d = time.Duration(f)
	}
	return max(0, d-time.Duration(float64(d)*p.Jitter*random))
}

// random returns a number in [0,1) for the jitter of p. It calls Config.Rand, with
// Runtime.mu held.
func (rt *Runtime) random(p *RetryPolicy) (r float64) {
	if p.Jitter == 0 {
		return 0
	}
	// Config.Rand is user code. If it panics, or returns NaN or a negative number, there is
	// no jitter. A number that is too large is cut.
	defer func() {
		if recover() != nil || !(r >= 0) {
			r = 0
		}
		r = min(r, math.Nextafter(1, 0))
	}()
	return rt.cfg.Rand()
}

// A verdict is the decision of an error itself, and of RetryPolicy.Retryable, about a
// retry.
type verdict struct {
	final        bool          // whether there is no further attempt
	cannotResume bool          // whether that is because of ErrCannotResume
	delay        time.Duration // delay of RetryAfter; zero if the policy's interval counts
	shutdown     bool          // whether the error wraps ErrShutdown
	stopped      bool          // whether the error only reports that the attempt was stopped
}

// read sets v according to err itself. It calls methods of err, which are user code, so no
// lock may be held.
func (v *verdict) read(err error) {
	v.shutdown = wraps(err, ErrShutdown)
	v.stopped = reportsStop(err)
	v.cannotResume = findOwn(err, func(err error) bool { return err == ErrCannotResume })
	v.final = v.cannotResume || findOwn(err, func(err error) bool {
		n, ok := err.(interface{ NonRetryable() bool })
		return ok && n.NonRetryable()
	})
	findOwn(err, func(err error) bool {
		r, ok := err.(interface{ RetryDelay() time.Duration })
		if ok {
			v.delay = max(r.RetryDelay(), 0)
		}
		return ok
	})
}

// reportsStop reports whether everything that err wraps is ErrPaused, ErrShutdown or
// context.Canceled.
func reportsStop(err error) (only bool) {
	defer func() { _ = recover() }() // as in findOwn
	switch e := err.(type) {
	case nil:
		return false
	case interface{ Unwrap() []error }:
		all := e.Unwrap()
		return len(all) > 0 && !slices.ContainsFunc(all, func(err error) bool { return !reportsStop(err) })
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			return reportsStop(inner)
		}
	}
	return wraps(err, ErrPaused) || wraps(err, ErrShutdown) || wraps(err, context.Canceled)
}

// findOwn reports whether match holds for err or for an error that it wraps. It does not look
// into an *Error, which is the outcome of an inner activity: whether the inner activity may
// be retried says nothing about the outer one. So errors.As cannot be used.
func findOwn(err error, match func(error) bool) (found bool) {
	if _, inner := err.(*Error); inner || err == nil {
		return false
	}
	defer func() { _ = recover() }() // a method of a nil pointer may panic; that counts as no match
	if match(err) {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return findOwn(e.Unwrap(), match)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(err error) bool { return findOwn(err, match) })
	}
	return false
}
