package ontemporal_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	activitypb "go.temporal.io/api/activity/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var errCancel = errors.New("the user left")

// A server is a client and a handle of the only activity that exists.
type server struct {
	client.Client
	client.ActivityHandle

	runID    string
	exists   bool          // the activity exists; ExecuteActivity sets it
	startErr error         // the error of ExecuteActivity
	get      func() error  // returns the error of Get, once ended is closed
	ended    chan struct{} // closed when the activity ends
	cancels  func() error  // returns the error of Cancel
	steerErr error         // the error of Pause and Unpause
	about    *client.ActivityExecutionDescription
	aboutErr error // the error of Describe

	mu      sync.Mutex
	calls   []string
	options client.StartActivityOptions
	name    any
	args    []any
}

func newServer() *server {
	return &server{runID: "run", ended: make(chan struct{}), about: described(enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, 1, 0)}
}

func described(status enumspb.ActivityExecutionStatus, attempt int32, retry enumspb.RetryState) *client.ActivityExecutionDescription {
	return &client.ActivityExecutionDescription{
		ClientActivityExecutionInfo: client.ActivityExecutionInfo{ActivityID: "a", ActivityType: "f", Status: status},
		Attempt:                     attempt,
		RawResponse: &workflowservice.DescribeActivityExecutionResponse{
			Info:    &activitypb.ActivityExecutionInfo{LastStartedTime: timestamppb.Now()},
			Outcome: &activitypb.ActivityExecutionOutcome{RetryState: retry},
		},
	}
}

func (s *server) call(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, fmt.Sprintf(format, args...))
}

func (s *server) ExecuteActivity(_ context.Context, o client.StartActivityOptions, name any, args ...any) (client.ActivityHandle, error) {
	s.call("start")
	s.options, s.name, s.args, s.exists = o, name, args, true
	if s.startErr != nil {
		return nil, s.startErr
	}
	return s, nil
}

// RecordActivityHeartbeatWithOptions encodes the details, as the SDK's client does.
func (s *server) RecordActivityHeartbeatWithOptions(_ context.Context, o client.RecordActivityHeartbeatOptions) error {
	if _, err := converter.GetDefaultDataConverter().ToPayloads(o.Details...); err != nil {
		return err
	}
	panic("a heartbeat was sent")
}

func (s *server) GetActivityHandle(o client.GetActivityHandleOptions) client.ActivityHandle {
	s.call("handle of %q %q", o.ActivityID, o.RunID)
	return s
}

func (s *server) GetID() string    { return "a" }
func (s *server) GetRunID() string { return s.runID }

