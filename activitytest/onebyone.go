package activitytest

import (
	"cmp"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// A goroutine that waits for a mutex stops the bubble's time, even if the mutex ends with the attempt that is to
// be interrupted. So if a run is inconclusive for this reason, it is repeated with one goroutine at a time: the
// next one leaves its place only when the current one is blocked. While one of them is interrupted, the
// others are at places, and do not wait for its locks.

// A queue is the goroutines that wait at places for their turns.
type queue struct {
	on      bool   // whether one goroutine runs at a time; set once, before the run
	turn    string // goroutine that runs, or was the last to do so
	waiting []*waiting
	giving  bool      // whether giveTurns runs
	paused  time.Time // no goroutine gets its turn until after this time
}

type waiting struct {
	body body
	goid string
	turn chan struct{} // closed when it is its turn
}

// If queue.on is set, awaitTurn waits for the turn of the calling goroutine.
func (w *World) awaitTurn(s spot) {
	q := &w.queue
	if !q.on {
		return
	}
	me := goid()
	w.mu.Lock()
	if q.turn == "" || q.turn == me || w.ended { // at the end, all continue
		q.turn = me
		w.mu.Unlock()
		return
	}
	next := &waiting{s.body, me, make(chan struct{})}
	at, _ := slices.BinarySearchFunc(q.waiting, next, func(a, b *waiting) int {
		i, _ := strconv.Atoi(a.goid)
		j, _ := strconv.Atoi(b.goid)
		return cmp.Or(cmp.Compare(a.body.i, b.body.i), cmp.Compare(i, j))
	})
	q.waiting = slices.Insert(q.waiting, at, next)
	if !q.giving {
		q.giving = true
		go w.giveTurns()
	}
	w.mu.Unlock()
	select {
	case <-next.turn:
	case <-s.ends: // another goroutine waits for a lock that the caller holds
		w.mu.Lock()
		q.waiting = slices.DeleteFunc(q.waiting, func(o *waiting) bool { return o == next })
		w.mu.Unlock()
	}
}

// releaseAll lets all goroutines continue. World.mu is held.
func (w *World) releaseAll() {
	for _, next := range w.queue.waiting {
		close(next.turn)
	}
	w.queue.waiting = nil
}

// giveTurns gives the waiting goroutines their turns, whenever all others are blocked.
func (w *World) giveTurns() {
	for q := &w.queue; ; {
		time.Sleep(time.Nanosecond)
		w.mu.Lock()
		switch {
		case len(q.waiting) == 0:
			q.giving = false
			w.mu.Unlock()
			return
		case time.Now().After(q.paused):
			next := q.waiting[0]
			q.waiting = q.waiting[1:]
			q.turn = next.goid
			close(next.turn)
		}
		w.mu.Unlock()
	}
}

// pause lets all other goroutines in the bubble run until they are blocked, because only then does the
// bubble's time advance. If one of them waits for a lock that the caller holds, time stands still, and pause
// returns at once. It looks for such locks only where there may be some, because that takes a dump.
func (w *World) pause(d time.Duration, s spot) {
	end := time.Now().Add(d)
	w.mu.Lock()
	if w.queue.paused.Before(end) {
		w.queue.paused = end
	}
	w.mu.Unlock()
	if (s.locked || w.queue.on) && w.awaited() {
		return
	}
	select {
	case <-time.After(d):
	case <-s.ends:
	}
}

// awaited reports whether a goroutine waits for a lock, once all others are blocked or after 1,000 looks.
func (w *World) awaited() (lock bool) {
	me, runs := goid(), true
	for looks := 0; runs && looks < 1000; looks++ { // one may wait forever for something outside of the bubble
		runtime.Gosched()
		runs, lock = false, false
		for _, g := range w.goroutines() {
			lock = lock || g.waitsForLock()
			runs = runs || g.id != me && !g.durable && !g.waitsForLock() && !g.waitsForNetwork()
		}
	}
	return lock
}
