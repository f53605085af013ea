package activity

import (
	"log/slog"
	"time"
)

// An Event is a step in an activity's life, delivered to Config.Observer.
type Event struct {
	Kind     EventKind
	Time     time.Time
	ID, Name string
	Attempt  int           // the attempt it is about; zero if none was started
	Err      error         // what went wrong; nil if nothing did
	Delay    time.Duration // of EventAttemptFailed: until the next attempt; zero also if there is none

	details []byte
	codec   Codec
}

// HeartbeatDetails decodes what an EventHeartbeat recorded, as
// [Context.HeartbeatDetails] does. A heartbeat without details recorded none.
func (e Event) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(e.codec, e.details, into)
}

// EventKind says what happened. After EventCompleted, EventFailed or
// EventCanceled, which end an activity, only EventAbandonedReturned may follow.
type EventKind int

const (
	_                      EventKind = iota
	EventScheduled                   // Start has accepted the activity
	EventAttemptStarted              // an attempt starts
	EventHeartbeat                   // a heartbeat of an attempt that is not over
	EventAttemptFailed               // an attempt ended in Err, a timeout included; not for canceled attempts
	EventAbandoned                   // a function still runs although its attempt is over
	EventAbandonedReturned           // it has returned
	EventBlocked                     // the next attempt waits for functions that hang; Attempt is the one that hangs
	EventCompleted                   // the function returned nil
	EventFailed                      // there is no further attempt
	EventCanceled                    // by the caller's context, Handle.Cancel or Shutdown
)

func (k EventKind) String() string {
	return enum("EventKind", int(k), "", "scheduled", "attempt started", "heartbeat", "attempt failed", "abandoned", "abandoned returned", "blocked", "completed", "failed", "canceled")
}

// A notice is what is delivered to the user's code: an event or a log line. It is never
// both, so that a Logger that calls runtime.Goexit loses no event.
type notice struct {
	event Event
	log   func() // nil if it is an event
}

// A delivery has the notices of one activity, in order. While there are any, a
// goroutine of its own delivers them, because the user's code may be slow, and may
// wait for locks that the Runtime's callers hold. Guarded by activity.mu.
type delivery struct {
	notices  []notice
	running  bool
	ended    bool      // the callers go on after the last notice
	held     bool      // those of the execution before of the same ID come first
	follower *activity // the next execution of the same ID, if its delivery is held
	lastTime time.Time // of the last event: no later one is earlier, even if a heartbeat was overtaken
}

// closeLocked reports whether the delivery will release the activity's callers,
// because it has something left to deliver. Activity.mu is held.
func (d *delivery) closeLocked() bool {
	if d == nil {
		return false
	}
	d.ended = d.running
	return d.running
}

// emitLocked posts an event, and a log line that goes with it. Runtime.mu is
// held, and activity.mu is not.
func (a *activity) emitLocked(kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	a.emitAtLocked(a.rt.now, kind, attempt, err, delay, log)
}

func (a *activity) emitAtLocked(at instant, kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	if log != nil {
		a.post(notice{log: log})
	}
	if a.rt.cfg.Observer != nil {
		a.post(notice{event: Event{Kind: kind, Time: a.rt.wall(at), Attempt: attempt, Err: err, Delay: delay}})
	}
}

// post has a notice delivered. Activity.mu is not held.
func (a *activity) post(n notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.postLocked(n)
}

// postLocked is post with activity.mu held.
func (a *activity) postLocked(n notice) {
	if a.delivery == nil {
		a.delivery = &delivery{}
	}
	d := a.delivery
	if n.log == nil {
		if n.event.Time.Before(d.lastTime) {
			n.event.Time = d.lastTime
		}
		d.lastTime = n.event.Time
	}
	d.notices = append(d.notices, n)
	if !d.running {
		d.running = true
		if !d.held {
			go a.deliver()
		}
	}
}

// followLocked has the notices of a, which is about to be scheduled, delivered after
// those of the execution before of the same ID, which has ended. Runtime.mu is held.
func (a *activity) followLocked(before *activity) {
	before.mu.Lock()
	defer before.mu.Unlock()
	if d := before.delivery; d != nil && d.running {
		a.delivery = &delivery{held: true}
		d.follower = a
	}
}

// follow is called when the last notice of the execution before was delivered.
func (a *activity) follow() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.delivery.held = false
	if a.delivery.running {
		go a.deliver()
	}
}

// deliver is the goroutine that delivers an activity's notices.
func (a *activity) deliver() {
	done := false
	defer func() {
		if !done { // an Observer or a Logger called runtime.Goexit
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
		a.rt.protect(a, "Config.Observer", func() { a.rt.cfg.Observer(e) })
	}
}

// nextNotice returns the next notice to deliver. If there is none, it releases
// the callers of an activity that has ended.
func (a *activity) nextNotice() (n notice, ok bool) {
	a.mu.Lock()
	d := a.delivery
	if len(d.notices) > 0 {
		n, d.notices = d.notices[0], d.notices[1:]
		a.mu.Unlock()
		return n, true
	}
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

// protect calls the user's code f. A panic is logged, and is all that happens.
func (rt *Runtime) protect(a *activity, what string, f func()) {
	defer func() {
		if v := recover(); v != nil {
			p := newPanicError(v)
			rt.log(slog.LevelError, "activity: "+what+" panicked", a, 0, slog.Any("error", p), slog.String("stack", string(p.Stack)))
		}
	}()
	f()
}
