package boltstore

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// WriteTo implements [io.WriterTo]. It writes a copy of the Store's file to w and returns the
// number of bytes that were written. The copy has the state after one Save or Delete, the newest
// one when the copy begins, and nothing of a later one. WriteTo does not sync w.
//
// Other methods work as usual meanwhile. So that a slow w delays no Save, WriteTo first makes a
// temporary copy in the file's directory, unless the Store is read-only. The disk needs space for
// it. While the temporary copy is made, the space that Saves and Deletes free is not reused, so
// the file can grow by what they write. If that makes the file outgrow its mapping into memory,
// the Save waits until the temporary copy is complete. The mapping's size is a power of two or,
// from 1 GiB on, a multiple of 1 GiB.
func (s *Store) WriteTo(w io.Writer) (int64, error) {
	const operation = "copy"
	source := s.file
	if !s.readOnly {
		temp, err := os.CreateTemp(filepath.Dir(s.absolute), shortened(s.path)+".copy*")
		if err != nil {
			return 0, s.failed(operation, err)
		}
		defer os.Remove(temp.Name())
		defer temp.Close()
		source = temp
		err = s.guarded(context.Background(), operation, func() error { return s.copyTo(temp) })
		if err != nil {
			return 0, err
		}
	}
	// w is user code, so it runs in no transaction, and its panic is not that of bbolt.
	info, err := source.Stat()
	if err != nil {
		return 0, s.failed(operation, err)
	}
	n, err := io.Copy(w, io.NewSectionReader(source, 0, info.Size()))
	if err == nil && n < info.Size() {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, s.failed(operation, err)
	}
	return n, nil
}

// copyTo writes the state of the last commit to w in one transaction. Commits continue meanwhile,
// but none of them reuses a page of that state.
func (s *Store) copyTo(w io.Writer) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}
