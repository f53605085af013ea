package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// Commit records details and the effects of the activity in one transaction. If these effects
// are all that a step does, the step is done exactly once. Commit is for a Store that shares a
// database with the effects. Package sqlstore has a Commit for database/sql, which most programs
// use instead.
//
// Commit calls commit once, with the [Checkpoint] that the Store is to hold. commit must write
// the checkpoint and the effects in one transaction, and commit that. Without details, the
// checkpoint has those recorded last. commit runs inside [Guard]: no later attempt starts
// meanwhile, nor a new execution of the ID. It must not change or keep the checkpoint, and must
// not call Commit or, with Options.SyncHeartbeats, Heartbeat. A Commit counts as a heartbeat.
//
// Commit returns nil when commit has returned nil. The details are then recorded and durable,
// even if the attempt has timed out meanwhile: the next one resumes from them. A cancellation
// that came meanwhile is written after them.
//
// If commit returns an error, Commit returns an error that wraps it. The transaction may have
// happened nevertheless, so the attempt can record nothing more: each later Commit, and each
// later Heartbeat with details, returns that error. The next attempt starts after the Runtime has
// loaded the checkpoint. If the Store holds that of the Commit, the attempt resumes from it, and
// otherwise from the details recorded before.
//
// Before it calls commit, Commit returns the cause if ctx has ended. During a [Runtime.Drain],
// one Commit of an attempt is still made, so that the step in progress can finish, and the next
// one returns [ErrShutdown]. Commits of one activity, and Saves of its checkpoint, take turns. If
// none of them makes room for Config.StoreTimeout, Commit returns an error, and may be called
// again. If there is no Config.Store or no Options.ID, or if the details are rejected (see
// [Context]), the error is [NonRetryable]. In all these cases nothing was committed.
func Commit(ctx Context, commit func(Checkpoint) error, details ...any) error {
	t := attemptOf(ctx)
	refuse := func(err error) error {
		info := ctx.Info()
		return NonRetryable(fmt.Errorf("%s: attempt %d: activity.Commit: nothing was committed: %w", label(info.ID, info.Name), info.Attempt, err))
	}
	switch {
	case t == nil:
		return refuse(errors.New("this engine has no Store"))
	case t.a.rec == nil:
		return refuse(errors.New("Commit requires Config.Store and Options.ID"))
	case commit == nil:
		return refuse(errors.New("the function is nil"))
	}
	c := &commitment{t: t, ctx: ctx, commit: commit, details: details}
	if heartbeatdetails.Given(details) {
		e, err := t.a.rt.encode(details)
		if err != nil {
			t.logCodecPanic(err)
			return refuse(err)
		}
		var own recorded
		own.set(e)
		c.encoded = own.share()
	}
	if err := t.refusesCommit(ctx); err != nil {
		return err
	}
	return engineOf(ctx).Guard(c.run)
}

// refusesCommit returns what Commit returns instead of committing: the cause if ctx has ended, or
// ErrShutdown if the Runtime drains and the attempt has committed since.
func (t *attempt) refusesCommit(ctx Context) error {
	if err := ended(ctx); err != nil {
		return t.noteCause(err)
	}
	err := t.drained(ctx)
	if err == ErrShutdown {
		t.a.mu.Lock()
		committed := t.drainCommitted
		t.a.mu.Unlock()
		if !committed {
			return nil
		}
	}
	return t.noteCause(err)
}

// A commitment is a call of Commit.
type commitment struct {
	t       *attempt
	ctx     Context
	commit  func(Checkpoint) error
	details []any
	encoded []byte // details; nil if there are none, and those recorded last count
	count   uint64 // recorded.count when the checkpoint was made: details that were recorded since are newer

	// Guarded by Runtime.mu.
	waiting waiting // everyone who waits for what the checkpoint has
	late    bool    // whether the call of commit has taken Config.StoreTimeout
	sleeper         // alarm for that
}

// errCommitPanicked is the error of a Commit whose function has panicked or called
// runtime.Goexit.
var errCommitPanicked = errors.New("the function given to Commit did not return")

// run is the part of Commit that runs inside Guard.
func (c *commitment) run() error {
	x, err := c.begin()
	if err != nil {
		return err
	}
	// Deferred, with this error, in case commit panics or calls runtime.Goexit.
	result, returned := errCommitPanicked, false
	defer func() {
		if !returned {
			c.end(&x, result)
		}
	}()
	c.fill(&x)
	result = c.commit(x.cp)
	returned = true
	return c.end(&x, result)
}

