// Rule 37: Commit records details together with the activity's own effects.

package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
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

// commit is a transaction of the Store's database.
func (s *faultyStore) commit(cp activity.Checkpoint) error {
	s.t.Helper()
	if held := s.get(cp.ID).Sequence; cp.Sequence <= held {
		s.t.Errorf("Commit has sequence %d, and %d is stored", cp.Sequence, held)
	}
	s.mu.Lock()
	s.newest[cp.ID] = cp
	s.mu.Unlock()
	return s.Memory.Save(context.Background(), []activity.Checkpoint{cp})
}

// after is commit, after f.
func (s *faultyStore) after(f func()) func(activity.Checkpoint) error {
	return func(cp activity.Checkpoint) error {
		f()
		return s.commit(cp)
	}
}

var errLink = errors.New("the connection is lost")

func TestCommit_WritesTheCheckpoint(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			before := s.get("a")
			checkErr(t, activity.Commit(ctx, func(cp activity.Checkpoint) error {
				before.Sequence, before.Details, before.UpdatedAt = cp.Sequence, details(3, "x"), cp.UpdatedAt
				before.Progressed = 1
				checkDiff(t, "what commit gets", cp, before)
				return s.commit(cp)
			}, 3, "x"), nil)
			<-e.gate("committed")
			return ctx.Heartbeat(4)
		})
		e.pass(time.Hour)
		if n := len(s.of("Save")); n != 1 {
			t.Errorf("%d Saves, want only that of the start", n)
		}
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(3, "x")})
		checkDetails(t, h.Status(), 3)
		e.open("committed")
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		s.want(activity.Checkpoint{ID: "a"})
	})
}

func TestCommit_OfWhatWasNotSaved(t *testing.T) {
	bothDurable(t, activity.Config{SaveInterval: time.Hour}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			checkErr(t, ctx.Heartbeat(7), nil)
			checkErr(t, activity.Commit(ctx, s.commit), nil) // without details: the newest
			return untilEnded(ctx)
		})
		e.pass(3 * time.Hour)
		if n := len(s.of("Save")); n != 1 {
			t.Errorf("%d Saves: the heartbeat was saved again after the Commit", n)
		}
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(7)})
	})
}

func TestCommit_NextAttemptResumes(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.ResetOnProgress = true
		h := e.start(opts, func(ctx activity.Context) error {
			n, err := activity.Resume(ctx, 0)
			checkErr(t, err, nil)
			if n == 3 {
				return nil
			}
			checkErr(t, activity.Commit(ctx, s.commit, n+1), nil)
			return errBoom
		})
		e.pass(3 * time.Second) // the backoff never grows
		checkErr(t, e.end(h), nil)
	})
}

func TestCommit_Refused(t *testing.T) {
	never := func(activity.Checkpoint) error { t.Error("commit is called"); return nil }
	refused := func(what string, err error, is error, text ...string) {
		t.Helper()
		var e interface{ NonRetryable() bool }
		if !errors.As(err, &e) || !e.NonRetryable() {
			t.Errorf("%s: %v, want a NonRetryable error", what, err)
		}
		if is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v, want %v", what, err, is)
		}
		for _, text := range append(text, "nothing was committed") {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want %q", what, err, text)
			}
		}
	}
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		checkErr(t, rt.Run(t.Context(), job, func(ctx activity.Context) error {
			refused("without a Store", activity.Commit(ctx, never, 1), nil, "Config.Store", `activity "a" (job): attempt 1`)
			return nil
		}), nil)
	})
	durable(t, activity.Config{MaxDetailsSize: 10}, func(t *testing.T, e *env, s *faultyStore) {
		checkErr(t, e.rt.Run(t.Context(), activity.Options{}, func(ctx activity.Context) error {
			refused("without an ID", activity.Commit(ctx, never, 1), nil, "Options.ID")
			return nil
		}), nil)
		checkErr(t, e.rt.Run(t.Context(), job, func(ctx activity.Context) error {
			refused("large details", activity.Commit(ctx, never, "12345678901"), activity.ErrDetailsTooLarge)
			refused("bad details", activity.Commit(ctx, never, func() {}), nil, "value 1 of 1")
			refused("no function", activity.Commit(ctx, nil, 1), nil, "function is nil")
			return ctx.Heartbeat(1) // these have not ended the attempt
		}), nil)
	})
}

