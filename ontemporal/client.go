package ontemporal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
)

// Execute is [activity.Execute] on a Temporal cluster. A worker of taskQueue that has
// registered the function under opts.Name runs it. The parameter fn is not called: it
// gives the types and, if opts.Name is empty, the name. The activity is a standalone
// activity, which needs no workflow.
//
// The options, the result and the errors are those of [activity.Execute]. An option that
// a server cannot keep is an error that names it: see the package documentation.
func Execute[In, Out any](ctx context.Context, c client.Client, taskQueue string, opts activity.Options, fn func(activity.Context, In) (Out, error), in In, more ...StartOption) (Out, error) {
	h, err := Start(ctx, c, taskQueue, opts, fn, in, more...)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// Start is [activity.Start] on a Temporal cluster: see [Execute]. It returns when the
// server has accepted the activity. The end of ctx cancels the activity. The end of this
// process does not; [GetHandle] finds the activity again.
func Start[In, Out any](ctx context.Context, c client.Client, taskQueue string, opts activity.Options, fn func(activity.Context, In) (Out, error), in In, more ...StartOption) (*Handle[Out], error) {
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
	id := opts.ID
	if id == "" {
		id = "activity-" + rand.Text()
	}
	sdkOpts, err := startOptions(id, taskQueue, &opts, more)
	if err != nil {
		return nil, err
	}
	if err := checkConverter(ctx, c); err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	var first start
	var left details
	if d := opts.HeartbeatDetails; heartbeatdetails.Given(d) {
		if left, err = encode(d); err != nil {
			return nil, fmt.Errorf("activity: Options.HeartbeatDetails: %w", err)
		}
	}
	if opts.ID != "" {
		before, err := leftBehind(ctx, c, &opts, in)
		switch {
		case ctx.Err() != nil:
			return nil, notStarted(id, name, ctx)
		case err == activity.ErrAlreadyRunning && sdkOpts.ActivityIDConflictPolicy == enumspb.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING:
		case err != nil:
			return nil, fmt.Errorf("activity %q: not started: %w", id, err)
		case before != nil:
			left = before
		}
	}
	if first.Details, err = left.json(); err != nil {
		return nil, fmt.Errorf("activity %q: not started: cannot resume from the details of its last execution: %w", id, err)
	}
	if opts.CancelGrace != defaultCancelGrace {
		first.CancelGrace = opts.CancelGrace
	}
	first.Header = opts.Header
	args := []any{in}
	if first.Details != nil || first.CancelGrace != 0 || len(first.Header) > 0 {
		args = append(args, first)
	}
	// If ctx ends during the call, it must still be known whether the activity was started.
	sdk, err := c.ExecuteActivity(context.WithoutCancel(ctx), sdkOpts, name, args...)
	mayReuse := sdkOpts.ActivityIDReusePolicy == 0 || sdkOpts.ActivityIDReusePolicy == enumspb.ACTIVITY_ID_REUSE_POLICY_ALLOW_DUPLICATE
	if running := (*serviceerror.ActivityExecutionAlreadyStarted)(nil); errors.As(err, &running) && mayReuse {
		return nil, fmt.Errorf("activity %q: not started: %w", id, activity.ErrAlreadyRunning)
	}
	if isOutage(err) {
		return nil, fmt.Errorf("activity %q: may have been started, use GetHandle or start this ID again to find out: %w", id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	h := newHandle[Out](c, sdk, name, opts.CancelGrace)
	h.follow(ctx)
	return h, nil
}

// notStarted returns the error of an activity whose context ended before its start.
func notStarted(id, name string, ctx context.Context) error {
	return &activity.Error{ID: id, Name: name, RetryState: activity.RetryStateCancelRequested, Err: context.Cause(ctx)}
}

// ExecuteDefinition is [activity.Definition.Execute] on a Temporal cluster.
func ExecuteDefinition[In, Out any](ctx context.Context, c client.Client, taskQueue string, d *activity.Definition[In, Out], id string, in In, more ...StartOption) (Out, error) {
	h, err := StartDefinition(ctx, c, taskQueue, d, id, in, more...)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// StartDefinition is [activity.Definition.Start] on a Temporal cluster.
func StartDefinition[In, Out any](ctx context.Context, c client.Client, taskQueue string, d *activity.Definition[In, Out], id string, in In, more ...StartOption) (*Handle[Out], error) {
	if err := checkDefinition(d); err != nil {
		return nil, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return Start(ctx, c, taskQueue, opts, d.Func, in, more...)
}

// checkDefinition checks d as the embedded runtime does.
func checkDefinition[In, Out any](d *activity.Definition[In, Out]) error {
	_, err := activity.New(activity.Config{}).Recover(context.Background(), d)
	return errors.Unwrap(err) // without "Recover" in the text
}

const defaultCancelGrace = 10 * time.Second

// check checks the options as the embedded runtime does, and returns the activity's name.
// It accepts options that Temporal cannot keep; unsupported refuses those.
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
	no := func(field string, value any, rule string, args ...any) error {
		return fmt.Errorf("activity: Options.%s must %s (got %v)", field, fmt.Sprintf(rule, args...), value)
	}
	p := &o.RetryPolicy
	switch {
	case o.StartToCloseTimeout == 0 && o.ScheduleToCloseTimeout == 0:
		return no("StartToCloseTimeout", o.StartToCloseTimeout, "be set on Temporal unless ScheduleToCloseTimeout is, so that the server notices the loss of a worker")
	case o.MaxAbandoned != 0:
		return no("MaxAbandoned", o.MaxAbandoned, "not be set on Temporal, because attempts may run in different workers")
	case o.SyncHeartbeats:
		return no("SyncHeartbeats", o.SyncHeartbeats, "not be set on Temporal, where a heartbeat does not wait for the server")
	case p.ResetOnProgress:
		return no("RetryPolicy.ResetOnProgress", p.ResetOnProgress, "not be set on Temporal, because its server counts all attempts")
	case p.ResetAfter != 0:
		return no("RetryPolicy.ResetAfter", p.ResetAfter, "not be set on Temporal, because its server counts all attempts")
	case p.Retryable != nil:
		return no("RetryPolicy.Retryable", "a function", "not be set on Temporal, because its server decides about retries: return a NonRetryable error instead")
	case p.Jitter != 0:
		return no("RetryPolicy.Jitter", p.Jitter, "not be set on Temporal, because its server has no jitter")
	case p.MaximumAttempts > math.MaxInt32:
		return no("RetryPolicy.MaximumAttempts", p.MaximumAttempts, "be at most %d on Temporal", math.MaxInt32)
	}
	for k, v := range o.Header { // which is sent as JSON
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			return no("Header", fmt.Sprintf("%q: %q", k, v), "be UTF-8 on Temporal")
		}
	}
	return nil
}

// A StartOption sets what only Temporal has, such as Summary, Priority, TypedSearchAttributes and
// the policies for IDs, in the SDK's options of a standalone activity. If it changes the ID, the
// task queue, a timeout or the retry policy, the start is refused, because those are in
// [activity.Options].
//
// With ActivityIDConflictPolicy USE_EXISTING, the Handle of an ID that is running is that of the
// execution that runs, instead of [activity.ErrAlreadyRunning].
type StartOption func(*client.StartActivityOptions)

// startOptions returns the options as the SDK has them.
func startOptions(id, taskQueue string, o *activity.Options, more []StartOption) (client.StartActivityOptions, error) {
	p := o.RetryPolicy
	if p.InitialInterval == 0 && p.MaximumInterval > 0 {
		p.InitialInterval = min(time.Second, p.MaximumInterval)
	}
	policy := temporal.RetryPolicy{ // the server's defaults are those of package activity
		InitialInterval:    p.InitialInterval,
		BackoffCoefficient: p.BackoffCoefficient,
		MaximumInterval:    p.MaximumInterval,
		MaximumAttempts:    int32(p.MaximumAttempts),
	}
	ours := client.StartActivityOptions{
		ID:                     id,
		TaskQueue:              taskQueue,
		StartToCloseTimeout:    o.StartToCloseTimeout,
		HeartbeatTimeout:       o.HeartbeatTimeout,
		ScheduleToStartTimeout: o.ScheduleToStartTimeout,
		ScheduleToCloseTimeout: o.ScheduleToCloseTimeout,
		RetryPolicy:            &policy,
	}
	all := ours
	all.RetryPolicy = new(temporal.RetryPolicy)
	*all.RetryPolicy = policy
	for _, set := range more {
		set(&all)
	}
	for _, field := range []string{
		"ID", "TaskQueue", "StartToCloseTimeout", "HeartbeatTimeout", "ScheduleToStartTimeout", "ScheduleToCloseTimeout", "RetryPolicy",
	} {
		got, want := reflect.ValueOf(all).FieldByName(field).Interface(), reflect.ValueOf(ours).FieldByName(field).Interface()
		if !reflect.DeepEqual(got, want) {
			return all, fmt.Errorf("activity: a StartOption must not change %s, which activity.Options or an argument of Start sets (got %v)", field, got)
		}
	}
	return all, nil
}

var describeDetails = client.DescribeActivityOptions{IncludeHeartbeatDetails: true, IncludeInput: true}

// newestDetails returns the details of the last heartbeat. Before the first heartbeat,
// they are those that the first attempt resumes from.
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
