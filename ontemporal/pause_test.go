package ontemporal_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
)

// paused runs fn in the first of two attempts, which the server pauses after a minute. The
// second attempt calls again. As the last attempt it is not interrupted, although the SDK's
// context of the environment stays that of a paused attempt.
func paused(t *testing.T, fn func(ctx activity.Context) error, again func(ctx activity.Context)) (attempts int, err error) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { c.cancel(sdkactivity.ErrActivityPaused) })
		opts := options{HeartbeatTimeout: time.Hour, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Hour, MaximumAttempts: 2}}
		_, err = run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			attempts++
			if attempts == 2 {
				if d := c.waited(); d != time.Millisecond {
					t.Errorf("the second attempt waited %s", d)
				}
				if again != nil {
					again(ctx)
				}
				return 0, nil
			}
			err := fn(ctx)
			if cause := context.Cause(ctx); cause != activity.ErrPaused || time.Since(begun) != time.Minute {
				t.Errorf("the cause is %v, after %s", cause, time.Since(begun))
			}
			return 0, err
		}, 0)
	})
	return attempts, err
}

// Rules 4 and 32. Given an attempt that the server pauses, then its Context ends with
// ErrPaused, its details are still recorded, and the next attempt resumes from them.
func TestPause_NextAttemptResumes(t *testing.T) {
	attempts, err := paused(t, func(ctx activity.Context) error {
		checkErr(t, ctx.Heartbeat(7), nil)
		if err := ctx.Sleep(time.Hour); err != activity.ErrPaused {
			t.Errorf("Sleep returned %v", err)
		}
		return fmt.Errorf("row 8: %w", ctx.Heartbeat(8))
	}, func(ctx activity.Context) {
		if n, err := activity.Resume(ctx, 0); n != 8 || err != nil {
			t.Errorf("it resumes from %d, %v", n, err)
		}
	})
	if attempts != 2 || err != nil {
		t.Errorf("%d attempts, %v", attempts, err)
	}
}

// Rule 32. Given a paused attempt, then another follows if the function was told or returned an
// error, of whatever kind. If the function was not told and returns nil, it has completed.
func TestPause_Outcome(t *testing.T) {
	for name, fn := range map[string]func(ctx activity.Context) error{
		"told by Sleep":     func(ctx activity.Context) error { return ctx.Sleep(time.Hour) },
		"told by Heartbeat": func(ctx activity.Context) error { <-ctx.Done(); return ctx.Heartbeat() },
		"Sleep cut short":   func(ctx activity.Context) error { ctx.Sleep(time.Hour); return nil },
		"Guard refused":     func(ctx activity.Context) error { <-ctx.Done(); activity.Guard(ctx, never); return nil },
		"Range cut short": func(ctx activity.Context) error {
			activity.Range(ctx, 0, 10, func(int) error { <-ctx.Done(); return nil })
			return nil
		},
		"context.Canceled": func(ctx activity.Context) error { <-ctx.Done(); return ctx.Err() },
		"another error":    func(ctx activity.Context) error { <-ctx.Done(); return errBoom },
		"non-retryable":    func(ctx activity.Context) error { return activity.NonRetryable(ctx.Sleep(time.Hour)) },
		"the SDK's": func(ctx activity.Context) error {
			<-ctx.Done()
			return temporal.NewNonRetryableApplicationError("theirs", "their type", nil)
		},
		"retry after two hours": func(ctx activity.Context) error { return activity.RetryAfter(ctx.Sleep(time.Hour), 2*time.Hour) },
		"panic":                 func(ctx activity.Context) error { panic(activity.NonRetryable(ctx.Sleep(time.Hour))) },
	} {
		if attempts, err := paused(t, fn, nil); attempts != 2 || err != nil {
			t.Errorf("%s: %d attempts, %v", name, attempts, err)
		}
	}
	for name, fn := range map[string]func(ctx activity.Context) error{
		"nothing told": func(ctx activity.Context) error { <-ctx.Done(); return nil },
		"Heartbeat's":  func(ctx activity.Context) error { <-ctx.Done(); ctx.Heartbeat(1); return nil },
		"the last Range": func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 1, func(int) error { <-ctx.Done(); return nil })
		},
	} {
		if attempts, err := paused(t, fn, nil); attempts != 1 || err != nil {
			t.Errorf("%s: %d attempts, %v", name, attempts, err)
		}
	}
}

