package main

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"

	"github.com/seed-9da638b0/activity"
)

// A crowd is a number of items that run at once.
type crowd struct {
	start func(i int, wait func()) error // starts item i, which calls wait
	join  func(i int) error              // waits until item i has ended
}

// These are the lines of an outstanding row.
const (
	partStart = "start"
	partPeak  = "memory"
	partEnd   = "end"
)

func outstandingSections(s scale) []section {
	kinds := []struct {
		name, remark string
		ours         bool
		open         func(n int) crowd
	}{
		{"goroutine with context.WithTimeout", "no heartbeat, no retry", false, goroutines},
		{"this package, Start", "", true, activities},
		{"failsafe-go, RunAsync", "Timeout and RetryPolicy", false, executions},
	}
	var all []section
	for _, n := range s.outstanding {
		sec := section{
			name: "outstanding, " + count(n), title: count(n) + " outstanding", rounds: s.slowRounds,
			text: "All numbers are for one item. start: ns from the first start until all functions run and wait; the bytes in heap and " +
				"stacks then, after a garbage collection; allocations. memory: the bytes that the process has from the operating " +
				"system before that collection. end: ns from the release until all have ended. The bytes of start leave out some " +
				"440 bytes that the runtime keeps of each goroutine forever.",
		}
		if n > 500_000 {
			sec.rounds = 1
		}
		var before sync.Once
		for _, k := range kinds {
			sec.rows = append(sec.rows, row{
				name: k.name, remark: k.remark, ours: k.ours, lines: []string{partStart, partPeak, partEnd}, fixed: n,
				open: func() (subject, error) {
					// The runtime keeps memory of so many goroutines forever. The first row must not pay for it.
					var err error
					before.Do(func() { _, err = outstanding(n, goroutines(n)) })
					return subject{measure: func(n int) ([]sample, error) { return outstanding(n, k.open(n)) }}, err
				},
			})
		}
		all = append(all, sec)
	}
	return all
}

func goroutines(n int) crowd {
	var all sync.WaitGroup
	all.Add(n)
	return crowd{
		start: func(_ int, wait func()) error {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
			go func() {
				defer all.Done()
				defer cancel()
				wait()
				runtime.KeepAlive(ctx)
			}()
			return nil
		},
		join: func(int) error { all.Wait(); return nil },
	}
}

func activities(n int) crowd {
	rt := activity.New(activity.Config{})
	handles := make([]*activity.Handle[struct{}], n)
	return crowd{
		start: func(i int, wait func()) (err error) {
			handles[i], err = activity.Start(context.Background(), rt, longTimeouts(), func(activity.Context, struct{}) (struct{}, error) {
				wait()
				return struct{}{}, nil
			}, struct{}{})
			return err
		},
		join: func(i int) error {
			_, err := handles[i].Wait(context.Background())
			return err
		},
	}
}

func executions(n int) crowd {
	ex := failsafeExecutor()
	results := make([]failsafe.ExecutionResult[any], n)
	return crowd{
		start: func(i int, wait func()) error {
			results[i] = ex.RunAsync(func() error { wait(); return nil })
			return nil
		},
		join: func(i int) error { return results[i].Error() },
	}
}

func outstanding(n int, c crowd) ([]sample, error) {
	freeMemory()
	defer freeMemory()
	var running, ended sync.WaitGroup
	running.Add(n)
	ended.Add(n)
	release := make(chan struct{})
	wait := func() {
		running.Done()
		<-release
		ended.Done()
	}
	var before, after, collected runtime.MemStats
	runtime.ReadMemStats(&before)
	stack := newStack()

	began := time.Now()
	for i := range n {
		if err := c.start(i, wait); err != nil {
			close(release)
			return nil, fmt.Errorf("start: %w", err)
		}
	}
	running.Wait()
	started := time.Since(began)
	runtime.ReadMemStats(&after)
	runtime.GC()
	runtime.ReadMemStats(&collected)

	began = time.Now()
	close(release)
	for i := range n {
		if err := c.join(i); err != nil {
			return nil, err
		}
	}
	took := time.Since(began)
	ended.Wait()

	each := func(v float64) float64 { return v / float64(n) }
	return []sample{
		{
			ns:     each(float64(started.Nanoseconds())),
			bytes:  each(float64(inUse(&collected)) - float64(inUse(&before))),
			allocs: each(float64(after.Mallocs - before.Mallocs)),
			stack:  stack,
		},
		{ns: math.NaN(), bytes: each(float64(after.Sys - after.HeapReleased)), allocs: math.NaN()},
		{ns: each(float64(took.Nanoseconds())), bytes: math.NaN(), allocs: math.NaN()},
	}, nil
}

func inUse(m *runtime.MemStats) uint64 { return m.HeapInuse + m.StackInuse }

// freeMemory returns unused memory to the operating system, including the stacks of ended
// goroutines.
func freeMemory() {
	runtime.GC()
	debug.FreeOSMemory()
}
