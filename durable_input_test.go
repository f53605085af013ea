package activity_test

import (
	"encoding/json"
	"math/big"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

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
