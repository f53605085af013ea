package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Rule 14. Given a function that panics with any value, then that is a *PanicError with
// the value and the stack, and is retried.
func TestPanic_BecomesPanicErrorAndIsRetried(t *testing.T) {
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
			calls, err := runCalls(t, activity.Config{}, atMost(2), func(activity.Context) error {
				panicHere(tt.value)
				return nil
			})
			checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
			if calls != 2 {
				t.Errorf("%d attempts, want 2: a panic is retried", calls)
			}
			var p *activity.PanicError
			if !errors.As(err, &p) || fmt.Sprint(p.Value) != fmt.Sprint(tt.value) || p.Error() != tt.text {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			if !strings.Contains(string(p.Stack), "panicHere") {
				t.Errorf("the stack does not name the place:\n%s", p.Stack)
			}
			if p.Unwrap() != nil && tt.is == nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("unwraps to %v, want %v", p.Unwrap(), tt.is)
			}
		})
	}
}

// Rule 14. Given panic(nil) or a runtime error, then that is a *PanicError that wraps it,
// and is retried.
func TestPanic_RuntimeErrors(t *testing.T) {
	var m map[string]int
	for name, fn := range map[string]func(){"nil": func() { panic(nil) }, "map": func() { m["x"] = 1 }} {
		calls, err := runCalls(t, activity.Config{}, atMost(2), func(activity.Context) error { fn(); return nil })
		checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
		var p *activity.PanicError
		var r runtime.Error
		if calls != 2 || !errors.As(err, &p) || !errors.As(err, &r) {
			t.Errorf("%s: %d attempts, %v", name, calls, err)
		}
	}
}

// Rule 14. Given a function that panics once, when its second attempt succeeds, then the
// activity completes, and LastFailure was the panic.
func TestPanic_ThenSuccess(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, activity.Options{}, func(ctx activity.Context) error {
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

// Rule 14. Given an Interceptor that panics, before next or after it, then that is the
// attempt's *PanicError.
func TestPanic_InInterceptor(t *testing.T) {
	for _, after := range []bool{false, true} {
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			if after {
				_ = next(ctx)
			}
			panicHere("in the interceptor")
			return nil
		}}
		_, err := runCalls(t, cfg, atMost(2), noop)
		checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
		var p *activity.PanicError
		if !errors.As(err, &p) || p.Value != "in the interceptor" || !strings.Contains(string(p.Stack), "panicHere") {
			t.Errorf("after next %t: %v", after, err)
		}
	}
}

// Rule 14. Given a function or an Interceptor that calls runtime.Goexit, as t.FailNow
// does, then the activity fails with ErrGoexit and is not retried.
func TestGoexit_IsNotRetried(t *testing.T) {
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
			calls, err := runCalls(t, tt.cfg, opts, func(activity.Context) error { return tt.fn() })
			checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure, activity.ErrGoexit)
			if calls > 1 {
				t.Errorf("%d attempts", calls)
			}
		})
	}
}

// nastyError is an error whose methods panic, as those of a nil pointer do.
type nastyError struct{ method string }

func (e *nastyError) may(method string) {
	if e.method == method {
		panic("in " + method)
	}
}

func (e *nastyError) Error() string             { e.may("Error"); return "nasty" }
func (e *nastyError) Unwrap() error             { e.may("Unwrap"); return nil }
func (e *nastyError) Is(error) bool             { e.may("Is"); return false }
func (e *nastyError) NonRetryable() bool        { e.may("NonRetryable"); return false }
func (e *nastyError) RetryDelay() time.Duration { e.may("RetryDelay"); return 0 }

// Rule 14. Given an error whose methods panic, when a function returns it or panics with
// it, then the process lives on.
func TestPanic_InErrorMethodsDoesNotEndTheProcess(t *testing.T) {
	for _, method := range []string{"none", "Error", "Unwrap", "Is", "NonRetryable", "RetryDelay"} {
		t.Run(method, func(t *testing.T) { meetNasty(t, &nastyError{method}) })
	}
}

func meetNasty(t *testing.T, nasty error) {
	calls, err := runCalls(t, activity.Config{}, atMost(2), func(activity.Context) error { return nasty })
	checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached)
	if calls != 2 {
		t.Errorf("%d attempts, want 2", calls)
	}
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) { // canceled while backing off
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, io.EOF)
		defer cancel()
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

