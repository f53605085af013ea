package boltstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"github.com/seed-9da638b0/activity/storetest"
)

// childVariable is the environment variable that selects one of children for this process.
const childVariable = "BOLTSTORE_TEST_CHILD"

// children has the programs that the test binary can run as a child process, by name. They get
// the path of a Store's file and report to standard output.
var children = map[string]func(path string) error{
	"open": func(path string) error {
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		return s.Close()
	},
	"hold": func(path string) error {
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Println("open")
		_, err = os.Stdin.Read(make([]byte, 1)) // until the parent closes it
		if err.Error() == "EOF" {
			return nil
		}
		return err
	},
}

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children[name](os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child returns a command that runs one of children in this test binary.
func child(t *testing.T, name, path string) *exec.Cmd {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, path)
	cmd.Env = append(os.Environ(), childVariable+"="+name)
	return cmd
}

func open(t testing.TB, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newPath(t testing.TB) string {
	return filepath.Join(t.TempDir(), "activities.db")
}

// copyFile copies what a new process would find at path if this one were killed now.
func copyFile(t testing.TB, path string) string {
	t.Helper()
	to := newPath(t)
	content := read(t, path)
	for { // until two readings are equal, so that no write came in between
		again := read(t, path)
		if bytes.Equal(content, again) {
			break
		}
		content = again
	}
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func save(t testing.TB, s activity.Store, batch ...activity.Checkpoint) {
	t.Helper()
	if err := s.Save(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func checkpoint(id string, details []byte) activity.Checkpoint {
	at := time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	return activity.Checkpoint{
		ID: id, Name: "import", State: activity.CheckpointRunning, Attempt: 3, Progressed: 2, Sequence: 7,
		ScheduledAt: at, UpdatedAt: at.Add(time.Minute), Input: []byte(`"file"`), Details: details,
	}
}

func ids(s activity.Store) ([]string, error) {
	var ids []string
	for c, err := range s.All(context.Background()) {
		if err != nil {
			return ids, err
		}
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// wantError checks that the error has text and names the file.
func wantError(t testing.TB, err error, path, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), path) {
		t.Fatalf("got the error %v, want one with %q and %q", err, text, path)
	}
}

func TestStore_Conformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (activity.Store, func() activity.Store) {
		path := newPath(t)
		return open(t, path), func() activity.Store { return open(t, copyFile(t, path)) }
	})
}

// Given no file, when Open creates it, then only its owner can read it, and no other file is
// left.
func TestOpen_NewFileIsPrivateAndAlone(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the directory has %v (error %v), want one file", entries, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("the file's mode is %v, want 0600", mode)
	}
}

// Given a closed Store, when it is closed again, then that is no error; every other method fails.
func TestClose_Twice(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.Load(t.Context(), "a")
	wantError(t, err, path, `load "a": the Store is closed`)
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", nil)}), path, "the Store is closed")
	wantError(t, s.Delete(t.Context(), []string{"a"}), path, "the Store is closed")
	_, err = ids(s)
	wantError(t, err, path, "the Store is closed")
}

// Given a directory or a path in a missing directory, when Open gets it, then it fails and
// creates nothing.
func TestOpen_NoPlaceForAFile(t *testing.T) {
	folder := t.TempDir()
	_, err := boltstore.Open(folder, nil)
	wantError(t, err, folder, "not a regular file")
	missing := filepath.Join(folder, "missing", "activities.db")
	_, err = boltstore.Open(missing, nil)
	wantError(t, err, missing, "")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got the error %v, want fs.ErrNotExist", err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("the directory has %v (error %v), want nothing", entries, err)
	}
}

// Given a file of length 0, when it is opened, then it becomes an empty Store.
func TestOpen_EmptyFile(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	save(t, open(t, path), checkpoint("a", nil))
	if got, err := ids(open(t, copyFile(t, path))); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the Store has %q (error %v)", got, err)
	}
}

// Given a symbolic link to a missing file, when it is opened, then the target is created.
func TestOpen_SymbolicLinkToNothing(t *testing.T) {
	target := newPath(t)
	path := newPath(t)
	if err := os.Symlink(target, path); err != nil {
		t.Skip(err)
	}
	save(t, open(t, path), checkpoint("a", nil))
	if got, err := ids(open(t, copyFile(t, target))); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the Store has %q (error %v)", got, err)
	}
}

// Given a relative path or a very long file name, when the program changes its directory or
// the file is created, then the Store works.
func TestOpen_RelativeAndLongNames(t *testing.T) {
	t.Chdir(t.TempDir())
	s := open(t, "activities.db")
	save(t, s, checkpoint("a", nil))
	t.Chdir(t.TempDir())
	save(t, s, checkpoint("b", nil))
	save(t, open(t, strings.Repeat("n", 250)), checkpoint("a", nil))
}

// Given a batch with an ID or a checkpoint that is too large, when it is saved, then Save
// fails and nothing is written.
func TestSave_TooLarge(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	long := strings.Repeat("x", 1<<15+1)
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), checkpoint(long, nil)}), path, "the ID has 32769 bytes")
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), checkpoint("", nil)}), path, "the ID is empty")
	if ^uint(0)>>32 != 0 { // the memory is never touched, so the system need not have it
		huge := checkpoint("huge", make([]byte, 1<<31-1))
		wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), huge}), path, `save "huge": the checkpoint has 2147483`)
	}
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the Store has %q (error %v)", got, err)
	}
}

// Given more checkpoints than All reads at a time, when the loop body makes the file grow,
// then All yields every checkpoint. To grow a mapped file, bbolt waits until no transaction
// reads.
func TestAll_BodyWrites(t *testing.T) {
	s := open(t, newPath(t))
	var batch []activity.Checkpoint
	for i := range 600 {
		batch = append(batch, checkpoint(fmt.Sprintf("%04d", i), nil))
	}
	for i := range 3 {
		batch = append(batch, checkpoint(fmt.Sprintf("large %d", i), bytes.Repeat([]byte{byte(i)}, 2<<20)))
	}
	save(t, s, batch...)
	n := 0
	for c, err := range s.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if c.ID != batch[n].ID || !bytes.Equal(c.Details, batch[n].Details) {
			t.Fatalf("All yielded %q as checkpoint %d, want %q", c.ID, n, batch[n].ID)
		}
		n++
		if n%100 == 0 {
			save(t, s, checkpoint("0000", make([]byte, n<<13)))
			if err := s.Delete(t.Context(), []string{c.ID}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != len(batch) {
		t.Errorf("All yielded %d of %d checkpoints", n, len(batch))
	}
}

// Given a context that has ended, when methods are called with it, then their errors wrap its Err
// and its cause, and nothing is written.
func TestStore_EndedContext(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil), checkpoint("b", nil))
	errCause := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	check := func(err error, operation string) {
		t.Helper()
		wantError(t, err, path, operation)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, errCause) {
			t.Errorf("%s: got the error %v, want one that wraps context.Canceled and the cause", operation, err)
		}
	}
	n := 0
	for _, err := range s.All(ctx) {
		if n++; n == 1 {
			cancel(errCause)
			continue
		}
		check(err, "read all")
	}
	if n != 2 {
		t.Errorf("All yielded %d times, want a checkpoint and an error", n)
	}
	_, _, err := s.Load(ctx, "a")
	check(err, `load "a"`)
	check(s.Save(ctx, nil), "save")
	check(s.Save(ctx, []activity.Checkpoint{checkpoint("c", nil)}), "save")
	check(s.Delete(ctx, []string{"a"}), "delete")
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the Store has %q (error %v)", got, err)
	}
}
