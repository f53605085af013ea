package boltstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	bucketPrefix = "activity checkpoints "
	bucketName   = bucketPrefix + "1"        // the version of the file format
	inputsName   = bucketPrefix + "inputs 1" // which programs that know none take for another version

	defaultLockTimeout = 500 * time.Millisecond // for a process that is just ending
	lockRetry          = 20 * time.Millisecond

	// What All reads at once: as many checkpoints, or as many bytes and what
	// goes beyond them.
	chunkCount = 256
	chunkBytes = 1 << 20
)

// ErrInUse is wrapped by Open's error when another process, or another Store in
// this one, kept the file open for the whole of [Options.LockTimeout]. End that
// process or close that Store before you call Open again, or open another file. If
// the other one is about to end, as in a restart, set a longer LockTimeout.
var ErrInUse = errors.New("in use: another process, or another Store in this one, has the file open; end that process or close that Store, or use another file")

var (
	errClosed   = errors.New("the Store is closed; close it after Runtime.Shutdown")
	errReplaced = errors.New("removed or replaced while it was opened")
	errGone     = errors.New("the path no longer names the open file, which was removed, renamed or replaced: this Store takes nothing more; put the file back, and open it again")
	errUnlinked = errors.New("the file has been removed, although the path still names it, as a bind mount does: mount it anew")
)

// A Store is an [activity.Store] in one file. Its methods are safe for
// concurrent use.
type Store struct {
	path     string   // as it was given, for errors
	absolute string   // since the program may change its folder
	file     *os.File // bbolt's
	db       *bbolt.DB
	writing  chan struct{} // holds a value while one writes
	broken   atomic.Pointer[error]
}

var _ activity.Store = (*Store)(nil)

// Options says how Open opens a file. The zero value is ready to use.
type Options struct {
	// LockTimeout is how long Open waits for a file that another process, or
	// another Store in this one, has open. If zero, 0.5 s. It must not be negative.
	LockTimeout time.Duration
}

// Open opens the file at path. If there is none, Open creates it, readable and
// writable only by its owner; the folder must exist. If opts is nil, the zero
// Options are used.
//
// Open refuses a file that is damaged, that is not a Store's or that is in use,
// leaves it unchanged, and returns an error that names the file and the reason.
// If the file is still in use after Options.LockTimeout, the error wraps
// [ErrInUse]. If LockTimeout is negative, Open returns an error and does not touch
// the disk. If most of the file is free, Open rewrites it under the same name: see the
// package's doc.
func Open(path string, opts *Options) (*Store, error) {
	lockTimeout := defaultLockTimeout
	if opts != nil && opts.LockTimeout != 0 {
		lockTimeout = opts.LockTimeout
	}
	if lockTimeout < 0 {
		return nil, fmt.Errorf("boltstore: Options.LockTimeout must not be negative (got %v)", lockTimeout)
	}

	s := &Store{path: path, absolute: path, writing: make(chan struct{}, 1)}
	if absolute, err := filepath.Abs(path); err == nil {
		s.absolute = absolute
	}
	// All tries share lockTimeout: openFile deducts its wait from bolt.Timeout.
	bolt := boltOptions(lockTimeout)
	bolt.OpenFile = func(path string, flag int, mode os.FileMode) (*os.File, error) {
		return s.openFile(path, flag, mode, &bolt.Timeout)
	}
	err := s.open(bolt)
	for try := 1; errors.Is(err, errReplaced) && try < 10; try++ {
		s.abandon()
		err = s.open(bolt)
	}
	if err != nil {
		s.abandon()
		return nil, s.failed("open", err)
	}
	return s, nil
}

func (s *Store) open(bolt *bbolt.Options) error {
	switch info, err := os.Stat(s.path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(s.path); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	}
	return noPanic(func() (err error) {
		s.db, err = bbolt.Open(s.path, 0o600, bolt)
		if errors.Is(err, bolterrors.ErrTimeout) {
			return ErrInUse
		}
		if err != nil {
			return err
		}
		if err = addBucket(s.db); err == nil {
			err = s.compact()
		}
		if err == nil {
			err = syncFolder(s.path)
		}
		if err != nil {
			s.db.Close()
		}
		return err
	})
}

func boltOptions(lockTimeout time.Duration) *bbolt.Options {
	return &bbolt.Options{
		Timeout:      lockTimeout,
		FreelistType: bbolt.FreelistMapType,
		NoStatistics: true,
	}
}