// Given an activity that ends in any way, then its error says which activity, which
// attempt, what happened, and what follows.
func TestErrorText_AfterAnAttempt(t *testing.T) {
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
		{"panic", atMost(1), false, func(activity.Context) error { panic("kaboom") },
			job + "failed in attempt 1, no further attempt (maximum attempts reached): panic: kaboom"},
		{"Goexit", activity.Options{}, false, func(activity.Context) error { runtime.Goexit(); return nil },
			job + "failed in attempt 1, no further attempt (non-retryable failure): the function called runtime.Goexit"},
		{"heartbeat timeout", activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, false, sleep,
			job + "failed in attempt 1, no further attempt (maximum attempts reached): heartbeat timeout: attempt 1 had no heartbeat for 10s; no heartbeat details were recorded"},
		{"heartbeat timeout with details", activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, false, beatAndSleep,
			job + "failed in attempt 1, no further attempt (maximum attempts reached): heartbeat timeout: attempt 1 had no heartbeat for 10s; the last heartbeat details are kept"},
		{"start-to-close timeout after another", activity.Options{StartToCloseTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}, false, sleep,
			job + "failed in attempt 3, no further attempt (maximum attempts reached): start-to-close timeout: attempt 3 was not done within 10s; no heartbeat details were recorded; the previous attempt: start-to-close timeout: attempt 2 was not done within 10s; no heartbeat details were recorded"},
		{"schedule-to-close timeout", activity.Options{ScheduleToCloseTimeout: 10 * time.Second}, false, beatAndSleep,
			job + "failed in attempt 1, no further attempt (timeout): schedule-to-close timeout: not done 10s after it was scheduled, in attempt 1; the last heartbeat details are kept"},
		{"canceled", activity.Options{}, true, sleep,
			job + "was canceled in attempt 1: the user left"},
		{"canceled, and failed", activity.Options{}, true, canceledLate(func() error { return io.EOF }),
			job + "was canceled in attempt 1: the user left; the last attempt ended with: EOF"},
		{"canceled, and panicked", activity.Options{}, true, canceledLate(func() error { panic("kaboom") }),
			job + "was canceled in attempt 1: the user left; the last attempt ended with: panic: kaboom"},
		{"canceled, and deaf", activity.Options{CancelGrace: 3 * time.Second}, true, deaf,
			job + "was canceled in attempt 1: the user left; its function had not returned 3s later and is abandoned"},
		{"canceled while backing off", activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, true, report(errBoom),
			job + "was canceled in attempt 1: the user left; the last attempt ended with: boom"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				tt.opts.ID, tt.opts.Name = "a1", "job"
				h := start(t, rt, tt.opts, tt.fn)
				if tt.cancel {
					time.Sleep(time.Minute)
					h.Cancel(errCancel)
				}
				err := wait(t, h)
				if fmt.Sprint(err) != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
				time.Sleep(2 * time.Hour) // until a deaf function is back
			})
		})
	}
}

// Given an activity that ends before its first attempt, then its error names no attempt.
func TestErrorText_BeforeFirstAttempt(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		other := start(t, rt, activity.Options{ID: "other"}, untilEnded)
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(errCancel)
		fn := noop
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
		refused := func(id string, is error, want string) {
			t.Helper()
			err := rt.Run(t.Context(), activity.Options{ID: id}, fn)
			if !errors.Is(err, is) || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
		refused("other", activity.ErrAlreadyRunning, `activity "other": not started: an activity with this ID is already running`)
		_ = rt.Shutdown(t.Context())
		refused("z", activity.ErrShutdown, `activity "z": not started: the activity runtime is shut down`)
		refused("", activity.ErrShutdown, `activity: not started: the activity runtime is shut down`)
		<-other.Done()
	})
}

// A holdingError is an error of a comparable type, whose values cannot be compared if
// what they hold cannot.
type holdingError struct{ held any }

func (e holdingError) Error() string { return fmt.Sprint("uncomparable ", e.held) }

