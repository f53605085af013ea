package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// A cancelPhase brings an activity to where it is to be canceled.
type cancelPhase struct {
	name    string
	state   activity.State
	attempt int
	opts    activity.Options
	fn      func(ctx activity.Context, release <-chan struct{}) error
}

var cancelPhases = []cancelPhase{
	{"running", activity.StateRunning, 1, activity.Options{}, func(ctx activity.Context, _ <-chan struct{}) error { return untilEnded(ctx) }},
	{"sleeping", activity.StateRunning, 1, activity.Options{}, func(ctx activity.Context, _ <-chan struct{}) error { return ctx.Sleep(time.Hour) }},
	{"idling", activity.StateRunning, 1, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context, _ <-chan struct{}) error { return activity.Idle(ctx, time.Hour) }},
	{"waiting", activity.StateWaiting, 0, activity.Options{}, nil},
	{"backing off", activity.StateBackingOff, 1, activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(activity.Context, <-chan struct{}) error { return errBoom }},
	{"blocked", activity.StateBlocked, 1, activity.Options{HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap}, func(_ activity.Context, release <-chan struct{}) error {
		<-release
		return nil
	}},
}

// Rule 18. Given an activity in any phase, whose function heeds its Context if one runs,
// when anybody cancels the activity, then its caller is answered at that instant.
func TestCancel_EndsEveryPhaseAtOnce(t *testing.T) {
	type job struct {
		cancel context.CancelCauseFunc
		h      *activity.Handle[string]
		rt     *activity.Runtime
	}
	ways := []struct {
		name   string
		cause  error
		cancel func(job)
	}{
		{"context", errCancel, func(j job) { j.cancel(errCancel) }},
		{"context without cause", context.Canceled, func(j job) { j.cancel(nil) }},
		{"handle", errCancel, func(j job) { j.h.Cancel(errCancel) }},
		{"handle without cause", context.Canceled, func(j job) { j.h.Cancel(nil) }},
		{"shutdown", activity.ErrShutdown, func(j job) { _ = j.rt.Shutdown(context.Background()) }},
	}
	for _, phase := range cancelPhases {
		for _, way := range ways {
			t.Run(phase.name+" by "+way.name, func(t *testing.T) {
				var j journal
				bubble(t, activity.Config{Observer: j.observe, MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
					release := make(chan struct{})
					if phase.name == "waiting" {
						other := start(t, rt, activity.Options{ID: "other"}, untilEnded)
						defer func() { other.Cancel(nil); <-other.Done() }()
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					opts := phase.opts
					opts.ID = "it"
					h := startWith(t, ctx, rt, opts, func(ctx activity.Context) error { return phase.fn(ctx, release) })
					time.Sleep(time.Minute + time.Second/3)
					if s := h.Status(); s.State != phase.state || s.Attempt != phase.attempt {
						t.Fatalf("it is %s in attempt %d, want %s in %d", s.State, s.Attempt, phase.state, phase.attempt)
					}
					at := time.Now()
					way.cancel(job{cancel, h, rt})
					out, err := h.Wait(context.Background())
					if d := time.Since(at); d != 0 {
						t.Errorf("the answer took %s", d)
					}
					checkEnd(t, err, phase.attempt, activity.RetryStateCancelRequested, way.cause)
					if out != "" {
						t.Errorf("out is %q", out)
					}
					s := h.Status()
					if s.State != activity.StateCanceled {
						t.Errorf("state is %s", s.State)
					}
					if s.LastFailure != nil && !errors.Is(err, s.LastFailure) {
						t.Errorf("%v does not wrap how the last attempt ended, %v", err, s.LastFailure)
					}
					kinds := j.kinds("it")
					if last := kinds[len(kinds)-1]; last != activity.EventCanceled {
						t.Errorf("the last event is %s", last)
					}
					close(release)
					synctest.Wait()
					if s := rt.Stats(); s.Abandoned != 0 || s.Canceled != 1 && phase.name != "waiting" {
						t.Errorf("%+v", s)
					}
				})
			})
		}
	}
}

// Rule 17. Given a caller's context with a cause, when it ends, then the attempt's
// Context ends at that instant with that cause.
func TestCancel_ContextEndsWithCallersCause(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCancel)
		defer cancel()
		var seen error
		var after time.Duration
		err := rt.Run(ctx, activity.Options{}, func(ctx activity.Context) error {
			<-ctx.Done()
			after, seen = time.Since(ctx.Info().StartedAt), context.Cause(ctx)
			if err := ctx.Heartbeat(); err != errCancel {
				t.Errorf("Heartbeat: %v", err)
			}
			if err := ctx.Sleep(0); err != errCancel {
				t.Errorf("Sleep: %v", err)
			}
			return seen
		})
		if seen != errCancel || after != time.Minute {
			t.Errorf("cause %v after %s", seen, after)
		}
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
	})
}

