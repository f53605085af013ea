package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// errorsRun runs fn in a bubble, and returns how it ended and how often it was called.
func errorsRun(t *testing.T, cfg activity.Config, opts activity.Options, fn func(ctx activity.Context) error) (calls int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		if cfg.Logger == nil {
			cfg.Logger = retryQuiet
		}
		rt := activity.New(cfg)
		err = rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			n.Add(1)
			return fn(ctx)
		})
		calls = int(n.Load())
	})
	return calls, err
}

func errorsAttempts(n int) activity.Options {
	return activity.Options{ID: "a1", Name: "job", RetryPolicy: activity.RetryPolicy{MaximumAttempts: n}}
}

//go:noinline
func errorsPanicHere(v any) { panic(v) }

func TestRule14Panic(t *testing.T) {
	for _, tt := range []struct {
		name  string
		value any
		text  string
		is    error
	}{
		{"an error", fmt.Errorf("deep: %w", io.EOF), "panic: deep: EOF", io.EOF},
		{"a string", "kaboom", "panic: kaboom", nil},
		{"a number", 42, "panic: 42", nil},
		{"a struct", struct{ X int }{7}, "panic: {7}", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			calls, err := errorsRun(t, activity.Config{}, errorsAttempts(2), func(activity.Context) error {
				errorsPanicHere(tt.value)
				return nil
			})
			retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
			if calls != 2 {
				t.Errorf("%d attempts, want 2: a panic is retried", calls)
			}
			var p *activity.PanicError
			if !errors.As(err, &p) || fmt.Sprint(p.Value) != fmt.Sprint(tt.value) || p.Error() != tt.text {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			if !strings.Contains(string(p.Stack), "errorsPanicHere") {
				t.Errorf("the stack does not name the place:\n%s", p.Stack)
			}
			if p.Unwrap() != nil && tt.is == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("unwraps to %v, want %v", p.Unwrap(), tt.is)
			}
		})
	}
}

func TestRule14PanicOfTheLanguage(t *testing.T) {
	var m map[string]int
	for name, fn := range map[string]func(){"nil": func() { panic(nil) }, "map": func() { m["x"] = 1 }} {
		calls, err := errorsRun(t, activity.Config{}, errorsAttempts(2), func(activity.Context) error { fn(); return nil })
		retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
		var p *activity.PanicError
		var r runtime.Error
		if calls != 2 || !errors.As(err, &p) || !errors.As(err, &r) {
			t.Errorf("%s: %d attempts, %v", name, calls, err)
		}
	}
}

func TestRule14PanicThenSuccess(t *testing.T) {
	calls, err := errorsRun(t, activity.Config{}, activity.Options{}, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 1 {
			panic("once")
		}
		var p *activity.PanicError
		if !errors.As(ctx.Info().LastFailure, &p) || p.Value != "once" {
			t.Errorf("LastFailure is %v", ctx.Info().LastFailure)
		}
		return nil
	})
	if calls != 2 || err != nil {
		t.Errorf("%d attempts, %v", calls, err)
	}
}

func TestRule14PanicInInterceptor(t *testing.T) {
	for _, after := range []bool{false, true} {
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			if after {
				_ = next(ctx)
			}
			errorsPanicHere("in the interceptor")
			return nil
		}}
		_, err := errorsRun(t, cfg, errorsAttempts(2), func(activity.Context) error { return nil })
		retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
		var p *activity.PanicError
		if !errors.As(err, &p) || p.Value != "in the interceptor" || !strings.Contains(string(p.Stack), "errorsPanicHere") {
			t.Errorf("after next %t: %v", after, err)
		}
	}
}

