// Package manifest has an activity that writes SHA-256 manifests, as sha256sum -c
// accepts them. Command checksum runs it in its own process, and command ontemporal
// in the workers of a Temporal cluster.
package manifest

import (
	"errors"
	"fmt"
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

// A Result is what a finished manifest has.
type Result struct {
	Files      int   // number of files in the manifest
	Bytes      int64 // number of bytes in these files
	Unread     int   // number of files that could not be read
	UnreadDirs int   // number of directories that could not be read
}

// Place returns the place at which the work is: the first of the files that is not
// done. A caller that has no list of the files gets no name.
func Place(p activity.RangeProgress, files []string) string {
	switch {
	case p.To == 0:
		return "the start"
	case p.Next >= p.To:
		return "the end"
	}
	place := fmt.Sprintf("file %d of %d", p.Next+1, p.To)
	if p.Next < len(files) {
		place += ", " + Quote(files[p.Next])
	}
	if n := len(p.Done); n > 0 {
		place += fmt.Sprintf(" (%d after it are done)", n)
	}
	return place
}

// A Writer writes manifests.
type Writer struct {
	Workers int                              // number of files that are hashed at once; if zero, one
	Say     func(format string, args ...any) // prints a line for the user
	Trouble Trouble                          // what is to go wrong, to see the recovery
	disk    disk                             // of the manifest; if nil, the real one
}

// Write is the activity's function. A heartbeat records which files are done, by their
// numbers. It does not record the list of files, because every checkpoint would hold
// it. Instead, each attempt lists the files again, and checks that the recorded
// numbers still mean the same.
func (w *Writer) Write(ctx activity.Context, in Job) (Result, error) {
	alive := func() error { return ctx.Heartbeat() } // listing a large tree is not a stall
	files, unread, err := List(alive, in, w.Say)
	if err != nil {
		return Result{}, err
	}
	result, err := w.writeFiles(ctx, in.Manifest, files)
	result.UnreadDirs = unread
	return result, err
}

func (w *Writer) writeFiles(ctx activity.Context, manifest string, files []string) (Result, error) {
	disk := w.disk
	if disk == nil {
		disk = osDisk{}
	}
	// The progress of the previous attempt, whether in this process or another one.
	done, err := activity.Resume(ctx, activity.RangeProgress{})
	if err != nil {
		return Result{}, err
	}
	sums, err := recall(disk, manifest, files, done, func() error { return ctx.Heartbeat() })
	if errors.Is(err, ErrChanged) {
		w.Say("%v; starting over", err)
		ctx, done, sums = fresh{ctx}, activity.RangeProgress{}, map[int]sum{}
	} else if err != nil {
		return Result{}, err
	}
	// A function whose attempt has timed out is left behind, not killed. It may wake
	// up at any time, while the next attempt is running. So it writes only inside
	// Guard, which refuses an attempt that is over.
	var out *output
	err = activity.Guard(ctx, func() (err error) {
		out, err = open(disk, manifest, files, sums)
		return err
	})
	if err != nil {
		return Result{}, err
	}
	defer out.close()

	to := max(len(files), done.To) // Range refuses a list that has become shorter, so its end has numbers without a file
	err = activity.RangeParallel(ctx, 0, to, max(w.Workers, 1), func(ctx activity.Context, i int) error {
		if i >= len(files) {
			return nil
		}
		s, unread := sumFile(ctx, files[i])
		if err := w.Trouble.strike(ctx, i+1, w.Say); err != nil {
			return err
		}
		// If unread only says that the attempt is over or that the runtime drains, Guard
		// refuses. If the attempt or the process ends between this write and the heartbeat
		// that Range sends next, the next attempt writes the same to the same place.
		return activity.Guard(ctx, func() error {
			if unread != nil {
				w.Say("%s", Reason(unread))
			}
			return out.add(i, s)
		})
	})
	if err != nil {
		return Result{}, err
	}
	// Success removes the checkpoint, so the whole manifest must be on disk before.
	return out.result, activity.Guard(ctx, out.finish)
}

// fresh is a Context without recorded details, so that a Range begins at the start.
type fresh struct{ activity.Context }

func (fresh) HeartbeatDetails(...any) (bool, error) { return false, nil }