// Rule 17. Given a canceled attempt, when its function fails in any way, then the
// activity is canceled and not failed, and the error wraps both.
func TestCancel_ResultOfCanceledFunction(t *testing.T) {
	for _, tt := range []struct {
		name string
		fn   func(ctx activity.Context) error
		is   error
	}{
		{"fails", func(activity.Context) error { return io.EOF }, io.EOF},
		{"returns the cause", func(ctx activity.Context) error { return context.Cause(ctx) }, nil},
		{"wraps the cause", func(ctx activity.Context) error { return fmt.Errorf("%w: %w", io.EOF, context.Cause(ctx)) }, io.EOF},
		{"fails for good", func(activity.Context) error { return activity.NonRetryable(io.EOF) }, io.EOF},
		{"wants to come back", func(activity.Context) error { return activity.RetryAfter(io.EOF, 0) }, io.EOF},
		{"panics", func(activity.Context) error { panic(io.EOF) }, io.EOF},
		{"calls Goexit", func(activity.Context) error { runtime.Goexit(); return nil }, activity.ErrGoexit},
		{"fails when told", func(ctx activity.Context) error { _ = ctx.Sleep(1); return io.EOF }, io.EOF},
		{"fails late", func(activity.Context) error { time.Sleep(10*time.Second - 1); return io.EOF }, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var j journal
			bubble(t, activity.Config{Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{
					ID: "it", HeartbeatTimeout: 2 * time.Second, StartToCloseTimeout: 3 * time.Second, ScheduleToCloseTimeout: 4 * time.Second,
				}, func(ctx activity.Context) error {
					<-ctx.Done()
					return tt.fn(ctx)
				})
				time.Sleep(time.Second)
				h.Cancel(errCancel)
				out, err := h.Wait(t.Context())
				checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
				if tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("%v does not wrap what the function returned, %v", err, tt.is)
				}
				if out != "" {
					t.Errorf("out is %q", out)
				}
				checkDiff(t, "events", j.kinds("it"), []activity.EventKind{activity.EventScheduled, activity.EventAttemptStarted, activity.EventCanceled})
				if s := rt.Stats(); s.Timeouts != 0 {
					t.Errorf("a timeout ran although it was canceled: %+v", s)
				}
			})
		})
	}
}

// Rule 17. Given a canceled function, when it returns 1 ns before CancelGrace ends, its
// result counts; at that instant or later, the caller has been answered without it.
func TestCancel_GraceEnds(t *testing.T) {
	for _, grace := range []time.Duration{0, 3 * time.Second} { // 0: 10 s
		limit := grace
		if limit == 0 {
			limit = 10 * time.Second
		}
		for _, late := range []time.Duration{-1, 0, 1} {
			for _, result := range []error{nil, io.EOF} {
				t.Run(fmt.Sprint(limit, late, result), func(t *testing.T) {
					var j journal
					bubble(t, activity.Config{Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
						opts := activity.Options{ID: "it", CancelGrace: grace, HeartbeatTimeout: 2 * time.Second, StartToCloseTimeout: 2 * time.Second}
						h := start(t, rt, opts, func(ctx activity.Context) error {
							<-ctx.Done()
							time.Sleep(limit + late)
							return result
						})
						time.Sleep(time.Second)
						h.Cancel(errCancel)
						at := time.Now()
						time.Sleep(time.Second)
						h.Cancel(io.ErrUnexpectedEOF) // too late: it changes nothing
						out, err := h.Wait(t.Context())
						took := time.Since(at)
						started := []activity.EventKind{activity.EventScheduled, activity.EventAttemptStarted}
						switch {
						case late < 0 && result == nil:
							if err != nil || out != "done" || took != limit-1 {
								t.Errorf("got %q, %v after %s", out, err, took)
							}
							checkDiff(t, "events", j.kinds("it"), append(started, activity.EventCompleted))
						case late < 0:
							checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel, io.EOF)
							checkDiff(t, "events", j.kinds("it"), append(started, activity.EventCanceled))
						default:
							checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
							if out != "" || took != limit || errors.Is(err, io.EOF) {
								t.Errorf("got %q, %v after %s", out, err, took)
							}
							time.Sleep(time.Second)
							checkDiff(t, "events", j.kinds("it"), append(started, activity.EventAbandoned, activity.EventCanceled, activity.EventAbandonedReturned))
						}
						if s := rt.Stats(); s.Abandoned != 0 || s.Timeouts != 0 {
							t.Errorf("%+v", s)
						}
					})
				})
			}
		}
	}
}

