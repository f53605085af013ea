package modeltest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

var (
	rangeSeed = flag.Uint64("range.seed", 1, "the first seed of the model test of Range and RangeParallel")
	rangeN    = flag.Int("range.n", 0, "how many scripts the model test of Range and RangeParallel runs; 0: a default")
)

// A rangeDriver runs a script against the package, one life after the other.
type rangeDriver struct {
	s     *rangeScript
	begun time.Time

	mu       sync.Mutex
	trace    rangeTrace
	problems []string
	calls    int // of the function, in all lives
	stored   activity.Checkpoint
	work     rangeWork
}

// A rangeWork is what the invariants know of the work, from one completion to the next.
type rangeWork struct {
	done     map[int]bool // numbers whose body has returned nil in an attempt that was not fenced
	from     int          // the highest from of any Range
	begun    bool         // whether anything was recorded
	recorded map[int]bool // numbers that the newest record says are done
	next     int          // Next of the newest record
}

func (r *rangeDriver) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s: ", time.Since(r.begun))+fmt.Sprintf(format, args...))
}

// A rangeWatch is what the invariants know of a call of the function. It is guarded by mu.
type rangeWatch struct {
	n, running int       // the number of the call, and of its bodies that run
	stopped    time.Time // when a body has returned an error; zero if none has
}

// A rangeProcess is a life of a rangeDriver. Nothing that happens after its end is noted.
type rangeProcess struct {
	*rangeDriver
	n      int
	life   *rangeLife
	rt     *activity.Runtime
	cancel context.CancelCauseFunc // ends the context of the newest execution

	// Guarded by mu.
	over      bool
	abandoned map[int]bool // numbers of calls whose attempt is fenced
	attempts  map[int]int  // the newest call of each attempt
}

func runRange(s *rangeScript) *rangeDriver {
	r := &rangeDriver{s: s, begun: time.Now(), trace: rangeTrace{records: map[time.Duration]rangeRecords{}}}
	r.forget()
	for i := range s.lives {
		r.live(i)
	}
	time.Sleep(time.Minute) // the bodies of all lives have returned
	return r
}

// forget is called when the work begins anew.
func (r *rangeDriver) forget() {
	r.work = rangeWork{done: map[int]bool{}, from: -1 << 30, recorded: map[int]bool{}, next: -1 << 30}
}

// stands is called when a life begins on cp. A kill may have lost what was recorded after a
// cancellation, because such a heartbeat does not wait for the Store.
func (r *rangeDriver) stands(cp activity.Checkpoint) {
	var progress activity.RangeProgress
	if found, err := cp.HeartbeatDetails(nil, &progress); found && err == nil {
		r.work.newest(progress)
		return
	}
	r.work.begun, r.work.recorded, r.work.next = false, nil, -1<<30
}

// newest notes the newest record.
func (w *rangeWork) newest(p activity.RangeProgress) {
	w.recorded, w.next = map[int]bool{}, p.Next
	for _, i := range p.Done {
		w.recorded[i] = true
	}
}

func (r *rangeDriver) sleepUntil(t time.Duration) { time.Sleep(t - time.Since(r.begun)) }

func (r *rangeDriver) live(n int) {
	l := &r.s.lives[n]
	r.sleepUntil(l.begin)
	p := &rangeProcess{rangeDriver: r, n: n, life: l, abandoned: map[int]bool{}, attempts: map[int]int{}}
	r.stands(r.stored)
	p.rt = activity.New(activity.Config{Store: &rangeStore{p}, Logger: quiet, Observer: p.observe, SaveInterval: l.save})
	all, end := context.WithCancelCause(context.Background())
	for _, x := range l.actions {
		r.sleepUntil(x.at)
		result := p.do(all, x.kind)
		p.note("%s: %s", x.kind, result)
		synctest.Wait()
	}
	r.sleepUntil(l.end)
	if !l.crash {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := p.rt.Shutdown(ctx); err != nil {
			p.noteProblem("Shutdown: %v", err)
		}
		cancel()
		synctest.Wait()
	}
	p.note("stored: %s", r.checkpoint())
	r.mu.Lock()
	p.over = true
	r.mu.Unlock()
	end(modelError("the process is over"))
	synctest.Wait()
}

