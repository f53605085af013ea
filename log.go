package activity

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// log writes a line, about an activity if a is not nil. It is not called under a lock.
func (rt *Runtime) log(level slog.Level, msg string, a *activity, attempt int, attrs ...slog.Attr) {
	defer func() { _ = recover() }() // a Handler's panic has nowhere to go
	l := rt.logger()
	if !l.Enabled(context.Background(), level) {
		return
	}
	var all []slog.Attr
	if a != nil {
		all = append(all, slog.String("id", a.id()), slog.String("name", a.name()))
	}
	if attempt > 0 {
		all = append(all, slog.Int("attempt", attempt))
	}
	l.LogAttrs(context.Background(), level, msg, append(all, attrs...)...)
}

func (rt *Runtime) logger() *slog.Logger {
	if rt.cfg.Logger != nil {
		return rt.cfg.Logger
	}
	return slog.Default()
}

// instantLogs count the log lines about one instant. When thousands stall together,
// a few lines are written in full, not thousands of stacks. Guarded by Runtime.mu.
type instantLogs struct {
	rung     bool // all alarms of the instant have rung
	deciding int  // attempts that timed out, and whose Retryable is being asked
	last     *activity
	lines    [len(logKinds)]int
}

const logInFull = 5 // lines of each kind

const (
	logFailed = iota
	logBlocked
	logAbandoned
)

var logKinds = [...]struct {
	level slog.Level
	rest  string
}{
	logFailed:    {slog.LevelWarn, "activity: %d more attempts timed out at the same instant"},
	logBlocked:   {slog.LevelError, "activity: %d more activities were blocked at the same instant"},
	logAbandoned: {slog.LevelWarn, "activity: %d more functions were abandoned at the same instant"},
}

// logsLocked returns the instantLogs of the alarms that are ringing.
func (s *scheduler) logsLocked() *instantLogs {
	if s.logs == nil {
		s.logs = &instantLogs{}
	}
	return s.logs
}

// countLocked counts a line, and reports whether it is to be written in full.
// If l is nil the line is not about many at once, and it is.
func (l *instantLogs) countLocked(kind int, a *activity) bool {
	if l == nil {
		return true
	}
	l.last = a
	l.lines[kind]++
	return l.lines[kind] <= logInFull
}

// decidedLocked counts an attempt that timed out and has had its line.
func (l *instantLogs) decidedLocked() {
	if l != nil {
		l.deciding--
		l.sumLocked()
	}
}

// rungLocked is called when all alarms of the instant have rung.
func (l *instantLogs) rungLocked() {
	if l != nil {
		l.rung = true
		l.sumLocked()
	}
}

// sumLocked writes the lines that count the rest, once all is known.
func (l *instantLogs) sumLocked() {
	if !l.rung || l.deciding > 0 {
		return
	}
	a := l.last
	for kind, n := range l.lines {
		if rest := n - logInFull; rest > 0 {
			a.post(notice{log: func() {
				a.rt.log(logKinds[kind].level, fmt.Sprintf(logKinds[kind].rest, rest), nil, 0)
			}})
		}
	}
}

// failedLog is the line about the latest attempt, which has failed, or nil.
func (a *activity) failedLog(retry RetryState, delay time.Duration) func() {
	if !a.latest.logs.countLocked(logFailed, a) {
		return nil
	}
	return a.attemptFailed(a.latest.number, a.failure, retry, delay)
}

func (a *activity) attemptFailed(number int, err error, retry RetryState, delay time.Duration) func() {
	return func() {
		next := slog.Duration("retry_in", delay)
		if retry != 0 {
			next = slog.String("no_retry", retry.String())
		}
		attrs := []slog.Attr{slog.String("error", short(err)), next}
		if stack := stackOf(err); stack != nil {
			attrs = append(attrs, slog.String("stack", string(stack)))
		}
		a.rt.log(slog.LevelWarn, "activity: attempt failed", a, number, attrs...)
	}
}

// logRestart logs what became of the last attempt of an earlier process.
func (a *activity) logRestart(err error, retry RetryState, delay time.Duration) {
	a.post(notice{log: a.attemptFailed(a.attempts, err, retry, delay)})
}

// abandonedLog is the line about the latest attempt, whose function ignores its
// cancellation, or nil.
func (a *activity) abandonedLog(stack []byte, noStack string) func() {
	if !a.rt.scheduler.logsLocked().countLocked(logAbandoned, a) {
		return nil
	}
	t := a.latest
	return func() {
		attr := slog.String("stack", string(stack))
		if len(stack) == 0 {
			attr = slog.String("no_stack", noStack)
		}
		a.rt.log(slog.LevelWarn, "activity: function ignored its cancellation and was abandoned", a, t.number, attr)
	}
}

// blockedLogAfter is how long a block lasts before it is logged, as an error, since it
// needs a person. A function that returns as soon as its Context ends needs none.
const blockedLogAfter = time.Second

// logBlockedLocked writes the line about an activity whose next attempt waits for the
// function of an earlier one. It is called by the activity's alarm.
func (a *activity) logBlockedLocked() {
	if !a.rt.scheduler.logsLocked().countLocked(logBlocked, a) {
		return
	}
	why := fmt.Sprintf("%d functions of earlier attempts are running, MaxAbandoned is %d", a.abandoned, a.opts.MaxAbandoned)
	if a.guardedLocked() {
		why = "the function of the last attempt is inside Guard"
	}
	number, stack := a.latest.number, stackOf(a.failure)
	a.post(notice{log: func() {
		a.rt.log(slog.LevelError, "activity: next attempt is blocked by a function that hangs", a, number, slog.String("waiting_for", why), slog.String("stack", string(stack)))
	}})
}

// stackOf returns the stack that err carries, or nil.
func stackOf(err error) []byte {
	switch e := err.(type) {
	case *TimeoutError:
		if e != nil {
			return e.Stack
		}
	case *PanicError:
		if e != nil {
			return e.Stack
		}
	}
	return nil
}
