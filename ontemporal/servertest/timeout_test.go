package servertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/sdk/worker"
)

func TestScenarios_Timeouts(t *testing.T) {
	// No test outlives this interval, so the next attempt did not wait for it.
	hour := activity.RetryPolicy{InitialInterval: time.Hour}
	run(t, []scenario{{
		name: "stall and recovery",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				for i := range 4 {
					if err := ctx.Heartbeat(i); err != nil {
						return "", err
					}
				}
				x.hang()
				return "too late", nil
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 comes after is: context.DeadlineExceeded",
			"attempt 2 comes after text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 comes after timeout: heartbeat timeout, attempt 1 of ID (work), after 8s",
			"attempt 2 comes after timeout before: nothing",
			"attempt 2 comes after timeout details: 3",
			"attempt 2 comes after timeout stack: in hang",
			"attempt 2 resumes from: 3",
			"end: result \"done\"",
		},
	}, {
		name: "stall before the first heartbeat",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				x.hang()
				return "too late", nil
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"attempt 2 comes after is: context.DeadlineExceeded",
			"attempt 2 comes after text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"attempt 2 comes after timeout: heartbeat timeout, attempt 1 of ID (work), after 8s",
			"attempt 2 comes after timeout before: nothing",
			"attempt 2 comes after timeout details: nothing",
			"attempt 2 comes after timeout stack: in hang",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "stall at the last attempt",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			if err := ctx.Heartbeat(4); err != nil {
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 3",
			"end: work of ID in attempt 2: maximum attempts reached",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): heartbeat timeout: attempt 2 had no heartbeat for 8s; the last heartbeat details are kept; the previous attempt: disk full",
			"end timeout: heartbeat timeout, attempt 2 of ID (work), after 8s",
			"end timeout before: disk full",
			"end timeout details: 4",
			"end timeout stack: in hang",
		},
	}, {
		name: "stall with 1 MiB of details",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				if err := ctx.Heartbeat(strings.Repeat("x", 1<<20)); err != nil {
					return "", err
				}
				x.hang()
			}
			s, err := activity.Resume(ctx, "")
			return fmt.Sprint(len(s)), err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 resumes from: 1048578 bytes",
			"end: result \"1048576\"",
		},
	}, {
		name: "stall with 1 MiB of details at the last attempt",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(strings.Repeat("x", 1<<20)); err != nil {
				return "", err
			}
			x.hang()
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"end timeout: heartbeat timeout, attempt 1 of ID (work), after 8s",
			"end timeout before: nothing",
			"end timeout details: 1048578 bytes",
			"end timeout stack: in hang",
		},
	}, {
		name: "stall with all the details there may be, at the last attempt",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(strings.Repeat("x", maxDetails-len(`""`))); err != nil {
				return "", err
			}
			x.hang()
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"end timeout: heartbeat timeout, attempt 1 of ID (work), after 8s",
			"end timeout before: nothing",
			"end timeout details: 2093056 bytes",
			"end timeout stack: in hang",
		},
	}, {
		name: "stalls without progress, deep in the stack",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			deep(100, x.hang)
			return "too late", nil
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("attempt 2 resumes from")
			x.backingOff(h)
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"attempt 2 resumes from: nothing",
			"end: work of ID in attempt 2: cancel requested",
			"end is: the caller's cause, context.DeadlineExceeded",
			"end text: changed my mind; the last attempt ended with: heartbeat timeout: attempt 2 had no heartbeat for 8s; no heartbeat details were recorded; the previous attempt: heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"end timeout: heartbeat timeout, attempt 2 of ID (work), after 8s",
			"end timeout before: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"end timeout details: nothing",
			"end timeout stack: in hang",
		},
		server: map[string]difference{
			"end timeout before": {"heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded", "of the failure before the last one only the text is kept"},
		},
	}, {
		name: "stalls without progress",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil { // the second attempt resumes from these details
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		call: func(x *trial) { // the second attempt starts at once, the third does not
			h := x.begin(x.t.Context())
			x.await("attempt 2 resumes from")
			x.backingOff(h)
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 resumes from: 3",
			"end: work of ID in attempt 2: cancel requested",
			"end is: the caller's cause, context.DeadlineExceeded",
			"end text: changed my mind; the last attempt ended with: heartbeat timeout: attempt 2 had no heartbeat for 8s; the last heartbeat details are kept; the previous attempt: heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"end timeout: heartbeat timeout, attempt 2 of ID (work), after 8s",
			"end timeout before: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"end timeout details: 3",
			"end timeout stack: in hang",
		},
		server: map[string]difference{
			"end timeout before": {"heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept", "of the failure before the last one only the text is kept"},
		},
	}, {
		name: "stalls with progress",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if ctx.Info().Attempt == 3 {
				return "done", nil
			}
			if err := ctx.Heartbeat(ctx.Info().Attempt); err != nil {
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 resumes from: 1",
			"attempt 3 comes after: activity \"ID\" (work): heartbeat timeout: attempt 2 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 3 resumes from: 2",
			"end: result \"done\"",
		},
	}, {
		name: "a failure between stalls",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			switch ctx.Info().Attempt {
			case 2:
				return "", activity.RetryAfter(errDisk, 1)
			case 4:
				return "done", nil
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; no heartbeat details were recorded",
			"attempt 2 resumes from: nothing",
			"attempt 3 comes after: disk full",
			"attempt 3 resumes from: nothing",
			"attempt 4 comes after: activity \"ID\" (work): heartbeat timeout: attempt 3 had no heartbeat for 8s; no heartbeat details were recorded",
			"attempt 4 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "a timed-out attempt is fenced",
		opts: activity.Options{HeartbeatTimeout: 8 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			switch ctx.Info().Attempt {
			case 1:
				if err := ctx.Heartbeat(1); err != nil {
					return "", err
				}
				<-ctx.Done()
				x.kinds("attempt 1 cause", context.Cause(ctx))
				x.note("attempt 1 Err", ctx.Err().Error())
				x.await("attempt 2 resumes from")
				err := context.Cause(ctx)
				x.note("attempt 1 heartbeat", same(ctx.Heartbeat(99), err))
				x.note("attempt 1 sleep", same(ctx.Sleep(0), err))
				x.note("attempt 1 guard", same(activity.Guard(ctx, func() error {
					x.note("attempt 1 guard", "runs")
					return nil
				}), err))
				return "too late", nil
			case 2:
				x.await("attempt 1 guard")
				return "", errDisk
			}
			return "done", nil
		},
		want: []string{
			"attempt 1 Err: context canceled",
			"attempt 1 cause is: context.DeadlineExceeded",
			"attempt 1 cause text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 1 cause timeout: heartbeat timeout, attempt 1 of ID (work), after 8s",
			"attempt 1 cause timeout before: nothing",
			"attempt 1 cause timeout details: 1",
			"attempt 1 cause timeout stack: somewhere else",
			"attempt 1 guard: the cause",
			"attempt 1 heartbeat: the cause",
			"attempt 1 resumes from: nothing",
			"attempt 1 sleep: the cause",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 8s; the last heartbeat details are kept",
			"attempt 2 resumes from: 1",
			"attempt 3 comes after: disk full",
			"attempt 3 resumes from: 1",
			"end: result \"done\"",
		},
	}, {
		name: "Guard holds up the next attempt",
		opts: activity.Options{HeartbeatTimeout: 4 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if !first(ctx) {
				x.note("still guarded", fmt.Sprint(x.guarded.Load()))
				return "done", nil
			}
			err := activity.Guard(ctx, func() error {
				x.guarded.Store(true)
				<-ctx.Done()
				x.kinds("attempt 1 cause", context.Cause(ctx))
				time.Sleep(6 * time.Second) // long enough for another attempt to come
				x.guarded.Store(false)
				return errDisk
			})
			x.note("guard", errText(err))
			return "", err
		},
		want: []string{
			"attempt 1 cause is: context.DeadlineExceeded",
			"attempt 1 cause text: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 4s; no heartbeat details were recorded",
			"attempt 1 cause timeout: heartbeat timeout, attempt 1 of ID (work), after 4s",
			"attempt 1 cause timeout before: nothing",
			"attempt 1 cause timeout details: nothing",
			"attempt 1 cause timeout stack: somewhere else",
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): heartbeat timeout: attempt 1 had no heartbeat for 4s; no heartbeat details were recorded",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
			"guard: disk full",
			"still guarded: false",
		},
	}, {
		name: "start-to-close",
		opts: activity.Options{StartToCloseTimeout: 5 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				if err := ctx.Heartbeat(3); err != nil {
					return "", err
				}
				<-ctx.Done()
				x.kinds("attempt 1 cause", context.Cause(ctx))
				x.note("attempt 1 heartbeat", same(ctx.Heartbeat(4), context.Cause(ctx)))
				return "too late", nil
			}
			x.await("attempt 1 heartbeat")
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 cause is: context.DeadlineExceeded",
			"attempt 1 cause text: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; the last heartbeat details are kept",
			"attempt 1 cause timeout: start-to-close timeout, attempt 1 of ID (work), after 5s",
			"attempt 1 cause timeout before: nothing",
			"attempt 1 cause timeout details: 3",
			"attempt 1 cause timeout stack: somewhere else",
			"attempt 1 heartbeat: the cause",
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; the last heartbeat details are kept",
			"attempt 2 comes after is: context.DeadlineExceeded",
			"attempt 2 comes after text: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; the last heartbeat details are kept",
			"attempt 2 comes after timeout: start-to-close timeout, attempt 1 of ID (work), after 5s",
			"attempt 2 comes after timeout before: nothing",
			"attempt 2 comes after timeout details: 3",
			"attempt 2 comes after timeout stack: somewhere else",
			"attempt 2 resumes from: 3",
			"end: result \"done\"",
		},
		server: map[string]difference{
			"attempt 2 comes after timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "start-to-close of a function that does not listen",
		opts: activity.Options{StartToCloseTimeout: 5 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				x.hang()
				return "too late", nil
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; no heartbeat details were recorded",
			"attempt 2 comes after is: context.DeadlineExceeded",
			"attempt 2 comes after text: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; no heartbeat details were recorded",
			"attempt 2 comes after timeout: start-to-close timeout, attempt 1 of ID (work), after 5s",
			"attempt 2 comes after timeout before: nothing",
			"attempt 2 comes after timeout details: nothing",
			"attempt 2 comes after timeout stack: in hang",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
		server: map[string]difference{
			"attempt 2 comes after timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "start-to-close at the last attempt",
		opts: activity.Options{StartToCloseTimeout: 5 * time.Second, RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 5s; the last heartbeat details are kept",
			"end timeout: start-to-close timeout, attempt 1 of ID (work), after 5s",
			"end timeout before: nothing",
			"end timeout details: 3",
			"end timeout stack: in hang",
		},
		server: map[string]difference{
			"end timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "schedule-to-close during an attempt",
		opts: activity.Options{ScheduleToCloseTimeout: 8 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			<-ctx.Done()
			x.kinds("attempt 2 cause", context.Cause(ctx))
			return "", context.Cause(ctx)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 cause is: context.DeadlineExceeded",
			"attempt 2 cause text: activity \"ID\" (work): schedule-to-close timeout: not done 8s after it was scheduled, in attempt 2; the last heartbeat details are kept; the previous attempt: disk full",
			"attempt 2 cause timeout: schedule-to-close timeout, attempt 2 of ID (work), after 8s",
			"attempt 2 cause timeout before: disk full",
			"attempt 2 cause timeout details: 3",
			"attempt 2 cause timeout stack: somewhere else",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 3",
			"end: work of ID in attempt 2: timeout",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): schedule-to-close timeout: not done 8s after it was scheduled, in attempt 2; the last heartbeat details are kept; the previous attempt: disk full",
			"end timeout: schedule-to-close timeout, attempt 2 of ID (work), after 8s",
			"end timeout before: disk full",
			"end timeout details: 3",
			"end timeout stack: somewhere else",
		},
		server: map[string]difference{
			"end timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "schedule-to-close of a function that does not listen",
		opts: activity.Options{StartToCloseTimeout: time.Minute, ScheduleToCloseTimeout: 8 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: timeout",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): schedule-to-close timeout: not done 8s after it was scheduled, in attempt 1; the last heartbeat details are kept",
			"end timeout: schedule-to-close timeout, attempt 1 of ID (work), after 8s",
			"end timeout before: nothing",
			"end timeout details: 3",
			"end timeout stack: in hang",
		},
		server: map[string]difference{
			"end timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name: "no time for the backoff before schedule-to-close",
		opts: activity.Options{ScheduleToCloseTimeout: 10 * time.Minute, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", errDisk
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: timeout",
			"end text: disk full",
		},
	}, {
		name: "no time for RetryAfter before schedule-to-close",
		opts: activity.Options{ScheduleToCloseTimeout: 10 * time.Minute},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.RetryAfter(errDisk, time.Hour)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: timeout",
			"end is: RetryDelay 1h0m0s",
			"end text: disk full",
		},
	}, {
		name: "no time for the backoff after start-to-close",
		opts: activity.Options{StartToCloseTimeout: time.Second, ScheduleToCloseTimeout: 10 * time.Minute, RetryPolicy: hour},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			x.hang()
			return "too late", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: timeout",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): start-to-close timeout: attempt 1 was not done within 1s; the last heartbeat details are kept",
			"end timeout: start-to-close timeout, attempt 1 of ID (work), after 1s",
			"end timeout before: nothing",
			"end timeout details: 3",
			"end timeout stack: in hang",
		},
		server: map[string]difference{
			"end timeout stack": {"no stack", "the server decides, and drops a report that comes so late"},
		},
	}, {
		name:   "schedule-to-start",
		opts:   activity.Options{ScheduleToStartTimeout: time.Second, HeartbeatDetails: []any{7}},
		config: activity.Config{MaxConcurrent: 1},
		worker: worker.Options{MaxConcurrentActivityExecutionSize: 1},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "done", nil
		},
		call: func(x *trial) {
			x.block()
			x.executed(x.t.Context(), "in")
		},
		want: []string{
			"blocker: runs",
			"end: work of ID in attempt 0: timeout",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): schedule-to-start timeout: attempt 1 got no slot of MaxConcurrent within 1s; the last heartbeat details are kept",
			"end timeout: schedule-to-start timeout, attempt 0 of ID (work), after 1s",
			"end timeout before: nothing",
			"end timeout details: 7",
			"end timeout stack: no stack",
		},
	}, {
		name:   "schedule-to-close before the first attempt",
		opts:   activity.Options{ScheduleToCloseTimeout: time.Second},
		config: activity.Config{MaxConcurrent: 1},
		worker: worker.Options{MaxConcurrentActivityExecutionSize: 1},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "done", nil
		},
		call: func(x *trial) {
			x.block()
			x.executed(x.t.Context(), "in")
		},
		want: []string{
			"blocker: runs",
			"end: work of ID in attempt 0: timeout",
			"end is: context.DeadlineExceeded",
			"end text: activity \"ID\" (work): schedule-to-close timeout: not done 1s after it was scheduled, before its first attempt; no heartbeat details were recorded",
			"end timeout: schedule-to-close timeout, attempt 0 of ID (work), after 1s",
			"end timeout before: nothing",
			"end timeout details: nothing",
			"end timeout stack: no stack",
		},
	}})
}

