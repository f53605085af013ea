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

// Given IDs with which nothing runs, then the calls by ID say so, and name the ID.
func TestByID_NotFound(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{ID: "ended"}, noop)
		for _, id := range []string{"", "none", "ended", "#1", "#99"} {
			if _, ok := e.rt.Lookup(id); ok {
				t.Errorf("Lookup(%q) finds it", id)
			}
			for what, err := range map[string]error{"Cancel": e.rt.Cancel(id, nil), "RetryNow": e.rt.RetryNow(id), "Pause": e.rt.Pause(id), "Unpause": e.rt.Unpause(id)} {
				if !errors.Is(err, activity.ErrNotFound) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("%q", id)) {
					t.Errorf("%s(%q): %v", what, id, err)
				}
			}
		}
	})
}

// Given activities with a given and a generated ID, then Lookup describes each as Activities
// does, and Cancel ends it with the cause, or with context.Canceled.
func TestByID_LookupAndCancel(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{
			HeartbeatTimeout: time.Minute, StartToCloseTimeout: time.Hour, ScheduleToCloseTimeout: 2 * time.Hour,
			RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3},
		}
		for id, cause := range map[string]error{"a": errCancel, "": nil} {
			opts.ID = id
			h := e.start(opts, func(ctx activity.Context) error {
				<-e.gate("canceled twice " + id)
				return untilEnded(ctx)
			})
			got, ok := e.rt.Lookup(h.ID())
			if !ok {
				t.Fatalf("%q is not found", h.ID())
			}
			checkDiff(t, "Lookup", got, e.rt.Activities()[0])
			if got.HeartbeatTimeout != time.Minute || got.StartToCloseTimeout != time.Hour || got.MaximumAttempts != 3 || !got.Deadline.Equal(e.clock.Now().Add(time.Hour)) {
				t.Errorf("%+v", got)
			}
			checkErr(t, e.rt.Cancel(h.ID(), cause), nil)
			checkErr(t, e.rt.Cancel(h.ID(), errBoom), nil) // the first counts
			e.open("canceled twice " + id)
			if cause == nil {
				cause = context.Canceled
			}
			checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, cause)
		}
	})
}

// Given a backoff of a minute, when RetryNow ends it, then the next attempt starts at once, and
// the backoff after it is the policy's. In other states the error names the state.
func TestRetryNow_EndsABackoff(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		opts := activity.Options{ID: "a", Name: "job", RetryPolicy: activity.RetryPolicy{InitialInterval: time.Minute}}
		h := e.start(opts, func(ctx activity.Context) error {
			if err := ctx.Sleep(time.Second); err != nil {
				return err
			}
			return errBoom
		})
		if err := e.rt.RetryNow("a"); err == nil || !strings.Contains(err.Error(), "is running") {
			t.Errorf("while it runs: %v", err)
		}
		e.pass(2 * time.Second)
		checkState(t, h, activity.StateBackingOff)
		checkErr(t, e.rt.RetryNow("a"), nil)
		synctest.Wait()
		if s := h.Status(); s.State != activity.StateRunning || s.Attempt != 2 {
			t.Errorf("after RetryNow: %s, attempt %d", s.State, s.Attempt)
		}
		e.pass(time.Second)
		if s := h.Status(); s.State != activity.StateBackingOff || s.NextAttempt.Sub(e.clock.Now()) != 2*time.Minute {
			t.Errorf("%s until %s later", s.State, s.NextAttempt.Sub(e.clock.Now()))
		}
		h.Cancel(nil)
		synctest.Wait()
		_ = e.end(h)
	})
}

// Given a stored activity whose backoff has ended by RetryNow while no slot is free, when the
// process is killed, then the next one does not wait for the rest of the backoff.
func TestRetryNow_IsDurable(t *testing.T) {
	durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = activity.RetryPolicy{InitialInterval: time.Hour}
		e.start(opts, func(activity.Context) error { return errBoom })
		e.start(activity.Options{}, untilEnded) // has the slot
		e.pass(time.Second)
		if cp := s.get("a"); cp.State != activity.CheckpointWaiting || cp.NextAttempt.IsZero() {
			t.Fatalf("%+v", cp)
		}
		checkErr(t, e.rt.RetryNow("a"), nil)
		e.pass(time.Second)
		if cp := s.get("a"); cp.State != activity.CheckpointWaiting || !cp.NextAttempt.IsZero() {
			t.Errorf("%+v", cp)
		}
		e, _ = e.reboot(s, activity.Config{})
		h := e.start(opts, noop)
		checkErr(t, e.end(h), nil)
	})
}

