package activityhttp

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"time"

	"github.com/seed-9da638b0/activity"
)

// pageSize is the number of rows of a page.
const pageSize = 100

// A view is what one page shows. Its exported fields are for the templates. The fields that
// are no rows are parts: each has a template of its name.
type view struct {
	Filter  filter
	Control bool

	Alerts []string
	Counts activity.Stats
	Pager  pager
	Ended  []endedActivity

	Rows []*row
}

// A pager says which rows a page has.
type pager struct {
	First, Last, Found, All int    // numbers of the rows, from 1
	Previous, Next          string // queries of the pages before and after; "?" if that is the whole query, and empty if there is none
}

// A row shows an activity.
type row struct {
	fixed
	Live live
	err  error // whose texts are Failure and Stack
}

// fixed is what changes seldom. If it does, the row is rendered again.
type fixed struct {
	ID, Key, Shown, Name string // Key is ID, escaped for a query
	State                activity.State
	Alert                string
	Attempt              string
	Abandoned            int
	Bar                  bool // whether it has a progress bar
	Failure, Stack       string
	Control              bool
	Back                 string // relative URL of the page
}

// live is what changes often. If it does, only the changed texts are sent.
type live struct {
	Age                        string
	Value, Max, Progress, Rate string // of the progress bar
	Details                    string // if there is none
	Beat, Next                 string
}

// view returns what the page with filter f shows. before is the view of the same page before;
// nil if there is none.
func (h *handler) view(f filter, s *snapshot, before *view) *view {
	found := s.filter(f)
	f.page = min(f.page, max(1, (len(found)+pageSize-1)/pageSize))
	first := (f.page - 1) * pageSize
	rows := found[first:min(first+pageSize, len(found))]
	v := &view{
		Filter: f, Control: h.opts.Control,
		Alerts: alerts(s), Counts: shownCounts(s.stats), Ended: h.ended.list(),
		Pager: pager{First: min(first+1, len(found)), Last: first + len(rows), Found: len(found), All: len(s.all)},
	}
	if f.page > 1 {
		v.Pager.Previous = "?" + f.query(f.page-1)
	}
	if v.Pager.Last < len(found) {
		v.Pager.Next = "?" + f.query(f.page+1)
	}
	known := before.byKey()
	for _, a := range rows {
		r := newRow(a, s.now, known[url.QueryEscape(a.ID)])
		r.Control, r.Back = h.opts.Control, "?"+f.query(f.page)
		v.Rows = append(v.Rows, r)
	}
	return v
}

// shownCounts returns the counts that the page shows. The others would change all the time.
func shownCounts(s activity.Stats) activity.Stats {
	return activity.Stats{
		Running: s.Running, Waiting: s.Waiting, BackingOff: s.BackingOff, Blocked: s.Blocked, Paused: s.Paused,
		Abandoned: s.Abandoned,
		Completed: s.Completed, Failed: s.Failed, Canceled: s.Canceled,
	}
}

// alerts returns what may need a person.
func alerts(s *snapshot) []string {
	all := unhealthy(s.stopping, s.stats, s.now)
	for _, a := range []alert{stalled, failing} {
		if n := s.alerts[a]; n > 0 {
			all = append(all, activities(n)+" "+a.String()+".")
		}
	}
	return all
}

// byKey returns the rows by their Keys.
func (v *view) byKey() map[string]*row {
	rows := map[string]*row{}
	if v != nil {
		for _, r := range v.Rows {
			rows[r.Key] = r
		}
	}
	return rows
}

// newRow returns the row of an activity. before is its row in the view before; nil if there is
// none.
func newRow(s alerted, now time.Time, before *row) *row {
	r := &row{
		fixed: fixed{
			ID: s.ID, Key: url.QueryEscape(s.ID), Shown: shown(s.ID), Name: shown(s.Name),
			State: s.State, Alert: s.alert.String(), Abandoned: s.Abandoned, Bar: s.Total > 0,
			Attempt: strconv.Itoa(s.Attempt),
		},
		Live: live{Age: ago(now, s.ScheduledAt), Beat: beat(s.Status, now)},
		err:  s.LastFailure,
	}
	if s.MaximumAttempts > 0 {
		r.Attempt += " of " + strconv.Itoa(s.MaximumAttempts)
	}
	if r.Bar {
		r.Live.Value, r.Live.Max = strconv.Itoa(s.Done), strconv.Itoa(s.Total)
		r.Live.Progress = fmt.Sprintf("%d of %d", s.Done, s.Total)
		r.Live.Rate = estimate(s.Status, now)
	} else {
		r.Live.Details = detailsText(s.Details)
	}
	if s.State == activity.StateBackingOff {
		r.Live.Next = "next attempt in " + ago(s.NextAttempt, now)
	}
	if before != nil && same(before.err, r.err) { // its Error method may be slow
		r.Failure, r.Stack = before.Failure, before.Stack
	} else {
		r.Failure, r.Stack = describe(r.err)
	}
	return r
}

