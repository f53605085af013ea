package activity

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"
)

// Config configures a Runtime. The zero Config is ready to use.
type Config struct {
	// Clock is what all timeouts, waits and Sleeps live on. nil: the real
	// clock, which clock.New() is too. Tests use a synctest bubble and no
	// Clock, or clock.NewMock().
	Clock clock.Clock

	// Store keeps the checkpoints of activities with an Options.ID across
	// processes; package boltstore has one on a file. One Runtime at a time may
	// use it, and it must stay open until Shutdown has returned nil. nil:
	// checkpoints live in memory, for the retries of one execution.
	Store Store

	// Codec encodes heartbeat details and, for the Store, inputs. nil: encoding/json, strict: it refuses
	// fields that the target lacks, a null as the whole of a value that cannot
	// be nil, and anything after the value.
	Codec Codec

	// Logger gets a Warn for each attempt that failed or timed out, and an
	// Error for what needs a person. nil: slog.Default().
	Logger *slog.Logger

	// Observer is told of every step of every activity: those of one activity
	// in order and one at a time, the last one before Run returns; those of
	// several activities concurrently. It runs in goroutines of the Runtime's.
	// It must be quick, since events that it has not taken pile up, and must
	// not wait for an activity. A panic in it is logged.
	Observer func(Event)

	// Interceptor is called around every attempt, in its goroutine. It calls
	// next with ctx or with a wrapper of it, whose methods the function's
	// Context then has, and which FromContext finds. What it returns is how the
	// attempt ended.
	Interceptor func(ctx Context, next func(Context) error) error

	// MaxConcurrent is how many attempts may run at once. Others wait for a
	// slot, which goes to who has waited longest. Abandoned functions and
	// waits between attempts hold none. An activity that waits for another of
	// the same Runtime keeps its slot meanwhile: with too few slots both wait
	// for ever, so give inner activities a Runtime of their own. 0: no limit.
	MaxConcurrent int

	// MaxDetailsSize is the largest size of heartbeat details, in bytes,
	// encoded. 0: 2 MiB.
	MaxDetailsSize int

	// SyncInterval is how long recorded details may wait until they are given to
	// the Store: what a crash can lose. 0: 100 ms.
	SyncInterval time.Duration

	// Rand returns the random numbers, in [0,1), for RetryPolicy.Jitter. It is
	// called by one goroutine at a time, under a lock: it must be quick, and
	// must not call the Runtime, nor runtime.Goexit. nil: math/rand/v2.
	Rand func() float64
}

// A Runtime runs activities. It owns no goroutine while none runs and nothing is
// to be saved; without a Store it needs no Shutdown then. In a synctest bubble,
// make one in the bubble.
type Runtime struct {
	cfg       Config       // with defaults
	real      bool         // cfg.Clock is the real clock
	plainInts bool         // an int needs no Codec and fits
	rare      *rareOptions // with none set
	base      time.Time
	moved     atomic.Int64    // see wallMoved
	lookedAt  atomic.Int64    // when wallMoved last looked; an instant
	ctx       context.Context // for what wants one and has none

	// mu comes before every activity.mu.
	mu          sync.Mutex
	queue       queue
	timer       *clock.Timer // the only one on the clock
	armed       instant      // when timer fires; never: it is not set
	head        *activity    // of the list of those that have not ended, oldest first
	tail        *activity
	byID        map[string]*activity // those whose ID was given
	number      uint64               // of the last activity
	sleeps      uint64
	slots       int                     // free, of MaxConcurrent
	handedIn    atomic.Pointer[attempt] // of the list of abandoned functions that have returned, the last first
	waiting     list.List               // of *activity, who has waited longest first
	unanswered  int                     // activities whose callers have not had their answer, nor are about to
	answering   atomic.Int32            // those whose callers are about to; upwards under mu
	answers     *activity               // of the list, linked by next, of those that leave answers
	shutdown    atomic.Bool             // set under mu
	allAnswered chan struct{}           // closed when answering is 0; made by Shutdown
	idle        chan struct{}           // closed when unanswered is 0; made by Shutdown
	own         *activity               // whose callers may be answered by who unlocks next: it runs in a goroutine of ours for it; or nil
	runFirst    *attempt                // of the list of those that leave runs
	runLast     *attempt
	states      [StateCanceled + 1]uint64
	abandoned   int
	attempts    uint64
	beats       uint64 // of activities that have ended
	timeouts    uint64
	dumpAfter   instant // no dump of goroutines before

	// What the Store is to hold; see record.
	records  map[string]*record
	dirty    []*record
	urgent   int             // of dirty
	saves    lane            // of what is not gone
	deletes  lane            // of what is gone
	flushing bool            // the flusher runs
	drained  chan struct{}   // closed when nothing is dirty; made by Shutdown
	heard    []chan struct{} // that leave closes
	turn     chan struct{}   // held by who writes to the Store

	// Of the settle that is under way.
	settling bool
	due      []dueAlarm
	burst    *burst // nil until something of it is to be logged
	stacks   *dump  // nil until a stack is wanted
}