func (s *server) Get(ctx context.Context, out any) error {
	select {
	case <-s.ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.get != nil {
		if err := s.get(); err != nil {
			return err
		}
	}
	*out.(*string) = "result"
	return nil
}

func (s *server) Describe(context.Context, client.DescribeActivityOptions) (*client.ActivityExecutionDescription, error) {
	if s.aboutErr != nil {
		return nil, s.aboutErr
	}
	if !s.exists {
		return nil, serviceerror.NewNotFound("no such activity")
	}
	return s.about, nil
}

func (s *server) Cancel(_ context.Context, o client.CancelActivityOptions) error {
	s.call("cancel: %s", o.Reason)
	if s.cancels != nil {
		return s.cancels()
	}
	return nil
}

func (s *server) Pause(context.Context, client.PauseActivityOptions) error {
	s.call("pause")
	return s.steerErr
}

func (s *server) Unpause(context.Context, client.UnpauseActivityOptions) error {
	s.call("unpause")
	return s.steerErr
}

func (s *server) check(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(want, s.calls); diff != "" {
		t.Errorf("the server got (-want +got):\n%s", diff)
	}
}

// ends has the activity end after d.
func (s *server) ends(d time.Duration, err error) {
	s.get = func() error { return err }
	time.AfterFunc(d, func() { close(s.ended) })
}

var hour = activity.Options{ID: "a", Name: "f", StartToCloseTimeout: time.Hour}

func f(activity.Context, int) (string, error) { panic("called here") }

func checkEnd(t *testing.T, err error, attempt int, state activity.RetryState) {
	t.Helper()
	var e *activity.Error
	if !errors.As(err, &e) || e.ID != "a" || e.Name != "f" || e.Attempt != attempt || e.RetryState != state {
		t.Errorf("got %#v, want attempt %d, %s", err, attempt, state)
	}
}

// Given all options that Temporal can keep, when an activity is executed, then the server
// gets each of them.
func TestExecute_AllOptions(t *testing.T) {
	s := newServer()
	s.ends(0, nil)
	opts := activity.Options{
		ID: "a", StartToCloseTimeout: time.Hour, HeartbeatTimeout: time.Minute, ScheduleToStartTimeout: time.Second, ScheduleToCloseTimeout: 3 * time.Hour,
		RetryPolicy:      activity.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 3, MaximumInterval: time.Minute, MaximumAttempts: 7},
		HeartbeatDetails: []any{"a", 1},
		CancelGrace:      time.Minute,
		Header:           map[string]string{"b": "2", "a": "1"},
	}
	out, err := ontemporal.Execute(t.Context(), s, "queue", opts, f, 5)
	if out != "result" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	want := client.StartActivityOptions{
		ID: "a", TaskQueue: "queue", StartToCloseTimeout: time.Hour, HeartbeatTimeout: time.Minute, ScheduleToStartTimeout: time.Second, ScheduleToCloseTimeout: 3 * time.Hour,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 3, MaximumInterval: time.Minute, MaximumAttempts: 7},
	}
	if s.name != "github.com/seed-9da638b0/activity/ontemporal_test.f" || fmt.Sprintf("%v %+v", s.args[0], s.options.RetryPolicy) != fmt.Sprintf("5 %+v", want.RetryPolicy) || asJSON(s.args[1]) != `{"Details":["a",1],"CancelGrace":60000000000,"Header":{"a":"1","b":"2"}}` {
		t.Errorf("the server got %v with %v, %+v", s.name, s.args, s.options.RetryPolicy)
	}
	s.options.RetryPolicy, want.RetryPolicy = nil, nil
	if fmt.Sprint(s.options) != fmt.Sprint(want) {
		t.Errorf("the server got %+v, want %+v", s.options, want)
	}
	s.check(t, `handle of "a" ""`, "start")
}

func asJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// Given a Definition with few options and no ID, when it is executed, then the ID is
// generated, and no second argument is sent.
func TestExecuteDefinition_FewestOptions(t *testing.T) {
	s := newServer()
	s.ends(0, nil)
	d := &activity.Definition[int, string]{Name: "g", Func: f, Options: activity.Options{StartToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{MaximumInterval: 10 * time.Millisecond}}}
	out, err := ontemporal.ExecuteDefinition(t.Context(), s, "queue", d, "", 5)
	if out != "result" || err != nil || s.name != "g" || len(s.args) != 1 || len(s.options.ID) < 20 || s.options.RetryPolicy.InitialInterval != 10*time.Millisecond {
		t.Errorf("got %q, %v; the server got %v, %v, %+v", out, err, s.name, s.args, s.options)
	}
	s.check(t, "start") // a generated ID has no earlier execution
	d.Name = ""
	if _, err := ontemporal.ExecuteDefinition(t.Context(), s, "queue", d, "a", 5); err == nil || !strings.Contains(err.Error(), "Definition.Name must not be empty") {
		t.Errorf("got %v", err)
	}
}

