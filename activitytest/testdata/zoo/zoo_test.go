// Package zoo_test keeps activities that are wrong in one way each, as real code is,
// and beside each its correct twin. TestZoo of package activitytest runs them, and
// requires that each wrong one is found, in the words that it expects, and that each
// twin passes.
package zoo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/storetest"
)

const rows = 3

var options = activity.Options{ID: "import", StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}

// every runs, at every interruption, one activity in each process, and compares
// what it has left with rows in their order, once each.
func every(t *testing.T, fn func(f *file) func(ctx activity.Context) error) {
	t.Helper()
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		f := &file{}
		program := fn(f)
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, program)
		})
		if err != nil {
			t.Fatal(err)
		}
		f.check(t)
	})
}

// A file outlives the process: lines can be appended, and it can be cut back.
type file struct {
	mu    sync.Mutex
	lines []int
}

func (f *file) append(ctx context.Context, line int) {
	activitytest.Point(ctx, "append")
	f.mu.Lock()
	f.lines = append(f.lines, line)
	f.mu.Unlock()
	activitytest.Point(ctx, "appended")
}

func (f *file) cut(to int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = f.lines[:to]
}

func (f *file) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.lines)
}

func (f *file) check(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var want []int
	for i := range rows {
		want = append(want, i)
	}
	if diff := cmp.Diff(want, f.lines); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

// A table outlives the process, too: to put a row again changes nothing.
type table struct {
	mu   sync.Mutex
	rows map[int]bool
}

func (d *table) put(ctx context.Context, row int) {
	activitytest.Point(ctx, "put")
	d.mu.Lock()
	if d.rows == nil {
		d.rows = map[int]bool{}
	}
	d.rows[row] = true
	d.mu.Unlock()
	activitytest.Point(ctx, "done")
}

func (d *table) check(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for row := range rows {
		if !d.rows[row] {
			t.Errorf("row %d is missing", row)
		}
	}
}

// everyTable is every, with a table.
func everyTable(t *testing.T, fn func(d *table) func(ctx activity.Context) error) {
	t.Helper()
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		program := fn(d)
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, program)
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// The heartbeat says that a row is done that is not done yet: a crash after it skips
// the row.

func TestHeartbeatBeforeEffect_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			for ; next < rows; next++ {
				if err := ctx.Heartbeat(next + 1); err != nil {
					return err
				}
				d.put(ctx, next)
			}
			return nil
		}
	})
}

func TestHeartbeatBeforeEffect_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			for ; next < rows; next++ {
				d.put(ctx, next)
				if err := ctx.Heartbeat(next + 1); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

// A row that was appended and not recorded is appended again.

func TestAppendWithoutCut_Wrong(t *testing.T) {
	every(t, func(f *file) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.Range(ctx, 0, rows, func(i int) error {
				return activity.Guard(ctx, func() error {
					f.append(ctx, i)
					return nil
				})
			})
		}
	})
}

func TestAppendWithoutCut_Right(t *testing.T) {
	every(t, func(f *file) func(ctx activity.Context) error {
		return appendGuarded(f)
	})
}

// appendGuarded is the correct twin of several.
func appendGuarded(f *file) func(ctx activity.Context) error {
	return func(ctx activity.Context) error {
		done, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		err = activity.Guard(ctx, func() error {
			f.cut(done) // what was appended and not recorded
			return nil
		})
		for ; err == nil && done < rows; done++ {
			err = activity.Guard(ctx, func() error {
				f.append(ctx, done)
				return nil
			})
			if err == nil {
				err = ctx.Heartbeat(done + 1)
			}
		}
		return err
	}
}

// The error of Heartbeat is dropped: an attempt that has timed out goes on writing
// beside the next one.

func TestSwallowedHeartbeatError_Wrong(t *testing.T) {
	every(t, func(f *file) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			done, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			f.cut(done)
			for ; done < rows; done++ {
				f.append(ctx, done)
				_ = ctx.Heartbeat(done + 1)
			}
			return nil
		}
	})
}

