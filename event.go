package activity

import (
	"fmt"
	"log/slog"
	"time"
)

// An Event is a step in an activity's life, told to Config.Observer.
type Event struct {
	Kind     EventKind
	Time     time.Time
	ID, Name string
	Attempt  int           // the attempt it speaks of; 0: none was started
	Err      error         // why; nil for a good step
	Delay    time.Duration // of EventAttemptFailed: until the next attempt; 0 as well if there is none

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
	EventAttemptFailed               // an attempt ended in Err, a timeout included; not told of canceled attempts
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

// A letter is a thing to tell the user's code, outside every lock.
type letter struct {
	event Event
	log   func()
	last  bool // the activity has ended: let its callers know
}

// A mailbox holds what is to be told of one activity, in order. While there is
// something in it, a goroutine delivers it: the user's code may take its time,
// and may take locks that whoever called us holds. Guarded by activity.mu.
type mailbox struct {
	letters    []letter
	delivering bool
	time       time.Time // of the last event: heartbeats read the clock before they get here
}

// tell posts an event, and a log line that goes with it. Activity.mu is not held.
func (a *activity) tell(now instant, kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	if a.rt.cfg.Observer != nil || log != nil {
		a.write(now, kind, attempt, err, delay, log)
	}
}

// write is apart from tell for the sake of its size on the stack: a goroutine whose
// stack grows costs several times what it costs otherwise.
func (a *activity) write(now instant, kind EventKind, attempt int, err error, delay time.Duration, log func()) {
	l := letter{log: log}
	if a.rt.cfg.Observer != nil {
		l.event = Event{Kind: kind, Time: a.rt.wall(now), Attempt: attempt, Err: err, Delay: delay}
	}
	a.mu.Lock()
	a.post(l)
	a.mu.Unlock()
}

// post needs activity.mu.
func (a *activity) post(l letter) {
	m := a.mail
	if m == nil {
		m = &mailbox{}
		a.mail = m
	}
	if l.event.Kind != 0 {
		if l.event.Time.Before(m.time) {
			l.event.Time = m.time
		}
		m.time = l.event.Time
	}
	m.letters = append(m.letters, l)
	if !m.delivering {
		m.delivering = true
		go a.deliver()
	}
}

// deliver tells the user's code what is in the mailbox.
func (a *activity) deliver() {
	m, whole := a.mail, false
	defer func() {
		if !whole { // an Observer or a Logger called runtime.Goexit
			go a.deliver()
		}
	}()
	for {
		a.mu.Lock()
		if len(m.letters) == 0 {
			m.letters, m.delivering, whole = nil, false, true
			a.mu.Unlock()
			return
		}
		l := m.letters[0]
		m.letters = m.letters[1:]
		a.mu.Unlock()

		if l.log != nil {
			a.rt.protect(a, "an error's text", l.log)
		}
		if e := l.event; e.Kind != 0 {
			e.ID, e.Name = a.id(), a.name()
			a.rt.protect(a, "Config.Observer", func() { a.rt.cfg.Observer(e) })
		}
		if l.last {
			a.rt.lock()
			a.rt.toAnswer(a)
			a.rt.own = a
			a.rt.unlock()
		}
	}
}

// close lets the activity's callers go on, once everything has been told. No
// attempt runs any more. It reports whether a function is inside Guard. Runtime.mu
// is held.
func (a *activity) close() (guarded bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rt.beats += a.beats
	if a.mail != nil && a.mail.delivering {
		a.post(letter{last: true})
	} else {
		a.rt.toAnswer(a)
	}
	return a.inGuard()
}

// toAnswer lets leave answer a's callers: to release their context is user code, and to
// wake them takes a while. Runtime.mu is held.
func (rt *Runtime) toAnswer(a *activity) {
	a.next, rt.answers = rt.answers, a
	rt.answering.Add(1)
	rt.unanswered--
	if rt.unanswered == 0 && rt.idle != nil {
		rt.heard = append(rt.heard, rt.idle)
		rt.idle = nil
	}
}

// answer lets the activity's callers go on. Runtime.mu is not held, and, if a.caller is
// set, the goroutine is none of the user's: they may hold a lock that their context needs.
func (a *activity) answer() {
	if a.caller != nil {
		a.caller.release()
	}
	a.mu.Lock()
	a.answered = true
	if a.done != nil {
		close(a.done)
	}
	a.mu.Unlock()
	a.ended.Done()
	a.rt.answered()
}

// doneChan makes a channel of the end, which few ask for.
func (a *activity) doneChan() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = make(chan struct{})
		if a.answered {
			close(a.done)
		}
	}
	return a.done
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

// log writes a line, about an activity if a is not nil. It is not called under a lock.
func (rt *Runtime) log(level slog.Level, msg string, a *activity, attempt int, attrs ...slog.Attr) {
	defer func() { _ = recover() }() // a Handler's panic has nowhere to go
	l := rt.logger()
	if !l.Enabled(rt.ctx, level) {
		return
	}
	var all []slog.Attr
	if a != nil {
		all = append(all, slog.String("id", a.id()), slog.String("name", a.name()))
	}
	if attempt > 0 {
		all = append(all, slog.Int("attempt", attempt))
	}
	l.LogAttrs(rt.ctx, level, msg, append(all, attrs...)...)
}

