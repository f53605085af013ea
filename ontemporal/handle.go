package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// A Handle refers to a started activity, as an [activity.Handle] does.
type Handle[Out any] struct {
	c     client.Client
	sdk   client.ActivityHandle
	name  string        // the activity's name; empty if it is not known
	grace time.Duration // Options.CancelGrace

	following sync.Once     // starts the goroutine that waits for the end
	canceling chan struct{} // closed by the first Cancel
	once      sync.Once     // admits the first Cancel
	cause     error         // the cause of the first Cancel; set before canceling is closed

	done chan struct{} // closed once out and err are set
	out  Out
	err  error
}

// GetHandle returns a Handle of an activity that was started with the ID, in this or
// another program. If runID is empty, it is the latest execution. GetHandle does not ask
// the server: if the activity does not exist, Wait and Status return an error. No
// context is bound to the Handle, so only Cancel cancels the activity.
func GetHandle[Out any](c client.Client, id, runID string) *Handle[Out] {
	return newHandle[Out](c, c.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: id, RunID: runID}), "", defaultCancelGrace)
}

func newHandle[Out any](c client.Client, sdk client.ActivityHandle, name string, grace time.Duration) *Handle[Out] {
	return &Handle[Out]{c: c, sdk: sdk, name: name, grace: grace, canceling: make(chan struct{}), done: make(chan struct{})}
}

// ID returns Options.ID, or the generated ID if that was empty.
func (h *Handle[Out]) ID() string { return h.sdk.GetID() }

// RunID returns the server's identifier of this execution of the ID.
func (h *Handle[Out]) RunID() string { return h.sdk.GetRunID() }

// Done returns a channel that is closed when the activity has ended. Wait then returns at
// once.
func (h *Handle[Out]) Done() <-chan struct{} {
	h.follow(context.Background())
	return h.done
}

// Wait waits for the activity's end and returns what [Execute] returns. If ctx ends
// first, Wait returns the cause of ctx, and the activity is not canceled.
func (h *Handle[Out]) Wait(ctx context.Context) (Out, error) {
	done := h.Done()
	select {
	case <-done:
		return h.out, h.err // even if ctx has ended
	default:
	}
	select {
	case <-done:
		return h.out, h.err
	case <-ctx.Done():
		var zero Out
		return zero, context.Cause(ctx)
	}
}

func (h *Handle[Out]) answer() (Out, error) {
	<-h.Done()
	return h.out, h.err
}

// Cancel requests the activity's cancellation, and does not wait. The activity's Context
// ends with the answer to the next heartbeat that its worker sends. No further attempt
// is made. Wait returns an [*activity.Error] that wraps cause. If cause is nil,
// context.Canceled is used. The first cause wins.
func (h *Handle[Out]) Cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	h.once.Do(func() {
		h.cause = cause
		close(h.canceling)
	})
	h.follow(context.Background())
}

// Pause requests that the activity be paused, as [activity.Runtime.Pause] does, and does not
// wait. The Context of its attempt ends with [activity.ErrPaused] as the cause, with the answer
// to the next heartbeat that its worker sends. The activity is in StatePaused when its
// function has returned, until [Handle.Unpause]. Callers keep waiting. To pause a paused
// activity is not an error.
//
// If no such activity runs, Pause returns [activity.ErrNotFound]. The server counts the
// attempt, so Pause returns an error during the last of MaximumAttempts. It also returns an
// error if the server does not pause activities: see the package documentation.
func (h *Handle[Out]) Pause(ctx context.Context) error {
	d, err := h.sdk.Describe(ctx, client.DescribeActivityOptions{})
	switch {
	case err != nil:
	case d.RunState == enumspb.PENDING_ACTIVITY_STATE_PAUSED, d.RunState == enumspb.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED:
		return nil
	case d.RunState == enumspb.PENDING_ACTIVITY_STATE_STARTED && d.RetryPolicy != nil && isLast(int(d.Attempt), int(d.RetryPolicy.MaximumAttempts)):
		err = fmt.Errorf("attempt %d is the last of MaximumAttempts, and a Temporal server counts an attempt that it pauses", d.Attempt)
	default:
		err = h.sdk.Pause(ctx, client.PauseActivityOptions{})
	}
	return h.steered(ctx, "paused", err)
}

// Unpause ends the pause of an activity, as [activity.Runtime.Unpause] does. Its next attempt
// starts at once, or after the rest of the backoff during which it was paused. If no such
// activity runs, Unpause returns [activity.ErrNotFound]. If the activity is not paused, the
// error names its state.
func (h *Handle[Out]) Unpause(ctx context.Context) error {
	return h.steered(ctx, "unpaused", h.sdk.Unpause(ctx, client.UnpauseActivityOptions{}))
}

