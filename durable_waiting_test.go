package activity_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 20. Given 900 goroutines that start an activity each, of which few find a slot,
// when all have ended, then waiting has not cost them many writes more.
func TestStoreStart_ManyThatWaitShareSaves(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 10}, func(t *testing.T, e *env, s *faultyStore) {
		const commit = 5 * time.Millisecond
		slow := func(context.Context) error { time.Sleep(commit); return nil }
		s.on("Save", slow)
		s.on("Delete", slow)
		var starts sync.WaitGroup
		for i := range 900 {
			starts.Go(func() {
				h, err := activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context, _ struct{}) (int, error) {
					return 0, ctx.Sleep(20 * time.Millisecond)
				}, struct{}{})
				if checkErr(t, err, nil); err == nil {
					checkErr(t, wait(t, h), nil)
				}
			})
		}
		starts.Wait()
		n := len(s.of("Save")) + len(s.of("Delete"))
		if n > 550 { // there were 537 before what waits was stored
			t.Errorf("%d commits", n)
		}
	})
}

// Rule 20. Given 20 activities that were accepted and two slots, when the process is killed,
// then the next one recovers all of them.
func TestStoreStart_AcceptedSurvivesKill(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, e *env, s *faultyStore) {
		const n = 20
		for i := range n {
			_, err := activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i), Name: "job"}, func(ctx activity.Context, _ int) (int, error) { return 0, untilEnded(ctx) }, i)
			checkErr(t, err, nil)
		}
		after, s := e.reboot(s, activity.Config{MaxConcurrent: 2})
		var mu sync.Mutex
		ran := map[string]int{}
		def := &activity.Definition[int, int]{Name: "job", Func: func(ctx activity.Context, in int) (int, error) {
			mu.Lock()
			ran[fmt.Sprint(in)] = ctx.Info().Attempt
			mu.Unlock()
			return 0, ctx.Sleep(time.Duration(1+in) * time.Second)
		}}
		recovered, err := after.rt.Recover(after.ctx, def)
		if recovered != n || err != nil {
			t.Errorf("%d are recovered, %v", recovered, err)
		}
		after.pass(time.Hour)
		for i := range n {
			attempt := 1 // no attempt had begun
			if i < 2 {
				attempt = 2
			}
			if got := ran[fmt.Sprint(i)]; got != attempt {
				t.Errorf("%d ran in attempt %d, want %d", i, got, attempt)
			}
			s.want(activity.Checkpoint{ID: fmt.Sprint(i)})
		}
	})
}

// Rule 20. Given a Store that does not take what would have to wait, then Start is refused
// with the Store's error, and what stood for the ID stands.
func TestStoreStart_UnsavedWaitIsRefused(t *testing.T) {
	for _, before := range []activity.CheckpointState{0, activity.CheckpointFailed} {
		t.Run(before.String(), func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				stood := activity.Checkpoint{ID: "a"}
				if before != 0 {
					stood = s.put(activity.Checkpoint{State: before, Attempt: 1, Details: details(1)})
				}
				busy := e.start(activity.Options{}, untilDone(time.Second))
				s.on("Save", failing)
				l := e.launch(e.ctx, job, noop)
				checkErr(t, l.err, errDisk)
				s.want(stood)
				s.on("Save", nil)
				e.pass(time.Second)
				checkErr(t, e.end(busy), nil)
				checkErr(t, e.end(e.start(job, noop)), nil)
			})
		})
	}
}

// Rule 20. Given a slow Save of an activity that waits, when it gets its slot meanwhile, then
// its attempt starts when its start is saved too.
func TestStoreStart_SlotDuringSaveOfWait(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(activity.Options{}, untilDone(time.Second))
		s.on("Save", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		l := e.launch(e.ctx, job, untilEnded)
		e.pass(3*time.Second - 1)
		if l.returned.Load() {
			t.Error("Start has returned before the Store had it")
		}
		e.pass(1)
		if !l.returned.Load() || l.err != nil {
			t.Fatalf("Start: %v, %v", l.returned.Load(), l.err)
		}
		checkState(t, l.h, activity.StateWaiting)
		e.pass(3 * time.Second)
		checkState(t, l.h, activity.StateRunning)
		e.want("a", "0s scheduled 0", "6s attempt started 1")
	})
}

