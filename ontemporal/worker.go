package ontemporal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

// Register registers fn with a worker, as the activity type of the given name. If name is
// empty, the function's name is used, as for [activity.Options]. Register panics if fn is
// nil, and, as the SDK does, if r already has an activity of that name.
//
// Workflows call fn as an ordinary Temporal activity with one argument. [Start] may send a second
// one, which holds options that Temporal has no field for. A local activity, which has no
// heartbeats, cannot leave that out: the SDK then fails with "Call with too few input arguments".
//
// To set the [WorkerOptions], call Register with what [Registry] returns.
func Register[In, Out any](r worker.ActivityRegistry, name string, fn func(activity.Context, In) (Out, error)) {
	name, err := check(activity.Options{Name: name}, fn)
	if err != nil {
		panic(fmt.Sprintf("ontemporal: Register: %v", err))
	}
	w := &registration{}
	if own, ok := r.(*registry); ok {
		w.opts = own.opts
	}
	r.RegisterActivityWithOptions(func(ctx context.Context, in In, start start) (Out, error) {
		out := new(Out)
		err := run(ctx, start, w, func(c activity.Context) (err error) {
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

// WorkerOptions repeats the settings of a worker that the SDK does not expose to its functions. The
// zero WorkerOptions are ready to use.
type WorkerOptions struct {
	// MaxHeartbeatThrottleInterval is the longest time for which recorded details are kept from
	// the server, as in [worker.Options]. If the worker is killed, they are lost. If zero, or if
	// it is longer, half the heartbeat timeout is used, or 10 s if that is shorter or if there is
	// no heartbeat timeout.
	MaxHeartbeatThrottleInterval time.Duration

	// WorkerStopTimeout is that of [worker.Options]. If it is set, the Contexts end a fifth of it
	// before it has passed, at most 5 s, so that functions have time to return, and the worker to
	// report that. If zero, they end when it has passed. What a function returns after that can be lost.
	WorkerStopTimeout time.Duration

	// DataConverter is that of the worker's client. If it is set, Heartbeat encodes the details
	// with it, and refuses details that are too large when they are encoded, or that it cannot
	// encode. If nil, only the size of their JSON counts. If a codec then makes them larger than
	// the server's limit, the server fails the activity.
	DataConverter converter.DataConverter
}

// Registry returns a registry to [Register] functions with, which passes them on to r, a worker,
// with these options. It panics if an interval or a timeout is negative.
func Registry(r worker.ActivityRegistry, opts WorkerOptions) worker.ActivityRegistry {
	for name, d := range map[string]time.Duration{
		"MaxHeartbeatThrottleInterval": opts.MaxHeartbeatThrottleInterval, "WorkerStopTimeout": opts.WorkerStopTimeout,
	} {
		if d < 0 {
			panic(fmt.Sprintf("ontemporal: WorkerOptions.%s must not be negative (got %s)", name, d))
		}
	}
	return &registry{r, opts}
}

type registry struct {
	worker.ActivityRegistry
	opts WorkerOptions
}

// A registration is what the attempts of a registered function share.
type registration struct {
	dumps
	opts WorkerOptions

	checked atomic.Bool // the client's data converter takes details
}

// check checks the client's data converter, until it has once passed.
func (w *registration) check(sdk context.Context) error {
	c := sdkactivity.GetClient(sdk)
	if w.checked.Load() || inTestEnvironment(c) {
		return nil
	}
	err := checkConverter(sdk, c)
	w.checked.Store(err == nil)
	return err
}

// fits returns an error if a heartbeat with d would be refused.
func (w *registration) fits(d details) error {
	if w.opts.DataConverter == nil {
		return nil
	}
	encoded, err := w.opts.DataConverter.ToPayloads(d.anys()...)
	if err != nil {
		return err
	}
	return checkSize(encoded.Size())
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
func run(sdk context.Context, start start, w *registration, fn func(activity.Context) error) error {
	t, err := newAttempt(sdk, start, w)
	if err != nil {
		return toTemporal(err)
	}
	if err := t.admit(); err != nil {
		t.place.leave()
		return t.report(t.settle(err))
	}
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
		t.logger.Warn("activity: attempt failed", "error", timeout.Error(), "stack", string(timeout.Stack))
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
	case errors.Is(cause, activity.ErrShutdown), errors.Is(cause, activity.ErrPaused), cause == errReset:
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), time.Minute) // about as long as the SDK tries
	defer cancel()
	failed := persist(ctx, func() error {
		return sdkactivity.GetClient(t.sdk).CompleteActivity(ctx, t.sdkInfo.TaskToken, nil, err)
	})
	if failed != nil {
		t.logger.Warn("activity: cannot report the cancellation to the server", "error", failed)
	}
	return sdkactivity.ErrResultPending
}

// stalled returns the failure that reports a heartbeat timeout. It is not a Temporal
// timeout, because only a failure can say when the next attempt starts. Workflows find
// the timeout as its cause.
func (t *attempt) stalled(e *activity.TimeoutError) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	options := temporal.ApplicationErrorOptions{Details: []any{short(e.Stack)}, Cause: temporal.NewHeartbeatTimeoutError()}
	if t.latest.size() <= maxKept || t.isLast() {
		options.Cause = temporal.NewHeartbeatTimeoutError(t.latest.anys()...)
	}
	if e.LastFailure != nil {
		options.Details = append(options.Details, short([]byte(textOf(e.LastFailure))))
	}
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
