package otelactivity_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/otelactivity"
)

// compare runs the functions in turns of 100 calls each, so that a machine that is slow for a while
// is slow for all of them, and returns how long a call of each takes.
func compare(b *testing.B, functions ...func()) []float64 {
	took := make([]time.Duration, len(functions))
	calls := 0
	for b.Loop() {
		for i, f := range functions {
			begin := time.Now()
			for range 100 {
				f()
			}
			took[i] += time.Since(begin)
		}
		calls += 100
	}
	each := make([]float64, len(functions))
	for i, d := range took {
		each[i] = float64(d.Nanoseconds()) / float64(calls)
	}
	b.ReportMetric(0, "ns/op") // that of all functions says nothing
	return each
}

// BenchmarkAttempt reports what the instrumentation adds to a Run of one attempt, and how much of
// that a subscriber that does nothing adds. The unit is what the shortest Interceptor that starts and
// ends such a span of the SDK adds. The SDK's span processor drops the spans.
func BenchmarkAttempt(b *testing.B) {
	for _, bm := range []struct {
		name    string
		sampler sdktrace.Sampler
		metrics bool
	}{
		{"span", sdktrace.AlwaysSample(), false},
		{"span and metrics", sdktrace.AlwaysSample(), true},
		{"sampled out", sdktrace.NeverSample(), false},
	} {
		b.Run(bm.name, func(b *testing.B) {
			opts := otelactivity.Options{
				TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(bm.sampler), sdktrace.WithSpanProcessor(dropping{})),
			}
			if bm.metrics {
				opts.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
			}
			rt, stop := otelactivity.New(opts).NewRuntime(activity.Config{})
			defer stop()
			always := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(dropping{})).Tracer("test")
			byHand := activity.New(activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				info := ctx.Info()
				_, span := always.Start(ctx, "activity "+info.Name, trace.WithTimestamp(info.StartedAt), trace.WithAttributes(
					attribute.String("activity.id", info.ID), attribute.String("activity.name", info.Name), attribute.Int("activity.attempt", info.Attempt)))
				defer span.End()
				return next(ctx)
			}})
			subscribed := activity.New(activity.Config{})
			subscribed.Subscribe(func(activity.Event) {}, activity.EventScheduled, activity.EventAttemptStarted, activity.EventCompleted)
			run := func(rt *activity.Runtime) func() {
				ctx, o := context.Background(), activity.Options{ID: "a", Name: "job", StartToCloseTimeout: time.Hour}
				return func() {
					if err := rt.Run(ctx, o, row); err != nil {
						b.Fatal(err)
					}
				}
			}
			t := compare(b, run(activity.New(activity.Config{})), run(byHand), run(subscribed), run(rt))
			unit := t[1] - t[0]
			b.ReportMetric(unit, "ns/span")
			b.ReportMetric((t[2]-t[0])/unit, "spans/subscriber")
			b.ReportMetric((t[3]-t[0])/unit, "spans/attempt")
		})
	}
}

// row does a little: as any real function does, it needs more than the smallest stack.
func row(ctx activity.Context) error {
	data, err := json.Marshal(map[string]any{"id": ctx.Info().ID, "columns": []int{1, 2, 3}})
	if err != nil {
		return err
	}
	return ctx.Heartbeat(len(data))
}

// dropping is a span processor that does nothing.
type dropping struct{}

func (dropping) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (dropping) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (dropping) Shutdown(context.Context) error                  { return nil }
func (dropping) ForceFlush(context.Context) error                { return nil }

// BenchmarkHeartbeat reports how long a heartbeat takes with the instrumentation, as a multiple of
// how long it takes without.
func BenchmarkHeartbeat(b *testing.B) {
	within := func(rt *activity.Runtime, f func(activity.Context)) {
		err := rt.Run(context.Background(), activity.Options{HeartbeatTimeout: time.Hour}, func(ctx activity.Context) error {
			f(ctx)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	beat := func(ctx activity.Context) func() {
		i := 0
		return func() {
			i++
			if err := ctx.Heartbeat(i); err != nil {
				b.Fatal(err)
			}
		}
	}
	rt, stop := otelactivity.New(otelactivity.Options{TracerProvider: noop.NewTracerProvider()}).NewRuntime(activity.Config{})
	defer stop()
	within(rt, func(with activity.Context) {
		within(activity.New(activity.Config{}), func(without activity.Context) {
			t := compare(b, beat(without), beat(with))
			b.ReportMetric(t[1]/t[0], "heartbeats/heartbeat")
			b.ReportMetric(t[0], "ns/heartbeat")
		})
	})
}
