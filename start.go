package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// startMode says how an activity is started.
type startMode int

const (
	startAttended     startMode = iota // the caller's goroutine waits, and watches the caller's context
	startInBackground                  // nobody waits
	startRecovering                    // nobody waits, and only what the Store holds as unfinished is started
)

// run starts an activity and waits for its end.
func (rt *Runtime) run(ctx context.Context, opts *Options, body body) (*activity, error) {
	a, err := rt.start(ctx, opts, body, startAttended)
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
// started, awaitStart says.
func (rt *Runtime) start(ctx context.Context, opts *Options, body body, mode startMode) (*activity, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if reflect.ValueOf(body.function()).IsNil() {
		return nil, fmt.Errorf("activity: the function is nil (Options.ID %q, Options.Name %q)", opts.ID, opts.Name)
	}
	if opts.SyncHeartbeats && (rt.cfg.Store == nil || opts.ID == "") {
		return nil, invalid("SyncHeartbeats", true, "must not be set without Config.Store and Options.ID, because then nothing is saved")
	}
	a := &activity{rt: rt, opts: *opts, body: body, parent: ctx}
	a.opts.setDefaults()
	if d := opts.HeartbeatDetails; len(d) > 1 || len(d) == 1 && d[0] != nil {
		e, err := rt.encode(d)
		if err != nil {
			return nil, fmt.Errorf("activity: Options.HeartbeatDetails: %w", err)
		}
		a.details.set(e)
	}
	if rt.cfg.Store != nil && opts.ID != "" {
		a.rec = &record{id: opts.ID, a: a}
		a.rec.start.decided = make(chan struct{})
		if in, ok := body.input(); ok {
			data, err := marshal(rt.cfg.Codec, in)
			if err != nil {
				return nil, refusal(opts.ID, fmt.Errorf("cannot encode its input, a %T: %w", in, err))
			}
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
		a.letGo()
	} else if a.rec != nil {
		err = a.load(mode == startRecovering)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// letGo lets go of the context of a caller whose activity was refused.
func (a *activity) letGo() {
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
	case id != "" && rt.ids[id] != nil: // Forget may have been given ""
		return refusal(id, ErrAlreadyRunning)
	}
	if id != "" {
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
	a.tellLocked(EventScheduled, 0, nil, 0, nil)
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
	accepted   bool                    // Start returns nil: decided is closed, or leave is about to
	refusal    error                   // what Start returns; set once, before decided is closed

	// If no attempt of this execution starts, found stands for the ID again.
	found    Checkpoint // its State is 0 if there is none
	replaces *record    // where found comes from; nil if from the Store
	written  bool       // the Store may hold something of this execution
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
		s.accepted = true
		a.tellAtLocked(s.calledAt, EventScheduled, 0, nil, 0, nil)
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
	rt.scheduler.closing = append(rt.scheduler.closing, a.rec.start.decided)
	a.releaseLocked()
}

var errNotRecovered = errors.New("there is nothing to recover")

// load asks the Store what it holds of the activity's ID, and resumes from
// there. When recovering it refuses an activity that is not unfinished.
func (a *activity) load(recovering bool) (err error) {
	r, rt := a.rec, a.rt
	var cp Checkpoint
	var found bool
	err = errStoreGoexit
	defer func() { // deferred for a Store that calls runtime.Goexit
		err = a.loaded(cp, found, recovering, err)
	}()
	if p := r.start.replaces; p != nil {
		cp, found, err = p.remains(rt), !p.gone, nil
		return err
	}
	ctx, cancel := context.WithCancelCause(a.base)
	defer cancel(nil)
	rt.enter()
	r.start.cancelLoad = cancel
	if a.cancelCause != nil {
		cancel(a.cancelCause)
	}
	rt.leave()
	err = rt.callStore("Load", func() (err error) {
		cp, found, err = rt.cfg.Store.Load(ctx, r.id)
		return err
	})
	return err
}

func (a *activity) loaded(cp Checkpoint, found, recovering bool, err error) error {
	if !found {
		cp = Checkpoint{}
	}
	a.rt.enter()
	a.checkParentLocked()
	switch {
	case a.cancelCause == ErrShutdown:
		err = refusal(a.opts.ID, ErrShutdown)
	case a.cancelCause != nil:
		err = a.notStarted(a.cancelCause)
	case err != nil:
		err = refusal(a.opts.ID, err)
	case found && cp.ID != a.opts.ID:
		err = refusal(a.opts.ID, fmt.Errorf("the Store has given the checkpoint of another ID: %q", cp.ID))
	case found && !cp.sound():
		err = refusal(a.opts.ID, fmt.Errorf("its checkpoint makes no sense: %s, attempt %d, counted from %d, progressed %d", cp.State, cp.Attempt, cp.CountedFrom, cp.Progressed))
	case recovering && !cp.State.unfinished():
		err = errNotRecovered
	}
	if err == nil {
		a.resumeLocked(cp)
	} else {
		a.refuseLocked(err)
	}
	a.rt.leave()
	if err != nil {
		<-a.done() // until the caller's context is let go
		a.letGo()  // if it is attended, also after a Goexit
	}
	return err
}

// resumeLocked starts an activity from the checkpoint of its ID.
func (a *activity) resumeLocked(cp Checkpoint) {
	r, p, rt := a.rec, &a.opts.RetryPolicy, a.rt
	r.start.found, r.sequence = cp, max(r.sequence, cp.Sequence)
	if len(cp.Details) > 0 {
		a.mu.Lock()
		a.details = recorded{data: bytes.Clone(cp.Details)}
		a.mu.Unlock()
	}
	if !cp.State.unfinished() {
		a.proceedLocked()
		return
	}
	now, today := rt.now, rt.wall(rt.now)
	if age := today.Sub(cp.ScheduledAt); age > 0 { // else the clock was set back
		a.scheduled = rt.moment(now)
		a.scheduled.at -= instant(age)
	}
	a.attempts, a.countedFrom, a.progressed = cp.Attempt, cp.CountedFrom, cp.Progressed
	next := now
	if cp.State == CheckpointInterrupted {
		if cp.LastFailure != "" {
			a.failure = errors.New(cp.LastFailure)
		}
	} else {
		a.failure = fmt.Errorf("the process ended during attempt %d", cp.Attempt)
		if cp.Progressed < cp.Attempt { // what kills its process must not do so at every boot
			since := now - instant(max(today.Sub(cp.UpdatedAt), 0))
			next = max(now, since.add(p.interval(cp.Attempt-cp.Progressed, rt.random(p))))
		} else if p.ResetOnProgress {
			a.countedFrom = cp.Attempt - 1
		}
	}
	var retry RetryState
	err := a.failure
	switch {
	case p.MaximumAttempts > 0 && cp.Attempt-a.countedFrom >= p.MaximumAttempts:
		retry = RetryStateMaximumAttemptsReached
		if err == nil {
			err = fmt.Errorf("%d attempts had been made before", cp.Attempt)
		}
	case a.closeBy() <= now:
		retry = RetryStateTimeout
		rt.counts.timeouts++
		a.mu.Lock()
		err = a.timeoutLocked(TimeoutScheduleToClose)
		a.mu.Unlock()
	case a.closeBy() != never && a.closeBy() <= next:
		retry = RetryStateTimeout
	}
	if retry != 0 || cp.State == CheckpointRunning {
		a.logRestart(err, retry, time.Duration(next-now))
	}
	switch {
	case retry != 0:
		a.finishLocked(StateFailed, retry, err)
	case next > now:
		a.setPhaseLocked(phaseBackingOff, next)
	default:
		a.proceedLocked()
	}
}

func (c *Checkpoint) sound() bool {
	return c.State >= CheckpointRunning && c.State <= CheckpointCanceled &&
		c.Attempt >= 0 && c.Attempt < math.MaxInt && (c.Attempt > 0 || c.State != CheckpointRunning) &&
		c.CountedFrom >= 0 && c.CountedFrom <= c.Attempt && c.Progressed >= 0 && c.Progressed <= c.Attempt
}

// unfinished reports whether the next execution continues this one's attempts
// and schedule time.
func (s CheckpointState) unfinished() bool {
	return s == CheckpointRunning || s == CheckpointInterrupted
}

// startSavedLocked starts the attempt whose start was given to the Store, with
// err. Only the first start of an execution must have been saved.
func (a *activity) startSavedLocked(err error) {
	if a.phase != phaseSavingStart || a.checkParentLocked() {
		return // it has finished meanwhile
	}
	s := &a.rec.start
	switch {
	case err == nil || a.latest != nil:
		s.found, s.replaces = Checkpoint{}, nil
		a.startAttemptLocked()
	case s.accepted:
		s.written = false
		a.rec.withdrawLocked(a.rt)
		a.outcome, a.err = StateFailed, refusal(a.rec.id, err)
		a.endLocked()
	default:
		s.written = false
		a.refuseLocked(refusal(a.rec.id, err))
	}
}

// withdrawLocked restores what stood for the ID before this execution.
func (r *record) withdrawLocked(rt *Runtime) {
	r.a = nil
	switch s := &r.start; {
	case s.written:
		r.gone, r.last = s.found.State == 0, s.found
		r.saveLocked(rt, nil)
	case s.replaces != nil && s.replaces.unsaved:
		rt.writer.records[r.id] = s.replaces
		s.replaces.saveLocked(rt, nil)
	default:
		delete(rt.writer.records, r.id)
	}
}
