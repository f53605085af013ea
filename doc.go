// Package activity is an embedded, in-process activity runtime.
//
// An activity is an ordinary function that does long work and may stall, fail
// or panic. A [Runtime] runs it, watches its heartbeats, retries it, and hands
// the details of the last heartbeat to the next attempt, which resumes from them.
// The ideas and the names are those of Temporal's activities, but there is no server.
//
//	func importRows(ctx activity.Context) error {
//		next, err := activity.Resume(ctx, 0) // the last heartbeat's details, or 0
//		if err != nil {
//			return err
//		}
//		for ; next < len(rows); next++ {
//			if err := importRow(ctx, rows[next]); err != nil {
//				return err
//			}
//			if err := ctx.Heartbeat(next + 1); err != nil {
//				return err
//			}
//		}
//		return nil
//	}
//
//	rt := activity.New(activity.Config{})
//	err := rt.Run(ctx, activity.Options{
//		StartToCloseTimeout: time.Hour,        // one attempt takes no longer
//		HeartbeatTimeout:    10 * time.Second, // and is never silent for longer
//	}, importRows)
//
// If importRows is silent for 10 s, its attempt is over: its Context ends, and
// the next attempt starts at once and resumes from the last details.
//
// [Runtime.Run] and [Runtime.Start] take a func(Context) error. [Execute] and
// [Start] take functions with an input and a result. Run and Execute wait for the
// end of the activity, and the two Starts return a [Handle] instead. [Range] is the
// loop above, and [Idle] is a Sleep for pollers.
//
// # Words
//
// An execution is everything from Start to the outcome that the caller gets. It
// consists of attempts, one after the other. Each attempt is one call of the function.
// Heartbeat details are the values that Heartbeat records. An attempt makes progress if
// it records details that differ, once encoded, from those that it resumed from. A slot
// is the right to run one attempt, and Config.MaxConcurrent limits the number of slots. A
// backoff is the wait before the next attempt. An attempt is fenced once it is over:
// whatever its function still reports or returns is ignored. If that function is still
// running, it is abandoned. A checkpoint is what a [Store] keeps of an execution, so that
// it survives the process.
//
// # The life of an attempt
//
//	Start ──> waiting ──slot──> running ──returns nil───────────────> completed
//	             ^                 │
//	             │                 ├─returns an error, panics ───┐
//	             │                 ├─start-to-close timeout ─────┤
//	             │                 ├─heartbeat timeout ──────────┤
//	             │                 ├─schedule-to-close timeout ──┼──> failed
//	             │                 └─canceled, then returns ─────┼──> canceled
//	             │                                               │
//	             │      no further attempt <── is it retried? <──┘
//	             │          (failed)             │
//	             ├──at once, after a heartbeat timeout
//	             ├──backing off <────────────────┤
//	             └──blocked <── earlier functions still run
//
// An attempt that has timed out is fenced at that instant, whether or not its
// function listens: its Context has ended, and whatever the function still reports
// or returns is ignored. If the function still runs, it is abandoned. At most
// Options.MaxAbandoned abandoned functions may exist when the next attempt
// starts. If there are more, the activity is blocked until one of them returns. Go
// cannot end a goroutine from outside, so a function that hangs forever is a leak.
// Stats, Status and events show it, and the log has the stack where it hangs.
//
// # Heartbeats
//
// [Context.Heartbeat] says that the attempt is alive, and its details say how
// far it got. Details are encoded at once, and the newest win. A heartbeat without
// details keeps those recorded before. An attempt that records none passes on those
// that it got. A heartbeat costs hardly more than a reading of the clock, so send
// many.
//
// Heartbeat after a step, never before it. A step that finished but was not
// recorded runs again, so make steps idempotent. If a step writes to a database, module
// sqlstore keeps the checkpoint there, and commits both in one transaction: see [Commit].
// If neither is possible, [Guard] keeps a step from overlapping a later attempt, and
// details can say how far to cut back: a file's length, a transaction's number.
//
// Details that would not come back as they were, because of an unexported field for
// example, are refused when they are recorded: see [Codec]. If details cannot be decoded
// into what the function asks for, it gets [ErrCannotResume], which is not retried. It
// never starts from the beginning silently.
//
// A pause of the whole process, such as SIGSTOP, a frozen virtual machine or CPU
// starvation, is not a stall. If the Runtime itself wakes up late, by more than a
// tenth of the heartbeat timeout and more than 1 ms, it extends a heartbeat deadline
// that is due. The new deadline is as far in the future as the Runtime is late.
// Between two heartbeats, all extensions together are at most one heartbeat timeout.
//
// # Timeouts
//
// There are four timeouts, and zero disables each. Start-to-close limits one
// attempt, heartbeat the time between heartbeats, schedule-to-start each wait for a
// slot of Config.MaxConcurrent, and schedule-to-close everything together. The first
// two are retried, the last two are not. When an attempt has timed out, context.Cause
// of its Context is a [*TimeoutError]. The Context's Err is context.Canceled in every
// case, so a library that looks at Err alone takes a timeout for a cancellation.
//
// # Retries
//
// After an error, a panic ([*PanicError]) or a start-to-close timeout, the next
// attempt waits for the interval of the [RetryPolicy]. After a heartbeat timeout
// it starts at once, because the timeout was the wait. (A Temporal server adds its
// backoff here.) But if the previous attempt ended in a heartbeat timeout too, and this
// one made no progress, the interval comes first, so that a function that always hangs
// does not spin.
//
// These are not retried: errors marked with [NonRetryable], [ErrCannotResume], errors
// that RetryPolicy.Retryable refuses, runtime.Goexit ([ErrGoexit]), cancellation, the
// last of MaximumAttempts, and the two schedule timeouts. [RetryAfter] replaces the
// interval, if its time is positive.
//
// # Cancellation
//
// The end of the caller's context, [Handle.Cancel] and [Runtime.Shutdown] end the
// attempt's Context at once, and context.Cause returns the reason. From then on no
// timeout counts, not even schedule-to-close. A canceled activity is not retried. Its
// callers get the outcome when the function has returned, or at the latest
// Options.CancelGrace after the cancellation. Choose a short grace period for interactive
// programs.
//
// [Runtime.Pause] ends the Context too, with [ErrPaused] as the cause, but not the activity.
// When the function has returned, the activity waits, without a slot, for [Runtime.Unpause],
// which starts the next attempt. The attempt that was paused does not count. Of all timeouts
// only schedule-to-close counts meanwhile.
//
// [Runtime.Drain] is gentler: the Context lives on, and Heartbeat, Sleep, Idle, Guard, the
// next body of a Range and the next Read of a [Reader] return [ErrShutdown], so that the step
// in progress can finish. A program ends with Drain, and then with Shutdown for activities
// that have not stopped by then. Both need a deadline. A recovered activity continues after
// the last step.
//
// # Return every error
//
// Sleep, Heartbeat, Idle, Range, RangeParallel, Guard and a Reader return an error once
// the attempt is over, canceled or paused, or the Runtime drains. A function that returns
// that error ends in time. If it does something else, this is what happens:
//
//   - It ignores the error of its last Heartbeat and returns nil. If it was canceled or
//     paused, or the Runtime drains, the activity has completed nevertheless, because
//     everything was done.
//   - It ignores the error of one of the others and returns nil. If it was canceled or
//     paused, or the Runtime drains, the activity is canceled or paused, so that a loop that
//     was cut short does not count as done.
//   - It continues after a timeout. It is abandoned, and everything that it reports or
//     returns is ignored. Its side effects still happen, so use [Guard]. The next attempt
//     also sees its writes to captured variables, so keep state in the function's own
//     variables and in details.
//   - It continues after a cancellation or a pause. It is abandoned after CancelGrace.
//   - It returns the error of a Heartbeat whose details cannot be encoded. The
//     activity fails, because every retry would get that error again.
//
// # Concurrency and order
//
// All methods of a Runtime, a [Handle] and a [Context] may be called by several
// goroutines at once. Attempts run in goroutines of their own. The Runtime runs no code
// of yours under a lock, except Config.Clock and Config.Rand.
//
//   - At one instant, timeouts come first: a heartbeat or a return that comes exactly at
//     the deadline is too late. If several deadlines are due, the earliest counts. At one
//     instant, schedule-to-close comes before start-to-close, and start-to-close before
//     heartbeat.
//   - The events of one activity are delivered in order, one at a time, and the last one
//     before Run or Wait returns. Events of different activities are delivered
//     concurrently.
//   - Everything that an attempt did before it returned happens before the next attempt
//     starts. This does not hold for an abandoned function, which runs on beside it.
//   - Slots are granted in the order in which attempts began to wait for one.
//   - One goroutine writes to the Store, one call at a time. Writes of one ID come in
//     order, and no write comes after the delete.
//   - With a Mock clock, and in a synctest bubble, the same program gives each activity
//     the same events at the same times, every time.
//
// # Derived contexts
//
// For libraries that take a context.Context, [FromContext] returns the Context that a
// derived context comes from. Its Sleep ends when the derived context does. With
// [context.WithoutCancel], Sleep and Heartbeat continue to work after a cancellation, for
// a clean-up.
//
// # Wrappers and engines
//
// Config.Interceptor wraps every attempt. The function gets exactly the Context that the
// Interceptor passes to next, so it may assert that to a type of its own.
//
// A wrapper embeds the Context that it wraps, because the interface may grow. [NewContext]
// registers it, so that FromContext returns the wrapper and not what it wraps. If a
// wrapper is not registered, FromContext returns the Context below it.
//
// [Engine] has the methods that [Guard], [Range] and the Sleep of a derived context need
// besides those of Context. The Runtime's own Context implements it. A wrapper need not do
// so: then the Engine of the embedded Context is used. A wrapper that does implement it,
// and may be wrapped again, needs a Value method as well, which returns
//
//	activity.NewContext(inner, wrapper).Value(key)
//
// An engine is a Context of another runtime, such as that of package ontemporal. It
// implements Context and Engine, and needs the same Value method. It must note when the
// function gets the attempt's cause from Sleep, SleepContext or Guard: after a
// cancellation, a nil that the function then returns is no success. Idle, Range, Guard and
// [Reader] call Sleep(0) to report that they return the cause. All but Idle also call it before
// each step. If an
// engine wants the function to stop before its Context ends, as [Runtime.Drain] does, its Sleep
// and Heartbeat return exactly [ErrShutdown].
//
// # Watching
//
// [Runtime.Activities], [Runtime.Lookup] and [Handle.Status] describe activities,
// [Runtime.Stats] counts them, and Config.Observer gets every event. [Runtime.Subscribe]
// takes some kinds of events: without an Observer, kinds that nobody wants cost nothing.
// An activity whose outcome is decided shows it as its State, even while the Store is
// still saving it. Status, [Event] and [Checkpoint] marshal to JSON that people can read,
// with states and kinds as their names.
//
// Config.Logger gets a Warn for each attempt that failed or timed out, with the stack
// where it hung or panicked. It gets an Error for what needs a person: a blocked activity,
// a panic in a callback, a Store that fails. [Runtime.Recover] logs one Info line about
// all activities that it has started. Success is not logged. If thousands of attempts
// stall at one instant, a few are logged in full, and the rest are counted. A command-line
// program that owns its screen may want slog.New(slog.DiscardHandler) and an Observer.
//
// The stack of a stalled function comes from a dump of all goroutines, which stops the
// world. One dump serves all attempts that stall at one instant. Dumps take at most a
// twentieth of the time, and none is taken if there are more than 4,000 goroutines. If a
// TimeoutError has no stack, its text gives the reason.
//
// [Runtime.Stack] returns where a function is right now, [Runtime.RetryNow] ends a backoff,
// [Runtime.Pause] and [Runtime.Unpause] stop and continue an activity, and [Runtime.Cancel]
// cancels it, each by its ID. [Definition.Handle] finds an activity
// that Recover or another part of the program has started, to wait for its result.
//
// # Durability
//
// With a Config.Store, such as that of module boltstore or sqlstore, a [Checkpoint] of each activity
// that has an Options.ID outlives the process. (An activity with a generated ID, such as
// "#7", is never stored.)
//
//   - When Start returns nil, the Store holds the activity, even if it waits for a slot
//     or a backoff.
//   - The start of an attempt is durable before its function runs, so that an
//     attempt that kills the process counts.
//   - Details are given to the Store within Config.SaveInterval (100 ms), those of
//     all activities in one Save. Heartbeat does not wait for it, so a crash can
//     lose what was recorded in the last SaveInterval and while the last Save was
//     in flight. With Options.SyncHeartbeats, which needs a Store and an ID, Heartbeat
//     waits, and a crash loses nothing that it has recorded.
//   - The failure of an attempt, and the time at which the next one is due, are given to
//     the Store within SaveInterval too.
//   - A cancellation or a pause is given to the Store when it happens. If the process is
//     killed while the function cleans up, the cancellation or the pause stands.
//   - When the caller gets a success, the checkpoint is durably gone. After a final
//     failure it stays.
//
// The next execution of the ID starts from the checkpoint. How depends on its
// [CheckpointState]:
//
//   - Waiting, for a slot or a backoff: the execution continues with its details, its
//     count of attempts and its schedule time, at once or after the rest of the backoff.
//   - Running, because the process ended during an attempt: the execution continues with
//     its details, its count of attempts and its schedule time. If the attempt had made
//     progress, it continues at once. If not, the policy's interval comes first, counted
//     from the last write, because an activity that kills its process must not do so again
//     at once at every boot.
//   - Interrupted, by [Runtime.Shutdown] or the end of the caller's context: the
//     execution continues at once, or after the rest of a backoff. An attempt that was
//     canceled does not count.
//   - Paused, by [Runtime.Pause]: the execution continues, but is paused until
//     [Runtime.Unpause]. An attempt that was paused does not count.
//   - Failed for good, or canceled by [Handle.Cancel]: a new execution starts with
//     attempt 1, and resumes from the details.
//
// A checkpoint belongs to one activity. A start with another Name or another input than
// those of the checkpoint is refused with [ErrCheckpointMismatch], because progress in
// one input usually says nothing about another. If it does for your activity, set
// Options.AcceptNewInput.
//
// An attempt that ends in [ErrCannotResume] does not count, and leaves the activity
// interrupted. So after a bad deployment, a version that can read the details continues.
//
// [Runtime.Recover] continues everything that was waiting, running, interrupted or paused. Call
// it when the program starts, with a [Definition] for each kind of activity: its Name
// finds the function, and its Options have neither an ID nor a Name. An activity that
// was canceled by [Handle.Cancel] or [Runtime.Cancel] stays canceled.
// [Runtime.Checkpoints] lists the checkpoints of activities that do not run, and
// [Runtime.Forget] deletes one.
//
// A Store that another process can take over may be lost. Its activities are then canceled with
// [ErrStoreLost], and a function that returns nil nevertheless has not completed, because the
// new owner continues it.
//
// The result of a recovered activity is lost, unless its function stores it, or the
// program waits for it with the [Handle] that [Definition.Handle] returns.
//
// Every kill counts against RetryPolicy.MaximumAttempts, even for innocent activities that
// run beside one that kills the process. Set ResetOnProgress for a long job that must
// survive many kills.
//
// After a kill -9 nothing has to be repaired. If possible, end a program with Drain and
// Shutdown, so that the last details are saved, and close the Store after that.
//
// A Store may fail, refuse, fill up or hang:
//
//   - A start that the Store does not take fails with the Store's error. It may have been
//     written nevertheless, so the checkpoint that the ID had before is put back. That is
//     tried until it works, and until then the ID is refused with [ErrAlreadyRunning].
//   - During a run, checkpoints that the Store does not take stay in memory, only the
//     newest of each activity. They are tried again after SaveInterval, and then after
//     pauses that double up to 5 s (or SaveInterval, if that is longer). The activities
//     continue. A failure is logged when it begins, every 10 minutes while it lasts, and
//     when it is over. [Stats] has SaveFailures and StoreFailingSince.
//   - If an activity failed or was canceled, its callers get the outcome after one try to
//     save that. If it succeeded, they get it once the checkpoint is gone, or at most
//     CancelGrace after they cancel.
//   - One checkpoint that the Store refuses harms no other. A batch has at most 1,000
//     checkpoints and 16 MiB. (A larger checkpoint goes alone.) A batch that fails is tried
//     again in parts. After each pause, the checkpoints that have failed are tried in one
//     call and, if that fails, a few of them by themselves.
//   - A call that takes longer than Config.StoreTimeout (30 s) has failed for everyone who
//     waits for it, and its context ends. Until a Save or Delete returns, nothing else is
//     written. Everyone who waits for a write meanwhile gets an error after another
//     StoreTimeout.
//
// Even if the Store hangs, schedule-to-close bounds every wait, except that for the delete
// of a success. After a cancellation, CancelGrace bounds the wait instead.
//
// ID, Name and LastFailure, which is the text of an error, are stored as they are. Input
// and details are stored as Config.Codec encodes them. A Codec may encrypt: see [Codec].
//
// The stored schedule time follows the wall clock when that is set. A stored schedule time
// in the future means that a clock was wrong. It counts as now, and is not rewritten.
//
// Durability has limits. A step that finished but whose heartbeat was not saved runs
// again. A completed activity leaves no trace, so a caller that starts the same ID at
// every boot runs it again. A nested activity with an ID is recovered separately.
// Without one, its parent starts it again. One Runtime at a time may use a Store.
//
// # Testing
//
// In a [testing/synctest] bubble the zero Config runs on the bubble's virtual
// time: an hour of Sleeps and timeouts takes microseconds, no clock has to be
// advanced, and the same program gives the same events at the same instants. There is one
// exception: if the deadline of the caller's context falls on the same instant as a
// timeout, either may come first. Create the Runtime in the bubble. If a test must stop
// at an instant and look, set Config.Clock to a [github.com/benbjohnson/clock.Mock].
//
// Options.HeartbeatDetails starts a function in the middle. To test a crash, take the
// Clone of a storetest.Memory, which is what a killed process leaves, and continue
// with a new Runtime on the clone.
//
// Package activitytest runs a test's body once for each place at which its process
// can crash, stall or be shut down. The body's assertions decide whether a run passes.
package activity
