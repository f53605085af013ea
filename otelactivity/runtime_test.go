package otelactivity_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/otelactivity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Given Options with the Header of an earlier Inject, when the next caller injects, then its
// context replaces the earlier one, other values stay, and the caller's map is not changed.
func TestInject_Replaces(t *testing.T) {
	w := newWorld(t)
	given := map[string]string{"tenant": "7"}
	opts := activity.Options{Header: given}
	ctx, span := w.span("caller")
	defer span.End()
	w.Inject(ctx, &opts)
	keys := slices.Sorted(maps.Keys(opts.Header))
	if want := []string{"otelactivity-process", "tenant", "traceparent"}; !slices.Equal(keys, want) {
		t.Errorf("after the first Inject: got the keys %v, want %v", keys, want)
	}
	if len(given) != 1 {
		t.Errorf("the caller's map was changed: %v", given)
	}
	w.Inject(context.Background(), &opts)
	if !maps.Equal(opts.Header, given) {
		t.Errorf("after an Inject without a span: got %v, want %v", opts.Header, given)
	}
}

// Given an Interceptor of the user's, when an attempt runs, then the Interceptor's Context carries
// the span, and the function gets the Context that the Interceptor passes on.
func TestRuntime_Interceptor(t *testing.T) {
	type wrapper struct{ activity.Context }
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			trace.SpanFromContext(ctx).SetName("renamed")
			return next(wrapper{ctx})
		}})
		err := rt.Run(context.Background(), retries(1), func(ctx activity.Context) error {
			if _, ok := ctx.(wrapper); !ok {
				t.Errorf("the function got a %T", ctx)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		w.wantSpans(`renamed(a) #1 0s-0s completed`)
	})
}

// Given a Context with a span, when the function uses what only the Runtime's own Context can do,
// then that works: a drain asks the function, but not a context that outlives the attempt.
func TestRuntime_EngineIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		h, err := rt.Start(context.Background(), retries(1), func(ctx activity.Context) error {
			outlives, ok := activity.FromContext(context.WithoutCancel(ctx))
			if !ok {
				t.Error("no Context")
			}
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			c, _ := activity.FromContext(derived)
			if err := c.Sleep(time.Hour); !errors.Is(err, activity.ErrShutdown) {
				t.Errorf("Sleep: got %v, want ErrShutdown", err)
			}
			if err := outlives.Sleep(time.Minute); err != nil {
				t.Errorf("Sleep without cancel: %v", err)
			}
			return activity.Guard(ctx, func() error { return nil })
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := rt.Drain(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Wait(context.Background()); !errors.Is(err, activity.ErrShutdown) {
			t.Errorf("got %v, want ErrShutdown", err)
		}
		w.wantSpans(`activity job(a) #1 0s-1m1s canceled`)
	})
}

// A lateSampler takes its time for the first attempt, so that the attempt may be over when its span
// begins.
type lateSampler struct{ sdktrace.Sampler }

func (s lateSampler) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	for _, a := range p.Attributes {
		if a.Key == "activity.attempt" && a.Value.AsInt64() == 1 {
			time.Sleep(5 * time.Second)
		}
	}
	return s.Sampler.ShouldSample(p)
}

