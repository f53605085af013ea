// Whether a checkpoint belongs to the activity that is started: Name, Input and details
// of another version.

package activity_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
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

// Rule 33. Given details that this version of the program cannot read, when an attempt
// ends in ErrCannotResume, then the activity fails without a retry, stays interrupted, and
// the version that can read them continues.
func TestCannotResume_StaysForAnotherVersion(t *testing.T) {
	type v1 struct{ Row int }
	type v2 struct{ Line int }
	const rows = 5
	function := map[string]func(activity.Context) error{
		"Resume": func(ctx activity.Context) error {
			_, err := activity.Resume(ctx, v1{})
			return err
		},
		"HeartbeatDetails": func(ctx activity.Context) error {
			var row, col int
			_, err := ctx.HeartbeatDetails(&row, &col)
			return fmt.Errorf("too few: %w", err)
		},
		"Range":     func(ctx activity.Context) error { return activity.Range(ctx, 0, rows, func(int) error { return nil }) },
		"their own": func(ctx activity.Context) error { return fmt.Errorf("version 3: %w", activity.ErrCannotResume) },
		"a panic":   func(ctx activity.Context) error { panic(activity.ErrCannotResume) },
		"an attempt that recorded": func(ctx activity.Context) error {
			_ = ctx.Heartbeat(v2{rows})
			return activity.ErrCannotResume
		},
	}
	for name, fn := range function {
		for _, state := range []activity.CheckpointState{activity.CheckpointInterrupted, activity.CheckpointRunning, activity.CheckpointFailed} {
			t.Run(fmt.Sprintf("%s/%s", name, state), func(t *testing.T) {
				durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
					before := s.put(activity.Checkpoint{State: state, Attempt: 2, Progressed: 2, Details: details(v2{rows}), LastFailure: "eh"})
					opts := job
					opts.RetryPolicy = activity.RetryPolicy{MaximumAttempts: 3, Retryable: func(error) bool { t.Error("Retryable was asked"); return true }}
					for range 3 { // as often as it is started, or recovered at boot
						h := e.start(opts, fn)
						attempt, failure := 3, "eh"
						switch state {
						case activity.CheckpointFailed:
							attempt, failure = 1, ""
						case activity.CheckpointRunning:
							failure = "the process ended during attempt 2"
						}
						checkEnd(t, e.end(h), attempt, activity.RetryStateNonRetryableFailure, activity.ErrCannotResume)
						want := activity.Checkpoint{
							ID: "a", State: activity.CheckpointInterrupted, Attempt: attempt - 1, Input: []byte("{}"), Details: before.Details, LastFailure: failure,
						}
						if state != activity.CheckpointFailed {
							want.Progressed = 2
						}
						s.want(want)
						synctest.Wait()
					}
					checkDiff(t, "unfinished", e.unfinished(), []string{"a"})
					def := &activity.Definition[struct{}, int]{Name: "job", Options: activity.Options{RetryPolicy: activity.RetryPolicy{MaximumAttempts: 3}}}
					def.Func = func(ctx activity.Context, _ struct{}) (int, error) {
						from, err := activity.Resume(ctx, v2{})
						if err != nil || from.Line != rows {
							t.Errorf("it resumes from %v, %v", from, err)
						}
						return 0, nil
					}
					n, err := e.rt.Recover(e.ctx, def)
					if n != 1 || err != nil {
						t.Error(n, err)
					}
					synctest.Wait()
					s.want(activity.Checkpoint{ID: "a"})
				})
			})
		}
	}
}

// Rule 33. Given an inner activity that ends in ErrCannotResume, when the outer one
// returns that error, then the outer one is retried.
func TestCannotResume_InnerActivity(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		attempts := 0
		err := rt.Run(t.Context(), atMost(2), func(ctx activity.Context) error {
			attempts++
			return rt.Run(ctx, activity.Options{HeartbeatDetails: []any{"x"}}, func(ctx activity.Context) error {
				_, err := activity.Resume(ctx, 0)
				return err
			})
		})
		if checkEnd(t, err, 2, activity.RetryStateMaximumAttemptsReached, activity.ErrCannotResume); attempts != 2 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

// Rule 33. Given a cancellation, when the canceled function returns ErrCannotResume, then
// it is canceled.
func TestCannotResume_CanceledAttempt(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(job, func(ctx activity.Context) error {
			return errors.Join(untilEnded(ctx), activity.ErrCannotResume)
		})
		h.Cancel(errCancel)
		synctest.Wait()
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel, activity.ErrCannotResume)
		if got := s.get("a"); got.State != activity.CheckpointCanceled || got.Attempt != 0 {
			t.Errorf("%+v", got)
		}
	})
}

