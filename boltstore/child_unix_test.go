//go:build linux || darwin

package boltstore_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// An event is a report of a child. It is a line of the child's standard output that is written at
// once, so that the parent gets it even if the child is killed.
type event struct {
	What    string
	ID      string
	Attempt int           `json:",omitzero"`
	N       int           `json:",omitzero"` // number of steps done
	Saved   stored        `json:",omitzero"`
	Started time.Time     `json:",omitzero"`
	Gap     time.Duration `json:",omitzero"` // time between two heartbeats
	Err     string        `json:",omitzero"`
}

// tell reports events from a child in a single write. Several goroutines may call it.
func tell(events ...event) {
	var lines bytes.Buffer
	for _, e := range events {
		if err := json.NewEncoder(&lines).Encode(e); err != nil {
			panic(err)
		}
	}
	if _, err := os.Stdout.Write(lines.Bytes()); err != nil {
		panic(err)
	}
}

// live runs a child, calls hear with each of its events, and returns its exit status.
func live(t *testing.T, cmd *exec.Cmd, hear func(event)) syscall.WaitStatus {
	t.Helper()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // otherwise, each exit takes a second
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // in case a check fails
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break // a killed process may leave part of a line
		}
		if err != nil {
			t.Fatal(err)
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("the child failed with the output: %s%s", line, rest)
		}
		hear(e)
	}
	_ = cmd.Wait() // the status has the error as well
	if complaints.Len() > 0 {
		t.Fatalf("the child wrote to standard error: %s", &complaints)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// unfinished opens the file and returns the checkpoints that a Runtime finds, by ID. It fails
// if a killed process keeps the file locked.
func unfinished(t *testing.T, path string) map[string]activity.Checkpoint {
	t.Helper()
	s, err := boltstore.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]activity.Checkpoint{}
	for cp, err := range activity.New(activity.Config{Store: s}).Checkpoints(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all[cp.ID] = cp
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}
