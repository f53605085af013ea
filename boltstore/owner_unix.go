//go:build unix

package boltstore

import (
	"os"
	"syscall"
)

// sameOwner gives file the owner that info has.
func sameOwner(file *os.File, info os.FileInfo) error {
	want, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return file.Chown(int(want.Uid), int(want.Gid))
}
