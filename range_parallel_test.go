package activity_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// bodies counts how often each body ran, and how many run at once.
type bodies struct {
	mu       sync.Mutex
	ran      map[int]int
	now, max int
}

func (b *bodies) enter(i int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ran == nil {
		b.ran = map[int]int{}
	}
	b.ran[i]++
	b.now++
	b.max = max(b.max, b.now)
}

func (b *bodies) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
}

// Rule 30. Given ten bodies that take a second each, when three workers run them, then each
// runs once, three run at once, and the progress is whole in the end.
func TestRangeParallel_RunsEachOnce(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var b bodies
		h := e.start(activity.Options{HeartbeatTimeout: 1500 * time.Millisecond}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 5, 15, 3, func(ctx activity.Context, i int) error {
				b.enter(i)
				defer b.leave()
				return ctx.Sleep(time.Second)
			})
		})
		for range 4 {
			e.pass(time.Second)
		}
		checkErr(t, e.end(h), nil)
		for i := 5; i < 15; i++ {
			if b.ran[i] != 1 {
				t.Errorf("body %d ran %d times", i, b.ran[i])
			}
		}
		if len(b.ran) != 10 || b.max != 3 {
			t.Errorf("%d bodies, %d at once", len(b.ran), b.max)
		}
		var p activity.RangeProgress
		if _, err := h.Status().HeartbeatDetails(&p); err != nil || p.Next != 15 || p.To != 15 || len(p.Done) != 0 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// Rule 30. Given a body that hangs while others get ahead of it, when its attempt times out,
// then the next attempt runs exactly the bodies that are not done, and Status counts those
// that are.
func TestRangeParallel_ResumesWhatIsMissing(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var b bodies
		h := e.start(activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 10, 2, func(ctx activity.Context, i int) error {
				b.enter(i)
				defer b.leave()
				if ctx.Info().Attempt == 1 && (i == 1 || i == 5) {
					<-ctx.Done()
					return context.Cause(ctx)
				}
				return ctx.Sleep(time.Second)
			})
		})
		e.pass(5 * time.Second) // 0 and 2, 3, 4 are done; 1 and 5 hang
		if s := h.Status(); s.Done != 4 || s.Total != 10 || s.ResumedAt != 0 {
			t.Errorf("done %d of %d, resumed at %d", s.Done, s.Total, s.ResumedAt)
		}
		var p activity.RangeProgress
		if _, err := h.Status().HeartbeatDetails(&p); err != nil || p.Next != 1 || !slices.Equal(p.Done, []int{2, 3, 4}) {
			t.Errorf("%+v, %v", p, err)
		}
		e.pass(9*time.Second - 1)
		if n := h.Status().Attempt; n != 1 {
			t.Errorf("attempt %d before the timeout", n)
		}
		e.pass(1)
		if s := h.Status(); s.Attempt != 2 || s.ResumedAt != 4 {
			t.Errorf("attempt %d, resumed at %d", s.Attempt, s.ResumedAt)
		}
		e.pass(3 * time.Second)
		checkErr(t, e.end(h), nil)
		for i := range 10 {
			want := 1
			if i == 1 || i == 5 {
				want = 2
			}
			if b.ran[i] != want {
				t.Errorf("body %d ran %d times, want %d", i, b.ran[i], want)
			}
		}
	})
}

// Rule 30. Given progress of a RangeParallel, when a Range resumes it, then it runs the bodies
// that are missing, and the other way round.
func TestRangeParallel_ResumesWithRange(t *testing.T) {
	for _, parallelFirst := range []bool{true, false} {
		t.Run(fmt.Sprint(parallelFirst), func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var mu sync.Mutex
				var ran []int
				body := func(ctx activity.Context, i int) error {
					if ctx.Info().Attempt == 1 && (i == 2 || i == 5) {
						if parallelFirst && i == 2 {
							return ctx.Sleep(time.Hour) // until 5 has failed
						}
						if i == 5 || !parallelFirst {
							_ = ctx.Sleep(time.Second)
							return errBoom
						}
					}
					mu.Lock()
					ran = append(ran, i)
					mu.Unlock()
					return nil
				}
				err := run(t, rt, activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, func(ctx activity.Context) error {
					if parallelFirst == (ctx.Info().Attempt == 1) {
						return activity.RangeParallel(ctx, 0, 8, 2, body)
					}
					return activity.Range(ctx, 0, 8, func(i int) error { return body(ctx, i) })
				})
				checkErr(t, err, nil)
				slices.Sort(ran)
				if want := []int{0, 1, 2, 3, 4, 5, 6, 7}; !slices.Equal(ran, want) {
					t.Errorf("ran %v, want %v", ran, want)
				}
			})
		})
	}
}

