package activity_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"log/slog"
	"math"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 6. Given a Range whose attempt failed, then the next attempt resumes at the first
// body that was not done, and Status shows how many are.
func TestRange_ResumesAtRecordedNext(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var calls []int
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.Range(ctx, 2, 7, func(i int) error {
				calls = append(calls, i)
				s := rt.Activities()[0]
				if s.Done != i-2 || s.Total != 5 {
					t.Errorf("in body %d: %d of %d are done", i, s.Done, s.Total)
				}
				var p activity.RangeProgress
				found, err := s.HeartbeatDetails(&p)
				if err != nil || found != (i > 2) || found && !reflect.DeepEqual(p, activity.RangeProgress{Next: i, To: 7}) {
					t.Errorf("in body %d: recorded are %v, %v: %v", i, found, err, p)
				}
				if (i == 4 || i == 6) && len(calls) < 7 && calls[max(len(calls)-2, 0)] != i {
					return errBoom
				}
				return nil
			})
		})
		checkErr(t, wait(t, h), nil)
		checkDiff(t, "bodies", calls, []int{2, 3, 4, 4, 5, 6, 6})
		s := h.Status()
		checkDetails(t, s, activity.RangeProgress{Next: 7, To: 7})
		if s.Done != 5 || s.Total != 5 {
			t.Errorf("at the end %d of %d are done", s.Done, s.Total)
		}
	})
}

// Rule 6. Given a recorded Next and To, then Range begins at Next, or at from if that is
// higher; a Next or a To above to is ErrCannotResume.
func TestRange_Edges(t *testing.T) {
	progress := func(next, to int) []any { return []any{activity.RangeProgress{Next: next, To: to}} }
	tests := map[string]struct {
		from, to    int
		details     []any
		calls       []int
		refused     bool
		done, total int
	}{
		"whole":               {0, 3, nil, []int{0, 1, 2}, false, 3, 3},
		"one":                 {5, 6, nil, []int{5}, false, 1, 1},
		"negative":            {-2, 1, nil, []int{-2, -1, 0}, false, 3, 3},
		"at the far end":      {math.MaxInt - 2, math.MaxInt, nil, []int{math.MaxInt - 2, math.MaxInt - 1}, false, 2, 2},
		"negative whole":      {-5, -3, nil, []int{-5, -4}, false, 2, 2},
		"negative resumed":    {-3, 1, progress(-1, 1), []int{-1, 0}, false, 4, 4},
		"negative, below":     {-3, -1, progress(-7, -1), []int{-3, -2}, false, 2, 2},
		"negative, at from":   {-3, -1, progress(-3, -1), []int{-3, -2}, false, 2, 2},
		"negative, from 0":    {-3, 2, progress(0, 2), []int{0, 1}, false, 5, 5},
		"negative, at to":     {-3, -1, progress(-1, -1), nil, false, 2, 2},
		"negative, above":     {-3, -1, progress(0, 0), nil, true, 0, 0},
		"empty":               {4, 4, nil, nil, false, 0, 0},
		"upside down":         {4, 2, nil, nil, false, 0, 0},
		"below from":          {3, 5, progress(1, 5), []int{3, 4}, false, 2, 2},
		"at from":             {3, 5, progress(3, 5), []int{3, 4}, false, 2, 2},
		"above from":          {3, 5, progress(4, 5), []int{4}, false, 2, 2},
		"at to":               {3, 5, progress(5, 5), nil, false, 2, 2},
		"above to":            {3, 5, progress(6, 6), nil, true, 0, 0},
		"above to and from":   {3, 2, progress(3, 3), nil, true, 0, 0},
		"a list that grew":    {3, 6, progress(4, 5), []int{4, 5}, false, 3, 3},
		"one that shrank":     {3, 5, progress(4, 6), nil, true, 0, 0},
		"next above its to":   {3, 5, progress(5, 4), nil, true, 0, 0},
		"a number":            {0, 3, []any{1}, nil, true, 0, 0},
		"a text":              {0, 3, []any{"1"}, nil, true, 0, 0},
		"another struct":      {0, 3, []any{twoFields{A: 1}}, nil, true, 0, 0},
		"null":                {0, 3, []any{[]int(nil)}, nil, true, 0, 0},
		"no fields":           {0, 3, []any{struct{}{}}, nil, true, 0, 0},
		"an empty map":        {0, 3, []any{map[string]int{}}, nil, true, 0, 0},
		"To alone":            {0, 3, []any{struct{ To int }{3}}, nil, true, 0, 0},
		"To of 0 alone":       {-3, 0, []any{map[string]int{"To": 0}}, nil, true, 0, 0},
		"Next alone":          {0, 3, []any{struct{ Next int }{-1}}, nil, true, 0, 0},
		"Next of 0 alone":     {0, 3, []any{map[string]int{"Next": 0}}, nil, true, 0, 0},
		"a Next of null":      {0, 3, []any{map[string]*int{"Next": nil, "To": pointerTo(3)}}, nil, true, 0, 0},
		"names in lower case": {0, 3, []any{map[string]int{"next": 1, "to": 3}}, nil, true, 0, 0},
		"both, in a map":      {0, 3, []any{map[string]int{"Next": 0, "To": 3}}, []int{0, 1, 2}, false, 3, 3},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var calls []int
				h := start(t, rt, activity.Options{HeartbeatDetails: test.details}, func(ctx activity.Context) error {
					return activity.Range(ctx, test.from, test.to, func(i int) error {
						calls = append(calls, i)
						return nil
					})
				})
				err := wait(t, h)
				if test.refused {
					checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure, activity.ErrCannotResume)
				} else {
					checkErr(t, err, nil)
				}
				checkDiff(t, "bodies", calls, test.calls)
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

// Rule 6. Given a Range of more numbers than an int can count, then Status shows as many
// as it can.
func TestRange_TooLongToCount(t *testing.T) {
	const most = math.MaxInt
	for name, test := range map[string]struct{ from, next, to, done, total int }{
		"whole":             {math.MinInt, most - 2, most, most, most},
		"at its beginning":  {math.MinInt, math.MinInt, most, 0, most},
		"one too many":      {-1, 5, most, 6, most},
		"as many as can be": {0, 5, most, 5, most},
		"half is done":      {math.MinInt, -1, 1, most, most},
		"half and one":      {math.MinInt, 0, 1, most, most},
	} {
		t.Run(name, func(t *testing.T) {
			rt := activity.New(activity.Config{Logger: quiet})
			opts := activity.Options{RetryPolicy: once, HeartbeatDetails: []any{activity.RangeProgress{Next: test.next, To: test.to}}}
			err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
				return activity.Range(ctx, test.from, test.to, func(int) error {
					if s := rt.Activities()[0]; s.Done != test.done || s.Total != test.total {
						t.Errorf("%d of %d are done, want %d of %d", s.Done, s.Total, test.done, test.total)
					}
					return errBoom
				})
			})
			checkErr(t, err, errBoom)
		})
	}
}

