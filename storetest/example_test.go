package storetest_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

func TestMemory_Conformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (activity.Store, func() activity.Store) {
		m := new(storetest.Memory)
		t.Cleanup(func() { m.Close() })
		return m, func() activity.Store { return m.Clone() }
	})
}

// A test can clone a Memory to continue from what a killed program left behind.
func ExampleMemory() {
	ctx := context.Background()
	var m storetest.Memory
	err := m.Save(ctx, []activity.Checkpoint{
		{ID: "import-7", Name: "import", State: activity.CheckpointRunning, Attempt: 2},
		{ID: "report-1", Name: "report", State: activity.CheckpointFailed, Attempt: 5},
	})
	if err != nil {
		fmt.Println(err)
	}
	killed := m.Clone() // for another Runtime
	if err := m.Delete(ctx, []string{"report-1"}); err != nil {
		fmt.Println(err)
	}
	for c, err := range killed.All(ctx) {
		fmt.Println(c.ID, c.State, c.Attempt, err)
	}
	// Output:
	// import-7 running 2 <nil>
	// report-1 failed 5 <nil>
}
