package modeltest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is a model of Range and RangeParallel (rules 6 and 30), with what they meet in
// an activity: timeouts, retries, pauses, drains, cancellations, and the end of the program.
// It simulates one thing after the other, without a goroutine, and shares no code with the
// package. The model and the package are both given a rangeScript of
// range_model_script_test.go; see range_model_run_test.go.
//
// Durations are random to the nanosecond, so that two things happen at one instant only if
// one of them causes the other, or if one thing causes both. Only the second case leaves an
// order open. If a Context ends, several bodies may return at that instant:
//
//   - The package may record them one by one or together. The model says how many records
//     there may be, and which is the last.
//   - The Store may get a cancellation or a pause with what these bodies record, or without.
//     If the process is killed before the next Save, nothing after that is compared.
//
// A body that reacts to the end of its Context with an error of its own takes some time for
// it, so that it is never open which error is the first.

// A rangeStored is a checkpoint. Of LastFailure it has what kind it is.
type rangeStored struct {
	state                     string
	attempt, from, progressed int
	scheduled, updated, next  time.Duration // next: NextAttempt; zero: none
	details                   string        // JSON
	failure                   string
}

func (c rangeStored) unfinished() bool {
	return c.state == "running" || c.state == "interrupted" || c.state == "waiting" || c.state == "paused"
}

func (c rangeStored) String() string {
	return fmt.Sprintf("%s #%d from %d progressed %d scheduled %s updated %s next %s details %s after %q",
		c.state, c.attempt, c.from, c.progressed, c.scheduled, c.updated, c.next, c.details, c.failure)
}

// A rangeAct is an execution.
type rangeAct struct {
	found                     rangeStored
	state                     string
	until                     time.Duration // when a backoff or a CancelGrace ends
	scheduled                 time.Duration
	attempt, from, progressed int
	details                   string
	failure, before           string // errors of the last attempt, and of the one before
	why                       string // who has asked for the cancellation
	paused                    bool   // from Pause to Unpause
	again                     bool   // whether the last attempt does not count, so that the next one has its number
	stalled                   bool   // whether the last attempt has ended in a heartbeat timeout
	abandoned                 int    // number of abandoned functions that run

	// The attempt.
	run            *rangeRun // the newest, nil before the first of this process
	moved          bool      // whether it has recorded anything
	beatBy, doneBy time.Duration
}

// A rangeRun is a call of the function, with its Range.
type rangeRun struct {
	act      *rangeAct
	n        int // number of the call
	attempt  int
	call     rangeCall
	from, to int
	upTo     int            // the lowest number that is not done
	done     map[int]bool   // numbers that are done
	taken    int            // the numbers below it are done or were taken
	bodies   []*rangeFlight // those that run

	cause     string // what has ended the attempt's Context; empty while it lives
	bodyCause string // what has ended the Context of the bodies
	over      bool   // whether the attempt is fenced, so that nothing counts any more
	canceled  bool   // whether it was canceled or paused

	stopped          bool   // whether no other body begins
	err              string // the first error of a body
	ended            string // why a body did not begin
	panicked, exited bool

	told       bool // whether a call other than Heartbeat has returned the attempt's cause or, in a drain, ErrShutdown
	toldByBeat bool // whether Heartbeat has returned ErrShutdown to a body
}

// A rangeFlight is a body that runs.
type rangeFlight struct {
	i     int
	body  rangeBody
	pc    int
	waits string        // sleep, deaf, hang, late
	wake  time.Duration // when the wait ends
	told  string        // the error that it has got
}

type rangeModel struct {
	s       *rangeScript
	trace   rangeTrace
	now     time.Duration
	tie     bool // whether two things have happened at one instant by chance
	counts  map[string]int
	n       int // of the life
	life    *rangeLife
	store   rangeStored
	calls   int // of the function, in all lives
	act     *rangeAct
	runs    []*rangeRun // whose function runs
	flushAt time.Duration
	savedAt time.Duration
	open    bool // whether a cancellation and what it has made the bodies record were saved together or one after the other
	drains  bool

	status struct{ done, total, resumed int } // of the newest Range
	loop   *rangeRun                          // whose progress that is
}

func (m *rangeModel) run() {
	m.counts, m.trace.records = map[string]int{}, map[time.Duration]rangeRecords{}
	for i := range m.s.lives {
		m.n, m.life = i, &m.s.lives[i]
		if m.live(); m.open {
			m.count("killed, and it is open what was saved")
			m.trace.end = m.now
			return
		}
	}
}

