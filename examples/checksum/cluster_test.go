package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/sdk/testsuite"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
)

// What needs no server: one attempt in a worker, in the SDK's test environment.

// attempt runs one that resumes from p, unless that is zero, and returns what it
// said.
func attempt(t *testing.T, w *writer, in job, p progress) (result progress, said []string, err error) {
	t.Helper()
	env := new(testsuite.WorkflowTestSuite).NewTestActivityEnvironment()
	w.say = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	ontemporal.Register(env, name, w.write)
	if p != (progress{}) {
		env.SetHeartbeatDetails(p)
	}
	value, err := env.ExecuteActivity(name, in)
	if err == nil {
		err = value.Get(&result)
	}
	return result, said, err
}

// prefix writes the first n lines of want, and more, to the manifest. It returns
// the progress of a run that had come so far.
func prefix(t *testing.T, manifest, want string, n int, files []string) progress {
	t.Helper()
	lines := strings.SplitAfter(want, "\n")[:n]
	write(t, manifest, strings.Join(lines, "")+"half a li")
	p := progress{Next: n, Files: fingerprintOf(t, files[:n])}
	for i, l := range lines {
		p.add([]byte(l), int64(100*i))
	}
	return p
}

func TestWorker(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	want, in := plain(t, dir), newJob(t, dir)
	wants := func(how string, p progress, said []string, err error, says ...string) {
		t.Helper()
		if p != whole || err != nil {
			t.Errorf("%s: progress %+v, error %v, want %+v", how, p, err, whole)
		}
		if diff := cmp.Diff(want, read(t, in.Manifest)); diff != "" {
			t.Errorf("%s: manifest (-embedded +worker):\n%s", how, diff)
		}
		if diff := cmp.Diff(says, said); diff != "" {
			t.Errorf("%s: what it said (-want +got):\n%s", how, diff)
		}
	}
	p, said, err := attempt(t, &writer{}, in, progress{})
	wants("from the start", p, said, err)

	// It would fail at what is done already.
	done := prefix(t, in.Manifest, want, 3, files)
	w := &writer{}
	w.trouble.failAt = 3
	p, said, err = attempt(t, w, in, done)
	wants("from the third file", p, said, err)

	// What an earlier execution has left need not be there any more.
	write(t, in.Manifest, "other")
	p, said, err = attempt(t, &writer{}, in, done)
	wants("manifest of others", p, said, err, in.Manifest+" is not as it was written: somebody else has changed it; starting over")
	done.Files++
	p, said, err = attempt(t, &writer{}, in, done)
	wants("other files", p, said, err, "the first 3 files are not those of the run before, or have changed; starting over")

	w = &writer{}
	w.trouble.failAt = 2
	if _, _, err := attempt(t, w, in, progress{}); err == nil || !strings.Contains(err.Error(), "as -fail asks") {
		t.Errorf("-fail: error %v", err)
	}
	in.Dirs = []string{filepath.Join(dir, "missing")}
	if _, _, err := attempt(t, &writer{}, in, progress{}); err == nil || !strings.Contains(err.Error(), "no such file or directory") || !strings.Contains(err.Error(), "retryable: false") {
		t.Errorf("missing directory: error %v, want a non-retryable one", err)
	}
}

// Options that the server cannot keep would be refused.
func TestClusterOptions(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	opts := clusterOptions("an ID")
	var notStarted *activity.Error
	if _, err := ontemporal.Start(ended, nil, taskQueue, opts, new(writer).write, job{}); !errors.As(err, &notStarted) {
		t.Errorf("error %v, want none about the options", err)
	}
	opts.RetryPolicy.ResetOnProgress = true
	if _, err := ontemporal.Start(ended, nil, taskQueue, opts, new(writer).write, job{}); err == nil || errors.As(err, &notStarted) {
		t.Errorf("error %v, want one about ResetOnProgress", err)
	}
}

func TestAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	in := job{"SUMS", []string{"a", filepath.Join(wd, "b")}}
	got, err := in.absolute()
	if diff := cmp.Diff(job{filepath.Join(wd, "SUMS"), []string{filepath.Join(wd, "a"), filepath.Join(wd, "b")}}, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff([]string{"a", filepath.Join(wd, "b")}, in.Dirs); diff != "" {
		t.Errorf("it changed what it was given (-want +got):\n%s", diff)
	}
	if _, err := (job{"SUMS", []string{"bad\xff"}}).absolute(); err == nil || !strings.Contains(err.Error(), `bad\xff": not UTF-8`) {
		t.Errorf("error %v, want one about UTF-8", err)
	}
}

// recorded is the status of an activity that has recorded p.
func recorded(t *testing.T, p progress) activity.Status {
	t.Helper()
	h, err := activity.Start(t.Context(), quiet(), activity.Options{}, func(ctx activity.Context, _ struct{}) (struct{}, error) {
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

// What a caller shows of what the server tells.
func TestStatus(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	shows := func(st activity.Status, state activity.State, attempt int, failure error, want string) {
		t.Helper()
		st.State, st.Attempt, st.LastFailure = state, attempt, failure
		out.Reset()
		s.status(st)
		if got := out.String(); got != want {
			t.Errorf("%s, attempt %d, %v: shows %q, want %q", state, attempt, failure, got, want)
		}
	}
	stalled := &activity.TimeoutError{Type: activity.TimeoutHeartbeat, After: 2 * time.Second}
	at := func(n int) activity.Status {
		return recorded(t, progress{Next: n, Total: 10, File: fmt.Sprint("file", n)})
	}

	shows(activity.Status{}, activity.StateWaiting, 0, nil, "checksum: waiting for a worker\n")
	shows(activity.Status{}, activity.StateWaiting, 0, nil, "")
	shows(activity.Status{}, activity.StateRunning, 1, nil, "")
	shows(at(2), activity.StateRunning, 1, nil, "checksum: 2 of 10 files\n")
	shows(at(2), activity.StateRunning, 1, nil, "")
	shows(at(2), activity.StateBackingOff, 1, stalled, "")
	shows(at(5), activity.StateRunning, 2, stalled,
		"checksum: attempt 1 stalled, without a heartbeat for 2s, at file 3 of 10, file2; attempt 2 goes on from there\nchecksum: 5 of 10 files\n")
	shows(at(5), activity.StateWaiting, 2, stalled, "checksum: waiting for a worker\n")
	shows(at(10), activity.StateCompleted, 3, errors.New("an error"),
		"checksum: attempt 2 failed: an error, at file 6 of 10, file5; attempt 3 goes on from there\nchecksum: 10 of 10 files\n")

	// Who comes later sees it at once.
	s = &screen{out: &out}
	shows(at(7), activity.StateRunning, 4, stalled,
		"checksum: 7 of 10 files\nchecksum: attempt 3 stalled, without a heartbeat for 2s, at file 8 of 10, file7; attempt 4 goes on from there\n")
	if n := len(s.recoveries); n != 1 {
		t.Errorf("%d recoveries noted, want 1", n)
	}
	slow := &activity.TimeoutError{Type: activity.TimeoutStartToClose, After: time.Hour}
	shows(at(7), activity.StateRunning, 5, slow,
		fmt.Sprintf("checksum: attempt 4 failed: %v, at file 8 of 10, file7; attempt 5 goes on from there\n", slow))
	// It failed before the first file.
	s = &screen{out: &out}
	shows(activity.Status{}, activity.StateRunning, 2, stalled, "checksum: attempt 1 stalled, without a heartbeat for 2s, at the start; attempt 2 goes on from there\n")
}
