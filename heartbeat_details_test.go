// The details that heartbeats record: encoding, limits, resuming.

package activity_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 1. Given details that a heartbeat recorded, when the function changes the value
// afterwards, then the next attempt sees the value as it was.
func TestHeartbeatDetails_EncodedWhenRecorded(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 2 {
				checkDetails(t, ctx, []int{1, 2})
				return nil
			}
			details := []int{1, 2}
			if err := ctx.Heartbeat(&details); err != nil {
				t.Error(err)
			}
			details[0] = 100
			details = append(details, 3)
			return errBoom
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// reverseCodec is a Codec of its own format: the JSON, reversed.
type reverseCodec struct{}

func (reverseCodec) Marshal(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	return reversed(data), err
}

func (reverseCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(reversed(data), v) }

func reversed(data []byte) []byte {
	var r []byte
	for i := range data {
		r = append(r, data[len(data)-1-i])
	}
	return r
}

// Rule 1. Given Config.Codec, when details are recorded and read, then every value goes
// through it, plain ints too, in every place that reads details.
func TestHeartbeatDetails_CustomCodec(t *testing.T) {
	var events atomic.Int64
	cfg := activity.Config{Codec: reverseCodec{}, Observer: func(e activity.Event) {
		n, s := 0, ""
		if found, err := e.HeartbeatDetails(&n, &s); err != nil || found != (e.Kind == activity.EventHeartbeat) || found && (n != 123 || s != "ab") {
			t.Errorf("%s: %v, %v: %d, %q", e.Kind, found, err, n, s)
		} else if found {
			events.Add(1)
		}
	}}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		var timeout *activity.TimeoutError
		h := start(t, rt, activity.Options{HeartbeatTimeout: time.Second, HeartbeatDetails: []any{12}}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				checkDetails(t, ctx, 12)
				if err := ctx.Heartbeat(123, "ab"); err != nil {
					t.Error(err)
				}
				return ctx.Sleep(time.Hour)
			}
			timeout = ctx.Info().LastFailure.(*activity.TimeoutError)
			checkDetails(t, ctx, 123)
			return nil
		})
		if err := wait(t, h); err != nil {
			t.Error(err)
		}
		for name, read := range map[string]func(into ...any) (bool, error){
			"Status":       h.Status().HeartbeatDetails,
			"TimeoutError": timeout.HeartbeatDetails,
			"Checkpoint": func(into ...any) (bool, error) {
				return activity.Checkpoint{Details: timeout.Details}.HeartbeatDetails(reverseCodec{}, into...)
			},
		} {
			n, s := 0, ""
			if found, err := read(&n, &s); !found || err != nil || n != 123 || s != "ab" {
				t.Errorf("%s: %v, %v: %d, %q", name, found, err, n, s)
			}
		}
		if events.Load() != 1 {
			t.Errorf("%d heartbeat events with details, want 1", events.Load())
		}
	})
}

// Rule 1. Given details that an event, a Status or an error gave, when later details are
// recorded, then the ones that were given do not change.
func TestHeartbeatDetails_ReadOnesDoNotChange(t *testing.T) {
	var j journal
	bubble(t, activity.Config{Observer: j.observe}, func(t *testing.T, rt *activity.Runtime) {
		type view struct {
			read func(into ...any) (bool, error)
			want string
		}
		var views []view
		h := start(t, rt, activity.Options{HeartbeatTimeout: time.Second, HeartbeatDetails: []any{"aaaa"}}, func(ctx activity.Context) error {
			attempt := ctx.Info().Attempt
			if timeout, ok := ctx.Info().LastFailure.(*activity.TimeoutError); ok {
				views = append(views, view{timeout.HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)})
			}
			if attempt <= 3 {
				views = append(views,
					view{ctx.HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)},
					view{rt.Activities()[0].HeartbeatDetails, strings.Repeat(string(rune('a'+attempt-1)), 4)})
				details := strings.Repeat(string(rune('a'+attempt)), 4)
				if err := ctx.Heartbeat(details); err != nil {
					t.Error(err)
				}
				views = append(views, view{rt.Activities()[0].HeartbeatDetails, details})
				return ctx.Sleep(time.Hour)
			}
			return ctx.Heartbeat("eeee")
		})
		if err := wait(t, h); err != nil {
			t.Error(err)
		}
		for i, e := range j.of(activity.EventHeartbeat) {
			views = append(views, view{e.HeartbeatDetails, strings.Repeat(string(rune('b'+i)), 4)})
		}
		if len(views) != 3*4+4 {
			t.Errorf("there are %d views", len(views))
		}
		for i, v := range views {
			var got string
			if found, err := v.read(&got); !found || err != nil || got != v.want {
				t.Errorf("view %d: %v, %v: %q, want %q", i, found, err, got, v.want)
			}
		}
	})
}

