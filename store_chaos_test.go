// Random faults of a Store, while activities start, run and end. -chaos.n and
// -chaos.lives say how many scripts run.

package activity_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
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
	chaosN    = flag.Int("chaos.n", 25, "scripts of TestStore_Chaos")
	chaosSeed = flag.Int("chaos.seed", 0, "the first one")
)

// Given a Store that fails at random in every way, when it works again, then it holds what
// has become of each activity, no caller has waited for longer than it may, no caller got a
// false result, and no goroutine is left.
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

	// stands is the state that the Store must hold when nothing runs.
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

var (
	livesN    = flag.Int("chaos.lives", 10, "scripts of TestStore_ChaosOverLives")
	livesSeed = flag.Int("chaos.lives.seed", 0, "the first one")
)

type livesInput struct{ How, N int }

// A livesJob is one ID in one life of the process.
type livesJob struct {
	id       string
	sync     bool
	how      int
	started  time.Time
	busy     atomic.Bool // Start under way
	accepted atomic.Bool
	told     atomic.Bool
	err      error
	refused  atomic.Bool
	ran      atomic.Int32
	synced   atomic.Int64
	done     atomic.Bool // the function returned nil
	canceled atomic.Bool
	h        *activity.Handle[string]
	cancel   context.CancelFunc
}

type life struct {
	t       *testing.T
	e       *env
	s       *faultyStore
	r       *rand.Rand
	jobs    map[string]*livesJob
	running map[string]*atomic.Int32
	dead    atomic.Bool
	loose   [8]atomic.Bool // somebody has called Forget
}

func (l *life) fn(j *livesJob, in livesInput) func(ctx activity.Context) error {
	return func(ctx activity.Context) error {
		j.ran.Add(1)
		if j.refused.Load() {
			l.t.Errorf("%s: runs, and its start was refused", j.id)
		}
		run := l.running[j.id]
		if run.Add(1) > 1 {
			l.t.Errorf("%s: two at once", j.id)
		}
		defer run.Add(-1)
		var n int64
		if _, err := ctx.HeartbeatDetails(&n); err != nil {
			l.t.Errorf("%s: %v", j.id, err)
		}
		if n < j.synced.Load() && !l.loose[j.id[0]-'0'].Load() {
			l.t.Errorf("%s: resumes from %d, synced %d", j.id, n, j.synced.Load())
		}
		for i := 0; i < in.N || in.How == 3; i++ {
			n++
			if err := ctx.Heartbeat(n); err != nil {
				if ctx.Err() != nil {
					return err
				}
			} else if j.sync && ctx.Err() == nil {
				j.synced.Store(n)
			}
			if err := ctx.Sleep(time.Second); err != nil {
				return err
			}
			if in.How == 2 && i == 2 && ctx.Info().Attempt < 5 {
				return errBoom
			}
		}
		if in.How == 1 {
			return activity.NonRetryable(errBoom)
		}
		j.done.Store(true)
		return nil
	}
}

func livesOptions(id string, sync bool) activity.Options {
	o := activity.Options{ID: id, Name: "plain", RetryPolicy: activity.RetryPolicy{InitialInterval: 3 * time.Second, MaximumInterval: 20 * time.Second}}
	if sync {
		o.Name, o.SyncHeartbeats = "sync", true
	}
	return o
}

