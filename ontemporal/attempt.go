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
	asking   = 5 * time.Second  // what an attempt waits for an answer of the server that it can do without
	maxPulse = 10 * time.Second // between heartbeats of the worker's own
	maxQuiet = time.Second      // between heartbeats without details that the SDK gets, and may hold back
)

var (
	// errCanceled is the cause of a Context that was canceled: by the caller, the
	// workflow, or whoever else may.
	errCanceled = fmt.Errorf("activity: canceled (%w)", context.Canceled)

	// errOver is the cause of one whose attempt the server has ended.
	errOver = errors.New("activity: the server says that the attempt is over: it has timed out there, or was terminated")

	// errStops is the cause of one whose worker stops.
	errStops = fmt.Errorf("%w: the Temporal worker stops", activity.ErrShutdown)

	errReturned = fmt.Errorf("activity: the attempt is over, its function has returned (%w)", context.Canceled)
)

// An attempt is one run of an activity's function in a worker, and the Context it
// gets. Its Context ends, with the cause that the embedded runtime has, when
//
//   - a deadline comes, which it watches itself;
//   - the SDK's context ends, when the answer to a heartbeat says so;
//   - the worker stops.
//
// The first one wins. To the server the attempt's heartbeats say that the worker is
// alive: it sends them too while the function is silent, since whether that has
// stalled is decided here.
type attempt struct {
	context.Context // from which FromContext gives the attempt
	cancel          context.CancelCauseFunc
	sdk             context.Context
	sdkInfo         sdkactivity.Info
	info            activity.Info
	place           *place
	dumps           *dumps
	resumed         details       // what it resumes from
	grace           time.Duration // Options.CancelGrace; 0: a workflow's activity, until its deadline
	left            chan struct{} // closed when a timeout, outside Guard, leaves the function behind
	unwatch         func()        // of the SDK's context and the worker

	sending sync.Mutex // held by who sends a heartbeat, so that the newest comes last; before mu

	mu         sync.Mutex
	over       bool        // fenced: it has timed out, or the server says so, or it is settled
	settled    bool        // how it ended is decided
	told       bool        // Sleep, Idle, Range or Guard returned the cause
	ranged     bool        // BeginRange was called
	recorded   bool        // details
	progressed bool        // recorded other details than it resumed from
	guards     int         // functions inside Guard now
	latest     details     // recorded last, or resumed from
	sent       time.Time   // when the SDK got a heartbeat last
	waiting    int         // heartbeats that wait for the server now
	pulseAt    time.Time   // when the worker sends the next of its own
	beat       time.Time   // the last heartbeat, or the start
	beatBy     time.Time   // the heartbeat deadline; zero: none
	returnBy   time.Time   // when a canceled function is left behind; zero: it is not canceled, or may take its time
	silent     bool        // somebody has ended the SDK's context: nobody could tell the server of an end any more
	timer      *time.Timer // for the next deadline or heartbeat; nil before start
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
		return nil, fmt.Errorf("%s: its heartbeat details cannot be read: %w", t, err)
	}
	if t.resumed == nil {
		t.resumed = fromJSON(start.Details)
	}
	t.latest = t.resumed
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

// lastFailure asks the server how the attempt before ended, which the SDK does not
// say. Of an activity that a workflow started it cannot be asked so.
func (t *attempt) lastFailure() error {
	ctx, cancel := context.WithTimeout(t.sdk, asking)
	defer cancel()
	h := sdkactivity.GetClient(t.sdk).GetActivityHandle(client.GetActivityHandleOptions{ActivityID: t.info.ID, RunID: t.sdkInfo.ActivityRunID})
	d, err := h.Describe(ctx, client.DescribeActivityOptions{IncludeLastFailure: true})
	if err != nil {
		return fmt.Errorf("how attempt %d ended is not known: %w", t.info.Attempt-1, err)
	}
	return lastFailure(d, t.resumed)
}

// watch ends the Context with the SDK's, and when the worker stops.
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

// admit waits until nothing of earlier attempts stands in the way.
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
			t.Logger().Error("activity: this attempt is blocked by a function that hangs", "waits_for", why)
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

// start begins the watch over the deadlines.
func (t *attempt) start() {
	if len(t.resumed) > 0 && !sdkactivity.HasHeartbeatDetails(t.sdk) {
		t.send(t.bySDK) // from now on the server keeps them
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.pulseAt = now.Add(t.pulse())
	t.extend(now)
	t.timer = time.AfterFunc(t.next(now), t.tick)
}

// next is the time until there is something to do. T.mu is held.
func (t *attempt) next(now time.Time) time.Duration {
	at := t.pulseAt
	if t.over { // it holds on
		return at.Sub(now)
	}
	deadlines := []time.Time{t.info.Deadline, t.returnBy}
	if t.watched() {
		deadlines = append(deadlines, t.beatBy)
	}
	for _, d := range deadlines {
		if !d.IsZero() && d.Before(at) {
			at = d
		}
	}
	return at.Sub(now)
}

// watched reports whether the heartbeat deadline counts: a canceled function may take
// its time, and one whose heartbeat waits for the server is not silent. T.mu is held.
func (t *attempt) watched() bool { return !t.beatBy.IsZero() && t.Err() == nil && t.waiting == 0 }

// extend notes a heartbeat. T.mu is held.
func (t *attempt) extend(now time.Time) {
	t.beat = now
	if d := t.info.HeartbeatTimeout; d > 0 {
		t.beatBy = now.Add(d)
	}
}

// holds reports whether the server is to wait for the report of a stall, since the
// function is inside Guard. T.mu is held.
func (t *attempt) holds(now time.Time) bool {
	return t.guards > 0 && isStall(context.Cause(t)) && now.Before(t.info.Deadline)
}

func isStall(err error) bool {
	e, ok := err.(*activity.TimeoutError)
	return ok && e.Type == activity.TimeoutHeartbeat
}

// pulse is the time between heartbeats that the worker sends on its own, past the SDK,
// which holds heartbeats back for 80 % of the timeout: often enough that the server,
// which counts from the last one that it got, does not find an attempt stalled before
// the worker does. Their answers also tell of a cancellation.
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
	t.check(now)
	if t.settled || t.over && !t.holds(now) {
		t.mu.Unlock()
		return
	}
	due := !now.Before(t.pulseAt)
	if due {
		t.pulseAt = now.Add(t.pulse())
	}
	t.timer.Reset(t.next(now))
	due = due && !t.silent
	t.mu.Unlock()
	if due {
		t.send(t.sendDirectly)
	}
}

