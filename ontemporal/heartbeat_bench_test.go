package ontemporal_test

import (
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"
)

// BenchmarkHeartbeat measures a heartbeat and the SDK's own in the SDK's test environment,
// while the SDK holds heartbeats back.
func BenchmarkHeartbeat(b *testing.B) {
	row := struct {
		Table string
		Row   int
	}{"customers", 7}
	for _, bench := range []struct {
		name string
		beat func(ctx activity.Context, n int)
	}{
		{"none/SDK", func(ctx activity.Context, _ int) { sdkactivity.RecordHeartbeat(ctx) }},
		{"none/ours", func(ctx activity.Context, _ int) { _ = ctx.Heartbeat() }},
		{"int/SDK", func(ctx activity.Context, n int) { sdkactivity.RecordHeartbeat(ctx, n) }},
		{"int/ours", func(ctx activity.Context, n int) { _ = ctx.Heartbeat(n) }},
		{"struct/SDK", func(ctx activity.Context, _ int) { sdkactivity.RecordHeartbeat(ctx, row) }},
		{"struct/ours", func(ctx activity.Context, _ int) { _ = ctx.Heartbeat(row) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var suite testsuite.WorkflowTestSuite
			suite.SetLogger(quiet)
			env := suite.NewTestActivityEnvironment()
			ontemporal.Register(env, "f", func(ctx activity.Context, _ int) (int, error) {
				bench.beat(ctx, 0) // the first one is sent at once
				b.ReportAllocs()
				b.ResetTimer()
				for n := range b.N {
					bench.beat(ctx, n)
				}
				b.StopTimer()
				return 0, nil
			})
			if _, err := env.ExecuteActivity("f", 0); err != nil {
				b.Fatal(err)
			}
		})
	}
}
