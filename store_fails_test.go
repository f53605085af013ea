// A Store that returns errors or panics.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 24. Given a Store that fails during a run, then each outage is logged and tried
// again, and the activity does not notice.
func TestStoreFails_ActivityContinues(t *testing.T) {
	log := &logbook{}
	durable(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env, s *faultyStore) {
		beat := func(ctx activity.Context) error {
			<-e.gate("broken")
			for i := range 70 {
				if err := errors.Join(ctx.Heartbeat(i), ctx.Sleep(time.Second)); err != nil {
					return err
				}
			}
			return untilEnded(ctx)
		}
		for i := range 3 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, beat)
		}
		at := time.Now()
		e.pass(time.Minute)
		before := len(s.of("Save"))
		s.on("Save", failing)
		e.open("broken")
		at = at.Add(time.Minute)
		e.pass(20 * time.Second)
		// First the batch and its parts are tried, then all together and each by itself. What is recorded
		// meanwhile does not make it be tried more often.
		var want []time.Duration
		for i, at := range times(time.Millisecond, 100, 200, 400, 800, 1600, 3200, 6400, 11400, 16400) {
			want = append(want, slices.Repeat([]time.Duration{at}, map[bool]int{true: 5, false: 4}[i == 0])...)
		}
		checkDiff(t, "times of Save", s.times("Save", at)[before:], want)
		if n := log.has(slog.LevelError, errDisk.Error(), "checkpoints=3", "retry_in=100ms"); n != 1 {
			t.Errorf("%d lines: %v", n, log.lines)
		}
		if got := e.rt.Stats(); got.SaveFailures != uint64(len(want)) || !got.StoreFailingSince.Equal(at.Add(100*time.Millisecond)) {
			t.Errorf("%+v", got)
		}
		s.on("Save", nil)
		e.pass(1400 * time.Millisecond)
		for i := range 3 { // the newest
			checkDetails(t, stored{s.get(fmt.Sprint(i))}, 21)
		}
		e.pass(time.Second)
		checkDetails(t, stored{s.get("0")}, 22) // as soon as ever again
		if got := e.rt.Stats(); got.Running != 3 || got.Attempts != 3 || got.SaveFailures != uint64(len(want)) || !got.StoreFailingSince.IsZero() {
			t.Errorf("%+v", got)
		}
		if all, n := len(log.lines), log.has(slog.LevelInfo, "works again and holds everything", "after=21.3s"); all != 2 || n != 1 {
			t.Errorf("%d lines: %v", n, log.lines)
		}
	})
}

// Rule 24. Given a Save that fails, panics or exits when a later attempt is to start,
// then the attempt starts after that one try, and the Save is tried again.
func TestStoreFails_LaterAttemptStartsAfterOneTry(t *testing.T) {
	for name, hook := range map[string]func(context.Context) error{
		"fails":  func(context.Context) error { time.Sleep(time.Minute); return errDisk },
		"panics": func(context.Context) error { time.Sleep(time.Minute); panicHere(errDisk); return nil },
		"goexit": func(context.Context) error { time.Sleep(time.Minute); runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				e.start(job, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 1 {
						return activity.RetryAfter(errBoom, time.Second)
					}
					return untilEnded(ctx)
				})
				e.pass(time.Second - 1)
				s.on("Save", hook)
				e.pass(time.Minute)
				if at := e.started("a", 2); at >= 0 {
					t.Errorf("started at %s", at)
				}
				e.pass(1)
				e.wantStarted("a", 2, time.Minute+time.Second)
				if got := s.get("a"); got.Attempt != 1 {
					t.Errorf("%+v", got)
				}
				s.on("Save", nil)
				e.pass(2 * time.Minute)
				s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 2, Input: []byte("{}"), LastFailure: "boom"})
			})
		})
	}
}

