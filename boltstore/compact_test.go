package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// backlog saves n checkpoints of 128 KiB, deletes all but one, which it returns, and closes the
// Store.
func backlog(t *testing.T, path string, n int) activity.Checkpoint {
	t.Helper()
	s := open(t, path)
	large := bytes.Repeat([]byte("x"), 64<<10)
	var batch []activity.Checkpoint
	var ids []string
	for i := range n {
		c := checkpoint(fmt.Sprint(i), large)
		c.Input = large
		batch, ids = append(batch, c), append(ids, c.ID)
	}
	if err := s.Save(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), ids[1:]); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return batch[0]
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Given a file that is mostly free, when it is opened, then it is rewritten, and keeps its
// checkpoints, its name, its mode and its lock.
func TestCompact_MostlyFreeFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be replaced")
	}
	folder := t.TempDir()
	path, link := filepath.Join(folder, "activities.db"), filepath.Join(folder, "link.db")
	left := backlog(t, path, 300)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	before := size(t, path)
	s := open(t, link)
	if after := size(t, path); after > before/10 {
		t.Errorf("the file has %d bytes, want at most a tenth of %d", after, before)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symbolic link is now %v (error %v)", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file is %v (error %v), want the mode 0640", info, err)
	}
	if _, err := boltstore.Open(path, &boltstore.Options{LockTimeout: time.Millisecond}); !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("a second Open returned %v, want ErrInUse", err)
	}
	if files, err := os.ReadDir(folder); err != nil || len(files) != 2 {
		t.Errorf("the directory has %v (error %v), want the file and the link", files, err)
	}
	for range 2 {
		got, found, err := s.Load(t.Context(), left.ID)
		if err != nil || !found || !bytes.Equal(got.Details, left.Details) || !bytes.Equal(got.Input, left.Input) {
			t.Errorf("Load did not return the checkpoint that was left: found %v, error %v", found, err)
		}
		if err := s.Save(t.Context(), []activity.Checkpoint{checkpoint("new", nil)}); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s = open(t, path)
	}
	if got, err := ids(s); err != nil || fmt.Sprint(got) != "[0 new]" {
		t.Errorf("the Store has %v (error %v), want 0 and new", got, err)
	}
}

// Given a file with less free space than the limits, when it is opened, then it stays as it is.
func TestCompact_UsedFile(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	large := bytes.Repeat([]byte("x"), 64<<10)
	var batch []activity.Checkpoint
	for i := range 400 {
		batch = append(batch, checkpoint(fmt.Sprint(i), large))
	}
	if err := s.Save(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var gone []string
	for _, c := range batch[:280] {
		gone = append(gone, c.ID)
	}
	if err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := size(t, path)
	open(t, path)
	if after := size(t, path); after != before {
		t.Errorf("the file has %d bytes, want %d as before", after, before)
	}
}

// written returns how many bytes this process has written so far. It skips the test if the system
// does not tell.
func written(t *testing.T) int {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip(err)
	}
	var n int
	for line := range bytes.Lines(data) {
		if _, err := fmt.Sscanf(string(line), "wchar: %d", &n); err == nil {
			return n
		}
	}
	t.Skip("/proc/self/io has no wchar")
	return 0
}

// Given a file that once had a large backlog, when it is opened again, then a Save writes at most
// twice as much as to a new file.
func TestCompact_SaveWritesLittle(t *testing.T) {
	cost := func(s *boltstore.Store) int {
		before := written(t)
		for i := range 20 {
			c := checkpoint("a", nil)
			c.Sequence = uint64(i)
			if err := s.Save(t.Context(), []activity.Checkpoint{c}); err != nil {
				t.Fatal(err)
			}
		}
		return written(t) - before
	}
	fresh := cost(open(t, newPath(t)))
	path := newPath(t)
	left := backlog(t, path, 400)
	s := open(t, path)
	if err := s.Delete(t.Context(), []string{left.ID}); err != nil { // otherwise, it would share a page with the saved checkpoint
		t.Fatal(err)
	}
	if once := cost(s); once > 2*fresh {
		t.Errorf("20 Saves write %d bytes, want at most twice the %d of a new file", once, fresh)
	}
}

// Given a file with two names, when it is opened, then it is not rewritten, because the names
// would then be of different files.
func TestCompact_TwoNames(t *testing.T) {
	path := newPath(t)
	backlog(t, path, 300)
	if err := os.Link(path, path+".link"); err != nil {
		t.Skip(err)
	}
	open(t, path)
	if _, err := boltstore.Open(path+".link", &boltstore.Options{LockTimeout: time.Millisecond}); !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("Open of the second name returned %v, want ErrInUse", err)
	}
}
