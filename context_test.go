package activity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"github.com/benbjohnson/clock"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

func cxOnce() activity.RetryPolicy { return activity.RetryPolicy{MaximumAttempts: 1} }

// cxWantErr reports an error unless err wraps want; nil: unless it is nil.
func cxWantErr(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func cxState(t *testing.T, h *activity.Handle[struct{}], want activity.State) {
	t.Helper()
	if got := h.Status().State; got != want {
		t.Errorf("the state is %s, want %s", got, want)
	}
}

func TestRule6RangeResumes(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var calls []int
		h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.Range(ctx, 2, 7, func(i int) error {
				calls = append(calls, i)
				s := rt.Activities()[0]
				if s.Done != i-2 || s.Total != 5 {
					t.Errorf("in body %d: %d of %d are done", i, s.Done, s.Total)
				}
				var p activity.RangeProgress
				found, err := s.HeartbeatDetails(&p)
				if err != nil || found != (i > 2) || found && p != (activity.RangeProgress{Next: i, To: 7}) {
					t.Errorf("in body %d: recorded are %v, %v: %v", i, found, err, p)
				}
				if (i == 4 || i == 6) && len(calls) < 7 && calls[max(len(calls)-2, 0)] != i {
					return errHB
				}
				return nil
			})
		})
		cxWantErr(t, hbWait(t, h), nil)
		if diff := cmp.Diff([]int{2, 3, 4, 4, 5, 6, 6}, calls); diff != "" {
			t.Errorf("bodies, -want +got:\n%s", diff)
		}
		s := h.Status()
		var p activity.RangeProgress
		if found, err := s.HeartbeatDetails(&p); !found || err != nil || p != (activity.RangeProgress{Next: 7, To: 7}) || s.Done != 5 || s.Total != 5 {
			t.Errorf("at the end: %v, %v: %v; %d of %d", found, err, p, s.Done, s.Total)
		}
	})
}

func TestRule6RangeEdges(t *testing.T) {
	progress := func(next, to int) []any { return []any{activity.RangeProgress{Next: next, To: to}} }
	tests := map[string]struct {
		from, to    int
		details     []any
		calls       []int
		refused     bool
		done, total int
	}{
		"whole":             {0, 3, nil, []int{0, 1, 2}, false, 3, 3},
		"one":               {5, 6, nil, []int{5}, false, 1, 1},
		"negative":          {-2, 1, nil, []int{-2, -1, 0}, false, 3, 3},
		"at the far end":    {math.MaxInt - 2, math.MaxInt, nil, []int{math.MaxInt - 2, math.MaxInt - 1}, false, 2, 2},
		"empty":             {4, 4, nil, nil, false, 0, 0},
		"upside down":       {4, 2, nil, nil, false, 0, 0},
		"below from":        {3, 5, progress(1, 5), []int{3, 4}, false, 2, 2},
		"at from":           {3, 5, progress(3, 5), []int{3, 4}, false, 2, 2},
		"above from":        {3, 5, progress(4, 5), []int{4}, false, 2, 2},
		"at to":             {3, 5, progress(5, 5), nil, false, 2, 2},
		"above to":          {3, 5, progress(6, 6), nil, true, 0, 0},
		"above to and from": {3, 2, progress(3, 3), nil, true, 0, 0},
		"another to":        {3, 5, progress(4, 9), []int{4}, false, 2, 2},
		"a number":          {0, 3, []any{1}, nil, true, 0, 0},
		"a text":            {0, 3, []any{"1"}, nil, true, 0, 0},
		"another struct":    {0, 3, []any{hbStruct{A: 1}}, nil, true, 0, 0},
		"null":              {0, 3, []any{(*int)(nil)}, nil, true, 0, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var calls []int
				h := hbStart(t, rt, activity.Options{HeartbeatDetails: test.details}, func(ctx activity.Context) error {
					return activity.Range(ctx, test.from, test.to, func(i int) error {
						calls = append(calls, i)
						return nil
					})
				})
				err := hbWait(t, h)
				if test.refused {
					hbNotRetried(t, err, 1)
				} else {
					cxWantErr(t, err, nil)
				}
				if diff := cmp.Diff(test.calls, calls); diff != "" {
					t.Errorf("bodies, -want +got:\n%s", diff)
				}
				if s := h.Status(); s.Done != test.done || s.Total != test.total {
					t.Errorf("%d of %d are done, want %d of %d", s.Done, s.Total, test.done, test.total)
				}
				if n := rt.Stats().Heartbeats; n != uint64(len(test.calls)) {
					t.Errorf("%d heartbeats for %d bodies", n, len(test.calls))
				}
			})
		})
	}
}

func TestRule6OneRangeAnAttempt(t *testing.T) {
	for _, first := range []int{0, 2} { // an empty one counts too
		hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
				if err := activity.Range(ctx, 0, first, func(int) error { return nil }); err != nil {
					t.Error(err)
				}
				child, _ := activity.FromContext(context.WithValue(ctx, cxKey{}, 1))
				return activity.Range(child, 0, 3, func(int) error {
					t.Error("the second Range called its body")
					return nil
				})
			})
			hbNotRetried(t, err, 1)
		})
	}
}