// Rule 16. Given an option that Temporal cannot keep, or that is invalid, then Start returns
// an error that names it and its value, and the server is not called.
func TestStart_OptionsAreRefused(t *testing.T) {
	for want, change := range map[string]func(o *activity.Options){
		"Options.StartToCloseTimeout must be set on Temporal unless ScheduleToCloseTimeout is, so that the server notices the loss of a worker (got 0s)":            func(o *activity.Options) { o.StartToCloseTimeout = 0 },
		"Options.StartToCloseTimeout must not be negative (got -1ns)":                                                                                               func(o *activity.Options) { o.StartToCloseTimeout = -1 },
		"Options.MaxAbandoned must not be set on Temporal, because attempts may run in different workers (got 3)":                                                   func(o *activity.Options) { o.MaxAbandoned = 3 },
		"Options.MaxAbandoned must not be set on Temporal, because attempts may run in different workers (got -1)":                                                  func(o *activity.Options) { o.MaxAbandoned = activity.NoOverlap },
		`Options.Header must be UTF-8 on Temporal (got "a": "\xff")`:                                                                                                func(o *activity.Options) { o.Header = map[string]string{"a": "\xff"} },
		"Options.SyncHeartbeats must not be set on Temporal, where a heartbeat does not wait for the server (got true)":                                             func(o *activity.Options) { o.SyncHeartbeats = true },
		"Options.RetryPolicy.ResetOnProgress must not be set on Temporal, because its server counts all attempts (got true)":                                        func(o *activity.Options) { o.RetryPolicy.ResetOnProgress = true },
		"Options.RetryPolicy.ResetAfter must not be set on Temporal, because its server counts all attempts (got 1m0s)":                                             func(o *activity.Options) { o.RetryPolicy.ResetAfter = time.Minute },
		"Options.RetryPolicy.Retryable must not be set on Temporal, because its server decides about retries: return a NonRetryable error instead (got a function)": func(o *activity.Options) { o.RetryPolicy.Retryable = func(error) bool { return true } },
		"Options.RetryPolicy.Jitter must not be set on Temporal, because its server has no jitter (got 0.5)":                                                        func(o *activity.Options) { o.RetryPolicy.Jitter = 0.5 },
		"Options.RetryPolicy.Jitter must be between 0 and 1 (got 2)":                                                                                                func(o *activity.Options) { o.RetryPolicy.Jitter = 2 },
		"Options.RetryPolicy.MaximumAttempts must be at most 2147483647 on Temporal (got 2147483648)":                                                               func(o *activity.Options) { o.RetryPolicy.MaximumAttempts = math.MaxInt32 + 1 },
		"Options.HeartbeatDetails: cannot encode value 1 of 1":                                                                                                      func(o *activity.Options) { o.HeartbeatDetails = []any{f} },
	} {
		s, opts := newServer(), hour
		change(&opts)
		_, err := ontemporal.Start(t.Context(), s, "queue", opts, f, 5)
		if err == nil || !strings.HasPrefix(err.Error(), "activity: "+want) {
			t.Errorf("got %v, want %s", err, want)
		}
		s.check(t)
	}
	s := newServer()
	if _, err := ontemporal.Start[int, string](t.Context(), s, "queue", hour, nil, 5); err == nil || !strings.Contains(err.Error(), "the function is nil") {
		t.Errorf("got %v", err)
	}
}

// Rules 16 and 17. Given a context that has ended, a running activity of the same ID or a
// server that refuses, then nothing is started, and the error says why.
func TestStart_NotStarted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCancel)
	s := newServer()
	_, err := ontemporal.Execute(ctx, s, "queue", hour, f, 5)
	checkEnd(t, err, 0, activity.RetryStateCancelRequested)
	checkErr(t, err, errCancel)
	s.check(t)

	s.startErr = serviceerror.NewActivityExecutionAlreadyStarted("running", "", "")
	_, err = ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
	if want := `activity "a": not started: ` + activity.ErrAlreadyRunning.Error(); !errors.Is(err, activity.ErrAlreadyRunning) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	s.startErr = serviceerror.NewPermissionDenied("no", "")
	_, err = ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
	if want := `activity "a": not started: no`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	s.aboutErr = serviceerror.NewUnavailable("away")
	_, err = ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
	if want := `activity "a": not started: cannot read its last execution: away`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// inTime runs f in a bubble with a server. When f ends, the activity must have ended.
func inTime(t *testing.T, f func(t *testing.T, s *server)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newServer()) })
}

// Given a started activity, when a Wait's context ends first, then the activity continues,
// and a later Wait returns its result.
func TestHandle_WaitOutlivesItsContext(t *testing.T) {
	inTime(t, func(t *testing.T, s *server) {
		s.ends(time.Hour, nil)
		h, err := ontemporal.Start(t.Context(), s, "queue", hour, f, 5)
		checkErr(t, err, nil)
		if h.ID() != "a" || h.RunID() != "run" {
			t.Errorf("got the IDs %q, %q", h.ID(), h.RunID())
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errBoom)
		defer cancel()
		out, err := h.Wait(ctx)
		checkErr(t, err, errBoom)
		if out != "" {
			t.Errorf("got %q", out)
		}
		begun := time.Now()
		<-h.Done()
		out, err = h.Wait(ctx) // both the activity and ctx have ended
		if out != "result" || err != nil || time.Since(begun) != 59*time.Minute {
			t.Errorf("got %q, %v after %s", out, err, time.Since(begun))
		}
		h.Cancel(errCancel)
		out, err = h.Wait(t.Context())
		if out != "result" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
		out, err = ontemporal.GetHandle[string](s, "b", "r").Wait(t.Context())
		if out != "result" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
		s.check(t, `handle of "a" ""`, "start", `handle of "b" "r"`)
	})
}

