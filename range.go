package activity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/seed-9da638b0/activity/internal/bodywatch"
	"github.com/seed-9da638b0/activity/internal/stackdump"
)

// RangeProgress is the heartbeat details that [Range] and [RangeParallel] record. The numbers
// below Next are done. So are those in Done, which are in order and above Next. To is the
// number before which the loop ends.
type RangeProgress struct {
	Next, To int
	Done     []int `json:",omitempty"`
}

// Range is a loop that resumes. It calls body for each i with from <= i < to, beginning with
// the first i that no earlier attempt has recorded as done. After each call it records a
// [RangeProgress] with a heartbeat. If body takes longer than the heartbeat timeout, it must
// send heartbeats of its own, without details.
//
// If body returns an error, the loop ends and Range returns that error as it is. If the
// attempt is over, canceled or paused before the last call of body has returned, Range returns the
// cause. During a [Runtime.Drain] it returns [ErrShutdown] before the next call of body. If a
// heartbeat fails before that, Range returns its error. Once the last call of body has
// returned nil, Range returns nil.
//
// A number must mean the same work in each attempt. If an earlier attempt has recorded a To
// above to, because a list has shrunk or a batch has grown, Range would skip work, so it
// returns [ErrCannotResume]. It also does so for details that no Range has recorded.
//
// An activity may call Range once. In the same attempt, a second call returns a
// NonRetryable error. For several phases, use [Resume] with a struct of your own.
func Range(ctx Context, from, to int, body func(i int) error) error {
	return rangeSteps(ctx, "activity.Range", from, to, func(i int, done func() RangeProgress) error {
		if err := body(i); err != nil {
			return noteBodyError(ctx, err)
		}
		return recordRange(ctx, done())
	})
}

// rangeSteps is Range for steps that record their own progress, which done returns once the
// step is done. name is that of the function that the user has called.
func rangeSteps(ctx Context, name string, from, to int, step func(i int, done func() RangeProgress) error) error {
	r, err := beginRange(ctx, name, from, to)
	if err != nil {
		return err
	}
	for i, ok := r.take(); ok; i, ok = r.take() {
		if err := stopped(ctx); err != nil {
			return err
		}
		done := func() RangeProgress {
			r.finish(i)
			return r.progress()
		}
		if err := step(i, done); err != nil {
			return err
		}
	}
	return nil
}

// noteBodyError returns the error of a body. If that is the cause of ctx, or ErrShutdown in a drain,
// the function gets it from Range, and the loop is not done. So it is noted like Range's own.
func noteBodyError(ctx Context, err error) error {
	if asked, _ := asks(err); attemptOf(ctx) == nil && !asked && (ctx.Err() == nil || !same(err, ended(ctx))) {
		return err // for another engine, noteCause takes the error for the cause
	}
	return noteCause(ctx, err)
}

// RangeParallel is [Range] with up to workers bodies at once, each in a goroutine of its
// own. A later attempt runs exactly the bodies that are not recorded as done. Range can
// resume the progress of a RangeParallel, and the other way round. With workers below 1 or a
// nil body, RangeParallel returns a [NonRetryable] error.
//
// The first error of a body ends the Context of the other bodies, with that error as the
// cause, and no other body begins. RangeParallel waits until the bodies have returned, records
// those that are done nevertheless, and returns the error. If the error is [ErrShutdown]
// because of a [Runtime.Drain], the Contexts of the other bodies live on. If a body panics or
// calls runtime.Goexit, RangeParallel does so too, with a [*PanicError] that has the body's
// stack.
//
// A body's Context is derived from ctx, and is for that body only. Bodies must not heartbeat
// with details, because those would replace the progress.
//
// If one body is slow, the others can get far ahead of it, and the progress lists what they
// have done. Once 10,000 numbers above the slow one are done, no other body begins until it is
// done too. With a small Config.MaxDetailsSize, recording can fail before that. A body that
// hangs is no stall as long as others are done within Options.HeartbeatTimeout. Once the attempt
// stalls, its TimeoutError has the stacks of all bodies that run.
func RangeParallel(ctx Context, from, to, workers int, body func(ctx Context, i int) error) error {
	switch {
	case workers < 1:
		return NonRetryable(fmt.Errorf("activity.RangeParallel: workers must be at least 1 (got %d)", workers))
	case body == nil:
		return NonRetryable(errors.New("activity.RangeParallel: body must not be nil"))
	}
	r, err := beginRange(ctx, "activity.RangeParallel", from, to)
	if err != nil {
		return err
	}
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &parallel{r: r, ctx: ctx, cancel: cancel, body: body, turn: make(chan struct{}, 1)}
	p.changed.L = &p.mu
	p.bodyCtx = &derived{Context: ctx, ctx: own}
	p.watcher, _ = engineOf(ctx).(bodywatch.Watcher)
	var owner any = engineOf(ctx) // whose goroutines the workers are, for dumps of stacks
	if t := attemptOf(ctx); t != nil {
		owner = t // and not its wrapper
	}
	var all sync.WaitGroup
	for range min(workers, span(r.next, to)-len(r.done)) {
		all.Go(func() { stackdump.WorkFor(owner, p.work) })
	}
	all.Wait()
	switch {
	case p.panicked != nil:
		panic(p.panicked)
	case p.exited:
		runtime.Goexit()
	case p.err != nil:
		return noteBodyError(ctx, p.err)
	case p.ended != nil:
		return noteCause(ctx, p.ended)
	}
	return nil
}

