package modeltest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var (
	modelSeed = flag.Uint64("model.seed", 1, "the model test's first seed")
	modelN    = flag.Int("model.n", 0, "how many scripts the model test runs; 0: a default")
	repeat    = flag.Int("repeat", 1, "how many times as often the other tests run what they repeat")
)

var quiet = slog.New(slog.DiscardHandler)

// modelHorizon is an instant at which everything must have ended.
const modelHorizon = 400

// A modelStep is one call that a function makes.
type modelStep struct {
	op   string // sleep, beat, note (beat with details v), bad (details that cannot be encoded), stall, deaf, guard
	d, v int
}

// A modelTry is what the function does in one attempt.
type modelTry struct {
	steps []modelStep
	heed  bool   // returns the first error that a call gives
	end   string // ok, fail, fatal (NonRetryable), after (RetryAfter d), panic, goexit
	d     int
}

type modelSpec struct {
	id                                         int // activities may share one
	hb, s2c, sts, stc                          int // 0: none
	initial, coefficient, maxInterval, maxTrys int
	reset                                      bool
	resetAfter                                 int    // 0: none
	picky                                      string // Retryable says no to: timeout, panic
	maxAbandoned                               int    // as in Options
	grace                                      int    // 0: 10
	resume                                     int    // 0: none
	tries                                      []modelTry
}

func (s *modelSpec) graceOr10() int {
	if s.grace == 0 {
		return 10
	}
	return s.grace
}

func (s *modelSpec) try(n int) *modelTry { return &s.tries[min(n, len(s.tries))-1] }

type modelAction struct {
	at   int
	kind string // start, cancel (the handle), ctx (the caller's context), retry (RetryNow), pause, unpause, drain, shutdown
	act  int
}

type modelScript struct {
	seed    uint64
	slots   int
	acts    []modelSpec
	actions []modelAction
}

// rank orders what is ready at one instant. Model and driver take the lowest.
func (s *modelScript) rank(at, a, b int) uint64 {
	x := s.seed*0x9E3779B97F4A7C15 ^ uint64(at)<<40 ^ uint64(a+1)<<20 ^ uint64(b+1)
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// early says whether one thing happens at this instant before the timers run.
func (s *modelScript) early(at int) bool { return s.rank(at, 500, 500)%3 == 0 }

func (s *modelScript) actionRank(i int) uint64 { return s.rank(s.actions[i].at, 600, i) }

// newModelScript makes the script of a seed. Durations are few, so that
// instants collide.
func newModelScript(seed uint64) *modelScript {
	r := rand.New(rand.NewPCG(seed, 7))
	pick := func(of ...int) int { return of[r.IntN(len(of))] }
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	s := &modelScript{seed: seed, slots: pick(0, 0, 1, 2)}
	n := 1 + r.IntN(5)
	last := 0
	for i := range n {
		a := modelSpec{
			id: pick(i, i, i, 0),
			hb: pick(0, 1, 2, 3, 5), s2c: pick(0, 0, 2, 3, 5), sts: pick(0, 1, 2, 3, 5), stc: pick(0, 3, 5, 8, 12),
			initial: pick(1, 1, 2), coefficient: pick(1, 2), maxInterval: pick(0, 2, 3), maxTrys: pick(0, 1, 2, 3, 5),
			reset: pick(0, 1) == 1, picky: one("", "", "", "", "timeout", "panic"),
			maxAbandoned: pick(0, activity.NoOverlap, 1, 1, 2), grace: pick(0, 1, 2, 3), resume: pick(0, 0, 3),
		}
		for range 1 + r.IntN(3) {
			try := modelTry{heed: pick(0, 1, 1) == 1, end: one("ok", "ok", "fail", "fail", "fail", "panic", "panic", "after", "fatal", "goexit"), d: pick(0, 1, 3)}
			for range r.IntN(6) {
				op := one("sleep", "sleep", "sleep", "beat", "note", "note", "deaf", "stall", "guard", "bad")
				if (op == "stall" || op == "bad") && pick(0, 1) == 0 {
					op = "sleep"
				}
				try.steps = append(try.steps, modelStep{op, pick(1, 2, 3, 5), pick(3, 4, 5)})
			}
			a.tries = append(a.tries, try)
		}
		s.acts = append(s.acts, a)
		start := pick(0, 0, 1, 2)
		s.actions = append(s.actions, modelAction{start, "start", i})
		for range pick(0, 0, 1, 2) {
			s.actions = append(s.actions, modelAction{start + r.IntN(9), one("cancel", "ctx"), i})
		}
		last = max(last, start)
		s.actions = append(s.actions, modelAction{30 + r.IntN(3), "cancel", i})
	}
	if pick(0, 1, 2) == 0 {
		s.actions = append(s.actions, modelAction{last + r.IntN(9), "shutdown", 0})
	}
	// What follows was added later: a seed makes the rest of its script as it did before.
	for i := range s.acts {
		s.acts[i].resetAfter = pick(0, 0, 1, 2, 3)
		for range pick(0, 0, 1, 2) {
			s.actions = append(s.actions, modelAction{r.IntN(12), "retry", i})
		}
	}
	if pick(0, 1, 2) == 0 {
		s.actions = append(s.actions, modelAction{last + r.IntN(9), "drain", 0})
	}
	for i := range s.acts {
		for range pick(0, 0, 1, 2) {
			s.actions = append(s.actions, modelAction{r.IntN(9), "pause", i})
		}
		for range pick(0, 1, 1, 2) {
			s.actions = append(s.actions, modelAction{r.IntN(14), "unpause", i})
		}
	}
	return s
}

// modelClock is a Mock whose time can be ahead of its timers.
type modelClock struct {
	*clock.Mock
	mu    sync.Mutex
	ahead time.Duration
}

func (c *modelClock) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

func (c *modelClock) lead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = d
}

