package activity_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given many activities that did something at one instant, when they have ended and one
// Handle is kept, then the others are freed.
func TestMemory_EndedActivitiesAreFreed(t *testing.T) {
	const n = 100
	hour := activity.Options{ScheduleToStartTimeout: time.Hour}
	tests := []struct {
		name string
		cfg  activity.Config
		opts activity.Options
		fn   func(activity.Context) error
	}{
		{"retried at one instant", activity.Config{}, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				<-ctx.Done()
			}
			return nil
		}},
		{"timed out at one instant", activity.Config{}, activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: once}, func(ctx activity.Context) error {
			<-ctx.Done()
			return nil
		}},
		{"woken at one instant", activity.Config{}, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }},
		{"given up at one instant", activity.Config{MaxConcurrent: 1}, hour, func(ctx activity.Context) error { return ctx.Sleep(24 * time.Hour) }},
	}
	for _, test := range tests {
		for _, keep := range []int{0, n - 1} {
			t.Run(test.name, func(t *testing.T) {
				bubble(t, test.cfg, func(t *testing.T, rt *activity.Runtime) {
					var freed atomic.Int32
					var kept *activity.Handle[struct{}]
					for i := range n {
						h, err := activity.Start(context.Background(), rt, test.opts, holder(&freed, test.fn), struct{}{})
						if err != nil {
							t.Fatal(err)
						}
						if i == keep {
							kept = h
						}
					}
					time.Sleep(48 * time.Hour)
					synctest.Wait()
					// Of a burst of timeouts the last stays known too, for the log.
					if got := collect(&freed, n-2); got < n-2 {
						t.Errorf("%d of %d are freed", got, n)
					}
					if err := wait(t, kept); test.name == "woken at one instant" {
						checkErr(t, err, nil)
					}
				})
			})
		}
	}
}

// A loadingStore counts in freed the details that it has given and that nobody keeps.
type loadingStore struct {
	storetest.Memory
	freed   atomic.Int32
	failing atomic.Bool // Save fails
}

func (s *loadingStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	if s.failing.Load() {
		return errDisk
	}
	return s.Memory.Save(ctx, batch)
}

func (s *loadingStore) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	cp, found, err := s.Memory.Load(ctx, id)
	if found {
		runtime.AddCleanup(&cp.Details[0], func(n *atomic.Int32) { n.Add(1) }, &s.freed)
	}
	return cp, found, err
}

// Given activities that resume from a checkpoint, when their attempts run, or when they
// were canceled before one and the Store does not take that, then nothing keeps the
// checkpoint that the Store gave: its details are in memory once.
func TestMemory_LoadedCheckpointIsFreed(t *testing.T) {
	const n = 10
	for name, test := range map[string]struct {
		state    activity.CheckpointState
		canceled bool
	}{
		"interrupted, runs": {activity.CheckpointInterrupted, false},
		"failed, runs":      {activity.CheckpointFailed, false},
		"failed, canceled":  {activity.CheckpointFailed, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, cfg := &loadingStore{}, activity.Config{Logger: quiet, SaveInterval: time.Hour}
			if test.canceled {
				cfg.MaxConcurrent = 1
			}
			cfg.Store = s
			rt := activity.New(cfg)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			startWith(t, ctx, rt, activity.Options{}, untilEnded)
			var handles []*activity.Handle[string]
			for i := range n {
				cp := activity.Checkpoint{ID: strconv.Itoa(i), Name: "job", State: test.state, Attempt: 1, Progressed: 1, ScheduledAt: time.Now(), UpdatedAt: time.Now(), Details: details(strings.Repeat("x", 1<<10))}
				checkErr(t, s.Save(ctx, []activity.Checkpoint{cp}), nil)
				handles = append(handles, startWith(t, ctx, rt, activity.Options{ID: cp.ID, Name: "job"}, untilEnded))
			}
			s.failing.Store(test.canceled)
			for _, h := range handles {
				if test.canceled {
					h.Cancel(errCancel)
					<-h.Done()
				}
			}
			if got := collect(&s.freed, n); got < n-1 { // the last may still be on a stack
				t.Errorf("of %d checkpoints %d are freed", n, got)
			}
			s.failing.Store(false)
			cancel()
			checkErr(t, rt.Shutdown(t.Context()), nil)
		})
	}
}