// Rules 7 and 17. Given a mock clock, when a cancellation and a timeout fall on one
// instant, then the one that the test does first decides.
func TestCancel_AndTimeoutAtOneInstant(t *testing.T) {
	options := map[activity.TimeoutType]activity.Options{
		activity.TimeoutHeartbeat:       {HeartbeatTimeout: time.Minute},
		activity.TimeoutStartToClose:    {StartToCloseTimeout: time.Minute},
		activity.TimeoutScheduleToClose: {ScheduleToCloseTimeout: time.Minute},
	}
	for typ, opts := range options {
		for _, by := range []string{"context", "handle"} {
			for _, first := range []string{"cancel", "timeout"} {
				t.Run(fmt.Sprint(typ, " ", by, " ", first, " first"), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						mock := clock.NewMock()
						rt := activity.New(activity.Config{Clock: mock, Logger: quiet})
						ctx, cancel := context.WithCancelCause(t.Context())
						defer cancel(nil)
						h := startWith(t, ctx, rt, opts, untilEnded)
						both := func() {
							if by == "handle" {
								h.Cancel(errCancel)
							} else {
								cancel(errCancel)
							}
						}
						mock.Add(time.Minute - 1)
						synctest.Wait()
						if first == "cancel" {
							both()
							mock.Add(1)
						} else {
							mock.Add(1)
							synctest.Wait()
							both()
						}
						err := wait(t, h)
						timedOut := timeoutType(err)
						if first == "cancel" && timedOut != 0 {
							t.Errorf("it was canceled before: %v", err)
						}
						if first == "timeout" && timedOut != typ && typ != activity.TimeoutHeartbeat {
							t.Errorf("it timed out before: %v", err)
						}
						if first == "timeout" && typ == activity.TimeoutScheduleToClose {
							checkEnd(t, err, 1, activity.RetryStateTimeout)
						} else {
							attempt := 1
							if first == "timeout" && typ == activity.TimeoutHeartbeat {
								attempt = 2 // which is what was canceled
							}
							checkEnd(t, err, attempt, activity.RetryStateCancelRequested, errCancel)
						}
					})
				})
			}
		}
	}
}

// Rule 17. Given a function that returns at the instant of a cancellation, then nil
// completes the activity in either order, and an error makes it canceled.
func TestCancel_AndReturnAtOneInstant(t *testing.T) {
	for _, result := range []error{nil, io.EOF} {
		for _, cancelFirst := range []bool{true, false} {
			t.Run(fmt.Sprint(result, cancelFirst), func(t *testing.T) {
				bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					release := make(chan struct{})
					h := startWith(t, ctx, rt, activity.Options{}, func(activity.Context) error { <-release; return result })
					time.Sleep(time.Second)
					if cancelFirst {
						cancel(errCancel)
						close(release)
					} else {
						close(release)
						synctest.Wait()
						cancel(errCancel)
					}
					out, err := h.Wait(context.Background())
					if result == nil {
						if err != nil || out != "done" {
							t.Errorf("got %q, %v; it has succeeded", out, err)
						}
						return
					}
					checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel, io.EOF)
				})
			})
		}
	}
}

