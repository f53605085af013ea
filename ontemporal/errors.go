package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
)

// The types of failures that a caller gets back as errors of package activity.
const (
	panicType            = "activity.PanicError"
	heartbeatTimeoutType = "activity.TimeoutError"
	cannotResumeType     = "activity.ErrCannotResume"
)

// A server keeps no more than 4 KiB of a failure that is retried, and loses the rest
// with its type: what is long, such as a stack, is cut to this.
const maxKept = 1 << 10

func short(text []byte) string {
	return strings.ToValidUTF8(string(text[:min(len(text), maxKept)]), "")
}

// atOnce is the shortest delay until a retry: to a server, 0 is none given.
const atOnce = time.Millisecond

// sentinels are known by their texts where they are the innermost error.
var sentinels = []error{
	activity.ErrShutdown, activity.ErrAlreadyRunning, activity.ErrDetailsTooLarge, activity.ErrGoexit,
	activity.ErrCannotResume, activity.ErrCheckpointMismatch,
	context.Canceled, context.DeadlineExceeded,
}

// toTemporal is an attempt's error as the SDK is to report it. What says nothing of
// retries the SDK reports as it does every error.
func toTemporal(err error) error {
	if e, ok := err.(*temporal.ApplicationError); ok && sendable(err) {
		return e
	}
	var options temporal.ApplicationErrorOptions
	special, delayed, cannotResume := false, false, false
	walk(err, func(err error) {
		if err == activity.ErrCannotResume {
			options.NonRetryable, special, cannotResume = true, true, true
		}
		if e, ok := err.(interface{ NonRetryable() bool }); ok && e.NonRetryable() {
			options.NonRetryable, special = true, true
		}
		if e, ok := err.(interface{ RetryDelay() time.Duration }); ok && !delayed {
			delayed, special = true, true // the outermost decides
			if d := e.RetryDelay(); d > 0 {
				options.NextRetryDelay = max(d, atOnce)
			}
		}
	})
	inner := err
	for isMark(inner) {
		inner = errors.Unwrap(inner)
	}
	typ := typeOf(inner)
	if e, ok := inner.(*temporal.ApplicationError); ok {
		typ = e.Type()
	}
	if cannotResume {
		typ = cannotResumeType
	}
	if p, ok := inner.(*activity.PanicError); ok {
		typ, special = panicType, true
		options.Details = []any{short(p.Stack)}
	}
	options.Cause = errors.Unwrap(inner)
	text := err.Error()
	if !sendable(err) {
		text, special, options.Cause = strings.ToValidUTF8(text, "\uFFFD"), true, nil
	}
	if !special {
		return err
	}
	return temporal.NewApplicationErrorWithOptions(text, typ, options)
}

// sendable reports whether err, with all that it wraps, has texts that the SDK can
// send.
func sendable(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if !utf8.ValidString(err.Error()) {
			return false
		}
	}
	return true
}

// walk visits err and what it wraps, down to an inner activity's *Error: that one
// was judged already.
func walk(err error, visit func(error)) {
	if _, inner := err.(*activity.Error); inner || err == nil {
		return
	}
	visit(err)
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range many.Unwrap() {
			walk(err, visit)
		}
		return
	}
	walk(errors.Unwrap(err), visit)
}

// isMark reports whether err only says something of retries about another.
func isMark(err error) bool {
	switch err.(type) {
	case interface{ NonRetryable() bool }, interface{ RetryDelay() time.Duration }:
		inner := errors.Unwrap(err)
		return inner != nil && inner.Error() == err.Error()
	}
	return false
}

