package activity

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"
)

// A Store keeps checkpoints across processes. All methods must be safe for
// concurrent use, and must return an error when ctx has ended. The Runtime ends ctx if a
// call takes longer than Config.StoreTimeout. One Runtime at a time may use a Store. Package
// storetest checks an implementation.
type Store interface {
	// Load returns the checkpoint with that ID, and whether there is one.
	Load(ctx context.Context, id string) (Checkpoint, bool, error)
	// Save writes all of batch or nothing, replacing what has the same ID. When it
	// returns nil, batch is durable. After an error it may have been written, or not.
	// Save must not change batch, nor keep it or the bytes in it. A batch has at most
	// 1,000 checkpoints, and 16 MiB of Input, Details and LastFailure, unless it is a
	// single checkpoint that has more. If Save fails, the parts of the batch are tried.
	Save(ctx context.Context, batch []Checkpoint) error
	// Delete durably removes the checkpoints with the given IDs, at most 1,000. Missing
	// IDs are not an error. It must not change ids.
	Delete(ctx context.Context, ids []string) error
	// All yields every checkpoint, in any order. An error ends it. The body of
	// the loop may call the other methods; All may or may not yield what the body
	// saves.
	All(ctx context.Context) iter.Seq2[Checkpoint, error]
}

// Checkpoint is what a Store keeps of an activity that has not completed.
type Checkpoint struct {
	ID, Name    string
	State       CheckpointState
	Attempt     int       // the last attempt that was started
	CountedFrom int       // attempts up to this number no longer count (RetryPolicy.ResetOnProgress)
	Progressed  int       // the last attempt that made progress; zero if none did
	Sequence    uint64    // grows with each write of the ID
	ScheduledAt time.Time // when the activity was scheduled, which its schedule-to-close timeout counts from
	UpdatedAt   time.Time
	NextAttempt time.Time // when the next attempt is due, if the last one failed and a backoff follows; else zero
	Input       []byte    // the input of Execute or Start, one value in the Codec's form
	Details     []byte    // the newest heartbeat details, opaque: see HeartbeatDetails; nil if there are none
	LastFailure string    // how the last attempt that ended did
}

// HeartbeatDetails decodes the recorded details as [Context.HeartbeatDetails] does.
// codec is the Config.Codec that they were recorded with. If nil, the default.
func (c Checkpoint) HeartbeatDetails(codec Codec, into ...any) (bool, error) {
	return decodeDetails(codec, c.Details, into)
}

// CheckpointState says what the next execution of the ID makes of a Checkpoint: see
// the package's doc on durability.
type CheckpointState int

const (
	_                     CheckpointState = iota
	CheckpointRunning                     // an attempt had started: the process died, or it still runs
	CheckpointInterrupted                 // by Shutdown, or by the end of the caller's context: the next execution continues
	CheckpointFailed                      // failed for good: the next execution is a new one, which resumes from the details
	CheckpointCanceled                    // by Handle.Cancel: as CheckpointFailed
	CheckpointWaiting                     // accepted, and no attempt runs: it waits for a slot, a backoff or a function that hangs
)

func (s CheckpointState) String() string {
	return enum("CheckpointState", int(s), "", "running", "interrupted", "failed", "canceled", "waiting")
}

// A record is the pending checkpoint of an activity with a given Options.ID, in
// a Runtime with a Store. It outlives its activity until the Store has the final
// state, and occupies the ID until then. Guarded by Runtime.mu, but for fresh.
type record struct {
	id       string
	name     string    // as it is stored, of an activity without a given name; set once, as input
	input    []byte    // set once, before another goroutine can read it
	a        *activity // nil once its outcome is decided: then gone or last says what is to remain
	sequence uint64    // of the last write
	unsaved  bool      // the Store does not hold the newest
	fresh    bool      // there are details that no write has; guarded by activity.mu

	// For the writer.
	dirty       bool    // in writer.dirty
	urgent      bool    // to be tried at once; counted in writer.urgent
	urgentSince instant // of use while it is urgent
	failing     bool    // the Store has not taken it
	failedAlone bool    // nor when it was tried by itself
	waiting

	// As the Store has it, if that lies in the future; else zero. A process whose
	// clock is wrong must not change it.
	scheduledAt time.Time

	failureText failureText

	start storedStart

	// Once the activity has ended:
	gone      bool
	last      Checkpoint
	failure   error // becomes last.LastFailure; nil if that is filled in
	endFailed bool  // the Store has failed to delete it
}

