package ontemporal

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
	sdkactivity "go.temporal.io/sdk/activity"
)

var (
	_ activity.Context = (*attempt)(nil)
	_ activity.Engine  = (*attempt)(nil)
)

// Deadline implements [context.Context].
func (t *attempt) Deadline() (time.Time, bool) { return t.sdk.Deadline() }

// Info implements [activity.Context].
func (t *attempt) Info() activity.Info { return t.info }

// Logger implements [activity.Context].
func (t *attempt) Logger() *slog.Logger {
	return slog.New(&logHandler{logger: sdkactivity.GetLogger(t.sdk)}).With("id", t.info.ID, "name", t.info.Name, "attempt", t.info.Attempt)
}

// Sleep implements [activity.Context].
func (t *attempt) Sleep(d time.Duration) error { return t.SleepContext(t, d) }

// SleepContext implements [activity.Engine].
func (t *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	if ctx.Err() == nil && d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	t.mu.Lock()
	t.checkLocked(time.Now()) // at one instant, a timeout comes first
	t.mu.Unlock()
	if ctx.Err() == nil { // even if the attempt has ended, because ctx may not end with it
		return nil
	}
	if err := t.tell(); err != nil {
		return err
	}
	return causeOf(ctx)
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
		if newest, failed = encode(values); failed != nil {
			failed = activity.NonRetryable(fmt.Errorf("%s: heartbeat details not recorded, the previous ones are kept: %w", t, failed))
		}
	}
	t.mu.Lock()
	now := time.Now()
	t.checkLocked(now)
	if t.over {
		defer t.mu.Unlock()
		return context.Cause(t)
	}
	if newest != nil {
		t.latest, t.recorded = newest, true
		t.progressed = t.progressed || !newest.equal(t.resumed)
	}
	t.extendLocked(now)
	// The SDK encodes the details again for each heartbeat, so those without details are
	// not all passed on.
	due := t.sdk.Err() == nil && (newest != nil || now.Sub(t.sent) >= min(t.pulse()/10, maxQuiet))
	if due {
		t.sent = now
		t.waiting++ // the time in which it waits for the server is not a stall
		t.mu.Unlock()
		t.send(t.bySDK)
		t.mu.Lock()
		t.waiting--
		t.extendLocked(time.Now())
	}
	t.mu.Unlock()
	if err := causeOf(t); err != nil {
		return err
	}
	return failed
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
