// Package activitytest tests whether an activity really resumes. It runs the body of a test
// once without an interruption. Then it runs the body again for each place at which the
// program can be interrupted. The body's own assertions decide whether a run passes.
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
// A variable of the body stands for something that outlives the process, such as a database.
// A variable of the function passed to [World.Run] dies with the process, because World.Run
// calls that function once for each life of the program. Give the activity an Options.ID;
// otherwise, nothing of it outlives the process. Each run of the body has its own
// [testing/synctest] bubble, so sleeps and timeouts of hours take no real time.
//
// A thousand runs take a second or two, and longer with files or a database. Each run is a
// subtest. Its name describes the interruption and runs it alone:
//
//	go test -run 'TestImportSurvivesEverything/crash_after_heartbeat_2_lost_1'
//
// Call EveryInterruption once per test, so that the names stay unique. To call it several
// times, wrap each call in t.Run.
//
// Besides the body's own messages, a failure shows where the process was interrupted, which
// details attempts resumed from, and which calls each life made. After ten failures the
// remaining runs are skipped.
//
// A body can use two built-in checks. [World.Same] fails the run if a value differs from that of the
// dry run. [World.Once] fails the run if it is called twice with the same key.
//
// A process that serves until it gets a signal waits for the end of its context, calls Shutdown and returns. With
// World.StopWhenIdle, its context ends when nothing is left to do. After a crash or a planned Shutdown, the next
// life does the same.
//
// A [Plan] limits the kinds of interruptions, the number of runs and their virtual time.
// With -short, a tenth of the runs are made.
//
// # Coverage
//
// Places with the same calls on the stack, and the same name if they are Points, are one site. A
// loop passes the same sites again and again. If more runs are possible than Plan.MaxRuns, those that try
// something new come first:
//  1. each kind of interruption once at each site, and three of these in two forms: a crash, which loses
//     recorded details or not; a stall, which is short or ends only when the next attempt returns; and a
//     power loss, which loses all that was not synced or a part of it,
//  2. the same kinds at other places of these sites, with half of the remaining runs, or with all of them
//     if Plan.Kinds has neither Stall nor Twice,
//  3. a second interruption at each site that only a recovery comes to,
//  4. each pair of a first and a second interruption, which is two kinds at two sites, once; more pairs, at
//     other places; and stalls that wake later.
//
// So if one step of a thousand has code of its own, its faults are found. The same holds for code that
// only a recovery runs. A fault that depends on which iteration is interrupted may be missed. A pair
// is left out if one of its interruptions alone has failed, because that failure is the simpler
// one. The test logs what was tried:
//
//	activitytest: 366 runs, at 12 places, with seed 7: 7 of 7 sites in 3 ways; 315 of 315 pairs
//
// With Plan.RequireAll, the test fails unless everything was tried, except with -short or -run.
//
// # Places
//
// A process can be interrupted at these places:
//   - before and after each Heartbeat, Sleep and HeartbeatDetails, including those made by
//     [activity.Range] and [activity.Idle],
//   - on entering and on leaving each [activity.Guard],
//   - before the function returns,
//   - before and after each HTTP request that passes [World.Serve] or [World.RoundTripper],
//   - before and after each Exec, Query and Commit of a database that [World.Driver] opens,
//   - before each call of a file or a directory of [World.FS], and after it if it changes something; Close,
//     Seek and File.Stat have none,
//   - with Plan.PowerLoss, after the process has returned nil, and
//   - at each [Point].
//
// Places are counted for each activity ID and, in a parallel loop, for each body. An activity
// without an ID is counted under the ID that the Runtime makes up, which depends on the order in
// which activities start. If several activities start at the same time, give them IDs.
//
// # The outside world
//
// Serve, Driver and FS stand for what outlives the process: a server, a database and a disk. A dead process
// reaches none of them any more. At a crash they do what the system would: the server continues, the
// database rolls back, files are closed. So an activity that uses no other effects needs neither Points nor
// fakes. A call of them belongs to the activity in its context. Without one, it belongs to the activity
// whose goroutine makes it, or has started the goroutine that makes it. If neither is known, it belongs to
// the process.
//
// Other effects have no places. Add some by calling Point in a fake:
//
//	func (d *database) insert(ctx context.Context, row string) {
//		activitytest.Point(ctx, "insert") // if it stalls here, the row is written late
//		d.mu.Lock()
//		d.rows = append(d.rows, row)
//		d.mu.Unlock()
//		activitytest.Point(ctx, "inserted") // written, but the caller does not know yet
//	}
//
// # Parallel loops
//
// The places in a body of [activity.RangeParallel] belong to that body and are counted for each
// body, under its number: "after sleep 1 of body 3". The heartbeat with which RangeParallel
// records a body is that body's last one. The bodies that return at one instant are recorded
// one after the other, the lowest number first. When one body is interrupted, the others first
// finish their work of that instant. So the places, and the results of idempotent bodies, do not depend on
// the order in which goroutines run at one instant. There are three exceptions:
//
//   - A name such as "stall_at_point_put_1_of_body_2_until_place_4" or
//     "crash_before_sleep_1_of_body_2_then_stall_at_place_3" counts the places of all bodies in
//     the order in which they are reached. If several are reached at one instant, that order is
//     random.
//   - If a body starts a goroutine, Point and Sleep belong to the body if they get its
//     Context. The goroutine's other calls belong to no body.
//   - Goroutines that are started without RangeParallel share one count, in the order in which
//     they run. A run may then interrupt another goroutine when it is repeated.
//
// A correct body
//   - is idempotent, because it runs again if it is interrupted between its effect and its
//     record. For example, it writes its result under the key i instead of adding to a total.
//   - returns nil only when its effect is complete. It waits for the goroutines that it has
//     started, and if its Context ends, it returns context.Cause.
//   - leaves its result outside the process. A later attempt does not run again the bodies that
//     are done, so it lacks whatever they left in variables of the function.
//   - sends heartbeats without details only.
//   - holds no lock that outlives the attempt across a place.
//
// # Kinds of interruptions
//
// Crash: The process stops at the place. Its goroutines stop there or at their next place. Its
// Runtime is frozen: no timeout fires, so the Contexts of its attempts do not end until the body has ended.
// Their deferred calls run only after the body and its assertions, before the test's own
// cleanups. The next life begins with whatever the Store durably held. Recorded details that
// were not saved yet, because of Config.SaveInterval, may be lost. So there are runs that
// lose none of them, the last one, the last two, and so on. If there are many, only some of
// these numbers are tried. With Options.SyncHeartbeats no details are lost.
//
// Stall: The call at the place hangs until its attempt has timed out and the next attempt
// runs. Depending on the run, it continues as soon as that attempt runs, or when that attempt
// reaches its first place, its second place, and so on, or only when it returns. A Heartbeat or Sleep then
// returns the cause of the attempt's end, and a write or a Commit is made late, before the next attempt takes
// another step. The attempt's other goroutines stop at their next places. Inside Guard, the
// call continues once it blocks the next attempt. So does a call of Driver once the next attempt times out,
// because that may wait for a connection or for the database's lock. Stalls need a heartbeat or start-to-close
// timeout, and a MaximumAttempts that allows another attempt.
//
// Shutdown: [activity.Runtime.Shutdown] is called at the place, and the function continues
// with its Context canceled. If the process returns an error, or nil while the Store holds an
// interrupted activity, World.Run starts another life. If it returns nil and an interrupted
// activity is lost, the run fails.
//
// Fault: One request, statement, Commit or call of a file returns [ErrFault]. A Write has then written its
// first half, and another call of a file has changed nothing. The others have happened or not, depending on
// the run. The function continues, and its next call succeeds unless a second interruption follows. If the
// process itself made the call and returns an error, World.Run starts another life.
//
// Power loss, with Plan.PowerLoss: A crash after which the files of World.FS lack changes that were not
// synced. In the model of ALICE (Pillai et al., OSDI 2014), a call makes one or several small changes: to a
// file's size, to half of what is written, to a name in a directory. A power loss may keep any of them. The
// runs keep the first of them, from none to all but the last; all but one; and only one. If there are many, 40
// of these states are tried at a place. File.Sync makes the changes of a file durable, and for a directory
// those of the names in it. After a rename, a program syncs the directory of the new name. The Store loses
// nothing, and neither does a database. A power loss is also tried after the process has returned nil, and then
// no other life follows: what was reported as done must be on the disk.
//
// Twice: While the process recovers from one interruption, it is interrupted again, at each
// pair of sites once.
//
// # What fails a run
//
// Besides the body's own assertions, World.Same and World.Once, each of the following fails a run or the test:
//
//   - There is no place at all, or no run to make.
//   - The dry run, in which nothing is interrupted, fails. Then no other run is made.
//   - Before the interruption, an activity makes other calls than in the dry run, or makes
//     them in another order. Inject whatever depends on random numbers, and sort whatever
//     depends on the order of a map. If other goroutines than the function's own make calls,
//     the order is not checked.
//   - The run takes more than Plan.Limit of virtual time or makes 1,000 attempts of one
//     activity, or the dry run passes 100,000 places.
//   - The process returns nil although one of its activities was interrupted and not resumed.
//     This is allowed if the dry run leaves that activity unfinished, too, and after a Shutdown if
//     the Store holds the activity, because the next life resumes it.
//   - A goroutine does not end within an hour of virtual time after its context has ended.
//     After a crash this is allowed.
//   - An attempt hangs, and the later ones wait for something that it holds, such as the only connection of a
//     pool: 20 of them time out one after the other, or as many hang as MaxAbandoned allows.
//   - A lock is held across a place. If the attempt stalls there, the next attempt waits for the lock
//     forever. If the process crashes there, the next life waits forever for a lock that outlives the
//     process. The bubble's time then stands still, which is detected after about two seconds of real time,
//     or ten if nobody is at a place. The goroutines of that run are left behind, its cleanups are not run,
//     and no further run is made.
//
// A lock that ends with the attempt is no fault, nor is one that ends with the process if this crashes. But if
// other goroutines of the attempt wait for it, time stands still as well. Such a run is repeated with one
// goroutine at a time: another one leaves its place, or another body of RangeParallel begins, only when the
// current one is blocked. If time
// stands still nevertheless, because goroutines wait for the lock without coming to a place before, the run is
// inconclusive. It is skipped, and after three of them, so are those of the same kind at the same site. The
// test logs how many. It fails only with Plan.RequireAll. A run in which time stands still takes up to a
// second, and leaves its goroutines, open files and temporary directories behind.
//
// # Details that make no difference
//
// An activity with idempotent steps passes every run even if it always starts from the
// beginning. So after all runs, the test fails if an activity recorded details that never
// made a difference. This is the case if every attempt that resumed from them made the same
// calls, with the same details, as an attempt that resumed from nothing. The message gives the
// reason: for example, the activity never reads the details, or it reads them and starts from
// the beginning anyway, or it reads only zero values because the Codec dropped the rest. The
// test fails even if the details are meant only for people to see. If so, call Heartbeat
// without details, and show the progress by other means.
//
// A single attempt that differs is enough to pass. An activity that skips a step with a place
// always passes. So does one whose attempts always differ, for example because its details
// contain the time or the number of the attempt. To have the activity judged, leave these out
// of the details. Each execution of an ID is compared with its own execution in the dry run.
//
// An activity is not judged if it
//   - records details only once, as a marker,
//   - always reads the same value, such as the ID of a job elsewhere,
//   - never resumed from the details that it records last,
//   - does not return in the dry run,
//   - has Options.HeartbeatDetails, because then no attempt resumes from nothing, or
//   - makes calls from a goroutine other than the function's own.
//
// # What it cannot detect
//
//   - Effects between two places, where nothing is interrupted. Add a Point to the fake.
//   - State that survives although it should not, such as progress that the program keeps in
//     a variable of the body or of the package. To the test, such a variable is outside the
//     process.
//   - What goroutines and timers of the process, such as a time.AfterFunc, do after a crash. They run
//     until they reach a place or call the Runtime. A goroutine that waits for a stopped one must
//     also end when its context ends, which happens when the body is over.
//   - What a timer of a dead process does with a server, a database or a file that it opens then.
//   - Resources that the system takes back from a dead process, such as a listener or a file
//     lock. The dead life holds them until the body is over. Open them in the body, or fake
//     them.
//   - A real network. While a goroutine waits for it, the bubble's time does not advance. Use
//     [World.Serve], a fake or net.Pipe. Real files work. If nothing arrives for nine seconds, the test
//     fails and names the goroutines that wait.
//   - A call that hangs forever.
//   - The effect of a power loss on other files than those of FS.
package activitytest
