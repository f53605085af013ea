package ontemporal_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	sdkactivity "go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

var (
	errBoom = errors.New("boom")
	silent  = slog.New(slog.DiscardHandler)
	quiet   = log.NewStructuredLogger(silent)
)

// A cluster is the SDK's test environment in a bubble. Its activities run on the bubble's
// virtual time.
type cluster struct {
	*testsuite.TestWorkflowEnvironment
	stop   chan struct{}           // closed to stop the worker
	cancel context.CancelCauseFunc // ends the SDK's context of every attempt
	begun  time.Time
	policy *temporal.RetryPolicy // of the activity that run executes

	mu      sync.Mutex
	beats   []string      // the details of the heartbeats that the server got, as JSON
	skipped time.Duration // the time that the environment's clock had skipped at the last call of waited
}

func inCluster(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, newCluster(t))
		time.Sleep(1000 * time.Hour) // until functions that were left behind have returned
	})
}

func newCluster(t *testing.T) *cluster {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet)
	c := &cluster{TestWorkflowEnvironment: suite.NewTestWorkflowEnvironment(), stop: make(chan struct{}), begun: time.Now()}
	background, cancel := context.WithCancelCause(t.Context())
	c.cancel = cancel
	c.SetWorkerOptions(worker.Options{BackgroundActivityContext: background, Interceptors: []interceptor.WorkerInterceptor{&interceptors{c: c}}})
	c.SetWorkerStopChannel(c.stop)
	c.SetTestTimeout(1000 * time.Hour)
	c.SetOnActivityHeartbeatListener(func(_ *sdkactivity.Info, details converter.EncodedValues) {
		var raw [3]converter.RawValue
		_ = details.Get(&raw[0], &raw[1], &raw[2])
		var all []string
		for _, r := range raw {
			if p := r.Payload(); p != nil {
				all = append(all, string(p.Data))
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.beats = append(c.beats, strings.Join(all, " "))
	})
	return c
}

// waited returns how long the environment has waited before the latest attempt. Its clock
// skips the delays of retries, so it is the time skipped since the last call.
func (c *cluster) waited() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	skipped := c.Now().Sub(c.begun)
	waited := skipped - c.skipped
	c.skipped = skipped
	return waited
}

// run registers fn as "f" and executes it in a workflow.
func run[In, Out any](c *cluster, opts workflow.ActivityOptions, fn func(activity.Context, In) (Out, error), args ...any) (Out, error) {
	ontemporal.Register(c, "f", fn)
	c.policy = opts.RetryPolicy
	if opts.StartToCloseTimeout == 0 {
		opts.StartToCloseTimeout = 100 * time.Hour
	}
	c.ExecuteWorkflow(func(ctx workflow.Context) (Out, error) {
		var out Out
		err := workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, opts), "f", args...).Get(ctx, &out)
		return out, err
	})
	var out Out
	if err := c.GetWorkflowError(); err != nil {
		return out, err
	}
	return out, c.GetWorkflowResult(&out)
}

// interceptors give an activity its RetryPolicy, as a worker does. The environment leaves it
// out.
type interceptors struct {
	interceptor.WorkerInterceptorBase
	interceptor.ActivityInboundInterceptorBase
	interceptor.ActivityOutboundInterceptorBase
	c *cluster
}

func (i *interceptors) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	inbound := &interceptors{c: i.c}
	inbound.ActivityInboundInterceptorBase.Next = next
	return inbound
}

func (i *interceptors) Init(next interceptor.ActivityOutboundInterceptor) error {
	outbound := &interceptors{c: i.c}
	outbound.ActivityOutboundInterceptorBase.Next = next
	return i.ActivityInboundInterceptorBase.Next.Init(outbound)
}

func (i *interceptors) GetInfo(ctx context.Context) sdkactivity.Info {
	info := i.ActivityOutboundInterceptorBase.Next.GetInfo(ctx)
	info.RetryPolicy = i.c.policy
	return info
}

var once = &temporal.RetryPolicy{MaximumAttempts: 1}

// failure returns the activity's failure in a workflow's error.
func failure(t *testing.T, err error) *temporal.ApplicationError {
	t.Helper()
	var app *temporal.ApplicationError
	var act *temporal.ActivityError
	if !errors.As(err, &act) || !errors.As(act, &app) {
		t.Fatalf("got %v, which is no activity's failure", err)
	}
	return app
}

func isTimeout(err error, typ activity.TimeoutType) bool {
	var e *activity.TimeoutError
	return errors.As(err, &e) && e.Type == typ
}

func isNonRetryable(err error) bool {
	var n interface{ NonRetryable() bool }
	return errors.As(err, &n) && n.NonRetryable()
}

func checkErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("got %v, want %v", got, want)
	}
}

// got returns the details of the heartbeats that the server got.
func (c *cluster) got() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.beats)
}

func checkBeats(t *testing.T, c *cluster, want ...string) {
	t.Helper()
	if got := fmt.Sprintf("%q", c.got()); got != fmt.Sprintf("%q", want) {
		t.Errorf("the server got the heartbeats %s, want %q", got, want)
	}
}

// never is a body that must not run.
func never() error { panic("called") }

type key struct{}
