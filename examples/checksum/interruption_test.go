package main

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// The activity on a folder of real files, interrupted everywhere: the manifest is
// always the one of an undisturbed run.
func TestManifestSurvivesEverything(t *testing.T) {
	dir, _, whole := fiveFiles(t)
	want := plain(t, dir)
	in := newJob(t, dir)
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		if err := os.Remove(in.Manifest); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var p progress
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
			writer := &writer{say: func(string, ...any) {}}
			p, err = activity.Execute(ctx, rt, activity.Options{ID: id, HeartbeatTimeout: beat}, writer.write, in)
			return err
		})
		if p != whole || err != nil {
			t.Errorf("progress %+v, error %v, want %+v", p, err, whole)
		}
		if diff := cmp.Diff(want, read(t, in.Manifest)); diff != "" {
			t.Errorf("manifest (-plain +this):\n%s", diff)
		}
	})
}
