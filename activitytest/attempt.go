package activitytest

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// An attempt is the Context that a function gets, which comes to the places.
type attempt struct {
	activity.Context // nil: it is the process itself
	life             *life
	info             activity.Info
	self             context.Context // finds a, and what Context's own finds
	goid             string          // of the function's goroutine

	// Guarded by World.mu.
	hang        *hang       // it stalls; nil: it does not
	execution   int         // how many were completed before its own
	fromNothing bool        // in the dry run
	resumption  *resumption // nil: it resumes from nothing, or this is the dry run; set once, by begins
}

type attemptKey struct{}

// Point is a further place: between two effects of a fake, say. It is found through
// ctx, an activity's or a process's, and counted by its name. Outside of
// [EveryInterruption] it does nothing.
//
// Hold no lock that outlives the process: one that crashes here never gives it back.
func Point(ctx context.Context, name string) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	c := a.enter(call{kind: "Point", point: name})
	a.come("at point", name)
	a.show(c)
	a.leave(c, nil)
}

// attempt is told of the start of an attempt.
func (l *life) attempt(ctx activity.Context) *attempt {
	a := &attempt{Context: ctx, life: l, info: ctx.Info(), goid: goid()}
	a.self = activity.NewContext(ctx, a)
	if l.stopped() {
		runtime.Goexit()
	}
	w := l.w
	details := a.newest()
	w.mu.Lock()
	s := w.sight(a.info.ID)
	delete(w.interrupted, a.info.ID)
	if s.starts++; s.starts == maxAttempts {
		w.neverEnds(fmt.Sprintf("%s has made %d attempts, and is not done", label(a.info.ID), s.starts))
	}
	a.begins(details)
	w.note(l, a.info.ID, a.info.Attempt, "starts, resumes from "+show(details))
	if w.done > 0 && !w.settling {
		w.notes = append(w.notes, fmt.Sprintf("in life %d, attempt %d of %s resumed from %s", l.number, a.info.Attempt, label(a.info.ID), show(details)))
	}
	woken := false
	if h := w.hanging; h != nil && h.id == a.info.ID && h.until == 0 {
		w.wakeLocked()
		woken = true
	}
	w.mu.Unlock()
	if woken {
		a.yield()
	}
	return a
}

