package activitytest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/seed-9da638b0/activity/internal/bodywatch"
)

// A body is the number of a body of activity.RangeParallel. The zero body is none.
type body struct {
	ok bool // false for none
	i  int
}

func (b body) String() string { return fmt.Sprintf("body %d", b.i) }

// bodyKey is the key of a body of the attempt. Activities that the body starts inherit it.
type bodyKey struct{ of *attempt }

// These times are virtual. If a body returns at the instant at which another one reaches the
// place of an interruption, it is recorded before the interruption. Its worker begins the next
// body after the interruption.
const (
	turnDelay = 2 * time.Nanosecond // from a body's return to its turn, and from its record to the worker's next body
	settle    = 3 * time.Nanosecond // from reaching the place of an interruption to the interruption
)

var _ bodywatch.Watcher = (*attempt)(nil)

// WatchBody implements bodywatch.Watcher. It records bodies that return at one instant one
// after the other, the lowest number first, and lets them continue together, so that the
// places do not depend on the order in which their goroutines run.
func (a *attempt) WatchBody(ctx context.Context, i int, run func(ctx context.Context) error, record func() error) error {
	w, me, b := a.life.w, goid(), body{true, i}
	w.mu.Lock()
	if a.bodies == nil {
		a.bodies = map[string]body{}
	}
	a.bodies[me] = b
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(a.bodies, me)
		w.mu.Unlock()
	}()
	w.awaitTurn(spot{body: b})
	if a.life.stopped() {
		return errOver
	}
	if err := run(context.WithValue(ctx, bodyKey{a}, b)); err != nil {
		return err
	}
	err := a.inTurn(b, record)
	time.Sleep(turnDelay) // the bodies that returned at the same instant are recorded now
	return err
}

// A turn is a body that has returned and waits to be recorded.
type turn struct {
	at   time.Time // when the body returned
	body body
}

// inTurn calls record when it is the turn of the body.
func (a *attempt) inTurn(b body, record func() error) error {
	w, t := a.life.w, turn{time.Now(), b}
	w.mu.Lock()
	at, _ := slices.BinarySearchFunc(a.turns, t, func(s, t turn) int {
		return cmp.Or(s.at.Compare(t.at), cmp.Compare(s.body.i, t.body.i))
	})
	a.turns = slices.Insert(a.turns, at, t)
	w.mu.Unlock()
	time.Sleep(turnDelay) // the others of this instant join the queue
	w.mu.Lock()
	for a.turns[0] != t {
		a.turned.Wait()
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		a.turns = a.turns[1:]
		a.turned.Broadcast()
		w.mu.Unlock()
	}()
	return record()
}

// bodyOf returns the body that makes a call with ctx: that of the calling goroutine or, if it
// has none because a body has started it, that of ctx. World.mu is held.
func (a *attempt) bodyOf(ctx context.Context) body {
	if len(a.bodies) == 0 { // the goroutine's name takes microseconds
		return body{}
	}
	if b, ok := a.bodies[goid()]; ok {
		return b
	}
	b, _ := ctx.Value(bodyKey{a}).(body)
	return b
}

// inOrder sorts the places of bodies that were passed at one instant, so that their order
// does not depend on the order in which the goroutines ran.
func inOrder(places []placed) {
	for from := 0; from < len(places); {
		to := from
		for to < len(places) && places[to].at.Equal(places[from].at) && places[to].id == places[from].id {
			to++
		}
		slices.SortStableFunc(places[from:to], func(p, q placed) int {
			switch {
			case p.body.ok != q.body.ok && p.body.ok:
				return 1
			case p.body.ok != q.body.ok:
				return -1
			}
			return cmp.Compare(p.body.i, q.body.i)
		})
		from = to
	}
}