// Rule 2. Given a heartbeat with a single nil pointer, under any Codec, then the details
// stay. Nils among several values are values.
func TestHeartbeatDetails_NilPointerIsNone(t *testing.T) {
	for name, codec := range map[string]activity.Codec{"default": nil, "another": reverseCodec{}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{Codec: codec}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					for _, nothing := range []any{(*int)(nil), (*twoFields)(nil), (**int)(nil), (*chan int)(nil), (*marshalFails)(nil)} {
						if err := ctx.Heartbeat(nothing); err != nil {
							t.Errorf("%T: %v", nothing, err)
						}
					}
					if found, err := rt.Activities()[0].HeartbeatDetails(); found || err != nil {
						t.Errorf("before any details: %v, %v", found, err)
					}
					if err := ctx.Heartbeat(7); err != nil {
						t.Error(err)
					}
					for range 3 { // each of them is a heartbeat
						if err := ctx.Sleep(10*time.Second - 1); err != nil {
							t.Error(err)
						}
						if err := ctx.Heartbeat((*int)(nil)); err != nil {
							t.Error(err)
						}
					}
					checkDetails(t, rt.Activities()[0], 7)
					if err := ctx.Heartbeat((*int)(nil), nil); err != nil {
						t.Error(err)
					}
					p, q := new(int), new(int)
					if found, err := rt.Activities()[0].HeartbeatDetails(&p, &q); !found || err != nil || p != nil || q != nil {
						t.Errorf("got %v, %v, %v, %v, want two nils", found, err, p, q)
					}
					var nothing *int
					if err := ctx.Heartbeat(&nothing); err != nil { // a pointer that is not nil
						t.Error(err)
					}
					p = new(int)
					if found, err := rt.Activities()[0].HeartbeatDetails(&p); !found || err != nil || p != nil {
						t.Errorf("got %v, %v, %v, want a nil", found, err, p)
					}
					return nil
				})
				if err := wait(t, h); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Rule 5. Given a recorded null, when it is resumed into a type that can be nil, then it
// is nil; into any other type it is an error.
func TestHeartbeatDetails_NullIsNotZero(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Heartbeat([]int(nil)); err != nil {
					t.Error(err)
				}
				return errBoom
			}
			seven := 7
			if p, err := activity.Resume(ctx, &seven); p != nil || err != nil {
				t.Errorf("resumed from %v, %v, want a nil pointer", p, err)
			}
			n, err := activity.Resume(ctx, 5)
			if n != 5 || err == nil {
				t.Errorf("a null became %d, %v", n, err)
			}
			return err
		})
		checkEnd(t, err, 2, activity.RetryStateNonRetryableFailure)
	})
}

type marshalPanics struct{}

func (marshalPanics) MarshalJSON() ([]byte, error) { panic(errBoom) }
func (*marshalPanics) UnmarshalJSON([]byte) error  { return nil }

type marshalFails struct{}

func (marshalFails) MarshalJSON() ([]byte, error) { return nil, errBoom }
func (*marshalFails) UnmarshalJSON([]byte) error  { return nil }