func TestSwallowedHeartbeatError_Right(t *testing.T) {
	every(t, appendGuarded)
}

// How far it is, is known to the process only.

func TestProgressInProcess_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		f := &file{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			done := 0
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				for ; done < rows; done++ {
					err := activity.Guard(ctx, func() error {
						f.append(ctx, done)
						return nil
					})
					if err != nil {
						return err
					}
					if err := ctx.Heartbeat(); err != nil {
						done++
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		f.check(t)
	})
}

func TestProgressInProcess_Right(t *testing.T) {
	every(t, appendGuarded)
}

// How far it is, is in a variable of the body, which a crash does not take. This
// cannot be found: the test itself is wrong. It passes.

func TestProgressInBody_Blind(t *testing.T) {
	done := 0
	every(t, func(f *file) func(ctx activity.Context) error {
		done = 0
		return func(ctx activity.Context) error {
			return activity.Guard(ctx, func() error {
				f.cut(done)
				for done < rows {
					f.append(ctx, done)
					done = f.len()
				}
				return nil
			})
		}
	})
}

// The lock is held while the attempt may hang: the next one waits for it for ever.

func TestLockAcrossHeartbeat_Wrong(t *testing.T) {
	t.Parallel()
	lockAcross(t, true)
}

func TestLockAcrossHeartbeat_Right(t *testing.T) {
	lockAcross(t, false)
}

func lockAcross(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			var mu sync.Mutex // of the process: a crash takes it
			written := 0
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error {
					if wrong {
						mu.Lock()
						defer mu.Unlock()
						written++
						d.put(ctx, i)
						return ctx.Heartbeat()
					}
					d.put(ctx, i)
					mu.Lock()
					written++
					mu.Unlock()
					return ctx.Heartbeat()
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// What is done is written when the function returns: a crash does not let it.

func TestDeferredCommit_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			var pending []int
			defer func() {
				for _, row := range pending {
					d.put(context.Background(), row)
				}
			}()
			return activity.Range(ctx, 0, rows, func(i int) error {
				pending = append(pending, i)
				return ctx.Sleep(time.Second)
			})
		}
	})
}

func TestDeferredCommit_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.Range(ctx, 0, rows, func(i int) error {
				d.put(ctx, i)
				return ctx.Sleep(time.Second)
			})
		}
	})
}

// A write that hangs is done when the next attempt has gone on.

