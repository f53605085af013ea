package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// Commit records details and the effects of the activity in one transaction, so that a step is
// done exactly once. It is for a Store that shares a database with these effects. Package
// sqlstore has a Commit for database/sql, which most programs use instead.
//
// Commit calls commit once, with the [Checkpoint] that the Store is to hold, and commit writes
// that and commits the transaction. Without details, the checkpoint has those recorded last.
// commit runs inside [Guard]: no later attempt starts meanwhile, nor a new execution of the ID.
// It must not change or keep the checkpoint, and must not call Commit. A call of Commit is also
// a heartbeat.
//
// Commit returns nil when commit has returned nil. The details are then recorded and durable,
// even if the attempt has timed out meanwhile: the next one resumes from them. A cancellation
// that came meanwhile is written after them.
//
// If commit returns an error, Commit returns an error that wraps it. The transaction may have
// happened all the same. So the attempt is at its end: each later Commit, and each later
// Heartbeat with details, returns that error. The next attempt begins when the Store has said
// what it holds, and resumes from that.
//
// Before it calls commit, Commit returns the cause if ctx has ended. During a [Runtime.Drain],
// one Commit of an attempt is still made, so that the step in progress can finish, and the next
// one returns [ErrShutdown]. If the Store is busy with the ID for Config.StoreTimeout, Commit
// returns an error, and may be called again. If there is no Config.Store or no Options.ID, or if
// the details are rejected (see Context), the error is [NonRetryable]. In all these cases
// nothing was committed.
//
// Commit never overlaps with a Save of the same ID. If the Store has a method KeepsNewest that
// returns true, it must ignore a Save of a checkpoint whose Sequence is lower than the stored
// one. Commit then does not wait for a Save in progress, which may itself wait for the
// transaction.
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
	if err := t.mayCommit(ctx); err != nil {
		return err
	}
	return engineOf(ctx).Guard(c.run)
}

