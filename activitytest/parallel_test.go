package activitytest_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// Given a RangeParallel whose bodies write idempotently, then it survives every interruption,
// and those in its bodies are among them.
func TestEveryInterruption_RangeParallel(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		done := map[int]int{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "import", HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
				return activity.RangeParallel(ctx, 0, 6, 3, func(ctx activity.Context, i int) error {
					if err := ctx.Sleep(time.Second); err != nil {
						return err
					}
					mu.Lock()
					done[i]++
					mu.Unlock()
					activitytest.Point(ctx, "row written")
					return nil
				})
			})
		})
		if err != nil || len(done) != 6 {
			t.Errorf("%v, done %v", err, done)
		}
	})
}
