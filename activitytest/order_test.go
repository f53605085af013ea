package activitytest_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// A goroutine that sends the heartbeats while the function works: whose call comes
// first at one instant is chance, and no difference.
func TestHeartbeatsFromAGoroutine(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		rows := map[int]bool{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "import", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
				end := make(chan struct{})
				var beats sync.WaitGroup
				beats.Go(func() {
					ticker := time.NewTicker(time.Second)
					defer ticker.Stop()
					for {
						select {
						case <-ticker.C:
							if ctx.Heartbeat() != nil {
								return
							}
						case <-end:
							return
						case <-ctx.Done():
							return
						}
					}
				})
				defer beats.Wait()
				defer close(end)
				for i := range 4 {
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
						return context.Cause(ctx)
					}
					activitytest.Point(ctx, "put")
					mu.Lock()
					rows[i] = true
					mu.Unlock()
				}
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(rows) != 4 {
			t.Errorf("%d rows", len(rows))
		}
	})
}

// Places whose names look the same in a subtest's name have different ones.
func TestNamesThatLookTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("a tenth of the runs has too few names")
	}
	var names []string
	t.Run("runs", func(t *testing.T) {
		activitytest.Plan{Kinds: activitytest.Shutdown}.Run(t, func(t *testing.T, w *activitytest.World) {
			names = append(names, t.Name())
			if err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
				return rt.Run(ctx, activity.Options{ID: "a"}, func(ctx activity.Context) error {
					long := "https://example.com/a/very/long/address/of/something/that/is/fetched?number="
					for _, p := range []string{"a/b", "a:b", "a b", long + "1", long + "2"} {
						activitytest.Point(ctx, p)
					}
					return nil
				})
			}); err != nil {
				t.Error(err)
			}
		})
	})
	slices.Sort(names)
	if n := len(slices.Compact(slices.Clone(names))); n != len(names) || n != 7 {
		t.Errorf("%d names: %q", n, names)
	}
}
