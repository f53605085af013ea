package activity

import (
	"bytes"
	"fmt"
	"runtime"
	"time"
)

// A dump of all goroutines stops the world and takes some 4 us for each. Where
// there are more than maxGoroutines none is taken, and dumps take at most one
// part in dumpShare of the time.
const (
	maxGoroutines = 4000
	dumpShare     = 20
)

// A dump says where the attempts were at an instant. One serves all attempts that
// stall at it.
type dump struct {
	stacks map[string][]byte // by the attempt's address
	none   string            // the reason, if there are no stacks
}

// stackLocked returns where t's function is, or why that is not known. Runtime.mu
// is held, which costs nobody anything while the world stands still.
func (rt *Runtime) stackLocked(t *attempt) ([]byte, string) {
	s := &rt.scheduler
	if s.stacks == nil {
		s.stacks = rt.dumpStacks()
	}
	if s.stacks.none != "" {
		return nil, s.stacks.none
	}
	if s := s.stacks.stacks[fmt.Sprintf("%p", t)]; s != nil {
		return bytes.Clone(s), "" // the dump is not kept for one stack
	}
	return nil, "the function had just returned"
}

// frame is how a dump shows the method that calls the function; the attempt's
// address follows.
var frame = []byte("activity.(*attempt).call(")

// dumpStacks needs Runtime.mu.
func (rt *Runtime) dumpStacks() *dump {
	if n := runtime.NumGoroutine(); n > maxGoroutines {
		return &dump{none: fmt.Sprintf("there are %d goroutines, and no dump is taken of more than %d", n, maxGoroutines)}
	}
	if rt.now < rt.scheduler.noDumpBefore {
		return &dump{none: fmt.Sprintf("dumps may take a %dth of the time, and one was taken just before", dumpShare)}
	}
	begin := rt.read()
	var buf []byte
	for size := (runtime.NumGoroutine() + 8) * 2048; ; size *= 2 {
		buf = make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			buf = buf[:n]
			break
		}
	}
	d := &dump{stacks: map[string][]byte{}}
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		at := bytes.LastIndex(g, frame) // the outermost: only that can be ours
		if at < 0 {
			continue
		}
		address := g[at+len(frame):]
		if end := bytes.IndexAny(address, "?,)"); end > 0 {
			d.stacks[string(address[:end])] = g
		}
	}
	end := rt.read()
	rt.scheduler.noDumpBefore = end.add(time.Duration(end-begin) * (dumpShare - 1))
	return d
}
