package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
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

const (
	maxLastFailure = 16 << 10
	maxStorePause  = 5 * time.Second // between two tries of a Store that fails
)

var errStoreGoexit = errors.New("the Store called runtime.Goexit")

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
			a.release()
		}
	}()
	if p := r.replaces; p != nil {
		cp, found, err = p.remains(a.rt), !p.gone, nil
	} else {
		err = a.rt.callStore("Load", func() (err error) {
			cp, found, err = a.rt.cfg.Store.Load(a.first.Context, r.id)
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
	today := a.rt.wall(now)
	if cp.ScheduledAt.Before(today) { // else the clock was set back
		a.scheduledAt = cp.ScheduledAt.Round(0)
		a.scheduled = now - instant(today.Sub(cp.ScheduledAt))
	}
	a.closeBy = a.scheduled.deadline(a.opts.ScheduleToCloseTimeout)
	a.countedFrom = cp.CountedFrom
	r.before, r.attempt, r.progressed = cp.Attempt, cp.Attempt, cp.Progressed
	next := now
	if cp.State == CheckpointRunning {
		a.failure = fmt.Errorf("the process ended during attempt %d", cp.Attempt)
	}
	crash := a.failure
	switch {
	case cp.State == CheckpointInterrupted:
		if cp.LastFailure != "" {
			a.failure = errors.New(cp.LastFailure)
		}
	case cp.Progressed < cp.Attempt: // what kills its process must not do so at every boot
		since := now - instant(max(today.Sub(cp.UpdatedAt), 0))
		next = max(now, since.add(p.interval(cp.Attempt-cp.Progressed, a.rt.random(p))))
	case p.ResetOnProgress:
		a.countedFrom = cp.Attempt - 1
	}
	switch {
	case p.MaximumAttempts > 0 && cp.Attempt-a.countedFrom >= p.MaximumAttempts:
		err := a.failure
		if err == nil {
			err = fmt.Errorf("%d attempts had been made before", cp.Attempt)
		}
		a.logRestart(err, RetryStateMaximumAttemptsReached, 0)
		a.finish(now, StateFailed, RetryStateMaximumAttemptsReached, err)
	case a.closeBy <= now:
		a.mu.Lock()
		err := a.timeout(TimeoutScheduleToClose)
		a.mu.Unlock()
		a.logRestart(err, RetryStateTimeout, 0)
		a.expireWait(now, TimeoutScheduleToClose)
	case a.closeBy <= next && a.closeBy != never:
		a.logRestart(a.failure, RetryStateTimeout, 0)
		a.finish(now, StateFailed, RetryStateTimeout, a.failure)
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
	rt.answered()
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
		ScheduledAt: a.scheduledAt, UpdatedAt: a.rt.wall(now), Input: r.input,
	}
}

// sync waits until the Store holds the details of the heartbeat that calls it,
// which has counted itself in t.syncing. Meanwhile the heartbeat deadline rests.
func (t *attempt) sync() (err error) {
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
	if t.syncing--; t.syncing == 0 && t.over == nil {
		t.beatBy = max(t.beatBy, now.deadline(a.opts.HeartbeatTimeout))
	}
	a.mu.Unlock()
	a.setAlarm()
	rt.unlock()
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: heartbeat details are kept in memory, and not saved yet: %w", a, t.number, err)
	}
	return err
}

// The writer.

// save makes the record dirty, to be saved at once, and has f called then.
func (r *record) save(rt *Runtime, f waiter) {
	if f != nil {
		r.waiters = append(r.waiters, f)
	}
	rt.gather(r)
	if !r.urgent {
		r.urgent = true
		rt.urgent++
	}
}

// saveBy makes the record dirty, to be saved within Config.SyncInterval from
// then on.
func (r *record) saveBy(rt *Runtime, then instant) {
	rt.gather(r)
	if rt.saves.alarm.slot == 0 {
		rt.saves.set(rt, then.add(rt.cfg.SyncInterval))
	}
}

func (rt *Runtime) gather(r *record) {
	r.unsaved = true
	if !r.dirty {
		r.dirty = true
		rt.dirty = append(rt.dirty, r)
	}
}

// A lane is the way of all Saves, or of all Deletes. Guarded by Runtime.mu.
type lane struct {
	alarm    alarm   // when they are due, if nothing is urgent
	due      bool    // the alarm has come
	failures int     // in a row, each after the pause that followed the one before
	retryAt  instant // the end of that pause
}

func (l *lane) set(rt *Runtime, when instant) {
	rt.queue.remove(&l.alarm)
	l.alarm.when = when
	rt.queue.push(&l.alarm)
}

// pause is the time until a Store that has failed is tried again, if nobody waits
// for it.
func (l *lane) pause(rt *Runtime, now instant) time.Duration {
	if now >= l.retryAt {
		l.failures++
	}
	interval := rt.cfg.SyncInterval
	d := max(interval, min(maxStorePause, interval<<min(l.failures-1, 16)))
	l.retryAt = now.add(d)
	return d
}

func (rt *Runtime) lane(gone bool) *lane {
	if gone {
		return &rt.deletes
	}
	return &rt.saves
}

func (rt *Runtime) flushIsDue() bool { return rt.urgent > 0 || rt.saves.due || rt.deletes.due }

// flush is the goroutine that brings what is dirty to the Store.
func (rt *Runtime) flush() {
	whole := false
	defer func() {
		if !whole { // the Store called runtime.Goexit
			go rt.flush()
		}
	}()
	for rt.flushOnce() {
	}
	whole = true
}

// flushOnce saves what is to be saved, and then deletes what is to be deleted. It
// reports whether there may be more to do at once.
func (rt *Runtime) flushOnce() bool {
	rt.turn <- struct{}{}
	defer func() { <-rt.turn }()
	if !rt.flushDue() {
		return false
	}
	for _, gone := range []bool{false, true} {
		if batch := rt.takeDirty(gone); len(batch) > 0 {
			rt.bring(batch, gone)
			runtime.Gosched() // those whom it let go on can share the next
		}
	}
	return true
}

// flushDue reports whether there is something to do now. If not, the flusher ends.
func (rt *Runtime) flushDue() bool {
	rt.lock()
	defer rt.unlock()
	if rt.flushIsDue() {
		return true
	}
	rt.flushing = false
	if len(rt.dirty) == 0 && rt.drained != nil {
		close(rt.drained)
		rt.drained = nil
	}
	return false
}

// A write is what of a record is on its way to the Store.
type write struct {
	r       *record
	cp      Checkpoint // still to be filled; of no use to a Delete
	a       *activity  // whose details cp gets; nil: cp has them
	latest  *attempt
	failure error
	waiters []waiter
}

// takeDirty returns what is dirty: of what is not gone all, and what is gone only
// if something of it is due or urgent, so that a Delete that fails is not tried
// again with every Save.
func (rt *Runtime) takeDirty(gone bool) (batch []write) {
	now := rt.lock()
	defer rt.unlock()
	l := rt.lane(gone)
	if gone && !l.due && !slices.ContainsFunc(rt.dirty, func(r *record) bool { return r.urgent && r.gone }) {
		return nil
	}
	l.due = false
	rt.queue.remove(&l.alarm)
	later := rt.dirty[:0]
	for _, r := range rt.dirty {
		if r.gone != gone {
			later = append(later, r)
			continue
		}
		r.dirty = false
		if r.urgent {
			r.urgent = false
			rt.urgent--
		}
		if rt.records[r.id] == r { // else a newer execution stands for the ID
			batch = append(batch, r.write(now))
		}
	}
	clear(rt.dirty[len(later):])
	rt.dirty = later
	return batch
}

// write is the record as it is now.
func (r *record) write(now instant) write {
	w := write{r: r, cp: r.last, failure: r.failure, waiters: r.waiters}
	if a := r.a; a != nil {
		w.cp = r.checkpoint(CheckpointRunning, now)
		w.a, w.latest, w.failure = a, a.latest, a.failure
	}
	r.sequence++
	w.cp.Sequence = r.sequence
	r.waiters, r.written = nil, true
	return w
}

// fill fills in what is not to be had under Runtime.mu.
func (w *write) fill(rt *Runtime) {
	if a := w.a; a != nil {
		a.mu.Lock()
		w.r.fresh = false
		w.cp.Details = a.latestDetails()
		if t := w.latest; t != nil && t.progressed {
			w.cp.Progressed = t.number
			if a.opts.RetryPolicy.ResetOnProgress {
				w.cp.CountedFrom = t.number - 1
			}
		}
		a.mu.Unlock()
	}
	w.cp.LastFailure = rt.lastFailure(w.a, w.failure, w.cp.LastFailure)
}

// remains is what an activity that has ended has left, for the caller to keep.
func (r *record) remains(rt *Runtime) Checkpoint {
	cp := r.last
	cp.Input, cp.Details = bytes.Clone(cp.Input), bytes.Clone(cp.Details)
	cp.LastFailure = rt.lastFailure(nil, r.failure, cp.LastFailure)
	return cp
}

// lastFailure is the text of err, or, if there is none, the one that is known.
func (rt *Runtime) lastFailure(a *activity, err error, known string) string {
	if err != nil {
		rt.protect(a, "an error's text", func() { known = short(err) })
	}
	if len(known) > maxLastFailure {
		known = strings.ToValidUTF8(known[:maxLastFailure], "")
	}
	return known
}

// bring brings a batch to the Store.
func (rt *Runtime) bring(batch []write, gone bool) {
	err := errStoreGoexit
	defer func() { rt.tried(batch, gone, err) }() // also if the Store calls runtime.Goexit
	if gone {
		ids := make([]string, len(batch))
		for i := range batch {
			ids[i] = batch[i].r.id
		}
		err = rt.callStore("Delete", func() error { return rt.cfg.Store.Delete(rt.ctx, ids) })
		return
	}
	cps := make([]Checkpoint, len(batch))
	for i := range batch {
		batch[i].fill(rt)
		cps[i] = batch[i].cp
	}
	err = rt.callStore("Save", func() error { return rt.cfg.Store.Save(rt.ctx, cps) })
}

// tried tells those who wait how it went, and keeps what the Store did not take.
func (rt *Runtime) tried(batch []write, gone bool, err error) {
	now := rt.lock()
	defer rt.unlock()
	for i := range batch {
		w := &batch[i]
		for _, f := range w.waiters {
			f(now, err)
		}
		r := w.r
		switch current := rt.records[r.id] == r; {
		case err != nil && current:
			rt.gather(r)
		case err == nil && !r.dirty:
			if r.unsaved = false; current && r.a == nil {
				delete(rt.records, r.id)
			}
		}
	}
	l := rt.lane(gone)
	if err == nil {
		l.failures, l.retryAt = 0, now
		return
	}
	pause := l.pause(rt, now)
	if len(rt.dirty) > 0 {
		l.set(rt, l.retryAt)
	}
	// Not in this goroutine: a Logger that hangs must not hold up the next try.
	go rt.log(slog.LevelError, "activity: the Store failed; what it did not take stays in memory and is tried again", nil, 0,
		slog.Any("error", err), slog.Int("checkpoints", len(batch)), slog.Duration("retry_in", pause))
}

// callStore names the method in its error, and makes a panic one.
func (rt *Runtime) callStore(method string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p := newPanicError(v)
			go rt.log(slog.LevelError, "activity: Store."+method+" panicked", nil, 0, slog.Any("error", p), slog.String("stack", string(p.Stack)))
			err = fmt.Errorf("the Store's %s panicked: %w", method, p)
		}
	}()
	if err := f(); err != nil {
		return fmt.Errorf("the Store's %s: %w", method, err)
	}
	return nil
}

// drain waits until the Store holds everything, or ctx ends.
func (rt *Runtime) drain(ctx context.Context) {
	rt.lock()
	if len(rt.dirty) > 0 {
		rt.saves.due, rt.deletes.due = true, true
	}
	if (len(rt.dirty) > 0 || rt.flushing) && rt.drained == nil {
		rt.drained = make(chan struct{})
	}
	drained := rt.drained
	rt.unlock()
	if drained != nil {
		select {
		case <-drained:
		case <-ctx.Done():
		}
	}
}
