package boltstore_test

import (
	"fmt"
	"testing"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

func checkpoints(n int) []activity.Checkpoint {
	batch := make([]activity.Checkpoint, n)
	for i := range batch {
		batch[i] = checkpoint(fmt.Sprintf("import of file %d", i), []byte(`[{"Next":12345,"To":100000}]`))
	}
	return batch
}

// BenchmarkSave compares Save with a bbolt transaction of about the same bytes.
func BenchmarkSave(b *testing.B) {
	for _, n := range []int{1, 64, 1000} {
		batch := checkpoints(n)
		b.Run(fmt.Sprintf("%d/store", n), func(b *testing.B) {
			s := open(b, newPath(b))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Save(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/bbolt", n), func(b *testing.B) {
			db, err := bbolt.Open(newPath(b), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			const size = 78 // of a record
			b.ReportAllocs()
			for b.Loop() {
				err := db.Update(func(tx *bbolt.Tx) error {
					bucket, err := tx.CreateBucketIfNotExists([]byte("bucket"))
					if err != nil {
						return err
					}
					for i := range batch {
						if err := bucket.Put([]byte(batch[i].ID), make([]byte, size)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	s := open(b, newPath(b))
	batch := checkpoints(10_000)
	save(b, s, batch...)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, found, err := s.Load(b.Context(), batch[i%len(batch)].ID); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}

func BenchmarkAll10000(b *testing.B) {
	s := open(b, newPath(b))
	save(b, s, checkpoints(10_000)...)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for _, err := range s.All(b.Context()) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

// BenchmarkOpen10000 reads and checks the whole file.
func BenchmarkOpen10000(b *testing.B) {
	path := newPath(b)
	s := open(b, path)
	save(b, s, checkpoints(10_000)...)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := open(b, path).Close(); err != nil {
			b.Fatal(err)
		}
	}
}
