// Package ontemporal runs the functions of [github.com/seed-9da638b0/activity] on a
// Temporal cluster, through Temporal's Go SDK. It is for work that has outgrown one
// machine: functions, options, results and errors stay the same.
//
//	go get github.com/seed-9da638b0/activity/ontemporal
//
// To try it on one machine, start a server with Temporal's CLI. Use a CLI
// whose server is 1.32 or later; "temporal --version" prints that:
//
//	temporal server start-dev
//
// A worker registers the function under a name:
//
//	c, err := client.Dial(client.Options{}) // the server on this machine
//	const stop = 10 * time.Second // for functions to finish when the worker stops
//	w := worker.New(c, "imports", worker.Options{WorkerStopTimeout: stop})
//	r := ontemporal.Registry(w, ontemporal.WorkerOptions{WorkerStopTimeout: stop})
//	ontemporal.Register(r, "import", importRows)
//	err = w.Run(worker.InterruptCh())
//
// The caller adds the client and the task queue. The embedded call
//
//	opts := activity.Options{Name: "import", StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}
//	n, err := activity.Execute(ctx, rt, opts, importRows, file)
//
// becomes
//
//	n, err := ontemporal.Execute(ctx, c, "imports", opts, importRows, file)
//
// Execute and [Start] use standalone activities. They need no workflow, but a server that
// has them, such as 1.32. They also need Options.StartToCloseTimeout or
// ScheduleToCloseTimeout. If no worker of the task queue has registered the name, the
// activity waits for one, and Handle.Status shows that.
//
// Workflows call a registered function as an ordinary activity with one argument:
//
//	err := workflow.ExecuteActivity(ctx, "import", file).Get(ctx, &n)
//
// # What stays the same
//
// The function gets an [activity.Context], and [activity.Resume], [activity.Range],
// [activity.RangeParallel], [activity.Idle], [activity.Guard], [activity.Reader] and
// [activity.FromContext] work with it. The SDK's package activity works with it, too: a
// RecordHeartbeat, of a library for instance, is a heartbeat of the attempt, with its details. They are
// encoded with the SDK's default data converter. If that fails, the worker logs it. Interceptors of
// RecordHeartbeat are not called.
//
// Heartbeat details are encoded as JSON by the embedded runtime's default Codec, which
// refuses details that would not come back as they were. A heartbeat without details
// keeps those recorded before. Inputs and results are encoded by the client's data
// converter.
//
// An attempt's Context ends at the attempt's deadlines, by the worker's clock and with an
// [*activity.TimeoutError] as its cause, whether or not the function returns. The worker
// reports a heartbeat timeout at once. It requests the next attempt at once too, or after
// the policy's interval if the embedded runtime would wait for that. The server's own
// timeouts only detect the loss of a worker.
//
// A function that does not return is abandoned, and frees its slot in the worker, unless it is inside
// Guard. If more
// than 10 functions of one activity are abandoned in a worker, the activity's next attempt
// there waits until one of them returns.
//
// The caller gets an [*activity.Error]. [errors.As] and [errors.Is] find in it
// [*activity.TimeoutError], [*activity.PanicError], NonRetryable() and RetryDelay(), the
// errors of package activity, and context.Canceled and DeadlineExceeded. If the ID is
// running, the error is [activity.ErrAlreadyRunning].
//
// [GetHandle] finds an activity by its ID. The Handle's Cancel, Pause, Unpause and Status are
// the Runtime's Cancel, Pause, Unpause and Lookup. The Runtime's RetryNow, Stack, Drain and
// Subscribe have no equivalent.
//
// If the last execution of an ID failed, timed out or was canceled, the next one resumes
// from its details, as long as the server keeps them. If that execution had another
// input, or a name other than Options.Name, the start is refused with
// [activity.ErrCheckpointMismatch], even if no details were recorded. With
// Options.AcceptNewInput, the new input counts, and the activity resumes from the details.
//
// # What is better than with the SDK alone
//
//   - The worker notices a stall, and has the stack of the function that hangs in its log and in the
//     TimeoutError. The next attempt starts at once, unless the one before has stalled too and
//     this one made no progress. With the SDK alone, the server notices the stall, and waits for the
//     policy's interval.
//   - An outage of the server or of the network does not end the attempt if it is shorter than the
//     heartbeat timeout less one and a quarter of the time between two heartbeats. With the SDK alone,
//     the context ends once a heartbeat has failed for one throttle interval.
//   - A longer outage ends the attempt here before the server starts the next one: see Fencing. In a
//     test that cuts the network from a worker, the two attempts overlap for 0 s.
//   - Deadlines are exact, by the worker's clock. A result that arrives later is discarded.
//   - A heartbeat without details keeps those recorded before. With the SDK alone it clears them.
//   - Details that JSON cannot round-trip are refused.
//
// The price is traffic. A worker sends a heartbeat with the newest details every half heartbeat
// timeout, but at least every 10 s, even while the function is silent. The SDK waits for 80 % of
// the timeout, but at most 60 s, and sends nothing for a function that is silent. So with a timeout of 10 s,
// a worker sends 1.6 times the SDK's bytes. A Heartbeat call that sends nothing costs as much as
// the SDK's for a struct, and half as much for an int.
//
// # Fencing
//
// The heartbeats of an attempt are a lease, if it has a heartbeat timeout. The lease ends
// HeartbeatTimeout after the sending of the last heartbeat that the server has answered. Then the Context
// ends, with an error that says so, and [activity.Guard] refuses. The server counts from the arrival of a
// heartbeat, so it starts the next attempt later than that. Guard waits for the first answer.
//
// A function already inside Guard when the lease ends cannot be stopped. Keep it short, or have the
// system that it writes to check a fencing token, such as Info.StartedAt. Without a heartbeat
// timeout there is no lease: the attempt then ends at its start-to-close timeout, on both sides.
//
// # Stopping a worker
//
// A stopping worker asks its functions to stop, as [activity.Runtime.Drain] does: the next Sleep, Idle,
// Range, Guard or Reader returns [activity.ErrShutdown]. So does Heartbeat, after it has recorded. The
// Context lives until WorkerStopTimeout of [worker.Options] has passed, after which the SDK can lose what
// the function returns. With WorkerStopTimeout of [WorkerOptions] it ends a little earlier, so that the
// function has time to return. By default WorkerStopTimeout is zero: the Contexts end at once, and the
// server has to detect the loss.
//
// If the function finishes anyway, it has completed. If it stops because it was asked, that counts as an
// attempt, because the server counts every attempt. The next one starts at once, in another
// worker. Set MaximumAttempts higher than the number of deployments that the job will see, or
// leave it unset.
//
// # What is refused
//
// MaxAbandoned, SyncHeartbeats, ResetOnProgress, ResetAfter, Retryable and Jitter have no equivalent
// on a Temporal server. Execute and Start return an error that names the option. They also
// return an error if neither StartToCloseTimeout nor ScheduleToCloseTimeout is set, if the
// Header is not UTF-8, or if the client's data converter does not accept [converter.RawValue], the
// type in which heartbeat details are sent. A worker with such a client fails each attempt with
// an error that says the same. The SDK cannot call a registered function as a local activity: it fails with
// "Call with too few input arguments".
//
// # What differs
//
// Heartbeats and cancellation:
//
//   - Recorded details reach the server with the next heartbeat, within half the heartbeat
//     timeout or 10 s, or within MaxHeartbeatThrottleInterval of [WorkerOptions] if that is shorter.
//     If a worker is killed, or an attempt reaches its start-to-close timeout, later details are
//     lost. If the embedded runtime is killed, it loses those of the last SaveInterval. At a
//     start-to-close timeout it loses none.
//   - A cancellation reaches the function with the answer to a heartbeat. If there is a heartbeat
//     timeout, that takes 10 s at most. Without one, only the function's own heartbeats are sent, so a
//     function that sends none never learns that it was canceled. The cause in the function is an
//     error that wraps context.Canceled. Only the caller has the caller's own cause.
//   - If a codec of the client makes details larger than the server's limit, the server fails the
//     activity. With WorkerOptions.DataConverter, Heartbeat refuses them instead.
//   - Through [context.WithoutCancel], Heartbeat returns nil after a cancellation even if
//     it rejects the details. The embedded runtime returns that error.
//   - A canceled or paused function is abandoned after Options.CancelGrace or, in an activity
//     that a workflow started, at the attempt's deadline.
//
// Attempts:
//
//   - After a worker was killed, the next attempt always waits for the policy's interval,
//     because the server does not know whether the attempt made progress. The same holds
//     if the network is slower than half a heartbeat timeout.
//   - A pause of a whole worker is a stall, because the server and other workers do not
//     pause.
//   - If the server pauses an activity, its Context ends with [activity.ErrPaused] as the
//     cause, with the answer to a heartbeat, as with a cancellation. The attempt counts, and its error is
//     the Info.LastFailure of the next one. The last of MaximumAttempts is not interrupted,
//     because the activity would have failed.
//   - An attempt that ends in [activity.ErrCannotResume] is retried by the policy, because a worker
//     of another version may be able to resume. It counts. The type of the failure is
//     "activity.ErrCannotResume".
//   - Guard always keeps out later attempts in workers of the same client. It keeps out those
//     elsewhere only while the server answers the heartbeats.
//   - [activity.Commit] returns an error, because the progress is the server's, and cannot be part of
//     a transaction.
//   - The server's timers are a little late, its retries pass through a task queue, and
//     ScheduleToStartTimeout bounds the wait for a worker.
//
// Callers and executions:
//
//   - If a caller's process ends, the activity continues. Starting it again returns
//     [activity.ErrAlreadyRunning]. [GetHandle] finds it.
//   - Two inputs are the same if the SDK's default data converter encodes them to the same
//     bytes. The client's own converter decodes the last execution's input before that. A
//     field that the input no longer has is therefore no difference. The embedded runtime
//     refuses it.
//   - There is no Forget. To drop an execution's details, delete it on the server (temporal
//     activity delete, which takes a moment), or wait until its namespace's retention
//     has passed.
//   - Start reads the last execution of the ID before it requests a new one. An execution
//     that another caller starts and ends in between is neither compared nor resumed.
//   - [Handle.Pause] and [Handle.Unpause] need a server whose dynamic configuration has
//     history.enableStandaloneActivityOperatorCommands (for the CLI's server:
//     --dynamic-config-value history.enableStandaloneActivityOperatorCommands=true). Server
//     1.32 has it off by default. An activity that a workflow started has no Handle. It is
//     paused with "temporal activity pause", which needs no such configuration.
//   - A backoff during which an activity is paused continues after Unpause. Only in an
//     activity that a workflow started, Unpause ends it, as on the embedded runtime.
//   - Status asks the server, so it takes a context and returns an error. It does not fill
//     in Done, Total and Abandoned.
//
// Errors and sizes:
//
//   - Errors come back as their text. errors.As finds a *temporal.ApplicationError, whose Type names
//     the function's own error type. The parts of errors.Join and of
//     several %w, and an inner activity's *Error, are only text. PanicError.Value is
//     the value's text.
//   - A workflow gets a panic as a [*temporal.PanicError]. If the value is an error, it gets an
//     ApplicationError of the type "activity.PanicError" instead, whose cause is that error, because
//     a PanicError has no cause and cannot say whether it is retried.
//   - Stacks are cut to 1 KiB. The worker logs them in full. The server keeps 4 KiB of a
//     failure that is retried.
//   - Info.LastFailure is nil in activities that a workflow started.
//   - Inputs and results pass through the client's data converter, and the server's limit is
//     2 MiB.
//
// # Testing
//
// The SDK's test environments run registered functions without a server. In a
// [testing/synctest] bubble their activities use virtual time, including timeouts and
// retries.
package ontemporal
