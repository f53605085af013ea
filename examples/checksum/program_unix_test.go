//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// TestMain makes the test binary the program as well, so that all tests find checksum
// on their PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"checksum": main})
}

// The whole program, as a user runs it. A heartbeat timeout is short only where a stall
// is wanted, and there the number of attempts is not checked, because a slow machine may
// add stalls.
func TestProgram_Scripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: script.Setup, Cmds: script.Commands, RequireExplicitExec: true})
}

// The tests below are not scripts, because they need names that are not UTF-8, another
// user, a table, or random moments.

const noStall = "-heartbeat-timeout=1h"

// A result is how a run ended.
type result struct {
	code           int // -1: it was killed
	stdout, stderr string
}

func command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("checksum", args...)
	cmd.Dir = dir
	return cmd
}

// finish runs cmd, and kills it if it has not finished after d.
func finish(t *testing.T, cmd *exec.Cmd, d time.Duration) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(d, func() { cmd.Process.Kill() }).Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

const never = time.Duration(math.MaxInt64)

// exits runs the program in dir, without stalls. It must exit with code.
func exits(t *testing.T, dir string, code int, args ...string) result {
	t.Helper()
	r := finish(t, command(dir, append([]string{noStall}, args...)...), never)
	if r.code != code {
		t.Fatalf("checksum %q: exit code %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
	}
	return r
}

func (r result) wants(t *testing.T, stdout, stderr string) {
	t.Helper()
	if !regexp.MustCompile(stdout).MatchString(r.stdout) {
		t.Errorf("stdout does not match %s:\n%s", stdout, r.stdout)
	}
	if !regexp.MustCompile(stderr).MatchString(r.stderr) {
		t.Errorf("stderr does not match %s:\n%s", stderr, r.stderr)
	}
}

// tree makes a directory with the scripts' tree in it, and returns both it and the
// tree's manifest.
func tree(t *testing.T) (dir, want string) {
	t.Helper()
	dir = t.TempDir()
	want, err := script.Tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, want
}

// line returns a manifest's line of a file whose name needs no escape.
func line(content, name string) string {
	return fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(content)), name)
}

// check compares the manifest in dir with want, and has sha256sum check it.
func check(t *testing.T, dir, name, want string) {
	t.Helper()
	if diff := cmp.Diff(want, script.ReadFile(t, filepath.Join(dir, name))); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if _, err := exec.LookPath("sha256sum"); err != nil {
		t.Log("there is no sha256sum here to check the manifest with")
		return
	}
	cmd := exec.Command("sha256sum", "-c", name)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sha256sum -c: %v\n%s", err, out)
	}
}

func noCheckpoint(t *testing.T, path string) {
	t.Helper()
	if found, err := filepath.Glob(manifest.CheckpointFile(path) + "*"); len(found) > 0 || err != nil {
		t.Errorf("left behind: %q, error %v", found, err)
	}
}

