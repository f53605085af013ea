package manifest

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// These tests run the activity in synctest bubbles, with real files.

const beat = 10 * time.Second

// fiveFiles makes a directory of files. It returns the result of a run over all of them.
func fiveFiles(t *testing.T) (dir string, files []string, whole Result) {
	t.Helper()
	dir = t.TempDir()
	for i := range 5 {
		file := filepath.Join(dir, fmt.Sprintf("file%d", i))
		script.WriteFile(t, file, strings.Repeat("x", 100*i))
		files = append(files, file)
	}
	return dir, files, Result{Files: 5, Bytes: 1000}
}

func quiet() *activity.Runtime {
	return activity.New(activity.Config{Logger: slog.New(slog.DiscardHandler)})
}

func newJob(t *testing.T, dir string) Job {
	return Job{filepath.Join(t.TempDir(), "SUMS"), []string{dir}}
}

func execute(t *testing.T, rt *activity.Runtime, w *Writer, in Job) (Result, error) {
	if w.Say == nil {
		w.Say = t.Logf
	}
	return activity.Execute(t.Context(), rt, activity.Options{HeartbeatTimeout: beat}, w.Write, in)
}

// plain returns the manifest of an undisturbed run.
func plain(t *testing.T, dir string) string {
	t.Helper()
	in := newJob(t, dir)
	if _, err := execute(t, quiet(), &Writer{}, in); err != nil {
		t.Fatal(err)
	}
	return script.ReadFile(t, in.Manifest)
}

// Given an attempt that hangs at a file, when it times out, then the next one starts
// at once, and the late waker writes nothing.
func TestWrite_StallAtEachFile(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	want := plain(t, dir)
	for n := range files {
		for _, wake := range []time.Duration{time.Nanosecond, time.Hour} { // during the next attempt, and after the end
			synctest.Test(t, func(t *testing.T) {
				in, w, rt, start := newJob(t, dir), &Writer{Workers: 1 + n%2*3}, quiet(), time.Now()
				w.Trouble.StallAt, w.Trouble.StallFor = n+1, wake
				r, err := execute(t, rt, w, in)
				if r != whole || err != nil {
					t.Errorf("stall at %d: result %+v, error %v, want %+v", n+1, r, err, whole)
				}
				if took := time.Since(start); took != beat {
					t.Errorf("stall at %d: the run took %s, want %s: the next attempt starts at once", n+1, took, beat)
				}
				if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
					t.Errorf("stall at %d, woken after %s: manifest (-plain +this):\n%s", n+1, wake, diff)
				}
				script.WriteFile(t, in.Manifest, "")
				time.Sleep(2 * time.Hour)
				if s := rt.Stats(); s.Attempts != 2 || s.Timeouts != 1 || s.Abandoned != 0 {
					t.Errorf("stall at %d: %+v, want 2 attempts, 1 timeout, and the function returned", n+1, s)
				}
				if late := script.ReadFile(t, in.Manifest); late != "" {
					t.Errorf("stall at %d, woken after %s: written when all was over: %q", n+1, wake, late)
				}
			})
		}
	}
}

// Given an attempt that fails at a file, when the next one has finished, then the
// manifest is that of an undisturbed run.
func TestWrite_FailureAtEachFile(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	want := plain(t, dir)
	for n := range files {
		synctest.Test(t, func(t *testing.T) {
			in, w, rt := newJob(t, dir), &Writer{Workers: 1 + n%2*3}, quiet()
			w.Trouble.FailAt = n + 1
			r, err := execute(t, rt, w, in)
			if r != whole || err != nil {
				t.Errorf("fail at %d: result %+v, error %v, want %+v", n+1, r, err, whole)
			}
			if s := rt.Stats(); s.Attempts != 2 {
				t.Errorf("fail at %d: %d attempts, want 2", n+1, s.Attempts)
			}
			if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
				t.Errorf("fail at %d: manifest (-plain +this):\n%s", n+1, diff)
			}
		})
	}
}