// Given a Save in flight of the ID, then Commit waits for it. The wait is no stall.
func TestCommit_WaitsForSave(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.HeartbeatTimeout = 10 * time.Second
		var open func()
		committed := time.Duration(-1)
		h := e.start(opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				return nil
			}
			open = s.block("Save")
			checkErr(t, ctx.Heartbeat(1), nil)
			checkErr(t, ctx.Sleep(time.Second), nil) // the Save has begun
			checkErr(t, activity.Commit(ctx, s.after(func() { committed = e.clock.Now().Sub(e.base) }), 2), nil)
			return untilEnded(ctx)
		})
		e.pass(time.Minute)
		checkState(t, h, activity.StateRunning)
		if committed >= 0 {
			t.Error("Commit did not wait for the Save")
		}
		open()
		synctest.Wait()
		e.pass(10*time.Second - 1)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(2)})
		checkDiff(t, "when it was committed", committed, time.Minute)
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		checkErr(t, e.end(h), nil)
		e.wantStarted("a", 2, time.Minute+10*time.Second)
	})
}

// Given a Save that hangs, then Commit returns an error after StoreTimeout, and has committed
// nothing. It may be called again.
func TestCommit_SaveHangs(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		var open func()
		opts := job
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error {
			open = s.block("Save")
			checkErr(t, ctx.Heartbeat(1), nil)
			checkErr(t, ctx.Sleep(29*time.Second), nil)
			begun := time.Now()
			never := func(activity.Checkpoint) error { t.Error("committed during a Save"); return nil }
			err := activity.Commit(ctx, never, 2) // the call is late, but has not returned
			checkErr(t, err, context.DeadlineExceeded)
			if d := time.Since(begun); d != 30*time.Second || !strings.Contains(err.Error(), "nothing was committed") {
				t.Errorf("after %s: %v", d, err)
			}
			open()
			checkErr(t, activity.Commit(ctx, s.commit, 3), nil)
			return errBoom
		})
		e.pass(time.Minute)
		checkErr(t, e.end(h), errBoom)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointFailed, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(3), LastFailure: "boom"})
	})
}

// Given a Save of another ID that hangs, then Commit waits for that too: nothing else is written.
func TestCommit_AnotherSaveHangs(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		open := func() {}
		e.start(activity.Options{ID: "b", RetryPolicy: once}, func(ctx activity.Context) error {
			checkErr(t, ctx.Sleep(time.Second), nil)
			open = s.block("Save")
			return errors.Join(ctx.Heartbeat(1), untilEnded(ctx))
		})
		h := e.start(job, func(ctx activity.Context) error {
			checkErr(t, ctx.Sleep(time.Second+30*time.Second), nil) // not late yet
			checkErr(t, activity.Commit(ctx, s.commit, 1), nil)
			checkErr(t, ctx.Sleep(time.Second), nil)
			never := func(activity.Checkpoint) error { t.Error("committed while a call hangs"); return nil }
			checkErr(t, activity.Commit(ctx, never, 2), context.DeadlineExceeded)
			open()
			return activity.Commit(ctx, s.commit, 2)
		})
		e.pass(2 * time.Minute)
		checkErr(t, e.end(h), nil)
	})
}

// A newestStore says that Commit need not wait for a Save.
type newestStore struct{ *faultyStore }

func (newestStore) KeepsNewest() bool { return true }

func (s newestStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	if err := s.called(storeCall{method: "Save", batch: slices.Clone(batch)})(ctx); err != nil {
		return err
	}
	batch = slices.DeleteFunc(slices.Clone(batch), func(cp activity.Checkpoint) bool { return cp.Sequence < s.get(cp.ID).Sequence })
	return s.Memory.Save(ctx, batch)
}

