package main

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

type report struct {
	scale   scale
	began   time.Time
	took    time.Duration
	results []result
	skipped []skipped

	postgres string // the version of the server; empty if there was none
}

// skipped is a section that was not measured, and why.
type skipped struct {
	title string
	why   error
}

// peers has the modules whose versions the report names.
var peers = []string{
	"github.com/cenkalti/backoff/v5",
	"github.com/cschleiden/go-workflows",
	"github.com/dbos-inc/dbos-transact-golang",
	"github.com/failsafe-go/failsafe-go",
	"github.com/jackc/pgx/v5",
	"github.com/riverqueue/river",
	"go.etcd.io/bbolt",
	"go.temporal.io/sdk",
	"modernc.org/sqlite",
}

func (r *report) write(w io.Writer) {
	fmt.Fprintf(w, "# Results\n\n")
	command, rounds := "GOWORK=off go run .", fmt.Sprintf("%d rounds, %d ms a measurement", r.scale.rounds, r.scale.time.Milliseconds())
	if r.scale.name != full.name {
		command += " -" + r.scale.name
	}
	if r.scale.time == 0 {
		rounds = "as little as possible of everything"
	}
	fmt.Fprintf(w, "This is the output of `cd bench && %s` on one machine. Ratios carry over to other machines better than times.\n\n", command)
	fmt.Fprintf(w, "![Bars: one activity, and one heartbeat, beside their peers](results.svg)\n\n")
	fmt.Fprintf(w, "- machine: %s, %d cores (GOMAXPROCS %d), %s/%s\n", cpuModel(), runtime.NumCPU(), runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH)
	fmt.Fprintf(w, "- %s, GOGC=%s\n", runtime.Version(), gogc())
	fmt.Fprintf(w, "- %s, a %s run of %.0f s: %s\n", r.began.UTC().Format(time.DateOnly), r.scale.name, r.took.Seconds(), rounds)
	all := versions()
	if r.postgres != "" {
		all = append(all, "PostgreSQL "+r.postgres)
	}
	fmt.Fprintf(w, "- %s\n\n", strings.Join(all, ", "))
	fmt.Fprintf(w, "Everything runs in one process. The rows of a section take turns, round after round. Each measurement starts\n"+
		"after a garbage collection. The numbers are medians of the rounds. x is the ratio of a row's time to that of the row\n"+
		"with the 1, which is this package's: the median of the rounds' ratios. If the live heap is a few MB, garbage collection\n"+
		"is a large part of the cost of allocations. New goroutines get stacks of at least 2 KiB, by the average of all in the\n"+
		"process. With 2 KiB, a deep call pays for a larger stack.\n")
	for i := range r.results {
		r.results[i].write(w)
	}
	for _, s := range r.skipped {
		fmt.Fprintf(w, "\n## %s\n\nNot measured: %v.\n", s.title, s.why)
	}
	writeTargets(w, targets(r.results, r.scale))
}

func (res *result) write(w io.Writer) {
	fmt.Fprintf(w, "\n## %s\n\n%s%s\n\n", res.title, res.text, res.notes())
	counted := slices.ContainsFunc(res.measured, func(l line) bool { return l.commits() > 0 })
	rows, align := [][]string{{"what", "ns", "bytes", "allocations", "x", "remark"}}, "lrrrrl"
	if counted {
		rows[0], align = slices.Insert(rows[0], 4, "commits"), "lrrrrrl"
	}
	for i := range res.measured {
		l := &res.measured[i]
		x := "–"
		if base := res.base(l); math.IsNaN(l.ns()) {
			// it has no time to compare
		} else if base == l {
			x = "1"
		} else if base != nil {
			x = short(l.over(base))
		}
		name := l.name
		if l.part != "" {
			name += ": " + l.part
		}
		cells := []string{name, number(l.ns()), number(l.bytes()), short(l.allocs()), x, l.remark}
		if counted {
			cells = slices.Insert(cells, 4, short(l.commits()))
		}
		rows = append(rows, cells)
	}
	writeTable(w, rows, align)
}

// base returns the line of this package that l is compared with. It is the same part of a
// row of the same group.
func (res *result) base(l *line) *line {
	for i := range res.measured {
		if b := &res.measured[i]; b.ours && b.group == l.group && b.part == l.part {
			return b
		}
	}
	return nil
}

// notes returns the rounds, live heaps and stack sizes of the section's measurements.
func (res *result) notes() string {
	var live, stack []float64
	rounds := 0
	for _, l := range res.measured {
		rounds = max(rounds, len(l.samples))
		for _, s := range l.samples {
			if s.live > 0 {
				live = append(live, float64(s.live)/1e6)
			}
			if s.stack > 0 {
				stack = append(stack, float64(s.stack)/1024)
			}
		}
	}
	text := ""
	if res.rounds > 0 {
		text += fmt.Sprintf(" Rounds: %d.", rounds)
	}
	return text + span(" Live heap: %s MB.", live) + span(" New stacks: %s KiB.", stack)
}

// span formats the least and the greatest of the values. Without values, it is empty.
func span(format string, values []float64) string {
	if len(values) == 0 {
		return ""
	}
	from, to := short(slices.Min(values)), short(slices.Max(values))
	if from != to {
		from += " to " + to
	}
	return fmt.Sprintf(format, from)
}

// writeTable writes a Markdown table that is readable as text, too. Align has an l or an r
// for each column.
func writeTable(w io.Writer, rows [][]string, align string) {
	widths := make([]int, len(align))
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	rule := make([]string, len(align))
	for i, a := range align {
		rule[i] = strings.Repeat("-", max(3, widths[i]))
		if widths[i] = max(3, widths[i]); a == 'r' {
			rule[i] = rule[i][1:] + ":"
		}
	}
	for _, r := range slices.Insert(rows, 1, rule) {
		for i, cell := range r {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if align[i] == 'r' {
				cell = pad + cell
			} else {
				cell += pad
			}
			fmt.Fprintf(w, "| %s ", cell)
		}
		fmt.Fprintln(w, "|")
	}
}

// number formats v with at least three digits, and with commas.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) < 99.95:
		return short(v)
	}
	return commas(strconv.FormatFloat(v, 'f', 0, 64))
}

// short formats v with at most three digits, unless they are before the point.
func short(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a < 0.005:
		return "0"
	case a >= 99.95:
		return commas(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 9.995:
		return trimmed(strconv.FormatFloat(v, 'f', 1, 64))
	default:
		return trimmed(strconv.FormatFloat(v, 'f', 2, 64))
	}
}

func trimmed(s string) string { return strings.TrimRight(strings.TrimRight(s, "0"), ".") }

func count(n int) string { return commas(strconv.Itoa(n)) }

func commas(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func gogc() string {
	percent := debug.SetGCPercent(100)
	debug.SetGCPercent(percent)
	if percent < 0 {
		return "off"
	}
	return strconv.Itoa(percent)
}

func versions() []string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return []string{"versions unknown"}
	}
	var found []string
	for _, m := range info.Deps {
		if slices.Contains(peers, m.Path) {
			found = append(found, m.Path+" "+m.Version)
		}
	}
	return found
}
