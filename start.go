package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// startMode says how an activity is started.
type startMode int

const (
	startAttended     startMode = iota // the caller's goroutine waits, and watches the caller's context
	startInBackground                  // nobody waits
)

// run starts an activity and waits for its end.
func (rt *Runtime) run(ctx context.Context, opts *Options, body body) (*activity, error) {
	a, err := rt.start(ctx, opts, body, startAttended, nil)
	if err != nil {
		return nil, err
	}
	if a.releaseBase != nil {
		defer a.releaseBase()
	}
	if err := a.awaitStart(); err != nil {
		return nil, err
	}
	a.awaitEnd()
	return a, a.err
}

// start makes an activity of body and starts it. Whether a stored activity has
// started, awaitStart says. If recovered is not nil, the activity is started only if it is
// unfinished.
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
	a := &activity{rt: rt, opts: *opts, body: body, parent: ctx}
	a.opts.setDefaults()
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

// releaseContext lets go of the context of a caller whose activity was refused.
func (a *activity) releaseContext() {
	if a.stopWatch != nil {
		a.stopWatch()
	}
	if a.releaseBase != nil {
		a.releaseBase()
	}
}

// awaitEnd waits until the callers may go on. Unless a hook does it, the goroutine
// that waits watches the caller's context: the Context of the attempt that runs ends
// with it, which costs no further context, and no select of a channel that others use.
func (a *activity) awaitEnd() {
	for {
		a.rt.mu.Lock()
		released, running, t := a.released, a.phase == phaseRunning, a.latest
		a.rt.mu.Unlock()
		switch {
		case released:
			return
		case !running:
			a.await(a.done())
			return
		}
		<-t.Done()
		if a.base.Err() != nil {
			a.checkParent()
		}
	}
}

// await waits until c is closed, and watches the caller's context meanwhile if no
// hook does.
func (a *activity) await(c <-chan struct{}) {
	if a.stopWatch == nil && a.base.Done() != nil {
		// Of base itself, a synctest bubble would not know that this goroutine is
		// blocked if the caller's context comes from outside it.
		watch, cancel := context.WithCancel(a.base)
		defer cancel()
		select {
		case <-c:
			return
		case <-watch.Done():
			a.checkParent()
		}
	}
	<-c
}

// checkParent is called when the caller's context has ended.
func (a *activity) checkParent() {
	a.rt.enter()
	a.checkParentLocked()
	a.rt.leave()
}

// notStarted is the error of an activity whose context ended before its start.
func (a *activity) notStarted(cause error) error {
	return &Error{ID: a.opts.ID, Name: a.name(), RetryState: RetryStateCancelRequested, Err: cause}
}

// canceledStart is the error of a start that was canceled before it was accepted.
// Runtime.mu is held.
func (a *activity) canceledStart() error {
	if a.cancelCause == ErrShutdown {
		return refusal(a.opts.ID, ErrShutdown)
	}
	return a.notStarted(a.cancelCause)
}

func refusal(id string, err error) error {
	if id == "" {
		return fmt.Errorf("activity: not started: %w", err)
	}
	return fmt.Errorf("activity %q: not started: %w", id, err)
}

