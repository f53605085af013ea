package activity_test

import (
	"context"
	"errors"
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

// Rule 27. Given a canceled activity whose function is still inside Guard, when its ID is
// started or forgotten, then that is refused until Guard returns, and Recover passes it
// over.
func TestGuard_KeepsStoredID(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		in := e.gate("in")
		opts := job
		opts.CancelGrace = time.Second
		opts.HeartbeatTimeout = 10 * time.Second
		ctx, cancel := context.WithCancel(e.ctx)
		defer cancel()
		def := &activity.Definition[struct{}, string]{Name: "job", Func: func(activity.Context, struct{}) (string, error) { return "", nil }}
		h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(1)
			return activity.Guard(ctx, func() error { <-in; _ = ctx.Heartbeat(2); return nil })
		})
		synctest.Wait()
		cancel()
		e.pass(time.Second)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested)
		check := func() {
			t.Helper()
			got := s.get("a")
			if got.State != activity.CheckpointInterrupted || got.Attempt != 0 {
				t.Errorf("%+v", got)
			}
			checkDetails(t, stored{got}, 1)
		}
		check()
		checkErr(t, e.rt.Forget(e.ctx, "a"), activity.ErrAlreadyRunning)
		if n, err := e.rt.Recover(e.ctx, def); n != 0 || err != nil {
			t.Error(n, err)
		}
		checkDiff(t, "unfinished", e.unfinished(), []string(nil))
		_, err := def.Execute(e.ctx, e.rt, "a", struct{}{})
		checkErr(t, err, activity.ErrAlreadyRunning)
		check()
		e.open("in")
		check()
		checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
		if n, err := e.rt.Recover(e.ctx, def); n != 1 || err != nil {
			t.Error(n, err)
		}
		e.pass(time.Second)
		s.want(activity.Checkpoint{ID: "a"})
	})
}
