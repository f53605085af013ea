package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"

	"github.com/seed-9da638b0/activity"
)

const (
	startToClose     = time.Hour
	heartbeatTimeout = 10 * time.Second
)

func bothTimeouts() activity.Options {
	return activity.Options{StartToCloseTimeout: startToClose, HeartbeatTimeout: heartbeatTimeout}
}

const workflowsOnFile = "go-workflows, SQLite file"

// A way is a way to run an activity that only counts.
type way struct {
	name, remark string
	group        string // see row
	ours         bool   // see row
	most         int    // see row
	alone        bool   // it is measured only from one goroutine
	busy         bool   // see row
	open         func() (runner, error)
}

// An eachFunc returns, for one goroutine, the function that runs an activity and adds 1 to
// ran.
type eachFunc func(ran *int) func() error

type runner struct {
	each  eachFunc
	close func() error
}

// underCancelable opens a runner under a context that can be canceled, as the context of
// a request or of a main function with signal handling can.
func underCancelable(each func(ctx context.Context) eachFunc) func() (runner, error) {
	return func() (runner, error) {
		ctx, cancel := context.WithCancel(context.Background())
		return runner{each: each(ctx), close: func() error { cancel(); return nil }}, nil
	}
}

// underBackground opens a runner under context.Background.
func underBackground(each func(ctx context.Context) eachFunc) func() (runner, error) {
	return func() (runner, error) { return runner{each: each(context.Background())}, nil }
}

// ways returns the ways in the order of the table. The first ones have what users pay for:
// a function that looks at its context, and a caller that can cancel. The no-op is last.
func ways() []way {
	const noOp = "no-op" // the group
	return []way{
		{
			name: "floor: spawn and join", remark: "a goroutine and a channel: no timeout, no context",
			open: underBackground(func(context.Context) eachFunc {
				return func(ran *int) func() error {
					return func() error {
						done := make(chan struct{})
						go func() { *ran++; close(done) }()
						<-done
						return nil
					}
				}
			}),
		},
		{
			name: "by hand", remark: "context.WithTimeout, goroutine, select, heartbeat timer: no retry, no details",
			open: underCancelable(func(ctx context.Context) eachFunc {
				return func(ran *int) func() error {
					f := func(ctx context.Context, _ func()) error { *ran++; return ctx.Err() }
					return func() error { return runByHand(ctx, startToClose, heartbeatTimeout, f) }
				}
			}),
		},
		{
			name: "this package, Run", ours: true,
			open: underCancelable(func(ctx context.Context) eachFunc {
				rt := activity.New(activity.Config{})
				return func(ran *int) func() error {
					f := func(ctx activity.Context) error { *ran++; return ctx.Err() }
					return func() error { return rt.Run(ctx, bothTimeouts(), f) }
				}
			}),
		},
		{
			name: "this package, Execute", remark: "with an input and a result",
			open: underCancelable(func(ctx context.Context) eachFunc {
				rt := activity.New(activity.Config{})
				return func(ran *int) func() error {
					f := func(ctx activity.Context, in int) (int, error) { *ran += in; return in, ctx.Err() }
					return func() error {
						out, err := activity.Execute(ctx, rt, bothTimeouts(), f, 1)
						if err == nil && out != 1 {
							err = fmt.Errorf("got the result %d, want 1", out)
						}
						return err
					}
				}
			}),
		},
		{
			name: "failsafe-go, sync", remark: "Timeout and RetryPolicy, RunWithExecution: no heartbeat; waits for a function that hangs",
			open: underCancelable(func(ctx context.Context) eachFunc {
				ex := failsafeExecutor().WithContext(ctx)
				return func(ran *int) func() error {
					f := func(e failsafe.Execution[any]) error { *ran++; return e.Context().Err() }
					return func() error { return ex.RunWithExecution(f) }
				}
			}),
		},
		{
			name: "failsafe-go, async", remark: "Timeout and RetryPolicy, RunAsyncWithExecution and wait: no heartbeat",
			open: underCancelable(func(ctx context.Context) eachFunc {
				ex := failsafeExecutor().WithContext(ctx)
				return func(ran *int) func() error {
					f := func(e failsafe.Execution[any]) error { *ran++; return e.Context().Err() }
					return func() error { return ex.RunAsyncWithExecution(f).Error() }
				}
			}),
		},
		{
			name: "cenkalti/backoff", remark: "retry only: no timeout, no heartbeat, no goroutine; the function looks at the caller's context",
			open: underCancelable(func(ctx context.Context) eachFunc {
				return func(ran *int) func() error {
					f := func() (struct{}, error) { *ran++; return struct{}{}, ctx.Err() }
					return func() error {
						_, err := backoff.Retry(ctx, f)
						return err
					}
				}
			}),
		},
		{
			name: "Temporal SDK, TestActivityEnvironment", remark: "a test tool: no server, no retry, no heartbeat timeout; encodes results",
			alone: true,
			open:  underCancelable(temporalEach),
		},
		{
			name: "go-workflows, in memory", remark: "a workflow with one activity, on SQLite in memory, with a history; no timeouts; its client polls for the end",
			most: 1000, busy: true,
			open: func() (runner, error) { return workflowsRunner("") },
		},
		{
			name: workflowsOnFile, remark: "the same, and durable",
			most: 200, busy: true,
			open: func() (runner, error) {
				dir, remove, err := tempDir()
				if err != nil {
					return runner{}, err
				}
				r, err := workflowsRunner(filepath.Join(dir, "workflows.db"))
				return closing(r, remove), err
			},
		},
		{
			name: "no-op: by hand", remark: "the function never looks at its context; the caller's context is context.Background", group: noOp,
			open: underBackground(func(ctx context.Context) eachFunc {
				return func(ran *int) func() error {
					f := func(context.Context, func()) error { *ran++; return nil }
					return func() error { return runByHand(ctx, startToClose, heartbeatTimeout, f) }
				}
			}),
		},
		{
			name: "no-op: this package, Run", remark: "the same", group: noOp, ours: true,
			open: underBackground(func(ctx context.Context) eachFunc {
				rt := activity.New(activity.Config{})
				return func(ran *int) func() error {
					f := func(activity.Context) error { *ran++; return nil }
					return func() error { return rt.Run(ctx, bothTimeouts(), f) }
				}
			}),
		},
	}
}