func (m *rangeModel) say(format string, args ...any) {
	m.trace.lines = append(m.trace.lines, rangeLine{m.now, fmt.Sprintf("life %d: ", m.n) + fmt.Sprintf(format, args...)})
}

func (m *rangeModel) live() {
	l := m.life
	m.act, m.runs, m.flushAt, m.savedAt, m.drains = nil, nil, durableNever, 0, false
	next := 0
	m.until(func() bool { return m.now == l.end }, func(offer func(time.Duration, func())) {
		offer(l.end, func() {})
		if next < len(l.actions) {
			offer(l.actions[next].at, func() { next++; m.say("%s: %s", l.actions[next-1].kind, m.do(l.actions[next-1].kind)) })
		}
	})
	if l.crash {
		m.count("crash")
		if len(m.runs) > 0 {
			m.count("crash in a Range")
		}
	} else {
		m.count("shutdown")
		if m.act != nil {
			m.cancel("shutdown")
		}
		m.save()
		m.until(func() bool { return m.act == nil }, func(func(time.Duration, func())) {})
	}
	m.say("stored: %s", m.store)
}

// until does what happens, one thing after the other, until over returns true. More adds to
// what the execution does.
func (m *rangeModel) until(over func() bool, more func(offer func(time.Duration, func()))) {
	for !over() {
		at, do, tie := durableNever, func() {}, false
		offer := func(t time.Duration, f func()) {
			if tie = tie && t > at || t == at && t != durableNever; t < at {
				at, do = t, f
			}
		}
		more(offer)
		offer(m.flushAt, func() {
			open := m.open
			m.save()
			m.open = open // there may be nothing left to save
		})
		for _, r := range m.runs {
			for _, b := range r.bodies {
				offer(b.wake, func() { m.wake(r, b) })
			}
		}
		if a := m.act; a != nil {
			switch a.state {
			case "running":
				offer(a.beatBy, func() { m.timeout("heartbeat timeout") })
				offer(a.doneBy, func() { m.timeout("start-to-close timeout") })
			case "backing off":
				offer(a.until, m.proceed)
			case "canceling", "pausing":
				offer(a.until, m.graceOver)
			}
		}
		if at == durableNever {
			panic("the model waits for nothing")
		}
		m.tie = m.tie || tie
		m.now = at
		do()
	}
}

func (m *rangeModel) count(what string) { m.counts[what]++ }

// do does an action, and returns its result.
func (m *rangeModel) do(kind string) string {
	a := m.act
	if kind == "status" {
		if a == nil {
			return "not found"
		}
		s := m.status
		if m.loop == nil {
			s.done, s.total, s.resumed = 0, 0, 0
		}
		if s.resumed > 0 && s.done > s.resumed {
			m.count("status after a resume")
		}
		return fmt.Sprintf("%s #%d done %d of %d, resumed at %d", m.stateOf(a), a.attempt, s.done, s.total, s.resumed)
	}
	if kind == "drain" {
		m.drain()
		return "begun"
	}
	if kind == "start" {
		switch {
		case m.drains:
			return "shutdown"
		case a != nil:
			return "already running"
		}
		m.start()
		return "nil"
	}
	if a == nil {
		return "not found"
	}
	m.count(kind + " " + a.state)
	switch kind {
	case "cancel", "ctx":
		m.cancel("user " + kind)
	case "pause":
		return m.pause()
	case "unpause":
		if a.state != "paused" {
			return m.steered(a)
		}
		m.say("unpaused #%d", a.attempt)
		a.paused, a.found = false, rangeStored{}
		m.proceed()
		m.save()
	}
	return "nil"
}

// stateOf returns the State that a user sees.
func (m *rangeModel) stateOf(a *rangeAct) string {
	if a.state == "canceling" || a.state == "pausing" {
		return "running"
	}
	return a.state
}

// steered returns what refuses a Pause or an Unpause.
func (m *rangeModel) steered(a *rangeAct) string {
	switch a.state {
	case "canceling":
		return "running and is being canceled"
	case "pausing":
		return "running and is being paused"
	}
	return a.state
}

