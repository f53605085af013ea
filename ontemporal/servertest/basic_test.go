package servertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	errDisk = errors.New("disk full")
	once    = activity.RetryPolicy{MaximumAttempts: 1}
)

func first(ctx activity.Context) bool { return ctx.Info().Attempt == 1 }

func TestScenarios_Results(t *testing.T) {
	run(t, []scenario{{
		name: "success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return in + " and out", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: result \"in and out\"",
		},
	}, {
		name: "failure, then success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "partial", fmt.Errorf("row 3: %w", errDisk)
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: row 3: disk full",
			"attempt 2 comes after text: row 3: disk full",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "the last of MaximumAttempts",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "partial", fmt.Errorf("try %d: %w", ctx.Info().Attempt, errDisk)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: try 1: disk full",
			"attempt 2 resumes from: nothing",
			"attempt 3 comes after: try 2: disk full",
			"attempt 3 resumes from: nothing",
			"end: work of ID in attempt 3: maximum attempts reached",
			"end text: try 3: disk full",
		},
	}, {
		name: "NonRetryable",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.NonRetryable(errDisk)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end text: disk full",
		},
	}, {
		name: "NonRetryable inside another error",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", fmt.Errorf("row 3: %w", activity.NonRetryable(errDisk))
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end text: row 3: disk full",
		},
	}, {
		name: "RetryAfter",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if ctx.Info().Attempt < 3 {
				return "", activity.RetryAfter(errDisk, 10*time.Millisecond)
			}
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: nothing",
			"attempt 3 comes after: disk full",
			"attempt 3 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "RetryAfter a nanosecond",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", activity.RetryAfter(errDisk, 1)
			}
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "RetryAfter at the last attempt",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.RetryAfter(errDisk, time.Minute)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end is: RetryDelay 1m0s",
			"end text: disk full",
		},
	}, {
		name: "panic, then success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				x.boom("boom")
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: panic: boom",
			"attempt 2 comes after panic: boom, in boom",
			"attempt 2 comes after text: panic: boom",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "panic deep in the stack, then success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				deep(100, func() { x.boom("boom") })
			}
			x.kinds(at(ctx, "comes after"), ctx.Info().LastFailure)
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: panic: boom",
			"attempt 2 comes after panic: boom, in boom",
			"attempt 2 comes after text: panic: boom",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "a long error, then success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", activity.RetryAfter(errors.New(strings.Repeat("x", 3000)), 10*time.Millisecond)
			}
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: xxxxxxxxxxxxxxxxxxxx... (long)",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
		},
	}, {
		name: "an error that is longer than a server keeps, then success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", fmt.Errorf("%s: %w", strings.Repeat("x", 6000), errDisk)
			}
			x.note("what comes before is cut", fmt.Sprint(len(ctx.Info().LastFailure.Error()) < 6000))
			return "done", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: xxxxxxxxxxxxxxxxxxxx... (long)",
			"attempt 2 resumes from: nothing",
			"end: result \"done\"",
			"what comes before is cut: false",
		},
		server: map[string]difference{
			"what comes before is cut": {"true", "the server cuts the failure of an attempt that is retried at 4 KiB"},
		},
	}, {
		name: "a long error at the last attempt",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", errors.New(strings.Repeat("x", 100_000))
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end text: xxxxxxxxxxxxxxxxxxxx... (long)",
		},
	}, {
		name: "panic at the last attempt",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom("boom")
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end panic: boom, in boom",
			"end text: panic: boom",
		},
	}, {
		name: "panic with an error",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom(activity.ErrDetailsTooLarge)
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end is: ErrDetailsTooLarge",
			"end panic: heartbeat details are too large, in boom",
			"end text: panic: heartbeat details are too large",
		},
	}, {
		name: "panic with a NonRetryable error",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom(activity.NonRetryable(errDisk))
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end panic: disk full, in boom",
			"end text: panic: disk full",
		},
	}, {
		name: "runtime.Goexit",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			runtime.Goexit()
			return "", nil
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable, ErrGoexit",
			"end text: the function called runtime.Goexit",
		},
	}, {
		name: "an inner activity's error is passed on",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 2}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			rt := activity.New(activity.Config{})
			err := rt.Run(ctx, activity.Options{Name: "inner"}, func(activity.Context) error {
				return activity.NonRetryable(errDisk)
			})
			return "", err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: activity \"#1\" (inner) failed in attempt 1, no further attempt (non-retryable failure): disk full",
			"attempt 2 resumes from: nothing",
			"end: work of ID in attempt 2: maximum attempts reached",
			"end is: NonRetryable, an inner *activity.Error",
			"end text: activity \"#1\" (inner) failed in attempt 1, no further attempt (non-retryable failure): disk full",
		},
		server: map[string]difference{
			"end is": {"", "errors come back as their text"},
		},
	}, {
		name: "Info",
		opts: activity.Options{
			StartToCloseTimeout: time.Minute, HeartbeatTimeout: 20 * time.Second, ScheduleToCloseTimeout: 10 * time.Minute,
			RetryPolicy: activity.RetryPolicy{MaximumAttempts: 5},
			Header:      map[string]string{"b": "2", "a": "1"},
		},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			i := ctx.Info()
			x.note(at(ctx, "header"), fmt.Sprint(i.Header))
			x.note(at(ctx, "is of"), fmt.Sprintf("%s (%s), attempt %d of %d", i.ID, i.Name, i.Attempt, i.MaximumAttempts))
			x.note(at(ctx, "timeouts"), fmt.Sprint(i.StartToCloseTimeout, i.HeartbeatTimeout, i.ScheduleToCloseTimeout))
			x.note(at(ctx, "deadline"), fmt.Sprintf("start-to-close: %t", i.Deadline.Equal(i.StartedAt.Add(i.StartToCloseTimeout))))
			deadline, ok := ctx.Deadline()
			x.note(at(ctx, "context's deadline"), fmt.Sprint(ok, " the same: ", deadline.Equal(i.Deadline)))
			x.note(at(ctx, "scheduled before it started"), fmt.Sprint(!i.ScheduledAt.After(i.StartedAt)))
			if first(ctx) {
				x.mu.Lock()
				x.scheduled = i.ScheduledAt
				x.mu.Unlock()
				return "", errDisk
			}
			x.mu.Lock()
			same := i.ScheduledAt.Equal(x.scheduled)
			x.mu.Unlock()
			x.note(at(ctx, "scheduled"), fmt.Sprintf("as the first: %t", same))
			return "done", nil
		},
		want: []string{
			"attempt 1 context's deadline: true the same: true",
			"attempt 1 deadline: start-to-close: true",
			"attempt 1 header: map[a:1 b:2]",
			"attempt 1 is of: ID (work), attempt 1 of 5",
			"attempt 1 resumes from: nothing",
			"attempt 1 scheduled before it started: true",
			"attempt 1 timeouts: 1m0s 20s 10m0s",
			"attempt 2 comes after: disk full",
			"attempt 2 context's deadline: true the same: true",
			"attempt 2 deadline: start-to-close: true",
			"attempt 2 header: map[a:1 b:2]",
			"attempt 2 is of: ID (work), attempt 2 of 5",
			"attempt 2 resumes from: nothing",
			"attempt 2 scheduled: as the first: true",
			"attempt 2 scheduled before it started: true",
			"attempt 2 timeouts: 1m0s 20s 10m0s",
			"end: result \"done\"",
		},
		server: map[string]difference{
			"attempt 1 deadline": {"start-to-close: false", "the SDK counts from when the worker gets the attempt"},
			"attempt 2 deadline": {"start-to-close: false", "the SDK counts from when the worker gets the attempt"},
		},
	}, {
		name: "FromContext",
		opts: activity.Options{HeartbeatTimeout: 20 * time.Second},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if !first(ctx) {
				return "done", nil
			}
			type key struct{}
			inner, cancel := context.WithCancelCause(context.WithValue(ctx, key{}, "value"))
			c, ok := activity.FromContext(inner)
			x.note("found", fmt.Sprint(ok, c.Info().ID, c.Info().Attempt, c.Value(key{})))
			x.note("heartbeat", errText(c.Heartbeat(7)))
			cancel(errCallers)
			x.note("heartbeat of the canceled one", errText(c.Heartbeat(8)))
			x.note("sleep of the canceled one", errText(c.Sleep(time.Hour)))
			x.note("the activity's own", errText(ctx.Sleep(0)))
			return "", errDisk
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 8",
			"end: result \"done\"",
			"found: trueID1value",
			"heartbeat: no error",
			"heartbeat of the canceled one: changed my mind",
			"sleep of the canceled one: changed my mind",
			"the activity's own: no error",
		},
	}})
}

