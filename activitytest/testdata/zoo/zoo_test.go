// Package zoo_test has activities and programs with one realistic bug each, and beside each
// its correct twin. Tests of the former end in _Wrong and must fail; tests of the latter end
// in _Right and must pass. TestZoo of package activitytest runs them all, and checks the
// messages of those that fail.
package zoo_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
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

// every runs an activity that writes to a file, with every interruption. Then the file must
// have each row once, in order.
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

// A file outlives the process. Lines can be appended, and it can be truncated.
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

// A table outlives the process. Putting a row again changes nothing.
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

// everyTable runs an activity that writes to a table, with every interruption. Then the table
// must have each row.
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

// Bug: the heartbeat records a row before it is written, so that a crash after the heartbeat
// skips the row.

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

// Bug: a row that was appended but not recorded is appended again.

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

// appendGuarded is the correct twin of several activities.
func appendGuarded(f *file) func(ctx activity.Context) error {
	return func(ctx activity.Context) error {
		done, err := activity.Resume(ctx, 0)
		if err != nil {
			return err
		}
		err = activity.Guard(ctx, func() error {
			f.cut(done) // removes rows that were appended but not recorded
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

// Bug: the error of Heartbeat is dropped, so that an attempt that has timed out continues to
// write beside the next attempt.

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

// Bug: the progress is only in a variable of the process.

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

// Bug of the test itself: the progress is in a variable of the body, which survives a crash.
// activitytest cannot detect this, so the test passes.

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

// Bug: a lock is held across a heartbeat, so that the next attempt waits for it forever if
// the heartbeat stalls.

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
			var mu sync.Mutex // dies with the process
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

// Bug: the rows are written in a deferred call, which a crash prevents.

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

// Bug: a write outside of Guard stalls, and happens after the next attempt has written.

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

// Bug: the next version of the program renames a field of the details.

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

// Bug: the details make no difference, because each attempt starts from the beginning. The
// rows are still correct.

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

// Bug: the details are dropped as above, and the function's own default hides it, because
// decoding an empty object does not change the default.
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

// progressed runs an activity that starts at the row that from returns, and records details
// made by progress after each row.
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

// Bug: the details make no difference for an ID that runs twice, with different details.

func TestDetailsOfTwoExecutions_Wrong(t *testing.T) {
	twice(t, func(_ activity.Context, day int) (progress, error) { return progress{Day: day}, nil })
}

func TestDetailsOfTwoExecutions_Right(t *testing.T) {
	twice(t, func(ctx activity.Context, day int) (progress, error) { return activity.Resume(ctx, progress{Day: day}) })
}

type progress struct{ Day, Next int }

// twice runs the same ID on two days.
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

// lossy is a Codec that silently drops whatever encoding/json does not encode.
type lossy struct{}

func (lossy) Marshal(v any) ([]byte, error) { return json.Marshal(v) }

func (lossy) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// Bug: the function returns nil when its Context ends, although rows are missing.

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

// Bug: the function's calls depend on something that changes from run to run.

func TestNotDeterministic_Wrong(t *testing.T) {
	calls := 0 // stands for a random number or the order of a map
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

// Bug: the details are an index into a list whose order changes with each life.

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

// No bug: the process drops the error of an activity that was interrupted, but the Store holds that,
// and the next life resumes it.

func TestProcessDropsError_Right(t *testing.T) {
	processDrops(t, func(error) error { return nil })
}

func TestProcessReturnsError_Right(t *testing.T) {
	processDrops(t, func(err error) error { return err })
}

// Bug: the process removes an activity that was interrupted.
func TestProcessForgets_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if err := rt.Run(ctx, options, func(ctx activity.Context) error { return inOrder(ctx, d) }); err != nil {
				return rt.Forget(ctx, options.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// No bug: a server recovers what is unfinished, polls, and ends with a Shutdown.

func TestServer_Right(t *testing.T) {
	server(t, false, func(ctx context.Context) {
		time.Sleep(331 * time.Second) // nothing else happens at that instant
	})
}

// The same, but it runs until it gets a signal.
func TestServerUntilSignal_Right(t *testing.T) {
	server(t, true, func(ctx context.Context) { <-ctx.Done() })
}

func server(t *testing.T, untilIdle bool, serve func(ctx context.Context)) {
	plan := activitytest.Plan{MaxRuns: 300}
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		w.StopWhenIdle = untilIdle
		d, opts := &table{}, activity.Options{HeartbeatTimeout: 10 * time.Second}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			def := &activity.Definition[int, int]{Name: "rows", Options: opts, Func: func(ctx activity.Context, in int) (int, error) {
				return 0, inOrder(ctx, d)
			}}
			poll := &activity.Definition[int, int]{Name: "poll", Options: opts, Func: func(ctx activity.Context, in int) (int, error) {
				for {
					if _, err := def.Start(context.WithoutCancel(ctx), rt, "rows", 7); err != nil && !errors.Is(err, activity.ErrAlreadyRunning) {
						return 0, err
					}
					if err := activity.Idle(ctx, time.Minute); err != nil {
						return 0, err
					}
				}
			}}
			if _, err := rt.Recover(ctx, def, poll); err != nil {
				return err
			}
			if _, err := poll.Start(context.WithoutCancel(ctx), rt, "poller", 0); err != nil && !errors.Is(err, activity.ErrAlreadyRunning) && !errors.Is(err, activity.ErrShutdown) {
				return err
			}
			serve(ctx)
			return rt.Shutdown(context.WithoutCancel(ctx))
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// Bug: a server accepts an order once, and its next life does not recover it.

func orders(t *testing.T, recovers bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		w.StopWhenIdle = true
		d, accepted := &table{}, false // both are stored
		def := &activity.Definition[int, int]{Name: "rows", Options: activity.Options{HeartbeatTimeout: 10 * time.Second}, Func: func(ctx activity.Context, in int) (int, error) {
			return 0, inOrder(ctx, d)
		}}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			if recovers {
				if _, err := rt.Recover(ctx, def); err != nil {
					return err
				}
			}
			if !accepted {
				if _, err := def.Start(ctx, rt, "rows", 7); err != nil && !errors.Is(err, activity.ErrAlreadyRunning) {
					return err
				}
				accepted = true
			}
			<-ctx.Done()
			return rt.Shutdown(context.WithoutCancel(ctx))
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

func TestServerForgets_Wrong(t *testing.T) { orders(t, false) }
func TestServerForgets_Right(t *testing.T) { orders(t, true) }

// Two bodies of one activity poll, and another activity works. The process is idle once that has ended.
func TestServerPollsTwice_Right(t *testing.T) {
	activitytest.Plan{MaxRuns: 100}.Run(t, func(t *testing.T, w *activitytest.World) {
		w.StopWhenIdle = true
		d, opts := &table{}, activity.Options{HeartbeatTimeout: 10 * time.Second}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			poll := &activity.Definition[int, int]{Name: "poll", Options: opts, Func: func(ctx activity.Context, in int) (int, error) {
				return 0, activity.RangeParallel(ctx, 0, 2, 2, func(ctx activity.Context, i int) error {
					for {
						if err := activity.Idle(ctx, time.Minute); err != nil {
							return err
						}
					}
				})
			}}
			work := &activity.Definition[int, int]{Name: "rows", Options: opts, Func: func(ctx activity.Context, in int) (int, error) {
				return 0, inOrder(ctx, d)
			}}
			if _, err := poll.Start(context.WithoutCancel(ctx), rt, "poller", 0); err != nil && !errors.Is(err, activity.ErrShutdown) {
				return err
			}
			if _, err := work.Start(context.WithoutCancel(ctx), rt, "rows", 0); err != nil && !errors.Is(err, activity.ErrShutdown) {
				return err
			}
			<-ctx.Done()
			return rt.Shutdown(context.WithoutCancel(ctx))
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// Bug: the process drops the error of an interrupted activity without an ID, which is not
// stored.
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
		d.check(t)
	})
}

// Bug of the test itself: the lock of a fake is held at a Point. The fake outlives the
// process, so that the next life waits for the lock forever.

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

// Bug: the program does not resume the activity that an earlier life started.

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

// Bug: the program does not start an activity without an ID again.

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

// Bug: an attempt that has timed out writes a value that it computed from old data, over the
// value that the next attempt has written.

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

// Bugs of the test or of the program as a whole follow.

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

// Bug: the function locks a mutex twice, without any place in between.
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

func TestRetriedForever_Wrong(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error { return ctx.Sleep(time.Minute) }
	})
}

// Bug: the process holds a token that outlives it when it crashes, so that the next life waits
// for the token until Plan.Limit.
func TestStuckAfterCrash_Wrong(t *testing.T) {
	activitytest.Plan{Kinds: activitytest.Crash}.Run(t, func(t *testing.T, w *activitytest.World) {
		token := make(chan struct{}, 1) // outlives the process
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

// Bug of the test itself: a variable outside of the body keeps the next run from starting the
// activity.
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
			t.Error("the body has continued")
		}
	})
}

func TestConfig_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		w.Config.Store = &storetest.Memory{}
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error { return nil })
	})
}

// Bug: if the attempt times out, its goroutine blocks forever.
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

// Without an ID, each life starts the activity from the beginning. Its effects are idempotent.
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

// Bug: one step of a thousand, which has code of its own, appends to the file before the heartbeat
// and not by its number. A hundred runs must find it.

func oneStepOf1000(t *testing.T, special func(ctx activity.Context, f *file, i int)) {
	plan := activitytest.Plan{MaxRuns: 100}
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		f, d := &file{}, &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 1000, func(i int) error {
					if i == 573 {
						special(ctx, f, i)
					} else if i%50 == 0 {
						d.put(ctx, i)
					}
					return nil
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if f.len() != 1 {
			t.Errorf("step 573 was done %d times", f.len())
		}
	})
}

func TestOneStepOf1000_Wrong(t *testing.T) {
	oneStepOf1000(t, func(ctx activity.Context, f *file, i int) { f.append(ctx, i) })
}

func TestOneStepOf1000_Right(t *testing.T) {
	oneStepOf1000(t, func(ctx activity.Context, f *file, i int) {
		activitytest.Point(ctx, "put")
		f.mu.Lock()
		f.lines = []int{i}
		f.mu.Unlock()
		activitytest.Point(ctx, "done")
	})
}

// Bug: before it resumes, the activity takes back what was not recorded, and a crash in the middle of
// that takes it back twice. Only a second interruption comes to that place.

func tape(t *testing.T, undo func(ctx activity.Context, f *file, total *int)) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		f, total := &file{}, 0 // the total is stored beside the file
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			// A stalled attempt would write beside the next one, so it must have ended.
			opts := options
			opts.MaxAbandoned = activity.NoOverlap
			return rt.Run(ctx, opts, func(ctx activity.Context) error {
				next, err := activity.Resume(ctx, 0)
				if err != nil {
					return err
				}
				for f.len() > next {
					undo(ctx, f, &total)
				}
				for ; next < rows; next++ {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					total += 10 + next
					f.lines = append(f.lines, next)
					activitytest.Point(ctx, "written")
					if err := ctx.Heartbeat(next + 1); err != nil {
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
		if total != 33 {
			t.Errorf("the total is %d, want 33", total)
		}
	})
}

func TestTape_Wrong(t *testing.T) {
	tape(t, func(ctx activity.Context, f *file, total *int) {
		last := f.lines[f.len()-1]
		*total -= 10 + last
		activitytest.Point(ctx, "undone")
		f.cut(f.len() - 1)
	})
}

func TestTape_Right(t *testing.T) {
	tape(t, func(ctx activity.Context, f *file, total *int) {
		last := f.lines[f.len()-1]
		f.cut(f.len() - 1) // in one transaction with the total
		*total -= 10 + last
		activitytest.Point(ctx, "undone")
	})
}

// Bug: rows are written when the attempt's Context ends, which a killed process does not live to see.

func buffered(t *testing.T, each bool) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			var mu sync.Mutex
			var rows []int
			flush := func() {
				mu.Lock()
				defer mu.Unlock()
				d.mu.Lock()
				defer d.mu.Unlock()
				for _, row := range rows {
					if d.rows == nil {
						d.rows = map[int]bool{}
					}
					d.rows[row] = true
				}
				rows = nil
			}
			defer context.AfterFunc(ctx, flush)()
			defer flush()
			return activity.Range(ctx, 0, 3, func(i int) error {
				mu.Lock()
				rows = append(rows, i)
				mu.Unlock()
				if each {
					flush()
				}
				return ctx.Sleep(5 * time.Second) // a dead life's heartbeat timeout passes meanwhile
			})
		}
	})
}