// Given an attempt that is over, or canceled, before its span has begun, when its function returns
// or is not called, then its span ends, and the attempt is counted once.
func TestRuntime_LateInterceptor(t *testing.T) {
	for _, test := range []struct {
		name     string
		change   func(*activity.Options)
		act      func(*activity.Runtime) error
		function func(activity.Context) error
		spans    []string
		metrics  []string
	}{
		{
			name:     "timed out",
			change:   func(o *activity.Options) { o.HeartbeatTimeout = time.Second; o.RetryPolicy.MaximumAttempts = 2 },
			function: func(ctx activity.Context) error { return activity.Idle(ctx, 10*time.Second) },
			spans: []string{
				`activity job(a) #2 1s-11s completed`,
				`activity job(a) #1 0s-5s timeout heartbeat_timeout error "activity \"a\" (job): heartbeat timeout: attempt 1 had no heartbeat for 1s; no heartbeat details were recorded" exception at 5s`,
			},
			metrics: []string{
				`activity.attempt.duration name=job outcome=completed: 1 in 10 s`,
				`activity.attempt.duration name=job outcome=timeout: 1 in 1 s`,
			},
		},
		{
			name:    "canceled and abandoned",
			change:  func(o *activity.Options) { o.CancelGrace = time.Second },
			act:     func(rt *activity.Runtime) error { return rt.Cancel("a", errBoom) },
			spans:   []string{`activity job(a) #1 0s-5s canceled`},
			metrics: []string{`activity.attempt.duration name=job outcome=canceled: 1 in 1 s`},
		},
		{
			name:    "paused and abandoned",
			change:  func(o *activity.Options) { o.CancelGrace = time.Second },
			act:     func(rt *activity.Runtime) error { return rt.Pause("a") },
			spans:   []string{`activity job(a) #1 0s-5s paused`},
			metrics: []string{`activity.attempt.duration name=job outcome=paused: 1 in 1 s`},
		},
		{
			name:     "canceled",
			act:      func(rt *activity.Runtime) error { return rt.Cancel("a", errBoom) },
			function: func(ctx activity.Context) error { _ = ctx.Sleep(time.Second); return nil }, // Sleep has told it
			spans:    []string{`activity job(a) #1 0s-5s canceled`},
			metrics:  []string{`activity.attempt.duration name=job outcome=canceled: 1 in 5 s`},
		},
		{
			name:    "canceled, but completed",
			act:     func(rt *activity.Runtime) error { return rt.Cancel("a", errBoom) },
			spans:   []string{`activity job(a) #1 0s-5s completed`},
			metrics: []string{`activity.attempt.duration name=job outcome=completed: 1 in 5 s`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, sdktrace.WithSampler(lateSampler{sdktrace.AlwaysSample()}))
				rt, left := w.NewRuntimeLeft(activity.Config{Logger: quiet})
				opts := retries(1)
				if test.change != nil {
					test.change(&opts)
				}
				if test.function == nil {
					test.function = func(activity.Context) error { return nil }
				}
				if _, err := rt.Start(context.Background(), opts, test.function); err != nil {
					t.Fatal(err)
				}
				if test.act != nil {
					if err := test.act(rt); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				w.wantSpans(test.spans...)
				w.wantMetrics("activity.attempt", test.metrics...)
				if err := rt.Shutdown(context.Background()); err != nil {
					t.Fatal(err)
				}
				if n := left(); n != 0 {
					t.Errorf("%d IDs are still known", n)
				}
			})
		})
	}
}

// Given a Runtime whose attempt runs, when it is stopped, then the attempt's span ends, its gauges
// are gone, and later attempts run without a span.
func TestRuntime_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt, stop := w.NewRuntime(activity.Config{Logger: quiet})
		h, err := rt.Start(context.Background(), retries(2), func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				if trace.SpanFromContext(ctx).SpanContext().IsValid() {
					t.Error("the second attempt has a span")
				}
				return nil
			}
			if err := ctx.Sleep(time.Minute); err != nil {
				return err
			}
			return errBoom
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stop()
		stop()
		if _, err := h.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.wantSpans(`activity job(a) #1 0s-1s`)
		w.wantMetrics("activity.")
	})
}

// Given an attempt whose span is about to begin, when the Runtime is stopped, then the span ends.
func TestRuntime_StopBeforeSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sdktrace.WithSampler(lateSampler{sdktrace.AlwaysSample()}))
		rt, stop := w.NewRuntime(activity.Config{})
		h, err := rt.Start(context.Background(), retries(1), func(activity.Context) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stop()
		if _, err := h.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.wantSpans(`activity job(a) #1 0s-5s`)
	})
}

