package storetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/seed-9da638b0/activity"
)

func loadMissing(s *subject) error {
	return lacks(s.ctx, s, "missing")
}

func saveAndLoad(s *subject) error {
	c := checkpoint("a", 1)
	return errors.Join(save(s.ctx, s, c), loads(s.ctx, s, c), lacks(s.ctx, s, "b"), holds(s.ctx, s, c))
}

func saveReplaces(s *subject) error {
	for _, c := range []activity.Checkpoint{checkpoint("a", 1), checkpoint("a", 2), bare("a", 3), checkpoint("a", 4)} {
		if err := save(s.ctx, s, c); err != nil {
			return err
		}
		if err := errors.Join(loads(s.ctx, s, c), holds(s.ctx, s, c)); err != nil {
			return fmt.Errorf("after a Save of the same ID, which must replace every field: %w", err)
		}
	}
	return nil
}

// saveReplacesStates replaces every State by every other. Even a failed or canceled ID can
// be started again.
func saveReplacesStates(s *subject) error {
	var before, after []activity.Checkpoint
	for _, from := range states {
		for _, to := range states {
			c := checkpoint(fmt.Sprint(from, " to ", to), 1)
			c.State = from
			before = append(before, c)
			c.State, c.Sequence = to, 2
			after = append(after, c)
		}
	}
	for _, batch := range [][]activity.Checkpoint{before, after} {
		if err := errors.Join(save(s.ctx, s, batch...), holds(s.ctx, s, batch...)); err != nil {
			return fmt.Errorf("Save must replace any State by any other: %w", err)
		}
	}
	return nil
}

func saveBatch(s *subject) error {
	batch := checkpoints(5, 1)
	if err := save(s.ctx, s, batch...); err != nil {
		return err
	}
	for _, c := range batch {
		if err := loads(s.ctx, s, c); err != nil {
			return err
		}
	}
	return holds(s.ctx, s, batch...)
}

func saveEmptyBatch(s *subject) error {
	c := checkpoint("a", 1)
	if err := save(s.ctx, s, c); err != nil {
		return err
	}
	for _, batch := range [][]activity.Checkpoint{nil, {}} {
		if err := save(s.ctx, s, batch...); err != nil {
			return err
		}
	}
	return holds(s.ctx, s, c)
}

func deleteOne(s *subject) error {
	a, b := checkpoint("a", 1), checkpoint("b", 1)
	if err := errors.Join(save(s.ctx, s, a, b), remove(s.ctx, s, "a")); err != nil {
		return err
	}
	if err := errors.Join(lacks(s.ctx, s, "a"), loads(s.ctx, s, b), holds(s.ctx, s, b)); err != nil {
		return fmt.Errorf("after Delete of another ID: %w", err)
	}
	again := bare("a", 1) // its empty fields show what is left of the deleted checkpoint
	if err := save(s.ctx, s, again); err != nil {
		return fmt.Errorf("Save must take Sequence 1 again after Delete: %w", err)
	}
	if err := errors.Join(loads(s.ctx, s, again), holds(s.ctx, s, again, b)); err != nil {
		return fmt.Errorf("after Delete and a new Save with Sequence 1: %w", err)
	}
	return nil
}

func deleteMissing(s *subject) error {
	a, b := checkpoint("a", 1), checkpoint("b", 1)
	if err := remove(s.ctx, s, "missing"); err != nil {
		return fmt.Errorf("a missing ID must not be an error: %w", err)
	}
	if err := save(s.ctx, s, a, b); err != nil {
		return err
	}
	if err := remove(s.ctx, s, "missing", "a", "a"); err != nil {
		return fmt.Errorf("a missing ID among others must not be an error: %w", err)
	}
	return holds(s.ctx, s, b)
}

func deleteSeveral(s *subject) error {
	batch := checkpoints(9, 1)
	if err := errors.Join(save(s.ctx, s, batch...), remove(s.ctx, s, idsOf(batch[2:7])...)); err != nil {
		return err
	}
	for _, c := range batch[2:7] {
		if err := lacks(s.ctx, s, c.ID); err != nil {
			return err
		}
	}
	return holds(s.ctx, s, append(batch[:2:2], batch[7:]...)...)
}

func deleteNone(s *subject) error {
	c := checkpoint("a", 1)
	if err := save(s.ctx, s, c); err != nil {
		return err
	}
	for _, ids := range [][]string{nil, {}} {
		if err := remove(s.ctx, s, ids...); err != nil {
			return err
		}
	}
	return holds(s.ctx, s, c)
}

// noise returns n bytes that do not compress. They are the same for each n.
func noise(n int) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