func (c *modelClock) Now() time.Time                  { return c.Mock.Now().Add(c.skew()) }
func (c *modelClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
func (c *modelClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }
func (c *modelClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	return c.Mock.AfterFunc(d+c.skew(), f)
}

// A modelRig runs a script against the package. Its functions take turns: one
// that is ready to go on waits until the driver lets it.
type modelRig struct {
	s      *modelScript
	clock  *modelClock
	rt     *activity.Runtime
	now    int
	begun  time.Time
	acts   []*modelDriven
	holder map[int]int // which of acts was accepted last with an ID
	did    []bool
	shut   chan struct{}
	shutAt int
	stats  []string
	bail   chan struct{}

	mu    sync.Mutex
	turns []modelTurn
}

type modelTurn struct {
	act, run, from int
	gate           bool
	let            chan struct{}
}

type modelDriven struct {
	modelTrace
	ctx     context.Context
	cancel  context.CancelCauseFunc
	handle  *activity.Handle[int]
	running int
	runs    int         // of the function
	sleeps  map[int]int // runs, and until when they sleep
}

type modelError string

func (e modelError) Error() string { return string(e) }

// turn waits for the driver, from the instant given on.
func (r *modelRig) turn(act, run, from int, gate bool) {
	t := modelTurn{act, run, from, gate, make(chan struct{})}
	r.mu.Lock()
	r.turns = append(r.turns, t)
	r.mu.Unlock()
	select {
	case <-t.let:
	case <-r.bail:
	}
}

// runPackage gives the same traces as model.run, from the package.
func runPackage(s *modelScript) []modelTrace {
	r := &modelRig{s: s, clock: &modelClock{Mock: clock.NewMock()}, holder: map[int]int{}, did: make([]bool, len(s.actions)), shutAt: -1, bail: make(chan struct{})}
	r.begun = r.clock.Now()
	r.rt = activity.New(activity.Config{Clock: r.clock, MaxConcurrent: s.slots, Observer: r.observe, Logger: quiet})
	for range s.acts {
		ctx, cancel := context.WithCancelCause(context.Background())
		r.acts = append(r.acts, &modelDriven{sleeps: map[int]int{}, modelTrace: modelTrace{endAt: -1}, ctx: ctx, cancel: cancel})
	}
	for ; r.now < modelHorizon && !r.finished(); r.now++ {
		if r.now > 0 {
			r.clock.lead(time.Second)
		}
		if s.early(r.now) {
			r.step(true)
		}
		if r.now > 0 {
			r.clock.lead(0)
			r.clock.Add(time.Second)
			synctest.Wait()
		}
		for r.step(false) {
		}
		r.endInstant()
	}
	close(r.bail)
	var traces []modelTrace
	for _, a := range r.acts {
		a.cancel(nil)
		if a.handle != nil {
			r.result(a)
			a.handle.Cancel(nil)
			synctest.Wait()
		}
		traces = append(traces, a.modelTrace)
	}
	st := r.rt.Stats()
	total := fmt.Sprintf("scheduled %d completed %d failed %d canceled %d attempts %d heartbeats %d timeouts %d", st.Scheduled, st.Completed, st.Failed, st.Canceled, st.Attempts, st.Heartbeats, st.Timeouts)
	return append(traces, modelTrace{states: r.stats, result: total, endAt: r.shutAt})
}

func (r *modelRig) result(a *modelDriven) {
	select {
	case <-a.handle.Done():
	default:
		a.result = "has not ended"
		return
	}
	out, err := a.handle.Wait(context.Background())
	if err == nil {
		a.result = fmt.Sprint("completed ", out)
		return
	}
	if out != 0 {
		a.result = fmt.Sprintf("a value %d with ", out)
	}
	a.result += modelDescribe(err)
}

func (r *modelRig) finished() bool {
	for _, a := range r.acts {
		if a.running > 0 {
			return false
		}
		if a.handle != nil {
			select {
			case <-a.handle.Done():
			default:
				return false
			}
		}
	}
	return !slices.Contains(r.did, false)
}

func (r *modelRig) step(early bool) bool {
	best, do := uint64(0), func() {}
	found := false
	offer := func(rank uint64, f func()) {
		if !found || rank < best {
			best, do, found = rank, f, true
		}
	}
	for i, x := range r.s.actions {
		if !r.did[i] && x.at == r.now && !(early && r.late(x)) {
			offer(r.s.actionRank(i), func() { r.did[i] = true; r.act(x) })
		}
	}
	for i, t := range r.turns {
		if t.from <= r.now && (t.gate || !early) {
			offer(r.s.rank(r.now, t.act, t.run), func() {
				r.turns = slices.Delete(r.turns, i, i+1)
				close(t.let)
			})
		}
	}
	do()
	synctest.Wait()
	return found
}

// late is what model.late is.
func (r *modelRig) late(x modelAction) bool {
	for i, a := range r.acts {
		if i == x.act || x.kind == "shutdown" || x.kind == "drain" {
			for _, until := range a.sleeps {
				if until == r.now && x.kind != "start" {
					return true
				}
			}
		}
	}
	return x.kind == "ctx"
}

func (r *modelRig) act(x modelAction) {
	a := r.acts[x.act]
	switch x.kind {
	case "start":
		spec := r.s.acts[x.act]
		h, err := activity.Start(a.ctx, r.rt, spec.options(x.act), func(ctx activity.Context, act int) (int, error) { return r.function(ctx, act) }, x.act)
		a.handle = h
		if err != nil {
			a.result = "refused: " + modelDescribe(err)
			return
		}
		r.holder[spec.id] = x.act
	case "cancel":
		if a.handle != nil {
			a.handle.Cancel(modelError(fmt.Sprintf("cancel %d", x.act)))
		}
	case "ctx":
		a.cancel(modelError(fmt.Sprintf("ctx %d", x.act)))
	case "retry":
		if id, ok := r.holds(x.act); ok {
			_ = r.rt.RetryNow(id)
		}
	case "pause", "unpause":
		steer := r.rt.Pause
		if x.kind == "unpause" {
			steer = r.rt.Unpause
		}
		id, ok := r.holds(x.act)
		if !ok {
			return
		}
		gives := "nil"
		if err := steer(id); errors.Is(err, activity.ErrNotFound) {
			return
		} else if err != nil {
			_, gives, _ = strings.Cut(err.Error(), "the activity is ")
		}
		a.calls = append(a.calls, fmt.Sprintf("%d %s gives %s", r.now, x.kind, gives))
	case "shutdown", "drain":
		end := r.rt.Shutdown
		if x.kind == "drain" {
			end = r.rt.Drain
		}
		shut := make(chan struct{})
		r.shut = shut
		go func() {
			defer close(shut)
			if err := end(context.Background()); err != nil {
				r.stats = append(r.stats, err.Error())
			}
		}()
	}
}

// holds returns the ID of the activity, and whether it is the last that was accepted with that. It
// does not ask the Runtime, which would settle what is due before the action itself does.
func (r *modelRig) holds(act int) (id string, ok bool) {
	spec := r.s.acts[act]
	holder, ok := r.holder[spec.id]
	return spec.activityID(), ok && holder == act
}

func (s *modelSpec) activityID() string { return fmt.Sprintf("act-%d", s.id) }

func (s *modelSpec) options(i int) activity.Options {
	sec := func(n int) time.Duration { return time.Duration(n) * time.Second }
	o := activity.Options{
		ID: s.activityID(), Name: fmt.Sprint(i),
		HeartbeatTimeout: sec(s.hb), StartToCloseTimeout: sec(s.s2c), ScheduleToStartTimeout: sec(s.sts), ScheduleToCloseTimeout: sec(s.stc),
		RetryPolicy: activity.RetryPolicy{InitialInterval: sec(s.initial), BackoffCoefficient: float64(s.coefficient), MaximumInterval: sec(s.maxInterval),
			MaximumAttempts: s.maxTrys, ResetOnProgress: s.reset, ResetAfter: sec(s.resetAfter)},
		MaxAbandoned: s.maxAbandoned, CancelGrace: sec(s.grace),
	}
	if s.resume != 0 {
		o.HeartbeatDetails = []any{s.resume}
	}
	switch s.picky {
	case "timeout":
		o.RetryPolicy.Retryable = func(err error) bool { return !errors.Is(err, context.DeadlineExceeded) }
	case "panic":
		o.RetryPolicy.Retryable = func(err error) bool { p := (*activity.PanicError)(nil); return !errors.As(err, &p) }
	}
	return o
}

// function is the activity: it does what the script says.
func (r *modelRig) function(ctx activity.Context, act int) (int, error) {
	a := r.acts[act]
	n := ctx.Info().Attempt
	r.mu.Lock()
	a.running++
	a.runs++
	run := a.runs
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		a.running--
		r.mu.Unlock()
	}()
	saw := func(format string, args ...any) {
		a.calls = append(a.calls, fmt.Sprintf("%d #%d ", r.now, n)+fmt.Sprintf(format, args...))
	}
	try := r.s.acts[act].try(n)
	r.turn(act, run, 0, false)
	resume, err := activity.Resume(ctx, 0)
	from := "none"
	if resume != 0 || err != nil {
		from = fmt.Sprint(resume)
	}
	last := "none"
	if err := ctx.Info().LastFailure; err != nil {
		last = modelDescribeHead(err)
	}
	saw("starts from %s after %s", from, last)
	for _, step := range try.steps {
		d := time.Duration(step.d) * time.Second
		gives := "nil"
		ended := ctx.Err() != nil
		var err error
		switch step.op {
		case "sleep":
			r.mu.Lock()
			a.sleeps[run] = r.now + step.d
			r.mu.Unlock()
			err = ctx.Sleep(d)
			r.mu.Lock()
			delete(a.sleeps, run)
			r.mu.Unlock()
		case "stall":
			select {
			case <-ctx.Done():
			case <-r.bail:
			}
			gives = modelDescribe(context.Cause(ctx))
		case "deaf":
			r.turn(act, run, r.now+step.d, true)
		case "guard":
			err = activity.Guard(ctx, func() error {
				r.turn(act, run, r.now+step.d, true)
				return nil
			})
		case "beat":
			err = ctx.Heartbeat()
		case "note":
			err = ctx.Heartbeat(step.v)
		case "bad":
			err = ctx.Heartbeat(make(chan int))
		}
		if step.op == "sleep" && !ended || step.op == "guard" && !ended || step.op != "deaf" && !ended && ctx.Err() != nil {
			r.turn(act, run, 0, false)
		}
		if err != nil {
			gives = modelDescribe(err)
		}
		saw("%s gives %s", step.op, gives)
		if err != nil && try.heed {
			return -1, err
		}
	}
	failed := modelError(fmt.Sprintf("%s in %d", try.end, n))
	switch try.end {
	case "fatal":
		return -1, fmt.Errorf("%w", activity.NonRetryable(failed))
	case "after":
		return -1, activity.RetryAfter(failed, time.Duration(try.d)*time.Second)
	case "panic":
		panic(failed)
	case "goexit":
		runtime.Goexit()
	case "fail":
		return -1, failed
	}
	return 100 + n, nil
}

