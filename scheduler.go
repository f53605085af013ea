package activity

import (
	"cmp"
	"slices"
	"time"
	"weak"

	"github.com/benbjohnson/clock"
)

// The scheduler decides when things happen: timeouts, backoffs, sleeps and writes to
// the Store. It has a heap of alarms and a single timer, which is set to the earliest
// alarm. There is no goroutine that waits for the timer. The goroutine that locks
// Runtime.mu, the timer's or a caller's, does what is due.
//
// Code that changes the life of an activity runs between Runtime.enter and
// Runtime.leave. enter reads the clock once and settles every deadline that is due at
// that instant. leave does the work that must wait until the timer is set again.

// A scheduler holds the alarms of a Runtime's activities and sleepers, and the
// one timer on its clock. Guarded by Runtime.mu.
type scheduler struct {
	alarms alarms
	timer  *clock.Timer // nil until the first alarm is set
	bell   *bell        // the receiver of the timer's callback; nil as long as timer is nil
	armed  instant      // the instant at which timer fires; never if it is not set
	sleeps uint64       // number of sleepers set so far; orders sleepers that wake at one instant
	due    []dueAlarm   // buffer of ringLocked, kept to save an allocation

	// Work for leave, once the timer is set. A function that starts, or a caller that
	// wakes up, may advance a Mock clock at once: if the timer were not set yet, it
	// would fire late.
	starting []*attempt      // attempts whose goroutines are to be started
	closing  []chan struct{} // channels to be closed

	// State of ringLocked, reset when it returns.
	ringing bool         // whether ringLocked is running
	logs    *instantLogs // counts of the log lines of this instant; nil until the first line
	stacks  *dump        // the stacks of all goroutines; nil until the first stack is needed

	noDumpBefore instant // the end of the pause after the last dump of the stacks
	frozen       bool    // whether nothing rings: see inside.Freeze
}

// enter locks rt.mu, reads the clock, and settles what is due. So at any instant a
// timeout comes before everything else that happens then, such as a return or a
// cancellation. From enter to leave, rt.now does not follow the clock, except in armLocked.
func (rt *Runtime) enter() {
	rt.lock()
	rt.settleLocked()
}

// lock locks rt.mu and reads the clock. Unlike enter it does not settle what is due. It is
// for callers that must do something before they call settleLocked.
func (rt *Runtime) lock() {
	rt.mu.Lock()
	rt.now = rt.read()
}

// leave completes the changes made since enter, and unlocks rt.mu. It grants free slots, and
// sets the timer to the next alarm. Then it starts the goroutines of new attempts, and wakes
// those that wait for a start, an end or a Sleep. If a write is due, it starts the writer.
//
// The order matters. Slots come first, because an attempt that begins sets its own
// alarm. The timer comes before goroutines are started or woken, because these may
// advance a Mock clock.
func (rt *Runtime) leave() {
	rt.grantSlotsLocked()
	rt.armLocked()
	s := &rt.scheduler
	if s.bell != nil {
		s.bell.keepLocked(rt, len(s.alarms) > 0)
	}
	s.startLocked()
	for _, c := range s.closing {
		close(c)
	}
	clear(s.closing)
	s.closing = s.closing[:0]
	rt.writer.watchLocked()
	rt.writer.wallClockLocked()
	rt.writer.wakeLocked()
	rt.mu.Unlock()
}

// armLocked makes the timer fire no later than the next alarm. It never moves the timer
// to a later instant: most alarms are removed or moved later before they ring, and a
// timer that fires too early costs less than a Reset for each of them.
func (rt *Runtime) armLocked() {
	s := &rt.scheduler
	for try := 1; s.alarms.next() < s.armed && !s.frozen; try++ {
		rt.now = rt.read()
		next := min(s.alarms.next(), rt.lookLocked())
		if next <= rt.now {
			// Not left to the timer: a Mock's timer that is set to the present fires
			// only when the Mock advances.
			rt.settleLocked()
			continue
		}
		if d := next.since(rt.now); s.timer == nil {
			s.bell = &bell{runtime: weak.Make(rt)}
			s.timer = rt.clock.AfterFunc(d, s.bell.ring)
		} else {
			s.timer.Reset(d)
		}
		// Another goroutine may have advanced a Mock between rt.read and Reset. The
		// timer would then fire late by that much, so it is set again. A Mock that never
		// rests must not keep this goroutine here forever.
		if rt.real || rt.read() == rt.now || try > 3 {
			s.armed = next
		}
	}
}

