package activity_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	livesN    = flag.Int("chaos.lives", 40, "scripts of TestStore_ChaosOverLives")
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
	prev := l.jobs[id]
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
			_ = prev
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