// The body's error comes back as it is, canceled or not, and does not count as
// being told to end (rule 17).
func TestRule6BodyError(t *testing.T) {
	for _, canceled := range []bool{false, true} {
		hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			h := hbStart(t, rt, activity.Options{RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
				err := activity.Range(ctx, 0, 5, func(i int) error {
					if i < 2 {
						return nil
					}
					if canceled {
						<-ctx.Done()
						return context.Cause(ctx)
					}
					return errHBStop
				})
				if err != errHBStop {
					t.Errorf("Range returned %v", err)
				}
				return nil
			})
			synctest.Wait()
			if canceled {
				h.Cancel(errHBStop)
			}
			cxWantErr(t, hbWait(t, h), nil)
			if s := h.Status(); s.Done != 2 {
				t.Errorf("%d are done, want 2", s.Done)
			}
		})
	}
}

func TestRule6CanceledRange(t *testing.T) {
	for last, name := range []string{"before", "first", "middle", "last"} {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var calls int
				h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
					if last == 0 {
						<-ctx.Done()
					}
					err := activity.Range(ctx, 0, 3, func(i int) error {
						if calls++; i == last-1 {
							<-ctx.Done()
						}
						return nil
					})
					if want := errHBStop; last < 3 && err != want || last == 3 && err != nil {
						t.Errorf("Range returned %v", err)
					}
					return nil // told to end by Range: not taken for success (rule 17)
				})
				synctest.Wait()
				h.Cancel(errHBStop)
				if last < 3 {
					cxWantErr(t, hbWait(t, h), errHBStop)
				} else {
					cxWantErr(t, hbWait(t, h), nil)
				}
				var p activity.RangeProgress
				_, err := h.Status().HeartbeatDetails(&p)
				if calls != last || err != nil || p.Next != last || h.Status().Done != last {
					t.Errorf("%d bodies, recorded %v (%v), %d done; want %d", calls, p, err, h.Status().Done, last)
				}
			})
		})
	}
}

// A body that drops the error of a Sleep is done, but the activity is not.
func TestRule6BodyDropsASleepError(t *testing.T) {
	for _, to := range []int{1, 2} {
		hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
				activity.Range(ctx, 0, to, func(i int) error {
					if i > 0 {
						t.Error("a further body runs")
					}
					ctx.Sleep(time.Hour)
					return nil
				})
				return nil
			})
			synctest.Wait()
			h.Cancel(errHBStop)
			cxWantErr(t, hbWait(t, h), errHBStop)
			cxState(t, h, activity.StateCanceled)
		})
	}
}

func TestRule6TimedOutRange(t *testing.T) {
	for _, to := range []int{2, 3} { // in the last body, and before it
		hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			over := make(chan struct{})
			h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 2 {
					hbSaw(t, ctx, activity.RangeProgress{Next: 1, To: to})
					<-over
					return nil
				}
				err := activity.Range(ctx, 0, to, func(i int) error {
					if i == 1 {
						<-ctx.Done()
						time.Sleep(time.Second)
					}
					return nil
				})
				if cause := context.Cause(ctx); to == 2 && err != nil || to == 3 && err != cause {
					t.Errorf("to %d: Range returned %v, and the cause is %v", to, err, cause)
				}
				close(over)
				return nil
			})
			cxWantErr(t, hbWait(t, h), nil)
			if s := h.Status(); s.Done != 1 || s.Total != to { // the fenced attempt is not seen
				t.Errorf("%d of %d are done, want 1 of %d", s.Done, s.Total, to)
			}
		})
	}
}

// {"Next":9,"To":10} and {"Next":10,"To":99} have 18 and 19 bytes.
func TestRule6RecordingFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		to     int
		cancel bool
	}{{"middle", 99, false}, {"last", 10, false}, {"middle, canceled", 99, true}, {"last, canceled", 10, true}} {
		t.Run(test.name, func(t *testing.T) {
			log := newHBLog()
			cfg := activity.Config{MaxDetailsSize: 18, Logger: slog.New(log)}
			hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
					return activity.Range(ctx, 0, test.to, func(i int) error {
						if i > 9 {
							t.Error("a body runs after a recording that failed")
						}
						if i == 9 && test.cancel {
							<-ctx.Done()
						}
						return nil
					})
				})
				synctest.Wait()
				if test.cancel {
					h.Cancel(errHBStop)
				}
				err := hbWait(t, h)
				switch {
				case test.to == 10: // the last body is done
					cxWantErr(t, err, nil)
					if log.errors.Load() != 1 {
						t.Errorf("%d errors were logged, want 1", log.errors.Load())
					}
				case test.cancel:
					cxWantErr(t, err, errHBStop)
				default:
					hbNotRetried(t, err, 1)
					cxWantErr(t, err, activity.ErrDetailsTooLarge)
				}
			})
		})
	}
}

// cxBeats is an Observer that notes when heartbeats come.
func cxBeats(beats *[]time.Duration) func(activity.Event) {
	var start time.Time
	return func(e activity.Event) {
		switch e.Kind {
		case activity.EventScheduled:
			start = e.Time
		case activity.EventHeartbeat:
			*beats = append(*beats, e.Time.Sub(start))
		}
	}
}

