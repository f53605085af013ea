package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
)

const (
	partMedian = "median"
	partP99    = "99 %" // as lateRow names it
)

const stallText = "On the real clock. ns: how long after its deadline the next attempt's first line runs. The deadline is a clock " +
	"reading just before the last heartbeat, plus the heartbeat timeout, so it is a moment before the real one. " +
	"slog's text handler formats the log, and the output is discarded."

// stallSection returns a section in which one activity stalls. In stallsSection, many do.
func stallSection(s scale) section {
	const timeout = 20 * time.Millisecond
	one := lateRow("this package", fmt.Sprintf("stalls %d times in a row; each time with the stack of where it hangs", s.stalls), s.stalls, 99,
		func(n int) ([]time.Duration, error) { return oneStalls(n, timeout) })
	one.ours = true
	return section{
		name: "stall", title: "From a stall to the next attempt, one activity", text: stallText, rounds: s.slowRounds,
		rows: []row{
			lateRow("floor: time.AfterFunc", "one after the other, each starts a goroutine", s.stalls, 99,
				func(n int) ([]time.Duration, error) { return timersInTurn(n, timeout), nil }),
			one,
		},
	}
}

func stallsSection(s scale) section {
	atOnce := lateRow("this package, at once", "all send their last heartbeat within some milliseconds", s.stalling, 99,
		func(n int) ([]time.Duration, error) { return manyStall(n, s.silence, 0) })
	atOnce.ours = true
	return section{
		name: "stalls", title: "From a stall to the next attempt, " + count(s.stalling) + " activities", text: stallText, rounds: s.slowRounds,
		rows: []row{
			lateRow("floor: time.AfterFunc, at once", "each starts a goroutine; no activity, no context, no log", s.stalling, 99,
				func(n int) ([]time.Duration, error) { return timers(n, s.silence), nil }),
			lateRow("by hand, at once", "a timer for each, which cancels the context and starts the next attempt: no fencing, no details, no log", s.stalling, 99,
				func(n int) ([]time.Duration, error) { return stallByHand(n, s.silence), nil }),
			atOnce,
			lateRow("this package, spread", fmt.Sprintf("their last heartbeats are spread over %g s", (s.silence/2).Seconds()), s.stalling, 99,
				func(n int) ([]time.Duration, error) { return manyStall(n, s.silence, s.silence/2) }),
		},
	}
}

// lateRow returns a row with the median and a high percentile, such as 99, of n latenesses.
func lateRow(name, remark string, n, high int, late func(n int) ([]time.Duration, error)) row {
	return row{name: name, remark: remark, lines: []string{partMedian, fmt.Sprintf("%d %%", high)}, fixed: n, open: func() (subject, error) {
		return subject{measure: func(n int) ([]sample, error) {
			runtime.GC()
			all, err := late(n)
			if err != nil {
				return nil, err
			}
			slices.Sort(all)
			return []sample{lateness(all[n/2]), lateness(all[n*high/100])}, nil
		}}, nil
	}}
}

func lateness(d time.Duration) sample {
	return sample{ns: float64(d.Nanoseconds()), bytes: math.NaN(), allocs: math.NaN()}
}

// timersInTurn sets n timers, each after the one before has run.
func timersInTurn(n int, timeout time.Duration) []time.Duration {
	var all []time.Duration
	for range n {
		all = append(all, timers(1, timeout)...)
	}
	return all
}

func timers(n int, timeout time.Duration) []time.Duration {
	late := make([]time.Duration, n)
	var all sync.WaitGroup
	all.Add(n)
	for i := range n {
		set := time.Now()
		time.AfterFunc(timeout, func() {
			late[i] = time.Since(set) - timeout
			all.Done()
		})
	}
	all.Wait()
	return late
}

// stallByHand runs n goroutines that stall once, within some milliseconds.
func stallByHand(n int, timeout time.Duration) []time.Duration {
	late := make([]time.Duration, n)
	var running, again, ended sync.WaitGroup
	running.Add(n)
	again.Add(n)
	for i := range n {
		ended.Go(func() {
			ctx, cancel := context.WithCancelCause(context.Background())
			running.Done()
			running.Wait()
			beat := time.Now()
			time.AfterFunc(timeout, func() {
				cancel(context.DeadlineExceeded)
				go func() {
					late[i] = time.Since(beat) - timeout
					again.Done()
				}()
			})
			<-ctx.Done()
		})
	}
	again.Wait()
	ended.Wait()
	return late
}

func stallRuntime() *activity.Runtime {
	return activity.New(activity.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

// stalledWith checks that the attempt before stalled, and that it recorded want.
func stalledWith(ctx activity.Context, want int) error {
	var timeout *activity.TimeoutError
	if !errors.As(ctx.Info().LastFailure, &timeout) || timeout.Type != activity.TimeoutHeartbeat {
		return activity.NonRetryable(fmt.Errorf("attempt %d: the attempt before ended without a heartbeat timeout: %w", ctx.Info().Attempt, ctx.Info().LastFailure))
	}
	got, err := activity.Resume(ctx, -1)
	if err == nil && got != want {
		err = activity.NonRetryable(fmt.Errorf("attempt %d resumes from %d, want %d", ctx.Info().Attempt, got, want))
	}
	return err
}

// oneStalls runs one activity that stalls n times.
func oneStalls(n int, timeout time.Duration) ([]time.Duration, error) {
	var late []time.Duration
	var beat time.Time
	err := stallRuntime().Run(context.Background(), activity.Options{HeartbeatTimeout: timeout}, func(ctx activity.Context) error {
		now := time.Now()
		if number := ctx.Info().Attempt; number > 1 {
			late = append(late, now.Sub(beat)-timeout)
			if err := stalledWith(ctx, number-1); err != nil || number > n {
				return err
			}
		}
		beat = time.Now()
		if err := ctx.Heartbeat(ctx.Info().Attempt); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	if err == nil && len(late) != n {
		err = fmt.Errorf("the activity stalled %d times, want %d", len(late), n)
	}
	return late, err
}

// manyStall runs n activities that stall once. Their last heartbeats are spread over a time.
func manyStall(n int, timeout, spread time.Duration) ([]time.Duration, error) {
	late := make([]time.Duration, n)
	beats := make([]time.Time, n)
	handles := make([]*activity.Handle[struct{}], n)
	rt := stallRuntime()
	var running, again sync.WaitGroup
	running.Add(n)
	again.Add(n)
	for i := range n {
		var err error
		handles[i], err = activity.Start(context.Background(), rt, activity.Options{HeartbeatTimeout: timeout}, func(ctx activity.Context, i int) (struct{}, error) {
			now := time.Now()
			if !beats[i].IsZero() {
				late[i] = now.Sub(beats[i]) - timeout
				again.Done()
				again.Wait() // so that the check does not delay others
				return struct{}{}, stalledWith(ctx, i)
			}
			running.Done()
			running.Wait()
			time.Sleep(spread * time.Duration(i) / time.Duration(n))
			beats[i] = time.Now()
			if err := ctx.Heartbeat(i); err != nil {
				return struct{}{}, err
			}
			<-ctx.Done()
			return struct{}{}, context.Cause(ctx)
		}, i)
		if err != nil {
			return nil, err
		}
	}
	for _, h := range handles {
		if _, err := h.Wait(context.Background()); err != nil {
			return nil, err
		}
	}
	return late, same(int(rt.Stats().Attempts), 2*n, "attempts")
}
