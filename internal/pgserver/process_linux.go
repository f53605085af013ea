package pgserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func checkSystem() error { return nil }

// A process is a child process, such as a postmaster, whose own children are known.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; set before done is closed
}

// startProcess starts cmd as an unprivileged user. The kernel sends the process SIGQUIT, the
// immediate shutdown, when this process ends.
func startProcess(cmd *exec.Cmd) (*process, error) {
	credential, err := unprivileged()
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: credential,
		Pdeathsig:  syscall.SIGQUIT,
		// A Ctrl-C in the terminal must not reach the server: the tests end first. The
		// group is in this session, so that the kernel also resumes a paused postmaster
		// when this process ends.
		Setpgid: true,
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig refers to the thread that starts the process. The lock keeps that
		// thread alive until the process has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// unprivileged returns the user that runs the server; nil means the current one.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("no user to run PostgreSQL, which refuses root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// giveAway makes the user that runs the server the owner of dir.
func giveAway(dir string) error {
	credential, err := unprivileged()
	if err != nil || credential == nil {
		return err
	}
	return os.Chown(dir, int(credential.Uid), int(credential.Gid))
}

// signal sends a signal. It does nothing if the process has ended.
func (p *process) signal(signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// pause stops the process, then its children. The process goes first, so that it starts no
// child meanwhile. Every child of a postmaster is its own process group, so that no single
// signal reaches them all.
func (p *process) pause() error {
	pid := p.cmd.Process.Pid
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := await("TtZX", pid); err != nil {
		return err
	}
	pids, err := children(pid)
	if err != nil {
		return err
	}
	return errors.Join(signalAll(pids, syscall.SIGSTOP), await("TtZX", pids...))
}

// resume continues the children, then the process.
func (p *process) resume() error {
	pids, err := children(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	return errors.Join(signalAll(pids, syscall.SIGCONT), p.signal(syscall.SIGCONT))
}

// kill kills the process and its children, and waits until they have ended. It pauses them
// first, so that none acts on the end of another.
func (p *process) kill() error {
	errPause := p.pause()
	pids, err := children(p.cmd.Process.Pid)
	if err := errors.Join(errPause, err, signalAll(pids, syscall.SIGKILL), p.signal(syscall.SIGKILL)); err != nil {
		return err
	}
	<-p.done
	return await("ZX", pids...)
}

func signalAll(pids []int, signal syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, signal); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("cannot send %v to process %d: %w", signal, pid, err)
		}
	}
	return nil
}

// await waits until each of the processes is in one of the states, or has ended.
func await(states string, pids ...int) error {
	deadline := time.Now().Add(patience)
	for _, pid := range pids {
		for {
			state, _, ok := stat(pid)
			if !ok || strings.Contains(states, state) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d is in state %s after %v (want one of %s)", pid, state, patience, states)
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// children returns the processes whose parent is pid.
func children(pid int) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		child, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if _, parent, ok := stat(child); ok && parent == pid {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// stat returns the state and the parent of a process, as in proc(5). It returns false if
// the process has ended.
func stat(pid int) (state string, parent int, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	// The name before the state is in parentheses and may contain some.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(string(fields[1]))
	return string(fields[0]), parent, err == nil
}
