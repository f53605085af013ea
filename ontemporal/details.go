package ontemporal

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/seed-9da638b0/activity"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
)

// Heartbeat details are JSON, one payload for each value, and are read as the
// embedded runtime's default Codec reads them: the SDK's would take a renamed field
// for a zero, and start from the beginning.

func encode(details []any) ([]json.RawMessage, error) {
	values := make([]json.RawMessage, len(details))
	size := 0
	for i, d := range details {
		value, err := json.Marshal(d)
		if err != nil {
			return nil, fmt.Errorf("cannot encode value %d of %d, a %T: %w", i+1, len(details), d, err)
		}
		if size += len(value); size > maxDetailsSize {
			return nil, fmt.Errorf("%w: %d bytes encoded, and a Temporal server takes %d", activity.ErrDetailsTooLarge, size, maxDetailsSize)
		}
		values[i] = value
	}
	return values, nil
}

// anys is values as the SDK takes them.
func anys(values []json.RawMessage) []any {
	all := make([]any, len(values))
	for i, v := range values {
		all[i] = v
	}
	return all
}

// recorded are the details that the attempt got from the server.
func recorded(sdk context.Context) ([]json.RawMessage, error) {
	if !sdkactivity.HasHeartbeatDetails(sdk) {
		return nil, nil
	}
	return decode(func(into ...any) error { return sdkactivity.GetHeartbeatDetails(sdk, into...) })
}

// decode reads all payloads there are by get, which fills in as many as it is asked
// for.
func decode(get func(into ...any) error) ([]json.RawMessage, error) {
	for n := 4; ; n *= 2 {
		raw := make([]converter.RawValue, n)
		into := make([]any, n)
		for i := range raw {
			into[i] = &raw[i]
		}
		if err := get(into...); err != nil {
			return nil, err
		}
		if raw[n-1].Payload() == nil {
			return values(raw)
		}
	}
}

func values(raw []converter.RawValue) ([]json.RawMessage, error) {
	var values []json.RawMessage
	for _, r := range raw {
		p := r.Payload()
		if p == nil {
			break
		}
		switch encoding := string(p.GetMetadata()[converter.MetadataEncoding]); {
		case strings.HasPrefix(encoding, "json/"):
			values = append(values, p.GetData())
		case encoding == converter.MetadataEncodingNil:
			values = append(values, json.RawMessage("null"))
		default:
			return nil, fmt.Errorf("heartbeat details: value %d was recorded as %s, which is not JSON", len(values)+1, encoding)
		}
	}
	return values, nil
}

// framed is values as an [activity.TimeoutError] has them.
func framed(values []json.RawMessage) []byte {
	var details []byte
	for _, v := range values {
		details = binary.AppendUvarint(details, uint64(len(v)))
		details = append(details, v...)
	}
	return details
}
