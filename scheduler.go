package activity

import (
	"cmp"
	"slices"
	"time"
	"weak"

	"github.com/benbjohnson/clock"
)

// A scheduler has the alarms of a Runtime's activities and sleepers, and the
// one timer on its clock. Guarded by Runtime.mu.
type scheduler struct {
	alarms alarms
	timer  *clock.Timer // nil until the first alarm
	bell   *bell        // what timer calls; nil until then
	armed  instant      // when timer fires; never: it is not set
	sleeps uint64       // sleepers so far, which orders them
	due    []dueAlarm   // reused by ringLocked

	// leave does this once the timer is set.
	starting []*attempt      // their goroutines are started
	closing  []chan struct{} // they are closed: whoever waits for one may move a Mock on

	// While alarms ring.
	ringing bool
	logs    *instantLogs // nil until a line is to be logged
	stacks  *dump        // nil until a stack is wanted

	noDumpBefore instant // of the goroutines' stacks
}

// enter locks rt.mu, and first does what is due, so that at any instant a
// timeout comes before whatever else happens at it. Until leave, rt.now is
// that instant.
func (rt *Runtime) enter() {
	rt.lock()
	rt.settleLocked()
}

// lock locks rt.mu and reads the clock. It does not do what is due.
func (rt *Runtime) lock() {
	rt.mu.Lock()
	rt.now = rt.read()
}

// leave grants free slots, sets the timer for the next alarm, starts the
// attempts that have begun, wakes those that wait for a start, an end or a Sleep,
// starts the writer if it has something to do, and unlocks rt.mu.
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
	rt.writer.wallClockLocked()
	rt.writer.wakeLocked()
	rt.mu.Unlock()
}

// armLocked makes the timer fire at the next alarm.
func (rt *Runtime) armLocked() {
	s := &rt.scheduler
	for try := 1; s.alarms.next() < s.armed; try++ {
		rt.now = rt.read()
		next := min(s.alarms.next(), rt.lookLocked())
		if next <= rt.now {
			// A Mock's timer that is set to the present fires only when its time moves on.
			rt.settleLocked()
			continue
		}
		if d := next.since(rt.now); s.timer == nil {
			s.bell = &bell{runtime: weak.Make(rt)}
			s.timer = rt.clock.AfterFunc(d, s.bell.ring)
		} else {
			s.timer.Reset(d)
		}
		// If a Mock has moved on meanwhile, the timer is set late by that.
		if rt.real || rt.read() == rt.now || try > 3 {
			s.armed = next
		}
	}
}

// A bell is what the timer calls. When the last alarm is gone, the timer is not stopped,
// because a Stop for each Run would cost too much. The clock then keeps the bell until the
// timer fires, so the bell must not keep a Runtime that has no alarms.
type bell struct {
	runtime weak.Pointer[Runtime]
	kept    *Runtime // while there are alarms: what backs off may have no other reference
}

func (b *bell) ring() {
	if rt := b.runtime.Value(); rt != nil {
		rt.tick()
	}
}

// keepLocked needs Runtime.mu.
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
	rt.moment(rt.now) // looks at the wall clock
	rt.settleLocked()
	rt.leave()
}

// startLocked starts the goroutines of attempts that have begun.
func (s *scheduler) startLocked() {
	for _, t := range s.starting {
		go t.run()
	}
	clear(s.starting)
	s.starting = s.starting[:0]
}

// settleLocked does all that is due.
func (rt *Runtime) settleLocked() {
	if rt.scheduler.alarms.next() <= rt.now {
		rt.ringLocked()
	}
}

// startEvery is how many alarms ring before the attempts that they have begun
// start. When thousands stall together, the first need not wait for the last.
const startEvery = 64

// ringLocked does what the due alarms are for, the earliest first. At one instant
// timeouts come first, then starts, then wake-ups.
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
		if rt.real && i%startEvery == startEvery-1 { // with a Mock, the timer must be set first
			s.startLocked()
		}
	}
	s.logs.rungLocked()
	clear(due)
	s.due = due
	s.ringing, s.logs, s.stacks = false, nil, nil
}

