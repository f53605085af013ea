package activity_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var (
	errHB     = errors.New("the attempt fails")
	errHBStop = errors.New("stop it")
)

// hbBubble runs body in a bubble, with a Runtime that logs nothing.
func hbBubble(t *testing.T, cfg activity.Config, body func(t *testing.T, rt *activity.Runtime)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Logger == nil {
			cfg.Logger = slog.New(slog.DiscardHandler)
		}
		body(t, activity.New(cfg))
	})
}

func hbStart(t *testing.T, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) *activity.Handle[struct{}] {
	t.Helper()
	if opts.RetryPolicy.MaximumAttempts == 0 {
		opts.RetryPolicy.MaximumAttempts = 20 // a broken rule must not retry for ever
	}
	h, err := activity.Start(t.Context(), rt, opts, func(ctx activity.Context, _ struct{}) (struct{}, error) {
		return struct{}{}, fn(ctx)
	}, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func hbWait(t *testing.T, h *activity.Handle[struct{}]) error {
	t.Helper()
	_, err := h.Wait(t.Context())
	return err
}

func hbRun(t *testing.T, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) error {
	t.Helper()
	return hbWait(t, hbStart(t, rt, opts, fn))
}

// hbSaw reports an error unless what ctx resumes from is want.
func hbSaw[T any](t *testing.T, ctx activity.Context, want T) {
	t.Helper()
	var got T
	found, err := ctx.HeartbeatDetails(&got)
	if diff := cmp.Diff(want, got); diff != "" || !found || err != nil {
		t.Errorf("attempt %d: HeartbeatDetails gave %v, %v; -want +got:\n%s", ctx.Info().Attempt, found, err, diff)
	}
}

// hbNotRetried reports an error unless err ended the activity in attempt.
func hbNotRetried(t *testing.T, err error, attempt int) {
	t.Helper()
	e := (*activity.Error)(nil)
	if !errors.As(err, &e) || e.RetryState != activity.RetryStateNonRetryableFailure || e.Attempt != attempt {
		t.Errorf("got %v, want a non-retryable failure of attempt %d", err, attempt)
	}
}

// hbLog counts what is logged at level Error.
type hbLog struct {
	slog.Handler
	errors atomic.Int64
}

func newHBLog() *hbLog { return &hbLog{Handler: slog.DiscardHandler} }

func (l *hbLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *hbLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *hbLog) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		l.errors.Add(1)
	}
	return nil
}

// hbRaw is a Codec for []byte values, which it stores as they are.
type hbRaw struct{}

func (hbRaw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (hbRaw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

// hbRecord returns the opaque form in which values, encoded, are recorded.
func hbRecord(t *testing.T, values ...string) (details []byte) {
	t.Helper()
	hbBubble(t, activity.Config{Codec: hbRaw{}}, func(t *testing.T, rt *activity.Runtime) {
		var raw []any
		for _, v := range values {
			raw = append(raw, []byte(v))
		}
		opts := activity.Options{StartToCloseTimeout: 1, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
		err := hbRun(t, rt, opts, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(raw...); err != nil {
				t.Error(err)
			}
			return ctx.Sleep(time.Hour)
		})
		if timeout := (*activity.TimeoutError)(nil); errors.As(err, &timeout) {
			details = timeout.Details
		}
	})
	if details == nil {
		t.Fatal("nothing was recorded")
	}
	return details
}

func TestRule1DetailsAreEncodedAtOnce(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				hbSaw(t, ctx, []int{1, 2})
				return nil
			}
			details := []int{1, 2}
			if err := ctx.Heartbeat(&details); err != nil {
				t.Error(err)
			}
			details[0] = 100
			details = append(details, 3)
			return errHB
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRule1NewestDetailsWinAndArePassedOn(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				for i := range 12 {
					if err := ctx.Heartbeat(i); err != nil {
						t.Error(err)
					}
				}
				return errHB
			case 2: // records none
				hbSaw(t, ctx, 11)
				return errHB
			case 3: // neither
				hbSaw(t, ctx, 11)
				if err := ctx.Heartbeat(); err != nil {
					t.Error(err)
				}
				return errHB
			case 4:
				hbSaw(t, ctx, 11)
				if err := ctx.Heartbeat("a value of another type and size"); err != nil {
					t.Error(err)
				}
				hbSaw(t, ctx, 11) // what it resumes from stays
				return errHB
			}
			hbSaw(t, ctx, "a value of another type and size")
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRule2HeartbeatWithoutDetailsKeepsThem(t *testing.T) {
	for name, details := range map[string][]any{"none": nil, "empty": {}, "nil": {nil}} {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat(details...); err != nil {
						t.Error(err)
					}
					if found, err := rt.Activities()[0].HeartbeatDetails(); found || err != nil {
						t.Errorf("before any details: %v, %v", found, err)
					}
					if err := ctx.Heartbeat(7, "x"); err != nil {
						t.Error(err)
					}
					for range 3 { // each of them is a heartbeat
						if err := ctx.Sleep(10*time.Second - 1); err != nil {
							t.Error(err)
						}
						if err := ctx.Heartbeat(details...); err != nil {
							t.Error(err)
						}
					}
					return nil
				})
				if err := hbWait(t, h); err != nil {
					t.Error(err)
				}
				var n int
				var s string
				if found, err := h.Status().HeartbeatDetails(&n, &s); !found || err != nil || n != 7 || s != "x" {
					t.Errorf("got %v, %v: %d, %q", found, err, n, s)
				}
			})
		})
	}
}

