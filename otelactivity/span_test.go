package otelactivity_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/trace"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given an activity that fails twice, when it is started within a span, then each attempt's span is
// below that span, and linked to the attempt before it.
func TestSpan_RetriesAreLinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		ctx, caller := w.span("caller")
		err := rt.Run(ctx, retries(3), func(ctx activity.Context) error {
			time.Sleep(time.Minute)
			if ctx.Info().Attempt < 3 {
				return errBoom
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		caller.End()
		w.wantSpans(
			`caller 0s-3m2s`,
			`activity job(a) #1 0s-1m0s failed *errors.errorString error "boom" below caller`,
			`activity job(a) #2 1m1s-2m1s failed *errors.errorString error "boom" below caller after activity job(a) #1`,
			`activity job(a) #3 2m2s-3m2s completed below caller after activity job(a) #2`,
		)
	})
}

// withBaggage returns ctx with baggage, and wantBaggage checks that ctx has it.
func withBaggage(t *testing.T, ctx context.Context) context.Context {
	t.Helper()
	member, err := baggage.NewMember("tenant", "7")
	if err != nil {
		t.Fatal(err)
	}
	b, err := baggage.New(member)
	if err != nil {
		t.Fatal(err)
	}
	return baggage.ContextWithBaggage(ctx, b)
}

func wantBaggage(t *testing.T, ctx context.Context) {
	t.Helper()
	if got := baggage.FromContext(ctx).Member("tenant").Value(); got != "7" {
		t.Errorf("baggage: got the tenant %q, want 7", got)
	}
}

// Given an activity whose caller's span was injected, when it is started with a context without
// that span, then its attempts are below the span nevertheless, and the caller's baggage is there.
func TestSpan_Injected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		ctx, caller := w.span("caller")
		opts := retries(1)
		w.Inject(withBaggage(t, ctx), &opts)
		caller.End()
		ctx, other := w.span("other")
		err := rt.Run(ctx, opts, func(ctx activity.Context) error {
			wantBaggage(t, ctx)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		other.End()
		w.wantSpans(
			`caller 0s-0s`,
			`other 0s-0s`,
			`activity job(a) #1 0s-0s completed below caller`,
		)
	})
}

// Given an activity whose Header has no trace context, when it runs, then its span is the root of a
// trace, or below the span in the context that it was started with.
func TestSpan_WithoutCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		opts := activity.Options{Name: "job", Header: map[string]string{"tenant": "7"}}
		w.Inject(context.Background(), &opts)
		if len(opts.Header) != 1 {
			t.Errorf("Header: got %v, want the tenant alone", opts.Header)
		}
		if err := rt.Run(context.Background(), opts, func(activity.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		ctx, caller := w.span("caller")
		if err := rt.Run(ctx, opts, func(activity.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		caller.End()
		w.wantSpans(
			`activity job(#1) #1 0s-0s completed`,
			`caller 0s-0s`,
			`activity job(#2) #1 0s-0s completed below caller`,
		)
	})
}

// process returns a Runtime of another process, which continues what store has.
func (w *world) process(name string, store activity.Store) *activity.Runtime {
	w.Instrumentation = w.instrumentation()
	w.SetProcess(name)
	return w.runtime(activity.Config{Store: store})
}

// Given a stored activity whose caller's span was injected, when the process is killed, then the
// attempts in the next process begin traces of their own, which are linked to the caller's span,
// and to the span of the context of Recover, and the second one to the first.
func TestSpan_RestartIsLinked(t *testing.T) {
	for _, boot := range []bool{false, true} {
		t.Run(fmt.Sprintf("boot=%t", boot), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				store := &storetest.Memory{}
				rt := w.runtime(activity.Config{Store: store})
				job := activity.Definition[int, int]{Name: "job", Options: activity.Options{RetryPolicy: retries(5).RetryPolicy}}
				job.Func = func(ctx activity.Context, _ int) (int, error) { return 0, ctx.Sleep(time.Hour) }
				ctx, caller := w.span("caller")
				started := job
				w.Inject(withBaggage(t, ctx), &started.Options)
				if _, err := started.Start(ctx, rt, "a", 7); err != nil {
					t.Fatal(err)
				}
				clone := store.Clone()
				if err := rt.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
				caller.End()
				time.Sleep(time.Minute)

				rt = w.process("next", clone)
				job.Func = func(ctx activity.Context, _ int) (int, error) {
					wantBaggage(t, ctx)
					if ctx.Info().Attempt == 2 {
						return 0, errBoom
					}
					return 0, nil
				}
				ctx, also := context.Background(), ""
				if boot {
					var span trace.Span
					ctx, span = w.span("boot")
					span.End()
					also = " after boot"
				}
				if n, err := rt.Recover(ctx, &job); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				h, ok := job.Handle(rt, "a")
				if !ok {
					t.Fatal("a does not run")
				}
				if _, err := h.Wait(context.Background()); err != nil {
					t.Fatal(err)
				}
				want := []string{
					`caller 0s-0s`,
					`activity job(a) #1 0s-0s canceled below caller`,
				}
				if boot {
					want = append(want, `boot 1m0s-1m0s`)
				}
				w.wantSpans(append(want,
					`activity job(a) #2 1m0s-1m0s failed *errors.errorString error "boom" after caller`+also,
					`activity job(a) #3 1m1s-1m1s completed after caller`+also+` after activity job(a) #2`)...)
				w.wantMetrics("activity.execution.duration",
					`activity.execution.duration name=job outcome=canceled: 1 in 0 s`,
					`activity.execution.duration name=job outcome=completed: 1 in 61 s`)
			})
		})
	}
}

