package activity

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"
)

var (
	// ErrShutdown is what Start, Run and Execute return once [Runtime.Shutdown]
	// was called, and the cause with which Shutdown cancels what is running.
	ErrShutdown = errors.New("the activity runtime is shut down")

	// ErrAlreadyRunning refuses a start whose Options.ID is in use in this
	// Runtime: by an activity that has not ended, or by one that has and whose
	// function is still inside [Guard].
	ErrAlreadyRunning = errors.New("an activity with this ID is already running")

	// ErrDetailsTooLarge refuses heartbeat details that encode to more than
	// Config.MaxDetailsSize.
	ErrDetailsTooLarge = errors.New("heartbeat details are too large")

	// ErrCannotResume says that the recorded heartbeat details are not what the
	// function can resume from: they do not decode into what it asks for, or
	// [Range] finds that they would skip work. A function may return it itself. An
	// attempt that ends in it is not retried and does not count, and a stored
	// activity stays interrupted, so that a program that can read the details may
	// resume it.
	ErrCannotResume = errors.New("cannot resume from the recorded heartbeat details")

	// ErrCheckpointMismatch refuses a start whose Options.ID has the checkpoint of
	// another activity: of another Name, or of one that has not completed and had
	// another input.
	ErrCheckpointMismatch = errors.New("the checkpoint of this ID belongs to another activity")

	// ErrGoexit is the error of an attempt whose function called runtime.Goexit, as
	// t.FailNow does. It is not retried.
	ErrGoexit = errors.New("the function called runtime.Goexit")

	// errReturned is the cause of a Context whose function has returned.
	errReturned = fmt.Errorf("activity: the attempt's function has returned (%w)", context.Canceled)
)

// Error says how an activity ended that did not complete. Every error that Run,
// Execute and Wait return for an activity that ran is an *Error.
type Error struct {
	ID, Name   string
	Attempt    int        // the last attempt that was started; zero if none was
	RetryState RetryState // why there is no further attempt
	Err        error      // how the last attempt ended; Unwrap returns it
}

func (e *Error) Error() string {
	when := "in attempt " + strconv.Itoa(e.Attempt)
	if e.Attempt == 0 {
		when = "before its first attempt"
	}
	if e.RetryState == RetryStateCancelRequested {
		return fmt.Sprintf("%s was canceled %s: %s", label(e.ID, e.Name), when, short(e.Err))
	}
	return fmt.Sprintf("%s failed %s, no further attempt (%s): %s", label(e.ID, e.Name), when, e.RetryState, short(e.Err))
}

func (e *Error) Unwrap() error { return e.Err }

// RetryState says why an activity that failed gets no further attempt.
type RetryState int

const (
	_                                RetryState = iota
	RetryStateNonRetryableFailure               // the error was NonRetryable or ErrCannotResume, or RetryPolicy.Retryable said no
	RetryStateMaximumAttemptsReached            // it was the last of RetryPolicy.MaximumAttempts
	RetryStateTimeout                           // a schedule-to-close or schedule-to-start timeout, or the next attempt would start after schedule-to-close
	RetryStateCancelRequested                   // the caller's context ended, Handle.Cancel or Shutdown was called
)

func (s RetryState) String() string {
	return enum("RetryState", int(s), "", "non-retryable failure", "maximum attempts reached", "timeout", "cancel requested")
}

// TimeoutType says which timeout was reached.
type TimeoutType int

const (
	_                      TimeoutType = iota
	TimeoutStartToClose                // Options.StartToCloseTimeout: the attempt took too long
	TimeoutHeartbeat                   // Options.HeartbeatTimeout: no heartbeat for too long
	TimeoutScheduleToStart             // Options.ScheduleToStartTimeout: no slot for too long
	TimeoutScheduleToClose             // Options.ScheduleToCloseTimeout: all attempts together took too long
)

func (t TimeoutType) String() string {
	return enum("TimeoutType", int(t), "", "start-to-close timeout", "heartbeat timeout", "schedule-to-start timeout", "schedule-to-close timeout")
}

// TimeoutError is the error of an attempt that timed out. It is also the cause
// with which that attempt's Context ends.
//
// errors.Is(err, context.DeadlineExceeded) holds for it.
type TimeoutError struct {
	ID, Name string
	Type     TimeoutType
	Attempt  int           // the attempt that timed out; if that got no slot, the one before, or zero
	After    time.Duration // the timeout that was reached

	// Stack is where the function was when it timed out, as runtime.Stack prints
	// it. It is empty if the function was not running, or if taking the stack would
	// have cost too much. The error's text then says so.
	Stack []byte

	// LastFailure is how the attempt before ended. A *TimeoutError here has no
	// LastFailure of its own.
	LastFailure error

	// Details are the heartbeat details that were recorded last, as a
	// [Checkpoint] has them: one value after the other, each as its length in
	// bytes (see [encoding/binary.AppendUvarint]) and that many bytes. If nil,
	// there are none. Codec is what they were encoded with; if nil, the default.
	// [TimeoutError.HeartbeatDetails] reads them.
	Details []byte
	Codec   Codec

	noStack string // the reason, if Stack is empty
}

func (e *TimeoutError) Error() string {
	return label(e.ID, e.Name) + ": " + e.short()
}