// A nil with a type is a value, and so are two nils.
func TestRule2TypedNilIsRecorded(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			switch ctx.Info().Attempt {
			case 1:
				if err := ctx.Heartbeat(1); err != nil {
					t.Error(err)
				}
				if err := ctx.Heartbeat((*int)(nil)); err != nil {
					t.Error(err)
				}
				return errHB
			case 2:
				seven := 7
				if p, err := activity.Resume(ctx, &seven); p != nil || err != nil {
					t.Errorf("resumed from %v, %v, want a nil pointer", p, err)
				}
				if err := ctx.Heartbeat(nil, nil); err != nil {
					t.Error(err)
				}
				return errHB
			}
			var p, q *int
			if found, err := ctx.HeartbeatDetails(&p, &q); !found || err != nil || p != nil || q != nil {
				t.Errorf("got %v, %v, %v, %v, want two nils", found, err, p, q)
			}
			n, err := activity.Resume(ctx, 5)
			if n != 5 || err == nil {
				t.Errorf("a null became %d, %v", n, err)
			}
			return err
		})
		hbNotRetried(t, err, 3)
	})
}

type hbPanics struct{}

func (hbPanics) MarshalJSON() ([]byte, error) { panic(errHB) }

type hbFails struct{}

func (hbFails) MarshalJSON() ([]byte, error) { return nil, errHB }

func TestRule3DetailsThatCannotBeEncoded(t *testing.T) {
	for name, bad := range map[string][]any{
		"channel":            {make(chan int)},
		"NaN":                {math.NaN()},
		"second of two":      {1, func() {}},
		"first of two":       {func() {}, 1},
		"MarshalJSON fails":  {hbFails{}},
		"MarshalJSON panics": {hbPanics{}},
	} {
		t.Run(name, func(t *testing.T) {
			log := newHBLog()
			hbBubble(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat("kept"); err != nil {
						t.Error(err)
					}
					for range 3 { // it counts as alive, and moves the deadline
						if err := ctx.Sleep(10*time.Second - 1); err != nil {
							t.Error(err)
						}
						if err := ctx.Heartbeat(bad...); err == nil || ctx.Err() != nil {
							t.Errorf("Heartbeat returned %v, and the context ended with %v", err, context.Cause(ctx))
						}
					}
					return fmt.Errorf("wrapped: %w", ctx.Heartbeat(bad...))
				})
				err := hbWait(t, h)
				hbNotRetried(t, err, 1)
				if strings.HasPrefix(name, "MarshalJSON") && !errors.Is(err, errHB) {
					t.Errorf("%v does not wrap the encoder's error", err)
				}
				var kept string
				if found, err := h.Status().HeartbeatDetails(&kept); !found || err != nil || kept != "kept" {
					t.Errorf("recorded are %v, %v: %q", found, err, kept)
				}
				if n := rt.Stats().Heartbeats; n != 5 {
					t.Errorf("%d heartbeats were counted, want 5", n)
				}
				if logged := log.errors.Load() > 0; logged != (name == "MarshalJSON panics") {
					t.Errorf("an Error was logged: %v", logged)
				}
			})
		})
	}
}