func TestFlushAtTheEnd_Wrong(t *testing.T) { buffered(t, false) }
func TestFlushAtTheEnd_Right(t *testing.T) { buffered(t, true) }

// Bug: a payment is made again if the process is interrupted before it is recorded. The bodies know no
// more than that: the oracles of the World find it.

type bank struct {
	mu    sync.Mutex
	total int
	keys  map[int]bool // idempotency keys
}

// pay pays the amount. If idempotent, it does so once for each key.
func (b *bank) pay(ctx context.Context, w *activitytest.World, key int, idempotent bool) {
	activitytest.Point(ctx, "pay")
	b.mu.Lock()
	if !idempotent || !b.keys[key] {
		w.Once(key)
		b.total += 10
	}
	if b.keys == nil {
		b.keys = map[int]bool{}
	}
	b.keys[key] = true
	b.mu.Unlock()
	activitytest.Point(ctx, "paid")
}

func payments(t *testing.T, idempotent bool, check func(w *activitytest.World, b *bank)) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		b := &bank{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error { b.pay(ctx, w, i, idempotent); return nil })
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		check(w, b)
	})
}

func TestPaidTwice_Wrong(t *testing.T) {
	payments(t, false, func(w *activitytest.World, b *bank) { w.Same("the total", b.total) })
}

