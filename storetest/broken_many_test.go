package storetest

import (
	"context"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// brokenMany lists faults that the named checks find and no other check does.
var brokenMany = []brokenStore{
	{"refuses to save 1,000", map[string]string{"SaveMany": "broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if len(batch) >= 1000 {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"saves the first 999", map[string]string{"SaveMany": "not found"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if slices.ContainsFunc(batch, isOdd) {
				return errBroken
			}
			return f.Memory.Save(ctx, batch[:min(len(batch), 999)])
		}
	}},
	{"replaces the first 999", map[string]string{"SaveMany": "the wrong Sequence"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return f.Memory.Save(ctx, slices.DeleteFunc(slices.Clone(batch), func(c activity.Checkpoint) bool {
				return len(batch) >= 1000 && c.ID == batch[999].ID && f.get(c.ID).ID != ""
			}))
		}
	}},
	{"loses the last of 1,000 when reopened", map[string]string{"SaveMany": "reopened"}, func(f *fake) {
		f.reopen = func() activity.Store {
			again := f.Clone()
			if len(again.checkpoints) == 1000 {
				delete(again.checkpoints, "id-0999")
			}
			return again
		}
	}},
	{"refuses to save more than 15 MiB", map[string]string{"SaveMuch": "a batch of 16 MiB: Save of 8 checkpoints: broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			size := 0
			for _, c := range batch {
				size += len(c.Input) + len(c.Details) + len(c.LastFailure)
			}
			if size > 15<<20 {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"refuses to save many large ones", map[string]string{"SaveMuch": "Save of 999 checkpoints: broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if len(batch) > 500 && len(batch[0].Details) > 8<<10 {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"loses the last of 16 MiB when reopened", map[string]string{"SaveMuch": "reopened"}, func(f *fake) {
		f.reopen = func() activity.Store {
			again := f.Clone()
			if len(again.checkpoints) == 8 && len(again.checkpoints["id-0007"].Details) > 1<<20 {
				delete(again.checkpoints, "id-0007")
			}
			return again
		}
	}},
	{"refuses to delete 1,000", map[string]string{"DeleteMany": "broken"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) >= 1000 {
				return errBroken
			}
			return f.Memory.Delete(ctx, ids)
		}
	}},
	{"deletes the first 999", map[string]string{"DeleteMany": "want none"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			return f.Memory.Delete(ctx, ids[:min(len(ids), 999)])
		}
	}},
	{"deletes the table in place of 1,000", map[string]string{"DeleteMany": "not found"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) < 1000 {
				return f.Memory.Delete(ctx, ids)
			}
			all, err := f.ids(ctx)
			if err != nil {
				return err
			}
			return f.Memory.Delete(ctx, all)
		}
	}},
	{"has 1,000 deleted ones when reopened", map[string]string{"DeleteMany": "which is not stored"}, func(f *fake) {
		var disk *Memory
		f.remove = func(ctx context.Context, ids []string) error {
			if len(ids) >= 1000 {
				disk = f.Clone()
			}
			return f.Memory.Delete(ctx, ids)
		}
		f.reopen = func() activity.Store {
			if disk != nil {
				return disk
			}
			return f.Clone()
		}
	}},
	{"reads 100 by OFFSET", map[string]string{
		"AllBodyDeletesMany": "(Delete): All: it yielded ID \"id-1",
		"AllBodyAddsMany":    "(Save of new checkpoints): All: it yielded ID \"id-1",
	}, func(f *fake) { f.readPages(100, layout{sorted: true}) }},
	{"reads 1,000 by OFFSET", map[string]string{
		"AllBodyDeletesMany": "0 times",
		"AllBodyAddsMany":    "2 times",
	}, func(f *fake) { f.readPages(1000, layout{sorted: true}) }},
	{"reads 2,999 by OFFSET", map[string]string{
		"AllBodyDeletesMany": "0 times",
		"AllBodyAddsMany":    "2 times",
	}, func(f *fake) { f.readPages(2999, layout{sorted: true}) }},
	{"reads 100 by OFFSET, the oldest first", map[string]string{"AllBodyDeletesMany": "0 times"}, func(f *fake) {
		f.readPages(100, layout{})
	}},
	{"reads 100 by OFFSET, what was changed last at the end", map[string]string{
		"AllBodyDeletesMany":    "0 times",
		"AllBodySavesManyAgain": "0 times",
	}, func(f *fake) { f.readPages(100, layout{moves: true}) }},
	{"reads 100 of a log by place", map[string]string{"AllBodySavesManyAgain": "0 times"}, func(f *fake) {
		f.readPages(100, layout{moves: true, holes: true})
	}},
	{"reads 100 of a sorted list by place", map[string]string{"AllBodyAddsMany": "2 times"}, func(f *fake) {
		f.readPages(100, layout{sorted: true, holes: true})
	}},
}

