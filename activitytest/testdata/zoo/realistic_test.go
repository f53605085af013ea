package zoo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// The activities in this file are small versions of those in real programs.

// steps calls first and then second, or the other way round if swapped is set.
func steps(swapped bool, first, second func() error) error {
	if swapped {
		first, second = second, first
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// work takes d, unless ctx ends before that.
func work(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// request sends a request without a body, and returns the body of the answer.
func request(ctx context.Context, client *http.Client, method, url string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, url, answer.Status)
	}
	return body, err
}

// Bug: a crawl records the cursor of the next page before the items of this page are stored.

func TestCrawl_Wrong(t *testing.T) { crawl(t, true) }
func TestCrawl_Right(t *testing.T) { crawl(t, false) }

func crawl(t *testing.T, wrong bool) {
	type listing struct {
		Items []int
		Next  string // cursor of the next page; empty on the last page
	}
	type crawled struct {
		Cursor string
		Done   bool
	}
	pages := map[string]listing{"": {Items: []int{0, 1}, Next: "p2"}, "p2": {Items: []int{2, 3}, Next: "p3"}, "p3": {Items: []int{4}}}
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		api := w.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = json.NewEncoder(w).Encode(pages[r.URL.Query().Get("cursor")])
		}))
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			client := &http.Client{Transport: api}
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				at, err := activity.Resume(ctx, crawled{})
				for err == nil && !at.Done {
					var body []byte
					if body, err = request(ctx, client, "GET", "http://api/items?cursor="+at.Cursor); err != nil {
						return err
					}
					var page listing
					if err := json.Unmarshal(body, &page); err != nil {
						return err
					}
					at = crawled{Cursor: page.Next, Done: page.Next == ""}
					store := func() error {
						for _, item := range page.Items {
							d.put(ctx, item)
						}
						return nil
					}
					err = steps(wrong, store, func() error { return ctx.Heartbeat(at) })
				}
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Same("number of items", len(d.rows))
	})
}

// Bug: between its two phases, an activity records the new phase while the number of the next
// row still is that of the old phase. If it resumes from there, the new phase has nothing to do.

func TestPhases_Wrong(t *testing.T) { twoPhases(t, true) }
func TestPhases_Right(t *testing.T) { twoPhases(t, false) }

func twoPhases(t *testing.T, wrong bool) {
	type state struct {
		Writing bool  // whether the second phase has begun
		Next    int   // number of the next row to look up or to write
		Found   []int // what the first phase has found
	}
	lookUp := func(ctx context.Context, key int) int {
		activitytest.Point(ctx, "look up")
		return rows - 1 - key
	}
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			s, err := activity.Resume(ctx, state{})
			for ; err == nil && !s.Writing && s.Next < rows; err = ctx.Heartbeat(s) {
				s.Found = append(s.Found, lookUp(ctx, s.Next))
				s.Next++
			}
			if err == nil && !s.Writing {
				s.Writing = true
				err = steps(wrong, func() error { s.Next = 0; return nil }, func() error { return ctx.Heartbeat(s) })
			}
			for ; err == nil && s.Next < len(s.Found); err = ctx.Heartbeat(s) {
				d.put(ctx, s.Found[s.Next])
				s.Next++
			}
			return err
		}
	})
}

// Bug: the function collects what a pool of workers has finished, and records the highest
// finished row, although lower rows are not finished.

func TestPool_Wrong(t *testing.T) { pool(t, true) }
func TestPool_Right(t *testing.T) { pool(t, false) }

