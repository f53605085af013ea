// Config.StoreTimeout, and batches that are tried in parts.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// limits are what the tests of Config.StoreTimeout use.
var limits = activity.Config{StoreTimeout: 30 * time.Second}

// returnedAt wants l to return at this time after e.base, and not before.
func (e *env) returnedAt(l *launch, at time.Duration) {
	e.t.Helper()
	e.pass(at - time.Since(e.base) - 1)
	if l.returned.Load() {
		e.t.Fatalf("it has returned before %s: %v", at, l.err)
	}
	e.pass(1)
	if !l.returned.Load() {
		e.t.Fatalf("it has not returned after %s", at)
	}
}

// Rule 24. Given a Store that hangs, when StoreTimeout passes, then the start fails, and
// so does one that came later, StoreTimeout after it came. Once the Store works, it holds
// what stood before.
func TestStoreHangs_Start(t *testing.T) {
	for _, method := range []string{"Load", "Save"} {
		for _, heeds := range []bool{false, true} {
			t.Run(fmt.Sprint(method, ", heeds its context: ", heeds), func(t *testing.T) {
				log := &logbook{}
				cfg := limits
				cfg.Logger = slog.New(log)
				durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
					before := s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 3, Progressed: 2, Details: details(7), LastFailure: "boom"})
					open := s.block(method)
					if heeds {
						s.on(method, func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
					}
					l := e.launch(e.ctx, job, noop)
					e.pass(10 * time.Second)
					other := e.launch(e.ctx, activity.Options{ID: "b"}, noop)
					again := e.launch(e.ctx, job, noop)
					checkErr(t, again.err, activity.ErrAlreadyRunning)
					e.returnedAt(l, 30*time.Second)
					checkErr(t, l.err, context.DeadlineExceeded)
					if text := fmt.Sprint(l.err); !strings.Contains(text, `"a"`) || !strings.Contains(text, method+" has not returned after 30s") {
						t.Error(text)
					}
					if n := log.has(slog.LevelError, method, "30s"); n == 0 {
						t.Errorf("log: %v", log.lines)
					}
					if method == "Save" && heeds {
						e.returnedAt(other, 60*time.Second) // it has had its own try
					} else {
						e.returnedAt(other, 40*time.Second)
					}
					checkErr(t, other.err, context.DeadlineExceeded)
					if method == "Load" && !heeds { // until it has returned, there is no other
						waits := e.launch(e.ctx, job, noop)
						e.returnedAt(waits, 70*time.Second)
						checkErr(t, waits.err, context.DeadlineExceeded)
						if n := len(s.of("Load")); n != 2 {
							t.Errorf("%d Loads", n)
						}
					}
					s.on(method, nil)
					open()
					e.pass(10 * time.Second)
					before.Sequence = s.get("a").Sequence
					s.want(before)
					s.want(activity.Checkpoint{ID: "b"})
					e.start(job, func(ctx activity.Context) error {
						if i := ctx.Info(); i.Attempt != 4 {
							t.Errorf("attempt %d", i.Attempt)
						}
						checkDetails(t, ctx, 7)
						return nil
					})
					e.stop()
				})
			})
		}
	}
}

