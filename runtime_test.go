// Run, Start, Execute, Definition, IDs and Handles; memory, goroutines and allocations.

package activity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given the first listing of "How to Heartbeat an Activity", when it runs with plain
// heartbeats for 1,000 s, then it completes in one attempt.
func TestStory_PlainHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		rt := activity.New(activity.Config{})
		err := rt.Run(t.Context(), story(), func(ctx activity.Context) error {
			for range 1000 {
				if err := ctx.Sleep(time.Second); err != nil {
					return err
				}
				if err := ctx.Heartbeat(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 1000*time.Second {
			t.Errorf("1,000 steps of a second took %s", took)
		}
		want := activity.Stats{Scheduled: 1, Completed: 1, Attempts: 1, Heartbeats: 1000}
		checkDiff(t, "Stats", rt.Stats(), want)
	})
}

// steps is the second listing: 100 steps with details, which resume. It hangs
// after step 42 of the first attempt.
type steps struct {
	interval time.Duration
	hang     func(ctx activity.Context)
	resumed  []int // where each attempt began
	causes   []error
}

func (s *steps) run(ctx activity.Context) error {
	start, err := activity.Resume(ctx, 1)
	if err != nil {
		return err
	}
	s.resumed = append(s.resumed, start)
	for progress := start; progress <= 100; progress++ {
		if err := ctx.Sleep(s.interval); err != nil {
			return err
		}
		if err := ctx.Heartbeat(progress); err != nil {
			return err
		}
		if progress == 42 && ctx.Info().Attempt == 1 {
			s.hang(ctx)
			s.causes = append(s.causes, context.Cause(ctx))
		}
	}
	return nil
}

var storyWithStall = []string{
	"0s scheduled 0",
	"0s attempt started 1",
	"52s attempt failed 1: heartbeat timeout, next in 0s",
	"52s abandoned 1",
	"52s attempt started 2",
	"52s abandoned returned 1",
	"1m51s completed 2",
}

func checkStory(t *testing.T, s *steps, j *journal, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	checkDiff(t, "where the attempts began", s.resumed, []int{1, 42})
	checkDiff(t, "events", j.lines("", activity.EventHeartbeat), storyWithStall)
	var timeout *activity.TimeoutError
	if len(s.causes) != 1 || !errors.As(s.causes[0], &timeout) || timeout.Type != activity.TimeoutHeartbeat {
		t.Errorf("the stalled attempt was told %v", s.causes)
	}
}

// Given the zero Config in a bubble, when a function stalls, then the next attempt starts
// at the heartbeat timeout and resumes. Nothing has to be driven.
func TestStory_StallInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{base: time.Now()}
		s := &steps{interval: time.Second, hang: func(ctx activity.Context) { <-ctx.Done() }}
		rt := activity.New(activity.Config{Observer: j.observe, Logger: quiet})
		err := rt.Run(t.Context(), story(), s.run)
		synctest.Wait()
		checkStory(t, s, j, err)
	})
}

// Given a mock clock in a bubble, when a function stalls, then the test can stop at each
// instant and look.
func TestStory_StallUnderMock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		j := &journal{base: mock.Now()}
		s := &steps{interval: time.Second, hang: func(ctx activity.Context) { <-ctx.Done() }}
		rt := activity.New(activity.Config{Clock: mock, Observer: j.observe, Logger: quiet})
		h := start(t, rt, story(), func(ctx activity.Context) error {
			return s.run(ctx)
		})
		for range 42 {
			synctest.Wait()
			mock.Add(time.Second)
		}
		mock.Add(10*time.Second - 1)
		synctest.Wait()
		if got := h.Status(); got.Attempt != 1 || got.State != activity.StateRunning {
			t.Fatalf("1 ns before the heartbeat timeout: attempt %d %s", got.Attempt, got.State)
		}
		mock.Add(1)
		synctest.Wait()
		status := h.Status()
		checkDetails(t, status, 42)
		if status.Attempt != 2 {
			t.Fatalf("at the heartbeat timeout: attempt %d", status.Attempt)
		}
		for range 59 {
			mock.Add(time.Second)
			synctest.Wait()
		}
		err := wait(t, h)
		checkStory(t, s, j, err)
	})
}

