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

// An interruption is one of the dry run's places, or the nth place that the
// recovery from another interruption comes to, and what happens there.
type interruption struct {
	kind  Kind
	place place // of a first one
	nth   int   // of a second one
	lost  int   // Crash: how many of the last recorded details are lost
	until int   // Stall: the place of the next attempt at which it wakes; 0: at once
}

func (i *interruption) String() string {
	s := i.kind.String() + " " + i.place.String()
	if i.nth > 0 {
		s = fmt.Sprintf("%s at place %d of the recovery", i.kind, i.nth)
	}
	if i.until > 0 {
		s += fmt.Sprintf(", until the next attempt comes to its place %d", i.until)
	}
	if i.lost > 0 {
		s += fmt.Sprintf(", with %d of the recorded details lost", i.lost)
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

// A run is one of the subtests.
type run struct {
	name          string
	interruptions []*interruption // one or two
}

// The classes of the runs of the first part.
const (
	crash = iota // nothing is lost
	crashLost
	stall // wakes at once
	shutdown
	classes
)

// A choice is which runs there can be, and which of them there are. It has two
// parts: the recoveries that the first has seen say what the second can be.
type choice struct {
	plan   *Plan
	rng    *rand.Rand
	filter *regexp.Regexp // nil: all
	withID bool           // names need the ID, since there are several
	budget int            // runs that are left

	firsts [classes][]*interruption // of the first part
	total  int                      // how many there are

	outcomes []outcome // of the runs of the first part
}

// An outcome is what a run with one interruption has shown.
type outcome struct {
	in       *interruption
	recovery int // places that the recovery came to
	later    int // how many of its runs wake later
	end      int // a number that no place of the next attempt has: the last of them wakes at its return
}

// A function that wakes at once may have done steps in place of the next attempt. If it
// wakes later that does them itself, and comes to more places: so many are tried.
const moreLater = 3

// learn takes down the outcome of a run of the first part.
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

// tails are the numbers of lost details that are tried when so many are not
// saved: all of a few, and fewer of many.
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

// enough is how many runs to take of n that can be, with so many at most.
func (c *choice) enough(n, most int) int {
	n = min(n, most)
	if testing.Short() && c.filter == nil {
		n = (n + 9) / 10
	}
	return n
}

// first are the runs of the first part. Each class gets the same share, and what
// it has no use for goes to the others.
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
		most -= c.budget / 4 // for the second part
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

// second are the runs of the second part: the stalls that wake later, and the
// second interruptions. possible is how many there could be in both parts.
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
	if stalls > 0 { // of those that were not run, the same is supposed
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

// twice makes up n runs with a second interruption.
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

// shares divides n among those that want so many each, as evenly as it goes.
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

// strides chooses n of total, one from each of n parts of equal size.
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

// named are the runs whose names match the filter, so that any can be run alone,
// whatever the seed. What the dry run does not say of them is read off the pattern.
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
				continue // made of a crash that loses nothing
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

// numberIn is the number that a pattern asks for; 0: none.
func numberIn(what *regexp.Regexp, pattern string) (n int) {
	if m := what.FindStringSubmatch(pattern); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

// subtestFilter is what -run says of the subtests of the test with that name;
// nil: nothing.
func subtestFilter(test string) *regexp.Regexp {
	f := flag.Lookup("test.run")
	if f == nil {
		return nil
	}
	return elementOf(f.Value.String(), strings.Count(test, "/")+1)
}

// elementOf is the nth of a pattern's elements, between slashes that are outside
// of brackets. Of a pattern that is several there is none.
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

// word makes s a part of a subtest's name, which -run can be given as it is. What
// it has to change or to cut gets a mark, so that different texts stay different.
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
