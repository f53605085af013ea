package modeltest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

// A stressRun lets the functions of a modelScript run freely, on the clock that
// there is, and keeps each activity's events.
type stressRun struct {
	s     *modelScript
	unit  time.Duration
	rt    *activity.Runtime
	begun time.Time

	running atomic.Int32 // functions
	waits   atomic.Bool  // all actions are done, and play waits for the activities

	mu     sync.Mutex
	events [][]activity.Event
	faults []string
	causes map[[2]int]error // of activity and attempt, as the function saw it
}

func newStressRun(s *modelScript, unit time.Duration) *stressRun {
	r := &stressRun{s: s, unit: unit, events: make([][]activity.Event, len(s.acts)), causes: map[[2]int]error{}, begun: time.Now()}
	r.rt = activity.New(activity.Config{MaxConcurrent: s.slots, Logger: quiet, Observer: func(e activity.Event) {
		var i int
		_, _ = fmt.Sscan(e.Name, &i)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events[i] = append(r.events[i], e)
	}})
	return r
}

func (r *stressRun) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// told gives the events so far.
func (r *stressRun) told() [][]activity.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// allReturned reports whether of every abandoned function it was told that it has
// returned.
func (r *stressRun) allReturned() bool {
	left := r.rt.Stats().Abandoned
	for _, events := range r.told() {
		for _, e := range events {
			switch e.Kind {
			case activity.EventAbandoned:
				left++
			case activity.EventAbandonedReturned:
				left--
			}
		}
	}
	return left == 0
}

func (r *stressRun) cause(act, attempt int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.causes[[2]int{act, attempt}]
}

func (r *stressRun) start(ctx context.Context, i int) (*activity.Handle[int], error) {
	o := r.s.acts[i].options(i)
	for _, d := range []*time.Duration{&o.HeartbeatTimeout, &o.StartToCloseTimeout, &o.ScheduleToStartTimeout, &o.ScheduleToCloseTimeout,
		&o.RetryPolicy.InitialInterval, &o.RetryPolicy.MaximumInterval, &o.CancelGrace} {
		*d = *d / time.Second * r.unit
	}
	return activity.Start(ctx, r.rt, o, r.function, i)
}

// function does what the script says. Its details are the attempt that recorded
// them, so that a later attempt can tell whether it may see them.
func (r *stressRun) function(ctx activity.Context, i int) (int, error) {
	r.running.Add(1)
	defer r.running.Add(-1)
	n := ctx.Info().Attempt
	if by, err := activity.Resume(ctx, 0); err != nil || by < 0 || by >= n {
		r.fault("activity %d attempt %d resumes from %d, %v", i, n, by, err)
	}
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.causes[[2]int{i, n}] = context.Cause(ctx)
	}()
	try := r.s.acts[i].try(n)
	for _, step := range try.steps {
		d := time.Duration(step.d) * r.unit
		var err error
		switch step.op {
		case "sleep":
			err = ctx.Sleep(d)
		case "stall":
			<-ctx.Done()
		case "deaf":
			time.Sleep(d)
		case "guard":
			err = activity.Guard(ctx, func() error { time.Sleep(d); return nil })
		case "beat":
			err = ctx.Heartbeat()
		case "note":
			err = ctx.Heartbeat(n)
		case "bad":
			err = ctx.Heartbeat(make(chan int))
		}
		if ctx.Err() != nil && step.op != "bad" {
			// Fenced or canceled for good: every later call says so.
			if again := ctx.Heartbeat(-n); again == nil || again != context.Cause(ctx) {
				r.fault("activity %d attempt %d: after %s, Heartbeat gives %v, and the cause is %v", i, n, step.op, again, context.Cause(ctx))
			}
		}
		if err != nil && try.heed {
			return -1, err
		}
	}
	failed := modelError(fmt.Sprintf("%s in %d", try.end, n))
	switch try.end {
	case "fatal":
		return -1, activity.NonRetryable(failed)
	case "after":
		return -1, activity.RetryAfter(failed, time.Duration(try.d)*r.unit)
	case "panic":
		panic(failed)
	case "goexit":
		runtime.Goexit()
	case "fail":
		return -1, failed
	}
	return 100 + n, nil
}

