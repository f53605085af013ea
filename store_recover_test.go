// Recover, Forget and Checkpoints.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// seed stores one checkpoint of each kind, each with the state as its name.
func seed(s *faultyStore, name string) map[string]activity.CheckpointState {
	kinds := map[string]activity.CheckpointState{
		"crashed": activity.CheckpointRunning, "interrupted": activity.CheckpointInterrupted,
		"failed": activity.CheckpointFailed, "canceled": activity.CheckpointCanceled,
	}
	for id, state := range kinds {
		store(s, activity.Checkpoint{ID: id, Name: name, State: state, Attempt: 1, Progressed: 1, Input: []byte("5"), Details: details(7)})
	}
	return kinds
}

func store(s *faultyStore, cp activity.Checkpoint) {
	cp.ScheduledAt, cp.UpdatedAt, cp.Sequence = time.Now().Round(0), time.Now().Round(0), 7
	if err := s.Memory.Save(context.Background(), []activity.Checkpoint{cp}); err != nil {
		s.t.Error(err)
	}
}

// Given stored checkpoints, when some of their activities run here, then Checkpoints
// yields the others.
func TestCheckpoints_StoredAndNotRunning(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		kinds := seed(s, "job")
		check := func(want map[string]activity.CheckpointState) {
			t.Helper()
			got := map[string]activity.CheckpointState{}
			for cp, err := range e.rt.Checkpoints(e.ctx) {
				checkErr(t, err, nil)
				if _, twice := got[cp.ID]; twice {
					t.Errorf("%q comes twice", cp.ID)
				}
				got[cp.ID] = cp.State
			}
			checkDiff(t, "unfinished", got, want)
		}
		check(kinds)
		e.start(activity.Options{ID: "crashed", AcceptNewInput: true}, untilEnded) // runs here now
		delete(kinds, "crashed")
		check(kinds)
		h := e.start(activity.Options{ID: "failed", AcceptNewInput: true}, untilEnded)
		open := s.block("Save")
		h.Cancel(errCancel)
		e.pass(10 * time.Second)
		kinds["failed"] = activity.CheckpointCanceled // which only the memory knows
		check(kinds)
		for cp := range e.rt.Checkpoints(e.ctx) {
			if checkDetails(t, stored{cp}, 7); cp.ID == "failed" {
				clear(cp.Details) // is the caller's
				clear(cp.Input)
			}
		}
		open()
		synctest.Wait()
		checkDetails(t, stored{s.get("failed")}, 7)
		check(kinds)
		s.on("Delete", failing)
		h = e.start(activity.Options{ID: "canceled", AcceptNewInput: true}, noop)
		h.Cancel(errCancel)
		synctest.Wait()
		checkErr(t, e.end(h), nil) // has succeeded, and the Store does not know it yet
		delete(kinds, "canceled")
		check(kinds)
	})
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) { // no Store
		for cp, err := range rt.Checkpoints(t.Context()) {
			t.Error(cp, err)
		}
	})
}

// Given a loop over Checkpoints, when its body breaks, panics or calls the Runtime, then
// nothing hangs and no goroutine is left.
func TestCheckpoints_BodyBreaksPanicsOrCallsTheRuntime(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		before := bubbled(t)
		kinds := seed(s, "job")
		n := 0
		for range e.rt.Checkpoints(e.ctx) {
			n++
			break
		}
		if n != 1 || goroutines(t, before) != before {
			t.Errorf("%d, and %d goroutines more", n, bubbled(t)-before)
		}
		func() {
			defer func() {
				if v := recover(); v != errBoom {
					t.Errorf("recovered %v", v)
				}
			}()
			for range e.rt.Checkpoints(e.ctx) {
				panic(errBoom)
			}
		}()
		if n := goroutines(t, before); n != before {
			t.Errorf("%d goroutines more", n-before)
		}
		all := slices.Sorted(maps.Keys(kinds))
		for cp := range e.rt.Checkpoints(e.ctx) {
			if cp.ID != "crashed" {
				checkErr(t, e.rt.Forget(e.ctx, cp.ID), nil)
			}
			checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: cp.ID}, noop), nil)
			all = slices.DeleteFunc(all, func(id string) bool { return id == cp.ID })
		}
		if left := e.unfinished(); len(left)+len(all) != 0 {
			t.Errorf("%v were not listed, and %v are left", all, left)
		}
	})
}

