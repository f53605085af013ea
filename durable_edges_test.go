// What the other tests of durability do not meet.

package activity_test

import (
	"context"
	"log/slog"
	"math"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// The caller's context.

// A countedClock calls hook in its n-th reading.
type countedClock struct {
	clock.Clock
	left atomic.Int32
	hook func()
}

func (c *countedClock) Now() time.Time {
	if c.left.Add(-1) == 0 {
		c.hook()
	}
	return c.Clock.Now()
}

// Rule 17. Given an activity with and without a Store, when the caller's context ends at
// any moment at which the Runtime reads the clock, most of them under its lock, then the
// activity ends.
func TestCaller_ContextEndsAtEachClockReading(t *testing.T) {
	for name, store := range map[string]func() activity.Store{
		"without a Store": func() activity.Store { return nil },
		"with a Store":    func() activity.Store { return &storetest.Memory{} },
	} {
		t.Run(name, func(t *testing.T) {
			for n := int32(1); ; n++ {
				reached := false
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancel(context.Background())
					defer cancel()
					c := &countedClock{Clock: clock.New(), hook: func() { reached = true; cancel() }}
					rt := activity.New(activity.Config{Clock: c, Store: store(), Logger: quiet, Observer: func(activity.Event) {}, MaxConcurrent: 1})
					opts := activity.Options{ID: "a", HeartbeatTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 4}}
					c.left.Store(n)
					h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ int) (string, error) {
						switch ctx.Info().Attempt {
						case 1:
							return "", untilEnded(ctx)
						case 2:
							return "", errBoom
						case 3:
							time.Sleep(2 * time.Second)
						}
						return "done", ctx.Heartbeat(1)
					}, 0)
					if err != nil {
						return
					}
					time.Sleep(time.Minute)
					select {
					case <-h.Done():
					default:
						t.Errorf("canceled at reading %d, and it does not end: %+v", n, h.Status())
					}
				})
				if !reached {
					break
				}
			}
		})
	}
}

// A shortContext ends when it is asked for its Done channel.
type shortContext struct {
	context.Context
	cancel context.CancelFunc
}

func (c shortContext) Done() <-chan struct{} {
	c.cancel()
	return c.Context.Done()
}

// Rule 17. Given a context that ends while Start takes hold of it, then the race detector
// finds nothing, and an error is that of a canceled start.
func TestCaller_ContextEndsWhileStartTakesIt(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	for range 1000 {
		ctx, cancel := context.WithCancel(context.Background())
		err := rt.Run(shortContext{ctx, cancel}, activity.Options{}, noop)
		if err != nil {
			checkEnd(t, err, 0, activity.RetryStateCancelRequested, context.Canceled)
		}
	}
}

// The Store.

// A slowClock holds who sets a timer.
type slowClock struct {
	*clock.Mock
	gate chan struct{}
}

func (c slowClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	<-c.gate
	return c.Mock.AfterFunc(d, f)
}

// Rule 25. Given a Store and a mock clock that is slow to set a timer, when Start
// returns, then the timer is set, so that the mock can be moved on.
func TestClock_TimerIsSetBeforeStoredStartReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := slowClock{clock.NewMock(), make(chan struct{})}
		rt := activity.New(activity.Config{Clock: c, Store: &storetest.Memory{}, Logger: quiet})
		var returned atomic.Bool
		go func() {
			start(t, rt, activity.Options{ID: "a", HeartbeatTimeout: time.Second}, noop)
			returned.Store(true)
		}()
		synctest.Wait()
		if returned.Load() {
			t.Error("Start has returned, and the timer is not set")
		}
		close(c.gate)
		synctest.Wait()
		if !returned.Load() {
			t.Error("Start has not returned")
		}
	})
}

// Rules 21 and 24. Given a Store that cannot delete, when another activity records
// details, then they are saved within SaveInterval.
func TestStoreFails_DeleteDelaysNoDetails(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		beat := make(chan struct{})
		e.start(job, func(ctx activity.Context) error {
			for n := 1; ; n++ {
				select {
				case <-beat:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				_ = ctx.Heartbeat(n)
			}
		})
		s.on("Delete", failing)
		e.start(activity.Options{ID: "done"}, noop)
		e.pass(time.Minute)
		for n := 1; n <= 10; n++ {
			beat <- struct{}{}
			e.pass(100 * time.Millisecond)
			checkDetails(t, stored{s.get("a")}, n)
		}
	})
}

