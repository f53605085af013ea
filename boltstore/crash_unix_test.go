//go:build linux || darwin

package boltstore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// A child process runs activities that count. It is killed at random moments and run again,
// until all activities have completed or were canceled. Most of them wait for a slot, some for
// a backoff, and some cancel themselves and clean up. The parent checks each event that the
// child reports, and the file after each life.

var (
	crashKills = flag.Int("crash.kills", 20, "the number of times that TestCrash_AtRandom kills its child")
	crashSeed  = flag.Uint64("crash.seed", 0, "the seed of TestCrash_AtRandom; if 0, a random one")
)

const counters = 50

var errUnwanted = errors.New("no longer wanted")

// handles has the Handles of the activities that the child has started, by ID.
var handles sync.Map

func counterID(i int) string { return fmt.Sprintf("a%02d", i) }

func counterTarget(id string) int {
	var i int
	if _, err := fmt.Sscanf(id, "a%d", &i); err != nil {
		panic(err)
	}
	return 5 + i
}

var counting = &activity.Definition[int, int]{
	Name: "count",
	Options: activity.Options{RetryPolicy: activity.RetryPolicy{
		InitialInterval: time.Millisecond, MaximumInterval: 10 * time.Millisecond,
	}},
	Func: count,
}

func count(ctx activity.Context, target int) (int, error) {
	info := ctx.Info()
	note := func(what string, n int) {
		tell(event{What: what, ID: info.ID, Attempt: info.Attempt, N: n, Started: info.StartedAt})
	}
	if target != counterTarget(info.ID) {
		return 0, activity.NonRetryable(fmt.Errorf("the input is %d", target))
	}
	n, err := activity.Resume(ctx, 0)
	if err != nil {
		return 0, err
	}
	note("started", n)
	if rand.IntN(5) == 0 {
		return 0, errors.Join(ctx.Sleep(rand.N(40*time.Millisecond)), errors.New("no progress"))
	}
	for n < target {
		if err := ctx.Sleep(rand.N(6 * time.Millisecond)); err != nil {
			return 0, err
		}
		switch rand.IntN(60) {
		case 0:
			return 0, errors.New("bad luck")
		case 1, 2:
			return 0, activity.RetryAfter(errors.New("not now"), rand.N(50*time.Millisecond))
		case 3, 4, 5:
			if h, ok := handles.Load(info.ID); ok && target%3 == 0 {
				note("unwanted", n)
				h.(*activity.Handle[int]).Cancel(errUnwanted)
				time.Sleep(rand.N(10 * time.Millisecond)) // stands for the clean-up
				return 0, context.Cause(ctx)
			}
		}
		n++
		note("step", n)
		if err := ctx.Heartbeat(n); err != nil {
			return 0, err
		}
	}
	note("counted", n)
	return n, nil
}

// A telling is a Store that reports each write when it is durable, before it returns to the
// Runtime.
type telling struct{ activity.Store }

func (s telling) Save(ctx context.Context, batch []activity.Checkpoint) error {
	if err := s.Store.Save(ctx, batch); err != nil {
		return err
	}
	var events []event
	for _, cp := range batch {
		events = append(events, event{What: "saved", ID: cp.ID, Saved: storedOf(cp)})
	}
	tell(events...)
	return nil
}

func (s telling) Delete(ctx context.Context, ids []string) error {
	if err := s.Store.Delete(ctx, ids); err != nil {
		return err
	}
	var events []event
	for _, id := range ids {
		events = append(events, event{What: "deleted", ID: id})
	}
	tell(events...)
	return nil
}

// A stored is the state of an activity in the file. It is zero if the file has no checkpoint
// of it.
type stored struct {
	State    activity.CheckpointState
	Attempt  int
	N        int // number of steps done
	Sequence uint64
	Next     int64 // NextAttempt in nanoseconds since 1970, or 0
}

