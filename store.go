package activity

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"
)

// A Store keeps checkpoints across processes. All methods must be safe for
// concurrent use, and return an error when ctx has ended. One Runtime at a time
// may use a Store. Package storetest checks an implementation.
type Store interface {
	// Load returns the checkpoint with that ID, and whether there is one.
	Load(ctx context.Context, id string) (Checkpoint, bool, error)
	// Save writes all of batch or nothing, replacing what has the same ID. What
	// it got is durable when it returns nil. It must not change batch, nor keep it
	// or the bytes in it. An error is that of every start in the batch, so it must
	// take what Config.MaxDetailsSize allows, and the inputs.
	Save(ctx context.Context, batch []Checkpoint) error
	// Delete removes the checkpoints with these IDs; one that there is not is
	// no error. They are durably gone when it returns nil. It must not change ids.
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
	Details     []byte // the newest heartbeat details, opaque: see HeartbeatDetails; nil: none
	LastFailure string // how the last attempt that ended did
}

// HeartbeatDetails decodes the recorded details with c, which is the Config.Codec
// they were recorded with (nil: the default), as [Context.HeartbeatDetails] does.
func (c Checkpoint) HeartbeatDetails(codec Codec, into ...any) (bool, error) {
	return decodeDetails(codec, c.Details, into)
}

// CheckpointState says what the next execution of the ID makes of a Checkpoint: see
// the package's doc on durability.
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

// Unfinished lists the checkpoints of activities that have not completed and are
// not running here now: what was interrupted by a crash or a shutdown, what has
// failed for good, what was canceled. The loop's body may start and forget
// activities. Without a Store there are none.
func (rt *Runtime) Unfinished(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return func(yield func(Checkpoint, error) bool) {
		if rt.cfg.Store == nil {
			return
		}
		// What is not saved yet stands for what the Store has.
		told := map[string]bool{}
		rt.lock()
		var unsaved []*record
		for _, r := range rt.records {
			if r.a == nil {
				unsaved = append(unsaved, r)
				told[r.id] = true
			}
		}
		rt.unlock()
		slices.SortFunc(unsaved, func(r, s *record) int { return strings.Compare(r.id, s.id) })
		for _, r := range unsaved {
			if !r.gone && !rt.isRunning(r.id) && !yield(r.remains(rt), nil) {
				return
			}
		}
		for cp, err := range rt.stored(ctx) {
			if err != nil {
				yield(Checkpoint{}, err)
				return
			}
			rt.lock()
			r, running := rt.records[cp.ID], rt.inUse(cp.ID)
			rt.unlock()
			if told[cp.ID] || running || r != nil && r.gone {
				continue
			}
			if r != nil { // it has ended meanwhile
				cp = r.remains(rt)
			}
			if !yield(cp, nil) {
				return
			}
		}
	}
}

func (rt *Runtime) isRunning(id string) bool {
	rt.lock()
	defer rt.unlock()
	return rt.inUse(id)
}

// stored is Store.All. A panic of the Store's is an error, and one of the loop's
// body passes through.
func (rt *Runtime) stored(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return func(yield func(Checkpoint, error) bool) {
		next, stop := iter.Pull2(func(yield func(Checkpoint, error) bool) { rt.cfg.Store.All(ctx)(yield) })
		defer func() {
			_ = rt.callStore("All", func() error { stop(); return nil })
		}()
		for {
			var cp Checkpoint
			more := false
			err := rt.callStore("All", func() (err error) {
				cp, err, more = next()
				return err
			})
			if err != nil {
				yield(Checkpoint{}, err)
				return
			}
			if !more || !yield(cp, nil) {
				return
			}
		}
	}
}

// Forget drops the stored checkpoint of id, if there is one. It refuses with
// [ErrAlreadyRunning] while id runs here. With another error the checkpoint is
// still there.
func (rt *Runtime) Forget(ctx context.Context, id string) error {
	rt.lock()
	used := rt.inUse(id)
	place := &activity{rt: rt, opts: rt.settings(&Options{ID: id})}
	if !used && rt.cfg.Store != nil {
		rt.keepID(place)
	}
	rt.unlock()
	switch {
	case used:
		return fmt.Errorf("activity %q: not forgotten: %w", id, ErrAlreadyRunning)
	case rt.cfg.Store == nil:
		return nil
	}
	defer func() {
		rt.lock()
		rt.freeID(place)
		rt.unlock()
	}()
	select {
	case rt.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("activity %q: not forgotten: %w", id, context.Cause(ctx))
	}
	defer func() { <-rt.turn }()
	if err := rt.callStore("Delete", func() error { return rt.cfg.Store.Delete(ctx, []string{id}) }); err != nil {
		return fmt.Errorf("activity %q: not forgotten: %w", id, err)
	}
	rt.lock()
	delete(rt.records, id)
	rt.unlock()
	return nil
}
