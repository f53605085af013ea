package activity

import (
	"context"
	"errors"
	"fmt"
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
	records map[string]*record // by ID; nil without a Store
	dropped uint64             // how many records were dropped from records, with which the Store has changed
	dirty   []*record
	urgent  int  // how many of dirty are urgent
	saves   pace // of the records that are not gone
	deletes pace // of the records that are gone
	running bool
	drained chan struct{} // closed when nothing is dirty; nil if nobody waits for that

	turn chan struct{} // held while writing to the Store
}

func (w *writer) init(rt *Runtime) {
	w.rt, w.records, w.turn = rt, map[string]*record{}, make(chan struct{}, 1)
	for _, p := range []*pace{&w.saves, &w.deletes} {
		p.wake = func() { p.due = true }
	}
}

// saveLocked makes the record dirty, to be saved at once. If f is not nil, it is
// called once that was tried.
func (r *record) saveLocked(rt *Runtime, f waiter) {
	w := &rt.writer
	if f != nil {
		r.waiters = append(r.waiters, f)
	}
	w.gatherLocked(r)
	if !r.urgent {
		r.urgent = true
		w.urgent++
	}
}

// saveSoonLocked makes the record dirty, to be saved within Config.SaveInterval.
func (r *record) saveSoonLocked(rt *Runtime) {
	w := &rt.writer
	w.gatherLocked(r)
	if w.saves.place == 0 {
		w.saves.setLocked(rt, rt.now.add(rt.cfg.SaveInterval))
	}
}

func (w *writer) gatherLocked(r *record) {
	r.unsaved = true
	if !r.dirty {
		r.dirty = true
		w.dirty = append(w.dirty, r)
	}
}

// dropLocked drops the record of an ID, because the Store holds what is to remain.
func (w *writer) dropLocked(id string) {
	delete(w.records, id)
	w.dropped++
}

// A pace says when the next Save, or the next Delete, is due if nothing is
// urgent. Guarded by Runtime.mu.
type pace struct {
	sleeper
	due      bool    // the alarm has rung
	failures int     // failed calls in a row, except those made during a pause
	retryAt  instant // the end of the pause
}

func (p *pace) setLocked(rt *Runtime, when instant) {
	rt.scheduler.alarms.remove(p.place)
	rt.scheduler.alarms.push(alarm{when: when, s: &p.sleeper})
}

const maxStorePause = 5 * time.Second // between two tries of a Store that fails

// pauseLocked counts a failure, and returns the time until the Store is tried
// again, if nothing urgent comes first.
func (p *pace) pauseLocked(rt *Runtime) time.Duration {
	if p.failures == 0 || rt.now >= p.retryAt { // else it is a pause, or the clock was set back
		p.failures++
	}
	interval := rt.cfg.SaveInterval
	d := max(interval, min(maxStorePause, interval<<min(p.failures-1, 16)))
	p.retryAt = rt.now.add(d)
	return d
}

func (w *writer) pace(gone bool) *pace {
	if gone {
		return &w.deletes
	}
	return &w.saves
}

func (w *writer) dueLocked() bool { return w.urgent > 0 || w.saves.due || w.deletes.due }

// wakeLocked starts the writer's goroutine if there is something to do.
func (w *writer) wakeLocked() {
	if !w.running && w.dueLocked() {
		w.running = true
		go w.run()
	}
}

// run is the writer's goroutine.
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

// writeDue saves what is to be saved, and then deletes what is to be deleted. It
// reports whether there may be more to do at once.
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
	waiters []waiter
	syncs   []chan<- error
}

