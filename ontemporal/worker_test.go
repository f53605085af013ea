package ontemporal_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
)

type options = workflow.ActivityOptions

// Given a registered function, when it succeeds, then it has had the Info, the Deadline and
// the input of its activity.
func TestRegister_FunctionSucceeds(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		opts := options{StartToCloseTimeout: time.Hour, ScheduleToCloseTimeout: 2 * time.Hour, HeartbeatTimeout: time.Minute}
		out, err := run(c, opts, func(ctx activity.Context, in string) (string, error) {
			info := ctx.Info()
			want := activity.Info{
				ID: info.ID, Name: "f", Attempt: 1, ScheduledAt: info.ScheduledAt, StartedAt: info.StartedAt, Deadline: time.Now().Add(time.Hour),
				StartToCloseTimeout: time.Hour, ScheduleToCloseTimeout: 2 * time.Hour, HeartbeatTimeout: time.Minute,
			}
			if !reflect.DeepEqual(info, want) || info.ID == "" || !info.StartedAt.Equal(begun) {
				t.Errorf("got %+v, want %+v", info, want)
			}
			if d, ok := ctx.Deadline(); !ok || !d.Equal(info.Deadline) {
				t.Errorf("Deadline gives %v, %v", d, ok)
			}
			if n := sdkactivity.GetInfo(ctx).ActivityType.Name; n != "f" {
				t.Errorf("the SDK's Info has %q", n)
			}
			n, err := activity.Resume(ctx, 5)
			if n != 5 || err != nil {
				t.Errorf("it resumes from %d, %v", n, err)
			}
			if err := ctx.Sleep(30 * time.Second); err != nil || time.Since(begun) != 30*time.Second {
				t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
			}
			return "hello " + in, nil
		}, "you")
		if out != "hello you" || err != nil {
			t.Errorf("got %q, %v", out, err)
		}
	})
}

// Rules 7 and 8. Given a heartbeat at the timeout, then it is too late: the attempt is over, and
// the next one starts at once with the last details. One nanosecond before, it is in time.
func TestTimeout_HeartbeatAtDeadlineIsLate(t *testing.T) {
	for _, late := range []time.Duration{-1, 0} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *cluster) {
				begun := time.Now()
				attempts := 0
				opts := options{HeartbeatTimeout: 10 * time.Second}
				_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
					attempts++
					if attempts == 2 {
						n, err := activity.Resume(ctx, 0)
						if d := time.Since(begun); d != 13*time.Second || c.waited() != time.Millisecond {
							t.Errorf("the second attempt began after %s", d)
						}
						if n != 7 || err != nil {
							t.Errorf("it resumes from %d, %v", n, err)
						}
						return 0, nil
					}
					checkErr(t, ctx.Heartbeat(6), nil)
					time.Sleep(3 * time.Second)
					checkErr(t, ctx.Heartbeat(7), nil)
					time.Sleep(10*time.Second + late)
					err := ctx.Heartbeat(8)
					if late < 0 {
						checkErr(t, err, nil)
						return 0, nil
					}
					var e *activity.TimeoutError
					if !errors.As(err, &e) || err != context.Cause(ctx) || e.Type != activity.TimeoutHeartbeat || e.After != 10*time.Second || e.Attempt != 1 || e.Name != "f" {
						t.Errorf("got %#v", err)
					}
					var n int
					if ok, err := e.HeartbeatDetails(&n); n != 7 || !ok || err != nil {
						t.Errorf("its details are %d, %v, %v", n, ok, err)
					}
					return 0, errBoom // ignored, because the attempt is over
				}, 0)
				checkErr(t, err, nil)
				if want := 2 + int(late); attempts != want {
					t.Errorf("%d attempts, want %d", attempts, want)
				}
			})
		})
	}
}

