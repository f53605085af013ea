package manifest

import (
	"errors"
	"math"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Trouble stands for what goes wrong in real life. Each kind strikes once.
type Trouble struct {
	StallAt  int           // the file, counted from 1, at which the function hangs; if zero, it never does
	StallFor time.Duration // the shortest time for which it hangs; if zero, it hangs forever
	FailAt   int           // the file, counted from 1, at which the function fails; if zero, it never does

	stalled, failed atomic.Bool
}

// strike hangs, as a call that ignores its context does, or returns an error.
func (t *Trouble) strike(ctx activity.Context, file int, say func(string, ...any)) error {
	switch {
	case file == t.StallAt && t.stalled.CompareAndSwap(false, true):
		say("hanging at file %d, as -stall asks", file)
		if t.StallFor == 0 {
			select {}
		}
		time.Sleep(t.StallFor)
		_ = ctx.Sleep(math.MaxInt64) // so that it never wakes up before its attempt is over or asked to stop
	case file == t.FailAt && t.failed.CompareAndSwap(false, true):
		return errors.New("an error, as -fail asks")
	}
	return nil
}
