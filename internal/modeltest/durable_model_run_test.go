package modeltest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
)

var (
	durableSeed = flag.Uint64("durable.seed", 1, "the first seed of the durability model tests")
	durableN    = flag.Int("durable.n", 0, "how many scripts each durability model test runs; 0: a default")
)

// A durableRun runs a script against the package, one life after the other.
type durableRun struct {
	s      *durableScript
	faulty bool // the Store takes its time and fails, and only invariants are checked
	begun  time.Time
	late   time.Duration // what a Shutdown has taken
	end    chan struct{} // closed when the script is over: what a Store has held up goes on
	lines  []string

	mu       sync.Mutex
	problems []string
	troubles map[string]int // how often the Store was in trouble, and which
	ids      [durableIDs]durableTrack
}

// A durableTrack is what the invariants have to know of an ID.
type durableTrack struct {
	made    int                     // how many details, in all lives
	details int                     // those that stand for the ID
	maybe   int                     // or these do, because a Commit has failed; 0: no
	unsure  bool                    // or none do, because Forget has failed
	stands  activity.Checkpoint     // how it was left: whole by the life before, else its state; the zero Checkpoint: nothing is
	ran     map[durableAttempt]bool // not those that were canceled
	saved   map[durableAttempt]bool // whose start the Store has taken
	begun   bool                    // an attempt of the activity that was scheduled last
	excused map[durableAttempt]bool // which ended in ErrCannotResume
	asked   bool                    // to end, since it was scheduled
	paused  bool                    // since it was scheduled, and not unpaused
	steered bool                    // paused, unpaused or retried since it was scheduled
	other   bool                    // a start in this life has another input than what stands
	gone    bool                    // the success was told, and nothing was stored
	pending bool                    // or it was stored: the delete stands
}

type durableAttempt struct {
	scheduled int64
	n         int
}

func goesOn(s activity.CheckpointState) bool {
	return s == activity.CheckpointRunning || s == activity.CheckpointInterrupted || s == activity.CheckpointWaiting || s == activity.CheckpointPaused
}

func (r *durableRun) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s: ", time.Since(r.begun))+fmt.Sprintf(format, args...))
}

// A durableProcess is a life of a durableRun. What is said after its end counts
// no more.
type durableProcess struct {
	*durableRun
	life    *durableLife
	store   *durableStore
	rt      *activity.Runtime
	ctxs    []context.Context
	cancels []context.CancelCauseFunc
	calling sync.WaitGroup // Forget, Recover and Checkpoints

	// Guarded by mu.
	over    bool
	handles []*activity.Handle[int]
	results []string
	steered []string
	events  [durableIDs][]string
	calls   [durableIDs][]string
}

func runDurable(s *durableScript, faulty bool) *durableRun {
	r := &durableRun{s: s, faulty: faulty, begun: time.Now(), end: make(chan struct{}), troubles: map[string]int{}}
	for i := range r.ids {
		r.ids[i] = durableTrack{ran: map[durableAttempt]bool{}, saved: map[durableAttempt]bool{}, excused: map[durableAttempt]bool{}}
	}
	var content map[string]activity.Checkpoint
	for i := range s.lives {
		content = r.live(i, content)
	}
	close(r.end)
	time.Sleep(time.Minute) // no Store call of a life before is under way any more
	return r
}

