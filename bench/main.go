// Command bench measures package activity beside its peers, in one process and one run,
// and reports which of the package's performance targets are met.
//
//	cd bench && GOWORK=off go run .
//
// It prints the medians, and writes them to RESULTS.md with a chart, results.svg. A full run
// takes some seven minutes. With -quick, a rough run takes a minute. With -once, each
// row runs once, which only shows that it works. Without PostgreSQL, its sections are skipped.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
	"testing"
	"time"
)

// A scale has the sizes of a run.
type scale struct {
	name        string
	rounds      int           // the rounds of a section
	slowRounds  int           // the rounds of a section whose rows take seconds
	time        time.Duration // the time of one measurement; if zero, it is one operation
	pending     []int         // the numbers of deadlines that are pending beside a Run
	beating     []int         // the numbers of activities that send heartbeats at once
	outstanding []int         // the numbers of activities that are outstanding
	stalls      int           // the stalls one after the other
	stalling    int           // the activities that stall at once
	silence     time.Duration // the heartbeat timeout of those
	load        int           // the goroutines that run activities beside a timeout
	timeouts    int           // the timeouts under load, one after the other
	storm       int           // the activities that fail at once
	durable     int           // the durable activities at once
	commits     int           // the rounds of a section whose rows commit to a database
	steps       int           // the least number of operations of its measurements, because the first ones are slower
	attempts    int           // the attempts of the test on virtual time
}

var (
	full = scale{
		name: "full", rounds: 9, slowRounds: 3, time: 50 * time.Millisecond,
		pending: []int{100, 100_000, 1_000_000}, beating: []int{100, 10_000},
		outstanding: []int{100_000, 1_000_000}, stalls: 50, stalling: 10_000, silence: 2 * time.Second, load: 64, timeouts: 100, storm: 100_000,
		durable: 64, commits: 31, steps: 50, attempts: 100,
	}
	quick = scale{
		name: "quick", rounds: 3, slowRounds: 1, time: 10 * time.Millisecond,
		pending: []int{100, 100_000}, beating: []int{100, 10_000},
		outstanding: []int{100_000}, stalls: 20, stalling: 10_000, silence: 2 * time.Second, load: 64, timeouts: 30, storm: 10_000,
		durable: 64, commits: 5, steps: 10, attempts: 100,
	}
	once = scale{
		name: "once", rounds: 1, slowRounds: 1,
		pending: []int{10}, beating: []int{10},
		outstanding: []int{10}, stalls: 2, stalling: 10, silence: 100 * time.Millisecond, load: 4, timeouts: 2, storm: 10,
		durable: 4, commits: 1, steps: 1, attempts: 100,
	}
)

// sections returns the sections in the order of the goroutines that they start. The
// runtime keeps some memory of each goroutine forever, which makes garbage collection
// rarer and dumps of stacks slower.
func sections(t *testing.T, s scale, d *databases) []section {
	beats := heartbeatSections(s)
	few := len(beats) - 1 // the last section has the most activities
	return slices.Concat(
		runSections(),
		beats[:few],
		durableSections(s),
		sqlSections(s, d),
		[]section{virtualSection(t, s), stallSection(s), loadSection(s)},
		beats[few:],
		[]section{stallsSection(s), stormSection(s)},
		outstandingSections(s),
		[]section{besideSection(s)},
	)
}

func main() {
	isQuick := flag.Bool("quick", false, "a rough run in a minute; writes files only with -out")
	isOnce := flag.Bool("once", false, "the smallest sizes, one round; writes files only with -out")
	out := flag.String("out", "", "write RESULTS.md and results.svg to this `directory` (the default of a full run is the current one)")
	pattern := flag.String("run", "", "measure only the rows that match this `regexp`, such as \"heartbeat, int/floor: time.Now\"")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this `file`")
	flag.Parse()

	s := full
	switch {
	case *isOnce:
		s = once
	case *isQuick:
		s = quick
	case *out == "" && *pattern == "":
		*out = "."
	}
	// Only a test can have a synctest bubble. testing.Main gives a *testing.T to a program
	// that go test does not run.
	everything := func(string, string) (bool, error) { return true, nil }
	testing.Main(everything, []testing.InternalTest{{Name: "bench", F: func(t *testing.T) {
		if err := bench(t, s, *pattern, *out, *profile, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		os.Exit(0) // so that the testing package does not print PASS
	}}}, nil, nil)
}

// bench measures the rows that match pattern and prints the report to w. If out is not
// empty, it writes the files to that directory. If profile is not empty, it writes a CPU
// profile to that file.
func bench(t *testing.T, s scale, pattern, out, profile string, w io.Writer) (err error) {
	only, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}

	d := newDatabases()
	defer func() { err = errors.Join(err, d.stop()) }()
	r := report{scale: s, began: time.Now()}
	for _, sec := range sections(t, s, d) {
		sec = sec.matching(only)
		if len(sec.rows) == 0 {
			continue
		}
		if sec.missing != nil {
			if why := sec.missing(); why != nil {
				fmt.Fprintf(os.Stderr, "%s: skipped: %v\n", sec.name, why)
				r.skipped = append(r.skipped, skipped{sec.title, why})
				continue
			}
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "%s ...", sec.name)
		res, err := sec.measure(s)
		if err != nil {
			fmt.Fprintln(os.Stderr)
			return err
		}
		fmt.Fprintf(os.Stderr, " %.1f s\n", time.Since(began).Seconds())
		r.results = append(r.results, res)
	}
	r.took = time.Since(r.began)
	r.postgres = d.version

	var text bytes.Buffer
	r.write(&text)
	if _, err := w.Write(text.Bytes()); err != nil || out == "" {
		return err
	}
	svg, err := chart(r.results)
	if err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(out, "RESULTS.md"), text.Bytes(), 0o644)
	if svg != nil {
		err = errors.Join(err, os.WriteFile(filepath.Join(out, "results.svg"), svg, 0o644))
	}
	return err
}
