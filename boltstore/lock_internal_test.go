package boltstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Given a file that is in use for 90 ms, when openFile waits for it, then the rest of the
// timeout is left for bbolt's own lock, so that both together wait no longer.
func TestOpenFile_LeavesTheRestOfTheTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "activities.db")
	for _, test := range []struct{ timeout, left time.Duration }{
		{time.Second, 900 * time.Millisecond}, // the sixth attempt succeeds, after 100 ms
		{90 * time.Millisecond, 1},            // the last attempt succeeds; 0 would mean no limit
	} {
		synctest.Test(t, func(t *testing.T) {
			holder, err := Open(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			var closing sync.WaitGroup
			defer closing.Wait()
			closing.Go(func() {
				time.Sleep(90*time.Millisecond - 1)
				if err := holder.Close(); err != nil {
					t.Error(err)
				}
			})
			s := &Store{path: path}
			defer s.abandon()
			timeout := test.timeout
			if _, err := s.openFile(path, os.O_RDWR, 0o600, &timeout); err != nil {
				t.Fatal(err)
			}
			if timeout != test.left {
				t.Errorf("openFile left %v of %v, want %v", timeout, test.timeout, test.left)
			}
		})
	}
}

// Given a file that is in use, when OpenFile shortens Options.Timeout, then bbolt waits only
// for the shorter time. openFile depends on this.
func TestBbolt_ReadsTimeoutAfterOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bbolt.db")
	synctest.Test(t, func(t *testing.T) {
		holder, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		opts := &bbolt.Options{Timeout: time.Hour}
		opts.OpenFile = func(path string, flag int, mode os.FileMode) (*os.File, error) {
			opts.Timeout = 1
			return os.OpenFile(path, flag, mode)
		}
		start := time.Now()
		if _, err := bbolt.Open(path, 0o600, opts); !errors.Is(err, bolterrors.ErrTimeout) {
			t.Errorf("bbolt.Open returned %v, want ErrTimeout", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("bbolt.Open waited %v, want 0", waited)
		}
	})
}
