package activitytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// A resumption compares an attempt that resumes from recorded details with the dry run's
// attempt that resumed from nothing. It covers the attempt until its Context ends. It is
// guarded by World.mu.
type resumption struct {
	details  []byte
	baseline int  // number of the dry run's execution with which the attempt is compared
	after    int  // heartbeats with details in the run before the attempt began
	steps    int  // steps of the attempt that equal those of the dry run
	differs  bool // whether a step differed
	returned bool // whether the function returned while its Context lasted
	read     bool // whether the attempt called HeartbeatDetails
	told     bool // whether HeartbeatDetails gave the attempt any value that is not zero
}

// begins is called when the attempt starts with these details. World.mu is held.
func (a *attempt) begins(details []byte) {
	w := a.life.w
	s := w.sight(a.info.ID)
	a.execution = s.completed
	switch {
	case details == nil:
		if a.fromNothing = w.run == nil; a.fromNothing {
			s.fromNothing[a.execution] = nil // only the last such attempt counts, as earlier ones may have failed
		}
	case w.run != nil:
		a.resumption = &resumption{details: details, after: s.records}
		if dry := w.dry.seen[a.info.ID]; dry != nil {
			a.resumption.baseline = dry.baseline(a.execution)
		}
		s.resumptions = append(s.resumptions, a.resumption)
	}
}

// baseline returns the number of the dry run's execution with which the given one is
// compared. It is the same number or, if that execution has no attempt from nothing, the
// number of the last one before it that has one.
func (s *sight) baseline(execution int) int {
	n := min(execution, s.completed)
	for n > 0 && s.fromNothing[n] == nil {
		n--
	}
	return n
}

// did is called after a step. World.mu is held.
func (a *attempt) did(s *step) {
	if s.done || a.Context == nil {
		return
	}
	w := a.life.w
	seen := w.sight(a.info.ID)
	if s.call.kind == "return" && s.err == nil && !timedOut(a.Context) { // also if it was canceled meanwhile
		seen.completed++
	}
	if a.Context.Err() != nil {
		return
	}
	s.done = true
	if s.records() {
		seen.records++
	}
	if a.fromNothing {
		seen.fromNothing[a.execution] = append(seen.fromNothing[a.execution], s)
	}
	r := a.resumption
	if r == nil {
		return
	}
	r.returned = s.call.kind == "return"
	var was []*step
	if dry := w.dry.seen[a.info.ID]; dry != nil {
		was = dry.fromNothing[r.baseline]
	}
	if r.steps >= len(was) || !was[r.steps].same(s) {
		r.differs = true
		return
	}
	r.steps++
}

func timedOut(ctx context.Context) bool {
	return errors.As(context.Cause(ctx), new(*activity.TimeoutError))
}

// reads is called after a HeartbeatDetails with these pointers. It records whether the
// attempt got any value that is not zero.
func (a *attempt) reads(found bool, into []any) {
	r := a.resumption
	if r == nil {
		return
	}
	told := found && (len(into) == 0 || !a.zeros(into))
	w := a.life.w
	w.mu.Lock()
	defer w.mu.Unlock()
	r.read = true
	r.told = r.told || told
}

// zeros reports whether the recorded details decode into zero values. It decodes them into
// new values, because the function's own may have held something before.
func (a *attempt) zeros(into []any) bool {
	fresh := make([]any, len(into))
	for i, p := range into {
		fresh[i] = reflect.New(reflect.TypeOf(p).Elem()).Interface()
	}
	if _, err := a.Context.HeartbeatDetails(fresh...); err != nil {
		return false
	}
	return !slices.ContainsFunc(fresh, func(p any) bool {
		v := reflect.ValueOf(p).Elem()
		for v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		return !v.IsZero()
	})
}

// records reports whether the step recorded details.
func (s *step) records() bool { return s.call.details && s.err == nil && s.details != nil }

// same reports whether two steps are equal. It ignores the text of errors, which may have
// the attempt's number.
func (s *step) same(t *step) bool {
	return s.call == t.call && bytes.Equal(s.details, t.details) && (s.err == nil) == (t.err == nil)
}

// A usage sums up how an activity used its recorded details in all runs.
type usage struct {
	differs    bool            // whether any attempt that resumed from details differed
	read, told bool            // whether any resumption has read or told set
	resumed    int             // attempts that resumed from details and did not differ until they returned
	from       map[string]bool // details from which those attempts resumed
	after      map[int]bool    // numbers of heartbeats with details before those attempts
}

// usages has the usage of each activity by its ID.
type usages map[string]*usage

// learn adds the resumptions of a run.
func (all usages) learn(w *World) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, s := range w.seen {
		u := all[id]
		if u == nil {
			u = &usage{from: map[string]bool{}, after: map[int]bool{}}
			all[id] = u
		}
		for _, r := range s.resumptions {
			u.differs = u.differs || r.differs
			u.read = u.read || r.read
			u.told = u.told || r.told
			// Each execution may read its own value, so only the last execution counts.
			if dry := w.dry.seen[id]; r.returned && !r.differs && dry != nil && r.baseline == dry.baseline(dry.completed) {
				u.resumed++
				u.from[string(r.details)] = true
				u.after[r.after] = true
			}
		}
	}
}

// judge fails the test for activities whose recorded details make no difference.
func (all usages) judge(t *testing.T, dry *World) {
	t.Helper()
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if s := dry.seen[id]; s != nil && !s.concurrent {
			if why := all[id].useless(s.fromNothing[s.baseline(s.completed)]); why != "" {
				t.Errorf("activitytest: the heartbeat details of %s make no difference: %s", label(id), why)
			}
		}
	}
}

// useless returns the reason why the details make no difference to an activity that takes
// the given steps when it resumes from nothing. It returns "" if they do, or if the runs do
// not show it.
func (u *usage) useless(fromNothing []*step) string {
	var last []byte
	records := 0
	for _, s := range fromNothing {
		if s.records() {
			last = s.details
			records++
		}
	}
	// A single marker may skip work that has no place. The last details should make the
	// largest difference, so an attempt must have resumed from them, whatever MaxRuns is.
	if u.differs || records < 2 || len(u.after) < 2 || !u.from[string(last)] {
		return ""
	}
	var why string
	switch {
	case !u.read:
		why = "The activity never reads its details: resume from them with activity.Resume, or call Heartbeat without details."
	case !u.told:
		why = "The activity reads only zero values: its Codec may drop the data, as encoding/json drops unexported fields. " +
			"Record details that the Codec encodes, or call Heartbeat without details. " + orPoint
	case len(u.from) > 1:
		why = "The activity reads its details but starts from the beginning: continue from the details, or call Heartbeat without details. " + orPoint
	default:
		return "" // a single value, such as the ID of a job elsewhere, may be used between places
	}
	var from []string
	for _, details := range slices.Sorted(maps.Keys(u.from)) {
		from = append(from, show([]byte(details)))
	}
	return fmt.Sprintf("%d attempts resumed from details (%s), and each made the same calls as an attempt that resumed from nothing. %s",
		u.resumed, strings.Join(ends(from, "%d more"), "; "), why)
}

const orPoint = "If it skips work that has no place, add a Point to that work."
