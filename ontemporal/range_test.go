package ontemporal_test

import (
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// Rules 14 and 30. Given a body that panics, then the attempt's failure has the body's value and
// stack.
func TestRangeParallel_BodyPanics(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			return 0, activity.RangeParallel(ctx, 0, 3, 2, func(activity.Context, int) error { return panics() })
		}, 0)
		app := failure(t, err)
		var stack string
		if app.Type() != "activity.PanicError" || app.Message() != "panic: ouch" || app.Details(&stack) != nil || !strings.Contains(stack, "ontemporal_test.panics(") {
			t.Errorf("got %v with the stack %s", err, stack)
		}
	})
}

func panics() error { panic("ouch") }
