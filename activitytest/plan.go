package activitytest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Kind is a set of kinds of interruptions. The package documentation describes them.
type Kind uint

const (
	Crash    Kind = 1 << iota // the process stops at the place
	Stall                     // the call at the place hangs until its attempt has timed out and the next attempt runs
	Shutdown                  // the Runtime is shut down at the place
	Twice                     // a second interruption follows during the recovery from the first
	Fault                     // the call at the place fails, once; for calls of World.Serve, RoundTripper, Driver and FS

	powerLoss // a Crash that loses changes to files of an FS, with Plan.PowerLoss

	single = Crash | Stall | Shutdown | Fault
)

// String returns the names of the kinds in k, such as "crash|shutdown".
func (k Kind) String() string {
	if k == 0 {
		return "none"
	}
	var names []string
	for i, name := range []string{"crash", "stall", "shutdown", "twice", "fault", "power loss"} {
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

// A Plan selects the interruptions to try. The zero Plan tries all of them.
type Plan struct {
	// Kinds is the set of kinds to try. If zero or Twice alone, all kinds are tried.
	Kinds Kind
	// MaxRuns is the maximum number of runs. If more runs are possible, those that try something
	// new come first: see the package documentation. If zero, 2,000. With -short, a tenth of
	// the runs are made. If -run names subtests, only these are run.
	MaxRuns int
	// RequireAll fails the test if MaxRuns is too small to try each kind of interruption at
	// each site, and each pair of them. It is ignored with -short, and if -run names subtests.
	RequireAll bool
	// PowerLoss also tries a power loss at each place of a Crash at which an [FS] has changes that were not
	// synced. Depending on the run, it loses all or some of them.
	PowerLoss bool
	// Parallel is the number of runs that are made at once. If zero, 1, because bodies may use the same files or
	// variables of the test. If they do not, runtime.GOMAXPROCS(0) is best.
	Parallel int
	// Seed selects the runs if there are more than MaxRuns, and the second interruptions of
	// Twice. If zero, a random seed is used. The seed is logged.
	Seed uint64
	// Limit is the maximum virtual time of a run. If zero, 1,000 hours.
	Limit time.Duration
}

const (
	defaultMaxRuns = 2000
	defaultLimit   = 1000 * time.Hour
	maxFailures    = 10 // failed runs after which the remaining ones are skipped
)

// EveryInterruption runs body once without an interruption, and then once for each place
// and each [Kind] of interruption that is possible there. It is [Plan.Run] of the zero Plan.
// See the package documentation for an example.
func EveryInterruption(t *testing.T, body func(t *testing.T, w *World)) {
	t.Helper()
	Plan{}.Run(t, body)
}

// Run runs body once without an interruption, and then once for each interruption that p
// selects. Each of these runs is a subtest of t. t must not be in a synctest bubble.
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
		t.Fatal("activitytest: there is no place to interrupt: run an activity on the Runtime that World.Run passes to process")
	}

	inOrder(dry.places)
	c := newChoice(&p, dry, subtestFilter(t.Name()))
	r := &runner{t: t, plan: &p, body: body, dry: dry, choice: c, used: usages{}}
	if r.all(c.first(dry)); !r.stopped {
		c.findPairs()
		r.all(c.second())
	}
	if r.stopped {
		return
	}
	if r.left == 0 {
		r.used.judge(t, dry)
	}
	if len(c.inconclusive) > 0 {
		t.Logf("activitytest: %d runs were inconclusive, such as %s, and %d similar ones were not made, because a lock is held across a place: release it first, or use a channel with room for one token", len(c.inconclusive), c.inconclusive[0], c.unmade)
	}
	switch {
	case r.count == 0 && r.left > 0: // as with go test -run
	case r.count == 0 && c.filter != nil:
		t.Error("activitytest: no run was made: -run matches none of the possible runs, which change with the activity")
	case r.count == 0:
		t.Errorf("activitytest: no run was made: none of Plan.Kinds (%s) is possible at the %d places", p.Kinds, len(dry.places))
	}
	if c.filter != nil || r.left > 0 {
		t.Logf("activitytest: %d of %d possible runs, at %d places, with seed %d", r.count, c.total, len(dry.places), p.Seed)
		return
	}
	sites, ofSites, kinds, pairs, ofPairs := c.covered()
	ways := "ways"
	if kinds == 1 {
		ways = "way"
	}
	covered := fmt.Sprintf("%d of %d sites in %d %s; %d of %d pairs", sites, ofSites, kinds, ways, pairs, ofPairs)
	t.Logf("activitytest: %d runs, at %d places, with seed %d: %s", r.count, len(dry.places), p.Seed, covered)
	if p.RequireAll && !testing.Short() && !t.Failed() && (sites < ofSites || pairs < ofPairs) {
		t.Errorf("activitytest: Plan.RequireAll: not everything was tried with MaxRuns %d, or not every interruption was reached: %s", p.MaxRuns, covered)
	}
}

