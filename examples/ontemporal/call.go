package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unicode/utf8"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
	"github.com/seed-9da638b0/activity/ontemporal"
)

// The function is that of the embedded example. What that example does with a Runtime
// and a Store, the server does: it keeps the progress, and any worker may continue
// where another one ended. So all workers must see the same files under the same names.
//
// One thing a server cannot do: it does not wait until the sums are on disk before it
// takes a heartbeat. After a worker has lost power, sums of files that are recorded as done
// may be missing. The next attempt finds that out, and starts over.

// options are those of the embedded example, as far as a server has them.
func options(id string) activity.Options {
	return activity.Options{
		ID:                  id,
		Name:                activityName,
		StartToCloseTimeout: 24 * time.Hour, // a server requires one
		HeartbeatTimeout:    *timeout,       // also notices a worker that was killed
		AcceptNewInput:      true,           // because Write checks that the progress counts in the new input
		// In place of ResetOnProgress there are many attempts, at most 25 s apart.
		RetryPolicy: activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumInterval: 25 * time.Second, MaximumAttempts: 100},
	}
}

// call has a worker write the manifest, and returns the exit code.
func call(ctx context.Context, c client.Client, in manifest.Job) int {
	in, err := absolute(in)
	if err != nil {
		say("%v", err)
		return 1
	}
	// It has the run ID of the execution until its result is printed. Its name begins
	// with that of the checkpoint file, so it is not hashed.
	runFile := manifest.CheckpointFile(in.Manifest) + ".run"
	h, err := start(ctx, c, in, runFile)
	if err != nil {
		return explain(err, activity.RangeProgress{})
	}
	context.AfterFunc(ctx, func() { h.Cancel(context.Cause(ctx)) })
	seen := &watcher{out: os.Stderr}
	r, err := seen.watch(ctx, h)
	defer os.Remove(runFile)
	if err != nil {
		return explain(err, seen.done)
	}
	os.Remove(manifest.SumsFile(in.Manifest))
	fmt.Printf("%s: %d files, %d bytes; attempts: %d\n", manifest.Quote(*output), r.Files, r.Bytes, seen.attempts)
	if unread := r.Unread + r.UnreadDirs; unread > 0 {
		say("WARNING: %d files or directories could not be read, see the worker's output", unread)
		return 1
	}
	return 0
}

// start starts the activity. If an earlier caller has done so, and nobody has printed
// the result, it returns that execution, whether or not it has ended.
func start(ctx context.Context, c client.Client, in manifest.Job, runFile string) (*ontemporal.Handle[manifest.Result], error) {
	id := activityName + " " + in.Manifest
	if run, err := os.ReadFile(runFile); err == nil {
		h := ontemporal.GetHandle[manifest.Result](c, id, string(run))
		_, err := h.Status(ctx)
		if err == nil {
			say("an earlier caller has started the activity; this one shows its result")
			return h, nil
		}
		if forgotten := (*serviceerror.NotFound)(nil); !errors.As(err, &forgotten) {
			return nil, err
		}
	}
	h, err := ontemporal.Start(ctx, c, *taskQueue, options(id), new(manifest.Writer).Write, in)
	if errors.Is(err, activity.ErrAlreadyRunning) {
		say("an earlier caller has started the activity; this one shows its result")
		h, err = ontemporal.GetHandle[manifest.Result](c, id, ""), nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(runFile, []byte(h.RunID()), 0o666); err != nil {
		say("if this caller is killed, the next one may not find the result: %v", err)
	}
	return h, nil
}

// A watcher shows the progress of an activity from the statuses that the server gives.
type watcher struct {
	out      io.Writer
	attempts int
	waiting  bool // for a worker
	done     activity.RangeProgress
}

// watch shows the activity's progress until it has ended, and returns its result. If
// ctx ends, the activity is being canceled, and that end is waited for.
func (w *watcher) watch(ctx context.Context, h *ontemporal.Handle[manifest.Result]) (manifest.Result, error) {
	ctx = context.WithoutCancel(ctx)
	for ended, lost := false, false; !ended; {
		select {
		case <-h.Done():
			ended = true
		case <-time.After(time.Second):
		}
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		status, err := h.Status(asking) // also at the end, because an activity may be done within the second
		cancel()
		if err == nil {
			w.show(status)
		} else if !lost {
			say("%v", err)
		}
		lost = err != nil
	}
	return h.Wait(ctx)
}

func (w *watcher) show(now activity.Status) {
	if waits := now.State == activity.StateWaiting; waits != w.waiting {
		if w.waiting = waits; waits {
			fmt.Fprintln(w.out, "ontemporal: waiting for a worker")
		}
	}
	var p activity.RangeProgress
	recorded, err := now.HeartbeatDetails(&p)
	recorded = recorded && err == nil
	if recorded && w.done.To == 0 { // a caller that comes later
		w.advance(p)
	}
	if now.Attempt > w.attempts {
		w.attempts = now.Attempt
		if now.Attempt > 1 && now.LastFailure != nil {
			fmt.Fprintf(w.out, "ontemporal: recovered: attempt %d %s; attempt %d continues at %s\n",
				now.Attempt-1, failure(now.LastFailure), now.Attempt, manifest.Place(w.done, nil))
		}
	}
	if recorded {
		w.advance(p)
	}
}

// failure says how an attempt has failed.
func failure(err error) string {
	var timeout *activity.TimeoutError
	if errors.As(err, &timeout) && timeout.Type == activity.TimeoutHeartbeat {
		return fmt.Sprintf("stalled: no heartbeat for %s", timeout.After)
	}
	return fmt.Sprintf("failed: %v", err)
}

// advance shows each tenth of the files.
func (w *watcher) advance(p activity.RangeProgress) {
	if p.To > 0 && p.Next*10/p.To > w.done.Next*10/p.To {
		fmt.Fprintf(w.out, "ontemporal: %d of %d files\n", p.Next, p.To)
	}
	w.done = p
}

// explain says why there is no manifest, and returns the exit code.
func explain(err error, done activity.RangeProgress) int {
	code := 1
	var end *activity.Error
	switch errors.As(err, &end); {
	case end == nil: // it was never started
		say("%v", err)
	case end.RetryState == activity.RetryStateCancelRequested:
		say("interrupted")
		code = 130
	default:
		say("%s", manifest.Reason(end.Err))
		say("gave up in attempt %d (%s), at %s", end.Attempt, end.RetryState, manifest.Place(done, nil))
	}
	if done.Next > 0 {
		say("%s has the first %d of %d files; run the same command to continue", manifest.Quote(*output), done.Next, done.To)
	}
	return code
}

// absolute returns the job for workers, whose working directories differ.
func absolute(in manifest.Job) (manifest.Job, error) {
	paths := append([]string{in.Manifest}, in.Dirs...)
	for i, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return in, err
		}
		if !utf8.ValidString(abs) {
			return in, fmt.Errorf("%q: not UTF-8, so it cannot be sent to a server", abs)
		}
		paths[i] = abs
	}
	return manifest.Job{Manifest: paths[0], Dirs: paths[1:]}, nil
}