func pool(t *testing.T, wrong bool) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			jobs, finished := make(chan int, rows), make(chan int, rows)
			for row := next; row < rows; row++ {
				jobs <- row
			}
			close(jobs)
			var wg sync.WaitGroup
			defer wg.Wait()
			for range workers {
				wg.Go(func() {
					for row := range jobs {
						if work(ctx, time.Second<<(rows-row)) != nil { // the first row takes longest
							return
						}
						d.put(ctx, row)
						finished <- row
					}
				})
			}
			done := map[int]bool{}
			for range rows - next {
				select {
				case row := <-finished:
					done[row] = true
					if wrong {
						next = max(next, row+1)
					}
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				for done[next] {
					next++
				}
				if err := ctx.Heartbeat(next); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

// Bug: a consumer commits its offset before it has processed the record.

func TestOffsets_Wrong(t *testing.T) { consume(t, true) }
func TestOffsets_Right(t *testing.T) { consume(t, false) }

// A partition of a log outlives the process, together with the consumer's committed offset.
type partition struct {
	mu        sync.Mutex
	records   []int
	committed int
}

func (p *partition) position(ctx context.Context) int {
	activitytest.Point(ctx, "position")
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed
}

func (p *partition) commit(ctx context.Context, offset int) {
	activitytest.Point(ctx, "commit")
	p.mu.Lock()
	p.committed = offset
	p.mu.Unlock()
	activitytest.Point(ctx, "committed")
}

func consume(t *testing.T, wrong bool) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		p := &partition{records: []int{2, 0, 1}}
		return func(ctx activity.Context) error {
			for offset := p.position(ctx); offset < len(p.records); offset++ {
				process := func() error {
					d.put(ctx, p.records[offset])
					return ctx.Heartbeat()
				}
				commit := func() error {
					p.commit(ctx, offset+1)
					return context.Cause(ctx)
				}
				if err := steps(wrong, process, commit); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

// Bug: rows are written in batches, but each row is recorded when it is added to the batch.

func TestBatches_Wrong(t *testing.T) { batches(t, true) }
func TestBatches_Right(t *testing.T) { batches(t, false) }

// putAll puts the rows in one transaction.
func (d *table) putAll(ctx context.Context, rows []int) {
	activitytest.Point(ctx, "put all")
	d.mu.Lock()
	if d.rows == nil {
		d.rows = map[int]bool{}
	}
	for _, row := range rows {
		d.rows[row] = true
	}
	d.mu.Unlock()
	activitytest.Point(ctx, "all done")
}

func batches(t *testing.T, wrong bool) {
	const size = 2
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			var batch []int
			for ; err == nil && next < rows; next++ {
				if batch = append(batch, next); len(batch) == size || next == rows-1 {
					d.putAll(ctx, batch)
					batch = nil
				}
				if wrong || batch == nil {
					err = ctx.Heartbeat(next + 1)
				} else {
					err = ctx.Heartbeat() // alive, but nothing new is written
				}
			}
			return err
		}
	})
}

// Bug: a sampler numbers its samples with a counter of the process, so that a sample that could
// not be sent is never sent.

func TestSampler_Wrong(t *testing.T) { sampler(t, true) }
func TestSampler_Right(t *testing.T) { sampler(t, false) }

func sampler(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		api := w.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			var n int
			if _, err := fmt.Sscanf(r.URL.Path, "/samples/%d", &n); err == nil {
				d.putAll(r.Context(), []int{n})
			}
		}))
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			client := &http.Client{Transport: api}
			var ticks atomic.Int64
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				sample, err := activity.Resume(ctx, 0)
				ticker := time.NewTicker(2 * time.Second)
				defer ticker.Stop()
				for ; err == nil && sample < rows; sample++ {
					select {
					case <-ticker.C:
					case <-ctx.Done():
						return context.Cause(ctx)
					}
					if wrong {
						sample = int(ticks.Add(1)) - 1
					}
					if _, err = request(ctx, client, "PUT", fmt.Sprintf("http://metrics/samples/%d", sample)); err == nil {
						err = ctx.Heartbeat(sample + 1)
					}
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

// Bug: the ID of a child activity has the number of the parent's attempt. The child of an
// earlier attempt is recovered, and the next attempt starts another one for the same customer.

func TestChildIDs_Wrong(t *testing.T) {
	childIDs(t, func(ctx activity.Context, customer int) string {
		return fmt.Sprintf("invoice-%d-%d", customer, ctx.Info().Attempt)
	})
}

func TestChildIDs_Right(t *testing.T) {
	childIDs(t, func(_ activity.Context, customer int) string { return fmt.Sprintf("invoice-%d", customer) })
}

func childIDs(t *testing.T, id func(ctx activity.Context, customer int) string) {
	family(t, func(ctx activity.Context, customers int, start func(id string, customer int) (*activity.Handle[int], error)) error {
		return activity.Range(ctx, 0, customers, func(i int) error {
			child, err := start(id(ctx, i), i)
			if err == nil {
				_, err = child.Wait(ctx)
			}
			return err
		})
	})
}

// Bug: the parent records a child when it has started it. If it resumes, it does not wait for
// the children that an earlier attempt has started.

func TestChildrenStarted_Wrong(t *testing.T) { childrenStarted(t, true) }
func TestChildrenStarted_Right(t *testing.T) { childrenStarted(t, false) }

func childrenStarted(t *testing.T, wrong bool) {
	family(t, func(ctx activity.Context, customers int, start func(id string, customer int) (*activity.Handle[int], error)) error {
		done, err := activity.Resume(ctx, 0)
		var children []*activity.Handle[int]
		for i := done; err == nil && i < customers; i++ {
			var child *activity.Handle[int]
			if child, err = start(fmt.Sprintf("invoice-%d", i), i); err == nil && wrong {
				err = ctx.Heartbeat(i + 1)
			}
			children = append(children, child)
		}
		for i := 0; err == nil && i < len(children); i++ {
			if _, err = children[i].Wait(ctx); err == nil && !wrong {
				err = ctx.Heartbeat(done + i + 1)
			}
		}
		return err
	})
}

// An outbox outlives the process. The same mail is sent once.
type outbox struct {
	mu     sync.Mutex
	sent   map[string]bool
	report int // number of mails when the report was written
}

func (o *outbox) send(ctx context.Context, mail string) {
	activitytest.Point(ctx, "send")
	o.mu.Lock()
	if o.sent == nil {
		o.sent = map[string]bool{}
	}
	o.sent[mail] = true
	o.mu.Unlock()
	activitytest.Point(ctx, "sent")
}

func (o *outbox) writeReport(ctx context.Context) {
	activitytest.Point(ctx, "report")
	o.mu.Lock()
	o.report = len(o.sent)
	o.mu.Unlock()
	activitytest.Point(ctx, "reported")
}

// family runs a parent activity, whose children send an invoice each, and which then writes a
// report. The children belong to the process, so they continue if the parent is retried. If the
// process was killed, they are recovered.
func family(t *testing.T, parent func(ctx activity.Context, customers int, start func(id string, customer int) (*activity.Handle[int], error)) error) {
	const customers = 2
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		o := &outbox{}
		err := w.Run(func(life context.Context, rt *activity.Runtime) error {
			invoice := &activity.Definition[int, int]{Name: "invoice", Options: activity.Options{HeartbeatTimeout: 10 * time.Second}, Func: func(ctx activity.Context, customer int) (int, error) {
				if err := ctx.Sleep(time.Duration(1+customer) * time.Second); err != nil {
					return 0, err
				}
				o.send(ctx, ctx.Info().ID)
				return customer, nil
			}}
			billing := &activity.Definition[int, int]{Name: "billing", Options: activity.Options{HeartbeatTimeout: time.Minute}, Func: func(ctx activity.Context, customers int) (int, error) {
				err := parent(ctx, customers, func(id string, customer int) (*activity.Handle[int], error) {
					return startOrFind(life, rt, invoice, id, customer)
				})
				if err == nil {
					o.writeReport(ctx)
				}
				return 0, err
			}}
			h, err := billing.Start(life, rt, "billing", customers)
			if err != nil {
				return err
			}
			if _, err := rt.Recover(life, billing, invoice); err != nil { // whatever does not run already
				return err
			}
			_, err = h.Wait(life)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.sent) != customers || o.report != customers {
			t.Errorf("%d invoices were sent and %d reported, want %d", len(o.sent), o.report, customers)
		}
	})
}