// Rule 3. Given details that cannot be encoded, when Heartbeat refuses them, then the
// attempt lives on, and the earlier details stay.
func TestHeartbeatDetails_CannotBeEncoded(t *testing.T) {
	for name, bad := range map[string][]any{
		"channel":            {make(chan int)},
		"NaN":                {math.NaN()},
		"second of two":      {1, func() {}},
		"first of two":       {func() {}, 1},
		"MarshalJSON fails":  {marshalFails{}},
		"MarshalJSON panics": {marshalPanics{}},
	} {
		t.Run(name, func(t *testing.T) {
			log := &logbook{}
			bubble(t, activity.Config{Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat("kept"); err != nil {
						t.Error(err)
					}
					for range 3 { // it counts as alive, and moves the deadline
						if err := ctx.Sleep(10*time.Second - 1); err != nil {
							t.Error(err)
						}
						if err := ctx.Heartbeat(bad...); err == nil || ctx.Err() != nil {
							t.Errorf("Heartbeat returned %v, and the context ended with %v", err, context.Cause(ctx))
						}
					}
					return fmt.Errorf("wrapped: %w", ctx.Heartbeat(bad...))
				})
				err := wait(t, h)
				checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
				if strings.HasPrefix(name, "MarshalJSON") && !errors.Is(err, errBoom) {
					t.Errorf("%v does not wrap the encoder's error", err)
				}
				checkDetails(t, h.Status(), "kept")
				if n := rt.Stats().Heartbeats; n != 5 {
					t.Errorf("%d heartbeats were counted, want 5", n)
				}
				if logged := log.has(slog.LevelError) > 0; logged != (name == "MarshalJSON panics") {
					t.Errorf("an Error was logged: %v", logged)
				}
			})
		})
	}
}

// Rule 3. Given Config.MaxDetailsSize, when details have as many bytes, then they are
// recorded; one byte more is ErrDetailsTooLarge.
func TestHeartbeatDetails_TooLarge(t *testing.T) {
	longest := len(strconv.Itoa(math.MinInt))
	tests := []struct {
		limit   int
		details []any
		fits    bool
	}{
		{10, []any{"1234567"}, true}, // and two quotes
		{10, []any{"12345678"}, true},
		{10, []any{"123456789"}, false},
		{10, []any{"1234", 123}, true},
		{10, []any{"1234", 1234}, true},
		{10, []any{"1234", 12345}, false},
		{0, []any{strings.Repeat("x", 2<<20-3)}, true},
		{0, []any{strings.Repeat("x", 2<<20-2)}, true},
		{0, []any{strings.Repeat("x", 2<<20-1)}, false},
		{1, []any{9}, true},
		{1, []any{10}, false},
		{1, []any{-1}, false},
		{2, []any{10}, true},
		{longest - 1, []any{math.MinInt}, false},
		{longest, []any{math.MinInt}, true},
		{longest + 1, []any{math.MinInt}, true},
		{19, []any{int64(math.MinInt64)}, false},
		{20, []any{int64(math.MinInt64)}, true},
		{21, []any{int64(math.MinInt64)}, true},
		{19, []any{math.MaxInt}, true},
	}
	for i, test := range tests {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			bubble(t, activity.Config{MaxDetailsSize: test.limit}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
					if err := ctx.Heartbeat(7); err != nil {
						t.Error(err)
					}
					return ctx.Heartbeat(test.details...)
				})
				err := wait(t, h)
				if test.fits {
					if err != nil {
						t.Errorf("limit %d: %.100v", test.limit, err)
					}
					return
				}
				checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
				if !errors.Is(err, activity.ErrDetailsTooLarge) {
					t.Errorf("%v is not ErrDetailsTooLarge", err)
				}
				checkDetails(t, h.Status(), 7)
			})
		})
	}
}

// Rule 3. Given a function that returns Heartbeat's error about its details, then the
// activity fails without a retry.
func TestHeartbeatDetails_ReturnedEncodeErrorIsNonRetryable(t *testing.T) {
	calls, err := runCalls(t, activity.Config{}, atMost(5), func(ctx activity.Context) error { return ctx.Heartbeat(func() {}) })
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
	if calls != 1 {
		t.Errorf("%d attempts", calls)
	}
	calls, err = runCalls(t, activity.Config{MaxDetailsSize: 3}, atMost(5), func(ctx activity.Context) error { return ctx.Heartbeat(1234) })
	checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure, activity.ErrDetailsTooLarge)
	if calls != 1 {
		t.Errorf("%d attempts", calls)
	}
}

type panicCodec struct{ marshal, unmarshal bool }

func (c panicCodec) Marshal(v any) ([]byte, error) {
	if c.marshal {
		panic("Marshal")
	}
	return json.Marshal(v)
}

func (c panicCodec) Unmarshal(data []byte, v any) error {
	if c.unmarshal {
		panic("Unmarshal")
	}
	return json.Unmarshal(data, v)
}

