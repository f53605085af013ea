package activity

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// A batch that the writer has taken is written here, in calls that a Store can be expected
// to take. If a call fails, its parts are tried, so that only the checkpoints that the
// Store refuses are refused. If too many calls fail, the Store is taken to be down, and
// the rest of the batch is not tried.

const (
	maxBatch      = 1000     // the largest number of checkpoints in a call
	maxBatchBytes = 16 << 20 // the largest size of their contents, unless there is only one
	maxTries      = 12       // the number of failed calls after which the Store is taken to be down
)

// A write is a copy of a record's state, made when take removed the record from dirty. The
// record may change while the write is in flight. It is then dirty again.
type write struct {
	r       *record
	cp      Checkpoint    // completed by fill; unused by a Delete
	a       *activity     // the activity whose details fill adds to cp; nil if cp has them already
	latest  *attempt      // a's latest attempt; nil if there is none
	counted int           // the number of the last attempt that counts, to which the progress of latest belongs
	ran     time.Duration // how long latest has run
	failure error         // the error whose text fill adds to cp; nil if cp has the text already
	failing bool          // whether the Store has failed to take the record before
	commits int           // record.commits when the state was copied; if that has grown, the write is outdated
	waiting               // everyone who waits for the result; moved here from the record
}

// writeLocked returns the record's state, and moves its waiters to the write.
func (r *record) writeLocked() write {
	x := r.copyLocked()
	x.waiting, r.waiting = r.waiting, waiting{}
	return x
}

// copyLocked returns the record's state, to be written. From now on the Store may hold
// something of the execution, even if that fails.
func (r *record) copyLocked() write {
	x := write{r: r, cp: r.last, failure: r.failure, failing: r.failing, commits: r.commits}
	if a := r.a; a != nil {
		x.cp, x.failure = r.checkpointLocked()
		x.a, x.latest, x.counted = a, a.latest, a.countedLocked()
		if x.latest != nil {
			x.ran = x.latest.ranLocked()
		}
	}
	if text, known := r.failureText.of(x.failure); known {
		x.cp.LastFailure, x.failure = text, nil
	}
	r.start.written = true
	return x
}

// fill completes the checkpoint with what is not read under Runtime.mu: the newest
// details, which may be newer than the write, and the text of the failure. It calls user
// code, so no lock may be held.
func (x *write) fill(rt *Runtime) {
	if a := x.a; a != nil {
		a.mu.Lock()
		// Cleared together with the reading of the details: a later heartbeat finds it
		// cleared, and makes the record dirty again.
		x.r.fresh = false
		x.cp.Details = a.details.share()
		if t := x.latest; t != nil {
			x.progress(t.progressed)
		}
		a.mu.Unlock()
	}
	x.fillFailure(rt)
}

// progress completes the checkpoint with the progress of the latest attempt.
func (x *write) progress(progressed bool) {
	if progressed {
		x.cp.Progressed = min(x.counted, x.cp.Attempt)
	}
	if x.a.opts.RetryPolicy.resets(progressed, x.ran) {
		x.cp.CountedFrom = x.latest.number - 1
	}
}

// fillFailure completes the checkpoint with the text of the failure.
func (x *write) fillFailure(rt *Runtime) {
	if x.failure != nil {
		x.cp.LastFailure = rt.lastFailure(x.a, x.failure)
		rt.mu.Lock()
		x.r.failureText.set(x.failure, x.cp.LastFailure)
		rt.mu.Unlock()
	}
}

var errReplaced = errors.New("a new execution of the ID has replaced the checkpoint, or it was forgotten")

// A round is the writing of one batch. Each write is in exactly one of the four lists
// below until its result is reported, or until giveBack returns it to the record. If a
// call is late, overdueLocked gives back everything except calling.
//
// A round belongs to the writer's goroutine. Only during a call may another goroutine
// change it, in overdueLocked, with Runtime.mu held.
type round struct {
	w        *writer
	gone     bool      // whether the records are to be deleted
	untried  []write   // writes to be tried, of records that were not failing
	suspects []write   // writes to be tried last, of records that were failing
	parts    [][]write // parts of the current batch that are still to be tried; the last one is next
	calling  []write   // writes of the call in flight, or of the last one

	// For note.
	taken  bool      // whether any call has succeeded
	failed []*record // records that the Store has not taken
	err    error     // error of the last call that failed
}