// startOrFind starts the child, or finds it if it runs already.
func startOrFind(ctx context.Context, rt *activity.Runtime, def *activity.Definition[int, int], id string, in int) (*activity.Handle[int], error) {
	for {
		h, err := def.Start(ctx, rt, id, in)
		if !errors.Is(err, activity.ErrAlreadyRunning) {
			return h, err
		}
		if h, ok := def.Handle(rt, id); ok {
			return h, nil
		}
		if err := work(ctx, 100*time.Millisecond); err != nil { // it is just ending
			return nil, err
		}
	}
}

// Bug: rows are flushed by a timer, and a heartbeat records rows that are not flushed yet.

func TestDebounce_Wrong(t *testing.T) { debounce(t, true) }
func TestDebounce_Right(t *testing.T) { debounce(t, false) }

// A debouncer puts rows into a table a while after they were added.
type debouncer struct {
	ctx   context.Context
	table *table
	turn  chan struct{} // held while rows are flushed

	mu      sync.Mutex
	timer   *time.Timer // nil if no flush is due
	dirty   []int
	flushed int // number of the first row that is not flushed
}

func (b *debouncer) add(row int) (flushed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dirty = append(b.dirty, row)
	if b.timer == nil {
		b.timer = time.AfterFunc(1500*time.Millisecond, b.flush)
	}
	return b.flushed
}

