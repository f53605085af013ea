package modeltest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// This file is a model of durability (rules 19-24, 28, 37 and 38), with a Store that takes
// no time: one thing after the other, no goroutine. It shares no code with the
// package. A durableScript is what both the model and the package are given; see
// durable_model_run_test.go.
//
// Durations are random to the nanosecond, so that no two things happen at one
// instant, but for those of which one causes the other. See modelScript for what
// meets at an instant.

const (
	durableIDs      = 3
	durablePrograms = 6
	durableNever    = time.Duration(math.MaxInt64)
)

type durableStep struct {
	op string // sleep, beat, note (beat with details v), commit (Commit with details v)
	d  time.Duration
	v  int
}

// A durableTry is what the function does in one attempt, unless a call gives an
// error: that it returns, after it has cleaned up if it was canceled.
type durableTry struct {
	steps   []durableStep // the first is a sleep
	end     string        // ok, boom, later (RetryAfter), fatal (NonRetryable), cannot (ErrCannotResume), panic, hang (until its context ends)
	later   time.Duration
	cleanup time.Duration
}

type durableOptions struct {
	hb, s2c, sts, stc, initial time.Duration // 0: none; the default
	coefficient, attempts      int           // 0: the default
	reset, sync, accept        bool          // accept: AcceptNewInput
	details                    int           // 0: none
}

type durableAction struct {
	at      time.Duration
	kind    string // start, recover, cancel (the handle), ctx (the caller's context), forget, unfinished
	id      int
	program int                        // of a start, and its input
	opts    [durableIDs]durableOptions // of what it starts
	unknown int                        // recover: the ID without a Definition; -1: each has one
	of      int                        // cancel, ctx: the action that started
}

// A durableSteer steers what runs with an ID.
type durableSteer struct {
	at   time.Duration
	kind string // pause, unpause, retry (RetryNow)
	id   int
}

// A durableLife is one process.
type durableLife struct {
	slots      int
	sync       time.Duration // SaveInterval; 0: the default
	begin, end time.Duration
	actions    []durableAction
	crash      bool          // else Shutdown
	drain      time.Duration // how long a Drain may take before the Shutdown; 0: there is none
	steers     []durableSteer
	lost       time.Duration // when the Store is lost; 0: never
}

type durableScript struct {
	seed     uint64
	programs [durablePrograms][]durableTry
	lives    []durableLife
}

// try is what the n-th attempt does. What an ID sleeps is its own.
func (s *durableScript) try(program, id, n int) durableTry {
	tries := s.programs[program]
	try := tries[(n-1)%len(tries)]
	try.steps = slices.Clone(try.steps)
	for i := range try.steps {
		try.steps[i].d += time.Duration(7919 * id)
	}
	return try
}