// Rules 3, 5 and 24. Given a Codec that panics, when details are recorded or resumed,
// then the panic is logged and returned as the Codec's error.
func TestHeartbeatDetails_PanickingCodec(t *testing.T) {
	for _, codec := range []panicCodec{{marshal: true}, {unmarshal: true}} {
		log := &logbook{}
		bubble(t, activity.Config{Codec: codec, Logger: slog.New(log)}, func(t *testing.T, rt *activity.Runtime) {
			h := start(t, rt, activity.Options{}, func(ctx activity.Context) error {
				if ctx.Info().Attempt == 1 {
					if err := ctx.Heartbeat(1); err != nil {
						return err
					}
					return errBoom
				}
				_, err := activity.Resume(ctx, 5)
				return err
			})
			attempt := 1
			if codec.unmarshal {
				attempt = 2
			}
			err := wait(t, h)
			checkEnd(t, err, attempt, activity.RetryStateNonRetryableFailure)
			if p := (*activity.PanicError)(nil); !errors.As(err, &p) || len(p.Stack) == 0 {
				t.Errorf("%v tells nothing of the panic", err)
			}
			if log.has(slog.LevelError) == 0 {
				t.Error("nothing was logged")
			}
			if found, err := h.Status().HeartbeatDetails(new(int)); codec.unmarshal && (found || err == nil) {
				t.Errorf("Status: %v, %v", found, err)
			}
		})
	}
}

type twoFields struct {
	A int
	B string
}

// Rule 5. Given recorded details, when the next attempt resumes, then it gets them, and a
// field that was not recorded is zero. Without details it gets the initial value.
func TestResume_LastDetailsOrInitial(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			want := twoFields{1, "initial"}
			if ctx.Info().Attempt == 2 {
				want = twoFields{2, ""} // a field that was not recorded stays zero
			}
			if got, err := activity.Resume(ctx, twoFields{1, "initial"}); got != want || err != nil {
				t.Errorf("attempt %d resumes from %v, %v, want %v", ctx.Info().Attempt, got, err, want)
			}
			if ctx.Info().Attempt == 2 {
				return nil
			}
			if found, err := ctx.HeartbeatDetails(new(int), new(string)); found || err != nil {
				t.Errorf("nothing was recorded: %v, %v", found, err)
			}
			if err := ctx.Heartbeat(struct{ A int }{2}); err != nil {
				t.Error(err)
			}
			return errBoom
		})
		if err != nil {
			t.Error(err)
		}
		err = run(t, rt, activity.Options{HeartbeatDetails: []any{twoFields{3, "given"}, 4}}, func(ctx activity.Context) error {
			checkDetails(t, ctx, twoFields{3, "given"})
			n := 0
			if found, err := ctx.HeartbeatDetails(new(twoFields), &n); !found || err != nil || n != 4 {
				t.Errorf("the second value: %v, %v, %d", found, err, n)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// Rule 5. Given recorded details, when a function asks for more values than were recorded
// or for other types, then it gets an error; fewer values are fine.
func TestHeartbeatDetails_DoNotDecode(t *testing.T) {
	tests := map[string]struct {
		details []any
		into    []any
		ok      bool
	}{
		"as many":                    {[]any{1, "x"}, []any{new(int), new(string)}, true},
		"fewer":                      {[]any{1, "x"}, []any{new(int)}, true},
		"none asked":                 {[]any{1}, nil, true},
		"more":                       {[]any{1}, []any{new(int), new(int)}, false},
		"another type":               {[]any{1}, []any{new(string)}, false},
		"second of another type":     {[]any{1, 2}, []any{new(int), new(string)}, false},
		"unknown field":              {[]any{struct{ A, C int }{1, 2}}, []any{new(twoFields)}, false},
		"unknown field, deep":        {[]any{[]any{struct{ C int }{2}}}, []any{new([]twoFields)}, false},
		"a field less":               {[]any{struct{ A int }{1}}, []any{new(twoFields)}, true},
		"too large a number":         {[]any{300}, []any{new(int8)}, false},
		"a fraction":                 {[]any{1.5}, []any{new(int)}, false},
		"null into an int":           {[]any{[]int(nil)}, []any{new(int)}, false},
		"null into a string":         {[]any{[]int(nil)}, []any{new(string)}, false},
		"null into a bool":           {[]any{[]int(nil)}, []any{new(bool)}, false},
		"null into a float":          {[]any{[]int(nil)}, []any{new(float64)}, false},
		"null into a struct":         {[]any{[]int(nil)}, []any{new(twoFields)}, false},
		"null into an array":         {[]any{[]int(nil)}, []any{new([2]int)}, false},
		"null into a pointer":        {[]any{[]int(nil)}, []any{new(*int)}, true},
		"null into a slice":          {[]any{[]int(nil)}, []any{new([]int)}, true},
		"null into a map":            {[]any{[]int(nil)}, []any{new(map[string]int)}, true},
		"null into an interface":     {[]any{[]int(nil)}, []any{new(any)}, true},
		"null into json.RawMessage":  {[]any{[]int(nil)}, []any{new(json.RawMessage)}, true},
		"null second, into an int":   {[]any{1, (*int)(nil)}, []any{new(int), new(int)}, false},
		"into what is no pointer":    {[]any{1}, []any{5}, false},
		"into nil":                   {[]any{1}, []any{nil}, false},
		"into a nil pointer":         {[]any{1}, []any{(*int)(nil)}, false},
		"null into nil":              {[]any{[]int(nil)}, []any{nil}, false},
		"null into what is no ptr":   {[]any{[]int(nil)}, []any{5}, false},
		"null into a nil pointer":    {[]any{[]int(nil)}, []any{(*int)(nil)}, false},
		"null into a nil **int":      {[]any{[]int(nil)}, []any{(**int)(nil)}, false},
		"a struct into an interface": {[]any{twoFields{1, "x"}}, []any{new(any)}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				h := start(t, rt, activity.Options{HeartbeatDetails: test.details}, func(ctx activity.Context) error {
					found, err := ctx.HeartbeatDetails(test.into...)
					if found != test.ok || (err == nil) != test.ok {
						t.Errorf("got %v, %v", found, err)
					}
					if err != nil {
						return fmt.Errorf("wrapped: %w", err)
					}
					return nil
				})
				if err := wait(t, h); test.ok {
					if err != nil {
						t.Error(err)
					}
				} else {
					checkEnd(t, err, 1, activity.RetryStateNonRetryableFailure)
				}
			})
		})
	}
}

