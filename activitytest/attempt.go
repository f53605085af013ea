package activitytest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// An attempt is the Context that a function gets. Its methods pass the places.
type attempt struct {
	activity.Context // Context of the Runtime; nil for the process itself
	life             *life
	info             activity.Info
	self             context.Context // Context in which activity.FromContext finds this attempt
	goid             string          // goroutine of the function

	// Guarded by World.mu.
	idling      int         // number of its goroutines in activity.Idle, with World.StopWhenIdle
	hang        *hang       // the attempt's stall; nil if it has not stalled
	execution   int         // number of executions that completed before this one
	fromNothing bool        // whether it resumes from nothing in the dry run
	resumption  *resumption // nil in the dry run and if it resumes from nothing; set once, by begins

	// Guarded by World.mu, for the bodies of a RangeParallel.
	bodies map[string]body // by the name of the goroutine that runs it
	turns  []turn          // bodies to record, in order; the first is being recorded
	turned sync.Cond       // turns has changed
}

type attemptKey struct{}

// Point adds a place at which a process can be interrupted, for example between two effects
// of a fake. Points are counted by name. ctx must be the context of an activity or a process,
// or be derived from one. With any other context, as outside of [EveryInterruption], Point
// does nothing.
//
// Do not hold a lock that outlives the process. If the process crashes here, it never
// releases the lock.
func Point(ctx context.Context, name string) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	c := a.enter(ctx, call{kind: "Point", point: name})
	a.come(c.body, "at point", name)
	a.show(c)
	a.leave(c, nil)
}

// attempt is called at the start of an attempt. It returns the Context for the function.
func (l *life) attempt(ctx activity.Context) *attempt {
	a := &attempt{Context: ctx, life: l, info: ctx.Info(), goid: goid()}
	l.w.owns(a, a.goid)
	a.self = activity.NewContext(ctx, a)
	a.turned.L = &l.w.mu
	if l.stopped() {
		runtime.Goexit()
	}
	w := l.w
	details := a.newest()
	w.mu.Lock()
	s := w.sight(a.info.ID)
	delete(w.interrupted, a.info.ID)
	if s.starts++; s.starts == maxAttempts {
		w.neverEnds(fmt.Sprintf("%s has made %d attempts without an end", label(a.info.ID), s.starts))
	}
	a.begins(details)
	w.note(l, a.info.ID, a.info.Attempt, "starts, resumes from "+show(details))
	if w.done > 0 && !w.settling {
		w.notes = append(w.notes, fmt.Sprintf("in life %d, attempt %d of %s resumed from %s", l.number, a.info.Attempt, label(a.info.ID), show(details)))
	}
	woken := false
	if h := w.hanging; h != nil && h.id == a.info.ID {
		h.later = true
	}
	if h := w.hanging; h != nil && h.id == a.info.ID && h.until == 0 {
		w.wakeLocked()
		woken = true
	}
	w.mu.Unlock()
	if woken {
		time.Sleep(time.Nanosecond) // the stalled one continues first
		if l.stopped() {
			runtime.Goexit()
		}
	}
	return a
}

// run calls the function and passes the place before its return.
func (a *attempt) run(f func() error) error {
	err := f()
	c := a.enter(a, call{kind: "return"})
	if a.come(c.body, "before return", "").over {
		return errOver
	}
	a.show(c)
	a.leave(c, err)
	return err
}

// Value implements context.Context.
func (a *attempt) Value(key any) any {
	if key == (attemptKey{}) {
		return a
	}
	return a.self.Value(key)
}

func (a *attempt) String() string { return fmt.Sprint(a.Context) }

// Heartbeat implements activity.Context.
func (a *attempt) Heartbeat(details ...any) error {
	return a.do(a, "heartbeat", call{kind: "Heartbeat", details: heartbeatdetails.Given(details)}, func() error {
		return a.Context.Heartbeat(details...)
	}, func() error {
		return a.Context.Heartbeat()
	})
}