// flush puts the rows added so far. When it returns, they are in the table.
func (b *debouncer) flush() {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	b.mu.Lock()
	dirty := b.dirty
	b.dirty, b.timer = nil, nil
	b.mu.Unlock()
	if len(dirty) > 0 {
		b.table.putAll(b.ctx, dirty)
	}
	b.mu.Lock()
	b.flushed += len(dirty)
	b.mu.Unlock()
}

func debounce(t *testing.T, wrong bool) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			b := &debouncer{ctx: ctx, table: d, turn: make(chan struct{}, 1), flushed: next}
			for ; err == nil && next < rows; next++ {
				done := b.add(next)
				if wrong {
					done = next + 1
				}
				if err = ctx.Heartbeat(done); err == nil {
					err = ctx.Sleep(time.Second)
				}
			}
			b.flush()
			return err
		}
	})
}

// A lease service outlives the process. Each lease has a higher token than those before.
type leases struct {
	poll time.Duration // time between two requests of acquire

	mu    sync.Mutex
	token int
	until time.Time
}

const leaseTime = 30 * time.Second

// acquire waits until nobody else has the lease. An attempt that has ended gets none, so the
// tokens of attempts are in the order of the attempts.
func (l *leases) acquire(ctx activity.Context) (token int, err error) {
	for {
		activitytest.Point(ctx, "acquire")
		l.mu.Lock()
		if ctx.Err() == nil && !time.Now().Before(l.until) {
			l.token++
			l.until = time.Now().Add(leaseTime)
			token = l.token
		}
		l.mu.Unlock()
		if token > 0 {
			return token, nil
		}
		if err := activity.Idle(ctx, l.poll); err != nil {
			return 0, err
		}
	}
}

// extend lets the lease end after d. It reports false if the lease was lost.
func (l *leases) extend(ctx context.Context, token int, d time.Duration) bool {
	activitytest.Point(ctx, "extend")
	l.mu.Lock()
	defer l.mu.Unlock()
	if token != l.token || !time.Now().Before(l.until) {
		return false
	}
	l.until = time.Now().Add(d)
	return true
}

// keep extends the lease again and again, until ctx ends. stop gives the lease back.
func (l *leases) keep(ctx context.Context, token int) (stop func()) {
	renewing, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for work(renewing, leaseTime/3) == nil && l.extend(ctx, token, leaseTime) {
		}
	})
	return func() {
		cancel()
		wg.Wait()
		l.extend(ctx, token, 0)
	}
}

// Bug: the storage does not check the token of the lease, so that an attempt that has lost its
// lease continues to write.

func TestLease_Wrong(t *testing.T) { leased(t, 4*time.Second, false) }
func TestLease_Right(t *testing.T) { leased(t, 4*time.Second, true) }

// Bug: as above, but the next attempt asks for the lease more often. Before it has the lease, it
// passes many more places than an attempt that gets the lease at once.

