package activity_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

var traced = map[string]string{"traceparent": "00-1", "": "\xff"}

// Given Options.Header, then every attempt has it in its Info, as it was at the start. An empty
// one is nil.
func TestHeader_InInfo(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		for _, header := range []map[string]string{nil, {}, {"a": "1", "b": ""}} {
			var got []map[string]string
			opts := activity.Options{Header: header, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Minute, MaximumAttempts: 2}}
			h := e.start(opts, func(ctx activity.Context) error {
				got = append(got, ctx.Info().Header)
				return errBoom
			})
			if len(header) > 0 {
				header["a"] = "changed"
			}
			e.pass(time.Minute)
			checkErr(t, e.end(h), errBoom)
			want := map[string]string{"a": "1", "b": ""}
			if len(header) == 0 {
				want = nil
			}
			checkDiff(t, "Headers", got, []map[string]string{want, want})
		}
	})
}

// Rules 20 and 28. Given a stored execution that continues, then its Header is the stored one, unless
// Start has another. With Recover it is always the stored one. A new execution does not have it.
func TestHeader_OfAStoredExecution(t *testing.T) {
	other := map[string]string{"other": "1"}
	for _, test := range []struct {
		name    string
		state   activity.CheckpointState
		given   map[string]string
		recover bool
		want    map[string]string
	}{
		{"continues", activity.CheckpointWaiting, nil, false, traced},
		{"continues, with an empty one", activity.CheckpointRunning, map[string]string{}, false, traced},
		{"continues, with another", activity.CheckpointInterrupted, other, false, other},
		{"is recovered", activity.CheckpointInterrupted, nil, true, traced},
		{"is recovered, with another", activity.CheckpointPaused, other, true, traced},
		{"has failed", activity.CheckpointFailed, nil, false, nil},
		{"has failed, with another", activity.CheckpointFailed, other, false, other},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				s.put(activity.Checkpoint{State: test.state, Attempt: 1, Progressed: 1, Header: traced})
				def := &activity.Definition[struct{}, struct{}]{
					Name:    "job",
					Options: activity.Options{Header: test.given},
					Func: func(ctx activity.Context, _ struct{}) (struct{}, error) {
						checkDiff(t, "Header", ctx.Info().Header, test.want)
						checkDiff(t, "stored Header", s.get("a").Header, test.want)
						return struct{}{}, nil
					},
				}
				if test.recover {
					n, err := e.rt.Recover(e.ctx, def)
					if n != 1 || err != nil {
						t.Error(n, err)
					}
					_ = e.rt.Unpause("a")
					synctest.Wait()
				} else if _, err := def.Execute(e.ctx, e.rt, "a", struct{}{}); err != nil {
					t.Error(err)
				}
				if n := len(e.of(activity.EventCompleted)); n != 1 {
					t.Errorf("%d have completed", n)
				}
			})
		})
	}
}

// Rule 20. Given a stored execution that waits, when it is started with another Header, then Start
// returns when the Store has that one, also if the activity still waits.
func TestHeader_IsStoredBeforeStartReturns(t *testing.T) {
	for _, header := range []map[string]string{traced, {"other": "1"}} {
		durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
			s.put(activity.Checkpoint{State: activity.CheckpointWaiting, Attempt: 1, Header: traced, NextAttempt: time.Now().Add(time.Hour)})
			opts := job
			opts.Header = header
			open := s.block("Save")
			l := e.launch(e.ctx, opts, noop)
			if same := len(header) == len(traced); l.returned.Load() != same {
				t.Errorf("%q: it has returned: %t", header, l.returned.Load())
			}
			open()
			synctest.Wait()
			checkErr(t, l.err, nil)
			checkState(t, l.h, activity.StateBackingOff)
			checkDiff(t, "stored Header", s.get("a").Header, header)
		})
	}
}

// Rule 24. Given large Headers, then they count for the 16 MiB of a batch.
func TestHeader_CountsForTheBatch(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		open := s.block("Save")
		e.launch(e.ctx, activity.Options{ID: "first"}, untilEnded)
		for i := range 3 {
			opts := activity.Options{ID: fmt.Sprint(i), Header: map[string]string{strings.Repeat("k", 1<<20): strings.Repeat("v", 6<<20)}}
			e.launch(e.ctx, opts, untilEnded)
		}
		open()
		synctest.Wait()
		var sizes []int
		for _, c := range s.of("Save") {
			sizes = append(sizes, len(c.batch))
		}
		checkDiff(t, "sizes of the batches", sizes, []int{1, 2, 1})
	})
}
