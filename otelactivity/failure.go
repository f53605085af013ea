package otelactivity

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
)

// An outcome is a value of activity.outcome.
type outcome string

const (
	completed outcome = "completed"
	failed    outcome = "failed"
	timeout   outcome = "timeout"
	canceled  outcome = "canceled"
	paused    outcome = "paused"
)

// outcomeOf returns the outcome of the attempt or the execution that e ends.
func outcomeOf(e *activity.Event) outcome {
	switch {
	case e.Kind == activity.EventCompleted:
		return completed
	case e.Kind == activity.EventCanceled:
		return canceled
	case e.Kind == activity.EventPaused:
		return paused
	case timeoutOf(e) != nil:
		return timeout
	default:
		return failed
	}
}

// outcomeOfCause returns the outcome of an attempt that was fenced, from its Context's cause.
func outcomeOfCause(cause error) outcome {
	if _, ok := cause.(*activity.TimeoutError); ok {
		return timeout
	}
	if cause == activity.ErrPaused {
		return paused
	}
	return canceled
}

// timeoutOf returns the timeout that e reports, or nil if it reports none. A function may return
// the timeout of another attempt or activity as its error, which is a failure.
func timeoutOf(e *activity.Event) *activity.TimeoutError {
	t, ok := cause(e.Err).(*activity.TimeoutError)
	if !ok || t == nil || t.ID != e.ID || t.Attempt != e.Attempt {
		return nil
	}
	return t
}

// cause returns the error of the last attempt if err is that of an activity.
func cause(err error) error {
	if e, ok := err.(*activity.Error); ok && e != nil {
		return e.Err
	}
	return err
}

// timeoutType returns the value of activity.timeout.type.
func timeoutType(t *activity.TimeoutError) string {
	name := strings.TrimSuffix(t.Type.String(), " timeout")
	return strings.ReplaceAll(name, "-", "_")
}

// setFailure sets the status of an attempt's span to that of err, which is not nil.
func setFailure(span trace.Span, at time.Time, err error) {
	text := errorText(err)
	span.SetStatus(codes.Error, text)
	span.SetAttributes(semconv.ErrorTypeKey.String(errorType(err)))
	if stack := stackOf(err); len(stack) > 0 {
		span.AddEvent("exception", trace.WithTimestamp(at), trace.WithAttributes(
			semconv.ExceptionType(reflect.TypeOf(err).String()), semconv.ExceptionMessage(text), semconv.ExceptionStacktrace(string(stack))))
	}
}

// stackOf returns the stack that err has, or nil.
func stackOf(err error) []byte {
	if t, ok := err.(*activity.TimeoutError); ok && t != nil {
		return t.Stack
	}
	if p, ok := err.(*activity.PanicError); ok && p != nil {
		return p.Stack
	}
	return nil
}

// errorType returns the value of error.type. The methods of err are user code, which may panic.
func errorType(err error) (typ string) {
	defer func() {
		if recover() != nil {
			typ = reflect.TypeOf(err).String()
		}
	}()
	for wrapsOnly(err) {
		err = errors.Unwrap(err)
	}
	switch e := err.(type) {
	case *activity.TimeoutError:
		return timeoutType(e) + "_timeout"
	case *activity.PanicError:
		return "panic"
	}
	switch {
	case errors.Is(err, activity.ErrGoexit):
		return "goexit"
	case errors.Is(err, activity.ErrCannotResume):
		return "cannot_resume"
	}
	return semconv.ErrorType(err).Value.AsString()
}

// wrapsOnly reports whether err is the result of activity.NonRetryable or activity.RetryAfter,
// whose types say nothing about the error inside.
func wrapsOnly(err error) bool {
	t := reflect.TypeOf(err)
	return t == typeNonRetryable || t == typeRetryAfter
}

var (
	typeNonRetryable = reflect.TypeOf(activity.NonRetryable(errors.ErrUnsupported))
	typeRetryAfter   = reflect.TypeOf(activity.RetryAfter(errors.ErrUnsupported, 0))
)

// errorText returns the text of err. Its Error method is user code, which may panic.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(the Error method of %T panicked)", err)
		}
	}()
	return err.Error()
}
