package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// emptied returns a Store whose file is mostly free.
func emptied(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "activities.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var batch []activity.Checkpoint
	var ids []string
	for i := range 300 {
		c := activity.Checkpoint{ID: fmt.Sprint(i), Details: bytes.Repeat([]byte("x"), 100_000)}
		batch, ids = append(batch, c), append(ids, c.ID)
	}
	if err := errors.Join(s.Save(t.Context(), batch), s.Delete(t.Context(), ids)); err != nil {
		t.Fatal(err)
	}
	return s
}

// Given a file that was moved away, with another Store's file in its place, when it is compacted,
// then the other file is not replaced.
func TestCompact_ReplacesNoOther(t *testing.T) {
	if !canReplace {
		t.Skip("an open file cannot be replaced")
	}
	s := emptied(t)
	if err := os.Rename(s.path, s.path+".away"); err != nil {
		t.Fatal(err)
	}
	other, err := Open(s.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(t.Context(), []activity.Checkpoint{{ID: "accepted"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.compact(); !errors.Is(err, errReplaced) {
		t.Errorf("compact returned %v, want errReplaced", err)
	}
	if err := other.Save(t.Context(), []activity.Checkpoint{{ID: "more"}}); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// Given the file that a killed process left while compacting, when the Store is compacted again,
// then that file is gone.
func TestCompact_LeavesNothing(t *testing.T) {
	if !canReplace {
		t.Skip("an open file cannot be replaced")
	}
	s := emptied(t)
	info, err := s.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	left, err := sibling(s.path, info)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, []byte("half of it"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.compact(); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(filepath.Dir(s.path)); err != nil || len(files) != 1 {
		t.Errorf("the directory has %v (error %v), want only the Store's file", files, err)
	}
}
