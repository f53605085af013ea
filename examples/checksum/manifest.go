package main

import (
	"context"
	"crypto/sha256"
	"fmt"
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
	Next   int   // index of the file to go on with
	Length int64 // of the manifest
	Bytes  int64 // hashed
	Unread int   // files that could not be read
}

// A job writes one manifest.
type job struct {
	manifest string
	trouble  trouble
	say      func(format string, args ...any) // tells the user a line
}

// write is the activity. Its input, the list of files, is the same in every
// attempt: an index into it is enough to go on from.
func (j *job) write(ctx activity.Context, files []string) (progress, error) {
	p, err := activity.Resume(ctx, progress{})
	if err != nil {
		return p, err
	}

	// An attempt that stalls is left behind, not killed: it may wake up at any
	// time, while the next one is at work. So all that touches the manifest is
	// inside Guard, which refuses an attempt that is over.
	var out *os.File
	err = activity.Guard(ctx, func() (err error) {
		out, err = openManifest(j.manifest, p.Length)
		return err
	})
	if err != nil {
		return p, err
	}
	defer out.Close()

	for p.Next < len(files) {
		file := files[p.Next]
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
			n, err := out.WriteString(line(sum, file))
			p.Length += int64(n)
			p.Bytes += size
			return err
		})
		if err != nil {
			return p, err
		}
		p.Next++
		// A stall between the write and this heartbeat does no harm: the next
		// attempt cuts the line off and writes it again.
		if err := ctx.Heartbeat(p); err != nil {
			return p, err
		}
	}
	return p, activity.Guard(ctx, out.Close)
}

// openManifest opens the manifest to go on after its first length bytes. What no
// retry can mend is NonRetryable; the rest, such as a full disk, is tried again.
func openManifest(path string, length int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return nil, activity.NonRetryable(err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < length {
		err = activity.NonRetryable(fmt.Errorf("%s has %d bytes although %d were written: somebody else has changed it", show(path), info.Size(), length))
	}
	if err == nil {
		err = os.Truncate(path, length)
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
// many directories it could not read. It leaves out the manifest itself, which
// is nil if it does not exist yet.
func list(ctx context.Context, dirs []string, manifest fs.FileInfo, say func(string, ...any)) (files []string, unread int, err error) {
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
				if info, err := d.Info(); err != nil || !os.SameFile(info, manifest) {
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
