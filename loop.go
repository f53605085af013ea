package activity

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Resume returns what the attempt resumes from: the heartbeat details recorded
// last, or initial if there are none. It returns initial with the error of
// [Context.HeartbeatDetails].
func Resume[T any](ctx Context, initial T) (T, error) {
	var details T
	found, err := ctx.HeartbeatDetails(&details)
	if err != nil || !found {
		return initial, err
	}
	return details, nil
}

// RangeProgress is what [Range] records: the next number, and where it ends.
type RangeProgress struct{ Next, To int }

// Range is a loop that resumes: it calls body for each i with from <= i < to,
// starting with the first that no earlier attempt has recorded as done, and
// records a [RangeProgress] with a heartbeat after each. A body that takes
// longer than the heartbeat timeout must heartbeat, but without details.
//
// An error of body ends the loop and is returned as it is. If the attempt is over
// before the last body is done, Range returns the cause, and if recording fails,
// that error. Once the last body is done it returns nil.
//
// The numbers must mean the same in each attempt. If an earlier attempt recorded a
// To above to, because a list has shrunk or a batch has grown, Range would skip
// work, and returns [ErrCannotResume]. So it does for details that no Range recorded.
//
// One activity has one Range. A second one is a NonRetryable error. For phases,
// [Resume] a struct of your own.
func Range(ctx Context, from, to int, body func(i int) error) error {
	if e := engineOf(ctx); e != nil && !e.BeginRange() {
		info := ctx.Info()
		return NonRetryable(fmt.Errorf("%s: attempt %d: activity.Range called twice; an activity has one Range (for several phases, use Resume with a struct)", label(info.ID, info.Name), info.Attempt))
	}
	var progress RangeProgress
	found, err := ctx.HeartbeatDetails(&progress)
	if found && err == nil && (progress.Next == 0 || progress.To == 0) { // one may be missing
		_, err = ctx.HeartbeatDetails(new(wholeProgress))
	}
	next := from
	switch {
	case err != nil:
		return fmt.Errorf("activity.Range from %d to %d: the recorded details are not a Range's: %w", from, to, err)
	case !found:
	case progress.Next > progress.To: // which no Range records
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
		err := ctx.Heartbeat(RangeProgress{i + 1, to})
		if err == nil || ctx.Err() != nil {
			continue // it is recorded, or else logged
		}
		if i+1 < to {
			return err
		}
		ctx.Logger().Error("activity: the end of a Range is not recorded, a later attempt would run its last body again", "error", err)
	}
	return nil
}

// wholeProgress decodes a RangeProgress only if both fields were recorded. With a Codec
// that is not JSON it decodes always: such a Codec may leave out zeros.
type wholeProgress RangeProgress

func (p *wholeProgress) UnmarshalJSON(data []byte) error {
	var fields struct{ Next, To *int }
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	if fields.Next == nil || fields.To == nil {
		return errors.New("Next or To is missing")
	}
	*p = wholeProgress{Next: *fields.Next, To: *fields.To}
	return nil
}

// rangeState is a Range, for Status.
type rangeState struct{ from, next, to int }

// noteRange shows the Range of an attempt that is not fenced.
func (t *attempt) noteRange(s *rangeState) {
	a := t.a
	a.mu.Lock()
	defer a.mu.Unlock()
	if !t.over.Load() {
		a.loop = s
	}
}

// Idle is a Sleep for pollers: it sends a heartbeat without details when it
// begins, and at least one every half HeartbeatTimeout until d has passed. It
// returns what [Context.Sleep] and [Context.Heartbeat] do.
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
