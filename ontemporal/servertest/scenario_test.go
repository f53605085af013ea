package servertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/seed-9da638b0/activity"
	"go.temporal.io/sdk/worker"
)

// name is the activity type of every scenario.
const name = "work"

// A scenario is the life of one activity.
type scenario struct {
	name string

	// Options of the activity. The harness adds the ID and the Name, a
	// StartToCloseTimeout of 2 minutes if no timeout bounds the activity, and an
	// InitialInterval of 10 ms.
	opts   activity.Options
	config activity.Config // the embedded runtime's
	worker worker.Options  // the Temporal worker's
	child  bool            // the first worker is in a child process

	// fn is the activity's function. Its notes are compared.
	fn func(x *trial, ctx activity.Context, in string) (string, error)

	// call is the caller. If nil, it executes the activity.
	call func(x *trial)

	// want has the notes, in the order of the keys: "key: value".
	want []string

	// server has the notes that differ on the server, by key. If the value is empty,
	// there is no such note on the server.
	server map[string]difference
}

// A difference is a note that differs on the server, for a reason that this package cannot
// remove.
type difference struct{ value, why string }

func run(t *testing.T, scenarios []scenario) {
	seen := map[string]bool{}
	for _, s := range scenarios {
		if seen[s.name] {
			t.Fatalf("two scenarios are called %q", s.name)
		}
		seen[s.name] = true
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			t.Run("embedded", func(t *testing.T) {
				t.Parallel()
				x := newTrial(t, &s)
				x.engine = newEmbedded(t, s.config, x.attempt)
				x.run(s.want)
			})
			t.Run("server", func(t *testing.T) {
				t.Parallel()
				want := s.onServer(t)
				x := newTrial(t, &s)
				c := newCluster(t, x.id, s.worker, x.attempt)
				if s.child {
					c.workInChild(x)
				} else {
					c.work(t)
				}
				x.engine = c
				x.run(want)
			})
		})
	}
}

// onServer returns the notes that are wanted on the server.
func (s *scenario) onServer(t *testing.T) []string {
	left := maps.Clone(s.server)
	var want []string
	for _, line := range s.want {
		key, value, _ := strings.Cut(line, ": ")
		d, differs := left[key]
		delete(left, key)
		if differs && d.value == value {
			t.Errorf("%s: the server no longer differs: %s", key, value)
		}
		if !differs {
			want = append(want, line)
		} else if d.value != "" {
			want = append(want, key+": "+d.value)
		}
		if differs && d.why == "" {
			t.Errorf("%s: the difference has no reason", key)
		}
	}
	for key, d := range left {
		want = append(want, key+": "+d.value)
	}
	slices.Sort(want)
	return want
}

// A trial is one run of a scenario on one engine.
type trial struct {
	engine
	t    *testing.T
	s    *scenario
	id   string
	opts activity.Options

	release chan struct{} // closed when the caller is done, so that hanging functions return

	mu        sync.Mutex
	seen      map[string]string // the notes
	changed   chan struct{}     // closed, and replaced, when seen grows or running shrinks
	running   int               // the functions that run
	scheduled time.Time         // Info.ScheduledAt of the first attempt
	guarded   atomic.Bool       // the function is inside Guard

	noted func(key, value string) // passes a child process's notes on; nil elsewhere
}

var trials atomic.Int64

func newTrial(t *testing.T, s *scenario) *trial {
	x := &trial{
		t: t, s: s, opts: s.opts,
		id:      fmt.Sprintf("trial-%d", trials.Add(1)), // an ID is used only once
		release: make(chan struct{}), changed: make(chan struct{}), seen: map[string]string{},
	}
	x.opts.ID, x.opts.Name = x.id, name
	if x.opts.StartToCloseTimeout == 0 && x.opts.ScheduleToCloseTimeout == 0 {
		x.opts.StartToCloseTimeout = 2 * time.Minute
	}
	if x.opts.RetryPolicy.InitialInterval == 0 {
		x.opts.RetryPolicy.InitialInterval = 10 * time.Millisecond
	}
	return x
}

