package activity

import "log/slog"

// A Store may lose its ownership, for example if another process has taken it over. It then
// closes the channel that its method Lost returns, and the Runtime stops everything that it
// stores there (rule 38).

// watchLocked starts the goroutine that waits for the loss of the Store, if there is anything to
// lose, and else stops it. It is called by leave.
func (w *writer) watchLocked() {
	switch need := w.lostSignal != nil && !w.lost && len(w.records) > 0; {
	case need && w.unwatch == nil:
		unwatch := make(chan struct{})
		w.unwatch = unwatch
		go func() {
			select {
			case <-w.lostSignal:
				w.rt.enter()
				w.checkLostLocked()
				w.rt.leave()
			case <-unwatch:
			}
		}()
	case !need && w.unwatch != nil:
		close(w.unwatch)
		w.unwatch = nil
	}
}

// checkLostLocked reports whether the Store is lost. If that is new, it ends all stored
// activities.
func (w *writer) checkLostLocked() bool {
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
	w.failingLocked() // forever, so that Stats and a health check show it
	canceled := 0
	for a := range rt.allLocked() {
		if a.rec == nil {
			continue
		}
		canceled++
		if a.phase == phaseSavingEnd {
			a.loseEndLocked()
		} else {
			a.cancelLocked(ErrStoreLost)
		}
	}
	if w.round != nil {
		w.cancel(ErrStoreLost)
		w.ctx = nil
	}
	// What is left are heartbeats that wait for the Store.
	for _, r := range w.records {
		r.notifyLocked(ErrStoreLost)
	}
	if w.drained != nil {
		rt.scheduler.closing = append(rt.scheduler.closing, w.drained)
		w.drained = nil
	}
	go rt.log(slog.LevelError, "activity: the Store is lost to another owner; its activities are canceled, and nothing is saved any more", nil, 0, slog.Int("activities", canceled))
}

// loseEndLocked ends an activity whose outcome was being saved.
func (a *activity) loseEndLocked() {
	var result error
	if a.err != nil {
		result = a.err.(*Error).Err
	}
	a.rt.counts.states[a.outcome]--
	a.decideOutcomeLocked(StateCanceled, RetryStateCancelRequested, lostError(result))
	a.rt.counts.states[a.outcome]++
	a.endLocked()
}

// lostError returns the error of an activity that ends with result after the loss of its Store.
// A nil result does not mean that it has completed, because the Store still has its checkpoint.
func lostError(result error) error {
	if result != nil && wraps(result, ErrStoreLost) {
		return result
	}
	return &canceledError{cause: ErrStoreLost, result: result}
}
