package ontemporal_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	activitypb "go.temporal.io/api/activity/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	failedStatus    = enumspb.ACTIVITY_EXECUTION_STATUS_FAILED
	canceledStatus  = enumspb.ACTIVITY_EXECUTION_STATUS_CANCELED
	timedOutStatus  = enumspb.ACTIVITY_EXECUTION_STATUS_TIMED_OUT
	completedStatus = enumspb.ACTIVITY_EXECUTION_STATUS_COMPLETED
	runningStatus   = enumspb.ACTIVITY_EXECUTION_STATUS_RUNNING
	pausedStatus    = enumspb.ACTIVITY_EXECUTION_STATUS_PAUSED
)

// A memory is a server that remembers one execution and accepts one start. Its client is
// the SDK's, so that data converters are used.
type memory struct {
	client.Client
	dc      converter.DataConverter
	last    *workflowservice.DescribeActivityExecutionResponse // the last execution; nil if there is none
	started *workflowservice.StartActivityExecutionRequest     // nil before the start
}

func newMemory(t *testing.T, dc converter.DataConverter) *memory {
	t.Helper()
	m := &memory{dc: dc}
	c, err := client.NewLazyClient(client.Options{
		DataConverter: dc, Logger: quiet,
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(m.answer)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	m.Client = c
	return m
}

// answer answers every call in place of a connection.
func (m *memory) answer(_ context.Context, _ string, request, reply any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
	switch request := request.(type) {
	case *workflowservice.GetSystemInfoRequest:
	case *workflowservice.DescribeActivityExecutionRequest:
		if m.last == nil {
			return serviceerror.ToStatus(serviceerror.NewNotFound("no such activity")).Err()
		}
		proto.Merge(reply.(proto.Message), m.last)
	case *workflowservice.StartActivityExecutionRequest:
		m.started = request
		reply.(*workflowservice.StartActivityExecutionResponse).RunId = "run"
	default:
		return serviceerror.ToStatus(serviceerror.NewNotFound("there is no other")).Err()
	}
	return nil
}

// remember makes an execution the last one. Its third attempt has recorded details,
// unless they are nil.
func (m *memory) remember(t *testing.T, status enumspb.ActivityExecutionStatus, name string, details any, args ...any) {
	t.Helper()
	info := &activitypb.ActivityExecutionInfo{
		ActivityId: "a", RunId: "before", ActivityType: &commonpb.ActivityType{Name: name}, Status: status, Attempt: 3,
		LastStartedTime: timestamppb.Now(), SearchAttributes: &commonpb.SearchAttributes{}, // the SDK needs them
	}
	if details != nil {
		info.HeartbeatDetails = m.encode(t, details)
	}
	m.last = &workflowservice.DescribeActivityExecutionResponse{Info: info, Input: m.encode(t, args...)}
}

func (m *memory) encode(t *testing.T, values ...any) *commonpb.Payloads {
	t.Helper()
	p, err := m.dc.ToPayloads(values...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// resumed returns the input and the details with which the activity was started.
func (m *memory) resumed(t *testing.T) string {
	t.Helper()
	if m.started == nil {
		return "not started"
	}
	var in converter.RawValue
	var start struct{ Details []any }
	if err := m.dc.FromPayloads(m.started.Input, &in, &start); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s from %v", in.Payload().GetData(), start.Details)
}

// A job is an activity's input.
type job struct {
	File string
	Rows []int
}

func work[In any](activity.Context, In) (string, error) { panic("called here") }

// zipped is a data converter that compresses.
var zipped = converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), converter.NewZlibCodec(converter.ZlibCodecOptions{AlwaysEncode: true}))

// launch starts an activity on m, and checks the error, the input and the details.
func launch[In any](t *testing.T, m *memory, opts activity.Options, in In, wantErr, want string) {
	t.Helper()
	_, err := ontemporal.Start(t.Context(), m, "queue", opts, work[In], in)
	switch {
	case wantErr == "":
		checkErr(t, err, nil)
	case err == nil || err.Error() != wantErr:
		t.Errorf("got the error\n%v, want\n%s", err, wantErr)
	case strings.Contains(wantErr, "another activity") != errors.Is(err, activity.ErrCheckpointMismatch):
		t.Errorf("ErrCheckpointMismatch: %t", errors.Is(err, activity.ErrCheckpointMismatch))
	}
	if got := m.resumed(t); got != want {
		t.Errorf("it was started with %s, want %s", got, want)
	}
}

const (
	otherName  = `activity "a": not started: the checkpoint of this ID belongs to another activity: the name on the server is "g" (failed, attempt 3), the new one "f"; use another ID, or delete that execution (temporal activity delete)`
	howToGoOn  = `; use the input on the server, set Options.AcceptNewInput to continue with the new one, use another ID, or delete that execution (temporal activity delete)`
	otherInput = `activity "a": not started: the checkpoint of this ID belongs to another activity: the input on the server is {"File":"old","Rows":[1]} (failed, attempt 3), the new one {"File":"new","Rows":null}` + howToGoOn
)

// Rule 31. Given an execution that has not completed, when its ID is started under another Name,
// then the start is refused, whatever the input and AcceptNewInput are.
func TestStart_AnotherNameIsRefused(t *testing.T) {
	for _, details := range []any{nil, 7} {
		for _, accept := range []bool{false, true} {
			m := newMemory(t, zipped)
			m.remember(t, failedStatus, "g", details, job{"old", nil})
			opts := hour
			opts.AcceptNewInput = accept
			launch(t, m, opts, job{"old", nil}, otherName, "not started")

			d := &activity.Definition[job, string]{Name: "f", Func: work[job], Options: activity.Options{StartToCloseTimeout: time.Hour, AcceptNewInput: accept}}
			if _, err := ontemporal.StartDefinition(t.Context(), m, "queue", d, "a", job{"old", nil}); err == nil || err.Error() != otherName {
				t.Errorf("got %v", err)
			}
			if _, err := ontemporal.ExecuteDefinition(t.Context(), m, "queue", d, "a", job{"old", nil}); err == nil || err.Error() != otherName {
				t.Errorf("got %v", err)
			}
		}
	}
}

// Rule 31. Given no Options.Name, then names are not compared.
func TestStart_NoNameIsNotCompared(t *testing.T) {
	m := newMemory(t, zipped)
	m.remember(t, failedStatus, "g", 7, job{"old", nil})
	opts := hour
	opts.Name = ""
	launch(t, m, opts, job{"old", nil}, "", `{"File":"old","Rows":null} from [7]`)
}

// Rule 31. Given an execution that has not completed, when its ID is started with another
// input, then the start is refused, even if no details were recorded.
func TestStart_AnotherInputIsRefused(t *testing.T) {
	for status, is := range map[enumspb.ActivityExecutionStatus]string{failedStatus: "failed", canceledStatus: "canceled", timedOutStatus: "failed"} {
		for _, details := range []any{nil, 7} {
			m := newMemory(t, zipped)
			m.remember(t, status, "f", details, job{"old", []int{1}})
			want := strings.Replace(otherInput, "failed", is, 1)
			launch(t, m, hour, job{"new", nil}, want, "not started")
			if _, err := ontemporal.Execute(t.Context(), m, "queue", hour, work[job], job{"new", nil}); err == nil || err.Error() != want {
				t.Errorf("got %v", err)
			}
		}
	}
}

// Rule 31. Given an execution that has not completed, when its ID is started with AcceptNewInput,
// then the new input counts, and the details are resumed.
func TestStart_AcceptNewInputResumes(t *testing.T) {
	for details, want := range map[any]string{nil: "[]", 7: "[7]"} {
		m := newMemory(t, zipped)
		m.remember(t, failedStatus, "f", details, job{"old", nil})
		opts := hour
		opts.AcceptNewInput = true
		launch(t, m, opts, job{"new", nil}, "", `{"File":"new","Rows":null} from `+want)
	}
}

// Rule 31. Given an execution that has completed or was forgotten, then it is not compared. If
// it is running, the start is refused with ErrAlreadyRunning.
func TestStart_OnlyUnfinishedIsCompared(t *testing.T) {
	for status, wantErr := range map[enumspb.ActivityExecutionStatus]string{
		0: "", completedStatus: "",
		runningStatus: `activity "a": not started: ` + activity.ErrAlreadyRunning.Error(), pausedStatus: `activity "a": not started: ` + activity.ErrAlreadyRunning.Error(),
	} {
		m := newMemory(t, zipped)
		if status != 0 {
			m.remember(t, status, "g", 7, job{"old", nil})
		}
		want := `{"File":"new","Rows":null} from []`
		if wantErr != "" {
			want = "not started"
		}
		launch(t, m, hour, job{"new", nil}, wantErr, want)
	}
}

// Rule 31. Given an input that means the same, when the ID is started again, then it resumes.
func TestStart_SameInputResumes(t *testing.T) {
	type grown struct {
		File string
		Rows []int
		Mode string
	}
	resumes(t, "a struct", job{"a", []int{1}}, job{"a", []int{1}}, `{"File":"a","Rows":[1]}`)
	resumes(t, "a new field", job{File: "a"}, grown{File: "a"}, `{"File":"a","Rows":null,"Mode":""}`)
	resumes(t, "a pointer", &job{File: "a"}, &job{File: "a"}, `{"File":"a","Rows":null}`)
	resumes(t, "a nil", (*job)(nil), (*job)(nil), "")
	resumes(t, "bytes", []byte("a\xff"), []byte("a\xff"), "a\xff")
	resumes(t, "a map", map[string]int{"b": 1, "a": 2}, map[string]int{"a": 2, "b": 1}, `{"a":2,"b":1}`)
	resumes(t, "a message", &commonpb.WorkflowType{Name: "w"}, &commonpb.WorkflowType{Name: "w"}, `{"name":"w"}`)
	// The number is decoded as a float64, and encoded as another number.
	resumes(t, "a large number in an any", any(int64(1<<53+1)), any(int64(1<<53+1)), "9007199254740993")
}

// resumes checks that an activity resumes if its last execution had the input old.
func resumes[In any](t *testing.T, name string, old any, in In, want string) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		m := newMemory(t, zipped)
		m.remember(t, failedStatus, "f", 7, old)
		launch(t, m, hour, in, "", want+" from [7]")
	})
}

