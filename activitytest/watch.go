package activitytest

import (
	"bytes"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// All must be as it was at so many looks.
const (
	look            = 250 * time.Millisecond // of real time
	stillness       = 8
	stillnessInBody = 40 // if no place has to do with it: whoever holds the lock may be outside the bubble
)

// bubble runs the body in a bubble, and watches it from outside. A goroutine that
// waits for a sync.Mutex is not durably blocked, so that with a lock that nobody
// gives back the bubble's time stands still for ever, and nothing in it can notice.
// Nothing outside can end it either: it is left behind.
func (w *World) bubble(t *testing.T, body func(t *testing.T, w *World)) {
	done := make(chan any, 1)
	go func() {
		defer func() { done <- recover() }() // also if the bubble's t.FailNow has reached t
		synctest.Test(t, func(t *testing.T) { w.live(t, body) })
	}()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var before string
	for still := 0; ; {
		select {
		case v := <-done:
			w.ending(t, v)
			return
		case <-ticker.C:
		}
		now, atPlace := w.locked()
		if now == "" || now != before {
			before, still = now, 0
			continue
		}
		why, enough := "a lock was held across a place, and whoever waits for it waits for ever", stillness
		if !atPlace {
			why, enough = "somebody waits for a lock, and nothing else goes on", stillnessInBody
		}
		if still++; still == enough {
			w.hung, w.failed = true, true
			t.Errorf("activitytest: %s: the bubble's time stands still\n%s", why, w.whereabouts(true))
			w.tell(t)
			return
		}
	}
}

// ending tells of a bubble that could not end.
func (w *World) ending(t *testing.T, v any) {
	if v == nil {
		return
	}
	s := fmt.Sprint(v)
	if !strings.HasPrefix(s, "deadlock:") {
		panic(v)
	}
	if w.crashed && strings.Contains(s, "main bubble goroutine has exited") {
		return // what a process leaves that is killed
	}
	w.failed = true
	t.Errorf("activitytest: %s\n%s", s, w.whereabouts(false))
	w.tell(t)
}

// A goroutine is one of a dump.
type goroutine struct {
	id, state string
	durable   bool
	frames    []frame
}

type frame struct{ function, file string }

var headerPattern = regexp.MustCompile(`^goroutine (\d+) (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^\],]*)(.*)\]:?$`)

// goroutines are those of the World's bubble.
func (w *World) goroutines() (all []goroutine) {
	id := w.bubbleID.Load()
	if id == nil || *id == "" {
		return nil
	}
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for _, text := range strings.Split(string(buf), "\n\n") {
		head, rest, _ := strings.Cut(text, "\n")
		if bubbleOf([]byte(head)) != *id {
			continue
		}
		m := headerPattern.FindStringSubmatch(head)
		if m == nil {
			continue
		}
		g := goroutine{id: m[1]}
		g.state, g.durable = strings.CutSuffix(m[2], " (durable)")
		lines := strings.Split(rest, "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			if strings.HasPrefix(lines[i], "created by ") {
				break
			}
			file, _, _ := strings.Cut(strings.TrimSpace(lines[i+1]), " +0x")
			function := lines[i]
			if j := strings.LastIndexByte(function, '('); j > 0 {
				function = function[:j]
			}
			g.frames = append(g.frames, frame{function, file})
		}
		all = append(all, g)
	}
	return all
}

// bubbleOf finds the bubble in a goroutine's header in a dump.
func bubbleOf(header []byte) string {
	const mark = "synctest bubble "
	i := bytes.Index(header, []byte(mark))
	if i < 0 {
		return ""
	}
	rest := header[i+len(mark):]
	n := 0
	for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
		n++
	}
	return string(rest[:n])
}

// waitsForLock reports whether only another goroutine of the bubble's can let it
// go on, although it is not durably blocked.
func (g *goroutine) waitsForLock() bool {
	return strings.HasPrefix(g.state, "sync.Mutex.") || strings.HasPrefix(g.state, "sync.RWMutex.")
}

// stopped reports whether it has come to a place and does not go on.
func (g *goroutine) stopped() bool {
	return slices.ContainsFunc(g.frames, func(f frame) bool { return stops.MatchString(f.function) })
}

// locked describes a bubble in which everything waits, and something for a lock;
// "": it is not so. atPlace: and something has stopped at a place.
func (w *World) locked() (state string, atPlace bool) {
	var b strings.Builder
	fmt.Fprint(&b, w.moved.Load())
	lock := false
	for _, g := range w.goroutines() {
		if g.waitsForLock() {
			lock = true
		} else if !g.durable {
			return "", false
		}
		atPlace = atPlace || g.stopped()
		fmt.Fprintf(&b, " %s %s", g.id, g.state)
	}
	if !lock {
		return "", false
	}
	return b.String(), atPlace
}

const own = "github.com/seed-9da638b0/activity"

// stops are where a goroutine stands that was stopped.
var stops = regexp.MustCompile(`^` + regexp.QuoteMeta(own) + `/activitytest\.\(\*(attempt\)\.(come|interrupt)|life\)\.attempt)$`)

// notTheUsers are frames that say nothing to the user.
var notTheUsers = regexp.MustCompile(`^(testing|runtime|sync|time|context|internal/\w+|testing/synctest)\.|^` + regexp.QuoteMeta(own) + `(\.|/activitytest\.(\(|Point$))`)

// whereabouts says where the user's goroutines are: those that have stopped at a
// place, and those that wait for something else, which is a lock, or whatever.
func (w *World) whereabouts(lock bool) string {
	var b strings.Builder
	n := 0
	for _, g := range w.goroutines() {
		what := "waits (" + g.state + ")"
		var frames []frame
		for _, f := range g.frames {
			if !notTheUsers.MatchString(f.function) {
				frames = append(frames, f)
			}
		}
		switch {
		case g.stopped():
			what = "was stopped at a place"
		case g.waitsForLock():
			what = "waits for a lock"
		case lock || g.state == "running":
			continue
		}
		if len(frames) == 0 {
			continue
		}
		if n++; n > 8 {
			b.WriteString("... and more\n")
			break
		}
		fmt.Fprintf(&b, "goroutine %s %s:\n", g.id, what)
		for _, f := range frames[:min(len(frames), 6)] {
			fmt.Fprintf(&b, "    %s\n        %s\n", f.function[strings.LastIndexByte(f.function, '/')+1:], f.file)
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}
