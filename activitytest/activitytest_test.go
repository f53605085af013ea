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

// allPlaces passes a place of each kind.
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

// Given an activity that passes a place of each kind, when its runs are made, then their names
// are those of its places. There is no stall that would not end or be followed by an attempt.
func TestRun_NamesOfRuns(t *testing.T) {
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
		// With each name, the number of places that the next attempt passes: none in Guard.
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
		// No stalls, because no timeout would end them, or no other attempt would follow.
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
				for i := range n + 3 { // and three places that it may pass only then
					if n > 0 {
						want = append(want, fmt.Sprintf("%s_until_place_%d", name, i+1))
					}
				}
				if test.kinds == activitytest.Stall { // and, at the latest, its return
					want = append(want, name+"_until_return")
				}
			}
			if strings.HasPrefix(test.want, "10 of") {
				for _, name := range names {
					if !strings.HasPrefix(name, "shutdown") {
						t.Errorf("unexpected run %s", name)
					}
				}
				return
			}
			if test.kinds == activitytest.Stall { // stalls that wake later come in the second part
				slices.Sort(want)
				slices.Sort(names)
			}
			if diff := cmp.Diff(want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}

// Given several activities and a process with a Point, when their runs are made, then the
// names have the activity's ID.
func TestRun_NamesOfSeveralActivities(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			activitytest.Point(ctx, "start")
			for _, id := range []string{"a/b", "", "c"} {
				err := rt.Run(ctx, activity.Options{ID: id}, func(ctx activity.Context) error {
					return errors.Join(ctx.Heartbeat(), ctx.Heartbeat())
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
	for _, id := range []string{"a_b-3a8e75c1", "#2", "c"} {
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

// Given Points whose names differ only in characters that a subtest's name cannot have, when
// their runs are made, then the names of the runs differ.
func TestRun_SimilarNamesDiffer(t *testing.T) {
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
		t.Errorf("%d of the names differ, want 7: %q", n, names)
	}
}

// Given an activity without an ID, when its process crashes, then the next life starts it
// from the beginning.
func TestActivity_WithoutID(t *testing.T) {
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
		t.Errorf("some runs lose details, although none are stored: %q", names)
	}
}

// Given a World.Config with an Observer, an Interceptor, a Logger and a limit, when a process
// runs, then each is in effect.
func TestWorld_ConfigIsInEffect(t *testing.T) {
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
				return errors.New("FromContext found no Context")
			}
			if err := from.Sleep(time.Second); err != nil {
				return err
			}
			if err := activity.Guard(ctx, func() error { return from.Heartbeat("x") }); err != nil {
				return err
			}
			if ctx.Info().LastFailure == nil && ctx.Info().Attempt == 1 {
				return activity.RetryAfter(errors.New("once more"), 1)
			}
			return nil
		})
		if lines := l.take(); len(lines) < 3 {
			t.Errorf("the Interceptor's Context got %q, want 3 heartbeats or more", lines)
		}
		if events.Load() == 0 || logged.Load() == 0 {
			t.Errorf("got %d events and %d log lines, want some of each", events.Load(), logged.Load())
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

// Given an Interceptor that wraps the Context, when the function calls Range, Idle and Guard,
// then their places are counted.
func TestPlaces_RangeAndIdle(t *testing.T) {
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

// Given a context derived from the activity's, when calls are made with it, then their places
// are counted.
func TestPlaces_DerivedContexts(t *testing.T) {
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

// Given a World whose Run left a failed activity, when Run is called again, then the activity
// resumes from its details.
func TestWorld_RunTwice(t *testing.T) {
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

// Given goroutines that make calls at the same instant, when their order differs from that of
// the dry run, then the run does not fail.
func TestCalls_Concurrent(t *testing.T) {
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

// Given a goroutine that sends the heartbeats while the function works, when the order of
// their calls at one instant varies, then the run does not fail.
func TestCalls_HeartbeatsFromAGoroutine(t *testing.T) {
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
			t.Errorf("got %d rows, want 4", len(rows))
		}
	})
}

// Given parallel tests, when each makes its runs, then they do not disturb each other.
func TestRun_InParallelTests(t *testing.T) {
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			activitytest.Plan{MaxRuns: 100}.Run(t, func(t *testing.T, w *activitytest.World) { live(t, w, job, allPlaces) })
		})
	}
}

// Given a process that returns while activities run, when time passes, then they do nothing
// more, and the next process finds the one with an ID.
func TestProcess_EndsItsActivities(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Stall | activitytest.Shutdown}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			sleep := func(d time.Duration) func(ctx activity.Context, _ struct{}) (int, error) {
				return func(ctx activity.Context, _ struct{}) (int, error) {
					if err := ctx.Sleep(d); err != nil {
						return 0, err
					}
					l.add("continues")
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
			t.Errorf("after the process returned: %q", lines)
		}
		found := ""
		err = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			for cp, err := range rt.Checkpoints(ctx) {
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
			t.Errorf("the next process found %q, want left", found)
		}
	})
}

