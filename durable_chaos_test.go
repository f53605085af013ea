package activity_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	chaosN    = flag.Int("chaos.n", 100, "scripts of TestStore_Chaos")
	chaosSeed = flag.Int("chaos.seed", 0, "the first one")
)

// Given a Store that fails at random in every way, when it works again, then it holds what
// has become of each activity, no caller has waited for longer than it may, nobody was told
// what is not true, and no goroutine is left.
func TestStore_Chaos(t *testing.T) {
	for seed := *chaosSeed; seed < *chaosSeed+*chaosN && !t.Failed(); seed++ {
		durable(t, activity.Config{StoreTimeout: 30 * time.Second}, func(t *testing.T, e *env, s *faultyStore) {
			c := &chaos{t: t, e: e, s: s, r: rand.New(rand.NewPCG(uint64(seed), 0))}
			before := bubbled(t)
			c.run()
			e.stop()
			synctest.Wait()
			if now := bubbled(t); now != before {
				t.Errorf("%d goroutines, %d before", now, before)
			}
			if t.Failed() {
				t.Errorf("seed %d (-chaos.seed=%d -chaos.n=1)", seed, seed)
			}
		})
	}
}

type chaos struct {
	t   *testing.T
	e   *env
	s   *faultyStore
	r   *rand.Rand
	ids []*chaosID
}

// A chaosID is what is known of an ID.
type chaosID struct {
	id      string
	busy    atomic.Bool // a Start or an end is under way
	h       *activity.Handle[string]
	cancel  context.CancelCauseFunc
	details atomic.Int64 // recorded last

	onPurpose bool // it was canceled so

	// What the Store must hold when nothing runs.
	stands activity.CheckpointState
	last   int64 // details
}

func (c *chaos) run() {
	for i := range 8 {
		c.ids = append(c.ids, &chaosID{id: fmt.Sprint(i)})
	}
	for range 40 {
		if c.r.IntN(3) == 0 {
			c.trouble()
		}
		x := c.ids[c.r.IntN(len(c.ids))]
		switch {
		case x.busy.Load():
		case x.h == nil:
			c.start(x, c.r.IntN(4), 1+c.r.IntN(30))
		case c.r.IntN(3) == 0:
			c.end(x, c.r.IntN(2) == 0)
		}
		c.e.pass(time.Duration(1+c.r.IntN(20)) * time.Second / 2)
	}
	for _, method := range []string{"Load", "Save", "Delete"} {
		c.s.on(method, nil)
	}
	c.e.pass(5 * time.Minute)
	for _, x := range c.ids {
		if x.busy.Load() {
			c.t.Errorf("%s: it has neither started nor ended", x.id)
			continue
		}
		want, details, unsaved := x.stands, x.last, int64(0)
		if x.h != nil { // what was recorded in the last SaveInterval may not be saved
			want, details, unsaved = activity.CheckpointRunning, x.details.Load(), 1
		}
		got := c.s.get(x.id)
		if data := (stored{got}); got.State != want {
			c.t.Errorf("%s: %s is stored, want %s: %+v", x.id, got.State, want, got)
		} else if want != 0 {
			var n int64
			if _, err := data.HeartbeatDetails(&n); err != nil || n > details || n < details-unsaved {
				c.t.Errorf("%s: details %d are stored, want %d: %v", x.id, n, details, err)
			}
		}
	}
	if got := c.e.rt.Stats(); !got.StoreFailingSince.IsZero() {
		c.t.Errorf("%+v", got)
	}
}

// start starts an activity that ends by itself after n heartbeats, or does not.
func (c *chaos) start(x *chaosID, how, n int) {
	x.busy.Store(true)
	ctx, cancel := context.WithCancelCause(c.e.ctx)
	opts := activity.Options{ID: x.id, Name: "job", RetryPolicy: once}
	x.details.Store(x.last)
	result := []error{nil, errBoom, nil, nil}[how]
	go func() {
		begun := time.Now()
		h := startOr(ctx, c.e.rt, opts, func(ctx activity.Context) error {
			for i := 0; i < n || how > 1; i++ {
				if err := ctx.Heartbeat(x.details.Add(1)); err != nil {
					return err
				}
				if err := ctx.Sleep(time.Second); err != nil {
					return err
				}
			}
			return result
		})
		if took := time.Since(begun); took > 150*time.Second { // another Load, a Load, another Save, and tries of which the last is late
			c.t.Errorf("%s: Start took %s", x.id, took)
		}
		if h == nil { // what stood stands
			cancel(nil)
			x.busy.Store(false)
			return
		}
		x.h, x.cancel = h, cancel
		x.busy.Store(how <= 1)
		if how <= 1 {
			c.ended(x)
		}
	}()
}

