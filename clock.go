package activity

import (
	"math"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
)

// An instant is a point on a Runtime's clock: nanoseconds since it was made.
type instant int64

// never means no deadline.
const never = instant(math.MaxInt64)

// add saturates at never.
func (i instant) add(d time.Duration) instant {
	if i > 0 && instant(d) > never-i {
		return never
	}
	return i + instant(d)
}

// deadline is when a timeout that counts from i is reached; 0 means none.
func (i instant) deadline(timeout time.Duration) instant {
	if timeout == 0 {
		return never
	}
	return i.add(timeout)
}

// since is how long after j it is, negative if it is before. It saturates: a Mock can
// be set that far.
func (i instant) since(j instant) time.Duration {
	switch d := i - j; {
	case i >= j && d < 0:
		return math.MaxInt64
	case i < j && d >= 0:
		return math.MinInt64
	default:
		return time.Duration(d)
	}
}

// A timekeeper turns readings of Config.Clock into instants, and these into
// times of day.
type timekeeper struct {
	clock clock.Clock
	real  bool // clock is the real one
	mock  bool // it is a Mock
	base  time.Time

	// How far the wall clock has moved by itself (it was set, or the machine
	// slept) since base, and the instant when that was last looked at.
	moved    atomic.Int64
	lookedAt atomic.Int64
}

func (k *timekeeper) init(c clock.Clock) {
	k.clock = c
	k.real = reflect.TypeOf(c) == reflect.TypeOf(clock.New())
	_, k.mock = c.(*clock.Mock)
	k.base = c.Now()
}

// read reads the clock. With the real one it reads the monotonic clock alone,
// which is half the cost of time.Now. A reading is always before never, so that
// never is not due, even if a Mock is set further than an instant can hold.
func (k *timekeeper) read() instant {
	if k.real {
		return instant(time.Since(k.base))
	}
	return min(instant(k.clock.Now().Sub(k.base)), never-1)
}

const (
	wallSlack = 10 * time.Millisecond  // two readings of both clocks are not of one instant
	wallCheck = 100 * time.Millisecond // since to look costs more than one reading of the clock
)

// A moment is the instant of an event, and how far the wall clock had moved then:
// its time of day stays what it was when the wall clock is set later.
type moment struct {
	at    instant
	moved time.Duration
}

// moment is that of an event at i, which has just happened.
func (k *timekeeper) moment(i instant) moment {
	if i-instant(k.lookedAt.Load()) >= instant(wallCheck) {
		now := k.clock.Now()
		k.lookedAt.Store(int64(now.Sub(k.base)))
		moved := int64(now.Round(0).Sub(k.base.Round(0)) - now.Sub(k.base))
		if d := moved - k.moved.Load(); d > int64(wallSlack) || d < -int64(wallSlack) {
			k.moved.Store(moved)
		}
	}
	return moment{i, time.Duration(k.moved.Load())}
}

// time is the time of day of m.
func (k *timekeeper) time(m moment) time.Time {
	return k.base.Round(0).Add(time.Duration(m.at)).Add(m.moved)
}

// wall is the time of day at i, as far as is known now.
func (k *timekeeper) wall(i instant) time.Time { return k.time(k.moment(i)) }