// Rule 13. These scenarios compare the time of the next attempt. The engines count an interval
// from instants that differ by milliseconds, so the intervals are hours.
func TestScenarios_Intervals(t *testing.T) {
	// twice fails in its first two attempts. The interval after the second is compared.
	twice := func(x *trial, ctx activity.Context, in string) (string, error) {
		if first(ctx) {
			return "", activity.RetryAfter(errDisk, 1)
		}
		return "", errDisk
	}
	call := func(x *trial) {
		h := x.begin(x.t.Context())
		x.eventually("it backs off", h, func(s activity.Status) bool {
			if s.State != activity.StateBackingOff || s.Attempt != 2 {
				return false
			}
			x.note("interval", s.NextAttempt.Sub(s.StartedAt).Round(time.Hour).String())
			return true
		})
		h.Cancel(errCallers)
		<-h.Done()
	}
	want := func(interval string) []string {
		return []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: nothing",
			"interval: " + interval,
		}
	}
	policy := func(p activity.RetryPolicy) activity.Options {
		p.InitialInterval = 10 * time.Hour
		return activity.Options{RetryPolicy: p}
	}
	run(t, []scenario{
		{name: "it doubles", opts: policy(activity.RetryPolicy{}), fn: twice, call: call, want: want("20h0m0s")},
		{name: "BackoffCoefficient", opts: policy(activity.RetryPolicy{BackoffCoefficient: 1.5}), fn: twice, call: call, want: want("15h0m0s")},
		{name: "MaximumInterval", opts: policy(activity.RetryPolicy{MaximumInterval: 12 * time.Hour}), fn: twice, call: call, want: want("12h0m0s")},
	})
}

