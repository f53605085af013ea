// A Store that refuses some checkpoints and takes others.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// saveHook has f called with the batch of each Save.
func (s *faultyStore) saveHook(f func(ctx context.Context, batch []activity.Checkpoint) error) {
	s.on("Save", func(ctx context.Context) error { return f(ctx, s.batch()) })
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

// A store whose All yields what it likes.
type anyAllStore struct {
	*faultyStore
	all func(ctx context.Context) iter.Seq2[activity.Checkpoint, error]
}

func (s anyAllStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return s.all(ctx)
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

// Rule 24. Given a Store that refuses some IDs, when they are saved beside others, then
// only they are refused, and the others are as durable as ever.
func TestStoreRefuses_OneHarmsNoOther(t *testing.T) {
	bad := []string{"3", "500", "501", "502", "999"}
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		var all []*launch
		for i := range 1000 {
			all = append(all, e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				for n := 1; ; n++ {
					if err := errors.Join(ctx.Heartbeat(n), ctx.Sleep(time.Second)); err != nil {
						return err
					}
				}
			}))
		}
		synctest.Wait()
		open()
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, bad...) })
		synctest.Wait()
		for i, l := range all {
			if refused := slices.Contains(bad, fmt.Sprint(i)); refused != errors.Is(l.err, errDisk) || !refused && l.err != nil {
				t.Errorf("%d: %v", i, l.err)
			}
		}
		e.pass(10*time.Second + 100*time.Millisecond)
		checkDetails(t, stored{s.get("7")}, 11)
	})
}

// Rule 24. Given activities whose checkpoints the Store begins to refuse, then they are
// tried again, and the others' details are saved as soon as ever.
func TestStoreRefuses_DuringRun(t *testing.T) {
	log := &logbook{}
	cfg := limits
	cfg.Logger = slog.New(log)
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 100 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				for n := 1; ; n++ {
					if err := errors.Join(ctx.Heartbeat(n), ctx.Sleep(time.Second)); err != nil {
						return err
					}
				}
			})
		}
		e.pass(100 * time.Millisecond)
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, "40", "41", "42", "43") })
		for n := 2; n <= 60; n++ {
			e.pass(time.Second)
			checkDetails(t, stored{s.get("7")}, n)
			checkDetails(t, stored{s.get("99")}, n)
		}
		checkDetails(t, stored{s.get("41")}, 1)
		calls := len(s.of("Save"))
		e.pass(time.Minute)
		// One Save a second of those that are well, and every 5 s those that are refused, together and by themselves.
		if n := len(s.of("Save")) - calls; n > 60+5*12+5 {
			t.Errorf("%d Saves in a minute", n)
		}
		if n := log.has(slog.LevelError); n > 3 {
			t.Errorf("%d lines: %v", n, log.lines)
		}
		if got := e.rt.Stats().StoreFailingSince; !got.Equal(e.base.Add(1100 * time.Millisecond)) {
			t.Errorf("%s", got)
		}
		s.on("Save", nil)
		e.pass(5 * time.Second)
		checkDetails(t, stored{s.get("41")}, 125)
		if got := e.rt.Stats().StoreFailingSince; !got.IsZero() {
			t.Errorf("%s", got)
		}
	})
}

// Rule 24. Given many and large checkpoints, then no batch has more than 1,000
// checkpoints or 16 MiB.
func TestStoreRefuses_LargeBatches(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, noop)
		large := strings.Repeat("x", 1<<20)
		var all []*launch
		for i := range 2500 {
			all = append(all, e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				if i < 40 {
					_ = ctx.Heartbeat(large)
				}
				return untilEnded(ctx)
			}))
		}
		synctest.Wait()
		open()
		rows, bytes := 0, 0
		s.refusing(func(batch []activity.Checkpoint) bool {
			size := 0
			for _, cp := range batch {
				size += len(cp.Input) + len(cp.Details) + len(cp.LastFailure)
			}
			rows, bytes = max(rows, len(batch)), max(bytes, size)
			return len(batch) > 100
		})
		e.pass(time.Second)
		for i, l := range all {
			if !l.returned.Load() || l.err != nil {
				t.Fatalf("%d: %v", i, l.err)
			}
		}
		for i := range 40 {
			if got := s.get(fmt.Sprint(i)); len(got.Details) < 1<<20 {
				t.Errorf("%d: %d bytes", i, len(got.Details))
			}
		}
		if rows != 1000 || bytes > 16<<20 || bytes < 15<<20 {
			t.Errorf("batches of up to %d checkpoints and %d bytes", rows, bytes)
		}
	})
}

// Rule 24. Given checkpoints that the Store refuses slowly, when they are tried by
// themselves and somebody waits for another one, then that comes next.
func TestStoreRefuses_WaitingCallerComesFirst(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		var ids []string
		for i := range 20 {
			ids = append(ids, fmt.Sprint(i))
			e.start(activity.Options{ID: ids[i]}, beatEvery(time.Second))
		}
		s.on("Save", func(context.Context) error {
			if has(s.batch(), ids...) {
				time.Sleep(time.Second)
				return errDisk
			}
			return nil
		})
		e.pass(2 * time.Minute)
		for range 20 {
			e.pass(700 * time.Millisecond)
			begun := time.Now()
			l := e.launch(e.ctx, activity.Options{ID: "x"}, untilEnded)
			for !l.returned.Load() {
				e.pass(100 * time.Millisecond)
			}
			if took := time.Since(begun); took > 1100*time.Millisecond { // the call that was under way
				t.Errorf("Start took %s", took)
			}
			l.h.Cancel(errCancel)
			<-l.h.Done()
		}
		s.on("Save", nil)
	})
}

// A singleStore takes one checkpoint at a time, and hangs in the Load of IDs that begin with "c".
type singleStore struct {
	storetest.Memory
	saves atomic.Int64
}

func (s *singleStore) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	if strings.HasPrefix(id, "c") {
		<-ctx.Done()
		return activity.Checkpoint{}, false, ctx.Err()
	}
	return s.Memory.Load(ctx, id)
}

func (s *singleStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	s.saves.Add(1)
	if len(batch) > 1 {
		return errDisk
	}
	return s.Memory.Save(ctx, batch)
}

// Given a Store that refuses batches, so that each round has many calls, when starts are
// canceled while they are loaded, then they do not touch what the writer uses between two calls.
// The race detector judges.
func TestStoreRefuses_StartsCanceledDuringRounds(t *testing.T) {
	s := &singleStore{}
	rt := activity.New(activity.Config{Store: s, SaveInterval: time.Millisecond, Logger: quiet})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			_ = rt.Run(ctx, activity.Options{ID: fmt.Sprint("r", i)}, func(ctx activity.Context) error {
				for n := 0; ; n++ {
					if err := ctx.Heartbeat(n); err != nil {
						return err
					}
					time.Sleep(100 * time.Microsecond) // the pace of the changes; nothing depends on it
				}
			})
		})
	}
	for i := range 8 {
		all.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				ctx, cancel := context.WithTimeout(ctx, 100*time.Microsecond)
				_, _ = rt.Start(ctx, activity.Options{ID: fmt.Sprint("c", i, "-", n)}, noop)
				cancel()
			}
		})
	}
	for want := int64(repeated(2000)); s.saves.Load() < want; {
		time.Sleep(time.Millisecond)
	}
	stop()
	all.Wait()
	checkErr(t, rt.Shutdown(t.Context()), nil)
}
