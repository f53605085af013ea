package ontemporal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Given several of the SDK's test environments, which use the same IDs, then their activities
// do not meet in one place.
func TestPlace_BubblesDoNotMeet(t *testing.T) {
	for _, name := range []string{"a", "b", "c", "d"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 50 {
				inCluster(t, func(t *testing.T, c *cluster) {
					_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) { return 1, ctx.Sleep(time.Second) }, 0)
					checkErr(t, err, nil)
				})
			}
		})
	}
}

// Rule 27. Given a goroutine inside Guard that the function has left behind, then the next
// attempt waits for it.
func TestGuard_OutlivesItsFunction(t *testing.T) {
	for _, stall := range []bool{false, true} {
		inCluster(t, func(t *testing.T, c *cluster) {
			var inside atomic.Bool
			// (The test environment looks for a timeout of its own only after an hour.)
			_, err := run(c, options{HeartbeatTimeout: 2 * time.Hour}, func(ctx activity.Context, _ int) (int, error) {
				if ctx.Info().Attempt == 2 {
					if inside.Load() {
						t.Error("attempt 2 runs while attempt 1 is inside Guard")
					}
					return 0, nil
				}
				go activity.Guard(ctx, func() error {
					inside.Store(true)
					time.Sleep(150 * time.Minute)
					inside.Store(false)
					return nil
				})
				synctest.Wait()
				if stall {
					<-ctx.Done()
				}
				return 0, errBoom
			}, 0)
			checkErr(t, err, nil)
		})
	}
}

// Rule 19. Given a worker that stops, then each safe point asks the function to stop, and heartbeats
// record first. The Context lives on.
func TestWorkerStop_SafePoints(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			time.AfterFunc(time.Minute, func() { close(c.stop) })
			begun := time.Now()
			if err := ctx.Sleep(time.Hour); err != activity.ErrShutdown || time.Since(begun) != time.Minute {
				t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
			}
			for _, err := range []error{
				ctx.Sleep(time.Hour), ctx.Heartbeat(7), activity.Idle(ctx, time.Hour),
				activity.Guard(ctx, never), activity.Range(ctx, 0, 1, func(int) error { return never() }),
			} {
				if err != activity.ErrShutdown {
					t.Errorf("got %v", err)
				}
			}
			if time.Since(begun) != time.Minute || ctx.Err() != nil {
				t.Errorf("after %s: %v", time.Since(begun), context.Cause(ctx))
			}
			// What outlives the attempt is not asked.
			clean, _ := activity.FromContext(context.WithoutCancel(ctx))
			checkErr(t, clean.Sleep(time.Second), nil)
			checkErr(t, clean.Heartbeat(8), nil)
			return 0, ctx.Heartbeat(9)
		}, 0)
		checkInterrupted(t, err)
		if n := len(c.got()); n == 0 || c.got()[n-1] != "9" {
			t.Errorf("the server got the heartbeats %s", c.got())
		}
	})
}

// checkInterrupted checks the error of an attempt whose worker has stopped.
func checkInterrupted(t *testing.T, err error) {
	t.Helper()
	if app := failure(t, err); app.NonRetryable() || app.NextRetryDelay() != time.Millisecond || !strings.Contains(app.Error(), "the Temporal worker stops") && !strings.Contains(app.Error(), "not done: "+activity.ErrShutdown.Error()) {
		t.Errorf("got %v, next after %s", err, app.NextRetryDelay())
	}
}

// Rule 19. Given a worker that stops, then a function that finishes all the same has completed, also
// if only heartbeats have asked it. One that Sleep has told, or that fails, is interrupted.
func TestWorkerStop_Outcomes(t *testing.T) {
	for _, test := range []struct {
		name string
		fn   func(ctx activity.Context) error
		done bool
	}{
		{"not asked", func(activity.Context) error { return nil }, true},
		{"asked by a heartbeat", func(ctx activity.Context) error { _ = ctx.Heartbeat(); return nil }, true},
		{"told by Sleep", func(ctx activity.Context) error { _ = ctx.Sleep(0); return nil }, false},
		{"told by Range", func(ctx activity.Context) error { _ = activity.Range(ctx, 0, 1, nil); return nil }, false},
		{"told by a body", func(ctx activity.Context) error {
			_ = activity.RangeParallel(ctx, 0, 1, 1, func(activity.Context, int) error { return nil })
			return nil
		}, false},
		{"asked, and failed for good", func(ctx activity.Context) error {
			_ = ctx.Heartbeat()
			return activity.NonRetryable(fmt.Errorf("not done: %w", activity.ErrShutdown))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *cluster) {
				_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
					close(c.stop)
					return 0, test.fn(ctx)
				}, 0)
				if test.done {
					checkErr(t, err, nil)
				} else {
					checkInterrupted(t, err)
				}
			})
		})
	}
}

