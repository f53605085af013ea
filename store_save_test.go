// When recorded details reach the Store: SaveInterval and SyncHeartbeats.

package activity_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/storetest"
)

// A faultyStore is a Store that keeps what it was called with, and does on demand
// something else first. What no Store should ever see is an error of the test: two
// writes at once, a sequence that goes back, a write of an execution that was
// deleted.
type faultyStore struct {
	*storetest.Memory
	t *testing.T

	mu      sync.Mutex
	hooks   map[string]func(ctx context.Context) error // by method
	calls   []storeCall
	lastAt  time.Time                      // of calls
	atOnce  int                            // how many of calls were then, without Loads
	writing string                         // the write that is under way
	newest  map[string]activity.Checkpoint // by ID, of all that were to be saved
	deleted map[string]activity.Checkpoint // what newest was
}

type storeCall struct {
	method string
	at     time.Time
	batch  []activity.Checkpoint // of Save
	ids    []string              // of Load and Delete
}

func newStore(t *testing.T) *faultyStore { return storeOn(t, &storetest.Memory{}) }

func storeOn(t *testing.T, m *storetest.Memory) *faultyStore {
	s := &faultyStore{
		Memory: m, t: t, hooks: map[string]func(context.Context) error{},
		newest: map[string]activity.Checkpoint{}, deleted: map[string]activity.Checkpoint{},
	}
	for cp := range m.All(t.Context()) {
		s.newest[cp.ID] = cp
	}
	return s
}

// on has hook called first in each call of method; its error is then the call's.
func (s *faultyStore) on(method string, hook func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks[method] = hook
}

// block holds the calls of method until open is called.
func (s *faultyStore) block(method string) (open func()) {
	gate := make(chan struct{})
	s.on(method, func(context.Context) error { <-gate; return nil })
	open = sync.OnceFunc(func() { s.on(method, nil); close(gate) })
	s.t.Cleanup(open)
	return open
}

func (s *faultyStore) called(call storeCall) func(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	call.at = time.Now()
	s.calls = append(s.calls, call)
	if !s.lastAt.Equal(call.at) {
		s.lastAt, s.atOnce = call.at, 0
	}
	if call.method != "Load" {
		s.atOnce++
	}
	if s.atOnce >= 1000 {
		s.t.Errorf("1000 calls at one instant, now a %s", call.method)
		return func(context.Context) error { time.Sleep(time.Hour); return errDisk }
	}
	if hook := s.hooks[call.method]; hook != nil {
		return hook
	}
	return func(context.Context) error { return nil }
}

// write brackets a call of Save or Delete.
func (s *faultyStore) write(method string) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writing != "" {
		s.t.Errorf("%s is called during %s", method, s.writing)
	}
	s.writing = method
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writing = ""
	}
}

func (s *faultyStore) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	if err := s.called(storeCall{method: "Load", ids: []string{id}})(ctx); err != nil {
		return activity.Checkpoint{}, false, err
	}
	return s.Memory.Load(ctx, id)
}

func (s *faultyStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	defer s.write("Save")()
	ended := ctx.Err() != nil
	s.mu.Lock()
	for _, cp := range batch {
		if held, tried := s.get(cp.ID).Sequence, s.newest[cp.ID].Sequence; cp.Sequence <= held || cp.Sequence < tried {
			s.t.Errorf("the sequence of %q goes to %d; %d is stored, and %d was tried", cp.ID, cp.Sequence, held, tried)
		}
		if old, gone := s.deleted[cp.ID]; gone && !cp.ScheduledAt.After(old.ScheduledAt) && (cp.Attempt > 1 || cp.LastFailure != "") {
			s.t.Errorf("%q is saved after it was deleted: %+v", cp.ID, cp)
		}
		if cp.ID == "" || cp.UpdatedAt.IsZero() || cp.ScheduledAt.IsZero() || len(cp.LastFailure) > 16<<10 {
			s.t.Errorf("a bad checkpoint: %+v", cp)
		}
		s.newest[cp.ID] = cp
	}
	s.mu.Unlock()
	kept := slices.Clone(batch)
	for i := range kept {
		kept[i].Input, kept[i].Details = bytes.Clone(kept[i].Input), bytes.Clone(kept[i].Details)
	}
	if err := s.called(storeCall{method: "Save", batch: kept})(ctx); err != nil {
		return err
	}
	for i, cp := range batch {
		if !bytes.Equal(cp.Details, kept[i].Details) || !bytes.Equal(cp.Input, kept[i].Input) {
			s.t.Errorf("what is saved of %q changes meanwhile", cp.ID)
		}
	}
	if !ended { // it may be late, and done nevertheless
		ctx = context.WithoutCancel(ctx)
	}
	return s.Memory.Save(ctx, batch)
}