// Given a stall of the last attempt, then its failure has the stack, the details and the
// timeout as its cause.
func TestTimeout_HeartbeatOfLastAttempt(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Heartbeat("a", 7), nil)
			hangHere()
			return 0, nil
		}, 0)
		app := failure(t, err)
		var stack, first string
		var second int
		var timeout *temporal.TimeoutError
		if app.Type() != "activity.TimeoutError" || app.Details(&stack) != nil || !strings.Contains(stack, "hangHere") || !errors.As(app, &timeout) {
			t.Errorf("got %v with the stack %s", err, stack)
		} else if err := timeout.LastHeartbeatDetails(&first, &second); err != nil || first != "a" || second != 7 {
			t.Errorf("the details are %q, %d, %v", first, second, err)
		}
	})
}

func hangHere() { time.Sleep(100 * time.Hour) }

// Rule 8. Given a second stall without progress, then the policy's interval comes first.
func TestTimeout_SecondStallBacksOff(t *testing.T) {
	for _, progress := range []bool{false, true} {
		inCluster(t, func(t *testing.T, c *cluster) {
			var waits []time.Duration
			opts := options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Minute, BackoffCoefficient: 1, MaximumAttempts: 3}}
			_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
				waits = append(waits, c.waited())
				details := 1
				if progress {
					details = len(waits)
				}
				time.Sleep(time.Second)
				checkErr(t, ctx.Heartbeat(details), nil)
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}, 0)
			failure(t, err)
			want := []time.Duration{0, time.Millisecond, time.Minute}
			if progress {
				want[2] = time.Millisecond
			}
			if fmt.Sprint(waits) != fmt.Sprint(want) {
				t.Errorf("progress %v: the attempts waited %s, want %s", progress, waits, want)
			}
		})
	}
}

// Rules 4 and 7. Given start-to-close or schedule-to-close, when it is reached, then the Context
// ends with that timeout at that instant, and nothing more is recorded.
func TestTimeout_EndsContextAtDeadline(t *testing.T) {
	for _, test := range []struct {
		opts options
		want activity.TimeoutType
		text string
	}{
		{options{StartToCloseTimeout: time.Minute}, activity.TimeoutStartToClose, `activity "1" (f): start-to-close timeout: attempt 1 was not done within 1m0s; the last heartbeat details are kept`},
		{options{StartToCloseTimeout: time.Hour, ScheduleToCloseTimeout: time.Minute}, activity.TimeoutScheduleToClose, `activity "1" (f): schedule-to-close timeout: not done 1m0s after it was scheduled, in attempt 1; the last heartbeat details are kept`},
	} {
		inCluster(t, func(t *testing.T, c *cluster) {
			test.opts.RetryPolicy = once
			begun := time.Now()
			_, err := run(c, test.opts, func(ctx activity.Context, _ int) (int, error) {
				checkErr(t, ctx.Heartbeat(3), nil)
				err := ctx.Sleep(time.Hour)
				if !isTimeout(err, test.want) || err.Error() != test.text || err != context.Cause(ctx) || time.Since(begun) != time.Minute || ctx.Err() != context.Canceled {
					t.Errorf("Sleep returned %v after %s", err, time.Since(begun))
				}
				checkErr(t, ctx.Heartbeat(4), err)
				checkErr(t, ctx.Sleep(1), err)
				checkErr(t, activity.Guard(ctx, never), err)
				return 0, nil
			}, 0)
			if timeout := (*temporal.TimeoutError)(nil); !errors.As(err, &timeout) {
				t.Errorf("the workflow got %v", err)
			}
			for _, beat := range c.got() {
				if beat != "3" {
					t.Errorf("the server got the heartbeat %s", beat)
				}
			}
		})
	}
}