// Rule 31. Given an execution whose input cannot be this function's, when its ID is started,
// then the start is refused, unless AcceptNewInput is set.
func TestStart_ForeignInputIsRefused(t *testing.T) {
	const foreign = `activity "a": not started: the checkpoint of this ID belongs to another activity: `
	for _, test := range []struct {
		name string
		args []any
		want string
	}{
		{"another type", []any{"old"}, foreign + `the input on the server "old" (failed, attempt 3) cannot be decoded into the new one's type (payload item 0: unable to decode: json: cannot unmarshal string into Go value of type ontemporal_test.job)` + howToGoOn},
		{"two values", []any{job{File: "old"}, "more"}, foreign + `the input on the server {"File":"old","Rows":null} (failed, attempt 3) cannot be decoded into the new one's type (payload item 1: unable to decode: json: cannot unmarshal string into Go value of type ontemporal.start)` + howToGoOn},
		{"three values", []any{job{File: "new"}, struct{}{}, 1}, foreign + `the execution on the server (failed, attempt 3) has 3 arguments, the new one has one` + howToGoOn},
		{"a long one", []any{job{File: strings.Repeat("x", 200)}}, foreign + `the input on the server is {"File":"` + strings.Repeat("x", 91) + `... (223 bytes) (failed, attempt 3), the new one {"File":"new","Rows":null}` + howToGoOn},
		{"no text", []any{[]byte("a\xff")}, foreign + `the input on the server of 2 bytes (failed, attempt 3) cannot be decoded into the new one's type (payload item 0: type *ontemporal_test.job: type is not *[]byte)` + howToGoOn},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMemory(t, zipped)
			m.remember(t, failedStatus, "f", 7, test.args...)
			launch(t, m, hour, job{File: "new"}, test.want, "not started")
			opts := hour
			opts.AcceptNewInput = true
			launch(t, m, opts, job{File: "new"}, "", `{"File":"new","Rows":null} from [7]`)
		})
	}
}

