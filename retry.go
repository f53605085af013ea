package activity

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// RetryPolicy says whether and when a failed attempt is followed by another.
// The zero policy retries for ever, after 1 s, 2 s, 4 s and so on, at most
// 100 s apart. The formula and the names are Temporal's
// (https://docs.temporal.io/encyclopedia/retry-policies): before attempt n+1 pass
//
//	min(InitialInterval x BackoffCoefficient^(n-1), MaximumInterval)
//
// less the jitter. The first retry after a heartbeat timeout does not wait,
// since the timeout was the wait; see the package's doc.
type RetryPolicy struct {
	InitialInterval    time.Duration // 0: 1 s, or MaximumInterval if that is less
	BackoffCoefficient float64       // at least 1; 0: 2
	MaximumInterval    time.Duration // 0: 100 x InitialInterval
	MaximumAttempts    int           // 0: no limit; 1: no retry
	Jitter             float64       // 0 to 1: each interval is cut by a random part of up to this fraction

	// ResetOnProgress makes an attempt that made progress, which is one that
	// recorded other heartbeat details than it resumed from, count as the first
	// again: for the interval, and for MaximumAttempts.
	ResetOnProgress bool

	// Retryable decides whether an attempt that ended with err may be retried.
	// It is asked about timeouts too, not about NonRetryable errors and
	// cancellation. nil: every error is. One that panics says yes. It must be
	// quick: the activity counts as running meanwhile.
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
		return invalid("RetryPolicy.BackoffCoefficient", p.BackoffCoefficient, "must be at least 1, or 0 for the default")
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

// random is for the jitter of p. Config.Rand is called with Runtime.mu held.
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
	final    bool          // no further attempt
	override bool          // delay replaces the policy's interval
	delay    time.Duration // from RetryAfter
}

// judge calls user code: not under a lock. What panics has no say.
func (a *activity) judge(err error, v *verdict) {
	a.rt.protect(a, "the returned error", func() {
		v.final = findOwn(err, func(err error) bool {
			n, ok := err.(interface{ NonRetryable() bool })
			return ok && n.NonRetryable()
		})
		findOwn(err, func(err error) bool {
			r, ok := err.(interface{ RetryDelay() time.Duration })
			if ok {
				v.override, v.delay = true, max(r.RetryDelay(), 0)
			}
			return ok
		})
	})
	if retryable := a.opts.RetryPolicy.Retryable; retryable != nil && !v.final {
		a.rt.protect(a, "RetryPolicy.Retryable", func() { v.final = !retryable(err) })
	}
}

// findOwn reports whether match holds for err or an error that it wraps, looking
// no further than at an inner activity's *Error.
func findOwn(err error, match func(error) bool) bool {
	for err != nil {
		if _, inner := err.(*Error); inner {
			return false
		}
		if match(err) {
			return true
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, err := range many.Unwrap() {
				if findOwn(err, match) {
					return true
				}
			}
			return false
		}
		err = errors.Unwrap(err)
	}
	return false
}
