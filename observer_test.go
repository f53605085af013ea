package activity_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/seed-9da638b0/activity"
)

// Given an activity that heartbeats, stalls, is retried and ends, then the Observer gets
// its events in order, with their fields.
func TestEvents_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		base := time.Now()
		rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
			got = append(got, observerLine(t, base, e))
		}})
		opts := activity.Options{ID: "a1", Name: "job", HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}
		err := rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			if err := ctx.Sleep(time.Second); err != nil {
				return err
			}
			switch ctx.Info().Attempt {
			case 1:
				_ = ctx.Heartbeat(1)
				_ = ctx.Heartbeat()
				_ = ctx.Heartbeat(nil)
				_ = ctx.Heartbeat(func() {}) // refused, and alive
				return errBoom
			case 2:
				time.Sleep(14 * time.Second)
				return io.EOF // nobody hears it
			}
			_ = ctx.Sleep(5 * time.Second)
			return activity.NonRetryable(errBoom)
		})
		checkEnd(t, err, 3, activity.RetryStateNonRetryableFailure, errBoom)
		checkDiff(t, "events", got, []string{
			"0s scheduled 0",
			"0s attempt started 1",
			"1s heartbeat 1 details 1",
			"1s heartbeat 1",
			"1s heartbeat 1",
			"1s heartbeat 1",
			"1s attempt failed 1 boom, next in 1s",
			"2s attempt started 2",
			"12s attempt failed 2 heartbeat timeout, next in 0s",
			"12s abandoned 2",
			"12s attempt started 3",
			"17s abandoned returned 2",
			"18s attempt failed 3 boom, next in 0s",
			"18s failed 3 " + err.Error(),
		})
	})
}

func observerLine(t *testing.T, base time.Time, e activity.Event) string {
	if e.ID != "a1" || e.Name != "job" {
		t.Errorf("an event of %q, %q", e.ID, e.Name)
	}
	line := fmt.Sprintf("%s %s %d", e.Time.Sub(base), e.Kind, e.Attempt)
	var n int
	if ok, err := e.HeartbeatDetails(&n); err != nil {
		t.Error(err)
	} else if ok {
		line += fmt.Sprintf(" details %d", n)
	}
	var timeout *activity.TimeoutError
	switch {
	case errors.As(e.Err, &timeout):
		line += " " + timeout.Type.String()
	case e.Err != nil:
		line += " " + e.Err.Error()
	}
	if e.Kind == activity.EventAttemptFailed {
		line += fmt.Sprintf(", next in %s", e.Delay)
	}
	return line
}

// Given an Observer that takes its time, then the caller is answered after the last
// event, and other activities do not wait.
func TestEvents_LastOneComesBeforeTheAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		fn     func(ctx activity.Context) error
		last   activity.EventKind
		cancel bool
	}{
		"completed": {noop, activity.EventCompleted, false},
		"failed":    {func(activity.Context) error { return activity.NonRetryable(io.EOF) }, activity.EventFailed, false},
		"canceled":  {untilEnded, activity.EventCanceled, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told atomic.Int32
				rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
					if e.Kind == tt.last && e.ID == "slow" {
						time.Sleep(time.Minute)
						told.Add(1)
					}
				}})
				h := start(t, rt, activity.Options{ID: "slow"}, tt.fn)
				if tt.cancel {
					go h.Cancel(nil)
				}
				time.Sleep(time.Second)
				_ = rt.Run(t.Context(), activity.Options{}, noop)
				select {
				case <-h.Done():
					t.Error("the answer came before the last event was told")
				default:
				}
				if told.Load() != 0 {
					t.Error("the other activity waited for the slow one's event")
				}
				if err := rt.Shutdown(t.Context()); err != nil || told.Load() != 1 {
					t.Errorf("Shutdown: %v, told %d", err, told.Load())
				}
				<-h.Done()
			})
		})
	}
}

// Given many goroutines that heartbeat, then the Observer gets the events of one activity
// one at a time.
func TestEvents_OneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inside, heartbeats := 0, 0 // unguarded: the race detector looks on
		rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
			inside++
			if inside != 1 {
				t.Error("two at a time")
			}
			if e.Kind == activity.EventHeartbeat {
				heartbeats++
				runtime.Gosched()
			}
			inside--
		}})
		err := rt.Run(t.Context(), activity.Options{}, func(ctx activity.Context) error {
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					for i := range 20 {
						_ = ctx.Heartbeat(i)
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err != nil || heartbeats != 400 || rt.Stats().Heartbeats != 400 {
			t.Errorf("%v, %d events, %+v", err, heartbeats, rt.Stats())
		}
	})
}

