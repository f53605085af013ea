package strictjson

import (
	"encoding/json"
	"iter"
	"reflect"
	"strings"
)

// Some errors show only in the result of encoding/json, which does not name the place. Then
// Marshal searches for it.

// failing returns the path to the innermost part of v that cannot be encoded.
func failing(v reflect.Value) string {
	return find(v, func(part reflect.Value, _ int) bool {
		_, err := encodePart(part)
		return err != nil
	})
}

// tooDeep returns the path to the innermost part of v that is nested too deep. The path ends
// where a type contains itself.
func tooDeep(v reflect.Value) string {
	return find(v, func(part reflect.Value, depth int) bool {
		data, err := encodePart(part)
		around := strings.Repeat("[", depth) + string(data) + strings.Repeat("]", depth)
		return err == nil && !json.Valid([]byte(around))
	})
}

// find returns the path to the innermost part for which bad returns true. depth is the number
// of objects and arrays that contain the part. find skips a part whose type is also that of a
// part around it.
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
	if v.CanAddr() { // so that methods with pointer receivers are found
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

// fieldParts yields the fields of an object. It returns false if yield returned false.
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
