package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// wantFew checks that total events at one instant are a few lines of a level, and that
// one of these counts the events without a line of their own.
func (l *logbook) wantFew(t *testing.T, level slog.Level, total int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, summaries, counted, bulk := 0, 0, 0, 0
	for _, line := range l.lines {
		if line.level != level {
			continue
		}
		lines++
		if strings.Contains(line.text, "goroutine ") {
			bulk++
		}
		if m := regexp.MustCompile(`(\d+) more`).FindStringSubmatch(line.text); m != nil {
			n, _ := strconv.Atoi(m[1])
			counted += n
			summaries++
		}
	}
	if lines > 20 || bulk > 20 {
		t.Errorf("%d at one instant are %d lines, %d of them with a stack", total, lines, bulk)
	} else if lines-summaries+counted != total {
		t.Errorf("%d at one instant: %d lines, and %d that count %d more", total, lines-summaries, summaries, counted)
	}
}

// A stackPlace is the place where a function hangs.
type stackPlace struct{ function, line string }

// stackHere returns its caller and the line after the call.
func stackHere() stackPlace {
	pc, file, line, _ := runtime.Caller(1)
	return stackPlace{runtime.FuncForPC(pc).Name(), fmt.Sprintf("%s:%d ", file[strings.LastIndex(file, "/")+1:], line+1)}
}

// These functions hang, each at its own place.

//go:noinline
func stackHangA(gate chan struct{}, at *stackPlace) error {
	*at = stackHere()
	<-gate
	return nil
}

//go:noinline
func stackHangB(gate chan struct{}, at *stackPlace) error {
	*at = stackHere()
	<-gate
	return nil
}

//go:noinline
func stackHangDeep(depth int, gate chan struct{}, at *stackPlace) error {
	if depth > 0 {
		return stackHangDeep(depth-1, gate, at)
	}
	*at = stackHere()
	<-gate
	return nil
}

type stackClient struct{ gate chan struct{} }

//go:noinline
func (c *stackClient) call(at *stackPlace) error {
	*at = stackHere()
	<-c.gate
	return nil
}

func stackWant(t *testing.T, stack []byte, at stackPlace) {
	t.Helper()
	if s := string(stack); !strings.HasPrefix(s, "goroutine ") || strings.Count(s, "\n\n") > 0 ||
		!strings.Contains(s, at.function+"(") || !strings.Contains(s+" ", at.line) {
		t.Errorf("the stack does not show that %s hangs at %s:\n%s", at.function, at.line, s)
	}
}

// Given a function that hangs, plainly, deeply or inside Guard, then the stack in the
// *TimeoutError and in the log shows where.
func TestStack_ShowsWhereFunctionHangs(t *testing.T) {
	options := map[string]activity.Options{
		"heartbeat":         {HeartbeatTimeout: time.Second},
		"start-to-close":    {StartToCloseTimeout: time.Second},
		"schedule-to-close": {ScheduleToCloseTimeout: time.Second},
	}
	hangs := map[string]func(ctx activity.Context, gate chan struct{}, at *stackPlace) error{
		"plain": func(_ activity.Context, gate chan struct{}, at *stackPlace) error { return stackHangA(gate, at) },
		"deep": func(_ activity.Context, gate chan struct{}, at *stackPlace) error {
			return stackHangDeep(500, gate, at)
		},
		"guard": func(ctx activity.Context, gate chan struct{}, at *stackPlace) error {
			return activity.Guard(ctx, func() error { return stackHangA(gate, at) })
		},
		"range": func(ctx activity.Context, gate chan struct{}, at *stackPlace) error {
			return activity.Range(ctx, 0, 1, func(int) error { return stackHangA(gate, at) })
		},
	}
	interceptors := map[string]func(activity.Context, func(activity.Context) error) error{
		"": nil,
		"interceptor": func(ctx activity.Context, next func(activity.Context) error) error {
			return next(struct{ activity.Context }{ctx})
		},
	}
	for typ, opts := range options {
		for how, hang := range hangs {
			for intercepted, interceptor := range interceptors {
				t.Run(typ+"/"+how+"/"+intercepted, func(t *testing.T) {
					log := &logbook{}
					both(t, activity.Config{Logger: slog.New(log), Interceptor: interceptor}, func(t *testing.T, e *env) {
						opts.RetryPolicy = once
						var at stackPlace
						h := e.start(opts, func(ctx activity.Context) error { return hang(ctx, e.gate("a"), &at) })
						e.pass(time.Second)
						timeout := asTimeout(t, e.end(h))
						stackWant(t, timeout.Stack, at)
						if strings.Contains(timeout.Error(), "no stack") {
							t.Errorf("the error's text is %q", timeout)
						}
						if log.has(slog.LevelWarn, at.function+"(", at.line) == 0 {
							t.Errorf("no warning shows where it hangs: %v", log.lines)
						}
					})
				})
			}
		}
	}
}

