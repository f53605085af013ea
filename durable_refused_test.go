package activity_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// saveHook has f called with the batch of each Save.
func (s *faultyStore) saveHook(f func(ctx context.Context, batch []activity.Checkpoint) error) {
	s.on("Save", func(ctx context.Context) error {
		all := s.of("Save")
		return f(ctx, all[len(all)-1].batch)
	})
}

func beatEvery(d time.Duration) func(ctx activity.Context) error {
	return func(ctx activity.Context) error {
		for n := 1; ; n++ {
			if err := ctx.Heartbeat(n); err != nil && ctx.Err() != nil {
				return err
			}
			if err := ctx.Sleep(d); err != nil {
				return err
			}
		}
	}
}

// Rule 24. Given two starts in a batch that fails, when the Store hangs at the part of
// one, then the other fails too, StoreTimeout later.
func TestStoreHangs_StartBehindPartOfBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		a := e.launch(e.ctx, activity.Options{ID: "a"}, noop)
		b := e.launch(e.ctx, activity.Options{ID: "b"}, noop)
		open()
		gate := e.gate("hang")
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if len(batch) > 1 {
				return errDisk
			}
			if has(batch, "a", "b") {
				<-gate
			}
			return nil
		})
		e.pass(2 * time.Minute)
		if !a.returned.Load() || !b.returned.Load() {
			t.Errorf("after 2 minutes: a has returned: %t, b: %t", a.returned.Load(), b.returned.Load())
		}
		e.pass(10 * time.Hour)
		if !a.returned.Load() || !b.returned.Load() {
			t.Errorf("after 10 hours: a has returned: %t, b: %t", a.returned.Load(), b.returned.Load())
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rule 24. Given the ends of two activities in a batch that fails, when the Store hangs
// at the part of one, then the other's caller is told StoreTimeout later.
func TestStoreHangs_EndBehindPartOfBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		var hs []*activity.Handle[string]
		for _, id := range []string{"a", "b"} {
			hs = append(hs, e.start(activity.Options{ID: id}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second)
				return activity.NonRetryable(errBoom)
			}))
		}
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "x"}, noop)
		e.pass(time.Second)
		gate := e.gate("hang")
		open()
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if len(batch) > 1 {
				return errDisk
			}
			if has(batch, "a", "b") {
				<-gate
			}
			return nil
		})
		e.pass(time.Hour)
		for _, h := range hs {
			select {
			case <-h.Done():
			default:
				t.Errorf("%s: not told after an hour", h.ID())
			}
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rule 24. Given a batch of more than 16 MiB, which goes in several calls, when the first
// hangs, then those that wait for the others are told.
func TestStoreHangs_FirstCallOfLargeBatch(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		var all []*launch
		large := strings.Repeat("x", 9<<20)
		for i := range 4 {
			l := &launch{}
			all = append(all, l)
			go func() {
				_, l.err = activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context, _ string) (string, error) { return "", nil }, large)
				l.returned.Store(true)
			}()
		}
		synctest.Wait()
		gate := e.gate("hang")
		s.on("Save", func(context.Context) error { <-gate; return nil })
		open2 := open
		_ = open2
		// open resets the hook, so hang right after
		open()
		s.on("Save", func(context.Context) error { <-gate; return nil })
		e.pass(10 * time.Minute)
		for i, l := range all {
			if !l.returned.Load() {
				t.Errorf("%d has not returned after 10 minutes", i)
			}
		}
		s.on("Save", nil)
		e.open("hang")
	})
}

// Rules 10 and 24. Given a Load of the ID that hangs, when a second start waits for it,
// then ScheduleToCloseTimeout bounds that wait and its own Load together.
func TestStoreHangs_ScheduleToCloseBoundsTwoLoads(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Load")
		first := e.launch(e.ctx, job, noop)
		e.returnedAt(first, 30*time.Second)
		opts := job
		opts.ScheduleToCloseTimeout = 20 * time.Second
		l := e.launch(e.ctx, opts, noop)
		at := time.Now()
		e.pass(19 * time.Second)
		open()
		gate := e.gate("load")
		s.on("Load", func(context.Context) error { <-gate; return nil })
		for !l.returned.Load() && time.Since(at) < time.Minute {
			e.pass(100 * time.Millisecond)
		}
		if took := time.Since(at); took > 20*time.Second+200*time.Millisecond {
			t.Errorf("Start took %s: %v", took, l.err)
		}
		s.on("Load", nil)
		e.open("load")
	})
}

