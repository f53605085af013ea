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

// progress is what a heartbeat records: all that the next attempt needs to go
// on from here. It is encoded, so its fields are exported.
type progress struct {
	Next   int    // index of the file to go on with
	Files  uint64 // fingerprint of the files before it
	Length int64  // of the manifest
	Lines  uint64 // CRC-64 of the manifest up to there
	Bytes  int64  // hashed
	Unread int    // files that could not be read
}

// A job writes one manifest.
type job struct {
	manifest string
	files    []string
	trouble  trouble
	say      func(format string, args ...any) // tells the user a line
}

// write is the activity. The list of files is the same in every attempt, so that
// an index into it is enough to go on from. It is not the activity's input, which
// every checkpoint would hold: each run lists the files anew, and recall sees to
// it that the index found means the same.
func (j *job) write(ctx activity.Context, _ struct{}) (progress, error) {
	// What the attempt before recorded, be it in this process or in an earlier one.
	p, err := activity.Resume(ctx, progress{})
	if err != nil {
		return p, err
	}

	// An attempt that stalls is left behind, not killed: it may wake up at any
	// time, while the next one is at work. So all that touches the manifest is
	// inside Guard, which refuses an attempt that is over.
	var out *os.File
	err = activity.Guard(ctx, func() (err error) {
		out, err = openManifest(j.manifest, p)
		return err
	})
	if err != nil {
		return p, err
	}
	defer out.Close()

	for p.Next < len(j.files) {
		file := j.files[p.Next]
		p.Files = addFingerprint(p.Files, file) // before it is read, so that a change meanwhile shows
		sum, size, unread := hashFile(ctx, file)
		if ctx.Err() != nil {
			return p, context.Cause(ctx)
		}
		if err := j.trouble.strike(ctx, p.Next+1, j.say); err != nil {
			return p, err
		}
		err := activity.Guard(ctx, func() error {
			if unread != nil {
				p.Unread++
				j.say("%s", reason(unread))
				return nil
			}
			l := line(sum, file)
			p.Length += int64(len(l))
			p.Lines = crc64.Update(p.Lines, crcTable, []byte(l))
			p.Bytes += size
			_, err := out.WriteString(l)
			return err
		})
		if err != nil {
			return p, err
		}
		p.Next++
		// A stall, or the end of the process, between the write and this heartbeat
		// does no harm: the next attempt cuts the line off and writes it again.
		if err := ctx.Heartbeat(p); err != nil {
			return p, err
		}
	}
	// Success removes the checkpoint, so the manifest must be on the disk.
	return p, activity.Guard(ctx, func() error { return errors.Join(out.Sync(), out.Close()) })
}

var errChanged = errors.New("is not as it was written: somebody else has changed it")

// openManifest opens the manifest to go on after p, and cuts off what is beyond.
// What no retry can mend is NonRetryable; the rest, such as a full disk, is tried
// again.
func openManifest(path string, p progress) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return nil, activity.NonRetryable(err)
	}
	lines := crc64.New(crcTable)
	_, err = io.CopyN(lines, f, p.Length)
	if err == io.EOF || err == nil && lines.Sum64() != p.Lines {
		err = activity.NonRetryable(fmt.Errorf("%s %w", show(path), errChanged))
	}
	if err == nil {
		err = os.Truncate(path, p.Length)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
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
// the store keeps beside it.
func list(ctx context.Context, dirs []string, manifest string, say func(string, ...any)) (files []string, unread int, err error) {
	itself, _ := os.Stat(manifest) // nil if there is none yet
	own := func(path string, info fs.FileInfo) bool {
		return os.SameFile(info, itself) ||
			strings.HasPrefix(filepath.Base(path), storeFile(filepath.Base(manifest))) && sameFile(filepath.Dir(path), filepath.Dir(manifest))
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil {
			return nil, 0, err
		} else if !info.IsDir() {
			return nil, 0, fmt.Errorf("%s: not a directory", show(dir))
		}
		// The separator makes WalkDir follow a dir that is a symbolic link.
		err := filepath.WalkDir(dir+string(filepath.Separator), func(path string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
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
