// The helpers that the tests share.

package activity_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var (
	quiet     = slog.New(slog.DiscardHandler)
	once      = activity.RetryPolicy{MaximumAttempts: 1}
	errBoom   = errors.New("boom")          // of a function that fails
	errCancel = errors.New("the user left") // of who cancels
)

func story() activity.Options {
	return activity.Options{StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}
}

// atMost are Options for n attempts.
func atMost(n int) activity.Options {
	return activity.Options{ID: "a1", Name: "job", RetryPolicy: activity.RetryPolicy{MaximumAttempts: n}}
}

var repeat = flag.Int("repeat", 1, "how many times as often tests run what they repeat, and how much larger their crowds are")

// repeated is how often a test does what may differ from run to run: n times, and a quarter
// of that with -short or the race detector, times -repeat.
func repeated(n int) int {
	if testing.Short() || raceEnabled {
		n /= 4
	}
	return n * *repeat
}

// raceEnabled reports whether the race detector is on, which allocates and is slow.
var raceEnabled = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

func noop(activity.Context) error { return nil }

func untilEnded(ctx activity.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

//go:noinline
func panicHere(v any) { panic(v) }

// never is what Guard must not run.
func never() error { return errors.New("it must not run") }

// key is one for context.WithValue.
type key struct{}

// bubble runs body in a bubble, with a Runtime that logs nothing unless cfg has a
// Logger.
func bubble(t *testing.T, cfg activity.Config, body func(t *testing.T, rt *activity.Runtime)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if cfg.Logger == nil {
			cfg.Logger = quiet
		}
		body(t, activity.New(cfg))
	})
}

// start starts fn, whose result is "done".
func start(t *testing.T, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) *activity.Handle[string] {
	t.Helper()
	return startWith(t, t.Context(), rt, opts, fn)
}

func startWith(t *testing.T, ctx context.Context, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) *activity.Handle[string] {
	t.Helper()
	if opts.RetryPolicy.MaximumAttempts == 0 {
		opts.RetryPolicy.MaximumAttempts = 100 // a broken rule must not retry forever
	}
	h, err := activity.Start(ctx, rt, opts, func(ctx activity.Context, _ struct{}) (string, error) {
		return "done", fn(ctx)
	}, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func wait[Out any](t *testing.T, h *activity.Handle[Out]) error {
	t.Helper()
	_, err := h.Wait(t.Context())
	return err
}

func run(t *testing.T, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) error {
	t.Helper()
	return wait(t, start(t, rt, opts, fn))
}

// runCalls runs fn in a bubble, and returns how often it was called too.
func runCalls(t *testing.T, cfg activity.Config, opts activity.Options, fn func(activity.Context) error) (calls int, err error) {
	t.Helper()
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		var n atomic.Int32
		err = rt.Run(t.Context(), opts, func(ctx activity.Context) error {
			n.Add(1)
			return fn(ctx)
		})
		calls = int(n.Load())
	})
	return calls, err
}

// runDelays runs, in a bubble, an activity whose attempts call step with their
// number until it returns nil. It returns the delays that were told, and checks
// that they are the time that passed.
func runDelays(t *testing.T, cfg activity.Config, opts activity.Options, step func(ctx activity.Context, n int) error) (delays []time.Duration, err error) {
	t.Helper()
	var j journal
	cfg.Observer = j.observe
	bubble(t, cfg, func(t *testing.T, rt *activity.Runtime) {
		err = rt.Run(t.Context(), opts, func(ctx activity.Context) error { return step(ctx, ctx.Info().Attempt) })
		delays = j.delays()
		failed, started := j.of(activity.EventAttemptFailed), j.of(activity.EventAttemptStarted)
		for i := 1; i < len(started); i++ {
			if got := started[i].Time.Sub(failed[i-1].Time); got != failed[i-1].Delay {
				t.Errorf("attempt %d started %s after the failure of the one before, and its Delay was %s", i+1, got, failed[i-1].Delay)
			}
		}
	})
	return delays, err
}

func times(unit time.Duration, n ...float64) []time.Duration {
	var all []time.Duration
	for _, f := range n {
		all = append(all, time.Duration(f*float64(unit)))
	}
	return all
}

// checkErr wants an error that wraps want, or none if that is nil.
func checkErr(t *testing.T, err, want error) {
	t.Helper()
	if want == nil && err != nil || !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// checkEnd checks how an activity ended.
func checkEnd(t *testing.T, err error, attempt int, state activity.RetryState, is ...error) {
	t.Helper()
	var e *activity.Error
	if !errors.As(err, &e) {
		t.Errorf("got %v (%T), want an *Error", err, err)
		return
	}
	if e.Attempt != attempt || e.RetryState != state {
		t.Errorf("ended in attempt %d, %s; want attempt %d, %s: %v", e.Attempt, e.RetryState, attempt, state, err)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			t.Errorf("%v does not wrap %v", err, target)
		}
	}
}