// same returns "the cause" if err is the wanted error, and its text otherwise.
func same(err, want error) string {
	if err == want {
		return "the cause"
	}
	return errText(err)
}

// eventually polls the activity's status until cond returns true.
func (x *trial) eventually(what string, h handle, cond func(activity.Status) bool) {
	x.t.Helper()
	eventually(x.t, what, func() bool {
		s, err := x.status(h)
		return err == nil && cond(s)
	})
}

func (x *trial) backingOff(h handle) {
	x.t.Helper()
	x.eventually("it backs off", h, func(s activity.Status) bool { return s.State == activity.StateBackingOff })
}

// block starts another activity, which holds the only slot.
func (x *trial) block() {
	opts := x.opts
	opts.ID += "-blocker"
	opts.StartToCloseTimeout, opts.ScheduleToStartTimeout, opts.ScheduleToCloseTimeout, opts.HeartbeatTimeout = time.Hour, 0, 0, 0
	h, err := x.start(context.Background(), opts, "blocker")
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { x.awaitEnd(h) })
	x.await("blocker")
}

// awaitEnd waits for the end of an activity without comparing it.
func (x *trial) awaitEnd(h handle) {
	select {
	case <-h.Done():
	case <-time.After(limit):
		x.t.Errorf("%s does not end", h.ID())
	}
}
