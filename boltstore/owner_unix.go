//go:build unix

package boltstore

import (
	"os"
	"syscall"
)

// canReplace is true if a file can be replaced while it is open.
const canReplace = true

// sameOwner changes the owner of file to that of info.
func sameOwner(file *os.File, info os.FileInfo) error {
	want, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	return file.Chown(int(want.Uid), int(want.Gid))
}

// links returns the number of the file's names.
func links(info os.FileInfo) int {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 1
	}
	return int(stat.Nlink)
}
