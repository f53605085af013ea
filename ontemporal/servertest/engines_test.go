package servertest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	"github.com/seed-9da638b0/activity/storetest"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
)

type function = func(activity.Context, string) (string, error)

// A handle has the methods that the handles of both engines share.
type handle interface {
	ID() string
	Done() <-chan struct{}
	Wait(ctx context.Context) (string, error)
	Cancel(cause error)
}

// An engine runs activities of one function.
type engine interface {
	server() bool
	start(ctx context.Context, opts activity.Options, in string) (handle, error)
	execute(ctx context.Context, opts activity.Options, in string) (string, error)
	status(h handle) (activity.Status, error)
	shutdown(t *testing.T)                     // stops the process that runs attempts
	kill(t *testing.T)                         // kills it, as kill -9 does
	resume(t *testing.T, h handle) handle      // has another process continue h's activity
	recorded(t *testing.T, h handle, s string) // waits until the details s would outlive the process
}

// An embedded engine is the runtime. Each Runtime stands for a process.
type embedded struct {
	cfg   activity.Config
	store *storetest.Memory
	rt    *activity.Runtime   // the current process
	dead  []*activity.Runtime // the killed processes
	fn    function
	last  func(ctx context.Context) (handle, error) // repeats the last start
}

func newEmbedded(t *testing.T, cfg activity.Config, fn function) *embedded {
	e := &embedded{cfg: cfg, store: &storetest.Memory{}, fn: fn}
	e.cfg.Store = e.store
	e.rt = activity.New(e.cfg)
	t.Cleanup(func() {
		for _, e.rt = range append(e.dead, e.rt) {
			e.shutdown(t)
		}
	})
	return e
}

func (e *embedded) server() bool { return false }

func (e *embedded) start(ctx context.Context, opts activity.Options, in string) (handle, error) {
	e.last = func(ctx context.Context) (handle, error) {
		h, err := activity.Start(ctx, e.rt, opts, e.fn, in)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	return e.last(ctx)
}

func (e *embedded) execute(ctx context.Context, opts activity.Options, in string) (string, error) {
	return activity.Execute(ctx, e.rt, opts, e.fn, in)
}

func (e *embedded) status(h handle) (activity.Status, error) {
	return h.(*activity.Handle[string]).Status(), nil
}

func (e *embedded) shutdown(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := e.rt.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// kill leaves behind a copy of the Store, as a killed process does. What the dead Runtime
// still writes goes to the original.
func (e *embedded) kill(*testing.T) {
	e.dead = append(e.dead, e.rt)
	e.store = e.store.Clone()
	e.cfg.Store = e.store
}

func (e *embedded) resume(t *testing.T, _ handle) handle {
	e.rt = activity.New(e.cfg)
	h, err := e.last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (e *embedded) recorded(t *testing.T, h handle, want string) {
	eventually(t, "the Store has the details "+want, func() bool {
		cp, found, err := e.store.Load(t.Context(), h.ID())
		return err == nil && found && detailsOf(cp.Details) == want
	})
}

// A cluster is the server, with a worker of the scenario's own.
type cluster struct {
	queue string
	opts  worker.Options
	fn    function
	w     worker.Worker
	child *exec.Cmd // the worker's process, if it has its own
}

func newCluster(t *testing.T, queue string, opts worker.Options, fn function) *cluster {
	c := &cluster{queue: queue, opts: opts, fn: fn}
	if c.opts.WorkerStopTimeout == 0 {
		c.opts.WorkerStopTimeout = limit
	}
	c.opts.DisableWorkflowWorker = true
	t.Cleanup(func() { c.shutdown(t) })
	return c
}

func (c *cluster) work(t *testing.T) {
	c.w = worker.New(temporal, c.queue, c.opts)
	options := ontemporal.WorkerOptions{
		MaxHeartbeatThrottleInterval: c.opts.MaxHeartbeatThrottleInterval, WorkerStopTimeout: c.opts.WorkerStopTimeout,
	}
	ontemporal.Register(ontemporal.Registry(c.w, options), name, c.fn)
	if err := c.w.Start(); err != nil {
		t.Fatal(err)
	}
}

// workInChild starts the worker in a process of its own, and adds the notes of that process
// to x.
func (c *cluster) workInChild(x *trial) {
	c.child = exec.Command(os.Args[0])
	c.child.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%s,%s", workerEnv, hostPort, namespace, x.id, x.s.name))
	c.child.Stderr = os.Stderr
	out, err := c.child.StdoutPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	if err := c.child.Start(); err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = c.child.Process.Kill() })
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			x.note(key, value)
		}
	}()
}

// runWorker is the worker's process. It runs until it is killed.
func runWorker(where []string) {
	var err error
	temporal, err = client.Dial(client.Options{HostPort: where[0], Namespace: where[1], Logger: quiet})
	if err != nil {
		fatal(err)
	}
	x := &trial{id: where[2], seen: map[string]string{}, changed: make(chan struct{}), release: make(chan struct{})}
	for _, s := range inChild {
		if s.name == where[3] {
			x.s = &s
		}
	}
	x.noted = func(key, value string) { fmt.Printf("%s: %s\n", key, value) }
	w := worker.New(temporal, x.id, worker.Options{DisableWorkflowWorker: true})
	ontemporal.Register(w, name, x.attempt)
	if err := w.Start(); err != nil {
		fatal(err)
	}
	select {}
}

func (c *cluster) kill(t *testing.T) {
	if err := c.child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.child.Wait()
}

func (c *cluster) server() bool { return true }

func (c *cluster) start(ctx context.Context, opts activity.Options, in string) (handle, error) {
	h, err := ontemporal.Start(ctx, temporal, c.queue, opts, c.fn, in)
	if err != nil {
		return nil, err
	}
	return h, nil
}

func (c *cluster) execute(ctx context.Context, opts activity.Options, in string) (string, error) {
	return ontemporal.Execute(ctx, temporal, c.queue, opts, c.fn, in)
}

func (c *cluster) status(h handle) (activity.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return h.(*ontemporal.Handle[string]).Status(ctx)
}

func (c *cluster) shutdown(*testing.T) {
	if c.w != nil {
		c.w.Stop()
		c.w = nil
	}
}

func (c *cluster) resume(t *testing.T, h handle) handle {
	c.work(t)
	return h
}

func (c *cluster) recorded(t *testing.T, h handle, want string) {
	sdk := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()})
	eventually(t, "the server has the details "+want, func() bool {
		d, err := sdk.Describe(t.Context(), client.DescribeActivityOptions{IncludeHeartbeatDetails: true})
		if err != nil || !d.HasHeartbeatDetails() {
			return false
		}
		var raw any
		return d.GetHeartbeatDetails(&raw) == nil && text(raw) == want
	})
}

// limit bounds every wait. It only ends a test that hangs.
const limit = 2 * time.Minute

// eventually polls ask until it returns true, for conditions that nothing announces.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ask(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
