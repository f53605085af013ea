package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// A timeoutEnv is a Runtime in a synctest bubble, and what its Observer heard.
type timeoutEnv struct {
	t     *testing.T
	clock clock.Clock // what the functions may wait on
	mock  *clock.Mock // nil: the zero Config, on the bubble's time
	rt    *activity.Runtime
	ctx   context.Context
	base  time.Time

	mu     sync.Mutex
	events []activity.Event
	gates  map[string]chan struct{}
}

// timeoutBoth runs a test on the zero Config in a bubble, and on a mock in one.
func timeoutBoth(t *testing.T, cfg activity.Config, test func(t *testing.T, e *timeoutEnv)) {
	t.Run("zero", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newTimeoutEnv(t, cfg, nil)) })
	})
	t.Run("mock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newTimeoutEnv(t, cfg, clock.NewMock())) })
	})
}

func newTimeoutEnv(t *testing.T, cfg activity.Config, mock *clock.Mock) *timeoutEnv {
	e := &timeoutEnv{t: t, clock: clock.New(), mock: mock, gates: map[string]chan struct{}{}}
	if mock != nil {
		e.clock = mock
		if cfg.Clock == nil {
			cfg.Clock = mock
		}
	}
	e.base = e.clock.Now()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Observer = func(event activity.Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.events = append(e.events, event)
	}
	e.rt = activity.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	e.ctx = ctx
	t.Cleanup(func() { // what hangs must end with the bubble
		cancel()
		synctest.Wait()
		e.openAll()
		synctest.Wait()
	})
	return e
}

// pass lets time go by, and all that happens in it.
func (e *timeoutEnv) pass(d time.Duration) {
	if e.mock != nil {
		e.mock.Add(d)
	} else {
		time.Sleep(d)
	}
	synctest.Wait()
}

func (e *timeoutEnv) start(opts activity.Options, fn func(activity.Context) error) *activity.Handle[struct{}] {
	e.t.Helper()
	h, err := activity.Start(e.ctx, e.rt, opts, func(ctx activity.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, fn(ctx)
	}, struct{}{})
	if err != nil {
		e.t.Fatal(err)
	}
	synctest.Wait()
	return h
}

// end is the error of an activity that has ended.
func (e *timeoutEnv) end(h *activity.Handle[struct{}]) error {
	e.t.Helper()
	select {
	case <-h.Done():
	default:
		e.t.Fatalf("the activity has not ended; its events: %s", strings.Join(e.lines(h.ID()), "\n"))
	}
	_, err := h.Wait(context.Background())
	return err
}

// gate is a place where functions hang until open is called.
func (e *timeoutEnv) gate(name string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gates[name] == nil {
		e.gates[name] = make(chan struct{})
	}
	return e.gates[name]
}

func (e *timeoutEnv) open(name string) {
	close(e.gate(name))
	synctest.Wait()
}

func (e *timeoutEnv) openAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, gate := range e.gates {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
}

// hang ignores its context, at a gate that is named after the attempt.
func (e *timeoutEnv) hang(ctx activity.Context) error {
	<-e.gate(fmt.Sprintf("%s%d", ctx.Info().ID, ctx.Info().Attempt))
	return nil
}

// lines are the events of an activity, each as its time, kind and attempt.
func (e *timeoutEnv) lines(id string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var lines []string
	for _, event := range e.events {
		if event.ID != id {
			continue
		}
		s := fmt.Sprintf("%s %s %d", event.Time.Sub(e.base), event.Kind, event.Attempt)
		switch event.Kind {
		case activity.EventAttemptFailed:
			s += fmt.Sprintf(": %s, next in %s", timeoutWhat(event.Err), event.Delay)
		case activity.EventFailed:
			s += fmt.Sprintf(": %s, %s", timeoutWhat(event.Err), event.Err.(*activity.Error).RetryState)
		}
		lines = append(lines, s)
	}
	return lines
}

