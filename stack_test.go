package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// A stackLog keeps what is logged.
type stackLog struct {
	mu    sync.Mutex
	lines []stackLine
}

type stackLine struct {
	level slog.Level
	text  string // the message and all attributes
	bulk  bool   // has a stack
}

func (l *stackLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *stackLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *stackLog) WithGroup(string) slog.Handler            { return l }

func (l *stackLog) Handle(_ context.Context, r slog.Record) error {
	line := stackLine{level: r.Level, text: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		line.text += "\n" + a.String()
		return true
	})
	line.bulk = strings.Contains(line.text, "goroutine ")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// has counts the lines of a level that contain all of what.
func (l *stackLog) has(level slog.Level, what ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		missing := slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(line.text, w) })
		if line.level == level && !missing {
			n++
		}
	}
	return n
}

// wantFew checks that so many at one instant are a few lines of a level, and
// that one counts those which have none of their own.
func (l *stackLog) wantFew(t *testing.T, level slog.Level, total int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	lines, summaries, counted, bulk := 0, 0, 0, 0
	for _, line := range l.lines {
		if line.level != level {
			continue
		}
		lines++
		if line.bulk {
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

// A stackPlace is where a function hangs.
type stackPlace struct{ function, line string }

// stackHere is the line after its caller's, and the caller.
func stackHere() stackPlace {
	pc, file, line, _ := runtime.Caller(1)
	return stackPlace{runtime.FuncForPC(pc).Name(), fmt.Sprintf("%s:%d ", file[strings.LastIndex(file, "/")+1:], line+1)}
}

// Functions that hang, each at its own place.

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

func stackTimeout(t *testing.T, err error) *activity.TimeoutError {
	t.Helper()
	timeout := (*activity.TimeoutError)(nil)
	if !errors.As(err, &timeout) {
		t.Fatalf("%v is no *TimeoutError", err)
	}
	return timeout
}

// TestStackOfWhatHangs: the stack in the *TimeoutError and in the log shows where
// the function hangs.
func TestStackOfWhatHangs(t *testing.T) {
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
					log := &stackLog{}
					timeoutBoth(t, activity.Config{Logger: slog.New(log), Interceptor: interceptor}, func(t *testing.T, e *timeoutEnv) {
						opts.RetryPolicy = timeoutOnce
						var at stackPlace
						h := e.start(opts, func(ctx activity.Context) error { return hang(ctx, e.gate("a"), &at) })
						e.pass(time.Second)
						timeout := stackTimeout(t, e.end(h))
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

// TestStackOfMethodNamedCall: the user's own method "call" is not taken for the
// runtime's.
func TestStackOfMethodNamedCall(t *testing.T) {
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		var at stackPlace
		h := e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: timeoutOnce}, func(activity.Context) error {
			return (&stackClient{e.gate("a")}).call(&at)
		})
		e.pass(time.Second)
		timeout := stackTimeout(t, e.end(h))
		stackWant(t, timeout.Stack, at)
		if strings.Contains(timeout.Error(), "no stack") {
			t.Errorf("the error's text is %q", timeout)
		}
	})
}

// TestStackOfEach: several that stall at one instant have each its own.
func TestStackOfEach(t *testing.T) {
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		var handles [6]*activity.Handle[struct{}]
		var at [6]stackPlace
		for i := range handles {
			hang := stackHangA
			if i%2 == 1 {
				hang = stackHangB
			}
			opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: timeoutOnce}
			if i >= 3 {
				opts = activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: timeoutOnce}
			}
			handles[i] = e.start(opts, func(activity.Context) error { return hang(e.gate("a"), &at[i]) })
		}
		e.pass(time.Second)
		headers := map[string]bool{}
		for i, h := range handles {
			stack := stackTimeout(t, e.end(h)).Stack
			stackWant(t, stack, at[i])
			header, _, _ := strings.Cut(string(stack), " [")
			headers[header] = true
		}
		if len(headers) != len(handles) {
			t.Errorf("%d activities have the stacks of %d goroutines", len(handles), len(headers))
		}
	})
}