func (s *faultyStore) Delete(ctx context.Context, ids []string) error {
	defer s.write("Delete")()
	ended := ctx.Err() != nil
	if err := s.called(storeCall{method: "Delete", ids: slices.Clone(ids)})(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	for _, id := range ids {
		s.deleted[id] = s.newest[id]
		delete(s.newest, id)
	}
	s.mu.Unlock()
	if !ended {
		ctx = context.WithoutCancel(ctx)
	}
	return s.Memory.Delete(ctx, ids)
}

func (s *faultyStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		if err := s.called(storeCall{method: "All"})(ctx); err != nil {
			yield(activity.Checkpoint{}, err)
			return
		}
		s.Memory.All(ctx)(yield)
	}
}

// of are the calls of a method; "": of all.
func (s *faultyStore) of(method string) []storeCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.calls), func(c storeCall) bool { return method != "" && c.method != method })
}

// batch is that of the last call of Save. A hook of Save has it without a copy of all
// calls before.
func (s *faultyStore) batch() []activity.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range slices.Backward(s.calls) {
		if c.method == "Save" {
			return c.batch
		}
	}
	return nil
}

// times are when a method was called, after base.
func (s *faultyStore) times(method string, base time.Time) []time.Duration {
	var all []time.Duration
	for _, c := range s.of(method) {
		all = append(all, c.at.Sub(base))
	}
	return all
}

func (s *faultyStore) get(id string) activity.Checkpoint {
	cp, _, err := s.Memory.Load(context.Background(), id)
	if err != nil {
		s.t.Error(err)
	}
	return cp
}

// put stores a checkpoint, as an earlier process might have.
func (s *faultyStore) put(cp activity.Checkpoint) activity.Checkpoint {
	cp.ID, cp.Name, cp.Sequence = "a", "job", 7
	if cp.ScheduledAt.IsZero() {
		cp.ScheduledAt = time.Now().Round(0)
	}
	if cp.UpdatedAt.IsZero() {
		cp.UpdatedAt = cp.ScheduledAt
	}
	if cp.Input == nil {
		cp.Input = []byte("{}") // that of env.start
	}
	if err := s.Memory.Save(context.Background(), []activity.Checkpoint{cp}); err != nil {
		s.t.Error(err)
	}
	s.newest[cp.ID] = cp
	return cp
}

// want checks what is stored of want.ID, or, without a State, that nothing is. What
// is zero in want of Name, Sequence and the times is not looked at.
func (s *faultyStore) want(want activity.Checkpoint) {
	s.t.Helper()
	checkCheckpoint(s.t, s.get(want.ID), want)
}

func checkCheckpoint(t *testing.T, got, want activity.Checkpoint) {
	t.Helper()
	if want.State == 0 {
		if got.State != 0 {
			t.Errorf("there is a checkpoint: %+v", got)
		}
		return
	}
	if want.Name == "" {
		want.Name = got.Name
	}
	if want.Sequence == 0 {
		want.Sequence = got.Sequence
	}
	if want.ScheduledAt.IsZero() {
		want.ScheduledAt = got.ScheduledAt
	}
	if want.UpdatedAt.IsZero() {
		want.UpdatedAt = got.UpdatedAt
	}
	checkDiff(t, "the checkpoint", got, want)
}

var (
	errDisk = errors.New("the disk is full")
	job     = activity.Options{ID: "a", Name: "job"}
)

func failing(context.Context) error { return errDisk }

// details are what a checkpoint has after a heartbeat with these values.
func details(values ...any) []byte {
	m := &storetest.Memory{}
	rt := activity.New(activity.Config{Store: m, Logger: quiet})
	_ = rt.Run(context.Background(), activity.Options{ID: "a", RetryPolicy: once}, func(ctx activity.Context) error {
		return errors.Join(ctx.Heartbeat(values...), errBoom)
	})
	cp, _, _ := m.Load(context.Background(), "a")
	return cp.Details
}

