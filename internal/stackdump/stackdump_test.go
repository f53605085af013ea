package stackdump_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity/internal/stackdump"
)

const method = "stackdump_test.(*caller).call"

type caller struct{ _ int }

//go:noinline
func (c *caller) call(f func()) {
	f()
	runtime.KeepAlive(c)
}

//go:noinline
func hang(depth int, hangs chan<- struct{}, release <-chan struct{}) {
	if depth > 0 {
		hang(depth-1, hangs, release)
		return
	}
	hangs <- struct{}{}
	<-release
}

// start has each caller hang in a goroutine of its own, and returns when all do.
func start(t *testing.T, callers []*caller, depth int) {
	t.Helper()
	hangs, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	for _, c := range callers {
		go c.call(func() { hang(depth, hangs, release) })
	}
	for range callers {
		<-hangs
	}
}

func check(t *testing.T, d stackdump.Dump, c *caller) {
	t.Helper()
	s := string(d.Stack(c))
	if !strings.HasPrefix(s, "goroutine ") || strings.Contains(s, "\n\n") || !strings.Contains(s, "stackdump_test.hang(") {
		t.Errorf("got the stack %.200q", s)
	}
}

// Given two receivers whose method hangs and one whose method does not run, when a dump
// is taken, then the two have a stack each.
func TestTake_EachReceiverHasItsOwn(t *testing.T) {
	callers := []*caller{{}, {}}
	start(t, callers, 0)
	d := stackdump.Take(method)
	for _, c := range callers {
		check(t, d, c)
	}
	if string(d.Stack(callers[0])) == string(d.Stack(callers[1])) {
		t.Errorf("two receivers have the same stack: %s", d.Stack(callers[0]))
	}
	if s := d.Stack(&caller{}); s != nil {
		t.Errorf("got the stack %q of a method that does not run", s)
	}
}

// Given stacks that are longer than expected, when a dump is taken, then none is cut off.
func TestTake_LongStacks(t *testing.T) {
	callers := make([]*caller, 20)
	for i := range callers {
		callers[i] = &caller{}
	}
	start(t, callers, 200)
	d := stackdump.Take(method)
	for _, c := range callers {
		check(t, d, c)
	}
}

// Given a method that calls that of another receiver, when a dump is taken, then the
// outermost receiver has the stack.
func TestTake_OutermostCallCounts(t *testing.T) {
	outer, inner := &caller{}, &caller{}
	hangs, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	go outer.call(func() { inner.call(func() { hang(0, hangs, release) }) })
	<-hangs
	d := stackdump.Take(method)
	check(t, d, outer)
	if s := d.Stack(inner); s != nil {
		t.Errorf("the inner receiver has the stack %q", s)
	}
}

// Given goroutines that work for a receiver, when a dump is taken, then their stacks precede that of
// its method, and no other receiver has them.
func TestTake_GoroutinesThatWorkForAReceiver(t *testing.T) {
	callers := []*caller{{}, {}, {}}
	hangs, release := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(release) })
	work := func(owner any, n int) {
		for range n {
			go stackdump.WorkFor(owner, func() { hang(1, hangs, release) })
			<-hangs
		}
	}
	work(callers[0], 2) // before the method and after it
	start(t, callers[:2], 0)
	work(callers[0], 1)
	work(callers[2], 1)
	work(*callers[0], 1) // no pointer
	work(nil, 1)
	d := stackdump.Take(method)
	for i, want := range []int{4, 1, 1} {
		stacks := strings.Split(string(d.Stack(callers[i])), "\n\n")
		if len(stacks) != want {
			t.Errorf("receiver %d has %d stacks, want %d:\n%s", i, len(stacks), want, d.Stack(callers[i]))
		}
		for j, s := range stacks {
			if !strings.HasPrefix(s, "goroutine ") || !strings.Contains(s, "stackdump_test.hang(") || strings.Contains(s, method) != (i < 2 && j == want-1) {
				t.Errorf("stack %d of receiver %d is %.300q", j, i, s)
			}
		}
	}
}

// Given a dump that took 1 ms, when the rest follows, then both take 20 ms.
func TestRest(t *testing.T) {
	if got, want := stackdump.Rest(time.Millisecond), 19*time.Millisecond; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
