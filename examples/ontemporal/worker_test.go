package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/testsuite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
	"github.com/seed-9da638b0/activity/ontemporal"
)

// attempt runs one attempt of the activity in a worker of the SDK's test environment. It
// resumes from done, unless that is zero. It returns what the attempt said.
func attempt(t *testing.T, w *manifest.Writer, in manifest.Job, done activity.RangeProgress) (result manifest.Result, said []string, err error) {
	t.Helper()
	env := new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
	w.Say = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	ontemporal.Register(env, activityName, w.Write)
	if done.To > 0 {
		env.SetHeartbeatDetails(done)
	}
	value, err := env.ExecuteActivity(activityName, in)
	if err == nil {
		err = value.Get(&result)
	}
	return result, said, err
}

// embedded runs the activity in this process, and fails at a file unless that is zero.
// It returns the last progress and the result.
func embedded(t *testing.T, in manifest.Job, failAt int) (done activity.RangeProgress, result manifest.Result) {
	t.Helper()
	rt := activity.New(activity.Config{
		Logger: slog.New(slog.DiscardHandler),
		Observer: func(e activity.Event) {
			if _, err := e.HeartbeatDetails(&done); err != nil {
				t.Error(err)
			}
		},
	})
	w := &manifest.Writer{Say: t.Logf}
	w.Trouble.FailAt = failAt
	opts := activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
	result, err := activity.Execute(t.Context(), rt, opts, w.Write, in)
	if (err != nil) != (failAt > 0) {
		t.Fatal(err)
	}
	return done, result
}

// fiveFiles makes a directory of files, and a manifest elsewhere.
func fiveFiles(t *testing.T) manifest.Job {
	t.Helper()
	dir := t.TempDir()
	for i := range 5 {
		script.WriteFile(t, filepath.Join(dir, fmt.Sprint("file", i)), strings.Repeat("x", 100*i))
	}
	return manifest.Job{Manifest: filepath.Join(t.TempDir(), "SUMS"), Dirs: []string{dir}}
}

// Given the progress of an earlier attempt, when a worker resumes from it, then the
// manifest is that of an undisturbed run in one process.
func TestWorker_Resumes(t *testing.T) {
	in := fiveFiles(t)
	_, whole := embedded(t, in, 0)
	want := script.ReadFile(t, in.Manifest)
	three, _ := embedded(t, in, 4)
	if three.Next != 3 {
		t.Fatalf("%+v, want the progress after three files", three)
	}

	script.WriteFile(t, in.Manifest, script.ReadFile(t, in.Manifest)+"half a li")
	for _, test := range []struct {
		name   string
		before func()
		failAt int // would fail at a file that is done already
		from   activity.RangeProgress
		says   []string
	}{
		{"from the fourth file", func() {}, 3, three, nil},
		{"from the start", func() {}, 0, activity.RangeProgress{}, nil},
		{"another manifest", func() { script.WriteFile(t, in.Manifest, "other") }, 3, three, nil},
		{"no sums", func() { os.Remove(manifest.SumsFile(in.Manifest)) }, 0, three, []string{"the 3 files that are done are not those of the previous run, or have changed; starting over"}},
	} {
		test.before()
		w := &manifest.Writer{}
		w.Trouble.FailAt = test.failAt
		r, said, err := attempt(t, w, in, test.from)
		if r != whole || err != nil {
			t.Errorf("%s: result %+v, error %v, want %+v", test.name, r, err, whole)
		}
		if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
			t.Errorf("%s: manifest (-embedded +worker):\n%s", test.name, diff)
		}
		if diff := cmp.Diff(test.says, said); diff != "" {
			t.Errorf("%s: what it said (-want +got):\n%s", test.name, diff)
		}
	}
}

// Given a directory that does not exist, when a worker lists it, then the error is not
// retried.
func TestWorker_MissingDirectoryIsNonRetryable(t *testing.T) {
	in := manifest.Job{Manifest: filepath.Join(t.TempDir(), "SUMS"), Dirs: []string{filepath.Join(t.TempDir(), "missing")}}
	_, _, err := attempt(t, &manifest.Writer{}, in, activity.RangeProgress{})
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), "retryable: false") {
		t.Errorf("error %v, want a non-retryable one", err)
	}
}

