// How a start becomes durable.

package activity_test

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 20. Given an activity whose end the Store has not taken yet, when it is started
// again and has to wait, then Start returns once the Store holds that.
func TestAccepted_AfterAnUnsavedEnd(t *testing.T) {
	for _, wait := range []string{"slot"} {
		t.Run(wait, func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				ctx, cancel := context.WithCancelCause(e.ctx)
				opts := job
				opts.RetryPolicy.MaximumAttempts = 2
				h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
					_ = ctx.Heartbeat(ctx.Info().Attempt * 100)
					if ctx.Info().Attempt == 1 {
						if wait == "slot" {
							return activity.RetryAfter(errBoom, time.Second)
						}
						return activity.RetryAfter(errBoom, 24*time.Hour)
					}
					_ = ctx.Sleep(time.Second)
					s.on("Save", failing)
					_ = ctx.Heartbeat(999)
					return untilEnded(ctx)
				})
				e.pass(10 * time.Second)
				if wait == "backoff" {
					s.on("Save", failing)
				}
				cancel(errCancel)
				synctest.Wait()
				checkErr(t, e.end(h), errCancel)
				if wait == "slot" {
					e.start(activity.Options{}, untilEnded)
				}
				s.on("Save", nil) // it works again
				e.start(opts, untilEnded)
				e.pass(time.Hour)
				got := s.get("a")
				t.Logf("an hour after Start returned nil the Store has %s attempt %d details %q", got.State, got.Attempt, got.Details)
				e2, _ := e.reboot(s, activity.Config{})
				h2 := e2.start(opts, func(ctx activity.Context) error {
					var n int
					_, _ = ctx.HeartbeatDetails(&n)
					t.Logf("the next process runs attempt %d from %d", ctx.Info().Attempt, n)
					if wait == "slot" && n != 999 {
						t.Errorf("resumes from %d", n)
					}
					return untilEnded(ctx)
				})
				e2.pass(time.Minute)
				select {
				case <-h2.Done():
					t.Error(e2.end(h2))
				default:
				}
			})
		})
	}
}

// Rule 20. Given a start with a new input that is given up during its Save, when a start
// with the old input is accepted and waits, then the Store holds the old input.
func TestAccepted_AfterCanceledStart(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, Details: details(80), Input: []byte(`"monday"`)})
		e.start(activity.Options{}, untilEnded) // has the slot
		def := &activity.Definition[string, int]{Name: "job", Func: func(ctx activity.Context, in string) (int, error) { return 0, untilEnded(ctx) }}
		accepting := *def
		accepting.Options.AcceptNewInput = true
		s.on("Save", func(context.Context) error { time.Sleep(5 * time.Millisecond); return nil })
		ctx, cancel := context.WithTimeout(e.ctx, time.Millisecond)
		defer cancel()
		_, err := accepting.Start(ctx, e.rt, "a", "tuesday")
		checkErr(t, err, context.DeadlineExceeded)
		_, err = def.Start(e.ctx, e.rt, "a", "monday")
		checkErr(t, err, nil)
		e.pass(time.Hour)
		if got := s.get("a"); string(got.Input) != `"monday"` {
			t.Errorf("an hour after monday was accepted the Store has %s, %s", got.State, got.Input)
		}
		e2, _ := e.reboot(s, activity.Config{})
		def.Func = func(ctx activity.Context, in string) (int, error) {
			if in != "monday" {
				t.Errorf("it runs %q from monday's progress", in)
			}
			return 0, nil
		}
		_, err = e2.rt.Recover(e2.ctx, def)
		checkErr(t, err, nil)
		e2.pass(time.Hour)
	})
}

// Rule 20. Given a Save of another activity that is under way, when an activity is
// interrupted and started again, and waits for a slot, then the Store holds its end.
func TestAccepted_WhileSaveIsUnderWay(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		ctx, cancel := context.WithCancelCause(e.ctx)
		h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(7)
			return untilEnded(ctx)
		})
		other := activity.Options{ID: "other", SyncHeartbeats: true}
		beat := make(chan int)
		e.start(other, func(ctx activity.Context) error { return ctx.Heartbeat(<-beat) })
		e.start(activity.Options{ID: "next"}, untilEnded) // waits for a slot, and gets a's
		e.pass(time.Second)
		s.on("Save", func(context.Context) error { time.Sleep(5 * time.Millisecond); return nil })
		beat <- 1
		synctest.Wait()
		cancel(errCancel)
		_, err := h.Wait(e.ctx)
		checkErr(t, err, errCancel)
		// the slot of other is free in 5 ms, and "next" has a's: a third takes it
		_, err = e.rt.Start(e.ctx, activity.Options{}, untilEnded)
		checkErr(t, err, nil)
		h, err = activity.Start(e.ctx, e.rt, opts, func(ctx activity.Context, _ struct{}) (string, error) { return "", untilEnded(ctx) }, struct{}{})
		checkErr(t, err, nil)
		e.pass(time.Hour)
		checkState(t, h, activity.StateWaiting)
		got := s.get("a")
		if got.State == activity.CheckpointRunning {
			t.Errorf("it was interrupted, started again and waits for an hour; the Store has %s, attempt %d", got.State, got.Attempt)
		}
		e2, _ := e.reboot(s, activity.Config{})
		h2 := e2.start(opts, untilEnded)
		select {
		case <-h2.Done():
			t.Errorf("after a kill: %v", e2.end(h2))
		default:
		}
	})
}