func newDurableScript(seed uint64) *durableScript {
	r := rand.New(rand.NewPCG(seed, 11))
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	pick := func(of ...int) int { return of[r.IntN(len(of))] }
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)))
	}
	maybe := func(least, most time.Duration) time.Duration {
		if d := between(least, most); r.IntN(2) == 0 {
			return d
		}
		return 0
	}
	const ms, s = time.Millisecond, time.Second
	script := &durableScript{seed: seed}
	for i := range script.programs {
		for range 1 + r.IntN(3) {
			try := durableTry{steps: []durableStep{{op: "sleep", d: between(ms, s)}}, end: one("ok", "ok", "boom", "boom", "boom", "later", "later", "fatal", "cannot", "panic", "hang", "hang"), later: between(ms, 20*s), cleanup: maybe(ms, 5*s)}
			for range r.IntN(7) {
				op := one("sleep", "sleep", "note", "note", "beat")
				try.steps = append(try.steps, durableStep{op: op, d: between(ms, 2*s), v: pick(1, 2, 3, 4)})
			}
			script.programs[i] = append(script.programs[i], try)
		}
	}
	options := func() (all [durableIDs]durableOptions) {
		for i := range all {
			all[i] = durableOptions{
				hb: maybe(100*ms, 3*s), s2c: maybe(500*ms, 8*s), sts: maybe(500*ms, 8*s), stc: maybe(3*s, 60*s),
				initial: maybe(50*ms, 3*s), coefficient: pick(0, 1, 2, 3), attempts: pick(0, 0, 1, 2, 3, 5),
				reset: pick(0, 1) == 1, sync: pick(0, 0, 1) == 1, accept: pick(0, 0, 1) == 1, details: pick(0, 0, 1, 9),
			}
		}
		return all
	}
	var now time.Duration
	for range 2 + r.IntN(4) {
		now += between(ms, pickDuration(r, 100*ms, 10*s))
		l := durableLife{slots: pick(0, 0, 1, 2), sync: maybe(5*ms, 2*s), begin: now, crash: pick(0, 1, 1) == 1}
		now += between(ms, pickDuration(r, 3*s, 20*s))
		l.end = now
		for i := range 1 + r.IntN(8) {
			x := durableAction{at: between(l.begin+1, l.end), id: r.IntN(durableIDs), program: r.IntN(durablePrograms), unknown: pick(-1, -1, 0, 1, 2), of: -1}
			x.kind = one("start", "start", "start", "start", "recover", "cancel", "cancel", "ctx", "ctx", "forget", "unfinished")
			if i == 0 && pick(0, 1) == 1 {
				x.kind, x.at = "recover", l.begin+1
			}
			x.opts = options()
			l.actions = append(l.actions, x)
		}
		slices.SortFunc(l.actions, func(a, b durableAction) int { return cmp.Compare(a.at, b.at) })
		var starts, all []int
		for i := range l.actions {
			switch x := &l.actions[i]; x.kind {
			case "start":
				starts, all = append(starts, i), append(all, i)
			case "recover":
				all = append(all, i)
			case "cancel":
				if len(starts) > 0 {
					x.of = starts[r.IntN(len(starts))]
				}
			case "ctx":
				if len(all) > 0 {
					x.of = all[r.IntN(len(all))]
				}
			}
		}
		script.lives = append(script.lives, l)
	}
	for i := range script.lives { // added later: a seed makes the rest of its script as it did before
		if r.IntN(2) == 0 {
			script.lives[i].drain = between(ms, pickDuration(r, 100*ms, 6*s))
		}
	}
	for i := range script.lives {
		l := &script.lives[i]
		for range r.IntN(8) {
			x := durableSteer{at: between(l.begin+1, l.end), kind: one("pause", "pause", "unpause", "unpause", "retry"), id: r.IntN(durableIDs)}
			l.steers = append(l.steers, x)
		}
		slices.SortFunc(l.steers, func(a, b durableSteer) int { return cmp.Compare(a.at, b.at) })
	}
	for i := range script.programs {
		for _, try := range script.programs[i] {
			for j := range try.steps {
				if try.steps[j].op == "note" && r.IntN(3) == 0 {
					try.steps[j].op = "commit"
				}
			}
		}
	}
	for i := range script.lives {
		if l := &script.lives[i]; r.IntN(6) == 0 {
			l.lost = between(l.begin+1, l.end)
		}
	}
	return script
}

func pickDuration(r *rand.Rand, of ...time.Duration) time.Duration { return of[r.IntN(len(of))] }

// A durableStored is a checkpoint. Of LastFailure it has what kind it is.
type durableStored struct {
	state                                       string
	attempt, from, progressed, program, details int
	scheduled, updated, next                    time.Duration // next: NextAttempt; 0: none
	failure                                     string
}

func (c durableStored) goesOn() bool {
	return c.state == "running" || c.state == "interrupted" || c.state == "waiting" || c.state == "paused"
}