// begin waits until the Commit may begin, and returns the state to commit. From then on the writer
// leaves the record alone. The wait is no stall of the function.
func (c *commitment) begin() (write, error) {
	t, a, rt := c.t, c.t.a, c.t.a.rt
	rt.enter()
	a.mu.Lock()
	if !t.over.Load() {
		t.beat(rt.now)
	}
	t.storeWaits++
	a.mu.Unlock()
	for {
		mayBegin, err := c.nextLocked()
		if err == nil && mayBegin == nil {
			t.syncedLocked()
			x := c.takeLocked()
			rt.leave()
			return x, nil
		}
		if err == nil {
			late := rt.newWaitTimerLocked(rt.cfg.StoreTimeout) // anew with each change: others may commit
			rt.leave()
			select {
			case <-mayBegin:
			case <-t.Done():
			case <-c.ctx.Done():
				err = ended(c.ctx) // which is user code
			case <-late.c:
				err = fmt.Errorf("%s: attempt %d: nothing was committed: the Store or another Commit was busy with the ID for %s (Config.StoreTimeout): %w", a, t.number, rt.cfg.StoreTimeout, context.DeadlineExceeded)
			}
			late.stop()
			rt.enter()
		}
		if err != nil {
			t.syncedLocked()
			rt.leave()
			return write{}, t.noteCause(err)
		}
	}
}

// nextLocked returns a channel to wait for before the next look, or an error if the attempt must not
// commit. If it returns neither, the Commit may begin.
func (c *commitment) nextLocked() (mayBegin <-chan struct{}, err error) {
	t, r, w := c.t, c.t.a.rec, &c.t.a.rt.writer
	if w.noticeLossLocked() {
		return nil, ErrStoreLost
	}
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	switch {
	case t.Err() != nil:
		return nil, ended(t.Context)
	case t.commitFailed != nil:
		return nil, t.commitFailed
	case !r.committing && (w.keepsNewest || !r.taken && !w.hangs):
		return nil, nil
	}
	if w.commitsMayBegin == nil {
		w.commitsMayBegin = make(chan struct{})
	}
	return w.commitsMayBegin, nil
}

// heldLocked reports whether the writer must leave the record alone: a Commit is in flight, or
// it is not known which details the Store holds. A delete needs no details.
func (r *record) heldLocked() bool { return r.committing || r.unresolved != 0 && !r.gone }

// takeLocked begins the Commit. It returns the state of the record, which covers everything that
// was to be saved.
func (c *commitment) takeLocked() write {
	a, rt := c.t.a, c.t.a.rt
	r, w := a.rec, &rt.writer
	r.committing = true
	r.commits++
	x := r.writeLocked()
	c.waiting, x.waiting = x.waiting, waiting{}
	r.sequence++
	x.cp.Sequence = r.sequence
	if r.dirty && !r.failing { // a failing one stays in dirty, which shows that the Store fails
		w.dirty = slices.DeleteFunc(w.dirty, func(other *record) bool { return other == r })
		r.dirty = false
		w.clearUrgentLocked(r)
	}
	if rt.drain.begun.Load() {
		a.mu.Lock()
		c.t.drainCommitted = true
		a.mu.Unlock()
	}
	c.wake = c.lateLocked
	rt.scheduler.setSleeperLocked(&c.sleeper, rt.now.add(rt.cfg.StoreTimeout))
	return x
}

// fill completes the checkpoint, as write.fill does, but with the details of the Commit.
func (c *commitment) fill(x *write) {
	a := c.t.a
	a.mu.Lock()
	x.r.fresh = false
	c.count = a.details.count
	if c.encoded == nil {
		c.encoded = a.details.share()
	}
	x.progress(c.t.progressed || !bytes.Equal(c.encoded, c.t.resumesFrom))
	a.mu.Unlock()
	x.cp.Details = c.encoded
	x.fillFailure(a.rt)
}

// lateLocked reports an error to those who wait for the record, because the Commit has taken
// Config.StoreTimeout, and does so again while it lasts.
func (c *commitment) lateLocked() {
	a, rt := c.t.a, c.t.a.rt
	err := fmt.Errorf("a Commit has not returned after %s (Config.StoreTimeout): %w", rt.cfg.StoreTimeout, context.DeadlineExceeded)
	if !c.late {
		c.late = true
		rt.writer.failures++
		rt.writer.failingLocked()
		a.rec.failing = true
		rt.writer.markDirtyLocked(a.rec)
		number := c.t.number
		a.post(notice{log: func() {
			a.rt.log(slog.LevelError, "activity: a Commit hangs", a, number, slog.Any("error", err))
		}})
	}
	c.waiting.notifyLocked(err)
	a.rec.notifyLocked(err)
	rt.scheduler.setSleeperLocked(&c.sleeper, rt.now.add(rt.cfg.StoreTimeout))
}

