package activity_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
)

// otherEngine is the Context of another engine, which knows nothing of Guard.
type otherEngine struct {
	context.Context
	beats, told int
}

func (e *otherEngine) Sleep(time.Duration) error {
	if e.Err() != nil {
		e.told++
	}
	return context.Cause(e)
}
func (e *otherEngine) Heartbeat(...any) error              { e.beats++; return nil }
func (*otherEngine) HeartbeatDetails(...any) (bool, error) { return false, nil }
func (*otherEngine) Info() activity.Info                   { return activity.Info{ID: "theirs"} }
func (*otherEngine) Logger() *slog.Logger                  { return quiet }

// fullEngine is another engine that implements Engine.
type fullEngine struct {
	otherEngine
	sleeps, guards, ranges int
}

func (e *fullEngine) SleepContext(ctx context.Context, d time.Duration) error {
	e.sleeps++
	return context.Cause(ctx)
}
func (e *fullEngine) Guard(f func() error) error { e.guards++; return f() }
func (e *fullEngine) BeginRange() bool           { e.ranges++; return e.ranges < 2 }

// Given a Context of another engine, when it is used directly, through a child, a wrapper
// or both, then Sleep, Range and Guard use that engine.
func TestEngine_ForeignEngine(t *testing.T) {
	base, end := context.WithCancel(context.Background())
	defer end()
	for name, wrap := range map[string]func(ctx context.Context, e *fullEngine) activity.Context{
		"itself": func(_ context.Context, e *fullEngine) activity.Context { return e },
		"a child": func(ctx context.Context, e *fullEngine) activity.Context {
			c, _ := activity.FromContext(activity.NewContext(ctx, e))
			return c
		},
		"a wrapper": func(_ context.Context, e *fullEngine) activity.Context { return itself{e} },
		"a wrapper's child": func(ctx context.Context, e *fullEngine) activity.Context {
			c, _ := activity.FromContext(activity.NewContext(ctx, itself{e}))
			return c
		},
	} {
		ctx, cancel := context.WithCancel(base)
		engine := &fullEngine{}
		engine.Context = activity.NewContext(base, engine)
		c := wrap(ctx, engine)
		checkErr(t, activity.Guard(c, func() error { return errBoom }), errBoom)
		checkErr(t, activity.Range(c, 0, 0, nil), nil)
		if err := activity.Range(c, 0, 0, nil); err == nil {
			t.Errorf("%s: a second Range is not refused", name)
		}
		checkErr(t, c.Sleep(time.Second), nil)
		if want := map[bool]int{true: 0, false: 1}[name == "itself" || name == "a wrapper"]; engine.guards != 1 || engine.ranges != 2 || engine.sleeps != want {
			t.Errorf("%s: %d guards, %d ranges, %d sleeps", name, engine.guards, engine.ranges, engine.sleeps)
		}
		cancel()
	}
}

// Given a Context that is not of this package, when NewContext registers it, then
// FromContext finds it below, with the child's values and cancellation.
func TestNewContext_ForeignContext(t *testing.T) {
	base, end := context.WithCancelCause(context.Background())
	engine := &otherEngine{Context: base}
	ctx, cancel := context.WithCancelCause(activity.NewContext(context.WithValue(base, key{}, 1), engine))
	c, ok := activity.FromContext(ctx)
	if !ok || c.Value(key{}) != 1 || c.Info().ID != "theirs" {
		t.Fatalf("FromContext gave %v, value %v, %v", ok, c.Value(key{}), c.Info())
	}
	calls := 0
	f := func() error { calls++; return errBoom }
	checkErr(t, activity.Range(c, 0, 3, func(int) error { return nil }), nil)
	checkErr(t, activity.Idle(c, time.Second), nil)
	checkErr(t, activity.Guard(c, f), errBoom)
	checkErr(t, activity.Guard(engine, f), errBoom)
	if calls != 2 || engine.beats != 4 {
		t.Errorf("f ran %d times, %d heartbeats", calls, engine.beats)
	}
	cancel(errCancel)
	checkErr(t, c.Heartbeat(), errCancel)
	checkErr(t, c.Sleep(0), errCancel)
	checkErr(t, activity.Guard(c, never), errCancel)
	checkErr(t, activity.Range(c, 0, 1, nil), errCancel)
	checkErr(t, activity.Guard(engine, f), errBoom) // whose own context has not ended
	end(errCancel)
	if engine.told > 0 {
		t.Error("the engine's own end was told before it came")
	}
	checkErr(t, activity.Guard(engine, never), errCancel)
	checkErr(t, activity.Idle(engine, 0), nil) // its Heartbeat knows of no end
	if engine.told != 1 {
		t.Errorf("Guard told %d times of the end", engine.told)
	}
	checkErr(t, activity.Range(engine, 0, 1, nil), errCancel)
	if engine.told != 2 {
		t.Error("Range did not tell of the end")
	}
}
