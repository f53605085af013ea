package boltstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

func init() {
	children["full disk at once"] = func(path string) error {
		restore, err := limitFiles(0)
		if err != nil {
			return err
		}
		defer restore()
		if _, err := boltstore.Open(path, nil); !errors.Is(err, syscall.EFBIG) {
			return fmt.Errorf("Open returned %w, want EFBIG", err)
		}
		return nil
	}
	children["full disk when the file grows"] = func(path string) error {
		return fillDisk(path, func(size uint64) uint64 { return size })
	}
	children["full disk when pages are written"] = func(path string) error {
		return fillDisk(path, func(size uint64) uint64 { return size / 2 })
	}
	children["another user"] = func(path string) error {
		if os.Getuid() == 0 {
			if err := syscall.Setuid(65534); err != nil {
				return err
			}
		}
		if _, err := boltstore.Open(path, nil); !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("Open returned %w, want os.ErrPermission", err)
		}
		return nil
	}
}

// limitFiles makes the system refuse to write beyond size in any file, as a full disk would.
func limitFiles(size uint64) (restore func() error, err error) {
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return nil, err
	}
	err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: old.Max})
	return func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old) }, err
}

func fillDisk(path string, limit func(size uint64) uint64) error {
	ctx := context.Background()
	s, err := boltstore.Open(path, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	kept := checkpoint("kept", bytes.Repeat([]byte{1}, 50_000))
	if err := s.Save(ctx, []activity.Checkpoint{kept}); err != nil {
		return err
	}
	intact := func(s *boltstore.Store, others ...string) error {
		c, found, err := s.Load(ctx, kept.ID)
		if err != nil || !found || !bytes.Equal(c.Details, kept.Details) {
			return fmt.Errorf("the earlier checkpoint is lost: found %v, %w", found, err)
		}
		got, err := ids(s)
		if want := append(others, kept.ID); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("the Store has %q, want %q: %w", got, want, err)
		}
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	restore, err := limitFiles(limit(uint64(info.Size())))
	if err != nil {
		return err
	}
	large := checkpoint("added", make([]byte, 1<<20))
	for range 3 {
		err := s.Save(ctx, []activity.Checkpoint{large, checkpoint("kept", nil)})
		if err == nil || !bytes.Contains([]byte(err.Error()), []byte(path)) {
			return fmt.Errorf("on a full disk, Save returned %w, want an error that names the file", err)
		}
		if err := intact(s); err != nil {
			return err
		}
	}
	if err := restore(); err != nil {
		return err
	}
	if err := s.Save(ctx, []activity.Checkpoint{large}); err != nil {
		return fmt.Errorf("Save failed, although there is space again: %w", err)
	}
	if err := intact(s, "added"); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = boltstore.Open(path, nil); err != nil {
		return err
	}
	return errors.Join(intact(s, "added"), s.Close())
}

func run(t *testing.T, name, path string) {
	t.Helper()
	if out, err := child(t, name, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Given a full disk, when Open or Save is called, then it fails and changes nothing, and works
// again once there is space.
func TestSave_FullDisk(t *testing.T) {
	for _, name := range []string{"full disk at once", "full disk when the file grows", "full disk when pages are written"} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			run(t, name, path)
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 1 {
				t.Errorf("the directory has %v (error %v), want at most the file", entries, err)
			}
		})
	}
}

// Given a file or a directory without write permission, when it is opened, then Open fails and
// leaves the file as it is.
func TestOpen_NoPermission(t *testing.T) {
	path := newPath(t)
	folder := filepath.Dir(path)
	if err := os.Chmod(filepath.Dir(folder), 0o755); err != nil { // so that another user can reach the directory
		t.Fatal(err)
	}
	t.Run("file", func(t *testing.T) {
		save(t, open(t, path), checkpoint("a", nil))
	})
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	content := read(t, path)
	run(t, "another user", path)
	if !bytes.Equal(read(t, path), content) {
		t.Error("the file has changed")
	}
	if err := os.Chmod(folder, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(folder, 0o755)
	run(t, "another user", filepath.Join(folder, "new.db"))
}
