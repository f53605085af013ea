package activity_test

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
)

// An Observer that writes every event as a line of JSON.
func ExampleEvent_json() {
	mock := clock.NewMock() // for times that are the same in each run
	mock.Set(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	lines := json.NewEncoder(os.Stdout)
	rt := activity.New(activity.Config{Clock: mock, Logger: quiet, Observer: func(e activity.Event) { _ = lines.Encode(e) }})
	_ = rt.Run(context.Background(), activity.Options{ID: "i7", Name: "import"}, func(ctx activity.Context) error {
		return ctx.Heartbeat(activity.RangeProgress{Next: 3, To: 10})
	})
	// Output:
	// {"Kind":"scheduled","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":0,"Err":null,"Delay":"0s","Details":null}
	// {"Kind":"attempt started","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":null}
	// {"Kind":"heartbeat","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":{"Next":3,"To":10}}
	// {"Kind":"completed","Time":"2026-03-01T12:00:00Z","ID":"i7","Name":"import","Attempt":1,"Err":null,"Delay":"0s","Details":null}
}
