package activity_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// These tests are of rule 29: the default Codec gives back what it took, or refuses.

// recordAndRead records v in a heartbeat, and returns what of its type is read back.
// refused is Heartbeat's error.
func recordAndRead(t testing.TB, v any) (back any, refused error) {
	t.Helper()
	rt := activity.New(activity.Config{Logger: quiet})
	err := rt.Run(t.Context(), activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
		if refused = ctx.Heartbeat(v); refused != nil {
			return nil
		}
		into := reflect.New(reflect.TypeOf(v))
		if found, err := rt.Activities()[0].HeartbeatDetails(into.Interface()); !found || err != nil {
			return fmt.Errorf("%T %.200v was taken, but reading it gives %v, %v", v, v, found, err)
		}
		back = into.Elem().Interface()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return back, refused
}

type unexportedOnly struct{ next int }

type unexportedBeside struct {
	Page int
	next int
}

type deepUnexported struct {
	Rows []struct {
		Cells map[string][2]unexportedBeside
	}
}

type inner struct{ A int }

type Outer struct{ A, B int }

type mayVanish struct {
	A int            `json:",omitempty"`
	M map[string]int `json:",omitzero"`
}

type MayVanish mayVanish

type recursive struct {
	Name string
	Next *recursive
	Kids []recursive
	More map[string]recursive
	Any  any
}

type chain struct{ Next *chain }

type pointsToItself *pointsToItself

type selfEmbedding struct {
	*selfEmbedding
	N int
}

// halves have a method, but not its inverse.
type (
	onlyMarshalJSON       struct{ A int }
	onlyMarshalText       struct{ A int }
	onlyUnmarshalText     struct{ A int }
	onlyPtrMarshalJSON    struct{ A int }
	jsonThereTextBack     struct{ A int }
	intOnlyUnmarshalText  int
	textOnlyUnmarshalText string // decodes its own bytes
	Lenient               struct{ A int }
	LenientInt            int
)

func (onlyMarshalJSON) MarshalJSON() ([]byte, error)     { return []byte("1"), nil }
func (onlyMarshalText) MarshalText() ([]byte, error)     { return []byte("1"), nil }
func (*onlyUnmarshalText) UnmarshalText([]byte) error    { return nil }
func (*onlyPtrMarshalJSON) MarshalJSON() ([]byte, error) { return []byte("1"), nil }
func (jsonThereTextBack) MarshalJSON() ([]byte, error)   { return []byte("1"), nil }
func (*jsonThereTextBack) UnmarshalText([]byte) error    { return nil }
func (*intOnlyUnmarshalText) UnmarshalText([]byte) error { return nil }
func (s *textOnlyUnmarshalText) UnmarshalText(b []byte) error {
	*s = textOnlyUnmarshalText(b)
	return nil
}
func (l *Lenient) UnmarshalJSON(b []byte) error {
	type plain Lenient
	return json.Unmarshal(b, (*plain)(l))
}
func (l *LenientInt) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, (*int)(l)) }

// Whole has both methods, with a value and a pointer receiver.
type Whole struct{ n int }

func (w Whole) MarshalJSON() ([]byte, error)     { return json.Marshal(w.n) }
func (w *Whole) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &w.n) }

// Other is like Whole.
type Other struct{ A int }

func (o Other) MarshalJSON() ([]byte, error)     { return json.Marshal(o.A) }
func (o *Other) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, &o.A) }

// ByPointer has both with pointer receivers.
type ByPointer struct{ n int }

func (p *ByPointer) MarshalText() ([]byte, error)    { return json.Marshal(p.n) }
func (p *ByPointer) UnmarshalText(data []byte) error { return json.Unmarshal(data, &p.n) }

// zeroSize has methods and no data.
type zeroSize struct{}

func (zeroSize) MarshalJSON() ([]byte, error) { return []byte("1"), nil }
func (*zeroSize) UnmarshalJSON([]byte) error  { return nil }

// A hexByte is encoded by its kind, and in a slice in base64.
type hexByte byte

func (*hexByte) UnmarshalText([]byte) error { return errBoom }

// Stamp has its own methods beside those that it embeds.
type Stamp struct {
	time.Time
	Page int
}

func (s Stamp) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"T": s.UTC(), "P": s.Page})
}

func (s *Stamp) UnmarshalJSON(data []byte) error {
	var v struct {
		T time.Time
		P int
	}
	err := json.Unmarshal(data, &v)
	s.Time, s.Page = v.T, v.P
	return err
}

// halfStamp has only one of them.
type halfStamp struct {
	time.Time
	Page int
}

func (s halfStamp) MarshalJSON() ([]byte, error) { return json.Marshal(s.Page) }

type onlyTime struct{ time.Time }

// An embedded alias has a name of its own, which may be unexported.
type (
	instant           = time.Time
	embedsAlias       struct{ instant }
	embedsEmbedsAlias struct{ embedsAlias }
)

// embedsStamp has the methods of its Stamp, and the IsZero of the Stamp's time.
type embedsStamp struct{ Stamp }

// halfDeep has the UnmarshalJSON of the Whole in its field.
type halfDeep struct{ besideWhole }

type besideWhole struct {
	Whole
	X int
}

func (d halfDeep) MarshalJSON() ([]byte, error) { return json.Marshal(d.n) }

// halfNested is like halfDeep, without a field that is left out.
type halfNested struct{ nested }

type nested = struct{ Whole }

func (d halfNested) MarshalJSON() ([]byte, error) { return json.Marshal(d.n) }

// A rawText is encoded as its bytes.
type rawText struct{ b string }

