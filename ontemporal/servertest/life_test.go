package servertest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/sdk/worker"
)

var inChild = []scenario{{
	name: "the process is killed", child: true,
	opts: activity.Options{HeartbeatTimeout: 8 * time.Second},
	fn: func(x *trial, ctx activity.Context, in string) (string, error) {
		if first(ctx) {
			if err := ctx.Heartbeat(7); err != nil {
				return "", err
			}
			x.hang()
		}
		return "done", nil
	},
	call: func(x *trial) {
		h := x.begin(x.t.Context())
		x.await("attempt 1 resumes from")
		x.recorded(x.t, h, "7")
		x.kill(x.t)
		x.wait(x.resume(x.t, h))
	},
	want: []string{
		"attempt 1 resumes from: nothing",
		"attempt 2 comes after: the process ended during attempt 1",
		"attempt 2 resumes from: 7",
		"end: result \"done\"",
	},
	server: map[string]difference{
		"attempt 2 comes after": {"activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept", "the server only knows that the heartbeats have stopped"},
	},
}}

func TestScenarios_Lives(t *testing.T) {
	run(t, append(inChild, []scenario{{
		name:   "the process is shut down",
		worker: worker.Options{WorkerStopTimeout: 20 * time.Second},
		opts:   activity.Options{HeartbeatTimeout: 30 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if n, err := activity.Resume(ctx, 0); n > 0 || err != nil {
				return "done", err
			}
			for i := range 7 {
				if err := ctx.Heartbeat(i + 1); err != nil {
					return "", err
				}
			}
			x.note("ready", "yes")
			<-ctx.Done()
			err := context.Cause(ctx)
			x.kinds("cause", err)
			x.note("sleep", same(ctx.Sleep(time.Hour), err))
			return "", err
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("ready")
			x.shutdown(x.t)
			x.wait(x.resume(x.t, h))
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 7",
			"cause is: ErrShutdown",
			"cause text: the activity runtime is shut down",
			"end: result \"done\"",
			"ready: yes",
			"sleep: the cause",
		},
		server: map[string]difference{
			"attempt 1 resumes from again": {"", "the server counts every attempt"},
			"attempt 2 comes after":        {"the activity runtime is shut down: the Temporal worker stops", "the server counts every attempt"},
			"attempt 2 resumes from":       {"7", "the server counts every attempt"},
			"cause text":                   {"the activity runtime is shut down: the Temporal worker stops", "the error names the worker"},
		},
	}, {
		name: "the process is shut down, and the function returns nil at once",
		opts: activity.Options{HeartbeatTimeout: 30 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if n, err := activity.Resume(ctx, 0); n > 0 || err != nil {
				return "done", err
			}
			if err := ctx.Heartbeat(1); err != nil {
				return "", err
			}
			x.note("ready", "yes")
			_ = ctx.Sleep(time.Hour)
			return "half done", nil
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("ready")
			x.shutdown(x.t)
			x.wait(x.resume(x.t, h))
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 1",
			"end: result \"done\"",
			"ready: yes",
		},
		server: map[string]difference{
			"attempt 1 resumes from again": {"", "the server counts every attempt"},
			"attempt 2 comes after":        {"the activity runtime is shut down: the Temporal worker stops", "the server counts every attempt"},
			"attempt 2 resumes from":       {"1", "the server counts every attempt"},
		},
	}, {
		name:   "the process is shut down, and the function succeeds",
		worker: worker.Options{WorkerStopTimeout: 20 * time.Second},
		opts:   activity.Options{HeartbeatTimeout: 30 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.note("ready", "yes")
			<-ctx.Done()
			return "done", nil
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("ready")
			x.shutdown(x.t)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
			"ready: yes",
		},
	}, {
		name: "an ID that is running",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.await("second")
			return "done", nil
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			_, err := x.start(x.t.Context(), x.opts, "in")
			x.note("second", fmt.Sprintf("is refused: %t", errors.Is(err, activity.ErrAlreadyRunning)))
			x.note("second text", errText(err))
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
			"second: is refused: true",
			"second text: activity \"ID\": not started: an activity with this ID is already running",
		},
	}, {
		name: "an ID that failed for good resumes",
		opts: activity.Options{AcceptNewInput: true},
		fn:   again, call: runAgain,
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 3",
			"end: work of ID in attempt 1: non-retryable failure",
			"end again: result \"done\"",
			"end is: NonRetryable",
			"end text: disk full",
		},
	}, {
		name: "an ID that ran into schedule-to-close resumes",
		opts: activity.Options{ScheduleToCloseTimeout: 8 * time.Second, AcceptNewInput: true},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if in == "in" {
				if err := ctx.Heartbeat(3); err != nil {
					return "", err
				}
				<-ctx.Done()
				return "", context.Cause(ctx)
			}
			return "done", nil
		},
		call: runAgain,
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 3",
			"end: work of ID in attempt 1: timeout",
			"end again: result \"done\"",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): schedule-to-close timeout: not done 8s after it was scheduled, in attempt 1; the last heartbeat details are kept",
			"end timeout: schedule-to-close timeout, attempt 1 of ID (work), after 8s",
			"end timeout before: nothing",
			"end timeout details: 3",
			"end timeout stack: somewhere else",
		},
		server: map[string]difference{
			"end timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "an ID that failed before it recorded anything keeps Options.HeartbeatDetails",
		opts: activity.Options{HeartbeatDetails: []any{7}, AcceptNewInput: true},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if in == "in" {
				return "", activity.NonRetryable(errDisk)
			}
			return "done", nil
		},
		call: func(x *trial) {
			x.executed(x.t.Context(), "in")
			x.opts.HeartbeatDetails = []any{1}
			x.executed(x.t.Context(), "again")
		},
		want: []string{
			"attempt 1 resumes from: 7",
			"attempt 1 resumes from again: 7",
			"end: work of ID in attempt 1: non-retryable failure",
			"end again: result \"done\"",
			"end is: NonRetryable",
			"end text: disk full",
		},
	}, {
		name: "an ID that succeeded starts anew",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "done", ctx.Heartbeat(3)
		},
		call: runAgain,
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: nothing",
			"end: result \"done\"",
			"end again: result \"done\"",
		},
	}, {
		name: "Status",
		opts: activity.Options{HeartbeatTimeout: 30 * time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if !first(ctx) {
				return "done", nil
			}
			x.await("go 0")
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			x.note("beaten", "yes")
			x.await("go 1")
			return "", errDisk
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("attempt 1 resumes from")
			x.noteStatus("0 before the heartbeat", h)
			x.note("go 0", "yes")
			x.await("beaten")
			x.recorded(x.t, h, "3")
			x.noteStatus("1 after the heartbeat", h)
			x.note("go 1", "yes")
			x.backingOff(h)
			x.noteStatus("2 backing off", h)
			h.Cancel(errCallers)
			x.wait(h)
			x.noteStatus("3 canceled", h)
		},
		want: []string{
			"0 before the heartbeat: work of ID is running, attempt 1, details nothing",
			"0 before the heartbeat failure: no error",
			"0 before the heartbeat times: scheduled true, started true, heartbeat false, next attempt false",
			"1 after the heartbeat: work of ID is running, attempt 1, details 3",
			"1 after the heartbeat failure: no error",
			"1 after the heartbeat times: scheduled true, started true, heartbeat true, next attempt false",
			"2 backing off: work of ID is backing off, attempt 1, details 3",
			"2 backing off failure: disk full",
			"2 backing off times: scheduled true, started true, heartbeat true, next attempt true",
			"3 canceled: work of ID is canceled, attempt 1, details 3",
			"3 canceled failure: disk full",
			"3 canceled times: scheduled true, started true, heartbeat true, next attempt false",
			"attempt 1 resumes from: nothing",
			"beaten: yes",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind; the last attempt ended with: disk full",
			"go 0: yes",
			"go 1: yes",
		},
	}, {
		name: "Status of what has failed",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", errors.Join(ctx.Heartbeat(ctx.Info().Attempt), errDisk)
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.wait(h)
			x.noteStatus("at the end", h)
		},
		want: []string{
			"at the end: work of ID is failed, attempt 2, details 2",
			"at the end failure: disk full",
			"at the end times: scheduled true, started true, heartbeat true, next attempt false",
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 1",
			"end: work of ID in attempt 2: maximum attempts reached",
			"end text: disk full",
		},
	}, {
		name: "Status of what has succeeded",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errDisk
			}
			return "done", ctx.Heartbeat(3)
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.wait(h)
			x.noteStatus("at the end", h)
		},
		want: []string{
			"at the end: work of ID is completed, attempt 2, details 3",
			"at the end failure: disk full",
			"at the end times: scheduled true, started true, heartbeat true, next attempt false",
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}}...))
}