func TestRule14Goexit(t *testing.T) {
	failNow := func() error { new(testing.T).FailNow(); return nil }
	exit := func() error { runtime.Goexit(); return nil }
	intercept := func(activity.Context, func(activity.Context) error) error { return exit() }
	for _, tt := range []struct {
		name string
		cfg  activity.Config
		fn   func() error
	}{
		{"Goexit", activity.Config{}, exit},
		{"FailNow", activity.Config{}, failNow},
		{"in an Interceptor", activity.Config{Interceptor: intercept}, func() error { return nil }},
		{"with a Retryable", activity.Config{}, exit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opts := activity.Options{}
			if tt.name == "with a Retryable" {
				opts.RetryPolicy.Retryable = func(err error) bool { t.Errorf("asked about %v", err); return true }
			}
			calls, err := errorsRun(t, tt.cfg, opts, func(activity.Context) error { return tt.fn() })
			retryEnd(t, err, 1, activity.RetryStateNonRetryableFailure, activity.ErrGoexit)
			if calls > 1 {
				t.Errorf("%d attempts", calls)
			}
		})
	}
}

// errorsFinal is another package's error that has NonRetryable's method.
type errorsFinal bool

func (errorsFinal) Error() string        { return "typed" }
func (e errorsFinal) NonRetryable() bool { return bool(e) }

func TestRule15NonRetryable(t *testing.T) {
	final := activity.NonRetryable(errBoom)
	inner := &activity.Error{ID: "inner", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: final}
	goexit := &activity.Error{ID: "inner", Attempt: 1, RetryState: activity.RetryStateNonRetryableFailure, Err: activity.ErrGoexit}
	for _, tt := range []struct {
		name  string
		err   error
		final bool
	}{
		{"itself", final, true},
		{"wrapped", fmt.Errorf("x: %w", fmt.Errorf("y: %w", final)), true},
		{"joined", errors.Join(io.EOF, final), true},
		{"two %w", fmt.Errorf("%w, %w", io.EOF, final), true},
		{"in RetryAfter", activity.RetryAfter(final, time.Second), true},
		{"around RetryAfter", activity.NonRetryable(activity.RetryAfter(errBoom, time.Second)), true},
		{"typed method", errorsFinal(true), true},
		{"typed method, wrapped", fmt.Errorf("x: %w", errorsFinal(true)), true},
		{"typed method that says no", errorsFinal(false), false},
		{"one that says no around one", errors.Join(errorsFinal(false), errorsFinal(true)), true},
		{"plain", errBoom, false},
		{"an inner activity's", inner, false},
		{"an inner activity's, wrapped", fmt.Errorf("x: %w", inner), false},
		{"an inner activity's, joined", errors.Join(io.EOF, inner), false},
		{"an inner activity's, in RetryAfter", activity.RetryAfter(inner, time.Second), false},
		{"an inner activity's Goexit", goexit, false},
		{"around an inner activity's", activity.NonRetryable(inner), true},
		{"beside an inner activity's", errors.Join(inner, final), true},
	} {
		for _, panics := range []bool{false, true} {
			name := tt.name
			if panics {
				name += ", in a panic"
			}
			t.Run(name, func(t *testing.T) {
				calls, err := errorsRun(t, activity.Config{}, errorsAttempts(2), func(activity.Context) error {
					if panics {
						panic(tt.err)
					}
					return tt.err
				})
				if tt.final {
					retryEnd(t, err, 1, activity.RetryStateNonRetryableFailure, tt.err)
				} else {
					retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, tt.err)
				}
				if want := map[bool]int{true: 1, false: 2}[tt.final]; calls != want {
					t.Errorf("%d attempts, want %d", calls, want)
				}
			})
		}
	}
}

// An outer activity that passes on what an inner one ended with is retried.
func TestRule15InnerActivityDoesNotDecide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		inner, outer := 0, 0
		err := rt.Run(t.Context(), activity.Options{Name: "outer"}, func(ctx activity.Context) error {
			outer++
			if outer == 3 {
				return nil
			}
			err := rt.Run(ctx, activity.Options{Name: "inner"}, func(activity.Context) error {
				inner++
				return activity.NonRetryable(errBoom)
			})
			if outer == 1 {
				return err
			}
			return fmt.Errorf("step one: %w", err)
		})
		if err != nil || inner != 2 || outer != 3 {
			t.Errorf("inner %d, outer %d, %v", inner, outer, err)
		}
	})
}

