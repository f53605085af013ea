package boltstore_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

// Given a checkpoint with a large input, when only its details change, then the input is
// not written again.
func TestInput_IsWrittenWhenItChanges(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	c := checkpoint("a", []byte("0"))
	c.Input = bytes.Repeat([]byte("x"), 14<<20)
	before := 0
	for i := range 50 {
		c.Details = []byte{byte(i)}
		c.Sequence++
		if err := s.Save(t.Context(), []activity.Checkpoint{c}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			before = written(t)
		}
	}
	if n := written(t) - before; n > 2<<20 {
		t.Errorf("49 Saves wrote %d bytes, want at most 2 MiB", n)
	}
	for _, change := range []func(){
		func() { c.Input[7] = 'y' },
		func() { c.Input = c.Input[:1025] },
		func() { c.Input = c.Input[:1024] }, // now stored in the record
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
		s = open(t, path) // checks the whole file
		got, found, err := s.Load(t.Context(), "a")
		if err != nil || !found || !bytes.Equal(got.Input, c.Input) || (got.Input == nil) != (c.Input == nil) {
			t.Errorf("Load returned %d bytes of %d: found %v, error %v", len(got.Input), len(c.Input), found, err)
		}
		n := 0
		for all, err := range s.All(t.Context()) {
			if n++; err != nil || !bytes.Equal(all.Input, c.Input) {
				t.Errorf("All yielded %d bytes of %d: %v", len(all.Input), len(c.Input), err)
			}
		}
		if n != 1 {
			t.Errorf("All yielded %d checkpoints, want 1", n)
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
		t.Errorf("after Delete, Load returned found %v, error %v", found, err)
	}
}

// Given a large input, when the checkpoints beside it change, then it is not written again.
func TestInput_IsNotWrittenForItsNeighbors(t *testing.T) {
	for _, sizes := range [][2]int{{14 << 20, 2000}, {2 << 20, 2000}, {14 << 20, 10}} {
		s := open(t, newPath(t))
		c := checkpoint("import", nil)
		c.Input = bytes.Repeat([]byte("x"), sizes[0])
		save(t, s, c)
		before := written(t)
		const n = 20
		for i := range n {
			j := checkpoint(fmt.Sprint("job ", i), nil)
			j.Input = bytes.Repeat([]byte("y"), sizes[1])
			save(t, s, j)
			if err := s.Delete(t.Context(), []string{j.ID}); err != nil {
				t.Fatal(err)
			}
		}
		if w := written(t) - before; w > n*2*200_000 {
			t.Errorf("Saves and Deletes of %d bytes beside an input of %d wrote %d bytes", sizes[1], sizes[0], w)
		}
	}
}

// Given inputs below and above the limit, when they are saved and deleted at random between
// Opens, then the Store holds the same as a map, and no piece is left over.
func TestInput_RandomChanges(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 7))
		path := newPath(t)
		s := open(t, path)
		want := map[string]activity.Checkpoint{}
		for step := range 200 {
			switch r.IntN(10) {
			case 0:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
			case 1, 2, 3:
				var gone []string
				for range r.IntN(5) {
					id := fmt.Sprint(r.IntN(30))
					gone = append(gone, id, id)
					delete(want, id)
				}
				if err := s.Delete(t.Context(), gone); err != nil {
					t.Fatal(err)
				}
			default:
				var batch []activity.Checkpoint
				for range r.IntN(6) {
					c := checkpoint(fmt.Sprint(r.IntN(30)), bytes.Repeat([]byte{byte(step)}, r.IntN(3000)))
					c.Input = bytes.Repeat([]byte{byte(r.IntN(2))}, []int{0, 1, 1023, 1024, 1025, 8192, 8193, 100_000}[r.IntN(8)])
					batch = append(batch, c)
					want[c.ID] = c
				}
				save(t, s, batch...)
			}
		}
		n := 0
		for c, err := range s.All(t.Context()) {
			if n++; err != nil || !bytes.Equal(c.Input, want[c.ID].Input) || !bytes.Equal(c.Details, want[c.ID].Details) {
				t.Errorf("seed %d: %q: %v", seed, c.ID, err)
			}
		}
		if n != len(want) {
			t.Errorf("seed %d: %d checkpoints, want %d", seed, n, len(want))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		pieces := 0
		for _, c := range want {
			if len(c.Input) > 1024 {
				pieces += (len(c.Input) + 8191) / 8192
			}
		}
		if got := countPieces(t, path); got != pieces {
			t.Errorf("seed %d: %d pieces, want %d", seed, got, pieces)
		}
	}
}

// countPieces returns the number of input pieces in a file, or -1 if it has no bucket for them.
func countPieces(t *testing.T, path string) int {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	n := -1
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("activity checkpoints inputs 1"))
		if b == nil {
			return nil
		}
		n = 0
		return b.ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Given one large input, when it is deleted, then the bucket for inputs goes as well, so that
// older programs can read the file.
func TestInput_LastDeletesTheBucket(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	c := checkpoint("a", nil)
	c.Input = make([]byte, 2000)
	save(t, s, c)
	if err := s.Delete(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	save(t, s, checkpoint("b", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := countPieces(t, path); n != -1 {
		t.Errorf("the bucket for inputs has %d pieces, want no bucket", n)
	}
}
