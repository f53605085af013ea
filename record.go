package activity

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"
)

// A record is what the Store is to hold of an ID: of an activity whose
// Options.ID was given, in a Runtime with a Store. It stays until the Store
// holds how the activity has ended, and stands for the ID until then.
//
// What changes makes it dirty. One goroutine, which there is only while there is
// something to do, brings all that is dirty to the Store, with Save and Delete in
// turns; while one is on its way, the next batch gathers. So there is one writer,
// and of two writes of an ID the newer comes last.
//
// Guarded by Runtime.mu, but for fresh.
type record struct {
	id       string
	input    []byte    // set once
	a        *activity // nil: it has ended, and gone or last is what remains
	sequence uint64    // of the last write
	dirty    bool      // in Runtime.dirty
	urgent   bool      // and somebody waits for it; counted in Runtime.urgent
	unsaved  bool      // the Store does not hold the newest
	fresh    bool      // there are details that no write has; guarded by activity.mu
	waiters  []waiter  // for the next try to save it

	// Until the first attempt of this execution starts: what stands for the ID
	// again if it never does.
	found    Checkpoint // State 0: nothing
	replaces *record    // where found comes from; nil: from the Store
	written  bool       // the Store may hold something of this execution

	asked      instant       // when Start was called
	heard      chan struct{} // closed when Start may return
	refused    error         // what it then returns; set once
	loading    bool          // Start asks the Store
	accepted   bool          // heard is closed, and refused is nil
	starting   bool          // the next attempt's start is being saved
	onPurpose  bool          // canceled by Handle.Cancel
	before     int           // attempts of the executions that this one goes on from
	attempt    int           // the last attempt that counts, or is about to start
	progressed int           // the last attempt that made progress
	ending     State         // how the activity has ended, while that is being saved; else 0
	endFailed  bool          // the Store has failed at it

	gone    bool
	last    Checkpoint
	failure error // makes last.LastFailure; nil: it has it
}

// A waiter is called, under Runtime.mu, once the Store was tried.
type waiter func(now instant, err error)

// The start.

// recall asks the Store what it holds of the activity's ID, and goes on from
// there. Only what goes on is recovered.
func (a *activity) recall(recovering bool) (err error) {
	r := a.rec
	var cp Checkpoint
	var found bool
	err = errStoreGoexit
	defer func() { // also if the Store calls runtime.Goexit
		if err = a.recalled(cp, found, recovering, err); err != nil {
			a.ended.Wait() // until the caller's context is let go
		}
	}()
	if p := r.replaces; p != nil {
		cp, found, err = p.remains(a.rt), !p.gone, nil
	} else {
		err = a.rt.callStore("Load", func() (err error) {
			cp, found, err = a.rt.cfg.Store.Load(a.first.context(), r.id)
			return err
		})
	}
	return err
}

var errNotRecovered = errors.New("there is nothing to recover")

func (a *activity) recalled(cp Checkpoint, found, recovering bool, err error) error {
	now := a.rt.lock()
	defer a.rt.unlock()
	a.checkCaller(now)
	a.rec.loading = false
	if !found {
		cp = Checkpoint{}
	}
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
	case recovering && !cp.State.goesOn():
		err = errNotRecovered
	}
	if err != nil {
		a.refuse(now)
		return err
	}
	a.goOn(now, cp)
	return nil
}

func (c *Checkpoint) sound() bool {
	return c.State >= CheckpointRunning && c.State <= CheckpointCanceled &&
		c.Attempt >= 0 && c.Attempt < math.MaxInt && (c.Attempt > 0 || c.State != CheckpointRunning) &&
		c.CountedFrom >= 0 && c.CountedFrom <= c.Attempt && c.Progressed >= 0 && c.Progressed <= c.Attempt
}

// goesOn reports whether the next execution goes on with the count and the
// schedule time.
func (s CheckpointState) goesOn() bool { return s == CheckpointRunning || s == CheckpointInterrupted }

