// Package ctxchain finds out whether a context ends with the attempt that it is derived from. All
// engines need that.
package ctxchain

import (
	"context"
	"reflect"
	"time"
)

// engine has the methods of activity.Engine, which an attempt's Context implements.
type engine interface {
	SleepContext(ctx context.Context, d time.Duration) error
	Guard(f func() error) error
	BeginRange() bool
}

// A Child is a context of this module's own that says from which context it is derived.
type Child interface{ Parent() context.Context }

// An Unseen is an engine that is told when its function does not see that a heartbeat has asked it
// to stop.
type Unseen interface{ Unseen() }

var typeWithoutCancel = reflect.TypeOf(context.WithoutCancel(context.Background()))

// EndsWithAttempt reports whether ctx, which is derived from an attempt's Context, ends when that
// does: whether there is no context.WithoutCancel between them. No method of a context tells, so
// it looks for the one that each is derived from, which is a field named Context in the standard
// library's types and in those that embed theirs.
func EndsWithAttempt(ctx context.Context) bool {
	for {
		switch c := ctx.(type) {
		case engine:
			return true
		case Child:
			ctx = c.Parent()
			continue
		}
		v := reflect.ValueOf(ctx)
		if v.Type() == typeWithoutCancel || ctx.Done() == nil {
			return false
		}
		if v = reflect.Indirect(v); v.Kind() != reflect.Struct {
			return true
		}
		if v = v.FieldByName("Context"); !v.IsValid() || !v.CanInterface() {
			return true
		}
		parent, ok := v.Interface().(context.Context)
		if !ok {
			return true
		}
		ctx = parent
	}
}
