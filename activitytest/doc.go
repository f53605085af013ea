// Package activitytest answers, in a test, whether an activity really resumes: it
// runs the test's body once undisturbed, and then once for each place at which its
// processes can be interrupted, and lets the body's own assertions judge.
//
//	func TestImportSurvivesEverything(t *testing.T) {
//		activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
//			db := &database{} // outlives the process
//			err := w.Run(func(ctx context.Context, rt *activity.Runtime) error { // one life of the program
//				return rt.Run(ctx, activity.Options{ID: "import", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
//					return importRows(ctx, db)
//				})
//			})
//			if err != nil {
//				t.Fatal(err)
//			}
//			if diff := cmp.Diff([]string{"a", "b", "c"}, db.all()); diff != "" {
//				t.Errorf("rows (-want +got):\n%s", diff)
//			}
//		})
//	}
//
// What outlives a process is a variable of the body. What dies with it is a variable
// of the function that [World.Run] gets, which it calls once for each life of the
// program. Give the activity an Options.ID, or nothing of it outlives its process.
// Every run of the body is in a [testing/synctest] bubble of its own: hours of sleeps
// and timeouts take no time, and nothing really sleeps.
//
// A thousand runs take a second or two. Each is a subtest, whose name says what
// happens in it and runs it alone:
//
//	go test -run 'TestImportSurvivesEverything/crash_after_heartbeat_2_lost_1'
//
// So that the names stay unique, a test calls EveryInterruption once; for several, use
// t.Run around each.
//
// A failure says, beside the body's own words, where the process was interrupted,
// what was resumed from, and what was called in each life. After ten failures the
// rest is not run.
//
// [Plan] says which ways to interrupt are tried, how many runs there are at most, and
// how long they may take. With -short a tenth is run.
//
// # Places
//
// A process can be interrupted before and after each Heartbeat (those of
// [activity.Range] and [activity.Idle] too), Sleep and HeartbeatDetails, on entering and
// on leaving each [activity.Guard], before the function returns, and at each [Point].
// They are counted for each activity by its ID; those without one, by the ID that the
// Runtime makes up in the order in which they are started: where several are started at
// the same time, give them IDs.
//
// Between two effects on the outside there is often no such place. A fake that passes
// a Point makes one:
//
//	func (d *database) insert(ctx context.Context, row string) {
//		activitytest.Point(ctx, "insert") // a write that hangs, and is done later
//		d.mu.Lock()
//		d.rows = append(d.rows, row)
//		d.mu.Unlock()
//		activitytest.Point(ctx, "inserted") // done, and nobody has heard of it
//	}
//
// # Ways to be interrupted
//
// Crash: nothing of the process goes on past the place. Its goroutines stop there, or
// at the next place that they come to; its deferred calls run only when the body and
// its assertions are over, before the test's own clean-ups. The next life begins with
// what the Store durably held. Of the details that were recorded and, by
// Config.SaveInterval, not yet saved, it is tried to lose none, the last one, the last
// two, and so on (of many: some). With Options.SyncHeartbeats there are none.
//
// Stall: the call at the place hangs until its attempt has timed out and the next one
// runs. It wakes at once, or when the next attempt comes to its first place, its
// second, and so on, or returns; and goes on as a call does whose attempt is over,
// before the next attempt takes another step. Inside Guard it wakes once the next
// attempt is blocked by it. There are stalls only where a heartbeat or start-to-close
// timeout is set, and MaximumAttempts allows a further attempt.
//
// Shutdown: [activity.Runtime.Shutdown] is called at the place, which the function goes
// on from with its Context canceled. The process is expected to return an error, and
// is run again. One that returns nil has ended by itself.
//
// Twice: while the process recovers from one interruption it is interrupted again. Of
// all pairs a sample is tried.
//
// # What fails a run
//
// The body's assertions do. Besides:
//
//   - There is no place at all, or no run.
//   - The dry run, in which nothing is interrupted, fails. Then nothing else is run.
//   - The calls of an activity, until it is interrupted, are not those of the dry run,
//     in the same order: what depends on a random number, or on the order of a map,
//     must be injected or sorted. If goroutines other than the function's own call, the
//     order is not looked at.
//   - The run is not over within Plan.Limit of virtual time, or makes 1,000 attempts of
//     one activity, or the dry run comes to 100,000 places.
//   - The process ends without an error although one of its activities was interrupted
//     and not resumed. What the dry run leaves as well is meant to be left.
//   - Goroutines are left that do not end although their contexts have, and an hour has
//     passed. After a crash that is let pass.
//   - A lock is held across a place. An attempt that stalls keeps it, and the next one
//     waits for ever; so does the next life for a lock that outlives a process that
//     crashed. The bubble's time then stands still, which is noticed after some two
//     seconds of real time. The goroutines of that run are left behind, its clean-ups
//     are not run, and no further run follows.
//
// # Details that make no difference
//
// An activity whose steps are idempotent passes every run even if it starts from the
// beginning each time. So the test fails, when all runs are done, if an activity recorded
// details and they never made a difference: every attempt that resumed from them called
// what an attempt calls that resumes from nothing, in the same order and with the same
// details. The message says why: the activity never reads them, or reads only zero values
// because the Codec dropped the rest, or reads them and starts from the beginning. Details
// that are for people only are such details too: call Heartbeat without details, and show
// the progress by other means.
//
// One attempt that differs is enough to pass, as with every activity that skips a step
// which comes to a place. So an activity whose attempts differ anyway passes: one that
// records the time, for example, or the number of the attempt. To have it judged, leave
// these out of its details. Each execution of an ID is compared with its own.
//
// Nothing is said of an activity that
//   - records details once only (a marker),
//   - always reads the same value (the ID of a job elsewhere),
//   - never resumed from the details it records last,
//   - does not return in the dry run,
//   - has Options.HeartbeatDetails, because none of its attempts resumes from nothing, or
//   - calls from a goroutine other than the function's own.
//
// # What it cannot see
//
//   - Effects between two places: there nothing is interrupted. Give the fake a Point.
//   - State that survives although it should not: a variable of the body, or of the
//     package, in which the program keeps its progress. To the test it is the outside.
//   - Goroutines of the process's own, and timers: at a crash they go on until they
//     come to a place, or call the Runtime. One that waits for a goroutine that was
//     stopped must not do so for ever: when the body is over, their contexts end.
//   - What the system takes back from a process that dies, such as a listener or a file's
//     lock: the dead life holds it until the body is over. Open it in the body, or fake it.
//   - A real network in a bubble: a goroutine that waits for it does not let the
//     bubble's time go on. Use a fake, or net.Pipe. Real files are fine.
//   - A call that hangs for ever, and never wakes.
//   - What a power loss does to files.
package activitytest
