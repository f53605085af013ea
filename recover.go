package activity

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
)

// Recover starts every activity in the Store that was waiting or paused, or that was
// interrupted by a crash, a shutdown or the end of its context, and returns their number. The
// activity that was scheduled first is started first. A paused activity is still paused. Call
// Recover when the program starts.
//
// Each activity is run by the Definition of its Name, with its stored input and with ctx
// as its context. It resumes as the section on durability in the package documentation
// says. If it has no attempts left, or its schedule-to-close timeout has passed, it is
// started and fails at once, which is logged. Activities that have failed for good, or were
// canceled by [Handle.Cancel] or [Runtime.Cancel], stay as they are. Activities that are
// running already are skipped. [Definition.Handle] returns the [Handle] of an activity that
// Recover has started.
//
// The error names each ID that could not be started, and the reason: no Definition has its
// Name, its input does not decode, or the Store failed. The others are started anyway, but
// an error of Store.All ends Recover. Activities of Run have no Definition: start them by
// their ID, or [Runtime.Forget] them. If a Definition is refused, or if two have the same
// Name, Recover returns an error and starts nothing. Without a Store, Recover returns 0.
func (rt *Runtime) Recover(ctx context.Context, defs ...Recoverable) (int, error) {
	rt.enter()
	lost := rt.writer.noticeLossLocked()
	rt.leave()
	if lost {
		return 0, fmt.Errorf("activity: Recover: %w", ErrStoreLost)
	}
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
	fail := func(err error) {
		if err != nil && !wraps(err, errNotRecovered) {
			errs = append(errs, err)
		}
	}
	r := &recovery{rt: rt, defs: byName}
	all, busy, err := r.read(ctx, fail)
	if err != nil {
		errs = append(errs, fmt.Errorf("activity: Recover: %w", err))
	}
	slices.SortStableFunc(all, func(x, y Checkpoint) int { return x.ScheduledAt.Compare(y.ScheduledAt) })
	var started []*activity
	start := func(cp Checkpoint) {
		a, err := r.start(ctx, cp)
		if err != nil {
			fail(err)
			return
		}
		started = append(started, a)
	}
	for i, cp := range all {
		all[i] = Checkpoint{} // frees the input when the activity ends, and not when Recover returns
		start(cp)
	}
	// The busy IDs come last, because recheck may wait.
	for _, id := range busy {
		cp, err := r.recheck(ctx, id)
		if fail(err); err == nil {
			start(cp)
		}
	}
	n, crashed := 0, 0
	// Awaited only after all were started, so that their starts share Saves.
	for _, a := range started {
		if err := a.awaitStart(); err != nil {
			fail(err)
			continue
		}
		n++
		if a.rec.start.crashed {
			crashed++
		}
	}
	if n > 0 {
		rt.log(slog.LevelInfo, "activity: recovered activities", nil, 0, slog.Int("activities", n), slog.Int("process_ended_during_an_attempt", crashed))
	}
	return n, errors.Join(errs...)
}

// A recovery is a call of Recover.
type recovery struct {
	rt   *Runtime
	defs map[string]Recoverable // by Name
}

// read returns the checkpoints to be started, without their details. busy has the IDs that
// are in use and whose checkpoints may still have to be started: the start of the activity
// may be refused, or Forget has the ID.
func (r *recovery) read(ctx context.Context, fail func(error)) (all []Checkpoint, busy []string, err error) {
	for cp, err := range r.rt.checkpoints(ctx, func(id string) { busy = append(busy, id) }) {
		if err != nil {
			return all, busy, err
		}
		if err := r.check(cp); err != nil {
			fail(err)
			continue
		}
		// Not kept in memory for all activities at once: each start loads its own again.
		cp.Details = nil
		all = append(all, cp)
	}
	return all, busy, nil
}

// check returns an error if cp is not to be started: errNotRecovered if it is finished, and
// else the reason for the user.
func (r *recovery) check(cp Checkpoint) error {
	switch {
	case !cp.State.unfinished():
		return errNotRecovered
	case cp.ID == "":
		return fmt.Errorf("activity: checkpoint without an ID (Name %q): not recovered: the Store is damaged", cp.Name)
	case r.defs[cp.Name] == nil:
		return fmt.Errorf("activity %q: not recovered: no Definition is named %q", cp.ID, cp.Name)
	}
	return nil
}

