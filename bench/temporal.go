package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	temporal "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
)

func temporalEnvironment() *testsuite.TestActivityEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(log.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	return suite.NewTestActivityEnvironment()
}

// temporalEach returns an eachFunc whose activities have contexts derived from ctx.
func temporalEach(ctx context.Context) eachFunc {
	return func(ran *int) func() error {
		env := temporalEnvironment()
		env.SetWorkerOptions(worker.Options{BackgroundActivityContext: ctx})
		f := func(ctx context.Context) error { *ran++; return ctx.Err() }
		env.RegisterActivityWithOptions(f, temporal.RegisterOptions{Name: "looks"})
		return func() error {
			_, err := env.ExecuteActivity("looks")
			return err
		}
	}
}

// temporalBeats returns a subject in which activities of the Temporal SDK send heartbeats,
// each in a test environment of its own. It measures the code of the SDK's client: the
// data converter, and a batch whose newest heartbeat is sent every 30 s.
func temporalBeats(activities int, beat func(ctx context.Context, n int)) (subject, error) {
	var sent atomic.Int64
	return beating(activities, func(serve func(many func(n int) error) error) error {
		env := temporalEnvironment()
		env.SetOnActivityHeartbeatListener(func(*temporal.Info, converter.EncodedValues) { sent.Add(1) })
		f := func(ctx context.Context) error {
			return serve(func(n int) error {
				beat(ctx, n)
				return ctx.Err()
			})
		}
		env.RegisterActivityWithOptions(f, temporal.RegisterOptions{Name: "beating"})
		_, err := env.ExecuteActivity("beating")
		return err
	}, func(n int) error {
		if first := min(n, activities); sent.Load() < int64(first) {
			return fmt.Errorf("%d activities sent %d batches, want at least one each", first, sent.Load())
		}
		return nil
	})
}