// Rule 31. These scenarios start an ID again whose last execution may be another activity's.
func TestScenarios_OtherActivities(t *testing.T) {
	const noForget = "there is no Forget on a server"
	run(t, []scenario{{
		name: "the same input resumes",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if n, err := activity.Resume(ctx, 0); n == 3 || err != nil {
				return "done", err
			}
			return "", errors.Join(ctx.Heartbeat(3), activity.NonRetryable(errDisk))
		},
		call: func(x *trial) {
			x.executed(x.t.Context(), "in")
			x.executed(x.t.Context(), "in")
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 3",
			"end: work of ID in attempt 1: non-retryable failure",
			"end again: result \"done\"",
			"end is: NonRetryable",
			"end text: disk full",
		},
	}, {
		name: "another input is refused, until it is accepted",
		fn:   again,
		call: func(x *trial) {
			runAgain(x)
			x.opts.AcceptNewInput = true
			x.executed(x.t.Context(), "again")
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 3",
			"end: work of ID in attempt 1: non-retryable failure",
			"end again: not an *activity.Error",
			"end again again: result \"done\"",
			"end is: NonRetryable",
			"end is again: ErrCheckpointMismatch",
			"end text: disk full",
			"end text again: activity \"ID\": not started: the checkpoint of this ID belongs to another activity: the stored input is \"in\" (failed, attempt 1), the new one \"again\"; use the stored input, set Options.AcceptNewInput to continue with the new one, or call Forget to delete the checkpoint",
		},
		server: map[string]difference{
			"end text again": {"activity \"ID\": not started: the checkpoint of this ID belongs to another activity: the input on the server is \"in\" (failed, attempt 1), the new one \"again\"; use the input on the server, set Options.AcceptNewInput to continue with the new one, use another ID, or delete that execution (temporal activity delete)", noForget},
		},
	}, {
		name: "another input is refused without details, too",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.NonRetryable(errDisk)
		},
		call: func(x *trial) {
			x.executed(x.t.Context(), "in")
			_, err := x.execute(x.t.Context(), x.opts, "again")
			x.note("again", fmt.Sprintf("is refused: %t", errors.Is(err, activity.ErrCheckpointMismatch)))
		},
		want: []string{
			"again: is refused: true",
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end text: disk full",
		},
	}, {
		name:   "another input is refused after a cancellation",
		worker: worker.Options{MaxHeartbeatThrottleInterval: 2 * time.Second, DefaultHeartbeatThrottleInterval: 2 * time.Second},
		opts:   activity.Options{HeartbeatTimeout: 20 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if in == "again" {
				return "done", nil
			}
			return "", x.beat(ctx)
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("attempt 1 resumes from")
			h.Cancel(errCallers)
			x.wait(h)
			_, err := x.execute(x.t.Context(), x.opts, "again")
			x.note("again", fmt.Sprintf("is refused: %t", errors.Is(err, activity.ErrCheckpointMismatch)))
		},
		want: []string{
			"again: is refused: true",
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
		},
	}, {
		name: "another name is refused",
		opts: activity.Options{AcceptNewInput: true},
		fn:   again,
		call: func(x *trial) {
			x.executed(x.t.Context(), "in")
			x.opts.Name = "other work"
			x.executed(x.t.Context(), "again")
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end again: not an *activity.Error",
			"end is: NonRetryable",
			"end is again: ErrCheckpointMismatch",
			"end text: disk full",
			"end text again: activity \"ID\": not started: the checkpoint of this ID belongs to another activity: the stored name is \"work\" (failed, attempt 1), the new one \"other work\"; use another ID, or call Forget to delete the checkpoint",
		},
		server: map[string]difference{
			"end text again": {"activity \"ID\": not started: the checkpoint of this ID belongs to another activity: the name on the server is \"work\" (failed, attempt 1), the new one \"other work\"; use another ID, or delete that execution (temporal activity delete)", noForget},
		},
	}, {
		name: "ErrCannotResume, then a program that can",
		opts: activity.Options{RetryPolicy: twice},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.mu.Lock()
			old := x.seen["end"] == ""
			x.mu.Unlock()
			switch {
			case old && first(ctx):
				return "", errors.Join(ctx.Heartbeat("row 3"), errDisk)
			case old:
				_, err := activity.Resume(ctx, 0)
				return "", err
			}
			return activity.Resume(ctx, "")
		},
		call: func(x *trial) {
			x.executed(x.t.Context(), "in")
			x.executed(x.t.Context(), "in")
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 comes after again: disk full",
			"attempt 2 resumes from: \"row 3\"",
			"attempt 2 resumes from again: \"row 3\"",
			"end: work of ID in attempt 2: non-retryable failure",
			"end again: result \"row 3\"",
			"end is: ErrCannotResume",
			"end text: activity \"ID\" (work): attempt 2: cannot resume from the recorded heartbeat details: cannot decode value 1 into *int: json: cannot unmarshal string into Go value of type int",
		},
		server: map[string]difference{
			"end":                          retriedElsewhere,
			"attempt 1 resumes from again": {"\"row 3\"", "the server counts every attempt, and the execution has failed"},
			"attempt 2 comes after again":  {"", "the server counts every attempt, and the execution has failed"},
			"attempt 2 resumes from again": {"", "the server counts every attempt, and the execution has failed"},
		},
	}})
}

func again(x *trial, ctx activity.Context, in string) (string, error) {
	if in == "in" {
		return "", errors.Join(ctx.Heartbeat(3), activity.NonRetryable(errDisk))
	}
	return "done", nil
}

// runAgain executes the activity, and then the same ID with another input.
func runAgain(x *trial) {
	x.executed(x.t.Context(), "in")
	x.executed(x.t.Context(), "again")
}

// noteStatus notes the part of a Status that does not depend on the time.
func (x *trial) noteStatus(key string, h handle) {
	s, err := x.status(h)
	if err != nil {
		x.note(key, err.Error())
		return
	}
	details := "nothing"
	if s.Details != nil {
		details = detailsOf(s.Details)
	}
	x.note(key, fmt.Sprintf("%s of %s is %s, attempt %d, details %s", s.Name, s.ID, s.State, s.Attempt, details))
	x.note(key+" times", fmt.Sprintf("scheduled %t, started %t, heartbeat %t, next attempt %t", !s.ScheduledAt.IsZero(), !s.StartedAt.IsZero(), !s.LastHeartbeat.IsZero(), !s.NextAttempt.IsZero()))
	x.note(key+" failure", errText(s.LastFailure))
}
