package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"time"

	"github.com/seed-9da638b0/activity"
)

// states are all that a Checkpoint can have.
var states = []activity.CheckpointState{
	activity.CheckpointRunning, activity.CheckpointInterrupted,
	activity.CheckpointFailed, activity.CheckpointCanceled, activity.CheckpointWaiting,
}

// checkpoint returns one with no empty field. Each field but ID changes with the
// sequence, so that a mixture of two Saves is found. The lengths stay the same, as
// far as the sequences have equally many digits.
func checkpoint(id string, sequence uint64) activity.Checkpoint {
	n := int(sequence)
	scheduled := time.Date(2026, 3, 1, 9, 30, 0, 123456789, time.UTC).Add(time.Duration(n))
	return activity.Checkpoint{
		ID:          id,
		Name:        fmt.Sprintf("import %s, version %d", id, n),
		State:       states[n%len(states)],
		Attempt:     n + 2,
		CountedFrom: n,
		Progressed:  n + 1,
		Sequence:    sequence,
		ScheduledAt: scheduled,
		UpdatedAt:   scheduled.Add(time.Minute),
		NextAttempt: scheduled.Add(time.Hour),
		Input:       fmt.Appendf(nil, `{"file":"%s","version":%d}`, id, n),
		Details:     fmt.Appendf(nil, "%d rows", n),
		LastFailure: fmt.Sprintf("connection %d reset", n),
	}
}

// bare returns a checkpoint with only the fields that each one has.
func bare(id string, sequence uint64) activity.Checkpoint {
	return activity.Checkpoint{ID: id, State: activity.CheckpointRunning, Sequence: sequence}
}

// checkpoints are n of them.
func checkpoints(n int, sequence uint64) []activity.Checkpoint {
	var cs []activity.Checkpoint
	for i := range n {
		cs = append(cs, checkpoint(fmt.Sprintf("id-%04d", i), sequence))
	}
	return cs
}

// idsOf are cs' IDs.
func idsOf(cs []activity.Checkpoint) []string {
	var ids []string
	for _, c := range cs {
		ids = append(ids, c.ID)
	}
	return ids
}

func save(ctx context.Context, s activity.Store, cs ...activity.Checkpoint) error {
	if err := s.Save(ctx, cs); err != nil {
		return fmt.Errorf("Save of %d checkpoints: %w", len(cs), err)
	}
	return nil
}

func remove(ctx context.Context, s activity.Store, ids ...string) error {
	if err := s.Delete(ctx, ids); err != nil {
		return fmt.Errorf("Delete of %d IDs: %w", len(ids), err)
	}
	return nil
}

// load is Load with an error that says so.
func load(ctx context.Context, s activity.Store, id string) (activity.Checkpoint, bool, error) {
	c, ok, err := s.Load(ctx, id)
	if err != nil {
		err = fmt.Errorf("Load of ID %s: %w", brief(id), err)
	}
	return c, ok, err
}

// loads checks that s has want.
func loads(ctx context.Context, s activity.Store, want activity.Checkpoint) error {
	got, ok, err := load(ctx, s, want.ID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("Load of ID %s: there is none, want what was saved", brief(want.ID))
	}
	if err := differ(got, want); err != nil {
		return fmt.Errorf("Load: %w", err)
	}
	return nil
}

// lacks checks that s has nothing with id.
func lacks(ctx context.Context, s activity.Store, id string) error {
	got, ok, err := load(ctx, s, id)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("Load of ID %s: got a checkpoint (of ID %s), want none", brief(id), brief(got.ID))
	}
	return nil
}

// errGoesOn is of an All that yields what it must not.
var errGoesOn = errors.New("All")