// Given causes and results that cannot be compared, when an activity is canceled, then its
// error has a text, which says everything once.
func TestErrorText_UncomparableCause(t *testing.T) {
	cause, other := holdingError{[]int{1}}, holdingError{[]int{2}}
	for _, test := range []struct {
		result error
		text   string
	}{
		{cause, "uncomparable [1]"},
		{other, "uncomparable [1]; the last attempt ended with: uncomparable [2]"},
		{fmt.Errorf("wrapped: %w", other), "uncomparable [1]; the last attempt ended with: wrapped: uncomparable [2]"},
		{fmt.Errorf("wrapped: %w", io.EOF), "uncomparable [1]; the last attempt ended with: wrapped: EOF"},
		{nil, "uncomparable [1]"},
	} {
		for _, byCaller := range []bool{false, true} {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				h := startWith(t, ctx, rt, activity.Options{ID: "a", Name: "job"}, func(ctx activity.Context) error {
					_ = ctx.Sleep(time.Hour) // it has been told
					return test.result
				})
				synctest.Wait()
				if byCaller {
					cancel(cause)
				} else {
					h.Cancel(cause)
				}
				err := wait(t, h)
				checkEnd(t, err, 1, activity.RetryStateCancelRequested)
				if want := `activity "a" (job) was canceled in attempt 1: ` + test.text; err.Error() != want {
					t.Errorf("the error is %q, want %q", err, want)
				}
			})
		}
	}
}

// nilText is an error whose Error method panics if it is nil.
type nilText struct{ text string }

func (e *nilText) Error() string { return e.text }

// Rule 14. Given an error whose Error method panics, when a function returns it, wrapped
// by this package or not, or panics with it, then every text of it says so, and neither
// an event nor a log line is lost.
func TestErrorText_ErrorMethodPanics(t *testing.T) {
	const typedNil, itself = "(the Error method of *activity_test.nilText panicked)", "(the Error method of *activity_test.textPanics panicked)"
	for name, test := range map[string]struct {
		fail func() error
		text string
	}{
		"typed nil":                {func() error { return (*nilText)(nil) }, typedNil},
		"panics with itself":       {func() error { return &textPanics{} }, itself},
		"RetryAfter":               {func() error { return activity.RetryAfter((*nilText)(nil), time.Second) }, typedNil},
		"NonRetryable":             {func() error { return activity.NonRetryable(&textPanics{}) }, itself},
		"panic":                    {func() error { panic((*nilText)(nil)) }, "panic: " + typedNil},
		"panic with itself":        {func() error { panic(&textPanics{}) }, "panic: " + itself},
		"panic with a Stringer":    {func() error { panic(stringPanics{}) }, "panic: (the text of a activity_test.stringPanics panicked)"},
		"inner activity's":         {func() error { return &activity.Error{Err: &textPanics{}} }, "activity () failed before its first attempt, no further attempt (unset): " + itself},
		"nil *TimeoutError":        {func() error { return (*activity.TimeoutError)(nil) }, "(the Error method of *activity.TimeoutError panicked)"},
		"nil *PanicError":          {func() error { return (*activity.PanicError)(nil) }, "(the Error method of *activity.PanicError panicked)"},
		"nil *Error":               {func() error { return (*activity.Error)(nil) }, "(the Error method of *activity.Error panicked)"},
		"timeout with LastFailure": {func() error { return &activity.TimeoutError{LastFailure: &textPanics{}} }, "; the previous attempt: " + itself},
	} {
		t.Run(name, func(t *testing.T) {
			log, s := &logbook{}, newStore(t)
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, activity.Config{Logger: slog.New(log), Store: s}, nil)
				opts := atMost(3)
				h := e.start(opts, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 3 {
						<-ctx.Done()
					}
					return test.fail()
				})
				e.pass(time.Minute)
				attempts := 2 // before the last
				if name == "NonRetryable" {
					attempts = 1
				}
				h.Cancel((*nilText)(nil))
				synctest.Wait()
				err := e.end(h)
				if n := log.has(slog.LevelWarn, "attempt failed", test.text); n != attempts {
					t.Errorf("%d attempts are logged, want %d", n, attempts)
				}
				if n := len(e.of(activity.EventAttemptFailed)); n != attempts {
					t.Errorf("%d events, want %d", n, attempts)
				}
				if !strings.Contains(err.Error(), test.text) || attempts == 2 && !strings.Contains(err.Error(), typedNil) {
					t.Errorf("its error is %q", err)
				}
				if cp := s.get(opts.ID); !strings.Contains(cp.LastFailure, test.text) {
					t.Errorf("stored is %q", cp.LastFailure)
				}
			})
		})
	}
}

// stringPanics is a value whose String method panics with it.
type stringPanics struct{}

func (s stringPanics) String() string { panic(s) }

