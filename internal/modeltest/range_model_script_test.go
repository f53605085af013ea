package modeltest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// This file has the scripts that the model of Range and RangeParallel and the package are
// both given, and the traces of both, which are compared. See range_model_test.go.

// A rangeStep is one thing that a body does.
type rangeStep struct {
	op string // sleep (on the body's Context), deaf (a sleep that ignores the Context), beat (a heartbeat without details), hang (until the Context ends)
	d  time.Duration
}

// A rangeBody is what the body of one number does in one call of the function. Its first step
// takes time.
type rangeBody struct {
	steps []rangeStep
	end   string // what follows the last step: ok, boom, fatal (NonRetryable), inner (wraps ErrShutdown, as the error of an inner activity may), panic, goexit, cause (returns the cause of the Context, which is nil while that lives)

	// What follows if a call returns an error, or if the Context ends while the body hangs.
	told string        // cause (returns the error), ok (returns nil nevertheless), own, panic, goexit
	late time.Duration // how long it takes the body to do so, deaf; zero only for cause and ok
}

// A rangeCall is what the function does when it is called.
type rangeCall struct {
	workers  int  // of RangeParallel; zero: it calls Range
	deaf     bool // whether none of its bodies sleeps on its Context
	together bool // whether all bodies that wait on their Context are done at once when it ends
	ignores  bool // whether it returns nil, whatever error the loop returns
	none     bool // whether it calls RangeParallel without any worker
	twice    bool // whether it calls RangeParallel again once the loop has returned nil
}

type rangeOptions struct {
	hb, s2c, initial      time.Duration // zero: none, or the default
	grace                 time.Duration
	coefficient, attempts int // zero: the default
	reset, noOverlap      bool
	details               string // Options.HeartbeatDetails as JSON; empty: none
}

type rangeAction struct {
	at   time.Duration
	kind string // start, pause, unpause, cancel (by the ID), ctx (the end of the caller's context), drain, status
}

// A rangeLife is one process.
type rangeLife struct {
	begin, end time.Duration
	crash      bool // whether the process is killed in the end; otherwise it calls Shutdown
	from, to   int
	save       time.Duration // SaveInterval; zero: the default
	opts       rangeOptions
	actions    []rangeAction // the first is a start
}

type rangeScript struct {
	seed  uint64
	lives []rangeLife
}

// dice returns the source of random numbers for one decision of the script.
func (s *rangeScript) dice(call, i int) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, uint64(call)<<32|uint64(uint32(i+1<<20))))
}

// call returns what the n-th call of the function does, counted from 1 over all lives.
func (s *rangeScript) call(n int) rangeCall {
	r := s.dice(n, 1<<20)
	return rangeCall{workers: r.IntN(6), deaf: r.IntN(5) == 0, together: r.IntN(5) == 0, ignores: r.IntN(6) == 0, none: r.IntN(40) == 0, twice: r.IntN(20) == 0}
}

// body returns what the body of number i does in the n-th call of the function.
func (s *rangeScript) body(n, i int) rangeBody {
	r := s.dice(n, i)
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)))
	}
	const ms, sec = time.Millisecond, time.Second
	b := rangeBody{steps: []rangeStep{{pick("sleep", "sleep", "sleep", "deaf"), between(ms, pickDuration(r, 200*ms, 200*ms, 2*sec))}}, end: "ok"}
	for range r.IntN(3) {
		b.steps = append(b.steps, rangeStep{pick("sleep", "sleep", "deaf", "beat", "beat"), between(ms, pickDuration(r, 200*ms, sec))})
	}
	switch r.IntN(20) {
	case 0:
		b.end = pick("boom", "boom", "boom", "inner", "inner", "panic", "panic", "goexit", "fatal")
	case 1:
		b.steps = append(b.steps, rangeStep{op: "hang"})
	case 2:
		b.end = "cause"
	case 3:
		b.steps = append(b.steps, rangeStep{"deaf", between(sec, 6*sec)})
	}
	call := s.call(n)
	if call.deaf {
		b.steps = append(b.steps, rangeStep{"beat", 0}, rangeStep{"deaf", between(ms, sec)})
		for k := range b.steps {
			if b.steps[k].op == "sleep" {
				b.steps[k].op = "deaf"
			}
		}
	}
	b.told = pick("cause", "cause", "cause", "cause", "ok", "ok", "own", "own", "panic", "goexit")
	if b.told != "cause" && b.told != "ok" || r.IntN(2) == 0 {
		b.late = between(1, pickDuration(r, 100*ms, 3*sec))
	}
	if call.together {
		b.told, b.late = "ok", 0
	}
	return b
}

