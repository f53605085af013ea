package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

const recordSize = 200 // the bytes of a record, about as many as those of a small checkpoint

func durableSections(s scale) []section {
	const disk = "The files are in the directory for temporary files, so the numbers depend on its disk. "
	return []section{
		{
			name: "durable", title: "One durable no-op activity",
			text: disk + "One after the other. ns: from the call to its return.",
			rows: []row{
				{name: "floor: append and fsync", remark: "200 bytes to a file", open: appendFile},
				durableWay("floor: one bbolt commit", "of 200 bytes", putOnce).row(1),
				durableWay("floor: two bbolt commits", "a durable run needs two: before its function runs, and when it has completed", update).row(1),
				durableRun().row(1),
				durableWorkflow().row(1),
			},
		},
		{
			name: "durable, at once", title: fmt.Sprintf("The same, %d at once", s.durable),
			text: disk + "ns: the elapsed time divided by the number of activities.",
			rows: []row{
				durableWay("floor: two bbolt commits, Update", "each transaction alone", update).row(s.durable),
				durableWay("floor: two bbolt commits, Batch", "bbolt waits up to 10 ms for other writers", batch).row(s.durable),
				durableRun().row(s.durable),
				durableWorkflow().row(s.durable),
			},
		},
		{
			name: "durable, heartbeat", title: "One heartbeat with an int, of a durable activity",
			text: disk + "From one activity. ns: the call.",
			rows: []row{
				{name: "this package, no Store", ours: true, open: func() (subject, error) { return ourBeats(1, beatInt, intDetails) }},
				{name: "this package, with a Store", remark: "the newest details are saved in the background, every 100 ms", open: func() (subject, error) { return durableBeats(false) }},
				{name: "this package, SyncHeartbeats", remark: "returns when the details are on the disk", open: func() (subject, error) { return durableBeats(true) }},
				durableWay("floor: one bbolt commit", "of 200 bytes", putOnce).row(1),
			},
		},
	}
}

func appendFile() (subject, error) {
	dir, remove, err := tempDir()
	if err != nil {
		return subject{}, err
	}
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return subject{}, errors.Join(err, remove())
	}
	record := make([]byte, recordSize)
	return subject{measure: timed(func(n int) error {
		return repeat(n, func() error {
			if _, err := f.Write(record); err != nil {
				return err
			}
			return f.Sync()
		})
	}, func(int) error { return nil }), close: func() error { return errors.Join(f.Close(), remove()) }}, nil
}

// durableWay returns a way that calls do on a bbolt database with boltstore's options.
func durableWay(name, remark string, do func(db *bbolt.DB, key, value []byte) error) way {
	return way{name: name, remark: remark, open: func() (runner, error) {
		dir, remove, err := tempDir()
		if err != nil {
			return runner{}, err
		}
		db, err := bbolt.Open(filepath.Join(dir, "raw.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoStatistics: true})
		if err != nil {
			return runner{}, errors.Join(err, remove())
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket(bucket)
			return err
		})
		r := runner{
			each: func(ran *int) func() error {
				key := fmt.Appendf(nil, "%p", ran) // unique
				value := make([]byte, recordSize)
				return func() error { *ran++; return do(db, key, value) }
			},
			close: func() error { return errors.Join(db.Close(), remove()) },
		}
		return r, err
	}}
}

var bucket = []byte("bucket")

func putOnce(db *bbolt.DB, key, value []byte) error {
	return db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, value) })
}

func update(db *bbolt.DB, key, value []byte) error {
	if err := putOnce(db, key, value); err != nil {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete(key) })
}

func batch(db *bbolt.DB, key, value []byte) error {
	if err := db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, value) }); err != nil {
		return err
	}
	return db.Batch(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete(key) })
}

func durableRuntime() (rt *activity.Runtime, store *boltstore.Store, remove func() error, err error) {
	dir, remove, err := tempDir()
	if err != nil {
		return nil, nil, nil, err
	}
	store, err = boltstore.Open(filepath.Join(dir, "activities.db"), nil)
	if err != nil {
		return nil, nil, nil, errors.Join(err, remove())
	}
	return activity.New(activity.Config{Store: store}), store, remove, nil
}

func durableRun() way {
	return way{name: "this package, Run", ours: true, open: func() (runner, error) {
		rt, store, remove, err := durableRuntime()
		if err != nil {
			return runner{}, err
		}
		return runner{
			each: func(ran *int) func() error {
				opts := bothTimeouts()
				opts.ID = fmt.Sprintf("%p", ran) // unique
				f := func(activity.Context) error { *ran++; return nil }
				return func() error { return rt.Run(context.Background(), opts, f) }
			},
			close: func() error { return errors.Join(rt.Shutdown(context.Background()), store.Close(), remove()) },
		}, nil
	}}
}

func durableWorkflow() way {
	for _, w := range ways() {
		if w.name == workflowsOnFile {
			w.remark = "a workflow with one activity, with a history; its client polls for the end"
			return w
		}
	}
	panic("there is no way named " + workflowsOnFile)
}

// durableBeats returns a subject in which one durable activity sends heartbeats with an int.
func durableBeats(sync bool) (subject, error) {
	rt, store, remove, err := durableRuntime()
	if err != nil {
		return subject{}, err
	}
	opts := longTimeouts()
	opts.ID, opts.SyncHeartbeats = "beating", sync
	sub, err := beating(1, func(serve func(many func(n int) error) error) error {
		return rt.Run(context.Background(), opts, func(ctx activity.Context) error {
			return serve(func(n int) error { return beatInt(ctx, n) })
		})
	}, func(n int) error {
		if !sync {
			return nil
		}
		var details json.RawMessage
		c, found, err := store.Load(context.Background(), opts.ID)
		if err == nil && found {
			_, err = c.HeartbeatDetails(nil, &details)
		}
		if err == nil && string(details) != intDetails(n) {
			err = fmt.Errorf("the Store has the details %q, want %s", details, intDetails(n))
		}
		return err
	})
	end := sub.close
	sub.close = func() error {
		return errors.Join(end(), rt.Shutdown(context.Background()), store.Close(), remove())
	}
	return sub, err
}
