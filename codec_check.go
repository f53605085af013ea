package activity

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// The default Codec gives back what it took, or refuses. encoding/json alone loses data
// without an error, for example unexported fields, bytes that are not UTF-8, and all of
// a struct but the embedded type whose MarshalJSON it got. So before it encodes, Marshal
// checks the type once, and then each value for what the type cannot tell.
//
// By its type is refused what no value of it would survive, also while a slice or map of
// it is still empty, so that the first heartbeat fails and not the one with the first
// row. Only pointers and interfaces wait until they are not nil.

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

// maxHops is more than a value has that encoding/json can decode: see maxNesting. It
// ends the check of a value that contains itself.
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
	why  string // what follows "field progress.Rows[].Name"
}

func losing(format string, args ...any) *loss {
	return &loss{why: fmt.Sprintf(format, args...)}
}

// in returns the loss as the container has it that reaches r's place by step.
func (r *loss) in(step string) *loss {
	if r == nil {
		return nil
	}
	return &loss{step + r.path, r.why}
}

// errorFor returns the error for a value of type t that Marshal got.
func (r *loss) errorFor(t reflect.Type) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	path := strings.TrimPrefix(t.Name()+r.path, ".")
	switch {
	case r.path == "":
		return fmt.Errorf("the value %s", r.why)
	case strings.Contains(r.path, "."):
		return fmt.Errorf("field %s %s", path, r.why)
	}
	return fmt.Errorf("element %s %s", path, r.why)
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
	deep     bool
	ownJSON  bool
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

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func (b *planner) inspect(t reflect.Type) (*loss, look) {
	switch t {
	case reflect.TypeFor[Status](), reflect.TypeFor[Event](), reflect.TypeFor[Checkpoint]():
		return losing("has the type %s, whose JSON is for people and cannot be decoded: record the fields that you need", t), nil
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
		return b.through(t.Field(i).Type, "."+t.Field(i).Name, func(v reflect.Value) reflect.Value { return v.Field(i) })
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

// methods returns the methods with which encoding/json encodes and decodes a value of
// type t that has an address. They are empty if it goes by the kind.
func methods(t reflect.Type) (encode, decode string) {
	switch p := reflect.PointerTo(t); {
	case p.Implements(jsonMarshaler):
		encode = "MarshalJSON"
	case p.Implements(textMarshaler):
		encode = "MarshalText"
	}
	switch p := reflect.PointerTo(t); {
	case p.Implements(jsonUnmarshaler):
		decode = "UnmarshalJSON"
	case p.Implements(textUnmarshaler):
		decode = "UnmarshalText"
	}
	return encode, decode
}

// byAddress reports whether encoding/json encodes a value of type t differently when it
// has an address, because it has methods with pointer receivers somewhere. Decoding
// always has an address.
func byAddress(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false
	}
	for _, m := range []reflect.Type{jsonMarshaler, textMarshaler} {
		if reflect.PointerTo(t).Implements(m) {
			return !t.Implements(m)
		}
	}
	switch t.Kind() {
	case reflect.Array:
		return byAddress(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if f := fieldOf(t, i); f.how != fieldLost && f.how != fieldLeft && byAddress(f.Type) {
				return true
			}
		}
	}
	return false
}

// checkMethods refuses a type whose methods are not the inverse of each other, as far as
// can be known. What methods of its own do is the type's business.
func checkMethods(t reflect.Type, encode, decode string) *loss {
	inverse := map[string]string{"MarshalJSON": "UnmarshalJSON", "MarshalText": "UnmarshalText"}[encode]
	switch {
	case encode == "MarshalJSON" && decode != inverse,
		encode == "MarshalText" && !reflect.PointerTo(t).Implements(textUnmarshaler):
		return losing("has the type %s, which has %s but not %s", t, encode, inverse)
	case encode == "" && decode == "UnmarshalText" && t.Kind() != reflect.String:
		return losing("has the type %s, which has UnmarshalText but not MarshalText", t)
	case encode == "" && decode != "" && promoted(t, decode):
		return losing("has the type %s, which has %s of an embedded field but does not encode with %s",
			t, decode, strings.TrimPrefix(decode, "Un"))
	}
	for _, m := range []string{encode, decode} {
		if m == "" || !promoted(t, m) {
			continue
		}
		if i := onlyField(t); i < 0 || !hasMethod(t.Field(i).Type, m) {
			return losing("has the type %s, whose %s is that of an embedded field and leaves out the others: "+
				"give the embedded field a name, or the type methods of its own", t, m)
		} else if k := t.Field(i).Type.Kind(); k == reflect.Pointer || k == reflect.Interface {
			return losing("has the type %s, whose %s is that of the embedded %s, which is nil when it is decoded: "+
				"give the embedded field a name", t, m, t.Field(i).Type)
		}
	}
	return nil
}

// promoted reports whether the method comes from an embedded field. The compiler writes
// such a method itself. It also writes one of *T for one that is declared for T.
func promoted(t reflect.Type, name string) bool {
	if t.Kind() != reflect.Struct || t.Name() == "" {
		return t.Kind() == reflect.Struct
	}
	for _, receiver := range []reflect.Type{t, reflect.PointerTo(t)} {
		if m, ok := methodByName(receiver, name); ok {
			pc := m.Func.Pointer()
			if file, _ := runtime.FuncForPC(pc).FileLine(pc); file != "<autogenerated>" {
				return false
			}
		}
	}
	return true
}

func hasMethod(t reflect.Type, name string) bool {
	if t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface {
		t = reflect.PointerTo(t)
	}
	_, ok := methodByName(t, name)
	return ok
}

// methodByName has constant names only: with any other the linker would keep every
// exported method of the program.
func methodByName(t reflect.Type, name string) (reflect.Method, bool) {
	switch name {
	case "MarshalJSON":
		return t.MethodByName("MarshalJSON")
	case "MarshalText":
		return t.MethodByName("MarshalText")
	case "UnmarshalJSON":
		return t.MethodByName("UnmarshalJSON")
	}
	return t.MethodByName("UnmarshalText")
}

// onlyField returns the index of the one field that holds data, which must be embedded,
// or -1.
func onlyField(t reflect.Type) int {
	only := -1
	for i := range t.NumField() {
		sf := t.Field(i)
		switch {
		case sf.Name == "_" || isLock(sf.Type) || sf.Type.Size() == 0 || !sf.Anonymous && sf.Tag.Get("json") == "-":
		case only >= 0 || !sf.Anonymous:
			return -1
		default:
			only = i
		}
	}
	return only
}

// isBytes reports whether a slice type is encoded in base64, as in encoding/json.
func isBytes(t reflect.Type) bool {
	p := reflect.PointerTo(t.Elem())
	return t.Elem().Kind() == reflect.Uint8 && !p.Implements(jsonMarshaler) && !p.Implements(textMarshaler)
}

// through makes what there is to know of a type of what there is to know of a part of it.
func (b *planner) through(part reflect.Type, step string, get func(reflect.Value) reflect.Value) (*loss, look) {
	p := b.plan(part)
	if p.err != nil {
		return p.err.in(step), nil
	}
	if p.simple() {
		return nil, nil
	}
	return nil, func(v reflect.Value, hops int) *loss { return p.check(get(v), hops).in(step) }
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
		data, err := json.Marshal(v.Interface())
		if err == nil {
			err = json.Unmarshal(data, new(any))
		}
		if err != nil {
			return losing("holds a %s that cannot be decoded: %v", v.Type(), err)
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
				return losing("has keys that are refused: such a key %s", err.why), nil
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
				return "", losing("has a key that %s", err.why)
			}
		}
		given, err := text(k)
		if err != nil {
			return "", losing("has a key of type %s that cannot be encoded: %v", t, err)
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
			return "", losing("has a key of type %s, encoded as %q, that cannot be decoded: %v", t, given, err)
		}
		if again != given {
			return "", losing("has a key of type %s, encoded as %q, that would come back as %q", t, given, again)
		}
		return given, nil
	}
}

