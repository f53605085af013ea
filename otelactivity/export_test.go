package otelactivity

import (
	"time"

	"github.com/seed-9da638b0/activity"
)

// SetProcess makes in that of another process.
func (in *Instrumentation) SetProcess(process string) { in.process = process }

// NewRuntimeLeft is NewRuntime. left returns how many IDs are still known.
func (in *Instrumentation) NewRuntimeLeft(cfg activity.Config) (rt *activity.Runtime, left func() int) {
	o := newObserver(in, cfg)
	return o.rt, func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.executions)
	}
}

// Measured returns the Store that the Runtime gets in place of s.
func (in *Instrumentation) Measured(s activity.Store) activity.Store {
	return in.metrics.measured(s, time.Now)
}

// CachedOptions returns the number of endings whose options are kept.
func (in *Instrumentation) CachedOptions() int {
	in.metrics.mu.Lock()
	defer in.metrics.mu.Unlock()
	return len(in.metrics.options)
}

const MaxOptions = maxOptions
