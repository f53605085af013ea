// Package ontemporal runs the activities of [github.com/seed-9da638b0/activity] on a
// Temporal cluster, for work that has outgrown one machine: the same functions, by
// way of Temporal's Go SDK.
//
// A worker registers the function under the Name that Options have:
//
//	w := worker.New(c, "imports", worker.Options{
//		MaxHeartbeatThrottleInterval: time.Second,      // what is lost when the worker is killed
//		WorkerStopTimeout:            10 * time.Second, // for functions to return when it stops
//	})
//	ontemporal.Register(w, "import", importRows)
//	err := w.Run(worker.InterruptCh())
//
// and the call that started it embedded,
//
//	opts := activity.Options{Name: "import", StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}
//	n, err := activity.Execute(ctx, rt, opts, importRows, file)
//
// becomes
//
//	n, err := ontemporal.Execute(ctx, c, "imports", opts, importRows, file)
//
// Execute and [Start] use standalone activities, which need no workflow, a server
// that has them (1.32 does) and Options.StartToCloseTimeout or
// ScheduleToCloseTimeout. Where no worker of the task queue has the Name, or none
// polls it, the activity waits for one, as Handle.Status shows.
// To workflows, what is registered is an ordinary activity with one argument (but no
// local activity):
//
//	err := workflow.ExecuteActivity(ctx, "import", file).Get(ctx, &n)
//
// # What stays the same
//
// The function gets an [activity.Context], with all that is built on it:
// [activity.Resume], [activity.Range], [activity.Idle], [activity.Guard],
// [activity.FromContext]. Details are JSON, encoded and decoded as the embedded runtime's
// default Codec does: what would not come back is refused. Inputs and results are the
// SDK's data converter's. Heartbeats without details keep the details. What the
// SDK's package activity has, such as GetClient, works with that Context too, but for
// its heartbeats: of RecordHeartbeat we know nothing.
//
// An attempt's Context ends at its deadlines, by the worker's own clock and with an
// [*activity.TimeoutError] as the cause, whether or not the function listens. A
// heartbeat timeout the worker tells the server at that instant, and asks for the
// next attempt at once, or after the policy's interval where the embedded runtime
// would wait for it. The server's own timeouts are for a worker that is gone: a live
// one sends heartbeats of its own, every half heartbeat timeout or 10 s, also while the
// function is silent. A function that does not return is left behind, and holds none
// of the worker's slots; while more than 10 of one activity run in a worker, its next
// attempt there waits.
//
// The caller gets an [*activity.Error], and in it, for [errors.As] and [errors.Is],
// [*activity.TimeoutError], [*activity.PanicError], NonRetryable() and RetryDelay(),
// the errors of package activity and context.Canceled and DeadlineExceeded. An ID
// that is running is [activity.ErrAlreadyRunning].
//
// If the last execution of an ID failed, timed out or was canceled, the next one resumes
// from its details, as long as the server keeps them. If that execution had another
// input, or a name other than the given one, the start is refused with
// [activity.ErrCheckpointMismatch], whether or not it has recorded details. With
// Options.AcceptNewInput the new input counts, and the details are resumed.
//
// # What is refused
//
// MaxAbandoned, SyncHeartbeats, ResetOnProgress, Retryable and Jitter have no
// equal on a Temporal server, nor has an activity without start-to-close and
// schedule-to-close timeout: Execute and Start return an error that names the
// option.
//
// # What differs
//
//   - The SDK holds heartbeats back, for 80 % of the heartbeat timeout (without one:
//     30 s), or MaxHeartbeatThrottleInterval of [worker.Options] if that is shorter: set
//     it to a second or so. When a worker is killed or an attempt runs into a
//     start-to-close timeout, the details since the last heartbeat that was sent are
//     lost; the embedded runtime loses those of the last SaveInterval, and none.
//   - A cancellation reaches the function with the answer to a heartbeat, which is
//     within 10 s, and not at once. In the function its cause is an error that wraps
//     context.Canceled: the caller's own cause only the caller has.
//   - When a worker was killed, the next attempt comes after the policy's interval,
//     and not at once: the server knows nothing of progress. So it is too where the
//     network is slower than half a heartbeat timeout.
//   - A pause of a whole worker is a stall: the server and other workers go on.
//   - A worker that stops ends the Contexts with [activity.ErrShutdown] at once, and
//     the next attempt begins elsewhere. Its WorkerStopTimeout is how long functions
//     may take to return, and by default 0: then the server has to notice. The
//     attempt counts.
//   - Through [context.WithoutCancel], Heartbeat returns nil after a cancellation even
//     if it rejects the details; the embedded runtime returns that error.
//   - A canceled function is left behind after Options.CancelGrace, and in a workflow's
//     activity at the attempt's deadline.
//   - A caller that ends leaves the activity running: started again, it is told
//     ErrAlreadyRunning, and [GetHandle] finds the activity.
//   - An attempt that ends in [activity.ErrCannotResume] counts, and its execution has
//     failed. The next execution of the ID begins with attempt 1 and resumes from the
//     same details. The type of the failure is "activity.ErrCannotResume".
//   - Two inputs are the same if the SDK's default data converter encodes them to the same
//     bytes. The client's own decodes that of the last execution before. A field that In
//     no longer has is therefore no difference; the embedded runtime refuses it.
//   - There is no Forget. To drop what an execution has left, delete it on the server
//     (temporal activity delete, which takes a moment), or wait until its namespace's
//     retention has passed.
//   - Start looks at the last execution of the ID before it asks for a new one. An
//     execution that another caller starts and ends in between is neither compared nor
//     resumed.
//   - Guard keeps later attempts out that run in workers of the same client, and so of
//     the same process. Elsewhere it holds them up after a heartbeat timeout only, as
//     long as its own worker lives, and refuses an attempt that knows that it is over.
//   - Errors come back as their text. A type of the function's own is found as the
//     Type of a *temporal.ApplicationError with errors.As; what errors.Join or several
//     %w combine, and an inner activity's *Error, is text alone. PanicError.Value is the
//     value's text. Stacks are cut to 1 KiB (the worker logs all of them), and of a
//     failure that is retried the server keeps 4 KiB.
//   - Info.LastFailure is nil in activities that a workflow started.
//   - Status needs the server, so it has a context and an error, and knows nothing
//     of Done, Total and abandoned functions.
//   - The server's timers are a little late, its retries pass through a task queue,
//     and ScheduleToStartTimeout is the wait for a worker.
//   - Inputs and results pass through the client's data converter, and the server
//     takes 2 MiB.
//
// # Testing
//
// The SDK's test environments run registered functions without a server. In a
// [testing/synctest] bubble their activities live on virtual time, timeouts and
// retries included.
package ontemporal
