package storetest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/seed-9da638b0/activity"
)

// The largest batches that a Runtime makes.
const (
	maxBatch      = 1000     // checkpoints of a Save, and IDs of a Delete
	maxBatchBytes = 16 << 20 // of Input, Details and LastFailure
)

// smallBatch is for checks that are not about the size of a batch.
const smallBatch = 250

func saveMany(s *subject) error {
	for sequence := range uint64(2) { // the second time it replaces
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

// saveMuch saves batches of few large checkpoints and of many small ones.
func saveMuch(s *subject) error {
	block := noise(4 << 20)
	for i, n := range []int{8, maxBatch - 1} {
		batch := checkpoints(n, uint64(i)+1)
		for i := range batch {
			c := &batch[i]
			size := maxBatchBytes/n - len(c.Input) - len(c.LastFailure)
			from := (len(block) - size) * i / n // so that no two are the same
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