func TestLeasePolled_Wrong(t *testing.T) { leased(t, time.Second, false) }

func TestLeasePolled_Right(t *testing.T) { leased(t, time.Second, true) }

// A fencedFile refuses a writer after it was opened with a higher token.
type fencedFile struct {
	file
	token int
}

func (f *fencedFile) open(ctx context.Context, token, length int) {
	activitytest.Point(ctx, "open")
	f.mu.Lock()
	if token > f.token {
		f.token = token
		f.lines = f.lines[:length]
	}
	f.mu.Unlock()
	activitytest.Point(ctx, "opened")
}

// append appends the line. If token is zero, it is not checked.
func (f *fencedFile) append(ctx context.Context, token, line int) error {
	activitytest.Point(ctx, "append")
	f.mu.Lock()
	stale := token > 0 && token < f.token
	if !stale {
		f.lines = append(f.lines, line)
	}
	f.mu.Unlock()
	activitytest.Point(ctx, "appended")
	if stale {
		return errors.New("the lease was lost")
	}
	return nil
}

func leased(t *testing.T, poll time.Duration, fenced bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		f, l := &fencedFile{}, &leases{poll: poll}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				next, err := activity.Resume(ctx, 0)
				if err != nil {
					return err
				}
				token, err := l.acquire(ctx)
				if err != nil {
					return err
				}
				defer l.keep(ctx, token)()
				f.open(ctx, token, next)
				fence := 0
				if fenced {
					fence = token
				}
				for ; err == nil && next < rows; next++ {
					if !l.extend(ctx, token, leaseTime) {
						return errors.New("the lease was lost")
					}
					if err = f.append(ctx, fence, next); err == nil {
						err = ctx.Heartbeat(next + 1)
					}
				}
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		f.check(t)
	})
}

// Bug: the goroutine that renews the lease is stopped only after a success. It renews the lease
// for an attempt that has ended, and the next attempt never gets the lease.

func TestRenewer_Wrong(t *testing.T) { renewer(t, true) }
func TestRenewer_Right(t *testing.T) { renewer(t, false) }

func renewer(t *testing.T, wrong bool) {
	activitytest.Plan{Limit: time.Hour}.Run(t, func(t *testing.T, w *activitytest.World) {
		d, l := &table{}, &leases{poll: 4 * time.Second}
		err := w.Run(func(life context.Context, rt *activity.Runtime) error {
			return rt.Run(life, options, func(ctx activity.Context) error {
				token, err := l.acquire(ctx)
				if err != nil {
					return err
				}
				renewing := context.Context(ctx) // ends with the attempt, even if this hangs
				if wrong {
					renewing = life
				}
				stop := l.keep(renewing, token)
				if !wrong {
					defer stop()
				}
				if err := inOrder(ctx, d); err != nil {
					return err
				}
				if wrong {
					stop()
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		d.check(t)
	})
}

// Bug: an order counts as done before its mail is sent, because a timer sends it. If the process
// ends before that, nobody sends it.

func TestReminder_Wrong(t *testing.T) { reminders(t, true) }
func TestReminder_Right(t *testing.T) { reminders(t, false) }

func reminders(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		o, done := &outbox{}, 0 // the number of orders done is stored
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			for done < rows {
				opts, order := options, strconv.Itoa(done)
				opts.ID = "order-" + order
				err := rt.Run(ctx, opts, func(ctx activity.Context) error {
					if err := ctx.Sleep(time.Second); err != nil {
						return err
					}
					sent := make(chan struct{})
					timer := time.AfterFunc(5*time.Second, func() {
						o.send(ctx, order)
						close(sent)
					})
					if wrong {
						return nil
					}
					defer timer.Stop()
					select {
					case <-sent:
						return nil
					case <-ctx.Done():
						return context.Cause(ctx)
					}
				})
				if err != nil {
					return err
				}
				done++
			}
			return work(ctx, time.Minute) // the program has other things to do
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]bool{"0": true, "1": true, "2": true}, o.sent); diff != "" {
			t.Errorf("mails (-want +got):\n%s", diff)
		}
	})
}

// Bug: the producer of a queue records the rows that it has put into the queue, although the
// consumer has not written them.

func TestQueue_Wrong(t *testing.T) { queued(t, true) }
func TestQueue_Right(t *testing.T) { queued(t, false) }

// A queue has room for two rows.
type queue struct {
	ctx     context.Context
	mu      sync.Mutex
	changed sync.Cond
	rows    []int
}

func newQueue(ctx context.Context) *queue {
	q := &queue{ctx: ctx}
	q.changed.L = &q.mu
	context.AfterFunc(ctx, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.changed.Broadcast()
	})
	return q
}