// A bell is the receiver of the timer's callback. When the last alarm is removed, the
// timer is not stopped, because a Stop for each Run would cost too much. Until the timer
// fires, the clock therefore references the bell. The bell's own reference to the Runtime
// is weak, so that a Runtime without alarms can be collected.
type bell struct {
	runtime weak.Pointer[Runtime] // never changes

	// kept is set while there are alarms, because nothing else may reference a Runtime
	// whose activities all back off. Guarded by Runtime.mu.
	kept *Runtime
}

func (b *bell) ring() {
	if rt := b.runtime.Value(); rt != nil {
		rt.tick()
	}
}

// keepLocked makes the bell's reference to the Runtime strong or weak. Runtime.mu is held.
func (b *bell) keepLocked(rt *Runtime, keep bool) {
	switch {
	case keep && b.kept == nil:
		b.kept = rt
	case !keep && b.kept != nil:
		b.kept = nil
	}
}

// tick is called when the timer fires.
func (rt *Runtime) tick() {
	rt.lock()
	rt.scheduler.armed = never
	rt.moment(rt.now) // for its side effect: it notices that the wall clock was set
	rt.settleLocked()
	rt.leave()
}

// startLocked starts the goroutines of the attempts that have begun since the last call.
func (s *scheduler) startLocked() {
	for _, t := range s.starting {
		go t.run()
	}
	clear(s.starting)
	s.starting = s.starting[:0]
}

// settleLocked rings all alarms that are due at rt.now.
func (rt *Runtime) settleLocked() {
	if rt.scheduler.alarms.next() <= rt.now && !rt.scheduler.frozen {
		rt.ringLocked()
	}
}

// freeze stops the scheduler, or lets it go on.
func (rt *Runtime) freeze(frozen bool) {
	rt.lock()
	rt.scheduler.frozen = frozen
	rt.settleLocked()
	rt.leave()
}

// startEvery is the number of alarms after which ringLocked starts the attempts that have
// begun so far. If thousands of attempts stall together, the first retry need not wait
// for the last timeout.
const startEvery = 64

// ringLocked rings the alarms that are due, the earliest first. At one instant timeouts
// come first, then starts, then wake-ups. Within each kind the order is that of
// scheduling, so that the same program sees the same order in every run (rule 25).
//
// If an alarm frees slots, they are granted before the next alarm rings.
func (rt *Runtime) ringLocked() {
	s := &rt.scheduler
	s.ringing = true
	due, late := rt.takeDueLocked()
	for i, d := range due {
		if d.a != nil {
			d.a.alarmLocked(late)
			rt.grantSlotsLocked()
		} else {
			d.s.wake()
		}
		// With a Mock, the timer must be set before a function can run: see starting.
		if rt.real && i%startEvery == startEvery-1 {
			s.startLocked()
		}
	}
	s.logs.rungLocked()
	clear(due)
	s.due = due
	s.ringing, s.logs, s.stacks = false, nil, nil
}

// takeDueLocked removes the alarms that are due from the queue and returns them in the
// order in which they ring. late is the time since the earliest timeout among them was
// due. It is how late the Runtime itself is, by which timeOutLocked recognizes a pause of
// the whole process (rule 11).
func (rt *Runtime) takeDueLocked() (due []dueAlarm, late time.Duration) {
	s, now := &rt.scheduler, rt.now
	due, earliest := s.due[:0], now
	for s.alarms.next() <= now {
		d := dueAlarm{alarm: s.alarms[0]}
		s.alarms.remove(1)
		if a := d.a; a != nil {
			// Heartbeats move a deadline without touching the queue, so the queue may
			// say earlier than the attempt does.
			if d.when = a.alarmAtLocked(); d.when > now {
				a.setAlarmLocked(d.when)
				continue
			}
			switch d.seq, d.rank = a.number, rankTimeout; {
			case a.phase == phaseBackingOff, a.phase == phaseStartFailed && a.closeBy() > now:
				d.rank = rankStart
			case a.phase == phaseBlocked && a.closeBy() > now: // only a log line is due
				d.rank = rankWake
			default:
				earliest = min(earliest, d.when)
			}
			if a.phase == phaseQueued {
				// The wait for a slot is over. If the activity stayed in the queue,
				// each slot freed at this instant would have to skip all activities
				// that time out now, which is quadratic.
				rt.slots.removeLocked(a)
			}
		} else {
			d.seq, d.rank = d.s.seq, rankWake
		}
		due = append(due, d)
	}
	slices.SortFunc(due, dueAlarm.compare)
	return due, now.since(earliest)
}

// setAlarmLocked sets the activity's only alarm to when. If when is never, the activity
// then has none.
func (a *activity) setAlarmLocked(when instant) {
	q := &a.rt.scheduler.alarms
	if a.place != 0 && (*q)[a.place-1].when == when {
		return
	}
	q.remove(a.place)
	if when != never {
		q.push(alarm{when: when, a: a})
	}
}

