package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

var (
	// errCanceled is the cause of a Context that was canceled: by the caller, by the
	// workflow or by an operator.
	errCanceled = fmt.Errorf("activity: canceled (%w)", context.Canceled)

	// errReset is the cause of a Context whose activity an operator has reset.
	errReset = fmt.Errorf("activity: reset on the server: %w", sdkactivity.ErrActivityReset)

	// errOver is the cause of a Context whose attempt the server has ended, or may have.
	errOver = errors.New("activity: the attempt is over")

	// errStops is the cause of a Context whose worker has stopped.
	errStops = fmt.Errorf("%w: the Temporal worker stops", activity.ErrShutdown)

	// errReturned is the cause of a Context whose function has returned.
	errReturned = fmt.Errorf("activity: the attempt's function has returned (%w)", context.Canceled)
)

// An attempt is one run of an activity's function in a worker, and the Context that
// the function gets. Its Context ends, with the cause that the embedded runtime has, if
//
//   - the function is silent for the heartbeat timeout;
//   - the SDK's context ends, because a deadline is reached or the worker has stopped;
//   - the answer to a heartbeat says so;
//   - the server answers no heartbeat for the heartbeat timeout, which ends the lease.
//
// The first cause wins. How heartbeats are sent is in heartbeat.go.
type attempt struct {
	context.Context // FromContext finds the attempt in it
	cancel          context.CancelCauseFunc
	sdk             context.Context
	sdkInfo         sdkactivity.Info
	info            activity.Info
	logger          *slog.Logger
	worker          *registration
	place           *place
	resumed         details         // the details that the attempt resumes from
	grace           time.Duration   // Options.CancelGrace; zero in a workflow's activity, which has until its deadline
	left            chan struct{}   // closed when the function is left behind
	stopping        <-chan struct{} // closed when the worker begins to stop; nil if the SDK does not tell
	unwatch         func() bool     // stops watching the SDK's context
	beat            func(details) error

	// sending has room for one, who sends a heartbeat, so that the newest arrives last. It is
	// taken before mu is locked. It is a channel because a bubble's time stands still for a mutex.
	sending chan struct{}

	mu sync.Mutex // guards the fields below; methods that end in Locked need it

	over       bool // the attempt is fenced: timed out, ended by the server, or settled
	settled    bool // the outcome is decided
	told       bool // Sleep, Idle, Range or Guard has returned the cause, or ErrShutdown
	stopTold   bool // they have returned ErrShutdown
	beatsTold  int  // the heartbeats that have returned ErrShutdown, without those that the function does not see
	ranged     bool // BeginRange was called
	progressed bool // the recorded details differ from those that the attempt resumed from

	// silent means that something else has ended the SDK's context. The end of the
	// attempt could not be reported then, so no heartbeats are sent.
	silent bool

	guards   int         // the functions inside Guard
	waiting  int         // the calls of the function that wait for the server
	quietAt  time.Time   // the function's last heartbeat, or its start
	beatBy   time.Time   // the heartbeat deadline; zero if there is none
	returnBy time.Time   // when a canceled or paused function is left behind; zero before that, and if it has no limit
	timer    *time.Timer // the timer of the next deadline or heartbeat

	heartbeats
}

func newAttempt(sdk context.Context, start start, w *registration) (*attempt, error) {
	info := sdkactivity.GetInfo(sdk)
	t := &attempt{sdk: sdk, sdkInfo: info, worker: w, left: make(chan struct{}), sending: make(chan struct{}, 1), stopping: sdkactivity.GetWorkerStopChannel(sdk), info: activity.Info{
		ID: info.ActivityID, Name: info.ActivityType.Name,
		Attempt:     int(info.Attempt),
		ScheduledAt: info.ScheduledTime, StartedAt: info.StartedTime, Deadline: info.Deadline,
		StartToCloseTimeout: info.StartToCloseTimeout, HeartbeatTimeout: info.HeartbeatTimeout,
		ScheduleToCloseTimeout: info.ScheduleToCloseTimeout,
	}}
	t.logger = slog.New(&logHandler{logger: sdkactivity.GetLogger(sdk)}).With("id", t.info.ID, "name", t.info.Name, "attempt", t.info.Attempt)
	t.beat = t.sendBeat
	t.heartbeats = newHeartbeats(time.Now(), info.HeartbeatTimeout, w.opts.MaxHeartbeatThrottleInterval)
	if p := info.RetryPolicy; p != nil {
		t.info.MaximumAttempts = int(p.MaximumAttempts)
	}
	if err := w.check(sdk); err != nil {
		return nil, fmt.Errorf("%s: %w", t, err)
	}
	var err error
	if t.resumed, err = recorded(sdk); err != nil {
		return nil, fmt.Errorf("%s: %w: cannot read its heartbeat details: %w", t, activity.ErrCannotResume, err)
	}
	if t.resumed == nil {
		t.resumed = fromJSON(start.Details)
	}
	t.latest, t.acked = t.resumed, t.resumed
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
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unwatch = context.AfterFunc(t.sdk, t.sdkEnded)
	t.timer = time.AfterFunc(time.Hour, t.tick)
	t.armLocked(time.Now())
	if d := w.opts.WorkerStopTimeout; d > 0 && t.stopping != nil {
		go t.endBefore(d)
	}
	return t, nil
}