// Given a Store that keeps the newest and a Save in flight, then Commit does not wait. If that
// Save fails, it is not tried again with what it had: the Store would take it, since each try has
// a higher Sequence.
func TestCommit_KeepsNewest(t *testing.T) {
	for _, saves := range []error{nil, errDisk} {
		synctest.Test(t, func(t *testing.T) {
			s := newestStore{newStore(t)}
			rt := activity.New(activity.Config{Store: s, Logger: quiet, StoreTimeout: time.Hour})
			both := make(chan struct{})
			fn := func(ctx activity.Context) error {
				gate := make(chan struct{})
				s.on("Save", func(context.Context) error { <-gate; return saves })
				close(both)
				checkErr(t, errors.Join(ctx.Heartbeat(1), ctx.Sleep(time.Second)), nil)
				if n := len(s.batch()); n != 2 {
					t.Errorf("%d checkpoints in the Save", n)
				}
				checkErr(t, activity.Commit(ctx, s.commit, 2), nil)
				s.on("Save", nil)
				close(gate)
				synctest.Wait()
				checkDiff(t, "the details that are stored", s.get("a").Details, details(2))
				checkErr(t, ctx.Sleep(time.Minute), nil)
				checkDiff(t, "the details that are stored later", s.get("a").Details, details(2))
				return errBoom
			}
			// Another activity shares the Save, so that it is tried in parts.
			other := startWith(t, t.Context(), rt, activity.Options{ID: "b", RetryPolicy: once}, func(ctx activity.Context) error {
				<-both
				return errors.Join(ctx.Heartbeat(5), untilEnded(ctx))
			})
			checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a", Name: "job", RetryPolicy: once}, fn), errBoom)
			checkDiff(t, "the details after the end", s.get("a").Details, details(2))
			other.Cancel(nil)
			checkErr(t, rt.Shutdown(t.Context()), nil)
		})
	}
}

// Given a Commit that fails, then the attempt can record no details, and the next one resumes
// from what the Store holds.
func TestCommit_Fails(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens bool
		want    int
	}{{"before", false, 1}, {"after", true, 2}} {
		t.Run(c.name, func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				h := e.start(job, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						n, err := activity.Resume(ctx, 0)
						checkErr(t, err, nil)
						checkDiff(t, "what attempt 2 resumes from", n, c.want)
						return nil
					}
					checkErr(t, ctx.Heartbeat(1), nil)
					err := activity.Commit(ctx, func(cp activity.Checkpoint) error {
						if c.happens {
							checkErr(t, s.commit(cp), nil)
						}
						return errLink
					}, 2)
					checkErr(t, err, errLink)
					if text := err.Error(); !strings.Contains(text, `activity "a" (job): attempt 1`) || !strings.Contains(text, "a Commit failed") {
						t.Error(text)
					}
					checkErr(t, ctx.Heartbeat(), nil)
					checkDiff(t, "the error of a heartbeat with details", ctx.Heartbeat(3), err)
					never := func(activity.Checkpoint) error { t.Error("committed after a failure"); return nil }
					checkDiff(t, "the error of another Commit", activity.Commit(ctx, never, 4), err)
					if ctx.Err() != nil {
						t.Error("the Context has ended")
					}
					return err
				})
				e.pass(time.Second)
				checkErr(t, e.end(h), nil)
			})
		})
	}
}

// Given a Commit that fails and a Store that cannot be read, then nothing is written, and the
// next attempt waits, until the Store says what it holds.
func TestCommit_FailsAndStoreToo(t *testing.T) {
	var book logbook
	bothDurable(t, activity.Config{Logger: slog.New(&book)}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				n, err := activity.Resume(ctx, 0)
				checkErr(t, err, nil)
				checkDiff(t, "what attempt 2 resumes from", n, 2)
				return untilEnded(ctx)
			}
			s.on("Load", failing)
			return activity.Commit(ctx, func(cp activity.Checkpoint) error { return errors.Join(s.commit(cp), errLink) }, 2)
		})
		stored := s.get("a")
		for range 60 {
			e.pass(time.Second)
		}
		checkState(t, h, activity.StateBlocked)
		checkDiff(t, "what is stored meanwhile", s.get("a"), stored)
		if e.rt.Stats().StoreFailingSince.IsZero() || book.has(slog.LevelError, "Commit") == 0 {
			t.Error("the failure does not show")
		}
		if n := len(s.of("Load")); n > 25 {
			t.Errorf("%d Loads in a minute", n)
		}
		s.on("Load", nil)
		e.pass(5 * time.Second)
		checkState(t, h, activity.StateRunning)
		if !e.rt.Stats().StoreFailingSince.IsZero() {
			t.Error("the Store still fails")
		}
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 2, Progressed: 1, Input: []byte("{}"), Details: details(2), LastFailure: s.get("a").LastFailure})
	})
}

