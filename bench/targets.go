package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
)

// A target is a performance target of this package. If want is empty, the number is only
// shown.
type target struct {
	what, want, got string
	met             bool
}

// A lineOf identifies a line.
type lineOf struct{ section, row, part string }

func (l lineOf) in(results []result) *line {
	for i := range results {
		if results[i].name != l.section {
			continue
		}
		for k := range results[i].measured {
			if m := &results[i].measured[k]; m.name == l.row && m.part == l.part {
				return m
			}
		}
	}
	return nil
}

// targets returns the targets whose lines were measured.
func targets(results []result, s scale) []target {
	var all []target
	compare := func(what, sign string, limit float64, unit string, value func(l []*line) float64, of ...lineOf) {
		lines := make([]*line, len(of))
		for i, l := range of {
			if lines[i] = l.in(results); lines[i] == nil {
				return
			}
		}
		got := value(lines)
		t := target{what: what, got: short(got) + unit}
		switch sign {
		case "<=":
			t.met, t.want = got <= limit, "at most "+short(limit)+unit
		case ">=":
			t.met, t.want = got >= limit, "at least "+short(limit)+unit
		}
		if unit != " allocations" && math.Abs(got-limit) < 0.005 { // the table shows the same number
			t.met = true
		}
		if !math.IsNaN(got) {
			all = append(all, t)
		}
	}
	over := func(l []*line) float64 { return l[0].over(l[1]) }
	allocs := func(v float64) float64 { return math.Round(v*10) / 10 } // the Go runtime's own are a few in thousands
	allocsOver := func(l []*line) float64 { return allocs(l[0].allocs() - l[1].allocs()) }

	run := lineOf{section: "run", row: "this package, Run"}
	compare("Run of a function that looks at its context, under one that can be canceled, over by hand", "<=", 0.85, "x", over,
		run, lineOf{section: "run", row: "by hand"})
	compare("the same", "<=", 8, " allocations", func(l []*line) float64 { return allocs(l[0].allocs()) }, run)
	procs := runtime.GOMAXPROCS(0)
	compare(fmt.Sprintf("the same from %d goroutines on as many cores, throughput over sequential", procs), ">=", 0.8*float64(procs), "x", over,
		lineOf{section: "run, parallel", row: "this package, Run, sequential"}, lineOf{section: "run, parallel", row: "this package, Run"})
	compare("Run of a no-op, over by hand", "", 0, "x", over,
		lineOf{section: "run", row: "no-op: this package, Run"}, lineOf{section: "run", row: "no-op: by hand"})

	for _, beat := range []struct {
		section, call string
		limit         float64
	}{{"heartbeat, none", "Heartbeat()", 1}, {"heartbeat, int", "Heartbeat(int)", 1.4}} {
		ours := lineOf{section: beat.section, row: "this package, " + beat.call}
		compare(beat.call+", over time.Now", "<=", beat.limit, "x", over, ours, lineOf{section: beat.section, row: "floor: time.Now"})
		compare("the same, beyond what the call boxes", "<=", 0, " allocations", allocsOver, ours, lineOf{section: beat.section, row: "floor: an empty method"})
	}
	const structs = "heartbeat, struct"
	ours := lineOf{section: structs, row: "this package, Heartbeat(struct)"}
	marshal := lineOf{section: structs, row: "floor: json.Marshal"}
	compare("Heartbeat(struct), beyond json.Marshal of it", "<=", 60, " ns", func(l []*line) float64 {
		more := make([]float64, len(l[0].samples))
		for i := range more {
			more[i] = l[0].samples[i].ns - l[1].samples[i].ns
		}
		return median(more)
	}, ours, marshal)
	compare("the same, beyond json.Marshal and what the call boxes", "<=", 0, " allocations", func(l []*line) float64 {
		// The call and json.Marshal each box the struct. Heartbeat boxes it once for both.
		return allocs(l[0].allocs() - l[1].allocs() - (l[2].allocs() - 1))
	}, ours, marshal, lineOf{section: structs, row: "floor: an empty method"})

	n := s.beating[0]
	name := "heartbeat, from " + count(n)
	compare(fmt.Sprintf("Heartbeat() from %s activities at once: its time over that from one, beside the same of time.Now (no contention: 1)", count(n)),
		"<=", 1.1, "x", func(l []*line) float64 { return l[0].over(l[1]) / l[2].over(l[3]) },
		lineOf{section: name, row: "this package, Heartbeat() from " + count(n)}, lineOf{section: name, row: "this package, Heartbeat()"},
		lineOf{section: name, row: "floor: time.Now from " + count(n)}, lineOf{section: name, row: "floor: time.Now"})

	start := func(n int, part string) lineOf {
		return lineOf{section: "outstanding, " + count(n), row: "this package, Start", part: part}
	}
	for _, n := range s.outstanding {
		compare(count(n)+" outstanding, bytes over a goroutine with context.WithTimeout", "<=", 1.15, "x",
			func(l []*line) float64 { return l[0].bytes() / l[1].bytes() },
			start(n, partStart), lineOf{section: "outstanding, " + count(n), row: "goroutine with context.WithTimeout", part: partStart})
	}
	least, most := s.outstanding[0], s.outstanding[len(s.outstanding)-1]
	if most > least {
		compare(count(most)+" outstanding, memory", "<=", 6, " GiB",
			func(l []*line) float64 { return l[0].bytes() * float64(most) / (1 << 30) }, start(most, partPeak))
		compare("the same, each start over one of "+count(least), "<=", 1, "x", over, start(most, partStart), start(least, partStart))
	}
	compare(fmt.Sprintf("from a stall to the next attempt, %s at once, 99 %%, over that of bare timers", count(s.stalling)), "<=", 2.5, "x", over,
		lineOf{section: "stalls", row: "this package, at once", part: partP99}, lineOf{section: "stalls", row: "floor: time.AfterFunc, at once", part: partP99})
	few, many := s.pending[0], s.pending[len(s.pending)-1]
	if many > few {
		compare(fmt.Sprintf("Run beside %s pending deadlines, over beside %s", count(many), count(few)), "<=", 3, "x", over,
			lineOf{section: "run, beside", row: "this package, beside " + count(many)}, lineOf{section: "run, beside", row: "this package, beside " + count(few)})
	}

	d := newDatabases() // for their names
	for _, db := range []database{d.postgres(), d.sqlite()} {
		compare("a durable Run on "+db.name+", over the two commits it consists of", "<=", 1.3, "x", over,
			lineOf{section: sqlRun(db), row: sqlOurRun}, lineOf{section: sqlRun(db), row: sqlFloorRun})
		compare("the same, over by hand", "", 0, "x", over,
			lineOf{section: sqlRun(db), row: sqlOurRun}, lineOf{section: sqlRun(db), row: sqlHandRun})
		compare(fmt.Sprintf("a step with sqlstore.Commit that inserts %s rows on %s, over the same transaction without it", count(stepRows), db.name), "<=", 1.2, "x", over,
			lineOf{section: sqlBatch(db), row: sqlOurCommit}, lineOf{section: sqlBatch(db), row: sqlFloorStep})
		compare("the same that inserts one row", "<=", 1.2, "x", over,
			lineOf{section: sqlStep(db), row: sqlOurCommit}, lineOf{section: sqlStep(db), row: sqlFloorStep})
		compare("an UPDATE of the progress by hand in that transaction, over the transaction without it", "", 0, "x", over,
			lineOf{section: sqlStep(db), row: sqlHandStep}, lineOf{section: sqlStep(db), row: sqlFloorStep})
		compare("a body of sqlstore.Range on "+db.name+", over BEGIN, INSERT, COMMIT", "", 0, "x", over,
			lineOf{section: sqlStep(db), row: sqlOurRange}, lineOf{section: sqlStep(db), row: sqlFloorStep})
	}
	compare(fmt.Sprintf("%s activities started at once on PostgreSQL", count(s.durable)), "<=", 3, " commits", func(l []*line) float64 { return l[0].commits() },
		lineOf{section: sqlAtOnce(d.postgres()), row: sqlOurStart, part: partStart})
	return all
}

func writeTargets(w io.Writer, all []target) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(w, "\n## Targets\n\nComputed from the same run.\n\n")
	rows := [][]string{{"what", "target", "measured", ""}}
	for _, t := range all {
		verdict := "missed"
		switch {
		case t.want == "":
			t.want, verdict = "–", ""
		case t.met:
			verdict = "met"
		}
		rows = append(rows, []string{t.what, t.want, t.got, verdict})
	}
	writeTable(w, rows, "lllr")
}
