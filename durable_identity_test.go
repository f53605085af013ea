package activity_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Rule 31. Given what is stored of an ID, when another activity is started with it, then
// it is refused, and what is stored stays.
func TestIdentity_Checkpoint(t *testing.T) {
	type monday struct{ File string }
	type withNew struct {
		File  string
		Limit int `json:",omitzero"`
	}
	type withMore struct {
		File  string
		Limit int
	}
	type renamed struct{ Path string }
	execute := func(in any) func(e *env, opts activity.Options) error {
		return func(e *env, opts activity.Options) error {
			var err error
			switch in := in.(type) {
			case monday:
				_, err = activity.Execute(e.ctx, e.rt, opts, func(activity.Context, monday) (int, error) { return 0, nil }, in)
			case withNew:
				_, err = activity.Execute(e.ctx, e.rt, opts, func(activity.Context, withNew) (int, error) { return 0, nil }, in)
			case withMore:
				_, err = activity.Execute(e.ctx, e.rt, opts, func(activity.Context, withMore) (int, error) { return 0, nil }, in)
			case renamed:
				_, err = activity.Execute(e.ctx, e.rt, opts, func(activity.Context, renamed) (int, error) { return 0, nil }, in)
			}
			return err
		}
	}
	run := func(e *env, opts activity.Options) error { return e.rt.Run(e.ctx, opts, noop) }
	named := activity.Options{ID: "a", Name: "job"}
	accepting := named
	accepting.AcceptNewInput = true
	other := activity.Options{ID: "a", Name: "other", AcceptNewInput: true}
	const input = `{"File":"monday"}`
	for name, test := range map[string]struct {
		input string // that is stored
		opts  activity.Options
		start func(e *env, opts activity.Options) error
		want  string // in the error; "": it starts
	}{
		"the same":                 {input, named, execute(monday{"monday"}), ""},
		"in another form":          {` {"File": "monday"}`, named, execute(monday{"monday"}), ""},
		"another input":            {input, named, execute(monday{"tuesday"}), `the stored input is {"File":"monday"} (failed, attempt 2), the new one {"File":"tuesday"}`},
		"which is accepted":        {input, accepting, execute(monday{"tuesday"}), ""},
		"a new field":              {input, named, execute(withNew{File: "monday"}), ""},
		"always encoded":           {input, named, execute(withMore{File: "monday"}), ""},
		"a new field with a use":   {input, named, execute(withMore{"monday", 5}), `{"File":"monday","Limit":0} (failed, attempt 2), the new one {"File":"monday","Limit":5}`},
		"a removed field":          {`{"File":"monday","Limit":5}`, named, execute(monday{"monday"}), `cannot be decoded into the new one's type (json: unknown field "Limit")`},
		"of no use, removed":       {`{"File":"monday","Limit":5}`, accepting, execute(monday{"monday"}), ""},
		"a renamed field":          {input, named, execute(renamed{"monday"}), `cannot be decoded`},
		"no input given":           {input, named, run, ""},
		"no input stored":          {"", named, execute(monday{"monday"}), ""},
		"another name":             {input, other, execute(monday{"monday"}), `the stored name is "job" (failed, attempt 2), the new one "other"`},
		"another name, no input":   {input, other, run, `name is "job"`},
		"no name given":            {input, activity.Options{ID: "a"}, execute(monday{"monday"}), ""},
		"no name, another input":   {input, activity.Options{ID: "a"}, execute(monday{"tuesday"}), `tuesday`},
		"a long input":             {`{"File":"` + strings.Repeat("x", 1000) + `"}`, named, execute(monday{"monday"}), `xxx... (1011 bytes)`},
		"an input that is no text": {"\xff\xfe", named, execute(monday{"monday"}), `the stored input of 2 bytes`},
	} {
		for _, state := range []activity.CheckpointState{
			activity.CheckpointRunning, activity.CheckpointInterrupted, activity.CheckpointWaiting, activity.CheckpointFailed, activity.CheckpointCanceled,
		} {
			t.Run(fmt.Sprintf("%s/%s", name, state), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					stood := s.put(activity.Checkpoint{State: state, Attempt: 2, Progressed: 2, Details: details(80), Input: []byte(test.input)})
					err := test.start(e, test.opts)
					if test.want == "" {
						checkErr(t, err, nil)
						return
					}
					checkErr(t, err, activity.ErrCheckpointMismatch)
					want := strings.Replace(test.want, "failed", state.String(), 1)
					if text := fmt.Sprint(err); !strings.Contains(text, want) || !strings.HasPrefix(text, `activity "a": not started: `) || !strings.Contains(text, "Forget") {
						t.Errorf("the error is: %s", text)
					}
					s.want(stood)
					checkDiff(t, "events", e.kinds("a"), []activity.EventKind(nil))
					checkErr(t, e.rt.Forget(e.ctx, "a"), nil)
					checkErr(t, test.start(e, test.opts), nil)
				})
			})
		}
	}
}

