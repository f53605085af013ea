package activitytest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// allPlaces comes to a place of each kind.
func allPlaces(ctx activity.Context) error {
	if _, err := activity.Resume(ctx, 0); err != nil {
		return err
	}
	if err := ctx.Sleep(time.Second); err != nil {
		return err
	}
	if err := ctx.Heartbeat(1); err != nil {
		return err
	}
	if err := activity.Guard(ctx, func() error {
		activitytest.Point(ctx, "row written")
		return nil
	}); err != nil {
		return err
	}
	activitytest.Point(ctx, "row written")
	return nil
}

func TestNames(t *testing.T) {
	for _, test := range []struct {
		kinds activitytest.Kind
		opts  activity.Options
		want  string
	}{
		{activitytest.Crash, activity.Options{ID: "job"}, `
crash_before_heartbeat_details_1
crash_after_heartbeat_details_1
crash_before_sleep_1
crash_after_sleep_1
crash_before_heartbeat_1
crash_after_heartbeat_1
crash_after_heartbeat_1_lost_1
crash_entering_guard_1
crash_entering_guard_1_lost_1
crash_at_point_row_written_1
crash_at_point_row_written_1_lost_1
crash_leaving_guard_1
crash_leaving_guard_1_lost_1
crash_at_point_row_written_2
crash_at_point_row_written_2_lost_1
crash_before_return_1
crash_before_return_1_lost_1`},
		{activitytest.Shutdown, activity.Options{}, `
shutdown_before_heartbeat_details_1
shutdown_after_heartbeat_details_1
shutdown_before_sleep_1
shutdown_after_sleep_1
shutdown_before_heartbeat_1
shutdown_after_heartbeat_1
shutdown_entering_guard_1
shutdown_at_point_row_written_1
shutdown_leaving_guard_1
shutdown_at_point_row_written_2
shutdown_before_return_1`},
		// All that the next attempt comes to, and in Guard nothing.
		{activitytest.Stall, activity.Options{ID: "job", StartToCloseTimeout: time.Minute}, `
stall_before_heartbeat_details_1 11
stall_after_heartbeat_details_1 11
stall_before_sleep_1 11
stall_after_sleep_1 11
stall_before_heartbeat_1 11
stall_after_heartbeat_1 11
stall_entering_guard_1 0
stall_at_point_row_written_1 0
stall_leaving_guard_1 0
stall_at_point_row_written_2 11
stall_before_return_1 11`},
		// No stall that nothing would end, or that nothing would follow.
		{activitytest.Stall | activitytest.Shutdown, activity.Options{ScheduleToCloseTimeout: time.Hour}, "10 of shutdown"},
		{activitytest.Stall | activitytest.Shutdown, activity.Options{HeartbeatTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}, "10 of shutdown"},
	} {
		t.Run(test.kinds.String(), func(t *testing.T) {
			names, _ := runs(t, activitytest.Plan{Kinds: test.kinds}, func(t *testing.T, w *activitytest.World, l *log) {
				live(t, w, test.opts, allPlaces)
			})
			var want []string
			for line := range strings.Lines(strings.TrimSpace(test.want)) {
				name, untils, _ := strings.Cut(strings.TrimSpace(line), " ")
				want = append(want, name)
				n := 0
				fmt.Sscan(untils, &n)
				for i := range n {
					want = append(want, fmt.Sprintf("%s_until_place_%d", name, i+1))
				}
			}
			if strings.HasPrefix(test.want, "10 of") {
				for _, name := range names {
					if !strings.HasPrefix(name, "shutdown") {
						t.Errorf("there is %s", name)
					}
				}
				return
			}
			if test.kinds == activitytest.Stall { // the others come first
				slices.Sort(want)
				slices.Sort(names)
			}
			if diff := cmp.Diff(want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// resumed notes what each life resumes from.
func resumed(ctx activity.Context, l *log) (int, error) {
	n, err := activity.Resume(ctx, 0)
	l.add(fmt.Sprint(n))
	return n, err
}

func TestLostDetails(t *testing.T) {
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
		lost [5]int // how many at most, after each heartbeat
	}{
		{"no flush", false, tight, [5]int{0, 1, 2, 3, 4}},
		{"SyncHeartbeats", true, tight, [5]int{}},
		{"a flush 100 ms after the first that waits", false, every60ms, [5]int{0, 1, 2, 1, 2}},
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
				t.Errorf("what was resumed from (-want +got):\n%s", diff)
			}
		})
	}
}

// Of one that has recorded nothing new, a crash is waited out; details that a crash
// has not lost are progress.
func TestLostDetailsAreNoProgress(t *testing.T) {
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

// To lose one of two that are the same makes no difference.
func TestSameDetailsTwice(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, activity.Options{ID: "job"}, func(ctx activity.Context) error {
			return errors.Join(ctx.Heartbeat(1), ctx.Heartbeat(1), ctx.Heartbeat(2))
		})
	})
	for name, want := range map[string]bool{
		"crash_after_heartbeat_2_lost_1": true, "crash_after_heartbeat_2_lost_2": false,
		"crash_after_heartbeat_3_lost_2": true, "crash_after_heartbeat_3_lost_3": false,
	} {
		if slices.Contains(names, name) != want {
			t.Errorf("%s: %t, want %t", name, !want, want)
		}
	}
}