// resumeInto is a function that resumes from recorded into what into points to.
func resumeInto(t *testing.T, recorded, into any) error {
	t.Helper()
	rt := activity.New(activity.Config{Logger: quiet})
	return rt.Run(t.Context(), activity.Options{RetryPolicy: once, HeartbeatDetails: []any{recorded}}, func(ctx activity.Context) error {
		_, err := ctx.HeartbeatDetails(into)
		return err
	})
}

// Rule 5. Given recorded details whose arrays have another length than those of the type
// that they are decoded into, then the attempt cannot resume: encoding/json would drop
// elements, or fill in zeros.
func TestHeartbeatDetails_ArrayOfAnotherLength(t *testing.T) {
	type (
		shards [3]int
		tree   struct {
			Kids []*tree
			At   [2]int
		}
		list []list
	)
	tests := map[string]struct {
		recorded any
		into     any
		want     string // in the refusal; "": it is taken
	}{
		"shorter":          {shards{5, 7, 9}, new([2]int), "the value has the type [2]int, and 3 elements were recorded"},
		"longer":           {shards{5, 7, 9}, new([4]int), "the value has the type [4]int, and 3 elements were recorded"},
		"none":             {[]int{}, new([1]int), "0 elements"},
		"in a field":       {named([3]int{5, 7, 9}), new(struct{ F [1]int }), "field F has the type [1]int"},
		"behind a pointer": {named([3]int{5, 7, 9}), new(*struct{ F *[1]int }), "field F has the type [1]int"},
		"in a map":         {map[string][]int{"a": {1}, "b": {1, 2}}, new(map[string][1]int), "element [] has the type [1]int"},
		"of arrays":        {[2][2]int{}, new([2][3]int), "element [] has the type [3]int"},
		"deep in a tree": {tree{Kids: []*tree{{}, {Kids: []*tree{{}}}}}, new(struct {
			Kids []struct {
				Kids []struct {
					Kids []int
					At   [1]int
				}
				At [2]int
			}
			At [2]int
		}), "field Kids[].Kids[].At has the type [1]int"},
		"an any's pointer": {shards{5, 7, 9}, pointerTo[any](new([2]int)), "[2]int"},
		"after other text": {struct {
			A any
			B string
			F [2]int
		}{[]any{"]}\"", -1e9, nil, map[string]any{",": []any{}}}, "\\\"]", [2]int{}}, new(struct {
			A any
			B string
			F [1]int
		}), "field F has the type [1]int"},
		"as many":            {shards{5, 7, 9}, new([3]int), ""},
		"bytes":              {[2]byte{1, 2}, new([2]byte), ""},
		"into a slice":       {shards{5, 7, 9}, new([]int), ""},
		"a tree":             {tree{Kids: []*tree{{}, nil, {Kids: []*tree{}}}}, new(tree), ""},
		"a list":             {list{{}, {{}, {}}}, new(list), ""},
		"methods of its own": {[]int{1, 2, 3}, new(firstOnly), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := resumeInto(t, test.recorded, test.into)
			switch {
			case test.want == "":
				checkErr(t, err, nil)
			case !errors.Is(err, activity.ErrCannotResume) || !strings.Contains(err.Error(), test.want):
				t.Errorf("%v\ndoes not say %q", err, test.want)
			}
		})
	}
}

