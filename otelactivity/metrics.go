package otelactivity

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/seed-9da638b0/activity"
)

// Attributes of spans and metrics. Metrics have neither idKey nor attemptKey.
const (
	idKey        attribute.Key = "activity.id"
	nameKey      attribute.Key = "activity.name"
	attemptKey   attribute.Key = "activity.attempt"
	outcomeKey   attribute.Key = "activity.outcome"
	stateKey     attribute.Key = "activity.state"
	timeoutKey   attribute.Key = "activity.timeout.type"
	operationKey attribute.Key = "activity.store.operation"
)

// metrics are the instruments of an Instrumentation.
type metrics struct {
	attempts, executions, store metric.Float64Histogram
	timeouts                    metric.Int64Counter
	active, abandoned           metric.Int64ObservableUpDownCounter
	heartbeats, saveFailures    metric.Int64ObservableCounter

	mu      sync.Mutex
	options map[ending][]metric.RecordOption // guarded by mu
}

// An ending has the attributes of the durations of attempts and executions.
type ending struct {
	name    string
	outcome outcome
}

// maxOptions limits metrics.options, in case somebody puts an ID into the names of activities.
const maxOptions = 2000

func newMetrics(m metric.Meter) *metrics {
	var errs [8]error
	i := &metrics{options: map[ending][]metric.RecordOption{}}
	// The default boundaries are meant for milliseconds.
	long := metric.WithExplicitBucketBoundaries(0.01, 0.1, 1, 10, 60, 600, 3600, 6*3600, 24*3600)
	// These are the boundaries of db.client.operation.duration.
	short := metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
	i.attempts, errs[0] = m.Float64Histogram("activity.attempt.duration", metric.WithUnit("s"), long,
		metric.WithDescription("Duration of attempts."))
	i.executions, errs[1] = m.Float64Histogram("activity.execution.duration", metric.WithUnit("s"), long,
		metric.WithDescription("Duration of executions, from the schedule time to the outcome."))
	i.store, errs[2] = m.Float64Histogram("activity.store.save.duration", metric.WithUnit("s"), short,
		metric.WithDescription("Duration of the calls that write to the Store."))
	i.timeouts, errs[3] = m.Int64Counter("activity.timeouts", metric.WithUnit("{timeout}"),
		metric.WithDescription("Timeouts of attempts and executions."))
	i.active, errs[4] = m.Int64ObservableUpDownCounter("activity.active", metric.WithUnit("{activity}"),
		metric.WithDescription("Activities that have not ended."))
	i.abandoned, errs[5] = m.Int64ObservableUpDownCounter("activity.abandoned", metric.WithUnit("{function}"),
		metric.WithDescription("Abandoned functions that still run."))
	i.heartbeats, errs[6] = m.Int64ObservableCounter("activity.heartbeats", metric.WithUnit("{heartbeat}"),
		metric.WithDescription("Heartbeats of attempts that were not over."))
	i.saveFailures, errs[7] = m.Int64ObservableCounter("activity.store.save.failures", metric.WithUnit("{call}"),
		metric.WithDescription("Calls that write to the Store and failed or were late."))
	if err := errors.Join(errs[:]...); err != nil {
		otel.Handle(err)
	}
	return i
}

// record records the duration d of an attempt or an execution. The options of each ending are made
// once, because to hash the attributes costs more than all else here.
func (i *metrics) record(ctx context.Context, h metric.Float64Histogram, d time.Duration, e ending) {
	if !h.Enabled(ctx) {
		return
	}
	i.mu.Lock()
	opts := i.options[e]
	i.mu.Unlock()
	if opts == nil {
		set := attribute.NewSet(nameKey.String(e.name), outcomeKey.String(string(e.outcome)))
		opts = []metric.RecordOption{metric.WithAttributeSet(set)}
		i.mu.Lock()
		if len(i.options) == maxOptions {
			clear(i.options)
		}
		i.options[e] = opts
		i.mu.Unlock()
	}
	h.Record(ctx, seconds(d), opts...)
}

// observe has the counts of rt collected until unregister is called.
func (i *metrics) observe(m metric.Meter, rt *activity.Runtime) (unregister func()) {
	r, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := rt.Stats()
		for state, n := range map[string]int{
			"running": s.Running, "waiting": s.Waiting, "backing_off": s.BackingOff, "blocked": s.Blocked, "paused": s.Paused,
		} {
			o.ObserveInt64(i.active, int64(n), metric.WithAttributes(stateKey.String(state)))
		}
		o.ObserveInt64(i.abandoned, int64(s.Abandoned))
		o.ObserveInt64(i.heartbeats, int64(s.Heartbeats))
		o.ObserveInt64(i.saveFailures, int64(s.SaveFailures))
		return nil
	}, i.active, i.abandoned, i.heartbeats, i.saveFailures)
	if err != nil {
		otel.Handle(err)
		return func() {}
	}
	return func() {
		if err := r.Unregister(); err != nil {
			otel.Handle(err)
		}
	}
}

// measured returns a Store that measures the calls that write to s. It has the method Lost if s
// has it.
func (i *metrics) measured(s activity.Store, now func() time.Time) activity.Store {
	m := &measuredStore{Store: s, metrics: i, now: now}
	if l, ok := s.(loser); ok {
		return &struct {
			*measuredStore
			loser
		}{m, l}
	}
	return m
}

// A loser is a Store that tells when it has lost its ownership.
type loser interface{ Lost() <-chan struct{} }

type measuredStore struct {
	activity.Store
	metrics *metrics
	now     func() time.Time
}

func (s *measuredStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	begin := s.now()
	err := s.Store.Save(ctx, batch)
	s.record("save", begin, err)
	return err
}

func (s *measuredStore) Delete(ctx context.Context, ids []string) error {
	begin := s.now()
	err := s.Store.Delete(ctx, ids)
	s.record("delete", begin, err)
	return err
}

func (s *measuredStore) record(operation string, begin time.Time, err error) {
	attrs := []attribute.KeyValue{operationKey.String(operation)}
	if err != nil {
		attrs = append(attrs, semconv.ErrorTypeKey.String(errorType(err)))
	}
	// The context of the call may have ended, and an SDK may drop what comes with such a context.
	s.metrics.store.Record(context.Background(), seconds(s.now().Sub(begin)), metric.WithAttributeSet(attribute.NewSet(attrs...)))
}

// seconds returns d in seconds, at least 0. A wall clock that was set back makes d negative.
func seconds(d time.Duration) float64 { return max(d, 0).Seconds() }