// Rule 31. Given an input of bytes that are JSON, then the value that they encode is another
// input.
func TestStart_BytesAreNoJSON(t *testing.T) {
	m := newMemory(t, zipped)
	m.remember(t, failedStatus, "f", 7, []byte("1"))
	_, err := ontemporal.Start(t.Context(), m, "queue", hour, work[any], any(1))
	checkErr(t, err, activity.ErrCheckpointMismatch)
}

// Rule 31. Given an execution of another program without input, then inputs are not compared.
func TestStart_NoInputIsNotCompared(t *testing.T) {
	m := newMemory(t, zipped)
	m.remember(t, failedStatus, "f", 7)
	launch(t, m, hour, job{File: "new"}, "", `{"File":"new","Rows":null} from [7]`)
}

// Given an execution whose input cannot be read, then the start is refused, and not with
// ErrCheckpointMismatch.
func TestStart_UnreadableInputIsNoMismatch(t *testing.T) {
	m := newMemory(t, zipped)
	m.remember(t, failedStatus, "f", nil, job{File: "old"})
	m.last.Input.Payloads[0].Data = []byte("not compressed")
	_, err := ontemporal.Start(t.Context(), m, "queue", hour, work[job], job{File: "old"})
	if want := `activity "a": not started: cannot read its last execution: `; err == nil || !strings.HasPrefix(err.Error(), want) || errors.Is(err, activity.ErrCheckpointMismatch) {
		t.Errorf("got %v, want %s", err, want)
	}
	if m.started != nil {
		t.Error("it was started")
	}
}

