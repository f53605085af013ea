package activitytest_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// A log is what a body notes, from any goroutine.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// take returns what was noted since it was called last.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// runs carries plan out. It returns the names of all runs, in their order, and what
// body has noted in each by the end of its assertions; "" is the dry run.
func runs(t *testing.T, plan activitytest.Plan, body func(t *testing.T, w *activitytest.World, l *log)) (names []string, noted map[string][]string) {
	t.Helper()
	if testing.Short() {
		t.Skip("it looks at all runs, of which -short leaves out most")
	}
	noted = map[string][]string{}
	plan.Run(t, func(sub *testing.T, w *activitytest.World) {
		name := strings.TrimPrefix(strings.TrimPrefix(sub.Name(), t.Name()), "/")
		if name != "" {
			names = append(names, name)
		}
		l := &log{}
		body(sub, w, l)
		noted[name] = l.take()
	})
	return names, noted
}

// live runs fn as an activity in each life, and fails the test if it fails.
func live(t *testing.T, w *activitytest.World, opts activity.Options, fn func(ctx activity.Context) error) {
	t.Helper()
	err := w.Run(func(ctx context.Context, rt *activity.Runtime) error { return rt.Run(ctx, opts, fn) })
	if err != nil {
		t.Fatal(err)
	}
}

var job = activity.Options{ID: "job", HeartbeatTimeout: 10 * time.Second}
