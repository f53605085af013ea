package servertest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	errDisk = errors.New("disk full")
	once    = activity.RetryPolicy{MaximumAttempts: 1}
)

func first(ctx activity.Context) bool { return ctx.Info().Attempt == 1 }

func TestResults(t *testing.T) {
	run(t, []scenario{{
		name: "success",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return in + " and out", nil
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
	}, {
		name: "the last of MaximumAttempts",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "partial", fmt.Errorf("try %d: %w", ctx.Info().Attempt, errDisk)
		},
	}, {
		name: "NonRetryable",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.NonRetryable(errDisk)
		},
	}, {
		name: "NonRetryable inside another error",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", fmt.Errorf("row 3: %w", activity.NonRetryable(errDisk))
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
	}, {
		name: "RetryAfter no time at all",
		opts: activity.Options{RetryPolicy: activity.RetryPolicy{InitialInterval: time.Hour}},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", activity.RetryAfter(errDisk, 0)
			}
			return "done", nil
		},
	}, {
		name: "RetryAfter at the last attempt",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return "", activity.RetryAfter(errDisk, time.Minute)
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
	}, {
		name: "panic at the last attempt",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom("boom")
			return "", nil
		},
	}, {
		name: "panic with an error",
		opts: activity.Options{RetryPolicy: once},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom(activity.ErrDetailsTooLarge)
			return "", nil
		},
	}, {
		name: "panic with a NonRetryable error",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			x.boom(activity.NonRetryable(errDisk))
			return "", nil
		},
	}, {
		name: "runtime.Goexit",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			runtime.Goexit()
			return "", nil
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
	}, {
		name: "Info",
		opts: activity.Options{
			StartToCloseTimeout: time.Minute, HeartbeatTimeout: 20 * time.Second, ScheduleToCloseTimeout: 10 * time.Minute,
			RetryPolicy: activity.RetryPolicy{MaximumAttempts: 5},
		},
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			i := ctx.Info()
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
			x.note(at(ctx, "scheduled"), fmt.Sprintf("as the first: %t", i.ScheduledAt.Equal(x.scheduled)))
			return "done", nil
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
	}})
}

func TestDetails(t *testing.T) {
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
	}, {
		name: "a renamed field",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(point{3, 4}), errDisk)
			}
			_, err := activity.Resume(ctx, struct{ Row, Byte int }{})
			return "", err
		},
	}, {
		name: "fewer values than are asked for",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			var n, m int
			_, err := ctx.HeartbeatDetails(&n, &m)
			return "", err
		},
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
	}, {
		name: "details that are too large",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if err := ctx.Heartbeat(3); err != nil {
				return "", err
			}
			return "", ctx.Heartbeat(strings.Repeat("x", 2<<20))
		},
	}, {
		name: "1 MiB of details",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return large(ctx, 1<<20)
		},
	}, {
		name: "details as large as they may be",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			return large(ctx, 2<<20-4<<10)
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
	}, {
		name: "a Range that finds another's details",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			if first(ctx) {
				return "", errors.Join(ctx.Heartbeat(3), errDisk)
			}
			return "", activity.Range(ctx, 0, 2, func(int) error { return nil })
		},
	}, {
		name: "a Range that was longer",
		fn: func(x *trial, ctx activity.Context, in string) (string, error) {
			to := 5 - 3*(ctx.Info().Attempt-1)
			err := activity.Range(ctx, 0, to, func(int) error { return nil })
			if err == nil {
				err = errDisk
			}
			return "", err
		},
	}})
}

// large records details of that size, encoded, and has the next attempt find them.
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

// errText is an error's text.
func errText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

var inChild []scenario
