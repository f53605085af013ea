package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// timeoutActions are the calls a function can make at the instant of a deadline. Each
// returns the error that it got, if any.
var timeoutActions = map[string]func(e *env, ctx activity.Context) error{
	"heartbeat": func(e *env, ctx activity.Context) error { return ctx.Heartbeat() },
	"details":   func(e *env, ctx activity.Context) error { return ctx.Heartbeat(1) },
	"return":    func(e *env, ctx activity.Context) error { return nil },
	"guard": func(e *env, ctx activity.Context) error {
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

// Rule 7. Given a deadline, when a function heartbeats, returns or does anything else at
// that instant, then it is late, whichever goroutine is there first.
func TestTimeout_ActionAtDeadlineIsLate(t *testing.T) {
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
						both(t, activity.Config{}, func(t *testing.T, e *env) {
							opts := opts
							opts.ID, opts.RetryPolicy = "a", once
							timeoutAt(t, e, opts, typ, action, timeout+after, timeout, first == "function")
						})
					})
				}
			}
		}
	}
}

// timeoutAt has a function act at the instant at.
func timeoutAt(t *testing.T, e *env, opts activity.Options, typ activity.TimeoutType, action string, at, timeout time.Duration, functionFirst bool) {
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
		checkDiff(t, "events", calm, want)
		return
	}
	if told == nil && action != "return" || told != nil && timeoutType(told) != typ {
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
	checkDiff(t, "events", calm, want)
}

// Rules 7 and 8. Given a heartbeat deadline, when the function returns at it before or
// after the timer runs, then the events are the same, and the retry starts at that
// instant.
func TestTimeout_RetryAtTheSameInstant(t *testing.T) {
	for _, first := range []string{"function", "runtime"} {
		t.Run(first, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
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

// Rule 7. Given heartbeats in time, then the heartbeat deadline counts from the last one.
func TestTimeout_HeartbeatMovesTheDeadline(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context) error {
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

// Rule 7. Given several deadlines, then the earlier instant comes first, and at one
// instant schedule-to-close before start-to-close before heartbeat.
func TestTimeout_OrderOfDeadlines(t *testing.T) {
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
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{
					ID: "a", RetryPolicy: once,
					HeartbeatTimeout: test.heartbeat, StartToCloseTimeout: test.start, ScheduleToCloseTimeout: test.schedule,
				}, e.hang)
				e.pass(s)
				if got := timeoutType(e.end(h)); got != test.want {
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

// Rule 8. Given a heartbeat timeout, then the next attempt starts at once, unless the
// attempt before ended so too and this one made no progress.
func TestTimeout_BackoffAfterHeartbeatTimeouts(t *testing.T) {
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
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{
					ID: "a", HeartbeatTimeout: 10 * s, StartToCloseTimeout: 25 * s, HeartbeatDetails: []any{7},
				}, timeoutScript(strings.Fields(test.steps)...))
				e.pass(time.Hour)
				if err := e.end(h); err != nil {
					t.Fatal(err)
				}
				var got []time.Duration
				for _, event := range e.all() {
					if event.Kind != activity.EventAttemptFailed {
						continue
					}
					got = append(got, event.Delay)
					e.wantStarted("a", event.Attempt+1, event.Time.Sub(e.base)+event.Delay)
				}
				checkDiff(t, "waits", got, test.want)
			})
		})
	}
}

