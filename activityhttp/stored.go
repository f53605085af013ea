package activityhttp

import (
	"net/http"
	"time"

	"github.com/seed-9da638b0/activity"
)

const storedPath = "stored"

// A storedView is what the page of the checkpoints shows.
type storedView struct {
	Filter         filter
	Rows           []storedRow
	Previous, Next string // as in pager
}

type storedRow struct {
	Shown, Name            string
	State                  activity.CheckpointState
	Attempt                int
	UpdatedAt, NextAttempt time.Time
	Details, Failure       string
	Forms                  []form
}

// storedPage serves the checkpoints of activities that do not run. It reads the Store, so the
// page does not update itself.
func (h *handler) storedPage(w http.ResponseWriter, r *http.Request) {
	f, ok := filterOf(w, r)
	if !ok {
		return
	}
	v := storedView{Filter: f}
	if f.page > 1 {
		v.Previous = "?" + f.query(f.page-1)
	}
	skip := int64(f.page-1) * pageSize
	for cp, err := range h.checkpoints(r.Context()) {
		if err != nil {
			fail(w, r, http.StatusServiceUnavailable, err.Error())
			return
		}
		if !f.matchText(cp.ID, cp.Name) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if len(v.Rows) == pageSize {
			v.Next = "?" + f.query(f.page+1)
			break
		}
		row := storedRow{
			Shown: shown(cp.ID), Name: shown(cp.Name), State: cp.State, Attempt: cp.Attempt,
			UpdatedAt: cp.UpdatedAt, NextAttempt: cp.NextAttempt,
			Details: detailsText(cp.Details), Failure: clean(cp.LastFailure, maxText),
		}
		if h.opts.Control {
			row.Forms = []form{forget.form(cp.ID, storedPath+"?"+f.query(f.page))}
		}
		v.Rows = append(v.Rows, row)
	}
	writePage(w, http.StatusOK, "stored", v)
}