func (r rawText) MarshalText() ([]byte, error)     { return []byte(r.b), nil }
func (r *rawText) UnmarshalText(data []byte) error { r.b = string(data); return nil }

// A folded key is equal to another with the same text.
type folded struct{ s string }

func (f folded) MarshalText() ([]byte, error)     { return []byte(strings.ToLower(f.s)), nil }
func (f *folded) UnmarshalText(data []byte) error { f.s = string(data); return nil }

// A trimmed string is decoded without its spaces.
type trimmed string

func (s *trimmed) UnmarshalText(data []byte) error {
	*s = trimmed(strings.TrimSpace(string(data)))
	return nil
}

// A color is a text and in JSON a number, so that as a key it cannot be decoded.
type color int

func (c color) MarshalText() ([]byte, error)  { return []byte(strings.Repeat("x", int(c))), nil }
func (c *color) UnmarshalText(b []byte) error { *c = color(len(b)); return nil }
func (c color) MarshalJSON() ([]byte, error)  { return json.Marshal(int(c)) }
func (c *color) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, (*int)(c)) }
func (c color) String() string                { return "a color" }
func amsterdam1900() time.Time                { return time.Date(1900, 1, 1, 0, 0, 0, 0, time.FixedZone("AMT", 1172)) }
func pointerTo[T any](v T) *T                 { return &v }
func named[T any](v T) struct{ F T }          { return struct{ F T }{v} }
func among(v any) struct{ Rows []struct{ V any } } {
	return struct{ Rows []struct{ V any } }{[]struct{ V any }{{1}, {v}}}
}

type namedPointer *Whole

type embedsPointer struct {
	*inner
	B int
}

type embedsVanishing struct {
	*MayVanish
	B int
}

type EmbedsTime struct {
	T inner `json:",omitempty"`
}

type EmbedsInner struct {
	inner
	M int `json:",omitempty"`
}

type embedsOuter struct {
	*Outer
	C int
}

type wanders struct{ sync.Map }

type embedsAny struct{ F any }

// pointerFails has methods with pointer receivers, one of which fails.
type pointerFails struct{ A int }

func (*pointerFails) MarshalJSON() ([]byte, error) { return nil, errBoom }
func (*pointerFails) UnmarshalJSON([]byte) error   { return nil }

type lock = sync.Mutex

