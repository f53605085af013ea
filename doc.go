// Package activity is an embedded, in-process activity runtime.
//
// An activity is an ordinary function that does long work and may stall, fail
// or panic. A [Runtime] runs it, watches its heartbeats, retries it, and hands
// the details of the last heartbeat to the next attempt, so that it goes on
// where the last one left off. The ideas and the names are those of Temporal's
// activities; there is no server.
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
// [Runtime.Run] runs a func(Context) error. [Execute] and [Start] run functions
// with an input and a result; Start gives a [Handle] and does not wait.
// [Range] is the loop above, and [Idle] a Sleep for pollers.
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
// function listens: its Context has ended, and whatever it still reports or
// returns is ignored. If its function still runs it is abandoned. At most
// Options.MaxAbandoned abandoned functions may exist when a next attempt
// starts; else the activity is blocked until one returns. Go cannot end a
// goroutine from outside: a function that hangs for ever is a leak, which
// Stats, Status, events and the log show, with the stack where it hangs.
//
// At one instant a timeout comes before everything else: a heartbeat or a
// return that is just as old as its timeout comes too late.
//
// # Heartbeats
//
// [Context.Heartbeat] says that the attempt is alive, and its details say how
// far it got. Details are encoded at once, and the newest win. Without details
// those recorded before stay. An attempt that records none passes on those it
// got. A heartbeat costs about a reading of the clock: beat often.
//
// Record what is done, never what is about to be: a step that was done and not
// recorded is done again, which is why steps should bear that. Where they
// cannot, [Guard] keeps them from overlapping a later attempt, and details can
// say how far to cut back: a file's length, a transaction's number.
//
// Details that cannot be decoded into what the function asks for are an error,
// and not retried: never a silent start from the beginning.
//
// A pause of the whole process, such as SIGSTOP, a frozen virtual machine or a
// starved CPU, is not a stall. When the timer, or whoever finds a deadline due,
// comes late itself, by more than a tenth of the heartbeat timeout (and 1 ms), a
// heartbeat deadline that is due moves on by as much, by one heartbeat timeout at
// most.
//
// # Timeouts
//
// Four, each 0 for none: start-to-close for one attempt; heartbeat for the time
// between heartbeats; schedule-to-start for each wait for a slot of
// Config.MaxConcurrent; schedule-to-close for everything together. The first
// two are retried, the last two are not. A Context's cause is then a
// [*TimeoutError]; its Err is context.Canceled in every case, so a library that
// looks at Err alone takes a timeout for a cancellation.
//
// # Retries
//
// An error, a panic ([*PanicError]) and a start-to-close timeout are followed by
// the interval of the [RetryPolicy]. A heartbeat timeout is not: the timeout was
// the wait, and the next attempt starts at once. (A Temporal server adds its
// backoff here.) Only when the attempt before ended in a heartbeat timeout too,
// and this one recorded nothing new, the interval comes first, so that what
// always hangs does not spin.
//
// Not retried are errors marked with [NonRetryable], those that
// RetryPolicy.Retryable refuses, runtime.Goexit ([ErrGoexit]), cancellation, the
// last of MaximumAttempts, and the two schedule timeouts. [RetryAfter] says when
// to come again.
//
// # Cancellation
//
// The end of the caller's context, [Handle.Cancel] and [Runtime.Shutdown] end the
// attempt's Context at once, and context.Cause says why. The caller gets its
// answer when the function has returned, or Options.CancelGrace later: set a
// short one where a person waits who has pressed Ctrl-C. There is no further
// attempt.
//
// # Return every error
//
// Sleep, Heartbeat, Idle, Range and Guard return an error once the attempt is
// over or canceled, and a function that returns it ends in time. One that does
// not:
//
//   - drops the error of Sleep, Idle, Range or Guard and returns nil: if it was
//     canceled that nil is taken for the cause, so that a loop which was cut
//     short is not taken for done;
//   - drops the error of its last Heartbeat and returns nil: it has succeeded,
//     canceled or not, since everything was done;
//   - goes on after a timeout: it is abandoned, and everything it reports or
//     returns is ignored. What it does to the outside is not: use [Guard]. Nor is
//     what it writes to variables that it captured, which the next attempt
//     shares: keep state in the function's own variables and in details;
//   - goes on after a cancellation: it is abandoned after CancelGrace;
//   - returns the error of a Heartbeat whose details cannot be encoded: the
//     activity ends, since every retry would meet it again.
//
// # The log
//
// Config.Logger gets a Warn for each attempt that failed or timed out, with the
// stack where it hung or panicked, and an Error for what needs a person: a
// blocked activity, a panic in a callback, a Store that fails. Nothing is logged of success. Of
// thousands that stall at one instant a few are logged in full, and the rest is
// counted. A command-line program, whose screen is its own, may want
// slog.New(slog.DiscardHandler) and an Observer.
//
// The stack comes from a dump of all goroutines, which stops the world. One dump
// serves all that stall at one instant, dumps take a twentieth of the time at
// most, and none is taken of more than 4,000 goroutines. The error then says why
// it has no stack.
//
// # Durability
//
// With a Config.Store, such as package boltstore's, a [Checkpoint] of each activity
// that has an Options.ID outlives the process:
//
//   - An attempt's start is durable before its function runs, so that one which
//     kills the process counts.
//   - Details are given to the Store within Config.SaveInterval (100 ms), those of
//     all activities in one Save. Heartbeat does not wait for it, so a crash can
//     lose what was recorded in the last SaveInterval and while the last Save was
//     under way. With Options.SyncHeartbeats it waits, and a crash loses nothing.
//   - When the caller hears of success, the checkpoint is durably gone. A final
//     failure leaves it.
//
// What the next execution of the ID makes of the checkpoint depends on its
// [CheckpointState]:
//
//   - running: the process ended. It goes on with the details, the count of
//     attempts and the schedule time: at once, if the attempt had made progress;
//     else after the policy's interval, counted from the last write, since what
//     kills its process must not do so at every boot.
//   - interrupted, by [Runtime.Shutdown] or the end of the caller's context: it goes
//     on at once, and the attempt that was canceled does not count.
//   - failed for good, or canceled by [Handle.Cancel]: a new execution, attempt 1,
//     which resumes from the details.
//
// [Runtime.Recover] does that for everything that was running or interrupted: call it when
// the program starts, with a [Definition] for each kind of activity. What was
// canceled on purpose stays canceled. [Runtime.Checkpoints] lists what is stored, and
// [Runtime.Forget] drops it.
//
// Every kill counts against RetryPolicy.MaximumAttempts: a long job that is to
// survive many sets ResetOnProgress.
//
// A cancellation does not wait for the Store. What was canceled or interrupted is
// durable once [Runtime.Shutdown] has returned nil; a crash before that leaves it
// as running. So end a program with Shutdown, and close the Store after it. After
// a kill -9 nothing has to be done.
//
// A Store that fails at a start fails the start. Later it is logged and tried
// again, after 5 s at most (SaveInterval, if that is longer), and the activities go
// on: what is not saved yet stays in memory, the newest of each only.
//
// What durability is not: a step that was done and whose heartbeat was not saved
// is done again. What has completed leaves no trace: a caller that starts the same
// ID at every boot does it again. An inner activity with an ID, started by an
// outer one, is recovered on its own; give it none, and it is the outer one's to
// start again. One Runtime at a time may use a Store.
//
// # Testing
//
// In a [testing/synctest] bubble the zero Config runs on the bubble's virtual
// time: an hour of Sleeps and timeouts takes microseconds, nothing has to be
// driven, and the same program gives the same events at the same instants.
// Where a test wants to stop at an instant and look, Config.Clock takes a
// [github.com/benbjohnson/clock.Mock]. Options.HeartbeatDetails starts a function
// in the middle. Make the Runtime in the bubble. For a crash, take the Clone of a
// storetest.Memory, which is what a killed process leaves, and go on with a new
// Runtime on that.
//
// Package activitytest runs a test's body once for each place at which its process
// can crash, stall or be shut down, and lets the body's assertions judge.
package activity
