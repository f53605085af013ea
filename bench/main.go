// Command bench measures package activity beside its peers, all in one process
// and one run, and says which of the package's performance targets are met:
//
//	cd bench && GOWORK=off go run .
//
// prints the medians, and writes them to RESULTS.md with a chart, results.svg.
// With -quick it takes a first look in half a minute, and with -once it runs each
// row once, to see that all of them work.
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

// A scale is how much is measured.
type scale struct {
	name        string
	rounds      int
	slowRounds  int           // of what takes seconds
	time        time.Duration // of one measurement; 0: one operation
	pending     []int         // deadlines that a Run has beside it
	beating     []int         // activities that send heartbeats at once
	outstanding []int
	stalls      int           // one after the other
	stalling    int           // at once
	silence     time.Duration // their heartbeat timeout
	load        int           // goroutines that run activities beside a timeout
	timeouts    int           // beside them, one after the other
	storm       int
	durable     int // at once
	attempts    int // of the test on virtual time
}

var (
	full = scale{
		name: "full", rounds: 9, slowRounds: 3, time: 50 * time.Millisecond,
		pending: []int{100, 100_000, 1_000_000}, beating: []int{100, 10_000},
		outstanding: []int{100_000, 1_000_000}, stalls: 50, stalling: 10_000, silence: 2 * time.Second, load: 64, timeouts: 100, storm: 100_000,
		durable: 64, attempts: 100,
	}
	quick = scale{
		name: "quick", rounds: 3, slowRounds: 1, time: 10 * time.Millisecond,
		pending: []int{100, 100_000}, beating: []int{100, 10_000},
		outstanding: []int{100_000}, stalls: 20, stalling: 10_000, silence: 2 * time.Second, load: 64, timeouts: 30, storm: 10_000,
		durable: 64, attempts: 100,
	}
	once = scale{
		name: "once", rounds: 1, slowRounds: 1,
		pending: []int{10}, beating: []int{10},
		outstanding: []int{10}, stalls: 2, stalling: 10, silence: 100 * time.Millisecond, load: 4, timeouts: 2, storm: 10,
		durable: 4, attempts: 100,
	}
)

// sections come in the order of the goroutines they start: what the runtime keeps of
// each for ever makes garbage collection rarer, and dumps of stacks slower.
func sections(t *testing.T, s scale) []section {
	beats := heartbeatSections(s)
	few := len(beats) - 1 // the last is from the most activities
	return slices.Concat(
		runSections(),
		beats[:few],
		durableSections(s),
		[]section{virtualSection(t, s), stallSection(s), loadSection(s)},
		beats[few:],
		[]section{stallsSection(s), stormSection(s)},
		outstandingSections(s),
		[]section{besideSection(s)},
	)
}

func main() {
	isQuick := flag.Bool("quick", false, "a first look in half a minute; writes files only with -out")
	isOnce := flag.Bool("once", false, "the smallest sizes, one round; writes files only with -out")
	out := flag.String("out", "", "write RESULTS.md and results.svg to this `directory` (of a full run: the current one)")
	pattern := flag.String("run", "", "measure only what matches this `regexp`, as in \"heartbeat, int/time.Now\"")
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
	// Only a test can have a synctest bubble. testing.Main is kept for programs
	// that are not go test and need a *testing.T.
	everything := func(string, string) (bool, error) { return true, nil }
	testing.Main(everything, []testing.InternalTest{{Name: "bench", F: func(t *testing.T) {
		if err := bench(t, s, *pattern, *out, *profile, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		os.Exit(0) // before it says PASS
	}}}, nil, nil)
}

// bench measures the sections and rows that match pattern, prints the report to w,
// and writes the files to the directory out, unless that is empty.
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

	r := report{scale: s, began: time.Now()}
	for _, sec := range sections(t, s) {
		sec = sec.matching(only)
		if len(sec.rows) == 0 {
			continue
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
