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

// childVariable names the part of children that this process plays.
const childVariable = "BOLTSTORE_TEST_CHILD"

// children get the path of a store and report to standard output.
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

// child is this test binary, run to play a part of children.
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

// copyFile is what a process that opens path would find if this one died now.
func copyFile(t testing.TB, path string) string {
	t.Helper()
	to := newPath(t)
	content := read(t, path)
	for { // until no write came between
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

// wantError also checks that the error says which file it is about.
func wantError(t testing.TB, err error, path, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), path) {
		t.Fatalf("the error is %v, not one with %q and %q", err, text, path)
	}
}

func wantInUse(t testing.TB, err error, path string) {
	t.Helper()
	wantError(t, err, path, "in use")
	if !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("the error does not wrap ErrInUse: %v", err)
	}
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (activity.Store, func() activity.Store) {
		path := newPath(t)
		return open(t, path), func() activity.Store { return open(t, copyFile(t, path)) }
	})
}

func TestFileIsPrivateAndAlone(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("the folder has %v, %v", entries, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode(); runtime.GOOS != "windows" && mode != 0o600 {
		t.Errorf("the file's mode is %v", mode)
	}
}

func TestCloseTwice(t *testing.T) {
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

func TestInUse(t *testing.T) {
	t.Parallel() // it waits
	path := newPath(t)
	once := &boltstore.Options{LockTimeout: 1}
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	_, err := boltstore.Open(path, once)
	wantInUse(t, err, path)
	out, err := child(t, "open", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), path+": open: in use") {
		t.Errorf("another process opened the file: %v, %s", err, out)
	}
	save(t, s, checkpoint("b", nil)) // which the others did not disturb
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	holder := child(t, "hold", path)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out2, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out2.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, err = boltstore.Open(path, once)
	wantInUse(t, err, path)
	in.Close() // the holder is about to close the Store
	s, err = boltstore.Open(path, &boltstore.Options{LockTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the store has %q, %v", got, err)
	}
	if err := errors.Join(s.Close(), holder.Wait()); err != nil {
		t.Error(err)
	}
}

// A file is not judged while another may be changing it.
func TestInUseAndUnsound(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	content := read(t, path)
	overwrite := func(content []byte) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(make([]byte, len(content)))
	_, err := boltstore.Open(path, nil)
	overwrite(content)
	wantInUse(t, err, path)
	save(t, s, checkpoint("b", nil))
}

func TestNoPlaceForAFile(t *testing.T) {
	folder := t.TempDir()
	_, err := boltstore.Open(folder, nil)
	wantError(t, err, folder, "not a regular file")
	missing := filepath.Join(folder, "missing", "activities.db")
	_, err = boltstore.Open(missing, nil)
	wantError(t, err, missing, "")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) > 0 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
}

func TestEmptyFileIsNew(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	save(t, open(t, path), checkpoint("a", nil))
	if got, err := ids(open(t, copyFile(t, path))); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the store has %q, %v", got, err)
	}
}

func TestSymbolicLinkToNothing(t *testing.T) {
	target := newPath(t)
	path := newPath(t)
	if err := os.Symlink(target, path); err != nil {
		t.Skip(err)
	}
	save(t, open(t, path), checkpoint("a", nil))
	if got, err := ids(open(t, copyFile(t, target))); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the store has %q, %v", got, err)
	}
}

func TestTooLarge(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	long := strings.Repeat("x", 1<<15+1)
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), checkpoint(long, nil)}), path, "the ID has 32769 bytes")
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), checkpoint("", nil)}), path, "the ID is empty")
	if ^uint(0)>>32 != 0 { // memory that nobody touches
		huge := checkpoint("huge", make([]byte, 1<<31-1))
		wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil), huge}), path, `save "huge": the checkpoint has 2147483`)
	}
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a"}) {
		t.Errorf("the store has %q, %v", got, err)
	}
}

// More than All reads at once, and writes of the loop's body that make the file
// grow, for which bbolt waits until nobody reads.
func TestAllWhileTheBodyWrites(t *testing.T) {
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
			t.Fatalf("checkpoint %d is %q, not %q", n, c.ID, batch[n].ID)
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
		t.Errorf("%d checkpoints of %d", n, len(batch))
	}
}

func TestEndedContext(t *testing.T) {
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
			t.Errorf("%s: %v", operation, err)
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
		t.Errorf("All yielded %d times", n)
	}
	_, _, err := s.Load(ctx, "a")
	check(err, `load "a"`)
	check(s.Save(ctx, nil), "save")
	check(s.Save(ctx, []activity.Checkpoint{checkpoint("c", nil)}), "save")
	check(s.Delete(ctx, []string{"a"}), "delete")
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the store has %q, %v", got, err)
	}
}
