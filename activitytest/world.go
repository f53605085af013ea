package activitytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
	"github.com/seed-9da638b0/activity/storetest"
)

// A World runs the processes of one run of the body, one after the other. [Plan.Run] makes a
// World for each run, in a bubble of its own.
type World struct {
	// Config configures the Runtime of each process. Clock and Store must be nil, because
	// the World has its own. If Logger is nil, nothing is logged.
	Config activity.Config

	// If StopWhenIdle is set, the context of the process ends, as with signal.NotifyContext and a signal, once
	// each of its activities has ended, is paused or is in [activity.Idle]. Use it for a process that serves.
	// A process that has no activity is idle after an hour of virtual time.
	StopWhenIdle bool

	plan *Plan
	run  *run   // interruptions of this run; nil in the dry run
	dry  *World // World of the dry run; nil in the dry run

	t            *testing.T // the bubble's T
	failed       bool       // whether the run failed; set once, at its end
	skipped      bool       // whether the body was skipped; set once, at its end
	hung         bool       // whether the bubble was left behind; set by bubble
	inconclusive bool       // whether it was left behind, because the attempt's own lock may be held; set by bubble
	crashed      bool       // whether any life crashed; set before the end

	bubbleID atomic.Pointer[string] // number of the bubble in a dump
	moved    atomic.Uint64          // number of calls and places so far, for bubble
	outside  atomic.Bool            // whether anything outlives the process that must know who calls: a Driver, an FS, a RoundTripper
	changes  atomic.Uint64          // number of changes of files so far, with Plan.PowerLoss

	endless chan string      // receives the reason why a run does not end
	limit   <-chan time.Time // receives at Plan.Limit

	mu          sync.Mutex // never held by a goroutine that waits
	memory      *storetest.Memory
	lives       []*life
	owners      map[string]*attempt // by goroutine, the attempt or process that runs there, or nil for the body
	seen        map[string]*sight   // activities that made calls, by ID
	places      []placed            // places of the dry run
	done        int                 // interruptions so far
	settling    bool                // whether an interruption is about to happen
	recovery    []visit             // places passed since the first interruption
	hanging     *hang               // stalled attempt, until it wakes
	stalled     *hang               // last stalled attempt, even after it woke
	unsaved     []record            // details recorded in this life; the Store may hold some of them
	interrupted map[string]bool     // IDs of activities that a later life must resume
	finished    map[string]bool     // IDs of activities that ended
	leaves      []string            // IDs of activities that are unfinished at the end
	stopped     bool                // whether a process has stopped an activity itself, with Shutdown or Drain
	ended       bool                // whether the body and its assertions are over
	visits      int                 // places passed so far
	steps       []*step             // trace, without the middle if it is very long
	conns       []*conn             // of Drivers
	disks       map[string]*FS      // by directory
	notes       []string            // lines about the interruptions, for the story
	same        map[string]any      // values given to Same
	once        map[any]bool        // keys given to Once
	queue       queue               // of goroutines at places
	differs     string              // first difference from the calls of the dry run, or ""
}

// A sight is what a World saw of one activity.
type sight struct {
	counts     map[place]int // number of visits, by the place with n == 0
	calls      []call        // calls before the first interruption
	inside     int           // calls in progress
	concurrent bool          // whether several goroutines made calls, so that their order is not fixed
	starts     int           // number of attempts

	completed   int             // number of completed executions
	fromNothing map[int][]*step // steps of the dry run's attempts that resumed from nothing, by execution
	records     int             // number of heartbeats with details
	resumptions []*resumption   // attempts that resumed from details; none in the dry run
}

// A visit is a place that a recovery passed. In a run with two interruptions it is zero.
type visit struct {
	site     site
	canStall bool
	canFault bool
	unsynced int
}

// A record is the details that a heartbeat recorded.
type record struct {
	id      string
	details []byte
}

// A hang is an attempt that stalls or has stalled.
type hang struct {
	id       string
	attempt  int
	place    place
	goid     string        // goroutine that was interrupted
	until    int           // number of the next attempt's place at which this one wakes; 0 for its start, atReturn for its return
	gives    bool          // whether it wakes if the next attempt times out, because it holds what only a database lets it hold
	came     int           // number of places that later attempts have passed
	later    bool          // whether a later attempt has started
	ended    bool          // whether a later attempt has reached its return, without a timeout
	timeouts int           // number of later attempts that have timed out
	blocked  bool          // whether the next attempt had to wait for this one
	wake     chan struct{} // closed to wake the attempt
}