func checkDiff(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func checkState(t *testing.T, h *activity.Handle[string], want activity.State) {
	t.Helper()
	if got := h.Status().State; got != want {
		t.Errorf("the state is %s, want %s", got, want)
	}
}

// checkSaving wants an activity whose end is decided, and not told to its callers
// because it is being saved.
func checkSaving(t *testing.T, h *activity.Handle[string], want activity.State) {
	t.Helper()
	checkState(t, h, want)
	select {
	case <-h.Done():
		t.Error("its callers have been answered")
	default:
	}
}

// checkDetails wants details whose first value is want, in what a Context, a
// Status or an error has.
func checkDetails[T any](t *testing.T, in interface {
	HeartbeatDetails(into ...any) (bool, error)
}, want T) {
	t.Helper()
	var got T
	found, err := in.HeartbeatDetails(&got)
	if diff := cmp.Diff(want, got); diff != "" || !found || err != nil {
		t.Errorf("HeartbeatDetails of %T gave %v, %v (-want +got):\n%s", in, found, err, diff)
	}
}

// timeoutType is that of the *TimeoutError which err wraps, or 0.
func timeoutType(err error) activity.TimeoutType {
	if timeout := (*activity.TimeoutError)(nil); errors.As(err, &timeout) {
		return timeout.Type
	}
	return 0
}

func asTimeout(t *testing.T, err error) *activity.TimeoutError {
	t.Helper()
	timeout := (*activity.TimeoutError)(nil)
	if !errors.As(err, &timeout) {
		t.Fatalf("%v is no *TimeoutError", err)
	}
	return timeout
}

// isTimeout reports whether err itself is a *TimeoutError of the type.
func isTimeout(err error, typ activity.TimeoutType) bool {
	timeout, ok := err.(*activity.TimeoutError)
	return ok && timeout.Type == typ
}

// A journal keeps the Events that an Observer gets.
type journal struct {
	base   time.Time // for lines and started
	mu     sync.Mutex
	events []activity.Event
}

func (j *journal) observe(e activity.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

func (j *journal) all() []activity.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

func (j *journal) of(kind activity.EventKind) []activity.Event {
	return slices.DeleteFunc(j.all(), func(e activity.Event) bool { return e.Kind != kind })
}

func (j *journal) kinds(id string) []activity.EventKind {
	var kinds []activity.EventKind
	for _, e := range j.all() {
		if e.ID == id {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

func (j *journal) delays() []time.Duration {
	var all []time.Duration
	for _, e := range j.of(activity.EventAttemptFailed) {
		all = append(all, e.Delay)
	}
	return all
}

// lines are the events of an activity, or of all if id is "", each as its time,
// kind and attempt. Those of the kinds in but are left out.
func (j *journal) lines(id string, but ...activity.EventKind) []string {
	what := func(err error) string {
		if typ := timeoutType(err); typ != 0 {
			return typ.String()
		}
		if e, ok := err.(*activity.Error); ok {
			err = e.Err
		}
		return err.Error()
	}
	var lines []string
	for _, e := range j.all() {
		if id != "" && e.ID != id || slices.Contains(but, e.Kind) {
			continue
		}
		s := fmt.Sprintf("%s %s %d", e.Time.Sub(j.base), e.Kind, e.Attempt)
		switch e.Kind {
		case activity.EventAttemptFailed:
			s += fmt.Sprintf(": %s, next in %s", what(e.Err), e.Delay)
		case activity.EventFailed:
			s += fmt.Sprintf(": %s, %s", what(e.Err), e.Err.(*activity.Error).RetryState)
		}
		lines = append(lines, s)
	}
	return lines
}

// started is when the n-th attempt of an activity started, or -1.
func (j *journal) started(id string, n int) time.Duration {
	for _, e := range j.of(activity.EventAttemptStarted) {
		if e.ID == id && e.Attempt == n {
			return e.Time.Sub(j.base)
		}
	}
	return -1
}

// checkTimes checks that events do not run backwards.
func checkTimes(t *testing.T, events []activity.Event) {
	t.Helper()
	for i, e := range events {
		if i > 0 && e.Time.Before(events[i-1].Time) {
			t.Errorf("a %s is told with a time %s before that of the event before", e.Kind, events[i-1].Time.Sub(e.Time))
		}
	}
}

// A logbook is a slog.Handler that keeps what is logged.
type logbook struct {
	mu    sync.Mutex
	lines []logLine
}

type logLine struct {
	level slog.Level
	text  string // the message and all attributes
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logbook) WithGroup(string) slog.Handler            { return l }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	line := logLine{level: r.Level, text: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		line.text += "\n" + a.String()
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return nil
}

// has counts the lines of a level that contain all of what.
func (l *logbook) has(level slog.Level, what ...string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		missing := slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(line.text, w) })
		if line.level == level && !missing {
			n++
		}
	}
	return n
}

// An env is a Runtime in a bubble, the Events its Observer got, and gates at which
// functions hang.
type env struct {
	journal
	t     *testing.T
	clock clock.Clock // what the functions may wait on
	mock  *clock.Mock // nil: the zero Config, on the bubble's time
	rt    *activity.Runtime
	ctx   context.Context
	gates map[string]chan struct{} // guarded by mu
}

// both runs a test on the zero Config in a bubble, and on a mock in one.
func both(t *testing.T, cfg activity.Config, test func(t *testing.T, e *env)) {
	t.Run("zero", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newEnv(t, cfg, nil)) })
	})
	t.Run("mock", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, newEnv(t, cfg, clock.NewMock())) })
	})
}

