package activitytest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// An FS is a directory of real files that outlive the process. Its methods are some of those of [os.Root]:
// names are relative to the directory and cannot leave it. Make subdirectories with package os. There is a
// place before each call, and after each one that changes something. A crash keeps what was written and closes
// the process's files.
//
// With a [Fault], a call fails with [ErrFault], which a [fs.PathError] wraps, and changes nothing. A Write or
// WriteAt then writes the first half, as on a full disk.
//
// With Plan.PowerLoss, changes that were not synced may be lost. Change the files only through the FS while a
// process runs, or while there are changes that are not synced.
type FS struct {
	w    *World
	root *os.Root

	mu    sync.Mutex // held while a file is read or written, and never at a place
	files map[*File]bool
	disk  *disk // nil without Plan.PowerLoss
}

// FS returns the FS of a directory, which must exist. It returns the same FS each time.
//
//	disk := w.FS(t.TempDir())
func (w *World) FS(dir string) *FS {
	w.t.Helper()
	w.outside.Store(true)
	path, err := filepath.Abs(dir)
	if err != nil {
		w.t.Fatalf("activitytest: World.FS: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.disks[path]; d != nil {
		return d
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		w.t.Fatalf("activitytest: World.FS: %v", err)
	}
	d := &FS{w: w, root: root, files: map[*File]bool{}}
	if w.plan.PowerLoss {
		d.disk = newDisk(w, root)
	}
	if w.disks == nil {
		w.disks = map[string]*FS{}
	}
	w.disks[path] = d
	w.t.Cleanup(func() {
		d.release(nil)
		_ = root.Close()
	})
	return d
}

// Create is like [os.Create].
func (d *FS) Create(name string) (*File, error) {
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// Open is like [os.Open].
func (d *FS) Open(name string) (*File, error) { return d.OpenFile(name, os.O_RDONLY, 0) }

// OpenFile is like [os.OpenFile].
func (d *FS) OpenFile(name string, flag int, perm fs.FileMode) (f *File, err error) {
	f = &File{fs: d, name: name, flag: flag, opener: d.w.caller(context.Background())}
	do := func() (err error) {
		if d.disk != nil {
			if err := d.disk.load(name); err != nil {
				return err
			}
		}
		if f.real, err = d.root.OpenFile(name, flag, perm); err != nil {
			return err
		}
		d.files[f] = true
		if d.disk != nil {
			info, err := f.real.Stat()
			if err != nil {
				return err
			}
			f.node = d.disk.opened(name, flag, info)
		}
		return nil
	}
	if err := d.call("open", name, flag&(os.O_CREATE|os.O_TRUNC) == 0, do, nil); err != nil {
		return nil, err
	}
	return f, nil
}

// ReadFile is like [os.ReadFile].
func (d *FS) ReadFile(name string) (data []byte, err error) {
	err = d.call("read file", name, true, func() error {
		data, err = d.root.ReadFile(name)
		return err
	}, nil)
	return data, err
}

// Stat is like [os.Stat].
func (d *FS) Stat(name string) (info fs.FileInfo, err error) {
	err = d.call("stat", name, true, func() error {
		info, err = d.root.Stat(name)
		return err
	}, nil)
	return info, err
}

// Rename is like [os.Rename]. A power loss may undo it, unless the directory of newname was synced. With
// Plan.PowerLoss, it refuses a directory.
func (d *FS) Rename(oldname, newname string) error {
	return d.call("rename", oldname+" to "+newname, false, func() error {
		if d.disk == nil {
			return d.root.Rename(oldname, newname)
		}
		if err := cmp.Or(d.disk.load(oldname), d.disk.load(newname)); err != nil {
			return err
		}
		if info, err := d.root.Stat(oldname); err == nil && info.IsDir() {
			return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: fmt.Errorf("a directory, with Plan.PowerLoss: %w", errors.ErrUnsupported)}
		}
		if err := d.root.Rename(oldname, newname); err != nil {
			return err
		}
		d.disk.renamed(oldname, newname)
		return nil
	}, nil)
}

// Remove is like [os.Remove]. A power loss may undo it, unless the directory was synced.
func (d *FS) Remove(name string) error {
	return d.call("remove", name, false, func() error {
		if d.disk == nil {
			return d.root.Remove(name)
		}
		if err := d.disk.load(name); err != nil {
			return err
		}
		if err := d.root.Remove(name); err != nil {
			return err
		}
		d.disk.removed(name)
		return nil
	}, nil)
}

// call makes a call between its places. fails makes the call fail because of a Fault; if nil, it then changes
// nothing.
func (d *FS) call(noun, name string, reads bool, do, fails func() error) error {
	locked := func(f func() error) func() error {
		return func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			return f()
		}
	}
	a := d.w.caller(context.Background())
	if a == nil {
		return locked(do)()
	}
	e := effect{noun: noun, call: call{kind: noun, point: name}, do: locked(do), local: true, reads: reads}
	e.fails = func() error {
		err := ErrFault
		if fails != nil {
			err = cmp.Or(locked(fails)(), ErrFault)
		}
		return &fs.PathError{Op: noun, Path: name, Err: err}
	}
	return a.outside(a, e)
}

