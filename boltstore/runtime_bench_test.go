package boltstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// A counter counts the commits of the Store under it.
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

// A durable Run of a no-op, from 1, 64 and 1,000 goroutines, beside what bbolt
// takes for the same two commits: a put and a delete.
func BenchmarkDurableRun(b *testing.B) {
	for _, n := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("floor=bbolt-Update/%d", n), func(b *testing.B) { putAndDelete(b, n, (*bolt.DB).Update) })
		b.Run(fmt.Sprintf("floor=bbolt-Batch/%d", n), func(b *testing.B) { putAndDelete(b, n, (*bolt.DB).Batch) })
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

func putAndDelete(b *testing.B, n int, commit func(*bolt.DB, func(*bolt.Tx) error) error) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	bucket := []byte("b")
	if err := db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucket)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 150) // as large as a small checkpoint
	fromMany(b, n, func(id string) error {
		if err := commit(db, func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(id), value) }); err != nil {
			return err
		}
		return commit(db, func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(id)) })
	})
}

// fromMany calls f b.N times, from n goroutines, each with an ID of its own.
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

// Heartbeats of one activity that records as fast as it can, without a Store and
// with one; and of one that waits for each.
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