func TestScenarios_Details(t *testing.T) {
	type point struct{ Line, Byte int }
	run(t, []scenario{{
		name: "the details of the last heartbeat",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			next, err := activity.Resume(ctx, 1)
			if err != nil || next == 7 {
				return fmt.Sprint(next), err
			}
			for range 3 {
				next++
				if err := ctx.Heartbeat(next); err != nil {
					return "", err
				}
			}
			return "", errDisk
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 4",
			"attempt 3 comes after: disk full",
			"attempt 3 resumes from: 7",
			"end: result \"7\"",
		},
	}, {
		name: "a struct, and several values",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var p point
			var s string
			found, err := ctx.HeartbeatDetails(&p, &s)
			if found || err != nil {
				return fmt.Sprint(p, s), err
			}
			p.Line = 3
			err = ctx.Heartbeat(&p, "<&>")
			p.Line = 4 // too late to be recorded
			return "", errors.Join(err, errDisk)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: {\"Line\":3,\"Byte\":0}",
			"end: result \"{3 0}<&>\"",
		},
	}, {
		name: "heartbeats without details keep them",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var err error
			switch ctx.Info().Attempt {
			case 1:
				err = errors.Join(ctx.Heartbeat(5), ctx.Heartbeat(), ctx.Heartbeat(nil))
			case 2:
				err = ctx.Heartbeat()
			case 3:
			default:
				return "done", nil
			}
			return "", errors.Join(err, errDisk)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 5",
			"attempt 3 comes after: disk full",
			"attempt 3 resumes from: 5",
			"attempt 4 comes after: disk full",
			"attempt 4 resumes from: 5",
			"end: result \"done\"",
		},
	}, {
		name: "Options.HeartbeatDetails",
		opts: activity.Options{HeartbeatDetails: []any{7, "x"}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var n int
			var s string
			found, err := ctx.HeartbeatDetails(&n, &s)
			x.note(at(ctx, "has"), fmt.Sprint(found, err, n, s))
			switch ctx.Info().Attempt {
			case 1:
				return "", errDisk
			case 2:
				return "", errors.Join(ctx.Heartbeat(8, "y"), errDisk)
			}
			return "done", nil
		},
		want: []string{
			"attempt 1 has: true <nil> 7x",
			"attempt 1 resumes from: 7",
			"attempt 2 comes after: disk full",
			"attempt 2 has: true <nil> 7x",
			"attempt 2 resumes from: 7",
			"attempt 3 comes after: disk full",
			"attempt 3 has: true <nil> 8y",
			"attempt 3 resumes from: 8",
			"end: result \"done\"",
		},
	}, {
		name: "a renamed field",
		opts: activity.Options{RetryPolicy: twice},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(point{3, 4}), errDisk)
			}
			_, err := activity.Resume(ctx, struct{ Row, Byte int }{})
			return "", err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: {\"Line\":3,\"Byte\":4}",
			"end: work of ID in attempt 2: non-retryable failure",
			"end is: ErrCannotResume",
			"end text: activity \"ID\" (work): attempt 2: cannot resume from the recorded heartbeat details: cannot decode value 1 into *struct { Row int; Byte int }: json: unknown field \"Line\"",
		},
		server: map[string]difference{"end": retriedElsewhere},
	}, {
		name: "fewer values than are asked for",
		opts: activity.Options{RetryPolicy: twice},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			var n, m int
			_, err := ctx.HeartbeatDetails(&n, &m)
			return "", err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 3",
			"end: work of ID in attempt 2: non-retryable failure",
			"end is: ErrCannotResume",
			"end text: activity \"ID\" (work): attempt 2: cannot resume from the recorded heartbeat details: 2 values requested, 1 recorded",
		},
		server: map[string]difference{"end": retriedElsewhere},
	}, {
		name: "details that cannot be encoded",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			err := ctx.Heartbeat(3)
			if err == nil {
				err = ctx.Heartbeat(4, make(chan int))
				x.note(at(ctx, "still runs"), fmt.Sprint(ctx.Err() == nil))
			}
			return "", err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 1 still runs: true",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end text: activity \"ID\" (work): attempt 1: heartbeat details not recorded, the previous ones are kept: cannot encode value 2 of 2 (chan int): the value has the type chan int, which cannot be encoded",
		},
	}, {
		name: "the attempt outlives details that cannot be encoded",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if !first(ctx) {
				return "done", nil
			}
			x.note("good", errText(ctx.Heartbeat(3)))
			x.note("bad", errText(ctx.Heartbeat(func() {})))
			return "", errDisk
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 3",
			"bad: activity \"ID\" (work): attempt 1: heartbeat details not recorded, the previous ones are kept: cannot encode value 1 of 1 (func()): the value has the type func(), which cannot be encoded",
			"end: result \"done\"",
			"good: no error",
		},
	}, {
		name: "details that are too large",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			return "", ctx.Heartbeat(strings.Repeat("x", 2<<20))
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable, ErrDetailsTooLarge",
			"end text: activity \"ID\" (work): attempt 1: heartbeat details not recorded, the previous ones are kept: heartbeat details are too large: 2097154 bytes encoded, Config.MaxDetailsSize is 2097152",
		},
		server: map[string]difference{
			"end text": {"activity \"ID\" (work): attempt 1: heartbeat details not recorded, the previous ones are kept: heartbeat details are too large: 2097154 bytes encoded, and the limit of a Temporal server is 2093056", "the limit is the server's"},
		},
	}, {
		name: "1 MiB of details",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return large(ctx, 1<<20)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 1048576 bytes",
			"end: result \"1048574\"",
		},
	}, {
		name: "details as large as they may be",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return large(ctx, maxDetails)
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 2093056 bytes",
			"end: result \"2093054\"",
		},
	}, {
		name: "Range",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var bodies []int
			defer func() { x.note(at(ctx, "bodies"), fmt.Sprint(bodies)) }()
			return "done", activity.Range(ctx, 10, 15, func(i int) error {
				bodies = append(bodies, i)
				if i == 12 && first(ctx) {
					return errDisk
				}
				return nil
			})
		},
		want: []string{
			"attempt 1 bodies: [10 11 12]",
			"attempt 1 resumes from: nothing",
			"attempt 2 bodies: [12 13 14]",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: {\"Next\":12,\"To\":15}",
			"end: result \"done\"",
		},
	}, {
		name: "RangeParallel",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var mu sync.Mutex
			var bodies []int
			inside := make(chan struct{}) // closed in body 3, when 1 and 2 are recorded
			defer func() {
				slices.Sort(bodies)
				x.note(at(ctx, "bodies"), fmt.Sprint(bodies))
			}()
			return "done", activity.RangeParallel(ctx, 0, 5, 2, func(body activity.Context, i int) error {
				mu.Lock()
				bodies = append(bodies, i)
				mu.Unlock()
				switch {
				case !first(ctx):
				case i == 0:
					<-inside
					return errDisk
				case i == 3:
					close(inside)
					err := body.Sleep(time.Hour)
					x.note("body 3", fmt.Sprintf("%v, and its attempt lives on: %t", err, ctx.Err() == nil))
					return err
				}
				return nil
			})
		},
		want: []string{
			"attempt 1 bodies: [0 1 2 3]",
			"attempt 1 resumes from: nothing",
			"attempt 2 bodies: [0 3 4]",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: {\"Next\":0,\"To\":5,\"Done\":[1,2]}",
			"body 3: disk full, and its attempt lives on: true",
			"end: result \"done\"",
		},
	}, {
		name: "a body of RangeParallel panics",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.RangeParallel(ctx, 0, 2, 2, func(activity.Context, int) error {
				x.boom("ouch")
				return nil
			})
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: maximum attempts reached",
			"end panic: ouch, in boom",
			"end text: panic: ouch",
		},
	}, {
		name: "a second Range",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			var bodies []int
			body := func(i int) error {
				bodies = append(bodies, i)
				return nil
			}
			err := activity.Range(ctx, 0, 2, body)
			if err == nil {
				err = activity.Range(ctx, 0, 2, body)
			}
			x.note(at(ctx, "bodies"), fmt.Sprint(bodies))
			return "", err
		},
		want: []string{
			"attempt 1 bodies: [0 1]",
			"attempt 1 resumes from: nothing",
			"end: work of ID in attempt 1: non-retryable failure",
			"end is: NonRetryable",
			"end text: activity \"ID\" (work): attempt 1: activity.Range: an attempt has one Range (for several phases, use Resume with a struct)",
		},
	}, {
		name: "a Range that finds another's details",
		opts: activity.Options{RetryPolicy: twice},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			return "", activity.Range(ctx, 0, 2, func(int) error { return nil })
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: 3",
			"end: work of ID in attempt 2: non-retryable failure",
			"end is: ErrCannotResume",
			"end text: activity.Range from 0 to 2: the recorded details are not a Range's: activity \"ID\" (work): attempt 2: cannot resume from the recorded heartbeat details: cannot decode value 1 into *activity.RangeProgress: json: cannot unmarshal number into Go value of type activity.RangeProgress",
		},
		server: map[string]difference{"end": retriedElsewhere},
	}, {
		name: "a Range that was longer",
		opts: activity.Options{RetryPolicy: twice},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			to := 5 - 3*(ctx.Info().Attempt-1)
			err := activity.Range(ctx, 0, to, func(int) error { return nil })
			if err == nil {
				err = errDisk
			}
			return "", err
		},
		want: []string{
			"attempt 1 resumes from: nothing",
			"attempt 2 comes after: disk full",
			"attempt 2 resumes from: {\"Next\":5,\"To\":5}",
			"end: work of ID in attempt 2: non-retryable failure",
			"end is: ErrCannotResume",
			"end text: activity.Range from 0 to 2: cannot resume from the recorded heartbeat details: an earlier attempt ran a Range to 5 (next 5), so these numbers may stand for other work",
		},
		server: map[string]difference{"end": retriedElsewhere},
	}})
}

// retriedElsewhere is the end of an activity whose details no worker can read.
var retriedElsewhere = difference{"work of ID in attempt 2: maximum attempts reached", "a worker of another version may be able to resume, so the server retries"}

var twice = activity.RetryPolicy{MaximumAttempts: 2}

// maxDetails is the size of details that both engines accept.
const maxDetails = 2<<20 - 4<<10

// deep calls f with n more frames on the stack.
func deep(n int, f func()) {
	if n == 0 {
		f()
		return
	}
	deep(n-1, f)
}

// large records details of the size, encoded, and returns their length in the next attempt.
func large(ctx activity.Context, size int) (string, error) {
	if first(ctx) {
		if err := ctx.Heartbeat(strings.Repeat("x", size-len(`""`))); err != nil {
			return "", err
		}
		return "", errDisk
	}
	s, err := activity.Resume(ctx, "")
	return fmt.Sprint(len(s)), err
}

// errText returns an error's text.
func errText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}
