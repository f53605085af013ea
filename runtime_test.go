package activity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
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

// Rule 25. Given one program, when it runs many times in bubbles with the zero Config,
// then it gives the same events every time.
func TestDeterminism_SameEventsEveryTime(t *testing.T) {
	runs := 1000
	if testing.Short() || raceEnabled {
		runs = 50
	}
	var first string
	for i := range runs {
		var got string
		synctest.Test(t, func(t *testing.T) { got = eventsOfAProgram(t) })
		if i == 0 {
			first = got
			if n := strings.Count(got, "\n"); n < 100 {
				t.Fatalf("only %d events:\n%s", n, got)
			}
		}
		if got != first {
			t.Fatalf("run %d differs: %s", i, cmp.Diff(first, got))
		}
	}
}

// eventsOfAProgram runs activities that stall, fail, beat and wait for slots,
// many of them at the same instants.
func eventsOfAProgram(t *testing.T) string {
	var mu sync.Mutex
	events := map[string]*bytes.Buffer{}
	rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
		mu.Lock()
		defer mu.Unlock()
		if events[e.ID] == nil {
			events[e.ID] = &bytes.Buffer{}
		}
		fmt.Fprintf(events[e.ID], "%+v\n", e)
	}})
	var all []*activity.Handle[int]
	for i := range 12 {
		opts := activity.Options{
			HeartbeatTimeout:       time.Duration(1+i%3) * time.Second,
			StartToCloseTimeout:    6 * time.Second,
			ScheduleToCloseTimeout: 40 * time.Second,
			RetryPolicy:            activity.RetryPolicy{MaximumAttempts: 6},
			MaxAbandoned:           activity.NoOverlap,
		}
		h, err := activity.Start(t.Context(), rt, opts, func(ctx activity.Context, i int) (int, error) {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return 0, err
			}
			for ; next < 8; next++ {
				if err := ctx.Sleep(time.Duration(1+(i+next)%3) * time.Second); err != nil {
					return 0, err
				}
				if err := ctx.Heartbeat(next); err != nil {
					return 0, err
				}
				if (next+i)%5 == 4 && ctx.Info().Attempt%2 == 1 {
					return 0, errors.New("fails")
				}
			}
			return i, nil
		}, i)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
	var b strings.Builder
	for _, h := range all {
		out, err := h.Wait(t.Context())
		fmt.Fprintln(&b, h.ID(), out, err)
	}
	synctest.Wait()
	mu.Lock()
	defer mu.Unlock()
	for _, h := range all {
		b.Write(events[h.ID()].Bytes())
	}
	return b.String()
}

// countingClock counts the timers that are set on it.
type countingClock struct {
	*clock.Mock
	timers atomic.Int64
}

func (c *countingClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.timers.Add(1)
	return c.Mock.AfterFunc(d, f)
}

// Given many activities outstanding at once, with both timeouts, which sleep and
// heartbeat, then there is one timer on the clock.
func TestRuntime_ManyOutstandingSetOneTimer(t *testing.T) {
	n := 100_000
	if testing.Short() || raceEnabled {
		n = 5_000
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
	for _, c := range []struct {
		name   string
		budget float64
		ctx    context.Context
		fn     func(activity.Context) error
	}{
		// The activity, its end's channel, the attempt, its context (two), and what
		// starts a goroutine.
		{"Run", 6, context.Background(), noop},
		{"Run with a context that can end", 6, canEnd, func(ctx activity.Context) error { return ctx.Err() }},
		{"Run of what asks for its Done", 7, canEnd, asks},
	} {
		if got := testing.AllocsPerRun(1000, func() {
			if err := rt.Run(c.ctx, story(), c.fn); err != nil {
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