// Given a Commit that fails in an execution that ends, then the ID is refused until the Store
// says what it holds, and the end is saved with that.
func TestCommit_FailsAtTheEnd(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := atMost(1)
		opts.ID = "a"
		h := e.start(opts, func(ctx activity.Context) error {
			s.on("Load", failing)
			checkErr(t, ctx.Heartbeat(1), nil)
			return activity.Commit(ctx, func(cp activity.Checkpoint) error { return errors.Join(s.commit(cp), errLink) }, 2)
		})
		checkErr(t, e.end(h), errLink) // after one try
		_, err := e.rt.Start(t.Context(), opts, noop)
		checkErr(t, err, activity.ErrAlreadyRunning)
		if !strings.Contains(err.Error(), "Commit") {
			t.Error(err)
		}
		_, err = e.rt.Recover(t.Context())
		checkErr(t, err, errDisk)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(2)})
		s.on("Load", nil)
		e.pass(10 * time.Second)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointFailed, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(2), LastFailure: s.get("a").LastFailure})
		checkErr(t, run(t, e.rt, opts, func(ctx activity.Context) error {
			n, err := activity.Resume(ctx, 0)
			checkDiff(t, "what the next execution resumes from", n, 2)
			return err
		}), nil)
	})
}

// Given a function that ignores that its Commit has failed, then the activity completes nevertheless.
func TestCommit_FailureIgnored(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			s.on("Load", failing)
			checkErr(t, activity.Commit(ctx, func(activity.Checkpoint) error { return errLink }, 2), errLink)
			return nil
		})
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		s.want(activity.Checkpoint{ID: "a"})
	})
}

// Given an attempt that times out during its Commit, then the next one waits for that, and
// resumes from it.
func TestCommit_TimesOut(t *testing.T) {
	for _, result := range []error{nil, errLink} {
		bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			opts := job
			opts.HeartbeatTimeout = 10 * time.Second
			h := e.start(opts, func(ctx activity.Context) error {
				switch ctx.Info().Attempt {
				case 2:
					n, err := activity.Resume(ctx, 0)
					checkErr(t, err, nil)
					checkDiff(t, "what attempt 2 resumes from", n, 2)
					return untilEnded(ctx)
				case 3:
					return nil
				}
				err := activity.Commit(ctx, func(cp activity.Checkpoint) error {
					<-e.gate("commit")
					return errors.Join(s.commit(cp), result)
				}, 2)
				checkErr(t, err, result)
				if timeoutType(context.Cause(ctx)) != activity.TimeoutHeartbeat {
					t.Error("no timeout")
				}
				if n := len(e.of(activity.EventHeartbeat)); n > 0 {
					t.Errorf("%d heartbeats of an attempt that is over", n)
				}
				return nil
			})
			e.pass(10*time.Second - 1)
			checkState(t, h, activity.StateRunning)
			e.pass(1)
			checkState(t, h, activity.StateBlocked)
			e.pass(time.Minute)
			checkState(t, h, activity.StateBlocked)
			e.open("commit")
			// Attempt 1 has made progress by its Commit, so that the stall of attempt 2 is not
			// the second in a row.
			e.wantStarted("a", 2, time.Minute+10*time.Second)
			e.pass(10 * time.Second)
			e.wantStarted("a", 3, time.Minute+20*time.Second)
			e.pass(time.Second)
			checkErr(t, e.end(h), nil)
		})
	}
}

