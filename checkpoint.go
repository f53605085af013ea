package activity

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"strings"
	"time"
)

// A Store keeps checkpoints across processes. Its methods must be safe for concurrent use,
// and must return an error once ctx has ended. The Runtime ends ctx if a call takes longer
// than Config.StoreTimeout. Only one Runtime at a time may use a Store. Package storetest
// tests an implementation.
//
// Three more methods are optional. A Store that another process can take over has the method
// Lost() <-chan struct{}, which always returns the same channel. When the Store closes it, the
// Runtime cancels every stored activity with [ErrStoreLost], and writes nothing more. In a
// synctest bubble, make such a Store in the bubble.
//
// The method KeepsNewest() bool is for a Store that is used with [Commit]. If it returns true,
// Save must ignore a checkpoint whose Sequence is lower than the stored one. Commit then does not
// wait for a Save of the ID in progress, which may itself wait for the transaction of the Commit.
//
// The method MayHold(id string) bool is for a Store that keeps its IDs in memory. If it returns
// false, the Store has no checkpoint with that ID, and an activity starts without a call of Load.
// If the Store was lost and has not noticed, MayHold may wrongly return false. That is harmless,
// because the Save that follows fails. MayHold must return at once. A Store that wraps another one
// and changes the IDs must have a MayHold of its own.
type Store interface {
	// Load returns the checkpoint with the given ID, and whether there is one.
	Load(ctx context.Context, id string) (Checkpoint, bool, error)
	// Save writes all checkpoints of batch or none, and replaces those with the same ID.
	// When it returns nil, batch is durable. After an error, batch may or may not have been
	// written. Save must not change batch, and must not keep it or the bytes and maps in it.
	//
	// A batch has at most 1,000 checkpoints, and at most 16 MiB of Input, Details, Header and
	// LastFailure. A larger checkpoint comes alone. If Save fails, the Runtime calls it
	// again with parts of the batch.
	Save(ctx context.Context, batch []Checkpoint) error
	// Delete durably removes the checkpoints with the given IDs, at most 1,000. Missing
	// IDs are not an error. Delete must not change ids.
	Delete(ctx context.Context, ids []string) error
	// All yields every checkpoint, in any order. An error ends the sequence. The body of
	// the loop may call the other methods. All may or may not yield checkpoints that the
	// body saves.
	All(ctx context.Context) iter.Seq2[Checkpoint, error]
}

// Checkpoint is what a Store keeps of an activity that has not completed.
type Checkpoint struct {
	ID, Name    string
	State       CheckpointState
	Attempt     int               // number of the last attempt that counts and was started; zero if none was
	CountedFrom int               // number of the last attempt that no longer counts, because of RetryPolicy.ResetOnProgress or ResetAfter
	Progressed  int               // number of the last attempt that made progress; zero if none did
	Sequence    uint64            // number that grows with each write of the ID
	ScheduledAt time.Time         // when the activity was scheduled; its schedule-to-close timeout counts from here
	UpdatedAt   time.Time         // when this state was written
	NextAttempt time.Time         // when the next attempt is due, if a backoff comes first; otherwise zero
	Input       []byte            // input of Execute or Start, encoded with Config.Codec
	Details     []byte            // newest heartbeat details, to be read with HeartbeatDetails; nil if there are none
	Header      map[string]string // Options.Header; nil if it is empty
	LastFailure string            // text of the last attempt's error or, if CheckpointCanceled, of the cause; empty if there is none
}

// HeartbeatDetails decodes the recorded details, as [Context.HeartbeatDetails] does. codec
// must be the Config.Codec that they were recorded with. If nil, the default Codec is used.
func (c Checkpoint) HeartbeatDetails(codec Codec, into ...any) (bool, error) {
	return decodeDetails(codec, c.Details, into)
}

// A CheckpointState is the state of an activity in the Store. It decides how the next
// execution of the ID begins: see the section on durability in the package documentation.
type CheckpointState int

