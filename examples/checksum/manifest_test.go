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

// fiveFiles makes files and the progress that a run over all of them ends with.
func fiveFiles(t *testing.T) (files []string, whole progress) {
	t.Helper()
	dir := t.TempDir()
	for i := range 5 {
		file, content := filepath.Join(dir, fmt.Sprintf("file%d", i)), strings.Repeat("x", 100*i)
		write(t, file, content)
		files = append(files, file)
		l := line(sum(content), file)
		whole.Length += int64(len(l))
		whole.Lines = crc64.Update(whole.Lines, crcTable, []byte(l))
		whole.Bytes += int64(100 * i)
	}
	whole.Next, whole.Files = len(files), fingerprint(files)
	return files, whole
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

func newJob(t *testing.T) *job {
	return &job{manifest: filepath.Join(t.TempDir(), "SUMS"), say: t.Logf}
}

func quiet() *activity.Runtime {
	return activity.New(activity.Config{Logger: slog.New(slog.DiscardHandler)})
}

func execute(t *testing.T, rt *activity.Runtime, j *job, files []string) (progress, error) {
	j.files = files
	return activity.Execute(t.Context(), rt, activity.Options{HeartbeatTimeout: beat}, j.write, struct{}{})
}

// plain is the manifest of an undisturbed run.
func plain(t *testing.T, files []string) string {
	t.Helper()
	j := newJob(t)
	if _, err := execute(t, quiet(), j, files); err != nil {
		t.Fatal(err)
	}
	return read(t, j.manifest)
}

func TestStallAtEachFile(t *testing.T) {
	files, whole := fiveFiles(t)
	want := plain(t, files)
	for n := range files {
		for _, wake := range []time.Duration{time.Nanosecond, time.Hour} { // amid the next attempt, and after all
			synctest.Test(t, func(t *testing.T) {
				j, rt, start := newJob(t), quiet(), time.Now()
				j.trouble.stallAt, j.trouble.stallFor = n+1, wake
				p, err := execute(t, rt, j, files)
				if p != whole || err != nil {
					t.Errorf("stall at %d: progress %+v, error %v, want %+v", n+1, p, err, whole)
				}
				if took := time.Since(start); took != beat {
					t.Errorf("stall at %d: the run took %s, want %s: the next attempt starts at once", n+1, took, beat)
				}
				time.Sleep(2 * time.Hour)
				if s := rt.Stats(); s.Attempts != 2 || s.Timeouts != 1 || s.Abandoned != 0 {
					t.Errorf("stall at %d: %+v, want 2 attempts, 1 timeout, and the function returned", n+1, s)
				}
				if diff := cmp.Diff(want, read(t, j.manifest)); diff != "" {
					t.Errorf("stall at %d, woken after %s: manifest (-plain +this):\n%s", n+1, wake, diff)
				}
			})
		}
	}
}

func TestFailAtEachFile(t *testing.T) {
	files, whole := fiveFiles(t)
	want := plain(t, files)
	for n := range files {
		synctest.Test(t, func(t *testing.T) {
			j, rt := newJob(t), quiet()
			j.trouble.failAt = n + 1
			p, err := execute(t, rt, j, files)
			if p != whole || err != nil {
				t.Errorf("fail at %d: progress %+v, error %v, want %+v", n+1, p, err, whole)
			}
			if s := rt.Stats(); s.Attempts != 2 {
				t.Errorf("fail at %d: %d attempts, want 2", n+1, s.Attempts)
			}
			if diff := cmp.Diff(want, read(t, j.manifest)); diff != "" {
				t.Errorf("fail at %d: manifest (-plain +this):\n%s", n+1, diff)
			}
		})
	}
}

// A file that cannot be read is counted once, although its attempt stalls.
func TestVanishedFile(t *testing.T) {
	files, whole := fiveFiles(t)
	lines := strings.SplitAfter(plain(t, files), "\n")
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	whole.Unread++
	whole.Bytes -= 200
	whole.Length -= int64(len(lines[2]))
	want := strings.Join(append(lines[:2:2], lines[3:]...), "")
	whole.Lines, whole.Files = crc64.Checksum([]byte(want), crcTable), fingerprint(files)
	synctest.Test(t, func(t *testing.T) {
		j, said := newJob(t), make(chan string, 10)
		j.say = func(format string, args ...any) { said <- fmt.Sprintf(format, args...) }
		j.trouble.stallAt, j.trouble.stallFor = 3, time.Minute
		p, err := execute(t, quiet(), j, files)
		if p != whole || err != nil {
			t.Errorf("progress %+v, error %v, want %+v", p, err, whole)
		}
		time.Sleep(time.Hour)
		if diff := cmp.Diff(want, read(t, j.manifest)); diff != "" {
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
	files, _ := fiveFiles(t)
	synctest.Test(t, func(t *testing.T) {
		j, rt := newJob(t), quiet()
		j.trouble.stallAt, j.trouble.stallFor = 3, time.Minute
		done := make(chan error)
		go func() {
			_, err := execute(t, rt, j, files)
			done <- err
		}()
		synctest.Wait() // it hangs
		if err := os.Truncate(j.manifest, 10); err != nil {
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
	file := filepath.Join(t.TempDir(), "large")
	write(t, file, strings.Repeat("large", 1<<20))
	rt := quiet()
	if _, err := execute(t, rt, newJob(t), []string{file}); err != nil {
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
