package activity_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// What many activities did at one instant links them while it is done, and not for
// longer: whoever keeps a Handle of one keeps nothing of the others.
func TestEndedActivitiesAreFreed(t *testing.T) {
	const n = 100
	hour := activity.Options{ScheduleToStartTimeout: time.Hour}
	tests := []struct {
		name string
		cfg  activity.Config
		opts activity.Options
		fn   func(activity.Context) error
	}{
		{"retried at one instant", activity.Config{}, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				<-ctx.Done()
			}
			return nil
		}},
		{"timed out at one instant", activity.Config{}, activity.Options{StartToCloseTimeout: time.Minute, RetryPolicy: once}, func(ctx activity.Context) error {
			<-ctx.Done()
			return nil
		}},
		{"woken at one instant", activity.Config{}, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }},
		{"given up at one instant", activity.Config{MaxConcurrent: 1}, hour, func(ctx activity.Context) error { return ctx.Sleep(24 * time.Hour) }},
	}
	for _, test := range tests {
		for _, keep := range []int{0, n - 1} {
			t.Run(test.name, func(t *testing.T) {
				bubble(t, test.cfg, func(t *testing.T, rt *activity.Runtime) {
					var freed atomic.Int32
					var kept *activity.Handle[struct{}]
					for i := range n {
						h, err := activity.Start(context.Background(), rt, test.opts, holder(&freed, test.fn), struct{}{})
						if err != nil {
							t.Fatal(err)
						}
						if i == keep {
							kept = h
						}
					}
					time.Sleep(48 * time.Hour)
					synctest.Wait()
					// Of a burst of timeouts the last stays known too, for the log.
					if got := collect(&freed, n-2); got < n-2 {
						t.Errorf("%d of %d are freed", got, n)
					}
					if err := wait(t, kept); test.name == "woken at one instant" {
						checkErr(t, err, nil)
					}
				})
			})
		}
	}
}
