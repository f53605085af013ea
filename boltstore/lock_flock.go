//go:build darwin || dragonfly || freebsd || (linux && !android) || netbsd || openbsd

package boltstore

import (
	"errors"
	"os"
	"syscall"
)

// lockedTwice: who has the lock may take it once more, which bbolt does.
const lockedTwice = true

func tryLock(file *os.File) (bool, error) {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// unlock does what closing the file does not while it is mapped.
func unlock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
}
