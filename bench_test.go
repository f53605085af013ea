package activity_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// Each benchmark stands beside its floor: compare within one run. Module bench has more,
// and the peers.

// One no-op activity with both timeouts, from Run to its return.
func BenchmarkRun(b *testing.B) {
	ctx := context.Background()
	b.Run("floor=spawn-and-join", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			done := make(chan struct{})
			go func() { close(done) }()
			<-done
		}
	})
	b.Run("activity", func(b *testing.B) {
		rt := activity.New(activity.Config{})
		b.ReportAllocs()
		for b.Loop() {
			if err := rt.Run(ctx, story(), noop); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("activity-asks-its-context", func(b *testing.B) {
		rt := activity.New(activity.Config{})
		b.ReportAllocs()
		for b.Loop() {
			if err := rt.Run(ctx, story(), asks); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("activity-cancellable", func(b *testing.B) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		rt := activity.New(activity.Config{})
		b.ReportAllocs()
		for b.Loop() {
			if err := rt.Run(ctx, story(), noop); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// asks has its context of the standard library made, as Sleep does and every library that
// takes a context.
func asks(ctx activity.Context) error {
	_ = ctx.Done()
	return nil
}

func BenchmarkRunParallel(b *testing.B) {
	b.Run("floor=spawn-and-join", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				done := make(chan struct{})
				go func() { close(done) }()
				<-done
			}
		})
	})
	run := func(name string, ctx context.Context) {
		b.Run(name, func(b *testing.B) {
			rt := activity.New(activity.Config{})
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := rt.Run(ctx, story(), noop); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run("activity", context.Background())
	run("activity-cancellable", ctx)
}

type position struct {
	File   string
	Line   int
	Offset int64
	Bytes  int64
	Done   bool
}

// One heartbeat.
func BenchmarkHeartbeat(b *testing.B) {
	now := time.Now()
	where := position{File: "a/b/c.csv", Line: 1000, Offset: 123456, Bytes: 654321}
	b.Run("floor=time.Now", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			now = time.Now()
		}
	})
	b.Run("floor=json.Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := json.Marshal(where); err != nil {
				b.Fatal(err)
			}
		}
	})
	run := func(name string, beat func(ctx activity.Context, i int) error) {
		for _, store := range []activity.Store{nil, &storetest.Memory{}} {
			what := name
			if store != nil {
				what += "-stored"
			}
			b.Run(what, func(b *testing.B) {
				rt, opts := activity.New(activity.Config{Store: store}), story()
				opts.ID = "a"
				err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
					b.ReportAllocs()
					for i := 1000; b.Loop(); i++ {
						if err := beat(ctx, i); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	}
	run("none", func(ctx activity.Context, _ int) error { return ctx.Heartbeat() })
	run("int", func(ctx activity.Context, i int) error { return ctx.Heartbeat(i) })
	run("struct", func(ctx activity.Context, _ int) error { return ctx.Heartbeat(where) })
	runtime.KeepAlive(now)
}

// 100,000 activities outstanding at once: bytes each, beside a goroutine with a
// context.WithTimeout.
func BenchmarkOutstanding(b *testing.B) {
	const n = 100_000
	b.Run("floor=goroutine-with-timeout", func(b *testing.B) {
		for b.Loop() {
			outstanding(b, n, func(ctx context.Context, wait func()) {
				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				go func() {
					defer cancel()
					_ = ctx
					wait()
				}()
			})
		}
	})
	b.Run("activity", func(b *testing.B) {
		for b.Loop() {
			rt := activity.New(activity.Config{})
			outstanding(b, n, func(ctx context.Context, wait func()) {
				_, err := activity.Start(ctx, rt, story(), func(activity.Context, struct{}) (struct{}, error) {
					wait()
					return struct{}{}, nil
				}, struct{}{})
				if err != nil {
					b.Fatal(err)
				}
			})
		}
	})
}

func outstanding(b *testing.B, n int, start func(ctx context.Context, wait func())) {
	b.StopTimer()
	var ended sync.WaitGroup
	ended.Add(n)
	release := make(chan struct{})
	wait := func() { <-release; ended.Done() }
	before := memory()
	b.StartTimer()
	began := time.Now()
	for range n {
		start(context.Background(), wait)
	}
	started := time.Since(began)
	b.StopTimer()
	bytes := float64(memory() - before)
	b.StartTimer()
	began = time.Now()
	close(release)
	ended.Wait()
	b.ReportMetric(bytes/float64(n), "bytes/activity")
	b.ReportMetric(float64(started.Nanoseconds())/float64(n), "ns/start")
	b.ReportMetric(float64(time.Since(began).Nanoseconds())/float64(n), "ns/end")
}

func memory() uint64 {
	runtime.GC()
	debug.FreeOSMemory() // and the stacks that are left from a run before
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// 10,000 activities that stall in the same instant: how long after it the first
// line of their next attempts runs, logging included.
func BenchmarkStall10000(b *testing.B) {
	const n = 10_000
	var all []time.Duration
	for b.Loop() {
		var first, second sync.WaitGroup
		first.Add(n)
		second.Add(n)
		deadline, late := make([]time.Time, n), make([]time.Duration, n)
		rt := activity.New(activity.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		opts := activity.Options{HeartbeatTimeout: 2 * time.Second}
		for i := range n {
			_, err := activity.Start(context.Background(), rt, opts, func(ctx activity.Context, i int) (struct{}, error) {
				if began := time.Now(); !deadline[i].IsZero() {
					late[i] = began.Sub(deadline[i])
					second.Done()
					return struct{}{}, nil
				}
				first.Done()
				first.Wait()
				deadline[i] = time.Now().Add(opts.HeartbeatTimeout)
				_ = ctx.Heartbeat() // all within a moment
				<-ctx.Done()
				return struct{}{}, context.Cause(ctx)
			}, i)
			if err != nil {
				b.Fatal(err)
			}
		}
		second.Wait()
		all = append(all, late...)
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e6, "ms-median")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1e6, "ms-p99")
}

// The end of an activity costs no more when many others wait for a deadline.
func BenchmarkRunBesides(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(map[int]string{100: "100", 100_000: "100000"}[n], func(b *testing.B) {
			rt := activity.New(activity.Config{})
			ctx, cancel := context.WithCancel(context.Background())
			var all sync.WaitGroup
			defer all.Wait()
			defer cancel()
			all.Add(n)
			for range n {
				_, err := activity.Start(ctx, rt, story(), func(ctx activity.Context, _ struct{}) (struct{}, error) {
					defer all.Done()
					return struct{}{}, activity.Idle(ctx, time.Hour)
				}, struct{}{})
				if err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if err := rt.Run(context.Background(), story(), noop); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
