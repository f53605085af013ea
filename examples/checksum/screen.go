package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/seed-9da638b0/activity"
)

// A screen shows a run to a person: on a terminal with a bar, elsewhere with a
// line for each tenth of the way. What it knows it learns as the Observer.
type screen struct {
	files   []string
	verbose bool

	mu         sync.Mutex
	out        io.Writer
	bar        *progressbar.ProgressBar // nil: not on a terminal
	drawn      time.Time                // the bar
	attempts   int
	done       progress
	setbacks   []setback // since when no file was done
	recoveries []string
}

// A setback is an attempt that failed.
type setback struct {
	what string
	when time.Time
}

func newScreen(out *os.File, files []string, verbose bool) *screen {
	s := &screen{out: out, files: files, verbose: verbose}
	if term.IsTerminal(int(out.Fd())) && len(files) > 0 {
		s.bar = progressbar.NewOptions(len(files), progressbar.OptionSetDescription("hashing"), progressbar.OptionShowCount(),
			progressbar.OptionSetWriter(out), progressbar.OptionClearOnFinish())
	}
	return s
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
		how := fmt.Sprint("failed: ", e.Err)
		var timeout *activity.TimeoutError
		if errors.As(e.Err, &timeout) {
			how = fmt.Sprintf("stalled, without a heartbeat for %s", timeout.After)
		}
		s.setbacks = append(s.setbacks, setback{fmt.Sprintf("attempt %d %s, at %s", e.Attempt, how, s.place()), e.Time})
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

// recover notes that an attempt has gone on from where others ended.
func (s *screen) recover(e activity.Event) {
	for _, b := range s.setbacks {
		r := fmt.Sprintf("%s; attempt %d went on from there, %s later", b.what, e.Attempt, e.Time.Sub(b.when).Round(time.Microsecond))
		s.printf("checksum: %s\n", r)
		s.recoveries = append(s.recoveries, r)
	}
	s.setbacks = nil
}

func (s *screen) advance(p progress) {
	before, total := s.done, len(s.files)
	s.done = p
	if s.bar != nil {
		if time.Since(s.drawn) > 50*time.Millisecond {
			s.draw()
		}
	} else if p.Next*10/total > before.Next*10/total {
		s.printf("checksum: %d of %d files\n", p.Next, total)
	}
}

func (s *screen) draw() {
	s.bar.Set(s.done.Next)
	s.drawn = time.Now()
}

// place is the file at which the work is.
func (s *screen) place() string {
	if s.done.Next == len(s.files) {
		return "the end"
	}
	return fmt.Sprintf("file %d of %d, %s", s.done.Next+1, len(s.files), show(s.files[s.done.Next]))
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
		s.bar = nil
	}
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