// live runs a life on what the one before has left, and returns what it leaves.
func (r *durableRun) live(n int, content map[string]activity.Checkpoint) map[string]activity.Checkpoint {
	l := &r.s.lives[n]
	r.late = max(r.late, time.Since(r.begun)-l.begin)
	r.sleepUntil(l.begin)
	p := &durableProcess{durableRun: r, life: l, handles: make([]*activity.Handle[int], len(l.actions)), results: make([]string, len(l.actions))}
	p.store = &durableStore{p: p, lost: make(chan struct{}), content: map[string]activity.Checkpoint{}, tried: map[string]int{}}
	if r.faulty {
		rand := rand.New(rand.NewPCG(r.s.seed, uint64(n)))
		p.store.rand = rand
		p.store.sickFrom = l.begin + r.late + time.Duration(rand.Int64N(int64(l.end-l.begin)))
		p.store.sickTo = p.store.sickFrom + time.Duration(rand.Int64N(int64(8*time.Second)))
		p.store.refused, p.store.limit = strconv.Itoa(rand.IntN(2*durableIDs)), 1+rand.IntN(2*durableIDs)
	}
	maps.Copy(p.store.content, content)
	r.mu.Lock()
	for i := range r.ids {
		t, cp := &r.ids[i], content[strconv.Itoa(i)]
		t.stands, t.details, t.unsure, t.asked, t.gone, t.pending, t.other = cp, durableDetails(cp), false, false, false, false, false
		t.maybe = 0
		t.paused, t.steered = false, false
	}
	r.mu.Unlock()
	p.rt = activity.New(activity.Config{Store: p.store, Logger: quiet, Observer: p.observe, MaxConcurrent: l.slots, SaveInterval: l.sync, StoreTimeout: durableStoreTimeout})
	ctx, cancel := context.WithCancelCause(context.Background())
	for range l.actions {
		ctx, cancel := context.WithCancelCause(ctx)
		p.ctxs, p.cancels = append(p.ctxs, ctx), append(p.cancels, cancel)
	}
	steer := func(before time.Duration) {
		lose := func(before time.Duration) {
			if l.lost > 0 && l.lost <= before && !p.store.isLost() {
				r.sleepUntil(l.lost)
				p.store.lose()
				synctest.Wait()
			}
		}
		for len(p.steered) < len(l.steers) && l.steers[len(p.steered)].at <= before {
			x := l.steers[len(p.steered)]
			lose(x.at)
			r.sleepUntil(x.at)
			p.steered = append(p.steered, p.steer(x))
			synctest.Wait()
		}
		lose(before)
	}
	for i, x := range l.actions {
		steer(x.at)
		r.sleepUntil(x.at)
		if x.kind == "forget" || x.kind == "recover" || x.kind == "unfinished" {
			p.calling.Go(func() { p.act(i) })
		} else {
			go p.act(i)
		}
		synctest.Wait()
	}
	steer(l.end)
	r.sleepUntil(l.end)
	if !l.crash {
		p.calling.Wait() // these calls are not Shutdown's to wait for
		p.shutdown()
	}
	left := p.stop(n)
	if !p.store.isLost() {
		p.store.lose() // what waits for that must end with the bubble
	}
	cancel(modelError("the process is over"))
	synctest.Wait()
	return left
}

func (r *durableRun) sleepUntil(t time.Duration) { time.Sleep(t + r.late - time.Since(r.begun)) }

func (p *durableProcess) shutdown() {
	p.mu.Lock()
	for i := range p.ids {
		p.ids[i].asked = true
	}
	p.mu.Unlock()
	if d := p.life.drain; d > 0 {
		ends := time.Now().Add(d)
		ctx, cancel := context.WithDeadline(context.Background(), ends)
		err := p.rt.Drain(ctx)
		cancel()
		synctest.Wait()
		if late := time.Now().After(ends); late || (err != nil) != time.Now().Equal(ends) {
			p.mu.Lock()
			p.problem("Drain returned %v, %s before its end", err, time.Until(ends))
			p.mu.Unlock()
		}
		time.Sleep(time.Until(ends))
		synctest.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	err := p.rt.Shutdown(ctx)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store.closed = true
	if p.store.isLost() && (err == nil || errors.Is(err, activity.ErrStoreLost)) {
		return
	}
	if err != nil {
		p.problem("Shutdown: %v", err)
		return
	}
	for i := range p.ids {
		t, got := &p.ids[i], p.store.content[strconv.Itoa(i)]
		want := t.stands
		if want.State == durableEither {
			continue
		}
		if want.State == 0 && got.State != 0 {
			p.problem("after Shutdown the Store has a checkpoint of %d: %s", i, p.stored(got))
		}
		if want.ID != "" {
			got.Sequence = want.Sequence // which may have grown
		} else if want.State != 0 {
			want = got
			want.State = t.stands.State
			if t.stands.Attempt >= 0 {
				want.Attempt = t.stands.Attempt
			}
			if p.faulty && durableDetails(got) != t.details && (t.maybe == 0 || durableDetails(got) != t.maybe) {
				p.problem("after Shutdown the Store has details %d of %d, and the newest are %d", durableDetails(got), i, t.details)
			}
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			p.problem("after Shutdown the Store's checkpoint of %d is (-want +got):\n%s", i, diff)
		}
	}
}

// stop ends the life, and returns what its Store durably holds.
func (p *durableProcess) stop(n int) map[string]activity.Checkpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over, p.store.cut = true, true
	say := func(what string, i int, line string) {
		p.lines = append(p.lines, fmt.Sprintf("life %d: %s %d: %s", n, what, i, line))
	}
	for i, h := range p.handles {
		if h != nil {
			select {
			case <-h.Done():
				out, err := h.Wait(context.Background())
				p.results[i] = fmt.Sprintf("gives %d", out)
				if err != nil {
					p.results[i] = durableError(err)
				}
			default:
			}
		}
		say("action", i, p.life.actions[i].kind+" "+p.results[i])
	}
	for i, result := range p.steered {
		say("steer", i, p.life.steers[i].kind+" "+result)
	}
	for i := range p.ids {
		for _, line := range p.events[i] {
			say("event", i, line)
		}
		for _, line := range p.calls[i] {
			say("call", i, line)
		}
		cp, found := p.store.content[strconv.Itoa(i)]
		if found {
			say("stored", i, p.stored(cp).String())
		}
		if t := &p.ids[i]; cp.State == activity.CheckpointInterrupted || cp.State == activity.CheckpointPaused || cp.State == activity.CheckpointCanceled { // the last attempt may not count
			maps.DeleteFunc(t.ran, func(a durableAttempt, _ bool) bool {
				return a.n == cp.Attempt+1 && (t.asked || t.steered || t.excused[a])
			})
		}
		maps.DeleteFunc(p.ids[i].ran, func(a durableAttempt, _ bool) bool { return !p.ids[i].saved[a] })
	}
	return maps.Clone(p.store.content)
}

