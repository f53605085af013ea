package ontemporal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.temporal.io/sdk/temporal"
)

// bodies are the numbers whose bodies have run, by attempt.
type bodies struct {
	mu  sync.Mutex
	ran map[int][]int
}

func (b *bodies) note(ctx activity.Context, i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ran == nil {
		b.ran = map[int][]int{}
	}
	n := ctx.Info().Attempt
	b.ran[n] = append(b.ran[n], i)
	slices.Sort(b.ran[n])
}

// Rule 30. Given a RangeParallel of which some bodies are done when one fails, then the Context
// of the others ends with that error. The next attempt runs exactly the bodies that are not done.
func TestRangeParallel_Resumes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		var b bodies
		begun := time.Now()
		takes := []time.Duration{0: 5 * time.Second, 1: time.Second, 2: 10 * time.Second, 3: 3 * time.Second, 4: 2 * time.Second, 5: time.Hour}
		opts := options{HeartbeatTimeout: 2 * time.Hour, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumAttempts: 2}}
		_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			err := activity.RangeParallel(ctx, 0, len(takes), 3, func(ctx activity.Context, i int) error {
				b.note(ctx, i)
				if ctx.Info().Attempt == 2 {
					return nil
				}
				if err := ctx.Sleep(takes[i]); err != nil {
					if i != 5 || err != errBoom || context.Cause(ctx) != errBoom || time.Since(begun) != 10*time.Second {
						t.Errorf("body %d ends with %v after %s", i, err, time.Since(begun))
					}
					return err
				}
				if i == 2 {
					return errBoom
				}
				return nil
			})
			if ctx.Info().Attempt == 1 && err != errBoom {
				t.Errorf("it returned %v", err)
			}
			if ctx.Err() != nil {
				t.Errorf("the attempt's own Context has ended: %v", context.Cause(ctx))
			}
			return 0, err
		}, 0)
		checkErr(t, err, nil)
		if want := map[int][]int{1: {0, 1, 2, 3, 4, 5}, 2: {2, 5}}; fmt.Sprint(b.ran) != fmt.Sprint(want) {
			t.Errorf("the bodies that ran are %v, want %v", b.ran, want)
		}
		if got := c.got(); !slices.Contains(got, `{"Next":2,"To":6,"Done":[3,4]}`) {
			t.Errorf("the server got the heartbeats %q", got)
		}
	})
}

// Rules 19 and 30. Given a worker that stops, then RangeParallel begins no other body, lets those
// that run finish, and records them.
func TestRangeParallel_WorkerStops(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, _ = run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			time.AfterFunc(time.Minute, func() { close(c.stop) })
			err := activity.RangeParallel(ctx, 0, 10, 2, func(ctx activity.Context, i int) error {
				if i == 0 {
					return ctx.Sleep(time.Hour)
				}
				time.Sleep(2 * time.Minute)
				if i > 1 || ctx.Err() != nil {
					t.Errorf("body %d: %v", i, context.Cause(ctx))
				}
				return nil
			})
			checkErr(t, err, activity.ErrShutdown)
			return 0, err
		}, 0)
		if n := len(c.got()); n == 0 || c.got()[n-1] != `{"Next":0,"To":10,"Done":[1]}` {
			t.Errorf("the server got the heartbeats %q", c.got())
		}
	})
}

// Rules 14 and 30. Given a body that panics, then the attempt's failure has the body's value and
// stack.
func TestRangeParallel_BodyPanics(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			return 0, activity.RangeParallel(ctx, 0, 3, 2, func(activity.Context, int) error { return panics() })
		}, 0)
		var p *temporal.PanicError
		if !errors.As(err, &p) || p.Error() != "ouch" || !strings.Contains(p.StackTrace(), "ontemporal_test.panics(") {
			t.Errorf("got %v", err)
		}
	})
}

func panics() error { panic("ouch") }

// Rule 7. Given a slow reader, when it is read through a Reader, then the bytes that pass are
// heartbeats, and one that blocks is a stall. Read returns the cause after that.
func TestReader_Heartbeats(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			takes := 9 * time.Second
			slow := reader(func(p []byte) (int, error) {
				time.Sleep(takes)
				return len(p), nil
			})
			r := activity.Reader(ctx, iotest.OneByteReader(slow))
			if n, err := io.ReadFull(r, make([]byte, 5)); n != 5 || err != nil {
				t.Errorf("read %d, %v", n, err)
			}
			takes = 11 * time.Second
			if n, err := r.Read(make([]byte, 5)); n != 1 || err != nil { // bytes that come with the end are given first
				t.Errorf("read %d, %v", n, err)
			}
			n, err := r.Read(make([]byte, 5))
			if n != 0 || !isTimeout(err, activity.TimeoutHeartbeat) {
				t.Errorf("read %d, %v", n, err)
			}
			return 0, err
		}, 0)
		if app := failure(t, err); app.Type() != "activity.TimeoutError" {
			t.Errorf("got %v", err)
		}
	})
}

type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// Rules 17 and 32. Given a RangeParallel or a Reader that has returned the cause, when the
// function returns nil, then its attempt was canceled or paused, and has not completed.
func TestTold_ByRangeParallelAndReader(t *testing.T) {
	var canceledErr *temporal.CanceledError
	for name, fn := range map[string]func(ctx activity.Context) error{
		"RangeParallel": func(ctx activity.Context) error {
			activity.RangeParallel(ctx, 0, 10, 2, func(ctx activity.Context, _ int) error { <-ctx.Done(); return nil })
			return nil
		},
		"a body of RangeParallel": func(ctx activity.Context) error {
			activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, _ int) error { return ctx.Sleep(time.Hour) })
			return nil
		},
		"Reader": func(ctx activity.Context) error {
			<-ctx.Done()
			io.Copy(io.Discard, activity.Reader(ctx, strings.NewReader("abc")))
			return nil
		},
	} {
		if err := canceled(t, fn); !errors.As(err, &canceledErr) {
			t.Errorf("%s, canceled: got %v", name, err)
		}
		if attempts, err := paused(t, fn, nil); attempts != 2 || err != nil {
			t.Errorf("%s, paused: %d attempts, %v", name, attempts, err)
		}
	}
	last := func(ctx activity.Context) error {
		return activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, _ int) error { <-ctx.Done(); return nil })
	}
	if err := canceled(t, last); err != nil {
		t.Errorf("the last bodies, canceled: got %v", err)
	}
	if attempts, err := paused(t, last, nil); attempts != 1 || err != nil {
		t.Errorf("the last bodies, paused: %d attempts, %v", attempts, err)
	}
}

// Given bodies that hang, then the failure of the attempt has their stacks, as far as it has room.
func TestRangeParallel_StacksOfBodies(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			return 0, activity.RangeParallel(ctx, 0, 3, 2, func(activity.Context, int) error { hangHere(); return nil })
		}, 0)
		var stack string
		if app := failure(t, err); app.Type() != "activity.TimeoutError" || app.Details(&stack) != nil || !strings.Contains(stack, "hangHere") {
			t.Errorf("got %v with the stack %s", err, stack)
		}
	})
}