// Rules 1 and 2. Given heartbeats without details, then the recorded details stay, also over
// several attempts. A value that changes after its heartbeat changes nothing.
func TestHeartbeat_WithoutDetailsKeepsThem(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		type place struct {
			Table string
			Row   int
		}
		attempts := 0
		opts := options{HeartbeatTimeout: 10 * time.Second}
		_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			attempts++
			var p place
			var n int
			found, err := ctx.HeartbeatDetails(&p, &n)
			if err != nil || found != (attempts > 1) || found && (p != place{"users", 5} || n != 1) {
				t.Errorf("attempt %d resumes from %v, %d, %v, %v", attempts, p, n, found, err)
			}
			if attempts == 1 {
				value := &place{"users", 5}
				checkErr(t, ctx.Heartbeat(value, 1), nil)
				value.Row = 6 // too late to be recorded
			}
			if attempts < 4 {
				checkErr(t, activity.Idle(ctx, time.Hour), nil)
				checkErr(t, ctx.Heartbeat(nil), nil)
				return 0, errBoom
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		for _, beat := range c.got() {
			if beat != `{"Table":"users","Row":5} 1` {
				t.Errorf("the server got the heartbeat %q", beat)
			}
		}
		if n := len(c.got()); n < 3*3600/10 {
			t.Errorf("the server got %d heartbeats in 3 hours", n)
		}
	})
}

// Given 100,000 heartbeats in 100 s, then the server gets some 12, all of them in time.
func TestHeartbeat_ManyAreHeldBack(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context, _ int) (int, error) {
			for range 100_000 {
				if err := ctx.Heartbeat(); err != nil {
					return 0, err
				}
				if err := ctx.Sleep(time.Millisecond); err != nil {
					return 0, err
				}
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		if n := len(c.got()); n < 10 || n > 14 {
			t.Errorf("the server got %d heartbeats in 100 s", n)
		}
	})
}

// Rule 3. Given details that cannot be encoded or are too large, then Heartbeat returns a
// NonRetryable error, the call counts as a heartbeat, and the earlier details stay.
func TestHeartbeat_BadDetailsCount(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context, _ int) (int, error) {
			checkErr(t, ctx.Heartbeat(1), nil)
			time.Sleep(6 * time.Second)
			err := ctx.Heartbeat(func() {})
			if !isNonRetryable(err) || !strings.Contains(err.Error(), "cannot encode value 1 of 1 (func())") {
				t.Errorf("got %v", err)
			}
			time.Sleep(6 * time.Second) // the heartbeat above counted, so this is no stall
			err = ctx.Heartbeat(1, make([]byte, 2<<20))
			checkErr(t, err, activity.ErrDetailsTooLarge)
			return 0, err
		}, 0)
		app := failure(t, err)
		if !app.NonRetryable() || !strings.Contains(app.Message(), activity.ErrDetailsTooLarge.Error()) {
			t.Errorf("got %v", err)
		}
		checkBeats(t, c, "1", "1", "1")
	})
}

// Rule 3. Given details whose methods panic, when they are recorded, then Heartbeat returns a
// NonRetryable error, as on the embedded runtime, and the attempt continues.
func TestHeartbeat_DetailsThatPanic(t *testing.T) {
	for _, details := range []any{textPanics{}, jsonPanics{}, map[textPanics]int{{}: 1}} {
		inCluster(t, func(t *testing.T, c *cluster) {
			n, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
				checkErr(t, ctx.Heartbeat(1), nil)
				err := ctx.Heartbeat(details)
				want := fmt.Sprintf("cannot encode value 1 of 1 (%T): Codec.Marshal panicked: panic: ouch", details)
				var p *activity.PanicError
				if !isNonRetryable(err) || !strings.Contains(err.Error(), want) || !errors.As(err, &p) || p.Value != "ouch" {
					t.Errorf("got %v", err)
				}
				checkErr(t, context.Cause(ctx), nil)
				return 5, nil
			}, 0)
			if checkErr(t, err, nil); n != 5 {
				t.Errorf("got %d", n)
			}
			checkBeats(t, c, "1")
		})
	}
}

type textPanics struct{}

func (textPanics) MarshalText() ([]byte, error) { panic("ouch") }
func (*textPanics) UnmarshalText([]byte) error  { return nil }

type jsonPanics struct{}

func (jsonPanics) MarshalJSON() ([]byte, error) { panic("ouch") }
func (*jsonPanics) UnmarshalJSON([]byte) error  { return nil }

