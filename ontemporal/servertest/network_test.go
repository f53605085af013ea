package servertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A proxy is the network between a client and the server. While it is cut, connections stay open, and
// nothing passes.
type proxy struct {
	listener net.Listener
	done     chan struct{}

	mu    sync.Mutex
	whole chan struct{} // closed while bytes pass
}

func newProxy(t *testing.T) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, done: make(chan struct{}), whole: make(chan struct{})}
	close(p.whole)
	t.Cleanup(func() {
		close(p.done)
		_ = l.Close()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *proxy) serve(in net.Conn) {
	defer in.Close()
	if !p.pass() {
		return
	}
	out, err := net.Dial("tcp", hostPort)
	if err != nil {
		return
	}
	defer out.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		go func() {
			defer func() { ended <- struct{}{} }()
			_, _ = io.Copy(way[1], &gated{way[0], p})
		}()
	}
	select {
	case <-ended:
	case <-p.done:
	}
}

// gated is what comes from one end of a connection.
type gated struct {
	net.Conn
	p *proxy
}

func (g *gated) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if !g.p.pass() {
		return 0, io.EOF
	}
	return n, err
}

// pass waits until bytes pass. It reports false if the test has ended.
func (p *proxy) pass() bool {
	p.mu.Lock()
	whole := p.whole
	p.mu.Unlock()
	select {
	case <-whole:
		return true
	case <-p.done:
		return false
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.whole = make(chan struct{})
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.whole)
}

// dial returns a client behind the proxy.
func (p *proxy) dial(t *testing.T) client.Client {
	c, err := client.Dial(client.Options{HostPort: p.listener.Addr().String(), Namespace: namespace, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// startWorker starts a worker that ends with the test, if not before.
func startWorker(t *testing.T, c client.Client, queue string, opts worker.Options, register func(worker.ActivityRegistry)) worker.Worker {
	opts.DisableWorkflowWorker = true
	w := worker.New(c, queue, opts)
	register(w)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

// Rule 27. Given a worker that is cut off from the server, then its attempt has ended, and Guard runs
// nothing more, before the server starts the next attempt elsewhere.
func TestNetwork_PartitionFences(t *testing.T) {
	for _, test := range []struct {
		name  string
		beats bool // whether the function sends heartbeats
	}{{"heartbeats", true}, {"only Guard", false}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, queue := newProxy(t), fmt.Sprintf("queue-%d", trials.Add(1))
			var inside atomic.Int32 // attempts inside Guard
			var guarded atomic.Int64
			running, ended, second := make(chan struct{}), make(chan error, 1), make(chan time.Time, 1)
			release := make(chan struct{})
			fn := func(ctx activity.Context, in string) (string, error) {
				if !first(ctx) {
					if inside.Load() != 0 {
						t.Error("attempt 2 runs while attempt 1 is inside Guard")
					}
					second <- time.Now()
					<-release
					return "done", nil
				}
				for i := 0; ; i++ {
					err := activity.Guard(ctx, func() error {
						inside.Add(1)
						defer inside.Add(-1)
						time.Sleep(time.Millisecond)
						guarded.Store(time.Now().UnixNano())
						return nil
					})
					if err == nil && test.beats {
						err = ctx.Heartbeat(i)
					}
					if err != nil {
						ended <- err
						return "", err
					}
					if i == 100 {
						close(running)
					}
					if !test.beats && i%100 == 0 {
						_ = ctx.Heartbeat()
					}
				}
			}
			register := func(r worker.ActivityRegistry) { ontemporal.Register(r, name, fn) }
			a := startWorker(t, p.dial(t), queue, worker.Options{}, register)
			opts := activity.Options{Name: name, StartToCloseTimeout: time.Hour, HeartbeatTimeout: 6 * time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond}}
			h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in")
			if err != nil {
				t.Fatal(err)
			}
			<-running
			p.cut()
			b := startWorker(t, temporal, queue, worker.Options{}, register)
			defer b.Stop()
			began := receive(t, second)
			if err := receive(t, ended); !strings.Contains(err.Error(), "the server has answered no heartbeat for 6s") {
				t.Errorf("attempt 1 ended with %v", err)
			}
			time.Sleep(time.Second)
			if last := time.Unix(0, guarded.Load()); !last.Before(began) {
				t.Errorf("attempt 1 was inside Guard %s after attempt 2 began", last.Sub(began))
			} else {
				t.Logf("attempt 1 was inside Guard until %s before attempt 2 began", began.Sub(last))
			}
			p.mend()
			close(release)
			if out, err := h.Wait(timeLimit(t)); out != "done" || err != nil {
				t.Errorf("got %q, %v", out, err)
			}
			a.Stop()
		})
	}
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		t.Fatal("it did not come")
		panic("unreachable")
	}
}