func storedOf(cp activity.Checkpoint) stored {
	s := stored{State: cp.State, Attempt: cp.Attempt, Sequence: cp.Sequence}
	if _, err := cp.HeartbeatDetails(nil, &s.N); err != nil {
		panic(err)
	}
	if !cp.NextAttempt.IsZero() {
		s.Next = cp.NextAttempt.UnixNano()
	}
	return s
}

func init() {
	children["counters"] = func(path string) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		tell(event{What: "begun"})
		told := strings.Split(os.Args[2], ",")
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		ended := make(chan error, 2*counters)
		rt := activity.New(activity.Config{
			Store: telling{s}, SaveInterval: 2 * time.Millisecond, MaxConcurrent: 10, Logger: slog.New(slog.DiscardHandler),
			Observer: func(e activity.Event) {
				switch e.Kind {
				case activity.EventAttemptFailed:
					tell(event{What: "failed", ID: e.ID, Attempt: e.Attempt})
				case activity.EventCompleted:
					tell(event{What: "told", ID: e.ID})
					ended <- nil
				case activity.EventFailed:
					ended <- e.Err
				case activity.EventCanceled:
					if errors.Is(e.Err, errUnwanted) {
						ended <- nil
					}
				}
			},
		})
		unfinished, err := ids(s)
		if err != nil {
			return err
		}
		left := 0
		for i := range counters {
			id := counterID(i)
			if slices.Contains(told, id) {
				continue
			}
			left++
			if i%3 > 0 && slices.Contains(unfinished, id) {
				continue // Recover starts it
			}
			go func() {
				h, err := counting.Start(context.Background(), rt, id, counterTarget(id))
				if err == nil {
					tell(event{What: "accepted", ID: id})
					handles.Store(id, h)
					_, err = h.Wait(context.Background())
				}
				switch {
				case err == nil:
					tell(event{What: "told", ID: id})
				case errors.Is(err, activity.ErrAlreadyRunning): // Recover was first
				case !errors.Is(err, activity.ErrShutdown) && !errors.Is(err, errUnwanted):
					ended <- err
				}
			}()
		}
		if _, err := rt.Recover(context.Background(), counting); err != nil {
			return err
		}
		for ; left > 0 && ctx.Err() == nil; left-- {
			select {
			case err := <-ended:
				if err != nil {
					return err
				}
			case <-ctx.Done():
			}
		}
		if err := errors.Join(rt.Shutdown(context.Background()), s.Close()); err != nil {
			return err
		}
		tell(event{What: "shut down"})
		return nil
	}
}

// A past is the history of an activity, as children have reported it.
type past struct {
	id       string
	accepted bool   // whether Start has returned nil
	told     bool   // whether the caller got the success
	found    stored // state in the file when this life began
	saved    stored // state after the last write that has returned

	// These fields are about the current life.
	attempt  int  // last attempt that started, or 0
	failed   int  // last attempt that counts after a shutdown
	n        int  // last step that was done
	unwanted bool // whether the activity is about to cancel itself
	counted  bool // whether the function is about to return nil
	deleted  bool // whether the checkpoint was deleted
}

// over reports whether the activity need not be started again.
func (p *past) over() bool { return p.told || p.found.State == activity.CheckpointCanceled }