func TestPaidTwice_Right(t *testing.T) {
	payments(t, true, func(w *activitytest.World, b *bank) { w.Same("the total", b.total) })
}

// Bug of the test itself: it does not compare what it compares in the dry run.
func TestNotCompared_Wrong(t *testing.T) {
	first := true
	payments(t, true, func(w *activitytest.World, b *bank) {
		if first {
			w.Same("the total", b.total)
		}
		first = false
	})
}

func TestComparedTwice_Wrong(t *testing.T) {
	payments(t, true, func(w *activitytest.World, b *bank) { w.Same("the total", b.total); w.Same("the total", b.total) })
}

// Bug of the test itself: it uses a real network, for which a bubble's time stands still.

func TestNetworkLock_Wrong(t *testing.T) {
	t.Parallel()
	fetches(t, func(w *activitytest.World, h http.Handler) (http.RoundTripper, string, func()) {
		s := httptest.NewServer(h)
		return http.DefaultTransport, s.URL, s.Close
	})
}

func TestNetworkLock_Right(t *testing.T) {
	fetches(t, func(w *activitytest.World, h http.Handler) (http.RoundTripper, string, func()) {
		return w.Serve(h), "http://server", func() {}
	})
}

func fetches(t *testing.T, serve func(*activitytest.World, http.Handler) (http.RoundTripper, string, func())) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		network, url, stop := serve(w, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
		defer stop()
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 2, func(i int) error {
					r, err := http.NewRequestWithContext(ctx, "GET", url, nil)
					if err != nil {
						return err
					}
					answer, err := (&http.Client{Transport: network}).Do(r)
					if err != nil {
						return err
					}
					_ = answer.Body.Close()
					return ctx.Sleep(time.Second)
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Bug: a payment whose answer is lost is sent again, without an idempotency key.

func posts(t *testing.T, key func(i int) string) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		var mu sync.Mutex
		total, known := 0, map[string]bool{}
		api := w.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			amount, _ := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			if k := r.Header.Get("Idempotency-Key"); k == "" || !known[k] {
				total += len(amount)
				known[k] = true
			}
		}))
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			client := &http.Client{Transport: api}
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error {
					r, err := http.NewRequestWithContext(ctx, "POST", "http://bank/pay", strings.NewReader("1"))
					if err != nil {
						return err
					}
					r.Header.Set("Idempotency-Key", key(i))
					answer, err := client.Do(r)
					if err != nil {
						return err
					}
					return answer.Body.Close()
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Same("the total", total)
	})
}

