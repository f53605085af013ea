package activity_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 29: what a heartbeat takes is read back, equal but for what Config.Codec allows.
// The types are made from the input too.
func FuzzCodec_GivesBack(f *testing.F) {
	for i := range 256 {
		f.Add([]byte{byte(i), 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
		f.Add([]byte{7, 2, byte(i), 1, 0, byte(i), 7, 3, 1, 250, 3, byte(i), 9, 8})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{data}
		typ := s.typ(4)
		given := reflect.New(typ).Elem()
		s.fill(given, 6)
		if typ.Kind() == reflect.Pointer && given.IsNil() || typ.Kind() == reflect.Interface {
			return // no details, or not the value that Heartbeat gets
		}
		got, refused := recordAndRead(t, given.Interface())
		if refused != nil || got == nil {
			return
		}
		back := reflect.New(typ).Elem()
		back.Set(reflect.ValueOf(got))
		if diff := difference(given, back, ""); diff != "" {
			encoded, _ := json.Marshal(given.Interface())
			t.Fatalf("%s\n%s\ngave %#v\ngot  %#v\nby   %.500s", typ, diff, given, back, encoded)
		}
	})
}

// A source makes types and values from bytes, and zeros once they are used up.
type source struct{ data []byte }

func (s *source) n(limit int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % limit
}

func typesOf(values ...any) (types []reflect.Type) {
	for _, pointer := range values {
		types = append(types, reflect.TypeOf(pointer).Elem())
	}
	return types
}

var (
	fuzzLeaves = typesOf(
		new(bool), new(int), new(int8), new(uint64), new(float64), new(float32), new(string), new(any), new([]byte),
		new(time.Time), new(big.Int), new(netip.Addr), new(url.URL), new(json.RawMessage), new(json.Number), new(error), new(io.Reader),
		new(sync.Mutex), new(struct{}), new(chan int), new(activity.Status), new(activity.State), new(time.Duration),
		new(unexportedOnly), new(unexportedBeside), new(inner), new(Outer), new(MayVanish), new(recursive), new(selfEmbedding),
		new(onlyMarshalJSON), new(onlyUnmarshalText), new(textOnlyUnmarshalText), new(Lenient), new(LenientInt), new(Whole), new(ByPointer),
		new(Stamp), new(onlyTime), new(rawText), new(color), new(shout), new(namedPointer), new(*ByPointer),
		new(embedsPointer), new(embedsVanishing), new(embedsOuter), new(embedsMore), new(embedsMost), new(Count),
		new(halfStamp), new(embedsMethods), new(embedsNamed), new(embedsBoth), new(embedsLenient), new(embedsLock), new(embedsRaw),
		new(embedsNumber), new(embedsInterface), new(embedsNilTime),
	)
	fuzzKeys = typesOf(
		new(string), new(int8), new(uint64), new(shout), new(folded), new(trimmed), new(color), new(rawText), new(netip.Addr), new(time.Time),
		new(float64), new(any), new(intOnlyUnmarshalText), new(ByPointer), new(Whole), new(textOnlyUnmarshalText), new(time.Duration),
	)
	// Without methods, since reflect.StructOf makes broken types of those with methods.
	fuzzEmbedded = typesOf(
		new(inner), new(Outer), new(*Outer), new(*inner), new(MayVanish), new(*MayVanish), new(Count), new(recursive),
		new(unexportedOnly), new(unexportedBeside), new(embedsPointer), new(*embedsVanishing), new(embedsMore), new(*embedsOuter),
		new(embedsMost), new(struct{}), new(any), new(DeepUnexported), new(*Count),
	)
	fuzzTags = []reflect.StructTag{"", `json:"A"`, `json:"x"`, `json:"X"`, `json:"x,omitempty"`, `json:",omitempty"`, `json:",omitzero"`,
		`json:",string"`, `json:",omitempty,string"`, `json:"-"`, `json:"-,"`, `json:"a b\"c"`, `json:"<é>"`, `json:"\xff"`, `json:","`}
)

type DeepUnexported deepUnexported

type embedsMethods struct {
	Whole
	N int `json:"-"`
}

type embedsNamed struct {
	rawText `json:"t"`
	color   `json:"c"`
	Whole   `json:"w"`
}

type embedsBoth struct {
	Whole
	Other
}

type embedsLenient struct {
	Lenient
	_ int
}

type embedsLock struct {
	sync.Mutex
	*sync.RWMutex
	N int
}

type embedsRaw struct{ json.RawMessage }

type embedsNumber struct {
	json.Number
	N int
}

type embedsInterface struct {
	any
	N int
}

// Linters do not see that the fields are filled.
var (
	_ = embedsNamed{rawText{}, 0, Whole{}}
	_ = embedsInterface{nil, 0}
)

type embedsNilTime struct{ *time.Time }

type embedsMore struct {
	inner
	*embedsOuter
	MayVanish `json:",omitempty"`
	D         int `json:"d"`
}

type embedsMost struct {
	inner     `json:"in"`
	MayVanish `json:"v,omitzero"`
	*Outer    `json:",omitempty"`
	Count     `json:",string"`
	D         any `json:"d,omitempty"`
}

func (s *source) typ(depth int) (t reflect.Type) {
	kind := s.n(10)
	if depth == 0 {
		kind = 0
	}
	switch kind {
	case 4:
		return reflect.SliceOf(s.typ(depth - 1))
	case 5:
		return reflect.ArrayOf(s.n(3), s.typ(depth-1))
	case 6:
		return reflect.MapOf(fuzzKeys[s.n(len(fuzzKeys))], s.typ(depth-1))
	case 7:
		return reflect.PointerTo(s.typ(depth - 1))
	case 8, 9:
		// reflect.StructOf does not make all structs. A plain field stands for the others.
		defer func() {
			if recover() != nil {
				t = fuzzEmbedded[s.n(len(fuzzEmbedded))]
			}
		}()
		var fields []reflect.StructField
		for i := range 1 + s.n(4) {
			field := reflect.StructField{Name: string(rune('A' + i)), Tag: fuzzTags[s.n(len(fuzzTags))]}
			if s.n(3) == 0 {
				field.Type = fuzzEmbedded[s.n(len(fuzzEmbedded))]
				base := field.Type
				if base.Kind() == reflect.Pointer {
					base = base.Elem()
				}
				if field.Name = base.Name(); field.Name != "" {
					field.Anonymous = true
				} else {
					field.Name = string(rune('A' + i))
				}
				if first := field.Name[0]; first >= 'a' {
					field.PkgPath = "github.com/seed-9da638b0/activity_test"
				}
			} else {
				field.Type = s.typ(depth - 1)
				if s.n(8) == 0 {
					field.Name, field.PkgPath = strings.ToLower(field.Name), "github.com/seed-9da638b0/activity_test"
				}
			}
			fields = append(fields, field)
		}
		return reflect.StructOf(fields)
	}
	return fuzzLeaves[s.n(len(fuzzLeaves))]
}

func (s *source) text() string {
	texts := []string{"", "a", "A", " a", "null", "5", "\xff", "a\xc3", "<&>\u2028", "\ufffd", "\\ufffd", "\x00", "\"", "é😀", "true"}
	return texts[s.n(len(texts))]
}

func (s *source) number() int64 {
	numbers := []int64{0, 1, -1, 5, 127, 1 << 53, 1<<53 + 1, math.MaxInt64, math.MinInt64, 60, 1e9}
	return numbers[s.n(len(numbers))]
}

// fill sets v, whose fields may be unexported, and which has an address.
func (s *source) fill(v reflect.Value, depth int) {
	v = reflect.NewAt(v.Type(), v.Addr().UnsafePointer()).Elem()
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		times := []time.Time{{}, time.Now(), time.Unix(5, 7).UTC(), amsterdam1900(), time.Time{}.In(time.FixedZone("x", 61)),
			time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2024, 1, 1, 0, 0, 0, 1, time.FixedZone("x", -5400)), time.Date(1, 1, 1, 0, 0, 0, 0, time.FixedZone("x", -25*3600))}
		*p = times[s.n(len(times))]
		return
	case *big.Int:
		p.Mul(big.NewInt(s.number()), big.NewInt(s.number()))
		return
	case *netip.Addr:
		addrs := []netip.Addr{{}, netip.MustParseAddr("1.2.3.4"), netip.MustParseAddr("::ffff:1.2.3.4"), netip.MustParseAddr("fe80::1").WithZone(s.text())}
		*p = addrs[s.n(len(addrs))]
		return
	case *json.RawMessage:
		raws := []string{"null", "1", ` {"a" : "<"} `, "", "1 2", "\"\xff\"", "[" + strings.Repeat(" ", 30_000) + "]", strings.Repeat("[", 9_998) + strings.Repeat("]", 9_998), `"\ud800"`}
		if i := s.n(len(raws) + 1); i < len(raws) {
			*p = json.RawMessage(raws[i])
		}
		return
	case *json.Number:
		numbers := []json.Number{"", "1", "-0", "1e400", "x", "1.50"}
		*p = numbers[s.n(len(numbers))]
		return
	case *sync.Mutex, *activity.Status:
		return
	case *error:
		if s.n(2) == 1 {
			*p = errBoom
		}
		return
	case *io.Reader:
		if s.n(2) == 1 {
			*p = strings.NewReader("")
		}
		return
	case *any:
		if s.n(4) > 0 && depth > 0 {
			in := reflect.New(s.typ(2)).Elem()
			s.fill(in, depth-1)
			*p = in.Interface()
		}
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(s.n(2) == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(s.number())
		if v.Type() == reflect.TypeFor[color]() || v.Type() == reflect.TypeFor[activity.State]() {
			v.SetInt(v.Int() & 3)
		}
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(s.number()))
	case reflect.Float32, reflect.Float64:
		floats := []float64{0, math.Copysign(0, -1), 0.1, 1e300, 1 << 53, math.NaN(), math.Inf(1), -2.5e-7, 1e21}
		v.SetFloat(floats[s.n(len(floats))])
	case reflect.String:
		v.SetString(s.text())
	case reflect.Pointer:
		if s.n(3) > 0 && depth > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			s.fill(v.Elem(), depth-1)
		}
	case reflect.Slice:
		if n := s.n(4); n > 0 && depth > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n))
			for i := range n - 1 {
				s.fill(v.Index(i), depth-1)
			}
		}
	case reflect.Array:
		for i := range v.Len() {
			s.fill(v.Index(i), depth-1)
		}
	case reflect.Map:
		n := s.n(4)
		if n == 0 || depth <= 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range n - 1 {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			if key.Kind() != reflect.Interface { // it may hold what is not comparable
				s.fill(key, depth-1)
			}
			s.fill(elem, depth-1)
			v.SetMapIndex(key, elem)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			s.fill(v.Field(i), depth-1)
		}
	}
}

