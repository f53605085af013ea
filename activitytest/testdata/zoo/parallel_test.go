package zoo_test

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// The bugs in this file are those of loops that work on several rows at once.

const workers = 2

// Bug: each of several workers records its own row. An interruption while a lower row is still
// in progress loses that row.

func TestWorkersRecordOwnRow_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			return inWorkers(next, func(row int) error {
				if err := putSlowly(ctx, d, row); err != nil {
					return err
				}
				return ctx.Heartbeat(row + 1)
			})
		}
	})
}

func TestWorkersRecordOwnRow_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
				return putSlowly(ctx, d, row)
			})
		}
	})
}

// putSlowly puts a row. Rows take different times.
func putSlowly(ctx activity.Context, d *table, row int) error {
	if err := ctx.Sleep(time.Duration(rows-row) * time.Second); err != nil {
		return err
	}
	d.put(ctx, row)
	return nil
}

// inWorkers calls work for each row from next on, as several goroutines do that share a
// channel, and returns the first error.
func inWorkers(next int, work func(row int) error) error {
	todo := make(chan int, rows)
	for ; next < rows; next++ {
		todo <- next
	}
	close(todo)
	failed := make(chan error, workers)
	for range workers {
		go func() {
			for row := range todo {
				if err := work(row); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	var first error
	for range workers {
		if err := <-failed; first == nil {
			first = err
		}
	}
	return first
}

// Bug: a body adds to a total. If it has added but is not recorded as done, it adds again.

func TestBodyAdds_Wrong(t *testing.T) {
	totals(t, func(ctx activity.Context, l *ledger, row int) { l.add(ctx, row) })
}

func TestBodyAdds_Right(t *testing.T) {
	totals(t, func(ctx activity.Context, l *ledger, row int) { l.set(ctx, row, row) })
}

// A ledger outlives the process. It has amounts by row, and amounts without a row.
type ledger struct {
	mu    sync.Mutex
	byRow map[int]int
	other int
}

func (l *ledger) add(ctx context.Context, amount int) {
	activitytest.Point(ctx, "add")
	l.mu.Lock()
	l.other += amount
	l.mu.Unlock()
	activitytest.Point(ctx, "added")
}

func (l *ledger) set(ctx context.Context, row, amount int) {
	activitytest.Point(ctx, "set")
	l.mu.Lock()
	if l.byRow == nil {
		l.byRow = map[int]int{}
	}
	l.byRow[row] = amount
	l.mu.Unlock()
	activitytest.Point(ctx, "done")
}

func (l *ledger) total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.other
	for _, amount := range l.byRow {
		total += amount
	}
	return total
}

func totals(t *testing.T, body func(ctx activity.Context, l *ledger, row int)) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		l := &ledger{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.RangeParallel(ctx, 1, rows+1, workers, func(ctx activity.Context, row int) error {
					if err := ctx.Sleep(time.Second); err != nil {
						return err
					}
					body(ctx, l, row)
					return nil
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.total(); got != 6 {
			t.Errorf("the total is %d, want 6", got)
		}
	})
}

// Bug: a body returns before its row is written, because it leaves the write to a goroutine.
// The row is recorded as done, and a crash loses it.

func TestBodyReturnsEarly_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			var writes sync.WaitGroup
			defer writes.Wait()
			return activity.RangeParallel(ctx, 0, rows, workers, func(_ activity.Context, row int) error {
				writes.Go(func() {
					time.Sleep(time.Second)
					d.put(ctx, row)
				})
				return nil
			})
		}
	})
}

func TestBodyReturnsEarly_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
				var writes sync.WaitGroup
				writes.Go(func() {
					time.Sleep(time.Second)
					d.put(ctx, row)
				})
				writes.Wait()
				return context.Cause(ctx)
			})
		}
	})
}

// Bug: the bodies' results are in the memory of the attempt until all are there. A later
// attempt lacks those of the bodies that it does not run again.

func TestResultsInMemory_Wrong(t *testing.T) {
	results(t, func(ctx activity.Context, l *ledger) error {
		amounts := make([]int, rows+1)
		err := activity.RangeParallel(ctx, 1, rows+1, workers, func(ctx activity.Context, row int) error {
			amounts[row] = row
			return ctx.Sleep(time.Second)
		})
		if err != nil {
			return err
		}
		sum := 0
		for _, amount := range amounts {
			sum += amount
		}
		l.set(ctx, 0, sum)
		return nil
	})
}

func TestResultsInMemory_Right(t *testing.T) {
	results(t, func(ctx activity.Context, l *ledger) error {
		return activity.RangeParallel(ctx, 1, rows+1, workers, func(ctx activity.Context, row int) error {
			l.set(ctx, row, row)
			return ctx.Sleep(time.Second)
		})
	})
}