// Rule 24. Given an activity that runs, when the Store hangs, then it continues; a
// failure is reported once a try was late, a success once its checkpoint is gone.
func TestStoreHangs_DuringRun(t *testing.T) {
	for name, result := range map[string]error{"fails": activity.NonRetryable(errBoom), "succeeds": nil} {
		t.Run(name, func(t *testing.T) {
			durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
				h := e.start(job, func(ctx activity.Context) error {
					return errors.Join(ctx.Heartbeat(7), ctx.Sleep(time.Hour), result)
				})
				e.pass(time.Minute)
				opens := []func(){s.block("Save"), s.block("Delete")}
				e.pass(time.Hour - time.Minute + 30*time.Second - 1)
				checkSaving(t, h, map[bool]activity.State{true: activity.StateCompleted, false: activity.StateFailed}[result == nil])
				e.pass(1)
				if result != nil {
					checkErr(t, e.end(h), errBoom)
				} else {
					e.pass(time.Hour)
					checkSaving(t, h, activity.StateCompleted)
				}
				for _, open := range opens {
					open()
				}
				e.pass(time.Minute)
				checkErr(t, e.end(h), result)
				if result == nil {
					s.want(activity.Checkpoint{ID: "a"})
				} else if got := s.get("a"); got.State != activity.CheckpointFailed {
					t.Errorf("%+v", got)
				}
				if got := e.rt.Stats(); got.SaveFailures != 1 || !got.StoreFailingSince.IsZero() {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// Rule 24. Given a Store that hangs, when StoreTimeout has passed, then SyncHeartbeats
// and Forget return its error.
func TestStoreHangs_SyncHeartbeatsAndForget(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		var at []time.Duration
		e.start(opts, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			for i := range 3 {
				checkErr(t, ctx.Heartbeat(i), context.DeadlineExceeded)
				at = append(at, time.Since(e.base))
			}
			return untilEnded(ctx)
		})
		open := s.block("Save")
		e.pass(20 * time.Second)
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "b") }()
		e.pass(10 * time.Minute)
		// The first is told when its own call is late, the next StoreTimeout after it came.
		checkDiff(t, "heartbeats", at, times(time.Second, 31, 61, 91))
		checkErr(t, <-forgotten, context.DeadlineExceeded)
		if n := len(s.of("Delete")); n != 0 {
			t.Errorf("%d Deletes", n)
		}
		open()
		e.pass(time.Second)
		checkDetails(t, stored{s.get("a")}, 2)

		open = s.block("Delete")
		go func() { forgotten <- e.rt.Forget(e.ctx, "b") }()
		e.pass(30*time.Second - 1)
		if len(forgotten) > 0 {
			t.Error("Forget has returned early")
		}
		e.pass(1)
		checkErr(t, <-forgotten, context.DeadlineExceeded)
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop), activity.ErrAlreadyRunning) // the Delete may still come
		open()
		synctest.Wait()
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop), nil)
	})
}

// Rule 10. Given a Store that hangs anywhere, then ScheduleToCloseTimeout bounds Run.
func TestStoreHangs_ScheduleToCloseBoundsRun(t *testing.T) {
	for _, test := range []struct {
		hangs string
		after time.Duration
		fn    func(ctx activity.Context) error
	}{
		{"Load", 0, noop},
		{"Save", 0, noop},
		{"Save", 1, untilEnded},
		{"Save", 1, func(ctx activity.Context) error { return errors.Join(ctx.Heartbeat(1), untilEnded(ctx)) }},
		{"Save", 1, func(ctx activity.Context) error {
			_ = ctx.Sleep(50 * time.Second)
			return activity.NonRetryable(errBoom)
		}},
		{"Save", 1, func(ctx activity.Context) error { _ = ctx.Sleep(50 * time.Second); return errBoom }},
	} {
		for _, timeout := range []time.Duration{time.Second, time.Hour} {
			t.Run(fmt.Sprint(test.hangs, " ", test.after, " ", timeout), func(t *testing.T) {
				cfg := limits
				cfg.StoreTimeout = timeout
				durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
					opts := job
					opts.ScheduleToCloseTimeout = time.Minute
					if test.after == 0 {
						s.block(test.hangs)
					}
					var err error
					var at time.Duration
					go func() {
						err = e.rt.Run(e.ctx, opts, test.fn)
						at = time.Since(e.base)
					}()
					e.pass(test.after)
					s.block(test.hangs)
					e.pass(time.Minute + 100*time.Millisecond)
					switch {
					case at == 0 || at > time.Minute+100*time.Millisecond || err == nil:
						t.Errorf("after %s: %v", at, err)
					case test.after == 0 && timeout == time.Second && at != timeout:
						t.Errorf("after %s: %v", at, err)
					case test.after == 0 && timeout == time.Hour && (at != time.Minute || timeoutType(err) != activity.TimeoutScheduleToClose):
						t.Errorf("after %s: %v", at, err)
					}
				})
			})
		}
	}
}

// Rule 24. Given calls of the Store that hung, when the Store works again, then no
// goroutine of them is left.
func TestStoreHangs_NoGoroutineIsLeft(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		e.pass(0)
		before := bubbled(t)
		for _, method := range []string{"Load", "Save", "Delete", "All"} {
			open := s.block(method)
			for i := range 3 {
				e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, noop)
			}
			go func() { _ = e.rt.Forget(e.ctx, "x") }()
			go func() {
				for range e.rt.Checkpoints(e.ctx) {
				}
			}()
			e.pass(10 * time.Minute)
			open()
			e.pass(time.Minute)
			if now := bubbled(t); now != before {
				t.Errorf("%s: %d goroutines, %d before", method, now, before)
			}
		}
	})
}

