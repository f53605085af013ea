package activitytest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

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
	var want []string
	for _, place := range []string{"after_heartbeat_1", "at_point_here_1", "before_heartbeat_1", "before_return_1"} {
		want = append(want, "stall_"+place)
		for _, until := range []int{1, 2, 3, 4, 6} { // 2 there are, then 3 more, the last of which is none
			want = append(want, fmt.Sprintf("stall_%s_until_place_%d", place, until))
		}
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
		"shutdown_after_heartbeat_1":  {"attempt 1", "0", "sleep true", "attempt 1", "1"}, // which has returned nil
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

// A function that has done a step in place of the next attempt, when it woke at once,
// comes too late for the next one's last step too: at a place that only then is there.
func TestStallUntilALaterPlace(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Stall}, func(t *testing.T, w *activitytest.World, l *log) {
		done := 0
		live(t, w, job, func(ctx activity.Context) error {
			for done < 2 {
				if err := ctx.Heartbeat(); err != nil && done > 0 {
					return err
				}
				activitytest.Point(ctx, "step")
				done++
			}
			l.add("end")
			return nil
		})
	})
	late := 0
	for _, name := range names {
		if strings.HasPrefix(name, "stall_at_point_step_1_until_place_") {
			late++
		}
	}
	if late < 7 && !testing.Short() { // heartbeat, point, heartbeat, point, return: 7 places
		t.Errorf("the first step woke at %d later places", late)
	}
}
