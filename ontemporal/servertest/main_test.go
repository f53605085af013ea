package servertest

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/server/temporaltest"
)

// What all tests share: one server, with its namespace, and a client.
var (
	hostPort  string
	namespace string
	temporal  client.Client
)

// quiet drops what the SDK logs: scenarios fail on purpose.
var quiet = log.NewStructuredLogger(slog.New(slog.DiscardHandler))

// childEnv makes the test binary a worker of its own: see [cluster.workInChild].
const childEnv = "SERVERTEST_WORKER"

func TestMain(m *testing.M) {
	if where := os.Getenv(childEnv); where != "" {
		runChild(strings.Split(where, ","))
	}
	// Most scenarios wait for a timeout of the server's, and need no processor.
	parallel := true
	for _, arg := range os.Args {
		parallel = parallel && !strings.Contains(arg, "test.parallel")
	}
	if parallel {
		_ = flag.Set("test.parallel", "12")
	}
	server := temporaltest.NewServer(temporaltest.WithBaseClientOptions(client.Options{Logger: quiet}))
	hostPort, namespace = server.GetFrontendHostPort(), server.GetDefaultNamespace()
	temporal = server.GetDefaultClient()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
