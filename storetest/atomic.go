package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/seed-9da638b0/activity"
)

// oneBatch returns a batch of some 60 KB in which every checkpoint has the given sequence.
func oneBatch(sequence uint64) []activity.Checkpoint {
	batch := checkpoints(20, sequence)
	details := noise(3000 + int(sequence))
	for i := range batch {
		batch[i].Details = details
	}
	return batch
}

// oneSequence checks that s holds exactly the batch that oneBatch made for one of the
// sequences, and returns that sequence. Sequence 0 stands for an empty Store.
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
		return 0, fmt.Errorf("the Store holds the batch of Sequence %d, want one of %d (0 means no batch)", sequence, sequences)
	}
	if err := yielded(got, want, false); err != nil {
		return 0, fmt.Errorf("a batch must be stored as a whole or not at all: %w", err)
	}
	return sequence, nil
}

// running calls f in a new goroutine. It returns once that goroutine runs, and later sends
// f's error to the channel.
func running(f func() error) <-chan error {
	started, result := make(chan struct{}), make(chan error, 1)
	go func() {
		close(started)
		result <- caught(f)
	}()
	<-started
	return result
}

// during calls f with a context that ends while f runs: the larger n is, the later.
func during(ctx context.Context, n uint64, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	result := running(func() error { return f(ctx) })
	for range n * n {
		runtime.Gosched()
	}
	cancel()
	return <-result
}

// atomicWhenKilled reopens the Store during a Save. It reads the reopened Stores only after
// that Save returned, because one on a server is not a copy and may change until then.
func atomicWhenKilled(s *subject) error {
	const most = 3 // reopenings during one Save
	for sequence := range uint64(s.fewer(10, 4)) {
		sequence++
		saved := running(func() error { return save(s.ctx, s, oneBatch(sequence)...) })
		killed := []activity.Store{s.reopen()}
		for len(saved) == 0 && len(killed) < most {
			killed = append(killed, s.reopen())
		}
		if err := <-saved; err != nil {
			return err
		}
		for _, k := range killed {
			if _, err := oneSequence(s.ctx, k, sequence-1, sequence); err != nil {
				return fmt.Errorf("reopened during a Save: %w", err)
			}
		}
		if _, err := oneSequence(s.ctx, s.reopen(), sequence); err != nil {
			return fmt.Errorf("reopened after a Save returned: %w", err)
		}
	}
	return nil
}

// atomicForReaders reads while short batches and then long ones are saved.
func atomicForReaders(s *subject) error {
	if err := readersSeeWhole(s, s.fewer(50, 20), oneBatch); err != nil {
		return err
	}
	long := func(sequence uint64) (batch []activity.Checkpoint) {
		for i := range maxBatch - 1 { // one less, because the check SaveMany is for the limit
			batch = append(batch, checkpoint(fmt.Sprint("long-", i), sequence))
		}
		return batch
	}
	if err := readersSeeWhole(s, s.fewer(10, 4), long); err != nil {
		return fmt.Errorf("batches of %d: %w", maxBatch-1, err)
	}
	return nil
}

// readersSeeWhole saves n batches with the same IDs and meanwhile loads two of the IDs in
// turn. If a batch appears as a whole, the checkpoint that is loaded later is never older.
// None of the IDs may be stored before.
func readersSeeWhole(s *subject, n int, batch func(sequence uint64) []activity.Checkpoint) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	done := running(func() error {
		for i := range uint64(n) {
			if err := save(ctx, s, batch(i+1)...); err != nil {
				return err
			}
		}
		return nil
	})
	ids := idsOf(batch(0))
	first, last := ids[0], ids[len(ids)-1]
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
		return fmt.Errorf("Load during a Save saw part of the batch: ID %s had Sequence %d, and ID %s, loaded later, still had %d",
			brief(id), c.Sequence, brief(laterID), later.Sequence)
	}
	return nil
}

// readDuringSaves reads one ID while it is saved again and again, until it has read enough
// different Sequences.
func readDuringSaves(s *subject) error {
	const id = "a"
	if err := save(s.ctx, s, checkpoint(id, 1)); err != nil {
		return err
	}
	var saved atomic.Uint64 // the Sequence of the last Save that has returned
	var stop atomic.Bool
	saved.Store(1)
	saver := running(func() error {
		for sequence := uint64(2); !stop.Load(); sequence++ {
			if err := save(s.ctx, s, checkpoint(id, sequence)); err != nil {
				return err
			}
			saved.Store(sequence)
			runtime.Gosched() // on one CPU, the reader would wait for 10 ms
		}
		return nil
	})
	var sequence uint64
	var err error
	for left := s.fewer(200, 100); left > 0 && err == nil && len(saver) == 0; {
		before := sequence
		sequence, err = readsOneSave(s.ctx, s, id, saved.Load())
		if sequence != before {
			left--
		}
		runtime.Gosched() // for the saver, likewise
	}
	stop.Store(true)
	if err != nil {
		err = fmt.Errorf("during Saves that change every field of the ID: %w", err)
	}
	return errors.Join(err, <-saver)
}

// readsOneSave checks that the checkpoint that Load returns for id comes from a single Save,
// and so does the first one that All yields. It returns the Sequence that Load returned,
// which must be at least the given one.
func readsOneSave(ctx context.Context, s activity.Store, id string, least uint64) (uint64, error) {
	c, ok, err := load(ctx, s, id)
	if err != nil {
		return 0, err
	}
	if !ok || c.Sequence < least {
		return 0, fmt.Errorf("Load of ID %s: got Sequence %d (0 means not found), want at least %d", brief(id), c.Sequence, least)
	}
	if err := differ(c, checkpoint(id, c.Sequence)); err != nil {
		return 0, fmt.Errorf("Load: %w", err)
	}
	var mixed error
	err = each(s.All(ctx), func(c activity.Checkpoint) bool {
		mixed = differ(c, checkpoint(id, c.Sequence))
		return false // if the ID is saved again, All may yield it again
	})
	if mixed != nil {
		return 0, fmt.Errorf("All: %w", mixed)
	}
	return c.Sequence, err
}

