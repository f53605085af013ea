package activity_test

import (
	"bytes"
	"context"
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var jsonNoon = time.Date(2026, 3, 1, 12, 0, 0, 5e8, time.UTC)

// encodes checks the JSON of v and of a pointer to it.
func encodes[T any](t *testing.T, v T, want string) {
	t.Helper()
	for _, v := range []any{v, &v} {
		got, err := json.Marshal(v)
		if diff := cmp.Diff(want, string(got)); err != nil || diff != "" {
			t.Errorf("%T: error %v (-want +got):\n%s", v, err, diff)
		}
	}
}

// fieldOf is the JSON of one field of v.
func fieldOf(t *testing.T, v any, name string) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return string(fields[name])
}

// recorded are details of values in a Codec's form.
func recorded(values ...string) []byte {
	var b []byte
	for _, v := range values {
		b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
	}
	return b
}

// heard runs an activity that heartbeats, and returns its events.
func heard(t *testing.T, codec activity.Codec, details ...any) []activity.Event {
	t.Helper()
	var events []activity.Event
	rt := activity.New(activity.Config{Codec: codec, Logger: quiet, Observer: func(e activity.Event) { events = append(events, e) }})
	if err := rt.Run(context.Background(), activity.Options{}, func(ctx activity.Context) error { return ctx.Heartbeat(details...) }); err != nil {
		t.Fatal(err)
	}
	return events
}

// Given a Status, then it marshals to JSON with Go's field names, an error as its text,
// and zero times as null.
func TestJSON_Status(t *testing.T) {
	encodes(t, activity.Status{}, `{"ID":"","Name":"","State":"unset","Attempt":0,"ScheduledAt":null,"StartedAt":null,`+
		`"LastHeartbeat":null,"NextAttempt":null,"Deadline":null,"Done":0,"Total":0,"ResumedAt":0,"LastFailure":null,"Abandoned":0,`+
		`"StartToCloseTimeout":"0s","HeartbeatTimeout":"0s","MaximumAttempts":0,"Details":null}`)
	encodes(t, activity.Status{
		ID: "a1", Name: "job", State: activity.StateBackingOff, Attempt: 2,
		ScheduledAt: jsonNoon, StartedAt: jsonNoon.Add(time.Second), LastHeartbeat: jsonNoon.Add(2 * time.Second), NextAttempt: jsonNoon.In(time.FixedZone("", 3600)),
		Deadline: jsonNoon, Done: 3, Total: 10, ResumedAt: 2, LastFailure: errBoom, Abandoned: 1,
		StartToCloseTimeout: time.Hour, HeartbeatTimeout: time.Second, MaximumAttempts: 5,
		Details: recorded(`{"Next":3}`), Codec: reverseCodec{},
	}, `{"ID":"a1","Name":"job","State":"backing off","Attempt":2,"ScheduledAt":"2026-03-01T12:00:00.5Z","StartedAt":"2026-03-01T12:00:01.5Z",`+
		`"LastHeartbeat":"2026-03-01T12:00:02.5Z","NextAttempt":"2026-03-01T13:00:00.5+01:00","Deadline":"2026-03-01T12:00:00.5Z","Done":3,"Total":10,"ResumedAt":2,`+
		`"LastFailure":"boom","Abandoned":1,"StartToCloseTimeout":"1h0m0s","HeartbeatTimeout":"1s","MaximumAttempts":5,"Details":{"Next":3}}`)
}

// Given an Event, then it marshals to JSON with Go's field names, an error as its text,
// and a duration as its text.
func TestJSON_Event(t *testing.T) {
	encodes(t, activity.Event{}, `{"Kind":"unset","Time":null,"ID":"","Name":"","Attempt":0,"Err":null,"Delay":"0s","Details":null}`)
	encodes(t, activity.Event{Kind: activity.EventAttemptFailed, Time: jsonNoon, ID: "a1", Name: "job", Attempt: 2, Err: errBoom, Delay: 90 * time.Second},
		`{"Kind":"attempt failed","Time":"2026-03-01T12:00:00.5Z","ID":"a1","Name":"job","Attempt":2,"Err":"boom","Delay":"1m30s","Details":null}`)
}

