package ontemporal_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/ontemporal"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// TestMain skips the Examples that need a server, unless TEMPORAL_ADDRESS names one. It also
// checks that every attempt leaves its place.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("TEMPORAL_ADDRESS") == "" && flag.Lookup("test.skip").Value.String() == "" {
		flag.Set("test.skip", "^Example(Execute|ExecuteDefinition|Start|GetHandle)?$")
	}
	code := m.Run()
	if n := placesLeft(); n != 0 && code == 0 {
		fmt.Println(n, "places are left")
		code = 1
	}
	os.Exit(code)
}

// placesLeft returns the number of places. It waits until there are none, because the
// goroutine of the last test's attempt may not have ended yet.
func placesLeft() int {
	for end := time.Now().Add(time.Minute); ontemporal.PlacesLeft() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return ontemporal.PlacesLeft()
}

// dial connects to the server at TEMPORAL_ADDRESS.
func dial() client.Client {
	c, err := client.Dial(client.Options{
		HostPort:  os.Getenv("TEMPORAL_ADDRESS"),
		Namespace: os.Getenv("TEMPORAL_NAMESPACE"),
		Logger:    quiet,
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return c
}

// serve starts a worker of the task queue.
func serve(c client.Client, taskQueue string, register func(worker.ActivityRegistry)) worker.Worker {
	w := worker.New(c, taskQueue, worker.Options{WorkerStopTimeout: 10 * time.Second})
	register(ontemporal.Registry(w, ontemporal.WorkerOptions{
		MaxHeartbeatThrottleInterval: time.Second, // bounds the progress that is lost when a worker is killed
		WorkerStopTimeout:            10 * time.Second,
	}))
	if err := w.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	return w
}

// importRows is an activity. It does not depend on Temporal.
func importRows(ctx activity.Context, file string) (rows int, err error) {
	err = activity.Range(ctx, 0, 4, func(row int) error {
		if row == 2 && ctx.Info().Attempt == 1 {
			return errors.New("the database is away")
		}
		fmt.Printf("attempt %d: row %d of %s\n", ctx.Info().Attempt, row, file)
		return nil
	})
	return 4, err
}

// The same function runs embedded and on a cluster.
func Example() {
	ctx := context.Background()
	opts := activity.Options{
		Name:                "import rows",
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    10 * time.Second,
		RetryPolicy:         activity.RetryPolicy{InitialInterval: 10 * time.Millisecond},
	}

	// Embedded, in this process.
	rt := activity.New(activity.Config{Logger: silent})
	rows, err := activity.Execute(ctx, rt, opts, importRows, "customers.csv")
	fmt.Println(rows, err)

	// On a cluster, in any worker of the task queue. Here there is one.
	c := dial()
	defer c.Close()
	w := serve(c, "imports", func(r worker.ActivityRegistry) {
		ontemporal.Register(r, "import rows", importRows)
	})
	defer w.Stop()
	rows, err = ontemporal.Execute(ctx, c, "imports", opts, importRows, "customers.csv")
	fmt.Println(rows, err)

	// Output:
	// attempt 1: row 0 of customers.csv
	// attempt 1: row 1 of customers.csv
	// attempt 2: row 2 of customers.csv
	// attempt 2: row 3 of customers.csv
	// 4 <nil>
	// attempt 1: row 0 of customers.csv
	// attempt 1: row 1 of customers.csv
	// attempt 2: row 2 of customers.csv
	// attempt 2: row 3 of customers.csv
	// 4 <nil>
}

// Workflows call a registered function as an ordinary activity. The SDK's test
// environment needs no server.
func ExampleRegister() {
	importAll := func(ctx workflow.Context, files []string) (total int, err error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second})
		for _, file := range files {
			var rows int
			if err := workflow.ExecuteActivity(ctx, "import rows", file).Get(ctx, &rows); err != nil {
				return total, err
			}
			total += rows
		}
		return total, nil
	}

	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet)
	env := suite.NewTestWorkflowEnvironment()
	ontemporal.Register(env, "import rows", importRows)
	env.ExecuteWorkflow(importAll, []string{"a.csv", "b.csv"})
	var total int
	err := env.GetWorkflowResult(&total)
	fmt.Println(total, err)

	// Output:
	// attempt 1: row 0 of a.csv
	// attempt 1: row 1 of a.csv
	// attempt 2: row 2 of a.csv
	// attempt 2: row 3 of a.csv
	// attempt 1: row 0 of b.csv
	// attempt 1: row 1 of b.csv
	// attempt 2: row 2 of b.csv
	// attempt 2: row 3 of b.csv
	// 8 <nil>
}

