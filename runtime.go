package activity

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"
)

// Config configures a Runtime. The zero Config is ready to use.
type Config struct {
	// Clock supplies the time for timeouts, backoffs and Sleep. If nil, the real clock is
	// used, which is the same as clock.New(). In tests, use a synctest bubble without a
	// Clock, or clock.NewMock(). Clock is called under a lock, so it must not call the
	// Runtime.
	Clock clock.Clock

	// Store keeps the checkpoints of activities that have an Options.ID, so that they
	// survive the process. Package boltstore keeps them in a file. Only one Runtime at a
	// time may use a Store, and the Store must stay open until Shutdown has returned nil.
	// If nil, details live in memory, for the retries of one execution.
	Store Store

	// StoreTimeout limits each call of the Store. For All, it limits the time between two
	// checkpoints. A call that takes longer has failed: its context ends, and everyone who
	// waits for it, such as Start, gets an error. Until a Save or Delete returns, nothing
	// else is written. If zero, 30 s.
	StoreTimeout time.Duration

	// Codec encodes heartbeat details and, for the Store, inputs. If nil, a strict form of
	// encoding/json is used: it returns an error for values that would not decode to equal
	// values. [Codec] lists the values that it refuses, and the changes that it may make.
	Codec Codec

	// Logger gets a Warn for each attempt that fails or times out, and an Error for each
	// problem that needs a person, such as a Store that fails. If nil, slog.Default() is
	// used.
	Logger *slog.Logger

	// Observer is called with every event of every activity, heartbeats included, which
	// makes each of them several times as dear. [Runtime.Subscribe] takes some kinds. If
	// nil, it is not called. Events of one activity are delivered in order and one at a time, the last
	// one before Run returns. Events of different activities are delivered concurrently.
	// Observer runs in the Runtime's own goroutines. It must be quick, because events
	// accumulate while it runs, and it must not wait for an activity. If it panics, the
	// panic is logged.
	Observer func(Event)

	// Interceptor wraps every attempt and runs in the attempt's goroutine. It must call
	// next with ctx or with a Context that wraps it. The function gets exactly that
	// Context, and FromContext returns it. The result of the Interceptor is the result of
	// the attempt. If the function panics, next returns a *PanicError. If nil, the
	// function is called directly.
	//
	// An Interceptor may call next in another goroutine and return before next does. The
	// attempt is then over: the function's Context ends, and its own result is ignored.
	// For the Runtime the function has returned, so the next attempt does not wait for it,
	// not even under NoOverlap. Once an attempt is over, next returns the cause and does
	// not call the function.
	Interceptor func(ctx Context, next func(Context) error) error

	// MaxConcurrent is the largest number of attempts that run at once. Further attempts
	// wait for a slot, and the one that has waited longest gets the next. Abandoned
	// functions and waits between attempts hold no slot. If zero, there is no limit.
	//
	// An activity that waits for another activity keeps its slot meanwhile. If both belong
	// to one Runtime with too few slots, they wait for each other forever, so give inner
	// activities a Runtime of their own.
	MaxConcurrent int

	// MaxDetailsSize is the largest size of encoded heartbeat details, in bytes. If zero,
	// 2 MiB.
	MaxDetailsSize int

	// SaveInterval is the longest time that recorded details wait before they are given
	// to the Store. A crash loses at most what was recorded in that time and during the
	// last Save. If zero, 100 ms.
	SaveInterval time.Duration

	// Rand returns random numbers in [0,1) for RetryPolicy.Jitter. If nil, math/rand/v2 is
	// used. Rand is called by one goroutine at a time and under a lock, so it must be
	// quick, and must not call the Runtime or runtime.Goexit.
	Rand func() float64
}

// A Runtime runs activities. Create one with [New]. All its methods may be called by
// several goroutines at once. While no activity runs and nothing is being saved, it owns
// no goroutine. Without a Store it then needs no Shutdown. In a synctest bubble, use a
// Runtime that was created in the bubble.
type Runtime struct {
	cfg Config // with defaults
	timekeeper
	returns     returns
	subscribers subscribers // Config.Observer among them
	lazyInts    bool        // whether a heartbeat's int is encoded only when it is read: with the default Codec, and if no int can be too large

	// mu guards the fields below, and the life of every activity. It is locked before
	// activity.mu. Between enter and leave, now is the current instant.
	mu        sync.Mutex
	now       instant              // the instant at which mu was locked
	ring      *activity            // sentinel of the list of activities that have not ended, oldest first
	ids       map[string]*activity // the newest activity of each Options.ID, until freeIDLocked removes it
	started   uint64               // number of the last activity that was scheduled
	scheduler scheduler
	slots     slots
	writer    writer
	counts    counts
	shutdown  shutdown
	drain     drain
}

const (
	defaultMaxDetailsSize = 2 << 20
	defaultSaveInterval   = 100 * time.Millisecond
	defaultStoreTimeout   = 30 * time.Second
)

