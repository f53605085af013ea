package activitytest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

var detailsRuns = flag.Int("details.runs", 200, "the highest number of runs of each case of TestDetails_NoFalseAlarm")

// Given an activity that uses its details, or may use them in a way that no run can show,
// when its runs are judged, then the test passes.
func TestDetails_NoFalseAlarm(t *testing.T) {
	// steps passes places and records nothing.
	steps := func(ctx activity.Context) error {
		for range 3 {
			if err := errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat()); err != nil {
				return err
			}
		}
		return nil
	}
	// beats records the same details three times.
	beats := func(ctx activity.Context, details any) error {
		for range 3 {
			if err := errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(details)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, test := range []struct {
		name string
		from []any                                   // Options.HeartbeatDetails
		make func() func(ctx activity.Context) error // makes the function for each run
	}{
		{name: "a marker that skips a phase", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				found, err := ctx.HeartbeatDetails()
				if err != nil {
					return err
				}
				if !found {
					if err := steps(ctx); err != nil {
						return err
					}
				}
				return beats(ctx, "second phase")
			}
		}},
		{name: "a marker before heartbeats with nil pointers", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				return errors.Join(ctx.Heartbeat("begun"), beats(ctx, (*int)(nil)))
			}
		}},
		{name: "a marker that nobody reads", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				return errors.Join(ctx.Heartbeat("begun"), steps(ctx))
			}
		}},
		{name: "details only at the end", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				if _, err := activity.Resume(ctx, 0); err != nil {
					return err
				}
				return errors.Join(steps(ctx), ctx.Heartbeat(1))
			}
		}},
		{name: "the ID of a job elsewhere", make: func() func(ctx activity.Context) error {
			var jobs atomic.Int32
			return func(ctx activity.Context) error {
				id, err := activity.Resume(ctx, "")
				if err != nil {
					return err
				}
				if id == "" {
					id = fmt.Sprint("job ", min(jobs.Add(1), 1))
				}
				return beats(ctx, id)
			}
		}},
		{name: "only the first of three phases starts again", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				done, err := activity.Resume(ctx, 0)
				if done < 2 {
					done = 0
				}
				for ; err == nil && done < 4; done++ {
					err = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(done+1))
				}
				return err
			}
		}},
		{name: "the last details mean to start again", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				done, err := activity.Resume(ctx, 0)
				for ; err == nil && done < 3; done++ {
					err = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat((done+1)%3))
				}
				return err
			}
		}},
		{name: "progress kept elsewhere, details for people", make: func() func(ctx activity.Context) error {
			var done atomic.Int32
			return func(ctx activity.Context) error {
				for done.Load() < 3 {
					if err := ctx.Sleep(time.Second); err != nil {
						return err
					}
					if err := ctx.Heartbeat(done.Add(1)); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{name: "a queue from which each attempt takes some", make: func() func(ctx activity.Context) error {
			var done atomic.Int32
			return func(ctx activity.Context) error {
				for range 3 {
					if err := errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(done.Add(1))); err != nil {
						return err
					}
				}
				return nil
			}
		}},
		{name: "an attempt that resumes does not fail", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				found, err := ctx.HeartbeatDetails()
				for i := 0; err == nil && i < 3; i++ {
					err = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(i))
				}
				if err == nil && !found {
					err = errors.New("once more")
				}
				return err
			}
		}},
		{name: "details before the first attempt", from: []any{1}, make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				return errors.Join(beats(ctx, 1), beats(ctx, 2))
			}
		}},
		{name: "the first attempt fails", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				done, err := activity.Resume(ctx, 0)
				for ; err == nil && done < 3; done++ {
					err = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(done+1))
				}
				if ctx.Info().Attempt == 1 {
					err = errors.Join(err, errors.New("once more"))
				}
				return err
			}
		}},
		{name: "Range without a place in its body", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 3, func(int) error { return nil })
			}
		}},
		{name: "Range of one", make: func() func(ctx activity.Context) error {
			return func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 1, func(int) error { return activity.Idle(ctx, time.Minute) })
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			activitytest.Plan{MaxRuns: *detailsRuns}.Run(t, func(t *testing.T, w *activitytest.World) {
				opts := job
				opts.HeartbeatDetails = test.from
				live(t, w, opts, test.make())
			})
		})
	}
}

// Given an ID that runs twice, each time with one value that all its attempts read, when its
// runs are judged, then the test passes.
func TestDetails_OneValueAnExecution(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		for day := range 2 {
			live(t, w, job, func(ctx activity.Context) error {
				id, err := activity.Resume(ctx, fmt.Sprint("job of day ", day))
				for i := 0; err == nil && i < 3; i++ {
					err = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(id))
				}
				return err
			})
		}
	})
}

// Given attempts that resume and are canceled before they could differ, when the runs are
// judged, then the test passes.
func TestDetails_CanceledBeforeADifference(t *testing.T) {
	activitytest.Plan{Kinds: activitytest.Crash}.Run(t, func(t *testing.T, w *activitytest.World) {
		life := 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if life++; life > 1 {
				timeout, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
				defer cancel()
				ctx = timeout
			}
			return rt.Run(ctx, activity.Options{ID: "job", SyncHeartbeats: true}, func(ctx activity.Context) error {
				for i := range 3 {
					if err := errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(i)); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if life == 1 && err != nil || life > 1 && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("life %d: error %v", life, err)
		}
	})
}

// Given goroutines whose calls come in random order, when the runs are judged, then the test
// passes, even if the order was the same in all runs.
func TestDetails_ConcurrentCalls(t *testing.T) {
	activitytest.Plan{Kinds: activitytest.Crash}.Run(t, func(t *testing.T, w *activitytest.World) {
		live(t, w, activity.Options{ID: "job", SyncHeartbeats: true}, func(ctx activity.Context) error {
			var beats sync.WaitGroup
			beats.Go(func() {
				_ = errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat())
			})
			defer beats.Wait()
			for i := range 3 {
				if err := errors.Join(ctx.Sleep(1500*time.Millisecond), ctx.Heartbeat(i)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}