// Rule 5. Given recorded fields that differ in case from those of the type that they are
// decoded into, then the attempt cannot resume: encoding/json would take them for each
// other.
func TestHeartbeatDetails_NamesAreExact(t *testing.T) {
	type lower struct {
		N int `json:"next"`
	}
	type both struct {
		A int `json:"x"`
		B int `json:"X"`
	}
	type shadowed struct {
		Outer
		A int
	}
	type ambiguous struct {
		Outer
		inner
		X int `json:"a"`
	}
	type escaped struct {
		A int            `json:"<é>"`
		M map[string]int `json:"&"`
	}
	tests := map[string]struct {
		recorded any
		into     any
		want     string // in the refusal; "": it is taken
	}{
		"a removed field":          {struct{ ID, Id int }{1, 2}, new(struct{ ID int }), `has the type struct { ID int }, which has no field with the exact JSON name "Id"`},
		"a renamed field":          {struct{ DONE int }{7}, new(struct{ Done int }), `"DONE"`},
		"a tag":                    {both{1, 2}, new(struct{ X int }), `"x"`},
		"a tag beside a name":      {struct{ Next int }{3}, new(lower), `activity_test.lower, which has no field with the exact JSON name "Next"`},
		"in a slice":               {named([]struct{ DONE int }{{1}}), new(struct{ F []struct{ Done int } }), "field F[] has the type"},
		"in a map":                 {map[string]lower{"Next": {1}}, new(map[string]*struct{ Next int }), "element [] has the type"},
		"of an embedded struct":    {map[string]int{"A": 1, "b": 2}, new(struct{ Outer }), `"b"`},
		"a name that is ambiguous": {struct{ A int }{1}, new(ambiguous), `"A"`},
		"both cases":               {both{1, 2}, new(both), ""},
		"a field that is shadowed": {struct{ A, B int }{1, 2}, new(shadowed), ""},
		"escapes":                  {escaped{1, map[string]int{"&": 1, "Next": 2, "\"": 3}}, new(escaped), ""},
		"escapes of another":       {map[string]int{"<É>": 1}, new(escaped), `"<É>"`},
		"keys of a map":            {map[string]int{"NEXT": 1, "Next": 2}, new(map[string]int), ""},
		"into an any":              {both{1, 2}, new(any), ""},
		"methods of its own":       {map[string]int{"a": 1}, new(Lenient), ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := resumeInto(t, test.recorded, test.into)
			switch {
			case test.want == "":
				checkErr(t, err, nil)
			case !errors.Is(err, activity.ErrCannotResume) || !strings.Contains(err.Error(), test.want):
				t.Errorf("%v\ndoes not say %q", err, test.want)
			}
		})
	}
}

// firstOnly decodes the first number of a list.
type firstOnly [1]int

func (f *firstOnly) UnmarshalJSON(data []byte) error { return json.Unmarshal(data, (*[1]int)(f)) }

// Rule 5. Given details that Resume cannot decode, when it returns its error, then the
// activity fails once, and no attempt starts from the beginning.
func TestResume_FailureIsNeverAStartFromTheBeginning(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Heartbeat("a text"); err != nil {
					t.Error(err)
				}
				return errBoom
			}
			n, err := activity.Resume(ctx, 5)
			if n != 5 || err == nil {
				t.Errorf("Resume gave %d, %v", n, err)
			}
			return err
		})
		checkEnd(t, err, 2, activity.RetryStateNonRetryableFailure)
	})
}