// hear checks an event. terminated reports whether the child was told to shut down.
func (p *past) hear(e event, terminated bool) error {
	switch e.What {
	case "started":
		last, from := p.found.Attempt, p.found.N
		if p.attempt > 0 {
			last, from = p.attempt, p.n
		}
		switch {
		case p.told || p.counted:
			return errors.New("the activity runs again after its success")
		case p.unwanted || p.found.State == activity.CheckpointCanceled:
			return errors.New("the activity runs again after its cancellation")
		case p.attempt == 0 && p.found.Next > e.Started.UnixNano():
			return errors.New("the activity does not wait for the backoff of the life before")
		case e.Attempt != last+1 || e.N != from:
			return fmt.Errorf("want attempt %d, which resumes from %d", last+1, from)
		case terminated && p.saved.State == activity.CheckpointInterrupted: // interrupted just before this event
		case p.saved != stored{State: activity.CheckpointRunning, Attempt: e.Attempt, N: e.N, Sequence: p.saved.Sequence}:
			return errors.New("the attempt started before its start was saved")
		}
		p.attempt = e.Attempt
	case "step":
		if e.Attempt != p.attempt || e.N != p.n+1 {
			return errors.New("this is not the next step")
		}
		p.n = e.N
	case "accepted":
		if p.accepted = true; p.saved.State == 0 && !p.counted {
			return errors.New("Start returned nil before the activity was saved")
		}
	case "unwanted":
		p.unwanted = true
	case "failed":
		p.failed = e.Attempt
	case "counted":
		if p.n != counterTarget(p.id) {
			return errors.New("the function returns nil before it reached its target")
		}
		p.counted = true
	case "told":
		if !p.deleted {
			return errors.New("the caller got the success before the delete")
		}
		p.told = true
	case "saved":
		if err := p.saves(e.Saved, terminated); err != nil {
			return err
		}
		p.saved = e.Saved
	case "deleted":
		if terminated && p.attempt == 0 && !p.accepted && p.found.State == 0 { // the start was refused
			p.saved = stored{}
			break
		}
		if !p.counted {
			return errors.New("the checkpoint was deleted before the success")
		}
		p.saved, p.deleted = stored{}, true
	default:
		return errors.New("unknown event")
	}
	return nil
}

// saves checks a write.
func (p *past) saves(s stored, terminated bool) error {
	last := max(p.attempt, p.found.Attempt)
	running := s.State == activity.CheckpointRunning && s.Attempt >= max(p.attempt, p.failed) && s.Attempt <= last+1
	stopped := s.Attempt >= p.failed && s.Attempt <= last &&
		(s.State == activity.CheckpointInterrupted && terminated || s.State == activity.CheckpointCanceled && p.unwanted)
	found := p.found
	found.Sequence = s.Sequence
	restored := terminated && p.attempt == 0 && s == found // put back after a refused start
	waiting := s.State == activity.CheckpointWaiting && s.Attempt == last
	switch {
	case p.told || p.deleted:
		return errors.New("the checkpoint was written again after the delete")
	case s.Sequence <= p.saved.Sequence:
		return errors.New("the Sequence is not greater than that of the last write")
	case s.N < p.saved.N || s.N > p.n:
		return errors.New("the details were not recorded")
	case !running && !stopped && !waiting && !restored:
		return errors.New("the state cannot follow from the events")
	}
	return nil
}

// killed checks the state that a killed life left: that of the last reported write, or of a later
// write that could not be reported any more.
func (p *past) killed(left stored, terminated bool) error {
	switch {
	case left == p.saved:
		return nil
	case left != stored{}:
		return p.saves(left, terminated)
	case !p.counted && (p.accepted || p.saved.State != 0 && !terminated):
		return errors.New("the checkpoint is gone before the success")
	}
	return nil
}

// shutDown checks the state that a life left that ended with a Shutdown.
func (p *past) shutDown(left stored) error {
	found := p.found
	found.Sequence = left.Sequence
	switch interrupted := (stored{activity.CheckpointInterrupted, p.failed, p.n, left.Sequence, left.Next}); {
	case left != p.saved:
		return errors.New("the file does not have the last write")
	case p.deleted:
		return nil
	case p.unwanted && left.State != activity.CheckpointCanceled:
		return errors.New("the activity is not stored as canceled")
	case p.unwanted:
		return nil
	case p.attempt > 0 && left != interrupted:
		return fmt.Errorf("want %+v", interrupted)
	case p.attempt == 0 && left == stored{} && !p.accepted: // its start was refused
		return nil
	case p.attempt == 0 && left != found && (p.found.State != 0 || left != interrupted):
		return errors.New("the state changed, although no attempt started")
	}
	return nil
}

