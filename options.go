package activity

import (
	"fmt"
	"strings"
	"time"
)

// Options describe one activity. The zero Options are ready to use: there are no timeouts,
// and failed attempts are retried forever.
type Options struct {
	// ID identifies the activity. While an activity with this ID runs, another cannot be
	// started. With Config.Store, the next execution of the ID resumes from the checkpoint
	// of this one. An ID has at most 1 KiB and must not begin with "#". If empty, an ID
	// such as "#7" is generated, which is unique in the Runtime, and nothing is stored.
	ID string
	// Name is the kind of activity, for logs, events and errors. If it is set and differs
	// from the Name of the ID's checkpoint, the start is refused with
	// [ErrCheckpointMismatch]. If empty, the name of the function is used.
	Name string

	// StartToCloseTimeout is the longest time that one attempt may take. If zero, there is
	// no limit.
	StartToCloseTimeout time.Duration
	// HeartbeatTimeout is the longest time between two heartbeats of an attempt, and from
	// its start to the first heartbeat. If zero, no heartbeats are needed.
	HeartbeatTimeout time.Duration
	// ScheduleToStartTimeout is the longest time of each wait for a slot of
	// Config.MaxConcurrent. If it is reached, the activity fails. If zero, there is no
	// limit.
	ScheduleToStartTimeout time.Duration
	// ScheduleToCloseTimeout is the longest time for all attempts and the waits and pauses
	// between them. If it is reached, the activity fails. If zero, there is no limit.
	ScheduleToCloseTimeout time.Duration

	// RetryPolicy decides whether and when a failed attempt is followed by another. If
	// zero, attempts are retried forever, with a backoff of 1 s to 100 s.
	RetryPolicy RetryPolicy

	// HeartbeatDetails are the details from which the first attempt resumes if nothing is
	// stored. Each is a value as for Heartbeat. They are for unit tests, and for a start
	// in the middle. If empty, the first attempt starts from the beginning.
	HeartbeatDetails []any

	// Header has values that go with the activity, such as a trace context. It is stored with
	// the checkpoint, and every attempt finds it in [Info]. The map is copied. If the activity
	// continues a stored execution, a Header that is not empty replaces the stored one. When
	// [Runtime.Recover] continues it, the stored one counts.
	Header map[string]string

	// MaxAbandoned is the largest number of abandoned functions that may still run when
	// another attempt starts. If there are more, the next attempt waits until one returns.
	// If zero, 10. NoOverlap allows none.
	MaxAbandoned int

	// CancelGrace is how long the function of a canceled or paused attempt may take to
	// return. After that it is abandoned, and the caller gets the outcome, or the activity is
	// paused. If zero, 10 s.
	CancelGrace time.Duration

	// SyncHeartbeats makes a Heartbeat with details wait until the Store holds them, which
	// takes a few milliseconds on a disk. If the Store fails, Heartbeat returns its error,
	// but the details are kept and saved later. If the function returns that error, the
	// attempt has failed, as with any other error. SyncHeartbeats requires Config.Store and
	// an ID.
	SyncHeartbeats bool

	// AcceptNewInput allows a start whose input differs from that of the ID's checkpoint:
	// the new input counts, and the recorded details are resumed. If false, such a start is
	// refused with [ErrCheckpointMismatch], because progress in one input says nothing
	// about another.
	AcceptNewInput bool
}

// NoOverlap is a value of Options.MaxAbandoned. No attempt then starts while the function of
// an earlier attempt still runs.
const NoOverlap = -1

const (
	madeUpPrefix        = "#"     // the beginning of generated IDs
	maxID               = 1 << 10 // the largest length of an ID, in bytes
	defaultMaxAbandoned = 10
	defaultCancelGrace  = 10 * time.Second
)

// validate returns an error that names the first invalid field, or nil.
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

// setDefaults replaces zero fields by their defaults. MaxAbandoned is then the true number:
// 0 for NoOverlap.
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
