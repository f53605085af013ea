package servertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
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

// The tests of this file have no counterpart on the embedded runtime.

// newWorker starts a worker on a task queue of the test's own.
func newWorker(t *testing.T, register func(worker.Registry)) (queue string) {
	t.Helper()
	queue = fmt.Sprintf("queue-%d", trials.Add(1))
	w := worker.New(temporal, queue, worker.Options{
		WorkerStopTimeout:            limit,
		MaxHeartbeatThrottleInterval: 2 * time.Second, DefaultHeartbeatThrottleInterval: 2 * time.Second,
	})
	register(w)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return queue
}

func timeLimit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// Rule 16. Given an option that Temporal cannot keep, or that is invalid, then Start returns an
// error that names it, and the server has no activity.
func TestStart_OptionsAreRefused(t *testing.T) {
	for _, test := range []struct {
		names string
		opts  activity.Options
	}{
		{"StartToCloseTimeout", activity.Options{}},
		{"StartToCloseTimeout", activity.Options{HeartbeatTimeout: time.Second, ScheduleToStartTimeout: time.Second}},
		{"MaxAbandoned", activity.Options{StartToCloseTimeout: time.Minute, MaxAbandoned: 3}},
		{"MaxAbandoned", activity.Options{StartToCloseTimeout: time.Minute, MaxAbandoned: activity.NoOverlap}},
		{"SyncHeartbeats", activity.Options{StartToCloseTimeout: time.Minute, SyncHeartbeats: true}},
		{"RetryPolicy.ResetOnProgress", activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{ResetOnProgress: true}}},
		{"RetryPolicy.Retryable", activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { return true }}}},
		{"RetryPolicy.Jitter", activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{Jitter: 0.5}}},
		{"RetryPolicy.MaximumAttempts", activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1 << 31}}},
		{"HeartbeatTimeout", activity.Options{StartToCloseTimeout: time.Minute, HeartbeatTimeout: -1}}, // refused on both engines
	} {
		t.Run(test.names, func(t *testing.T) {
			t.Parallel()
			id := fmt.Sprintf("options-%d", trials.Add(1))
			test.opts.ID, test.opts.Name = id, name
			fn := func(activity.Context, string) (string, error) { return "", nil }
			_, err := ontemporal.Start(timeLimit(t), temporal, "nobody", test.opts, fn, "in")
			if err == nil || !strings.Contains(err.Error(), "Options."+test.names+" ") {
				t.Errorf("got %v", err)
			}
			if _, err := ontemporal.GetHandle[string](temporal, id, "").Status(timeLimit(t)); err == nil {
				t.Error("it was started")
			}
		})
	}
}

// Given a Definition with structs as input and result, then both engines return the same
// result.
func TestDefinition_SameResult(t *testing.T) {
	t.Parallel()
	type in struct{ From, To int }
	type out struct {
		Sum int
		By  string
	}
	d := &activity.Definition[in, out]{
		Name:    "sum",
		Options: activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}},
		Func: func(ctx activity.Context, in in) (out, error) {
			if first(ctx) {
				return out{Sum: -1}, errDisk
			}
			o := out{By: ctx.Info().Name}
			for i := in.From; i < in.To; i++ {
				o.Sum += i
			}
			return o, nil
		},
	}
	queue := newWorker(t, func(r worker.Registry) { ontemporal.RegisterDefinition(r, d) })
	id := fmt.Sprintf("sum-%d", trials.Add(1))
	got, err := ontemporal.ExecuteDefinition(timeLimit(t), temporal, queue, d, id, in{3, 6})
	if err != nil {
		t.Fatal(err)
	}
	want, err := d.Execute(timeLimit(t), activity.New(activity.Config{}), id, in{3, 6})
	if err != nil {
		t.Fatal(err)
	}
	if want.Sum != 12 || got != want {
		t.Errorf("embedded %+v, server %+v", want, got)
	}
}