// TestStackOfWhatReturned: one that returns at the very instant of its timeout has
// none, and the text says so.
func TestStackOfWhatReturned(t *testing.T) {
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.begin("a", pauseOptions(10*time.Second))
		e.pause.jump(10 * time.Second) // the timer is not there yet
		e.finish("a")
		timeout := stackTimeout(t, e.end(h))
		if timeout.Stack != nil || !strings.Contains(timeout.Error(), "no stack") || !strings.Contains(timeout.Error(), "returned") {
			t.Errorf("the error's text is %q, and its stack\n%s", timeout, timeout.Stack)
		}
	})
	// One that finds the deadline itself, in a heartbeat, has one.
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		h := e.begin("a", pauseOptions(10*time.Second))
		e.pause.jump(10 * time.Second)
		if err := e.heartbeat("a"); timeoutTypeOf(err) != activity.TimeoutHeartbeat {
			t.Errorf("Heartbeat returned %v", err)
		}
		if stack := string(stackTimeout(t, e.end(h)).Stack); !strings.Contains(stack, "(*pauseEnv).heartbeat") {
			t.Errorf("the stack does not show the call of Heartbeat:\n%s", stack)
		}
	})
}

// TestStackManyGoroutines: where there are more than 4,000 goroutines none is
// taken, and the error says so.
func TestStackManyGoroutines(t *testing.T) {
	for _, goroutines := range []int{3950, 4050} {
		synctest.Test(t, func(t *testing.T) {
			e := newTimeoutEnv(t, activity.Config{}, nil)
			var at stackPlace
			h := e.start(activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: timeoutOnce}, func(activity.Context) error {
				return stackHangA(e.gate("a"), &at)
			})
			gate := e.gate("others")
			for runtime.NumGoroutine() < goroutines {
				go func() { <-gate }()
			}
			e.pass(time.Second)
			timeout := stackTimeout(t, e.end(h))
			if goroutines < 4000 {
				stackWant(t, timeout.Stack, at)
			} else if text := timeout.Error(); timeout.Stack != nil || !strings.Contains(text, "no stack") || !strings.Contains(text, "goroutines") {
				t.Errorf("with %d goroutines the error's text is %q, and its stack has %d bytes", goroutines, text, len(timeout.Stack))
			}
		})
	}
}

// A stackClock is one on which every look at it takes 1 ms, a dump too.
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

// TestStackBudget: dumps take at most 5 % of the time. The error of a stall that
// has no stack for that says so.
func TestStackBudget(t *testing.T) {
	pauseTest(t, activity.Config{}, func(t *testing.T, e *pauseEnv) {
		c := &stackClock{pauseClock: e.pause}
		rt := activity.New(activity.Config{Clock: c, Logger: slog.New(slog.DiscardHandler)})
		const stalls = 1000
		var handles [stalls]*activity.Handle[int]
		for i := range handles {
			opts := activity.Options{HeartbeatTimeout: time.Hour + time.Duration(i)*time.Millisecond, RetryPolicy: timeoutOnce}
			h, err := activity.Start(e.ctx, rt, opts, func(ctx activity.Context, _ int) (int, error) {
				<-ctx.Done()
				return 0, nil
			}, 0)
			if err != nil {
				t.Fatal(err)
			}
			handles[i] = h
		}
		synctest.Wait()
		c.jump(time.Hour - time.Millisecond)
		before, began := stackDumps(), c.Now()
		for c.Now().Sub(began) < stalls*time.Millisecond {
			c.jump(time.Millisecond)
			c.slow.Store(true)
			handles[stalls-1].Status() // finds those that are due
			c.slow.Store(false)
			synctest.Wait()
		}
		dumps, took := stackDumps()-before, c.Now().Sub(began)
		// Each dump takes 1 ms, and the stalls come a few milliseconds apart.
		if most, least := uint64(took/(20*time.Millisecond))+1, uint64(took/(40*time.Millisecond)); dumps > most || dumps < least {
			t.Errorf("%d dumps of 1 ms in %s, want %d to %d", dumps, took, least, most)
		}
		stacks, reasons := 0, 0
		for _, h := range handles {
			_, err := h.Wait(e.ctx)
			timeout := stackTimeout(t, err)
			switch {
			case timeout.Stack != nil:
				stacks++
			case strings.Contains(timeout.Error(), "no stack: dumps"):
				reasons++
			}
		}
		if stacks == 0 || reasons == 0 || stacks+reasons != stalls {
			t.Errorf("of %d errors %d have a stack, and %d say why they have none", stalls, stacks, reasons)
		}
	})
}

