package activityhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/seed-9da638b0/activity"
)

// errCanceled is the cause of a cancellation.
var errCanceled = fmt.Errorf("canceled over HTTP: %w", context.Canceled)

// An action steers an activity.
type action struct {
	name   string // its path
	label  string // of its button
	ask    string // a question that is asked first; empty if there is none
	states []activity.State
	do     func(ctx context.Context, rt *activity.Runtime, id string) error
}

// waits are the states in which an activity waits for something.
var waits = []activity.State{activity.StateWaiting, activity.StateBackingOff, activity.StateBlocked}

var actions = []action{
	{
		name: "cancel", label: "Cancel", ask: "It ends for good, and its callers get an error.",
		states: append([]activity.State{activity.StateRunning, activity.StatePaused}, waits...),
		do:     func(_ context.Context, rt *activity.Runtime, id string) error { return rt.Cancel(id, errCanceled) },
	},
	{
		name: "pause", label: "Pause",
		states: append([]activity.State{activity.StateRunning}, waits...),
		do:     func(_ context.Context, rt *activity.Runtime, id string) error { return rt.Pause(id) },
	},
	{
		name: "unpause", label: "Unpause",
		states: []activity.State{activity.StatePaused},
		do:     func(_ context.Context, rt *activity.Runtime, id string) error { return rt.Unpause(id) },
	},
	{
		name: "retry", label: "Retry now",
		states: []activity.State{activity.StateBackingOff},
		do:     func(_ context.Context, rt *activity.Runtime, id string) error { return rt.RetryNow(id) },
	},
	forget,
}

// forget is for activities that are stored and do not run.
var forget = action{
	name: "forget", label: "Forget", ask: "The checkpoint is deleted, and its progress is lost.",
	do: func(ctx context.Context, rt *activity.Runtime, id string) error {
		err := rt.Forget(ctx, id)
		if err != nil && !errors.Is(err, activity.ErrAlreadyRunning) {
			return &storeError{err}
		}
		return err
	},
}

// A storeError is an error of the Store.
type storeError struct{ error }

// A form is the button of an action, for the templates.
type form struct {
	Name, Label, Ask string
	ID, Shown        string
	Back             string // relative URL of the page that shows the form
}

func (a action) form(id, back string) form { return form{a.name, a.label, a.ask, id, shown(id), back} }

// Forms are the actions that make sense for the activity, if the viewer may steer.
func (r *row) Forms() []form {
	var forms []form
	for _, a := range actions {
		if r.Control && slices.Contains(a.states, r.State) {
			forms = append(forms, a.form(r.ID, r.Back))
		}
	}
	return forms
}

// steer serves an action. done answers if it has worked.
func (h *handler) steer(act action, done http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !h.opts.Control {
			fail(w, r, http.StatusForbidden, "Activities cannot be steered here, because Options.Control is not set.")
			return
		}
		if err := h.origin.Check(r); err != nil {
			fail(w, r, http.StatusForbidden, "The request comes from another site: "+err.Error())
			return
		}
		id, ok := idOf(w, r)
		if !ok {
			return
		}
		if err := act.do(r.Context(), h.rt, id); err != nil {
			fail(w, r, statusOf(err), err.Error())
			return
		}
		done(w, r)
	}
}

// statusOf returns the status code of an error of the Runtime.
func statusOf(err error) int {
	if _, ok := err.(*storeError); ok {
		return http.StatusServiceUnavailable
	}
	if errors.Is(err, activity.ErrNotFound) {
		return http.StatusNotFound
	}
	return http.StatusConflict // it names the state
}

// backToPage leads to the page that has shown the form. See redirectToSlash for the reason why
// this is not http.Redirect.
func backToPage(w http.ResponseWriter, r *http.Request) {
	to := url.URL{Path: "./"}
	if back, err := url.Parse(r.URL.Query().Get("back")); err == nil {
		to.RawQuery = back.Query().Encode()
		if back.Path == storedPath {
			to.Path += storedPath
		}
	}
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusSeeOther)
}

func noContent(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