// Rule 17. Given a context that has ended, when an activity is started with it, then
// nothing runs, no event is delivered, and the *Error has Attempt 0.
func TestCancel_ContextEndedBeforeStart(t *testing.T) {
	var j journal
	bubble(t, activity.Config{Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errCancel)
		expired, stop := context.WithTimeout(t.Context(), 0)
		defer stop()
		opts := activity.Options{ID: "it", Name: "job"}
		ran := func(activity.Context) error { t.Error("it runs"); return nil }
		call := func(ctx activity.Context, _ int) (int, error) { return 1, ran(ctx) }

		out, executed := activity.Execute(ctx, rt, opts, call, 0)
		h, started := activity.Start(ctx, rt, opts, call, 0)
		for _, err := range []error{rt.Run(ctx, opts, ran), executed, started} {
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, errCancel)
			var e *activity.Error
			if errors.As(err, &e) && (e.ID != "it" || e.Name != "job") {
				t.Errorf("%q, %q", e.ID, e.Name)
			}
		}
		checkEnd(t, rt.Run(expired, opts, ran), 0, activity.RetryStateCancelRequested, context.DeadlineExceeded)
		if out != 0 || h != nil || len(j.events) != 0 || rt.Stats() != (activity.Stats{}) {
			t.Errorf("out %d, handle %v, %d events, %+v", out, h, len(j.events), rt.Stats())
		}
		// The ID is free.
		if err := rt.Run(t.Context(), opts, noop); err != nil {
			t.Error(err)
		}
	})
}

// Rule 17. Given an activity that is canceled twice, in whatever order and by whomever,
// then the first cause counts.
func TestCancel_FirstCauseWins(t *testing.T) {
	for _, phase := range cancelPhases {
		if phase.state == activity.StateWaiting || phase.state == activity.StateBlocked {
			continue
		}
		for _, order := range []string{"handle, handle", "handle, context", "context, handle", "context, shutdown", "handle, shutdown"} {
			t.Run(phase.name+" "+order, func(t *testing.T) {
				bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					h := startWith(t, ctx, rt, phase.opts, func(ctx activity.Context) error { return phase.fn(ctx, nil) })
					time.Sleep(time.Second + 1)
					cause := errCancel
					for by := range strings.SplitSeq(order, ", ") {
						switch by {
						case "handle":
							h.Cancel(cause)
						case "context":
							cancel(cause)
						case "shutdown":
							_ = rt.Shutdown(t.Context())
						}
						cause = io.EOF
					}
					err := wait(t, h)
					checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
					if errors.Is(err, io.EOF) || errors.Is(err, activity.ErrShutdown) {
						t.Errorf("the second cause won: %v", err)
					}
				})
			})
		}
	}
}

// Rule 17. Given a completed activity, when its Handle is canceled, then its result and
// its state stay.
func TestCancel_AfterTheEndChangesNothing(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, noop)
		<-h.Done()
		h.Cancel(errCancel)
		if out, err := h.Wait(t.Context()); out != "done" || err != nil || h.Status().State != activity.StateCompleted {
			t.Errorf("got %q, %v, %s", out, err, h.Status().State)
		}
	})
}

// A cancelOwn is a context that is not the standard library's: it has a Done
// channel of its own.
type cancelOwn struct {
	context.Context
	done chan struct{}
}

func cancelNewOwn(ctx context.Context) *cancelOwn { return &cancelOwn{ctx, make(chan struct{})} }

func (c *cancelOwn) cancel()               { close(c.done) }
func (c *cancelOwn) Done() <-chan struct{} { return c.done }

func (c *cancelOwn) Err() error {
	select {
	case <-c.done:
		return errCancel
	default:
		return nil
	}
}

// Rule 17. Given a caller's context that is no standard one, when it ends in any phase,
// then the activity is canceled as with a standard one.
func TestCancel_ContextOfUserDefinedType(t *testing.T) {
	for _, phase := range cancelPhases {
		t.Run(phase.name, func(t *testing.T) {
			bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
				release := make(chan struct{})
				if phase.name == "waiting" {
					other := start(t, rt, activity.Options{}, untilEnded)
					defer func() { other.Cancel(nil); <-other.Done() }()
				}
				std, stop := context.WithCancel(t.Context()) // below it, and not canceled
				defer stop()
				own := cancelNewOwn(std)
				h := startWith(t, own, rt, phase.opts, func(ctx activity.Context) error { return phase.fn(ctx, release) })
				time.Sleep(time.Second + 1)
				at := time.Now()
				own.cancel()
				err := wait(t, h)
				checkEnd(t, err, phase.attempt, activity.RetryStateCancelRequested, errCancel)
				if d := time.Since(at); d != 0 {
					t.Errorf("the answer took %s", d)
				}
				checkEnd(t, rt.Run(own, activity.Options{}, untilEnded), 0, activity.RetryStateCancelRequested, errCancel)
				close(release)
			})
		})
	}
	// Nothing watches it once the activity has ended: else the bubble would not end.
	t.Run("never canceled", func(t *testing.T) {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			if err := rt.Run(cancelNewOwn(t.Context()), activity.Options{}, noop); err != nil {
				t.Error(err)
			}
		})
	})
}