// Rule 35. Given an activity that backs off and whose end the Store has not taken, when
// it is started again, then RetryAfter is kept.
func TestAccepted_KeepsBackoffOfUnsavedEnd(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		ctx, cancel := context.WithCancelCause(e.ctx)
		h := startWith(t, ctx, e.rt, job, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			s.on("Save", failing)
			return activity.RetryAfter(errBoom, 24*time.Hour)
		})
		e.pass(2 * time.Second)
		cancel(errCancel)
		synctest.Wait()
		checkErr(t, e.end(h), errCancel)
		s.on("Save", nil)
		h = e.start(job, untilEnded)
		checkState(t, h, activity.StateBackingOff)
		e.pass(time.Hour)
		got := s.get("a")
		if got.NextAttempt.IsZero() {
			t.Errorf("it backs off until %s, and the Store has %s, attempt %d, NextAttempt %s, LastFailure %q", h.Status().NextAttempt, got.State, got.Attempt, got.NextAttempt, got.LastFailure)
		}
	})
}

// A nonceCodec encodes one value differently each time, as one that encrypts does.
type nonceCodec struct{}

func (nonceCodec) Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	nonce := make([]byte, 8)
	crand.Read(nonce)
	return append(nonce, b...), err
}

func (nonceCodec) Unmarshal(b []byte, v any) error { return json.Unmarshal(b[8:], v) }

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
		{State: activity.CheckpointPaused + 1, Attempt: 1},
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

// Rule 20. Given 900 goroutines that start an activity each, of which few find a slot,
// when all have ended, then waiting has not cost them many writes more.
func TestStoreStart_ManyThatWaitShareSaves(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 10}, func(t *testing.T, e *env, s *faultyStore) {
		const commit = 5 * time.Millisecond
		slow := func(context.Context) error { time.Sleep(commit); return nil }
		s.on("Save", slow)
		s.on("Delete", slow)
		var starts sync.WaitGroup
		for i := range 900 {
			starts.Go(func() {
				h, err := activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context, _ struct{}) (int, error) {
					return 0, ctx.Sleep(20 * time.Millisecond)
				}, struct{}{})
				if checkErr(t, err, nil); err == nil {
					checkErr(t, wait(t, h), nil)
				}
			})
		}
		starts.Wait()
		n := len(s.of("Save")) + len(s.of("Delete"))
		if n > 550 { // there were 537 before what waits was stored
			t.Errorf("%d commits", n)
		}
	})
}

// Rule 20. Given 20 activities that were accepted and two slots, when the process is killed,
// then the next one recovers all of them.
func TestStoreStart_AcceptedSurvivesKill(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, e *env, s *faultyStore) {
		const n = 20
		for i := range n {
			_, err := activity.Start(e.ctx, e.rt, activity.Options{ID: fmt.Sprint(i), Name: "job"}, func(ctx activity.Context, _ int) (int, error) { return 0, untilEnded(ctx) }, i)
			checkErr(t, err, nil)
		}
		after, s := e.reboot(s, activity.Config{MaxConcurrent: 2})
		var mu sync.Mutex
		ran := map[string]int{}
		def := &activity.Definition[int, int]{Name: "job", Func: func(ctx activity.Context, in int) (int, error) {
			mu.Lock()
			ran[fmt.Sprint(in)] = ctx.Info().Attempt
			mu.Unlock()
			return 0, ctx.Sleep(time.Duration(1+in) * time.Second)
		}}
		recovered, err := after.rt.Recover(after.ctx, def)
		if recovered != n || err != nil {
			t.Errorf("%d are recovered, %v", recovered, err)
		}
		after.pass(time.Hour)
		for i := range n {
			attempt := 1 // no attempt had begun
			if i < 2 {
				attempt = 2
			}
			if got := ran[fmt.Sprint(i)]; got != attempt {
				t.Errorf("%d ran in attempt %d, want %d", i, got, attempt)
			}
			s.want(activity.Checkpoint{ID: fmt.Sprint(i)})
		}
	})
}

