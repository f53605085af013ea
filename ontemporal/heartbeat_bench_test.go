package ontemporal_test

import (
	"context"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"
)

// BenchmarkHeartbeat measures a heartbeat, and that of a function that uses the SDK, in the SDK's
// test environment, while heartbeats are held back.
func BenchmarkHeartbeat(b *testing.B) {
	row := struct {
		Table string
		Row   int
	}{"customers", 7}
	for _, bench := range []struct {
		name string
		sdk  func(ctx context.Context, n int)
		ours func(ctx activity.Context, n int)
	}{
		{"none", func(ctx context.Context, _ int) { sdkactivity.RecordHeartbeat(ctx) }, func(ctx activity.Context, _ int) { _ = ctx.Heartbeat() }},
		{"int", func(ctx context.Context, n int) { sdkactivity.RecordHeartbeat(ctx, n) }, func(ctx activity.Context, n int) { _ = ctx.Heartbeat(n) }},
		{"struct", func(ctx context.Context, _ int) { sdkactivity.RecordHeartbeat(ctx, row) }, func(ctx activity.Context, _ int) { _ = ctx.Heartbeat(row) }},
	} {
		measure := func(b *testing.B, beat func(n int)) {
			beat(0) // the first one is sent at once
			b.ReportAllocs()
			b.ResetTimer()
			for n := range b.N {
				beat(n)
			}
			b.StopTimer()
		}
		for _, by := range []string{"SDK", "ours"} {
			b.Run(bench.name+"/"+by, func(b *testing.B) {
				var suite testsuite.WorkflowTestSuite
				suite.SetLogger(quiet)
				env := suite.NewTestActivityEnvironment()
				if by == "SDK" {
					env.RegisterActivityWithOptions(func(ctx context.Context, _ int) (int, error) {
						measure(b, func(n int) { bench.sdk(ctx, n) })
						return 0, nil
					}, sdkactivity.RegisterOptions{Name: "f"})
				} else {
					ontemporal.Register(env, "f", func(ctx activity.Context, _ int) (int, error) {
						measure(b, func(n int) { bench.ours(ctx, n) })
						return 0, nil
					})
				}
				if _, err := env.ExecuteActivity("f", 0); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
