package activity

import (
	"log/slog"
	"time"
)

// An Event is a step in an activity's life, delivered to Config.Observer and to subscribers.
type Event struct {
	Kind     EventKind
	Time     time.Time
	ID, Name string
	Attempt  int           // number of the attempt; zero if none was started
	Err      error         // error of the attempt or the activity; with EventPaused, the function's error, unless it only reports the stop; nil if there is none
	Delay    time.Duration // with EventAttemptFailed, the wait before the next attempt; zero if it starts at once, or if there is none

	details     []byte    // details of an EventHeartbeat; nil if it had none
	codec       Codec     // the Codec that encoded details
	scheduledAt time.Time // Status.ScheduledAt; zero with EventHeartbeat
}

// HeartbeatDetails decodes the details of an EventHeartbeat, as
// [Context.HeartbeatDetails] does. It reports false if the heartbeat had no details.
func (e Event) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(e.codec, e.details, into)
}

// EventKind is the kind of an Event. EventCompleted, EventFailed and EventCanceled end an
// activity: after them only EventAbandonedReturned may follow.
type EventKind int

const (
	_                      EventKind = iota
	EventScheduled                   // the activity was accepted by Start, Run or Recover
	EventAttemptStarted              // an attempt starts
	EventHeartbeat                   // an attempt that is not over has sent a heartbeat
	EventAttemptFailed               // an attempt has failed or timed out, with Err; not for canceled or paused attempts
	EventAbandoned                   // an attempt is over, but its function still runs
	EventAbandonedReturned           // the function of an abandoned attempt has returned
	EventBlocked                     // the activity is in StateBlocked; Attempt is the last attempt
	EventCompleted                   // the activity has completed: its function returned nil
	EventFailed                      // the activity has failed, and there is no further attempt
	EventCanceled                    // the activity was canceled by the caller's context, Handle.Cancel, Runtime.Cancel, Drain or Shutdown
	EventPaused                      // the activity is paused and no attempt runs, or it is started from a paused checkpoint
	EventUnpaused                    // Runtime.Unpause was called

	lastEventKind = EventUnpaused
)

// String returns the kind's name in lower case, such as "attempt started".
func (k EventKind) String() string {
	return enum("EventKind", int(k), "", "scheduled", "attempt started", "heartbeat", "attempt failed", "abandoned", "abandoned returned", "blocked", "completed", "failed", "canceled", "paused", "unpaused")
}

// Delivery of events to the Observer, and of log lines to the Logger. Both are user code,
// which may be slow, and may wait for locks that callers of the Runtime hold. So neither
// is called under a lock, or in a goroutine of the caller's.

// A notice is an event or a log line. It is never both, so that a Logger that calls
// runtime.Goexit does not lose an event.
type notice struct {
	event Event
	to    *subscriber // gets the event
	log   func()      // writes a log line; nil if the notice is an event
}

// A delivery is the queue of an activity's notices. While there are any, one goroutine
// delivers them in order. Guarded by activity.mu.
type delivery struct {
	notices  []notice
	running  bool      // whether a goroutine is delivering, or will once held is false
	ended    bool      // whether the goroutine is to release the callers after the last notice
	held     bool      // whether the notices of the previous execution of the ID must be delivered first
	follower *activity // the next execution of the ID, whose delivery is held; nil if there is none
	lastTime time.Time // Time of the last event posted
}

// closeLocked is called once, when the activity's last event has been posted. It reports
// whether the goroutine that delivers will release the callers. If nothing is being
// delivered, the caller must do so. activity.mu is held.
func (d *delivery) closeLocked() bool {
	if d == nil {
		return false
	}
	d.ended = d.running || d.held
	return d.ended
}

// emitLocked posts an event at the present instant and, if log is not nil, a log line. The
// log line comes first. Runtime.mu is held, and activity.mu is not.
func (a *activity) emitLocked(kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	a.emitAtLocked(a.rt.now, kind, attempt, err, delay, log)
}

// emitAtLocked is emitLocked for an event at another instant.
func (a *activity) emitAtLocked(at instant, kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	if log != nil {
		a.post(notice{log: log})
	}
	// Events that nobody wants cost nothing, and no goroutine that delivers them.
	if a.rt.subscribers.want(kind) {
		a.mu.Lock()
		a.postEventLocked(Event{Kind: kind, Time: a.rt.wall(at), Attempt: attempt, Err: err, Delay: delay, scheduledAt: a.rt.time(a.scheduled)})
		a.mu.Unlock()
	}
}