// Rule 17. Given a function that sees the end of its caller's context before the Runtime
// does, when it returns, then the activity counts as canceled, unless it completed.
func TestCancel_FunctionLearnsOfItBeforeTheRuntime(t *testing.T) {
	for name, fn := range map[string]func() error{
		"fails":               func() error { return io.EOF },
		"wants to come back":  func() error { return activity.RetryAfter(io.EOF, 0) },
		"fails for good":      func() error { return activity.NonRetryable(io.EOF) },
		"panics":              func() error { panic(io.EOF) },
		"succeeds all anyway": func() error { return nil },
	} {
		for _, kind := range []string{"standard", "own"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				for range 20 {
					bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
						ctx, cancelStd := context.WithCancelCause(t.Context())
						defer cancelStd(nil)
						cancel := func() { cancelStd(errCancel) }
						if kind == "own" {
							own := cancelNewOwn(t.Context())
							ctx, cancel = own, own.cancel
						}
						err := rt.Run(ctx, activity.Options{}, func(ctx activity.Context) error {
							if ctx.Info().Attempt > 1 {
								return ctx.Sleep(time.Hour)
							}
							cancel()
							return fn()
						})
						if strings.HasPrefix(name, "succeeds") {
							if err != nil {
								t.Error(err)
							}
							return
						}
						checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel, io.EOF)
						if s := rt.Stats(); s.Attempts != 1 || s.Canceled != 1 {
							t.Errorf("%+v", s)
						}
					})
				}
			})
		}
	}
}

// Rule 18. Given a caller whose context has ended, when the Runtime has not been told
// yet, then no attempt starts. Each race runs a few times.
func TestCancel_NoAttemptStartsAfterIt(t *testing.T) {
	rounds := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				synctest.Test(t, f)
			}
		})
	}
	check := func(t *testing.T, h *activity.Handle[string], attempt int) {
		t.Helper()
		err := wait(t, h)
		checkEnd(t, err, attempt, activity.RetryStateCancelRequested, errCancel)
	}
	rounds("in Retryable", func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet})
		ctx, cancel := context.WithCancelCause(t.Context())
		opts := activity.Options{RetryPolicy: activity.RetryPolicy{Retryable: func(error) bool { cancel(errCancel); return true }}}
		check(t, startWith(t, ctx, rt, opts, func(activity.Context) error { return activity.RetryAfter(errBoom, 0) }), 1)
	})
	rounds("at the end of a backoff", func(t *testing.T) {
		mock := clock.NewMock()
		rt := activity.New(activity.Config{Logger: quiet, Clock: mock})
		ctx, cancel := context.WithCancelCause(t.Context())
		h := startWith(t, ctx, rt, activity.Options{}, func(activity.Context) error { return errBoom })
		synctest.Wait()
		cancel(errCancel)
		mock.Add(time.Second)
		check(t, h, 1)
	})
	rounds("when a slot gets free", func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet, MaxConcurrent: 1})
		ctx, cancel := context.WithCancelCause(t.Context())
		release := make(chan struct{})
		other := start(t, rt, activity.Options{}, func(activity.Context) error {
			<-release
			cancel(errCancel)
			return nil
		})
		h := startWith(t, ctx, rt, activity.Options{}, noop)
		close(release)
		<-other.Done()
		check(t, h, 0)
	})
	rounds("when a function that hangs returns", func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet})
		ctx, cancel := context.WithCancelCause(t.Context())
		release := make(chan struct{})
		opts := activity.Options{HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap}
		h := startWith(t, ctx, rt, opts, func(activity.Context) error {
			<-release
			cancel(errCancel)
			return nil
		})
		time.Sleep(time.Minute)
		if s := h.Status().State; s != activity.StateBlocked {
			t.Errorf("state is %s", s)
		}
		close(release)
		check(t, h, 1)
	})
}

