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
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/temporal"
)

// These types of failures become errors of package activity at the caller.
const (
	panicType            = "activity.PanicError"
	heartbeatTimeoutType = "activity.TimeoutError"
	cannotResumeType     = "activity.ErrCannotResume"
)

// maxKept is the length to which stacks and other long texts are cut. Of a failure that
// is retried the server keeps 4 KiB; if it is longer, its type is lost.
const maxKept = 1 << 10

func short(text []byte) string {
	return strings.ToValidUTF8(string(text[:min(len(text), maxKept)]), "")
}

// atOnce is the shortest delay until a retry. To a server, zero means that no delay is
// given.
const atOnce = time.Millisecond

// sentinels are recognized by their texts if they are the innermost error.
var sentinels = []error{
	activity.ErrShutdown, activity.ErrAlreadyRunning, activity.ErrDetailsTooLarge, activity.ErrGoexit,
	activity.ErrCannotResume, activity.ErrCheckpointMismatch, activity.ErrPaused,
	context.Canceled, context.DeadlineExceeded,
}

// toTemporal returns an attempt's error as the SDK must report it. If the error says
// nothing about retries, it is returned unchanged.
func toTemporal(err error) error { return convert(err, false) }

// interrupted is toTemporal for an attempt that was paused or reset, or whose worker stops. The
// embedded runtime does not count such an attempt, so the next one starts at once, whatever
// the error says about retries.
func interrupted(err error) error { return convert(err, true) }

func convert(err error, interrupted bool) error {
	if e, ok := err.(*temporal.ApplicationError); ok && !interrupted && sendable(err) {
		return e
	}
	inner := err
	for isMark(inner) {
		inner = errors.Unwrap(inner)
	}
	options := temporal.ApplicationErrorOptions{Cause: errors.Unwrap(inner)}
	text, typ, special := err.Error(), typeOf(inner), false
	switch e := inner.(type) {
	case *temporal.ApplicationError:
		text, typ = e.Message(), e.Type()
		options.NonRetryable, options.NextRetryDelay = e.NonRetryable(), e.NextRetryDelay()
		options.Category, options.Details = e.Category(), detailsOf(e)
	case *activity.PanicError:
		if options.Cause == nil && inner == err && !interrupted && sendable(err) {
			return newPanicError(e)
		}
		typ, special = panicType, true
		options.Details = []any{short(e.Stack)}
	}
	cannotResume, delayed := false, false
	walk(err, func(err error) {
		if err == activity.ErrCannotResume {
			cannotResume, special = true, true
		}
		if e, ok := err.(interface{ NonRetryable() bool }); ok && e.NonRetryable() {
			options.NonRetryable, special = true, true
		}
		if e, ok := err.(interface{ RetryDelay() time.Duration }); ok && !delayed {
			delayed, special = true, true // the outermost delay counts
			if d := e.RetryDelay(); d > 0 {
				options.NextRetryDelay = max(d, atOnce)
			}
		}
	})
	if cannotResume { // a worker of another version may be able to
		options.NonRetryable = false
		if typ != panicType {
			typ = cannotResumeType
		}
	}
	if interrupted {
		options.NonRetryable, options.NextRetryDelay, special = false, atOnce, true
	}
	if !sendable(err) {
		text, special, options.Cause = strings.ToValidUTF8(text, "\uFFFD"), true, nil
	}
	if !special {
		return err
	}
	return temporal.NewApplicationErrorWithOptions(text, typ, options)
}

// newPanicError returns e as the SDK has it. Only a failure from a server becomes such an error.
func newPanicError(e *activity.PanicError) error {
	return temporal.GetDefaultFailureConverter().FailureToError(&failurepb.Failure{
		Message: fmt.Sprint(e.Value), StackTrace: short(e.Stack), Source: "GoSDK",
		FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "PanicError"}},
	})
}

// detailsOf returns the details of e. The SDK does not tell their number, and has no common type
// for those that were given in this process and those that came from a server.
func detailsOf(e *temporal.ApplicationError) (all []any) {
	if !e.HasDetails() {
		return nil
	}
	if d, err := read(func(into ...any) error { return attempted(func() error { return e.Details(into...) }) }); err == nil {
		return d.anys() // from a server
	}
	for {
		one := make([]any, len(all)+1)
		into := make([]any, len(one))
		for i := range one {
			into[i] = &one[i]
		}
		if attempted(func() error { return e.Details(into...) }) != nil {
			return all
		}
		all = one
	}
}

// attempted returns the error of f. The SDK panics if details are of another type than the variable.
func attempted(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return f()
}

// sendable reports whether the SDK can send the texts of err and of all errors that it
// wraps.
func sendable(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if !utf8.ValidString(err.Error()) {
			return false
		}
	}
	return true
}

// walk visits err and the errors that it wraps. It stops at an inner activity's *Error,
// because the retries of that one are over.
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

// isMark reports whether err only adds a statement about retries to another error.
func isMark(err error) bool {
	switch err.(type) {
	case interface{ NonRetryable() bool }, interface{ RetryDelay() time.Duration }:
		inner := errors.Unwrap(err)
		return inner != nil && inner.Error() == err.Error()
	}
	return false
}

// typeOf returns the type that the SDK reports for err. A workflow's RetryPolicy may
// name it.
func typeOf(err error) string {
	t := reflect.TypeOf(err)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

// ended describes the execution that an error is about.
type ended struct {
	id, name                                                  string
	attempt                                                   int     // the last attempt that was started
	details                                                   details // the newest details
	startToClose, heartbeat, scheduleToStart, scheduleToClose time.Duration
}

// fromTemporal returns the error that the embedded runtime would have returned for a
// failure.
func fromTemporal(err error, of *ended) error {
	switch e := err.(type) {
	case *temporal.ApplicationError:
		return fromApplication(e, of)
	case *temporal.TimeoutError:
		return fromTimeout(e, of)
	case *temporal.ServerError:
		if cause := errors.Unwrap(e); cause != nil { // the cause was too long for the server
			return fromTemporal(cause, of)
		}
	case *temporal.PanicError: // of a function that was registered without this package
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
		if cause != nil { // the function panicked with an error
			value := fromTemporal(cause, of)
			if e.NonRetryable() && !errors.Is(value, activity.ErrCannotResume) { // ErrCannotResume is not retried anyway
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

// sentinel returns the error that has the text, or nil.
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
	default: // if only schedule-to-close is given, the server reports schedule-to-start for it
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

// oneLevel returns err without its own LastFailure, so that failures do not pile up.
func oneLevel(err error) error {
	if e, ok := err.(*activity.TimeoutError); ok && e.LastFailure != nil {
		c := *e
		c.LastFailure = nil
		return &c
	}
	return err
}

// textOf returns err's text without the activity that it names, for texts that name it
// already.
func textOf(err error) string {
	text := err.Error()
	if e, ok := err.(*activity.TimeoutError); ok {
		text = strings.TrimPrefix(text, fmt.Sprintf("activity %q (%s): ", e.ID, e.Name))
	}
	return text
}

// A remoteError is an error of a function that ran in a worker. It has the text, and the
// errors of package activity that the original wrapped. [errors.As] finds the
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