// startOr returns nil if the start is refused.
func startOr(ctx context.Context, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) *activity.Handle[string] {
	h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ struct{}) (string, error) { return "", fn(ctx) }, struct{}{})
	if err != nil {
		return nil
	}
	return h
}

// end cancels an activity, on purpose or by its context.
func (c *chaos) end(x *chaosID, onPurpose bool) {
	x.busy.Store(true)
	begun := time.Now()
	if x.onPurpose = onPurpose; onPurpose {
		x.h.Cancel(errCancel)
	} else {
		x.cancel(errCancel)
	}
	go func() {
		c.ended(x)
		if took := time.Since(begun); took > 10*time.Second {
			c.t.Errorf("%s: a cancellation took %s", x.id, took)
		}
	}()
}

// ended waits for the end, and notes what the Store must hold then.
func (c *chaos) ended(x *chaosID) {
	_, err := x.h.Wait(context.Background())
	x.last = x.details.Load()
	switch {
	case err == nil:
		x.stands, x.last = 0, 0
		if got := c.s.get(x.id); got.State != 0 {
			c.t.Errorf("%s: a success, and %s is stored", x.id, got.State)
		}
	case x.h.Status().State == activity.StateFailed:
		x.stands = activity.CheckpointFailed
	case x.onPurpose:
		x.stands = activity.CheckpointCanceled
	default:
		x.stands = activity.CheckpointInterrupted
	}
	x.cancel(nil)
	x.h = nil
	x.busy.Store(false)
}

// trouble makes the Store fail in some way, or work.
func (c *chaos) trouble() {
	until := make(chan struct{})
	time.AfterFunc(time.Duration(c.r.IntN(120))*time.Second, func() { close(until) })
	refused, limit, late := fmt.Sprint(c.r.IntN(len(c.ids))), 1+c.r.IntN(4), c.r.IntN(2) == 0
	ways := []func(method string) func(context.Context) error{
		func(string) func(context.Context) error { return nil },
		func(string) func(context.Context) error { return failing },
		func(method string) func(context.Context) error { // fails after the write
			return func(ctx context.Context) error { return errors.Join(c.write(ctx, method), errDisk) }
		},
		func(string) func(context.Context) error { // hangs
			return func(ctx context.Context) error {
				<-until
				if late {
					return errDisk
				}
				return nil
			}
		},
		func(string) func(context.Context) error { // hangs, and heeds its context
			return func(ctx context.Context) error {
				select {
				case <-until:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
		},
		func(method string) func(context.Context) error { // refuses one ID, and large batches
			return func(ctx context.Context) error {
				ids := c.idsOf(method)
				if slices.Contains(ids, refused) || len(ids) > limit {
					return errDisk
				}
				return nil
			}
		},
		func(string) func(context.Context) error {
			return func(context.Context) error { panicHere(errDisk); return nil }
		},
		func(string) func(context.Context) error {
			return func(context.Context) error { runtime.Goexit(); return nil }
		},
	}
	for _, method := range []string{"Load", "Save", "Delete"} {
		if c.r.IntN(2) == 0 {
			c.s.on(method, ways[c.r.IntN(len(ways))](method))
		}
	}
}

// idsOf are those of the call that is being made.
func (c *chaos) idsOf(method string) []string {
	all := c.s.of(method)
	call := all[len(all)-1]
	if method != "Save" {
		return call.ids
	}
	var ids []string
	for _, cp := range call.batch {
		ids = append(ids, cp.ID)
	}
	return ids
}

// write does what the call that is being made is for.
func (c *chaos) write(ctx context.Context, method string) error {
	all := c.s.of(method)
	call := all[len(all)-1]
	switch method {
	case "Save":
		return c.s.Memory.Save(ctx, call.batch)
	case "Delete":
		c.s.mu.Lock()
		for _, id := range call.ids {
			delete(c.s.newest, id)
		}
		c.s.mu.Unlock()
		return c.s.Memory.Delete(ctx, call.ids)
	}
	return nil
}