// Given a function that hangs in the user's own method "call", then that is not taken for
// the Runtime's.
func TestStack_UsersMethodNamedCall(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var at stackPlace
		h := e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error {
			return (&stackClient{e.gate("a")}).call(&at)
		})
		e.pass(time.Second)
		timeout := asTimeout(t, e.end(h))
		stackWant(t, timeout.Stack, at)
		if strings.Contains(timeout.Error(), "no stack") {
			t.Errorf("the error's text is %q", timeout)
		}
	})
}

// Given several functions that stall at one instant, then each error has its own stack.
func TestStack_OfEachAtOneInstant(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var handles [6]*activity.Handle[string]
		var at [6]stackPlace
		for i := range handles {
			hang := stackHangA
			if i%2 == 1 {
				hang = stackHangB
			}
			opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}
			if i >= 3 {
				opts = activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}
			}
			handles[i] = e.start(opts, func(activity.Context) error { return hang(e.gate("a"), &at[i]) })
		}
		e.pass(time.Second)
		headers := map[string]bool{}
		for i, h := range handles {
			stack := asTimeout(t, e.end(h)).Stack
			stackWant(t, stack, at[i])
			header, _, _ := strings.Cut(string(stack), " [")
			headers[header] = true
		}
		if len(headers) != len(handles) {
			t.Errorf("%d activities have the stacks of %d goroutines", len(handles), len(headers))
		}
	})
}

// Given an activity that waits for another one, when both stall, then each has its own
// stack.
func TestStack_OfNestedActivities(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}
		var at stackPlace
		var inner error
		h := e.start(opts, func(ctx activity.Context) error {
			inner = e.rt.Run(context.WithoutCancel(ctx), opts, func(activity.Context) error { return stackHangA(e.gate("a"), &at) })
			return inner
		})
		e.pass(time.Second)
		outer := e.end(h)
		stackWant(t, asTimeout(t, inner).Stack, at)
		if stack := string(asTimeout(t, outer).Stack); !strings.Contains(stack, "TestStack_OfNestedActivities") || !strings.Contains(stack, ".(*Runtime).Run(") || strings.Contains(stack, at.function+"(") {
			t.Errorf("the outer one's stack is\n%s", stack)
		}
	})
}

// Given a function that returns at the instant of its timeout, then there is no stack,
// and the error's text says so. One that heartbeats then has one.
func TestStack_FunctionReturnedAtTheTimeout(t *testing.T) {
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.begin("a", pauseOptions(10*time.Second))
		e.pause.jump(10 * time.Second) // the timer has not run yet
		e.finish("a")
		timeout := asTimeout(t, e.end(h))
		if timeout.Stack != nil || !strings.Contains(timeout.Error(), "no stack") || !strings.Contains(timeout.Error(), "returned") {
			t.Errorf("the error's text is %q, and its stack\n%s", timeout, timeout.Stack)
		}
	})
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.begin("a", pauseOptions(10*time.Second))
		e.pause.jump(10 * time.Second)
		if err := e.heartbeat("a"); timeoutType(err) != activity.TimeoutHeartbeat {
			t.Errorf("Heartbeat returned %v", err)
		}
		if stack := string(asTimeout(t, e.end(h)).Stack); !strings.Contains(stack, "(*pauseEnv).heartbeat") {
			t.Errorf("the stack does not show the call of Heartbeat:\n%s", stack)
		}
	})
}

// Given more than 4,000 goroutines, then no stack is taken, and the error says so.
// Goroutines of earlier tests that are about to end are waited for, or not counted.
func TestStack_NoneWithTooManyGoroutines(t *testing.T) {
	hang := func(t *testing.T, more func(gate chan struct{})) (*activity.TimeoutError, stackPlace) {
		e := newEnv(t, activity.Config{}, nil)
		var at stackPlace
		h := e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error {
			return stackHangA(e.gate("a"), &at)
		})
		more(e.gate("others"))
		e.pass(time.Second)
		return asTimeout(t, e.end(h)), at
	}
	waitForTheDying()
	synctest.Test(t, func(t *testing.T) {
		timeout, at := hang(t, func(gate chan struct{}) {
			for runtime.NumGoroutine() < 3950 {
				go func() { <-gate }()
			}
		})
		stackWant(t, timeout.Stack, at)
	})
	synctest.Test(t, func(t *testing.T) {
		timeout, _ := hang(t, func(gate chan struct{}) {
			for range 4050 {
				go func() { <-gate }()
			}
		})
		if text := timeout.Error(); timeout.Stack != nil || !strings.Contains(text, "no stack") || !strings.Contains(text, "goroutines") {
			t.Errorf("the error's text is %q, and its stack has %d bytes", text, len(timeout.Stack))
		}
	})
}

