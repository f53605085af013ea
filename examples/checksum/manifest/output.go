package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/seed-9da638b0/activity"
)

// The workers finish files in any order, but the manifest is in the order of the files. So
// a worker first writes the sum of a file to the sums file, where every file has a place of
// its own. Only then does the file count as done. The manifest can always be written again
// from the sums of the files that are done.

// A sum is what the sums file has of one file.
type sum struct {
	Hash  [sha256.Size]byte
	Size  int64  // if negative, the file could not be read
	Check uint64 // of the above, and of the file as it was before it was read
}

const sumSize = sha256.Size + 8 + 8 // the length of a sum in the sums file

// check returns a CRC-64 that changes with s and with the file's name and state.
func (s *sum) check(path, state string) uint64 {
	return crc64.Checksum(fmt.Appendf(nil, "%q %s %d %x", path, state, s.Size, s.Hash), crcTable)
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// state returns the mode, size and modification time of a file.
func state(path string) string {
	info, err := os.Lstat(path)
	if err != nil {
		return "unreadable"
	}
	return fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
}

// ErrChanged means that the recorded progress does not count.
var ErrChanged = errors.New("not those of the previous run, or have changed")

// A disk has the manifest and the sums file.
type disk interface {
	openFile(name string, flag int, perm fs.FileMode) (file, error)
	readFile(name string) ([]byte, error)
	syncDir(name string) error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Truncate(size int64) error
	Sync() error
}

// osDisk is the real disk. The tests have one that loses its power.
type osDisk struct{}

func (osDisk) openFile(name string, flag int, perm fs.FileMode) (file, error) {
	return os.OpenFile(name, flag, perm)
}

func (osDisk) readFile(name string) ([]byte, error) { return os.ReadFile(name) }

// syncDir makes sure that the names in a directory are on disk. Windows does so itself.
func (osDisk) syncDir(name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Recall returns the sums of the files that are done. If those are other files now, or
// their sums are not there, the error is ErrChanged. It calls alive for each of them, and
// returns its error.
func Recall(manifest string, files []string, done activity.RangeProgress, alive func() error) (map[int]sum, error) {
	return recall(osDisk{}, manifest, files, done, alive)
}

func recall(d disk, manifest string, files []string, done activity.RangeProgress, alive func() error) (map[int]sum, error) {
	data, err := d.readFile(SumsFile(manifest))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	sums := map[int]sum{}
	for i, file := range files {
		if _, above := slices.BinarySearch(done.Done, i); i >= done.Next && !above {
			continue
		}
		if err := alive(); err != nil {
			return nil, err
		}
		var s sum
		_, err := binary.Decode(data[min(i*sumSize, len(data)):], binary.LittleEndian, &s)
		if err != nil || s.Check != s.check(file, state(file)) {
			return nil, fmt.Errorf("the %d files that are done are %w", done.Next+len(done.Done), ErrChanged)
		}
		sums[i] = s
	}
	return sums, nil
}

// An output is what an attempt writes to: the sums file and the manifest.
type output struct {
	disk           disk
	files          []string
	sums, manifest file

	mu     sync.Mutex
	ready  map[int]sum // of files that have no line yet, because a file before them is not done
	next   int         // the first file that has no line
	length int64       // of the manifest
	crc    uint64      // CRC-64 of the manifest
	result Result      // of the files before next
}

// open begins the manifest with the files that are done, and cuts off everything
// beyond. Where it has been written before, it does not change. An error that no retry
// can mend is NonRetryable. Others, such as a full disk, are retried.
func open(d disk, manifest string, files []string, done map[int]sum) (*output, error) {
	o := &output{disk: d, files: files, ready: done}
	var err error
	if o.manifest, err = d.openFile(manifest, os.O_RDWR|os.O_CREATE, 0o666); err != nil {
		return nil, activity.NonRetryable(err)
	}
	if o.sums, err = d.openFile(SumsFile(manifest), os.O_WRONLY|os.O_CREATE, 0o666); err != nil {
		o.manifest.Close()
		return nil, activity.NonRetryable(err)
	}
	if err = o.writeLines(); err == nil {
		err = o.manifest.Truncate(o.length)
	}
	if err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// add writes the sum of file i, and the line of each file that now has its place.
func (o *output) add(i int, s sum) error {
	data, err := binary.Append(nil, binary.LittleEndian, s)
	if err != nil {
		return err
	}
	if _, err := o.sums.WriteAt(data, int64(i)*sumSize); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ready[i] = s
	return o.writeLines()
}

// writeLines writes the lines that are ready. It writes each to its place, which is
// idempotent. Appending would not be so: on a cluster, Guard knows of this process only,
// and a worker that was frozen may write some lines before it learns that its attempt is
// over.
func (o *output) writeLines() error {
	var lines []byte
	next, result := o.next, o.result
	for ; ; next++ {
		s, ok := o.ready[next]
		if !ok {
			break
		}
		if s.Size < 0 {
			result.Unread++
			continue
		}
		result.Files++
		result.Bytes += s.Size
		lines = append(lines, line(s.Hash[:], o.files[next])...)
	}
	if _, err := o.manifest.WriteAt(lines, o.length); err != nil {
		return err
	}
	for ; o.next < next; o.next++ {
		delete(o.ready, o.next)
	}
	o.length += int64(len(lines))
	o.crc = crc64.Update(o.crc, crcTable, lines)
	o.result = result
	return nil
}

var errTampered = errors.New("was changed by another program")

// finish makes sure that the whole manifest is on disk, and its name as well.
func (o *output) finish() error {
	crc := crc64.New(crcTable)
	_, err := io.Copy(crc, io.NewSectionReader(o.manifest, 0, o.length))
	if err == nil && crc.Sum64() != o.crc {
		err = activity.NonRetryable(fmt.Errorf("%s %w", Quote(o.manifest.Name()), errTampered))
	}
	return errors.Join(err, o.manifest.Sync(), o.manifest.Close(), o.disk.syncDir(filepath.Dir(o.manifest.Name())))
}

// close ignores errors, because finish has reported them.
func (o *output) close() {
	o.manifest.Close()
	o.sums.Close()
}