func TestRule3DeadlineAfterAFailingHeartbeat(t *testing.T) {
	for _, bad := range []any{make(chan int), strings.Repeat("x", 100)} {
		hbBubble(t, activity.Config{MaxDetailsSize: 50}, func(t *testing.T, rt *activity.Runtime) {
			opts := activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
			start := time.Now()
			err := hbRun(t, rt, opts, func(ctx activity.Context) error {
				if err := ctx.Sleep(9 * time.Second); err != nil {
					t.Error(err)
				}
				if err := ctx.Heartbeat(bad); err == nil {
					t.Error("the heartbeat did not fail")
				}
				if err := ctx.Sleep(10*time.Second - 1); err != nil {
					t.Errorf("1 ns before the deadline: %v", err)
				}
				return ctx.Sleep(time.Hour)
			})
			timeout := (*activity.TimeoutError)(nil)
			if !errors.As(err, &timeout) || timeout.Type != activity.TimeoutHeartbeat {
				t.Errorf("got %v, want a heartbeat timeout", err)
			}
			if d := time.Since(start); d != 19*time.Second {
				t.Errorf("timed out after %s, want 19s", d)
			}
		})
	}
}

func TestRule3DetailsThatAreTooLarge(t *testing.T) {
	longest := len(strconv.Itoa(math.MinInt))
	tests := []struct {
		limit   int
		details []any
		fits    bool
	}{
		{10, []any{"1234567"}, true}, // and two quotes
		{10, []any{"12345678"}, true},
		{10, []any{"123456789"}, false},
		{10, []any{"1234", 123}, true},
		{10, []any{"1234", 1234}, true},
		{10, []any{"1234", 12345}, false},
		{0, []any{strings.Repeat("x", 2<<20-3)}, true},
		{0, []any{strings.Repeat("x", 2<<20-2)}, true},
		{0, []any{strings.Repeat("x", 2<<20-1)}, false},
		{1, []any{9}, true},
		{1, []any{10}, false},
		{1, []any{-1}, false},
		{2, []any{10}, true},
		{longest - 1, []any{math.MinInt}, false},
		{longest, []any{math.MinInt}, true},
		{longest + 1, []any{math.MinInt}, true},
		{19, []any{int64(math.MinInt64)}, false},
		{20, []any{int64(math.MinInt64)}, true},
		{21, []any{int64(math.MinInt64)}, true},
		{19, []any{math.MaxInt}, true},
	}
	for i, test := range tests {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			hbBubble(t, activity.Config{MaxDetailsSize: test.limit}, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat(0); err != nil {
						t.Error(err)
					}
					return ctx.Heartbeat(test.details...)
				})
				err := hbWait(t, h)
				if test.fits {
					if err != nil {
						t.Errorf("limit %d: %.100v", test.limit, err)
					}
					return
				}
				hbNotRetried(t, err, 1)
				if !errors.Is(err, activity.ErrDetailsTooLarge) {
					t.Errorf("%v is not ErrDetailsTooLarge", err)
				}
				kept := -1
				if found, err := h.Status().HeartbeatDetails(&kept); !found || err != nil || kept != 0 {
					t.Errorf("recorded are %v, %v: %d, want 0", found, err, kept)
				}
			})
		})
	}
}

func TestRule4HeartbeatReturnsTheCause(t *testing.T) {
	tests := map[string]struct {
		opts  activity.Options
		check func(error) bool
	}{
		"heartbeat":         {activity.Options{HeartbeatTimeout: time.Minute}, hbTimeout(activity.TimeoutHeartbeat)},
		"start to close":    {activity.Options{StartToCloseTimeout: time.Minute}, hbTimeout(activity.TimeoutStartToClose)},
		"schedule to close": {activity.Options{ScheduleToCloseTimeout: time.Minute}, hbTimeout(activity.TimeoutScheduleToClose)},
		"canceled":          {activity.Options{}, func(err error) bool { return err == errHBStop }},
		"given up":          {activity.Options{CancelGrace: 1}, func(err error) bool { return err == errHBStop }},
		"returned":          {activity.Options{}, func(err error) bool { return errors.Is(err, context.Canceled) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				var late activity.Context
				check := func() {
					t.Helper()
					for _, details := range [][]any{nil, {1}, {1, 2}, {make(chan int)}} {
						err := late.Heartbeat(details...)
						if err != context.Cause(late) || !test.check(err) {
							t.Errorf("Heartbeat returned %v, and the cause is %v", err, context.Cause(late))
						}
					}
				}
				test.opts.RetryPolicy.MaximumAttempts = 1
				h := hbStart(t, rt, test.opts, func(ctx activity.Context) error {
					late = ctx
					if name == "returned" {
						return nil
					}
					<-ctx.Done()
					check()
					time.Sleep(time.Second)
					check()
					return nil
				})
				synctest.Wait()
				if name == "canceled" || name == "given up" {
					h.Cancel(errHBStop)
				}
				hbWait(t, h)
				time.Sleep(time.Hour)
				check() // also after the function has returned
			})
		})
	}
}