// Rule 30. Given four bodies that run, when one fails, then the Contexts of the others end with
// its error as their cause, a body that is done after all is recorded, no other begins, and
// RangeParallel returns the error.
func TestRangeParallel_FirstErrorEndsTheOthers(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var b bodies
		var causes [4]error
		h := e.start(activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
			err := activity.RangeParallel(ctx, 0, 100, 4, func(ctx activity.Context, i int) error {
				b.enter(i)
				defer b.leave()
				if i == 2 {
					_ = ctx.Sleep(time.Second)
					return errBoom
				}
				err := ctx.Sleep(time.Hour)
				causes[i] = err
				if i == 3 {
					return nil // done after all
				}
				return errors.Join(errCancel, err)
			})
			if ctx.Err() != nil {
				t.Error("the attempt's Context has ended")
			}
			return err
		})
		e.pass(time.Second)
		err := e.end(h)
		checkErr(t, err, errBoom)
		if errors.Is(err, errCancel) {
			t.Error("a later error is returned too")
		}
		for _, i := range []int{0, 1, 3} {
			if causes[i] != errBoom {
				t.Errorf("body %d: cause %v", i, causes[i])
			}
		}
		if len(b.ran) != 4 {
			t.Errorf("%d bodies ran", len(b.ran))
		}
		var p activity.RangeProgress
		if _, err := h.Status().HeartbeatDetails(&p); err != nil || p.Next != 0 || !slices.Equal(p.Done, []int{3}) {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

// Rules 14 and 30. Given a body that panics or calls runtime.Goexit, when the others have
// returned, then the attempt has panicked, with the stack of the body, or exited.
func TestRangeParallel_PanicAndGoexit(t *testing.T) {
	for _, exits := range []bool{false, true} {
		t.Run(fmt.Sprint(exits), func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var waited atomic.Bool
				err := run(t, rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
					return activity.RangeParallel(ctx, 0, 10, 2, func(ctx activity.Context, i int) error {
						if i == 1 {
							_ = ctx.Sleep(time.Second)
							if exits {
								runtime.Goexit()
							}
							panicHere(errBoom)
						}
						<-ctx.Done()
						time.Sleep(time.Second)
						waited.Store(true)
						return nil
					})
				})
				var p *activity.PanicError
				switch {
				case !waited.Load():
					t.Error("the other body was not waited for")
				case exits:
					checkErr(t, err, activity.ErrGoexit)
				case !errors.As(err, &p) || p.Value != errBoom || !errors.Is(err, errBoom):
					t.Errorf("%v", err)
				case !containsAll(string(p.Stack), "panicHere"):
					t.Errorf("the stack is not the body's: %s", p.Stack)
				}
			})
		})
	}
}

// Rule 30. Given no workers or no body, then the error is NonRetryable and names the value.
func TestRangeParallel_Refused(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		for want, call := range map[string]func(ctx activity.Context) error{
			"workers must be at least 1 (got 0)": func(ctx activity.Context) error {
				return activity.RangeParallel(ctx, 0, 1, 0, func(activity.Context, int) error { return nil })
			},
			"body must not be nil": func(ctx activity.Context) error { return activity.RangeParallel(ctx, 0, 1, 1, nil) },
		} {
			err := run(t, rt, activity.Options{}, call)
			checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
			if !containsAll(fmt.Sprint(err), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return errors.Join(activity.Range(ctx, 0, 0, nil), activity.RangeParallel(ctx, 0, 0, 1, func(activity.Context, int) error { return nil }))
		})
		checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	})
}

