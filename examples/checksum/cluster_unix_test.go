//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The whole program on a Temporal server, which the environment must name. Each
// worker and each caller is a process.

func TestCluster(t *testing.T) {
	server, namespace := os.Getenv("TEMPORAL_ADDRESS"), os.Getenv("TEMPORAL_NAMESPACE")
	if server == "" || namespace == "" {
		t.Skip("needs a server: TEMPORAL_ADDRESS=host:port and TEMPORAL_NAMESPACE")
	}
	p := build(t)
	t.Run("Killed", func(t *testing.T) { testClusterKilled(t, p, "-temporal="+server, "-namespace="+namespace) })
	t.Run("Interrupted", func(t *testing.T) { testClusterInterrupted(t, p, "-temporal="+server, "-namespace="+namespace) })
}

// A process is the program while it runs.
type process struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr chan string // lines
	said   strings.Builder
}

func (p program) start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	r := &process{cmd: p.command(dir, args...), stderr: make(chan string, 1000)}
	r.cmd.Stdout = &r.stdout
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.cmd.Process.Kill() })
	go func() {
		defer close(r.stderr)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			r.stderr <- lines.Text()
		}
	}()
	return r
}

// says waits until it does.
func (r *process) says(t *testing.T, pattern string) {
	t.Helper()
	want, limit := regexp.MustCompile(pattern), time.After(2*time.Minute)
	for {
		select {
		case line, ok := <-r.stderr:
			if !ok {
				t.Fatalf("ended, and never said %s:\n%s", pattern, r.said.String())
			}
			fmt.Fprintln(&r.said, line)
			if want.MatchString(line) {
				return
			}
		case <-limit:
			t.Fatalf("does not say %s:\n%s", pattern, r.said.String())
		}
	}
}

// end sends sig, unless that is nil, and wants the exit code.
func (r *process) end(t *testing.T, sig os.Signal, code int) result {
	t.Helper()
	if sig != nil {
		if err := r.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	defer time.AfterFunc(2*time.Minute, func() { r.cmd.Process.Kill() }).Stop()
	for line := range r.stderr {
		fmt.Fprintln(&r.said, line)
	}
	r.cmd.Wait()
	if got := r.cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("exit code %d, want %d\n%s%s", got, code, r.stdout.String(), r.said.String())
	}
	return result{code, r.stdout.String(), r.said.String()}
}

// absolutely is a manifest with the names that a caller gives a worker.
func absolutely(dir, manifest string) string {
	return strings.ReplaceAll(manifest, "  tree/", "  "+dir+"/tree/")
}

func testClusterKilled(t *testing.T, p program, flags ...string) {
	dir, want := tree(t)
	want = absolutely(dir, want)
	calls := append([]string{"-heartbeat-timeout=10s"}, append(flags, "tree")...)
	serves := append([]string{"-worker"}, flags...)

	first := p.start(t, dir, calls...)
	first.says(t, "waiting for a worker")
	first.end(t, os.Kill, -1)
	second := p.start(t, dir, calls...)
	second.says(t, "SHA256SUMS is being written already")

	hangs := p.start(t, t.TempDir(), append(serves, "-stall=4")...)
	hangs.says(t, "hanging at file 4")
	second.says(t, "3 of 7 files") // which the server knows, then
	other := p.start(t, t.TempDir(), serves...)
	other.says(t, "a worker of")
	hangs.end(t, os.Kill, -1)
	p.start(t, dir, append([]string{"-o=another"}, calls...)...).end(t, nil, 0) // is another activity
	check(t, dir, "another", want)

	const recovered = `attempt \d+ stalled, without a heartbeat for 10s, at file 4 of 7, \S+/tree/a\.b; attempt \d+ goes on from there\n`
	second.end(t, nil, 0).wants(t,
		`^SHA256SUMS: 7 files, \d+ bytes, in \S+; attempts: [2-9]\nrecovered: `+recovered, `checksum: `+recovered)
	check(t, dir, "SHA256SUMS", want)
	noCheckpoint(t, filepath.Join(dir, "SHA256SUMS"))

	// What is finished is done again.
	write(t, filepath.Join(dir, "SHA256SUMS"), "other")
	p.start(t, dir, calls...).end(t, nil, 0).wants(t, "^SHA256SUMS: 7 files, .* attempts: 1\n$", "")
	check(t, dir, "SHA256SUMS", want)
	other.end(t, os.Interrupt, 0)
}

// A file without an end is what the program is at when it is interrupted.
func testClusterInterrupted(t *testing.T, p program, flags ...string) {
	dir, want := tree(t)
	want = absolutely(dir, want)
	endless := filepath.Join(dir, "tree/b")
	if err := os.RemoveAll(endless); err != nil {
		t.Fatal(err)
	}
	want = regexp.MustCompile(`(?m)^.*tree/b/c/3\n`).ReplaceAllString(want, "")
	write(t, endless, "")
	if err := os.Truncate(endless, 1<<40); err != nil {
		t.Skip("a file of this size cannot be here: ", err)
	}
	calls := append([]string{"-heartbeat-timeout=20s"}, append(flags, "tree")...)
	serves := append([]string{"-worker"}, flags...)

	early := p.start(t, dir, calls...)
	early.says(t, "waiting for a worker")
	early.end(t, os.Interrupt, 130).wants(t, "^$", `worker\nchecksum: interrupted\n$`)

	caller := p.start(t, dir, calls...)
	worker := p.start(t, t.TempDir(), serves...)
	caller.says(t, "4 of 7 files")
	other := p.start(t, t.TempDir(), serves...)
	other.says(t, "a worker of")
	worker.end(t, os.Interrupt, 0)
	caller.says(t, `attempt 1 failed: .*the Temporal worker stops.*, at file 5 of 7, \S+/tree/b; attempt 2 goes on from there`)
	caller.end(t, os.Kill, -1)
	late := p.start(t, dir, calls...)
	late.says(t, "SHA256SUMS is being written already")
	late.says(t, "4 of 7 files")
	late.end(t, os.Interrupt, 130).wants(t, "^$", `(?m)^checksum: interrupted\nchecksum: SHA256SUMS is left with the first 4 of 7 files; run the same command to go on\n$`)
	if err := os.Remove(endless); err != nil {
		t.Fatal(err)
	}

	p.start(t, dir, calls...).end(t, nil, 0).wants(t, `^SHA256SUMS: 6 files, .*; attempts: 1\n$`, "")
	check(t, dir, "SHA256SUMS", want)
	other.end(t, os.Interrupt, 0)
}
