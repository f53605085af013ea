package strictjson

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// encoding/json loses some data without an error. So before encoding, Marshal checks each
// type once, and then each value as far as its type does not decide.
//
// If no value of a type can come back, the type is refused even inside an empty slice or map.
// So the first heartbeat fails, and not only the one with the first row. Types behind nil
// pointers and interfaces are not checked.

// A plan is the result of checking a type. The plan of a recursive type points to itself.
type plan struct {
	err  *loss // reason why every value of the type is refused, or nil
	look look  // check of each value; nil if none is needed
	done bool  // whether err and look are final

	// These are set only for the type of a value that Marshal got, or of one in an interface.
	byAddress bool // whether encoding/json uses other methods for an addressable value
	deep      bool // whether the JSON can be nested without a limit
	ownJSON   bool // whether some parts make their own JSON
}

// A look checks a value of one type. It returns the reason why the value is refused, or nil.
// hops is the number of values around it.
type look func(v reflect.Value, hops int) *loss

// maxHops ends the check of a value that contains itself. It exceeds maxNesting, because
// pointers and interfaces are hops as well.
const maxHops = 50_000

// maxNesting is the number of nested objects and arrays that encoding/json decodes. It
// encodes even deeper values.
const maxNesting = 10_000

func (p *plan) check(v reflect.Value, hops int) *loss {
	switch {
	case p.err != nil:
		return p.err
	case p.look == nil:
		return nil
	case hops > maxHops:
		return losing("is nested too deep, or contains itself")
	}
	return p.look(v, hops+1)
}

// simple reports whether values of the type need no check.
func (p *plan) simple() bool { return p.done && p.err == nil && p.look == nil }

// A loss is the reason why a value is refused. It is immutable, because plans share it.
type loss struct {
	path string // path from the value that Marshal got, such as ".Rows[].Name"
	why  error  // end of a sentence that begins with "field progress.Rows[].Name"
}

func losing(format string, args ...any) *loss { return &loss{why: fmt.Errorf(format, args...)} }

// maxPath is the maximum length of a path in bytes. The path of a value that contains itself
// would be endless.
const maxPath = 1000

// in returns the loss with step in front of its path. It returns nil if l is nil.
func (l *loss) in(step string) *loss {
	if l == nil {
		return nil
	}
	path := step + l.path
	if len(path) > maxPath {
		path = path[:maxPath-3] + "..."
	}
	return &loss{path, l.why}
}

// errorFor returns the error for a value of type t that Marshal got.
func (l *loss) errorFor(t reflect.Type) error {
	for t.Kind() == reflect.Pointer && t.Name() == "" { // a named pointer type may point to itself
		t = t.Elem()
	}
	path := strings.TrimPrefix(t.Name()+l.path, ".")
	switch {
	case l.path == "":
		return fmt.Errorf("the value %w", l.why)
	case strings.Contains(l.path, "."):
		return fmt.Errorf("field %s %w", path, l.why)
	}
	return fmt.Errorf("element %s %w", path, l.why)
}

var plans sync.Map // reflect.Type to *plan

func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	b := planner{plans: map[reflect.Type]*plan{}, embedded: map[reflect.Type]*plan{}}
	p := b.plan(t)
	p.byAddress, p.deep, p.ownJSON = byAddress(t), b.deep || b.ownJSON, b.ownJSON
	first, _ := plans.LoadOrStore(t, p)
	return first.(*plan)
}

// A planner makes the plan of one type and of the types in it.
type planner struct {
	plans    map[reflect.Type]*plan
	embedded map[reflect.Type]*plan // plans of structs whose fields are encoded as those of another struct
	deep     bool                   // value for plan.deep
	ownJSON  bool                   // value for plan.ownJSON
}

func (b *planner) plan(t reflect.Type) *plan {
	return b.make(b.plans, t, b.inspect)
}

