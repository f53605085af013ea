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

// Given an activity with a heartbeat timeout, when a call stalls, then it returns once the
// next attempt has reached the planned place. Its result is that of a call after its attempt.
func TestStall_ResultOfTheCall(t *testing.T) {
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
	// The stalled attempt wakes at the next attempt's end at the latest.
	for name, lines := range got {
		if name != "" && !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "1 ") && (strings.HasSuffix(l, " ended") || strings.HasSuffix(l, " timed out"))
		}) && name != "stall_before_return_1" && !strings.HasPrefix(name, "stall_before_return_1_until") {
			t.Errorf("%s: attempt 1 did not wake: %q", name, lines)
		}
	}
}

// Given a stall whose next attempt fails, when a third attempt runs, then its places are not
// counted for the stall.
func TestStall_CountsPlacesOfTheNextAttempt(t *testing.T) {
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
		for until := range 5 { // 2 places, then moreLater
			want = append(want, fmt.Sprintf("stall_%s_until_place_%d", place, until+1))
		}
		want = append(want, "stall_"+place+"_until_return")
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// Given a stall inside Guard, when it blocks the next attempt, then it wakes at once, and
// never at a later place.
func TestStall_InGuard(t *testing.T) {
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
			t.Errorf("run %s_until_place_1 was made, but the next attempt waits for the Guard", name)
		}
	}
}

// Given an attempt with a goroutine that sends heartbeats, when the function stalls, then the
// goroutine stalls, too, so that the attempt times out.
func TestStall_StopsOtherGoroutines(t *testing.T) {
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
		t.Errorf("no stall at the point in %q", names)
	}
}

// Given an activity, when its Runtime is shut down at a place, then its calls return the
// shutdown, and the next life resumes it unless it returned nil.
func TestShutdown_AtEachPlace(t *testing.T) {
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
		"shutdown_after_heartbeat_1":  {"attempt 1", "0", "sleep true", "attempt 1", "1"}, // the heartbeat returned nil
		"shutdown_before_sleep_1":     {"attempt 1", "0", "sleep true", "attempt 1", "1"},
		"shutdown_after_sleep_1":      {"attempt 1", "0"}, // the function returns nil
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Given a Shutdown that takes seconds, when the process returns earlier, then the next life
// still begins after the Shutdown.
func TestShutdown_IsWaitedFor(t *testing.T) {
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
				return err // without waiting for the other activity
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

// Given a crash after a heartbeat, when the recovery crashes as well, then each life resumes
// from the details of the life before.
func TestTwice_CrashThenCrash(t *testing.T) {
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
		// The recovery's places: two for HeartbeatDetails, then two for each heartbeat.
		want := []string{"0", fmt.Sprint(first), fmt.Sprint(first + max(0, second-2)/2)}
		if second == 2 { // Resume has not returned yet
			want = want[:2]
		}
		if last := 2 + 2*(20-first) + 1; second <= last && !slices.Equal(got[name], want) {
			t.Errorf("%s resumed from %q, want %q", name, got[name], want)
		}
	}
	if twice == 0 {
		t.Errorf("no crash after a heartbeat that is followed by another crash in %q", names)
	}
}

// Given a Shutdown, when a second interruption follows, then it comes in the next life.
func TestTwice_ShutdownThenShutdown(t *testing.T) {
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
			if n := len(got[name]); n != 3 && !strings.HasSuffix(name, "_at_place_42") && !strings.HasSuffix(name, "_at_place_43") { // there the function returns nil
				t.Errorf("%s: %d lives, want 3", name, n)
			}
		}
	}
	if twice < 4 { // one for each site
		t.Errorf("%d runs have a second interruption, want at least 4", twice)
	}
}

// Given a stalled function that does a step of the next attempt if it wakes at once, when it
// wakes later, then the next attempt passes more places, and it also wakes at these.
func TestStall_WakesAtLaterPlaces(t *testing.T) {
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
		t.Errorf("the first step woke at %d later places, want at least 7", late)
	}
}
