// Rule 38: a Store that loses its ownership.

package activity_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// A losingStore is a Store that can be lost.
type losingStore struct {
	*faultyStore
	lost chan struct{}
}

func (s losingStore) Lost() <-chan struct{} { return s.lost }

// losing runs a test with a Store that can be lost. From its loss on nothing may be written.
func losing(t *testing.T, cfg activity.Config, test func(t *testing.T, e *env, s losingStore)) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		s := losingStore{newStore(t), make(chan struct{})}
		if cfg.Store = s; cfg.Logger == nil {
			cfg.Logger = quiet
		}
		if cfg.StoreTimeout == 0 {
			cfg.StoreTimeout = 1000 * time.Hour
		}
		test(t, newEnv(t, cfg, e.mock), s)
	})
}

// lose loses the Store, and lets the Runtime notice.
func (s losingStore) lose() {
	close(s.lost)
	synctest.Wait()
	for _, method := range []string{"Save", "Delete"} {
		s.on(method, func(context.Context) error {
			s.t.Errorf("%s after the Store was lost", method)
			return errDisk
		})
	}
}

func id(id string) activity.Options { return activity.Options{ID: id, Name: "job"} }

// Given running activities, then those that are stored are canceled, and even a nil is no
// success. The others continue.
func TestLost_Running(t *testing.T) {
	var book logbook
	losing(t, activity.Config{Logger: slog.New(&book)}, func(t *testing.T, e *env, s losingStore) {
		fn := func(result error) func(activity.Context) error {
			return func(ctx activity.Context) error {
				checkErr(t, ctx.Heartbeat(1), nil)
				<-ctx.Done()
				checkErr(t, context.Cause(ctx), activity.ErrStoreLost)
				return result
			}
		}
		completes, fails := e.start(id("completes"), fn(nil)), e.start(id("fails"), fn(errBoom))
		hangs := e.start(id("hangs"), e.hang)
		free := e.start(activity.Options{Name: "free"}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) })
		e.pass(time.Second)
		s.lose()
		checkEnd(t, e.end(completes), 1, activity.RetryStateCancelRequested, activity.ErrStoreLost)
		checkEnd(t, e.end(fails), 1, activity.RetryStateCancelRequested, activity.ErrStoreLost, errBoom)
		checkState(t, hangs, activity.StateRunning)
		e.pass(10 * time.Second) // CancelGrace
		checkEnd(t, e.end(hangs), 1, activity.RetryStateCancelRequested, activity.ErrStoreLost)
		e.pass(49 * time.Second)
		checkErr(t, e.end(free), nil)
		if n := book.has(slog.LevelError, "nothing is saved any more"); n == 0 {
			t.Error("no line says that the Store is lost")
		}
		if st := e.rt.Stats(); st.StoreFailingSince.IsZero() || st.Canceled != 3 || st.Completed != 1 {
			t.Errorf("%+v", st)
		}
		s.want(activity.Checkpoint{ID: "completes", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Input: []byte("{}"), Details: details(1)})
	})
}

// Given activities that wait, then they end at once.
func TestLost_Waiting(t *testing.T) {
	losing(t, activity.Config{MaxConcurrent: 3}, func(t *testing.T, e *env, s losingStore) {
		backingOff := e.start(id("backing off"), func(activity.Context) error { return errBoom })
		canceling := e.start(id("canceling"), untilEnded)
		paused := e.start(id("paused"), untilEnded)
		checkErr(t, e.rt.Pause("paused"), nil)
		synctest.Wait()
		blocked := id("blocked")
		blocked.MaxAbandoned, blocked.HeartbeatTimeout = activity.NoOverlap, time.Second
		inGuard := e.start(blocked, e.hang)
		e.pass(1500 * time.Millisecond) // attempt 2 of backing off has failed, too
		for range 2 {
			e.start(activity.Options{}, untilEnded)
		}
		waiting := e.start(id("waiting"), untilEnded)
		checkState(t, waiting, activity.StateWaiting)
		checkState(t, inGuard, activity.StateBlocked)
		checkState(t, backingOff, activity.StateBackingOff)
		checkState(t, paused, activity.StatePaused)
		s.lose()
		for _, h := range []*activity.Handle[string]{backingOff, paused, inGuard, waiting, canceling} {
			checkErr(t, e.end(h), activity.ErrStoreLost)
			checkState(t, h, activity.StateCanceled)
		}
	})
}

