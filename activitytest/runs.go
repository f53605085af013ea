package activitytest

import (
	"cmp"
	"fmt"
	"iter"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// atReturn says that a stall wakes when the next attempt returns, or when nothing else can continue.
const atReturn = -1

// An interruption is a kind of interruption and its place. A second interruption of a run has
// the nth place of the recovery from the first; any other has a place of the dry run.
type interruption struct {
	kind  Kind
	place place // place of a first interruption
	site  site  // of the place; zero if it is not known, in a run that -run names
	nth   int   // place of a second interruption, from 1; 0 for a first one
	lost  int   // number of the last recorded details that a Crash loses
	until int   // number of the next attempt's place at which a Stall wakes; 0 for at once, or atReturn
	state state // what a power loss keeps
}

func (i *interruption) String() string {
	s := i.kind.String() + " " + i.place.String()
	if i.nth > 0 {
		s = fmt.Sprintf("%s at place %d of the recovery", i.kind, i.nth)
	}
	switch {
	case i.until > 0:
		s += fmt.Sprintf(", until the next attempt reaches its place %d", i.until)
	case i.until == atReturn:
		s += ", until the next attempt returns"
	}
	if i.kind == powerLoss {
		s += fmt.Sprintf(", in state %d", i.state)
	}
	if i.lost > 0 {
		s += fmt.Sprintf(", which loses the last %d recorded details", i.lost)
	}
	return s
}

func (i *interruption) way() way { return way{i.site, i.kind} }

func (i *interruption) name(withID bool) string {
	s := word(i.kind.String()) + "_" + i.place.name(withID)
	if i.nth > 0 {
		s = fmt.Sprintf("%s_at_place_%d", word(i.kind.String()), i.nth)
	}
	if i.kind == powerLoss {
		s += fmt.Sprintf("_state_%d", i.state)
	}
	switch {
	case i.until > 0:
		s += fmt.Sprintf("_until_place_%d", i.until)
	case i.until == atReturn:
		s += "_until_return"
	}
	if i.lost > 0 {
		s += fmt.Sprintf("_lost_%d", i.lost)
	}
	return s
}

// A run is one subtest.
type run struct {
	number        int // in the order in which the runs were chosen
	name          string
	interruptions []*interruption // one or two, in order
}

// The runs of the first part belong to one of these classes.
const (
	crash     = iota // a crash that loses no details
	crashLost        // a crash that loses details
	stall            // a stall that wakes at once
	stallLong        // a stall that wakes when the next attempt returns
	shutdown
	fault
	power     // a power loss that loses all that was not synced
	powerPart // a power loss that loses a part of it
	classes   // number of classes
)

// A way is a kind of interruption at a site.
type way struct {
	site site
	kind Kind
}

// A choice chooses the runs from the possible ones. It does so in two parts, because the
// recoveries seen in the first part determine which runs are possible in the second. In both
// parts, the runs that try something new come first: a kind of interruption at a site, and
// then a pair of these.
type choice struct {
	plan   *Plan
	rng    *rand.Rand
	filter *regexp.Regexp // pattern for the names of runs; nil for all
	withID bool           // whether names have the ID, because there are several activities
	budget int            // number of runs that may still be made

	firsts [classes][]*interruption // possible interruptions of the first part
	total  int                      // number of these
	runs   int                      // number of runs so far

	outcomes []outcome       // results of the first part's runs
	tried    map[way]bool    // what is possible, and whether a run tried it
	pairs    map[[2]way]bool // what is possible in the recoveries seen, and whether a run tried it
	long     map[site]int    // number of places that the attempts after one that stalled there for long have passed
	failed   map[way]bool    // what has failed as the only interruption of a run

	inconclusive []string     // names of the runs that were inconclusive
	doubts       map[way]int  // number of these
	turns        map[way]bool // what was inconclusive until one goroutine ran at a time
	unmade       int          // runs that were left out, because they would be inconclusive as well
}

// An outcome is the result of a run with one interruption.
type outcome struct {
	run      int // number of the run
	in       *interruption
	recovery []visit // places that the recovery passed
	came     int     // number of places that the attempts after a stalled one passed; 0 if they waited for it
}

// moreLater is the number of additional places at which a stall is tried to wake. If a
// stalled function wakes at once, it may do steps that the next attempt then need not do. If
// it wakes later, the next attempt does these steps itself and passes more places.
const moreLater = 3

// later returns the number of possible runs with the same stall that wake later, each at another place.
func (c *choice) later(o outcome) int {
	if o.came == 0 {
		return 0
	}
	return max(o.came, c.long[o.in.site]) + moreLater
}

// learn adds the outcome of a run. Only the recovery from a single interruption, if it has passed,
// says which others are possible.
func (c *choice) learn(w *World) {
	if w.inconclusive {
		c.inconclusive = append(c.inconclusive, w.run.name)
		c.doubts[lastWay(w)]++
		return
	}
	for _, in := range w.run.interruptions[:w.done] {
		c.tried[in.way()] = true
	}
	first := w.run.interruptions[0]
	if len(w.run.interruptions) > 1 {
		if w.done > 1 {
			c.pairs[[2]way{first.way(), w.run.interruptions[1].way()}] = true
		}
		return
	}
	if w.failed {
		c.failed[first.way()] = true
		return
	}
	came := 0
	if h := w.stalled; h != nil && !h.blocked {
		came = h.came
	}
	if first.until != 0 {
		c.long[first.site] = max(c.long[first.site], came)
		return
	}
	o := outcome{w.run.number, first, w.recovery, came}
	c.outcomes = append(c.outcomes, o)
}

// findPairs finds the pairs that are possible after the first part, in an order that does not depend on that in
// which the runs ended.
func (c *choice) findPairs() {
	slices.SortFunc(c.outcomes, func(o, p outcome) int { return cmp.Compare(o.run, p.run) })
	for _, o := range c.outcomes {
		for pair := range c.pairsOf(o) {
			possible(c.pairs, pair)
			possible(c.tried, pair[1]) // it may be at a site that only recoveries come to
		}
	}
}

// maxDoubts is the number of inconclusive runs of one kind at one site. Each takes a third of a second.
const maxDoubts = 3

// doubtful reports whether the run would be inconclusive, like others before, and counts it.
func (c *choice) doubtful(r *run) bool {
	for _, in := range r.interruptions {
		if c.doubts[in.way()] >= maxDoubts {
			c.unmade++
			return true
		}
	}
	return false
}

// needTurns notes that a run was inconclusive because its goroutines ran at the same time.
func (c *choice) needTurns(w *World) { c.turns[lastWay(w)] = true }

// needsTurns reports whether the run would be inconclusive, like others, unless one goroutine runs at a time.
func (c *choice) needsTurns(r *run) bool {
	return slices.ContainsFunc(r.interruptions, func(in *interruption) bool { return c.turns[in.way()] })
}

// lastWay returns the last interruption that the run came to.
func lastWay(w *World) way { return w.run.interruptions[max(w.done-1, 0)].way() }

// possible notes that key is possible, and not tried unless it was before.
func possible[K comparable](all map[K]bool, key K) {
	if _, known := all[key]; !known {
		all[key] = false
	}
}

// pairsOf returns the pairs that are possible in a recovery, each with a second interruption at a
// random one of its places.
func (c *choice) pairsOf(o outcome) iter.Seq2[[2]way, *interruption] {
	return func(yield func([2]way, *interruption) bool) {
		if c.plan.Kinds&Twice == 0 {
			return
		}
		seen := map[visit]bool{}
		for _, i := range c.rng.Perm(len(o.recovery)) {
			v := o.recovery[i]
			if seen[v] {
				continue
			}
			seen[v] = true
			for _, kind := range c.kindsAt(v) {
				second := c.secondAt(kind, v, i+1)
				if !yield([2]way{o.in.way(), second.way()}, second) {
					return
				}
			}
		}
	}
}

// secondAt returns a second interruption at the nth place of a recovery, which is v.
func (c *choice) secondAt(kind Kind, v visit, nth int) *interruption {
	in := &interruption{kind: kind, site: v.site, nth: nth}
	switch kind {
	case Crash:
		in.lost = c.rng.IntN(2)
	case powerLoss:
		in.state = state(c.rng.IntN(states(v.unsynced)))
	}
	return in
}

// covered returns how many sites there are, at how many of them each possible kind was tried, how many
// kinds are possible, and how many pairs there are and were tried.
func (c *choice) covered() (sites, ofSites, kinds, pairs, ofPairs int) {
	all, possible := map[site]bool{}, map[Kind]bool{}
	for w, tried := range c.tried {
		before, known := all[w.site]
		all[w.site] = tried && (before || !known)
		possible[w.kind] = true
	}
	for _, done := range all {
		if done {
			sites++
		}
	}
	for _, done := range c.pairs {
		if done {
			pairs++
		}
	}
	return sites, len(all), len(possible), pairs, len(c.pairs)
}

// kindsAt returns the kinds that are possible at a place.
func (c *choice) kindsAt(v visit) (kinds []Kind) {
	for _, k := range []Kind{Crash, Stall, Shutdown, Fault, powerLoss} {
		if k&c.plan.Kinds != 0 && (k != Stall || v.canStall) && (k != Fault || v.canFault) && (k != powerLoss || v.unsynced > 0) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

func newChoice(p *Plan, dry *World, filter *regexp.Regexp) *choice {
	c := &choice{
		plan: p, rng: rand.New(rand.NewPCG(p.Seed, 0)), filter: filter, budget: p.MaxRuns,
		tried: map[way]bool{}, pairs: map[[2]way]bool{}, failed: map[way]bool{}, long: map[site]int{}, doubts: map[way]int{}, turns: map[way]bool{},
	}
	for i := range dry.places {
		at := &dry.places[i]
		c.withID = c.withID || at.id != dry.places[0].id
		add := func(class int, in *interruption) {
			in.place, in.site = at.place, at.site
			if in.kind&p.Kinds != 0 && (in.kind == powerLoss || !at.last) {
				c.firsts[class] = append(c.firsts[class], in)
				possible(c.tried, in.way())
				c.total++
			}
		}
		for _, lost := range tails(at.unsaved) {
			add(min(crash+lost, crashLost), &interruption{kind: Crash, lost: lost})
		}
		if at.canStall {
			add(stall, &interruption{kind: Stall})
			add(stallLong, &interruption{kind: Stall, until: atReturn})
		}
		add(shutdown, &interruption{kind: Shutdown})
		if at.canFault {
			add(fault, &interruption{kind: Fault})
		}
		for i, s := range statesOf(at.unsynced, c.rng) {
			add(min(power+i, powerPart), &interruption{kind: powerLoss, state: s})
		}
	}
	return c
}

// tails returns the numbers of lost details to try if the given number is unsaved: up to 8
// every number, then only doublings, and the given number itself.
func tails(unsaved int) []int {
	var all []int
	for lost := 0; lost < unsaved; {
		all = append(all, lost)
		if lost < 8 {
			lost++
		} else {
			lost *= 2
		}
	}
	return append(all, unsaved)
}

func (c *choice) run(interruptions ...*interruption) *run {
	names := make([]string, len(interruptions))
	for i, in := range interruptions {
		names[i] = in.name(c.withID)
	}
	c.runs++
	return &run{c.runs, strings.Join(names, "_then_"), interruptions}
}

// first returns the runs of the first part: each class at each site once, and then others. Of what
// is left of the budget, the second part gets half.
func (c *choice) first(dry *World) (runs []*run) {
	if c.filter != nil {
		runs = c.named()
		c.total = len(runs)
		return spread(c.rng, runs, c.budget)
	}
	order := map[place]int{}
	for i := range dry.places {
		order[dry.places[i].place] = i
	}
	var once []*run
	var rest [classes][]*interruption
	var wants [classes]int
	for class, all := range c.firsts {
		var chosen []*interruption
		chosen, rest[class] = c.onceEach(all)
		wants[class] = len(rest[class])
		for _, in := range chosen {
			once = append(once, c.run(in))
		}
	}
	once = spread(c.rng, once, c.budget)
	left := c.budget - len(once)
	if c.plan.Kinds&(Stall|Twice) != 0 {
		left = (left + 1) / 2
	}
	var others []*run
	n := shares(left, wants[:]...)
	for class, all := range rest {
		for _, in := range spread(c.rng, all, n[class]) {
			others = append(others, c.run(in))
		}
	}
	c.budget -= len(once) + len(others)
	runs = c.short(once, others)
	slices.SortStableFunc(runs, func(r, s *run) int {
		return cmp.Compare(order[r.interruptions[0].place], order[s.interruptions[0].place])
	})
	return runs
}

// short returns the runs or, with -short, a tenth of them, of new rather than of others.
func (c *choice) short(news, others []*run) []*run {
	n := len(news) + len(others)
	if testing.Short() {
		n = (n + 9) / 10
	}
	runs := spread(c.rng, news, n)
	return append(runs[:len(runs):len(runs)], spread(c.rng, others, n-len(runs))...)
}

// onceEach returns one interruption at random for each site, and the others.
func (c *choice) onceEach(all []*interruption) (once, others []*interruption) {
	bySite := map[site][]int{}
	var sites []site // in the order of the dry run
	for i, in := range all {
		if bySite[in.site] == nil {
			sites = append(sites, in.site)
		}
		bySite[in.site] = append(bySite[in.site], i)
	}
	chosen := map[int]bool{}
	for _, at := range sites {
		chosen[bySite[at][c.rng.IntN(len(bySite[at]))]] = true
	}
	for i, in := range all {
		if chosen[i] {
			once = append(once, in)
		} else {
			others = append(others, in)
		}
	}
	return once, others
}

// second returns the runs of the second part: second interruptions at sites that only a recovery
// comes to, and then stalls that wake later and other second interruptions.
func (c *choice) second() (runs []*run) {
	if c.filter != nil {
		return nil
	}
	only, pairs := c.twice()
	only = spread(c.rng, only, c.budget)
	later, left := 0, c.budget-len(only)
	for _, o := range c.outcomes {
		later += c.later(o)
	}
	more := 0
	if c.plan.Kinds&Twice != 0 {
		more = left
	}
	n := shares(left, later, more)
	for _, i := range strides(c.rng, later, n[0]) {
		for _, o := range c.outcomes {
			if n := c.later(o); i >= n {
				i -= n
				continue
			}
			in := *o.in
			in.until = i + 1
			runs = append(runs, c.run(&in))
			break
		}
	}
	pairs = spread(c.rng, pairs, n[1])
	runs = append(runs, pairs...)
	return c.short(only, append(runs, c.again(append(only[:len(only):len(only)], pairs...), n[1]-len(pairs))...))
}

// again returns up to n random pairs at other places of the same sites than those of known. In half
// of them, the recovery is interrupted where it comes back to the site of the first interruption.
func (c *choice) again(known []*run, n int) (runs []*run) {
	names := map[string]bool{}
	for _, r := range known {
		names[r.name] = true
	}
	for tries := 0; len(runs) < n && tries < 10*n && len(c.outcomes) > 0; tries++ {
		o := c.outcomes[c.rng.IntN(len(c.outcomes))]
		if len(o.recovery) == 0 {
			continue
		}
		i := c.rng.IntN(len(o.recovery))
		if same := slices.IndexFunc(o.recovery, func(v visit) bool { return v.site == o.in.site }); same >= 0 && tries%2 == 0 {
			i = same
		}
		kinds := c.kindsAt(o.recovery[i])
		if len(kinds) == 0 {
			continue
		}
		second := c.secondAt(kinds[c.rng.IntN(len(kinds))], o.recovery[i], i+1)
		if r := c.run(o.in, second); !names[r.name] && !c.failed[o.in.way()] && !c.failed[second.way()] {
			names[r.name] = true
			runs = append(runs, r)
		}
	}
	return runs
}

// twice returns a run for each pair. In the runs of only, the second interruption is at a site that
// only recoveries come to, and each kind is tried there once. A pair is left out if one of its
// interruptions alone has failed: those runs say more.
func (c *choice) twice() (only, pairs []*run) {
	chosen, first := map[[2]way]bool{}, map[way]bool{}
	for _, i := range c.rng.Perm(len(c.outcomes)) {
		o := c.outcomes[i]
		for pair, second := range c.pairsOf(o) {
			if chosen[pair] || c.failed[pair[0]] || c.failed[pair[1]] {
				continue
			}
			chosen[pair] = true
			if r := c.run(o.in, second); c.tried[pair[1]] || first[pair[1]] {
				pairs = append(pairs, r)
			} else {
				first[pair[1]] = true
				only = append(only, r)
			}
		}
	}
	return only, pairs
}

// shares divides n as evenly as possible, so that nobody gets more than wanted.
func shares(n int, wants ...int) []int {
	got := make([]int, len(wants))
	for left := len(wants); left > 0 && n > 0; {
		share := max(n/left, 1)
		left = 0
		for i, want := range wants {
			add := min(share, want-got[i], n)
			got[i] += add
			n -= add
			if got[i] < want {
				left++
			}
		}
	}
	return got
}

// strides chooses n numbers below total, one at random from each of n equal parts.
func strides(rng *rand.Rand, total, n int) []int {
	chosen := make([]int, 0, n)
	for i := range n {
		from, to := i*total/n, (i+1)*total/n
		chosen = append(chosen, from+rng.IntN(to-from))
	}
	return chosen
}

func spread[T any](rng *rand.Rand, all []T, n int) []T {
	if len(all) <= n {
		return all
	}
	var chosen []T
	for _, i := range strides(rng, len(all), n) {
		chosen = append(chosen, all[i])
	}
	return chosen
}
