package ontemporal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

// Register makes fn the activity type of that name for a worker. An empty name is
// the function's own, as for [activity.Options]. It panics if fn is nil, and, as the
// SDK does, if r has an activity of that name.
//
// To workflows it is an ordinary Temporal activity with one argument, but no local
// activity. (The second argument, which [Start] may send, holds options that
// Temporal has no place for: leave it out.)
func Register[In, Out any](r worker.ActivityRegistry, name string, fn func(activity.Context, In) (Out, error)) {
	name, err := check(activity.Options{Name: name}, fn)
	if err != nil {
		panic(fmt.Sprintf("ontemporal: Register: %v", err))
	}
	dumps := &dumps{}
	r.RegisterActivityWithOptions(func(ctx context.Context, in In, start start) (Out, error) {
		out := new(Out)
		err := run(ctx, start, dumps, func(c activity.Context) (err error) {
			*out, err = fn(c, in)
			return err
		})
		if err != nil { // fn may still run, and write to out
			var zero Out
			return zero, err
		}
		return *out, nil
	}, sdkactivity.RegisterOptions{Name: name})
}

// start is what Start has to tell a worker besides the input.
type start struct {
	Details     []json.RawMessage `json:",omitempty"` // what the first attempt resumes from
	CancelGrace time.Duration     `json:",omitempty"`
}

// RegisterDefinition does so for a Definition. Its Options are the caller's: see
// [StartDefinition].
func RegisterDefinition[In, Out any](r worker.ActivityRegistry, d *activity.Definition[In, Out]) {
	if err := checkDefinition(d); err != nil {
		panic("ontemporal: RegisterDefinition: " + err.Error())
	}
	Register(r, d.Name, d.Func)
}

// run is one attempt in the worker, in the SDK's goroutine: it returns what the SDK
// is to report. The function has a goroutine of its own, which is left behind when
// the attempt times out.
func run(sdk context.Context, start start, dumps *dumps, fn func(activity.Context) error) error {
	t, err := newAttempt(sdk, start, dumps)
	if err != nil {
		return err
	}
	if err := t.admit(); err != nil {
		t.place.leave()
		return t.report(t.settle(err))
	}
	t.start()
	returned, settled := make(chan error, 1), make(chan struct{})
	go func() {
		err := activity.NonRetryable(activity.ErrGoexit) // unless call returns
		defer func() {
			returned <- err
			<-settled
			t.place.leave()
		}()
		err = t.call(fn)
	}()
	select {
	case err = <-returned:
	case <-t.left:
	}
	err, cause := t.settle(err)
	close(settled)
	return t.report(err, cause)
}

// report is what the SDK is told of an attempt that ended with err, and whose
// Context has ended because of cause, if it has.
func (t *attempt) report(err, cause error) error {
	if err == nil {
		return nil
	}
	if errors.Is(cause, errOver) {
		return sdkactivity.ErrResultPending // the server knows more than we do
	}
	t.flush()
	timeout, _ := cause.(*activity.TimeoutError)
	if timeout != nil {
		t.Logger().Warn("activity: attempt failed", "error", timeout.Error(), "stack", string(timeout.Stack))
	}
	switch {
	case isStall(cause):
		return t.stalled(timeout)
	case timeout != nil: // which is the server's to decide
		<-t.sdk.Done() // at the same deadline: only then does the SDK not report a failure
		return sdkactivity.ErrResultPending
	case errors.Is(cause, errCanceled) && err == cause:
		return t.canceled(temporal.NewCanceledError())
	case errors.Is(cause, errCanceled) && errors.Is(err, context.Canceled):
		return t.canceled(temporal.NewCanceledError(err.Error()))
	case errors.Is(cause, activity.ErrShutdown):
		return toTemporal(activity.RetryAfter(err, atOnce)) // another worker is to go on at once
	}
	return toTemporal(err)
}

// canceled reports a cancellation. The SDK does so only if it has heard of one, and not
// where its context had ended before.
func (t *attempt) canceled(err error) error {
	if temporal.IsCanceledError(context.Cause(t.sdk)) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), asking)
	defer cancel()
	if failed := sdkactivity.GetClient(t.sdk).CompleteActivity(ctx, t.sdkInfo.TaskToken, nil, err); failed != nil {
		t.Logger().Warn("activity: the server was not told of the cancellation", "error", failed)
	}
	return sdkactivity.ErrResultPending
}

// stalled is a failure, and not a Temporal timeout, since only a failure may say
// when to try again. Workflows find the timeout as its cause.
func (t *attempt) stalled(e *activity.TimeoutError) error {
	options := temporal.ApplicationErrorOptions{Details: []any{short(e.Stack)}, Cause: temporal.NewHeartbeatTimeoutError()}
	if newest := t.newest(); newest.size() <= maxKept || t.info.Attempt == t.info.MaximumAttempts {
		options.Cause = temporal.NewHeartbeatTimeoutError(newest.anys()...)
	}
	if e.LastFailure != nil {
		options.Details = append(options.Details, short([]byte(textOf(e.LastFailure))))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.progressed || !t.stalledBefore() {
		options.NextRetryDelay = atOnce
	}
	return temporal.NewApplicationErrorWithOptions(short([]byte(e.Error())), heartbeatTimeoutType, options)
}

// stalledBefore reports whether the attempt before ended in a heartbeat timeout,
// too, as far as is known.
func (t *attempt) stalledBefore() bool {
	if t.info.LastFailure == nil {
		return t.info.Attempt > 1
	}
	return isStall(t.info.LastFailure)
}
