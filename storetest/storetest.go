// Package storetest tests implementations of [activity.Store]. It also has [Memory], a Store
// in memory for tests of activities.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Run tests that a Store meets the requirements of [activity.Store]. Each requirement is a
// subtest. With -short, Run tries fewer cases in the slow subtests.
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) (activity.Store, func() activity.Store) {
//			path := filepath.Join(t.TempDir(), "activities.db")
//			reopen := func() activity.Store {
//				killed := filepath.Join(t.TempDir(), "activities.db")
//				copyFile(t, killed, path)
//				return openStore(t, killed)
//			}
//			return openStore(t, path), reopen
//		})
//	}
//
//	func openStore(t *testing.T, path string) activity.Store {
//		s, err := mystore.Open(path)
//		if err != nil {
//			t.Fatal(err)
//		}
//		t.Cleanup(func() { s.Close() })
//		return s
//	}
//
// open must return a new, empty Store, and use t.Cleanup to close it.
//
// reopen must return what a new process would find if this one were killed now: another
// Store on a copy of the same data. For a Store that uses files, copy the files; for one on
// a server, open another connection. reopen must not close the first Store or make it write,
// because a killed process loses what it has not written. Run only reads from the Store that
// reopen returns. It calls reopen up to about 40 times in a subtest, from the subtest's
// goroutine. Some of these calls come during a Save or after the first Store was closed. A
// plain copy of a file that is being written mixes several moments, so copyFile must read
// the file until two successive reads are equal.
//
// Run does not test a loss of power or a crash of the operating system. The system's cache
// may hold what reopen finds, so Run does not notice a missing fsync. Nor does Run test full
// or failing disks, or broken connections. A Store needs its own tests for these.
//
// Beyond the text of the interface, Run requires the following:
//
//   - An ID is any string of 1 to 1,024 bytes. The other strings may hold any bytes, too.
//     A Sequence is in the range 1 to [math.MaxUint64]. The other numbers are at least in
//     the range 0 to [math.MaxInt32]. Times keep their nanoseconds, from the zero Time to
//     the year 9999. They may lose their location and monotonic clock reading.
//   - The Sequence of an ID grows with each Save, and starts over after a Delete. So a Store
//     may refuse or ignore a checkpoint whose Sequence is not greater than the stored one.
//     It must not remember the Sequence of a deleted checkpoint.
//   - Every field of a Checkpoint comes back as it was saved, including NextAttempt and
//     Header. Only an Input, Details or Header of length 0 may come back as either nil or
//     empty. Input and Details may be larger than 2 MiB, the default of
//     activity.Config.MaxDetailsSize. Any State may replace any other.
//   - A Save takes 1,000 checkpoints, or 16 MiB of Input, Details, Header and LastFailure, in
//     one atomic batch. A Delete takes 1,000 IDs. A Runtime makes no larger batches, except for
//     a batch of one large checkpoint.
//   - If a method's context has ended, its error wraps the context's Err or its
//     [context.Cause].
//   - An error does not say whether anything was written, even if the context had ended
//     before the call. After Save returns an error, either the whole batch is stored or
//     nothing of it. After Delete returns an error, each checkpoint is either unchanged or
//     gone. If such a call writes late, it must not replace or remove anything that a later
//     Save has written.
//   - A reader never sees part of a batch during a Save. All need not show a single moment.
//     If a checkpoint is saved before the loop begins and does not change until the loop
//     ends, All yields it exactly once, however many others the loop body saves and deletes.
//     All may read in pages if each page begins after the last ID of the page before. With
//     LIMIT and OFFSET, it would skip some. A loop may be left early, and the result of All
//     may be ranged over again.
//   - Save and Delete do not change their argument. The caller may keep and change whatever
//     Load and All return, including the bytes.
//   - If the Store has the method MayHold, it returns true for each checkpoint that Load finds.
//   - If the Store is an io.Closer, every method returns an error after Close, and a second
//     Close does not panic.
//
// Run reports a call that hangs. It waits for 30 s in the body of a loop over All, and for a
// minute or two among concurrent calls, after Close, or after a loop that was left early. No
// other check depends on time.
func Run(t *testing.T, open func(t *testing.T) (s activity.Store, reopen func() activity.Store)) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			s, reopen := open(t)
			err := c.run(&subject{Store: s, ctx: t.Context(), reopen: reopen, short: testing.Short()})
			if errors.Is(err, errNotApplicable) {
				t.Skip(err)
			}
			if errors.Is(err, errHangs) {
				// Closing the Store may hang as well, and then t's log is never printed.
				fmt.Fprintf(os.Stderr, "%s: %v\n", t.Name(), err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A subject is the Store under test in one check.
type subject struct {
	activity.Store
	ctx    context.Context
	reopen func() activity.Store
	short  bool
}

// fewer returns short under -short, and full otherwise.
func (s *subject) fewer(full, short int) int {
	if s.short {
		return short
	}
	return full
}

type check struct {
	name string
	f    func(*subject) error
}

var checks = []check{
	{"LoadMissing", loadMissing},
	{"SaveAndLoad", saveAndLoad},
	{"SaveReplaces", saveReplaces},
	{"SaveReplacesStates", saveReplacesStates},
	{"SaveBatch", saveBatch},
	{"SaveEmptyBatch", saveEmptyBatch},
	{"Delete", deleteOne},
	{"DeleteMissing", deleteMissing},
	{"DeleteSeveral", deleteSeveral},
	{"DeleteNone", deleteNone},
	{"Fields", fields},
	{"IDs", anyIDs},
	{"LargeDetails", largeDetails},
	{"SaveMany", saveMany},
	{"SaveMuch", saveMuch},
	{"DeleteMany", deleteMany},
	{"ArgumentsAreTheCallers", argumentsAreTheCallers},
	{"LoadedIsTheCallers", loadedIsTheCallers},
	{"YieldedIsTheCallers", yieldedIsTheCallers},
	{"DurableSave", durableSave},
	{"DurableDelete", durableDelete},
	{"AtomicWhenKilled", atomicWhenKilled},
	{"AtomicForReaders", atomicForReaders},
	{"ReadDuringSaves", readDuringSaves},
	{"AtomicWhenCanceled", atomicWhenCanceled},
	{"AtomicWhenRefused", atomicWhenRefused},
	{"DeleteWhenCanceled", deleteWhenCanceled},
	{"AllOfNothing", allOfNothing},
	{"AllOfMany", allOfMany},
	{"AllLeftEarly", allLeftEarly},
	{"AllAgain", allAgain},
	{"AllBodyLoads", allBodyLoads},
	{"AllBodySaves", allBodySaves},
	{"AllBodySavesMuch", allBodySavesMuch},
	{"AllBodyDeletes", allBodyDeletes},
	{"AllBodyChangesOthers", allBodyChangesOthers},
	{"AllBodyDeletesMany", allBodyDeletesMany},
	{"AllBodySavesManyAgain", allBodySavesManyAgain},
	{"AllBodyAddsMany", allBodyAddsMany},
	{"Concurrent", concurrent},
	{"ContextEnded", contextEnded},
	{"ContextEndedIsAtomic", contextEndedIsAtomic},
	{"ContextEndsDuringAll", contextEndsDuringAll},
	{"Closed", closed},
	{"ClosedTwice", closedTwice},
	{"ClosedKeeps", closedKeeps},
}

var errNotApplicable = errors.New("the Store is not an io.Closer")

func (c check) run(s *subject) error { return caught(func() error { return c.f(s) }) }

// caught calls f and returns its error. It returns a panic as an error.
func caught(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// patience is the time after which a call is considered to hang.
const patience = 30 * time.Second

var errHangs = errors.New("it seems to hang")

// within calls f and returns its error. If f takes longer than patience, within returns
// an error that wraps errHangs, and f's goroutine is left behind.
func within(what string, f func() error) error {
	result := make(chan error, 1)
	go func() { result <- caught(f) }()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%s did not return within %v: %w", what, patience, errHangs)
	}
}

// unstuck calls f and returns its error. f must call step before each step that may hang.
// If one takes much longer than patience, unstuck returns an error that wraps errHangs, and
// f's goroutine is left behind. f may call within, which gives up earlier.
func unstuck(f func(step func(what string)) error) error {
	var doing atomic.Pointer[string]
	result := make(chan error, 1)
	go func() {
		result <- caught(func() error {
			return f(func(what string) { doing.Store(&what) })
		})
	}()
	for seen := doing.Load(); ; {
		select {
		case err := <-result:
			return err
		case <-time.After(2 * patience):
			now := doing.Load()
			if now != nil && now == seen {
				return fmt.Errorf("%s did not return within %v: %w", *now, 2*patience, errHangs)
			}
			seen = now
		}
	}
}