func (r *modelRig) observe(e activity.Event) {
	i, _ := strconv.Atoi(e.Name)
	line := fmt.Sprintf("%d %v #%d ", int(e.Time.Sub(r.begun)/time.Second), e.Kind, e.Attempt)
	switch e.Kind {
	case activity.EventAttemptFailed:
		line += fmt.Sprintf("delay %d: %s", int(e.Delay/time.Second), modelDescribe(e.Err))
	case activity.EventHeartbeat:
		v := 0
		found, err := e.HeartbeatDetails(&v)
		switch {
		case err != nil:
			line += err.Error()
		case found:
			line += fmt.Sprint(v)
		default:
			line += "none"
		}
	case activity.EventPaused:
		if e.Err != nil {
			line += modelDescribe(e.Err)
		}
	case activity.EventFailed, activity.EventCanceled:
		line += modelDescribeEnd(e.Err)
	case activity.EventBlocked:
		line = fmt.Sprintf("%d blocked #%d", int(e.Time.Sub(r.begun)/time.Second), e.Attempt)
	}
	a := r.acts[i]
	r.mu.Lock()
	a.events = append(a.events, strings.TrimSpace(line))
	r.mu.Unlock()
}

func (r *modelRig) endInstant() {
	if r.shut != nil && r.shutAt < 0 {
		select {
		case <-r.shut:
			r.shutAt = r.now
		default:
		}
	}
	for _, a := range r.acts {
		if a.handle == nil {
			continue
		}
		select {
		case <-a.handle.Done():
			if a.endAt < 0 {
				a.endAt = r.now
			}
		default:
		}
		st := a.handle.Status()
		next, v, details := 0, 0, "none"
		if !st.NextAttempt.IsZero() {
			next = int(st.NextAttempt.Sub(r.begun) / time.Second)
		}
		if found, err := st.HeartbeatDetails(&v); found || err != nil {
			details = fmt.Sprint(v)
		}
		a.states = modelAppend(a.states, r.now, fmt.Sprintf("%v #%d abandoned %d next %d details %s", st.State, st.Attempt, st.Abandoned, next, details))
	}
	st := r.rt.Stats()
	r.stats = modelAppend(r.stats, r.now, fmt.Sprintf("running %d waiting %d backing off %d blocked %d paused %d abandoned %d", st.Running, st.Waiting, st.BackingOff, st.Blocked, st.Paused, st.Abandoned))
}

