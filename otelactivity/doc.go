// Package otelactivity instruments a [activity.Runtime] with OpenTelemetry traces and metrics.
//
//	in := otelactivity.New(otelactivity.Options{}) // the global providers
//	rt, stop := in.NewRuntime(activity.Config{Store: store})
//	defer stop()
//
//	opts := activity.Options{ID: "import-7"}
//	in.Inject(ctx, &opts)
//	err := rt.Run(ctx, opts, importRows)
//
// # Spans
//
// Each attempt has a span "activity NAME", and the function's Context carries it. So spans that
// the function starts, activities that it runs and the bodies of a RangeParallel are below it.
//
//   - If [Instrumentation.Inject] has put the caller's span into Options.Header, that span is the
//     parent, even if the activity is started with another context. Otherwise the span in the
//     context given to Start or Run is, if there is one.
//   - If a stored execution continues after a restart, its Header comes from another process. The
//     caller's span has probably ended long ago. So each attempt begins a trace of its own, which
//     is linked to the caller's span, and to the span in the context given to Recover or Start, if
//     there is one. Inject tells the processes apart by a random value, which it puts into the
//     Header beside the trace context. A trace context that something else has put there counts as
//     one from another process.
//   - A retry is linked to the attempt before it. After a restart, the first attempt is not,
//     because the Store has no span of the attempt before.
//   - The span of an attempt that has timed out ends at the timeout, although its function may
//     still run. The span of a canceled or paused attempt whose function does not return ends
//     when the function is abandoned. What the function does to its span after that has no
//     effect.
//
// A span has the attributes activity.id, activity.name and activity.attempt from the beginning,
// so that a sampler sees them, and activity.outcome at its end. The span of an attempt that has
// failed or timed out has the status Error, with the error's text, and the attribute error.type. If
// the error has a stack, because the function stalled or panicked, an event "exception" has it.
// The spans of attempts that were canceled, paused or drained are not errors.
//
// # Metrics
//
//	activity.attempt.duration     histogram, s          attempts, by activity.name and activity.outcome
//	activity.execution.duration   histogram, s          executions, by activity.name and activity.outcome
//	activity.timeouts             counter, {timeout}    by activity.name and activity.timeout.type
//	activity.active               up-down, {activity}   activities that have not ended, by activity.state
//	activity.abandoned            up-down, {function}   abandoned functions that still run
//	activity.heartbeats           counter, {heartbeat}  heartbeats, from Stats
//	activity.store.save.duration  histogram, s          calls of the Store, by activity.store.operation and error.type
//	activity.store.save.failures  counter, {call}       calls of the Store that failed or were late, from Stats
//
// No metric has an ID. The values of activity.outcome are completed, failed, timeout, canceled
// and paused. An execution is never paused. A drained or shut-down attempt is canceled. Those of
// activity.timeout.type are heartbeat, start_to_close, schedule_to_start and schedule_to_close.
// Those of activity.state are running, waiting, backing_off, blocked and paused. Those of
// activity.store.operation are save and delete.
//
// The value of error.type is heartbeat_timeout and so on after a timeout, panic, goexit or
// cannot_resume. After any other error, it is what semconv.ErrorType returns: usually the type of
// the error, without the wrappers of [fmt.Errorf], [activity.NonRetryable] and
// [activity.RetryAfter].
//
// An attempt lasts until its function has returned, or until it has timed out or is abandoned. An
// execution lasts from the time at which it was scheduled until its end, with everything that it
// waits for: slots, backoffs, pauses and the Store. If a stored execution continues after a
// restart, that includes the time before, unless it ends without an attempt in this process. All
// times are those of Config.Clock.
//
// Counts of heartbeats and of states are read when metrics are collected, so a heartbeat costs
// nothing for them. A Runtime that is stopped takes its counts along: if others of the same
// Instrumentation live on, the sums fall.
//
// Units, and attributes such as error.type, follow the semantic conventions of OpenTelemetry:
// https://opentelemetry.io/docs/specs/semconv/general/metrics/ (units of counts in braces,
// durations in seconds, up-down counters for what adds up),
// https://opentelemetry.io/docs/specs/semconv/general/naming/ (names) and
// https://opentelemetry.io/docs/specs/semconv/general/recording-errors/ (status and error.type).
// They have no names for activities, so those that begin with "activity." are the package's own.
package otelactivity
