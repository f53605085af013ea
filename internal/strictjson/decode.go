package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"sync"
)

// encoding/json decodes more than it encodes: an array of any length into an array type,
// and a name into a field whose name differs in case. So after decoding, Unmarshal compares
// the JSON with the type.

// A shape describes the JSON of a type beyond what encoding/json checks. It is nil if there is
// nothing more to check. The shape of a recursive type points to itself.
type shape struct {
	t      reflect.Type
	fields map[string]*shape // shapes of a struct's fields, by JSON name
	elem   *shape            // shape of the elements, or of the value behind a pointer
}

var shapes sync.Map // reflect.Type to *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := shaper{}.shape(t)
	shapes.Store(t, s)
	return s
}

// A shaper makes the shape of one type and of the types in it.
type shaper map[reflect.Type]*shape

func (b shaper) shape(t reflect.Type) *shape {
	if s, ok := b[t]; ok {
		return s
	}
	if p := reflect.PointerTo(t); p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler) {
		return nil
	}
	s := &shape{t: t}
	b[t] = s // before the elements are visited, because they may have the same type
	needed := true
	switch t.Kind() {
	case reflect.Struct:
		s.fields = map[string]*shape{}
		for name, f := range decodedFields(t) {
			s.fields[name] = b.shape(f.Type)
		}
	case reflect.Array:
		s.elem = b.shape(t.Elem())
	case reflect.Slice, reflect.Map, reflect.Pointer:
		s.elem = b.shape(t.Elem())
		needed = s.elem != nil
	default:
		needed = false
	}
	if !needed {
		s = nil
		b[t] = nil
	}
	return s
}

// decodedFields returns the fields of a struct that encoding/json decodes. Among fields with
// the same name, it decodes the one that is embedded least deep and, of several such fields,
// the only one with a tag. If that leaves more than one, it decodes none.
func decodedFields(t reflect.Type) map[string]field {
	type candidate struct {
		field
		depth int
		more  bool
	}
	found := map[string]candidate{}
	var collect func(t reflect.Type, within []reflect.Type)
	collect = func(t reflect.Type, within []reflect.Type) {
		for _, outer := range within {
			if outer == t {
				return
			}
		}
		depth := len(within)
		within = append(within, t)
		for i := range t.NumField() {
			switch f := fieldOf(t, i); f.how {
			case fieldEncoded:
				other, ok := found[f.json]
				switch {
				case !ok || depth < other.depth || depth == other.depth && f.tagged && !other.tagged:
					found[f.json] = candidate{f, depth, false}
				case depth == other.depth && f.tagged == other.tagged:
					other.more = true
					found[f.json] = other
				}
			case fieldEmbedded:
				if elem := f.Type; elem.Kind() == reflect.Pointer {
					collect(elem.Elem(), within)
				} else {
					collect(elem, within)
				}
			}
		}
	}
	collect(t, nil)
	fields := map[string]field{}
	for name, c := range found {
		if !c.more {
			fields[name] = c.field
		}
	}
	return fields
}

// A reader reads JSON that encoding/json has decoded, so it need not check the syntax.
type reader struct {
	data []byte
	i    int
}

// compare reads the next value and returns how it differs from the shape, or nil.
func (r *reader) compare(s *shape) *loss {
	if c := r.next(); s == nil || c != '{' && c != '[' {
		r.skip()
		return nil
	}
	for s.t.Kind() == reflect.Pointer {
		s = s.elem
	}
	r.i++
	n := 0
	for ; ; n++ {
		c := r.next()
		if c == ',' {
			r.i++
			c = r.next()
		}
		if c == '}' || c == ']' {
			r.i++
			break
		}
		var name []byte
		if k := s.t.Kind(); k == reflect.Struct || k == reflect.Map {
			name = r.name()
		}
		if s.t.Kind() == reflect.Struct {
			f, ok := s.fields[string(name)]
			if !ok {
				return losing("has the type %s, which has no field with the exact JSON name %q", s.t, name)
			}
			if l := r.compare(f); l != nil {
				return l.in("." + string(name))
			}
		} else if l := r.compare(s.elem); l != nil {
			return l.in("[]")
		}
	}
	if s.t.Kind() == reflect.Array && n != s.t.Len() {
		return losing("has the type %s, and %d elements were recorded", s.t, n)
	}
	return nil
}

// next skips spaces and returns the next byte, without reading it.
func (r *reader) next() byte {
	for {
		switch c := r.data[r.i]; c {
		case ' ', '\t', '\r', '\n':
			r.i++
		default:
			return c
		}
	}
}

// name reads a name and its colon, and returns the name, which may share memory with data.
func (r *reader) name() []byte {
	r.next()
	start := r.i
	r.skipString()
	name := r.data[start+1 : r.i-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		var plain string
		_ = json.Unmarshal(r.data[start:r.i], &plain) // cannot fail, because the JSON is valid
		name = []byte(plain)
	}
	r.next()
	r.i++ // the colon
	return name
}

// skip reads the next value and ignores it.
func (r *reader) skip() {
	r.next()
	for depth := 0; r.i < len(r.data); {
		switch r.data[r.i] {
		case '"':
			r.skipString()
		case '{', '[':
			depth++
			r.i++
		case '}', ']':
			if depth == 0 {
				return // the end of the array or object around a number or literal
			}
			depth--
			r.i++
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return
			}
			r.i++
			continue
		default:
			r.i++
			continue
		}
		if depth == 0 {
			return
		}
	}
}

func (r *reader) skipString() {
	for r.i++; r.data[r.i] != '"'; r.i++ {
		if r.data[r.i] == '\\' {
			r.i++
		}
	}
	r.i++
}
