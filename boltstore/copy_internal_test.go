package boltstore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// Given a copy in its transaction, when a Save changes all checkpoints after each part that is
// written, then the copy has the state from before, and the Saves are kept.
func TestCopyTo_SavesBetweenItsParts(t *testing.T) {
	open := func(path string) *Store {
		t.Helper()
		s, err := Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	wantSequence := func(s *Store, want, checkpoints int) {
		t.Helper()
		n := 0
		for c, err := range s.All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			if c.Sequence != uint64(want) || !bytes.Equal(c.Details, bytes.Repeat([]byte{byte(want)}, 3000)) {
				t.Errorf("%q has Sequence %d, want %d", c.ID, c.Sequence, want)
			}
		}
		if n != checkpoints {
			t.Errorf("there are %d checkpoints, want %d", n, checkpoints)
		}
	}

	const checkpoints = 20
	path := filepath.Join(t.TempDir(), "activities.db")
	s := open(path)
	// Free space, so that the Saves need no larger mapping, for which they would wait forever.
	filler := activity.Checkpoint{ID: "filler", Details: make([]byte, 8<<20)}
	if err := s.Save(t.Context(), []activity.Checkpoint{filler}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), []string{filler.ID}); err != nil {
		t.Fatal(err)
	}
	saves := 0
	save := func() error {
		saves++
		var batch []activity.Checkpoint
		for i := range checkpoints {
			batch = append(batch, activity.Checkpoint{
				ID: fmt.Sprint(i), Sequence: uint64(saves), Details: bytes.Repeat([]byte{byte(saves)}, 3000),
			})
		}
		return s.Save(t.Context(), batch)
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	copied, err := os.Create(filepath.Join(t.TempDir(), "copy.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	err = s.copyTo(writerFunc(func(b []byte) (int, error) {
		if saves <= 50 {
			if err := save(); err != nil {
				return 0, err
			}
		}
		return copied.Write(b)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if saves != 51 {
		t.Errorf("there were %d Saves, want 50 during the copy", saves)
	}
	if err := verifyFile(copied); err != nil {
		t.Error(err)
	}
	wantSequence(open(copied.Name()), 1, checkpoints)
	wantSequence(s, saves, checkpoints)
	if err := verifyFile(s.file); err != nil {
		t.Error(err)
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
