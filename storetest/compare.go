package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"time"

	"github.com/seed-9da638b0/activity"
)

// states lists every State that a Checkpoint can have.
var states = []activity.CheckpointState{
	activity.CheckpointRunning, activity.CheckpointInterrupted,
	activity.CheckpointFailed, activity.CheckpointCanceled, activity.CheckpointWaiting, activity.CheckpointPaused,
}

// checkpoint returns a Checkpoint without an empty field. Every field except ID changes with
// the sequence, so that a mix of two Saves is detected. The lengths change only with the
// number of digits of the sequence.
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
		Header:      map[string]string{"trace": fmt.Sprint("trace ", n), "user": fmt.Sprint("user ", n)},
		LastFailure: fmt.Sprintf("connection %d reset", n),
	}
}

// bare returns a Checkpoint with only the fields that are never empty.
func bare(id string, sequence uint64) activity.Checkpoint {
	return activity.Checkpoint{ID: id, State: activity.CheckpointRunning, Sequence: sequence}
}

// checkpoints returns n checkpoints with the IDs "id-0000", "id-0001" and so on.
func checkpoints(n int, sequence uint64) []activity.Checkpoint {
	var cs []activity.Checkpoint
	for i := range n {
		cs = append(cs, checkpoint(fmt.Sprintf("id-%04d", i), sequence))
	}
	return cs
}

// idsOf returns the IDs of cs.
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

// load calls s.Load and adds the ID to its error. It checks that s does not deny a checkpoint
// that it has.
func load(ctx context.Context, s activity.Store, id string) (activity.Checkpoint, bool, error) {
	c, ok, err := s.Load(ctx, id)
	if err != nil {
		err = fmt.Errorf("Load of ID %s: %w", brief(id), err)
	} else if ok && !mayHold(s, id) {
		err = fmt.Errorf("MayHold of ID %s returns false, but Load finds a checkpoint", brief(id))
	}
	return c, ok, err
}

// mayHold calls MayHold, if s has that method.
func mayHold(s activity.Store, id string) bool {
	if sub, ok := s.(*subject); ok {
		s = sub.Store
	}
	m, ok := s.(interface{ MayHold(id string) bool })
	return !ok || m.MayHold(id)
}

// loads checks that Load returns want for its ID.
func loads(ctx context.Context, s activity.Store, want activity.Checkpoint) error {
	got, ok, err := load(ctx, s, want.ID)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("Load of ID %s: not found, want the saved checkpoint", brief(want.ID))
	}
	if err := differ(got, want); err != nil {
		return fmt.Errorf("Load: %w", err)
	}
	return nil
}

// lacks checks that Load does not find id.
func lacks(ctx context.Context, s activity.Store, id string) error {
	got, ok, err := load(ctx, s, id)
	if err != nil {
		return err
	}
	if ok {
		return fmt.Errorf("Load of ID %s: found a checkpoint with ID %s, want none", brief(id), brief(got.ID))
	}
	return nil
}

// errGoesOn is wrapped by the error of an All that yields something that it must not.
var errGoesOn = errors.New("All")

// each ranges over the result of All. It calls all directly, because a range statement
// would panic if all continued after the loop was left.
func each(all iter.Seq2[activity.Checkpoint, error], body func(activity.Checkpoint) bool) error {
	var failed, wrong error
	left := false
	all(func(c activity.Checkpoint, err error) bool {
		switch {
		case left:
			wrong = fmt.Errorf("%w: it called yield again after yield returned false", errGoesOn)
		case failed != nil:
			wrong = fmt.Errorf("%w: it called yield again after yielding an error (%v)", errGoesOn, failed)
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

// collect returns everything that All yields, in that order.
func collect(all iter.Seq2[activity.Checkpoint, error]) ([]activity.Checkpoint, error) {
	var got []activity.Checkpoint
	err := each(all, func(c activity.Checkpoint) bool {
		got = append(got, c)
		return true
	})
	return got, err
}

// holds checks that All yields each of want once and nothing else.
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

// yielded checks that got, which All yielded, has each of want exactly once. Unless others
// is set, got must have nothing else.
func yielded(got, want []activity.Checkpoint, others bool) error {
	times := make(map[string]int)
	byID := make(map[string]activity.Checkpoint)
	for _, c := range got {
		times[c.ID]++
		byID[c.ID] = c
	}
	for _, c := range want {
		if n := times[c.ID]; n != 1 {
			return fmt.Errorf("All: it yielded ID %s %d times, want once", brief(c.ID), n)
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
		return fmt.Errorf("All: it yielded ID %s, which is not stored", brief(id))
	}
	return nil
}

// differ returns an error that names the first field in which got differs from want. It
// compares Sequence first, because most other fields change with it.
func differ(got, want activity.Checkpoint) error {
	if got.Sequence != want.Sequence {
		return fmt.Errorf("ID %s has the wrong Sequence: got %d, want %d", brief(want.ID), got.Sequence, want.Sequence)
	}
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if why := unlike(g.Field(i).Interface(), w.Field(i).Interface()); why != "" {
			return fmt.Errorf("ID %s has the wrong %s: %s", brief(want.ID), g.Type().Field(i).Name, why)
		}
	}
	return nil
}

// unlike describes how got differs from want. It returns "" if a Store may return got for
// want.
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
	case map[string]string:
		if got := got.(map[string]string); !maps.Equal(got, want) {
			return fmt.Sprintf("got %s, want %s", brief(fmt.Sprintf("%q", got)), brief(fmt.Sprintf("%q", want)))
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
	return fmt.Sprintf("got %s (%d bytes), want %s (%d bytes); the first %d bytes are the same",
		brief(got), len(got), brief(want), len(want), same)
}

// brief quotes text and shortens it to 40 bytes.
func brief(text string) string {
	const most = 40
	if len(text) <= most {
		return fmt.Sprintf("%+q", text)
	}
	return fmt.Sprintf("%+q...", text[:most])
}
