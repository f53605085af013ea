package manifest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// Given real files, when the activity is interrupted anywhere, then the manifest is that
// of an undisturbed run.
func TestWrite_SurvivesEveryInterruption(t *testing.T) {
	dir, _, whole := fiveFiles(t)
	want := plain(t, dir)
	in := newJob(t, dir)
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		if err := os.Remove(in.Manifest); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var p Progress
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
			writer := &Writer{Say: func(string, ...any) {}}
			p, err = activity.Execute(ctx, rt, activity.Options{ID: "manifest", HeartbeatTimeout: beat}, writer.Write, in)
			return err
		})
		if p != whole || err != nil {
			t.Errorf("progress %+v, error %v, want %+v", p, err, whole)
		}
		if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
			t.Errorf("manifest (-plain +this):\n%s", diff)
		}
	})
}