func (c durableStored) String() string {
	return fmt.Sprintf("%s #%d from %d progressed %d scheduled %s updated %s next %s input %d details %d after %q",
		c.state, c.attempt, c.from, c.progressed, c.scheduled, c.updated, c.next, c.program, c.details, c.failure)
}

type durableAct struct {
	id, action, program       int
	opts                      durableOptions
	found                     durableStored
	started                   bool // an attempt of this execution
	state                     string
	until                     time.Duration // of a wait
	scheduled, closeBy        time.Duration
	attempt, from, progressed int
	details                   int
	failure, before           string // of the attempt before, and of the one before that
	why                       string // who asked for the cancellation
	slot, dirty               bool
	paused                    bool // from Pause to Unpause
	again                     bool // whether the last attempt does not count, so that the next has its number

	// Of the attempt.
	try                  durableTry
	pc, resume           int
	moved, stalled       bool // stalled: the one before had a heartbeat timeout
	wake, beatBy, doneBy time.Duration
}

type durableModel struct {
	s       *durableScript
	now     time.Duration
	late    time.Duration // what Shutdowns have taken
	store   map[int]durableStored
	lines   []string
	tie     bool // two things happened at one instant
	counts  map[string]int
	life    *durableLife
	n       int // of the life
	acts    []*durableAct
	queue   []*durableAct
	free    int
	drains  bool
	lost    bool // the Store
	flushAt time.Duration
	results []string
	steered []string
}

func (m *durableModel) run() []string {
	m.store, m.counts = map[int]durableStored{}, map[string]int{}
	for i := range m.s.lives {
		m.n, m.life = i, &m.s.lives[i]
		m.live()
	}
	return m.lines
}

func (m *durableModel) say(what string, id int, format string, args ...any) {
	m.lines = append(m.lines, fmt.Sprintf("life %d: %s %d: ", m.n, what, id)+fmt.Sprintf(format, args...))
}

func (m *durableModel) event(a *durableAct, format string, args ...any) {
	m.say("event", a.id, "%s %s", m.now, fmt.Sprintf(format, args...))
}

func (m *durableModel) live() {
	l := m.life
	m.acts, m.queue, m.free, m.flushAt, m.drains, m.lost = nil, nil, l.slots, durableNever, false, false
	m.results, m.steered = make([]string, len(l.actions)), make([]string, len(l.steers))
	m.late = max(m.late, m.now-l.begin)
	next, steer := 0, 0
	m.until(l.end+m.late, func(offer func(time.Duration, func())) {
		if next < len(l.actions) {
			offer(l.actions[next].at+m.late, func() { next++; m.act(next - 1) })
		}
		if steer < len(l.steers) {
			offer(l.steers[steer].at+m.late, func() { steer++; m.steered[steer-1] = m.steer(l.steers[steer-1]) })
		}
		if l.lost > 0 && !m.lost {
			offer(l.lost+m.late, m.lose)
		}
	})
	if l.crash {
		m.counts["crash"]++
	} else {
		m.counts["shutdown"]++
		m.free = 0
		if l.drain > 0 {
			m.drain()
		}
		for _, a := range slices.Clone(m.acts) {
			a.slot = false // goes to nobody
			m.cancel(a, "shutdown")
		}
		m.flush()
		for len(m.acts) > 0 {
			first := slices.MinFunc(m.acts, func(a, b *durableAct) int { return cmp.Compare(a.wake, b.wake) })
			m.until(first.wake+1, nil)
			m.now--
		}
	}
	for i, x := range l.actions {
		m.say("action", i, "%s %s", x.kind, m.results[i])
	}
	for i, x := range l.steers {
		m.say("steer", i, "%s %s", x.kind, m.steered[i])
	}
	for _, id := range slices.Sorted(maps.Keys(m.store)) {
		m.say("stored", id, "%s", m.store[id])
	}
}

