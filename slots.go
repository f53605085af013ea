package activity

import "container/list"

// slots are those of Config.MaxConcurrent, with the activities that wait for one.
// Guarded by Runtime.mu.
type slots struct {
	limit int // 0 if there is none: then nothing else here is used
	held  int
	queue list.List // of *activity, those in phaseQueued, the longest waiting first
}

// moveLocked keeps the slots and the queue as the phases of activities change.
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

// removeLocked takes a out of the queue, if it is in it.
func (s *slots) removeLocked(a *activity) {
	if a.queued != nil {
		s.queue.Remove(a.queued)
		a.queued = nil
	}
}

// freeLocked reports whether there is a slot that nobody waits for.
func (s *slots) freeLocked() bool {
	return s.limit == 0 || s.held < s.limit && s.queue.Len() == 0
}

// grantSlotsLocked begins attempts of those that have waited longest while
// there are free slots.
func (rt *Runtime) grantSlotsLocked() {
	s := &rt.slots
	if s.queue.Len() == 0 || rt.shutdown.begun {
		return // in a Shutdown those that wait are about to be canceled
	}
	for e := s.queue.Front(); e != nil && s.held < s.limit; {
		a := e.Value.(*activity)
		e = e.Next()
		if a.until <= rt.now {
			continue // it has timed out at this instant, and its alarm says so next
		}
		if !a.checkParentLocked() {
			a.beginLocked()
		}
	}
}
