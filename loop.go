package activity

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Resume returns the value from which the attempt resumes: the heartbeat details recorded
// last or, if there are none, initial. If they do not decode into a T, it returns initial
// and the error of [Context.HeartbeatDetails].
func Resume[T any](ctx Context, initial T) (T, error) {
	var details T
	found, err := ctx.HeartbeatDetails(&details)
	if err != nil || !found {
		return initial, err
	}
	return details, nil
}

// RangeProgress is the heartbeat details that [Range] records: the number with which the
// loop continues, and the number before which it ends.
type RangeProgress struct{ Next, To int }

// Range is a loop that resumes. It calls body for each i with from <= i < to, beginning with
// the first i that no earlier attempt has recorded as done. After each call it records a
// [RangeProgress] with a heartbeat. If body takes longer than the heartbeat timeout, it must
// send heartbeats of its own, without details.
//
// If body returns an error, the loop ends and Range returns that error as it is. If the
// attempt is over or canceled before the last call of body has returned, Range returns the
// cause. If a heartbeat fails before that, Range returns its error. Once the last call of
// body has returned nil, Range returns nil.
//
// A number must mean the same work in each attempt. If an earlier attempt has recorded a To
// above to, because a list has shrunk or a batch has grown, Range would skip work, so it
// returns [ErrCannotResume]. It also does so for details that no Range has recorded.
//
// An activity may call Range once. In the same attempt, a second call returns a
// NonRetryable error. For several phases, use [Resume] with a struct of your own.
func Range(ctx Context, from, to int, body func(i int) error) error {
	if e := engineOf(ctx); e != nil && !e.BeginRange() {
		info := ctx.Info()
		return NonRetryable(fmt.Errorf("%s: attempt %d: activity.Range called twice; an activity has one Range (for several phases, use Resume with a struct)", label(info.ID, info.Name), info.Attempt))
	}
	var progress RangeProgress
	found, err := ctx.HeartbeatDetails(&progress)
	// A zero may mean that the field was not recorded, so that the details are not a
	// Range's.
	if found && err == nil && (progress.Next == 0 || progress.To == 0) {
		_, err = ctx.HeartbeatDetails(new(wholeProgress))
	}
	next := from
	switch {
	case err != nil:
		return fmt.Errorf("activity.Range from %d to %d: the recorded details are not a Range's: %w", from, to, err)
	case !found:
	case progress.Next > progress.To: // no Range records this
		return fmt.Errorf("activity.Range from %d to %d: %w: they are not a Range's (Next %d, To %d)", from, to, ErrCannotResume, progress.Next, progress.To)
	case progress.To > to:
		return fmt.Errorf("activity.Range from %d to %d: %w: an earlier attempt ran a Range to %d (next %d), so these numbers may stand for other work", from, to, ErrCannotResume, progress.To, progress.Next)
	default:
		next = max(from, progress.Next)
	}
	if t := attemptOf(ctx); t != nil {
		t.noteRange(&rangeState{from, next, to})
	}
	for i := next; i < to; i++ {
		if err := ended(ctx); err != nil {
			return noteCause(ctx, err)
		}
		if err := body(i); err != nil {
			return err
		}
		// If ctx has ended, err is its cause, or Heartbeat has logged why the details were
		// not recorded. The loop returns the cause before the next body or, after the last
		// body, nil: all the work is done.
		err := ctx.Heartbeat(RangeProgress{i + 1, to})
		if err == nil || ctx.Err() != nil {
			continue
		}
		if i+1 < to {
			return err
		}
		ctx.Logger().Error("activity: the end of a Range is not recorded, a later attempt would run its last body again", "error", err)
	}
	return nil
}

// wholeProgress is a RangeProgress whose JSON must have both fields. Codecs other than JSON
// do not call UnmarshalJSON, so that they may leave out zeros.
type wholeProgress RangeProgress

func (p *wholeProgress) UnmarshalJSON(data []byte) error {
	var fields struct{ Next, To *int }
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if fields.Next == nil || fields.To == nil {
		return errors.New("field Next or To is missing")
	}
	*p = wholeProgress{Next: *fields.Next, To: *fields.To}
	return nil
}

// rangeState is the progress of a Range, for Status. Guarded by activity.mu.
type rangeState struct{ from, next, to int }

// noteRange makes s the progress that Status reports, unless the attempt is over: a later
// attempt may have a Range by now.
func (t *attempt) noteRange(s *rangeState) {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if !t.over.Load() {
		a.loop = s
	}
}

// Idle is a Sleep for pollers. It sends a heartbeat without details when it begins, and
// another after each half of the heartbeat timeout, until d has passed. It returns nil once
// d has passed, or the error of [Context.Sleep] or [Context.Heartbeat].
func Idle(ctx Context, d time.Duration) error {
	step := d
	if timeout := ctx.Info().HeartbeatTimeout; timeout > 0 {
		step = max(timeout/2, 1)
	}
	for {
		if err := ctx.Heartbeat(); err != nil {
			return noteCause(ctx, err)
		}
		if d <= 0 {
			return nil
		}
		nap := min(d, step)
		if err := ctx.Sleep(nap); err != nil {
			return err
		}
		if d -= nap; d <= 0 {
			return nil
		}
	}
}
