package activity

import "time"

// Resume returns the value from which the attempt resumes: the heartbeat details recorded
// last or, if there are none, initial. If they do not decode into a T, it returns initial
// and the error of [Context.HeartbeatDetails].
func Resume[T any](ctx Context, initial T) (T, error) {
	var details T
	found, err := ctx.HeartbeatDetails(&details)
	if err != nil || !found {
		return initial, err
	}
	return details, nil
}

// Idle is a Sleep for pollers. It sends a heartbeat without details when it begins, and
// another after each half of the heartbeat timeout, until d has passed. It returns nil once
// d has passed, or the error of [Context.Sleep] or [Context.Heartbeat], such as [ErrShutdown]
// during a [Runtime.Drain].
//
// A poller sets RetryPolicy.ResetAfter, because it makes no progress for ResetOnProgress. To
// wait for a rate limiter, pass its delay to Idle: a limiter's own Wait sends no heartbeats,
// and looks like a stall.
func Idle(ctx Context, d time.Duration) error {
	step := d
	if timeout := ctx.Info().HeartbeatTimeout; timeout > 0 {
		step = max(timeout/2, 1)
	}
	for {
		if err := ctx.Heartbeat(); err != nil {
			return noteCause(ctx, err)
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