// Rule 29. Given values that the default Codec cannot give back, when they are recorded,
// then Heartbeat refuses them with an error that names the type and the field.
func TestCodec_Refuses(t *testing.T) {
	type page[T any] struct{ V T }
	userinfo, _ := url.Parse("https://me:secret@example.com/")
	var cycle recursive
	cycle.Next = &cycle
	var loop any
	loop = &loop
	var itself pointsToItself
	itself = &itself
	deepest := &chain{}
	for range 12_000 {
		deepest = &chain{deepest}
	}
	var deepAny any
	for range 12_000 {
		deepAny = []any{deepAny}
	}
	deepByOne := struct{ Any any }{}
	for range 10_000 {
		deepByOne.Any = []any{deepByOne.Any}
	}
	nested := json.RawMessage(strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999))

	tests := []struct {
		name  string
		value any
		want  []string // parts of the error
	}{
		// Fields that are not encoded.
		{"no field is encoded", unexportedOnly{next: 1}, []string{"the value", "activity_test.unexportedOnly", "none of whose fields is encoded"}},
		{"no field is encoded, behind a pointer", &unexportedOnly{}, []string{"activity_test.unexportedOnly"}},
		{"no field is encoded, inside", named(unexportedOnly{}), []string{"field F ", "activity_test.unexportedOnly"}},
		{"all fields are left out on purpose", struct {
			A int `json:"-"`
		}{1}, []string{"none of whose fields"}},
		{"an unexported field", unexportedBeside{next: 1}, []string{"field unexportedBeside.next is unexported"}},
		{"an unexported field, deep inside", deepUnexported{}, []string{"field deepUnexported.Rows[].Cells[][].next is unexported"}},
		{"an unexported field of an element", []unexportedBeside{}, []string{"[]activity_test.unexportedBeside", "field [].next"}},
		{"an unexported field of a generic type", page[unexportedBeside]{}, []string{".V.next"}},
		{"an unexported field behind a pointer", named(&unexportedBeside{}), []string{"field F.next"}},
		{"an unexported field of what an any holds", among(unexportedBeside{}), []string{"field Rows[].V.next"}},
		{"an unexported field of an embedded struct", struct{ unexportedBeside }{}, []string{"field unexportedBeside.next"}},
		{"an unexported atomic", struct {
			N int
			n atomic.Int64
		}{}, []string{"field n "}},
		{"an atomic", struct{ N atomic.Int64 }{}, []string{"field N ", "atomic.Int64"}},
		{"an unexported mutex elsewhere", struct {
			N  int
			mu *sync.Mutex
		}{}, []string{"field mu "}},
		{"a sync.Map", struct {
			N int
			m sync.Map
		}{}, []string{"field m "}},
		{"an array of sync.Map", &struct {
			N int
			m [2]sync.Map
		}{}, []string{"field m "}},
		{"an exported sync.Pool", &struct{ Pool sync.Pool }{}, []string{"field Pool.local "}},
		{"an embedded sync.Pool", &struct {
			sync.Pool
			N int
		}{}, []string{"field Pool"}},
		{"an embedded sync.Map", wanders{}, []string{"none of whose fields"}},
		{"an embedded unexported int", struct {
			color
			N int
		}{}, []string{"MarshalJSON", "embedded"}},
		{"an embedded unexported interface", struct {
			error
			N int
		}{}, []string{"field error "}},
		{"an error", errBoom, []string{"errors.errorString"}},

		// Methods of an embedded field.
		{"time.Time hides the others", struct {
			time.Time
			Page int
		}{}, []string{"MarshalJSON", "embedded", "leaves out the others"}},
		{"time.Time hides an unexported one", struct {
			time.Time
			page int
		}{}, []string{"MarshalJSON"}},
		{"netip.Addr hides the others", struct {
			netip.Addr
			Port int
		}{}, []string{"MarshalText"}},
		{"hidden even if the marshaler is tagged", struct {
			time.Time `json:"at"`
			Page      int
		}{}, []string{"MarshalJSON"}},
		{"big.Int hides the others", struct {
			big.Int
			Page int
		}{}, []string{"MarshalJSON"}},
		{"half of the methods are the type's own", halfStamp{}, []string{"halfStamp", "UnmarshalJSON"}},
		{"UnmarshalJSON is embedded two levels down", halfDeep{besideWhole{Whole{1}, 2}}, []string{"halfDeep", "UnmarshalJSON", "leaves out the others"}},
		{"an embedded pointer that is nil when decoded", struct{ *time.Time }{&time.Time{}}, []string{"*time.Time", "nil"}},
		{"an embedded interface with methods", struct {
			json.Marshaler
			N int
		}{}, []string{"MarshalJSON"}},
		{"an embedded UnmarshalJSON", struct {
			Lenient
			Page int
		}{}, []string{"UnmarshalJSON"}},
		{"an embedded UnmarshalJSON alone", struct{ LenientInt }{}, []string{"UnmarshalJSON"}},
		{"the method is of an embedded field without data", struct {
			zeroSize
			Outer
		}{}, []string{"MarshalJSON", "leaves out the others"}},
		{"two embedded types with methods", struct {
			Whole
			Other
		}{}, []string{"field Whole.n is unexported"}},

		// Names.
		{"a field hides that of an embedded struct", struct {
			Outer
			A int
		}{}, []string{"field A", `JSON name "A"`, "Outer.A"}},
		{"two tags are the same", reflect.Zero(sameTags).Interface(), []string{"field B", `JSON name "x"`, "of A"}},
		{"a tag hides a name", struct {
			A int
			B int `json:"A"`
		}{}, []string{"field B", `JSON name "A"`}},
		{"an embedded lock's tag hides a name", &struct {
			sync.Mutex `json:"A"`
			A          int
		}{A: 7}, []string{"field A", `JSON name "A"`, "Mutex"}},
		{"two embedded structs have the same name", struct {
			Outer
			inner
		}{}, []string{"field inner.A", `JSON name "A"`, "Outer.A"}},
		{"a struct embeds itself", selfEmbedding{&selfEmbedding{N: 1}, 2}, []string{"selfEmbedding", "embeds itself"}},

		// Methods without an inverse.
		{"MarshalJSON only", onlyMarshalJSON{}, []string{"activity_test.onlyMarshalJSON", "MarshalJSON but not UnmarshalJSON"}},
		{"MarshalJSON only, in a field", named(&onlyMarshalJSON{}), []string{"field F ", "MarshalJSON but not UnmarshalJSON"}},
		{"MarshalJSON only, with a pointer receiver", onlyPtrMarshalJSON{}, []string{"MarshalJSON but not UnmarshalJSON"}},
		{"MarshalText only", []onlyMarshalText{}, []string{"element []", "MarshalText but not UnmarshalText"}},
		{"UnmarshalText only", onlyUnmarshalText{}, []string{"UnmarshalText but not MarshalText"}},
		{"UnmarshalText only, an int", intOnlyUnmarshalText(1), []string{"UnmarshalText but not MarshalText"}},
		{"MarshalJSON and UnmarshalText", jsonThereTextBack{}, []string{"MarshalJSON but not UnmarshalJSON"}},
		{"a Status", activity.Status{}, []string{"activity.Status", "for people"}},
		{"an Event", named(activity.Event{}), []string{"field F ", "activity.Event", "for people"}},
		{"a Checkpoint", []activity.Checkpoint{}, []string{"activity.Checkpoint", "for people"}},

		// Methods that encoding/json does not find.
		{"pointer receivers in a map", map[string]ByPointer{}, []string{"activity_test.ByPointer", "use pointers"}},
		{"pointer receivers in a map, deeper", map[string]struct{ N [2]big.Int }{}, []string{"use pointers"}},
		{"pointer receivers in an any", named[any](*big.NewInt(1)), []string{"field F ", "big.Int", "use a pointer"}},
		{"a number in an any that no float64 holds", among(json.Number("1e400")), []string{"field Rows[].V ", "1e400"}},
		{"a big.Int in an any that no float64 holds", named[any](new(big.Int).Lsh(big.NewInt(1), 2000)), []string{"field F ", "*big.Int"}},
		{"methods behind a named pointer", named(namedPointer(&Whole{1})), []string{"field F ", "activity_test.namedPointer"}},
		{"the option string and methods", struct {
			W color `json:",string"`
		}{}, []string{"field W ", "string"}},

		{"the option omitzero and an embedded IsZero", struct {
			S Stamp `json:",omitzero"`
		}{Stamp{Page: 1}}, []string{"field S ", "omitzero", "IsZero", "activity_test.Stamp"}},
		{"the same behind a pointer", struct {
			S *Stamp `json:",omitzero"`
		}{}, []string{"field S ", "omitzero"}},

		{"an IsZero embedded two levels down", struct {
			S embedsStamp `json:",omitzero"`
		}{embedsStamp{Stamp{Page: 7}}}, []string{"field S ", "omitzero", "activity_test.embedsStamp"}},
		{"the same two levels down behind a pointer", struct {
			S *embedsStamp `json:",omitzero"`
		}{&embedsStamp{Stamp{Page: 7}}}, []string{"field S ", "omitzero"}},

		// Interfaces and pointers.
		{"an interface", named[error](errBoom), []string{"field F ", "interface type error", "*errors.errorString"}},
		{"an interface in a map", map[string]io.Reader{"a": os.Stdin}, []string{"element []", "io.Reader"}},
		{"an interface in a slice in an any", among([]fmt.Stringer{time.Second}), []string{"field Rows[].V[] ", "fmt.Stringer"}},
		{"an embedded interface", struct{ fs.File }{os.Stdin}, []string{"field File ", "fs.File"}},
		{"an embedded pointer to an unexported struct", embedsPointer{&inner{1}, 2}, []string{"field embedsPointer.inner ", "unexported struct"}},
		{"the same with a name", struct {
			*inner `json:"in"`
		}{}, []string{"field inner ", "unexported"}},
		{"embedded unexported types with methods and names", struct {
			rawText `json:"a"`
			folded  `json:"b"`
		}{}, []string{"field rawText ", "unexported"}},
		{"an embedded pointer that may come back nil", embedsVanishing{&MayVanish{}, 1}, []string{"field embedsVanishing.MayVanish ", "nil"}},
		{"a value that contains itself", &cycle, []string{"contains itself"}},
		{"an any that contains itself", loop, []string{"contains itself"}},
		{"a pointer whose type contains itself, too", itself, []string{"contains itself"}},
		{"the same in a field", named(itself), []string{"field F ", "contains itself"}},
		{"deeper than encoding/json decodes", *deepest, []string{"field chain.Next is nested deeper"}},
		{"deeper, in anys", deepAny, []string{"element [] is nested deeper"}},
		{"deeper, in an any", among(deepAny), []string{"field Rows[].V is nested deeper"}},
		{"deeper by one, in an any", &deepByOne, []string{"field Any is nested deeper"}},
		{"deeper, with another's JSON", []struct{ R json.RawMessage }{{nested}}, []string{"field [].R is nested deeper"}},
		{"deeper, in an embedded struct", struct {
			Outer
			embedsAny
		}{embedsAny: embedsAny{deepAny}}, []string{"field embedsAny.F is nested deeper"}},

		// Methods that fail.
		{"MarshalJSON fails", marshalFails{}, []string{"the value cannot be encoded", "activity_test.marshalFails"}},
		{"MarshalJSON fails, deep inside", []map[string]struct{ F [2]*marshalFails }{{"a": {[2]*marshalFails{1: {}}}}}, []string{"field [][].F[] cannot be encoded", "activity_test.marshalFails"}},
		{"MarshalJSON fails, in an any", among(&marshalFails{}), []string{"field Rows[].V cannot be encoded", "activity_test.marshalFails"}},
		{"MarshalJSON fails beside what is left out", struct {
			A marshalFails `json:",omitzero"`
			B marshalFails `json:"-"`
			C struct {
				inner `json:"in"`
				F     marshalFails
			}
		}{}, []string{"field C.F cannot be encoded"}},
		{"MarshalJSON fails, by its address", named(pointerFails{1}), []string{"field F cannot be encoded", "activity_test.pointerFails"}},

		// Text.
		{"a string", "a\xff", []string{"the value is a string", "UTF-8", `"a\xff"`}},
		{"a string in a field", &[]named1{{"ok"}, {"\xc3"}}, []string{"field [].Name ", "UTF-8"}},
		{"a string in an any", among(map[string]any{"a": []any{"\xff"}}), []string{"field Rows[].V[][] ", "UTF-8"}},
		{"a string with the option string", struct {
			S string `json:",string"`
		}{"\xff"}, []string{"field S ", "UTF-8"}},
		{"a key", named(map[string]int{"\xff": 1}), []string{"field F ", "key", "UTF-8"}},
		{"a key whose MarshalText is not used", map[shout]int{"\xff": 1}, []string{"key", "UTF-8"}},
		{"a key of an any", named[any](map[string]any{"\xff": 1}), []string{"field F ", "key", "UTF-8"}},
		{"a string kind with UnmarshalText", textOnlyUnmarshalText("\xff"), []string{"UTF-8"}},
		{"a MarshalText", named(rawText{"\xff"}), []string{"field F ", "activity_test.rawText", "UTF-8"}},
		{"an embedded MarshalText", struct{ rawText }{rawText{"\xff"}}, []string{"UTF-8"}},
		{"an embedded time", &[]onlyTime{{}, {amsterdam1900()}}, []string{"field [].Time ", "AMT"}},
		{"an embedded time of unexported name", named(embedsAlias{amsterdam1900()}), []string{"field F.instant ", "AMT"}},
		{"an embedded type that is refused", []struct{ activity.Status }{}, []string{"field [].Status ", "activity.Status"}},
		{"a zone", netip.MustParseAddr("fe80::1").WithZone("\xff"), []string{"netip.Addr", "UTF-8"}},
		{"a key's MarshalText", map[rawText]int{{"\xff"}: 1}, []string{"key", "UTF-8"}},

		// Keys.
		{"keys with the same text", named(map[folded]int{{"a"}: 1, {"A"}: 2}), []string{"field F ", "two keys", `"a"`}},
		{"a key that comes back as another", map[trimmed]int{" a": 1}, []string{"key", `" a"`, `"a"`}},
		{"a key that cannot be decoded", map[color]int{3: 1}, []string{"key", "activity_test.color"}},
		{"a key's fields are hidden", map[struct {
			netip.Addr
			Port int
		}]int{}, []string{"key", "MarshalText"}},
		{"keys that are pointers", map[*big.Int]int{}, []string{"keys of type *big.Int"}},
		{"keys that are interfaces", map[any]int{}, []string{"keys of type interface {}"}},
		{"keys that are floats", map[float64]int{}, []string{"keys of type float64"}},
		{"keys with UnmarshalText only", map[intOnlyUnmarshalText]int{}, []string{"keys of type"}},

		// Types that JSON does not have.
		{"a channel", named(make(chan int)), []string{"field F ", "chan int"}},
		{"a function", named[func()](nil), []string{"field F ", "func()"}},
		{"a complex number", []complex128{}, []string{"element []", "complex128"}},
		{"NaN", named([]float64{0, math.NaN()}), []string{"field F[] ", "NaN"}},
		{"infinity", named(float32(math.Inf(-1))), []string{"field F ", "-Inf"}},
		{"a time with seconds in its zone", named(amsterdam1900()), []string{"field F ", "AMT", "UTC"}},
		{"a key with seconds in its zone", map[time.Time]int{amsterdam1900(): 1}, []string{"key", "AMT", "UTC"}},
		{"a time after 9999", &[]time.Time{{}, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, []string{"element [] ", "10000"}},
		{"a nil json.RawMessage", named(json.RawMessage(nil)), []string{"field F ", "json.RawMessage", "null"}},
		{"an empty json.RawMessage", named(json.RawMessage{}), []string{"field F ", "json.RawMessage"}},
		{"a json.RawMessage of two values", named(json.RawMessage("1 2")), []string{"field F ", "json.RawMessage"}},
		{"a json.RawMessage that is not UTF-8", named(json.RawMessage("\"\xff\"")), []string{"field F ", "json.RawMessage"}},
		{"an empty json.Number", named(json.Number("")), []string{"field F ", "json.Number", "0"}},
		{"a json.Number that is not a number", named(json.Number("x")), []string{"field F ", "json.Number", `"x"`}},
		{"a json.Number with a space before", named(json.Number(" 1")), []string{"field F ", "json.Number"}},
		{"a json.Number with a space after", named(json.Number("1 ")), []string{"field F ", "json.Number"}},
		{"a json.Number of two numbers", named(json.Number("1 2")), []string{"field F ", "json.Number"}},
		{"a json.Number that is a list", []json.Number{"[1]"}, []string{"element [] ", "json.Number"}},
		{"a zone a day to the east", named(time.Unix(0, 0).In(time.FixedZone("odd", 24*60*60))), []string{"field F ", "odd", "UTC"}},
		{"a zone a day to the west", named(time.Unix(0, 0).In(time.FixedZone("odd", -24*60*60))), []string{"field F ", "odd", "UTC"}},
		{"a URL with a user", userinfo, []string{"field URL.User ", "url.Userinfo"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			back, err := recordAndRead(t, test.value)
			if err == nil {
				t.Fatalf("it was taken, and came back as %#v", back)
			}
			want := append(test.want, fmt.Sprintf("(%T): ", test.value))
			for _, part := range want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\ndoes not say %q", err, part)
				}
			}
		})
	}
}

