package manifest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// Given real files, when the activity is interrupted anywhere, then the manifest is that
// of an undisturbed run, with one worker and with several.
func TestWrite_SurvivesEveryInterruption(t *testing.T) {
	dir, _, whole := fiveFiles(t)
	want := plain(t, dir)
	in := newJob(t, dir)
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
				if err := errors.Join(os.RemoveAll(in.Manifest), os.RemoveAll(SumsFile(in.Manifest))); err != nil {
					t.Fatal(err)
				}
				var r Result
				err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
					writer := &Writer{Workers: workers, Say: func(string, ...any) {}}
					r, err = activity.Execute(ctx, rt, activity.Options{ID: "manifest", HeartbeatTimeout: beat}, writer.Write, in)
					return err
				})
				if r != whole || err != nil {
					t.Errorf("result %+v, error %v, want %+v", r, err, whole)
				}
				if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
					t.Errorf("manifest (-plain +this):\n%s", diff)
				}
			})
		})
	}
}