// A parallel is a call of RangeParallel.
type parallel struct {
	ctx     Context
	bodyCtx Context
	cancel  context.CancelCauseFunc // ends bodyCtx
	body    func(ctx Context, i int) error
	watcher bodywatch.Watcher // runs the bodies; nil outside of activitytest

	// mu guards what follows, up to turn.
	mu       sync.Mutex
	changed  sync.Cond // another body is done, or the loop has stopped
	r        *ranger
	finished int         // bodies that are done
	stopped  bool        // whether no other body begins; set with one of the next four
	ended    error       // why a body did not begin
	err      error       // the first error of a body, or from recording
	panicked *PanicError // the last panic of a body, which comes before an error
	exited   bool        // whether a body called runtime.Goexit

	// A worker holds turn while it records, so that the newest progress is recorded last.
	// It records all bodies that are done by then. Those who wait for the turn meanwhile
	// find theirs recorded, and with Options.SyncHeartbeats they have shared a Save.
	turn     chan struct{}
	recorded int // how many of finished are recorded; guarded by turn
}

// work is the goroutine of a worker.
func (p *parallel) work() {
	for {
		i, ok := p.take()
		if !ok || !p.run(i) {
			return
		}
	}
}

// take returns the next number to do.
func (p *parallel) take() (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopped && p.r.tooFar() {
		p.changed.Wait()
	}
	if p.stopped {
		return 0, false
	}
	return p.r.take()
}

// run runs body i, and records that it is done. It reports whether the worker continues.
func (p *parallel) run(i int) bool {
	returned := false
	defer func() { // deferred for a body that panics, or calls runtime.Goexit
		if returned {
			return
		}
		v := recover()
		if v == nil {
			p.stop(ErrGoexit, func() { p.exited = true })
			return
		}
		err := newPanicError(v)
		p.stop(err, func() { p.panicked = err })
	}()
	// Only now, because a RangeParallel that has no number left is done, and is not cut
	// short. It may call user code.
	err := ended(p.ctx) // if it counts, RangeParallel notes that the function gets it
	if err == nil {
		err = stopped(p.ctx)
	}
	if err != nil {
		returned = true
		p.stop(err, func() { p.ended = err }) // others may wait for i to be done
		return false
	}
	err = p.runBody(i)
	returned = true
	if err != nil {
		p.stop(err, func() {
			if p.err == nil {
				p.err = err
			}
		})
	}
	return err == nil
}

// runBody calls body i and, if it returns nil, records that it is done.
func (p *parallel) runBody(i int) error {
	if p.watcher != nil {
		return p.watcher.WatchBody(p.bodyCtx, i, func(ctx context.Context) error {
			return p.body(&derived{Context: p.ctx, ctx: ctx}, i)
		}, func() error { return p.finish(i) })
	}
	if err := p.body(p.bodyCtx, i); err != nil {
		return err
	}
	return p.finish(i)
}

// stop ends the loop, and the Context of the other bodies. If cause is that the Runtime
// drains, they may finish instead.
func (p *parallel) stop(cause error, note func()) {
	p.mu.Lock()
	p.stopped = true
	note()
	p.changed.Broadcast()
	p.mu.Unlock()
	if !wraps(cause, ErrShutdown) || !isAsked(p.ctx) {
		p.cancel(cause)
	}
}

// finish records that body i is done.
func (p *parallel) finish(i int) error {
	p.mu.Lock()
	p.r.finish(i)
	p.finished++
	mine := p.finished
	p.changed.Broadcast()
	p.mu.Unlock()

	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if p.recorded >= mine {
		return nil
	}
	p.mu.Lock()
	progress, finished := p.r.progress(), p.finished
	p.mu.Unlock()
	if err := recordRange(p.ctx, progress); err != nil {
		return err
	}
	p.recorded = finished
	return nil
}

// maxRangeDone is how many numbers above the lowest that is not done may be done before no
// other body begins. Each heartbeat encodes them.
const maxRangeDone = 10000

// A ranger knows which numbers of a range are done.
type ranger struct {
	from, to int
	next     int   // the lowest that is not done
	done     []int // those above next that are done, in order
	upTo     int   // those below are done, or were taken
}

