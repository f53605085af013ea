package activity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// MarshalJSON returns a JSON object for people, logs and web pages. It has all fields under
// their Go names and in their order, except Codec.
//
// A time is in RFC 3339, or null if it is zero. A duration is a string such as "1m30s". An
// error is its text, or null if it is nil. Details are null if there are none, the value if
// there is one, and an array if there are several. A value that is not JSON, because
// another Codec encoded it, is a base64 string. Damaged details are one base64 string.
//
// The object does not keep the exact bytes of details. Therefore decoding it into a Status
// is an error.
func (s Status) MarshalJSON() ([]byte, error) { return marshalFields(s) }

// MarshalJSON returns the fields as [Status.MarshalJSON] does. The details of an
// EventHeartbeat come last, as Details.
func (e Event) MarshalJSON() ([]byte, error) {
	return marshalFields(struct {
		Event
		Details []byte
	}{e, e.details})
}

// MarshalJSON returns the fields as [Status.MarshalJSON] does. Input is a base64 string if
// it is not JSON.
//
// The object is for people and not for a Store. It does not keep the exact bytes of Input
// and Details. Therefore decoding it into a Checkpoint is an error. A Store that writes JSON
// needs a type of its own. For example, "type record activity.Checkpoint" has none of these
// methods. encoding/json then keeps everything except invalid UTF-8 in strings, which a
// Store must keep too.
func (c Checkpoint) MarshalJSON() ([]byte, error) { return marshalFields(c) }

// MarshalJSON returns the fields as [Status.MarshalJSON] does.
func (s Stats) MarshalJSON() ([]byte, error) { return marshalFields(s) }

// UnmarshalJSON returns an error: see [Status.MarshalJSON].
func (*Status) UnmarshalJSON([]byte) error { return refuseJSON("Status") }

// UnmarshalJSON returns an error: see [Status.MarshalJSON].
func (*Event) UnmarshalJSON([]byte) error { return refuseJSON("Event") }

// UnmarshalJSON returns an error: see [Checkpoint.MarshalJSON].
func (*Checkpoint) UnmarshalJSON([]byte) error { return refuseJSON("Checkpoint") }

// refuseJSON returns the error of the UnmarshalJSON methods. Without them encoding/json
// would decode readable details that happen to be a base64 string, or an array of small
// numbers, as the bytes of Details.
func refuseJSON(name string) error {
	return fmt.Errorf("activity: cannot decode JSON into %s, because its JSON form does not preserve every byte", name)
}

// marshalFields returns the exported fields of a struct as a JSON object.
func marshalFields(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // the encoder that has called MarshalJSON decides whether to escape
	value, separator := reflect.ValueOf(v), byte('{')
	for _, f := range reflect.VisibleFields(value.Type()) {
		if f.Anonymous || !f.IsExported() || f.Type == reflect.TypeFor[Codec]() {
			continue
		}
		b.WriteByte(separator)
		b.WriteString(strconv.Quote(f.Name) + ":")
		separator = ','
		if err := enc.Encode(readable(f.Name, value.FieldByIndex(f.Index).Interface())); err != nil {
			return nil, fmt.Errorf("activity: cannot encode %s: %w", f.Name, err)
		}
		b.Truncate(b.Len() - 1) // Encode's newline
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// readable returns the value to be encoded for the field with that name, whose value is v.
func readable(name string, v any) any {
	switch v := v.(type) {
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return v.Format(time.RFC3339Nano) // Time.MarshalJSON fails after the year 9999
	case time.Duration:
		return v.String()
	case error:
		return errorText(v)
	case []byte:
		if name == "Details" {
			return readableDetails(v)
		}
		return readableValue(v)
	}
	return v
}

// readableDetails returns the value to be encoded for heartbeat details.
func readableDetails(details []byte) any {
	var values []any
	for rest := details; len(rest) > 0; {
		value, after, err := cutValue(rest)
		if err != nil {
			return details
		}
		values, rest = append(values, readableValue(value)), after
	}
	switch len(values) {
	case 0:
		return nil
	case 1:
		return values[0]
	}
	return values
}

// readableValue returns value as JSON if it is valid JSON. Otherwise it returns the bytes,
// which are encoded as base64.
func readableValue(value []byte) any {
	if !utf8.Valid(value) || !json.Valid(value) {
		return value
	}
	return json.RawMessage(value)
}