// Rule 19. Given a context of a user-defined type, when a start with it is refused, then
// no goroutine is left that watches it.
func TestCancel_RefusedStartLeavesNoGoroutine(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		other := start(t, rt, activity.Options{ID: "a"}, untilEnded)
		synctest.Wait()
		before := bubbled(t)
		own := cancelNewOwn(t.Context())
		defer own.cancel()
		refused := func(want error) {
			t.Helper()
			for range 10 {
				checkErr(t, rt.Run(own, activity.Options{ID: "a"}, noop), want)
			}
			synctest.Wait()
			if n := goroutines(t, before); n > before {
				t.Errorf("%v: %d goroutines are left", want, n-before)
			}
		}
		refused(activity.ErrAlreadyRunning)
		other.Cancel(nil)
		checkErr(t, rt.Shutdown(t.Context()), nil)
		before = goroutines(t, before-1)
		refused(activity.ErrShutdown)
	})
}

// Rule 17. Given two cancellations that race, then one is the first, and it is the only
// cause that anybody sees.
func TestCancel_OneCauseOfTwoThatRace(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	rounds := 20_000
	if raceEnabled {
		rounds = 2_000
	}
	for i := range rounds {
		ctx, cancel := context.WithCancelCause(t.Context())
		h := startWith(t, ctx, rt, activity.Options{}, untilEnded)
		go cancel(errBoom)
		for range i % 5000 { // each time a little later
			_ = ctx.Err()
		}
		h.Cancel(errCancel)
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested)
		if errors.Is(err, errBoom) == errors.Is(err, errCancel) {
			t.Fatalf("%v wraps both causes, or none", err)
		}
	}
}

// Rule 17. Given an attempt that a timeout, its caller and a Handle end at once, then
// everything that reports the cause reports the same one.
func TestCancel_OneCauseForAllObservers(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		rt := activity.New(activity.Config{Logger: quiet})
		ctx, cancel := context.WithCancelCause(context.Background())
		begun := make(chan activity.Context, 1)
		h := startWith(t, ctx, rt, activity.Options{StartToCloseTimeout: time.Millisecond, RetryPolicy: once}, func(c activity.Context) error {
			begun <- c
			switch round % 3 {
			case 1:
				for c.Heartbeat() == nil {
					runtime.Gosched()
				}
			case 2:
				<-c.Done()
			}
			return nil
		})
		var c activity.Context
		select {
		case c = <-begun:
		case <-h.Done(): // on a machine so slow that the timeout came before the function
			cancel(nil)
			continue
		}
		var mu sync.Mutex
		seen := map[error]bool{}
		note := func(all ...error) {
			mu.Lock()
			defer mu.Unlock()
			for _, err := range all {
				seen[err] = true
			}
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { <-c.Done(); note(context.Cause(c), c.Heartbeat()) })
			wg.Go(func() {
				var err error
				for err == nil {
					runtime.Gosched()
					err = c.Heartbeat()
				}
				if c.Err() == nil {
					t.Error("a heartbeat knows of an end, and Err does not")
				}
				note(err, context.Cause(c))
			})
			wg.Go(func() {
				for c.Err() == nil {
					runtime.Gosched()
				}
				note(context.Cause(c), c.Sleep(time.Hour), activity.Guard(c, never))
			})
			wg.Go(func() { note(c.Sleep(time.Hour)) })
		}
		wg.Go(func() { cancel(errBoom) })
		wg.Go(func() { h.Cancel(errCancel) })
		wg.Go(func() { checkErr(t, rt.Shutdown(context.Background()), nil) })
		wg.Wait()
		if len(seen) != 1 {
			t.Fatalf("round %d: the causes are %v", round, seen)
		}
		_, _ = h.Wait(context.Background())
		cancel(nil)
	}
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
	// The error that f returns is its own, even if it is the cause. That of a body says that the loop
	// is not done.
	t.Run("f of Guard", func(t *testing.T) {
		checkTold(t, false, func(ctx activity.Context) {
			_ = activity.Guard(ctx, func() error { return untilEnded(ctx) })
		})
	})
	t.Run("body of Range", func(t *testing.T) {
		checkTold(t, true, func(ctx activity.Context) {
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
				return nil // finished anyway
			})
			time.Sleep(time.Minute)
			h.Cancel(errCancel)
			if err := wait(t, h); err != nil {
				t.Errorf("wrapped %v: %v, want success", wrapped, err)
			}
		})
	}
}
