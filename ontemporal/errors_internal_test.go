package ontemporal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/proto"
)

// there returns err as the caller gets it from a server.
func there(err error) error {
	c := temporal.GetDefaultFailureConverter()
	return fromTemporal(c.FailureToError(c.ErrorToFailure(toTemporal(err))), &ended{
		id: "a", name: "f", attempt: 3,
		details:      fromJSON([]json.RawMessage{json.RawMessage(`"a"`), json.RawMessage("7")}),
		startToClose: time.Minute, heartbeat: time.Second, scheduleToStart: time.Hour, scheduleToClose: 2 * time.Hour,
	})
}

type notFoundError struct{ row int }

func (e *notFoundError) Error() string { return fmt.Sprintf("row %d not found", e.row) }

func saysNonRetryable(err error) bool {
	var n interface{ NonRetryable() bool }
	return errors.As(err, &n) && n.NonRetryable()
}

func delay(err error) time.Duration {
	var d interface{ RetryDelay() time.Duration }
	if errors.As(err, &d) {
		return d.RetryDelay()
	}
	return 0
}

// Given an error of a function, when it has passed through a server, then its text, its
// statements about retries and the errors that errors.Is and errors.As find are the same.
func TestErrors_ComeBackAsSent(t *testing.T) {
	boom := errors.New("boom")
	for _, err := range []error{
		boom,
		fmt.Errorf("copy: %w", fmt.Errorf("row 7: %w", boom)),
		&notFoundError{7},
		activity.NonRetryable(&notFoundError{7}),
		fmt.Errorf("copy: %w", activity.NonRetryable(fmt.Errorf("row 7: %w", boom))),
		errors.Join(boom, activity.NonRetryable(boom)),
		activity.RetryAfter(boom, time.Hour),
		activity.RetryAfter(fmt.Errorf("copy: %w", boom), time.Millisecond),
		activity.NonRetryable(activity.RetryAfter(boom, time.Hour)),
		activity.RetryAfter(activity.NonRetryable(boom), time.Hour),
		&activity.Error{ID: "b", Name: "g", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: activity.NonRetryable(boom)},
		activity.NonRetryable(activity.ErrGoexit),
		activity.ErrShutdown,
		fmt.Errorf("%w: 3 GB", activity.ErrDetailsTooLarge),
		activity.NonRetryable(fmt.Errorf("heartbeat: %w", fmt.Errorf("%w: 3 GB", activity.ErrDetailsTooLarge))),
		fmt.Errorf("inner: %w", activity.ErrAlreadyRunning),
		context.Canceled,
		fmt.Errorf("query: %w", context.DeadlineExceeded),
		fmt.Errorf("inner: %w", activity.ErrCheckpointMismatch),
		activity.ErrCannotResume,
		fmt.Errorf("row 7: %w", activity.ErrCannotResume),
		fmt.Errorf("inner: %w", &activity.Error{ID: "b", Name: "g", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: activity.ErrCannotResume}),
		&activity.PanicError{Value: "ouch", Stack: []byte("there")},
		&activity.PanicError{Value: fmt.Errorf("row 7: %w", activity.ErrCannotResume)},
		&activity.PanicError{Value: activity.NonRetryable(boom)},
		&activity.PanicError{Value: fmt.Errorf("row 7: %w", boom)},
	} {
		back := there(err)
		if back.Error() != err.Error() {
			t.Errorf("%q came back as %q", err, back)
		}
		var inner *activity.Error
		if got, want := saysNonRetryable(back), saysNonRetryable(err) && !errors.As(err, &inner); got != want {
			t.Errorf("%q came back as %T, non-retryable: %v", err, back, got)
		}
		if delay(back) != delay(err) {
			t.Errorf("%q came back with a delay of %s", err, delay(back))
		}
		for _, s := range append(sentinels, activity.ErrCannotResume, activity.ErrCheckpointMismatch) {
			if errors.Is(back, s) != errors.Is(err, s) {
				t.Errorf("%q came back as %T, errors.Is %v: %v", err, back, s, errors.Is(back, s))
			}
		}
		var was, is *activity.PanicError
		if errors.As(err, &was) != errors.As(back, &is) || was != nil && (string(is.Stack) != string(was.Stack) || fmt.Sprint(is.Value) != fmt.Sprint(was.Value)) {
			t.Errorf("%q came back as %+v", err, back)
		}
	}
}

// Rule 33. Given ErrCannotResume, even marked as NonRetryable, then the server retries the failure,
// because another version of the program may be able to resume. Its type identifies it.
func TestErrors_CannotResumeIsRetried(t *testing.T) {
	for _, err := range []error{
		activity.ErrCannotResume, activity.RetryAfter(fmt.Errorf("row 7: %w", activity.ErrCannotResume), time.Hour),
		activity.NonRetryable(activity.ErrCannotResume),
	} {
		var app *temporal.ApplicationError
		if !errors.As(toTemporal(err), &app) || app.Type() != "activity.ErrCannotResume" || app.NonRetryable() || app.NextRetryDelay() != delay(err) {
			t.Errorf("%q is reported as %+v", err, app)
		}
	}
}

