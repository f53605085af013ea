package activitytest

import (
	"flag"
	"fmt"
	"hash/fnv"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// The names of runs, and how -run selects them.

var (
	lostPattern   = regexp.MustCompile(`_lost_(\d+)\$?$`)
	untilPattern  = regexp.MustCompile(`_until_place_(\d+)\$?$`)
	statePattern  = regexp.MustCompile(`_state_(\d+)\$?$`)
	secondPattern = regexp.MustCompile(`^(crash|stall|shutdown|fault|power_loss)_at_place_(\d+)(?:_lost_(\d+))?(?:_state_(\d+))?\$?$`)
)

// named returns the runs whose names match the filter, so that any run can be repeated alone,
// whatever the seed. It reads from the pattern whatever the dry run does not determine.
func (c *choice) named() []*run {
	pattern := c.filter.String()
	if runs := c.matching(pattern, nil); len(runs) > 0 {
		return runs
	}
	i := strings.LastIndex(pattern, "_then_") // which the name of a Point may contain
	if i < 0 {
		return nil
	}
	m := secondPattern.FindStringSubmatch(pattern[i+len("_then_"):])
	if m == nil {
		return nil
	}
	second := &interruption{kind: map[string]Kind{"crash": Crash, "stall": Stall, "shutdown": Shutdown, "fault": Fault, "power_loss": powerLoss}[m[1]]}
	second.nth, _ = strconv.Atoi(m[2])
	second.lost, _ = strconv.Atoi(m[3])
	second.state = state(max(numberIn(statePattern, m[0]), 0))
	return c.matching(pattern[:i]+"$", second)
}

// matching returns the runs whose first interruptions match the pattern, with a second one unless that is nil.
func (c *choice) matching(pattern string, second *interruption) (runs []*run) {
	first, err := regexp.Compile(pattern)
	if err != nil {
		return nil
	}
	known := map[string]bool{}
	add := func(in interruption) bool {
		if !first.MatchString(in.name(c.withID)) {
			return false
		}
		r := c.run(&in)
		if second != nil {
			r = c.run(&in, second)
		}
		if !known[r.name] {
			known[r.name] = true
			runs = append(runs, r)
		}
		return true
	}
	lost, until, kept := numberIn(lostPattern, pattern), numberIn(untilPattern, pattern), numberIn(statePattern, pattern)
	for class, all := range c.firsts {
		for _, in := range all {
			in := *in
			if add(in) { // a Point or an ID may end like one of the numbers below
				continue
			}
			switch {
			case in.kind == Crash && lost > 0:
				in.lost = lost
			case class == stall && until > 0:
				in.until = until
			case in.kind == powerLoss && kept >= 0:
				in.state = state(kept)
			}
			add(in)
		}
	}
	return runs
}

// numberIn returns the number in the pattern, or -1.
func numberIn(what *regexp.Regexp, pattern string) int {
	m := what.FindStringSubmatch(pattern)
	if m == nil {
		return -1
	}
	n, _ := strconv.Atoi(m[1])
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
