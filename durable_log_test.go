package activity_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Rules 20 and 28. Given an attempt whose process ended, when the next process starts or
// recovers it, then the log says what became of it.
func TestCrash_LogOfRestart(t *testing.T) {
	for _, recovering := range []bool{true, false} {
		t.Run(fmt.Sprint("Recover ", recovering), func(t *testing.T) { logOfARestart(t, recovering) })
	}
}

func logOfARestart(t *testing.T, recovering bool) {
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
				if recovering {
					if n, err := rt.Recover(t.Context(), def); n != 1 || err != nil {
						t.Error(n, err)
					}
				} else if _, err := def.Start(t.Context(), rt, "a", struct{}{}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
				checkErr(t, rt.Shutdown(t.Context()), nil)
				crashed := map[bool]string{true: "1", false: "0"}[cp.State == activity.CheckpointRunning]
				if n := log.has(slog.LevelInfo, "activity: recovered activities", "activities=1", "process_ended_during_an_attempt="+crashed); recovering != (n == 1) {
					t.Errorf("%d summaries: %+v", n, log.lines)
				}
				want := test.log
				if recovering && len(want) > 0 && strings.HasPrefix(want[len(want)-1], "retry_in") {
					want = nil // the summary counts it
				}
				if n := log.has(slog.LevelWarn); n != min(len(want), 1) {
					t.Errorf("%d warnings", n)
				}
				if want != nil && log.has(slog.LevelWarn, want...) != 1 {
					t.Errorf("no warning with %q: %+v", want, log.lines)
				}
			})
		})
	}
}
