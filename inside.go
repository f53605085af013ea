package activity

import (
	"time"

	"github.com/seed-9da638b0/activity/internal/inside"
)

func init() {
	inside.Now = func(runtime any) time.Time {
		rt := runtime.(*Runtime)
		return rt.wall(rt.read())
	}
	inside.Stopping = func(runtime any) bool {
		rt := runtime.(*Runtime)
		rt.mu.Lock()
		defer rt.mu.Unlock()
		return rt.shutdown.begun
	}
	inside.ScheduledAt = func(event any) time.Time { return event.(Event).scheduledAt }
	inside.ErrorText = errorText
	inside.Store = func(ctx any) any {
		if t := attemptOf(ctx.(Context)); t != nil {
			return t.a.rt.cfg.Store
		}
		return nil
	}
	inside.Range = func(ctx any, name string, from, to int, step func(i int, done func() any) error) error {
		c := ctx.(Context)
		return rangeSteps(c, name, from, to, func(i int, done func() RangeProgress) error {
			return noteBodyError(c, step(i, func() any { return done() }))
		})
	}
	inside.Freeze = func(runtime any, frozen bool) { runtime.(*Runtime).freeze(frozen) }
}
