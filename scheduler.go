package activity

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// An instant is a point on a Runtime's clock: nanoseconds since it was made.
type instant int64

// never is a deadline that there is none of.
const never = instant(math.MaxInt64)

// add saturates at never.
func (i instant) add(d time.Duration) instant {
	if i > 0 && instant(d) > never-i {
		return never
	}
	return i + instant(d)
}

// deadline is the instant that a timeout counted from i ends at.
func (i instant) deadline(timeout time.Duration) instant {
	if timeout == 0 {
		return never
	}
	return i.add(timeout)
}

// A dueAlarm is an alarm that rings. What is due at one instant is done in the order
// of rank.
type dueAlarm struct {
	alarm
	rank int
	seq  uint64
}

func (x dueAlarm) compare(y dueAlarm) int {
	return cmp.Or(cmp.Compare(x.when, y.when), cmp.Compare(x.rank, y.rank), cmp.Compare(x.seq, y.seq))
}

const (
	rankTimeout = iota
	rankStart
	rankWake
)

// An alarm is an entry of a Runtime's queue: the next thing that an activity waits
// for, or the end of a Sleep. Guarded by Runtime.mu.
type alarm struct {
	when instant
	a    *activity // whose alarm it is, or
	s    *sleeper
}

// A sleeper has an alarm, and is no activity.
type sleeper struct {
	place int32         // as activity.place
	seq   uint64        // orders those that wake at one instant
	wake  chan struct{} // nil: the Store is to be written to
}

func (al alarm) place() *int32 {
	if al.a != nil {
		return &al.a.place
	}
	return &al.s.place
}

// A queue is a binary heap of alarms, the earliest first, each of which knows its
// place in it: counted from 1. What is due at one instant is put in order when it is
// taken out, see ring.
type queue []alarm

func (q *queue) push(al alarm) {
	*q = append(*q, al)
	q.up(al, int32(len(*q)))
}

