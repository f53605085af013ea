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

// A resumption is an attempt that resumes from recorded details, as it compares with
// the dry run's attempt that resumed from nothing. It is looked at while its Context
// lasts. Guarded by World.mu.
type resumption struct {
	details  []byte
	baseline int  // the dry run's execution that it compares with
	after    int  // heartbeats with details that the run had seen
	steps    int  // that are those of the dry run
	differs  bool // and then another one came
	returned bool
	read     bool // it has called HeartbeatDetails
	told     bool // which gave it more than zero values
}

// begins is told of the attempt's start. World.mu is held.
func (a *attempt) begins(details []byte) {
	w := a.life.w
	s := w.sight(a.info.ID)
	a.execution = s.completed
	switch {
	case details == nil:
		if a.fromNothing = w.run == nil; a.fromNothing {
			s.fromNothing[a.execution] = nil // the last one counts: those before may have failed
		}
	case w.run != nil:
		a.resumption = &resumption{details: details, after: s.records}
		if dry := w.dry.seen[a.info.ID]; dry != nil {
			a.resumption.baseline = dry.baseline(a.execution)
		}
		s.resumptions = append(s.resumptions, a.resumption)
	}
}

// baseline returns the number of the execution whose attempt from nothing counts for this
// one: its own, or the last one before that has one.
func (s *sight) baseline(execution int) int {
	n := min(execution, s.completed)
	for n > 0 && s.fromNothing[n] == nil {
		n--
	}
	return n
}

// did is told of a step when it is done. World.mu is held.
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

// reads takes down whether a HeartbeatDetails that has decoded into these pointers
// tells the attempt anything.
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

// zeros reports whether the recorded details decode into zero values. What the
// function's own pointers hold now does not say so: they may have held it before.
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

// records reports whether the step has recorded details.
func (s *step) records() bool { return s.call.details && s.err == nil && s.details != nil }

// same reports whether two steps do the same. Errors may name the attempt.
func (s *step) same(t *step) bool {
	return s.call == t.call && bytes.Equal(s.details, t.details) && (s.err == nil) == (t.err == nil)
}

// A usage is what the runs have shown of an activity's recorded details.
type usage struct {
	differs    bool            // an attempt that resumed from them did something else
	read, told bool            // as those of the resumptions
	resumed    int             // attempts that resumed from them and did the same until they returned
	from       map[string]bool // the details that those resumed from
	after      map[int]bool    // and after how many heartbeats with details
}

// usages are those of all activities, by ID.
type usages map[string]*usage

// learn takes down what the attempts of a run that resumed from details have done.
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
			// Each execution may read a value of its own, so those of one count.
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
				t.Errorf("activitytest: the details that %s records make no difference: %s", label(id), why)
			}
		}
	}
}

// useless says why the details make no difference, to an activity that takes these
// steps when it resumes from nothing; "": they do, or nobody can say.
func (u *usage) useless(fromNothing []*step) string {
	var last []byte
	records := 0
	for _, s := range fromNothing {
		if s.records() {
			last = s.details
			records++
		}
	}
	// A single marker may let it skip what comes to no place. What is recorded last
	// says the most, so it must have been tried, whichever runs were left out.
	if u.differs || records < 2 || len(u.after) < 2 || !u.from[string(last)] {
		return ""
	}
	var why string
	switch {
	case !u.read:
		why = "The activity never reads them: resume from them with activity.Resume, or call Heartbeat without details."
	case !u.told:
		why = "The activity reads only zero values: its Codec may drop what they hold, as encoding/json drops unexported fields. " +
			"Record what the Codec encodes, or call Heartbeat without details. " + orPoint
	case len(u.from) > 1:
		why = "The activity reads them and starts from the beginning: start where they say, or call Heartbeat without details. " + orPoint
	default:
		return "" // one value, such as the ID of a job elsewhere, can be used at no place
	}
	var from []string
	for _, details := range slices.Sorted(maps.Keys(u.from)) {
		from = append(from, show([]byte(details)))
	}
	return fmt.Sprintf("%d attempts resumed from them (%s), and each did exactly what an attempt does that resumes from nothing. %s",
		u.resumed, strings.Join(ends(from, "%d more"), "; "), why)
}

const orPoint = "If it skips work that comes to no place, give that work a Point."