// release closes the files of the lives that are dead or, if dead is nil, all files.
func (d *FS) release(dead map[*life]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for f := range d.files {
		if dead == nil || f.opener != nil && dead[f.opener.life] {
			delete(d.files, f)
			_ = f.real.Close()
		}
	}
}

// unsynced returns the number of changes that a power loss may lose.
func (d *FS) unsynced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk == nil {
		return 0
	}
	return len(d.disk.changes)
}

// A File is an open file of an [FS]. Its methods are some of those of [os.File].
type File struct {
	fs     *FS
	name   string
	flag   int
	opener *attempt // nil for the body
	real   *os.File
	node   *node // nil for a directory, and without Plan.PowerLoss
}

var _ interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	io.StringWriter
	fs.File
} = (*File)(nil)

// Name returns the name with which the file was opened.
func (f *File) Name() string { return f.name }

// Read is like [os.File.Read].
func (f *File) Read(p []byte) (n int, err error) {
	return f.read(func() (int, error) { return f.real.Read(p) })
}

// ReadAt is like [os.File.ReadAt].
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	return f.read(func() (int, error) { return f.real.ReadAt(p, off) })
}

func (f *File) read(read func() (int, error)) (n int, err error) {
	err = f.fs.call("read", f.name, true, func() error {
		n, err = read()
		return err
	}, nil)
	return n, err
}

// Write is like [os.File.Write].
func (f *File) Write(p []byte) (n int, err error) { return f.write(p, -1) }

// WriteString is like [os.File.WriteString].
func (f *File) WriteString(s string) (n int, err error) { return f.write([]byte(s), -1) }

// WriteAt is like [os.File.WriteAt].
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 { // a real file refuses it
		return f.real.WriteAt(p, off)
	}
	return f.write(p, off)
}

// write writes p at off or, if off is negative, where the file is.
func (f *File) write(p []byte, off int64) (n int, err error) {
	write := func(p []byte) (err error) {
		at := off
		switch {
		case f.node == nil:
		case f.flag&os.O_APPEND != 0:
			at = f.node.size
		case off < 0:
			if at, err = f.real.Seek(0, io.SeekCurrent); err != nil {
				return err
			}
		}
		if off < 0 {
			n, err = f.real.Write(p)
		} else {
			n, err = f.real.WriteAt(p, off)
		}
		if f.node != nil {
			f.fs.disk.wrote(f.node, f.name, at, p[:n])
			if f.flag&os.O_SYNC != 0 {
				f.fs.disk.sync(f.node)
			}
		}
		return err
	}
	err = f.fs.call("write", f.name, false, func() error { return write(p) }, func() error { return write(p[:len(p)/2]) })
	return n, err
}

// Truncate is like [os.File.Truncate].
func (f *File) Truncate(size int64) error {
	return f.fs.call("truncate", f.name, false, func() error {
		err := f.real.Truncate(size)
		if err == nil && f.node != nil {
			f.fs.disk.truncated(f.node, f.name, size)
		}
		return err
	}, nil)
}

// Sync is like [os.File.Sync], but it does not wait for a real disk. With Plan.PowerLoss, a later power loss
// keeps all that was written to the file before. The Sync of a directory does so for the names in it: for files
// that were created, renamed or removed there.
func (f *File) Sync() error {
	return f.fs.call("sync", f.name, false, func() error {
		switch d := f.fs.disk; {
		case !f.fs.files[f]:
			return &fs.PathError{Op: "sync", Path: f.name, Err: fs.ErrClosed}
		case d == nil:
		case f.node != nil:
			d.sync(f.node)
		default:
			d.syncDir(f.name)
		}
		return nil
	}, nil)
}

// Seek is like [os.File.Seek]. It has no place.
func (f *File) Seek(offset int64, whence int) (int64, error) { return f.real.Seek(offset, whence) }

// Stat is like [os.File.Stat]. It has no place.
func (f *File) Stat() (fs.FileInfo, error) { return f.real.Stat() }

// Close is like [os.File.Close]. It has no place, and syncs nothing.
func (f *File) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	delete(f.fs.files, f)
	return f.real.Close()
}