// refusing makes Save refuse every batch for which bad returns true.
func (s *faultyStore) refusing(bad func(batch []activity.Checkpoint) bool) {
	s.on("Save", func(context.Context) error {
		all := s.of("Save")
		if bad(all[len(all)-1].batch) {
			return errDisk
		}
		return nil
	})
}

func has(batch []activity.Checkpoint, ids ...string) bool {
	return slices.ContainsFunc(batch, func(cp activity.Checkpoint) bool { return slices.Contains(ids, cp.ID) })
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

// Rule 24. Given a Store that takes nothing, then a batch is tried a dozen times, and
// then there is one call after each pause, and one for what is urgent. As soon as it
// takes something, it gets everything.
func TestStoreFails_Down(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		for i := range 1000 {
			e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				_ = ctx.Sleep(time.Second)
				for n := 1; ; n++ {
					if err := errors.Join(ctx.Heartbeat(n), ctx.Sleep(time.Second)); err != nil {
						return err
					}
				}
			})
		}
		synctest.Wait()
		open()
		synctest.Wait()
		s.on("Save", failing)
		before := len(s.of("Save"))
		e.pass(time.Second + 100*time.Millisecond)
		if n := len(s.of("Save")) - before; n != 12 {
			t.Errorf("%d Saves", n)
		}
		at := time.Now()
		before = len(s.of("Save"))
		e.pass(20 * time.Second)
		checkDiff(t, "times of Save", s.times("Save", at)[before:], times(time.Millisecond, 100, 300, 700, 1500, 3100, 6300, 11300, 16300))
		before = len(s.of("Save"))
		var starts []*launch
		for i := range 20 {
			starts = append(starts, e.launchOnly(e.ctx, activity.Options{ID: fmt.Sprint("x", i)}, noop))
		}
		synctest.Wait()
		for _, l := range starts {
			checkErr(t, l.err, errDisk)
		}
		if n := len(s.of("Save")) - before; n > len(starts) { // none is tried in parts
			t.Errorf("%d Saves for 20 starts", n)
		}
		// It is up again, and refuses one.
		s.refusing(func(batch []activity.Checkpoint) bool { return has(batch, "500") })
		e.pass(10 * time.Second)
		for i := range 1000 {
			if got := s.get(fmt.Sprint(i)); (len(got.Details) > 0) == (i == 500) {
				t.Errorf("%d: %+v", i, got)
			}
		}
	})
}

// Rule 24. Given any SaveInterval, when the Store fails, then the pauses double up to 5
// s, or SaveInterval if that is longer.
func TestStoreFails_PausesDouble(t *testing.T) {
	for interval, want := range map[time.Duration]int{1: 32 + 11, time.Millisecond: 12 + 10, time.Minute: 0} {
		t.Run(interval.String(), func(t *testing.T) {
			cfg := limits
			cfg.SaveInterval = interval
			durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
				beat := e.gate("beat")
				e.start(job, func(ctx activity.Context) error {
					<-beat
					return errors.Join(ctx.Heartbeat(1), untilEnded(ctx))
				})
				s.on("Save", failing)
				before := len(s.of("Save"))
				e.open("beat")
				e.pass(time.Minute - 1)
				if n := len(s.of("Save")) - before; n < want-2 || n > want+2 {
					t.Errorf("%d Saves in a minute, want about %d", n, want)
				}
			})
		})
	}
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
			all := s.of("Save")
			if has(all[len(all)-1].batch, ids...) {
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

// Rule 24. Given a loop over Checkpoints, when its body takes longer than StoreTimeout,
// then the loop continues: that time is not the Store's.
func TestStoreHangs_BodyOfLoopMayTakeItsTime(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		n := len(seed(s, "job"))
		for _, err := range e.rt.Checkpoints(e.ctx) {
			checkErr(t, err, nil)
			n--
			time.Sleep(time.Hour)
		}
		if n != 0 {
			t.Errorf("%d were not yielded", n)
		}
	})
}

// Rule 24. Given heartbeats one after another into a Store that takes nothing, then it
// counts as down although each was a batch of its own: there is one call after each
// pause.
func TestStoreFails_DownOneAfterAnother(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 30 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				return errors.Join(ctx.Sleep(time.Second+time.Duration(i)*time.Second), ctx.Heartbeat(i), untilEnded(ctx))
			})
		}
		s.on("Save", failing)
		e.pass(time.Minute)
		before := len(s.of("Save"))
		e.pass(time.Minute)
		if n := len(s.of("Save")) - before; n != 12 {
			t.Errorf("%d Saves in a minute", n)
		}
		s.on("Save", nil)
	})
}
