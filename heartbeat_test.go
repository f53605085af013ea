package activity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Rule 1. Given several heartbeats, then the next attempt gets the newest details, and an
// attempt that records none passes on those it got.
func TestHeartbeat_NewestDetailsWinAndArePassedOn(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				for i := range 12 {
					if err := ctx.Heartbeat(i); err != nil {
						t.Error(err)
					}
				}
				return errBoom
			case 2: // records none
				checkDetails(t, ctx, 11)
				return errBoom
			case 3: // neither
				checkDetails(t, ctx, 11)
				if err := ctx.Heartbeat(); err != nil {
					t.Error(err)
				}
				return errBoom
			case 4:
				checkDetails(t, ctx, 11)
				if err := ctx.Heartbeat("a value of another type and size"); err != nil {
					t.Error(err)
				}
				checkDetails(t, ctx, 11) // what it resumes from stays
				return errBoom
			}
			checkDetails(t, ctx, "a value of another type and size")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Rule 1. Given many goroutines that heartbeat at once, then no heartbeat is lost, and
// the last one wins.
func TestHeartbeat_Concurrent(t *testing.T) {
	const workers, each = 8, 50
	type beat struct{ Worker, I int }
	next := [workers]int{}
	var last beat
	cfg := activity.Config{Observer: func(e activity.Event) { // one at a time
		var b beat
		if found, err := e.HeartbeatDetails(&b); err != nil {
			t.Error(err)
		} else if found {
			if b.I != next[b.Worker] {
				t.Errorf("beat %d of worker %d came, want %d", b.I, b.Worker, next[b.Worker])
			}
			next[b.Worker]++
			last = b
		}
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for i := range each {
						if err := ctx.Heartbeat(beat{w, i}); err != nil {
							t.Error(err)
						}
						ctx.HeartbeatDetails()
						rt.Stats()
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err := wait(t, h); err != nil {
			t.Error(err)
		}
		checkDetails(t, h.Status(), last)
		if last.I != each-1 {
			t.Errorf("the last event had %v", last)
		}
		if n := rt.Stats().Heartbeats; n != workers*each {
			t.Errorf("%d heartbeats were counted, want %d", n, workers*each)
		}
	})
}

// Rule 2. Given recorded details, when a heartbeat has none, an empty list or nil, then
// they stay, and the deadline moves.
func TestHeartbeat_WithoutDetailsKeepsThem(t *testing.T) {
	for name, details := range map[string][]any{"none": nil, "empty": {}, "nil": {nil}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat(details...); err != nil {
						t.Error(err)
					}
					if found, err := rt.Activities()[0].HeartbeatDetails(); found || err != nil {
						t.Errorf("before any details: %v, %v", found, err)
					}
					if err := ctx.Heartbeat(7, "x"); err != nil {
						t.Error(err)
					}
					for range 3 { // each of them is a heartbeat
						if err := ctx.Sleep(10*time.Second - 1); err != nil {
							t.Error(err)
						}
						if err := ctx.Heartbeat(details...); err != nil {
							t.Error(err)
						}
					}
					return nil
				})
				if err := wait(t, h); err != nil {
					t.Error(err)
				}
				var n int
				var s string
				if found, err := h.Status().HeartbeatDetails(&n, &s); !found || err != nil || n != 7 || s != "x" {
					t.Errorf("got %v, %v: %d, %q", found, err, n, s)
				}
			})
		})
	}
}

// Rule 3. Given details that are rejected, then the call counts as a heartbeat, and moves
// the deadline.
func TestHeartbeat_RejectedDetailsMoveTheDeadline(t *testing.T) {
	for _, bad := range []any{make(chan int), strings.Repeat("x", 100)} {
		bubble(t, activity.Config{MaxDetailsSize: 50}, func(t *testing.T, rt *activity.Runtime) {
			opts := activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}
			begun := time.Now()
			err := run(t, rt, opts, func(ctx activity.Context) error {
				if err := ctx.Sleep(9 * time.Second); err != nil {
					t.Error(err)
				}
				if err := ctx.Heartbeat(bad); err == nil {
					t.Error("the heartbeat did not fail")
				}
				if err := ctx.Sleep(10*time.Second - 1); err != nil {
					t.Errorf("1 ns before the deadline: %v", err)
				}
				return ctx.Sleep(time.Hour)
			})
			if timeoutType(err) != activity.TimeoutHeartbeat {
				t.Errorf("got %v, want a heartbeat timeout", err)
			}
			if d := time.Since(begun); d != 19*time.Second {
				t.Errorf("timed out after %s, want 19s", d)
			}
		})
	}
}

