package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 20. Given an activity with a Store, when an attempt's function begins, then the
// Store holds the start of that attempt.
func TestStoreStart_DurableBeforeFunctionRuns(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 3
		want := activity.Checkpoint{
			ID: "a", Name: "job", State: activity.CheckpointRunning,
			ScheduledAt: e.base, Input: []byte("{}"),
		}
		h := e.start(opts, func(ctx activity.Context) error {
			n := ctx.Info().Attempt
			want.Attempt, want.UpdatedAt = n, e.clock.Now()
			want.Progressed, want.LastFailure = n-1, ""
			if n > 1 {
				want.Details, want.LastFailure = details(n-1), "boom"
			}
			s.want(want)
			checkErr(t, ctx.Heartbeat(n), nil)
			return errBoom
		})
		e.pass(time.Second)
		e.pass(2 * time.Second)
		checkEnd(t, e.end(h), 3, activity.RetryStateMaximumAttemptsReached, errBoom)
		want.State, want.Progressed, want.Details = activity.CheckpointFailed, 3, details(3)
		s.want(want)
	})
}

// Rule 20. Given a Save that hangs, when an attempt is to start, the first or a later
// one, then its function does not run until the Save is done.
func TestStoreStart_HangingSaveDelaysFunction(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		check := func(attempt int, started bool) {
			t.Helper()
			all := e.rt.Activities()
			if len(all) != 1 || (all[0].State == activity.StateRunning) != started || !started && all[0].State != activity.StateWaiting {
				t.Errorf("%+v", all)
			}
			if at := e.started("a", attempt); (at >= 0) != started {
				t.Errorf("attempt %d started at %s", attempt, at)
			}
		}
		open := s.block("Save")
		l := e.launch(e.ctx, job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return ctx.Sleep(time.Hour)
			}
			return untilEnded(ctx)
		})
		e.pass(time.Hour)
		check(1, false)
		if l.returned.Load() {
			t.Error("Start has returned")
		}
		open()
		synctest.Wait()
		check(1, true)
		if !l.returned.Load() || l.err != nil {
			t.Errorf("Start: %v, %v", l.returned.Load(), l.err)
		}
		e.wantStarted("a", 1, time.Hour)
	})
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			return untilEnded(ctx)
		})
		open := s.block("Save")
		e.pass(time.Hour)
		checkState(t, h, activity.StateWaiting)
		open()
		synctest.Wait()
		checkState(t, h, activity.StateRunning)
		e.wantStarted("a", 2, time.Hour)
	})
}

// Rule 24. Given a start that is being saved, when the caller's context ends or Shutdown
// is called, then Start is refused at once, and the Store holds again what stood before.
func TestStoreStart_CanceledDuringItsSave(t *testing.T) {
	for _, before := range []activity.CheckpointState{
		0, activity.CheckpointFailed, activity.CheckpointCanceled, activity.CheckpointRunning, activity.CheckpointInterrupted,
	} {
		for how, end := range map[string]func(e *env, cancel context.CancelCauseFunc) error{
			"context": func(_ *env, cancel context.CancelCauseFunc) error { cancel(errCancel); return errCancel },
			"shutdown": func(e *env, _ context.CancelCauseFunc) error {
				go func() { checkErr(e.t, e.rt.Shutdown(e.t.Context()), nil) }()
				return activity.ErrShutdown
			},
		} {
			t.Run(fmt.Sprintf("%s/%s", before, how), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					stood := activity.Checkpoint{ID: "a"}
					if before != 0 {
						stood = s.put(activity.Checkpoint{State: before, Attempt: 2, Progressed: 2, Details: details(1), LastFailure: "eh"})
						stood.Sequence = 0
					}
					open := s.block("Save")
					ctx, cancel := context.WithCancelCause(e.ctx)
					defer cancel(nil)
					l := e.launch(ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
					e.pass(time.Minute)
					want := end(e, cancel)
					synctest.Wait()
					if !l.returned.Load() {
						t.Fatal("Start has not returned")
					}
					checkErr(t, l.err, want)
					checkDiff(t, "events", e.kinds("a"), []activity.EventKind(nil))
					open()
					e.pass(time.Minute)
					s.want(stood)
				})
			})
		}
	}
}