func TestNonRetryableError(t *testing.T) {
	if err := activity.NonRetryable(nil); err != nil {
		t.Errorf("of nil: %v", err)
	}
	err := fmt.Errorf("x: %w", activity.NonRetryable(errBoom))
	var n interface{ NonRetryable() bool }
	if !errors.As(err, &n) || !n.NonRetryable() || !errors.Is(err, errBoom) || err.Error() != "x: boom" {
		t.Error(err)
	}
}

func TestRule15Retryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		var asked []string
		var h *activity.Handle[int]
		set := make(chan struct{})
		opts := activity.Options{StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second}
		opts.RetryPolicy.Retryable = func(err error) bool {
			// None of these may meet a lock.
			rt.Stats()
			rt.Activities()
			s := h.Status()
			asked = append(asked, fmt.Sprint(s.Attempt, " ", s.State))
			var timeout *activity.TimeoutError
			switch s.Attempt {
			case 1:
				return errors.Is(err, errBoom)
			case 2:
				return errors.As(err, &timeout) && timeout.Type == activity.TimeoutHeartbeat
			case 3:
				return errors.As(err, &timeout) && timeout.Type == activity.TimeoutStartToClose
			case 4:
				var p *activity.PanicError
				return errors.As(err, &p)
			}
			return !errors.Is(err, io.EOF)
		}
		h, err := activity.Start(t.Context(), rt, opts, func(ctx activity.Context, _ int) (int, error) {
			switch ctx.Info().Attempt {
			case 1:
				<-set
				return 0, errBoom
			case 2:
				return 0, ctx.Sleep(time.Hour)
			case 3:
				return 0, activity.Idle(ctx, time.Hour)
			case 4:
				panic("four")
			}
			return 0, io.EOF
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		close(set)
		_, err = h.Wait(t.Context())
		retryEnd(t, err, 5, activity.RetryStateNonRetryableFailure, io.EOF)
		retryDiff(t, "asked", asked, []string{"1 running", "2 running", "3 running", "4 running", "5 running"})
	})
}

func TestRule15RetryableIsNotAsked(t *testing.T) {
	ask := func(err error) bool { t.Errorf("asked about %v", err); return true }
	for name, fn := range map[string]func(ctx activity.Context) error{
		"NonRetryable":      func(activity.Context) error { return activity.NonRetryable(errBoom) },
		"schedule-to-close": func(ctx activity.Context) error { return ctx.Sleep(time.Hour) },
		"success":           func(activity.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			opts := activity.Options{ScheduleToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{Retryable: ask}}
			if calls, err := errorsRun(t, activity.Config{}, opts, fn); calls != 1 || (err == nil) != (name == "success") {
				t.Errorf("%d attempts, %v", calls, err)
			}
		})
	}
	t.Run("cancellation", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			rt := activity.New(activity.Config{Logger: retryQuiet})
			err := rt.Run(ctx, activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: ask}}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
			retryEnd(t, err, 1, activity.RetryStateCancelRequested, context.DeadlineExceeded)
		})
	})
}

func TestRule15RetryableThatCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		var h *activity.Handle[int]
		set := make(chan struct{})
		opts := activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { h.Cancel(io.EOF); return true }}}
		h, err := activity.Start(t.Context(), rt, opts, func(activity.Context, int) (int, error) {
			<-set
			return 0, activity.RetryAfter(errBoom, 0)
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		close(set)
		_, err = h.Wait(t.Context())
		retryEnd(t, err, 1, activity.RetryStateCancelRequested, io.EOF, errBoom)
	})
}