// Forget.

// Given a stored checkpoint, when it is forgotten, then it is gone, and if the Delete
// fails, it stays and Forget returns the error.
func TestForget_StoredCheckpoint(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		kinds := seed(s, "job")
		s.on("Delete", failing)
		checkErr(t, e.rt.Forget(e.ctx, "failed"), errDisk)
		s.on("Delete", func(context.Context) error { panic(errDisk) })
		checkErr(t, e.rt.Forget(e.ctx, "failed"), errDisk)
		if got := s.get("failed"); got.State != activity.CheckpointFailed {
			t.Errorf("%+v", got)
		}
		if left := e.unfinished(); len(left) != 4 {
			t.Errorf("%v", left)
		}
		s.on("Delete", nil)
		for id := range kinds {
			checkErr(t, e.rt.Forget(e.ctx, id), nil)
			s.want(activity.Checkpoint{ID: id})
			checkErr(t, e.rt.Forget(e.ctx, id), nil) // absent
		}
		ended, cancel := context.WithCancelCause(e.ctx)
		cancel(errCancel)
		seed(s, "job")
		checkErr(t, e.rt.Forget(ended, "failed"), errCancel)
		if left := e.unfinished(); len(left) != 4 {
			t.Errorf("%v", left)
		}
	})
}

// Given an activity that runs, waits or backs off, when its ID is forgotten, then that is
// ErrAlreadyRunning.
func TestForget_RunningIsRefused(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointRunning, Attempt: 1})
		refused := func() {
			t.Helper()
			checkErr(t, e.rt.Forget(e.ctx, "a"), activity.ErrAlreadyRunning)
		}
		running := e.gate("running")
		h := e.start(job, func(activity.Context) error { <-running; return nil })
		checkState(t, h, activity.StateBackingOff)
		refused()
		other := e.start(activity.Options{}, untilDone(time.Minute))
		e.pass(time.Second)
		checkState(t, h, activity.StateWaiting)
		refused()
		checkErr(t, e.rt.Forget(e.ctx, other.ID()), activity.ErrAlreadyRunning)
		e.pass(time.Minute)
		checkState(t, h, activity.StateRunning)
		refused()
		open := s.block("Delete")
		e.open("running")
		refused() // its end is being saved
		open()
		synctest.Wait()
		checkErr(t, e.end(h), nil)
		checkErr(t, e.rt.Forget(e.ctx, "a"), nil)
	})
}

// Given a checkpoint that waits in memory for a Store that fails, when it is forgotten,
// then it is gone from memory as well.
func TestForget_UnsavedCheckpoint(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error { s.on("Save", failing); return errBoom })
		checkErr(t, e.end(h), errBoom)
		checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
		s.on("Delete", failing)
		checkErr(t, e.rt.Forget(e.ctx, "a"), errDisk)
		checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
		s.on("Delete", nil)
		checkErr(t, e.rt.Forget(e.ctx, "a"), nil)
		s.on("Save", nil)
		saves := len(s.of("Save"))
		e.pass(time.Hour)
		s.want(activity.Checkpoint{ID: "a"})
		checkDiff(t, "unfinished", e.unfinished(), []string(nil))
		if n := len(s.of("Save")); n != saves {
			t.Errorf("%d Saves after it", n-saves)
		}
	})
}

// Rule 23. Given a Save of an ID that is under way, when the ID is forgotten, then the
// Delete comes after that Save.
func TestForget_DuringSaveOfTheID(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := func() {}
		h := e.start(job, func(ctx activity.Context) error {
			<-ctx.Done()
			open = s.block("Save")
			return context.Cause(ctx)
		})
		h.Cancel(errCancel)
		e.pass(10 * time.Second)
		checkErr(t, e.end(h), errCancel)
		short, cancel := context.WithTimeoutCause(e.ctx, time.Minute, errCancel)
		defer cancel()
		checkErr(t, e.rt.Forget(short, "a"), errCancel)
		checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "a") }()
		synctest.Wait()
		open()
		checkErr(t, <-forgotten, nil)
		e.pass(time.Hour)
		s.want(activity.Checkpoint{ID: "a"})
	})
}

