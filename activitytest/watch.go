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

// The bubble stands still if its goroutines are unchanged at as many successive looks as the
// standstill says.
const look = 50 * time.Millisecond // real time between two looks

// A standstill is a reason why the bubble's time stands still.
type standstill struct {
	why   string
	looks int
}

var (
	lockAtPlace = &standstill{"a lock is held across a place, and a goroutine waits for it forever", 40}
	// The lock may end with the attempt, or the process, that is stopped. Then nobody would wait for it.
	ownLock = &standstill{"inconclusive: an attempt, or a process, holds a lock across a place, and only its own goroutines wait for it", 6}
	// A goroutine outside the bubble may hold the lock.
	lockElsewhere = &standstill{"a goroutine waits for a lock forever, and no other goroutine can continue", 200}
	network       = &standstill{"a goroutine waits for the network or a pipe, and no other goroutine can continue: use World.Serve, a fake or a net.Pipe", 180}
)

// bubble runs the body in a bubble and watches it from outside. A goroutine that waits for a
// sync.Mutex or for the network is not durably blocked. So if a lock is never released, or nothing
// comes, the bubble's time stands still forever, and nothing inside it can notice. Such a bubble cannot
// be ended from outside either, so it is left behind.
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
		now, reason := w.stuck()
		if reason == nil || now != before {
			before, still = now, 0
			continue
		}
		if still++; still == reason.looks {
			if reason == ownLock {
				if w.inconclusive = true; w.queue.on {
					t.Logf("activitytest: %s\n%s", reason.why, w.whereabouts(true))
				}
				return
			}
			w.hung, w.failed = true, true
			t.Errorf("activitytest: %s, so the bubble's time stands still\n%s", reason.why, w.whereabouts(true))
			w.tell(t)
			return
		}
	}
}

// ending reports a deadlock of the bubble, which is what v says. It panics with any other v
// that is not nil.
func (w *World) ending(t *testing.T, v any) {
	if v == nil {
		return
	}
	s := fmt.Sprint(v)
	if !strings.HasPrefix(s, "deadlock:") {
		panic(v)
	}
	if w.crashed && strings.Contains(s, "main bubble goroutine has exited") {
		return // a crash leaves goroutines behind, as a killed process does
	}
	w.failed = true
	t.Errorf("activitytest: %s\n%s", s, w.whereabouts(false))
	w.tell(t)
}

// A goroutine is a goroutine in a dump.
type goroutine struct {
	id, parent, state string
	durable           bool
	frames            []frame
}

type frame struct{ function, file string }

var headerPattern = regexp.MustCompile(`^goroutine (\d+) (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[([^\],]*)(.*)\]:?$`)

// goroutines returns the goroutines of the World's bubble.
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
		g := goroutine{id: m[1], parent: parentOf([]byte(text))}
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

// bubbleOf returns the bubble's number in the header of a goroutine in a dump, or "".
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

// waitsForLock reports whether the goroutine waits for a mutex, which does not count as
// durably blocked.
func (g *goroutine) waitsForLock() bool {
	return strings.HasPrefix(g.state, "sync.Mutex.") || strings.HasPrefix(g.state, "sync.RWMutex.")
}

// stopped reports whether the goroutine is stopped at a place.
func (g *goroutine) stopped() bool {
	return slices.ContainsFunc(g.frames, func(f frame) bool { return stops.MatchString(f.function) })
}

// waitsForNetwork reports whether the goroutine waits for a connection, or for data on one.
func (g *goroutine) waitsForNetwork() bool { return g.state == "IO wait" }

// stuck returns a description of the bubble and why its time stands still, if all its goroutines wait
// and at least one of them waits for a lock or for the network. Otherwise, it returns nil.
func (w *World) stuck() (state string, reason *standstill) {
	var b strings.Builder
	fmt.Fprint(&b, w.moved.Load())
	all := w.goroutines()
	var waiting, stopped []goroutine
	net := false
	for _, g := range all {
		switch {
		case g.waitsForLock():
			waiting = append(waiting, g)
		case g.waitsForNetwork():
			net = true
		case !g.durable:
			return "", nil
		}
		if g.stopped() {
			stopped = append(stopped, g)
		}
		fmt.Fprintf(&b, " %s %s", g.id, g.state)
	}
	switch {
	case net: // who waits for it may hold a lock
		reason = network
	case len(waiting) > 0 && len(stopped) > 0:
		if reason = lockAtPlace; w.run != nil && w.sameOwners(all, waiting, stopped) {
			reason = ownLock
		}
	case len(waiting) > 0:
		reason = lockElsewhere
	}
	return b.String(), reason
}

// sameOwners reports whether each goroutine that waits for a lock belongs to an attempt that is itself stopped at
// a place, or to a process that is dead or about to be interrupted as a whole. It also does so while a
// transaction hangs.
func (w *World) sameOwners(all, waiting, stopped []goroutine) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hanging != nil && w.hanging.gives { // a driver may wait for the database's lock in this way
		return true
	}
	attempts, lives := map[*attempt]bool{}, map[*life]bool{}
	for _, g := range stopped {
		if a := w.ownerOf(g, all, nil); a != nil {
			attempts[a] = true
			lives[a.life] = w.settling && w.run.interruptions[w.done-1].kind != Stall
		}
	}
	for _, g := range waiting {
		if a := w.ownerOf(g, all, nil); a == nil || !attempts[a] && !a.life.dead && !lives[a.life] {
			return false
		}
	}
	return true
}

const own = "github.com/seed-9da638b0/activity"

// stops matches the functions in which goroutines are stopped.
var stops = regexp.MustCompile(`^` + regexp.QuoteMeta(own) + `/activitytest\.\(\*(attempt\)\.(come|comeTo|interrupt)|life\)\.attempt)$`)

// notTheUsers matches functions that are not the user's own code.
var notTheUsers = regexp.MustCompile(`^(testing|runtime|sync|time|context|net/http|internal/\w+|testing/synctest)\.|^` + regexp.QuoteMeta(own) + `(\.|/activitytest\.(\(|Point$))`)

// whereabouts describes where the user's goroutines are. If still is set, it lists only those that are
// stopped at a place and those for which the bubble's time stands still.
func (w *World) whereabouts(still bool) string {
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
			what = "is stopped at a place"
		case g.waitsForLock():
			what = "waits for a lock"
		case g.waitsForNetwork():
			what = "waits for the network or a pipe"
			if len(frames) == 0 {
				frames = g.frames // those of a server
			}
		case still || g.state == "running":
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
