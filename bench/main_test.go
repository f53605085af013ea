package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Given values, then the median ignores NaN, and is NaN without values.
func TestMedian_IgnoresNaN(t *testing.T) {
	for _, test := range []struct {
		of   []float64
		want float64
	}{
		{[]float64{7}, 7},
		{[]float64{3, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
		{[]float64{math.NaN(), 1, math.NaN(), 5, 2}, 2},
	} {
		if got := median(test.of); got != test.want {
			t.Errorf("median of %v: %v, want %v", test.of, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing: %v", got)
	}
}

// Given two lines of the same rounds, then their ratio is the median of the rounds' ratios.
// Otherwise it is the ratio of the medians.
func TestLine_OverIsMedianOfRatios(t *testing.T) {
	a := line{samples: []sample{{ns: 10}, {ns: 60}, {ns: 30}}}
	b := line{samples: []sample{{ns: 5}, {ns: 20}, {ns: 30}}}
	if got := a.over(&b); got != 2 {
		t.Errorf("ratios 2, 3 and 1: %v", got)
	}
	b.samples = b.samples[:2]
	if got := a.over(&b); got != 30/12.5 {
		t.Errorf("of different rounds, the ratio of the medians: %v", got)
	}
}

// Given lines of several groups and parts, then each is compared with this package's line of
// its own group and part.
func TestBase_IsOursOfTheSameGroupAndPart(t *testing.T) {
	res := result{measured: []line{
		{name: "floor"}, {name: "ours", ours: true},
		{name: "no-op floor", group: "no-op"}, {name: "no-op ours", group: "no-op", ours: true},
		{name: "late", part: partMedian},
	}}
	for i, want := range []*line{&res.measured[1], &res.measured[1], &res.measured[3], &res.measured[3], nil} {
		if got := res.base(&res.measured[i]); got != want {
			t.Errorf("%s is compared with %v, want %v", res.measured[i].name, got, want)
		}
	}
}

// Given the time of an operation, then calibrate returns as many operations as fill the budget,
// within the limits.
func TestCalibrate_FillsBudget(t *testing.T) {
	for _, test := range []struct {
		name              string
		each, budget      time.Duration
		least, most, want int
	}{
		{"once", time.Microsecond, 0, 0, 0, 1},
		{"once, with a least", time.Microsecond, 0, 10, 0, 10},
		{"fast", time.Microsecond, 50 * time.Millisecond, 0, 0, 50_000},
		{"slow", time.Second, 50 * time.Millisecond, 0, 0, 1},
		{"too slow for the least", time.Second, 50 * time.Millisecond, 7, 0, 7},
		{"a most", time.Microsecond, 50 * time.Millisecond, 0, 300, 300},
	} {
		measure := func(int) ([]sample, error) {
			return []sample{{ns: float64(test.each)}}, nil
		}
		got, err := calibrate(measure, test.budget, test.least, test.most)
		if got != test.want || err != nil {
			t.Errorf("%s: %d, %v, want %d", test.name, got, err, test.want)
		}
	}
	failed := errors.New("fails")
	if _, err := calibrate(func(int) ([]sample, error) { return nil, failed }, time.Second, 0, 0); err != failed {
		t.Error(err)
	}
}

// Given a row with a limit of its rounds, then the other rows are measured in all rounds.
func TestInterleave_LimitsRoundsOfARow(t *testing.T) {
	var order []string
	one := func(name string, rounds int) row {
		return row{name: name, fixed: 1, rounds: rounds, open: func() (subject, error) {
			return subject{measure: func(int) ([]sample, error) {
				order = append(order, name)
				return []sample{{}}, nil
			}}, nil
		}}
	}
	lines, err := interleave([]row{one("a", 0), one("b", 2), one("c", 0)}, 3, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, ""), "abcabcac"; got != want {
		t.Errorf("measured %s, want %s", got, want)
	}
	for i, want := range []int{3, 2, 3} {
		if got := len(lines[i].samples); got != want {
			t.Errorf("%s has %d samples, want %d", lines[i].name, got, want)
		}
	}
}

// Given a section that cannot be measured, then the report says why. Given transactions that were
// counted, then the table has a column for them.
func TestReport_SkippedAndCommits(t *testing.T) {
	var text bytes.Buffer
	r := report{scale: once, skipped: []skipped{{"On a database", errors.New("there is none")}}, results: []result{
		{section: section{title: "Counted"}, measured: []line{{name: "a row", samples: []sample{{ns: 1, commits: 2}}}}},
		{section: section{title: "Not counted"}, measured: []line{{name: "a row", samples: []sample{{ns: 1}}}}},
	}}
	r.write(&text)
	for _, want := range []string{
		"\n## On a database\n\nNot measured: there is none.\n",
		"| what  |  ns | bytes | allocations | commits |   x | remark |\n",
		"| what  |  ns | bytes | allocations |   x | remark |\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &text)
		}
	}
}

// Given a number, then short has three digits at most, unless they are before the point.
func TestShort_ThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.001: "0", 0.25: "0.25", 1: "1", 2.499: "2.5", 12.34: "12.3", 99.97: "100", 512.4: "512",
		1234.5: "1,234", 3.6e12: "3,600,000,000,000", -1234: "-1,234",
	} {
		if got := short(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	if got := short(math.NaN()); got != "–" {
		t.Error(got)
	}
}

// Given the smallest sizes, then every row of every section runs, and both files are written.
func TestBench_OnceRunsEveryRow(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	dir := t.TempDir()
	var printed bytes.Buffer
	if err := bench(t, once, "", dir, "", &printed); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(filepath.Join(dir, "RESULTS.md"))
	if err != nil || !bytes.Equal(written, printed.Bytes()) {
		t.Errorf("RESULTS.md is not what was printed: %v", err)
	}
	for _, sec := range sections(t, once, newDatabases()) {
		if !strings.Contains(printed.String(), "\n## "+sec.title+"\n") {
			t.Errorf("no section %q", sec.title)
		}
		if sec.missing != nil && strings.Contains(printed.String(), "\n## "+sec.title+"\n\nNot measured: ") {
			t.Logf("%s: skipped", sec.name)
			continue
		}
		for _, r := range sec.rows {
			if !strings.Contains(printed.String(), "\n| "+r.name) {
				t.Errorf("%s: no row %q", sec.name, r.name)
			}
		}
	}
	if !strings.Contains(printed.String(), "\n## Targets\n") {
		t.Error("no targets")
	}
	svg, err := os.Open(filepath.Join(dir, "results.svg"))
	if err != nil {
		t.Fatal(err)
	}
	defer svg.Close()
	for d := xml.NewDecoder(svg); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
