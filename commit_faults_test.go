// Rule 37: Commit beside heartbeats, waits, cancellations and a Store that fails.

package activity_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Given a heartbeat with details during a Commit, then its details are the newest.
func TestCommit_HeartbeatMeanwhileIsNewer(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			checkErr(t, ctx.Heartbeat(1), nil)
			checkErr(t, activity.Commit(ctx, func(cp activity.Checkpoint) error {
				checkErr(t, ctx.Heartbeat(3), nil) // as another goroutine would
				return s.commit(cp)
			}), nil)
			return untilEnded(ctx)
		})
		e.pass(time.Minute)
		checkDiff(t, "stored", s.get("a").Details, details(3))
	})
}

// Given a synchronous heartbeat during a Commit, then it returns when the Store holds its details.
func TestCommit_SyncHeartbeatMeanwhile(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		e.start(opts, func(ctx activity.Context) error {
			told := make(chan error, 1)
			checkErr(t, activity.Commit(ctx, func(cp activity.Checkpoint) error {
				go func() { told <- ctx.Heartbeat(3) }()
				time.Sleep(time.Second)
				return s.commit(cp)
			}), nil)
			checkErr(t, <-told, nil)
			checkDiff(t, "stored", s.get("a").Details, details(3))
			return untilEnded(ctx)
		})
		e.pass(time.Minute)
	})
}

// Given a body that is done and recorded during the Commit of another one, then it does not run again.
func TestCommit_InRangeParallel(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		var mu sync.Mutex
		ran := map[int]int{}
		opts := job
		opts.HeartbeatTimeout = 10 * time.Second
		h := e.start(opts, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 2, 2, func(body activity.Context, i int) error {
				mu.Lock()
				ran[i]++
				mu.Unlock()
				if i == 1 {
					_ = body.Sleep(time.Second)
					return nil
				}
				if ctx.Info().Attempt == 1 {
					_ = activity.Commit(body, s.after(func() { _ = body.Sleep(2 * time.Second) }))
					<-e.gate("stall")
				}
				return nil
			})
		})
		e.pass(time.Minute)
		t.Log(ran, h.Status().State, string(s.get("a").Details))
		if ran[1] != 1 {
			t.Errorf("body 1 is done, and ran %d times", ran[1])
		}
	})
}

// Given a Commit that hangs when the activity fails, then the caller gets the failure nevertheless.
func TestCommit_HangsAtTheEnd(t *testing.T) {
	bothDurable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.HeartbeatTimeout, opts.RetryPolicy = time.Minute, once
		h := e.start(opts, func(ctx activity.Context) error {
			return activity.Commit(ctx, s.after(func() { <-e.gate("commit") }), 2)
		})
		e.pass(time.Minute)
		checkState(t, h, activity.StateFailed)
		e.pass(24 * time.Hour)
		select {
		case <-h.Done():
		default:
			t.Error("the caller is not told")
		}
		e.open("commit")
		e.pass(time.Second)
	})
}

// Given a Commit that has hung for StoreTimeout, then a synchronous heartbeat after that gets an error.
func TestCommit_HangsBeforeSyncHeartbeat(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		told := make(chan error, 1)
		e.start(opts, func(ctx activity.Context) error {
			return activity.Commit(ctx, s.after(func() {
				go func() { _ = ctx.Sleep(31 * time.Second); told <- ctx.Heartbeat(5) }()
				<-e.gate("commit")
			}), 2)
		})
		e.pass(24 * time.Hour)
		if len(told) == 0 {
			t.Error("a synchronous heartbeat is never told")
		}
		e.open("commit")
	})
}

// Given Commits one after the other, then a synchronous heartbeat gets its turn.
func TestCommit_StarvesNobody(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		var took atomic.Int64
		took.Store(-1)
		e.start(opts, func(ctx activity.Context) error {
			for range 2 {
				go func() {
					for activity.Commit(ctx, s.after(func() { time.Sleep(time.Second) }), 1) == nil {
					}
				}()
			}
			_ = ctx.Sleep(500 * time.Millisecond)
			begun := time.Now()
			err := ctx.Heartbeat(5)
			took.Store(int64(time.Since(begun)))
			t.Log(err)
			return untilEnded(ctx)
		})
		e.pass(10 * time.Minute)
		t.Log(time.Duration(took.Load()))
		if d := time.Duration(took.Load()); d < 0 || d > 31*time.Second {
			t.Error("the heartbeat starves", d)
		}
	})
}