func TestWriteOutsideGuard_Wrong(t *testing.T) {
	every(t, func(f *file) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			done, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			if err := activity.Guard(ctx, func() error { f.cut(done); return nil }); err != nil {
				return err
			}
			for ; done < rows; done++ {
				if err := ctx.Sleep(time.Second); err != nil {
					return err
				}
				f.append(ctx, done)
				if err := ctx.Heartbeat(done + 1); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

func TestWriteOutsideGuard_Right(t *testing.T) {
	every(t, appendGuarded)
}

// The next version of the program has another name for what is recorded.

func TestRenamedDetails_Wrong(t *testing.T) {
	type old struct{ Next int }
	type renamed struct{ Row int }
	versions(t, func(ctx activity.Context, version int) (int, func(int) any, error) {
		if version == 1 {
			p, err := activity.Resume(ctx, old{})
			return p.Next, func(n int) any { return old{n} }, err
		}
		p, err := activity.Resume(ctx, renamed{})
		return p.Row, func(n int) any { return renamed{n} }, err
	})
}

func TestRenamedDetails_Right(t *testing.T) {
	type both struct {
		Next int
		Row  int `json:",omitempty"`
	}
	versions(t, func(ctx activity.Context, version int) (int, func(int) any, error) {
		p, err := activity.Resume(ctx, both{})
		return max(p.Next, p.Row), func(n int) any {
			if version == 1 {
				return both{Next: n}
			}
			return both{Row: n}
		}, err
	})
}

// versions runs a new version of the program in each life.
func versions(t *testing.T, resume func(ctx activity.Context, version int) (int, func(int) any, error)) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d, version := &table{}, 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			version++
			version := version
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				next, progress, err := resume(ctx, version)
				for ; err == nil && next < rows; next++ {
					d.put(ctx, next)
					err = ctx.Heartbeat(progress(next + 1))
				}
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// What is recorded makes no difference: each attempt starts from the beginning. The
// rows are none the worse for it.

func TestDetailsNotRead_Wrong(t *testing.T) {
	progressed(t, func(activity.Context) (int, error) { return 0, nil }, number)
}

func TestDetailsNotRead_Right(t *testing.T) {
	progressed(t, fromNumber, number)
}

func TestDetailsIgnored_Wrong(t *testing.T) {
	progressed(t, func(ctx activity.Context) (int, error) {
		_, err := activity.Resume(ctx, 0)
		return 0, err
	}, number)
}

func TestDetailsIgnored_Right(t *testing.T) {
	progressed(t, fromNumber, number)
}

func number(next int) any { return next }

func fromNumber(ctx activity.Context) (int, error) { return activity.Resume(ctx, 0) }

func TestDetailsDropped_Wrong(t *testing.T) {
	type progress struct{ next int }
	progressed(t, func(ctx activity.Context) (int, error) {
		p, err := activity.Resume(ctx, progress{})
		return p.next, err
	}, func(next int) any { return progress{next} })
}

// The same with the function's own default, which the empty object leaves as it is.
func TestDetailsDroppedOverDefault_Wrong(t *testing.T) {
	type progress struct{ next int }
	progressed(t, func(ctx activity.Context) (int, error) {
		p := &progress{next: 1}
		_, err := ctx.HeartbeatDetails(&p)
		return p.next - 1, err
	}, func(next int) any { return &progress{next + 1} })
}

func TestDetailsDropped_Right(t *testing.T) {
	type progress struct{ Next int }
	progressed(t, func(ctx activity.Context) (int, error) {
		p, err := activity.Resume(ctx, progress{})
		return p.Next, err
	}, func(next int) any { return progress{next} })
}

// progressed runs an activity that records how far it is.
func progressed(t *testing.T, from func(ctx activity.Context) (int, error), progress func(next int) any) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		w.Config.Codec = lossy{}
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				next, err := from(ctx)
				for ; err == nil && next < rows; next++ {
					d.put(ctx, next)
					err = ctx.Heartbeat(progress(next + 1))
				}
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// The same of an ID that runs twice, with other details each time.

func TestDetailsOfTwoExecutions_Wrong(t *testing.T) {
	twice(t, func(_ activity.Context, day int) (progress, error) { return progress{Day: day}, nil })
}

func TestDetailsOfTwoExecutions_Right(t *testing.T) {
	twice(t, func(ctx activity.Context, day int) (progress, error) { return activity.Resume(ctx, progress{Day: day}) })
}

type progress struct{ Day, Next int }

// twice runs an ID twice.
func twice(t *testing.T, from func(ctx activity.Context, day int) (progress, error)) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		for day := range 2 {
			d := &table{}
			err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
				return rt.Run(ctx, options, func(ctx activity.Context) error {
					p, err := from(ctx, day)
					for ; err == nil && p.Next < rows; err = ctx.Heartbeat(p) {
						d.put(ctx, p.Next)
						p.Next++
					}
					return err
				})
			})
			if err != nil {
				t.Fatal(err)
			}
			d.check(t)
		}
	})
}

// A lossy Codec encodes what it can, and says nothing of the rest.
type lossy struct{}

func (lossy) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (lossy) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// An attempt that was told to end says that all is done.

func TestNilOnDone_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return onDone(d, func(activity.Context) error { return nil })
	})
}