// Given the real clock and a short heartbeat timeout, when a function stalls, then the
// next attempt resumes. Nothing here depends on the machine's speed: a machine that is
// too slow only adds attempts.
func TestStory_StallOnRealClock(t *testing.T) {
	var mu sync.Mutex
	done := map[int]int{}
	var stalled *activity.TimeoutError
	rt := activity.New(activity.Config{Logger: quiet})
	opts := activity.Options{StartToCloseTimeout: time.Hour, HeartbeatTimeout: 50 * time.Millisecond}
	err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
		start, err := activity.Resume(ctx, 1)
		if err != nil {
			return err
		}
		for progress := start; progress <= 100; progress++ {
			mu.Lock()
			done[progress]++
			mu.Unlock()
			if err := ctx.Heartbeat(progress + 1); err != nil {
				return err
			}
			if progress == 42 && ctx.Info().Attempt == 1 {
				<-ctx.Done()
				mu.Lock()
				errors.As(context.Cause(ctx), &stalled)
				mu.Unlock()
				return context.Cause(ctx)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i <= 100; i++ {
		if done[i] == 0 {
			t.Errorf("step %d was never done", i)
		}
	}
	if rt.Stats().Attempts < 2 {
		t.Error("the stall was not noticed")
	}
}

// countingClock counts the timers that are set on it, and how often its time is read.
type countingClock struct {
	*clock.Mock
	timers, reads atomic.Int64
}

func (c *countingClock) Now() time.Time {
	c.reads.Add(1)
	return c.Mock.Now()
}

func (c *countingClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.timers.Add(1)
	return c.Mock.AfterFunc(d, f)
}

// Given many activities outstanding at once, with both timeouts, which sleep and
// heartbeat, then there is one timer on the clock.
func TestRuntime_ManyOutstandingSetOneTimer(t *testing.T) {
	n := min(10_000**repeat, 100_000)
	if raceEnabled {
		n = 5_000 // the race detector bears some 8,000 goroutines
	}
	synctest.Test(t, func(t *testing.T) {
		c := &countingClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c})
		for range n {
			start(t, rt, story(), func(ctx activity.Context) error {
				for range 3 {
					if err := ctx.Sleep(9 * time.Second); err != nil {
						return err
					}
					if err := ctx.Heartbeat(); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if got := rt.Stats().Running; got != n {
			t.Fatalf("%d of %d run", got, n)
		}
		for range 3 {
			synctest.Wait()
			c.Add(9 * time.Second)
		}
		synctest.Wait()
		want := activity.Stats{Scheduled: uint64(n), Completed: uint64(n), Attempts: uint64(n), Heartbeats: 3 * uint64(n)}
		checkDiff(t, "Stats", rt.Stats(), want)
		if got := c.timers.Load(); got != 1 {
			t.Errorf("%d timers were made", got)
		}
	})
}

// Given the calls that users make in hot loops, then each stays within its budget of
// allocations.
func TestAllocations_HotCalls(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rt := activity.New(activity.Config{})
	canEnd, cancel := context.WithCancel(context.Background())
	defer cancel()
	observed := activity.New(activity.Config{})
	observed.Subscribe(func(activity.Event) {}, activity.EventCompleted)
	for _, c := range []struct {
		name   string
		budget float64
		rt     *activity.Runtime
		ctx    context.Context
		fn     func(activity.Context) error
	}{
		// The activity, its end's channel, the attempt, its context (two), and what
		// starts a goroutine.
		{"Run", 6, rt, context.Background(), noop},
		{"Run with a context that can end", 6, rt, canEnd, func(ctx activity.Context) error { return ctx.Err() }},
		{"Run of what asks for its Done", 7, rt, canEnd, asks},
		// In addition the queue of events, its first event and what calls the subscriber. A goroutine
		// that delivers would be one more.
		{"Run with a subscriber to its end", 9, observed, context.Background(), noop},
	} {
		if got := testing.AllocsPerRun(1000, func() {
			if err := c.rt.Run(c.ctx, story(), c.fn); err != nil {
				t.Fatal(err)
			}
		}); got > c.budget {
			t.Errorf("%s allocates %v times, its budget is %v", c.name, got, c.budget)
		}
	}
	err := rt.Run(context.Background(), story(), func(ctx activity.Context) error {
		where := &position{File: "a.csv", Line: 7}
		big := 1000 // small ints are boxed for nothing
		marshal := testing.AllocsPerRun(1000, func() { _, _ = json.Marshal(where) })
		for _, c := range []struct {
			name   string
			budget float64
			beat   func() error
		}{
			{"Heartbeat()", 0, func() error { return ctx.Heartbeat() }},
			{"Heartbeat(int)", 2, func() error { big++; return ctx.Heartbeat(big) }}, // the call boxes the int, and makes the slice
			{"Heartbeat(*struct)", 1 + marshal, func() error { return ctx.Heartbeat(where) }},
		} {
			if got := testing.AllocsPerRun(1000, func() {
				if err := c.beat(); err != nil {
					t.Fatal(err)
				}
			}); got > c.budget {
				t.Errorf("%s allocates %v times, its budget is %v", c.name, got, c.budget)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// execute executes a function that returns out and err, and wants want.
func execute[Out comparable](t *testing.T, out Out, err error, want Out) {
	t.Helper()
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		fn := func(activity.Context, int) (Out, error) { return out, err }
		if got, gotErr := activity.Execute(t.Context(), rt, atMost(1), fn, 0); got != want || !errors.Is(gotErr, err) {
			t.Errorf("got %v, %v; want %v, %v", got, gotErr, want, err)
		}
	})
}

// Given functions with results of all kinds, then Execute returns the result of a
// success, and the zero value with an error.
func TestExecute_Out(t *testing.T) {
	type pair struct{ a, b int }
	execute(t, pair{1, 2}, nil, pair{1, 2})
	execute[any](t, 7, nil, 7)
	execute[error](t, io.EOF, nil, io.EOF)
	// On error: the zero Out.
	execute(t, pair{1, 2}, io.EOF, pair{})
	execute(t, &pair{1, 2}, io.EOF, nil)
	execute[any](t, 7, io.EOF, nil)
	// A nil Out of each kind.
	execute[any](t, nil, nil, nil)
	execute[error](t, nil, nil, nil)
	execute[*pair](t, nil, nil, nil)
}

// Given activities without an ID, then each gets another one, which nobody may ask for.
func TestIDs_MadeUpOnesAreUnique(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		ended := start(t, rt, activity.Options{}, noop)
		checkErr(t, wait(t, ended), nil)
		seen := map[string]bool{ended.ID(): true}
		for i := range 10 {
			given := start(t, rt, activity.Options{ID: fmt.Sprint("activity-", i)}, untilEnded)
			if given.ID() != fmt.Sprint("activity-", i) {
				t.Errorf("a given ID became %q", given.ID())
			}
			h := start(t, rt, activity.Options{}, untilEnded)
			if !strings.HasPrefix(h.ID(), "#") || seen[h.ID()] {
				t.Errorf("the ID %q was made up; seen before: %t", h.ID(), seen[h.ID()])
			}
			seen[h.ID()] = true
			err := rt.Run(t.Context(), activity.Options{ID: h.ID()}, noop)
			if err == nil || !strings.Contains(err.Error(), `Options.ID must not begin with "#", which generated IDs do (got "`+h.ID()+`")`) {
				t.Errorf("a given %q was not refused: %v", h.ID(), err)
			}
		}
		checkErr(t, rt.Shutdown(t.Context()), nil)
	})
}

// Rule 16. Given an ID that is in use, when its activity has ended, then the ID can be
// used again.
func TestIDs_FreeAfterTheEnd(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		for range 2 {
			h := start(t, rt, activity.Options{ID: "a"}, untilEnded)
			checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a"}, noop), activity.ErrAlreadyRunning)
			h.Cancel(nil)
			<-h.Done()
		}
	})
}

// Rule 16. Given an activity that runs, backs off or ignores its cancellation, when its
// ID is started, then that is ErrAlreadyRunning until the activity has ended.
func TestIDs_InUseUntilTheEnd(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 3}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		for name, fn := range map[string]func(activity.Context) error{
			"success":     func(ctx activity.Context) error { return ctx.Sleep(time.Second) },
			"failure":     func(ctx activity.Context) error { _ = ctx.Sleep(time.Second); return activity.NonRetryable(io.EOF) },
			"backing off": func(activity.Context) error { return activity.RetryAfter(io.EOF, time.Hour) },
			"deaf":        func(activity.Context) error { <-release; return nil },
		} {
			opts := activity.Options{ID: "same", MaxAbandoned: activity.NoOverlap}
			h := start(t, rt, opts, fn)
			synctest.Wait()
			if err := rt.Run(t.Context(), opts, fn); !errors.Is(err, activity.ErrAlreadyRunning) {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(2 * time.Second)
			h.Cancel(nil)
			<-h.Done()
			if err := rt.Run(t.Context(), opts, noop); err != nil {
				t.Errorf("%s, after the end: %v", name, err)
			}
		}
		close(release)
	})
}

// Given Runtime.Start, then its Handle waits for the end, and the ID is in use until
// then.
func TestStart_RuntimeMethod(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h, err := rt.Start(t.Context(), atMost(2), func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			return ctx.Sleep(time.Minute)
		})
		if err != nil {
			t.Fatal(err)
		}
		checkErr(t, rt.Run(t.Context(), atMost(1), noop), activity.ErrAlreadyRunning)
		if got, err := h.Wait(t.Context()); got != struct{}{} || err != nil {
			t.Error(got, err)
		}
		if h, err := rt.Start(t.Context(), atMost(1), nil); h != nil || err == nil {
			t.Error("a nil function was started")
		}
	})
}

