package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// execute executes a function that returns out and err, and wants want.
func execute[Out comparable](t *testing.T, out Out, err error, want Out) {
	t.Helper()
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		fn := func(activity.Context, int) (Out, error) { return out, err }
		if got, gotErr := activity.Execute(t.Context(), rt, atMost(1), fn, 0); got != want || !errors.Is(gotErr, err) {
			t.Errorf("got %v, %v; want %v, %v", got, gotErr, want, err)
		}
	})
}

// Given functions with results of all kinds, then Execute returns the result of a
// success, and the zero value with an error.
func TestExecute_Out(t *testing.T) {
	type pair struct{ a, b int }
	execute(t, pair{1, 2}, nil, pair{1, 2})
	execute[any](t, 7, nil, 7)
	execute[error](t, io.EOF, nil, io.EOF)
	// On error: the zero Out.
	execute(t, pair{1, 2}, io.EOF, pair{})
	execute(t, &pair{1, 2}, io.EOF, nil)
	execute[any](t, 7, io.EOF, nil)
	// A nil Out of each kind.
	execute[any](t, nil, nil, nil)
	execute[error](t, nil, nil, nil)
	execute[*pair](t, nil, nil, nil)
}

// Given activities without an ID, then each gets another one, which nobody may ask for.
func TestIDs_MadeUpOnesAreUnique(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		ended := start(t, rt, activity.Options{}, noop)
		checkErr(t, wait(t, ended), nil)
		seen := map[string]bool{ended.ID(): true}
		for i := range 10 {
			given := start(t, rt, activity.Options{ID: fmt.Sprint("activity-", i)}, untilEnded)
			if given.ID() != fmt.Sprint("activity-", i) {
				t.Errorf("a given ID became %q", given.ID())
			}
			h := start(t, rt, activity.Options{}, untilEnded)
			if !strings.HasPrefix(h.ID(), "#") || seen[h.ID()] {
				t.Errorf("the ID %q was made up; seen before: %t", h.ID(), seen[h.ID()])
			}
			seen[h.ID()] = true
			err := rt.Run(t.Context(), activity.Options{ID: h.ID()}, noop)
			if err == nil || !strings.Contains(err.Error(), `Options.ID must not begin with "#", which generated IDs do (got "`+h.ID()+`")`) {
				t.Errorf("a given %q was not refused: %v", h.ID(), err)
			}
		}
		checkErr(t, rt.Shutdown(t.Context()), nil)
	})
}

// Rule 16. Given an ID that is in use, when its activity has ended, then the ID can be
// used again.
func TestIDs_FreeAfterTheEnd(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		for range 2 {
			h := start(t, rt, activity.Options{ID: "a"}, untilEnded)
			checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a"}, noop), activity.ErrAlreadyRunning)
			h.Cancel(nil)
			<-h.Done()
		}
	})
}

// Rule 16. Given an activity that runs, backs off or ignores its end, when its ID is
// started, then that is ErrAlreadyRunning until the activity has ended.
func TestIDs_InUseUntilTheEnd(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 3}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		for name, fn := range map[string]func(activity.Context) error{
			"success":     func(ctx activity.Context) error { return ctx.Sleep(time.Second) },
			"failure":     func(ctx activity.Context) error { _ = ctx.Sleep(time.Second); return activity.NonRetryable(io.EOF) },
			"backing off": func(activity.Context) error { return activity.RetryAfter(io.EOF, time.Hour) },
			"deaf":        func(activity.Context) error { <-release; return nil },
		} {
			opts := activity.Options{ID: "same", MaxAbandoned: activity.NoOverlap}
			h := start(t, rt, opts, fn)
			synctest.Wait()
			if err := rt.Run(t.Context(), opts, fn); !errors.Is(err, activity.ErrAlreadyRunning) {
				t.Errorf("%s: %v", name, err)
			}
			time.Sleep(2 * time.Second)
			h.Cancel(nil)
			<-h.Done()
			if err := rt.Run(t.Context(), opts, noop); err != nil {
				t.Errorf("%s, after the end: %v", name, err)
			}
		}
		close(release)
	})
}

