package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"runtime/debug"
	"slices"

	"github.com/seed-9da638b0/activity"
)

func argumentsAreTheCallers(s *subject) error {
	want := checkpoints(6, 1)
	batch := deepClone(want)
	slices.Reverse(batch) // so that sorting it would be a change
	slices.Reverse(want)
	if err := save(s.ctx, s, batch...); err != nil {
		return err
	}
	for i := range want {
		if err := differ(batch[i], want[i]); err != nil {
			return fmt.Errorf("Save changed its argument: %w", err)
		}
	}
	for i := range batch {
		if err := scribble(batch[i]); err != nil {
			return err
		}
		batch[i] = activity.Checkpoint{}
	}
	if err := holds(s.ctx, s, want...); err != nil {
		return fmt.Errorf("Save kept the caller's memory, which the caller then changed: %w", err)
	}
	if err := holds(s.ctx, s.reopen(), want...); err != nil {
		return fmt.Errorf("reopened: Save kept the caller's memory, which the caller then changed: %w", err)
	}

	ids := idsOf(want[:4])
	given := slices.Clone(ids)
	if err := s.Delete(s.ctx, given); err != nil {
		return fmt.Errorf("Delete: %w", err)
	}
	if !slices.Equal(given, ids) {
		return fmt.Errorf("Delete changed its argument: got %+q, want %+q", given, ids)
	}
	for i := range given {
		given[i] = want[5].ID
	}
	return holds(s.ctx, s, want[4:]...)
}

func loadedIsTheCallers(s *subject) error {
	want := checkpoints(3, 1)
	if err := save(s.ctx, s, want...); err != nil {
		return err
	}
	got, ok, err := load(s.ctx, s, want[0].ID)
	if err != nil {
		return err
	}
	if !ok {
		return loads(s.ctx, s, want[0])
	}
	// The result must stay valid when the Store changes or frees what it was read from.
	if err := save(s.ctx, s, checkpoints(3, 2)...); err != nil {
		return err
	}
	for _, c := range want[1:] {
		if _, _, err := load(s.ctx, s, c.ID); err != nil {
			return err
		}
	}
	if err := differ(got, want[0]); err != nil {
		return fmt.Errorf("the result of Load changed during later calls: %w", err)
	}
	want = checkpoints(3, 3)
	if err := save(s.ctx, s, want...); err != nil {
		return err
	}
	for _, c := range want {
		if got, _, err = load(s.ctx, s, c.ID); err != nil {
			return err
		}
		if err := scribble(got); err != nil {
			return fmt.Errorf("Load: %w", err)
		}
	}
	if err := holds(s.ctx, s, want...); err != nil {
		return fmt.Errorf("Load returned the Store's own bytes, which the caller then changed: %w", err)
	}
	return nil
}

func yieldedIsTheCallers(s *subject) error {
	want := checkpoints(6, 1)
	if err := save(s.ctx, s, want...); err != nil {
		return err
	}
	got, err := collect(s.All(s.ctx))
	if err != nil {
		return err
	}
	if err := save(s.ctx, s, checkpoints(6, 2)...); err != nil {
		return err
	}
	if err := yielded(got, want, false); err != nil {
		return fmt.Errorf("a yielded checkpoint changed during a Save after the loop: %w", err)
	}
	want = checkpoints(6, 3)
	if err := save(s.ctx, s, want...); err != nil {
		return err
	}
	var wrong error
	err = each(s.All(s.ctx), func(c activity.Checkpoint) bool {
		wrong = scribble(c)
		return wrong == nil
	})
	if err != nil {
		return err
	}
	if wrong != nil {
		return fmt.Errorf("All: %w", wrong)
	}
	if err := holds(s.ctx, s, want...); err != nil {
		return fmt.Errorf("All yielded the Store's own bytes, which the caller then changed: %w", err)
	}
	return nil
}

// deepClone returns a copy of cs that shares no bytes and no Header with it.
func deepClone(cs []activity.Checkpoint) []activity.Checkpoint {
	cs = slices.Clone(cs)
	for i := range cs {
		forBytes(&cs[i], func(b *[]byte) { *b = bytes.Clone(*b) })
		cs[i].Header = maps.Clone(cs[i].Header)
	}
	return cs
}

// scribble inverts all bytes in c, up to their capacity, and changes its Header. It returns an
// error if the bytes are read-only, as in a mapped file.
func scribble(c activity.Checkpoint) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the bytes of ID %s are read-only, but the caller may change them: %v", brief(c.ID), v)
		}
	}()
	forBytes(&c, func(b *[]byte) {
		full := (*b)[:cap(*b)]
		for i := range full {
			full[i] ^= 0xff
		}
	})
	for k := range c.Header {
		c.Header[k] = "changed"
	}
	return nil
}

// forBytes calls f with a pointer to each []byte field of c.
func forBytes(c *activity.Checkpoint, f func(*[]byte)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if b, ok := v.Field(i).Addr().Interface().(*[]byte); ok {
			f(b)
		}
	}
}