// same reports whether two errors are known to be the same.
func same(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return reflect.ValueOf(a).Comparable() && a == b // a comparison with what is not comparable panics
}

// beat returns when the last heartbeat was, compared with the timeout.
func beat(s *activity.Status, now time.Time) string {
	switch {
	case s.State == activity.StateRunning && s.HeartbeatTimeout > 0:
		return fmt.Sprintf("silent for %s of %s", ago(now, lastSign(s)), duration(s.HeartbeatTimeout))
	case s.LastHeartbeat.IsZero():
		return "none yet"
	}
	return ago(now, s.LastHeartbeat) + " ago"
}

// estimate returns how quickly a Range has advanced in the present attempt, up to its last
// heartbeat, and when it will be done. It is empty if that is not known.
func estimate(s *activity.Status, now time.Time) string {
	done, took := s.Done-s.ResumedAt, s.LastHeartbeat.Sub(s.StartedAt)
	if s.State != activity.StateRunning || done <= 0 || took <= 0 {
		return ""
	}
	text := rate(done, took)
	left := float64(s.Total-s.Done)/float64(done)*float64(took) - float64(now.Sub(s.LastHeartbeat))
	if left >= float64(time.Second) && left < float64(1<<62) {
		text += ", " + duration(time.Duration(left).Truncate(time.Second)) + " left"
	}
	return text
}

// An update is what has changed on a page, as JSON for its script.
type update struct {
	Parts map[string]string            `json:",omitempty"` // parts of the page, rendered, by their name
	Rows  map[string]string            `json:",omitempty"` // rows that are new or have changed, rendered, by Key
	Cells map[string]map[string]string `json:",omitempty"` // changed texts of other rows, by Key and by field of live
	Order []string                     `json:",omitzero"`  // Keys of all rows, if that has changed; otherwise nil
}

// change returns what has changed from before to v. It reports false if nothing has. If before
// is nil, everything has changed.
func (v *view) change(before *view) (u update, changed bool) {
	all := before == nil
	if all {
		before = &view{}
	}
	u = update{Parts: map[string]string{}, Rows: map[string]string{}, Cells: map[string]map[string]string{}}
	for _, part := range []struct {
		name     string
		old, new any
	}{
		{"alerts", before.Alerts, v.Alerts},
		{"counts", before.Counts, v.Counts},
		{"pager", before.Pager, v.Pager},
		{"ended", before.Ended, v.Ended},
	} {
		if all || !reflect.DeepEqual(part.old, part.new) {
			u.Parts[part.name] = string(render(part.name, part.new))
		}
	}
	known := before.byKey()
	reordered := all || len(v.Rows) != len(before.Rows)
	for i, r := range v.Rows {
		reordered = reordered || r.Key != before.Rows[i].Key
		switch old := known[r.Key]; {
		case old == nil || old.fixed != r.fixed:
			u.Rows[r.Key] = string(render("row", r))
		case old.Live != r.Live:
			u.Cells[r.Key] = r.Live.change(old.Live)
		}
	}
	if reordered {
		u.Order = make([]string, len(v.Rows)) // not nil, also if there are no rows
		for i, r := range v.Rows {
			u.Order[i] = r.Key
		}
	}
	return u, len(u.Parts)+len(u.Rows)+len(u.Cells) > 0 || reordered
}

// change returns the fields that differ from those of before.
func (l live) change(before live) map[string]string {
	changed := map[string]string{}
	old, now := reflect.ValueOf(before), reflect.ValueOf(l)
	for i := range now.NumField() {
		if text := now.Field(i).String(); text != old.Field(i).String() {
			changed[now.Type().Field(i).Name] = text
		}
	}
	return changed
}
