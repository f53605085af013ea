package ontemporal_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
)

// The SDK's test environments all have the same IDs, and do not meet.
func TestParallelBubbles(t *testing.T) {
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

// The next attempt waits for what a function has left inside Guard, too.
func TestReturnInsideGuard(t *testing.T) {
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

// What a function records on its way out of a worker that stops is not lost.
func TestStopKeepsDetails(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, _ = run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Heartbeat(7), nil)
			close(c.stop)
			<-ctx.Done()
			err := ctx.Heartbeat(8)
			checkErr(t, err, activity.ErrShutdown)
			return 0, err
		}, 0)
		if n := len(c.got()); n == 0 || c.got()[n-1] != "8" {
			t.Errorf("the server got the heartbeats %s", c.got())
		}
	})
	inCluster(t, func(t *testing.T, c *cluster) {
		_, _ = run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			return 0, activity.Range(ctx, 0, 4, func(i int) error {
				if i == 1 {
					close(c.stop)
					<-ctx.Done()
				}
				return nil
			})
		}, 0)
		if n := len(c.got()); n == 0 || c.got()[n-1] != `{"Next":2,"To":4}` {
			t.Errorf("the server got the heartbeats %s", c.got())
		}
	})
}

// So it is with a canceled one.
func TestCancelKeepsDetails(t *testing.T) {
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

// What has ended before its start does not start.
func TestEndedBefore(t *testing.T) {
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

// A canceled function that does not listen holds up nothing beyond the attempt's
// deadline, and the server hears until then that it is alive.
func TestCanceledHangs(t *testing.T) {
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

// At the deadline itself nothing begins any more.
func TestAtTheDeadline(t *testing.T) {
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

// What cannot be read is left as it is.
func TestForeignDetailsAreKept(t *testing.T) {
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

// While a function is silent the worker says that it is alive, so that the server is
// not before it to notice a stall; a function that beats seldom is no stall.
func TestPulse(t *testing.T) {
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

// Without heartbeats and their timeout the worker still asks whether the activity is
// canceled.
func TestPulseWithoutTimeout(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
			time.Sleep(time.Hour)
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		if n := len(c.got()); n < 60 || n > 125 {
			t.Errorf("the server got %d heartbeats in an hour", n)
		}
	})
}