func (rt *Runtime) logger() *slog.Logger {
	if rt.cfg.Logger != nil {
		return rt.cfg.Logger
	}
	return slog.Default()
}

// A burst is what is logged of one instant: thousands that stall together are a
// few lines, not thousands of stacks. Guarded by Runtime.mu.
type burst struct {
	settling bool // more may come
	pending  int  // attempts that timed out, and whose Retryable is being asked
	last     *activity
	lines    [len(burstKinds)]int
}

const burstLines = 5 // of each kind are written in full

const (
	lineFailed = iota
	lineBlocked
	lineAbandoned
)

var burstKinds = [...]struct {
	level slog.Level
	rest  string
}{
	lineFailed:    {slog.LevelWarn, "activity: %d more attempts timed out at the same instant"},
	lineBlocked:   {slog.LevelError, "activity: %d more activities were blocked by functions that hang at the same instant"},
	lineAbandoned: {slog.LevelWarn, "activity: %d more canceled functions were abandoned at the same instant"},
}

// burstNow is that of the settle that is under way.
func (rt *Runtime) burstNow() *burst {
	if rt.burst == nil {
		rt.burst = &burst{settling: true}
	}
	return rt.burst
}

// full reports whether one more line is to be written in full. Of a nil burst
// all are.
func (b *burst) full(kind int, a *activity) bool {
	if b == nil {
		return true
	}
	b.last = a
	b.lines[kind]++
	return b.lines[kind] <= burstLines
}

// resolved counts an attempt that timed out and has had its line.
func (b *burst) resolved() {
	if b != nil {
		b.pending--
		b.sum()
	}
}

// sum writes the lines that count the rest, once all is known.
func (b *burst) sum() {
	a := b.last
	if b.settling || b.pending > 0 {
		return
	}
	for kind, n := range b.lines {
		if rest := n - burstLines; rest > 0 {
			a.mu.Lock()
			a.post(letter{log: func() {
				a.rt.log(burstKinds[kind].level, fmt.Sprintf(burstKinds[kind].rest, rest), nil, 0)
			}})
			a.mu.Unlock()
		}
	}
}

// failedLog is the line about the latest attempt, which has failed.
func (a *activity) failedLog(retry RetryState, delay time.Duration) func() {
	if !a.latest.burst.full(lineFailed, a) {
		return nil
	}
	return a.attemptFailed(a.latest.number, a.failure, retry, delay)
}

func (a *activity) attemptFailed(number int, err error, retry RetryState, delay time.Duration) func() {
	return func() {
		next := slog.Duration("retry_in", delay)
		if retry != 0 {
			next = slog.String("no_retry", retry.String())
		}
		attrs := []slog.Attr{slog.String("error", short(err)), next}
		if stack := stackOf(err); stack != nil {
			attrs = append(attrs, slog.String("stack", string(stack)))
		}
		a.rt.log(slog.LevelWarn, "activity: attempt failed", a, number, attrs...)
	}
}

// logRestart logs what became of the last attempt of an earlier process, if that
// attempt failed or there is no further one.
func (a *activity) logRestart(err error, retry RetryState, delay time.Duration) {
	if err == nil {
		return
	}
	a.mu.Lock()
	a.post(letter{log: a.attemptFailed(a.attempt(), err, retry, delay)})
	a.mu.Unlock()
}

// abandonedLog is the line about the latest attempt, which is canceled and whose
// function is given up.
func (a *activity) abandonedLog(stack []byte, noStack string) func() {
	t := a.latest
	if !a.rt.burstNow().full(lineAbandoned, a) {
		return nil
	}
	return func() {
		attr := slog.String("stack", string(stack))
		if len(stack) == 0 {
			attr = slog.String("no_stack", noStack)
		}
		a.rt.log(slog.LevelWarn, "activity: canceled, but the function does not return: abandoned", a, t.number, attr)
	}
}

// blockedLog is the line about an activity whose next attempt waits for the
// latest one's function, or for one of an attempt before.
func (a *activity) blockedLog() func() {
	t, b := a.latest, a.latest.burst
	if a.rt.settling {
		b = a.rt.burstNow()
	}
	if !b.full(lineBlocked, a) {
		return nil
	}
	why := fmt.Sprintf("%d functions of earlier attempts still run, and MaxAbandoned is %d", a.abandoned, a.opts.MaxAbandoned)
	if a.guarded() {
		why = "the function of the last attempt is still inside Guard"
	}
	stack := stackOf(a.failure)
	return func() {
		a.rt.log(slog.LevelError, "activity: the next attempt is blocked by a function that hangs", a, t.number, slog.String("waits_for", why), slog.String("stack", string(stack)))
	}
}

// stackOf is where an attempt that ended with err was.
func stackOf(err error) []byte {
	switch e := err.(type) {
	case *TimeoutError:
		return e.Stack
	case *PanicError:
		return e.Stack
	}
	return nil
}

// oneLevel takes the failure before err's off err.
func oneLevel(err error) error {
	e, ok := err.(*TimeoutError)
	if !ok || e.LastFailure == nil {
		return err
	}
	c := *e
	c.LastFailure = nil
	return &c
}