// Rules 18 and 20. Given a later attempt whose start is being saved, when the activity is
// canceled or shut down, then it ends at once, and its function does not run again.
func TestStoreStart_CanceledDuringSaveOfLaterAttempt(t *testing.T) {
	for _, test := range []struct {
		how   string
		end   func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc)
		cause error
		left  activity.CheckpointState
	}{
		{"context", func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) }, errCancel, activity.CheckpointInterrupted},
		{"handle", func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) }, errCancel, activity.CheckpointCanceled},
		{"shutdown", func(e *env, _ *activity.Handle[string], _ context.CancelCauseFunc) {
			go func() { checkErr(e.t, e.rt.Shutdown(e.t.Context()), nil) }()
		}, activity.ErrShutdown, activity.CheckpointInterrupted},
	} {
		t.Run(test.how, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				ctx, cancel := context.WithCancelCause(e.ctx)
				defer cancel(nil)
				h := startWith(t, ctx, e.rt, job, func(ctx activity.Context) error {
					if ctx.Info().Attempt > 1 {
						t.Error("it runs")
					}
					return errors.Join(ctx.Heartbeat(7), errBoom)
				})
				synctest.Wait()
				e.pass(time.Second - 1)
				open := s.block("Save")
				e.pass(1)
				checkState(t, h, activity.StateWaiting)
				test.end(e, h, cancel)
				e.pass(10*time.Second - 1)
				checkSaving(t, h, activity.StateCanceled)
				e.pass(1)
				checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, test.cause, errBoom)
				open()
				e.pass(time.Minute)
				s.want(activity.Checkpoint{
					ID: "a", State: test.left, Attempt: 1, Progressed: 1, ScheduledAt: e.base,
					Input: []byte("{}"), Details: details(7), LastFailure: s.get("a").LastFailure,
				})
				if got := s.get("a").LastFailure; !strings.Contains(got, "boom") {
					t.Errorf("LastFailure %q", got)
				}
			})
		})
	}
}

// Rules 10 and 20. Given a start that is being saved, when the Save is done 1 ns before
// ScheduleToCloseTimeout, the function runs; at that instant it does not.
func TestStoreStart_ScheduleToCloseDuringItsSave(t *testing.T) {
	for _, test := range []struct {
		save  time.Duration
		start bool
	}{{time.Second - 1, true}, {time.Second, false}} {
		t.Run(test.save.String(), func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				open := s.block("Save")
				opts := job
				opts.ScheduleToCloseTimeout = time.Second
				l := e.launch(e.ctx, opts, noop)
				e.pass(test.save)
				if l.returned.Load() == test.start { // the end is decided, and still to be saved
					t.Errorf("Start: %v", l.returned.Load())
				}
				open()
				synctest.Wait()
				err := e.end(l.h)
				if timeout := timeoutType(err) == activity.TimeoutScheduleToClose; timeout == test.start || timeout != (err != nil) {
					t.Error(err)
				}
				if started := len(e.of(activity.EventAttemptStarted)) > 0; started != test.start {
					t.Errorf("started: %v", started)
				}
				if !test.start {
					checkEnd(t, err, 0, activity.RetryStateTimeout)
					s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointFailed, Input: []byte("{}"), LastFailure: s.get("a").LastFailure})
				}
			})
		})
	}
}

// Rule 20. Given an activity that has to wait for a slot or a backoff, when Start
// returns, then the Store holds that it waits.
func TestStoreStart_ReturnsWhenWaitIsDurable(t *testing.T) {
	t.Run("slot", func(t *testing.T) {
		durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
			e.start(activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) })
			l := e.launch(e.ctx, job, noop)
			if !l.returned.Load() || l.err != nil {
				t.Fatalf("%v, %v", l.returned.Load(), l.err)
			}
			checkState(t, l.h, activity.StateWaiting)
			s.want(activity.Checkpoint{ID: "a", Name: "job", State: activity.CheckpointWaiting, Sequence: 1, ScheduledAt: e.base, UpdatedAt: e.base, Input: []byte("{}")})
			e.pass(time.Minute)
			checkErr(t, e.end(l.h), nil)
		})
	})
	t.Run("crash interval", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.put(activity.Checkpoint{State: activity.CheckpointRunning, Attempt: 1})
			l := e.launch(e.ctx, job, noop)
			if !l.returned.Load() || l.err != nil {
				t.Fatalf("%v, %v", l.returned.Load(), l.err)
			}
			checkState(t, l.h, activity.StateBackingOff)
			if n := len(s.of("Save")); n != 0 {
				t.Errorf("%d Saves while it waits", n)
			}
		})
	})
}

// Rule 20. Given a free slot, when Start returns, then the start of the attempt was
// saved, and if the Save fails, so does Start.
func TestStoreStart_FreeSlotReturnsWhenDurable(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(time.Minute); return errDisk })
		l := e.launch(e.ctx, job, noop)
		if l.returned.Load() {
			t.Error("Start has returned during the Save")
		}
		e.pass(time.Minute)
		if checkErr(t, l.err, errDisk); len(e.all()) != 0 {
			t.Errorf("events: %v", e.lines(""))
		}
		s.on("Save", nil)
		h := e.start(job, noop) // the slot is free again
		checkErr(t, e.end(h), nil)
	})
}