// Given an outage that is shorter than the heartbeat timeout less the time between two heartbeats,
// then the attempt survives it, and the server gets the newest details.
func TestNetwork_ShortOutage(t *testing.T) {
	t.Parallel()
	p, queue := newProxy(t), fmt.Sprintf("queue-%d", trials.Add(1))
	running, stop := make(chan struct{}), make(chan struct{})
	fn := func(ctx activity.Context, in string) (string, error) {
		for i := 0; ; i++ {
			if err := ctx.Heartbeat(i); err != nil {
				return "", err
			}
			if i == 100 {
				close(running)
			}
			select {
			case <-stop:
				return fmt.Sprint("attempt ", ctx.Info().Attempt), nil
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	w := startWorker(t, p.dial(t), queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, fn) })
	defer w.Stop()
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Hour, HeartbeatTimeout: 40 * time.Second}
	h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in")
	if err != nil {
		t.Fatal(err)
	}
	<-running
	p.cut()
	time.Sleep(20 * time.Second)
	before, err := h.Status(timeLimit(t))
	if err != nil {
		t.Fatal(err)
	}
	p.mend()
	eventually(t, "the server has newer details", func() bool {
		after, err := h.Status(t.Context())
		return err == nil && after.LastHeartbeat.After(before.LastHeartbeat) && string(after.Details) != string(before.Details)
	})
	close(stop)
	if out, err := h.Wait(timeLimit(t)); out != "attempt 1" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// Rule 19. Given a worker that stops while its function has some work left, then the function
// completes, in one attempt, however many workers are deployed meanwhile. A loop is asked to stop at
// its next step, and costs an attempt.
func TestWorkerStop_FunctionFinishes(t *testing.T) {
	t.Parallel()
	queue := fmt.Sprintf("queue-%d", trials.Add(1))
	running := make(chan struct{}, 1)
	fn := func(ctx activity.Context, in string) (string, error) {
		running <- struct{}{}
		if in == "loop" {
			return fmt.Sprint("attempt ", ctx.Info().Attempt), activity.Range(ctx, 0, 5, func(int) error { return wait(3*time.Second, ctx) })
		}
		return fmt.Sprint("attempt ", ctx.Info().Attempt), wait(3*time.Second, ctx)
	}
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Hour, HeartbeatTimeout: 30 * time.Second, RetryPolicy: activity.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 5}}
	for in, want := range map[string]string{"step": "attempt 1", "loop": "attempt 2"} {
		h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, in)
		if err != nil {
			t.Fatal(err)
		}
		register := func(r worker.ActivityRegistry) { ontemporal.Register(r, name, fn) }
		w := startWorker(t, temporal, queue, worker.Options{WorkerStopTimeout: 20 * time.Second}, register)
		receive(t, running)
		time.Sleep(time.Second)
		begun := time.Now()
		w.Stop()
		if d := time.Since(begun); d > 15*time.Second {
			t.Errorf("%s: Stop took %s", in, d)
		}
		next := startWorker(t, temporal, queue, worker.Options{WorkerStopTimeout: 20 * time.Second}, register)
		if in == "loop" {
			receive(t, running)
		}
		if out, err := h.Wait(timeLimit(t)); out != want || err != nil {
			t.Errorf("%s: got %q, %v", in, out, err)
		}
		next.Stop()
	}
}

