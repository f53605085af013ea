package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
)

// embed has the manifest written in this process, and returns the exit code.
func embed(ctx context.Context, screen *screen, in job) int {
	// The activity lists the files itself. Here it is for the user, who hears of a
	// wrong name before anything is touched.
	ended := func() error { return context.Cause(ctx) }
	files, _, err := list(ended, in.Dirs, in.Manifest, func(string, ...any) {})
	switch {
	case ctx.Err() != nil:
		screen.say("interrupted before the first file")
		return 130
	case err != nil:
		screen.say("%s", reason(err))
		return 1
	case *stall < 0 || *fail < 0 || max(*stall, *fail) > len(files):
		screen.say("-stall and -fail take the number of a file, and there are %d", len(files))
		return 2
	}

	store, err := openStore(in.Manifest)
	if err != nil {
		screen.say("cannot keep a checkpoint beside %s: %v", show(in.Manifest), err)
		return 1
	}
	defer store.Close()
	done, err := store.recall(files, screen.say)
	if err != nil {
		screen.say("%s", reason(err))
		return 1
	}
	if screen.done = done.in(files); done.Next > 0 {
		screen.say("going on with %s", screen.place())
	}
	var running sync.WaitGroup // functions, those of attempts that are over included
	rt := activity.New(activity.Config{
		Store:    store,
		Observer: screen.observe,
		Logger:   screen.logger(slog.LevelError), // what needs a person, such as a store that fails
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			running.Add(1)
			defer running.Done()
			err := next(ctx)
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) { // an *activity.TimeoutError
				screen.say("attempt %d woke up too late, and was kept from writing", ctx.Info().Attempt)
			}
			return err
		},
	})
	opts := activity.Options{
		ID:               id,
		Name:             name,
		HeartbeatTimeout: *timeout,
		CancelGrace:      time.Second,
		AcceptNewInput:   true, // write checks that what was done is the same in it
		// Five attempts at any one file: with ResetOnProgress the count starts
		// again when an attempt gets further.
		RetryPolicy: activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumAttempts: 5, ResetOnProgress: true},
	}
	start := time.Now()
	p, err := activity.Execute(ctx, rt, opts, newWriter(screen).write, in)
	took := time.Since(start)
	if err == nil && *stallFor > 0 {
		running.Wait() // to show that waking up does no harm
	}
	screen.close()
	if err := store.leave(rt, err != nil && screen.done.Next > 0); err != nil {
		screen.say("%v", err)
	}
	return report(ctx, screen, p, err, took)
}