// Rule 20. Given more activities than slots and a slow Store, when a slot gets free, then
// it goes to one activity, which runs once its start is saved.
func TestStoreStart_SlotIsGivenOnceDuringSave(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 3}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
		for i := range 9 {
			e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, untilDone(time.Minute))
		}
		check := func(running, waiting, completed int) {
			t.Helper()
			if got := e.rt.Stats(); got.Running != running || got.Waiting != waiting || got.Completed != uint64(completed) {
				t.Errorf("%d, %d and %d: %+v", running, waiting, completed, got)
			}
		}
		check(0, 9, 0)
		e.pass(2 * time.Second) // in two Saves
		check(3, 6, 0)
		e.pass(62 * time.Second)
		check(3, 3, 3)
		e.pass(62 * time.Second)
		check(3, 0, 6)
		e.pass(time.Hour)
		check(0, 0, 9)
	})
}

// Rule 20. Given 64 starts at once, then they take two Saves: the one that the first
// causes, and the one that gathers the others meanwhile.
func TestStoreStart_ManyShareSaves(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
		var all []*launch
		for i := range 64 {
			all = append(all, e.launch(e.ctx, activity.Options{ID: fmt.Sprint(i)}, untilEnded))
		}
		e.pass(2 * time.Second)
		for i, l := range all {
			if !l.returned.Load() || l.err != nil {
				t.Errorf("%d: %v, %v", i, l.returned.Load(), l.err)
			}
		}
		checkDiff(t, "times of Save", s.times("Save", e.base), times(time.Second, 0, 1))
		if a, b := len(s.of("Save")[0].batch), len(s.of("Save")[1].batch); a != 1 || b != 63 {
			t.Errorf("%d and %d checkpoints", a, b)
		}
	})
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

// Rule 24. Given a Load that hangs, when the caller's context ends or Shutdown is called,
// then Start returns.
func TestStoreHangs_LoadEndsWithCallerOrShutdown(t *testing.T) {
	heeding := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	refused := func(t *testing.T, l *launch) {
		t.Helper()
		synctest.Wait()
		if e := (*activity.Error)(nil); !errors.Is(l.err, activity.ErrShutdown) || errors.As(l.err, &e) {
			t.Errorf("%v (%T)", l.err, l.err)
		}
	}
	t.Run("context", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Load", heeding)
			ctx, cancel := context.WithCancelCause(e.ctx)
			l := e.launch(ctx, job, noop)
			e.pass(time.Hour)
			if all := e.rt.Activities(); l.returned.Load() || len(all) != 1 || all[0].State != activity.StateWaiting {
				t.Errorf("%v, %+v", l.returned.Load(), all)
			}
			checkErr(t, e.rt.Run(e.ctx, job, noop), activity.ErrAlreadyRunning)
			cancel(errCancel)
			synctest.Wait()
			checkEnd(t, l.err, 0, activity.RetryStateCancelRequested, errCancel)
			s.on("Load", nil)
			checkErr(t, e.rt.Run(e.ctx, job, noop), nil)
			e.stop()
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.on("Load", heeding)
			l := e.launch(e.ctx, job, noop)
			e.stop()
			refused(t, l)
		})
	})
	t.Run("shutdown, and Load succeeds", func(t *testing.T) {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			open := s.block("Load") // it does not heed its context
			l := e.launch(e.ctx, job, func(activity.Context) error { t.Error("it runs"); return nil })
			ctx, cancel := context.WithTimeoutCause(e.ctx, time.Minute, errCancel)
			defer cancel()
			err := e.rt.Shutdown(ctx)
			if checkErr(t, err, errCancel); !strings.Contains(fmt.Sprint(err), "1 activity") {
				t.Error(err)
			}
			open()
			e.stop()
			refused(t, l)
			if n := len(s.of("Save")); n != 0 {
				t.Errorf("%d Saves", n)
			}
		})
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

// Given a start whose Save takes a while, when it is accepted, then EventScheduled has the
// time at which Start was called, which the Status has too.
func TestStoreStart_ScheduledEventHasTimeOfTheCall(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
		h := startWith(t, e.ctx, e.rt, job, untilEnded)
		synctest.Wait()
		e.want("a", "0s scheduled 0", "1s attempt started 1")
		if at := h.Status().ScheduledAt; !at.Equal(e.base) {
			t.Errorf("it was scheduled %s later", at.Sub(e.base))
		}
	})
}

// untilDone is a function that takes d.
func untilDone(d time.Duration) func(activity.Context) error {
	return func(ctx activity.Context) error { return ctx.Sleep(d) }
}

