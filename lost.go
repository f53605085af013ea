package activity

import "log/slog"

// A Store may lose its ownership, for example if another process has taken it over. It then
// closes the channel that its method Lost returns, and the Runtime cancels every stored activity
// (rule 38).

// watchLocked starts the goroutine that waits for the loss of the Store, if there is anything to
// lose, and else stops it. It is called by leave.
func (w *writer) watchLocked() {
	if w.lostSignal == nil {
		return
	}
	// Once all activities have ended, the next call of the Store notices the loss soon enough.
	alive := w.rt.shutdown.open > 0 || w.draining > 0
	switch need := !w.lost && len(w.records) > 0 && alive; {
	case need && w.unwatch == nil:
		unwatch := make(chan struct{})
		w.unwatch = unwatch
		go func() {
			select {
			case <-w.lostSignal:
				w.rt.enter()
				w.noticeLossLocked()
				w.rt.leave()
			case <-unwatch:
			}
		}()
	case !need && w.unwatch != nil:
		close(w.unwatch)
		w.unwatch = nil
	}
}

// noticeLossLocked ends all stored activities if the Store was lost since the last look. It
// reports whether the Store is lost.
func (w *writer) noticeLossLocked() bool {
	if w.lostSignal == nil || w.lost {
		return w.lost
	}
	select {
	case <-w.lostSignal:
		w.loseLocked()
	default:
	}
	return w.lost
}

// loseLocked ends all stored activities. Nothing is written from then on.
func (w *writer) loseLocked() {
	rt := w.rt
	w.lost = true
	// Nothing ends this, so that Stats and a health check show the loss.
	w.failingLocked()
	canceled := 0
	for a := range rt.allLocked() {
		switch {
		case a.rec == nil:
			continue
		case a.phase != phaseSavingEnd:
			a.cancelLocked(ErrStoreLost)
		case a.err != nil:
			a.finishLocked(0, 0, a.err.(*Error).Err)
		default:
			a.finishLocked(0, 0, nil)
		}
		canceled++
	}
	if w.round != nil {
		w.cancel(ErrStoreLost)
		w.ctx = nil
	}
	// Synchronous heartbeats still wait.
	for _, r := range w.records {
		r.notifyLocked(ErrStoreLost)
	}
	if w.drained != nil {
		rt.scheduler.closing = append(rt.scheduler.closing, w.drained)
		w.drained = nil
	}
	go rt.log(slog.LevelError, "activity: the Store has lost its ownership; its activities are canceled, and nothing is saved any more", nil, 0, slog.Int("activities", canceled))
}

// lostError returns the error of an activity that ends with result after the loss of its Store.
// A nil result does not mean that it has completed, because the Store still has its checkpoint.
func lostError(result error) error {
	if result != nil && wraps(result, ErrStoreLost) {
		return result
	}
	return &canceledError{cause: ErrStoreLost, result: result}
}
