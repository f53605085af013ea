package activityhttp

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

// An alert is a reason for which an activity may need a person. The smallest one comes first.
type alert int

const (
	blocked alert = iota
	stalled
	failing
	noAlert
)

func (a alert) String() string { return [...]string{"blocked", "stalled", "failing", ""}[a] }

// alertOf returns the alert of an activity. The package documentation has the rules.
func alertOf(s *activity.Status, now time.Time) alert {
	last := lastSign(s)
	switch {
	case s.State == activity.StateBlocked:
		return blocked
	case s.Abandoned > 0,
		s.State == activity.StateRunning && s.HeartbeatTimeout > 0 && now.Sub(last) >= s.HeartbeatTimeout/4*3:
		return stalled
	case s.State == activity.StateBackingOff,
		s.State == activity.StateRunning && s.LastFailure != nil && last.Equal(s.StartedAt):
		return failing
	}
	return noAlert
}

// lastSign returns when the last attempt has last shown that it is alive: at its last heartbeat,
// or when it started.
func lastSign(s *activity.Status) time.Time {
	if s.LastHeartbeat.After(s.StartedAt) {
		return s.LastHeartbeat
	}
	return s.StartedAt
}

// A snapshot is what the Runtime says at one moment. It never changes.
type snapshot struct {
	now      time.Time // on the Runtime's clock
	stats    activity.Stats
	stopping bool
	all      []alerted        // those with the smallest alert first, and then the oldest first
	alerts   [noAlert + 1]int // number of activities with each alert
}

// An alerted is an activity and its alert.
type alerted struct {
	*activity.Status
	alert alert
}

// ask asks the Runtime.
func (h *handler) ask() *snapshot {
	s := &snapshot{stopping: inside.Stopping(h.rt), stats: h.rt.Stats()}
	activities := h.rt.Activities()
	s.now = inside.Now(h.rt)
	s.all = make([]alerted, len(activities))
	for i := range activities {
		a := alertOf(&activities[i], s.now)
		s.all[i] = alerted{&activities[i], a}
		s.alerts[a]++
	}
	slices.SortStableFunc(s.all, func(x, y alerted) int { return cmp.Compare(x.alert, y.alert) })
	return s
}

// unhealthy returns the reasons for which the Runtime is not healthy.
func unhealthy(stopping bool, stats activity.Stats, now time.Time) []string {
	var why []string
	if stopping {
		why = append(why, "The Runtime takes no new activities: Drain or Shutdown was called.")
	}
	if since := stats.StoreFailingSince; !since.IsZero() && now.Sub(since) > time.Minute {
		why = append(why, fmt.Sprintf("The Store has failed for %s.", ago(now, since)))
	}
	if n := stats.Blocked; n > 0 {
		why = append(why, fmt.Sprintf("%s blocked: a function of an earlier attempt still runs.", activities(n)))
	}
	return why
}

// activities returns a subject and its verb.
func activities(n int) string {
	if n == 1 {
		return "1 activity is"
	}
	return strconv.Itoa(n) + " activities are"
}

// A filter says which activities are shown.
type filter struct {
	Find, Name, State string
	find, name        string // Find and Name in lower case
	page              int    // from 1
}

// maxPage is the largest number of a page.
const maxPage = 1_000_000_000

// States are the values of filter.State besides "". An activity has one of the last three while
// its end is being saved.
func (filter) States() []string {
	return []string{"blocked", "stalled", "failing", "running", "waiting", "backing off", "paused", "completed", "failed", "canceled"}
}

// filterOf returns the filter in the query. If it is wrong, filterOf answers the request and
// reports false.
func filterOf(w http.ResponseWriter, r *http.Request) (f filter, ok bool) {
	q := r.URL.Query()
	f = filter{Find: q.Get("find"), Name: q.Get("name"), State: q.Get("state"), page: 1}
	f.find, f.name = strings.ToLower(f.Find), strings.ToLower(f.Name)
	if max(len(f.Find), len(f.Name)) > maxName {
		fail(w, r, http.StatusBadRequest, fmt.Sprintf("A filter must not be longer than %d bytes.", maxName))
		return f, false
	}
	if f.State != "" && !slices.Contains(f.States(), f.State) {
		fail(w, r, http.StatusBadRequest, fmt.Sprintf("The state is unknown (got %q).", f.State))
		return f, false
	}
	if p := q.Get("page"); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > maxPage {
			fail(w, r, http.StatusBadRequest, fmt.Sprintf("The page must be a number from 1 to %d (got %q).", maxPage, p))
			return f, false
		}
		f.page = n
	}
	return f, true
}

// query returns the query of a page with the filter.
func (f filter) query(page int) string {
	q := url.Values{}
	for name, value := range map[string]string{"find": f.Find, "name": f.Name, "state": f.State} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if page > 1 {
		q.Set("page", strconv.Itoa(page))
	}
	return q.Encode()
}

func (f filter) match(a alerted) bool {
	return (f.State == "" || f.State == a.State.String() || f.State == a.alert.String()) && f.matchText(a.ID, a.Name)
}

func (f filter) matchText(id, name string) bool {
	contains := func(s, part string) bool {
		return part == "" || strings.Contains(strings.ToLower(s), part)
	}
	return contains(id, f.find) && contains(name, f.name)
}

// filter returns the activities that match f.
func (s *snapshot) filter(f filter) []alerted {
	if f.Find == "" && f.Name == "" && f.State == "" {
		return s.all
	}
	var found []alerted
	for _, a := range s.all {
		if f.match(a) {
			found = append(found, a)
		}
	}
	return found
}

// tick is the time between two updates of a page.
const tick = 250 * time.Millisecond

// shared has the snapshot that all viewers use. Ticks are counted from an epoch, so that all
// viewers have the same. The first viewer that wants the snapshot of a tick asks the Runtime.
type shared struct {
	epoch time.Time

	mu      sync.Mutex // held while the Runtime is asked
	viewers int
	last    *snapshot // nil if there are no viewers, since it may refer to much
	tick    int64     // the tick of last
}

func (s *shared) join() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewers++
}

func (s *shared) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.viewers--; s.viewers == 0 {
		s.last = nil
	}
}

// get returns the snapshot of the present tick.
func (s *shared) get(ask func() *snapshot) *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := int64(time.Since(s.epoch) / tick); s.last == nil || s.tick != now {
		s.last, s.tick = ask(), now
	}
	return s.last
}

// next returns the time until the next tick.
func (s *shared) next() time.Duration { return tick - time.Since(s.epoch)%tick }