// lose loses the Store: everything is canceled, and nothing is written any more.
func (m *durableModel) lose() {
	m.counts["lost"]++
	m.lost = true
	for _, a := range slices.Clone(m.acts) {
		m.queue = slices.DeleteFunc(m.queue, func(b *durableAct) bool { return a == b })
	}
	for _, a := range slices.Clone(m.acts) {
		m.counts["lost "+a.state]++
		m.cancel(a, "lost")
	}
}

// drain asks everything to stop, and lets the life's Drain time pass.
func (m *durableModel) drain() {
	m.counts["drain"]++
	m.drains = true
	for _, a := range slices.Clone(m.acts) {
		a.slot = false // goes to nobody
		switch {
		case a.state == "running" && a.pc == len(a.try.steps): // hangs, and is not asked
			m.counts["drain, hangs"]++
			m.save(a)
		case a.state == "running": // sleeps
			m.finish(a, "canceled", "shutdown", "shutdown")
		case a.state != "canceling" && a.state != "pausing":
			m.cancel(a, "shutdown")
		}
	}
	m.until(m.now+m.life.drain, nil)
}

// until does what happens before end. More adds to that, if it is not nil.
func (m *durableModel) until(end time.Duration, more func(offer func(time.Duration, func()))) {
	for over := false; !over; {
		at, do, tie := end, func() { over = true }, false
		offer := func(t time.Duration, f func()) {
			if tie = tie && t > at || t == at; t < at {
				at, do = t, f
			}
		}
		if more != nil {
			more(offer)
		}
		offer(m.flushAt, m.flush)
		for _, a := range m.acts {
			switch a.state {
			case "waiting":
				offer(a.until, func() { m.finish(a, "failed", "timeout", "schedule-to-start timeout") })
				offer(a.closeBy, func() { m.finish(a, "failed", "timeout", "schedule-to-close timeout") })
			case "backing off":
				offer(a.until, func() { m.proceed(a) })
			case "canceling":
				offer(a.wake, func() { m.finish(a, "canceled", a.why, a.why) })
			case "pausing":
				offer(a.wake, func() { m.attemptPaused(a) })
				offer(a.closeBy, func() {
					m.noteMoved(a)
					m.finish(a, "failed", "timeout", "schedule-to-close timeout")
				})
			case "paused":
				offer(a.closeBy, func() { m.finish(a, "failed", "timeout", "schedule-to-close timeout") })
			default:
				offer(a.wake, func() { a.pc++; m.step(a) })
				offer(a.beatBy, func() { m.fail(a, "heartbeat timeout") })
				offer(a.doneBy, func() { m.fail(a, "start-to-close timeout") })
				offer(a.closeBy, func() { m.fail(a, "schedule-to-close timeout") })
			}
		}
		m.tie = m.tie || tie
		m.now = at
		do()
	}
}

func (m *durableModel) running(id int) bool {
	return slices.ContainsFunc(m.acts, func(a *durableAct) bool { return a.id == id })
}

func (m *durableModel) act(i int) {
	x := m.life.actions[i]
	result := ""
	switch x.kind {
	case "start":
		if m.lost {
			result = "lost"
		} else if m.running(x.id) {
			result = "already running"
		} else {
			m.start(i, x.id, x.program)
			return
		}
	case "recover":
		if m.lost {
			result = "lost"
			break
		}
		n := 0
		var unknown []string
		ids := slices.Sorted(maps.Keys(m.store))
		slices.SortStableFunc(ids, func(x, y int) int { return cmp.Compare(m.store[x].scheduled, m.store[y].scheduled) })
		for _, id := range ids {
			switch cp := m.store[id]; {
			case m.running(id) || !cp.goesOn():
			case id == x.unknown:
				unknown = append(unknown, fmt.Sprint(id))
			default:
				n++
				m.counts["recovered "+cp.state]++
				m.start(i, id, cp.program)
			}
		}
		result = fmt.Sprintf("%d, unknown %v", n, unknown)
	case "unfinished":
		for _, id := range slices.Sorted(maps.Keys(m.store)) {
			if !m.running(id) {
				result += fmt.Sprintf("%d %s ", id, m.store[id].state)
			}
		}
	case "cancel", "ctx":
		m.queue = slices.DeleteFunc(m.queue, func(a *durableAct) bool { return a.action == x.of }) // a slot that comes free goes to none of them
		for _, a := range slices.Clone(m.acts) {
			if a.action == x.of {
				m.cancel(a, x.kind)
			}
		}
	case "forget":
		if m.lost {
			result = "lost"
		} else if m.running(x.id) {
			result = "already running"
		} else {
			delete(m.store, x.id)
		}
	}
	m.results[i] = result
}

