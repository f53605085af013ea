package ontemporal

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
)

// leftBehind returns the details from which a new execution of the ID resumes. As with a
// Store, they are those of the last execution, if that failed, was canceled or timed out.
// They are nil if there are none, or if the server has forgotten the execution. An error
// means that the new execution must not start.
//
// Another caller's execution may start and end between this call and the start. It is
// neither compared nor resumed. The server offers no way to prevent that.
func leftBehind[In any](ctx context.Context, c client.Client, o *activity.Options, in In) (details, error) {
	d, err := c.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: o.ID}).Describe(ctx, describeDetails)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	switch {
	case d.Status == enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED:
		return nil, nil
	case !hasEnded(d):
		// If it ended before the start, the start would lose its details.
		return nil, activity.ErrAlreadyRunning
	}
	if err := compare(d, o, in); err != nil {
		return nil, err
	}
	left, err := newestDetails(d)
	if err != nil {
		return nil, unreadable(err)
	}
	return left, nil
}

func unreadable(err error) error {
	return fmt.Errorf("cannot read its last execution: %w", err)
}

// compare returns an error if d is an execution of another activity than the one to start.
func compare[In any](d *client.ActivityExecutionDescription, o *activity.Options, in In) error {
	const drop = "or delete that execution (temporal activity delete)"
	if o.Name != "" && o.Name != d.ActivityType {
		return fmt.Errorf("%w: the name on the server is %q (%s, attempt %d), the new one %q; use another ID, %s",
			activity.ErrCheckpointMismatch, d.ActivityType, state(d), attempts(d), o.Name, drop)
	}
	if o.AcceptNewInput || !d.HasInput() { // another program's execution may have no input
		return nil
	}
	difference, err := compareInput(d, in)
	if err != nil {
		return unreadable(err)
	}
	if difference == nil {
		return nil
	}
	return fmt.Errorf("%w: %w; use the input on the server, set Options.AcceptNewInput to continue with the new one, use another ID, %s",
		activity.ErrCheckpointMismatch, difference, drop)
}

// compareInput returns how d's input and in differ, or nil if they do not. The client's
// data converter decodes d's input. Both are encoded with the default converter, because
// the SDK gives no access to the client's.
func compareInput[In any](d *client.ActivityExecutionDescription, in In) (difference, err error) {
	if n := len(d.RawResponse.GetInput().GetPayloads()); n > 2 {
		return fmt.Errorf("the execution on the server (%s, attempt %d) has %d arguments, the new one has one", state(d), attempts(d), n), nil
	}
	var stored converter.RawValue
	if err := d.GetInput(&stored); err != nil {
		return nil, err
	}
	encoding := converter.GetDefaultDataConverter()
	encoded, inErr := encoding.ToPayload(in)
	if inErr == nil && samePayload(stored.Payload(), encoded) { // even if decoding changes it, as with a large number in an any
		return nil, nil
	}
	var old In
	var ours start
	if err := d.GetInput(&old, &ours); err != nil {
		return fmt.Errorf("the input on the server %s (%s, attempt %d) cannot be decoded into the new one's type (%w)", excerpt(stored.Payload()), state(d), attempts(d), err), nil
	}
	again, oldErr := encoding.ToPayload(old)
	if inErr != nil || oldErr != nil { // the client's converter may accept more than the default one
		if reflect.DeepEqual(old, in) {
			return nil, nil
		}
		return fmt.Errorf("the input on the server (%s, attempt %d) is another %T", state(d), attempts(d), in), nil
	}
	if samePayload(again, encoded) {
		return nil, nil
	}
	return fmt.Errorf("the input on the server is %s (%s, attempt %d), the new one %s", excerpt(again), state(d), attempts(d), excerpt(encoded)), nil
}

func samePayload(a, b *commonpb.Payload) bool {
	return bytes.Equal(a.GetData(), b.GetData()) && encodingOf(a) == encodingOf(b)
}

func encodingOf(p *commonpb.Payload) string {
	return string(p.GetMetadata()[converter.MetadataEncoding])
}

// excerpt returns the beginning of an input, for a text.
func excerpt(p *commonpb.Payload) string {
	const most = 100
	data := p.GetData()
	switch {
	case encodingOf(p) == converter.MetadataEncodingNil:
		return "null"
	case !utf8.Valid(data):
		return fmt.Sprintf("of %d bytes", len(data))
	case len(data) > most:
		return fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(string(data[:most]), ""), len(data))
	}
	return string(data)
}
