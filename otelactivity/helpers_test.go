package otelactivity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/otelactivity"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	errBoom = errors.New("boom") // of a function that fails
)

// A world is an Instrumentation with an SDK that keeps everything.
type world struct {
	*testing.T
	*otelactivity.Instrumentation
	begin    time.Time
	recorder *tracetest.SpanRecorder
	traces   *sdktrace.TracerProvider
	meters   *sdkmetric.MeterProvider
	reader   *sdkmetric.ManualReader
}

func newWorld(t *testing.T, opts ...sdktrace.TracerProviderOption) *world {
	w := &world{T: t, begin: time.Now(), recorder: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	w.traces = sdktrace.NewTracerProvider(append(opts, sdktrace.WithSpanProcessor(w.recorder))...)
	w.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.reader))
	w.Instrumentation = w.instrumentation()
	return w
}

func (w *world) instrumentation() *otelactivity.Instrumentation {
	return otelactivity.New(otelactivity.Options{
		TracerProvider: w.traces,
		MeterProvider:  w.meters,
		Propagator:     propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}),
	})
}

// runtime returns an instrumented Runtime that logs nothing, for as long as the test.
func (w *world) runtime(cfg activity.Config) *activity.Runtime {
	cfg.Logger = quiet
	rt, stop := w.NewRuntime(cfg)
	w.Cleanup(stop)
	return rt
}

// span starts a span with that name, as a caller does.
func (w *world) span(name string) (context.Context, trace.Span) {
	return w.traces.Tracer("test").Start(context.Background(), name)
}

// label names a span: by its name and, for that of an attempt, its ID and number.
func label(s sdktrace.ReadOnlySpan) string {
	if id := attributeOf(s, "activity.id"); id != "" {
		return fmt.Sprintf("%s(%s) #%s", s.Name(), id, attributeOf(s, "activity.attempt"))
	}
	return s.Name()
}

func attributeOf(s sdktrace.ReadOnlySpan, key attribute.Key) string {
	for _, a := range s.Attributes() {
		if a.Key == key {
			return a.Value.String()
		}
	}
	return ""
}

// ended describes the spans that have ended, in the order of their starts.
func (w *world) ended() []string {
	labels := map[trace.SpanID]string{}
	for _, s := range w.recorder.Started() {
		labels[s.SpanContext().SpanID()] = label(s)
	}
	var lines []string
	for _, started := range w.recorder.Started() {
		i := slices.IndexFunc(w.recorder.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.SpanContext().Equal(started.SpanContext()) })
		if i < 0 {
			continue
		}
		s := w.recorder.Ended()[i]
		line := fmt.Sprintf("%s %s-%s", label(s), s.StartTime().Sub(w.begin), s.EndTime().Sub(w.begin))
		if o := attributeOf(s, "activity.outcome"); o != "" {
			line += " " + o
		}
		if e := attributeOf(s, "error.type"); e != "" {
			line += " " + e
		}
		if s.Status().Code == codes.Error {
			line += fmt.Sprintf(" error %q", s.Status().Description)
		}
		if p := s.Parent(); p.IsValid() {
			line += " below " + labels[p.SpanID()]
			if p.TraceID() != s.SpanContext().TraceID() {
				line += " of another trace"
			}
			if p.IsRemote() {
				line += " (remote)"
			}
		}
		for _, l := range s.Links() {
			line += " after " + labels[l.SpanContext.SpanID()]
		}
		for _, e := range s.Events() {
			line += fmt.Sprintf(" %s at %s", e.Name, e.Time.Sub(w.begin))
		}
		lines = append(lines, line)
	}
	return lines
}

// wantSpans checks the spans that have ended, and that there are no others.
func (w *world) wantSpans(want ...string) {
	w.Helper()
	wantLines(w.T, w.ended(), want)
	if open := len(w.recorder.Started()) - len(w.recorder.Ended()); open != 0 {
		w.Errorf("%d spans have not ended", open)
	}
}

func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// collected returns the metrics whose names begin with one of the prefixes, one line for each set
// of attributes.
func (w *world) collected(prefixes ...string) []string {
	w.Helper()
	var all metricdata.ResourceMetrics
	if err := w.reader.Collect(context.Background(), &all); err != nil {
		w.Fatal(err)
	}
	var lines []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(m.Name, p) }) {
				continue
			}
			add := func(set attribute.Set, value string) {
				line := m.Name
				for _, a := range set.ToSlice() {
					key := string(a.Key)
					line += " " + key[strings.LastIndexByte(key, '.')+1:] + "=" + a.Value.String()
				}
				lines = append(lines, line+": "+value+" "+m.Unit)
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, fmt.Sprintf("%d in %g", p.Count, p.Sum))
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, fmt.Sprint(p.Value))
				}
			default:
				w.Fatalf("%s is a %T", m.Name, data)
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func (w *world) wantMetrics(prefix string, want ...string) {
	w.Helper()
	wantLines(w.T, w.collected(prefix), want)
}

// retries are Options of the activity "a" named job, which is retried after a second.
func retries(attempts int) activity.Options {
	return activity.Options{
		ID: "a", Name: "job",
		RetryPolicy: activity.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1, MaximumAttempts: attempts},
	}
}
