package activitytest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Kind is a set of ways to interrupt a process.
type Kind uint

const (
	Crash    Kind = 1 << iota // nothing of the process goes on past the place
	Stall                     // the call at the place hangs until its attempt has timed out and the next one runs
	Shutdown                  // the Runtime is shut down at the place
	Twice                     // a second interruption in the recovery from the first, sampled

	single = Crash | Stall | Shutdown
)

func (k Kind) String() string {
	if k == 0 {
		return "none"
	}
	var names []string
	for i, name := range []string{"crash", "stall", "shutdown", "twice"} {
		if k&(1<<i) != 0 {
			names = append(names, name)
			k &^= 1 << i
		}
	}
	if k != 0 {
		names = append(names, fmt.Sprintf("Kind(%d)", uint(k)))
	}
	return strings.Join(names, "|")
}

// Plan says which interruptions are tried. The zero Plan tries all of them.
type Plan struct {
	// Kinds are the ways to interrupt. 0: all. Twice alone is all, too.
	Kinds Kind
	// MaxRuns is how many runs there are at most. If there could be more, each kind
	// gets as many, spread evenly over the places. 0: 2,000. With -short a tenth is
	// run, and with a -run that names subtests only what it names.
	MaxRuns int
	// Seed decides which runs those are, and which second interruptions are tried.
	// 0: a new one each time, which is printed.
	Seed uint64
	// Limit is how much virtual time a run may take. 0: 1,000 hours.
	Limit time.Duration
}

const (
	defaultMaxRuns = 2000
	defaultLimit   = 1000 * time.Hour
	maxFailures    = 10 // runs that fail, after which the rest is not run
)

// EveryInterruption runs body once undisturbed, and then once for each place at
// which, and each way in which, its processes can be interrupted.
func EveryInterruption(t *testing.T, body func(t *testing.T, w *World)) {
	t.Helper()
	Plan{}.Run(t, body)
}

// Run is [EveryInterruption] as p has it. t must not be in a synctest bubble.
func (p Plan) Run(t *testing.T, body func(t *testing.T, w *World)) {
	t.Helper()
	if err := p.setDefaults(); err != nil {
		t.Fatal(err)
	}
	dry := newWorld(&p, nil, nil)
	dry.bubble(t, body)
	switch {
	case dry.failed:
		t.FailNow()
	case dry.skipped:
		t.SkipNow()
	case len(dry.places) == 0:
		t.Fatal("activitytest: no place at all: the body's processes have run no activity on the Runtime that World.Run gave them")
	}

	c := newChoice(&p, dry, subtestFilter(t.Name()))
	used := usages{}
	count, failures := 0, 0
	// try reports whether to go on.
	try := func(r *run) bool {
		w := newWorld(&p, r, dry)
		count++
		if !t.Run(r.name, func(t *testing.T) { w.bubble(t, body) }) {
			failures++
		}
		c.learn(w)
		used.learn(w)
		if w.hung || failures == maxFailures {
			t.Logf("activitytest: stopped after %d runs, of which %d failed, at %d places, with seed %d", count, failures, len(dry.places), p.Seed)
			return false
		}
		return true
	}
	for _, r := range c.first(dry) {
		if !try(r) {
			return
		}
	}
	runs, possible := c.second()
	for _, r := range runs {
		if !try(r) {
			return
		}
	}
	used.judge(t, dry)
	switch {
	case count == 0 && c.filter != nil:
		t.Error("activitytest: no run was tried: -run names none that there is, or its name is another one's by now")
	case count == 0:
		t.Errorf("activitytest: no run was tried: nothing of Plan.Kinds, %s, is possible at the %d places", p.Kinds, len(dry.places))
	}
	t.Logf("activitytest: %d of %d possible runs, at %d places, with seed %d", count, possible, len(dry.places), p.Seed)
}

func (p *Plan) setDefaults() error {
	if p.Kinds == 0 {
		p.Kinds = single | Twice
	}
	switch {
	case p.Kinds&^(single|Twice) != 0:
		return fmt.Errorf("activitytest: Plan.Kinds is %s", p.Kinds)
	case p.MaxRuns < 0:
		return fmt.Errorf("activitytest: Plan.MaxRuns is %d, which is negative", p.MaxRuns)
	case p.Limit < 0:
		return fmt.Errorf("activitytest: Plan.Limit is %s, which is negative", p.Limit)
	}
	if p.Kinds&single == 0 {
		p.Kinds |= single
	}
	if p.MaxRuns == 0 {
		p.MaxRuns = defaultMaxRuns
	}
	if p.Limit == 0 {
		p.Limit = defaultLimit
	}
	for p.Seed == 0 {
		p.Seed = rand.Uint64()
	}
	return nil
}
