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

// Heartbeats: recording them, encoding and decoding their details, and waiting until the
// Store holds them. A heartbeat is the most frequent operation of the package, so it locks
// only activity.mu, and does not touch the scheduler's queue: the alarm reads the new
// deadline when it comes up.

// Heartbeat implements [Context].
func (t *attempt) Heartbeat(details ...any) error { return t.heartbeat(t.Context, details) }

// heartbeat records a heartbeat. ctx is the attempt's own context or, for
// heartbeatAfterEnd, a derived one that does not end with it. If ctx has ended, heartbeat
// returns its cause.
func (t *attempt) heartbeat(ctx context.Context, details []any) error {
	a := t.a
	var e encoded
	var failed error
	// Encoding runs the Codec, which is user code, so it comes before any lock. With the
	// default Codec, a single int is not encoded before it is read. Most loops record an
	// int, and most of these are replaced before anybody reads them.
	n, isInt := 0, false
	if heartbeatdetails.Given(details) {
		if n, isInt = details[0].(int); !isInt || len(details) > 1 || !a.rt.lazyInts {
			e, failed = t.encode(details)
			isInt = false
		}
	}

	now := a.rt.read()
	var end error
	// A derived context may run user code, so it is asked before activity.mu is locked.
	// The attempt's own context must be asked under the lock: see over.
	derived := ctx != t.Context
	if derived {
		end = ended(ctx)
	}
	t.lockSettled(now)
	if !derived {
		end = ended(ctx)
	}
	// After a timeout nothing is recorded, because the next attempt may be running. After
	// a cancellation the heartbeat is recorded, although end is not nil.
	if t.over.Load() {
		a.mu.Unlock()
		return end
	}
	a.beats++
	t.beat(now)
	unsaved, sync := false, false
	if (isInt || e.data != nil) && t.commitFailed != nil {
		isInt, e, failed = false, encoded{}, t.commitFailed
	}
	if isInt || e.data != nil {
		if isInt {
			a.details.setInt(n)
		} else {
			a.details.set(e)
			a.details.count++
		}
		if r, ok := details[0].(RangeProgress); ok && a.loop != nil {
			a.loop.note(r)
		}
		if !t.progressed {
			t.progressed = !bytes.Equal(a.details.encode(), t.resumesFrom)
		}
		if a.rec != nil {
			// Only the first heartbeat after a write locks Runtime.mu, to make the
			// record dirty. The write reads whatever details are newest then.
			unsaved, a.rec.fresh = !a.rec.fresh, true
			if sync = a.opts.SyncHeartbeats && end == nil; sync {
				t.storeWaits++
			}
		}
	}
	// The Store must know when the attempt has run for ResetAfter, also if no details change.
	if after := a.opts.RetryPolicy.ResetAfter; after > 0 && a.rec != nil && !t.longNoted && now.since(t.started.at) >= after {
		t.longNoted, unsaved = true, true
	}
	// Posted before activity.mu is unlocked, so that the events of heartbeats are in the
	// order in which the details were recorded.
	if a.rt.subscribers.want(EventHeartbeat) {
		ev := Event{Kind: EventHeartbeat, Time: a.rt.wall(now), Attempt: t.number}
		if isInt || e.data != nil {
			ev.details, ev.codec = a.details.share(), a.rt.cfg.Codec
		}
		a.postEventLocked(ev)
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
	if end == nil && !derived && a.rt.drain.begun.Load() {
		a.mu.Lock()
		t.beatsTold++
		a.mu.Unlock()
		if failed != nil {
			return &askedError{failed}
		}
		return ErrShutdown
	}
	// The cause comes first. An error of the details would get lost, so it is logged.
	if end != nil {
		if failed != nil {
			a.rt.log(slog.LevelError, "activity: heartbeat details of a canceled or paused attempt were not recorded", a, t.number, slog.Any("error", failed))
		}
		return end
	}
	return failed
}

// beat moves the heartbeat deadline, because the attempt is alive at now. Heartbeats may
// overtake each other between the reading of the clock and the lock, so neither lastBeat nor
// the deadline may go back. activity.mu is held.
func (t *attempt) beat(now instant) {
	a := t.a
	a.lastBeat = max(a.lastBeat, now)
	t.granted = 0
	if a.opts.HeartbeatTimeout > 0 {
		t.beatBy = max(t.beatBy, now.add(a.opts.HeartbeatTimeout))
	}
}

// sync waits until the Store holds the details of the heartbeat that calls it, or until
// ctx ends. err is the Store's error, and end the cause of ctx. The caller has increased
// t.storeWaits, so that there is no heartbeat deadline meanwhile. The deadline counts anew
// from the end of the wait.
func (t *attempt) sync(ctx context.Context) (err, end error) {
	a, rt := t.a, t.a.rt
	tried := make(chan error, 1) // with a buffer, because the writer must not block if ctx ends first
	rt.enter()
	if rt.writer.noticeLossLocked() {
		tried <- ErrStoreLost
	} else {
		a.rec.syncs = append(a.rec.syncs, tried)
		a.rec.saveLocked(rt, nil)
	}
	rt.leave()
	select {
	case err = <-tried:
	case <-ctx.Done():
	}
	rt.enter()
	t.syncedLocked()
	rt.leave()
	end = ended(ctx)
	if err != nil {
		err = fmt.Errorf("%s: attempt %d: heartbeat details are recorded in memory but not saved yet: %w", a, t.number, err)
	}
	return err, end
}

// syncedLocked ends a wait for the Store, which has increased t.storeWaits. Runtime.mu is held.
func (t *attempt) syncedLocked() {
	a := t.a
	a.mu.Lock()
	if t.storeWaits--; t.storeWaits == 0 && !t.over.Load() {
		t.beatBy = max(t.beatBy, a.rt.now.deadline(a.opts.HeartbeatTimeout))
	}
	a.mu.Unlock()
	// While there was no heartbeat deadline, the alarm may have moved to a later one. It
	// must never ring later than a deadline: see alarmAtLocked.
	a.setAlarmLocked(a.alarmAtLocked())
}

// recorded holds an activity's newest heartbeat details. Guarded by activity.mu.
type recorded struct {
	data   []byte // the encoded values, one after the other as appendValue writes them; nil if there are none
	shared bool   // whether data is referenced elsewhere, so that it must not be overwritten
	isInt  bool   // whether the details are the single int n, which is not encoded in data yet
	n      int
	count  uint64 // number of times that details were recorded
}

// setInt records a single int, which encode encodes when it is needed.
func (r *recorded) setInt(n int) {
	r.n, r.isInt = n, true
	r.count++
}

// set records e. It reuses the memory of the previous details unless that is shared.
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

// encode returns the encoded details. They are valid only until activity.mu is unlocked.
func (r *recorded) encode() []byte {
	if r.isInt {
		var digits [24]byte
		r.set(encoded{data: strconv.AppendInt(digits[:0], int64(r.n), 10)})
	}
	return r.data
}

// share returns the encoded details. The caller may keep them, but must not change them.
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

// encoded is the result of encoding the arguments of a heartbeat. data is one value in the
// Codec's form or, if several is true, values as appendValue writes them. It is nil if
// there is no value.
type encoded struct {
	data    []byte
	several bool
}

// encode encodes the arguments of a heartbeat. Its error is NonRetryable, because every
// retry would meet it again.
func (t *attempt) encode(details []any) (encoded, error) {
	e, err := t.a.rt.encode(details)
	if err != nil {
		t.logCodecPanic(err)
		err = NonRetryable(fmt.Errorf("%s: attempt %d: heartbeat details not recorded, the previous ones are kept: %w", t.a, t.number, err))
	}
	return e, err
}

// logCodecPanic logs err if it comes from a panic of the Codec.
func (t *attempt) logCodecPanic(err error) {
	if p := (*PanicError)(nil); errors.As(err, &p) {
		t.a.rt.log(slog.LevelError, "activity: a Codec panicked", t.a, t.number, slog.Any("error", err), slog.String("stack", string(p.Stack)))
	}
}

// encode encodes details with Config.Codec, and checks their size. It runs user code, so no
// lock may be held.
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
			e.data = []byte{} // a Codec may encode a value as nil, which is not the same as no value
		}
	}
	return e, nil
}

// appendValue appends a value to details. Details are a sequence of values: for each, its
// length in bytes as a uvarint, and then that many bytes in the Codec's form.
func appendValue(details, value []byte) []byte {
	details = binary.AppendUvarint(details, uint64(len(value)))
	return append(details, value...)
}

// cutValue splits details into the first value and the rest.
func cutValue(details []byte) (value, rest []byte, err error) {
	n, size := binary.Uvarint(details)
	if size <= 0 || n > uint64(len(details)-size) {
		return nil, nil, errors.New("the recorded details are damaged")
	}
	end := size + int(n)
	return details[size:end:end], details[end:], nil
}

// decodeDetails decodes the first values of details into the given pointers. It reports
// false if there are no details. If c is nil, it uses the default Codec. All its errors
// wrap ErrCannotResume.
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
