package activity

import "context"

// A Handle is a started activity.
type Handle[Out any] struct{ a *activity }

// ID returns Options.ID, or the generated ID if that is empty.
func (h *Handle[Out]) ID() string { return h.a.id() }

// Done is closed when the activity has ended: Wait then returns at once.
func (h *Handle[Out]) Done() <-chan struct{} { return h.a.done() }

// Wait waits for the activity's end and returns what [Execute] does. If ctx ends
// first, it returns ctx's cause, and the activity continues.
func (h *Handle[Out]) Wait(ctx context.Context) (Out, error) {
	done := h.a.done()
	select {
	case <-done:
		return h.result() // also if ctx has ended as well
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

// result returns how the activity has ended, once it has.
func (h *Handle[Out]) result() (Out, error) {
	if h.a.err != nil {
		var zero Out
		return zero, h.a.err
	}
	out, _ := h.a.out.(Out) // a nil of an interface type has no type
	return out, nil
}

// Cancel cancels the activity: its Context ends with cause (if nil,
// context.Canceled), it gets no further attempt, and Wait returns an [*Error]
// that wraps cause. It does not wait. The first cause wins: if a Shutdown or the end of the
// caller's context came first, the Store keeps the activity as interrupted.
func (h *Handle[Out]) Cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	a := h.a
	a.rt.enter()
	defer a.rt.leave()
	if !a.checkParentLocked() && a.cancelCause == nil {
		a.onPurpose = true
		a.cancelLocked(cause)
	}
}

// Status describes the activity as it is now. A Handle that is kept after the end keeps
// the result and the newest details, but not the input.
func (h *Handle[Out]) Status() Status {
	h.a.rt.enter()
	defer h.a.rt.leave()
	return h.a.statusLocked()
}