// Rule 24. Given an Observer that panics at each event, then each panic is caught and
// logged, and the activity is not touched.
func TestObserver_Panics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logbook{}
		var calls atomic.Int32
		rt := activity.New(activity.Config{Logger: slog.New(log), Observer: func(e activity.Event) {
			calls.Add(1)
			panicHere("observer " + e.Kind.String())
		}})
		err := rt.Run(t.Context(), activity.Options{}, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(1); err != nil {
				return err
			}
			if ctx.Info().Attempt == 1 {
				return errBoom
			}
			return nil
		})
		if err != nil || calls.Load() != 7 {
			t.Errorf("%v, %d events", err, calls.Load())
		}
		if log.has(slog.LevelError, "observer completed", "panicHere") == 0 {
			t.Errorf("no error tells of the panic: %v", log.lines)
		}
	})
}

// Rule 24. Given an Observer that calls runtime.Goexit at one kind of event, then all
// events are delivered, and all activities end.
func TestObserver_CallsGoexit(t *testing.T) {
	for _, kind := range []activity.EventKind{
		activity.EventScheduled, activity.EventAttemptStarted, activity.EventAttemptFailed, activity.EventAbandoned, activity.EventCompleted,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
					j.observe(e)
					if e.Kind == kind {
						runtime.Goexit()
					}
				}})
				// All stall at one instant, and one timer tells of all of them.
				opts := activity.Options{HeartbeatTimeout: time.Second}
				for range 5 {
					go func() {
						_ = rt.Run(t.Context(), opts, func(ctx activity.Context) error {
							if ctx.Info().Attempt == 1 {
								return ctx.Sleep(time.Hour)
							}
							return nil
						})
					}()
				}
				time.Sleep(time.Minute)
				if s := rt.Stats(); s.Completed != 5 || s.Abandoned != 0 {
					t.Errorf("%+v", s)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := rt.Shutdown(ctx); err != nil {
					t.Error(err)
				}
				if n := len(j.of(activity.EventCompleted)); n != 5 {
					t.Errorf("%d activities were told to have completed, want 5", n)
				}
			})
		})
	}
}

// Rule 24. Given an Observer that calls runtime.Goexit, when no later event gives a
// second chance, then the activity ends nevertheless.
func TestObserver_CallsGoexitAtLastEvent(t *testing.T) {
	for _, kind := range []activity.EventKind{activity.EventAttemptFailed, activity.EventAbandoned, activity.EventFailed} {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal
				rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
					j.observe(e)
					if e.Kind == kind {
						runtime.Goexit()
					}
				}})
				release := make(chan struct{})
				opts := activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}
				var handles []*activity.Handle[string]
				for range 5 {
					handles = append(handles, start(t, rt, opts, func(activity.Context) error { <-release; return nil }))
				}
				time.Sleep(2 * time.Second)
				for i, h := range handles {
					select {
					case <-h.Done():
					default:
						t.Errorf("the caller of number %d has no answer, and its state is %s", i+1, h.Status().State)
					}
				}
				if n := len(j.of(activity.EventFailed)); n != 5 {
					t.Errorf("%d activities were told to have failed, want 5", n)
				}
				close(release)
				time.Sleep(time.Second)
			})
		})
	}
}

// Given an Observer, a Codec, a Retryable and other user code, when they call the
// Runtime, then no lock is in their way.
func TestObserver_UserCodeMayCallRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rt *activity.Runtime
		var handle atomic.Pointer[activity.Handle[string]]
		var looks atomic.Int32
		look := func() {
			looks.Add(1)
			rt.Stats()
			rt.Activities()
			if h := handle.Load(); h != nil {
				h.Status()
			}
		}
		rt = activity.New(activity.Config{
			Logger:        slog.New(observerHandler{slog.DiscardHandler, look}),
			Codec:         observerCodec{look},
			MaxConcurrent: 1,
			Observer: func(e activity.Event) {
				look()
				if e.Kind == activity.EventAttemptStarted && e.Attempt == 4 {
					handle.Load().Cancel(errCancel)
				}
			},
			Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				look()
				defer look()
				return next(ctx)
			},
		})
		opts := activity.Options{HeartbeatTimeout: time.Second, HeartbeatDetails: []any{0}}
		opts.RetryPolicy.Retryable = func(error) bool { look(); return true }
		h := start(t, rt, opts, func(ctx activity.Context) error {
			n, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			if err := ctx.Heartbeat(n + 1); err != nil {
				return err
			}
			switch ctx.Info().Attempt {
			case 1:
				return &observerError{look}
			case 2:
				panic(&observerError{look})
			}
			return ctx.Sleep(time.Hour)
		})
		handle.Store(h)
		err := wait(t, h)
		look()
		checkEnd(t, err, 4, activity.RetryStateCancelRequested, errCancel)
		if looks.Load() < 20 {
			t.Errorf("only %d looks", looks.Load())
		}
	})
}

