package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// These constants define the activity that takes 100 attempts and one hour. Odd attempts
// stall for 10 s. Even attempts work for 5 s and fail, and the next one starts 55 s later.
// The last attempt works longer. All events are at multiples of 5 s.
const (
	virtualStep  = 5 * time.Second
	virtualStall = 2 * virtualStep
	virtualWait  = 11 * virtualStep
	lastSteps    = 32
)

func virtualSection(t *testing.T, s scale) section {
	verified := func(int) error { return nil } // each operation verifies itself
	on := func(test func() error) func() (subject, error) {
		return func() (subject, error) {
			return subject{measure: timed(func(n int) error { return repeat(n, test) }, verified)}, nil
		}
	}
	return section{
		name: "virtual", title: fmt.Sprintf("A test of %d attempts over one hour", s.attempts),
		text: "One activity with a heartbeat timeout of 10 s: half of its attempts stall, half fail and back off. ns: real time of one such test.",
		rows: []row{
			{name: "this package, in a bubble", remark: "testing/synctest and the zero Config", ours: true, open: on(func() error {
				return inBubble(t, func() error { return anHour(s.attempts, nil, nil, true) })
			})},
			{name: "this package, in a bubble, clock.Mock", remark: "the test moves it 5 s at a time", open: on(func() error {
				return inBubble(t, func() error { return anHour(s.attempts, clock.NewMock(), synctest.Wait, true) })
			})},
			{name: "this package, clock.Mock", remark: "the same without a bubble: the mock itself sleeps 1 ms a step and a timer", most: 1, open: on(func() error {
				return anHour(s.attempts, clock.NewMock(), func() {}, false)
			})},
			{name: "on the real clock", remark: "not measured: an hour is 3,600 s", fixed: 1, open: func() (subject, error) {
				return subject{measure: func(int) ([]sample, error) {
					return []sample{{ns: float64(time.Hour), bytes: math.NaN(), allocs: math.NaN()}}, nil
				}}, nil
			}},
		},
	}
}

func inBubble(t *testing.T, f func() error) error {
	var err error
	synctest.Test(t, func(*testing.T) { err = f() })
	return err
}

// anHour runs the activity. If mock is not nil, it is the clock, and anHour moves it, after a
// call of settle, until the activity has ended. If exactly is set, the attempts and the time
// must be exact.
func anHour(attempts int, mock *clock.Mock, settle func(), exactly bool) error {
	cfg := activity.Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	now := time.Now
	if mock != nil {
		cfg.Clock, now = mock, mock.Now
	}
	began := now()
	rt := activity.New(cfg)
	h, err := activity.Start(context.Background(), rt, activity.Options{
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    virtualStall,
		RetryPolicy:         activity.RetryPolicy{InitialInterval: virtualWait, BackoffCoefficient: 1},
	}, sometimesStalls, attempts)
	if err != nil {
		return err
	}
	for mock != nil && h.Status().State != activity.StateCompleted {
		settle()
		mock.Add(virtualStep)
	}
	last, err := h.Wait(context.Background())
	if err != nil {
		return err
	}
	took := now().Sub(began)
	if last < attempts || took < time.Hour || exactly && (last > attempts || took > time.Hour) {
		return fmt.Errorf("%d attempts took %s, want %d in one hour", last, took, attempts)
	}
	return nil
}

var errHalf = errors.New("fails every other time")

// sometimesStalls returns the number of the attempt that succeeds.
func sometimesStalls(ctx activity.Context, attempts int) (int, error) {
	number := ctx.Info().Attempt
	recorded, err := activity.Resume(ctx, 0)
	if err != nil {
		return 0, err
	}
	if recorded >= number {
		return 0, activity.NonRetryable(fmt.Errorf("attempt %d resumes from attempt %d", number, recorded))
	}
	if err := ctx.Heartbeat(number); err != nil {
		return 0, err
	}
	switch {
	case number < attempts && number%2 == 1:
		<-ctx.Done()
		return 0, context.Cause(ctx)
	case number < attempts:
		if err := ctx.Sleep(virtualStep); err != nil {
			return 0, err
		}
		return 0, errHalf
	}
	for range lastSteps {
		if err := ctx.Sleep(virtualStep); err != nil {
			return 0, err
		}
		if err := ctx.Heartbeat(number); err != nil {
			return 0, err
		}
	}
	return number, nil
}