// Rule 4. Given an attempt that has ended in any way, then Heartbeat returns the cause of
// its Context.
func TestHeartbeat_ReturnsCauseAfterTheEnd(t *testing.T) {
	timedOut := func(typ activity.TimeoutType) func(error) bool {
		return func(err error) bool { return isTimeout(err, typ) }
	}
	tests := map[string]struct {
		opts  activity.Options
		check func(error) bool
	}{
		"heartbeat":         {activity.Options{HeartbeatTimeout: time.Minute}, timedOut(activity.TimeoutHeartbeat)},
		"start to close":    {activity.Options{StartToCloseTimeout: time.Minute}, timedOut(activity.TimeoutStartToClose)},
		"schedule to close": {activity.Options{ScheduleToCloseTimeout: time.Minute}, timedOut(activity.TimeoutScheduleToClose)},
		"canceled":          {activity.Options{}, func(err error) bool { return err == errCancel }},
		"given up":          {activity.Options{CancelGrace: 1}, func(err error) bool { return err == errCancel }},
		"returned":          {activity.Options{}, func(err error) bool { return errors.Is(err, context.Canceled) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var late activity.Context
				check := func() {
					t.Helper()
					for _, details := range [][]any{nil, {1}, {1, 2}, {make(chan int)}} {
						err := late.Heartbeat(details...)
						if err != context.Cause(late) || !test.check(err) {
							t.Errorf("Heartbeat returned %v, and the cause is %v", err, context.Cause(late))
						}
					}
				}
				test.opts.RetryPolicy.MaximumAttempts = 1
				h := start(t, rt, test.opts, func(ctx activity.Context) error {
					late = ctx
					if name == "returned" {
						return nil
					}
					<-ctx.Done()
					check()
					time.Sleep(time.Second)
					check()
					return nil
				})
				synctest.Wait()
				if name == "canceled" || name == "given up" {
					h.Cancel(errCancel)
				}
				wait(t, h)
				time.Sleep(time.Hour)
				check() // also after the function has returned
			})
		})
	}
}

// Rule 4. Given a canceled attempt, when it heartbeats with details, then they are
// recorded, and no timeout runs any more.
func TestHeartbeat_CanceledAttemptStillRecords(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(1); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			time.Sleep(5 * time.Second) // no timeout runs any more
			return ctx.Heartbeat(2)
		})
		synctest.Wait()
		h.Cancel(errCancel)
		if err := wait(t, h); !errors.Is(err, errCancel) {
			t.Error(err)
		}
		checkDetails(t, h.Status(), 2)
	})
}

// Rules 4 and 7. Given a heartbeat 1 ns before a timeout, then it is recorded; at the
// deadline or after it, it is late and nothing is recorded.
func TestHeartbeat_AtDeadlineRecordsNothing(t *testing.T) {
	for _, opts := range []activity.Options{
		{HeartbeatTimeout: time.Minute},
		{StartToCloseTimeout: time.Minute},
	} {
		for _, early := range []time.Duration{1, 0, -1} {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				want := 1
				if early > 0 {
					want = 2
				}
				second := make(chan struct{})
				h := start(t, rt, opts, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						checkDetails(t, ctx, want)
						<-second
						checkDetails(t, ctx, want)
						return nil
					}
					if err := ctx.Heartbeat(1); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Minute - early)
					if err := ctx.Heartbeat(2); (err == nil) != (early > 0) {
						t.Errorf("%s before the timeout: %v", early, err)
					}
					<-ctx.Done()
					time.Sleep(30 * time.Second)
					for i := range 3 {
						ctx.Heartbeat(100+i, "fenced")
					}
					close(second)
					return nil
				})
				if err := wait(t, h); err != nil {
					t.Error(err)
				}
				checkDetails(t, h.Status(), want)
				synctest.Wait()
			})
		}
	}
}

