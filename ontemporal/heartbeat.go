package ontemporal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservicemock/v1"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/status"
)

const (
	callTimeout = 5 * time.Second  // for calls of the server that an attempt can do without
	maxPulse    = 10 * time.Second // the longest time between two heartbeats
	maxRetry    = time.Second      // the longest time between the sending of a heartbeat that failed and the next
	minRetry    = 100 * time.Millisecond
	minTimeout  = 250 * time.Millisecond // for a heartbeat
)

// heartbeats is how an attempt sends its heartbeats, and what the answers have granted it.
//
// They bypass the SDK, which holds heartbeats back for 80 % of the heartbeat timeout, and takes
// an outage for a cancellation. Each carries the newest details, because the server forgets
// details that a heartbeat leaves out. They are sent while the function is silent too, because
// the worker decides whether the function has stalled, and the server only whether the worker
// is lost. Guarded by attempt.mu.
type heartbeats struct {
	pulse    time.Duration // the time between two heartbeats while nothing is recorded; zero if none are needed
	throttle time.Duration // the shortest time between two heartbeats

	latest   details   // the details recorded last, or resumed from
	previous details   // those recorded before latest
	acked    details   // the details of the last heartbeat that the server has answered
	unsure   bool      // a later heartbeat was not answered, so the server may have its details instead
	unsent   bool      // latest is newer than the last heartbeat
	sentAt   time.Time // the last heartbeat, or the start; see first
	first    bool      // none was sent
	retryAt  time.Time // the next heartbeat, if the last one failed
	refused  error     // details could not be encoded when they were sent; nil once the function was told

	// The server ends the attempt if it gets no heartbeat for HeartbeatTimeout. leaseEnd is no
	// later than that: it is counted from when the last heartbeat that the server has answered
	// was sent. Before the first answer it is counted from the attempt's arrival, which is later
	// than its start on the server, so Guard waits for confirmed. leaseEnd is zero if the attempt
	// has no heartbeat timeout.
	leaseEnd  time.Time
	confirmed chan struct{} // closed by the first answer
}

func newHeartbeats(now time.Time, timeout, maxThrottle time.Duration) heartbeats {
	h := heartbeats{sentAt: now, first: true, throttle: maxPulse, confirmed: make(chan struct{})}
	if timeout > 0 {
		h.pulse = min(timeout/2, maxPulse)
		h.throttle = h.pulse
		h.leaseEnd = now.Add(timeout)
	}
	if maxThrottle > 0 {
		h.throttle = min(h.throttle, maxThrottle)
	}
	return h
}

// dueLocked reports whether a heartbeat of the function is sent at once.
func (h *heartbeats) dueLocked(now time.Time) bool {
	return h.retryAt.IsZero() && (h.first || now.Sub(h.sentAt) >= h.throttle)
}

// retry returns the time between a heartbeat that failed and the next.
func (h *heartbeats) retry() time.Duration { return max(min(h.throttle/4, maxRetry), minRetry) }

// timeout bounds a heartbeat. It must leave time for another one before the lease ends, because a
// network that drops packets answers nothing.
func (h *heartbeats) timeout() time.Duration {
	if h.pulse == 0 {
		return callTimeout
	}
	return min(max(h.pulse/4, minTimeout), callTimeout)
}

// claimLocked makes the caller the one that sends what is due.
func (h *heartbeats) claimLocked(now time.Time) {
	h.sentAt, h.first, h.unsent, h.retryAt = now, false, false, time.Time{}
}

// sendAtLocked returns when the next heartbeat is sent, whether or not the function sends one. It
// is zero if none is needed.
func (t *attempt) sendAtLocked() time.Time {
	switch {
	case t.silent:
		return time.Time{}
	case !t.retryAt.IsZero():
		return t.retryAt
	case t.unsent:
		return t.sentAt.Add(t.throttle)
	case t.pulse > 0:
		return t.sentAt.Add(t.pulse)
	}
	return time.Time{}
}

