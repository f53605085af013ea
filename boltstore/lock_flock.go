//go:build darwin || dragonfly || freebsd || (linux && !android) || netbsd || openbsd

package boltstore

import (
	"errors"
	"os"
	"syscall"
)

// lockedTwice is true if bbolt can lock the file while this package has it locked.
const lockedTwice = true

func tryLock(file *os.File) (bool, error) {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// unlock releases the lock, which closing a mapped file does not.
func unlock(file *os.File) error {
	return syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
}
