package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// The activity itself, in synctest bubbles: files are real, time is not.

const beat = 10 * time.Second

// fiveFiles makes a directory of files, and the progress that a run over all of
// them ends with.
func fiveFiles(t *testing.T) (dir string, files []string, whole progress) {
	t.Helper()
	dir = t.TempDir()
	for i := range 5 {
		file, content := filepath.Join(dir, fmt.Sprintf("file%d", i)), strings.Repeat("x", 100*i)
		write(t, file, content)
		files = append(files, file)
		whole.add([]byte(line(sum(content), file)), int64(len(content)))
	}
	whole.Next, whole.Files, whole.Total = len(files), fingerprintOf(t, files), len(files)
	return dir, files, whole
}

func fingerprintOf(t *testing.T, files []string) uint64 {
	t.Helper()
	sum, err := fingerprint(files, always)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func sum(content string) []byte {
	s := sha256.Sum256([]byte(content))
	return s[:]
}

func quiet() *activity.Runtime {
	return activity.New(activity.Config{Logger: slog.New(slog.DiscardHandler)})
}

func newJob(t *testing.T, dir string) job {
	return job{filepath.Join(t.TempDir(), "SUMS"), []string{dir}}
}

func execute(t *testing.T, rt *activity.Runtime, w *writer, in job) (progress, error) {
	if w.say == nil {
		w.say = t.Logf
	}
	return activity.Execute(t.Context(), rt, activity.Options{HeartbeatTimeout: beat}, w.write, in)
}

// plain is the manifest of an undisturbed run.
func plain(t *testing.T, dir string) string {
	t.Helper()
	in := newJob(t, dir)
	if _, err := execute(t, quiet(), &writer{}, in); err != nil {
		t.Fatal(err)
	}
	return read(t, in.Manifest)
}

func TestStallAtEachFile(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	want := plain(t, dir)
	for n := range files {
		for _, wake := range []time.Duration{time.Nanosecond, time.Hour} { // amid the next attempt, and after all
			synctest.Test(t, func(t *testing.T) {
				in, w, rt, start := newJob(t, dir), &writer{}, quiet(), time.Now()
				w.trouble.stallAt, w.trouble.stallFor = n+1, wake
				p, err := execute(t, rt, w, in)
				if p != whole || err != nil {
					t.Errorf("stall at %d: progress %+v, error %v, want %+v", n+1, p, err, whole)
				}
				if took := time.Since(start); took != beat {
					t.Errorf("stall at %d: the run took %s, want %s: the next attempt starts at once", n+1, took, beat)
				}
				if diff := cmp.Diff(want, read(t, in.Manifest)); diff != "" {
					t.Errorf("stall at %d, woken after %s: manifest (-plain +this):\n%s", n+1, wake, diff)
				}
				write(t, in.Manifest, "")
				time.Sleep(2 * time.Hour)
				if s := rt.Stats(); s.Attempts != 2 || s.Timeouts != 1 || s.Abandoned != 0 {
					t.Errorf("stall at %d: %+v, want 2 attempts, 1 timeout, and the function returned", n+1, s)
				}
				if late := read(t, in.Manifest); late != "" {
					t.Errorf("stall at %d, woken after %s: written when all was over: %q", n+1, wake, late)
				}
			})
		}
	}
}

func TestFailAtEachFile(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	want := plain(t, dir)
	for n := range files {
		synctest.Test(t, func(t *testing.T) {
			in, w, rt := newJob(t, dir), &writer{}, quiet()
			w.trouble.failAt = n + 1
			p, err := execute(t, rt, w, in)
			if p != whole || err != nil {
				t.Errorf("fail at %d: progress %+v, error %v, want %+v", n+1, p, err, whole)
			}
			if s := rt.Stats(); s.Attempts != 2 {
				t.Errorf("fail at %d: %d attempts, want 2", n+1, s.Attempts)
			}
			if diff := cmp.Diff(want, read(t, in.Manifest)); diff != "" {
				t.Errorf("fail at %d: manifest (-plain +this):\n%s", n+1, diff)
			}
		})
	}
}

// A file that cannot be read is counted once, although its attempt stalls. Here it
// vanishes after both attempts have listed it.
func TestVanishedFile(t *testing.T) {
	dir, files, whole := fiveFiles(t)
	lines := strings.SplitAfter(plain(t, dir), "\n")
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	whole.Unread++
	whole.Bytes -= 200
	whole.Length -= int64(len(lines[2]))
	want := strings.Join(append(lines[:2:2], lines[3:]...), "")
	whole.Lines, whole.Files = crc64.Checksum([]byte(want), crcTable), fingerprintOf(t, files)
	synctest.Test(t, func(t *testing.T) {
		in, w, said := newJob(t, dir), &writer{}, make(chan string, 10)
		w.say = func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }
		w.trouble.stallAt, w.trouble.stallFor = 3, time.Minute
		p, err := activity.Execute(t.Context(), quiet(), activity.Options{HeartbeatTimeout: beat}, func(ctx activity.Context, in job) (progress, error) {
			p, err := activity.Resume(ctx, progress{})
			if err != nil {
				return p, err
			}
			return w.writeFiles(ctx, in.Manifest, files, p)
		}, in)
		if p != whole || err != nil {
			t.Errorf("progress %+v, error %v, want %+v", p, err, whole)
		}
		time.Sleep(time.Hour)
		if diff := cmp.Diff(want, read(t, in.Manifest)); diff != "" {
			t.Errorf("manifest (-want +got):\n%s", diff)
		}
		var lines []string
		for len(said) > 0 {
			lines = append(lines, <-said)
		}
		if diff := cmp.Diff([]string{"hanging at file 3, as -stall asks", files[2] + ": no such file or directory"}, lines); diff != "" {
			t.Errorf("what the user was told (-want +got):\n%s", diff)
		}
	})
}