func (e *timeoutEnv) want(id string, want ...string) {
	e.t.Helper()
	if diff := cmp.Diff(want, e.lines(id)); diff != "" {
		e.t.Errorf("events of %q (-want +got):\n%s", id, diff)
	}
}

// started is when the n-th attempt of an activity started, or -1.
func (e *timeoutEnv) started(id string, n int) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, event := range e.events {
		if event.ID == id && event.Kind == activity.EventAttemptStarted && event.Attempt == n {
			return event.Time.Sub(e.base)
		}
	}
	return -1
}

func (e *timeoutEnv) wantStarted(id string, n int, at time.Duration) {
	e.t.Helper()
	if got := e.started(id, n); got != at {
		e.t.Errorf("attempt %d of %q started at %s, want %s", n, id, got, at)
	}
}

func timeoutWhat(err error) string {
	if timeout := (*activity.TimeoutError)(nil); errors.As(err, &timeout) {
		return timeout.Type.String()
	}
	if e, ok := err.(*activity.Error); ok {
		err = e.Err
	}
	return err.Error()
}

func timeoutTypeOf(err error) activity.TimeoutType {
	if timeout := (*activity.TimeoutError)(nil); errors.As(err, &timeout) {
		return timeout.Type
	}
	return 0
}

var timeoutOnce = activity.RetryPolicy{MaximumAttempts: 1}

// What a function can do at the instant of a deadline. Each returns what it was
// told, if it was told something.
var timeoutActions = map[string]func(e *timeoutEnv, ctx activity.Context) error{
	"heartbeat": func(e *timeoutEnv, ctx activity.Context) error { return ctx.Heartbeat() },
	"details":   func(e *timeoutEnv, ctx activity.Context) error { return ctx.Heartbeat(1) },
	"return":    func(e *timeoutEnv, ctx activity.Context) error { return nil },
	"guard": func(e *timeoutEnv, ctx activity.Context) error {
		ran := false
		err := activity.Guard(ctx, func() error { ran = true; return nil })
		if ran != (err == nil) {
			e.t.Errorf("Guard ran f: %t, and returned %v", ran, err)
		}
		return err
	},
	"sleep": nil, // wakes up from the runtime's own Sleep
	"idle":  nil,
}

// TestRule7TimeoutComesFirst: what a function does at the instant of a deadline
// comes too late, whichever goroutine is there first.
func TestRule7TimeoutComesFirst(t *testing.T) {
	const timeout = 10 * time.Second
	options := map[activity.TimeoutType]activity.Options{
		activity.TimeoutHeartbeat:       {HeartbeatTimeout: timeout},
		activity.TimeoutStartToClose:    {StartToCloseTimeout: timeout},
		activity.TimeoutScheduleToClose: {ScheduleToCloseTimeout: timeout},
	}
	for typ, opts := range options {
		for action := range timeoutActions {
			if action == "idle" && typ == activity.TimeoutHeartbeat {
				continue // it heartbeats
			}
			for _, after := range []time.Duration{-1, 0, 1} {
				for _, first := range []string{"function", "runtime"} {
					name := fmt.Sprintf("%s/%s/%d/%s", typ, action, after, first)
					t.Run(name, func(t *testing.T) {
						timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
							opts := opts
							opts.ID, opts.RetryPolicy = "a", timeoutOnce
							timeoutAt(t, e, opts, typ, action, timeout+after, timeout, first == "function")
						})
					})
				}
			}
		}
	}
}