// Given an Observer that delays the last event of an execution, when the next execution of the ID
// begins meanwhile, then each span ends with its own execution, and they are not linked. So it is
// if the first function was not called, because its attempt was over before its span began.
func TestRuntime_NextExecutionBeforeLastEvent(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late=%t", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sampler, first := sdktrace.AlwaysSample(), `activity job(a) #1 0s-1s canceled`
				if late {
					sampler = lateSampler{sampler}
				}
				w := newWorld(t, sdktrace.WithSampler(sampler))
				delayed := false
				rt, left := w.NewRuntimeLeft(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
					if e.Kind == activity.EventCanceled && !delayed {
						delayed = true
						time.Sleep(20 * time.Second)
					}
				}})
				opts := retries(1)
				opts.CancelGrace = time.Second
				start := func() *activity.Handle[struct{}] {
					h, err := rt.Start(context.Background(), opts, func(activity.Context) error { time.Sleep(time.Minute); return nil })
					if err != nil {
						t.Fatal(err)
					}
					return h
				}
				start().Cancel(errBoom) // abandoned after a second
				time.Sleep(2 * time.Second)
				if _, err := start().Wait(context.Background()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				second := `activity job(a) #1 2s-1m2s completed`
				if late {
					first, second = `activity job(a) #1 0s-5s canceled`, `activity job(a) #1 2s-1m7s completed`
				}
				w.wantSpans(first, second)
				if n := left(); n != 0 {
					t.Errorf("%d IDs are still known", n)
				}
			})
		})
	}
}

// Given an Observer that delays all events, when a function returns after its attempt has timed
// out, but before that is observed, then its span ends at the timeout nevertheless.
func TestRuntime_ReturnBeforeTimeoutIsObserved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{Observer: func(e activity.Event) {
			if e.Kind == activity.EventScheduled {
				time.Sleep(time.Minute)
			}
		}})
		opts := retries(1)
		opts.StartToCloseTimeout = time.Second
		_ = rt.Run(context.Background(), opts, func(activity.Context) error { time.Sleep(5 * time.Second); return nil })
		w.wantMetrics("activity.attempt", `activity.attempt.duration name=job outcome=timeout: 1 in 1 s`)
		if got := w.recorder.Ended()[0].EndTime().Sub(w.begin); got != time.Second {
			t.Errorf("the span has ended at %s, want 1s", got)
		}
	})
}

// Given a function that returns the timeout of the attempt before, when it does, then that is a
// failure, and no second timeout is counted.
func TestMetrics_TimeoutReturnedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{})
		opts := retries(2)
		opts.HeartbeatTimeout = time.Second
		_ = rt.Run(context.Background(), opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				return ctx.Info().LastFailure
			}
			<-ctx.Done()
			return nil
		})
		w.wantMetrics("activity.timeouts", `activity.timeouts name=job type=heartbeat: 1 {timeout}`)
		w.wantMetrics("activity.attempt",
			`activity.attempt.duration name=job outcome=failed: 1 in 0 s`,
			`activity.attempt.duration name=job outcome=timeout: 1 in 1 s`)
	})
}

