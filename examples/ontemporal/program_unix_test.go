//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// TestMain makes the test binary the program as well, so that scripts find ontemporal on
// their PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ontemporal": main})
}

// The whole program without a server.
func TestProgram_Usage(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/usage", Setup: script.Setup, Cmds: script.Commands, RequireExplicitExec: true})
}

// The whole program on the Temporal server that the environment names. Each worker and
// each caller is a process, and each script has a task queue of its own.
func TestCluster(t *testing.T) {
	if os.Getenv("TEMPORAL_ADDRESS") == "" || os.Getenv("TEMPORAL_NAMESPACE") == "" {
		t.Skip("needs a server: TEMPORAL_ADDRESS=host:port and TEMPORAL_NAMESPACE")
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/cluster", Cmds: script.Commands, RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		e.Setenv("queue", e.WorkDir)
		for _, name := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"} {
			e.Setenv(name, os.Getenv(name))
		}
		return script.Setup(e)
	}})
}
