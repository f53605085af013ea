package storetest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/seed-9da638b0/activity"
)

// Memory is a Store in memory, for tests. The zero Memory is empty and ready to
// use. It must not be copied after first use; see [Memory.Clone].
//
// Its methods return [context.Cause] when ctx has ended. All yields in the order
// of the IDs, each checkpoint as it is when its turn comes.
type Memory struct {
	mu          sync.Mutex
	checkpoints map[string]activity.Checkpoint // the bytes in them are never changed
	closed      bool
}

var errClosed = errors.New("storetest: the Memory is closed")

var _ activity.Store = (*Memory)(nil)

// Load returns a copy of the checkpoint with that ID, and whether there is one.
func (m *Memory) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return activity.Checkpoint{}, false, err
	}
	c, ok := m.checkpoints[id]
	return clone(c), ok, nil
}

// Save keeps a copy of each checkpoint of batch.
func (m *Memory) Save(ctx context.Context, batch []activity.Checkpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return err
	}
	if m.checkpoints == nil {
		m.checkpoints = make(map[string]activity.Checkpoint)
	}
	for _, c := range batch {
		m.checkpoints[c.ID] = clone(c)
	}
	return nil
}

// Delete removes the checkpoints with these IDs.
func (m *Memory) Delete(ctx context.Context, ids []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return err
	}
	for _, id := range ids {
		delete(m.checkpoints, id)
	}
	return nil
}

// All yields a copy of every checkpoint.
func (m *Memory) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		ids, err := m.ids(ctx)
		if err != nil {
			yield(activity.Checkpoint{}, err)
			return
		}
		for _, id := range ids {
			c, ok, err := m.Load(ctx, id)
			if err != nil {
				yield(activity.Checkpoint{}, err)
				return
			}
			if ok && !yield(c, nil) {
				return
			}
		}
	}
}

func (m *Memory) ids(ctx context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(m.checkpoints)), nil
}

// Close makes every further call of the other methods fail. It returns nil.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Clone returns a Memory of its own with what m holds now, closed or not: what a
// new process would find if this one were killed at this moment.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Memory{checkpoints: maps.Clone(m.checkpoints)}
}

func (m *Memory) usableLocked(ctx context.Context) error {
	if m.closed {
		return errClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func clone(c activity.Checkpoint) activity.Checkpoint {
	c.Input, c.Details = bytes.Clone(c.Input), bytes.Clone(c.Details)
	return c
}
