package activity

import (
	"fmt"
	"strings"
	"time"
)

// Options describe one activity. The zero Options are ready to use: no timeouts,
// and retries forever.
type Options struct {
	// ID identifies the activity. While one with the ID runs, another cannot be
	// started, and the next execution of the ID finds what Config.Store holds of
	// it. An ID has at most 1 KiB and must not begin with "#". If empty, an ID such
	// as "#7" is generated, which is unique in the Runtime, and nothing is stored.
	ID string
	// Name says what kind of activity it is. If empty, the function's name is used.
	Name string

	// StartToCloseTimeout is the longest time that one attempt may take. If zero,
	// there is no limit.
	StartToCloseTimeout time.Duration
	// HeartbeatTimeout is the longest time between two heartbeats of an attempt,
	// and from its start to the first. If zero, none are needed.
	HeartbeatTimeout time.Duration
	// ScheduleToStartTimeout is the longest time of each wait for a slot of
	// Config.MaxConcurrent. It is not retried. If zero, there is no limit.
	ScheduleToStartTimeout time.Duration
	// ScheduleToCloseTimeout is the longest time for all attempts and the waits
	// between them. It is not retried. If zero, there is no limit.
	ScheduleToCloseTimeout time.Duration

	// RetryPolicy says whether and when a failed attempt is followed by another.
	// If zero, attempts are retried forever, with a backoff of 1 s to 100 s.
	RetryPolicy RetryPolicy

	// HeartbeatDetails are what the first attempt resumes from if nothing is
	// stored, each a value as Heartbeat takes it. They are for unit tests, and for
	// a start in the middle.
	HeartbeatDetails []any

	// MaxAbandoned is how many functions whose attempt has timed out may still
	// be running when another attempt starts. With more, the next attempt waits
	// until one returns. If zero, 10; NoOverlap allows none.
	MaxAbandoned int

	// CancelGrace is how long a canceled attempt may take to return. After that its
	// function is abandoned, and the caller gets its answer anyway. If zero, 10 s.
	CancelGrace time.Duration

	// SyncHeartbeats makes Heartbeat with details return only when the Store
	// holds them, which takes a few milliseconds on a disk. If the Store fails,
	// Heartbeat returns its error, but the details are kept and saved later. A
	// function that returns that error has failed, as with any other error.
	// Without Config.Store and an ID the activity is refused.
	SyncHeartbeats bool

	// AcceptNewInput lets an execution continue from the checkpoint of one that had
	// another input and has not completed: the new input counts, and the recorded
	// details are resumed. Without it, such a start is refused with
	// [ErrCheckpointMismatch], because progress in one input says nothing about
	// another.
	AcceptNewInput bool
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
		return invalid("ID", fmt.Sprintf("%.40q", o.ID), "must not begin with %q, which generated IDs do", madeUpPrefix)
	case o.StartToCloseTimeout < 0:
		return invalid("StartToCloseTimeout", o.StartToCloseTimeout, "must not be negative")
	case o.HeartbeatTimeout < 0:
		return invalid("HeartbeatTimeout", o.HeartbeatTimeout, "must not be negative")
	case o.ScheduleToStartTimeout < 0:
		return invalid("ScheduleToStartTimeout", o.ScheduleToStartTimeout, "must not be negative")
	case o.ScheduleToCloseTimeout < 0:
		return invalid("ScheduleToCloseTimeout", o.ScheduleToCloseTimeout, "must not be negative")
	case o.MaxAbandoned < NoOverlap:
		return invalid("MaxAbandoned", o.MaxAbandoned, "must not be negative, except NoOverlap")
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