// gobCodec is a Codec that leaves out zeros.
type gobCodec struct{}

func (gobCodec) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobCodec) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// Rule 6. Given a Codec that leaves out zeros, when an attempt has recorded a Next or a
// To of zero, then the next one resumes from there.
func TestRange_CodecThatLeavesOutZeros(t *testing.T) {
	for _, to := range []int{0, 2} {
		bubble(t, activity.Config{Codec: gobCodec{}}, func(t *testing.T, rt *activity.Runtime) {
			var calls []int
			h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
				return activity.Range(ctx, -2, to, func(i int) error {
					if calls = append(calls, i); i >= -1 && len(calls) < 4 {
						return errBoom
					}
					return nil
				})
			})
			checkErr(t, wait(t, h), nil)
			checkDiff(t, "bodies", calls, append([]int{-2, -1, -1}, []int{-1, 0, 1}[:to+1]...))
		})
	}
}

// Rule 6. Given a Range that begins below 0, when attempts fail below 0, at it and above,
// then its progress counts from where it begins, and each attempt resumes where the one
// before failed.
func TestRange_BelowZero(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var calls []int
		failed := map[int]bool{}
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			var p activity.RangeProgress
			found, err := ctx.HeartbeatDetails(&p)
			if n := len(calls); err != nil || found != (n > 0) || found && !reflect.DeepEqual(p, activity.RangeProgress{Next: calls[n-1], To: 2}) {
				t.Errorf("attempt %d resumes from %v, %v: %v", ctx.Info().Attempt, found, err, p)
			}
			return activity.Range(ctx, -3, 2, func(i int) error {
				calls = append(calls, i)
				s := rt.Activities()[0]
				if s.Done != i+3 || s.Total != 5 {
					t.Errorf("in body %d: %d of %d are done", i, s.Done, s.Total)
				}
				if i > -3 {
					checkDetails(t, s, activity.RangeProgress{Next: i, To: 2})
				}
				if i%2 == 0 && !failed[i] { // -2 and 0
					failed[i] = true
					return errBoom
				}
				return nil
			})
		})
		checkErr(t, wait(t, h), nil)
		checkDiff(t, "bodies", calls, []int{-3, -2, -2, -1, 0, 0, 1})
		checkDetails(t, h.Status(), activity.RangeProgress{Next: 2, To: 2})
		if s := h.Status(); s.Done != 5 || s.Total != 5 {
			t.Errorf("at the end %d of %d are done", s.Done, s.Total)
		}
	})
}

// A contextThatTells calls told when a function asks what it resumes from.
type contextThatTells struct {
	activity.Context
	told func()
}