// take returns the dirty records that are gone, or those that are not. Those that
// are gone it returns only if one of them is urgent or a Delete is due, so that a
// Delete that fails is not tried again with every Save.
func (w *writer) take(gone bool) (batch []write) {
	rt := w.rt
	rt.enter()
	defer rt.leave()
	p := w.pace(gone)
	if gone && !p.due && !slices.ContainsFunc(w.dirty, func(r *record) bool { return r.urgent && r.gone }) {
		return nil
	}
	p.due = false
	rt.scheduler.alarms.remove(p.place)
	later := w.dirty[:0]
	for _, r := range w.dirty {
		if r.gone != gone {
			later = append(later, r)
			continue
		}
		r.dirty = false
		if r.urgent {
			r.urgent = false
			w.urgent--
		}
		if w.records[r.id] == r {
			batch = append(batch, r.writeLocked())
			continue
		}
		for _, c := range r.syncs {
			c <- errReplaced
		}
		r.syncs = nil
	}
	clear(w.dirty[len(later):])
	w.dirty = later
	return batch
}

// writeLocked is the record as it is now.
func (r *record) writeLocked() write {
	x := write{r: r, cp: r.last, failure: r.failure, waiters: r.waiters, syncs: r.syncs}
	if a := r.a; a != nil {
		x.cp, x.failure = r.checkpointLocked()
		x.a, x.latest = a, a.latest
	}
	r.sequence++
	x.cp.Sequence = r.sequence
	r.waiters, r.syncs, r.start.written = nil, nil, true
	return x
}

// fill completes the checkpoint. It calls user code, so no lock may be held.
func (x *write) fill(rt *Runtime) {
	if a := x.a; a != nil {
		a.mu.Lock()
		x.r.fresh = false
		x.cp.Details = a.details.copy()
		if t := x.latest; t != nil && t.progressed {
			x.cp.Progressed = min(t.number, x.cp.Attempt)
			if a.opts.RetryPolicy.ResetOnProgress {
				x.cp.CountedFrom = t.number - 1
			}
		}
		a.mu.Unlock()
	}
	x.cp.LastFailure = rt.lastFailure(x.a, x.failure, x.cp.LastFailure)
}

var (
	errStoreGoexit = errors.New("the Store called runtime.Goexit")
	errReplaced    = errors.New("a new execution of the ID has them, or they were forgotten")
)

// bring brings a batch to the Store.
func (w *writer) bring(batch []write, gone bool) {
	rt, ctx := w.rt, context.Background()
	err := errStoreGoexit
	defer func() { w.tried(batch, gone, err) }() // deferred for a Store that calls runtime.Goexit
	if gone {
		ids := make([]string, len(batch))
		for i := range batch {
			ids[i] = batch[i].r.id
		}
		err = rt.callStore("Delete", func() error { return rt.cfg.Store.Delete(ctx, ids) })
		return
	}
	cps := make([]Checkpoint, len(batch))
	for i := range batch {
		batch[i].fill(rt)
		cps[i] = batch[i].cp
	}
	err = rt.callStore("Save", func() error { return rt.cfg.Store.Save(ctx, cps) })
}

// tried calls the waiters, and keeps what the Store did not take.
func (w *writer) tried(batch []write, gone bool, err error) {
	rt := w.rt
	rt.enter()
	defer rt.leave()
	for i := range batch {
		for _, f := range batch[i].waiters {
			f(err)
		}
		for _, c := range batch[i].syncs {
			c <- err // which has room
		}
		r := batch[i].r
		switch current := w.records[r.id] == r; {
		case err != nil && current:
			w.gatherLocked(r)
		case err == nil && !r.dirty:
			if r.unsaved = false; current && r.a == nil {
				w.dropLocked(r.id)
			}
		}
	}
	p := w.pace(gone)
	if err == nil {
		p.failures, p.retryAt = 0, rt.now
		return
	}
	pause := p.pauseLocked(rt)
	if len(w.dirty) > 0 {
		p.setLocked(rt, p.retryAt)
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
func (w *writer) drain(ctx context.Context) {
	w.rt.enter()
	if len(w.dirty) > 0 {
		w.saves.due, w.deletes.due = true, true
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
