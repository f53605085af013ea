package otelactivity

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/seed-9da638b0/activity"
)

// An observer instruments a Runtime. intercept begins the spans of attempts, because the function
// must have its span. observe, which gets the Runtime's events, ends them: only the Runtime knows
// when an attempt is over, and how. The last event of an attempt is posted after intercept has
// returned, or after the attempt was fenced.
//
// Events are delivered later than they happen. So an attempt may begin before the events of the
// attempt before it, or even of an earlier execution of its ID, are observed.
type observer struct {
	in          *Instrumentation
	rt          *activity.Runtime
	now         func() time.Time                                           // of Config.Clock
	interceptor func(activity.Context, func(activity.Context) error) error // Config.Interceptor
	detach      []func()                                                   // called by stop

	mu         sync.Mutex
	executions map[string]*execution // by ID
	stopped    bool
}

// An execution is what the observer knows of an ID. Guarded by observer.mu.
type execution struct {
	// Set by events.
	open        bool                   // whether the first event was observed, and the last was not
	scheduledAt time.Time              // while open
	startedAt   time.Time              // of the attempt whose last event was not observed; zero if there is none
	timeout     *activity.TimeoutError // of the last attempt that has timed out; nil if none has

	// Set by intercept.
	begun []*attempt        // attempts whose last event was not observed, oldest first
	last  trace.SpanContext // of the attempt that began last
	of    time.Time         // when the execution of that attempt was scheduled
}

// idle reports whether nothing is left to be known.
func (x *execution) idle() bool { return !x.open && len(x.begun) == 0 }

// newObserver returns an observer with its Runtime.
func newObserver(in *Instrumentation, cfg activity.Config) *observer {
	o := &observer{in: in, now: time.Now, interceptor: cfg.Interceptor, executions: map[string]*execution{}}
	if cfg.Clock != nil {
		o.now = cfg.Clock.Now
	}
	if cfg.Store != nil {
		cfg.Store = in.metrics.measured(cfg.Store, o.now)
	}
	cfg.Interceptor = o.intercept
	o.rt = activity.New(cfg)
	o.detach = []func(){o.rt.Subscribe(o.observe, observed...), in.metrics.observe(in.meter, o.rt)}
	return o
}

// observed are the kinds of events that observe gets.
var observed = []activity.EventKind{
	activity.EventScheduled, activity.EventAttemptStarted, activity.EventAttemptFailed,
	activity.EventPaused, activity.EventCompleted, activity.EventFailed, activity.EventCanceled,
}

// observe gets the events of each ID in their order, and one at a time.
func (o *observer) observe(event activity.Event) {
	e := &event // which needs less of the goroutine's small stack than copies
	o.mu.Lock()
	if o.stopped {
		o.mu.Unlock()
		return
	}
	x := o.executionLocked(e.ID)
	var attemptEnds, executionEnds, timedOut bool
	switch e.Kind {
	case activity.EventScheduled:
		x.open, x.scheduledAt = true, e.Time
	case activity.EventAttemptStarted:
		x.startedAt = e.Time
	default:
		attemptEnds = !x.startedAt.IsZero()
		executionEnds = e.Kind != activity.EventAttemptFailed && e.Kind != activity.EventPaused
		// The end of an execution repeats the timeout of its last attempt.
		t := timeoutOf(e)
		timedOut = t != nil && t != x.timeout
		x.timeout = t
	}
	var a *attempt
	var began, ended time.Time
	if attemptEnds {
		a, began, ended = x.endLocked(e)
	}
	scheduledAt := x.scheduledAt
	if executionEnds {
		x.open = false
	}
	o.forgetLocked(e.ID, x)
	o.mu.Unlock()

	m, as := o.in.metrics, ending{e.Name, outcomeOf(e)}
	ctx := context.Background()
	if attemptEnds {
		if a != nil {
			ctx = trace.ContextWithSpan(ctx, a.span) // for exemplars
			a.endSpan(ended, as.outcome, cause(e.Err))
		}
		m.record(ctx, m.attempts, ended.Sub(began), as)
	}
	if timedOut {
		m.timeouts.Add(ctx, 1, metric.WithAttributes(nameKey.String(e.Name), timeoutKey.String(timeoutType(timeoutOf(e)))))
	}
	if executionEnds {
		m.record(ctx, m.executions, e.Time.Sub(scheduledAt), as)
	}
}

// executionLocked returns the execution of id.
func (o *observer) executionLocked(id string) *execution {
	x := o.executions[id]
	if x == nil {
		x = &execution{}
		o.executions[id] = x
	}
	return x
}

// forgetLocked removes the execution of id, if nothing is left to be known.
func (o *observer) forgetLocked(id string, x *execution) {
	if x.idle() {
		delete(o.executions, id)
	}
}

// endLocked ends the running attempt, whose last event is e. It returns the attempt, or nil if that
// has not called intercept because it was over before, and when it began and ended.
func (x *execution) endLocked(e *activity.Event) (a *attempt, began, ended time.Time) {
	began, ended = x.startedAt, e.Time
	x.startedAt = time.Time{}
	// Attempts of an ID end in the order in which they began. If this one has not called intercept,
	// there may be a later one that has, and that must stay.
	i := slices.IndexFunc(x.begun, func(a *attempt) bool { return !a.startedAt.After(began) })
	if i < 0 {
		return nil, began, ended
	}
	a = x.begun[i]
	x.begun = slices.Delete(x.begun, i, i+1)
	// An execution that continues after a restart was scheduled before its first event. Times of
	// events never decrease, so after the wall clock was set back they are later than those in Info.
	x.scheduledAt, began = a.scheduledAt, a.startedAt
	// A completed or canceled activity ends when the Store has saved that, which is later than its
	// function has returned. An attempt that was fenced ends before its function returns.
	if at := a.startedAt.Add(a.took); a.returned && at.Before(ended) {
		ended = at
	}
	return a, began, ended
}

// stop ends the instrumentation, and the spans of all attempts that run.
func (o *observer) stop() {
	o.mu.Lock()
	executions, detach := o.executions, o.detach
	o.stopped, o.executions, o.detach = true, nil, nil
	o.mu.Unlock()
	for _, f := range detach {
		f()
	}
	for _, x := range executions {
		for _, a := range x.begun {
			a.span.End(trace.WithTimestamp(o.now()))
		}
	}
}