func TestRule15RetryableThatPanicsOrExits(t *testing.T) {
	for name, f := range map[string]func(){"panic": func() { panic("hm") }, "Goexit": runtime.Goexit} {
		for _, fail := range []error{errBoom, activity.RetryAfter(errBoom, 7*time.Second), nil} {
			t.Run(fmt.Sprintf("%s after %T", name, fail), func(t *testing.T) {
				var asked atomic.Int32
				opts := activity.Options{StartToCloseTimeout: time.Minute}
				opts.RetryPolicy.Retryable = func(error) bool { asked.Add(1); f(); return false }
				delays, err := retryRun(t, activity.Config{}, opts, func(ctx activity.Context, n int) error {
					switch {
					case n == 3:
						return nil
					case fail == nil:
						return ctx.Sleep(time.Hour) // a timeout
					}
					return fail
				})
				if err != nil || asked.Load() != 2 {
					t.Errorf("asked %d times, %v; it counts as yes", asked.Load(), err)
				}
				want := retryTimes(time.Second, 1, 2)
				if d, ok := fail.(interface{ RetryDelay() time.Duration }); ok {
					want = []time.Duration{d.RetryDelay(), d.RetryDelay()}
				}
				retryDiff(t, "delays", delays, want)
			})
		}
	}
}

// errorsNasty is an error whose methods panic, as those of a nil pointer do.
type errorsNasty struct{ method string }

func (e *errorsNasty) may(method string) {
	if e.method == method {
		panic("in " + method)
	}
}
func (e *errorsNasty) Error() string             { e.may("Error"); return "nasty" }
func (e *errorsNasty) Unwrap() error             { e.may("Unwrap"); return nil }
func (e *errorsNasty) Is(error) bool             { e.may("Is"); return false }
func (e *errorsNasty) NonRetryable() bool        { e.may("NonRetryable"); return false }
func (e *errorsNasty) RetryDelay() time.Duration { e.may("RetryDelay"); return 0 }

// A panic that got away would end the process: each case has one of its own.
func TestRule14PanickingErrorsDoNotTakeTheProcessDown(t *testing.T) {
	const variable = "ACTIVITY_TEST_PANICKING_METHOD"
	for _, method := range []string{"none", "Error", "Unwrap", "Is", "NonRetryable", "RetryDelay"} {
		t.Run(method, func(t *testing.T) {
			if os.Getenv(variable) == method {
				errorsMeetNasty(t, &errorsNasty{method})
				return
			}
			exe, err := os.Executable()
			if err != nil {
				t.Skip(err)
			}
			cmd := exec.Command(exe, "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$")
			cmd.Env = append(os.Environ(), variable+"="+method)
			if out, err := cmd.CombinedOutput(); err != nil {
				first, _, _ := strings.Cut(string(out), "\ngoroutine ")
				t.Errorf("%v: %s", err, first)
			}
		})
	}
}

func errorsMeetNasty(t *testing.T, nasty error) {
	calls, err := errorsRun(t, activity.Config{}, errorsAttempts(2), func(activity.Context) error { return nasty })
	retryEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
	if calls != 2 {
		t.Errorf("%d attempts, want 2", calls)
	}
	synctest.Test(t, func(t *testing.T) { // canceled while backing off
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, io.EOF)
		defer cancel()
		rt := activity.New(activity.Config{Logger: retryQuiet})
		err := rt.Run(ctx, activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { return true }}}, func(ctx activity.Context) error {
			if ctx.Sleep(time.Millisecond/2) != nil || ctx.Info().Attempt > 1 {
				return ctx.Sleep(time.Hour)
			}
			return nasty
		})
		var e *activity.Error
		if !errors.As(err, &e) {
			t.Errorf("%T", err)
		}
	})
}

// Careless: an error that says itself that it is not worth a retry is returned as it is.
func TestRule3EncodeErrorEndsTheActivity(t *testing.T) {
	calls, err := errorsRun(t, activity.Config{}, errorsAttempts(5), func(ctx activity.Context) error { return ctx.Heartbeat(func() {}) })
	retryEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts", calls)
	}
	calls, err = errorsRun(t, activity.Config{MaxDetailsSize: 3}, errorsAttempts(5), func(ctx activity.Context) error { return ctx.Heartbeat(1234) })
	retryEnd(t, err, 1, activity.RetryStateNonRetryableFailure, activity.ErrDetailsTooLarge)
	if calls != 1 {
		t.Errorf("%d attempts", calls)
	}
}

