// Checksum writes a SHA-256 manifest of all regular files under the given
// directories, as sha256sum -c accepts it. It hashes several files at once:
//
//	go run ./examples/checksum [flags] [DIR...]
//
// Without a DIR it hashes the source of the Go installation: some 10,000 files.
// The work is one activity (see package manifest), so that a hang or an error costs
// one file and not the whole run. To see it recover, run
//
//	go run ./examples/checksum -stall 5000
//
// If the process ends, even by kill -9, the same command hashes only the files that are
// not done, with any number of -workers. Until the manifest is finished, its checkpoint
// is beside it, in SHA256SUMS.checkpoint (see checkpoint.go), and so are the sums of the
// files that are done, in SHA256SUMS.checkpoint.sums (see manifest/output.go).
//
// Command ontemporal, in examples/ontemporal, runs the same activity on a Temporal
// cluster.
//
// The exit code is 1 if there is no manifest, or if files are missing from it because
// they could not be read. It is 2 for a usage error, and 130 after Ctrl-C or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
)

var (
	output   = flag.String("o", "SHA256SUMS", "write the manifest to this `file`")
	timeout  = flag.Duration("heartbeat-timeout", 2*time.Second, "the longest time without a heartbeat, after which an attempt has stalled; if zero, none does")
	workers  = flag.Int("workers", runtime.GOMAXPROCS(0), "hash this many files at once; it may change between runs")
	stall    = flag.Int("stall", 0, "hang at file `N`, once, to see the recovery")
	stallFor = flag.Duration("stall-for", 0, "with -stall: wake up after this long, and try to write although the attempt has timed out; if zero, hang forever")
	fail     = flag.Int("fail", 0, "fail at file `N`, once, to see the retry")
	verbose  = flag.Bool("v", false, "show the activity's events and the runtime's log")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: checksum [flags] [DIR...]\nWrites the SHA-256 sums of all regular files under DIR. Without a DIR it hashes Go's own source.")
		flag.PrintDefaults()
	}
	flag.Parse()
	// Ctrl-C stops the work, and so does SIGTERM, which docker stop sends. A second signal
	// ends the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, newScreen(os.Stderr, *verbose), flag.Args()))
}

// run returns the exit code.
func run(ctx context.Context, screen *screen, dirs []string) int {
	switch {
	case *workers < 1:
		screen.say("-workers must be at least 1 (got %d)", *workers)
		return 2
	case *stallFor < 0:
		screen.say("-stall-for must not be negative (got %s)", *stallFor)
		return 2
	case *stallFor > 0 && *stall == 0:
		screen.say("-stall-for %s needs -stall N, which says where to hang", *stallFor)
		return 2
	}
	if len(dirs) == 0 {
		source, err := manifest.GoSource()
		if err != nil {
			screen.say("%v", err)
			return 1
		}
		dirs = []string{source}
	}
	in := manifest.Job{Manifest: *output, Dirs: dirs}
	if err := in.Check(); err != nil {
		screen.say("%v", err)
		return 1
	}

	// The activity lists the files itself. They are listed here as well, so that a
	// wrong name is reported before anything is touched.
	ended := func() error { return context.Cause(ctx) }
	files, _, err := manifest.List(ended, in, func(string, ...any) {})
	switch {
	case ctx.Err() != nil:
		screen.say("interrupted before the first file")
		return 130
	case err != nil:
		screen.say("%s", manifest.Reason(err))
		return 1
	case *stall < 0 || *fail < 0 || max(*stall, *fail) > len(files):
		screen.say("-stall and -fail take the number of a file, and there are %d", len(files))
		return 2
	}

	store, err := openStore(in.Manifest)
	if err != nil {
		screen.say("cannot keep a checkpoint beside %s: %v", manifest.Quote(in.Manifest), err)
		return 1
	}
	defer store.Close()
	screen.files = files
	if screen.done, err = store.recall(files, screen.say); err != nil {
		screen.say("%s", manifest.Reason(err))
		return 1
	}
	if screen.count() > 0 {
		screen.done.To = len(files) // there may be more than in the previous run, or fewer
		screen.say("resuming at %s", screen.place())
	}
	return execute(ctx, screen, store, in)
}

