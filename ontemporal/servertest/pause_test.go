package servertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// pausable starts an activity on a worker of its own. Without a function there is no worker.
func pausable(t *testing.T, opts activity.Options, fn function) *ontemporal.Handle[string] {
	t.Helper()
	queue := "nobody"
	if fn == nil {
		fn = func(activity.Context, string) (string, error) { return "", nil }
	} else {
		queue = newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, fn) })
	}
	opts.ID, opts.Name, opts.StartToCloseTimeout = fmt.Sprintf("paused-%d", trials.Add(1)), name, time.Hour
	if opts.RetryPolicy.InitialInterval == 0 {
		opts.RetryPolicy.InitialInterval = time.Hour // no attempt of these tests waits for it
	}
	h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func pause(t *testing.T, h *ontemporal.Handle[string]) {
	t.Helper()
	if err := h.Pause(timeLimit(t)); err != nil {
		t.Errorf("Pause: %v", err)
	}
}

func unpause(t *testing.T, h *ontemporal.Handle[string]) {
	t.Helper()
	if err := h.Unpause(timeLimit(t)); err != nil {
		t.Errorf("Unpause: %v", err)
	}
}

// awaitState waits until h is in the state, and returns its Status.
func awaitState(t *testing.T, h *ontemporal.Handle[string], want activity.State) (s activity.Status) {
	t.Helper()
	eventually(t, "it is "+want.String(), func() (ok bool) {
		var err error
		s, err = h.Status(timeLimit(t))
		return err == nil && s.State == want
	})
	return s
}

func describe(t *testing.T, h *ontemporal.Handle[string]) *client.ActivityExecutionDescription {
	t.Helper()
	d, err := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()}).Describe(timeLimit(t), client.DescribeActivityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// seen is what the attempts of an activity have seen.
type seen struct {
	mu  sync.Mutex
	all []string
}

func (s *seen) note(ctx activity.Context, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, fmt.Sprintf("attempt %d: ", ctx.Info().Attempt)+fmt.Sprintf(format, args...))
}

func (s *seen) check(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := cmp.Diff(want, s.all); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// Rule 32. Given an activity that runs, when it is paused, then its function gets ErrPaused, and
// it is paused until Unpause. The next attempt starts at once and resumes from the details.
func TestPause_NextAttemptResumes(t *testing.T) {
	t.Parallel()
	for name, fn := range map[string]func(err error) error{
		"the cause":    func(err error) error { return fmt.Errorf("row 7: %w", err) },
		"NonRetryable": activity.NonRetryable,
		"nil":          func(error) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var saw seen
			ready := make(chan struct{})
			h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second}, func(ctx activity.Context, _ string) (string, error) {
				n, err := activity.Resume(ctx, 0)
				saw.note(ctx, "resumes from %d, %v; after ErrPaused: %v", n, err, errors.Is(ctx.Info().LastFailure, activity.ErrPaused))
				if n > 0 {
					return "done", nil
				}
				err = ctx.Heartbeat(6)
				close(ready)
				_ = (*trial)(nil).beat(ctx)
				err = errors.Join(err, ctx.Sleep(time.Hour))
				saw.note(ctx, "ErrPaused is the cause: %v, and returned: %v", context.Cause(ctx) == activity.ErrPaused, errors.Is(err, activity.ErrPaused))
				_ = ctx.Heartbeat(7)
				return "half done", fn(err)
			})
			<-ready
			pause(t, h)
			s := awaitState(t, h, activity.StatePaused)
			if s.Attempt != 1 || detailsOf(s.Details) != "7" || !errors.Is(s.LastFailure, activity.ErrPaused) {
				t.Errorf("status %+v", s)
			}
			pause(t, h) // again
			select {
			case <-h.Done():
				t.Error("it has ended")
			default:
			}
			unpause(t, h)
			if out, err := h.Wait(timeLimit(t)); out != "done" || err != nil {
				t.Errorf("got %q, %v", out, err)
			}
			saw.check(t,
				"attempt 1: resumes from 0, <nil>; after ErrPaused: false",
				"attempt 1: ErrPaused is the cause: true, and returned: true",
				"attempt 2: resumes from 7, <nil>; after ErrPaused: true",
			)
		})
	}
}

// Rule 32. Given a function that was paused and completes anyway, then the activity has
// completed.
func TestPause_FunctionCompletes(t *testing.T) {
	t.Parallel()
	ready := make(chan struct{})
	h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second}, func(ctx activity.Context, _ string) (string, error) {
		close(ready)
		_ = (*trial)(nil).beat(ctx)
		return fmt.Sprint("done after ", context.Cause(ctx)), nil
	})
	<-ready
	pause(t, h)
	if out, err := h.Wait(timeLimit(t)); out != "done after "+activity.ErrPaused.Error() || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// Rules 9 and 32. Given a paused function that does not return, when CancelGrace has passed, then
