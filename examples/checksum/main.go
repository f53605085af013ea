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
// The same activity runs on a Temporal cluster (see cluster.go), in workers on as
// many machines as there are with the same file system:
//
//	go run ./examples/checksum -temporal HOST:PORT -worker
//	go run ./examples/checksum -temporal HOST:PORT [flags] [DIR...]
//
// Kill the worker that is at work, and another one goes on. Kill the caller, run
// the same command, and it finds the activity again.
//
// The exit code is 1 if there is no manifest, or one that lacks files that
// could not be read; 2 for a wrong flag, 130 after Ctrl-C (of a worker: 0).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	manifest  = flag.String("o", "SHA256SUMS", "write the manifest to this `file`")
	timeout   = flag.Duration("heartbeat-timeout", 2*time.Second, "how long without a sign of life is a stall; 0: nothing is")
	stall     = flag.Int("stall", 0, "hang at file `N`, once, to see the recovery")
	stallFor  = flag.Duration("stall-for", 0, "with -stall: wake up after this long, once the attempt is given up, and try to write; 0: never")
	fail      = flag.Int("fail", 0, "fail at file `N`, once")
	verbose   = flag.Bool("v", false, "show the activity's events and the runtime's log")
	server    = flag.String("temporal", "", "have it done by the workers of the Temporal server at `HOST:PORT`")
	namespace = flag.String("namespace", "default", "with -temporal: the namespace")
	asWorker  = flag.Bool("worker", false, "with -temporal: be such a worker, until Ctrl-C; -stall and -fail are its flags then")
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "Usage: checksum [flags] [DIR...]\nWrites the SHA-256 sums of all regular files under DIR, or of Go's own source.")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, newScreen(os.Stderr, *verbose), flag.Args()))
}

// run returns the exit code.
func run(ctx context.Context, screen *screen, dirs []string) int {
	switch troubled := *stall != 0 || *fail != 0; {
	case *asWorker && *server == "":
		screen.say("-worker needs -temporal")
		return 2
	case *asWorker && len(dirs) > 0:
		screen.say("a worker takes no DIR: its callers name them")
		return 2
	case *asWorker:
		return serve(ctx, screen)
	case *server != "" && troubled:
		screen.say("with -temporal, -stall and -fail are for the -worker")
		return 2
	}
	if len(dirs) == 0 {
		root, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			screen.say("cannot find Go's own source, name a directory: %v", err)
			return 1
		}
		dirs = []string{filepath.Join(strings.TrimSpace(string(root)), "src")}
	}
	info, err := os.Stat(*manifest)
	if err == nil && !info.Mode().IsRegular() {
		screen.say("%s: not a regular file, so it cannot be the manifest", show(*manifest))
		return 1
	}
	if *server != "" {
		return call(ctx, screen, job{*manifest, dirs})
	}
	return embed(ctx, screen, job{*manifest, dirs})
}

// name is the activity's, on both engines.
const name = "checksum"

func newWriter(screen *screen) *writer {
	return &writer{say: screen.say, trouble: trouble{stallAt: *stall, stallFor: *stallFor, failAt: *fail}}
}

// report tells how the activity has ended, and returns the exit code.
func report(ctx context.Context, screen *screen, p progress, err error, took time.Duration) int {
	screen.close()
	if err != nil {
		code := 1
		var end *activity.Error
		switch {
		case ctx.Err() != nil:
			code = 130
			screen.say("interrupted")
		case errors.As(err, &end):
			screen.say("%s", reason(end.Err))
			screen.say("gave up in attempt %d (%s), at %s", end.Attempt, end.RetryState, screen.place())
		default: // it was never started
			screen.say("%v", err)
		}
		if n := screen.done.Next; n > 0 {
			screen.say("%s is left with the first %d of %d files; run the same command to go on", show(*manifest), n, screen.done.Total)
		}
		return code
	}
	fmt.Printf("%s: %d files, %d bytes, in %s; attempts: %d\n", show(*manifest), p.Next-p.Unread, p.Bytes, took.Round(time.Millisecond), screen.attempts)
	for _, r := range screen.recoveries {
		fmt.Printf("recovered: %s\n", r)
	}
	if unread := p.Unread + p.UnreadDirs; unread > 0 {
		where := "above"
		if *server != "" {
			where = "the worker's output"
		}
		screen.say("WARNING: %d files or directories could not be read, see %s", unread, where)
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