// Rule 31. Given an ID that failed, when it is started with an input that has a new field, then
// it resumes if the field is zero, and is refused otherwise.
func TestStart_InputWithNewField(t *testing.T) {
	t.Parallel()
	type rows struct{ File string }
	type grown struct{ File, Mode string }
	before := func(ctx activity.Context, in rows) (string, error) {
		return "", errors.Join(ctx.Heartbeat(3), activity.NonRetryable(errDisk))
	}
	after := func(ctx activity.Context, in grown) (string, error) {
		n, err := activity.Resume(ctx, 0)
		return fmt.Sprintf("%+v from %d", in, n), err
	}
	old := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, before) })
	queue := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, after) })
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Minute}
	for _, test := range []struct {
		in   grown
		want string
	}{{grown{File: "a"}, "{File:a Mode:} from 3"}, {grown{"a", "fast"}, ""}} {
		opts.ID = fmt.Sprintf("grown-%d", trials.Add(1))
		if _, err := ontemporal.Execute(timeLimit(t), temporal, old, opts, before, rows{"a"}); err == nil {
			t.Error("it has not failed")
		}
		got, err := ontemporal.Execute(timeLimit(t), temporal, queue, opts, after, test.in)
		if got != test.want || errors.Is(err, activity.ErrCheckpointMismatch) != (test.want == "") {
			t.Errorf("with %+v: got %q, %v", test.in, got, err)
		}
	}
}

// Given an ID that failed, when its execution is deleted, as the error suggests, then another
// input starts from the beginning.
func TestStart_AfterDelete(t *testing.T) {
	t.Parallel()
	fn := func(ctx activity.Context, in string) (string, error) {
		if in == "in" {
			return "", errors.Join(ctx.Heartbeat(3), activity.NonRetryable(errDisk))
		}
		n, err := activity.Resume(ctx, 0)
		return fmt.Sprint(n), err
	}
	queue := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, fn) })
	opts := activity.Options{ID: fmt.Sprintf("deleted-%d", trials.Add(1)), Name: name, StartToCloseTimeout: time.Minute}
	if _, err := ontemporal.Execute(timeLimit(t), temporal, queue, opts, fn, "in"); err == nil {
		t.Error("it has not failed")
	}
	if _, err := ontemporal.Execute(timeLimit(t), temporal, queue, opts, fn, "again"); !errors.Is(err, activity.ErrCheckpointMismatch) {
		t.Errorf("got %v", err)
	}
	_, err := temporal.WorkflowService().DeleteActivityExecution(timeLimit(t), &workflowservice.DeleteActivityExecutionRequest{Namespace: namespace, ActivityId: opts.ID})
	if err != nil {
		t.Fatal(err)
	}
	var out string
	eventually(t, "it starts", func() bool {
		out, err = ontemporal.Execute(timeLimit(t), temporal, queue, opts, fn, "again")
		return !errors.Is(err, activity.ErrCheckpointMismatch)
	})
	if out != "0" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

func named(ctx activity.Context, in string) (string, error) { return ctx.Info().Name, nil }

// Given neither a name nor an ID, then both engines use the function's name.
func TestRegister_FunctionName(t *testing.T) {
	t.Parallel()
	queue := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, "", named) })
	got, err := ontemporal.Execute(timeLimit(t), temporal, queue, activity.Options{StartToCloseTimeout: time.Minute}, named, "in")
	if err != nil {
		t.Fatal(err)
	}
	want, err := activity.Execute(timeLimit(t), activity.New(activity.Config{}), activity.Options{}, named, "in")
	if err != nil {
		t.Fatal(err)
	}
	if got != want || !strings.HasSuffix(want, ".named") {
		t.Errorf("embedded %q, server %q", want, got)
	}
}

