// Package inside gives the packages of this project what package activity does not export. Package
// activity sets the variables when it is initialized, and nothing changes them after that.
package inside

import "time"

var (
	// Now returns the time of day on the clock of an *activity.Runtime.
	Now func(runtime any) time.Time

	// Stopping reports whether Drain or Shutdown of an *activity.Runtime was called.
	Stopping func(runtime any) bool

	// ScheduledAt returns when the activity of an activity.Event was scheduled. It is zero
	// for a heartbeat.
	ScheduledAt func(event any) time.Time

	// ErrorText returns err.Error(), or a text that says that this has panicked.
	ErrorText func(err error) string

	// Store returns the Config.Store of the Runtime that an activity.Context belongs to. It is nil
	// if there is none.
	Store func(ctx any) any

	// Range is activity.Range for steps that record their own progress: done returns the
	// activity.RangeProgress with which a step is done. name is for errors.
	Range func(ctx any, name string, from, to int, step func(i int, done func() any) error) error

	// Freeze stops the scheduler of an *activity.Runtime, or lets it go on: while it is frozen, no
	// timeout, backoff or Sleep ends, as in a process that was killed.
	Freeze func(runtime any, frozen bool)
)