// Given a Definition, when it is executed or started, then its Name and Options are used
// with the given ID and input.
func TestDefinition_ExecuteAndStart(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		def := activity.Definition[int, string]{
			Name:    "def",
			Options: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
			Func: func(ctx activity.Context, in int) (string, error) {
				if info := ctx.Info(); info.Attempt == 1 || info.MaximumAttempts != 2 {
					return "", errBoom
				}
				return fmt.Sprint(ctx.Info().ID, " ", ctx.Info().Name, " ", in), nil
			},
		}
		if out, err := def.Execute(t.Context(), rt, "x", 3); err != nil || out != "x def 3" {
			t.Errorf("got %q, %v", out, err)
		}
		h, err := def.Start(t.Context(), rt, "", 4)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := h.Wait(t.Context()); err != nil || out != h.ID()+" def 4" || h.ID() == "" {
			t.Errorf("got %q, %v, ID %q", out, err, h.ID())
		}
	})
}

// Given Handle.Wait, when its own context ends, then it returns that cause, and the
// activity is not canceled.
func TestHandle_WaitEndsWithItsOwnContext(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCancel)
		defer cancel()
		at := time.Now()
		if out, err := h.Wait(ctx); err != errCancel || out != "" || time.Since(at) != time.Minute {
			t.Errorf("got %q, %v after %s", out, err, time.Since(at))
		}
		if out, err := h.Wait(t.Context()); err != nil || out != "done" || time.Since(at) != time.Hour {
			t.Errorf("got %q, %v after %s: it was not canceled", out, err, time.Since(at))
		}
		for range 100 { // what has ended is told, ended context or not
			if out, err := h.Wait(ctx); err != nil || out != "done" {
				t.Fatalf("got %q, %v", out, err)
			}
		}
	})
}

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
					// The last of a burst of timeouts stays known too, for the log.
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
				for range 10 {
					runtime.GC()
					runtime.Gosched()
				}
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

