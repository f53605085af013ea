package ontemporal_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
)

// noRaw is a data converter that knows no RawValue.
type noRaw struct{ converter.DataConverter }

func (noRaw) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	all := &commonpb.Payloads{}
	for _, v := range values {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		all.Payloads = append(all.Payloads, &commonpb.Payload{Data: data})
	}
	return all, nil
}

// panicky panics for a RawValue.
type panicky struct{ converter.DataConverter }

func (c panicky) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	for _, v := range values {
		if _, ok := v.(converter.RawValue); ok {
			panic("a struct without fields")
		}
	}
	return c.DataConverter.ToPayloads(values...)
}

// lenient encodes whatever it is given.
type lenient struct{ converter.DataConverter }

func (c lenient) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	if p, err := c.DataConverter.ToPayloads(values...); err == nil {
		return p, nil
	}
	return &commonpb.Payloads{}, nil
}

// Given a client whose data converter cannot take heartbeat details, then nothing is started, and the
// error says what it lacks. Other converters, with a codec or lenient, are accepted, and no heartbeat
// is sent to try them.
func TestStart_DataConverter(t *testing.T) {
	inner := converter.GetDefaultDataConverter()
	for _, test := range []struct {
		name string
		dc   converter.DataConverter
		want string
	}{
		{"default", inner, ""},
		{"codec", converter.NewCodecDataConverter(inner, converter.NewZlibCodec(converter.ZlibCodecOptions{AlwaysEncode: true})), ""},
		{"lenient", lenient{inner}, ""},
		{"no RawValue", noRaw{inner}, "RawValue is not JSON serializable"},
		{"panics", panicky{inner}, "it panicked: a struct without fields"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMemory(t, test.dc)
			opts := activity.Options{ID: "a", Name: "f", StartToCloseTimeout: time.Hour}
			_, err := ontemporal.Start(context.Background(), m, "queue", opts, func(activity.Context, int) (int, error) { return 0, nil }, 7)
			if test.want == "" {
				checkErr(t, err, nil)
			} else if err == nil || !strings.HasPrefix(err.Error(), `activity "a": not started: the client's data converter must accept converter.RawValue`) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
			if (m.started != nil) != (test.want == "") {
				t.Errorf("started: %t", m.started != nil)
			}
		})
	}
}

// Given a data converter that panics at a heartbeat, then the heartbeat returns that as its error, and
// the attempt continues.
func TestHeartbeat_DataConverterPanics(t *testing.T) {
	inCluster(t, func(t *testing.T, c *cluster) {
		c.SetDataConverter(panicky{converter.GetDefaultDataConverter()})
		_, err := run(c, options{RetryPolicy: once}, func(ctx activity.Context, _ int) (int, error) {
			err := ctx.Heartbeat(1)
			if !isNonRetryable(err) || !strings.Contains(err.Error(), "a struct without fields") || errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			return 0, ctx.Err()
		}, 0)
		checkErr(t, err, nil)
	})
}