// Rule 24. Given a single checkpoint that the Store refuses, when it is forgotten, then
// nothing fails.
func TestStoreRefuses_ForgetOfRefusedCheckpoint(t *testing.T) {
	log := &logbook{}
	cfg := limits
	cfg.Logger = slog.New(log)
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			return errors.Join(ctx.Heartbeat(1), ctx.Sleep(time.Minute), activity.NonRetryable(errBoom))
		})
		s.on("Save", failing)
		e.pass(time.Minute)
		checkErr(t, e.end(h), errBoom)
		checkErr(t, e.rt.Forget(e.ctx, "a"), nil)
		s.on("Save", nil)
		e.pass(time.Hour)
		if got := e.rt.Stats(); !got.StoreFailingSince.IsZero() {
			t.Errorf("the Store holds everything, and is failing since %s", got.StoreFailingSince)
		}
	})
}

// Rule 24. Given an activity whose Saves fail and which then completes, when Saves of its
// next execution fail, then that is logged, and tried again after SaveInterval.
func TestStoreFails_SecondOutageIsLogged(t *testing.T) {
	log := &logbook{}
	cfg := limits
	cfg.Logger = slog.New(log)
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		run := func() {
			h := e.start(job, func(ctx activity.Context) error {
				return errors.Join(ctx.Sleep(time.Second), ctx.Heartbeat(1), ctx.Sleep(time.Minute))
			})
			e.pass(500 * time.Millisecond)
			s.on("Save", failing)
			e.pass(time.Minute + time.Second)
			checkErr(t, e.end(h), nil)
			s.on("Save", nil)
			e.pass(time.Hour)
		}
		run()
		failed, again := log.has(slog.LevelError, "the Store failed"), log.has(slog.LevelInfo, "works again and holds everything")
		if failed != 1 || again != 1 {
			t.Errorf("%d, %d: %v", failed, again, log.lines)
		}
		at := time.Now()
		before := len(s.of("Save"))
		run()
		if n := log.has(slog.LevelError, "the Store failed"); n != 2 {
			t.Errorf("the second failure was logged %d times", n-1)
		}
		t.Log(s.times("Save", at)[before:])
	})
}

// Rule 24. Given an outage that ended with a Delete, when one start is refused, then
// those beside it are not.
func TestStoreRefuses_StartAfterOutageHarmsNoOther(t *testing.T) {
	log := &logbook{}
	cfg := limits
	cfg.Logger = slog.New(log)
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		end := e.gate("end")
		var hs []*activity.Handle[string]
		for i := range 30 {
			hs = append(hs, e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second)
				_ = ctx.Heartbeat(1)
				<-end
				return nil
			}))
		}
		s.on("Save", failing)
		e.pass(2 * time.Second)
		e.open("end")
		s.on("Save", nil)
		for _, h := range hs {
			checkErr(t, e.end(h), nil)
		}
		if log.has(slog.LevelInfo, "works again and holds everything") != 1 || !e.rt.Stats().StoreFailingSince.IsZero() {
			t.Errorf("%v", log.lines)
		}
		e.pass(time.Hour)
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, "bad") })
		// one call holds the Store, so that the others share a batch
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if has(batch, "bad") {
				return errDisk
			}
			return nil
		})
		var all []*launch
		gate, saves := e.gate("holds"), 0
		s.saveHook(func(_ context.Context, batch []activity.Checkpoint) error {
			if saves++; saves == 1 {
				<-gate
				return errDisk // so that nothing was taken since the outage
			}
			if has(batch, "bad") {
				return errDisk
			}
			return nil
		})
		e.launch(e.ctx, activity.Options{ID: "holds"}, noop)
		all = append(all, e.launchOnly(e.ctx, activity.Options{ID: "bad"}, noop))
		for i := range 30 {
			all = append(all, e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("x", i)}, noop))
		}
		synctest.Wait()
		e.open("holds")
		n := 0
		for _, l := range all[1:] {
			if l.err != nil {
				n++
			}
		}
		if n > 0 {
			t.Errorf("%d of 30 healthy starts were refused because of one that the Store refuses", n)
		}
	})
}