// execute runs the activity, and returns the exit code.
func execute(ctx context.Context, screen *screen, store *manifestStore, in manifest.Job) int {
	var functions sync.WaitGroup // all that run, also after their attempts have timed out
	rt := activity.New(activity.Config{
		Store:    store,
		Observer: screen.observe,
		Logger:   screen.logger(slog.LevelError), // for what needs a person, such as a Store that fails
		Interceptor: func(ctx activity.Context, next func(activity.Context) error) error {
			functions.Add(1)
			defer functions.Done()
			err := next(ctx)
			if errors.Is(context.Cause(ctx), context.DeadlineExceeded) { // an *activity.TimeoutError
				screen.say("attempt %d woke up after its timeout, and was kept from writing", ctx.Info().Attempt)
			}
			return err
		},
	})
	w := &manifest.Writer{Workers: *workers, Say: screen.say}
	w.Trouble.StallAt, w.Trouble.StallFor, w.Trouble.FailAt = *stall, *stallFor, *fail
	opts := activity.Options{
		ID:               id,
		Name:             "checksum",
		HeartbeatTimeout: *timeout,
		CancelGrace:      time.Second,
		AcceptNewInput:   true, // because Write checks that the progress counts in the new input
		// Five attempts at any one file: with ResetOnProgress, the count starts again
		// when an attempt gets further.
		RetryPolicy: activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumAttempts: 5, ResetOnProgress: true},
	}
	start := time.Now()
	h, err := activity.Start(context.Background(), rt, opts, w.Write, in)
	if err == nil {
		select {
		case <-h.Done():
		case <-ctx.Done():
			signal.Reset() // before the user is told
			screen.say("stopping; a second signal ends the program at once")
		}
	}
	took := time.Since(start)
	if ctx.Err() == nil && *stallFor > 0 {
		functions.Wait() // to show that waking up does no harm
	}
	// The work stops at the next safe point. If it hangs, it is canceled after 20 s. Then
	// the store gets the last progress.
	if err := errors.Join(within(20*time.Second, rt.Drain), within(10*time.Second, rt.Shutdown)); err != nil {
		screen.say("%v", err)
	}
	var r manifest.Result
	if err == nil {
		r, err = h.Wait(context.Background())
	}
	screen.close()
	if err := store.leave(err != nil && screen.count() > 0); err != nil {
		screen.say("%v", err)
	}
	if err != nil {
		return explain(screen, err)
	}
	fmt.Printf("%s: %d files, %d bytes, in %s; attempts: %d\n", manifest.Quote(in.Manifest), r.Files, r.Bytes, took.Round(time.Millisecond), screen.attempts)
	if unread := r.Unread + r.UnreadDirs; unread > 0 {
		screen.say("WARNING: %d files or directories could not be read, see above", unread)
		return 1
	}
	return 0
}

// within calls end with a context that ends after d.
func within(d time.Duration, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return end(ctx)
}

// explain says why there is no manifest, and returns the exit code.
func explain(screen *screen, err error) int {
	code := 1
	var end *activity.Error
	switch errors.As(err, &end); {
	case end == nil: // it was never started
		screen.say("%v", err)
	case end.RetryState == activity.RetryStateCancelRequested:
		screen.say("interrupted")
		code = 130
	default:
		screen.say("%s", manifest.Reason(end.Err))
		screen.say("gave up in attempt %d (%s), at %s", end.Attempt, end.RetryState, screen.place())
	}
	if screen.count() > 0 {
		others := ""
		if n := len(screen.done.Done); n > 0 {
			others = fmt.Sprintf(", and %d others are done", n)
		}
		screen.say("%s has the first %d of %d files%s; run the same command to continue", manifest.Quote(*output), screen.done.Next, screen.done.To, others)
	}
	return code
}