// lostLocked reports whether the lease has ended. While a machine is suspended, only its wall
// clock goes on.
func (t *attempt) lostLocked(now time.Time) bool {
	return !t.leaseEnd.IsZero() && (!now.Before(t.leaseEnd) || !now.Round(0).Before(t.leaseEnd.Round(0)))
}

// record records details of the function, if newest is not nil, and sends a heartbeat if one is due.
func (t *attempt) record(newest details) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.checkLocked(now); t.over {
		return context.Cause(t)
	}
	t.extendLocked(now)
	if newest != nil {
		t.previous, t.latest = t.latest, newest
		if !t.unsent {
			t.unsent = true
			t.armLocked(now)
		}
		t.progressed = t.progressed || !newest.equal(t.resumed)
	}
	if t.dueLocked(now) && !t.silent {
		t.claimLocked(now)
		t.waitLocked(t.send)
	}
	return causeOf(t)
}

// takeRefused returns the error of details that could not be encoded when they were sent, once.
func (t *attempt) takeRefused() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.refused
	t.refused = nil
	return err
}

// waitLocked calls f, which waits for the server. It unlocks mu meanwhile, and that time is no
// stall.
func (t *attempt) waitLocked(f func()) {
	t.waiting++
	t.mu.Unlock()
	defer func() { // f calls the user's logger, which may panic
		t.mu.Lock()
		t.waiting--
		now := time.Now()
		t.extendLocked(now)
		t.armLocked(now)
	}()
	f()
}

// confirm waits until the server has answered a heartbeat, the Context has ended, or the worker
// stops.
func (t *attempt) confirm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaseEnd.IsZero() || t.over || t.silent || t.Err() != nil {
		return
	}
	select {
	case <-t.confirmed:
		return
	default:
	}
	if now := time.Now(); t.dueLocked(now) {
		t.claimLocked(now)
		t.waitLocked(t.send)
	}
	t.waitLocked(func() {
		select {
		case <-t.confirmed:
		case <-t.Done():
		case <-t.stopping:
		}
	})
}

// send sends a heartbeat that was claimed. Once the attempt is settled, it sends nothing.
func (t *attempt) send() {
	t.sending <- struct{}{}
	defer func() { <-t.sending }()
	t.mu.Lock()
	newest, late := t.latest, t.settled
	t.mu.Unlock()
	if late {
		return
	}
	sent := time.Now()
	err := t.beat(newest)
	answer := answerOf(err) // which calls methods of err, perhaps user code
	var failure error       // what that makes of the details, or of the attempt
	switch answer {
	case answerRefused:
		failure = activity.NonRetryable(fmt.Errorf("%s: heartbeat details not sent, the previous ones are kept: %w", t, err))
	case answerNotFound:
		failure = fmt.Errorf("%w: the server has timed it out or terminated it: %w", errOver, err)
	}

	t.mu.Lock()
	now := time.Now()
	t.checkLocked(now) // an answer that comes after the end of the lease does not renew it
	warning := ""
	switch {
	case t.over && !t.holdsLocked(now):
	case answer == answerNotFound:
		t.silent = true
		if !t.over {
			t.fenceLocked(failure)
		}
	case answer == answerRefused && !newest.equal(t.acked):
		warning = "activity: heartbeat details not sent, the previous ones are kept"
		t.refusedLocked(newest, failure)
		t.retryAt = now.Add(t.retry())
	case answer == answerRefused, answer == answerNone: // an outage, of a key server perhaps: the lease decides
		warning = "activity: cannot send a heartbeat to the server"
		t.unsure = t.unsure || !newest.equal(t.acked)
		t.retryAt = sent.Add(t.retry()) // at once, if the call took longer
	default:
		t.stopsLocked(answer)
		t.acked, t.unsure = newest, false
		if !t.leaseEnd.IsZero() {
			t.leaseEnd = sent.Add(t.info.HeartbeatTimeout)
		}
		select {
		case <-t.confirmed:
		default:
			close(t.confirmed)
		}
	}
	t.armLocked(now)
	t.mu.Unlock()
	if warning != "" {
		t.logger.Warn(warning, "error", err)
	}
}

