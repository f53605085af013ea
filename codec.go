package activity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

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

func (jsonCodec) Marshal(v any) ([]byte, error) {
	if v == nil {
		return json.Marshal(nil)
	}
	value := reflect.ValueOf(v)
	p := planOf(value.Type())
	if p.byAddress {
		pointer := reflect.New(value.Type())
		pointer.Elem().Set(value)
		v, value = pointer.Interface(), pointer.Elem()
	}
	if l := p.check(value, 0); l != nil {
		return nil, l.errorFor(value.Type())
	}
	data, err := json.Marshal(v)
	if err == nil && p.deep && len(data) > 2*maxNesting && !json.Valid(data) {
		return nil, fmt.Errorf("the value is nested deeper than %d, which encoding/json cannot decode", maxNesting)
	}
	return data, err
}

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