// A lyingStore gives another checkpoint than that which it was asked for.
type lyingStore struct{ *faultyStore }

func (s lyingStore) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	return s.faultyStore.Load(ctx, "a")
}

// Rule 20. Given a Store that gives the checkpoint of another ID, then the start is
// refused.
func TestStoreStart_CheckpointOfAnotherID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted})
		rt := activity.New(activity.Config{Store: lyingStore{s}, Logger: quiet})
		if err := rt.Run(t.Context(), activity.Options{ID: "b"}, noop); err == nil {
			t.Error("b went on from the checkpoint of a")
		}
	})
}

// Rule 20. Given a checkpoint with absurd counts, when its ID is started, then what is
// saved afterwards can be continued again.
func TestStoreStart_AbsurdCheckpointsCanBeContinued(t *testing.T) {
	for name, cp := range map[string]activity.Checkpoint{
		"running, no attempt":       {State: activity.CheckpointRunning},
		"interrupted, the most":     {State: activity.CheckpointInterrupted, Attempt: math.MaxInt},
		"running, the most":         {State: activity.CheckpointRunning, Attempt: math.MaxInt},
		"running, the most, better": {State: activity.CheckpointRunning, Attempt: math.MaxInt, Progressed: math.MaxInt},
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				cp = s.put(cp)
				opts := job
				opts.RetryPolicy.ResetOnProgress = true
				if l := e.launch(e.ctx, opts, untilEnded); l.err != nil {
					s.want(cp) // refused, and as it was
					return
				}
				e.pass(time.Hour)
				if got := s.get("a"); got.CountedFrom < 0 || got.Attempt < cp.Attempt {
					t.Errorf("saved: %+v", got)
				}
			})
		})
	}
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

// A slowHandler hangs.
type slowHandler struct {
	slog.Handler
	gate chan struct{}
}

func (h slowHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h slowHandler) Handle(context.Context, slog.Record) error {
	<-h.gate
	return nil
}

// Rule 24. Given a Logger that hangs, when a Save fails and is logged, then the starts
// that wait for a Save are answered nevertheless.
func TestStoreFails_HangingLoggerDelaysNoSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := slowHandler{slog.DiscardHandler, make(chan struct{})}
		durableEnv(t, activity.Config{Logger: slog.New(h)}, nil, func(t *testing.T, e *env, s *faultyStore) {
			t.Cleanup(func() { close(h.gate) })
			s.on("Save", failing)
			if l := e.launch(e.ctx, activity.Options{ID: "a"}, noop); !l.returned.Load() {
				t.Error("the Save has failed, and Start does not return")
			}
			s.on("Save", nil)
			if l := e.launch(e.ctx, activity.Options{ID: "b"}, noop); !l.returned.Load() {
				t.Error("Start of b does not return")
			}
		})
	})
}

// Rule 27. Given a canceled activity whose function is still inside Guard, when its ID is
// started or forgotten, then that is refused until Guard returns, and Recover passes it
// over.
func TestGuard_KeepsStoredID(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		in := e.gate("in")
		opts := job
		opts.CancelGrace = time.Second
		opts.HeartbeatTimeout = 10 * time.Second
		ctx, cancel := context.WithCancel(e.ctx)
		defer cancel()
		def := &activity.Definition[struct{}, string]{Name: "job", Func: func(activity.Context, struct{}) (string, error) { return "", nil }}
		h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(1)
			return activity.Guard(ctx, func() error { <-in; _ = ctx.Heartbeat(2); return nil })
		})
		synctest.Wait()
		cancel()
		e.pass(time.Second)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested)
		check := func() {
			t.Helper()
			got := s.get("a")
			if got.State != activity.CheckpointInterrupted || got.Attempt != 0 {
				t.Errorf("%+v", got)
			}
			checkDetails(t, stored{got}, 1)
		}
		check()
		checkErr(t, e.rt.Forget(e.ctx, "a"), activity.ErrAlreadyRunning)
		if n, err := e.rt.Recover(e.ctx, def); n != 0 || err != nil {
			t.Error(n, err)
		}
		checkDiff(t, "unfinished", e.unfinished(), []string(nil))
		_, err := def.Execute(e.ctx, e.rt, "a", struct{}{})
		checkErr(t, err, activity.ErrAlreadyRunning)
		check()
		e.open("in")
		check()
		checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
		if n, err := e.rt.Recover(e.ctx, def); n != 1 || err != nil {
			t.Error(n, err)
		}
		e.pass(time.Second)
		s.want(activity.Checkpoint{ID: "a"})
	})
}

