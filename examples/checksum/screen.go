package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/seed-9da638b0/activity"
)

// A screen shows a run to a person: on a terminal with a bar, elsewhere with a
// line for each tenth of the way. What it knows it learns as the Observer, or from
// the status that a server gives.
type screen struct {
	verbose bool

	mu         sync.Mutex
	out        io.Writer
	terminal   bool
	bar        *progressbar.ProgressBar // on a terminal, once there is progress
	drawn      time.Time                // the bar
	attempts   int
	waiting    bool // for a worker
	done       progress
	setbacks   []setback // since when no file was done
	recoveries []string
}

// A setback is an attempt that failed.
type setback struct {
	what string
	when time.Time
}

func newScreen(out *os.File, verbose bool) *screen {
	return &screen{out: out, terminal: term.IsTerminal(int(out.Fd())), verbose: verbose}
}

// logger logs what has this level, and everything of interest if the user wants it.
func (s *screen) logger(level slog.Level) *slog.Logger {
	if s.verbose {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(s, &slog.HandlerOptions{Level: level}))
}

// observe is the Config.Observer. It hears everything in order, and no heartbeat
// of an attempt that is over.
func (s *screen) observe(e activity.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verbose && e.Kind != activity.EventHeartbeat {
		s.printf("event: %s, attempt %d\n", e.Kind, e.Attempt)
	}
	switch e.Kind {
	case activity.EventAttemptStarted:
		s.attempts = e.Attempt
	case activity.EventAttemptFailed:
		s.setbacks = append(s.setbacks, setback{s.setback(e.Attempt, e.Err), e.Time})
	case activity.EventHeartbeat:
		var p progress
		if recorded, err := e.HeartbeatDetails(&p); recorded && err == nil {
			s.recover(e)
			s.advance(p)
		}
	case activity.EventCompleted:
		s.recover(e)
	}
}

// status is for a run elsewhere, of which it is told once in a while.
func (s *screen) status(now activity.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waits := now.State == activity.StateWaiting; waits != s.waiting {
		if s.waiting = waits; waits {
			s.printf("checksum: waiting for a worker\n")
		}
	}
	var p progress
	recorded, err := now.HeartbeatDetails(&p)
	recorded = recorded && err == nil
	if recorded && s.done == (progress{}) { // what is heard first
		s.advance(p)
	}
	if now.Attempt > s.attempts {
		s.attempts = now.Attempt
		if now.Attempt > 1 && now.LastFailure != nil {
			s.recovered(fmt.Sprintf("%s; attempt %d goes on from there", s.setback(now.Attempt-1, now.LastFailure), now.Attempt))
		}
	}
	if recorded {
		s.advance(p)
	}
}

// setback says how an attempt has failed.
func (s *screen) setback(attempt int, err error) string {
	how := fmt.Sprint("failed: ", err)
	var timeout *activity.TimeoutError
	if errors.As(err, &timeout) && timeout.Type == activity.TimeoutHeartbeat {
		how = fmt.Sprintf("stalled, without a heartbeat for %s", timeout.After)
	}
	return fmt.Sprintf("attempt %d %s, at %s", attempt, how, s.place())
}

// recover notes that an attempt has gone on from where others ended.
func (s *screen) recover(e activity.Event) {
	for _, b := range s.setbacks {
		s.recovered(fmt.Sprintf("%s; attempt %d went on from there, %s later", b.what, e.Attempt, e.Time.Sub(b.when).Round(time.Microsecond)))
	}
	s.setbacks = nil
}

func (s *screen) recovered(how string) {
	s.printf("checksum: %s\n", how)
	s.recoveries = append(s.recoveries, how)
}

func (s *screen) advance(p progress) {
	before := s.done
	s.done = p
	if s.terminal {
		if time.Since(s.drawn) > 50*time.Millisecond {
			s.draw()
		}
	} else if p.Next*10/p.Total > before.Next*10/p.Total {
		s.printf("checksum: %d of %d files\n", p.Next, p.Total)
	}
}

func (s *screen) draw() {
	if s.bar == nil {
		s.bar = progressbar.NewOptions(s.done.Total, progressbar.OptionSetDescription("hashing"), progressbar.OptionShowCount(),
			progressbar.OptionSetWriter(s.out), progressbar.OptionClearOnFinish())
	}
	s.bar.ChangeMax(s.done.Total)
	s.bar.Set(s.done.Next)
	s.drawn = time.Now()
}

// place is the file at which the work is.
func (s *screen) place() string {
	switch {
	case s.done == progress{}:
		return "the start"
	case s.done.Next == s.done.Total:
		return "the end"
	}
	return fmt.Sprintf("file %d of %d, %s", s.done.Next+1, s.done.Total, s.done.File)
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

// close takes the bar away.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar != nil {
		s.bar.Clear()
	}
	s.bar, s.terminal = nil, false
}

// reason says on one line what is wrong with which file.
func reason(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: %v", show(e.Path), e.Err)
	}
	return err.Error()
}

// show quotes a name that would confuse a terminal.
func show(path string) string {
	if quoted := fmt.Sprintf("%q", path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
