package activity

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"slices"
	"time"
)

// The writer decides when records are written to the Store, and which. The calls
// themselves, and the retries in parts, are in batch.go.
//
// A record is dirty if the Store does not hold its newest state. A dirty record is in one
// of three groups, each with its own time:
//
//   - Urgent: a caller waits for it, or it must not be lost. It is tried at once.
//   - Failing: the Store has not taken it. It is tried after a pause, which doubles.
//   - All others, such as heartbeat details. They are tried within Config.SaveInterval.
//
// A record that a Commit holds is not tried before that has ended.
//
// Records are saved and deleted apart: a record that is gone is deleted. If the Store
// takes none of many calls, it is down, and is then called once after each pause.

// A writer writes checkpoints to the Store. One goroutine, which exists only while a write
// is due, writes the dirty records with Save and Delete in turn. While a call is in
// flight, the next batch gathers. Because there is one goroutine and one call at a time,
// writes of one ID reach the Store in order.
//
// Guarded by Runtime.mu, except turn.
type writer struct {
	rt       *Runtime
	records  map[string]*record    // the newest record of each ID that is running or not saved yet; nil without a Store
	dropped  uint64                // number of times a record was dropped, because the Store holds its final state
	loads    map[string]*storeCall // the Loads in flight, by ID
	moved    time.Duration         // timekeeper.moved when the records' times were last written
	running  bool                  // whether the writer's goroutine exists
	drained  chan struct{}         // closed when nothing is dirty; nil if nobody waits for that
	draining int                   // number of calls of drain that wait

	lostSignal <-chan struct{} // closed when the Store is lost; nil if that cannot be
	lost       bool            // set once, after lostSignal was closed
	unwatch    chan struct{}   // closed to stop the goroutine that waits for lostSignal; nil if there is none

	dirty    []*record // in the order in which they are tried
	soon     reminder  // set for the records that are neither urgent nor failing
	urgent   int       // number of urgent records in dirty
	hangs    bool      // whether a call is late and has not returned yet
	patience sleeper   // alarm for the next urgent record that has waited for StoreTimeout; set only while hangs
	saves    pace      // retries of failed Saves
	deletes  pace      // retries of failed Deletes

	failures     uint64          // number of calls that failed or were late, for Stats
	failing      bool            // whether there is anything that the Store has failed to take and does not hold yet
	failingSince moment          // when failing became true
	logged       map[string]bool // log lines written since failing became true, to write each only once
	loggedAt     instant         // when the last of these lines was written

	// turn is a lock, of capacity 1, for writing to the Store: the writer's goroutine
	// and Forget take it. It is a channel so that waiting for it can be given up, and
	// does not hinder a synctest bubble. It is taken before Runtime.mu.
	turn chan struct{}

	writing         bool                 // whether a batch that take has returned is being written; until note
	mayHold         func(id string) bool // Store.MayHold; nil if the Store has no such method
	keepsNewest     bool                 // whether the Store ignores a checkpoint that is older than the stored one: see Commit
	commitsMayBegin chan struct{}        // closed when a Commit that waits may begin; nil if none waits

	// The call in flight.
	round   *round                  // nil if no call is in flight
	overdue sleeper                 // alarm for the moment when the call is late
	late    bool                    // whether overdue has rung
	method  string                  // "Save" or "Delete"
	ctx     context.Context         // reused by the next call, unless it has ended; nil if it has
	cancel  context.CancelCauseFunc // of ctx
}

// init prepares the writer of a Runtime that has a Store.
func (w *writer) init(rt *Runtime) {
	w.rt, w.records, w.loads, w.turn = rt, map[string]*record{}, map[string]*storeCall{}, make(chan struct{}, 1)
	if s, ok := rt.cfg.Store.(interface{ KeepsNewest() bool }); ok {
		rt.protect(nil, "Store.KeepsNewest", func() { w.keepsNewest = s.KeepsNewest() })
	}
	if s, ok := rt.cfg.Store.(interface{ MayHold(id string) bool }); ok {
		w.mayHold = s.MayHold
	}
	if s, ok := rt.cfg.Store.(interface{ Lost() <-chan struct{} }); ok {
		rt.protect(nil, "Store.Lost", func() { w.lostSignal = s.Lost() })
	}
	w.patience.wake, w.overdue.wake = w.expireWaitersLocked, w.overdueLocked
	for _, r := range []*reminder{&w.soon, &w.saves.retry, &w.deletes.retry} {
		r.wake = func() { r.due = true }
	}
}

