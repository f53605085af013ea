package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// Given a file, when it is copied, then the copy is synced before it gets its name, and the name
// after that.
func TestBackup_Durable(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed: ", err)
	}
	dir := newFile(t, samples()...)
	log := filepath.Join(t.TempDir(), "strace")
	if out, err := exec.Command(strace, "-o", log, "true").CombinedOutput(); err != nil {
		t.Skipf("strace is not permitted: %v: %s", err, out)
	}
	cmd := child(t, "activities", "backup", file, "backup.db")
	cmd.Dir = dir
	cmd.Args = append([]string{strace, "-f", "-y", "-o", log, "-e", "trace=fsync,linkat", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = strace
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	calls, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`(?s)fsync\(\d+<[^>]*/(activities\.new\d+)>.*linkat\([^\n]*"\S*activities\.new\d+"[^\n]*"backup\.db".*fsync\(\d+<` + regexp.QuoteMeta(dir) + `>`)
	if !want.Match(calls) {
		t.Errorf("the system calls were\n%s", calls)
	}
}