func hbTimeout(typ activity.TimeoutType) func(error) bool {
	return func(err error) bool {
		e, ok := err.(*activity.TimeoutError)
		return ok && e.Type == typ
	}
}

func TestRule4CanceledAttemptStillRecords(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(1); err != nil {
				t.Error(err)
			}
			<-ctx.Done()
			time.Sleep(5 * time.Second) // no timeout runs any more
			return ctx.Heartbeat(2)
		})
		synctest.Wait()
		h.Cancel(errHBStop)
		if err := hbWait(t, h); !errors.Is(err, errHBStop) {
			t.Error(err)
		}
		var n int
		if found, err := h.Status().HeartbeatDetails(&n); !found || err != nil || n != 2 {
			t.Errorf("recorded are %v, %v: %d, want 2", found, err, n)
		}
	})
}

// At the instant of its timeout an attempt is over.
func TestRule4FencedAttemptRecordsNothing(t *testing.T) {
	for _, opts := range []activity.Options{
		{HeartbeatTimeout: time.Minute},
		{StartToCloseTimeout: time.Minute},
	} {
		for _, early := range []time.Duration{1, 0, -1} {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				want := 1
				if early > 0 {
					want = 2
				}
				second := make(chan struct{})
				h := hbStart(t, rt, opts, func(ctx activity.Context) error {
					if ctx.Info().Attempt == 2 {
						hbSaw(t, ctx, want)
						<-second
						hbSaw(t, ctx, want)
						return nil
					}
					if err := ctx.Heartbeat(1); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Minute - early)
					if err := ctx.Heartbeat(2); (err == nil) != (early > 0) {
						t.Errorf("%s before the timeout: %v", early, err)
					}
					<-ctx.Done()
					time.Sleep(30 * time.Second)
					for i := range 3 {
						ctx.Heartbeat(100+i, "fenced")
					}
					close(second)
					return nil
				})
				if err := hbWait(t, h); err != nil {
					t.Error(err)
				}
				var n int
				if found, err := h.Status().HeartbeatDetails(&n); !found || err != nil || n != want {
					t.Errorf("recorded are %v, %v: %d, want %d", found, err, n, want)
				}
				synctest.Wait()
			})
		}
	}
}

// hbReverse is a Codec of its own format: the JSON, reversed.
type hbReverse struct{}

func (hbReverse) Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return hbReversed(data), err
}

func (hbReverse) Unmarshal(data []byte, v any) error { return json.Unmarshal(hbReversed(data), v) }

func hbReversed(data []byte) []byte {
	var r []byte
	for i := range data {
		r = append(r, data[len(data)-1-i])
	}
	return r
}

// Every value goes through the Codec, plain ints too, and everywhere where details are read.
func TestRule1CustomCodec(t *testing.T) {
	var events atomic.Int64
	cfg := activity.Config{Codec: hbReverse{}, Observer: func(e activity.Event) {
		n, s := 0, ""
		if found, err := e.HeartbeatDetails(&n, &s); err != nil || found != (e.Kind == activity.EventHeartbeat) || found && (n != 123 || s != "ab") {
			t.Errorf("%s: %v, %v: %d, %q", e.Kind, found, err, n, s)
		} else if found {
			events.Add(1)
		}
	}}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		var timeout *activity.TimeoutError
		h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Second, HeartbeatDetails: []any{12}}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				hbSaw(t, ctx, 12)
				if err := ctx.Heartbeat(123, "ab"); err != nil {
					t.Error(err)
				}
				return ctx.Sleep(time.Hour)
			}
			timeout = ctx.Info().LastFailure.(*activity.TimeoutError)
			hbSaw(t, ctx, 123)
			return nil
		})
		if err := hbWait(t, h); err != nil {
			t.Error(err)
		}
		for name, read := range map[string]func(into ...any) (bool, error){
			"Status":       h.Status().HeartbeatDetails,
			"TimeoutError": timeout.HeartbeatDetails,
			"Checkpoint": func(into ...any) (bool, error) {
				return activity.Checkpoint{Details: timeout.Details}.HeartbeatDetails(hbReverse{}, into...)
			},
		} {
			n, s := 0, ""
			if found, err := read(&n, &s); !found || err != nil || n != 123 || s != "ab" {
				t.Errorf("%s: %v, %v: %d, %q", name, found, err, n, s)
			}
		}
		if events.Load() != 1 {
			t.Errorf("%d heartbeat events with details, want 1", events.Load())
		}
	})
}

type hbPanicCodec struct{ marshal, unmarshal bool }

func (c hbPanicCodec) Marshal(v any) ([]byte, error) {
	if c.marshal {
		panic("Marshal")
	}
	return json.Marshal(v)
}

