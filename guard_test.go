package activity_test

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 27. Given Guard, when it is called 1 ns before a timeout, then f runs; at the
// timeout or after it, f does not run, and Guard returns the cause.
func TestGuard_AtTheTimeout(t *testing.T) {
	for _, opts := range []activity.Options{{HeartbeatTimeout: time.Minute}, {StartToCloseTimeout: time.Minute}, {ScheduleToCloseTimeout: time.Minute}} {
		for _, early := range []time.Duration{1, 0, -1} {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				opts.RetryPolicy = once
				h := start(t, rt, opts, func(ctx activity.Context) error {
					time.Sleep(time.Minute - early)
					ran := false
					err := activity.Guard(ctx, func() error { ran = true; return nil })
					if ran != (early > 0) || early > 0 && err != nil || early <= 0 && (err == nil || err != context.Cause(ctx)) {
						t.Errorf("%s before the timeout: ran %v, returned %v", early, ran, err)
					}
					return nil
				})
				err := wait(t, h)
				time.Sleep(2 * time.Nanosecond) // the function may be late by 1 ns
				if early > 0 {
					checkErr(t, err, nil)
				} else {
					checkErr(t, err, context.DeadlineExceeded)
				}
			})
		}
	}
}

// Rule 27. Given an attempt that times out inside Guard, then no later attempt starts
// until f has returned, in whatever way.
func TestGuard_DelaysNextAttempt(t *testing.T) {
	for name, leave := range map[string]func() error{
		"nil":    func() error { return nil },
		"error":  func() error { return errBoom },
		"panic":  func() error { panic(errBoom) },
		"Goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var j journal
			bubble(t, activity.Config{MaxConcurrent: 1, Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
				begun := time.Now()
				inside := false
				h := start(t, rt, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						if d := time.Since(begun); inside || d != 10*time.Minute {
							t.Errorf("attempt 2 starts after %s, f runs: %v", d, inside)
						}
						return nil
					}
					return activity.Guard(ctx, func() error {
						inside = true
						defer func() { inside = false }()
						ran := false
						checkErr(t, activity.Guard(ctx, func() error { ran = true; return errCancel }), errCancel)
						time.Sleep(10 * time.Minute)
						err := activity.Guard(ctx, func() error { t.Error("the inner f runs"); return nil })
						if !ran || err != context.Cause(ctx) || err == nil {
							t.Errorf("nested: ran %v, then %v", ran, err)
						}
						return leave()
					})
				})
				time.Sleep(time.Minute - 1)
				checkState(t, h, activity.StateRunning)
				time.Sleep(2 * time.Nanosecond)
				checkState(t, h, activity.StateBlocked)
				synctest.Wait()
				blocked := j.of(activity.EventBlocked)
				if n := rt.Stats().Blocked; n != 1 || len(blocked) != 1 || blocked[0].Attempt != 1 {
					t.Errorf("%d blocked, events %v", n, blocked)
				}
				checkErr(t, run(t, rt, activity.Options{}, noop), nil) // the slot is free
				time.Sleep(9*time.Minute - 2)
				checkState(t, h, activity.StateBlocked)
				checkErr(t, wait(t, h), nil)
				synctest.Wait()
			})
		})
	}
}

// Rules 7 and 27. Given a heartbeat timeout whose timer has not run yet, when Guard is
// called at that instant, then f does not run; 1 ns before, it runs.
func TestGuard_AtTheTimeoutBeforeTimerRuns(t *testing.T) {
	for _, early := range []time.Duration{1, 0} {
		beforeTheTimer(t, 10*time.Second-early, func(ctx activity.Context) {
			ran := false
			err := activity.Guard(ctx, func() error { ran = true; return nil })
			if ran != (early > 0) || early == 0 && (err == nil || err != context.Cause(ctx)) {
				t.Errorf("%s before the timeout: ran %v, returned %v", early, ran, err)
			}
		})
	}
}

// Rule 27. Given a wrapper around a Context that has a Guard of its own, when the
// function calls Guard, then that one is used.
func TestGuard_OfInnerWrapper(t *testing.T) {
	guarder := &countingEngine{}
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
		guarder.Context = ctx
		return next(&countingWrapper{Context: guarder})
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.Guard(ctx, func() error { return nil })
		})
		checkErr(t, err, nil)
		if n := guarder.guards.Load(); n != 1 {
			t.Errorf("the inner wrapper's Guard was called %d times, want 1", n)
		}
	})
}