// Given a Handle that is kept, when the activity has ended, then its input is not kept.
func TestMemory_HandleKeepsNoInput(t *testing.T) {
	for _, store := range []activity.Store{nil, &storetest.Memory{}} {
		t.Run(fmt.Sprintf("%T", store), func(t *testing.T) {
			rt := activity.New(activity.Config{Store: store, Logger: quiet})
			freed := make(chan struct{})
			h := func() *activity.Handle[int] {
				type input struct{ Rows []byte }
				in := &input{make([]byte, 1<<20)}
				runtime.AddCleanup(in, func(c chan struct{}) { close(c) }, freed)
				h, err := activity.Start(t.Context(), rt, activity.Options{ID: "a"}, func(ctx activity.Context, in *input) (int, error) {
					return len(in.Rows), ctx.Heartbeat(7)
				}, in)
				if err != nil {
					t.Fatal(err)
				}
				return h
			}()
			if n, err := h.Wait(t.Context()); n != 1<<20 || err != nil {
				t.Error(n, err)
			}
			for done := false; !done; {
				runtime.GC()
				select {
				case <-freed:
					done = true
				case <-time.After(time.Millisecond): // the test's own timeout ends it
				}
			}
			checkDetails(t, h.Status(), 7)
		})
	}
}

// Given Runtimes whose activities have ended, of which some are shut down, when their last
// deadline is far away, then nothing keeps them.
func TestMemory_RuntimeWithoutAlarmsIsFreed(t *testing.T) {
	const n = 20
	for name, mock := range map[string]*clock.Mock{"real": nil, "mock": clock.NewMock()} {
		t.Run(name, func(t *testing.T) {
			var freed atomic.Int32
			for i := range n {
				cfg := activity.Config{Logger: quiet, MaxConcurrent: 1}
				if mock != nil {
					cfg.Clock = mock
				}
				rt := activity.New(cfg)
				runtime.AddCleanup(rt, func(n *atomic.Int32) { n.Add(1) }, &freed)
				for range 2 {
					checkErr(t, rt.Run(t.Context(), activity.Options{StartToCloseTimeout: 24 * time.Hour}, noop), nil)
				}
				if i%2 == 0 {
					checkErr(t, rt.Shutdown(t.Context()), nil)
				}
			}
			if got := collect(&freed, n); got < n-1 { // the last may still be on a stack
				t.Errorf("of %d Runtimes %d are freed", n, got)
			}
			if mock != nil {
				mock.Add(48 * time.Hour) // their timers fire
			}
		})
	}
}

// Given an activity that backs off, when nobody has a Handle or the Runtime, then its alarm
// keeps the Runtime: the next attempt starts in time, and then the Runtime is freed.
func TestMemory_AlarmKeepsTheRuntime(t *testing.T) {
	for name, mock := range map[string]*clock.Mock{"zero": nil, "mock": clock.NewMock()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, pass := activity.Config{Logger: quiet}, time.Sleep
				if mock != nil {
					cfg.Clock, pass = mock, mock.Add
				}
				var freed, attempts atomic.Int32
				func() {
					rt := activity.New(cfg)
					runtime.AddCleanup(rt, func(n *atomic.Int32) { n.Add(1) }, &freed)
					_, err := rt.Start(context.Background(), activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(ctx activity.Context) error {
						if attempts.Add(1) == 1 {
							return errBoom
						}
						return nil
					})
					checkErr(t, err, nil)
					synctest.Wait()
				}()
				collect(&freed, 1)
				if freed.Load() != 0 {
					t.Error("the Runtime is freed")
				}
				pass(time.Hour - 1)
				synctest.Wait()
				if n := attempts.Load(); n != 1 {
					t.Errorf("%d attempts, want 1", n)
				}
				pass(1)
				synctest.Wait()
				if n := attempts.Load(); n != 2 {
					t.Errorf("%d attempts, want 2", n)
				}
				if collect(&freed, 1) != 1 {
					t.Error("the Runtime is kept")
				}
			})
		})
	}
}