// maxReport is the longest time before WorkerStopTimeout has passed at which a Context ends.
const maxReport = 5 * time.Second

// endBefore ends the Context once the worker stops, before the given WorkerStopTimeout has passed.
func (t *attempt) endBefore(stopTimeout time.Duration) {
	select {
	case <-t.stopping:
	case <-t.Done():
		return
	}
	timer := time.NewTimer(stopTimeout - min(stopTimeout/5, maxReport))
	defer timer.Stop()
	select {
	case <-timer.C:
		t.cancel(errStops)
	case <-t.Done():
	}
}

// lastFailure asks the server how the attempt before ended, because the SDK does not
// say. The server cannot answer that for an activity that a workflow started.
func (t *attempt) lastFailure() error {
	ctx, cancel := context.WithTimeout(t.sdk, t.timeout()) // because no heartbeats are sent yet
	defer cancel()
	h := sdkactivity.GetClient(t.sdk).GetActivityHandle(client.GetActivityHandleOptions{ActivityID: t.info.ID, RunID: t.sdkInfo.ActivityRunID})
	d, err := h.Describe(ctx, client.DescribeActivityOptions{IncludeLastFailure: true})
	if err != nil {
		return fmt.Errorf("cannot find out how attempt %d ended: %w", t.info.Attempt-1, err)
	}
	return lastFailure(d, t.resumed)
}

// admit waits until no function of an earlier attempt keeps this one from starting. The
// attempt's heartbeats show meanwhile that it is alive.
func (t *attempt) admit() error {
	for n := 0; ; n++ {
		t.sdkEnded()
		if err := causeOf(t); err != nil {
			return err
		}
		changed, why := t.place.blocked()
		if changed == nil {
			t.mu.Lock()
			defer t.mu.Unlock()
			now := time.Now()
			t.extendLocked(now) // from here on, silence is a stall
			t.armLocked(now)
			return nil
		}
		if n == 0 {
			t.logger.Error("activity: this attempt is blocked by a function that hangs", "waiting_for", why)
		}
		select {
		case <-changed:
		case <-t.Done():
		case <-t.stopping:
			return t.tellStop()
		}
	}
}

// armLocked sets the timer to the next deadline or heartbeat.
func (t *attempt) armLocked(now time.Time) {
	if t.settled || t.timer == nil {
		return
	}
	var at time.Time
	for _, due := range t.deadlinesLocked() {
		if !due.IsZero() && (at.IsZero() || due.Before(at)) {
			at = due
		}
	}
	if at.IsZero() {
		t.timer.Stop()
	} else {
		t.timer.Reset(at.Sub(now))
	}
}

// deadlinesLocked returns when the timer must fire. Start-to-close and schedule-to-close are
// not among them, because the SDK's context ends then.
func (t *attempt) deadlinesLocked() []time.Time {
	if t.over { // only Guard still needs heartbeats
		return []time.Time{t.sendAtLocked()}
	}
	all := []time.Time{t.sendAtLocked(), t.leaseEnd, t.returnBy}
	if t.watchedLocked() {
		all = append(all, t.beatBy)
	}
	return all
}

// watchedLocked reports whether the heartbeat deadline counts. It does not count for a
// canceled or paused function, which has until returnBy, nor while the function waits for the
// server.
func (t *attempt) watchedLocked() bool { return !t.beatBy.IsZero() && t.Err() == nil && t.waiting == 0 }