// Given Handles of one execution from Start and GetHandle, then both return its result. If one
// cancels it, the other knows the cause by its text.
func TestGetHandle_SameExecution(t *testing.T) {
	t.Parallel()
	fn := func(ctx activity.Context, in string) (string, error) {
		if in == "beat" {
			return "", (*trial)(nil).beat(ctx)
		}
		return "done", nil
	}
	queue := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, fn) })
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Minute}
	start := func(in string) (_, found *ontemporal.Handle[string]) {
		opts.ID = fmt.Sprintf("found-%d", trials.Add(1))
		h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, in)
		if err != nil {
			t.Fatal(err)
		}
		return h, ontemporal.GetHandle[string](temporal, h.ID(), h.RunID())
	}

	h, found := start("in")
	out, err := found.Wait(timeLimit(t))
	if out != "done" || err != nil || h.RunID() == "" {
		t.Errorf("got %q, %v", out, err)
	}
	latest := ontemporal.GetHandle[string](temporal, h.ID(), "")
	if out, err := latest.Wait(timeLimit(t)); out != "done" || err != nil {
		t.Errorf("without run ID, got %q, %v", out, err)
	}
	<-found.Done()

	h, found = start("beat")
	for {
		s, err := h.Status(timeLimit(t))
		if err == nil && s.State == activity.StateRunning {
			break
		}
	}
	found.Cancel(errCallers)
	_, err = found.Wait(timeLimit(t))
	var end *activity.Error
	if !errors.As(err, &end) || end.RetryState != activity.RetryStateCancelRequested || !errors.Is(err, errCallers) || end.Attempt != 1 || end.Name != name || end.ID != h.ID() {
		t.Errorf("got %+v", err)
	}
	_, err = h.Wait(timeLimit(t))
	if !errors.As(err, &end) || end.RetryState != activity.RetryStateCancelRequested || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), errCallers.Error()) {
		t.Errorf("the other got %+v", err)
	}

	nobody := ontemporal.GetHandle[string](temporal, "there is none", "")
	if _, err := nobody.Wait(timeLimit(t)); err == nil {
		t.Error("Wait finds what does not exist")
	}
	if _, err := nobody.Status(timeLimit(t)); err == nil {
		t.Error("Status finds what does not exist")
	}
}

// Given an activity that an operator terminates, then its caller gets the reason, and its
// function's Context ends.
func TestHandle_Terminated(t *testing.T) {
	t.Parallel()
	caused := make(chan error, 1)
	fn := func(ctx activity.Context, in string) (string, error) {
		err := (*trial)(nil).beat(ctx)
		caused <- context.Cause(ctx)
		return "", err
	}
	queue := newWorker(t, func(r worker.Registry) { ontemporal.Register(r, name, fn) })
	opts := activity.Options{Name: name, ID: fmt.Sprintf("terminated-%d", trials.Add(1)), StartToCloseTimeout: time.Minute}
	h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool {
		s, err := h.Status(timeLimit(t))
		return err == nil && s.State == activity.StateRunning
	})
	sdk := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()})
	if err := sdk.Terminate(timeLimit(t), client.TerminateActivityOptions{Reason: "no longer needed"}); err != nil {
		t.Fatal(err)
	}
	_, err = h.Wait(timeLimit(t))
	var end *activity.Error
	if !errors.As(err, &end) || end.Attempt != 1 || end.RetryState != activity.RetryStateCancelRequested || !strings.Contains(err.Error(), "no longer needed") {
		t.Errorf("got %v", err)
	}
	if cause := <-caused; cause == nil {
		t.Error("the function was not told")
	}
	if s, err := h.Status(timeLimit(t)); err != nil || s.State != activity.StateCanceled {
		t.Errorf("status %v, %v", s.State, err)
	}
}

