package boltstore_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"go.etcd.io/bbolt"
)

var (
	truncatedSizes = flag.Int("truncated.sizes", 30, "the number of sizes to which TestDamage_Truncated truncates a file")
	flippedFiles   = flag.Int("flipped.files", 100, "the number of files in which TestDamage_FlippedBytes changes bytes")
	flippedSeed    = flag.Uint64("flipped.seed", 0, "the seed of TestDamage_FlippedBytes; if 0, a random one")
)

// sample returns the content of a file with branch and leaf pages, overflow and a freelist,
// and the checkpoints stored in it. Its last two commits store the same, because a file with
// one damaged meta page is read as of the commit before.
func sample(t *testing.T) ([]byte, map[string]activity.Checkpoint) {
	t.Helper()
	path := newPath(t)
	s := open(t, path)
	stored := map[string]activity.Checkpoint{}
	var batch []activity.Checkpoint
	var gone []string
	for i := range 120 {
		c := checkpoint(fmt.Sprintf("activity %d", i), bytes.Repeat([]byte{byte(i)}, i%40*20))
		if i%30 == 0 {
			c.Details = bytes.Repeat([]byte{byte(i)}, 9000)
		}
		batch = append(batch, c)
		if i%3 == 1 {
			gone = append(gone, c.ID)
		} else {
			stored[c.ID] = c
		}
	}
	save(t, s, batch...)
	if err := s.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		save(t, s, batch[0])
	}
	return read(t, path), stored
}

// examine opens a file with the given content and reports whether Open took it. If not, the file
// must be unchanged. If so, every checkpoint must be as stored or be reported as damaged, and the
// Store must still take Saves.
func examine(t *testing.T, content []byte, stored map[string]activity.Checkpoint) (opened bool) {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := boltstore.Open(path, nil)
	if err != nil {
		if !strings.Contains(err.Error(), path) {
			t.Errorf("the error of Open does not name the file: %v", err)
		}
		if !bytes.Equal(read(t, path), content) {
			t.Errorf("Open refused the file and changed it: %v", err)
		}
		return false
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	n, damaged := 0, false
	for c, err := range s.All(t.Context()) {
		if err != nil {
			damaged = true
			break
		}
		n++
		if !reflect.DeepEqual(c, stored[c.ID]) {
			t.Errorf("All yielded %q as %+v, want %+v", c.ID, c, stored[c.ID])
		}
	}
	if !damaged && n != len(stored) {
		t.Errorf("All yielded %d checkpoints, want %d", n, len(stored))
	}
	for id, want := range stored {
		c, found, err := s.Load(t.Context(), id)
		if err == nil && (!found || !reflect.DeepEqual(c, want)) {
			t.Errorf("Load of %q returned %+v, %v, want %+v", id, c, found, want)
		}
	}
	added := checkpoint("added", make([]byte, 30_000))
	save(t, s, added, checkpoint("activity 0", nil))
	again := open(t, copyFile(t, path))
	if c, found, err := again.Load(t.Context(), "added"); err != nil || !found || !reflect.DeepEqual(c, added) {
		t.Errorf("Load of the added checkpoint returned %+v, %v, %v", c, found, err)
	}
	return true
}

// Given a file truncated to various sizes, when it is opened, then Open refuses it, or every
// checkpoint that is read is as it was saved.
func TestDamage_Truncated(t *testing.T) {
	content, stored := sample(t)
	step := max(1, len(content) / *truncatedSizes) | 1 // odd, so that few sizes are whole pages
	opened, sizes := 0, 0
	for size := 1; size < len(content); size += step {
		sizes++
		if examine(t, content[:size], stored) {
			opened++
		}
	}
	if !examine(t, content, stored) {
		t.Error("Open refused the whole file")
	}
	if opened > sizes/2 {
		t.Errorf("Open took %d of %d truncated files, want at most half", opened, sizes)
	}
}

// Given a file with a few changed bytes, when it is opened, then Open refuses it, or every
// checkpoint that is read is as it was saved.
func TestDamage_FlippedBytes(t *testing.T) {
	content, stored := sample(t)
	seed := *flippedSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-flipped.seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	opened := 0
	pageSize := os.Getpagesize()
	for i := range *flippedFiles {
		at := random.IntN(len(content))
		if i%2 == 0 { // in the header or the first elements of a page, or the fields of a meta page
			at = at / pageSize * pageSize
			at += random.IntN(80)
		}
		damaged := slices.Clone(content)
		for range 1 + random.IntN(4) {
			damaged[at] ^= byte(1 + random.IntN(255))
			at = min(at+1, len(content)-1)
		}
		if examine(t, damaged, stored) {
			opened++
		}
		if t.Failed() {
			t.Fatalf("file %d failed, with a change just before byte %d", i, at)
		}
	}
	if n := *flippedFiles; n >= 100 && (opened == 0 || opened == n) {
		t.Errorf("Open took %d of %d damaged files, want some but not all", opened, n)
	}
}

// Given a file that is not a Store's of this version, when it is opened, then Open refuses it
// with the reason.
func TestOpen_ForeignFiles(t *testing.T) {
	withBuckets := func(names ...string) []byte {
		path := newPath(t)
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, name := range names {
				if _, err := tx.CreateBucket([]byte(name)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return read(t, path)
	}
	content, stored := sample(t)
	badMeta := slices.Clone(content)
	badMeta[20]++
	badMeta[os.Getpagesize()+20]++
	for _, test := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"one byte", []byte{0}, "not a bbolt file"},
		{"text", bytes.Repeat([]byte("SQLite format 3\n"), 5000), "not a bbolt file"},
		{"zeros", make([]byte, 1<<16), "not a bbolt file"},
		{"meta pages", badMeta, "a bbolt file of version 3, not 2"},
		{"another program's", withBuckets("users"), `a bbolt file of another program: it has the key "users"`},
		{"another program's as well", withBuckets("activity checkpoints 1", "users"), `a bbolt file of another program: it has the key "users"`},
		{"newer", withBuckets("activity checkpoints 2"), `of another version: "activity checkpoints 2"`},
		{"half a file", content[:len(content)/2], "open: truncated: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			if examine(t, test.content, stored) {
				t.Error("Open took the file")
			}
			path := newPath(t)
			if err := os.WriteFile(path, test.content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := boltstore.Open(path, nil)
			wantError(t, err, path, test.want)
			wantError(t, err, path, "left as it is")
		})
	}
	if !examine(t, withBuckets(), nil) {
		t.Error("Open refused an empty bbolt file")
	}
}