func (b *planner) make(plans map[reflect.Type]*plan, t reflect.Type, inspect func(reflect.Type) (*loss, look)) *plan {
	p := plans[t]
	if p == nil {
		p = &plan{}
		plans[t] = p // before the elements are inspected, because they may have the same type
		p.err, p.look = inspect(t)
		p.done = true
	} else if !p.done {
		b.deep = true
	}
	return p
}

func (b *planner) inspect(t reflect.Type) (*loss, look) {
	if oneWay[t] {
		return losing("has the type %s, whose JSON is for people and cannot be decoded: record the fields that you need", t), nil
	}
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		b.ownJSON = true
		return nil, lookAtRaw
	case reflect.TypeFor[json.Number]():
		b.ownJSON = true
		return nil, lookAtNumber
	case reflect.TypeFor[time.Time]():
		return nil, lookAtTime
	}
	switch t.Kind() {
	case reflect.Interface:
		b.deep = true
		return nil, lookInside(t)
	case reflect.Pointer:
		return nil, b.lookBehind(t)
	}

	encode, decode := methods(t)
	if err := checkMethods(t, encode, decode); err != nil {
		return err, nil
	}
	if encode != "" && promoted(t, encode) {
		i := onlyField(t)
		part, step := b.plan(t.Field(i).Type), "."+t.Field(i).Name
		switch {
		case part.err != nil:
			return part.err.in(step), nil
		case encode == "MarshalJSON":
			return nil, func(v reflect.Value, hops int) *loss { return part.check(embeddedIn(v, i), hops).in(step) }
		}
	}
	switch encode {
	case "MarshalJSON":
		b.ownJSON = true
		return nil, nil
	case "MarshalText":
		return nil, lookAtText
	}

	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return losing("has the type %s, which cannot be encoded", t), nil
	case reflect.Float32, reflect.Float64:
		return nil, lookAtFloat
	case reflect.String:
		return nil, lookAtString
	case reflect.Slice:
		if isBytes(t) {
			return nil, nil
		}
		return b.elements(t)
	case reflect.Array:
		if t.Len() == 0 {
			return nil, nil
		}
		return b.elements(t)
	case reflect.Map:
		return b.entries(t)
	case reflect.Struct:
		return b.structure(t)
	}
	return nil, nil
}

// embeddedIn returns the ith field of a struct, so that Interface may be called on it. reflect
// forbids that for a field whose name is unexported, such as that of an embedded alias.
func embeddedIn(v reflect.Value, i int) reflect.Value {
	if v.Type().Field(i).IsExported() {
		return v.Field(i)
	}
	if !v.CanAddr() {
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		v = c
	}
	f := v.Field(i)
	return reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem()
}

// isBytes reports whether a slice type is encoded in base64, as in encoding/json.
func isBytes(t reflect.Type) bool {
	p := reflect.PointerTo(t.Elem())
	return t.Elem().Kind() == reflect.Uint8 && !p.Implements(jsonMarshaler) && !p.Implements(textMarshaler)
}

func (b *planner) lookBehind(t reflect.Type) look {
	elem := t.Elem()
	p := b.plan(elem)
	encode, decode := "", ""
	if t.Name() != "" && elem.Kind() != reflect.Pointer && elem.Kind() != reflect.Interface {
		encode, decode = methods(elem)
	}
	switch {
	case encode != "" || decode != "":
		// Behind a named pointer type, encoding uses the methods of *T, but decoding does not.
		err := losing("has the type %s: encoding/json does not decode with the methods of the %s behind a pointer type with a name", t, elem)
		p = &plan{err: err, done: true}
	case p.simple():
		return nil
	}
	return func(v reflect.Value, hops int) *loss {
		if v.IsNil() {
			return nil
		}
		return p.check(v.Elem(), hops)
	}
}

