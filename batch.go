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
	alone   bool // it is tried by itself
	waiting
}

// writeLocked is the record as it is now. It is tried by itself if separate is true and
// the Store has refused it by itself.
func (r *record) writeLocked(separate bool) write {
	x := write{r: r, cp: r.last, failure: r.failure, alone: separate && r.alone, waiting: r.waiting}
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

var errReplaced = errors.New("a new execution of the ID has them, or they were forgotten")

// A round is a batch on its way to the Store.
type round struct {
	w     *writer
	gone  bool
	left  []write   // not tried yet
	alone []write   // what the Store has refused by itself is tried last, and by itself
	parts [][]write // of what is being tried, the next one last

	taken  bool
	failed []*record
	err    error // the last one
}

// bring brings a batch to the Store, in calls of a size that a Store can be expected to
// take.
func (w *writer) bring(batch []write, gone bool) {
	rd := round{w: w, gone: gone, left: batch}
	if i := slices.IndexFunc(batch, func(x write) bool { return x.alone }); i >= 0 {
		rd.left = nil
		for _, x := range batch {
			if x.alone {
				rd.alone = append(rd.alone, x)
			} else {
				rd.left = append(rd.left, x)
			}
		}
	}
	done := false
	defer func() {
		if !done { // the Store called runtime.Goexit
			rd.tried(slices.Concat(append(rd.parts, rd.left, rd.alone)...), errStoreGoexit)
		}
		rd.note()
	}()
	for len(rd.left) > 0 {
		n := len(rd.left)
		if !gone {
			n = w.fill(rd.left)
		}
		part := rd.left[:n]
		rd.left = rd.left[n:]
		rd.try(part)
	}
	for len(rd.alone) > 0 {
		part := rd.alone[:1]
		rd.alone = rd.alone[1:]
		w.fill(part)
		rd.try(part)
	}
	done = true
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
	rd.parts = append(rd.parts, batch)
	begun := rd.w.rt.read()
	for tries := 0; len(rd.parts) > 0; {
		last := len(rd.parts) - 1
		part := rd.current(rd.parts[last])
		rd.parts[last] = part
		if len(part) == 0 {
			rd.parts = rd.parts[:last]
			continue
		}
		tries++
		err, late := rd.w.call(part, rd.gone)
		rd.parts = rd.parts[:last]
		slow := rd.w.rt.read().since(begun) >= rd.w.rt.cfg.StoreTimeout
		switch {
		case err == nil:
			taken = true
		case late || p.down || len(batch) > 1 && (slow || !taken && tries >= maxTries):
			rd.tried(slices.Concat(append(rd.parts, part)...), err)
			rd.parts, p.down = nil, true
			return
		case len(part) > 1:
			rd.parts = append(rd.parts, part[len(part)/2:], part[:len(part)/2])
			continue
		}
		rd.tried(part, err)
	}
}

// current returns the writes of part that still count: since they were taken, a new
// execution may have begun. Each try has a sequence of its own, for a Store that fences
// by it.
func (rd *round) current(part []write) (still []write) {
	w := rd.w
	w.rt.enter()
	defer w.rt.leave()
	for i := range part {
		x := &part[i]
		if w.records[x.r.id] != x.r {
			x.tellLocked(errReplaced)
			continue
		}
		x.r.sequence++
		x.cp.Sequence = x.r.sequence
		still = append(still, *x)
	}
	return still
}

// call makes one call, and waits until it has returned. If that is late, those that wait
// are told so before.
func (w *writer) call(part []write, gone bool) (err error, late bool) {
	rt := w.rt
	rt.enter()
	w.part, w.late, w.method = part, false, "Save"
	if gone {
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
		w.part = nil
		if late = w.late; err != nil && !late {
			w.failures++
			w.failingLocked()
		}
	}()
	if gone {
		ids := make([]string, len(part))
		for i := range part {
			ids[i] = part[i].r.id
		}
		err = rt.protectStore(w.method, func() error { return rt.cfg.Store.Delete(ctx, ids) })
		return err, false
	}
	cps := make([]Checkpoint, len(part))
	for i := range part {
		cps[i] = part[i].cp
	}
	err = rt.protectStore(w.method, func() error { return rt.cfg.Store.Save(ctx, cps) })
	return err, false
}

// overdueLocked tells those that wait for the call that is under way that it is late.
func (w *writer) overdueLocked() {
	w.late = true
	w.failures++
	w.failingLocked()
	err := w.rt.lateCallLocked(w.method, w.rt.cfg.StoreTimeout, w.cancel)
	w.ctx = nil
	for i := range w.part {
		w.part[i].tellLocked(err)
	}
}

// tried tells those that wait, and keeps what the Store did not take.
func (rd *round) tried(part []write, err error) {
	w, rt, gone := rd.w, rd.w.rt, rd.gone
	p := w.pace(gone)
	rt.enter()
	defer rt.leave()
	for i := range part {
		r := part[i].r
		part[i].tellLocked(err)
		switch current := w.records[r.id] == r; {
		case !current:
		case err != nil:
			w.gatherLocked(r)
			if !r.urgent { // else it has changed since
				w.failedLocked(r)
				r.alone = len(part) == 1
			}
		default:
			r.failing, r.alone = false, false
			if r.dirty {
				break
			}
			if r.unsaved = false; r.a == nil {
				w.dropLocked(r.id)
			}
			r.tellLocked(nil) // those that were told that the call is late, and wait on
		}
		if err != nil {
			rd.failed, rd.err = append(rd.failed, r), err
		}
	}
	if err == nil {
		rd.taken = true
		if p.down { // everything is tried at once
			p.down, p.retry.due = false, true
		}
	}
}

// note notes what has come of a batch, and logs it if it is new.
func (rd *round) note() {
	w, rt, gone := rd.w, rd.w.rt, rd.gone
	p := w.pace(gone)
	rt.enter()
	defer rt.leave()
	if len(rd.failed) > 0 {
		text := rd.err.Error()
		attrs := []slog.Attr{slog.Any("error", rd.err), slog.Int("checkpoints", len(rd.failed)), slog.Duration("retry_in", p.retryAt.since(rt.now))}
		if len(rd.failed) == 1 {
			text += rd.failed[0].id
			attrs = append(attrs, slog.String("id", rd.failed[0].id))
		}
		if text != p.logged {
			// Not in this goroutine: a Logger that hangs must not hold up the next try.
			go rt.log(slog.LevelError, "activity: the Store failed; what it did not take stays in memory and is tried again", nil, 0, attrs...)
		}
		p.logged = text
		return
	}
	if !w.failing || !rd.taken {
		return
	}
	left := func(gone bool) bool {
		return slices.ContainsFunc(w.dirty, func(r *record) bool { return r.failing && r.gone == gone && w.records[r.id] == r })
	}
	if left(gone) {
		return
	}
	if p.failures, p.logged = 0, ""; !p.retry.due {
		rt.scheduler.alarms.remove(p.retry.place)
	}
	if !left(!gone) {
		go rt.log(slog.LevelInfo, "activity: the Store takes everything again", nil, 0, slog.Duration("after", rt.now.since(w.failingSince.at)))
		w.failing = false
	}
}
