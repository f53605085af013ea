package servertest

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/server/common/dynamicconfig"
	tserver "go.temporal.io/server/temporal"
	"go.temporal.io/server/temporaltest"
)

// All tests share one server, its namespace and a client.
var (
	hostPort  string
	namespace string
	temporal  client.Client
)

// quiet discards the SDK's log, because scenarios fail on purpose.
var quiet = log.NewStructuredLogger(slog.New(slog.DiscardHandler))

// The test binary starts itself with one of these variables. The server has a process of
// its own, because with its thousands of goroutines no engine would take stacks. For the
// worker, see [cluster.workInChild].
const (
	serverEnv = "SERVERTEST_SERVER"
	workerEnv = "SERVERTEST_WORKER"
)

func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		runServer()
	}
	if where := os.Getenv(workerEnv); where != "" {
		runWorker(strings.Split(where, ","))
	}
	// Most scenarios wait for a timeout of the server, and need no CPU.
	parallel := true
	for _, arg := range os.Args {
		parallel = parallel && !strings.Contains(arg, "test.parallel")
	}
	if parallel {
		_ = flag.Set("test.parallel", "12")
	}
	slog.SetDefault(slog.New(slog.DiscardHandler))
	stop := startServer()
	code := m.Run()
	temporal.Close()
	stop()
	os.Exit(code)
}

// runServer is the server's process. It ends when its standard input is closed, which
// happens in any case when the tests' process ends.
func runServer() {
	server := temporaltest.NewServer(
		temporaltest.WithBaseClientOptions(client.Options{Logger: quiet}),
		temporaltest.WithBaseServerOptions(tserver.WithDynamicConfigClient(dynamicconfig.StaticClient{
			dynamicconfig.ForceSearchAttributesCacheRefreshOnRead.Key():               true, // temporaltest's own
			dynamicconfig.MakeKey("history.enableStandaloneActivityOperatorCommands"): true, // for Pause
		})),
	)
	fmt.Println(server.GetFrontendHostPort(), server.GetDefaultNamespace())
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func startServer() (stop func()) {
	server := exec.Command(os.Args[0])
	server.Env = append(os.Environ(), serverEnv+"=1")
	server.Stderr = os.Stderr
	in, err := server.StdinPipe()
	if err != nil {
		fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		fatal(err)
	}
	if err := server.Start(); err != nil {
		fatal(err)
	}
	where, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		fatal(fmt.Errorf("cannot start the server: %w", err))
	}
	hostPort, namespace, _ = strings.Cut(strings.TrimSpace(where), " ")
	temporal, err = client.Dial(client.Options{HostPort: hostPort, Namespace: namespace, Logger: quiet})
	if err != nil {
		fatal(err)
	}
	return func() {
		_ = in.Close()
		_ = server.Wait()
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
