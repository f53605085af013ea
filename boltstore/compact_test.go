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

// backlog fills a Store with n checkpoints of 64 KiB, keeps one of them, and closes it.
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

// Given a file that was once full and is now mostly free, when it is opened, then it is
// rewritten: what is left is there, and so are the name, the mode and the lock.
func TestCompact_AFileThatIsMostlyFree(t *testing.T) {
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
		t.Errorf("%d bytes, %d before", after, before)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := boltstore.Open(path, &boltstore.Options{LockTimeout: time.Millisecond}); !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("a second Open: %v", err)
	}
	if files, err := os.ReadDir(folder); err != nil || len(files) != 2 {
		t.Errorf("%v, %v", files, err)
	}
	for range 2 {
		got, found, err := s.Load(t.Context(), left.ID)
		if err != nil || !found || !bytes.Equal(got.Details, left.Details) || !bytes.Equal(got.Input, left.Input) {
			t.Errorf("%v, %v", found, err)
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
		t.Errorf("%v, %v", got, err)
	}
}

// A file with little that is free stays as it is.
func TestCompact_AFileThatIsInUse(t *testing.T) {
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
		t.Errorf("%d bytes, %d before", after, before)
	}
}

// Given an open file that somebody removes or replaces, when something is saved, then
// that is an error, and every call from then on.
func TestRemoved_WhileItIsOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be removed")
	}
	for name, act := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			if err := os.WriteFile(path+"2", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(path+"2", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path)
			if err := s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", nil)}); err != nil {
				t.Fatal(err)
			}
			if err := act(path); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{
				s.Save(t.Context(), []activity.Checkpoint{checkpoint("b", nil)}),
				s.Delete(t.Context(), []string{"a"}),
			} {
				if err == nil || !bytes.Contains([]byte(err.Error()), []byte("no longer names the open file")) {
					t.Error(err)
				}
			}
		})
	}
}

// written is how many bytes this process has given to the system, or 0 if that is not known.
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
	t.Skip("no wchar")
	return 0
}

// Given a file that was once full, when it is opened again, then a Save writes at most
// twice what it writes to a new file.
func TestCompact_ASaveWritesLittle(t *testing.T) {
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
	if err := s.Delete(t.Context(), []string{left.ID}); err != nil { // which shares a page with what is saved
		t.Fatal(err)
	}
	if once := cost(s); once > 2*fresh {
		t.Errorf("20 Saves write %d bytes, and %d to a new file", once, fresh)
	}
}

// A file that has two names stays as it is: the other name would be another file then.
func TestCompact_AFileWithTwoNames(t *testing.T) {
	path := newPath(t)
	backlog(t, path, 300)
	if err := os.Link(path, path+".link"); err != nil {
		t.Skip(err)
	}
	open(t, path)
	if _, err := boltstore.Open(path+".link", &boltstore.Options{LockTimeout: time.Millisecond}); !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("the second name: %v", err)
	}
}