// Rule 31. Given a client whose data converter accepts inputs that JSON does not, then inputs
// are still compared.
func TestStart_InputThatIsNoJSON(t *testing.T) {
	type in struct {
		Rows int
		Done func()
	}
	dc := converter.NewCompositeDataConverter(gobConverter{}, converter.NewJSONPayloadConverter())
	for rows, same := range map[int]bool{3: true, 4: false} {
		m := newMemory(t, dc)
		m.remember(t, failedStatus, "f", 7, in{Rows: 3})
		_, err := ontemporal.Start(t.Context(), m, "queue", hour, work[in], in{Rows: rows})
		if errors.Is(err, activity.ErrCheckpointMismatch) == same || (err == nil) != same || (m.started != nil) != same ||
			!same && !strings.Contains(err.Error(), "the input on the server (failed, attempt 3) is another ontemporal_test.in; ") {
			t.Errorf("with %d rows: %v", rows, err)
		}
	}
}

// A gobConverter encodes structs with a field Rows with encoding/gob.
type gobConverter struct{ converter.PayloadConverter }

func (gobConverter) Encoding() string { return "binary/gob" }

func (c gobConverter) ToPayload(v any) (*commonpb.Payload, error) {
	if !strings.Contains(fmt.Sprintf("%+v", v), "Rows:") {
		return nil, nil // for another converter
	}
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return &commonpb.Payload{Metadata: map[string][]byte{converter.MetadataEncoding: []byte(c.Encoding())}, Data: b.Bytes()}, err
}

func (gobConverter) FromPayload(p *commonpb.Payload, into any) error {
	return gob.NewDecoder(bytes.NewReader(p.Data)).Decode(into)
}