// Given a Forget whose Delete is under way, when the ID is started, then the start is
// refused with ErrAlreadyRunning.
func TestForget_NoStartComesBetween(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1, Details: details(7)})
		open := s.block("Delete")
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "a") }()
		synctest.Wait()
		checkErr(t, e.rt.Run(e.ctx, job, noop), activity.ErrAlreadyRunning)
		open()
		checkErr(t, <-forgotten, nil)
		err := e.rt.Run(e.ctx, job, func(ctx activity.Context) error {
			if found, err := ctx.HeartbeatDetails(); found || err != nil {
				t.Errorf("%v, %v", found, err)
			}
			return nil
		})
		checkErr(t, err, nil)
	})
}

// Recover.

func definition(name string, fn func(ctx activity.Context, in int) error) *activity.Definition[int, string] {
	return &activity.Definition[int, string]{Name: name,
		Func: func(ctx activity.Context, in int) (string, error) { return "done", fn(ctx, in) }}
}

// Rule 28. Given stored checkpoints of all states, when Recover is called, then it starts
// those that wait, run or were interrupted, by the Definition of their Name, with their
// Input, and returns how many.
func TestRecover_StartsStoredActivities(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		kinds := seed(s, "job")
		store(s, activity.Checkpoint{ID: "killer", Name: "other", State: activity.CheckpointRunning, Attempt: 1, Input: []byte("6")})
		store(s, activity.Checkpoint{ID: "running", Name: "other", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("6")})
		other := definition("other", func(ctx activity.Context, _ int) error { return untilEnded(ctx) })
		_, err := other.Start(e.ctx, e.rt, "running", 6)
		checkErr(t, err, nil)
		ctx, cancel := context.WithCancelCause(e.ctx)
		n, err := e.rt.Recover(ctx, other, definition("job", func(ctx activity.Context, in int) error {
			if i := ctx.Info(); in != 5 || i.Name != "job" || i.Attempt != 2 || kinds[i.ID] == 0 {
				t.Errorf("%d, %+v", in, i)
			}
			checkDetails(t, ctx, 7)
			return untilEnded(ctx)
		}))
		if checkErr(t, err, nil); n != 3 {
			t.Errorf("%d recovered", n)
		}
		states := map[string]activity.State{}
		for _, a := range e.rt.Activities() {
			states[a.ID] = a.State
		}
		checkDiff(t, "states", states, map[string]activity.State{
			"crashed": activity.StateRunning, "interrupted": activity.StateRunning, "killer": activity.StateBackingOff, "running": activity.StateRunning,
		})
		for _, id := range []string{"crashed", "interrupted"} {
			if got := s.get(id); string(got.Input) != "5" || got.Attempt != 2 || got.Name != "job" {
				t.Errorf("%+v", got)
			}
		}
		if n, err := e.rt.Recover(e.ctx, other, definition("job", nil)); n != 0 || err != nil { // all are
			t.Error(n, err)
		}
		cancel(errCancel) // ctx is theirs
		synctest.Wait()
		if left := e.rt.Activities(); len(left) != 1 {
			t.Errorf("%+v", left)
		}
		kinds["crashed"] = activity.CheckpointInterrupted
		for id, state := range kinds {
			if got := s.get(id).State; got != state {
				t.Errorf("%s: %s", id, got)
			}
		}
	})
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) { // no Store
		if n, err := rt.Recover(t.Context(), definition("job", nil)); n != 0 || err != nil {
			t.Error(n, err)
		}
	})
}