// lookInside returns the check of an interface's value. A value in an any comes back with the
// types that encoding/json decodes into an any, but no part of it may be missing.
func lookInside(t reflect.Type) look {
	return func(v reflect.Value, hops int) *loss {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
		if t.NumMethod() > 0 {
			return losing("has the interface type %s and holds a %s, which cannot be decoded: use a concrete type", t, v.Type())
		}
		p := planOf(v.Type())
		if p.byAddress {
			return losing("holds a %s, some of whose methods for encoding encoding/json does not find there: use a pointer to it", v.Type())
		}
		if err := p.check(v, hops); err != nil || !p.ownJSON {
			return err
		}
		// Its JSON may have a number that no float64 can hold.
		if data, err := json.Marshal(v.Interface()); err == nil { // otherwise, Marshal fails later
			if err := json.Unmarshal(data, new(any)); err != nil {
				return losing("holds a %s that cannot be decoded: %w", v.Type(), err)
			}
		}
		return nil
	}
}

func (b *planner) elements(t reflect.Type) (*loss, look) {
	elem := b.plan(t.Elem())
	if elem.err != nil {
		return elem.err.in("[]"), nil
	}
	if elem.simple() {
		return nil, nil
	}
	return nil, func(v reflect.Value, hops int) *loss {
		for i := range v.Len() {
			if err := elem.check(v.Index(i), hops); err != nil {
				return err.in("[]")
			}
		}
		return nil
	}
}

func (b *planner) entries(t reflect.Type) (*loss, look) {
	elem := b.plan(t.Elem())
	keyErr, key := inspectKey(t.Key())
	switch {
	case keyErr != nil:
		return keyErr, nil
	case elem.err != nil:
		return elem.err.in("[]"), nil
	case byAddress(t.Elem()):
		return losing("has the type %s, some of whose methods for encoding encoding/json does not find in a map: use pointers", t.Elem()).in("[]"), nil
	case key == nil && elem.simple():
		return nil, nil
	}
	return nil, func(v reflect.Value, hops int) *loss {
		var texts map[string]bool
		for entry := v.MapRange(); entry.Next(); {
			if key != nil {
				text, err := key(entry.Key())
				if err != nil {
					return err
				}
				if t.Key().Kind() != reflect.String {
					if texts[text] {
						return losing("has two keys that are both encoded as %q", text)
					}
					if texts == nil {
						texts = map[string]bool{}
					}
					texts[text] = true
				}
			}
			if err := elem.check(entry.Value(), hops); err != nil {
				return err.in("[]")
			}
		}
		return nil
	}
}

// inspectKey returns the reason why every key of type t is refused, or a function that checks
// a key and returns its text. If no key needs a check, it returns nil and nil.
func inspectKey(t reflect.Type) (*loss, func(reflect.Value) (string, *loss)) {
	encodes, decodes := t.Implements(textMarshaler), reflect.PointerTo(t).Implements(textUnmarshaler)
	switch t.Kind() {
	case reflect.String:
		encodes = false // encoding/json does not call MarshalText for string keys
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if !encodes && !decodes {
			return nil, nil
		}
		fallthrough
	default:
		if !encodes || !decodes {
			return losing("has keys of type %s, which cannot be decoded", t), nil
		}
		if promoted(t, "MarshalText") || promoted(t, "UnmarshalText") {
			if err := checkMethods(t, "MarshalText", "UnmarshalText"); err != nil {
				return losing("has keys that are refused: such a key %w", err.why), nil
			}
		}
	}
	text := func(k reflect.Value) (string, error) {
		if !encodes {
			return k.String(), nil
		}
		text, err := k.Interface().(encoding.TextMarshaler).MarshalText()
		return string(text), err
	}
	return nil, func(k reflect.Value) (string, *loss) {
		if t == reflect.TypeFor[time.Time]() {
			if err := lookAtTime(k, 0); err != nil {
				return "", losing("has a key that %w", err.why)
			}
		}
		given, err := text(k)
		if err != nil {
			return "", losing("has a key of type %s that cannot be encoded: %w", t, err)
		}
		if !utf8.ValidString(given) {
			return "", losing("has a key that is not valid UTF-8 (%q) and would be changed", given)
		}
		if !decodes {
			return given, nil
		}
		// Whether such a key comes back must be tried: decoding prefers UnmarshalJSON to the
		// inverse of MarshalText, and encoding ignores MarshalText of string keys.
		back := reflect.New(t)
		if u, ok := back.Interface().(json.Unmarshaler); ok {
			quoted, _ := json.Marshal(given)
			err = u.UnmarshalJSON(quoted)
		} else {
			err = back.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(given))
		}
		again := ""
		if err == nil {
			again, err = text(back.Elem())
		}
		if err != nil {
			return "", losing("has a key of type %s, encoded as %q, that cannot be decoded: %w", t, given, err)
		}
		if again != given {
			return "", losing("has a key of type %s, encoded as %q, that would come back as %q", t, given, again)
		}
		return given, nil
	}
}

