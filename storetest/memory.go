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

// Memory is an [activity.Store] in memory, for tests. The zero Memory is empty and ready
// to use. A Memory is safe for concurrent use. It must not be copied after first use; see
// [Memory.Clone].
//
// If ctx has ended, the methods return [context.Cause] of it.
type Memory struct {
	mu          sync.Mutex
	checkpoints map[string]activity.Checkpoint // by ID; their bytes are immutable
	closed      bool
}

var errClosed = errors.New("storetest: Memory is closed")

var _ activity.Store = (*Memory)(nil)

// Load returns a copy of the checkpoint with the given ID and reports whether there is one.
func (m *Memory) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usableLocked(ctx); err != nil {
		return activity.Checkpoint{}, false, err
	}
	c, ok := m.checkpoints[id]
	return clone(c), ok, nil
}

// Save stores a copy of each checkpoint in batch, all at once.
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

// Delete removes the checkpoints with the given IDs. Missing IDs are not an error.
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

// All yields a copy of every checkpoint, in the order of the IDs. It reads each checkpoint
// just before it yields it, and skips those that were deleted since the loop began.
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

// Close makes all later calls of Load, Save, Delete and All fail. It always returns nil.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// Clone returns an independent Memory with the same checkpoints: what a new process would
// find if this one were killed now. It works even if m is closed, and the clone is open.
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
	c.Input, c.Details, c.Header = bytes.Clone(c.Input), bytes.Clone(c.Details), maps.Clone(c.Header)
	return c
}
