package activitytest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
)

// A step is an element of the trace: a call or a note. It is guarded by World.mu.
type step struct {
	life, attempt int
	id            string
	body          body // body of a RangeParallel that makes the call, if any
	call          call
	details       []byte // details that a Heartbeat recorded
	err           error  // result of the call
	text          string // text of a note, which has no call
	inside        bool   // whether the call is in progress and counted in sight.inside
	done          bool   // whether the call was done before the attempt ended
}

func (s *step) String() string {
	if s.text != "" {
		return s.text
	}
	t := s.call.String()
	if s.details != nil {
		t = fmt.Sprintf("Heartbeat(%s)", show(s.details))
	}
	switch {
	case s.err != nil && s.call.kind == "return":
		t += " " + short(s.err)
	case s.err != nil:
		t += " = " + short(s.err)
	}
	if s.body.ok {
		t = s.body.String() + ": " + t
	}
	return t
}

// note adds a note to the trace. World.mu is held.
func (w *World) note(l *life, id string, attempt int, text string) {
	w.trace(&step{life: l.number, id: id, attempt: attempt, text: text})
}

// trace adds a step. World.mu is held.
func (w *World) trace(s *step) {
	const most = 10_000
	if w.steps = append(w.steps, s); len(w.steps) == most {
		w.steps = append(w.steps[:most/4], w.steps[most*3/4:]...)
	}
}

// ends replaces the middle of a long list by more, a format for the number of texts left out.
func ends(texts []string, more string) []string {
	const each = 6
	if len(texts) <= 2*each+1 {
		return texts
	}
	short := append(texts[:each:each], fmt.Sprintf(more, len(texts)-2*each))
	return append(short, texts[len(texts)-each:]...)
}

// tell prints the story of a failed run.
func (w *World) tell(t *testing.T) { fmt.Fprintln(t.Output(), w.story()) }

// story describes the interruptions and what the processes did.
func (w *World) story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	if w.run == nil {
		b.WriteString("activitytest: this was the dry run, which interrupts nothing; no other run is made\n")
	} else {
		b.WriteString("activitytest: interrupted by")
		for i, in := range w.run.interruptions {
			if i > 0 {
				b.WriteString(", then by")
			}
			fmt.Fprintf(&b, " a %s", in)
		}
		if n := len(w.run.interruptions); w.done < n {
			fmt.Fprintf(&b, " (%d of the %d did not happen)", n-w.done, n)
		}
		b.WriteString("\n")
		for _, note := range ends(w.notes, "(%d more)") {
			fmt.Fprintf(&b, "  %s\n", note)
		}
	}
	b.WriteString("What the processes did:\n")
	var lines []string
	for from := 0; from < len(w.steps); {
		s := w.steps[from]
		to := from
		for to < len(w.steps) && w.steps[to].life == s.life && w.steps[to].id == s.id && w.steps[to].attempt == s.attempt {
			to++
		}
		who := "the process"
		if s.id != "" {
			who = fmt.Sprintf("%s attempt %d", s.id, s.attempt)
		}
		var texts []string
		for _, s := range w.steps[from:to] {
			texts = append(texts, s.String())
		}
		lines = append(lines, fmt.Sprintf("  life %d, %s: %s", s.life, who, strings.Join(ends(texts, "(%d more)"), "; ")))
		from = to
	}
	b.WriteString(strings.Join(ends(lines, "  (%d more)"), "\n"))
	if w.crashed && len(w.conns) == 0 && lockedPattern.MatchString(b.String()) {
		b.WriteString("\nThe process that crashed may hold SQLite's lock, because its transaction is still open: open the database with World.Driver, which rolls it back")
	}
	if w.run != nil {
		fmt.Fprintf(&b, "\nTo run it again: go test -run '%s'", w.replay())
	}
	return b.String()
}

var lockedPattern = regexp.MustCompile(`database( table)? is locked|SQLITE_(BUSY|LOCKED)`)

// replay returns the pattern for -run that matches only this run.
func (w *World) replay() string {
	parts := strings.Split(w.t.Name(), "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// show returns recorded details for people: the values as the Codec encoded them.
func show(details []byte) string {
	if details == nil {
		return "nothing"
	}
	var values []string
	for rest := details; len(rest) > 0; {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) {
			return fmt.Sprintf("%q", details)
		}
		v := string(rest[size : size+int(n)])
		if !utf8.ValidString(v) {
			v = fmt.Sprintf("%q", v)
		}
		values = append(values, clip(v, 60))
		rest = rest[size+int(n):]
	}
	return strings.Join(values, ", ")
}

// short returns an error's text for the trace.
func short(err error) string {
	var end *activity.Error
	var timeout *activity.TimeoutError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &end):
		return fmt.Sprintf("%s: %s", end.RetryState, short(end.Err))
	case errors.As(err, &timeout):
		return timeout.Type.String()
	}
	return clip(err.Error(), 100)
}

// clip returns the first line of s. If that is longer than most, it leaves out the middle.
func clip(s string, most int) string {
	s, _, _ = strings.Cut(s, "\n")
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most/3]) + "..." + string(r[len(r)-most*2/3:])
}