func (c hbPanicCodec) Unmarshal(data []byte, v any) error {
	if c.unmarshal {
		panic("Unmarshal")
	}
	return json.Unmarshal(data, v)
}

// A Codec that panics is logged and taken for one that fails: rules 3 and 5.
func TestRule3PanickingCodec(t *testing.T) {
	for _, codec := range []hbPanicCodec{{marshal: true}, {unmarshal: true}} {
		log := newHBLog()
		hbBubble(t, activity.Config{Codec: codec, Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
			h := hbStart(t, rt, activity.Options{}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					if err := ctx.Heartbeat(1); err != nil {
						return err
					}
					return errHB
				}
				_, err := activity.Resume(ctx, 5)
				return err
			})
			attempt := 1
			if codec.unmarshal {
				attempt = 2
			}
			err := hbWait(t, h)
			hbNotRetried(t, err, attempt)
			if p := (*activity.PanicError)(nil); !errors.As(err, &p) || len(p.Stack) == 0 {
				t.Errorf("%v tells nothing of the panic", err)
			}
			if log.errors.Load() == 0 {
				t.Error("nothing was logged")
			}
			if found, err := h.Status().HeartbeatDetails(new(int)); codec.unmarshal && (found || err == nil) {
				t.Errorf("Status: %v, %v", found, err)
			}
		})
	}
}

// Many goroutines beat at once: none is lost, and the last one wins.
func TestRule1ConcurrentHeartbeats(t *testing.T) {
	const workers, each = 8, 50
	type beat struct{ Worker, I int }
	next := [workers]int{}
	var last beat
	cfg := activity.Config{Observer: func(e activity.Event) { // one at a time
		var b beat
		if found, err := e.HeartbeatDetails(&b); err != nil {
			t.Error(err)
		} else if found {
			if b.I != next[b.Worker] {
				t.Errorf("beat %d of worker %d came, want %d", b.I, b.Worker, next[b.Worker])
			}
			next[b.Worker]++
			last = b
		}
	}}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context) error {
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for i := range each {
						if err := ctx.Heartbeat(beat{w, i}); err != nil {
							t.Error(err)
						}
						ctx.HeartbeatDetails()
						rt.Stats()
					}
				})
			}
			wg.Wait()
			return nil
		})
		if err := hbWait(t, h); err != nil {
			t.Error(err)
		}
		var newest beat
		if found, err := h.Status().HeartbeatDetails(&newest); !found || err != nil || newest != last || newest.I != each-1 {
			t.Errorf("recorded are %v, %v: %v, and the last event had %v", found, err, newest, last)
		}
		if n := rt.Stats().Heartbeats; n != workers*each {
			t.Errorf("%d heartbeats were counted, want %d", n, workers*each)
		}
	})
}

// hbClock is a mock whose time can be ahead of its timers, and whose next Now,
// once armed, waits after it has read the time.
type hbClock struct {
	*clock.Mock
	ahead atomic.Int64
	hold  atomic.Pointer[chan struct{}]
}

func (c *hbClock) Now() time.Time {
	now := c.Mock.Now().Add(time.Duration(c.ahead.Load()))
	if hold := c.hold.Swap(nil); hold != nil {
		<-*hold
	}
	return now
}

// hbAhead calls fn in an attempt whose heartbeat timeout is 10 s, at age d, where no timer has run.
func hbAhead(t *testing.T, d time.Duration, fn func(activity.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &hbClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: slog.New(slog.DiscardHandler)})
		opts := activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
		hbRun(t, rt, opts, func(ctx activity.Context) error {
			synctest.Wait() // for Start to have set its timer
			c.ahead.Store(int64(d))
			fn(ctx)
			return nil
		})
		synctest.Wait()
	})
}

// Rules 4 and 7: at the instant of its timeout an attempt is fenced, though no timer has run yet.
func TestRule4HeartbeatBeforeTheTimerRan(t *testing.T) {
	for _, early := range []time.Duration{1, 0} {
		hbAhead(t, 10*time.Second-early, func(ctx activity.Context) {
			err := ctx.Heartbeat(1)
			if early > 0 {
				if err != nil {
					t.Errorf("1 ns before the timeout: %v", err)
				}
				return
			}
			if !hbTimeout(activity.TimeoutHeartbeat)(err) {
				t.Errorf("at the timeout: %v", err)
			} else if found, _ := err.(*activity.TimeoutError).HeartbeatDetails(); found {
				t.Error("at the timeout the details were recorded")
			}
		})
	}
}