// Every error says which activity, which attempt, what happened, and what did not.
func TestErrorTexts(t *testing.T) {
	report := func(result error) func(activity.Context) error {
		return func(ctx activity.Context) error {
			if err := ctx.Heartbeat(ctx.Info().Attempt); err != nil {
				return err
			}
			return result
		}
	}
	sleep := func(ctx activity.Context) error { return ctx.Sleep(time.Hour) }
	beatAndSleep := func(ctx activity.Context) error { _ = ctx.Heartbeat(1); return ctx.Sleep(time.Hour) }
	deaf := func(activity.Context) error { time.Sleep(time.Hour); return nil }
	canceledLate := func(then func() error) func(ctx activity.Context) error {
		return func(ctx activity.Context) error { <-ctx.Done(); return then() }
	}
	const job = `activity "a1" (job) `
	for _, tt := range []struct {
		name   string
		opts   activity.Options
		cancel bool // after a minute
		fn     func(activity.Context) error
		want   string
	}{
		{"failure", activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, false, report(errBoom),
			job + "failed in attempt 2, no further attempt (maximum attempts reached): boom"},
		{"NonRetryable", activity.Options{}, false, report(activity.NonRetryable(errBoom)),
			job + "failed in attempt 1, no further attempt (non-retryable failure): boom"},
		{"no time left", activity.Options{ScheduleToCloseTimeout: time.Second}, false, report(errBoom),
			job + "failed in attempt 1, no further attempt (timeout): boom"},
		{"panic", errorsAttempts(1), false, func(activity.Context) error { panic("kaboom") },
			job + "failed in attempt 1, no further attempt (maximum attempts reached): panic: kaboom"},
		{"Goexit", activity.Options{}, false, func(activity.Context) error { runtime.Goexit(); return nil },
			job + "failed in attempt 1, no further attempt (non-retryable failure): the function called runtime.Goexit"},
		{"heartbeat timeout", activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, false, sleep,
			job + "failed in attempt 1, no further attempt (maximum attempts reached): heartbeat timeout: attempt 1 had no heartbeat for 10s; no heartbeat details were recorded"},
		{"heartbeat timeout with details", activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, false, beatAndSleep,
			job + "failed in attempt 1, no further attempt (maximum attempts reached): heartbeat timeout: attempt 1 had no heartbeat for 10s; the last heartbeat's details are kept"},
		{"start-to-close timeout after another", activity.Options{StartToCloseTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}, false, sleep,
			job + "failed in attempt 3, no further attempt (maximum attempts reached): start-to-close timeout: attempt 3 was not done within 10s; no heartbeat details were recorded; the attempt before: start-to-close timeout: attempt 2 was not done within 10s; no heartbeat details were recorded"},
		{"schedule-to-close timeout", activity.Options{ScheduleToCloseTimeout: 10 * time.Second}, false, beatAndSleep,
			job + "failed in attempt 1, no further attempt (timeout): schedule-to-close timeout: not done 10s after it was scheduled, in attempt 1; the last heartbeat's details are kept"},
		{"canceled", activity.Options{}, true, sleep,
			job + "was canceled in attempt 1: the user left"},
		{"canceled, and failed", activity.Options{}, true, canceledLate(func() error { return io.EOF }),
			job + "was canceled in attempt 1: the user left; its last attempt ended with: EOF"},
		{"canceled, and panicked", activity.Options{}, true, canceledLate(func() error { panic("kaboom") }),
			job + "was canceled in attempt 1: the user left; its last attempt ended with: panic: kaboom"},
		{"canceled, and deaf", activity.Options{CancelGrace: 3 * time.Second}, true, deaf,
			job + "was canceled in attempt 1: the user left; its function had not returned 3s later and is abandoned"},
		{"canceled while backing off", activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, true, report(errBoom),
			job + "was canceled in attempt 1: the user left; its last attempt ended with: boom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := activity.New(activity.Config{Logger: retryQuiet})
				tt.opts.ID, tt.opts.Name = "a1", "job"
				h := cancelStart(t, t.Context(), rt, tt.opts, tt.fn)
				if tt.cancel {
					time.Sleep(time.Minute)
					h.Cancel(errCancel)
				}
				_, err := h.Wait(t.Context())
				if fmt.Sprint(err) != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
				time.Sleep(2 * time.Hour) // until a deaf function is back
			})
		})
	}
}