func TestIdleHeartbeats(t *testing.T) {
	for _, timeout := range []time.Duration{0, 2, 3, 7, 10 * time.Second} {
		for _, idle := range []time.Duration{-1, 0, 1, 2, 21, timeout / 2, timeout/2 + 1, timeout, 5*timeout + 3} {
			var beats []time.Duration
			hbBubble(t, activity.Config{Observer: cxBeats(&beats)}, func(t *testing.T, rt *activity.Runtime) {
				err := hbRun(t, rt, activity.Options{HeartbeatTimeout: timeout, HeartbeatDetails: []any{5}, RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
					before := timeout / 2
					if err := ctx.Sleep(before); err != nil {
						t.Error(err)
					}
					synctest.Wait() // for the first events to be delivered
					if err := activity.Idle(ctx, idle); err != nil {
						t.Errorf("timeout %s: Idle(%s) returned %v", timeout, idle, err)
					}
					end := time.Since(ctx.Info().StartedAt)
					if end != before+max(idle, 0) {
						t.Errorf("timeout %s: Idle(%s) took %s", timeout, idle, end-before)
					}
					if len(beats) == 0 || beats[0] != before {
						t.Errorf("timeout %s: Idle(%s) began at %s, heartbeats came at %v", timeout, idle, before, beats)
					}
					for i, at := range append(slices.Clone(beats), end)[1:] {
						if timeout > 0 && at-beats[i] > max(timeout/2, 1) {
							t.Errorf("timeout %s: heartbeats at %v, end at %s", timeout, beats, end)
						}
					}
					hbSaw(t, ctx, 5)
					return nil
				})
				cxWantErr(t, err, nil)
			})
		}
	}
}

// A heartbeat timeout of 1 ns cannot be kept, and must not make Idle spin.
func TestIdleWithTheSmallestTimeout(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{HeartbeatTimeout: 1, RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
			return activity.Idle(ctx, time.Hour)
		})
		cxWantErr(t, err, context.DeadlineExceeded)
		synctest.Wait()
	})
}

func TestIdleEndsWithTheAttempt(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := hbStart(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			for range 2 { // the second at once
				if err := activity.Idle(ctx, time.Hour); err != errHBStop {
					t.Errorf("Idle returned %v", err)
				}
			}
			if d := time.Since(ctx.Info().StartedAt); d != 7*time.Minute {
				t.Errorf("Idle took %s", d)
			}
			return nil
		})
		time.Sleep(7 * time.Minute)
		h.Cancel(errHBStop)
		cxWantErr(t, hbWait(t, h), errHBStop) // told to end by Idle (rule 17)
	})
}

// Both sides of the instant of a timeout.
func TestRule27GuardAtTheTimeout(t *testing.T) {
	for _, opts := range []activity.Options{{HeartbeatTimeout: time.Minute}, {StartToCloseTimeout: time.Minute}, {ScheduleToCloseTimeout: time.Minute}} {
		for _, early := range []time.Duration{1, 0, -1} {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				opts.RetryPolicy = cxOnce()
				h := hbStart(t, rt, opts, func(ctx activity.Context) error {
					time.Sleep(time.Minute - early)
					ran := false
					err := activity.Guard(ctx, func() error { ran = true; return nil })
					if ran != (early > 0) || early > 0 && err != nil || early <= 0 && (err == nil || err != context.Cause(ctx)) {
						t.Errorf("%s before the timeout: ran %v, returned %v", early, ran, err)
					}
					return nil
				})
				err := hbWait(t, h)
				time.Sleep(2 * time.Nanosecond) // the function may be late by 1 ns
				if early > 0 {
					cxWantErr(t, err, nil)
				} else {
					cxWantErr(t, err, context.DeadlineExceeded)
				}
			})
		}
	}
}

// While f runs no later attempt starts, and when it ends the next one does.
func TestRule27GuardHoldsUpTheNextAttempt(t *testing.T) {
	for name, leave := range map[string]func() error{
		"nil":    func() error { return nil },
		"error":  func() error { return errHB },
		"panic":  func() error { panic(errHB) },
		"Goexit": func() error { runtime.Goexit(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			var blocked []activity.Event
			cfg := activity.Config{MaxConcurrent: 1, Observer: func(e activity.Event) {
				if e.Kind == activity.EventBlocked {
					blocked = append(blocked, e)
				}
			}}
			hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
				start := time.Now()
				inside := false
				h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						if d := time.Since(start); inside || d != 10*time.Minute {
							t.Errorf("attempt 2 starts after %s, f runs: %v", d, inside)
						}
						return nil
					}
					return activity.Guard(ctx, func() error {
						inside = true
						defer func() { inside = false }()
						ran := false
						cxWantErr(t, activity.Guard(ctx, func() error { ran = true; return errHBStop }), errHBStop)
						time.Sleep(10 * time.Minute)
						err := activity.Guard(ctx, func() error { t.Error("the inner f runs"); return nil })
						if !ran || err != context.Cause(ctx) || err == nil {
							t.Errorf("nested: ran %v, then %v", ran, err)
						}
						return leave()
					})
				})
				time.Sleep(time.Minute - 1)
				cxState(t, h, activity.StateRunning)
				time.Sleep(2 * time.Nanosecond)
				cxState(t, h, activity.StateBlocked)
				synctest.Wait()
				if n := rt.Stats().Blocked; n != 1 || len(blocked) != 1 || blocked[0].Attempt != 1 {
					t.Errorf("%d blocked, events %v", n, blocked)
				}
				cxWantErr(t, hbRun(t, rt, activity.Options{}, func(activity.Context) error { return nil }), nil) // the slot is free
				time.Sleep(9*time.Minute - 2)
				cxState(t, h, activity.StateBlocked)
				cxWantErr(t, hbWait(t, h), nil)
				synctest.Wait()
			})
		})
	}
}