type observerError struct{ look func() }

func (e *observerError) Error() string      { e.look(); return "looks" }
func (e *observerError) NonRetryable() bool { e.look(); return false }
func (e *observerError) Unwrap() error      { e.look(); return nil }

type observerHandler struct {
	slog.Handler
	look func()
}

func (h observerHandler) Enabled(context.Context, slog.Level) bool { h.look(); return true }

func (h observerHandler) Handle(_ context.Context, r slog.Record) error {
	h.look()
	r.Attrs(func(a slog.Attr) bool { _ = a.Value.String(); return true })
	return nil
}

type observerCodec struct{ look func() }

func (c observerCodec) Marshal(v any) ([]byte, error) { c.look(); return fmt.Append(nil, v), nil }

func (c observerCodec) Unmarshal(data []byte, v any) error {
	c.look()
	_, err := fmt.Sscan(string(data), v)
	return err
}

// Given an activity that goes through all states, then its Status has the state and its
// times.
func TestStatus_InEachState(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		base := time.Now()
		start(t, rt, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(5 * time.Second) })
		release := make(chan struct{})
		opts := activity.Options{ID: "it", Name: "job", HeartbeatTimeout: 10 * time.Second, MaxAbandoned: activity.NoOverlap, RetryPolicy: activity.RetryPolicy{InitialInterval: 4 * time.Second}}
		h := start(t, rt, opts, func(ctx activity.Context) error {
			_ = ctx.Sleep(time.Second)
			switch ctx.Info().Attempt {
			case 1:
				err := activity.Range(ctx, 2, 12, func(i int) error {
					if i == 5 {
						return io.EOF
					}
					return nil
				})
				_ = ctx.Sleep(time.Second)
				return err
			case 2:
				<-release
			}
			return nil
		})
		const running, waiting, backing, blocked, completed = activity.StateRunning, activity.StateWaiting, activity.StateBackingOff, activity.StateBlocked, activity.StateCompleted
		for _, tt := range []struct {
			at, started, heartbeat, next float64 // seconds; 0: never
			state                        activity.State
			attempt, done, abandoned     int
			failure                      error
		}{
			{at: 4, state: waiting},
			{at: 5.5, state: running, attempt: 1, started: 5},
			{at: 6.5, state: running, attempt: 1, started: 5, heartbeat: 6, done: 3},
			{at: 8, state: backing, attempt: 1, started: 5, heartbeat: 6, done: 3, failure: io.EOF, next: 11},
			{at: 12.5, state: running, attempt: 2, started: 11, heartbeat: 6, done: 3, failure: io.EOF},
			{at: 22, state: blocked, attempt: 2, started: 11, heartbeat: 6, done: 3, failure: context.DeadlineExceeded, abandoned: 1},
			{at: 30.5, state: running, attempt: 3, started: 30, heartbeat: 6, done: 3, failure: context.DeadlineExceeded},
			{at: 32, state: completed, attempt: 3, started: 30, heartbeat: 6, done: 3, failure: context.DeadlineExceeded},
		} {
			if tt.attempt == 3 && tt.state == running {
				time.Sleep(time.Until(base.Add(30 * time.Second)))
				close(release)
			}
			time.Sleep(time.Until(base.Add(time.Duration(tt.at * float64(time.Second)))))
			synctest.Wait()
			got := h.Status()
			when := func(s float64) (w time.Time) {
				if s > 0 {
					w = base.Add(time.Duration(s * float64(time.Second)))
				}
				return w
			}
			var p activity.RangeProgress
			total := 0
			if ok, err := got.HeartbeatDetails(&p); err != nil || ok != (tt.done > 0) || ok && !reflect.DeepEqual(p, activity.RangeProgress{Next: 5, To: 12}) {
				t.Errorf("at %v: details %v, %t, %v", tt.at, p, ok, err)
			} else if ok {
				total = 10
			}
			if got.ID != "it" || got.Name != "job" || got.State != tt.state || got.Attempt != tt.attempt || got.Done != tt.done || got.Total != total || got.Abandoned != tt.abandoned ||
				!got.ScheduledAt.Equal(base) || !got.StartedAt.Equal(when(tt.started)) || !got.LastHeartbeat.Equal(when(tt.heartbeat)) || !got.NextAttempt.Equal(when(tt.next)) ||
				!errors.Is(got.LastFailure, tt.failure) {
				t.Errorf("at %v: %+v\nwant %+v", tt.at, got, tt)
			}
			listed := false
			for _, s := range rt.Activities() {
				listed = listed || s.ID == "it" && s.State == tt.state && s.Attempt == tt.attempt
			}
			if listed != (tt.state != completed) {
				t.Errorf("at %v: among the Activities %t, in state %s", tt.at, listed, tt.state)
			}
		}
	})
}

