package otelactivity

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
)

// An attempt is an attempt with its span. It is also the Context that the function gets, which
// carries the span.
type attempt struct {
	activity.Context
	values context.Context // Context with the span
	span   trace.Span

	scheduledAt, startedAt time.Time // as in Info
	began                  time.Time // when intercept was called

	// Guarded by observer.mu.
	returned bool          // whether the function has returned
	took     time.Duration // how long it has run; set when it returns
}

// Value implements [context.Context].
func (a *attempt) Value(key any) any { return a.values.Value(key) }

// intercept is the Runtime's Interceptor.
func (o *observer) intercept(ctx activity.Context, next func(activity.Context) error) error {
	growStack(0)
	if i := o.interceptor; i != nil {
		function := next
		next = func(ctx activity.Context) error { return i(ctx, function) }
	}
	info := ctx.Info()
	a := o.begin(ctx, &info)
	if a == nil {
		return next(ctx)
	}
	// If the Context ends after begin, then so does the attempt, and observe gets the last event
	// of it. If the Context had ended before, the attempt may have been abandoned, and its last
	// event observed, already.
	unsure := ctx.Err() != nil
	// Deferred, in case the function calls runtime.Goexit.
	defer o.returned(info.ID, a, unsure)
	return next(a)
}

// growStack grows the stack of the attempt's goroutine once, by as much as the tracer needs, while
// few frames must be copied. Otherwise it grows twice, deep inside the tracer, which makes the Run
// of BenchmarkAttempt 15 % slower.
//
//go:noinline
func growStack(i int) byte {
	var frame [5000]byte
	return frame[i]
}

// begin begins the span of an attempt. It returns nil if the observer has been stopped.
func (o *observer) begin(ctx activity.Context, info *activity.Info) *attempt {
	a := &attempt{Context: ctx, scheduledAt: info.ScheduledAt, startedAt: info.StartedAt, began: o.now()}
	before, ok := o.before(info)
	if !ok {
		return nil
	}
	// A sampler is user code, so no lock is held.
	a.values, a.span = o.in.start(ctx, info, before)
	if !o.add(info.ID, a) {
		a.span.End()
		return nil
	}
	return a
}

// before returns the span of the attempt before, if there was one in this execution and in this
// process. It reports false if the observer has been stopped.
func (o *observer) before(info *activity.Info) (span trace.SpanContext, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if x := o.executions[info.ID]; x != nil && x.of.Equal(info.ScheduledAt) {
		span = x.last
	}
	return span, !o.stopped
}

// add adds a to its execution, unless the observer has been stopped.
func (o *observer) add(id string, a *attempt) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return false
	}
	x := o.executionLocked(id)
	x.begun = append(x.begun, a)
	x.last, x.of = a.span.SpanContext(), a.scheduledAt
	return true
}

// start starts the span of an attempt.
func (in *Instrumentation) start(ctx activity.Context, info *activity.Info, before trace.SpanContext) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{
		trace.WithTimestamp(info.StartedAt),
		trace.WithAttributes(idKey.String(info.ID), nameKey.String(info.Name), attemptKey.Int(info.Attempt)),
	}
	var links []trace.Link
	link := func(to trace.SpanContext) {
		if to.IsValid() {
			links = append(links, trace.Link{SpanContext: to})
		}
	}
	parent := context.Context(ctx)
	if len(info.Header) > 0 {
		callers := trace.SpanContextFromContext(ctx)
		extracted := in.propagator.Extract(trace.ContextWithSpan(ctx, nil), propagation.MapCarrier(info.Header))
		switch injected := trace.SpanContextFromContext(extracted); {
		case !injected.IsValid():
		case info.Header[processKey] == in.process:
			parent = trace.ContextWithSpanContext(extracted, injected.WithRemote(false))
		default:
			parent = extracted
			opts = append(opts, trace.WithNewRoot())
			link(injected)
			link(callers)
		}
	}
	link(before)
	if len(links) > 0 {
		opts = append(opts, trace.WithLinks(links...))
	}
	return in.tracer.Start(parent, "activity "+info.Name, opts...)
}

// returned notes that the function of a has returned. If unsure is true, observe may never get the
// last event of a. Then returned ends the span.
func (o *observer) returned(id string, a *attempt, unsure bool) {
	now := o.now()
	lost := unsure && o.over(id, a)
	o.mu.Lock()
	a.returned, a.took = true, now.Sub(a.began)
	if x := o.executions[id]; x != nil && lost {
		i := slices.Index(x.begun, a)
		if lost = i >= 0; lost {
			x.begun = slices.Delete(x.begun, i, i+1)
			o.forgetLocked(id, x)
		}
	} else {
		lost = false
	}
	o.mu.Unlock()
	if lost {
		err := context.Cause(a.Context)
		a.endSpan(now, outcomeOfCause(err), err)
	}
}

// over reports whether the Runtime has fenced a, whose function has not returned yet.
func (o *observer) over(id string, a *attempt) bool {
	s, ok := o.rt.Lookup(id)
	return !ok || s.State != activity.StateRunning || !s.StartedAt.Equal(a.startedAt)
}

// endSpan ends the span of an attempt that has ended with err.
func (a *attempt) endSpan(at time.Time, o outcome, err error) {
	if !a.span.IsRecording() {
		a.span.End()
		return
	}
	a.span.SetAttributes(outcomeKey.String(string(o)))
	if o == failed || o == timeout {
		setFailure(a.span, at, err)
	}
	a.span.End(trace.WithTimestamp(at))
}
