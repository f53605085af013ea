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

// A step is what the trace shows. Guarded by World.mu.
type step struct {
	life, attempt int
	id            string
	call          call
	details       []byte // that a heartbeat recorded
	err           error
	text          string // in place of a call
	inside        bool   // the call is under way, and counted as such
	done          bool   // while the attempt lasted
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
	return t
}

// note adds a line to the trace. World.mu is held.
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

// ends leaves out the middle of what is too long.
func ends(texts []string, more string) []string {
	const each = 6
	if len(texts) <= 2*each+1 {
		return texts
	}
	short := append(texts[:each:each], fmt.Sprintf(more, len(texts)-2*each))
	return append(short, texts[len(texts)-each:]...)
}

// tell prints what a failure says besides the body's own words.
func (w *World) tell(t *testing.T) { fmt.Fprintln(t.Output(), w.story()) }

// story is what a failure says besides the body's own words.
func (w *World) story() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	if w.run == nil {
		b.WriteString("activitytest: this was the dry run, in which nothing is interrupted; the others are not run\n")
	} else {
		b.WriteString("activitytest: interrupted by")
		for i, in := range w.run.interruptions {
			if i > 0 {
				b.WriteString(", then by")
			}
			fmt.Fprintf(&b, " a %s", in)
		}
		if n := len(w.run.interruptions); w.done < n {
			fmt.Fprintf(&b, " (%d of the %d did not take place)", n-w.done, n)
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
	if w.run != nil {
		fmt.Fprintf(&b, "\nAgain: go test -run '%s'", w.replay())
	}
	return b.String()
}

// replay is the pattern that runs this run alone.
func (w *World) replay() string {
	parts := strings.Split(w.t.Name(), "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// show is recorded details for people: the values, as the Codec has them.
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

// short is an error's text in a trace.
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

// clip leaves out the middle of what is too long, and all lines but the first.
func clip(s string, most int) string {
	s, _, _ = strings.Cut(s, "\n")
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	return string(r[:most/3]) + "..." + string(r[len(r)-most*2/3:])
}
