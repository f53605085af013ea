package otelactivity_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/otelactivity"
)

// A printer exports spans by printing them. Yours sends them to a collector.
type printer struct{}

func (printer) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		fmt.Printf("%s: parent %t, links %d, status %s", s.Name(), s.Parent().IsValid(), len(s.Links()), s.Status().Code)
		for _, a := range s.Attributes() {
			fmt.Printf(", %s=%s", a.Key, a.Value.String())
		}
		fmt.Println()
	}
	return nil
}

func (printer) Shutdown(context.Context) error { return nil }

// Each attempt has a span below that of the caller. The second is linked to the first.
func ExampleInstrumentation_NewRuntime() {
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(printer{}))
	in := otelactivity.New(otelactivity.Options{TracerProvider: traces, Propagator: propagation.TraceContext{}})
	rt, stop := in.NewRuntime(activity.Config{Logger: quiet})
	defer stop()

	ctx, request := traces.Tracer("example").Start(context.Background(), "POST /import")
	opts := activity.Options{ID: "7", Name: "import", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
	in.Inject(ctx, &opts)
	h, err := rt.Start(context.Background(), opts, func(ctx activity.Context) error {
		if ctx.Info().Attempt == 1 {
			return errors.New("disk full")
		}
		return nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = h.Wait(context.Background())
	request.End()
	fmt.Println("error:", err)
	// Output:
	// activity import: parent true, links 0, status Error, activity.id=7, activity.name=import, activity.attempt=1, activity.outcome=failed, error.type=*errors.errorString
	// activity import: parent true, links 1, status Unset, activity.id=7, activity.name=import, activity.attempt=2, activity.outcome=completed
	// POST /import: parent false, links 0, status Unset
	// error: <nil>
}

// Another Interceptor goes into the Config. It runs inside the span.
func Example_interceptor() {
	in := otelactivity.New(otelactivity.Options{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(printer{}))})
	rt, stop := in.NewRuntime(activity.Config{
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			trace.SpanFromContext(ctx).SetAttributes(attribute.String("tenant", ctx.Info().Header["tenant"]))
			return next(ctx)
		},
	})
	defer stop()
	opts := activity.Options{ID: "7", Name: "import", Header: map[string]string{"tenant": "acme"}}
	err := rt.Run(context.Background(), opts, func(activity.Context) error { return nil })
	fmt.Println("error:", err)
	// Output:
	// activity import: parent false, links 0, status Unset, activity.id=7, activity.name=import, activity.attempt=1, tenant=acme, activity.outcome=completed
	// error: <nil>
}
