package activity

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"time"
)

// A writer brings checkpoints to the Store. A change makes a record dirty. One
// goroutine, which exists only while there is something to do, writes all dirty
// records, with Save and Delete in turn. While one call is under way, the next
// batch gathers. Since there is one writer, the newer of two writes of an ID comes
// last.
//
// Guarded by Runtime.mu, but for turn.
type writer struct {
	rt      *Runtime
	records map[string]*record    // by ID; nil without a Store
	dropped uint64                // how many records were dropped from records, with which the Store has changed
	loads   map[string]*storeCall // the Loads that have not returned, by ID
	moved   time.Duration         // how far the wall clock had moved when the times were saved
	running bool
	drained chan struct{} // closed when nothing is dirty; nil if nobody waits for that

	dirty    []*record // in the order in which they are tried
	soon     reminder  // what is neither urgent nor failing is due
	urgent   int       // how many of dirty are urgent
	patience sleeper   // rings when somebody may have waited for a try for too long
	saves    pace      // of the records that are not gone
	deletes  pace      // of the records that are gone

	failures     uint64 // calls that failed
	failingSince moment // set while failing
	failing      bool   // there is something that the Store has not taken

	turn chan struct{} // held while writing to the Store

	// The call that is under way.
	overdue sleeper // rings when it is late
	late    bool
	part    []write
	method  string
	ctx     context.Context // used again for the next call, unless it has ended
	cancel  context.CancelCauseFunc
}

func (w *writer) init(rt *Runtime) {
	w.rt, w.records, w.loads, w.turn = rt, map[string]*record{}, map[string]*storeCall{}, make(chan struct{}, 1)
	w.patience.wake, w.overdue.wake = w.tellLateLocked, w.overdueLocked
	for _, r := range []*reminder{&w.soon, &w.saves.retry, &w.deletes.retry} {
		r.wake = func() { r.due = true }
	}
}

// A reminder says when something is due. Guarded by Runtime.mu.
type reminder struct {
	sleeper
	due bool // it has rung
}

func (r *reminder) setLocked(rt *Runtime, when instant) {
	if !r.due && r.place == 0 {
		rt.scheduler.setSleeperLocked(&r.sleeper, when)
	}
}

func (r *reminder) clearLocked(rt *Runtime) {
	r.due = false
	rt.scheduler.alarms.remove(r.place)
}

// A pace says when the next Save, or the next Delete, of what failed is due. Guarded by
// Runtime.mu.
type pace struct {
	retry    reminder
	failures int     // failed tries in a row, except those made during a pause
	retryAt  instant // the end of the pause
	down     bool    // the Store takes nothing
	logged   string  // the last line about a failure; empty once nothing is failing
}

func (w *writer) pace(gone bool) *pace {
	if gone {
		return &w.deletes
	}
	return &w.saves
}

const maxStorePause = 5 * time.Second // between two tries of a Store that fails

// pauseLocked counts a failure.
func (p *pace) pauseLocked(rt *Runtime) {
	if p.failures == 0 || rt.now >= p.retryAt { // else it is a pause, or the clock was set back
		interval, pause := rt.cfg.SaveInterval, maxStorePause
		if interval < maxStorePause>>min(p.failures, 62) {
			pause = interval << p.failures
		}
		p.retryAt = rt.now.add(max(interval, pause))
		p.failures++
	}
	p.retry.due = false
	p.retry.setLocked(rt, p.retryAt)
}

// waiting are those that wait for the next try to save a record. Guarded by Runtime.mu.
type waiting struct {
	waiters []waiter       // for a start or the end
	syncs   []chan<- error // of heartbeats
}

// A waiter is called, with Runtime.mu held, once the Store was tried.
type waiter func(err error)

// tellLocked tells them how the try went.
func (w *waiting) tellLocked(err error) {
	told := *w
	*w = waiting{}
	for _, f := range told.waiters {
		f(err)
	}
	for _, c := range told.syncs {
		c <- err // which has room
	}
}

// saveLocked makes the record dirty, to be saved at once. If f is not nil, it is
// called once that was tried, or could not be tried for Config.StoreTimeout.
func (r *record) saveLocked(rt *Runtime, f waiter) {
	w := &rt.writer
	if f != nil {
		r.waiters = append(r.waiters, f)
	}
	w.gatherLocked(r)
	if r.urgent {
		return
	}
	r.urgent, r.urgentSince = true, rt.now
	if w.urgent++; w.patience.place == 0 {
		rt.scheduler.setSleeperLocked(&w.patience, rt.now.add(rt.cfg.StoreTimeout))
	}
}

// saveSoonLocked makes the record dirty, to be saved within Config.SaveInterval.
func (r *record) saveSoonLocked(rt *Runtime) {
	w := &rt.writer
	w.gatherLocked(r)
	w.soon.setLocked(rt, rt.now.add(rt.cfg.SaveInterval))
}

func (w *writer) gatherLocked(r *record) {
	r.unsaved = true
	if !r.dirty {
		r.dirty = true
		w.dirty = append(w.dirty, r)
	}
}

const (
	wallLook = time.Minute // the longest time between two looks at the wall clock, if an alarm is set
	wallStep = time.Second // of the wall clock that is worth a write
)

// lookLocked is when the wall clock is to be looked at. A Mock is not set by itself.
func (rt *Runtime) lookLocked() instant {
	if len(rt.writer.records) == 0 || rt.mock {
		return never
	}
	return rt.now.add(wallLook)
}