// timeoutAt has a function act at the instant at.
func timeoutAt(t *testing.T, e *timeoutEnv, opts activity.Options, typ activity.TimeoutType, action string, at, timeout time.Duration, functionFirst bool) {
	var early <-chan time.Time
	if functionFirst {
		early = e.clock.After(at) // older than the Runtime's timer
	}
	var told error
	h := e.start(opts, func(ctx activity.Context) error {
		switch action {
		case "sleep":
			told = ctx.Sleep(at)
			return nil
		case "idle":
			told = activity.Idle(ctx, at)
			return nil
		}
		alarm := early
		if alarm == nil {
			alarm = e.clock.After(at)
		}
		<-alarm
		told = timeoutActions[action](e, ctx)
		return nil
	})
	e.pass(at)
	e.pass(time.Second)
	err := e.end(h)

	var calm []string // without the heartbeats
	for _, line := range e.lines("a") {
		if !strings.Contains(line, activity.EventHeartbeat.String()+" 1") {
			calm = append(calm, line)
		}
	}
	if at < timeout {
		if told != nil || err != nil {
			t.Errorf("before the deadline the function was told %v, and Run returned %v", told, err)
		}
		want := []string{"0s scheduled 0", "0s attempt started 1", "9.999999999s completed 1"}
		if diff := cmp.Diff(want, calm); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		return
	}
	if told == nil && action != "return" || told != nil && timeoutTypeOf(told) != typ {
		t.Errorf("the function was told %v, want the %s", told, typ)
	}
	end, back := activity.RetryStateMaximumAttemptsReached, at
	if typ == activity.TimeoutScheduleToClose {
		end = activity.RetryStateTimeout
	}
	if action == "sleep" || action == "idle" {
		back = timeout // its Sleep ends with the attempt
	}
	want := []string{
		"0s scheduled 0",
		"0s attempt started 1",
		fmt.Sprintf("10s attempt failed 1: %s, next in 0s", typ),
		"10s abandoned 1",
		fmt.Sprintf("10s failed 1: %s, %s", typ, end),
		fmt.Sprintf("%s abandoned returned 1", back),
	}
	if diff := cmp.Diff(want, calm); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestRule7RetryAtTheSameInstant: the events are the same whether the function's
// return, or the timer, is first at the deadline, and the retry is there at once.
func TestRule7RetryAtTheSameInstant(t *testing.T) {
	for _, first := range []string{"function", "runtime"} {
		t.Run(first, func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				alarm := e.clock.After(math.MaxInt64)
				if first == "function" {
					alarm = e.clock.After(10 * time.Second)
				}
				h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						return ctx.Sleep(time.Second)
					}
					if first == "runtime" {
						alarm = e.clock.After(10 * time.Second)
					}
					<-alarm
					return errors.New("too late")
				})
				e.pass(10 * time.Second)
				e.pass(time.Second)
				if err := e.end(h); err != nil {
					t.Error(err)
				}
				e.want("a",
					"0s scheduled 0",
					"0s attempt started 1",
					"10s attempt failed 1: heartbeat timeout, next in 0s",
					"10s abandoned 1",
					"10s attempt started 2",
					"10s abandoned returned 1",
					"11s completed 2")
			})
		})
	}
}

// TestRule7HeartbeatMovesTheDeadline: it counts from the last heartbeat.
func TestRule7HeartbeatMovesTheDeadline(t *testing.T) {
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, RetryPolicy: timeoutOnce}, func(ctx activity.Context) error {
			for _, d := range []time.Duration{10*time.Second - 1, 3 * time.Second} {
				if err := ctx.Sleep(d); err != nil {
					return err
				}
				if err := ctx.Heartbeat(); err != nil {
					return err
				}
			}
			return ctx.Sleep(time.Hour)
		})
		e.pass(time.Minute)
		e.end(h)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"9.999999999s heartbeat 1",
			"12.999999999s heartbeat 1",
			"22.999999999s attempt failed 1: heartbeat timeout, next in 0s",
			"22.999999999s abandoned 1",
			"22.999999999s failed 1: heartbeat timeout, maximum attempts reached",
			"22.999999999s abandoned returned 1")
	})
}