// wait waits for d, or until ctx ends. It is no safe point.
func wait(d time.Duration, ctx context.Context) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Rule 33. Given two versions of a program, of which one cannot read the details, then the other one
// resumes from them, in the same execution.
func TestVersions_OtherWorkerResumes(t *testing.T) {
	t.Parallel()
	queue := fmt.Sprintf("queue-%d", trials.Add(1))
	type newer struct{ Row int }
	read := func(ctx activity.Context, in string) (string, error) {
		n, err := activity.Resume(ctx, newer{})
		if err != nil || n.Row > 0 {
			return fmt.Sprint("row ", n.Row), err
		}
		return "", errors.Join(ctx.Heartbeat(newer{7}), errDisk)
	}
	refused := make(chan error, 100)
	cannot := func(ctx activity.Context, in string) (string, error) {
		_, err := activity.Resume(ctx, 0)
		refused <- err
		return "", err
	}
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Hour, RetryPolicy: activity.RetryPolicy{InitialInterval: 10 * time.Millisecond, BackoffCoefficient: 1}}
	h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, read, "in")
	if err != nil {
		t.Fatal(err)
	}
	sdk := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()})
	recording := func(ctx activity.Context, in string) (string, error) {
		return "", errors.Join(ctx.Heartbeat(newer{7}), activity.RetryAfter(errDisk, time.Second))
	}
	w := startWorker(t, temporal, queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, recording) })
	eventually(t, "the first attempt has failed", func() bool {
		d, err := sdk.Describe(t.Context(), client.DescribeActivityOptions{IncludeLastFailure: true})
		return err == nil && d.HasLastFailure()
	})
	w.Stop()
	w = startWorker(t, temporal, queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, cannot) })
	for range 3 {
		if err := receive(t, refused); !errors.Is(err, activity.ErrCannotResume) {
			t.Errorf("got %v", err)
		}
	}
	w.Stop()
	w = startWorker(t, temporal, queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, read) })
	defer w.Stop()
	if out, err := h.Wait(timeLimit(t)); out != "row 7" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
}

// traffic counts the heartbeats that a client sends, and their bytes.
type traffic struct{ calls, bytes atomic.Int64 }