// A reminder is an alarm whose ringing is remembered until clearLocked. Guarded by
// Runtime.mu.
type reminder struct {
	sleeper
	due bool // whether the alarm has rung
}

// setLocked sets the alarm, unless it is set or has rung: the earliest call counts.
func (r *reminder) setLocked(rt *Runtime, when instant) {
	if !r.due && r.place == 0 {
		rt.scheduler.setSleeperLocked(&r.sleeper, when)
	}
}

func (r *reminder) clearLocked(rt *Runtime) {
	r.due = false
	rt.scheduler.alarms.remove(r.place)
}

// A pace decides when failing records are tried again. Saves and Deletes have one each.
//
// The Store is in one of two conditions. If it is down, it takes nothing, and more than
// one call after each pause is pointless. If it only refuses some records, it takes the
// others, which must not wait for those. proven tells one from the other. Guarded by
// Runtime.mu, but during a round the writer's goroutine uses down and proven without it.
type pace struct {
	retry    reminder // the end of the pause
	failures int      // number of pauses in a row, of which the next is twice as long
	retryAt  instant  // when the pause ends; in the past if there is none
	down     bool     // whether the Store takes nothing
	probes   uint32   // number of records tried while the Store was down
	proven   bool     // whether the Store has taken something since the first failure, so that it refuses and is not down
}

// pace returns the pace of Deletes if gone is true, and else that of Saves.
func (w *writer) pace(gone bool) *pace {
	if gone {
		return &w.deletes
	}
	return &w.saves
}

const maxStorePause = 5 * time.Second // the longest pause, unless SaveInterval is longer

