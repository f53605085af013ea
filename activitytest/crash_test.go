package activitytest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// Given heartbeats with details, when the process crashes, then each number of details that
// the Store does not hold is lost in one run.
func TestCrash_LosesUnsavedDetails(t *testing.T) {
	tight := func(ctx activity.Context, n int) error { return ctx.Heartbeat(n) }
	every60ms := func(ctx activity.Context, n int) error {
		if err := ctx.Sleep(60 * time.Millisecond); err != nil {
			return err
		}
		return ctx.Heartbeat(n)
	}
	for _, test := range []struct {
		name string
		sync bool
		step func(ctx activity.Context, n int) error
		lost [5]int // highest number of lost details after each heartbeat
	}{
		{"no save", false, tight, [5]int{0, 1, 2, 3, 4}},
		{"SyncHeartbeats", true, tight, [5]int{}},
		{"a save 100 ms after the first unsaved heartbeat", false, every60ms, [5]int{0, 1, 2, 1, 2}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
				live(t, w, activity.Options{ID: "job", SyncHeartbeats: test.sync}, func(ctx activity.Context) error {
					n, err := resumed(ctx, l)
					for n++; err == nil && n <= 4; n++ {
						err = test.step(ctx, n)
					}
					return err
				})
			})
			want := map[string][]string{}
			for n, most := range test.lost {
				for lost := 0; n > 0 && lost <= most; lost++ {
					name := fmt.Sprintf("crash_after_heartbeat_%d", n)
					if lost > 0 {
						name += fmt.Sprintf("_lost_%d", lost)
					}
					want[name] = []string{"0", fmt.Sprint(n - lost)}
				}
			}
			for name := range got {
				if !strings.HasPrefix(name, "crash_after_heartbeat_") || strings.Contains(name, "details") {
					delete(got, name)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("details resumed from (-want +got):\n%s", diff)
			}
		})
	}
}

// Given an activity that recorded details, when a crash loses them, then the next attempt
// waits for the backoff; otherwise, it starts at once.
func TestCrash_LostDetailsAreNoProgress(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		start := time.Now()
		live(t, w, activity.Options{ID: "job"}, func(ctx activity.Context) error {
			l.add(time.Since(start).Truncate(time.Millisecond).String())
			return ctx.Heartbeat(1)
		})
	})
	want := map[string][]string{
		"":                               {"0s"},
		"crash_before_heartbeat_1":       {"0s", "1s"},
		"crash_after_heartbeat_1":        {"0s", "0s"},
		"crash_after_heartbeat_1_lost_1": {"0s", "1s"},
		"crash_before_return_1":          {"0s", "0s"},
		"crash_before_return_1_lost_1":   {"0s", "1s"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("starts of the attempts (-want +got):\n%s", diff)
	}
}

// Given equal details in two heartbeats, when a crash can lose them, then they count once.
func TestCrash_LosesEqualDetailsOnce(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, activity.Options{ID: "job"}, func(ctx activity.Context) error {
			if n, err := activity.Resume(ctx, 0); err != nil || n == 2 {
				return err
			}
			return errors.Join(ctx.Heartbeat(1), ctx.Heartbeat(1), ctx.Heartbeat(2))
		})
	})
	for name, want := range map[string]bool{
		"crash_after_heartbeat_2_lost_1": true, "crash_after_heartbeat_2_lost_2": false,
		"crash_after_heartbeat_3_lost_2": true, "crash_after_heartbeat_3_lost_3": false,
	} {
		if slices.Contains(names, name) != want {
			t.Errorf("run %s: got %t, want %t", name, !want, want)
		}
	}
}

