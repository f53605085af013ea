package activitytest

import (
	"cmp"
	"flag"
	"fmt"
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

func newRun(withID bool, interruptions ...*interruption) *run {
	names := make([]string, len(interruptions))
	for i, in := range interruptions {
		names[i] = in.name(withID)
	}
	return &run{strings.Join(names, "_then_"), interruptions}
}

// A group is the runs with one interruption that differ only in lost, or until.
type group struct {
	at   *placed
	kind Kind
	lost []int // Crash
	n    int
}

func (g *group) get(i int) *interruption {
	in := &interruption{kind: g.kind, place: g.at.place}
	switch g.kind {
	case Crash:
		in.lost = g.lost[i]
	case Stall:
		in.until = i
	}
	return in
}

// A choice is what there is to choose from.
type choice struct {
	kinds  []Kind  // in use, of single
	all    []group // in the order of the places
	groups map[Kind][]group
	total  map[Kind]int
	withID bool // names need the ID, since there are several
}

func newChoice(kinds Kind, dry *World) *choice {
	c := &choice{groups: map[Kind][]group{}, total: map[Kind]int{}}
	for i := range dry.places {
		at := &dry.places[i]
		c.withID = c.withID || at.id != dry.places[0].id
		for _, g := range []group{
			{at: at, kind: Crash, lost: tails(at.unsaved), n: len(tails(at.unsaved))},
			{at: at, kind: Stall, n: 1 + at.next},
			{at: at, kind: Shutdown, n: 1},
		} {
			if g.kind&kinds == 0 || g.kind == Stall && !at.canStall {
				continue
			}
			if c.total[g.kind] == 0 {
				c.kinds = append(c.kinds, g.kind)
			}
			c.all = append(c.all, g)
			c.groups[g.kind] = append(c.groups[g.kind], g)
			c.total[g.kind] += g.n
		}
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

// choose returns the runs, and how many there could be. With a filter it looks
// only at those whose names match, so that any run can be run alone, whatever the
// seed.
func (p *Plan) choose(dry *World, filter *regexp.Regexp) (runs []*run, possible int) {
	kinds := p.Kinds & single
	if kinds == 0 {
		kinds = single
	}
	c := newChoice(kinds, dry)
	rng := rand.New(rand.NewPCG(p.Seed, 0))
	budget := p.MaxRuns
	if filter != nil {
		runs = c.matching(filter)
		possible = len(runs)
		return spread(rng, runs, budget), possible
	}

	var singles, twice int
	for _, kind := range c.kinds {
		singles += c.total[kind]
	}
	if p.Kinds&Twice != 0 && singles > 0 {
		twice = min((singles+3)/4, (budget+7)/8)
	}
	if p.Kinds&single == 0 {
		singles, twice = 0, min(2*singles, budget)
		c.kinds = nil
	}
	possible = singles + twice
	if testing.Short() {
		budget = (min(budget, possible) + 9) / 10
		twice = (twice + 9) / 10
	}
	budget -= twice
	for i, n := range shares(c, budget) {
		kind := c.kinds[i]
		for _, at := range strides(rng, c.total[kind], n) {
			runs = append(runs, newRun(c.withID, c.get(kind, at)))
		}
	}
	order := map[place]int{}
	for i := range dry.places {
		order[dry.places[i].place] = i
	}
	slices.SortStableFunc(runs, func(r, s *run) int {
		return cmp.Compare(order[r.interruptions[0].place], order[s.interruptions[0].place])
	})
	return append(runs, c.twice(rng, kinds, twice)...), possible
}

// shares divides the runs among the kinds: all of a kind that has few, and the
// same number of each that has many.
func shares(c *choice, budget int) []int {
	n := make([]int, len(c.kinds))
	for left := len(c.kinds); left > 0 && budget > 0; {
		share, more := max(budget/left, 1), 0
		for i, kind := range c.kinds {
			add := min(share, c.total[kind]-n[i], budget)
			n[i] += add
			budget -= add
			if n[i] < c.total[kind] {
				more++
			}
		}
		left = more
	}
	return n
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

func spread(rng *rand.Rand, runs []*run, n int) []*run {
	if len(runs) <= n {
		return runs
	}
	var chosen []*run
	for _, i := range strides(rng, len(runs), n) {
		chosen = append(chosen, runs[i])
	}
	return chosen
}

func (c *choice) get(kind Kind, i int) *interruption {
	for _, g := range c.groups[kind] {
		if i < g.n {
			return g.get(i)
		}
		i -= g.n
	}
	panic("activitytest: no such run")
}

// twice makes up n runs with a second interruption.
func (c *choice) twice(rng *rand.Rand, kinds Kind, n int) (runs []*run) {
	var usable []Kind
	for _, kind := range []Kind{Crash, Stall, Shutdown} {
		if kind&kinds != 0 && len(c.groups[kind]) > 0 {
			usable = append(usable, kind)
		}
	}
	known := map[string]bool{}
	for tries := 0; len(runs) < n && tries < 10*n; tries++ {
		groups := c.groups[usable[rng.IntN(len(usable))]]
		g := &groups[rng.IntN(len(groups))]
		first := g.get(0)
		if first.kind == Crash {
			first = g.get(rng.IntN(g.n))
		}
		second := &interruption{kind: usable[rng.IntN(len(usable))], nth: 1 + rng.IntN(g.at.recovery)}
		if second.kind == Crash {
			second.lost = rng.IntN(2)
		}
		if r := newRun(c.withID, first, second); !known[r.name] {
			known[r.name] = true
			runs = append(runs, r)
		}
	}
	return runs
}

// matching makes the runs whose names match. Of those with a second interruption
// there are too many to look at: it is read off the pattern.
func (c *choice) matching(filter *regexp.Regexp) (runs []*run) {
	firsts, second := filter, (*interruption)(nil)
	if first, then, ok := strings.Cut(filter.String(), "_then_"); ok {
		second = parseSecond(strings.TrimSuffix(then, "$"))
		f, err := regexp.Compile(first + "$")
		if second == nil || err != nil {
			return nil
		}
		firsts = f
	}
	for _, g := range c.all {
		for i := range g.n {
			first := g.get(i)
			switch {
			case !firsts.MatchString(first.name(c.withID)):
			case second == nil:
				runs = append(runs, newRun(c.withID, first))
			default:
				runs = append(runs, newRun(c.withID, first, second))
			}
		}
	}
	return runs
}

var secondPattern = regexp.MustCompile(`^(crash|stall|shutdown)_at_place_(\d+)(?:_lost_(\d+))?$`)

func parseSecond(name string) *interruption {
	m := secondPattern.FindStringSubmatch(name)
	if m == nil {
		return nil
	}
	in := &interruption{kind: map[string]Kind{"crash": Crash, "stall": Stall, "shutdown": Shutdown}[m[1]]}
	in.nth, _ = strconv.Atoi(m[2])
	in.lost, _ = strconv.Atoi(m[3])
	return in
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

// word makes s a part of a subtest's name, which -run can be given as it is.
func word(s string) string {
	const most = 60
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, s)
	if r := []rune(s); len(r) > most {
		s = string(r[:most])
	}
	return s
}