// modelDescribe puts an error into the model's words.
func modelDescribe(err error) string {
	switch e := err.(type) {
	case nil:
		return "nil"
	case *activity.Error:
		return fmt.Sprintf("error #%d %v: %s", e.Attempt, e.RetryState, modelDescribeEnd(e))
	case *activity.TimeoutError:
		return modelDescribeHead(e) + " last " + modelDescribeLast(e)
	}
	return modelDescribeHead(err)
}

func modelDescribeLast(e *activity.TimeoutError) string {
	if e.LastFailure == nil {
		return "none"
	}
	if before, ok := e.LastFailure.(*activity.TimeoutError); ok && before.LastFailure != nil {
		return "more than one level"
	}
	return modelDescribeHead(e.LastFailure)
}

// modelDescribeHead leaves out a TimeoutError's LastFailure.
func modelDescribeHead(err error) string {
	if e, ok := err.(*activity.TimeoutError); ok {
		v, details := 0, "none"
		if found, err := e.HeartbeatDetails(&v); found || err != nil {
			details = fmt.Sprint(v)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			return "not a DeadlineExceeded"
		}
		return fmt.Sprintf("%v #%d after %v details %s", e.Type, e.Attempt, e.After, details)
	}
	var own modelError
	var final interface{ NonRetryable() bool }
	var p *activity.PanicError
	switch {
	case errors.As(err, &own):
		if panicked := errors.As(err, &p); panicked != strings.HasPrefix(string(own), "panic") {
			return fmt.Sprintf("%s: a panic: %t", own, panicked)
		}
		return string(own)
	case errors.Is(err, activity.ErrGoexit):
		return "goexit"
	case errors.Is(err, activity.ErrShutdown):
		return "shutdown"
	case errors.Is(err, activity.ErrPaused):
		return "paused"
	case errors.Is(err, activity.ErrAlreadyRunning):
		return "already running"
	case errors.As(err, &final) && final.NonRetryable():
		return "bad details"
	}
	return "unknown: " + err.Error()
}