func (m *rangeModel) pause() string {
	a := m.act
	switch {
	case a.state == "canceling":
		return m.steered(a)
	case a.paused:
		return "nil"
	}
	a.paused, a.found = true, rangeStored{}
	if a.state != "running" {
		m.enterPaused()
		m.save()
		return "nil"
	}
	a.state, a.until, a.again = "pausing", m.now+m.life.opts.grace, true
	a.run.canceled = true
	m.save()
	m.endContext(a.run, "paused")
	return "nil"
}

func (m *rangeModel) enterPaused() {
	m.say("paused #%d", m.act.attempt)
	m.act.state = "paused"
	if m.drains {
		m.cancel("shutdown")
	}
}

// drain asks the bodies that sleep to stop. All others find out when they call something, and
// the loops before their next body.
func (m *rangeModel) drain() {
	m.count("drain")
	m.drains = true
	switch a := m.act; {
	case a == nil:
		m.say("drained")
	case a.state == "running":
		m.save()
	case a.state == "pausing" || a.state == "canceling":
	default:
		m.cancel("shutdown")
	}
	for _, r := range slices.Clone(m.runs) {
		m.kick(r, func(b *rangeFlight) bool { return b.waits == "sleep" }, "shutdown")
	}
}

func (m *rangeModel) start() {
	o, cp := m.life.opts, m.store
	m.loop = nil
	a := &rangeAct{found: cp, scheduled: m.now, details: cmp.Or(cp.details, o.details)}
	m.act = a
	m.say("scheduled #0")
	next := max(m.now, cp.next)
	if cp.unfinished() {
		m.count("continues " + cp.state)
		a.scheduled, a.attempt, a.from, a.progressed, a.failure = cp.scheduled, cp.attempt, cp.from, cp.progressed, cp.failure
	}
	if cp.state == "running" {
		a.failure = "crash"
		if a.progressed < a.attempt {
			next = max(m.now, cp.updated+m.interval(a.attempt-a.progressed))
		} else if o.reset {
			a.from = a.attempt - 1
		}
	}
	switch {
	case cp.unfinished() && o.attempts > 0 && a.attempt-a.from >= o.attempts:
		m.finish("failed", "maximum attempts reached", cmp.Or(a.failure, "made before"))
		return
	case cp.state == "paused":
		a.paused = true
		m.enterPaused()
	case next > m.now:
		a.state, a.until = "backing off", next
	default:
		m.proceed()
	}
	if a.state != "running" && !cp.unfinished() {
		a.found = rangeStored{}
		m.save()
	}
}

func (m *rangeModel) interval(n int) time.Duration {
	return durableOptions{initial: m.life.opts.initial, coefficient: m.life.opts.coefficient}.interval(n)
}

// proceed begins the next attempt, unless abandoned functions block it.
func (m *rangeModel) proceed() {
	a, most := m.act, 10
	if m.life.opts.noOverlap {
		most = 0
	}
	if a.run != nil && a.abandoned > most {
		m.count("blocked")
		a.state = "blocked"
		m.say("blocked #%d", a.attempt)
		return
	}
	if !a.again {
		a.attempt++
	}
	a.again, a.moved = false, false
	a.state = "running"
	a.beatBy, a.doneBy = durablePlus(m.now, m.life.opts.hb), durablePlus(m.now, m.life.opts.s2c)
	m.save()
	m.say("attempt started #%d", a.attempt)
	m.calls++
	r := &rangeRun{act: a, n: m.calls, attempt: a.attempt, call: m.s.call(m.calls), from: m.life.from, to: m.life.to, done: map[int]bool{}}
	a.run = r
	m.runs = append(m.runs, r)
	m.say("call %d of attempt %d resumes %s after %q", r.n, r.attempt, a.details, a.failure)
	m.beginRange(r)
}