// To cut back a manifest that is too short would fill it up with zeros.
func TestManifestCutByOthers(t *testing.T) {
	dir, _, _ := fiveFiles(t)
	synctest.Test(t, func(t *testing.T) {
		in, w, rt := newJob(t, dir), &writer{}, quiet()
		w.trouble.stallAt, w.trouble.stallFor = 3, time.Minute
		done := make(chan error)
		go func() {
			_, err := execute(t, rt, w, in)
			done <- err
		}()
		synctest.Wait() // it hangs
		if err := os.Truncate(in.Manifest, 10); err != nil {
			t.Fatal(err)
		}
		var end *activity.Error
		if err := <-done; !errors.As(err, &end) || end.RetryState != activity.RetryStateNonRetryableFailure || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("error %v, want a non-retryable one about somebody else", err)
		}
		if s := rt.Stats(); s.Attempts != 2 {
			t.Errorf("%d attempts, want 2", s.Attempts)
		}
		time.Sleep(time.Hour)
	})
}

// Each attempt lists the files. What it goes on from must mean the same in its list.
func TestFilesChangeBetweenAttempts(t *testing.T) {
	const startsOver = "the first 3 files are not those of the run before, or have changed; starting over"
	for name, c := range map[string]struct {
		change func(dir string) error
		says   string
	}{
		"Before": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), nil, 0o644) }, startsOver},
		"Gone":   {func(dir string) error { return os.Remove(filepath.Join(dir, "file1")) }, startsOver},
		"Edited": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "file2"), []byte("other"), 0o644) }, startsOver},
		"Few": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file2")), os.Remove(filepath.Join(dir, "file3")), os.Remove(filepath.Join(dir, "file4")))
		}, startsOver},
		"After": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "z"), nil, 0o644) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, _ := fiveFiles(t)
			var got string
			var said []string
			synctest.Test(t, func(t *testing.T) {
				in, w, done := newJob(t, dir), &writer{}, make(chan error)
				says := make(chan string, 10) // of both attempts
				w.say = func(format string, args ...any) { says <- fmt.Sprintf(format, args...) }
				w.trouble.stallAt, w.trouble.stallFor = 4, time.Hour
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
				got = read(t, in.Manifest)
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
				t.Errorf("what the user was told (-want +got):\n%s", diff)
			}
		})
	}
}