// Rule 20. Given a Store that does not take what would have to wait, then Start is refused
// with the Store's error, and what stood for the ID stands.
func TestStoreStart_UnsavedWaitIsRefused(t *testing.T) {
	for _, before := range []activity.CheckpointState{0, activity.CheckpointFailed} {
		t.Run(before.String(), func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				stood := activity.Checkpoint{ID: "a"}
				if before != 0 {
					stood = s.put(activity.Checkpoint{State: before, Attempt: 1, Details: details(1)})
				}
				busy := e.start(activity.Options{}, untilDone(time.Second))
				s.on("Save", failing)
				l := e.launch(e.ctx, job, noop)
				checkErr(t, l.err, errDisk)
				s.want(stood)
				s.on("Save", nil)
				e.pass(time.Second)
				checkErr(t, e.end(busy), nil)
				checkErr(t, e.end(e.start(job, noop)), nil)
			})
		})
	}
}

// Rule 20. Given a slow Save of an activity that waits, when it gets its slot meanwhile, then
// its attempt starts when its start is saved too.
func TestStoreStart_SlotDuringSaveOfWait(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(activity.Options{}, untilDone(time.Second))
		s.on("Save", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
		l := e.launch(e.ctx, job, untilEnded)
		e.pass(3*time.Second - 1)
		if l.returned.Load() {
			t.Error("Start has returned before the Store had it")
		}
		e.pass(1)
		if !l.returned.Load() || l.err != nil {
			t.Fatalf("Start: %v, %v", l.returned.Load(), l.err)
		}
		checkState(t, l.h, activity.StateWaiting)
		e.pass(3 * time.Second)
		checkState(t, l.h, activity.StateRunning)
		e.want("a", "0s scheduled 0", "6s attempt started 1")
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

// An idStore knows its IDs, so that it need not be asked for a checkpoint that it lacks.
type idStore struct {
	*faultyStore
	mayHold func(id string) bool
}

func (s idStore) MayHold(id string) bool { return s.mayHold(id) }

// Given a Store that says which IDs it may have, then a start loads only those. If MayHold panics,
// the checkpoint is loaded.
func TestStart_MayHold(t *testing.T) {
	for name, tt := range map[string]struct {
		mayHold func(s *faultyStore) func(id string) bool
		loads   []string
	}{
		"the ID": {func(s *faultyStore) func(string) bool { return func(id string) bool { return s.get(id).State != 0 } }, []string{"a"}},
		"panics": {func(*faultyStore) func(string) bool { return func(string) bool { panic("boom") } }, []string{"new", "a"}},
		"any":    {func(*faultyStore) func(string) bool { return func(string) bool { return true } }, []string{"new", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, Progressed: 1, Details: details(7)})
				rt := activity.New(activity.Config{Store: idStore{s, tt.mayHold(s)}, Logger: quiet})
				for _, id := range []string{"new", "a"} {
					checkErr(t, rt.Run(t.Context(), activity.Options{ID: id}, func(ctx activity.Context) error {
						start, err := activity.Resume(ctx, 0)
						if want := map[string]int{"new": 0, "a": 7}[id]; start != want {
							t.Errorf("%s resumes from %d, want %d", id, start, want)
						}
						return err
					}), nil)
				}
				var loads []string
				for _, call := range s.of("Load") {
					loads = append(loads, call.ids...)
				}
				checkDiff(t, "the IDs that were loaded", loads, tt.loads)
				checkErr(t, rt.Shutdown(t.Context()), nil)
			})
		})
	}
}

// Given a Store that does not know a checkpoint that All yields, then Recover continues it.
func TestRecover_MayHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, Progressed: 1, Details: details(7)})
		rt := activity.New(activity.Config{Store: idStore{s, func(string) bool { return false }}, Logger: quiet})
		start := 0
		n, err := rt.Recover(t.Context(), &activity.Definition[struct{}, struct{}]{Name: "job", Func: func(ctx activity.Context, _ struct{}) (none struct{}, err error) {
			start, err = activity.Resume(ctx, 0)
			return none, err
		}})
		checkErr(t, err, nil)
		synctest.Wait()
		if checkErr(t, rt.Shutdown(t.Context()), nil); n != 1 || start != 7 {
			t.Errorf("%d recovered, from %d", n, start)
		}
	})
}
