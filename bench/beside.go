package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
)

// longTimeouts returns timeouts that are longer than any measurement.
func longTimeouts() activity.Options {
	return activity.Options{StartToCloseTimeout: 2 * time.Hour, HeartbeatTimeout: time.Hour}
}

func besideSection(s scale) section {
	sec := section{
		name: "run, beside", title: "One no-op activity beside many pending deadlines", apart: true,
		text: "Run in a Runtime in which other activities wait, each with both timeouts pending. " +
			"Garbage collection is rarer if they hold more memory. ns: from the call to its return.",
	}
	for i, n := range s.pending {
		sec.rows = append(sec.rows, row{
			name: "this package, beside " + count(n), ours: i == 0,
			open: func() (subject, error) { return beside(n) },
		})
	}
	return sec
}

func beside(n int) (subject, error) {
	rt := activity.New(activity.Config{})
	release := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(n)
	handles := make([]*activity.Handle[struct{}], n)
	for i := range handles {
		var err error
		handles[i], err = activity.Start(context.Background(), rt, longTimeouts(), func(activity.Context, struct{}) (struct{}, error) {
			waiting.Done()
			<-release
			return struct{}{}, nil
		}, struct{}{})
		if err != nil {
			return subject{}, err
		}
	}
	waiting.Wait()
	ran := 0
	f := func(activity.Context) error { ran++; return nil }
	return subject{measure: timed(func(ops int) error {
		return repeat(ops, func() error { return rt.Run(context.Background(), bothTimeouts(), f) })
	}, func(ops int) error {
		did := ran
		ran = 0
		return errors.Join(same(did, ops, "activities"), same(rt.Stats().Running, n, "pending activities"))
	}), close: func() error {
		close(release)
		for _, h := range handles {
			if _, err := h.Wait(context.Background()); err != nil {
				return err
			}
		}
		freeMemory()
		return nil
	}}, nil
}