func (l *life) start(id string) {
	j := &livesJob{id: id, sync: id < "4", how: l.r.IntN(4), started: time.Now()}
	if old := l.jobs[id]; old != nil && old.told.Load() && old.err != nil { // resumes from the details
		j.synced.Store(old.synced.Load())
	}
	in := livesInput{j.how, 1 + l.r.IntN(30)}
	ctx, cancel := context.WithCancel(l.e.ctx)
	j.cancel = cancel
	j.busy.Store(true)
	opts := livesOptions(id, j.sync)
	opts.AcceptNewInput = true
	l.jobs[id] = j
	go func() {
		h, err := activity.Start(ctx, l.e.rt, opts, func(ctx activity.Context, in livesInput) (string, error) { return "", l.fn(j, in)(ctx) }, in)
		if took := time.Since(j.started); took > 250*time.Second {
			l.t.Errorf("%s: Start took %s", id, took)
		}
		if err != nil {
			j.refused.Store(true)
			if j.ran.Load() > 0 {
				l.t.Errorf("%s: refused, and ran: %v", id, err)
			}
			j.busy.Store(false)
			return
		}
		j.h = h
		j.accepted.Store(true)
		j.busy.Store(false)
		if got := l.s.get(id); got.State == 0 && !j.done.Load() && !l.dead.Load() {
			l.t.Errorf("%s: accepted, and nothing is stored (how %d, ran %d)", id, j.how, j.ran.Load())
		}
		l.wait(j)
	}()
}

func (l *life) wait(j *livesJob) {
	_, j.err = j.h.Wait(context.Background())
	if j.err == nil && !l.dead.Load() && !j.canceled.Load() {
		if got := l.s.get(j.id); got.State != 0 {
			l.t.Errorf("%s: success told, and %s stored: seq %d", j.id, got.State, got.Sequence)
		}
	}
	j.told.Store(true)
}

func (l *life) recover() {
	def := func(name string, sync bool) activity.Recoverable {
		o := livesOptions("", sync)
		o.Name = ""
		return &activity.Definition[livesInput, string]{Name: name, Options: o, Func: func(ctx activity.Context, in livesInput) (string, error) {
			j := &livesJob{id: ctx.Info().ID, sync: sync, how: in.How}
			return "", l.fn(j, in)(ctx)
		}}
	}
	go func() {
		begun := time.Now()
		_, _ = l.e.rt.Recover(l.e.ctx, def("sync", true), def("plain", false))
		if took := time.Since(begun); took > 20*time.Minute {
			l.t.Errorf("Recover took %s", took)
		}
	}()
}

func (l *life) clear() {
	for _, m := range []string{"Load", "Save", "Delete", "All"} {
		l.s.on(m, nil)
	}
}

// check is called when the process is killed at this instant.
func (l *life) checkKill(what string) {
	for id, j := range l.jobs {
		if j.busy.Load() || !j.accepted.Load() {
			continue
		}
		got := l.s.get(id)
		var n int64
		if got.State != 0 {
			_, _ = stored{got}.HeartbeatDetails(&n)
		}
		switch {
		case !j.told.Load() && !j.done.Load():
			if got.State == 0 {
				l.t.Errorf("%s: %s: runs, and nothing is stored", what, id)
			} else if j.sync && n < j.synced.Load() {
				l.t.Errorf("%s: %s: %d synced, %d stored", what, id, j.synced.Load(), n)
			}
		}
	}
}