// Rule 8. Given an attempt that times out, then its Context, and what derives from it,
// ends with the *TimeoutError as its cause.
func TestTimeout_IsTheContextsCause(t *testing.T) {
	for typ, opts := range map[activity.TimeoutType]activity.Options{
		activity.TimeoutHeartbeat:       {HeartbeatTimeout: time.Second},
		activity.TimeoutStartToClose:    {StartToCloseTimeout: time.Second},
		activity.TimeoutScheduleToClose: {ScheduleToCloseTimeout: time.Second},
	} {
		t.Run(typ.String(), func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				opts.RetryPolicy = once
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

// Rule 8. Given a *TimeoutError, then its text stands alone as a cause, so it names the
// activity, and its LastFailure is one level deep.
func TestTimeout_ErrorTextAndLayers(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var cause, second error
		opts := activity.Options{ID: "a1", Name: "job", StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}
		err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				return io.EOF
			case 2:
				_ = ctx.Heartbeat("x", 7)
				<-ctx.Done()
				cause = context.Cause(ctx)
				return cause
			}
			second = ctx.Info().LastFailure
			<-ctx.Done()
			return nil
		})
		checkEnd(t, err, 3, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
		if want := `activity "a1" (job): start-to-close timeout: attempt 2 was not done within 1m0s; the last heartbeat details are kept; the previous attempt: EOF`; fmt.Sprint(cause) != want {
			t.Errorf("got  %v\nwant %s", cause, want)
		}
		var timeout *activity.TimeoutError
		if !errors.As(cause, &timeout) || timeout.LastFailure != io.EOF || timeout.Attempt != 2 || !timeout.Timeout() || errors.Is(cause, context.Canceled) {
			t.Errorf("%+v", cause)
		}
		var net interface{ Timeout() bool }
		if !errors.As(err, &net) || !net.Timeout() {
			t.Errorf("%v is no Timeout", err)
		}
		var s string
		var n int
		if ok, err := timeout.HeartbeatDetails(&s, &n); !ok || err != nil || s != "x" || n != 7 {
			t.Errorf("details %q, %d, %t, %v", s, n, ok, err)
		}
		// One level only: the failure before the failure before is gone.
		if !errors.As(err, &timeout) || timeout.Attempt != 3 {
			t.Fatal(err)
		}
		for _, last := range []error{second, timeout.LastFailure} {
			var before *activity.TimeoutError
			if !errors.As(last, &before) || before.Attempt != 2 || before.LastFailure != nil {
				t.Errorf("LastFailure is %+v", last)
			}
		}
	})
}

// Rule 8. Given an attempt that has timed out, when it heartbeats or returns anything,
// then that is ignored.
func TestTimeout_FencedAttemptIsIgnored(t *testing.T) {
	for _, result := range []error{nil, errors.New("failed"), activity.NonRetryable(errors.New("final")), activity.RetryAfter(errors.New("later"), time.Hour)} {
		t.Run(fmt.Sprint(result), func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
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
						if timeoutType(err) != activity.TimeoutHeartbeat || err != context.Cause(ctx) {
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
				checkDiff(t, "the attempts resumed from", saw, []int{0, 0, 1, 2})
				if n := e.rt.Stats().Heartbeats; n != 2 {
					t.Errorf("Stats.Heartbeats is %d, want 2", n)
				}
			})
		})
	}
}

// Rule 8. Given a function that ignores the errors of Sleep, when its attempt has timed
// out, then it is fenced nevertheless.
func TestTimeout_IgnoredSleepError(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, activity.Options{StartToCloseTimeout: time.Minute}, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 2 {
			return nil
		}
		for range 100 {
			_ = ctx.Sleep(time.Second)
		}
		return activity.NonRetryable(io.EOF)
	})
	if calls != 2 || err != nil {
		t.Errorf("%d attempts, %v", calls, err)
	}
}