// check ends the attempt if one of its deadlines has come. (That the whole process has
// paused is no excuse here: the server and other workers have not.) T.mu is held.
func (t *attempt) check(now time.Time) {
	due := func(deadline time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }
	closed := due(t.info.Deadline)
	switch {
	case t.over:
	case t.watched() && due(t.beatBy) && (!closed || t.beatBy.Before(t.info.Deadline)):
		t.fence(t.timeout(activity.TimeoutHeartbeat, t.info.HeartbeatTimeout))
	case closed:
		t.fence(t.closed())
	case due(t.returnBy):
		t.fence(errCanceled)
	}
}

// closed is the end by start-to-close or schedule-to-close, whichever is earlier.
// T.mu is held.
func (t *attempt) closed() error {
	if d := t.info.ScheduleToCloseTimeout; d > 0 && !t.info.Deadline.Before(t.info.ScheduledAt.Add(d)) {
		return t.timeout(activity.TimeoutScheduleToClose, d)
	}
	return t.timeout(activity.TimeoutStartToClose, t.info.StartToCloseTimeout)
}

func (t *attempt) timeout(typ activity.TimeoutType, after time.Duration) error {
	return &activity.TimeoutError{
		ID: t.info.ID, Name: t.info.Name, Type: typ, Attempt: t.info.Attempt, After: after,
		Stack: t.dumps.stack(t, t.beat), LastFailure: oneLevel(t.info.LastFailure), Details: t.latest.framed(),
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

// sdkEnded ends the Context if the SDK's has ended for good.
func (t *attempt) sdkEnded() {
	switch t.sdk.Err() {
	case context.DeadlineExceeded:
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.check(time.Now()); !t.over {
			t.fence(t.closed())
		}
	case context.Canceled:
		t.heard(context.Cause(t.sdk))
	}
}

// heard ends the Context as the answer to a heartbeat says, or whoever else ends the
// SDK's. That the server could not be reached, which the SDK takes for the end, is
// none: the deadlines decide, and the heartbeats go past the SDK from then on.
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
		t.cancel(errCanceled)
		if t.grace > 0 && t.returnBy.IsZero() {
			t.returnBy = time.Now().Add(t.grace)
			if t.timer != nil {
				t.timer.Reset(0)
			}
		}
	case errors.As(cause, &notFound):
		t.fence(fmt.Errorf("%w (%w)", errOver, cause))
	case errors.As(cause, &trouble), errors.Is(cause, context.DeadlineExceeded):
	case errors.Is(cause, worker.ErrWorkerShutdown):
		t.cancel(errStops)
		t.silent = true
	default:
		t.cancel(fmt.Errorf("activity: the attempt was ended by Temporal: %w", cause))
		t.silent = true
	}
}

// send sends a heartbeat with the newest details, which the server would else
// forget, unless the SDK is to be told of the end already.
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

// bySDK sends it when the SDK sees fit, or past the SDK once its context has ended.
func (t *attempt) bySDK() {
	if t.sdk.Err() != nil {
		t.sendDirectly()
		return
	}
	sdkactivity.RecordHeartbeat(t.sdk, t.newest().anys()...)
	t.sdkEnded() // the answer may have said so
}

// flush sends the details of an attempt that has failed: the SDK might still hold
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

func (t *attempt) sendDirectly() {
	c, info := sdkactivity.GetClient(t.sdk), &t.sdkInfo
	// The SDK's test environment ends the process when its client is used.
	if _, test := c.WorkflowService().(*workflowservicemock.MockWorkflowServiceClient); test {
		sdkactivity.RecordHeartbeat(t.sdk, t.newest().anys()...)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), asking)
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
		t.Logger().Warn("activity: the server did not take a heartbeat", "error", err)
	}
	t.heard(err)
}

func (t *attempt) newest() details {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.latest
}

// settle decides how the attempt ended, whose function returned err or was left
// behind, and why its Context ended, if it has. Nothing changes that any more.
func (t *attempt) settle(err error) (result, cause error) {
	t.unwatch()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.check(time.Now())
	cause = causeOf(t)
	if t.over || err == nil && t.told {
		err = cause
	}
	t.over, t.settled = true, true
	t.cancel(errReturned) // for goroutines that the function has left
	if t.timer != nil {
		t.timer.Stop()
	}
	return err, cause
}

// call runs the function. Its frame is what a dump finds it by.
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

// causeOf is the cause of a context that has ended, else nil.
func causeOf(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