// Rule 24. Given a Store that panics or calls runtime.Goexit, then that is logged and
// counts as the Store's error.
func TestStoreFails_PanicIsItsError(t *testing.T) {
	for name, hook := range map[string]func(context.Context) error{
		"panic":  func(context.Context) error { panicHere(errDisk); return nil },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			log := &logbook{}
			durable(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, e *env, s *faultyStore) {
				s.on("Save", hook)
				err := e.rt.Run(e.ctx, job, noop)
				if err == nil || !strings.Contains(err.Error(), "Store") || name == "panic" && !errors.Is(err, errDisk) {
					t.Error(err)
				}
				synctest.Wait() // until what stood for the ID is back
				s.on("Save", nil)
				s.on("Delete", hook)
				h := e.start(job, noop)
				other := activity.Options{ID: "b", RetryPolicy: once}
				checkErr(t, e.rt.Run(e.ctx, other, func(activity.Context) error { return errBoom }), errBoom)
				checkSaving(t, h, activity.StateCompleted)
				s.on("Delete", nil)
				e.pass(5 * time.Second)
				checkErr(t, e.end(h), nil)
				checkDiff(t, "unfinished", e.unfinished(), []string{"b"})
				if n := log.has(slog.LevelError, "panicHere"); name == "panic" && n < 2 {
					t.Errorf("%d lines: %v", n, log.lines)
				}
			})
		})
	}
}

// Rule 24. Given a Save and a Delete at one moment, when one of them fails, then the
// other works.
func TestStoreFails_SaveAndDeleteFailApart(t *testing.T) {
	for broken, want := range map[string][]string{"Save": {"failed"}, "Delete": {"failed"}} {
		t.Run(broken, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				end := e.gate("end")
				done := e.start(activity.Options{ID: "done"}, func(activity.Context) error { <-end; return nil })
				failed := e.start(activity.Options{ID: "failed"}, func(activity.Context) error { <-end; return activity.NonRetryable(errBoom) })
				open := s.block("Save")
				e.launch(e.ctx, activity.Options{ID: "x"}, noop) // holds the Store
				e.open("end")
				s.on(broken, failing)
				open()
				s.on(broken, failing)
				synctest.Wait()
				checkErr(t, e.end(failed), errBoom)
				checkDiff(t, "unfinished", e.unfinished(), want)
				if broken == "Save" {
					checkErr(t, e.end(done), nil)
					return
				}
				checkSaving(t, done, activity.StateCompleted)
				if got := s.get("failed").State; got != activity.CheckpointFailed {
					t.Errorf("%s", got)
				}
			})
		})
	}
}

// Rule 24. Given details that the Store did not take, when starts fail one after the
// other before they are tried again, then that does not put the next try off: only a try
// that follows a pause doubles it.
func TestStoreFails_ManyFailuresAreOnePause(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-e.gate("beat")
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		s.on("Save", failing)
		e.open("beat")
		e.pass(100 * time.Millisecond) // the first try
		for i := range 8 {
			l := e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, noop)
			checkErr(t, l.err, errDisk)
		}
		s.on("Save", nil)
		e.pass(100*time.Millisecond - 1)
		checkDiff(t, "details", s.get("a").Details, []byte(nil))
		e.pass(1)
		checkDetails(t, stored{s.get("a")}, 7)
		checkState(t, h, activity.StateRunning)
	})
}

// Rule 24. Given a Store that has failed several times, when it has worked again and
// fails anew, then the first pause is SaveInterval again.
func TestStoreFails_SuccessResetsThePause(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			for i := range 2 {
				<-e.gate(fmt.Sprint(i))
				_ = ctx.Heartbeat(i)
			}
			return untilEnded(ctx)
		})
		for i, pause := range []time.Duration{800 * time.Millisecond, 100 * time.Millisecond} {
			s.on("Save", failing)
			e.open(fmt.Sprint(i))
			e.pass(100 * time.Millisecond)
			if i == 0 {
				e.pass((100 + 200 + 400) * time.Millisecond) // three more tries
			}
			before := s.get("a").Details
			s.on("Save", nil)
			e.pass(pause - 1)
			checkDiff(t, "details", s.get("a").Details, before)
			e.pass(1)
			checkDetails(t, stored{s.get("a")}, i)
			e.pass(time.Minute)
		}
	})
}

// Rule 24. Given a Delete that is to be tried again in seconds, when starts are saved
// meanwhile, then it is not tried with each of them.
func TestStoreFails_DeleteIsNotTriedWithEachSave(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		h := e.start(job, noop)
		e.pass(time.Minute) // the tries are 5 s apart by now
		tries := s.times("Delete", e.base)
		next := tries[len(tries)-1] + 5*time.Second
		for i := range 8 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, untilEnded)
		}
		checkDiff(t, "times of Delete", s.times("Delete", e.base), tries)
		s.on("Delete", nil)
		e.pass(next - time.Since(e.base) - 1)
		checkSaving(t, h, activity.StateCompleted)
		e.pass(1)
		checkErr(t, e.end(h), nil)
	})
}