// Rule 4. Given a worker whose WorkerStopTimeout has passed, then the Context has ended, and details
// that the function records before it returns are kept.
func TestWorkerStop_AtStopTimeout(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, _ = run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Heartbeat(7), nil)
			close(c.stop)
			time.AfterFunc(20*time.Second, func() { c.cancel(worker.ErrWorkerShutdown) }) // as Worker.Stop does
			begun := time.Now()
			<-ctx.Done()
			if d := time.Since(begun); d != 20*time.Second {
				t.Errorf("the Context ended after %s", d)
			}
			err := ctx.Heartbeat(8)
			checkErr(t, err, activity.ErrShutdown)
			return 0, err
		}, 0)
		if n := len(c.got()); n == 0 || c.got()[n-1] != "8" {
			t.Errorf("the server got the heartbeats %s", c.got())
		}
	})
}

// Given WorkerOptions.WorkerStopTimeout, then the Context ends a fifth of that before it has passed, at
// most 5 s, and what the function returns then counts.
func TestWorkerStop_TimeToReturn(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{10 * time.Second: 8 * time.Second, time.Minute: 55 * time.Second} {
		inCluster(t, func(t *testing.T, c *cluster) {
			ontemporal.Register(ontemporal.Registry(c, ontemporal.WorkerOptions{WorkerStopTimeout: timeout}), "f", func(ctx activity.Context, _ int) (int, error) {
				time.AfterFunc(time.Hour, func() { close(c.stop) })
				begun := time.Now()
				<-ctx.Done()
				if d := time.Since(begun) - time.Hour; d != want || !errors.Is(context.Cause(ctx), activity.ErrShutdown) {
					t.Errorf("with %s, the Context ended after %s: %v", timeout, d, context.Cause(ctx))
				}
				return 7, nil
			})
			c.ExecuteWorkflow(func(ctx workflow.Context) (n int, err error) {
				ctx = workflow.WithActivityOptions(ctx, options{StartToCloseTimeout: 10 * time.Hour, RetryPolicy: once})
				err = workflow.ExecuteActivity(ctx, "f", 0).Get(ctx, &n)
				return n, err
			})
			var n int
			if err := c.GetWorkflowResult(&n); n != 7 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
		})
	}
}

// Rule 4. Given a canceled attempt, then details that the function records are kept.
func TestCancel_KeepsDetails(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		time.AfterFunc(time.Minute, func() { c.cancel(temporal.NewCanceledError()) })
		_, _ = run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Heartbeat(7), nil)
			<-ctx.Done()
			return 0, ctx.Heartbeat(8)
		}, 0)
		if n := len(c.got()); n == 0 || c.got()[n-1] != "8" {
			t.Errorf("the server got the heartbeats %s", c.got())
		}
	})
}

// Rule 17. Given an attempt that was canceled before its start, then the function does not run.
func TestCancel_BeforeTheStart(t *testing.T) {
	for range 20 {
		inCluster(t, func(t *testing.T, c *cluster) {
			c.cancel(temporal.NewCanceledError())
			_, err := run(c, options{RetryPolicy: once}, func(activity.Context, int) (int, error) { return 0, never() }, 0)
			if canceled := (*temporal.CanceledError)(nil); !errors.As(err, &canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Given a canceled function that hangs in a workflow's activity, then it is left behind at the
// attempt's deadline, and heartbeats are sent until then.
func TestCancel_HangingFunction(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { c.cancel(temporal.NewCanceledError()) })
		opts := options{RetryPolicy: once, HeartbeatTimeout: 2 * time.Minute, StartToCloseTimeout: 10 * time.Minute}
		_, _ = run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			hangHere()
			return 0, nil
		}, 0)
		if took := time.Since(begun); took != 10*time.Minute {
			t.Errorf("it took %s", took)
		}
		if n := len(c.got()); n < 8 {
			t.Errorf("the server got %d heartbeats", n)
		}
	})
}

// Rule 7. Given an attempt at its deadline, then Guard, Sleep and Heartbeat return the timeout.
// One nanosecond before, they do not.
func TestTimeout_NothingBeginsAtDeadline(t *testing.T) {
	for range 20 {
		inCluster(t, func(t *testing.T, c *cluster) {
			_, _ = run(c, options{RetryPolicy: once, StartToCloseTimeout: time.Minute}, func(ctx activity.Context, _ int) (int, error) {
				time.Sleep(time.Minute - time.Nanosecond)
				checkErr(t, activity.Guard(ctx, func() error { return nil }), nil)
				checkErr(t, ctx.Sleep(0), nil)
				checkErr(t, ctx.Heartbeat(1), nil)
				time.Sleep(time.Nanosecond)
				for _, err := range []error{activity.Guard(ctx, never), ctx.Sleep(0), ctx.Heartbeat(2)} {
					if !isTimeout(err, activity.TimeoutStartToClose) {
						t.Errorf("got %v", err)
					}
				}
				return 0, nil
			}, 0)
		})
	}
}

// Given details that are not JSON, then heartbeats without details keep them, and Resume is
// refused.
func TestHeartbeatDetails_ForeignAreKept(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
			switch ctx.Info().Attempt {
			case 1:
				sdkactivity.RecordHeartbeat(ctx, []byte("abc"))
				return 0, errBoom
			case 2:
				checkErr(t, activity.Idle(ctx, time.Hour), nil)
				return 0, errBoom
			}
			_, err := activity.Resume(ctx, 0)
			if !errors.Is(err, activity.ErrCannotResume) {
				t.Errorf("it resumes with %v", err)
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
	})
}

