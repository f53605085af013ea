package activitytest

import (
	"errors"
	"runtime"
	"time"
)

// errIdle is the cause with which the context of an idle process ends.
var errIdle = errors.New("activitytest: each activity has ended, is paused or is in Idle")

// idles notes that a goroutine of the attempt sleeps in activity.Idle, until the returned function is called.
func (a *attempt) idles() (done func()) {
	l := a.life
	if !l.w.StopWhenIdle || !inIdle() {
		return func() {}
	}
	l.w.mu.Lock()
	if a.idling++; a.idling == 1 {
		l.idling++
	}
	l.w.mu.Unlock()
	go l.stopIfIdle(time.Nanosecond)
	return func() {
		l.w.mu.Lock()
		defer l.w.mu.Unlock()
		if a.idling--; a.idling == 0 {
			l.idling--
		}
	}
}

// inIdle reports whether activity.Idle is on the calling goroutine's stack.
func inIdle() bool {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	for more := true; more; {
		var f runtime.Frame
		if f, more = frames.Next(); f.Function == own+".Idle" {
			return true
		}
	}
	return false
}

// stopIfIdle ends the process's context if the life is idle after d, when all other goroutines are blocked.
func (l *life) stopIfIdle(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.over:
		return
	}
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	s := l.rt.Stats() // calls no code of this package
	if !l.dead && s.Running+s.Waiting+s.BackingOff+s.Blocked == l.idling {
		l.cancel(errIdle)
	}
}