func (r *durableRun) since(t time.Time) time.Duration { return t.Sub(r.begun) }

func (r *durableRun) stored(cp activity.Checkpoint) durableStored {
	program, err := strconv.Atoi(string(cp.Input))
	if err != nil || cp.Name != "n"+cp.ID {
		program = -1
	}
	return durableStored{
		state: cp.State.String(), attempt: cp.Attempt, from: cp.CountedFrom, progressed: cp.Progressed, program: program, details: durableDetails(cp),
		scheduled: r.since(cp.ScheduledAt), updated: r.since(cp.UpdatedAt), next: r.next(cp), failure: durableKind(cp.LastFailure),
	}
}

// next is the time of the next attempt, or 0.
func (r *durableRun) next(cp activity.Checkpoint) time.Duration {
	if cp.NextAttempt.IsZero() {
		return 0
	}
	return r.since(cp.NextAttempt)
}

// durableDetails are -1 if they make no sense.
func durableDetails(cp activity.Checkpoint) int {
	n := 0
	if _, err := cp.HeartbeatDetails(nil, &n); err != nil {
		return -1
	}
	return n
}

func (o durableOptions) options(id int) activity.Options {
	all := activity.Options{
		ID: strconv.Itoa(id), Name: fmt.Sprint("n", id), SyncHeartbeats: o.sync, AcceptNewInput: o.accept,
		HeartbeatTimeout: o.hb, StartToCloseTimeout: o.s2c, ScheduleToStartTimeout: o.sts, ScheduleToCloseTimeout: o.stc,
		RetryPolicy: activity.RetryPolicy{InitialInterval: o.initial, BackoffCoefficient: float64(o.coefficient), MaximumAttempts: o.attempts, ResetOnProgress: o.reset},
	}
	if o.details != 0 {
		all.HeartbeatDetails = []any{o.details}
	}
	return all
}

func (p *durableProcess) options(x durableAction, id int) activity.Options {
	o := x.opts[id]
	if p.faulty {
		o.details = 0
	}
	return o.options(id)
}

