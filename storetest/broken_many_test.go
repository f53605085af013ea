package storetest

import (
	"context"
	"slices"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// brokenMany are found by the checks that are named, and by no other.
var brokenMany = []brokenStore{
	{"refuses to save 1,000", map[string]string{"SaveMany": "broken"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if len(batch) >= 1000 {
				return errBroken
			}
			return f.Memory.Save(ctx, batch)
		}
	}},
	{"saves the first 999", map[string]string{"SaveMany": "there is none"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if slices.ContainsFunc(batch, isOdd) {
				return errBroken
			}
			return f.Memory.Save(ctx, batch[:min(len(batch), 999)])
		}
	}},
	{"replaces the first 999", map[string]string{"SaveMany": "another Sequence"}, func(f *fake) {
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
	{"deletes the table in place of 1,000", map[string]string{"DeleteMany": "there is none"}, func(f *fake) {
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
}

func TestBrokenStoreIsFoundByNoOther(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	for _, b := range brokenMany {
		t.Run(b.name, func(t *testing.T) {
			for _, c := range checks {
				if _, found := b.found[c.name]; found {
					continue
				}
				if err := fails(t, c, b.breaks); err != nil {
					t.Errorf("%s fails too: %v", c.name, err)
				}
			}
		})
	}
}