// Given an attempt with a span, when its duration is measured, then the exemplar is that span.
func TestMetrics_Exemplar(t *testing.T) {
	w := newWorld(t)
	rt := w.runtime(activity.Config{})
	if err := rt.Run(context.Background(), retries(1), func(activity.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	var all metricdata.ResourceMetrics
	if err := w.reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	want := w.recorder.Ended()[0].SpanContext().SpanID()
	for _, m := range all.ScopeMetrics[0].Metrics {
		if m.Name != "activity.attempt.duration" {
			continue
		}
		exemplars := m.Data.(metricdata.Histogram[float64]).DataPoints[0].Exemplars
		if len(exemplars) != 1 || !slices.Equal(exemplars[0].SpanID, want[:]) {
			t.Errorf("got the exemplars %v, want the span %s", exemplars, want)
		}
		return
	}
	t.Error("no duration was measured")
}

// Given more names than an SDK keeps apart, when activities with these names have ended, then the
// cache has not grown without limit.
func TestMetrics_ManyNames(t *testing.T) {
	w := newWorld(t)
	rt := w.runtime(activity.Config{})
	for i := range otelactivity.MaxOptions + 10 {
		if err := rt.Run(context.Background(), activity.Options{Name: strconv.Itoa(i)}, func(activity.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if got, want := w.CachedOptions(), i%otelactivity.MaxOptions+1; got != want {
			t.Fatalf("%d names: the cache has %d, want %d", i+1, got, want)
		}
	}
}

// Given activities in every state, when metrics are collected, then the gauges and counters of all
// Runtimes of the Instrumentation are added up.
func TestMetrics_Gauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var runtimes []*activity.Runtime
		for range 2 {
			rt := w.runtime(activity.Config{MaxConcurrent: 2})
			runtimes = append(runtimes, rt)
			start := func(id string, opts activity.Options, function func(activity.Context) error) {
				t.Helper()
				opts.ID, opts.Name = id, "job"
				if _, err := rt.Start(context.Background(), opts, function); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			hour := func(ctx activity.Context) error { return ctx.Sleep(time.Hour) }
			start("backing off", activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(activity.Context) error { return errBoom })
			start("paused", activity.Options{}, hour)
			if err := rt.Pause("paused"); err != nil {
				t.Fatal(err)
			}
			start("blocked", activity.Options{MaxAbandoned: activity.NoOverlap, HeartbeatTimeout: time.Second}, func(activity.Context) error { time.Sleep(time.Hour); return nil })
			time.Sleep(2 * time.Second)
			start("running", activity.Options{}, func(ctx activity.Context) error {
				for range 5 {
					if err := ctx.Heartbeat(); err != nil {
						return err
					}
				}
				return ctx.Sleep(time.Hour)
			})
			start("running too", activity.Options{}, hour)
			start("waiting", activity.Options{}, hour)
		}
		w.wantMetrics("activity.active",
			`activity.active state=backing_off: 2 {activity}`,
			`activity.active state=blocked: 2 {activity}`,
			`activity.active state=paused: 2 {activity}`,
			`activity.active state=running: 4 {activity}`,
			`activity.active state=waiting: 2 {activity}`)
		w.wantMetrics("activity.abandoned", `activity.abandoned: 2 {function}`)
		w.wantMetrics("activity.heartbeats", `activity.heartbeats: 10 {heartbeat}`)
		w.wantMetrics("activity.timeouts", `activity.timeouts name=job type=heartbeat: 2 {timeout}`)
		for _, rt := range runtimes {
			if err := rt.Shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Hour)
	})
}

// Given activities that time out while they wait, when they end, then each timeout is counted once,
// and no attempt is.
func TestMetrics_TimeoutsWithoutAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{MaxConcurrent: 1})
		if _, err := rt.Start(context.Background(), activity.Options{Name: "first"}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		// The attempts of the third one time out twice, and then the backoff does.
		for _, opts := range []activity.Options{
			{Name: "no slot", ScheduleToStartTimeout: time.Second},
			{Name: "no slot in all", ScheduleToCloseTimeout: time.Second},
			{Name: "backoff", StartToCloseTimeout: time.Second, ScheduleToCloseTimeout: 65 * time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: 2 * time.Second}},
		} {
			_ = rt.Run(context.Background(), opts, func(ctx activity.Context) error { <-ctx.Done(); return nil })
		}
		w.wantMetrics("activity.timeouts",
			`activity.timeouts name=backoff type=start_to_close: 2 {timeout}`,
			`activity.timeouts name=no slot in all type=schedule_to_close: 1 {timeout}`,
			`activity.timeouts name=no slot type=schedule_to_start: 1 {timeout}`)
		w.wantMetrics("activity.attempt",
			`activity.attempt.duration name=backoff outcome=timeout: 2 in 2 s`,
			`activity.attempt.duration name=first outcome=completed: 1 in 60 s`)
		w.wantMetrics("activity.execution",
			`activity.execution.duration name=backoff outcome=timeout: 1 in 62 s`,
			`activity.execution.duration name=first outcome=completed: 1 in 60 s`,
			`activity.execution.duration name=no slot in all outcome=timeout: 1 in 1 s`,
			`activity.execution.duration name=no slot outcome=timeout: 1 in 1 s`)
		if got := rt.Stats().Timeouts; got != 4 {
			t.Errorf("Stats has %d timeouts", got)
		}
	})
}

