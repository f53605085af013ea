package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
	"unicode/utf8"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
)

// On a Temporal cluster the activity's function is the same, and what embedded.go
// does is done by others: the server keeps the checkpoint, and the function runs in
// a worker. Any worker may go on where another one ended, so all must see the same
// files under the same names.
//
// One thing the server cannot do: it does not wait until the manifest is on the
// disk before it takes a heartbeat. After a worker's loss of power the manifest may
// be shorter than was recorded. That is found out, the run ends with an error, and
// the next one starts over.

const taskQueue = "checksum"

// clusterOptions are those of embedded.go, but for what a server does not have.
func clusterOptions(id string) activity.Options {
	return activity.Options{
		ID:                  id,
		Name:                name,
		StartToCloseTimeout: 24 * time.Hour, // a server wants one
		HeartbeatTimeout:    *timeout,       // it also tells that a worker is gone
		AcceptNewInput:      true,           // write checks that what was done is the same in it
		// CancelGrace is its 10 s: a cancellation has to reach the worker first.
		// In place of ResetOnProgress there are many attempts, after the first ones 25 s apart.
		RetryPolicy: activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumAttempts: 100},
	}
}

func dial(ctx context.Context, screen *screen, level slog.Level) (client.Client, error) {
	return client.DialContext(ctx, client.Options{
		HostPort: *server, Namespace: *namespace,
		Logger: log.NewStructuredLogger(screen.logger(level)),
	})
}

// serve is a worker's life, and returns the exit code.
func serve(ctx context.Context, screen *screen) int {
	c, err := dial(ctx, screen, slog.LevelWarn)
	if err != nil {
		screen.say("%v", err)
		return 1
	}
	defer c.Close()
	fatal := make(chan error, 1)
	w := worker.New(c, taskQueue, worker.Options{
		DisableWorkflowWorker:        true,
		MaxHeartbeatThrottleInterval: time.Second, // what the server knows is not older
		WorkerStopTimeout:            10 * time.Second,
		OnFatalError:                 func(err error) { fatal <- err },
	})
	ontemporal.Register(w, name, newWriter(screen).write)
	if err := w.Start(); err != nil {
		screen.say("%v", err)
		return 1
	}
	screen.say("a worker of %s, until Ctrl-C", *server)
	select {
	case <-ctx.Done():
		w.Stop() // what it is at work on, another worker goes on with
		return 0
	case err := <-fatal:
		screen.say("%v", err)
		return 1
	}
}

// call has the manifest written by a worker, and returns the exit code.
func call(ctx context.Context, screen *screen, in job) int {
	in, err := in.absolute()
	if err != nil {
		screen.say("%v", err)
		return 1
	}
	c, err := dial(ctx, screen, slog.LevelError)
	if err != nil {
		return report(ctx, screen, progress{}, err, 0)
	}
	defer c.Close()

	start, id := time.Now(), name+" "+in.Manifest
	h, err := ontemporal.Start(ctx, c, taskQueue, clusterOptions(id), new(writer).write, in)
	if errors.Is(err, activity.ErrAlreadyRunning) {
		screen.say("%s is being written already, as an earlier caller asked; this one watches", show(in.Manifest))
		h, err = ontemporal.GetHandle[progress](c, id, ""), nil
		context.AfterFunc(ctx, func() { h.Cancel(context.Cause(ctx)) })
	}
	if err != nil {
		return report(ctx, screen, progress{}, err, 0)
	}
	for ended, lost := false, false; !ended; {
		select {
		case <-h.Done():
			ended = true
		case <-time.After(time.Second):
		}
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		status, err := h.Status(asking) // after its end, too, which may come within the second
		cancel()
		if err == nil {
			start = status.ScheduledAt
			screen.status(status)
		} else if !lost {
			screen.say("%v", err)
		}
		lost = err != nil
	}
	p, err := h.Wait(context.WithoutCancel(ctx))
	return report(ctx, screen, p, err, time.Since(start))
}

// absolute is j for a worker, whose working directory is another.
func (j job) absolute() (job, error) {
	paths := append([]string{j.Manifest}, j.Dirs...)
	for i, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return j, err
		}
		if !utf8.ValidString(abs) {
			return j, fmt.Errorf("%q: not UTF-8, so it cannot be told to a server", abs)
		}
		paths[i] = abs
	}
	return job{paths[0], paths[1:]}, nil
}