// TestStackOfAbandonedCanceled: the log shows where a canceled function hangs that
// does not return within CancelGrace.
func TestStackOfAbandonedCanceled(t *testing.T) {
	log := &stackLog{}
	timeoutBoth(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *timeoutEnv) {
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

// Many at one instant.

func stackRetryables() map[string]func(error) bool {
	return map[string]func(error) bool{"no Retryable": nil, "Retryable": func(error) bool { return true }}
}

// stackDumps counts how often the world was stopped but for garbage.
func stackDumps() (n uint64) {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(sample)
	for _, c := range sample[0].Value.Float64Histogram().Counts {
		n += c
	}
	return n
}

// stackRace reports whether the race detector is on, which allows 8,128
// goroutines.
func stackRace() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// TestBurstOfStalls: a thousand that stall at one instant are a few lines of the
// log, and one of them counts the rest.
func TestBurstOfStalls(t *testing.T) {
	for name, retryable := range stackRetryables() {
		t.Run(name, func(t *testing.T) {
			timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
				log := &stackLog{}
				cfg := activity.Config{Logger: slog.New(log)}
				if e.mock != nil {
					cfg.Clock = e.mock
				}
				rt := activity.New(cfg)
				for range 1000 {
					_, err := activity.Start(e.ctx, rt, activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}, func(ctx activity.Context, _ int) (int, error) {
						if ctx.Info().Attempt == 2 {
							return 0, nil
						}
						<-e.gate("all")
						return 0, nil
					}, 0)
					if err != nil {
						t.Fatal(err)
					}
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

// TestBurstReturned: an attempt that returns what the attempt before ended with is
// no part of that one's burst: it has its line.
func TestBurstReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &stackLog{}
		e := newTimeoutEnv(t, activity.Config{Logger: slog.New(log)}, nil)
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

// TestBurstOfAFew: each has its line.
func TestBurstOfAFew(t *testing.T) {
	for name, retryable := range stackRetryables() {
		for _, n := range []int{1, 2, 3} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				log := &stackLog{}
				timeoutBoth(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *timeoutEnv) {
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

// TestBurstOfBlocked: a thousand that are blocked at one instant (rule 9).
func TestBurstOfBlocked(t *testing.T) {
	for name, retryable := range stackRetryables() {
		t.Run(name, func(t *testing.T) {
			log := &stackLog{}
			synctest.Test(t, func(t *testing.T) {
				e := newTimeoutEnv(t, activity.Config{Logger: slog.New(log)}, nil)
				for range 1000 {
					e.start(activity.Options{HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}, e.hang)
				}
				time.Sleep(time.Until(e.base.Add(time.Second)))
				synctest.Wait()
				if s := e.rt.Stats(); s.Blocked != 1000 {
					t.Fatalf("Stats are %+v", s)
				}
				log.wantFew(t, slog.LevelWarn, 1000)
				log.wantFew(t, slog.LevelError, 1000)
			})
		})
	}
}

// TestBurstOfAbandoned: a thousand canceled at one instant that do not return.
func TestBurstOfAbandoned(t *testing.T) {
	log := &stackLog{}
	synctest.Test(t, func(t *testing.T) {
		e := newTimeoutEnv(t, activity.Config{Logger: slog.New(log)}, nil)
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

// TestStackOneDumpForAll: ten thousand that stall at one instant are all retried
// at it, with one dump of goroutines at most.
func TestStackOneDumpForAll(t *testing.T) {
	many := 10_000
	if stackRace() {
		many = 3_500
	}
	for _, n := range []int{many, 1_000} {
		for name, retryable := range stackRetryables() {
			t.Run(fmt.Sprint(n, name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newTimeoutEnv(t, activity.Config{}, nil)
					opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{Retryable: retryable}}
					for range n {
						_, err := activity.Start(e.ctx, e.rt, opts, func(ctx activity.Context, _ int) (int, error) {
							<-e.gate(strconv.Itoa(ctx.Info().Attempt))
							return 0, nil
						}, 0)
						if err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait()
					before := stackDumps()
					e.pass(time.Second)
					if dumps := stackDumps() - before; dumps > 1 || n == 1_000 && dumps != 1 {
						t.Errorf("%d dumps for %d stalls", dumps, n)
					}
					retried, stacks := 0, 0
					for _, event := range e.events {
						switch {
						case event.Kind == activity.EventAttemptStarted && event.Attempt == 2:
							retried++
							if at := event.Time.Sub(e.base); at != time.Second {
								t.Fatalf("a retry at %s", at)
							}
						case event.Kind == activity.EventAttemptFailed && stackTimeout(t, event.Err).Stack != nil:
							stacks++
						}
					}
					if retried != n || n == 1_000 && stacks != n {
						t.Errorf("of %d, %d were retried and %d have a stack", n, retried, stacks)
					}
				})
			})
		}
	}
}

// Rule 9: functions that hang for ever.

// TestRule9ElevenHangs: by default ten functions may be abandoned when another
// attempt starts. After the eleventh the activity is blocked until one returns.
func TestRule9ElevenHangs(t *testing.T) {
	log := &stackLog{}
	timeoutBoth(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *timeoutEnv) {
		log.lines = nil
		var places [20]stackPlace
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			n := ctx.Info().Attempt
			return stackHangA(e.gate(fmt.Sprint(n)), &places[n])
		})
		e.pass(24 * time.Hour)
		s := h.Status()
		if s.State != activity.StateBlocked || s.Attempt != 11 || s.Abandoned != 11 {
			t.Errorf("the status is %+v", s)
		}
		if s := e.rt.Stats(); s.Blocked != 1 || s.Running != 0 || s.Abandoned != 11 || s.Attempts != 11 {
			t.Errorf("Stats are %+v", s)
		}
		e.mu.Lock()
		last := e.events[len(e.events)-1]
		e.mu.Unlock()
		if last.Kind != activity.EventBlocked || last.Attempt != 11 {
			t.Errorf("the last event is %+v", last)
		}
		at := places[11]
		if log.has(slog.LevelError, at.function+"(", at.line) != 1 || log.has(slog.LevelError) != 1 {
			t.Errorf("%d lines say that it is blocked, %d where it hangs", log.has(slog.LevelError), log.has(slog.LevelError, at.function+"(", at.line))
		}
		e.wantStarted("a", 12, -1)
		e.open("3")
		e.wantStarted("a", 12, 24*time.Hour)
		e.pass(10 * time.Second) // it hangs too, and backs off
		e.pass(24 * time.Hour)
		e.wantStarted("a", 13, -1)
		if s := h.Status(); s.State != activity.StateBlocked || s.Attempt != 12 || s.Abandoned != 11 {
			t.Errorf("the status is %+v", s)
		}
	})
}

// TestRule9MaxAbandoned: so many may be left when another attempt starts.
func TestRule9MaxAbandoned(t *testing.T) {
	for maxAbandoned, want := range map[int]int{activity.NoOverlap: 1, 1: 2, 2: 3, 9: 10, 11: 12} {
		timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
			h := e.start(activity.Options{StartToCloseTimeout: time.Second, MaxAbandoned: maxAbandoned}, e.hang)
			e.pass(24 * time.Hour)
			if s := h.Status(); s.State != activity.StateBlocked || s.Attempt != want {
				t.Errorf("with MaxAbandoned %d the status is %+v", maxAbandoned, s)
			}
		})
	}
}

// TestRule9NoOverlap: the next attempt starts when the function has returned. A
// blocked activity gives its slot up, and schedule-to-start does not run.
func TestRule9NoOverlap(t *testing.T) {
	timeoutBoth(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *timeoutEnv) {
		e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap, ScheduleToStartTimeout: time.Second}, e.hang)
		e.start(activity.Options{ID: "b"}, e.hang)
		e.pass(time.Hour)
		e.open("b1")
		e.open("a1")
		e.open("a2")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s blocked 1",
			"1h0m0s abandoned returned 1",
			"1h0m0s attempt started 2",
			"1h0m0s completed 2")
		e.want("b", "0s scheduled 0", "10s attempt started 1", "1h0m0s completed 1")
	})
	// What was blocked waits for a slot again, and for no longer than schedule-to-start.
	timeoutBoth(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *timeoutEnv) {
		h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap, ScheduleToStartTimeout: time.Second}, e.hang)
		e.start(activity.Options{ID: "b"}, e.hang)
		e.pass(time.Minute)
		e.open("a1")
		if s := h.Status().State; s != activity.StateWaiting {
			t.Errorf("it is %s", s)
		}
		e.pass(time.Second - 1)
		if s := h.Status().State; s != activity.StateWaiting {
			t.Errorf("it is %s", s)
		}
		e.pass(1)
		if typ := timeoutTypeOf(e.end(h)); typ != activity.TimeoutScheduleToStart {
			t.Errorf("it ended in %s", typ)
		}
	})
	// A function that returns during the backoff blocks nothing.
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		e.start(activity.Options{ID: "a", StartToCloseTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap}, e.hang)
		e.pass(11*time.Second - 1)
		e.open("a1")
		e.pass(1)
		e.open("a2")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: start-to-close timeout, next in 1s",
			"10s abandoned 1",
			"10.999999999s abandoned returned 1",
			"11s attempt started 2",
			"11s completed 2")
	})
}