func TestNilOnDone_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return onDone(d, func(ctx activity.Context) error { return context.Cause(ctx) })
	})
}

func onDone(d *table, end func(ctx activity.Context) error) func(ctx activity.Context) error {
	return func(ctx activity.Context) error {
		next, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		for ; next < rows; next++ {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return end(ctx)
			}
			d.put(ctx, next)
			if err := ctx.Heartbeat(next + 1); err != nil {
				return err
			}
		}
		return nil
	}
}

// What it does depends on what is not the same the next time.

func TestNotDeterministic_Wrong(t *testing.T) {
	calls := 0 // as a random number, or the order of a map
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			calls++
			if calls%2 == 0 {
				if err := ctx.Heartbeat(); err != nil {
					return err
				}
			}
			return inOrder(ctx, d)
		}
	})
}

func TestNotDeterministic_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error { return inOrder(ctx, d) }
	})
}

func inOrder(ctx activity.Context, d *table) error {
	return activity.Range(ctx, 0, rows, func(i int) error {
		if err := ctx.Sleep(time.Second); err != nil {
			return err
		}
		d.put(ctx, i)
		return nil
	})
}

// The order of the rows is another one in each life, and an index into it is what is
// recorded.

func TestOrder_Wrong(t *testing.T) {
	order(t, func(life int) []int {
		r := []int{0, 1, 2}
		return append(r[life%rows:], r[:life%rows]...)
	})
}

func TestOrder_Right(t *testing.T) {
	order(t, func(int) []int { return []int{0, 1, 2} })
}

func order(t *testing.T, list func(life int) []int) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d, life := &table{}, 0
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			life++
			all := slices.Clone(list(life))
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, len(all), func(i int) error {
					d.put(ctx, all[i])
					return nil
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// The process drops the error of an activity that was interrupted, and ends well.

func TestProcessDropsError_Wrong(t *testing.T) {
	processDrops(t, func(err error) error {
		if err != nil {
			fmt.Println("will be done next time:", err)
		}
		return nil
	})
}

func TestProcessDropsError_Right(t *testing.T) {
	processDrops(t, func(err error) error { return err })
}

// Without an ID nothing is stored, and nobody would know.
func TestDropsErrorWithoutID_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			_ = rt.Run(ctx, activity.Options{}, func(ctx activity.Context) error { return inOrder(ctx, &table{}) })
			return nil
		})
	})
}

func processDrops(t *testing.T, end func(error) error) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return end(rt.Run(ctx, options, func(ctx activity.Context) error { return inOrder(ctx, d) }))
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// The lock of a fake, which outlives the process, is held at a place: the next life
// waits for it for ever.

func TestPointInLock_Wrong(t *testing.T) {
	t.Parallel()
	pointInLock(t, true)
}

func TestPointInLock_Right(t *testing.T) { pointInLock(t, false) }