// Given a stored activity that was interrupted, when the next process starts its ID with the span
// of a new caller, then its attempts are below that span.
func TestSpan_RestartByNewCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &storetest.Memory{}
		rt := w.runtime(activity.Config{Store: store})
		ctx, caller := w.span("caller")
		opts := retries(1)
		w.Inject(ctx, &opts)
		if _, err := rt.Start(ctx, opts, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) }); err != nil {
			t.Fatal(err)
		}
		if err := rt.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		caller.End()
		rt = w.process("next", store)
		ctx, caller = w.span("new caller")
		w.Inject(ctx, &opts)
		if err := rt.Run(context.Background(), opts, func(activity.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		caller.End()
		w.wantSpans(
			`caller 0s-0s`,
			`activity job(a) #1 0s-0s canceled below caller`,
			`new caller 0s-0s`,
			`activity job(a) #1 0s-0s completed below new caller`,
		)
	})
}

//go:noinline
func hang(d time.Duration) { time.Sleep(d) }

// Given a function that stalls, when its attempt times out, then its span ends at that instant,
// with the stack as an event, and the next attempt's span begins. When the function returns later,
// then nothing is added.
func TestSpan_FencedEndsAtTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		opts := retries(0)
		opts.HeartbeatTimeout = 10 * time.Second
		err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Sleep(5 * time.Second); err != nil {
					return err
				}
				if err := ctx.Heartbeat(1); err != nil {
					return err
				}
				hang(time.Hour)
				trace.SpanFromContext(ctx).AddEvent("late")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			`activity job(a) #1 0s-15s timeout heartbeat_timeout error "activity \"a\" (job): heartbeat timeout: attempt 1 had no heartbeat for 10s; the last heartbeat details are kept" exception at 15s`,
			`activity job(a) #2 15s-15s completed after activity job(a) #1`,
		}
		w.wantSpans(want...)
		metrics := []string{
			`activity.attempt.duration name=job outcome=completed: 1 in 0 s`,
			`activity.attempt.duration name=job outcome=timeout: 1 in 15 s`,
		}
		w.wantMetrics("activity.attempt", metrics...)
		w.wantMetrics("activity.abandoned", `activity.abandoned: 1 {function}`)
		event := w.recorder.Ended()[0].Events()[0]
		for _, a := range event.Attributes {
			switch value := a.Value.AsString(); a.Key {
			case "exception.type":
				if value != "*activity.TimeoutError" {
					t.Errorf("exception.type: got %s", value)
				}
			case "exception.stacktrace":
				if !strings.Contains(value, "otelactivity_test.hang(") {
					t.Errorf("the stack does not say where the function hangs:\n%s", value)
				}
			}
		}
		if len(event.Attributes) != 3 {
			t.Errorf("the event has the attributes %v", event.Attributes)
		}
		time.Sleep(2 * time.Hour)
		w.wantSpans(want...)
		w.wantMetrics("activity.attempt", metrics...)
		w.wantMetrics("activity.abandoned", `activity.abandoned: 0 {function}`)
	})
}

