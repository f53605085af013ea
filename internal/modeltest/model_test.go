package modeltest

import (
	"fmt"
	"slices"
	"strings"
)

// This file is a model of the rules: one thing after the other, whole seconds,
// no goroutine, no clock. It shares no code with the package. A modelScript is
// what both the model and the package are given; see model_run_test.go.

// A modelTrace is what can be seen of one activity.
type modelTrace struct {
	events []string
	calls  []string // what the functions saw
	states []string // Handle.Status, after each instant that changed it
	result string
	endAt  int
}

// A modelFailure is how an attempt ended. last is of a timeout.
type modelFailure struct{ head, last string }

func (f modelFailure) full() string {
	if f.last != "" {
		return f.head + " last " + f.last
	}
	return f.head
}

type modelFn struct {
	a     *modelAct
	n     int
	run   int // of all, with those that do not count
	try   *modelTry
	start int
	pc    int
	state string // ready, sleep, stall, gate, done
	until int
	got   string // what the call in progress returned

	beatBy, closeBy int
	resume          string
	cause           string // why its context ended
	over            bool   // fenced
	progressed      bool
	told            bool
	asked           bool // to stop, by a drain
	inGuard         bool
}

type modelAct struct {
	modelTrace
	spec    *modelSpec
	index   int
	state   string
	n, from int // attempts; those up to from do not count
	runs    int // of the function
	details string
	last    modelFailure
	lastHB  bool
	cause   string // why it was canceled
	ctx     string // why the caller's context ended
	at      int    // when it was scheduled
	until   int    // waiting: schedule-to-start; backing off: the next attempt; canceled: the end of grace
	cur     *modelFn
	fns     []*modelFn // those that run, abandoned ones included
	slot    bool
	pause   bool   // from Pause to Unpause
	again   bool   // whether the next attempt has the number of the last, which was paused
	order   int    // of starts
	asks    func() // Retryable, about a timeout: decides when it has answered
	met     map[string]bool
}

type model struct {
	s        *modelScript
	now      int
	acts     []*modelAct
	done     []bool // actions
	queue    []*modelAct
	free     int
	starts   int
	shut     bool
	drain    bool
	shutAt   int
	stats    []string
	counts   map[string]int
	meetings map[[2]string]int
}

const modelNever = 1 << 30

func modelPlus(now, d int) int {
	if d == 0 {
		return modelNever
	}
	return now + d
}

// run gives the traces of the activities, and the runtime's as the last one.
func (m *model) run() []modelTrace {
	m.free = m.s.slots
	m.shutAt = -1
	m.done = make([]bool, len(m.s.actions))
	for i := range m.s.acts {
		m.acts = append(m.acts, &modelAct{spec: &m.s.acts[i], index: i, met: map[string]bool{}, modelTrace: modelTrace{endAt: -1}})
	}
	for ; m.now < modelHorizon && !m.finished(); m.now++ {
		m.noteDue()
		if m.s.early(m.now) {
			m.step(true)
		}
		m.settle()
		m.answer()
		for m.step(false) {
		}
		m.endInstant()
	}
	var traces []modelTrace
	for _, a := range m.acts {
		traces = append(traces, a.modelTrace)
	}
	total := fmt.Sprintf("scheduled %d completed %d failed %d canceled %d attempts %d heartbeats %d timeouts %d", m.counts["scheduled"], m.counts["completed"],
		m.counts["failed"], m.counts["canceled"], m.counts["attempts"], m.counts["heartbeats"], m.counts["timeouts"])
	return append(traces, modelTrace{states: m.stats, result: total, endAt: m.shutAt})
}

func (m *model) finished() bool {
	for _, a := range m.acts {
		if a.state != "" && !modelEnded(a) || len(a.fns) > 0 {
			return false
		}
	}
	return !slices.Contains(m.done, false)
}

func modelEnded(a *modelAct) bool {
	return a.state == "completed" || a.state == "failed" || a.state == "canceled"
}