// Given an ApplicationError, of this process or from a server, with a statement about retries around
// it, then it keeps its type, text, details, category and cause.
func TestErrors_ApplicationErrorIsKept(t *testing.T) {
	own := temporal.NewApplicationErrorWithOptions("no such row", "RowError", temporal.ApplicationErrorOptions{
		Details: []any{7, "seven", []int{1, 2}, 1 << 60, "fifth"}, Category: temporal.ApplicationErrorCategoryBenign, Cause: io.EOF,
	})
	for name, inner := range map[string]error{"own": own, "a server's": there(own)} {
		if remote := (*remoteError)(nil); errors.As(inner, &remote) {
			inner = remote.failure
		}
		for _, marked := range []error{activity.NonRetryable(inner), activity.RetryAfter(inner, time.Minute), activity.NonRetryable(activity.RetryAfter(inner, time.Minute))} {
			var app *temporal.ApplicationError
			if !errors.As(there(marked), &app) {
				t.Fatalf("%s: %v came back as %v", name, marked, there(marked))
			}
			var n, big int
			var text, last string
			var list []int
			if err := app.Details(&n, &text, &list, &big, &last); err != nil || n != 7 || text != "seven" || fmt.Sprint(list) != "[1 2]" || big != 1<<60 || last != "fifth" {
				t.Errorf("%s: the details are %d, %q, %v, %d, %q, %v", name, n, text, list, big, last, err)
			}
			cause := errors.Unwrap(app)
			if app.Message() != "no such row" || app.Type() != "RowError" || app.Category() != temporal.ApplicationErrorCategoryBenign || cause == nil || cause.Error() != "EOF" {
				t.Errorf("%s: %q, %s, category %v, cause %v", name, app.Message(), app.Type(), app.Category(), cause)
			}
			if app.NonRetryable() != saysNonRetryable(marked) || app.NextRetryDelay() != delay(marked) {
				t.Errorf("%s: non-retryable %t, next after %s", name, app.NonRetryable(), app.NextRetryDelay())
			}
		}
	}
	// The SDK gives no access to what follows a detail that is nil.
	if d := detailsOf(temporal.NewApplicationError("", "", 1, nil, 3).(*temporal.ApplicationError)); fmt.Sprint(d) != "[1]" {
		t.Errorf("the details are %v", d)
	}
}

// Given an error of the function's own type, then the failure's Type has the type's name.
func TestErrors_TypeOfFailure(t *testing.T) {
	for _, err := range []error{&notFoundError{7}, activity.NonRetryable(&notFoundError{7}), activity.RetryAfter(activity.NonRetryable(&notFoundError{7}), 1)} {
		var app *temporal.ApplicationError
		if !errors.As(there(err), &app) || app.Type() != "notFoundError" {
			t.Errorf("%#v came back as %v", err, app)
		}
	}
	if there(io.EOF) == io.EOF {
		t.Error("io.EOF came back as itself")
	}
}

// Given a timeout of the server, then it becomes an *activity.TimeoutError with its details
// and the failure before, which has no failure before it.
func TestErrors_TimeoutsComeBack(t *testing.T) {
	for typ, want := range map[enumspb.TimeoutType]activity.TimeoutError{
		enumspb.TIMEOUT_TYPE_START_TO_CLOSE:    {Type: activity.TimeoutStartToClose, After: time.Minute},
		enumspb.TIMEOUT_TYPE_HEARTBEAT:         {Type: activity.TimeoutHeartbeat, After: time.Second},
		enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START: {Type: activity.TimeoutScheduleToStart, After: time.Hour},
		enumspb.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE: {Type: activity.TimeoutScheduleToClose, After: 2 * time.Hour},
	} {
		before := temporal.NewTimeoutError(enumspb.TIMEOUT_TYPE_HEARTBEAT, errors.New("two before"))
		err := there(temporal.NewTimeoutError(typ, before, "a", 7))
		var e *activity.TimeoutError
		if !errors.As(err, &e) || e.Type != want.Type || e.After != want.After || e.ID != "a" || e.Name != "f" || e.Attempt != 3 {
			t.Fatalf("%s came back as %#v", typ, err)
		}
		var s string
		var n int
		if found, err := e.HeartbeatDetails(&s, &n); !found || err != nil || s != "a" || n != 7 {
			t.Errorf("%s: the details are %q, %d, %v, %v", typ, s, n, found, err)
		}
		last, ok := e.LastFailure.(*activity.TimeoutError)
		if !ok || last.Type != activity.TimeoutHeartbeat || last.Attempt != 2 || last.LastFailure != nil {
			t.Errorf("%s: the failure before is %#v", typ, e.LastFailure)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), want.Type.String()) {
			t.Errorf("got %v", err)
		}
	}
}