// Memory.

// holder is a function that holds on to something, whose end it counts in freed.
func holder(freed *atomic.Int32, fn func(activity.Context) error) func(activity.Context, struct{}) (struct{}, error) {
	held := new([1 << 10]byte)
	runtime.AddCleanup(held, func(n *atomic.Int32) { n.Add(1) }, freed)
	return func(ctx activity.Context, _ struct{}) (struct{}, error) {
		defer runtime.KeepAlive(held)
		return struct{}{}, fn(ctx)
	}
}

// collect runs the garbage collector until freed is n, or it seems that it stays less.
func collect(freed *atomic.Int32, n int32) int32 {
	for i := 0; freed.Load() < n && i < 100; i++ {
		runtime.GC()
		runtime.Gosched()
	}
	return freed.Load()
}

// Rule 24. Given checkpoints that the Store does not take, when their activities have
// ended, then only the checkpoints stay in memory.
func TestMemory_UnsavedCheckpointKeepsNoActivity(t *testing.T) {
	const n = 1000
	s := newStore(t)
	rt := activity.New(activity.Config{Store: s, Logger: quiet, SaveInterval: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var freed atomic.Int32
	var ended []<-chan struct{}
	for i := range n {
		h, err := activity.Start(ctx, rt, activity.Options{ID: strconv.Itoa(i)}, holder(&freed, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(i)
			<-ctx.Done()
			return []error{nil, errBoom, context.Cause(ctx)}[i%3]
		}), struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		ended = append(ended, h.Done())
	}
	s.on("Save", failing)
	s.on("Delete", failing)
	cancel()
	for _, done := range ended {
		<-done
	}
	if got := collect(&freed, n); got != n {
		t.Errorf("%d of %d are freed", got, n)
	}
	s.on("Save", nil)
	s.on("Delete", nil)
	checkErr(t, rt.Shutdown(t.Context()), nil)
	for i := range n {
		if got, want := s.get(strconv.Itoa(i)).State != 0, i%3 > 0; got != want {
			t.Errorf("%d: stored is %v, want %v", i, got, want)
		}
	}
}

// Rule 24. Given a Save that hangs, when starts that wait for it are canceled, then
// nothing of them stays in memory.
func TestMemory_CanceledStartsWhileSaveHangs(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "x"}, noop) // hangs in the Save
		const n = 100
		var freed atomic.Int32
		for range n {
			ctx, cancel := context.WithCancel(e.ctx)
			go func() { _, _ = activity.Start(ctx, e.rt, job, holder(&freed, noop), struct{}{}) }()
			synctest.Wait()
			cancel()
			synctest.Wait()
		}
		if got := collect(&freed, n); got != n {
			t.Errorf("%d of %d are freed", got, n)
		}
		open()
	})
}

// Given a Store, when a function heartbeats, then that allocates no more than without
// one.
func TestAllocations_HeartbeatWithStore(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	beat := func(store activity.Store) (allocs [2]float64) {
		rt := activity.New(activity.Config{Store: store, Logger: quiet, SaveInterval: time.Hour})
		checkErr(t, rt.Run(t.Context(), job, func(ctx activity.Context) error {
			big := 1000 // small ints are boxed for nothing
			allocs[0] = testing.AllocsPerRun(1000, func() { _ = ctx.Heartbeat() })
			allocs[1] = testing.AllocsPerRun(1000, func() { big++; _ = ctx.Heartbeat(big) })
			return nil
		}), nil)
		return allocs
	}
	checkDiff(t, "allocations of a heartbeat beside a Store", beat(&storetest.Memory{}), beat(nil))
}