// checkpointLocked returns what the Store is to hold of a live activity, without the
// details and LastFailure, and the error whose text becomes LastFailure. Runtime.mu
// is held.
func (r *record) checkpointLocked() (Checkpoint, error) {
	a := r.a
	state, attempt, failure := CheckpointWaiting, a.attempts, a.failure
	switch a.phase {
	case phaseSavingStart: // an attempt that kills the process is to count
		state, attempt = CheckpointRunning, a.attempts+1
	case phaseRunning, phaseDeciding:
		state = CheckpointRunning
	case phaseCanceling: // to be killed while the function cleans up is no crash
		state, failure = a.stoppedLocked(a.cancelCause)
		attempt--
	}
	return r.describeLocked(state, attempt), failure
}

// stoppedLocked is what becomes of an activity that was canceled with cause: its
// state in the Store, and its LastFailure.
func (a *activity) stoppedLocked(cause error) (CheckpointState, error) {
	if a.onPurpose {
		return CheckpointCanceled, cause
	}
	return CheckpointInterrupted, a.failure
}

func (r *record) describeLocked(state CheckpointState, attempt int) Checkpoint {
	a, rt := r.a, r.a.rt
	cp := Checkpoint{
		ID: r.id, Name: cmp.Or(r.name, a.name()), State: state,
		Attempt: attempt, CountedFrom: min(a.countedFrom, attempt), Progressed: min(a.progressed, attempt),
		ScheduledAt: r.scheduledAt, UpdatedAt: rt.wall(rt.now), Input: r.input,
	}
	if cp.ScheduledAt.IsZero() {
		// The time of day moves along when the wall clock is set: if it was wrong
		// until then, the age of the activity is still right.
		cp.ScheduledAt = rt.wall(a.scheduled.at)
	}
	if a.due > rt.now && state.unfinished() {
		cp.NextAttempt = rt.wall(a.due)
	}
	return cp
}

// saveEndLocked saves what is to remain of an activity whose outcome is decided; err
// is why it has not completed. It reports false if there is nothing to save. Runtime.mu is
// held.
func (r *record) saveEndLocked(err error) bool {
	a, rt := r.a, r.a.rt
	r.waiters = nil // they wait for a start, which no longer matters; heartbeats wait for this
	left, attempt := CheckpointFailed, a.attempts
	switch {
	case a.outcome == StateCompleted:
		r.gone = true
	case a.outcome == StateCanceled:
		if left, err = a.stoppedLocked(err); left == CheckpointInterrupted && a.latest == nil && r.start.found.State.unfinished() {
			r.withdrawLocked(rt)
			return false
		}
		if a.cannotResume && left == CheckpointInterrupted {
			err = a.latest.lastFailure
			attempt--
		}
		if a.phase == phaseCanceling {
			attempt-- // a canceled attempt does not count
		}
	case a.cannotResume: // but another version of the program may
		left, err = CheckpointInterrupted, a.latest.lastFailure
		attempt--
	}
	if !r.gone {
		r.last, r.failure = r.describeLocked(left, attempt), err
		a.mu.Lock()
		r.last.Details = a.details.share()
		a.mu.Unlock()
	}
	r.a, r.start.found, r.start.replaces = nil, Checkpoint{}, nil
	r.saveLocked(rt, a.endSavedLocked)
	return true
}

// remains returns the checkpoint that an ended activity has left. The caller may
// keep it.
func (r *record) finalCheckpoint(rt *Runtime) Checkpoint {
	cp := r.last
	cp.Input, cp.Details = bytes.Clone(cp.Input), bytes.Clone(cp.Details)
	if r.failure != nil {
		cp.LastFailure = rt.lastFailure(nil, r.failure)
	}
	return cp
}

// A failureText is the text of the last error that was asked for its text, which is the
// user's code.
type failureText struct {
	err  error
	text string
}

func (f *failureText) set(err error, text string) { f.err, f.text = err, text }

// of returns the text of err, if it is known.
func (f *failureText) of(err error) (text string, known bool) {
	if err == nil || reflect.TypeOf(err) != reflect.TypeOf(f.err) || !reflect.ValueOf(err).Comparable() || err != f.err {
		return "", false
	}
	return f.text, true
}

const maxLastFailure = 16 << 10

func cutFailure(text string) string {
	if len(text) > maxLastFailure {
		text = strings.ToValidUTF8(text[:maxLastFailure], "")
	}
	return text
}

// lastFailure returns the text of err. That is the user's code, which may hang or call
// runtime.Goexit, so no lock may be held.
func (rt *Runtime) lastFailure(a *activity, err error) string {
	text := make(chan string, 1)
	go func() {
		got := fmt.Sprintf("(the Error method of %T called runtime.Goexit)", err)
		defer func() { text <- got }()
		rt.protect(a, "an error's text", func() { got = short(err) })
	}()
	late := rt.newWaitTimer(rt.cfg.StoreTimeout)
	defer late.stop()
	select {
	case got := <-text:
		return cutFailure(got)
	case <-late.c:
		return fmt.Sprintf("(the Error method of %T does not return)", err)
	}
}
