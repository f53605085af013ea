package activity

import "context"

// A Handle refers to an activity that was started by Start. All its methods may be called
// by several goroutines at once.
type Handle[Out any] struct{ a *activity }

// ID returns Options.ID, or the generated ID if that is empty.
func (h *Handle[Out]) ID() string { return h.a.id() }

// Done returns a channel that is closed when the activity has ended and its last event is
// delivered. Wait then returns at once.
func (h *Handle[Out]) Done() <-chan struct{} { return h.a.done() }

// Wait waits for the end of the activity and returns its result and error, as [Execute]
// does. If ctx ends first, Wait returns ctx's cause, and the activity continues.
func (h *Handle[Out]) Wait(ctx context.Context) (Out, error) {
	done := h.a.done()
	// If both channels are closed, select chooses at random. The result comes first.
	select {
	case <-done:
		return h.result()
	default:
	}
	select {
	case <-done:
		return h.result()
	case <-ctx.Done():
		var zero Out
		return zero, context.Cause(ctx)
	}
}

// result returns the result of an activity that has ended.
func (h *Handle[Out]) result() (Out, error) {
	if h.a.err != nil {
		var zero Out
		return zero, h.a.err
	}
	out, _ := h.a.out.(Out) // fails only if Out is an interface type and the result is nil
	return out, nil
}

// Cancel cancels the activity and does not wait for its end. The attempt's Context ends
// with cause, there is no further attempt, and Wait returns an [*Error] that wraps cause.
// If cause is nil, context.Canceled is used. The first cause wins. If a Shutdown or the end
// of the caller's context came first, Cancel has no effect, and in the Store the activity
// stays interrupted.
func (h *Handle[Out]) Cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	h.a.rt.enter()
	defer h.a.rt.leave()
	h.a.cancelOnPurposeLocked(cause)
}

// Status returns the current status of the activity. After the end, the Handle keeps the
// result and the newest details in memory, but not the input.
func (h *Handle[Out]) Status() Status {
	h.a.rt.enter()
	defer h.a.rt.leave()
	return h.a.statusLocked()
}