// atomicWhenCanceled allows either result of a Save that returned an error: the new batch or
// the one before. Which of them is stored may even change until another Save returns nil.
func atomicWhenCanceled(s *subject) error {
	may := []uint64{0}
	var sequence uint64
	for range s.fewer(20, 8) {
		sequence++
		err := during(s.ctx, sequence, func(ctx context.Context) error { return save(ctx, s, oneBatch(sequence)...) })
		if err == nil {
			may = nil
		}
		may = append(may, sequence)
		if _, err := oneSequence(s.ctx, s, may...); err != nil {
			return fmt.Errorf("after a Save whose context ended during the call: %w", err)
		}
	}
	sequence++
	if err := save(s.ctx, s, oneBatch(sequence)...); err != nil {
		return err
	}
	for name, in := range map[string]activity.Store{"the Store": s, "the reopened Store": s.reopen()} {
		if _, err := oneSequence(s.ctx, in, sequence); err != nil {
			return fmt.Errorf("%s after a Save that followed Saves whose contexts ended: %w", name, err)
		}
	}
	return nil
}

// deleteWhenCanceled checks that each checkpoint is either unchanged or gone. Delete need
// not be atomic.
func deleteWhenCanceled(s *subject) error {
	stays := checkpoint("stays", 1)
	if err := save(s.ctx, s, stays); err != nil {
		return err
	}
	var batch []activity.Checkpoint
	for sequence := range uint64(s.fewer(20, 8)) {
		sequence++
		batch = oneBatch(sequence)
		if err := save(s.ctx, s, batch...); err != nil {
			return err
		}
		if err := holds(s.ctx, s, append(batch, stays)...); err != nil {
			return fmt.Errorf("after a Save that followed a Delete whose context ended: %w", err)
		}
		may := batch // may still be stored
		deleted := during(s.ctx, sequence, func(ctx context.Context) error { return remove(ctx, s, idsOf(batch)...) })
		if deleted == nil {
			may = nil
		}
		if err := holdsSome(s.ctx, s, may, stays); err != nil {
			return fmt.Errorf("after a Delete whose context ended during the call (error %v): %w", deleted, err)
		}
	}
	if err := remove(s.ctx, s, idsOf(batch)...); err != nil {
		return err
	}
	return errors.Join(holds(s.ctx, s, stays), holds(s.ctx, s.reopen(), stays))
}

// holdsSome checks that All yields every checkpoint of must, any of may, and no other.
func holdsSome(ctx context.Context, s activity.Store, may []activity.Checkpoint, must ...activity.Checkpoint) error {
	got, err := collect(s.All(ctx))
	if err != nil {
		return err
	}
	for _, c := range may {
		if slices.Contains(idsOf(got), c.ID) {
			must = append(must, c)
		}
	}
	return yielded(got, must, false)
}

// atomicWhenRefused saves a batch with an ID that a Store may refuse, because no Runtime
// uses such an ID.
func atomicWhenRefused(s *subject) error {
	for i, odd := range []string{"", strings.Repeat("x", 1<<16)} {
		before, batch := replacing(fmt.Sprint("odd-", i), maxBatch-1) // the odd one makes it maxBatch
		if err := save(s.ctx, s, before); err != nil {
			return err
		}
		refused := s.Save(s.ctx, slices.Insert(slices.Clone(batch), len(batch)*2/3, checkpoint(odd, 2)))
		for name, in := range map[string]activity.Store{"the Store": s, "the reopened Store": s.reopen()} {
			written, err := allOrNothing(s.ctx, in, before, batch)
			if err == nil && refused == nil && !written {
				err = errors.New("Save returned nil, but the batch is not stored")
			}
			if err != nil {
				return fmt.Errorf("%s after Save of a batch with an ID of %d bytes (error %v): %w", name, len(odd), refused, err)
			}
		}
	}
	return nil
}

// replacing returns a batch of n checkpoints and an older version of its first one, which
// is to be stored before the batch. The IDs begin with prefix.
func replacing(prefix string, n int) (before activity.Checkpoint, batch []activity.Checkpoint) {
	for i := range n {
		batch = append(batch, checkpoint(fmt.Sprintf("%s-%04d", prefix, i), 2))
	}
	return checkpoint(batch[0].ID, 1), batch
}

// allOrNothing checks that s holds either the whole batch or only before, and reports
// whether it holds the batch. It ignores other IDs.
func allOrNothing(ctx context.Context, s activity.Store, before activity.Checkpoint, batch []activity.Checkpoint) (written bool, err error) {
	all, err := collect(s.All(ctx))
	if err != nil {
		return false, err
	}
	ours := make(map[string]bool)
	for _, c := range batch {
		ours[c.ID] = true
	}
	var got []activity.Checkpoint
	for _, c := range all {
		if ours[c.ID] {
			got = append(got, c)
		}
	}
	written = len(got) > 1
	want := []activity.Checkpoint{before}
	if written {
		want = batch
	}
	if err := yielded(got, want, false); err != nil {
		return written, fmt.Errorf("a batch must be stored as a whole or not at all: %w", err)
	}
	return written, nil
}