// note notes that something happens now.
func (p *rangeProcess) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(time.Now(), format, args...)
}

func (p *rangeProcess) noteLocked(at time.Time, format string, args ...any) {
	if !p.over {
		p.trace.lines = append(p.trace.lines, rangeLine{at.Sub(p.begun), fmt.Sprintf("life %d: ", p.n) + fmt.Sprintf(format, args...)})
	}
}

func (p *rangeProcess) noteProblem(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.problem(format, args...)
	}
}

func (p *rangeProcess) do(all context.Context, kind string) string {
	var err error
	switch kind {
	case "start":
		ctx, cancel := context.WithCancelCause(all)
		_, err = p.rt.Start(ctx, p.options(), p.function)
		if err == nil {
			p.cancel = cancel
		} else {
			cancel(nil)
		}
	case "ctx":
		if _, found := p.rt.Lookup("r"); !found {
			return "not found"
		}
		p.cancel(modelError("user ctx"))
	case "cancel":
		err = p.rt.Cancel("r", modelError("user cancel"))
	case "pause":
		err = p.rt.Pause("r")
	case "unpause":
		err = p.rt.Unpause("r")
	case "drain":
		go func() {
			if p.rt.Drain(all) == nil {
				p.note("drained")
			}
		}()
		return "begun"
	case "status":
		s, found := p.rt.Lookup("r")
		if !found {
			return "not found"
		}
		return fmt.Sprintf("%s #%d done %d of %d, resumed at %d", s.State, s.Attempt, s.Done, s.Total, s.ResumedAt)
	}
	switch {
	case err == nil:
		return "nil"
	case errors.Is(err, activity.ErrNotFound):
		return "not found"
	case errors.Is(err, activity.ErrAlreadyRunning):
		return "already running"
	}
	if _, state, found := strings.Cut(err.Error(), "the activity is "); found {
		return state
	}
	return rangeKind(err)
}

func (p *rangeProcess) options() activity.Options {
	o := p.life.opts
	opts := activity.Options{
		ID: "r", Name: "range", HeartbeatTimeout: o.hb, StartToCloseTimeout: o.s2c, CancelGrace: o.grace, SyncHeartbeats: true,
		RetryPolicy: activity.RetryPolicy{InitialInterval: o.initial, BackoffCoefficient: float64(o.coefficient), MaximumAttempts: o.attempts, ResetOnProgress: o.reset},
	}
	if o.noOverlap {
		opts.MaxAbandoned = activity.NoOverlap
	}
	if o.details != "" {
		opts.HeartbeatDetails = []any{json.RawMessage(o.details)}
	}
	return opts
}

// function is what the activity runs.
func (p *rangeProcess) function(ctx activity.Context) (err error) {
	var details json.RawMessage
	if _, err := ctx.HeartbeatDetails(&details); err != nil {
		p.noteProblem("HeartbeatDetails: %v", err)
	}
	info := ctx.Info()
	l := p.life
	p.mu.Lock()
	if !p.over { // another life may call the function by now
		p.calls++
	}
	w := &rangeWatch{n: p.calls}
	p.attempts[info.Attempt] = w.n
	if !p.over && !p.work.begun { // the details are those of the Options, and what they say is done
		var given activity.RangeProgress
		_ = json.Unmarshal(details, &given)
		for i := l.from; i < l.to; i++ {
			p.work.done[i] = p.work.done[i] || i < given.Next || slices.Contains(given.Done, i)
		}
	}
	p.noteLocked(time.Now(), "call %d of attempt %d resumes %s after %q", w.n, info.Attempt, details, rangeKind(info.LastFailure))
	p.mu.Unlock()

	returned := false
	defer func() { // deferred for a body that panics, or calls runtime.Goexit
		if returned {
			return
		}
		v := recover()
		if v == nil {
			p.note("call %d: the loop returns goexit", w.n)
			return
		}
		p.note("call %d: the loop returns panic", w.n)
		panic(v)
	}()
	call := p.s.call(w.n)
	parallel := func(workers int) error {
		return activity.RangeParallel(ctx, l.from, l.to, workers, func(ctx activity.Context, i int) error { return p.body(ctx, w, workers, i) })
	}
	if call.none {
		err = parallel(-call.workers)
	} else if call.workers == 0 {
		err = activity.Range(ctx, l.from, l.to, func(i int) error { return p.body(ctx, w, 1, i) })
	} else {
		err = parallel(call.workers)
	}
	returned = true
	p.loopReturned(ctx, w, err)
	if call.twice && err == nil {
		err = parallel(1)
	}
	if call.ignores {
		return nil
	}
	return err
}