func (x *trial) run(want []string) {
	released := false
	defer func() {
		if !released {
			close(x.release)
		}
	}()
	if x.s.call != nil {
		x.s.call(x)
	} else {
		x.executed(x.t.Context(), "in")
	}
	released = true
	close(x.release)
	x.until("all functions have returned", func() bool { return x.running == 0 })

	x.mu.Lock()
	defer x.mu.Unlock()
	var got []string
	for key, value := range x.seen {
		got = append(got, key+": "+value)
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	if d := cmp.Diff(want, got); d != "" {
		x.t.Errorf("-want +got:\n%s", d)
		for _, line := range got {
			x.t.Logf("%q,", line)
		}
	}
}

// attempt is the registered function.
func (x *trial) attempt(ctx activity.Context, in string) (string, error) {
	x.mu.Lock()
	x.running++
	x.mu.Unlock()
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.running--
		x.tell()
	}()
	if in == "blocker" { // it holds the only slot
		x.note("blocker", "runs")
		<-x.release
		return "", nil
	}
	from := "nothing"
	var raw json.RawMessage
	if found, err := ctx.HeartbeatDetails(&raw); err != nil {
		from = "error: " + err.Error()
	} else if found {
		from = text(raw)
	}
	x.note(at(ctx, "resumes from"), from)
	if before := ctx.Info().LastFailure; before != nil {
		x.note(at(ctx, "comes after"), before.Error())
	}
	return x.s.fn(x, ctx, in)
}

// at returns the key of an attempt's note.
func at(ctx activity.Context, what string) string {
	return fmt.Sprintf("attempt %d %s", ctx.Info().Attempt, what)
}

// note adds a note. The trial's ID, which differs each time, becomes "ID".
func (x *trial) note(key, value string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.seen[key] != "" {
		key += " again"
	}
	x.seen[key] = strings.ReplaceAll(value, x.id, "ID")
	if v := x.seen[key]; len(v) > 1000 {
		x.seen[key] = fmt.Sprintf("%.20s... (long)", v)
	}
	if x.noted != nil {
		x.noted(key, x.seen[key])
	}
	x.tell()
}

func (x *trial) tell() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// await waits until something has been noted under the key.
func (x *trial) await(key string) {
	x.until(key, func() bool { return x.seen[key] != "" })
}

// until waits until cond returns true. Cond is called with mu held.
func (x *trial) until(what string, cond func() bool) {
	for end := time.After(limit); ; {
		x.mu.Lock()
		ok, changed := cond(), x.changed
		x.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-end:
			x.never(what)
		}
	}
}

// begin starts the activity.
func (x *trial) begin(ctx context.Context) handle {
	h, err := x.start(ctx, x.opts, "in")
	if err != nil {
		x.t.Fatal(err)
	}
	return h
}

// executed executes the activity and notes its end.
func (x *trial) executed(ctx context.Context, in string) {
	type ending struct {
		out string
		err error
	}
	ended := make(chan ending, 1)
	go func() {
		out, err := x.execute(ctx, x.opts, in)
		ended <- ending{out, err}
	}()
	select {
	case e := <-ended:
		x.ended(e.out, e.err)
	case <-time.After(limit):
		x.never("the activity's end")
	}
}

// never fails the test, which has waited until the limit.
func (x *trial) never(what string) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.t.Fatalf("not within %s: %s; notes: %q", limit, what, x.seen)
}

// wait waits for the activity's end and notes it.
func (x *trial) wait(h handle) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := h.Wait(ctx)
	x.ended(out, err)
}