// Rule 28. Given checkpoints without a Definition or with a bad Input, when Recover is
// called, then its error names them, they stay as they were, and the others are started.
func TestRecover_NamesWhatItCannotStart(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		interrupted := activity.Checkpoint{State: activity.CheckpointInterrupted, Name: "job", Input: []byte("5")}
		for id, change := range map[string]func(cp *activity.Checkpoint){
			"a": func(*activity.Checkpoint) {},
			"b": func(cp *activity.Checkpoint) { cp.Name = "nobody" },
			"c": func(cp *activity.Checkpoint) { cp.Input = []byte(`"five"`) },
			"d": func(cp *activity.Checkpoint) { cp.Input = nil },
			"e": func(cp *activity.Checkpoint) { cp.Attempt = -1 },
			"f": func(*activity.Checkpoint) {},
		} {
			cp := interrupted
			cp.ID = id
			change(&cp)
			store(s, cp)
		}
		def := definition("job", func(ctx activity.Context, in int) error { return untilEnded(ctx) })
		n, err := e.rt.Recover(e.ctx, def)
		if n != 2 {
			t.Errorf("%d recovered", n)
		}
		lines := strings.Split(fmt.Sprint(err), "\n")
		for i, id := range []string{"b", "c", "d", "e"} {
			if len(lines) != 4 || !strings.Contains(lines[i], fmt.Sprintf("%q", id)) {
				t.Fatalf("%v", err)
			}
			if got := s.get(id); got.Sequence != 7 {
				t.Errorf("%+v", got)
			}
		}
		if !strings.Contains(lines[0], "nobody") {
			t.Error(lines[0])
		}
		calls := len(s.of(""))
		if n, err := e.rt.Recover(e.ctx, def, definition("job", nil)); n != 0 || err == nil || !strings.Contains(err.Error(), `two Definitions are named "job"`) {
			t.Errorf("%d, %v", n, err)
		}
		if n := len(s.of("")); n != calls {
			t.Errorf("%d calls of the Store", n-calls)
		}
	})
}

// Rule 28. Given many stored activities, when Recover starts them, then they share Saves
// and wait for slots, one that cannot be saved harms no other, and the end of ctx ends
// it.
func TestRecover_ManyAtOnce(t *testing.T) {
	// many has the first start's Save begin before the second start.
	many := func(s *faultyStore) {
		s.on("Load", func(context.Context) error { time.Sleep(time.Nanosecond); return nil })
		for i := range 64 {
			store(s, activity.Checkpoint{ID: fmt.Sprintf("%02d", i), Name: "job", State: activity.CheckpointInterrupted, Input: []byte("5")})
		}
	}
	def := definition("job", func(ctx activity.Context, in int) error { return ctx.Sleep(time.Hour) })
	t.Run("share Saves", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			many(s)
			s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
			n, err := e.rt.Recover(e.ctx, def)
			if checkErr(t, err, nil); n != 64 || time.Since(e.base) != 2*time.Second+1 || len(s.of("Save")) != 2 {
				t.Errorf("%d after %s, %d Saves", n, time.Since(e.base), len(s.of("Save")))
			}
		})
	})
	t.Run("with few slots", func(t *testing.T) {
		durable(t, activity.Config{MaxConcurrent: 5}, func(t *testing.T, e *env, s *faultyStore) {
			many(s)
			n, err := e.rt.Recover(e.ctx, def)
			if checkErr(t, err, nil); n != 64 || time.Since(e.base) != 64 {
				t.Errorf("%d after %s", n, time.Since(e.base))
			}
			synctest.Wait()
			if got := e.rt.Stats(); got.Running != 5 || got.Waiting != 59 {
				t.Errorf("%+v", got)
			}
			e.pass(13 * time.Hour)
			if got := e.rt.Stats(); got.Completed != 64 || len(e.unfinished()) != 0 {
				t.Errorf("%+v", got)
			}
		})
	})
	t.Run("a start fails", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			many(s)
			first := true
			s.on("Save", func(context.Context) error {
				time.Sleep(time.Second)
				if first {
					first = false
					return errDisk
				}
				return nil
			})
			n, err := e.rt.Recover(e.ctx, def)
			if checkErr(t, err, errDisk); n != 63 || !strings.Contains(fmt.Sprint(err), `"00"`) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%d, %v", n, err)
			}
			s.want(activity.Checkpoint{ID: "00", State: activity.CheckpointInterrupted, Input: []byte("5")}) // what stood is back
			if n, err := e.rt.Recover(e.ctx, def); n != 1 || err != nil {                                    // again
				t.Error(n, err)
			}
		})
	})
	t.Run("context ends", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			many(s)
			ctx, cancel := context.WithCancelCause(e.ctx)
			s.on("Load", func(context.Context) error {
				if len(s.of("Load")) == 10 {
					cancel(errCancel)
				}
				return nil
			})
			_, err := e.rt.Recover(ctx, def)
			checkErr(t, err, errCancel)
			e.pass(time.Minute)
			if len(e.rt.Activities()) != 0 || len(e.unfinished()) != 64 {
				t.Errorf("%+v, %v", e.rt.Activities(), e.unfinished())
			}
			if n := len(s.of("Load")); n > 11 {
				t.Errorf("%d Loads", n)
			}
		})
	})
}