// loopReturned is called when the loop has returned err.
func (p *rangeProcess) loopReturned(ctx activity.Context, w *rangeWatch, err error) {
	l := p.life
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(time.Now(), "call %d: the loop returns %s", w.n, cmp.Or(rangeKind(err), "nil"))
	if w.running > 0 && !p.over {
		p.problem("call %d: the loop returns, and %d bodies run", w.n, w.running)
	}
	if err == nil && !p.over && !p.fenced(ctx, w) {
		p.work.from = max(p.work.from, l.from)
		for i := p.work.from; i < l.to; i++ {
			if !p.work.done[i] {
				p.problem("call %d: the loop returns nil, and %d is not done", w.n, i)
			}
		}
	}
}

// fenced reports whether the attempt of a call is fenced. The caller holds mu.
func (p *rangeProcess) fenced(ctx context.Context, w *rangeWatch) bool {
	return timedOut(ctx) || p.abandoned[w.n]
}

// body is what the body of number i does in a call of the function.
func (p *rangeProcess) body(ctx activity.Context, w *rangeWatch, workers, i int) error {
	b := p.s.body(w.n, i)
	p.mu.Lock()
	w.running++
	p.noteLocked(time.Now(), "call %d: body %d begins", w.n, i)
	if !p.over {
		p.work.from = max(p.work.from, p.life.from)
		switch {
		case i < p.life.from || i >= p.life.to:
			p.problem("call %d: body %d begins, out of the range", w.n, i)
		case w.running > workers:
			p.problem("call %d: %d bodies run at once, with %d workers", w.n, w.running, workers)
		case !w.stopped.IsZero():
			p.problem("call %d: body %d begins, and another has failed at %s", w.n, i, w.stopped.Sub(p.begun))
		case ctx.Err() != nil:
			p.problem("call %d: body %d begins, and its Context has ended: %v", w.n, i, context.Cause(ctx))
		case p.work.recorded[i] || i < p.work.next:
			p.problem("call %d: body %d begins, and is recorded as done", w.n, i)
		}
	}
	p.mu.Unlock()

	how, err := p.steps(ctx, w, b, i)
	switch how {
	case "told", "cause":
		how = cmp.Or(rangeKind(err), "ok")
	case "ok":
		err = nil
	case "boom", "own":
		err = modelError(how + " error")
	case "inner":
		err = fmt.Errorf("inner activity: %w", activity.ErrShutdown)
	case "fatal":
		err = activity.NonRetryable(modelError("fatal error"))
	}
	p.mu.Lock()
	w.running--
	end := "lives"
	if ctx.Err() != nil {
		end = rangeKind(context.Cause(ctx))
	}
	p.noteLocked(time.Now(), "call %d: body %d ends %s, its Context %s", w.n, i, how, end)
	switch {
	case how != "ok":
		w.stopped = time.Now()
	case !p.over && !p.fenced(ctx, w):
		p.work.done[i] = true
	}
	p.mu.Unlock()
	switch how {
	case "panic":
		panic(modelError("panic"))
	case "goexit":
		runtime.Goexit()
	}
	return err
}

// steps does the steps of a body, and returns how it ends: "told" with the error that it has
// been told, "cause" with the cause of ctx, or as rangeBody says.
func (p *rangeProcess) steps(ctx activity.Context, w *rangeWatch, b rangeBody, i int) (string, error) {
	for _, step := range b.steps {
		var err error
		switch step.op {
		case "sleep":
			err = ctx.Sleep(step.d)
		case "deaf":
			time.Sleep(step.d)
		case "beat":
			err = ctx.Heartbeat()
			p.note("call %d: body %d heartbeats: %s", w.n, i, rangeKind(err))
		case "hang":
			<-ctx.Done()
			err = context.Cause(ctx)
		}
		if err != nil {
			time.Sleep(b.late)
			if b.told == "cause" {
				return "told", err
			}
			return b.told, nil
		}
	}
	return b.end, context.Cause(ctx)
}

