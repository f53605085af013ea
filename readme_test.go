package activity_test

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// README.md quotes these tests.

func TestImportSurvivesEverything(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		disk := w.FS(t.TempDir())                                            // outlives the process
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error { // one life of the program
			opts := activity.Options{ID: "import", HeartbeatTimeout: 10 * time.Second}
			return rt.Run(ctx, opts, func(ctx activity.Context) error {
				f, err := disk.OpenFile("rows.txt", os.O_RDWR|os.O_CREATE, 0o666)
				if err != nil {
					return err
				}
				defer f.Close()
				return activity.Range(ctx, 0, 3, func(i int) error {
					return activity.Guard(ctx, func() error { // no later attempt overlaps it
						_, err := f.WriteAt([]byte{'a' + byte(i), '\n'}, int64(2*i)) // over what is not recorded
						return err
					})
				})
			})
		})
		if got, _ := disk.ReadFile("rows.txt"); err != nil || string(got) != "a\nb\nc\n" {
			t.Errorf("imported %q (%v)", got, err)
		}
	})
}

func TestResumesAfterAStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		rt := activity.New(activity.Config{})
		err := rt.Run(t.Context(), activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 100, func(i int) error {
				if i == 42 && ctx.Info().Attempt == 1 {
					<-ctx.Done() // stalls
				}
				return ctx.Sleep(time.Second)
			})
		})
		if took := time.Since(start); err != nil || took != 110*time.Second { // 100 steps, and one stall
			t.Errorf("%v after %s", err, took)
		}
	})
}