// start starts the activity of cp.
func (r *recovery) start(ctx context.Context, cp Checkpoint) (*activity, error) {
	// Another goroutine may start the ID at the same time. If that start is refused, the
	// checkpoint must still be started.
	for {
		if err := r.check(cp); err != nil {
			return nil, err
		}
		a, err := r.defs[cp.Name].recover(ctx, r.rt, cp)
		if !wraps(err, ErrAlreadyRunning) {
			return a, err
		}
		if cp, err = r.recheck(ctx, cp.ID); err != nil {
			return nil, err
		}
	}
}

// recheck waits until the start that another goroutine has made of id is accepted or
// refused. If it is accepted, recheck returns errNotRecovered, because the activity runs.
// If it is refused, recheck returns the checkpoint of id as it is by now.
func (r *recovery) recheck(ctx context.Context, id string) (Checkpoint, error) {
	rt := r.rt
	rt.enter()
	a, occupied := rt.runningLocked(id), rt.writer.records[id].occupiedLocked()
	rt.leave()
	notRecovered := func(err error) error { return fmt.Errorf("activity %q: not recovered: %w", id, err) }
	switch {
	case occupied != nil:
		return Checkpoint{}, notRecovered(occupied)
	case a != nil && a.number == 0:
		return Checkpoint{}, notRecovered(fmt.Errorf("%w: Forget is deleting its checkpoint", ErrAlreadyRunning))
	case a != nil:
		// ctx may come from outside a synctest bubble, which would block there: see await.
		watch, cancel := context.WithCancel(ctx)
		defer cancel()
		select {
		case <-a.rec.start.decided:
		case <-watch.Done():
			return Checkpoint{}, notRecovered(context.Cause(ctx))
		}
		if a.rec.start.refusal == nil {
			return Checkpoint{}, errNotRecovered
		}
	}
	cp, _, err := rt.current(ctx, Checkpoint{ID: id}, 0)
	if err != nil {
		return Checkpoint{}, notRecovered(err)
	}
	return cp, nil
}

// Checkpoints yields the stored checkpoints of activities that have not completed and are
// not running in this Runtime. Those are activities that were waiting or paused, that were
// interrupted by a crash, a shutdown or the end of their context, that have failed for
// good, or that were canceled. An error ends the sequence. The body of the loop may start
// and forget activities. Without a Store there are no checkpoints.
func (rt *Runtime) Checkpoints(ctx context.Context) iter.Seq2[Checkpoint, error] {
	return rt.checkpoints(ctx, func(string) {})
}

// checkpoints is Checkpoints for Recover. For each ID that is in use it calls busy, unless
// the activity is accepted and thus certain to run.
func (rt *Runtime) checkpoints(ctx context.Context, busy func(id string)) iter.Seq2[Checkpoint, error] {
	return func(yield func(Checkpoint, error) bool) {
		if rt.cfg.Store == nil {
			return
		}
		// Checkpoints that are not saved yet come from the records, since the Store holds an
		// older state of them or nothing. The Store is read after that. So a checkpoint that
		// is saved meanwhile is not missed, and dropped tells that the Store has changed.
		rt.enter()
		var unsaved []string
		for id, r := range rt.writer.records {
			if r.a == nil && !rt.writer.lost {
				unsaved = append(unsaved, id)
			}
		}
		dropped := rt.writer.dropped
		rt.leave()
		slices.Sort(unsaved)
		yieldCurrent := func(cp Checkpoint) bool {
			now, isBusy, err := rt.current(ctx, cp, dropped)
			switch {
			case err != nil:
				yield(Checkpoint{}, err)
				return false
			case isBusy:
				busy(cp.ID)
			case now.State != 0:
				return yield(now, nil)
			}
			return true
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

// current returns cp as it is by now: its State is 0 if the activity has completed or is
// running here. dropped is the value of writer.dropped from before cp was read. If it has
// changed, the Store may have changed too, so cp is loaded again. busy reports whether the
// ID is in use by a start that is not accepted yet, or by Forget.
func (rt *Runtime) current(ctx context.Context, cp Checkpoint, dropped uint64) (_ Checkpoint, busy bool, err error) {
	rt.enter()
	a, r, changed, lost := rt.runningLocked(cp.ID), rt.writer.records[cp.ID], rt.writer.dropped != dropped, rt.writer.lost
	// Forget registers a placeholder, whose number is 0.
	busy = a != nil && (a.number == 0 || a.rec != nil && !a.rec.start.accepted)
	rt.leave()
	switch {
	case a != nil || r != nil && r.gone && !lost:
		return Checkpoint{}, busy, nil
	case r != nil && r.unresolved == 0 && !lost: // it has ended, and its checkpoint may not be saved yet
		return r.finalCheckpoint(rt), false, nil
	case cp.State != 0 && !changed:
		return cp, false, nil
	}
	cp, err = rt.load(ctx, cp.ID, never, nil)
	return cp, false, err
}

// stored is Store.All with a limit of Config.StoreTimeout between two checkpoints, for
// which the time that the body of the loop takes does not count. All runs in a goroutine of
// its own, because it may hang. The goroutine hands over each checkpoint with ready, and
// continues after next. So only one of the two goroutines runs at a time, as in any loop.
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
				if _, more := <-next; !more { // the loop has ended
					return nil
				}
			}
			return nil
		})
		// Deferred, because the body of the loop may panic. All ends before the loop does,
		// unless it hangs.
		defer func() {
			c.proceed()
			close(next)
			<-c.decided
		}()
		for {
			select {
			case <-c.decided:
				if c.err != nil {
					yield(Checkpoint{}, c.err)
				}
				return
			case <-ready:
			}
			c.pause()
			if !yield(cp, nil) {
				return
			}
			c.proceed()
			next <- struct{}{}
		}
	}
}