type named1 struct{ Name string }

// These structs are made here, because linters refuse their tags in source.
var (
	sameTags = twoTagged(`json:"x"`)
	badTags  = twoTagged(`json:"x\"y"`) // a name that encoding/json does not use
)

func twoTagged(tag reflect.StructTag) reflect.Type {
	return reflect.StructOf([]reflect.StructField{
		{Name: "A", Type: reflect.TypeFor[int](), Tag: tag},
		{Name: "B", Type: reflect.TypeFor[int](), Tag: tag},
	})
}

// tagged is a struct with one field.
func tagged(tag reflect.StructTag, v any) any {
	s := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "F", Type: reflect.TypeOf(v), Tag: tag}})).Elem()
	s.Field(0).Set(reflect.ValueOf(v))
	return s.Interface()
}

// same reports whether b is what a may come back as.
func same(a, b any) bool {
	if t, ok := a.(time.Time); ok {
		return t.Equal(b.(time.Time))
	}
	return reflect.DeepEqual(a, b)
}

// Rule 29. Given values that the default Codec accepts, when they are recorded and read,
// then they are equal.
func TestCodec_GivesBack(t *testing.T) {
	type empty struct{}
	zone := time.FixedZone("here", -3*3600-1800)
	long, _ := url.Parse("https://example.com:8080/a%2Fb?c=d#e")
	list := &recursive{Name: "end"}
	for range 2_000 { // beyond the depth at which encoding/json looks for cycles
		list = &recursive{Next: list}
	}
	var nilPointer *int
	var nilSlice []int
	tests := []struct {
		name  string
		value any
		back  any // if nil, the same
	}{
		{"an int", -5, nil},
		{"an int64", int64(math.MinInt64), nil},
		{"a uint64", uint64(math.MaxUint64), nil},
		{"a negative zero", math.Copysign(0, -1), nil},
		{"floats", []float64{math.MaxFloat64, math.SmallestNonzeroFloat64, 0.1, 1 << 53}, nil},
		{"a float32", float32(0.1), nil},
		{"text", "<a>&\u2028\ufffd\x00\"\\ufffd😀", nil},
		{"bytes", []byte("\xff\x00"), nil},
		{"nil bytes", []byte(nil), nil},
		{"empty bytes", []byte{}, nil},
		{"an array of bytes", [3]byte{1, 255}, nil},
		{"a nil slice", nilSlice, nil},
		{"an empty slice", []string{}, nil},
		{"a nil map", map[string]int(nil), nil},
		{"an empty map", map[string]int{}, nil},
		{"a struct without fields", empty{}, nil},
		{"a struct of size zero", struct{ _ [0]func() }{}, nil},
		{"a pointer", &twoFields{1, "x"}, nil},
		{"a pointer to a pointer", pointerTo(pointerTo(5)), nil},
		{"a list", list, nil},
		{"a tree", recursive{Kids: []recursive{{Name: "a"}, {More: map[string]recursive{"b": {}}}}}, nil},

		// Fields that are not encoded, and need not be.
		{"locks", &struct {
			mu   sync.Mutex
			rw   sync.RWMutex
			once sync.Once
			wg   sync.WaitGroup
			Mu   sync.Mutex
			N    int
		}{N: 1}, nil},
		{"other fields of package sync", &struct {
			pool  sync.Pool
			cond  sync.Cond
			locks [2]sync.Mutex
			all   [2][3]sync.WaitGroup
			Locks [2]sync.Mutex
			N     int
		}{N: 1}, nil},
		{"an embedded marshaler with a pool", &struct {
			pool sync.Pool
			Whole
		}{Whole: Whole{5}}, nil},
		{"an embedded lock", &struct {
			sync.Mutex
			N int
		}{N: 1}, nil},
		{"an embedded lock with a tag", &struct {
			sync.Mutex `json:"mu"`
			Mutex2     int `json:"Mutex"`
		}{Mutex2: 1}, nil},
		{"an embedded alias of a lock with a tag", &struct {
			lock `json:"mu"`
			N    int
		}{N: 1}, nil},
		{"fields of size zero", struct {
			_ struct{}
			z [0]int
			e empty
			N int
		}{N: 1}, nil},
		{"padding", struct {
			A byte
			_ [7]byte
			N int
		}{N: 1}, nil},
		{"fields left out on purpose", struct {
			A int
			B int            `json:"-"`
			c int            `json:"-"`
			D func()         `json:"-"`
			E unexportedOnly `json:"-"`
		}{A: 1}, nil},
		{"a field named -", tagged(`json:"-,"`, 1), nil},

		// Methods.
		{"time.Time", time.Date(2024, 2, 29, 1, 2, 3, 4, zone), nil},
		{"time.Time now", time.Now(), nil},
		{"a zero time.Time", time.Time{}, nil},
		{"a time a minute less than a day to the west", time.Unix(0, 0).In(time.FixedZone("far", -(24*60-1)*60)), nil},
		{"netip.Addr", netip.MustParseAddr("fe80::1%eth0"), nil},
		{"a zero netip.Addr", netip.Addr{}, nil},
		{"netip.Prefix", netip.MustParsePrefix("10.0.0.0/8"), nil},
		{"big.Int", *big.NewInt(1).Lsh(big.NewInt(1), 100), nil},
		{"*big.Int", big.NewInt(-7), nil},
		{"big.Int in a field", named(*big.NewInt(5)), nil},
		{"big.Int in an array in a field", named([1]big.Int{*big.NewInt(5)}), nil},
		{"big.Int in a slice", []big.Int{*big.NewInt(5)}, nil},
		{"pointers to big.Int in a map", map[string]*big.Int{"a": big.NewInt(5), "b": nil}, nil},
		{"url.URL", *long, nil},
		{"json.RawMessage", json.RawMessage(`{"a":[1]}`), nil},
		{"json.RawMessage with spaces", json.RawMessage(` { } `), json.RawMessage(`{}`)},
		{"json.RawMessage with a null", json.RawMessage(`null`), nil},
		{"no json.RawMessage", struct {
			R json.RawMessage `json:",omitempty"`
			S json.RawMessage `json:",omitzero"`
			N json.Number     `json:",omitempty"`
		}{}, nil},
		{"json.Number", json.Number("12345678901234567890.5"), nil},
		{"a json.Number that no float64 holds", json.Number("1e400"), nil},
		{"a json.Number in an any", named[any](json.Number("1.50")), named[any](1.5)},
		{"json.Numbers", []json.Number{"0", "-1", "1E-7", "0.5"}, nil},
		{"json.Number, as a string", struct {
			N json.Number `json:",string"`
		}{"5"}, nil},
		{"both methods", Whole{5}, nil},
		{"both methods, in a map", map[string]Whole{"a": {5}}, nil},
		{"both methods with pointer receivers", ByPointer{5}, nil},
		{"both with pointer receivers, inside", []struct{ A [1]ByPointer }{{[1]ByPointer{{5}}}}, nil},
		{"methods beside embedded ones", Stamp{time.Unix(0, 0).UTC(), 7}, nil},
		{"an embedded marshaler two levels down, alone", struct{ onlyTime }{onlyTime{time.Unix(7, 0).UTC()}}, nil},
		{"an embedded alias of a marshaler", embedsAlias{time.Unix(5, 0).UTC()}, nil},
		{"the same with an address", &embedsAlias{time.Unix(5, 0).UTC()}, nil},
		{"the same two levels down", []embedsEmbedsAlias{{embedsAlias{time.Unix(5, 0).UTC()}}}, nil},
		{"UnmarshalJSON two levels down, alone", halfNested{struct{ Whole }{Whole{1}}}, nil},
		{"an embedded marshaler alone", onlyTime{time.Unix(7, 0).UTC()}, nil},
		{"an embedded MarshalText alone", struct{ rawText }{rawText{"x"}}, nil},
		{"an embedded json.RawMessage alone", embedsRaw{json.RawMessage("[1]")}, nil},
		{"an embedded marshaler with a lock", &struct {
			mu sync.Mutex
			Whole
		}{Whole: Whole{5}}, nil},
		{"an embedded marshaler with a field left out on purpose", embedsMethods{Whole: Whole{5}}, nil},
		{"an embedded marshaler with padding", struct {
			Whole
			_ int
		}{Whole: Whole{5}}, nil},
		{"bytes with methods that are not used", []hexByte{0, 255}, nil},
		{"pointer receivers of a field left out on purpose", map[string]struct {
			A int
			B ByPointer `json:"-"`
		}{"a": {A: 1}}, nil},
		{"the option string where it has no effect", tagged(`json:",string"`, time.Unix(5, 0).UTC()), nil},
		{"the option string on a slice", tagged(`json:",string"`, []int{1}), nil},
		{"UnmarshalJSON only", Lenient{5}, nil},
		{"UnmarshalText only, a string", textOnlyUnmarshalText("x"), nil},
		{"this package's states", []any{activity.StateRunning}, []any{"running"}},
		{"a state", activity.StateRunning, nil},

		// Interfaces and pointers.
		{"a nil interface", named[error](nil), nil},
		{"nil interfaces", []error{nil, nil}, nil},
		{"an any", named[any]([]any{nil, true, 1.5, "x", map[string]any{"a": 1.0}}), nil},
		{"an int in an any", named[any](5), named[any](5.0)},
		{"bytes in an any", named[any]([]byte("abc")), named[any]("YWJj")},
		{"a large int in an any", named[any](int64(1<<53 + 1)), named[any](float64(1 << 53))},
		{"a struct in an any", named[any](twoFields{1, "x"}), named[any](map[string]any{"A": 1.0, "B": "x"})},
		{"a nil pointer in an any", named[any](nilPointer), named[any](nil)},
		{"a nil pointer to what is refused", struct {
			F *os.File
			G *unexportedOnly
			H *onlyMarshalJSON
			I *chan int
		}{}, nil},
		{"a pointer to a nil pointer", named(&nilPointer), named[**int](nil)},
		{"a pointer to a nil slice", named(&nilSlice), named[*[]int](nil)},
		{"a nil embedded pointer to an unexported struct", embedsPointer{B: 1}, nil},
		{"a nil embedded pointer to what could vanish", embedsVanishing{B: 1}, nil},
		{"a nil embedded pointer to what is refused", struct {
			*os.File
			N int
		}{N: 1}, nil},
		{"an embedded pointer", embedsOuter{&Outer{}, 1}, nil},
		{"an embedded pointer to a struct that omitempty does not leave out", struct{ *EmbedsTime }{&EmbedsTime{}}, nil},
		{"an embedded pointer to a struct that embeds", struct {
			*EmbedsInner
			B int
		}{&EmbedsInner{}, 1}, nil},
		{"an embedded unexported struct", struct {
			inner
			B int
		}{inner{1}, 2}, nil},
		{"an embedded unexported struct with a name", struct {
			inner `json:"in"`
			A     int
		}{inner{1}, 2}, nil},
		{"an embedded int", struct {
			Count
			N int
		}{1, 2}, nil},
		{"nil pointer behind a named pointer", named(namedPointer(nil)), nil},

		// Names and options.
		{"names that differ in case", struct {
			A int `json:"x"`
			B int `json:"X"`
		}{1, 2}, nil},
		{"names that differ in case, one left out", struct {
			A int `json:"x,omitempty"`
			B int `json:"X"`
		}{0, 2}, nil},
		{"tags that do not count", reflect.Zero(badTags).Interface(), nil},
		{"the option string", struct {
			A int     `json:",string"`
			B string  `json:",string"`
			C *bool   `json:",string"`
			D float64 `json:",string"`
			E *string `json:",string"`
		}{1, `"null"`, nil, 0.5, pointerTo("null")}, nil},
		{"omitempty", struct {
			A []int          `json:",omitempty"`
			B map[string]int `json:",omitempty"`
			C float64        `json:",omitempty"`
			D *int           `json:",omitempty"`
		}{[]int{}, map[string]int{}, math.Copysign(0, -1), new(int)}, struct {
			A []int          `json:",omitempty"`
			B map[string]int `json:",omitempty"`
			C float64        `json:",omitempty"`
			D *int           `json:",omitempty"`
		}{C: math.Copysign(0, -1), D: new(int)}},
		{"omitzero", struct {
			A time.Time  `json:",omitzero"`
			B []int      `json:",omitzero"`
			C onlyTime   `json:",omitzero"`
			D *time.Time `json:",omitzero"`
			E Stamp
			F struct{ onlyTime } `json:",omitzero"`
		}{B: []int{}}, nil},

		// Keys.
		{"keys", map[string]int{"": 1, "a": 2, "\ufffd": 3}, nil},
		{"int keys", map[int8]string{-128: "a", 127: "b"}, nil},
		{"uint keys", map[uint64]string{math.MaxUint64: "a"}, nil},
		{"keys with methods", map[netip.Addr]int{netip.MustParseAddr("::1"): 1, netip.MustParseAddr("127.0.0.1"): 2}, nil},
		{"times as keys", map[time.Time]int{time.Unix(1, 0).UTC(): 1}, nil},
		{"folded keys", map[folded]int{{"a"}: 1, {"b"}: 2}, nil},
		{"string keys with UnmarshalText", map[trimmed]int{"a": 1, "b": 2}, nil},
		{"string keys with MarshalText", map[shout]int{"a": 1, "B": 2}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.back
			if want == nil {
				want = test.value
			}
			back, err := recordAndRead(t, test.value)
			if err != nil {
				t.Fatal(err)
			}
			if !same(want, back) {
				t.Errorf("got  %#v\nwant %#v", back, want)
			}
		})
	}
}

