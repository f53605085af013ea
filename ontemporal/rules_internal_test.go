package ontemporal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

// PlacesLeft returns the number of places. TestMain checks that every attempt leaves its
// place.
func PlacesLeft() int {
	places.Lock()
	defer places.Unlock()
	return len(places.byKey)
}

// Given no InitialInterval, then it is MaximumInterval if that is below 1 s, as on the
// embedded runtime.
func TestStartOptions_DefaultInterval(t *testing.T) {
	for maximum, want := range map[time.Duration]time.Duration{0: 0, time.Millisecond: time.Millisecond, time.Minute: time.Second} {
		o := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumInterval: maximum}}
		all, err := startOptions("a", "queue", &o, nil)
		if got := all.RetryPolicy.InitialInterval; got != want || err != nil {
			t.Errorf("with MaximumInterval %s it is %s, %v, want %s", maximum, got, err, want)
		}
	}
}

// Given a StartOption, then it sets what only Temporal has. What activity.Options has, it must not
// change, and the error names the field.
func TestStartOptions_StartOption(t *testing.T) {
	var o activity.Options
	all, err := startOptions("a", "queue", &o, []StartOption{
		func(o *client.StartActivityOptions) { o.Summary = "first" },
		func(o *client.StartActivityOptions) { o.Summary += ", second" },
	})
	if all.Summary != "first, second" || all.ID != "a" || err != nil {
		t.Errorf("got %+v, %v", all, err)
	}
	for field, change := range map[string]StartOption{
		"ID":                     func(o *client.StartActivityOptions) { o.ID = "b" },
		"TaskQueue":              func(o *client.StartActivityOptions) { o.TaskQueue = "other" },
		"StartToCloseTimeout":    func(o *client.StartActivityOptions) { o.StartToCloseTimeout = 1 },
		"HeartbeatTimeout":       func(o *client.StartActivityOptions) { o.HeartbeatTimeout = 1 },
		"ScheduleToStartTimeout": func(o *client.StartActivityOptions) { o.ScheduleToStartTimeout = 1 },
		"ScheduleToCloseTimeout": func(o *client.StartActivityOptions) { o.ScheduleToCloseTimeout = 1 },
		"RetryPolicy":            func(o *client.StartActivityOptions) { o.RetryPolicy.MaximumAttempts = 1 },
	} {
		if _, err := startOptions("a", "queue", &o, []StartOption{change}); err == nil || !strings.Contains(err.Error(), "must not change "+field+",") {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

// Given a schedule-to-start timeout of the server, then it is a schedule-to-close timeout if
// the option ScheduleToStartTimeout was not the shorter one.
func TestErrors_ScheduleToStartOfServer(t *testing.T) {
	for _, test := range []struct {
		start, close time.Duration
		want         activity.TimeoutType
	}{
		{time.Second, 0, activity.TimeoutScheduleToStart},
		{time.Second, time.Minute, activity.TimeoutScheduleToStart},
		{time.Minute, time.Minute, activity.TimeoutScheduleToClose},
	} {
		e := fromTimeout(temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START, nil).(*temporal.TimeoutError), &ended{id: "a", scheduleToStart: test.start, scheduleToClose: test.close})
		if e.Type != test.want {
			t.Errorf("%s of %s: %s", test.start, test.close, e.Type)
		}
	}
}

// Given a stall with large details, then its failure holds them only at the last attempt,
// after which the server keeps no others.
func TestErrors_LastStallHasAllDetails(t *testing.T) {
	for n, want := range map[int]bool{2: false, 3: true} {
		d, _ := encode([]any{make([]byte, 2*maxKept)})
		a := &attempt{info: activity.Info{Attempt: n, MaximumAttempts: 3}, heartbeats: heartbeats{latest: d}}
		var timeout *temporal.TimeoutError
		err := a.stalled(&activity.TimeoutError{Type: activity.TimeoutHeartbeat})
		if !errors.As(err, &timeout) || timeout.HasLastHeartbeatDetails() != want {
			t.Errorf("attempt %d: %v", n, timeout)
		}
	}
}

// Rule 11. Given a heartbeat in flight, then the attempt does not time out.
func TestAttempt_HeartbeatInFlightIsNoStall(t *testing.T) {
	begun := time.Now()
	a := &attempt{left: make(chan struct{}), waiting: 1, beatBy: begun}
	a.Context, a.cancel = context.WithCancelCause(context.Background())
	if a.checkLocked(begun.Add(time.Hour)); a.over {
		t.Errorf("over: %v", context.Cause(a))
	}
}

// Rule 27. Given a stall inside Guard, then its report is held back until the attempt's
// deadline.
func TestGuard_HoldsReportUntilDeadline(t *testing.T) {
	begun := time.Now()
	a := &attempt{guards: 1, info: activity.Info{Deadline: begun.Add(time.Minute)}}
	a.Context, a.cancel = context.WithCancelCause(context.Background())
	a.cancel(&activity.TimeoutError{Type: activity.TimeoutHeartbeat})
	if !a.holdsLocked(begun.Add(time.Minute-1)) || a.holdsLocked(begun.Add(time.Minute)) {
		t.Error("it does not hold until the deadline")
	}
}

// Given a worker that has shut down, then the attempt sends no heartbeats, because its end
// could not be reported.
func TestAttempt_SilentAfterWorkerShutdown(t *testing.T) {
	a := newTestAttempt(t, 10*time.Second)
	a.endSDK(worker.ErrWorkerShutdown)
	if a.sdkEnded(); !a.silent || !errors.Is(context.Cause(a), activity.ErrShutdown) || !a.sendAtLocked().IsZero() {
		t.Errorf("it still sends heartbeats, %v", context.Cause(a))
	}
}

// Given nested RetryAfter errors, then the outermost delay counts.
func TestErrors_OutermostRetryAfterCounts(t *testing.T) {
	var app *temporal.ApplicationError
	err := toTemporal(activity.RetryAfter(activity.RetryAfter(errors.New("boom"), time.Hour), time.Minute))
	if !errors.As(err, &app) || app.NextRetryDelay() != time.Minute {
		t.Errorf("got %v", err)
	}
}