// A meddler does something when a file is done.
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

// What comes amid the lines while they are written must not pass for a manifest.
func TestManifestChangedMeanwhile(t *testing.T) {
	dir, _, _ := fiveFiles(t)
	for name, change := range map[string]func(string) error{
		"Cut":    func(manifest string) error { return os.Truncate(manifest, 10) },
		"Edited": func(manifest string) error { return os.WriteFile(manifest, []byte("x"), 0o644) },
	} {
		in, w := newJob(t, dir), &writer{say: t.Logf}
		files := 0
		_, err := activity.Execute(t.Context(), quiet(), activity.Options{}, func(ctx activity.Context, in job) (progress, error) {
			return w.write(meddler{ctx, func() {
				if files++; files == 3 {
					if err := change(in.Manifest); err != nil {
						t.Error(err)
					}
				}
			}}, in)
		}, in)
		var end *activity.Error
		if !errors.As(err, &end) || end.RetryState != activity.RetryStateNonRetryableFailure || !errors.Is(err, errChanged) {
			t.Errorf("%s: error %v, want a non-retryable one: %v", name, err, errChanged)
		}
	}
}

func TestListingIsNoStall(t *testing.T) {
	dir := t.TempDir()
	for i := range 100 {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	rt := quiet()
	if _, err := execute(t, rt, &writer{}, newJob(t, dir)); err != nil {
		t.Fatal(err)
	}
	if n := rt.Stats().Heartbeats; n < 100 {
		t.Errorf("%d heartbeats in a tree of 100 directories, want 100 at least", n)
	}

	_, files, whole := fiveFiles(t)
	over, calls := errors.New("it is over"), 0
	alive := func() error {
		if calls++; calls == 3 {
			return over
		}
		return nil
	}
	if _, _, err := list(alive, []string{dir}, "SUMS", t.Logf); err != over || calls != 3 {
		t.Errorf("list: error %v after %d signs of life, want %v after 3", err, calls, over)
	}
	calls = 0
	if _, err := whole.ifSame(files, alive, t.Logf); err != over || calls != 3 {
		t.Errorf("ifSame: error %v after %d signs of life, want %v after 3", err, calls, over)
	}
}

// slow is a file on a slow disk: a byte a second.
type slow struct{ left int }

func (s *slow) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Second)
	s.left--
	return 1, nil
}

func TestLargeFileIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt, start := quiet(), time.Now()
		err := rt.Run(t.Context(), activity.Options{HeartbeatTimeout: beat}, func(ctx activity.Context) error {
			_, err := io.Copy(io.Discard, reader{ctx, &slow{1000}})
			return err
		})
		if took := time.Since(start); err != nil || took != 1000*time.Second || rt.Stats().Attempts != 1 {
			t.Errorf("error %v after %s and %d attempts, want none, 1000s and 1", err, took, rt.Stats().Attempts)
		}
	})
}

func TestLargeFileHeartbeats(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "large"), strings.Repeat("large", 1<<20))
	rt := quiet()
	if _, err := execute(t, rt, &writer{}, newJob(t, dir)); err != nil {
		t.Fatal(err)
	}
	if n := rt.Stats().Heartbeats; n < 50 {
		t.Errorf("%d heartbeats in a file of 5 MiB, want 50 at least", n)
	}
}

func TestReadStopsWhenCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("that will do")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(10*time.Second+1, func() { cancel(cause) })
		file := &slow{1000}
		err := quiet().Run(ctx, activity.Options{HeartbeatTimeout: beat}, func(ctx activity.Context) error {
			_, err := io.Copy(io.Discard, reader{ctx, file})
			return err
		})
		if !errors.Is(err, cause) || file.left != 1000-11 {
			t.Errorf("error %v after %d bytes, want %v after 11", err, 1000-file.left, cause)
		}
	})
}

func TestLine(t *testing.T) {
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
