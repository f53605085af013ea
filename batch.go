package activity

import (
	"context"
	"errors"
	"log/slog"
	"slices"
)

const (
	maxBatch      = 1000     // checkpoints in a call
	maxBatchBytes = 16 << 20 // of them
	maxTries      = 12       // calls that may fail before the Store is taken to be down
)

// A write is a record on its way to the Store, as it was when it was taken.
type write struct {
	r       *record
	cp      Checkpoint // completed by fill; of no use to a Delete
	a       *activity  // whose details cp gets; nil if cp has them
	latest  *attempt
	failure error
	failing bool // the Store has not taken it before
	waiting
}

// writeLocked is the record as it is now.
func (r *record) writeLocked() write {
	x := write{r: r, cp: r.last, failure: r.failure, failing: r.failing, waiting: r.waiting}
	if a := r.a; a != nil {
		x.cp, x.failure = r.checkpointLocked()
		x.a, x.latest = a, a.latest
	}
	if text, known := r.failureText.of(x.failure); known {
		x.cp.LastFailure, x.failure = text, nil
	}
	r.waiting, r.start.written = waiting{}, true
	return x
}

// fill completes the checkpoint. It calls user code, so no lock may be held.
func (x *write) fill(rt *Runtime) {
	if a := x.a; a != nil {
		a.mu.Lock()
		x.r.fresh = false
		x.cp.Details = a.details.share()
		if t := x.latest; t != nil && t.progressed {
			x.cp.Progressed = min(t.number, x.cp.Attempt)
			if a.opts.RetryPolicy.ResetOnProgress {
				x.cp.CountedFrom = t.number - 1
			}
		}
		a.mu.Unlock()
	}
	if x.failure != nil {
		x.cp.LastFailure = rt.lastFailure(x.a, x.failure)
		rt.mu.Lock()
		x.r.failureText.set(x.failure, x.cp.LastFailure)
		rt.mu.Unlock()
	}
}

var errReplaced = errors.New("a new execution of the ID has replaced the checkpoint, or it was forgotten")

// A round is a batch on its way to the Store. If a call is late, what has not been tried
// leaves the round: see overdueLocked.
type round struct {
	w        *writer
	gone     bool
	untried  []write   // not tried yet
	suspects []write   // likewise, and the Store has not taken them before
	parts    [][]write // of what is being tried, those that have not been, the next one last
	calling  []write   // what the call that is under way is for

	taken  bool
	failed []*record
	err    error // the last one
}

// bring brings a batch to the Store, in calls of a size that a Store can be expected to
// take.
func (w *writer) writeBatch(batch []write, gone bool) {
	rd := &round{w: w, gone: gone, untried: batch}
	if i := slices.IndexFunc(batch, func(x write) bool { return x.failing }); i >= 0 { // take has put them last
		rd.untried, rd.suspects = batch[:i:i], batch[i:]
	}
	done := false
	defer func() {
		if !done { // the Store called runtime.Goexit
			rd.tried(rd.calling, errStoreGoexit)
			rd.giveBack()
		}
		rd.note()
	}()
	for len(rd.untried) > 0 {
		part := rd.cut(&rd.untried)
		rd.try(part)
	}
	rd.trySuspects()
	done = true
}

// cut takes as many checkpoints as can go in one call, and completes them.
func (rd *round) cut(from *[]write) []write {
	n := len(*from)
	if !rd.gone {
		n = rd.w.fill(*from)
	}
	part := (*from)[:n]
	*from = (*from)[n:]
	return part
}

// fill completes as many checkpoints as can go in one call, and returns their number.
func (w *writer) fill(batch []write) int {
	size := 0
	for i := range batch {
		x := &batch[i]
		x.fill(w.rt)
		if size += len(x.cp.Input) + len(x.cp.Details) + len(x.cp.LastFailure); size > maxBatchBytes && i > 0 {
			return i
		}
	}
	return len(batch)
}

// try saves or deletes a batch. If that fails, it tries the parts of the batch, so that
// only what the Store refuses is refused. If the first calls all fail, or take too long,
// the Store is down, and there is no other call.
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