// Rule 27. Given an attempt that runs, when f returns an error or panics, then that
// passes through Guard.
func TestGuard_PassesResultThrough(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				if err := activity.Guard(ctx, func() error { return errCancel }); err != errCancel {
					t.Errorf("got %v", err)
				}
				if err := activity.Guard(ctx, func() error { return nil }); err != nil {
					t.Error(err)
				}
				return activity.Guard(ctx, func() error { panic("in Guard") })
			case 2:
				p := (*activity.PanicError)(nil)
				if !errors.As(ctx.Info().LastFailure, &p) || p.Value != "in Guard" {
					t.Errorf("the panic became %v", ctx.Info().LastFailure)
				}
			}
			return activity.Guard(ctx, func() error { runtime.Goexit(); return nil })
		})
		checkErr(t, err, activity.ErrGoexit)
		checkEnd(t, err, 2, activity.RetryStateNonRetryableFailure)
	})
}

// Rule 27. Given a function that has returned while its own goroutine is inside Guard,
// then neither the next attempt nor the end of the activity comes before f returns.
func TestGuard_OutlivesFunction(t *testing.T) {
	for _, result := range []error{nil, errBoom} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			opts := activity.Options{ID: "one"}
			begun := time.Now()
			h := start(t, rt, opts, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 2 {
					if d := time.Since(begun); d != time.Minute {
						t.Errorf("attempt 2 starts after %s", d)
					}
					return nil
				}
				in := make(chan struct{})
				go activity.Guard(ctx, func() error { close(in); time.Sleep(time.Minute); return nil })
				<-in
				return result
			})
			time.Sleep(30 * time.Second)
			checkErr(t, rt.Run(t.Context(), opts, noop), activity.ErrAlreadyRunning)
			if result != nil {
				checkState(t, h, activity.StateBlocked)
			}
			checkErr(t, wait(t, h), nil)
			time.Sleep(time.Minute)
			checkErr(t, rt.Run(t.Context(), opts, noop), nil)
		})
	}
}

// Rule 27. Given an activity that has ended while f runs, then its caller has the answer,
// and the ID stays in use until f returns.
func TestGuard_KeepsID(t *testing.T) {
	for name, opts := range map[string]activity.Options{
		"schedule to close":          {ID: "one", ScheduleToCloseTimeout: time.Minute},
		"blocked, schedule to close": {ID: "one", ScheduleToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second},
		"last attempt":               {ID: "one", StartToCloseTimeout: time.Minute, RetryPolicy: once},
		"grace":                      {ID: "one", CancelGrace: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				begun := time.Now()
				h := start(t, rt, opts, func(ctx activity.Context) error {
					return activity.Guard(ctx, func() error { time.Sleep(time.Hour); return nil })
				})
				again := func() error {
					return rt.Run(t.Context(), activity.Options{ID: h.ID()}, noop)
				}
				synctest.Wait()
				if opts.CancelGrace > 0 {
					h.Cancel(errCancel)
				}
				if err := wait(t, h); err == nil || time.Since(begun) != time.Minute {
					t.Errorf("the caller had its answer, %v, after %s", err, time.Since(begun))
				}
				checkErr(t, again(), activity.ErrAlreadyRunning)
				time.Sleep(59*time.Minute - 1)
				checkErr(t, again(), activity.ErrAlreadyRunning)
				time.Sleep(2 * time.Nanosecond)
				checkErr(t, again(), nil)
			})
		})
	}
}

// Rule 27. Given an abandoned function that returns while its own goroutine is inside
// Guard, then the ID stays in use until f returns.
func TestGuard_OutlivesAbandonedFunction(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{ID: "a", StartToCloseTimeout: time.Second, RetryPolicy: once}
		h := e.start(opts, func(ctx activity.Context) error {
			go activity.Guard(ctx, func() error { <-e.gate("guard"); return nil })
			return e.hang(ctx)
		})
		e.pass(time.Second)
		checkEnd(t, e.end(h), 1, activity.RetryStateMaximumAttemptsReached, context.DeadlineExceeded)
		again := func() error { return e.rt.Run(t.Context(), activity.Options{ID: "a"}, noop) }
		checkErr(t, again(), activity.ErrAlreadyRunning)
		e.open("a1")
		if n := len(e.of(activity.EventAbandonedReturned)); n != 1 {
			t.Fatalf("%d functions have returned, want 1", n)
		}
		checkErr(t, again(), activity.ErrAlreadyRunning)
		e.open("guard")
		checkErr(t, again(), nil)
	})
}

