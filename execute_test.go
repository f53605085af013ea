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

func TestExecuteOut(t *testing.T) {
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

func TestRule16IDsAreUnique(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		running := map[string]*activity.Handle[string]{}
		start := func(id string) {
			h, err := activity.Start(t.Context(), rt, activity.Options{ID: id}, func(ctx activity.Context, _ int) (string, error) { return "", untilEnded(ctx) }, 0)
			switch {
			case err != nil:
				if running[id] == nil || !errors.Is(err, activity.ErrAlreadyRunning) {
					t.Errorf("%q: %v", id, err)
				}
			case id != "" && h.ID() != id, h.ID() == "", running[h.ID()] != nil:
				t.Errorf("asked for %q and got %q, in use: %t", id, h.ID(), running[h.ID()] != nil)
			default:
				running[h.ID()] = h
			}
		}
		// Those of the first made up are what a user may come to ask for.
		start("")
		var first string
		for id := range running {
			first = id
		}
		prefix := strings.TrimRight(first, "0123456789")
		for i := range 60 { // ahead of the made-up ones and behind them
			start(fmt.Sprint(prefix, 9*i))
			start("")
			start(fmt.Sprint(prefix, i))
		}
		for _, id := range []string{prefix, prefix + "01", prefix + "-1", prefix + "18446744073709551615", prefix + "18446744073709551616"} {
			start(id)
			start(id)
		}
		start(first)
		if n := len(rt.Activities()); n != len(running) {
			t.Errorf("%d run, want %d", n, len(running))
		}
		for _, h := range running {
			h.Cancel(nil)
		}
		for id, h := range running {
			<-h.Done()
			delete(running, id)
			start(id) // free again
		}
		_ = rt.Shutdown(t.Context())
	})
}

func TestRule16AlreadyRunningUntilTheEnd(t *testing.T) {
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

func TestDefinition(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		def := activity.Definition[int, string]{
			Name:    "def",
			Options: activity.Options{ID: "ignored", Name: "ignored", RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
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
		if out, err := h.Wait(t.Context()); err != nil || out != h.ID()+" def 4" || h.ID() == "" || h.ID() == "ignored" {
			t.Errorf("got %q, %v, ID %q", out, err, h.ID())
		}
		if def.Options.ID != "ignored" {
			t.Error("the Definition was changed")
		}
	})
}

func TestHandleWaitWhoseOwnContextEnds(t *testing.T) {
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

// A number that a given ID took from those that are made up is free again when
// that activity has ended.
func TestRule16MadeUpIDIsFreeAgain(t *testing.T) {
	for _, free := range []bool{false, true} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			given := start(t, rt, activity.Options{ID: "activity-2"}, untilEnded)
			defer given.Cancel(nil)
			if free {
				given.Cancel(nil)
				<-given.Done()
			}
			h := start(t, rt, activity.Options{}, noop)
			checkErr(t, wait(t, h), nil)
			if (h.ID() == given.ID()) != free {
				t.Errorf("the made-up ID is %s, the given one is free: %t", h.ID(), free)
			}
		})
	}
}

func TestDefinitionWithoutAName(t *testing.T) {
	d := &activity.Definition[int, int]{Func: func(activity.Context, int) (int, error) { panic("runs") }}
	rt := activity.New(activity.Config{Logger: quiet})
	_, executed := d.Execute(t.Context(), rt, "d1", 1)
	_, started := d.Start(t.Context(), rt, "d1", 1)
	for _, err := range []error{executed, started} {
		if err == nil || !strings.Contains(err.Error(), `"d1": Definition.Name is empty`) {
			t.Error(err)
		}
	}
}
