package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/seed-9da638b0/activity"
)

var brokenLoops = []brokenStore{
	{"All holds its lock over yield", map[string]string{
		"AllBodyLoads":         "Load did not return within",
		"AllBodySaves":         "must hold no lock or transaction while it yields): Save did not return within 30s: it seems to hang",
		"AllBodySavesMuch":     "Save of 2 MiB did not return within",
		"AllBodyDeletes":       "Delete did not return within",
		"AllBodyChangesOthers": "Delete, then Save did not return within",
	}, func(f *fake) {
		lock := make(chan struct{}, 1)
		locked(f, lock)
		all := f.all
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				f.hold(lock)
				defer func() { <-lock }()
				all(ctx)(yield)
			}
		}
	}},
	{"All keeps its lock when the loop is left", map[string]string{"AllLeftEarly": "Save after loops over All were left early did not return within"}, func(f *fake) {
		lock := make(chan struct{}, 1)
		locked(f, lock)
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			if yield(c, err) {
				return true
			}
			select {
			case lock <- struct{}{}:
			default:
			}
			return false
		})
	}},
	{"All ignores that the loop is left", map[string]string{"AllLeftEarly": "called yield again after yield returned false", "AllAgain": "called yield again after yield returned false"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			yield(c, err)
			return true
		})
	}},
	{"All can be ranged over once", map[string]string{"AllAgain": "0 times"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			used := false
			return func(yield func(activity.Checkpoint, error) bool) {
				if !used {
					used = true
					f.Memory.All(ctx)(yield)
				}
			}
		}
	}},
	{"All shows the moment of its call", map[string]string{"AllAgain": "the second loop over the result of All, after a Save and a Delete"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] { return f.Clone().All(ctx) }
	}},
	{"All yields one twice", map[string]string{"SaveAndLoad": "2 times", "AllOfMany": "2 times"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			for range 2 {
				if !yield(c, err) {
					return false
				}
			}
			return true
		})
	}},
	{"All skips one checkpoint", map[string]string{"SaveBatch": "0 times", "AllOfMany": "0 times"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			return c.ID == "id-0003" || yield(c, err)
		})
	}},
	{"All ends after 5", map[string]string{"AllLeftEarly": "want 6 before the loop is left"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				n := 0
				f.Memory.All(ctx)(func(c activity.Checkpoint, err error) bool {
					n++
					return n <= 5 && yield(c, err)
				})
			}
		}
	}},
	{"All ends after 100", map[string]string{"AllOfMany": "0 times"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				n := 0
				f.Memory.All(ctx)(func(c activity.Checkpoint, err error) bool {
					n++
					return n <= 100 && yield(c, err)
				})
			}
		}
	}},
	{"All yields an empty checkpoint when there is none", map[string]string{"AllOfNothing": "which is not stored"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			if ids, err := f.ids(ctx); len(ids) == 0 && err == nil {
				return func(yield func(activity.Checkpoint, error) bool) { yield(activity.Checkpoint{}, nil) }
			}
			return f.Memory.All(ctx)
		}
	}},
	{"All goes by position", map[string]string{
		"AllBodyDeletes":       "0 times",
		"AllBodyChangesOthers": "times, want once",
	}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				for i := 0; ; i++ {
					ids, err := f.ids(ctx)
					if err != nil {
						yield(activity.Checkpoint{}, err)
					}
					if i >= len(ids) || !yield(clone(f.get(ids[i])), nil) {
						return
					}
				}
			}
		}
	}},
	{"All yields a checkpoint again when it is saved again", map[string]string{"AllBodySaves": "never ends"}, func(f *fake) {
		var queue []activity.Checkpoint
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			queue = append(queue, batch...)
			return f.Memory.Save(ctx, batch)
		}
		f.all = func(context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				for i := 0; i < len(queue) && yield(queue[i], nil); i++ {
				}
			}
		}
	}},
	{"All reads each Input later than the rest", map[string]string{"AllBodySaves": "All: it yielded a mix of two Saves: ID \"id-0001\" has the wrong Input"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				f.Clone().All(ctx)(func(c activity.Checkpoint, err error) bool {
					return yield(f.inputOfNow(c), err)
				})
			}
		}
	}},
	{"All undoes Saves of the loop body", map[string]string{"AllBodySaves": "the wrong Sequence", "AllBodySavesMuch": "0 times"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				before := f.Clone()
				before.All(ctx)(yield)
				f.mu.Lock()
				f.checkpoints = before.checkpoints
				f.mu.Unlock()
			}
		}
	}},
	{"Load in a loop finds the checkpoints from before the loop", map[string]string{"AllBodySaves": "the wrong Sequence"}, func(f *fake) {
		var before *Memory
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				before = f.Clone()
				defer func() { before = nil }()
				f.Memory.All(ctx)(yield)
			}
		}
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			if before != nil {
				return before.Load(ctx, id)
			}
			return f.Memory.Load(ctx, id)
		}
	}},
	{"Load in a loop finds nothing", map[string]string{"AllBodyLoads": "not found"}, func(f *fake) {
		looping := false
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			looping = true
			defer func() { looping = false }()
			return yield(c, err)
		})
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			c, ok, err := f.Memory.Load(ctx, id)
			return c, ok && !looping, err
		}
	}},
}