func lookAtString(v reflect.Value, _ int) *loss {
	if s := v.String(); !utf8.ValidString(s) {
		return losing("is a string that is not valid UTF-8 (%.60q) and would be changed: use []byte", s)
	}
	return nil
}

func lookAtFloat(v reflect.Value, _ int) *loss {
	if f := v.Float(); math.IsNaN(f) || math.IsInf(f, 0) {
		return losing("is %s, which JSON does not have", strconv.FormatFloat(f, 'g', -1, 64))
	}
	return nil
}

func lookAtNumber(v reflect.Value, _ int) *loss {
	if v.Len() == 0 {
		return losing("is an empty json.Number and would come back as 0: tag it `json:\",omitempty\"`")
	}
	isDigit := func(c byte) bool { return '0' <= c && c <= '9' }
	n := v.String()
	if first, last := n[0], n[len(n)-1]; first != '-' && !isDigit(first) || !isDigit(last) || !json.Valid([]byte(n)) {
		return losing("is a json.Number that is not a number (%.60q)", n)
	}
	return nil
}

func lookAtRaw(v reflect.Value, _ int) *loss {
	switch raw := v.Bytes(); {
	case raw == nil:
		return losing("is a nil json.RawMessage and would come back as null: tag it `json:\",omitempty\"`")
	case !utf8.Valid(raw) || !json.Valid(raw):
		return losing("is a json.RawMessage that is not valid JSON in UTF-8")
	}
	return nil
}

// lookAtTime refuses times that RFC 3339 cannot express. If the zone's offset has seconds,
// encoding/json would silently write a wrong time. In the other cases, its error would not
// name the field.
func lookAtTime(v reflect.Value, _ int) *loss {
	var t time.Time
	if v.CanAddr() {
		t = *v.Addr().Interface().(*time.Time) // does not allocate
	} else {
		t = v.Interface().(time.Time)
	}
	if y := t.Year(); y < 0 || y > 9999 {
		return losing("is a time in the year %d, which RFC 3339 does not have", y)
	}
	zone, offset := t.Zone()
	if offset <= -24*60*60 || offset >= 24*60*60 {
		return losing("is a time in a zone (%s) whose offset is a day or more, which RFC 3339 does not have: use its UTC", zone)
	}
	if offset%60 != 0 {
		return losing("is a time in a zone (%s) whose offset has seconds, which RFC 3339 does not have: use its UTC", zone)
	}
	return nil
}

func lookAtText(v reflect.Value, _ int) *loss {
	if v.CanAddr() {
		v = v.Addr()
	}
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	if err != nil {
		return losing("has the type %s and cannot be encoded: %w", v.Type(), err)
	}
	if !utf8.Valid(text) {
		return losing("has the type %s, whose MarshalText gives what is not valid UTF-8 (%.60q) and would be changed", v.Type(), text)
	}
	return nil
}
