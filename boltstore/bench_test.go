package boltstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"go.etcd.io/bbolt"
)

func checkpoints(n int) []activity.Checkpoint {
	batch := make([]activity.Checkpoint, n)
	for i := range batch {
		batch[i] = checkpoint(fmt.Sprintf("import of file %d", i), []byte(`[{"Next":12345,"To":100000}]`))
	}
	return batch
}

// BenchmarkSave compares Save with a bbolt transaction that writes about as many bytes.
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
			const size = 78 // bytes of a record
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

// BenchmarkOpen10000 opens a file of 10,000 checkpoints, which Open reads and checks as a whole.
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

// A counter is a Store that counts its commits.
type counter struct {
	*boltstore.Store
	commits atomic.Int64
}

func (c *counter) Save(ctx context.Context, batch []activity.Checkpoint) error {
	c.commits.Add(1)
	return c.Store.Save(ctx, batch)
}

func (c *counter) Delete(ctx context.Context, ids []string) error {
	c.commits.Add(1)
	return c.Store.Delete(ctx, ids)
}

func openBench(b *testing.B) *counter {
	s, err := boltstore.Open(filepath.Join(b.TempDir(), "activities.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return &counter{Store: s}
}

// BenchmarkDurableRun measures a durable Run of a no-op from 1, 64 and 1,000 goroutines,
// beside the same two commits in bbolt alone: a put and a delete.
func BenchmarkDurableRun(b *testing.B) {
	for _, n := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("floor=bbolt-Update/%d", n), func(b *testing.B) { putAndDelete(b, n, (*bbolt.DB).Update) })
		b.Run(fmt.Sprintf("floor=bbolt-Batch/%d", n), func(b *testing.B) { putAndDelete(b, n, (*bbolt.DB).Batch) })
		b.Run(fmt.Sprintf("activity/%d", n), func(b *testing.B) {
			store := openBench(b)
			rt := activity.New(activity.Config{Store: store})
			fromMany(b, n, func(id string) error {
				return rt.Run(context.Background(), activity.Options{ID: id}, func(activity.Context) error { return nil })
			})
			b.ReportMetric(float64(store.commits.Load())/float64(b.N), "commits/op")
		})
	}
}

func putAndDelete(b *testing.B, n int, commit func(*bbolt.DB, func(*bbolt.Tx) error) error) {
	db, err := bbolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	bucket := []byte("b")
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 150) // as large as a small checkpoint
	fromMany(b, n, func(id string) error {
		if err := commit(db, func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put([]byte(id), value) }); err != nil {
			return err
		}
		return commit(db, func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(id)) })
	})
}

// fromMany calls f b.N times from n goroutines, each of which uses its own ID.
func fromMany(b *testing.B, n int, f func(id string) error) {
	b.ResetTimer()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			id := fmt.Sprintf("import-%04d", i)
			for left.Add(-1) >= 0 {
				if err := f(id); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.StopTimer()
}

// BenchmarkDurableHeartbeat measures the heartbeats of an activity that records as fast as it
// can: without a Store, with one, and with SyncHeartbeats.
func BenchmarkDurableHeartbeat(b *testing.B) {
	run := func(name string, store *counter, opts activity.Options) {
		b.Run(name, func(b *testing.B) {
			var cfg activity.Config
			if store != nil {
				cfg.Store = store
				store.commits.Store(0)
			}
			opts.ID = "import"
			err := activity.New(cfg).Run(context.Background(), opts, func(ctx activity.Context) error {
				for i := 1000; b.Loop(); i++ {
					if err := ctx.Heartbeat(i); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			if store != nil {
				b.ReportMetric(float64(store.commits.Load())/b.Elapsed().Seconds(), "commits/s")
			}
		})
	}
	run("floor=no-store", nil, activity.Options{})
	run("store", openBench(b), activity.Options{})
	run("store-sync", openBench(b), activity.Options{SyncHeartbeats: true})
}