// A heldClock is a Mock whose next Now, once armed, waits after it has read the time.
type heldClock struct {
	*clock.Mock
	hold atomic.Pointer[chan struct{}]
}

func (c *heldClock) Now() time.Time {
	now := c.Mock.Now()
	if hold := c.hold.Swap(nil); hold != nil {
		<-*hold
	}
	return now
}

// Rules 4 and 7. Given a timeout whose timer has not run yet, when a heartbeat comes at
// the deadline, then it is late; 1 ns before, it is in time.
func TestHeartbeat_AtDeadlineIsLateBeforeTimerRuns(t *testing.T) {
	for _, early := range []time.Duration{1, 0} {
		beforeTheTimer(t, 10*time.Second-early, func(ctx activity.Context) {
			err := ctx.Heartbeat(1)
			if early > 0 {
				if err != nil {
					t.Errorf("1 ns before the timeout: %v", err)
				}
				return
			}
			if !isTimeout(err, activity.TimeoutHeartbeat) {
				t.Errorf("at the timeout: %v", err)
			} else if found, _ := err.(*activity.TimeoutError).HeartbeatDetails(); found {
				t.Error("at the timeout the details were recorded")
			}
		})
	}
}

// Rule 7. Given a heartbeat that is held up after it read the clock, when a later one of
// another goroutine is noted first, then the held-up one does not take it back.
func TestHeartbeat_OvertakenByLaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		c := &heldClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet, Observer: j.observe})
		opts := activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}
		got := make(chan activity.Context, 1)
		done := make(chan struct{})
		h := start(t, rt, opts, func(ctx activity.Context) error {
			got <- ctx
			<-done
			return context.Cause(ctx)
		})
		ctx := <-got
		synctest.Wait()

		release := make(chan struct{})
		c.hold.Store(&release)
		go ctx.Heartbeat() // reads 0 s
		synctest.Wait()
		c.Add(5 * time.Second)
		if err := ctx.Heartbeat(); err != nil {
			t.Error(err)
		}
		close(release)
		synctest.Wait()
		if last := h.Status().LastHeartbeat; !last.Equal(c.Now()) {
			t.Errorf("the last heartbeat was at %s, want %s", last, c.Now())
		}
		checkTimes(t, j.all())
		if n := len(j.of(activity.EventHeartbeat)); n != 2 {
			t.Errorf("%d heartbeats were told, want 2", n)
		}
		c.Add(10*time.Second - 1)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Errorf("1 ns before the age of the last heartbeat reaches the timeout: %v", context.Cause(ctx))
		}
		c.Add(1)
		synctest.Wait()
		if !isTimeout(context.Cause(ctx), activity.TimeoutHeartbeat) {
			t.Errorf("at the timeout the cause is %v", context.Cause(ctx))
		}
		close(done)
		wait(t, h)
	})
}

// A lookingContext is a context of the user whose Err looks at the activity.
type lookingContext struct{ context.Context }

func (c lookingContext) Err() error {
	if ctx, ok := activity.FromContext(c.Context); ok {
		_ = ctx.Info()
	}
	return c.Context.Err()
}

// Given a context whose Err looks at the activity, when a canceled function heartbeats
// through it, then nothing deadlocks.
func TestHeartbeat_ThroughContextThatLooksAtActivity(t *testing.T) {
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprint("SyncHeartbeats ", sync), func(t *testing.T) {
			rt := activity.New(activity.Config{Logger: quiet, Store: &storetest.Memory{}})
			h, err := rt.Start(t.Context(), activity.Options{ID: "a", SyncHeartbeats: sync}, func(ctx activity.Context) error {
				<-ctx.Done()
				c, _ := activity.FromContext(lookingContext{context.WithoutCancel(ctx)})
				return c.Heartbeat(1)
			})
			checkErr(t, err, nil)
			h.Cancel(errCancel)
			ended := make(chan struct{})
			go func() {
				<-h.Done()
				rt.Stats()
				close(ended)
			}()
			select {
			case <-ended:
			case <-time.After(time.Minute): // a locked mutex cannot be seen in a bubble
				t.Fatal("the Runtime is deadlocked")
			}
		})
	}
}
