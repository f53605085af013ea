package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
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
		t.Errorf("49 Saves have written %d bytes", n)
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

// Given a large input, when the checkpoints beside it change, then it is not written again.
func TestInput_IsNotWrittenForItsNeighbors(t *testing.T) {
	for _, sizes := range [][2]int{{14 << 20, 2000}, {2 << 20, 2000}, {14 << 20, 10}} {
		s := open(t, newPath(t))
		c := checkpoint("import", nil)
		c.Input = bytes.Repeat([]byte("x"), sizes[0])
		saveAll(t, s, c)
		before := written(t)
		const n = 20
		for i := range n {
			j := checkpoint(fmt.Sprint("job ", i), nil)
			j.Input = bytes.Repeat([]byte("y"), sizes[1])
			saveAll(t, s, j)
			if err := s.Delete(t.Context(), []string{j.ID}); err != nil {
				t.Fatal(err)
			}
		}
		if w := written(t) - before; w > n*2*200_000 {
			t.Errorf("%d bytes beside %d: %d bytes written", sizes[1], sizes[0], w)
		}
	}
}

func saveAll(t *testing.T, s *boltstore.Store, batch ...activity.Checkpoint) {
	t.Helper()
	if err := s.Save(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

// Given random Saves and Deletes of inputs below and above the limit, and Opens, then the
// Store holds what a map does, and no piece is left over.
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
				saveAll(t, s, batch...)
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

// countPieces is how many pieces of inputs a file has, or -1 if it has no bucket for them.
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

// When no large input is left, older programs can read the file.
func TestInput_TheBucketGoesWithTheLast(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	c := checkpoint("a", nil)
	c.Input = make([]byte, 2000)
	saveAll(t, s, c)
	if err := s.Delete(t.Context(), []string{"a"}); err != nil {
		t.Fatal(err)
	}
	saveAll(t, s, checkpoint("b", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := countPieces(t, path); n != -1 {
		t.Errorf("%d pieces", n)
	}
}

// A bucket of a later version is refused as one.
func TestOpen_BucketsOfALaterVersion(t *testing.T) {
	for _, name := range []string{"activity checkpoints 2", "activity checkpoints inputs 2"} {
		path := newPath(t)
		if err := open(t, path).Close(); err != nil {
			t.Fatal(err)
		}
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte(name))
			return err
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := boltstore.Open(path, nil); err == nil || !strings.Contains(err.Error(), "another version") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Given a program that changes its folder, or a name as long as the system takes, then the
// Store works.
func TestOpen_RelativeAndLongNames(t *testing.T) {
	t.Chdir(t.TempDir())
	s := open(t, "activities.db")
	saveAll(t, s, checkpoint("a", nil))
	t.Chdir(t.TempDir())
	saveAll(t, s, checkpoint("b", nil))
	saveAll(t, open(t, strings.Repeat("n", 250)), checkpoint("a", nil))
}