// Given names that are hard to quote, when their files are hashed, then the lines are
// those of sha256sum.
func TestProgram_OddNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var names []string
	for _, name := range []string{"-", "-n", " lead", "*star", "trail ", `b\s`, `\`, "n\nl", "\n", "c\rr", "trail\r", "#", "ü", "bad\xff", strings.Repeat("long", 60)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Logf("%q cannot be a name here: %v", name, err)
			continue
		}
		names = append(names, name)
	}
	exits(t, dir, 0, "-fail=5", ".")
	got := script.ReadFile(t, filepath.Join(dir, "SHA256SUMS"))
	check(t, dir, "SHA256SUMS", got)
	if n := strings.Count(got, "\n"); n != len(names) {
		t.Errorf("%d lines for %d files", n, len(names))
	}

	// From version 9 on, sha256sum escapes \r.
	if version, err := exec.Command("sha256sum", "--version").Output(); err != nil || !regexp.MustCompile(`GNU coreutils\) (9|\d\d)\.`).Match(version) {
		t.Skip("there is no such sha256sum here to compare with")
	}
	slices.Sort(names)
	for i, name := range names {
		if name == "-" {
			names[i] = "./-"
		}
	}
	cmd := exec.Command("sha256sum", append([]string{"--"}, names...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(out), got); diff != "" {
		t.Errorf("manifest (-sha256sum's +ours):\n%s", diff)
	}
}

// Given files, a manifest and a directory without permissions, when the program needs
// them, then it names them, and exits with 1. Because root may do everything, root runs
// it as nobody.
func TestProgram_Unreadable(t *testing.T) {
	t.Parallel()
	dir, want := tree(t)
	bin, err := exec.LookPath("checksum")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, filepath.Dir(dir), filepath.Dir(bin), filepath.Dir(filepath.Dir(bin))} {
		if err := os.Chmod(d, 0o755); err != nil { // so that nobody may enter
			t.Fatal(err)
		}
	}
	for _, name := range []string{"tree/a.b", "tree/b"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	defer os.Chmod(filepath.Join(dir, "tree/b"), 0o755)
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	script.WriteFile(t, filepath.Join(out, "locked"), "as it was\n")
	if err := os.Chmod(filepath.Join(out, "locked"), 0o444); err != nil {
		t.Fatal(err)
	}
	unread := command(dir, noStall, "-workers=1", "-fail=5", "-o=out/SUMS", "tree")
	lockedFile := command(dir, noStall, "-o=out/locked", "tree")
	lockedDir := command(dir, noStall, "-o=locked", "tree")
	if os.Getuid() == 0 {
		nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		unread.SysProcAttr, lockedFile.SysProcAttr, lockedDir.SysProcAttr = nobody, nobody, nobody
		if err := os.Chown(out, 65534, 65534); err != nil {
			t.Skip("root cannot have an unreadable file, and cannot be somebody else here:", err)
		}
		probe := command(dir, "-h")
		probe.SysProcAttr = nobody
		if err := probe.Run(); err != nil {
			t.Skip("root cannot have an unreadable file, and nobody cannot run the program:", err)
		}
	} else if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)

	r := finish(t, unread, never)
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	r.wants(t, `out/SUMS: 5 files, .*attempts: 2\n`, `(?s)checksum: tree/b: permission denied\n.*checksum: tree/a\.b: permission denied\n.*WARNING: 2 files or directories could not be read`)
	check(t, dir, "out/SUMS", regexp.MustCompile(`(?m)^.*  tree/(a\.b|b/c/3)\n`).ReplaceAllString(want, ""))

	r = finish(t, lockedFile, never)
	if r.code != 1 {
		t.Errorf("a manifest that may not be written: exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: out/locked: permission denied\nchecksum: gave up in attempt 1 \(non-retryable failure\), at the start\n$`)
	if got := script.ReadFile(t, filepath.Join(out, "locked")); got != "as it was\n" {
		t.Errorf("a manifest that may not be written was: %q", got)
	}
	noCheckpoint(t, filepath.Join(out, "locked"))

	r = finish(t, lockedDir, never)
	if r.code != 1 {
		t.Errorf("a directory that may not be written: exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `^(.*permission denied\n)?checksum: cannot keep a checkpoint beside locked: .*locked\.checkpoint.*: permission denied\n$`)
}

// Given an interrupted run, and files or a manifest that then change, when the next run
// has finished, then the manifest is that of a run from the start.
func TestProgram_ChangesBetweenRuns(t *testing.T) {
	t.Parallel()
	const (
		resumes = `^checksum: resuming at file 5 of %d, tree/\S+\n`
		changed = `^checksum: the 4 files that are done are not those of the previous run, or have changed; starting over\nchecksum: 1 of %d files\n`
		anew    = `^checksum: 1 of %d files\n`
	)
	for name, c := range map[string]struct {
		change func(dir string) error
		args   string
		files  int
		stderr string
	}{
		"Nothing":   {nil, "tree", 7, resumes},
		"FileAfter": {func(dir string) error { return os.WriteFile(dir+"/tree/z", nil, 0o644) }, "tree", 8, resumes},
		"NoneAfter": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/tree/b"), os.Remove(dir+"/tree/empty"), os.Remove(dir+"/tree/large"))
		}, "tree", 4, `^checksum: resuming at the end\n`},
		"FileBefore":  {func(dir string) error { return os.WriteFile(dir+"/tree/a/0", nil, 0o644) }, "tree", 8, changed},
		"FileGone":    {func(dir string) error { return os.Remove(dir + "/tree/a/1") }, "tree", 6, changed},
		"FileRenamed": {func(dir string) error { return os.Rename(dir+"/tree/a/1", dir+"/tree/a/10") }, "tree", 7, changed},
		"FileLonger": {func(dir string) error {
			return os.WriteFile(dir+"/tree/a/1", []byte("longer than it was before"), 0o644)
		}, "tree", 7, changed},
		"FileTouched": {func(dir string) error { return os.Chtimes(dir+"/tree/a/1", time.Time{}, time.Unix(1, 0)) }, "tree", 7, changed},
		"FileMode":    {func(dir string) error { return os.Chmod(dir+"/tree/a/1", 0o600) }, "tree", 7, changed},
		"OtherDir":    {nil, "tree/b", 1, changed},
		"DirBefore":   {nil, "tree/b tree", 8, changed},
		"DirAfter":    {nil, "tree tree/b", 8, resumes},
		"Longer":      {func(dir string) error { return appendTo(dir+"/SHA256SUMS", "half a li") }, "tree", 7, resumes},
		"Shorter":     {func(dir string) error { return os.Truncate(dir+"/SHA256SUMS", 200) }, "tree", 7, resumes},
		"Gone":        {func(dir string) error { return os.Remove(dir + "/SHA256SUMS") }, "tree", 7, resumes},
		"Edited":      {func(dir string) error { return os.WriteFile(dir+"/SHA256SUMS", bytes.Repeat([]byte("x"), 1000), 0o644) }, "tree", 7, resumes},
		"SumsShorter": {func(dir string) error { return os.Truncate(dir+"/SHA256SUMS.checkpoint.sums", 100) }, "tree", 7, changed},
		"SumsGone":    {func(dir string) error { return os.Remove(dir + "/SHA256SUMS.checkpoint.sums") }, "tree", 7, changed},
		"SumsEdited": {func(dir string) error {
			return os.WriteFile(dir+"/SHA256SUMS.checkpoint.sums", bytes.Repeat([]byte("x"), 1000), 0o644)
		}, "tree", 7, changed},
		"NoCheckpoint": {func(dir string) error { return os.Remove(dir + "/SHA256SUMS.checkpoint") }, "tree", 7, anew},
		"EmptyStore":   {func(dir string) error { return os.Truncate(dir+"/SHA256SUMS.checkpoint", 0) }, "tree", 7, anew},
	} {
		for _, workers := range []string{"-workers=1", "-workers=4"} {
			t.Run(name+workers, func(t *testing.T) {
				t.Parallel()
				dir, _ := tree(t)
				interruptAt5(t, dir, workers)
				if c.change != nil {
					if err := c.change(dir); err != nil {
						t.Fatal(err)
					}
				}
				stderr := c.stderr
				if strings.Contains(stderr, "%d") {
					stderr = fmt.Sprintf(stderr, c.files)
				}
				if workers != "-workers=1" {
					stderr = "" // what was done when the run was interrupted varies
				}
				args := strings.Fields(c.args)
				exits(t, dir, 0, append([]string{workers}, args...)...).wants(t, fmt.Sprintf("^SHA256SUMS: %d files, ", c.files), stderr)
				noCheckpoint(t, filepath.Join(dir, "SHA256SUMS"))
				exits(t, dir, 0, append([]string{"-o=whole"}, args...)...)
				check(t, dir, "SHA256SUMS", script.ReadFile(t, filepath.Join(dir, "whole")))
			})
		}
	}
}

