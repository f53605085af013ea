package activity_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// Given activities that end at one instant, when one caller's context is behind a lock,
// then only that caller waits for the lock.
func TestCaller_LockedContextDelaysNoOtherCaller(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		busy := start(t, rt, activity.Options{}, untilEnded)
		locked := newLockedContext(t.Context())
		contexts := []context.Context{context.Background(), t.Context(), locked, context.Background(), t.Context()}
		var handles []*activity.Handle[string]
		for _, ctx := range contexts {
			handles = append(handles, startWith(t, ctx, rt, activity.Options{ScheduleToStartTimeout: time.Second}, noop))
		}
		locked.lock <- struct{}{}
		time.Sleep(time.Second)
		synctest.Wait()
		for i, h := range handles {
			select {
			case <-h.Done():
			default:
				if contexts[i] != locked {
					t.Errorf("activity %d waits for the lock of another's caller", i)
				}
			}
		}
		<-locked.lock
		for i, h := range handles {
			if typ := timeoutType(wait(t, h)); typ != activity.TimeoutScheduleToStart {
				t.Errorf("activity %d ended in %s", i, typ)
			}
		}
		busy.Cancel(nil)
		<-busy.Done()
	})
}

// Given a caller's context behind a lock, when the goroutine that holds the lock calls
// the Runtime and finds a due timeout, then the call returns.
func TestCaller_MayHoldLockOfContextWhileAskingRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &pauseClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet, MaxConcurrent: 1})
		busy := start(t, rt, activity.Options{}, untilEnded)
		locked := newLockedContext(t.Context())
		h := startWith(t, locked, rt, activity.Options{ScheduleToStartTimeout: time.Second}, noop)
		locked.lock <- struct{}{}
		c.jump(time.Second) // no timer has run: who asks next finds the timeout
		asked := make(chan activity.Stats, 1)
		go func() { asked <- rt.Stats() }()
		synctest.Wait()
		select {
		case s := <-asked:
			if s.Timeouts != 1 {
				t.Errorf("%+v", s)
			}
		default:
			t.Error("Stats waits for a lock that its caller may hold")
		}
		<-locked.lock
		<-h.Done()
		busy.Cancel(nil)
		<-busy.Done()
		synctest.Wait()
	})
}

// Rule 19. Given a Shutdown whose ctx has ended, when a caller's context is behind a
// lock, then Shutdown returns without the lock, because its own caller may hold it.
func TestShutdown_EndedContextDoesNotWaitForCallersLock(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	rt := activity.New(activity.Config{Logger: quiet})
	locked := newLockedContext(t.Context())
	finish, down := make(chan struct{}), make(chan struct{})
	h := startWith(t, locked, rt, activity.Options{}, func(activity.Context) error { <-finish; return nil })
	locked.lock <- struct{}{}
	close(finish)
	for h.Status().State != activity.StateCompleted {
		runtime.Gosched()
	}
	go func() {
		_ = rt.Shutdown(ended)
		close(down)
	}()
	select {
	case <-down:
	case <-time.After(10 * time.Second): // it may take its time, but not for ever
		t.Error("it waits")
	}
	<-locked.lock
	<-h.Done()
	<-down
}