func (m *durableModel) steer(x durableSteer) string {
	i := slices.IndexFunc(m.acts, func(a *durableAct) bool { return a.id == x.id })
	if i < 0 {
		return "not found"
	}
	a := m.acts[i]
	state := a.state
	if state == "canceling" || state == "pausing" {
		state = "running and is being " + strings.Replace(strings.Replace(state, "pausing", "paused", 1), "canceling", "canceled", 1)
	}
	switch x.kind {
	case "pause":
		switch {
		case a.state == "canceling":
			return state
		case a.paused:
			return "nil"
		}
		m.counts["pause "+a.state]++
		a.paused, a.found = true, durableStored{}
		if a.state == "running" {
			a.again = true
			if a.state, a.wake = "pausing", m.now+a.try.cleanup; a.try.cleanup == 0 {
				m.attemptPaused(a)
			}
		} else {
			m.queue = slices.DeleteFunc(m.queue, func(b *durableAct) bool { return a == b })
			m.pause(a)
		}
		m.save(a)
	case "unpause":
		if a.state != "paused" {
			return state
		}
		m.counts["unpause"]++
		m.event(a, "unpaused #%d", a.attempt)
		a.paused, a.found = false, durableStored{}
		if m.proceed(a); a.state == "waiting" {
			m.save(a)
		}
	case "retry":
		if a.state != "backing off" {
			if a.state == "canceling" || a.state == "pausing" {
				return "running"
			}
			return a.state
		}
		m.counts["retry"]++
		a.found = durableStored{}
		if m.proceed(a); a.state == "waiting" {
			m.soon(a)
		}
	}
	return "nil"
}

// attemptPaused is called when a paused attempt is over.
func (m *durableModel) attemptPaused(a *durableAct) {
	m.noteMoved(a)
	m.pause(a)
}

func (m *durableModel) pause(a *durableAct) {
	m.event(a, "paused #%d", a.attempt)
	a.state = "paused"
	m.release(a)
	if m.drains {
		m.cancel(a, "shutdown")
	}
}

func durablePlus(t, d time.Duration) time.Duration {
	if d == 0 {
		return durableNever
	}
	return t + d
}

// interval is rule 13's.
func (o durableOptions) interval(n int) time.Duration {
	d, coefficient := o.initial, time.Duration(o.coefficient)
	if d == 0 {
		d = time.Second
	}
	if coefficient == 0 {
		coefficient = 2
	}
	most := 100 * d
	for ; n > 1 && d < most; n-- {
		d *= coefficient
		if coefficient == 1 {
			break
		}
	}
	return min(d, most)
}