// play does the script's actions in the test's own goroutine, each somewhat
// after its instant, and waits until the activities have ended.
func (r *stressRun) play(t *testing.T, after time.Duration) []*activity.Handle[int] {
	handles := make([]*activity.Handle[int], len(r.s.acts))
	ctxs := make([]context.Context, len(handles))
	cancels := make([]context.CancelCauseFunc, len(handles))
	for i := range handles {
		ctxs[i], cancels[i] = context.WithCancelCause(t.Context())
		defer cancels[i](nil)
	}
	actions := slices.Clone(r.s.actions)
	slices.SortStableFunc(actions, func(x, y modelAction) int { return x.at - y.at })
	for _, x := range actions {
		at := time.Duration(x.at) * r.unit
		if x.kind != "start" {
			at += after
		}
		time.Sleep(at - time.Since(r.begun))
		switch x.kind {
		case "start":
			h, err := r.start(ctxs[x.act], x.act)
			handles[x.act] = h
			if err != nil && !errors.Is(err, activity.ErrShutdown) && !errors.Is(err, activity.ErrAlreadyRunning) && !errors.Is(err, context.Cause(ctxs[x.act])) {
				r.fault("start of %d: %v", x.act, err)
			}
		case "cancel":
			if h := handles[x.act]; h != nil {
				h.Cancel(modelError("canceled"))
			}
		case "ctx":
			cancels[x.act](modelError("ctx"))
		case "shutdown":
			if err := r.rt.Shutdown(t.Context()); err != nil {
				r.fault("Shutdown: %v", err)
			}
		}
	}
	r.waits.Store(true)
	for _, h := range handles {
		if h != nil {
			<-h.Done()
		}
	}
	return handles
}

// Rule 25. Given random scripts, when each runs many times in a bubble, then each
// activity gives the same events at the same times. What an abandoned function does at an
// instant at which a later attempt does something too is in the order in which the two
// run, so EventAbandonedReturned is compared apart.
func TestDeterminism_RandomScripts(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		s := newModelScript(seed)
		s.slots = 0
		for i := range s.acts {
			s.acts[i].id = i
		}
		var first []string
		for run := range 30 * *repeat {
			var got, returned []string
			synctest.Test(t, func(t *testing.T) {
				r := newStressRun(s, time.Second)
				r.play(t, time.Second/4)
				time.Sleep(time.Minute) // for abandoned functions
				for i, events := range r.told() {
					for _, e := range events {
						v := 0
						found, err := e.HeartbeatDetails(&v)
						line := fmt.Sprintf("%d: %v %v #%d %v %v | %t %d %v | %s", i, e.Time.Sub(r.begun), e.Kind, e.Attempt, e.Delay, modelDescribe(e.Err), found, v, err, e.ID)
						if e.Kind == activity.EventAbandonedReturned {
							returned = append(returned, line)
						} else {
							got = append(got, line)
						}
					}
				}
			})
			slices.Sort(returned)
			got = append(got, returned...)
			if run == 0 {
				first = got
			}
			if diff := cmp.Diff(first, got); diff != "" {
				t.Errorf("seed %d, run %d differs from the first:\n%s%s", seed, run, s, diff)
				break
			}
		}
	}
}

// Rule 25. Given an attempt that times out and returns at once, with a Retryable to ask,
// then whether it blocks the next attempt is the same every time.
func TestDeterminism_RetryableAtTheTimeout(t *testing.T) {
	seen := map[string]int{}
	for range 30 * *repeat {
		synctest.Test(t, func(t *testing.T) {
			r := newStressRun(&modelScript{acts: []modelSpec{{
				hb: 1, initial: 1, coefficient: 1, maxTrys: 2, picky: "panic", maxAbandoned: activity.NoOverlap,
				tries: []modelTry{{steps: []modelStep{{op: "stall"}}, end: "ok"}, {end: "ok"}},
			}}, actions: []modelAction{{0, "start", 0}}}, time.Second)
			r.play(t, 0)
			synctest.Wait()
			seen[stressKinds(r.told()[0])]++
		})
	}
	if len(seen) != 1 {
		t.Errorf("one program, several lives: %v", seen)
	}
}

