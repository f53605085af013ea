package boltstore_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// Given a checkpoint with a large input, when only its details change, then the input is
// not written again.
func TestInput_IsWrittenWhenItChanges(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	c := checkpoint("a", []byte("0"))
	c.Input = bytes.Repeat([]byte("x"), 14<<20)
	for i := range 200 {
		c.Details = []byte{byte(i)}
		c.Sequence++
		if err := s.Save(t.Context(), []activity.Checkpoint{c}); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if size := info.Size(); size > 18<<20 { // a second copy would need room beside the first
		t.Errorf("the file has %d bytes", size)
	}
	for _, change := range []func(){
		func() { c.Input[7] = 'y' },
		func() { c.Input = c.Input[:1025] },
		func() { c.Input = c.Input[:1024] }, // is kept in the record
		func() { c.Input = []byte{} },
		func() { c.Input = nil },
		func() { c.Input = []byte(strings.Repeat("z", 1025)) },
	} {
		change()
		c.Sequence++
		if err := s.Save(t.Context(), []activity.Checkpoint{c}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path) // which reads all of it
		got, found, err := s.Load(t.Context(), "a")
		if err != nil || !found || !bytes.Equal(got.Input, c.Input) || (got.Input == nil) != (c.Input == nil) {
			t.Errorf("%d bytes became %d: %v, %v", len(c.Input), len(got.Input), found, err)
		}
		n := 0
		for all, err := range s.All(t.Context()) {
			if n++; err != nil || !bytes.Equal(all.Input, c.Input) {
				t.Errorf("All: %d bytes became %d: %v", len(c.Input), len(all.Input), err)
			}
		}
		if n != 1 {
			t.Errorf("All yields %d", n)
		}
	}
	if err := s.Delete(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if _, found, err := s.Load(t.Context(), "a"); found || err != nil {
		t.Error(found, err)
	}
}
