package boltstore

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// bbolt's file never shrinks, and each commit writes the list of its free pages, which is
// two megabytes when a gigabyte is free.

const (
	compactFrom  = 16 << 20 // bytes that are free
	compactBatch = 16 << 20 // bytes in one transaction
)

// compact rewrites a file that is mostly free, into a new one that takes its name. If
// that cannot be done, because the disk is full, for instance, the file stays as it is.
func (s *Store) compact() error {
	if free, used := s.pages(); free < compactFrom || free < 3*used {
		return nil
	}
	path, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return nil
	}
	temp, err := s.sibling(path)
	if err != nil {
		return nil
	}
	defer os.Remove(temp)
	var file *os.File
	options := boltOptions(defaultLockTimeout)
	options.OpenFile = func(path string, flag int, mode os.FileMode) (_ *os.File, err error) {
		file, err = os.OpenFile(path, flag, mode)
		return file, err
	}
	db, err := bbolt.Open(temp, 0o600, options) // which locks it
	if err != nil {
		return nil
	}
	err = bbolt.Compact(db, s.db, compactBatch)
	if err == nil {
		err = verifyFile(file)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		db.Close()
		return nil
	}
	old := s.db
	s.db, s.file = db, file
	// Whoever waits for the lock of the old file sees that it has lost its name.
	return errors.Join(old.Close(), syncFolder(path))
}

// sibling makes an empty file beside path, with the owner and the mode of the open one.
func (s *Store) sibling(path string) (string, error) {
	info, err := s.file.Stat()
	if err != nil {
		return "", err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new*")
	if err != nil {
		return "", err
	}
	err = errors.Join(file.Chmod(info.Mode().Perm()), sameOwner(file, info), file.Close())
	if err != nil {
		os.Remove(file.Name())
		return "", err
	}
	return file.Name(), nil
}

func verifyFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return verify(file, info.Size())
}

// pages are the bytes of the file that are free, and those that are used.
func (s *Store) pages() (free, used uint64) {
	info, err := s.file.Stat()
	if err != nil {
		return 0, 0
	}
	m, err := readMeta(s.file, info.Size())
	if err != nil {
		return 0, 0
	}
	b := make([]byte, headerSize+8)
	if _, err := s.file.ReadAt(b, int64(m.freelist*m.pageSize)); err != nil {
		return 0, 0
	}
	count := parsePage(b).count
	if count == 0xFFFF {
		count = binary.NativeEndian.Uint64(b[headerSize:])
	}
	return count * m.pageSize, (m.pages - count) * m.pageSize
}