// ended notes the caller's result and error.
func (x *trial) ended(out string, err error) {
	if err == nil {
		x.note("end", fmt.Sprintf("result %q", out))
		return
	}
	if out != "" {
		x.note("end result", out)
	}
	var e *activity.Error
	if errors.As(err, &e) && err == error(e) {
		x.note("end", fmt.Sprintf("%s of %s in attempt %d: %s", e.Name, e.ID, e.Attempt, e.RetryState))
		err = e.Err
	} else {
		x.note("end", "not an *activity.Error")
	}
	x.kinds("end", err)
}

// kinds notes err's text, and the errors that errors.As and errors.Is find in it.
func (x *trial) kinds(key string, err error) {
	if err == nil {
		x.note(key+" text", "no error")
		return
	}
	x.note(key+" text", err.Error())
	var is []string
	if e := (interface{ NonRetryable() bool })(nil); errors.As(err, &e) && e.NonRetryable() {
		is = append(is, "NonRetryable")
	}
	if e := (interface{ RetryDelay() time.Duration })(nil); errors.As(err, &e) {
		is = append(is, fmt.Sprintf("RetryDelay %s", e.RetryDelay()))
	}
	if e := (*activity.Error)(nil); errors.As(err, &e) {
		is = append(is, "an inner *activity.Error")
	}
	for _, target := range []struct {
		name string
		err  error
	}{
		{"the caller's cause", errCallers},
		{"ErrShutdown", activity.ErrShutdown},
		{"ErrAlreadyRunning", activity.ErrAlreadyRunning},
		{"ErrDetailsTooLarge", activity.ErrDetailsTooLarge},
		{"ErrCannotResume", activity.ErrCannotResume},
		{"ErrCheckpointMismatch", activity.ErrCheckpointMismatch},
		{"ErrGoexit", activity.ErrGoexit},
		{"ErrPaused", activity.ErrPaused},
		{"context.Canceled", context.Canceled},
		{"context.DeadlineExceeded", context.DeadlineExceeded},
	} {
		if errors.Is(err, target.err) {
			is = append(is, target.name)
		}
	}
	if is != nil {
		x.note(key+" is", strings.Join(is, ", "))
	}
	if e := (*activity.TimeoutError)(nil); errors.As(err, &e) {
		details := "nothing"
		if e.Details != nil {
			details = detailsOf(e.Details)
		}
		before := "nothing"
		if e.LastFailure != nil {
			before = e.LastFailure.Error()
		}
		x.note(key+" timeout", fmt.Sprintf("%s, attempt %d of %s (%s), after %s", e.Type, e.Attempt, e.ID, e.Name, e.After))
		x.note(key+" timeout details", details)
		x.note(key+" timeout stack", where(e.Stack))
		x.note(key+" timeout before", before)
	}
	if e := (*activity.PanicError)(nil); errors.As(err, &e) {
		x.note(key+" panic", fmt.Sprintf("%v, %s", e.Value, where(e.Stack)))
	}
}

// errCallers is the cause with which callers cancel.
var errCallers = errors.New("changed my mind")

// hang is the place where functions hang that ignore their Context.
func (x *trial) hang() { <-x.release }

// boom is the place where functions panic.
func (x *trial) boom(v any) { panic(v) }

// where reports which of hang and boom the stack shows.
func where(stack []byte) string {
	for _, f := range []string{"hang", "boom"} {
		if strings.Contains(string(stack), "(*trial)."+f+"(") {
			return "in " + f
		}
	}
	if len(stack) > 0 {
		return "somewhere else"
	}
	return "no stack"
}

// text returns a value as JSON, or the length of long JSON.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	if len(b) > 1000 {
		return fmt.Sprintf("%d bytes", len(b))
	}
	return string(b)
}

// detailsOf returns the first value of a Checkpoint's Details.
func detailsOf(details []byte) string {
	var raw json.RawMessage
	if found, err := (activity.Checkpoint{Details: details}).HeartbeatDetails(nil, &raw); err != nil || !found {
		return fmt.Sprint("none: ", err)
	}
	return text(raw)
}