// The instant of a timeout counts, though no timer has run yet (rule 7).
func TestRule27GuardBeforeTheTimerRan(t *testing.T) {
	for _, early := range []time.Duration{1, 0} {
		hbAhead(t, 10*time.Second-early, func(ctx activity.Context) {
			ran := false
			err := activity.Guard(ctx, func() error { ran = true; return nil })
			if ran != (early > 0) || early == 0 && (err == nil || err != context.Cause(ctx)) {
				t.Errorf("%s before the timeout: ran %v, returned %v", early, ran, err)
			}
		})
	}
}

// A wrapper around one that has a Guard of its own passes it on, if that one can be found.
func TestRule27GuardOfAWrappedWrapper(t *testing.T) {
	guarder := &cxGuarder{}
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
		guarder.Context = ctx
		return next(&cxWrapper{Context: guarder})
	}}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.Guard(ctx, func() error { return nil })
		})
		cxWantErr(t, err, nil)
		if n := guarder.guards.Load(); n != 1 {
			t.Errorf("the inner wrapper's Guard was called %d times, want 1", n)
		}
	})
}

// f's result passes through while the attempt runs.
func TestRule27GuardPassesThrough(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				if err := activity.Guard(ctx, func() error { return errHBStop }); err != errHBStop {
					t.Errorf("got %v", err)
				}
				if err := activity.Guard(ctx, func() error { return nil }); err != nil {
					t.Error(err)
				}
				return activity.Guard(ctx, func() error { panic("in Guard") })
			case 2:
				p := (*activity.PanicError)(nil)
				if !errors.As(ctx.Info().LastFailure, &p) || p.Value != "in Guard" {
					t.Errorf("the panic became %v", ctx.Info().LastFailure)
				}
			}
			return activity.Guard(ctx, func() error { runtime.Goexit(); return nil })
		})
		cxWantErr(t, err, activity.ErrGoexit)
		hbNotRetried(t, err, 2)
	})
}

// The function has returned, and a goroutine of its own is still inside Guard.
func TestRule27GuardOutlivesTheFunction(t *testing.T) {
	for _, result := range []error{nil, errHB} {
		hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			opts := activity.Options{ID: "one"}
			start := time.Now()
			h := hbStart(t, rt, opts, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 2 {
					if d := time.Since(start); d != time.Minute {
						t.Errorf("attempt 2 starts after %s", d)
					}
					return nil
				}
				in := make(chan struct{})
				go activity.Guard(ctx, func() error { close(in); time.Sleep(time.Minute); return nil })
				<-in
				return result
			})
			time.Sleep(30 * time.Second)
			cxWantErr(t, rt.Run(t.Context(), opts, func(activity.Context) error { return nil }), activity.ErrAlreadyRunning)
			if result != nil {
				cxState(t, h, activity.StateBlocked)
			}
			cxWantErr(t, hbWait(t, h), nil)
			time.Sleep(time.Minute)
			cxWantErr(t, rt.Run(t.Context(), opts, func(activity.Context) error { return nil }), nil)
		})
	}
}

// The caller has its answer, and the ID stays in use until f returns.
func TestRule27GuardKeepsTheID(t *testing.T) {
	for name, opts := range map[string]activity.Options{
		"schedule to close":          {ID: "one", ScheduleToCloseTimeout: time.Minute},
		"blocked, schedule to close": {ID: "one", ScheduleToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second},
		"last attempt":               {ID: "one", StartToCloseTimeout: time.Minute, RetryPolicy: cxOnce()},
		"grace":                      {ID: "one", CancelGrace: time.Minute},
		"made-up ID":                 {CancelGrace: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				start := time.Now()
				h := hbStart(t, rt, opts, func(ctx activity.Context) error {
					return activity.Guard(ctx, func() error { time.Sleep(time.Hour); return nil })
				})
				again := func() error {
					return rt.Run(t.Context(), activity.Options{ID: h.ID()}, func(activity.Context) error { return nil })
				}
				synctest.Wait()
				if opts.CancelGrace > 0 {
					h.Cancel(errHBStop)
				}
				if err := hbWait(t, h); err == nil || time.Since(start) != time.Minute {
					t.Errorf("the caller had its answer, %v, after %s", err, time.Since(start))
				}
				cxWantErr(t, again(), activity.ErrAlreadyRunning)
				time.Sleep(59*time.Minute - 1)
				cxWantErr(t, again(), activity.ErrAlreadyRunning)
				time.Sleep(2 * time.Nanosecond)
				cxWantErr(t, again(), nil)
			})
		})
	}
}

