package activity

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"

	"github.com/seed-9da638b0/activity/internal/heartbeatdetails"
)

// Heartbeat implements [Context].
func (t *attempt) Heartbeat(details ...any) error { return t.heartbeat(t.Context, details) }

// heartbeat returns what Heartbeat returns to a function that has ctx: the
// attempt's own context, or one that does not end with it.
func (t *attempt) heartbeat(ctx context.Context, details []any) error {
	a := t.a
	var e encoded
	var failed error
	n, isInt := 0, false
	if heartbeatdetails.Given(details) {
		if n, isInt = details[0].(int); !isInt || len(details) > 1 || !a.rt.lazyInts {
			e, failed = t.encode(details)
			isInt = false
		}
	}

	now := a.rt.read()
	var end error
	derived := ctx != t.Context
	if derived { // it may call the user's code
		end = ended(ctx)
	}
	t.lockSettled(now)
	if !derived {
		end = ended(ctx)
	}
	if t.over.Load() {
		a.mu.Unlock()
		return end
	}
	a.beats++
	a.lastBeat = max(a.lastBeat, now)
	t.granted = 0
	if a.opts.HeartbeatTimeout > 0 {
		t.beatBy = max(t.beatBy, now.add(a.opts.HeartbeatTimeout))
	}
	unsaved, sync := false, false
	if isInt || e.data != nil {
		if isInt {
			a.details.setInt(n)
		} else {
			a.details.set(e)
		}
		if r, ok := details[0].(RangeProgress); ok && a.loop != nil {
			a.loop.next = r.Next
		}
		if !t.progressed {
			t.progressed = !bytes.Equal(a.details.encode(), t.resumesFrom)
		}
		if a.rec != nil {
			unsaved, a.rec.fresh = !a.rec.fresh, true
			if sync = a.opts.SyncHeartbeats && end == nil; sync {
				t.syncing++
			}
		}
	}
	if a.rt.cfg.Observer != nil {
		ev := Event{Kind: EventHeartbeat, Time: a.rt.wall(now), Attempt: t.number}
		if isInt || e.data != nil {
			ev.details, ev.codec = a.details.share(), a.rt.cfg.Codec
		}
		a.postLocked(notice{event: ev})
	}
	a.mu.Unlock()
	switch {
	case sync:
		failed, end = t.sync(ctx)
	case unsaved:
		a.rt.enter()
		a.rec.saveSoonLocked(a.rt)
		a.rt.leave()
	}
	if end != nil {
		if failed != nil {
			a.rt.log(slog.LevelError, "activity: heartbeat details of a canceled attempt were not recorded", a, t.number, slog.Any("error", failed))
		}
		return end
	}
	return failed
}

// sync waits until the Store holds the details of the heartbeat that calls it.
// That heartbeat has counted itself in t.syncing, so that meanwhile there is no
// heartbeat deadline. It returns at once when ctx ends.
func (t *attempt) sync(ctx context.Context) (err, end error) {
	a, rt := t.a, t.a.rt
	tried := make(chan error, 1)
	rt.enter()
	a.rec.syncs = append(a.rec.syncs, tried)
	a.rec.saveLocked(rt, nil)
	rt.leave()
	select {
	case err = <-tried:
	case <-ctx.Done():
	}
	rt.enter()
	a.mu.Lock()
	if t.syncing--; t.syncing == 0 && !t.over.Load() {
		t.beatBy = max(t.beatBy, rt.now.deadline(a.opts.HeartbeatTimeout))
	}
	a.mu.Unlock()
	a.setAlarmLocked(a.alarmAtLocked())
	rt.leave()
	end = ended(ctx)
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: heartbeat details are recorded in memory but not saved yet: %w", a, t.number, err)
	}
	return err, end
}

// recorded are an activity's newest heartbeat details. Guarded by activity.mu.
type recorded struct {
	data   []byte // one value after the other, see appendValue; nil if there are none
	shared bool   // somebody has data, so it must not change; else it is reused
	isInt  bool   // they are n, which is encoded only when somebody asks, because most loops report an int
	n      int
}

func (r *recorded) setInt(n int) { r.n, r.isInt = n, true }