// writeBatch writes a batch to the Store: first the records that were not failing, and
// then the suspects, because the former should not wait for records that are likely to
// fail again.
func (w *writer) writeBatch(batch []write, gone bool) {
	rd := &round{w: w, gone: gone, untried: batch}
	// take has put the failing records last.
	if i := slices.IndexFunc(batch, func(x write) bool { return x.failing }); i >= 0 {
		rd.untried, rd.suspects = batch[:i:i], batch[i:]
	}
	done := false
	defer func() {
		if !done { // the Store called runtime.Goexit, and writer.run starts a new goroutine
			rd.tried(rd.calling, errStoreGoexit)
			rd.giveBack()
		}
		rd.note()
	}()
	for len(rd.untried) > 0 {
		part := rd.cut(&rd.untried, maxBatch)
		rd.try(part)
	}
	rd.trySuspects()
	done = true
}

// cut removes from the front of the list as many writes as fit in one call, at most size,
// completes their checkpoints, and returns them.
func (rd *round) cut(from *[]write, size int) []write {
	n := min(size, len(*from))
	if !rd.gone {
		n = rd.w.fill((*from)[:n])
	}
	part := (*from)[:n]
	*from = (*from)[n:]
	return part
}

// fill completes as many checkpoints as fit in one call, at least one, and returns their
// number.
func (w *writer) fill(batch []write) int {
	size := 0
	for i := range batch {
		x := &batch[i]
		x.fill(w.rt)
		if size += x.cp.size(); size > maxBatchBytes && i > 0 {
			return i
		}
	}
	return len(batch)
}

// size returns the number of bytes in the fields that may be large.
func (c *Checkpoint) size() int {
	n := len(c.Input) + len(c.Details) + len(c.LastFailure)
	for k, v := range c.Header {
		n += len(k) + len(v)
	}
	return n
}

// try saves or deletes a batch. If a call fails, try halves the part and tries both
// halves, so that in the end only single checkpoints are refused. There are two reasons to
// stop before that:
//
//   - If the first maxTries calls all fail, or fail for StoreTimeout in total, the Store is
//     taken to be down, and the whole batch has failed. A batch of one says nothing about
//     other records, so it never means that the Store is down.
//   - If some calls succeed, but the batch has taken StoreTimeout, the rest of the round
//     goes back to the writer. Records that have become dirty meanwhile then get their turn.
func (rd *round) try(batch []write) {
	p, taken := rd.w.pace(rd.gone), false
	begun := rd.w.rt.read()
	rd.parts = append(rd.parts, batch)
	for tries := 1; len(rd.parts) > 0; tries++ {
		part := rd.parts[len(rd.parts)-1]
		rd.parts = rd.parts[:len(rd.parts)-1]
		err, _ := rd.call(&part)
		slow := rd.w.rt.read().since(begun) >= rd.w.rt.cfg.StoreTimeout
		switch {
		case err == nil:
			taken = true
		case p.down || len(batch) > 1 && !taken && (slow || tries >= maxTries):
			rd.tried(slices.Concat(append(rd.parts, part)...), err)
			if !p.down {
				p.down, p.proven = true, false
			}
			rd.parts = nil
			return
		case len(part) > 1 && slow:
			rd.parts = append(rd.parts, part)
			rd.giveBack()
			return
		case len(part) > 1:
			rd.parts = append(rd.parts, part[len(part)/2:], part[:len(part)/2])
			continue
		}
		rd.tried(part, err)
	}
}