const (
	defaultMaxDetailsSize = 2 << 20
	defaultSyncInterval   = 100 * time.Millisecond
)

// New returns a Runtime. It panics if a field of cfg is negative, and names it.
func New(cfg Config) *Runtime {
	switch {
	case cfg.MaxConcurrent < 0:
		panic(fmt.Sprintf("activity: Config.MaxConcurrent is %d, which is negative", cfg.MaxConcurrent))
	case cfg.MaxDetailsSize < 0:
		panic(fmt.Sprintf("activity: Config.MaxDetailsSize is %d, which is negative", cfg.MaxDetailsSize))
	case cfg.SyncInterval < 0:
		panic(fmt.Sprintf("activity: Config.SyncInterval is %s, which is negative", cfg.SyncInterval))
	}
	rt := &Runtime{ctx: context.Background(), armed: never, slots: cfg.MaxConcurrent}
	rt.real = cfg.Clock == nil || reflect.TypeOf(cfg.Clock) == reflect.TypeOf(clock.New())
	if cfg.Clock == nil {
		cfg.Clock = clock.New()
	}
	if cfg.MaxDetailsSize == 0 {
		cfg.MaxDetailsSize = defaultMaxDetailsSize
	}
	if cfg.SyncInterval == 0 {
		cfg.SyncInterval = defaultSyncInterval
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Codec == nil {
		cfg.Codec = jsonCodec{}
		rt.plainInts = cfg.MaxDetailsSize >= len("-9223372036854775808")
	}
	rt.cfg = cfg
	rt.rare = newRareOptions(&Options{})
	rt.base = cfg.Clock.Now()
	if cfg.Store != nil {
		rt.records, rt.turn = map[string]*record{}, make(chan struct{}, 1)
	}
	return rt
}

// A body is an activity's function, with its input.
type body interface {
	run(ctx Context) (any, error)
	function() any      // for its name
	input() (any, bool) // false: it takes none
}

type plain func(Context) error

func (f plain) run(ctx Context) (any, error) { return nil, f(ctx) }
func (f plain) function() any                { return f }
func (f plain) input() (any, bool)           { return nil, false }

type call[In, Out any] struct {
	fn func(Context, In) (Out, error)
	in In
}

func (c *call[In, Out]) run(ctx Context) (any, error) { return c.fn(ctx, c.in) }
func (c *call[In, Out]) function() any                { return c.fn }
func (c *call[In, Out]) input() (any, bool)           { return c.in, true }

// start makes an activity of body and starts it. What is stored is started when
// accepted says so. Only what the Store holds as unfinished is recovered.
func (rt *Runtime) start(ctx context.Context, opts *Options, body body, recovering bool) (*activity, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	if reflect.ValueOf(body.function()).IsNil() {
		return nil, fmt.Errorf("activity: the function is nil (Options.ID %q, Options.Name %q)", opts.ID, opts.Name)
	}
	a := &activity{
		rt: rt, opts: rt.settings(opts), body: body,
		base: ctx,
	}
	a.first.a = a
	a.ended.Add(1)
	if d := opts.HeartbeatDetails; len(d) > 1 || len(d) == 1 && d[0] != nil {
		e, err := rt.encode(opts.HeartbeatDetails)
		if err != nil {
			return nil, fmt.Errorf("activity: Options.HeartbeatDetails: %w", err)
		}
		a.setDetails(e)
	}
	if rt.cfg.Store != nil && opts.ID != "" {
		a.rec = &record{id: opts.ID, a: a, heard: make(chan struct{})}
		if in, ok := body.input(); ok {
			data, err := marshal(rt.cfg.Codec, in)
			if err != nil {
				return nil, refusal(opts.ID, fmt.Errorf("cannot encode its input, a %T: %w", in, err))
			}
			a.rec.input = data
		}
	}
	if ctx.Err() != nil {
		return nil, a.notStarted(context.Cause(ctx))
	}
	if ctx.Done() != nil {
		base, cancel := context.WithCancelCause(ctx)
		a.base, a.caller = base, &caller{ctx: ctx, cancel: cancel}
		// Of ctx and not of base, for which the standard library would make a map. It
		// may be called at once, and before base has ended too.
		a.caller.stop = context.AfterFunc(ctx, func() {
			<-base.Done()
			now := rt.lock()
			rt.own = a
			a.cancel(now, context.Cause(base))
			rt.unlock()
		})
	}
	if err := rt.schedule(a); err != nil {
		if a.caller != nil {
			a.caller.release()
		}
		return nil, err
	}
	if a.rec != nil {
		if err := a.recall(recovering); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// accepted waits until the activity is started: until its first start is durable,
// it waits, or has ended.
func (a *activity) accepted() error {
	if a.rec == nil {
		return nil
	}
	<-a.rec.heard
	if a.rec.refused != nil {
		a.ended.Wait() // until the caller's context is let go
	}
	return a.rec.refused
}

// notStarted is the error of an activity whose context ended before its start.
func (a *activity) notStarted(cause error) error {
	return &Error{ID: a.opts.ID, Name: a.name(), RetryState: RetryStateCancelRequested, Err: cause}
}

// schedule takes the activity in, and starts its first attempt or lets it wait.
// What is stored it only takes in.
func (rt *Runtime) schedule(a *activity) error {
	now := rt.lock()
	defer rt.unlock()
	a.checkCaller(now)
	id := a.opts.ID
	switch {
	case a.cancelCause != nil:
		return a.notStarted(a.cancelCause)
	case rt.shutdown.Load():
		return refusal(a.opts.ID, ErrShutdown)
	case id != "" && rt.inUse(id):
		return refusal(id, ErrAlreadyRunning)
	}
	rt.takeID(a)
	a.scheduled, a.moved = now, rt.wallMoved(now)
	rt.link(a)
	rt.unanswered++
	a.until = never
	a.setState(StateWaiting)
	if r := a.rec; r != nil {
		if r.replaces = rt.records[id]; r.replaces != nil {
			r.sequence = r.replaces.sequence
		}
		rt.records[id] = r
		r.asked, r.loading = now, true
		return nil
	}
	a.tell(now, EventScheduled, 0, nil, 0, nil)
	a.proceed(now)
	return nil
}

func refusal(id string, err error) error {
	if id == "" {
		return fmt.Errorf("activity: not started: %w", err)
	}
	return fmt.Errorf("activity %q: not started: %w", id, err)
}

// nextSeq orders Sleeps.
func (rt *Runtime) nextSeq() uint64 {
	rt.sleeps++
	return rt.sleeps
}

// find returns the activity that has id, or whose end still occupies it; nil:
// there is none. Made-up IDs are not in byID, since few ask for them.
func (rt *Runtime) find(id string) *activity {
	if a := rt.byID[id]; a != nil || !strings.HasPrefix(id, madeUpPrefix) {
		return a
	}
	for a := rt.head; a != nil; a = a.next {
		if a.opts.ID == "" && a.id() == id {
			return a
		}
	}
	return nil
}

func (rt *Runtime) inUse(id string) bool { return rt.find(id) != nil }

func (rt *Runtime) takeID(a *activity) {
	rt.number++
	a.number = rt.number
	if a.opts.ID != "" {
		rt.keepID(a)
	}
}

func (rt *Runtime) freeID(a *activity) {
	if rt.byID[a.opts.ID] == a {
		delete(rt.byID, a.opts.ID)
	}
}

// keepID keeps the activity's ID from others.
func (rt *Runtime) keepID(a *activity) {
	if rt.byID == nil {
		rt.byID = map[string]*activity{}
	}
	rt.byID[a.opts.ID] = a
}

// link and unlink keep the list of activities that have not ended.

func (rt *Runtime) link(a *activity) {
	if a.prev = rt.tail; a.prev != nil {
		a.prev.next = a
	} else {
		rt.head = a
	}
	rt.tail = a
}

func (rt *Runtime) unlink(a *activity) {
	if a.prev != nil {
		a.prev.next = a.next
	} else {
		rt.head = a.next
	}
	if a.next != nil {
		a.next.prev = a.prev
	} else {
		rt.tail = a.prev
	}
	a.prev, a.next = nil, nil
}

// answered counts an activity whose callers have their answer. It counts first and looks
// for a Shutdown then, which does the two the other way round.
func (rt *Runtime) answered() {
	if rt.answering.Add(-1) > 0 || !rt.shutdown.Load() {
		return
	}
	rt.lock()
	defer rt.unlock()
	if rt.allAnswered != nil && rt.answering.Load() == 0 {
		close(rt.allAnswered)
		rt.allAnswered = nil
	}
}

// random is for the jitter of p. mu is held.
func (rt *Runtime) random(p *RetryPolicy) (r float64) {
	if p.Jitter == 0 {
		return 0
	}
	defer func() {
		if recover() != nil || !(r >= 0) {
			r = 0
		}
		r = min(r, math.Nextafter(1, 0))
	}()
	return rt.cfg.Rand()
}

// Run runs fn as an activity and waits for its end. It returns nil if fn
// completed, an [*Error] if it did not, and another error if it was never
// started: options that make no sense, [ErrShutdown], [ErrAlreadyRunning], a
// Store that failed.
//
// ctx's end cancels the activity. Run then returns when fn has, or
// Options.CancelGrace later. With Config.Store and Options.ID, what the Store
// holds of the ID decides where it begins: see the package's doc on durability.
func (rt *Runtime) Run(ctx context.Context, opts Options, fn func(Context) error) error {
	a, err := rt.start(ctx, &opts, plain(fn), false)
	if err == nil {
		err = a.accepted()
	}
	if err != nil {
		return err
	}
	a.ended.Wait()
	return a.err
}

// Execute is [Runtime.Run] for a function with an input and a result. With an
// error the result is the zero Out.
func Execute[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (Out, error) {
	h, err := Start(ctx, rt, opts, fn, in)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// Start starts fn as an activity and does not wait for its end. Its errors are
// those of [Runtime.Run] for an activity that was never started. ctx's end cancels
// the activity, not only its start.
//
// With Config.Store and Options.ID it returns when the start of the first attempt
// is durable, or that attempt has to wait: for a slot, or, after a crash without
// progress, for the policy's interval. If the Store fails only after that wait,
// Wait returns its error. in is encoded with Config.Codec and stored too. Many at
// once share a Save if they are started from many goroutines.
func Start[In, Out any](ctx context.Context, rt *Runtime, opts Options, fn func(Context, In) (Out, error), in In) (*Handle[Out], error) {
	a, err := rt.start(ctx, &opts, &call[In, Out]{fn, in}, false)
	if err == nil {
		err = a.accepted()
	}
	if err != nil {
		return nil, err
	}
	return &Handle[Out]{a}, nil
}

// A Handle is a started activity.
type Handle[Out any] struct{ a *activity }

// ID returns Options.ID, or the ID that was made up.
func (h *Handle[Out]) ID() string { return h.a.id() }

// Done is closed when the activity has ended: Wait then returns at once.
func (h *Handle[Out]) Done() <-chan struct{} { return h.a.doneChan() }

// Wait waits for the activity's end and returns what [Execute] does. If ctx ends
// first it returns ctx's cause, and cancels nothing.
func (h *Handle[Out]) Wait(ctx context.Context) (Out, error) {
	if ctx.Done() == nil {
		return h.answer()
	}
	select {
	case <-h.Done():
		return h.answer() // also if ctx has ended as well
	default:
	}
	select {
	case <-h.Done():
		return h.answer()
	case <-ctx.Done():
		var zero Out
		return zero, context.Cause(ctx)
	}
}

// answer waits for the activity's end.
func (h *Handle[Out]) answer() (Out, error) {
	h.a.ended.Wait()
	if h.a.err != nil {
		var zero Out
		return zero, h.a.err
	}
	out, _ := h.a.out.(Out) // a nil of an interface type has no type
	return out, nil
}

// Cancel cancels the activity: its Context ends with cause (nil:
// context.Canceled), it gets no further attempt, and Wait returns an [*Error]
// that wraps cause. The first cause wins. It does not wait.
func (h *Handle[Out]) Cancel(cause error) {
	if cause == nil {
		cause = context.Canceled
	}
	a := h.a
	now := a.rt.lock()
	if !a.checkCaller(now) && a.cancelCause == nil {
		if a.rec != nil {
			a.rec.onPurpose = true
		}
		a.cancel(now, cause)
	}
	a.rt.unlock()
}

// Status describes the activity as it is now.
func (h *Handle[Out]) Status() Status {
	h.a.rt.lock()
	defer h.a.rt.unlock()
	return h.a.status()
}

// Status describes an activity at one moment.
type Status struct {
	ID, Name      string
	State         State
	Attempt       int // the last attempt that was started; 0: none was
	ScheduledAt   time.Time
	StartedAt     time.Time // of that attempt
	LastHeartbeat time.Time // zero before the first
	NextAttempt   time.Time // in StateBackingOff
	Done, Total   int       // of its Range
	LastFailure   error     // how the last attempt that has ended did
	Abandoned     int       // functions of its earlier attempts that still run

	// Details and Codec are as in [TimeoutError]. [Status.HeartbeatDetails] reads
	// them.
	Details []byte
	Codec   Codec
}

// HeartbeatDetails decodes the details recorded last, as
// [Context.HeartbeatDetails] does.
func (s Status) HeartbeatDetails(into ...any) (bool, error) {
	return decodeDetails(s.Codec, s.Details, into)
}

// status needs Runtime.mu.
func (a *activity) status() Status {
	rt := a.rt
	s := Status{
		ID: a.id(), Name: a.name(), State: a.state, Attempt: a.attempt(),
		ScheduledAt: a.scheduledAt(), LastFailure: a.failure, Abandoned: int(a.abandoned), Codec: rt.cfg.Codec,
	}
	if a.latest != nil {
		s.StartedAt = a.latest.startedAt()
	}
	if a.state == StateBackingOff {
		s.NextAttempt = rt.wall(a.until)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.beats > 0 {
		s.LastHeartbeat = rt.wall(a.lastBeat)
	}
	if a.loop != nil {
		s.Done, s.Total = a.loop.next-a.loop.from, max(a.loop.to-a.loop.from, 0)
	}
	s.Details = a.latestDetails()
	return s
}

// Activities describes the activities that have not ended, oldest first.
func (rt *Runtime) Activities() []Status {
	rt.lock()
	defer rt.unlock()
	var all []Status
	for a := rt.head; a != nil; a = a.next {
		all = append(all, a.status())
	}
	return all
}

// Stats counts activities: first how many there are now, then how many there
// have been since New.
type Stats struct {
	Running, Waiting, BackingOff, Blocked int // activities in that State
	Abandoned                             int // functions that still run although their attempt is over

	Scheduled, Completed, Failed, Canceled uint64 // activities
	Attempts                               uint64 // started
	Heartbeats                             uint64 // of attempts that were not over
	Timeouts                               uint64 // of all types
}

// Stats returns the counts as they are now.
func (rt *Runtime) Stats() Stats {
	rt.lock()
	defer rt.unlock()
	n := &rt.states
	s := Stats{
		Running: int(n[StateRunning]), Waiting: int(n[StateWaiting]), BackingOff: int(n[StateBackingOff]), Blocked: int(n[StateBlocked]),
		Abandoned: rt.abandoned,
		Completed: n[StateCompleted], Failed: n[StateFailed], Canceled: n[StateCanceled],
		Attempts: rt.attempts, Heartbeats: rt.beats, Timeouts: rt.timeouts,
	}
	s.Scheduled = uint64(s.Running+s.Waiting+s.BackingOff+s.Blocked) + s.Completed + s.Failed + s.Canceled
	for a := rt.head; a != nil; a = a.next {
		a.mu.Lock()
		s.Heartbeats += a.beats
		a.mu.Unlock()
	}
	return s
}

// Shutdown refuses new activities, cancels the running ones with [ErrShutdown]
// as the cause, and waits until they have ended, the Observer has been told, and
// the Store holds everything: give ctx a deadline, for a Store that keeps failing.
// If ctx ends first it returns an error that says how many are left and wraps
// ctx's cause. Functions that were abandoned are logged, and not waited for. It
// may be called again. An activity must not call it and wait.
func (rt *Runtime) Shutdown(ctx context.Context) error {
	now := rt.lock()
	rt.shutdown.Store(true)
	for a := rt.head; a != nil; {
		next := a.next // cancel may take a off the list
		a.cancel(now, ErrShutdown)
		a = next
	}
	idle := rt.idle
	if rt.unanswered > 0 && idle == nil {
		idle = make(chan struct{})
		rt.idle = idle
	}
	rt.unlock()

	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
		}
	}
	rt.drain(ctx)
	rt.lock()
	left, unsaved, abandoned := rt.unanswered, len(rt.records), rt.abandoned
	if rt.allAnswered == nil && rt.answering.Load() > 0 {
		rt.allAnswered = make(chan struct{})
	}
	allAnswered := rt.allAnswered
	rt.unlock()
	if allAnswered != nil {
		select {
		case <-allAnswered:
		case <-ctx.Done():
		}
	}
	if abandoned > 0 {
		rt.logger().Warn("activity: shut down; functions that were abandoned still run", "abandoned", abandoned)
	}
	have := func(n int) string {
		if n == 1 {
			return "1 activity has"
		}
		return fmt.Sprintf("%d activities have", n)
	}
	switch {
	case left > 0:
		return fmt.Errorf("activity: shutdown: %s not ended: %w", have(left), context.Cause(ctx))
	case unsaved > 0:
		return fmt.Errorf("activity: shutdown: the Store does not hold how %s ended: %w", have(unsaved), context.Cause(ctx))
	}
	return nil
}