// beginRange begins the loop with what the attempt resumes from.
func (m *rangeModel) beginRange(r *rangeRun) {
	if r.call.none {
		m.loopReturns(r, "none")
		return
	}
	r.upTo = r.from
	if r.act.details == "" {
		m.count("resumes from nothing")
	} else {
		var p struct {
			Next, To *int
			Done     []int
		}
		decoder := json.NewDecoder(strings.NewReader(r.act.details))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&p)
		switch {
		case err != nil || p.Next == nil || p.To == nil || *p.Next > *p.To || !rangeInOrder(*p.Next, p.Done, *p.To):
			m.count("foreign details")
			m.loopReturns(r, "cannot")
			return
		case *p.To > r.to:
			m.count("shrunk")
			m.loopReturns(r, "cannot")
			return
		}
		if *p.Next < r.from {
			m.count("resumes from above the recorded Next")
		}
		if *p.To < r.to {
			m.count("grown")
		}
		r.upTo = max(r.from, *p.Next)
		for _, i := range p.Done {
			r.done[i] = true
		}
		if len(p.Done) > 0 && r.call.workers == 0 {
			m.count("Range resumes a RangeParallel")
		}
		if r.call.workers > 0 && len(p.Done) == 0 {
			m.count("RangeParallel resumes a Range")
		}
	}
	m.settleNext(r)
	r.taken = r.upTo
	m.loop = r
	m.note(r)
	m.status.resumed = m.status.done
	for range max(1, r.call.workers) {
		m.take(r)
	}
	switch n := len(r.bodies); {
	case n == 0:
		m.count("nothing is left")
	case n < r.call.workers:
		m.count("fewer numbers than workers")
	}
	m.checkEnd(r)
}

// rangeInOrder reports whether done are numbers between next and to, and each is above the
// one before.
func rangeInOrder(next int, done []int, to int) bool {
	all := append(append([]int{next}, done...), to)
	for k := range done {
		if all[k] >= all[k+1] {
			return false
		}
	}
	return len(done) == 0 || all[len(done)] < to
}

// settleNext moves upTo over the numbers that are done.
func (m *rangeModel) settleNext(r *rangeRun) {
	for ; r.done[r.upTo]; r.upTo++ {
	}
}

// note notes the progress of the loop for Status.
func (m *rangeModel) note(r *rangeRun) {
	if m.loop == nil {
		return
	}
	m.status.total = max(0, m.loop.to-m.loop.from)
	m.status.done = max(0, r.upTo-m.loop.from) + len(r.above())
}

// above returns the numbers above upTo that are done.
func (r *rangeRun) above() (done []int) {
	for i := range r.done {
		if i > r.upTo {
			done = append(done, i)
		}
	}
	slices.Sort(done)
	return done
}

// take begins the body of the lowest number that is neither done nor taken, if there is one
// and the loop may continue.
func (m *rangeModel) take(r *rangeRun) {
	for r.taken < r.upTo || r.done[r.taken] {
		r.taken++
	}
	if r.stopped || r.taken >= r.to {
		return
	}
	switch {
	case r.cause != "":
		r.stopped, r.ended = true, r.cause
		return
	case m.drains:
		m.count("drain stops a loop")
		r.told, r.stopped, r.ended = true, true, "shutdown"
		return
	}
	b := &rangeFlight{i: r.taken, body: m.s.body(r.n, r.taken)}
	r.taken++
	r.bodies = append(r.bodies, b)
	m.say("call %d: body %d begins", r.n, b.i)
	if len(r.bodies) == 5 {
		m.count("five at once")
	}
	m.step(r, b)
}

// step continues a body until it waits or returns.
func (m *rangeModel) step(r *rangeRun, b *rangeFlight) {
	b.wake = durableNever
	for ; b.pc < len(b.body.steps); b.pc++ {
		step := b.body.steps[b.pc]
		switch step.op {
		case "sleep":
			if err := m.mustStop(r); err != "" {
				m.tell(r, b, err)
				return
			}
			b.waits, b.wake = "sleep", m.now+step.d
			return
		case "deaf":
			b.waits, b.wake = "deaf", m.now+step.d
			return
		case "hang":
			if r.bodyCause != "" {
				m.tell(r, b, r.bodyCause)
				return
			}
			b.waits = "hang"
			return
		case "beat":
			err := m.beat(r)
			m.say("call %d: body %d heartbeats: %s", r.n, b.i, err)
			if err != "" {
				m.tell(r, b, err)
				return
			}
		}
	}
	switch end := b.body.end; {
	case end != "cause":
		m.bodyReturns(r, b, end)
	case r.bodyCause == "":
		m.bodyReturns(r, b, "ok")
	default:
		m.count("a body returns the cause late")
		m.bodyReturns(r, b, r.bodyCause)
	}
}

