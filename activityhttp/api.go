package activityhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

// An apiError is the answer to a request that fails.
type apiError struct{ Error string }

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status = http.StatusInternalServerError
		data, _ = json.Marshal(apiError{err.Error()}) // a string never fails
	}
	write(w, status, "application/json", append(data, '\n'))
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

// apiCheckpoints serves what is stored and does not run. It holds one checkpoint in memory at a
// time. An error after the first one aborts the connection, because the status is sent then.
func (h *handler) apiCheckpoints(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	rc := http.NewResponseController(w)
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	begin := `{"Checkpoints":[`
	before := begin
	send := func(data ...[]byte) bool {
		// Others wait for the Store meanwhile.
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		for _, d := range data {
			if _, err := w.Write(d); err != nil {
				return false
			}
		}
		return true
	}
	for cp, err := range h.checkpoints(r.Context()) {
		status := http.StatusServiceUnavailable
		var data []byte
		if err == nil {
			status = http.StatusInternalServerError
			data, err = json.Marshal(keyedCheckpoint{url.QueryEscape(cp.ID), cp})
		}
		switch {
		case err != nil && before != begin:
			panic(http.ErrAbortHandler)
		case err != nil:
			fail(w, r, status, err.Error())
			return
		case !send([]byte(before), data):
			return
		}
		before = ","
	}
	if before == begin {
		send([]byte(begin))
	}
	send([]byte("]}\n"))
	_ = rc.Flush() // before the deadline is removed
}

// checkpoints is Runtime.Checkpoints for one request at a time, because a call of Store.All that
// hangs keeps its goroutine. So it does not end with ctx while it waits for the Store, but only
// after Config.StoreTimeout. After ctx has ended, it yields its cause as an error.
func (h *handler) checkpoints(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		select {
		case h.reading <- struct{}{}:
			defer func() { <-h.reading }()
		case <-ctx.Done():
			yield(activity.Checkpoint{}, context.Cause(ctx))
			return
		}
		for cp, err := range h.rt.Checkpoints(context.WithoutCancel(ctx)) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if !yield(cp, err) || err != nil {
				return
			}
		}
	}
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