// modelDescribeEnd describes why an activity ended: of a canceled one, the
// cause and what the function made of it.
func modelDescribeEnd(err error) string {
	e, ok := err.(*activity.Error)
	if !ok {
		return "not an *Error: " + modelDescribe(err)
	}
	both, ok := e.Err.(interface{ Unwrap() []error })
	if !ok || e.RetryState != activity.RetryStateCancelRequested {
		return modelDescribe(e.Err)
	}
	var parts []string
	for _, err := range both.Unwrap() {
		if s := modelDescribe(err); !slices.Contains(parts, s) {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " + ")
}

// modelDiff runs a script in the model and in the package. Empty: they agree.
func modelDiff(t *testing.T, s *modelScript, meetings map[[2]string]int) string {
	m := &model{s: s, meetings: meetings}
	want := m.run()
	var got []modelTrace
	synctest.Test(t, func(*testing.T) { got = runPackage(s) })
	for i := range want {
		for j, hangs := range want[i].events {
			if prefix, which, ok := strings.Cut(hangs, " blocked "); ok && j < len(got[i].events) {
				// Any that hangs may be named.
				if p, g, ok := strings.Cut(got[i].events[j], " blocked "); ok && p == prefix && slices.Contains(strings.Split(which, "|"), g) {
					got[i].events[j] = hangs
				}
			}
		}
	}
	if diff := cmp.Diff(modelLines(want), modelLines(got)); diff != "" {
		return s.String() + diff
	}
	return ""
}

func modelLines(traces []modelTrace) []string {
	var all []string
	for i, t := range traces {
		for _, lines := range [][]string{t.events, t.calls, t.states} {
			for _, line := range lines {
				all = append(all, fmt.Sprintf("%d: %s", i, line))
			}
			all = append(all, "")
		}
		all = append(all, fmt.Sprintf("%d: at %d: %s", i, t.endAt, t.result))
	}
	return all
}

// Rules 1 to 5, 7 to 10, 13 to 19 and 27. Given random scripts of what activities and
// their callers do, then the package does at each instant just what the model does.
func TestModel_RandomScripts(t *testing.T) {
	n := *modelN
	if n == 0 {
		n = 300
		if testing.Short() {
			n = 100
		}
	}
	meetings := map[[2]string]int{}
	activities := 0
	for seed := *modelSeed; seed < *modelSeed+uint64(n); seed++ {
		s := newModelScript(seed)
		activities += len(s.acts)
		if diff := modelDiff(t, s, meetings); diff != "" {
			small := modelShrink(t, s)
			t.Fatalf("seed %d (-model.seed=%d -model.n=1), model -, package +:\n%s\nsmaller:\n%s", seed, seed, diff, modelDiff(t, small, nil))
		}
	}
	t.Logf("%d scripts, %d activities", n, activities)
	if n >= 1000 {
		modelCheckPairs(t, meetings)
	}
}

var modelThings = []string{"heartbeat", "heartbeat timeout", "start-to-close timeout", "schedule-to-start timeout", "schedule-to-close timeout", "cancel", "return", "panic", "shutdown", "drain", "pause", "unpause"}

// modelCheckPairs fails if two things never met at one instant in one activity.
func modelCheckPairs(t *testing.T, meetings map[[2]string]int) {
	for i, x := range modelThings {
		for _, y := range modelThings[:i] {
			pair := [2]string{min(x, y), max(x, y)}
			// What waits for a slot has no attempt, at most an abandoned function.
			waits := "schedule-to-start timeout"
			if pair[0] == waits && pair[1] != "shutdown" && pair[1] != "drain" || pair[1] == waits && pair[0] != "cancel" && pair[0] != "pause" && pair[0] != "schedule-to-close timeout" {
				continue
			}
			if meetings[pair] == 0 {
				t.Errorf("%s and %s never met at one instant", x, y)
			}
		}
	}
}

// modelShrink leaves out of a script what its difference does not need.
func modelShrink(t *testing.T, s *modelScript) *modelScript {
	for again := true; again; {
		again = false
		for _, smaller := range s.smaller() {
			if modelDiff(t, smaller, nil) != "" {
				s, again = smaller, true
				break
			}
		}
	}
	return s
}

func (s *modelScript) smaller() []*modelScript {
	var all []*modelScript
	change := func(f func(*modelScript)) {
		c := *s
		c.acts = slices.Clone(s.acts)
		c.actions = slices.Clone(s.actions)
		for i := range c.acts {
			c.acts[i].tries = slices.Clone(c.acts[i].tries)
		}
		f(&c)
		all = append(all, &c)
	}
	for i, x := range s.actions {
		if x.at < 30 {
			change(func(c *modelScript) { c.actions = slices.Delete(c.actions, i, i+1) })
		}
	}
	if s.slots > 0 {
		change(func(c *modelScript) { c.slots = 0 })
	}
	for i := range s.acts {
		a := &s.acts[i]
		for k := range a.tries {
			if len(a.tries) > 1 {
				change(func(c *modelScript) { c.acts[i].tries = slices.Delete(c.acts[i].tries, k, k+1) })
			}
			for l := range a.tries[k].steps {
				change(func(c *modelScript) {
					try := &c.acts[i].tries[k]
					try.steps = slices.Delete(slices.Clone(try.steps), l, l+1)
				})
			}
		}
		for f, p := range []*int{&a.hb, &a.s2c, &a.sts, &a.stc, &a.maxInterval, &a.maxTrys, &a.maxAbandoned, &a.grace, &a.resume, &a.resetAfter} {
			if *p != 0 {
				change(func(c *modelScript) {
					b := &c.acts[i]
					for k := range b.tries {
						b.tries[k].d = max(b.tries[k].d, 1)
					}
					*[]*int{&b.hb, &b.s2c, &b.sts, &b.stc, &b.maxInterval, &b.maxTrys, &b.maxAbandoned, &b.grace, &b.resume, &b.resetAfter}[f] = 0
				})
			}
		}
		if a.picky != "" || a.reset {
			change(func(c *modelScript) { c.acts[i].picky, c.acts[i].reset = "", false })
		}
	}
	return all
}

func (s *modelScript) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "slots %d\n", s.slots)
	for _, x := range s.actions {
		fmt.Fprintf(&b, "%d: %s %d\n", x.at, x.kind, x.act)
	}
	for i, a := range s.acts {
		fmt.Fprintf(&b, "activity %d: %+v\n", i, a)
	}
	return b.String()
}

// Rules 18 and 19. Given a Shutdown that cancels, when a slot gets free meanwhile, then
// it goes to nobody, and what waits for one ends without an attempt.
func TestModel_ShutdownStartsNothing(t *testing.T) {
	s := &modelScript{
		seed: 171978, // the shutdown comes before the timers of its instant
		acts: []modelSpec{
			{s2c: 2, initial: 1, coefficient: 1, picky: "panic", tries: []modelTry{{steps: []modelStep{{op: "deaf", d: 5}}, end: "ok"}}},
			{id: 1, initial: 1, coefficient: 1, tries: []modelTry{{end: "ok"}}},
		},
		slots:   1,
		actions: []modelAction{{0, "start", 0}, {1, "start", 1}, {2, "shutdown", 0}},
	}
	if diff := modelDiff(t, s, nil); diff != "" {
		t.Errorf("model -, package +:\n%s", diff)
	}
}
