package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given an activity whose last event is still being delivered, when a start of its ID is
// refused and another one follows, then the events of that one come after the last event.
func TestEvents_FollowLastEventAfterRefusedStart(t *testing.T) {
	for _, how := range []string{"store fails", "mismatch", "canceled"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, s := make(chan struct{}), newStore(t)
				var j journal
				rt := activity.New(activity.Config{Store: s, Logger: quiet, Observer: func(e activity.Event) {
					if e.Kind == activity.EventFailed {
						<-gate
					}
					j.observe(e)
				}})
				start(t, rt, atMost(1), func(activity.Context) error { return errBoom })
				synctest.Wait()
				switch how {
				case "store fails":
					s.on("Save", failing)
					if err := rt.Run(t.Context(), atMost(1), noop); !errors.Is(err, errDisk) {
						t.Fatal(err)
					}
					s.on("Save", nil)
				case "mismatch":
					other := atMost(1)
					other.Name = "other"
					checkErr(t, rt.Run(t.Context(), other, noop), activity.ErrCheckpointMismatch)
				case "canceled":
					open := s.block("Load")
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Second, func() { cancel(); open() })
					checkErr(t, rt.Run(ctx, atMost(1), noop), context.Canceled)
				}
				time.Sleep(time.Minute)
				start(t, rt, atMost(1), noop)
				synctest.Wait()
				close(gate)
				synctest.Wait()
				kinds := slices.DeleteFunc(j.kinds("a1"), func(k activity.EventKind) bool { return k != activity.EventFailed && k != activity.EventScheduled })
				checkDiff(t, "events", kinds, []activity.EventKind{activity.EventScheduled, activity.EventFailed, activity.EventScheduled})
			})
		})
	}
}

// An opError is the usual wrapper of an error.
type opError struct{ err error }

func (e *opError) Error() string { return "op: " + e.err.Error() }

func (e *opError) Unwrap() error { return e.err }

// Rule 15. Given a NonRetryable error around a nil pointer whose Unwrap panics, when a
// function returns it, then the activity is not retried.
func TestRetry_NonRetryableTypedNil(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, atMost(3), func(activity.Context) error {
		var e *opError
		return activity.NonRetryable(e)
	})
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts, want 1", calls)
	}
}

// Rule 13. Given a RetryAfter error around a nil pointer whose Unwrap panics, when a
// function returns it, then its duration replaces the interval.
func TestRetry_RetryAfterTypedNil(t *testing.T) {
	delays, _ := runDelays(t, activity.Config{}, atMost(2), func(ctx activity.Context, n int) error {
		var e *opError
		return activity.RetryAfter(e, time.Hour)
	})
	checkDiff(t, "delays", delays[:1], []time.Duration{time.Hour})
}

// Rule 15. Given errors.Join of a nil pointer whose Unwrap panics and a NonRetryable
// error, when a function returns it, then the activity is not retried.
func TestRetry_NonRetryableBesideTypedNil(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, atMost(3), func(activity.Context) error {
		var e *opError
		return errors.Join(e, activity.NonRetryable(errBoom))
	})
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts, want 1", calls)
	}
}

// A lookingContext is a context of the user whose Err looks at the activity.
type lookingContext struct{ context.Context }

func (c lookingContext) Err() error {
	if ctx, ok := activity.FromContext(c.Context); ok {
		_ = ctx.Info()
	}
	return c.Context.Err()
}

// Given a context whose Err looks at the activity, when a canceled function heartbeats
// through it, then nothing deadlocks.
func TestHeartbeat_ThroughContextThatLooksAtActivity(t *testing.T) {
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprint("SyncHeartbeats ", sync), func(t *testing.T) {
			rt := activity.New(activity.Config{Logger: quiet, Store: &storetest.Memory{}})
			h, err := rt.Start(t.Context(), activity.Options{ID: "a", SyncHeartbeats: sync}, func(ctx activity.Context) error {
				<-ctx.Done()
				c, _ := activity.FromContext(lookingContext{context.WithoutCancel(ctx)})
				return c.Heartbeat(1)
			})
			checkErr(t, err, nil)
			h.Cancel(errCancel)
			ended := make(chan struct{})
			go func() {
				<-h.Done()
				rt.Stats()
				close(ended)
			}()
			select {
			case <-ended:
			case <-time.After(time.Minute): // a locked mutex cannot be seen in a bubble
				t.Fatal("the Runtime is deadlocked")
			}
		})
	}
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

// Rule 35. Given an attempt that failed with RetryAfter, when Shutdown comes while
// Retryable is being asked, then the next execution waits for the rest of the time.
func TestShutdown_WhileRetryableIsAskedKeepsBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		asked := make(chan struct{})
		opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { <-asked; return true }}}
		fn := func(ctx activity.Context) error {
			if ctx.Info().Attempt > 1 {
				return nil
			}
			return activity.RetryAfter(errBoom, time.Hour)
		}
		rt := activity.New(activity.Config{Store: s, Logger: quiet})
		_, err := rt.Start(context.Background(), opts, fn)
		checkErr(t, err, nil)
		synctest.Wait()
		checkErr(t, rt.Shutdown(t.Context()), nil)
		close(asked)
		synctest.Wait()
		t.Logf("%+v", s.get("a"))
		rt = activity.New(activity.Config{Store: s, Logger: quiet})
		begin := time.Now()
		checkErr(t, rt.Run(t.Context(), opts, fn), nil)
		if took := time.Since(begin); took < time.Hour {
			t.Errorf("attempt 2 came %s after RetryAfter(err, 1h)", took)
		}
	})
}

