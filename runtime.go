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
	// Clock supplies the time for timeouts, backoff and Sleep. If nil, the real
	// clock is used, which clock.New() is too. Tests use a synctest bubble and no
	// Clock, or clock.NewMock().
	Clock clock.Clock

	// Store keeps the checkpoints of activities with an Options.ID across
	// processes; package boltstore has one in a file. One Runtime at a time may
	// use it, and it must stay open until Shutdown has returned nil. If nil,
	// checkpoints live in memory, for the retries of one execution.
	Store Store

	// StoreTimeout limits each call of the Store, and of All the time between two
	// checkpoints. A call that takes longer counts as failed: its context ends, and
	// whoever waits for it, such as Start, gets an error. Until it returns, nothing else
	// is written. If zero, 30 s.
	StoreTimeout time.Duration

	// Codec encodes heartbeat details and, for the Store, inputs. If nil,
	// encoding/json is used, but strictly: it gives back what it took, or refuses.
	// [Codec] says what it refuses, and what it may change.
	Codec Codec

	// Logger gets a Warn for each attempt that failed or timed out, and an
	// Error for what needs a person. If nil, slog.Default() is used.
	Logger *slog.Logger

	// Observer is called with every event of every activity. If nil, no events are
	// delivered. Those of one activity come in order and one at a time, the last
	// one before Run returns. Those of several activities come concurrently.
	// Observer runs in the Runtime's own goroutines. It must be quick, since events
	// that wait for it pile up, and it must not wait for an activity. A panic in it
	// is logged.
	Observer func(Event)

	// Interceptor wraps every attempt, in its goroutine. It must call next with
	// ctx or with a Context that wraps it. The function gets exactly that
	// Context, and FromContext finds it. The Interceptor's result is the
	// attempt's result. If the function panics, next returns a *PanicError.
	//
	// An Interceptor may call next in another goroutine and return before that does.
	// The attempt is then over, the function's Context ends, and its own result does not
	// count. As far as the Runtime knows, the function has returned: the next attempt
	// does not wait for it, not even under NoOverlap. Once an attempt is over, next
	// returns the cause and does not call the function.
	Interceptor func(ctx Context, next func(Context) error) error

	// MaxConcurrent is how many attempts may run at once. If zero, there is no
	// limit. Other attempts wait for a slot; the one that has waited longest gets
	// the next. Abandoned functions and waits between attempts hold no slot. An
	// activity that waits for another one of the same Runtime keeps its slot
	// meanwhile. With too few slots both wait forever, so give inner activities a
	// Runtime of their own.
	MaxConcurrent int

	// MaxDetailsSize is the largest size of heartbeat details, in bytes,
	// encoded. If zero, 2 MiB.
	MaxDetailsSize int

	// SaveInterval is the longest time that recorded details wait before they are
	// given to the Store: what a crash can lose. If zero, 100 ms.
	SaveInterval time.Duration

	// Rand returns the random numbers, in [0,1), for RetryPolicy.Jitter. If nil,
	// math/rand/v2 is used. Rand is called by one goroutine at a time, under a
	// lock: it must be quick, and must not call the Runtime or runtime.Goexit.
	Rand func() float64
}

// A Runtime runs activities. While none runs and nothing is to be saved, it owns
// no goroutine, and without a Store it then needs no Shutdown. For a synctest
// bubble, make one in the bubble.
type Runtime struct {
	cfg Config // with defaults
	timekeeper
	returns  returns
	lazyInts bool // an int is encoded only when somebody asks, since it is never too large

	// mu comes before every activity.mu. It guards what follows.
	mu        sync.Mutex
	now       instant              // when mu was taken
	ring      *activity            // head of the list of activities that have not ended
	ids       map[string]*activity // by the ID that was given
	started   uint64               // number of the last activity that was scheduled
	scheduler scheduler
	slots     slots
	writer    writer
	counts    counts
	shutdown  shutdown
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
	rt.timekeeper.init(cfg.Clock)
	rt.ring = &activity{}
	rt.ring.prev, rt.ring.next = rt.ring, rt.ring
	rt.scheduler.armed = never
	rt.slots.limit = cfg.MaxConcurrent
	if cfg.Store != nil {
		rt.writer.init(rt)
	}
	return rt
}

// linkLocked and unlinkLocked keep the ring of activities that have not ended.
func (rt *Runtime) linkLocked(a *activity) {
	a.prev, a.next = rt.ring.prev, rt.ring
	a.prev.next, a.next.prev = a, a
}

func (rt *Runtime) unlinkLocked(a *activity) {
	a.prev.next, a.next.prev = a.next, a.prev
	a.prev, a.next = nil, nil
}