// Given two activities with unsaved details, when a crash loses some, then it loses those
// recorded last, of whichever activity.
func TestCrash_LosesDetailsOfSeveralActivities(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "outer"}, func(ctx activity.Context) error {
				n, err := activity.Resume(ctx, 0)
				if err != nil {
					return err
				}
				for _, n := range []int{n + 1, n + 2} {
					if err := ctx.Heartbeat(n); err != nil {
						return err
					}
				}
				return rt.Run(ctx, activity.Options{ID: "inner"}, func(inner activity.Context) error {
					m, err := activity.Resume(inner, 10)
					l.add(fmt.Sprint(n, m))
					for i := range 2 {
						if err := inner.Heartbeat(m + i + 1); err != nil {
							return err
						}
					}
					activitytest.Point(inner, "end")
					return err
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	for name, second := range map[string]string{
		"crash_at_point_end_1_of_inner":        "2 12",
		"crash_at_point_end_1_of_inner_lost_1": "2 11",
		"crash_at_point_end_1_of_inner_lost_2": "2 10",
	} {
		if want := []string{"0 10", second}; !slices.Equal(got[name], want) {
			t.Errorf("%s: resumed from %q, want %q", name, got[name], want)
		}
	}
}

// Given a process with two activities and a goroutine, when it crashes, then its functions,
// goroutines and Runtime stop, and deferred calls run after the end of the body.
func TestCrash_StopsTheProcess(t *testing.T) {
	var after []string
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		lives := 0
		t.Cleanup(func() { after = append(after, strings.Join(l.take(), ", ")) })
		w.Config.Interceptor = func(ctx activity.Context, next func(activity.Context) error) error {
			if ctx.Info().ID == "job" {
				l.add(fmt.Sprintf("attempt %d", ctx.Info().Attempt))
			}
			return next(ctx)
		}
		w.Config.Observer = func(e activity.Event) {
			if e.ID == "job" && e.Kind == activity.EventAttemptFailed {
				l.add("failed")
			}
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			lives++
			life := lives
			if life == 1 {
				go func() {
					<-ctx.Done()
					l.add("context of life 1")
				}()
			}
			other, err := activity.Start(ctx, rt, activity.Options{ID: "other", HeartbeatTimeout: time.Minute}, func(ctx activity.Context, _ struct{}) (int, error) {
				for i := range 1000 {
					if err := ctx.Sleep(time.Minute - 1); err != nil {
						return 0, err
					}
					if life == 1 && i > 0 {
						l.add("other continues")
					}
					if err := ctx.Heartbeat(); err != nil {
						return 0, err
					}
					if life > 1 || i > 0 {
						break
					}
				}
				return 0, nil
			}, struct{}{})
			if err != nil {
				return err
			}
			err = rt.Run(ctx, activity.Options{ID: "job", HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
				defer l.add(fmt.Sprintf("deferred in life %d", life))
				done := make(chan struct{})
				go func() {
					activitytest.Point(ctx, "in a goroutine")
					close(done)
				}()
				<-done
				activitytest.Point(ctx, "here")
				l.add(fmt.Sprintf("end of life %d", life))
				return nil
			})
			l.add(fmt.Sprintf("process of life %d", life))
			if err == nil {
				_, err = other.Wait(ctx)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		time.Sleep(24 * time.Hour) // enough for timeouts and retries of the dead process
		if strings.HasSuffix(t.Name(), "/crash_at_point_here_1_of_job") {
			want := []string{"attempt 1", "attempt 2", "end of life 2", "deferred in life 2", "process of life 2"}
			if diff := cmp.Diff(want, l.take()); diff != "" {
				t.Errorf("before the body's end (-want +got):\n%s", diff)
			}
		} else {
			l.take()
		}
	})
	i := slices.Index(names, "crash_at_point_here_1_of_job")
	if i < 0 {
		t.Fatalf("no crash at the point, in %q", names)
	}
	if got, want := strings.Split(after[i+1], ", "), []string{"context of life 1", "deferred in life 1", "process of life 1"}; !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("after the body's end: %q, want %q in any order", got, want)
	}
	if i := slices.Index(names, "crash_at_point_in_a_goroutine_1_of_job"); i < 0 || !strings.Contains(after[i+1], "deferred in life 1") {
		t.Errorf("a function did not return that waits for a stopped goroutine; the calls after each body: %q", after)
	}
}

// Given a process that crashed, when time passes, then its Runtime starts no retry and no
// other activity.
func TestCrash_RuntimeStartsNothing(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			for _, id := range []string{"", "second"} {
				err := rt.Run(ctx, activity.Options{ID: id, HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
					l.add(fmt.Sprintf("%q attempt %d", id, ctx.Info().Attempt))
					activitytest.Point(ctx, "here")
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
	})
	want := []string{`"" attempt 1`, `"" attempt 1`, `"second" attempt 1`}
	if diff := cmp.Diff(want, got["crash_at_point_here_1_of_#1"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Given a process with a Point between two activities, when it crashes there, then the next
// life starts from its beginning.
func TestCrash_AtAPointOfTheProcess(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			defer l.add("deferred")
			for _, id := range []string{"a", "b"} {
				err := rt.Run(ctx, activity.Options{ID: id}, func(ctx activity.Context) error {
					l.add(id)
					return nil
				})
				if err != nil {
					return err
				}
				activitytest.Point(ctx, "after "+id)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	want := []string{"a", "a", "b", "deferred"}
	if diff := cmp.Diff(want, got["crash_at_point_after_a_1_of_the_process"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Given details that were not saved when their process ended, when a later process crashes,
// then they are not counted among the details to lose.
func TestCrash_AfterAProcessWithUnsavedDetails(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			beaten := make(chan error, 2)
			_, err := activity.Start(ctx, rt, activity.Options{ID: "job"}, func(ctx activity.Context, _ struct{}) (int, error) {
				beaten <- ctx.Heartbeat(1)
				return 0, ctx.Sleep(time.Hour)
			}, struct{}{})
			return errors.Join(err, <-beaten)
		})
		if err != nil {
			t.Fatal(err)
		}
		live(t, w, activity.Options{ID: "job"}, func(ctx activity.Context) error {
			if _, err := resumed(ctx, l); err != nil {
				return err
			}
			return ctx.Heartbeat(2)
		})
	})
	for name, want := range map[string][]string{
		"":                               {"0"},
		"crash_after_heartbeat_2":        {"0", "2"},
		"crash_after_heartbeat_2_lost_1": {"0", "0"},
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: resumed from %q, want %q", name, got[name], want)
		}
	}
}

// Given a process that crashed, when its Runtime's timeouts expire, then the user's Logger
// and Observer are not called.
func TestCrash_SilencesLoggerAndObserver(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		var events, logged atomic.Int32
		w.Config.Observer = func(e activity.Event) { events.Add(1) }
		w.Config.Logger = slog.New(counter{slog.DiscardHandler, &logged})
		opts := job
		opts.RetryPolicy.ResetOnProgress = true
		live(t, w, opts, func(ctx activity.Context) error { return ctx.Heartbeat(1) })
		time.Sleep(time.Second)
		n, m := events.Load(), logged.Load()
		time.Sleep(time.Hour) // the attempt that was stopped times out
		if events.Load() != n || logged.Load() != m {
			t.Errorf("a dead process made %d events and %d log lines", events.Load()-n, logged.Load()-m)
		}
	})
}
