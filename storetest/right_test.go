package storetest

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// rightStores differ where activity.Store leaves a choice. Every check must pass them.
var rightStores = []struct {
	name    string
	changes func(f *fake)
}{
	{"Memory", func(*fake) {}},
	{"refuses an older Sequence", func(f *fake) { f.fenced(true) }},
	{"ignores an older Sequence", func(f *fake) { f.fenced(false) }},
	{"checks its context after the write", func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return errors.Join(f.Memory.Save(context.WithoutCancel(ctx), batch), ctx.Err())
		}
		f.remove = func(ctx context.Context, ids []string) error {
			return errors.Join(f.Memory.Delete(context.WithoutCancel(ctx), ids), ctx.Err())
		}
	}},
	{"checks its context after writing the file", func(f *fake) {
		disk := new(Memory)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return errors.Join(disk.Save(context.WithoutCancel(ctx), batch), f.Memory.Save(ctx, batch))
		}
		f.remove = func(ctx context.Context, ids []string) error {
			return errors.Join(disk.Delete(context.WithoutCancel(ctx), ids), f.Memory.Delete(ctx, ids))
		}
		f.reopen = func() activity.Store { return disk.Clone() }
	}},
	{"checks its context after deleting half", func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			half := len(ids) / 2
			if err := f.Memory.Delete(context.WithoutCancel(ctx), ids[:half]); err != nil {
				return err
			}
			runtime.Gosched()
			return f.Memory.Delete(ctx, ids[half:])
		}
	}},
	{"writes with the next call if its context has ended", func(f *fake) { f.writesLate() }},
	{"refuses an ID that is empty or too long", func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if slices.ContainsFunc(batch, isOdd) {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"returns an error after the write of an ID that is empty or too long", func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			err := f.Memory.Save(ctx, batch)
			if slices.ContainsFunc(batch, isOdd) {
				err = errBroken
			}
			return err
		}
	}},
	{"yields what the loop body saves, and refuses an older Sequence", func(f *fake) {
		f.fenced(true)
		f.yieldsTwice()
	}},
}

func TestRun_PassesSoundStores(t *testing.T) {
	for _, right := range rightStores {
		t.Run(right.name, func(t *testing.T) {
			for _, c := range checks {
				if err := fails(t, c, right.changes); err != nil {
					t.Errorf("check %s fails: %v", c.name, err)
				}
			}
		})
	}
}

var errStale = errors.New("the Sequence is not greater than the stored one")

// fenced makes Save write only checkpoints whose Sequence is greater than the stored one.
// If refuses is set, Save refuses a batch that has others; otherwise, it skips them.
func (f *fake) fenced(refuses bool) {
	var mu sync.Mutex
	f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		var newer []activity.Checkpoint
		for _, c := range batch {
			if c.Sequence > f.get(c.ID).Sequence {
				newer = append(newer, c)
			} else if refuses {
				return errStale
			}
		}
		return f.Memory.Save(ctx, newer)
	}
}

// writesLate makes Save and Delete return an error if their context has ended or ends soon.
// They then write before the next call of any method.
func (f *fake) writesLate() {
	var mu sync.Mutex
	var late func() // guarded by mu
	caughtUp := func() {
		mu.Lock()
		defer mu.Unlock()
		if late != nil {
			late()
			late = nil
		}
	}
	write := func(ctx context.Context, do func(context.Context) error) error {
		caughtUp()
		for range 3 {
			runtime.Gosched()
		}
		if ctx.Err() == nil {
			return do(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		late = func() {
			if err := do(context.WithoutCancel(ctx)); err != nil {
				panic(err)
			}
		}
		return ctx.Err()
	}
	f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
		batch = deepClone(batch)
		return write(ctx, func(ctx context.Context) error { return f.Memory.Save(ctx, batch) })
	}
	f.remove = func(ctx context.Context, ids []string) error {
		ids = slices.Clone(ids)
		return write(ctx, func(ctx context.Context) error { return f.Memory.Delete(ctx, ids) })
	}
	f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
		caughtUp()
		return f.Memory.Load(ctx, id)
	}
	f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
		return func(yield func(activity.Checkpoint, error) bool) {
			caughtUp()
			f.Memory.All(ctx)(yield)
		}
	}
}

// yieldsTwice makes All yield a checkpoint again if it changed after it was yielded.
func (f *fake) yieldsTwice() {
	f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
		return func(yield func(activity.Checkpoint, error) bool) {
			yielded := make(map[string]uint64) // Sequences by ID
			for range 2 {
				for c, err := range f.Memory.All(ctx) {
					if err == nil && yielded[c.ID] == c.Sequence {
						continue
					}
					yielded[c.ID] = c.Sequence
					if !yield(c, err) || err != nil {
						return
					}
				}
			}
		}
	}
}