// Given many goroutines that wait on one Handle, when the activity ends, then Done is one
// channel for all of them, whether asked for before the end or after it.
func TestHandle_ManyWaiters(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		var n atomic.Int32
		for range 10 {
			go func() { <-h.Done(); n.Add(1) }()
			go func() { checkErr(t, wait(t, h), nil); n.Add(1) }()
			go func() { _, _ = h.Wait(context.Background()); n.Add(1) }()
		}
		e.pass(time.Second - 1)
		before := h.Done()
		if n := n.Load(); n != 0 {
			t.Errorf("%d have an answer before there is one", n)
		}
		e.pass(1)
		if n := n.Load(); n != 30 {
			t.Errorf("%d of 30 have their answer", n)
		}
		if h.Done() != before {
			t.Error("another channel after the end")
		}
	})
}

// Rule 26. Given a package that was used outside a bubble and in one, when it is used in
// another bubble, then nothing is left over that disturbs it.
func TestBubble_BeforeAndAfterOtherBubbles(t *testing.T) {
	use := func(t *testing.T, cfg activity.Config, d time.Duration) {
		cfg.Logger = quiet
		rt := activity.New(cfg)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				opts := activity.Options{HeartbeatTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{InitialInterval: d}}
				err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
					if err := activity.Idle(ctx, d); err != nil {
						return err
					}
					if err := ctx.Heartbeat(1, "x"); err != nil {
						return err
					}
					if ctx.Info().Attempt == 1 {
						return errBoom
					}
					checkDetails(t, ctx, 1)
					return activity.Guard(ctx, func() error { return ctx.Sleep(d) })
				})
				checkErr(t, err, nil)
			})
		}
		wg.Wait()
		checkErr(t, rt.Shutdown(t.Context()), nil)
	}
	bubble := func(t *testing.T) { synctest.Test(t, func(t *testing.T) { use(t, activity.Config{}, time.Hour/4) }) }
	t.Run("outside", func(t *testing.T) { use(t, activity.Config{}, 1) })
	t.Run("inside", bubble)
	t.Run("again", bubble)
	t.Run("mock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mock := clock.NewMock()
			done := make(chan struct{})
			go func() {
				defer close(done)
				use(t, activity.Config{Clock: mock}, time.Hour/4)
			}()
			for range 4 {
				synctest.Wait()
				mock.Add(time.Hour / 4)
			}
			<-done
		})
	})
	t.Run("at once", func(t *testing.T) {
		for range 2 {
			t.Run("", func(t *testing.T) { t.Parallel(); bubble(t) })
		}
	})
	t.Run("outside again", func(t *testing.T) { use(t, activity.Config{}, 1) })
}

