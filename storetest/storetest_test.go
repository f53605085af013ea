package storetest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/seed-9da638b0/activity"
)

// fails runs a check on a new Store that breaks has changed, and returns the check's error.
// It runs in a bubble, so that waiting for a call that hangs takes no time.
func fails(t *testing.T, c check, breaks func(*fake)) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(new(Memory))
		breaks(f)
		err = c.run(&subject{Store: f, ctx: t.Context(), reopen: func() activity.Store { return f.reopen() }, short: true})
		close(f.released)
	})
	return err
}

func checkNamed(t *testing.T, name string) check {
	t.Helper()
	i := slices.IndexFunc(checks, func(c check) bool { return c.name == name })
	if i < 0 {
		t.Fatalf("there is no check %q", name)
	}
	return checks[i]
}

// Given a Store with one fault, when the checks for this fault run, then they fail with the
// expected message.
func TestRun_FindsBrokenStores(t *testing.T) {
	for _, b := range brokenStores() {
		t.Run(b.name, func(t *testing.T) {
			for check, message := range b.found {
				err := fails(t, checkNamed(t, check), b.breaks)
				if err == nil {
					t.Errorf("check %s passes", check)
				} else if !strings.Contains(err.Error(), message) {
					t.Errorf("check %s fails with %q, want a message that contains %q", check, err, message)
				}
			}
		})
	}
}

func TestRun_EveryCheckFindsABrokenStore(t *testing.T) {
	finds := make(map[string]bool)
	for _, b := range brokenStores() {
		for check := range b.found {
			finds[check] = true
		}
	}
	names := make(map[string]bool)
	for _, c := range checks {
		if names[c.name] {
			t.Errorf("two checks are named %s", c.name)
		}
		names[c.name] = true
		if !finds[c.name] {
			t.Errorf("no broken store is found by %s", c.name)
		}
	}
}

func TestFields_FindsADroppedField(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[activity.Checkpoint]()) {
		t.Run(field.Name, func(t *testing.T) {
			err := fails(t, checkNamed(t, "Fields"), func(f *fake) {
				f.onRead(func(c activity.Checkpoint) activity.Checkpoint {
					reflect.ValueOf(&c).Elem().FieldByIndex(field.Index).SetZero()
					return c
				})
			})
			if err == nil || !strings.Contains(err.Error(), "the wrong "+field.Name) {
				t.Errorf("got %v, want an error that names %s", err, field.Name)
			}
		})
	}
}

func TestSamples_UnknownField(t *testing.T) {
	typ := reflect.TypeFor[struct {
		Labels map[string]int
		hidden int
	}]()
	for i, want := range []string{"no sample values for Checkpoint.Labels", "Checkpoint.hidden is unexported"} {
		if _, err := samples(typ.Field(i)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Given two Sequences, when checkpoint is called with each, then all fields are set, and all
// but ID differ. Otherwise, no check would notice an old value in that field.
func TestCheckpoint_ChangesAllFields(t *testing.T) {
	c, next := reflect.ValueOf(checkpoint("a", 1)), reflect.ValueOf(checkpoint("a", 2))
	for _, field := range reflect.VisibleFields(c.Type()) {
		value := c.FieldByIndex(field.Index)
		if value.IsZero() {
			t.Errorf("checkpoint leaves %s empty", field.Name)
		}
		if field.Name != "ID" && unlike(next.FieldByIndex(field.Index).Interface(), value.Interface()) == "" {
			t.Errorf("checkpoint has the same %s for every Sequence", field.Name)
		}
	}
}

// Given the fields of Checkpoint, then []byte and the Header are the only ones whose memory can be
// shared. clone, deepClone and scribble cover no other.
func TestCheckpoint_OnlyBytesAndHeaderCanBeShared(t *testing.T) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[activity.Checkpoint]()) {
		switch field.Type.Kind() {
		case reflect.Slice:
			if field.Type == reflect.TypeFor[[]byte]() {
				continue
			}
		case reflect.Map:
			if field.Name == "Header" {
				continue
			}
		case reflect.Pointer, reflect.Interface, reflect.Chan, reflect.Func:
		default:
			continue
		}
		t.Errorf("clone, deepClone and scribble do not handle Checkpoint.%s of type %v", field.Name, field.Type)
	}
}

func TestClone_SharesNothing(t *testing.T) {
	want, c := checkpoint("a", 1), checkpoint("a", 1)
	shared := clone(c)
	if err := errors.Join(scribble(c), differ(shared, want)); err != nil {
		t.Error(err)
	}
}

func TestSamples_HaveAllStates(t *testing.T) {
	field, _ := reflect.TypeFor[activity.Checkpoint]().FieldByName("State")
	states, err := samples(field)
	if err != nil {
		t.Fatal(err)
	}
	for i, state := range states {
		if want := activity.CheckpointState(i + 1); state != want {
			t.Errorf("sample %d is %v, want %v", i, state, want)
		}
	}
	if next := activity.CheckpointState(len(states) + 1); !strings.Contains(next.String(), "(") {
		t.Errorf("samples lack the state %v", next)
	}
}

func TestTexts_AreDifferent(t *testing.T) {
	seen := make(map[string]bool)
	for _, text := range texts {
		if seen[text] {
			t.Errorf("texts has %+q twice", text)
		}
		seen[text] = true
	}
}

func TestRun_SkipsCloseChecksWithoutCloser(t *testing.T) {
	for _, name := range []string{"Closed", "ClosedTwice", "ClosedKeeps"} {
		s := struct{ activity.Store }{new(Memory)}
		err := checkNamed(t, name).run(&subject{Store: s, ctx: t.Context()})
		if err != errNotApplicable {
			t.Errorf("%s: got %v, want %v", name, err, errNotApplicable)
		}
	}
}

func TestMemory_AllSkipsDeletedCheckpoints(t *testing.T) {
	var m Memory
	if err := m.Save(t.Context(), checkpoints(3, 1)); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for c, err := range m.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
		if err := m.Delete(t.Context(), []string{"id-0001"}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"id-0000", "id-0002"}; !slices.Equal(ids, want) {
		t.Errorf("got %q, want %q", ids, want)
	}
}