// A heartbeat that is held up between reading the clock and noting it must not
// take back a later one of another goroutine (rule 7: the age since the last heartbeat).
func TestRule7OvertakenHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &hbClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: slog.New(slog.DiscardHandler)})
		opts := activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
		got := make(chan activity.Context, 1)
		done := make(chan struct{})
		h := hbStart(t, rt, opts, func(ctx activity.Context) error {
			got <- ctx
			<-done
			return context.Cause(ctx)
		})
		ctx := <-got
		synctest.Wait()

		release := make(chan struct{})
		c.hold.Store(&release)
		go ctx.Heartbeat() // reads 0 s
		synctest.Wait()
		c.Add(5 * time.Second)
		if err := ctx.Heartbeat(); err != nil {
			t.Error(err)
		}
		close(release)
		synctest.Wait()
		c.Add(10*time.Second - 1)
		synctest.Wait()
		if ctx.Err() != nil {
			t.Errorf("1 ns before the age of the last heartbeat reaches the timeout: %v", context.Cause(ctx))
		}
		c.Add(1)
		synctest.Wait()
		if !hbTimeout(activity.TimeoutHeartbeat)(context.Cause(ctx)) {
			t.Errorf("at the timeout the cause is %v", context.Cause(ctx))
		}
		close(done)
		hbWait(t, h)
	})
}

// What was read of the details once does not change when later ones come.
func TestRule1DetailsThatWereReadStay(t *testing.T) {
	var events []activity.Event
	cfg := activity.Config{Observer: func(e activity.Event) {
		if e.Kind == activity.EventHeartbeat {
			events = append(events, e)
		}
	}}
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		type view struct {
			read func(into ...any) (bool, error)
			want string
		}
		var views []view
		h := hbStart(t, rt, activity.Options{HeartbeatTimeout: time.Second, HeartbeatDetails: []any{"aaaa"}}, func(ctx activity.Context) error {
			attempt := ctx.Info().Attempt
			if timeout, ok := ctx.Info().LastFailure.(*activity.TimeoutError); ok {
				views = append(views, view{timeout.HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)})
			}
			if attempt <= 3 {
				views = append(views,
					view{ctx.HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)},
					view{rt.Activities()[0].HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)})
				details := strings.Repeat(string(rune('a'+attempt)), 4)
				if err := ctx.Heartbeat(details); err != nil {
					t.Error(err)
				}
				views = append(views, view{rt.Activities()[0].HeartbeatDetails, details})
				return ctx.Sleep(time.Hour)
			}
			return ctx.Heartbeat("eeee")
		})
		if err := hbWait(t, h); err != nil {
			t.Error(err)
		}
		for i, e := range events {
			views = append(views, view{e.HeartbeatDetails, strings.Repeat(string(rune('b'+i)), 4)})
		}
		if len(views) != 3*4+4 {
			t.Errorf("there are %d views", len(views))
		}
		for i, v := range views {
			var got string
			if found, err := v.read(&got); !found || err != nil || got != v.want {
				t.Errorf("view %d: %v, %v: %q, want %q", i, found, err, got, v.want)
			}
		}
	})
}

type hbStruct struct {
	A int
	B string
}