// Of two activities, what is lost is what was recorded last, whose ever it is.
func TestLostDetailsOfSeveral(t *testing.T) {
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

// Nothing of a process that has crashed goes on: not the function, nor its other
// goroutines, nor the process, nor the Runtime; deferred calls wait for the body's end.
func TestCrashStopsAll(t *testing.T) {
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
						l.add("other goes on")
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
		time.Sleep(24 * time.Hour) // timeouts and retries of the dead
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
		t.Errorf("a function that waits for a goroutine that was stopped has not returned, after %q", after)
	}
}

// The Runtime of a process that has crashed begins nothing: no retry, and no other
// activity.
func TestDeadBeginNothing(t *testing.T) {
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
	if diff := cmp.Diff(want, got["crash_at_point_here_1_of_activity-1"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a call gives that has hung.
func TestStall(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		start := time.Now()
		live(t, w, job, func(ctx activity.Context) error {
			attempt := ctx.Info().Attempt
			say := func(what string, err error) error {
				var timeout *activity.TimeoutError
				switch {
				case errors.As(err, &timeout):
					what += " timed out"
				case err != nil:
					what += " " + err.Error()
				case ctx.Err() != nil:
					what += " ended"
				}
				l.add(fmt.Sprintf("%d %s %s", attempt, time.Since(start).Truncate(time.Second), what))
				return err
			}
			n, err := activity.Resume(ctx, 0)
			if say(fmt.Sprint("resume ", n), err) != nil {
				return err
			}
			if err := say("sleep", ctx.Sleep(time.Second)); err != nil {
				return err
			}
			if err := say("beat", ctx.Heartbeat(n+1)); err != nil {
				return err
			}
			activitytest.Point(ctx, "here")
			return say("end", nil)
		})
	})
	for name, want := range map[string][]string{
		"": {"1 0s resume 0", "1 1s sleep", "1 1s beat", "1 1s end"},
		"stall_before_heartbeat_details_1": {
			"1 10s resume 0 ended", "1 10s sleep timed out", "2 10s resume 0", "2 11s sleep", "2 11s beat", "2 11s end"},
		"stall_before_heartbeat_1": {
			"1 0s resume 0", "1 1s sleep", "1 10s beat timed out", "2 10s resume 0", "2 11s sleep", "2 11s beat", "2 11s end"},
		"stall_after_heartbeat_1": {
			"1 0s resume 0", "1 1s sleep", "1 11s beat timed out", "2 11s resume 1", "2 12s sleep", "2 12s beat", "2 12s end"},
		"stall_after_sleep_1": {
			"1 0s resume 0", "1 10s sleep timed out", "2 10s resume 0", "2 11s sleep", "2 11s beat", "2 11s end"},
		// The next attempt's places: before and after details, before and after the sleep, ...
		"stall_at_point_here_1_until_place_2": {
			"1 0s resume 0", "1 1s sleep", "1 1s beat", "1 11s end ended", "2 11s resume 1", "2 12s sleep", "2 12s beat", "2 12s end"},
		"stall_at_point_here_1_until_place_4": {
			"1 0s resume 0", "1 1s sleep", "1 1s beat", "2 11s resume 1", "1 12s end ended", "2 12s sleep", "2 12s beat", "2 12s end"},
		"stall_at_point_here_1_until_place_6": {
			"1 0s resume 0", "1 1s sleep", "1 1s beat", "2 11s resume 1", "2 12s sleep", "1 12s end ended", "2 12s beat", "2 12s end"},
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// It wakes at the next attempt's end at the latest.
	for name, lines := range got {
		if name != "" && !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "1 ") && (strings.HasSuffix(l, " ended") || strings.HasSuffix(l, " timed out"))
		}) && name != "stall_before_return_1" && !strings.HasPrefix(name, "stall_before_return_1_until") {
			t.Errorf("%s: attempt 1 has not woken: %q", name, lines)
		}
	}
}