func (m *durableModel) start(action, id, program int) {
	o := m.life.actions[action].opts[id]
	cp := m.store[id]
	if cp.state != "" && cp.program != program && !o.accept {
		m.counts["mismatch"]++
		m.results[action] = "mismatch"
		return
	}
	a := &durableAct{id: id, action: action, program: program, opts: o, found: cp, scheduled: m.now, details: cp.details}
	m.acts = append(m.acts, a)
	if a.details == 0 {
		a.details = o.details
	}
	m.event(a, "scheduled #0")
	next := max(m.now, cp.next)
	if cp.next > m.now {
		m.counts["stored backoff"]++
	}
	if cp.goesOn() {
		a.scheduled, a.attempt, a.from, a.progressed, a.failure = cp.scheduled, cp.attempt, cp.from, cp.progressed, cp.failure
	}
	if cp.state == "running" {
		a.failure = "crash"
		if a.progressed < a.attempt {
			next = max(m.now, cp.updated+o.interval(a.attempt-a.progressed))
		} else if o.reset {
			a.from = a.attempt - 1
		}
	}
	a.closeBy = durablePlus(a.scheduled, o.stc)
	switch {
	case cp.goesOn() && o.attempts > 0 && a.attempt-a.from >= o.attempts:
		if a.failure == "" {
			a.failure = "made before"
		}
		m.counts["used up"]++
		m.finish(a, "failed", "maximum attempts reached", a.failure)
	case a.closeBy <= m.now:
		m.counts["closed in downtime"]++
		m.finish(a, "failed", "timeout", "schedule-to-close timeout")
	case a.closeBy <= next:
		m.counts["closed in the interval"]++
		m.finish(a, "failed", "timeout", a.failure)
	case cp.state == "paused":
		a.paused = true
		m.pause(a)
	case next > m.now:
		m.counts["crash interval"]++
		a.state, a.until = "backing off", next
	default:
		m.proceed(a)
	}
	if (a.state == "waiting" || a.state == "backing off" || a.state == "paused") && !(cp.goesOn() && cp.program == program) {
		m.counts["waiting saved"]++
		a.found = durableStored{}
		m.save(a)
	}
}

func (m *durableModel) proceed(a *durableAct) {
	switch {
	case m.life.slots == 0 || a.slot:
		m.begin(a)
	case m.free > 0:
		m.free--
		a.slot = true
		m.begin(a)
	default:
		a.state, a.until = "waiting", durablePlus(m.now, a.opts.sts)
		m.queue = append(m.queue, a)
	}
}

func (m *durableModel) release(a *durableAct) {
	if !a.slot {
		return
	}
	a.slot = false
	m.free++
	if len(m.queue) > 0 {
		b := m.queue[0]
		m.queue = m.queue[1:]
		m.proceed(b)
	}
}

func (m *durableModel) begin(a *durableAct) {
	if !a.again {
		a.attempt++
	}
	a.again = false
	a.started, a.moved, a.resume = true, false, a.details
	a.state, a.pc, a.wake = "running", 0, durableNever
	a.beatBy, a.doneBy = durablePlus(m.now, a.opts.hb), durablePlus(m.now, a.opts.s2c)
	m.save(a)
	m.event(a, "attempt started #%d", a.attempt)
	m.say("call", a.id, "%s #%d input %d resumes %d scheduled %s after %q", m.now, a.attempt, a.program, a.resume, a.scheduled, a.failure)
	a.try = m.s.try(a.program, a.id, a.attempt)
	m.step(a)
}

// step lets the function go on until it waits or returns.
func (m *durableModel) step(a *durableAct) {
	a.wake = durableNever
	for ; a.pc < len(a.try.steps); a.pc++ {
		switch step := a.try.steps[a.pc]; step.op {
		case "sleep":
			a.wake = m.now + step.d
			return
		case "note":
			a.details = step.v
			a.moved = a.moved || step.v != a.resume
			if a.opts.sync {
				m.save(a)
			} else {
				m.soon(a)
			}
		case "commit": // writes what is to be saved of this activity, and of no other
			m.counts["commit"]++
			a.details = step.v
			a.moved = a.moved || step.v != a.resume
			a.dirty = false
			m.store[a.id] = m.checkpoint(a, "")
		}
		a.beatBy = durablePlus(m.now, a.opts.hb)
	}
	switch a.try.end {
	case "hang":
	case "ok":
		m.finish(a, "completed", "", "")
	default:
		m.fail(a, a.try.end)
	}
}