// A slowStore takes a second for a Save and an hour for a Delete, whose first call fails.
type slowStore struct {
	storetest.Memory
	deletes int
}

func (s *slowStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	time.Sleep(time.Second)
	return s.Memory.Save(ctx, batch)
}

func (s *slowStore) Delete(ctx context.Context, ids []string) error {
	time.Sleep(time.Hour)
	if s.deletes++; s.deletes == 1 {
		return &myError{}
	}
	return s.Memory.Delete(ctx, ids)
}

// Given a Store that is slow, when a stored activity completes, then the calls of the Store are
// measured, and the attempt's duration has none of them, but the execution's has all.
func TestMetrics_Store(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt := w.runtime(activity.Config{Store: &slowStore{}, StoreTimeout: 2 * time.Hour})
		if err := rt.Run(context.Background(), retries(1), func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		w.wantMetrics("activity.store",
			`activity.store.save.duration operation=delete type=*otelactivity_test.myError: 1 in 3600 s`,
			`activity.store.save.duration operation=delete: 1 in 3600 s`,
			`activity.store.save.duration operation=save: 1 in 1 s`,
			`activity.store.save.failures: 1 {call}`)
		w.wantMetrics("activity.attempt", `activity.attempt.duration name=job outcome=completed: 1 in 60 s`)
		w.wantMetrics("activity.execution", `activity.execution.duration name=job outcome=completed: 1 in 7261.1 s`)
		w.wantSpans(`activity job(a) #1 1s-1m1s completed`)
	})
}

type losingStore struct{ storetest.Memory }

var lostChannel = make(chan struct{})

func (*losingStore) Lost() <-chan struct{} { return lostChannel }

// Given a Store with the method Lost, when it is measured, then the Runtime finds Lost. Given a
// Store without it, then the Runtime finds none.
func TestStore_Lost(t *testing.T) {
	w := newWorld(t)
	l, ok := w.Measured(&losingStore{}).(interface{ Lost() <-chan struct{} })
	if !ok || l.Lost() != lostChannel {
		t.Error("Lost is hidden")
	}
	if _, ok := w.Measured(&storetest.Memory{}).(interface{ Lost() <-chan struct{} }); ok {
		t.Error("Lost was added")
	}
}

func TestStore_PassesTheSuite(t *testing.T) {
	w := newWorld(t)
	storetest.Run(t, func(*testing.T) (activity.Store, func() activity.Store) {
		m := &storetest.Memory{}
		open := func() activity.Store { return w.Measured(m) }
		return open(), open
	})
}