// openFile gives bbolt a file that it can trust. It waits up to *timeout for the
// lock, and leaves there what remains for bbolt's own lock: bbolt reads
// Options.Timeout after OpenFile.
func (s *Store) openFile(path string, flag int, mode os.FileMode, timeout *time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	s.file = file
	for start := time.Now(); ; {
		locked, err := tryLock(file)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		left := *timeout - time.Since(start)
		if locked {
			*timeout = max(left, 1) // to bbolt, 0 is forever
			break
		}
		if left <= 0 {
			return nil, ErrInUse
		}
		time.Sleep(min(left, lockRetry))
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	// Who had it open before may have removed it.
	if named, err := os.Stat(path); err != nil || !os.SameFile(named, info) {
		return nil, errReplaced
	}
	if links(info) == 0 {
		return nil, errUnlinked
	}
	if info.Size() > 0 {
		if err := verify(file, info.Size()); err != nil {
			return nil, fmt.Errorf("%w; the file was left as it is: put a copy of a sound one in its place, or move it away to begin anew", err)
		}
	}
	if lockedTwice {
		return file, nil
	}
	return file, unlock(file)
}

// create makes an empty Store appear under path, whole or not at all, unless
// somebody else is first.
func create(path string) error {
	file, err := os.CreateTemp(filepath.Dir(path), shortened(path)+".new*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if err := file.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(file.Name(), 0o600, boltOptions(defaultLockTimeout))
	if err != nil {
		return err
	}
	if err := errors.Join(addBucket(db), db.Close()); err != nil {
		return err
	}
	// Where there are no hard links, bbolt makes the file in its place.
	_ = os.Link(file.Name(), path)
	return nil
}

// shortened is the name of the file at path, with room for a suffix.
func shortened(path string) string {
	name := filepath.Base(path)
	return name[:min(len(name), 200)]
}

func addBucket(db *bbolt.DB) error {
	found := false
	err := db.View(func(tx *bbolt.Tx) error {
		found = tx.Bucket([]byte(bucketName)) != nil
		return nil
	})
	if err != nil || found {
		return err
	}
	return db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte(bucketName))
		return err
	})
}

// syncFolder makes the file's name durable: by whom it was created, and
// whether that process came to do it, cannot be known. A folder that one may not list
// cannot be synced, and some file systems cannot do it.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if err := fsyncFolder(path); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func fsyncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// Close waits for the calls that run, and gives the file up. A second Close does
// nothing.
func (s *Store) Close() error {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	if s.broken.Load() != nil {
		s.abandon()
		return nil
	}
	if err := s.db.Close(); err != nil {
		return s.failed("close", err)
	}
	return nil
}

// abandon gives the file up without bbolt, whose Close might wait for ever for a
// mutex that a panic left locked. The mapping stays.
func (s *Store) abandon() {
	if s.file != nil {
		_ = unlock(s.file)
		s.file.Close()
	}
}

// Load is [activity.Store]'s.
func (s *Store) Load(ctx context.Context, id string) (c activity.Checkpoint, found bool, err error) {
	operation := fmt.Sprintf("load %q", id)
	err = s.view(ctx, operation, func(v *view) error {
		record := v.records.Get([]byte(id))
		if record == nil {
			return nil
		}
		found = true
		c, err = v.decode(id, record)
		return err
	})
	if err != nil {
		return activity.Checkpoint{}, false, err
	}
	return c, found, nil
}

// Save is [activity.Store]'s: one durable commit for the batch.
func (s *Store) Save(ctx context.Context, batch []activity.Checkpoint) error {
	const operation = "save"
	encoded := make([][]byte, len(batch))
	for i := range batch {
		record, err := encodeRecord(&batch[i])
		if err != nil {
			return s.failed(fmt.Sprintf("%s %q", operation, batch[i].ID), err)
		}
		encoded[i] = record
	}
	return s.update(ctx, operation, len(batch), func(records, inputs *bucket, i int) error {
		id := []byte(batch[i].ID)
		return errors.Join(records.put(id, encoded[i]), inputs.putInput(id, batch[i].Input))
	})
}

// Delete is [activity.Store]'s: one durable commit for all.
func (s *Store) Delete(ctx context.Context, ids []string) error {
	return s.update(ctx, "delete", len(ids), func(records, inputs *bucket, i int) error {
		id := []byte(ids[i])
		return errors.Join(records.delete(id), inputs.deleteInput(id, 0))
	})
}

// All is [activity.Store]'s. It reads some at a time, and no transaction is open
// while the loop's body runs: a write in it would wait for that. Records that
// cannot be read do not stand in the way of the others: an error at the end names
// them.
func (s *Store) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		var c chunk
		for more := true; more; {
			var err error
			if more, err = s.read(ctx, &c); err != nil {
				yield(activity.Checkpoint{}, err)
				return
			}
			for _, checkpoint := range c.checkpoints {
				if err := ended(ctx); err != nil {
					yield(activity.Checkpoint{}, s.failed("read all", err))
					return
				}
				if !yield(checkpoint, nil) {
					return
				}
			}
		}
		if len(c.unread) > 0 {
			yield(activity.Checkpoint{}, s.failed("read all", errors.Join(c.unread...)))
		}
	}
}