// Given a file with a bucket of a later version, when it is opened, then Open refuses it.
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
			t.Errorf("Open of a file with the bucket %q returned %v", name, err)
		}
	}
}

// Given a file without a freelist, when it is opened, then Open refuses it. bbolt would search
// for free pages in a goroutine, where a panic ends the process.
func TestOpen_WithoutFreelist(t *testing.T) {
	for commits := 1; commits <= 2; commits++ {
		path := newPath(t)
		s := open(t, path)
		save(t, s, checkpoint("a", nil))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		commit := func(options *bbolt.Options, n int) (ofCrash []byte) {
			t.Helper()
			db, err := bbolt.Open(path, 0o600, options)
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				if err := db.Update(func(tx *bbolt.Tx) error { return nil }); err != nil {
					t.Fatal(err)
				}
			}
			ofCrash = read(t, path)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			return ofCrash
		}
		ofCrash := commit(&bbolt.Options{NoFreelistSync: true}, commits)
		_, err := boltstore.Open(path, nil)
		wantError(t, err, path, "without a freelist")
		if err := os.WriteFile(path, ofCrash, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = boltstore.Open(path, nil)
		wantError(t, err, path, "without a freelist")

		commit(nil, 0) // writes a freelist
		if got, err := ids(open(t, path)); err != nil || !slices.Equal(got, []string{"a"}) {
			t.Errorf("with a freelist, the Store has %q (error %v), want a", got, err)
		}
	}
}

// Given damaged records, when they are read, then the errors name them, All yields the others
// first, and Save and Delete replace them.
func TestDamage_Records(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil), checkpoint("b", []byte("details of b")), checkpoint("c", []byte("details of c")), checkpoint("d", nil))
	content := read(t, path)
	for _, details := range []string{"details of b", "details of c"} {
		at := bytes.Index(content, []byte(details))
		if at < 0 {
			t.Fatal("the details are not in the file")
		}
		content[at]++
	}
	path = filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	got, err := ids(s)
	wantError(t, err, path, `"b": the record is damaged`)
	wantError(t, err, path, `"c": the record is damaged`)
	if !slices.Equal(got, []string{"a", "d"}) {
		t.Errorf("before the error, All yielded %q, want a and d", got)
	}
	_, _, err = s.Load(t.Context(), "b")
	wantError(t, err, path, `load "b": the record is damaged`)
	save(t, s, checkpoint("b", nil))
	if err := s.Delete(t.Context(), []string{"c"}); err != nil {
		t.Fatal(err)
	}
	if got, err := ids(open(t, copyFile(t, path))); err != nil || !slices.Equal(got, []string{"a", "b", "d"}) {
		t.Errorf("the Store has %q (error %v)", got, err)
	}
}

// Given an open file, when it is truncated, then a method that reads the missing part returns an
// error, although reading a mapped page that is missing is a fault.
func TestDamage_TruncatedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated")
	}
	for _, operation := range []string{"load", "save", "delete", "read all"} {
		t.Run(operation, func(t *testing.T) {
			path := newPath(t)
			s := open(t, path)
			save(t, s, checkpoint("a", make([]byte, 100_000)), checkpoint("b", nil))
			if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
				t.Fatal(err)
			}
			call := func() error {
				switch operation {
				case "load":
					_, _, err := s.Load(t.Context(), "a")
					return err
				case "save":
					return s.Save(t.Context(), []activity.Checkpoint{checkpoint("a", nil)})
				case "delete":
					return s.Delete(t.Context(), []string{"a"})
				}
				_, err := ids(s)
				return err
			}
			for range 2 {
				wantError(t, call(), path, "damaged while it was open")
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			_, err := boltstore.Open(path, nil)
			wantError(t, err, path, "open: truncated: ")
		})
	}
}