// Rule 8. Given a function that returns a *TimeoutError, such as that of an inner
// activity, then that is an error like any other.
func TestTimeout_ReturnedTimeoutErrorIsAnyError(t *testing.T) {
	for _, typ := range []activity.TimeoutType{
		activity.TimeoutHeartbeat, activity.TimeoutStartToClose, activity.TimeoutScheduleToStart, activity.TimeoutScheduleToClose,
	} {
		t.Run(typ.String(), func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
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

// Rule 8. Given a function that always stalls at one place, then it is retried as often
// as the policy says and no more.
func TestTimeout_StallAtOnePlaceDoesNotSpin(t *testing.T) {
	want, at := 0, time.Duration(0)
	for n := 1; at <= time.Hour; n++ {
		want++
		at += 10 * time.Second
		if n > 1 {
			at += time.Duration(min(1<<min(n-1, 10), 100)) * time.Second
		}
	}
	both(t, activity.Config{}, func(t *testing.T, e *env) {
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

// Rule 10. Given an attempt whose start comes late, when schedule-to-close is reached,
// then it does not begin.
func TestTimeout_NoAttemptStartsAfterScheduleToClose(t *testing.T) {
	for late, begins := range map[time.Duration]bool{0: true, time.Second - 1: true, time.Second: false, 2 * time.Second: false} {
		t.Run(late.String(), func(t *testing.T) {
			pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
				failed := errors.New("failed")
				h := e.start(activity.Options{
					ID: "a", ScheduleToCloseTimeout: 6 * time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: 5 * time.Second},
				}, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 1 {
						return failed
					}
					return nil
				})
				e.late(5*time.Second, late)
				err := e.end(h)
				if begins {
					if err != nil {
						t.Error(err)
					}
					e.wantStarted("a", 2, 5*time.Second+late)
					return
				}
				e.wantStarted("a", 2, -1)
				if end := (*activity.Error)(nil); !errors.As(err, &end) || end.RetryState != activity.RetryStateTimeout || !errors.Is(err, failed) {
					t.Errorf("it ended with %v, want the attempt's own error and %s", err, activity.RetryStateTimeout)
				}
			})
		})
	}
}

// Rule 10. Given a next attempt that would begin 1 ns before schedule-to-close, then it
// begins; at that instant or later, the activity fails at once with the last attempt's
// own error.
func TestTimeout_NextAttemptAtScheduleToClose(t *testing.T) {
	failed := errors.New("failed")
	for _, how := range []string{"error", "retry after", "start-to-close", "second heartbeat timeout"} {
		for _, more := range []time.Duration{-1, 0, 1} {
			t.Run(fmt.Sprintf("%s/%d", how, more), func(t *testing.T) {
				both(t, activity.Config{}, func(t *testing.T, e *env) {
					opts := activity.Options{ID: "a"}
					ends, next := time.Duration(0), time.Second // when the attempt ends, and the next begins
					var want activity.TimeoutType
					last := 1
					switch how {
					case "retry after":
						next = time.Hour
					case "start-to-close":
						opts.StartToCloseTimeout = 3 * time.Second
						ends, next, want = 3*time.Second, 4*time.Second, activity.TimeoutStartToClose
					case "second heartbeat timeout":
						opts.HeartbeatTimeout = 3 * time.Second
						ends, next, want, last = 6*time.Second, 8*time.Second, activity.TimeoutHeartbeat, 2
					}
					opts.ScheduleToCloseTimeout = next + more
					h := e.start(opts, func(ctx activity.Context) error {
						switch {
						case ctx.Info().Attempt > last:
							<-ctx.Done()
							return context.Cause(ctx)
						case how == "error":
							return failed
						case how == "retry after":
							return activity.RetryAfter(failed, time.Hour)
						}
						<-ctx.Done()
						return context.Cause(ctx)
					})
					e.pass(ends)
					if more == 1 {
						e.pass(next - ends)
						e.wantStarted("a", last+1, next)
						e.pass(1)
						want = activity.TimeoutScheduleToClose
						ends = next + 1
					} else {
						e.wantStarted("a", last+1, -1)
					}
					err := e.end(h) // at once
					if end := err.(*activity.Error); end.RetryState != activity.RetryStateTimeout || timeoutType(err) != want {
						t.Errorf("it ended with %v (%s)", err, end.RetryState)
					}
					if want == 0 && !errors.Is(err, failed) {
						t.Errorf("%v is not the attempt's own error", err)
					}
					for _, event := range e.all() {
						if event.Kind == activity.EventFailed && event.Time.Sub(e.base) != ends {
							t.Errorf("it ended at %s, want %s", event.Time.Sub(e.base), ends)
						}
						if event.Kind == activity.EventAttemptFailed && more != 1 && event.Attempt == last && event.Delay != 0 {
							t.Errorf("the last attempt's event has Delay %s", event.Delay)
						}
					}
				})
			})
		}
	}
}

// Rule 10. Given an attempt that schedule-to-close cuts off, then it is not retried,
// whatever Retryable says. An immediate retry just before it has 1 ns.
func TestTimeout_ScheduleToCloseIsNotRetried(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{
			ID: "a", HeartbeatTimeout: 10*time.Second - 1, ScheduleToCloseTimeout: 10 * time.Second,
			RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { return true }},
		}, e.hang)
		e.pass(10 * time.Second)
		err := e.end(h)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"9.999999999s attempt failed 1: heartbeat timeout, next in 0s",
			"9.999999999s abandoned 1",
			"9.999999999s attempt started 2",
			"10s attempt failed 2: schedule-to-close timeout, next in 0s",
			"10s abandoned 2",
			"10s failed 2: schedule-to-close timeout, timeout")
		timeout := asTimeout(t, err)
		if timeout.Attempt != 2 || timeoutType(timeout.LastFailure) != activity.TimeoutHeartbeat {
			t.Errorf("it ended with %#v", timeout)
		}
	})
}

