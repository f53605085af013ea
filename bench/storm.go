package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/seed-9da638b0/activity"
)

const (
	stormAttempts = 5
	stormInterval = 20 * time.Millisecond // the longest first interval; jitter takes up to half of it
)

var errStorm = errors.New("fails each time")

func stormSection(s scale) section {
	stormRow := func(name, remark string, ours bool, run func(n int, attempt func() error) error) row {
		return row{name: name, remark: remark, ours: ours, fixed: s.storm, open: func() (subject, error) {
			return subject{measure: func(n int) ([]sample, error) { return storm(n, run) }}, nil
		}}
	}
	return section{
		name: "storm", title: count(s.storm) + " activities that fail " + fmt.Sprint(stormAttempts) + " times", rounds: s.slowRounds,
		text: "All at once. The first backoff is a random 10 to 20 ms, and it doubles. ns: the CPU time of the process, user and system, " +
			"for each retry, including the activity's start and end. Bytes and allocations are for each retry, too.",
		rows: []row{
			stormRow("by hand", "a goroutine each, and time.Sleep", false, byHandStorm),
			stormRow("this package, Start", "the log is discarded", true, func(n int, attempt func() error) error {
				return ourStorm(n, slog.DiscardHandler, attempt)
			}),
			stormRow("this package, Start, log", "each failure is logged, by slog's text handler to nowhere", false, func(n int, attempt func() error) error {
				return ourStorm(n, slog.NewTextHandler(io.Discard, nil), attempt)
			}),
			stormRow("failsafe-go, RunAsync", "RetryPolicy: a goroutine each, and no log", false, failsafeStorm),
		},
	}
}

func storm(n int, run func(n int, attempt func() error) error) ([]sample, error) {
	freeMemory()
	var attempts atomic.Int64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	stack := newStack()
	cpu := cpuTime()
	err := run(n, func() error { attempts.Add(1); return errStorm })
	cpu = cpuTime() - cpu
	runtime.ReadMemStats(&after)
	if err == nil {
		err = same(int(attempts.Load()), stormAttempts*n, "attempts")
	}
	retries := float64(n * (stormAttempts - 1))
	return []sample{{
		ns:     cpu / retries,
		bytes:  float64(after.TotalAlloc-before.TotalAlloc) / retries,
		allocs: float64(after.Mallocs-before.Mallocs) / retries,
		live:   before.HeapAlloc,
		stack:  stack,
	}}, err
}

// fails checks the error of an activity that has used up its attempts.
func fails(err error) error {
	if !errors.Is(err, errStorm) {
		return fmt.Errorf("an activity ended with another error: %w", err)
	}
	return nil
}

func byHandStorm(n int, attempt func() error) error {
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for i := range stormAttempts {
				if attempt() == nil || i == stormAttempts-1 {
					return
				}
				interval := stormInterval << i
				time.Sleep(interval - time.Duration(rand.Int64N(int64(interval/2))))
			}
		})
	}
	all.Wait()
	return nil
}

func ourStorm(n int, log slog.Handler, attempt func() error) error {
	rt := activity.New(activity.Config{Logger: slog.New(log)})
	opts := bothTimeouts()
	opts.RetryPolicy = activity.RetryPolicy{InitialInterval: stormInterval, MaximumAttempts: stormAttempts, Jitter: 0.5}
	handles := make([]*activity.Handle[struct{}], n)
	for i := range handles {
		var err error
		handles[i], err = activity.Start(context.Background(), rt, opts, func(activity.Context, struct{}) (struct{}, error) {
			return struct{}{}, attempt()
		}, struct{}{})
		if err != nil {
			return err
		}
	}
	for _, h := range handles {
		if _, err := h.Wait(context.Background()); fails(err) != nil {
			return fails(err)
		}
	}
	return nil
}

func failsafeStorm(n int, attempt func() error) error {
	const middle = stormInterval * 3 / 4
	ex := failsafe.With[any](retrypolicy.NewBuilder[any]().
		WithMaxAttempts(stormAttempts).
		WithBackoff(middle, time.Minute).
		WithJitterFactor(1. / 3).
		Build())
	results := make([]failsafe.ExecutionResult[any], n)
	for i := range results {
		results[i] = ex.RunAsync(attempt)
	}
	for _, r := range results {
		if err := fails(r.Error()); err != nil {
			return err
		}
	}
	return nil
}
