package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservicemock/v1"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
)

const (
	callTimeout = 5 * time.Second  // for calls of the server that an attempt can do without
	maxPulse    = 10 * time.Second // the longest time between two heartbeats of the worker's own
	maxQuiet    = time.Second      // the longest time for which heartbeats without details are kept from the SDK
)

var (
	// errCanceled is the cause of a Context that was canceled: by the caller, by the
	// workflow or by an operator.
	errCanceled = fmt.Errorf("activity: canceled (%w)", context.Canceled)

	// errOver is the cause of a Context whose attempt the server has ended.
	errOver = errors.New("activity: the attempt is over, the server has timed it out or terminated it")

	// errStops is the cause of a Context whose worker stops.
	errStops = fmt.Errorf("%w: the Temporal worker stops", activity.ErrShutdown)

	// errReturned is the cause of a Context whose function has returned.
	errReturned = fmt.Errorf("activity: the attempt's function has returned (%w)", context.Canceled)
)

// An attempt is one run of an activity's function in a worker, and the Context that
// the function gets. Its Context ends, with the cause that the embedded runtime has, if
//
//   - a deadline is reached, which the attempt watches itself;
//   - the SDK's context ends, because the answer to a heartbeat says so;
//   - the worker stops.
//
// The first cause wins. The attempt's heartbeats tell the server that the worker is
// alive. They are sent while the function is silent, too, because this worker decides
// whether the function has stalled, not the server.
type attempt struct {
	context.Context // FromContext finds the attempt in it
	cancel          context.CancelCauseFunc
	sdk             context.Context
	sdkInfo         sdkactivity.Info
	info            activity.Info
	place           *place
	dumps           *dumps
	resumed         details       // the details that the attempt resumes from
	grace           time.Duration // Options.CancelGrace; zero in a workflow's activity, which has until its deadline
	left            chan struct{} // closed when the function is left behind
	unwatch         func()        // stops watching the SDK's context and the worker

	// sending is held while a heartbeat is sent, so that the newest arrives last. It is
	// locked before mu.
	sending sync.Mutex

	mu sync.Mutex // guards the fields below; methods that end in Locked need it

	over       bool // the attempt is fenced: timed out, ended by the server, or settled
	settled    bool // the outcome is decided
	told       bool // Sleep, Idle, Range or Guard has returned the cause
	ranged     bool // BeginRange was called
	recorded   bool // details were recorded
	progressed bool // the recorded details differ from those that the attempt resumed from

	// silent means that something else has ended the SDK's context. The end of the
	// attempt could not be reported then, so no heartbeats of the worker's own are sent.
	silent bool

	guards   int         // the functions inside Guard
	latest   details     // the details recorded last, or resumed from
	sent     time.Time   // the last heartbeat that the SDK got
	waiting  int         // the heartbeats in flight
	pulseAt  time.Time   // the next heartbeat of the worker's own
	beat     time.Time   // the function's last heartbeat, or its start
	beatBy   time.Time   // the heartbeat deadline; zero if there is none
	returnBy time.Time   // when a canceled or paused function is left behind; zero before that, and if it has no limit
	timer    *time.Timer // the timer of the next deadline or heartbeat; nil before start
}

func newAttempt(sdk context.Context, start start, dumps *dumps) (*attempt, error) {
	info := sdkactivity.GetInfo(sdk)
	t := &attempt{sdk: sdk, sdkInfo: info, dumps: dumps, left: make(chan struct{}), info: activity.Info{
		ID: info.ActivityID, Name: info.ActivityType.Name,
		Attempt:     int(info.Attempt),
		ScheduledAt: info.ScheduledTime, StartedAt: info.StartedTime, Deadline: info.Deadline,
		StartToCloseTimeout: info.StartToCloseTimeout, HeartbeatTimeout: info.HeartbeatTimeout,
		ScheduleToCloseTimeout: info.ScheduleToCloseTimeout,
	}}
	if p := info.RetryPolicy; p != nil {
		t.info.MaximumAttempts = int(p.MaximumAttempts)
	}
	var err error
	if t.resumed, err = recorded(sdk); err != nil {
		return nil, fmt.Errorf("%s: cannot read its heartbeat details: %w", t, err)
	}
	if t.resumed == nil {
		t.resumed = fromJSON(start.Details)
	}
	t.latest = t.resumed
	if len(start.Header) > 0 {
		t.info.Header = start.Header
	}
	if t.grace = start.CancelGrace; t.grace == 0 && info.ActivityRunID != "" {
		t.grace = defaultCancelGrace
	}
	if info.ActivityRunID != "" && info.Attempt > 1 {
		t.info.LastFailure = oneLevel(t.lastFailure())
	}
	t.Context, t.cancel = context.WithCancelCause(context.WithoutCancel(sdk))
	t.Context = activity.NewContext(t.Context, t)
	t.place = enter(placeKey{sdkactivity.GetClient(sdk), info.WorkflowExecution, info.ActivityID}, t)
	t.watch()
	return t, nil
}

