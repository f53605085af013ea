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
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore/internal/folder"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	bucketPrefix = "activity checkpoints "
	bucketName   = bucketPrefix + "1"        // 1 is the version of the file format
	inputsName   = bucketPrefix + "inputs 1" // programs without separate inputs refuse it as another version

	defaultLockTimeout = 500 * time.Millisecond // time for another process that is about to end
	lockRetry          = 20 * time.Millisecond

	// A chunk that All reads ends at either limit. Its last checkpoint may exceed chunkBytes.
	chunkCount = 256
	chunkBytes = 1 << 20
)

// ErrInUse is wrapped by the error of [Open] if another process, or another Store in this
// process, had the file open for all of [Options.LockTimeout]. End that process or close that
// Store before calling Open again, or open another file. If the other process is about to end,
// as in a restart, set a longer LockTimeout.
var ErrInUse = errors.New("in use: another process, or another Store in this one, has the file open; end that process or close that Store, or use another file")

var (
	errClosed   = errors.New("the Store is closed; close it after Runtime.Shutdown")
	errReplaced = errors.New("the file was removed or replaced while it was being opened")
	errGone     = errors.New("the path no longer names the open file, which was removed, renamed or replaced; this Store fails from now on: put the file back and open it again")
	errUnlinked = errors.New("the file has been removed, although the path still names it, as with a bind mount: mount the file again")
)

// A Store is an [activity.Store] in one file. [Open] returns one. Its methods are safe for
// concurrent use.
type Store struct {
	path     string                // path given to Open, for errors
	absolute string                // absolute path, because the program may change its working directory
	file     *os.File              // file that bbolt has open
	db       *bbolt.DB             // nil until Open has checked the file
	readOnly bool                  // Options.ReadOnly
	writing  chan struct{}         // semaphore of writers, of capacity 1; unlike a mutex, waiting for it can be canceled
	broken   atomic.Pointer[error] // first error that makes the Store unusable, or nil
}

var _ activity.Store = (*Store)(nil)

// Options configures [Open]. The zero Options are ready to use.
type Options struct {
	// LockTimeout is the longest time that Open waits for a file that another process, or
	// another Store in this process, has open. If zero, 0.5 s. It must not be negative.
	LockTimeout time.Duration

	// ReadOnly opens an existing file and never changes it. If there is none, Open returns an
	// error that wraps [fs.ErrNotExist]. Save and Delete return errors. Several read-only Stores
	// can have the file open at the same time, but no other Store can.
	ReadOnly bool
}

