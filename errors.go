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
	// ErrShutdown is returned by Start, Run and Execute once [Runtime.Drain] or
	// [Runtime.Shutdown] was called. It is also the error with which Drain asks functions to
	// stop, and the cause with which Shutdown cancels running activities.
	ErrShutdown = errors.New("the activity runtime is shut down")

	// ErrAlreadyRunning refuses a start whose Options.ID is in use in this Runtime: by an
	// activity that has not ended, by an ended one whose function is still inside [Guard],
	// or by [Runtime.Forget]. If the Store has failed to save a start, the ID stays in use
	// until its previous checkpoint is restored.
	ErrAlreadyRunning = errors.New("an activity with this ID is already running")

	// ErrNotFound is returned for an ID with which no activity runs.
	ErrNotFound = errors.New("no activity with this ID is running")

	// ErrPaused is the cause with which [Runtime.Pause] ends the Context of a running attempt.
	ErrPaused = errors.New("the activity is paused")

	// ErrDetailsTooLarge refuses heartbeat details that encode to more than
	// Config.MaxDetailsSize.
	ErrDetailsTooLarge = errors.New("heartbeat details are too large")

	// ErrCannotResume is the error of an attempt that cannot resume from the recorded
	// heartbeat details: they do not decode into the function's types, or [Range] would
	// skip work. A function may also return it itself. The attempt is not retried and does
	// not count. A stored activity stays interrupted, so that another version of the
	// program, which can read the details, may resume it.
	ErrCannotResume = errors.New("cannot resume from the recorded heartbeat details")

	// ErrCheckpointMismatch refuses a start whose Options.ID has a checkpoint of another
	// activity, that is, one with another Name or another input. Options.AcceptNewInput
	// allows another input.
	ErrCheckpointMismatch = errors.New("the checkpoint of this ID belongs to another activity")

	// ErrStoreLost is the cause with which stored activities end when the Store has lost its
	// ownership, for example to another process. Further starts with an Options.ID are refused
	// with it. Nothing of these activities is written any more: the new owner continues them from
	// what the Store holds. To run stored activities again, restart the program, or open a new Store and
	// make a new Runtime.
	ErrStoreLost = errors.New("the Store has lost its ownership")

	// ErrGoexit is the error of an attempt whose function called runtime.Goexit, as
	// t.FailNow does. It is not retried.
	ErrGoexit = errors.New("the function called runtime.Goexit")

	// errReturned is the cause of an attempt's Context once its function has returned.
	errReturned = fmt.Errorf("activity: the attempt's function has returned (%w)", context.Canceled)
)

// Error is the error of an activity that did not complete. If Run, Execute or Wait returns
// an error for an activity that was started, it is an *Error, except the cause of a ctx
// given to Wait.
type Error struct {
	ID, Name   string
	Attempt    int        // number of the last attempt that was started; zero if none was
	RetryState RetryState // reason why there is no further attempt
	Err        error      // error of the last attempt, or the cause of the cancellation; returned by Unwrap
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

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// RetryState is the reason why an activity gets no further attempt.
type RetryState int

const (
	_                                RetryState = iota
	RetryStateNonRetryableFailure               // the error was NonRetryable, ErrGoexit or ErrCannotResume, or RetryPolicy.Retryable reported false
	RetryStateMaximumAttemptsReached            // the attempt was the last of RetryPolicy.MaximumAttempts
	RetryStateTimeout                           // schedule-to-close or schedule-to-start was reached, or would be before the next attempt
	RetryStateCancelRequested                   // the caller's context ended, or Handle.Cancel, Runtime.Cancel, Drain or Shutdown was called
)

// String returns the reason in lower case, such as "maximum attempts reached".
func (s RetryState) String() string {
	return enum("RetryState", int(s), "", "non-retryable failure", "maximum attempts reached", "timeout", "cancel requested")
}

// TimeoutType tells the four timeouts apart.
type TimeoutType int

const (
	_                      TimeoutType = iota
	TimeoutStartToClose                // Options.StartToCloseTimeout: the attempt took too long
	TimeoutHeartbeat                   // Options.HeartbeatTimeout: no heartbeat for too long
	TimeoutScheduleToStart             // Options.ScheduleToStartTimeout: no slot for too long
	TimeoutScheduleToClose             // Options.ScheduleToCloseTimeout: all attempts together took too long
)

// String returns the name of the timeout, such as "heartbeat timeout".
func (t TimeoutType) String() string {
	return enum("TimeoutType", int(t), "", "start-to-close timeout", "heartbeat timeout", "schedule-to-start timeout", "schedule-to-close timeout")
}

// TimeoutError is the error of an attempt that timed out. It is also the cause of that
// attempt's Context. errors.Is reports true for a *TimeoutError and
// context.DeadlineExceeded.
type TimeoutError struct {
	ID, Name string
	Type     TimeoutType
	Attempt  int           // number of the attempt that timed out; during a wait, of the attempt before, or zero
	After    time.Duration // the timeout that was reached

	// Stack is the stack of the function's goroutine at the timeout, as runtime.Stack
	// prints it. If that waits in [RangeParallel], the stacks of the bodies come first. It is empty if the function was not running, or if taking the stack would
	// have cost too much. The error's text then has the reason.
	Stack []byte

	// LastFailure is the error of the last attempt that failed before. If nil, none did. A
	// *TimeoutError here has no LastFailure of its own.
	LastFailure error

	// Details are the heartbeat details that were recorded last, in the form that a
	// [Checkpoint] has: for each value its length in bytes (see
	// [encoding/binary.AppendUvarint]), and then that many bytes. If nil, there are none.
	// [TimeoutError.HeartbeatDetails] decodes them.
	Details []byte
	// Codec is the Codec that encoded Details. If nil, it is the default Codec.
	Codec Codec

	noStack string // reason why Stack is empty
}

func (e *TimeoutError) Error() string {
	return label(e.ID, e.Name) + ": " + e.short()
}

// short returns the error's text without the activity, for texts that name it already.
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

// Timeout reports true. It is the method of net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// Is reports whether target is context.DeadlineExceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// HeartbeatDetails decodes the details that were recorded last before the timeout, as
// [Context.HeartbeatDetails] does.
func (e *TimeoutError) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(e.Codec, e.Details, into)
}

