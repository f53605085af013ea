package activitytest

import (
	"cmp"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// An interruption is a kind of interruption and its place. A second interruption of a run has
// the nth place of the recovery from the first; any other has a place of the dry run.
type interruption struct {
	kind  Kind
	place place // place of a first interruption
	nth   int   // place of a second interruption, from 1; 0 for a first one
	lost  int   // number of the last recorded details that a Crash loses
	until int   // number of the next attempt's place at which a Stall wakes; 0 for at once
}

func (i *interruption) String() string {
	s := i.kind.String() + " " + i.place.String()
	if i.nth > 0 {
		s = fmt.Sprintf("%s at place %d of the recovery", i.kind, i.nth)
	}
	if i.until > 0 {
		s += fmt.Sprintf(", until the next attempt reaches its place %d", i.until)
	}
	if i.lost > 0 {
		s += fmt.Sprintf(", which loses the last %d recorded details", i.lost)
	}
	return s
}

func (i *interruption) name(withID bool) string {
	s := i.kind.String() + "_" + i.place.name(withID)
	if i.nth > 0 {
		s = fmt.Sprintf("%s_at_place_%d", i.kind, i.nth)
	}
	if i.until > 0 {
		s += fmt.Sprintf("_until_place_%d", i.until)
	}
	if i.lost > 0 {
		s += fmt.Sprintf("_lost_%d", i.lost)
	}
	return s
}

// A run is one subtest.
type run struct {
	name          string
	interruptions []*interruption // one or two, in order
}

// The runs of the first part belong to one of these classes.
const (
	crash     = iota // a crash that loses no details
	crashLost        // a crash that loses details
	stall            // a stall that wakes at once
	shutdown
	classes // number of classes
)

// A choice chooses the runs from the possible ones. It does so in two parts, because the
// recoveries seen in the first part determine which runs are possible in the second.
type choice struct {
	plan   *Plan
	rng    *rand.Rand
	filter *regexp.Regexp // pattern for the names of runs; nil for all
	withID bool           // whether names have the ID, because there are several activities
	budget int            // number of runs that may still be made

	firsts [classes][]*interruption // possible interruptions of the first part
	total  int                      // number of these

	outcomes []outcome // results of the first part's runs
}

// An outcome is the result of a run with one interruption.
type outcome struct {
	in       *interruption
	recovery int // number of places that the recovery passed
	later    int // number of possible runs with the same stall that wake later
	end      int // number above all places of the next attempt, for the run that wakes at its return
}

// moreLater is the number of additional places at which a stall is tried to wake. If a
// stalled function wakes at once, it may do steps that the next attempt then need not do. If
// it wakes later, the next attempt does these steps itself and passes more places.
const moreLater = 3

// learn adds the outcome of a run. It ignores runs of the second part and failed runs.
func (c *choice) learn(w *World) {
	in := w.run.interruptions[0]
	if len(w.run.interruptions) > 1 || in.until > 0 || w.failed {
		return
	}
	o := outcome{in: in, recovery: w.recovery}
	if h := w.stalled; h != nil && !h.blocked && h.came > 0 {
		o.later = h.came + moreLater
		o.end = h.came + len(w.dry.places)
	}
	c.outcomes = append(c.outcomes, o)
}

func newChoice(p *Plan, dry *World, filter *regexp.Regexp) *choice {
	c := &choice{plan: p, rng: rand.New(rand.NewPCG(p.Seed, 0)), filter: filter, budget: p.MaxRuns}
	for i := range dry.places {
		at := &dry.places[i]
		c.withID = c.withID || at.id != dry.places[0].id
		add := func(class int, in *interruption) {
			in.place = at.place
			if in.kind&p.Kinds != 0 {
				c.firsts[class] = append(c.firsts[class], in)
				c.total++
			}
		}
		for _, lost := range tails(at.unsaved) {
			add(min(crash+lost, crashLost), &interruption{kind: Crash, lost: lost})
		}
		if at.canStall {
			add(stall, &interruption{kind: Stall})
		}
		add(shutdown, &interruption{kind: Shutdown})
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
	return &run{strings.Join(names, "_then_"), interruptions}
}

// enough returns how many of n possible runs to make, at most most.
func (c *choice) enough(n, most int) int {
	n = min(n, most)
	if testing.Short() && c.filter == nil {
		n = (n + 9) / 10
	}
	return n
}

// first returns the runs of the first part. Each class gets the same share of the budget. If
// it has fewer runs, the others get the rest.
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
	most := c.budget
	if c.plan.Kinds&(Stall|Twice) != 0 {
		most -= c.budget / 4 // reserved for the second part
	}
	var wants [classes]int
	for class, all := range c.firsts {
		wants[class] = len(all)
	}
	n := shares(c.enough(c.total, most), wants[:]...)
	for class, all := range c.firsts {
		for _, in := range spread(c.rng, all, n[class]) {
			runs = append(runs, c.run(in))
		}
	}
	slices.SortStableFunc(runs, func(r, s *run) int {
		return cmp.Compare(order[r.interruptions[0].place], order[s.interruptions[0].place])
	})
	c.budget -= len(runs)
	return runs
}

// second returns the runs of the second part: stalls that wake later, and second
// interruptions. possible is the number of possible runs in both parts.
func (c *choice) second() (runs []*run, possible int) {
	later, stalls := 0, 0
	for _, o := range c.outcomes {
		later += o.later
		if o.in.kind == Stall {
			stalls++
		}
	}
	twice := 0
	if c.plan.Kinds&Twice != 0 {
		twice = min((c.total+3)/4, c.budget)
		if later > 0 {
			twice = min(twice, (c.budget+1)/2)
		}
	}
	laters := 0
	if stalls > 0 { // assumes the same average for stalls that were not run
		laters = later * len(c.firsts[stall]) / stalls
	}
	possible = c.total + laters + twice
	if c.filter != nil {
		return nil, c.total
	}
	for _, i := range strides(c.rng, later, min(later, c.enough(laters, c.budget-twice))) {
		for _, o := range c.outcomes {
			if i < o.later {
				in := *o.in
				if in.until = i + 1; in.until == o.later {
					in.until = o.end
				}
				runs = append(runs, c.run(&in))
				break
			}
			i -= o.later
		}
	}
	return append(runs, c.twice(c.enough(twice, twice))...), possible
}

// twice returns up to n random runs with a second interruption.
func (c *choice) twice(n int) (runs []*run) {
	known := map[string]bool{}
	for tries := 0; len(runs) < n && tries < 10*n && len(c.outcomes) > 0; tries++ {
		first := c.outcomes[c.rng.IntN(len(c.outcomes))]
		if first.recovery == 0 {
			continue
		}
		second := &interruption{kind: c.outcomes[c.rng.IntN(len(c.outcomes))].in.kind, nth: 1 + c.rng.IntN(first.recovery)}
		if second.kind == Crash {
			second.lost = c.rng.IntN(2)
		}
		if r := c.run(first.in, second); !known[r.name] {
			known[r.name] = true
			runs = append(runs, r)
		}
	}
	return runs
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

var (
	lostPattern   = regexp.MustCompile(`_lost_(\d+)`)
	untilPattern  = regexp.MustCompile(`_until_place_(\d+)`)
	secondPattern = regexp.MustCompile(`^(crash|stall|shutdown)_at_place_(\d+)(?:_lost_(\d+))?\$?$`)
)

// named returns the runs whose names match the filter, so that any run can be repeated alone,
// whatever the seed. It reads from the pattern whatever the dry run does not determine.
func (c *choice) named() (runs []*run) {
	pattern, then, twice := strings.Cut(c.filter.String(), "_then_")
	second := &interruption{}
	if twice {
		m := secondPattern.FindStringSubmatch(then)
		if m == nil {
			return nil
		}
		second.kind = map[string]Kind{"crash": Crash, "stall": Stall, "shutdown": Shutdown}[m[1]]
		second.nth, _ = strconv.Atoi(m[2])
		second.lost, _ = strconv.Atoi(m[3])
		pattern += "$"
	}
	first, err := regexp.Compile(pattern)
	if err != nil {
		return nil
	}
	lost, until := numberIn(lostPattern, pattern), numberIn(untilPattern, pattern)
	for class, all := range c.firsts {
		for _, in := range all {
			in := *in
			switch {
			case class == crashLost && lost > 0:
				continue // covered by the crash at this place that loses nothing
			case in.kind == Crash && lost > 0:
				in.lost = lost
			case in.kind == Stall:
				in.until = until
			}
			switch {
			case !first.MatchString(in.name(c.withID)):
			case twice:
				runs = append(runs, c.run(&in, second))
			default:
				runs = append(runs, c.run(&in))
			}
		}
	}
	return runs
}

// numberIn returns the number in the pattern, or 0.
func numberIn(what *regexp.Regexp, pattern string) (n int) {
	if m := what.FindStringSubmatch(pattern); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

// subtestFilter returns the part of -run that selects the subtests of a test, or nil.
func subtestFilter(test string) *regexp.Regexp {
	f := flag.Lookup("test.run")
	if f == nil {
		return nil
	}
	return elementOf(f.Value.String(), strings.Count(test, "/")+1)
}

// elementOf returns the nth element of a pattern, as the testing package splits it: at
// slashes outside of brackets. It returns nil if there is none, or if the pattern has
// alternatives at the top level.
func elementOf(pattern string, n int) *regexp.Regexp {
	depth, start := 0, 0
	var elements []string
	for i := 0; i < len(pattern); i++ {
		switch c := pattern[i]; {
		case c == '\\':
			i++
		case c == '[' || c == '(':
			depth++
		case (c == ']' || c == ')') && depth > 0:
			depth--
		case c == '|' && depth == 0:
			return nil
		case c == '/' && depth == 0:
			elements = append(elements, pattern[start:i])
			start = i + 1
		}
	}
	elements = append(elements, pattern[start:])
	if n >= len(elements) || elements[n] == "" {
		return nil
	}
	re, err := regexp.Compile(elements[n])
	if err != nil {
		return nil
	}
	return re
}

// word turns s into a part of a subtest's name that needs no quoting in -run. If it must
// replace characters other than spaces, or shorten s, it adds a hash, so that different
// texts stay different.
func word(s string) string {
	const most = 60
	lost := false
	name := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '.' || r == '_' || r == '#' {
			return r
		}
		lost = lost || r != ' '
		return '_'
	}, s)
	if r := []rune(name); len(r) > most {
		name, lost = string(r[:most]), true
	}
	if lost {
		mark := fnv.New32a()
		mark.Write([]byte(s))
		name += fmt.Sprintf("-%x", mark.Sum32())
	}
	return name
}
