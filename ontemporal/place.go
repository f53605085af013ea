package ontemporal

import (
	"fmt"
	"sync"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"
)

// A place is where the functions of one activity meet that run in this process's
// workers: the latest attempt's, and those of earlier ones that do not return.
type place struct {
	key placeKey

	// Guarded by places.
	latest  *attempt
	running int           // functions, and attempts that wait to start theirs
	guards  int           // functions inside Guard
	changed chan struct{} // closed, and made anew, when one of these shrinks
}

type placeKey struct {
	client   client.Client      // the workers': each has one server and namespace
	workflow workflow.Execution // zero: a standalone activity
	id       string
}

// maxLeft is how many functions of earlier attempts may still run when another
// starts: the embedded runtime's default.
const maxLeft = 10

// places come after every attempt's mu.
var places = struct {
	sync.Mutex
	byKey map[placeKey]*place
}{byKey: map[placeKey]*place{}}

// enter finds the place for t, which must leave it. Whatever an earlier attempt
// there believes, it is over.
func enter(key placeKey, t *attempt) *place {
	places.Lock()
	p := places.byKey[key]
	if p == nil {
		p = &place{key: key, changed: make(chan struct{})}
		places.byKey[key] = p
	}
	p.running++
	before := p.latest
	if before != nil && before.info.StartedAt.After(t.info.StartedAt) {
		before = t // it was slow to come here
	} else {
		p.latest = t
	}
	places.Unlock()
	if before != nil {
		before.mu.Lock()
		before.fence(errOver)
		before.mu.Unlock()
	}
	return p
}

func (p *place) leave() {
	places.Lock()
	defer places.Unlock()
	p.running--
	p.shrunk()
}

func (p *place) guard(n int) {
	places.Lock()
	defer places.Unlock()
	if p.guards += n; n < 0 {
		p.shrunk()
	}
}

// shrunk wakes who is blocked.
func (p *place) shrunk() {
	close(p.changed)
	p.changed = make(chan struct{})
	if p.running == 0 && p.guards == 0 { // goroutines that a function has left may be inside Guard
		delete(places.byKey, p.key)
	}
}

// blocked gives nil if an attempt that has entered may start its function, or else
// what tells of changes, and what it waits for.
func (p *place) blocked() (changed chan struct{}, why string) {
	places.Lock()
	defer places.Unlock()
	switch {
	case p.guards > 0:
		return p.changed, "the function of an earlier attempt, which is still inside Guard in this worker"
	case p.running-1 > maxLeft:
		return p.changed, fmt.Sprintf("%d functions of earlier attempts, which still run in this worker", p.running-1)
	}
	return nil, ""
}