// A layout is the order of the rows in a table, and what moves them.
type layout struct {
	sorted bool // rows are in the order of their IDs; otherwise, a new row is the last
	moves  bool // a Save of a stored ID makes its row the last
	holes  bool // a Delete leaves the row's place empty
}

// readPages makes All read n places of a table at a time, found by their position.
func (f *fake) readPages(n int, l layout) {
	var mu sync.Mutex
	var rows []string // IDs; "" is a hole
	f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
		mu.Lock()
		defer mu.Unlock()
		if slices.ContainsFunc(batch, isOdd) {
			return errBroken
		}
		if err := f.Memory.Save(ctx, batch); err != nil {
			return err
		}
		for _, c := range batch {
			i := slices.Index(rows, c.ID)
			if i >= 0 && !l.moves {
				continue
			}
			if i >= 0 {
				rows = slices.Delete(rows, i, i+1)
			}
			place := len(rows)
			if after := slices.IndexFunc(rows, func(id string) bool { return id > c.ID }); l.sorted && after >= 0 {
				place = after
			}
			rows = slices.Insert(rows, place, c.ID)
		}
		return nil
	}
	f.remove = func(ctx context.Context, ids []string) error {
		mu.Lock()
		defer mu.Unlock()
		if err := f.Memory.Delete(ctx, ids); err != nil {
			return err
		}
		for _, id := range ids {
			i := slices.Index(rows, id)
			switch {
			case i >= 0 && l.holes:
				rows[i] = ""
			case i >= 0:
				rows = slices.Delete(rows, i, i+1)
			}
		}
		return nil
	}
	page := func(ctx context.Context, offset int) (cs []activity.Checkpoint, more bool, err error) {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range rows[min(offset, len(rows)):min(offset+n, len(rows))] {
			if id != "" {
				cs = append(cs, clone(f.get(id)))
			}
		}
		_, err = f.ids(ctx)
		return cs, offset < len(rows), err
	}
	f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
		return func(yield func(activity.Checkpoint, error) bool) {
			for offset, more := 0, true; more; offset += n {
				var cs []activity.Checkpoint
				var err error
				if cs, more, err = page(ctx, offset); err != nil {
					yield(activity.Checkpoint{}, err)
					return
				}
				for _, c := range cs {
					if ctx.Err() != nil {
						yield(activity.Checkpoint{}, ctx.Err())
						return
					}
					if !yield(c, nil) {
						return
					}
				}
			}
		}
	}
}

// Given a Store with one fault, when the checks that are not for this fault run, then they
// pass: each fault needs its check.
func TestRun_OtherChecksPassBrokenStores(t *testing.T) {
	if testing.Short() || raceEnabled { // the race detector makes it five times as slow
		t.Skip("takes some seconds")
	}
	for _, b := range brokenMany {
		t.Run(b.name, func(t *testing.T) {
			for _, c := range checks {
				if _, found := b.found[c.name]; found {
					continue
				}
				if err := fails(t, c, b.breaks); err != nil {
					t.Errorf("check %s fails, too: %v", c.name, err)
				}
			}
		})
	}
}