// remove takes out what is at place, if that is not 0.
func (q *queue) remove(place int32) {
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

func (q queue) put(al alarm, place int32) {
	q[place-1] = al
	*al.place() = place
}

// up puts al at place, or as far above as it belongs.
func (q queue) up(al alarm, place int32) {
	for place > 1 && q[place/2-1].when > al.when {
		q.put(q[place/2-1], place)
		place /= 2
	}
	q.put(al, place)
}

// down makes room for al at place, or as far below as it belongs, and returns where.
func (q queue) down(al alarm, place int32) int32 {
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

func (q queue) next() instant {
	if len(q) == 0 {
		return never
	}
	return q[0].when
}

// now reads the clock. The monotonic reading alone is half the cost of
// time.Now.
func (rt *Runtime) now() instant {
	if rt.real {
		return instant(time.Since(rt.base))
	}
	return instant(rt.cfg.Clock.Now().Sub(rt.base))
}

// wall is the time of day at i, as far as is known now.
func (rt *Runtime) wall(i instant) time.Time { return rt.wallAt(i, rt.wallMoved(i)) }

// wallAt is the time of day at i on a wall clock that has moved by itself.
func (rt *Runtime) wallAt(i instant, moved time.Duration) time.Time {
	return rt.base.Round(0).Add(time.Duration(i)).Add(moved)
}

// wallMoved is how far the wall clock has moved by itself (it was set, or the
// machine slept) since the Runtime was made. That is put right when it is more
// than a little, since two readings of both clocks are not of one instant. It is looked
// at every wallCheck at most, since that costs more than one reading of the clock; who
// asks about a time before the last look does not look.
func (rt *Runtime) wallMoved(i instant) time.Duration {
	if i-instant(rt.lookedAt.Load()) >= instant(wallCheck) {
		now := rt.cfg.Clock.Now()
		rt.lookedAt.Store(int64(now.Sub(rt.base)))
		moved := int64(now.Round(0).Sub(rt.base.Round(0)) - now.Sub(rt.base))
		if d := moved - rt.moved.Load(); d > int64(wallSlack) || d < -int64(wallSlack) {
			rt.moved.Store(moved)
		}
	}
	return time.Duration(rt.moved.Load())
}

const (
	wallSlack = 10 * time.Millisecond
	wallCheck = 100 * time.Millisecond
)

// lock locks rt.mu and does what is due, so that at any instant a timeout comes
// before whatever else happens at it. It returns that instant.
func (rt *Runtime) lock() instant {
	rt.enter()
	now := rt.now()
	rt.settle(now)
	return now
}

// enter locks rt.mu.
func (rt *Runtime) enter() {
	for range spins {
		if rt.mu.TryLock() {
			return
		}
	}
	rt.mu.Lock()
}

// spins is how often enter looks whether rt.mu is free before it queues for it. It is
// held for some 0.1 us, and a sync.Mutex looks again only after 0.4.
const spins = 200

// catchUp does what is due.
func (rt *Runtime) catchUp() {
	rt.lock()
	rt.unlock()
}

// unlock unlocks rt.mu. What was handed in meanwhile it takes in, if nobody else
// holds the lock, who would do it. User code comes last.
func (rt *Runtime) unlock() {
	own := rt.leave()
	for rt.handedIn.Load() != nil && rt.mu.TryLock() {
		rt.settle(rt.now())
		rt.leave()
	}
	if own != nil {
		own.answer()
	}
}

// leave sees to it that the timer is set for the next alarm, unlocks rt.mu, and
// then does what is left to do outside it, but for the answer of the activity that it
// returns.
func (rt *Runtime) leave() (mine *activity) {
	for try := 1; rt.queue.next() < rt.armed; try++ {
		now := rt.now()
		next := rt.queue.next()
		if next <= now {
			// A Mock's timer that is set to what is due fires only when its time moves on.
			rt.settle(now)
			continue
		}
		if d := time.Duration(next - now); rt.timer == nil {
			rt.timer = rt.cfg.Clock.AfterFunc(d, rt.tick)
		} else {
			rt.timer.Reset(d)
		}
		// A Mock may have moved on meanwhile, and the timer be set late by that.
		if rt.real || rt.now() == now || try > 3 {
			rt.armed = next
		}
	}
	run, answers, heard, own := rt.runFirst, rt.answers, rt.heard, rt.own
	rt.runFirst, rt.runLast, rt.answers, rt.heard, rt.own = nil, nil, nil, nil, nil
	flush := rt.flushIsDue() && !rt.flushing
	if flush {
		rt.flushing = true
	}
	rt.mu.Unlock()
	for _, c := range heard {
		close(c)
	}
	if flush {
		go rt.flush()
	}
	spawn(run)
	for a := answers; a != nil; {
		next := a.next
		a.next = nil
		switch {
		case a == own:
			mine = a
		case a.caller == nil:
			a.answer()
		default:
			go a.answer()
		}
		a = next
	}
	return mine
}

// run lets leave, or ring if there are many, start t's goroutine: under rt.mu it would
// soon wait for it.
func (rt *Runtime) run(t *attempt) {
	if rt.runLast == nil {
		rt.runFirst = t
	} else {
		rt.runLast.next = t
	}
	rt.runLast = t
}

// spawn starts the goroutines of a list of attempts.
func spawn(first *attempt) {
	for t := first; t != nil; {
		next := t.next // t is its own goroutine's from here on
		t.next = nil
		go t.run()
		t = next
	}
}

// tick is what the timer calls.
func (rt *Runtime) tick() {
	rt.enter()
	rt.armed = never
	rt.settle(rt.now())
	rt.unlock()
}

// settle does all that is due at now: the earlier first, and at one instant
// timeouts, then starts, then wake-ups. It is called before anything else that
// happens at now. Runtime.mu is held.
func (rt *Runtime) settle(now instant) {
	if rt.queue.next() <= now {
		rt.ring(now)
	}
	if rt.handedIn.Load() != nil {
		rt.takeIn(now)
	}
}

// burstSize is how many alarms of one settle ring before the attempts that they have
// started run: of thousands that stall together, the first need not wait for the last.
const burstSize = 64

// ring does what the alarms that are due are for.
func (rt *Runtime) ring(now instant) {
	rt.settling = true
	due := rt.due[:0]
	earliest := now
	for rt.queue.next() <= now {
		d := dueAlarm{alarm: rt.queue[0]}
		rt.queue.remove(1)
		switch {
		case d.a != nil:
			// A heartbeat does not touch the queue: its deadline may have moved.
			if d.when, d.rank = d.a.nextAlarm(); d.when > now {
				d.a.setAlarmAt(d.when)
				continue
			}
			d.seq = d.a.number
			if d.rank == rankTimeout {
				earliest = min(earliest, d.when)
			}
		default:
			d.seq = d.s.seq
			if d.s.wake != nil {
				d.rank = rankWake
			}
		}
		due = append(due, d)
	}
	slices.SortFunc(due, dueAlarm.compare)
	for i, al := range due {
		if rt.real && i%burstSize == burstSize-1 { // under a Mock, the timer is set first
			spawn(rt.runFirst)
			rt.runFirst, rt.runLast = nil, nil
		}
		switch {
		case al.a != nil:
			al.a.expire(now, time.Duration(now-earliest))
		case al.s.wake != nil:
			al.s.wake <- struct{}{}
		case al.s == &rt.saves.sleeper:
			rt.saves.due = true
		default:
			rt.deletes.due = true
		}
	}
	if b := rt.burst; b != nil {
		b.settling = false
		b.sum()
	}
	clear(due)
	rt.due = due
	rt.settling, rt.burst, rt.stacks = false, nil, nil
}

// setAlarm puts a's alarm to what it waits for at present. Runtime.mu is held.
func (a *activity) setAlarm() {
	when, _ := a.nextAlarm()
	a.setAlarmAt(when)
}

func (a *activity) setAlarmAt(when instant) {
	q := &a.rt.queue
	if a.place != 0 && (*q)[a.place-1].when == when {
		return
	}
	q.remove(a.place)
	if when != never {
		q.push(alarm{when: when, a: a})
	}
}