// Given a recovered activity, then a Handle of its Definition waits for its result. Another name,
// another type or another ID gives none, nor does a start that may still be refused.
func TestDefinitionHandle(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		def := &activity.Definition[int, string]{Name: "d", Func: func(ctx activity.Context, n int) (string, error) {
			return fmt.Sprint(n), ctx.Sleep(time.Minute)
		}}
		open := s.block("Save")
		go func() { _, _ = def.Start(e.ctx, e.rt, "x", 7) }()
		synctest.Wait()
		if _, ok := def.Handle(e.rt, "x"); ok {
			t.Error("there is a Handle before Start has returned")
		}
		open()
		synctest.Wait()
		e, _ = e.reboot(s, activity.Config{})
		if n, err := e.rt.Recover(e.ctx, def); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		h, ok := def.Handle(e.rt, "x")
		if !ok || h.ID() != "x" {
			t.Fatal("there is no Handle")
		}
		for what, ok := range map[string]bool{
			"another ID":     second(def.Handle(e.rt, "y")),
			"another name":   second((&activity.Definition[int, string]{Name: "e"}).Handle(e.rt, "x")),
			"another input":  second((&activity.Definition[int64, string]{Name: "d"}).Handle(e.rt, "x")),
			"another result": second((&activity.Definition[int, any]{Name: "d"}).Handle(e.rt, "x")),
		} {
			if ok {
				t.Errorf("%s: there is a Handle", what)
			}
		}
		if out, err := h.Wait(e.ctx); out != "7" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		if _, ok := def.Handle(e.rt, "x"); ok {
			t.Error("there is a Handle after the end")
		}
	})
}

func second[T any](_ T, ok bool) bool { return ok }

// Given an activity that hangs, then Stack returns where it is right now, and the next call within
// the dumps' budget fails. In other states the error names the state.
func TestStack_OfARunningActivity(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a", Name: "job"}, func(ctx activity.Context) error {
			hangHere(ctx)
			return activity.NonRetryable(errBoom)
		})
		stack, err := e.rt.Stack("a")
		if err != nil || !strings.Contains(string(stack), "hangHere") {
			t.Errorf("%s, %v", stack, err)
		}
		h.Cancel(nil)
		synctest.Wait()
		_ = e.end(h)
		opts := activity.Options{ID: "b", Name: "job"}
		e.start(opts, func(activity.Context) error { return errBoom })
		if stack, err := e.rt.Stack("b"); stack != nil || !strings.Contains(fmt.Sprint(err), `activity "b" (job): no attempt to take the stack of: the activity is backing off`) {
			t.Errorf("%s, %v", stack, err)
		}
		if stack, err := e.rt.Stack("none"); stack != nil || !errors.Is(err, activity.ErrNotFound) {
			t.Errorf("%s, %v", stack, err)
		}
	})
}

//go:noinline
func hangHere(ctx activity.Context) { <-ctx.Done() }

// Given a dump of the stacks that has just been taken, then Stack keeps to the share of the time
// that dumps may take.
func TestStack_WithinItsBudget(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	h, err := rt.Start(t.Context(), activity.Options{ID: "a"}, untilEnded)
	if err != nil {
		t.Fatal(err)
	}
	refused := false
	for range 1000 { // a dump takes 20 us or more, and then none is taken for 19 times as long
		if _, err = rt.Stack("a"); err != nil && strings.Contains(err.Error(), "dumps may take a 20th of the time") {
			refused = true
			break
		}
	}
	if !refused {
		t.Errorf("no call is refused: %v", err)
	}
	h.Cancel(nil)
	_, _ = h.Wait(t.Context())
}

// Given a start that the Store has not taken, then Cancel by ID says so, because the start may be
// refused; when it was accepted, Cancel works. While Forget has the ID, nothing runs with it.
func TestByID_BeforeAcceptance(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		opts := job
		opts.ScheduleToCloseTimeout = time.Hour
		l := e.launch(e.ctx, opts, untilEnded)
		if err := e.rt.Cancel("a", errCancel); err == nil || !strings.Contains(err.Error(), "its start is still being saved") {
			t.Errorf("before: %v", err)
		}
		open()
		synctest.Wait()
		checkErr(t, l.err, nil)
		checkErr(t, e.rt.Cancel("a", errCancel), nil)
		synctest.Wait()
		checkEnd(t, e.end(l.h), 1, activity.RetryStateCancelRequested, errCancel)
		if s := l.h.Status(); !s.Deadline.IsZero() {
			t.Errorf("the deadline of an activity that has ended is %s", s.Deadline)
		}

		open = s.block("Delete")
		go func() { _ = e.rt.Forget(e.ctx, "a") }()
		synctest.Wait()
		_, found := e.rt.Lookup("a")
		if err := e.rt.Cancel("a", nil); found || !errors.Is(err, activity.ErrNotFound) {
			t.Errorf("during Forget: %t, %v", found, err)
		}
		open()
	})
}