func (p *durableProcess) act(i int) {
	x, ctx := p.life.actions[i], p.ctxs[i]
	result := ""
	var handle *activity.Handle[int]
	switch x.kind {
	case "start":
		p.begins(x.id, x.program)
		var err error
		handle, err = activity.Start(ctx, p.rt, p.options(x, x.id), p.function(x.id, false), x.program)
		if err != nil {
			result = durableError(err)
			break
		}
		p.accepted(x.id, handle.Status().State)
	case "recover":
		var defs []activity.Recoverable
		for id := range durableIDs {
			p.begins(id, -1)
			if id != x.unknown {
				opts := p.options(x, id)
				name := opts.Name
				opts.ID, opts.Name = "", "" // which are the execution's
				defs = append(defs, &activity.Definition[int, int]{Name: name, Options: opts, Func: p.function(id, true)})
			}
		}
		n, err := p.rt.Recover(ctx, defs...)
		if errors.Is(err, activity.ErrStoreLost) && n == 0 {
			result = "lost"
			break
		}
		var unknown []int
		for id := range durableIDs {
			if err != nil && strings.Contains(err.Error(), fmt.Sprintf("activity %q", strconv.Itoa(id))) {
				unknown = append(unknown, id)
			}
		}
		result = fmt.Sprintf("%d, unknown %v", n, unknown)
	case "unfinished":
		for cp, err := range p.rt.Checkpoints(ctx) {
			if err != nil {
				result += err.Error()
				break
			}
			result += fmt.Sprintf("%s %s ", cp.ID, cp.State)
		}
	case "cancel", "ctx":
		if x.of < 0 {
			break
		}
		p.mu.Lock()
		h := p.handles[x.of]
		for id := range p.ids {
			if from := p.life.actions[x.of]; from.kind == "recover" || from.id == id {
				p.ids[id].asked = true
			}
		}
		p.mu.Unlock()
		if x.kind == "ctx" {
			p.cancels[x.of](modelError("user ctx"))
		} else if h != nil {
			h.Cancel(modelError("user cancel"))
		}
	case "forget":
		if err := p.rt.Forget(ctx, strconv.Itoa(x.id)); err != nil {
			result = durableError(err)
			if !errors.Is(err, activity.ErrAlreadyRunning) && !errors.Is(err, activity.ErrStoreLost) {
				p.mu.Lock()
				if t := &p.ids[x.id]; !p.over {
					t.stands, t.unsure = activity.Checkpoint{State: durableEither}, true
				}
				p.mu.Unlock()
			}
		} else {
			p.forgotten(x.id)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.handles[i], p.results[i] = handle, result
	}
}

func (p *durableProcess) steer(x durableSteer) string {
	steer := map[string]func(string) error{"pause": p.rt.Pause, "unpause": p.rt.Unpause, "retry": p.rt.RetryNow}[x.kind]
	err := steer(strconv.Itoa(x.id))
	switch {
	case errors.Is(err, activity.ErrNotFound):
		return "not found"
	case err != nil:
		_, state, _ := strings.Cut(err.Error(), "the activity is ")
		return state
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.ids[x.id]
	t.paused, t.steered = (t.paused || x.kind == "pause") && x.kind != "unpause", true
	return "nil"
}

// durableEither stands for an ID that another input was accepted for, or that Forget has
// failed for: it may be left as it was found, or not.
const durableEither activity.CheckpointState = -1

// begins is called before a start. Recover gives it the program -1.
func (p *durableProcess) begins(id, program int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.ids[id]
	t.gone = false
	t.other = t.other || program >= 0 && string(t.stands.Input) != strconv.Itoa(program)
}

// accepted is called when Start has returned nil.
func (p *durableProcess) accepted(id int, state activity.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ended := state == activity.StateCompleted || state == activity.StateFailed || state == activity.StateCanceled
	if cp, found := p.store.content[strconv.Itoa(id)]; !p.over && !ended && !p.store.isLost() && (!found || !goesOn(cp.State)) {
		p.problem("Start of %d returned nil, it is %s, and the Store has: %s", id, state, p.stored(cp))
	}
}

func (p *durableProcess) forgotten(id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if _, found := p.store.content[strconv.Itoa(id)]; found {
		p.problem("Forget of %d returned nil, and it is stored", id)
	}
	p.ids[id].stands, p.ids[id].details, p.ids[id].unsure = activity.Checkpoint{}, 0, false
}

// function is what one activity runs.
func (p *durableProcess) function(id int, recovered bool) func(activity.Context, int) (int, error) {
	calls := 0
	return func(ctx activity.Context, program int) (int, error) {
		calls++
		n := ctx.Info().Attempt
		p.entered(ctx, id, program, calls == 1, recovered)
		defer p.left(ctx, id)
		try := p.s.try(program, id, n)
		for _, step := range try.steps {
			var err error
			switch step.op {
			case "sleep":
				err = ctx.Sleep(step.d)
			case "beat":
				err = ctx.Heartbeat()
			case "note":
				err = ctx.Heartbeat(p.details(ctx, id, step.v))
			case "commit":
				err = p.commit(ctx, id, step.v)
			}
			if err != nil {
				if ctx.Err() == nil && errors.Is(err, activity.ErrShutdown) { // a drain's, whose attempt does not count
					p.excuse(ctx, id)
				}
				return 0, cleanUp(ctx, try, err)
			}
		}
		switch try.end {
		case "hang":
			<-ctx.Done()
			return 0, cleanUp(ctx, try, context.Cause(ctx))
		case "boom":
			return 0, modelError("boom")
		case "later":
			return 0, activity.RetryAfter(modelError("later"), try.later)
		case "cannot":
			p.excuse(ctx, id)
			return 0, fmt.Errorf("details: %w", activity.ErrCannotResume)
		case "fatal":
			return 0, activity.NonRetryable(modelError("fatal"))
		case "panic":
			panic(modelError("panic"))
		}
		return 100*program + n, nil
	}
}

// commit is a Commit with details v or, with a faulty Store, with new ones.
func (p *durableProcess) commit(ctx activity.Context, id, v int) error {
	t := &p.ids[id]
	if p.faulty {
		p.mu.Lock()
		t.made++
		v = t.made
		p.mu.Unlock()
	}
	return activity.Commit(ctx, func(cp activity.Checkpoint) error {
		err, done, beat := error(nil), false, 0
		if p.faulty && v%3 == 0 { // a heartbeat with newer details during the Commit
			p.mu.Lock()
			t.made++
			beat = t.made
			p.mu.Unlock()
			if timedOut(ctx) {
				beat = 0
			}
			_ = ctx.Heartbeat(beat) // which may have to wait, for this very Commit
		}
		defer func() { // inside Guard, so that the next attempt sees it
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case p.over || !p.faulty:
			case beat != 0:
				p.troubles["beat"]++
				t.details = beat
			case done && err == nil:
				t.details = v
			default:
				t.maybe = v
			}
		}()
		err = p.store.commit(cp)
		done = true
		return err
	}, v)
}

// cleanUp takes its time before a canceled function returns err.
func cleanUp(ctx activity.Context, try durableTry, err error) error {
	if ctx.Err() != nil && !timedOut(ctx) {
		time.Sleep(try.cleanup)
	}
	return err
}

// entered is called when a function starts.
func (p *durableProcess) entered(ctx activity.Context, id, program int, first, recovered bool) {
	info := ctx.Info()
	resumes, err := activity.Resume(ctx, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	if err != nil {
		p.problem("%d resumes: %v", id, err)
	}
	failure := ""
	if info.LastFailure != nil {
		failure = durableKind(info.LastFailure.Error())
	}
	p.calls[id] = append(p.calls[id], fmt.Sprintf("%s #%d input %d resumes %d scheduled %s after %q", time.Since(p.begun), info.Attempt, program, resumes, p.since(info.ScheduledAt), failure))

	t, cp := &p.ids[id], p.store.content[info.ID]
	if (first || !p.faulty) && (cp.State != activity.CheckpointRunning || cp.Attempt != info.Attempt) {
		p.problem("attempt %d of %d starts, and the Store has: %s", info.Attempt, id, p.stored(cp))
	}
	if first && !t.steered && goesOn(t.stands.State) && t.stands.NextAttempt.After(time.Now()) {
		p.problem("attempt %d of %d starts, and its backoff ends at %s", info.Attempt, id, p.since(t.stands.NextAttempt))
	}
	if p.store.tried[info.ID] != info.Attempt && (p.store.writing == nil || p.store.writing.Err() == nil) {
		p.problem("attempt %d of %d starts, and its start was not tried to be saved", info.Attempt, id)
	}
	if t.unsure && resumes == 0 {
		t.details = 0
	}
	if t.maybe != 0 && resumes == t.maybe {
		t.details = t.maybe
	}
	t.unsure, t.maybe = false, 0
	if p.faulty && resumes != t.details {
		p.problem("attempt %d of %d resumes from %d, and the newest are %d", info.Attempt, id, resumes, t.details)
	}
	if first && recovered && !goesOn(t.stands.State) && t.stands.State != durableEither {
		p.problem("%d was recovered, and is %s", id, t.stands.State)
	}
	key := durableAttempt{info.ScheduledAt.UnixNano(), info.Attempt}
	if t.ran[key] && !t.excused[key] {
		p.problem("attempt %d of %d runs again", info.Attempt, id)
	}
	t.ran[key] = true
	delete(t.excused, key)
}

func (p *durableProcess) left(ctx activity.Context, id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && ctx.Err() != nil && !timedOut(ctx) {
		key := durableAttempt{ctx.Info().ScheduledAt.UnixNano(), ctx.Info().Attempt}
		delete(p.ids[id].ran, key)
		delete(p.ids[id].saved, key) // the next attempt may have its number
	}
}

// excuse notes that the attempt of ctx does not count.
func (p *durableProcess) excuse(ctx activity.Context, id int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		p.ids[id].excused[durableAttempt{ctx.Info().ScheduledAt.UnixNano(), ctx.Info().Attempt}] = true
	}
}

// details are those that a function is about to record. With a faulty Store they
// only grow.
func (p *durableProcess) details(ctx activity.Context, id, v int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.ids[id]
	if !p.faulty {
		return v
	}
	if p.over || ctx.Err() != nil {
		return t.details
	}
	if v%2 == 1 || t.details == 0 {
		t.made++
		t.details = t.made
	}
	return t.details
}

func (p *durableProcess) observe(e activity.Event) {
	id, _ := strconv.Atoi(e.ID)
	line := fmt.Sprintf("%s %s #%d", p.since(e.Time), e.Kind, e.Attempt)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	t := &p.ids[id]
	var failed *activity.Error
	errors.As(e.Err, &failed)
	switch e.Kind {
	case activity.EventScheduled:
		t.begun, t.asked, t.steered = false, false, false
		t.paused = t.stands.State == activity.CheckpointPaused
		if t.stands.ID != "" && t.other {
			t.stands = activity.Checkpoint{State: durableEither}
		}
	case activity.EventAttemptStarted:
		t.begun = true
	case activity.EventAttemptFailed:
		line += fmt.Sprintf(" %s, next in %s", durableKind(e.Err.Error()), e.Delay)
	case activity.EventCompleted:
		_, found := p.store.content[e.ID]
		if found && !t.asked {
			p.problem("%d has completed, and is stored", id)
		}
		t.gone, t.pending, t.stands, t.details, t.maybe = !found, found, activity.Checkpoint{}, 0, 0
	case activity.EventFailed:
		line += fmt.Sprintf(" %s: %s", failed.RetryState, durableKind(failed.Err.Error()))
		t.stands = activity.Checkpoint{State: activity.CheckpointFailed, Attempt: failed.Attempt}
		if t.steered {
			t.stands.Attempt = -1 // the last one may not count
		}
		if errors.Is(failed, activity.ErrCannotResume) && failed.RetryState == activity.RetryStateNonRetryableFailure {
			t.stands = activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: failed.Attempt - 1}
		}
	case activity.EventCanceled:
		kind := durableKind(failed.Err.Error())
		line += fmt.Sprintf(" %s: %s", failed.RetryState, kind)
		switch {
		case kind == "lost":
			t.stands = activity.Checkpoint{State: durableEither}
		case kind == "cancel":
			t.stands = activity.Checkpoint{State: activity.CheckpointCanceled, Attempt: -1}
		case t.begun || t.steered || !goesOn(t.stands.State) && t.stands.State != durableEither:
			t.stands = activity.Checkpoint{State: activity.CheckpointInterrupted, Attempt: -1}
			if t.paused {
				t.stands.State = activity.CheckpointPaused
			}
		}
	case activity.EventPaused, activity.EventUnpaused:
	default:
		return
	}
	p.events[id] = append(p.events[id], line)
}