// TestRule9StillBlocked: what waits for a function that was inside Guard goes on
// waiting, and says so once, until the function has returned.
func TestRule9StillBlocked(t *testing.T) {
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				return nil
			}
			if err := activity.Guard(ctx, func() error { <-e.gate("guard"); return nil }); err != nil {
				return err
			}
			return e.hang(ctx)
		})
		e.pass(15 * time.Second)
		e.open("guard")
		e.pass(5 * time.Second)
		e.open("a1")
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"10s attempt failed 1: heartbeat timeout, next in 0s",
			"10s abandoned 1",
			"10s blocked 1",
			"20s abandoned returned 1",
			"20s attempt started 2",
			"20s completed 2")
	})
}

// TestRule9ScheduleToCloseHolds while an activity is blocked.
func TestRule9ScheduleToCloseHolds(t *testing.T) {
	for _, more := range []time.Duration{-1, 0, 1} {
		timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
			alarm := e.clock.After(20*time.Second + more)
			h := e.start(activity.Options{ID: "a", HeartbeatTimeout: 10 * time.Second, ScheduleToCloseTimeout: 20 * time.Second, MaxAbandoned: activity.NoOverlap}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					<-alarm
				}
				return nil
			})
			e.pass(20*time.Second + more)
			err := e.end(h)
			want := []string{
				"0s scheduled 0",
				"0s attempt started 1",
				"10s attempt failed 1: heartbeat timeout, next in 0s",
				"10s abandoned 1",
				"10s blocked 1",
			}
			if more < 0 {
				want = append(want, "19.999999999s abandoned returned 1", "19.999999999s attempt started 2", "19.999999999s completed 2")
			} else {
				want = append(want, "20s failed 1: schedule-to-close timeout, timeout", fmt.Sprintf("%s abandoned returned 1", 20*time.Second+more))
			}
			e.want("a", want...)
			if (err != nil) != (more >= 0) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
}

