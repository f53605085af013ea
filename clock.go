package activity

import (
	"math"
	"reflect"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
)

// There are two kinds of time. Inside the package every time is an instant, which setting
// the wall clock does not change. Times of day are for people and for the Store. They are
// computed from instants, and from how far the wall clock has moved by itself because it
// was set or the machine slept.

// An instant is a point in time on a Runtime's clock, in nanoseconds since New.
type instant int64

// never is the instant of a deadline that does not exist.
const never = instant(math.MaxInt64)

// add returns i+d. It saturates at never.
func (i instant) add(d time.Duration) instant {
	if i > 0 && instant(d) > never-i {
		return never
	}
	return i + instant(d)
}

// deadline returns the instant at which a timeout that counts from i is reached. If timeout
// is zero, that is never.
func (i instant) deadline(timeout time.Duration) instant {
	if timeout == 0 {
		return never
	}
	return i.add(timeout)
}

// since returns i-j. It saturates, because a Mock can be set so far that the difference
// overflows.
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

// A timekeeper turns readings of Config.Clock into instants, and instants into times of
// day. It needs no lock.
type timekeeper struct {
	clock clock.Clock
	real  bool      // whether clock is the real clock
	mock  bool      // whether clock is a *clock.Mock
	base  time.Time // the time of day and the monotonic reading at instant 0

	// moved is how far the wall clock has moved by itself since base, relative to the
	// monotonic clock, in nanoseconds. lookedAt is the instant of the last measurement.
	moved    atomic.Int64
	lookedAt atomic.Int64
}

// init sets instant 0 to the present.
func (k *timekeeper) init(c clock.Clock) {
	k.clock = c
	k.real = reflect.TypeOf(c) == reflect.TypeOf(clock.New())
	_, k.mock = c.(*clock.Mock)
	k.base = c.Now()
}

// read returns the present instant. With the real clock it reads only the monotonic clock,
// which costs half as much as time.Now. A reading is always before never, so that an alarm
// at never is not due, even if a Mock is set further than an instant can hold.
func (k *timekeeper) read() instant {
	if k.real {
		return instant(time.Since(k.base))
	}
	return min(instant(k.clock.Now().Sub(k.base)), never-1)
}

const (
	wallSlack = 10 * time.Millisecond  // smallest movement that counts, because the two clocks cannot be read at the same instant
	wallCheck = 100 * time.Millisecond // time between two measurements, because one costs more than a reading of the clock
)

// A moment is the instant of an event, with how far the wall clock had moved by then. So
// its time of day does not change when the wall clock is set later.
type moment struct {
	at    instant
	moved time.Duration
}

// moment returns the moment of an event at i, which has just happened. It measures how far
// the wall clock has moved, if the last measurement is older than wallCheck.
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

// time returns the time of day of m.
func (k *timekeeper) time(m moment) time.Time {
	return k.base.Round(0).Add(time.Duration(m.at)).Add(m.moved)
}

// wall returns the time of day at i according to the wall clock as it is set now.
func (k *timekeeper) wall(i instant) time.Time { return k.time(k.moment(i)) }