// Given an EventHeartbeat, then its JSON has the details, one value as it is and several
// as a list.
func TestJSON_EventOfHeartbeatHasDetails(t *testing.T) {
	for _, test := range []struct {
		codec   activity.Codec
		details []any
		want    string
	}{
		{nil, nil, `null`},
		{nil, []any{7}, `7`},
		{nil, []any{"a", 7}, `["a",7]`},
		{reverseCodec{}, []any{"ab", 17}, `["ba",71]`}, // its bytes happen to be JSON
		{reverseCodec{}, []any{[]int{1}}, `"XTFb"`},
	} {
		for _, e := range heard(t, test.codec, test.details...) {
			want := "null"
			if e.Kind == activity.EventHeartbeat {
				want = test.want
			}
			if got := fieldOf(t, e, "Details"); got != want {
				t.Errorf("%v of %v: %s, want %s", e.Kind, test.details, got, want)
			}
		}
	}
}

// Given a Checkpoint, then it marshals to JSON with Go's field names, and Input and
// Details as JSON.
func TestJSON_Checkpoint(t *testing.T) {
	encodes(t, activity.Checkpoint{}, `{"ID":"","Name":"","State":"unset","Attempt":0,"CountedFrom":0,"Progressed":0,"Sequence":0,`+
		`"ScheduledAt":null,"UpdatedAt":null,"NextAttempt":null,"Input":null,"Details":null,"Header":null,"LastFailure":""}`)
	encodes(t, activity.Checkpoint{
		ID: "a1", Name: "job", State: activity.CheckpointInterrupted, Attempt: 4, CountedFrom: 1, Progressed: 3, Sequence: 1<<64 - 1,
		ScheduledAt: jsonNoon, UpdatedAt: jsonNoon, NextAttempt: jsonNoon, Input: []byte(`{"Path": "/tmp"}`), Details: recorded("1", `"two"`), LastFailure: "boom",
		Header: map[string]string{"b": "2", "a": "1"},
	}, `{"ID":"a1","Name":"job","State":"interrupted","Attempt":4,"CountedFrom":1,"Progressed":3,"Sequence":18446744073709551615,`+
		`"ScheduledAt":"2026-03-01T12:00:00.5Z","UpdatedAt":"2026-03-01T12:00:00.5Z","NextAttempt":"2026-03-01T12:00:00.5Z","Input":{"Path":"/tmp"},"Details":[1,"two"],"Header":{"a":"1","b":"2"},"LastFailure":"boom"}`)
}

// Given Stats, then they marshal to JSON with Go's field names, and zero times as null.
func TestJSON_Stats(t *testing.T) {
	encodes(t, activity.Stats{Running: 1, Waiting: 2, BackingOff: 3, Blocked: 4, Paused: 14, Abandoned: 5, Scheduled: 6, Completed: 7, Failed: 8, Canceled: 9, Attempts: 10, Heartbeats: 11, Timeouts: 12, SaveFailures: 13, StoreFailingSince: jsonNoon},
		`{"Running":1,"Waiting":2,"BackingOff":3,"Blocked":4,"Paused":14,"Abandoned":5,"Scheduled":6,"Completed":7,"Failed":8,"Canceled":9,"Attempts":10,"Heartbeats":11,"Timeouts":12,"SaveFailures":13,"StoreFailingSince":"2026-03-01T12:00:00.5Z"}`)
	if data, err := json.Marshal(activity.Stats{}); err != nil || bytes.Contains(data, []byte("0001-01-01")) {
		t.Errorf("a zero time is not null: %s, %v", data, err)
	}
}

