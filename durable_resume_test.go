package activity_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 33. Given details that this version of the program cannot read, when an attempt
// ends in ErrCannotResume, then the activity fails without a retry, stays interrupted, and
// the version that can read them continues.
func TestCannotResume_StaysForAnotherVersion(t *testing.T) {
	type v1 struct{ Row int }
	type v2 struct{ Line int }
	const rows = 5
	function := map[string]func(activity.Context) error{
		"Resume": func(ctx activity.Context) error {
			_, err := activity.Resume(ctx, v1{})
			return err
		},
		"HeartbeatDetails": func(ctx activity.Context) error {
			var row, col int
			_, err := ctx.HeartbeatDetails(&row, &col)
			return fmt.Errorf("too few: %w", err)
		},
		"Range":     func(ctx activity.Context) error { return activity.Range(ctx, 0, rows, func(int) error { return nil }) },
		"their own": func(ctx activity.Context) error { return fmt.Errorf("version 3: %w", activity.ErrCannotResume) },
		"a panic":   func(ctx activity.Context) error { panic(activity.ErrCannotResume) },
		"an attempt that recorded": func(ctx activity.Context) error {
			_ = ctx.Heartbeat(v2{rows})
			return activity.ErrCannotResume
		},
	}
	for name, fn := range function {
		for _, state := range []activity.CheckpointState{activity.CheckpointInterrupted, activity.CheckpointRunning, activity.CheckpointFailed} {
			t.Run(fmt.Sprintf("%s/%s", name, state), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					before := s.put(activity.Checkpoint{State: state, Attempt: 2, Progressed: 2, Details: details(v2{rows}), LastFailure: "eh"})
					opts := job
					opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 3, Retryable: func(error) bool { t.Error("Retryable was asked"); return true }}
					for range 3 { // as often as it is started, or recovered at boot
						h := e.start(opts, fn)
						attempt, failure := 3, "eh"
						switch state {
						case activity.CheckpointFailed:
							attempt, failure = 1, ""
						case activity.CheckpointRunning:
							failure = "the process ended during attempt 2"
						}
						checkEnd(t, e.end(h), attempt, activity.RetryStateNonRetryableFailure, activity.ErrCannotResume)
						want := activity.Checkpoint{
							ID: "a", State: activity.CheckpointInterrupted, Attempt: attempt - 1, Input: []byte("{}"), Details: before.Details, LastFailure: failure,
						}
						if state != activity.CheckpointFailed {
							want.Progressed = 2
						}
						s.want(want)
						synctest.Wait()
					}
					checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
					def := &activity.Definition[struct{}, int]{Name: "job", Options: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}}
					def.Func = func(ctx activity.Context, _ struct{}) (int, error) {
						from, err := activity.Resume(ctx, v2{})
						if err != nil || from.Line != rows {
							t.Errorf("it resumes from %v, %v", from, err)
						}
						return 0, nil
					}
					n, err := e.rt.Recover(e.ctx, def)
					if n != 1 || err != nil {
						t.Error(n, err)
					}
					synctest.Wait()
					s.want(activity.Checkpoint{ID: "a"})
				})
			})
		}
	}
}

// Rule 33. Given an inner activity that ends in ErrCannotResume, when the outer one
// returns that error, then the outer one is retried.
func TestCannotResume_InnerActivity(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		attempts := 0
		err := rt.Run(t.Context(), atMost(2), func(ctx activity.Context) error {
			attempts++
			return rt.Run(ctx, activity.Options{HeartbeatDetails: []any{"x"}}, func(ctx activity.Context) error {
				_, err := activity.Resume(ctx, 0)
				return err
			})
		})
		if checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, activity.ErrCannotResume); attempts != 2 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

// Rule 33. Given a cancellation, when the canceled function returns ErrCannotResume, then
// it is canceled.
func TestCannotResume_CanceledAttempt(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			return errors.Join(untilEnded(ctx), activity.ErrCannotResume)
		})
		h.Cancel(errCancel)
		synctest.Wait()
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel, activity.ErrCannotResume)
		if got := s.get("a"); got.State != activity.CheckpointCanceled || got.Attempt != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// Rule 34. Given a canceled function that cleans up, when the process is killed meanwhile,
// then the cancellation stands: what was canceled on purpose is not recovered, and what was
// interrupted continues without the attempt having counted.
func TestCancel_KillDuringCleanUp(t *testing.T) {
	for _, test := range []struct {
		how  string
		stop func(e *env, h *activity.Handle[string], cancel context.CancelCauseFunc)
		left activity.CheckpointState
	}{
		{"handle", func(_ *env, h *activity.Handle[string], _ context.CancelCauseFunc) { h.Cancel(errCancel) }, activity.CheckpointCanceled},
		{"context", func(_ *env, _ *activity.Handle[string], cancel context.CancelCauseFunc) { cancel(errCancel) }, activity.CheckpointInterrupted},
		{"shutdown", func(e *env, _ *activity.Handle[string], _ context.CancelCauseFunc) {
			ctx, cancel := context.WithTimeout(e.ctx, time.Second)
			defer cancel()
			checkErr(e.t, e.rt.Shutdown(ctx), context.DeadlineExceeded)
		}, activity.CheckpointInterrupted},
	} {
		t.Run(test.how, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 3}
				runs := 0
				for range 4 { // one more than there are attempts
					runs++
					ctx, cancel := context.WithCancelCause(e.ctx)
					h := startWith(t, ctx, e.rt, opts, func(ctx activity.Context) error {
						if n := ctx.Info().Attempt; n != 1 {
							t.Errorf("attempt %d", n)
						}
						_ = ctx.Heartbeat(7)
						<-ctx.Done()
						time.Sleep(time.Second)
						_ = ctx.Heartbeat(8) // a canceled attempt's details are recorded
						time.Sleep(2 * time.Second)
						return context.Cause(ctx)
					})
					e.pass(time.Second)
					go test.stop(e, h, cancel)
					synctest.Wait()
					s.want(activity.Checkpoint{ID: "a", State: test.left, Input: []byte("{}"), Details: details(7), LastFailure: s.get("a").LastFailure})
					e.pass(2 * time.Second)
					s.want(activity.Checkpoint{ID: "a", State: test.left, Input: []byte("{}"), Details: details(8), LastFailure: s.get("a").LastFailure})
					after, next := e.reboot(s, activity.Config{}) // the kill
					if test.left == activity.CheckpointCanceled {
						n, err := after.rt.Recover(e.ctx, &activity.Definition[struct{}, int]{Name: "job"})
						if n != 0 || err != nil {
							t.Error(n, err)
						}
						return
					}
					e, s = after, next
				}
			})
		})
	}
}

// Rule 34. Given a canceled function, when it returns nil nevertheless, then nothing is
// left of the cancellation in the Store.
func TestCancel_CompletesNevertheless(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			return nil
		})
		h.Cancel(errCancel)
		synctest.Wait()
		if got := s.get("a").State; got != activity.CheckpointCanceled {
			t.Errorf("it is stored as %s", got)
		}
		e.pass(time.Second)
		checkErr(t, e.end(h), nil)
		s.want(activity.Checkpoint{ID: "a"})
	})
}
