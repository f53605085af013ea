// Package strictjson encodes and decodes JSON without silent loss: it refuses a value that
// encoding/json would not give back as it was. It is the default Codec of package activity.
// The doc of activity.Codec lists what is refused and what may change.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// oneWay has the types whose JSON cannot be decoded, although they have UnmarshalJSON.
var oneWay = map[reflect.Type]bool{}

// OneWay makes Marshal refuse these types. Only init functions may call it.
func OneWay(types ...reflect.Type) {
	for _, t := range types {
		oneWay[t] = true
	}
}

// Marshal encodes v. If a part of v would not be decoded as it was, Marshal returns an error
// that names the type or the field.
func Marshal(v any) ([]byte, error) {
	if v == nil {
		return json.Marshal(nil)
	}
	value := reflect.ValueOf(v)
	p := planOf(value.Type())
	if p.byAddress { // decoding will use methods with pointer receivers, so encoding must as well
		pointer := reflect.New(value.Type())
		pointer.Elem().Set(value)
		v, value = pointer.Interface(), pointer.Elem()
	}
	if l := p.check(value, 0); l != nil {
		return nil, l.errorFor(value.Type())
	}
	data, err := json.Marshal(v)
	var l *loss
	switch {
	case err != nil:
		l = losing("cannot be encoded: %w", err).in(failing(value))
	case p.deep && len(data) > 2*maxNesting && !json.Valid(data):
		l = losing("is nested deeper than %d, which encoding/json cannot decode", maxNesting).in(tooDeep(value))
	default:
		return data, nil
	}
	return nil, l.errorFor(value.Type())
}

// Unmarshal decodes data into v, which must be a non-nil pointer. It refuses fields that v
// lacks or spells in another case, arrays of another length, and data after the JSON value. If
// v's value cannot be nil, Unmarshal refuses data that is just null.
func Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more data after the JSON value")
	}
	t := reflect.TypeOf(v).Elem()
	if in := reflect.ValueOf(v).Elem(); in.Kind() == reflect.Interface && in.Elem().Kind() == reflect.Pointer {
		t = in.Elem().Type() // encoding/json decodes into the value that v already points to
	}
	if s := shapeOf(t); s != nil {
		r := reader{data: data}
		if l := r.compare(s); l != nil {
			return l.errorFor(t)
		}
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		if back, err := json.Marshal(v); err == nil && string(back) == "null" {
			return nil // the type encodes one of its values as null
		}
		switch k := reflect.TypeOf(v).Elem().Kind(); k {
		case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Interface:
		default:
			return fmt.Errorf("a null is no %s", k)
		}
	}
	return nil
}