// it is abandoned, and the next attempt starts beside it after Unpause.
func TestPause_FunctionHangs(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	ready := make(chan struct{})
	h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second, CancelGrace: time.Millisecond}, func(ctx activity.Context, _ string) (string, error) {
		if first(ctx) {
			close(ready)
			_ = (*trial)(nil).beat(ctx)
			<-release
		}
		return "done", nil
	})
	<-ready
	pause(t, h)
	awaitState(t, h, activity.StatePaused)
	unpause(t, h)
	if out, err := h.Wait(timeLimit(t)); out != "done" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// Given Unpause before a paused function has returned, then the next attempt starts when it has.
func TestPause_UnpausedBeforeReturn(t *testing.T) {
	t.Parallel()
	ready, told, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second}, func(ctx activity.Context, _ string) (string, error) {
		if !first(ctx) {
			return "done", nil
		}
		close(ready)
		err := (*trial)(nil).beat(ctx)
		close(told)
		<-release
		return "", err
	})
	<-ready
	pause(t, h)
	<-told
	if s, err := h.Status(timeLimit(t)); err != nil || s.State != activity.StateRunning {
		t.Errorf("status %v, %v", s.State, err)
	}
	unpause(t, h)
	close(release)
	if out, err := h.Wait(timeLimit(t)); out != "done" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// Rules 17 and 18. Given an activity that is paused, when it is canceled, then it ends at once.
// If its function is still running, it ends when that returns.
func TestPause_Canceled(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, h *ontemporal.Handle[string], attempt int) {
		t.Helper()
		_, err := h.Wait(timeLimit(t))
		var end *activity.Error
		if !errors.As(err, &end) || end.Attempt != attempt || end.RetryState != activity.RetryStateCancelRequested || !errors.Is(err, errCallers) {
			t.Errorf("got %+v", err)
		}
	}
	t.Run("before the first attempt", func(t *testing.T) {
		t.Parallel()
		h := pausable(t, activity.Options{}, nil)
		pause(t, h)
		if s := awaitState(t, h, activity.StatePaused); s.Attempt != 0 {
			t.Errorf("status %+v", s)
		}
		h.Cancel(errCallers)
		check(t, h, 0)
	})
	for _, returned := range []bool{false, true} {
		t.Run(fmt.Sprintf("the function has returned: %v", returned), func(t *testing.T) {
			t.Parallel()
			ready, told, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
			h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second, CancelGrace: limit}, func(ctx activity.Context, _ string) (string, error) {
				close(ready)
				err := (*trial)(nil).beat(ctx)
				close(told)
				<-release
				return "", err
			})
			<-ready
			pause(t, h)
			<-told
			if returned {
				close(release)
				awaitState(t, h, activity.StatePaused)
			}
			h.Cancel(errCallers)
			if !returned {
				eventually(t, "the cancellation is requested", func() bool {
					return describe(t, h).RunState == enumspb.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
				})
				if err := h.Pause(timeLimit(t)); err == nil || !strings.Contains(err.Error(), "Cancel") {
					t.Errorf("Pause of a canceled activity: %v", err)
				}
				close(release)
			}
			check(t, h, 1)
		})
	}
}

