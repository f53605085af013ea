package activitytest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// A log collects lines from any goroutine of a body.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// take returns the lines added since the last call of take.
func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// runs runs body with plan. It returns the names of all runs in order, and by name the lines
// that body logged before it returned. The dry run has the name "".
func runs(t *testing.T, plan activitytest.Plan, body func(t *testing.T, w *activitytest.World, l *log)) (names []string, noted map[string][]string) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs all runs, and -short leaves out most")
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

// resumed returns the details from which the attempt resumes, or 0, and logs them.
func resumed(ctx activity.Context, l *log) (int, error) {
	n, err := activity.Resume(ctx, 0)
	l.add(fmt.Sprint(n))
	return n, err
}

// live runs fn as an activity in each life. It fails the test if the activity fails.
func live(t *testing.T, w *activitytest.World, opts activity.Options, fn func(ctx activity.Context) error) {
	t.Helper()
	err := w.Run(func(ctx context.Context, rt *activity.Runtime) error { return rt.Run(ctx, opts, fn) })
	if err != nil {
		t.Fatal(err)
	}
}

var job = activity.Options{ID: "job", HeartbeatTimeout: 10 * time.Second}