// counted is the last attempt that counts.
func (a *durableAct) counted() int {
	if a.again {
		return a.attempt - 1
	}
	return a.attempt
}

func (m *durableModel) noteMoved(a *durableAct) {
	if a.moved {
		a.progressed, a.stalled = a.counted(), false
		if a.opts.reset {
			a.from = a.attempt - 1
		}
	}
}

func (m *durableModel) fail(a *durableAct, kind string) {
	m.noteMoved(a)
	n := a.attempt - a.from
	again := kind == "heartbeat timeout" && !a.stalled
	why := ""
	var delay time.Duration
	switch {
	case kind == "schedule-to-close timeout":
		why = "timeout"
	case kind == "fatal", kind == "cannot":
		why = "non-retryable failure"
	case a.opts.attempts > 0 && n >= a.opts.attempts:
		why = "maximum attempts reached"
	default:
		switch {
		case again:
		case kind == "later":
			delay = a.try.later
		default:
			delay = a.opts.interval(n)
		}
		if a.closeBy != durableNever && m.now+delay >= a.closeBy {
			why, delay = "timeout", 0
		}
	}
	a.stalled = kind == "heartbeat timeout"
	a.before, a.failure = a.failure, kind
	if m.drains { // there is no other attempt, but this one counts
		m.counts["drain, fails"]++
		m.event(a, "attempt failed #%d %s, next in %s", a.attempt, kind, time.Duration(0))
		if a.state = "deciding"; delay > 0 {
			a.state, a.until = "backing off", m.now+delay
		}
		m.finish(a, "canceled", "shutdown", "shutdown")
		return
	}
	m.event(a, "attempt failed #%d %s, next in %s", a.attempt, kind, delay)
	m.soon(a)
	switch {
	case why != "":
		m.finish(a, "failed", why, kind)
	case again:
		m.proceed(a)
	default:
		a.state, a.until = "backing off", m.now+delay
		m.release(a)
	}
}

// cancel ends an activity's wait, or its attempt's context.
func (m *durableModel) cancel(a *durableAct, why string) {
	switch {
	case a.state == "canceling":
	case a.state == "pausing":
		m.counts["pausing, canceled"]++
		a.state, a.why = "canceling", why
		m.save(a)
	case a.state == "running" && a.try.cleanup > 0:
		m.counts["cleanup"]++
		a.again = true
		a.state, a.why, a.wake = "canceling", why, m.now+a.try.cleanup
		m.save(a)
	default:
		m.finish(a, "canceled", why, why)
	}
}

// finish ends an activity. why is the RetryState, or of a cancellation who asked.
func (m *durableModel) finish(a *durableAct, state, why, kind string) {
	m.acts = slices.DeleteFunc(m.acts, func(b *durableAct) bool { return a == b })
	m.queue = slices.DeleteFunc(m.queue, func(b *durableAct) bool { return a == b })
	if m.lost {
		state, why, kind = "canceled", "lost", "lost"
	}
	m.counts[state]++
	told := a.attempt // the last that was started
	left, failure := "failed", kind
	switch state {
	case "completed":
		m.event(a, "completed #%d", told)
	case "failed":
		m.event(a, "failed #%d %s: %s", told, why, kind)
		if kind == "cannot" && why == "non-retryable failure" { // that attempt does not count
			m.counts["cannot"]++
			a.again = true
			left, failure = "interrupted", a.before
		}
	case "canceled":
		m.event(a, "canceled #%d cancel requested: %s", told, kind)
		if a.state == "running" || a.state == "canceling" { // that attempt does not count
			a.again = true
			m.noteMoved(a)
		}
		if left = "canceled"; why != "cancel" {
			if left, failure = "interrupted", a.failure; a.paused {
				m.counts["left paused"]++
				left = "paused"
			}
		}
	}
	if action := m.life.actions[a.action]; action.kind == "start" {
		switch state {
		case "completed":
			m.results[a.action] = fmt.Sprintf("gives %d", 100*a.program+told)
		case "failed":
			m.results[a.action] = fmt.Sprintf("error #%d %s: %s", told, why, kind)
		default:
			m.results[a.action] = fmt.Sprintf("error #%d cancel requested: %s", told, why)
		}
	}
	switch {
	case m.lost:
	case state == "completed":
		delete(m.store, a.id)
		m.flush()
	case state == "canceled" && left != "canceled" && !a.started && a.found.goesOn():
		m.counts["left as found"]++
	default:
		a.failure = failure
		a.dirty = false
		m.store[a.id] = m.checkpoint(a, left)
		m.flush()
	}
	m.release(a)
}