// A field is a field of a struct, as encoding/json takes it.
type field struct {
	reflect.StructField
	how      fieldHow
	json     string // the name, if encoded
	omits    func(reflect.Value) bool
	optional bool // it may be left out
	quoted   bool
}

type fieldHow int

const (
	fieldEncoded  fieldHow = iota // under its name
	fieldEmbedded                 // its fields are encoded among those of the struct
	fieldLeft                     // left out, which is fine
	fieldLost                     // left out, which loses data
)

func fieldOf(t reflect.Type, i int) field {
	f := field{StructField: t.Field(i)}
	tag := f.Tag.Get("json")
	elem := f.Type
	if f.Type.Kind() == reflect.Pointer {
		elem = f.Type.Elem()
	}
	switch {
	case tag == "-", f.Name == "_", isLock(f.Type) && (f.Anonymous || !f.IsExported()):
		f.how = fieldLeft
		return f
	case !f.IsExported() && !(f.Anonymous && elem.Kind() == reflect.Struct):
		if f.how = fieldLost; f.Type.Size() == 0 {
			f.how = fieldLeft
		}
		return f
	}
	name, options, _ := strings.Cut(tag, ",")
	if !validName(name) {
		name = ""
	}
	if name == "" && f.Anonymous && elem.Kind() == reflect.Struct {
		f.how = fieldEmbedded
		return f
	}
	f.json = name
	if name == "" {
		f.json = f.Name
	}
	empty, zero := false, false
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "omitempty":
			empty = hasLen(f.Type) || f.Type.Kind() != reflect.Struct
		case "omitzero":
			zero = true
		case "string":
			f.quoted = true
		}
	}
	f.optional = empty || zero
	f.omits = func(v reflect.Value) bool {
		return empty && hasLen(f.Type) && v.Len() == 0 || zero && v.IsZero()
	}
	if f.Type.Name() != "" {
		elem = f.Type
	}
	switch k := elem.Kind(); {
	case k == reflect.String, k >= reflect.Bool && k <= reflect.Float64:
	default:
		f.quoted = false
	}
	return f
}

