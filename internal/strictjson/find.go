package strictjson

import (
	"encoding/json"
	"iter"
	"reflect"
	"strings"
)

// Some errors are found only when encoding/json has encoded, or failed to, and do not say
// where they are. Then Marshal looks for the field.

// failing returns the path to the part of v that cannot be encoded.
func failing(v reflect.Value) string {
	return find(v, func(part reflect.Value, _ int) bool {
		_, err := encodePart(part)
		return err != nil
	})
}

// tooDeep returns the path to the part of v that is nested too deep. It ends where types
// repeat.
func tooDeep(v reflect.Value) string {
	return find(v, func(part reflect.Value, depth int) bool {
		data, err := encodePart(part)
		around := strings.Repeat("[", depth) + string(data) + strings.Repeat("]", depth)
		return err == nil && !json.Valid([]byte(around))
	})
}

// find returns the path to the innermost part that is bad. depth is how many objects and
// arrays the part is in. A part of a type that it is in itself is not looked at.
func find(v reflect.Value, bad func(part reflect.Value, depth int) bool) (path string) {
	within := map[reflect.Type]bool{}
	depth := 0
	for again := true; again; {
		again = false
		within[v.Type()] = true
		for step, part := range parts(v) {
			inside := depth
			if step != "" {
				inside++
			}
			if !within[part.Type()] && bad(part, inside) {
				v, depth, path, again = part, inside, path+step, true
				break
			}
		}
	}
	return path
}

func encodePart(v reflect.Value) ([]byte, error) {
	if v.CanAddr() { // with the methods that a value finds by its address
		v = v.Addr()
	}
	return json.Marshal(v.Interface())
}

// parts yields the parts of v that encoding/json encodes, with the step to each.
func parts(v reflect.Value) iter.Seq2[string, reflect.Value] {
	return func(yield func(string, reflect.Value) bool) {
		t := v.Type()
		switch t.Kind() {
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				yield("", v.Elem())
			}
			return
		}
		if encode, _ := methods(t); encode != "" {
			return
		}
		switch t.Kind() {
		case reflect.Struct:
			fieldParts(v, "", yield)
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				if !yield("[]", v.Index(i)) {
					return
				}
			}
		case reflect.Map:
			for entry := v.MapRange(); entry.Next(); {
				if !yield("[]", entry.Value()) {
					return
				}
			}
		}
	}
}

// fieldParts yields the fields of an object. It returns false if yield has.
func fieldParts(v reflect.Value, path string, yield func(string, reflect.Value) bool) bool {
	for i := range v.NumField() {
		f := fieldOf(v.Type(), i)
		step := path + "." + f.Name
		switch f.how {
		case fieldEncoded:
			if part := embeddedIn(v, i); !f.omits(part) && !yield(step, part) {
				return false
			}
		case fieldEmbedded:
			part := v.Field(i)
			if part.Kind() == reflect.Pointer {
				if part.IsNil() {
					continue
				}
				part = part.Elem()
			}
			if !fieldParts(part, step, yield) {
				return false
			}
		}
	}
	return true
}
