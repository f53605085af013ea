package activity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

type drainKey struct{}

// drain starts a Drain that may take an hour.
func (e *env) drain() (result chan error) {
	result = make(chan error, 1)
	ctx, cancel := context.WithTimeoutCause(e.t.Context(), time.Hour, errCancel)
	go func() { defer cancel(); result <- e.rt.Drain(ctx) }()
	synctest.Wait()
	return result
}

// Rule 19. Given a function in the middle of a step when Drain begins, then its Context stays
// alive until it comes to each kind of safe point, and that returns ErrShutdown. An error, or
// a nil where the safe point cut something short, counts as canceled, and the attempt does not
// count.
func TestDrain_SafePoints(t *testing.T) {
	for name, test := range map[string]struct {
		point    func(ctx activity.Context) error
		finishes bool // a nil after that is a success
	}{
		"Heartbeat": {func(ctx activity.Context) error { return ctx.Heartbeat(7) }, true},
		"Sleep":     {func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }, false},
		"Sleep(0)":  {func(ctx activity.Context) error { return ctx.Sleep(0) }, false},
		"Idle":      {func(ctx activity.Context) error { return activity.Idle(ctx, time.Minute) }, false},
		"Range": {func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 3, func(int) error { return errors.New("a body ran") })
		}, false},
		"RangeParallel": {func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 3, 2, func(activity.Context, int) error { return errors.New("a body ran") })
		}, false},
		"Guard": {func(ctx activity.Context) error { return activity.Guard(ctx, never) }, false},
		"Read": {func(ctx activity.Context) error {
			_, err := activity.Reader(ctx, strings.NewReader("abc")).Read(make([]byte, 3))
			return err
		}, false},
		"Sleep of a derived context": {func(ctx activity.Context) error {
			derived, cancel := context.WithTimeout(context.WithValue(ctx, drainKey{}, 1), time.Hour)
			defer cancel()
			c, _ := activity.FromContext(derived)
			return c.Sleep(time.Minute)
		}, false},
	} {
		for _, swallow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%t", name, swallow), func(t *testing.T) {
				both(t, activity.Config{}, func(t *testing.T, e *env) {
					h := e.start(activity.Options{ID: "a", HeartbeatTimeout: time.Hour}, func(ctx activity.Context) error {
						<-e.gate("step")
						if ctx.Err() != nil {
							t.Error("the Context has ended")
						}
						err := test.point(ctx)
						if err != activity.ErrShutdown || ctx.Err() != nil {
							t.Errorf("the safe point returns %v, and the Context has ended with %v", err, context.Cause(ctx))
						}
						if swallow {
							return nil
						}
						return fmt.Errorf("stopped: %w", err)
					})
					drained := e.drain()
					e.pass(time.Minute)
					checkState(t, h, activity.StateRunning)
					e.open("step")
					if err := <-drained; err != nil {
						t.Errorf("Drain: %v", err)
					}
					if swallow && test.finishes {
						checkErr(t, e.end(h), nil)
					} else {
						checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
					}
					if name == "Heartbeat" {
						checkDetails(t, h.Status(), 7)
					}
				})
			})
		}
	}
}

// Rules 3 and 19. Given details that cannot be encoded, when a heartbeat of a drain records them,
// then its error says both.
func TestDrain_HeartbeatWithBadDetails(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error {
			<-e.gate("step")
			err := ctx.Heartbeat(make(chan int))
			if !errors.Is(err, activity.ErrShutdown) || !containsAll(fmt.Sprint(err), "chan int") {
				t.Errorf("got %v", err)
			}
			return err
		})
		drained := e.drain()
		e.open("step")
		checkErr(t, <-drained, nil)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
	})
}

// Rule 19. Given a Sleep or an Idle that is under way, when Drain begins, then it returns
// ErrShutdown at once.
func TestDrain_WakesASleep(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		a := e.start(activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
		b := e.start(activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error { return activity.Idle(ctx, time.Hour) })
		checkErr(t, <-e.drain(), nil)
		for _, h := range []*activity.Handle[string]{a, b} {
			checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
		}
	})
}

// Rule 19. Given a Range whose body is under way, when Drain begins, then that body finishes and
// is recorded; if it was the last, the Range is done.
func TestDrain_OfARange(t *testing.T) {
	for last, name := range map[int]string{4: "in the middle", 3: "the last body"} {
		t.Run(name, func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{}, func(ctx activity.Context) error {
					return activity.Range(ctx, 0, last, func(i int) error {
						if i == 2 {
							<-e.gate("body")
						}
						return nil
					})
				})
				drained := e.drain()
				e.open("body")
				checkErr(t, <-drained, nil)
				if last == 3 {
					checkErr(t, e.end(h), nil)
				} else {
					checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
				}
				checkDetails(t, h.Status(), activity.RangeProgress{Next: 3, To: last})
			})
		})
	}
}