// Rule 6. Given details that no Range can have recorded, then both refuse to resume.
func TestRangeParallel_DetailsOfNoRange(t *testing.T) {
	for _, p := range []activity.RangeProgress{
		{Next: 3, To: 10, Done: []int{3}},
		{Next: 3, To: 10, Done: []int{2}},
		{Next: 3, To: 10, Done: []int{6, 5}},
		{Next: 3, To: 10, Done: []int{5, 5}},
		{Next: 3, To: 10, Done: []int{10}},
		{Next: 11, To: 10},
		{Next: 3, To: 11},
	} {
		bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
			for name, call := range map[string]func(ctx activity.Context) error{
				"Range": func(ctx activity.Context) error { return activity.Range(ctx, 0, 10, func(int) error { return nil }) },
				"RangeParallel": func(ctx activity.Context) error {
					return activity.RangeParallel(ctx, 0, 10, 2, func(activity.Context, int) error { return nil })
				},
			} {
				err := run(t, rt, activity.Options{HeartbeatDetails: []any{p}}, call)
				checkErr(t, err, activity.ErrCannotResume)
				if !containsAll(fmt.Sprint(err), "activity."+name+" from 0 to 10") {
					t.Errorf("%+v: %v", p, err)
				}
			}
		})
	}
}

// Rule 6. Given progress that begins below from, then its numbers below from do not count, and
// those above do.
func TestRangeParallel_FromMoves(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var b bodies
		p := activity.RangeProgress{Next: 2, To: 10, Done: []int{3, 5, 6, 8}}
		rt.Subscribe(func(e activity.Event) {
			var last activity.RangeProgress
			if _, err := e.HeartbeatDetails(&last); err != nil {
				t.Error(err)
			}
			if slices.ContainsFunc(last.Done, func(i int) bool { return i <= last.Next }) {
				t.Errorf("recorded %+v", last)
			}
		}, activity.EventHeartbeat)
		err := run(t, rt, activity.Options{HeartbeatDetails: []any{p}}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 5, 10, 8, func(_ activity.Context, i int) error {
				b.enter(i)
				return nil
			})
		})
		checkErr(t, err, nil)
		if len(b.ran) != 2 || b.ran[7] != 1 || b.ran[9] != 1 {
			t.Errorf("ran %v", b.ran)
		}
	})
}

// Rule 30. Given a first body that hangs, when 10,000 others are done, then no other begins
// until the first is done, also after a resume.
func TestRangeParallel_WaitsForTheLowest(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		const n, workers = 10100, 4
		var ran atomic.Int32
		release := make(chan struct{})
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, n, workers, func(ctx activity.Context, i int) error {
				if i == 0 {
					<-release
				}
				ran.Add(1)
				if ctx.Info().Attempt == 1 && i == 0 {
					return errBoom
				}
				return nil
			})
		})
		synctest.Wait()
		if got := int(ran.Load()); got < 10000 || got >= 10000+workers {
			t.Errorf("%d bodies are done beside the one that hangs", got)
		}
		before := ran.Load()
		close(release)
		checkErr(t, wait(t, h), nil)
		if got := ran.Load(); got != n+1 {
			t.Errorf("%d bodies ran, %d of them before; want %d", got, before, n+1)
		}
	})
}

// Rule 30. Given workers that wait for the lowest number, when that is done, then they continue.
func TestRangeParallel_LowestWakesTheOthers(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		var ran atomic.Int32
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 10100, 4, func(_ activity.Context, i int) error {
				if ran.Add(1); i == 0 {
					<-release
				}
				if i > 10050 { // by more than the one who has done the lowest
					<-ctx.Done()
				}
				return nil
			})
		})
		synctest.Wait()
		close(release)
		synctest.Wait()
		if got := ran.Load(); got != 10051+4 {
			t.Errorf("%d bodies have begun, want %d: four workers", got, 10051+4)
		}
		h.Cancel(nil)
		_ = wait(t, h)
	})
}

