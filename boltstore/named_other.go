//go:build !linux

package boltstore

import "os"

// unnamed reports whether path does not name the open file.
func unnamed(path string, file *os.File) bool { return statUnnamed(path, file) }