// durable runs a test in a bubble, with a Runtime that has a Store.
func durable(t *testing.T, cfg activity.Config, test func(t *testing.T, e *env, s *faultyStore)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { durableEnv(t, cfg, nil, test) })
}

// bothDurable is to durable what both is to a bubble with the zero Config.
func bothDurable(t *testing.T, cfg activity.Config, test func(t *testing.T, e *env, s *faultyStore)) {
	both(t, activity.Config{}, func(t *testing.T, e *env) { durableEnv(t, cfg, e.mock, test) })
}

func durableEnv(t *testing.T, cfg activity.Config, mock *clock.Mock, test func(t *testing.T, e *env, s *faultyStore)) {
	s := newStore(t)
	test(t, storeEnv(t, cfg, mock, s), s)
}

// storeEnv is newEnv with a Store. In the end, when the Store works, Shutdown must,
// and leave it alone from then on.
func storeEnv(t *testing.T, cfg activity.Config, mock *clock.Mock, s *faultyStore) *env {
	var e *env
	t.Cleanup(func() {
		for _, method := range []string{"Load", "Save", "Delete", "All"} {
			s.on(method, nil)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		checkErr(t, e.rt.Shutdown(ctx), nil)
		calls := len(s.of(""))
		time.Sleep(time.Hour)
		if n := len(s.of("")); n != calls {
			t.Errorf("%d calls of the Store after Shutdown", n-calls)
		}
	})
	if cfg.Store = s; cfg.StoreTimeout == 0 {
		cfg.StoreTimeout = 1000 * time.Hour // most tests hold a Store without an end
	}
	e = newEnv(t, cfg, mock)
	return e
}

// reboot makes a new process of one that is killed at this moment.
func (e *env) reboot(s *faultyStore, cfg activity.Config) (*env, *faultyStore) {
	next := storeOn(e.t, s.Clone())
	return storeEnv(e.t, cfg, e.mock, next), next
}

// A launch is a Start in a goroutine of its own.
type launch struct {
	returned atomic.Bool
	h        *activity.Handle[string] // to be read when it has returned
	err      error
}

func (e *env) launch(ctx context.Context, opts activity.Options, fn func(activity.Context) error) *launch {
	l := e.launchOnly(ctx, opts, fn)
	synctest.Wait()
	return l
}

// launchOnly does not wait until nothing happens.
func (e *env) launchOnly(ctx context.Context, opts activity.Options, fn func(activity.Context) error) *launch {
	l := &launch{}
	go func() {
		l.h, l.err = activity.Start(ctx, e.rt, opts, func(ctx activity.Context, _ struct{}) (string, error) {
			return "done", fn(ctx)
		}, struct{}{})
		l.returned.Store(true)
	}()
	return l
}

// unfinished are the IDs that Checkpoints yields.
func (e *env) unfinished() []string {
	e.t.Helper()
	var ids []string
	for cp, err := range e.rt.Checkpoints(e.t.Context()) {
		checkErr(e.t, err, nil)
		ids = append(ids, cp.ID)
	}
	return ids
}

// stop shuts the Runtime down, which must work.
func (e *env) stop() {
	e.t.Helper()
	checkErr(e.t, e.rt.Shutdown(context.WithoutCancel(e.ctx)), nil)
}

// Heartbeats.

// Rule 21. Given recorded details, then they are saved SaveInterval after the first
// heartbeat that is not saved yet.
func TestStoreSave_DetailsWithinSaveInterval(t *testing.T) {
	for _, interval := range []time.Duration{0, time.Nanosecond, 7 * time.Second} {
		t.Run(interval.String(), func(t *testing.T) {
			durable(t, activity.Config{SaveInterval: interval}, func(t *testing.T, e *env, s *faultyStore) {
				if interval == 0 {
					interval = 100 * time.Millisecond
				}
				e.start(job, func(ctx activity.Context) error {
					_ = ctx.Sleep(time.Hour)
					for i := range 3 { // the interval counts from the first that is not saved
						_ = ctx.Heartbeat(i)
						_ = ctx.Sleep(interval / 4)
					}
					_ = ctx.Sleep(time.Hour)
					_ = ctx.Heartbeat(4)
					return untilEnded(ctx)
				})
				e.pass(time.Hour + interval - 1)
				checkDiff(t, "details", s.get("a").Details, []byte(nil))
				e.pass(1)
				want := activity.Checkpoint{
					ID: "a", Name: "job", State: activity.CheckpointRunning, Attempt: 1, Progressed: 1, Sequence: 2,
					ScheduledAt: e.base, UpdatedAt: time.Now(), Input: []byte("{}"), Details: details(2),
				}
				s.want(want)
				e.pass(3 * time.Hour)
				want.Details, want.Sequence = details(4), 3
				want.UpdatedAt = e.base.Add(2*time.Hour + interval/4*3 + interval)
				s.want(want)
				checkDiff(t, "times of Save", s.times("Save", e.base), []time.Duration{
					0, time.Hour + interval, 2*time.Hour + interval/4*3 + interval,
				})
			})
		})
	}
}

// Rule 21. Given a mock clock, then details are saved SaveInterval later on it, and 1 ns
// before they are not.
func TestStoreSave_OnMockClock(t *testing.T) {
	bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		e.start(job, func(ctx activity.Context) error {
			_ = ctx.Heartbeat(1)
			return untilEnded(ctx)
		})
		e.pass(100*time.Millisecond - 1)
		checkDiff(t, "details", s.get("a").Details, []byte(nil))
		e.pass(1)
		checkDetails(t, stored{s.get("a")}, 1)
		if n := len(s.of("Save")); n != 2 {
			t.Errorf("%d Saves", n)
		}
	})
}