// Rule 19. Given a clean-up through context.WithoutCancel, also with a timeout of its own, when
// Drain has begun, then its Sleep and Heartbeat work.
func TestDrain_NotThroughWithoutCancel(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error {
			<-e.gate("step")
			without := context.WithoutCancel(ctx)
			timed, cancel := context.WithTimeout(context.WithValue(without, drainKey{}, 1), time.Hour)
			defer cancel()
			for _, c := range []context.Context{without, timed} {
				clean, _ := activity.FromContext(c)
				again, _ := activity.FromContext(context.WithValue(clean, drainKey{}, 2))
				for _, c := range []activity.Context{clean, again} {
					if err := errors.Join(c.Sleep(time.Second), c.Heartbeat(8)); err != nil {
						t.Errorf("the clean-up gets %v", err)
					}
				}
			}
			return errBoom
		})
		drained := e.drain()
		e.open("step")
		for range 4 {
			e.pass(time.Second)
		}
		checkErr(t, <-drained, nil)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown, errBoom)
		checkDetails(t, h.Status(), 8)
	})
}

// Rule 19. Given functions that fail, panic or stall before they are asked, then they get no other
// attempt. Those that wait are canceled at once. New ones are refused.
func TestDrain_Untold(t *testing.T) {
	both(t, activity.Config{MaxConcurrent: 4}, func(t *testing.T, e *env) {
		asked := 0
		policy := activity.RetryPolicy{Retryable: func(error) bool { asked++; return true }}
		fails := e.start(activity.Options{RetryPolicy: policy}, func(activity.Context) error { <-e.gate("step"); return errBoom })
		stalls := e.start(activity.Options{ID: "s", HeartbeatTimeout: time.Minute, RetryPolicy: policy}, e.hang)
		backsOff := e.start(activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour, Retryable: policy.Retryable}}, func(activity.Context) error { return errBoom })
		e.start(activity.Options{ID: "t"}, e.hang)
		e.start(activity.Options{ID: "u"}, e.hang)
		waits := e.start(activity.Options{}, noop)
		drained := e.drain()
		checkEnd(t, e.end(backsOff), 1, activity.RetryStateCancelRequested, activity.ErrShutdown, errBoom)
		checkEnd(t, e.end(waits), 0, activity.RetryStateCancelRequested, activity.ErrShutdown)
		checkErr(t, e.rt.Run(e.ctx, activity.Options{}, noop), activity.ErrShutdown)
		e.open("step")
		checkEnd(t, e.end(fails), 1, activity.RetryStateCancelRequested, activity.ErrShutdown, errBoom)
		e.pass(time.Minute - 1)
		checkState(t, stalls, activity.StateRunning)
		e.pass(1)
		err := e.end(stalls)
		checkEnd(t, err, 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
		if asTimeout(t, err) == nil {
			t.Errorf("%v", err)
		}
		if asked != 1 { // before the drain
			t.Errorf("Retryable was asked %d times, though there is no other attempt", asked)
		}
		select {
		case err := <-drained:
			t.Errorf("Drain returned %v before all had ended", err)
		default:
		}
		e.open("t1")
		e.open("u1")
		checkErr(t, <-drained, nil)
		checkErr(t, e.rt.Drain(e.ctx), nil) // again
	})
}

// Rule 19. Given a function that does not stop, when Drain's context ends, then its error names the
// activity; Shutdown cancels it then.
func TestDrain_ItsContextEnds(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a"}, untilEnded)
		ctx, cancel := context.WithTimeoutCause(e.t.Context(), time.Minute, errCancel)
		defer cancel()
		err := e.rt.Drain(ctx)
		if want := `activity: drain: 1 activity ("a") not ended: the user left`; fmt.Sprint(err) != want || !errors.Is(err, errCancel) {
			t.Errorf("%v, want %s", err, want)
		}
		checkErr(t, e.rt.Shutdown(e.t.Context()), nil)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
	})
}