// do calls f once ready reports true, both with the lock held.
func (q *queue) do(ready func() bool, f func()) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !ready() && q.ctx.Err() == nil {
		q.changed.Wait()
	}
	if q.ctx.Err() != nil {
		return context.Cause(q.ctx)
	}
	f()
	q.changed.Broadcast()
	return nil
}

func (q *queue) push(row int) error {
	return q.do(func() bool { return len(q.rows) < 2 }, func() { q.rows = append(q.rows, row) })
}

func (q *queue) pop() (row int, err error) {
	err = q.do(func() bool { return len(q.rows) > 0 }, func() { row, q.rows = q.rows[0], q.rows[1:] })
	return row, err
}

func queued(t *testing.T, wrong bool) {
	everyTable(t, func(d *table) func(ctx activity.Context) error {
		return func(ctx activity.Context) error {
			next, err := activity.Resume(ctx, 0)
			if err != nil {
				return err
			}
			q := newQueue(ctx)
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				for row := next; row < rows; row++ {
					if q.push(row) != nil || wrong && ctx.Heartbeat(row+1) != nil {
						return
					}
				}
			})
			for range rows - next {
				row, err := q.pop()
				if err == nil {
					err = work(ctx, time.Second)
				}
				if err != nil {
					return err
				}
				d.put(ctx, row)
				if wrong {
					continue
				}
				if err := ctx.Heartbeat(row + 1); err != nil {
					return err
				}
			}
			return nil
		}
	})
}

// Bug: results are in a cache in memory, which the process saves when it ends. A killed process
// does not save it, but the details say that the results are there.

func TestCache_Wrong(t *testing.T) { cached(t, true) }
func TestCache_Right(t *testing.T) { cached(t, false) }

