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
	"github.com/seed-9da638b0/activity/storetest"
)

// A World is where the processes of one run of the body live, one after the other.
// It is made by [Plan.Run], in a bubble of its own.
type World struct {
	// Config is what the Runtime of each process gets. Clock and Store are the
	// World's own and must be nil. Without a Logger nothing is logged.
	Config activity.Config

	plan *Plan
	run  *run   // nil: the dry run
	dry  *World // what the dry run saw

	t       *testing.T // the bubble's
	failed  bool       // the body has; set once, at the end
	skipped bool       // the same
	hung    bool       // set by watch
	crashed bool       // there was a crash; set once, before the end

	bubbleID atomic.Pointer[string] // how a dump names the bubble
	moved    atomic.Uint64          // grows with each call, for watch

	endless chan string // gets why a run does not end
	limit   <-chan time.Time

	mu          sync.Mutex // never held while somebody waits
	memory      *storetest.Memory
	lives       []*life
	seen        map[string]*sight // by activity
	places      []placed          // of the dry run
	done        int               // interruptions that have taken place
	settling    bool              // one is about to
	recovery    int               // places that the recovery from the first one has come to
	hanging     *hang             // an attempt that stalls, until it wakes
	stalled     *hang             // the last that did
	unsaved     []record          // what this life has recorded and the Store does not hold, at most
	interrupted map[string]bool   // activities that must go on in a later life
	finished    map[string]bool   // activities that have ended
	leaves      []string          // activities that are unfinished at the end
	ended       bool              // what follows is no longer part of the run
	visits      int               // of places
	steps       []*step           // but for the middle of very many
	notes       []string          // what is to be said of the interruptions
	differs     string            // how the calls differ from those of the dry run
}

// A sight is what was seen of an activity.
type sight struct {
	counts     map[place]int // with n 0: how often it came there
	calls      []call        // before the first interruption
	inside     int           // calls that are under way
	concurrent bool          // several goroutines have called at once: the order of calls says nothing
	starts     int           // of attempts

	completed   int             // executions
	fromNothing map[int][]*step // of the dry run, by execution: what an attempt does that resumes from nothing
	records     int             // heartbeats with details
	resumptions []*resumption   // of the other runs
}

// A record is recorded details.
type record struct {
	id      string
	details []byte
}

// A hang is an attempt that stalls.
type hang struct {
	id      string
	attempt int
	until   int  // the place of the next attempt at which it wakes; 0: when that starts
	came    int  // to how many that has come
	ended   bool // and all of them
	blocked bool // the next attempt has had to wait for this one
	wake    chan struct{}
}

// A life is one process.
type life struct {
	w      *World
	number int // from 1
	rt     *activity.Runtime
	ctx    context.Context
	cancel context.CancelCauseFunc

	died     chan struct{} // closed by a crash
	over     chan struct{} // closed when the body and its assertions are over
	returned chan struct{} // closed when process has returned, and what follows is set
	err      error
	panicked string
	goexit   bool

	// Guarded by World.mu.
	dead     bool          // nothing of it goes on
	crashed  bool          // and that is why
	shutdown chan struct{} // closed when its Shutdown has returned; nil: there is none
	canceled bool          // an activity of it has ended by its Shutdown
}

// What never ends need not be watched for all of Plan.Limit.
const (
	maxAttempts = 1000    // of an activity, in a run
	maxPlaces   = 100_000 // that the dry run may come to; another to ten times as many
)

// errOver is how everything ends that is still there when the body is over.
var errOver = errors.New("activitytest: the run is over")

func newWorld(p *Plan, r *run, dry *World) *World {
	return &World{plan: p, run: r, dry: dry, memory: &storetest.Memory{}, seen: map[string]*sight{}, interrupted: map[string]bool{}, finished: map[string]bool{}}
}

