// Checksum writes a SHA-256 manifest of all regular files under the directories
// given, which sha256sum -c accepts:
//
//	go run ./examples/checksum [flags] [DIR...]
//
// Without a DIR it takes the source of the Go installation: some 10,000 files.
// The work is one activity (see manifest.go), so that a hang or an error costs
// one file and not the whole run. To see it recover:
//
//	go run ./examples/checksum -stall 500
//
// The end of the process costs no more: until the manifest is finished, its
// checkpoint stands beside it in SHA256SUMS.checkpoint (see checkpoint.go). Kill
// it at any moment, run the same command, and it goes on with the next file.
//
// The exit code is 1 if there is no manifest, or one that lacks files that
// could not be read; 2 for a wrong flag, 130 after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	manifest = flag.String("o", "SHA256SUMS", "write the manifest to this `file`")
	timeout  = flag.Duration("heartbeat-timeout", 2*time.Second, "how long without a sign of life is a stall; 0: nothing is")
	stall    = flag.Int("stall", 0, "hang at file `N`, once, to see the recovery")
	stallFor = flag.Duration("stall-for", 0, "with -stall: wake up after this long, once the attempt is given up, and try to write; 0: never")
	fail     = flag.Int("fail", 0, "fail at file `N`, once")
	verbose  = flag.Bool("v", false, "show the activity's events and the runtime's log")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: checksum [flags] [DIR...]\nWrites the SHA-256 sums of all regular files under DIR, or of Go's own source.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, flag.Args()))
}

// run returns the exit code.
func run(ctx context.Context, dirs []string) int {
	say := newScreen(os.Stderr, nil, false).say
	if len(dirs) == 0 {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			say("cannot find Go's own source, name a directory: %v", err)
			return 1
		}
		dirs = []string{filepath.Join(strings.TrimSpace(string(root)), "src")}
	}
	info, err := os.Stat(*manifest)
	if err == nil && !info.Mode().IsRegular() {
		say("%s: not a regular file, so it cannot be the manifest", show(*manifest))
		return 1
	}
	files, unread, err := list(ctx, dirs, *manifest, say)
	switch {
	case ctx.Err() != nil:
		say("interrupted before the first file")
		return 130
	case err != nil:
		say("%s", reason(err))
		return 1
	case *stall < 0 || *fail < 0 || max(*stall, *fail) > len(files):
		say("-stall and -fail take the number of a file, and there are %d", len(files))
		return 2
	}

	store, err := openStore(*manifest)
	if err != nil {
		say("cannot keep a checkpoint beside %s: %v", show(*manifest), err)
		return 1
	}
	defer store.Close()
	done, err := store.recall(files, say)
	if err != nil {
		say("%s", reason(err))
		return 1
	}
	screen := newScreen(os.Stderr, files, *verbose)
	if screen.done = done; done.Next > 0 {
		screen.say("going on with %s", screen.place())
	}
	j := &job{manifest: *manifest, files: files, say: screen.say, trouble: trouble{stallAt: *stall, stallFor: *stallFor, failAt: *fail}}
	var running sync.WaitGroup // functions, those of attempts that are over included
	level := slog.LevelError   // what needs a person, such as a store that fails
	if *verbose {
		level = slog.LevelInfo
	}
	cfg := activity.Config{
		Store:    store,
		Observer: screen.observe,
		Logger:   slog.New(slog.NewTextHandler(screen, &slog.HandlerOptions{Level: level})),
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			running.Add(1)
			defer running.Done()
			err := next(ctx)
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) { // an *activity.TimeoutError
				screen.say("attempt %d woke up too late, and was kept from writing", ctx.Info().Attempt)
			}
			return err
		},
	}
	opts := activity.Options{
		ID:               id,
		Name:             "checksum",
		HeartbeatTimeout: *timeout,
		CancelGrace:      time.Second,
		// Five attempts at any one file: with ResetOnProgress the count starts
		// again when an attempt gets further.
		RetryPolicy: activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumAttempts: 5, ResetOnProgress: true},
	}

	rt := activity.New(cfg)
	start := time.Now()
	p, err := activity.Execute(ctx, rt, opts, j.write, struct{}{})
	took := time.Since(start)
	if err == nil && *stallFor > 0 {
		running.Wait() // to show that waking up does no harm
	}
	screen.close()
	n := screen.done.Next
	if err := store.leave(rt, err != nil && n > 0); err != nil {
		say("%v", err)
	}

	if err != nil {
		code := 1
		var end *activity.Error
		switch {
		case ctx.Err() != nil:
			code = 130
			say("interrupted")
		case errors.As(err, &end):
			say("%s", reason(end.Err))
			say("gave up in attempt %d (%s), at %s", end.Attempt, end.RetryState, screen.place())
		default: // it was never started
			say("%v", err)
		}
		if n > 0 {
			say("%s is left with the first %d of %d files; run the same command to go on", show(*manifest), n, len(files))
		}
		return code
	}
	fmt.Printf("%s: %d files, %d bytes, in %s; attempts: %d\n", show(*manifest), p.Next-p.Unread, p.Bytes, took.Round(time.Millisecond), screen.attempts)
	for _, r := range screen.recoveries {
		fmt.Printf("recovered: %s\n", r)
	}
	if unread += p.Unread; unread > 0 {
		say("WARNING: %d files or directories could not be read, see above", unread)
		return 1
	}
	return 0
}

// trouble is what -stall and -fail ask for. Each strikes once.
type trouble struct {
	stallAt, failAt int           // files, counted from 1; 0: none
	stallFor        time.Duration // 0: for ever
	stalled, failed atomic.Bool
}

// strike stands for what goes wrong in real life: a call that hangs and does not
// listen to its context, or an error.
func (t *trouble) strike(ctx activity.Context, file int, say func(string, ...any)) error {
	switch {
	case file == t.stallAt && t.stalled.CompareAndSwap(false, true):
		say("hanging at file %d, as -stall asks", file)
		if t.stallFor == 0 {
			select {}
		}
		time.Sleep(t.stallFor)
		<-ctx.Done() // not before the attempt is given up: too late for sure
	case file == t.failAt && t.failed.CompareAndSwap(false, true):
		return errors.New("an error, as -fail asks")
	}
	return nil
}
