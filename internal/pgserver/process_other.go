//go:build !linux

package pgserver

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// checkSystem fails, so that nothing below is ever used.
func checkSystem() error {
	return fmt.Errorf("pgserver: cannot run PostgreSQL on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

type process struct {
	done chan struct{}
	err  error
}

func startProcess(*exec.Cmd) (*process, error)        { return nil, checkSystem() }
func giveAway(string) error                           { return checkSystem() }
func (p *process) signal(signal syscall.Signal) error { return checkSystem() }
func (p *process) pause() error                       { return checkSystem() }
func (p *process) resume() error                      { return checkSystem() }
func (p *process) kill() error                        { return checkSystem() }
