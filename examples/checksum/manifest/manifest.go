// Package manifest has an activity that writes SHA-256 manifests, as sha256sum -c
// accepts them. Command checksum runs it in its own process, and command ontemporal
// in the workers of a Temporal cluster.
package manifest

import (
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"

	"github.com/seed-9da638b0/activity"
)

// A Job is the activity's input. It has everything that a process needs to write
// the manifest, so that a worker on another machine with the same file system may
// do it.
type Job struct {
	Manifest string
	Dirs     []string
}

// Check refuses a manifest that is a directory, a device or the like.
func (in Job) Check() error {
	if info, err := os.Stat(in.Manifest); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file, so it cannot be the manifest", Quote(in.Manifest))
	}
	return nil
}

// Progress is what a heartbeat records: everything that the next attempt needs to
// continue. Its fields are exported because it is encoded.
type Progress struct {
	Next   int    // index of the first file that is not done
	Files  uint64 // fingerprint of the files before Next
	Length int64  // length of the manifest
	Lines  uint64 // CRC-64 of the manifest's first Length bytes
	Bytes  int64  // number of bytes hashed
	Unread int    // number of files that could not be read

	// For people. The next attempt may find others.
	Total      int    // number of files
	File       string // name of the file at Next, quoted if need be
	UnreadDirs int    // number of directories that could not be read
}

// in completes p, a place in files, with what people want to know.
func (p Progress) in(files []string) Progress {
	p.Total, p.File = len(files), ""
	if p.Next < len(files) {
		p.File = Quote(files[p.Next])
	}
	return p
}

// add counts a line, which is about a file of that size.
func (p *Progress) add(line []byte, size int64) {
	p.Length += int64(len(line))
	p.Lines = crc64.Update(p.Lines, crcTable, line)
	p.Bytes += size
}

// String returns the place at which the work is.
func (p Progress) String() string {
	switch {
	case p == Progress{}:
		return "the start"
	case p.Next == p.Total:
		return "the end"
	}
	return fmt.Sprintf("file %d of %d, %s", p.Next+1, p.Total, p.File)
}

// A Writer writes manifests.
type Writer struct {
	Say     func(format string, args ...any) // prints a line for the user
	Trouble Trouble                          // what is to go wrong, to see the recovery
}

// Write is the activity's function. It does not record the list of files, because
// every checkpoint would hold it. Instead, each attempt lists the files again, and
// checks that the recorded index still means the same.
func (w *Writer) Write(ctx activity.Context, in Job) (Progress, error) {
	// The progress of the previous attempt, whether in this process or another one.
	p, err := activity.Resume(ctx, Progress{})
	if err != nil {
		return p, err
	}
	alive := func() error { return ctx.Heartbeat() } // listing a large tree is not a stall
	files, unread, err := List(alive, in, w.Say)
	if err != nil {
		return p, err
	}
	if p, err = p.ifSame(files, alive, w.Say); err != nil {
		return p, err
	}
	p.UnreadDirs = unread
	return w.writeFiles(ctx, in.Manifest, files, p)
}

func (w *Writer) writeFiles(ctx activity.Context, manifest string, files []string, p Progress) (Progress, error) {
	p = p.in(files)
	// A function whose attempt has timed out is left behind, not killed. It may wake
	// up at any time, while the next attempt is running. So every access to the
	// manifest is inside Guard, which refuses an attempt that is over.
	var out *os.File
	err := activity.Guard(ctx, func() (err error) {
		out, err = open(manifest, p)
		if errors.Is(err, errChanged) && ctx.Info().Attempt == 1 { // since an earlier execution
			w.Say("%v; starting over", err)
			p = Progress{UnreadDirs: p.UnreadDirs}.in(files)
			out, err = open(manifest, p)
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
		if unread != nil && (ctx.Err() != nil || errors.Is(unread, activity.ErrShutdown)) {
			return p, unread // it is not about the file
		}
		if err := w.Trouble.strike(ctx, p.Next+1, w.Say); err != nil {
			return p, err
		}
		err := activity.Guard(ctx, func() error {
			if unread != nil {
				p.Unread++
				w.Say("%s", Reason(unread))
				return nil
			}
			l := []byte(line(sum, file))
			// Idempotent, which appending would not be. On a cluster, Guard knows of
			// this process only: a worker that was frozen may write some lines before
			// it learns that its attempt is over. They are in their places already.
			_, err := out.WriteAt(l, p.Length)
			p.add(l, size)
			return err
		})
		if err != nil {
			return p, err
		}
		p.Next++
		p = p.in(files)
		// If the attempt or the process ends between the write and this heartbeat,
		// the next attempt cuts the line off and writes it again.
		if err := ctx.Heartbeat(p); err != nil {
			return p, err
		}
	}
	// Success removes the checkpoint, so the whole manifest must be on disk before.
	return p, activity.Guard(ctx, func() error {
		return errors.Join(verify(out, p), out.Sync(), out.Close())
	})
}

var errChanged = errors.New("was changed by another program")

// open opens the manifest to continue after p, and cuts off everything beyond. An
// error that no retry can mend is NonRetryable. Others, such as a full disk, are
// retried.
func open(path string, p Progress) (*os.File, error) {
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

// verify reads the part of the manifest that p says was written. If that is shorter
// or differs, the error is errChanged.
func verify(f *os.File, p Progress) error {
	lines := crc64.New(crcTable)
	_, err := io.Copy(lines, io.NewSectionReader(f, 0, p.Length))
	if err == nil && lines.Sum64() != p.Lines {
		err = activity.NonRetryable(fmt.Errorf("%s %w", Quote(f.Name()), errChanged))
	}
	return err
}

// Check returns p if the files and the manifest are still those that p was recorded
// of. Otherwise it says so and returns the zero Progress, which is to start over.
func (p Progress) Check(manifest string, files []string, say func(string, ...any)) (Progress, error) {
	if p.Next == 0 {
		return p, nil
	}
	p, err := p.ifSame(files, func() error { return nil }, say)
	if p.Next == 0 || err != nil {
		return p, err
	}
	f, err := open(manifest, p)
	if errors.Is(err, errChanged) {
		say("%v; starting over", err)
		return Progress{}, nil
	}
	if err != nil {
		return p, err
	}
	return p.in(files), f.Close()
}

// ifSame is Check without the manifest.
func (p Progress) ifSame(files []string, alive func() error, say func(string, ...any)) (Progress, error) {
	if p.Next <= len(files) {
		sum, err := fingerprint(files[:p.Next], alive)
		if err != nil || sum == p.Files {
			return p, err
		}
	}
	say("the first %d files are not those of the previous run, or have changed; starting over", p.Next)
	return Progress{}, nil
}
