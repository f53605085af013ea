package activity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"
)

// The writer of records: see record.

const (
	maxLastFailure = 16 << 10
	maxStorePause  = 5 * time.Second // between two tries of a Store that fails
)

var errStoreGoexit = errors.New("the Store called runtime.Goexit")

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
	if rt.saves.place == 0 {
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
	sleeper          // when they are due, if nothing is urgent
	due      bool    // the alarm has come
	failures int     // in a row, each after the pause that followed the one before
	retryAt  instant // the end of that pause
}

func (l *lane) set(rt *Runtime, when instant) {
	rt.queue.remove(l.place)
	rt.queue.push(alarm{when: when, s: &l.sleeper})
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
	rt.queue.remove(l.place)
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