// interruptAt5 interrupts a run that hangs at file 5.
func interruptAt5(t *testing.T, dir, workers string) {
	t.Helper()
	cmd := command(dir, noStall, workers, "-stall=5", "-stall-for=1ns", "tree")
	said := make(chan string, 1000)
	cmd.Stderr = says(said)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(<-said, "hanging at file") {
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Fatalf("exit code %d, want 130", code)
	}
}

// says is a Writer to a channel.
type says chan<- string

func (s says) Write(b []byte) (int, error) {
	s <- string(b)
	return len(b), nil
}

func appendTo(file, content string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// Given a sums file that cannot be synced, when a checkpoint is saved, then the Save
// fails, and the checkpoint is not in the store. A device cannot be synced.
func TestStore_SyncsSumsBeforeCheckpoint(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("that /dev/null cannot be synced is known of Linux only")
	}
	s, err := openStore(filepath.Join(t.TempDir(), "SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	batch := []activity.Checkpoint{{ID: id, State: activity.CheckpointRunning}}
	sums := manifest.SumsFile(s.manifest)
	if err := os.Symlink("/dev/null", sums); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), batch); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Save beside sums that cannot be synced: error %v, want %v", err, syscall.EINVAL)
	}
	if _, found, err := s.Load(t.Context(), id); found || err != nil {
		t.Errorf("the checkpoint is there, or error %v", err)
	}
	if err := os.Remove(sums); err != nil {
		t.Fatal(err)
	}
	script.WriteFile(t, sums, "a sum")
	if err := s.Save(t.Context(), batch); err != nil {
		t.Error(err)
	}
	if _, found, err := s.Load(t.Context(), id); !found || err != nil {
		t.Errorf("the checkpoint is not there, error %v", err)
	}
}

var (
	kills = flag.Int("kills", 12, "how often TestProgram_KilledAtRandom kills the program")
	seed  = flag.Uint64("seed", rand.Uint64(), "of the moments at which TestProgram_KilledAtRandom kills it")
)