func (p *rangeProcess) observe(e activity.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	var failed *activity.Error
	errors.As(e.Err, &failed)
	text := fmt.Sprintf("%s #%d", e.Kind, e.Attempt)
	switch e.Kind {
	case activity.EventHeartbeat:
		var details json.RawMessage
		if found, err := e.HeartbeatDetails(&details); err != nil {
			p.problem("an Event's HeartbeatDetails: %v", err)
		} else if found {
			p.records(e.Time.Sub(p.begun), e.Attempt, details)
		}
		return
	case activity.EventAttemptFailed:
		text += fmt.Sprintf(" %s, next in %s", rangeKind(e.Err), e.Delay)
	case activity.EventFailed:
		text += fmt.Sprintf(" %s: %s", failed.RetryState, rangeKind(failed.Err))
	case activity.EventCanceled:
		// The error of the function, which may wrap ErrShutdown too, is wrapped beside the cause.
		for _, cause := range []error{modelError("user cancel"), modelError("user ctx"), activity.ErrShutdown} {
			if errors.Is(failed, cause) {
				text += fmt.Sprintf(" %s: %s", failed.RetryState, rangeKind(cause))
				break
			}
		}
	case activity.EventAbandoned:
		p.abandoned[p.attempts[e.Attempt]] = true
	case activity.EventCompleted:
		p.forget()
	}
	p.noteLocked(e.Time, "%s", text)
}

// records is called when an attempt has recorded details. The caller holds mu.
func (p *rangeProcess) records(at time.Duration, attempt int, details json.RawMessage) {
	p.trace.record(p.n, at, string(details))
	var progress activity.RangeProgress
	if err := json.Unmarshal(details, &progress); err != nil {
		p.problem("attempt %d records %s: %v", attempt, details, err)
		return
	}
	before := p.work
	p.work.begun = true
	p.work.newest(progress)
	recorded := p.work.recorded
	for i := max(p.work.from, p.life.from); i < p.life.to; i++ {
		if (i < progress.Next || recorded[i]) && !p.work.done[i] {
			p.problem("attempt %d records %s, and %d is not done", attempt, details, i)
		}
	}
	for i := range before.recorded {
		if i >= progress.Next && !recorded[i] {
			p.problem("attempt %d records %s, and the record before had %d done", attempt, details, i)
		}
	}
	if progress.Next < before.next {
		p.problem("attempt %d records %s, and the record before had Next %d", attempt, details, before.next)
	}
}

// rangeKind returns what kind of error err is, by the text that stands first in its own. It
// is empty for nil.
func rangeKind(err error) string {
	if err == nil {
		return ""
	}
	return rangeKindOf(err.Error())
}

func rangeKindOf(text string) string {
	kind, at := text, len(text)
	for what, k := range map[string]string{
		"heartbeat timeout": "", "start-to-close timeout": "", "boom error": "boom", "own error": "own", "inner activity": "inner", "fatal error": "fatal", "panic": "", "runtime.Goexit": "goexit",
		"cannot resume": "cannot", "an attempt has one Range": "twice", "workers must be at least 1": "none", "user cancel": "", "user ctx": "", "is shut down": "shutdown", "is paused": "paused",
		"the process ended": "crash", "had been made before": "made before",
	} {
		if i := strings.Index(text, what); i >= 0 && i < at {
			kind, at = cmp.Or(k, what), i
		}
	}
	return kind
}

// checkpoint returns what the Store holds.
func (r *rangeDriver) checkpoint() rangeStored {
	r.mu.Lock()
	defer r.mu.Unlock()
	cp := r.stored
	if cp.State == 0 {
		return rangeStored{}
	}
	var details json.RawMessage
	if _, err := cp.HeartbeatDetails(nil, &details); err != nil {
		r.problem("a Checkpoint's HeartbeatDetails: %v", err)
	}
	c := rangeStored{
		state: cp.State.String(), attempt: cp.Attempt, from: cp.CountedFrom, progressed: cp.Progressed,
		scheduled: cp.ScheduledAt.Sub(r.begun), updated: cp.UpdatedAt.Sub(r.begun), details: string(details), failure: rangeKindOf(cp.LastFailure),
	}
	if !cp.NextAttempt.IsZero() {
		c.next = cp.NextAttempt.Sub(r.begun)
	}
	return c
}