// rangeForeign are details that no Range can have recorded.
var rangeForeign = []string{
	`7`, `"text"`, `{"Next":3}`, `{"To":3}`, `{"Next":1,"To":3,"Pages":2}`,
	`{"Next":-2}`, `{"Next":5,"To":4}`, `{"Next":1,"To":9,"Done":[1]}`, `{"Next":1,"To":9,"Done":[4,3]}`, `{"Next":1,"To":9,"Done":[3,3]}`, `{"Next":1,"To":3,"Done":[3]}`,
}

func newRangeScript(seed uint64) *rangeScript {
	r := rand.New(rand.NewPCG(seed, 13))
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
	const ms, sec = time.Millisecond, time.Second
	s := &rangeScript{seed: seed}
	from := r.IntN(6) - 3
	to := from + 1 + r.IntN(9)
	var now time.Duration
	for range 2 + r.IntN(4) {
		now += between(5*sec, 10*sec) // after the CancelGrace of a Shutdown
		l := rangeLife{begin: now, crash: pick(0, 1) == 1, from: from, to: to, save: maybe(5*ms, 2*sec)}
		now += between(ms, pickDuration(r, 2*sec, 10*sec))
		l.end = now
		l.opts = rangeOptions{
			hb: maybe(200*ms, 3*sec), s2c: maybe(500*ms, 6*sec), initial: between(50*ms, sec), grace: between(50*ms, 4*sec),
			coefficient: pick(0, 1, 2), attempts: pick(0, 0, 0, 1, 2, 3, 5), reset: pick(0, 1) == 1, noOverlap: pick(0, 0, 1) == 1,
		}
		if r.IntN(40) == 0 {
			l.opts.details = rangeForeign[r.IntN(len(rangeForeign))]
		} else if r.IntN(12) == 0 {
			l.opts.details = fmt.Sprintf(`{"Next":%d,"To":%d,"Done":[%d]}`, from+1, to, to-1)
		}
		for range r.IntN(9) {
			l.actions = append(l.actions, rangeAction{between(l.begin+1, l.end), one("start", "start", "pause", "pause", "unpause", "unpause", "cancel", "ctx", "status", "status", "status")})
		}
		if pick(0, 1) == 1 {
			l.actions = append(l.actions, rangeAction{between(l.begin+1, l.end), "drain"})
		}
		l.actions = append(l.actions, rangeAction{l.begin, "start"})
		slices.SortFunc(l.actions, func(a, b rangeAction) int { return cmp.Compare(a.at, b.at) })
		s.lives = append(s.lives, l)
		if r.IntN(3) == 0 {
			from += pick(-1, 1, 1, 4)
		}
		if r.IntN(3) == 0 {
			to += pick(-2, -1, 1, 1, 2, 3)
		}
	}
	return s
}

func (s *rangeScript) String() string {
	var b strings.Builder
	for i, l := range s.lives {
		fmt.Fprintf(&b, "life %d: %+v\n", i, l)
	}
	return b.String()
}

// A rangeLine is something that happened, in the words that the model and the driver share.
type rangeLine struct {
	at   time.Duration
	text string
}

// rangeRecords are the records of one instant.
type rangeRecords struct {
	life int
	last string // the details recorded last
	n    int    // how many the package has recorded, or may have recorded at most
}

// A rangeTrace is all that is compared. Lines of one instant have no order.
type rangeTrace struct {
	lines   []rangeLine
	records map[time.Duration]rangeRecords
	end     time.Duration // nothing from then on is compared; zero: everything is
}

func (t *rangeTrace) record(life int, at time.Duration, details string) {
	t.records[at] = rangeRecords{life, details, t.records[at].n + 1}
}

// all returns the lines with the last record of each instant, in order.
func (t *rangeTrace) all() []rangeLine {
	after := func(l rangeLine) bool { return t.end > 0 && l.at >= t.end }
	lines := slices.Clone(t.lines)
	for at, r := range t.records {
		lines = append(lines, rangeLine{at, fmt.Sprintf("life %d: records %s", r.life, r.last)})
	}
	slices.SortFunc(lines, func(a, b rangeLine) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text)) })
	return slices.DeleteFunc(lines, after)
}

// missing returns those lines of t, each after a prefix, that other does not have as often.
func (t *rangeTrace) missing(other *rangeTrace, prefix string) (lines []string) {
	has := map[rangeLine]int{}
	for _, l := range other.all() {
		has[l]++
	}
	for _, l := range t.all() {
		if has[l]--; has[l] < 0 {
			lines = append(lines, fmt.Sprint(prefix, l.at, " ", l.text))
		}
	}
	return lines
}