// Rules 19 and 30. Given progress that is so far ahead that the lowest number must be done first,
// when the attempt is asked to stop before that begins, then the other workers do not wait for it.
func TestRangeParallel_StoppedAtTheLowest(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		p := activity.RangeProgress{Next: 0, To: 20000}
		for i := range 10000 {
			p.Done = append(p.Done, 1+i)
		}
		h := e.start(activity.Options{HeartbeatDetails: []any{p}}, func(ctx activity.Context) error {
			<-e.gate("start")
			return activity.RangeParallel(ctx, 0, 20000, 4, func(activity.Context, int) error { return errors.New("a body ran") })
		})
		drained := e.drain()
		e.open("start")
		checkErr(t, <-drained, nil)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown)
	})
}

// A flickering Context says a few times that it has ended, and then that it has not.
type flickering struct {
	activity.Context
	times *atomic.Int32
}

func (f flickering) Err() error {
	if f.times.Add(-1) >= 0 {
		return errCancel
	}
	return f.Context.Err()
}

func (f flickering) Value(key any) any {
	if _, theirs := key.(*int); theirs { // by which context.Cause would look past Err
		return nil
	}
	return f.Context.Value(key)
}

// Given a wrapper that says between two bodies that it has ended, and later that it has not, then a
// RangeParallel that is not done does not return nil.
func TestRangeParallel_UnfinishedIsNoSuccess(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
			times, ran := new(atomic.Int32), 0
			err := activity.RangeParallel(flickering{ctx, times}, 0, 3, 1, func(activity.Context, int) error {
				ran++
				times.Store(2) // once for Err, once for the cause
				return nil
			})
			if ran != 1 {
				t.Errorf("%d bodies ran, want 1", ran)
			}
			return err
		})
		checkErr(t, err, errCancel)
	})
}

// Given synchronous heartbeats, when many bodies are done at once, then they share Saves.
func TestRangeParallel_SyncHeartbeatsShareSaves(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Save", func(context.Context) error { time.Sleep(time.Second); return nil })
		opts := job
		opts.SyncHeartbeats = true
		h := e.start(opts, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 40, 20, func(activity.Context, int) error { return nil })
		})
		time.Sleep(time.Minute)
		checkErr(t, e.end(h), nil)
		if n := len(s.of("Save")); n > 8 {
			t.Errorf("%d Saves", n)
		}
	})
}

// Rule 17. Given a RangeParallel that is canceled, when its bodies return, then it returns the
// cause, and a nil of the function counts as canceled.
func TestRangeParallel_Canceled(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error {
			err := activity.RangeParallel(ctx, 0, 10, 2, func(ctx activity.Context, i int) error { return ctx.Sleep(time.Second) })
			if err != errCancel {
				t.Errorf("it returns %v", err)
			}
			return nil
		})
		e.pass(1500 * time.Millisecond)
		h.Cancel(errCancel)
		synctest.Wait()
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
	})
}

func containsAll(text string, parts ...string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

// Rules 6, 17, 19 and 30. Given a RangeParallel in its last body, when it is canceled or Drain
// begins, then it finishes, and the activity completes.
func TestRangeParallel_StoppedDuringTheLastBody(t *testing.T) {
	for _, drains := range []bool{false, true} {
		t.Run(fmt.Sprint(drains), func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{}, func(ctx activity.Context) error {
					return activity.RangeParallel(ctx, 0, 3, 1, func(_ activity.Context, i int) error {
						if i == 2 {
							<-e.gate("body")
						}
						return nil
					})
				})
				if drains {
					drained := e.drain()
					e.open("body")
					checkErr(t, <-drained, nil)
				} else {
					h.Cancel(errCancel)
					e.open("body")
				}
				checkErr(t, e.end(h), nil)
			})
		})
	}
}

