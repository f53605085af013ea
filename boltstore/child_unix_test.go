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

// An event is what a child tells of while it lives: a line of its standard
// output, written at once, which its death does not take back.
type event struct {
	What    string
	ID      string
	Attempt int           `json:",omitzero"`
	N       int           `json:",omitzero"` // steps done
	Saved   stored        `json:",omitzero"`
	Started time.Time     `json:",omitzero"`
	Gap     time.Duration `json:",omitzero"` // between two heartbeats
	Err     string        `json:",omitzero"`
}

// tell is for a child. It makes one write, and several goroutines may call it.
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

// live starts a child, calls hear with each of its events, and returns how it
// ended.
func live(t *testing.T, cmd *exec.Cmd, hear func(event)) syscall.WaitStatus {
	t.Helper()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // else each end takes a second
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // if a check fails
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			break // what there is of a line is that of a killed process
		}
		if err != nil {
			t.Fatal(err)
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			rest, _ := io.ReadAll(lines)
			t.Fatalf("the child failed: %s%s", line, rest)
		}
		hear(e)
	}
	_ = cmd.Wait() // which also gives how it ended as an error
	if complaints.Len() > 0 {
		t.Fatalf("the child complained: %s", &complaints)
	}
	return cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// unfinished opens the file, which a process that was killed must not keep
// locked, and asks a Runtime what it has.
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
