package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"runtime"
	"time"

	"github.com/seed-9da638b0/activity"
)

// A fake is a Store whose methods a test can replace. Its Memory is a sound Store.
type fake struct {
	*Memory
	load   func(ctx context.Context, id string) (activity.Checkpoint, bool, error)
	save   func(ctx context.Context, batch []activity.Checkpoint) error
	remove func(ctx context.Context, ids []string) error
	all    func(ctx context.Context) iter.Seq2[activity.Checkpoint, error]
	close  func() error
	reopen func() activity.Store
	holds  func(id string) bool

	released chan struct{} // closed after the check, to end the calls that hang
}

var (
	_ activity.Store = (*fake)(nil)
	_ io.Closer      = (*fake)(nil)
)

func newFake(m *Memory) *fake {
	return &fake{
		Memory: m,
		load:   m.Load, save: m.Save, remove: m.Delete, all: m.All, close: m.Close,
		reopen:   func() activity.Store { return m.Clone() },
		holds:    func(string) bool { return true },
		released: make(chan struct{}),
	}
}

func (f *fake) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	return f.load(ctx, id)
}
func (f *fake) Save(ctx context.Context, batch []activity.Checkpoint) error {
	return f.save(ctx, batch)
}
func (f *fake) Delete(ctx context.Context, ids []string) error { return f.remove(ctx, ids) }
func (f *fake) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return f.all(ctx)
}
func (f *fake) Close() error           { return f.close() }
func (f *fake) MayHold(id string) bool { return f.holds(id) }

// onSave makes Save store the result of change for each checkpoint.
func (f *fake) onSave(change func(activity.Checkpoint) activity.Checkpoint) {
	save := f.save
	f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
		var changed []activity.Checkpoint
		for _, c := range batch {
			changed = append(changed, change(c))
		}
		return save(ctx, changed)
	}
}

// onRead makes Load and All return the result of change for each checkpoint.
func (f *fake) onRead(change func(activity.Checkpoint) activity.Checkpoint) {
	f.onLoad(change)
	f.onAll(change)
}

func (f *fake) onLoad(change func(activity.Checkpoint) activity.Checkpoint) {
	load := f.load
	f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
		c, ok, err := load(ctx, id)
		if ok {
			c = change(c)
		}
		return c, ok, err
	}
}

func (f *fake) onAll(change func(activity.Checkpoint) activity.Checkpoint) {
	f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
		if err == nil {
			c = change(c)
		}
		return yield(c, err)
	})
}

// onYield makes All call do instead of yield.
func (f *fake) onYield(do func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool) {
	all := f.all
	f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
		return func(yield func(activity.Checkpoint, error) bool) {
			all(ctx)(func(c activity.Checkpoint, err error) bool { return do(yield, c, err) })
		}
	}
}

// onID makes Load, Save and Delete apply change to each ID.
func (f *fake) onID(change func(string) string) {
	f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
		c.ID = change(c.ID)
		return c
	})
	f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
		c, ok, err := f.Memory.Load(ctx, change(id))
		c.ID = id
		return c, ok, err
	}
	f.remove = func(ctx context.Context, ids []string) error {
		for _, id := range ids {
			if err := f.Memory.Delete(ctx, []string{change(id)}); err != nil {
				return err
			}
		}
		return nil
	}
}

// onTime makes Save store the result of change for each time.
func (f *fake) onTime(change func(time.Time) time.Time) {
	f.onSave(func(c activity.Checkpoint) activity.Checkpoint {
		c.ScheduledAt, c.UpdatedAt, c.NextAttempt = change(c.ScheduledAt), change(c.UpdatedAt), change(c.NextAttempt)
		return c
	})
}

// onClosed makes Load call act after Close.
func (f *fake) onClosed(act func() error) {
	closed := false
	f.close = func() error {
		closed = true
		return nil
	}
	f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
		if closed {
			return activity.Checkpoint{}, false, act()
		}
		return f.Memory.Load(ctx, id)
	}
}

// get returns the Memory's own checkpoint, not a copy.
func (f *fake) get(id string) activity.Checkpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.checkpoints[id]
}

// keep replaces the Memory's copies of batch with the batch's own checkpoints.
func (f *fake) keep(batch []activity.Checkpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range batch {
		f.checkpoints[c.ID] = c
	}
}

// empty drops the Details of the checkpoints with these IDs.
func (f *fake) empty(ids []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if c, ok := f.checkpoints[id]; ok {
			c.Details = nil
			f.checkpoints[id] = c
		}
	}
	return nil
}

// inputOfNow replaces c's Input with the one stored now, which may be newer than the rest.
func (f *fake) inputOfNow(c activity.Checkpoint) activity.Checkpoint {
	runtime.Gosched()
	if now := f.get(c.ID); now.ID != "" {
		c.Input = bytes.Clone(now.Input)
	}
	return c
}

// isOdd reports whether c has an ID that no Runtime uses, so that a Store may refuse it.
func isOdd(c activity.Checkpoint) bool { return c.ID == "" || len(c.ID) > 1024 }

// hold acquires lock. Unlike a mutex, waiting for it is durably blocking in a bubble, and
// ends with the test.
func (f *fake) hold(lock chan struct{}) {
	select {
	case lock <- struct{}{}:
	case <-f.released:
		runtime.Goexit()
	}
}

func (f *fake) hang() error {
	<-f.released
	return errors.New("released")
}
