//go:build unix

package boltstore

import (
	"os"
	"syscall"
)

// canReplace: an open file can be replaced.
const canReplace = true

// sameOwner gives file the owner that info has.
func sameOwner(file *os.File, info os.FileInfo) error {
	want, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return file.Chown(int(want.Uid), int(want.Gid))
}

// links is how many names a file has.
func links(info os.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return int(stat.Nlink)
}
