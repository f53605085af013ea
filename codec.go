package activity

import (
	"fmt"
	"reflect"

	"github.com/seed-9da638b0/activity/internal/strictjson"
)

// A Codec encodes heartbeat details and inputs as bytes, and decodes them. It must be safe
// for concurrent use. Marshal must not keep or reuse the bytes that it returns. Unmarshal
// may keep the bytes that it gets.
//
// Marshal should return the same bytes for the same input, because a start is refused if
// its input differs from the stored one. If Marshal does not, for example because it
// encrypts with a random nonce, continue activities with [Runtime.Recover], which uses the
// stored input, or set Options.AcceptNewInput.
//
// The default Codec is a strict form of encoding/json: a value that it accepts decodes to an
// equal value, and it refuses all others. Its Marshal returns an error, which names the type
// and the field, for values that encoding/json would silently drop or change, and for values
// that encoding/json encodes but cannot decode:
//   - A struct none of whose fields is encoded. An unexported field, unless its size
//     is zero, it is a Mutex, RWMutex, Once, WaitGroup, Cond or Pool of package sync (or an
//     array of them), or it is tagged `json:"-"`. Exported fields may be left out with that
//     tag too.
//   - A type that has MarshalJSON without UnmarshalJSON, or MarshalText without
//     UnmarshalText. A method of an embedded field that leaves out the other fields, as in
//     struct{ time.Time; Page int }. Methods with pointer receivers where encoding/json
//     does not find them, as in a map[string]big.Int.
//   - Fields that hide each other, because they have the same JSON name.
//   - A value in an interface type other than any. An embedded pointer to an unexported
//     struct, or to a struct all of whose fields may be left out, if it is not nil.
//   - A string or a map key that is not valid UTF-8. Map keys that are encoded as the same
//     text, or that decode to another key.
//   - A json.Number that is empty or not a number, a nil json.RawMessage, NaN, infinity, and
//     a time that RFC 3339 cannot express, such as one in a zone whose offset has seconds.
//   - A value that is nested more than 10,000 deep, or that contains itself.
//
// A refused type is also refused as the element type of an empty slice or map. A nil
// pointer to it is accepted.
//
// An accepted value may change only in these ways:
//   - A time loses its monotonic clock reading and the name of its zone.
//   - A json.RawMessage may have other spaces and other escapes.
//   - With omitempty and omitzero, values that these options leave out decode as zero: an
//     empty slice or map as nil, and a pointer to a value whose IsZero reports true as nil
//     too.
//   - A pointer to a value that is encoded as null, such as a nil slice, decodes as nil. Two
//     pointers to one value decode as pointers to two values.
//   - A value in an any decodes as encoding/json decodes an any: numbers as float64, slices
//     as []any, a []byte as a base64 string, structs and maps as map[string]any, and times
//     as strings.
//   - A float64 holds integers up to 2^53 exactly. Larger integers are rounded if they are
//     in an any, or if they were recorded as an integer and are decoded into a float64.
//   - A type with its own methods for encoding decodes as these methods define.
//
// Its Unmarshal refuses fields that the target lacks, or whose names differ in case; an
// array whose length differs from the target's; a null as the whole of a value that cannot
// be nil; and anything after the value.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// jsonCodec is the default Codec. It is strict, so that details that would lose data, or
// that another version of the program recorded, are an error. With encoding/json itself,
// an activity could silently resume from the wrong place.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return strictjson.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return strictjson.Unmarshal(data, v) }

// These types have a MarshalJSON for people, which does not keep all bytes, and an
// UnmarshalJSON that fails. So they must be refused when they are recorded.
func init() {
	strictjson.OneWay(reflect.TypeFor[Status](), reflect.TypeFor[Event](), reflect.TypeFor[Checkpoint]())
}

// marshal calls c.Marshal, and turns a panic into an error.
func marshal(c Codec, v any) (data []byte, err error) {
	defer panicToError("Codec.Marshal", &err)
	return c.Marshal(v)
}

// unmarshal calls c.Unmarshal, and turns a panic into an error.
func unmarshal(c Codec, data []byte, v any) (err error) {
	defer panicToError("Codec.Unmarshal", &err)
	return c.Unmarshal(data, v)
}

// panicToError turns a panic of where into an error. It must be deferred itself, because
// recover works only in the deferred function.
func panicToError(where string, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%s panicked: %w", where, newPanicError(v))
	}
}