// Given Runtime.Start, then its Handle waits for the end, and the ID is in use until
// then.
func TestStart_RuntimeMethod(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h, err := rt.Start(t.Context(), atMost(2), func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			return ctx.Sleep(time.Minute)
		})
		if err != nil {
			t.Fatal(err)
		}
		checkErr(t, rt.Run(t.Context(), atMost(1), noop), activity.ErrAlreadyRunning)
		if got, err := h.Wait(t.Context()); got != struct{}{} || err != nil {
			t.Error(got, err)
		}
		if h, err := rt.Start(t.Context(), atMost(1), nil); h != nil || err == nil {
			t.Error("a nil function was started")
		}
	})
}

// Given a Definition, when it is executed or started, then its Name and Options are used
// with the given ID and input.
func TestDefinition_ExecuteAndStart(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		def := activity.Definition[int, string]{
			Name:    "def",
			Options: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
			Func: func(ctx activity.Context, in int) (string, error) {
				if info := ctx.Info(); info.Attempt == 1 || info.MaximumAttempts != 2 {
					return "", errBoom
				}
				return fmt.Sprint(ctx.Info().ID, " ", ctx.Info().Name, " ", in), nil
			},
		}
		if out, err := def.Execute(t.Context(), rt, "x", 3); err != nil || out != "x def 3" {
			t.Errorf("got %q, %v", out, err)
		}
		h, err := def.Start(t.Context(), rt, "", 4)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := h.Wait(t.Context()); err != nil || out != h.ID()+" def 4" || h.ID() == "" {
			t.Errorf("got %q, %v, ID %q", out, err, h.ID())
		}
	})
}

// Given Handle.Wait, when its own context ends, then it returns that cause, and the
// activity is not canceled.
func TestHandle_WaitEndsWithItsOwnContext(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Hour) })
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errCancel)
		defer cancel()
		at := time.Now()
		if out, err := h.Wait(ctx); err != errCancel || out != "" || time.Since(at) != time.Minute {
			t.Errorf("got %q, %v after %s", out, err, time.Since(at))
		}
		if out, err := h.Wait(t.Context()); err != nil || out != "done" || time.Since(at) != time.Hour {
			t.Errorf("got %q, %v after %s: it was not canceled", out, err, time.Since(at))
		}
		for range 100 { // what has ended is told, ended context or not
			if out, err := h.Wait(ctx); err != nil || out != "done" {
				t.Fatalf("got %q, %v", out, err)
			}
		}
	})
}

// Rule 16. Given a Definition without a name or with an ID or a name in its Options, then
// it is refused with an error that names the field.
func TestDefinition_Refused(t *testing.T) {
	fn := func(activity.Context, int) (int, error) { panic("runs") }
	for want, d := range map[string]*activity.Definition[int, int]{
		"Definition.Name must not be empty":                            {Func: fn},
		`Definition.Options.ID must be empty (got "x")`:                {Name: "n", Options: activity.Options{ID: "x"}, Func: fn},
		`Definition.Options.Name must be empty (got "x"); Definition.`: {Name: "n", Options: activity.Options{Name: "x"}, Func: fn},
	} {
		rt := activity.New(activity.Config{Logger: quiet})
		_, executed := d.Execute(t.Context(), rt, "d1", 1)
		_, started := d.Start(t.Context(), rt, "d1", 1)
		for _, err := range []error{executed, started} {
			if err == nil || !strings.HasPrefix(err.Error(), `activity "d1": not started: `+want) {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if _, err := rt.Recover(t.Context(), d); err == nil || !strings.HasPrefix(err.Error(), "activity: Recover: "+want) {
			t.Errorf("Recover: got %v, want %s", err, want)
		}
	}
}
