package ontemporal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
)

// maxDetailsSize is what a Temporal server takes by default, less what it puts
// around it.
const maxDetailsSize = 2<<20 - 4<<10

const (
	describing = 5 * time.Second  // for asking the server how the attempt before ended
	waiting    = 10 * time.Second // between heartbeats of a blocked attempt without heartbeat timeout
)

var (
	// errCanceled is the cause of a Context that was canceled: by the caller, the
	// workflow, or whoever else may.
	errCanceled = fmt.Errorf("activity: canceled (%w)", context.Canceled)

	// errOver is the cause of one whose attempt the server has ended.
	errOver = errors.New("activity: the server says that the attempt is over: it has timed out there, or was terminated")

	errReturned = fmt.Errorf("activity: the attempt is over, its function has returned (%w)", context.Canceled)
)

// An attempt is one run of an activity's function in a worker, and the Context it
// gets. Its Context ends, with the cause that the embedded runtime has, when
//
//   - the heartbeat deadline comes, which it watches itself;
//   - the SDK's context ends: at the attempt's deadline, or when the answer to a
//     heartbeat says so;
//   - the worker stops.
//
// The first one wins.
type attempt struct {
	context.Context // from which FromContext gives the attempt
	cancel          context.CancelCauseFunc
	sdk             context.Context
	info            activity.Info
	place           *place
	resumed         []json.RawMessage // never written
	unreadable      error             // what the details are, if they are not JSON
	left            chan struct{}     // closed when a timeout, outside Guard, leaves the function behind

	sending sync.Mutex // held by who sends a heartbeat, so that the newest comes last; before mu

	mu         sync.Mutex
	over       bool              // fenced: it has timed out, or the server says so
	told       bool              // Sleep, Idle, Range or Guard returned the cause
	ranged     bool              // BeginRange was called
	progressed bool              // recorded other details than it resumed from
	guards     int               // functions inside Guard now
	latest     []json.RawMessage // details: recorded last, or resumed from
	sent       time.Time         // when the SDK was told last
	beatBy     time.Time         // the heartbeat deadline; zero: none
	granted    time.Duration     // what beatBy was moved by since the last heartbeat
	timer      *time.Timer       // for beatBy
	unwatch    func()            // of what ends the Context
}

var _ activity.Context = (*attempt)(nil)

func newAttempt(sdk context.Context, first []json.RawMessage) *attempt {
	info := sdkactivity.GetInfo(sdk)
	t := &attempt{sdk: sdk, left: make(chan struct{}), info: activity.Info{
		ID: info.ActivityID, Name: info.ActivityType.Name,
		Attempt:     int(info.Attempt),
		ScheduledAt: info.ScheduledTime, StartedAt: info.StartedTime, Deadline: info.Deadline,
		StartToCloseTimeout: info.StartToCloseTimeout, HeartbeatTimeout: info.HeartbeatTimeout,
		ScheduleToCloseTimeout: info.ScheduleToCloseTimeout,
	}}
	if p := info.RetryPolicy; p != nil {
		t.info.MaximumAttempts = int(p.MaximumAttempts)
	}
	t.Context, t.cancel = context.WithCancelCause(context.WithoutCancel(sdk))
	t.Context = activity.NewContext(t.Context, t)
	t.place = enter(placeKey{sdkactivity.GetClient(sdk), info.WorkflowExecution, info.ActivityID}, t)

	t.resumed, t.unreadable = recorded(sdk)
	if t.resumed == nil && t.unreadable == nil {
		t.resumed = first
	}
	t.latest = t.resumed
	if info.ActivityRunID != "" && info.Attempt > 1 {
		t.info.LastFailure = lastFailure(sdk, info)
	}

	stopSDK := context.AfterFunc(sdk, t.sdkEnded)
	stopping, unwatch := sdkactivity.GetWorkerStopChannel(sdk), make(chan struct{})
	if stopping != nil {
		go func() {
			select {
			case <-stopping:
				t.cancel(fmt.Errorf("%w: the Temporal worker stops", activity.ErrShutdown))
			case <-unwatch:
			}
		}()
	}
	t.unwatch = func() {
		stopSDK()
		close(unwatch)
	}
	return t
}

