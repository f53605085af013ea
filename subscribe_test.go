package activity_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// Given subscribers of some kinds, of all kinds, and one that comes and goes, when activities
// run, then each gets its kinds, in order, the last one before Run returns.
func TestSubscribe_Kinds(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var mu sync.Mutex
		got := map[string][]string{}
		collect := func(name string) func(activity.Event) {
			return func(ev activity.Event) {
				mu.Lock()
				defer mu.Unlock()
				got[name] = append(got[name], ev.ID+" "+ev.Kind.String())
			}
		}
		e.rt.Subscribe(collect("all"))
		e.rt.Subscribe(collect("ends"), activity.EventFailed, activity.EventCompleted)
		e.rt.Subscribe(collect("beats"), activity.EventHeartbeat)
		cancel := e.rt.Subscribe(collect("first"), activity.EventScheduled)
		beat := func(ctx activity.Context) error { return ctx.Heartbeat(1) }
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "a"}, beat), nil)
		cancel()
		cancel()
		checkErr(t, e.rt.Run(e.ctx, activity.Options{ID: "b"}, beat), nil)
		mu.Lock()
		defer mu.Unlock()
		checkDiff(t, "events", got, map[string][]string{
			"all":   {"a scheduled", "a attempt started", "a heartbeat", "a completed", "b scheduled", "b attempt started", "b heartbeat", "b completed"},
			"ends":  {"a completed", "b completed"},
			"beats": {"a heartbeat", "b heartbeat"},
			"first": {"a scheduled"},
		})
	})
}

// Given an activity that runs, when somebody subscribes, then the events from then on come, and
// not those that were posted before and are held up by a slow subscriber.
func TestSubscribe_AttachesWhileItRuns(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		release := make(chan struct{})
		e.rt.Subscribe(func(activity.Event) { <-release })
		h := e.start(activity.Options{ID: "a"}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		var kinds []string
		e.rt.Subscribe(func(ev activity.Event) { kinds = append(kinds, ev.Kind.String()) })
		e.pass(time.Second)
		close(release)
		synctest.Wait()
		checkErr(t, e.end(h), nil)
		if got := strings.Join(kinds, ","); got != "completed" {
			t.Errorf("got %s", got)
		}
	})
}

// Given subscribers that panic, exit, or cancel themselves, then the others miss nothing.
func TestSubscribe_UserCodeThatMisbehaves(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		var cancel func()
		n := 0
		e.rt.Subscribe(func(activity.Event) { panic(errBoom) })
		e.rt.Subscribe(func(activity.Event) { runtime.Goexit() })
		cancel = e.rt.Subscribe(func(activity.Event) { n++; cancel() })
		var kinds []activity.EventKind
		e.rt.Subscribe(func(ev activity.Event) { kinds = append(kinds, ev.Kind) })
		checkErr(t, e.rt.Run(e.ctx, activity.Options{}, noop), nil)
		if n != 1 || !slices.Equal(kinds, []activity.EventKind{activity.EventScheduled, activity.EventAttemptStarted, activity.EventCompleted}) {
			t.Errorf("%d calls of the one that cancels itself; the last got %v", n, kinds)
		}
	})
}

// Given a nil function or an unknown kind, then Subscribe panics, and says what is wrong.
func TestSubscribe_Refused(t *testing.T) {
	rt := activity.New(activity.Config{})
	for want, call := range map[string]func(){
		"f must not be nil": func() { rt.Subscribe(nil) },
		"unknown kind":      func() { rt.Subscribe(func(activity.Event) {}, activity.EventFailed, 99) },
		"unknown kind (got": func() { rt.Subscribe(func(activity.Event) {}, 0) },
	} {
		func() {
			defer func() {
				if v := fmt.Sprint(recover()); !strings.Contains(v, want) {
					t.Errorf("%s, want %s", v, want)
				}
			}()
			call()
		}()
	}
}

// Given a subscriber of other kinds, then a heartbeat allocates no more than without one.
func TestSubscribe_HeartbeatsOfNobodyCostNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rt := activity.New(activity.Config{Logger: quiet})
	rt.Subscribe(func(activity.Event) {}, activity.EventFailed)
	checkErr(t, rt.Run(t.Context(), activity.Options{HeartbeatTimeout: time.Hour}, func(ctx activity.Context) error {
		if n := testing.AllocsPerRun(1000, func() { _ = ctx.Heartbeat() }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		return nil
	}), nil)
}

// Given three executions of an ID, of which the second has no event for the only subscriber,
// when that is slow, then the third one's event waits for the first one's.
func TestSubscribe_OrderOverExecutions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet})
		release := make(chan struct{})
		var mu sync.Mutex
		n, now := 0, 0
		var order []int
		rt.Subscribe(func(ev activity.Event) {
			mu.Lock()
			n++
			me := n
			now++
			if now > 1 {
				t.Error("two events of one ID at once")
			}
			mu.Unlock()
			if me == 1 {
				<-release
			}
			mu.Lock()
			now--
			order = append(order, me)
			mu.Unlock()
		}, activity.EventCompleted)
		h1 := start(t, rt, activity.Options{ID: "a"}, noop)
		synctest.Wait()
		h2 := start(t, rt, activity.Options{ID: "a"}, untilEnded)
		h2.Cancel(nil)
		synctest.Wait()
		h3 := start(t, rt, activity.Options{ID: "a"}, noop)
		synctest.Wait()
		close(release)
		_, _, _ = wait(t, h1), wait(t, h2), wait(t, h3)
		if !slices.Equal(order, []int{1, 2}) {
			t.Errorf("the order is %v", order)
		}
	})
}

// Given many that subscribe and cancel at once, then one that stays misses nothing, and those that
// have canceled get nothing.
func TestSubscribe_ManyAtOnce(t *testing.T) {
	rt := activity.New(activity.Config{Logger: quiet})
	var got atomic.Int64
	rt.Subscribe(func(activity.Event) { got.Add(1) }, activity.EventCompleted)
	var all sync.WaitGroup
	var canceled atomic.Bool
	for range 8 {
		all.Go(func() {
			for range repeated(50) {
				rt.Subscribe(func(activity.Event) {
					if canceled.Load() {
						t.Error("a canceled subscriber gets an event")
					}
				})()
			}
		})
	}
	const runs = 100
	for range runs {
		checkErr(t, rt.Run(t.Context(), activity.Options{}, noop), nil)
	}
	all.Wait()
	canceled.Store(true)
	checkErr(t, rt.Run(t.Context(), activity.Options{}, noop), nil)
	if got.Load() != runs+1 {
		t.Errorf("%d events, want %d", got.Load(), runs+1)
	}
}