func TestPostedTwice_Wrong(t *testing.T) { posts(t, func(int) string { return "" }) }
func TestPostedTwice_Right(t *testing.T) { posts(t, strconv.Itoa) }

// Bug: the first failure of a request is taken for the end of the pages.

func TestFailureIsTheEnd_Wrong(t *testing.T) { pages(t, true) }
func TestFailureIsTheEnd_Right(t *testing.T) { pages(t, false) }

func pages(t *testing.T, wrong bool) {
	activitytest.Plan{Kinds: activitytest.Fault}.Run(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		api := w.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if page, _ := strconv.Atoi(r.URL.Query().Get("page")); page >= rows {
				http.NotFound(w, r)
			}
		}))
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			client := &http.Client{Transport: api}
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				page, err := activity.Resume(ctx, 0)
				for ; err == nil; page++ {
					r, _ := http.NewRequestWithContext(ctx, "GET", "http://site/?page="+strconv.Itoa(page), nil)
					answer, failed := client.Do(r)
					if failed != nil && !wrong {
						return failed
					}
					if failed != nil || answer.StatusCode != http.StatusOK {
						return nil
					}
					d.put(ctx, page)
					err = ctx.Heartbeat(page + 1)
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

// Bug: a row that was begun twice is taken for a poison row and skipped, although both times the process
// was killed. That takes two crashes at one row.

func poison(t *testing.T, most int) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d, begun := &table{}, map[int]int{} // both are stored
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			opts := options
			opts.MaxAbandoned = activity.NoOverlap
			return rt.Run(ctx, opts, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error {
					if begun[i]++; begun[i] > most {
						return nil
					}
					d.put(ctx, i)
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

func TestPoison_Wrong(t *testing.T) { poison(t, 2) }
func TestPoison_Right(t *testing.T) { poison(t, 9) }

// The name of a Point may look like a part of a run's name.
func TestPointNamedThen_Right(t *testing.T) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			activitytest.Point(ctx, "write then sync lost 3")
			return inOrder(ctx, d)
		}
	})
}

// Bug of the test itself: the key cannot be compared.
func TestOnceKey_Wrong(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		_ = w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error { w.Once([]string{"a"}); return ctx.Heartbeat(1) })
		})
	})
}

// Bug: the Plan makes too few runs to try everything that it requires.

func requireAll(t *testing.T, plan activitytest.Plan) {
	plan.Run(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error { d.put(ctx, i); return nil })
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

func TestRequireAll_Wrong(t *testing.T) {
	requireAll(t, activitytest.Plan{MaxRuns: 40, RequireAll: true})
}

func TestRequireAll_Right(t *testing.T) { requireAll(t, activitytest.Plan{RequireAll: true}) }

// No bug: a fake that releases its lock for the Point.
func TestRelock_Right(t *testing.T) {
	activitytest.Plan{MaxRuns: 200}.Run(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		put := func(ctx context.Context, row int) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.rows == nil {
				d.rows = map[int]bool{}
			}
			d.rows[row] = true
			d.mu.Unlock()
			activitytest.Point(ctx, "done")
			d.mu.Lock()
		}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error { put(ctx, i); return nil })
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}