// Given a failed activity, then its Status has the failure, and the function's name if no
// Name was given.
func TestStatus_OfFailedActivity(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(activity.Context) error { return activity.NonRetryable(io.EOF) })
		<-h.Done()
		if s := h.Status(); s.State != activity.StateFailed || !errors.Is(s.LastFailure, io.EOF) || !strings.Contains(s.Name, "startWith") || s.ID == "" {
			t.Errorf("%+v", s)
		}
	})
}

// Given activities that start and end, then Activities lists those that have not ended,
// oldest first.
func TestActivities_OldestFirst(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, rt *activity.Runtime) {
		ids := func() string {
			var ids []string
			for _, s := range rt.Activities() {
				ids = append(ids, s.ID)
			}
			return strings.Join(ids, " ")
		}
		handles := map[string]*activity.Handle[string]{}
		for _, id := range strings.Fields("c a e b d") {
			handles[id] = start(t, rt, activity.Options{ID: id}, untilEnded)
		}
		snapshot := rt.Activities()
		for _, step := range []struct{ end, left string }{{"", "c a e b d"}, {"e", "c a b d"}, {"c", "a b d"}, {"d", "a b"}, {"a", "b"}, {"b", ""}} {
			if step.end != "" {
				handles[step.end].Cancel(nil)
				<-handles[step.end].Done()
			}
			if got := ids(); got != step.left {
				t.Errorf("after the end of %q: %q, want %q", step.end, got, step.left)
			}
		}
		if len(snapshot) != 5 || snapshot[0].ID != "c" || snapshot[0].State != activity.StateRunning || snapshot[4].State != activity.StateWaiting {
			t.Errorf("the snapshot has changed: %+v", snapshot)
		}
	})
}

// Given more activities than are described at once, then Activities describes all of them, and
// gives others their turn in between.
func TestActivities_InParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &countingClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Logger: quiet, Clock: c})
		ctx, cancel := context.WithCancel(t.Context())
		for n, parts := range map[int]int64{0: 1, 500: 1, 501: 2, 1001: 3} {
			var ids []string
			for range n {
				ids = append(ids, startWith(t, ctx, rt, activity.Options{}, untilEnded).ID())
			}
			c.reads.Store(0)
			all := rt.Activities()
			if turns := c.reads.Load(); turns != parts {
				t.Errorf("%d activities are described in %d parts, want %d", n, turns, parts)
			}
			var got []string
			for _, s := range all {
				got = append(got, s.ID)
			}
			checkDiff(t, "IDs", got, ids)
			cancel()
			synctest.Wait()
			ctx, cancel = context.WithCancel(t.Context())
		}
		cancel()
	})
}