// Open opens the file at path. If it does not exist, Open creates it, readable and writable
// only by its owner. The directory must exist. If opts is nil, the zero Options are used.
//
// If the file is damaged, is not a Store's or is in use, Open returns an error that names the
// file and the reason, and leaves the file unchanged. If the file is still in use after
// Options.LockTimeout, the error wraps [ErrInUse]. If LockTimeout is negative, Open returns an
// error and does not access the disk. If most of the file is free, Open rewrites it under the
// same name; see the package documentation. [Options.ReadOnly] prevents all changes.
func Open(path string, opts *Options) (*Store, error) {
	lockTimeout := defaultLockTimeout
	if opts != nil && opts.LockTimeout != 0 {
		lockTimeout = opts.LockTimeout
	}
	if lockTimeout < 0 {
		return nil, fmt.Errorf("boltstore: Options.LockTimeout must not be negative (got %v)", lockTimeout)
	}

	s := &Store{path: path, absolute: path, readOnly: opts != nil && opts.ReadOnly, writing: make(chan struct{}, 1)}
	if absolute, err := filepath.Abs(path); err == nil {
		s.absolute = absolute
	}
	// All attempts share lockTimeout, because openFile subtracts its wait from bolt.Timeout.
	bolt := boltOptions(lockTimeout)
	bolt.ReadOnly = s.readOnly
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
	case errors.Is(err, fs.ErrNotExist) && !s.readOnly:
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
		if err != nil || s.readOnly {
			return err
		}
		if err = addBucket(s.db); err == nil {
			err = s.compact()
		}
		if err == nil {
			err = folder.TrySync(s.path) // the process that created the file may have ended before it could
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

// openFile opens and checks the file for bbolt. It waits up to *timeout for the lock and stores
// the remaining time there. bbolt reads Options.Timeout after OpenFile, so both together wait no
// longer than the given time.
func (s *Store) openFile(path string, flag int, mode os.FileMode, timeout *time.Duration) (*os.File, error) {
	file, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	s.file = file
	for start := time.Now(); ; {
		locked, err := tryLock(file, s.readOnly)
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		left := *timeout - time.Since(start)
		if locked {
			*timeout = max(left, 1) // for bbolt, 0 means no limit
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
	// The process that held the lock before may have removed the file.
	if named, err := os.Stat(path); err != nil || !os.SameFile(named, info) {
		return nil, errReplaced
	}
	if links(info) == 0 {
		return nil, errUnlinked
	}
	switch {
	case info.Size() > 0:
		if err := verify(file, info.Size()); err != nil {
			return nil, fmt.Errorf("%w; the file was left as it is: replace it by a sound copy, or move it away to start with an empty Store", err)
		}
	case s.readOnly:
		return nil, errors.New("the file is empty; the first Store that is not read-only makes it an empty Store")
	}
	if lockedTwice {
		return file, nil
	}
	return file, unlock(file)
}

// create atomically creates an empty Store at path, unless another process does so first.
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
	// If the file system has no hard links, bbolt creates the file at path later.
	_ = os.Link(file.Name(), path)
	return nil
}

// shortened returns the base name of path, shortened to leave room for a suffix.
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

// Close waits for calls in progress and then closes the file. Closing a Store again has no
// effect.
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

// abandon closes the file without bbolt, whose Close might wait forever for a mutex that a panic
// left locked. The file stays mapped.
func (s *Store) abandon() {
	if s.file != nil {
		_ = unlock(s.file)
		s.file.Close()
	}
}

// Load implements [activity.Store]. If the record is damaged, Load returns an error that names
// the ID.
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

// Save implements [activity.Store]. It writes the batch in one durable commit.
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

// Delete implements [activity.Store]. It deletes all IDs in one durable commit.
func (s *Store) Delete(ctx context.Context, ids []string) error {
	return s.update(ctx, "delete", len(ids), func(records, inputs *bucket, i int) error {
		id := []byte(ids[i])
		return errors.Join(records.delete(id), inputs.deleteInput(id, 0))
	})
}

// All implements [activity.Store]. It reads up to 256 checkpoints at a time and yields them in
// the order of their IDs. No transaction is open while the loop body runs, so the body may
// write. After the last checkpoint, All yields an error that names the damaged records, if any.
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

// A chunk is the checkpoints that All reads at a time.
type chunk struct {
	checkpoints []activity.Checkpoint
	last        []byte  // last ID that was read; nil before the first read
	unread      []error // errors of damaged records, in this chunk and the earlier ones
}

// read replaces the checkpoints of c by those that follow them. It reports whether there may be
// more.
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

// A view has the buckets of a transaction that reads.
type view struct{ records, inputs *bbolt.Bucket } // inputs is nil if no input is stored separately

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
			v := &view{tx.Bucket([]byte(bucketName)), tx.Bucket([]byte(inputsName))}
			if v.records == nil { // the creation of the file was interrupted, and a read-only Open cannot finish it
				return nil
			}
			return read(v)
		})
	})
}

// update calls write with 0 to n-1 in one transaction.
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
			return s.breakDown(fmt.Errorf("a commit failed, so the content of the disk is unknown; this Store fails from now on: restart the program, or close the Store and open the file again: %w", err))
		}
		if err == nil && s.gone() {
			return s.breakDown(errGone)
		}
		return err
	})
}

// gone reports whether the path no longer names the open file. If that cannot be determined, it
// returns false.
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

// undone reports whether a commit failed before it had any effect, because bbolt could not
// extend the file or write a page. After a failed fsync, in contrast, the system may wrongly
// consider pages as written, even in later commits.
func undone(err error) bool {
	var pathError *fs.PathError
	return errors.As(err, &pathError) && pathError.Op == "write" ||
		strings.HasPrefix(err.Error(), "file resize error") // bbolt does not wrap the cause
}

// guarded calls f, unless ctx has ended or the Store is broken. A panic in f breaks the Store.
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

// breakDown makes every later call fail with err, unless the Store is already broken.
func (s *Store) breakDown(err error) error {
	s.broken.CompareAndSwap(nil, &err)
	return err
}

func (s *Store) failed(operation string, err error) error {
	return fmt.Errorf("boltstore: %s: %s: %w", s.path, operation, err)
}

// ended returns nil or, if ctx has ended, an error that wraps ctx.Err() and its cause.
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
	return fmt.Sprintf("bbolt panicked, since the file was damaged while it was open: %v", p.value)
}

// noPanic returns a panic of bbolt as an error. It does so even for the fault of reading a
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