// each ranges over what All returned. It drives All by hand, to tell what that does
// wrong.
func each(all iter.Seq2[activity.Checkpoint, error], body func(activity.Checkpoint) bool) error {
	var failed, wrong error
	left := false
	all(func(c activity.Checkpoint, err error) bool {
		switch {
		case left:
			wrong = fmt.Errorf("%w: it goes on after the loop was left (yield returned false)", errGoesOn)
		case failed != nil:
			wrong = fmt.Errorf("%w: it goes on after it has yielded an error (%v)", errGoesOn, failed)
		case err != nil:
			failed = fmt.Errorf("All: %w", err)
		default:
			left = !body(c)
		}
		return !left
	})
	if wrong != nil {
		return wrong
	}
	return failed
}

// collect is all that All yields.
func collect(all iter.Seq2[activity.Checkpoint, error]) ([]activity.Checkpoint, error) {
	var got []activity.Checkpoint
	err := each(all, func(c activity.Checkpoint) bool {
		got = append(got, c)
		return true
	})
	return got, err
}

// holds checks that All yields want and nothing else.
func holds(ctx context.Context, s activity.Store, want ...activity.Checkpoint) error {
	return yields(s.All(ctx), want)
}

func yields(all iter.Seq2[activity.Checkpoint, error], want []activity.Checkpoint) error {
	got, err := collect(all)
	if err != nil {
		return err
	}
	return yielded(got, want, false)
}

// yielded checks that each of want is among what All yielded exactly once, and
// what else is only if others may be.
func yielded(got, want []activity.Checkpoint, others bool) error {
	times := make(map[string]int)
	byID := make(map[string]activity.Checkpoint)
	for _, c := range got {
		times[c.ID]++
		byID[c.ID] = c
	}
	for _, c := range want {
		if n := times[c.ID]; n != 1 {
			return fmt.Errorf("All: it yields ID %s %d times, want once", brief(c.ID), n)
		}
		if err := differ(byID[c.ID], c); err != nil {
			return fmt.Errorf("All: %w", err)
		}
		delete(byID, c.ID)
	}
	if others {
		return nil
	}
	for id := range byID {
		return fmt.Errorf("All: it yields ID %s, which is not stored", brief(id))
	}
	return nil
}

// differ says in which field got is not want. If it is another Sequence, it says
// that, because most of the other fields change with it.
func differ(got, want activity.Checkpoint) error {
	if got.Sequence != want.Sequence {
		return fmt.Errorf("ID %s has another Sequence: got %d, want %d", brief(want.ID), got.Sequence, want.Sequence)
	}
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if why := unlike(g.Field(i).Interface(), w.Field(i).Interface()); why != "" {
			return fmt.Errorf("ID %s has another %s: %s", brief(want.ID), g.Type().Field(i).Name, why)
		}
	}
	return nil
}

// unlike says how got is not want; "" if a Store may return it for want.
func unlike(got, want any) string {
	switch want := want.(type) {
	case time.Time:
		if got := got.(time.Time); !got.Equal(want) {
			return fmt.Sprintf("got %s, want %s", got.Format(time.RFC3339Nano), want.Format(time.RFC3339Nano))
		}
	case []byte:
		if got := got.([]byte); !bytes.Equal(got, want) {
			return unlikeText(string(got), string(want))
		}
	case string:
		if got := got.(string); got != want {
			return unlikeText(got, want)
		}
	default:
		if !reflect.DeepEqual(got, want) {
			return fmt.Sprintf("got %v, want %v", got, want)
		}
	}
	return ""
}

func unlikeText(got, want string) string {
	same := 0
	for same < min(len(got), len(want)) && got[same] == want[same] {
		same++
	}
	return fmt.Sprintf("got %s (%d bytes), want %s (%d bytes), the first %d bytes are the same",
		brief(got), len(got), brief(want), len(want), same)
}

// brief quotes text, and cuts what is long.
func brief(text string) string {
	const most = 40
	if len(text) <= most {
		return fmt.Sprintf("%+q", text)
	}
	return fmt.Sprintf("%+q...", text[:most])
}