// goOn starts an activity from the checkpoint of its ID.
func (a *activity) goOn(now instant, cp Checkpoint) {
	r, p := a.rec, &a.opts.RetryPolicy
	r.found, r.sequence = cp, max(r.sequence, cp.Sequence)
	if len(cp.Details) > 0 {
		a.mu.Lock()
		a.details, a.isInt = bytes.Clone(cp.Details), false
		a.mu.Unlock()
	}
	if !cp.State.goesOn() {
		a.proceed(now)
		return
	}
	a.moved = a.rt.wallMoved(now)
	today := a.rt.wallAt(now, a.moved)
	if cp.ScheduledAt.Before(today) { // else the clock was set back
		a.scheduled = now - instant(today.Sub(cp.ScheduledAt))
	}
	a.countedFrom = cp.CountedFrom
	r.before, r.attempt, r.progressed = cp.Attempt, cp.Attempt, cp.Progressed
	var crash error
	next := now
	if cp.State == CheckpointInterrupted {
		if cp.LastFailure != "" {
			a.failure = errors.New(cp.LastFailure)
		}
	} else {
		crash = fmt.Errorf("the process ended during attempt %d", cp.Attempt)
		a.failure = crash
		if cp.Progressed < cp.Attempt { // what kills its process must not do so at every boot
			since := now - instant(max(today.Sub(cp.UpdatedAt), 0))
			next = max(now, since.add(p.interval(cp.Attempt-cp.Progressed, a.rt.random(p))))
		} else if p.ResetOnProgress {
			a.countedFrom = cp.Attempt - 1
		}
	}
	fail := func(retry RetryState, err error) {
		a.logRestart(err, retry, 0)
		a.finish(now, StateFailed, retry, err)
	}
	switch {
	case p.MaximumAttempts > 0 && cp.Attempt-a.countedFrom >= p.MaximumAttempts:
		err := a.failure
		if err == nil {
			err = fmt.Errorf("%d attempts had been made before", cp.Attempt)
		}
		fail(RetryStateMaximumAttemptsReached, err)
	case a.closeBy() <= now:
		a.mu.Lock()
		err := a.timeout(TimeoutScheduleToClose)
		a.mu.Unlock()
		a.rt.timeouts++
		fail(RetryStateTimeout, err)
	case a.closeBy() <= next && a.closeBy() != never:
		fail(RetryStateTimeout, a.failure)
	case next > now:
		a.logRestart(crash, 0, time.Duration(next-now))
		a.accept()
		a.backOff(next)
	default:
		a.logRestart(crash, 0, 0)
		a.proceed(now)
	}
}

// accept lets Start return.
func (a *activity) accept() {
	if r := a.rec; r != nil && !r.accepted {
		r.accepted = true
		a.tell(r.asked, EventScheduled, 0, nil, 0, nil)
		a.rt.heard = append(a.rt.heard, r.heard)
	}
}

// refuse takes back an activity that was never accepted.
func (a *activity) refuse(now instant) {
	rt := a.rt
	a.rec.withdraw(rt)
	a.setState(0)
	a.setAlarm()
	rt.unlink(a)
	rt.freeID(a)
	a.giveUpSlot(now)
	rt.toAnswer(a)
	rt.heard = append(rt.heard, a.rec.heard)
}

// withdraw lets stand again what stood for the ID before.
func (r *record) withdraw(rt *Runtime) {
	r.a = nil
	switch p := r.replaces; {
	case r.written:
		r.gone, r.last = r.found.State == 0, r.found
		r.save(rt, nil)
	case p != nil && p.unsaved:
		rt.records[r.id] = p
		p.save(rt, nil)
	default:
		delete(rt.records, r.id)
	}
}

// An attempt's start, and the end.

// saveStart starts the next attempt once its start is saved.
func (a *activity) saveStart() {
	r := a.rec
	r.starting, r.attempt = true, a.attempt()+1
	a.until = never
	a.setState(StateWaiting)
	a.setAlarm()
	r.save(a.rt, a.startTried)
}

