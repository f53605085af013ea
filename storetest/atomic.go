package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/seed-9da638b0/activity"
)

// oneBatch is a batch that takes some room, all with the same sequence.
func oneBatch(sequence uint64) []activity.Checkpoint {
	batch := checkpoints(20, sequence)
	details := noise(3000 + int(sequence))
	for i := range batch {
		batch[i].Details = details
	}
	return batch
}

// oneSequence checks that what s holds is what oneBatch made for one of the
// sequences, where 0 stands for nothing, and returns which.
func oneSequence(ctx context.Context, s activity.Store, sequences ...uint64) (uint64, error) {
	got, err := collect(s.All(ctx))
	if err != nil {
		return 0, err
	}
	var sequence uint64
	var want []activity.Checkpoint
	if len(got) > 0 {
		sequence = got[0].Sequence
		want = oneBatch(sequence)
	}
	if !slices.Contains(sequences, sequence) {
		return 0, fmt.Errorf("it has the batch of Sequence %d, want one of %d (0: nothing)", sequence, sequences)
	}
	if err := yielded(got, want, false); err != nil {
		return 0, fmt.Errorf("a batch must be there as a whole or not at all: %w", err)
	}
	return sequence, nil
}

// saving runs Save of batch in a goroutine.
func saving(ctx context.Context, s activity.Store, batch []activity.Checkpoint) <-chan error {
	started, result := make(chan struct{}), make(chan error, 1)
	go func() {
		close(started)
		result <- caught(func() error { return save(ctx, s, batch...) })
	}()
	<-started
	return result
}

// atomicWhenKilled reopens while a Save runs, and looks when that has returned:
// a Store on a server is no copy.
func atomicWhenKilled(s *subject) error {
	const most = 3 // reopenings during one Save
	for sequence := range uint64(s.fewer(10, 4)) {
		sequence++
		saved := saving(s.ctx, s, oneBatch(sequence))
		killed := []activity.Store{s.reopen()}
		for len(saved) == 0 && len(killed) < most {
			killed = append(killed, s.reopen())
		}
		if err := <-saved; err != nil {
			return err
		}
		for _, k := range killed {
			if _, err := oneSequence(s.ctx, k, sequence-1, sequence); err != nil {
				return fmt.Errorf("reopened while a Save ran: %w", err)
			}
		}
		if _, err := oneSequence(s.ctx, s.reopen(), sequence); err != nil {
			return fmt.Errorf("reopened after a Save had returned: %w", err)
		}
	}
	return nil
}

// atomicForReaders has the witness that, of two IDs always saved together, the
// one that is loaded later is never the older.
func atomicForReaders(s *subject) error {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() {
		done <- caught(func() error {
			for sequence := range uint64(s.fewer(50, 20)) {
				if err := save(ctx, s, oneBatch(sequence+1)...); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	batch := oneBatch(0)
	first, last := batch[0].ID, batch[len(batch)-1].ID
	for {
		for _, pair := range [][2]string{{first, last}, {last, first}} {
			if err := noOlder(ctx, s, pair[0], pair[1]); err != nil {
				cancel()
				<-done
				return err
			}
		}
		select {
		case err := <-done:
			cancel()
			return err
		default:
		}
	}
}

func noOlder(ctx context.Context, s activity.Store, id, laterID string) error {
	c, _, err := load(ctx, s, id)
	if err != nil {
		return err
	}
	later, _, err := load(ctx, s, laterID)
	if err != nil {
		return err
	}
	if later.Sequence < c.Sequence {
		return fmt.Errorf("a Load during a Save saw half of the batch: ID %s of Sequence %d, and after that ID %s still of %d",
			brief(id), c.Sequence, brief(laterID), later.Sequence)
	}
	return nil
}

func atomicWhenCanceled(s *subject) error {
	var stands uint64
	for sequence := range uint64(s.fewer(20, 8)) {
		sequence++
		ctx, cancel := context.WithCancel(s.ctx)
		saved := saving(ctx, s, oneBatch(sequence))
		for range sequence * sequence { // so that it is not always the same place
			runtime.Gosched()
		}
		cancel()
		may := []uint64{sequence}
		if err := <-saved; err != nil {
			may = append(may, stands)
		}
		var err error
		if stands, err = oneSequence(s.ctx, s, may...); err != nil {
			return fmt.Errorf("after a Save whose context ended while it ran: %w", err)
		}
	}
	_, err := oneSequence(s.ctx, s.reopen(), stands)
	return err
}

// atomicWhenRefused has a checkpoint in the batch that a Store may refuse, since
// no runtime saves one with such an ID.
func atomicWhenRefused(s *subject) error {
	before := checkpoint("before", 1)
	if err := save(s.ctx, s, before); err != nil {
		return err
	}
	for i, odd := range []string{"", strings.Repeat("x", 1<<16)} {
		a, z := checkpoint(fmt.Sprint("a", i), 2), checkpoint(fmt.Sprint("z", i), 2)
		newer := checkpoint("before", uint64(i)+2)
		refused := s.Save(s.ctx, []activity.Checkpoint{newer, a, checkpoint(odd, 2), z})
		for name, in := range map[string]activity.Store{"the Store": s, "the reopened Store": s.reopen()} {
			var err error
			if refused == nil {
				err = errors.Join(loads(s.ctx, in, newer), loads(s.ctx, in, a), loads(s.ctx, in, z))
			} else {
				err = errors.Join(loads(s.ctx, in, before), lacks(s.ctx, in, a.ID), lacks(s.ctx, in, z.ID))
			}
			if err != nil {
				return fmt.Errorf("%s after Save of a batch with an ID of %d bytes, which returned %v: %w", name, len(odd), refused, err)
			}
		}
		if refused == nil {
			before = newer
		}
	}
	return nil
}