// rawCodec is a Codec for []byte values, which it stores as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}

// record returns the opaque form in which values, encoded, are recorded.
func record(t *testing.T, values ...string) (details []byte) {
	t.Helper()
	bubble(t, activity.Config{Codec: rawCodec{}}, func(t *testing.T, rt *activity.Runtime) {
		var raw []any
		for _, v := range values {
			raw = append(raw, []byte(v))
		}
		opts := activity.Options{StartToCloseTimeout: 1, RetryPolicy: once}
		err := run(t, rt, opts, func(ctx activity.Context) error {
			if err := ctx.Heartbeat(raw...); err != nil {
				t.Error(err)
			}
			return ctx.Sleep(time.Hour)
		})
		details = asTimeout(t, err).Details
	})
	if details == nil {
		t.Fatal("nothing was recorded")
	}
	return details
}

// Rule 5. Given a recorded value, when it is decoded, then the default Codec takes one
// whole JSON value, and refuses anything after it.
func TestHeartbeatDetails_TrailingData(t *testing.T) {
	for value, ok := range map[string]bool{
		"1": true, " 1 ": true, "1\n": true,
		"1 2": false, "1,": false, "1}": false, "1 x": false, "": false, " ": false, "1\x00": false,
		"null": false, " null\n": false,
	} {
		c := activity.Checkpoint{Details: record(t, value)}
		n := 0
		found, err := c.HeartbeatDetails(nil, &n)
		if found != ok || (err == nil) != ok || ok && n != 1 {
			t.Errorf("%q: %v, %v, %d", value, found, err, n)
		}
	}
}

// Rule 5. Given damaged details, when any number of values is asked for, then that is an
// error.
func TestHeartbeatDetails_Damaged(t *testing.T) {
	whole := record(t, "11", "22")
	cases := map[string][]byte{
		"cut in the last value": whole[:len(whole)-1],
		"cut before it":         whole[:len(whole)-2],
		"more at the end":       append(append([]byte{}, whole...), 0xff),
		"a huge length":         binary.AppendUvarint(nil, math.MaxUint64),
		"a length of 2^63":      binary.AppendUvarint(nil, 1<<63),
		"an endless length":     []byte(strings.Repeat("\xff", 20)),
		"empty":                 {},
	}
	for name, details := range cases {
		for asked := range 4 {
			into := []any{new(any), new(any), new(any)}[:asked]
			c := activity.Checkpoint{Details: details}
			if found, err := c.HeartbeatDetails(nil, into...); found {
				t.Errorf("%s, %d values asked for: reports %v, %v", name, asked, found, err)
			}
		}
	}
	if found, err := (activity.Checkpoint{}).HeartbeatDetails(nil, new(int)); found || err != nil {
		t.Errorf("no details: %v, %v", found, err)
	}
}

// frames counts the values in details; -1: they are damaged.
func frames(details []byte) int {
	n := 0
	for ; len(details) > 0; n++ {
		length, size := binary.Uvarint(details)
		if size <= 0 || length > uint64(len(details)-size) {
			return -1
		}
		details = details[size+int(length):]
	}
	return n
}

// Rule 5: no details make HeartbeatDetails panic or tell what was not recorded,
// and rule 1: what Heartbeat records is what it reads.
func FuzzHeartbeatDetails(f *testing.F) {
	f.Add([]byte(nil), uint8(1))
	f.Add([]byte{1, '1'}, uint8(1))
	f.Add([]byte{1, '1', 3, '"', 'x', '"', 2, '{', '}'}, uint8(3))
	f.Add([]byte{4, 'n', 'u', 'l', 'l'}, uint8(2))
	f.Add([]byte{0x81, 0, '1'}, uint8(1))
	f.Add([]byte{5, '1'}, uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint8(1))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), uint8(4))
	f.Fuzz(func(t *testing.T, data []byte, n uint8) {
		c := activity.Checkpoint{Details: data}
		into := []any{new(any), new(int), new(string), new(twoFields), new(json.RawMessage), new(*int)}
		for first := range into {
			targets := append(append([]any{}, into[first:]...), into[:first]...)[:int(n)%len(into)]
			found, err := c.HeartbeatDetails(nil, targets...)
			if found && (err != nil || frames(data) < max(len(targets), 1)) {
				t.Fatalf("%d values of %q: true, %v", len(targets), data, err)
			}
			if !found && err == nil && len(data) > 0 {
				t.Fatalf("%d values of %q: neither details nor an error", len(targets), data)
			}
		}

		var values []any
		for rest := data; len(values) <= int(n)%4; {
			cut := min(len(rest), int(n)/4)
			values, rest = append(values, rest[:cut:cut]), rest[cut:]
		}
		roundTrip(t, activity.Config{Codec: rawCodec{}}, values)
		roundTrip(t, activity.Config{}, values)
	})
}