// Given activities in all states, then Stats counts them, their attempts and their
// heartbeats.
func TestStats_CountsStatesAndEnds(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 2}, func(t *testing.T, rt *activity.Runtime) {
		release := make(chan struct{})
		check := func(what string, want activity.Stats) {
			t.Helper()
			synctest.Wait()
			checkDiff(t, what, rt.Stats(), want)
		}
		check("new", activity.Stats{})
		beat := func(ctx activity.Context) error {
			for range 3 {
				_ = ctx.Heartbeat()
			}
			_ = ctx.Heartbeat(func() {}) // refused, and counted
			return ctx.Sleep(time.Hour)
		}
		a := start(t, rt, activity.Options{}, beat)
		b := start(t, rt, activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}}, func(activity.Context) error { return io.EOF })
		synctest.Wait()
		check("one runs, one backs off", activity.Stats{Running: 1, BackingOff: 1, Scheduled: 2, Attempts: 2, Heartbeats: 4})
		c := start(t, rt, activity.Options{HeartbeatTimeout: time.Second, MaxAbandoned: activity.NoOverlap}, func(ctx activity.Context) error {
			<-release
			_ = ctx.Heartbeat() // not counted: the attempt is over
			return nil
		})
		time.Sleep(time.Second)
		d := start(t, rt, activity.Options{}, untilEnded)
		e := start(t, rt, activity.Options{}, func(activity.Context) error { return activity.NonRetryable(io.EOF) })
		check("one of each", activity.Stats{Running: 2, Waiting: 1, BackingOff: 1, Blocked: 1, Abandoned: 1, Scheduled: 5, Attempts: 4, Heartbeats: 4, Timeouts: 1})
		close(release)
		check("unblocked", activity.Stats{Running: 2, Waiting: 2, BackingOff: 1, Scheduled: 5, Attempts: 4, Heartbeats: 4, Timeouts: 1})
		a.Cancel(nil)
		b.Cancel(nil)
		d.Cancel(nil)
		for _, h := range []*activity.Handle[string]{a, b, c, d, e} {
			<-h.Done()
		}
		check("the end", activity.Stats{Scheduled: 5, Completed: 1, Failed: 1, Canceled: 3, Attempts: 6, Heartbeats: 5, Timeouts: 1})
	})
}

// Given a timeout of each type, then Stats.Timeouts counts it.
func TestStats_CountsEachTimeout(t *testing.T) {
	bubble(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, rt *activity.Runtime) {
		for i, opts := range []activity.Options{
			{HeartbeatTimeout: time.Second, RetryPolicy: once},
			{StartToCloseTimeout: time.Second, RetryPolicy: once},
			{ScheduleToCloseTimeout: time.Second},
		} {
			_ = rt.Run(t.Context(), opts, untilEnded)
			if n := rt.Stats().Timeouts; n != uint64(i+1) {
				t.Errorf("%d timeouts after %d", n, i+1)
			}
		}
		other := start(t, rt, activity.Options{}, untilEnded)
		_ = rt.Run(t.Context(), activity.Options{ScheduleToStartTimeout: time.Second}, untilEnded)
		_ = rt.Run(t.Context(), activity.Options{ScheduleToCloseTimeout: time.Second}, untilEnded)
		if s := rt.Stats(); s.Timeouts != 5 || s.Failed != 5 || s.Attempts != 4 {
			t.Errorf("%+v", s)
		}
		other.Cancel(nil)
		<-other.Done()
	})
}

// Given a slow Logger, when an activity fails, then its line is logged before the caller
// is answered.
func TestLog_LineComesBeforeTheAnswer(t *testing.T) {
	log := &logbook{}
	bubble(t, activity.Config{Logger: slog.New(slowLog{log})}, func(t *testing.T, rt *activity.Runtime) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for i, ctx := range []context.Context{context.WithoutCancel(ctx), ctx} { // one that never ends, and one that can
			err := rt.Run(ctx, activity.Options{RetryPolicy: once}, func(activity.Context) error { return errBoom })
			checkErr(t, err, errBoom)
			if n := log.has(slog.LevelWarn, "attempt failed"); n != i+1 {
				t.Errorf("%d lines, want %d", n, i+1)
			}
		}
	})
}

type slowLog struct{ *logbook }

func (l slowLog) Handle(ctx context.Context, r slog.Record) error {
	time.Sleep(time.Minute)
	return l.logbook.Handle(ctx, r)
}