// TestRule7OrderOfDeadlines: the earlier instant first, and at one instant
// schedule-to-close, then start-to-close, then heartbeat.
func TestRule7OrderOfDeadlines(t *testing.T) {
	const s = 10 * time.Second
	for _, test := range []struct {
		heartbeat, start, schedule time.Duration
		want                       activity.TimeoutType
	}{
		{s, s, s, activity.TimeoutScheduleToClose},
		{s, 0, s, activity.TimeoutScheduleToClose},
		{0, s, s, activity.TimeoutScheduleToClose},
		{s, s, 0, activity.TimeoutStartToClose},
		{s, s, s + 1, activity.TimeoutStartToClose},
		{s, s + 1, s + 1, activity.TimeoutHeartbeat},
		{s - 1, s, s, activity.TimeoutHeartbeat},
		{s, s - 1, s, activity.TimeoutStartToClose},
		{s - 1, s - 1, s, activity.TimeoutStartToClose},
		{s, s, s - 1, activity.TimeoutScheduleToClose},
	} {
		t.Run(fmt.Sprint(test.heartbeat, test.start, test.schedule), func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				h := e.start(activity.Options{
					ID: "a", RetryPolicy: timeoutOnce,
					HeartbeatTimeout: test.heartbeat, StartToCloseTimeout: test.start, ScheduleToCloseTimeout: test.schedule,
				}, e.hang)
				e.pass(s)
				if got := timeoutTypeOf(e.end(h)); got != test.want {
					t.Errorf("the attempt ended in %s, want %s", got, test.want)
				}
			})
		})
	}
}