const (
	_                     CheckpointState = iota
	CheckpointRunning                     // an attempt was running; if the process has ended, the next execution continues
	CheckpointInterrupted                 // interrupted by Drain, Shutdown or the end of the caller's context; the next execution continues
	CheckpointFailed                      // failed for good; the next execution is a new one, which resumes from the details
	CheckpointCanceled                    // canceled by Handle.Cancel or Runtime.Cancel; the next execution is a new one, which resumes from the details
	CheckpointWaiting                     // waiting for a slot, a backoff or a function that hangs; the next execution continues
	CheckpointPaused                      // paused by Runtime.Pause; the next execution continues and stays paused
)

// String returns the state's name in lower case, such as "running".
func (s CheckpointState) String() string {
	return enum("CheckpointState", int(s), "", "running", "interrupted", "failed", "canceled", "waiting", "paused")
}

// A record is the pending checkpoint of an activity that is stored. It is created with the
// activity, and dropped when the activity's outcome is decided and the Store holds that.
//
// While the activity lives, the record has no checkpoint of its own: each write makes one
// of the activity's current state. When the outcome is decided, a is set to nil, and the
// final state is copied to the record, which then outlives the activity.
//
// Guarded by Runtime.mu, except fresh.
type record struct {
	id       string
	name     string    // stored name, used if Options.Name is empty; set once, by compare
	input    []byte    // encoded input; set before other goroutines can read it, and dropped after the end
	a        *activity // set to nil once, when the outcome is decided
	sequence uint64    // Sequence of the last write
	begins   int       // number of times that phaseSavingStart was entered
	unsaved  bool      // whether the Store may not hold the newest state
	fresh    bool      // whether there are details that no write has read; guarded by activity.mu

	// For Commit.
	taken      bool   // whether the writer has taken the record, and has no result yet
	committing bool   // whether a Commit is in flight
	commits    int    // number of Commits that have begun
	unresolved uint64 // Sequence of a Commit that failed, until the Store has said whether it holds that; 0 if there is none

	// For the writer.
	dirty       bool    // whether the record is in writer.dirty
	urgent      bool    // whether the record is to be tried at once; counted in writer.urgent
	urgentSince instant // when the record became urgent; valid only while it is
	failing     bool    // whether the Store has failed to take the record
	failedAlone bool    // whether it did so when the record was the only one in a call
	waiting

	// scheduledAt is the stored ScheduledAt if that was in the future, and else zero. It
	// is then written back unchanged, because this process's clock may be the wrong one.
	scheduledAt time.Time

	failureText failureText

	start storedStart

	// The final state. Set when a becomes nil.
	gone      bool       // whether the checkpoint is to be deleted
	last      Checkpoint // the checkpoint that is to remain, unless gone
	failure   error      // error whose text becomes last.LastFailure; nil if that is set already
	endFailed bool       // whether a Delete has failed
}

// checkpointLocked returns the checkpoint of a live activity as it is now, without Details
// and LastFailure, and the error whose text becomes LastFailure: see write.fill. Runtime.mu
// is held.
func (r *record) checkpointLocked() (Checkpoint, error) {
	a := r.a
	state, attempt, failure := CheckpointWaiting, a.countedLocked(), a.failure
	switch a.phase {
	case phaseSavingStart:
		// Saved as running before the function runs, so that an attempt that kills the
		// process counts.
		state, attempt = CheckpointRunning, attempt+1
	case phaseRunning, phaseDeciding:
		state = CheckpointRunning
		if a.phase == phaseRunning && a.rt.drain.begun.Load() { // nor is a kill after a drain has begun
			state = CheckpointInterrupted
			attempt--
		}
	case phaseCanceling:
		// A kill while the function cleans up is no crash.
		state, failure = a.stoppedLocked(a.cancelCause)
	}
	if a.paused && state != CheckpointCanceled {
		state = CheckpointPaused
	}
	return r.describeLocked(state, attempt), failure
}

// stoppedLocked returns the stored state of an activity that was canceled with cause, and
// the error whose text becomes LastFailure. Only Handle.Cancel and Runtime.Cancel end the
// execution for good.
func (a *activity) stoppedLocked(cause error) (CheckpointState, error) {
	switch {
	case a.onPurpose:
		return CheckpointCanceled, cause
	case a.paused:
		return CheckpointPaused, a.failure
	}
	return CheckpointInterrupted, a.failure
}