// Rules 5 and 33. Given details that do not decode, then the attempt fails with ErrCannotResume,
// and is retried, as another worker may be able to decode them. The details are kept.
func TestHeartbeatDetails_DoNotDecode(t *testing.T) {
	type renamed struct{ Line int }
	for _, test := range []struct {
		name   string
		record []any
		into   func() []any
		want   string
	}{
		{"renamed", []any{struct{ Row int }{5}}, func() []any { return []any{new(renamed)} }, `unknown field "Row"`},
		{"too few", []any{1}, func() []any { return []any{new(int), new(int)} }, "2 values requested, 1 recorded"},
		{"another type", []any{"a"}, func() []any { return []any{new(int)} }, "cannot decode value 1 into *int"},
		{"null", []any{nil, nil}, func() []any { return []any{new(int)} }, "a null is no int"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *cluster) {
				_, err := run(c, options{RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 3}}, func(ctx activity.Context, _ int) (int, error) {
					if ctx.Info().Attempt == 1 {
						checkErr(t, ctx.Heartbeat(test.record...), nil)
						return 0, errBoom
					}
					_, err := ctx.HeartbeatDetails(test.into()...)
					return 0, err
				}, 0)
				app := failure(t, err)
				if app.NonRetryable() || app.Type() != "activity.ErrCannotResume" || !strings.HasPrefix(app.Message(), `activity "1" (f): attempt 3: cannot resume from the recorded heartbeat details: `) || !strings.Contains(app.Message(), test.want) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// Given details that were recorded without this package, then Resume reads them if they are
// JSON, and refuses others.
func TestHeartbeatDetails_Foreign(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet)
	for _, test := range []struct {
		details any
		want    string
	}{
		{[]byte("abc"), "was recorded as binary/plain, which is not JSON"},
		{"abc", ""},
	} {
		env := suite.NewTestActivityEnvironment()
		env.SetHeartbeatDetails(test.details)
		ontemporal.Register(env, "f", func(ctx activity.Context, _ int) (string, error) { return activity.Resume(ctx, "") })
		_, err := env.ExecuteActivity("f", 0)
		if test.want == "" {
			checkErr(t, err, nil)
		} else if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
}

// Given Options.HeartbeatDetails, which the second argument holds, then all attempts resume
// from them, and the server gets them with a heartbeat without details.
func TestHeartbeatDetails_FromOptions(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
			var s string
			var n int
			if found, err := ctx.HeartbeatDetails(&s, &n); !found || err != nil || s != "a" || n != 7 {
				t.Errorf("attempt %d resumes from %q, %d, %v, %v", ctx.Info().Attempt, s, n, found, err)
			}
			if ctx.Info().Attempt < 3 {
				return 0, errBoom
			}
			return 0, ctx.Heartbeat()
		}, 0, map[string]any{"Details": []any{"a", 7}})
		checkErr(t, err, nil)
		checkBeats(t, c, `"a" 7`)
	})
}

// Rule 6. Given a Range whose body fails, then the next attempt resumes it there. A second Range
// in one attempt is a NonRetryable error.
func TestRange_Resumes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		var done []int
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context, _ int) (int, error) {
			err := activity.Range(ctx, 0, 6, func(i int) error {
				if i == 3 && ctx.Info().Attempt == 1 {
					return errBoom
				}
				done = append(done, i)
				return ctx.Sleep(5 * time.Second)
			})
			if err == nil {
				if err := activity.Range(ctx, 0, 6, nil); !isNonRetryable(err) || !strings.Contains(err.Error(), `activity "1" (f): attempt 2: activity.Range: an attempt has one Range`) {
					t.Errorf("a second Range gives %v", err)
				}
			}
			return 0, err
		}, 0)
		checkErr(t, err, nil)
		if fmt.Sprint(done) != "[0 1 2 3 4 5]" {
			t.Errorf("done is %v", done)
		}
	})
}