// Given a backoff, when the activity is paused during it, then Unpause continues the backoff.
func TestPause_Backoff(t *testing.T) {
	t.Parallel()
	h := pausable(t, activity.Options{}, func(activity.Context, string) (string, error) { return "", errDisk })
	awaitState(t, h, activity.StateBackingOff)
	pause(t, h)
	awaitState(t, h, activity.StatePaused)
	unpause(t, h)
	if s := awaitState(t, h, activity.StateBackingOff); s.Attempt != 1 || s.NextAttempt.IsZero() {
		t.Errorf("status %+v", s)
	}
	h.Cancel(nil)
	if _, err := h.Wait(timeLimit(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Given the last of MaximumAttempts, then Pause is refused. If an operator pauses it anyway, the
// attempt continues.
func TestPause_LastAttempt(t *testing.T) {
	t.Parallel()
	ready, release := make(chan struct{}), make(chan struct{})
	h := pausable(t, activity.Options{HeartbeatTimeout: 20 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, func(ctx activity.Context, _ string) (string, error) {
		close(ready)
		for {
			select {
			case <-release:
				return "done", ctx.Heartbeat()
			case <-time.After(10 * time.Millisecond):
			}
			if err := ctx.Heartbeat(); err != nil {
				return "", err
			}
		}
	})
	<-ready
	if err := h.Pause(timeLimit(t)); err == nil || !strings.Contains(err.Error(), "attempt 1 is the last of MaximumAttempts") {
		t.Errorf("Pause returned %v", err)
	}
	operator := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()})
	if err := operator.Pause(timeLimit(t), client.PauseActivityOptions{}); err != nil {
		t.Fatal(err)
	}
	before := describe(t, h)
	if before.RunState != enumspb.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED {
		t.Errorf("it is %s", before.RunState)
	}
	eventually(t, "the worker knows of the pause", func() bool { return describe(t, h).TotalHeartbeatCount >= before.TotalHeartbeatCount+2 })
	close(release)
	if out, err := h.Wait(timeLimit(t)); out != "done" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// Given an activity that is not paused, does not exist or has ended, then Pause and Unpause return
// an error that says so.
func TestPause_Refused(t *testing.T) {
	t.Parallel()
	h := pausable(t, activity.Options{}, nil)
	if err := h.Unpause(timeLimit(t)); err == nil || !strings.Contains(err.Error(), "not unpaused: activity is in non-unpausable state Scheduled") {
		t.Errorf("Unpause of a waiting activity: %v", err)
	}
	h.Cancel(nil)
	_, _ = h.Wait(timeLimit(t))
	for what, h := range map[string]*ontemporal.Handle[string]{"canceled": h, "missing": ontemporal.GetHandle[string](temporal, "there is none", "")} {
		for call, f := range map[string]func(context.Context) error{"Pause": h.Pause, "Unpause": h.Unpause} {
			if err := f(timeLimit(t)); !errors.Is(err, activity.ErrNotFound) {
				t.Errorf("%s of a %s activity: %v", call, what, err)
			}
		}
	}
}

// Rule 32. Given a workflow's activity, when an operator pauses it, then its function gets
// ErrPaused, and after the pause the next attempt resumes from the details. If it was paused
// during a backoff, the next attempt starts at once.
func TestPause_InWorkflow(t *testing.T) {
	t.Parallel()
	var saw seen
	ready := make(chan struct{})
	fn := func(ctx activity.Context, _ string) (string, error) {
		n, err := activity.Resume(ctx, 0)
		saw.note(ctx, "resumes from %d, %v", n, err)
		switch ctx.Info().Attempt {
		case 1:
			err = ctx.Heartbeat(7)
			close(ready)
			err = errors.Join(err, (*trial)(nil).beat(ctx))
			saw.note(ctx, "ErrPaused is the cause: %v, and returned: %v", context.Cause(ctx) == activity.ErrPaused, errors.Is(err, activity.ErrPaused))
			return "", err
		case 2:
			return "", errDisk
		}
		return "done", nil
	}
	calls := func(ctx workflow.Context) (out string, err error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			ActivityID: "a", StartToCloseTimeout: time.Hour, HeartbeatTimeout: 20 * time.Second,
			RetryPolicy: &sdk.RetryPolicy{InitialInterval: time.Hour, MaximumAttempts: 3},
		})
		err = workflow.ExecuteActivity(ctx, name, "in").Get(ctx, &out)
		return out, err
	}
	queue := newWorker(t, func(r worker.Registry) {
		ontemporal.Register(r, name, fn)
		r.RegisterWorkflowWithOptions(calls, workflow.RegisterOptions{Name: "calls"})
	})
	run, err := temporal.ExecuteWorkflow(timeLimit(t), client.StartWorkflowOptions{TaskQueue: queue}, "calls")
	if err != nil {
		t.Fatal(err)
	}
	// await waits until the activity waits for the attempt, after the failure.
	await := func(state enumspb.PendingActivityState, attempt int32, failure error) {
		t.Helper()
		eventually(t, fmt.Sprint("the activity is ", state), func() bool {
			d, err := temporal.DescribeWorkflowExecution(timeLimit(t), run.GetID(), run.GetRunID())
			if err != nil || len(d.PendingActivities) != 1 {
				return false
			}
			a := d.PendingActivities[0]
			return a.State == state && a.Attempt == attempt && a.LastFailure.GetMessage() == failure.Error()
		})
	}
	pause := func() {
		t.Helper()
		if _, err := temporal.WorkflowService().PauseActivityExecution(timeLimit(t), &workflowservice.PauseActivityExecutionRequest{
			Namespace: namespace, WorkflowId: run.GetID(), RunId: run.GetRunID(), ActivityId: "a",
		}); err != nil {
			t.Fatal(err)
		}
	}
	unpause := func() {
		t.Helper()
		if _, err := temporal.WorkflowService().UnpauseActivityExecution(timeLimit(t), &workflowservice.UnpauseActivityExecutionRequest{
			Namespace: namespace, WorkflowId: run.GetID(), RunId: run.GetRunID(), ActivityId: "a",
		}); err != nil {
			t.Fatal(err)
		}
	}
	<-ready
	pause()
	await(enumspb.PENDING_ACTIVITY_STATE_PAUSED, 2, activity.ErrPaused)
	unpause()
	await(enumspb.PENDING_ACTIVITY_STATE_SCHEDULED, 3, errDisk)
	pause()
	await(enumspb.PENDING_ACTIVITY_STATE_PAUSED, 3, errDisk)
	unpause()
	var out string
	if err := run.Get(timeLimit(t), &out); out != "done" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	saw.check(t,
		"attempt 1: resumes from 0, <nil>",
		"attempt 1: ErrPaused is the cause: true, and returned: true",
		"attempt 2: resumes from 7, <nil>",
		"attempt 3: resumes from 7, <nil>",
	)
}