// Rule 10. Given a Retryable that does not answer, when schedule-to-close is reached,
// then the activity ends at that instant, with the attempt's own failure.
func TestTimeout_ScheduleToCloseWhileRetryableIsAsked(t *testing.T) {
	tests := map[string]struct {
		heartbeat time.Duration
		fails     bool
		want      []string
	}{
		"a failure": {0, true, []string{
			"10s attempt failed 1: boom, next in 0s",
			"10s failed 1: boom, timeout",
		}},
		"a timeout": {3 * time.Second, false, []string{
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s failed 1: heartbeat timeout, timeout",
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{
					ID: "a", HeartbeatTimeout: test.heartbeat, ScheduleToCloseTimeout: 10 * time.Second,
					RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { <-e.gate("answer"); return true }},
				}, func(ctx activity.Context) error {
					if test.fails {
						return errBoom
					}
					return e.hang(ctx)
				})
				e.pass(10*time.Second - 1)
				e.want("a", "0s scheduled 0", "0s attempt started 1")
				checkState(t, h, activity.StateRunning)
				e.pass(1)
				want := append([]string{"0s scheduled 0", "0s attempt started 1"}, test.want...)
				e.want("a", want...)
				e.end(h)
				e.open("answer")
				e.want("a", want...) // the answer comes too late
			})
		})
	}
}

// Rule 4. Given a timed-out attempt, when its function returns a result before, while or
// after the next attempt runs, then that result never counts.
func TestTimeout_FencedResultNeverWins(t *testing.T) {
	for _, tt := range []struct {
		stale     time.Duration // when the first attempt returns; it times out after 10 s
		noOverlap bool
	}{{10 * time.Second, false}, {10*time.Second + 1, false}, {12 * time.Second, false}, {15 * time.Second, false}, {time.Minute, false}, {10 * time.Second, true}, {time.Minute, true}} {
		t.Run(fmt.Sprint(tt.stale, tt.noOverlap), func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				opts := activity.Options{HeartbeatTimeout: 10 * time.Second}
				if tt.noOverlap {
					opts.MaxAbandoned = activity.NoOverlap
				}
				out, err := activity.Execute(t.Context(), rt, opts, func(ctx activity.Context, _ int) (string, error) {
					if ctx.Info().Attempt == 1 {
						time.Sleep(tt.stale)
						return "stale", nil
					}
					time.Sleep(5 * time.Second)
					return "fresh", nil
				}, 0)
				if err != nil || out != "fresh" {
					t.Errorf("got %q, %v", out, err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
	// 1 ns before the timeout it is not fenced.
	_, err := runCalls(t, activity.Config{}, activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(activity.Context) error {
		time.Sleep(10*time.Second - 1)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Rule 7. Given an attempt whose deadline is reached before its goroutine has begun, then
// its function is not called.
func TestTimeout_BeforeFunctionBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paused := &pauseClock{Mock: clock.NewMock()}
		c := &armedClock{Clock: paused}
		e := newEnv(t, activity.Config{Clock: c}, paused.Mock)
		c.arm(func() { // at the reading with which the start begins
			c.arm(func() { paused.jump(time.Second) }) // at that which sets the timer
		})
		h := e.start(activity.Options{ID: "a", StartToCloseTimeout: time.Second}, func(ctx activity.Context) error {
			if n := ctx.Info().Attempt; n != 2 {
				t.Errorf("attempt %d is called", n)
			}
			return nil
		})
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"1s attempt failed 1: start-to-close timeout, next in 1s",
			"1s abandoned 1",
			"1s abandoned returned 1",
			"2s attempt started 2",
			"2s completed 2")
	})
}