func largeDetails(s *subject) error {
	const limit = 2<<20 + 4096 // the default MaxDetailsSize, and the framing of the values
	var batch []activity.Checkpoint
	for _, size := range []int{0, 1, 1 << 12, 1 << 16, 1 << 20, limit, limit, limit} {
		c := checkpoint(fmt.Sprint("large-", len(batch)), 1)
		c.Details = noise(size)
		batch = append(batch, c)
	}
	batch[len(batch)-1].Input = bytes.Clone(batch[len(batch)-1].Details)
	if err := save(s.ctx, s, batch...); err != nil {
		return err
	}
	for _, c := range batch {
		if err := loads(s.ctx, s, c); err != nil {
			return err
		}
	}
	if err := holds(s.ctx, s, batch...); err != nil {
		return err
	}
	for i := range batch {
		batch[i].Input, batch[i].Details, batch[i].Sequence = nil, nil, 2
	}
	return errors.Join(save(s.ctx, s, batch...), holds(s.ctx, s, batch...))
}

func durableSave(s *subject) error {
	for sequence := range uint64(s.fewer(8, 3)) {
		sequence++
		batch := append(checkpoints(3, sequence), checkpoint(fmt.Sprint("new-", sequence), sequence))
		if err := save(s.ctx, s, batch...); err != nil {
			return err
		}
		again := s.reopen()
		for _, c := range batch {
			if err := loads(s.ctx, again, c); err != nil {
				return fmt.Errorf("reopened after Save returned: %w", err)
			}
		}
	}
	return nil
}

func durableDelete(s *subject) error {
	batch := checkpoints(s.fewer(8, 4), 1)
	if err := save(s.ctx, s, batch...); err != nil {
		return err
	}
	for len(batch) > 0 {
		gone := batch[:2]
		batch = batch[2:]
		if err := remove(s.ctx, s, idsOf(gone)...); err != nil {
			return err
		}
		again := s.reopen()
		if err := errors.Join(lacks(s.ctx, again, gone[0].ID), lacks(s.ctx, again, gone[1].ID), holds(s.ctx, again, batch...)); err != nil {
			return fmt.Errorf("reopened after Delete returned: %w", err)
		}
	}
	return nil
}

// concurrent calls all methods from several goroutines at once, each with IDs of its own.
func concurrent(s *subject) error {
	workers, rounds := s.fewer(8, 4), s.fewer(12, 6)
	var left []activity.Checkpoint // must be stored in the end
	err := unstuck(func(step func(string)) error {
		var group sync.WaitGroup
		var mu sync.Mutex
		var failed error
		for w := range workers {
			group.Go(func() {
				cs, err := work(s, fmt.Sprintf("worker-%d-", w), rounds, step)
				mu.Lock()
				defer mu.Unlock()
				left = append(left, cs...)
				failed = errors.Join(failed, err)
			})
		}
		group.Wait()
		return failed
	})
	if err != nil {
		return fmt.Errorf("while other goroutines use other IDs: %w", err)
	}
	if err := holds(s.ctx, s, left...); err != nil {
		return fmt.Errorf("after goroutines used different IDs concurrently: %w", err)
	}
	if err := holds(s.ctx, s.reopen(), left...); err != nil {
		return fmt.Errorf("reopened after goroutines used different IDs concurrently: %w", err)
	}
	return nil
}

// work saves, loads, deletes and ranges over checkpoints whose IDs begin with prefix, which
// no other goroutine uses. It returns the checkpoints that are stored in the end.
func work(s *subject, prefix string, rounds int, step func(string)) ([]activity.Checkpoint, error) {
	var own []activity.Checkpoint
	for round := range rounds {
		own = []activity.Checkpoint{
			checkpoint(prefix+"a", uint64(round)+1),
			checkpoint(prefix+"b", uint64(round)+1),
			checkpoint(fmt.Sprint(prefix, round%3), uint64(round)+1),
		}
		step("Save among concurrent calls")
		if err := save(s.ctx, s, own...); err != nil {
			return nil, err
		}
		step("Load among concurrent calls")
		for _, c := range own {
			if err := loads(s.ctx, s, c); err != nil {
				return nil, err
			}
		}
		step("All among concurrent calls")
		got, err := collect(s.All(s.ctx))
		if err := errors.Join(err, yielded(got, own, true)); err != nil {
			return nil, err
		}
		step("Delete among concurrent calls")
		if err := remove(s.ctx, s, own[2].ID, own[1].ID); err != nil {
			return nil, err
		}
		if err := errors.Join(loads(s.ctx, s, own[0]), lacks(s.ctx, s, own[1].ID), lacks(s.ctx, s, own[2].ID)); err != nil {
			return nil, err
		}
	}
	return own[:1], nil
}