// step does the one thing that is first among what is ready, if there is any.
func (m *model) step(early bool) bool {
	best, do := uint64(0), func() {}
	found := false
	offer := func(rank uint64, f func()) {
		if !found || rank < best {
			best, do, found = rank, f, true
		}
	}
	for i, x := range m.s.actions {
		if !m.done[i] && x.at == m.now && !(early && m.late(x)) {
			offer(m.s.actionRank(i), func() { m.done[i] = true; m.act(x) })
		}
	}
	for _, a := range m.acts {
		for _, f := range a.fns {
			if f.state == "gate" && f.until <= m.now || f.state == "ready" && !early {
				offer(m.s.rank(m.now, a.index, f.run), func() { m.resume(f) })
			}
		}
	}
	do()
	m.answer()
	return found
}

// answer lets the Retryables that were asked about a timeout answer. They are
// asked outside every lock: what is done meanwhile, at the same instant, may
// come first.
func (m *model) answer() {
	for _, a := range m.inOrder() {
		m.decide(a)
	}
}

func (m *model) decide(a *modelAct) {
	f, fn := a.asks, a.cur
	if f == nil {
		return
	}
	a.asks = nil
	f()
	if fn.state == "done" { // it has returned meanwhile
		m.left(fn)
	}
}

// inOrder gives the activities as they were started: what comes due for
// several at one instant is done in that order.
func (m *model) inOrder() []*modelAct {
	return slices.SortedFunc(slices.Values(m.acts), func(a, b *modelAct) int { return a.order - b.order })
}

// late says what may not happen before the timers of its instant, since two
// goroutines would race: a cancellation with a wake-up that is due, and the
// caller's context, of which attempt and scheduler hear one after the other.
func (m *model) late(x modelAction) bool {
	for i, a := range m.acts {
		if i == x.act || x.kind == "shutdown" || x.kind == "drain" {
			for _, f := range a.fns {
				if f.state == "sleep" && f.until == m.now && x.kind != "start" {
					return true
				}
			}
		}
	}
	return x.kind == "ctx"
}

func (m *model) act(x modelAction) {
	m.settle()
	switch x.kind {
	case "start":
		m.start(m.acts[x.act])
	case "cancel":
		if a := m.acts[x.act]; a.state != "" {
			m.meet(a, "cancel")
			m.cancel(a, fmt.Sprintf("cancel %d", x.act))
		}
	case "ctx":
		a := m.acts[x.act]
		if a.ctx == "" {
			a.ctx = fmt.Sprintf("ctx %d", x.act)
		}
		if a.state != "" {
			m.meet(a, "cancel")
			m.cancel(a, a.ctx)
		}
	case "retry":
		if a := m.acts[x.act]; a.state == "backing off" {
			m.meet(a, "retry now")
			m.proceed(a)
		}
	case "pause", "unpause":
		a, steer := m.acts[x.act], m.pause
		if x.kind == "unpause" {
			steer = m.unpause
		}
		if a.state != "" {
			m.meet(a, x.kind)
		}
		if a.state != "" && !modelEnded(a) {
			a.calls = append(a.calls, fmt.Sprintf("%d %s gives %s", m.now, x.kind, steer(a)))
		}
	case "drain":
		m.shut, m.drain = true, true
		for _, a := range m.inOrder() {
			switch f := a.cur; {
			case a.state == "", modelPausing(a):
			case a.state == "running" && a.cause == "" && a.asks == nil:
				m.meet(a, "drain")
				if f.state == "sleep" {
					f.state, f.got, f.told, f.asked = "ready", "shutdown", true, true
				}
			case a.state != "running" || a.asks != nil:
				m.meet(a, "drain")
				m.cancel(a, "shutdown")
			}
		}
	case "shutdown":
		m.shut = true // from here on, a free slot starts no attempt
		for _, a := range m.inOrder() {
			if a.state != "" {
				m.meet(a, "shutdown")
				m.cancel(a, "shutdown")
			}
		}
	}
}