func pointInLock(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				mu.Lock()
				if wrong {
					activitytest.Point(ctx, "locked")
				}
				mu.Unlock()
				activitytest.Point(ctx, "unlocked")
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// The program does not start again what it finds begun.

func TestNotResumed_Wrong(t *testing.T) { notResumed(t, true) }

func TestNotResumed_Right(t *testing.T) { notResumed(t, false) }

func notResumed(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		begun := false
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if begun && wrong {
				return nil
			}
			begun = true
			return rt.Run(ctx, options, func(ctx activity.Context) error { return inOrder(ctx, &table{}) })
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Nor without an ID.

func TestNotResumedWithoutID_Wrong(t *testing.T) { notResumedWithoutID(t, true) }

func TestNotResumedWithoutID_Right(t *testing.T) { notResumedWithoutID(t, false) }

func notResumedWithoutID(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		begun := false
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if begun && wrong {
				return nil
			}
			begun = true
			return rt.Run(ctx, activity.Options{}, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// An attempt that has timed out writes what it has read before, over what the next one
// has written since.

func TestStaleWrite_Wrong(t *testing.T) { staleWrite(t, true) }

func TestStaleWrite_Right(t *testing.T) { staleWrite(t, false) }

func staleWrite(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		balance, done := 0, 0
		add := func(ctx activity.Context) error {
			mu.Lock()
			b, d := balance, done
			mu.Unlock()
			activitytest.Point(ctx, "set")
			mu.Lock()
			defer mu.Unlock()
			balance, done = b+10, d+1
			return nil
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				for {
					mu.Lock()
					d := done
					mu.Unlock()
					if d == 4 {
						return nil
					}
					step := func() error { return add(ctx) }
					if !wrong {
						step = func() error { return activity.Guard(ctx, func() error { return add(ctx) }) }
					}
					if err := errors.Join(step(), ctx.Heartbeat(d)); err != nil {
						return err
					}
				}
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if balance != 40 || done != 4 {
			t.Errorf("the balance is %d after %d steps", balance, done)
		}
	})
}

// What is wrong with the test, or with the program as a whole.

func TestNoPlace_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		err := w.Run(func(ctx context.Context, _ *activity.Runtime) error {
			return activity.New(activity.Config{}).Run(ctx, options, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestDryRun_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error { return ctx.Sleep(time.Second) }
	})
}

func TestNeverDone_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			for {
				if err := activity.Idle(ctx, 24*time.Hour); err != nil {
					return err
				}
			}
		}
	})
}

// A lock that has nothing to do with a place.
func TestLockTwice_Wrong(t *testing.T) {
	t.Parallel()
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				var mu sync.Mutex
				for range 2 {
					mu.Lock()
				}
				return nil
			})
		})
	})
}

func TestLimit_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			time.Sleep(2000 * time.Hour)
			return ctx.Sleep(time.Minute)
		}
	})
}

func TestRetriedForEver_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }
	})
}

// Two that wait for each other: nothing in the bubble can go on.
func TestStuckAfterCrash_Wrong(t *testing.T) {
	activitytest.Plan{Kinds: activitytest.Crash}.Run(t, func(t *testing.T, w *activitytest.World) {
		token := make(chan struct{}, 1) // a lock that outlives the process
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{ID: "import"}, func(ctx activity.Context) error {
				token <- struct{}{}
				defer func() { <-token }()
				return ctx.Sleep(time.Second)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// What was done in one run is not done in the next.
func TestNotStarted_Wrong(t *testing.T) {
	begun := false
	activitytest.Plan{Kinds: activitytest.Shutdown}.Run(t, func(t *testing.T, w *activitytest.World) {
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if begun {
				return nil
			}
			begun = true
			return rt.Run(ctx, options, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestProcessPanics_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		life := 0
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if life++; life > 1 {
				panic("no second life")
			}
			return rt.Run(ctx, options, func(ctx activity.Context) error { return inOrder(ctx, &table{}) })
		})
	})
}

func TestFatalInProcess_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if err := rt.Run(ctx, options, func(ctx activity.Context) error { return inOrder(ctx, &table{}) }); err != nil {
				t.Fatal("fatal in the process: ", err)
			}
			return nil
		})
		if t.Failed() {
			t.Error("the body has gone on")
		}
	})
}

func TestConfig_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		w.Config.Store = &storetest.Memory{}
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error { return nil })
	})
}

// A goroutine of an attempt that has timed out stays for ever.
func TestLeak_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			results := make(chan error)
			go func() { results <- inOrder(ctx, d) }()
			select {
			case err := <-results:
				return err
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	})
}

func TestLeak_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			results := make(chan error, 1)
			go func() { results <- inOrder(ctx, d) }()
			return <-results
		}
	})
}

// Effects that bear everything, and no ID: the process does it all again.
func TestWithoutID_Right(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, activity.Options{HeartbeatTimeout: time.Minute}, func(ctx activity.Context) error { return inOrder(ctx, d) })
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}