// Only the next attempt counts, and not the one after it.
func TestStallUntilTheNextAttemptEnds(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			activitytest.Point(ctx, "here")
			if ctx.Info().Attempt == 2 {
				return errors.New("once more")
			}
			return ctx.Heartbeat()
		})
	})
	slices.Sort(names)
	want := []string{
		"stall_after_heartbeat_1", "stall_after_heartbeat_1_until_place_1", "stall_after_heartbeat_1_until_place_2",
		"stall_at_point_here_1", "stall_at_point_here_1_until_place_1", "stall_at_point_here_1_until_place_2",
		"stall_before_heartbeat_1", "stall_before_heartbeat_1_until_place_1", "stall_before_heartbeat_1_until_place_2",
		"stall_before_return_1", "stall_before_return_1_until_place_1", "stall_before_return_1_until_place_2",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestStallInGuard(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			attempt := ctx.Info().Attempt
			l.add(fmt.Sprint("start ", attempt))
			return activity.Guard(ctx, func() error {
				activitytest.Point(ctx, "inside")
				l.add(fmt.Sprint("write ", attempt))
				return nil
			})
		})
	})
	want := []string{"start 1", "write 1", "start 2", "write 2"}
	for _, name := range []string{"stall_entering_guard_1", "stall_at_point_inside_1", "stall_leaving_guard_1"} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if slices.Contains(names, name+"_until_place_1") {
			t.Errorf("%s until a place that comes only later", name)
		}
	}
}

// All of an attempt hangs, so that another of its goroutines does not hide it.
func TestStallOfAllGoroutines(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Stall, Limit: time.Hour, MaxRuns: 50}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			go func() {
				for ctx.Heartbeat() == nil && ctx.Sleep(time.Second) == nil {
				}
			}()
			activitytest.Point(ctx, "hangs")
			return ctx.Sleep(5*time.Second + 1)
		})
	})
	if !slices.Contains(names, "stall_at_point_hangs_1") {
		t.Errorf("no stall, in %q", names)
	}
}