// modelPausing reports whether a paused attempt's function has not returned yet.
func modelPausing(a *modelAct) bool {
	return a.state == "running" && a.pause && a.cause == "" && a.asks == nil
}

// steered says in which state an activity is.
func steered(a *modelAct) string {
	switch {
	case a.state == "running" && a.cause != "":
		return "running and is being canceled"
	case a.state == "running" && a.pause:
		return "running and is being paused"
	}
	return a.state
}

func (m *model) pause(a *modelAct) string {
	switch {
	case a.cause != "":
		return steered(a)
	case a.pause:
		return "nil"
	case a.asks != nil:
	case a.state == "running":
		a.until = m.now + a.spec.graceOr10()
		m.endContext(a.cur, "paused")
	default:
		m.queue = slices.DeleteFunc(m.queue, func(b *modelAct) bool { return a == b })
		m.paused(a, "")
	}
	a.pause = true
	return "nil"
}

// attemptPaused is called when a paused attempt is over: it does not count.
func (m *model) attemptPaused(a *modelAct, err string) {
	m.noteEnd(a)
	a.again = true
	m.paused(a, err)
}

func (m *model) paused(a *modelAct, err string) {
	m.event(a, "paused", a.n, err)
	m.release(a)
	a.state = "paused"
	if m.drain {
		m.cancel(a, "shutdown")
	}
}

func (m *model) unpause(a *modelAct) string {
	if a.state != "paused" {
		return steered(a)
	}
	a.pause = false
	m.event(a, "unpaused", a.n, "")
	m.proceed(a)
	return "nil"
}

// noteEnd notes what an attempt that is over has done for the policy.
func (m *model) noteEnd(a *modelAct) {
	s, fn := a.spec, a.cur
	if fn.progressed {
		a.lastHB = false
	}
	if s.reset && fn.progressed || s.resetAfter > 0 && m.now-fn.start >= s.resetAfter {
		a.from = fn.n - 1
	}
}

func (m *model) start(a *modelAct) {
	switch {
	case a.ctx != "":
		a.result = fmt.Sprintf("refused: error #0 cancel requested: %s", a.ctx)
		return
	case m.shut:
		a.result = "refused: shutdown"
		return
	}
	for _, b := range m.acts {
		if b.state != "" && b.spec.id == a.spec.id && (!modelEnded(b) || modelGuarding(b)) {
			a.result = "refused: already running"
			return
		}
	}
	a.at = m.now
	m.starts++
	a.order = m.starts
	if a.spec.resume != 0 {
		a.details = fmt.Sprint(a.spec.resume)
	}
	m.count("scheduled")
	m.event(a, "scheduled", 0, "")
	m.proceed(a)
}

func modelGuarding(a *modelAct) bool {
	return slices.ContainsFunc(a.fns, func(f *modelFn) bool { return f.inGuard })
}

func modelBlocked(a *modelAct) bool {
	limit := a.spec.maxAbandoned
	if limit == 0 {
		limit = 10
	}
	return modelGuarding(a) || len(a.fns) > max(limit, 0)
}

// proceed goes on to the next attempt: once nothing blocks it, and with a slot.
func (m *model) proceed(a *modelAct) {
	switch {
	case modelBlocked(a):
		m.release(a)
		a.state = "blocked"
		m.event(a, "blocked", 0, modelHangers(a))
	case m.s.slots > 0 && !a.slot && m.free == 0:
		a.state = "waiting"
		a.until = modelPlus(m.now, a.spec.sts)
		m.queue = append(m.queue, a)
	default:
		if m.s.slots > 0 && !a.slot {
			m.free--
			a.slot = true
		}
		m.attempt(a)
	}
}

// modelHangers are the attempts that EventBlocked may name: those that hang.
func modelHangers(a *modelAct) string {
	var s []string
	for _, f := range a.fns {
		s = append(s, fmt.Sprintf("#%d", f.n))
	}
	return strings.Join(s, "|")
}