// mayCommit returns what Commit returns instead of committing: the cause if ctx has ended, or
// ErrShutdown if the Runtime drains and the attempt has committed since.
func (t *attempt) mayCommit(ctx Context) error {
	if err := ended(ctx); err != nil {
		return t.noteCause(err)
	}
	err := t.drained(ctx)
	if err == ErrShutdown {
		t.a.mu.Lock()
		first := !t.askedCommit
		t.askedCommit = true
		t.a.mu.Unlock()
		if first {
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
	sleeper        // alarm for the moment when the call of commit is late
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

// begin waits until the record is not being written, and returns the state to commit. From then
// on the writer leaves the record alone.
func (c *commitment) begin() (write, error) {
	t, a, rt := c.t, c.t.a, c.t.a.rt
	r, w := a.rec, &rt.writer
	var late *waitTimer
	rt.enter()
	a.mu.Lock()
	if !t.over.Load() {
		a.beats++
		t.beat(rt.now)
	}
	t.syncing++
	a.mu.Unlock()
	for {
		a.mu.Lock()
		err := ended(t.Context)
		if err == nil {
			err = t.commitFailed
		}
		a.mu.Unlock()
		if err == nil && !w.mayCommitLocked(r) {
			if late == nil {
				late = rt.newWaitTimerLocked(rt.cfg.StoreTimeout)
				defer late.stop()
			}
			if w.changed == nil {
				w.changed = make(chan struct{})
			}
			changed := w.changed
			rt.leave()
			select {
			case <-changed:
			case <-c.ctx.Done():
				err = ended(c.ctx) // which is user code
			case <-late.c:
				err = fmt.Errorf("%s: attempt %d: nothing was committed: %w", a, t.number, rt.errNotTried())
			}
			rt.enter()
			if err == nil {
				continue
			}
		}
		t.syncedLocked()
		if err != nil {
			rt.leave()
			return write{}, t.noteCause(err)
		}
		x := r.beginCommitLocked(rt)
		c.wake = c.lateLocked
		rt.scheduler.setSleeperLocked(&c.sleeper, rt.now.add(rt.cfg.StoreTimeout))
		rt.leave()
		return x, nil
	}
}

// mayCommitLocked reports whether a Commit of r may begin.
func (w *writer) mayCommitLocked(r *record) bool {
	return !r.committing && (w.keepsNewest || !r.writing && !w.hangs)
}

// heldLocked reports whether the writer must leave the record alone: a Commit is in flight, or
// it is not known which details the Store holds. A delete needs no details.
func (r *record) heldLocked() bool { return r.committing || r.unresolved != 0 && !r.gone }

// beginCommitLocked returns the state of the record for a Commit, which covers everything that
// was to be saved. If others wait for that, they wait for the next write.
func (r *record) beginCommitLocked(rt *Runtime) write {
	w := &rt.writer
	r.committing = true
	r.commits++
	x := r.copyLocked()
	r.sequence++
	x.cp.Sequence = r.sequence
	if r.dirty && len(r.waiters)+len(r.syncs) == 0 {
		i := 0
		for w.dirty[i] != r {
			i++
		}
		w.dirty = append(w.dirty[:i], w.dirty[i+1:]...)
		r.dirty = false
		w.clearUrgentLocked(r)
	}
	return x
}

// fill completes the checkpoint, as write.fill does, but with the details of the Commit.
func (c *commitment) fill(x *write) {
	a := c.t.a
	a.mu.Lock()
	x.r.fresh = false
	if c.encoded == nil {
		c.encoded = a.details.share()
	}
	x.progress(c.t.progressed || c.progressesFrom())
	a.mu.Unlock()
	x.cp.Details = c.encoded
	x.fillFailure(a.rt)
}

// progressesFrom reports whether the details of the Commit are progress.
func (c *commitment) progressesFrom() bool { return !bytes.Equal(c.encoded, c.t.resumesFrom) }

// lateLocked reports an error to those who wait for the record, because the Commit has taken
// Config.StoreTimeout.
func (c *commitment) lateLocked() {
	a := c.t.a
	err := fmt.Errorf("a Commit has not returned after %s (Config.StoreTimeout): %w", a.rt.cfg.StoreTimeout, context.DeadlineExceeded)
	number := c.t.number
	a.post(notice{log: func() {
		a.rt.log(slog.LevelError, "activity: a Commit hangs", a, number, slog.Any("error", err))
	}})
	a.rec.notifyLocked(err)
}

// end ends the Commit with the error of its function, and returns what Commit returns.
func (c *commitment) end(x *write, err error) error {
	t, a, rt := c.t, c.t.a, c.t.a.rt
	r, w := a.rec, &rt.writer
	rt.enter()
	defer rt.leave()
	rt.scheduler.alarms.remove(c.place)
	r.committing = false
	w.changedLocked()
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: a Commit failed but may have happened: %w", a, t.number, err)
		a.mu.Lock()
		t.commitFailed = err
		a.mu.Unlock()
		if !r.gone {
			r.unresolved = x.cp.Sequence
			go r.resolve(rt, a)
		}
		w.returnLocked(r)
		return err
	}
	a.mu.Lock()
	if !t.over.Load() {
		c.beatLocked()
	}
	a.mu.Unlock()
	r.holdsLocked(a, c.encoded)
	switch {
	case r.dirty: // it has changed meanwhile
		w.returnLocked(r)
	default:
		r.unsaved, r.failing, r.failedAlone = false, false, false
		w.recoveredLocked(true)
	}
	return nil
}

// beatLocked counts the heartbeat of a Commit that has succeeded. Runtime.mu and activity.mu are
// held.
func (c *commitment) beatLocked() {
	t, a := c.t, c.t.a
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

// holdsLocked makes details, which the Store holds because of a Commit of a's latest attempt,
// the newest ones. The attempt may be over, and the activity may have ended.
func (r *record) holdsLocked(a *activity, details []byte) {
	t := a.latest
	a.mu.Lock()
	a.details = recorded{data: details, shared: true}
	t.progressed = t.progressed || !bytes.Equal(details, t.resumesFrom)
	progressed := t.progressed
	a.mu.Unlock()
	switch {
	case r.a != nil && t.ended != never:
		a.noteProgressLocked(t)
	case r.a == nil && !r.gone:
		if r.last.Details = details; progressed {
			r.last.Progressed = r.last.Attempt
		}
	}
}

// resolve finds out whether the Store holds a Commit of a that has failed. Until it knows,
// nothing of the ID is written, because the next write could undo the details of the Commit.
func (r *record) resolve(rt *Runtime, a *activity) {
	w := &rt.writer
	for pause := rt.cfg.SaveInterval; ; pause = max(rt.cfg.SaveInterval, min(2*pause, maxStorePause)) {
		cp, err := rt.load(context.Background(), r.id, never, nil)
		rt.enter()
		// Not if it was forgotten or has completed all the same, or if the Store is lost.
		needed := w.records[r.id] == r && !r.gone && !w.lost
		if err == nil || !needed {
			if needed && cp.Sequence >= r.unresolved {
				r.sequence = max(r.sequence, cp.Sequence)
				r.holdsLocked(a, bytes.Clone(cp.Details))
			}
			if r.unresolved = 0; needed {
				w.returnLocked(r)
			}
			w.recoveredLocked(true)
			a.unblockLocked()
			rt.leave()
			return
		}
		w.failingLocked()
		r.notifyLocked(err)
		news := w.isNewsLocked(err.Error())
		rt.leave()
		if news {
			rt.log(slog.LevelError, "activity: the Store failed; it is not known whether a Commit has happened, and the next attempt waits", nil, 0, slog.String("id", r.id), slog.Any("error", err), slog.Duration("retry_in", pause))
		}
		<-rt.newWaitTimer(pause).c
	}
}