func TestRule5Resume(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			want := hbStruct{1, "initial"}
			if ctx.Info().Attempt == 2 {
				want = hbStruct{2, ""} // a field that was not recorded stays zero
			}
			if got, err := activity.Resume(ctx, hbStruct{1, "initial"}); got != want || err != nil {
				t.Errorf("attempt %d resumes from %v, %v, want %v", ctx.Info().Attempt, got, err, want)
			}
			if ctx.Info().Attempt == 2 {
				return nil
			}
			if found, err := ctx.HeartbeatDetails(new(int), new(string)); found || err != nil {
				t.Errorf("nothing was recorded: %v, %v", found, err)
			}
			if err := ctx.Heartbeat(struct{ A int }{2}); err != nil {
				t.Error(err)
			}
			return errHB
		})
		if err != nil {
			t.Error(err)
		}
		err = hbRun(t, rt, activity.Options{HeartbeatDetails: []any{hbStruct{3, "given"}, 4}}, func(ctx activity.Context) error {
			hbSaw(t, ctx, hbStruct{3, "given"})
			n := 0
			if found, err := ctx.HeartbeatDetails(new(hbStruct), &n); !found || err != nil || n != 4 {
				t.Errorf("the second value: %v, %v, %d", found, err, n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestRule5OptionsHeartbeatDetailsAreChecked(t *testing.T) {
	hbBubble(t, activity.Config{MaxDetailsSize: 10}, func(t *testing.T, rt *activity.Runtime) {
		for _, details := range [][]any{{func() {}}, {1, hbPanics{}}, {"123456789"}} {
			err := rt.Run(t.Context(), activity.Options{HeartbeatDetails: details}, func(activity.Context) error {
				t.Error("it ran")
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), "HeartbeatDetails") {
				t.Errorf("%v: got %v", details, err)
			}
		}
	})
}

func TestRule5DetailsThatDoNotDecode(t *testing.T) {
	tests := map[string]struct {
		details []any
		into    []any
		ok      bool
	}{
		"as many":                    {[]any{1, "x"}, []any{new(int), new(string)}, true},
		"fewer":                      {[]any{1, "x"}, []any{new(int)}, true},
		"none asked":                 {[]any{1}, nil, true},
		"more":                       {[]any{1}, []any{new(int), new(int)}, false},
		"another type":               {[]any{1}, []any{new(string)}, false},
		"second of another type":     {[]any{1, 2}, []any{new(int), new(string)}, false},
		"unknown field":              {[]any{struct{ A, C int }{1, 2}}, []any{new(hbStruct)}, false},
		"unknown field, deep":        {[]any{[]any{struct{ C int }{2}}}, []any{new([]hbStruct)}, false},
		"a field less":               {[]any{struct{ A int }{1}}, []any{new(hbStruct)}, true},
		"too large a number":         {[]any{300}, []any{new(int8)}, false},
		"a fraction":                 {[]any{1.5}, []any{new(int)}, false},
		"null into an int":           {[]any{(*int)(nil)}, []any{new(int)}, false},
		"null into a string":         {[]any{(*int)(nil)}, []any{new(string)}, false},
		"null into a bool":           {[]any{(*int)(nil)}, []any{new(bool)}, false},
		"null into a float":          {[]any{(*int)(nil)}, []any{new(float64)}, false},
		"null into a struct":         {[]any{(*int)(nil)}, []any{new(hbStruct)}, false},
		"null into an array":         {[]any{(*int)(nil)}, []any{new([2]int)}, false},
		"null into a pointer":        {[]any{(*int)(nil)}, []any{new(*int)}, true},
		"null into a slice":          {[]any{(*int)(nil)}, []any{new([]int)}, true},
		"null into a map":            {[]any{(*int)(nil)}, []any{new(map[string]int)}, true},
		"null into an interface":     {[]any{(*int)(nil)}, []any{new(any)}, true},
		"null into json.RawMessage":  {[]any{(*int)(nil)}, []any{new(json.RawMessage)}, true},
		"null second, into an int":   {[]any{1, (*int)(nil)}, []any{new(int), new(int)}, false},
		"into what is no pointer":    {[]any{1}, []any{5}, false},
		"into nil":                   {[]any{1}, []any{nil}, false},
		"into a nil pointer":         {[]any{1}, []any{(*int)(nil)}, false},
		"null into nil":              {[]any{(*int)(nil)}, []any{nil}, false},
		"null into what is no ptr":   {[]any{(*int)(nil)}, []any{5}, false},
		"null into a nil pointer":    {[]any{(*int)(nil)}, []any{(*int)(nil)}, false},
		"null into a nil **int":      {[]any{(*int)(nil)}, []any{(**int)(nil)}, false},
		"a struct into an interface": {[]any{hbStruct{1, "x"}}, []any{new(any)}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := hbStart(t, rt, activity.Options{HeartbeatDetails: test.details}, func(ctx activity.Context) error {
					found, err := ctx.HeartbeatDetails(test.into...)
					if found != test.ok || (err == nil) != test.ok {
						t.Errorf("got %v, %v", found, err)
					}
					if err != nil {
						return fmt.Errorf("wrapped: %w", err)
					}
					return nil
				})
				if err := hbWait(t, h); test.ok {
					if err != nil {
						t.Error(err)
					}
				} else {
					hbNotRetried(t, err, 1)
				}
			})
		})
	}
}

// What Resume cannot decode is never a silent start from the beginning.
func TestRule5ResumeFailsOnce(t *testing.T) {
	hbBubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Heartbeat("a text"); err != nil {
					t.Error(err)
				}
				return errHB
			}
			n, err := activity.Resume(ctx, 5)
			if n != 5 || err == nil {
				t.Errorf("Resume gave %d, %v", n, err)
			}
			return err
		})
		hbNotRetried(t, err, 2)
	})
}