// Rules 13, 14 and 15. Given a function's error, panic or Goexit, then its failure has the type
// and the text, and is retried after the right time, or not at all.
func TestErrors_AreReported(t *testing.T) {
	type typed struct{ error }
	for _, test := range []struct {
		name         string
		err          func() error
		attempts     int
		after        time.Duration // the wait before the second attempt
		typ, message string
	}{
		{"plain", func() error { return fmt.Errorf("row 7: %w", errBoom) }, 2, time.Minute, "wrapError", "row 7: boom"},
		{"typed", func() error { return typed{errBoom} }, 2, time.Minute, "typed", "boom"},
		{"non-retryable", func() error { return activity.NonRetryable(typed{errBoom}) }, 1, 0, "typed", "boom"},
		{"wrapped non-retryable", func() error { return fmt.Errorf("row 7: %w", activity.NonRetryable(errBoom)) }, 1, 0, "wrapError", "row 7: boom"},
		{"joined non-retryable", func() error { return errors.Join(errBoom, activity.NonRetryable(errBoom)) }, 1, 0, "joinError", "boom\nboom"},
		{"retry after", func() error { return activity.RetryAfter(errBoom, time.Hour) }, 2, time.Hour, "errorString", "boom"},
		{"retry after 1 ns", func() error { return activity.RetryAfter(errBoom, 1) }, 2, time.Millisecond, "errorString", "boom"},
		{"retry after 0", func() error { return activity.RetryAfter(errBoom, 0) }, 2, time.Minute, "errorString", "boom"},
		{"an inner activity's", func() error {
			return &activity.Error{ID: "inner", Name: "g", Attempt: 3, RetryState: activity.RetryStateNonRetryableFailure, Err: activity.NonRetryable(errBoom)}
		}, 2, time.Minute, "Error", `activity "inner" (g) failed in attempt 3, no further attempt (non-retryable failure): boom`},
		{"panic", func() error { panic("ouch") }, 2, time.Minute, "", "ouch"},
		{"panic, retry after", func() error { panic(activity.RetryAfter(errBoom, time.Hour)) }, 2, time.Hour, "activity.PanicError", "panic: boom"},
		{"panic, non-retryable", func() error { panic(activity.NonRetryable(errBoom)) }, 1, 0, "activity.PanicError", "panic: boom"},
		{"Goexit", func() error { runtime.Goexit(); return nil }, 1, 0, "errorString", activity.ErrGoexit.Error()},
		{"the SDK's", func() error { return temporal.NewNonRetryableApplicationError("theirs", "their type", errBoom) }, 1, 0, "their type", "theirs"},
	} {
		t.Run(test.name, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *cluster) {
				var waits []time.Duration
				opts := options{RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Minute, MaximumAttempts: 2}}
				_, err := run(c, opts, func(activity.Context, int) (int, error) {
					waits = append(waits, c.waited())
					return 0, test.err()
				}, 0)
				if test.typ == "" {
					var p *temporal.PanicError
					if !errors.As(err, &p) || p.Error() != test.message || !strings.Contains(p.StackTrace(), "TestErrors") || len(waits) != test.attempts {
						t.Errorf("got %v after %d attempts", err, len(waits))
					}
					return
				}
				app := failure(t, err)
				if app.Type() != test.typ || app.Message() != test.message || len(waits) != test.attempts {
					t.Errorf("got %q, %q after %d attempts", app.Type(), app.Message(), len(waits))
				}
				if len(waits) == 2 && waits[1] != test.after {
					t.Errorf("the second attempt waited %s", waits[1])
				}
				if test.typ == "activity.PanicError" {
					var stack string
					if err := app.Details(&stack); err != nil || !strings.Contains(stack, "TestErrors") {
						t.Errorf("the stack is %q, %v", stack, err)
					}
				}
			})
		})
	}
}

// canceled runs fn, and cancels its attempt after a minute.
func canceled(t *testing.T, fn func(ctx activity.Context) error) (err error) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		time.AfterFunc(time.Minute, func() { c.cancel(temporal.NewCanceledError()) })
		_, err = run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			err := fn(ctx)
			if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) || time.Since(begun) != time.Minute {
				t.Errorf("the cause is %v, after %s", cause, time.Since(begun))
			}
			return 0, err
		}, 0)
	})
	return err
}