// schedule registers the activity, or refuses it. It then starts the first
// attempt or lets it wait. A stored activity is only registered: load comes next.
func (rt *Runtime) schedule(a *activity) error {
	rt.enter()
	defer rt.leave()
	a.checkParentLocked()
	id := a.opts.ID
	switch {
	case a.cancelCause != nil:
		return a.notStarted(a.cancelCause)
	case rt.shutdown.begun:
		return refusal(id, ErrShutdown)
	case id != "" && rt.runningLocked(id) != nil: // Forget may have been given ""
		return refusal(id, ErrAlreadyRunning)
	case a.rec != nil && rt.writer.records[id].restoring():
		return refusal(id, errRestoring)
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

// The rest is the start of a stored activity. Its checkpoint is loaded. Then it
// waits (for a slot, or backing off), or the start of its first attempt is
// saved. Then Start returns.

// A storedStart is what a record needs until the first attempt has started.
// Guarded by Runtime.mu, but for replaces, which Start reads before another
// goroutine can, and refusal, which is read once decided is closed.
type storedStart struct {
	calledAt   instant                 // when Start was called
	cancelLoad context.CancelCauseFunc // ends the Store's Load
	decided    chan struct{}           // closed when Start may return
	held       bool                    // the Store holds this execution, so that Start may return while it waits
	accepted   bool                    // Start returns nil: decided is closed, or leave is about to
	before     *activity               // the execution before of the ID, whose last event was still being delivered
	refusal    error                   // what Start returns; set once, before decided is closed

	// If no attempt of this execution starts, found stands for the ID again.
	found    Checkpoint // its State is 0 if there is none; without the details
	details  bool       // it has details, which are the activity's
	replaces *record    // where found comes from; nil if from the Store
	crashed  bool       // the process ended during an attempt
	written  bool       // the Store may hold something of this execution
	failed   bool       // the Store has not taken the start
	newInput bool       // found has another input
}

func (r *record) claimLocked(rt *Runtime) {
	r.start.calledAt = rt.now
	if r.start.replaces = rt.writer.records[r.id]; r.start.replaces != nil {
		r.sequence = r.start.replaces.sequence
	}
	rt.writer.records[r.id] = r
}

// awaitStart waits until it is decided whether the activity has started.
func (a *activity) awaitStart() error {
	if a.rec == nil {
		return nil
	}
	s := &a.rec.start
	a.await(s.decided)
	if s.refusal != nil {
		<-a.done() // until the caller's context is let go
	}
	return s.refusal
}

// acceptLocked lets Start return without an error.
func (a *activity) acceptLocked() {
	if s := &a.rec.start; !s.accepted {
		s.accepted, s.before = true, nil
		a.rt.counts.scheduled++
		a.emitAtLocked(s.calledAt, EventScheduled, 0, nil, 0, nil)
		a.rt.scheduler.closing = append(a.rt.scheduler.closing, s.decided)
	}
}

// refuseLocked takes back an activity that was never accepted.
func (a *activity) refuseLocked(err error) {
	rt := a.rt
	a.rec.start.refusal = err
	a.rec.withdrawLocked(rt)
	a.setPhaseLocked(phaseNew, never)
	rt.unlinkLocked(a)
	rt.freeIDLocked(a)
	if before := a.rec.start.before; before != nil && !before.released {
		rt.ids[a.opts.ID] = before // whose events come before those of the next
	}
	rt.scheduler.closing = append(rt.scheduler.closing, a.rec.start.decided)
	a.releaseLocked()
}

var errNotRecovered = errors.New("nothing to recover")

// load asks the Store what it holds of the activity's ID, and resumes from there. When
// recovering it refuses an activity that is not unfinished.
func (a *activity) load(recovering bool) (err error) {
	var cp Checkpoint
	var mismatch error
	err = errStoreGoexit
	defer func() { // deferred for a Store or a Codec that calls runtime.Goexit
		err = a.loaded(cp, mismatch, recovering, err)
	}()
	cp, err = a.find()
	if err == nil && cp.State != 0 {
		mismatch = a.compare(cp)
	}
	return err
}

// find returns the checkpoint of the activity's ID. Its State is 0 if there is none.
func (a *activity) find() (cp Checkpoint, err error) {
	r, rt := a.rec, a.rt
	if p := r.start.replaces; p != nil {
		if !p.gone {
			cp = p.finalCheckpoint(rt)
		}
		return cp, nil
	}
	return rt.load(a.base, r.id, a.closeBy(), func(cancel context.CancelCauseFunc) {
		r.start.cancelLoad = cancel
		if a.cancelCause != nil {
			cancel(a.cancelCause)
		}
	})
}

// loaded starts the activity from cp, or refuses it.
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
		<-a.done()         // until the caller's context is let go
		a.releaseContext() // if it is attended, also after a Goexit
	}
	return err
}

// compare returns an error if the activity is not the one that cp is of. If both have
// the same input, it keeps the stored form, which other versions of the program know. It
// calls the Codec, so no lock may be held.
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
	if bytes.Equal(cp.Input, r.input) { // which decoding may not give back to the last bit
		return nil
	}
	again, err := a.body.reencode(a.rt.cfg.Codec, bytes.Clone(cp.Input))
	if err == nil && bytes.Equal(again, r.input) {
		r.input = bytes.Clone(cp.Input)
		return nil
	}
	r.start.newInput = true
	if len(cp.Input) == 0 || a.opts.AcceptNewInput { // an activity of Run has none
		return nil
	}
	how := "use the stored input, set Options.AcceptNewInput to continue with the new one, or call Forget to delete the checkpoint"
	if err != nil {
		return fmt.Errorf("%w: the stored input %s (%s, attempt %d) %w; %s", ErrCheckpointMismatch, excerpt(cp.Input), cp.State, cp.Attempt, err, how)
	}
	return fmt.Errorf("%w: the stored input is %s (%s, attempt %d), the new one %s; %s", ErrCheckpointMismatch, excerpt(again), cp.State, cp.Attempt, excerpt(r.input), how)
}

