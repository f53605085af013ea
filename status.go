package activity

import (
	"math"
	"slices"
	"time"
)

// Status describes an activity at one moment.
type Status struct {
	ID, Name      string
	State         State
	Attempt       int       // number of the last attempt that was started; zero if none was
	ScheduledAt   time.Time // when the activity was scheduled
	StartedAt     time.Time // when the last attempt that this process has started began; zero if there is none
	LastHeartbeat time.Time // time of the last heartbeat in this process; zero if there was none
	NextAttempt   time.Time // when the backoff ends, in StateBackingOff; otherwise zero
	Deadline      time.Time // when the attempt or, if none runs, the activity times out at the latest; zero without a limit, and once canceled or ended
	Done, Total   int       // progress of Range, at most math.MaxInt each; zero without a Range
	ResumedAt     int       // Done when the attempt began its Range, for estimates: the attempt has done Done - ResumedAt
	LastFailure   error     // error of the last attempt that failed; nil if none did
	Abandoned     int       // number of abandoned functions that still run

	StartToCloseTimeout, HeartbeatTimeout time.Duration // as in Options; zero without a limit
	MaximumAttempts                       int           // as in RetryPolicy; zero without a limit

	// Details and Codec are as in [TimeoutError]. [Status.HeartbeatDetails] decodes them.
	// Details is not a copy and must not be changed.
	Details []byte
	Codec   Codec
}

// HeartbeatDetails decodes the details recorded last, as
// [Context.HeartbeatDetails] does.
func (s Status) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(s.Codec, s.Details, into)
}

// statusLocked returns the activity's Status. Runtime.mu is held.
func (a *activity) statusLocked() Status {
	rt := a.rt
	s := Status{
		ID: a.id(), Name: a.name(), State: a.stateLocked(), Attempt: a.attempts,
		ScheduledAt: rt.time(a.scheduled), LastFailure: a.failure, Abandoned: a.abandoned, Codec: rt.cfg.Codec,
		StartToCloseTimeout: a.opts.StartToCloseTimeout, HeartbeatTimeout: a.opts.HeartbeatTimeout,
		MaximumAttempts: a.opts.RetryPolicy.MaximumAttempts,
	}
	deadline := moment{a.closeBy(), a.scheduled.moved}
	switch a.phase {
	case phaseRunning:
		deadline = moment{a.latest.closeBy, a.latest.started.moved}
	case phaseCanceling, phaseSavingEnd, phaseEnded:
		deadline.at = never
	}
	if deadline.at != never {
		s.Deadline = rt.time(deadline)
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
		s.Done, s.Total, s.ResumedAt = a.loop.done, span(a.loop.from, a.loop.to), a.loop.resumed
	}
	s.Details = a.details.share()
	return s
}

// span returns to-from, at least 0 and at most math.MaxInt.
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

// statusesAtOnce is the number of activities that Activities describes without giving up
// Runtime.mu. That takes less than half a millisecond.
const statusesAtOnce = 500

// Activities returns the status of the activities that have not ended, oldest first. An
// activity whose outcome is decided, but still being saved, is included with its final
// State. If there are more than 500, they are described in parts, so that the Runtime need not
// wait for all of them. Each Status is then of a moment during the call.
func (rt *Runtime) Activities() []Status {
	rt.enter()
	defer rt.leave()
	alive := slices.AppendSeq(make([]*activity, 0, rt.shutdown.open), rt.allLocked())
	var all []Status
	for part := range slices.Chunk(alive, statusesAtOnce) {
		if all == nil {
			all = make([]Status, 0, len(alive))
		} else {
			rt.leave()
			rt.enter()
		}
		for _, a := range part {
			if a.next != nil { // it has not ended meanwhile
				all = append(all, a.statusLocked())
			}
		}
	}
	return all
}

// Stats has counts of a Runtime. Running, Waiting, BackingOff, Blocked, Paused and Abandoned are
// the present numbers. The other counts grow from New on.
type Stats struct {
	Running, Waiting, BackingOff, Blocked, Paused int // activities in that State
	Abandoned                                     int // abandoned functions that still run

	Scheduled, Completed, Failed, Canceled uint64 // activities that were accepted by Start, and activities by their outcome
	Attempts                               uint64 // attempts that were started
	Heartbeats                             uint64 // heartbeats of attempts that were not over
	Timeouts                               uint64 // timeouts of all four types

	SaveFailures      uint64    // calls of Store.Save and Store.Delete that failed or were late
	StoreFailingSince time.Time // when the Store first failed to take anything that it still does not hold; zero if it holds everything
}

// counts are the numbers behind Stats. Guarded by Runtime.mu.
type counts struct {
	states     [StatePaused + 1]uint64 // activities by State; those in a final State are never removed, and [0] is not used
	abandoned  int
	scheduled  uint64 // activities whose start was accepted
	attempts   uint64
	heartbeats uint64 // heartbeats of activities that have ended; the others count their own
	timeouts   uint64
}

// Stats returns the present counts.
func (rt *Runtime) Stats() Stats {
	rt.enter()
	defer rt.leave()
	c, n := &rt.counts, &rt.counts.states
	s := Stats{
		Running: int(n[StateRunning]), Waiting: int(n[StateWaiting]), BackingOff: int(n[StateBackingOff]), Blocked: int(n[StateBlocked]), Paused: int(n[StatePaused]),
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