// A life is one process.
type life struct {
	w      *World
	number int // number of the life, from 1
	rt     *activity.Runtime
	own    *attempt // for the process itself
	ctx    context.Context
	cancel context.CancelCauseFunc

	died     chan struct{} // closed by a crash
	over     chan struct{} // closed when the body and its assertions are over
	returned chan struct{} // closed when process has returned and err, panicked and goexit are set
	err      error         // error that process returned
	panicked string        // process's panic, with its stack, or ""
	goexit   bool          // whether process called runtime.Goexit

	// Guarded by World.mu.
	dead     bool          // whether the process has ended: its goroutines are to stop
	crashed  bool          // whether it ended by a crash
	lost     *state        // what a power loss keeps; nil if there was none
	shutdown chan struct{} // closed when the planned Shutdown has returned; nil if there is none
	idling   int           // number of attempts in activity.Idle, with StopWhenIdle
	canceled bool          // whether that Shutdown canceled an activity
	faulted  bool          // whether a call of the process itself, and not of an activity, was made to fail
}

// These limits stop an endless run before Plan.Limit.
const (
	maxAttempts = 1000    // attempts of an activity in a run
	maxPlaces   = 100_000 // places that the dry run may pass; another run may pass ten times as many
)

// errOver ends everything that is left when the body is over.
var errOver = errors.New("activitytest: the run is over")

func newWorld(p *Plan, r *run, dry *World) *World {
	return &World{plan: p, run: r, dry: dry, memory: &storetest.Memory{}, seen: map[string]*sight{}, interrupted: map[string]bool{}, finished: map[string]bool{}}
}

// live makes the run, in the main goroutine of the bubble.
func (w *World) live(t *testing.T, body func(t *testing.T, w *World)) {
	id := bubbleOf(header())
	w.bubbleID.Store(&id)
	w.owns(nil, goid())
	w.t, w.limit = t, time.After(w.plan.Limit)
	w.endless = make(chan string, 1)
	defer w.end() // also if the body calls t.FailNow
	defer func() {
		if v := recover(); v != nil { // it ends the test program, and t's output would be lost
			fmt.Fprintf(os.Stderr, "activitytest: the body panicked in %s: %v\n%s\n", t.Name(), v, w.story())
			panic(v)
		}
	}()
	body(t, w)
}

// end reports what went wrong in the run, and then ends all goroutines that are left.
func (w *World) end() {
	t := w.t
	w.mu.Lock()
	w.ended = true
	lives, differs, missing, skipped := w.lives, w.differs, w.missing(), w.notCompared()
	w.leaves = w.unfinished()
	w.releaseAll()
	w.mu.Unlock()
	switch {
	case differs != "":
		t.Errorf("activitytest: the calls before the interruption must be those of the dry run, but %s", differs)
	case missing != "" && !t.Failed():
		t.Error(missing)
	case skipped != "" && !t.Failed() && !t.Skipped():
		t.Error(skipped)
	}

	// One life after the other, so that their deferred calls do not race for the body's
	// variables.
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, l := range lives {
		inside.Freeze(l.rt, false)
		l.cancel(errOver)
		close(l.over)
		_ = l.rt.Shutdown(ctx)
		select {
		case <-l.returned:
		case <-ctx.Done():
			if !w.crashed {
				t.Errorf("activitytest: process %d did not return, although its Runtime is shut down and its context has ended", l.number)
			}
		}
		time.Sleep(time.Nanosecond) // until every goroutine that can end has ended
	}
	// Functions that sleep must return before this does, because the bubble's time then stops.
	time.Sleep(time.Hour)
	w.release()
	w.failed, w.skipped = t.Failed(), t.Skipped()
	if w.failed {
		w.tell(t)
	}
}

// missing returns an error text if the first interruption did not happen, and "" otherwise.
// The second one depends on the recovery and may not happen. World.mu is held.
func (w *World) missing() string {
	if w.run == nil || w.done > 0 {
		return ""
	}
	first := w.run.interruptions[0]
	for _, w := range []*World{w, w.dry} {
		if s := w.seen[first.place.id]; s != nil && s.concurrent {
			return ""
		}
	}
	return fmt.Sprintf("activitytest: the run never reached the place of its interruption, as the dry run did: %s", first.place)
}