// trySuspects tries the records that the Store has failed to take before. It begins with
// all of them in one call, since the Store may work again. If that fails, it tries one, and
// doubles the number with each success and halves it with each failure. It stops after
// maxTries failures in a row, or after a failure if a record that is not failing has become
// urgent.
//
// Records that were tried only together with others, and failed, count as tried: their
// waiters get the error. together is the number of such records at the front of suspects.
// The remaining suspects go back to the writer untried.
func (rd *round) trySuspects() {
	p, failures, together := rd.w.pace(rd.gone), 0, 0
	var err error
	for size := maxBatch; len(rd.suspects) > 0 && failures < maxTries && !(failures > 0 && rd.interrupted()); {
		part := rd.cut(&rd.suspects, size)
		n, late := len(part), false
		if err, late = rd.call(&part); err == nil {
			rd.tried(part, nil)
			failures, together, size = 0, max(together-n, 0), min(2*size, maxBatch)
			continue
		}
		failures++
		if len(part) == 1 || late {
			rd.tried(part, err)
			together = max(together-n, 0)
		} else {
			rd.suspects = append(part, rd.suspects...)
			together = max(together, len(part))
		}
		if size == maxBatch {
			size = 1
		} else {
			size = max(n/2, 1)
		}
	}
	if failures >= maxTries && !p.proven {
		p.down = true
	}
	if n := min(together, len(rd.suspects)); n > 0 {
		part := rd.suspects[:n]
		rd.suspects = rd.suspects[n:]
		rd.tried(part, err)
	}
	rd.giveBack()
}

// interrupted reports whether a record outside the round is urgent and not failing.
func (rd *round) interrupted() bool {
	rd.w.rt.mu.Lock()
	defer rd.w.rt.mu.Unlock()
	return rd.w.urgent > 0 && slices.ContainsFunc(rd.w.dirty, func(r *record) bool { return r.urgent && !r.failing })
}

// giveBack returns the writes that were not tried to their records, which are dirty again.
// The round is then at its end.
func (rd *round) giveBack() {
	rd.w.rt.enter()
	rd.giveBackLocked()
	rd.w.rt.leave()
}

// giveBackLocked is giveBack with Runtime.mu held.
func (rd *round) giveBackLocked() {
	rest := slices.Concat(append(rd.parts, rd.untried, rd.suspects)...)
	rd.parts, rd.untried, rd.suspects = nil, nil, nil
	for i := range rest {
		rd.w.giveBackLocked(&rest[i])
	}
}

// giveBackLocked returns a write that was not tried to its record, with its waiters in front
// of those that have come since.
func (w *writer) giveBackLocked(x *write) {
	r := x.r
	r.taken = false
	w.wakeCommitsLocked()
	if w.records[r.id] != r {
		x.notifyLocked(errReplaced)
		return
	}
	r.waiters = append(x.waiters, r.waiters...)
	r.syncs = append(x.syncs, r.syncs...)
	w.returnLocked(r)
}

// call makes one call of the Store for the writes of part, and waits until it returns,
// however long that takes. If the call is late, overdueLocked reports that to the waiters
// meanwhile. Since the records were taken, new executions may have begun. Writes of records
// that were replaced are removed from part, and so are those that a Commit has outdated,
// because an older write must not overwrite a newer one.
func (rd *round) call(part *[]write) (err error, late bool) {
	w, rt := rd.w, rd.w.rt
	rt.enter()
	still := slices.DeleteFunc(*part, func(x write) bool {
		if w.records[x.r.id] == x.r && x.commits == x.r.commits {
			return false
		}
		w.giveBackLocked(&x)
		return true
	})
	for i := range still {
		r := still[i].r
		// Each try gets a higher number, so that a Store can ignore a write that arrives
		// after a newer one.
		r.sequence++
		still[i].cp.Sequence = r.sequence
	}
	if *part = still; len(still) == 0 {
		rt.leave()
		return nil, false
	}
	if w.noticeLossLocked() {
		rt.leave()
		return ErrStoreLost, false
	}
	rd.calling = still
	w.round, w.late, w.method = rd, false, "Save"
	if rd.gone {
		w.method = "Delete"
	}
	if w.ctx == nil {
		w.ctx, w.cancel = context.WithCancelCause(context.Background())
	}
	ctx := w.ctx
	rt.scheduler.setSleeperLocked(&w.overdue, rt.now.add(rt.cfg.StoreTimeout))
	rt.leave()
	// err keeps this value only if the Store calls runtime.Goexit. Deferred for that too.
	err = errStoreGoexit
	defer func() {
		rt.enter()
		defer rt.leave()
		rt.scheduler.alarms.remove(w.overdue.place)
		w.round = nil
		if late = w.late; late {
			w.hangsLocked(false)
		} else if err != nil {
			w.failures++
			w.failingLocked()
		}
	}()
	if rd.gone {
		ids := make([]string, len(still))
		for i := range still {
			ids[i] = still[i].r.id
		}
		err = rt.protectStore(w.method, func() error { return rt.cfg.Store.Delete(ctx, ids) })
		return err, false
	}
	cps := make([]Checkpoint, len(still))
	for i := range still {
		cps[i] = still[i].cp
	}
	err = rt.protectStore(w.method, func() error { return rt.cfg.Store.Save(ctx, cps) })
	return err, false
}

