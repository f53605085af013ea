package ontemporal_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
)

// A slowConverter takes 4 s for the first heartbeat after slow is set.
type slowConverter struct {
	converter.DataConverter
	slow *atomic.Bool
}

func (c slowConverter) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	if len(values) > 0 {
		if _, raw := values[0].(converter.RawValue); raw && c.slow.CompareAndSwap(true, false) {
			time.Sleep(4 * time.Second)
		}
	}
	return c.DataConverter.ToPayloads(values...)
}

// Rule 11. Given a heartbeat that takes 4 s, then the heartbeat timeout counts from its end.
func TestHeartbeat_SlowCallIsNoStall(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		var slow atomic.Bool
		c.SetDataConverter(slowConverter{converter.GetDefaultDataConverter(), &slow})
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			slow.Store(true)
			begun := time.Now()
			checkErr(t, ctx.Heartbeat(1), nil)
			if took := time.Since(begun); took != 4*time.Second {
				t.Errorf("the heartbeat took %s", took)
			}
			time.Sleep(10*time.Second - 1)
			return 0, ctx.Heartbeat(2)
		}, 0)
		checkErr(t, err, nil)
	})
}