func durableError(err error) string {
	var e *activity.Error
	switch {
	case errors.Is(err, activity.ErrAlreadyRunning):
		return "already running"
	case errors.Is(err, activity.ErrCheckpointMismatch):
		return "mismatch"
	case errors.Is(err, activity.ErrStoreLost) && !errors.As(err, &e):
		return "lost"
	case errors.As(err, &e):
		return fmt.Sprintf("error #%d %s: %s", e.Attempt, e.RetryState, durableKind(e.Err.Error()))
	}
	return err.Error()
}

// durableKind is what kind of failure a text begins with.
func durableKind(text string) string {
	kind, at := text, len(text)
	for what, k := range map[string]string{
		"heartbeat timeout": "", "start-to-close timeout": "", "schedule-to-start timeout": "", "schedule-to-close timeout": "",
		"boom": "", "later": "", "fatal": "", "cannot resume": "cannot", "panic": "", "user cancel": "cancel", "user ctx": "ctx", "is shut down": "shutdown", "the Store has lost": "lost",
		"the process ended": "crash", "had been made before": "made before",
	} {
		if i := strings.Index(text, what); i >= 0 && i < at {
			kind, at = cmp.Or(k, what), i
		}
	}
	return kind
}

// A durableStore is the Store of one life. Guarded by durableRun.mu.
type durableStore struct {
	p                *durableProcess
	rand             *rand.Rand // nil: it takes no time, and never fails
	sickFrom, sickTo time.Duration
	refused          string // the ID that it does not take while it is sick
	limit            int    // how many checkpoints it takes at once while it is sick
	content          map[string]activity.Checkpoint
	tried            map[string]int  // the last attempt that a Save had, once that has returned
	saving           []string        // the IDs that are being saved
	lost             chan struct{}   // closed when it is lost
	cut              bool            // the process was killed
	closed           bool            // Shutdown has returned nil
	writing          context.Context // of the call that writes; it has ended if that is late
}