type shape interface{ Area() int }

type square struct{ Side int }

func (s square) Area() int { return s.Side * s.Side }

// recovers starts an activity with an input and recovers it in a next process, where the
// input may have another type. It reports false if the input is refused.
func recovers[Old, New any](t *testing.T, codec activity.Codec, in Old) (accepted bool) {
	synctest.Test(t, func(t *testing.T) {
		store := &storetest.Memory{}
		var ran atomic.Bool
		v1 := &activity.Definition[Old, int]{Name: "job", Func: func(ctx activity.Context, _ Old) (int, error) { return 0, untilEnded(ctx) }}
		v2 := &activity.Definition[New, int]{Name: "job", Func: func(activity.Context, New) (int, error) { ran.Store(true); return 0, nil }}
		rt := activity.New(activity.Config{Logger: quiet, Store: store, Codec: codec})
		if _, err := v1.Start(t.Context(), rt, "a", in); err != nil {
			return
		}
		accepted = true
		next := activity.New(activity.Config{Logger: quiet, Store: store.Clone(), Codec: codec})
		n, err := next.Recover(t.Context(), v2)
		if time.Sleep(time.Minute); n != 1 || err != nil || !ran.Load() {
			t.Errorf("recovered %d, %v, it ran: %v", n, err, ran.Load())
		}
		checkErr(t, rt.Shutdown(t.Context()), nil)
		checkErr(t, next.Shutdown(t.Context()), nil)
	})
	return accepted
}

// Rule 29. Given inputs of interface types, when one is accepted, then it can be
// recovered; when it cannot be decoded, then the start is refused.
func TestInput_InterfaceType(t *testing.T) {
	if recovers[shape, shape](t, nil, square{3}) {
		t.Error("a shape is accepted")
	}
	for _, in := range []any{json.Number("1e400"), new(big.Int).Lsh(big.NewInt(1), 2000), json.RawMessage(`[1e400]`), square{3}} {
		recovers[any, any](t, nil, in)
	}
	if !recovers[any, any](t, nil, map[string]any{"a": 1.5}) {
		t.Error("a map in an any is refused")
	}
}

// Rule 31. Given a stored input, when the next version of the program has a new field
// that does not encode as it is, then Recover starts the activity.
func TestInput_NewFieldInNextVersion(t *testing.T) {
	type v1 struct{ File string }
	recovers[v1, struct {
		File  string
		Extra json.RawMessage
	}](t, nil, v1{"monday"})
	recovers[v1, struct {
		File  string
		Limit json.Number
	}](t, nil, v1{"monday"})
	recovers[v1, v1](t, nonceCodec{}, v1{"monday"})
}

// Rule 31. Given a stored activity with a name, when it is continued without one, then
// Recover and its Definition still find it.
func TestIdentity_StartWithoutNameKeepsStoredName(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		def := &activity.Definition[string, int]{Name: "import", Func: func(ctx activity.Context, _ string) (int, error) { return 0, untilEnded(ctx) }}
		ctx, cancel := context.WithCancel(e.ctx)
		_, err := def.Start(ctx, e.rt, "a", "monday")
		checkErr(t, err, nil)
		cancel()
		synctest.Wait()
		ctx, cancel = context.WithCancel(e.ctx)
		_, err = activity.Start(ctx, e.rt, activity.Options{ID: "a"}, def.Func, "monday")
		checkErr(t, err, nil)
		synctest.Wait()
		cancel()
		synctest.Wait()
		if got := s.get("a").Name; got != "import" {
			t.Errorf("it is named %q", got)
		}
		n, err := e.rt.Recover(e.ctx, def)
		if n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

// A slowDelay is an error that calls f when it is asked for its delay.
type slowDelay struct{ f func() }

func (slowDelay) Error() string { return "slow" }

func (s slowDelay) RetryDelay() time.Duration {
	s.f()
	return 0
}

// Rule 33. Given an attempt that ended in ErrCannotResume, when a Shutdown comes before
// that is decided, then the attempt does not count.
func TestCannotResume_ShutdownAtOnce(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := job
		opts.RetryPolicy.MaximumAttempts = 1
		_ = e.start(opts, func(ctx activity.Context) error {
			return errors.Join(activity.ErrCannotResume, slowDelay{func() { e.stop() }})
		})
		e.pass(time.Second)
		got := s.get("a")
		if got.State != activity.CheckpointInterrupted || got.Attempt != 0 {
			t.Errorf("%s, attempt %d, %q", got.State, got.Attempt, got.LastFailure)
		}
	})
}