// Given a program that is killed at random moments, when it is started again until it
// has finished, each time with another number of workers, then it never starts over, and
// never resumes after the lines that the manifest has.
func TestProgram_KilledAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("hashes files for some seconds")
	}
	t.Parallel()
	const files = 500
	dir := t.TempDir()
	content := strings.Repeat("a long file.", 100_000)
	script.WriteFile(t, filepath.Join(dir, "file"), content)
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := ""
	for i := range files {
		name := fmt.Sprintf("tree/%03d", i)
		if err := os.Link(filepath.Join(dir, "file"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		want += line(content, name)
	}
	start := time.Now()
	exits(t, dir, 0, "-o=whole", "tree")
	took := time.Since(start)
	if diff := cmp.Diff(want, script.ReadFile(t, filepath.Join(dir, "whole"))); diff != "" {
		t.Fatalf("the manifest of one run (-want +got):\n%s", diff)
	}

	t.Logf("-seed=%d", *seed)
	moments := rand.New(rand.NewPCG(*seed, 0))
	sums := filepath.Join(dir, "tree/SUMS") // it and the checkpoint are among the files
	killed, resumed, usedUp := 0, 0, 0
	for killed < *kills || resumed == 0 {
		at, lines := 1, 0 // the file at which the previous run resumed, and the lines that it left
		for done := false; !done; {
			if killed > 10**kills {
				t.Fatalf("killed %d times, and it resumed %d times", killed, resumed)
			}
			if lines == files {
				at = 1 // it may have been killed after the checkpoint was removed
			}
			moment := never
			if killed < *kills || resumed == 0 {
				moment = time.Duration(moments.Int64N(int64(took)))
			}
			workers := fmt.Sprint("-workers=", 1+moments.IntN(6))
			r := finish(t, command(dir, noStall, workers, "-o=tree/SUMS", "tree"), moment)
			switch {
			case r.code == -1:
				killed++
			case r.code == 0:
				done = true
			case r.code == 1 && strings.Contains(r.stderr, "maximum attempts reached"): // killed five times at one file
				usedUp++
			default:
				t.Fatalf("exit code %d:\n%s", r.code, r.stderr)
			}
			if m := resuming.FindStringSubmatch(r.stderr); m != nil {
				resumed++
				next := files + 1
				if m[1] != "" {
					fmt.Sscan(m[1], &next)
				}
				if next < at || next > lines+1 {
					t.Fatalf("resumed at file %d, although the previous run did at %d, and left %d lines", next, at, lines)
				}
				at = next
			}
			now, err := os.ReadFile(sums)
			if err != nil && !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(want, string(now)) {
				t.Fatalf("the manifest is none, error %v (-want +got):\n%s", err, cmp.Diff(want, string(now)))
			}
			if lines = bytes.Count(now, []byte("\n")); lines < at-1 {
				t.Fatalf("the manifest has %d lines, although a run resumed at file %d", lines, at)
			}
		}
		if diff := cmp.Diff(want, script.ReadFile(t, sums)); diff != "" {
			t.Fatalf("manifest (-one run's +this):\n%s", diff)
		}
		// A kill while boltstore creates its file can leave one beside it, as its documentation says.
		unfinished, _ := filepath.Glob(manifest.CheckpointFile(sums) + ".new*")
		for _, f := range unfinished {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		noCheckpoint(t, sums)
		if err := os.Remove(sums); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times, resumed %d times, gave up %d times", killed, resumed, usedUp)
}

var resuming = regexp.MustCompile(`checksum: resuming at (?:the end|file (\d+) of)`)

// Given a disk that is full after the second attempt has got further than the first,
// when five more attempts get no further, then the program gives up, and a later run
// resumes. A limit on the size of files, within which the checkpoint stays, stands for
// the disk.
func TestProgram_FullDisk(t *testing.T) {
	t.Parallel()
	dir, want := tree(t)
	bin, err := exec.LookPath("checksum")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -f 128 || exit 99; exec "$0" "$@"`, bin, noStall, "-workers=1", "-fail=2", "tree")
	cmd.Dir = dir
	if err := os.Mkdir(filepath.Join(dir, "tree/z"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		name := fmt.Sprintf("tree/z/%03d%s", i, strings.Repeat("z", 200))
		script.WriteFile(t, filepath.Join(dir, name), "")
		want += line("", name)
	}
	r := finish(t, cmd, never)
	if r.code == 99 {
		t.Skip("this shell cannot limit the size of files")
	}
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: SHA256SUMS: file too large\nchecksum: gave up in attempt 6 \(maximum attempts reached\), at file \d+ of 1007, .*\nchecksum: SHA256SUMS has the first \d+ of 1007 files; run the same command to continue\n$`)
	place := regexp.MustCompile(`gave up .*, at (file \d+ of 1007, \S+)`).FindStringSubmatch(r.stderr)
	exits(t, dir, 0, "tree").wants(t, "attempts: 1\n$", "^checksum: resuming at "+place[1]+"\n")
	check(t, dir, "SHA256SUMS", want)
}
