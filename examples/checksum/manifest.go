package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/seed-9da638b0/activity"
)

// A job is the activity's input: what it takes to write one manifest anywhere, in
// this process or in a worker on a machine that has the same file system.
type job struct {
	Manifest string
	Dirs     []string
}

// progress is what a heartbeat records: all that the next attempt needs to go
// on from here. It is encoded, so its fields are exported.
type progress struct {
	Next   int    // index of the file to go on with
	Files  uint64 // fingerprint of the files before it
	Length int64  // of the manifest
	Lines  uint64 // CRC-64 of the manifest up to there
	Bytes  int64  // hashed
	Unread int    // files that could not be read

	// For people. In the next attempt they may be others.
	Total      int    // files
	File       string // to go on with, quoted if need be
	UnreadDirs int
}

// in says where among files p is.
func (p progress) in(files []string) progress {
	p.Total, p.File = len(files), ""
	if p.Next < len(files) {
		p.File = show(files[p.Next])
	}
	return p
}

// add counts a line, of a file of that size.
func (p *progress) add(line []byte, size int64) {
	p.Length += int64(len(line))
	p.Lines = crc64.Update(p.Lines, crcTable, line)
	p.Bytes += size
}

// A writer writes manifests.
type writer struct {
	trouble trouble
	say     func(format string, args ...any) // tells the user a line
}

// write is the activity. The list of files is not recorded, which every checkpoint
// would hold: each attempt lists them anew, and sees to it that the index found
// means the same.
func (w *writer) write(ctx activity.Context, in job) (progress, error) {
	// What the attempt before recorded, be it in this process or in an earlier one.
	p, err := activity.Resume(ctx, progress{})
	if err != nil {
		return p, err
	}
	alive := func() error { return ctx.Heartbeat() } // to list a large tree is no stall
	files, unread, err := list(alive, in.Dirs, in.Manifest, w.say)
	if err != nil {
		return p, err
	}
	if p, err = p.ifSame(files, alive, w.say); err != nil {
		return p, err
	}
	p.UnreadDirs = unread
	return w.writeFiles(ctx, in.Manifest, files, p)
}

func (w *writer) writeFiles(ctx activity.Context, manifest string, files []string, p progress) (progress, error) {
	p = p.in(files)
	// An attempt that stalls is left behind, not killed: it may wake up at any
	// time, while the next one is at work. So all that touches the manifest is
	// inside Guard, which refuses an attempt that is over.
	var out *os.File
	err := activity.Guard(ctx, func() (err error) {
		out, err = openManifest(manifest, p)
		if errors.Is(err, errChanged) && ctx.Info().Attempt == 1 { // since an earlier run
			w.say("%v; starting over", err)
			p = progress{UnreadDirs: p.UnreadDirs}.in(files)
			out, err = openManifest(manifest, p)
		}
		return err
	})
	if err != nil {
		return p, err
	}
	defer out.Close()

	for p.Next < len(files) {
		file := files[p.Next]
		p.Files = addFingerprint(p.Files, file) // before it is read, so that a change meanwhile shows
		sum, size, unread := hashFile(ctx, file)
		if ctx.Err() != nil {
			return p, context.Cause(ctx)
		}
		if err := w.trouble.strike(ctx, p.Next+1, w.say); err != nil {
			return p, err
		}
		err := activity.Guard(ctx, func() error {
			if unread != nil {
				p.Unread++
				w.say("%s", reason(unread))
				return nil
			}
			l := []byte(line(sum, file))
			// Not appended: on a cluster, where Guard knows of this process only, a
			// worker that was frozen may write some lines before it hears that its
			// attempt is over. At their places they are those that are there already.
			_, err := out.WriteAt(l, p.Length)
			p.add(l, size)
			return err
		})
		if err != nil {
			return p, err
		}
		p.Next++
		p = p.in(files)
		// A stall, or the end of the process, between the write and this heartbeat
		// does no harm: the next attempt cuts the line off and writes it again.
		if err := ctx.Heartbeat(p); err != nil {
			return p, err
		}
	}
	// Success removes the checkpoint, so the manifest must be on the disk, and whole.
	return p, activity.Guard(ctx, func() error {
		return errors.Join(verify(out, p), out.Sync(), out.Close())
	})
}

var errChanged = errors.New("is not as it was written: somebody else has changed it")

// openManifest opens the manifest to go on after p, and cuts off what is beyond.
// What no retry can mend is NonRetryable; the rest, such as a full disk, is tried
// again.
func openManifest(path string, p progress) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, activity.NonRetryable(err)
	}
	if err = verify(f, p); err == nil {
		err = f.Truncate(p.Length)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// verify reads what p says was written.
func verify(f *os.File, p progress) error {
	lines := crc64.New(crcTable)
	_, err := io.Copy(lines, io.NewSectionReader(f, 0, p.Length))
	if err == nil && lines.Sum64() != p.Lines { // which it is not if it is too short, either
		err = activity.NonRetryable(fmt.Errorf("%s %w", show(f.Name()), errChanged))
	}
	return err
}

func hashFile(ctx activity.Context, path string) (sum []byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, reader{ctx, f})
	return h.Sum(nil), size, err
}

// A reader sends a heartbeat without details before each Read, so that a large
// file is not taken for a stall, and stops when the attempt is over.
type reader struct {
	ctx activity.Context
	r   io.Reader
}

func (r reader) Read(b []byte) (int, error) {
	if err := r.ctx.Heartbeat(); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}

// line is a file's line in the manifest, in sha256sum's format: if the name has
// to be escaped, the line begins with a backslash.
func line(sum []byte, path string) string {
	path = filepath.ToSlash(path)
	if path == "-" {
		path = "./-" // sha256sum -c takes - for its standard input
	}
	mark, name := "", escape.Replace(path)
	if name != path {
		mark = `\`
	}
	return fmt.Sprintf("%s%x  %s\n", mark, sum, name)
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)

// list returns the regular files under dirs, always in the same order, and how
// many directories it could not read. It leaves out the manifest itself, and what
// the store keeps beside it. It calls alive all the time, and stops at its error.
func list(alive func() error, dirs []string, manifest string, say func(string, ...any)) (files []string, unread int, err error) {
	itself, _ := os.Stat(manifest) // nil if there is none yet
	own := func(path string, info fs.FileInfo) bool {
		return os.SameFile(info, itself) ||
			strings.HasPrefix(filepath.Base(path), storeFile(filepath.Base(manifest))) && sameFile(filepath.Dir(path), filepath.Dir(manifest))
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil {
			return nil, 0, activity.NonRetryable(err)
		} else if !info.IsDir() {
			return nil, 0, activity.NonRetryable(fmt.Errorf("%s: not a directory", show(dir)))
		}
		// The separator makes WalkDir follow a dir that is a symbolic link.
		err := filepath.WalkDir(dir+string(filepath.Separator), func(path string, d fs.DirEntry, err error) error {
			if err := alive(); err != nil {
				return err
			}
			if err != nil {
				unread++
				say("%s", reason(err))
			} else if d.Type().IsRegular() {
				if info, err := d.Info(); err != nil || !own(path, info) {
					files = append(files, path)
				}
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return files, unread, nil
}

func sameFile(path, other string) bool {
	a, err := os.Stat(path)
	b, err2 := os.Stat(other)
	return err == nil && err2 == nil && os.SameFile(a, b)
}