// Rule 24. Given accepted activities whose start the Store refuses, then others get their
// slots.
func TestStoreRefuses_StartHoldsNoSlot(t *testing.T) {
	cfg := limits
	cfg.MaxConcurrent = 2
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		end := e.gate("end")
		for i := range 2 {
			e.start(activity.Options{ID: fmt.Sprint("first", i)}, func(ctx activity.Context) error { <-end; return nil })
		}
		for _, id := range []string{"bad0", "bad1", "good0", "good1"} {
			e.start(activity.Options{ID: id}, noop) // accepted: waiting
		}
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, "bad0", "bad1") })
		e.open("end")
		e.pass(time.Hour)
		for _, id := range []string{"good0", "good1"} {
			if at := e.started(id, 1); at < 0 {
				t.Errorf("%s has not started after an hour", id)
			}
		}
	})
}

// Rule 24. Given heartbeats one after another, each of which is a batch of its own, when
// the Store takes nothing, then only a few are tried after each pause.
func TestStoreFails_HeartbeatsOneAfterAnother(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		const n = 200
		for i := range n {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second + time.Duration(i)*150*time.Millisecond)
				_ = ctx.Heartbeat(1)
				return untilEnded(ctx)
			})
		}
		synctest.Wait()
		s.on("Save", failing)
		e.pass(time.Minute)
		before := len(s.of("Save"))
		e.pass(time.Minute)
		// A Store that is down: one call after each pause of 5 s.
		if n := len(s.of("Save")) - before; n > 12*13 {
			t.Errorf("%d Saves in a minute to a Store that takes nothing", n)
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given a SaveInterval of microseconds, when the Store fails, then the pauses
// double up to 5 s nevertheless.
func TestStoreFails_PausesWithTinySaveInterval(t *testing.T) {
	for _, d := range []time.Duration{10 * time.Microsecond, time.Microsecond} {
		cfg := limits
		cfg.SaveInterval = d
		t.Run(d.String(), func(t *testing.T) {
			durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
				e.start(job, func(ctx activity.Context) error {
					_ = ctx.Sleep(time.Second)
					_ = ctx.Heartbeat(1)
					return untilEnded(ctx)
				})
				s.on("Save", failing)
				e.pass(50 * time.Second)
				before := len(s.of("Save"))
				e.pass(10 * time.Second)
				if n := len(s.of("Save")) - before; n > 3 {
					t.Errorf("%s: %d Saves in 10 s, after 50 s of failures", d, n)
				}
				s.on("Save", nil)
			})
		})
	}
}

// Rule 24. Given a Store that always fails, panics or hangs, then there are few log lines
// in an hour.
func TestStoreFails_FewLogLinesAnHour(t *testing.T) {
	for name, hook := range map[string]func(context.Context) error{
		"fails":  failing,
		"panics": func(context.Context) error { panicHere(errDisk); return nil },
		"hangs":  func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			log := &logbook{}
			cfg := limits
			cfg.Logger = slog.New(log)
			durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
				e.start(job, beatEvery(time.Second))
				s.on("Save", hook)
				e.pass(time.Hour)
				if n := log.has(slog.LevelError); n > 20 {
					t.Errorf("%d Error lines in an hour", n)
				}
				s.on("Save", nil)
			})
		})
	}
}

