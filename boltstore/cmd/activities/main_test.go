package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// childVariable is the environment variable that selects one of children for this process.
const childVariable = "ACTIVITIES_TEST_CHILD"

// children has the programs that the test binary can run as a child process, by name.
var children = map[string]func(){"activities": main}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		children[name]()
		return
	}
	os.Exit(m.Run())
}

// child returns a command that runs one of children in this test binary.
func child(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, args...)
	cmd.Env = append(os.Environ(), childVariable+"="+name, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// result is how a run of the tool ended.
type result struct {
	stdout, stderr string
	code           int
}

// activities runs the tool in the directory.
func activities(t *testing.T, dir string, args ...string) result {
	t.Helper()
	cmd := child(t, "activities", args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// wantResult runs the tool and compares everything that it does.
func wantResult(t *testing.T, dir string, want result, args ...string) {
	t.Helper()
	if got := activities(t, dir, args...); got != want {
		t.Errorf("activities %q:\nstatus %d, want %d\nstandard output:\n%s\nwant:\n%s\nstandard error:\n%s\nwant:\n%s",
			args, got.code, want.code, got.stdout, want.stdout, got.stderr, want.stderr)
	}
}

const file = "activities.db"

// newFile saves checkpoints in a new file and returns its directory.
func newFile(t *testing.T, checkpoints ...activity.Checkpoint) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s := openStore(t, dir)
	if err := errors.Join(s.Save(t.Context(), checkpoints), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func openStore(t *testing.T, dir string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(filepath.Join(dir, file), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stored returns the checkpoints in the file, by ID.
func stored(t *testing.T, path string) map[string]activity.Checkpoint {
	t.Helper()
	s, err := boltstore.Open(path, &boltstore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := map[string]activity.Checkpoint{}
	for c, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all[c.ID] = c
	}
	return all
}

// unchanged returns a function that fails the test if the file, its time or the names in its
// directory are no longer as they are now.
func unchanged(t *testing.T, dir string) func() {
	t.Helper()
	path := filepath.Join(dir, file)
	old := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	state := func() (content, names string, modified time.Time) {
		b, err := os.ReadFile(path)
		info, err2 := os.Stat(path)
		entries, err3 := os.ReadDir(dir)
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names += e.Name() + "\n"
		}
		return string(b), names, info.ModTime()
	}
	content, names, modified := state()
	return func() {
		t.Helper()
		content2, names2, modified2 := state()
		if content2 != content || names2 != names || !modified2.Equal(modified) {
			t.Errorf("the file has changed (at %v), or the directory, which has now: %s", modified2, names2)
		}
	}
}

// Given help is asked for, then it is printed to standard output, with status 0.
func TestUsage_Help(t *testing.T) {
	dir := t.TempDir()
	all := activities(t, dir, "help")
	for _, ask := range []string{"-h", "-help", "--help"} {
		wantResult(t, dir, all, ask)
	}
	if all.code != 0 || all.stderr != "" {
		t.Errorf("help exited with %d and the standard error %s", all.code, all.stderr)
	}
	for _, c := range commands {
		if !strings.Contains(all.stdout, "\n    "+c.name+" ") {
			t.Errorf("help does not list %s:\n%s", c.name, all.stdout)
		}
		one := activities(t, dir, "help", c.name)
		if one.code != 0 || one.stderr != "" || !strings.HasPrefix(one.stdout, "usage: activities "+c.name+" ") {
			t.Errorf("help %s: %+v", c.name, one)
		}
		wantResult(t, dir, one, c.name, "-h")
	}
	wantResult(t, dir, result{stdout: `usage: activities show [-json] FILE ID

Show shows one checkpoint in full. With -json, it is one line as of "ls -json".

An ID is given as it is, or quoted as a Go string as ls shows it. In a shell, put a
quoted one between single quotes: '"a\xff"'.

The flags are:
  -json
    	write JSON
`}, "help", "show")
}

// Given wrong usage, then one line of standard error has the reason, and the status is 2.
func TestUsage_Wrong(t *testing.T) {
	dir := newFile(t)
	defer unchanged(t, dir)()
	bad := func(stderr string, args ...string) {
		t.Helper()
		wantResult(t, dir, result{stderr: stderr, code: 2}, args...)
	}
	bad("activities: unknown command \"frob\"\nRun \"activities help\" for usage.\n", "frob", file)
	bad("activities: unknown command \"frob\"\nRun \"activities help\" for usage.\n", "help", "frob")
	const ls = "\nusage: activities ls [-json] [-name name] [-state state] FILE\nRun \"activities help ls\" for details.\n"
	bad("activities: ls: missing argument"+ls, "ls")
	bad("activities: ls: too many arguments; flags come before FILE"+ls, "ls", file, "-json")
	bad("activities: ls: flag provided but not defined: -x"+ls, "ls", "-x", file)
	bad("activities: ls: invalid value \"frob\" for flag -state: activity: unknown CheckpointState \"frob\""+ls, "ls", "-state", "frob", file)
	const forget = "\nusage: activities forget FILE ID...\nRun \"activities help forget\" for details.\n"
	bad("activities: forget: missing argument"+forget, "forget", file)
	bad("activities: forget: flag provided but not defined: -json"+forget, "forget", "-json", file, "a")

	if got := activities(t, dir); got.code != 2 || got.stdout != "" || got.stderr != activities(t, dir, "help").stdout {
		t.Errorf("without arguments: %+v", got)
	}
}