// What is to be saved.

// checkpoint is what is stored of an activity that is left so, or of one that is alive
// if left is "".
func (m *durableModel) checkpoint(a *durableAct, left string) durableStored {
	c := durableStored{state: left, attempt: a.counted(), from: a.from, progressed: a.progressed,
		scheduled: a.scheduled, updated: m.now, program: a.program, details: a.details, failure: a.failure}
	if left == "" {
		switch c.state = a.state; a.state {
		case "running":
			if m.drains {
				c.state = "interrupted"
				c.attempt--
			}
		case "canceling":
			if c.state = "interrupted"; a.why == "cancel" {
				c.state, c.failure = "canceled", a.why
			}
		default:
			c.state = "waiting"
		}
		if a.paused && c.state != "canceled" {
			c.state = "paused"
		}
		if a.started && a.moved && a.state != "waiting" && a.state != "backing off" && a.state != "paused" {
			c.progressed = a.counted()
			if a.opts.reset {
				c.from = a.attempt - 1
			}
		}
	}
	if a.state == "backing off" && c.goesOn() {
		c.next = a.until
	}
	c.progressed = min(c.progressed, c.attempt)
	return c
}

// soon has it saved one SaveInterval after the first that waits for it.
func (m *durableModel) soon(a *durableAct) {
	a.dirty = true
	if m.flushAt == durableNever {
		d := m.life.sync
		if d == 0 {
			d = 100 * time.Millisecond
		}
		m.flushAt = m.now + d
	}
}

func (m *durableModel) save(a *durableAct) {
	a.dirty = true
	m.flush()
}

// flush saves all that waits for it, in one Save.
func (m *durableModel) flush() {
	m.flushAt = durableNever
	for _, a := range m.acts {
		if a.dirty && !m.lost {
			a.dirty = false
			m.store[a.id] = m.checkpoint(a, "")
		}
	}
}

func (s *durableScript) String() string {
	var b strings.Builder
	for i, p := range s.programs {
		fmt.Fprintf(&b, "program %d: %+v\n", i, p)
	}
	for i, l := range s.lives {
		fmt.Fprintf(&b, "life %d: %s to %s, crash %t, slots %d, sync %s, lost %s\n", i, l.begin, l.end, l.crash, l.slots, l.sync, l.lost)
		for j, x := range l.actions {
			fmt.Fprintf(&b, "  action %d at %s: %s", j, x.at, x.kind)
			switch x.kind {
			case "start":
				fmt.Fprintf(&b, " id %d program %d %+v", x.id, x.program, x.opts[x.id])
			case "recover":
				fmt.Fprintf(&b, " unknown %d %+v", x.unknown, x.opts)
			case "cancel", "ctx":
				fmt.Fprintf(&b, " of %d", x.of)
			case "forget":
				fmt.Fprintf(&b, " id %d", x.id)
			}
			b.WriteString("\n")
		}
		for _, x := range l.steers {
			fmt.Fprintf(&b, "  %s: %s id %d\n", x.at, x.kind, x.id)
		}
	}
	return b.String()
}