func (r *recorded) set(e encoded) {
	r.isInt = false
	if r.shared {
		r.data, r.shared = nil, false
	}
	if e.several {
		r.data = append(r.data[:0], e.data...)
	} else {
		r.data = appendValue(r.data[:0], e.data)
	}
}

// encode returns the details, for the caller to read before it unlocks activity.mu.
func (r *recorded) encode() []byte {
	if r.isInt {
		var digits [24]byte
		r.set(encoded{data: strconv.AppendInt(digits[:0], int64(r.n), 10)})
	}
	return r.data
}

// share returns the details, for the caller to keep and not to change.
func (r *recorded) share() []byte {
	data := r.encode()
	r.shared = data != nil
	return slices.Clip(data)
}

// HeartbeatDetails implements [Context].
func (t *attempt) HeartbeatDetails(into ...any) (bool, error) {
	found, err := decodeDetails(t.a.rt.cfg.Codec, t.resumesFrom, into)
	if err != nil {
		t.logCodecPanic(err)
		err = fmt.Errorf("%s: attempt %d: %w", t.a, t.number, err)
	}
	return found, err
}

// encoded is one value in the Codec's form, or several as details have them;
// data is nil if there is none.
type encoded struct {
	data    []byte
	several bool
}

func (t *attempt) encode(details []any) (encoded, error) {
	e, err := t.a.rt.encode(details)
	if err != nil {
		t.logCodecPanic(err)
		err = NonRetryable(fmt.Errorf("%s: attempt %d: heartbeat details not recorded, the previous ones are kept: %w", t.a, t.number, err))
	}
	return e, err
}

func (t *attempt) logCodecPanic(err error) {
	if p := (*PanicError)(nil); errors.As(err, &p) {
		t.a.rt.log(slog.LevelError, "activity: a Codec panicked", t.a, t.number, slog.Any("error", err), slog.String("stack", string(p.Stack)))
	}
}

func (rt *Runtime) encode(details []any) (encoded, error) {
	e := encoded{several: len(details) > 1}
	size := 0
	for i, d := range details {
		value, err := marshal(rt.cfg.Codec, d)
		if err != nil {
			return encoded{}, fmt.Errorf("cannot encode value %d of %d (%T): %w", i+1, len(details), d, err)
		}
		if size += len(value); size > rt.cfg.MaxDetailsSize {
			return encoded{}, fmt.Errorf("%w: %d bytes encoded, Config.MaxDetailsSize is %d", ErrDetailsTooLarge, size, rt.cfg.MaxDetailsSize)
		}
		if e.several {
			e.data = appendValue(e.data, value)
		} else if e.data = value; value == nil {
			e.data = []byte{}
		}
	}
	return e, nil
}

// Recorded details are one value after the other, each as its length in bytes
// (a uvarint) and that many bytes in the Codec's form.

func appendValue(details, value []byte) []byte {
	details = binary.AppendUvarint(details, uint64(len(value)))
	return append(details, value...)
}

func cutValue(details []byte) (value, rest []byte, err error) {
	n, size := binary.Uvarint(details)
	if size <= 0 || n > uint64(len(details)-size) {
		return nil, nil, errors.New("the recorded details are damaged")
	}
	end := size + int(n)
	return details[size:end:end], details[end:], nil
}

// decodeDetails decodes the first recorded values into the pointers given. It
// reports false if nothing was recorded. Its errors are ErrCannotResume.
func decodeDetails(c Codec, details []byte, into []any) (bool, error) {
	if len(details) == 0 {
		return false, nil
	}
	if c == nil {
		c = jsonCodec{}
	}
	var values [][]byte
	for rest := details; len(rest) > 0; {
		value, after, err := cutValue(rest)
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrCannotResume, err)
		}
		values, rest = append(values, value), after
	}
	if len(into) > len(values) {
		return false, fmt.Errorf("%w: %d values requested, %d recorded", ErrCannotResume, len(into), len(values))
	}
	for i, p := range into {
		if err := unmarshal(c, bytes.Clone(values[i]), p); err != nil {
			return false, fmt.Errorf("%w: cannot decode value %d into %T: %w", ErrCannotResume, i+1, p, err)
		}
	}
	return true, nil
}