// Rule 31. Given a failure in this process whose checkpoint is not saved yet, when another
// input is started with its ID, then it is refused too.
func TestIdentity_UnsavedCheckpoint(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		fn := func(ctx activity.Context, file string) (int, error) {
			s.on("Save", failing)
			return 0, errBoom
		}
		_, err := activity.Execute(e.ctx, e.rt, opts, fn, "monday")
		checkErr(t, err, errBoom)
		_, err = activity.Execute(e.ctx, e.rt, opts, fn, "tuesday")
		checkErr(t, err, activity.ErrCheckpointMismatch)
		s.on("Save", nil)
		e.pass(time.Minute)
		s.want(activity.Checkpoint{ID: "a", State: activity.CheckpointFailed, Attempt: 1, Input: []byte(`"monday"`), LastFailure: s.get("a").LastFailure})
	})
}

// Rule 31. Given a new input that is accepted, when the activity has to wait, then the
// Store holds that input before Start returns.
func TestIdentity_AcceptedInputIsStored(t *testing.T) {
	for _, state := range []activity.CheckpointState{activity.CheckpointWaiting, activity.CheckpointRunning, activity.CheckpointFailed} {
		t.Run(state.String(), func(t *testing.T) {
			durable(t, activity.Config{MaxConcurrent: 1}, func(t *testing.T, e *env, s *faultyStore) {
				s.put(activity.Checkpoint{State: state, Attempt: 2, Details: details(80), Input: []byte(`"monday"`), LastFailure: "eh"})
				e.start(activity.Options{}, untilEnded) // has the slot
				opts := job
				opts.AcceptNewInput = true
				h, err := activity.Start(e.ctx, e.rt, opts, func(activity.Context, string) (int, error) { return 0, nil }, "tuesday")
				checkErr(t, err, nil)
				want := s.get("a")
				if string(want.Input) != `"tuesday"` || want.State != activity.CheckpointWaiting {
					t.Fatalf("the Store has %+v", want)
				}
				checkDetails(t, stored{want}, 80)
				checkErr(t, e.rt.Shutdown(e.ctx), nil)
				checkErr(t, wait(t, h), activity.ErrShutdown)
				if got := s.get("a"); string(got.Input) != `"tuesday"` {
					t.Errorf("after Shutdown the Store has %+v", got)
				}
			})
		})
	}
}

// Rule 31. Given an input that an any holds, and that decoding rounds, when the same is
// started again, then it is the same.
func TestIdentity_InputThatDecodingRounds(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy = once
		for range 2 {
			_, err := activity.Execute(e.ctx, e.rt, opts, func(activity.Context, map[string]any) (int, error) { return 0, errBoom }, map[string]any{"n": int64(1<<53 + 1)})
			checkErr(t, err, errBoom)
		}
	})
}

// Rule 31. Given an input that is the same, when the activity continues, then the stored
// bytes stay, which an older version of the program can still read.
func TestIdentity_StoredInputStays(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointInterrupted, Input: []byte(`{"File":"monday"}`)})
		type in struct {
			File  string
			Limit int
		}
		_, err := activity.Start(e.ctx, e.rt, job, func(ctx activity.Context, in in) (int, error) { return 0, untilEnded(ctx) }, in{File: "monday"})
		checkErr(t, err, nil)
		if got := s.get("a"); string(got.Input) != `{"File":"monday"}` || got.State != activity.CheckpointRunning {
			t.Errorf("%+v", got)
		}
	})
}