// post queues a notice. activity.mu must not be held.
func (a *activity) post(n notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.postLocked(n)
}

// postEventLocked has an event delivered to each subscriber that wants it, by a notice of
// its own, so that one that calls runtime.Goexit takes it from no other. Activity.mu is held.
func (a *activity) postEventLocked(e Event) {
	for _, s := range a.rt.subscribers.list.Load().all {
		if s.kinds.has(e.Kind) {
			a.postLocked(notice{event: e, to: s})
		}
	}
}

// postLocked is post with activity.mu held.
func (a *activity) postLocked(n notice) {
	if a.delivery == nil {
		a.delivery = &delivery{}
	}
	d := a.delivery
	if n.log == nil {
		// A heartbeat reads the clock before it locks activity.mu, so another event may
		// overtake it. The times of an activity's events must not decrease.
		if n.event.Time.Before(d.lastTime) {
			n.event.Time = d.lastTime
		}
		d.lastTime = n.event.Time
	}
	d.notices = append(d.notices, n)
	if !d.running {
		// A held delivery is started by follow.
		d.running = true
		if !d.held {
			go a.deliver()
		}
	}
}

// followLocked makes the delivery of a, which is about to be scheduled, wait for that of
// before, the previous execution of the ID, which has ended. Runtime.mu is held.
func (a *activity) followLocked(before *activity) {
	before.mu.Lock()
	defer before.mu.Unlock()
	if d := before.delivery; d != nil && (d.running || d.held) {
		a.delivery = &delivery{held: true}
		d.follower = a
	}
}

// follow starts the delivery that followLocked has held.
func (a *activity) follow() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.delivery.held = false
	if d := a.delivery; d.running || d.ended || d.follower != nil {
		d.running = true
		go a.deliver()
	}
}

// takeDelivery makes the goroutine of an attempt, whose function has returned, the one that
// delivers. It reports false if there is nobody to deliver to, or if another goroutine delivers.
// If it reports true, the caller must call deliver as soon as it has unlocked Runtime.mu.
// A new goroutine would cost more than the delivery itself. activity.mu must not be held.
func (a *activity) takeDelivery() bool {
	if list := a.rt.subscribers.list.Load(); list == nil || len(list.all) == 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.delivery == nil {
		a.delivery = &delivery{}
	}
	d := a.delivery
	if d.running || d.held {
		return false
	}
	d.running = true
	return true
}

// deliver delivers an activity's notices until there are none. Unless takeDelivery has reported
// true, it is a goroutine of its own.
func (a *activity) deliver() {
	done := false
	defer func() {
		if !done { // an Observer or a Logger called runtime.Goexit, so another goroutine continues
			go a.deliver()
		}
	}()
	for {
		n, ok := a.nextNotice()
		if !ok {
			done = true
			return
		}
		if n.log != nil {
			a.rt.protect(a, "an error's text", n.log)
			continue
		}
		e := n.event
		e.ID, e.Name = a.id(), a.name()
		n.to.tell(a.rt, a, e)
	}
}

// nextNotice returns the next notice to deliver. If there is none, it ends the delivery:
// the next execution of the ID may deliver, and if the activity has ended, its callers are
// released.
func (a *activity) nextNotice() (n notice, ok bool) {
	a.mu.Lock()
	d := a.delivery
	if len(d.notices) > 0 {
		n, d.notices = d.notices[0], d.notices[1:]
		a.mu.Unlock()
		return n, true
	}
	// From here on post starts another goroutine. That cannot deliver out of order, because
	// this one delivers nothing any more.
	d.notices, d.running = nil, false
	release, follower := d.ended, d.follower
	d.ended, d.follower = false, nil
	a.mu.Unlock()
	if follower != nil {
		follower.follow()
	}
	if release {
		a.rt.enter()
		a.releaseLocked()
		a.rt.leave()
	}
	return notice{}, false
}

// protect calls f, which calls user code named by what. It logs a panic of f, and returns
// as usual. No lock may be held.
func (rt *Runtime) protect(a *activity, what string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			p := newPanicError(v)
			rt.log(slog.LevelError, "activity: "+what+" panicked", a, 0, slog.Any("error", p), slog.String("stack", string(p.Stack)))
		}
	}()
	f()
}
