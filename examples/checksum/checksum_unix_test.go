//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// The whole program, as a user runs it. A stall that a slow machine adds must
// not matter: timeouts are short only where a stall is wanted, and then nothing
// is said about how many there are.

const (
	noStall = "-heartbeat-timeout=1h"
	short   = "-heartbeat-timeout=300ms"
)

func TestProgram(t *testing.T) {
	p := build(t)
	for name, test := range map[string]func(*testing.T, program){
		"Plain": testPlain, "DefaultDir": testDefaultDir, "Stall": testStall, "LateWaker": testLateWaker, "Fail": testFail, "StallAndFail": testStallAndFail,
		"OddNames": testOddNames, "Unreadable": testUnreadable, "TwoDirs": testTwoDirs, "Interrupt": testInterrupt,
		"FullDisk": testFullDisk, "Refused": testRefused, "Terminal": testTerminal,
		"Kill": testKill, "GoesOn": testGoesOn, "KeepsDying": testKeepsDying, "InUse": testInUse,
		"DamagedCheckpoint": testDamagedCheckpoint, "StoreFails": testStoreFails,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// build is go build, with the race detector if the test has it.
func build(t *testing.T) program {
	t.Helper()
	bin := filepath.Join(open(t, t.TempDir()), "checksum")
	build := []string{"build", "-o", bin}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race")
	}
	if out, err := exec.Command("go", append(build, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("go %q: %v\n%s", build, err, out)
	}
	if t.Name() == "" { // never, but it links the program in, so that go test knows when it has changed
		main()
	}
	return program{bin}
}

type program struct{ bin string }

// A result is how a run ended.
type result struct {
	code           int
	stdout, stderr string
}

func (p program) command(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command(p.bin, args...)
	cmd.Dir = dir
	return cmd
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	return finishOrKill(t, cmd, math.MaxInt64)
}

// finishOrKill kills it if it has not finished after d.
func finishOrKill(t *testing.T, cmd *exec.Cmd, d time.Duration) result {
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

// run runs the program in dir and wants it to end with code.
func (p program) run(t *testing.T, dir string, code int, args ...string) result {
	t.Helper()
	r := finish(t, p.command(dir, args...))
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

// open lets other users into a test's directory.
func open(t *testing.T, dir string) string {
	t.Helper()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tree makes a directory with a directory tree/ of files in it, and returns it
// with their manifest.
func tree(t *testing.T) (dir, want string) {
	t.Helper()
	dir = open(t, t.TempDir())
	files := []string{"tree/-x", "tree/a/1", "tree/a/2", "tree/a.b", "tree/b/c/3", "tree/empty", "tree/large"}
	for _, file := range files {
		content := "content of " + file
		switch file {
		case "tree/empty":
			content = ""
		case "tree/large":
			content = strings.Repeat(content, 50_000)
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, file), content)
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(content)), file)
	}
	// What is not hashed.
	for link, target := range map[string]string{"to-file": "a/1", "to-dir": "a", "dangling": "nothing"} {
		if err := os.Symlink(target, filepath.Join(dir, "tree", link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "tree/pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, want
}

// check compares the manifest in dir with want and shows it to sha256sum.
func check(t *testing.T, dir, name, want string) {
	t.Helper()
	if diff := cmp.Diff(want, read(t, filepath.Join(dir, name))); diff != "" {
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

func testPlain(t *testing.T, p program) {
	dir, want := tree(t)
	p.run(t, dir, 0, noStall, "tree").wants(t, `^SHA256SUMS: 7 files, \d+ bytes, in \S+; attempts: 1\n$`, `checksum: 7 of 7 files\n`)
	check(t, dir, "SHA256SUMS", want)

	// The manifest is not in itself, nor is what a longer one had left behind.
	write(t, filepath.Join(dir, "tree/SUMS"), strings.Repeat("junk\n", 1000))
	p.run(t, dir, 0, noStall, "-o", "tree/SUMS", "tree")
	check(t, dir, "tree/SUMS", want)
	p.run(t, dir, 0, noStall, "-o", "tree/SUMS", "-v", "tree/").wants(t, "7 files", `event: attempt started, attempt 1\n(.*\n)*event: completed, attempt 1\n`)
	check(t, dir, "tree/SUMS", want)

	// A checkpoint elsewhere is a file like others.
	write(t, filepath.Join(dir, "tree/a/SUMS.checkpoint"), "")
	p.run(t, dir, 0, noStall, "-o", "tree/SUMS", "tree").wants(t, "SUMS: 8 files", "")
	if err := os.Remove(filepath.Join(dir, "tree/a/SUMS.checkpoint")); err != nil {
		t.Fatal(err)
	}

	// Many files are not many lines.
	for i := range 1000 {
		write(t, filepath.Join(dir, fmt.Sprintf("tree/a/many%d", i)), "")
	}
	r := p.run(t, dir, 0, noStall, "tree")
	if n := strings.Count(r.stderr, "\n"); n > 10 {
		t.Errorf("%d lines for 1007 files, want 10 at most:\n%s", n, r.stderr)
	}

	if err := os.Mkdir(filepath.Join(dir, "none"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.run(t, dir, 0, noStall, "none").wants(t, "^SHA256SUMS: 0 files, 0 bytes", "^$")
	if got := read(t, filepath.Join(dir, "SHA256SUMS")); got != "" {
		t.Errorf("manifest of no files: %q", got)
	}
}

// The recovery must be from a stall that was wanted, whatever else happened.
func testDefaultDir(t *testing.T, p program) {
	if testing.Short() {
		t.Skip("hashes all of Go's source")
	}
	dir := t.TempDir()
	r := p.run(t, dir, 0, "-heartbeat-timeout=2s", "-stall=500")
	r.wants(t, `recovered: attempt \d+ stalled, without a heartbeat for 2s, at file 500 of \d+, \S+; attempt \d+ went on from there, \S+ later\n`, "hanging at file 500")
	stalled := read(t, filepath.Join(dir, "SHA256SUMS"))
	if n := strings.Count(stalled, "\n"); n < 1000 {
		t.Errorf("%d files in Go's source?", n)
	}
	p.run(t, dir, 0, noStall)
	if got := read(t, filepath.Join(dir, "SHA256SUMS")); got != stalled {
		t.Error("the manifests with and without a stall differ")
	}
}

func testStall(t *testing.T, p program) {
	dir, want := tree(t)
	for _, n := range []int{1, 4, 7} {
		recovered := fmt.Sprintf(`attempt \d+ stalled, without a heartbeat for 300ms, at file %d of 7, tree/\S+; attempt \d+ went on from there, \S+ later\n`, n)
		p.run(t, dir, 0, short, fmt.Sprint("-stall=", n), "tree").wants(t, `attempts: \d+\n(.*\n)*recovered: `+recovered, `checksum: `+recovered)
		check(t, dir, "SHA256SUMS", want)
	}
}

// The program waits for the late waker: when it ends, the harm would be done.
func testLateWaker(t *testing.T, p program) {
	dir, want := tree(t)
	for _, wake := range []string{"1ns", "1s"} { // amid the next attempt, and after all
		for _, n := range []int{1, 4, 7} {
			p.run(t, dir, 0, short, fmt.Sprint("-stall=", n), "-stall-for", wake, "tree").
				wants(t, fmt.Sprintf("recovered: attempt .* stalled, .* at file %d of 7", n), `checksum: attempt \d+ woke up too late, and was kept from writing\n`)
			check(t, dir, "SHA256SUMS", want)
		}
	}
}

func testFail(t *testing.T, p program) {
	dir, want := tree(t)
	for _, n := range []int{1, 4, 7} {
		p.run(t, dir, 0, noStall, fmt.Sprint("-fail=", n), "tree").
			wants(t, fmt.Sprintf(`attempts: 2\nrecovered: attempt 1 failed: an error, as -fail asks, at file %d of 7, tree/\S+; attempt 2 went on from there`, n), "")
		check(t, dir, "SHA256SUMS", want)
	}
}

func testStallAndFail(t *testing.T, p program) {
	dir, want := tree(t)
	p.run(t, dir, 0, short, "-stall=4", "-fail=4", "-v", "tree").
		wants(t, `recovered: .* stalled,(.*\n)*recovered: .* failed: an error`, `level=WARN msg="activity: attempt failed".* stack=.*strike`)
	check(t, dir, "SHA256SUMS", want)
}

func testOddNames(t *testing.T, p program) {
	dir := t.TempDir()
	var names []string
	for _, name := range []string{"-", "-n", " lead", "*star", "trail ", `b\s`, `\`, "n\nl", "\n", "c\rr", "trail\r", "#", "ü", "bad\xff", strings.Repeat("long", 60)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Logf("%q cannot be a name here: %v", name, err)
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	want := ""
	for _, name := range names {
		want += line(sum(name), name)
	}
	p.run(t, dir, 0, noStall, "-fail=5", ".")
	check(t, dir, "SHA256SUMS", want)

	// The same lines as sha256sum's own, from version 9 on, which knows of \r.
	if version, err := exec.Command("sha256sum", "--version").Output(); err != nil || !regexp.MustCompile(`GNU coreutils\) (9|\d\d)\.`).Match(version) {
		t.Skip("there is no such sha256sum here to compare with")
	}
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
	if diff := cmp.Diff(string(out), want); diff != "" {
		t.Errorf("manifest (-sha256sum's +ours):\n%s", diff)
	}
}

// Root reads everything, so for root the program runs as nobody.
func testUnreadable(t *testing.T, p program) {
	dir, want := tree(t)
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
	cmd := p.command(dir, noStall, "-fail=5", "-o=out/SUMS", "tree")
	write(t, filepath.Join(out, "locked"), "as it was\n")
	if err := os.Chmod(filepath.Join(out, "locked"), 0o444); err != nil {
		t.Fatal(err)
	}
	lockedFile := p.command(dir, noStall, "-o=out/locked", "tree")
	lockedDir := p.command(dir, noStall, "-o=locked", "tree")
	if os.Getuid() == 0 {
		nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.SysProcAttr, lockedFile.SysProcAttr, lockedDir.SysProcAttr = nobody, nobody, nobody
		if err := os.Chown(out, 65534, 65534); err != nil {
			t.Skip("root cannot have an unreadable file, and cannot be somebody else here:", err)
		}
		probe := p.command(dir, "-h")
		probe.SysProcAttr = nobody
		if err := probe.Run(); err != nil {
			t.Skip("root cannot have an unreadable file, and nobody cannot run the program:", err)
		}
	} else if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)

	r := finish(t, cmd)
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	r.wants(t, `out/SUMS: 5 files, .*attempts: 2\n`, `(?s)checksum: tree/b: permission denied\n.*checksum: tree/a\.b: permission denied\n.*WARNING: 2 files or directories could not be read`)
	want = regexp.MustCompile(`(?m)^.*  tree/(a\.b|b/c/3)\n`).ReplaceAllString(want, "")
	check(t, dir, "out/SUMS", want)

	r = finish(t, lockedFile)
	if r.code != 1 {
		t.Errorf("a manifest that may not be written: exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: out/locked: permission denied\nchecksum: gave up in attempt 1 \(non-retryable failure\), at file 1 of 6, tree/-x\n$`)
	if got := read(t, filepath.Join(out, "locked")); got != "as it was\n" {
		t.Errorf("a manifest that may not be written was: %q", got)
	}
	noCheckpoint(t, filepath.Join(out, "locked"))

	r = finish(t, lockedDir)
	if r.code != 1 {
		t.Errorf("a folder that may not be written: exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `^(.*permission denied\n)?checksum: cannot keep a checkpoint beside locked: .*locked\.checkpoint.*: permission denied\n$`)
}

func testTwoDirs(t *testing.T, p program) {
	dir, want := tree(t)
	if err := os.Symlink("tree/b", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	var under, beside string // tree/a, and tree/b as link
	for l := range strings.Lines(want) {
		if strings.Contains(l, "  tree/a/") {
			under += l
		} else if strings.Contains(l, "  tree/b/") {
			beside += strings.Replace(l, "tree/b", "link", 1)
		}
	}
	p.run(t, dir, 0, noStall, "-fail=2", "link", "./tree//a/").wants(t, "3 files", "")
	check(t, dir, "SHA256SUMS", beside+under)
}

// hang starts the program, which must be told to hang, and waits until it does.
func (p program) hang(t *testing.T, dir string, args ...string) *hanging {
	t.Helper()
	h := &hanging{cmd: p.command(dir, args...)}
	h.cmd.Stdout = &h.stdout
	stderr, err := h.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.cmd.Process.Kill() })
	h.stderr = bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "hanging at file"); {
		if line, err = h.stderr.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

type hanging struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr *bufio.Reader
}

// end sends sig, and returns what was said after the hang.
func (h *hanging) end(t *testing.T, sig os.Signal) result {
	t.Helper()
	if err := h.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(h.stderr)
	if err != nil {
		t.Fatal(err)
	}
	h.cmd.Wait()
	return result{h.cmd.ProcessState.ExitCode(), h.stdout.String(), string(rest)}
}

func noCheckpoint(t *testing.T, manifest string) {
	t.Helper()
	if found, err := filepath.Glob(storeFile(manifest) + "*"); len(found) > 0 || err != nil {
		t.Errorf("left behind: %q, error %v", found, err)
	}
}

// The stall makes sure that the signal comes in the middle.
func testInterrupt(t *testing.T, p program) {
	dir, want := tree(t)
	r := p.hang(t, dir, noStall, "-stall=4", "tree").end(t, os.Interrupt)
	if r.code != 130 {
		t.Errorf("exit code %d, want 130", r.code)
	}
	r.wants(t, "^$", `(?m)^checksum: interrupted\nchecksum: SHA256SUMS is left with the first 3 of 7 files; run the same command to go on\n`)
	check(t, dir, "SHA256SUMS", strings.Join(strings.SplitAfter(want, "\n")[:3], ""))
	if info, err := os.Stat(filepath.Join(dir, "SHA256SUMS.checkpoint")); err != nil || info.Mode() != 0o600 {
		t.Errorf("checkpoint: %v, error %v, want one for its owner only", info, err)
	}

	p.run(t, dir, 0, noStall, "tree").wants(t, "^SHA256SUMS: 7 files, .*attempts: 1\n$", `^checksum: going on with file 4 of 7, tree/a\.b\n`)
	check(t, dir, "SHA256SUMS", want)
	noCheckpoint(t, filepath.Join(dir, "SHA256SUMS"))

	// What is finished is not gone on with.
	p.run(t, dir, 0, noStall, "tree").wants(t, "^SHA256SUMS: 7 files, ", `^checksum: 1 of 7 files\n`)
	check(t, dir, "SHA256SUMS", want)
}

// Whatever becomes of the files and the manifest while nothing runs, the next run
// ends with the manifest of one that starts from the beginning.
func testGoesOn(t *testing.T, p program) {
	const (
		goesOn   = `^checksum: going on with file 5 of %d, tree/\S+\n`
		changed  = `^checksum: the first 4 files are not those of the run before, or have changed; starting over\nchecksum: 1 of %d files\n`
		tampered = `^checksum: SHA256SUMS is not as it was written: somebody else has changed it; starting over\nchecksum: 1 of %d files\n`
	)
	for name, c := range map[string]struct {
		change func(dir string) error
		args   string
		files  int
		stderr string
	}{
		"Nothing":   {nil, "tree", 7, goesOn},
		"FileAfter": {func(dir string) error { return os.WriteFile(dir+"/tree/z", nil, 0o644) }, "tree", 8, goesOn},
		"NoneAfter": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir+"/tree/b"), os.Remove(dir+"/tree/empty"), os.Remove(dir+"/tree/large"))
		}, "tree", 4, `^checksum: going on with the end\n$`},
		"FileBefore":  {func(dir string) error { return os.WriteFile(dir+"/tree/a/0", nil, 0o644) }, "tree", 8, changed},
		"FileGone":    {func(dir string) error { return os.Remove(dir + "/tree/a/1") }, "tree", 6, changed},
		"FileRenamed": {func(dir string) error { return os.Rename(dir+"/tree/a/1", dir+"/tree/a/10") }, "tree", 7, changed},
		"FileLonger": {func(dir string) error {
			return os.WriteFile(dir+"/tree/a/1", []byte("longer than it was before"), 0o644)
		}, "tree", 7, changed},
		"FileTouched":  {func(dir string) error { return os.Chtimes(dir+"/tree/a/1", time.Time{}, time.Unix(1, 0)) }, "tree", 7, changed},
		"FileMode":     {func(dir string) error { return os.Chmod(dir+"/tree/a/1", 0o600) }, "tree", 7, changed},
		"OtherDir":     {nil, "tree/b", 1, changed},
		"DirBefore":    {nil, "tree/b tree", 8, changed},
		"DirAfter":     {nil, "tree tree/b", 8, goesOn},
		"Longer":       {func(dir string) error { return appendTo(dir+"/SHA256SUMS", "half a li") }, "tree", 7, goesOn},
		"Shorter":      {func(dir string) error { return os.Truncate(dir+"/SHA256SUMS", 200) }, "tree", 7, tampered},
		"Gone":         {func(dir string) error { return os.Remove(dir + "/SHA256SUMS") }, "tree", 7, tampered},
		"Edited":       {func(dir string) error { return os.WriteFile(dir+"/SHA256SUMS", bytes.Repeat([]byte("x"), 1000), 0o644) }, "tree", 7, tampered},
		"NoCheckpoint": {func(dir string) error { return os.Remove(dir + "/SHA256SUMS.checkpoint") }, "tree", 7, `^checksum: 1 of %d files\n`},
		"EmptyStore":   {func(dir string) error { return os.Truncate(dir+"/SHA256SUMS.checkpoint", 0) }, "tree", 7, `^checksum: 1 of %d files\n`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := tree(t)
			if r := p.hang(t, dir, noStall, "-stall=5", "-stall-for=1ns", "tree").end(t, os.Interrupt); r.code != 130 {
				t.Fatalf("exit code %d, want 130:\n%s", r.code, r.stderr)
			}
			if c.change != nil {
				if err := c.change(dir); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{noStall}, strings.Fields(c.args)...)
			stderr := c.stderr
			if strings.Contains(stderr, "%d") {
				stderr = fmt.Sprintf(stderr, c.files)
			}
			p.run(t, dir, 0, args...).wants(t, fmt.Sprintf("^SHA256SUMS: %d files, ", c.files), stderr)
			noCheckpoint(t, filepath.Join(dir, "SHA256SUMS"))
			p.run(t, dir, 0, append([]string{"-o=whole"}, args...)...)
			check(t, dir, "SHA256SUMS", read(t, filepath.Join(dir, "whole")))
		})
	}
}

func appendTo(file, content string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Close())
}

// After five attempts at the same file that end the process it gives up, and the
// next run goes on all the same.
func testKeepsDying(t *testing.T, p program) {
	dir, want := tree(t)
	p.hang(t, dir, noStall, "-stall=4", "-stall-for=1ns", "tree").end(t, os.Interrupt)
	for range 5 {
		p.hang(t, dir, noStall, "-stall=4", "tree").end(t, os.Kill)
	}
	const place = `file 4 of 7, tree/a\.b\n`
	p.run(t, dir, 1, noStall, "tree").wants(t, "^$", `^checksum: going on with `+place+`checksum: the process ended during attempt 5\n`+
		`checksum: gave up in attempt 5 \(maximum attempts reached\), at `+place+`checksum: SHA256SUMS is left with the first 3 of 7 files; run the same command to go on\n$`)
	p.run(t, dir, 0, noStall, "tree").wants(t, "attempts: 1\n$", `^checksum: going on with `+place)
	check(t, dir, "SHA256SUMS", want)
}

func testInUse(t *testing.T, p program) {
	dir, want := tree(t)
	first := p.hang(t, dir, noStall, "-stall=4", "-stall-for=1ns", "tree")
	p.run(t, dir, 1, noStall, "tree").wants(t, "^$", `^checksum: cannot keep a checkpoint beside SHA256SUMS: boltstore: SHA256SUMS\.checkpoint: open: in use: another process.*\n$`)
	check(t, dir, "SHA256SUMS", strings.Join(strings.SplitAfter(want, "\n")[:3], ""))
	p.run(t, dir, 0, noStall, "-o=other", "tree")
	check(t, dir, "other", want)
	if r := first.end(t, os.Interrupt); r.code != 130 {
		t.Errorf("exit code %d, want 130", r.code)
	}
	p.run(t, dir, 0, noStall, "tree").wants(t, "", `^checksum: going on with file 4 of 7, `)
	check(t, dir, "SHA256SUMS", want)
}

// What cannot be synced, such as a device, shows that the manifest is synced.
func TestManifestIsOnDiskBeforeCheckpoint(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("knows only of Linux that /dev/null cannot be synced")
	}
	s, err := openStore(filepath.Join(t.TempDir(), "SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	batch := []activity.Checkpoint{{ID: id, State: activity.CheckpointRunning}}
	s.manifest = "/dev/null"
	if err := s.Save(t.Context(), batch); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Save of a manifest that cannot be synced: error %v, want %v", err, syscall.EINVAL)
	}
	if _, found, err := s.Load(t.Context(), id); found || err != nil {
		t.Errorf("the checkpoint is there, or error %v", err)
	}
	s.manifest = filepath.Join(t.TempDir(), "SUMS")
	write(t, s.manifest, "a line\n")
	if err := s.Save(t.Context(), batch); err != nil {
		t.Error(err)
	}
	if _, found, err := s.Load(t.Context(), id); !found || err != nil {
		t.Errorf("the checkpoint is not there, error %v", err)
	}
}

func testDamagedCheckpoint(t *testing.T, p program) {
	dir, _ := tree(t)
	p.hang(t, dir, noStall, "-stall=4", "-stall-for=1ns", "tree").end(t, os.Interrupt)
	manifest, checkpoint := filepath.Join(dir, "SHA256SUMS"), filepath.Join(dir, "SHA256SUMS.checkpoint")
	lines, damaged := read(t, manifest), strings.Repeat("damaged", 10_000)
	write(t, checkpoint, damaged)
	p.run(t, dir, 1, noStall, "tree").wants(t, "^$", `^checksum: cannot keep a checkpoint beside SHA256SUMS: boltstore: SHA256SUMS\.checkpoint: open: .*the file was left as it is.*\n$`)
	if read(t, manifest) != lines || read(t, checkpoint) != damaged {
		t.Error("the manifest or the damaged checkpoint was overwritten")
	}
}

func testStoreFails(t *testing.T, p program) {
	dir, _ := tree(t)
	h := p.hang(t, dir, noStall, "-stall=4", "-stall-for=1ns", "tree")
	if err := os.Truncate(filepath.Join(dir, "SHA256SUMS.checkpoint"), 100); err != nil {
		t.Fatal(err)
	}
	r := h.end(t, os.Interrupt)
	if r.code != 130 {
		t.Errorf("exit code %d, want 130", r.code)
	}
	r.wants(t, "^$", `level=ERROR msg="activity: the Store failed(.|\n)*checksum: activity: shutdown: the Store does not hold(.|\n)*checksum: interrupted\n`)
}

var (
	kills = flag.Int("kills", 12, "how often the program is killed in the test of that")
	seed  = flag.Uint64("seed", rand.Uint64(), "for the moments at which it is killed")
)

// Killed at random moments, the program is started again and again until it has
// come to the end. It must never start over, and never go on behind the lines that
// the manifest has.
func testKill(t *testing.T, p program) {
	if testing.Short() {
		t.Skip("hashes files for some seconds")
	}
	const files = 500
	dir := t.TempDir()
	content := strings.Repeat("a long file.", 100_000)
	write(t, filepath.Join(dir, "file"), content)
	if err := os.Mkdir(filepath.Join(dir, "tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := ""
	for i := range files {
		name := fmt.Sprintf("tree/%03d", i)
		if err := os.Link(filepath.Join(dir, "file"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		want += line(sum(content), name)
	}
	start := time.Now()
	p.run(t, dir, 0, noStall, "-o=whole", "tree")
	took := time.Since(start)
	if diff := cmp.Diff(want, read(t, filepath.Join(dir, "whole"))); diff != "" {
		t.Fatalf("the manifest of one run (-want +got):\n%s", diff)
	}

	t.Logf("-seed=%d", *seed)
	moments := rand.New(rand.NewPCG(*seed, 0))
	manifest := filepath.Join(dir, "tree/SUMS") // it and the checkpoint are among the files
	killed, wentOn, usedUp := 0, 0, 0
	for killed < *kills || wentOn == 0 {
		at, lines := 1, 0 // the file that the run before went on with, and the lines that it left
		for done := false; !done; {
			if killed > 10**kills {
				t.Fatalf("killed %d times, and it went on %d times", killed, wentOn)
			}
			if lines == files {
				at = 1 // it may have been killed when all was done, and the checkpoint removed
			}
			moment := time.Duration(math.MaxInt64)
			if killed < *kills || wentOn == 0 {
				moment = time.Duration(moments.Int64N(int64(took)))
			}
			r := finishOrKill(t, p.command(dir, noStall, "-o=tree/SUMS", "tree"), moment)
			switch {
			case r.code == -1:
				killed++
			case r.code == 0:
				done = true
			case r.code == 1 && strings.Contains(r.stderr, "maximum attempts reached"): // killed five times before it got anywhere
				usedUp++
			default:
				t.Fatalf("exit code %d:\n%s", r.code, r.stderr)
			}
			if m := goingOn.FindStringSubmatch(r.stderr); m != nil {
				wentOn++
				next := files + 1
				if m[1] != "" {
					fmt.Sscan(m[1], &next)
				}
				if next < at || next > lines+1 {
					t.Fatalf("went on with file %d, although the run before did with %d, and left %d lines", next, at, lines)
				}
				at = next
			}
			now, err := os.ReadFile(manifest)
			if err != nil && !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(want, string(now)) {
				t.Fatalf("the manifest is none, error %v (-want +got):\n%s", err, cmp.Diff(want, string(now)))
			}
			if lines = bytes.Count(now, []byte("\n")); lines < at-1 {
				t.Fatalf("the manifest has %d lines, although a run went on with file %d", lines, at)
			}
		}
		if diff := cmp.Diff(want, read(t, manifest)); diff != "" {
			t.Fatalf("manifest (-one run's +this):\n%s", diff)
		}
		if _, err := os.Stat(storeFile(manifest)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the checkpoint is left behind: %v", err)
		}
		if err := os.Remove(manifest); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("killed %d times, went on %d times, gave up %d times", killed, wentOn, usedUp)
}

var goingOn = regexp.MustCompile(`checksum: going on with (?:the end|file (\d+) of)`)

// A limit on the size of files, which the checkpoint keeps to, stands for the
// disk: after five attempts that get no further than the second, which did, the
// program gives up.
func testFullDisk(t *testing.T, p program) {
	dir, want := tree(t)
	cmd := exec.Command("sh", "-c", `ulimit -f 128 || exit 99; exec "$0" "$@"`, p.bin, noStall, "-fail=2", "tree")
	cmd.Dir = dir
	if err := os.Mkdir(filepath.Join(dir, "tree/z"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		name := fmt.Sprintf("tree/z/%03d%s", i, strings.Repeat("z", 200))
		write(t, filepath.Join(dir, name), "")
		want += line(sum(""), name)
	}
	r := finish(t, cmd)
	if r.code == 99 {
		t.Skip("this shell cannot limit the size of files")
	}
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: SHA256SUMS: file too large\nchecksum: gave up in attempt 6 \(maximum attempts reached\), at file \d+ of 1007, .*\nchecksum: SHA256SUMS is left with the first \d+ of 1007 files; run the same command to go on\n$`)
	place := regexp.MustCompile(`gave up .*, at (file \d+ of 1007, \S+)`).FindStringSubmatch(r.stderr)
	p.run(t, dir, 0, noStall, "tree").wants(t, "attempts: 1\n$", "^checksum: going on with "+place[1]+"\n")
	check(t, dir, "SHA256SUMS", want)
}

func testRefused(t *testing.T, p program) {
	dir, _ := tree(t)
	for _, c := range []struct {
		code   int
		args   string
		stderr string
	}{
		{1, "missing", `missing: no such file or directory`},
		{1, "tree missing", `missing: no such file or directory`},
		{1, "tree/a.b", `tree/a\.b: not a directory`},
		{1, "-o=missing/SUMS tree", `cannot keep a checkpoint beside missing/SUMS: boltstore: missing/SUMS\.checkpoint: open: .*: no such file or directory`},
		{1, "-o=tree tree", `tree: not a regular file, so it cannot be the manifest`},
		{1, "-o=tree/pipe tree", `tree/pipe: not a regular file, so it cannot be the manifest`},
		{1, "-heartbeat-timeout=-1s tree", `activity: Options\.HeartbeatTimeout must not be negative \(got -1s\)`},
		{2, "-stall=8 tree", `-stall and -fail take the number of a file, and there are 7`},
		{2, "-fail=-1 tree", `-stall and -fail take the number of a file, and there are 7`},
		{2, "-worker", `-worker needs -temporal`},
		{2, "-worker -temporal=127.0.0.1:1 tree", `a worker takes no DIR: its callers name them`},
		{2, "-temporal=127.0.0.1:1 -stall=1 tree", `with -temporal, -stall and -fail are for the -worker`},
		{1, "-temporal=127.0.0.1:1 tree", `failed reaching server: .*`},
		{1, "-temporal=127.0.0.1:1 -worker", `failed reaching server: .*`},
	} {
		p.run(t, dir, c.code, strings.Fields(c.args)...).wants(t, "^$", `^checksum: `+c.stderr+`\n$`)
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("checksum %s: left something behind: %v, error %v", c.args, entries, err)
		}
	}
	p.run(t, dir, 2, "-unknown").wants(t, "^$", "not defined: -unknown\nUsage: checksum ")
	p.run(t, dir, 0, "-h").wants(t, "^$", "^Usage: checksum ")
}

// On a terminal there is a bar, and what is said stands above it.
func testTerminal(t *testing.T, p program) {
	if out, err := exec.Command("script", "--version").CombinedOutput(); err != nil || !strings.Contains(string(out), "util-linux") {
		t.Skip("there is no util-linux script here to make a terminal with")
	}
	dir, want := tree(t)
	cmd := exec.Command("script", "-qec", "'"+p.bin+"' "+short+" -stall=4 tree", filepath.Join(dir, "typescript"))
	cmd.Dir = dir
	r := finish(t, cmd)
	if r.code != 0 {
		t.Errorf("exit code %d, want 0", r.code)
	}
	r.wants(t, `checksum: hanging at file 4, as -stall asks\r\n(.|\n)*hashing.*\(\d/7\)(.|\n)*checksum: attempt \d+ stalled(.|\n)*hashing.*\(3/7\)(.|\n)*\rSHA256SUMS: 7 files, `, "")
	if strings.Contains(r.stdout, "of 7 files\r\n") {
		t.Errorf("plain lines on a terminal:\n%q", r.stdout)
	}
	check(t, dir, "SHA256SUMS", want)
}