// pauseLocked starts a pause after a failure. The pauses are SaveInterval, twice that and
// so on, at most maxStorePause, or SaveInterval if that is longer.
func (p *pace) pauseLocked(rt *Runtime) {
	// Many records can fail in one round, and urgent ones fail during a pause. Only the
	// first failure after a pause makes the next pause longer.
	if p.failures == 0 || rt.now >= p.retryAt {
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

// waiting holds the callbacks and channels that get the result of the next try to save a
// record. Guarded by Runtime.mu.
type waiting struct {
	waiters []waiter       // for the start and the end of an activity
	syncs   []chan<- error // for synchronous heartbeats; each has a buffer of one
}

// A waiter is called once, with Runtime.mu held, with the result of a try.
type waiter func(err error)

// notifyLocked reports the result of a try to everyone who waits for it. The lists are
// emptied first, because a waiter may wait for the next try.
func (w *waiting) notifyLocked(err error) {
	told := *w
	*w = waiting{}
	for _, f := range told.waiters {
		f(err)
	}
	for _, c := range told.syncs {
		c <- err // does not block: the buffer is empty
	}
}

// saveLocked makes the record dirty and urgent, so that it is saved at once. If f is not
// nil, it is called with the result, or with an error if the Store could not be called
// for Config.StoreTimeout.
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

// setUrgentLocked makes a dirty record urgent. If a call hangs, the record's waiters get an
// error after Config.StoreTimeout.
func (w *writer) setUrgentLocked(r *record) {
	r.urgent, r.urgentSince = true, w.rt.now
	if w.urgent++; w.hangs && w.patience.place == 0 {
		w.rt.scheduler.setSleeperLocked(&w.patience, w.rt.now.add(w.rt.cfg.StoreTimeout))
	}
}

// hangsLocked records that a call that writes is late, or that a late call has returned.
// While a call hangs nothing else is written, so the waiters of urgent records get an
// error after Config.StoreTimeout: see expireWaitersLocked.
func (w *writer) hangsLocked(hangs bool) {
	rt := w.rt
	rt.scheduler.alarms.remove(w.patience.place)
	if w.hangs = hangs; !hangs {
		w.wakeCommitsLocked()
	}
	if !hangs || w.urgent == 0 {
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

// markDirtyLocked puts the record into dirty, if it is not there. When it is tried is up to
// the caller.
func (w *writer) markDirtyLocked(r *record) {
	r.unsaved = true
	if !r.dirty {
		r.dirty = true
		w.dirty = append(w.dirty, r)
	}
}

const (
	wallLook = time.Minute // the longest time between two checks whether the wall clock was set, while there are alarms
	wallStep = time.Second // the smallest change of the wall clock that is worth a write
)

// lookLocked returns when to check next whether the wall clock was set. Only the times of
// records depend on that. The wall clock of a Mock is never set by itself.
func (rt *Runtime) lookLocked() instant {
	if len(rt.writer.records) == 0 || rt.mock {
		return never
	}
	return rt.now.add(wallLook)
}

// wallClockLocked saves all activities if the wall clock was set: if it was wrong before,
// so are the times that the Store holds. Loading activities are not saved, because the
// checkpoints of their IDs are not known yet.
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
			if r.start.accepted { // its checkpoint is not restored with a wrong time
				r.start.dropFoundLocked()
			}
			r.saveSoonLocked(w.rt)
		}
	}
}

// returnLocked makes a record due again that was taken or held, but not written. A record with
// waiters becomes urgent. A failing one without waiters is due after the pause, and any other
// now.
func (w *writer) returnLocked(r *record) {
	w.markDirtyLocked(r)
	if r.failing {
		w.failedLocked(r)
	}
	if len(r.waiters)+len(r.syncs) > 0 && !r.urgent {
		w.setUrgentLocked(r)
	}
	if !r.urgent && !r.failing {
		w.soon.setLocked(w.rt, w.rt.now)
	}
}

// wakeCommitsLocked wakes the Commits that wait for the writer.
func (w *writer) wakeCommitsLocked() {
	if w.commitsMayBegin != nil {
		w.rt.scheduler.closing = append(w.rt.scheduler.closing, w.commitsMayBegin)
		w.commitsMayBegin = nil
	}
}

// clearUrgentLocked makes a record no longer urgent.
func (w *writer) clearUrgentLocked(r *record) {
	if !r.urgent {
		return
	}
	r.urgent = false
	w.urgent--
}

// dropLocked drops the record of an ID, because the Store holds its final state. That also
// tells Checkpoints that what it has read of the Store may be out of date.
func (w *writer) dropLocked(id string) {
	delete(w.records, id)
	w.dropped++
}

// expireWaitersLocked reports an error to all waiters that have waited for a try for
// Config.StoreTimeout, because an earlier call hangs. Their records stay dirty, and count
// as failing.
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
		if w.records[r.id] == r { // otherwise a new execution has replaced it
			w.failedLocked(r)
		}
		r.notifyLocked(err)
	}
}

// failedLocked makes a dirty record failing, and starts a pause.
func (w *writer) failedLocked(r *record) {
	r.failing = true
	w.pace(r.gone).pauseLocked(w.rt)
	w.failingLocked()
}

// failingLocked records since when the Store has failed, if it did not fail before.
func (w *writer) failingLocked() {
	if !w.failing {
		w.failing, w.failingSince = true, w.rt.moment(w.rt.now)
	}
}