func newEnv(t *testing.T, cfg activity.Config, mock *clock.Mock) *env {
	e := &env{t: t, clock: clock.New(), mock: mock, gates: map[string]chan struct{}{}}
	if mock != nil {
		e.clock = mock
		if cfg.Clock == nil {
			cfg.Clock = mock
		}
	}
	e.base = e.clock.Now()
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	cfg.Observer = e.observe
	e.rt = activity.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	e.ctx = ctx
	t.Cleanup(func() { // what hangs must end with the bubble
		cancel()
		synctest.Wait()
		e.openAll()
		synctest.Wait()
	})
	return e
}

// pass lets time go by, and all that happens in it.
func (e *env) pass(d time.Duration) {
	if e.mock != nil {
		e.mock.Add(d)
	} else {
		time.Sleep(d)
	}
	synctest.Wait()
}

func (e *env) start(opts activity.Options, fn func(activity.Context) error) *activity.Handle[string] {
	e.t.Helper()
	h := startWith(e.t, e.ctx, e.rt, opts, fn)
	synctest.Wait()
	return h
}

// end is the error of an activity that has ended.
func (e *env) end(h *activity.Handle[string]) error {
	e.t.Helper()
	select {
	case <-h.Done():
	default:
		e.t.Fatalf("the activity has not ended; its events: %s", strings.Join(e.lines(h.ID()), "\n"))
	}
	return wait(e.t, h)
}

// gate is a place where functions hang until open is called.
func (e *env) gate(name string) chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gates[name] == nil {
		e.gates[name] = make(chan struct{})
	}
	return e.gates[name]
}

func (e *env) open(name string) {
	close(e.gate(name))
	synctest.Wait()
}

func (e *env) openAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, gate := range e.gates {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
}

// hang ignores its context, at a gate that is named after the attempt.
func (e *env) hang(ctx activity.Context) error {
	<-e.gate(fmt.Sprintf("%s%d", ctx.Info().ID, ctx.Info().Attempt))
	return nil
}

func (e *env) want(id string, want ...string) {
	e.t.Helper()
	checkDiff(e.t, fmt.Sprintf("events of %q", id), e.lines(id), want)
}

func (e *env) wantStarted(id string, n int, at time.Duration) {
	e.t.Helper()
	if got := e.started(id, n); got != at {
		e.t.Errorf("attempt %d of %q started at %s, want %s", n, id, got, at)
	}
}

// A pauseClock is a Mock whose time can jump ahead while its timers stand still,
// as it does for a process that was stopped: they then come late.
type pauseClock struct {
	*clock.Mock
	mu    sync.Mutex
	ahead time.Duration
}

func (c *pauseClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Mock.Now().Add(c.ahead)
}

func (c *pauseClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *pauseClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

func (c *pauseClock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// beforeTheTimer calls fn in an attempt whose heartbeat timeout is 10 s, at age d,
// where no timer has run.
func beforeTheTimer(t *testing.T, d time.Duration, fn func(activity.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &pauseClock{Mock: clock.NewMock()}
		rt := activity.New(activity.Config{Clock: c, Logger: quiet})
		_ = run(t, rt, activity.Options{HeartbeatTimeout: 10 * time.Second, RetryPolicy: once}, func(ctx activity.Context) error {
			synctest.Wait() // for Start to have set its timer
			c.jump(d)
			fn(ctx)
			return nil
		})
		synctest.Wait()
	})
}

// goroutines counts those of the test's bubble. It yields until those that are
// about to end have ended: that a bubble waits is no proof that they have.
func goroutines(t *testing.T, want int) int {
	t.Helper()
	n := bubbled(t)
	for i := 0; i < 1000 && n > want; i++ {
		runtime.Gosched()
		n = bubbled(t)
	}
	return n
}

func bubbled(t *testing.T) int {
	t.Helper()
	synctest.Wait() // or a goroutine that is about to end counts
	buf := make([]byte, 1<<20)
	own := regexp.MustCompile(`synctest bubble \d+`).FindString(string(buf[:runtime.Stack(buf, false)]))
	if own == "" {
		t.Fatal("not in a bubble")
	}
	n := runtime.Stack(buf, true)
	for n == len(buf) { // other tests may run as well
		buf = make([]byte, 2*n)
		n = runtime.Stack(buf, true)
	}
	all := string(buf[:n])
	return strings.Count(all, own+"]") + strings.Count(all, own+",")
}