// Given a Commit that failed and a Store that cannot be read, then no goroutine waits for that.
func TestCommit_OwnsNoGoroutine(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		s := newStore(t)
		cfg := activity.Config{Store: s, Logger: quiet}
		if e.mock != nil {
			cfg.Clock = e.mock
		}
		rt := activity.New(cfg)
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a", RetryPolicy: once}, func(ctx activity.Context) error {
			s.on("Load", failing)
			return activity.Commit(ctx, func(activity.Checkpoint) error { return errLink }, 1)
		}), errLink)
	})
}

// Given a Commit that ends after CancelGrace, then its progress resets the count of attempts.
func TestCommit_CountedFrom(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.ResetOnProgress = true
		e.start(opts, func(ctx activity.Context) error {
			if ctx.Info().Attempt < 3 {
				return errBoom
			}
			return activity.Commit(ctx, s.after(func() { <-e.gate("commit") }), 2)
		})
		e.pass(time.Minute)
		go e.rt.Shutdown(context.Background())
		e.pass(time.Minute)
		e.open("commit")
		e.pass(time.Minute)
		if cp := s.get("a"); cp.CountedFrom != 2 {
			t.Errorf("%+v", cp)
		}
	})
}

// Given a Shutdown that waits for a Commit to be resolved, then Forget of its ID ends the wait.
func TestCommit_ForgetEndsShutdown(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		_ = opts
		h := startWith(t, e.ctx, e.rt, activity.Options{ID: "a", RetryPolicy: once}, func(ctx activity.Context) error {
			s.on("Load", failing)
			return activity.Commit(ctx, func(cp activity.Checkpoint) error { return errLink }, 2)
		})
		e.pass(time.Second)
		checkErr(t, e.end(h), errLink)
		done := make(chan error, 1)
		go func() { done <- e.rt.Shutdown(context.Background()) }()
		e.pass(time.Minute)
		checkErr(t, e.rt.Forget(t.Context(), "a"), nil)
		s.on("Load", nil)
		e.pass(time.Hour)
		if len(done) == 0 {
			t.Error("Shutdown still waits")
		}
	})
}

// Given many Commits that take turns for longer than StoreTimeout, then none of them fails.
func TestCommit_ManyBodies(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 40, 40, func(ctx activity.Context, i int) error {
				return activity.Commit(ctx, s.after(func() { time.Sleep(time.Second) }))
			})
		})
		e.pass(10 * time.Minute)
		checkErr(t, e.end(h), nil)
	})
}

// Given a Commit in a Drain that was not made because the Store was busy, then it can be called again.
func TestCommit_DrainWhileBusy(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			open := s.block("Save")
			<-e.gate("drain")
			err := activity.Commit(ctx, s.commit, 1)
			checkErr(t, err, context.DeadlineExceeded) // nothing was committed; it may be called again
			open()
			err = activity.Commit(ctx, s.commit, 1)
			checkErr(t, err, nil)
			return err
		})
		go e.rt.Drain(context.Background())
		synctest.Wait()
		e.open("drain")
		e.pass(time.Hour)
		_ = e.end(h)
	})
}

// Given a context that outlives the attempt, then a Commit that waits ends with the attempt.
func TestCommit_CanceledWhileWaiting(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		var took time.Duration
		var got error
		h := e.start(job, func(ctx activity.Context) error {
			open := s.block("Save")
			_ = ctx.Heartbeat(1)
			_ = ctx.Sleep(time.Second)
			beside, _ := activity.FromContext(context.WithoutCancel(ctx))
			begun := time.Now()
			got = activity.Commit(beside, s.commit, 2)
			took = time.Since(begun)
			open()
			return got
		})
		e.pass(2 * time.Second)
		h.Cancel(errCancel)
		e.pass(time.Minute)
		checkErr(t, got, errCancel)
		checkErr(t, e.end(h), errCancel)
		if took > 2*time.Second {
			t.Error(took)
		}
	})
}

