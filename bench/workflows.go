package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/cschleiden/go-workflows/backend"
	"github.com/cschleiden/go-workflows/backend/monoprocess"
	"github.com/cschleiden/go-workflows/backend/sqlite"
	"github.com/cschleiden/go-workflows/client"
	"github.com/cschleiden/go-workflows/worker"
	"github.com/cschleiden/go-workflows/workflow"
)

// workflowsRunner returns a runner of workflows with one activity each. A worker of
// go-workflows in this process runs them on an SQLite file. If path is empty, SQLite is in
// memory.
func workflowsRunner(path string) (runner, error) {
	quiet := sqlite.WithBackendOptions(backend.WithLogger(slog.New(slog.DiscardHandler)))
	var db backend.Backend
	if path == "" {
		db = sqlite.NewInMemoryBackend(quiet)
	} else {
		db = sqlite.NewSqliteBackend(path, quiet)
	}
	db = monoprocess.NewMonoprocessBackend(db)
	ctx, cancel := context.WithCancel(context.Background())
	w := worker.New(db, nil)
	err := errors.Join(w.RegisterWorkflow(oneActivity), w.RegisterActivity(addOne))
	if err == nil {
		err = w.Start(ctx)
	}
	if err != nil {
		cancel()
		return runner{}, errors.Join(err, db.Close())
	}
	c := client.New(db)
	var instances atomic.Int64
	return runner{
		each: func(ran *int) func() error {
			return func() error {
				opts := client.WorkflowInstanceOptions{InstanceID: fmt.Sprintf("no-op-%d", instances.Add(1))}
				instance, err := c.CreateWorkflowInstance(ctx, opts, oneActivity, 0)
				if err != nil {
					return err
				}
				n, err := client.GetWorkflowResult[int](ctx, c, instance, time.Minute)
				*ran += n
				return err
			}
		},
		close: func() error {
			cancel()
			return errors.Join(w.WaitForCompletion(), db.Close())
		},
	}, nil
}

func oneActivity(ctx workflow.Context, n int) (int, error) {
	return workflow.ExecuteActivity[int](ctx, workflow.DefaultActivityOptions, addOne, n).Get(ctx)
}

func addOne(ctx context.Context, n int) (int, error) { return n + 1, ctx.Err() }

func tempDir() (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp("", "bench-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}

// closing returns r with a function that is called after its close.
func closing(r runner, then func() error) runner {
	first := r.close
	r.close = func() error {
		if first == nil {
			return then()
		}
		return errors.Join(first(), then())
	}
	return r
}