// steered returns the error of Pause or Unpause for an error of the server.
func (h *Handle[Out]) steered(ctx context.Context, done string, err error) error {
	var refused *serviceerror.FailedPrecondition
	var unimplemented *serviceerror.Unimplemented
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		if d, failed := h.sdk.Describe(ctx, client.DescribeActivityOptions{}); failed == nil && hasEnded(d) {
			err = activity.ErrNotFound
		}
	case errors.As(err, &unimplemented):
		err = fmt.Errorf("the server pauses activities only if its dynamic configuration has history.enableStandaloneActivityOperatorCommands: %w", err)
	case isNotFound(err):
		err = activity.ErrNotFound
	}
	return fmt.Errorf("activity %q: not %s: %w", h.ID(), done, err)
}

// follow starts a goroutine that waits for the activity's end. It cancels the activity
// when ctx ends or Cancel is called.
func (h *Handle[Out]) follow(ctx context.Context) {
	h.following.Do(func() {
		go func() {
			defer close(h.done)
			if h.err = h.await(ctx); h.err != nil {
				var zero Out
				h.out = zero
			}
		}()
	})
}

func (h *Handle[Out]) await(ctx context.Context) error {
	asking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	type ending struct {
		out Out
		err error
	}
	sdk, err := h.execution(asking)
	if err != nil {
		return fmt.Errorf("activity %q: cannot find its latest execution: %w", h.ID(), err)
	}
	ended := make(chan ending, 1)
	go func() {
		var e ending
		e.err = persist(asking, func() error { return get(asking, sdk, &e.out) })
		ended <- e
	}()
	select {
	case e := <-ended:
		h.out = e.out
		return failure(asking, sdk, e.err, nil)
	case <-ctx.Done():
		h.Cancel(context.Cause(ctx))
	case <-h.canceling:
	}

	grace := time.NewTimer(h.grace)
	defer grace.Stop()
	requested := make(chan error, 1)
	go func() { // it keeps trying after CancelGrace, when the caller has its answer
		asking := context.WithoutCancel(ctx)
		err := persist(asking, func() error {
			return sdk.Cancel(asking, client.CancelActivityOptions{Reason: short([]byte(h.cause.Error()))})
		})
		if no := (*serviceerror.FailedPrecondition)(nil); errors.As(err, &no) { // the activity has ended, or was canceled before
			err = nil
		}
		requested <- err
	}()
	refused := errors.New("it cannot be reached, still trying")
	for {
		select {
		case e := <-ended:
			h.out = e.out
			return failure(asking, sdk, e.err, h.cause)
		case refused = <-requested:
		case <-grace.C:
			return h.unanswered(asking, sdk, refused)
		}
	}
}

// execution returns the handle of one execution. If the latest was asked for, its run ID
// is looked up first, because a later one may start while this one is waited for.
func (h *Handle[Out]) execution(ctx context.Context) (sdk client.ActivityHandle, err error) {
	if h.RunID() != "" {
		return h.sdk, nil
	}
	err = persist(ctx, func() error {
		d, err := h.sdk.Describe(ctx, client.DescribeActivityOptions{})
		if err == nil {
			sdk = h.c.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID(), RunID: d.ActivityRunID})
		}
		return err
	})
	return sdk, err
}

// unanswered returns the error for a caller who has waited for CancelGrace. It gives the
// server a second to name the attempt.
func (h *Handle[Out]) unanswered(ctx context.Context, sdk client.ActivityHandle, refused error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	end := &activity.Error{
		ID: h.ID(), Name: h.name, RetryState: activity.RetryStateCancelRequested,
		Err: fmt.Errorf("%w; it had not ended %s later and may still run", h.cause, h.grace),
	}
	if refused != nil {
		end.Err = fmt.Errorf("%w; the server has not accepted the cancellation: %w", h.cause, refused)
	}
	if d, err := describeAll(ctx, sdk); err == nil {
		end.Name, end.Attempt = d.ActivityType, attempts(d)
	} else {
		end.Err = fmt.Errorf("%w (cannot find out the attempt: %w)", end.Err, err)
	}
	return end
}

// An outcome is an activity's own failure. Other errors are failures of the call.
type outcome struct{ error }

// get waits for the activity's end. If the activity has failed, the error is an outcome.
func get(ctx context.Context, sdk client.ActivityHandle, out any) error {
	err := sdk.Get(ctx, out)
	switch err.(type) {
	case *temporal.ApplicationError, *temporal.TimeoutError, *temporal.CanceledError, *temporal.PanicError, *temporal.TerminatedError, *temporal.ServerError:
		return outcome{err}
	}
	return err
}

