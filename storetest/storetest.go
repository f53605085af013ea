// Package storetest checks implementations of [activity.Store], and has one for
// tests, [Memory].
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

// Run checks that a Store does all that [activity.Store] asks of it, each point in
// a subtest. With -short it does less of what takes long.
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
// open returns a new, empty Store and sees to it, with t.Cleanup, that it is
// closed in the end.
//
// reopen returns what a new process would find if this one were killed at that
// very moment: another Store on a copy of the same data. It must not close the
// first Store, nor make it write: what that has not written yet is lost. A Store
// of files copies them; one on a server connects to it once more. It is called up
// to some 40 times in a subtest, by the goroutine of the subtest, while a Save
// runs and also after the first Store was closed. A plain copy of a file that is
// being written mixes several moments: copyFile reads it until two readings in a
// row are the same. What reopen returns is only read.
//
// Run does not test the loss of power, nor a crash of the system. What reopen finds
// may be in the system's caches only, so Run does not notice a Store that leaves out
// an fsync. Nor does it test a disk that is full or fails, or a connection that
// breaks. A Store needs tests of its own for these.
//
// What Run asks for beyond the letter of the interface:
//
//   - IDs are any bytes, 1 to 1,024 of them, and the other strings any bytes too.
//     Sequence takes 1 to [math.MaxUint64], the other numbers at least 0 to
//     [math.MaxInt32]. Times are kept to the nanosecond, from the zero Time to
//     the year 9999; as instants: their location and monotonic reading may go.
//   - The Sequence of an ID grows with each Save, and begins anew after a Delete.
//     So a Store may refuse or ignore a checkpoint whose Sequence is not larger
//     than what it has for the ID. It must not remember Sequences of what was
//     deleted.
//   - Every field of a Checkpoint comes back as it was saved, NextAttempt included.
//     Only Input and Details of length 0 may come back as nil or as empty,
//     whichever was saved. Both may be larger than 2 MiB, the default of
//     activity.Config.MaxDetailsSize. Each State may be replaced by each other.
//   - A Save takes 1,000 checkpoints, or 16 MiB of Input, Details and LastFailure,
//     in one atomic batch. A Delete takes 1,000 IDs. A Runtime makes no larger
//     batches, except of one large checkpoint.
//   - The error of a method whose context has ended wraps either the context's
//     Err or its [context.Cause].
//   - An error says nothing about whether something was written, also if the context
//     had ended before the call. After an error of Save, all of the batch is there or
//     nothing of it. After an error of Delete, each checkpoint is there as it was, or
//     is gone. What such a call writes late must not replace or remove what a later
//     Save has written.
//   - A reader never sees part of a batch while a Save runs. All need not show one
//     moment. A checkpoint that is saved before the loop begins, and not changed
//     until it ends, is yielded exactly once, however many others the body saves
//     and deletes. All can read page by page if each page begins after the last ID
//     of the one before; LIMIT with OFFSET skips some. A loop may be left early,
//     and what All returned may be ranged over again.
//   - Save and Delete leave their argument as it is. What Load and All return,
//     bytes included, is the caller's to keep and to change.
//   - If the Store is an io.Closer, every method returns an error after Close,
//     and a second Close does not panic.
//
// A call that does not return for 30 s in the body of a loop over All, or for
// some minutes after Close, after a loop was left or among concurrent calls, is
// taken to hang. Nothing else depends on time.
func Run(t *testing.T, open func(t *testing.T) (s activity.Store, reopen func() activity.Store)) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			s, reopen := open(t)
			err := c.run(&subject{Store: s, ctx: t.Context(), reopen: reopen, short: testing.Short()})
			if errors.Is(err, errNotApplicable) {
				t.Skip(err)
			}
			if errors.Is(err, errHangs) {
				// Closing the Store may hang as well, and then nobody sees t's log.
				fmt.Fprintf(os.Stderr, "%s: %v\n", t.Name(), err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A subject is the Store that one check is about.
type subject struct {
	activity.Store
	ctx    context.Context
	reopen func() activity.Store
	short  bool
}

// fewer is short when short is asked for, else full.
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

// caught is f's error, or its panic as one.
func caught(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return f()
}

// patience is how long a call may take before it is said to hang.
const patience = 30 * time.Second

var errHangs = errors.New("it has not returned for a long time, and is taken to hang")

// within runs f, and gives up on it when it hangs.
func within(what string, f func() error) error {
	result := make(chan error, 1)
	go func() { result <- caught(f) }()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%s: %w", what, errHangs)
	}
}

// unstuck runs f, which says with step what it does next, and gives up on it when
// a step hangs. It is more patient than within, which f may call.
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
				return fmt.Errorf("%s: %w", *now, errHangs)
			}
			seen = now
		}
	}
}