// Rule 17. Given a canceled attempt, then it is canceled if the function returns the cause or
// was told it. If it was not told and returns nil, it has completed.
func TestCancel_Outcome(t *testing.T) {
	var canceledErr *temporal.CanceledError
	for name, fn := range map[string]func(ctx activity.Context) error{
		"told by Sleep":     func(ctx activity.Context) error { return ctx.Sleep(time.Hour) },
		"told by Heartbeat": func(ctx activity.Context) error { <-ctx.Done(); return ctx.Heartbeat() },
		"Sleep cut short":   func(ctx activity.Context) error { ctx.Sleep(time.Hour); return nil },
		"Idle cut short":    func(ctx activity.Context) error { activity.Idle(ctx, time.Hour); return nil },
		"Guard refused":     func(ctx activity.Context) error { <-ctx.Done(); activity.Guard(ctx, never); return nil },
		"Range cut short": func(ctx activity.Context) error {
			activity.Range(ctx, 0, 10, func(int) error { <-ctx.Done(); return nil })
			return nil
		},
		"a child's": func(ctx activity.Context) error {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			c, _ := activity.FromContext(child)
			c.Sleep(time.Hour)
			return nil
		},
		"context.Canceled": func(ctx activity.Context) error { <-ctx.Done(); return fmt.Errorf("query: %w", ctx.Err()) },
	} {
		if err := canceled(t, fn); !errors.As(err, &canceledErr) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for name, fn := range map[string]func(ctx activity.Context) error{
		"nothing told": func(ctx activity.Context) error { <-ctx.Done(); return nil },
		"Heartbeat's":  func(ctx activity.Context) error { <-ctx.Done(); ctx.Heartbeat(1); return nil },
		"the last Range": func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 1, func(int) error { <-ctx.Done(); return nil })
		},
		"f's own error": func(ctx activity.Context) error {
			activity.Guard(ctx, func() error { <-ctx.Done(); return context.Cause(ctx) })
			return nil
		},
	} {
		if err := canceled(t, fn); err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	err := canceled(t, func(ctx activity.Context) error { ctx.Sleep(time.Hour); return errBoom })
	if app := failure(t, err); app.Message() != "boom" {
		t.Errorf("got %v", err)
	}
}

// Given a worker that stops, then the Context ends with ErrShutdown, and the next attempt
// starts at once.
func TestWorkerStop_NextAttemptStartsAtOnce(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		opts := options{HeartbeatTimeout: time.Hour, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Hour, MaximumAttempts: 2}}
		_, _ = run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			if ctx.Info().Attempt == 2 { // in a worker that has stopped
				return 0, nil
			}
			checkErr(t, ctx.Heartbeat(7), nil)
			time.AfterFunc(time.Minute, func() { close(c.stop) })
			err := ctx.Sleep(time.Hour)
			checkErr(t, err, activity.ErrShutdown)
			return 0, fmt.Errorf("stopped: %w", err)
		}, 0)
		if took, waited := time.Since(begun), c.waited(); took != time.Minute || waited != time.Millisecond {
			t.Errorf("it took %s, and the second attempt waited %s", took, waited)
		}
	})
}

// Given a worker that stops, when the function returns an error that is not retried, then the
// next attempt starts at once anyway.
func TestWorkerStop_NonRetryableIsRetried(t *testing.T) {
	for name, mark := range map[string]func(err error) error{
		"NonRetryable":     activity.NonRetryable,
		"ErrCannotResume":  func(err error) error { return errors.Join(err, activity.ErrCannotResume) },
		"a later retry":    func(err error) error { return activity.RetryAfter(err, 2*time.Hour) },
		"the SDK's":        func(err error) error { return temporal.NewNonRetryableApplicationError("theirs", "their type", err) },
		"a panic":          func(err error) error { panic(activity.NonRetryable(err)) },
		"Goexit":           func(error) error { runtime.Goexit(); return nil },
		"context.Canceled": func(error) error { return activity.NonRetryable(context.Canceled) },
	} {
		inCluster(t, func(t *testing.T, c *cluster) {
			opts := options{HeartbeatTimeout: time.Hour, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Hour, MaximumAttempts: 2}}
			time.AfterFunc(time.Minute, func() { close(c.stop) })
			_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) { return 0, mark(ctx.Sleep(time.Hour)) }, 0)
			if waited := c.waited(); waited != time.Millisecond {
				t.Errorf("%s: the second attempt waited %s (0s: there was none): %v", name, waited, err)
			}
		})
	}
}

