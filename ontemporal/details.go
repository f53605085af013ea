package ontemporal

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/strictjson"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
)

// details are heartbeat details as Temporal has them: one payload for each value. They
// are immutable. This package encodes them as the embedded runtime's default Codec does,
// because the SDK's converter drops unexported fields and reads a renamed field as zero.
// The activity would then silently start from the beginning.
type details []converter.RawValue

// maxDetailsSize is the default limit of a Temporal server, less the overhead of a
// request.
const maxDetailsSize = 2<<20 - 4<<10

func encode(values []any) (details, error) {
	var all []json.RawMessage
	size := 0
	for i, v := range values {
		value, err := marshal(v)
		if err != nil {
			return nil, fmt.Errorf("cannot encode value %d of %d (%T): %w", i+1, len(values), v, err)
		}
		size += len(value)
		all = append(all, value)
	}
	return fromJSON(all), checkSize(size)
}

// encodeForSDK encodes what the function gave to the SDK's RecordHeartbeat, as the SDK does by
// default.
func encodeForSDK(values []any) (d details, err error) {
	encoded, err := converter.GetDefaultDataConverter().ToPayloads(values...)
	if err != nil {
		return nil, err
	}
	for _, p := range encoded.GetPayloads() {
		d = append(d, converter.NewRawValue(p))
	}
	return d, checkSize(d.size())
}

func checkSize(size int) error {
	if size > maxDetailsSize {
		return fmt.Errorf("%w: %d bytes encoded, and the limit of a Temporal server is %d", activity.ErrDetailsTooLarge, size, maxDetailsSize)
	}
	return nil
}

// marshal returns a panic of v's methods as an error, as the embedded runtime does.
func marshal(v any) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Codec.Marshal panicked: %w", &activity.PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	return strictjson.Marshal(v)
}

func fromJSON(values []json.RawMessage) details {
	var d details
	for _, v := range values {
		d = append(d, converter.NewRawValue(&commonpb.Payload{
			Metadata: map[string][]byte{converter.MetadataEncoding: []byte(converter.MetadataEncodingJSON)},
			Data:     v,
		}))
	}
	return d
}

// checkConverter returns an error if the data converter of c cannot take details, which are
// [converter.RawValue]. It encodes one of them for a heartbeat that is never sent, because the next
// value cannot be encoded.
func checkConverter(ctx context.Context, c client.Client) (err error) {
	last := &lastValue{}
	defer func() {
		if v := recover(); v != nil && !last.reached {
			err = fmt.Errorf("it panicked: %v", v)
		}
		if last.reached {
			err = nil
		}
		if err != nil {
			err = fmt.Errorf("the client's data converter must accept converter.RawValue, as the SDK says, because heartbeat details are encoded already: %w", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = c.RecordActivityHeartbeatWithOptions(ctx, client.RecordActivityHeartbeatOptions{
		TaskToken: []byte("no task"), Details: []any{fromJSON([]json.RawMessage{[]byte("1")})[0], last},
	})
	var server serviceerror.ServiceError
	if errors.As(err, &server) || ctx.Err() != nil { // not the converter's
		err = nil
	}
	return err
}

// A lastValue cannot be encoded, and notes whether a converter has come to it.
type lastValue struct{ reached bool }

var errLastValue = errors.New("the last value")

func (v *lastValue) MarshalJSON() ([]byte, error)   { v.reached = true; return nil, errLastValue }
func (v *lastValue) MarshalText() ([]byte, error)   { return v.MarshalJSON() }
func (v *lastValue) MarshalBinary() ([]byte, error) { return v.MarshalJSON() }

// recorded returns the details that the server gave to the attempt.
func recorded(sdk context.Context) (details, error) {
	if !sdkactivity.HasHeartbeatDetails(sdk) {
		return nil, nil
	}
	return read(func(into ...any) error { return sdkactivity.GetHeartbeatDetails(sdk, into...) })
}

// read returns all details. It does not know their number, and get fills in as many as it
// is given variables.
func read(get func(into ...any) error) (details, error) {
	for n := 4; ; n *= 2 {
		d := make(details, n)
		into := make([]any, n)
		for i := range d {
			into[i] = &d[i]
		}
		if err := get(into...); err != nil {
			return nil, err
		}
		if end := slices.IndexFunc(d, func(v converter.RawValue) bool { return v.Payload() == nil }); end >= 0 {
			return d[:end], nil
		}
	}
}

// anys returns the details as the SDK's functions take them.
func (d details) anys() []any {
	all := make([]any, len(d))
	for i, v := range d {
		all[i] = v
	}
	return all
}

// json returns the values. Details that another program recorded may not be JSON, which is
// an error.
func (d details) json() ([]json.RawMessage, error) {
	var values []json.RawMessage
	for i, v := range d {
		switch encoding := encodingOf(v.Payload()); {
		case strings.HasPrefix(encoding, "json/"):
			values = append(values, v.Payload().GetData())
		case encoding == converter.MetadataEncodingNil:
			values = append(values, json.RawMessage("null"))
		default:
			return nil, fmt.Errorf("value %d was recorded as %s, which is not JSON", i+1, encoding)
		}
	}
	return values, nil
}

// framed returns the details as an [activity.TimeoutError] has them. They are nil if a
// value is not JSON.
func (d details) framed() []byte {
	values, err := d.json()
	if err != nil {
		return nil
	}
	var all []byte
	for _, v := range values {
		all = binary.AppendUvarint(all, uint64(len(v)))
		all = append(all, v...)
	}
	return all
}

func (d details) size() int {
	n := 0
	for _, v := range d {
		n += len(v.Payload().GetData())
	}
	return n
}

func (d details) equal(other details) bool {
	return slices.EqualFunc(d, other, func(a, b converter.RawValue) bool { return samePayload(a.Payload(), b.Payload()) })
}
