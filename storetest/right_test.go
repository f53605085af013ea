package storetest

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// rightStores differ in what activity.Store leaves open. Every check must pass.
var rightStores = []struct {
	name    string
	changes func(f *fake)
}{
	{"Memory", func(*fake) {}},
	{"refuses an older Sequence", func(f *fake) { f.fenced(true) }},
	{"ignores an older Sequence", func(f *fake) { f.fenced(false) }},
	{"yields what the body saves, and refuses an older Sequence", func(f *fake) {
		f.fenced(true)
		f.yieldsTwice()
	}},
}

func TestRightStorePasses(t *testing.T) {
	for _, right := range rightStores {
		t.Run(right.name, func(t *testing.T) {
			for _, c := range checks {
				if err := fails(t, c, right.changes); err != nil {
					t.Errorf("%s fails: %v", c.name, err)
				}
			}
		})
	}
}

var errStale = errors.New("the Sequence is not larger than that of what is stored")

// fenced has Save write only checkpoints with a larger Sequence than what is stored
// for their ID. It refuses a batch with others, or ignores them. A Sequence of 0
// is never the larger.
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

// yieldsTwice has All yield once more what has changed since it was yielded.
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
