package activitytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// ErrFault is the error of a call that fails because of a [Fault].
var ErrFault = errors.New("activitytest: the call fails because of a Fault")

// An effect is a call that leaves the process: a request, a statement, a write.
type effect struct {
	noun   string          // what messages call it
	call   call            // as in the trace
	site   string          // part of call.point that tells sites apart
	ends   <-chan struct{} // as in spot
	locked bool            // as in spot
	do     func() error    // makes the call

	local bool         // whether the call has not happened if it fails, so that there is no Fault after it
	reads bool         // whether the call changes nothing, so that there is no place after it
	fails func() error // makes the call fail because of a Fault before it; nil returns ErrFault
	late  func() error // result of a call that stalled after it was made; nil for that of do
}

// outside makes the call between two places.
func (a *attempt) outside(ctx context.Context, e effect) (err error) {
	c := a.enter(ctx, e.call)
	defer func() { a.leave(c, err) }()
	at := spot{body: c.body, what: "before " + e.noun, point: e.call.point, site: e.site, canFault: true, ends: e.ends, locked: e.locked}
	switch r := a.comeTo(at); {
	case r.over:
		return errOver
	case r.fault:
		a.show(c)
		if e.fails != nil {
			return e.fails()
		}
		return ErrFault
	}
	a.show(c)
	err = e.do()
	if e.reads {
		return err
	}
	at.what, at.canFault = "after "+e.noun, err == nil && !e.local
	switch r := a.comeTo(at); {
	case r.over:
		return errOver
	case r.fault:
		return ErrFault
	case r.woken && err == nil && e.late != nil:
		return e.late()
	}
	return err
}

// release takes back what dead processes hold, as the system does, and makes the last power loss.
func (w *World) release() {
	w.mu.Lock()
	dead := map[*life]bool{}
	for _, l := range w.lives {
		dead[l] = l.dead || w.ended
	}
	var lost *state
	if n := len(w.lives); n > 0 {
		lost, w.lives[n-1].lost = w.lives[n-1].lost, nil
	}
	disks := slices.Collect(maps.Values(w.disks))
	conns := slices.Clone(w.conns)
	w.mu.Unlock()
	for _, c := range conns {
		if c.of(dead) {
			_ = c.shut()
		}
	}
	for _, d := range disks {
		d.release(dead)
	}
	if lost != nil {
		text := w.losePower(disks, *lost)
		w.mu.Lock()
		w.notes = append(w.notes, text)
		w.mu.Unlock()
	}
}

// returned passes the place at which a process has returned nil. What it has told its user is then true, also
// after a power loss, and there is no other life that could mend it.
func (w *World) returned(l *life) {
	w.mu.Lock()
	p := w.count(place{what: "after return"})
	n := w.unsynced()
	switch {
	case w.run == nil && n > 0:
		w.places = append(w.places, placed{place: p, site: siteHere(p.what, ""), at: time.Now(), unsynced: n, last: true})
	case w.run != nil && w.done == 0 && w.differs == "" && w.run.interruptions[0].place == p:
		w.done++
		w.note(l, "", 0, fmt.Sprintf("<<%s %s>>", powerLoss, p.here()))
		l.lost = &w.run.interruptions[0].state
	}
	w.mu.Unlock()
	w.release()
}

// losePower makes a power loss of all disks, and describes it.
func (w *World) losePower(all []*FS, s state) string {
	var disks []*disk
	for _, d := range all {
		d.mu.Lock()
		defer d.mu.Unlock()
		disks = append(disks, d.disk)
	}
	text := losses(lose(disks, s))
	for _, d := range disks {
		if err := d.restore(); err != nil {
			w.t.Errorf("activitytest: a power loss cannot be made: %v", err)
		}
	}
	return text
}

// forget lets the body change the files of all disks between two calls of World.Run.
func (w *World) forget() {
	w.mu.Lock()
	disks := slices.Collect(maps.Values(w.disks))
	w.mu.Unlock()
	for _, d := range disks {
		d.mu.Lock()
		if d.disk != nil && len(d.disk.changes) == 0 && len(d.files) == 0 {
			d.disk.forget()
		}
		d.mu.Unlock()
	}
}

// unsynced returns the number of changes that a power loss may lose. World.mu is held.
func (w *World) unsynced() (n int) {
	for _, d := range w.disks {
		n += d.unsynced()
	}
	return n
}