func (c *traffic) dial(t *testing.T) client.Client {
	count := func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if r, ok := request.(*workflowservice.RecordActivityTaskHeartbeatRequest); ok {
			c.calls.Add(1)
			c.bytes.Add(int64(proto.Size(r)))
		}
		return invoke(ctx, method, request, reply, conn, opts...)
	}
	dialed, err := client.Dial(client.Options{
		HostPort: hostPort, Namespace: namespace, Logger: quiet,
		ConnectionOptions: client.ConnectionOptions{DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(count)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dialed.Close)
	return dialed
}

// Given details of 100 KB, a heartbeat timeout of 10 s and a function that heartbeats all the time, then
// a worker sends at most twice the bytes of a worker whose function uses the SDK. Without a heartbeat
// timeout, it sends only what the function gives it.
func TestTraffic_BesideSDK(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 100_000)
	beat := func(ctx context.Context, beat func()) {
		for end := time.Now().Add(33 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			beat()
		}
	}
	ours := func(ctx activity.Context, in string) (string, error) {
		if in == "silent" {
			return "", wait(12*time.Second, ctx)
		}
		beat(ctx, func() { _ = ctx.Heartbeat(large) })
		return "", nil
	}
	theirs := func(ctx context.Context, in string) (string, error) {
		beat(ctx, func() { sdkactivity.RecordHeartbeat(ctx, large) })
		return "", nil
	}
	var counts [3]traffic
	var all sync.WaitGroup
	for i, in := range []string{"ours", "theirs", "silent"} {
		queue := fmt.Sprintf("queue-%d", trials.Add(1))
		w := startWorker(t, counts[i].dial(t), queue, worker.Options{}, func(r worker.ActivityRegistry) {
			if in == "theirs" {
				r.RegisterActivityWithOptions(theirs, sdkactivity.RegisterOptions{Name: name})
			} else {
				ontemporal.Register(r, name, ours)
			}
		})
		defer w.Stop()
		opts := activity.Options{Name: name, StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}
		if in == "silent" {
			opts.HeartbeatTimeout = 0
		}
		all.Go(func() {
			if _, err := ontemporal.Execute(timeLimit(t), temporal, queue, opts, ours, in); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if a, b := counts[0].bytes.Load(), counts[1].bytes.Load(); b == 0 || a > 2*b {
		t.Errorf("%d bytes in %d calls, and the SDK's %d in %d", a, counts[0].calls.Load(), b, counts[1].calls.Load())
	} else {
		t.Logf("%.2f times the bytes of the SDK", float64(a)/float64(b))
	}
	if n := counts[2].calls.Load(); n != 0 {
		t.Errorf("%d heartbeats without a timeout", n)
	}
}

// Given StartOptions, then the server has them, and an ID that is running gives its Handle if the
// options say so.
func TestStart_SDKOptions(t *testing.T) {
	t.Parallel()
	queue := fmt.Sprintf("queue-%d", trials.Add(1))
	fn := func(ctx activity.Context, in string) (string, error) { return in, nil }
	opts := activity.Options{ID: queue, Name: name, StartToCloseTimeout: time.Hour}
	summary := func(o *client.StartActivityOptions) {
		o.Summary = "the import of May"
		o.Priority.PriorityKey = 2
	}
	h, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in", summary)
	if err != nil {
		t.Fatal(err)
	}
	d, err := temporal.GetActivityHandle(client.GetActivityHandleOptions{ActivityID: h.ID()}).Describe(timeLimit(t), client.DescribeActivityOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.GetSummary(); got != "the import of May" || err != nil || d.Priority.PriorityKey != 2 {
		t.Errorf("the server has %q, %v, %+v", got, err, d.Priority)
	}
	if _, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in"); !errors.Is(err, activity.ErrAlreadyRunning) {
		t.Errorf("got %v", err)
	}
	existing := func(o *client.StartActivityOptions) {
		o.ActivityIDConflictPolicy = enumspb.ACTIVITY_ID_CONFLICT_POLICY_USE_EXISTING
	}
	same, err := ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in", existing)
	if err != nil || same.RunID() != h.RunID() {
		t.Fatalf("got %v", err)
	}
	w := startWorker(t, temporal, queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, fn) })
	defer w.Stop()
	if out, err := same.Wait(timeLimit(t)); out != "in" || err != nil {
		t.Errorf("got %q, %v", out, err)
	}
	_, err = ontemporal.Start(timeLimit(t), temporal, queue, opts, fn, "in", func(o *client.StartActivityOptions) {
		o.ActivityIDReusePolicy = enumspb.ACTIVITY_ID_REUSE_POLICY_REJECT_DUPLICATE
	})
	if err == nil || errors.Is(err, activity.ErrAlreadyRunning) {
		t.Errorf("got %v", err)
	}
}

// jsonOnly is a data converter that knows no RawValue.
type jsonOnly struct{ converter.DataConverter }

func (c jsonOnly) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	all := &commonpb.Payloads{}
	for _, v := range values {
		p, err := c.ToPayload(v)
		if err != nil {
			return nil, err
		}
		all.Payloads = append(all.Payloads, p)
	}
	return all, nil
}

func (c jsonOnly) ToPayload(v any) (*commonpb.Payload, error) {
	if _, raw := v.(converter.RawValue); raw {
		_, err := json.Marshal(v)
		return nil, err
	}
	return c.DataConverter.ToPayload(v)
}

// Given a worker whose client's data converter cannot take heartbeat details, then the function does not
// run, and the error says what the converter lacks.
func TestWorker_DataConverter(t *testing.T) {
	t.Parallel()
	queue := fmt.Sprintf("queue-%d", trials.Add(1))
	c, err := client.Dial(client.Options{
		HostPort: hostPort, Namespace: namespace, Logger: quiet, DataConverter: jsonOnly{converter.GetDefaultDataConverter()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fn := func(ctx activity.Context, in string) (string, error) { return "it has run", nil }
	w := startWorker(t, c, queue, worker.Options{}, func(r worker.ActivityRegistry) { ontemporal.Register(r, name, fn) })
	defer w.Stop()
	opts := activity.Options{Name: name, StartToCloseTimeout: time.Minute, RetryPolicy: activity.RetryPolicy{MaximumAttempts: 1}}
	out, err := ontemporal.Execute(timeLimit(t), temporal, queue, opts, fn, "in")
	if err == nil || !strings.Contains(err.Error(), "the client's data converter must accept converter.RawValue") {
		t.Errorf("got %q, %v", out, err)
	}
}