// wallClockLocked has all activities saved when the wall clock was set: if it was wrong
// until then, so are the times that the Store holds.
func (w *writer) wallClockLocked() {
	if len(w.records) == 0 {
		return
	}
	moved := time.Duration(w.rt.moved.Load())
	if d := moved - w.moved; d < wallStep && d > -wallStep {
		return
	}
	w.moved = moved
	for _, r := range w.records {
		if r.a != nil && r.a.phase != phaseLoading {
			r.saveSoonLocked(w.rt)
		}
	}
}

// calmLocked ends the urgency of a record.
func (w *writer) calmLocked(r *record) {
	if !r.urgent {
		return
	}
	r.urgent = false
	if w.urgent--; w.urgent == 0 {
		w.rt.scheduler.alarms.remove(w.patience.place)
	}
}

// dropLocked drops the record of an ID, because the Store holds what is to remain.
func (w *writer) dropLocked(id string) {
	delete(w.records, id)
	w.dropped++
}

// tellLateLocked tells those who have waited for a try for Config.StoreTimeout that there
// was none, because a call does not return.
func (w *writer) tellLateLocked() {
	rt, next := w.rt, never
	var late []*record
	for _, r := range w.dirty {
		if !r.urgent {
			continue
		}
		if by := r.urgentSince.add(rt.cfg.StoreTimeout); by > rt.now {
			next = min(next, by)
		} else {
			late = append(late, r)
		}
	}
	if next != never {
		rt.scheduler.setSleeperLocked(&w.patience, next)
	}
	err := rt.errNotTried()
	for _, r := range late {
		w.calmLocked(r)
		w.failedLocked(r)
		r.tellLocked(err)
	}
}

// failedLocked notes that the Store has not taken a record that is dirty.
func (w *writer) failedLocked(r *record) {
	r.failing = true
	w.pace(r.gone).pauseLocked(w.rt)
	w.failingLocked()
}

// failingLocked notes since when the Store has failed.
func (w *writer) failingLocked() {
	if !w.failing {
		w.failing, w.failingSince = true, w.rt.moment(w.rt.now)
	}
}

func (w *writer) dueLocked() bool {
	return w.urgent > 0 || w.soon.due || w.saves.retry.due || w.deletes.retry.due
}

// wakeLocked starts the writer's goroutine if there is something to do.
func (w *writer) wakeLocked() {
	if !w.running && w.dueLocked() {
		w.running = true
		go w.run()
	}
}

// run is the writer's goroutine. It saves what is to be saved, and then deletes what is
// to be deleted, until nothing is due.
func (w *writer) run() {
	done := false
	defer func() {
		if !done { // the Store called runtime.Goexit
			go w.run()
		}
	}()
	for w.writeDue() {
	}
	done = true
}

func (w *writer) writeDue() bool {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if !w.proceed() {
		return false
	}
	for _, gone := range []bool{false, true} {
		if batch := w.take(gone); len(batch) > 0 {
			w.bring(batch, gone)
			runtime.Gosched() // callers that were waiting can share the next batch
		}
	}
	return true
}

// proceed reports whether there is something to do now. If not, the goroutine
// ends.
func (w *writer) proceed() bool {
	w.rt.enter()
	defer w.rt.leave()
	if w.dueLocked() {
		return true
	}
	w.running = false
	if len(w.dirty) == 0 && w.drained != nil {
		close(w.drained)
		w.drained = nil
	}
	return false
}

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

const (
	maxBatch      = 1000     // checkpoints in a call
	maxBatchBytes = 16 << 20 // of them
	maxTries      = 12       // calls that may fail before the Store is taken to be down
)

// take returns the records to be saved now, or those to be deleted: what is urgent, with
// what is not failing, and what is failing once its pause is over. While the Store is
// down it takes only what is urgent, or else one record after each pause: the Store may
// be up again, and refuse another one.
func (w *writer) take(gone bool) (batch []write) {
	rt := w.rt
	rt.enter()
	defer rt.leave()
	p := w.pace(gone)
	urgent := slices.ContainsFunc(w.dirty, func(r *record) bool { return r.urgent && r.gone == gone })
	limit, retry, others := maxBatch, p.retry.due, true
	switch {
	case p.down && urgent:
		retry, others = false, false
	case p.down:
		retry = retry || w.soon.due && p.retry.place == 0
		limit, others = 1, retry
	}
	var replaced []*record
	leftRetry, leftOthers, later := false, false, w.dirty[:0]
	for _, r := range w.dirty {
		wanted := r.gone == gone && (r.urgent || r.failing && retry || !r.failing && others)
		switch {
		case w.records[r.id] != r: // a new execution has its ID, or it was forgotten
			replaced = append(replaced, r)
		case wanted && len(batch) < limit:
			batch = append(batch, r.writeLocked(!p.down))
		default:
			leftRetry = leftRetry || wanted && r.failing
			leftOthers = leftOthers || wanted && !r.failing
			later = append(later, r)
			continue
		}
		r.dirty = false
		w.calmLocked(r)
	}
	clear(w.dirty[len(later):])
	w.dirty = later
	if retry && !leftRetry || p.down && !urgent {
		p.retry.due = false
	}
	if !gone && (others || p.down && !urgent) {
		w.soon.clearLocked(rt)
		w.soon.due = leftOthers && !p.down
	}
	for _, r := range replaced {
		r.tellLocked(errReplaced)
	}
	return batch
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

// drain waits until the Store holds everything, or ctx ends.
func (w *writer) drain(ctx context.Context) {
	w.rt.enter()
	if len(w.dirty) > 0 {
		w.soon.due, w.saves.retry.due, w.deletes.retry.due = true, true, true
	}
	if (len(w.dirty) > 0 || w.running) && w.drained == nil {
		w.drained = make(chan struct{})
	}
	drained := w.drained
	w.rt.leave()
	if drained != nil {
		select {
		case <-drained:
		case <-ctx.Done():
		}
	}
}
