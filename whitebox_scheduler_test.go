// White box: these look at the scheduler's queue, which only the inside shows.

package activity

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// checkQueue checks that q is a heap, and that each alarm knows its place.
func checkQueue(t *testing.T, q alarms) {
	t.Helper()
	for i, al := range q {
		if place := *al.place(); int(place) != i+1 {
			t.Fatalf("the alarm at %d takes its place for %d", i+1, place)
		}
		if parent := q[max(0, (i+1)/2-1)]; parent.when > al.when {
			t.Fatalf("%d, at %d, is later than %d, which is below it", parent.when, *parent.place(), al.when)
		}
	}
}

// anAlarm is an activity's or a sleeper's.
func anAlarm(when instant) alarm {
	if when%2 == 0 {
		return alarm{when: when, a: &activity{}}
	}
	return alarm{when: when, s: &sleeper{}}
}

// Given a queue of alarms, when one at any place is removed, then the others stay in
// order.
func TestQueue_Remove(t *testing.T) {
	// The last of these is earlier than what stands above some that are removed.
	whens := []instant{1, 100, 2, 101, 102, 3, 4, 103, 104, 105, 106, 5, 6, 7, 8}
	for i := range whens {
		var q alarms
		for _, when := range whens {
			q.push(anAlarm(when))
		}
		checkQueue(t, q)
		al := q[i]
		q.remove(*al.place())
		q.remove(*al.place()) // it is not in it any more
		checkQueue(t, q)
		if len(q) != len(whens)-1 || *al.place() != 0 || slices.Contains(q, al) {
			t.Errorf("%d was not removed", al.when)
		}
	}
}

// Given random changes of a queue, then it gives the same alarms as a sorted slice.
func TestQueue_Random(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var q alarms
		var all []alarm
		for range 200 {
			if n := len(all); n == 0 || r.IntN(5) < 3 {
				al := anAlarm(instant(r.IntN(50)))
				q.push(al)
				all = append(all, al)
			} else {
				i := r.IntN(n)
				q.remove(*all[i].place())
				all = slices.Delete(all, i, i+1)
			}
			checkQueue(t, q)
		}
		slices.SortFunc(all, func(a, b alarm) int { return cmp.Compare(a.when, b.when) })
		for _, want := range all {
			if got := q.next(); got != want.when {
				t.Fatalf("the next is at %d, want %d", got, want.when)
			}
			q.remove(1)
			checkQueue(t, q)
		}
		if len(q) != 0 || q.next() != never {
			t.Fatalf("%d are left", len(q))
		}
	}
}

// Given a Sleep that is cut short, then it leaves no alarm in the queue.
func TestQueue_CanceledSleepLeavesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := New(Config{Logger: slog.New(slog.DiscardHandler)})
		queued := func() int {
			rt.mu.Lock()
			defer rt.mu.Unlock()
			return len(rt.scheduler.alarms)
		}
		errEnough := errors.New("enough")
		err := rt.Run(t.Context(), Options{RetryPolicy: RetryPolicy{MaximumAttempts: 1}}, func(ctx Context) error {
			derived, cancel := context.WithCancelCause(ctx)
			child, _ := FromContext(derived)
			var wg sync.WaitGroup
			for i := range 10 {
				wg.Go(func() {
					if err := child.Sleep(time.Duration(1+i) * time.Hour); err != errEnough {
						t.Errorf("Sleep returned %v", err)
					}
				})
			}
			synctest.Wait()
			if n := queued(); n != 10 {
				t.Errorf("%d sleep, want 10", n)
			}
			cancel(errEnough)
			wg.Wait()
			if n := queued(); n != 0 {
				t.Errorf("%d alarms are left", n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Given many that wait for a slot until one instant, when their alarms are due, then none of
// them stands in the queue for a slot any more: each slot that is freed at that instant would
// else look at all of them.
func TestSlots_DueWaitersLeaveTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := New(Config{MaxConcurrent: 1, Logger: slog.New(slog.DiscardHandler)})
		opts := Options{ScheduleToStartTimeout: time.Second}
		for range 100 {
			_, err := rt.Start(t.Context(), opts, func(ctx Context) error { return ctx.Sleep(2 * time.Second) })
			if err != nil {
				t.Fatal(err)
			}
		}
		last, err := rt.Start(t.Context(), Options{}, func(Context) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		rt.mu.Lock()
		rt.now = instant(time.Second)
		due, _ := rt.takeDueLocked()
		if n := rt.slots.queue.Len(); len(due) != 99 || n != 1 {
			t.Errorf("%d alarms are due, and %d activities wait for a slot", len(due), n)
		}
		for _, d := range due {
			d.a.alarmLocked(0)
		}
		rt.leave()
		if _, err := last.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if s := rt.Stats(); s.Failed != 99 || s.Completed != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// Rule 9. Given a goroutine that takes in the returns of abandoned functions, when more
// functions return meanwhile, then they wait for it, and it takes in all of them.
func TestAbandoned_ReturnsAreTakenInTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := New(Config{Logger: slog.New(slog.DiscardHandler)})
		gates := []chan struct{}{make(chan struct{}), make(chan struct{}), make(chan struct{})}
		var handles []*Handle[struct{}]
		for _, gate := range gates {
			opts := Options{HeartbeatTimeout: time.Second, MaxAbandoned: NoOverlap}
			h, err := rt.Start(t.Context(), opts, func(ctx Context) error {
				if ctx.Info().Attempt == 1 {
					<-gate
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			handles = append(handles, h)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		check := func(when string, waiting int, busy bool, want State) {
			t.Helper()
			synctest.Wait()
			rt.returns.mu.Lock()
			if n := len(rt.returns.waiting); n != waiting || rt.returns.busy != busy {
				t.Errorf("%s: %d returns wait, and somebody is busy: %v; want %d, %v", when, n, rt.returns.busy, waiting, busy)
			}
			rt.returns.mu.Unlock()
			for i, h := range handles {
				if got := h.Status().State; got != want {
					t.Errorf("%s: activity %d is %s, want %s", when, i, got, want)
				}
			}
		}
		check("at first", 0, false, StateBlocked)
		rt.returns.mu.Lock()
		rt.returns.busy = true
		rt.returns.mu.Unlock()
		close(gates[0])
		close(gates[1])
		check("somebody is busy", 2, true, StateBlocked)
		rt.returns.mu.Lock()
		rt.returns.busy = false
		rt.returns.mu.Unlock()
		close(gates[2])
		check("in the end", 0, false, StateCompleted)
	})
}