// Texts of activities that wait: no attempt is named that there was not.
func TestErrorTextsBeforeTheFirstAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet, MaxConcurrent: 1})
		other := cancelStart(t, t.Context(), rt, activity.Options{ID: "other"}, cancelUntilEnded)
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errCancel)
		fn := func(activity.Context) error { return nil }
		text := func(ctx context.Context, opts activity.Options) string {
			opts.ID, opts.Name = "a1", "job"
			return fmt.Sprint(rt.Run(ctx, opts, fn))
		}
		for _, tt := range []struct{ got, want string }{
			{text(t.Context(), activity.Options{ScheduleToStartTimeout: 5 * time.Second}),
				`activity "a1" (job) failed before its first attempt, no further attempt (timeout): schedule-to-start timeout: attempt 1 got no slot of MaxConcurrent within 5s; no heartbeat details were recorded`},
			{text(ended, activity.Options{}),
				`activity "a1" (job) was canceled before its first attempt: the user left`},
		} {
			if tt.got != tt.want {
				t.Errorf("got  %s\nwant %s", tt.got, tt.want)
			}
		}
		got := text(t.Context(), activity.Options{ScheduleToCloseTimeout: 5 * time.Second})
		if !strings.HasPrefix(got, `activity "a1" (job) failed before its first attempt, no further attempt (timeout): schedule-to-close timeout: not done 5s after it was scheduled`) || strings.Contains(got, "attempt 0") {
			t.Errorf("got %s", got)
		}
		err := rt.Run(t.Context(), activity.Options{ID: "other"}, fn)
		if !errors.Is(err, activity.ErrAlreadyRunning) || !strings.Contains(err.Error(), `activity "other"`) {
			t.Error(err)
		}
		_ = rt.Shutdown(t.Context())
		err = rt.Run(t.Context(), activity.Options{ID: "a1"}, fn)
		if !errors.Is(err, activity.ErrShutdown) || !strings.Contains(err.Error(), `activity "a1"`) {
			t.Error(err)
		}
		<-other.Done()
	})
}

// The cause of a timed-out attempt stands alone, so it names the activity.
func TestTimeoutErrorLayers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
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
		retryEnd(t, err, 3, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
		if want := `activity "a1" (job): start-to-close timeout: attempt 2 was not done within 1m0s; the last heartbeat's details are kept; the attempt before: EOF`; fmt.Sprint(cause) != want {
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

func TestEnumStrings(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"non-retryable failure":     activity.RetryStateNonRetryableFailure,
		"maximum attempts reached":  activity.RetryStateMaximumAttemptsReached,
		"timeout":                   activity.RetryStateTimeout,
		"cancel requested":          activity.RetryStateCancelRequested,
		"start-to-close timeout":    activity.TimeoutStartToClose,
		"heartbeat timeout":         activity.TimeoutHeartbeat,
		"schedule-to-start timeout": activity.TimeoutScheduleToStart,
		"schedule-to-close timeout": activity.TimeoutScheduleToClose,
		"backing off":               activity.StateBackingOff,
		"canceled":                  activity.StateCanceled,
		"abandoned returned":        activity.EventAbandonedReturned,
		"unset":                     activity.State(0),
		"State(99)":                 activity.State(99),
		"RetryState(-1)":            activity.RetryState(-1),
	} {
		if got.String() != want {
			t.Errorf("%d is %q, want %q", got, got, want)
		}
	}
}

// errorsExecute executes a function that returns out and err, and wants want.
func errorsExecute[Out comparable](t *testing.T, out Out, err error, want Out) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		fn := func(activity.Context, int) (Out, error) { return out, err }
		if got, gotErr := activity.Execute(t.Context(), rt, errorsAttempts(1), fn, 0); got != want || !errors.Is(gotErr, err) {
			t.Errorf("got %v, %v; want %v, %v", got, gotErr, want, err)
		}
	})
}