// persist calls ask until it succeeds, or fails for another reason than an outage of the
// server.
func persist(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if !isOutage(err) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

func isOutage(err error) bool {
	switch err.(type) {
	case *serviceerror.Unavailable, *serviceerror.ResourceExhausted, *serviceerror.DeadlineExceeded:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

func describeAll(ctx context.Context, sdk client.ActivityHandle) (*client.ActivityExecutionDescription, error) {
	o := describeDetails
	o.IncludeOutcome, o.IncludeLastFailure = true, true
	return sdk.Describe(ctx, o)
}

// failure returns the error of Wait for an error of get. If this Handle has canceled the
// activity, cause is the cause.
func failure(ctx context.Context, sdk client.ActivityHandle, err, cause error) error {
	if err == nil {
		return nil
	}
	how, ok := err.(outcome)
	if !ok {
		return fmt.Errorf("activity %q: cannot get its result: %w", sdk.GetID(), err)
	}
	var d *client.ActivityExecutionDescription
	err = persist(ctx, func() (err error) {
		d, err = describeAll(ctx, sdk)
		return err
	})
	if err != nil {
		return fmt.Errorf("activity %q: failed, and cannot find out the attempt and the reason (%w): %w", sdk.GetID(), err, how.error)
	}
	end := &activity.Error{ID: sdk.GetID(), Name: d.ActivityType, Attempt: attempts(d), RetryState: retryState(d)}
	of := describe(d)
	if of.details, err = newestDetails(d); err != nil {
		of.details = nil // the failure matters more
	}
	if isCutShort(d) && d.HasLastFailure() {
		how.error = d.GetLastFailure()
	}
	result := fromTemporal(how.error, of)
	if end.RetryState != activity.RetryStateCancelRequested {
		end.Err = result
		return end
	}
	if cause == nil { // canceled elsewhere
		cause = context.Canceled
		if d.CanceledReason != "" {
			cause = fmt.Errorf("%w: %s", cause, d.CanceledReason)
		}
	}
	switch how.error.(type) {
	case *temporal.CanceledError:
		result = canceledResult(how.error.(*temporal.CanceledError), cause, d, of.details)
	case *temporal.TerminatedError:
		result = fmt.Errorf("%w: %s", how.error, d.RawResponse.GetOutcome().GetFailure().GetMessage())
	}
	end.Err = cause
	if result != nil {
		end.Err = &canceledError{cause, result}
	}
	return end
}

// canceledResult returns how the last attempt of a canceled activity ended. It is nil if
// that adds nothing to the cause.
func canceledResult(err *temporal.CanceledError, cause error, d *client.ActivityExecutionDescription, newest details) error {
	if attempts(d) < int(d.Attempt) { // canceled before the next attempt
		return lastFailure(d, newest)
	}
	var text string
	if err.Details(&text) != nil || text == "" || text == d.CanceledReason {
		return nil
	}
	if known := sentinel(text); known != nil {
		return known
	}
	// The worker does not know the caller's cause, and has errCanceled in its place.
	if own := strings.ReplaceAll(text, errCanceled.Error(), cause.Error()); own == cause.Error() {
		return nil
	} else if own != text {
		return &causedError{own, cause}
	}
	return errors.New(text)
}

// A causedError is an error of a worker that wrapped the cause.
type causedError struct {
	text  string
	cause error
}

func (e *causedError) Error() string { return e.text }
func (e *causedError) Unwrap() error { return e.cause }

// A canceledError is the end of a canceled activity whose last attempt ended with an
// error of its own.
type canceledError struct{ cause, result error }

func (e *canceledError) Error() string {
	if errors.Is(e.result, e.cause) {
		return e.result.Error()
	}
	return e.cause.Error() + "; the last attempt ended with: " + textOf(e.result)
}

func (e *canceledError) Unwrap() []error { return []error{e.cause, e.result} }

// lastFailure returns the error of the last attempt that has failed. It is nil if none
// has.
func lastFailure(d *client.ActivityExecutionDescription, newest details) error {
	if !d.HasLastFailure() {
		return nil
	}
	of := describe(d)
	of.details = newest
	if inProgress(d) {
		of.attempt--
	}
	return fromTemporal(d.GetLastFailure(), of)
}

// inProgress reports whether the last attempt that was started was still running: now, or
// when the activity ended.
func inProgress(d *client.ActivityExecutionDescription) bool {
	info := d.RawResponse.GetInfo()
	started, ended := info.GetLastStartedTime(), info.GetLastAttemptCompleteTime()
	return started != nil && (ended == nil || ended.AsTime().Before(started.AsTime()))
}

func describe(d *client.ActivityExecutionDescription) *ended {
	return &ended{
		id: d.ActivityID, name: d.ActivityType, attempt: attempts(d),
		startToClose: d.StartToCloseTimeout, heartbeat: d.HeartbeatTimeout,
		scheduleToStart: d.ScheduleToStartTimeout, scheduleToClose: d.ScheduleToCloseTimeout,
	}
}

// attempts returns the number of the last attempt that was started. The server's number
// is that of the next attempt while that is waiting.
func attempts(d *client.ActivityExecutionDescription) int {
	n := int(d.Attempt)
	if d.RawResponse.GetInfo().GetLastStartedTime() == nil {
		return 0
	}
	switch d.Status {
	case enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED, enumspb.ACTIVITY_EXECUTION_STATUS_FAILED:
		return n
	case enumspb.ACTIVITY_EXECUTION_STATUS_TIMED_OUT:
		switch d.RawResponse.GetOutcome().GetFailure().GetTimeoutFailureInfo().GetTimeoutType() {
		case enumspb.TIMEOUT_TYPE_START_TO_CLOSE, enumspb.TIMEOUT_TYPE_HEARTBEAT:
			return n
		}
		if isCutShort(d) {
			return n
		}
	}
	if inProgress(d) {
		return n
	}
	return n - 1
}

// isCutShort reports whether no time was left for another attempt before schedule-to-close. The
// server then reports schedule-to-close, before that has passed, instead of the last attempt's failure.
func isCutShort(d *client.ActivityExecutionDescription) bool {
	info := d.RawResponse.GetInfo()
	timeout := d.RawResponse.GetOutcome().GetFailure().GetTimeoutFailureInfo()
	closeBy := info.GetScheduleTime().AsTime().Add(info.GetScheduleToCloseTimeout().AsDuration())
	return timeout.GetTimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE && info.GetCloseTime() != nil && info.GetCloseTime().AsTime().Before(closeBy)
}

func retryState(d *client.ActivityExecutionDescription) activity.RetryState {
	switch d.Status {
	case enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED, enumspb.ACTIVITY_EXECUTION_STATUS_TERMINATED:
		return activity.RetryStateCancelRequested
	}
	switch d.RawResponse.GetOutcome().GetRetryState() {
	case enumspb.RETRY_STATE_NON_RETRYABLE_FAILURE:
		return activity.RetryStateNonRetryableFailure
	case enumspb.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED:
		return activity.RetryStateMaximumAttemptsReached
	case enumspb.RETRY_STATE_CANCEL_REQUESTED:
		return activity.RetryStateCancelRequested
	case enumspb.RETRY_STATE_TIMEOUT:
		return activity.RetryStateTimeout
	}
	return 0
}

// Status asks the server about the activity. The server knows neither the abandoned
// functions nor the progress of a Range, so these fields stay zero. A Range's
// [activity.RangeProgress] can be read with the Status's HeartbeatDetails.
func (h *Handle[Out]) Status(ctx context.Context) (activity.Status, error) {
	d, err := describeAll(ctx, h.sdk)
	if err != nil {
		return activity.Status{}, fmt.Errorf("activity %q: cannot get its status: %w", h.ID(), err)
	}
	s := activity.Status{
		ID: d.ActivityID, Name: d.ActivityType, State: state(d), Attempt: attempts(d),
		ScheduledAt: d.ScheduleTime,
	}
	info := d.RawResponse.GetInfo()
	if t := info.GetLastStartedTime(); t != nil {
		s.StartedAt = t.AsTime()
	}
	if t := info.GetLastHeartbeatTime(); t != nil {
		s.LastHeartbeat = t.AsTime()
	}
	if t := info.GetNextAttemptScheduleTime(); t != nil && s.State == activity.StateBackingOff {
		s.NextAttempt = t.AsTime()
	}
	newest, err := newestDetails(d)
	if err == nil {
		_, err = newest.json()
	}
	if err != nil {
		return s, fmt.Errorf("activity %q: cannot read its heartbeat details: %w", h.ID(), err)
	}
	s.Details = newest.framed()
	s.LastFailure = lastFailure(d, newest)
	return s, nil
}

func hasEnded(d *client.ActivityExecutionDescription) bool {
	return d.Status != enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING && d.Status != enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED
}

func state(d *client.ActivityExecutionDescription) activity.State {
	switch d.Status {
	case enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED:
		return activity.StateCompleted
	case enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.ACTIVITY_EXECUTION_STATUS_TIMED_OUT:
		return activity.StateFailed
	case enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED, enumspb.ACTIVITY_EXECUTION_STATUS_TERMINATED:
		return activity.StateCanceled
	}
	switch {
	case d.RunState == enumspb.PENDING_ACTIVITY_STATE_PAUSED:
		return activity.StatePaused
	case d.RunState != enumspb.PENDING_ACTIVITY_STATE_SCHEDULED:
		return activity.StateRunning
	case d.NextAttemptScheduleTime.After(time.Now()):
		return activity.StateBackingOff
	}
	return activity.StateWaiting
}