// Rules 6 and 30. Given workers that wait for the lowest number, when the activity is canceled
// or drained meanwhile, then none of them begins another body.
func TestRangeParallel_NoBodyBeginsAfterTheEnd(t *testing.T) {
	for _, how := range []string{"cancel", "drain"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				gate := make(chan struct{})
				var stopped atomic.Bool
				var late atomic.Int32
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					return activity.RangeParallel(ctx, 0, 20000, 4, func(_ activity.Context, i int) error {
						if stopped.Load() {
							late.Add(1)
						}
						if i == 0 {
							<-gate
						}
						return nil
					})
				})
				synctest.Wait()
				if how == "cancel" {
					h.Cancel(errCancel)
				} else {
					go rt.Drain(t.Context())
				}
				synctest.Wait()
				stopped.Store(true)
				close(gate)
				synctest.Wait()
				if n := late.Load(); n != 0 {
					t.Errorf("%d bodies began after the end", n)
				}
			})
		})
	}
}

// Rules 19 and 30. Given two bodies, when Drain asks one of them to stop, then the Context of
// the other lives on.
func TestRangeParallel_DrainLetsTheOthersFinish(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		e.start(activity.Options{}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, i int) error {
				if i == 0 {
					return ctx.Sleep(time.Hour)
				}
				<-e.gate("step")
				if ctx.Err() != nil {
					t.Errorf("the Context of a step under way has ended: %v", context.Cause(ctx))
				}
				return nil
			})
		})
		d := e.drain()
		e.open("step")
		<-d
	})
}

// Rules 19 and 30. Given a body whose heartbeat Drain has asked to stop, when another body is done
// before the first fails, then the function was asked, and the attempt does not count.
func TestRangeParallel_DrainAskedOneBody(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, i int) error {
				if i == 1 {
					<-e.gate("done")
					return nil
				}
				<-e.gate("beat")
				checkErr(t, ctx.Heartbeat(), activity.ErrShutdown)
				<-e.gate("fail")
				return errBoom
			})
		})
		d := e.drain()
		e.open("beat")
		e.open("done")
		e.open("fail")
		<-d
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, activity.ErrShutdown, errBoom)
		if cp := s.get("a"); cp.State != activity.CheckpointInterrupted || cp.Attempt != 0 || cp.LastFailure != "" {
			t.Errorf("%+v", cp)
		}
	})
}

// Rules 17 and 30. Given a function that ignores the error of RangeParallel, when a body returns
// the attempt's cause, and another is done although it was canceled, then the nil of the function is
// no success, whichever of the two comes first, because the loop is not done.
func TestRangeParallel_BodyReturnsTheCause(t *testing.T) {
	for _, order := range [][]string{{"cause", "done"}, {"done", "cause"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			both(t, activity.Config{}, func(t *testing.T, e *env) {
				h := e.start(activity.Options{}, func(ctx activity.Context) error {
					checkErr(t, activity.RangeParallel(ctx, 0, 3, 2, func(ctx activity.Context, i int) error {
						if i == 0 {
							<-e.gate("cause")
							return context.Cause(ctx)
						}
						<-e.gate("done")
						return nil
					}), errCancel)
					return nil
				})
				h.Cancel(errCancel)
				e.open(order[0])
				e.open(order[1])
				checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
			})
		})
	}
}

// Rules 14 and 30. Given a body that has failed, when another one panics as it ends, then the
// panic is not lost.
func TestRangeParallel_PanicAfterAnError(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, i int) error {
				if i == 0 {
					ctx.Sleep(time.Second)
					return errBoom
				}
				<-ctx.Done()
				panic("lost")
			})
		})
		if p := (*activity.PanicError)(nil); !errors.As(err, &p) {
			t.Errorf("%v", err)
		}
	})
}

// Given a Context of a test's own, then RangeParallel works with it as Range does.
func TestRangeParallel_ContextOfATest(t *testing.T) {
	checkErr(t, activity.Range(fake{t.Context()}, 0, 3, func(int) error { return nil }), nil)
	checkErr(t, activity.RangeParallel(fake{t.Context()}, 0, 3, 2, func(ctx activity.Context, _ int) error {
		if ctx == nil {
			return errors.New("nil Context")
		}
		return ctx.Heartbeat()
	}), nil)
}