// HeartbeatDetails implements activity.Context.
func (a *attempt) HeartbeatDetails(into ...any) (found bool, err error) {
	read := func() error {
		found, err = a.Context.HeartbeatDetails(into...)
		if err == nil {
			a.reads(found, into)
		}
		return err
	}
	err = a.do(a, "heartbeat details", call{kind: "HeartbeatDetails"}, read, read)
	return found, err
}

// Sleep implements activity.Context.
func (a *attempt) Sleep(d time.Duration) error {
	return a.sleep(a, d, a.Context.Sleep)
}

// SleepContext implements activity.Engine.
func (a *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	return a.sleep(ctx, d, func(d time.Duration) error { return a.engine().SleepContext(ctx, d) })
}

// BeginRange implements activity.Engine.
func (a *attempt) BeginRange() bool { return a.engine().BeginRange() }

// engine returns the Runtime's own Context as an Engine.
func (a *attempt) engine() activity.Engine { return a.Context.(activity.Engine) }

func (a *attempt) sleep(ctx context.Context, d time.Duration, sleep func(time.Duration) error) error {
	defer a.idles()()
	return a.do(ctx, "sleep", call{kind: "Sleep", d: d}, func() error { return sleep(d) }, func() error { return sleep(0) })
}

// Guard implements activity.Engine.
func (a *attempt) Guard(f func() error) error {
	c := a.enter(a, call{kind: "Guard"})
	a.show(c)
	err := a.engine().Guard(func() error { // not activity.Guard, which a Commit in a drain must pass
		if a.come(c.body, "entering guard", "").over {
			return errOver
		}
		err := f()
		if a.come(c.body, "leaving guard", "").over {
			return errOver
		}
		return err
	})
	a.leave(c, err)
	return err
}

// do calls real, which gets ctx, between two places. If the call stalls at the second place, do
// returns the result of again, which is called when the attempt is over.
func (a *attempt) do(ctx context.Context, noun string, c call, real, again func() error) error {
	s := a.enter(ctx, c)
	if a.come(s.body, "before "+noun, "").over {
		return errOver
	}
	a.show(s)
	err := real()
	if c.details {
		a.record(s)
	}
	a.returned(s, err)
	switch r := a.come(s.body, "after "+noun, ""); {
	case r.over:
		return errOver
	case r.woken:
		a.leave(s, err)
		err = again()
		a.wakes(s.body, err)
		return err
	}
	a.leave(s, err)
	return err
}

// record notes the details that a heartbeat recorded.
func (a *attempt) record(s *step) {
	details := a.newest()
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.life.dead {
		s.details = details
		w.recorded(a.info.ID, details)
	}
}

// newest returns the newest details that the Runtime has of the activity.
func (a *attempt) newest() []byte {
	for _, s := range a.life.rt.Activities() {
		if s.ID == a.info.ID {
			return s.Details
		}
	}
	return nil
}

// enter notes the beginning of a call with ctx. Before the first interruption, it compares the call
// with that of the dry run.
func (a *attempt) enter(ctx context.Context, c call) *step {
	w := a.life.w
	w.moved.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &step{life: a.life.number, id: a.info.ID, attempt: a.info.Attempt, body: a.bodyOf(ctx), call: c}
	if a.life.dead || w.ended || w.done > 0 {
		return s
	}
	seen := w.sight(a.info.ID)
	if c.kind != "Guard" { // inside Guard, other calls are expected
		s.inside = true
		seen.inside++
		// The order of calls from several goroutines at one instant is random, even if no
		// call overlaps another.
		seen.concurrent = seen.concurrent || seen.inside > 1 || goid() != a.goid
	}
	n := len(seen.calls)
	seen.calls = append(seen.calls, c)
	if w.dry == nil || w.differs != "" || seen.concurrent {
		return s
	}
	was, ok := w.dry.seen[a.info.ID]
	switch {
	case !ok:
		w.differs = fmt.Sprintf("%s made none in the dry run and now calls %s", label(a.info.ID), c)
	case was.concurrent:
	case n >= len(was.calls):
		w.differs = fmt.Sprintf("%s made %d in the dry run, and call %d is now %s", label(a.info.ID), n, n+1, c)
	case was.calls[n] != c:
		w.differs = fmt.Sprintf("call %d of %s was %s in the dry run and is now %s", n+1, label(a.info.ID), was.calls[n], c)
	}
	return s
}

