package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	temporal "go.temporal.io/sdk/activity"

	"github.com/seed-9da638b0/activity"
)

// firstInt is above 255, because the runtime has ready-made boxes for smaller ints.
const firstInt = 1000

type position struct {
	File   string
	Line   int
	Offset int64
	Bytes  int64
	Done   bool
}

var where = position{File: "a/b/c.csv", Line: 1000, Offset: 123456, Bytes: 654321}

// A turn is one measurement of activities that wait between measurements.
type turn struct {
	begin chan struct{} // closed when n and next are set
	n     int           // the heartbeats of all activities
	left  atomic.Int64  // the activities that are not done
	done  chan struct{} // closed when left is zero
	next  *turn         // nil after the last turn
}

func newTurn(activities int) *turn {
	t := &turn{begin: make(chan struct{}), done: make(chan struct{})}
	t.left.Store(int64(activities))
	return t
}

// beating starts activities. In each measurement, each of them calls many with its share of
// the operations. Start is called in a goroutine for each activity, and must call serve.
func beating(activities int, start func(serve func(many func(n int) error) error) error, verify func(n int) error) (subject, error) {
	now := newTurn(activities)
	ended := make(chan error, activities)
	for i := range activities {
		t := now
		go func() {
			ended <- start(func(many func(n int) error) error {
				for {
					<-t.begin
					if t.next == nil {
						return nil
					}
					share := t.n / activities
					if i < t.n%activities {
						share++
					}
					if err := many(share); err != nil {
						return err
					}
					if t.left.Add(-1) == 0 {
						close(t.done)
					}
					t = t.next
				}
			})
		}()
	}
	op := func(n int) error {
		t := now
		now = newTurn(activities)
		t.n, t.next = n, now
		close(t.begin)
		select {
		case <-t.done:
			return nil
		case err := <-ended:
			ended <- nil // close receives one value for each activity
			return fmt.Errorf("an activity ended before its turn: %w", err)
		}
	}
	return subject{measure: timed(op, verify), close: func() error {
		close(now.begin)
		var err error
		for range activities {
			err = errors.Join(err, <-ended)
		}
		return err
	}}, nil
}

// ourBeats returns a subject in which activities of this package send heartbeats. If details
// is not nil, it returns the details of the last of n heartbeats.
func ourBeats(activities int, beat func(ctx activity.Context, n int) error, details func(n int) string) (subject, error) {
	rt := activity.New(activity.Config{})
	before := 0
	return beating(activities, func(serve func(many func(n int) error) error) error {
		return rt.Run(context.Background(), longTimeouts(), func(ctx activity.Context) error {
			return serve(func(n int) error { return beat(ctx, n) })
		})
	}, func(n int) error {
		did := int(rt.Stats().Heartbeats) - before
		before += did
		if err := same(did, n, "heartbeats"); err != nil || details == nil {
			return err
		}
		for i, status := range rt.Activities() {
			var got json.RawMessage
			if _, err := status.HeartbeatDetails(&got); err != nil {
				return err
			}
			own := n / activities
			if want, more := details(own), details(own+1); own > 0 && string(got) != want && string(got) != more {
				return fmt.Errorf("activity %d recorded %s, want %s", i, got, want)
			}
		}
		return nil
	})
}

// floorBeats returns a subject that calls many in goroutines without an activity.
func floorBeats(goroutines int, many func(n int)) (subject, error) {
	return beating(goroutines, func(serve func(many func(n int) error) error) error {
		return serve(func(n int) error { many(n); return nil })
	}, func(int) error { return nil })
}

func beatNone(ctx activity.Context, n int) error {
	for range n {
		if err := ctx.Heartbeat(); err != nil {
			return err
		}
	}
	return nil
}

func beatInt(ctx activity.Context, n int) error {
	for i := range n {
		if err := ctx.Heartbeat(firstInt + i); err != nil {
			return err
		}
	}
	return nil
}

func beatStruct(ctx activity.Context, n int) error {
	for range n {
		if err := ctx.Heartbeat(where); err != nil {
			return err
		}
	}
	return nil
}

func intDetails(n int) string { return fmt.Sprint(firstInt + n - 1) }

func structDetails(int) string {
	data, err := json.Marshal(where)
	if err != nil {
		panic(err)
	}
	return string(data)
}

func readClock(n int) {
	var now time.Time
	for range n {
		now = time.Now()
	}
	runtime.KeepAlive(now)
}

// An emptyContext's heartbeat does nothing, so that only the call is measured.
type emptyContext struct{}

//go:noinline
func (emptyContext) Heartbeat(...any) error { return nil }

// A beater hides the called method from the compiler, as activity.Context does.
type beater interface{ Heartbeat(details ...any) error }

var empty beater = emptyContext{}