// excerpt is the beginning of an input, for people.
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

// resumeLocked starts an activity from the checkpoint of its ID.
func (a *activity) resumeLocked(cp Checkpoint, recovering bool) {
	r, p, rt := a.rec, &a.opts.RetryPolicy, a.rt
	r.start.found, r.sequence = cp, max(r.sequence, cp.Sequence)
	r.start.held = cp.State.unfinished() && !r.start.newInput && (r.start.replaces == nil || !r.start.replaces.unsaved)
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
	} else { // one of the two clocks was wrong: it counts as scheduled now
		r.scheduledAt = cp.ScheduledAt
	}
	a.attempts, a.countedFrom, a.progressed = cp.Attempt, cp.CountedFrom, cp.Progressed
	if cp.LastFailure != "" {
		a.failure = errors.New(cp.LastFailure)
	}
	var delay time.Duration // counted from UpdatedAt
	switch {
	case cp.State != CheckpointRunning:
		if !cp.NextAttempt.IsZero() {
			delay = cp.NextAttempt.Sub(cp.UpdatedAt)
		}
	case cp.Progressed < cp.Attempt: // what kills its process must not do so at every boot
		delay = p.interval(cp.Attempt-cp.Progressed, rt.random(p))
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
	if retry != 0 || crashed && !recovering { // Recover logs how many
		a.logRestart(err, retry, time.Duration(next-now))
	}
	switch {
	case retry != 0:
		a.finishLocked(StateFailed, retry, err)
	case next > now:
		a.due = next
		a.setPhaseLocked(phaseBackingOff, next)
	default:
		a.proceedLocked()
	}
}

func (c *Checkpoint) valid() bool {
	return c.State >= CheckpointRunning && c.State <= CheckpointWaiting &&
		c.Attempt >= 0 && c.Attempt < math.MaxInt && (c.Attempt > 0 || c.State != CheckpointRunning) &&
		c.CountedFrom >= 0 && c.CountedFrom <= c.Attempt && c.Progressed >= 0 && c.Progressed <= c.Attempt
}

// unfinished reports whether the next execution continues this one's attempts
// and schedule time.
func (s CheckpointState) unfinished() bool {
	return s == CheckpointRunning || s == CheckpointInterrupted || s == CheckpointWaiting
}

// startSavedLocked starts the attempt whose start was given to the Store, with
// err. Only the first start of an execution must have been saved. If the activity is
// accepted already, the writer tries again, and else the start is refused.
func (a *activity) startSavedLocked(err error) {
	if a.phase != phaseSavingStart || a.checkParentLocked() {
		return // it has finished meanwhile
	}
	switch r := a.rec; {
	case err == nil || a.latest != nil:
		r.start.found, r.start.replaces = Checkpoint{}, nil
		a.startAttemptLocked()
	case r.start.accepted: // it gives its slot up until the Store is tried again
		again := max(a.rt.writer.saves.retryAt, a.rt.now.add(a.rt.cfg.SaveInterval))
		a.setPhaseLocked(phaseStartFailed, min(again, a.closeBy()))
	default:
		r.start.failed = true
		a.refuseLocked(refusal(r.id, err))
	}
}

// waitSavedLocked accepts an activity that was given to the Store, with err, before its
// first attempt, because that has to wait. If the attempt begins meanwhile, its start is
// saved next.
func (a *activity) waitSavedLocked(err error) {
	r := a.rec
	if r.start.accepted || r.a == nil {
		return // it has finished meanwhile
	}
	switch {
	case err == nil:
		r.start.held, r.start.found, r.start.replaces = true, Checkpoint{}, nil
		a.acceptLocked()
	case a.phase != phaseSavingStart && !a.checkParentLocked():
		r.start.failed = true
		a.refuseLocked(refusal(r.id, err))
	}
}

var errRestoring = fmt.Errorf("%w: the Store failed to save an earlier start but may hold it; the previous checkpoint is still being restored", ErrAlreadyRunning)

// restoring reports whether r is what stood before a start that the Store has failed to
// take. Runtime.mu is held.
func (r *record) restoring() bool { return r != nil && r.a == nil && r.start.failed }

// withdrawLocked restores what stood for the ID before this execution.
func (r *record) withdrawLocked(rt *Runtime) {
	if r.start.details { // no attempt has changed them
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
		rt.writer.records[r.id] = s.replaces
		s.replaces.saveLocked(rt, nil)
	default:
		delete(rt.writer.records, r.id)
		rt.writer.recoveredLocked(false)
	}
}