// show adds the call to the trace, unless it was interrupted at its first place.
func (a *attempt) show(s *step) {
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.life.dead && !w.ended {
		w.trace(s)
	}
}

// wakes notes that a call that stalled at its second place returns err.
func (a *attempt) wakes(b body, err error) {
	w, text := a.life.w, "the stalled call returns"
	if b.ok {
		text = fmt.Sprintf("the stalled call of %s returns", b)
	}
	if err != nil {
		text += " " + short(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(a.life, a.info.ID, a.info.Attempt, text)
}

// returned notes the result of a call.
func (a *attempt) returned(s *step, err error) {
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.life.dead && !w.ended {
		s.err = err
		a.did(s)
	}
}

// leave notes the end of a call.
func (a *attempt) leave(s *step, err error) {
	a.returned(s, err)
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.inside {
		s.inside = false
		w.sight(a.info.ID).inside--
	}
}

// A result says how a goroutine continues from a place.
type result struct {
	over  bool // whether the body is over, so that the call must return at once
	woken bool // whether the attempt stalled here and its Context has ended
	fault bool // whether the call must fail
}

// A spot is where a goroutine comes to a place.
type spot struct {
	body        body            // body of a RangeParallel, if any
	what, point string          // as in place
	site        string          // part of point that tells sites apart
	canFault    bool            // whether the call at the place can fail
	ends        <-chan struct{} // ends a stall before the attempt wakes; nil for never
	locked      bool            // whether the caller holds locks of database/sql
}

// come passes a place of the body, if it is one.
func (a *attempt) come(b body, what, point string) result {
	return a.comeTo(spot{body: b, what: what, point: point, site: point})
}

// comeTo passes a place. It counts the place and makes the interruption planned there.
func (a *attempt) comeTo(s spot) result {
	l, w := a.life, a.life.w
	canFault := s.canFault && (a.Context == nil || a.canRetry())
	w.awaitTurn(s)
	w.moved.Add(1)
	w.mu.Lock()
	if h := a.hang; h != nil && w.hanging == h && !l.dead { // stalled by another of its goroutines
		w.mu.Unlock()
		return a.wait(h, s)
	}
	if l.dead || w.ended {
		w.mu.Unlock()
		return a.park(s)
	}
	w.visited(a.info.ID)
	p := w.count(place{id: a.info.ID, body: s.body, what: s.what, point: s.point})
	if w.wakesAt(a, p) {
		w.note(l, a.info.ID, a.info.Attempt, fmt.Sprintf("reaches its place %d (%s)", w.stalled.came, p.here()))
		w.wakeLocked()
		w.mu.Unlock()
		w.pause(time.Nanosecond, s) // the stalled one continues first
		w.mu.Lock()
		if l.dead || w.ended {
			w.mu.Unlock()
			return a.park(s)
		}
	}
	if w.run == nil {
		w.cutSaved()
		w.places = append(w.places, placed{place: p, site: siteHere(s.what, s.site), at: time.Now(), canStall: a.canStall(), canFault: canFault, unsaved: len(w.unsaved), unsynced: w.unsynced()})
		w.mu.Unlock()
		return result{}
	}
	before := len(w.recovery)
	in := w.due(p, a.hang == nil && l.shutdown == nil)
	if len(w.recovery) > before && len(w.run.interruptions) == 1 {
		w.recovery[before] = visit{siteHere(s.what, s.site), a.canStall(), canFault, w.unsynced()}
	}
	if in == nil || in.kind == Stall && !a.canStall() || in.kind == Fault && !canFault {
		w.mu.Unlock()
		return result{}
	}
	return a.interrupt(in, p, s)
}

// interrupt makes the interruption at a place. World.mu is held on entry and released.
func (a *attempt) interrupt(in *interruption, p place, s spot) result {
	l, w := a.life, a.life.w
	w.done++
	// Other goroutines finish their work of this instant first, so that the result does not
	// depend on the order in which they run.
	w.settling = true
	w.mu.Unlock()
	w.pause(settle, s)
	w.mu.Lock()
	w.settling = false
	if l.dead || w.ended {
		w.mu.Unlock()
		return a.park(s)
	}
	if in.nth > 0 {
		w.notes = append(w.notes, fmt.Sprintf("place %d of the recovery was %s", in.nth, p))
	}
	w.note(l, a.info.ID, a.info.Attempt, fmt.Sprintf("<<%s %s>>", in.kind, p.here()))
	switch in.kind {
	case Crash, powerLoss:
		w.crash(l, in)
		w.mu.Unlock()
		close(l.died)
		return a.park(s)
	case Stall:
		h := &hang{id: a.info.ID, attempt: a.info.Attempt, place: p, until: in.until, gives: s.locked, goid: goid(), wake: make(chan struct{})}
		w.hanging, w.stalled, a.hang = h, h, h
		w.mu.Unlock()
		return a.wait(h, s)
	case Fault:
		l.faulted = l.faulted || a.Context == nil
		w.mu.Unlock()
		return result{fault: true}
	default:
		down := make(chan struct{})
		l.shutdown = down
		w.mu.Unlock()
		a.shutDown(down, s)
		return result{}
	}
}

// wakesAt counts the places of the attempts that follow a stalled one, and reports whether the stalled one
// wakes at this place. It does so at the latest when an attempt returns, unless that has timed out: then it
// may have waited for what the stalled one holds. World.mu is held.
func (w *World) wakesAt(a *attempt, p place) bool {
	h := w.stalled
	if h == nil || h.id != a.info.ID || h.attempt >= a.info.Attempt || h.ended {
		return false
	}
	h.came++
	var timeout *activity.TimeoutError
	switch {
	case p.what != "before return":
	case a.Context.Err() == nil || h.gives || !errors.As(context.Cause(a.Context), &timeout):
		h.ended = true
	case w.hanging == h:
		if h.timeouts++; h.timeouts == maxTimeouts {
			w.holds(h)
		}
	}
	return w.hanging == h && (h.until >= 0 && h.came >= h.until || h.ended)
}

// maxTimeouts is the number of attempts that may time out, one after the other, while an earlier one hangs.
const maxTimeouts = 20

// holds reports that the stalled attempt holds what later ones need. World.mu is held.
func (w *World) holds(h *hang) {
	w.neverEnds(fmt.Sprintf("attempt %d of %s hangs %s, and no later attempt can end before it continues, because they wait for something that it holds, such as a connection", h.attempt, label(h.id), h.place.here()))
}

// due returns the interruption planned for this place, or nil. recovers reports whether the
// attempt was not interrupted itself; only places of such attempts count as the recovery.
// World.mu is held.
func (w *World) due(p place, recovers bool) *interruption {
	if w.done > 0 {
		if w.hanging != nil || w.settling || !recovers {
			return nil
		}
		w.recovery = append(w.recovery, visit{})
	}
	if w.done >= len(w.run.interruptions) || w.differs != "" {
		return nil
	}
	in := w.run.interruptions[w.done]
	if w.done == 0 && p == in.place || w.done > 0 && len(w.recovery) == in.nth {
		return in
	}
	return nil
}

// visited counts a visit of a place. World.mu is held.
func (w *World) visited(id string) {
	most := maxPlaces
	if w.run != nil {
		most *= 10
	}
	if w.visits++; w.visits == most {
		w.neverEnds(fmt.Sprintf("the processes have passed %d places without an end, the last one in %s", most, label(id)))
	}
}

// neverEnds makes World.Run fail for this reason.
func (w *World) neverEnds(why string) {
	select {
	case w.endless <- why:
	default: // the run already has a reason
	}
}

// count returns the place with its number. World.mu is held.
func (w *World) count(p place) place {
	s := w.sight(p.id)
	n := s.counts[p] + 1
	s.counts[p] = n
	p.n = n
	return p
}

// sight returns the sight of an activity, and makes it if needed. World.mu is held.
func (w *World) sight(id string) *sight {
	s := w.seen[id]
	if s == nil {
		s = &sight{counts: map[place]int{}, fromNothing: map[int][]*step{}}
		w.seen[id] = s
	}
	return s
}

// canStall reports whether another attempt would follow if this one hung.
func (a *attempt) canStall() bool {
	i := &a.info
	return a.Context != nil && (i.HeartbeatTimeout > 0 || i.StartToCloseTimeout > 0) && a.canRetry()
}

// canRetry reports whether MaximumAttempts allows another attempt.
func (a *attempt) canRetry() bool {
	return a.info.MaximumAttempts == 0 || a.info.Attempt < a.info.MaximumAttempts
}

// park stops a goroutine of a dead process until the body is over. Then the function's own goroutine
// ends, unless a deferred call of it would end the test program. Another goroutine returns from park, because
// the function may wait for it, and so does one that would keep locks of database/sql.
func (a *attempt) park(s spot) result {
	var ends <-chan struct{}
	if s.locked { // a goroutine of database/sql then waits for one of the caller's locks
		ends = s.ends
	}
	select {
	case <-a.life.over:
	case <-ends:
		return result{over: true}
	}
	switch {
	case goid() != a.goid || s.locked:
	case relocks():
		if a.life.crashed {
			select {} // stays behind, as after a kill
		}
	default:
		runtime.Goexit()
	}
	return result{over: true}
}

// wait stalls the goroutine until the hang wakes, the call's context ends or the body is over. If that context
// ends before the attempt's, the call has a timeout of its own, and the attempt continues.
func (a *attempt) wait(h *hang, s spot) result {
	w := a.life.w
	select {
	case <-h.wake:
	case <-s.ends:
	case <-a.life.over:
	}
	w.mu.Lock()
	dead := a.life.dead || w.ended
	if !dead && w.hanging == h && ended(s.ends) && a.Context.Err() == nil {
		w.note(a.life, a.info.ID, a.info.Attempt, "the stalled call times out")
		w.wakeLocked()
		a.hang = nil
	}
	w.mu.Unlock()
	if dead {
		return a.park(s)
	}
	w.awaitTurn(s)
	return result{woken: true}
}

// ended reports whether c is closed.
func ended(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wakeLocked wakes the stalled attempt. World.mu is held.
func (w *World) wakeLocked() {
	w.queue.turn = w.hanging.goid // others may wait for its locks
	close(w.hanging.wake)
	w.hanging = nil
}

// shutDown starts the Runtime's Shutdown. It returns when the attempt's Context and those
// derived from it have ended.
func (a *attempt) shutDown(down chan struct{}, s spot) {
	go func() {
		defer close(down)
		ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
		defer cancel()
		if err := a.life.rt.Shutdown(ctx); err != nil {
			w := a.life.w
			w.mu.Lock()
			w.notes = append(w.notes, err.Error())
			w.mu.Unlock()
		}
	}()
	if a.Context != nil {
		<-a.Context.Done()
	}
	a.life.w.pause(time.Nanosecond, s) // derived contexts end a moment later
}