func (p *past) nextLife(left stored) {
	*p = past{id: p.id, accepted: p.accepted && left.State != 0, told: p.told, found: left, saved: left, failed: left.Attempt, n: left.N}
}

// Rules 20 to 23, 34 and 35. Given activities in a child process, when it is killed or shut
// down at random moments, then every event and every file that it leaves is one that the rules
// allow.
func TestCrash_AtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed %d", seed)
	c := &crash{random: rand.New(rand.NewPCG(seed, 0))}
	for c.kills < *crashKills {
		c.untilAllHaveCompleted(t)
	}
	t.Logf("%+v", c.tally)
}

type crash struct {
	random *rand.Rand
	tally
}

type tally struct {
	lives, kills, attempts int
	canceled, backoffs     int // canceled activities and backoffs in the files
	unheard                int // writes that were durable but not reported when the child was killed
}

func (c *crash) untilAllHaveCompleted(t *testing.T) {
	path := newPath(t)
	pasts := map[string]*past{}
	for i := range counters {
		pasts[counterID(i)] = &past{id: counterID(i)}
	}
	for {
		var told []string
		for id, p := range pasts {
			if p.over() {
				told = append(told, id)
			}
		}
		if len(told) == counters {
			return
		}
		c.life(t, path, pasts, told)
	}
}

// life runs one child and checks its events and the file that it leaves.
func (c *crash) life(t *testing.T, path string, pasts map[string]*past, told []string) {
	c.lives++
	cmd := child(t, "counters", path)
	cmd.Args = append(cmd.Args, strings.Join(told, ","))
	send := func(sig os.Signal) { _ = cmd.Process.Signal(sig) } // it may have ended by itself
	kill := func() { send(syscall.SIGKILL) }
	until := 1 + c.random.IntN([]int{1, 30, 600, 600}[c.random.IntN(4)])
	wait := time.Duration(c.random.Int64N(int64(3 * time.Millisecond)))
	kind := c.random.IntN(6)
	if c.kills >= *crashKills {
		until = 0 // the child may run to its end
	}
	events, terminated, shutDown := 0, false, false
	status := live(t, cmd, func(e event) {
		if events++; events == until {
			if terminated = kind < 2; terminated {
				send(syscall.SIGTERM)
			}
			if kind > 0 {
				time.AfterFunc(wait, kill)
			}
		}
		switch e.What {
		case "begun":
			return
		case "shut down":
			shutDown = true
			return
		case "started":
			c.attempts++
		}
		p := pasts[e.ID]
		if err := p.hear(e, terminated); err != nil {
			t.Fatalf("life %d, event %+v: %v; the history is %+v", c.lives, e, err, *p)
		}
	})
	switch {
	case status.Signaled():
		c.kills++
	case status != 0 || !shutDown:
		t.Fatalf("life %d ended with status %#x", c.lives, status)
	}

	checkpoints := unfinished(t, path)
	for id, p := range pasts {
		var left stored
		if cp, found := checkpoints[id]; found {
			left = storedOf(cp)
			delete(checkpoints, id)
		}
		err := p.killed(left, terminated)
		if shutDown {
			err = p.shutDown(left)
		}
		if err != nil {
			t.Fatalf("life %d left activity %s as %+v: %v; the history is %+v", c.lives, id, left, err, *p)
		}
		if left != p.saved {
			c.unheard++
		}
		if left.Next != 0 {
			c.backoffs++
		}
		if left.State == activity.CheckpointCanceled && p.found.State != left.State {
			c.canceled++
		}
		p.nextLife(left)
	}
	if len(checkpoints) > 0 {
		t.Fatalf("life %d left checkpoints of unknown activities: %v", c.lives, checkpoints)
	}
}