// lastFailure asks the server how the attempt before ended, because the SDK does not
// say. The server cannot answer that for an activity that a workflow started.
func (t *attempt) lastFailure() error {
	ctx, cancel := context.WithTimeout(t.sdk, callTimeout)
	defer cancel()
	h := sdkactivity.GetClient(t.sdk).GetActivityHandle(client.GetActivityHandleOptions{ActivityID: t.info.ID, RunID: t.sdkInfo.ActivityRunID})
	d, err := h.Describe(ctx, client.DescribeActivityOptions{IncludeLastFailure: true})
	if err != nil {
		return fmt.Errorf("cannot find out how attempt %d ended: %w", t.info.Attempt-1, err)
	}
	return lastFailure(d, t.resumed)
}

// watch ends the Context when the SDK's context ends or the worker stops.
func (t *attempt) watch() {
	unwatchSDK := context.AfterFunc(t.sdk, t.sdkEnded)
	unwatched := make(chan struct{})
	t.unwatch = func() {
		unwatchSDK()
		close(unwatched)
	}
	stopping := sdkactivity.GetWorkerStopChannel(t.sdk)
	select {
	case <-stopping:
		t.cancel(errStops)
		return
	default:
	}
	if stopping != nil {
		go func() {
			select {
			case <-stopping:
				t.cancel(errStops)
			case <-unwatched:
			}
		}()
	}
}

