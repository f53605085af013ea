package activity_test

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Recover gives no handles: the log says what became of an attempt whose process
// ended.
func TestRule20LogOfARestart(t *testing.T) {
	running := func(attempt, progressed int) activity.Checkpoint {
		return activity.Checkpoint{State: activity.CheckpointRunning, Attempt: attempt, Progressed: progressed}
	}
	for name, test := range map[string]struct {
		found activity.Checkpoint
		down  time.Duration
		log   []string // nil: nothing
	}{
		"with progress":           {running(1, 1), 0, []string{"the process ended during attempt 1", "attempt=1", "retry_in=0s"}},
		"without":                 {running(1, 0), 0, []string{"the process ended during attempt 1", "attempt=1", "retry_in=1s"}},
		"the last attempt":        {running(3, 3), 0, []string{"the process ended during attempt 3", "attempt=3", "no_retry=maximum attempts reached"}},
		"schedule-to-close":       {running(1, 1), time.Hour, []string{"schedule-to-close", "the process ended during attempt 1", "no_retry=timeout"}},
		"no time for the backoff": {running(1, 0), time.Hour - time.Second/2, []string{"the process ended during attempt 1", "no_retry=timeout"}},
		"interrupted":             {activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: 1}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &logbook{}
				store := &storetest.Memory{}
				cp := test.found
				cp.ID, cp.Name, cp.Input = "a", "job", []byte("{}")
				cp.ScheduledAt, cp.UpdatedAt = time.Now().Add(-test.down), time.Now()
				if err := store.Save(t.Context(), []activity.Checkpoint{cp}); err != nil {
					t.Fatal(err)
				}
				rt := activity.New(activity.Config{Store: store, Logger: slog.New(log)})
				def := &activity.Definition[struct{}, struct{}]{
					Name:    "job",
					Options: activity.Options{ScheduleToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}},
					Func:    func(activity.Context, struct{}) (struct{}, error) { return struct{}{}, nil },
				}
				if n, err := rt.Recover(t.Context(), def); n != 1 || err != nil {
					t.Error(n, err)
				}
				time.Sleep(time.Minute)
				checkErr(t, rt.Shutdown(t.Context()), nil)
				if n := log.has(slog.LevelWarn); n != min(len(test.log), 1) {
					t.Errorf("%d warnings", n)
				}
				if test.log != nil && log.has(slog.LevelWarn, test.log...) != 1 {
					t.Errorf("no warning with %q: %+v", test.log, log.lines)
				}
			})
		})
	}
}