// New returns a Runtime. It panics if a field of cfg is negative, and names it.
func New(cfg Config) *Runtime {
	switch {
	case cfg.MaxConcurrent < 0:
		panic(fmt.Sprintf("activity: Config.MaxConcurrent must not be negative (got %d)", cfg.MaxConcurrent))
	case cfg.MaxDetailsSize < 0:
		panic(fmt.Sprintf("activity: Config.MaxDetailsSize must not be negative (got %d)", cfg.MaxDetailsSize))
	case cfg.StoreTimeout < 0:
		panic(fmt.Sprintf("activity: Config.StoreTimeout must not be negative (got %s)", cfg.StoreTimeout))
	case cfg.SaveInterval < 0:
		panic(fmt.Sprintf("activity: Config.SaveInterval must not be negative (got %s)", cfg.SaveInterval))
	}
	rt := &Runtime{ids: map[string]*activity{}}
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.MaxDetailsSize == 0 {
		cfg.MaxDetailsSize = defaultMaxDetailsSize
	}
	if cfg.SaveInterval == 0 {
		cfg.SaveInterval = defaultSaveInterval
	}
	if cfg.StoreTimeout == 0 {
		cfg.StoreTimeout = defaultStoreTimeout
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Codec == nil {
		cfg.Codec = jsonCodec{}
		rt.lazyInts = cfg.MaxDetailsSize >= len("-9223372036854775808")
	}
	rt.cfg = cfg
	if cfg.Observer != nil {
		rt.subscribers.add(&subscriber{f: cfg.Observer, kinds: allKinds, what: "Config.Observer"})
	}
	rt.timekeeper.init(cfg.Clock)
	rt.drain.signal = make(chan struct{})
	rt.ring = &activity{}
	rt.ring.prev, rt.ring.next = rt.ring, rt.ring
	rt.scheduler.armed = never
	rt.slots.limit = cfg.MaxConcurrent
	if cfg.Store != nil {
		rt.writer.init(rt)
	}
	return rt
}

// linkLocked adds a to the end of the ring of activities that have not ended.
func (rt *Runtime) linkLocked(a *activity) {
	a.prev, a.next = rt.ring.prev, rt.ring
	a.prev.next, a.next.prev = a, a
}

// unlinkLocked removes a from the ring.
func (rt *Runtime) unlinkLocked(a *activity) {
	a.prev.next, a.next.prev = a.next, a.prev
	a.prev, a.next = nil, nil
}

// allLocked yields the activities that have not ended, oldest first. The body of the loop
// may end the activity that it gets, but no other.
func (rt *Runtime) allLocked() iter.Seq[*activity] {
	return func(yield func(*activity) bool) {
		for a, next := rt.ring.next, (*activity)(nil); a != rt.ring; a = next {
			if next = a.next; !yield(a) {
				return
			}
		}
	}
}

// findLocked returns the newest activity with that ID, or nil. It may return an activity
// that has ended, if its last event is still to be delivered or its function is inside
// Guard. Generated IDs are not in rt.ids, because they are rarely looked up: the
// activities are searched instead.
func (rt *Runtime) findLocked(id string) *activity {
	if a := rt.ids[id]; a != nil || !strings.HasPrefix(id, madeUpPrefix) {
		return a
	}
	for a := range rt.allLocked() {
		if a.opts.ID == "" && a.id() == id {
			return a
		}
	}
	return nil
}

// runningLocked returns the activity because of which id is in use, or nil. That is one
// that has not ended, or whose function is inside Guard.
func (rt *Runtime) runningLocked(id string) *activity {
	if a := rt.findLocked(id); a != nil && (a.phase != phaseEnded || a.guardedLocked()) {
		return a
	}
	return nil
}

// freeIDLocked removes a from rt.ids, unless a newer activity has its ID.
func (rt *Runtime) freeIDLocked(a *activity) {
	if rt.ids[a.opts.ID] == a {
		delete(rt.ids, a.opts.ID)
	}
}

// Run runs fn as an activity and waits for its end. It returns nil if the activity
// completed, and an [*Error] if it did not. If the activity was not started, it returns
// another error: for invalid options, [ErrShutdown], [ErrAlreadyRunning],
// [ErrCheckpointMismatch], or a Store that failed. If ctx had ended already, that is an
// [*Error] too, whose Attempt is 0.
//
// If ctx ends, the activity is canceled. Run then returns when fn has returned, at
// the latest Options.CancelGrace later. With Config.Store and Options.ID, the activity
// resumes from the checkpoint of the ID, if the Store has one: see the section on
// durability in the package documentation.
func (rt *Runtime) Run(ctx context.Context, opts Options, fn func(Context) error) error {
	_, err := rt.run(ctx, &opts, plain(fn))
	return err
}

// Start starts fn as an activity and does not wait for its end. It is like the function
// [Start], for a function without an input and a result.
func (rt *Runtime) Start(ctx context.Context, opts Options, fn func(Context) error) (*Handle[struct{}], error) {
	return startBody[struct{}](ctx, rt, &opts, plain(fn))
}

// Execute runs fn as an activity with input in, and waits for its end. It is like
// [Runtime.Run], for a function with an input and a result. With an error the result is
// the zero Out.
func Execute[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (Out, error) {
	a, err := rt.run(ctx, &opts, &call[In, Out]{fn, in})
	if err != nil {
		var zero Out
		return zero, err
	}
	return (&Handle[Out]{a}).result()
}

// Start starts fn as an activity with input in, and does not wait for its end. Its errors
// are those of [Runtime.Run] for an activity that was not started. If ctx ends, the
// activity is canceled, even after Start has returned.
//
// With Config.Store and Options.ID, in is encoded with Config.Codec and stored with the
// activity. Start then returns when the Store holds the start of the first attempt. If
// that attempt has to wait for a slot or a backoff, Start returns when the Store holds the
// waiting activity. If the Store fails after such a wait, the start of the attempt is
// tried again. Activities that are started by many goroutines at once share a Save.
//
// If the Store has a checkpoint of the ID with another Name or another input, Start
// returns [ErrCheckpointMismatch].
func Start[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (*Handle[Out], error) {
	return startBody[Out](ctx, rt, &opts, &call[In, Out]{fn, in})
}

// startBody starts an activity and returns its Handle once the start is accepted.
func startBody[Out any](ctx context.Context, rt *Runtime, opts *Options, body body) (*Handle[Out], error) {
	a, err := rt.start(ctx, opts, body, startInBackground, nil)
	if err == nil {
		err = a.awaitStart()
	}
	if err != nil {
		return nil, err
	}
	return &Handle[Out]{a}, nil
}

// shutdown is the state of Runtime.Shutdown. Guarded by Runtime.mu.
type shutdown struct {
	begun bool          // set once, by the first Shutdown
	open  int           // number of activities whose callers are not released
	idle  chan struct{} // closed when open is 0; nil if nobody waits for that
}

// doneLocked counts an activity whose callers have been released.
func (s *shutdown) doneLocked() {
	s.open--
	if s.open == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// idleLocked returns a channel that is closed when the callers of all activities have been
// released.
func (s *shutdown) idleLocked() <-chan struct{} {
	if s.idle == nil {
		s.idle = make(chan struct{})
		if s.open == 0 {
			defer func() { s.idle = nil }()
			close(s.idle)
		}
	}
	return s.idle
}

// Shutdown refuses new activities and cancels the running ones with [ErrShutdown] as the
// cause. It waits until they have ended, their events are delivered, and the Store holds
// everything. Give ctx a deadline, because the Store may keep failing. If ctx ends first,
// Shutdown returns an error that says how many activities are left, names some of them,
// and wraps ctx's cause.
//
// Shutdown does not wait for abandoned functions, but logs how many still run. It may be
// called again. An activity must not wait for it, because Shutdown waits for the activity.
func (rt *Runtime) Shutdown(ctx context.Context) error {
	rt.enter()
	rt.shutdown.begun = true
	for a := range rt.allLocked() {
		a.cancelLocked(ErrShutdown)
	}
	idle := rt.shutdown.idleLocked()
	rt.leave()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	if rt.cfg.Store != nil {
		rt.writer.drain(ctx)
	}
	rt.enter()
	left, unsaved, abandoned, lost := rt.shutdown.open, len(rt.writer.records), rt.counts.abandoned, rt.writer.lost
	ids := rt.openLocked()
	if left == 0 {
		ids = slices.Sorted(maps.Keys(rt.writer.records))
	}
	rt.leave()
	if abandoned > 0 {
		logged := make(chan struct{})
		// In a goroutine, because a Logger may hang, and ctx must limit Shutdown.
		go func() {
			defer close(logged)
			rt.log(slog.LevelWarn, "activity: shut down while abandoned functions are running", nil, 0, slog.Int("abandoned", abandoned))
		}()
		select {
		case <-logged:
		case <-ctx.Done():
		}
	}
	switch {
	case left > 0:
		return fmt.Errorf("activity: shutdown: %s not ended: %w", count(left, ids), context.Cause(ctx))
	case unsaved > 0 && lost:
		return fmt.Errorf("activity: shutdown: %s not saved: %w", count(unsaved, ids), ErrStoreLost)
	case unsaved > 0:
		return fmt.Errorf("activity: shutdown: %s not saved: %w", count(unsaved, ids), context.Cause(ctx))
	}
	return nil
}

// openLocked returns the IDs of the activities that have not ended. Activities that have ended,
// but whose last event is still to be delivered, are counted in shutdown.open, and are not in
// the ring. They are not named.
func (rt *Runtime) openLocked() (ids []string) {
	for a := range rt.allLocked() {
		ids = append(ids, a.id())
	}
	return ids
}

// count returns a text that says that there are n activities, and names the first five of
// ids.
func count(n int, ids []string) string {
	var names []string
	for _, id := range ids[:min(len(ids), 5)] {
		names = append(names, strconv.Quote(id))
	}
	if more := n - len(names); more > 0 && len(names) > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	text := fmt.Sprintf("%d activities", n)
	if n == 1 {
		text = "1 activity"
	}
	if len(names) > 0 {
		text += " (" + strings.Join(names, ", ") + ")"
	}
	return text
}