// Rule 14. Given attempts that fail with an error whose Error method panics, when a later
// one times out, then the timeout's text says so.
func TestErrorText_LastFailuresErrorMethodPanics(t *testing.T) {
	_, err := runCalls(t, activity.Config{}, activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 1 {
			return (*nilText)(nil)
		}
		return untilEnded(ctx)
	})
	timeout := asTimeout(t, err)
	for _, text := range []string{err.Error(), timeout.Error()} {
		if want := "; the previous attempt: (the Error method of *activity_test.nilText panicked)"; !strings.Contains(text, want) {
			t.Errorf("got %q, want %q in it", text, want)
		}
	}
}

// exitsInSleep is a wrapper whose SleepContext ends the goroutine, as t.FailNow in a test's fake does.
type exitsInSleep struct {
	activity.Context
	activity.Engine
}

func (exitsInSleep) SleepContext(context.Context, time.Duration) error { runtime.Goexit(); return nil }

// Rule 14. Given a wrapper whose SleepContext calls runtime.Goexit, when a child sleeps
// through it, then the attempt ends with ErrGoexit.
func TestGoexit_InWrappersSleep(t *testing.T) {
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
		return next(exitsInSleep{ctx, ctx.(activity.Engine)})
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{StartToCloseTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			child, _ := activity.FromContext(derived)
			return child.Sleep(time.Second)
		})
		checkErr(t, err, activity.ErrGoexit)
		synctest.Wait()
	})
}

type panicsInSleep struct {
	activity.Context
	activity.Engine
}

func (panicsInSleep) SleepContext(context.Context, time.Duration) error { panic("in SleepContext") }

// Rule 14. Given a wrapper whose SleepContext panics, when a child sleeps through it,
// then the attempt ends with the *PanicError.
func TestPanic_InWrappersSleep(t *testing.T) {
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
		return next(panicsInSleep{ctx, ctx.(activity.Engine)})
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			child, _ := activity.FromContext(derived)
			return child.Sleep(time.Hour)
		})
		if p := (*activity.PanicError)(nil); !errors.As(err, &p) || p.Value != "in SleepContext" {
			t.Errorf("got %v, want the panic", err)
		}
	})
}

// An exitingError is an error whose text ends the goroutine.
type exitingError struct{}

func (exitingError) Error() string {
	if exits.Add(1) < 1000 { // the test must end
		runtime.Goexit()
	}
	return "exit"
}

var exits atomic.Int32

// Rule 24. Given an error whose text ends the goroutine that asks for it, when it is to
// be saved, then the Store still takes the checkpoints of other activities.
func TestErrorText_GoexitHarmsNoOtherActivity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exits.Store(0)
		s := newStore(t)
		rt := activity.New(activity.Config{Store: s, Logger: quiet})
		poison := activity.Options{ID: "poison", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Minute, BackoffCoefficient: 1}}
		start(t, rt, poison, func(activity.Context) error { return exitingError{} })
		time.Sleep(50 * time.Millisecond) // its failure is to be saved soon
		err := rt.Run(t.Context(), activity.Options{ID: "innocent"}, noop)
		if err != nil {
			t.Errorf("an innocent activity: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if err := rt.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if n := exits.Load(); n > 100 {
			t.Errorf("its text was asked for %d times", n)
		}
	})
}

// A lockingError is an error whose text takes a lock of the program.
type lockingError struct{ lock chan struct{} }

func (e lockingError) Error() string {
	e.lock <- struct{}{}
	defer func() { <-e.lock }()
	return "locked"
}

// Given a program that holds a lock while it starts an activity, when the error of another
// activity takes that lock in its text, then neither waits for the other.
func TestErrorText_TakesCallersLock(t *testing.T) {
	for _, late := range []bool{false, true} { // the attempt ends when the lock is held, or before
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lock := make(chan struct{}, 1)
				rt := activity.New(activity.Config{Store: &storetest.Memory{}, Logger: quiet})
				start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error {
					_ = ctx.Sleep(time.Second)
					return lockingError{lock}
				})
				if time.Sleep(time.Second - 1); !late {
					time.Sleep(time.Nanosecond)
					synctest.Wait()
				}
				lock <- struct{}{}
				time.Sleep(time.Minute)
				begun := time.Now()
				start(t, rt, activity.Options{ID: "b"}, noop)
				if took := time.Since(begun); took != 0 {
					t.Errorf("Start took %s", took)
				}
				<-lock
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}