// Given a cancellation or a pause during a Commit, then it is saved after the Commit, and does
// not undo its details, even if the activity has ended meanwhile.
func TestCommit_Canceled(t *testing.T) {
	for _, c := range []struct {
		name  string
		stop  func(e *env)
		wait  time.Duration
		state activity.CheckpointState
		err   error
	}{
		{"soon", func(e *env) { checkErr(e.t, e.rt.Cancel("a", errCancel), nil) }, time.Second, activity.CheckpointCanceled, nil},
		{"late", func(e *env) { checkErr(e.t, e.rt.Cancel("a", errCancel), nil) }, time.Minute, activity.CheckpointCanceled, nil},
		{"soon, fails", func(e *env) { checkErr(e.t, e.rt.Cancel("a", errCancel), nil) }, time.Second, activity.CheckpointCanceled, errLink},
		{"late, fails", func(e *env) { checkErr(e.t, e.rt.Cancel("a", errCancel), nil) }, time.Minute, activity.CheckpointCanceled, errLink},
		{"pause", func(e *env) { checkErr(e.t, e.rt.Pause("a"), nil) }, time.Second, activity.CheckpointPaused, nil},
		{"pause, late", func(e *env) { checkErr(e.t, e.rt.Pause("a"), nil) }, time.Minute, activity.CheckpointPaused, nil},
		{"pause, late, fails", func(e *env) { checkErr(e.t, e.rt.Pause("a"), nil) }, time.Minute, activity.CheckpointPaused, errLink},
	} {
		t.Run(c.name, func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				e.start(job, func(ctx activity.Context) error {
					checkErr(t, ctx.Heartbeat(1), nil)
					checkErr(t, activity.Commit(ctx, func(cp activity.Checkpoint) error {
						<-e.gate("commit")
						return errors.Join(s.commit(cp), c.err)
					}, 2), c.err)
					return context.Cause(ctx)
				})
				before := s.get("a")
				c.stop(e)
				e.pass(c.wait)
				checkDiff(t, "what is stored during the Commit", s.get("a"), before)
				e.open("commit")
				e.pass(time.Second)
				got := s.get("a")
				s.want(activity.Checkpoint{ID: "a", State: c.state, Progressed: got.Progressed, Input: []byte("{}"), Details: details(2), LastFailure: got.LastFailure})
			})
		})
	}
}

func TestCommit_PanicsOrExits(t *testing.T) {
	for what, f := range map[string]func(){"panics": func() { panic(errBoom) }, "exits": runtime.Goexit} {
		t.Run(what, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				var attempts atomic.Int32
				h := e.start(job, func(ctx activity.Context) error {
					if attempts.Add(1) == 2 {
						n, err := activity.Resume(ctx, 0)
						checkDiff(t, "what attempt 2 resumes from", n, 2)
						return err
					}
					return activity.Commit(ctx, func(cp activity.Checkpoint) error {
						checkErr(t, s.commit(cp), nil)
						f()
						return nil
					}, 2)
				})
				e.pass(time.Second)
				if what == "panics" {
					checkErr(t, e.end(h), nil)
				} else {
					checkErr(t, e.end(h), activity.ErrGoexit)
				}
			})
		})
	}
}

// Given a Drain, then one Commit is made, so that the step in progress is kept, and the next one
// stops the function.
func TestCommit_Drain(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		n := 0
		h := e.start(job, func(ctx activity.Context) error {
			<-e.gate("drain")
			for {
				if err := activity.Commit(ctx, s.commit, n+1); err != nil {
					return err
				}
				n++
			}
		})
		drained := make(chan error, 1)
		go func() { drained <- e.rt.Drain(t.Context()) }()
		synctest.Wait()
		e.open("drain")
		checkErr(t, e.end(h), activity.ErrShutdown)
		checkErr(t, <-drained, nil)
		checkDiff(t, "the steps that were committed", n, 1)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointInterrupted, Input: []byte("{}"), Details: details(1)})
	})
}