const durableStoreTimeout = 5 * time.Second

var errDurable = errors.New("the disk fails")

// sick reports whether the Store is in trouble. Guarded by durableRun.mu.
func (s *durableStore) sick() bool {
	now := time.Since(s.p.begun)
	return s.rand != nil && !s.cut && now >= s.sickFrom && now <= s.sickTo
}

// trouble is what a call meets: it takes time, and may fail or hang.
func (s *durableStore) trouble(ctx context.Context) error {
	s.p.mu.Lock()
	if s.closed && !s.p.over && !s.isLost() {
		s.p.problem("the Store is called after Shutdown")
	}
	delay, luck := time.Duration(0), 1.0
	if s.rand != nil && !s.cut {
		delay, luck = time.Duration(s.rand.Int64N(int64(50*time.Millisecond))), s.rand.Float64()
		if s.rand.IntN(10) == 0 {
			delay *= 40
		}
		if !s.sick() {
			luck = 1
		}
		if luck < 0.03 {
			s.p.troubles["hangs"]++
			delay += time.Duration(s.rand.Int64N(int64(3 * durableStoreTimeout)))
		}
	}
	s.p.mu.Unlock()
	time.Sleep(delay)
	s.p.mu.Lock()
	cut := s.cut
	s.p.mu.Unlock()
	switch {
	case cut && s.p.s.seed%2 == 0:
		select {
		case <-s.p.end:
		case <-ctx.Done():
		}
		return errDurable
	case cut, luck < 0.3:
		return errDurable
	case luck < 0.35:
		s.count("panics")
		panic(errDurable)
	case luck < 0.4:
		s.count("exits")
		runtime.Goexit()
	}
	return nil
}