// timeoutScript plays a step in each attempt, and completes in the one after.
func timeoutScript(steps ...string) func(activity.Context) error {
	return func(ctx activity.Context) error {
		n := ctx.Info().Attempt
		if n > len(steps) {
			return ctx.Sleep(time.Second)
		}
		at, err := activity.Resume(ctx, 0)
		if err != nil {
			return activity.NonRetryable(err)
		}
		what, then, _ := strings.Cut(steps[n-1], "+")
		switch what {
		case "plain":
			ctx.Heartbeat()
		case "equal":
			ctx.Heartbeat(at)
		case "progress":
			ctx.Heartbeat(at + 1)
		case "back":
			ctx.Heartbeat(at + 1)
			ctx.Heartbeat(at)
		}
		switch then {
		case "error":
			return errors.New("failed")
		case "slow":
			for ctx.Heartbeat() == nil {
				ctx.Sleep(time.Second)
			}
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
}

// TestRule8Backoff: at once after a heartbeat timeout, unless the attempt before
// ended so too and this one made no progress.
func TestRule8Backoff(t *testing.T) {
	const s = time.Second
	for _, test := range []struct {
		steps string
		want  []time.Duration
	}{
		{"hang", []time.Duration{0}},
		{"progress", []time.Duration{0}},
		{"hang hang", []time.Duration{0, 2 * s}},
		{"hang plain", []time.Duration{0, 2 * s}},
		{"hang equal", []time.Duration{0, 2 * s}},
		{"hang progress", []time.Duration{0, 0}},
		{"hang back", []time.Duration{0, 0}},
		{"progress hang", []time.Duration{0, 2 * s}},
		{"progress progress progress", []time.Duration{0, 0, 0}},
		{"hang progress hang", []time.Duration{0, 0, 4 * s}},
		{"hang hang hang", []time.Duration{0, 2 * s, 4 * s}},
		{"hang hang progress hang", []time.Duration{0, 2 * s, 0, 8 * s}},
		{"+error", []time.Duration{s}},
		{"progress+error", []time.Duration{s}},
		{"+slow", []time.Duration{s}},
		{"progress+slow", []time.Duration{s}},
		{"+error hang", []time.Duration{s, 0}},
		{"+slow hang", []time.Duration{s, 0}},
		{"hang +error hang", []time.Duration{0, 2 * s, 0}},
		{"hang +slow hang", []time.Duration{0, 2 * s, 0}},
		{"hang +slow hang hang", []time.Duration{0, 2 * s, 0, 8 * s}},
	} {
		t.Run(test.steps, func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				h := e.start(activity.Options{
					ID: "a", HeartbeatTimeout: 10 * s, StartToCloseTimeout: 25 * s, HeartbeatDetails: []any{7},
				}, timeoutScript(strings.Fields(test.steps)...))
				e.pass(time.Hour)
				if err := e.end(h); err != nil {
					t.Fatal(err)
				}
				var got []time.Duration
				for _, event := range e.events {
					if event.Kind != activity.EventAttemptFailed {
						continue
					}
					got = append(got, event.Delay)
					e.wantStarted("a", event.Attempt+1, event.Time.Sub(e.base)+event.Delay)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("waits (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRule8Cause: the attempt's context, and what derives from it, ends with the
// *TimeoutError as the cause.
func TestRule8Cause(t *testing.T) {
	for typ, opts := range map[activity.TimeoutType]activity.Options{
		activity.TimeoutHeartbeat:       {HeartbeatTimeout: time.Second},
		activity.TimeoutStartToClose:    {StartToCloseTimeout: time.Second},
		activity.TimeoutScheduleToClose: {ScheduleToCloseTimeout: time.Second},
	} {
		t.Run(typ.String(), func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				opts.RetryPolicy = timeoutOnce
				var at time.Time
				var ctxErr error
				var causes [4]error
				h := e.start(opts, func(ctx activity.Context) error {
					child, cancel := context.WithCancel(ctx)
					defer cancel()
					<-child.Done()
					at, ctxErr = e.clock.Now(), ctx.Err()
					causes = [4]error{context.Cause(ctx), context.Cause(child), ctx.Heartbeat(), ctx.Sleep(0)}
					return nil
				})
				e.pass(time.Minute)
				err := e.end(h)
				if ctxErr != context.Canceled {
					t.Errorf("ctx.Err() is %v, want context.Canceled", ctxErr)
				}
				if d := at.Sub(e.base); d != time.Second {
					t.Errorf("the context ended after %s", d)
				}
				for i, cause := range causes {
					timeout, ok := cause.(*activity.TimeoutError)
					if !ok || timeout.Type != typ || timeout.Attempt != 1 || timeout.ID != h.ID() || !timeout.Timeout() {
						t.Fatalf("cause %d is %#v", i, cause)
					}
					if !errors.Is(cause, context.DeadlineExceeded) || errors.Is(cause, context.Canceled) {
						t.Errorf("cause %d is not only a DeadlineExceeded", i)
					}
					if !errors.Is(err, cause) {
						t.Errorf("Run's error %v does not wrap cause %d", err, i)
					}
				}
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v is no DeadlineExceeded", err)
				}
			})
		})
	}
}

// TestRule8Fenced: what a timed out attempt reports or returns is ignored.
func TestRule8Fenced(t *testing.T) {
	for _, result := range []error{nil, errors.New("failed"), activity.NonRetryable(errors.New("final")), activity.RetryAfter(errors.New("later"), time.Hour)} {
		t.Run(fmt.Sprint(result), func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				saw := make([]int, 4)
				h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					n := ctx.Info().Attempt
					saw[n], _ = activity.Resume(ctx, 0)
					if n == 3 {
						return nil
					}
					ctx.Heartbeat(n)
					<-e.gate(fmt.Sprint(n))
					if n == 2 {
						return nil
					}
					ran := false
					for i, err := range []error{
						ctx.Heartbeat(99),
						ctx.Heartbeat(),
						ctx.Sleep(time.Hour),
						activity.Idle(ctx, time.Hour),
						activity.Guard(ctx, func() error { ran = true; return nil }),
					} {
						if timeoutTypeOf(err) != activity.TimeoutHeartbeat || err != context.Cause(ctx) {
							t.Errorf("call %d of the old attempt returned %v", i, err)
						}
					}
					if ran {
						t.Error("Guard ran its function in an attempt that is over")
					}
					return result
				})
				e.pass(15 * time.Second)
				e.open("1")
				if s := h.Status(); s.State != activity.StateRunning || s.Attempt != 2 || s.LastHeartbeat.Sub(e.base) != 10*time.Second {
					t.Errorf("after the old attempt's return the status is %+v", s)
				}
				e.pass(5 * time.Second)
				if err := e.end(h); err != nil {
					t.Error(err)
				}
				e.want("a",
					"0s scheduled 0",
					"0s attempt started 1",
					"0s heartbeat 1",
					"10s attempt failed 1: heartbeat timeout, next in 0s",
					"10s abandoned 1",
					"10s attempt started 2",
					"10s heartbeat 2",
					"15s abandoned returned 1",
					"20s attempt failed 2: heartbeat timeout, next in 0s",
					"20s abandoned 2",
					"20s attempt started 3",
					"20s completed 3")
				if diff := cmp.Diff([]int{0, 0, 1, 2}, saw); diff != "" {
					t.Errorf("the attempts resumed from (-want +got):\n%s", diff)
				}
				if n := e.rt.Stats().Heartbeats; n != 2 {
					t.Errorf("Stats.Heartbeats is %d, want 2", n)
				}
			})
		})
	}
}