// Rule 14. Given a wrapper whose Err panics between two bodies, then the attempt has panicked,
// and the process lives.
func TestRangeParallel_WrapperThatPanics(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	err := rt.Run(t.Context(), activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
		return activity.RangeParallel(badErr{ctx, new(atomic.Int32)}, 0, 10, 2, func(activity.Context, int) error { return nil })
	})
	if p := (*activity.PanicError)(nil); !errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
}

// Given a wrapper that is not registered, then the Contexts of the bodies have its methods.
func TestRangeParallel_BodiesGetTheWrapper(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		n := 0
		checkErr(t, run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			return activity.RangeParallel(counting{ctx, &n}, 0, 1, 1, func(ctx activity.Context, i int) error { return ctx.Heartbeat() })
		}), nil)
		if n != 2 {
			t.Error(n)
		}
	})
}

// Given a range of more numbers than an int can count, then Status counts at most math.MaxInt
// of them.
func TestRangeParallel_DoneDoesNotOverflow(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{HeartbeatDetails: []any{activity.RangeProgress{Next: 5, To: 100, Done: []int{8}}}}, func(ctx activity.Context) error {
			return activity.Range(ctx, math.MinInt, math.MaxInt, func(int) error { return untilEnded(ctx) })
		})
		synctest.Wait()
		if s := h.Status(); s.Done < 0 || s.Done > s.Total {
			t.Errorf("%d of %d", s.Done, s.Total)
		}
		h.Cancel(nil)
	})
}

type fake struct{ context.Context }

func (fake) Sleep(time.Duration) error             { return nil }
func (fake) Heartbeat(...any) error                { return nil }
func (fake) HeartbeatDetails(...any) (bool, error) { return false, nil }
func (fake) Info() activity.Info                   { return activity.Info{} }
func (fake) Logger() *slog.Logger                  { return quiet }

type badErr struct {
	activity.Context
	n *atomic.Int32
}

func (b badErr) Err() error {
	if b.n.Add(1) > 3 {
		panic("Err panics")
	}
	return b.Context.Err()
}

type counting struct {
	activity.Context
	n *int
}

func (c counting) Heartbeat(d ...any) error { *c.n++; return c.Context.Heartbeat(d...) }

// Given bodies that hang, then the TimeoutError and Runtime.Stack have their stacks, before that of
// the function. It makes no difference if an Interceptor wraps the Context.
func TestRangeParallel_StacksOfBodies(t *testing.T) {
	for name, intercept := range map[string]func(activity.Context, func(activity.Context) error) error{
		"plain": nil,
		"wrapped": func(ctx activity.Context, next func(activity.Context) error) error {
			return next(struct{ activity.Context }{ctx})
		},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, activity.Config{Interceptor: intercept}, func(t *testing.T, e *env) {
				opts := activity.Options{ID: "a", HeartbeatTimeout: time.Minute, RetryPolicy: once}
				h := e.start(opts, func(ctx activity.Context) error {
					return activity.RangeParallel(ctx, 0, 9, 3, func(ctx activity.Context, i int) error {
						if i == 0 {
							return nil
						}
						hangHere(ctx)
						return context.Cause(ctx)
					})
				})
				check := func(what string, stack []byte) {
					t.Helper()
					stacks := strings.Split(string(stack), "\n\n")
					if len(stacks) != 4 || !strings.Contains(stacks[3], "activity.RangeParallel(") {
						t.Fatalf("%s: %d stacks:\n%s", what, len(stacks), stack)
					}
					for _, s := range stacks[:3] {
						if !strings.Contains(s, "hangHere") {
							t.Errorf("%s: not a body's: %s", what, s)
						}
					}
				}
				stack, err := e.rt.Stack("a")
				checkErr(t, err, nil)
				check("Stack", stack)
				e.pass(time.Minute)
				timeout := asTimeout(t, e.end(h))
				check("TimeoutError", timeout.Stack)
			})
		})
	}
}