// Given a function that starts an activity and a span with its own context, when they run, then
// both are below the span of the attempt.
func TestSpan_Nested(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		err := rt.Run(context.Background(), retries(1), func(ctx activity.Context) error {
			_, step := w.traces.Tracer("test").Start(ctx, "step")
			step.End()
			opts := activity.Options{ID: "b", Name: "inner"}
			w.Inject(ctx, &opts)
			return rt.Run(ctx, opts, func(activity.Context) error { return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		w.wantSpans(
			`activity job(a) #1 0s-0s completed`,
			`step 0s-0s below activity job(a) #1`,
			`activity inner(b) #1 0s-0s completed below activity job(a) #1`,
		)
	})
}

// Given a RangeParallel, when its bodies run, then their contexts carry the span. So does what
// FromContext returns for a derived context.
func TestSpan_EveryContextHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		err := rt.Run(context.Background(), retries(1), func(ctx activity.Context) error {
			want := trace.SpanFromContext(ctx)
			if !want.SpanContext().IsValid() {
				t.Error("the function's context has no span")
			}
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			if c, ok := activity.FromContext(derived); !ok || trace.SpanFromContext(c) != want {
				t.Error("what FromContext returns has another span")
			}
			return activity.RangeParallel(ctx, 0, 4, 2, func(ctx activity.Context, _ int) error {
				if trace.SpanFromContext(ctx) != want {
					t.Error("the context of a body has another span")
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		w.wantSpans(`activity job(a) #1 0s-0s completed`)
	})
}

// Given each way in which an attempt can end, when it does, then its span and the metrics have the
// outcome, and only failures and timeouts are errors.
func TestSpan_Outcomes(t *testing.T) {
	stop := errors.New("the user left")
	after := func(d time.Duration, f func(rt *activity.Runtime) error) func(*activity.Runtime) error {
		return func(rt *activity.Runtime) error {
			time.Sleep(d)
			return f(rt)
		}
	}
	cancelIt := after(time.Second, func(rt *activity.Runtime) error { return rt.Cancel("a", stop) })
	pauseIt := after(time.Second, func(rt *activity.Runtime) error { return rt.Pause("a") })
	sleep := func(ctx activity.Context) error { return ctx.Sleep(time.Hour) }
	deaf := func(activity.Context) error { time.Sleep(time.Hour); return errBoom }
	for _, test := range []struct {
		name     string
		function func(activity.Context) error
		act      func(*activity.Runtime) error // beside the function
		change   func(*activity.Options)
		want     string // what follows the label of the span
		metrics  []string
	}{
		{name: "completed", function: func(activity.Context) error { return nil }, want: `0s-0s completed`},
		{name: "error", function: func(activity.Context) error { return &myError{} }, want: `0s-0s failed *otelactivity_test.myError error "mine"`},
		{name: "wrapped", function: func(activity.Context) error { return activity.NonRetryable(fmt.Errorf("step 7: %w", &myError{})) }, want: `0s-0s failed *otelactivity_test.myError error "step 7: mine"`},
		{name: "retry after", function: func(activity.Context) error { return activity.RetryAfter(&myError{}, time.Minute) }, want: `0s-0s failed *otelactivity_test.myError error "mine"`},
		{name: "nil pointer", function: func(activity.Context) error { var e *nilError; return e }, want: `0s-0s failed *otelactivity_test.nilError error "(the Error method of *otelactivity_test.nilError panicked)"`},
		{name: "nil timeout", function: func(activity.Context) error { var e *activity.TimeoutError; return e }, want: `0s-0s failed *activity.TimeoutError error "(the Error method of *activity.TimeoutError panicked)"`},
		{name: "nil panic", function: func(activity.Context) error { var e *activity.PanicError; return e }, want: `0s-0s failed panic error "(the Error method of *activity.PanicError panicked)"`},
		{name: "nil error of an activity", function: func(activity.Context) error { var e *activity.Error; return e }, want: `0s-0s failed *activity.Error error "(the Error method of *activity.Error panicked)"`},
		{name: "timeout of another", function: func(activity.Context) error {
			return &activity.TimeoutError{ID: "b", Attempt: 1, Type: activity.TimeoutHeartbeat}
		}, want: `0s-0s failed heartbeat_timeout error "activity \"b\" (): heartbeat timeout: attempt 1 had no heartbeat for 0s; no heartbeat details were recorded"`},
		{name: "panic", function: func(activity.Context) error { panic("oh") }, want: `0s-0s failed panic error "panic: oh" exception at 0s`},
		{name: "goexit", function: func(activity.Context) error { runtime.Goexit(); return nil }, want: `0s-0s failed goexit error "the function called runtime.Goexit"`},
		{name: "cannot resume", function: func(activity.Context) error { return fmt.Errorf("%w: old", activity.ErrCannotResume) }, want: `0s-0s failed cannot_resume error "cannot resume from the recorded heartbeat details: old"`},
		{name: "start to close", function: deaf, change: func(o *activity.Options) { o.StartToCloseTimeout = time.Second }, want: `0s-1s timeout start_to_close_timeout error "activity \"a\" (job): start-to-close timeout: attempt 1 was not done within 1s; no heartbeat details were recorded" exception at 1s`},
		{name: "schedule to close", function: deaf, change: func(o *activity.Options) { o.ScheduleToCloseTimeout = time.Second }, want: `0s-1s timeout schedule_to_close_timeout error "activity \"a\" (job): schedule-to-close timeout: not done 1s after it was scheduled, in attempt 1; no heartbeat details were recorded" exception at 1s`},
		{name: "canceled", function: sleep, act: cancelIt, want: `0s-1s canceled`},
		{name: "canceled, but completed", function: func(ctx activity.Context) error { <-ctx.Done(); return nil }, act: cancelIt, want: `0s-1s completed`},
		{name: "canceled and deaf", function: deaf, act: cancelIt, want: `0s-11s canceled`},
		{name: "shut down", function: sleep, act: after(time.Second, func(rt *activity.Runtime) error { return rt.Shutdown(context.Background()) }), want: `0s-1s canceled`},
		{name: "drained", function: sleep, act: after(time.Second, func(rt *activity.Runtime) error { return rt.Drain(context.Background()) }), want: `0s-1s canceled`},
		{name: "paused", function: sleep, act: pauseIt, want: `0s-1s paused`},
		{name: "paused and failed", function: func(ctx activity.Context) error { <-ctx.Done(); return errBoom }, act: pauseIt, want: `0s-1s paused`},
		{name: "paused and deaf", function: deaf, act: pauseIt, want: `0s-11s paused`},
		{name: "paused and late", function: deaf, act: pauseIt, change: func(o *activity.Options) { o.ScheduleToCloseTimeout = 5 * time.Second }, want: `0s-5s timeout schedule_to_close_timeout error "activity \"a\" (job): schedule-to-close timeout: not done 5s after it was scheduled, in attempt 1; no heartbeat details were recorded" exception at 5s`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				rt := w.runtime(activity.Config{})
				opts := retries(1)
				if test.change != nil {
					test.change(&opts)
				}
				h, err := rt.Start(context.Background(), opts, test.function)
				if err != nil {
					t.Fatal(err)
				}
				if test.act != nil {
					if err := test.act(rt); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				time.Sleep(20 * time.Second)
				w.wantSpans(`activity job(a) #1 ` + test.want)
				took, outcome, _ := strings.Cut(test.want, " ")
				outcome, _, _ = strings.Cut(outcome, " ")
				d, err := time.ParseDuration(strings.TrimPrefix(took, "0s-"))
				if err != nil {
					t.Fatal(err)
				}
				w.wantMetrics("activity.attempt", fmt.Sprintf(`activity.attempt.duration name=job outcome=%s: 1 in %g s`, outcome, d.Seconds()))
				if outcome != "paused" {
					_, _ = h.Wait(context.Background())
					w.wantMetrics("activity.execution", fmt.Sprintf(`activity.execution.duration name=job outcome=%s: 1 in %g s`, outcome, d.Seconds()))
				}
				wantTimeouts := uint64(0)
				if outcome == "timeout" {
					wantTimeouts = 1
				}
				if got := rt.Stats().Timeouts; got != wantTimeouts || len(w.collected("activity.timeouts")) != int(wantTimeouts) {
					t.Errorf("timeouts: Stats has %d, the metric %v, want %d", got, w.collected("activity.timeouts"), wantTimeouts)
				}
				if err := rt.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour) // for the deaf
			})
		})
	}
}

type myError struct{}

func (*myError) Error() string { return "mine" }

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

// Given an attempt that is paused, when the activity is unpaused, then the next attempt, which has
// the same number, has a span of its own, linked to that of the one before.
func TestSpan_PausedAndUnpaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		h, err := rt.Start(context.Background(), retries(1), func(ctx activity.Context) error { return ctx.Sleep(time.Minute) })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := rt.Pause("a"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := rt.Unpause("a"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.wantSpans(
			`activity job(a) #1 0s-1s paused`,
			`activity job(a) #1 2s-1m2s completed after activity job(a) #1`,
		)
	})
}

// Given an ID that is used for one execution after another, when the second one runs, then it is
// not linked to the first.
func TestSpan_NextExecutionIsNotLinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		for range 2 {
			if err := rt.Run(context.Background(), retries(1), func(activity.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		w.wantSpans(
			`activity job(a) #1 0s-0s completed`,
			`activity job(a) #1 0s-0s completed`,
		)
	})
}

// Given a Mock clock, when an attempt ends, then its span has the times of that clock.
func TestSpan_MockClock(t *testing.T) {
	w := newWorld(t)
	mock := clock.NewMock()
	w.begin = mock.Now()
	rt := w.runtime(activity.Config{Clock: mock})
	err := rt.Run(context.Background(), retries(1), func(activity.Context) error {
		mock.Add(time.Hour)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.wantSpans(`activity job(a) #1 0s-1h0m0s completed`)
	w.wantMetrics("activity.attempt", `activity.attempt.duration name=job outcome=completed: 1 in 3600 s`)
}
