package ontemporal

import (
	"runtime"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity/internal/stackdump"
)

// dumps takes dumps of all goroutines, within the limits of stackdump, to find where
// functions hang. All attempts that stall at one instant share a dump.
type dumps struct {
	mu     sync.Mutex // after attempt.mu
	begun  time.Time  // when the last dump was taken
	next   time.Time  // no dump is taken before
	stacks stackdump.Dump
}

// stack returns where t's function is, which has been silent since the given time. It
// is nil if that is not known.
func (d *dumps) stack(t *attempt, since time.Time) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := time.Now(); now.After(d.begun) && !now.Before(d.next) && runtime.NumGoroutine() <= stackdump.MaxGoroutines {
		d.begun = now
		d.stacks = stackdump.Take("ontemporal.(*attempt).call")
		end := time.Now()
		d.next = end.Add(stackdump.Rest(end.Sub(now)))
	}
	if d.begun.Before(since) {
		return nil // the dump shows where the function was before the silence
	}
	return d.stacks.Stack(t)
}
