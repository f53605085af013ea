package activity

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strconv"
)

// Heartbeat implements [Context].
func (t *attempt) Heartbeat(details ...any) error {
	a := t.a
	var e encoded
	var failed error
	n, isInt := 0, false
	if len(details) > 1 || len(details) == 1 && details[0] != nil {
		// What most loops report is encoded when it is asked for, if at all.
		if n, isInt = details[0].(int); !isInt || len(details) > 1 || !a.rt.plainInts {
			e, failed = t.encode(details)
			isInt = false
		}
	}

	now := a.rt.now()
	a.mu.Lock()
	if t.due(now) {
		a.mu.Unlock()
		a.rt.catchUp()
		a.mu.Lock()
	}
	ended := t.ended()
	if t.over.Load() {
		a.mu.Unlock()
		return ended
	}
	t.beat(now)
	unsaved, sync := false, false
	if isInt || e.data != nil {
		if isInt {
			a.intDetails, a.isInt = n, true
		} else {
			a.setDetails(e)
		}
		if r, ok := details[0].(RangeProgress); ok && a.loop != nil {
			a.loop.next = r.Next
		}
		if !t.progressed {
			t.progressed = !bytes.Equal(a.encodedDetails(), t.resume())
		}
		if a.rec != nil {
			unsaved, a.rec.fresh = !a.rec.fresh, true
			if sync = a.opts.SyncHeartbeats && ended == nil; sync {
				t.syncing++
			}
		}
	}
	if a.rt.cfg.Observer != nil {
		ev := Event{Kind: EventHeartbeat, Time: a.rt.wall(now), Attempt: t.number}
		if isInt || e.data != nil {
			ev.details, ev.codec = a.latestDetails(), a.rt.cfg.Codec
		}
		a.post(letter{event: ev})
	}
	a.mu.Unlock()
	switch {
	case sync:
		failed, ended = t.sync()
	case unsaved:
		a.rt.lock()
		a.rec.saveBy(a.rt, now)
		a.rt.unlock()
	}
	if ended != nil {
		if failed != nil {
			a.rt.log(slog.LevelError, "activity: a canceled attempt's heartbeat details are not recorded", a, t.number, slog.Any("error", failed))
		}
		return ended
	}
	return failed
}

// beat notes a heartbeat. Activity.mu is held.
func (t *attempt) beat(now instant) {
	a := t.a
	a.beats++
	a.lastBeat = max(a.lastBeat, now)
	t.granted = 0
	if a.opts.HeartbeatTimeout > 0 {
		t.beatBy = max(t.beatBy, now.add(a.opts.HeartbeatTimeout))
	}
}

// setDetails makes e the newest details. Activity.mu is held.
func (a *activity) setDetails(e encoded) {
	a.isInt = false
	if e.several {
		a.details = append(a.details[:0], e.data...)
	} else {
		a.details = appendValue(a.details[:0], e.data)
	}
}

// encodedDetails are the newest details; nil if there are none. The buffer is
// used again, so nobody may keep it. Activity.mu is held.
func (a *activity) encodedDetails() []byte {
	if a.isInt {
		var digits [24]byte
		a.setDetails(encoded{data: strconv.AppendInt(digits[:0], int64(a.intDetails), 10)})
	}
	return a.details
}

// latestDetails is a copy of the newest details. Activity.mu is held.
func (a *activity) latestDetails() []byte {
	return bytes.Clone(a.encodedDetails())
}

// HeartbeatDetails implements [Context].
func (t *attempt) HeartbeatDetails(into ...any) (bool, error) {
	found, err := decodeDetails(t.a.rt.cfg.Codec, t.resume(), into)
	if err != nil {
		t.logCodecPanic(err)
		err = NonRetryable(fmt.Errorf("%s: attempt %d cannot resume: %w", t.a, t.number, err))
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
		err = NonRetryable(fmt.Errorf("%s: attempt %d: this heartbeat's details are not recorded, the earlier ones are kept: %w", t.a, t.number, err))
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
			return encoded{}, fmt.Errorf("cannot encode value %d of %d, a %T: %w", i+1, len(details), d, err)
		}
		if size += len(value); size > rt.cfg.MaxDetailsSize {
			return encoded{}, fmt.Errorf("%w: %d bytes encoded, and Config.MaxDetailsSize is %d", ErrDetailsTooLarge, size, rt.cfg.MaxDetailsSize)
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
		return nil, nil, errors.New("heartbeat details: what was recorded is damaged")
	}
	end := size + int(n)
	return details[size:end:end], details[end:], nil
}

// decodeDetails decodes the first recorded values into the pointers given. It
// reports false if nothing was recorded.
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
			return false, NonRetryable(err)
		}
		values, rest = append(values, value), after
	}
	if len(into) > len(values) {
		return false, NonRetryable(fmt.Errorf("heartbeat details: %d values asked for, only %d were recorded", len(into), len(values)))
	}
	for i, p := range into {
		if err := unmarshal(c, bytes.Clone(values[i]), p); err != nil {
			return false, NonRetryable(fmt.Errorf("heartbeat details: cannot decode value %d into %T: %w", i+1, p, err))
		}
	}
	return true, nil
}

// A Codec turns heartbeat details and inputs into bytes and back. It must be
// safe for concurrent use, and Marshal must not keep what it returns; Unmarshal
// may keep what it gets. The default is encoding/json, strict: see [Config].
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// jsonCodec is the default Codec. It refuses what encoding/json would pass over
// in silence, so that details that were recorded by another version of the
// program are an error and not a start from zero.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (jsonCodec) Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after the JSON value")
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		if back, err := json.Marshal(v); err == nil && string(back) == "null" {
			return nil // a type that has a null of its own
		}
		switch k := reflect.TypeOf(v).Elem().Kind(); k {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		default:
			return fmt.Errorf("a null is no %s", k)
		}
	}
	return nil
}

// marshal and unmarshal make a Codec's panic an error.

func marshal(c Codec, v any) (data []byte, err error) {
	defer panicToError("Codec.Marshal", &err)
	return c.Marshal(v)
}

func unmarshal(c Codec, data []byte, v any) (err error) {
	defer panicToError("Codec.Unmarshal", &err)
	return c.Unmarshal(data, v)
}

func panicToError(where string, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%s panicked: %w", where, newPanicError(v))
	}
}