// A chunk is what All has read.
type chunk struct {
	checkpoints []activity.Checkpoint
	last        []byte  // ID; nil: nothing was read
	unread      []error // also of the chunks before
}

// read reads what comes after c. It reports whether there may be more.
func (s *Store) read(ctx context.Context, c *chunk) (more bool, err error) {
	c.checkpoints = nil
	err = s.view(ctx, "read all", func(v *view) error {
		cursor := v.records.Cursor()
		id, record := cursor.Seek(c.last)
		if c.last != nil && bytes.Equal(id, c.last) {
			id, record = cursor.Next()
		}
		for size := 0; id != nil; id, record = cursor.Next() {
			if more = len(c.checkpoints) == chunkCount || size >= chunkBytes; more {
				return nil
			}
			c.last = bytes.Clone(id)
			checkpoint, err := v.decode(string(id), record)
			size += len(record) + len(checkpoint.Input)
			if err != nil {
				c.unread = append(c.unread, fmt.Errorf("%q: %w", id, err))
				continue
			}
			c.checkpoints = append(c.checkpoints, checkpoint)
		}
		return nil
	})
	return more, err
}

// A view is what a transaction reads.
type view struct{ records, inputs *bbolt.Bucket } // inputs is nil if there are none

func (v *view) decode(id string, record []byte) (activity.Checkpoint, error) {
	return decodeRecord(id, record, func(key []byte) []byte {
		if v.inputs == nil {
			return nil
		}
		return v.inputs.Get(key)
	})
}

func (s *Store) view(ctx context.Context, operation string, read func(*view) error) error {
	return s.guarded(ctx, operation, func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			return read(&view{tx.Bucket([]byte(bucketName)), tx.Bucket([]byte(inputsName))})
		})
	})
}

// update calls write for each of n in one transaction.
func (s *Store) update(ctx context.Context, operation string, n int, write func(records, inputs *bucket, i int) error) error {
	select {
	case <-ctx.Done():
		return s.failed(operation, ended(ctx))
	case s.writing <- struct{}{}:
		defer func() { <-s.writing }()
	}
	return s.guarded(ctx, operation, func() error {
		if n == 0 {
			return nil
		}
		committing := false
		err := s.db.Update(func(tx *bbolt.Tx) error {
			records, inputs := openBucket(tx, bucketName), openBucket(tx, inputsName)
			for i := range n {
				if err := write(records, inputs, i); err != nil {
					return err
				}
			}
			if err := errors.Join(records.close(), inputs.close()); err != nil {
				return err
			}
			committing = true
			return nil
		})
		if err != nil && committing && !undone(err) {
			return s.breakDown(fmt.Errorf("a commit failed, and what is on the disk is no longer known: this Store takes nothing more; end the program, or close and open the file anew: %w", err))
		}
		if err == nil && s.gone() {
			return s.breakDown(errGone)
		}
		return err
	})
}

// gone reports whether the path no longer names the open file. If that cannot be known, it
// has not gone.
func (s *Store) gone() bool { return unnamed(s.absolute, s.file) }

func statUnnamed(path string, file *os.File) bool {
	open, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return links(open) == 0 || !os.SameFile(open, named)
}

// undone says whether a commit failed before anything of it counted: bbolt could
// not make the file longer, or not write a page. After a failed fsync, however,
// the system may take for written what is not, also for later commits.
func undone(err error) bool {
	var pathError *fs.PathError
	return errors.As(err, &pathError) && pathError.Op == "write" ||
		strings.HasPrefix(err.Error(), "file resize error") // bbolt hides its cause
}

// guarded runs f, unless ctx has ended or an earlier panic or failed commit has
// left the Store unusable.
func (s *Store) guarded(ctx context.Context, operation string, f func() error) error {
	if err := ended(ctx); err != nil {
		return s.failed(operation, err)
	}
	if broken := s.broken.Load(); broken != nil {
		return s.failed(operation, *broken)
	}
	err := noPanic(f)
	if err == nil {
		return nil
	}
	if p := (*panicError)(nil); errors.As(err, &p) {
		err = s.breakDown(err)
	}
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = errClosed
	}
	return s.failed(operation, err)
}

func (s *Store) breakDown(err error) error {
	s.broken.CompareAndSwap(nil, &err)
	return err
}

func (s *Store) failed(operation string, err error) error {
	return fmt.Errorf("boltstore: %s: %s: %w", s.path, operation, err)
}

// ended gives an error that wraps ctx.Err() and its cause, or nil.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); !errors.Is(cause, err) {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return context.Cause(ctx)
}

type panicError struct{ value any }

func (p *panicError) Error() string {
	return fmt.Sprintf("bbolt gave up, the file has been damaged while it was open: %v", p.value)
}

// noPanic returns bbolt's panics as errors, and also the fault of reading a
// mapped page that the file no longer has.
func noPanic(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{value: p}
		}
	}()
	return f()
}