// TestRule9AfterTheEnd: an abandoned function may return after its activity has
// ended, and a new execution of the ID does not wait for it.
func TestRule9AfterTheEnd(t *testing.T) {
	timeoutBoth(t, activity.Config{}, func(t *testing.T, e *timeoutEnv) {
		opts := activity.Options{ID: "a", HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap, RetryPolicy: timeoutOnce}
		first := e.start(opts, func(activity.Context) error { <-e.gate("first"); return nil })
		e.pass(time.Second)
		e.end(first)
		second := e.start(opts, func(ctx activity.Context) error { return nil })
		if err := e.end(second); err != nil {
			t.Error(err)
		}
		if s := e.rt.Stats(); s.Abandoned != 1 || s.Completed != 1 || s.Failed != 1 {
			t.Errorf("Stats are %+v", s)
		}
		e.pass(time.Second)
		e.open("first")
		if n := e.rt.Stats().Abandoned; n != 0 {
			t.Errorf("%d functions are abandoned after the last has returned", n)
		}
		if diff := cmp.Diff([]string{
			"0s scheduled 0",
			"0s attempt started 1",
			"1s attempt failed 1: heartbeat timeout, next in 0s",
			"1s abandoned 1",
			"1s failed 1: heartbeat timeout, maximum attempts reached",
			"1s scheduled 0",
			"1s attempt started 1",
			"1s completed 1",
			"2s abandoned returned 1",
		}, e.lines("a")); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}
