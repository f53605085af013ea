package boltstore

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// unnamed reports whether path does not name the open file. It does not ask for the file's
// times. Since Linux 6.13, asking for them makes the next write slower, because that must then
// update the times on the disk.
func unnamed(path string, file *os.File) bool {
	var open, named unix.Statx_t
	if err := unix.Statx(int(file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_NLINK, &open); err != nil {
		return statUnnamed(path, file) // the system has no statx
	}
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO, &named); err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return open.Nlink == 0 || open.Ino != named.Ino || open.Dev_major != named.Dev_major || open.Dev_minor != named.Dev_minor
}