// Given a Handle without a run ID, then it follows the execution that was the latest at the
// first Wait.
func TestGetHandle_FollowsLatestExecution(t *testing.T) {
	s := newServer()
	s.ends(0, nil)
	s.runID = ""
	if _, err := ontemporal.GetHandle[string](s, "a", "").Wait(t.Context()); err == nil || !strings.HasPrefix(err.Error(), `activity "a": cannot find its latest execution: `) {
		t.Errorf("got %v", err)
	}
	s.exists, s.about.ActivityRunID = true, "7"
	out, err := ontemporal.GetHandle[string](s, "a", "").Wait(t.Context())
	if out != "result" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	s.check(t, `handle of "a" ""`, `handle of "a" ""`, `handle of "a" "7"`)
}

// Given an outage of the server, then Wait keeps asking. Other errors end it.
func TestHandle_OutageIsNoEnd(t *testing.T) {
	inTime(t, func(t *testing.T, s *server) {
		away := []error{
			serviceerror.NewUnavailable("away"), serviceerror.NewResourceExhausted(enumspb.RESOURCE_EXHAUSTED_CAUSE_RPS_LIMIT, "busy"),
			serviceerror.NewDeadlineExceeded("late"), context.DeadlineExceeded, nil,
		}
		close(s.ended)
		s.get = func() error {
			err := away[0]
			away = away[1:]
			return err
		}
		out, err := ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
		if out != "result" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
		for _, refusal := range []error{serviceerror.NewNotFound("forgotten"), errors.New("cannot decode")} {
			s.get = func() error { return refusal }
			out, err = ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
			if !errors.Is(err, refusal) || out != "" || !strings.HasPrefix(err.Error(), `activity "a": cannot get its result: `) {
				t.Errorf("got %q, %v", out, err)
			}
		}
	})
}

// Given an execution that has failed or was canceled by an operator, then Execute returns an
// *activity.Error with its attempt, its RetryState and its text.
func TestHandle_Failures(t *testing.T) {
	for _, test := range []struct {
		status  enumspb.ActivityExecutionStatus
		retry   enumspb.RetryState
		err     error
		want    activity.RetryState
		attempt int
		text    string
	}{
		{enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED, temporal.NewApplicationError("boom", "t"), activity.RetryStateMaximumAttemptsReached, 3,
			`activity "a" (f) failed in attempt 3, no further attempt (maximum attempts reached): boom`},
		{enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.RETRY_STATE_NON_RETRYABLE_FAILURE, temporal.NewNonRetryableApplicationError("boom", "t", nil), activity.RetryStateNonRetryableFailure, 3,
			`activity "a" (f) failed in attempt 3, no further attempt (non-retryable failure): boom`},
		{enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.RETRY_STATE_TIMEOUT, temporal.NewApplicationError("boom", "t"), activity.RetryStateTimeout, 3,
			`activity "a" (f) failed in attempt 3, no further attempt (timeout): boom`},
		{enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED, 0, temporal.NewCanceledError(), activity.RetryStateCancelRequested, 3,
			`activity "a" (f) was canceled in attempt 3: context canceled: by an operator`},
		{enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.RETRY_STATE_CANCEL_REQUESTED, temporal.NewApplicationError("boom", "t"), activity.RetryStateCancelRequested, 3,
			`activity "a" (f) was canceled in attempt 3: context canceled: by an operator; the last attempt ended with: boom`},
	} {
		s := newServer()
		s.ends(0, test.err)
		s.about = described(test.status, 3, test.retry)
		s.about.CanceledReason = "by an operator"
		out, err := ontemporal.Execute(t.Context(), s, "queue", hour, f, 5)
		checkEnd(t, err, test.attempt, test.want)
		if out != "" || err.Error() != test.text {
			t.Errorf("got %q, %v, want %s", out, err, test.text)
		}
		if test.want == activity.RetryStateCancelRequested {
			checkErr(t, err, context.Canceled)
		}
	}
}