// Given the last of MaximumAttempts, when the server pauses it, then it continues, and its
// details reach the server.
func TestPause_LastAttemptContinues(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { c.cancel(sdkactivity.ErrActivityPaused) })
		_, err := run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Sleep(2*time.Minute), nil)
			checkErr(t, ctx.Heartbeat(8), nil)
			checkErr(t, ctx.Sleep(2*time.Minute), nil) // the SDK holds heartbeats back for a minute
			if n := len(c.got()); n == 0 || c.got()[n-1] != "8" {
				t.Errorf("the server got the heartbeats %s", c.got())
			}
			return 0, errors.Join(ctx.Sleep(time.Minute), errBoom)
		}, 0)
		if app := failure(t, err); app.Message() != "boom" || time.Since(begun) != 5*time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
	})
}

// Rule 32. Given an activity in some state, then Pause and Unpause return nil, or an error that
// names the reason. The server is asked to pause only what it can pause.
func TestHandle_PauseAndUnpause(t *testing.T) {
	const (
		running   = enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING
		isPaused  = enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED
		canceled  = enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED
		scheduled = enumspb.PENDING_ACTIVITY_STATE_SCHEDULED
		started   = enumspb.PENDING_ACTIVITY_STATE_STARTED
		requested = enumspb.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED
	)
	refused := serviceerror.NewFailedPrecondition("activity is in some state")
	disabled := serviceerror.NewUnimplemented("commands are disabled")
	const setting = `the server pauses activities only if its dynamic configuration has history.enableStandaloneActivityOperatorCommands: commands are disabled`
	for _, test := range []struct {
		name           string
		status         enumspb.ActivityExecutionStatus // zero if the activity does not exist
		run            enumspb.PendingActivityState
		maximum        int32
		err            error  // the server's
		pause, unpause string // the errors
		asked          bool   // the server is asked to pause it
	}{
		{"runs", running, started, 0, nil, "", "", true},
		{"runs, and has attempts left", running, started, 4, nil, "", "", true},
		{"runs for the last time", running, started, 3, nil, "attempt 3 is the last of MaximumAttempts, and a Temporal server counts an attempt that it pauses", "", false},
		{"waits for the last time", running, scheduled, 3, nil, "", "", true},
		{"is being paused", running, requested, 3, nil, "", "", false},
		{"is paused", isPaused, enumspb.PENDING_ACTIVITY_STATE_PAUSED, 0, nil, "", "", false},
		{"is being canceled", running, enumspb.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED, 0, refused, refused.Error(), refused.Error(), true},
		{"has ended", canceled, 0, 0, refused, activity.ErrNotFound.Error(), activity.ErrNotFound.Error(), true},
		{"does not exist", 0, 0, 0, serviceerror.NewNotFound("none"), activity.ErrNotFound.Error(), activity.ErrNotFound.Error(), false},
		{"cannot be paused there", running, scheduled, 0, disabled, setting, setting, true},
	} {
		s := newServer()
		s.exists, s.steerErr, s.about = test.status != 0, test.err, described(test.status, 3, 0)
		s.about.RunState, s.about.RetryPolicy = test.run, &temporal.RetryPolicy{MaximumAttempts: test.maximum}
		h := ontemporal.GetHandle[string](s, "a", "")
		check := func(what, want string, err error) {
			t.Helper()
			if want == "" && err != nil || want != "" && (err == nil || err.Error() != fmt.Sprintf(`activity "a": not %s: %s`, what, want)) {
				t.Errorf("an activity that %s, not %s: got %v", test.name, what, err)
			}
			if errors.Is(err, activity.ErrNotFound) != (want == activity.ErrNotFound.Error()) {
				t.Errorf("an activity that %s: got %#v", test.name, err)
			}
		}
		check("paused", test.pause, h.Pause(t.Context()))
		check("unpaused", test.unpause, h.Unpause(t.Context()))
		want := []string{`handle of "a" ""`, "pause", "unpause"}
		if !test.asked {
			want = []string{`handle of "a" ""`, "unpause"}
		}
		s.check(t, want...)
	}
}