// A rangeStore is the Store of one life. It takes no time. After the end of its process it
// takes nothing any more, and says that it does.
type rangeStore struct{ p *rangeProcess }

func (s *rangeStore) Save(_ context.Context, batch []activity.Checkpoint) error {
	for _, cp := range batch {
		s.set(cp)
	}
	return nil
}

func (s *rangeStore) Delete(context.Context, []string) error {
	s.set(activity.Checkpoint{})
	return nil
}

func (s *rangeStore) set(cp activity.Checkpoint) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if !s.p.over {
		cp.Details = bytes.Clone(cp.Details)
		s.p.stored = cp
	}
}

func (s *rangeStore) Load(context.Context, string) (activity.Checkpoint, bool, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	cp := s.p.stored
	cp.Details = bytes.Clone(cp.Details)
	return cp, cp.State != 0, nil
}

func (s *rangeStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		if cp, found, err := s.Load(ctx, ""); found {
			yield(cp, err)
		}
	}
}

// rangeDiff runs a script in the model and in the package. It returns an empty string if they
// agree.
func rangeDiff(t *testing.T, s *rangeScript, counts map[string]int) string {
	m := &rangeModel{s: s}
	m.run()
	if m.tie {
		counts["two things at one instant"]++
		return ""
	}
	for k, n := range m.counts {
		counts[k] += n
	}
	var r *rangeDriver
	synctest.Test(t, func(*testing.T) { r = runRange(s) })
	problems := slices.Clone(r.problems)
	r.trace.end = m.trace.end
	for at, got := range r.trace.records {
		if most := m.trace.records[at].n; got.n > most && most > 0 {
			problems = append(problems, fmt.Sprintf("%s: the package has recorded %d times, want at most %d", at, got.n, most))
		}
	}
	return strings.Join(append(m.trace.missing(&r.trace, "- "), append(r.trace.missing(&m.trace, "+ "), problems...)...), "\n")
}

// Rules 6 and 30. Given random scripts over several lives of a program, whose bodies sleep,
// hang, ignore their Context, fail, panic and exit, when the attempts time out, are retried,
// paused, drained and canceled, and the program is killed or shut down, then Range and
// RangeParallel do just what the model does, and no number is lost.
func TestRangeModel_RandomScripts(t *testing.T) {
	n := *rangeN
	if n == 0 {
		n = 1500
		if testing.Short() {
			n = 300
		}
	}
	counts := map[string]int{}
	for i := range n {
		seed := *rangeSeed + uint64(i)
		s := newRangeScript(seed)
		if diff := rangeDiff(t, s, counts); diff != "" {
			t.Fatalf("seed %d (-range.seed=%d -range.n=1), model -, package +:\n%s\n%s", seed, seed, s, diff)
		}
	}
	checkMet(t, counts, *rangeN, 1500, "completed", "completed after all", "failed", "canceled", "crash in a Range", "shutdown", "left as found",
		"continues running", "continues interrupted", "continues paused", "continues waiting",
		"resumes from nothing", "nothing is left", "fewer numbers than workers", "five at once", "records Done", "Range resumes a RangeParallel", "RangeParallel resumes a Range",
		"resumes from above the recorded Next", "grown", "shrunk", "foreign details", "fails: cannot", "fails: none", "fails: twice", "ignored", "status after a resume",
		"heartbeat timeout", "start-to-close timeout", "blocked", "unblocked", "done after the fence", "pausing, abandoned", "canceling, abandoned",
		"fails: boom", "fails: fatal", "fails: panic", "fails: goexit", "an error ends the others", "a later error", "done after the loop has stopped", "a body returns the cause late",
		"told, ok", "told, own", "told, panic", "told, goexit", "records after a cancellation", "several are done at one instant",
		"drain", "drain stops a loop", "drain asks by a heartbeat", "drain lets the others finish, shutdown", "fails: inner", "drain, fails", "stopped by a drain", "told, and timed out",
		"pause running", "pause backing off", "pause blocked", "pause canceling", "pausing, canceled", "unpause paused", "unpause pausing",
		"cancel running", "cancel backing off", "cancel paused", "cancel pausing", "ctx running", "ctx backing off", "ctx paused", "ctx pausing")
}