// Forget deletes the stored checkpoint of id, if there is one. While an activity with that
// ID is running in this Runtime, it returns [ErrAlreadyRunning]. After any other error the
// checkpoint may still be there.
func (rt *Runtime) Forget(ctx context.Context, id string) error {
	notForgotten := func(err error) error { return fmt.Errorf("activity %q: not forgotten: %w", id, err) }
	rt.enter()
	a, lost := rt.runningLocked(id), rt.writer.noticeLossLocked()
	rt.leave()
	switch {
	case lost:
		return notForgotten(ErrStoreLost)
	case a != nil && a.number > 0: // number 0: another Forget, whose end is awaited below
		return notForgotten(ErrAlreadyRunning)
	case rt.cfg.Store == nil:
		return nil
	}
	late := rt.newWaitTimer(rt.cfg.StoreTimeout)
	defer late.stop()
	select {
	case rt.writer.turn <- struct{}{}:
	case <-ctx.Done():
		return notForgotten(context.Cause(ctx))
	case <-late.c:
		return notForgotten(rt.errNotTried())
	}
	// The turn is held until the Delete has returned, so that no write of the ID comes
	// after it. A placeholder reserves the ID, so that no activity starts whose checkpoint
	// the Delete would remove. Since the turn is held, there is only one placeholder.
	placeholder := &activity{rt: rt, opts: Options{ID: id}}
	rt.enter()
	var err error
	ended := rt.ids[id]
	switch {
	case rt.writer.noticeLossLocked():
		err = ErrStoreLost
	case rt.runningLocked(id) != nil:
		err = ErrAlreadyRunning
	default:
		rt.ids[id] = placeholder
	}
	rt.leave()
	if err != nil {
		<-rt.writer.turn
		return notForgotten(err)
	}
	c := rt.callStore(ctx, "Delete", func(ctx context.Context) error { return rt.cfg.Store.Delete(ctx, []string{id}) })
	<-c.decided
	// finish is called when the Delete has returned, which may be long after Forget.
	finish := func() {
		rt.enter()
		if c.result == nil {
			rt.writer.dropLocked(id)
			rt.writer.recoveredLocked(true)
		} else {
			rt.writer.failures++
		}
		if rt.freeIDLocked(placeholder); ended != nil && !ended.released {
			rt.ids[id] = ended // the next execution must still deliver its events after those of ended
		}
		rt.leave()
		<-rt.writer.turn
	}
	// If the Delete is late, the caller gets the error now. The turn and the placeholder stay
	// until the Delete returns, since it may still remove the checkpoint.
	if c.late {
		rt.enter()
		returned := c.returnedLocked()
		rt.leave()
		go func() {
			<-returned
			finish()
		}()
	} else {
		finish()
	}
	if c.err != nil {
		return notForgotten(c.err)
	}
	return nil
}
