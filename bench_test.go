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

// runWays are ways to run one function with both timeouts. The context can be canceled.
var runWays = []struct {
	name string
	open func(ctx context.Context) (run func() error)
}{
	{"floor=spawn-and-join", func(context.Context) func() error {
		return func() error {
			done := make(chan struct{})
			go func() { close(done) }()
			<-done
			return nil
		}
	}},
	{"by-hand", func(ctx context.Context) func() error {
		return func() error { return runByHand(ctx, context.Context.Err) }
	}},
	{"activity", func(ctx context.Context) func() error {
		rt := activity.New(activity.Config{})
		return func() error { return rt.Run(ctx, story(), activity.Context.Err) }
	}},
	{"no-op-by-hand", func(context.Context) func() error {
		return func() error {
			return runByHand(context.Background(), func(context.Context) error { return nil })
		}
	}},
	{"no-op", func(context.Context) func() error {
		rt := activity.New(activity.Config{})
		return func() error { return rt.Run(context.Background(), story(), noop) }
	}},
}

// runByHand is the hand-written equivalent of Run, without retries and details.
func runByHand(ctx context.Context, f func(context.Context) error) error {
	opts := story()
	ctx, cancel := context.WithTimeout(ctx, opts.StartToCloseTimeout)
	defer cancel()
	stalled := make(chan struct{})
	timer := time.AfterFunc(opts.HeartbeatTimeout, func() { close(stalled) })
	defer timer.Stop()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-stalled:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// One activity that looks at its context once, under a context that can be canceled, from
// Run to its return. The no-op never looks, and its caller's context is Background.
func BenchmarkRun(b *testing.B) {
	for _, w := range runWays {
		b.Run(w.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			run := w.open(ctx)
			b.ReportAllocs()
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The same from GOMAXPROCS goroutines.
func BenchmarkRunParallel(b *testing.B) {
	for _, w := range runWays {
		b.Run(w.name, func(b *testing.B) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			run := w.open(ctx)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := run(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// asks has a context of the standard library made, as every library that waits for
// ctx.Done() does. TestAllocations_HotCalls has a budget for it.
func asks(ctx activity.Context) error {
	_ = ctx.Done()
	return nil
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

// One reading of what a heartbeat recorded.
// BenchmarkHeartbeatWatched is a heartbeat that nobody watches, that a subscriber of other kinds
// does not get, and that a subscriber and an Observer get.
func BenchmarkHeartbeatWatched(b *testing.B) {
	nothing := func(activity.Event) {}
	for _, watched := range []struct {
		name  string
		watch func(cfg *activity.Config) (kinds []activity.EventKind, subscribe bool)
	}{
		{"nobody", func(*activity.Config) ([]activity.EventKind, bool) { return nil, false }},
		{"subscriber-of-others", func(*activity.Config) ([]activity.EventKind, bool) {
			return []activity.EventKind{activity.EventFailed, activity.EventCompleted}, true
		}},
		{"subscriber", func(*activity.Config) ([]activity.EventKind, bool) { return nil, true }},
		{"observer", func(cfg *activity.Config) ([]activity.EventKind, bool) { cfg.Observer = nothing; return nil, false }},
	} {
		b.Run(watched.name, func(b *testing.B) {
			var cfg activity.Config
			kinds, subscribe := watched.watch(&cfg)
			rt := activity.New(cfg)
			if subscribe {
				rt.Subscribe(nothing, kinds...)
			}
			err := rt.Run(context.Background(), story(), func(ctx activity.Context) error {
				b.ReportAllocs()
				for b.Loop() {
					if err := ctx.Heartbeat(); err != nil {
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

func BenchmarkHeartbeatDetails(b *testing.B) {
	where := position{File: "a/b/c.csv", Line: 1000, Offset: 123456, Bytes: 654321}
	run := func(name string, recorded, into any) {
		b.Run(name, func(b *testing.B) {
			rt := activity.New(activity.Config{Logger: quiet})
			err := rt.Run(context.Background(), activity.Options{HeartbeatDetails: []any{recorded}}, func(ctx activity.Context) error {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := ctx.HeartbeatDetails(into); err != nil {
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
	data, _ := json.Marshal(where)
	b.Run("floor=json.Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := json.Unmarshal(data, new(position)); err != nil {
				b.Fatal(err)
			}
		}
	})
	run("int", 1000, new(int))
	run("struct", where, new(position))
	run("structs", slices.Repeat([]position{where}, 1000), new([]position))
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