// Rules 19 and 34. Given stored activities when Drain begins, then the Store holds those that run
// as interrupted at once, without the attempt, so that a kill counts for none; a failure before
// the function was asked counts.
func TestDrain_IsDurable(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		told := e.start(job, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(5)
			<-e.gate("step")
			return ctx.Heartbeat(6)
		})
		opts := job
		opts.ID = "b"
		e.start(opts, func(ctx activity.Context) error { <-e.gate("step"); return errBoom })
		opts.ID = "c"
		e.start(opts, func(ctx activity.Context) error { <-e.gate("step"); return nil })
		e.pass(time.Second)
		drained := e.drain()
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointInterrupted, Input: []byte("{}"), Details: details(5)})
		killed := s.Clone()
		e.open("step")
		checkErr(t, <-drained, nil)
		checkErr(t, e.rt.Shutdown(e.ctx), nil)
		checkEnd(t, e.end(told), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointInterrupted, Progressed: 0, Input: []byte("{}"), Details: details(6)})
		s.want(activity.Checkpoint{ID: "b", State: activity.CheckpointInterrupted, Attempt: 1, Input: []byte("{}"), LastFailure: "boom", NextAttempt: s.get("b").NextAttempt})
		s.want(activity.Checkpoint{ID: "c"})

		e = storeEnv(t, activity.Config{}, nil, storeOn(t, killed))
		h := e.start(job, func(ctx activity.Context) error {
			if ctx.Info().Attempt != 1 {
				t.Errorf("attempt %d after a kill during a drain", ctx.Info().Attempt)
			}
			checkDetails(t, ctx, 5)
			return nil
		})
		checkErr(t, e.end(h), nil)
	})
}

// Rule 19. Given a clean-up whose synchronous heartbeat waits for the Store, when Drain
// begins, then the heartbeat returns nil.
func TestDrain_CleanUpThatWaitsForTheStore(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		var got error
		h := e.start(opts, func(ctx activity.Context) error {
			<-e.gate("go")
			c, _ := activity.FromContext(context.WithoutCancel(ctx))
			got = c.Heartbeat(1)
			return nil
		})
		open := s.block("Save")
		e.open("go")
		drained := e.drain()
		open()
		checkErr(t, <-drained, nil)
		checkErr(t, got, nil)
		checkErr(t, e.end(h), nil)
	})
}

// Rule 19. Given a clean-up that sleeps, when Drain begins, then it sleeps on.
func TestDrain_CleanUpThatSleeps(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{}, func(ctx activity.Context) error {
			c, _ := activity.FromContext(context.WithoutCancel(ctx))
			b := e.clock.Now()
			checkErr(t, c.Sleep(time.Minute), nil)
			if d := e.clock.Now().Sub(b); d != time.Minute {
				t.Error(d)
			}
			return nil
		})
		d := e.drain()
		e.pass(time.Minute)
		<-d
	})
}

// Rule 19. Given an activity that runs another one, when the inner one is asked to stop, then
// the attempt of the outer one does not count either.
func TestDrain_OfAnInnerActivity(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		fn := func(ctx activity.Context) error {
			return e.rt.Run(ctx, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) })
		}
		e.start(opts, fn)
		checkErr(t, <-e.drain(), nil)
		time.Sleep(time.Second)
		e, _ = e.reboot(s, activity.Config{})
		h := e.start(opts, fn)
		e.pass(time.Hour)
		checkErr(t, e.end(h), nil)
	})
}

// Rule 19. Given an activity that starts another one during a drain, when it returns that
// refusal, then its attempt does not count.
func TestDrain_RefusesAnInnerActivity(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-e.gate("g")
			return e.rt.Run(ctx, activity.Options{}, noop)
		})
		d := e.drain()
		e.open("g")
		<-d
		err := e.end(h)
		if !errors.Is(err, activity.ErrShutdown) {
			t.Error(err)
		}
		if cp := s.get("a"); cp.Attempt != 0 || !cp.NextAttempt.IsZero() {
			t.Errorf("%+v", cp)
		}
	})
}

// Given a wrapper that changes details, when a clean-up heartbeats through it, then its
// Heartbeat is called, also during a drain.
func TestDrain_HeartbeatOfAWrapper(t *testing.T) {
	for _, drain := range []bool{false, true} {
		both(t, activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			return next(doubling{ctx})
		}}, func(t *testing.T, e *env) {
			h := e.start(activity.Options{}, func(ctx activity.Context) error {
				<-e.gate("go")
				c, _ := activity.FromContext(context.WithoutCancel(ctx))
				return c.Heartbeat(21)
			})
			var d chan error
			if drain {
				d = e.drain()
			}
			e.open("go")
			if drain {
				<-d
			}
			checkErr(t, e.end(h), nil)
			checkDetails(t, h.Status(), 42)
		})
	}
}

// Rule 19. Given a clean-up whose details cannot be encoded, or are not saved, when the Runtime
// drains, then its heartbeat returns that error, and does not ask it to stop.
func TestDrain_CleanUpWhoseHeartbeatFails(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		h := e.start(opts, func(ctx activity.Context) error {
			<-e.gate("go")
			c, _ := activity.FromContext(context.WithoutCancel(ctx))
			for what, err := range map[string]error{"chan int": c.Heartbeat(make(chan int)), "boom": c.Heartbeat(1)} {
				if !containsAll(fmt.Sprint(err), what) || errors.Is(err, activity.ErrShutdown) {
					t.Errorf("%s: got %v", what, err)
				}
			}
			return errDisk // the function was not asked
		})
		drained := e.drain()
		s.on("Save", func(context.Context) error { return errBoom })
		e.open("go")
		time.Sleep(time.Minute)
		s.on("Save", nil)
		checkErr(t, <-drained, nil)
		_ = e.end(h)
		time.Sleep(10 * time.Second) // until the Store is tried again
		if cp := s.get("a"); cp.Attempt != 1 || cp.LastFailure == "" {
			t.Errorf("the attempt does not count: %+v", cp)
		}
	})
}