// waitForTheDying yields until the goroutines of earlier tests have ended. A test in a bubble
// may be over before they are.
func waitForTheDying() {
	for runtime.NumGoroutine() > 2000 {
		runtime.Gosched()
	}
}

// A stackClock advances by 1 ms each time it is read, so that a dump takes 1 ms.
type stackClock struct {
	*pauseClock
	slow atomic.Bool
}

func (c *stackClock) Now() time.Time {
	if c.slow.Load() {
		c.jump(time.Millisecond)
	}
	return c.pauseClock.Now()
}

// Given many stalls one after another, then dumps take at most 5 % of the time, and the
// error of a stall without a stack says so.
func TestStack_DumpsTakeFivePercentOfTheTime(t *testing.T) {
	waitForTheDying()
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		c := &stackClock{pauseClock: e.pause}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet})
		const stalls = 1000
		var handles [stalls]*activity.Handle[string]
		for i := range handles {
			opts := activity.Options{HeartbeatTimeout: time.Hour + time.Duration(i)*time.Millisecond, RetryPolicy: once}
			h := startWith(t, e.ctx, rt, opts, func(ctx activity.Context) error {
				<-ctx.Done()
				return nil
			})
			handles[i] = h
		}
		synctest.Wait()
		c.jump(time.Hour - time.Millisecond)
		began, dumps, ended, stacks, reasons := c.Now(), 0, 0, 0, 0
		for ended < stalls {
			c.slow.Store(true) // also in a timer's callback, which may find them first
			c.jump(time.Millisecond)
			handles[stalls-1].Status() // settles the timeouts that are due
			c.slow.Store(false)
			synctest.Wait()
			dumped := 0
			for ; ended < stalls && handles[ended].Status().State == activity.StateFailed; ended++ {
				timeout := asTimeout(t, wait(t, handles[ended]))
				switch {
				case timeout.Stack != nil:
					stacks++
					dumped = 1
				case strings.Contains(timeout.Error(), "no stack: dumps"):
					reasons++
				}
			}
			dumps += dumped
		}
		// Each dump takes 1 ms, and the stalls come a few milliseconds apart.
		took := c.Now().Sub(began)
		if most, least := int(took/(20*time.Millisecond))+1, int(took/(40*time.Millisecond)); dumps > most || dumps < least {
			t.Errorf("%d dumps of 1 ms in %s, want %d to %d", dumps, took, least, most)
		}
		if stacks == 0 || reasons == 0 || stacks+reasons != stalls {
			t.Errorf("of %d errors %d have a stack, and %d say why they have none", stalls, stacks, reasons)
		}
	})
}

// Given a canceled function that does not return within CancelGrace, then the log shows
// where it hangs.
func TestStack_OfAbandonedAfterCancel(t *testing.T) {
	log := &logbook{}
	both(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env) {
		var at stackPlace
		h := e.start(activity.Options{ID: "a", CancelGrace: time.Second}, func(activity.Context) error { return stackHangA(e.gate("a"), &at) })
		h.Cancel(errors.New("stop"))
		e.pass(time.Second)
		e.end(h)
		if log.has(slog.LevelWarn, at.function+"(", at.line) == 0 {
			t.Errorf("no warning shows where it hangs: %v", log.lines)
		}
		e.want("a", "0s scheduled 0", "0s attempt started 1", "1s abandoned 1", "1s canceled 1")
	})
}

func stackRetryables() map[string]func(error) bool {
	return map[string]func(error) bool{"no Retryable": nil, "Retryable": func(error) bool { return true }}
}

// stackDumps returns how often the world was stopped for other reasons than garbage
// collection.
func stackDumps() (n uint64) {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(sample)
	for _, c := range sample[0].Value.Float64Histogram().Counts {
		n += c
	}
	return n
}

// Given a thousand stalls at one instant, then there are a few log lines, of which one
// counts the rest.
func TestStallLog_ManyAtOneInstant(t *testing.T) {
	for name, retryable := range stackRetryables() {
		t.Run(name, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				log := &logbook{}
				cfg := activity.Config{Logger: slog.New(log)}
				if e.mock != nil {
					cfg.Clock = e.mock
				}
				rt := activity.New(cfg)
				for range 1000 {
					startWith(t, e.ctx, rt, activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}, func(ctx activity.Context) error {
						if ctx.Info().Attempt == 2 {
							return nil
						}
						<-e.gate("all")
						return nil
					})
				}
				e.pass(time.Second)
				if s := rt.Stats(); s.Completed != 1000 || s.Timeouts != 1000 {
					t.Fatalf("Stats are %+v", s)
				}
				log.wantFew(t, slog.LevelWarn, 1000)
			})
		})
	}
}