func TestShutdown(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, activity.Options{ID: "job"}, func(ctx activity.Context) error {
			l.add(fmt.Sprint("attempt ", ctx.Info().Attempt))
			n, err := resumed(ctx, l)
			if err != nil {
				return err
			}
			if err := ctx.Heartbeat(n + 1); err != nil {
				l.add(err.Error())
				return err
			}
			if err := ctx.Sleep(time.Hour); err != nil {
				l.add(fmt.Sprint("sleep ", errors.Is(err, activity.ErrShutdown)))
				return err
			}
			return nil
		})
	})
	for name, want := range map[string][]string{
		"shutdown_before_heartbeat_1": {"attempt 1", "0", activity.ErrShutdown.Error(), "attempt 1", "1"},
		"shutdown_after_heartbeat_1":  {"attempt 1", "0", activity.ErrShutdown.Error(), "attempt 1", "1"},
		"shutdown_before_sleep_1":     {"attempt 1", "0", "sleep true", "attempt 1", "1"},
		"shutdown_after_sleep_1":      {"attempt 1", "0"}, // returns nil: ended by itself
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The next life finds what a Shutdown has saved that takes its time.
func TestShutdownIsWaitedFor(t *testing.T) {
	_, got := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		slow := func(ctx activity.Context, _ struct{}) (int, error) {
			n, err := activity.Resume(ctx, 0)
			if err != nil || n > 0 {
				l.add(fmt.Sprint("slow resumes from ", n))
				return n, err
			}
			select {
			case <-ctx.Done():
				time.Sleep(5 * time.Second)
				return 0, ctx.Heartbeat(1)
			case <-time.After(2 * time.Second):
				return 0, nil
			}
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			h, err := activity.Start(ctx, rt, activity.Options{ID: "slow"}, slow, struct{}{})
			if err != nil {
				return err
			}
			err = rt.Run(ctx, activity.Options{ID: "quick"}, func(ctx activity.Context) error {
				return ctx.Sleep(time.Second)
			})
			if err != nil {
				return err // and does not wait for the other
			}
			_, err = h.Wait(ctx)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	name := "shutdown_before_sleep_1_of_quick"
	if diff := cmp.Diff([]string{"slow resumes from 1"}, got[name]); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestTwice(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash | activitytest.Twice, Seed: 1}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, activity.Options{ID: "job", SyncHeartbeats: true}, func(ctx activity.Context) error {
			n, err := resumed(ctx, l)
			for ; err == nil && n < 20; n++ {
				err = ctx.Heartbeat(n + 1)
			}
			return err
		})
	})
	twice := 0
	for _, name := range names {
		var first, second int
		if n, _ := fmt.Sscanf(name, "crash_after_heartbeat_%d_then_crash_at_place_%d", &first, &second); n < 2 || second < 2 {
			continue
		}
		twice++
		// Details, their end, and then two places for each heartbeat.
		want := []string{"0", fmt.Sprint(first), fmt.Sprint(first + max(0, second-2)/2)}
		if last := 2 + 2*(20-first) + 1; second <= last && !slices.Equal(got[name], want) {
			t.Errorf("%s resumed from %q, want %q", name, got[name], want)
		}
	}
	if twice == 0 {
		t.Errorf("no crash after a heartbeat and then another, in %q", names)
	}
}

// The recovery from a Shutdown begins with the next life.
func TestTwiceAfterShutdown(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown | activitytest.Twice, Seed: 1}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			l.add("life")
			return rt.Run(ctx, job, func(ctx activity.Context) error {
				for range 40 {
					activitytest.Point(ctx, "here")
				}
				return ctx.Sleep(0)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	twice := 0
	for _, name := range names {
		if strings.Contains(name, "_at_point_here_") && strings.Contains(name, "_then_shutdown_") {
			twice++
			if n := len(got[name]); n != 3 && !strings.HasSuffix(name, "_at_place_42") && !strings.HasSuffix(name, "_at_place_43") { // then all is done
				t.Errorf("%s: %d lives, want 3", name, n)
			}
		}
	}
	if twice < 5 {
		t.Errorf("%d with a second interruption, want 5 at least", twice)
	}
}

func TestSeveralActivities(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			activitytest.Point(ctx, "start")
			for _, id := range []string{"a/b", "", "c"} {
				err := rt.Run(ctx, activity.Options{ID: id}, func(ctx activity.Context) error {
					return errors.Join(ctx.Heartbeat(1), ctx.Heartbeat(2))
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	var want []string
	for _, id := range []string{"a_b", "activity-2", "c"} {
		for n := 1; n <= 2; n++ {
			want = append(want, fmt.Sprintf("shutdown_before_heartbeat_%d_of_%s", n, id), fmt.Sprintf("shutdown_after_heartbeat_%d_of_%s", n, id))
		}
		want = append(want, "shutdown_before_return_1_of_"+id)
	}
	want = append([]string{"shutdown_at_point_start_1_of_the_process"}, want...)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// A process that crashes at a Point of its own, between two activities.
func TestPointOfTheProcess(t *testing.T) {
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

// An activity without an ID is the process's to start again, from the beginning.
func TestWithoutID(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Crash | activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
			n, err := resumed(ctx, l)
			return errors.Join(err, ctx.Heartbeat(n+1))
		})
	})
	for name, want := range map[string][]string{
		"crash_after_heartbeat_1": {"0", "0"},
		"stall_after_heartbeat_1": {"0", "1"},
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "lost") }) {
		t.Errorf("nothing is stored, and yet it is lost, in %q", names)
	}
}

