package activityhttp

import (
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

// maxEnded is how many activities that have ended are shown.
const maxEnded = 50

// An endedActivity is an activity that has ended. It has the texts of its error, because the
// error itself may refer to anything.
type endedActivity struct {
	N              int // its number, from 1, which is the key of its row
	id, name       string
	How            string
	Attempt        int
	At             time.Time
	took           time.Duration
	Failure, Stack string
}

func (a endedActivity) Shown() string { return shown(a.id) }
func (a endedActivity) Name() string  { return shown(a.name) }
func (a endedActivity) Took() string  { return duration(a.took) }

// An endedList has the activities that have ended last.
type endedList struct {
	mu    sync.Mutex
	ring  [maxEnded]endedActivity
	count int             // number of activities that have ended; the next one is put at count % maxEnded
	built []endedActivity // what list has returned; nil if another activity has ended since
}

// add is called with each event that ends an activity, so it does little for one that completed.
func (l *endedList) add(e activity.Event) {
	err := e.Err
	if own, ok := err.(*activity.Error); ok { // whose text repeats the ID and the name
		err = own.Err
	}
	a := endedActivity{id: e.ID, name: e.Name, How: e.Kind.String(), Attempt: e.Attempt, At: e.Time, took: e.Time.Sub(inside.ScheduledAt(e))}
	a.Failure, a.Stack = describe(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	a.N = l.count + 1
	l.ring[l.count%maxEnded] = a
	l.count++
	l.built = nil
}

// list returns the activities that have ended, the newest first. The list never changes, and
// is the same as that of the call before if no activity has ended since.
func (l *endedList) list() []endedActivity {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.built == nil {
		for i := 1; i <= min(l.count, maxEnded); i++ {
			l.built = append(l.built, l.ring[(l.count-i)%maxEnded])
		}
	}
	return l.built
}
