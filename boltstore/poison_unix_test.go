//go:build linux || darwin

package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

var poisonPolicy = activity.RetryPolicy{InitialInterval: 20 * time.Millisecond, BackoffCoefficient: 2, MaximumAttempts: 5}

func init() {
	children["poison"] = func(path string) error {
		ctx := context.Background()
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		progress, poisonEnded := make(chan struct{}), make(chan struct{})
		completed := make(chan error, 1)
		rt := activity.New(activity.Config{
			Store: s, Logger: slog.New(slog.DiscardHandler),
			Observer: func(e activity.Event) {
				switch {
				case e.ID == "poison" && e.Kind == activity.EventFailed:
					var failure *activity.Error
					errors.As(e.Err, &failure)
					tell(event{What: "failed", ID: e.ID, Attempt: e.Attempt, Err: fmt.Sprintf("%s: %v", failure.RetryState, failure.Err)})
					close(poisonEnded)
				case e.ID == "neighbor" && e.Kind == activity.EventCompleted:
					completed <- nil
				case e.ID == "neighbor" && e.Kind == activity.EventFailed:
					completed <- e.Err
				}
			},
		})
		poison := &activity.Definition[int, int]{
			Name: "poison", Options: activity.Options{RetryPolicy: poisonPolicy},
			Func: func(ctx activity.Context, _ int) (int, error) {
				tell(event{What: "started", ID: "poison", Attempt: ctx.Info().Attempt, Started: ctx.Info().StartedAt})
				<-progress
				return 0, syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			},
		}
		neighbor := &activity.Definition[int, int]{
			Name: "neighbor",
			Options: activity.Options{
				RetryPolicy:    activity.RetryPolicy{InitialInterval: time.Hour},
				SyncHeartbeats: true,
			},
			Func: func(ctx activity.Context, _ int) (int, error) {
				n, err := activity.Resume(ctx, 0)
				if err != nil {
					return 0, err
				}
				tell(event{What: "started", ID: "neighbor", Attempt: ctx.Info().Attempt, N: n})
				if err := ctx.Heartbeat(n + 1); err != nil {
					return 0, activity.NonRetryable(err)
				}
				close(progress)
				<-poisonEnded
				return n, nil
			},
		}

		n, err := rt.Recover(ctx, poison, neighbor)
		if err != nil {
			return err
		}
		if n == 0 {
			_, errPoison := poison.Start(ctx, rt, "poison", 0)
			_, errNeighbor := neighbor.Start(ctx, rt, "neighbor", 0)
			if err := errors.Join(errPoison, errNeighbor); err != nil {
				return err
			}
		}
		for _, status := range rt.Activities() {
			if status.ID == "neighbor" && status.State == activity.StateBackingOff {
				return errors.New("the neighbor does not resume at once, although it had made progress")
			}
		}
		if err := <-completed; err != nil {
			return err
		}
		return errors.Join(rt.Shutdown(ctx), s.Close())
	}
}

// Rule 20. Given an activity that kills its process in each attempt, when the process is
// restarted, then the activity waits longer each time until its attempts are used up, and a
// neighbor that makes progress resumes at once.
func TestRuntime_ActivityKillsItsProcess(t *testing.T) {
	path := newPath(t)
	for attempt := 1; attempt <= poisonPolicy.MaximumAttempts; attempt++ {
		var after time.Time
		if attempt > 1 {
			after = unfinished(t, path)["poison"].UpdatedAt.Add(poisonPolicy.InitialInterval << (attempt - 2))
		}
		var told []string
		status := live(t, child(t, "poison", path), func(e event) {
			told = append(told, fmt.Sprint(e.ID, " ", e.What, " ", e.Attempt, " from ", e.N))
			if e.ID == "poison" && e.Started.Before(after) {
				t.Errorf("attempt %d of poison started %s too early", attempt, after.Sub(e.Started))
			}
		})
		if status.Signal() != syscall.SIGKILL {
			t.Fatalf("in attempt %d the child ended with status %#x", attempt, status)
		}
		slices.Sort(told)
		want := []string{
			fmt.Sprintf("neighbor started %d from %d", attempt, attempt-1),
			fmt.Sprintf("poison started %d from 0", attempt),
		}
		if !slices.Equal(told, want) {
			t.Fatalf("the child reported %q, want %q", told, want)
		}
		left := unfinished(t, path)
		if got, want := states(left), fmt.Sprintf("neighbor running %d, poison running %[1]d", attempt); got != want {
			t.Fatalf("attempt %d left %s, want %s", attempt, got, want)
		}
	}

	var told []string
	status := live(t, child(t, "poison", path), func(e event) {
		told = append(told, fmt.Sprint(e.ID, " ", e.What, " ", e.Attempt, " ", e.Err))
	})
	slices.Sort(told)
	want := []string{"neighbor started 6 ", "poison failed 5 maximum attempts reached: the process ended during attempt 5"}
	if status != 0 || !slices.Equal(told, want) {
		t.Errorf("the last child reported %q with status %#x, want %q", told, status, want)
	}
	if got, want := states(unfinished(t, path)), "poison failed 5"; got != want {
		t.Errorf("the last child left %s, want %s", got, want)
	}
}

func states(left map[string]activity.Checkpoint) string {
	var all []string
	for id, cp := range left {
		all = append(all, fmt.Sprint(id, " ", cp.State, " ", cp.Attempt))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