// Rule 17: who was told to end has not succeeded, though it returns nil.
func TestRule17WhoTells(t *testing.T) {
	for name, test := range map[string]struct {
		call func(ctx, child activity.Context) error // child ended before, with errHB
		want error
		told bool
	}{
		"nothing":     {func(_, _ activity.Context) error { return nil }, nil, false},
		"Cause":       {func(ctx, _ activity.Context) error { return context.Cause(ctx) }, errHBStop, false},
		"Heartbeat":   {func(ctx, _ activity.Context) error { return ctx.Heartbeat(1) }, errHBStop, false},
		"Sleep":       {func(ctx, _ activity.Context) error { return ctx.Sleep(1) }, errHBStop, true},
		"Sleep 0":     {func(ctx, _ activity.Context) error { return ctx.Sleep(0) }, errHBStop, true},
		"Idle":        {func(ctx, _ activity.Context) error { return activity.Idle(ctx, 1) }, errHBStop, true},
		"Guard":       {func(ctx, _ activity.Context) error { return activity.Guard(ctx, cxNever) }, errHBStop, true},
		"Range":       {func(ctx, _ activity.Context) error { return activity.Range(ctx, 0, 1, nil) }, errHBStop, true},
		"empty Range": {func(ctx, _ activity.Context) error { return activity.Range(ctx, 0, 0, nil) }, nil, false},
		"child Sleep": {func(_, child activity.Context) error { return child.Sleep(1) }, errHB, false},
		"child Guard": {func(_, child activity.Context) error { return activity.Guard(child, cxNever) }, errHB, false},
	} {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
					derived, cancel := context.WithCancelCause(ctx)
					cancel(errHB)
					child, _ := activity.FromContext(derived)
					<-ctx.Done()
					if err := test.call(ctx, child); err != test.want {
						t.Errorf("got %v, want %v", err, test.want)
					}
					return nil
				})
				synctest.Wait()
				h.Cancel(errHBStop)
				if err := hbWait(t, h); test.told {
					cxWantErr(t, err, errHBStop)
				} else {
					cxWantErr(t, err, nil)
				}
			})
		})
	}
}

func cxNever() error { return errors.New("it must not run") }

type cxKey struct{}

// Rule 12: the standard library is told of a deadline under the real clock only.
func TestRule12Deadline(t *testing.T) {
	tests := []struct {
		attempt, all, caller time.Duration
		want, info           time.Duration // 0: none
	}{
		{0, 0, 0, 0, 0},
		{time.Minute, 0, 0, time.Minute, time.Minute},
		{0, time.Minute, 0, time.Minute, time.Minute},
		{time.Minute, time.Hour, 0, time.Minute, time.Minute},
		{time.Hour, time.Minute, 0, time.Minute, time.Minute},
		{0, 0, time.Minute, time.Minute, 0},
		{time.Minute, 0, time.Minute - 1, time.Minute - 1, time.Minute},
		{time.Minute, 0, time.Minute + 1, time.Minute, time.Minute},
	}
	for _, test := range tests {
		for _, kind := range []string{"nil", "real", "mock"} {
			synctest.Test(t, func(t *testing.T) {
				cfg := activity.Config{Logger: slog.New(slog.DiscardHandler)}
				start := time.Now()
				switch kind {
				case "real":
					cfg.Clock = clock.New()
				case "mock":
					mock := clock.NewMock()
					cfg.Clock, start = mock, mock.Now()
				}
				ctx := t.Context()
				if test.caller > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.caller)
					defer cancel()
				}
				opts := activity.Options{StartToCloseTimeout: test.attempt, ScheduleToCloseTimeout: test.all}
				err := activity.New(cfg).Run(ctx, opts, func(ctx activity.Context) error {
					child, _ := activity.FromContext(context.WithValue(ctx, cxKey{}, 1))
					for _, ctx := range []context.Context{ctx, child} {
						got, ok := ctx.Deadline()
						if wanted := kind != "mock" && test.want > 0; ok != wanted || ok && !got.Equal(start.Add(test.want)) {
							t.Errorf("%s clock, %v: Deadline is %s after the start, %v", kind, test, got.Sub(start), ok)
						}
					}
					info := ctx.Info().Deadline
					if info.IsZero() != (test.info == 0) || test.info > 0 && !info.Equal(start.Add(test.info)) {
						t.Errorf("%s clock, %v: Info().Deadline is %s after the start", kind, test, info.Sub(start))
					}
					return nil
				})
				cxWantErr(t, err, nil)
			})
		}
	}
}

func TestContextInfo(t *testing.T) {
	var buf bytes.Buffer
	hbBubble(t, activity.Config{Logger: slog.New(slog.NewJSONHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo}))}, func(t *testing.T, rt *activity.Runtime) {
		opts := activity.Options{
			ID: "one", Name: "work", StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second, ScheduleToCloseTimeout: time.Minute + 2*time.Second,
			RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3, InitialInterval: 5 * time.Second},
		}
		start := time.Now().Round(0)
		attempts := 0
		err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			attempts++
			want := activity.Info{
				ID: "one", Name: "work", Attempt: attempts, ScheduledAt: start, StartedAt: start, Deadline: start.Add(time.Minute),
				StartToCloseTimeout: time.Minute, HeartbeatTimeout: time.Second, ScheduleToCloseTimeout: time.Minute + 2*time.Second, MaximumAttempts: 3,
			}
			if attempts == 2 { // the start-to-close deadline would come after schedule-to-close
				want.StartedAt, want.Deadline, want.LastFailure = start.Add(5*time.Second), start.Add(time.Minute+2*time.Second), errHB
			}
			if diff := cmp.Diff(want, ctx.Info(), cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
				t.Errorf("Info, -want +got:\n%s", diff)
			}
			if attempts == 1 {
				return errHB
			}
			buf.Reset()
			ctx.Logger().Info("hello", "more", 1)
			return nil
		})
		cxWantErr(t, err, nil)
		var line map[string]any
		if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
			t.Fatalf("%v: %s", err, &buf)
		}
		delete(line, "time")
		want := map[string]any{"level": "INFO", "msg": "hello", "id": "one", "name": "work", "attempt": 2.0, "more": 1.0}
		if diff := cmp.Diff(want, line); diff != "" {
			t.Errorf("Logger, -want +got:\n%s", diff)
		}
		// A made-up ID and a function's name.
		hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			info := ctx.Info()
			if info.ID == "" || info.ID != rt.Activities()[0].ID || info.Name == "" || !info.Deadline.IsZero() || info.LastFailure != nil {
				t.Errorf("Info is %+v", info)
			}
			return nil
		})
	})
}

