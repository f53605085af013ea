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
)

const (
	callTimeout = 5 * time.Second  // for calls of the server that an attempt can do without
	maxPulse    = 10 * time.Second // the longest time between two heartbeats
	maxRetry    = time.Second      // the longest time between a heartbeat that failed and the next
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

	latest  details   // the details recorded last, or resumed from
	acked   details   // the newest details that the server has
	unsent  bool      // latest is newer than the last heartbeat
	sentAt  time.Time // the last heartbeat, or the start; see first
	first   bool      // none was sent
	retryAt time.Time // the next heartbeat, if the last one failed
	refused error     // the details recorded last could not be sent, and latest is acked; nil if the function was told

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
func (h *heartbeats) retry() time.Duration { return min(h.throttle/4, maxRetry) }

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

// record records details of the function, if newest is not nil, and sends a heartbeat if one is
// due. If failed is not nil, the details could not be encoded.
func (t *attempt) record(newest details, failed error) error {
	t.mu.Lock()
	now := time.Now()
	if t.checkLocked(now); t.over {
		defer t.mu.Unlock()
		return context.Cause(t)
	}
	t.extendLocked(now)
	fresh := newest != nil && !t.unsent
	if newest != nil {
		t.latest, t.unsent = newest, true
		t.progressed = t.progressed || !newest.equal(t.resumed)
	}
	if t.dueLocked(now) && !t.silent {
		t.sendFromFunctionLocked(now)
	} else if fresh {
		t.armLocked(now)
	}
	if t.refused != nil {
		failed, t.refused = t.refused, nil
	}
	t.mu.Unlock()
	if err := causeOf(t); err != nil {
		return err
	}
	return failed
}

// sendFromFunctionLocked sends a heartbeat while the function waits. It unlocks mu meanwhile.
func (t *attempt) sendFromFunctionLocked(now time.Time) {
	t.claimLocked(now)
	t.waitLocked(t.send)
}

// waitLocked calls f, which waits for the server. It unlocks mu meanwhile, and that time is no
// stall.
func (t *attempt) waitLocked(f func()) {
	t.waiting++
	t.mu.Unlock()
	f()
	t.mu.Lock()
	t.waiting--
	now := time.Now()
	t.extendLocked(now)
	t.armLocked(now)
}

// confirm waits until the server has answered a heartbeat, or the Context has ended.
func (t *attempt) confirm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaseEnd.IsZero() {
		return
	}
	select {
	case <-t.confirmed:
		return
	default:
	}
	if t.retryAt.IsZero() {
		t.sendFromFunctionLocked(time.Now())
	}
	t.waitLocked(func() {
		select {
		case <-t.confirmed:
		case <-t.Done():
		}
	})
}

// send sends a heartbeat that was claimed. Once the attempt is settled, it sends nothing.
func (t *attempt) send() {
	t.sending.Lock()
	defer t.sending.Unlock()
	t.mu.Lock()
	newest, late := t.latest, t.settled
	t.mu.Unlock()
	if late {
		return
	}
	sent := time.Now()
	err := t.beat(newest)
	t.mu.Lock()
	failure := t.answeredLocked(newest, sent, err)
	t.armLocked(time.Now())
	t.mu.Unlock()
	if failure != "" {
		t.logger.Warn(failure, "error", err)
	}
}

// answeredLocked does what the answer says to a heartbeat that was sent with these details. It
// returns what is to be logged.
func (t *attempt) answeredLocked(newest details, sent time.Time, err error) (failure string) {
	now := time.Now()
	t.checkLocked(now) // an answer that comes after the end of the lease does not renew it
	notFound := (*serviceerror.NotFound)(nil)
	switch {
	case t.over && !t.holdsLocked(now):
		return ""
	case err == nil, t.stopsLocked(err):
	case errors.As(err, &notFound):
		t.fenceLocked(fmt.Errorf("%w: the server has timed it out or terminated it: %w", errOver, err))
		return ""
	case isRefused(err): // to send the same again would not help
		t.refused = activity.NonRetryable(fmt.Errorf("%s: heartbeat details not sent, the previous ones are kept: %w", t, err))
		if t.latest.equal(newest) {
			t.latest, t.unsent = t.acked, false
		}
		t.retryAt = now.Add(t.retry())
		return "activity: heartbeat details not sent, the previous ones are kept"
	default: // an outage: the lease decides
		t.unsent = t.unsent || !newest.equal(t.acked)
		t.retryAt = now.Add(t.retry())
		return "activity: cannot send a heartbeat to the server"
	}
	t.acked = newest
	if !t.leaseEnd.IsZero() {
		t.leaseEnd = sent.Add(t.info.HeartbeatTimeout)
	}
	select {
	case <-t.confirmed:
	default:
		close(t.confirmed)
	}
	return ""
}

// isRefused reports whether err, of a heartbeat, comes from the client's data converter.
func isRefused(err error) bool {
	var server serviceerror.ServiceError
	return !errors.As(err, &server) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}

// flush sends the details of an attempt that has failed, if the server does not have them.
func (t *attempt) flush() {
	t.sending.Lock()
	defer t.sending.Unlock()
	t.mu.Lock()
	newest, have := t.latest, t.latest.equal(t.acked)
	t.mu.Unlock()
	if have {
		return
	}
	if err := t.beat(newest); err != nil && !temporal.IsCanceledError(err) {
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
	timeout := callTimeout
	if t.pulse > 0 {
		timeout = min(timeout, t.pulse)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.sdk), timeout)
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
