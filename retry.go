package activity

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// RetryPolicy says whether and when a failed attempt is followed by another.
// The zero policy retries forever, after 1 s, 2 s, 4 s and so on, at most
// 100 s apart. The formula and the names are Temporal's
// (https://docs.temporal.io/encyclopedia/retry-policies). Between attempts n and
// n+1 pass
//
//	min(InitialInterval x BackoffCoefficient^(n-1), MaximumInterval)
//
// less the jitter. The first retry after a heartbeat timeout does not wait,
// because the timeout was the wait: see the package's doc.
type RetryPolicy struct {
	// InitialInterval is the time before the first retry. If zero, 1 s, or
	// MaximumInterval if that is less.
	InitialInterval time.Duration
	// BackoffCoefficient is the factor from one interval to the next, at least 1.
	// If zero, 2.
	BackoffCoefficient float64
	// MaximumInterval is the longest interval. If zero, 100 x InitialInterval.
	MaximumInterval time.Duration
	// MaximumAttempts is how many attempts there may be. If zero, there is no
	// limit; 1 means no retry.
	MaximumAttempts int
	// Jitter, from 0 to 1, cuts each interval by a random part of up to this
	// fraction. If zero, intervals are exact.
	Jitter float64

	// ResetOnProgress makes an attempt that made progress count as the first
	// again, for the interval and for MaximumAttempts. An attempt made progress if
	// it recorded other heartbeat details than those it resumed from.
	ResetOnProgress bool

	// Retryable reports whether an attempt that ended with err may be retried. If
	// nil, every error is. Retryable is asked about timeouts too, but not about
	// NonRetryable errors, ErrCannotResume and cancellation. If it panics, the error
	// is retried. It must be quick: the activity counts as running meanwhile.
	Retryable func(err error) bool
}

// validate returns an error that names the first field that makes no sense.
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
	case !(p.Jitter >= 0 && p.Jitter <= 1):
		return invalid("RetryPolicy.Jitter", p.Jitter, "must be between 0 and 1")
	}
	return nil
}

func invalid(field string, value any, rule string, args ...any) error {
	return fmt.Errorf("activity: Options.%s %s (got %v)", field, fmt.Sprintf(rule, args...), value)
}

// setDefaults fills in what is zero.
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

// interval is the time between the n-th attempt that counts and the next, for
// a policy that has its defaults. random, in [0,1), scales the jitter.
func (p *RetryPolicy) interval(n int, random float64) time.Duration {
	d := p.MaximumInterval
	// A float that is too large for a Duration must not be converted to one.
	if f := float64(p.InitialInterval) * math.Pow(p.BackoffCoefficient, float64(n-1)); f < float64(d) {
		d = time.Duration(f)
	}
	return max(0, d-time.Duration(float64(d)*p.Jitter*random))
}

// random returns a number in [0,1) for the jitter of p. It calls Config.Rand with
// Runtime.mu held.
func (rt *Runtime) random(p *RetryPolicy) (r float64) {
	if p.Jitter == 0 {
		return 0
	}
	defer func() {
		if recover() != nil || !(r >= 0) {
			r = 0
		}
		r = min(r, math.Nextafter(1, 0))
	}()
	return rt.cfg.Rand()
}

// verdict is what an error itself and RetryPolicy.Retryable say about a retry.
type verdict struct {
	final        bool          // no further attempt
	cannotResume bool          // because of ErrCannotResume
	delay        time.Duration // from RetryAfter; zero if the policy's interval counts
}

// read finds out what err itself says about a retry. It calls user code, so no lock may be
// held.
func (v *verdict) read(err error) {
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

// findOwn reports whether match holds for err or an error that it wraps, looking
// no further than at an inner activity's *Error.
func findOwn(err error, match func(error) bool) (found bool) {
	if _, inner := err.(*Error); inner || err == nil {
		return false
	}
	defer func() { _ = recover() }() // a method of a nil pointer: what it wraps says nothing
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
