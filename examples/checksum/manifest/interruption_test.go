package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// Given a disk that may lose its power, when the activity is interrupted anywhere, then the
// manifest is that of an undisturbed run, with one worker and with several.
func TestWrite_SurvivesEveryInterruption(t *testing.T) {
	dir, _, whole := fiveFiles(t)
	want := plain(t, dir)
	for _, workers := range []int{1, 3} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			activitytest.Plan{PowerLoss: true, MaxRuns: 1000}.Run(t, func(t *testing.T, w *activitytest.World) {
				in := newJob(t, dir)
				disk := testDisk{w.FS(filepath.Dir(in.Manifest))}
				var r Result
				told := false // whether the user knows that the manifest is whole
				err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
					if told {
						return nil
					}
					writer := &Writer{Workers: workers, Say: func(string, ...any) {}, disk: disk}
					for again := true; again; again = errors.Is(err, activitytest.ErrFault) { // a file cannot be opened, and the user tries again
						r, err = activity.Execute(ctx, rt, activity.Options{ID: "manifest", HeartbeatTimeout: beat}, writer.Write, in)
					}
					told = err == nil
					activitytest.Point(ctx, "told")
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

// A testDisk is the directory of the manifest.
type testDisk struct{ *activitytest.FS }

func (d testDisk) openFile(name string, flag int, perm fs.FileMode) (file, error) {
	return d.OpenFile(filepath.Base(name), flag, perm)
}

func (d testDisk) readFile(name string) ([]byte, error) { return d.ReadFile(filepath.Base(name)) }

func (d testDisk) syncDir(string) error {
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