// mustStop returns what a Sleep of a body returns at once, if anything.
func (m *rangeModel) mustStop(r *rangeRun) string {
	switch {
	case r.bodyCause != "":
		r.told = r.told || r.bodyCause == r.cause
		return r.bodyCause
	case m.drains:
		r.told = true
		return "shutdown"
	}
	return ""
}

// beat is a heartbeat of a body, without details. It returns what Heartbeat returns.
func (m *rangeModel) beat(r *rangeRun) string {
	if !r.over {
		r.act.beatBy = durablePlus(m.now, m.life.opts.hb)
	}
	switch {
	case r.cause != "": // and not what has ended the Context of the bodies before
		return r.cause
	case r.bodyCause != "":
		return r.bodyCause
	case m.drains:
		m.count("drain asks by a heartbeat")
		r.toldByBeat = true
		return "shutdown"
	}
	return ""
}

// tell gives a body an error. The body reacts as its script says.
func (m *rangeModel) tell(r *rangeRun, b *rangeFlight, err string) {
	b.told = err
	if b.waits, b.wake = "late", m.now+b.body.late; b.body.late == 0 {
		m.wake(r, b)
	}
}

// wake continues a body whose wait is over.
func (m *rangeModel) wake(r *rangeRun, b *rangeFlight) {
	switch {
	case b.waits != "late":
		b.pc++
		m.step(r, b)
	case b.body.told == "cause":
		m.bodyReturns(r, b, b.told)
	default:
		m.count("told, " + b.body.told)
		m.bodyReturns(r, b, b.body.told)
	}
	m.checkEnd(r)
}

// kick ends the waits of bodies, because a Context has ended or the Runtime drains.
func (m *rangeModel) kick(r *rangeRun, which func(b *rangeFlight) bool, err string) {
	n := 0
	for _, b := range slices.Clone(r.bodies) {
		if slices.Contains(r.bodies, b) && which(b) {
			r.told = r.told || b.waits == "sleep" && (err == r.cause || m.drains && err == "shutdown")
			if b.body.late == 0 && b.body.told == "ok" {
				n++
			}
			m.tell(r, b, err)
		}
	}
	if n > 1 {
		m.count("several are done at one instant")
	}
}

// endContext ends the attempt's Context.
func (m *rangeModel) endContext(r *rangeRun, cause string) {
	if r.cause == "" {
		r.cause = cause
		m.endBodies(r, cause)
	}
	m.checkEnd(r)
}

// endBodies ends the Context of the bodies.
func (m *rangeModel) endBodies(r *rangeRun, cause string) {
	if r.bodyCause != "" {
		return
	}
	r.bodyCause = cause
	m.kick(r, func(b *rangeFlight) bool { return b.waits == "sleep" || b.waits == "hang" }, cause)
}

// bodyReturns is called when a body returns: how is ok or its error.
func (m *rangeModel) bodyReturns(r *rangeRun, b *rangeFlight, how string) {
	r.bodies = slices.DeleteFunc(r.bodies, func(c *rangeFlight) bool { return c == b })
	m.say("call %d: body %d ends %s, its Context %s", r.n, b.i, how, cmp.Or(r.bodyCause, "lives"))
	if how == "ok" {
		if r.stopped {
			m.count("done after the loop has stopped")
		}
		m.finishBody(r, b)
		m.take(r)
		return
	}
	if r.stopped {
		m.count("a later error")
	}
	r.stopped = true
	switch how {
	case "panic":
		r.panicked = true
	case "goexit":
		r.exited = true
	default:
		r.err = cmp.Or(r.err, how)
	}
	if rangeShutdown(how) && m.drains {
		if len(r.bodies) > 0 {
			m.count("drain lets the others finish, " + how)
		}
		return
	}
	if r.call.workers > 0 {
		if len(r.bodies) > 0 && r.bodyCause == "" {
			m.count("an error ends the others")
		}
		m.endBodies(r, how)
	}
}

// rangeShutdown reports whether an error wraps ErrShutdown.
func rangeShutdown(err string) bool { return err == "shutdown" || err == "inner" }