// Given an Observer that hangs at an event of one activity, then only that activity's
// caller waits for it.
func TestObserver_HangingDelaysOnlyItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal
		gate := make(chan struct{})
		rt := activity.New(activity.Config{Logger: quiet, MaxConcurrent: 2, Observer: func(e activity.Event) {
			if e.ID == "a" {
				<-gate
			}
			j.observe(e)
		}})
		h := start(t, rt, activity.Options{ID: "a"}, func(ctx activity.Context) error {
			for i := range 3 {
				if err := ctx.Heartbeat(i); err != nil {
					return err
				}
			}
			return untilEnded(ctx)
		})
		synctest.Wait()
		checkState(t, h, activity.StateRunning)
		checkDetails(t, h.Status(), 2)
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "b"}, func(ctx activity.Context) error { return ctx.Heartbeat() }), nil)
		h.Cancel(errCancel)
		synctest.Wait()
		checkState(t, h, activity.StateCanceled)
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "b"}, noop), nil)
		select {
		case <-h.Done():
			t.Error("the answer came before the last event was told")
		default:
		}
		if kinds := j.kinds("a"); kinds != nil {
			t.Errorf("the Observer went on: %v", kinds)
		}
		close(gate)
		checkEnd(t, wait(t, h), 1, activity.RetryStateCancelRequested, errCancel)
		checkDiff(t, "events", j.kinds("a"), []activity.EventKind{
			activity.EventScheduled, activity.EventAttemptStarted,
			activity.EventHeartbeat, activity.EventHeartbeat, activity.EventHeartbeat,
			activity.EventCanceled,
		})
	})
}

// Given an Observer that takes a lock, when the goroutine that calls the Runtime holds
// it, then the call returns.
func TestObserver_TakesCallersLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := make(chan struct{}, 1) // a mutex that a bubble knows how to wait for
		rt := activity.New(activity.Config{Logger: quiet, Observer: func(activity.Event) {
			lock <- struct{}{}
			<-lock
		}})
		lock <- struct{}{}
		ended := start(t, rt, activity.Options{}, untilEnded)
		waits := start(t, rt, activity.Options{}, func(activity.Context) error { return activity.RetryAfter(errBoom, time.Hour) })
		time.Sleep(time.Second)
		ended.Cancel(errCancel)
		waits.Cancel(errCancel)
		rt.Stats()
		<-lock
		checkErr(t, wait(t, ended), errCancel)
		checkErr(t, wait(t, waits), errCancel)
	})
}

// Rule 24. Given an Observer that calls runtime.Goexit at an event of one activity, when
// another activity's function caused the event, then that function is not touched.
func TestObserver_GoexitTouchesNoOtherActivity(t *testing.T) {
	cfg := activity.Config{Observer: func(e activity.Event) {
		if e.ID == "b" {
			runtime.Goexit()
		}
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{ID: "a", RetryPolicy: once}, func(ctx activity.Context) error {
			b := start(t, rt, activity.Options{ID: "b"}, untilEnded)
			b.Status()
			b.Cancel(errCancel)
			checkEnd(t, wait(t, b), 1, activity.RetryStateCancelRequested, errCancel)
			return nil
		})
		checkErr(t, err, nil)
	})
}

// Given heartbeats that overtake each other on the real clock, then the times of the
// events never run backwards.
func TestEvents_TimesNeverRunBackwards(t *testing.T) {
	for range 10 {
		var j journal
		rt := activity.New(activity.Config{Logger: quiet, Observer: j.observe})
		err := rt.Run(t.Context(), activity.Options{}, func(ctx activity.Context) error {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for range 100 {
						_ = ctx.Heartbeat()
					}
				})
			}
			wg.Wait()
			return nil
		})
		checkErr(t, err, nil)
		if n := len(j.of(activity.EventHeartbeat)); n != 800 {
			t.Errorf("%d heartbeats were told, want 800", n)
		}
		checkTimes(t, j.all())
	}
}

// Given an activity whose start is refused after its checkpoint was looked at, then
// Stats.Scheduled counts it at no time.
func TestStats_ScheduledOnlyGrows(t *testing.T) {
	s := newStore(t)
	bubble(t, activity.Config{Store: s}, func(t *testing.T, rt *activity.Runtime) {
		check := func(when string, want uint64) {
			t.Helper()
			if got := rt.Stats().Scheduled; got != want {
				t.Errorf("%s: %d are scheduled, want %d", when, got, want)
			}
		}
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "a"}, noop), nil)
		check("one has completed", 1)
		for _, method := range []string{"Load", "Save"} {
			open := make(chan struct{})
			s.on(method, func(context.Context) error { <-open; return errDisk })
			go func() { checkErr(t, rt.Run(t.Context(), activity.Options{ID: "b"}, noop), errDisk) }()
			synctest.Wait()
			check("before it is refused", 1)
			s.on(method, nil)
			close(open)
			synctest.Wait()
			check("a start is refused", 1)
		}
		checkErr(t, rt.Run(t.Context(), activity.Options{ID: "b"}, noop), nil)
		check("another one has completed", 2)
		checkErr(t, rt.Run(t.Context(), activity.Options{}, noop), nil)
		check("one that is not stored has completed", 3)
	})
}

