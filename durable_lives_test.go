package activity_test

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
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
		beat2 := make(chan int)
		_ = beat2
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

// Rule 34. Given an activity in any state, when its canceled caller is answered, then the
// Store holds the cancellation.
func TestCancel_IsDurableWhenCallerIsAnswered(t *testing.T) {
	for _, how := range []string{"running", "backing off", "waiting"} {
		t.Run(how, func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				if how == "waiting" {
					e.start(activity.Options{}, untilEnded)
				}
				h := e.start(job, func(ctx activity.Context) error {
					if how == "backing off" {
						return activity.RetryAfter(errBoom, time.Hour)
					}
					return untilEnded(ctx)
				})
				e.pass(time.Second)
				s.on("Save", func(context.Context) error { time.Sleep(20 * time.Millisecond); return nil })
				h.Cancel(errCancel)
				_, err := h.Wait(e.ctx)
				checkErr(t, err, errCancel)
				e2, _ := e.reboot(s, activity.Config{}) // killed after Wait returned
				n, err := e2.rt.Recover(e2.ctx, &activity.Definition[struct{}, int]{Name: "job", Func: func(ctx activity.Context, _ struct{}) (int, error) {
					t.Errorf("attempt %d runs after Wait said canceled", ctx.Info().Attempt)
					return 0, nil
				}})
				if n != 0 || err != nil {
					t.Errorf("recovered %d, %v", n, err)
				}
				e2.pass(2 * time.Hour)
			})
		})
	}
}

// Rule 34. Given a caller whose context ends, when Execute returns and the process ends,
// then the attempt does not count.
func TestCancel_EndOfContextIsDurableWhenCallerIsAnswered(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		ctx, cancel := context.WithCancelCause(e.ctx)
		time.AfterFunc(time.Second, func() {
			s.on("Save", func(context.Context) error { time.Sleep(5 * time.Millisecond); return nil })
			cancel(errCancel)
		})
		_, err := activity.Execute(ctx, e.rt, opts, func(ctx activity.Context, _ struct{}) (string, error) { return "", untilEnded(ctx) }, struct{}{})
		checkErr(t, err, errCancel)
		e2, _ := e.reboot(s, activity.Config{}) // e.g. main returns
		h := e2.start(opts, untilEnded)
		select {
		case <-h.Done():
			t.Errorf("the next boot: %v", e2.end(h))
		default:
		}
	})
}

// Rule 31. Given a stored activity with a name, when it is continued without one, then
// Recover and its Definition still find it.
func TestIdentity_StartWithoutNameKeepsStoredName(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		def := &activity.Definition[string, int]{Name: "import", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		ctx, cancel := context.WithCancel(e.ctx)
		_, err := def.Start(ctx, e.rt, "a", "monday")
		checkErr(t, err, nil)
		cancel()
		synctest.Wait()
		ctx, cancel = context.WithCancel(e.ctx)
		_, err = activity.Start(ctx, e.rt, activity.Options{ID: "a"}, def.Func, "monday")
		checkErr(t, err, nil)
		synctest.Wait()
		cancel()
		synctest.Wait()
		if got := s.get("a").Name; got != "import" {
			t.Errorf("it is named %q", got)
		}
		n, err := e.rt.Recover(e.ctx, def)
		if n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

// A slowDelay is an error that calls f when it is asked for its delay.
type slowDelay struct{ f func() }

func (slowDelay) Error() string { return "slow" }

func (s slowDelay) RetryDelay() time.Duration {
	s.f()
	return 0
}

// Rule 33. Given an attempt that ended in ErrCannotResume, when a Shutdown comes before
// that is decided, then the attempt does not count.
func TestCannotResume_ShutdownAtOnce(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		_ = e.start(opts, func(ctx activity.Context) error {
			return errors.Join(activity.ErrCannotResume, slowDelay{func() { e.stop() }})
		})
		e.pass(time.Second)
		got := s.get("a")
		if got.State != activity.CheckpointInterrupted || got.Attempt != 0 {
			t.Errorf("%s, attempt %d, %q", got.State, got.Attempt, got.LastFailure)
		}
	})
}