// Memory.

// holder is a function that holds on to something, whose end it counts in freed.
func holder(freed *atomic.Int32, fn func(activity.Context) error) func(activity.Context, struct{}) (struct{}, error) {
	held := new([1 << 10]byte)
	runtime.AddCleanup(held, func(n *atomic.Int32) { n.Add(1) }, freed)
	return func(ctx activity.Context, _ struct{}) (struct{}, error) {
		defer runtime.KeepAlive(held)
		return struct{}{}, fn(ctx)
	}
}

// collect runs the garbage collector until freed is n, or it seems that it stays less.
func collect(freed *atomic.Int32, n int32) int32 {
	for i := 0; freed.Load() < n && i < 100; i++ {
		runtime.GC()
		runtime.Gosched()
	}
	return freed.Load()
}

// Rule 24. Given checkpoints that the Store does not take, when their activities have
// ended, then only the checkpoints stay in memory.
func TestMemory_UnsavedCheckpointKeepsNoActivity(t *testing.T) {
	const n = 1000
	s := newStore(t)
	rt := activity.New(activity.Config{Store: s, Logger: quiet, SaveInterval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var freed atomic.Int32
	var ended []<-chan struct{}
	for i := range n {
		h, err := activity.Start(ctx, rt, activity.Options{ID: strconv.Itoa(i)}, holder(&freed, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(i)
			<-ctx.Done()
			return []error{nil, errBoom, context.Cause(ctx)}[i%3]
		}), struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		ended = append(ended, h.Done())
	}
	s.on("Save", failing)
	s.on("Delete", failing)
	cancel()
	for _, done := range ended {
		<-done
	}
	if got := collect(&freed, n); got != n {
		t.Errorf("%d of %d are freed", got, n)
	}
	s.on("Save", nil)
	s.on("Delete", nil)
	checkErr(t, rt.Shutdown(t.Context()), nil)
	for i := range n {
		if got, want := s.get(strconv.Itoa(i)).State != 0, i%3 > 0; got != want {
			t.Errorf("%d: stored is %v, want %v", i, got, want)
		}
	}
}

// Rule 24. Given a Save that hangs, when starts that wait for it are canceled, then
// nothing of them stays in memory.
func TestMemory_CanceledStartsWhileSaveHangs(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "x"}, noop) // hangs in the Save
		const n = 100
		var freed atomic.Int32
		for range n {
			ctx, cancel := context.WithCancel(e.ctx)
			go func() { _, _ = activity.Start(ctx, e.rt, job, holder(&freed, noop), struct{}{}) }()
			synctest.Wait()
			cancel()
			synctest.Wait()
		}
		if got := collect(&freed, n); got != n {
			t.Errorf("%d of %d are freed", got, n)
		}
		open()
	})
}