// exitHandler is a slog.Handler that keeps what is logged and calls runtime.Goexit.
type exitHandler struct{ *logbook }

func (h exitHandler) Handle(ctx context.Context, r slog.Record) error {
	_ = h.logbook.Handle(ctx, r)
	runtime.Goexit()
	return nil
}

// Rule 24. Given a Logger that calls runtime.Goexit, then each event is delivered, and
// each line is logged. The other way round it is the same.
func TestObserver_LoggerThatCallsGoexit(t *testing.T) {
	for _, observerExits := range []bool{false, true} {
		log := &logbook{}
		logger := slog.New(exitHandler{log})
		if observerExits {
			logger = slog.New(log)
		}
		synctest.Test(t, func(t *testing.T) {
			j := journal{base: time.Now()}
			rt := activity.New(activity.Config{Logger: logger, Observer: func(e activity.Event) {
				j.observe(e)
				if observerExits {
					runtime.Goexit()
				}
			}})
			err := rt.Run(t.Context(), activity.Options{ID: "a", RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}}, func(activity.Context) error { return errBoom })
			checkErr(t, err, errBoom)
			checkDiff(t, "events", j.lines("a"), []string{
				"0s scheduled 0",
				"0s attempt started 1",
				"0s attempt failed 1: boom, next in 1s",
				"1s attempt started 2",
				"1s attempt failed 2: boom, next in 0s",
				"1s failed 2: boom, maximum attempts reached",
			})
			if n := log.has(slog.LevelWarn, "attempt failed", "boom"); n != 2 {
				t.Errorf("%d attempts are logged, want 2", n)
			}
		})
	}
}

// Given an Observer that is slow to take the last event of an activity, when other
// executions of its ID run meanwhile, then their events come later, and their callers wait
// for them. What the activity has left can be listed and forgotten before.
func TestEvents_OfNextExecutionFollow(t *testing.T) {
	for _, stored := range []bool{false, true} {
		t.Run(fmt.Sprint("stored ", stored), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, cfg, s := make(chan struct{}), activity.Config{Logger: quiet}, newStore(t)
				j := journal{base: time.Now()}
				cfg.Observer = func(e activity.Event) {
					if e.Kind == activity.EventFailed {
						<-gate
					}
					j.observe(e)
				}
				if stored {
					cfg.Store = s
				}
				rt := activity.New(cfg)
				opts := atMost(1)
				h := []*activity.Handle[string]{start(t, rt, opts, func(activity.Context) error { return errBoom })}
				synctest.Wait()
				checkState(t, h[0], activity.StateFailed)
				if stored {
					var left []string
					for cp := range rt.Checkpoints(t.Context()) {
						left = append(left, cp.ID)
					}
					checkDiff(t, "checkpoints", left, []string{opts.ID})
				}
				checkErr(t, rt.Forget(t.Context(), opts.ID), nil)
				for range 2 {
					time.Sleep(time.Second)
					h = append(h, start(t, rt, opts, func(ctx activity.Context) error { return ctx.Heartbeat() }))
					synctest.Wait()
					checkSaving(t, h[len(h)-1], activity.StateCompleted)
				}
				close(gate)
				checkErr(t, wait(t, h[2]), nil)
				checkErr(t, wait(t, h[1]), nil)
				checkErr(t, wait(t, h[0]), errBoom)
				checkDiff(t, "events", j.lines(opts.ID, activity.EventHeartbeat), []string{
					"0s scheduled 0",
					"0s attempt started 1",
					"0s attempt failed 1: boom, next in 0s",
					"0s failed 1: boom, maximum attempts reached",
					"1s scheduled 0",
					"1s attempt started 1",
					"1s completed 1",
					"2s scheduled 0",
					"2s attempt started 1",
					"2s completed 1",
				})
				if stored {
					s.want(activity.Checkpoint{ID: opts.ID})
				}
			})
		})
	}
}

// failsSlowly runs an activity that fails, with the ID of atMost. Its last event is delivered
// when gate is closed.
func failsSlowly(t *testing.T, s activity.Store) (rt *activity.Runtime, j *journal, gate chan struct{}) {
	j, gate = &journal{}, make(chan struct{})
	rt = activity.New(activity.Config{Store: s, Logger: quiet, Observer: func(e activity.Event) {
		if e.Kind == activity.EventFailed {
			<-gate
		}
		j.observe(e)
	}})
	start(t, rt, atMost(1), func(activity.Context) error { return errBoom })
	synctest.Wait()
	return rt, j, gate
}