func cached(t *testing.T, wrong bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			var mu sync.Mutex
			var cache []int
			save := func(ctx context.Context) {
				mu.Lock()
				results := cache
				mu.Unlock()
				d.putAll(ctx, results)
			}
			defer save(ctx)
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, rows, func(i int) error {
					if err := work(ctx, time.Second); err != nil {
						return err
					}
					mu.Lock()
					cache = append(cache, i)
					mu.Unlock()
					if !wrong {
						save(ctx)
					}
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

// Bug: an upload holds the only connection of its process while it sends a heartbeat. If the
// heartbeat hangs, no other attempt gets the connection.

func TestUpload_Wrong(t *testing.T) { upload(t, options, true, true) }
func TestUpload_Right(t *testing.T) { upload(t, options, false, true) }

// Bug: as above, and those that wait for the connection do not stop with their attempts.
func TestUploadPlain_Wrong(t *testing.T) { upload(t, options, true, false) }

// With NoOverlap, the next attempt waits on purpose for the one that hangs.
func TestUploadNoOverlap_Right(t *testing.T) {
	opts := options
	opts.MaxAbandoned = activity.NoOverlap
	upload(t, opts, true, false)
}

func upload(t *testing.T, opts activity.Options, held, ends bool) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		d := &table{}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			connection := make(chan struct{}, 1)
			return rt.Run(ctx, opts, func(ctx activity.Context) error {
				next, err := activity.Resume(ctx, 0)
				for ; err == nil && next < rows; next++ {
					activitytest.Point(ctx, "upload")
					done := ctx.Done()
					if !ends {
						done = nil
					}
					select {
					case connection <- struct{}{}:
					case <-done:
						return context.Cause(ctx)
					}
					d.putAll(context.Background(), []int{next}) // no place while the connection is held
					if !held {
						<-connection
					}
					err = ctx.Heartbeat(next + 1)
					if held {
						<-connection
					}
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

// Bug: rows are appended to a real file, and those that are not recorded are not cut off before.

func TestAppendFile_Wrong(t *testing.T) { appendFile(t, false) }
func TestAppendFile_Right(t *testing.T) { appendFile(t, true) }

func appendFile(t *testing.T, cuts bool) {
	activitytest.Plan{MaxRuns: 500}.Run(t, func(t *testing.T, w *activitytest.World) {
		disk := w.FS(t.TempDir())
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				f, err := disk.OpenFile("rows", os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o666)
				if err != nil {
					return err
				}
				defer f.Close()
				size, err := activity.Resume(ctx, int64(0))
				if err != nil {
					return err
				}
				if cuts {
					if err := activity.Guard(ctx, func() error { return f.Truncate(size) }); err != nil {
						return err
					}
				}
				for size < rows {
					err := activity.Guard(ctx, func() error {
						_, err := f.Write([]byte{'a' + byte(size)})
						return err
					})
					if size++; err == nil {
						err = ctx.Heartbeat(size)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := disk.ReadFile("rows"); err != nil || string(got) != "abc" {
			t.Errorf("rows %q, error %v", got, err)
		}
	})
}

// Bug: a file is renamed before it is synced, so that after a loss of power it is empty.

func TestRenamedBeforeSync_Wrong(t *testing.T) { publishes(t, false) }
func TestRenamedBeforeSync_Right(t *testing.T) { publishes(t, true) }

func publishes(t *testing.T, syncs bool) {
	activitytest.Plan{PowerLoss: true, MaxRuns: 500}.Run(t, func(t *testing.T, w *activitytest.World) {
		disk := w.FS(t.TempDir())
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Range(ctx, 0, 2, func(i int) error {
					return activity.Guard(ctx, func() error { return publish(disk, "page"+strconv.Itoa(i), syncs) })
				})
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"page0", "page1"} {
			if got, err := disk.ReadFile(name); err != nil || string(got) != "hello" {
				t.Errorf("%s is %q, error %v", name, got, err)
			}
		}
	})
}

// Bug: as above, and the activity ends. No later life writes the file again.

func TestDoneBeforeSync_Wrong(t *testing.T) { exports(t, false) }
func TestDoneBeforeSync_Right(t *testing.T) { exports(t, true) }

func exports(t *testing.T, syncs bool) {
	activitytest.Plan{PowerLoss: true, MaxRuns: 300}.Run(t, func(t *testing.T, w *activitytest.World) {
		disk := w.FS(t.TempDir())
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				return activity.Guard(ctx, func() error { return publish(disk, "page0", syncs) })
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := disk.ReadFile("page0"); err != nil || string(got) != "hello" {
			t.Errorf("page0 is %q, error %v", got, err)
		}
	})
}

func publish(disk *activitytest.FS, name string, syncs bool) error {
	f, err := disk.Create("draft")
	if err != nil {
		return err
	}
	_, err = f.WriteString("hello")
	if err == nil && syncs {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := disk.Rename("draft", name); err != nil {
		return err
	}
	dir, err := disk.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// No bug: a request that hangs ends with the client's own timeout, and gives its slot back.
func TestRequestTimeout_Right(t *testing.T) {
	activitytest.EveryInterruption(t, func(t *testing.T, w *activitytest.World) {
		client := &http.Client{Timeout: 5 * time.Second, Transport: w.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			slot := make(chan struct{}, 1)
			return rt.Run(ctx, options, func(ctx activity.Context) error {
				select {
				case slot <- struct{}{}:
					defer func() { <-slot }()
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				r, err := http.NewRequestWithContext(ctx, "PUT", "http://server/", nil)
				if err != nil {
					return err
				}
				answer, err := client.Do(r)
				if err != nil {
					return err
				}
				return answer.Body.Close()
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