// describeLocked returns the checkpoint of the activity in the given state, without Details
// and LastFailure. attempt is the number of the last attempt that counts.
func (r *record) describeLocked(state CheckpointState, attempt int) Checkpoint {
	a, rt := r.a, r.a.rt
	cp := Checkpoint{
		ID: r.id, Name: cmp.Or(r.name, a.name()), State: state,
		Attempt: attempt, CountedFrom: min(a.countedFrom, attempt), Progressed: min(a.progressed, attempt),
		ScheduledAt: r.scheduledAt, UpdatedAt: rt.wall(rt.now), Input: r.input, Header: a.opts.Header,
	}
	if cp.ScheduledAt.IsZero() {
		// Computed from the current wall clock, so that ScheduledAt moves along when
		// that is set. If it was wrong before, the age of the activity is still right.
		cp.ScheduledAt = rt.wall(a.scheduled.at)
	}
	if a.due > rt.now && state.unfinished() {
		cp.NextAttempt = rt.wall(a.due)
	}
	return cp
}

// saveEndLocked saves the final state of an activity whose outcome is decided. err is its
// error, or nil. It reports false if there is nothing to save, and true if endSavedLocked
// will be called. Runtime.mu is held.
func (r *record) saveEndLocked(err error) bool {
	a, rt := r.a, r.a.rt
	// The waiters wait for the start of an attempt, which no longer matters. Heartbeats in
	// syncs get the result of this save.
	r.waiters = nil
	left, cannotResume := CheckpointFailed, a.latest != nil && a.latest.verdict.cannotResume
	switch {
	case a.outcome == StateCompleted:
		r.gone = true
	case a.outcome == StateCanceled:
		// If an unfinished execution was resumed and then interrupted before an attempt
		// of this process, the checkpoint that was found is still right.
		if left, err = a.stoppedLocked(err); left != CheckpointCanceled && a.latest == nil && r.start.found.State.unfinished() {
			r.withdrawLocked(rt)
			return false
		}
		if cannotResume && left == CheckpointInterrupted {
			err = a.latest.lastFailure
		}
	case cannotResume:
		// Another version of the program may be able to resume, so the execution does not
		// end (rule 33).
		left, err = CheckpointInterrupted, a.latest.lastFailure
	}
	if !r.gone {
		r.last, r.failure = r.describeLocked(left, a.countedLocked()), err
		a.mu.Lock()
		r.last.Details = a.details.share()
		a.mu.Unlock()
	}
	r.a = nil
	r.start.dropFoundLocked()
	r.saveLocked(rt, a.endSavedLocked)
	return true
}

// finalCheckpoint returns a copy of the checkpoint of an activity whose outcome is decided.
// It may call an Error method, which is user code, so no lock may be held.
func (r *record) finalCheckpoint(rt *Runtime) Checkpoint {
	cp := r.last
	cp.Input, cp.Details, cp.Header = bytes.Clone(cp.Input), bytes.Clone(cp.Details), maps.Clone(cp.Header)
	if r.failure != nil {
		cp.LastFailure = rt.lastFailure(nil, r.failure)
	}
	return cp
}

// A failureText caches the text of the last error. Error methods are user code, which must
// not be called under a lock, or once for each write.
type failureText struct {
	err  error
	text string
}

func (f *failureText) set(err error, text string) { f.err, f.text = err, text }

// of returns the text of err if it is cached. Errors of types that cannot be compared are
// not found.
func (f *failureText) of(err error) (text string, known bool) {
	if err == nil || reflect.TypeOf(err) != reflect.TypeOf(f.err) || !reflect.ValueOf(err).Comparable() || err != f.err {
		return "", false
	}
	return f.text, true
}

const maxLastFailure = 16 << 10 // the largest size of Checkpoint.LastFailure, in bytes

// cutFailure shortens text to maxLastFailure.
func cutFailure(text string) string {
	if len(text) > maxLastFailure {
		text = strings.ToValidUTF8(text[:maxLastFailure], "")
	}
	return text
}

// lastFailure returns the text of err, cut to maxLastFailure. The Error method is user code,
// which may panic, hang or call runtime.Goexit. So it runs in a goroutine of its own, for
// StoreTimeout at most, and no lock may be held.
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