// Rule 17. Given a canceled function that returns nil, when Sleep, Idle, Range or Guard
// had returned the cause to it, then the activity is canceled; otherwise it has
// completed.
func TestCancel_IgnoredErrorIsNoSuccess(t *testing.T) {
	derived := func(ctx activity.Context) activity.Context {
		c, _ := activity.FromContext(context.WithValue(ctx, key{}, 1))
		return c
	}
	for _, tt := range []struct {
		name string
		told bool
		fn   func(ctx activity.Context)
	}{
		{"nothing", false, func(ctx activity.Context) {}},
		{"Sleep", true, func(ctx activity.Context) { _ = ctx.Sleep(time.Second) }},
		{"Sleep of 0", true, func(ctx activity.Context) { _ = ctx.Sleep(0) }},
		{"Sleep in a loop", true, func(ctx activity.Context) {
			for range 100 {
				_ = ctx.Sleep(time.Second)
			}
		}},
		{"Idle", true, func(ctx activity.Context) { _ = activity.Idle(ctx, time.Second) }},
		{"Idle of 0", true, func(ctx activity.Context) { _ = activity.Idle(ctx, 0) }},
		{"Guard", true, func(ctx activity.Context) { _ = activity.Guard(ctx, func() error { return nil }) }},
		{"Range", true, func(ctx activity.Context) { _ = activity.Range(ctx, 0, 3, func(int) error { return nil }) }},
		{"Range with nothing to do", false, func(ctx activity.Context) { _ = activity.Range(ctx, 3, 3, func(int) error { return nil }) }},
		{"Heartbeat", false, func(ctx activity.Context) { _ = ctx.Heartbeat(); _ = ctx.Heartbeat(1) }},
		{"Err and Cause", false, func(ctx activity.Context) { _, _ = ctx.Err(), context.Cause(ctx) }},
		{"derived Sleep", true, func(ctx activity.Context) { _ = derived(ctx).Sleep(time.Second) }},
		{"derived Idle", true, func(ctx activity.Context) { _ = activity.Idle(derived(ctx), time.Second) }},
		{"derived Guard", true, func(ctx activity.Context) { _ = activity.Guard(derived(ctx), func() error { return nil }) }},
		{"derived Range", true, func(ctx activity.Context) {
			_ = activity.Range(derived(ctx), 0, 3, func(int) error { return nil })
		}},
		{"derived Heartbeat", false, func(ctx activity.Context) { _ = derived(ctx).Heartbeat() }},
		{"wrapped Sleep", true, func(ctx activity.Context) { _ = plainWrapper{ctx}.Sleep(time.Second) }},
		{"wrapped Idle", true, func(ctx activity.Context) { _ = activity.Idle(plainWrapper{ctx}, time.Second) }},
		{"wrapped Guard", true, func(ctx activity.Context) {
			_ = activity.Guard(plainWrapper{ctx}, func() error { return nil })
		}},
		{"wrapped Range", true, func(ctx activity.Context) {
			_ = activity.Range(plainWrapper{ctx}, 0, 3, func(int) error { return nil })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkTold(t, tt.told, func(ctx activity.Context) { <-ctx.Done(); tt.fn(ctx) })
		})
	}
	// What f and body return is theirs, also if it is the cause.
	t.Run("f of Guard", func(t *testing.T) {
		checkTold(t, false, func(ctx activity.Context) {
			_ = activity.Guard(ctx, func() error { return untilEnded(ctx) })
		})
	})
	t.Run("body of Range", func(t *testing.T) {
		checkTold(t, false, func(ctx activity.Context) {
			_ = activity.Range(ctx, 0, 3, func(int) error { return untilEnded(ctx) })
		})
	})
	t.Run("the last body of Range", func(t *testing.T) {
		checkTold(t, false, func(ctx activity.Context) {
			if err := activity.Range(ctx, 0, 1, func(int) error { <-ctx.Done(); return nil }); err != nil {
				t.Errorf("Range: %v", err)
			}
		})
	})
	t.Run("the last body but one of Range", func(t *testing.T) {
		checkTold(t, true, func(ctx activity.Context) {
			_ = activity.Range(ctx, 0, 2, func(int) error { <-ctx.Done(); return nil })
		})
	})
	t.Run("in the middle of Sleep", func(t *testing.T) {
		checkTold(t, true, func(ctx activity.Context) { _ = ctx.Sleep(time.Hour) })
	})
	// A context of the function's own ended, not the attempt.
	t.Run("by a context of its own", func(t *testing.T) {
		checkTold(t, false, func(ctx activity.Context) {
			sub, cancel := context.WithCancelCause(ctx)
			c, _ := activity.FromContext(sub)
			cancel(io.EOF)
			if err := c.Sleep(time.Hour); err != io.EOF {
				t.Errorf("Sleep: %v", err)
			}
			if err := activity.Guard(c, func() error { return nil }); err != io.EOF {
				t.Errorf("Guard: %v", err)
			}
			<-ctx.Done()
		})
	})
}