// short leaves out which activity it was, for where that is said already.
func (e *TimeoutError) short() string {
	attempt := "attempt " + strconv.Itoa(e.Attempt)
	var s string
	switch e.Type {
	case TimeoutHeartbeat:
		s = fmt.Sprintf("%s: %s had no heartbeat for %s", e.Type, attempt, e.After)
	case TimeoutScheduleToStart:
		s = fmt.Sprintf("%s: attempt %d got no slot of MaxConcurrent within %s", e.Type, e.Attempt+1, e.After)
	case TimeoutScheduleToClose:
		if e.Attempt == 0 {
			attempt = "before its first attempt"
		} else {
			attempt = "in " + attempt
		}
		s = fmt.Sprintf("%s: not done %s after it was scheduled, %s", e.Type, e.After, attempt)
	default:
		s = fmt.Sprintf("%s: %s was not done within %s", e.Type, attempt, e.After)
	}
	if e.Details != nil {
		s += "; the last heartbeat details are kept"
	} else {
		s += "; no heartbeat details were recorded"
	}
	if e.noStack != "" {
		s += "; no stack: " + e.noStack
	}
	if e.LastFailure != nil {
		s += "; the previous attempt: " + short(e.LastFailure)
	}
	return s
}

// Timeout reports true, as net.Error has it.
func (e *TimeoutError) Timeout() bool { return true }

// Is reports whether target is context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// HeartbeatDetails decodes the details that the last heartbeat before the
// timeout recorded, as [Context.HeartbeatDetails] does.
func (e *TimeoutError) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(e.Codec, e.Details, into)
}

// PanicError is the error of an attempt whose function panicked.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // where, as debug.Stack prints it
}

func newPanicError(v any) *PanicError {
	return &PanicError{Value: v, Stack: debug.Stack()}
}

func (e *PanicError) Error() (text string) {
	if err, ok := e.Value.(error); ok {
		return "panic: " + errorText(err)
	}
	defer func() { // fmt passes on the panic of a value that panics with itself
		if recover() != nil {
			text = fmt.Sprintf("panic: (the text of a %T panicked)", e.Value)
		}
	}()
	return fmt.Sprintf("panic: %v", e.Value)
}

// Unwrap returns Value if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// NonRetryable marks an error that no further attempt can mend. An activity
// whose function returns it, or an error that wraps it, fails. It decides for that
// activity only, not for an outer one that passes on the inner one's [*Error]. The
// error's text stays the same. NonRetryable(nil) is nil.
//
// The wrapper has a method NonRetryable() bool, for errors.As.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &nonRetryableError{err}
}

type nonRetryableError struct{ err error }

func (e *nonRetryableError) Error() string      { return errorText(e.err) }
func (e *nonRetryableError) Unwrap() error      { return e.err }
func (e *nonRetryableError) NonRetryable() bool { return true }

// RetryAfter marks an error with the time until the next attempt. It replaces
// the policy's interval once, MaximumInterval and Jitter included. If d is zero or
// negative, the policy's interval stays, so that a server that says "retry after 0",
// or a date that has just passed, does not make the activity spin. Like
// [NonRetryable], it decides only for the activity whose function returns it.
// RetryAfter(nil, d) is nil.
//
// The wrapper has a method RetryDelay() time.Duration, for errors.As.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{err, max(d, 0)}
}

type retryAfterError struct {
	err   error
	delay time.Duration
}

func (e *retryAfterError) Error() string             { return errorText(e.err) }
func (e *retryAfterError) Unwrap() error             { return e.err }
func (e *retryAfterError) RetryDelay() time.Duration { return e.delay }

// canceledError says how a canceled activity ended: the cause, and what its
// function returned.
type canceledError struct {
	cause  error
	result error  // how the last attempt ended; nil if that says no more than cause
	note   string // added to the text
}

func (e *canceledError) Error() string {
	s := short(e.cause)
	if e.result != nil {
		if result := short(e.result); result == s || wraps(e.result, e.cause) {
			s = result
		} else {
			s += "; the last attempt ended with: " + result
		}
	}
	return s + e.note
}

// wraps is errors.Is. A comparison that panics does not hold: the type of an error
// may be comparable, and its value not.
func wraps(err, target error) (ok bool) {
	defer func() { _ = recover() }()
	return errors.Is(err, target)
}

func (e *canceledError) Unwrap() []error {
	if e.result == nil {
		return []error{e.cause}
	}
	return []error{e.cause, e.result}
}

// label is how error texts and logs name an activity.
func label(id, name string) string {
	if id == "" { // it was never given one
		return fmt.Sprintf("activity (%s)", name)
	}
	return fmt.Sprintf("activity %q (%s)", id, name)
}

// short is err's text without the activity that it names, if it is ours.
func short(err error) string {
	switch e := err.(type) {
	case nil:
		return "no error"
	case *TimeoutError:
		if e != nil {
			return e.short()
		}
	}
	return errorText(err)
}

// errorText is err.Error(), which is user code and may panic: that of a nil pointer
// usually does. Every text of an error that is not known to be ours comes from here.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(the Error method of %T panicked)", err)
		}
	}()
	return err.Error()
}

// oneLevel returns err without its LastFailure.
func oneLevel(err error) error {
	e, ok := err.(*TimeoutError)
	if !ok || e == nil || e.LastFailure == nil {
		return err
	}
	c := *e
	c.LastFailure = nil
	return &c
}

// enum gives the name of an enum's value. An empty name is an unset value.
func enum(typ string, v int, names ...string) string {
	if v == 0 {
		return "unset"
	}
	if v > 0 && v < len(names) {
		return names[v]
	}
	return typ + "(" + strconv.Itoa(v) + ")"
}
