package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// The start of an activity. An activity without a record is scheduled and proceeds to its
// first attempt at once. A stored one is registered first, then its checkpoint is loaded,
// outside all locks, and it resumes from that. Start returns when the Store holds the
// activity.

// A startMode decides how the end of the caller's context is noticed.
type startMode int

const (
	startAttended     startMode = iota // by the caller's goroutine, which waits for the end of the activity
	startInBackground                  // by a context.AfterFunc, because no goroutine waits
)

// run starts an activity and waits for its end. Meanwhile this goroutine watches the
// caller's context, which is cheaper for a short Run than a context.AfterFunc.
func (rt *Runtime) run(ctx context.Context, opts *Options, body body) (*activity, error) {
	a, err := rt.start(ctx, opts, body, startAttended, nil)
	if err != nil {
		return nil, err
	}
	if a.releaseBase != nil {
		defer a.releaseBase()
	}
	a.awaitEnd()
	if a.rec != nil && a.rec.start.refusal != nil {
		return nil, a.rec.start.refusal
	}
	return a, a.err
}

// start creates an activity and starts it. A stored one may still be refused: see awaitStart.
// recovered is the checkpoint that Recover has found, or nil. If it is not nil, the activity is
// started only if its checkpoint is still unfinished.
func (rt *Runtime) start(ctx context.Context, opts *Options, body body, mode startMode, recovered *Checkpoint) (*activity, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if reflect.ValueOf(body.function()).IsNil() {
		return nil, fmt.Errorf("activity: the function is nil (Options.ID %q, Options.Name %q)", opts.ID, opts.Name)
	}
	if opts.SyncHeartbeats && (rt.cfg.Store == nil || opts.ID == "") {
		return nil, invalid("SyncHeartbeats", true, "requires Config.Store and Options.ID")
	}
	// The details and the input are encoded before the activity is registered, so that an
	// error leaves nothing behind. The order of the checks is options, ended context,
	// shutdown, ID (rule 16).
	a := &activity{rt: rt, opts: *opts, body: body, parent: ctx}
	a.opts.setDefaults()
	a.opts.Header = cloneHeader(opts.Header)
	if d := opts.HeartbeatDetails; heartbeatdetails.Given(d) {
		e, err := rt.encode(d)
		if err != nil {
			return nil, fmt.Errorf("activity: Options.HeartbeatDetails: %w", err)
		}
		a.details.set(e)
		a.opts.HeartbeatDetails = nil
	}
	if rt.cfg.Store != nil && opts.ID != "" {
		a.rec = &record{id: opts.ID, a: a}
		a.rec.start.decided = make(chan struct{})
		if recovered != nil {
			a.rec.input = recovered.Input
		} else if data, err := body.encode(rt.cfg.Codec); err != nil {
			return nil, refusal(opts.ID, err)
		} else {
			a.rec.input = data
		}
	}
	if err := ended(ctx); err != nil {
		return nil, a.notStarted(err)
	}
	a.base, a.releaseBase = standardContext(ctx)
	if mode != startAttended && ctx.Done() != nil {
		a.stopWatch = context.AfterFunc(a.base, a.checkParent)
	}
	err := rt.schedule(a)
	if err != nil {
		a.releaseContext()
	} else if a.rec != nil {
		err = a.load(recovered != nil)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// releaseContext releases the context of a caller whose activity was refused. It may run
// user code, so no lock may be held.
func (a *activity) releaseContext() {
	if a.stopWatch != nil {
		a.stopWatch()
	}
	if a.releaseBase != nil {
		a.releaseBase()
	}
}

// awaitEnd waits until the caller is released, in startAttended mode, and watches the caller's
// context. While an attempt runs, it waits for the attempt's Context, which ends with the
// caller's context as well as with the attempt. That needs neither another context nor a
// select on a channel for which many goroutines contend.
func (a *activity) awaitEnd() {
	for {
		a.rt.mu.Lock()
		released, running, t := a.released, a.phase == phaseRunning, a.latest
		a.rt.mu.Unlock()
		switch {
		case released:
			return
		case !running:
			a.awaitDone()
			return
		}
		<-t.Done()
		if a.base.Err() != nil {
			a.checkParent()
		}
	}
}

// awaitDone waits until the caller is released, and cancels the activity when the caller's
// context ends.
func (a *activity) awaitDone() {
	done := a.done()
	if a.base.Done() != nil {
		// The caller's context may come from outside a synctest bubble. A goroutine that
		// waits for a channel from outside is not durably blocked, and would stop the
		// bubble's time. So it waits for a context that was made inside.
		watch, cancel := context.WithCancel(a.base)
		defer cancel()
		select {
		case <-done:
			return
		case <-watch.Done():
			a.checkParent()
		}
	}
	<-done
}

// checkParent cancels the activity if the caller's context has ended.
func (a *activity) checkParent() {
	a.rt.enter()
	a.checkParentLocked()
	a.rt.leave()
}

// notStarted returns the error of an activity that was canceled before its start.
func (a *activity) notStarted(cause error) error {
	return &Error{ID: a.opts.ID, Name: a.name(), RetryState: RetryStateCancelRequested, Err: cause}
}

// canceledStart returns the error of a start that was canceled before it was accepted.
// After a Shutdown, or the loss of the Store, it is the same as that of a start that comes
// later. Runtime.mu is held.
func (a *activity) canceledStart() error {
	if a.cancelCause == ErrShutdown || a.cancelCause == ErrStoreLost {
		return refusal(a.opts.ID, a.cancelCause)
	}
	return a.notStarted(a.cancelCause)
}

// refusal returns the error of a start that was refused because of err.
func refusal(id string, err error) error {
	if id == "" {
		return fmt.Errorf("activity: not started: %w", err)
	}
	return fmt.Errorf("activity %q: not started: %w", id, err)
}

// schedule registers the activity, or refuses it. Without a record, the activity then
// proceeds to its first attempt. With a record it is only registered, which reserves the
// ID. The caller must then call load.
func (rt *Runtime) schedule(a *activity) error {
	rt.enter()
	defer rt.leave()
	a.checkParentLocked() // the context may have ended since start has looked at it
	id := a.opts.ID
	switch {
	case a.cancelCause != nil:
		return a.notStarted(a.cancelCause)
	case rt.shutdown.begun:
		return refusal(id, ErrShutdown)
	case a.rec != nil && rt.writer.noticeLossLocked():
		return refusal(id, ErrStoreLost)
	case id != "" && rt.runningLocked(id) != nil: // Forget("") may have registered the empty ID
		return refusal(id, ErrAlreadyRunning)
	case a.rec != nil:
		if err := rt.writer.records[id].occupiedLocked(); err != nil {
			return refusal(id, err)
		}
	}
	if id != "" {
		if before := rt.ids[id]; before != nil {
			a.followLocked(before)
			if a.rec != nil {
				a.rec.start.before = before
			}
		}
		rt.ids[id] = a
	}
	rt.started++
	a.number = rt.started
	a.scheduled = rt.moment(rt.now)
	rt.linkLocked(a)
	rt.shutdown.open++
	if a.rec != nil {
		a.rec.claimLocked(rt)
		a.setPhaseLocked(phaseLoading, never)
		return nil
	}
	rt.counts.scheduled++
	a.emitLocked(EventScheduled, 0, nil, 0, nil)
	a.proceedLocked()
	return nil
}

// The rest of this file is the start of a stored activity. Its checkpoint is loaded and
// compared. Then the activity resumes. If it has to wait for a slot or a backoff, the
// waiting activity is saved. Otherwise the start of its first attempt is saved. Then the
// start is accepted, and Start returns nil.
//
// Until the start is accepted, it may be refused. Then the checkpoint that was found is
// restored, as if Start had never been called: see withdrawLocked.

// A storedStart is the part of a record that is needed until the first attempt starts.
// Guarded by Runtime.mu, with two exceptions: Start reads replaces before another goroutine
// can change it, and reads refusal after decided is closed.
type storedStart struct {
	calledAt   instant                 // when Start was called; the time of EventScheduled
	cancelLoad context.CancelCauseFunc // ends the Load; nil before it begins
	decided    chan struct{}           // closed when Start may return
	held       bool                    // whether the Store holds this execution, so that Start may return while it waits
	accepted   bool                    // set once, when Start is to return nil; leave then closes decided
	before     *activity               // previous execution of the ID, if it was registered; nil once the start is accepted
	refusal    error                   // error that Start returns; set once, before decided is closed

	// The checkpoint to restore if the start is refused.
	found    Checkpoint // the checkpoint without its details; its State is 0 if there is none
	details  bool       // whether found had details, which are the activity's details now
	replaces *record    // previous record of the ID, if the Store did not hold its final state yet; nil if found was loaded
	crashed  bool       // whether an earlier process ended during an attempt
	written  bool       // whether the Store may hold something of this execution; set once
	failed   bool       // whether the start was refused because the Store failed to save it
	newInput bool       // whether the input differs from that of found
}

// dropFoundLocked drops the checkpoint that was found. It is not to be restored, because the
// activity has moved on.
func (s *storedStart) dropFoundLocked() { s.found, s.replaces = Checkpoint{}, nil }

// claimLocked makes r the record of its ID. A record that was not saved yet is replaced,
// and r continues its sequence numbers. Its writes, if any are in flight, no longer count.
func (r *record) claimLocked(rt *Runtime) {
	r.start.calledAt = rt.now
	if r.start.replaces = rt.writer.records[r.id]; r.start.replaces != nil {
		r.sequence = r.start.replaces.sequence
	}
	rt.writer.records[r.id] = r
}

// awaitStart waits until the start is accepted or refused, and returns nil or the reason.
// Without a record a start is accepted at once.
func (a *activity) awaitStart() error {
	if a.rec == nil {
		return nil
	}
	s := &a.rec.start
	<-s.decided
	if s.refusal != nil {
		<-a.done() // the caller's context is released before that
	}
	return s.refusal
}

// acceptLocked accepts the start: Start returns nil, and EventScheduled is posted with the
// time of the call. Only the first call has an effect.
func (a *activity) acceptLocked() {
	if s := &a.rec.start; !s.accepted {
		s.accepted, s.before = true, nil
		a.rt.counts.scheduled++
		a.emitAtLocked(s.calledAt, EventScheduled, 0, nil, 0, nil)
		a.rt.scheduler.closing = append(a.rt.scheduler.closing, s.decided)
	}
}

// refuseLocked refuses a start that was not accepted, and undoes it: the checkpoint, the
// registration of the ID, and the counts are as if Start had not been called.
func (a *activity) refuseLocked(err error) {
	rt := a.rt
	a.rec.start.refusal = err
	a.rec.withdrawLocked(rt)
	a.setPhaseLocked(phaseNew, never)
	rt.unlinkLocked(a)
	rt.freeIDLocked(a)
	if before := a.rec.start.before; before != nil && !before.released {
		// The next execution of the ID must still deliver its events after those of before.
		rt.ids[a.opts.ID] = before
	}
	rt.scheduler.closing = append(rt.scheduler.closing, a.rec.start.decided)
	a.releaseLocked()
}

// errNotRecovered refuses a start by Recover, without being an error to the user: the
// checkpoint was finished or is running by now.
var errNotRecovered = errors.New("nothing to recover")

// load loads the checkpoint of the activity's ID, and starts the activity from it or
// refuses it. If recovering is true, a checkpoint that is not unfinished is refused.
func (a *activity) load(recovering bool) (err error) {
	var cp Checkpoint
	var mismatch error
	// Deferred, and with this error, in case the Store or the Codec calls runtime.Goexit:
	// the ID must not stay reserved.
	err = errStoreGoexit
	defer func() {
		err = a.loaded(cp, mismatch, recovering, err)
	}()
	cp, err = a.find(recovering)
	if err == nil && cp.State != 0 {
		mismatch = a.compare(cp)
	}
	return err
}

// find returns the checkpoint of the activity's ID. Its State is 0 if there is none. A
// record that is not saved yet is newer than what the Store holds, so it comes first.
// Recover has already seen the checkpoint, so MayHold is not asked.
func (a *activity) find(recovering bool) (cp Checkpoint, err error) {
	r, rt := a.rec, a.rt
	if p := r.start.replaces; p != nil {
		if !p.gone {
			cp = p.finalCheckpoint(rt)
		}
		return cp, nil
	}
	if !recovering && !rt.mayHold(r.id) {
		return cp, nil
	}
	return rt.load(a.base, r.id, a.closeBy(), func(cancel context.CancelCauseFunc) {
		r.start.cancelLoad = cancel
		if a.cancelCause != nil {
			cancel(a.cancelCause)
		}
	})
}

// loaded starts the activity from cp, or refuses it because of a cancellation, err or
// mismatch. It returns the reason of the refusal.
func (a *activity) loaded(cp Checkpoint, mismatch error, recovering bool, err error) error {
	a.rt.enter()
	a.checkParentLocked()
	switch {
	case a.cancelCause != nil:
		err = a.canceledStart()
	case err != nil && a.closeBy() <= a.rt.now:
		err = &Error{ID: a.id(), Name: a.name(), RetryState: RetryStateTimeout, Err: a.waitTimeoutLocked(TimeoutScheduleToClose)}
	case err != nil:
		err = refusal(a.opts.ID, err)
	case recovering && !cp.State.unfinished():
		err = errNotRecovered
	case mismatch != nil:
		err = refusal(a.opts.ID, mismatch)
	}
	if err == nil {
		a.resumeLocked(cp, recovering)
		if r := a.rec; !a.startDecidedLocked() && a.phase != phaseSavingStart {
			r.saveLocked(a.rt, a.waitSavedLocked)
		}
	} else {
		a.refuseLocked(err)
	}
	a.rt.leave()
	if err != nil {
		// releaseLocked releases the context only in startInBackground mode. In the other
		// mode the caller does, but not if the Store has called runtime.Goexit.
		<-a.done()
		a.releaseContext()
	}
	return err
}

// compare returns an error that wraps ErrCheckpointMismatch if cp belongs to another
// activity, by its Name or its input (rule 31). If both inputs are equal, it keeps the
// stored form: an older version of the program, which may have to resume the activity,
// can decode that. It calls the Codec, so no lock may be held.
func (a *activity) compare(cp Checkpoint) error {
	r := a.rec
	if a.opts.Name == "" {
		r.name = cp.Name
	} else if name := a.opts.Name; name != cp.Name {
		return fmt.Errorf("%w: the stored name is %q (%s, attempt %d), the new one %q; use another ID, or call Forget to delete the checkpoint", ErrCheckpointMismatch, cp.Name, cp.State, cp.Attempt, name)
	}
	if !a.body.takesInput() {
		r.input = bytes.Clone(cp.Input)
		return nil
	}
	// Equal bytes are compared first, because decoding and encoding them again need not
	// give the same bytes. Otherwise that is tried: an input of an older version of the
	// program may lack a new field, which is no difference.
	if bytes.Equal(cp.Input, r.input) {
		return nil
	}
	again, err := a.body.reencode(a.rt.cfg.Codec, bytes.Clone(cp.Input))
	if err == nil && bytes.Equal(again, r.input) {
		r.input = bytes.Clone(cp.Input)
		return nil
	}
	r.start.newInput = true
	if len(cp.Input) == 0 || a.opts.AcceptNewInput { // activities of Run have no input
		return nil
	}
	how := "use the stored input, set Options.AcceptNewInput to continue with the new one, or call Forget to delete the checkpoint"
	if err != nil {
		return fmt.Errorf("%w: the stored input %s (%s, attempt %d) %w; %s", ErrCheckpointMismatch, excerpt(cp.Input), cp.State, cp.Attempt, err, how)
	}
	return fmt.Errorf("%w: the stored input is %s (%s, attempt %d), the new one %s; %s", ErrCheckpointMismatch, excerpt(again), cp.State, cp.Attempt, excerpt(r.input), how)
}

// excerpt returns the beginning of an encoded input, for an error's text.
func excerpt(input []byte) string {
	const most = 100
	switch {
	case !utf8.Valid(input):
		return fmt.Sprintf("of %d bytes", len(input))
	case len(input) > most:
		return fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(string(input[:most]), ""), len(input))
	}
	return string(input)
}

// resumeLocked starts an activity from the checkpoint of its ID. A checkpoint of an
// execution that was not finished continues it: the count of attempts, the schedule time
// and the rest of a backoff are its own. Of any other checkpoint only the details are used.
//
// Times of day are converted to instants here. Only differences of stored times are used,
// and a difference from now only if it is not negative, because either clock may have been
// wrong.
func (a *activity) resumeLocked(cp Checkpoint, recovering bool) {
	r, p, rt := a.rec, &a.opts.RetryPolicy, a.rt
	r.start.found, r.sequence = cp, max(r.sequence, cp.Sequence)
	// If the Store holds an unfinished checkpoint with the same input and Header, a waiting
	// activity need not be saved again before Start returns.
	sameHeader := !cp.State.unfinished() || a.resumeHeaderLocked(cp.Header, recovering)
	r.start.held = cp.State.unfinished() && !r.start.newInput && sameHeader && (r.start.replaces == nil || !r.start.replaces.unsaved)
	if len(cp.Details) > 0 {
		a.mu.Lock()
		a.details = recorded{data: bytes.Clone(cp.Details)}
		a.mu.Unlock()
		r.start.found.Details, r.start.details = nil, true
	}
	if !cp.State.unfinished() {
		a.proceedLocked()
		return
	}
	now, today := rt.now, rt.wall(rt.now)
	if age := today.Sub(cp.ScheduledAt); age >= 0 {
		a.scheduled = rt.moment(now)
		a.scheduled.at -= instant(age)
	} else {
		// Scheduled in the future: a clock was or is wrong. It counts as now, but the
		// stored time is kept, since it may be this clock that is wrong.
		r.scheduledAt = cp.ScheduledAt
	}
	a.attempts, a.countedFrom, a.progressed = cp.Attempt, cp.CountedFrom, cp.Progressed
	if cp.LastFailure != "" {
		a.failure = errors.New(cp.LastFailure)
	}
	var delay time.Duration // counted from UpdatedAt
	switch {
	case cp.State == CheckpointPaused:
	case cp.State != CheckpointRunning:
		if !cp.NextAttempt.IsZero() {
			delay = cp.NextAttempt.Sub(cp.UpdatedAt)
		}
	case cp.Progressed < cp.Attempt:
		// The process ended during an attempt without progress. The attempt may have
		// killed it, and must not do so again at once at every boot.
		delay = p.interval(cp.Attempt-max(cp.Progressed, cp.CountedFrom), rt.random(p))
	case p.ResetOnProgress:
		a.countedFrom = cp.Attempt - 1
	}
	crashed := cp.State == CheckpointRunning
	r.start.crashed = crashed
	if crashed {
		a.failure = fmt.Errorf("the process ended during attempt %d", cp.Attempt)
	}
	next := max(now, (now - instant(max(today.Sub(cp.UpdatedAt), 0))).add(delay))
	var retry RetryState
	err := a.failure
	if err == nil {
		err = fmt.Errorf("%d attempts were made before", cp.Attempt)
	}
	switch {
	case p.MaximumAttempts > 0 && cp.Attempt-a.countedFrom >= p.MaximumAttempts:
		retry = RetryStateMaximumAttemptsReached
	case a.closeBy() <= now:
		retry = RetryStateTimeout
		err = a.waitTimeoutLocked(TimeoutScheduleToClose)
	case a.closeBy() != never && a.closeBy() <= next:
		retry = RetryStateTimeout
	}
	if retry != 0 || crashed && !recovering { // Recover logs one line for all the others
		a.logRestart(err, retry, time.Duration(next-now))
	}
	switch {
	case retry != 0:
		a.finishLocked(StateFailed, retry, err)
	case cp.State == CheckpointPaused:
		a.paused = true
		a.enterPausedLocked(nil, nil)
	case next > now:
		a.due = next
		a.setPhaseLocked(phaseBackingOff, next)
	default:
		a.proceedLocked()
	}
}

// resumeHeaderLocked decides which Header counts for an execution that continues. It reports
// whether that is the stored one.
func (a *activity) resumeHeaderLocked(stored map[string]string, recovering bool) bool {
	if recovering || a.opts.Header == nil {
		a.opts.Header = cloneHeader(stored)
	}
	return maps.Equal(a.opts.Header, stored)
}

// cloneHeader returns a copy of h, or nil if h is empty.
func cloneHeader(h map[string]string) map[string]string {
	if len(h) == 0 {
		return nil
	}
	return maps.Clone(h)
}

// valid reports whether the fields are consistent, as every checkpoint that this package
// has written is. It guards against a Store that is damaged.
func (c *Checkpoint) valid() bool {
	return c.State >= CheckpointRunning && c.State <= CheckpointPaused &&
		c.Attempt >= 0 && c.Attempt < math.MaxInt && (c.Attempt > 0 || c.State != CheckpointRunning) &&
		c.CountedFrom >= 0 && c.CountedFrom <= c.Attempt && c.Progressed >= 0 && c.Progressed <= c.Attempt
}

// unfinished reports whether the next execution continues this one, with its count of
// attempts and its schedule time.
func (s CheckpointState) unfinished() bool {
	return s == CheckpointRunning || s == CheckpointInterrupted || s == CheckpointWaiting || s == CheckpointPaused
}

// startSavedLocked is called with the result of saving the start of an attempt. After a
// success the attempt starts. After an error it starts only if an earlier attempt has run
// in this process, because a Store that fails during a run does not stop the activity. If
// none has, an accepted activity waits for the next try, and any other is refused.
func (a *activity) startSavedLocked(err error) {
	if a.checkParentLocked() {
		return
	}
	switch r := a.rec; {
	case err == nil || a.latest != nil:
		r.start.dropFoundLocked()
		a.startAttemptLocked()
	case r.start.accepted:
		// Not in phaseSavingStart, so that it does not occupy a slot during the pause.
		again := max(a.rt.writer.saves.retryAt, a.rt.now.add(a.rt.cfg.SaveInterval))
		a.setPhaseLocked(phaseStartFailed, min(again, a.closeBy()))
	default:
		r.start.failed = true
		a.refuseLocked(refusal(r.id, err))
	}
}

// waitSavedLocked is called with the result of saving an activity that waits for its first
// attempt. After a success the start is accepted, and otherwise refused. But if that
// attempt is about to begin by now, its start is being saved, and decides.
func (a *activity) waitSavedLocked(err error) {
	r := a.rec
	if r.start.accepted || r.a == nil {
		return // accepted, ended or refused meanwhile
	}
	switch {
	case err == nil:
		r.start.held = true
		r.start.dropFoundLocked()
		a.acceptLocked()
		if a.phase == phasePaused {
			a.emitLocked(EventPaused, a.attempts, nil, 0, nil)
		}
	case a.phase != phaseSavingStart && !a.checkParentLocked():
		r.start.failed = true
		a.refuseLocked(refusal(r.id, err))
	}
}

// errRestoring refuses a start while a checkpoint of the ID is being restored.
var errRestoring = fmt.Errorf("%w: the Store failed to save an earlier start but may hold it; the previous checkpoint is still being restored", ErrAlreadyRunning)

// errUnresolved refuses a start until it is known what the Store holds of the ID.
var errUnresolved = fmt.Errorf("%w: a Commit of the last execution failed but may have happened; the Store is still being read", ErrAlreadyRunning)

// occupiedLocked returns an error if r, the record of an execution that has ended, keeps its
// ID in use. r may be nil. Runtime.mu is held.
func (r *record) occupiedLocked() error {
	switch {
	case r.restoring():
		return errRestoring
	case r != nil && r.a == nil && r.unresolved != 0:
		return errUnresolved
	}
	return nil
}

// restoring reports whether r is the record of a start that was refused because the Store
// failed to save it. Since the Store may hold the start anyway, the previous checkpoint is
// being written again. r may be nil. Runtime.mu is held.
func (r *record) restoring() bool { return r != nil && r.a == nil && r.start.failed }

// withdrawLocked restores the checkpoint that the ID had before this execution. If the
// Store may hold something of the execution, the old checkpoint is written again, or the
// new one is deleted if there was none. Until that works, the record occupies the ID.
func (r *record) withdrawLocked(rt *Runtime) {
	// The activity has the details of found. No attempt has run that could have changed
	// them.
	if r.start.details {
		r.a.mu.Lock()
		r.start.found.Details = r.a.details.share()
		r.a.mu.Unlock()
	}
	r.a, r.waiters = nil, nil
	switch s := &r.start; {
	case s.written:
		r.gone, r.last = s.found.State == 0, s.found
		r.saveLocked(rt, nil)
	case s.replaces != nil && s.replaces.unsaved:
		// The Store holds neither this execution nor the end of the one before. The
		// record of that end takes over again.
		rt.writer.records[r.id] = s.replaces
		s.replaces.saveLocked(rt, nil)
	default:
		delete(rt.writer.records, r.id)
		rt.writer.recoveredLocked(false)
	}
}