func heartbeatSections(s scale) []section {
	clock := func(n int) row {
		return row{name: "floor: time.Now" + from(n), least: shares(n), open: func() (subject, error) { return floorBeats(n, readClock) }}
	}
	ours := func(name string, n int, beat func(activity.Context, int) error, details func(int) string) row {
		return row{name: "this package, " + name + from(n), least: shares(n), open: func() (subject, error) { return ourBeats(n, beat, details) }}
	}
	reference := func(r row) row {
		r.ours = true
		return r
	}
	temporalRow := func(name string, n int, beat func(context.Context, int)) row {
		return row{name: "Temporal SDK, " + name + from(n), remark: "in TestActivityEnvironment; the newest heartbeat is kept for a batch, which is sent every 30 s",
			least: shares(n), open: func() (subject, error) { return temporalBeats(n, beat) }}
	}
	call := func(many func(n int)) row {
		return row{name: "floor: an empty method", remark: "the call through an interface, including the boxing of its argument",
			open: func() (subject, error) { return floorBeats(1, many) }}
	}
	marshal := func(remark string, value func(i int) any) row {
		return row{name: "floor: json.Marshal", remark: remark, open: func() (subject, error) {
			return floorBeats(1, func(n int) {
				for i := range n {
					if data, err := json.Marshal(value(i)); err != nil || len(data) == 0 {
						panic(err) // neither can happen
					}
				}
			})
		}}
	}
	temporalInt := func(ctx context.Context, n int) {
		for i := range n {
			temporal.RecordHeartbeat(ctx, firstInt+i)
		}
	}

	all := []section{
		{
			name: "heartbeat, none", title: "One heartbeat without details", text: "From one activity. ns: the call.",
			rows: []row{
				clock(1),
				call(func(n int) {
					for range n {
						_ = empty.Heartbeat()
					}
				}),
				{name: "by hand, Timer.Reset", remark: "moves the deadline; does not notice a canceled attempt", open: func() (subject, error) {
					return floorBeats(1, func(n int) {
						timer := time.AfterFunc(time.Hour, func() {})
						defer timer.Stop()
						for range n {
							timer.Reset(time.Hour)
						}
					})
				}},
				reference(ours("Heartbeat()", 1, beatNone, nil)),
				temporalRow("RecordHeartbeat(ctx)", 1, func(ctx context.Context, n int) {
					for range n {
						temporal.RecordHeartbeat(ctx)
					}
				}),
			},
		},
		{
			name: "heartbeat, int", title: "One heartbeat with an int", text: "From one activity; the ints are above 255, so that each is boxed. ns: the call.",
			rows: []row{
				clock(1),
				call(func(n int) {
					for i := range n {
						_ = empty.Heartbeat(firstInt + i)
					}
				}),
				marshal("of the int", func(i int) any { return firstInt + i }),
				reference(ours("Heartbeat(int)", 1, beatInt, intDetails)),
				temporalRow("RecordHeartbeat(int)", 1, temporalInt),
			},
		},
		{
			name: "heartbeat, struct", title: "One heartbeat with a struct of five fields", text: "From one activity. ns: the call.",
			rows: []row{
				clock(1),
				call(func(n int) {
					for range n {
						_ = empty.Heartbeat(where)
					}
				}),
				marshal("of the struct", func(int) any { return where }),
				reference(ours("Heartbeat(struct)", 1, beatStruct, structDetails)),
				temporalRow("RecordHeartbeat(struct)", 1, func(ctx context.Context, n int) {
					for range n {
						temporal.RecordHeartbeat(ctx, where)
					}
				}),
			},
		},
	}
	procs := runtime.GOMAXPROCS(0)
	for _, n := range s.beating {
		many := section{
			name: fmt.Sprintf("heartbeat, from %s", count(n)), title: fmt.Sprintf("One heartbeat, from %s activities at once", count(n)),
			text: fmt.Sprintf("ns: the elapsed time divided by the number of all heartbeats. On %d cores, each heartbeat takes %d times as long. "+
				"The rows from one activity are for comparison.", procs, procs),
			rows: []row{
				clock(1),
				clock(n),
				ours("Heartbeat()", 1, beatNone, nil),
				reference(ours("Heartbeat()", n, beatNone, nil)),
				ours("Heartbeat(int)", n, beatInt, intDetails),
				ours("Heartbeat(struct)", n, beatStruct, structDetails),
			},
		}
		if n <= 100 {
			many.rows = append(many.rows, temporalRow("RecordHeartbeat(int)", n, temporalInt))
		}
		all = append(all, many)
	}
	return all
}

// shares returns the least number of heartbeats of a measurement, so that waking n
// activities is a small part of it.
func shares(n int) int {
	if n == 1 {
		return 1
	}
	return 100 * n
}

// from names the number of activities that send heartbeats, if that is more than one.
func from(n int) string {
	if n == 1 {
		return ""
	}
	return " from " + count(n)
}
