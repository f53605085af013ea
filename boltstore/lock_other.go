//go:build aix || android || solaris

package boltstore

import "os"

// On these systems, bbolt uses fcntl locks, which are lost when any descriptor of the file is
// closed. So only bbolt locks the file.
const lockedTwice = true

func tryLock(*os.File, bool) (bool, error) { return true, nil }

func unlock(*os.File) error { return nil }