// refusedLocked goes back to the details before newest, which cannot be encoded, unless there are
// newer ones.
func (t *attempt) refusedLocked(newest details, err error) {
	t.refused = err
	if !t.latest.equal(newest) {
		return
	}
	if t.previous.equal(newest) {
		t.previous = t.acked
	}
	t.latest, t.previous = t.previous, t.acked
	t.unsent = !t.latest.equal(t.acked)
	t.progressed = !t.latest.equal(t.resumed) || !t.acked.equal(t.resumed)
}

// An answer is what the server's answer to a heartbeat says.
type answer int

const (
	answerNone     answer = iota // there was none
	answerRefused                // the data converter, or another part of the client, has refused the details
	answerNotFound               // the attempt is over
	answerAlive
	answerCanceled
	answerPaused
	answerReset
)

// answerOf returns the answer that err says, which a heartbeat has returned or which is the cause of
// the SDK's context.
func answerOf(err error) answer {
	var notFound *serviceerror.NotFound
	var server serviceerror.ServiceError
	_, isStatus := status.FromError(err)
	switch {
	case err == nil:
		return answerAlive
	case temporal.IsCanceledError(err):
		return answerCanceled
	case errors.Is(err, sdkactivity.ErrActivityPaused):
		return answerPaused
	case errors.Is(err, sdkactivity.ErrActivityReset):
		return answerReset
	case errors.As(err, &notFound):
		return answerNotFound
	case isStatus, errors.As(err, &server), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return answerNone
	}
	return answerRefused
}

// flush sends the details of an attempt that has failed, if the server may not have them.
func (t *attempt) flush() {
	t.sending <- struct{}{}
	defer func() { <-t.sending }()
	t.mu.Lock()
	newest, have := t.latest, !t.unsure && t.latest.equal(t.acked)
	t.mu.Unlock()
	if have {
		return
	}
	err := t.beat(newest)
	switch answerOf(err) {
	case answerRefused:
		t.mu.Lock()
		t.refusedLocked(newest, nil)
		t.mu.Unlock()
		fallthrough
	case answerNone, answerNotFound:
		t.logger.Warn("activity: cannot send the last heartbeat details to the server", "error", err)
	}
}

// sendBeat is attempt.beat.
func (t *attempt) sendBeat(newest details) (err error) {
	c, info := sdkactivity.GetClient(t.sdk), &t.sdkInfo
	defer func() {
		if v := recover(); v != nil { // of the data converter
			err = fmt.Errorf("the data converter panicked: %v", v)
		}
	}()
	if inTestEnvironment(c) {
		sdkactivity.RecordHeartbeat(t.sdk, newest.anys()...)
		if t.sdk.Err() == context.Canceled {
			err = context.Cause(t.sdk)
		}
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), t.timeout())
	defer cancel()
	o := client.RecordActivityHeartbeatOptions{
		TaskToken: info.TaskToken, Details: newest.anys(), Namespace: info.Namespace,
		WorkflowID: info.WorkflowExecution.ID, ActivityType: t.info.Name, TaskQueue: info.TaskQueue,
	}
	if info.WorkflowType != nil {
		o.WorkflowType = info.WorkflowType.Name
	}
	return c.RecordActivityHeartbeatWithOptions(ctx, o)
}

// inTestEnvironment reports whether c is the client of the SDK's test environment, which ends the
// process when it is used.
func inTestEnvironment(c client.Client) bool {
	_, test := c.WorkflowService().(*workflowservicemock.MockWorkflowServiceClient)
	return test
}