// Given activities that are being started or ended, then they are refused, or lost.
func TestLost_WhileCallingTheStore(t *testing.T) {
	for _, c := range []struct {
		method string
		err    error // of the function
	}{{"Load", nil}, {"Save", nil}, {"Save", errBoom}, {"Delete", nil}} {
		t.Run(c.method, func(t *testing.T) {
			losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
				gate := make(chan struct{})
				defer close(gate)
				begun, canceled := false, error(nil)
				block := func() {
					s.on(c.method, func(ctx context.Context) error {
						begun = true
						<-ctx.Done()
						canceled = context.Cause(ctx)
						if c.method != "Load" { // for which Run waits
							<-gate
						}
						return canceled
					})
				}
				if c.err == nil {
					block()
				}
				result := make(chan error, 1)
				opts := id("a")
				opts.RetryPolicy = once
				go func() {
					result <- e.rt.Run(e.ctx, opts, func(ctx activity.Context) error {
						if c.err != nil {
							block()
						}
						return c.err
					})
				}()
				synctest.Wait()
				if !begun {
					t.Fatal("the Store is not called")
				}
				close(s.lost)
				synctest.Wait()
				err := <-result
				checkErr(t, err, activity.ErrStoreLost)
				if c.err != nil {
					checkErr(t, err, c.err)
				}
				var ended *activity.Error
				if started := c.method == "Delete" || c.err != nil; errors.As(err, &ended) != started {
					t.Errorf("%v is an *Error: %t", err, !started) // what was not started is refused
				}
				if st := e.rt.Stats(); st.Completed+st.Failed > 0 || st.Canceled != st.Scheduled {
					t.Errorf("%+v", st)
				}
				checkErr(t, canceled, activity.ErrStoreLost)
				if len(e.rt.Activities()) > 0 {
					t.Error("an activity has not ended")
				}
			})
		})
	}
}

// Given a Store that is lost, then whatever needs it is refused, even before the Runtime has
// noticed, and a Shutdown does not wait.
func TestLost_Refuses(t *testing.T) {
	for _, wait := range []func(){func() {}, synctest.Wait} {
		losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
			h := e.start(id("a"), untilEnded)
			close(s.lost)
			wait()
			_, err := e.rt.Start(e.ctx, id("b"), noop)
			checkErr(t, err, activity.ErrStoreLost)
			_, err = e.rt.Recover(e.ctx)
			checkErr(t, err, activity.ErrStoreLost)
			checkErr(t, e.rt.Forget(e.ctx, "c"), activity.ErrStoreLost)
			synctest.Wait()
			checkErr(t, e.end(h), activity.ErrStoreLost)
			for cp, err := range e.rt.Checkpoints(e.ctx) {
				checkErr(t, err, nil)
				if cp.ID != "a" || cp.State != activity.CheckpointRunning {
					t.Errorf("%+v", cp) // what the Store holds
				}
			}
			checkErr(t, run(t, e.rt, activity.Options{}, noop), nil)
			err = e.rt.Shutdown(e.ctx)
			checkErr(t, err, activity.ErrStoreLost)
			if !strings.Contains(err.Error(), `"a"`) {
				t.Error(err)
			}
		})
	}
}

// Given a Shutdown that waits for a Store that fails, then the loss ends it.
func TestLost_DuringShutdown(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		e.start(id("a"), untilEnded)
		s.on("Save", failing)
		done := make(chan error, 1)
		go func() { done <- e.rt.Shutdown(e.ctx) }()
		e.pass(time.Minute)
		if len(done) > 0 {
			t.Fatal("Shutdown did not wait for the Store")
		}
		close(s.lost)
		synctest.Wait()
		checkErr(t, <-done, activity.ErrStoreLost)
	})
}

// Given a Commit in flight, then it returns its own result, and the caller gets the loss.
func TestLost_DuringCommit(t *testing.T) {
	for _, result := range []error{nil, errLink} {
		losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
			h := e.start(id("a"), func(ctx activity.Context) error {
				err := activity.Commit(ctx, func(activity.Checkpoint) error {
					<-ctx.Done()
					return result
				}, 1)
				checkErr(t, err, result)
				return err
			})
			s.lose()
			checkErr(t, e.end(h), activity.ErrStoreLost)
			e.pass(time.Minute)
		})
	}
}

