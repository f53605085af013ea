package activity

import (
	"fmt"
	"strings"
	"time"
)

// Options describe one activity. The zero Options are ready to use: no timeouts,
// and retries for ever.
type Options struct {
	// ID identifies the activity: while one with it runs, another cannot be
	// started; and what Config.Store holds of it, the next execution finds. At
	// most 1 KiB, and it must not begin with "#". If empty, an ID such as "#7" is
	// made up: it is unique in the Runtime, and nothing is stored.
	ID string
	// Name says what kind of activity it is. "": the function's name.
	Name string

	StartToCloseTimeout    time.Duration // for one attempt; 0: none
	HeartbeatTimeout       time.Duration // between heartbeats, counted from the attempt's start; 0: none
	ScheduleToStartTimeout time.Duration // for each wait for a slot of MaxConcurrent; not retried; 0: none
	ScheduleToCloseTimeout time.Duration // for all attempts and the waits between them; not retried; 0: none

	RetryPolicy RetryPolicy

	// HeartbeatDetails are what the first attempt resumes from if nothing is
	// stored, each a value as Heartbeat takes it: in unit tests, or for a start in
	// the middle.
	HeartbeatDetails []any

	// MaxAbandoned is how many functions whose attempt has timed out may still
	// be running when another attempt starts. With more, the next attempt waits
	// until one returns. 0: 10; NoOverlap: none.
	MaxAbandoned int

	// CancelGrace is how long a canceled attempt may take to return, before
	// the caller gets its answer all the same. 0: 10 s.
	CancelGrace time.Duration

	// SyncHeartbeats makes Heartbeat with details return only when the Store
	// holds them: a few milliseconds on a disk. If the Store fails, Heartbeat
	// returns its error; the details are kept and saved later nevertheless. A
	// function that returns that error has failed as with any other. Without
	// Config.Store and an ID it is refused.
	SyncHeartbeats bool
}

// NoOverlap, as Options.MaxAbandoned, lets no attempt start while the function
// of an earlier one still runs.
const NoOverlap = -1

const (
	madeUpPrefix        = "#" // of IDs
	maxID               = 1 << 10
	defaultMaxAbandoned = 10
	defaultCancelGrace  = 10 * time.Second
)

// validate returns an error that names the first field that makes no sense.
func (o *Options) validate() error {
	switch {
	case len(o.ID) > maxID:
		return invalid("ID", fmt.Sprintf("%.20q... (%d bytes)", o.ID, len(o.ID)), "must not be longer than %d bytes", maxID)
	case strings.HasPrefix(o.ID, madeUpPrefix):
		return invalid("ID", fmt.Sprintf("%.40q", o.ID), "must not begin with %q, as made-up IDs do", madeUpPrefix)
	case o.StartToCloseTimeout < 0:
		return invalid("StartToCloseTimeout", o.StartToCloseTimeout, "must not be negative")
	case o.HeartbeatTimeout < 0:
		return invalid("HeartbeatTimeout", o.HeartbeatTimeout, "must not be negative")
	case o.ScheduleToStartTimeout < 0:
		return invalid("ScheduleToStartTimeout", o.ScheduleToStartTimeout, "must not be negative")
	case o.ScheduleToCloseTimeout < 0:
		return invalid("ScheduleToCloseTimeout", o.ScheduleToCloseTimeout, "must not be negative")
	case o.MaxAbandoned < NoOverlap:
		return invalid("MaxAbandoned", o.MaxAbandoned, "must not be negative, unless it is NoOverlap")
	case o.CancelGrace < 0:
		return invalid("CancelGrace", o.CancelGrace, "must not be negative")
	}
	return o.RetryPolicy.validate()
}

// setDefaults fills in what is zero.
func (o *Options) setDefaults() {
	switch o.MaxAbandoned {
	case 0:
		o.MaxAbandoned = defaultMaxAbandoned
	case NoOverlap:
		o.MaxAbandoned = 0
	}
	if o.CancelGrace == 0 {
		o.CancelGrace = defaultCancelGrace
	}
	o.RetryPolicy.setDefaults()
}