func TestExecuteOut(t *testing.T) {
	type pair struct{ a, b int }
	errorsExecute(t, pair{1, 2}, nil, pair{1, 2})
	errorsExecute[any](t, 7, nil, 7)
	errorsExecute[error](t, io.EOF, nil, io.EOF)
	// On error: the zero Out.
	errorsExecute(t, pair{1, 2}, io.EOF, pair{})
	errorsExecute(t, &pair{1, 2}, io.EOF, nil)
	errorsExecute[any](t, 7, io.EOF, nil)
	// A nil Out of each kind.
	errorsExecute[any](t, nil, nil, nil)
	errorsExecute[error](t, nil, nil, nil)
	errorsExecute[*pair](t, nil, nil, nil)
}

// What a fenced attempt returns never wins: before, while or after the next one runs.
func TestRule4FencedResultNeverWins(t *testing.T) {
	for _, tt := range []struct {
		stale     time.Duration // when the first attempt returns; it times out after 10 s
		noOverlap bool
	}{{10 * time.Second, false}, {10*time.Second + 1, false}, {12 * time.Second, false}, {15 * time.Second, false}, {time.Minute, false}, {10 * time.Second, true}, {time.Minute, true}} {
		t.Run(fmt.Sprint(tt.stale, tt.noOverlap), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := activity.New(activity.Config{Logger: retryQuiet})
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
	_, err := errorsRun(t, activity.Config{}, activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, func(activity.Context) error {
		time.Sleep(10*time.Second - 1)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Careless: who drops the error of Sleep is fenced all the same.
func TestDroppedSleepErrorAfterATimeout(t *testing.T) {
	calls, err := errorsRun(t, activity.Config{}, activity.Options{StartToCloseTimeout: time.Minute}, func(ctx activity.Context) error {
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

func TestIDsAreUnique(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		running := map[string]*activity.Handle[string]{}
		start := func(id string) {
			h, err := activity.Start(t.Context(), rt, activity.Options{ID: id}, func(ctx activity.Context, _ int) (string, error) { return "", cancelUntilEnded(ctx) }, 0)
			switch {
			case err != nil:
				if running[id] == nil || !errors.Is(err, activity.ErrAlreadyRunning) {
					t.Errorf("%q: %v", id, err)
				}
			case id != "" && h.ID() != id, h.ID() == "", running[h.ID()] != nil:
				t.Errorf("asked for %q and got %q, in use: %t", id, h.ID(), running[h.ID()] != nil)
			default:
				running[h.ID()] = h
			}
		}
		// Those of the first made up are what a user may come to ask for.
		start("")
		var first string
		for id := range running {
			first = id
		}
		prefix := strings.TrimRight(first, "0123456789")
		for i := range 60 { // ahead of the made-up ones and behind them
			start(fmt.Sprint(prefix, 9*i))
			start("")
			start(fmt.Sprint(prefix, i))
		}
		for _, id := range []string{prefix, prefix + "01", prefix + "-1", prefix + "18446744073709551615", prefix + "18446744073709551616"} {
			start(id)
			start(id)
		}
		start(first)
		if n := len(rt.Activities()); n != len(running) {
			t.Errorf("%d run, want %d", n, len(running))
		}
		for _, h := range running {
			h.Cancel(nil)
		}
		for id, h := range running {
			<-h.Done()
			delete(running, id)
			start(id) // free again
		}
		_ = rt.Shutdown(t.Context())
	})
}

func TestDefinition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: retryQuiet})
		def := activity.Definition[int, string]{
			Name:    "def",
			Options: activity.Options{ID: "ignored", Name: "ignored", RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
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
		if out, err := h.Wait(t.Context()); err != nil || out != h.ID()+" def 4" || h.ID() == "" || h.ID() == "ignored" {
			t.Errorf("got %q, %v, ID %q", out, err, h.ID())
		}
		if def.Options.ID != "ignored" {
			t.Error("the Definition was changed")
		}
	})
}