// Rule 27. Given a heartbeat timeout inside Guard, then it is reported when Guard returns. (The
// SDK's test environment checks its own timeouts at intervals of half a timeout.)
func TestGuard_HoldsReportOfStall(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		begun := time.Now()
		_, err := run(c, options{HeartbeatTimeout: 10 * time.Minute}, func(ctx activity.Context, _ int) (int, error) {
			if ctx.Info().Attempt == 2 {
				if d := time.Since(begun); d != 14*time.Minute {
					t.Errorf("the second attempt began after %s", d)
				}
				return 0, activity.Guard(ctx, func() error { return nil })
			}
			time.Sleep(time.Minute)
			checkErr(t, ctx.Heartbeat(), nil)
			checkErr(t, activity.Guard(ctx, func() error { return errBoom }), errBoom)
			err := activity.Guard(ctx, func() error {
				<-ctx.Done()
				if d := time.Since(begun); d != 11*time.Minute {
					t.Errorf("the attempt ended after %s", d)
				}
				time.Sleep(3 * time.Minute)
				return nil
			})
			checkErr(t, err, nil)
			err = activity.Guard(ctx, never)
			if !isTimeout(err, activity.TimeoutHeartbeat) {
				t.Errorf("got %v", err)
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
	})
}

// Rule 9. Given a function that always hangs, then the attempt after 11 of them is blocked until
// one returns. It sends heartbeats meanwhile.
func TestPlace_HangingFunctionsBlock(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		attempts := 0
		free := make(chan struct{})
		time.AfterFunc(10*time.Hour, func() { close(free) })
		opts := options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1, MaximumAttempts: 20}}
		_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			if attempts++; attempts == 12 {
				select {
				case <-free:
				default:
					t.Error("attempt 12 began beside 11 functions")
				}
				return 0, nil
			}
			checkErr(t, ctx.Heartbeat(), nil) // without one, the test environment ends the activity
			<-free
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		if attempts != 12 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

// Rule 18. Given an attempt that is blocked, when it is canceled, then it ends at once.
func TestPlace_BlockedAttemptIsCanceled(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		attempts := 0
		opts := options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1, MaximumAttempts: 20}}
		time.AfterFunc(time.Hour, func() { c.cancel(temporal.NewCanceledError()) })
		begun := time.Now()
		_, err := run(c, opts, func(ctx activity.Context, _ int) (int, error) {
			attempts++
			checkErr(t, ctx.Heartbeat(), nil)
			hangHere()
			return 0, nil
		}, 0)
		if canceled := (*temporal.CanceledError)(nil); !errors.As(err, &canceled) || time.Since(begun) != time.Hour || attempts != 11 {
			t.Errorf("got %v after %s and %d attempts", err, time.Since(begun), attempts)
		}
	})
}

// Given a context derived from an attempt's, when it is canceled, then the Context from
// FromContext returns its cause, and the attempt continues.
func TestFromContext_CanceledChild(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{HeartbeatTimeout: time.Hour, RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			child, cancel := context.WithCancelCause(context.WithValue(ctx, key{}, 1))
			found, ok := activity.FromContext(child)
			if !ok || found.Info().ID != ctx.Info().ID || found.Value(key{}) != 1 {
				t.Error("FromContext does not find it")
			}
			begun := time.Now()
			time.AfterFunc(time.Minute, func() { cancel(errBoom) })
			checkErr(t, found.Sleep(time.Hour), errBoom)
			if time.Since(begun) != time.Minute {
				t.Errorf("Sleep took %s", time.Since(begun))
			}
			checkErr(t, found.Heartbeat(1), errBoom)
			checkErr(t, ctx.Sleep(0), nil)
			return 0, errBoom
		}, 0)
		failure(t, err)
		if n := len(c.got()); n == 0 || c.got()[n-1] != "1" {
			t.Errorf("the server got the heartbeats %q", c.got())
		}
	})
}