// difference says where back is not what was given, but for what Config.Codec allows.
// Both have an address. tag is that of the field that they are in.
func difference(given, back reflect.Value, tag string) string {
	given = reflect.NewAt(given.Type(), given.Addr().UnsafePointer()).Elem()
	back = reflect.NewAt(back.Type(), back.Addr().UnsafePointer()).Elem()
	wrong := fmt.Sprintf(": %#v became %#v", given, back)
	equal := func(equal bool) string {
		if equal {
			return ""
		}
		return wrong
	}
	if strings.Contains(tag, ",omit") && given.IsZero() && back.IsZero() {
		return "" // reflect takes some negative zeros for zeros
	}
	if z, ok := given.Interface().(interface{ IsZero() bool }); ok && given.Kind() != reflect.Interface && strings.Contains(tag, ",omitzero") && back.IsZero() {
		if given.Kind() == reflect.Pointer && given.IsNil() || z.IsZero() {
			return ""
		}
	}
	switch g := given.Addr().Interface().(type) {
	case *time.Time:
		return equal(g.Equal(back.Interface().(time.Time)))
	case *big.Int:
		return equal(g.Cmp(back.Addr().Interface().(*big.Int)) == 0)
	case *json.RawMessage:
		return equal(len(*g) == 0 && back.Len() == 0 && strings.Contains(tag, ",omit") || canonical(*g) == canonical(back.Bytes()))
	case *any:
		encoded, _ := json.Marshal(*g)
		var want any
		if err := json.Unmarshal(encoded, &want); err != nil {
			return err.Error()
		}
		return equal(reflect.DeepEqual(want, back.Interface()))
	case *folded, *trimmed, *shout, *sync.Mutex:
		return "" // what its own methods do
	}
	switch given.Kind() {
	case reflect.Pointer:
		if given.IsNil() || back.IsNil() {
			encoded, _ := json.Marshal(given.Interface())
			return equal(given.IsNil() && back.IsNil() || back.IsNil() && string(encoded) == "null")
		}
		return difference(given.Elem(), back.Elem(), "")
	case reflect.Slice, reflect.Map, reflect.Array:
		if given.Len() != back.Len() {
			return wrong
		}
		if given.Kind() != reflect.Array && given.IsNil() != back.IsNil() && !strings.Contains(tag, ",omitempty") {
			return wrong
		}
		if given.Kind() != reflect.Map {
			for i := range given.Len() {
				if diff := difference(given.Index(i), back.Index(i), ""); diff != "" {
					return "[]" + diff
				}
			}
			return ""
		}
		for entry := given.MapRange(); entry.Next(); {
			found := false
			for other := back.MapRange(); other.Next() && !found; {
				found = difference(addressed(entry.Key()), addressed(other.Key()), "") == "" &&
					difference(addressed(entry.Value()), addressed(other.Value()), "") == ""
			}
			if !found {
				return wrong
			}
		}
		return ""
	case reflect.Struct:
		for i := range given.NumField() {
			f := given.Type().Field(i)
			tag := f.Tag.Get("json")
			if tag == "-" || f.Name == "_" {
				continue
			}
			if diff := difference(given.Field(i), back.Field(i), tag); diff != "" {
				return "." + f.Name + diff
			}
		}
		return ""
	case reflect.Float32, reflect.Float64:
		return equal(math.Float64bits(given.Float()) == math.Float64bits(back.Float()))
	}
	return equal(reflect.DeepEqual(given.Interface(), back.Interface()))
}

// canonical is JSON without spaces, escaped in one way.
func canonical(raw []byte) string {
	var compact, escaped bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return err.Error()
	}
	json.HTMLEscape(&escaped, compact.Bytes())
	return escaped.String()
}

func addressed(v reflect.Value) reflect.Value {
	p := reflect.New(v.Type()).Elem()
	p.Set(v)
	return p
}
