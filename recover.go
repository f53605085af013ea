package activity

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// Recover starts every activity in the Store that was waiting, or was interrupted by a
// crash, a shutdown or the end of its context, and returns how many. Call it when the
// program starts. Each activity is run by the Definition of its Name, with its
// stored input and with ctx as its context, and resumes as the package's doc on
// durability says. Activities that have failed for good, or were canceled by
// [Handle.Cancel], stay as they are. Activities that are running already are
// skipped: if you need a [Handle], start that activity by its ID before you call
// Recover. If an activity has no attempts left, or its schedule-to-close timeout
// has passed, it is started and fails at once, which is logged.
//
// The error names each ID that could not be started, and the reason: no Definition
// has its Name (Run's activities have no Definition: start them by their ID, or
// [Runtime.Forget] them), its input does not decode, or the Store failed. The others
// are started nevertheless, but an error of Store.All ends Recover. If a Definition
// is refused, or two have the same Name, Recover returns an error and starts
// nothing. Without a Store there is nothing to recover.
func (rt *Runtime) Recover(ctx context.Context, defs ...Recoverable) (int, error) {
	byName := map[string]Recoverable{}
	for _, d := range defs {
		name, err := d.definition()
		switch {
		case err != nil:
			return 0, fmt.Errorf("activity: Recover: %w", err)
		case byName[name] != nil:
			return 0, fmt.Errorf("activity: Recover: two Definitions are named %q", name)
		}
		byName[name] = d
	}
	var errs []error
	var started []*activity
	for cp, err := range rt.Checkpoints(ctx) {
		if err != nil {
			errs = append(errs, fmt.Errorf("activity: Recover: %w", err))
			break
		}
		if !cp.State.unfinished() {
			continue
		}
		d := byName[cp.Name]
		if d == nil {
			errs = append(errs, fmt.Errorf("activity %q: not recovered: there is no Definition named %q", cp.ID, cp.Name))
			continue
		}
		a, err := d.recover(ctx, rt, cp)
		switch {
		case err == nil:
			started = append(started, a)
		case wraps(err, errNotRecovered) || wraps(err, ErrAlreadyRunning): // somebody else did
		default:
			errs = append(errs, err)
		}
	}
	n := 0
	for _, a := range started { // their starts share their Saves
		if err := a.awaitStart(); err != nil {
			errs = append(errs, err)
		} else {
			n++
		}
	}
	return n, errors.Join(errs...)
}

// Checkpoints yields the stored checkpoints of activities that have not completed
// and are not running here now: those that were waiting, those interrupted by a crash or
// a shutdown, those that have failed for good, and those that were canceled. The loop's
// body may start and forget activities. Without a Store there are none.
func (rt *Runtime) Checkpoints(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return func(yield func(Checkpoint, error) bool) {
		if rt.cfg.Store == nil {
			return
		}
		// A record that is not saved yet is newer than what the Store has.
		rt.enter()
		var unsaved []string
		for id, r := range rt.writer.records {
			if r.a == nil {
				unsaved = append(unsaved, id)
			}
		}
		dropped := rt.writer.dropped
		rt.leave()
		slices.Sort(unsaved)
		yieldCurrent := func(cp Checkpoint) bool {
			cp, found, err := rt.current(ctx, cp, dropped)
			if err != nil {
				yield(Checkpoint{}, err)
				return false
			}
			return !found || yield(cp, nil)
		}
		seen := map[string]bool{}
		for _, id := range unsaved {
			if seen[id] = true; !yieldCurrent(Checkpoint{ID: id}) {
				return
			}
		}
		for cp, err := range rt.stored(ctx) {
			if err != nil {
				yield(Checkpoint{}, err)
				return
			}
			if !seen[cp.ID] && !yieldCurrent(cp) {
				return
			}
		}
	}
}