// Rule 24. Given a Store whose Save ends its goroutine while a Delete is due, then the
// writer pauses between two tries, and the Delete is made.
func TestStoreFails_GoexitIsNotTriedInALoop(t *testing.T) {
	for _, how := range []string{"shutdown", "success of another"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				rt := activity.New(activity.Config{Store: s, Logger: quiet})
				gate := make(chan struct{})
				start(t, rt, activity.Options{ID: "other"}, func(activity.Context) error { <-gate; return nil })
				start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error { <-ctx.Done(); return context.Cause(ctx) })
				h := start(t, rt, activity.Options{ID: "b"}, func(ctx activity.Context) error { <-ctx.Done(); return context.Cause(ctx) })
				synctest.Wait()
				var tries atomic.Int32
				s.on("Save", func(context.Context) error {
					if tries.Add(1) > 2000 {
						return nil // the test must end
					}
					runtime.Goexit()
					return nil
				})
				if how == "shutdown" {
					h.Cancel(errCancel)
					synctest.Wait()
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					_ = rt.Shutdown(ctx)
				} else {
					h.Cancel(errCancel)
					close(gate)
					time.Sleep(time.Second)
				}
				if n := tries.Load(); n > 20 {
					t.Errorf("%d tries within 1s", n)
				}
				s.on("Save", nil)
				if how == "shutdown" {
					close(gate)
				}
				_ = rt.Shutdown(t.Context())
			})
		})
	}
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

// An allStore is a Store with an All of its own.
type allStore struct {
	*faultyStore
	all func(yield func(activity.Checkpoint, error) bool)
}

func (s *allStore) All(context.Context) iter.Seq2[activity.Checkpoint, error] { return s.all }

// Rule 24. Given a Store whose All fails or panics, or a ctx that has ended, then
// Checkpoints and Recover end with that error.
func TestStoreFails_All(t *testing.T) {
	cp := activity.Checkpoint{ID: "a", Name: "job", State: activity.CheckpointInterrupted}
	for name, all := range map[string]func(yield func(activity.Checkpoint, error) bool){
		"error": func(yield func(activity.Checkpoint, error) bool) {
			if yield(cp, nil) && yield(activity.Checkpoint{}, errDisk) {
				yield(cp, nil)
			}
		},
		"panic": func(yield func(activity.Checkpoint, error) bool) {
			yield(cp, nil)
			panic(errDisk)
		},
	} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				rt := activity.New(activity.Config{Store: &allStore{s, all}, Logger: quiet})
				var errs []error
				for _, err := range rt.Checkpoints(e.ctx) {
					errs = append(errs, err)
				}
				if len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], errDisk) {
					t.Errorf("%v", errs)
				}
				def := &activity.Definition[int, int]{Name: "job"}
				n, err := rt.Recover(e.ctx, def)
				if checkErr(t, err, errDisk); n != 0 {
					t.Errorf("%d recovered", n)
				}
			})
		})
	}
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		seed(s, "job")
		ctx, cancel := context.WithCancelCause(e.ctx)
		cancel(errCancel)
		var errs []error
		for _, err := range e.rt.Checkpoints(ctx) {
			errs = append(errs, err)
		}
		if len(errs) != 1 || !errors.Is(errs[0], errCancel) {
			t.Errorf("%v", errs)
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

// Rule 24. Given a Load that fails or panics, then Start fails with that error, nothing
// has happened, and the ID is free.
func TestStoreFails_Load(t *testing.T) {
	log := &logbook{}
	for _, test := range []struct {
		name string
		load func(context.Context) error
		want error
	}{
		{"error", failing, errDisk},
		{"panic", func(context.Context) error { panicHere(errDisk); return nil }, errDisk},
		{"its context ended", func(context.Context) error { return context.Canceled }, context.Canceled},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1, Logger: slog.New(log)}, func(t *testing.T, e *env, s *faultyStore) {
				s.on("Load", test.load)
				l := e.launch(e.ctx, job, noop)
				var asError *activity.Error
				if !errors.Is(l.err, test.want) || errors.As(l.err, &asError) || l.h != nil || !strings.Contains(fmt.Sprint(l.err), `"a"`) {
					t.Errorf("%v (%T)", l.err, l.err)
				}
				checkDiff(t, "events", e.all(), []activity.Event(nil))
				checkDiff(t, "Stats", e.rt.Stats(), activity.Stats{})
				s.on("Load", nil)
				checkErr(t, e.rt.Run(e.ctx, job, noop), nil)
				s.on("Load", test.load)
				e.launch(e.ctx, job, noop)
				e.stop()
				if n := len(s.of("Save")); n != 1 {
					t.Errorf("%d Saves", n)
				}
			})
		})
	}
	if log.has(slog.LevelError, "panicked", "panicHere") == 0 {
		t.Errorf("log: %v", log.lines)
	}
}

