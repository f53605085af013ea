package boltstore_test

import (
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity/boltstore"
)

func TestLockTimeout_Negative(t *testing.T) {
	path := newPath(t)
	for timeout, want := range map[time.Duration]string{
		-1:            "boltstore: Options.LockTimeout must not be negative (got -1ns)",
		-time.Second:  "boltstore: Options.LockTimeout must not be negative (got -1s)",
		math.MinInt64: "boltstore: Options.LockTimeout must not be negative (got -2562047h47m16.854775808s)",
	} {
		s, err := boltstore.Open(path, &boltstore.Options{LockTimeout: timeout})
		if s != nil || err == nil || err.Error() != want {
			t.Errorf("Open with a LockTimeout of %v returned %v, %v, want the error %q", timeout, s, err, want)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("the folder has %v, %v", entries, err)
	}
}

// Given a Store that has the file open, when it closes just before or just after
// another Open's LockTimeout, then that Open succeeds or fails, and not a
// nanosecond later than its LockTimeout. The clock is the bubble's.
func TestLockTimeout_HolderCloses(t *testing.T) {
	for _, test := range []struct {
		name string
		opts *boltstore.Options
		want time.Duration
	}{
		{"no Options", nil, 500 * time.Millisecond},
		{"zero Options", &boltstore.Options{}, 500 * time.Millisecond},
		{"below the time between two tries", &boltstore.Options{LockTimeout: 2}, 2},
		{"below the default", &boltstore.Options{LockTimeout: 33 * time.Millisecond}, 33 * time.Millisecond},
		{"above the default", &boltstore.Options{LockTimeout: 7777777777}, 7777777777},
	} {
		for _, late := range []bool{false, true} {
			name := test.name + ", in time"
			closes := test.want - 1
			if late {
				name = test.name + ", late"
				closes = test.want + 1
			}
			t.Run(name, func(t *testing.T) {
				path := newPath(t)
				synctest.Test(t, func(t *testing.T) {
					holder := open(t, path)
					save(t, holder, checkpoint("a", nil))
					var closing sync.WaitGroup
					defer closing.Wait()
					closing.Go(func() {
						time.Sleep(closes)
						if err := holder.Close(); err != nil {
							t.Error(err)
						}
					})

					start := time.Now()
					s, err := boltstore.Open(path, test.opts)
					if waited := time.Since(start); waited != test.want {
						t.Errorf("Open returned after %v, want %v", waited, test.want)
					}
					if late {
						wantInUse(t, err, path)
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if _, found, err := s.Load(t.Context(), "a"); err != nil || !found {
						t.Errorf("found %t, %v", found, err)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// Given a file that nobody has open, when LockTimeout is as short or as long as
// it can be, then Open does not wait.
func TestLockTimeout_FileIsFree(t *testing.T) {
	for _, timeout := range []time.Duration{0, 1, math.MaxInt64} {
		path := newPath(t)
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			for range 2 { // it is new, and it is not
				s, err := boltstore.Open(path, &boltstore.Options{LockTimeout: timeout})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if waited := time.Since(start); waited != 0 {
				t.Errorf("with a LockTimeout of %v, Open waited %v", timeout, waited)
			}
		})
	}
}