// lastFailure asks the server how the attempt before ended, which the SDK does not
// say. Of an activity that a workflow started it is not asked.
func lastFailure(sdk context.Context, info sdkactivity.Info) error {
	ctx, cancel := context.WithTimeout(sdk, describing)
	defer cancel()
	h := sdkactivity.GetClient(sdk).GetActivityHandle(client.GetActivityHandleOptions{ActivityID: info.ActivityID, RunID: info.ActivityRunID})
	d, err := h.Describe(ctx, client.DescribeActivityOptions{IncludeLastFailure: true})
	if err != nil {
		return fmt.Errorf("how attempt %d ended is not known: %w", info.Attempt-1, err)
	}
	return fromTemporal(d.GetLastFailure(), &ended{
		id: d.ActivityID, name: d.ActivityType, attempt: int(d.Attempt) - 1,
		startToClose: d.StartToCloseTimeout, heartbeat: d.HeartbeatTimeout,
	})
}

// admit waits until nothing of earlier attempts stands in the way.
func (t *attempt) admit() error {
	step := waiting
	if d := t.info.HeartbeatTimeout; d > 0 {
		step = d / 2
	}
	for n := 0; ; n++ {
		changed, why := t.place.blocked()
		if changed == nil {
			return nil
		}
		if n == 0 {
			t.Logger().Error("activity: this attempt is blocked by a function that hangs", "waits_for", why)
			t.send()
		}
		timer := time.NewTimer(step)
		select {
		case <-changed:
		case <-t.Done():
		case <-timer.C:
			t.send()
		}
		timer.Stop()
		if err := causeOf(t); err != nil {
			return err
		}
	}
}

// start begins the watch over heartbeats.
func (t *attempt) start() {
	if len(t.resumed) > 0 && !sdkactivity.HasHeartbeatDetails(t.sdk) {
		t.send() // from now on the server keeps them
	}
	if t.info.HeartbeatTimeout == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.beatBy = time.Now().Add(t.info.HeartbeatTimeout)
	t.timer = time.AfterFunc(t.info.HeartbeatTimeout, t.stalled)
}

// settle decides how the attempt ended, whose function returned err or was left
// behind, and why its Context ended, if it has. Nothing changes that any more.
func (t *attempt) settle(err error) (result, cause error) {
	t.unwatch()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkBeat(time.Now())
	cause = causeOf(t)
	if t.over || err == nil && t.told {
		err = cause
	}
	t.over = true
	t.cancel(errReturned) // for goroutines that the function has left
	if t.timer != nil {
		t.timer.Stop()
	}
	return err, cause
}

// stalled runs when the heartbeat deadline may have come.
func (t *attempt) stalled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkBeat(time.Now())
	if !t.over && t.Err() == nil {
		t.timer.Reset(time.Until(t.beatBy))
	}
}

// checkBeat ends the attempt if its heartbeat deadline has come. If the whole process
// has paused, which shows as a timer or heartbeat that comes late itself, the deadline
// moves on by as much. T.mu is held.
func (t *attempt) checkBeat(now time.Time) {
	if t.beatBy.IsZero() || t.over || t.Err() != nil || now.Before(t.beatBy) {
		return
	}
	timeout := t.info.HeartbeatTimeout
	if late := now.Sub(t.beatBy); late > max(timeout/10, time.Millisecond) && t.granted < timeout {
		late = min(late, timeout-t.granted)
		t.granted += late
		t.beatBy = now.Add(late)
		return
	}
	e := t.timeout(activity.TimeoutHeartbeat, timeout)
	e.Stack = stackOf(t)
	t.fence(e)
}

// timeout is the attempt's end by one of its timeouts.
func (t *attempt) timeout(typ activity.TimeoutType, after time.Duration) *activity.TimeoutError {
	return &activity.TimeoutError{
		ID: t.info.ID, Name: t.info.Name, Type: typ, Attempt: t.info.Attempt, After: after,
		LastFailure: oneLevel(t.info.LastFailure), Details: framed(t.latest),
	}
}

// fence ends the attempt, whether or not its function listens. T.mu is held.
func (t *attempt) fence(cause error) {
	t.over = true
	t.cancel(cause)
	t.leave()
}

// leave leaves the function of a fenced attempt behind, unless it is inside Guard.
// T.mu is held.
func (t *attempt) leave() {
	if t.over && t.guards == 0 {
		select {
		case <-t.left:
		default:
			close(t.left)
		}
	}
}

// sdkEnded ends the Context as the SDK's has ended.
func (t *attempt) sdkEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.sdk.Err() == nil {
		return
	}
	cause := t.sdkCause()
	if errors.Is(cause, context.DeadlineExceeded) || errors.Is(cause, errOver) {
		t.fence(cause)
	} else {
		t.cancel(cause) // the function may take its time
	}
}