func (m *model) release(a *modelAct) {
	if !a.slot {
		return
	}
	a.slot = false
	m.free++
	for i, b := range m.queue {
		if m.due(b) == "" && !m.shut { // a timeout comes first
			m.queue = slices.Delete(m.queue, i, i+1)
			m.proceed(b)
			return
		}
	}
}

func (m *model) attempt(a *modelAct) {
	a.state = "running"
	if !a.again {
		a.n++
	}
	a.again = false
	a.runs++
	m.count("attempts")
	f := &modelFn{a: a, n: a.n, run: a.runs, try: a.spec.try(a.n), start: m.now, state: "ready", resume: a.details}
	f.beatBy = modelPlus(m.now, a.spec.hb)
	f.closeBy = modelPlus(m.now, a.spec.s2c)
	a.cur = f
	a.fns = append(a.fns, f)
	m.event(a, "attempt started", f.n, "")
}

// due is the first of an activity's timeouts that has been reached.
func (m *model) due(a *modelAct) string {
	stc := m.now >= modelPlus(a.at, a.spec.stc)
	switch a.state {
	case "running":
		f := a.cur
		switch {
		case f.over:
		case a.cause != "":
			if m.now >= a.until {
				return "grace"
			}
		case stc:
			return "schedule-to-close timeout"
		case modelPausing(a):
			if m.now >= a.until {
				return "grace"
			}
		case m.now >= f.closeBy:
			return "start-to-close timeout"
		case m.now >= f.beatBy:
			return "heartbeat timeout"
		}
	case "waiting", "blocked", "paused":
		if stc {
			return "schedule-to-close timeout"
		}
		if a.state == "waiting" && m.now >= a.until {
			return "schedule-to-start timeout"
		}
	}
	return ""
}

// settle does what is due: timeouts, then the ends of waits.
func (m *model) settle() {
	for _, kind := range []string{"schedule-to-close timeout", "start-to-close timeout", "heartbeat timeout", "schedule-to-start timeout", "grace"} {
		for _, a := range m.inOrder() {
			if m.due(a) == kind {
				m.timeout(a, kind)
			}
		}
	}
	for _, a := range m.inOrder() {
		if a.state == "backing off" && a.until <= m.now {
			m.proceed(a)
		}
	}
	for _, a := range m.acts {
		for _, f := range a.fns {
			if f.state == "sleep" && f.until <= m.now {
				f.state, f.got = "ready", "nil"
			}
		}
	}
}

func (m *model) timeout(a *modelAct, kind string) {
	if kind == "grace" {
		a.cur.over = true
		m.event(a, "abandoned", a.n, "")
		if modelPausing(a) {
			m.attemptPaused(a, "")
		} else {
			m.end(a, "canceled", "cancel requested", a.cause)
		}
		return
	}
	after := map[string]int{"schedule-to-close timeout": a.spec.stc, "start-to-close timeout": a.spec.s2c,
		"heartbeat timeout": a.spec.hb, "schedule-to-start timeout": a.spec.sts}[kind]
	m.count("timeouts")
	t := modelFailure{head: fmt.Sprintf("%s #%d after %ds details %s", kind, a.n, after, modelOrNone(a.details)), last: modelOrNone(a.last.head)}
	if a.state != "running" || modelPausing(a) {
		if a.state == "running" {
			a.cur.over = true
			m.event(a, "abandoned", a.n, "")
		}
		m.queue = slices.DeleteFunc(m.queue, func(b *modelAct) bool { return a == b })
		m.end(a, "failed", "timeout", t.full())
		return
	}
	a.cur.over = true
	m.endContext(a.cur, t.full())
	if m.drain {
		a.cause = "shutdown" // there is no other attempt
		m.fail(a, kind, t, 0)
		return
	}
	if a.spec.picky != "" && kind != "schedule-to-close timeout" {
		a.asks = func() { m.fail(a, kind, t, 0) }
		return
	}
	m.fail(a, kind, t, 0)
}

func modelOrNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// fail ends an attempt that was not canceled, and decides what comes next.
func (m *model) fail(a *modelAct, kind string, f modelFailure, after int) {
	s := a.spec
	m.noteEnd(a)
	count := a.n - a.from
	isTimeout := strings.HasSuffix(kind, "timeout")
	end, delay := "", 0
	switch {
	case a.cause != "":
		end = "cancel requested"
	case kind == "schedule-to-close timeout":
		end = "timeout"
	case kind == "fatal" || kind == "goexit" || kind == "bad" || s.picky == "timeout" && isTimeout || s.picky == kind:
		end = "non-retryable failure"
	case s.maxTrys > 0 && count >= s.maxTrys:
		end = "maximum attempts reached"
	default:
		switch {
		case a.pause: // no backoff follows
		case kind == "after" && after > 0:
			delay = after
		case kind == "heartbeat timeout" && !a.lastHB:
		default:
			delay = s.interval(count)
		}
		if m.now+delay >= modelPlus(a.at, s.stc) {
			end, delay = "timeout", 0
		}
	}
	m.event(a, "attempt failed", a.n, fmt.Sprintf("delay %d: %s", delay, f.full()))
	if isTimeout {
		m.event(a, "abandoned", a.n, "")
	}
	if a.cause != "" {
		m.end(a, "canceled", end, a.cause+" + "+f.full())
		return
	}
	if end != "" {
		m.end(a, "failed", end, f.full())
		return
	}
	a.last, a.lastHB = f, kind == "heartbeat timeout"
	if a.pause {
		m.paused(a, "")
		return
	}
	if a.lastHB && delay == 0 {
		m.proceed(a)
		return
	}
	m.release(a)
	a.state, a.until = "backing off", m.now+delay
}

// interval is rule 13's.
func (s *modelSpec) interval(n int) int {
	most := s.maxInterval
	if most == 0 {
		most = 100 * s.initial
	}
	d := s.initial
	for range n - 1 {
		d = min(d*s.coefficient, most)
	}
	return min(d, most)
}

func (m *model) endContext(f *modelFn, cause string) {
	if f.cause != "" {
		return
	}
	f.cause = cause
	switch {
	case f.state == "sleep":
		f.state, f.got, f.told = "ready", cause, true
	case f.state == "stall":
		f.state = "ready"
	}
}

func (m *model) cancel(a *modelAct, cause string) {
	if modelEnded(a) || a.cause != "" {
		return
	}
	a.cause = cause
	if a.asks != nil {
		m.decide(a) // whatever Retryable says
		return
	}
	if a.state == "running" {
		a.until = m.now + a.spec.graceOr10()
		m.endContext(a.cur, cause)
		return
	}
	m.queue = slices.DeleteFunc(m.queue, func(b *modelAct) bool { return a == b })
	if a.last.head != "" {
		cause += " + " + a.last.full()
	}
	m.end(a, "canceled", "cancel requested", cause)
}

func (m *model) end(a *modelAct, state, why, err string) {
	a.state, a.endAt = state, m.now
	m.count(state)
	if state == "completed" {
		a.result = "completed " + err
		err = ""
	} else {
		a.result = fmt.Sprintf("error #%d %s: %s", a.n, why, err)
	}
	m.event(a, state, a.n, err)
	m.release(a)
}

// resume lets a function go on until it waits for something or returns.
func (m *model) resume(f *modelFn) {
	if f.pc == 0 && f.got == "" && f.state == "ready" {
		m.saw(f, "starts from "+modelOrNone(f.resume)+" after "+modelOrNone(f.a.last.head))
	} else {
		if f.inGuard {
			f.inGuard = false
			if f.over {
				m.settle()
				m.unblock(f.a)
			}
			f.state = "ready"
			return
		}
		if f.try.steps[f.pc].op == "stall" {
			f.got = f.cause
		}
		if m.called(f) {
			return
		}
	}
	f.state = "ready"
	for f.pc < len(f.try.steps) {
		if m.call(f) || m.called(f) {
			return
		}
	}
	m.returns(f, f.try.end, f.try.end)
}