// Count is an embedded int that is exported.
type Count int

// shout is a string whose MarshalText encoding/json does not use for keys.
type shout string

func (s shout) MarshalText() ([]byte, error) { return []byte(strings.ToUpper(string(s))), nil }
func (s *shout) UnmarshalText(b []byte) error {
	*s = shout(b)
	return nil
}

// Rule 29. Given a type that the default Codec refuses, when a value of it has no
// elements yet, then it is refused already, so that the first heartbeat fails. A nil
// pointer to it is accepted.
func TestCodec_RefusesTypesEarly(t *testing.T) {
	for _, v := range []any{[]unexportedBeside(nil), map[string]unexportedBeside(nil), [1]unexportedBeside{}, struct{ S []chan int }{}} {
		if _, err := recordAndRead(t, v); err == nil {
			t.Errorf("%T was taken", v)
		}
	}
	for _, v := range []any{[]*unexportedBeside{nil}, map[string]*unexportedBeside{"a": nil}, [0]unexportedBeside{}} {
		if _, err := recordAndRead(t, v); err != nil {
			t.Error(err)
		}
	}
}

// Rule 3. Given details that the default Codec refuses, when the function returns
// Heartbeat's error, then the activity is not retried, and the error names value and
// field.
func TestCodec_RefusalIsNonRetryable(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(7); err != nil {
				t.Error(err)
			}
			return ctx.Heartbeat(1, unexportedBeside{})
		})
		err := wait(t, h)
		checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
		if want := "cannot encode value 2 of 2 (activity_test.unexportedBeside): field unexportedBeside.next is unexported"; !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
		checkDetails(t, h.Status(), 7)
	})
}