// takeDueLocked takes the alarms that are due out of the queue, and returns them in
// order. Of those that are timeouts, late is the age of the oldest.
func (rt *Runtime) takeDueLocked() (due []dueAlarm, late time.Duration) {
	s, now := &rt.scheduler, rt.now
	due, earliest := s.due[:0], now
	for s.alarms.next() <= now {
		d := dueAlarm{alarm: s.alarms[0]}
		s.alarms.remove(1)
		if a := d.a; a != nil {
			if d.when = a.alarmAtLocked(); d.when > now { // a heartbeat has moved it
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
				// It gets no slot any more. Else all that are due would stand in the
				// way of those that are not, whenever a slot is freed at this instant.
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

// setAlarmLocked sets the activity's alarm to when.
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

// setSleeperLocked sets the alarm of s to when.
func (sch *scheduler) setSleeperLocked(s *sleeper, when instant) {
	sch.alarms.remove(s.place)
	sch.sleeps++
	s.seq = sch.sleeps
	sch.alarms.push(alarm{when: when, s: s})
}

// A sleeper has an alarm, and is not an activity.
type sleeper struct {
	place int32  // of the alarm in the queue of alarms; 0 if it is not set
	seq   uint64 // orders those that wake at one instant
	wake  func() // called with Runtime.mu held
}

// A ring is a channel that is closed at an instant.
type waitTimer struct {
	rt *Runtime
	c  chan struct{}
	sleeper
}

// newWaitTimer returns a ring that is closed after d.
func (rt *Runtime) newWaitTimer(d time.Duration) *waitTimer {
	rt.enter()
	defer rt.leave()
	return rt.newWaitTimerLocked(d)
}

func (rt *Runtime) newWaitTimerLocked(d time.Duration) *waitTimer {
	r := &waitTimer{rt: rt, c: make(chan struct{})}
	r.wake = func() { rt.scheduler.closing = append(rt.scheduler.closing, r.c) }
	rt.scheduler.setSleeperLocked(&r.sleeper, rt.now.add(d))
	return r
}

// stop is called by who waits no longer.
func (r *waitTimer) stop() {
	r.rt.enter()
	defer r.rt.leave()
	r.rt.scheduler.alarms.remove(r.place)
}

// An alarm is an entry in the queue. It rings for an activity or for a sleeper.
type alarm struct {
	when instant
	a    *activity
	s    *sleeper
}

func (al alarm) place() *int32 {
	if al.a != nil {
		return &al.a.place
	}
	return &al.s.place
}

// A dueAlarm is an alarm that rings. What is due at one instant is done in the
// order of rank, and then of seq.
type dueAlarm struct {
	alarm
	rank int
	seq  uint64
}

const (
	rankTimeout = iota
	rankStart
	rankWake
)

func (x dueAlarm) compare(y dueAlarm) int {
	return cmp.Or(cmp.Compare(x.when, y.when), cmp.Compare(x.rank, y.rank), cmp.Compare(x.seq, y.seq))
}

// alarms are a binary heap, the earliest first. Each alarm knows its place in
// it, counted from 1. The order of those at one instant is ringLocked's.
type alarms []alarm

// next is when the earliest alarm rings.
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

// remove takes out the alarm at place, if that is not 0.
func (q *alarms) remove(place int32) {
	if place == 0 {
		return
	}
	n := int32(len(*q))
	*(*q)[place-1].place() = 0
	last := (*q)[n-1]
	(*q)[n-1] = alarm{}
	if *q = (*q)[:n-1]; place < n {
		q.up(last, q.down(last, place))
	}
}

func (q alarms) put(al alarm, place int32) {
	q[place-1] = al
	*al.place() = place
}

// up puts al at place, or as far above as it belongs.
func (q alarms) up(al alarm, place int32) {
	for place > 1 && q[place/2-1].when > al.when {
		q.put(q[place/2-1], place)
		place /= 2
	}
	q.put(al, place)
}

// down makes room for al at place, or as far below as it belongs, and returns
// where.
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