// Run calls process once for each life of the program, and returns the error of the last one. A life is the
// last if it was not interrupted. After a Shutdown, it is the last if it returns nil and the Store holds no
// activity that was interrupted. Each life gets a new Runtime, with whatever the Store held when the life
// before ended. ctx ends when the body does.
//
// Run must be called in the body's goroutine. process should return its errors and make no
// assertions. A process that was stopped also gets errors, once the body is over, and a
// t.Error would then fail the test.
func (w *World) Run(process func(ctx context.Context, rt *activity.Runtime) error) error {
	w.t.Helper()
	if w.Config.Clock != nil || w.Config.Store != nil {
		w.t.Fatal("activitytest: World.Config.Clock and World.Config.Store must be nil, because the World has its own")
	}
	w.forget()
	for {
		l := w.begin(process)
		select {
		case <-l.returned:
		case <-l.died:
			w.adopt(l)
			w.release()
			continue
		case <-w.limit:
			w.t.Fatalf("activitytest: the run has not ended within Plan.Limit (%s of virtual time)\n%s", w.plan.Limit, w.whereabouts(false))
		case why := <-w.endless:
			w.t.Fatalf("activitytest: %s\n%s", why, w.whereabouts(false))
		}
		w.mu.Lock()
		crashed, down, faulted := l.crashed, l.shutdown, l.faulted
		w.mu.Unlock()
		if crashed {
			continue
		}
		if down != nil {
			<-down
		}
		w.mu.Lock()
		l.dead = true
		w.mu.Unlock()
		w.adopt(l)
		w.release()
		switch {
		case l.panicked != "":
			w.t.Fatalf("activitytest: the process panicked: %s", l.panicked)
		case l.goexit:
			if !w.t.Failed() && !w.t.Skipped() {
				w.t.Error("activitytest: the process called runtime.Goexit")
			}
			runtime.Goexit() // a t.FailNow in process must end the body
		case (down != nil || faulted) && l.err != nil:
			continue
		}
		left := w.left(l)
		switch {
		case l.err != nil:
		case down != nil && w.stored():
			continue // the next life resumes it
		case left != "":
			w.t.Errorf("activitytest: the process returned nil, although %s was interrupted and not resumed", left)
		}
		synctest.Wait() // attempts that stalled finish their work of this instant before the body continues
		if l.err == nil {
			w.returned(l)
		}
		return l.err
	}
}

// left returns the label of an activity that was interrupted and has not ended since, or "". If the dry run
// leaves the activity unfinished as well, such as an endless poller, that is intended. If there are several
// activities, left cannot tell for one that is not stored.
func (w *World) left(l *life) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range w.unfinished() {
		if w.interrupted[id] && (w.dry == nil || !slices.Contains(w.dry.leaves, id)) {
			return label(id)
		}
	}
	ids := len(w.seen)
	if w.seen[""] != nil {
		ids--
	}
	if ids == 1 && (l.canceled && (w.dry == nil || !w.dry.stopped) || w.interruptedNow()) {
		return "its activity"
	}
	return ""
}

// stored reports whether the Store holds an activity that was interrupted.
func (w *World) stored() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.unfinished(), func(id string) bool { return w.interrupted[id] })
}

// interruptedNow reports whether an activity was interrupted and has not started again,
// although it ended in the dry run. World.mu is held.
func (w *World) interruptedNow() bool {
	for id := range w.interrupted {
		if w.dry != nil && w.dry.finished[id] {
			return true
		}
	}
	return false
}

// unfinished returns the IDs of the stored activities that can be resumed. World.mu is held.
func (w *World) unfinished() (ids []string) {
	for cp := range w.memory.All(context.Background()) {
		switch cp.State {
		case activity.CheckpointRunning, activity.CheckpointInterrupted, activity.CheckpointWaiting, activity.CheckpointPaused:
			ids = append(ids, cp.ID)
		}
	}
	return ids
}

// begin starts the next life.
func (w *World) begin(process func(ctx context.Context, rt *activity.Runtime) error) *life {
	l := &life{w: w, died: make(chan struct{}), over: make(chan struct{}), returned: make(chan struct{})}
	l.own = &attempt{life: l}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	cfg := w.Config
	cfg.Store = &store{l}
	cfg.Logger = l.logger(cfg.Logger)
	observer := cfg.Observer
	cfg.Observer = func(e activity.Event) {
		if l.observe(e) && observer != nil {
			observer(e)
		}
	}
	interceptor := cfg.Interceptor
	cfg.Interceptor = func(ctx activity.Context, next func(activity.Context) error) error {
		a := l.attempt(ctx)
		return a.run(func() error {
			if interceptor != nil {
				return interceptor(a, next)
			}
			return next(a)
		})
	}
	l.rt = activity.New(cfg)
	w.mu.Lock()
	w.lives = append(w.lives, l)
	l.number = len(w.lives)
	w.unsaved = nil
	w.mu.Unlock()

	if w.StopWhenIdle {
		go l.stopIfIdle(time.Hour)
	}
	go func() {
		defer close(l.returned)
		l.goexit = true
		defer func() {
			if v := recover(); v != nil {
				l.goexit, l.panicked = false, fmt.Sprintf("%v\n%s", v, debug.Stack())
			}
		}()
		l.own.goid = goid()
		w.owns(l.own, l.own.goid)
		l.err = process(context.WithValue(l.ctx, attemptKey{}, l.own), l.rt)
		l.goexit = false
	}()
	return l
}

// stopped reports whether the life is dead. If so, it first waits until the body is over.
func (l *life) stopped() bool {
	l.w.mu.Lock()
	dead := l.dead || l.w.ended
	l.w.mu.Unlock()
	if dead {
		<-l.over
	}
	return dead
}

