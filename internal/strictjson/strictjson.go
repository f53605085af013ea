// Package strictjson is encoding/json that gives back what it took, or refuses. It is
// the default Codec of package activity, whose Codec type says what is refused and what
// may change.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// oneWay are types whose JSON cannot be decoded, although they have UnmarshalJSON.
var oneWay = map[reflect.Type]bool{}

// OneWay has Marshal refuse these types. It is for init functions.
func OneWay(types ...reflect.Type) {
	for _, t := range types {
		oneWay[t] = true
	}
}

// Marshal encodes v, or says what of it would not come back.
func Marshal(v any) ([]byte, error) {
	if v == nil {
		return json.Marshal(nil)
	}
	value := reflect.ValueOf(v)
	p := planOf(value.Type())
	if p.byAddress { // decoding will use the methods that a value finds by its address
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

// Unmarshal decodes data into v. It refuses fields that v lacks or has in another case, an
// array of another length, a null as the whole of a value that cannot be nil, and anything
// after the value.
func Unmarshal(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after the JSON value")
	}
	t := reflect.TypeOf(v).Elem()
	if in := reflect.ValueOf(v).Elem(); in.Kind() == reflect.Interface && in.Elem().Kind() == reflect.Pointer {
		t = in.Elem().Type() // it was there before, and is decoded into
	}
	if s := shapeOf(t); s != nil {
		r := reader{data: data}
		if l := r.compare(s); l != nil {
			return l.errorFor(t)
		}
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