// PanicError is the error of an attempt whose function panicked.
type PanicError struct {
	Value any    // argument of panic
	Stack []byte // stack of the goroutine that panicked, as debug.Stack prints it
}

// newPanicError must be called by the deferred function that has recovered v, because the
// stack still has the frames of the panic there.
func newPanicError(v any) *PanicError {
	if p, ok := v.(*PanicError); ok && p != nil { // a body of a RangeParallel panicked, where its Stack says
		return p
	}
	return &PanicError{Value: v, Stack: debug.Stack()}
}

func (e *PanicError) Error() (text string) {
	if err, ok := e.Value.(error); ok {
		return "panic: " + errorText(err)
	}
	// fmt catches panics of a value's methods, but not if the panic's own value panics
	// again when it is printed.
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("panic: (the text of a %T panicked)", e.Value)
		}
	}()
	return fmt.Sprintf("panic: %v", e.Value)
}

// Unwrap returns Value if it is an error, and otherwise nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// NonRetryable returns an error that wraps err, and that is not retried. If a function
// returns it, or an error that wraps it, the activity fails. The text of the error is that
// of err. An outer activity whose function returns the inner one's [*Error] is still
// retried. NonRetryable(nil) returns nil.
//
// The returned error has a method NonRetryable() bool. An error of another type that has
// this method, and whose method reports true, is not retried either.
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

// RetryAfter returns an error that wraps err, and after which the next attempt starts d
// later. d replaces the interval of the RetryPolicy once, including MaximumInterval and
// Jitter. If d is zero or negative, the policy's interval stays. So an activity does not
// spin if a server says "retry after 0" or names a time that has just passed. Like
// [NonRetryable], it has no effect on an outer activity. RetryAfter(nil, d) returns nil.
//
// The returned error has a method RetryDelay() time.Duration. An error of another type
// that has this method has the same effect.
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

// canceledError is the error of a canceled activity. It wraps the cause of the cancellation
// and the error of the last attempt.
type canceledError struct {
	cause  error
	result error  // error of the last attempt; nil if it says no more than cause
	note   string // appended to the text
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

// wraps is errors.Is for user errors. It reports false if that panics: an Is or Unwrap
// method may, and so does the comparison of two errors of a comparable type whose values
// cannot be compared.
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

// label returns the name of an activity for errors and logs.
func label(id, name string) string {
	if id == "" { // not started, and without an Options.ID
		return fmt.Sprintf("activity (%s)", name)
	}
	return fmt.Sprintf("activity %q (%s)", id, name)
}

// short returns err's text, without the activity if err is a *TimeoutError.
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

// errorText returns err.Error(). If that panics, as it usually does for a nil pointer, it
// returns a text that says so. Error is user code, so every text of an error that may not
// be the package's own must come from here.
func errorText(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("(the Error method of %T panicked)", err)
		}
	}()
	return err.Error()
}

// oneLevel returns err without its LastFailure, if it is a *TimeoutError. Otherwise a long
// series of timeouts would keep a chain of all their errors.
func oneLevel(err error) error {
	e, ok := err.(*TimeoutError)
	if !ok || e == nil || e.LastFailure == nil {
		return err
	}
	c := *e
	c.LastFailure = nil
	return &c
}

// enum returns names[v], "unset" for 0, and typ(v) for a value without a name.
func enum(typ string, v int, names ...string) string {
	if v == 0 {
		return "unset"
	}
	if v > 0 && v < len(names) {
		return names[v]
	}
	return typ + "(" + strconv.Itoa(v) + ")"
}