// A child keeps its own values and cancellation, and the attempt lives on.
func TestFromContextOfAChild(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		cfg := activity.Config{}
		if wrapped {
			cfg.Interceptor = func(ctx activity.Context, next func(activity.Context) error) error {
				return next(&cxWrapper{Context: ctx})
			}
		}
		hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			if c, ok := activity.FromContext(context.WithValue(t.Context(), cxKey{}, 1)); ok || c != nil {
				t.Errorf("a Context from nothing: %v", c)
			}
			caller := context.WithValue(t.Context(), cxKey{}, "caller's")
			err := rt.Run(caller, activity.Options{HeartbeatTimeout: time.Minute, RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
				if v := ctx.Value(cxKey{}); v != "caller's" {
					t.Errorf("the caller's value is %v", v)
				}
				if c, ok := activity.FromContext(ctx); !ok || c != ctx {
					t.Errorf("FromContext of the Context itself: %v, %v", c, ok)
				}
				derived, cancel := context.WithTimeoutCause(context.WithValue(ctx, cxKey{}, "child's"), 10*time.Second, errHB)
				defer cancel()
				child, ok := activity.FromContext(derived)
				if !ok || child.Value(cxKey{}) != "child's" || child.Info() != ctx.Info() {
					t.Errorf("%v, value %v, %v", ok, child.Value(cxKey{}), child.Info())
				}
				if err := child.Sleep(10*time.Second - 1); err != nil {
					t.Error(err)
				}
				if err := child.Heartbeat(1); err != nil {
					t.Error(err)
				}
				if err := child.Sleep(time.Hour); err != errHB {
					t.Errorf("the child's Sleep returned %v", err)
				}
				if d := time.Since(ctx.Info().StartedAt); d != 10*time.Second {
					t.Errorf("it ended after %s", d)
				}
				if err := child.Heartbeat(2); err != errHB { // and records
					t.Errorf("the child's Heartbeat returned %v", err)
				}
				if err := activity.Guard(child, cxNever); err != errHB {
					t.Errorf("the child's Guard returned %v", err)
				}
				if err := activity.Guard(&cxWrapper{Context: child}, cxNever); err != errHB {
					t.Errorf("Guard of a wrapper of the child returned %v", err)
				}
				if err := activity.Idle(child, time.Second); err != errHB {
					t.Errorf("the child's Idle returned %v", err)
				}
				if child.Sleep(0) != errHB || child.Err() == nil || ctx.Err() != nil || ctx.Sleep(30*time.Second) != nil {
					t.Errorf("the child ended with %v, the attempt with %v", child.Err(), ctx.Err())
				}
				var n int
				if found, err := rt.Activities()[0].HeartbeatDetails(&n); !found || err != nil || n != 2 {
					t.Errorf("recorded are %v, %v: %d, want 2", found, err, n)
				}
				ctx.Sleep(time.Hour) // until the attempt times out
				if err := child.Heartbeat(3); err != context.Cause(ctx) {
					t.Errorf("the fenced child's Heartbeat returned %v", err)
				}
				return nil
			})
			if timeout := (*activity.TimeoutError)(nil); !errors.As(err, &timeout) {
				t.Errorf("got %v, want a timeout", err)
			}
			synctest.Wait()
		})
	}
}

// cxWrapper is a Context that embeds another and counts.
type cxWrapper struct {
	activity.Context
	sleeps, beats, reads atomic.Int64
}

func (w *cxWrapper) Sleep(d time.Duration) error { w.sleeps.Add(1); return w.Context.Sleep(d) }
func (w *cxWrapper) SleepContext(ctx context.Context, d time.Duration) error {
	w.sleeps.Add(1)
	return w.Context.(interface {
		SleepContext(context.Context, time.Duration) error
	}).SleepContext(ctx, d)
}
func (w *cxWrapper) Heartbeat(details ...any) error {
	w.beats.Add(1)
	return w.Context.Heartbeat(details...)
}
func (w *cxWrapper) HeartbeatDetails(into ...any) (bool, error) {
	w.reads.Add(1)
	return w.Context.HeartbeatDetails(into...)
}

// cxGuarder has a Guard of its own.
type cxGuarder struct {
	cxWrapper
	guards atomic.Int64
}

func (w *cxGuarder) Guard(f func() error) error {
	w.guards.Add(1)
	return activity.Guard(w.Context, f)
}

func (w *cxGuarder) Value(key any) any { return activity.NewContext(w.Context, w).Value(key) }