// extendLocked moves the heartbeat deadline. The timer looks at it when it fires.
func (t *attempt) extendLocked(now time.Time) {
	t.quietAt = now
	if d := t.info.HeartbeatTimeout; d > 0 {
		t.beatBy = now.Add(d)
	}
}

// holdsLocked reports whether the server must not learn yet that the attempt is over, because the
// function is inside Guard.
func (t *attempt) holdsLocked(now time.Time) bool {
	return t.guards > 0 && !errors.Is(context.Cause(t), errOver) && now.Before(t.info.Deadline)
}

func isStall(err error) bool {
	e, ok := err.(*activity.TimeoutError)
	return ok && e.Type == activity.TimeoutHeartbeat
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
	at := t.sendAtLocked()
	due := !at.IsZero() && !now.Before(at)
	if due {
		t.claimLocked(now)
	}
	t.armLocked(now)
	t.mu.Unlock()
	if due {
		t.send()
	}
}

// checkLocked ends the attempt if one of its deadlines has been reached. A pause of the
// whole process does not move them, because the server and other workers have not paused.
func (t *attempt) checkLocked(now time.Time) {
	due := func(deadline time.Time) bool { return !deadline.IsZero() && !now.Before(deadline) }
	closed := due(t.info.Deadline)
	stalled := t.watchedLocked() && due(t.beatBy)
	lost := t.lostLocked(now)
	switch {
	case t.over:
	case lost && (!closed || t.leaseEnd.Before(t.info.Deadline)) && (!stalled || !t.beatBy.Before(t.leaseEnd)):
		t.fenceLocked(fmt.Errorf("%w: the server has answered no heartbeat for %s, and may have started another", errOver, t.info.HeartbeatTimeout))
	case stalled && (!closed || t.beatBy.Before(t.info.Deadline)):
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
		Stack: t.worker.stack(t, t.quietAt), LastFailure: oneLevel(t.info.LastFailure), Details: t.latest.framed(),
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

// sdkEnded ends the Context if the SDK's context has ended.
func (t *attempt) sdkEnded() {
	err := t.sdk.Err()
	if err == nil {
		return
	}
	cause := context.Cause(t.sdk)
	stops, stopped := answerOf(cause), errors.Is(cause, worker.ErrWorkerShutdown)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.over:
	case err == context.DeadlineExceeded:
		if t.checkLocked(time.Now()); !t.over {
			t.fenceLocked(t.closedLocked())
		}
	case t.stopsLocked(stops):
	case stopped:
		t.cancel(errStops)
		t.silent = true
	default:
		t.cancel(fmt.Errorf("activity: Temporal has ended the attempt: %w", cause))
		t.silent = true
	}
}

// stopsLocked ends the Context if a says so. The function has until returnBy to return. It reports
// false if a says nothing of the kind.
func (t *attempt) stopsLocked(a answer) bool {
	switch {
	case a == answerCanceled:
		t.cancel(errCanceled)
	case a == answerPaused && t.isLast():
		return true
	case a == answerPaused:
		t.cancel(activity.ErrPaused)
	case a == answerReset:
		t.cancel(errReset)
	default:
		return false
	}
	if t.grace > 0 && t.returnBy.IsZero() {
		t.returnBy = time.Now().Add(t.grace)
		t.armLocked(time.Now())
	}
	return true
}

// isLast reports whether the attempt is the last of MaximumAttempts. The server counts an
// attempt that it has paused, so a pause would make such an activity fail.
func (t *attempt) isLast() bool { return isLast(t.info.Attempt, t.info.MaximumAttempts) }

func isLast(attempt, maximum int) bool { return maximum > 0 && attempt >= maximum }

// settle decides the outcome of an attempt whose function returned err or was left
// behind. It returns the outcome, and the cause if the Context had ended. The outcome
// does not change any more.
func (t *attempt) settle(err error) (result, cause error) {
	t.unwatch()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checkLocked(time.Now())
	if cause = causeOf(t); cause == nil && (t.stopTold || t.beatsTold > 0 && err != nil) {
		cause = errStops
	}
	if t.over || err == nil && t.told || cause == errStops && err == activity.ErrShutdown {
		err = cause
	}
	t.over, t.settled = true, true
	t.cancel(errReturned) // the function may have left goroutines behind
	t.timer.Stop()
	return err, cause
}

// call runs the function. It must not be inlined, and keeps t alive: a dump of stacks finds the
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
