package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/seed-9da638b0/activity"
)

// maxBatch and maxBatchBytes are the limits of a Runtime's batches.
const (
	maxBatch      = 1000     // checkpoints of a Save, and IDs of a Delete
	maxBatchBytes = 16 << 20 // of Input, Details, Header and LastFailure
)

// smallBatch is the batch size in checks of anything but the size of a batch.
const smallBatch = 250

func saveMany(s *subject) error {
	for sequence := range uint64(2) { // the second batch replaces the first
		batch := checkpoints(maxBatch, sequence+1)
		if err := save(s.ctx, s, batch...); err != nil {
			return err
		}
		if err := holdsMany(s, batch); err != nil {
			return err
		}
	}
	return nil
}

// saveMuch saves batches of 16 MiB: of a few large checkpoints and of many small ones.
func saveMuch(s *subject) error {
	block := noise(4 << 20)
	for i, n := range []int{8, maxBatch - 1} {
		batch := checkpoints(n, uint64(i)+1)
		for i := range batch {
			c := &batch[i]
			size := maxBatchBytes/n - len(c.Input) - len(c.LastFailure)
			for k, v := range c.Header {
				size -= len(k) + len(v)
			}
			from := (len(block) - size) / n * i // different for each checkpoint
			c.Details = block[from : from+size]
		}
		if err := save(s.ctx, s, batch...); err != nil {
			return fmt.Errorf("a batch of 16 MiB: %w", err)
		}
		if err := holdsMany(s, batch); err != nil {
			return fmt.Errorf("a batch of 16 MiB: %w", err)
		}
		if err := removeInParts(s, batch); err != nil {
			return err
		}
	}
	return nil
}

func holdsMany(s *subject, batch []activity.Checkpoint) error {
	if err := errors.Join(loads(s.ctx, s, batch[0]), loads(s.ctx, s, batch[len(batch)-1]), holds(s.ctx, s, batch...)); err != nil {
		return err
	}
	if err := holds(s.ctx, s.reopen(), batch...); err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	return nil
}

func deleteMany(s *subject) error {
	cs := checkpoints(maxBatch+10, 1)
	if err := saveInParts(s, cs); err != nil {
		return err
	}
	gone, stay := cs[:maxBatch], cs[maxBatch:]
	if err := remove(s.ctx, s, idsOf(gone)...); err != nil {
		return err
	}
	if err := errors.Join(lacks(s.ctx, s, gone[0].ID), lacks(s.ctx, s, gone[maxBatch-1].ID)); err != nil {
		return err
	}
	return holdsMany(s, stay)
}

func saveInParts(s *subject, cs []activity.Checkpoint) error {
	for part := range slices.Chunk(cs, smallBatch) {
		if err := save(s.ctx, s, part...); err != nil {
			return err
		}
	}
	return nil
}

func removeInParts(s *subject, cs []activity.Checkpoint) error {
	for part := range slices.Chunk(cs, smallBatch) {
		if err := remove(s.ctx, s, idsOf(part)...); err != nil {
			return err
		}
	}
	return nil
}

func allBodyDeletesMany(s *subject) error {
	return bodyChangesMany(s, "Delete", func(goes []activity.Checkpoint) ([]activity.Checkpoint, error) {
		return nil, removeInParts(s, goes)
	})
}

func allBodySavesManyAgain(s *subject) error {
	return bodyChangesMany(s, "Save of stored checkpoints", func(goes []activity.Checkpoint) ([]activity.Checkpoint, error) {
		var newer []activity.Checkpoint
		for _, c := range goes {
			newer = append(newer, checkpoint(c.ID, c.Sequence+1))
		}
		return newer, saveInParts(s, newer)
	})
}

func allBodyAddsMany(s *subject) error {
	return bodyChangesMany(s, "Save of new checkpoints", func(goes []activity.Checkpoint) ([]activity.Checkpoint, error) {
		var added []activity.Checkpoint
		for _, c := range goes {
			added = append(added, checkpoint(c.ID+"-new", 1))
		}
		return append(added, goes...), saveInParts(s, added)
	})
}

// bodyChangesMany catches a Store whose All reads in pages and finds the next page by its
// position. It saves 3,000 checkpoints. Halfway through the loop, one body calls change with
// every third of them. change returns the checkpoints that it added, and those of its argument
// that are still stored, as they are then.
func bodyChangesMany(s *subject, what string, change func(goes []activity.Checkpoint) ([]activity.Checkpoint, error)) error {
	const n = 3000
	var stay, goes []activity.Checkpoint
	for i, c := range checkpoints(n, 1) {
		if i%3 == 0 {
			goes = append(goes, c)
		} else {
			stay = append(stay, c)
		}
	}
	if err := saveInParts(s, checkpoints(n, 1)); err != nil {
		return err
	}
	var left []activity.Checkpoint
	err := inBody(s, stay, func(nth int, _ activity.Checkpoint) error {
		if nth != n/2 {
			return nil
		}
		return within(what, func() (err error) {
			left, err = change(goes)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("one loop body changes 1,000 of %d checkpoints (%s): %w", n, what, err)
	}
	if err := holds(s.ctx, s, append(stay, left...)...); err != nil {
		return fmt.Errorf("after a loop over All, one body of which changed 1,000 of %d checkpoints (%s): %w", n, what, err)
	}
	return nil
}