// Given a cancellation before the loss, then the caller gets both.
func TestLost_AfterCancel(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		h := e.start(id("a"), func(ctx activity.Context) error {
			<-e.gate("return")
			return context.Cause(ctx)
		})
		h.Cancel(errCancel)
		synctest.Wait()
		s.lose()
		e.open("return")
		checkErr(t, e.end(h), activity.ErrStoreLost)
		checkErr(t, e.end(h), errCancel)
	})
}

// The goroutine that waits for the loss exists only while there is something to lose.
func TestLost_OwnsNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := losingStore{newStore(t), make(chan struct{})}
		rt := activity.New(activity.Config{Store: s, Logger: quiet})
		before := bubbled(t)
		for range 3 {
			checkErr(t, rt.Run(t.Context(), id("a"), noop), nil)
		}
		goroutines(t, before)
	})
}

// A rudeStore has a Lost that panics.
type rudeStore struct{ *faultyStore }

func (rudeStore) Lost() <-chan struct{} { panic("rude") }

// Given a synchronous heartbeat of a clean-up after the loss, then it returns.
func TestLost_SyncHeartbeatAfterwards(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		told := make(chan error, 1)
		opts := id("a")
		opts.SyncHeartbeats = true
		ctx0, cancel := context.WithCancel(context.Background())
		defer cancel()
		h := e.start(opts, func(ctx activity.Context) error {
			<-ctx.Done()
			own := context.WithoutCancel(ctx)
			own, stop := context.WithCancel(own)
			context.AfterFunc(ctx0, stop)
			beside, _ := activity.FromContext(own)
			told <- beside.Heartbeat(7)
			return nil
		})
		s.lose()
		e.pass(24 * time.Hour)
		if len(told) == 0 {
			t.Error("the heartbeat never returns")
		}
		_ = h
	})
}

// Given an activity that has ended and is not saved, then no goroutine waits for the loss.
func TestLost_OwnsNoGoroutineAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := losingStore{newStore(t), make(chan struct{})}
		rt := activity.New(activity.Config{Store: s, Logger: quiet})
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a", RetryPolicy: once}, func(ctx activity.Context) error {
			s.on("Save", failing)
			return errLink
		}), errLink)
	})
}

// Given a loss that the Runtime has not noticed, then Commit does not commit.
func TestLost_BeforeCommit(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		e.start(id("a"), func(ctx activity.Context) error {
			close(s.lost)
			return activity.Commit(ctx, func(activity.Checkpoint) error {
				t.Error("committed after the loss")
				return nil
			}, 1)
		})
		e.pass(time.Second)
	})
}

func TestLost_Panics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Store: rudeStore{newStore(t)}, Logger: quiet})
		checkErr(t, rt.Run(t.Context(), id("a"), noop), nil)
	})
}

// Given ends that are not saved, then Checkpoints has what the Store holds after the loss.
func TestLost_Checkpoints(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		for name, err := range map[string]error{"fails": errBoom, "completes": nil} {
			opts := id(name)
			opts.RetryPolicy = once
			h := e.start(opts, func(activity.Context) error {
				s.on("Save", failing)
				s.on("Delete", failing)
				return err
			})
			h.Cancel(nil)
			synctest.Wait()
			s.on("Save", nil)
		}
		s.on("Save", failing)
		close(s.lost)
		e.pass(time.Minute)
		var got []string
		for cp, err := range e.rt.Checkpoints(e.ctx) {
			checkErr(t, err, nil)
			got = append(got, cp.ID+" "+cp.State.String())
		}
		checkDiff(t, "the checkpoints", got, []string{"completes running", "fails running"})
	})
}

// Given a Forget that waits for a Save that hangs, then the loss refuses it.
func TestLost_DuringForget(t *testing.T) {
	losing(t, activity.Config{}, func(t *testing.T, e *env, s losingStore) {
		e.start(id("a"), func(ctx activity.Context) error {
			s.on("Save", func(ctx context.Context) error { <-e.gate("save"); return errDisk })
			return errors.Join(ctx.Heartbeat(1), untilEnded(ctx))
		})
		e.pass(time.Second)
		forgotten := make(chan error, 1)
		go func() { forgotten <- e.rt.Forget(e.ctx, "b") }()
		synctest.Wait()
		s.on("Delete", func(context.Context) error { t.Error("a Delete after the loss"); return nil })
		close(s.lost)
		synctest.Wait()
		e.open("save")
		checkErr(t, <-forgotten, activity.ErrStoreLost)
	})
}