// Given a type with MarshalJSON, then its JSON has every exported field, in order.
func TestJSON_EveryFieldInOrder(t *testing.T) {
	for _, v := range []any{activity.Status{}, activity.Event{}, activity.Checkpoint{}, activity.Stats{}} {
		var want []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			if f.IsExported() && f.Name != "Codec" {
				want = append(want, f.Name)
			}
		}
		if _, ok := v.(activity.Event); ok {
			want = append(want, "Details")
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		// In an object of nulls, numbers and strings, each second token is a key.
		var got []string
		tokens := json.NewDecoder(bytes.NewReader(data))
		for i := 0; ; i++ {
			token, err := tokens.Token()
			if err != nil || token == json.Delim('}') {
				break
			}
			if i%2 == 1 {
				got = append(got, token.(string))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%T (-want +got):\n%s", v, diff)
		}
	}
}

// Given details and inputs, then valid JSON is shown as it is, and anything else as a
// base64 string.
func TestJSON_DetailsAndInput(t *testing.T) {
	for name, test := range map[string]struct{ value, want string }{
		"null":          {`null`, `null`},
		"a number":      {`12345678901234567890`, `12345678901234567890`},
		"a string":      {`"aGk="`, `"aGk="`},
		"with spaces":   {" {\n\"A\" : [ 1 ] } ", `{"A":[1]}`},
		"HTML":          {`"<&>"`, `"\u003c\u0026\u003e"`},
		"empty":         {``, `""`},
		"not JSON":      {`{`, `"ew=="`},
		"two values":    {`1,2`, `"MSwy"`},
		"invalid UTF-8": {"\"\xff\"", `"Iv8i"`},
	} {
		t.Run(name, func(t *testing.T) {
			cp := activity.Checkpoint{Input: []byte(test.value), Details: recorded(test.value)}
			if got := fieldOf(t, map[string]any{"a": []any{cp}}, "a"); !strings.Contains(got, `"Input":`+test.want+`,"Details":`+test.want+`,`) {
				t.Errorf("Checkpoint: %.1000s", got)
			}
			status := activity.Status{Details: recorded(test.value, "1")}
			if got, want := fieldOf(t, status, "Details"), "["+test.want+",1]"; got != want {
				t.Errorf("Status: %.1000s, want %.1000s", got, want)
			}
		})
	}
}

// Given details that are damaged, then their JSON is a base64 string.
func TestJSON_DamagedDetailsAreBase64(t *testing.T) {
	for _, details := range [][]byte{recorded("1", "2")[:3], {0xff}, append(recorded("1"), 9, '1')} {
		want, _ := json.Marshal(details)
		if got := fieldOf(t, activity.Status{Details: details}, "Details"); got != string(want) {
			t.Errorf("%q: %s, want %s", details, got, want)
		}
	}
}

// textPanics panics with itself, so that who formats the panic panics as well.
type textPanics struct{}

func (e *textPanics) Error() string { panic(e) }

// Given errors with odd texts, or whose Error method panics, then the JSON is valid and
// says so.
func TestJSON_ErrorTexts(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("a \"b\"\n\xff"), `"a \"b\"\n\ufffd"`},
		{&textPanics{}, `"(the Error method of *activity_test.textPanics panicked)"`},
		{(*activity.PanicError)(nil), `"(the Error method of *activity.PanicError panicked)"`},
		{&activity.Error{Name: "job", Attempt: 1, Err: &textPanics{}}, `"activity (job) failed in attempt 1, no further attempt (unset): (the Error method of *activity_test.textPanics panicked)"`},
	} {
		if got := fieldOf(t, activity.Status{LastFailure: test.err}, "LastFailure"); got != test.want {
			t.Errorf("Status: %s, want %s", got, test.want)
		}
		if got := fieldOf(t, activity.Event{Err: test.err}, "Err"); got != test.want {
			t.Errorf("Event: %s, want %s", got, test.want)
		}
	}
}