// end ends the Commit with the error of its function, and returns what Commit returns.
func (c *commitment) end(x *write, err error) error {
	t, a, rt := c.t, c.t.a, c.t.a.rt
	r, w := a.rec, &rt.writer
	rt.enter()
	defer rt.leave()
	rt.scheduler.alarms.remove(c.place)
	r.committing = false
	w.wakeCommitsLocked()
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: a Commit failed, and the attempt can record nothing more: %w", a, t.number, err)
		a.mu.Lock()
		t.commitFailed = err
		a.mu.Unlock()
		r.waiters = append(c.waiting.waiters, r.waiters...)
		r.syncs = append(c.waiting.syncs, r.syncs...)
		if w.returnLocked(r); !r.gone {
			r.unresolved = x.cp.Sequence
			go r.resolve(a, c.count, rt.cfg.SaveInterval)
		}
		return err
	}
	a.mu.Lock()
	if !t.over.Load() {
		c.beatLocked()
	}
	a.mu.Unlock()
	r.adoptLocked(a, c.encoded, c.count)
	c.waiting.notifyLocked(nil)
	r.failing, r.failedAlone = false, false
	if r.dirty { // it has changed meanwhile, or was failing
		w.returnLocked(r)
	} else {
		r.unsaved = false
	}
	w.recoveredLocked(true)
	return nil
}

// beatLocked counts the heartbeat of a Commit that has succeeded. Runtime.mu and activity.mu are
// held.
func (c *commitment) beatLocked() {
	t, a := c.t, c.t.a
	a.beats++
	t.beat(a.rt.now)
	if len(c.details) > 0 {
		if p, ok := c.details[0].(RangeProgress); ok && a.loop != nil {
			a.loop.note(p)
		}
	}
	if a.rt.subscribers.want(EventHeartbeat) {
		a.postEventLocked(Event{Kind: EventHeartbeat, Time: a.rt.wall(a.rt.now), Attempt: t.number, details: c.encoded, codec: a.rt.cfg.Codec})
	}
}

// adoptLocked makes details, which the Store holds because of a Commit of a's latest attempt,
// the newest ones, unless a heartbeat has recorded others since, when recorded.count was count.
// The attempt may be over, and the activity may have ended.
func (r *record) adoptLocked(a *activity, details []byte, count uint64) {
	t := a.latest
	a.mu.Lock()
	if a.details.count == count {
		a.details = recorded{data: details, shared: true, count: count}
	}
	t.progressed = t.progressed || !bytes.Equal(details, t.resumesFrom)
	newest := a.details.share()
	a.mu.Unlock()
	if t.ended == never {
		return
	}
	a.noteProgressLocked(t)
	if r.a == nil && !r.gone {
		r.last.Details = newest
		r.last.Progressed, r.last.CountedFrom = min(a.progressed, r.last.Attempt), min(a.countedFrom, r.last.Attempt)
	}
}

// resolve finds out whether the Store holds a Commit of a that has failed. count is as in
// adoptLocked. Until it is known, nothing of the ID is written, because the next write could undo
// the details of the Commit. If the Store cannot be read, resolve is called again after pause.
func (r *record) resolve(a *activity, count uint64, pause time.Duration) {
	rt := a.rt
	w := &rt.writer
	cp, err := rt.load(context.Background(), r.id, never, nil)
	rt.enter()
	defer rt.leave()
	// Not if it was forgotten or has completed nevertheless, or if the Store is lost.
	needed := w.records[r.id] == r && !r.gone && !w.noticeLossLocked()
	if err != nil && needed {
		w.failingLocked()
		r.notifyLocked(err)
		if w.isNewsLocked(err.Error()) {
			go rt.log(slog.LevelError, "activity: the Store failed; it is not known whether a Commit has happened, and the next attempt waits", a, 0, slog.Any("error", err), slog.Duration("retry_in", pause))
		}
		again := &sleeper{wake: func() {
			go r.resolve(a, count, max(rt.cfg.SaveInterval, min(2*pause, maxStorePause)))
		}}
		rt.scheduler.setSleeperLocked(again, rt.now.add(pause))
		return
	}
	if needed && cp.Sequence >= r.unresolved {
		r.sequence = max(r.sequence, cp.Sequence)
		r.adoptLocked(a, bytes.Clone(cp.Details), count)
	}
	r.unresolved = 0
	if r.dirty { // if it is no longer the record of its ID, the writer drops it
		w.returnLocked(r)
	}
	w.recoveredLocked(true)
	a.unblockLocked()
}