// run runs the function.
func (a *attempt) run(f func() error) error {
	err := f()
	c := a.enter(call{kind: "return"})
	if a.come("before return", "").over {
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
	return a.do("heartbeat", call{kind: "Heartbeat", details: heartbeatdetails.Given(details)}, func() error {
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
	err = a.do("heartbeat details", call{kind: "HeartbeatDetails"}, read, read)
	return found, err
}

// Sleep implements activity.Context.
func (a *attempt) Sleep(d time.Duration) error {
	return a.sleep(d, a.Context.Sleep)
}

// SleepContext implements activity.Engine.
func (a *attempt) SleepContext(ctx context.Context, d time.Duration) error {
	return a.sleep(d, func(d time.Duration) error { return a.engine().SleepContext(ctx, d) })
}

// BeginRange implements activity.Engine.
func (a *attempt) BeginRange() bool { return a.engine().BeginRange() }

// engine is that of the Runtime's own Context.
func (a *attempt) engine() activity.Engine { return a.Context.(activity.Engine) }

func (a *attempt) sleep(d time.Duration, sleep func(time.Duration) error) error {
	return a.do("sleep", call{kind: "Sleep", d: d}, func() error { return sleep(d) }, func() error { return sleep(0) })
}

// Guard implements activity.Engine.
func (a *attempt) Guard(f func() error) error {
	c := a.enter(call{kind: "Guard"})
	a.show(c)
	err := activity.Guard(a.Context, func() error {
		if a.come("entering guard", "").over {
			return errOver
		}
		err := f()
		if a.come("leaving guard", "").over {
			return errOver
		}
		return err
	})
	a.leave(c, err)
	return err
}

// do does what the function has asked for, between two places. again is what the
// function gets of a call that has hung after it was done, once the attempt is over.
func (a *attempt) do(noun string, c call, real, again func() error) error {
	s := a.enter(c)
	if a.come("before "+noun, "").over {
		return errOver
	}
	a.show(s)
	err := real()
	if c.details {
		a.record(s)
	}
	a.returned(s, err)
	switch r := a.come("after "+noun, ""); {
	case r.over:
		return errOver
	case r.woken:
		a.leave(s, err)
		err = again()
		a.wakes(err)
		return err
	}
	a.leave(s, err)
	return err
}

// record takes down what a heartbeat has recorded.
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

// newest are the newest details that the Runtime has of the activity.
func (a *attempt) newest() []byte {
	for _, s := range a.life.rt.Activities() {
		if s.ID == a.info.ID {
			return s.Details
		}
	}
	return nil
}

// enter takes down a call.
func (a *attempt) enter(c call) *step {
	w := a.life.w
	w.moved.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &step{life: a.life.number, id: a.info.ID, attempt: a.info.Attempt, call: c}
	if a.life.dead || w.ended || w.done > 0 {
		return s
	}
	seen := w.sight(a.info.ID)
	if c.kind != "Guard" { // in which there are others
		s.inside = true
		seen.inside++
		// In which order goroutines call at one instant is chance, also if no call
		// overlaps another.
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
		w.differs = fmt.Sprintf("%s was not there, and now its call 1 is %s", label(a.info.ID), c)
	case was.concurrent:
	case n >= len(was.calls):
		w.differs = fmt.Sprintf("%s: call %d was %s, now %s", label(a.info.ID), n+1, call{}, c)
	case was.calls[n] != c:
		w.differs = fmt.Sprintf("%s: call %d was %s, now %s", label(a.info.ID), n+1, was.calls[n], c)
	}
	return s
}

// show makes the call, to which nothing has happened before it, part of the trace.
func (a *attempt) show(s *step) {
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.life.dead && !w.ended {
		w.trace(s)
	}
}

// wakes notes what a call gives that has hung after it was done.
func (a *attempt) wakes(err error) {
	w, text := a.life.w, "which wakes"
	if err != nil {
		text += " with " + short(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(a.life, a.info.ID, a.info.Attempt, text)
}

// returned takes down what a call has returned.
func (a *attempt) returned(s *step, err error) {
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !a.life.dead && !w.ended {
		s.err = err
		a.did(s)
	}
}

// leave is told of a call's end.
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

// A result is how a goroutine goes on from a place.
type result struct {
	over  bool // the body is over: return
	woken bool // it has hung here
}

// come is called at each place.
func (a *attempt) come(what, point string) result {
	l, w := a.life, a.life.w
	w.moved.Add(1)
	w.mu.Lock()
	if h := a.hang; h != nil && w.hanging == h && !l.dead { // by another goroutine of its
		w.mu.Unlock()
		return a.wait(h)
	}
	if l.dead || w.ended {
		w.mu.Unlock()
		return a.park()
	}
	w.visited(a.info.ID)
	p := w.count(place{id: a.info.ID, what: what, point: point})
	if w.wakesAt(a, p) {
		w.note(l, a.info.ID, a.info.Attempt, fmt.Sprintf("comes %s, its place %d", p.here(), w.stalled.came))
		w.wakeLocked()
		w.mu.Unlock()
		a.yield()
		w.mu.Lock()
		if l.dead || w.ended {
			w.mu.Unlock()
			return a.park()
		}
	}
	if w.run == nil {
		w.cutSaved()
		w.places = append(w.places, placed{place: p, canStall: a.canStall(), unsaved: len(w.unsaved)})
		w.mu.Unlock()
		return result{}
	}
	in := w.due(p, a.hang == nil && l.shutdown == nil)
	if in == nil || in.kind == Stall && !a.canStall() {
		w.mu.Unlock()
		return result{}
	}
	return a.interrupt(in, p)
}

// interrupt does what is planned for a place. World.mu is held, and let go.
func (a *attempt) interrupt(in *interruption, p place) result {
	l, w := a.life, a.life.w
	w.done++
	// What others do at this instant must not depend on chance.
	w.settling = true
	w.mu.Unlock()
	time.Sleep(time.Nanosecond)
	w.mu.Lock()
	w.settling = false
	if l.dead || w.ended {
		w.mu.Unlock()
		return a.park()
	}
	if in.nth > 0 {
		w.notes = append(w.notes, fmt.Sprintf("place %d of the recovery was %s", in.nth, p))
	}
	w.note(l, a.info.ID, a.info.Attempt, fmt.Sprintf("<<%s %s>>", in.kind, p.here()))
	switch in.kind {
	case Crash:
		w.crash(l, in)
		w.mu.Unlock()
		close(l.died)
		return a.park()
	case Stall:
		h := &hang{id: a.info.ID, attempt: a.info.Attempt, until: in.until, wake: make(chan struct{})}
		w.hanging, w.stalled, a.hang = h, h, h
		w.mu.Unlock()
		return a.wait(h)
	default:
		down := make(chan struct{})
		l.shutdown = down
		w.mu.Unlock()
		a.shutDown(down)
		return result{}
	}
}

// wakesAt counts the places of the attempt after one that has stalled, and reports
// whether that is to wake here. World.mu is held.
func (w *World) wakesAt(a *attempt, p place) bool {
	h := w.stalled
	if h == nil || h.id != a.info.ID || h.attempt >= a.info.Attempt || h.ended {
		return false
	}
	h.came++
	h.ended = p.what == "before return"
	return w.hanging == h && (h.came >= h.until || h.ended)
}

// due is the interruption that is to take place here, if any. A recovery is where
// those attempts come that have not been interrupted. World.mu is held.
func (w *World) due(p place, recovers bool) *interruption {
	if w.done > 0 {
		if w.hanging != nil || w.settling || !recovers {
			return nil
		}
		w.recovery++
	}
	if w.done >= len(w.run.interruptions) || w.differs != "" {
		return nil
	}
	in := w.run.interruptions[w.done]
	if w.done == 0 && p == in.place || w.done > 0 && w.recovery == in.nth {
		return in
	}
	return nil
}

// visited counts a place that is come to. World.mu is held.
func (w *World) visited(id string) {
	most := maxPlaces
	if w.run != nil {
		most *= 10
	}
	if w.visits++; w.visits == most {
		w.neverEnds(fmt.Sprintf("the processes have come to %d places, and are not done; the last one was of %s", most, label(id)))
	}
}

// neverEnds ends the run.
func (w *World) neverEnds(why string) {
	select {
	case w.endless <- why:
	default: // one reason is enough
	}
}

// count gives a place its number. World.mu is held.
func (w *World) count(p place) place {
	s := w.sight(p.id)
	n := s.counts[p] + 1
	s.counts[p] = n
	p.n = n
	return p
}

// sight is what was seen of an activity. World.mu is held.
func (w *World) sight(id string) *sight {
	s := w.seen[id]
	if s == nil {
		s = &sight{counts: map[place]int{}, fromNothing: map[int][]*step{}}
		w.seen[id] = s
	}
	return s
}

// canStall reports whether an attempt that hangs is followed by another.
func (a *attempt) canStall() bool {
	i := &a.info
	return a.Context != nil && (i.HeartbeatTimeout > 0 || i.StartToCloseTimeout > 0) &&
		(i.MaximumAttempts == 0 || i.Attempt < i.MaximumAttempts)
}

// park ends a goroutine of a dead process, when the body is over. One that the
// function has started may be waited for: that returns.
func (a *attempt) park() result {
	<-a.life.over
	if goid() == a.goid {
		runtime.Goexit()
	}
	return result{over: true}
}

// wait hangs.
func (a *attempt) wait(h *hang) result {
	w := a.life.w
	select {
	case <-h.wake:
	case <-a.life.over:
	}
	w.mu.Lock()
	dead := a.life.dead || w.ended
	w.mu.Unlock()
	if dead {
		return a.park()
	}
	return result{woken: true}
}

// wakeLocked wakes the attempt that hangs.
func (w *World) wakeLocked() {
	close(w.hanging.wake)
	w.hanging = nil
}

// yield lets all others in the bubble go on until they wait for something: only
// then its time moves.
func (a *attempt) yield() {
	time.Sleep(time.Nanosecond)
	if a.life.stopped() {
		a.park()
	}
}

// shutDown shuts the Runtime down, and returns when the attempt knows.
func (a *attempt) shutDown(down chan struct{}) {
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
	if a.Context == nil {
		time.Sleep(time.Nanosecond)
		return
	}
	<-a.Context.Done()
}

// goid names the goroutine that calls it.
func goid() string {
	h := header()
	if i := bytes.IndexByte(h, '['); i >= 0 {
		return string(h[:i])
	}
	return string(h)
}

// header is how a dump describes the goroutine that calls it.
func header() []byte {
	b := make([]byte, 100)
	b = b[:runtime.Stack(b, false)]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[:i]
	}
	return b
}