// call runs the function. Its frame is what stackOf looks for.
//
//go:noinline
func (t *attempt) call(fn func(activity.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &activity.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	err = fn(t)
	runtime.KeepAlive(t)
	return err
}

// stackOf is where t's function is, unless the dump of all goroutines that tells
// would take long.
func stackOf(t *attempt) []byte {
	if runtime.NumGoroutine() > 4000 {
		return nil
	}
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	frame := fmt.Appendf(nil, "ontemporal.(*attempt).call(%p", t)
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if bytes.Contains(g, frame) {
			return bytes.Clone(g)
		}
	}
	return nil
}

// Deadline implements [context.Context].
func (t *attempt) Deadline() (time.Time, bool) { return t.sdk.Deadline() }

// Info implements [activity.Context].
func (t *attempt) Info() activity.Info { return t.info }

// Logger implements [activity.Context].
func (t *attempt) Logger() *slog.Logger {
	return slog.New(&logHandler{logger: sdkactivity.GetLogger(t.sdk)}).With("id", t.info.ID, "name", t.info.Name, "attempt", t.info.Attempt)
}

// Sleep implements [activity.Context].
func (t *attempt) Sleep(d time.Duration) error { return t.SleepContext(t, d) }

// SleepContext is Sleep that ends when ctx ends, too: see [activity.FromContext].
func (t *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	if ctx.Err() == nil && t.Err() == nil && d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-t.Done():
		}
	}
	if err := t.tell(); err != nil {
		return err
	}
	return causeOf(ctx)
}

// causeOf is the cause of a context that has ended, else nil.
func causeOf(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// tell returns why the attempt has ended, if it has, and notes that the function
// was told.
func (t *attempt) tell() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkBeat(time.Now())
	err := causeOf(t)
	t.told = t.told || err != nil
	return err
}

// Guard implements [activity.Guard].
func (t *attempt) Guard(f func() error) error {
	if err := t.tell(); err != nil {
		return err
	}
	t.mu.Lock()
	if err := causeOf(t); err != nil { // meanwhile
		t.mu.Unlock()
		return err
	}
	t.guards++
	t.place.guard(1)
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.guards--
		t.place.guard(-1)
		t.leave()
	}()
	return f()
}

// BeginRange is for [activity.Range].
func (t *attempt) BeginRange() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := !t.ranged
	t.ranged = true
	return first
}

// Heartbeat implements [activity.Context].
func (t *attempt) Heartbeat(details ...any) error {
	values, failed := t.encode(details)
	t.mu.Lock()
	now := time.Now()
	t.checkBeat(now)
	if t.over {
		defer t.mu.Unlock()
		return context.Cause(t)
	}
	if values != nil {
		t.latest = values
		t.progressed = t.progressed || !slices.EqualFunc(values, t.resumed, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
	}
	if t.info.HeartbeatTimeout > 0 {
		t.beatBy, t.granted = now.Add(t.info.HeartbeatTimeout), 0
	}
	send := t.Err() == nil && (values != nil || now.Sub(t.sent) >= t.quiet())
	if send {
		t.sent = now
	}
	t.mu.Unlock()
	if send {
		t.send()
	}
	if err := causeOf(t); err != nil {
		return err
	}
	return failed
}

// send tells the SDK that the attempt is alive and, since it forgets them else, what
// the newest details are.
func (t *attempt) send() {
	t.sending.Lock()
	defer t.sending.Unlock()
	t.mu.Lock()
	latest := t.latest
	t.mu.Unlock()
	sdkactivity.RecordHeartbeat(t.sdk, anys(latest)...)
	t.sdkEnded() // the answer may have said so
}

// quiet is how long heartbeats without details may be kept from the SDK, which
// would encode the last details anew for each.
func (t *attempt) quiet() time.Duration {
	if d := t.info.HeartbeatTimeout; d > 0 {
		return d / 20
	}
	return time.Second
}

// encode gives nil for a heartbeat without details.
func (t *attempt) encode(details []any) ([]json.RawMessage, error) {
	if len(details) == 0 || len(details) == 1 && details[0] == nil {
		return nil, nil
	}
	values, err := encode(details)
	if err != nil {
		err = activity.NonRetryable(fmt.Errorf("%s: this heartbeat's details are not recorded, the earlier ones are kept: %w", t, err))
	}
	return values, err
}

// HeartbeatDetails implements [activity.Context].
func (t *attempt) HeartbeatDetails(into ...any) (bool, error) {
	found, err := false, t.unreadable
	if err == nil {
		found, err = activity.Checkpoint{Details: framed(t.resumed)}.HeartbeatDetails(nil, into...)
	}
	if err != nil {
		err = activity.NonRetryable(fmt.Errorf("%s cannot resume: %w", t, err))
	}
	return found, err
}

func (t *attempt) String() string {
	return fmt.Sprintf("activity %q (%s): attempt %d", t.info.ID, t.info.Name, t.info.Attempt)
}