func TestInterceptorsWrapper(t *testing.T) {
	for _, own := range []bool{false, true} {
		var guarder *cxGuarder
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			guarder = &cxGuarder{cxWrapper: cxWrapper{Context: ctx}}
			if own {
				return next(guarder)
			}
			return next(&guarder.cxWrapper)
		}}
		hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Minute, CancelGrace: time.Second, ID: "one"}, func(ctx activity.Context) error {
				derived, cancel := context.WithCancel(ctx)
				defer cancel()
				child, _ := activity.FromContext(derived)
				same, _ := activity.FromContext(ctx)
				plain, _ := activity.FromContext(context.WithValue(ctx, cxKey{}, 1))
				grandchild, _ := activity.FromContext(context.WithValue(child, cxKey{}, 1))
				for i, c := range []activity.Context{ctx, same, plain, child, grandchild} {
					want := fmt.Sprint([]int{(i + 1), 2 * (i + 1), 3 * (i + 1)})
					activity.Resume(c, 0)
					c.Sleep(1)
					activity.Idle(c, time.Minute)
					if got := fmt.Sprint([]int64{guarder.reads.Load(), guarder.beats.Load(), guarder.sleeps.Load()}); got != want {
						t.Errorf("context %d: reads, heartbeats and sleeps are %s, want %s", i, got, want)
					}
					ran := false
					err := activity.Guard(c, func() error { ran = true; return nil })
					if n := guarder.guards.Load(); !ran || err != nil || own && n != int64(i+1) {
						t.Errorf("context %d: Guard ran %v, %v, %d calls of the wrapper's", i, ran, err, n)
					}
				}
				reads, beats := guarder.reads.Load(), guarder.beats.Load()
				if err := activity.Range(child, 0, 3, func(int) error { return nil }); err != nil {
					t.Error(err)
				}
				if r, b := guarder.reads.Load()-reads, guarder.beats.Load()-beats; r != 1 || b != 3 {
					t.Errorf("Range: %d reads, %d heartbeats", r, b)
				}
				if err := activity.Range(ctx, 0, 3, nil); err == nil {
					t.Error("a second Range is not refused")
				}
				return activity.Guard(ctx, func() error { time.Sleep(time.Hour); return nil })
			})
			time.Sleep(10 * time.Minute)
			cxState(t, h, activity.StateBlocked) // Guard reaches the attempt
			if s := h.Status(); s.Done != 3 || s.Total != 3 {
				t.Errorf("%d of %d are done", s.Done, s.Total)
			}
			h.Cancel(errHBStop)
			cxWantErr(t, hbWait(t, h), errHBStop)
			time.Sleep(time.Hour)
		})
	}
}

// cxEngine is the Context of another engine, which knows nothing of Guard.
type cxEngine struct {
	context.Context
	beats int
}

func (*cxEngine) Sleep(time.Duration) error             { return nil }
func (e *cxEngine) Heartbeat(...any) error              { e.beats++; return nil }
func (*cxEngine) HeartbeatDetails(...any) (bool, error) { return false, nil }
func (*cxEngine) Info() activity.Info                   { return activity.Info{ID: "theirs"} }
func (*cxEngine) Logger() *slog.Logger                  { return slog.New(slog.DiscardHandler) }

func TestNewContext(t *testing.T) {
	base, end := context.WithCancelCause(context.Background())
	engine := &cxEngine{Context: base}
	ctx, cancel := context.WithCancelCause(activity.NewContext(context.WithValue(base, cxKey{}, 1), engine))
	c, ok := activity.FromContext(ctx)
	if !ok || c.Value(cxKey{}) != 1 || c.Info().ID != "theirs" {
		t.Fatalf("FromContext gave %v, value %v, %v", ok, c.Value(cxKey{}), c.Info())
	}
	calls := 0
	f := func() error { calls++; return errHB }
	cxWantErr(t, activity.Range(c, 0, 3, func(int) error { return nil }), nil)
	cxWantErr(t, activity.Idle(c, time.Second), nil)
	cxWantErr(t, activity.Guard(c, f), errHB)
	cxWantErr(t, activity.Guard(engine, f), errHB)
	if calls != 2 || engine.beats != 4 {
		t.Errorf("f ran %d times, %d heartbeats", calls, engine.beats)
	}
	cancel(errHBStop)
	cxWantErr(t, c.Heartbeat(), errHBStop)
	cxWantErr(t, c.Sleep(0), errHBStop)
	cxWantErr(t, activity.Guard(c, cxNever), errHBStop)
	cxWantErr(t, activity.Range(c, 0, 1, nil), errHBStop)
	cxWantErr(t, activity.Guard(engine, f), errHB) // whose own context has not ended
	end(errHBStop)
	cxWantErr(t, activity.Guard(engine, cxNever), errHBStop)
}

// A Sleep that ended with a child context tells the function nothing later on
// (rule 17), with a wrapper neither.
func TestRule17SleepOfAChildUnderAWrapper(t *testing.T) {
	for _, wrapped := range []bool{false, true} {
		cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			if wrapped {
				ctx = &cxWrapper{Context: ctx}
			}
			return next(ctx)
		}}
		hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
			h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
				derived, cancel := context.WithTimeoutCause(ctx, time.Second, errHB)
				defer cancel()
				child, _ := activity.FromContext(derived)
				if err := child.Sleep(time.Hour); err != errHB {
					t.Errorf("Sleep returned %v", err)
				}
				<-ctx.Done()
				time.Sleep(time.Second)
				return nil // finished all the same
			})
			time.Sleep(time.Minute)
			h.Cancel(errHBStop)
			if err := hbWait(t, h); err != nil {
				t.Errorf("wrapped %v: %v, want success", wrapped, err)
			}
		})
	}
}