// Rule 19. Given a synchronous heartbeat that the Store fails to save, when the Runtime
// drains, then its error is ErrShutdown, too.
func TestDrain_HeartbeatThatIsNotSaved(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.SyncHeartbeats = true
		var got error
		e.start(opts, func(ctx activity.Context) error {
			<-e.gate("go")
			got = ctx.Heartbeat(1)
			return got
		})
		s.on("Save", func(context.Context) error { return errBoom })
		d := e.drain()
		e.open("go")
		time.Sleep(time.Minute)
		s.on("Save", nil)
		checkErr(t, <-d, nil)
		if !errors.Is(got, activity.ErrShutdown) {
			t.Errorf("got %v", got)
		}
	})
}

// Rule 19. Given a wrapper of a clean-up's Context that embeds it under another name, then it
// is not asked to stop.
func TestDrain_WrapperOfACleanUp(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{}, func(ctx activity.Context) error {
			<-e.gate("g")
			c, _ := activity.FromContext(context.WithoutCancel(ctx))
			checkErr(t, activity.Guard(c, func() error { return nil }), nil)
			checkErr(t, activity.Guard(wrapped{c}, func() error { return nil }), nil)
			checkErr(t, wrapped{c}.Sleep(time.Nanosecond*0), nil)
			return nil
		})
		d := e.drain()
		e.open("g")
		<-d
	})
}

// Rule 19. Given a context of the user's own that never ends, then what is derived from it is
// not asked to stop.
func TestDrain_DetachedContext(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{}, func(ctx activity.Context) error {
			<-e.gate("g")
			c, _ := activity.FromContext(detached{ctx})
			checkErr(t, c.Heartbeat(), nil)
			checkErr(t, c.Sleep(0), nil)
			return nil
		})
		d := e.drain()
		e.open("g")
		<-d
	})
}

// Given a derived context that has ended, when the Runtime drains, then its safe points return
// its own cause.
func TestDrain_DerivedContextThatHasEnded(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{}, func(ctx activity.Context) error {
			<-e.gate("g")
			d, cancel := context.WithCancelCause(ctx)
			cancel(errBoom)
			c, _ := activity.FromContext(d)
			checkErr(t, c.Sleep(0), errBoom)
			checkErr(t, c.Heartbeat(), errBoom)
			return nil
		})
		d := e.drain()
		e.open("g")
		<-d
	})
}

// Rule 19. Given a Range whose last body ends during a drain, so that it returns nil, when the
// function then fails, then it was not asked, and the attempt counts.
func TestDrain_FailureAfterARange(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			err := activity.Range(ctx, 0, 1, func(int) error { <-e.gate("g"); return nil })
			if err != nil {
				t.Error(err)
			}
			return errBoom
		})
		d := e.drain()
		e.open("g")
		<-d
		_ = e.end(h)
		if cp := s.get("a"); cp.Attempt != 1 || cp.LastFailure == "" {
			t.Errorf("%+v", cp)
		}
	})
}

// Rule 19. Given a success whose checkpoint cannot be deleted yet, then Drain waits for that,
// and the activity completes.
func TestDrain_WaitsForTheDeleteOfASuccess(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", func(context.Context) error { return errBoom })
		h := e.start(job, noop)
		e.pass(time.Second)
		d := e.drain()
		e.pass(time.Minute)
		if len(d) > 0 {
			t.Error("drained")
		}
		s.on("Delete", nil)
		checkErr(t, <-d, nil)
		checkErr(t, e.end(h), nil)
	})
}

type doubling struct{ activity.Context }

func (d doubling) Heartbeat(details ...any) error {
	if len(details) == 1 {
		return d.Context.Heartbeat(details[0].(int) * 2)
	}
	return d.Context.Heartbeat(details...)
}
func (d doubling) Value(key any) any { return activity.NewContext(d.Context, d).Value(key) }

// renamed embeds a Context in a field of another name.
type renamed = activity.Context

type wrapped struct{ renamed }

type detached struct{ parent context.Context }

func (d detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (d detached) Done() <-chan struct{}       { return nil }
func (d detached) Err() error                  { return nil }
func (d detached) Value(k any) any             { return d.parent.Value(k) }
