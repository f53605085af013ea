//go:build !unix

package boltstore

import "os"

const canReplace = false

func sameOwner(*os.File, os.FileInfo) error { return nil }

func links(os.FileInfo) int { return 1 }