// Given an activity whose last event is not delivered, when its ID is forgotten, and the
// event delivered before that is done or after it, then the events of the next execution
// follow it.
func TestEvents_FollowLastEventAfterForget(t *testing.T) {
	for _, deliveredFirst := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newStore(t)
			rt, j, gate := failsSlowly(t, s)
			open := s.block("Delete")
			forgotten := make(chan error)
			go func() { forgotten <- rt.Forget(t.Context(), "a1") }()
			synctest.Wait()
			if deliveredFirst {
				close(gate)
				synctest.Wait()
			}
			open()
			checkErr(t, <-forgotten, nil)
			h := start(t, rt, atMost(1), noop)
			synctest.Wait()
			if !deliveredFirst {
				checkSaving(t, h, activity.StateCompleted)
				close(gate)
			}
			checkErr(t, wait(t, h), nil)
			checkDiff(t, "events", j.kinds("a1")[3:5], []activity.EventKind{activity.EventFailed, activity.EventScheduled})
		})
	}
}

// Given an activity whose last event is not delivered, when its function leaves Guard, then
// the events of the next execution follow that event.
func TestEvents_FollowLastEventAfterGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, guard := make(chan struct{}), make(chan struct{})
		var j journal
		rt := activity.New(activity.Config{Logger: quiet, Observer: func(e activity.Event) {
			if e.Kind == activity.EventFailed {
				<-gate
			}
			j.observe(e)
		}})
		opts := activity.Options{ID: "a", StartToCloseTimeout: time.Second, RetryPolicy: once}
		start(t, rt, opts, func(ctx activity.Context) error {
			return activity.Guard(ctx, func() error { <-guard; return nil })
		})
		time.Sleep(time.Second)
		synctest.Wait()
		checkErr(t, rt.Run(t.Context(), opts, noop), activity.ErrAlreadyRunning)
		close(guard)
		synctest.Wait()
		h := start(t, rt, opts, noop)
		synctest.Wait()
		checkSaving(t, h, activity.StateCompleted)
		close(gate)
		checkErr(t, wait(t, h), nil)
		kinds := slices.DeleteFunc(j.kinds("a"), func(k activity.EventKind) bool { return k != activity.EventFailed && k != activity.EventScheduled })
		checkDiff(t, "events", kinds, []activity.EventKind{activity.EventScheduled, activity.EventFailed, activity.EventScheduled})
	})
}

// Given an activity whose last event is still being delivered, when a start of its ID is
// refused and another one follows, then the events of that one come after the last event.
func TestEvents_FollowLastEventAfterRefusedStart(t *testing.T) {
	for _, how := range []string{"store fails", "mismatch", "canceled"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStore(t)
				rt, j, gate := failsSlowly(t, s)
				switch how {
				case "store fails":
					s.on("Save", failing)
					if err := rt.Run(t.Context(), atMost(1), noop); !errors.Is(err, errDisk) {
						t.Fatal(err)
					}
					s.on("Save", nil)
				case "mismatch":
					other := atMost(1)
					other.Name = "other"
					checkErr(t, rt.Run(t.Context(), other, noop), activity.ErrCheckpointMismatch)
				case "canceled":
					open := s.block("Load")
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Second, func() { cancel(); open() })
					checkErr(t, rt.Run(ctx, atMost(1), noop), context.Canceled)
				}
				time.Sleep(time.Minute)
				start(t, rt, atMost(1), noop)
				synctest.Wait()
				close(gate)
				synctest.Wait()
				kinds := slices.DeleteFunc(j.kinds("a1"), func(k activity.EventKind) bool { return k != activity.EventFailed && k != activity.EventScheduled })
				checkDiff(t, "events", kinds, []activity.EventKind{activity.EventScheduled, activity.EventFailed, activity.EventScheduled})
			})
		})
	}
}

// Given a Forget whose Delete fails, then Stats.SaveFailures counts it.
func TestStats_SaveFailuresCountsForget(t *testing.T) {
	durable(t, limits, func(t *testing.T, e *env, s *faultyStore) {
		s.on("Delete", failing)
		checkErr(t, e.rt.Forget(e.ctx, "x"), errDisk)
		if got := e.rt.Stats(); got.SaveFailures != 1 {
			t.Errorf("SaveFailures is %d after a Delete that failed", got.SaveFailures)
		}
	})
}