func (c *contextThatTells) HeartbeatDetails(into ...any) (bool, error) {
	c.told()
	return c.Context.HeartbeatDetails(into...)
}

// Given a Range that has asked what it resumes from, when a Status is read before its
// first heartbeat, then the race detector finds nothing: the lock orders the two.
func TestRange_BeginsWhileStatusIsRead(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		read := make(chan struct{})
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			ctx = &contextThatTells{ctx, func() {
				go func() {
					defer close(read)
					if s := rt.Activities()[0]; s.Done != 0 || s.Total != 0 && s.Total != 1 {
						t.Errorf("%d of %d are done", s.Done, s.Total)
					}
				}()
			}}
			return activity.Range(ctx, 0, 1, func(int) error { <-read; return nil })
		})
		checkErr(t, err, nil)
	})
}

// Rule 6. Given an attempt that has called Range, an empty one too, when it calls Range
// again, then that is a NonRetryable error, and no body runs.
func TestRange_SecondInOneAttemptIsNonRetryable(t *testing.T) {
	for _, first := range []int{0, 2} { // an empty one counts too
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
				if err := activity.Range(ctx, 0, first, func(int) error { return nil }); err != nil {
					t.Error(err)
				}
				child, _ := activity.FromContext(context.WithValue(ctx, key{}, 1))
				return activity.Range(child, 0, 3, func(int) error {
					t.Error("the second Range called its body")
					return nil
				})
			})
			checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
		})
	}
}

// Rules 6 and 17. Given a body that fails, canceled or not, then Range returns its error
// as it is. If that is the attempt's cause, the function has got it from Range, and its nil is
// no success, because the loop is not done.
func TestRange_BodysErrorIsReturned(t *testing.T) {
	for _, canceled := range []bool{false, true} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			h := start(t, rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
				err := activity.Range(ctx, 0, 5, func(i int) error {
					if i < 2 {
						return nil
					}
					if canceled {
						<-ctx.Done()
						return context.Cause(ctx)
					}
					return errCancel
				})
				if err != errCancel {
					t.Errorf("Range returned %v", err)
				}
				return nil
			})
			synctest.Wait()
			if canceled {
				h.Cancel(errCancel)
			}
			err := wait(t, h)
			if canceled {
				checkEnd(t, err, 1, activity.RetryStateCancelRequested, errCancel)
			} else {
				checkErr(t, err, nil)
			}
			if s := h.Status(); s.Done != 2 {
				t.Errorf("%d are done, want 2", s.Done)
			}
		})
	}
}

// Rule 6. Given a Range, when its attempt is canceled before the last body is done, then
// Range returns the cause; once the last body is done, it returns nil.
func TestRange_Canceled(t *testing.T) {
	for last, name := range []string{"before", "first", "middle", "last"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var calls int
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					if last == 0 {
						<-ctx.Done()
					}
					err := activity.Range(ctx, 0, 3, func(i int) error {
						if calls++; i == last-1 {
							<-ctx.Done()
						}
						return nil
					})
					if want := errCancel; last < 3 && err != want || last == 3 && err != nil {
						t.Errorf("Range returned %v", err)
					}
					return nil // told to end by Range: not taken for success (rule 17)
				})
				synctest.Wait()
				h.Cancel(errCancel)
				if last < 3 {
					checkErr(t, wait(t, h), errCancel)
				} else {
					checkErr(t, wait(t, h), nil)
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

// Rules 6 and 17. Given a canceled Sleep in a body that ignores its error, then that body
// is done, no further one runs, and the activity is canceled.
func TestRange_BodyIgnoresSleepError(t *testing.T) {
	for _, to := range []int{1, 2} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
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
			h.Cancel(errCancel)
			checkErr(t, wait(t, h), errCancel)
			checkState(t, h, activity.StateCanceled)
		})
	}
}

// Rules 4 and 6. Given a Range whose attempt times out during a body, then that body is
// not recorded, and Range returns the cause, or nil if it was the last body.
func TestRange_TimedOut(t *testing.T) {
	for _, to := range []int{2, 3} { // in the last body, and before it
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			over := make(chan struct{})
			h := start(t, rt, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 2 {
					checkDetails(t, ctx, activity.RangeProgress{Next: 1, To: to})
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
			checkErr(t, wait(t, h), nil)
			if s := h.Status(); s.Done != 1 || s.Total != to { // the fenced attempt is not seen
				t.Errorf("%d of %d are done, want 1 of %d", s.Done, s.Total, to)
			}
		})
	}
}

