package boltstore_test

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-9da638b0/activity/boltstore"
)

// Who removes the file while it has it open leaves it to nobody: whoever waits for
// the lock meanwhile must not get the file that has no name any more, beside
// another who creates a new one.
func TestRemovedWhileOthersWait(t *testing.T) {
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
					continue // in use
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