// Rule 17. Given a started activity, when its caller cancels it, then Wait returns when it has
// ended, or CancelGrace later. The first cause wins.
func TestHandle_Cancel(t *testing.T) {
	canceled := temporal.NewCanceledError()
	for _, test := range []struct {
		name   string
		ends   time.Duration // counted from the cancellation
		err    error
		status enumspb.ActivityExecutionStatus
		retry  enumspb.RetryState
		text   string // empty if the activity succeeds
	}{
		{"canceled", time.Second, canceled, enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED, 0, "the user left"},
		{"result of its own", time.Second, temporal.NewCanceledError("row 7: canceled"), enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED, 0, "the user left; the last attempt ended with: row 7: canceled"},
		{"failed", time.Second, temporal.NewApplicationError("boom", "t"), enumspb.ACTIVITY_EXECUTION_STATUS_FAILED, enumspb.RETRY_STATE_CANCEL_REQUESTED, "the user left; the last attempt ended with: boom"},
		{"succeeded", time.Second, nil, 0, 0, ""},
		{"within grace", 20*time.Second - 1, nil, 0, 0, ""},
		{"too late", 20*time.Second + 1, nil, 0, 0, "the user left; it had not ended 20s later and may still run"},
	} {
		for _, byContext := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, byContext), func(t *testing.T) {
				inTime(t, func(t *testing.T, s *server) {
					opts := hour
					opts.CancelGrace = 20 * time.Second
					s.ends(time.Minute+test.ends, test.err)
					s.about = described(test.status, 1, test.retry)
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					h, err := ontemporal.Start(ctx, s, "queue", opts, f, 5)
					checkErr(t, err, nil)
					time.Sleep(time.Minute)
					if byContext {
						cancel(errCancel)
					} else {
						h.Cancel(errCancel)
						h.Cancel(errBoom)
					}
					begun := time.Now()
					out, err := h.Wait(t.Context())
					if took, want := time.Since(begun), min(test.ends, 20*time.Second); took != want {
						t.Errorf("Wait took %s, want %s", took, want)
					}
					s.check(t, `handle of "a" ""`, "start", "cancel: the user left")
					if test.text == "" {
						if out != "result" || err != nil {
							t.Errorf("got %q, %v", out, err)
						}
						return
					}
					checkErr(t, err, errCancel)
					checkEnd(t, err, 1, activity.RetryStateCancelRequested)
					if want := `activity "a" (f) was canceled in attempt 1: ` + test.text; err.Error() != want {
						t.Errorf("got %v, want %s", err, want)
					}
					time.Sleep(time.Minute)
				})
			})
		}
	}
}

// Given a server that does not accept the cancellation, then Wait says so after CancelGrace.
// After an outage the request is repeated until the server accepts it.
func TestHandle_CancelIsNotAccepted(t *testing.T) {
	for _, test := range []struct {
		err  error
		text string
	}{
		{serviceerror.NewPermissionDenied("no", ""), "the user left; the server has not accepted the cancellation: no"},
		{serviceerror.NewFailedPrecondition("already requested"), "the user left; it had not ended 10s later and may still run"},
		{serviceerror.NewUnavailable("away"), "the user left; the server has not accepted the cancellation: it cannot be reached, still trying"},
	} {
		inTime(t, func(t *testing.T, s *server) {
			s.ends(time.Hour, nil)
			back := time.Now().Add(time.Minute)
			var taken atomic.Bool
			s.cancels = func() error {
				if time.Now().Before(back) {
					return test.err
				}
				taken.Store(true)
				return nil
			}
			h, err := ontemporal.Start(t.Context(), s, "queue", hour, f, 5)
			checkErr(t, err, nil)
			h.Cancel(errCancel)
			_, err = h.Wait(t.Context())
			if !errors.Is(err, errCancel) || !strings.HasSuffix(err.Error(), test.text) {
				t.Errorf("got %v, want %s", err, test.text)
			}
			time.Sleep(2 * time.Minute)
			if _, away := test.err.(*serviceerror.Unavailable); away != taken.Load() {
				t.Errorf("%v: taken later %v", test.err, taken.Load())
			}
		})
	}
}
