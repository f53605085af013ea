package ontemporal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/api/serviceerror"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

// Rule 7. Given an attempt's deadlines, when the clock is read just before, at or after them,
// then the right timeout ends it.
func TestAttempt_DeadlineReached(t *testing.T) {
	begun := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	const (
		none = activity.TimeoutType(0)
		beat = activity.TimeoutHeartbeat
		stc  = activity.TimeoutStartToClose
		stsc = activity.TimeoutScheduleToClose
	)
	for _, test := range []struct {
		name                string
		heartbeat, deadline time.Duration
		scheduleToClose     time.Duration
		looks               []time.Duration // the readings of the clock, counted from the start
		want                activity.TimeoutType
	}{
		{"nothing due", 10, 100, 0, []time.Duration{9*time.Second + 999_999_999}, none},
		{"heartbeat", 10, 100, 0, []time.Duration{10 * time.Second}, beat},
		{"late", 10, 100, 0, []time.Duration{50 * time.Second}, beat},
		{"start to close", 0, 100, 0, []time.Duration{100 * time.Second}, stc},
		{"just before", 0, 100, 0, []time.Duration{100*time.Second - 1}, none},
		{"schedule to close", 0, 100, 100, []time.Duration{100 * time.Second}, stsc},
		{"start to close is earlier", 0, 100, 101, []time.Duration{100 * time.Second}, stc},
		{"both at one instant", 100, 100, 0, []time.Duration{100 * time.Second}, stc},
		{"heartbeat first", 99, 100, 0, []time.Duration{100 * time.Second}, beat},
		{"close first", 101, 100, 0, []time.Duration{101 * time.Second}, stc},
		{"late for both", 10, 100, 0, []time.Duration{200 * time.Second}, beat},
	} {
		a := &attempt{left: make(chan struct{}), dumps: &dumps{}}
		a.Context, a.cancel = context.WithCancelCause(context.Background())
		a.info.HeartbeatTimeout, a.info.StartToCloseTimeout, a.info.ScheduleToCloseTimeout = test.heartbeat*time.Second, 100*time.Second, test.scheduleToClose*time.Second
		a.info.ScheduledAt, a.info.Deadline = begun, begun.Add(test.deadline*time.Second)
		if test.heartbeat > 0 {
			a.beatBy = begun.Add(a.info.HeartbeatTimeout)
		}
		for _, d := range test.looks {
			if a.over {
				t.Errorf("%s: over too early", test.name)
			}
			a.checkLocked(begun.Add(d))
		}
		var e *activity.TimeoutError
		errors.As(context.Cause(a), &e)
		switch {
		case test.want == none && (a.over || e != nil), test.want != none && (!a.over || e == nil || e.Type != test.want || !isLeft(a)):
			t.Errorf("%s: over %v, %v", test.name, a.over, context.Cause(a))
		}
	}
}

// Rules 17 and 32. Given a canceled or paused function that is silent, when CancelGrace has
// passed, then it is left behind, and not before.
func TestAttempt_LeftBehindAtCancelGrace(t *testing.T) {
	for answer, cause := range map[error]error{
		temporal.NewCanceledError():   errCanceled,
		sdkactivity.ErrActivityPaused: activity.ErrPaused,
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			a := &attempt{left: make(chan struct{}), grace: time.Minute}
			a.Context, a.cancel = context.WithCancelCause(context.Background())
			a.beatBy, a.info.HeartbeatTimeout, a.sent = begun.Add(time.Second), time.Second, begun
			a.heard(answer)
			time.Sleep(time.Second)
			a.heard(answer) // the grace period does not begin again
			a.checkLocked(begun.Add(time.Minute - 1))
			if a.over {
				t.Errorf("over: %v", context.Cause(a))
			}
			if d := a.nextLocked(begun.Add(time.Minute - 1)); d > time.Minute {
				t.Errorf("the next look is after %s", d)
			}
			a.checkLocked(begun.Add(time.Minute))
			if !a.over || !isLeft(a) || context.Cause(a) != cause {
				t.Errorf("not over: %v", context.Cause(a))
			}
		})
	}
}

// Given attempts that hang, then each has its own stack. A dump from before an attempt's
// silence is not used for it.
func TestStack_OfEachAttempt(t *testing.T) {
	d := &dumps{}
	hanging := func() (*attempt, func()) {
		a, in, out := &attempt{}, make(chan struct{}), make(chan struct{})
		go a.call(func(activity.Context) error { close(in); hangs(out); return nil })
		<-in
		return a, func() { close(out) }
	}
	since := time.Now()
	a, endA := hanging()
	b, endB := hanging()
	defer endA()
	defer endB()
	for _, a := range []*attempt{a, b} {
		if s := string(d.stack(a, since)); strings.Count(s, "ontemporal.hangs(") != 1 {
			t.Errorf("the stack is %q", s)
		}
	}
	if s := d.stack(&attempt{}, since); s != nil {
		t.Errorf("the stack of one that does not run is %q", s)
	}
	// No other dump may be taken now, and the last one is older than these silences.
	d.next = time.Now().Add(time.Hour)
	c, endC := hanging()
	defer endC()
	if s := d.stack(c, since); s != nil {
		t.Errorf("the stack is %q, from an older dump", s)
	}
	if s := d.stack(a, time.Now()); s != nil {
		t.Errorf("the stack is %q, from before the silence", s)
	}
}

//go:noinline
func hangs(until chan struct{}) { <-until }

// Given an answer to a heartbeat, then the attempt continues, is canceled or is over. An
// outage of the server does not end it.
func TestAttempt_AnswerToHeartbeat(t *testing.T) {
	for _, test := range []struct {
		name       string
		answer     error
		cause      error // the Context's; nil if the attempt continues
		over, left bool
	}{
		{"nothing", nil, nil, false, false},
		{"canceled", temporal.NewCanceledError(), errCanceled, false, false},
		{"not found", serviceerror.NewNotFound("task"), errOver, true, true},
		{"unavailable", serviceerror.NewUnavailable("away"), nil, false, false},
		{"too late", serviceerror.NewDeadlineExceeded("late"), nil, false, false},
		{"the RPC's own timeout", context.DeadlineExceeded, nil, false, false},
		{"the worker has stopped", worker.ErrWorkerShutdown, activity.ErrShutdown, false, false},
		{"paused", sdkactivity.ErrActivityPaused, activity.ErrPaused, false, false},
		{"reset", sdkactivity.ErrActivityReset, sdkactivity.ErrActivityReset, false, false},
	} {
		for _, before := range []error{nil, activity.ErrShutdown, errReturned} {
			a := &attempt{left: make(chan struct{}), over: before == errReturned}
			a.Context, a.cancel = context.WithCancelCause(context.Background())
			if before != nil {
				a.cancel(before)
			}
			a.heard(test.answer)
			want, over, left := test.cause, test.over, test.left
			if before != nil {
				want = before
			}
			if before == errReturned {
				over, left = true, false
			}
			if cause := context.Cause(a); !errors.Is(cause, want) || a.over != over || isLeft(a) != left {
				t.Errorf("%s after %v: over %v, left %v, %v", test.name, before, a.over, isLeft(a), cause)
			}
		}
	}
}
