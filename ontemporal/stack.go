package ontemporal

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// dumps are of all goroutines, to find where functions hang. A dump stops the world:
// one serves all that stall together, they take a twentieth of the time at most, and
// none is taken of more than 4,000 goroutines.
type dumps struct {
	mu     sync.Mutex // after attempt.mu
	begun  time.Time
	next   time.Time
	stacks map[string][]byte // by the attempt's address
}

var frame = []byte("ontemporal.(*attempt).call(")

// stack is where t's function is, which has been silent since then; nil if that is
// not known.
func (d *dumps) stack(t *attempt, since time.Time) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.After(d.begun) && !now.Before(d.next) && runtime.NumGoroutine() <= 4000 {
		d.begun = now
		d.take()
		end := time.Now()
		d.next = end.Add(19 * end.Sub(now))
	}
	if d.begun.Before(since) {
		return nil // it shows what was before
	}
	return d.stacks[fmt.Sprintf("%p", t)]
}

func (d *dumps) take() {
	d.stacks = map[string][]byte{}
	buf := make([]byte, (runtime.NumGoroutine()+8)*2048)
	buf = buf[:runtime.Stack(buf, true)]
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		at := bytes.LastIndex(g, frame)
		if at < 0 {
			continue
		}
		address := g[at+len(frame):]
		if end := bytes.IndexAny(address, "?,)"); end > 0 {
			d.stacks[string(address[:end])] = bytes.Clone(g)
		}
	}
}
