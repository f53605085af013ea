package activity

import (
	"fmt"
	"reflect"

	"github.com/seed-9da638b0/activity/internal/strictjson"
)

// A Codec turns heartbeat details and inputs into bytes and back. It must be
// safe for concurrent use, and Marshal must not keep what it returns; Unmarshal
// may keep what it gets. Marshal should give the same bytes for the same input, because
// a start is refused if its input differs from the stored one. If Marshal does not, because
// it encrypts with a random nonce, for instance, continue activities with
// [Runtime.Recover], which uses the stored input, or set Options.AcceptNewInput.
//
// The default Codec is encoding/json, but it gives back what it took, or refuses. Its
// Marshal returns an error that names the type and the field for what encoding/json
// would drop or change without one, and for what it encodes but cannot decode:
//   - A struct none of whose fields is encoded. An unexported field, unless its size
//     is zero, it is a Mutex, RWMutex, Once, WaitGroup, Cond or Pool of package sync (or an
//     array of them), or it is tagged `json:"-"`. Exported fields may be left out with that
//     tag too.
//   - MarshalJSON without UnmarshalJSON, or MarshalText without UnmarshalText; a method
//     of an embedded field that leaves out the other fields, as in
//     struct{ time.Time; Page int }; methods with pointer receivers where encoding/json
//     does not find them, as in a map[string]big.Int.
//   - Fields that hide each other, because they have the same JSON name.
//   - A value in an interface type other than any. An embedded pointer to an unexported
//     struct, or to a struct all of whose fields may be left out, if it is not nil.
//   - A string or a map key that is not valid UTF-8. Map keys that are encoded as the same
//     text, or that do not come back.
//   - A json.Number that is empty or not a number, a nil json.RawMessage, NaN, infinity, and
//     a time that RFC 3339 does not have, such as one in a zone whose offset has seconds.
//   - A value that is nested more than 10,000 deep, or that contains itself.
//
// A refused type is refused in an empty slice or map too. A nil pointer to it is taken.
//
// What it takes may change in these ways only:
//   - A time loses its monotonic clock reading and the name of its zone.
//   - A json.RawMessage may have other spaces and other escapes.
//   - Under omitempty and omitzero, what these options leave out comes back as zero: an
//     empty slice or map as nil, and a pointer to what its IsZero calls zero as nil, too.
//   - A pointer to what is encoded as null, such as a nil slice, comes back nil. Two
//     pointers to one value come back as pointers to two.
//   - What an any holds comes back as encoding/json decodes an any: numbers as float64,
//     slices as []any, a []byte as a string of base64, structs and maps as map[string]any,
//     times as strings.
//   - A float64 holds integers up to 2^53 exactly. Larger ones are rounded if they are in
//     an any, or if they were recorded as an integer and are decoded into a float64.
//   - A type with methods of its own comes back as these make it.
//
// Its Unmarshal refuses fields that the target lacks, or has in another case; an array of
// another length than the target's; a null as the whole of a value that cannot be nil; and
// anything after the value.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// jsonCodec is the default Codec. It refuses what encoding/json would pass over in
// silence, so that details that would lose data, or that were recorded by another version
// of the program, are an error and not a start from a wrong place.
type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return strictjson.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return strictjson.Unmarshal(data, v) }

func init() {
	strictjson.OneWay(reflect.TypeFor[Status](), reflect.TypeFor[Event](), reflect.TypeFor[Checkpoint]())
}

// marshal and unmarshal make a Codec's panic an error.

func marshal(c Codec, v any) (data []byte, err error) {
	defer panicToError("Codec.Marshal", &err)
	return c.Marshal(v)
}

func unmarshal(c Codec, data []byte, v any) (err error) {
	defer panicToError("Codec.Unmarshal", &err)
	return c.Unmarshal(data, v)
}

func panicToError(where string, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("%s panicked: %w", where, newPanicError(v))
	}
}
