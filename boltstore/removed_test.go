package boltstore_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// Given Opens that wait for the lock, when the file is removed under the lock, then no Open
// returns the removed file, and only one Store is open at a time.
func TestRemoved_WhileOthersWait(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be removed")
	}
	path := filepath.Join(t.TempDir(), "activities.db")
	var open atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for done := 0; done < 10; {
				s, err := boltstore.Open(path, nil)
				if err != nil {
					continue // the file is in use
				}
				if n := open.Add(1); n != 1 {
					t.Errorf("%d Stores are open at once", n)
				}
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
				open.Add(-1)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				done++
			}
		})
	}
	all.Wait()
}

// Given an open file, when it is removed or replaced, then the next Save returns an error, and
// so does every later call.
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