// Given an attempt that returns what the attempt before ended with, then it has its own
// log line, and is no part of that one's burst.
func TestStallLog_ReturnedFailureHasItsLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		e := newEnv(t, activity.Config{Logger: slog.New(log)}, nil)
		const n = 10
		for range n {
			e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 2 {
					return ctx.Info().LastFailure
				}
				return e.hang(ctx)
			})
		}
		e.pass(time.Second)
		log.wantFew(t, slog.LevelWarn, 2*n)
	})
}

// Given up to three stalls at one instant, then each has its log line.
func TestStallLog_AFewHaveALineEach(t *testing.T) {
	for name, retryable := range stackRetryables() {
		for _, n := range []int{1, 2, 3} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				log := &logbook{}
				both(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env) {
					log.lines = nil
					for range n {
						e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}, e.hang)
					}
					e.pass(time.Second)
					if got := log.has(slog.LevelWarn, "heartbeat timeout", "goroutine "); got != n || len(log.lines) != n {
						t.Errorf("%d stalls are %d lines: %v", n, got, log.lines)
					}
				})
			})
		}
	}
}

// Rule 9. Given a thousand activities that are blocked at one instant, then there are a
// few log lines.
func TestStallLog_ManyBlockedAtOneInstant(t *testing.T) {
	for name, retryable := range stackRetryables() {
		for when, opts := range map[string]activity.Options{
			"at once":         {HeartbeatTimeout: 2 * time.Second},
			"after a backoff": {StartToCloseTimeout: time.Second},
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				log := &logbook{}
				synctest.Test(t, func(t *testing.T) {
					e := newEnv(t, activity.Config{Logger: slog.New(log)}, nil)
					opts.MaxAbandoned, opts.RetryPolicy.Retryable = activity.NoOverlap, retryable
					for range 1000 {
						e.start(opts, e.hang)
					}
					time.Sleep(time.Until(e.base.Add(2 * time.Second)))
					synctest.Wait()
					if s := e.rt.Stats(); s.Blocked != 1000 {
						t.Fatalf("Stats are %+v", s)
					}
					log.wantFew(t, slog.LevelWarn, 1000)
					time.Sleep(time.Second)
					synctest.Wait()
					log.wantFew(t, slog.LevelError, 1000)
				})
			})
		}
	}
}

// Given a thousand canceled functions that do not return within CancelGrace, then there
// are a few log lines.
func TestStallLog_ManyAbandonedAfterCancel(t *testing.T) {
	log := &logbook{}
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, activity.Config{Logger: slog.New(log)}, nil)
		for range 1000 {
			e.start(activity.Options{}, e.hang)
		}
		if err := e.rt.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		abandoned := log.has(slog.LevelWarn, "abandoned")
		if abandoned > 20 {
			t.Errorf("1,000 that are abandoned at one instant are %d lines", abandoned)
		}
	})
}

// Rule 8. Given thousands of stalls at one instant, then all are retried at it, with one
// dump of goroutines at most.
func TestStack_OneDumpForManyAtOneInstant(t *testing.T) {
	many := 10_000
	if raceEnabled {
		many = 3_500
	}
	for _, n := range []int{many, 1_000} {
		for name, retryable := range stackRetryables() {
			t.Run(fmt.Sprint(n, name), func(t *testing.T) {
				// The world may stop for another reason, now and then, but not each time.
				var dumps uint64
				for range 5 {
					synctest.Test(t, func(t *testing.T) { dumps = stackDumpsOfStalls(t, n, retryable) })
					if dumps <= 1 && (n != 1_000 || dumps == 1) {
						return
					}
				}
				t.Errorf("%d dumps for %d stalls", dumps, n)
			})
		}
	}
}

func stackDumpsOfStalls(t *testing.T, n int, retryable func(error) bool) uint64 {
	e := newEnv(t, activity.Config{}, nil)
	opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}
	for range n {
		startWith(t, e.ctx, e.rt, opts, func(ctx activity.Context) error {
			<-e.gate(strconv.Itoa(ctx.Info().Attempt))
			return nil
		})
	}
	synctest.Wait()
	before := stackDumps()
	e.pass(time.Second)
	dumps := stackDumps() - before
	retried, stacks := 0, 0
	for _, event := range e.all() {
		switch {
		case event.Kind == activity.EventAttemptStarted && event.Attempt == 2:
			retried++
			if at := event.Time.Sub(e.base); at != time.Second {
				t.Fatalf("a retry at %s", at)
			}
		case event.Kind == activity.EventAttemptFailed && asTimeout(t, event.Err).Stack != nil:
			stacks++
		}
	}
	if retried != n || n == 1_000 && stacks != n {
		t.Errorf("of %d, %d were retried and %d have a stack", n, retried, stacks)
	}
	return dumps
}
