package activityhttp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte("{}")
	}
	write(w, status, "application/json", string(data)+"\n")
}

// A keyed Status or Checkpoint has its ID a second time, escaped for a query.
type keyedStatus struct {
	Key    string
	Status activity.Status
}

type keyedCheckpoint struct {
	Key        string
	Checkpoint activity.Checkpoint
}

// apiActivities serves one activity, or all that match the filter.
func (h *handler) apiActivities(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("id") {
		id, ok := idOf(w, r)
		if !ok {
			return
		}
		s, ok := h.rt.Lookup(id)
		if !ok {
			err := fmt.Errorf("activity %q: %w", id, activity.ErrNotFound)
			fail(w, r, statusOf(err), err.Error())
			return
		}
		writeJSON(w, http.StatusOK, keyedStatus{url.QueryEscape(id), s})
		return
	}
	f, ok := filterOf(w, r)
	if !ok {
		return
	}
	s := h.ask()
	found := []keyedStatus{} // not nil, which would be null
	for _, a := range s.filter(f) {
		found = append(found, keyedStatus{url.QueryEscape(a.ID), *a.Status})
	}
	writeJSON(w, http.StatusOK, struct {
		Stats      activity.Stats
		Activities []keyedStatus
	}{s.stats, found})
}

// apiCheckpoints serves what is stored and does not run.
func (h *handler) apiCheckpoints(w http.ResponseWriter, r *http.Request) {
	found := []keyedCheckpoint{}
	for cp, err := range h.rt.Checkpoints(r.Context()) {
		if err != nil {
			fail(w, r, http.StatusServiceUnavailable, err.Error())
			return
		}
		found = append(found, keyedCheckpoint{url.QueryEscape(cp.ID), cp})
	}
	writeJSON(w, http.StatusOK, struct{ Checkpoints []keyedCheckpoint }{found})
}

// healthz serves the health of the Runtime for monitoring.
func (h *handler) healthz(w http.ResponseWriter, _ *http.Request) {
	why := unhealthy(inside.Stopping(h.rt), h.rt.Stats(), inside.Now(h.rt))
	if len(why) > 0 {
		writeText(w, http.StatusServiceUnavailable, strings.Join(why, "\n")+"\n")
		return
	}
	writeText(w, http.StatusOK, "ok\n")
}