// called notes what a call gave, and reports whether the function returns it.
func (m *model) called(f *modelFn) bool {
	op := f.try.steps[f.pc].op
	got := f.got
	m.saw(f, op+" gives "+got)
	f.pc++
	f.got = "nil"
	if got != "nil" && f.try.heed && op != "stall" && op != "deaf" {
		kind := "cause"
		if op == "bad" && f.cause == "" {
			kind = "bad"
		}
		m.returns(f, kind, got)
		return true
	}
	return false
}

// call makes a function's next call. It reports whether the function waits:
// also for its turn, after a call that has found a timeout.
func (m *model) call(f *modelFn) (wait bool) {
	before := f.cause
	step := f.try.steps[f.pc]
	if op := step.op; op == "beat" || op == "note" || op == "bad" || op == "guard" || op == "sleep" && m.drain {
		m.settleOwn(f)
	}
	f.got = "nil"
	if before == "" && f.cause != "" {
		defer func() { f.state, wait = "ready", true }()
	}
	if op := step.op; m.drain && f.cause == "" && (op == "sleep" || op == "guard") {
		f.state, f.got, f.told, f.asked = "ready", "shutdown", true, true
		return true
	}
	switch step.op {
	case "sleep":
		if f.cause == "" {
			f.state, f.until = "sleep", m.now+step.d
			return true
		}
		f.got, f.told = f.cause, true
	case "stall":
		if f.cause == "" {
			f.state = "stall"
			return true
		}
		f.got = f.cause
	case "deaf":
		f.state, f.until = "gate", m.now+step.d
		return true
	case "guard":
		if f.cause == "" {
			f.state, f.until, f.inGuard = "gate", m.now+step.d, true
			return true
		}
		f.got, f.told = f.cause, true
	default:
		m.meet(f.a, "heartbeat")
		m.beat(f, step)
	}
	return false
}

func (m *model) beat(f *modelFn, step modelStep) {
	if f.over {
		f.got = f.cause
		return
	}
	a := f.a
	m.count("heartbeats")
	f.beatBy = modelPlus(m.now, a.spec.hb)
	recorded := ""
	if step.op == "note" {
		a.details = fmt.Sprint(step.v)
		recorded = a.details
		if a.details != f.resume {
			f.progressed = true
		}
	}
	m.event(a, "heartbeat", f.n, modelOrNone(recorded))
	switch {
	case f.cause != "":
		f.got = f.cause
	case m.drain: // beside what is wrong with the details
		f.got, f.asked = "shutdown", true
	case step.op == "bad":
		f.got = "bad details"
	}
}

// settleOwn settles if a timeout of the function's own attempt is due. The end
// of CancelGrace is not one.
func (m *model) settleOwn(f *modelFn) {
	if !f.over && m.now >= min(f.beatBy, f.closeBy, modelPlus(f.a.at, f.a.spec.stc)) {
		m.settle()
	}
}

func (m *model) returns(f *modelFn, kind, text string) {
	a := f.a
	m.settle()
	if kind == "panic" {
		m.meet(a, "panic")
	} else {
		m.meet(a, "return")
	}
	f.state = "done"
	if kind == "fail" || kind == "fatal" || kind == "after" || kind == "panic" {
		text = fmt.Sprintf("%s in %d", kind, f.n)
	}
	if m.drain && !f.over && a.cause == "" && !modelPausing(a) && (kind != "ok" || f.told) {
		a.cause = "shutdown"
		if !f.asked { // that failure counts
			a.fns = slices.DeleteFunc(a.fns, func(g *modelFn) bool { return f == g })
			m.fail(a, kind, modelFailure{head: text}, f.try.d)
			return
		}
	}
	if !f.over {
		a.fns = slices.DeleteFunc(a.fns, func(g *modelFn) bool { return f == g })
	}
	switch {
	case a.asks != nil && f == a.cur: // answer tells
	case f.over:
		m.left(f)
	case kind == "ok" && !((a.cause != "" || a.pause) && f.told):
		m.end(a, "completed", "", fmt.Sprint(100+f.n))
	case modelPausing(a):
		if kind == "ok" || text == "paused" || text == "shutdown" {
			text = ""
		}
		m.attemptPaused(a, text)
	case a.cause != "":
		err := a.cause
		if kind != "ok" && text != a.cause {
			err += " + " + text
		}
		m.end(a, "canceled", "cancel requested", err)
	default:
		m.fail(a, kind, modelFailure{head: text}, f.try.d)
	}
}

