package boltstore_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"go.etcd.io/bbolt"
)

// readOnly does not wait for a file that is in use.
var readOnly = &boltstore.Options{ReadOnly: true, LockTimeout: 1}

func openReadOnly(t *testing.T, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// unchanged returns a function that fails the test if the file, its times or the names in its
// directory are no longer as they are now.
func unchanged(t *testing.T, path string) func() {
	t.Helper()
	state := func() (content []byte, info fs.FileInfo, names []string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return read(t, path), info, names
	}
	long := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // so that a change is seen even if the clock is coarse
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	content, info, names := state()
	return func() {
		t.Helper()
		content2, info2, names2 := state()
		if !bytes.Equal(content, content2) || !info.ModTime().Equal(info2.ModTime()) || info.Mode() != info2.Mode() || !os.SameFile(info, info2) {
			t.Errorf("the file has changed: it was modified at %v", info2.ModTime())
		}
		if !slices.Equal(names, names2) {
			t.Errorf("the directory now has %q, want %q", names2, names)
		}
	}
}

// Given a file that a Store would compact, when it is opened read-only, then all can be read,
// nothing can be written, and the file stays as it is.
func TestReadOnly_ChangesNothing(t *testing.T) {
	path := newPath(t)
	left := backlog(t, path, 300)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, path)
	s := openReadOnly(t, path)
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{left.ID}) {
		t.Errorf("the Store has %q (error %v), want %q", got, err, left.ID)
	}
	if got, found, err := s.Load(t.Context(), left.ID); err != nil || !found || !bytes.Equal(got.Input, left.Input) {
		t.Errorf("Load did not return the checkpoint: found %v, error %v", found, err)
	}
	wantError(t, s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", nil)}), path, "read-only")
	wantError(t, s.Delete(t.Context(), []string{left.ID}), path, "read-only")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	check()
}

// Given no file, when it is opened read-only, then Open fails and creates nothing.
func TestReadOnly_NoFile(t *testing.T) {
	path := newPath(t)
	_, err := boltstore.Open(path, readOnly)
	wantError(t, err, path, "")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got the error %v, want fs.ErrNotExist", err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("the directory has %v (error %v), want nothing", entries, err)
	}
}

// Given a file of length 0, or one whose creation was interrupted, when it is opened read-only,
// then it stays as it is: the first is an error, and the second has no checkpoints.
func TestReadOnly_UnfinishedFile(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, path)
	_, err := boltstore.Open(path, readOnly)
	wantError(t, err, path, "the file is empty")
	check()

	path = newPath(t)
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check = unchanged(t, path)
	s := openReadOnly(t, path)
	if got, err := ids(s); err != nil || len(got) > 0 {
		t.Errorf("the Store has %q (error %v), want nothing", got, err)
	}
	if _, found, err := s.Load(t.Context(), "a"); err != nil || found {
		t.Errorf("Load returned found %t, error %v", found, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	check()
}

// Given Stores in one file, when another is opened, then it shares the file only if all are
// read-only.
func TestReadOnly_Lock(t *testing.T) {
	path := newPath(t)
	writer := open(t, path)
	_, err := boltstore.Open(path, readOnly)
	wantInUse(t, err, path)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	first, second := openReadOnly(t, path), openReadOnly(t, path)
	for _, s := range []*boltstore.Store{first, second} {
		_, err = boltstore.Open(path, &boltstore.Options{LockTimeout: 1})
		wantInUse(t, err, path)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	open(t, path)
}

// Given a damaged file, when it is opened read-only, then Open refuses it with the reason.
func TestReadOnly_Damaged(t *testing.T) {
	content, _ := sample(t)
	path := newPath(t)
	if err := os.WriteFile(path, content[:len(content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, path)
	_, err := boltstore.Open(path, readOnly)
	wantError(t, err, path, "open: truncated: ")
	check()
}