// Given a heartbeat timeout, which a worker reports as a failure, then it becomes an
// *activity.TimeoutError.
func TestErrors_HeartbeatTimeoutComesBack(t *testing.T) {
	err := there(temporal.NewApplicationErrorWithOptions("text", heartbeatTimeoutType, temporal.ApplicationErrorOptions{
		Details: []any{"stack", "before"}, Cause: temporal.NewHeartbeatTimeoutError(7), NextRetryDelay: atOnce,
	}))
	e, ok := err.(*activity.TimeoutError)
	if !ok || e.Type != activity.TimeoutHeartbeat || string(e.Stack) != "stack" || e.After != time.Second || e.LastFailure.Error() != "before" {
		t.Fatalf("got %#v", err)
	}
	var s string
	if found, err := e.HeartbeatDetails(&s); !found || err != nil || s != "a" {
		t.Errorf("the details are %q, %v, %v", s, found, err)
	}
}

// Given a failure that the server has cut, then the cause, which it keeps, becomes the error.
func TestErrors_CutByServer(t *testing.T) {
	cut := func(err error) error {
		c := temporal.GetDefaultFailureConverter()
		inner := c.ErrorToFailure(err)
		inner.Cause, inner.GetApplicationFailureInfo().Details = nil, nil
		return fromTemporal(c.FailureToError(&failurepb.Failure{
			Message:     "Failure exceeds size limit.",
			FailureInfo: &failurepb.Failure_ServerFailureInfo{ServerFailureInfo: &failurepb.ServerFailureInfo{}},
			Cause:       inner,
		}), &ended{id: "a", name: "f", attempt: 3, heartbeat: time.Second})
	}
	var timeout *activity.TimeoutError
	err := cut(temporal.NewApplicationErrorWithOptions("text", heartbeatTimeoutType, temporal.ApplicationErrorOptions{Cause: temporal.NewHeartbeatTimeoutError()}))
	if !errors.As(err, &timeout) || timeout.Type != activity.TimeoutHeartbeat {
		t.Errorf("got %#v", err)
	}
	var panicked *activity.PanicError
	if err := cut(toTemporal(&activity.PanicError{Value: "ouch"})); !errors.As(err, &panicked) || panicked.Error() != "panic: ouch" {
		t.Errorf("got %#v", err)
	}
	if err := cut(temporal.NewApplicationError("boom", "t")); err.Error() != "boom" {
		t.Errorf("got %#v", err)
	}
}

// Given long stacks and details, then a failure stays below the 4 KiB that a server keeps.
func TestErrors_FitServerLimit(t *testing.T) {
	stack := bytes.Repeat([]byte("frame()\n"), 1<<17)
	a := &attempt{info: activity.Info{Attempt: 2}, heartbeats: heartbeats{latest: fromJSON([]json.RawMessage{stack})}, progressed: true}
	e := &activity.TimeoutError{ID: "a", Name: "f", Type: activity.TimeoutHeartbeat, Stack: stack, LastFailure: errors.New(string(stack))}
	for _, err := range []error{a.stalled(e), toTemporal(&activity.PanicError{Value: "ouch", Stack: stack})} {
		if f := temporal.GetDefaultFailureConverter().ErrorToFailure(err); proto.Size(f) > 4<<10 {
			t.Errorf("%T has %d bytes", err, proto.Size(f))
		}
	}
}

// Given a text that is not valid UTF-8, then the failure can still be sent, and NonRetryable is
// kept.
func TestErrors_InvalidUTF8(t *testing.T) {
	bad := errors.New("row \xff")
	for _, err := range []error{
		bad,
		fmt.Errorf("copy: %w", bad),
		activity.NonRetryable(bad),
		opaque{bad},
		activity.NonRetryable(opaque{bad}),
		&activity.PanicError{Value: bad},
		temporal.NewNonRetryableApplicationError("row \xff", "t", nil),
		temporal.NewApplicationErrorWithCause("row", "t", bad),
	} {
		f := temporal.GetDefaultFailureConverter().ErrorToFailure(toTemporal(err))
		if _, failed := proto.Marshal(f); failed != nil {
			t.Errorf("%#v cannot be sent: %v", err, failed)
		}
		var n interface{ NonRetryable() bool }
		if was := errors.As(err, &n) && n.NonRetryable(); f.GetApplicationFailureInfo().GetNonRetryable() != was {
			t.Errorf("%#v: non-retryable %v", err, !was)
		}
	}
}

type opaque struct{ err error }

func (opaque) Error() string   { return "opaque" }
func (e opaque) Unwrap() error { return e.err }
