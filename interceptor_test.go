package activity_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 14. Given an Interceptor that gives up on next in a goroutine of its own, when the
// function then returns, panics or calls Goexit there, then the attempt has the Interceptor's
// result, and nothing of the function's.
func TestInterceptor_GivesUpOnNext(t *testing.T) {
	for name, end := range map[string]func(){
		"returns": func() {}, "panics": func() { panic("ouch") }, "Goexit": runtime.Goexit,
	} {
		for _, result := range []error{nil, errBoom} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					late := make(chan error, 1)
					rt := activity.New(activity.Config{Logger: quiet, Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
						go func() { late <- next(ctx) }()
						time.Sleep(time.Second)
						return result
					}})
					out, err := activity.Execute(t.Context(), rt, activity.Options{RetryPolicy: once}, func(ctx activity.Context, _ int) (string, error) {
						<-ctx.Done()
						end()
						return "late", nil
					}, 0)
					if result == nil {
						checkErr(t, err, nil)
					} else {
						checkEnd(t, err, 1, activity.RetryStateMaximumAttemptsReached, errBoom)
					}
					if out != "" {
						t.Errorf("the result is %q", out)
					}
					synctest.Wait()
					var p *activity.PanicError
					select {
					case err := <-late:
						if (name == "panics") != errors.As(err, &p) {
							t.Errorf("next returned %v", err)
						}
					default:
						if name != "Goexit" {
							t.Error("next has not returned")
						}
					}
				})
			})
		}
	}
}

// Rule 14. Given a function that panics, then next returns that as an error, with the stack
// of the panic, and the Interceptor decides.
func TestInterceptor_FunctionPanics(t *testing.T) {
	for name, swallow := range map[string]bool{"passed on": false, "swallowed": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
				err := next(ctx)
				var p *activity.PanicError
				if !errors.As(err, &p) || p.Value != "ouch" || !strings.Contains(string(p.Stack), "panicHere") {
					t.Errorf("next returned %v", err)
				}
				if swallow {
					return nil
				}
				return err
			}}, func(t *testing.T, rt *activity.Runtime) {
				err := rt.Run(context.Background(), activity.Options{RetryPolicy: once}, func(activity.Context) error { panicHere("ouch"); return nil })
				var p *activity.PanicError
				if errors.As(err, &p) == swallow {
					t.Errorf("the error is %v", err)
				}
			})
		})
	}
}

// Rule 14. Given an Interceptor that has returned, or whose attempt has timed out, when it
// calls next afterwards, then the function is not called, and next returns the cause.
func TestInterceptor_NextAfterTheEnd(t *testing.T) {
	for name, stalls := range map[string]bool{"returned": false, "timed out": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				late := make(chan error, 1)
				rt := activity.New(activity.Config{Logger: quiet, Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
					go func() {
						time.Sleep(time.Minute)
						late <- next(ctx)
					}()
					if stalls {
						time.Sleep(time.Hour)
					}
					return errBoom
				}})
				err := rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Second, RetryPolicy: once}, func(activity.Context) error { t.Error("it runs"); return nil })
				checkEnd(t, err, 1, activity.RetryStateMaximumAttemptsReached)
				if err := <-late; errors.Is(err, context.DeadlineExceeded) != stalls || err == nil {
					t.Errorf("next returned %v", err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}
