package activity

import (
	"math"
	"time"
)

// Status describes an activity at one moment.
type Status struct {
	ID, Name      string
	State         State
	Attempt       int // the last attempt that was started; zero if none was
	ScheduledAt   time.Time
	StartedAt     time.Time // of that attempt
	LastHeartbeat time.Time // zero before the first
	NextAttempt   time.Time // in StateBackingOff
	Done, Total   int       // of its Range; math.MaxInt if there are more
	LastFailure   error     // how the last attempt that has ended did
	Abandoned     int       // functions of its earlier attempts that still run

	// Details and Codec are as in [TimeoutError]. [Status.HeartbeatDetails] reads
	// them. Details must not be changed: they are not copied.
	Details []byte
	Codec   Codec
}

// HeartbeatDetails decodes the details recorded last, as
// [Context.HeartbeatDetails] does.
func (s Status) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(s.Codec, s.Details, into)
}

// statusLocked needs Runtime.mu.
func (a *activity) statusLocked() Status {
	rt := a.rt
	s := Status{
		ID: a.id(), Name: a.name(), State: a.stateLocked(), Attempt: a.attempts,
		ScheduledAt: rt.time(a.scheduled), LastFailure: a.failure, Abandoned: a.abandoned, Codec: rt.cfg.Codec,
	}
	if a.latest != nil {
		s.StartedAt = rt.time(a.latest.started)
	}
	if a.phase == phaseBackingOff {
		s.NextAttempt = rt.wall(a.until)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.beats > 0 {
		s.LastHeartbeat = rt.wall(a.lastBeat)
	}
	if a.loop != nil {
		s.Done, s.Total = span(a.loop.from, a.loop.next), span(a.loop.from, a.loop.to)
	}
	s.Details = a.details.share()
	return s
}

// span counts the numbers from one up to another, at most math.MaxInt.
func span(from, to int) int {
	switch n := to - from; {
	case to <= from:
		return 0
	case n < 0: // it has overflowed
		return math.MaxInt
	default:
		return n
	}
}

// Activities describes the activities that have not ended, oldest first. One
// whose end is decided and still being saved is among them, in its final State.
func (rt *Runtime) Activities() []Status {
	rt.enter()
	defer rt.leave()
	var all []Status
	for a := range rt.allLocked() {
		all = append(all, a.statusLocked())
	}
	return all
}

// Stats counts activities: first how many there are now, then how many there
// have been since New.
type Stats struct {
	Running, Waiting, BackingOff, Blocked int // activities in that State
	Abandoned                             int // functions that still run although their attempt is over

	Scheduled, Completed, Failed, Canceled uint64 // activities; Scheduled are those that Start has accepted
	Attempts                               uint64 // started
	Heartbeats                             uint64 // of attempts that were not over
	Timeouts                               uint64 // of all types

	SaveFailures      uint64    // calls of Store.Save and Store.Delete that failed or were late
	StoreFailingSince time.Time // when the Store first failed to take something that it has still not taken; zero if it holds everything
}

// counts are what Stats reports. Guarded by Runtime.mu.
type counts struct {
	states     [StateCanceled + 1]uint64 // activities by State; [0] is of no use
	abandoned  int
	scheduled  uint64 // counted when the start is accepted
	attempts   uint64
	heartbeats uint64 // of activities that have ended
	timeouts   uint64
}

// Stats returns the counts as they are now.
func (rt *Runtime) Stats() Stats {
	rt.enter()
	defer rt.leave()
	c, n := &rt.counts, &rt.counts.states
	s := Stats{
		Running: int(n[StateRunning]), Waiting: int(n[StateWaiting]), BackingOff: int(n[StateBackingOff]), Blocked: int(n[StateBlocked]),
		Abandoned: c.abandoned,
		Scheduled: c.scheduled, Completed: n[StateCompleted], Failed: n[StateFailed], Canceled: n[StateCanceled],
		Attempts: c.attempts, Heartbeats: c.heartbeats, Timeouts: c.timeouts,
		SaveFailures: rt.writer.failures,
	}
	if rt.writer.failing {
		s.StoreFailingSince = rt.time(rt.writer.failingSince)
	}
	for a := range rt.allLocked() {
		a.mu.Lock()
		s.Heartbeats += a.beats
		a.mu.Unlock()
	}
	return s
}