// Given a time after the year 9999, which time.Time.MarshalJSON refuses, then it is shown
// nevertheless, so that it hides no other field.
func TestJSON_TimeAfterYear9999(t *testing.T) {
	got := fieldOf(t, activity.Checkpoint{UpdatedAt: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}, "UpdatedAt")
	if want := `"12026-01-01T00:00:00Z"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Given the JSON of a Status, an Event or a Checkpoint, when it is decoded, then that is
// refused.
func TestJSON_DecodingIsRefused(t *testing.T) {
	for _, v := range []any{&activity.Status{}, &activity.Event{}, &activity.Checkpoint{}} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		name := reflect.TypeOf(v).Elem().Name()
		if err := json.Unmarshal(data, v); err == nil || !strings.Contains(err.Error(), "activity: cannot decode JSON into "+name) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// Given a Store that writes JSON as Checkpoint's documentation tells it, then it reads
// back what it wrote.
func TestJSON_RecordOfAStore(t *testing.T) {
	type record activity.Checkpoint
	want := record{ID: "a1", State: activity.CheckpointFailed, ScheduledAt: jsonNoon, Input: []byte(` "<"`), Details: recorded("1", "2"), LastFailure: "boom"}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got record
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Given a slog.JSONHandler, when a Status is logged, then its JSON is in the line.
func TestJSON_Slog(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("here", "status", activity.Status{ID: "a1", LastFailure: errors.New("a -> b"), Details: recorded(`"<p>"`)})
	for _, want := range []string{`"status":{"ID":"a1",`, `"State":"unset"`, `"LastFailure":"a -> b"`, `"Details":"<p>"}`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
}

// Given the constants of each type, then UnmarshalText reads what MarshalText wrote.
func TestText_RoundTrip(t *testing.T) {
	roundTrips[activity.State](t)
	roundTrips[activity.EventKind](t)
	roundTrips[activity.TimeoutType](t)
	roundTrips[activity.RetryState](t)
	roundTrips[activity.CheckpointState](t)
}

// roundTrips checks every value with a name, and what has none.
func roundTrips[T interface {
	~int
	String() string
	encoding.TextMarshaler
}](t *testing.T) {
	name := reflect.TypeFor[T]().Name()
	for v := T(0); ; v++ {
		text, err := v.MarshalText()
		if err != nil || string(text) != v.String() {
			t.Errorf("%s(%d): text %q, error %v; want %q", name, v, text, err, v.String())
		}
		got := T(-1)
		err = any(&got).(encoding.TextUnmarshaler).UnmarshalText(text)
		if unnamed := strings.HasPrefix(v.String(), name); unnamed {
			if want := "activity: unknown " + name + ` "` + v.String() + `"`; err == nil || err.Error() != want || got != -1 {
				t.Errorf("%s: got %d, error %v; want %s", text, got, err, want)
			}
			if v < 4 {
				t.Errorf("%s has %d values", name, v)
			}
			break
		}
		if err != nil || got != v {
			t.Errorf("%s: got %d, error %v; want %d", text, got, err, v)
		}
	}
	for _, text := range []string{"", "Running", "-1", "1"} {
		if got := T(-1); any(&got).(encoding.TextUnmarshaler).UnmarshalText([]byte(text)) == nil || got != -1 {
			t.Errorf("%s: %q is taken for %d", name, text, got)
		}
	}
}

// Given the constants of each type, then String gives the documented words.
func TestText_EnumStrings(t *testing.T) {
	for want, got := range map[string]fmt.Stringer{
		"non-retryable failure":     activity.RetryStateNonRetryableFailure,
		"maximum attempts reached":  activity.RetryStateMaximumAttemptsReached,
		"timeout":                   activity.RetryStateTimeout,
		"cancel requested":          activity.RetryStateCancelRequested,
		"start-to-close timeout":    activity.TimeoutStartToClose,
		"heartbeat timeout":         activity.TimeoutHeartbeat,
		"schedule-to-start timeout": activity.TimeoutScheduleToStart,
		"schedule-to-close timeout": activity.TimeoutScheduleToClose,
		"backing off":               activity.StateBackingOff,
		"canceled":                  activity.StateCanceled,
		"abandoned returned":        activity.EventAbandonedReturned,
		"unset":                     activity.State(0),
		"State(99)":                 activity.State(99),
		"RetryState(-1)":            activity.RetryState(-1),
	} {
		if got.String() != want {
			t.Errorf("%d is %q, want %q", got, got, want)
		}
	}
}
