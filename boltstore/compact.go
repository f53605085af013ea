package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/seed-9da638b0/activity/boltstore/internal/folder"
	"go.etcd.io/bbolt"
)

// A bbolt file never shrinks, and each commit writes the list of its free pages. If 1 GB is free,
// the list has 2 MB.

const compactBatch = 16 << 20 // bytes copied in one transaction

func worthCompacting(free, used uint64) bool {
	return free >= 16<<20 && free >= 3*used || free >= 64<<20 && free >= used
}

// compact copies a file that is mostly free into a new one, which takes its name. If that fails,
// for example because the disk is full, the old file stays in use.
func (s *Store) compact() error {
	info, err := s.file.Stat()
	if err != nil || !canReplace || links(info) > 1 || !worthCompacting(s.pages()) {
		return nil
	}
	path, err := filepath.EvalSymlinks(s.path)
	if err != nil {
		return nil
	}
	// If the directory cannot be synced, a loss of power could undo the rename, and with it all
	// later Saves.
	if err := folder.Sync(path); err != nil {
		return nil
	}
	temp, err := sibling(path, info)
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
	db, err := bbolt.Open(temp, 0o600, options) // locks the new file before it gets the name
	if err != nil {
		return nil
	}
	err = bbolt.Compact(db, s.db, compactBatch)
	if err == nil {
		err = verifyFile(file)
	}
	if err == nil && s.gone() { // the rename could replace another process's file
		db.Close()
		return errReplaced
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
	// A process that waits for the lock of the old file will find that it has lost its name.
	return errors.Join(old.Close(), folder.Sync(path))
}

// sibling creates an empty file beside path, with the owner and mode of info, and returns its
// name. The caller must hold the lock of path. The name is always the same, so that killed
// processes leave at most one such file.
func sibling(path string, info os.FileInfo) (string, error) {
	name := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s.%08x.compact", shortened(path), crc32.ChecksumIEEE([]byte(filepath.Base(path)))))
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	err = errors.Join(sameOwner(file, info), file.Chmod(info.Mode().Perm()), file.Close())
	if err != nil {
		os.Remove(name)
		return "", err
	}
	return name, nil
}

func verifyFile(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return verify(file, info.Size())
}

// pages returns how many bytes of the file are in free and in used pages.
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