// Rule 24. Given a Store whose Save ends its goroutine while a Delete is due, then the
// writer pauses between two tries, and the Delete is made.
func TestStoreFails_GoexitIsNotTriedInALoop(t *testing.T) {
	for _, how := range []string{"shutdown", "success of another"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				rt := activity.New(activity.Config{Store: s, Logger: quiet})
				gate := make(chan struct{})
				start(t, rt, activity.Options{ID: "other"}, func(activity.Context) error { <-gate; return nil })
				start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error { <-ctx.Done(); return context.Cause(ctx) })
				h := start(t, rt, activity.Options{ID: "b"}, func(ctx activity.Context) error { <-ctx.Done(); return context.Cause(ctx) })
				synctest.Wait()
				var tries atomic.Int32
				s.on("Save", func(context.Context) error {
					if tries.Add(1) > 2000 {
						return nil // the test must end
					}
					runtime.Goexit()
					return nil
				})
				if how == "shutdown" {
					h.Cancel(errCancel)
					synctest.Wait()
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					_ = rt.Shutdown(ctx)
				} else {
					h.Cancel(errCancel)
					close(gate)
					time.Sleep(time.Second)
				}
				if n := tries.Load(); n > 20 {
					t.Errorf("%d tries within 1s", n)
				}
				s.on("Save", nil)
				if how == "shutdown" {
					close(gate)
				}
				_ = rt.Shutdown(t.Context())
			})
		})
	}
}

// A hangingHandler hangs at the line about a Shutdown.
type hangingHandler struct {
	slog.Handler
	gate chan struct{}
}

func (h hangingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h hangingHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "shut down") {
		<-h.gate
	}
	return nil
}

// Rule 19. Given a Logger that hangs, when ctx ends, then Shutdown returns at once.
func TestShutdown_LoggerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, hang := make(chan struct{}), make(chan struct{})
		rt := activity.New(activity.Config{Logger: slog.New(hangingHandler{quiet.Handler(), gate})})
		_ = rt.Run(t.Context(), activity.Options{StartToCloseTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error { <-hang; return nil })
		returned := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			returned <- rt.Shutdown(ctx)
		}()
		time.Sleep(time.Hour)
		select {
		case <-returned:
		default:
			t.Error("Shutdown has not returned an hour after its ctx has ended")
		}
		close(gate)
		close(hang)
	})
}

// An exitingContext is a context of the user with a Done of its own and odd methods.
type exitingContext struct {
	context.Context
	err func()
}

func (c exitingContext) Err() error { c.err(); return c.Context.Err() }

// Given a caller's context whose Err calls runtime.Goexit or panics, when the activity
// ends, then its caller is answered nevertheless.
func TestCaller_ContextWhoseErrExits(t *testing.T) {
	for name, exit := range map[string]func(){"Goexit": runtime.Goexit, "panic": func() { panicHere(errBoom) }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rt := activity.New(activity.Config{Logger: quiet})
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				var armed atomic.Bool
				ctx := exitingContext{parent, func() {
					if armed.Swap(false) {
						exit()
					}
				}}
				h, err := rt.Start(ctx, activity.Options{}, func(activity.Context) error { armed.Store(true); return nil })
				checkErr(t, err, nil)
				synctest.Wait()
				select {
				case <-h.Done():
				default:
					t.Errorf("the function has returned, and the activity is %s", h.Status().State)
				}
			})
		})
	}
}

// Rule 18. Given a Store and a canceled activity in any state, when its caller is
// answered, then one Save was tried, so that the next process does not find it running.
func TestCancel_CallerIsAnsweredAfterOneSave(t *testing.T) {
	for _, where := range []string{"backing off", "running", "waiting"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				rt := activity.New(activity.Config{Store: s, Logger: quiet, MaxConcurrent: 1})
				gate := make(chan struct{})
				if where == "waiting" {
					start(t, rt, activity.Options{}, func(activity.Context) error { <-gate; return nil })
				}
				h := start(t, rt, activity.Options{ID: "a", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(ctx activity.Context) error {
					if where == "backing off" {
						return errBoom
					}
					return untilEnded(ctx)
				})
				time.Sleep(time.Minute)
				s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
				h.Cancel(errCancel)
				checkErr(t, wait(t, h), errCancel)
				if cp := s.get("a"); cp.State != activity.CheckpointCanceled { // a kill now
					t.Errorf("the caller is told, and the Store has %s", cp.State)
				}
				close(gate)
				synctest.Wait()
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}
