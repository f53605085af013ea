package activity

import (
	"time"

	"github.com/seed-9da638b0/activity/internal/inside"
)

// What package activityhttp needs, and nobody else so far.
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
	inside.Freeze = func(runtime any, frozen bool) { runtime.(*Runtime).freeze(frozen) }
}
