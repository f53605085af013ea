package activity_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// A wallClock is a bubble's clock on a machine whose wall clock moves by itself, as it
// does when it is set, or when the machine sleeps.
type wallClock struct {
	clock.Clock
	begun time.Time // in the bubble
	base  time.Time // of outside it: a bubble's time has no monotonic reading
	moved atomic.Int64
}

func (c *wallClock) Now() time.Time {
	return moveWall(c.base.Add(time.Since(c.begun)), time.Duration(c.moved.Load()))
}

func (c *wallClock) set(moved time.Duration) { c.moved.Store(int64(moved)) }

// at is the time of day d after the start, on a wall clock that has moved.
func (c *wallClock) at(d, moved time.Duration) time.Time { return c.base.Round(0).Add(d + moved) }

// moveWall moves t's wall reading alone, which no method of a Time does.
func moveWall(t time.Time, d time.Duration) time.Time {
	const nanoseconds = 1<<30 - 1
	wall := (*uint64)(unsafe.Pointer(&t))
	d += time.Duration(*wall & nanoseconds)
	s := d / time.Second
	if d %= time.Second; d < 0 {
		d, s = d+time.Second, s-1
	}
	*wall = *wall&^nanoseconds + uint64(s)<<30 + uint64(d)
	return t
}

func onWallClock(t *testing.T, test func(t *testing.T, c *wallClock)) {
	t.Helper()
	base := time.Now()
	if moved := moveWall(base, time.Hour); moved.Sub(base) != 0 || !moved.Round(0).Equal(base.Round(0).Add(time.Hour)) {
		t.Skip("a Time is not what it was")
	}
	synctest.Test(t, func(t *testing.T) { test(t, &wallClock{Clock: clock.New(), begun: time.Now(), base: base}) })
}

// Given a wall clock that is set, forwards or back, by more than 10 ms, then times of day
// follow within 100 ms, and timeouts and intervals stay.
func TestWallClock_IsSet(t *testing.T) {
	const look, slack = 100 * time.Millisecond, 10 * time.Millisecond
	for _, moved := range []time.Duration{time.Hour, -time.Hour, slack + 1, -slack - 1, slack, -slack} {
		t.Run(fmt.Sprint(moved), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				var j journal
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, Observer: j.observe})
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					for range 2 {
						_ = ctx.Heartbeat()
						_ = ctx.Sleep(look - 1)
						_ = ctx.Heartbeat()
						_ = ctx.Sleep(1)
					}
					return nil
				})
				synctest.Wait() // it has looked at the beginning
				c.set(moved)
				checkErr(t, wait(t, h), nil)
				seen := moved
				if moved == slack || moved == -slack {
					seen = 0
				}
				latest := c.at(0, 0)
				want := []time.Time{latest, latest} // of EventScheduled and EventAttemptStarted
				for _, d := range []time.Duration{0, look - 1, look, 2*look - 1, 2 * look} {
					if d < look {
						latest = c.at(d, 0)
					} else if at := c.at(d, seen); at.After(latest) {
						latest = at // an activity's events do not run backwards
					}
					want = append(want, latest)
				}
				var got []time.Time
				for _, e := range j.all() {
					got = append(got, e.Time)
				}
				checkDiff(t, "times of the events", got, want)
			})
		})
	}
}

// Given a wall clock that is set, then each attempt keeps the time of day at which it
// started.
func TestWallClock_OfEachAttempt(t *testing.T) {
	for _, moved := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(moved.String(), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, MaxConcurrent: 1})
				var got []activity.Info
				look := func(ctx activity.Context) error {
					got = append(got, ctx.Info())
					_ = ctx.Sleep(2 * time.Second)
					got = append(got, ctx.Info())
					if ctx.Info().Attempt == 1 {
						return activity.RetryAfter(errBoom, time.Second)
					}
					return nil
				}
				opts := activity.Options{Name: "job", StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}
				first := start(t, rt, opts, look)
				time.Sleep(time.Second)
				c.set(moved)
				checkErr(t, wait(t, first), nil)
				busy := start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
				waits := start(t, rt, opts, func(ctx activity.Context) error {
					got = append(got, ctx.Info())
					return nil
				})
				c.set(2 * moved) // while it waits for its slot
				checkErr(t, wait(t, busy), nil)
				checkErr(t, wait(t, waits), nil)

				type day struct{ Scheduled, Started, Deadline time.Time }
				var days []day
				for _, i := range got {
					days = append(days, day{i.ScheduledAt, i.StartedAt, i.Deadline})
				}
				begun, again := c.at(0, 0), c.at(3*time.Second, moved)
				last := c.at(6*time.Second, 2*moved)
				checkDiff(t, "what the attempts are told", days, []day{
					{begun, begun, begun.Add(time.Minute)},
					{begun, begun, begun.Add(time.Minute)},
					{begun, again, again.Add(time.Minute)},
					{begun, again, again.Add(time.Minute)},
					{c.at(5*time.Second, moved), last, last.Add(time.Minute)},
				})
				if s := first.Status(); !s.ScheduledAt.Equal(begun) || !s.StartedAt.Equal(again) {
					t.Errorf("the Status says scheduled at %s, started at %s; want %s and %s", s.ScheduledAt, s.StartedAt, begun, again)
				}
			})
		})
	}
}

// Rule 20. Given a wall clock that was set, when an execution continues from the Store,
// then it has the schedule time that the Store holds.
func TestWallClock_OfCheckpoint(t *testing.T) {
	for _, moved := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(moved.String(), func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				s := newStore(t)
				rt := activity.New(activity.Config{Clock: c, Logger: quiet, Store: s})
				c.set(moved)
				time.Sleep(time.Second)
				c.set(2 * moved) // the Store is asked at one time of day, and answers at another
				at := c.at(0, -24*time.Hour)
				s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, ScheduledAt: at, UpdatedAt: at})
				s.on("Load", func(ctx context.Context) error {
					time.Sleep(time.Second)
					c.set(3 * moved)
					time.Sleep(time.Second)
					return nil
				})
				h := start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error {
					i := ctx.Info()
					checkDiff(t, "when it was scheduled, and started", []time.Time{i.ScheduledAt, i.StartedAt}, []time.Time{at, c.at(3*time.Second, 3*moved)})
					return nil
				})
				checkErr(t, wait(t, h), nil)
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}