// The errors.As of a caller works on both engines.
func ExampleExecute() {
	c := dial()
	defer c.Close()
	hang := func(ctx activity.Context, _ int) (int, error) {
		if err := ctx.Heartbeat(7); err != nil {
			return 0, err
		}
		<-ctx.Done() // a stall: no more heartbeats
		return 0, context.Cause(ctx)
	}
	w := serve(c, "stalls", func(r worker.ActivityRegistry) { ontemporal.Register(r, "hang", hang) })
	defer w.Stop()

	_, err := ontemporal.Execute(context.Background(), c, "stalls", activity.Options{
		Name:                "hang",
		StartToCloseTimeout: time.Hour,
		HeartbeatTimeout:    time.Second,
		RetryPolicy:         activity.RetryPolicy{MaximumAttempts: 2},
	}, hang, 0)

	var end *activity.Error
	var timeout *activity.TimeoutError
	if errors.As(err, &end) && errors.As(err, &timeout) {
		fmt.Printf("attempt %d: %s\n%s after %s\n", end.Attempt, end.RetryState, timeout.Type, timeout.After)
	}
	var details int
	found, err := timeout.HeartbeatDetails(&details)
	fmt.Println(details, found, err)

	// Output:
	// attempt 2: maximum attempts reached
	// heartbeat timeout after 1s
	// 7 true <nil>
}

func ExampleExecuteDefinition() {
	c := dial()
	defer c.Close()
	greet := &activity.Definition[string, string]{
		Name:    "greet",
		Options: activity.Options{StartToCloseTimeout: time.Minute},
		Func:    func(_ activity.Context, name string) (string, error) { return "hello " + name, nil },
	}
	w := serve(c, "greetings", func(r worker.ActivityRegistry) { ontemporal.RegisterDefinition(r, greet) })
	defer w.Stop()

	fmt.Println(ontemporal.ExecuteDefinition(context.Background(), c, "greetings", greet, "greet Ann", "Ann"))

	// Output:
	// hello Ann <nil>
}

func ExampleStart() {
	ctx := context.Background()
	c := dial()
	defer c.Close()
	began := make(chan struct{})
	poll := func(ctx activity.Context, _ struct{}) (struct{}, error) {
		close(began)
		for {
			if err := activity.Idle(ctx, time.Second); err != nil {
				return struct{}{}, err
			}
		}
	}
	w := serve(c, "polls", func(r worker.ActivityRegistry) { ontemporal.Register(r, "poll", poll) })
	defer w.Stop()

	opts := activity.Options{ID: "poll inbox", Name: "poll", StartToCloseTimeout: time.Hour, HeartbeatTimeout: 10 * time.Second}
	h, err := ontemporal.Start(ctx, c, "polls", opts, poll, struct{}{})
	if err != nil {
		fmt.Println(err)
		return
	}
	<-began
	status, err := h.Status(ctx)
	fmt.Println(status.State, status.Attempt, err)

	_, err = ontemporal.Start(ctx, c, "polls", opts, poll, struct{}{})
	fmt.Println(errors.Is(err, activity.ErrAlreadyRunning))

	h.Cancel(errors.New("the inbox is closed"))
	_, err = h.Wait(ctx)
	fmt.Println(err)

	// Output:
	// running 1 <nil>
	// true
	// activity "poll inbox" (poll) was canceled in attempt 1: the inbox is closed
}

// A caller that was killed can find its activity again.
func ExampleGetHandle() {
	ctx := context.Background()
	c := dial()
	defer c.Close()
	w := serve(c, "reports", func(r worker.ActivityRegistry) { ontemporal.Register(r, "report", report) })
	defer w.Stop()
	opts := activity.Options{ID: "report of May", Name: "report", StartToCloseTimeout: time.Hour}
	if _, err := ontemporal.Start(ctx, c, "reports", opts, report, 5); err != nil {
		fmt.Println(err)
		return
	}

	// In a process started later:
	h := ontemporal.GetHandle[string](c, "report of May", "")
	fmt.Println(h.Wait(ctx))

	// Output:
	// report of month 5 <nil>
}

func report(ctx activity.Context, month int) (string, error) {
	return fmt.Sprintf("report of month %d", month), ctx.Sleep(100 * time.Millisecond)
}