// admit waits until no function of an earlier attempt keeps this one from starting. The
// worker's heartbeats show meanwhile that the attempt is alive.
func (t *attempt) admit() error {
	for n := 0; ; n++ {
		t.sdkEnded()
		if err := causeOf(t); err != nil {
			return err
		}
		changed, why := t.place.blocked()
		if changed == nil {
			return nil
		}
		if n == 0 {
			t.Logger().Error("activity: this attempt is blocked by a function that hangs", "waiting_for", why)
		}
		t.send(t.sendDirectly)
		timer := time.NewTimer(t.pulse())
		select {
		case <-changed:
		case <-t.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// start begins to watch the deadlines.
func (t *attempt) start() {
	if len(t.resumed) > 0 && !sdkactivity.HasHeartbeatDetails(t.sdk) {
		t.send(t.bySDK) // so that the server has them for the next attempt
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.pulseAt = now.Add(t.pulse())
	t.extendLocked(now)
	t.timer = time.AfterFunc(t.nextLocked(now), t.tick)
}

// nextLocked returns the time until the next deadline or heartbeat.
func (t *attempt) nextLocked(now time.Time) time.Duration {
	at := t.pulseAt
	if t.over { // only Guard still needs heartbeats
		return at.Sub(now)
	}
	deadlines := []time.Time{t.info.Deadline, t.returnBy}
	if t.watchedLocked() {
		deadlines = append(deadlines, t.beatBy)
	}
	for _, d := range deadlines {
		if !d.IsZero() && d.Before(at) {
			at = d
		}
	}
	return at.Sub(now)
}

// watchedLocked reports whether the heartbeat deadline counts. It does not count for a
// canceled or paused function, which has until returnBy, nor while a heartbeat is in flight.
func (t *attempt) watchedLocked() bool { return !t.beatBy.IsZero() && t.Err() == nil && t.waiting == 0 }

// extendLocked moves the heartbeat deadline.
func (t *attempt) extendLocked(now time.Time) {
	t.beat = now
	if d := t.info.HeartbeatTimeout; d > 0 {
		t.beatBy = now.Add(d)
	}
}

// holdsLocked reports whether the report of a stall is held back, because the function is
// inside Guard.
func (t *attempt) holdsLocked(now time.Time) bool {
	return t.guards > 0 && isStall(context.Cause(t)) && now.Before(t.info.Deadline)
}

func isStall(err error) bool {
	e, ok := err.(*activity.TimeoutError)
	return ok && e.Type == activity.TimeoutHeartbeat
}

// pulse returns the time between two heartbeats of the worker's own. They bypass the SDK,
// which holds heartbeats back for 80 % of the timeout. The server counts from the last
// heartbeat that it received, and must not find a stall before the worker does. The
// answers also report cancellations.
func (t *attempt) pulse() time.Duration {
	if d := t.info.HeartbeatTimeout; d > 0 {
		return min(d/2, maxPulse)
	}
	return maxPulse
}

// tick does what is due.
func (t *attempt) tick() {
	t.mu.Lock()
	now := time.Now()
	t.checkLocked(now)
	if t.settled || t.over && !t.holdsLocked(now) {
		t.mu.Unlock()
		return
	}
	due := !now.Before(t.pulseAt)
	if due {
		t.pulseAt = now.Add(t.pulse())
	}
	t.timer.Reset(t.nextLocked(now))
	due = due && !t.silent
	t.mu.Unlock()
	if due {
		t.send(t.sendDirectly)
	}
}

// checkLocked ends the attempt if one of its deadlines has been reached. A pause of the
// whole process does not move them, because the server and other workers have not paused.
func (t *attempt) checkLocked(now time.Time) {
	due := func(deadline time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }
	closed := due(t.info.Deadline)
	switch {
	case t.over:
	case t.watchedLocked() && due(t.beatBy) && (!closed || t.beatBy.Before(t.info.Deadline)):
		t.fenceLocked(t.timeoutLocked(activity.TimeoutHeartbeat, t.info.HeartbeatTimeout))
	case closed:
		t.fenceLocked(t.closedLocked())
	case due(t.returnBy):
		t.fenceLocked(context.Cause(t))
	}
}

// closedLocked returns the timeout of the attempt's deadline: start-to-close or
// schedule-to-close, whichever is earlier.
func (t *attempt) closedLocked() error {
	if d := t.info.ScheduleToCloseTimeout; d > 0 && !t.info.Deadline.Before(t.info.ScheduledAt.Add(d)) {
		return t.timeoutLocked(activity.TimeoutScheduleToClose, d)
	}
	return t.timeoutLocked(activity.TimeoutStartToClose, t.info.StartToCloseTimeout)
}

func (t *attempt) timeoutLocked(typ activity.TimeoutType, after time.Duration) error {
	return &activity.TimeoutError{
		ID: t.info.ID, Name: t.info.Name, Type: typ, Attempt: t.info.Attempt, After: after,
		Stack: t.dumps.stack(t, t.beat), LastFailure: oneLevel(t.info.LastFailure), Details: t.latest.framed(),
	}
}

// fenceLocked ends the attempt, whether or not its function returns.
func (t *attempt) fenceLocked(cause error) {
	t.over = true
	t.cancel(cause)
	t.leaveLocked()
}

// leaveLocked leaves the function of a fenced attempt behind, unless it is inside Guard.
func (t *attempt) leaveLocked() {
	if t.over && t.guards == 0 {
		select {
		case <-t.left:
		default:
			close(t.left)
		}
	}
}

// sdkEnded ends the Context if the SDK's context has ended for good.
func (t *attempt) sdkEnded() {
	switch t.sdk.Err() {
	case context.DeadlineExceeded:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.checkLocked(time.Now()); !t.over {
			t.fenceLocked(t.closedLocked())
		}
	case context.Canceled:
		t.heard(context.Cause(t.sdk))
	}
}

// heard ends the Context if that is what the answer to a heartbeat, or the cause of the
// SDK's context, says. An outage of the server ends the SDK's context, but not the
// attempt: the deadlines decide, and the heartbeats bypass the SDK from then on.
func (t *attempt) heard(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var (
		canceled *temporal.CanceledError
		notFound *serviceerror.NotFound
		trouble  serviceerror.ServiceError
	)
	switch {
	case t.over || cause == nil:
	case errors.As(cause, &canceled):
		t.stopLocked(errCanceled)
	case errors.Is(cause, sdkactivity.ErrActivityPaused):
		if !t.isLast() {
			t.stopLocked(activity.ErrPaused)
		}
	case errors.As(cause, &notFound):
		t.fenceLocked(fmt.Errorf("%w: %w", errOver, cause))
	case errors.As(cause, &trouble), errors.Is(cause, context.DeadlineExceeded):
	case errors.Is(cause, worker.ErrWorkerShutdown):
		t.cancel(errStops)
		t.silent = true
	default:
		t.cancel(fmt.Errorf("activity: Temporal has ended the attempt: %w", cause))
		t.silent = true
	}
}

// stopLocked ends the Context. The function has until returnBy to return.
func (t *attempt) stopLocked(cause error) {
	t.cancel(cause)
	if t.grace > 0 && t.returnBy.IsZero() {
		t.returnBy = time.Now().Add(t.grace)
		if t.timer != nil {
			t.timer.Reset(0)
		}
	}
}

// isLast reports whether the attempt is the last of MaximumAttempts. The server counts an
// attempt that it has paused, so a pause would make such an activity fail.
func (t *attempt) isLast() bool { return isLast(t.info.Attempt, t.info.MaximumAttempts) }

func isLast(attempt, maximum int) bool { return maximum > 0 && attempt >= maximum }

// send sends a heartbeat with the newest details, because the server forgets details
// that a heartbeat leaves out. Once the attempt is settled, it sends nothing.
func (t *attempt) send(by func()) {
	t.sending.Lock()
	defer t.sending.Unlock()
	t.mu.Lock()
	late := t.settled
	t.mu.Unlock()
	if !late {
		by()
	}
}

// bySDK gives a heartbeat to the SDK, which may hold it back. Once the SDK's context has
// ended, the heartbeat bypasses the SDK.
func (t *attempt) bySDK() {
	if t.sdk.Err() != nil {
		t.sendDirectly()
		return
	}
	sdkactivity.RecordHeartbeat(t.sdk, t.newest().anys()...)
	t.sdkEnded() // the answer may have ended it
}

// flush sends the details of an attempt that has failed, because the SDK may still hold
// them back.
func (t *attempt) flush() {
	t.mu.Lock()
	recorded := t.recorded
	t.mu.Unlock()
	if recorded {
		t.sending.Lock()
		defer t.sending.Unlock()
		t.sendDirectly()
	}
}

// sendDirectly sends a heartbeat that bypasses the SDK.
func (t *attempt) sendDirectly() {
	c, info := sdkactivity.GetClient(t.sdk), &t.sdkInfo
	// The client of the SDK's test environment ends the process when it is used.
	if _, test := c.WorkflowService().(*workflowservicemock.MockWorkflowServiceClient); test {
		sdkactivity.RecordHeartbeat(t.sdk, t.newest().anys()...)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), callTimeout)
	defer cancel()
	o := client.RecordActivityHeartbeatOptions{
		TaskToken: info.TaskToken, Details: t.newest().anys(), Namespace: info.Namespace,
		WorkflowID: info.WorkflowExecution.ID, ActivityType: t.info.Name, TaskQueue: info.TaskQueue,
	}
	if info.WorkflowType != nil {
		o.WorkflowType = info.WorkflowType.Name
	}
	err := c.RecordActivityHeartbeatWithOptions(ctx, o)
	if err != nil && !temporal.IsCanceledError(err) {
		t.Logger().Warn("activity: cannot send a heartbeat to the server", "error", err)
	}
	t.heard(err)
}

func (t *attempt) newest() details {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// settle decides the outcome of an attempt whose function returned err or was left
// behind. It returns the outcome, and the cause if the Context had ended. The outcome
// does not change any more.
func (t *attempt) settle(err error) (result, cause error) {
	t.unwatch()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkLocked(time.Now())
	cause = causeOf(t)
	if t.over || err == nil && t.told {
		err = cause
	}
	t.over, t.settled = true, true
	t.cancel(errReturned) // the function may have left goroutines behind
	if t.timer != nil {
		t.timer.Stop()
	}
	return err, cause
}

// call runs the function. It must not be inlined, and keeps t alive: dumps finds the
// attempt's goroutine by this frame's receiver.
//
//go:noinline
func (t *attempt) call(fn func(activity.Context) error) (err error) {
	defer func() {
		v := recover()
		if p, ok := v.(*activity.PanicError); ok && p != nil { // a body of a RangeParallel panicked, where its Stack says
			err = p
		} else if v != nil {
			err = &activity.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	err = fn(t)
	runtime.KeepAlive(t)
	return err
}

// causeOf returns the cause of a context that has ended. It is nil before.
func causeOf(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