// live is the run. It is the main goroutine of the bubble.
func (w *World) live(t *testing.T, body func(t *testing.T, w *World)) {
	id := bubbleOf(header())
	w.bubbleID.Store(&id)
	w.t, w.limit = t, time.After(w.plan.Limit)
	w.endless = make(chan string, 1)
	defer w.end() // also if the body calls t.FailNow
	defer func() {
		if v := recover(); v != nil { // which ends the whole test program, and what t has not printed yet
			fmt.Fprintf(os.Stderr, "activitytest: in %s the body panicked: %v\n%s\n", t.Name(), v, w.story())
			panic(v)
		}
	}()
	body(t, w)
}

// end judges, and lets go what was stopped.
func (w *World) end() {
	t := w.t
	w.mu.Lock()
	w.ended = true
	lives, differs, missing := w.lives, w.differs, w.missing()
	w.leaves = w.unfinished()
	w.mu.Unlock()
	switch {
	case differs != "":
		t.Errorf("activitytest: the activity's calls are not those of the dry run, so that it cannot be interrupted where that was: %s", differs)
	case missing != "" && !t.Failed():
		t.Error(missing)
	}

	// One after the other: what they do to the body's variables must not be a race.
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, l := range lives {
		l.cancel(errOver)
		close(l.over)
		_ = l.rt.Shutdown(ctx)
		select {
		case <-l.returned:
		case <-ctx.Done():
			if !w.crashed {
				t.Errorf("activitytest: process %d does not return although its Runtime is shut down and its context has ended", l.number)
			}
		}
		time.Sleep(time.Nanosecond) // until all has ended that can
	}
	// The bubble's time stands still when this returns: functions of the user's that
	// sleep must have returned before.
	time.Sleep(time.Hour)
	w.failed, w.skipped = t.Failed(), t.Skipped()
	if w.failed {
		w.tell(t)
	}
}

// missing is said if an interruption that should have taken place has not. Only the
// first is sure to. World.mu is held.
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
	return fmt.Sprintf("activitytest: the run never came %s, as the dry run did", first.place)
}

// Run runs process, one life of the program, again and again until one ends by
// itself: without having been interrupted, or, if its Runtime was shut down, with
// nil. It returns its error. Each life gets a new Runtime on what the Store held
// when the life before it ended.
//
// ctx ends when the body has. It must be called in the body's goroutine. process
// returns its errors, and judges nothing: also one that was stopped gets errors, when
// the body is over, and a t.Error there would count.
func (w *World) Run(process func(ctx context.Context, rt *activity.Runtime) error) error {
	w.t.Helper()
	if w.Config.Clock != nil || w.Config.Store != nil {
		w.t.Fatal("activitytest: World.Config.Clock and World.Config.Store are the World's own: leave them nil")
	}
	for {
		l := w.begin(process)
		select {
		case <-l.returned:
		case <-l.died:
			continue
		case <-w.limit:
			w.t.Fatalf("activitytest: not done within Plan.Limit, %s of virtual time\n%s", w.plan.Limit, w.whereabouts(false))
		case why := <-w.endless:
			w.t.Fatalf("activitytest: %s\n%s", why, w.whereabouts(false))
		}
		w.mu.Lock()
		crashed, down := l.crashed, l.shutdown
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
		switch {
		case l.panicked != "":
			w.t.Fatalf("activitytest: the process panicked: %s", l.panicked)
		case l.goexit:
			if !w.t.Failed() && !w.t.Skipped() {
				w.t.Error("activitytest: the process called runtime.Goexit")
			}
			runtime.Goexit() // as a t.FailNow in process means it
		case down != nil && l.err != nil:
			continue
		}
		if left := w.left(l); left != "" && l.err == nil {
			w.t.Errorf("activitytest: the process ended without an error although %s was interrupted and not resumed", left)
		}
		synctest.Wait() // what attempts that stalled still do at this instant comes before what the body sees
		return l.err
	}
}

// left is an activity that was interrupted and that nobody has ended since. What the
// dry run leaves as well, such as a poller that goes on for ever, is meant to be left;
// and of one among several that is not stored nobody can say.
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
	if ids == 1 && (l.canceled || w.interruptedNow()) {
		return "its activity"
	}
	return ""
}