// Given a file that vanishes after both attempts have listed it, when the first attempt
// stalls there, then the file is counted once as unread.
func TestWrite_VanishedFileIsCountedOnce(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	lines := strings.SplitAfter(plain(t, dir), "\n")
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	whole = Result{Files: 4, Bytes: 800, Unread: 1}
	want := strings.Join(append(lines[:2:2], lines[3:]...), "")
	synctest.Test(t, func(t *testing.T) {
		in, w, said := newJob(t, dir), &Writer{}, make(chan string, 10)
		w.Say = func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }
		w.Trouble.StallAt, w.Trouble.StallFor = 3, time.Minute
		r, err := activity.Execute(t.Context(), quiet(), activity.Options{HeartbeatTimeout: beat}, func(ctx activity.Context, in Job) (Result, error) {
			return w.writeFiles(ctx, in.Manifest, files)
		}, in)
		if r != whole || err != nil {
			t.Errorf("result %+v, error %v, want %+v", r, err, whole)
		}
		time.Sleep(time.Hour)
		if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
		var lines []string
		for len(said) > 0 {
			lines = append(lines, <-said)
		}
		if diff := cmp.Diff([]string{"hanging at file 3, as -stall asks", files[2] + ": no such file or directory"}, lines); diff != "" {
			t.Errorf("what it said (-want +got):\n%s", diff)
		}
	})
}

// Given a manifest that another program cuts off, when the next attempt resumes, then it
// writes the lines of all files that are done again.
func TestWrite_ManifestCutBetweenAttempts(t *testing.T) {
	dir, _, _ := fiveFiles(t)
	want := plain(t, dir)
	synctest.Test(t, func(t *testing.T) {
		in, w, rt := newJob(t, dir), &Writer{}, quiet()
		w.Trouble.StallAt, w.Trouble.StallFor = 3, time.Minute
		done := make(chan error)
		go func() {
			_, err := execute(t, rt, w, in)
			done <- err
		}()
		synctest.Wait() // it hangs
		if err := os.Truncate(in.Manifest, 10); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, script.ReadFile(t, in.Manifest)); diff != "" {
			t.Errorf("manifest (-plain +this):\n%s", diff)
		}
		if s := rt.Stats(); s.Attempts != 2 {
			t.Errorf("%d attempts, want 2", s.Attempts)
		}
		time.Sleep(time.Hour)
	})
}

// Given files that change while an attempt hangs, when the next one resumes, then the
// manifest is that of the files as they are. It starts over only if it has to.
func TestWrite_FilesChangeBetweenAttempts(t *testing.T) {
	const startsOver = "the 3 files that are done are not those of the previous run, or have changed; starting over"
	for name, c := range map[string]struct {
		change func(dir string) error
		says   string
	}{
		"Before": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), nil, 0o644) }, startsOver},
		"Gone":   {func(dir string) error { return os.Remove(filepath.Join(dir, "file1")) }, startsOver},
		"Edited": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "file2"), []byte("other"), 0o644) }, startsOver},
		"Few": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file2")), os.Remove(filepath.Join(dir, "file3")), os.Remove(filepath.Join(dir, "file4")))
		}, ""},
		"After": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "z"), nil, 0o644) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, _ := fiveFiles(t)
			var got string
			var said []string
			synctest.Test(t, func(t *testing.T) {
				in, w, done := newJob(t, dir), &Writer{}, make(chan error)
				says := make(chan string, 10) // of both attempts
				w.Say = func(format string, args ...any) { says <- fmt.Sprintf(format, args...) }
				w.Trouble.StallAt, w.Trouble.StallFor = 4, time.Hour
				go func() {
					_, err := execute(t, quiet(), w, in)
					done <- err
				}()
				synctest.Wait() // it hangs
				if err := c.change(dir); err != nil {
					t.Fatal(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Hour)
				got = script.ReadFile(t, in.Manifest)
				for len(says) > 0 {
					said = append(said, <-says)
				}
			})
			if diff := cmp.Diff(plain(t, dir), got); diff != "" {
				t.Errorf("manifest (-of what is there now +got):\n%s", diff)
			}
			want := []string{"hanging at file 4, as -stall asks"}
			if c.says != "" {
				want = append(want, c.says)
			}
			if diff := cmp.Diff(want, said); diff != "" {
				t.Errorf("what it said (-want +got):\n%s", diff)
			}
		})
	}
}

// A meddler calls meddle when a file is done.
type meddler struct {
	activity.Context
	meddle func()
}

