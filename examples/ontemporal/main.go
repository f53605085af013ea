// Ontemporal runs the activity of command checksum on a Temporal cluster. Its workers
// may be on as many machines as share the file system:
//
//	go run ./examples/ontemporal -worker
//	go run ./examples/ontemporal [flags] [DIR...]
//
// Without a DIR it hashes the source of the Go installation.
//
// If the worker that runs the activity is killed, another one continues. If the caller
// is killed, the same command finds the activity again. It prints the result even if
// the activity has ended in the meantime.
//
// The exit code is 1 if there is no manifest, or if files are missing from it because
// they could not be read. It is 2 for a usage error, and after Ctrl-C or SIGTERM it is
// 130, of a worker 0.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
	"github.com/seed-9da638b0/activity/ontemporal"
)

var (
	address   = flag.String("address", cmp.Or(os.Getenv("TEMPORAL_ADDRESS"), client.DefaultHostPort), "`HOST:PORT` of the Temporal server; the default is $TEMPORAL_ADDRESS, if set")
	namespace = flag.String("namespace", cmp.Or(os.Getenv("TEMPORAL_NAMESPACE"), client.DefaultNamespace), "namespace on the server; the default is $TEMPORAL_NAMESPACE, if set")
	taskQueue = flag.String("task-queue", "checksum", "task queue, by which callers find workers")
	verbose   = flag.Bool("v", false, "show the log of Temporal's SDK")

	asWorker = flag.Bool("worker", false, "be a worker, until Ctrl-C")
	stall    = flag.Int("stall", 0, "with -worker: hang at file `N`, once, to see the recovery")

	output  = flag.String("o", "SHA256SUMS", "write the manifest to this `file`")
	timeout = flag.Duration("heartbeat-timeout", 2*time.Second, "the longest time without a heartbeat, after which an attempt has stalled or its worker is gone; if zero, only 24 hours end an attempt")
)

const activityName = "checksum"

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: ontemporal -worker [flags]\n       ontemporal [flags] [DIR...]\nWorkers write the SHA-256 sums of all regular files under DIR. Without a DIR they hash Go's own source.")
		flag.PrintDefaults()
	}
	flag.Parse()
	// Ctrl-C cancels, and so does SIGTERM, which docker stop sends. A second signal ends
	// the program at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, flag.Args()))
}

// run returns the exit code.
func run(ctx context.Context, dirs []string) int {
	switch {
	case *asWorker && len(dirs) > 0:
		say("-worker takes no DIR, because its callers name them (got %q)", dirs)
		return 2
	case !*asWorker && *stall != 0:
		say("-stall %d needs -worker, because workers run the activity", *stall)
		return 2
	case *stall < 0:
		say("-stall must not be negative (got %d)", *stall)
		return 2
	case len(dirs) == 0 && !*asWorker:
		source, err := manifest.GoSource()
		if err != nil {
			say("%v", err)
			return 1
		}
		dirs = []string{source}
	}
	in := manifest.Job{Manifest: *output, Dirs: dirs}
	if err := in.Check(); err != nil && !*asWorker {
		say("%v", err)
		return 1
	}
	c, err := dial(ctx)
	if err != nil {
		say("%v", err)
		return 1
	}
	defer c.Close()
	if *asWorker {
		return serve(ctx, c)
	}
	return call(ctx, c, in)
}

func dial(ctx context.Context) (client.Client, error) {
	level := slog.LevelError
	switch {
	case *verbose:
		level = slog.LevelInfo
	case *asWorker:
		level = slog.LevelWarn // shows the stack of a function that hangs
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return client.DialContext(ctx, client.Options{HostPort: *address, Namespace: *namespace, Logger: log.NewStructuredLogger(logger)})
}

const stopTimeout = 5 * time.Second // docker stop kills after 10 s

// serve is a worker until ctx ends, and returns the exit code.
func serve(ctx context.Context, c client.Client) int {
	fatal := make(chan error, 1)
	w := worker.New(c, *taskQueue, worker.Options{
		DisableWorkflowWorker: true,
		WorkerStopTimeout:     stopTimeout,
		OnFatalError:          func(err error) { fatal <- err },
	})
	r := ontemporal.Registry(w, ontemporal.WorkerOptions{
		MaxHeartbeatThrottleInterval: time.Second, // what is lost of the progress if the worker is killed
		WorkerStopTimeout:            stopTimeout,
	})
	writer := &manifest.Writer{Say: say}
	writer.Trouble.StallAt = *stall
	ontemporal.Register(r, activityName, writer.Write)
	if err := w.Start(); err != nil {
		say("%v", err)
		return 1
	}
	say("a worker of %s, until Ctrl-C", *address)
	select {
	case <-ctx.Done():
		w.Stop() // another worker continues what this one was running
		return 0
	case err := <-fatal:
		say("%v", err)
		return 1
	}
}

// say prints a line for the user.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "ontemporal: "+format+"\n", args...) }
