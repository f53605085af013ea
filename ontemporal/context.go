package ontemporal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/ctxchain"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
	"go.temporal.io/sdk/interceptor"
)

var (
	_ activity.Context = (*attempt)(nil)
	_ activity.Engine  = (*attempt)(nil)
)

// Value implements [context.Context]. Through it, the SDK's RecordHeartbeat finds the attempt.
func (t *attempt) Value(key any) any {
	value := t.Context.Value(key)
	if next, ok := value.(interceptor.ActivityOutboundInterceptor); ok {
		return &recorder{interceptor.ActivityOutboundInterceptorBase{Next: next}, t}
	}
	return value
}

// A recorder takes the heartbeats that the function, or a library that it calls, gives to the SDK.
type recorder struct {
	interceptor.ActivityOutboundInterceptorBase
	t *attempt
}

// RecordHeartbeat implements [interceptor.ActivityOutboundInterceptor].
func (r *recorder) RecordHeartbeat(_ context.Context, values ...any) {
	var newest details
	var failed error
	if heartbeatdetails.Given(values) {
		if newest, failed = encodeForSDK(values); failed == nil {
			failed = r.t.worker.fits(newest)
		}
	}
	if failed != nil {
		newest = nil
		r.t.logger.Error("activity: heartbeat details not recorded, the previous ones are kept", "error", failed)
	}
	_ = r.t.record(newest) // the SDK's function returns no error, so the function is not asked to stop
}

// Deadline implements [context.Context].
func (t *attempt) Deadline() (time.Time, bool) { return t.sdk.Deadline() }

// Info implements [activity.Context].
func (t *attempt) Info() activity.Info { return t.info }

// Logger implements [activity.Context].
func (t *attempt) Logger() *slog.Logger { return t.logger }

// Sleep implements [activity.Context].
func (t *attempt) Sleep(d time.Duration) error { return t.SleepContext(t, d) }

// SleepContext implements [activity.Engine].
func (t *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	if ctx.Err() == nil && d > 0 && !t.stops(ctx) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		stopping := t.stopping
		if !ctxchain.EndsWithAttempt(ctx) {
			stopping = nil
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-stopping:
		}
	}
	t.mu.Lock()
	t.checkLocked(time.Now()) // at one instant, a timeout comes first
	t.mu.Unlock()
	if ctx.Err() == nil { // even if the attempt has ended, because ctx may not end with it
		if t.stops(ctx) {
			return t.tellStop()
		}
		return nil
	}
	if err := t.tell(); err != nil {
		return err
	}
	return causeOf(ctx)
}

// stops reports whether a safe point that uses ctx, which has not ended, asks the function to
// stop because the worker stops, as the embedded runtime's Drain does.
func (t *attempt) stops(ctx context.Context) bool {
	select {
	case <-t.stopping:
		return ctxchain.EndsWithAttempt(ctx)
	default:
		return false
	}
}

// tellStop returns what asks the function to stop, and records that it got that.
func (t *attempt) tellStop() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told, t.stopTold = true, true
	return activity.ErrShutdown
}

// tell returns the cause if the attempt has ended, and records that the function has got
// it.
func (t *attempt) tell() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tellLocked()
}

func (t *attempt) tellLocked() error {
	t.checkLocked(time.Now())
	err := causeOf(t)
	t.told = t.told || err != nil
	return err
}

// Guard implements [activity.Engine].
func (t *attempt) Guard(f func() error) error {
	t.confirm()
	if t.Err() == nil && t.stops(t) {
		return t.tellStop()
	}
	t.mu.Lock()
	if err := t.tellLocked(); err != nil {
		t.mu.Unlock()
		return err
	}
	t.guards++
	t.place.guard(1)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.guards--
		t.place.guard(-1)
		t.leaveLocked()
	}()
	return f()
}

// BeginRange implements [activity.Engine].
func (t *attempt) BeginRange() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.ranged
	t.ranged = true
	return first
}

// Heartbeat implements [activity.Context].
func (t *attempt) Heartbeat(values ...any) error {
	var newest details
	var failed error
	if heartbeatdetails.Given(values) {
		newest, failed = encode(values)
		if failed == nil {
			failed = t.worker.fits(newest)
		}
		if failed != nil {
			newest = nil
			failed = activity.NonRetryable(fmt.Errorf("%s: heartbeat details not recorded, the previous ones are kept: %w", t, failed))
		}
	}
	err := t.record(newest)
	if err == nil {
		err = failed
	}
	if err == nil {
		err = t.takeRefused()
	}
	if causeOf(t) != nil || !t.stops(t) {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beatsTold++
	if err == nil {
		return activity.ErrShutdown
	}
	return err
}

// Unseen implements [ctxchain.Unseen].
func (t *attempt) Unseen() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beatsTold = max(0, t.beatsTold-1)
}

// HeartbeatDetails implements [activity.Context].
func (t *attempt) HeartbeatDetails(into ...any) (found bool, err error) {
	if _, err = t.resumed.json(); err == nil {
		found, err = activity.Checkpoint{Details: t.resumed.framed()}.HeartbeatDetails(nil, into...)
	} else {
		err = fmt.Errorf("%w: %w", activity.ErrCannotResume, err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", t, err)
	}
	return found, err
}

func (t *attempt) String() string {
	return fmt.Sprintf("activity %q (%s): attempt %d", t.info.ID, t.info.Name, t.info.Attempt)
}