// Rule 28. Given a checkpoint that Recover has listed, when somebody else completes or
// ends that activity before Recover starts it, then it is left alone.
func TestRecover_CheckpointChangesMeanwhile(t *testing.T) {
	for name, change := range map[string]func(e *env, s *faultyStore){
		"completed": func(e *env, s *faultyStore) { _ = s.Memory.Delete(e.ctx, []string{"a"}) },
		"failed":    func(e *env, s *faultyStore) { s.put(activity.Checkpoint{State: activity.CheckpointFailed}) },
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Input: []byte("5")})
				s.on("Load", func(context.Context) error { change(e, s); return nil })
				n, err := e.rt.Recover(e.ctx, definition("job", nil), definition("other", nil))
				if n != 0 || err != nil || len(s.of("Load")) != 1 {
					t.Error(n, err)
				}
			})
		})
	}
}

// Given Forget of the empty ID while its Delete hangs, when activities without an ID
// start, then they are not refused.
func TestForget_EmptyIDBlocksNoStart(t *testing.T) {
	s := newStore(t)
	rt := activity.New(activity.Config{Store: s, Logger: quiet})
	in, gate := make(chan struct{}), make(chan struct{})
	s.on("Delete", func(context.Context) error { close(in); <-gate; return nil })
	forgotten := make(chan error, 1)
	go func() { forgotten <- rt.Forget(t.Context(), "") }()
	<-in
	checkErr(t, rt.Run(t.Context(), activity.Options{}, noop), nil)
	s.on("Delete", nil)
	close(gate)
	checkErr(t, <-forgotten, nil)
}

// Given a Forget that the Store is slow to do, when the same ID is forgotten once more, then
// both succeed, and no start of the ID comes between.
func TestForget_TwiceAtOnce(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1, Details: details(7)})
		open := s.block("Delete")
		forgotten := make(chan error, 2)
		for range 2 {
			go func() { forgotten <- e.rt.Forget(e.ctx, "a") }()
		}
		synctest.Wait()
		checkErr(t, e.rt.Run(e.ctx, job, noop), activity.ErrAlreadyRunning)
		open()
		checkErr(t, <-forgotten, nil)
		checkErr(t, <-forgotten, nil)
		if n := len(s.of("Delete")); n != 2 {
			t.Errorf("%d Deletes, want 2", n)
		}
		checkErr(t, e.rt.Run(e.ctx, job, noop), nil)
	})
}

// Given a Forget that waits for a Save, when an activity with its ID starts meanwhile, then
// Forget is refused, and what the activity records is kept. While it runs, a Forget is
// refused at once, although the Store hangs.
func TestForget_StartComesFirst(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		go func() { _ = e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop) }()
		synctest.Wait()
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "a") }()
		synctest.Wait()
		go func() {
			_ = e.rt.Run(e.ctx, job, func(ctx activity.Context) error {
				_ = ctx.Heartbeat(7)
				return untilEnded(ctx)
			})
		}()
		synctest.Wait()
		checkErr(t, e.rt.Forget(e.ctx, "a"), activity.ErrAlreadyRunning)
		open()
		checkErr(t, <-forgotten, activity.ErrAlreadyRunning)
		e.pass(time.Minute)
		checkDetails(t, stored{s.get("a")}, 7)
	})
}

// A snapshotStore is a Store whose All yields what was stored when it began.
type snapshotStore struct{ *faultyStore }

func (s snapshotStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		var all []activity.Checkpoint
		for cp := range s.Memory.All(ctx) {
			all = append(all, cp)
		}
		for _, cp := range all {
			if !yield(cp, nil) {
				return
			}
		}
	}
}