// Given a task queue without a worker, then an activity is waiting until it times out or is
// canceled, with attempt 0.
func TestStart_WithoutWorker(t *testing.T) {
	t.Parallel()
	fn := func(activity.Context, string) (string, error) { return "", nil }
	start := func(opts activity.Options) *ontemporal.Handle[string] {
		opts.ID, opts.Name = fmt.Sprintf("nobody-%d", trials.Add(1)), name
		h, err := ontemporal.Start(timeLimit(t), temporal, "nobody", opts, fn, "in")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	timedOut := start(activity.Options{StartToCloseTimeout: time.Minute, ScheduleToStartTimeout: time.Second})
	canceled := start(activity.Options{StartToCloseTimeout: time.Minute})
	if s, err := canceled.Status(timeLimit(t)); err != nil || s.State != activity.StateWaiting || s.Attempt != 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	canceled.Cancel(errCallers)

	var end *activity.Error
	var timeout *activity.TimeoutError
	_, err := timedOut.Wait(timeLimit(t))
	if !errors.As(err, &end) || end.Attempt != 0 || end.RetryState != activity.RetryStateTimeout ||
		!errors.As(err, &timeout) || timeout.Type != activity.TimeoutScheduleToStart || timeout.Attempt != 0 || timeout.After != time.Second {
		t.Errorf("got %v", err)
	}
	_, err = canceled.Wait(timeLimit(t))
	if !errors.As(err, &end) || end.Attempt != 0 || end.RetryState != activity.RetryStateCancelRequested || !errors.Is(err, errCallers) {
		t.Errorf("got %v", err)
	}
}

// Given a registered function, when a workflow calls it as an ordinary activity, then results,
// retries, stalls, errors and cancellations work.
func TestWorkflow_CallsFunction(t *testing.T) {
	t.Parallel()
	fn := func(ctx activity.Context, in string) (string, error) {
		switch in {
		case "retry":
			n, err := activity.Resume(ctx, 0)
			if n == 3 || err != nil {
				return fmt.Sprintf("%s resumed from %d in attempt %d", ctx.Info().Name, n, ctx.Info().Attempt), err
			}
			return "", errors.Join(ctx.Heartbeat(3), errDisk)
		case "stall":
			if first(ctx) {
				if err := ctx.Heartbeat(3); err != nil {
					return "", err
				}
				<-ctx.Done()
				return "too late", nil
			}
			n, err := activity.Resume(ctx, 0)
			return fmt.Sprint(n), err
		case "stall at last":
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			<-ctx.Done()
			return "too late", nil
		case "fail":
			return "", activity.NonRetryable(fmt.Errorf("row 3: %w", &rowError{3}))
		case "plain":
			return "", &rowError{3}
		case "panic":
			panic("boom")
		case "cancel":
			return "", (*trial)(nil).beat(ctx)
		}
		return in, nil
	}
	calls := func(ctx workflow.Context, in string, attempts int32) (string, error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: time.Minute, HeartbeatTimeout: 3 * time.Second, WaitForCancellation: true,
			RetryPolicy: &sdk.RetryPolicy{InitialInterval: time.Hour, MaximumAttempts: attempts},
		})
		if in == "retry" {
			ctx = workflow.WithRetryPolicy(ctx, sdk.RetryPolicy{InitialInterval: time.Millisecond})
		}
		var out string
		err := workflow.ExecuteActivity(ctx, name, in).Get(ctx, &out)
		return out, err
	}
	queue := newWorker(t, func(r worker.Registry) {
		ontemporal.Register(r, name, fn)
		r.RegisterWorkflowWithOptions(calls, workflow.RegisterOptions{Name: "calls"})
	})
	start := func(t *testing.T, in string, attempts int) client.WorkflowRun {
		run, err := temporal.ExecuteWorkflow(timeLimit(t), client.StartWorkflowOptions{TaskQueue: queue}, "calls", in, attempts)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	execute := func(t *testing.T, in string, attempts int) (out string, err error) {
		err = start(t, in, attempts).Get(timeLimit(t), &out)
		return out, err
	}
	t.Run("results", func(t *testing.T) {
		for in, want := range map[string]string{
			"in": "in", "retry": "work resumed from 3 in attempt 2", "stall": "3",
		} {
			t.Run(in, func(t *testing.T) {
				t.Parallel()
				if out, err := execute(t, in, 0); out != want || err != nil {
					t.Errorf("got %q, %v", out, err)
				}
			})
		}
	})
	t.Run("panic", func(t *testing.T) {
		t.Parallel()
		_, err := execute(t, "panic", 1)
		var failed *sdk.ActivityError
		var p *sdk.PanicError
		if !errors.As(err, &failed) || !errors.As(err, &p) || p.Error() != "boom" || !strings.Contains(p.StackTrace(), "servertest.") {
			t.Errorf("got %v", err)
		}
	})
	for _, test := range []struct {
		in       string
		attempts int
		want     []string
	}{
		{"fail", 0, []string{"NonRetryableFailure", "row 3: row 3 is bad", "wrapError"}},
		{"plain", 1, []string{"MaximumAttemptsReached", "row 3 is bad", "rowError"}},
	} {
		t.Run(test.in, func(t *testing.T) {
			t.Parallel()
			_, err := execute(t, test.in, test.attempts)
			var failed *sdk.ActivityError
			var app *sdk.ApplicationError
			if !errors.As(err, &failed) || !errors.As(err, &app) {
				t.Fatalf("got %v", err)
			}
			got := []string{failed.RetryState().String(), app.Message(), app.Type()}
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
	t.Run("stall at last", func(t *testing.T) {
		t.Parallel()
		_, err := execute(t, "stall at last", 1)
		var failed *sdk.ActivityError
		var timeout *sdk.TimeoutError
		if !errors.As(err, &failed) || !errors.As(err, &timeout) || timeout.TimeoutType() != enumspb.TIMEOUT_TYPE_HEARTBEAT {
			t.Fatalf("got %v", err)
		}
		var n int
		if err := timeout.LastHeartbeatDetails(&n); n != 3 || err != nil {
			t.Errorf("details %d, %v", n, err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		t.Parallel()
		run := start(t, "cancel", 1)
		eventually(t, "the activity runs", func() bool {
			d, err := temporal.DescribeWorkflowExecution(timeLimit(t), run.GetID(), run.GetRunID())
			return err == nil && len(d.PendingActivities) == 1 && d.PendingActivities[0].State == enumspb.PENDING_ACTIVITY_STATE_STARTED
		})
		if err := temporal.CancelWorkflow(timeLimit(t), run.GetID(), run.GetRunID()); err != nil {
			t.Fatal(err)
		}
		var canceled *sdk.CanceledError
		if err := run.Get(timeLimit(t), nil); !errors.As(err, &canceled) {
			t.Errorf("got %v", err)
		}
	})
}

type rowError struct{ row int }

func (e *rowError) Error() string { return fmt.Sprintf("row %d is bad", e.row) }

// TestExamples_OnServer runs ontemporal's Examples and the program of examples/ontemporal against this
// server.
func TestExamples_OnServer(t *testing.T) {
	for _, test := range []struct{ dir, run string }{
		{"..", "^Example"},
		{"../../examples/ontemporal", "^TestCluster$"},
	} {
		t.Run(test.run, func(t *testing.T) {
			t.Parallel()
			goTest(t, test.dir, test.run)
		})
	}
}

// goTest runs the tests of another directory, of which none may fail or be skipped.
func goTest(t *testing.T, dir, run string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // including their build
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-json", "-run", run, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "TEMPORAL_ADDRESS="+hostPort, "TEMPORAL_NAMESPACE="+namespace)
	out, runErr := cmd.CombinedOutput()
	passed := 0
	for line := range bytes.Lines(out) {
		var e struct{ Action, Test string }
		if json.Unmarshal(line, &e) != nil || e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass":
			passed++
		case "fail", "skip":
			t.Errorf("%s: %s", e.Test, e.Action)
		}
	}
	if runErr != nil || passed == 0 {
		t.Errorf("%d passed, %v:\n%s", passed, runErr, out)
	}
}