// Rule 24. Given an activity that was accepted and waits, when the Store then does not
// take its start, then the start is tried again until the Store takes it.
func TestStoreStart_FailingSaveAfterWaitIsTriedAgain(t *testing.T) {
	for name, before := range map[string]activity.CheckpointState{"slot": activity.CheckpointFailed, "crash interval": activity.CheckpointRunning} {
		t.Run(name, func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				s.put(activity.Checkpoint{State: before, Attempt: 1, Details: details(1)})
				if before == activity.CheckpointFailed {
					e.start(activity.Options{}, untilDone(time.Second))
				}
				h := e.start(job, untilEnded)
				s.on("Save", failing)
				e.pass(time.Hour)
				checkState(t, h, activity.StateWaiting)
				checkDiff(t, "events", e.kinds("a"), []activity.EventKind{activity.EventScheduled})
				s.on("Save", nil)
				e.pass(5 * time.Second)
				checkState(t, h, activity.StateRunning)
				if got := s.get("a"); got.State != activity.CheckpointRunning {
					t.Errorf("it runs, and is stored as %s", got.State)
				}
			})
		})
	}
}

// Rules 20 and 31. Given an Execute with an input, then the Store holds it until
// AcceptNewInput replaces it. An input that cannot be encoded is refused before the Store
// is called.
func TestStoreStart_InputIsStored(t *testing.T) {
	type in struct{ A, B int }
	fn := func(ctx activity.Context, in in) (int, error) { return in.A + in.B, errBoom }
	opts := job
	opts.RetryPolicy = once
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		_, err := activity.Execute(e.ctx, e.rt, opts, fn, in{1, 2})
		checkErr(t, err, errBoom)
		checkDiff(t, "input", string(s.get("a").Input), `{"A":1,"B":2}`)
		accept := opts
		accept.AcceptNewInput = true
		_, err = activity.Execute(e.ctx, e.rt, accept, fn, in{3, 4}) // replaces it
		checkErr(t, err, errBoom)
		checkDiff(t, "input", string(s.get("a").Input), `{"A":3,"B":4}`)
		checkErr(t, e.rt.Run(e.ctx, opts, func(activity.Context) error { return errBoom }), errBoom) // has none, and keeps it
		checkDiff(t, "input", string(s.get("a").Input), `{"A":3,"B":4}`)

		calls := len(s.of(""))
		_, err = activity.Start(e.ctx, e.rt, job, func(ctx activity.Context, _ chan int) (int, error) { return 0, nil }, nil)
		if err == nil || !strings.Contains(err.Error(), "chan int") || !strings.Contains(err.Error(), `"a"`) {
			t.Error(err)
		}
		if n := len(s.of("")); n != calls {
			t.Errorf("%d calls of the Store", n-calls)
		}
		_, err = activity.Execute(e.ctx, e.rt, activity.Options{}, func(activity.Context, chan int) (int, error) { return 0, nil }, nil)
		checkErr(t, err, nil) // is not stored
	})
}

// Rule 20. Given Options.HeartbeatDetails, when details are stored, then the first
// attempt resumes from the stored ones, otherwise from the option's.
func TestStoreStart_HeartbeatDetailsOption(t *testing.T) {
	for _, test := range []struct {
		name   string
		before activity.Checkpoint
		want   int
	}{
		{"nothing stored", activity.Checkpoint{}, 5},
		{"no details stored", activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1}, 5},
		{"failed", activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1, Details: details(3)}, 3},
		{"interrupted", activity.Checkpoint{State: activity.CheckpointInterrupted, Details: details(3)}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				if test.before.State != 0 {
					s.put(test.before)
				}
				opts := job
				opts.HeartbeatDetails = []any{5}
				err := e.rt.Run(e.ctx, opts, func(ctx activity.Context) error {
					checkDetails(t, ctx, test.want)
					checkDetails(t, stored{s.get("a")}, test.want)
					return nil
				})
				checkErr(t, err, nil)
			})
		})
	}
}

// Rule 20. Given a checkpoint that cannot be, when its ID is started, then the start is
// refused; it is not taken for a start from the beginning.
func TestStoreStart_ImpossibleCheckpointIsRefused(t *testing.T) {
	for _, cp := range []activity.Checkpoint{
		{State: activity.CheckpointWaiting + 1, Attempt: 1},
		{State: -1, Attempt: 1},
		{State: activity.CheckpointRunning, Attempt: -1},
		{State: activity.CheckpointRunning, Attempt: 1, CountedFrom: 2},
		{State: activity.CheckpointRunning, Attempt: 1, Progressed: 2},
	} {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			cp := s.put(cp)
			if l := e.launch(e.ctx, job, noop); l.err == nil {
				t.Errorf("%+v is taken", cp)
			}
			s.want(cp)
			e.stop()
		})
	}
}