func stressKinds(events []activity.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%v #%d; ", e.Kind, e.Attempt)
	}
	return b.String()
}

// goroutinesInside gives the stacks of the goroutines that are, or begin, in package
// activity, and of how many of them another goroutine must wake.
func goroutinesInside() (stacks []string, blocked int) {
	buf := make([]byte, 1<<20)
	for runtime.Stack(buf, true) == len(buf) {
		buf = make([]byte, 2*len(buf))
	}
	n := runtime.Stack(buf, true)
	for _, stack := range strings.Split(string(buf[:n]), "\n\n") {
		if !strings.Contains(stack, "github.com/seed-9da638b0/activity.") {
			continue
		}
		stacks = append(stacks, stack)
		_, state, _ := strings.Cut(stack, "[")
		for _, s := range []string{"chan ", "select", "sync.", "semacquire"} {
			if strings.HasPrefix(state, s) {
				blocked++
			}
		}
	}
	return stacks, blocked
}

// stressIdle reports whether nobody is about to do anything: no function runs, and no
// goroutine in package activity can continue by itself.
func stressIdle(runs []*stressRun) bool {
	for _, r := range runs {
		if r.running.Load() > 0 {
			return false
		}
	}
	stacks, blocked := goroutinesInside()
	return len(stacks) == blocked
}

// stressStuck gives the activities that are blocked by functions of which none runs, if all
// runs wait for their activities.
func stressStuck(runs []*stressRun) string {
	attempts := func() (n uint64) {
		for _, r := range runs {
			n += r.rt.Stats().Attempts
		}
		return n
	}
	before := attempts()
	if slices.ContainsFunc(runs, func(r *stressRun) bool { return !r.waits.Load() }) || !stressIdle(runs) {
		return ""
	}
	var stuck strings.Builder
	for _, r := range runs {
		for _, s := range r.rt.Activities() {
			if s.State == activity.StateBlocked {
				fmt.Fprintf(&stuck, "%+v\n", s)
			}
		}
	}
	if attempts() != before { // a backoff has ended meanwhile
		return ""
	}
	return stuck.String()
}