// The user's own Config is in effect.
func TestConfig(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		var events, logged atomic.Int32
		w.Config = activity.Config{
			Observer: func(e activity.Event) { events.Add(1) },
			Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				return next(wrapped{ctx, l})
			},
			Logger:         slog.New(counter{slog.DiscardHandler, &logged}),
			MaxDetailsSize: 5,
		}
		live(t, w, job, func(ctx activity.Context) error {
			if err := ctx.Heartbeat("too large"); !errors.Is(err, activity.ErrDetailsTooLarge) {
				return fmt.Errorf("MaxDetailsSize is not in effect: %w", err)
			}
			from, ok := activity.FromContext(context.WithValue(ctx, wrapped{}, 1))
			if !ok {
				return errors.New("no Context")
			}
			if err := from.Sleep(time.Second); err != nil {
				return err
			}
			if err := activity.Guard(ctx, func() error { return from.Heartbeat("x") }); err != nil {
				return err
			}
			if ctx.Info().LastFailure == nil && ctx.Info().Attempt == 1 {
				return activity.RetryAfter(errors.New("once more"), 0)
			}
			return nil
		})
		if lines := l.take(); len(lines) < 3 {
			t.Errorf("the wrapper has heard of %q", lines)
		}
		if events.Load() == 0 || logged.Load() == 0 {
			t.Errorf("%d events and %d log lines", events.Load(), logged.Load())
		}
	})
}

type wrapped struct {
	activity.Context
	l *log
}

func (w wrapped) Heartbeat(details ...any) error {
	w.l.add("heartbeat")
	return w.Context.Heartbeat(details...)
}

type counter struct {
	slog.Handler
	n *atomic.Int32
}

func (c counter) Enabled(context.Context, slog.Level) bool { return true }

func (c counter) Handle(context.Context, slog.Record) error {
	c.n.Add(1)
	return nil
}

// The places within Range, Idle and Guard are seen through a wrapper too.
func TestPlacesOfRangeAndIdle(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		w.Config.Interceptor = func(ctx activity.Context, next func(activity.Context) error) error {
			return next(wrapped{ctx, l})
		}
		live(t, w, job, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 2, func(i int) error {
				if err := activity.Idle(ctx, 15*time.Second); err != nil {
					return err
				}
				return activity.Guard(ctx, func() error { return nil })
			})
		})
	})
	for _, name := range []string{"shutdown_after_heartbeat_8", "shutdown_before_sleep_6", "shutdown_entering_guard_2", "shutdown_after_heartbeat_details_1"} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s, in %q", name, names)
		}
	}
}

// So are those that come through a context derived from the activity's.
func TestPlacesOfDerivedContexts(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			timeout, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			c, _ := activity.FromContext(timeout)
			activitytest.Point(timeout, "here")
			err := c.Sleep(time.Second)
			l.add(fmt.Sprint(ctx.Info().Attempt, " ", err != nil))
			if err != nil {
				return err
			}
			return activity.Guard(c, func() error { return c.Heartbeat(1) })
		})
	})
	for _, name := range []string{"stall_at_point_here_1", "stall_before_sleep_1", "stall_after_sleep_1", "stall_after_heartbeat_1", "stall_leaving_guard_1"} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s, in %q", name, names)
		}
	}
	for _, name := range []string{"stall_before_sleep_1", "stall_after_sleep_1"} {
		if want := []string{"1 true", "2 false"}; !slices.Equal(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

// One World, several Runs: the second finds what the first has left.
func TestRunAgain(t *testing.T) {
	runs(t, activitytest.Plan{}, func(t *testing.T, w *activitytest.World, l *log) {
		errLater := errors.New("later")
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, job, func(ctx activity.Context) error {
				return errors.Join(ctx.Heartbeat(1), activity.NonRetryable(errLater))
			})
		})
		if !errors.Is(err, errLater) {
			t.Fatal(err)
		}
		err = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, job, func(ctx activity.Context) error {
				n, err := activity.Resume(ctx, 0)
				if n != 1 {
					t.Errorf("resumed from %d", n)
				}
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Calls that several goroutines make at the same time come in any order.
func TestConcurrentCalls(t *testing.T) {
	runs(t, activitytest.Plan{MaxRuns: 300}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 5, func(i int) error {
				beats := make(chan error)
				go func() {
					var err error
					for n := 0; n < 3 && err == nil; n++ {
						if err = ctx.Sleep(time.Second); err == nil {
							err = ctx.Heartbeat()
						}
					}
					beats <- err
				}()
				return errors.Join(ctx.Sleep(2*time.Second), ctx.Sleep(time.Second), <-beats)
			})
		})
	})
}