// trySuspects tries what the Store has not taken before: together, in case it takes
// everything again, and then one and, as long as that works, twice as many. It ends after a
// few calls in a row that fail, or when somebody waits for what has not failed. Those that
// were tried together only have been tried, too.
func (rd *round) trySuspects() {
	p, failures, together := rd.w.pace(rd.gone), 0, 0
	var err error
	for size := maxBatch; len(rd.suspects) > 0 && failures < maxTries && !(failures > 0 && rd.interrupted()); {
		n := min(size, len(rd.suspects))
		if !rd.gone {
			n = rd.w.fill(rd.suspects[:n])
		}
		part := rd.suspects[:n]
		rd.suspects = rd.suspects[n:]
		var late bool
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

// interrupted reports whether somebody waits for what is not in the round and has not
// failed.
func (rd *round) interrupted() bool {
	rd.w.rt.mu.Lock()
	defer rd.w.rt.mu.Unlock()
	return rd.w.urgent > 0 && slices.ContainsFunc(rd.w.dirty, func(r *record) bool { return r.urgent && !r.failing })
}

// giveBack ends the round before everything was tried.
func (rd *round) giveBack() {
	rd.w.rt.enter()
	rd.giveBackLocked()
	rd.w.rt.leave()
}

func (rd *round) giveBackLocked() {
	rest := slices.Concat(append(rd.parts, rd.untried, rd.suspects)...)
	rd.parts, rd.untried, rd.suspects = nil, nil, nil
	for i := range rest {
		x := &rest[i]
		r := x.r
		if rd.w.records[r.id] != r {
			x.notifyLocked(errReplaced)
			continue
		}
		rd.w.markDirtyLocked(r)
		if r.failing {
			rd.w.failedLocked(r)
		}
		r.waiters = append(x.waiters, r.waiters...)
		r.syncs = append(x.syncs, r.syncs...)
		if len(r.waiters)+len(r.syncs) > 0 && !r.urgent {
			rd.w.setUrgentLocked(r)
		}
		if !r.urgent && !r.failing {
			rd.w.soon.setLocked(rd.w.rt, rd.w.rt.now)
		}
	}
}

// call makes one call, for those of part that still count: since they were taken, a new
// execution may have begun. It waits until the call has returned. If that is late, those
// that wait are told so before.
func (rd *round) call(part *[]write) (err error, late bool) {
	w, rt := rd.w, rd.w.rt
	rt.enter()
	still := slices.DeleteFunc(*part, func(x write) bool {
		if w.records[x.r.id] == x.r {
			return false
		}
		x.notifyLocked(errReplaced)
		return true
	})
	for i := range still {
		r := still[i].r
		r.sequence++ // each try has its own, for a Store that fences by it
		still[i].cp.Sequence = r.sequence
	}
	if *part = still; len(still) == 0 {
		rt.leave()
		return nil, false
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

// overdueLocked tells those that wait for the call that is under way that it is late. What
// is in its round and was not tried leaves that, so that those who wait for it are told
// too, or it is tried next.
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

// tried tells those that wait, and keeps what the Store did not take.
func (rd *round) tried(part []write, err error) {
	w, rt := rd.w, rd.w.rt
	p := w.pace(rd.gone)
	rt.enter()
	defer rt.leave()
	for i := range part {
		r := part[i].r
		part[i].notifyLocked(err)
		switch current := w.records[r.id] == r; {
		case !current:
		case err != nil:
			w.markDirtyLocked(r)
			if !r.urgent { // else it has changed since
				w.failedLocked(r)
				r.failedAlone = r.failedAlone || len(part) == 1
			}
		default:
			r.failing, r.failedAlone = false, false
			if r.dirty { // it has changed since
				w.soon.setLocked(rt, rt.now.add(rt.cfg.SaveInterval))
				break
			}
			if r.unsaved = false; r.a == nil {
				w.dropLocked(r.id)
			}
			r.notifyLocked(nil) // those that were told that the call is late, and wait on
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

// note notes what has come of a round, and logs it if it is new.
func (rd *round) note() {
	w, rt := rd.w, rd.w.rt
	rt.enter()
	defer rt.leave()
	defer func() { w.recoveredLocked(rd.taken) }()
	if rd.taken && w.drained != nil { // no time for pauses
		w.saves.retry.due, w.deletes.retry.due = true, true
	}
	if !rd.taken && !w.pace(rd.gone).proven { // which says nothing about one of them
		for _, r := range rd.failed {
			r.failedAlone = r.failedAlone && len(rd.failed) == 1
		}
	}
	p := w.pace(rd.gone)
	if w.failing && slices.ContainsFunc(w.dirty, func(r *record) bool { return r.failing && r.gone == rd.gone }) {
		p.retry.setLocked(rt, max(p.retryAt, rt.now.add(rt.cfg.SaveInterval)))
	}
	if len(rd.failed) == 0 {
		return
	}
	text := rd.err.Error()
	attrs := []slog.Attr{slog.Any("error", rd.err), slog.Int("checkpoints", len(rd.failed)), slog.Duration("retry_in", p.retryAt.since(rt.now))}
	if len(rd.failed) == 1 {
		text += rd.failed[0].id
		attrs = append(attrs, slog.String("id", rd.failed[0].id))
	}
	if w.isNewsLocked(text) {
		// Not in this goroutine: a Logger that hangs must not hold up the next try.
		go rt.log(slog.LevelError, "activity: the Store failed; unsaved checkpoints stay in memory and are retried", nil, 0, attrs...)
	}
}