// check looks for what no script may show, at any speed.
func (r *stressRun) check(handles []*activity.Handle[int]) activity.Stats {
	var want activity.Stats
	for i, events := range r.told() {
		bad := func(why string) { r.fault("activity %d: %s: %s", i, why, stressKinds(events)) }
		h := handles[i]
		if h == nil {
			if len(events) > 0 {
				bad("refused, but has events")
			}
			continue
		}
		out, err := h.Wait(context.Background())
		e := (*activity.Error)(nil)
		if err != nil && (!errors.As(err, &e) || out != 0) {
			bad(fmt.Sprintf("gives %d, %v", out, err))
		}
		want.Scheduled++
		attempt, running, end := 0, false, activity.EventKind(0)
		left := map[int]int{} // abandoned functions: 1, and 2 when returned
		for j, ev := range events {
			if (ev.Kind == activity.EventScheduled) != (j == 0) {
				bad("scheduled is not the first event")
			}
			if end != 0 && ev.Kind != activity.EventAbandonedReturned {
				bad("an event after the end")
			}
			switch ev.Kind {
			case activity.EventAttemptStarted:
				want.Attempts++
				attempt++
				if running || ev.Attempt != attempt {
					bad("a wrong start")
				}
				running = true
			case activity.EventHeartbeat:
				want.Heartbeats++
				var by int
				if found, _ := ev.HeartbeatDetails(&by); !running || ev.Attempt != attempt || found && by != attempt && by != -attempt {
					bad(fmt.Sprintf("a heartbeat that should be fenced, %d", by))
				}
			case activity.EventAttemptFailed:
				if !running || ev.Attempt != attempt || ev.Err == nil {
					bad("a wrong failure")
				}
				running = false
				timeout := (*activity.TimeoutError)(nil)
				if cause := r.cause(i, attempt); errors.As(ev.Err, &timeout) && cause != nil && cause != ev.Err {
					bad(fmt.Sprintf("timed out, but its context's cause is %v", cause))
				}
			case activity.EventAbandoned:
				left[ev.Attempt]++
				if ev.Attempt != attempt || left[ev.Attempt] != 1 {
					bad("a wrong abandoned")
				}
			case activity.EventAbandonedReturned:
				left[ev.Attempt]++
				if left[ev.Attempt] != 2 {
					bad("a wrong abandoned returned")
				}
			case activity.EventCompleted, activity.EventFailed, activity.EventCanceled:
				end = ev.Kind
				if ev.Attempt != attempt {
					bad("ends with the wrong attempt")
				}
			}
		}
		for _, n := range left {
			if n != 2 {
				bad("an abandoned function has not returned")
			}
		}
		state := h.Status().State
		switch end {
		case activity.EventCompleted:
			want.Completed++
			if err != nil || out != 100+attempt || state != activity.StateCompleted {
				bad(fmt.Sprintf("gives %d, %v, %v", out, err, state))
			}
		case activity.EventFailed:
			want.Failed++
			if e == nil || e.RetryState == activity.RetryStateCancelRequested || e.Attempt != attempt || state != activity.StateFailed {
				bad(fmt.Sprintf("gives %v, %v", err, state))
			}
		case activity.EventCanceled:
			want.Canceled++
			if e == nil || e.RetryState != activity.RetryStateCancelRequested || e.Attempt != attempt || state != activity.StateCanceled {
				bad(fmt.Sprintf("gives %v, %v", err, state))
			}
		default:
			bad("no end")
		}
	}
	return want
}

// Given random scripts on the real clock, many at once, then nothing is lost, doubled,
// out of order or left over (rules 1, 4, 8, 17 and 19). The test measures no time.
// -model.seed sets its seed too.
func TestStress_RandomScripts(t *testing.T) {
	scripts := 30 * *repeat
	if testing.Short() {
		scripts = 10
	}
	seed := *modelSeed
	if seed == 1 {
		seed = rand.Uint64N(1 << 30)
	}
	runs := make([]*stressRun, scripts)
	handles := make([][]*activity.Handle[int], scripts)
	var all, ready sync.WaitGroup
	ready.Add(scripts)
	for i := range scripts {
		all.Go(func() {
			s := newModelScript(seed + uint64(i))
			for k := range s.acts {
				s.acts[k].resume = 0
			}
			runs[i] = newStressRun(s, time.Millisecond)
			ready.Done()
			handles[i] = runs[i].play(t, 0)
		})
	}
	ready.Wait()
	ended := make(chan struct{})
	go func() { all.Wait(); close(ended) }()
	for over := false; !over; {
		if stuck := stressStuck(runs); stuck != "" {
			t.Fatalf("seeds from %d: activities are blocked, and no function of theirs runs:\n%s", seed, stuck)
		}
		runtime.Gosched()
		select {
		case <-ended:
			over = true
		default:
		}
	}
	for !stressIdle(runs) {
		runtime.Gosched()
	}
	if left, _ := goroutinesInside(); len(left) > 0 {
		t.Errorf("seeds from %d: goroutines are left:\n%s", seed, strings.Join(left, "\n\n"))
	}
	for i, r := range runs {
		if !r.allReturned() {
			r.fault("an abandoned function has returned, and no event says so")
		}
		want, got := r.check(handles[i]), r.rt.Stats()
		want.Timeouts = got.Timeouts // events do not tell of those while waiting
		if diff := cmp.Diff(want, got); diff != "" {
			r.fault("Stats, counted -, told +:\n%s", diff)
		}
		for _, f := range r.faults {
			t.Errorf("seed %d: %s", seed+uint64(i), f)
		}
	}
}