// Given a function that is silent, then the worker sends heartbeats of its own, so that the
// server does not find a stall first. A heartbeat just before the timeout is in time.
func TestPulse_SilentFunction(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		opts := options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}
		_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			for range 10 {
				time.Sleep(10*time.Second - 1)
				checkErr(t, ctx.Heartbeat(), nil)
			}
			before := len(c.got())
			<-ctx.Done()
			if n := len(c.got()); n == before {
				t.Error("no heartbeat was sent during the stall")
			}
			return 0, context.Cause(ctx)
		}, 0)
		failure(t, err)
		if n := len(c.got()); n < 12 {
			t.Errorf("the server got %d heartbeats in 110 s", n)
		}
	})
}

// Given no heartbeat timeout, then the worker sends no heartbeats of its own, but does not keep
// details for long.
func TestPulse_NoHeartbeatTimeout(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
			time.Sleep(time.Hour)
			if n := len(c.got()); n > 0 {
				t.Errorf("the server got %d heartbeats in an hour", n)
			}
			checkErr(t, ctx.Heartbeat(1), nil)
			checkErr(t, ctx.Heartbeat(2), nil)
			time.Sleep(time.Minute) // the SDK of the test environment keeps the second for 30 s
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		checkBeats(t, c, "1", "2")
	})
}

// Given a function whose library gives heartbeats to the SDK, through a derived context too, then they
// are heartbeats of the attempt, and the next one resumes from their details.
func TestSDKHeartbeat_Counts(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		type library struct{ File, Row int }
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context, _ int) (int, error) {
			if ctx.Info().Attempt == 1 {
				child, cancel := context.WithCancel(context.WithValue(ctx, key{}, 1))
				defer cancel()
				for i := range 10 {
					time.Sleep(10*time.Second - 1)
					sdkactivity.RecordHeartbeat(child, library{1, i}, "x")
				}
				sdkactivity.RecordHeartbeat(ctx) // keeps the details
				sdkactivity.RecordHeartbeat(ctx, make(chan int))
				time.Sleep(10*time.Second - 1)
				checkErr(t, ctx.Heartbeat(), nil)
				return 0, errBoom
			}
			var ours, theirs library
			var more string
			found, err := ctx.HeartbeatDetails(&ours, &more)
			if want := (library{1, 9}); !found || err != nil || ours != want || more != "x" {
				t.Errorf("it resumes from %+v, %q, %v", ours, more, err)
			}
			if err := sdkactivity.GetHeartbeatDetails(ctx, &theirs); err != nil || theirs != ours {
				t.Errorf("the SDK has %+v, %v", theirs, err)
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
	})
}

// Given a local activity, then the function does not run. The SDK cannot call the registered function,
// which has a second argument, so the package has no say in the error.
func TestLocalActivity_Fails(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		ontemporal.Register(c, "f", func(activity.Context, int) (int, error) { return 0, never() })
		c.ExecuteWorkflow(func(ctx workflow.Context) error {
			ctx = workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{ScheduleToCloseTimeout: time.Minute, RetryPolicy: once})
			return workflow.ExecuteLocalActivity(ctx, "f", 0).Get(ctx, nil)
		})
		if err := c.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "too few input arguments") {
			t.Errorf("got %v", err)
		}
	})
}

// Given an interval or a timeout that is negative, then Registry panics and names it.
func TestRegistry_Negative(t *testing.T) {
	for want, o := range map[string]ontemporal.WorkerOptions{
		"MaxHeartbeatThrottleInterval must not be negative (got -1s)": {MaxHeartbeatThrottleInterval: -time.Second},
		"WorkerStopTimeout must not be negative (got -1s)":            {WorkerStopTimeout: -time.Second},
	} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); v != "ontemporal: WorkerOptions."+want {
					t.Errorf("it panicked with %s", v)
				}
			}()
			ontemporal.Registry(nil, o)
		}()
	}
}

// Rule 19. Given a worker that stops, when only heartbeats that the function does not see are answered
// with that, then its own failure counts.
func TestWorkerStop_UnseenHeartbeats(t *testing.T) {
	for name, beat := range map[string]func(ctx activity.Context){
		"a library's heartbeat": func(ctx activity.Context) { sdkactivity.RecordHeartbeat(ctx, 1) },
		"a heartbeat that outlives the attempt": func(ctx activity.Context) {
			side, _ := activity.FromContext(context.WithoutCancel(ctx))
			checkErr(t, side.Heartbeat(), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *cluster) {
				_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
					close(c.stop)
					beat(ctx)
					return 0, activity.NonRetryable(errBoom) // the input is wrong, say
				}, 0)
				if app := failure(t, err); !app.NonRetryable() {
					t.Errorf("the function failed for good, and is retried after %s: %v", app.NextRetryDelay(), err)
				}
			})
		})
	}
}