func hasLen(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return true
	}
	return false
}

// isLock reports whether t is a type of package sync that holds nothing to come back.
func isLock(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[sync.Mutex](), reflect.TypeFor[sync.RWMutex](), reflect.TypeFor[sync.Once](), reflect.TypeFor[sync.WaitGroup]():
		return true
	}
	return false
}

// validName reports whether a name in a tag counts, as in encoding/json.
func validName(name string) bool {
	for _, c := range name {
		if !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", c) && !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return false
		}
	}
	return name != ""
}

func (b *planner) structure(t reflect.Type) (*loss, look) {
	if isLock(t) {
		return nil, nil
	}
	names := map[string]string{}
	err := jsonNames(t, "", names, nil)
	if err == nil && len(names) == 0 && t.Size() > 0 {
		return losing("has the type %s, none of whose fields is encoded: export them, or give the type MarshalJSON and UnmarshalJSON", t), nil
	}
	lost, look := b.fields(t)
	if lost != nil {
		return lost, nil
	}
	return err, look
}

// jsonNames collects the names of the fields of an object, with the path of the Go field
// that has it. Two that are the same are refused: encoding/json leaves one out, or both.
// within are the types whose fields t's are among.
func jsonNames(t reflect.Type, path string, names map[string]string, within []reflect.Type) *loss {
	within = append(within, t)
	for i := range t.NumField() {
		f := fieldOf(t, i)
		where := path + "." + f.Name
		switch f.how {
		case fieldEncoded:
			if other, taken := names[f.json]; taken {
				err := losing("has the JSON name %q of %s, and encoding/json leaves one of them out: give one another name, or tag it `json:\"-\"`",
					f.json, strings.TrimPrefix(other, "."))
				return err.in(where)
			}
			names[f.json] = where
		case fieldEmbedded:
			elem := f.Type
			if elem.Kind() == reflect.Pointer {
				elem = elem.Elem()
			}
			for _, outer := range within {
				if outer == elem {
					return losing("has the type %s, which embeds itself", f.Type).in(where)
				}
			}
			if err := jsonNames(elem, where, names, within); err != nil {
				return err
			}
		}
	}
	return nil
}

