package ontemporal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/api/serviceerror"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
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
		a := &attempt{left: make(chan struct{}), worker: &registration{}}
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

// A testAttempt is an attempt with a server that the test plays.
type testAttempt struct {
	attempt
	endSDK context.CancelCauseFunc // ends the SDK's context

	server sync.Mutex
	sent   []string     // the details of the heartbeats, as JSON
	answer func() error // answers a heartbeat; nil: at once, with nil
}

// answers sets how heartbeats are answered.
func (a *testAttempt) answers(f func() error) {
	a.server.Lock()
	defer a.server.Unlock()
	a.answer = f
}

// refuses makes the data converter refuse these details.
func (a *testAttempt) refuses(details string) {
	a.answers(func() error {
		if a.last() == details {
			return errConverter
		}
		return nil
	})
}

// neverStalls makes the silence of the function no stall.
func (a *testAttempt) neverStalls() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.beatBy = time.Time{}
}

// isOver reports whether the attempt is fenced.
func (a *testAttempt) isOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// got returns the details of the heartbeats that the server got.
func (a *testAttempt) got() []string {
	a.server.Lock()
	defer a.server.Unlock()
	return slices.Clone(a.sent)
}

// last returns the details of the last heartbeat.
func (a *testAttempt) last() string {
	all := a.got()
	return all[len(all)-1]
}

// newTestAttempt returns an attempt that has just arrived.
func newTestAttempt(t *testing.T, heartbeatTimeout time.Duration) *testAttempt {
	a := &testAttempt{attempt: attempt{left: make(chan struct{}), sending: make(chan struct{}, 1), worker: &registration{}, unwatch: func() bool { return true }}}
	a.info = activity.Info{ID: "a", Name: "f", Attempt: 1, HeartbeatTimeout: heartbeatTimeout, Deadline: time.Now().Add(24 * time.Hour)}
	a.sdk, a.endSDK = context.WithCancelCause(context.Background())
	a.Context, a.cancel = context.WithCancelCause(context.WithoutCancel(a.sdk))
	a.Context = activity.NewContext(a.Context, &a.attempt)
	a.heartbeats = newHeartbeats(time.Now(), heartbeatTimeout, 0)
	a.beat = func(d details) error {
		var all []string
		for _, v := range d {
			all = append(all, string(v.Payload().GetData()))
		}
		a.server.Lock()
		a.sent = append(a.sent, strings.Join(all, " "))
		answer := a.answer
		a.server.Unlock()
		if answer != nil {
			return answer()
		}
		return nil
	}
	a.logger = slog.New(slog.DiscardHandler)
	a.place = &place{changed: make(chan struct{})}
	a.timer = time.AfterFunc(time.Hour, a.tick)
	t.Cleanup(func() { _, _ = a.settle(nil) })
	now := time.Now()
	a.extendLocked(now)
	a.armLocked(now)
	return a
}

// Rules 17 and 32. Given a canceled or paused function that is silent, when CancelGrace has
// passed, then it is left behind, and not before.
func TestAttempt_LeftBehindAtCancelGrace(t *testing.T) {
	for answer, cause := range map[error]error{
		temporal.NewCanceledError():   errCanceled,
		sdkactivity.ErrActivityPaused: activity.ErrPaused,
		sdkactivity.ErrActivityReset:  errReset,
	} {
		synctest.Test(t, func(t *testing.T) {
			a := newTestAttempt(t, time.Second)
			a.grace = time.Minute
			a.answers(func() error { return answer }) // it does not begin the grace period again
			checkCause(t, &a.attempt, a.Heartbeat(), cause)
			time.Sleep(time.Minute - 1)
			synctest.Wait()
			if a.isOver() {
				t.Errorf("over: %v", context.Cause(a))
			}
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			if !a.isOver() || !isLeft(&a.attempt) || context.Cause(a) != cause {
				t.Errorf("not over: %v", context.Cause(a))
			}
		})
	}
}

func checkCause(t *testing.T, a *attempt, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || !errors.Is(context.Cause(a), want) {
		t.Errorf("got %v, and the cause is %v; want %v", got, context.Cause(a), want)
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
// outage of the server does not end it, nor does the data converter.
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
		{"refused by the converter", errors.New("cannot encode"), nil, false, false},
		{"paused", sdkactivity.ErrActivityPaused, activity.ErrPaused, false, false},
		{"reset", sdkactivity.ErrActivityReset, sdkactivity.ErrActivityReset, false, false},
	} {
		for _, before := range []error{nil, activity.ErrShutdown, errReturned} {
			synctest.Test(t, func(t *testing.T) {
				a := newTestAttempt(t, time.Minute)
				a.answers(func() error { return test.answer })
				a.over = before == errReturned
				if before != nil {
					a.cancel(before)
				}
				a.claimLocked(time.Now())
				a.send()
				want, over, left := test.cause, test.over, test.left
				if before != nil {
					want = before
				}
				if before == errReturned {
					over, left = true, false
				}
				if cause := context.Cause(a); !errors.Is(cause, want) || a.over != over || isLeft(&a.attempt) != left {
					t.Errorf("%s after %v: over %v, left %v, %v", test.name, before, a.over, isLeft(&a.attempt), cause)
				}
			})
		}
	}
}