// Bubbles of several tests at once.
func TestParallel(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			activitytest.Plan{MaxRuns: 100}.Run(t, func(t *testing.T, w *activitytest.World) { live(t, w, job, allPlaces) })
		})
	}
}

// What a process leaves behind when it returns ends with it.
func TestEndOfTheProcess(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			sleep := func(d time.Duration) func(ctx activity.Context, _ struct{}) (int, error) {
				return func(ctx activity.Context, _ struct{}) (int, error) {
					if err := ctx.Sleep(d); err != nil {
						return 0, err
					}
					l.add("goes on")
					return 0, nil
				}
			}
			_, err := activity.Start(ctx, rt, activity.Options{ID: "left"}, sleep(time.Second), struct{}{})
			if err != nil {
				return err
			}
			_, err = activity.Start(context.Background(), rt, activity.Options{}, sleep(1000*time.Hour), struct{}{})
			if err != nil {
				return err
			}
			return rt.Run(ctx, activity.Options{ID: "job"}, func(ctx activity.Context) error { return ctx.Sleep(time.Millisecond) })
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if lines := l.take(); lines != nil {
			t.Errorf("after the process: %q", lines)
		}
		// The next process finds it.
		found := ""
		err = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			for cp, err := range rt.Unfinished(ctx) {
				found += cp.ID
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if found != "left" {
			t.Errorf("%q is unfinished, want left", found)
		}
	})
}

// Details that were not saved when their process ended are gone.
func TestUnsavedAtTheEnd(t *testing.T) {
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

// A function that sleeps without looking at its context has time to return.
func TestSleepers(t *testing.T) {
	runs(t, activitytest.Plan{MaxRuns: 100}, func(t *testing.T, w *activitytest.World, l *log) {
		w.Config.MaxConcurrent = 2
		var n atomic.Int32
		live(t, w, activity.Options{ID: "job", StartToCloseTimeout: time.Minute}, func(ctx activity.Context) error {
			if n.Add(1)%3 == 1 {
				time.Sleep(10 * time.Minute)
			}
			return ctx.Sleep(time.Second)
		})
	})
}

// Neither the user's Logger nor Observer hears of what a dead process's Runtime does.
func TestDeadAreSilent(t *testing.T) {
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
			t.Errorf("%d events and %d log lines of a dead process", events.Load()-n, logged.Load()-m)
		}
	})
}