type copyJob struct {
	File string
	Sink io.Writer
}

// Rule 29. Given an input that the default Codec refuses, when it is to be stored, then
// the start is refused, so that what is accepted can be recovered.
func TestCodec_RefusesInputs(t *testing.T) {
	bubble(t, activity.Config{Store: &storetest.Memory{}}, func(t *testing.T, rt *activity.Runtime) {
		def := activity.Definition[copyJob, int]{Name: "job", Func: func(_ activity.Context, in copyJob) (int, error) { return len(in.File), nil }}
		h, err := def.Start(t.Context(), rt, "a", copyJob{"x", os.Stdout})
		if h != nil || err == nil {
			t.Fatalf("it was accepted: %v, %v", h, err)
		}
		for _, part := range []string{"activity_test.copyJob", "field copyJob.Sink", "io.Writer", "*os.File"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v\ndoes not say %q", err, part)
			}
		}
		if n, err := def.Execute(t.Context(), rt, "a", copyJob{File: "four"}); n != 4 || err != nil {
			t.Errorf("without the interface: %d, %v", n, err)
		}
		// Without an ID nothing is stored, and nothing encoded.
		if n, err := def.Execute(t.Context(), rt, "", copyJob{"x", os.Stdout}); n != 1 || err != nil {
			t.Errorf("without an ID: %d, %v", n, err)
		}
		if err := rt.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// Rule 29. Given a type that was never encoded, when many goroutines encode it at once,
// then each gets the same answer.
func TestCodec_ConcurrentFirstUse(t *testing.T) {
	type first struct {
		Name string
		Next *first
		Kids map[string][]first
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := recordAndRead(t, first{Name: "a", Next: &first{Name: "\xff"}}); err == nil {
				t.Error("it was taken")
			}
			if _, err := recordAndRead(t, first{Name: "a", Next: &first{Name: "b"}}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// Rule 3. Given a MarshalText or MarshalJSON that fails, when Heartbeat returns, then its
// error wraps the method's.
func TestCodec_WrapsTheErrorOfAMethod(t *testing.T) {
	for _, v := range []any{named(failingText{}), map[failingText]int{{}: 1}, named[any](marshalFails{})} {
		if _, err := recordAndRead(t, v); !errors.Is(err, errBoom) {
			t.Errorf("%T: %v", v, err)
		}
	}
}

type failingText struct{}

func (failingText) MarshalText() ([]byte, error) { return nil, errBoom }
func (*failingText) UnmarshalText([]byte) error  { return nil }

// Rule 29. Given a cycle, when it is refused, then the error shortens the endless path to
// the field.
func TestCodec_PathIsShortened(t *testing.T) {
	type loop struct{ Next *loop }
	var cycle loop
	cycle.Next = &cycle
	if _, err := recordAndRead(t, cycle); err == nil || len(err.Error()) > 2000 || !strings.Contains(err.Error(), "field loop.Next.Next.") {
		t.Error(err)
	}
}

// Rule 24. Given a map key whose MarshalText panics, when it is recorded, then Heartbeat
// returns a *PanicError.
func TestCodec_PanickingMarshalText(t *testing.T) {
	_, err := recordAndRead(t, map[panicText]int{{}: 1})
	var p *activity.PanicError
	if !errors.As(err, &p) {
		t.Error(err)
	}
}

type panicText struct{}

func (panicText) MarshalText() ([]byte, error) { panic("MarshalText") }
func (*panicText) UnmarshalText([]byte) error  { return nil }