// Given the caller's options, when they are checked, then a server can honor them all.
func TestOptions_AreSupported(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	opts := options("an ID")
	var notStarted *activity.Error
	if _, err := ontemporal.Start(ended, nil, *taskQueue, opts, new(manifest.Writer).Write, manifest.Job{}); !errors.As(err, &notStarted) {
		t.Errorf("error %v, want none about the options", err)
	}
	opts.RetryPolicy.ResetOnProgress = true
	if _, err := ontemporal.Start(ended, nil, *taskQueue, opts, new(manifest.Writer).Write, manifest.Job{}); err == nil || errors.As(err, &notStarted) {
		t.Errorf("error %v, want one about ResetOnProgress", err)
	}
}

// Given relative paths, when they are made absolute, then those given are unchanged, and
// a path that is not UTF-8 is refused.
func TestAbsolute_Paths(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	in := manifest.Job{Manifest: "SUMS", Dirs: []string{"a", filepath.Join(wd, "b")}}
	got, err := absolute(in)
	want := manifest.Job{Manifest: filepath.Join(wd, "SUMS"), Dirs: []string{filepath.Join(wd, "a"), filepath.Join(wd, "b")}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"a", filepath.Join(wd, "b")}, in.Dirs); diff != "" {
		t.Errorf("it changed what it was given (-want +got):\n%s", diff)
	}
	if _, err := absolute(manifest.Job{Manifest: "SUMS", Dirs: []string{"bad\xff"}}); err == nil || !strings.Contains(err.Error(), `bad\xff": not UTF-8`) {
		t.Errorf("error %v, want one about UTF-8", err)
	}
}

// recorded returns the status of an activity that has recorded p.
func recorded(t *testing.T, p activity.RangeProgress) activity.Status {
	t.Helper()
	h, err := activity.Start(t.Context(), activity.New(activity.Config{}), activity.Options{}, func(ctx activity.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, ctx.Heartbeat(p)
	}, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h.Status()
}

// Given the statuses that a server gives, when a caller shows them, then each fact is
// shown once.
func TestWatcher_Show(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{out: &out}
	shows := func(st activity.Status, state activity.State, attempt int, failure error, want string) {
		t.Helper()
		st.State, st.Attempt, st.LastFailure = state, attempt, failure
		out.Reset()
		w.show(st)
		if got := out.String(); got != want {
			t.Errorf("%s, attempt %d, %v: shows %q, want %q", state, attempt, failure, got, want)
		}
	}
	stalled := &activity.TimeoutError{Type: activity.TimeoutHeartbeat, After: 2 * time.Second}
	at := func(n int) activity.Status {
		return recorded(t, activity.RangeProgress{Next: n, To: 10})
	}

	shows(activity.Status{}, activity.StateWaiting, 0, nil, "ontemporal: waiting for a worker\n")
	shows(activity.Status{}, activity.StateWaiting, 0, nil, "")
	shows(activity.Status{}, activity.StateRunning, 1, nil, "")
	shows(at(2), activity.StateRunning, 1, nil, "ontemporal: 2 of 10 files\n")
	shows(at(2), activity.StateRunning, 1, nil, "")
	shows(at(2), activity.StateBackingOff, 1, stalled, "")
	shows(at(5), activity.StateRunning, 2, stalled,
		"ontemporal: recovered: attempt 1 stalled: no heartbeat for 2s; attempt 2 continues at file 3 of 10\nontemporal: 5 of 10 files\n")
	shows(at(5), activity.StateWaiting, 2, stalled, "ontemporal: waiting for a worker\n")
	shows(at(10), activity.StateCompleted, 3, errors.New("an error"),
		"ontemporal: recovered: attempt 2 failed: an error; attempt 3 continues at file 6 of 10\nontemporal: 10 of 10 files\n")

	// A caller that comes later shows at once where the activity is.
	w = &watcher{out: &out}
	shows(at(7), activity.StateRunning, 4, stalled,
		"ontemporal: 7 of 10 files\nontemporal: recovered: attempt 3 stalled: no heartbeat for 2s; attempt 4 continues at file 8 of 10\n")
	slow := &activity.TimeoutError{Type: activity.TimeoutStartToClose, After: time.Hour}
	shows(at(7), activity.StateRunning, 5, slow,
		fmt.Sprintf("ontemporal: recovered: attempt 4 failed: %v; attempt 5 continues at file 8 of 10\n", slow))
	// The attempt failed before the first file.
	w = &watcher{out: &out}
	shows(activity.Status{}, activity.StateRunning, 2, stalled, "ontemporal: recovered: attempt 1 stalled: no heartbeat for 2s; attempt 2 continues at the start\n")
}
