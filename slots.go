package activity

import "container/list"

// slots are the slots of Config.MaxConcurrent, and the queue of activities that wait for
// one. A slot is not an object: an activity holds one while it is in a phase for which
// phase.holdsSlot reports true. Guarded by Runtime.mu.
type slots struct {
	limit int       // Config.MaxConcurrent; if 0, there is no limit and the other fields are unused
	held  int       // number of activities that hold a slot
	queue list.List // of *activity: the activities in phaseQueued, the longest waiting first
}

// moveLocked updates held and queue when a moves from one phase to another.
func (s *slots) moveLocked(a *activity, from, to phase) {
	if s.limit == 0 {
		return
	}
	if from.holdsSlot() {
		s.held--
	}
	if to.holdsSlot() {
		s.held++
	}
	s.removeLocked(a)
	if to == phaseQueued {
		a.queued = s.queue.PushBack(a)
	}
}

// removeLocked removes a from the queue, if it is there.
func (s *slots) removeLocked(a *activity) {
	if a.queued != nil {
		s.queue.Remove(a.queued)
		a.queued = nil
	}
}

// freeLocked reports whether an activity may take a slot without queueing: there is a free
// slot, and no other activity waits for it.
func (s *slots) freeLocked() bool {
	return s.limit == 0 || s.held < s.limit && s.queue.Len() == 0
}

// grantSlotsLocked gives free slots to the activities that have waited longest, and begins
// their attempts.
func (rt *Runtime) grantSlotsLocked() {
	s := &rt.slots
	// Shutdown cancels the waiting activities one by one. Those that it has not reached yet
	// must not begin an attempt.
	if s.queue.Len() == 0 || rt.shutdown.begun {
		return
	}
	for e := s.queue.Front(); e != nil && s.held < s.limit; {
		a := e.Value.(*activity)
		e = e.Next()
		// The wait of the activity has timed out. Its alarm has not rung yet, but a timeout
		// comes before everything else at its instant.
		if a.until <= rt.now {
			continue
		}
		if !a.checkParentLocked() {
			a.beginLocked()
		}
	}
}