// cxExits is a wrapper whose SleepContext ends the goroutine, as t.FailNow in a test's fake does.
type cxExits struct{ activity.Context }

func (cxExits) SleepContext(context.Context, time.Duration) error { runtime.Goexit(); return nil }

// Rule 14: Goexit in a wrapper's SleepContext is the function's, seen from a child too.
func TestRule14GoexitInAWrappersSleep(t *testing.T) {
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error { return next(cxExits{ctx}) }}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{StartToCloseTimeout: time.Hour, RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			child, _ := activity.FromContext(derived)
			return child.Sleep(time.Second)
		})
		cxWantErr(t, err, activity.ErrGoexit)
		synctest.Wait()
	})
}

type cxPanics struct{ activity.Context }

func (cxPanics) SleepContext(context.Context, time.Duration) error { panic("in SleepContext") }

// Rule 14: so is a panic.
func TestRule14PanicInAWrappersSleep(t *testing.T) {
	cfg := activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error { return next(cxPanics{ctx}) }}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{RetryPolicy: cxOnce()}, func(ctx activity.Context) error {
			derived, cancel := context.WithCancel(ctx)
			defer cancel()
			child, _ := activity.FromContext(derived)
			return child.Sleep(time.Hour)
		})
		if p := (*activity.PanicError)(nil); !errors.As(err, &p) || p.Value != "in SleepContext" {
			t.Errorf("got %v, want the panic", err)
		}
	})
}

func TestSleepEdges(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		opts := activity.Options{StartToCloseTimeout: time.Hour, RetryPolicy: cxOnce()}
		for _, huge := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2} {
			var last error
			err := hbRun(t, rt, opts, func(ctx activity.Context) error {
				start := time.Now()
				for _, d := range []time.Duration{0, -1, math.MinInt64} {
					if err := ctx.Sleep(d); err != nil || !time.Now().Equal(start) {
						t.Errorf("Sleep(%d) took %s and returned %v", d, time.Since(start), err)
					}
				}
				if err := ctx.Sleep(1); err != nil || time.Since(start) != 1 {
					t.Errorf("Sleep(1) took %s and returned %v", time.Since(start), err)
				}
				var wg sync.WaitGroup
				for i := range 20 { // several at once, each its own time
					wg.Go(func() {
						d := time.Duration(20-i) * time.Second
						at := time.Now()
						if err := ctx.Sleep(d); err != nil || time.Since(at) != d {
							t.Errorf("Sleep(%s) took %s and returned %v", d, time.Since(at), err)
						}
					})
				}
				wg.Wait()
				if last = ctx.Sleep(huge); !hbTimeout(activity.TimeoutStartToClose)(last) || time.Since(start) != time.Hour {
					t.Errorf("Sleep(%d) returned %v after %s", huge, last, time.Since(start))
				}
				for _, d := range []time.Duration{-1, 0, 1, huge} {
					if err := ctx.Sleep(d); err != last || time.Since(start) != time.Hour {
						t.Errorf("Sleep(%d) after the end returned %v", d, err)
					}
				}
				return nil
			})
			cxWantErr(t, err, context.DeadlineExceeded)
			synctest.Wait()
		}
	})
}

// Rule 26: no bubble meets what another one, or none, has left behind.
func TestRule26InAndOutOfBubbles(t *testing.T) {
	use := func(t *testing.T, cfg activity.Config, d time.Duration) {
		cfg.Logger = slog.New(slog.DiscardHandler)
		rt := activity.New(cfg)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				opts := activity.Options{HeartbeatTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{InitialInterval: d}}
				err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
					if err := activity.Idle(ctx, d); err != nil {
						return err
					}
					if err := ctx.Heartbeat(1, "x"); err != nil {
						return err
					}
					if ctx.Info().Attempt == 1 {
						return errHB
					}
					hbSaw(t, ctx, 1)
					return activity.Guard(ctx, func() error { return ctx.Sleep(d) })
				})
				cxWantErr(t, err, nil)
			})
		}
		wg.Wait()
		cxWantErr(t, rt.Shutdown(t.Context()), nil)
	}
	bubble := func(t *testing.T) { synctest.Test(t, func(t *testing.T) { use(t, activity.Config{}, time.Hour/4) }) }
	t.Run("outside", func(t *testing.T) { use(t, activity.Config{}, 1) })
	t.Run("inside", bubble)
	t.Run("again", bubble)
	t.Run("mock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			mock := clock.NewMock()
			done := make(chan struct{})
			go func() {
				defer close(done)
				use(t, activity.Config{Clock: mock}, time.Hour/4)
			}()
			for range 4 {
				synctest.Wait()
				mock.Add(time.Hour / 4)
			}
			<-done
		})
	})
	t.Run("at once", func(t *testing.T) {
		for range 2 {
			t.Run("", func(t *testing.T) { t.Parallel(); bubble(t) })
		}
	})
	t.Run("outside again", func(t *testing.T) { use(t, activity.Config{}, 1) })
}