// The default Codec takes one whole JSON value and nothing after it.
func TestRule5TrailingData(t *testing.T) {
	for value, ok := range map[string]bool{
		"1": true, " 1 ": true, "1\n": true,
		"1 2": false, "1,": false, "1}": false, "1 x": false, "": false, " ": false, "1\x00": false,
		"null": false, " null\n": false,
	} {
		c := activity.Checkpoint{Details: hbRecord(t, value)}
		n := 0
		found, err := c.HeartbeatDetails(nil, &n)
		if found != ok || (err == nil) != ok || ok && n != 1 {
			t.Errorf("%q: %v, %v, %d", value, found, err, n)
		}
	}
}

// Damaged details are an error, however much of them is asked for.
func TestRule5DamagedDetails(t *testing.T) {
	whole := hbRecord(t, "11", "22")
	cases := map[string][]byte{
		"cut in the last value": whole[:len(whole)-1],
		"cut before it":         whole[:len(whole)-2],
		"more at the end":       append(append([]byte{}, whole...), 0xff),
		"a huge length":         binary.AppendUvarint(nil, math.MaxUint64),
		"a length of 2^63":      binary.AppendUvarint(nil, 1<<63),
		"an endless length":     []byte(strings.Repeat("\xff", 20)),
		"empty":                 {},
	}
	for name, details := range cases {
		for asked := range 4 {
			into := []any{new(any), new(any), new(any)}[:asked]
			c := activity.Checkpoint{Details: details}
			if found, err := c.HeartbeatDetails(nil, into...); found {
				t.Errorf("%s, %d values asked for: reports %v, %v", name, asked, found, err)
			}
		}
	}
	if found, err := (activity.Checkpoint{}).HeartbeatDetails(nil, new(int)); found || err != nil {
		t.Errorf("no details: %v, %v", found, err)
	}
}

// hbFrames counts the values in details; -1: they are damaged.
func hbFrames(details []byte) int {
	n := 0
	for ; len(details) > 0; n++ {
		length, size := binary.Uvarint(details)
		if size <= 0 || length > uint64(len(details)-size) {
			return -1
		}
		details = details[size+int(length):]
	}
	return n
}

// Rule 5: no details make HeartbeatDetails panic or tell what was not recorded,
// and rule 1: what Heartbeat records is what it reads.
func FuzzHeartbeatDetails(f *testing.F) {
	f.Add([]byte(nil), uint8(1))
	f.Add([]byte{1, '1'}, uint8(1))
	f.Add([]byte{1, '1', 3, '"', 'x', '"', 2, '{', '}'}, uint8(3))
	f.Add([]byte{4, 'n', 'u', 'l', 'l'}, uint8(2))
	f.Add([]byte{0x81, 0, '1'}, uint8(1))
	f.Add([]byte{5, '1'}, uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), uint8(4))
	f.Fuzz(func(t *testing.T, data []byte, n uint8) {
		c := activity.Checkpoint{Details: data}
		into := []any{new(any), new(int), new(string), new(hbStruct), new(json.RawMessage), new(*int)}
		for first := range into {
			targets := append(append([]any{}, into[first:]...), into[:first]...)[:int(n)%len(into)]
			found, err := c.HeartbeatDetails(nil, targets...)
			if found && (err != nil || hbFrames(data) < max(len(targets), 1)) {
				t.Fatalf("%d values of %q: true, %v", len(targets), data, err)
			}
			if !found && err == nil && len(data) > 0 {
				t.Fatalf("%d values of %q: neither details nor an error", len(targets), data)
			}
		}

		var values []any
		for rest := data; len(values) <= int(n)%4; {
			cut := min(len(rest), int(n)/4)
			values, rest = append(values, rest[:cut:cut]), rest[cut:]
		}
		hbRoundTrip(t, activity.Config{Codec: hbRaw{}}, values)
		hbRoundTrip(t, activity.Config{}, values)
	})
}

// hbRoundTrip records values, which are []byte, and reads them in the next attempt.
func hbRoundTrip(t *testing.T, cfg activity.Config, values []any) {
	t.Helper()
	hbBubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := hbRun(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Heartbeat(values...); err != nil {
					t.Error(err)
				}
				return errHB
			}
			into := make([]any, len(values))
			for i := range into {
				into[i] = new([]byte)
			}
			if found, err := ctx.HeartbeatDetails(into...); !found || err != nil {
				t.Errorf("%v, %v", found, err)
			}
			for i, p := range into {
				if got := *p.(*[]byte); string(got) != string(values[i].([]byte)) {
					t.Errorf("value %d: %q, want %q", i, got, values[i])
				}
			}
			if found, err := ctx.HeartbeatDetails(append(into, new([]byte))...); found || err == nil {
				t.Errorf("one more: %v, %v", found, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
