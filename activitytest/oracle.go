package activitytest

import (
	"fmt"
	"reflect"
	"slices"
)

// Same fails the run unless value is deeply equal, as [reflect.DeepEqual] has it, to the value of that name
// in the dry run. So the body need not state the expected value, provided that the uninterrupted run is
// correct. Call it in the body's goroutine, after [World.Run], once for each name. The value must not
// change after that.
//
//	w.Same("rows", db.all())
func (w *World) Same(name string, value any) {
	w.t.Helper()
	w.mu.Lock()
	_, twice := w.same[name]
	if w.same == nil {
		w.same = map[string]any{}
	}
	w.same[name] = value
	w.mu.Unlock()
	switch {
	case twice:
		w.t.Errorf("activitytest: World.Same was called twice with the name %q", name)
	case w.dry == nil:
	default:
		if want, ok := w.dry.same[name]; !ok {
			w.t.Errorf("activitytest: World.Same was not called with the name %q in the dry run", name)
		} else if !reflect.DeepEqual(value, want) {
			w.t.Errorf("activitytest: %s must be that of the dry run: got %+v, want %+v", name, value, want)
		}
	}
}

// Once fails the run if it is called twice with the same key, which must be comparable. Call it in a fake,
// where it has an effect that must not happen again, such as a payment. It may be called in any goroutine.
// Calls after the end of the body do not count.
//
//	w.Once(payment.ID)
func (w *World) Once(key any) {
	w.t.Helper()
	if !reflect.ValueOf(key).Comparable() {
		w.t.Errorf("activitytest: World.Once: the key must be comparable (got %T)", key)
		return
	}
	w.mu.Lock()
	twice := !w.ended && w.once[key]
	if w.once == nil {
		w.once = map[any]bool{}
	}
	w.once[key] = true
	w.mu.Unlock()
	if twice {
		w.t.Errorf("activitytest: World.Once was called twice with the key %v", key)
	}
}

// notCompared returns an error text if the dry run compared a value and this run did not. World.mu is
// held.
func (w *World) notCompared() string {
	if w.dry == nil {
		return ""
	}
	var names []string
	for name := range w.dry.same {
		if _, ok := w.same[name]; !ok {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("activitytest: World.Same was called in the dry run, and not now: %q", names)
}