// beginRange reads what earlier attempts have done.
func beginRange(ctx Context, name string, from, to int) (*ranger, error) {
	if e := engineOf(ctx); e != nil && !e.BeginRange() {
		info := ctx.Info()
		return nil, NonRetryable(fmt.Errorf("%s: attempt %d: %s: an attempt has one Range (for several phases, use Resume with a struct)", label(info.ID, info.Name), info.Attempt, name))
	}
	var recorded RangeProgress
	found, err := ctx.HeartbeatDetails(&recorded)
	// A zero may mean that the field was not recorded, so that the details are not a
	// Range's.
	if found && err == nil && (recorded.Next == 0 || recorded.To == 0) {
		_, err = ctx.HeartbeatDetails(new(wholeProgress))
	}
	r := &ranger{from: from, to: to, next: from}
	cannot := func(format string, args ...any) error {
		return fmt.Errorf("%s from %d to %d: %w: %s", name, from, to, ErrCannotResume, fmt.Sprintf(format, args...))
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s from %d to %d: the recorded details are not a Range's: %w", name, from, to, err)
	case !found:
	case !recorded.sound():
		return nil, cannot("they are not a Range's (Next %d, To %d, %d numbers in Done)", recorded.Next, recorded.To, len(recorded.Done))
	case recorded.To > to:
		return nil, cannot("an earlier attempt ran a Range to %d (next %d), so these numbers may stand for other work", recorded.To, recorded.Next)
	default:
		r.next = max(from, recorded.Next)
		r.done = recorded.Done
		for len(r.done) > 0 && r.done[0] <= r.next {
			if r.done[0] == r.next {
				r.next++
			}
			r.done = r.done[1:]
		}
	}
	r.upTo = r.next
	if t := attemptOf(ctx); t != nil {
		t.noteRange(&rangeState{from: from, to: to}, r.progress())
	}
	return r, nil
}

// sound reports whether a Range can have recorded p.
func (p *RangeProgress) sound() bool {
	last := p.Next
	for _, i := range p.Done {
		if i <= last {
			return false
		}
		last = i
	}
	return p.Next <= p.To && (len(p.Done) == 0 || last < p.To)
}

// wholeProgress finds out whether JSON has the fields Next and To of a RangeProgress, and keeps
// neither. Codecs other than JSON do not call UnmarshalJSON, so that they may leave out zeros.
type wholeProgress RangeProgress

func (p *wholeProgress) UnmarshalJSON(data []byte) error {
	var fields struct{ Next, To *int }
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if fields.Next == nil || fields.To == nil {
		return errors.New("field Next or To is missing")
	}
	return nil
}

// take returns the lowest number that is neither done nor taken.
func (r *ranger) take() (int, bool) {
	r.upTo = max(r.upTo, r.next) // next may have passed numbers that an earlier attempt has done
	for r.upTo < r.to {
		i := r.upTo
		r.upTo++
		if _, done := slices.BinarySearch(r.done, i); !done {
			return i, true
		}
	}
	return 0, false
}

// tooFar reports whether the lowest number must be done before another is taken.
func (r *ranger) tooFar() bool { return len(r.done) >= maxRangeDone && r.upTo > r.next }

// finish notes that i, which was taken, is done.
func (r *ranger) finish(i int) {
	if i != r.next {
		at, _ := slices.BinarySearch(r.done, i)
		r.done = slices.Insert(r.done, at, i)
		return
	}
	r.next++
	for len(r.done) > 0 && r.done[0] == r.next {
		r.next++
		r.done = r.done[1:]
	}
}

func (r *ranger) progress() RangeProgress {
	return RangeProgress{r.next, r.to, slices.Clone(r.done)}
}

// recordRange records p. If ctx has ended, Heartbeat has recorded p, or has logged why not, and
// recordRange returns nil: the loop returns the cause before the next body or, after the last
// body, nil. If all the work is done, another failure is logged instead of returned.
func recordRange(ctx Context, p RangeProgress) error {
	err := ctx.Heartbeat(p)
	asked, failed := asks(err)
	switch {
	case failed == nil || ctx.Err() != nil:
	case p.Next < p.To:
		return err
	default:
		ctx.Logger().Error("activity: the end of a Range is not recorded; a later attempt would run its last body again", "error", failed)
	}
	if asked { // the loop finds out itself before the next body
		swallowed(ctx)
	}
	return nil
}

// rangeState is the progress of a Range, for Status. Guarded by activity.mu.
type rangeState struct {
	from, to int
	done     int // how many are recorded as done
	resumed  int // how many were when it began
}

func (s *rangeState) note(p RangeProgress) {
	s.done = min(span(s.from, p.Next), math.MaxInt-len(p.Done)) + len(p.Done)
}

// noteRange makes s the progress that Status reports, unless the attempt is over: a later
// attempt may have a Range by now.
func (t *attempt) noteRange(s *rangeState, p RangeProgress) {
	s.note(p)
	s.resumed = s.done
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if !t.over.Load() {
		a.loop = s
	}
}