// runByHand is what a program without a library contains. It has no retry and no details.
func runByHand(ctx context.Context, startToClose, heartbeat time.Duration, f func(ctx context.Context, beat func()) error) error {
	ctx, cancel := context.WithTimeout(ctx, startToClose)
	defer cancel()
	stalled := make(chan struct{})
	timer := time.AfterFunc(heartbeat, func() { close(stalled) })
	defer timer.Stop()
	done := make(chan error, 1)
	go func() { done <- f(ctx, func() { timer.Reset(heartbeat) }) }()
	select {
	case err := <-done:
		return err
	case <-stalled:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failsafeExecutor returns an executor with a timeout for each attempt, which corresponds to
// the start-to-close timeout.
func failsafeExecutor() failsafe.Executor[any] {
	return failsafe.With(retrypolicy.NewWithDefaults[any](), failsafe.Policy[any](timeout.New[any](startToClose)))
}

// row returns a row that measures the way from several goroutines at once. With one, it
// uses the caller's goroutine.
func (w way) row(goroutines int) row {
	return row{name: w.name, remark: w.remark, group: w.group, ours: w.ours, least: goroutines, most: w.most, busy: w.busy, open: func() (subject, error) {
		r, err := w.open()
		if err != nil {
			return subject{}, err
		}
		ran := make([]*[16]int, goroutines) // one counter for each, on cache lines of its own
		runs := make([]func() error, goroutines)
		for i := range runs {
			ran[i] = new([16]int)
			runs[i] = r.each(&ran[i][0])
		}
		before := 0
		return subject{measure: timed(func(n int) error { return fromMany(n, runs) }, func(n int) error {
			did := -before
			for _, r := range ran {
				did += r[0]
			}
			before += did
			return same(did, n, "activities")
		}), close: r.close}, nil
	}}
}

// same returns an error if the operations did not do their work.
func same(did, n int, what string) error {
	if did != n {
		return fmt.Errorf("got %d %s, want %d", did, what, n)
	}
	return nil
}

// fromMany calls each function in a goroutine of its own, n times in all.
func fromMany(n int, fs []func() error) error {
	if len(fs) == 1 {
		return repeat(n, fs[0])
	}
	errs := make(chan error, len(fs))
	for i, f := range fs {
		share := n / len(fs)
		if i < n%len(fs) {
			share++
		}
		go func() { errs <- repeat(share, f) }()
	}
	var first error
	for range fs {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func repeat(n int, f func() error) error {
	for range n {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func runSections() []section {
	procs := runtime.GOMAXPROCS(0)
	sequential := section{
		name: "run", title: "One activity that looks at its context, sequentially",
		text: "The function calls ctx.Err() once, and the caller's context can be canceled (context.WithCancel). " +
			"The start-to-close timeout is 1 h and the heartbeat timeout is 10 s, if the row has them. " +
			"The no-op rows are compared with the no-op Run. ns: from the call to its return.",
	}
	parallel := section{
		name: "run, parallel", title: fmt.Sprintf("The same from %d goroutines", procs),
		text: "ns: the elapsed time divided by the number of activities. On a perfect machine, it is the number above divided by the cores.",
	}
	for _, w := range ways() {
		sequential.rows = append(sequential.rows, w.row(1))
		if w.ours && w.group == "" {
			one := w.row(1)
			one.name, one.remark, one.ours = w.name+", sequential", "for comparison", false
			parallel.rows = append(parallel.rows, one)
		}
		if !w.alone {
			parallel.rows = append(parallel.rows, w.row(procs))
		}
	}
	return []section{sequential, parallel}
}