// stored has the HeartbeatDetails that checkDetails takes.
type stored struct{ activity.Checkpoint }

func (s stored) HeartbeatDetails(into ...any) (bool, error) {
	return s.Checkpoint.HeartbeatDetails(nil, into...)
}

// Rule 21. Given many activities that heartbeat in one interval, then their details are
// one Save.
func TestStoreSave_ManyActivitiesShareSaves(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		for i := range 64 {
			e.start(activity.Options{ID: fmt.Sprint(i)}, func(ctx activity.Context) error {
				for n := range 1000 {
					_ = ctx.Sleep(time.Hour + time.Duration(n*64+i)*10*time.Microsecond - time.Since(e.base))
					_ = ctx.Heartbeat(n)
				}
				return untilEnded(ctx)
			})
		}
		saves := len(s.of("Save"))
		e.pass(2 * time.Hour)
		// 640 ms of heartbeats from 64 activities.
		if n := len(s.of("Save")) - saves; n != 7 {
			t.Errorf("%d Saves, want 7", n)
		}
		for i := range 64 {
			checkDetails(t, stored{s.get(fmt.Sprint(i))}, 999)
		}
	})
}

// Rule 21. Given a Save that hangs, then heartbeats do not wait, and the next Save has
// only the newest details.
func TestStoreSave_HeartbeatsDoNotWait(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		beating := e.gate("beating")
		h := e.start(job, func(ctx activity.Context) error {
			<-beating
			for i := range 10_000 {
				if err := ctx.Heartbeat(i); err != nil {
					return err
				}
				if i == 0 {
					time.Sleep(time.Second)
				}
			}
			return untilEnded(ctx)
		})
		open := s.block("Save")
		e.open("beating")
		e.pass(time.Hour)
		checkDetails(t, h.Status(), 9999)
		if n := len(s.of("Save")); n != 2 {
			t.Errorf("%d Saves, want the start's and the one that hangs", n)
		}
		checkDiff(t, "details", s.get("a").Details, []byte(nil))
		open()
		synctest.Wait()
		checkDetails(t, stored{s.get("a")}, 9999)
		if n := len(s.of("Save")); n != 3 {
			t.Errorf("%d Saves, want one for the rest", n)
		}
	})
}

// Rules 2 and 3. Given heartbeats that change no details, then nothing is saved.
func TestStoreSave_NothingToSave(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		s.put(activity.Checkpoint{State: activity.CheckpointFailed, Attempt: 1, Details: details(1)})
		e.start(job, func(ctx activity.Context) error {
			for range 10 {
				_ = ctx.Heartbeat()
				_ = ctx.Heartbeat(nil)
				_ = ctx.Heartbeat(make(chan int)) // cannot be encoded
				_ = ctx.Sleep(time.Second)
			}
			return untilEnded(ctx)
		})
		e.start(activity.Options{}, func(ctx activity.Context) error { // has a made-up ID
			for i := range 10 {
				_ = ctx.Heartbeat(i)
				_ = ctx.Sleep(time.Second)
			}
			return errBoom
		})
		e.pass(time.Minute)
		if n := len(s.of("Save")); n != 1 {
			t.Errorf("%d Saves, want the start's", n)
		}
		if calls := s.of("Load"); len(calls) != 1 || len(s.of("")) != 2 {
			t.Errorf("%+v", s.of(""))
		}
		checkDetails(t, stored{s.get("a")}, 1)
	})
}

