//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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

	"github.com/google/go-cmp/cmp"
)

// The whole program, as a user runs it. A stall that a slow machine adds must
// not matter: timeouts are short only where a stall is wanted, and then nothing
// is said about how many there are.

const (
	noStall = "-heartbeat-timeout=1h"
	short   = "-heartbeat-timeout=300ms"
)

func TestProgram(t *testing.T) {
	bin := filepath.Join(open(t, t.TempDir()), "checksum")
	build := []string{"build", "-o", bin}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race")
	}
	if out, err := exec.Command("go", append(build, ".")...).CombinedOutput(); err != nil {
		t.Fatalf("go %q: %v\n%s", build, err, out)
	}
	runtime.KeepAlive(main) // linked in, so that go test knows when the program has changed
	for name, test := range map[string]func(*testing.T, program){
		"Plain": testPlain, "DefaultDir": testDefaultDir, "Stall": testStall, "LateWaker": testLateWaker, "Fail": testFail, "StallAndFail": testStallAndFail,
		"OddNames": testOddNames, "Unreadable": testUnreadable, "TwoDirs": testTwoDirs, "Interrupt": testInterrupt,
		"FullDisk": testFullDisk, "Refused": testRefused, "Terminal": testTerminal,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, program{bin})
		})
	}
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
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
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

func sum(content string) []byte {
	s := sha256.Sum256([]byte(content))
	return s[:]
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
	locked := p.command(dir, noStall, "-o=locked", "tree")
	if os.Getuid() == 0 {
		nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		cmd.SysProcAttr, locked.SysProcAttr = nobody, nobody
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

	r = finish(t, locked)
	if r.code != 1 {
		t.Errorf("a manifest that may not be written: exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: locked: permission denied\nchecksum: gave up in attempt 1 \(non-retryable failure\)`)
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

// The stall makes sure that the signal comes in the middle.
func testInterrupt(t *testing.T, p program) {
	dir, want := tree(t)
	cmd := p.command(dir, noStall, "-stall=4", "tree")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	for line := ""; !strings.Contains(line, "hanging at file 4"); {
		if line, err = lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), string(rest)}
	if r.code != 130 {
		t.Errorf("exit code %d, want 130", r.code)
	}
	r.wants(t, "^$", `(?m)^checksum: interrupted\nchecksum: SHA256SUMS is left with the first 3 of 7 files; a new run starts over`)
	check(t, dir, "SHA256SUMS", strings.Join(strings.SplitAfter(want, "\n")[:3], ""))

	p.run(t, dir, 0, noStall, "tree")
	check(t, dir, "SHA256SUMS", want)
}

// A limit on the size of files stands for the disk: after five attempts that get
// no further than the second, which did, the program gives up.
func testFullDisk(t *testing.T, p program) {
	dir, want := tree(t)
	cmd := exec.Command("sh", "-c", `ulimit -f 1 || exit 99; exec "$0" "$@"`, p.bin, noStall, "-fail=2", "tree")
	cmd.Dir = dir
	for i := range 20 {
		write(t, filepath.Join(dir, fmt.Sprintf("tree/z%d", i)), "")
	}
	r := finish(t, cmd)
	if r.code == 99 {
		t.Skip("this shell cannot limit the size of files")
	}
	if r.code != 1 {
		t.Errorf("exit code %d, want 1", r.code)
	}
	r.wants(t, "^$", `checksum: SHA256SUMS: file too large\nchecksum: gave up in attempt 6 \(maximum attempts reached\), at file \d+ of 27, .*\nchecksum: SHA256SUMS is left with the first \d+ of 27 files`)

	for i := range 20 {
		if err := os.Remove(filepath.Join(dir, fmt.Sprintf("tree/z%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	p.run(t, dir, 0, noStall, "tree")
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
		{1, "-o=missing/SUMS tree", `missing/SUMS: no such file or directory\nchecksum: gave up in attempt 1 \(non-retryable failure\), at file 1 of 7, tree/-x`},
		{1, "-o=tree tree", `tree: not a regular file, so it cannot be the manifest`},
		{1, "-o=tree/pipe tree", `tree/pipe: not a regular file, so it cannot be the manifest`},
		{1, "-heartbeat-timeout=-1s tree", `activity: Options\.HeartbeatTimeout is -1s, which is negative`},
		{2, "-stall=8 tree", `-stall and -fail take the number of a file, and there are 7`},
		{2, "-fail=-1 tree", `-stall and -fail take the number of a file, and there are 7`},
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
