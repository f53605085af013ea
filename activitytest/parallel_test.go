package activitytest_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// Given a RangeParallel whose bodies write idempotently, then it survives every interruption,
// and those in its bodies are among them.
func TestEveryInterruption_RangeParallel(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		done := map[int]int{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "import", HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
				return activity.RangeParallel(ctx, 0, 6, 3, func(ctx activity.Context, i int) error {
					if err := ctx.Sleep(time.Second); err != nil {
						return err
					}
					mu.Lock()
					done[i]++
					mu.Unlock()
					activitytest.Point(ctx, "row written")
					return nil
				})
			})
		})
		if err != nil || len(done) != 6 {
			t.Errorf("%v, done %v", err, done)
		}
	})
}

// Given bodies of a RangeParallel that run at the same time, when the test is run again, then
// it makes the same runs, and in each of them the attempts resume from the same details and
// run the same bodies.
func TestRangeParallel_SameRunsEachTime(t *testing.T) {
	if testing.Short() {
		t.Skip("needs all runs, and -short leaves out most")
	}
	sleep := func(d func(i int) time.Duration) func(ctx activity.Context, i int) error {
		return func(ctx activity.Context, i int) error {
			if err := ctx.Sleep(d(i)); err != nil {
				return err
			}
			activitytest.Point(ctx, "effect")
			return nil
		}
	}
	for name, body := range map[string]func(ctx activity.Context, i int) error{
		"NoPlace":       func(activity.Context, int) error { return nil },
		"Instant":       func(ctx activity.Context, i int) error { activitytest.Point(ctx, "effect"); return nil },
		"SameTime":      sleep(func(int) time.Duration { return time.Second }),
		"ShortTime":     sleep(func(int) time.Duration { return 10 * time.Millisecond }),
		"DifferentTime": sleep(func(i int) time.Duration { return time.Duration(1+i%3) * time.Second }),
		"Heartbeat":     func(ctx activity.Context, i int) error { return ctx.Heartbeat() },
		"Guard": func(ctx activity.Context, i int) error {
			return activity.Guard(ctx, func() error { activitytest.Point(ctx, "effect"); return nil })
		},
		"Goroutine": func(ctx activity.Context, i int) error {
			done := make(chan struct{})
			go func() {
				defer close(done)
				activitytest.Point(ctx, "effect")
			}()
			<-done
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			var first map[string][]string
			for n := range 2 {
				var all map[string][]string
				t.Run(fmt.Sprint(n), func(t *testing.T) { all = attempts(t, body) })
				if first == nil {
					first = all
				}
				if diff := cmp.Diff(first, all); diff != "" {
					t.Fatalf("attempts by run (-first +later):\n%s", diff)
				}
			}
			place := "at_point_effect_1_of_body_3"
			switch name {
			case "NoPlace", "Heartbeat":
				place = "after_heartbeat_1_of_body_3"
			}
			if names := slices.Sorted(maps.Keys(first)); !strings.Contains(strings.Join(names, " "), place) {
				t.Errorf("there is no run with %s, only %q", place, names)
			}
		})
	}
}

// attempts interrupts a RangeParallel once at each place. It returns, by the name of the run,
// what each attempt resumed from and which bodies it ran. The wake-up of a stalled attempt is
// at a place of any body, so the runs that wake one late are left out.
func attempts(t *testing.T, body func(ctx activity.Context, i int) error) map[string][]string {
	plan := activitytest.Plan{Kinds: activitytest.Crash | activitytest.Stall | activitytest.Shutdown, MaxRuns: 300, Seed: 1}
	_, all := runs(t, plan, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			var from activity.RangeProgress
			if _, err := ctx.HeartbeatDetails(&from); err != nil {
				return err
			}
			var mu sync.Mutex
			var ran []int
			defer func() {
				mu.Lock()
				defer mu.Unlock()
				slices.Sort(ran)
				l.add(fmt.Sprintf("attempt %d from %v ran %v", ctx.Info().Attempt, from, ran))
			}()
			return activity.RangeParallel(ctx, 0, 5, 3, func(ctx activity.Context, i int) error {
				mu.Lock()
				ran = append(ran, i)
				mu.Unlock()
				return body(ctx, i)
			})
		})
	})
	for _, lines := range all {
		slices.Sort(lines) // a stalled attempt may return after the next one
	}
	maps.DeleteFunc(all, func(name string, _ []string) bool { return strings.Contains(name, "_until_") })
	return all
}
