package ontemporal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

// Execute is [activity.Execute] on a Temporal cluster: fn runs in a worker of
// taskQueue, which has it registered under opts.Name. (Here fn gives its types and,
// if opts.Name is empty, its name.) It needs no workflow: it is a standalone
// activity.
//
// The options, the result and the errors are those of [activity.Execute]. What a
// server cannot do is an error that names the option: see the package's doc.
func Execute[In, Out any](ctx context.Context, c client.Client, taskQueue string, opts activity.Options, fn func(activity.Context, In) (Out, error), in In) (Out, error) {
	h, err := Start(ctx, c, taskQueue, opts, fn, in)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// Start is [activity.Start] on a Temporal cluster: see [Execute]. It returns when
// the server has the activity. ctx's end cancels the activity; the end of this
// process does not: [GetHandle] finds it again.
func Start[In, Out any](ctx context.Context, c client.Client, taskQueue string, opts activity.Options, fn func(activity.Context, In) (Out, error), in In) (*Handle[Out], error) {
	name, err := check(opts, fn)
	if err != nil {
		return nil, err
	}
	if err := unsupported(&opts); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, notStarted(opts.ID, name, ctx)
	}
	if opts.CancelGrace == 0 {
		opts.CancelGrace = defaultCancelGrace
	}
	var first start
	var left details
	if d := opts.HeartbeatDetails; heartbeatdetails.Given(d) {
		if left, err = encode(d); err != nil {
			return nil, fmt.Errorf("activity: Options.HeartbeatDetails: %w", err)
		}
	}
	id := opts.ID
	if id == "" {
		id = "activity-" + rand.Text()
	} else if before, err := leftBehind(ctx, c, &opts, in); ctx.Err() != nil {
		return nil, notStarted(id, name, ctx)
	} else if err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	} else if before != nil {
		left = before
	}
	if first.Details, err = left.json(); err != nil {
		return nil, fmt.Errorf("activity %q: not started: its last execution has left what this one cannot resume from: %w", id, err)
	}
	if opts.CancelGrace != defaultCancelGrace {
		first.CancelGrace = opts.CancelGrace
	}
	args := []any{in}
	if first.Details != nil || first.CancelGrace != 0 {
		args = append(args, first)
	}
	// ctx's end must not leave open whether it is started.
	sdk, err := c.ExecuteActivity(context.WithoutCancel(ctx), startOptions(id, taskQueue, &opts), name, args...)
	if running := (*serviceerror.ActivityExecutionAlreadyStarted)(nil); errors.As(err, &running) {
		return nil, fmt.Errorf("activity %q: not started: %w", id, activity.ErrAlreadyRunning)
	}
	if isOutage(err) {
		return nil, fmt.Errorf("activity %q: whether it was started is not known, GetHandle or another Start of this ID tells: %w", id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	h := newHandle[Out](c, sdk, name, opts.CancelGrace)
	h.follow(ctx)
	return h, nil
}

// notStarted is the error of an activity whose context ended before its start.
func notStarted(id, name string, ctx context.Context) error {
	return &activity.Error{ID: id, Name: name, RetryState: activity.RetryStateCancelRequested, Err: context.Cause(ctx)}
}

// ExecuteDefinition is [activity.Definition.Execute] on a Temporal cluster.
func ExecuteDefinition[In, Out any](ctx context.Context, c client.Client, taskQueue string, d *activity.Definition[In, Out], id string, in In) (Out, error) {
	h, err := StartDefinition(ctx, c, taskQueue, d, id, in)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// StartDefinition is [activity.Definition.Start] on a Temporal cluster.
func StartDefinition[In, Out any](ctx context.Context, c client.Client, taskQueue string, d *activity.Definition[In, Out], id string, in In) (*Handle[Out], error) {
	if err := checkDefinition(d); err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return Start(ctx, c, taskQueue, opts, d.Func, in)
}

// checkDefinition has the embedded runtime check the Definition.
func checkDefinition[In, Out any](d *activity.Definition[In, Out]) error {
	_, err := activity.New(activity.Config{}).Recover(context.Background(), d)
	return errors.Unwrap(err) // without the word Recover
}

const defaultCancelGrace = 10 * time.Second

// check has the embedded runtime check the options and name the function. What
// that accepts and Temporal cannot keep is unsupported's.
func check[In, Out any](opts activity.Options, fn func(activity.Context, In) (Out, error)) (name string, err error) {
	never, cancel := context.WithCancel(context.Background())
	cancel()
	var in In
	opts.SyncHeartbeats = false // this runtime has no Store
	_, err = activity.Start(never, activity.New(activity.Config{}), opts, fn, in)
	var notStarted *activity.Error
	if errors.As(err, &notStarted) {
		return notStarted.Name, nil
	}
	return "", err
}

// unsupported returns an error that names the first option that Temporal cannot keep.
func unsupported(o *activity.Options) error {
	no := func(field string, value any, why string) error {
		return fmt.Errorf("activity: Options.%s is %v, %s", field, value, why)
	}
	p := &o.RetryPolicy
	switch {
	case o.StartToCloseTimeout == 0 && o.ScheduleToCloseTimeout == 0:
		return no("StartToCloseTimeout", o.StartToCloseTimeout, "and on Temporal either that or ScheduleToCloseTimeout must be given: by it the server learns that a worker is gone")
	case o.MaxAbandoned != 0:
		return no("MaxAbandoned", o.MaxAbandoned, "which Temporal cannot keep: attempts may run in different workers")
	case o.SyncHeartbeats:
		return no("SyncHeartbeats", o.SyncHeartbeats, "which Temporal cannot keep: its SDK sends heartbeats when it sees fit")
	case p.ResetOnProgress:
		return no("RetryPolicy.ResetOnProgress", p.ResetOnProgress, "which Temporal cannot keep: its server counts all attempts")
	case p.Retryable != nil:
		return no("RetryPolicy.Retryable", "given", "which Temporal cannot keep: its server decides about retries, so return a NonRetryable error")
	case p.Jitter != 0:
		return no("RetryPolicy.Jitter", p.Jitter, "which Temporal cannot keep: its server has none")
	case p.MaximumAttempts > math.MaxInt32:
		return no("RetryPolicy.MaximumAttempts", p.MaximumAttempts, fmt.Sprintf("and Temporal counts to %d", math.MaxInt32))
	}
	return nil
}

func startOptions(id, taskQueue string, o *activity.Options) client.StartActivityOptions {
	p := o.RetryPolicy
	if p.InitialInterval == 0 && p.MaximumInterval > 0 {
		p.InitialInterval = min(time.Second, p.MaximumInterval)
	}
	return client.StartActivityOptions{
		ID:                     id,
		TaskQueue:              taskQueue,
		StartToCloseTimeout:    o.StartToCloseTimeout,
		HeartbeatTimeout:       o.HeartbeatTimeout,
		ScheduleToStartTimeout: o.ScheduleToStartTimeout,
		ScheduleToCloseTimeout: o.ScheduleToCloseTimeout,
		RetryPolicy: &temporal.RetryPolicy{ // what is zero, the server fills in as we do
			InitialInterval:    p.InitialInterval,
			BackoffCoefficient: p.BackoffCoefficient,
			MaximumInterval:    p.MaximumInterval,
			MaximumAttempts:    int32(p.MaximumAttempts),
		},
	}
}

var describeDetails = client.DescribeActivityOptions{IncludeHeartbeatDetails: true, IncludeInput: true}

// newestDetails are those of the last heartbeat or, before the first, what the first
// attempt resumes from.
func newestDetails(d *client.ActivityExecutionDescription) (details, error) {
	switch {
	case d.HasHeartbeatDetails():
		return read(d.GetHeartbeatDetails)
	case len(d.RawResponse.GetInput().GetPayloads()) < 2:
		return nil, nil
	}
	var in converter.RawValue
	var first start
	err := d.GetInput(&in, &first)
	return fromJSON(first.Details), err
}

func isNotFound(err error) bool {
	var notFound *serviceerror.NotFound
	return errors.As(err, &notFound)
}