func (m meddler) Heartbeat(details ...any) error {
	if len(details) > 0 {
		m.meddle()
	}
	return m.Context.Heartbeat(details...)
}

// Given a manifest that another program changes while it is written, when all lines are
// written, then the activity fails.
func TestWrite_ManifestChangedMeanwhile(t *testing.T) {
	dir, _, _ := fiveFiles(t)
	for name, change := range map[string]func(string) error{
		"Cut":    func(manifest string) error { return os.Truncate(manifest, 10) },
		"Edited": func(manifest string) error { return os.WriteFile(manifest, []byte("x"), 0o644) },
	} {
		in, w := newJob(t, dir), &Writer{Say: t.Logf}
		files := 0
		_, err := activity.Execute(t.Context(), quiet(), activity.Options{}, func(ctx activity.Context, in Job) (Result, error) {
			return w.Write(meddler{ctx, func() {
				if files++; files == 3 {
					if err := change(in.Manifest); err != nil {
						t.Error(err)
					}
				}
			}}, in)
		}, in)
		var end *activity.Error
		if !errors.As(err, &end) || end.RetryState != activity.RetryStateNonRetryableFailure || !errors.Is(err, errTampered) {
			t.Errorf("%s: error %v, want a non-retryable one: %v", name, err, errTampered)
		}
	}
}

// Given a large tree, when it is listed or compared, then each file counts as a sign of
// life, and the end of the attempt stops it.
func TestList_IsNoStall(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rt := quiet()
	if _, err := execute(t, rt, &Writer{}, newJob(t, dir)); err != nil {
		t.Fatal(err)
	}
	if n := rt.Stats().Heartbeats; n < 100 {
		t.Errorf("%d heartbeats in a tree of 100 directories, want 100 at least", n)
	}

	five, files, _ := fiveFiles(t)
	in := newJob(t, five)
	if _, err := execute(t, rt, &Writer{}, in); err != nil {
		t.Fatal(err)
	}
	over, calls := errors.New("it is over"), 0
	alive := func() error {
		if calls++; calls == 3 {
			return over
		}
		return nil
	}
	if _, _, err := List(alive, Job{"SUMS", []string{dir}}, t.Logf); err != over || calls != 3 {
		t.Errorf("list: error %v after %d signs of life, want %v after 3", err, calls, over)
	}
	calls = 0
	if _, err := Recall(in.Manifest, files, activity.RangeProgress{Next: 5, To: 5}, alive); err != over || calls != 3 {
		t.Errorf("Recall: error %v after %d signs of life, want %v after 3", err, calls, over)
	}
}

// Given a large file, when it is hashed, then the attempt sends heartbeats meanwhile.
func TestWrite_HeartbeatsInLargeFile(t *testing.T) {
	dir := t.TempDir()
	script.WriteFile(t, filepath.Join(dir, "large"), strings.Repeat("large", 1<<20))
	rt := quiet()
	if _, err := execute(t, rt, &Writer{}, newJob(t, dir)); err != nil {
		t.Fatal(err)
	}
	if n := rt.Stats().Heartbeats; n < 50 {
		t.Errorf("%d heartbeats in a file of 5 MiB, want 50 at least", n)
	}
}

func TestLine_IsInFormatOfSha256sum(t *testing.T) {
	sum := make([]byte, 32)
	zeros := strings.Repeat("0", 64)
	for path, want := range map[string]string{
		"dir/file": zeros + "  dir/file\n",
		"a b":      zeros + "  a b\n",
		" *":       zeros + "   *\n",
		"n\nl":     `\` + zeros + `  n\nl` + "\n",
		"c\rr":     `\` + zeros + `  c\rr` + "\n",
		"bad\xff":  zeros + "  bad\xff\n",
		"-":        zeros + "  ./-\n",
		"--":       zeros + "  --\n",
	} {
		if got := line(sum, path); got != want {
			t.Errorf("line(%q) = %q, want %q", path, got, want)
		}
	}
	if filepath.Separator == '/' {
		if got, want := line(sum, `b\s`), `\`+zeros+`  b\\s`+"\n"; got != want {
			t.Errorf("line = %q, want %q", got, want)
		}
	}
}
