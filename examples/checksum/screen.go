package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
)

// A screen shows a run to a person: on a terminal with a bar, elsewhere with a line
// for each tenth of the files.
type screen struct {
	verbose bool

	mu       sync.Mutex
	out      io.Writer
	terminal bool
	bar      *progressbar.ProgressBar // on a terminal, once there is progress
	drawn    time.Time                // when the bar was last drawn
	attempts int                      // number of the last attempt
	files    []string                 // those to hash
	done     activity.RangeProgress   // which of them are done, as recorded last
	heard    time.Time                // when the attempt started or sent its last heartbeat
	failure  string                   // "timeout" or "error" if an attempt has failed since the last file was done
	failed   time.Time                // when the timeout expired or the error occurred
	restart  time.Duration            // from failed to the start of the current attempt
}

func newScreen(out *os.File, verbose bool) *screen {
	return &screen{out: out, terminal: term.IsTerminal(int(out.Fd())), verbose: verbose}
}

// logger logs everything of this level and above. With -v, that is from LevelInfo on.
func (s *screen) logger(level slog.Level) *slog.Logger {
	if s.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: level}))
}

// observe is the Config.Observer. It gets all events in order, and no heartbeat of an
// attempt that is over.
func (s *screen) observe(e activity.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verbose && e.Kind != activity.EventHeartbeat {
		s.printf("event: %s, attempt %d\n", e.Kind, e.Attempt)
	}
	switch e.Kind {
	case activity.EventAttemptStarted:
		s.attempts, s.heard = e.Attempt, e.Time
		s.restart = e.Time.Sub(s.failed)
	case activity.EventAttemptFailed:
		s.fail(e)
	case activity.EventHeartbeat:
		s.heard = e.Time
		var p activity.RangeProgress
		if recorded, err := e.HeartbeatDetails(&p); recorded && err == nil {
			if p.Next > s.done.Next {
				s.recovered(e, fmt.Sprintf("file %d", s.done.Next+1))
			}
			s.advance(p)
		}
	case activity.EventCompleted:
		s.recovered(e, "the manifest")
	}
}

// fail shows how an attempt has failed and, if it has stalled, where it hangs.
func (s *screen) fail(e activity.Event) {
	var timeout *activity.TimeoutError
	if errors.As(e.Err, &timeout) && timeout.Type == activity.TimeoutHeartbeat {
		s.failure, s.failed = "timeout", s.heard.Add(timeout.After)
		s.printf("checksum: attempt %d stalled at %s: no heartbeat for %s\n%s", e.Attempt, s.place(), timeout.After, hanging(timeout.Stack))
		return
	}
	s.failure, s.failed = "error", e.Time
	s.printf("checksum: attempt %d failed at %s: %v\n", e.Attempt, s.place(), e.Err)
}

// hanging returns the stacks of the workers that hang in package manifest, without the frames
// of the activity runtime.
func hanging(stacks []byte) (hang string) {
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		own, _, cut := strings.Cut(stack, "\ngithub.com/seed-9da638b0/activity.")
		if cut && strings.Contains(own, "/manifest.") {
			hang += own + "\n"
		}
	}
	return hang
}

// place returns the place at which the work is.
func (s *screen) place() string { return manifest.Place(s.done, s.files) }

// count returns how many files are done.
func (s *screen) count() int { return s.done.Next + len(s.done.Done) }

// recovered says that the current attempt is the first to get further after a failure.
func (s *screen) recovered(e activity.Event, done string) {
	if s.failure != "" {
		s.printf("checksum: recovered: attempt %d started %s after the %s; %s was done %s after it\n", e.Attempt,
			s.restart.Round(time.Microsecond), s.failure, done, e.Time.Sub(s.failed).Round(time.Microsecond))
	}
	s.failure = ""
}

func (s *screen) advance(p activity.RangeProgress) {
	before := s.count()
	s.done = p
	if s.terminal {
		if time.Since(s.drawn) > 50*time.Millisecond {
			s.draw()
		}
	} else if s.count()*10/p.To > before*10/p.To {
		s.printf("checksum: %d of %d files\n", s.count(), p.To)
	}
}

func (s *screen) draw() {
	if s.bar == nil {
		s.bar = progressbar.NewOptions(s.done.To, progressbar.OptionSetDescription("hashing"), progressbar.OptionShowCount(),
			progressbar.OptionSetWriter(s.out), progressbar.OptionClearOnFinish())
	}
	s.bar.ChangeMax(s.done.To)
	s.bar.Set(s.count())
	s.drawn = time.Now()
}

// say prints a line for the user.
func (s *screen) say(format string, args ...any) { fmt.Fprintf(s, "checksum: "+format+"\n", args...) }

// Write prints whole lines, above the bar if there is one.
func (s *screen) Write(lines []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.printf("%s", lines)
	return len(lines), nil
}

func (s *screen) printf(format string, args ...any) {
	if s.bar == nil {
		fmt.Fprintf(s.out, format, args...)
		return
	}
	s.bar.Clear()
	fmt.Fprintf(s.out, format, args...)
	s.draw()
}

// close removes the bar.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		s.bar.Clear()
	}
	s.bar, s.terminal = nil, false
}