// left notes that an abandoned function has returned.
func (m *model) left(f *modelFn) {
	f.a.fns = slices.DeleteFunc(f.a.fns, func(g *modelFn) bool { return f == g })
	m.event(f.a, "abandoned returned", f.n, "")
	m.unblock(f.a)
}

func (m *model) unblock(a *modelAct) {
	if a.state == "blocked" && !modelBlocked(a) {
		m.proceed(a)
	}
}

func (m *model) event(a *modelAct, kind string, attempt int, what string) {
	if kind == "blocked" {
		a.events = append(a.events, fmt.Sprintf("%d blocked %s", m.now, what))
		return
	}
	a.events = append(a.events, strings.TrimSpace(fmt.Sprintf("%d %s #%d %s", m.now, kind, attempt, what)))
}

func (m *model) saw(f *modelFn, what string) {
	f.a.calls = append(f.a.calls, fmt.Sprintf("%d #%d %s", m.now, f.n, what))
}

func (m *model) count(what string) {
	if m.counts == nil {
		m.counts = map[string]int{}
	}
	m.counts[what]++
}

// meet notes what an activity met at this instant, see modelPairs.
func (m *model) meet(a *modelAct, what string) { a.met[what] = true }

// noteDue notes which timeouts an activity meets at this instant.
func (m *model) noteDue() {
	for _, a := range m.acts {
		waits := a.state == "waiting" || a.state == "blocked" || a.state == "backing off" || a.state == "paused"
		if (waits || a.state == "running" && a.cause == "") && m.now >= modelPlus(a.at, a.spec.stc) {
			m.meet(a, "schedule-to-close timeout")
		}
		if a.state == "waiting" && m.now >= a.until {
			m.meet(a, "schedule-to-start timeout")
		}
		if a.state == "running" && a.cause == "" && !modelPausing(a) {
			if m.now >= a.cur.closeBy {
				m.meet(a, "start-to-close timeout")
			}
			if m.now >= a.cur.beatBy {
				m.meet(a, "heartbeat timeout")
			}
		}
	}
}

func (m *model) endInstant() {
	if m.shut && m.shutAt < 0 && !slices.ContainsFunc(m.acts, func(a *modelAct) bool { return a.state != "" && !modelEnded(a) }) {
		m.shutAt = m.now
	}
	now := map[string]int{}
	for _, a := range m.acts {
		for x := range a.met {
			for y := range a.met {
				if x < y && m.meetings != nil {
					m.meetings[[2]string{x, y}]++
				}
			}
		}
		clear(a.met)
		if a.state == "" {
			continue
		}
		now[a.state]++
		abandoned := len(a.fns)
		if a.state == "running" {
			abandoned--
		}
		now["abandoned"] += abandoned
		next := 0
		if a.state == "backing off" {
			next = a.until
		}
		a.states = modelAppend(a.states, m.now, fmt.Sprintf("%s #%d abandoned %d next %d details %s", a.state, a.n, abandoned, next, modelOrNone(a.details)))
	}
	m.stats = modelAppend(m.stats, m.now, fmt.Sprintf("running %d waiting %d backing off %d blocked %d paused %d abandoned %d", now["running"], now["waiting"], now["backing off"], now["blocked"], now["paused"], now["abandoned"]))
}

// modelAppend appends a line with its instant if it is not the last line's text.
func modelAppend(lines []string, at int, text string) []string {
	if len(lines) > 0 {
		if _, last, _ := strings.Cut(lines[len(lines)-1], " "); last == text {
			return lines
		}
	}
	return append(lines, fmt.Sprintf("%d %s", at, text))
}