// alwaysWrites reports whether at least one field of a struct is written whatever its
// value is.
func alwaysWrites(t reflect.Type) bool {
	for i := range t.NumField() {
		switch f := fieldOf(t, i); f.how {
		case fieldEncoded:
			if !f.optional {
				return true
			}
		case fieldEmbedded:
			if f.Type.Kind() == reflect.Struct && alwaysWrites(f.Type) {
				return true
			}
		}
	}
	return false
}

// fields are what there is to know of a struct's fields, for encoding/json that goes by
// the fields.
func (b *planner) fields(t reflect.Type) (*loss, look) {
	var looks []look
	for i := range t.NumField() {
		f := fieldOf(t, i)
		var err *loss
		var look look
		switch f.how {
		case fieldLost:
			err = losing("is unexported and would be lost: export it, or tag it `json:\"-\"` if it need not come back")
		case fieldEncoded:
			err, look = b.encodedField(f)
		case fieldEmbedded:
			err, look = b.embeddedField(f)
		}
		step := "." + f.Name
		if err != nil {
			return err.in(step), nil
		}
		if look != nil {
			looks = append(looks, func(v reflect.Value, hops int) *loss { return look(v.Field(i), hops).in(step) })
		}
	}
	if looks == nil {
		return nil, nil
	}
	return nil, func(v reflect.Value, hops int) *loss {
		for _, look := range looks {
			if err := look(v, hops); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *planner) encodedField(f field) (*loss, look) {
	elem := f.Type
	if elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	encode, decode := "", ""
	if elem.Kind() != reflect.Pointer && elem.Kind() != reflect.Interface {
		encode, decode = methods(elem)
	}
	switch own := encode != "" || decode != ""; {
	case f.quoted && own:
		return losing("has the option \"string\" in its tag, which does not go with the methods of %s", elem), nil
	case !f.IsExported() && (own || f.Type.Kind() == reflect.Pointer):
		return losing("is an unexported embedded field with a name in its tag, and cannot be decoded: export it"), nil
	}
	p := b.plan(f.Type)
	if p.err != nil || p.simple() {
		return p.err, nil
	}
	return nil, func(v reflect.Value, hops int) *loss {
		if f.omits(v) {
			return nil
		}
		return p.check(v, hops)
	}
}

func (b *planner) embeddedField(f field) (*loss, look) {
	if f.Type.Kind() != reflect.Pointer {
		p := b.make(b.embedded, f.Type, b.fields)
		if p.err != nil || p.simple() {
			return p.err, nil
		}
		return nil, p.check
	}
	elem := f.Type.Elem()
	p := b.make(b.embedded, elem, b.fields)
	switch {
	case !f.IsExported():
		err := losing("is an embedded pointer to an unexported struct, which encoding/json cannot decode: embed %s itself, or export it", elem)
		p = &plan{err: err, done: true}
	case !alwaysWrites(elem):
		err := losing("is an embedded pointer to a %s, all of whose fields may be left out, so that it could come back nil: embed %[1]s itself", elem)
		p = &plan{err: err, done: true}
	case p.simple():
		return nil, nil
	}
	return nil, func(v reflect.Value, hops int) *loss {
		if v.IsNil() {
			return nil
		}
		return p.check(v.Elem(), hops)
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

// lookAtTime refuses what RFC 3339 does not have: the first gives an error, and the
// second a time that is off by these seconds.
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
	if zone, offset := t.Zone(); offset%60 != 0 {
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
		return losing("has the type %s and cannot be encoded: %v", v.Type(), err)
	}
	if !utf8.Valid(text) {
		return losing("has the type %s, whose MarshalText gives what is not valid UTF-8 (%.60q) and would be changed", v.Type(), text)
	}
	return nil
}