// Rule 24. Given two activities that the Store refuses in turn, one of them with
// SyncHeartbeats, then there are few log lines in an hour.
func TestStoreRefuses_FewLogLinesOfTwoInTurn(t *testing.T) {
	log := &logbook{}
	cfg := limits
	cfg.Logger = slog.New(log)
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		e.start(activity.Options{ID: "a"}, beatEvery(time.Second))
		e.start(activity.Options{ID: "b", SyncHeartbeats: true}, beatEvery(7*time.Second))
		e.start(activity.Options{ID: "c"}, beatEvery(time.Second))
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, "a", "b") })
		e.pass(time.Hour)
		if n := log.has(slog.LevelError); n > 20 {
			t.Errorf("%d Error lines in an hour", n)
		}
		s.on("Save", nil)
	})
}

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

// Given a Forget whose Delete fails, then Stats.SaveFailures counts it.
func TestStats_SaveFailuresCountsForget(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		checkErr(t, e.rt.Forget(e.ctx, "x"), errDisk)
		if got := e.rt.Stats(); got.SaveFailures != 1 {
			t.Errorf("SaveFailures is %d after a Delete that failed", got.SaveFailures)
		}
	})
}

// A store whose All yields what it likes.
type anyAllStore struct {
	*faultyStore
	all func(ctx context.Context) iter.Seq2[activity.Checkpoint, error]
}

func (s anyAllStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return s.all(ctx)
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

// Rule 24. Given a loop over Checkpoints whose body panics, when All hangs as it is told
// to stop, then the loop ends StoreTimeout later.
func TestStoreHangs_AllAfterBodyEndsLoop(t *testing.T) {
	for _, how := range []string{"break", "panic", "goexit"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				gate := make(chan struct{})
				as := anyAllStore{s, func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
					return func(yield func(activity.Checkpoint, error) bool) {
						if !yield(activity.Checkpoint{ID: "x", Name: "job", State: activity.CheckpointWaiting}, nil) {
							select {
							case <-gate:
							case <-ctx.Done():
							}
						}
					}
				}}
				rt := activity.New(activity.Config{Store: as, Logger: quiet, StoreTimeout: 30 * time.Second})
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					for range rt.Checkpoints(context.Background()) {
						switch how {
						case "break":
							return
						case "panic":
							panic(1)
						default:
							runtime.Goexit()
						}
					}
				}()
				time.Sleep(time.Hour)
				select {
				case <-done:
				default:
					t.Error("the loop has not ended after an hour")
				}
				close(gate)
				synctest.Wait()
			})
		})
	}
}