// finishBody records that a body is done, unless the attempt is over.
func (m *rangeModel) finishBody(r *rangeRun, b *rangeFlight) {
	r.done[b.i] = true
	m.settleNext(r)
	if r.over {
		m.count("done after the fence")
		return
	}
	a := r.act
	p := struct {
		Next, To int
		Done     []int `json:",omitempty"`
	}{r.upTo, r.to, r.above()}
	data, _ := json.Marshal(p)
	a.details, a.moved, a.beatBy = string(data), true, durablePlus(m.now, m.life.opts.hb)
	m.note(r)
	m.trace.record(m.n, m.now, a.details)
	m.count("records")
	if len(p.Done) > 0 {
		m.count("records Done")
	}
	if r.cause == "" {
		m.save()
	} else {
		m.count("records after a cancellation")
		m.open = m.open || m.savedAt == m.now
		m.soon()
	}
}

// checkEnd returns from the Range if its bodies have returned.
func (m *rangeModel) checkEnd(r *rangeRun) {
	if len(r.bodies) > 0 || !slices.Contains(m.runs, r) {
		return
	}
	switch {
	case r.panicked:
		m.loopReturns(r, "panic")
	case r.exited:
		m.loopReturns(r, "goexit")
	default:
		m.loopReturns(r, cmp.Or(r.err, r.ended))
	}
}

// loopReturns is called when the Range returns err, which is empty for nil, or when it panics
// or calls runtime.Goexit. Then the function returns.
func (m *rangeModel) loopReturns(r *rangeRun, err string) {
	m.say("call %d: the loop returns %s", r.n, cmp.Or(err, "nil"))
	if !r.panicked && !r.exited && (r.err == "" && r.ended != "" || r.err != "" && r.err == r.cause || m.drains && r.err == "shutdown") {
		r.told = true
	}
	if r.call.twice && err == "" {
		m.count("twice")
		err = "twice"
	}
	if r.call.ignores && err != "panic" && err != "goexit" && err != "" {
		m.count("ignored")
		err = ""
	}
	m.runs = slices.DeleteFunc(m.runs, func(x *rangeRun) bool { return x == r })
	a := r.act
	if r.over {
		m.say("abandoned returned #%d", r.attempt)
		if a.abandoned--; a == m.act && a.state == "blocked" {
			m.count("unblocked")
			m.proceed()
		}
		return
	}
	r.over = true
	toldOfDrain := m.drains && (r.told || r.toldByBeat || rangeShutdown(err))
	if toldOfDrain && (r.told || err != "") && a.state == "running" {
		m.count("stopped by a drain")
		r.canceled, a.again = true, true
		a.state, a.why = "canceling", "shutdown"
	}
	switch {
	case err == "" && !(r.canceled && r.told):
		if r.cause != "" {
			m.count("completed after all")
		}
		m.finish("completed", "", "")
	case a.state == "pausing":
		m.noteMoved(a)
		m.enterPaused()
	case a.state == "canceling":
		m.finish("canceled", a.why, a.why)
	default:
		m.fail(err)
	}
}

// timeout fences the running attempt. It counts even if a drain has asked its bodies to stop.
func (m *rangeModel) timeout(kind string) {
	m.count(kind)
	r := m.act.run
	r.over = true
	m.act.abandoned++
	if r.toldByBeat || r.told {
		m.count("told, and timed out")
	}
	m.say("abandoned #%d", r.attempt)
	m.fail(kind)
	m.endContext(r, kind)
}

// graceOver abandons the function of a canceled or paused attempt.
func (m *rangeModel) graceOver() {
	a := m.act
	m.count(a.state + ", abandoned")
	a.run.over = true
	a.abandoned++
	m.say("abandoned #%d", a.attempt)
	if a.state == "pausing" {
		m.noteMoved(a)
		m.enterPaused()
		return
	}
	m.finish("canceled", a.why, a.why)
}

// counted returns the number of the last attempt that counts.
func (a *rangeAct) counted() int {
	if a.again {
		return a.attempt - 1
	}
	return a.attempt
}

func (m *rangeModel) noteMoved(a *rangeAct) {
	if a.moved {
		a.progressed, a.stalled = a.counted(), false
		if m.life.opts.reset {
			a.from = a.attempt - 1
		}
	}
}