// Rule 35. Given an attempt that ended in RetryAfter, when a Shutdown comes while
// Retryable is being asked, then the checkpoint says when the next attempt is due.
func TestShutdown_KeepsRetryAfterWhileRetryableIsAsked(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 5, Retryable: func(error) bool { time.Sleep(10 * time.Millisecond); return true }}
		e.start(opts, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			return activity.RetryAfter(errBoom, time.Hour)
		})
		time.Sleep(time.Second + 5*time.Millisecond)
		e.stop()
		got := s.get("a")
		if !got.NextAttempt.Equal(e.base.Add(time.Hour+time.Second)) && !got.NextAttempt.After(e.base.Add(time.Minute)) {
			t.Errorf("%s, attempt %d, next attempt %s", got.State, got.Attempt, got.NextAttempt)
		}
	})
}

// Rule 20. Given a boot in 1970 and an activity that writes nothing, when the clock is
// set, then the Store gets the right time.
func TestWallClock_SetWhileNothingIsWritten(t *testing.T) {
	for _, how := range []string{"running", "waiting"} {
		t.Run(how, func(t *testing.T) {
			onWallClock(t, func(t *testing.T, c *wallClock) {
				const day = 24 * time.Hour
				opts := job
				opts.ScheduleToCloseTimeout = day
				s := newStore(t)
				c.set(-56 * 365 * day)
				cfg := activity.Config{Clock: c, Logger: quiet, Store: s, MaxConcurrent: 1}
				rt := activity.New(cfg)
				if how == "waiting" {
					start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
				}
				start(t, rt, opts, untilEnded)
				time.Sleep(10 * time.Minute)
				c.set(0) // NTP
				time.Sleep(20 * time.Minute)
				s2 := storeOn(t, s.Clone())
				_ = rt.Shutdown(t.Context())
				cfg.Store = s2
				rt2 := activity.New(cfg)
				h := start(t, rt2, opts, untilEnded)
				time.Sleep(time.Minute)
				select {
				case <-h.Done():
					t.Errorf("30 minutes old, and: %v", wait(t, h))
				default:
				}
				_ = rt2.Shutdown(t.Context())
			})
		})
	}
}