// overdueLocked is called when the call in flight is late. It ends the call's context and
// reports an error to the waiters of the call. The other writes of the round go back to
// the writer. There, their waiters get an error too if the call hangs for another
// StoreTimeout. If it returns before that, they are tried next.
func (w *writer) overdueLocked() {
	w.late = true
	w.failures++
	w.failingLocked()
	err := w.rt.lateCallLocked(w.method, w.rt.cfg.StoreTimeout, w.cancel)
	w.ctx = nil
	w.round.giveBackLocked()
	w.hangsLocked(true)
	for i := range w.round.calling {
		w.round.calling[i].notifyLocked(err)
	}
}

// tried records the result of a call for the writes of part, and reports it to their
// waiters. If err is nil, records that have not changed since are clean, and those of ended
// activities are dropped. Otherwise the records are dirty again, and failing.
func (rd *round) tried(part []write, err error) {
	w, rt := rd.w, rd.w.rt
	p := w.pace(rd.gone)
	rt.enter()
	defer rt.leave()
	w.wakeCommitsLocked()
	for i := range part {
		r := part[i].r
		r.taken = false
		part[i].notifyLocked(err)
		switch current := w.records[r.id] == r; {
		case !current:
		case err != nil:
			w.markDirtyLocked(r)
			// An urgent record has changed since it was taken. Its new state has not been
			// tried, so it need not wait for a pause.
			if !r.urgent {
				w.failedLocked(r)
				r.failedAlone = r.failedAlone || len(part) == 1
			}
		default:
			r.failing, r.failedAlone = false, false
			if r.dirty { // it has changed since it was taken
				w.soon.setLocked(rt, rt.now.add(rt.cfg.SaveInterval))
				break
			}
			if r.unsaved = false; r.a == nil {
				w.dropLocked(r.id)
			}
			// After a late call the waiters of the write have their result already. But
			// the end of a success waits again, in the record, until its delete works.
			r.notifyLocked(nil)
		}
		if err != nil {
			rd.failed, rd.err = append(rd.failed, r), err
		}
	}
	if err == nil && len(part) > 0 {
		rd.taken = true
		p.proven, p.down = true, false
	}
}

// note records the outcome of the round in its pace, and logs a failure that is not logged
// yet.
func (rd *round) note() {
	w, rt := rd.w, rd.w.rt
	rt.enter()
	defer rt.leave()
	w.writing = false
	defer func() { w.recoveredLocked(rd.taken) }()
	// During a Shutdown, a Store that takes something again is given the rest at once.
	if rd.taken && w.drained != nil {
		w.saves.retry.due, w.deletes.retry.due = true, true
	}
	// If the Store has taken nothing, it may be down. That a record failed alone then says
	// nothing about the record, so it does not count, unless it was the only one.
	if !rd.taken && !w.pace(rd.gone).proven {
		for _, r := range rd.failed {
			r.failedAlone = r.failedAlone && len(rd.failed) == 1
		}
	}
	p := w.pace(rd.gone)
	if w.failing && slices.ContainsFunc(w.dirty, func(r *record) bool { return r.failing && r.gone == rd.gone }) {
		p.retry.setLocked(rt, max(p.retryAt, rt.now.add(rt.cfg.SaveInterval)))
	}
	if len(rd.failed) == 0 || w.lost {
		return
	}
	text := rd.err.Error()
	attrs := []slog.Attr{slog.Any("error", rd.err), slog.Int("checkpoints", len(rd.failed)), slog.Duration("retry_in", max(0, p.retryAt.since(rt.now)))}
	if len(rd.failed) == 1 {
		text += rd.failed[0].id
		attrs = append(attrs, slog.String("id", rd.failed[0].id))
	}
	if w.isNewsLocked(text) {
		// Not in this goroutine: a Logger that hangs must not hold up the next try.
		go rt.log(slog.LevelError, "activity: the Store failed; unsaved checkpoints stay in memory and are retried", nil, 0, attrs...)
	}
}