// Given a Runtime with a Store, then it owns no goroutine while there is nothing to save.
func TestStoreSave_NoGoroutineWhenIdle(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		before := bubbled(t)
		check := func(what string, extra int) {
			t.Helper()
			synctest.Wait()
			if n := goroutines(t, before+extra) - before; n != extra {
				t.Errorf("%s: %d goroutines more than before, want %d", what, n, extra)
			}
		}
		h := e.start(job, func(ctx activity.Context) error {
			if ctx.Info().Attempt == 1 {
				_ = ctx.Heartbeat(1)
				_ = ctx.Sleep(time.Hour)
				return activity.RetryAfter(errBoom, time.Hour)
			}
			return nil
		})
		check("it runs", 1)
		e.pass(30 * time.Minute)
		check("its details are saved", 1)
		e.pass(time.Hour)
		check("it backs off", 0)
		s.on("Delete", failing)
		e.pass(time.Hour)
		checkSaving(t, h, activity.StateCompleted)
		check("its end cannot be saved", 0)
		s.on("Delete", nil)
		e.pass(time.Minute)
		check("its end is saved", 0)
		checkErr(t, e.end(h), nil)
		e.stop()
		check("shut down", 0)
	})
}

// SyncHeartbeats.

func synced(timeout time.Duration) activity.Options {
	opts := job
	opts.SyncHeartbeats, opts.HeartbeatTimeout = true, timeout
	return opts
}

// Rule 21. Given SyncHeartbeats, then Heartbeat with details returns when the Store holds
// them, and a plain one at once.
func TestSyncHeartbeats_WaitForTheStore(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		run := func(fn func(ctx activity.Context)) {
			t.Helper()
			s.on("Save", nil)
			err := e.rt.Run(e.ctx, synced(0), func(ctx activity.Context) error {
				s.on("Save", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
				fn(ctx)
				return nil
			})
			checkErr(t, err, nil)
		}
		run(func(ctx activity.Context) { // held when it returns
			for i := range 3 {
				at := time.Now()
				checkErr(t, ctx.Heartbeat(i), nil)
				checkDetails(t, stored{s.get("a")}, i)
				if d := time.Since(at); d != 3*time.Second {
					t.Errorf("it took %s", d)
				}
			}
			at := time.Now() // nothing to wait for
			checkErr(t, ctx.Heartbeat(), nil)
			if err := ctx.Heartbeat(make(chan int)); err == nil {
				t.Error("a channel is recorded")
			}
			if d := time.Since(at); d != 0 {
				t.Errorf("it took %s", d)
			}
		})
		run(func(ctx activity.Context) { // two goroutines: the second's Save begins when the first's is done
			at := time.Now()
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Second)
					checkErr(t, ctx.Heartbeat(i), nil)
					if d := time.Since(at); d != time.Duration(3+3*i)*time.Second {
						t.Errorf("heartbeat %d returned after %s", i, d)
					}
				})
			}
			wg.Wait()
			checkDetails(t, stored{s.get("a")}, 1)
		})
	})
}

// Rule 16. Given SyncHeartbeats without an ID, then the start is refused, because nothing
// would be saved.
func TestSyncHeartbeats_WithoutIDIsRefused(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		err := e.rt.Run(e.ctx, activity.Options{SyncHeartbeats: true}, noop)
		if err == nil || !strings.Contains(err.Error(), "Options.SyncHeartbeats requires Config.Store and Options.ID") {
			t.Error(err)
		}
	})
}