func TestCommit_Counts(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error {
			return activity.Commit(ctx, func(activity.Checkpoint) error { return errLink }, 1)
		})
		e.pass(time.Second)
		_ = e.end(h)
		checkDiff(t, "heartbeats", int(e.rt.Stats().Heartbeats), len(e.of(activity.EventHeartbeat)))
	})
}

func TestCommit_HangShows(t *testing.T) {
	durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			return activity.Commit(ctx, s.after(func() { <-e.gate("c") }), 2)
		})
		e.pass(time.Hour)
		if e.rt.Stats().StoreFailingSince.IsZero() {
			t.Error("StoreFailingSince is zero while a Commit hangs")
		}
		e.open("c")
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		if !e.rt.Stats().StoreFailingSince.IsZero() {
			t.Error("the Store still fails")
		}
	})
}

// Given a checkpoint that the Store has refused, then the Store still fails while a Commit of it is in
// flight, whatever else it takes.
func TestCommit_OfFailingRecord(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			s.on("Save", failing)
			checkErr(t, ctx.Heartbeat(1), nil)
			checkErr(t, ctx.Sleep(200*time.Millisecond), nil)
			return activity.Commit(ctx, s.after(func() {
				s.on("Save", nil)
				checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, noop), nil)
				time.Sleep(10 * time.Second)
				if e.rt.Stats().StoreFailingSince.IsZero() {
					t.Error("the Store works, but does not hold the heartbeat")
				}
			}), 2)
		})
		e.pass(time.Minute)
		checkErr(t, e.end(h), nil)
		if !e.rt.Stats().StoreFailingSince.IsZero() {
			t.Error("the Store still fails")
		}
	})
}

// Given Commits that wait for one that fails, then they return its error.
func TestCommit_WaitsForOneThatFails(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error {
			var second error
			err := activity.Commit(ctx, func(activity.Checkpoint) error {
				go func() {
					never := func(activity.Checkpoint) error { t.Error("committed after a failure"); return nil }
					second = activity.Commit(ctx, never, 3)
				}()
				time.Sleep(time.Second)
				return errLink
			}, 2)
			synctest.Wait()
			checkErr(t, second, err)
			return err
		})
		e.pass(time.Minute)
		checkErr(t, e.end(h), errLink)
	})
}

// A Commit keeps the failure of the attempt before.
func TestCommit_LastFailure(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			return activity.Commit(ctx, func(cp activity.Checkpoint) error {
				checkDiff(t, "LastFailure", cp.LastFailure, "boom")
				return s.commit(cp)
			}, 2)
		})
		e.pass(time.Minute)
		checkErr(t, e.end(h), nil)
	})
}

// A Commit moves the heartbeat deadline when it begins, and when it ends.
func TestCommit_Deadline(t *testing.T) {
	bothDurable(t, activity.Config{StoreTimeout: 20 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.HeartbeatTimeout, opts.RetryPolicy = 10*time.Second, once
		h := e.start(opts, func(ctx activity.Context) error {
			checkErr(t, ctx.Sleep(9*time.Second), nil)
			checkErr(t, activity.Commit(ctx, s.after(func() { <-e.gate("commit") }), 1), nil)
			return untilEnded(ctx)
		})
		e.pass(9 * time.Second)
		e.pass(10*time.Second - 1)
		checkState(t, h, activity.StateRunning)
		e.open("commit") // at 19 s
		e.pass(10*time.Second - 1)
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		if typ := timeoutType(e.end(h)); typ != activity.TimeoutHeartbeat {
			t.Errorf("it ended with %s", typ)
		}
		e.pass(time.Minute)
		if !e.rt.Stats().StoreFailingSince.IsZero() || e.rt.Stats().SaveFailures > 0 {
			t.Error("a Commit that is over counts as one that hangs")
		}
	})
}
