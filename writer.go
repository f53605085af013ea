package activity

import (
	"cmp"
	"context"
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
	hangs    bool      // a call is late, and has not returned
	patience sleeper   // rings when somebody may have waited for that for too long; set while hangs
	saves    pace      // of the records that are not gone
	deletes  pace      // of the records that are gone

	failures     uint64          // calls that failed
	failing      bool            // there is something that the Store has not taken
	failingSince moment          // set while failing
	logged       map[string]bool // lines about that, so that they are not written for ever
	loggedAt     instant         // when the last one was written

	turn chan struct{} // held while writing to the Store

	// The call that is under way.
	round   *round
	overdue sleeper // rings when it is late
	late    bool
	method  string
	ctx     context.Context // used again for the next call, unless it has ended
	cancel  context.CancelCauseFunc
}

func (w *writer) init(rt *Runtime) {
	w.rt, w.records, w.loads, w.turn = rt, map[string]*record{}, map[string]*storeCall{}, make(chan struct{}, 1)
	w.patience.wake, w.overdue.wake = w.expireWaitersLocked, w.overdueLocked
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
	probes   uint32  // records that were tried while it was down
	proven   bool    // it has taken something since the first failure: it refuses, and is not down
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
		p.proven = p.proven && p.failures > 0
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

// notifyLocked tells them how the try went.
func (w *waiting) notifyLocked(err error) {
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
	w.markDirtyLocked(r)
	if r.urgent {
		return
	}
	w.setUrgentLocked(r)
}

func (w *writer) setUrgentLocked(r *record) {
	r.urgent, r.urgentSince = true, w.rt.now
	if w.urgent++; w.hangs && w.patience.place == 0 {
		w.rt.scheduler.setSleeperLocked(&w.patience, w.rt.now.add(w.rt.cfg.StoreTimeout))
	}
}

// hangsLocked notes that a call that writes is late, or has returned after that. While it
// hangs, those that wait for a try are told after Config.StoreTimeout.
func (w *writer) hangsLocked(hangs bool) {
	rt := w.rt
	rt.scheduler.alarms.remove(w.patience.place)
	if w.hangs = hangs; !hangs || w.urgent == 0 {
		return
	}
	next := never
	for _, r := range w.dirty {
		if r.urgent {
			next = min(next, r.urgentSince.add(rt.cfg.StoreTimeout))
		}
	}
	rt.scheduler.setSleeperLocked(&w.patience, max(next, rt.now))
}

// saveSoonLocked makes the record dirty, to be saved within Config.SaveInterval.
func (r *record) saveSoonLocked(rt *Runtime) {
	w := &rt.writer
	w.markDirtyLocked(r)
	w.soon.setLocked(rt, rt.now.add(rt.cfg.SaveInterval))
}

func (w *writer) markDirtyLocked(r *record) {
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

// clearUrgentLocked ends the urgency of a record.
func (w *writer) clearUrgentLocked(r *record) {
	if !r.urgent {
		return
	}
	r.urgent = false
	w.urgent--
}

// dropLocked drops the record of an ID, because the Store holds what is to remain.
func (w *writer) dropLocked(id string) {
	delete(w.records, id)
	w.dropped++
}

// expireWaitersLocked tells those who have waited for a try for Config.StoreTimeout that there
// was none, because a call does not return.
func (w *writer) expireWaitersLocked() {
	if !w.hangs {
		return
	}
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
		w.clearUrgentLocked(r)
		if w.records[r.id] == r { // else it no longer matters
			w.failedLocked(r)
		}
		r.notifyLocked(err)
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

// recoveredLocked notes that the Store holds all that it has failed to take, if it does.
// Taken says that it has just taken something. If a round is under way, that calls it again.
func (w *writer) recoveredLocked(taken bool) {
	if !w.failing || w.round != nil || slices.ContainsFunc(w.dirty, func(r *record) bool {
		return (r.failing || r.restoring()) && w.records[r.id] == r
	}) {
		return
	}
	rt := w.rt
	for _, p := range []*pace{&w.saves, &w.deletes} {
		p.failures, p.down, p.proven = 0, false, false
		p.retry.clearLocked(rt)
	}
	w.failing = false
	if taken && len(w.logged) > 0 {
		go rt.log(slog.LevelInfo, "activity: the Store works again and holds everything", nil, 0, slog.Duration("after", rt.now.since(w.failingSince.at)))
		w.logged = nil
	}
}

const (
	logAgain = 10 * time.Minute // while the Store fails
	logMany  = 20               // different lines, before only time counts
)

// isNewsLocked reports whether a line about a Store that fails is to be written.
func (w *writer) isNewsLocked(text string) bool {
	if w.rt.now.since(w.loggedAt) < logAgain && (w.logged[text] || len(w.logged) >= logMany) {
		return false
	}
	if w.logged == nil {
		w.logged = map[string]bool{}
	}
	w.logged[text], w.loggedAt = true, w.rt.now
	return true
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
			w.writeBatch(batch, gone)
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

// take returns the records to be saved now, or those to be deleted: what is urgent or has
// not failed, and then what has failed, once its pause is over. While the Store is down it
// takes what is urgent, or one record after each pause: rather one that has not failed,
// since the Store may be up again, and refuse another.
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
	var wanted, replaced []*record
	later := w.dirty[:0]
	for _, r := range w.dirty {
		switch {
		case w.records[r.id] != r: // a new execution has its ID, or it was forgotten
			replaced = append(replaced, r)
		case r.gone == gone && (r.urgent || r.failing && retry || !r.failing && others):
			wanted = append(wanted, r)
		default:
			later = append(later, r)
		}
	}
	slices.SortStableFunc(wanted, func(x, y *record) int { return cmp.Compare(x.rank(), y.rank()) })
	if limit == 1 && len(wanted) > 1 { // not always the first: those may all be refused
		n := 1
		for n < len(wanted) && wanted[n].rank() == wanted[0].rank() {
			n++
		}
		p.probes++
		k := int(p.probes * 2654435769 % uint32(n)) // spread evenly: Knuth, multiplicative hashing
		wanted[0], wanted[k] = wanted[k], wanted[0]
	}
	rest := wanted[min(limit, len(wanted)):]
	clear(w.dirty[len(later):])
	w.dirty = append(later, rest...)
	for _, r := range wanted[:len(wanted)-len(rest)] {
		r.dirty = false
		w.clearUrgentLocked(r)
		batch = append(batch, r.writeLocked())
	}
	for _, r := range replaced {
		r.dirty = false
		w.clearUrgentLocked(r)
		r.notifyLocked(errReplaced)
	}
	left := func(failing bool) bool {
		return slices.ContainsFunc(rest, func(r *record) bool { return r.failing == failing })
	}
	if p.down && !urgent || retry && !left(true) {
		p.retry.due = false
	}
	if !gone && (others || p.down && !urgent) {
		w.soon.clearLocked(rt)
		w.soon.due = left(false) && !p.down
	}
	if len(batch) == 0 {
		w.recoveredLocked(false) // it may have failed only with what was replaced
	}
	return batch
}

// rank orders the records that are taken.
func (r *record) rank() int {
	switch {
	case !r.failing:
		return 0
	case !r.failedAlone:
		return 1
	}
	return 2
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
