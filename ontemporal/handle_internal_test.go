package ontemporal

import (
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	activitypb "go.temporal.io/api/activity/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func timedOut(typ enumspb.TimeoutType) *failurepb.Failure {
	return &failurepb.Failure{FailureInfo: &failurepb.Failure_TimeoutFailureInfo{TimeoutFailureInfo: &failurepb.TimeoutFailureInfo{TimeoutType: typ}}}
}

// Given a description of an execution, then its attempt and State follow. The server counts an
// attempt that waits; only the times show whether it has started.
func TestStatus_AttemptAndState(t *testing.T) {
	const (
		running   = enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING
		completed = enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED
		failed    = enumspb.ACTIVITY_EXECUTION_STATUS_FAILED
		canceled  = enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED
		ended     = enumspb.ACTIVITY_EXECUTION_STATUS_TIMED_OUT
		scheduled = enumspb.PENDING_ACTIVITY_STATE_SCHEDULED
		started   = enumspb.PENDING_ACTIVITY_STATE_STARTED

		never  = 0
		before = 1 // during the attempt before
		now    = 2 // during this attempt
	)
	for _, test := range []struct {
		name          string
		status        enumspb.ActivityExecutionStatus
		run           enumspb.PendingActivityState
		start, finish int
		next          time.Duration
		timeout       *failurepb.Failure
		attempts      int
		state         activity.State
	}{
		{"waits for the first time", running, scheduled, never, never, 0, nil, 0, activity.StateWaiting},
		{"runs for the first time", running, started, now, never, 0, nil, 3, activity.StateRunning},
		{"backs off", running, scheduled, before, before, time.Hour, nil, 2, activity.StateBackingOff},
		{"waits again", running, scheduled, before, before, -time.Hour, nil, 2, activity.StateWaiting},
		{"runs again", running, started, now, before, 0, nil, 3, activity.StateRunning},
		{"cancel requested", running, enumspb.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED, now, before, 0, nil, 3, activity.StateRunning},
		{"paused", enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED, enumspb.PENDING_ACTIVITY_STATE_PAUSED, before, before, 0, nil, 2, activity.StatePaused},
		{"paused before the first", enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED, enumspb.PENDING_ACTIVITY_STATE_PAUSED, never, never, 0, nil, 0, activity.StatePaused},
		{"pause requested", running, enumspb.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED, now, before, 0, nil, 3, activity.StateRunning},
		{"completed", completed, 0, now, now, 0, nil, 3, activity.StateCompleted},
		{"failed", failed, 0, now, now, 0, nil, 3, activity.StateFailed},
		{"canceled while it ran", canceled, 0, now, before, 0, nil, 3, activity.StateCanceled},
		{"canceled between attempts", canceled, 0, before, before, 0, nil, 2, activity.StateCanceled},
		{"canceled before the first", canceled, 0, never, never, 0, nil, 0, activity.StateCanceled},
		{"heartbeat", ended, 0, now, now, 0, timedOut(enumspb.TIMEOUT_TYPE_HEARTBEAT), 3, activity.StateFailed},
		{"start to close", ended, 0, now, now, 0, timedOut(enumspb.TIMEOUT_TYPE_START_TO_CLOSE), 3, activity.StateFailed},
		{"schedule to close while it ran", ended, 0, now, before, 0, timedOut(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE), 3, activity.StateFailed},
		{"schedule to close while it waited", ended, 0, before, before, 0, timedOut(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE), 2, activity.StateFailed},
		{"schedule to start", ended, 0, never, never, 0, timedOut(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START), 0, activity.StateFailed},
		{"schedule to start, again", ended, 0, before, before, 0, timedOut(enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START), 2, activity.StateFailed},
	} {
		at := func(n int) *timestamppb.Timestamp {
			if n == never {
				return nil
			}
			return timestamppb.New(time.Unix(int64(n), 0))
		}
		d := &client.ActivityExecutionDescription{
			ClientActivityExecutionInfo: client.ActivityExecutionInfo{Status: test.status},
			Attempt:                     3, RunState: test.run,
			RawResponse: &workflowservice.DescribeActivityExecutionResponse{
				Info:    &activitypb.ActivityExecutionInfo{LastStartedTime: at(test.start), LastAttemptCompleteTime: at(test.finish)},
				Outcome: &activitypb.ActivityExecutionOutcome{Value: &activitypb.ActivityExecutionOutcome_Failure{Failure: test.timeout}},
			},
		}
		if test.next != 0 {
			d.NextAttemptScheduleTime = time.Now().Add(test.next)
		}
		if got := attempts(d); got != test.attempts {
			t.Errorf("%s: %d attempts, want %d", test.name, got, test.attempts)
		}
		if got := state(d); got != test.state {
			t.Errorf("%s: it is %s, want %s", test.name, got, test.state)
		}
	}
}

// Given a schedule-to-close timeout that the server reports before that has passed, then no time was
// left for another attempt, and the last attempt's own failure counts. Otherwise it does not.
func TestCutShort_ByTheTimes(t *testing.T) {
	scheduled := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	own := timedOut(enumspb.TIMEOUT_TYPE_START_TO_CLOSE)
	for _, test := range []struct {
		closed time.Duration
		typ    enumspb.TimeoutType
		want   bool
	}{
		{time.Hour - 1, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, true},
		{time.Hour, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, false},
		{time.Hour - 1, enumspb.TIMEOUT_TYPE_HEARTBEAT, false},
		{0, enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE, false}, // it has not ended
	} {
		info := &activitypb.ActivityExecutionInfo{
			ScheduleTime: timestamppb.New(scheduled), ScheduleToCloseTimeout: durationpb.New(time.Hour), LastFailure: own,
		}
		if test.closed > 0 {
			info.CloseTime = timestamppb.New(scheduled.Add(test.closed))
		}
		d := &client.ActivityExecutionDescription{RawResponse: &workflowservice.DescribeActivityExecutionResponse{
			Info: info, Outcome: &activitypb.ActivityExecutionOutcome{Value: &activitypb.ActivityExecutionOutcome_Failure{Failure: timedOut(test.typ)}},
		}}
		if got := isCutShort(d); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}