func (s *durableStore) count(trouble string) {
	s.p.mu.Lock()
	s.p.troubles[trouble]++
	s.p.mu.Unlock()
}

// write changes the content for these IDs, or fails before or after that.
func (s *durableStore) write(ctx context.Context, ids []string, apply func()) error {
	s.p.mu.Lock()
	if s.writing != nil && !s.p.over {
		s.p.problem("two writes at once")
	}
	if s.isLost() && !s.p.over {
		s.p.problem("a write after the Store was lost")
	}
	s.writing, s.saving = ctx, ids
	s.p.mu.Unlock()
	defer func() {
		s.p.mu.Lock()
		s.writing, s.saving = nil, nil
		s.p.mu.Unlock()
	}()
	return s.change(ctx, ids, apply)
}

// change changes the content, or fails before or after that.
func (s *durableStore) change(ctx context.Context, ids []string, apply func()) error {
	if err := s.trouble(ctx); err != nil {
		return err
	}
	pause := time.Duration(0)
	s.p.mu.Lock()
	fails := s.sick() && s.rand.IntN(10) == 0
	switch {
	case s.sick() && len(ids) > s.limit:
		s.p.troubles["refuses many"]++
		s.p.mu.Unlock()
		return errDurable
	case s.sick() && slices.Contains(ids, s.refused):
		s.p.troubles["refuses one"]++
		s.p.mu.Unlock()
		return errDurable
	case s.rand != nil:
		pause = time.Duration(s.rand.Int64N(int64(30 * time.Millisecond)))
	}
	if !s.cut {
		apply()
	}
	s.p.mu.Unlock()
	time.Sleep(pause) // killed here, it is durable and nobody was told
	if fails {
		s.count("fails after the write")
		return errDurable
	}
	return nil
}

// commit is the transaction of a Commit.
func (s *durableStore) commit(cp activity.Checkpoint) error {
	s.p.mu.Lock()
	if slices.Contains(s.saving, cp.ID) && !s.p.over {
		s.p.problem("a Commit of %s during a Save of it", cp.ID)
	}
	s.p.mu.Unlock()
	return s.change(context.Background(), []string{cp.ID}, func() { s.take(cp) })
}

func (s *durableStore) Lost() <-chan struct{} { return s.lost }

func (s *durableStore) lose() { close(s.lost) }

func (s *durableStore) isLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

func (s *durableStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	ids := make([]string, len(batch))
	for i := range batch {
		ids[i] = batch[i].ID
	}
	defer func() {
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		for _, cp := range batch {
			s.tried[cp.ID] = cp.Attempt
		}
	}()
	return s.write(ctx, ids, func() {
		for _, cp := range batch {
			s.take(cp)
		}
	})
}

func (s *durableStore) take(cp activity.Checkpoint) {
	id, _ := strconv.Atoi(cp.ID)
	t := &s.p.ids[id]
	before, found := s.content[cp.ID]
	if found && cp.Sequence <= before.Sequence {
		s.p.problem("the Store has sequence %d of %d, and gets %d", before.Sequence, id, cp.Sequence)
	}
	if s.p.faulty && !t.pending && durableDetails(cp) < durableDetails(before) {
		s.p.problem("the Store has details %d of %d, and gets %d", durableDetails(before), id, durableDetails(cp))
	}
	if t.gone {
		s.p.problem("the Store gets a %s checkpoint of %d, whose success was told", cp.State, id)
	}
	t.pending = false
	if cp.State == activity.CheckpointRunning {
		t.saved[durableAttempt{cp.ScheduledAt.UnixNano(), cp.Attempt}] = true
	}
	cp.Input, cp.Details = bytes.Clone(cp.Input), bytes.Clone(cp.Details)
	s.content[cp.ID] = cp
}

func (s *durableStore) Delete(ctx context.Context, ids []string) error {
	return s.write(ctx, ids, func() {
		for _, id := range ids {
			delete(s.content, id)
		}
	})
}