func runLives(t *testing.T, seed int) {
	log := &logbook{}
	cfg := activity.Config{StoreTimeout: 30 * time.Second, MaxConcurrent: 4, Logger: slog.New(log)}
	durable(t, cfg, func(t *testing.T, e *env, s *faultyStore) {
		before := bubbled(t)
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		var lives []*life
		newLife := func(e *env, s *faultyStore) *life {
			l := &life{t: t, e: e, s: s, r: r, jobs: map[string]*livesJob{}, running: map[string]*atomic.Int32{}}
			for i := range 8 {
				l.running[fmt.Sprint(i)] = &atomic.Int32{}
			}
			lives = append(lives, l)
			return l
		}
		l := newLife(e, s)
		c := &chaos{t: t, e: e, s: s, r: r}
		for range 8 {
			c.ids = append(c.ids, &chaosID{})
		}
		boot := func() {
			l.dead.Store(true)
			old := l
			e, s = l.e.reboot(l.s, cfg)
			l = newLife(e, s)
			c.e, c.s = e, s
			l.recover()
			go func() { old.clear(); _ = old.e.rt.Shutdown(context.Background()) }()
		}
		for range 60 {
			if r.IntN(3) == 0 {
				c.trouble()
			}
			id := fmt.Sprint(r.IntN(8))
			j := l.jobs[id]
			switch k := r.IntN(12); {
			case k < 6:
				if j == nil || j.refused.Load() || j.told.Load() {
					l.start(id)
				}
			case k < 8:
				if j != nil && j.accepted.Load() && !j.told.Load() {
					j.canceled.Store(true)
					if k == 6 {
						j.cancel()
					} else {
						j.h.Cancel(errCancel)
					}
				}
			case k == 8:
				ll, jj := l, j
				l.loose[id[0]-'0'].Store(true)
				go func() {
					begun := time.Now()
					if err := ll.e.rt.Forget(ll.e.ctx, id); err == nil && jj != nil {
						jj.synced.Store(0)
					}
					t.Logf("forget %s at %s: %v", id, begun.Sub(ll.e.base), time.Since(begun))
					if took := time.Since(begun); took > 61*time.Second {
						t.Errorf("Forget took %s", took)
					}
				}()
			case k == 9:
				l.recover()
			case k == 10:
				l.checkKill("kill")
				boot()
			case k == 11 && r.IntN(3) == 0:
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(200))*time.Second)
				for _, j := range l.jobs {
					j.canceled.Store(true)
				}
				begun := time.Now()
				err := l.e.rt.Shutdown(ctx)
				cancel()
				if time.Since(begun) > 200*time.Second {
					t.Errorf("Shutdown took %s", time.Since(begun))
				}
				if err == nil {
					for id, j := range l.jobs {
						if j.accepted.Load() && !j.told.Load() {
							synctest.Wait()
						}
						if j.accepted.Load() && !j.told.Load() {
							t.Errorf("%s: not told after Shutdown", id)
						}
						if got := l.s.get(id); j.accepted.Load() && j.told.Load() && j.err != nil && got.State == activity.CheckpointRunning {
							t.Errorf("%s: running after Shutdown", id)
						}
					}
					if got := l.e.rt.Stats(); !got.StoreFailingSince.IsZero() {
						t.Errorf("after Shutdown: failing since %s", got.StoreFailingSince)
					}
				}
				boot()
			}
			l.e.pass(time.Duration(1+r.IntN(40)) * time.Second / 4)
		}
		for _, l := range lives {
			l.clear()
		}
		l.e.pass(10 * time.Minute)
		for _, l := range lives {
			if got := l.e.rt.Stats(); !got.StoreFailingSince.IsZero() {
				t.Errorf("%d lives: %+v", len(lives), got)
			}
			for id, j := range l.jobs {
				if j.busy.Load() {
					t.Errorf("%s: Start has not returned", id)
				}
			}
		}
		for id, j := range l.jobs {
			if j.accepted.Load() && !j.told.Load() && j.how != 3 && l.e.rt.Stats().Running < 4 {
				t.Errorf("%s: has not ended: how %d, %s", id, j.how, j.h.Status().State)
			}
		}
		for _, l := range lives {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			if err := l.e.rt.Shutdown(ctx); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			cancel()
		}
		e.pass(time.Minute)
		if now := bubbled(t); now != before {
			t.Errorf("%d goroutines, %d before", now, before)
		}
	})
	if t.Failed() {
		t.Errorf("seed %d (-chaos.lives.seed=%d -chaos.lives=1)", seed, seed)
	}
}

// Given programs that start, recover, forget, shut down and are killed, on a Store that fails
// at random, then nothing that was accepted or synchronously saved is lost, nothing that was
// refused runs, no ID runs twice at once, and nobody waits for too long.
func TestStore_ChaosOverLives(t *testing.T) {
	seeds := []int{
		446,  // where Saves and Deletes that fail interrupted each other forever
		1094, // where a Store that held everything was said to fail
	}
	for i := range *livesN {
		seeds = append(seeds, *livesSeed+i)
	}
	for _, seed := range seeds {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) { runLives(t, seed) })
		if !ok {
			break
		}
	}
}
