package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// Given a file, when it is copied, then the copy is private and has the same content, and the
// file stays as it is. An existing file is never overwritten.
func TestBackup_Copy(t *testing.T) {
	dir, other := newFile(t, samples()...), t.TempDir()
	defer unchanged(t, dir)()
	dest := filepath.Join(other, "backup.db")
	wantResult(t, dir, result{}, "backup", file, dest)
	if got, want := stored(t, dest), stored(t, filepath.Join(dir, file)); !reflect.DeepEqual(got, want) {
		t.Errorf("the copy has %v, want %v", got, want)
	}
	wantResult(t, other, result{stdout: "backup.db: ok; checkpoints: 3\n"}, "verify", "backup.db")
	if info, err := os.Stat(dest); err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
		t.Errorf("the copy is %v (error %v), want the mode 0600", info, err)
	}

	if err := os.WriteFile(dest, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantResult(t, dir, result{stderr: "activities: " + dest + ": the file exists and is left as it is\n", code: 1}, "backup", file, dest)
	wantResult(t, dir, result{stderr: "activities: " + file + ": the file exists and is left as it is\n", code: 1}, "backup", file, file)
	if content, err := os.ReadFile(dest); err != nil || !bytes.Equal(content, []byte("precious")) {
		t.Errorf("the existing file has now %q (error %v)", content, err)
	}
	if entries, err := os.ReadDir(other); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v (error %v), want one file", entries, err)
	}
}

// Given a name that no file can have, when a file is to be copied to it, then the error names it
// and the reason, and nothing is left.
func TestBackup_WrongName(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the errors have other texts")
	}
	dir := newFile(t, samples()...)
	defer unchanged(t, dir)()
	wantResult(t, dir, result{stderr: "activities: DEST is empty\n", code: 1}, "backup", file, "")
	for dest, why := range map[string]string{
		filepath.Join("missing", "backup.db"): "no such file or directory",
		filepath.Join(file, "backup.db"):      "not a directory",
		"new" + string(filepath.Separator):    "no such file or directory",
		strings.Repeat("x", 1000):             "file name too long",
	} {
		wantResult(t, dir, result{stderr: "activities: " + dest + ": " + why + "\n", code: 1}, "backup", file, dest)
	}
}

// Given a dangling symbolic link, when a file is to be copied to its name, then it is left as it
// is.
func TestBackup_DanglingLink(t *testing.T) {
	dir := newFile(t)
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Skip(err)
	}
	wantResult(t, dir, result{stderr: "activities: link: the file exists and is left as it is\n", code: 1}, "backup", file, "link")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("the directory has %v (error %v), want the file and the link", entries, err)
	}
}

// Given a name that another file gets during a copy, when the copy is to get it, then it fails,
// and the file is left as it is.
func TestName_Taken(t *testing.T) {
	dir := t.TempDir()
	temp, dest := filepath.Join(dir, "temp"), filepath.Join(dir, "dest")
	for _, path := range []string{temp, dest} {
		if err := os.WriteFile(path, []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := name(temp, dest); err == nil {
		t.Error("name replaced the file")
	}
	if content, err := os.ReadFile(dest); err != nil || string(content) != dest {
		t.Errorf("the file has now %q (error %v)", content, err)
	}
}