type plainWrapper struct{ activity.Context }

func checkTold(t *testing.T, told bool, fn func(ctx activity.Context)) {
	t.Helper()
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error { fn(ctx); return nil })
		time.Sleep(time.Second)
		h.Cancel(errCancel)
		out, err := h.Wait(t.Context())
		switch {
		case told:
			checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
			if out != "" || h.Status().State != activity.StateCanceled {
				t.Errorf("out %q, state %s", out, h.Status().State)
			}
		case err != nil || out != "done" || h.Status().State != activity.StateCompleted:
			t.Errorf("got %q, %v, state %s; it has succeeded", out, err, h.Status().State)
		}
	})
}

// An oddError cannot be compared.
type oddError struct{ _ func() }

func (oddError) Error() string { return "odd" }

// Rule 17. Given a cause that cannot be compared, when Sleep has returned it and the
// function returns nil, then the activity is canceled with that cause.
func TestCancel_UncomparableCause(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error { _ = ctx.Sleep(time.Hour); return nil })
		time.Sleep(time.Second)
		h.Cancel(oddError{})
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested)
		var cause oddError
		var p *activity.PanicError
		if !errors.As(err, &cause) || errors.As(err, &p) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Rule 17. Given a canceled function that returns nil, then Sleep, Idle, Range and Guard
// count as having reported the cause, and Heartbeat and context.Cause do not.
func TestCancel_WhichCallsReportTheCause(t *testing.T) {
	for name, test := range map[string]struct {
		call func(ctx, child activity.Context) error // child ended before, with errBoom
		want error
		told bool
	}{
		"nothing":     {func(_, _ activity.Context) error { return nil }, nil, false},
		"Cause":       {func(ctx, _ activity.Context) error { return context.Cause(ctx) }, errCancel, false},
		"Heartbeat":   {func(ctx, _ activity.Context) error { return ctx.Heartbeat(1) }, errCancel, false},
		"Sleep":       {func(ctx, _ activity.Context) error { return ctx.Sleep(1) }, errCancel, true},
		"Sleep 0":     {func(ctx, _ activity.Context) error { return ctx.Sleep(0) }, errCancel, true},
		"Idle":        {func(ctx, _ activity.Context) error { return activity.Idle(ctx, 1) }, errCancel, true},
		"Guard":       {func(ctx, _ activity.Context) error { return activity.Guard(ctx, never) }, errCancel, true},
		"Range":       {func(ctx, _ activity.Context) error { return activity.Range(ctx, 0, 1, nil) }, errCancel, true},
		"empty Range": {func(ctx, _ activity.Context) error { return activity.Range(ctx, 0, 0, nil) }, nil, false},
		"child Sleep": {func(_, child activity.Context) error { return child.Sleep(1) }, errBoom, false},
		"child Guard": {func(_, child activity.Context) error { return activity.Guard(child, never) }, errBoom, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					derived, cancel := context.WithCancelCause(ctx)
					cancel(errBoom)
					child, _ := activity.FromContext(derived)
					<-ctx.Done()
					if err := test.call(ctx, child); err != test.want {
						t.Errorf("got %v, want %v", err, test.want)
					}
					return nil
				})
				synctest.Wait()
				h.Cancel(errCancel)
				if err := wait(t, h); test.told {
					checkErr(t, err, errCancel)
				} else {
					checkErr(t, err, nil)
				}
			})
		})
	}
}

// Rule 17. Given a Sleep that ended with a child context, with or without a wrapper, when
// the attempt is canceled later and the function returns nil, then it has completed.
func TestCancel_EndedChildSleepReportsNothing(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			if wrapped {
				ctx = &countingWrapper{Context: ctx}
			}
			return next(ctx)
		}}
		bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
				derived, cancel := context.WithTimeoutCause(ctx, time.Second, errBoom)
				defer cancel()
				child, _ := activity.FromContext(derived)
				if err := child.Sleep(time.Hour); err != errBoom {
					t.Errorf("Sleep returned %v", err)
				}
				<-ctx.Done()
				time.Sleep(time.Second)
				return nil // finished all the same
			})
			time.Sleep(time.Minute)
			h.Cancel(errCancel)
			if err := wait(t, h); err != nil {
				t.Errorf("wrapped %v: %v, want success", wrapped, err)
			}
		})
	}
}