// Rule 6. Given a Range whose progress becomes too large, then Range returns that error
// and no further body runs. If the last body is done, it logs the error and returns nil.
// {"Next":9,"To":10} has 18 bytes, and {"Next":10,"To":99} has 19.
func TestRange_RecordingFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		to     int
		cancel bool
	}{{"middle", 99, false}, {"last", 10, false}, {"middle, canceled", 99, true}, {"last, canceled", 10, true}} {
		t.Run(test.name, func(t *testing.T) {
			log := &logbook{}
			cfg := activity.Config{MaxDetailsSize: 18, Logger: slog.New(log)}
			bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
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
					h.Cancel(errCancel)
				}
				err := wait(t, h)
				switch {
				case test.to == 10: // the last body is done
					checkErr(t, err, nil)
					if log.has(slog.LevelError) != 1 {
						t.Errorf("%d errors were logged, want 1", log.has(slog.LevelError))
					}
				case test.cancel:
					checkErr(t, err, errCancel)
				default:
					checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
					checkErr(t, err, activity.ErrDetailsTooLarge)
				}
			})
		})
	}
}

// noteBeats is an Observer that notes when heartbeats come.
func noteBeats(beats *[]time.Duration) func(activity.Event) {
	var begun time.Time
	return func(e activity.Event) {
		switch e.Kind {
		case activity.EventScheduled:
			begun = e.Time
		case activity.EventHeartbeat:
			*beats = append(*beats, e.Time.Sub(begun))
		}
	}
}

// Given Idle, then it heartbeats when it begins, and at least every half
// HeartbeatTimeout.
func TestIdle_Heartbeats(t *testing.T) {
	for _, timeout := range []time.Duration{0, 2, 3, 7, 10 * time.Second} {
		for _, idle := range []time.Duration{-1, 0, 1, 2, 21, timeout / 2, timeout/2 + 1, timeout, 5*timeout + 3} {
			var beats []time.Duration
			bubble(t, activity.Config{Observer: noteBeats(&beats)}, func(t *testing.T, rt *activity.Runtime) {
				err := run(t, rt, activity.Options{HeartbeatTimeout: timeout, HeartbeatDetails: []any{5}, RetryPolicy: once}, func(ctx activity.Context) error {
					before := timeout / 2
					if err := ctx.Sleep(before); err != nil {
						t.Error(err)
					}
					synctest.Wait() // for the first events to be delivered
					if err := activity.Idle(ctx, idle); err != nil {
						t.Errorf("timeout %s: Idle(%s) returned %v", timeout, idle, err)
					}
					synctest.Wait()
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
					checkDetails(t, ctx, 5)
					return nil
				})
				checkErr(t, err, nil)
			})
		}
	}
}

// Rule 7. Given a heartbeat timeout of 1 ns, which cannot be kept, then Idle does not
// spin, and the attempt times out.
func TestIdle_SmallestTimeoutDoesNotSpin(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{HeartbeatTimeout: 1, RetryPolicy: once}, func(ctx activity.Context) error {
			return activity.Idle(ctx, time.Hour)
		})
		checkErr(t, err, context.DeadlineExceeded)
		synctest.Wait()
	})
}

// Rule 18. Given Idle, when the activity is canceled, then it returns the cause at that
// instant, and so does a further Idle.
func TestIdle_EndsWithTheAttempt(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			for range 2 { // the second at once
				if err := activity.Idle(ctx, time.Hour); err != errCancel {
					t.Errorf("Idle returned %v", err)
				}
			}
			if d := time.Since(ctx.Info().StartedAt); d != 7*time.Minute {
				t.Errorf("Idle took %s", d)
			}
			return nil
		})
		time.Sleep(7 * time.Minute)
		h.Cancel(errCancel)
		checkErr(t, wait(t, h), errCancel) // told to end by Idle (rule 17)
	})
}

// Rule 4. Given an attempt that has timed out, when its function calls Range, then the
// next attempt's Status is not changed. Nor is that of an activity that has ended.
func TestRange_FencedAttemptIsNotSeenInStatus(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{ID: "a", StartToCloseTimeout: time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}, func(ctx activity.Context) error {
			switch n := ctx.Info().Attempt; n {
			case 2:
				return activity.Range(ctx, 0, 10, func(int) error { return e.hang(ctx) })
			default:
				_ = e.hang(ctx)
				return activity.Range(ctx, 0, n*100, func(int) error { return nil })
			}
		})
		check := func(what string, total int) {
			t.Helper()
			if s := h.Status(); s.Done != 0 || s.Total != total {
				t.Errorf("%s: %d of %d are done, want 0 of %d", what, s.Done, s.Total, total)
			}
		}
		e.pass(3 * time.Second)
		check("the second attempt runs", 10)
		e.open("a1")
		check("the first has returned", 10)
		e.pass(time.Minute)
		if s := h.Status().State; s != activity.StateFailed {
			t.Fatalf("it is %s", s)
		}
		e.open("a3")
		check("after the end", 10)
		e.open("a2")
		check("all have returned", 10)
	})
}
