package main

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"
)

// A sample is one measurement.
type sample struct {
	ns, bytes, allocs float64 // of one operation; NaN if not measured
	live              uint64  // the bytes of the live heap at its start; zero if not read
	commits           float64 // the transactions of the whole measurement that have written; zero if not counted
	stack             uint64  // the bytes of a new goroutine's stack at its start; zero if not read
}

// A row measures one thing.
type row struct {
	name, remark string
	group        string   // rows are compared within their group; empty for the section's main rows
	ours         bool     // the other rows of the group are compared with this one
	lines        []string // the names of a measurement's samples, if there are several
	fixed        int      // the operations of a measurement; if zero, as many as fill its time
	least, most  int      // limits of that number; zero if there is none
	rounds       int      // the most rounds that measure it; zero if there is no limit
	busy         bool     // it works in the background while open, so it is opened for each measurement
	open         func() (subject, error)
}

// A subject is an opened row.
type subject struct {
	measure func(n int) ([]sample, error)
	close   func() error // nil if there is nothing to close
}

// A section is a group of rows that take turns, round after round, so that all of them see
// the same machine.
type section struct {
	name    string // the name for the -run flag
	title   string
	text    string       // the meaning of the numbers
	rounds  int          // the number of rounds; zero for that of the scale
	missing func() error // returns why the section cannot be measured on this machine; nil if it always can
	apart   bool         // a row has all its rounds before the next, because open rows would disturb each other
	rows    []row
}

// A line is a line of the table, with one sample for each round. If its row has several
// lines, part is its name among them.
type line struct {
	name, part, remark string
	group              string
	ours               bool
	samples            []sample
}

type result struct {
	section
	measured []line
}

// timed returns a function that measures n operations, and then verifies that they did
// their work.
func timed(op, verify func(n int) error) func(n int) ([]sample, error) {
	return func(n int) ([]sample, error) {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		stack := newStack()
		began := time.Now()
		err := op(n)
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		if err == nil {
			err = verify(n)
		}
		return []sample{{
			ns:     float64(took.Nanoseconds()) / float64(n),
			bytes:  float64(after.TotalAlloc-before.TotalAlloc) / float64(n),
			allocs: float64(after.Mallocs-before.Mallocs) / float64(n),
			live:   before.HeapAlloc,
			stack:  stack,
		}}, err
	}
}

// newStack returns the size of a new goroutine's stack. At each garbage collection, the
// runtime sets it to the average of all stacks.
func newStack() uint64 {
	size := []metrics.Sample{{Name: "/gc/stack/starting-size:bytes"}}
	metrics.Read(size)
	return size[0].Value.Uint64()
}

// matching returns the section with only the rows that match.
func (sec section) matching(only *regexp.Regexp) section {
	rows := sec.rows
	sec.rows = nil
	for _, r := range rows {
		if only.MatchString(sec.name + "/" + r.name) {
			sec.rows = append(sec.rows, r)
		}
	}
	return sec
}

func (sec section) measure(s scale) (result, error) {
	res := result{section: sec}
	groups := [][]row{sec.rows}
	if sec.apart {
		groups = slices.Collect(slices.Chunk(sec.rows, 1))
	}
	rounds := s.rounds
	if sec.rounds > 0 {
		rounds = sec.rounds
	}
	for _, rows := range groups {
		lines, err := interleave(rows, rounds, s.time)
		if err != nil {
			return res, fmt.Errorf("%s: %w", sec.name, err)
		}
		res.measured = append(res.measured, lines...)
	}
	return res, nil
}

// interleave measures each row once a round.
func interleave(rows []row, rounds int, budget time.Duration) (lines []line, err error) {
	var open []subject
	defer func() {
		for i, sub := range open {
			if sub.close != nil {
				if failed := sub.close(); failed != nil {
					err = errors.Join(err, fmt.Errorf("%s: close: %w", rows[i].name, failed))
				}
			}
		}
	}()
	counts := make([]int, len(rows))
	first := make([]int, len(rows)) // the index of each row's first line
	for i, r := range rows {
		sub, err := r.opened()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		open = append(open, sub)
		if counts[i] = r.fixed; counts[i] == 0 {
			if counts[i], err = calibrate(sub.measure, budget, r.least, r.most); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
		}
		first[i] = len(lines)
		if len(r.lines) == 0 {
			lines = append(lines, line{name: r.name, remark: r.remark, group: r.group, ours: r.ours})
		}
		for _, part := range r.lines {
			lines = append(lines, line{name: r.name, part: part, remark: r.remark, group: r.group, ours: r.ours})
		}
	}
	for round := range rounds {
		for i, r := range rows {
			if r.rounds > 0 && round >= r.rounds {
				continue
			}
			samples, err := open[i].measure(counts[i])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			for k, one := range samples {
				l := &lines[first[i]+k]
				l.samples = append(l.samples, one)
			}
		}
	}
	return lines, nil
}

// opened returns the row's subject. The subject of a busy row opens it for each measurement.
func (r row) opened() (subject, error) {
	if !r.busy {
		return r.open()
	}
	return subject{measure: func(n int) (samples []sample, err error) {
		sub, err := r.open()
		if err != nil {
			return nil, err
		}
		if sub.close != nil {
			defer func() { err = errors.Join(err, sub.close()) }()
		}
		if _, err := sub.measure(1); err != nil { // a warm-up, because the first operation is slower
			return nil, err
		}
		return sub.measure(n)
	}}, nil
}

// calibrate returns the number of operations that take about as long as the budget. If
// that is zero, it returns the least number.
func calibrate(measure func(n int) ([]sample, error), budget time.Duration, least, most int) (int, error) {
	least = max(1, least)
	if most == 0 {
		most = math.MaxInt
	}
	for n := least; budget > 0; {
		samples, err := measure(n)
		if err != nil {
			return 0, err
		}
		factor := float64(budget) / max(1, samples[0].ns*float64(n))
		next := float64(n) * min(factor, 100)
		switch {
		case next >= float64(most):
			return most, nil
		case factor <= 4: // the estimate is close
			return max(least, int(next)), nil
		}
		n = int(next)
	}
	return least, nil
}

// median ignores NaN. Without values, it returns NaN.
func median(values []float64) float64 {
	values = slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func (l *line) each(f func(sample) float64) []float64 {
	values := make([]float64, len(l.samples))
	for i, s := range l.samples {
		values[i] = f(s)
	}
	return values
}

func (l *line) ns() float64     { return median(l.each(func(s sample) float64 { return s.ns })) }
func (l *line) bytes() float64  { return median(l.each(func(s sample) float64 { return s.bytes })) }
func (l *line) allocs() float64 { return median(l.each(func(s sample) float64 { return s.allocs })) }
func (l *line) commits() float64 {
	return median(l.each(func(s sample) float64 { return s.commits }))
}

// over returns the ratio of l's time to base's: the median of the rounds' ratios.
func (l *line) over(base *line) float64 {
	if len(l.samples) != len(base.samples) {
		return l.ns() / base.ns()
	}
	ratios := make([]float64, len(l.samples))
	for i := range ratios {
		ratios[i] = l.samples[i].ns / base.samples[i].ns
	}
	return median(ratios)
}