// current returns cp as it is by now. It reports false if its activity has completed
// or runs here. Dropped is writer.dropped as it was before cp was read.
func (rt *Runtime) current(ctx context.Context, cp Checkpoint, dropped uint64) (Checkpoint, bool, error) {
	rt.enter()
	running, changed := rt.runningLocked(cp.ID) != nil, rt.writer.dropped != dropped
	r := rt.writer.records[cp.ID]
	rt.leave()
	switch {
	case running || r != nil && r.gone:
		return Checkpoint{}, false, nil
	case r != nil: // it has ended meanwhile
		return r.remains(rt), true, nil
	case !changed:
		return cp, true, nil
	}
	cp, err := rt.load(ctx, cp.ID, rt.cfg.StoreTimeout)
	return cp, cp.State != 0, err
}

// stored is Store.All. Config.StoreTimeout counts from the last checkpoint that it has
// yielded.
func (rt *Runtime) stored(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return func(yield func(Checkpoint, error) bool) {
		var cp Checkpoint
		ready, next := make(chan struct{}), make(chan struct{})
		c := rt.callStore(ctx, "All", func(ctx context.Context) error {
			for stored, err := range rt.cfg.Store.All(ctx) {
				if err != nil {
					return err
				}
				cp = stored
				select {
				case ready <- struct{}{}:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				if _, more := <-next; !more {
					return nil
				}
			}
			return nil
		})
		var late error
		defer func() { // the loop's body may have panicked
			if close(next); late == nil {
				_, _ = c.wait()
			}
		}()
		for {
			if late = c.await(ready); late != nil {
				yield(Checkpoint{}, late)
				return
			}
			select {
			case <-c.returned:
				if c.err != nil {
					yield(Checkpoint{}, c.err)
				}
				return
			default:
			}
			if !yield(cp, nil) {
				return
			}
			rt.enter()
			c.late = rt.ringAfterLocked(rt.cfg.StoreTimeout)
			rt.leave()
			next <- struct{}{}
		}
	}
}

// Forget drops the stored checkpoint of id, if there is one. It refuses with
// [ErrAlreadyRunning] while id runs here. With another error the checkpoint is
// still there.
func (rt *Runtime) Forget(ctx context.Context, id string) error {
	notForgotten := func(err error) error { return fmt.Errorf("activity %q: not forgotten: %w", id, err) }
	rt.enter()
	a := rt.runningLocked(id)
	rt.leave()
	switch {
	case a != nil && a.number > 0: // else it is another Forget's
		return notForgotten(ErrAlreadyRunning)
	case rt.cfg.Store == nil:
		return nil
	}
	late := rt.ringAfter(rt.cfg.StoreTimeout)
	defer late.stop()
	select {
	case rt.writer.turn <- struct{}{}:
	case <-ctx.Done():
		return notForgotten(context.Cause(ctx))
	case <-late.c:
		return notForgotten(rt.errNotTried())
	}
	// Who has the turn is the only Forget that has a placeholder. It keeps an activity
	// from starting whose checkpoint the Delete would take.
	placeholder := &activity{rt: rt, opts: Options{ID: id}}
	rt.enter()
	used, ended := rt.runningLocked(id) != nil, rt.ids[id]
	if !used {
		rt.ids[id] = placeholder
	}
	rt.leave()
	if used {
		<-rt.writer.turn
		return notForgotten(ErrAlreadyRunning)
	}
	c := rt.callStore(ctx, "Delete", func(ctx context.Context) error { return rt.cfg.Store.Delete(ctx, []string{id}) })
	finish := func() {
		<-c.returned
		rt.enter()
		if c.err == nil {
			rt.writer.dropLocked(id)
		}
		if rt.freeIDLocked(placeholder); ended != nil && !ended.released {
			rt.ids[id] = ended
		}
		rt.leave()
		<-rt.writer.turn
	}
	err, hangs := c.wait()
	if hangs {
		go finish()
	} else {
		finish()
	}
	if err != nil {
		return notForgotten(err)
	}
	return nil
}