func results(t *testing.T, program func(ctx activity.Context, l *ledger) error) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		l := &ledger{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error { return program(ctx, l) })
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.total(); got != 6 {
			t.Errorf("the total is %d, want 6", got)
		}
	})
}

// Bug: a body returns nil when its Context ends. Its row is recorded as done, and is missing.

func TestBodyNilOnDone_Wrong(t *testing.T) {
	bodyOnDone(t, func(activity.Context) error { return nil })
}

func TestBodyNilOnDone_Right(t *testing.T) {
	bodyOnDone(t, func(ctx activity.Context) error { return context.Cause(ctx) })
}

func bodyOnDone(t *testing.T, end func(ctx activity.Context) error) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return end(ctx)
				}
				d.put(ctx, row)
				return nil
			})
		}
	})
}

// Bug: a body sends its own details, which replace the progress of the loop.

func TestBodyRecordsDetails_Wrong(t *testing.T) {
	bodyHeartbeats(t, func(ctx activity.Context, row int) error { return ctx.Heartbeat(row) })
}

func TestBodyRecordsDetails_Right(t *testing.T) {
	bodyHeartbeats(t, func(ctx activity.Context, row int) error { return ctx.Heartbeat() })
}

func bodyHeartbeats(t *testing.T, heartbeat func(ctx activity.Context, row int) error) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
				if err := heartbeat(ctx, row); err != nil {
					return err
				}
				return putSlowly(ctx, d, row)
			})
		}
	})
}

// Bug: a body holds a lock that is shared by all bodies while it sends a heartbeat. If the
// heartbeat stalls, the next attempt waits for the lock forever.

func TestLockInBodies_Wrong(t *testing.T) {
	t.Parallel()
	lockInBodies(t, true)
}

func TestLockInBodies_Right(t *testing.T) { lockInBodies(t, false) }

func lockInBodies(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			var mu sync.Mutex // dies with the process
			written := 0
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
					d.put(ctx, row)
					mu.Lock()
					written++
					if wrong {
						defer mu.Unlock()
						return ctx.Heartbeat()
					}
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

// A token in a channel may be held at a place, if it ends with the attempt.
func TestTokenInBodies_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			token := make(chan struct{}, 1)
			return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, row int) error {
				token <- struct{}{}
				defer func() { <-token }()
				d.put(ctx, row)
				return ctx.Heartbeat()
			})
		}
	})
}

// A worker pool that holds a mutex of the attempt while it records. The mutex ends with the attempt, so this
// is no fault.

func lockedPool(t *testing.T, plan activitytest.Plan, put func(ctx activity.Context, d *table, mu *sync.Mutex, i int)) {
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				var mu sync.Mutex
				var failed error
				done := 0
				jobs := make(chan int)
				var workers sync.WaitGroup
				for range 3 {
					workers.Go(func() {
						for i := range jobs {
							put(ctx, d, &mu, i)
							done++
							failed = cmp.Or(failed, ctx.Heartbeat(done))
							mu.Unlock()
						}
					})
				}
				for i := range rows {
					jobs <- i
				}
				close(jobs)
				workers.Wait()
				return failed
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

func TestPoolLock_Right(t *testing.T) {
	lockedPool(t, activitytest.Plan{RequireAll: true}, func(ctx activity.Context, d *table, mu *sync.Mutex, i int) {
		d.put(ctx, i)
		mu.Lock()
	})
}

// Between the jobs and the mutex there is no place at which a worker could be kept from waiting for it. So
// some runs are inconclusive.
func TestPoolLockFirst_Right(t *testing.T) {
	lockedPool(t, activitytest.Plan{Kinds: activitytest.Crash, MaxRuns: 10}, func(ctx activity.Context, d *table, mu *sync.Mutex, i int) {
		mu.Lock()
		d.put(ctx, i)
	})
}

// Bug: a marker is written before its data. Bodies do both under a mutex of the attempt.

func markers(t *testing.T, wrong bool) {
	activitytest.Plan{Kinds: activitytest.Crash}.Run(t, func(t *testing.T, w *activitytest.World) {
		disk := w.FS(t.TempDir())
		put := func(name string) error {
			f, err := disk.Create(name)
			if err != nil {
				return err
			}
			return f.Close()
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				var mu sync.Mutex
				return activity.RangeParallel(ctx, 0, rows, workers, func(ctx activity.Context, i int) error {
					mu.Lock()
					defer mu.Unlock()
					data, marker := fmt.Sprint("data", i), fmt.Sprint("marker", i)
					if _, err := disk.Stat(marker); err == nil {
						return nil
					}
					if wrong {
						return cmp.Or(put(marker), put(data))
					}
					if err := put(data); err != nil {
						return err
					}
					return put(marker)
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			if _, err := disk.Stat(fmt.Sprint("data", i)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestMarkersLock_Wrong(t *testing.T) { markers(t, true) }
func TestMarkersLock_Right(t *testing.T) { markers(t, false) }