// setSleeperLocked sets the alarm of s to when. An alarm set before is replaced.
func (sch *scheduler) setSleeperLocked(s *sleeper, when instant) {
	sch.alarms.remove(s.place)
	sch.sleeps++
	s.seq = sch.sleeps
	sch.alarms.push(alarm{when: when, s: s})
}

// A sleeper is the owner of an alarm that is not an activity's: a Sleep, a timeout of a
// Store's call, or a pause of the writer. Guarded by Runtime.mu.
type sleeper struct {
	place int32  // the alarm's place in scheduler.alarms, from 1; 0 if no alarm is set
	seq   uint64 // order among the sleepers that wake at one instant
	wake  func() // the alarm's callback, called with Runtime.mu held; must not block
}

// A waitTimer closes a channel at an instant of the Runtime's clock. It is the package's
// time.Timer: because it is an alarm, it rings in a fixed order with everything else.
type waitTimer struct {
	rt *Runtime
	c  chan struct{}
	sleeper
}

// newWaitTimer returns a waitTimer whose channel is closed after d. Unless it has rung, the
// caller must stop it.
func (rt *Runtime) newWaitTimer(d time.Duration) *waitTimer {
	rt.enter()
	defer rt.leave()
	return rt.newWaitTimerLocked(d)
}

func (rt *Runtime) newWaitTimerLocked(d time.Duration) *waitTimer {
	r := &waitTimer{rt: rt, c: make(chan struct{})}
	// The channel is not closed here but by leave, after the timer is set.
	r.wake = func() { rt.scheduler.closing = append(rt.scheduler.closing, r.c) }
	rt.scheduler.setSleeperLocked(&r.sleeper, rt.now.add(d))
	return r
}

// stop removes the alarm, if it has not rung. It does not close the channel.
func (r *waitTimer) stop() {
	r.rt.enter()
	defer r.rt.leave()
	r.rt.scheduler.alarms.remove(r.place)
}

// An alarm is an entry of the heap. It belongs to an activity or to a sleeper, and the
// other field is nil.
type alarm struct {
	when instant
	a    *activity
	s    *sleeper
}

// place returns where the alarm's owner keeps its place in the heap.
func (al alarm) place() *int32 {
	if al.a != nil {
		return &al.a.place
	}
	return &al.s.place
}

// A dueAlarm is an alarm that is about to ring, with its place in the order of its
// instant: first by rank, then by seq.
type dueAlarm struct {
	alarm
	rank int
	seq  uint64
}

const (
	rankTimeout = iota // a deadline that was missed
	rankStart          // the next attempt of an activity, after a backoff or a failed save
	rankWake           // a sleeper, or the log line about a blocked activity
)

func (x dueAlarm) compare(y dueAlarm) int {
	return cmp.Or(cmp.Compare(x.when, y.when), cmp.Compare(x.rank, y.rank), cmp.Compare(x.seq, y.seq))
}

// alarms is a binary heap with the earliest alarm on top. Each alarm's owner keeps the
// alarm's place in the heap, counted from 1, so that it can be removed. The heap does not
// order the alarms of one instant: takeDueLocked does.
type alarms []alarm

// next returns the instant of the earliest alarm, or never.
func (q alarms) next() instant {
	if len(q) == 0 {
		return never
	}
	return q[0].when
}

func (q *alarms) push(al alarm) {
	*q = append(*q, al)
	q.up(al, int32(len(*q)))
}

// remove removes the alarm at place. If place is 0, it does nothing.
func (q *alarms) remove(place int32) {
	if place == 0 {
		return
	}
	n := int32(len(*q))
	*(*q)[place-1].place() = 0
	last := (*q)[n-1]
	(*q)[n-1] = alarm{}
	// The last alarm fills the hole. It may belong below the hole or, since it comes from
	// another branch, above it.
	if *q = (*q)[:n-1]; place < n {
		q.up(last, q.down(last, place))
	}
}

func (q alarms) put(al alarm, place int32) {
	q[place-1] = al
	*al.place() = place
}

// up puts al at place, or further up if its parents there are later.
func (q alarms) up(al alarm, place int32) {
	for place > 1 && q[place/2-1].when > al.when {
		q.put(q[place/2-1], place)
		place /= 2
	}
	q.put(al, place)
}

// down finds where al belongs at or below place, moves earlier children up, and returns
// the place that is then free. It does not put al there.
func (q alarms) down(al alarm, place int32) int32 {
	n := int32(len(q))
	for {
		child := 2 * place
		if child < n && q[child].when < q[child-1].when {
			child++
		}
		if child > n || q[child-1].when >= al.when {
			return place
		}
		q.put(q[child-1], place)
		place = child
	}
}