// A runner makes the runs of a Plan.
type runner struct {
	t    *testing.T
	plan *Plan
	body func(t *testing.T, w *World)
	dry  *World

	mu       sync.Mutex
	choice   *choice
	used     usages
	count    int  // runs that were made
	left     int  // runs that -run left out, although its pattern names no subtests of this test alone
	failures int  // runs that failed
	stopped  bool // whether no further run is to be made
}

// all makes the runs, unless it is stopped.
func (r *runner) all(runs []*run) {
	next := make(chan *run)
	var workers sync.WaitGroup
	for range r.plan.Parallel {
		workers.Go(func() {
			for next := range next {
				r.try(next)
			}
		})
	}
	for _, run := range runs {
		next <- run
	}
	close(next)
	workers.Wait()
}

// try makes a run.
func (r *runner) try(run *run) {
	r.mu.Lock()
	turns := r.choice.needsTurns(run)
	if r.stopped || r.choice.doubtful(run) {
		r.mu.Unlock()
		return
	}
	r.mu.Unlock()

	var w *World // nil if -run leaves the run out
	bubble := func(t *testing.T) {
		w = newWorld(r.plan, run, r.dry)
		w.queue.on = turns
		w.bubble(t, r.body)
	}
	passed := r.t.Run(run.name, func(t *testing.T) {
		if bubble(t); w.inconclusive && !turns {
			r.mu.Lock()
			r.choice.needTurns(w)
			r.mu.Unlock()
			turns = true
			bubble(t)
		}
		if w.inconclusive {
			t.SkipNow()
		}
	})

	r.mu.Lock()
	defer r.mu.Unlock()
	if w == nil {
		r.left++
		return
	}
	r.count++
	r.choice.learn(w)
	r.used.learn(w)
	if !passed {
		r.failures++
	}
	if !r.stopped && (w.hung || r.failures == maxFailures) {
		r.stopped = true
		r.t.Logf("activitytest: stopped after %d runs, %d of which failed, at %d places, with seed %d", r.count, r.failures, len(r.dry.places), r.plan.Seed)
	}
}

func (p *Plan) setDefaults() error {
	if p.Kinds == 0 {
		p.Kinds = single | Twice
	}
	switch {
	case p.Kinds&^(single|Twice) != 0:
		return fmt.Errorf("activitytest: Plan.Kinds must have no other bits than Crash, Stall, Shutdown, Twice and Fault (got %s)", p.Kinds)
	case p.MaxRuns < 0:
		return fmt.Errorf("activitytest: Plan.MaxRuns must not be negative (got %d)", p.MaxRuns)
	case p.Parallel < 0:
		return fmt.Errorf("activitytest: Plan.Parallel must not be negative (got %d)", p.Parallel)
	case p.Limit < 0:
		return fmt.Errorf("activitytest: Plan.Limit must not be negative (got %s)", p.Limit)
	}
	if p.Kinds&single == 0 {
		p.Kinds |= single
	}
	if p.PowerLoss {
		if p.Kinds&Crash == 0 {
			return fmt.Errorf("activitytest: Plan.PowerLoss needs Crash among Plan.Kinds (got %s)", p.Kinds)
		}
		p.Kinds |= powerLoss
	}
	if p.MaxRuns == 0 {
		p.MaxRuns = defaultMaxRuns
	}
	if p.Parallel == 0 {
		p.Parallel = 1
	}
	if p.Limit == 0 {
		p.Limit = defaultLimit
	}
	for p.Seed == 0 {
		p.Seed = rand.Uint64()
	}
	return nil
}
