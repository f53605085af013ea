// Package script has what the examples' tests share: commands for testscript files, a
// tree of files to hash, and files that are read and written.
package script

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Commands are for Params.Cmds:
//
//	exits CODE PROGRAM [ARG...]         run a program, which must exit with CODE
//	start NAME PROGRAM [ARG...]         start a program in the background
//	says NAME REGEXP                    wait for a line of its standard error
//	signal NAME INT|TERM|KILL           send the signal
//	ends NAME INT|TERM|KILL|none CODE   send the signal, and wait for its end
//
// After exits and ends, the commands stdout and stderr check what the program has
// printed. If a signal has ended it, CODE is -1.
var Commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits": exits, "start": start, "says": says, "signal": sendSignal, "ends": ends,
}

// Setup is for Params.Setup. It makes the directory tree in the script's working
// directory, and the file want with its manifest.
func Setup(e *testscript.Env) error {
	e.Values[key{}] = processes{}
	want, err := Tree(e.WorkDir)
	return errors.Join(err, os.WriteFile(filepath.Join(e.WorkDir, "want"), []byte(want), 0o666))
}

// WriteFile writes a file, or fails the test.
func WriteFile(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ReadFile reads a file, or fails the test.
func ReadFile(t testing.TB, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Tree makes the directory tree in dir, with seven files, and returns their manifest.
func Tree(dir string) (want string, err error) {
	for _, file := range []string{"tree/-x", "tree/a/1", "tree/a/2", "tree/a.b", "tree/b/c/3", "tree/empty", "tree/large"} {
		content := "content of " + file
		switch file {
		case "tree/empty":
			content = ""
		case "tree/large":
			content = strings.Repeat(content, 50_000)
		}
		path := filepath.Join(dir, file)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
		want += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(content)), file)
	}
	// No regular files, so they are not hashed.
	for link, target := range map[string]string{"to-file": "a/1", "to-dir": "a", "dangling": "nothing"} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(dir, "tree", link)))
	}
	return want, err
}

// limit is how long a program may take to say a line or to end. It is there to show
// what a program that hangs has said.
const limit = 2 * time.Minute

// A process is a program in the background.
type process struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	stderr chan string     // lines
	said   strings.Builder // the lines received from stderr
}

// processes are those of one script, by name.
type processes map[string]*process

// key finds the processes among the script's values.
type key struct{}

func find(ts *testscript.TestScript, name string) *process {
	p := ts.Value(key{}).(processes)[name]
	if p == nil {
		ts.Fatalf("no process %s was started", name)
	}
	return p
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		checkCode(ts, 0, args[0])
	case errors.As(err, &exit):
		checkCode(ts, exit.ExitCode(), args[0])
	default:
		ts.Fatalf("%v", err)
	}
}

func checkCode(ts *testscript.TestScript, got int, want string) {
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit code %d, want %s", got, want)
	}
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: start NAME PROGRAM [ARG...]")
	}
	p := &process{cmd: exec.Command(args[1], args[2:]...), stderr: make(chan string, 1000)}
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Stdout = &p.stdout
	stderr, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ts.Defer(func() { _ = p.cmd.Process.Kill() })
	ts.Value(key{}).(processes)[args[0]] = p
	go func() {
		defer close(p.stderr)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.stderr <- lines.Text()
		}
	}()
}

func says(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: says NAME REGEXP")
	}
	p, timeout := find(ts, args[0]), time.After(limit)
	want, err := regexp.Compile(args[1])
	ts.Check(err)
	for {
		select {
		case line, ok := <-p.stderr:
			if !ok {
				ts.Fatalf("%s has ended, and never said %s:\n%s", args[0], args[1], p.said.String())
			}
			fmt.Fprintln(&p.said, line)
			if want.MatchString(line) {
				return
			}
		case <-timeout:
			ts.Fatalf("%s does not say %s:\n%s", args[0], args[1], p.said.String())
		}
	}
}

var signals = map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill}

func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || signals[args[1]] == nil {
		ts.Fatalf("usage: signal NAME INT|TERM|KILL")
	}
	ts.Check(find(ts, args[0]).cmd.Process.Signal(signals[args[1]]))
}

func ends(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: ends NAME INT|TERM|KILL|none CODE")
	}
	if args[1] != "none" {
		sendSignal(ts, false, args[:2])
	}
	p := find(ts, args[0])
	defer time.AfterFunc(limit, func() { _ = p.cmd.Process.Kill() }).Stop()
	for line := range p.stderr {
		fmt.Fprintln(&p.said, line)
	}
	_ = p.cmd.Wait() // its exit code tells
	_, _ = fmt.Fprint(ts.Stdout(), p.stdout.String())
	_, _ = fmt.Fprint(ts.Stderr(), p.said.String())
	checkCode(ts, p.cmd.ProcessState.ExitCode(), args[2])
}
