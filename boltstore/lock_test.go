package boltstore_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity/boltstore"
)

// Given a negative LockTimeout, when Open gets it, then it fails and creates nothing.
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
		t.Errorf("the directory has %v (error %v), want nothing", entries, err)
	}
}

// Given an open file, when it is closed 1 ns before or after the LockTimeout of another Open,
// then that Open succeeds or fails, exactly at its LockTimeout.
func TestLockTimeout_HolderCloses(t *testing.T) {
	for _, test := range []struct {
		name string
		opts *boltstore.Options
		want time.Duration
	}{
		{"no Options", nil, 500 * time.Millisecond},
		{"zero Options", &boltstore.Options{}, 500 * time.Millisecond},
		{"below the time between two attempts", &boltstore.Options{LockTimeout: 2}, 2},
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
						t.Errorf("Load returned found %t, error %v", found, err)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// Given a file that is not open, when LockTimeout is as short or as long as possible, then
// Open does not wait.
func TestLockTimeout_FileIsFree(t *testing.T) {
	for _, timeout := range []time.Duration{0, 1, math.MaxInt64} {
		path := newPath(t)
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			for range 2 { // first for a new file, then for an existing one
				s, err := boltstore.Open(path, &boltstore.Options{LockTimeout: timeout})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
			if waited := time.Since(start); waited != 0 {
				t.Errorf("with a LockTimeout of %v, Open waited %v, want 0", timeout, waited)
			}
		})
	}
}

// Given a file that another Store or another process has open, when it is opened, then Open
// returns ErrInUse until the file is closed, and does not disturb the other.
func TestOpen_InUse(t *testing.T) {
	t.Parallel() // it waits for a child process
	path := newPath(t)
	once := &boltstore.Options{LockTimeout: 1}
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	_, err := boltstore.Open(path, once)
	wantInUse(t, err, path)
	out, err := child(t, "open", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), path+": open: in use") {
		t.Errorf("another process got %v with the output %s, want ErrInUse", err, out)
	}
	save(t, s, checkpoint("b", nil)) // the other Opens did not disturb s
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	holder := child(t, "hold", path)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out2, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out2.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_, err = boltstore.Open(path, once)
	wantInUse(t, err, path)
	in.Close() // the holder now closes the Store
	s, err = boltstore.Open(path, &boltstore.Options{LockTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ids(s); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the Store has %q (error %v), want a and b", got, err)
	}
	if err := errors.Join(s.Close(), holder.Wait()); err != nil {
		t.Error(err)
	}
}

// Given a file that is in use and damaged, when it is opened, then Open returns ErrInUse,
// because the other Store may be changing the file.
func TestOpen_InUseAndDamaged(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	content := read(t, path)
	overwrite := func(content []byte) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(make([]byte, len(content)))
	_, err := boltstore.Open(path, nil)
	overwrite(content)
	wantInUse(t, err, path)
	save(t, s, checkpoint("b", nil))
}

func wantInUse(t testing.TB, err error, path string) {
	t.Helper()
	wantError(t, err, path, "in use")
	if !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("the error does not wrap ErrInUse: %v", err)
	}
}
