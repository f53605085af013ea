package activity

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// The log lines of the package, and the limit on their number when many activities fail at
// one instant.

// log writes a line. If a is not nil, the line has the activity's ID and name, and if attempt
// is not 0, the attempt. The Logger is user code, so no lock may be held.
func (rt *Runtime) log(level slog.Level, msg string, a *activity, attempt int, attrs ...slog.Attr) {
	defer func() { _ = recover() }() // a panic of the Handler cannot be logged
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

// logger returns Config.Logger or the default Logger as it is set now.
func (rt *Runtime) logger() *slog.Logger {
	if rt.cfg.Logger != nil {
		return rt.cfg.Logger
	}
	return slog.Default()
}

// instantLogs counts the log lines about one instant. If thousands of attempts stall
// together, only a few lines of each kind are written in full, with a stack. One more line
// then has the number of the others. Guarded by Runtime.mu.
type instantLogs struct {
	rung     bool               // set once, when all alarms of the instant have rung
	deciding int                // number of attempts that timed out, and for which decideLocked has not run
	last     *activity          // the activity of the last line; its delivery writes the line that counts the others
	lines    [len(logKinds)]int // number of lines of each kind, written or not
}

const logInFull = 5 // the largest number of lines of each kind that are written in full

// Kinds of log lines.
const (
	logFailed = iota
	logBlocked
	logAbandoned
)

// logKinds has, for each kind, its level and the text of the line that counts the others.
var logKinds = [...]struct {
	level slog.Level
	rest  string
}{
	logFailed:    {slog.LevelWarn, "activity: %d more attempts timed out at the same instant"},
	logBlocked:   {slog.LevelError, "activity: %d more activities were blocked at the same instant"},
	logAbandoned: {slog.LevelWarn, "activity: %d more functions were abandoned at the same instant"},
}

// logsLocked returns the instantLogs of the alarms that are ringing, and creates it if
// necessary.
func (s *scheduler) logsLocked() *instantLogs {
	if s.logs == nil {
		s.logs = &instantLogs{}
	}
	return s.logs
}

// countLocked counts a line about a, and reports whether to write it in full. If l is nil,
// the line does not come from an alarm, and is always written.
func (l *instantLogs) countLocked(kind int, a *activity) bool {
	if l == nil {
		return true
	}
	l.last = a
	l.lines[kind]++
	return l.lines[kind] <= logInFull
}

// decidedLocked is called when an attempt that timed out has had its line. l may be nil.
func (l *instantLogs) decidedLocked() {
	if l != nil {
		l.deciding--
		l.sumLocked()
	}
}

// rungLocked is called when all alarms of the instant have rung. l may be nil.
func (l *instantLogs) rungLocked() {
	if l != nil {
		l.rung = true
		l.sumLocked()
	}
}

// sumLocked writes the lines that count the others, once no further line can come: all
// alarms have rung, and all answers of Retryable are there.
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

// failedLog returns a function that logs the failure of the latest attempt, or nil if the
// line is only counted. It is called in decideLocked, with Runtime.mu held.
func (a *activity) failedLog(retry RetryState, delay time.Duration) func() {
	if !a.latest.logs.countLocked(logFailed, a) {
		return nil
	}
	return a.attemptFailed(a.latest.number, a.failure, retry, delay)
}

// attemptFailed returns a function that logs the failure of an attempt. That runs err's
// methods, which are user code.
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

// logRestart logs how the last attempt of an earlier process ended, and what follows.
func (a *activity) logRestart(err error, retry RetryState, delay time.Duration) {
	a.post(notice{log: a.attemptFailed(a.attempts, err, retry, delay)})
}

// abandonedLog returns a function that logs that the function of the latest attempt has
// ignored its cancellation or a pause, or nil if the line is only counted. Runtime.mu is held.
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
		a.rt.log(slog.LevelWarn, "activity: function did not return within CancelGrace and was abandoned", a, t.number, attr)
	}
}

// blockedLogAfter is how long an activity is blocked before that is logged. The line is an
// error, because a function that hangs needs a person. A function that returns soon after
// its Context has ended does not.
const blockedLogAfter = time.Second

// logBlockedLocked logs that the activity is blocked, and by what. It is called by the
// activity's alarm. Runtime.mu is held.
func (a *activity) logBlockedLocked() {
	if !a.rt.scheduler.logsLocked().countLocked(logBlocked, a) {
		return
	}
	msg, why := "activity: next attempt is blocked by a function that hangs", fmt.Sprintf("%d functions of earlier attempts are running, MaxAbandoned is %d", a.abandoned, a.opts.MaxAbandoned)
	if a.guardedLocked() {
		why = "the function of the last attempt is inside Guard"
	} else if a.unresolvedLocked() {
		msg, why = "activity: next attempt waits for the Store", "a Commit of the last attempt failed but may have happened"
	}
	number, stack := a.latest.number, stackOf(a.failure)
	if a.latest.stopped { // and not failed
		stack, _ = a.rt.stackLocked(a.latest)
	}
	a.post(notice{log: func() {
		attrs := []slog.Attr{slog.String("waiting_for", why)}
		if len(stack) > 0 {
			attrs = append(attrs, slog.String("stack", string(stack)))
		}
		a.rt.log(slog.LevelError, msg, a, number, attrs...)
	}})
}

// stackOf returns the stack in err, or nil if err has none.
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