// Given a Store, when a function heartbeats, then that allocates no more than without
// one.
func TestAllocations_HeartbeatWithStore(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	beat := func(store activity.Store) (allocs [2]float64) {
		rt := activity.New(activity.Config{Store: store, Logger: quiet, SaveInterval: time.Hour})
		checkErr(t, rt.Run(t.Context(), job, func(ctx activity.Context) error {
			big := 1000 // small ints are boxed for nothing
			allocs[0] = testing.AllocsPerRun(1000, func() { _ = ctx.Heartbeat() })
			allocs[1] = testing.AllocsPerRun(1000, func() { big++; _ = ctx.Heartbeat(big) })
			return nil
		}), nil)
		return allocs
	}
	checkDiff(t, "allocations of a heartbeat beside a Store", beat(&storetest.Memory{}), beat(nil))
}

// Rule 19. Given a Runtime without a Store, then it owns no goroutine while nothing runs,
// before and after activities.
func TestRuntime_OwnsNoGoroutineWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := bubbled(t)
		check := func(what string, extra int) {
			t.Helper()
			synctest.Wait()
			if n := goroutines(t, before+extra) - before; n != extra {
				t.Errorf("%s: %d goroutines more than before, want %d", what, n, extra)
			}
		}
		var j journal
		rt := activity.New(activity.Config{Logger: quiet, Observer: j.observe, MaxConcurrent: 1})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		check("new", 0)
		opts := activity.Options{HeartbeatTimeout: time.Hour, StartToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}
		if err := rt.Run(ctx, opts, func(ctx activity.Context) error { return ctx.Heartbeat(1) }); err != nil {
			t.Error(err)
		}
		check("one has run", 0)
		var handles []*activity.Handle[string]
		for range 20 {
			handles = append(handles, startWith(t, ctx, rt, opts, func(activity.Context) error { return io.EOF }))
		}
		check("20 back off", 0)
		for range 20 {
			handles = append(handles, startWith(t, ctx, rt, opts, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }))
		}
		check("one runs, and 19 wait", 1)
		cancel()
		for _, h := range handles {
			<-h.Done()
		}
		check("the end", 0)
	})
}

// Given activities that wait for a slot or back off, then no goroutine exists for them.
func TestRuntime_NoGoroutineForAWait(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		before := bubbled(t)
		ctx, cancel := context.WithCancel(t.Context())
		for range 100 { // each takes the slot, fails, and backs off or waits for the slot again
			startWith(t, ctx, rt, activity.Options{}, func(activity.Context) error { return errBoom })
		}
		synctest.Wait()
		if got := rt.Stats(); got.BackingOff+got.Waiting != 100 {
			t.Fatalf("%+v", got)
		}
		if got := goroutines(t, before); got > before {
			t.Errorf("%d goroutines more than without", got-before)
		}
		cancel()
		synctest.Wait()
		if got := goroutines(t, before); got > before {
			t.Errorf("%d goroutines are left", got-before)
		}
		if got := rt.Stats(); got.Canceled != 100 {
			t.Errorf("%+v", got)
		}
	})
}