// allLocked yields the activities that have not ended, oldest first. The loop's
// body may end the one that it gets.
func (rt *Runtime) allLocked() iter.Seq[*activity] {
	return func(yield func(*activity) bool) {
		for a, next := rt.ring.next, (*activity)(nil); a != rt.ring; a = next {
			if next = a.next; !yield(a) {
				return
			}
		}
	}
}

// findLocked returns the activity that had id last. It returns nil if that has ended, its
// last event is delivered, and its function is not inside Guard. Made-up IDs are not in
// rt.ids, since few ask for them.
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

// runningLocked returns the activity that has id, or whose function still occupies it,
// or nil.
func (rt *Runtime) runningLocked(id string) *activity {
	if a := rt.findLocked(id); a != nil && (a.phase != phaseEnded || a.guardedLocked()) {
		return a
	}
	return nil
}

// freeIDLocked takes a out of rt.ids, if a was the last with its ID.
func (rt *Runtime) freeIDLocked(a *activity) {
	if rt.ids[a.opts.ID] == a {
		delete(rt.ids, a.opts.ID)
	}
}

// Run runs fn as an activity and waits for its end. It returns nil if the activity
// completed, an [*Error] if it did not, and another error if it was never
// started: because of options that make no sense, [ErrShutdown],
// [ErrAlreadyRunning], [ErrCheckpointMismatch] or a Store that failed.
//
// If ctx ends, the activity is canceled. Run then returns when fn has returned, at
// the latest Options.CancelGrace later. With Config.Store and Options.ID, what the
// Store holds of the ID decides where the activity begins: see the package's doc on
// durability.
func (rt *Runtime) Run(ctx context.Context, opts Options, fn func(Context) error) error {
	_, err := rt.run(ctx, &opts, plain(fn))
	return err
}

// Start starts fn as an activity and does not wait for its end: see the function
// [Start].
func (rt *Runtime) Start(ctx context.Context, opts Options, fn func(Context) error) (*Handle[struct{}], error) {
	return startBody[struct{}](ctx, rt, &opts, plain(fn))
}

// Execute is [Runtime.Run] for a function with an input and a result. With an
// error the result is the zero Out.
func Execute[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (Out, error) {
	a, err := rt.run(ctx, &opts, &call[In, Out]{fn, in})
	if err != nil {
		var zero Out
		return zero, err
	}
	return (&Handle[Out]{a}).result()
}

// Start starts fn as an activity and does not wait for its end. Its errors are
// those of [Runtime.Run] for an activity that was never started. If ctx ends, the
// activity is canceled, not only its start.
//
// With Config.Store and Options.ID, in is encoded with Config.Codec and stored too.
// Start then returns when the Store holds the start of the first attempt, or, if that
// attempt has to wait for a slot or a backoff, when the Store holds the activity. If
// the Store fails only after that wait, the start of the attempt is tried again.
// Activities that are started from many goroutines at once share a Save.
//
// If the Store has a checkpoint of the ID with another Name or another input, the
// activity is refused with [ErrCheckpointMismatch].
func Start[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (*Handle[Out], error) {
	return startBody[Out](ctx, rt, &opts, &call[In, Out]{fn, in})
}

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
	begun bool
	open  int           // activities whose done is not closed
	idle  chan struct{} // closed when open is 0; nil if nobody waits for that
}

// doneLocked counts an activity whose done has been closed.
func (s *shutdown) doneLocked() {
	s.open--
	if s.open == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// idleLocked returns a channel that is closed when no activity is open.
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

// Shutdown refuses new activities and cancels the running ones with [ErrShutdown]
// as the cause. It waits until they have ended, their events are delivered, and the
// Store holds everything: give ctx a deadline, in case the Store keeps failing. If
// ctx ends first, Shutdown returns an error that says how many activities are left,
// names some of them, and wraps ctx's cause. Shutdown logs how many abandoned functions still run, and
// does not wait for them. It may be called again. An activity must not call it and
// wait.
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
	left, unsaved, abandoned := rt.shutdown.open, len(rt.writer.records), rt.counts.abandoned
	var ids []string
	switch {
	case left > 0:
		for a := range rt.allLocked() { // not those whose last event is still to be delivered
			ids = append(ids, a.id())
		}
	case unsaved > 0:
		ids = slices.Sorted(maps.Keys(rt.writer.records))
	}
	rt.leave()
	if abandoned > 0 {
		logged := make(chan struct{})
		go func() { // a Logger may hang
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
	case unsaved > 0:
		return fmt.Errorf("activity: shutdown: %s not saved: %w", count(unsaved, ids), context.Cause(ctx))
	}
	return nil
}

// count says how many activities there are, and names the first of them.
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
