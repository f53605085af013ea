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

// Register registers fn with a worker, as the activity type of the given name. If name is
// empty, the function's name is used, as for [activity.Options]. Register panics if fn is
// nil, and, as the SDK does, if r already has an activity of that name.
//
// Workflows call fn as an ordinary Temporal activity with one argument. It must not be
// called as a local activity. [Start] may send a second argument, which holds options
// that Temporal has no field for. Workflows leave it out.
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
		if err != nil { // fn may still run and write to out
			var zero Out
			return zero, err
		}
		return *out, nil
	}, sdkactivity.RegisterOptions{Name: name})
}

// A start is the second argument of an activity: the options that Temporal has no field
// for.
type start struct {
	Details     []json.RawMessage `json:",omitempty"` // the details that the first attempt resumes from
	CancelGrace time.Duration     `json:",omitempty"`
	Header      map[string]string `json:",omitempty"`
}

// RegisterDefinition registers a Definition's function under its Name, as [Register] does.
// The worker does not use the Definition's Options: [StartDefinition] sends them to the
// server.
func RegisterDefinition[In, Out any](r worker.ActivityRegistry, d *activity.Definition[In, Out]) {
	if err := checkDefinition(d); err != nil {
		panic("ontemporal: RegisterDefinition: " + err.Error())
	}
	Register(r, d.Name, d.Func)
}

// run runs one attempt in the SDK's goroutine, and returns the error that the SDK must
// report. The function has a goroutine of its own, which is left behind if the attempt
// times out.
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

// report returns the error that the SDK must report for an attempt that ended with err.
// If the attempt's Context had ended, cause is its cause.
func (t *attempt) report(err, cause error) error {
	if err == nil {
		return nil
	}
	if errors.Is(cause, errOver) {
		return sdkactivity.ErrResultPending // the server has decided already
	}
	t.flush()
	timeout, _ := cause.(*activity.TimeoutError)
	if timeout != nil {
		t.Logger().Warn("activity: attempt failed", "error", timeout.Error(), "stack", string(timeout.Stack))
	}
	switch {
	case isStall(cause):
		return t.stalled(timeout)
	case timeout != nil: // the server decides start-to-close and schedule-to-close
		<-t.sdk.Done() // it ends at the same deadline; before, the SDK would report a failure
		return sdkactivity.ErrResultPending
	case errors.Is(cause, errCanceled) && err == cause:
		return t.canceled(temporal.NewCanceledError())
	case errors.Is(cause, errCanceled) && errors.Is(err, context.Canceled):
		return t.canceled(temporal.NewCanceledError(err.Error()))
	case errors.Is(cause, activity.ErrShutdown), errors.Is(cause, activity.ErrPaused):
		return interrupted(err)
	}
	return toTemporal(err)
}

// canceled reports a cancellation. The SDK reports one only if that ended its context, so
// in other cases this bypasses the SDK.
func (t *attempt) canceled(err error) error {
	if temporal.IsCanceledError(context.Cause(t.sdk)) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), callTimeout)
	defer cancel()
	if failed := sdkactivity.GetClient(t.sdk).CompleteActivity(ctx, t.sdkInfo.TaskToken, nil, err); failed != nil {
		t.Logger().Warn("activity: cannot report the cancellation to the server", "error", failed)
	}
	return sdkactivity.ErrResultPending
}

// stalled returns the failure that reports a heartbeat timeout. It is not a Temporal
// timeout, because only a failure can say when the next attempt starts. Workflows find
// the timeout as its cause.
func (t *attempt) stalled(e *activity.TimeoutError) error {
	options := temporal.ApplicationErrorOptions{Details: []any{short(e.Stack)}, Cause: temporal.NewHeartbeatTimeoutError()}
	if newest := t.newest(); newest.size() <= maxKept || t.isLast() {
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

// stalledBefore reports whether the attempt before ended in a heartbeat timeout, too. If
// the worker does not know how it ended, it counts as one.
func (t *attempt) stalledBefore() bool {
	if t.info.LastFailure == nil {
		return t.info.Attempt > 1
	}
	return isStall(t.info.LastFailure)
}