// observe is the Runtime's Observer. It reports whether the user's Observer gets the event.
func (l *life) observe(e activity.Event) bool {
	if l.stopped() { // this also stops callers that wait for the activity's end
		return false
	}
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.StopWhenIdle {
		switch e.Kind {
		case activity.EventCompleted, activity.EventFailed, activity.EventCanceled, activity.EventPaused:
			go l.stopIfIdle(time.Nanosecond)
		}
	}
	switch e.Kind {
	case activity.EventAttemptFailed:
		w.note(l, e.ID, e.Attempt, "failed: "+short(e.Err))
	case activity.EventBlocked:
		w.note(l, e.ID, e.Attempt, "blocks the next attempt")
		switch h := w.hanging; {
		case h == nil || h.id != e.ID:
		case h.later && !h.gives: // the later ones hang as well
			w.holds(h)
		default:
			h.blocked = true
			w.wakeLocked()
		}
	case activity.EventFailed:
		w.finished[e.ID] = true
		w.note(l, e.ID, e.Attempt, "ended: "+short(e.Err))
	case activity.EventCanceled:
		w.finished[e.ID] = !errors.Is(e.Err, activity.ErrShutdown)
		w.note(l, e.ID, e.Attempt, "ended: "+short(e.Err))
		switch {
		case !errors.Is(e.Err, activity.ErrShutdown):
		case l.shutdown == nil:
			w.stopped = true
		default:
			l.canceled = true
			w.interrupted[e.ID] = true
		}
	case activity.EventCompleted:
		w.finished[e.ID] = true
		w.note(l, e.ID, e.Attempt, "completed")
	}
	return true
}

// crash ends the life and loses the last in.lost of the details that are not saved. World.mu
// is held.
func (w *World) crash(l *life, in *interruption) {
	l.dead, l.crashed, w.crashed = true, true, true
	if in.kind == powerLoss {
		l.lost = &in.state
	}
	for _, s := range l.rt.Activities() { // calls no code of this package, so World.mu may be held
		w.interrupted[s.ID] = true
	}
	inside.Freeze(l.rt, true) // nor does this
	w.cutSaved()
	kept := w.unsaved[:max(len(w.unsaved)-in.lost, 0)]
	for i := len(kept); i < len(w.unsaved); i++ {
		w.notes = append(w.notes, fmt.Sprintf("details of %s lost: %s", label(w.unsaved[i].id), show(w.unsaved[i].details)))
	}
	for _, r := range kept {
		cp, found, _ := w.memory.Load(context.Background(), r.id)
		if !found {
			continue
		}
		cp.Details, cp.UpdatedAt = r.details, time.Now()
		cp.Progressed = cp.Attempt // the attempt made progress, or the Store would already hold these details
		cp.Sequence++
		_ = w.memory.Save(context.Background(), []activity.Checkpoint{cp})
	}
	w.unsaved = nil
}

// recorded notes the newest details that the Runtime holds of the activity. World.mu is
// held.
func (w *World) recorded(id string, details []byte) {
	for i := len(w.unsaved) - 1; i >= 0; i-- {
		if r := &w.unsaved[i]; r.id == id {
			if bytes.Equal(r.details, details) {
				return
			}
			break
		}
	}
	w.unsaved = append(w.unsaved, record{id, details})
}

// cutSaved removes from unsaved the details that the Store holds or will never hold.
// World.mu is held.
func (w *World) cutSaved() {
	if len(w.unsaved) == 0 {
		return
	}
	saved := map[string][]byte{}
	never := map[string]bool{}
	at := map[string]int{} // index of the last saved details in unsaved, by ID
	for i, r := range w.unsaved {
		if _, ok := saved[r.id]; !ok && !never[r.id] {
			cp, found, _ := w.memory.Load(context.Background(), r.id)
			if never[r.id] = !found; found {
				saved[r.id] = cp.Details
			}
			at[r.id] = -1
		}
		if !never[r.id] && bytes.Equal(saved[r.id], r.details) {
			at[r.id] = i
		}
	}
	left := w.unsaved[:0]
	for i, r := range w.unsaved {
		if !never[r.id] && i > at[r.id] {
			left = append(left, r)
		}
	}
	w.unsaved = left
}

// logger returns a Logger that logs to user while the life lasts. If user is nil, it
// discards everything.
func (l *life) logger(user *slog.Logger) *slog.Logger {
	if user == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(&handler{user.Handler(), l})
}

type handler struct {
	slog.Handler
	life *life
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	h.life.w.mu.Lock()
	dead := h.life.dead || h.life.w.ended
	h.life.w.mu.Unlock()
	return !dead && h.Handler.Enabled(ctx, level)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.Handler.WithAttrs(attrs), h.life}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.Handler.WithGroup(name), h.life}
}