// TestRule8ReturnedTimeout: a *TimeoutError that the function returns, as that of
// an inner activity, is an error as any other.
func TestRule8ReturnedTimeout(t *testing.T) {
	for _, typ := range []activity.TimeoutType{
		activity.TimeoutHeartbeat, activity.TimeoutStartToClose, activity.TimeoutScheduleToStart, activity.TimeoutScheduleToClose,
	} {
		t.Run(typ.String(), func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				h := e.start(activity.Options{ID: "a"}, func(ctx activity.Context) error {
					ctx.Heartbeat(ctx.Info().Attempt)
					if ctx.Info().Attempt == 3 {
						return nil
					}
					return &activity.TimeoutError{ID: "inner", Type: typ, Attempt: 1}
				})
				e.pass(time.Minute)
				if err := e.end(h); err != nil {
					t.Error(err)
				}
				e.wantStarted("a", 2, time.Second)
				e.wantStarted("a", 3, 3*time.Second)
			})
		})
	}
}

// TestRule8NoSpin: a function that always hangs at the same place, and ends with
// its context, is retried as the policy says and no more often.
func TestRule8NoSpin(t *testing.T) {
	want, at := 0, time.Duration(0)
	for n := 1; at <= time.Hour; n++ {
		want++
		at += 10 * time.Second
		if n > 1 {
			at += time.Duration(min(1<<min(n-1, 10), 100)) * time.Second
		}
	}
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		e.start(activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			from, err := activity.Resume(ctx, 42)
			if err != nil {
				return err
			}
			if err := ctx.Heartbeat(from); err != nil {
				return err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		e.pass(time.Hour)
		s := e.rt.Stats()
		// The first attempt records 42 where there was nothing.
		if got := int(s.Attempts); got != want {
			t.Errorf("%d attempts in an hour, want %d", got, want)
		}
		if s.Abandoned != 0 {
			t.Errorf("%d functions are abandoned", s.Abandoned)
		}
	})
}

// TestRule25RetryableRaces: the events are the same whether the function returns
// before or after Retryable has answered, at the instant of the timeout.
func TestRule25RetryableRaces(t *testing.T) {
	for _, maxAbandoned := range []int{0, activity.NoOverlap} {
		t.Run(fmt.Sprintf("MaxAbandoned=%d", maxAbandoned), func(t *testing.T) {
			var seen [2][]string
			for i := range seen {
				synctest.Test(t, func(t *testing.T) {
					e := newTimeoutEnv(t, activity.Config{}, nil)
					h := e.start(activity.Options{
						ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: maxAbandoned,
						RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool {
							if i == 0 {
								synctest.Wait() // until the function has returned
							}
							return true
						}},
					}, func(ctx activity.Context) error {
						if ctx.Info().Attempt == 2 {
							return ctx.Sleep(time.Second)
						}
						<-ctx.Done()
						if i == 1 {
							synctest.Wait() // until Retryable has answered
						}
						return nil
					})
					e.pass(time.Minute)
					e.end(h)
					seen[i] = e.lines("a")
				})
			}
			if diff := cmp.Diff(seen[0], seen[1]); diff != "" {
				t.Errorf("events (-return first +answer first):\n%s", diff)
			}
		})
	}
}
