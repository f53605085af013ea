package activitytest_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// The example in the package documentation.

type database struct {
	mu   sync.Mutex
	rows []string
}

func (d *database) insert(ctx context.Context, row string) {
	activitytest.Point(ctx, "insert") // if it stalls here, the row is written late
	d.mu.Lock()
	d.rows = append(d.rows, row)
	d.mu.Unlock()
	activitytest.Point(ctx, "inserted") // written, but the caller does not know yet
}

// cutBack removes all rows except the first n.
func (d *database) cutBack(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows = d.rows[:n]
}

func (d *database) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rows)
}

func importRows(ctx activity.Context, db *database) error {
	next, err := activity.Resume(ctx, 0)
	if err != nil {
		return err
	}
	err = activity.Guard(ctx, func() error {
		db.cutBack(next) // removes rows that were inserted but not recorded
		return nil
	})
	for rows := []string{"a", "b", "c"}; err == nil && next < len(rows); next++ {
		err = activity.Guard(ctx, func() error {
			db.insert(ctx, rows[next])
			return nil
		})
		if err == nil {
			err = ctx.Heartbeat(next + 1)
		}
	}
	return err
}

func TestImportSurvivesEverything(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		db := &database{}                                                    // outlives the process
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error { // one life of the program
			return rt.Run(ctx, activity.Options{ID: "import", HeartbeatTimeout: 10 * time.Second}, func(ctx activity.Context) error {
				return importRows(ctx, db)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, db.all()); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
	})
}

// Given the functions in the package documentation, then this file has the same code.
func TestDoc_CodeIsTested(t *testing.T) {
	squeeze := func(file string, cut func(line string) (string, bool)) (blocks []string) {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		block := ""
		for line := range strings.Lines(string(content)) {
			code, ok := cut(line)
			if ok {
				block += strings.Join(strings.Fields(code), " ") + "\n"
			} else if block != "" {
				blocks, block = append(blocks, block), ""
			}
		}
		return append(blocks, block)
	}
	tests := squeeze("doc_test.go", func(line string) (string, bool) { return line, true })[0]
	found := 0
	for _, block := range squeeze("doc.go", func(line string) (string, bool) { return strings.CutPrefix(line, "//\t") }) {
		if strings.HasPrefix(block, "func ") {
			found++
			if !strings.Contains(tests, block) {
				t.Errorf("doc.go has code that doc_test.go does not have:\n%s", block)
			}
		}
	}
	if found != 2 {
		t.Errorf("doc.go has %d functions, want 2", found)
	}
}

// Given a Plan with a Seed, some Kinds and a limit, when it runs, then the import passes.
func TestPlan_FewCrashes(t *testing.T) {
	plan := activitytest.Plan{Kinds: activitytest.Crash | activitytest.Twice, MaxRuns: 20, Seed: 1}
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		w.Config = activity.Config{SaveInterval: time.Second}
		db := &database{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "import"}, func(ctx activity.Context) error {
				return importRows(ctx, db)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, db.all()); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
	})
}

// A fake with Points can be used anywhere. Outside of EveryInterruption, Point does nothing.
func ExamplePoint() {
	db := &database{}
	db.insert(context.Background(), "a")
	fmt.Println(db.all())
	// Output: [a]
}

func ExampleKind() {
	fmt.Println(activitytest.Crash | activitytest.Shutdown)
	// Output: crash|shutdown
}
