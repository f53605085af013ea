package activity

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// A Store keeps checkpoints across processes. All methods must be safe for
// concurrent use, and return an error when ctx has ended. One Runtime at a time
// may use a Store. Package storetest checks an implementation.
type Store interface {
	// Load returns the checkpoint with that ID, and whether there is one.
	Load(ctx context.Context, id string) (Checkpoint, bool, error)
	// Save writes all of batch or nothing, replacing what has the same ID. What
	// it got is durable when it returns nil. It must not keep batch, nor the bytes
	// in it.
	Save(ctx context.Context, batch []Checkpoint) error
	// Delete removes the checkpoints with these IDs; one that there is not is
	// no error. They are durably gone when it returns nil.
	Delete(ctx context.Context, ids []string) error
	// All yields every checkpoint, in any order. An error ends it. The body of
	// the loop may call the other methods; whether what it saves is yielded as
	// well is open.
	All(ctx context.Context) iter.Seq2[Checkpoint, error]
}

// Checkpoint is what a Store keeps of an activity that has not completed.
type Checkpoint struct {
	ID, Name    string
	State       CheckpointState
	Attempt     int       // the last attempt that was started
	CountedFrom int       // attempts up to this number no longer count (RetryPolicy.ResetOnProgress)
	Progressed  int       // the last attempt that made progress; 0: none did
	Sequence    uint64    // grows with each write of the ID
	ScheduledAt time.Time // when the activity was scheduled, which its schedule-to-close timeout counts from
	UpdatedAt   time.Time
	Input       []byte // of Execute and Start, one value in the Codec's form
	Details     []byte // the newest heartbeat details, opaque; nil: none
	LastFailure string // how the last attempt that ended did
}

// HeartbeatDetails decodes the recorded details with c, which is the Config.Codec
// they were recorded with (nil: the default), as [Context.HeartbeatDetails] does.
func (c Checkpoint) HeartbeatDetails(codec Codec, into ...any) (bool, error) {
	return decodeDetails(codec, c.Details, into)
}

// CheckpointState says what the next execution of the ID makes of a Checkpoint.
type CheckpointState int

const (
	_                     CheckpointState = iota
	CheckpointRunning                     // an attempt had started: the process died, or it still runs
	CheckpointInterrupted                 // by Shutdown, or by the end of the caller's context: goes on
	CheckpointFailed                      // failed for good: a new execution, which resumes from the details
	CheckpointCanceled                    // by Handle.Cancel: as CheckpointFailed
)

func (s CheckpointState) String() string {
	return enum("CheckpointState", int(s), "", "running", "interrupted", "failed", "canceled")
}

// Unfinished lists the checkpoints in the Store of activities that have not
// completed and are not running here now. Without a Store there are none.
func (rt *Runtime) Unfinished(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return func(func(Checkpoint, error) bool) {}
}

// Forget drops the stored checkpoint of id, if there is one. It refuses with
// [ErrAlreadyRunning] while id runs here.
func (rt *Runtime) Forget(ctx context.Context, id string) error {
	rt.lock()
	defer rt.unlock()
	if rt.inUse(id) {
		return fmt.Errorf("activity %q: not forgotten: %w", id, ErrAlreadyRunning)
	}
	return nil
}

// A Definition is an activity with a name that outlives the process, which is
// what [Recover] finds a stored activity's function by.
type Definition[In, Out any] struct {
	Name    string
	Options Options // for every execution; ID and Name are ignored
	Func    func(Context, In) (Out, error)
}

// Execute runs the activity with this ID, as [Execute] does.
func (d *Definition[In, Out]) Execute(ctx context.Context, rt *Runtime, id string, in In) (Out, error) {
	h, err := d.Start(ctx, rt, id, in)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// Start starts the activity with this ID, as [Start] does. A Definition without
// a Name is refused.
func (d *Definition[In, Out]) Start(ctx context.Context, rt *Runtime, id string, in In) (*Handle[Out], error) {
	if d.Name == "" {
		return nil, fmt.Errorf("activity %q: Definition.Name is empty, and it is what a stored activity's function is found by", id)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return Start(ctx, rt, opts, d.Func, in)
}

func (d *Definition[In, Out]) definition() string { return d.Name }

// A Recoverable is a *[Definition], of any types.
type Recoverable interface {
	definition() string
}

// Recover starts every unfinished activity in the Store anew, each by the
// Definition of its Name, and returns how many. Without a Store there is
// nothing to recover.
func Recover(ctx context.Context, rt *Runtime, defs ...Recoverable) (int, error) {
	return 0, nil
}
