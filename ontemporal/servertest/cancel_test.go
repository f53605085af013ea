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

func TestScenarios_Cancellation(t *testing.T) {
	// A cancellation comes with the answer to a heartbeat that is sent. The interval must
	// not be short, because it is also the SDK's timeout for that answer.
	fast := worker.Options{MaxHeartbeatThrottleInterval: 2 * time.Second, DefaultHeartbeatThrottleInterval: 2 * time.Second}
	opts := activity.Options{HeartbeatTimeout: 30 * time.Second}
	// cancel cancels once the function runs.
	cancel := func(x *trial) {
		h := x.begin(x.t.Context())
		x.await("attempt 1 resumes from")
		h.Cancel(errCallers)
		h.Cancel(errDisk) // the first cause wins
		x.wait(h)
	}
	run(t, []scenario{{
		name: "the caller's context", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			x.note("ready", "yes")
			err := fmt.Errorf("row 3: %w", x.beat(ctx))
			x.note("cause is context.Canceled", fmt.Sprint(errors.Is(context.Cause(ctx), context.Canceled)))
			return "", err
		},
		call: func(x *trial) {
			ctx, cancel := context.WithCancelCause(x.t.Context())
			h := x.begin(ctx)
			x.await("ready")
			cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"cause is context.Canceled: false",
			"end: work of ID in attempt 1: cancel requested",
			"ready: yes",
			"end is: the caller's cause",
			"end text: row 3: changed my mind",
		},
		server: map[string]difference{
			"cause is context.Canceled": {"true", "the caller's cause stays with the caller"},
		},
	}, {
		name: "the caller's context has a deadline", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", x.beat(ctx)
		},
		call: func(x *trial) {
			ctx, cancel := context.WithTimeout(x.t.Context(), time.Second)
			defer cancel()
			x.executed(ctx, "in")
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: context.DeadlineExceeded",
			"end text: context deadline exceeded",
		},
	}, {
		name: "a context that has ended before", opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", nil
		},
		call: func(x *trial) {
			ctx, cancel := context.WithCancelCause(x.t.Context())
			cancel(errCallers)
			x.executed(ctx, "in")
		},
		want: []string{
			"end: work of ID in attempt 0: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
		},
	}, {
		name: "Cancel, and the function returns the cause", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "partial", x.beat(ctx)
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
		},
	}, {
		name: "Cancel without a cause", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", x.beat(ctx)
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("attempt 1 resumes from")
			h.Cancel(nil)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: context.Canceled",
			"end text: context canceled",
		},
	}, {
		name: "Cancel, and the function returns ctx.Err", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			return "", ctx.Err()
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause, context.Canceled",
			"end text: changed my mind; the last attempt ended with: context canceled",
		},
	}, {
		name: "Cancel, and the function says more of the cause", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", fmt.Errorf("row 3: %w", x.beat(ctx))
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: row 3: changed my mind",
		},
	}, {
		name: "Cancel, and the function returns an error of its own", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			return "", errDisk
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind; the last attempt ended with: disk full",
		},
	}, {
		name: "Cancel, and the function returns a NonRetryable error of its own", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			return "", activity.NonRetryable(errDisk)
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: NonRetryable, the caller's cause",
			"end text: changed my mind; the last attempt ended with: disk full",
		},
	}, {
		name: "Cancel, and the function panics", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			x.boom("boom")
			return "", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end panic: boom, in boom",
			"end text: changed my mind; the last attempt ended with: panic: boom",
		},
	}, {
		name: "Cancel at the last attempt, and the function returns an error of its own", worker: fast,
		opts: activity.Options{HeartbeatTimeout: 30 * time.Second, RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			return "", errDisk
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind; the last attempt ended with: disk full",
		},
	}, {
		name: "Cancel, and the function succeeds", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "Cancel, and the details are still recorded", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if in == "again" {
				return "done", nil
			}
			_ = x.beat(ctx)
			x.note("heartbeat", same(ctx.Heartbeat(9), context.Cause(ctx)))
			return "", context.Cause(ctx)
		},
		call: func(x *trial) {
			cancel(x)
			x.opts.AcceptNewInput = true
			h, err := x.start(x.t.Context(), x.opts, "again")
			if err != nil {
				x.t.Fatal(err)
			}
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 resumes from again: 9",
			"end: work of ID in attempt 1: cancel requested",
			"end again: result \"done\"",
			"end is: the caller's cause",
			"end text: changed my mind",
			"heartbeat: the cause",
		},
	}, {
		name: "Cancel cuts Sleep short, and the function returns nil", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			go func() { _ = x.beat(ctx) }()
			x.note("sleep", same(ctx.Sleep(time.Hour), context.Cause(ctx)))
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
			"sleep: the cause",
		},
	}, {
		name: "Cancel cuts Idle short, and the function returns nil", worker: fast,
		opts: activity.Options{HeartbeatTimeout: 4 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.note("idle", same(activity.Idle(ctx, time.Hour), context.Cause(ctx)))
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
			"idle: the cause",
		},
	}, {
		name: "Cancel cuts Range short, and the function returns nil", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			err := activity.Range(ctx, 0, 5, func(i int) error {
				if i == 2 {
					_ = x.beat(ctx)
				}
				return nil
			})
			x.note("range", same(err, context.Cause(ctx)))
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
			"range: the cause",
		},
	}, {
		name: "Cancel cuts a Reader short, and the function returns nil", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			r := activity.Reader(ctx, readUntil{func() { _ = x.beat(ctx) }})
			var b [4]byte
			n, err := r.Read(b[:])
			x.note("last read", fmt.Sprintf("%d bytes, %v", n, err))
			n, err = r.Read(b[:])
			x.note("next read", fmt.Sprintf("%d bytes, %s", n, same(err, context.Cause(ctx))))
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
			"last read: 4 bytes, <nil>",
			"next read: 0 bytes, the cause",
		},
	}, {
		name: "Cancel during the last body of a Range", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "done", activity.Range(ctx, 0, 5, func(i int) error {
				if i == 4 {
					x.note("last body", "runs")
					_ = x.beat(ctx)
				}
				return nil
			})
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.await("last body")
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
			"last body: runs",
		},
	}, {
		name: "Cancel before Guard, and the function returns nil", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			_ = x.beat(ctx)
			err := activity.Guard(ctx, func() error {
				x.note("guard", "runs")
				return nil
			})
			x.note("guard", same(err, context.Cause(ctx)))
			return "done", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
			"guard: the cause",
		},
	}, {
		name: "Cancel before the first attempt", opts: opts,
		config: activity.Config{MaxConcurrent: 1},
		worker: worker.Options{MaxConcurrentActivityExecutionSize: 1},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", nil
		},
		call: func(x *trial) {
			x.block()
			h := x.begin(x.t.Context())
			x.eventually("it waits", h, func(s activity.Status) bool { return s.State == activity.StateWaiting && s.Attempt == 0 })
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"blocker: runs",
			"end: work of ID in attempt 0: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
		},
	}, {
		name: "Cancel while it backs off",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", errDisk
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			x.backingOff(h)
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind; the last attempt ended with: disk full",
		},
	}, {
		name: "CancelGrace", worker: fast,
		opts: activity.Options{HeartbeatTimeout: 30 * time.Second, CancelGrace: time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.hang()
			return "too late", nil
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind; its function had not returned 1s later and is abandoned",
		},
		server: map[string]difference{
			"end text": {"changed my mind; it had not ended 1s later and may still run", "the caller cannot see whether the function has returned"},
		},
	}, {
		name: "Cancel, and the function takes longer than the heartbeat timeout", worker: fast,
		opts: activity.Options{HeartbeatTimeout: 3 * time.Second, CancelGrace: limit},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			err := x.beat(ctx)
			time.Sleep(7 * time.Second)
			return "", err
		},
		call: cancel,
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: cancel requested",
			"end is: the caller's cause",
			"end text: changed my mind",
		},
	}, {
		name: "Cancel of what has ended",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "done", nil
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			<-h.Done()
			h.Cancel(errCallers)
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "a wait that is given up cancels nothing", worker: fast, opts: opts,
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.await("waited")
			return "done", ctx.Heartbeat()
		},
		call: func(x *trial) {
			h := x.begin(x.t.Context())
			ctx, cancel := context.WithCancelCause(x.t.Context())
			cancel(errCallers)
			out, err := h.Wait(ctx)
			x.note("waited", fmt.Sprintf("%q, %v, as it is: %t", out, err, err == errCallers))
			x.wait(h)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"done\"",
			"waited: \"\", changed my mind, as it is: true",
		},
	}})
}

// beat sends heartbeats until the Context ends, and returns the cause.
func (x *trial) beat(ctx activity.Context) error {
	for {
		if err := ctx.Heartbeat(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// readUntil is a reader whose Read waits before it reads.
type readUntil struct{ wait func() }

func (r readUntil) Read(p []byte) (int, error) {
	r.wait()
	return len(p), nil
}
