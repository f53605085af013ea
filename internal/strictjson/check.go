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

// encoding/json alone loses data without an error. So before it encodes, Marshal checks
// the type once, and then each value for what the type does not tell.
//
// A type none of whose values comes back is refused even while a slice or map of it is
// empty, so that the first heartbeat fails and not the one with the first row. Only
// pointers and interfaces are not looked at until they are not nil.

// A plan is what Marshal must know of a type. Plans of recursive types point to
// themselves.
type plan struct {
	err  *loss // why no value of the type is taken, or nil
	look look  // what the type does not tell of a value; nil if nothing
	done bool  // err and look are final

	// Of a type that Marshal is called with:
	byAddress bool // encoding/json uses other methods for a value with an address
	deep      bool // its JSON can be nested without limit
	ownJSON   bool // it has parts that bring JSON of their own
}

// A look looks at a value of one type and says why it is refused. hops is how many
// values contain it.
type look func(v reflect.Value, hops int) *loss

// maxHops ends the check of a value that contains itself. encoding/json decodes at most
// maxNesting objects and arrays inside each other, and it takes some pointers and
// interfaces between them.
const maxHops = 50_000

// maxNesting is how deep encoding/json decodes. It encodes deeper values.
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

// simple reports whether nothing must be looked at in values of the type.
func (p *plan) simple() bool { return p.done && p.err == nil && p.look == nil }

// A loss says what of a value would not come back, and why. It is immutable, since plans
// keep it.
type loss struct {
	path string // from the value that Marshal got: ".Rows[].Name"
	why  error  // what follows "field progress.Rows[].Name"
}

func losing(format string, args ...any) *loss { return &loss{why: fmt.Errorf(format, args...)} }

// maxPath is how many bytes a path has at most. The path of a value that contains itself
// is endless.
const maxPath = 1000

// in returns the loss as its container sees it, which reaches the place by step.
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
	for t.Kind() == reflect.Pointer && t.Name() == "" { // one with a name may point to itself
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

// A planner makes the plan of one type, and of those in it.
type planner struct {
	plans    map[reflect.Type]*plan
	embedded map[reflect.Type]*plan // of structs whose fields are encoded among those of another
	deep     bool                   // as in plan
	ownJSON  bool                   // as in plan
}

func (b *planner) plan(t reflect.Type) *plan {
	return b.make(b.plans, t, b.inspect)
}

func (b *planner) make(plans map[reflect.Type]*plan, t reflect.Type, inspect func(reflect.Type) (*loss, look)) *plan {
	p := plans[t]
	if p == nil {
		p = &plan{}
		plans[t] = p // before its elements are inspected, which may be of the same type
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

// embeddedIn returns the ith field of a struct, which is embedded. Looks may call Interface
// on it, although reflect does not allow that if its name is unexported, as that of an alias
// may be.
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
		// Encoding finds the methods of *T behind a pointer type with a name, and decoding does not.
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

// lookInside looks into an interface. What is in an any comes back as encoding/json
// decodes an any, but whole.
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
		// It may have a number that no float64 can hold.
		if data, err := json.Marshal(v.Interface()); err == nil { // if not, Marshal fails as well
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

// inspectKey returns why no key of type t is taken, or a function that returns the text
// of a key, or why that one is refused. It returns nil and nil if all keys are taken.
func inspectKey(t reflect.Type) (*loss, func(reflect.Value) (string, *loss)) {
	encodes, decodes := t.Implements(textMarshaler), reflect.PointerTo(t).Implements(textUnmarshaler)
	switch t.Kind() {
	case reflect.String:
		encodes = false // encoding/json does not call it
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
		// Decoding prefers UnmarshalJSON to the inverse of MarshalText, and for a
		// string kind encoding does not ask MarshalText. So try.
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

// lookAtTime refuses what RFC 3339 does not have. Of a zone whose offset has seconds,
// encoding/json would write a time that is off by these. The others give it an error.
func lookAtTime(v reflect.Value, _ int) *loss {
	var t time.Time
	if v.CanAddr() {
		t = *v.Addr().Interface().(*time.Time) // allocates nothing
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