// MayHold is exact in every other script, and true in the rest.
func (s *durableStore) MayHold(id string) bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	_, found := s.content[id]
	return found || s.p.s.seed%2 == 0
}

func (s *durableStore) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	if err := s.trouble(ctx); err != nil {
		return activity.Checkpoint{}, false, err
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	cp, found := s.content[id]
	cp.Input, cp.Details = bytes.Clone(cp.Input), bytes.Clone(cp.Details)
	return cp, found, nil
}

func (s *durableStore) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		for id := range durableIDs {
			cp, found, err := s.Load(ctx, strconv.Itoa(id))
			if (found || err != nil) && !yield(cp, err) || err != nil {
				return
			}
		}
	}
}

// The tests.

// durableDiff runs a script in the model and in the package. Empty: they agree.
func durableDiff(t *testing.T, s *durableScript, counts map[string]int) string {
	m := &durableModel{s: s}
	want := m.run()
	if m.tie {
		counts["two things at one instant"]++
		return ""
	}
	for k, n := range m.counts {
		counts[k] += n
	}
	var r *durableRun
	synctest.Test(t, func(*testing.T) { r = runDurable(s, false) })
	got := r.lines
	byPrefix := func(a, b string) int {
		prefix := func(s string) string { return strings.Join(strings.SplitN(s, ": ", 3)[:2], " ") }
		return cmp.Compare(prefix(a), prefix(b))
	}
	slices.SortStableFunc(want, byPrefix)
	slices.SortStableFunc(got, byPrefix)
	diff := gocmp.Diff(want, got)
	return diff + strings.Join(r.problems, "\n")
}

func durableFaults(t *testing.T, s *durableScript, counts map[string]int) string {
	var r *durableRun
	synctest.Test(t, func(*testing.T) { r = runDurable(s, true) })
	for k, n := range r.troubles {
		counts[k] += n
	}
	return strings.Join(r.problems, "\n")
}

func durableSeeds(yield func(uint64) bool) {
	n := *durableN
	if n == 0 {
		n = 400
		if testing.Short() {
			n = 100
		}
	}
	for i := range n {
		if !yield(*durableSeed + uint64(i)) {
			return
		}
	}
}

// checkMet fails if one of what was never counted, unless the n scripts were fewer than those
// that meet everything. If n is zero, a default number of scripts has run.
func checkMet(t *testing.T, counts map[string]int, n, enough int, what ...string) {
	t.Helper()
	t.Log(counts)
	if testing.Short() || n > 0 && n < enough {
		return
	}
	for _, what := range what {
		if counts[what] == 0 {
			t.Errorf("%q never happened", what)
		}
	}
}

// Rules 20 to 23, 28, 37 and 38. Given random scripts over several lives of a program and a Store
// that takes no time, then the package does just what the model does.
func TestDurableModel_RandomScripts(t *testing.T) {
	counts := map[string]int{}
	for seed := range durableSeeds {
		s := newDurableScript(seed)
		if diff := durableDiff(t, s, counts); diff != "" {
			t.Fatalf("seed %d (-durable.seed=%d -durable.n=1), model -, package +:\n%s\n%s", seed, seed, s, diff)
		}
	}
	checkMet(t, counts, *durableN, 400, "completed", "failed", "canceled", "crash", "shutdown", "recovered running", "recovered interrupted", "crash interval", "left as found", "used up", "closed in downtime", "mismatch", "stored backoff", "waiting saved", "cleanup", "cannot", "drain", "drain, hangs", "drain, fails",
		"pause running", "pause waiting", "pause backing off", "pausing, canceled", "unpause", "retry", "recovered paused", "left paused", "commit", "lost running", "lost canceling", "lost backing off", "lost waiting", "lost paused")
}

// Rules 19 to 24, 28, 37 and 38. Given random scripts and a Store that takes its time, hangs,
// refuses, and fails before the write, after it, and in other ways, then the invariants
// hold.
func TestDurableModel_StoreFaults(t *testing.T) {
	counts := map[string]int{}
	for seed := range durableSeeds {
		s := newDurableScript(seed)
		if problems := durableFaults(t, s, counts); problems != "" {
			t.Fatalf("seed %d (-durable.seed=%d -durable.n=1):\n%s\n%s", seed, seed, s, problems)
		}
	}
	checkMet(t, counts, *durableN, 400, "hangs", "panics", "exits", "refuses many", "refuses one", "fails after the write", "beat")
}

func timedOut(ctx context.Context) bool {
	timeout := (*activity.TimeoutError)(nil)
	return errors.As(context.Cause(ctx), &timeout)
}