// Given activities that end in every way, side by side, when the Runtime is shut down, then every
// span has ended, and the metrics agree with Stats.
func TestRuntime_Crowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		rt, left := w.NewRuntimeLeft(activity.Config{Logger: quiet, Store: &storetest.Memory{}, MaxConcurrent: 16})
		var wg sync.WaitGroup
		for g := range 32 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(g), 0))
				for range 20 {
					opts := retries(3)
					// Goroutines share IDs, so that one starts an ID as soon as another's activity has ended.
					opts.ID = strconv.Itoa(random.IntN(8))
					opts.HeartbeatTimeout = 10 * time.Second
					opts.CancelGrace = time.Second
					if random.IntN(2) == 0 {
						opts.ID = ""
					}
					seed := random.Uint64()
					h, err := rt.Start(context.Background(), opts, func(ctx activity.Context) error {
						random := rand.New(rand.NewPCG(seed, uint64(ctx.Info().Attempt)))
						switch random.IntN(5) {
						case 0:
							return errBoom
						case 1:
							panic("oh")
						case 2:
							time.Sleep(time.Duration(random.IntN(40)) * time.Second)
						case 3:
							return ctx.Sleep(time.Duration(random.IntN(5)) * time.Second)
						}
						return nil
					})
					if err != nil {
						time.Sleep(time.Duration(random.IntN(3)) * time.Second)
						continue
					}
					switch random.IntN(4) {
					case 0:
						h.Cancel(errBoom)
					case 1:
						_ = rt.Pause(h.ID())
						time.Sleep(time.Second)
						_ = rt.Unpause(h.ID())
					}
					if random.IntN(2) == 0 {
						_, _ = h.Wait(context.Background())
					}
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second)
		if err := rt.Shutdown(context.Background()); err != nil {
			t.Fatal(err)
		}
		s := rt.Stats()
		if started, ended := len(w.recorder.Started()), len(w.recorder.Ended()); started != ended || uint64(ended) != s.Attempts {
			t.Errorf("%d spans have begun and %d ended, of %d attempts", started, ended, s.Attempts)
		}
		if n := left(); n != 0 {
			t.Errorf("%d IDs are still known", n)
		}
		counts := map[string]uint64{}
		for _, line := range w.collected("activity.attempt", "activity.execution", "activity.timeouts") {
			name, value, _ := strings.Cut(line, ": ")
			n, err := strconv.ParseUint(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			counts[strings.Fields(name)[0]] += n
		}
		want := map[string]uint64{
			"activity.attempt.duration":   s.Attempts,
			"activity.execution.duration": s.Completed + s.Failed + s.Canceled,
			"activity.timeouts":           s.Timeouts,
		}
		if !maps.Equal(counts, want) {
			t.Errorf("got %v, want %v", counts, want)
		}
		if s.Attempts < 100 || s.Timeouts < 10 || s.Canceled < 10 {
			t.Errorf("too few of some kind: %+v", s)
		}
		outcomes := map[string]map[string]int{}
		for _, span := range w.recorder.Ended() {
			key := attributeOf(span, "activity.name")
			if outcomes[key] == nil {
				outcomes[key] = map[string]int{}
			}
			outcomes[key][attributeOf(span, "activity.outcome")]++
		}
		var lines []string
		for outcome, n := range outcomes["job"] {
			lines = append(lines, fmt.Sprintf("outcome=%s: %d in", outcome, n))
		}
		attempts := w.collected("activity.attempt")
		for _, line := range lines {
			if !slices.ContainsFunc(attempts, func(a string) bool { return strings.Contains(a, line) }) {
				t.Errorf("the spans have %s, the metrics %v", line, attempts)
			}
		}
		time.Sleep(2 * time.Hour)
	})
}

// Given a function's Context, when it sends heartbeats, then they allocate what they do without the
// instrumentation.
func TestHeartbeat_Allocations(t *testing.T) {
	w := newWorld(t)
	count := func(rt *activity.Runtime) (n float64) {
		err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: time.Hour}, func(ctx activity.Context) error {
			i := 1000
			n = testing.AllocsPerRun(1000, func() {
				if err := ctx.Heartbeat(i); err != nil {
					t.Error(err)
				}
				i++
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if with, without := count(w.runtime(activity.Config{})), count(activity.New(activity.Config{})); with != without {
		t.Errorf("a heartbeat allocates %g times with, and %g times without", with, without)
	}
}

// A refusing MeterProvider has meters that refuse all histograms and callbacks.
type refusing struct{ metricnoop.MeterProvider }

func (refusing) Meter(string, ...metric.MeterOption) metric.Meter { return refusingMeter{} }

type refusingMeter struct{ metricnoop.Meter }

func (refusingMeter) Float64Histogram(string, ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return metricnoop.Float64Histogram{}, errBoom
}

func (refusingMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return nil, errBoom
}

// Given a MeterProvider that refuses instruments, when a Runtime is made, then the errors are
// handled, and activities run.
func TestNew_RefusedInstruments(t *testing.T) {
	before := otel.GetErrorHandler()
	defer otel.SetErrorHandler(before)
	handled := 0
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		if errors.Is(err, errBoom) {
			handled++
		}
	}))
	in := otelactivity.New(otelactivity.Options{TracerProvider: noop.NewTracerProvider(), MeterProvider: refusing{}})
	rt, stop := in.NewRuntime(activity.Config{})
	defer stop()
	if err := rt.Run(context.Background(), activity.Options{}, func(activity.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if handled != 2 {
		t.Errorf("%d errors were handled, want 2", handled)
	}
}
