package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
)

// loadSection returns a section that measures whether a timeout is late because other
// activities contend for the Runtime. The floor has a load of its own, which keeps the CPU
// as busy but shares no lock with the timer.
func loadSection(s scale) section {
	const timeout = 5 * time.Millisecond
	looping := fmt.Sprintf("%d goroutines loop over ", s.load)
	ours := loadedRow("this package, heartbeat timeout", looping+"Run in the same Runtime; the activities that stall run one after the other", s,
		func(ctx context.Context) (op func() error, late func(n int) ([]time.Duration, error)) {
			rt := stallRuntime()
			f := func(ctx activity.Context) error { return ctx.Err() }
			return func() error { return rt.Run(ctx, bothTimeouts(), f) },
				func(n int) ([]time.Duration, error) { return heartbeatTimeouts(rt, n, timeout) }
		})
	ours.ours = true
	return section{
		name: "timeouts under load", title: fmt.Sprintf("Timeouts of %d ms under load", timeout.Milliseconds()), rounds: s.slowRounds,
		text: "The load is activities, or their hand-written equivalent, whose function looks at its context once, under one context that can be canceled. " +
			"ns: how long after the deadline the timer's function runs, or the activity's function resumes because its context has ended. " +
			"An attempt that is over before its first heartbeat is not counted. " +
			"If the Runtime's timer is late by more than 1 ms, the Runtime takes that for a pause of the process and extends the deadline by as much.",
		rows: []row{
			loadedRow("floor: time.AfterFunc", looping+"what is written by hand; the timers are set one after the other", s,
				func(ctx context.Context) (op func() error, late func(n int) ([]time.Duration, error)) {
					f := func(ctx context.Context, _ func()) error { return ctx.Err() }
					return func() error { return runByHand(ctx, startToClose, heartbeatTimeout, f) },
						func(n int) ([]time.Duration, error) { return timersInTurn(n, timeout), nil }
				}),
			ours,
		},
	}
}

// loadedRow returns a row that measures late while s.load goroutines loop over op. Each
// measurement opens both again, with a context that can be canceled.
func loadedRow(name, remark string, s scale, open func(ctx context.Context) (op func() error, late func(n int) ([]time.Duration, error))) row {
	return lateRow(name, remark, s.timeouts, 90, func(n int) ([]time.Duration, error) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		op, late := open(ctx)
		return underLoad(s.load, op, func() ([]time.Duration, error) { return late(n) })
	})
}

// heartbeatTimeouts runs activities until n have sent one heartbeat and then timed out.
func heartbeatTimeouts(rt *activity.Runtime, n int, timeout time.Duration) ([]time.Duration, error) {
	var late []time.Duration
	opts := activity.Options{HeartbeatTimeout: timeout, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
	for ran := 0; len(late) < n; ran++ {
		if ran == 10*n {
			return nil, fmt.Errorf("only %d of %d activities sent a heartbeat in time", len(late), ran)
		}
		// Run may return while the function still runs. If the attempt is over before the
		// function could begin, the function is never called.
		var claimed atomic.Bool // set by the function when it begins, or after Run
		ended := make(chan time.Duration, 1)
		err := rt.Run(context.Background(), opts, func(ctx activity.Context) error {
			if claimed.Swap(true) {
				return nil
			}
			defer close(ended)
			beat := time.Now()
			if err := ctx.Heartbeat(); err != nil {
				return err // the function has begun so late that the attempt is over
			}
			<-ctx.Done()
			ended <- time.Since(beat) - timeout
			return context.Cause(ctx)
		})
		var timedOut *activity.TimeoutError
		if !errors.As(err, &timedOut) || timedOut.Type != activity.TimeoutHeartbeat {
			return nil, fmt.Errorf("an activity ended without a heartbeat timeout: %w", err)
		}
		if claimed.Swap(true) {
			if d, ok := <-ended; ok {
				late = append(late, d)
			}
		}
	}
	return late, nil
}

// underLoad calls measure while goroutines loop over op. Each of them has called it once
// before.
func underLoad(goroutines int, op func() error, measure func() ([]time.Duration, error)) ([]time.Duration, error) {
	var stop atomic.Bool
	var looping sync.WaitGroup
	looping.Add(goroutines)
	ended := make(chan error, goroutines)
	for range goroutines {
		go func() {
			err := op()
			looping.Done()
			for err == nil && !stop.Load() {
				err = op()
			}
			ended <- err
		}()
	}
	looping.Wait()
	late, err := measure()
	stop.Store(true)
	for range goroutines {
		err = errors.Join(err, <-ended)
	}
	return late, err
}
