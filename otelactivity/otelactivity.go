package otelactivity

import (
	"context"
	"crypto/rand"
	"maps"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
)

const scope = "github.com/seed-9da638b0/activity/otelactivity"

// Options configure an [Instrumentation]. The zero Options are ready to use.
type Options struct {
	// TracerProvider provides the tracer. If nil, the global one is used.
	TracerProvider trace.TracerProvider

	// MeterProvider provides the meter. If nil, the global one is used.
	MeterProvider metric.MeterProvider

	// Propagator writes the trace context into Options.Header and reads it from there. If nil,
	// the global one is used, which does nothing until the program has set it with
	// [otel.SetTextMapPropagator].
	Propagator propagation.TextMapPropagator
}

// An Instrumentation makes instrumented Runtimes. A program needs one, whatever the number of its
// Runtimes. All its methods may be called by several goroutines at once.
type Instrumentation struct {
	tracer     trace.Tracer
	meter      metric.Meter
	propagator propagation.TextMapPropagator
	metrics    *metrics
	process    string // value of processKey in the Headers of this process
}

// New returns an Instrumentation. If the MeterProvider refuses an instrument, the error goes to
// [otel.Handle], and the rest works.
func New(opts Options) *Instrumentation {
	if opts.TracerProvider == nil {
		opts.TracerProvider = otel.GetTracerProvider()
	}
	if opts.MeterProvider == nil {
		opts.MeterProvider = otel.GetMeterProvider()
	}
	if opts.Propagator == nil {
		opts.Propagator = otel.GetTextMapPropagator()
	}
	in := &Instrumentation{
		tracer:     opts.TracerProvider.Tracer(scope),
		meter:      opts.MeterProvider.Meter(scope),
		propagator: opts.Propagator,
		process:    thisProcess,
	}
	in.metrics = newMetrics(in.meter)
	return in
}

const processKey = "otelactivity-process" // key in a Header, beside those of the Propagator

// thisProcess differs from process to process. All Instrumentations of a process share it,
// because one may inject what the Runtime of another executes.
var thisProcess = rand.Text()

// Inject puts the trace context of ctx into opts.Header, which it replaces by a copy. The attempts
// then are children of the span in ctx, even if the activity is started with another context, and
// after a restart they are linked to it. What an earlier Inject has put there is removed. If ctx
// has nothing to propagate, nothing is put there.
//
// For a [activity.Definition], inject into the Options of a copy:
//
//	d := *importRows
//	in.Inject(ctx, &d.Options)
//	h, err := d.Start(ctx, rt, "import-7", input)
func (in *Instrumentation) Inject(ctx context.Context, opts *activity.Options) {
	header := maps.Clone(opts.Header)
	delete(header, processKey)
	for _, key := range in.propagator.Fields() {
		delete(header, key)
	}
	carrier := propagation.MapCarrier{}
	in.propagator.Inject(ctx, carrier)
	if len(carrier) > 0 {
		if header == nil {
			header = map[string]string{}
		}
		maps.Copy(header, carrier)
		header[processKey] = in.process
	}
	opts.Header = header
}

// NewRuntime returns a Runtime with this Config that is instrumented, and a function that ends the
// instrumentation. It panics if [activity.New] does.
//
// A Config.Interceptor runs inside the attempt's span: its Context carries the span. A Config.Store
// is called through a wrapper, which hides its methods beyond [activity.Store] and Lost. The
// Runtime calls no others.
//
// A span ends, and goes to the span processors, in the goroutine that delivers the events of its
// activity, and before Run or Wait returns. So use a batching span processor in production.
//
// Call stop when the Runtime is no longer needed, after its Shutdown and before that of the
// providers. It unregisters the Runtime's gauges, ends the spans of attempts that still run, and
// from then on an attempt has no span and no metrics. It may be called several times.
func (in *Instrumentation) NewRuntime(cfg activity.Config) (rt *activity.Runtime, stop func()) {
	o := newObserver(in, cfg)
	return o.rt, o.stop
}
