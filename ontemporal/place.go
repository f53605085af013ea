package ontemporal

import (
	"fmt"
	"sync"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/workflow"
)

// A place counts the functions of one activity in this process: that of the latest
// attempt, and those of earlier attempts that have not returned.
type place struct {
	key placeKey

	// The fields below are guarded by places.
	latest  *attempt
	running int           // the functions, and the attempts that wait to start theirs
	guards  int           // the functions inside Guard
	changed chan struct{} // closed, and replaced, when running or guards shrinks
}

type placeKey struct {
	client   client.Client      // the workers' client, which has one server and namespace
	workflow workflow.Execution // zero for a standalone activity
	id       string
}

// maxLeft is the number of functions of earlier attempts that may still run when another
// starts. It is the embedded runtime's default of MaxAbandoned.
const maxLeft = 10

// places is locked after attempt.mu.
var places = struct {
	sync.Mutex
	byKey map[placeKey]*place
}{byKey: map[placeKey]*place{}}

// enter returns the place of t, which must leave it. The earlier attempt at that place is
// fenced, because the server starts an attempt only when the one before is over.
func enter(key placeKey, t *attempt) *place {
	places.Lock()
	p := places.byKey[key]
	if p == nil {
		p = &place{key: key, changed: make(chan struct{})}
		places.byKey[key] = p
	}
	p.running++
	before := p.latest
	if before != nil && before.isAfter(t) {
		before = t // a later attempt was faster to enter, so t is over
	} else {
		p.latest = t
	}
	places.Unlock()
	if before != nil {
		before.mu.Lock()
		before.fenceLocked(errOver)
		before.mu.Unlock()
	}
	return p
}

// isAfter reports whether t began after other. The clocks of two server hosts may differ, so within a
// run the later attempt counts as the later one.
func (t *attempt) isAfter(other *attempt) bool {
	if run := t.sdkInfo.ActivityRunID; run != "" && run == other.sdkInfo.ActivityRunID && t.info.Attempt < other.info.Attempt {
		return false
	}
	return t.info.StartedAt.After(other.info.StartedAt)
}

func (p *place) leave() {
	places.Lock()
	defer places.Unlock()
	p.running--
	p.shrunkLocked()
}

func (p *place) guard(n int) {
	places.Lock()
	defer places.Unlock()
	if p.guards += n; n < 0 {
		p.shrunkLocked()
	}
}

// shrunkLocked wakes the attempts that are blocked.
func (p *place) shrunkLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
	if p.running == 0 && p.guards == 0 { // goroutines that a function has left behind may be inside Guard
		delete(places.byKey, p.key)
	}
}

// blocked returns nil if an attempt that has entered may start its function. Otherwise it
// returns a channel that is closed at the next change, and what the attempt waits for.
func (p *place) blocked() (changed chan struct{}, why string) {
	places.Lock()
	defer places.Unlock()
	switch {
	case p.guards > 0:
		return p.changed, "the function of an earlier attempt is still inside Guard in this worker"
	case p.running-1 > maxLeft:
		return p.changed, fmt.Sprintf("%d functions of earlier attempts still run in this worker", p.running-1)
	}
	return nil, ""
}