// Rule 35. Given a stored backoff, when the wall clock was wrong before or is now, then the
// wait is no longer than the backoff was when it was stored, and no shorter than it says.
func TestBackoff_WallClock(t *testing.T) {
	const hour = time.Hour
	for name, test := range map[string]struct {
		updated, next time.Duration // relative to now
		want          time.Duration
	}{
		"in time":             {-hour, hour, hour},
		"just over":           {-hour, 0, 0},
		"long over":           {-3 * hour, -hour, 0},
		"set back by a day":   {24 * hour, 26 * hour, 2 * hour},
		"set back by a year":  {365 * 24 * hour, 365*24*hour + 1, 1},
		"boot in 1970":        {56 * 365 * 24 * hour, 56*365*24*hour + hour, hour},
		"next before updated": {-hour, -2 * hour, 0},
	} {
		for _, state := range []activity.CheckpointState{activity.CheckpointWaiting, activity.CheckpointInterrupted} {
			t.Run(name+"/"+state.String(), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					s.put(activity.Checkpoint{
						State: state, Attempt: 1, ScheduledAt: e.base.Add(-9 * hour), UpdatedAt: e.base.Add(test.updated), NextAttempt: e.base.Add(test.next), LastFailure: "boom",
					})
					e.start(job, untilEnded)
					if test.want > 0 {
						e.pass(test.want - 1)
						e.wantStarted("a", 2, -1)
						e.pass(1)
					}
					e.wantStarted("a", 2, test.want)
				})
			})
		}
	}
}

// Rule 20. Given a stored activity with a schedule-to-close timeout, when its process once
// ran with the clock at 1970, then neither that nor the right time afterwards costs it.
func TestWallClock_BootIn1970(t *testing.T) {
	const day = 24 * time.Hour
	for name, ntp := range map[string]bool{"the clock is set in the next boot": false, "the clock is set in that boot": true} {
		for _, stored := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/stored %v", name, stored), func(t *testing.T) {
				onWallClock(t, func(t *testing.T, c *wallClock) {
					const wrong = -56 * 365 * day
					opts := job
					opts.ScheduleToCloseTimeout = day
					s := newStore(t)
					scheduled := c.at(-time.Hour, 0)
					if stored {
						s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, ScheduledAt: scheduled, UpdatedAt: scheduled})
					} else {
						scheduled = c.at(0, 0)
					}
					c.set(wrong)
					for boot := range 3 {
						rt := activity.New(activity.Config{Clock: c, Logger: quiet, Store: s})
						h := start(t, rt, opts, func(ctx activity.Context) error {
							for i := range 20 {
								_ = ctx.Heartbeat(boot, i) // so that it is saved
								if err := ctx.Sleep(time.Minute); err != nil {
									return err
								}
							}
							return untilEnded(ctx)
						})
						time.Sleep(10 * time.Minute)
						if boot == 1 || ntp {
							c.set(0)
						}
						time.Sleep(20 * time.Minute)
						checkErr(t, rt.Shutdown(t.Context()), nil)
						checkErr(t, wait(t, h), activity.ErrShutdown)
						got := s.get("a").ScheduledAt
						if boot == 0 && !ntp && !stored {
							scheduled = got // by the wrong clock, which nobody can know
						} else if boot == 1 && !ntp && !stored {
							scheduled = c.at(0, 0) // once the clock is right, the age is right
						}
						if !got.Equal(scheduled) {
							t.Errorf("boot %d: the Store has it scheduled at %s, want %s", boot, got, scheduled)
						}
					}
				})
			})
		}
	}
}