// recoveredLocked ends the failure of the Store, if there is nothing left that it has
// failed to take. taken says whether it has just taken something. If it has, the recovery is
// logged. If not, the failing records were replaced or withdrawn. While a batch is being
// written, recoveredLocked does nothing, since note calls it again.
func (w *writer) recoveredLocked(taken bool) {
	if !w.failing || w.writing || w.lost || slices.ContainsFunc(w.dirty, func(r *record) bool {
		return (r.failing || r.restoring() || r.unresolved != 0) && w.records[r.id] == r
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
	logAgain = 10 * time.Minute // silence after which a line is repeated
	logMany  = 20               // number of different lines after which a new line waits for that silence too
)

// isNewsLocked reports whether to log a line about a Store that fails, and if so counts it
// as logged. A line that was logged already is repeated once nothing was logged for
// logAgain. Since the texts of errors may never repeat, the number of different lines is
// limited too.
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

// dueLocked reports whether anything is to be written now.
func (w *writer) dueLocked() bool {
	return !w.lost && (w.urgent > 0 || w.soon.due || w.saves.retry.due || w.deletes.retry.due)
}

// wakeLocked starts the writer's goroutine, if a write is due and it does not exist.
func (w *writer) wakeLocked() {
	if !w.running && w.dueLocked() {
		w.running = true
		go w.run()
	}
}

// run is the writer's goroutine. It writes until nothing is due.
func (w *writer) run() {
	done := false
	defer func() {
		if !done { // the Store called runtime.Goexit, which ends this goroutine
			go w.run()
		}
	}()
	for w.writeDue() {
	}
	done = true
}

// writeDue saves the records that are due, then deletes those that are due. It reports
// false if nothing was due, and the goroutine must then end.
func (w *writer) writeDue() bool {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if !w.proceed() {
		return false
	}
	for _, gone := range []bool{false, true} {
		if batch := w.take(gone); len(batch) > 0 {
			w.writeBatch(batch, gone)
			// The callers that have just been released may start or end other
			// activities. If they run first, those share the next batch.
			runtime.Gosched()
		}
	}
	return true
}

// proceed reports whether a write is due. If not, it marks the goroutine as ended. Both
// happen under one lock, so that wakeLocked starts another one for a write that becomes
// due from then on.
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

// take removes from dirty the records to be saved now or, if gone is true, those to be
// deleted, and returns a copy of their state. The urgent records and those that have not
// failed come first. Failing records follow, once their pause is over.
//
// While the Store is down, take returns only the urgent records or, if there are none, one
// record after each pause. It prefers a record that has not failed: if the Store is up
// again, it takes that one even if it refuses others.
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
		case w.records[r.id] != r:
			// A new execution has the ID, or Forget has deleted the checkpoint. Writing
			// the record would overwrite the newer state.
			replaced = append(replaced, r)
		case r.heldLocked():
			w.clearUrgentLocked(r)
			later = append(later, r)
		case r.gone == gone && (r.urgent || r.failing && retry || !r.failing && others):
			wanted = append(wanted, r)
		default:
			later = append(later, r)
		}
	}
	slices.SortStableFunc(wanted, func(x, y *record) int { return cmp.Compare(x.rank(), y.rank()) })
	// If one record is tried after each pause, it must not always be the first: the Store
	// may be up, and refuse that one. So another record of the same rank is chosen each
	// time.
	if limit == 1 && len(wanted) > 1 {
		n := 1
		for n < len(wanted) && wanted[n].rank() == wanted[0].rank() {
			n++
		}
		p.probes++
		// Knuth's multiplicative hashing spreads the choices evenly, whatever n is.
		k := int(p.probes * 2654435769 % uint32(n))
		wanted[0], wanted[k] = wanted[k], wanted[0]
	}
	rest := wanted[min(limit, len(wanted)):]
	clear(w.dirty[len(later):])
	w.dirty = append(later, rest...)
	for _, r := range wanted[:len(wanted)-len(rest)] {
		r.dirty, r.taken = false, true
		w.clearUrgentLocked(r)
		batch = append(batch, r.writeLocked())
	}
	for _, r := range replaced {
		r.dirty = false
		w.clearUrgentLocked(r)
		r.notifyLocked(errReplaced)
	}
	// left reports whether the limit has left records of a group in dirty. Their reminder
	// then stays due, so that the next round takes them without a pause.
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
	if w.writing = len(batch) > 0; !w.writing {
		// All failing records may have been replaced. No round follows that would notice.
		w.recoveredLocked(false)
	}
	return batch
}

// rank returns the place of a record in a batch, which has three groups: records that have
// not failed, records that failed together with others, and records that failed alone. The
// last are the most likely to be refused again.
func (r *record) rank() int {
	switch {
	case !r.failing:
		return 0
	case !r.failedAlone:
		return 1
	}
	return 2
}

// drain waits until the Store holds everything or ctx ends.
func (w *writer) drain(ctx context.Context) {
	w.rt.enter()
	// Everything is due at once: a Shutdown waits neither for SaveInterval nor for a pause.
	if len(w.dirty) > 0 {
		w.soon.due, w.saves.retry.due, w.deletes.retry.due = true, true, true
	}
	if (len(w.dirty) > 0 || w.running) && w.drained == nil && !w.lost {
		w.drained = make(chan struct{})
	}
	drained := w.drained
	if drained == nil {
		w.rt.leave()
		return
	}
	w.draining++
	w.rt.leave()
	select {
	case <-drained:
	case <-ctx.Done():
	}
	w.rt.enter()
	w.draining--
	w.rt.leave()
}