func TestCommit_AfterTheEnd(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-ctx.Done()
			never := func(activity.Checkpoint) error { t.Error("committed after a cancellation"); return nil }
			checkErr(t, activity.Commit(ctx, never, 1), errCancel)
			own, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
			beside, _ := activity.FromContext(own)
			checkErr(t, activity.Commit(beside, never, 1), errCancel)
			cancel(errBoom)
			checkErr(t, activity.Commit(beside, never, 1), errBoom)
			return nil // which Commit's error makes a cancellation
		})
		h.Cancel(errCancel)
		e.pass(time.Second)
		checkErr(t, e.end(h), errCancel)
	})
}

// Given bodies that commit at once, then the Commits come one after the other.
func TestCommit_OneAtATime(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		var inside atomic.Int32
		checkErr(t, e.rt.Run(t.Context(), job, func(ctx activity.Context) error {
			var all sync.WaitGroup
			for i := range 20 {
				all.Go(func() {
					checkErr(t, activity.Commit(ctx, s.after(func() {
						if inside.Add(1) != 1 {
							t.Error("two Commits at once")
						}
						time.Sleep(time.Second)
						inside.Add(-1)
					}), i), nil)
				})
			}
			all.Wait()
			return nil
		}), nil)
	})
}

// Given a Commit that hangs, then those who wait for the Store get an error after StoreTimeout.
func TestCommit_Hangs(t *testing.T) {
	var book logbook
	durable(t, activity.Config{StoreTimeout: 30 * time.Second, Logger: slog.New(&book)}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		h := e.start(opts, func(ctx activity.Context) error {
			beside := make(chan error, 1)
			checkErr(t, activity.Commit(ctx, s.after(func() {
				go func() { beside <- ctx.Heartbeat(5) }()
				<-e.gate("commit")
			}), 2), nil)
			checkErr(t, <-beside, context.DeadlineExceeded)
			return errBoom
		})
		e.pass(30*time.Second - 1)
		checkDiff(t, "lines about a Commit that hangs", book.has(slog.LevelError, "Commit hangs"), 0)
		e.pass(1)
		checkDiff(t, "lines about a Commit that hangs", book.has(slog.LevelError, "Commit hangs"), 1)
		e.open("commit")
		checkState(t, h, activity.StateBackingOff)
		h.Cancel(nil)
	})
}

// A Commit is a heartbeat, whose details an Observer and a Status show.
func TestCommit_IsAHeartbeat(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.HeartbeatTimeout = 10 * time.Second
		h := e.start(opts, func(ctx activity.Context) error {
			err := activity.Range(ctx, 0, 10, func(i int) error {
				if i > 0 {
					return untilEnded(ctx)
				}
				if err := ctx.Sleep(9 * time.Second); err != nil {
					return err
				}
				return activity.Commit(ctx, s.commit, activity.RangeProgress{Next: 5, To: 10})
			})
			return err
		})
		e.pass(9 * time.Second)
		e.pass(10*time.Second - 1)
		if st := h.Status(); st.State != activity.StateRunning || st.Done != 1 || st.Attempt != 1 {
			t.Errorf("%+v, want attempt 1 running", st) // Range has recorded its own progress after the Commit's
		}
		var next []int
		for _, ev := range e.of(activity.EventHeartbeat) {
			var p activity.RangeProgress
			_, err := ev.HeartbeatDetails(&p)
			checkErr(t, err, nil)
			next = append(next, p.Next)
		}
		checkDiff(t, "the progress of the heartbeats", next, []int{5, 1})
		checkDiff(t, "heartbeats", e.rt.Stats().Heartbeats, uint64(2))
	})
}

func ExampleCommit() {
	store := &storetest.Memory{} // a Store that is a database
	var rows []int               // a table of that database
	rt := activity.New(activity.Config{Store: store})
	err := rt.Run(context.Background(), activity.Options{ID: "import"}, func(ctx activity.Context) error {
		n, err := activity.Resume(ctx, 0)
		for ; err == nil && n < 3; n++ {
			err = activity.Commit(ctx, func(cp activity.Checkpoint) error {
				// One transaction: the row, and the progress.
				rows = append(rows, n)
				return store.Save(ctx, []activity.Checkpoint{cp})
			}, n+1)
		}
		return err
	})
	fmt.Println(rows, err)
	// Output: [0 1 2] <nil>
}
