package activity_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// Given a Mock that is set further than an instant can hold, forward or back, then what is
// due is done, what is not due waits, and the Runtime works on. Its timer does not turn the
// Mock back.
func TestClock_SetBeyondAnInstant(t *testing.T) {
	for name, to := range map[string]time.Time{
		"forward": time.Unix(0, 0).AddDate(1000, 0, 0),
		"back":    time.Unix(0, 0).AddDate(-1000, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mock := clock.NewMock()
				e := newEnv(t, activity.Config{}, mock)
				far := e.start(activity.Options{ID: "far", StartToCloseTimeout: math.MaxInt64, RetryPolicy: once}, e.hang)
				near := e.start(activity.Options{ID: "near", StartToCloseTimeout: time.Hour, RetryPolicy: once}, untilEnded)
				mock.Set(to)
				synctest.Wait()
				checkErr(t, e.rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Minute}, activity.Context.Err), nil)
				if name == "forward" {
					checkErr(t, e.end(near), context.DeadlineExceeded)
				} else {
					checkState(t, near, activity.StateRunning)
				}
				checkState(t, far, activity.StateRunning)
				if got := mock.Now(); !got.Equal(to) {
					t.Errorf("the Mock is at %s, want %s", got, to)
				}
				e.open("far1")
				checkErr(t, e.end(far), nil)
			})
		})
	}
}

// Rule 7. Given a Mock that is set far back, when its time comes again, then a deadline
// that was set before is reached at its own instant.
func TestClock_SetBackAndForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock := clock.NewMock()
		e := newEnv(t, activity.Config{}, mock)
		h := e.start(activity.Options{ID: "a", StartToCloseTimeout: time.Hour, RetryPolicy: once}, untilEnded)
		mock.Set(time.Unix(0, 0).AddDate(-1000, 0, 0))
		synctest.Wait()
		checkErr(t, e.rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Minute}, noop), nil)
		mock.Set(time.Unix(0, 0).Add(time.Hour - 1))
		synctest.Wait()
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		checkErr(t, e.end(h), context.DeadlineExceeded)
		e.want("a",
			"0s scheduled 0",
			"0s attempt started 1",
			"1h0m0s attempt failed 1: start-to-close timeout, next in 0s",
			"1h0m0s abandoned 1",
			"1h0m0s failed 1: start-to-close timeout, maximum attempts reached",
			"1h0m0s abandoned returned 1")
	})
}

// Rule 24. Given a Store that has worked, when it fails after the clock was set back,
// then it is tried again after Config.SaveInterval.
func TestClock_SetBackBeforeAStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mock, s := clock.NewMock(), newStore(t)
		e := newEnv(t, activity.Config{Store: s, SaveInterval: time.Second}, mock)
		e.pass(time.Hour)
		checkErr(t, e.end(e.start(activity.Options{ID: "before"}, noop)), nil)
		mock.Set(time.Unix(0, 0))
		synctest.Wait()
		s.on("Delete", func(context.Context) error { return errDisk })
		h := e.start(activity.Options{ID: "a"}, noop)
		checkSaving(t, h, activity.StateCompleted)
		s.on("Delete", nil)
		e.pass(time.Second - 1)
		checkSaving(t, h, activity.StateCompleted)
		e.pass(1)
		checkErr(t, e.end(h), nil)
	})
}