// Whoever holds the lock may be waiting for something real: then it is not held for
// ever.
func TestRealWaitIsNoDeadlock(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes three seconds")
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer out.Close()
	reading := make(chan bool, 1)
	go func() {
		for range reading {
			time.Sleep(3 * time.Second) // outside of the bubble: longer than a lock may be waited for
			fmt.Fprint(out, "x")
		}
	}()
	defer close(reading)
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		life := 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if life++; life > 1 && strings.Contains(t.Name(), "at_point") {
				var mu sync.Mutex
				locked := make(chan bool)
				go func() {
					<-locked
					mu.Lock()
					defer mu.Unlock()
				}()
				mu.Lock()
				close(locked)
				reading <- true
				_, err := r.Read(make([]byte, 1))
				mu.Unlock()
				if err != nil {
					return err
				}
			}
			return rt.Run(ctx, activity.Options{ID: "job"}, func(ctx activity.Context) error {
				activitytest.Point(ctx, "here")
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestKindString(t *testing.T) {
	for kind, want := range map[activitytest.Kind]string{
		0: "none", activitytest.Stall: "stall", activitytest.Shutdown | activitytest.Twice: "shutdown|twice", 32 | activitytest.Crash: "crash|Kind(32)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%d: %s, want %s", uint(kind), got, want)
		}
	}
}

// Of too many runs an even spread is taken, which the seed decides on.
func TestSampling(t *testing.T) {
	if testing.Short() {
		t.Skip("it counts the runs, of which -short leaves out most")
	}
	const most = 80
	sample := func(seed uint64) (names []string) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			names, _ = runs(t, activitytest.Plan{MaxRuns: most, Seed: seed}, func(t *testing.T, w *activitytest.World, l *log) {
				live(t, w, job, func(ctx activity.Context) error {
					return activity.Range(ctx, 0, 100, func(int) error { return nil })
				})
			})
		})
		return names
	}
	names := sample(1)
	if len(names) != most {
		t.Errorf("%d runs, want %d", len(names), most)
	}
	count := map[string]int{}
	var crashes []int
	for _, name := range names {
		kind, _, _ := strings.Cut(name, "_")
		switch {
		case strings.Contains(name, "_then_"):
			kind = "twice"
		case strings.Contains(name, "_until_"):
			kind = "later"
		case strings.Contains(name, "_lost_"):
			kind = "lost"
		case kind == "crash":
			n := 0
			fmt.Sscanf(name[strings.LastIndexByte(name, '_')+1:], "%d", &n)
			crashes = append(crashes, n)
		}
		count[kind]++
	}
	want := map[string]int{"crash": 15, "lost": 15, "stall": 15, "shutdown": 15, "later": 10, "twice": 10}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	for i := 1; i < len(crashes); i++ { // of 100 heartbeats
		if gap := crashes[i] - crashes[i-1]; gap > 15 {
			t.Errorf("crashes at heartbeats %v: no even spread", crashes)
		}
	}
	if diff := cmp.Diff(names, sample(1)); diff != "" {
		t.Errorf("the same seed gives others (-first +second):\n%s", diff)
	}
	if slices.Equal(names[:60], sample(2)[:60]) { // of the first part
		t.Error("another seed gives the same runs")
	}
}

// The README's quick start.

func importAll(ctx activity.Context, rows []string) (int, error) {
	next, err := activity.Resume(ctx, 0) // the last heartbeat's details, or 0
	if err != nil {
		return 0, err
	}
	for ; next < len(rows); next++ {
		if err := ctx.Sleep(10 * time.Millisecond); err != nil { // the work
			return 0, err
		}
		if err := ctx.Heartbeat(next + 1); err != nil { // so far it is done
			return 0, err
		}
	}
	return next, nil
}

func TestQuickStart(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var n int
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
			n, err = activity.Execute(ctx, rt, activity.Options{
				ID:                  "import of today",
				StartToCloseTimeout: time.Hour,
				HeartbeatTimeout:    10 * time.Second,
				CancelGrace:         time.Second,
				RetryPolicy:         activity.RetryPolicy{MaximumAttempts: 20, ResetOnProgress: true},
			}, importAll, []string{"a", "b", "c"})
			return err
		})
		if n != 3 || err != nil {
			t.Errorf("imported %d rows, error %v", n, err)
		}
	})
}

// A program that starts with Recover, as the README's second one does.
func TestRecover(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		rows := map[string]int{} // of each file; a row that is written again changes nothing
		def := &activity.Definition[string, int]{
			Name:    "import file",
			Options: activity.Options{HeartbeatTimeout: 10 * time.Second},
			Func: func(ctx activity.Context, file string) (int, error) {
				return 3, activity.Range(ctx, 0, 3, func(row int) error {
					return activity.Guard(ctx, func() error {
						rows[file] = max(rows[file], row+1)
						activitytest.Point(ctx, "written")
						return nil
					})
				})
			},
		}
		started := false
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if _, err := activity.Recover(ctx, rt, def); err != nil {
				return err
			}
			if !started {
				if _, err := def.Start(ctx, rt, "a", "a"); err != nil {
					return err
				}
				started = true
			}
			for len(rt.Activities()) > 0 {
				time.Sleep(time.Second)
			}
			for cp, err := range rt.Unfinished(ctx) {
				return fmt.Errorf("%s is left: %w", cp.ID, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if rows["a"] != 3 {
			t.Errorf("%v, want 3 rows of a", rows)
		}
	})
}