// typeOf is the type that the SDK reports for err, which RetryPolicies of workflows
// may name.
func typeOf(err error) string {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

// ended describes the execution whose errors fromTemporal makes.
type ended struct {
	id, name                                                  string
	attempt                                                   int     // the last that was started
	details                                                   details // the newest
	startToClose, heartbeat, scheduleToStart, scheduleToClose time.Duration
}

// fromTemporal makes of a failure the error that the embedded runtime would have
// given.
func fromTemporal(err error, of *ended) error {
	switch e := err.(type) {
	case *temporal.ApplicationError:
		return fromApplication(e, of)
	case *temporal.TimeoutError:
		return fromTimeout(e, of)
	case *temporal.ServerError:
		if cause := errors.Unwrap(e); cause != nil { // which was too long for the server
			return fromTemporal(cause, of)
		}
	case *temporal.PanicError: // of a function that was not registered here
		return &activity.PanicError{Value: e.Error(), Stack: []byte(e.StackTrace())}
	}
	return err
}

func fromApplication(e *temporal.ApplicationError, of *ended) error {
	cause := errors.Unwrap(e)
	var stack, text string
	switch e.Type() {
	case panicType:
		_ = e.Details(&stack)
		p := &activity.PanicError{Value: strings.TrimPrefix(e.Message(), "panic: "), Stack: []byte(stack)}
		if cause != nil { // the value was an error
			value := fromTemporal(cause, of)
			if e.NonRetryable() && !errors.Is(value, activity.ErrCannotResume) { // which is not retried anyway
				value = activity.NonRetryable(value)
			}
			p.Value = value
		}
		return p
	case heartbeatTimeoutType:
		back := newTimeout(activity.TimeoutHeartbeat, of.heartbeat, of)
		_ = e.Details(&stack, &text)
		back.Stack = []byte(stack)
		if text != "" {
			back.LastFailure = errors.New(text)
		}
		return back
	case cannotResumeType:
		return &remoteError{e, activity.ErrCannotResume}
	}
	var back error = &remoteError{e, fromTemporal(cause, of)}
	if s := sentinel(e.Message()); s != nil && cause == nil {
		back = s
	}
	if d := e.NextRetryDelay(); d > 0 {
		back = activity.RetryAfter(back, d)
	}
	if e.NonRetryable() {
		back = activity.NonRetryable(back)
	}
	return back
}

// sentinel is the error of that text.
func sentinel(text string) error {
	for _, s := range sentinels {
		if s.Error() == text {
			return s
		}
	}
	return nil
}

func fromTimeout(e *temporal.TimeoutError, of *ended) *activity.TimeoutError {
	var back *activity.TimeoutError
	switch typ := e.TimeoutType(); {
	case typ == enumspb.TIMEOUT_TYPE_HEARTBEAT:
		back = newTimeout(activity.TimeoutHeartbeat, of.heartbeat, of)
	case typ == enumspb.TIMEOUT_TYPE_START_TO_CLOSE:
		back = newTimeout(activity.TimeoutStartToClose, of.startToClose, of)
	case typ == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START && (of.scheduleToClose == 0 || of.scheduleToStart < of.scheduleToClose):
		back = newTimeout(activity.TimeoutScheduleToStart, of.scheduleToStart, of)
	default: // for which the server also takes the other where only schedule-to-close is given
		back = newTimeout(activity.TimeoutScheduleToClose, of.scheduleToClose, of)
	}
	if before := errors.Unwrap(e); before != nil {
		of := *of
		of.attempt--
		back.LastFailure = oneLevel(fromTemporal(before, &of))
	}
	return back
}

func newTimeout(typ activity.TimeoutType, after time.Duration, of *ended) *activity.TimeoutError {
	return &activity.TimeoutError{ID: of.id, Name: of.name, Type: typ, Attempt: of.attempt, After: after, Details: of.details.framed()}
}

// oneLevel takes the failure before err's off err.
func oneLevel(err error) error {
	if e, ok := err.(*activity.TimeoutError); ok && e.LastFailure != nil {
		c := *e
		c.LastFailure = nil
		return &c
	}
	return err
}

// textOf is err's text without the activity that it names, where that is said already.
func textOf(err error) string {
	text := err.Error()
	if e, ok := err.(*activity.TimeoutError); ok {
		text = strings.TrimPrefix(text, fmt.Sprintf("activity %q (%s): ", e.ID, e.Name))
	}
	return text
}

// A remoteError is an error of a function that ran in a worker: its text, and what
// is known of the errors that it wrapped. [errors.As] finds the
// [*temporal.ApplicationError], whose Type tells errors apart.
type remoteError struct {
	failure *temporal.ApplicationError
	cause   error
}

func (e *remoteError) Error() string { return e.failure.Message() }
func (e *remoteError) Unwrap() error { return e.cause }

func (e *remoteError) As(target any) bool {
	t, ok := target.(**temporal.ApplicationError)
	if ok {
		*t = e.failure
	}
	return ok
}