// Given a loop over checkpoints, when its body ends what comes later in it, or what the
// loop has kept in memory, then each is yielded as it is by then, or not at all.
func TestCheckpoints_BodyChangesWhatComesLater(t *testing.T) {
	for _, unsaved := range []bool{false, true} {
		t.Run(fmt.Sprint("unsaved ", unsaved), func(t *testing.T) {
			durable(t, activity.Config{SaveInterval: time.Hour}, func(t *testing.T, e *env, s *faultyStore) {
				rt := activity.New(activity.Config{Store: snapshotStore{s}, Logger: quiet, SaveInterval: time.Hour})
				for _, id := range []string{"a", "completes", "fails", "forgotten", "stays"} {
					if unsaved {
						startWith(t, e.ctx, rt, activity.Options{ID: id, RetryPolicy: once}, func(activity.Context) error { <-e.gate("fail"); return errBoom })
					} else {
						store(s, activity.Checkpoint{ID: id, State: activity.CheckpointInterrupted, Attempt: 1})
					}
				}
				s.on("Save", failing)
				e.open("fail")
				s.on("Save", nil)
				var got []string
				for cp, err := range rt.Checkpoints(e.ctx) {
					checkErr(t, err, nil)
					got = append(got, fmt.Sprint(cp.ID, " ", cp.State, " ", cp.LastFailure))
					if cp.ID == "a" {
						checkErr(t, rt.Run(e.ctx, activity.Options{ID: "completes"}, noop), nil)
						checkErr(t, rt.Run(e.ctx, activity.Options{ID: "fails", RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, func(activity.Context) error {
							return activity.NonRetryable(errCancel)
						}), errCancel)
						checkErr(t, rt.Forget(e.ctx, "forgotten"), nil)
					}
				}
				want := []string{"a interrupted ", "fails failed the user left", "stays interrupted "}
				if unsaved {
					want = []string{"a failed boom", "fails failed the user left", "stays failed boom"}
				}
				checkDiff(t, "checkpoints", got, want)
				checkErr(t, rt.Shutdown(e.ctx), nil)
			})
		})
	}
}

// Given a loop over checkpoints whose body ends an activity, when the Store then fails to
// load the next, then the loop ends with its error.
func TestCheckpoints_LoadFails(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		seed(s, "job")
		var got []error
		rt := activity.New(activity.Config{Store: snapshotStore{s}, Logger: quiet})
		for _, err := range rt.Checkpoints(e.ctx) {
			if got = append(got, err); len(got) == 1 {
				checkErr(t, rt.Run(e.ctx, activity.Options{ID: "other"}, noop), nil)
				s.on("Load", failing)
			}
		}
		if len(got) != 2 || got[0] != nil || !errors.Is(got[1], errDisk) {
			t.Errorf("got %v", got)
		}
	})
}

// Given a loop over checkpoints, when its body forgets all others, then the first is the
// only one.
func TestCheckpoints_BodyForgetsTheOthers(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		kinds := seed(s, "job")
		n := 0
		rt := activity.New(activity.Config{Store: snapshotStore{s}, Logger: quiet})
		for cp := range rt.Checkpoints(e.ctx) {
			n++
			for id := range kinds {
				if id != cp.ID {
					checkErr(t, rt.Forget(e.ctx, id), nil)
				}
			}
		}
		if n != 1 {
			t.Errorf("%d are yielded, want 1", n)
		}
	})
}

// Given a loop over Checkpoints, when an activity ends meanwhile and is not saved, then
// it is yielded as it ended.
func TestCheckpoints_EndedDuringTheLoop(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1})
		h := e.start(activity.Options{ID: "b"}, untilEnded)
		s.on("Save", failing)
		for cp, err := range e.rt.Checkpoints(t.Context()) {
			checkErr(t, err, nil)
			switch cp.ID {
			case "a":
				h.Cancel(nil)
				synctest.Wait()
				e.end(h)
			case "b":
				if cp.State != activity.CheckpointCanceled {
					t.Errorf("b is %s", cp.State)
				}
			}
		}
	})
}