// Given a function that sleeps and ignores its context, when the run ends, then the function
// has time to return.
func TestFunction_SleepsWithoutContext(t *testing.T) {
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

// Given a goroutine that holds a lock and waits for something outside of the bubble, when it
// waits longer than the limit for locks at places, then the run does not fail.
func TestLock_HeldDuringARealWait(t *testing.T) {
	if testing.Short() {
		t.Skip("takes three seconds")
	}
	t.Parallel() // it waits
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer out.Close()
	reading := make(chan bool, 1)
	go func() {
		for range reading {
			time.Sleep(3 * time.Second) // real time, longer than the looks of lockAtPlace
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

func TestKind_String(t *testing.T) {
	for kind, want := range map[activitytest.Kind]string{
		0: "none", activitytest.Stall: "stall", activitytest.Shutdown | activitytest.Twice: "shutdown|twice", 64 | activitytest.Crash: "crash|Kind(64)",
	} {
		if got := kind.String(); got != want {
			t.Errorf("%d: %s, want %s", uint(kind), got, want)
		}
	}
}

// Given more possible runs than MaxRuns, and no second interruptions, then all of MaxRuns are made.
func TestPlan_StallsUseAllRuns(t *testing.T) {
	names, _ := runs(t, activitytest.Plan{Kinds: activitytest.Stall, MaxRuns: 400, Seed: 1}, func(t *testing.T, w *activitytest.World, l *log) {
		live(t, w, job, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 100, func(int) error { return nil })
		})
	})
	if len(names) != 400 {
		t.Errorf("%d runs, want 400", len(names))
	}
}

// Given more possible runs than MaxRuns, when runs are made, then they are spread evenly over
// the kinds and the places, and the Seed selects them.
func TestPlan_MaxRuns(t *testing.T) {
	if testing.Short() {
		t.Skip("counts the runs, and -short leaves out most")
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
		case strings.Contains(name, "_until_return"):
			kind = "long"
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
	want := map[string]int{"crash": 11, "lost": 9, "stall": 11, "long": 11, "shutdown": 10, "later": 14, "twice": 14}
	if diff := cmp.Diff(want, count); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	for i := 1; i < len(crashes); i++ { // of 100 heartbeats
		if gap := crashes[i] - crashes[i-1]; gap > 25 {
			t.Errorf("crashes at heartbeats %v are not spread evenly", crashes)
		}
	}
	if diff := cmp.Diff(names, sample(1)); diff != "" {
		t.Errorf("the same seed selects other runs (-first +second):\n%s", diff)
	}
	if slices.Equal(names[:60], sample(2)[:60]) { // of the first part
		t.Error("another seed selects the same runs")
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
		if err := ctx.Heartbeat(next + 1); err != nil { // the number of rows done
			return 0, err
		}
	}
	return next, nil
}

func TestReadme_QuickStart(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var n int
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
			n, err = activity.Execute(ctx, rt, activity.Options{
				ID:                  "today's import",
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

// Given a program that starts with Recover, like the README's second one, when it is
// interrupted, then its activity completes.
func TestReadme_Recover(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		rows := map[string]int{} // number of rows by file; writing a row again changes nothing
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
			if _, err := rt.Recover(ctx, def); err != nil {
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
			for cp, err := range rt.Checkpoints(ctx) {
				return fmt.Errorf("activity %s is left: %w", cp.ID, err)
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

// Given a process that shuts its Runtime down itself, when it is interrupted, then the run
// does not fail.
func TestProcess_ShutsDownItself(t *testing.T) {
	runs(t, activitytest.Plan{}, func(t *testing.T, w *activitytest.World, l *log) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) {
			defer func() { err = errors.Join(err, rt.Shutdown(ctx)) }()
			for _, id := range []string{"", "poller"} {
				_, err = activity.Start(ctx, rt, activity.Options{ID: id}, func(ctx activity.Context, _ struct{}) (int, error) {
					<-ctx.Done()
					return 0, context.Cause(ctx)
				}, struct{}{})
				if err != nil {
					return err
				}
			}
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Given a process that returns an error in place of resuming, when it is interrupted, then
// World.Run returns the error and the run does not fail.
func TestProcess_ReturnsAnError(t *testing.T) {
	errAgain := errors.New("not again")
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		life := 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if life++; life > 1 {
				return errAgain
			}
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if life > 1 && err != errAgain || life == 1 && err != nil {
			t.Errorf("life %d: error %v", life, err)
		}
	})
}

// Given several runs at once, then the same runs are made with the same results as one by one.
func TestPlan_Parallel(t *testing.T) {
	made := func(parallel int) map[string]bool {
		var mu sync.Mutex
		names := map[string]bool{}
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			plan := activitytest.Plan{Seed: 1, MaxRuns: 300, Parallel: parallel}
			plan.Run(t, func(t *testing.T, w *activitytest.World) {
				_, name, _ := strings.Cut(strings.TrimPrefix(t.Name(), "TestPlan_Parallel/"), "/")
				live(t, w, job, allPlaces)
				mu.Lock()
				defer mu.Unlock()
				names[name] = true
			})
		})
		return names
	}
	if testing.Short() {
		t.Skip("needs all runs, and -short leaves out most")
	}
	if diff := cmp.Diff(made(1), made(4)); diff != "" {
		t.Errorf("runs (-one by one +four at once):\n%s", diff)
	}
}