func (a *activity) startTried(now instant, err error) {
	r := a.rec
	if !r.starting || a.checkCaller(now) {
		return // it has ended meanwhile
	}
	r.starting = false
	switch {
	case err == nil || a.latest != nil:
		r.found, r.replaces = Checkpoint{}, nil
		a.startAttempt(now)
	case r.accepted:
		r.written = false
		r.withdraw(a.rt)
		a.err = refusal(r.id, err)
		a.conclude(now, StateFailed)
	default:
		r.written = false
		r.refused = refusal(r.id, err)
		a.refuse(now)
	}
}

// noteProgress counts an attempt that is over.
func (a *activity) noteProgress(t *attempt) (progressed bool) {
	a.mu.Lock()
	progressed = t.progressed
	a.mu.Unlock()
	if !progressed {
		return false
	}
	if a.opts.RetryPolicy.ResetOnProgress {
		a.countedFrom = t.number - 1
	}
	if a.rec != nil {
		a.rec.progressed = t.number
	}
	return true
}

// uncount gives the number of an attempt that was canceled to the next one.
func (a *activity) uncount(t *attempt) {
	if a.noteProgress(t); a.rec != nil {
		a.rec.attempt = t.number - 1
	}
}

// end is told how the activity has ended, and saves what is to remain of it.
func (r *record) end(now instant, state State, err error, f waiter) {
	a := r.a
	r.waiters = nil // they wait for what is over
	if r.starting {
		r.starting, r.attempt = false, a.attempt()
	}
	left := CheckpointFailed
	switch {
	case state == StateCompleted:
		r.gone = true
	case state == StateCanceled && r.onPurpose:
		left = CheckpointCanceled
	case state == StateCanceled:
		left, err = CheckpointInterrupted, a.failure
		if a.latest == nil && r.found.State.goesOn() {
			r.withdraw(a.rt)
			return
		}
	}
	if !r.gone {
		r.last, r.failure = r.checkpoint(left, now), err
		a.mu.Lock()
		r.last.Details = a.encodedDetails() // which nothing changes any more
		a.mu.Unlock()
	}
	r.a, r.found, r.replaces = nil, Checkpoint{}, nil
	r.save(a.rt, f)
}

// endTried lets the callers hear of the end.
func (a *activity) endTried(now instant, err error) {
	switch r := a.rec; {
	case a.state.ended(): // it was canceled meanwhile
	case err != nil && r.gone && a.cancelCause == nil:
		r.endFailed = true
		r.waiters = append(r.waiters, a.endTried) // until it works
	default:
		a.conclude(now, r.ending)
	}
}

// cancelEnding does not let the callers wait any longer than for one try of the
// delete, and for CancelGrace.
func (a *activity) cancelEnding(now instant) {
	if r := a.rec; !r.gone || r.endFailed {
		a.conclude(now, r.ending)
	} else {
		a.until = now.add(a.opts.CancelGrace)
		a.setAlarm()
	}
}

// checkpoint is that of an activity now, but for the details and LastFailure.
func (r *record) checkpoint(state CheckpointState, now instant) Checkpoint {
	a := r.a
	return Checkpoint{
		ID: r.id, Name: a.name(), State: state,
		Attempt: r.attempt, CountedFrom: a.countedFrom, Progressed: min(r.progressed, r.attempt),
		ScheduledAt: a.scheduledAt(), UpdatedAt: a.rt.wall(now), Input: r.input,
	}
}

// sync waits until the Store holds the details of the heartbeat that calls it,
// which has counted itself in t.syncing. Meanwhile the heartbeat deadline rests.
func (t *attempt) sync() (err, ended error) {
	a, rt := t.a, t.a.rt
	tried := make(chan error, 1)
	rt.lock()
	a.rec.save(rt, func(_ instant, err error) { tried <- err })
	rt.unlock()
	select {
	case err = <-tried:
	case <-t.Done():
	}
	now := rt.lock()
	a.mu.Lock()
	ended = t.ended()
	if t.syncing--; t.syncing == 0 && !t.over.Load() {
		t.beatBy = max(t.beatBy, now.deadline(a.opts.HeartbeatTimeout))
	}
	a.mu.Unlock()
	a.setAlarm()
	rt.unlock()
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: heartbeat details are kept in memory, and not saved yet: %w", a, t.number, err)
	}
	return err, ended
}