// Rule 24. Given a Load that calls runtime.Goexit, then the ID is free afterwards.
func TestStoreFails_LoadCallsGoexit(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Load", func(context.Context) error { runtime.Goexit(); return nil })
		e.launch(e.ctx, job, noop)
		s.on("Load", nil)
		checkErr(t, e.rt.Run(e.ctx, job, noop), nil)
		e.stop()
	})
}

// Rule 24. Given a stored checkpoint of any state, when a start cannot be saved, then the
// Store holds what stood before.
func TestStoreFails_StartLeavesWhatStoodBefore(t *testing.T) {
	for _, state := range []activity.CheckpointState{0, activity.CheckpointFailed, activity.CheckpointCanceled, activity.CheckpointRunning, activity.CheckpointInterrupted} {
		t.Run(state.String(), func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				before := activity.Checkpoint{ID: "a", State: state}
				if state != 0 {
					before.Attempt, before.Progressed, before.Details, before.Input, before.LastFailure = 2, 2, details(1), []byte("{}"), "eh"
					before = s.put(before)
				}
				for range 2 {
					s.on("Save", failing)
					l := e.launch(e.ctx, job, noop)
					var asError *activity.Error
					if !errors.Is(l.err, errDisk) || errors.As(l.err, &asError) || l.h != nil {
						t.Errorf("%v (%T)", l.err, l.err)
					}
					e.pass(time.Hour) // what stood is put back again and again
					checkErr(t, e.rt.Run(e.ctx, job, noop), map[bool]error{true: activity.ErrAlreadyRunning, false: errDisk}[state != 0])
					s.on("Save", nil)
					e.pass(5 * time.Second)
					before.Sequence = s.get("a").Sequence
					s.want(before)
				}
				checkDiff(t, "events", e.all(), []activity.Event(nil))
				got := e.rt.Stats()
				got.SaveFailures = 0
				checkDiff(t, "Stats", got, activity.Stats{})
				err := e.rt.Run(e.ctx, job, func(ctx activity.Context) error {
					if found, err := ctx.HeartbeatDetails(); found != (state != 0) || err != nil {
						t.Errorf("%v, %v", found, err)
					}
					return nil
				})
				checkErr(t, err, nil)
				e.stop()
			})
		})
	}
}

// Rule 24. Given an end in memory that the Store has not taken yet, when a start of its
// ID cannot be saved, then that end is saved in the end.
func TestStoreFails_StartLeavesUnsavedCheckpoint(t *testing.T) {
	t.Run("failed", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			opts := job
			opts.RetryPolicy = once
			h := e.start(opts, func(ctx activity.Context) error {
				s.on("Save", failing)
				return errors.Join(ctx.Heartbeat(7), errBoom)
			})
			checkErr(t, e.end(h), errBoom)
			s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Input: []byte("{}")})
			checkErr(t, e.launch(e.ctx, opts, noop).err, errDisk)
			checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
			for cp := range e.rt.Checkpoints(e.ctx) {
				checkDetails(t, stored{cp}, 7)
			}
			loads := len(s.of("Load"))
			s.on("Save", nil)
			e.pass(time.Hour)
			s.want(activity.Checkpoint{
				ID: "a", State: activity.CheckpointFailed, Attempt: 1, Progressed: 1, ScheduledAt: e.base, UpdatedAt: e.base,
				Input: []byte("{}"), Details: details(7), LastFailure: s.get("a").LastFailure,
			})
			if n := len(s.of("Load")); n != loads {
				t.Errorf("%d more Loads", n-loads)
			}
		})
	})
	t.Run("gone", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Delete", failing)
			h := e.start(job, untilDone(time.Second))
			e.pass(time.Second)
			h.Cancel(errCancel)
			synctest.Wait()
			checkErr(t, e.end(h), nil)
			s.on("Save", failing)
			checkErr(t, e.launch(e.ctx, job, noop).err, errDisk)
			checkDiff(t, "unfinished", e.unfinished(), []string(nil))
			s.on("Save", nil)
			s.on("Delete", nil)
			e.pass(time.Hour)
			s.want(activity.Checkpoint{ID: "a"})
			e.stop()
		})
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