// Rule 28. Given a Codec that encodes one value differently each time, then Recover
// starts what is stored.
func TestRecover_UsesTheStoredInput(t *testing.T) {
	durable(t, activity.Config{Codec: nonceCodec{}}, func(t *testing.T, e *env, s *faultyStore) {
		def := &activity.Definition[string, int]{Name: "import", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		_, err := def.Start(e.ctx, e.rt, "a", "monday")
		checkErr(t, err, nil)
		e2, _ := e.reboot(s, activity.Config{Codec: nonceCodec{}})
		n, err := e2.rt.Recover(e2.ctx, def)
		if n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

// Rule 28. Given a start that holds an ID while Recover runs, when it is refused, then
// Recover starts what is stored.
func TestRecover_BesideRefusedStart(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, Details: details(80), Input: []byte(`"monday"`)})
		open := s.block("Load")
		def := &activity.Definition[string, int]{Name: "job", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		refused := make(chan error, 1)
		go func() { _, err := def.Start(e.ctx, e.rt, "a", "tuesday"); refused <- err }()
		synctest.Wait()
		var n int
		var err error
		go func() { n, err = def2recover(e, def) }()
		synctest.Wait()
		open()
		synctest.Wait()
		checkErr(t, <-refused, activity.ErrCheckpointMismatch)
		if got := e.rt.Stats(); n == 0 && err == nil {
			t.Errorf("Recover returned %d, %v, and nothing runs: %+v", n, err, got)
		}
	})
}

func def2recover(e *env, def activity.Recoverable) (int, error) { return e.rt.Recover(e.ctx, def) }

// Rule 28. Given a Forget that hangs and then fails, when Recover runs meanwhile, then
// its error names the ID.
func TestRecover_DuringForgetThatFails(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1})
		gate := e.gate("delete")
		s.on("Delete", func(context.Context) error { <-gate; return errDisk })
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "a") }()
		synctest.Wait()
		ran := false
		n, err := -1, error(nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			n, err = e.rt.Recover(e.ctx, &activity.Definition[struct{}, string]{Name: "job", Func: func(activity.Context, struct{}) (string, error) { ran = true; return "", nil }})
		}()
		e.pass(10 * time.Second)
		e.open("delete")
		<-done
		checkErr(t, <-forgotten, errDisk)
		e.pass(time.Minute)
		if !ran && err == nil {
			t.Errorf("Recover has returned %d, nil, and a, which was not forgotten, was not recovered", n)
		}
	})
}

// Rule 28. Given a Store whose All yields what it likes, then Recover returns an error
// and does not panic.
func TestRecover_GarbageFromAll(t *testing.T) {
	for name, cps := range map[string][]activity.Checkpoint{
		"no ID":   {{ID: "", Name: "job", State: activity.CheckpointWaiting, Input: []byte("{}")}},
		"made up": {{ID: "#7", Name: "job", State: activity.CheckpointWaiting, Input: []byte("{}")}},
		"twice":   {{ID: "x", Name: "job", State: activity.CheckpointWaiting, Input: []byte("{}")}, {ID: "x", Name: "job", State: activity.CheckpointWaiting, Input: []byte("{}")}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				as := anyAllStore{s, func(context.Context) iter.Seq2[activity.Checkpoint, error] {
					return func(yield func(activity.Checkpoint, error) bool) {
						for _, cp := range cps {
							if !yield(cp, nil) {
								return
							}
						}
					}
				}}
				rt := activity.New(activity.Config{Store: as, Logger: quiet})
				ran := 0
				n, err := 0, error(nil)
				var p any
				func() {
					defer func() { p = recover() }()
					n, err = rt.Recover(t.Context(), &activity.Definition[struct{}, string]{Name: "job", Func: func(activity.Context, struct{}) (string, error) { ran++; return "", nil }})
				}()
				synctest.Wait()
				t.Logf("n %d, err %v, ran %d", n, err, ran)
				if p != nil {
					t.Errorf("Recover panics: %v", p)
				}
				if name == "no ID" && ran > 0 {
					t.Errorf("an activity without an ID was run %d times", ran)
				}
				_ = rt.Shutdown(context.Background())
			})
		})
	}
}