// Rule 21. Given a canceled attempt, when a child without cancellation heartbeats, then
// it gets nil once the Store holds the details, or the Store's error, as while the
// attempt ran.
func TestSyncHeartbeats_ChildWithoutCancel(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		done := make(chan struct{})
		opts := synced(0)
		opts.CancelGrace = time.Hour
		h := e.start(opts, func(ctx activity.Context) error {
			defer close(done)
			child, _ := activity.FromContext(context.WithoutCancel(ctx))
			<-ctx.Done()
			synctest.Wait() // until the cancellation is saved
			s.on("Save", func(context.Context) error { time.Sleep(3 * time.Second); return nil })
			at := time.Now()
			checkErr(t, child.Heartbeat(7), nil)
			checkDetails(t, stored{s.get("a")}, 7)
			if d := time.Since(at); d != 3*time.Second {
				t.Errorf("it took %s", d)
			}
			s.on("Save", failing)
			checkErr(t, child.Heartbeat(8), errDisk)
			s.on("Save", nil)
			return context.Cause(ctx)
		})
		h.Cancel(errCancel)
		<-done
		checkErr(t, wait(t, h), errCancel)
	})
}

// Rule 21. Given a heartbeat of a child without cancellation, when the activity ends,
// then it waits no longer than for the end's Save, which has its details.
func TestSyncHeartbeats_ChildAtTheEnd(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := synced(0)
		opts.CancelGrace = time.Second
		returned := make(chan error, 1)
		var open func()
		h := e.start(opts, func(ctx activity.Context) error {
			child, _ := activity.FromContext(context.WithoutCancel(ctx))
			<-ctx.Done()
			open = s.block("Save")
			time.AfterFunc(time.Minute, open)
			go func() { _ = child.Heartbeat(6) }() // whose Save is under way
			time.Sleep(time.Millisecond)
			returned <- child.Heartbeat(7)
			return nil
		})
		h.Cancel(errCancel)
		checkErr(t, wait(t, h), errCancel) // abandoned
		checkErr(t, <-returned, nil)
		checkDetails(t, stored{s.get("a")}, 7)
	})
}

// Rule 21. Given a heartbeat of a child without cancellation that is not saved yet, when
// a new execution of the ID takes the details over, then Heartbeat says so, and does not
// wait any longer.
func TestSyncHeartbeats_ChildThatIsReplaced(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := synced(0)
		opts.CancelGrace = time.Second
		returned := make(chan error, 1)
		h := e.start(opts, func(ctx activity.Context) error {
			child, _ := activity.FromContext(context.WithoutCancel(ctx))
			<-ctx.Done()
			open := s.block("Save")
			time.AfterFunc(time.Minute, open)
			go func() { _ = child.Heartbeat(6) }() // whose Save is under way
			time.Sleep(time.Millisecond)
			returned <- child.Heartbeat(7)
			return nil
		})
		h.Cancel(errCancel)
		checkErr(t, wait(t, h), errCancel)
		checkErr(t, e.rt.Run(e.ctx, job, func(ctx activity.Context) error {
			checkDetails(t, ctx, 7)
			return nil
		}), nil)
		if err := <-returned; err == nil || !strings.Contains(err.Error(), "a new execution of the ID has replaced the checkpoint") {
			t.Error(err)
		}
	})
}

// Rule 24. Given SyncHeartbeats, when the Save fails, then Heartbeat returns the Store's
// error, and the attempt lives on.
func TestSyncHeartbeats_GetTheStoresError(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		h := e.start(synced(0), func(ctx activity.Context) error {
			s.on("Save", failing)
			err := ctx.Heartbeat(7)
			checkErr(t, err, errDisk)
			if e := (*activity.Error)(nil); errors.As(err, &e) {
				t.Errorf("%T", err)
			}
			s.on("Save", nil)
			return untilEnded(ctx)
		})
		checkDetails(t, h.Status(), 7)
		checkDiff(t, "details", s.get("a").Details, []byte(nil))
		e.pass(100 * time.Millisecond)
		checkDetails(t, stored{s.get("a")}, 7) // kept, and saved later
	})
}