// Rule 24. Given a Store that hangs for one ID and heeds its context, then the others are
// saved as soon as ever: a batch of one never means that the Store is down.
func TestStoreHangs_OneIDDelaysNoOther(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		e.start(activity.Options{ID: "x"}, beatEvery(time.Second))
		e.start(activity.Options{ID: "y"}, beatEvery(time.Second))
		e.pass(time.Second)
		var returned time.Time
		var gaps []time.Duration
		s.saveHook(func(ctx context.Context, batch []activity.Checkpoint) error {
			if has(batch, "x") {
				<-ctx.Done()
				returned = time.Now()
				return context.Cause(ctx)
			}
			if !returned.IsZero() {
				gaps = append(gaps, time.Since(returned))
				returned = time.Time{}
			}
			return nil
		})
		e.pass(10 * time.Minute)
		for i, g := range gaps {
			if i > 1 && g > 200*time.Millisecond {
				t.Errorf("y was saved %s after the call had returned", gaps)
				break
			}
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given many checkpoints that are refused, and slowly, then others start, and
// their details are saved.
func TestStoreRefuses_ManySlowlyDelayNoOther(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		const bad = 900
		for i := range bad {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("bad", i)}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second + time.Duration(i)*150*time.Millisecond)
				_ = ctx.Heartbeat(1)
				return untilEnded(ctx)
			})
		}
		synctest.Wait()
		e.start(activity.Options{ID: "good"}, beatEvery(time.Second))
		s.saveHook(func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, cp := range batch {
				if strings.HasPrefix(cp.ID, "bad") {
					time.Sleep(50 * time.Millisecond)
					return errDisk
				}
			}
			return nil
		})
		e.pass(3 * time.Minute)
		var worst time.Duration
		refused := 0
		for i := range 12 {
			at := time.Now()
			l := e.launch(e.ctx, activity.Options{ID: fmt.Sprint("new", i)}, noop)
			for !l.returned.Load() && time.Since(at) < 2*time.Minute {
				e.pass(50 * time.Millisecond)
			}
			worst = max(worst, time.Since(at))
			if l.err != nil {
				refused++
			}
			e.pass(time.Second)
		}
		if worst > 10*time.Second || refused > 0 {
			t.Errorf("a healthy start took up to %s, and %d of 12 were refused", worst, refused)
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given a Store that is slow and works, and many starts at once, then none is
// refused.
func TestStoreStart_SlowStoreRefusesNone(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(5 * time.Second); return nil })
		var all []*launch
		for i := range 12_000 {
			all = append(all, e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint(i)}, untilEnded))
		}
		e.pass(3 * time.Minute)
		refused := 0
		var err error
		for _, l := range all {
			if !l.returned.Load() {
				t.Fatal("not returned")
			}
			if l.err != nil {
				refused++
				err = l.err
			}
		}
		if refused > 0 {
			t.Errorf("%d of 12,000 starts were refused by a Store whose every call works within 5 s: %v", refused, err)
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given a Store that refuses most checkpoints, once that is found out, then the
// details of the others are saved as soon as ever.
func TestStoreRefuses_MostDelayNoOther(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 300 {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("bad", i)}, beatEvery(time.Second))
		}
		synctest.Wait()
		for i := range 20 {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("good", i)}, beatEvery(time.Second))
		}
		synctest.Wait()
		s.saveHook(func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, cp := range batch {
				if strings.HasPrefix(cp.ID, "bad") {
					return errDisk
				}
			}
			return nil
		})
		var worst time.Duration
		for i := range 120 {
			e.pass(5 * time.Second)
			if i < 72 {
				continue // until it is found out what is refused
			}
			for j := range 20 {
				worst = max(worst, time.Since(s.get(fmt.Sprint("good", j)).UpdatedAt))
			}
		}
		if worst > 6*time.Second {
			t.Errorf("what is stored of a healthy activity that beats each second was up to %s old", worst)
		}
		s.on("Save", nil)
	})
}

// Rule 24. Given a Forget whose Delete is late and heeds its context, when it has
// returned, then the next write is made. Delete returns while Forget is about to wait for
// that, so the race runs many times.
func TestStoreHangs_WriteAfterLateForget(t *testing.T) {
	for range 3000 {
		durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Delete", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
			checkErr(t, e.rt.Forget(e.ctx, "a"), context.DeadlineExceeded)
			s.on("Delete", nil)
			checkErr(t, e.rt.Forget(e.ctx, "b"), nil)
		})
		if t.Failed() {
			return
		}
	}
}

// Rule 24. Given many checkpoints that are refused, when others are taken, then those are
// not tried again before their pause is over.
func TestStoreRefuses_SuccessOfOthersEndsNoPause(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 600 {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("bad", i)}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second)
				_ = ctx.Heartbeat(1)
				return untilEnded(ctx)
			})
		}
		synctest.Wait()
		instants := map[time.Duration]int{}
		s.saveHook(func(ctx context.Context, batch []activity.Checkpoint) error {
			for _, cp := range batch {
				if strings.HasPrefix(cp.ID, "bad") {
					instants[time.Since(e.base)]++
					return errDisk
				}
			}
			return nil
		})
		e.pass(10 * time.Second) // the pauses are 5 s by now
		clear(instants)
		for i := range 60 {
			e.launch(e.ctx, activity.Options{ID: fmt.Sprint("x", i)}, noop)
			e.pass(500 * time.Millisecond)
		}
		calls := 0
		for _, n := range instants {
			calls += n
		}
		if n := len(instants); n > 8 {
			t.Errorf("in 30 s, what the Store refuses was tried at %d instants, in %d Saves, beside 60 healthy starts", n, calls)
		}
		s.on("Save", nil)
	})
}