// locked makes Load, Save and Delete of f take lock.
func locked(f *fake, lock chan struct{}) {
	f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
		f.hold(lock)
		defer func() { <-lock }()
		return f.Memory.Load(ctx, id)
	}
	f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
		f.hold(lock)
		defer func() { <-lock }()
		return f.Memory.Save(ctx, batch)
	}
	f.remove = func(ctx context.Context, ids []string) error {
		f.hold(lock)
		defer func() { <-lock }()
		return f.Memory.Delete(ctx, ids)
	}
}

var brokenEnds = []brokenStore{
	{"Load ignores its context", map[string]string{"ContextEnded": "Load: no error"}, func(f *fake) {
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			return f.Memory.Load(context.WithoutCancel(ctx), id)
		}
	}},
	{"Load checks its context only if it found the ID", map[string]string{"ContextEnded": "Load of a missing ID: no error"}, func(f *fake) {
		f.load = func(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
			if f.get(id).ID == "" {
				return activity.Checkpoint{}, false, nil
			}
			return f.Memory.Load(ctx, id)
		}
	}},
	{"Save ignores its context", map[string]string{"ContextEnded": "Save: no error", "ContextEndedIsAtomic": "no error"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return f.Memory.Save(context.WithoutCancel(ctx), batch)
		}
	}},
	{"Save checks its context after writing half of the batch", map[string]string{"ContextEndedIsAtomic": "as a whole or not at all"}, func(f *fake) {
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			half := len(batch) / 2
			return errors.Join(f.Memory.Save(context.WithoutCancel(ctx), batch[:half]), f.Memory.Save(ctx, batch[half:]))
		}
	}},
	{"Save checks its context after writing half of the file", map[string]string{"ContextEndedIsAtomic": "the reopened Store after Save"}, func(f *fake) {
		disk := new(Memory)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			half := len(batch) / 2
			return errors.Join(disk.Save(context.WithoutCancel(ctx), batch[:half]), disk.Save(ctx, batch[half:]), f.Memory.Save(ctx, batch))
		}
		f.reopen = func() activity.Store { return disk.Clone() }
	}},
	{"a Save that failed writes after the next Save", map[string]string{"ContextEndedIsAtomic": "after a Save that followed one with a context"}, func(f *fake) {
		var late []activity.Checkpoint
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			if ctx.Err() != nil {
				late = batch
				return ctx.Err()
			}
			return errors.Join(f.Memory.Save(ctx, batch), f.Memory.Save(ctx, late))
		}
	}},
	{"Delete empties checkpoints, and then checks its context", map[string]string{"ContextEndedIsAtomic": "the wrong Details"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			return errors.Join(f.empty(ids), f.Memory.Delete(ctx, ids))
		}
	}},
	{"Delete empties the file, and then checks its context", map[string]string{"ContextEndedIsAtomic": "0 times"}, func(f *fake) {
		disk := new(Memory)
		f.save = func(ctx context.Context, batch []activity.Checkpoint) error {
			return errors.Join(disk.Save(ctx, batch), f.Memory.Save(ctx, batch))
		}
		f.remove = func(ctx context.Context, ids []string) error {
			if ctx.Err() != nil {
				disk = new(Memory)
			}
			return errors.Join(disk.Delete(ctx, ids), f.Memory.Delete(ctx, ids))
		}
		f.reopen = func() activity.Store { return disk.Clone() }
	}},
	{"Delete ignores its context", map[string]string{"ContextEnded": "Delete: no error"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			return f.Memory.Delete(context.WithoutCancel(ctx), ids)
		}
	}},
	{"the error does not wrap the context's", map[string]string{"ContextEnded": "wraps neither"}, func(f *fake) {
		f.remove = func(ctx context.Context, ids []string) error {
			if err := f.Memory.Delete(ctx, ids); err != nil {
				return fmt.Errorf("delete: %s", err)
			}
			return nil
		}
	}},
	{"All ignores its context", map[string]string{"ContextEnded": "wraps neither", "ContextEndsDuringAll": "no error"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return f.Memory.All(context.WithoutCancel(ctx))
		}
	}},
	{"All ends without an error when its context has", map[string]string{"ContextEnded": "All: no error", "ContextEndsDuringAll": "no error"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			return err == nil && yield(c, nil)
		})
	}},
	{"All checks its context only when it begins", map[string]string{"ContextEndsDuringAll": "no error"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				if ctx.Err() != nil {
					yield(activity.Checkpoint{}, ctx.Err())
					return
				}
				f.Memory.All(context.WithoutCancel(ctx))(yield)
			}
		}
	}},
	{"All yields an error for each checkpoint", map[string]string{"ContextEndsDuringAll": "called yield again after yielding an error"}, func(f *fake) {
		f.all = func(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
			return func(yield func(activity.Checkpoint, error) bool) {
				f.Memory.All(context.WithoutCancel(ctx))(func(c activity.Checkpoint, _ error) bool {
					if ctx.Err() != nil {
						return yield(activity.Checkpoint{}, ctx.Err())
					}
					return yield(c, nil)
				})
			}
		}
	}},
	{"works after Close", map[string]string{"Closed": "Load after Close: no error"}, func(f *fake) {
		f.close = func() error { return nil }
	}},
	{"is empty after Close", map[string]string{"Closed": "Load after Close: no error"}, func(f *fake) {
		f.onClosed(func() error { return nil })
	}},
	{"panics after Close", map[string]string{"Closed": "Load after Close: panic: broken"}, func(f *fake) {
		f.onClosed(func() error { panic(errBroken) })
	}},
	{"hangs after Close", map[string]string{"Closed": "Load after Close did not return within"}, func(f *fake) {
		f.onClosed(f.hang)
	}},
	{"All of a closed Store is empty", map[string]string{"Closed": "All after Close: no error"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			return err == nil && yield(c, nil)
		})
	}},
	{"All of a closed Store yields its error twice", map[string]string{"Closed": "called yield again after yielding an error"}, func(f *fake) {
		f.onYield(func(yield func(activity.Checkpoint, error) bool, c activity.Checkpoint, err error) bool {
			if err != nil {
				yield(c, err)
			}
			return yield(c, err)
		})
	}},
	{"Close fails", map[string]string{"Closed": "Close: broken", "ClosedTwice": "Close: broken", "ClosedKeeps": "Close: broken"}, func(f *fake) {
		f.close = func() error { return errBroken }
	}},
	{"the second Close panics", map[string]string{"ClosedTwice": "panic: close of closed channel"}, func(f *fake) {
		done := make(chan struct{})
		f.close = func() error {
			close(done)
			return nil
		}
	}},
	{"the second Close hangs", map[string]string{"ClosedTwice": "the second Close did not return within"}, func(f *fake) {
		lock := make(chan struct{}, 1)
		f.close = func() error {
			f.hold(lock)
			return nil
		}
	}},
}