// Rule 21. Given a heartbeat that waits for the Store, when its attempt is canceled or
// times out, then it returns the cause.
func TestSyncHeartbeats_EndWithTheirAttempt(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(e *env, h *activity.Handle[string])
		want error
		left activity.CheckpointState
	}{
		{"cancel", func(_ *env, h *activity.Handle[string]) { h.Cancel(errCancel) }, errCancel, activity.CheckpointCanceled},
		{"start-to-close", func(e *env, _ *activity.Handle[string]) { e.pass(time.Second) }, context.DeadlineExceeded, activity.CheckpointFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := synced(0)
				opts.StartToCloseTimeout, opts.RetryPolicy = time.Second, once
				beat := make(chan error, 1)
				open := func() {}
				h := e.start(opts, func(ctx activity.Context) error {
					open = s.block("Save")
					err := ctx.Heartbeat(7)
					beat <- err
					return err
				})
				if len(beat) > 0 {
					t.Fatal("it does not wait")
				}
				test.end(e, h)
				synctest.Wait()
				if len(beat) == 0 {
					t.Fatal("it does not end")
				}
				checkErr(t, <-beat, test.want)
				open()
				synctest.Wait()
				checkErr(t, e.end(h), test.want)
				got := s.get("a")
				if got.State != test.left {
					t.Errorf("%+v", got)
				}
				checkDetails(t, stored{got}, 7) // recorded before its end
			})
		})
	}
}

// Rule 11. Given a heartbeat that waits for the Store, then that is no stall, and the
// heartbeat counts from the end of the wait.
func TestSyncHeartbeats_WaitIsNoStall(t *testing.T) {
	for _, test := range []struct {
		save, then time.Duration // how long the Save takes, and from its end to the return
		stall      bool
	}{
		{5 * time.Second, 10*time.Second - 1, false},
		{5 * time.Second, 10 * time.Second, true},
		{10 * time.Second, 10*time.Second - 1, false},
		{10500 * time.Millisecond, 10*time.Second - 1, false},
		{10500 * time.Millisecond, 10 * time.Second, true},
		{time.Hour, 10*time.Second - 1, false},
		{time.Hour, 10 * time.Second, true},
	} {
		t.Run(fmt.Sprint(test.save, " ", test.then), func(t *testing.T) {
			bothDurable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := synced(10 * time.Second)
				opts.RetryPolicy = once
				open := func() {}
				h := e.start(opts, func(ctx activity.Context) error {
					open = s.block("Save")
					if err := ctx.Heartbeat(7); err != nil {
						return err
					}
					return ctx.Sleep(test.then)
				})
				e.pass(test.save)
				open()
				synctest.Wait()
				e.pass(test.then)
				if err := e.end(h); (timeoutType(err) == activity.TimeoutHeartbeat) != test.stall || (err != nil) != test.stall {
					t.Error(err)
				}
			})
		})
	}
}

// Rule 11. Given two heartbeats that wait for the Store, then the deadline rests until
// the last of them is done.
func TestSyncHeartbeats_TwoAtOnce(t *testing.T) {
	durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
		opts := synced(time.Second)
		opts.RetryPolicy = once
		h := e.start(opts, func(ctx activity.Context) error {
			s.on("Save", func(context.Context) error { time.Sleep(10 * time.Second); return nil })
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					time.Sleep(time.Duration(i) * time.Second / 2)
					checkErr(t, ctx.Heartbeat(i), nil)
				})
			}
			wg.Wait()
			s.on("Save", nil)
			return ctx.Sleep(time.Second)
		})
		e.pass(21*time.Second - 1)
		checkState(t, h, activity.StateRunning)
		e.pass(1)
		if err := e.end(h); timeoutType(err) != activity.TimeoutHeartbeat {
			t.Error(err)
		}
	})
}

// Rule 24. Given a failure with a text of more than 16 KiB, then its checkpoint has the
// first 16 KiB, not cut within a character.
func TestStoreSave_LastFailureIsCut(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"just fits", strings.Repeat("x", 16<<10), strings.Repeat("x", 16<<10)},
		{"one byte more", strings.Repeat("x", 16<<10+1), strings.Repeat("x", 16<<10)},
		{"in a character", "x" + strings.Repeat("é", 8<<10), "x" + strings.Repeat("é", 8<<10-1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			durable(t, activity.Config{}, func(t *testing.T, e *env, s *faultyStore) {
				opts := job
				opts.RetryPolicy = once
				_ = e.rt.Run(e.ctx, opts, func(activity.Context) error { return errors.New(test.text) })
				if got := s.get("a").LastFailure; got != test.want {
					t.Errorf("%d bytes: %.10q...%q", len(got), got, got[max(0, len(got)-10):])
				}
			})
		})
	}
}