// interruptedNow reports whether something was interrupted that the dry run ended.
// World.mu is held.
func (w *World) interruptedNow() bool {
	for id := range w.interrupted {
		if w.dry != nil && w.dry.finished[id] {
			return true
		}
	}
	return false
}

// unfinished are the activities that the Store holds to be gone on with. World.mu is
// held.
func (w *World) unfinished() (ids []string) {
	for cp := range w.memory.All(context.Background()) {
		if cp.State == activity.CheckpointRunning || cp.State == activity.CheckpointInterrupted {
			ids = append(ids, cp.ID)
		}
	}
	return ids
}

// begin starts the next life.
func (w *World) begin(process func(ctx context.Context, rt *activity.Runtime) error) *life {
	l := &life{w: w, died: make(chan struct{}), over: make(chan struct{}), returned: make(chan struct{})}
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

	go func() {
		defer close(l.returned)
		l.goexit = true
		defer func() {
			if v := recover(); v != nil {
				l.goexit, l.panicked = false, fmt.Sprintf("%v\n%s", v, debug.Stack())
			}
		}()
		own := &attempt{life: l, goid: goid()}
		l.err = process(context.WithValue(l.ctx, attemptKey{}, own), l.rt)
		l.goexit = false
	}()
	return l
}

// stopped waits, in a life that is dead, until the body is over.
func (l *life) stopped() bool {
	l.w.mu.Lock()
	dead := l.dead || l.w.ended
	l.w.mu.Unlock()
	if dead {
		<-l.over
	}
	return dead
}

// observe reports whether the event is still to be told.
func (l *life) observe(e activity.Event) bool {
	if l.stopped() { // and with it whoever waits for the activity's end
		return false
	}
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e.Kind {
	case activity.EventAttemptFailed:
		w.note(l, e.ID, e.Attempt, "failed: "+short(e.Err))
	case activity.EventBlocked:
		w.note(l, e.ID, e.Attempt, "holds up the next attempt")
		if h := w.hanging; h != nil && h.id == e.ID {
			h.blocked = true
			w.wakeLocked()
		}
	case activity.EventFailed:
		w.finished[e.ID] = true
		w.note(l, e.ID, e.Attempt, "the end: "+short(e.Err))
	case activity.EventCanceled:
		w.finished[e.ID] = true
		w.note(l, e.ID, e.Attempt, "the end: "+short(e.Err))
		if l.shutdown != nil && errors.Is(e.Err, activity.ErrShutdown) {
			l.canceled = true
			w.interrupted[e.ID] = true
		}
	case activity.EventCompleted:
		w.finished[e.ID] = true
		w.note(l, e.ID, e.Attempt, "completed")
	}
	return true
}

// crash ends the life, with so many of the last recorded details lost. World.mu is
// held.
func (w *World) crash(l *life, in *interruption) {
	l.dead, l.crashed, w.crashed = true, true, true
	for _, s := range l.rt.Activities() { // which calls nothing of ours
		w.interrupted[s.ID] = true
	}
	w.cutSaved()
	kept := w.unsaved[:max(len(w.unsaved)-in.lost, 0)]
	for i := len(kept); i < len(w.unsaved); i++ {
		w.notes = append(w.notes, fmt.Sprintf("lost of %s: %s", label(w.unsaved[i].id), show(w.unsaved[i].details)))
	}
	for _, r := range kept {
		cp, found, _ := w.memory.Load(context.Background(), r.id)
		if !found {
			continue
		}
		cp.Details, cp.UpdatedAt = r.details, time.Now()
		cp.Progressed = cp.Attempt // else the Store would hold these details
		cp.Sequence++
		_ = w.memory.Save(context.Background(), []activity.Checkpoint{cp})
	}
	w.unsaved = nil
}

// recorded takes down what the Runtime holds as the activity's newest details.
// World.mu is held.
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

// cutSaved takes out of unsaved what the Store holds, or never will. World.mu is
// held.
func (w *World) cutSaved() {
	if len(w.unsaved) == 0 {
		return
	}
	saved := map[string][]byte{}
	never := map[string]bool{}
	at := map[string]int{} // the last that is saved
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

// logger is user's while the life lasts; nil: nothing is logged.
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