// Rule 20. Given a boot in 1970 and an activity that backs off, when the clock is set,
// then the Store gets the right time.
func TestWallClock_SetDuringABackoff(t *testing.T) {
	onWallClock(t, func(t *testing.T, c *wallClock) {
		s := newStore(t)
		c.set(-56 * 365 * 24 * time.Hour)
		cfg := activity.Config{Clock: c, Logger: quiet, Store: s}
		rt := activity.New(cfg)
		start(t, rt, job, func(ctx activity.Context) error { return activity.RetryAfter(errBoom, time.Hour) })
		time.Sleep(10 * time.Minute)
		c.set(0)
		time.Sleep(10 * time.Minute)
		cfg.Store = storeOn(t, s.Clone())
		_ = rt.Shutdown(t.Context())
		rt = activity.New(cfg)
		h := start(t, rt, job, untilEnded)
		synctest.Wait()
		if st := h.Status(); st.State != activity.StateBackingOff {
			t.Errorf("20 minutes after RetryAfter(1h): %s, attempt %d", st.State, st.Attempt)
		}
		_ = rt.Shutdown(t.Context())
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

// Rule 28. Given a Codec that encodes one value differently each time, then Recover
// starts what is stored.
func TestRecover_UsesTheStoredInput(t *testing.T) {
	durable(t, activity.Config{Codec: nonceCodec{}}, func(t *testing.T, e *env, s *faultyStore) {
		def := &activity.Definition[string, int]{Name: "import", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		_, err := def.Start(e.ctx, e.rt, "a", "monday")
		checkErr(t, err, nil)
		e2, _ := e.reboot(s, activity.Config{Codec: nonceCodec{}})
		n, err := e2.rt.Recover(e2.ctx, def)
		if n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

// Rule 28. Given a start that holds an ID while Recover runs, when it is refused, then
// Recover starts what is stored.
func TestRecover_BesideRefusedStart(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1, Details: details(80), Input: []byte(`"monday"`)})
		open := s.block("Load")
		def := &activity.Definition[string, int]{Name: "job", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		refused := make(chan error, 1)
		go func() { _, err := def.Start(e.ctx, e.rt, "a", "tuesday"); refused <- err }()
		synctest.Wait()
		var n int
		var err error
		go func() { n, err = def2recover(e, def) }()
		synctest.Wait()
		open()
		synctest.Wait()
		checkErr(t, <-refused, activity.ErrCheckpointMismatch)
		if got := e.rt.Stats(); n == 0 && err == nil {
			t.Errorf("Recover returned %d, %v, and nothing runs: %+v", n, err, got)
		}
	})
}

func def2recover(e *env, def activity.Recoverable) (int, error) { return e.rt.Recover(e.ctx, def) }

// Rules 15 and 20. Given ResetOnProgress and MaximumAttempts, when a program is killed
// and restarted at random, then attempts are counted as a small model says.
func TestCrash_ResetOnProgressOverManyLives(t *testing.T) {
	for seed := range 1500 {
		bad := false
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(uint64(seed), 9))
			most := 1 + r.IntN(4)
			m := &storetest.Memory{}
			opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{MaximumAttempts: most, ResetOnProgress: true, InitialInterval: time.Second, BackoffCoefficient: 1}}
			var log []string
			say := func(f string, a ...any) { log = append(log, fmt.Sprintf(f, a...)) }
			rt := activity.New(activity.Config{Store: m, Logger: quiet})
			c, number, seq := 0, 0, 0
			for step := range 40 {
				life := rt
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				progress, end := r.IntN(2) == 0, []string{"fail", "interrupt", "kill", "shutdown", "cannot"}[r.IntN(5)]
				ran := false
				got := 0
				h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ int) (int, error) {
					if ran || life != rt {
						return 0, untilEnded(ctx)
					}
					ran = true
					got = ctx.Info().Attempt
					if progress {
						seq++
						_ = ctx.Heartbeat(seq)
					}
					_ = ctx.Sleep(time.Second)
					switch end {
					case "fail":
						return 0, errBoom
					case "cannot":
						return 0, activity.ErrCannotResume
					}
					return 0, untilEnded(ctx)
				}, 1)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(3 * time.Second)
				synctest.Wait()
				say("step %d: c %d number %d; progress %v, %s; ran %v attempt %d; %s", step, c, number, progress, end, ran, got, h.Status().State)
				if c >= most {
					if ran || h.Status().State != activity.StateFailed {
						say("PROBLEM: it must have no attempts left")
						bad = true
						break
					}
					c, number = 0, 0
					cancel()
					continue
				}
				if !ran || got != number+1 {
					say("PROBLEM: ran %v attempt %d", ran, got)
					bad = true
					break
				}
				n := c + 1
				if progress {
					n = 1
				}
				switch end {
				case "fail":
					c, number = n, number+1
					final := h.Status().State == activity.StateFailed
					if final != (c >= most) {
						say("PROBLEM: final %v", final)
						bad = true
					}
					if final {
						c, number = 0, 0
					} else { // the next attempt runs, or will: interrupt it
						cancel()
						synctest.Wait()
					}
				case "cannot":
					if h.Status().State != activity.StateFailed {
						say("PROBLEM")
						bad = true
					}
					if progress {
						c = 0
					}
				case "interrupt":
					if progress {
						c = 0
					}
					cancel()
					synctest.Wait()
				case "shutdown":
					if progress {
						c = 0
					}
					_ = rt.Shutdown(t.Context())
					rt = activity.New(activity.Config{Store: m, Logger: quiet})
				case "kill":
					c, number = n, number+1
					m = m.Clone()
					rt = activity.New(activity.Config{Store: m, Logger: quiet})
				}
				time.Sleep(time.Second)
				cancel()
				if bad {
					break
				}
			}
			if bad {
				for _, l := range log {
					t.Log(l)
				}
				t.Errorf("seed %d, MaximumAttempts %d", seed, most)
			}
			time.Sleep(time.Hour)
		})
		if bad {
			break
		}
	}
}