// fail is called when the attempt has failed, and counts.
func (m *rangeModel) fail(kind string) {
	a, o := m.act, m.life.opts
	m.count("fails: " + kind)
	m.noteMoved(a)
	n := a.attempt - a.from
	timeout := kind == "heartbeat timeout"
	again := timeout && !a.stalled
	why := ""
	var delay time.Duration
	switch {
	case kind == "fatal", kind == "cannot", kind == "goexit", kind == "none", kind == "twice":
		why = "non-retryable failure"
	case o.attempts > 0 && n >= o.attempts:
		why = "maximum attempts reached"
	case !again:
		delay = m.interval(n)
	}
	a.stalled = timeout
	a.before, a.failure = a.failure, kind
	if m.drains { // there is no other attempt, but this one counts
		m.count("drain, fails")
		m.say("attempt failed #%d %s, next in %s", a.attempt, kind, time.Duration(0))
		if a.state = "deciding"; delay > 0 {
			a.state, a.until = "backing off", m.now+delay
		}
		m.finish("canceled", "shutdown", "shutdown")
		return
	}
	m.say("attempt failed #%d %s, next in %s", a.attempt, kind, delay)
	m.soon()
	switch {
	case why != "":
		m.finish("failed", why, kind)
	case again:
		m.proceed()
	default:
		a.state, a.until = "backing off", m.now+delay
	}
}

// cancel ends the execution's wait, or the Context of its attempt.
func (m *rangeModel) cancel(why string) {
	a := m.act
	switch a.state {
	case "canceling":
	case "pausing":
		m.count("pausing, canceled")
		a.state, a.why, a.until = "canceling", why, m.now+m.life.opts.grace
		m.save()
	case "running":
		a.state, a.why, a.until, a.again = "canceling", why, m.now+m.life.opts.grace, true
		a.run.canceled = true
		m.save()
		m.endContext(a.run, why)
	default:
		m.finish("canceled", why, why)
	}
}

// finish ends the execution. why is the RetryState, or of a cancellation who has asked.
func (m *rangeModel) finish(state, why, kind string) {
	a := m.act
	m.act = nil
	m.count(state)
	left, failure := "failed", kind
	switch state {
	case "completed":
		m.say("completed #%d", a.attempt)
	case "failed":
		m.say("failed #%d %s: %s", a.attempt, why, kind)
		if kind == "cannot" { // that attempt does not count
			a.again = true
			left, failure = "interrupted", a.before
		}
	case "canceled":
		m.say("canceled #%d cancel requested: %s", a.attempt, kind)
		if a.state == "canceling" {
			m.noteMoved(a)
		}
		if left = "canceled"; why != "user cancel" {
			if left, failure = "interrupted", a.failure; a.paused {
				left = "paused"
			}
		}
	}
	m.flushAt, m.open = durableNever, false
	switch {
	case state == "completed":
		m.store = rangeStored{}
	case state == "canceled" && left != "canceled" && a.run == nil && a.found.unfinished():
		m.count("left as found")
	default:
		a.failure = failure
		m.store = m.checkpoint(a, left)
	}
	if m.drains {
		m.say("drained")
	}
}

// checkpoint returns what is stored of an execution that is left so, or of one that is alive
// if left is empty.
func (m *rangeModel) checkpoint(a *rangeAct, left string) rangeStored {
	c := rangeStored{state: left, attempt: a.counted(), from: a.from, progressed: a.progressed,
		scheduled: a.scheduled, updated: m.now, details: a.details, failure: a.failure}
	if left == "" {
		switch c.state = a.state; a.state {
		case "running":
			if m.drains {
				c.state = "interrupted"
				c.attempt--
			}
		case "canceling":
			if c.state = "interrupted"; a.why == "user cancel" {
				c.state, c.failure = "canceled", a.why
			}
		default:
			c.state = "waiting"
		}
		if a.paused && c.state != "canceled" {
			c.state = "paused"
		}
		if a.moved && (a.state == "running" || a.state == "canceling" || a.state == "pausing") {
			c.progressed = a.counted()
			if m.life.opts.reset {
				c.from = a.attempt - 1
			}
		}
	}
	if a.state == "backing off" && c.unfinished() {
		c.next = a.until
	}
	c.progressed = min(c.progressed, c.attempt)
	c.from = min(c.from, c.attempt)
	return c
}

// soon has the execution saved one SaveInterval after the first change that waits for it.
func (m *rangeModel) soon() {
	if m.flushAt == durableNever && m.act != nil {
		m.flushAt = m.now + cmp.Or(m.life.save, 100*time.Millisecond)
	}
}

func (m *rangeModel) save() {
	m.flushAt, m.savedAt, m.open = durableNever, m.now, false
	if m.act != nil {
		m.store = m.checkpoint(m.act, "")
	}
}