// roundTrip records values, which are []byte, and reads them in the next attempt.
func roundTrip(t *testing.T, cfg activity.Config, values []any) {
	t.Helper()
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				if err := ctx.Heartbeat(values...); err != nil {
					t.Error(err)
				}
				return errBoom
			}
			into := make([]any, len(values))
			for i := range into {
				into[i] = new([]byte)
			}
			if found, err := ctx.HeartbeatDetails(into...); !found || err != nil {
				t.Errorf("%v, %v", found, err)
			}
			for i, p := range into {
				if got := *p.(*[]byte); string(got) != string(values[i].([]byte)) {
					t.Errorf("value %d: %q, want %q", i, got, values[i])
				}
			}
			if found, err := ctx.HeartbeatDetails(append(into, new([]byte))...); found || err == nil {
				t.Errorf("one more: %v, %v", found, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// nothingCodec encodes all as nothing.
type nothingCodec struct{}

func (nothingCodec) Marshal(any) ([]byte, error) { return nil, nil }
func (nothingCodec) Unmarshal([]byte, any) error { return nil }

// Rule 1. Given a Codec that encodes a value to nothing, when a heartbeat records it,
// then the next attempt finds details.
func TestHeartbeatDetails_EmptyEncoding(t *testing.T) {
	bubble(t, activity.Config{Codec: nothingCodec{}}, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, atMost(2), func(ctx activity.Context) error {
			found, err := ctx.HeartbeatDetails(new(int))
			if second := ctx.Info().Attempt == 2; found != second || err != nil {
				t.Errorf("attempt %d: %v, %v", ctx.Info().Attempt, found, err)
			} else if second {
				return nil
			}
			if err := ctx.Heartbeat(1); err != nil {
				t.Error(err)
			}
			return errBoom
		})
		checkErr(t, err, nil)
	})
}

// spoiler is JSON by somebody who takes the data that Unmarshal gets for his own.
type spoiler func(data []byte)

func (spoiler) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (s spoiler) Unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	s(data)
	return err
}

// Rule 5. Given a Codec that appends to the data it decodes, when several values are
// read, then it does not write into the next value.
func TestHeartbeatDetails_CodecThatAppends(t *testing.T) {
	cfg := activity.Config{Codec: spoiler(func(data []byte) { copy(append(data, 0, 0)[len(data):], "99") })}
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err := run(t, rt, activity.Options{HeartbeatDetails: []any{1, 2}, RetryPolicy: once}, func(ctx activity.Context) error {
			var got [2]int
			if found, err := ctx.HeartbeatDetails(&got[0], &got[1]); !found || err != nil || got != [2]int{1, 2} {
				t.Errorf("%v, %v: %v", found, err, got)
			}
			return nil
		})
		checkErr(t, err, nil)
	})
}

// Rule 8. Given a Codec that overwrites the data it decodes, when an attempt records what
// it resumed from, then that is still no progress.
func TestHeartbeatDetails_CodecThatOverwrites(t *testing.T) {
	cfg := activity.Config{Codec: spoiler(func(data []byte) { clear(data) })}
	delays, err := runDelays(t, cfg, activity.Options{HeartbeatTimeout: time.Second}, func(ctx activity.Context, n int) error {
		if n > 1 {
			checkDetails(t, ctx, "so far")
			checkDetails(t, ctx, "so far")
		}
		if n == 3 {
			return nil
		}
		if err := ctx.Heartbeat("so far"); err != nil {
			t.Error(err)
		}
		return ctx.Sleep(time.Hour)
	})
	checkErr(t, err, nil)
	checkDiff(t, "delays", delays, times(time.Second, 0, 2))
}