// Given goroutines that outlive their function, then their Context has ended, and nothing is
// recorded.
func TestContext_OverAfterReturn(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		var left activity.Context
		_, err := run(c, options{HeartbeatTimeout: time.Hour}, func(ctx activity.Context, _ int) (int, error) {
			left = ctx
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
		synctest.Wait()
		for _, err := range []error{left.Heartbeat(1), left.Sleep(time.Hour), activity.Guard(left, never), context.Cause(left)} {
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "function has returned") {
				t.Errorf("got %v", err)
			}
		}
		checkBeats(t, c)
	})
}

// Given no function, or a Definition without a Name, then registering it panics with the
// reason.
func TestRegister_Refuses(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	for want, f := range map[string]func(){
		"ontemporal: Register: activity: the function is nil":  func() { ontemporal.Register[int, int](env, "f", nil) },
		"ontemporal: RegisterDefinition: Definition.Name must": func() { ontemporal.RegisterDefinition(env, &activity.Definition[int, int]{}) },
	} {
		func() {
			defer func() {
				if v := recover(); !strings.HasPrefix(fmt.Sprint(v), want) {
					t.Errorf("got %v, want %s", v, want)
				}
			}()
			f()
		}()
	}
}

// Given an empty name, then the activity type has the function's name.
func TestRegister_EmptyName(t *testing.T) {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet)
	env := suite.NewTestActivityEnvironment()
	ontemporal.Register(env, "", double)
	ontemporal.RegisterDefinition(env, &activity.Definition[int, int]{Name: "twice", Func: double})
	for _, name := range []string{"github.com/seed-9da638b0/activity/ontemporal_test.double", "twice"} {
		v, err := env.ExecuteActivity(name, 4)
		checkErr(t, err, nil)
		var out int
		if err := v.Get(&out); err != nil || out != 8 {
			t.Errorf("got %d, %v", out, err)
		}
	}
}

func double(_ activity.Context, in int) (int, error) { return 2 * in, nil }

// Rule 29. Given details that would not come back as they were, then Heartbeat refuses them,
// naming the type and the field, and the earlier details stay.
func TestHeartbeat_RefusesWhatWouldNotComeBack(t *testing.T) {
	type progress struct{ next int }
	for _, test := range []struct {
		details any
		want    string
	}{
		{progress{7}, "progress"},
		{struct {
			Rows []string
		}{[]string{"caf\xe9"}}, "Rows[]"},
	} {
		inCluster(t, func(t *testing.T, c *cluster) {
			_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
				if ctx.Info().Attempt == 1 {
					checkErr(t, ctx.Heartbeat(3), nil)
					if err := ctx.Heartbeat(test.details); !isNonRetryable(err) || !strings.Contains(err.Error(), test.want) {
						t.Errorf("Heartbeat(%#v): %v", test.details, err)
					}
					return 0, errBoom
				}
				if n, err := activity.Resume(ctx, 0); n != 3 || err != nil {
					t.Errorf("it resumes from %d, %v", n, err)
				}
				return 0, nil
			}, 0)
			checkErr(t, err, nil)
		})
	}
}

// Rule 2. Given a heartbeat with a single nil pointer, then the details stay.
func TestHeartbeat_NilPointerKeepsDetails(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		_, err := run(c, options{}, func(ctx activity.Context, _ int) (int, error) {
			if ctx.Info().Attempt == 1 {
				checkErr(t, ctx.Heartbeat(3), nil)
				checkErr(t, ctx.Heartbeat((*int)(nil)), nil)
				return 0, errBoom
			}
			if n, err := activity.Resume(ctx, 0); n != 3 || err != nil {
				t.Errorf("it resumes from %d, %v", n, err)
			}
			return 0, nil
		}, 0)
		checkErr(t, err, nil)
	})
}
