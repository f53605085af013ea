package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/seed-9da638b0/activity"
)

// CheckpointFile returns the name under which the progress of an unfinished
// manifest is kept beside it.
func CheckpointFile(manifest string) string { return manifest + ".checkpoint" }

// SumsFile returns the name of the file that keeps the sums of the files that are done
// until the manifest is finished.
func SumsFile(manifest string) string { return CheckpointFile(manifest) + ".sums" }

// GoSource returns the directory of the Go installation's source: something to hash
// that everybody has.
func GoSource() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("cannot find Go's own source, name a directory: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(root)), "src"), nil
}

// List returns the regular files under in.Dirs, always in the same order, and the
// number of directories that it could not read. It leaves out the manifest, and the
// files whose names begin with that of the checkpoint file. It calls alive for each
// file, and returns its error.
func List(alive func() error, in Job, say func(string, ...any)) (files []string, unread int, err error) {
	itself, _ := os.Stat(in.Manifest) // nil if there is none yet
	own := func(path string, info fs.FileInfo) bool {
		return os.SameFile(info, itself) ||
			strings.HasPrefix(filepath.Base(path), CheckpointFile(filepath.Base(in.Manifest))) && sameFile(filepath.Dir(path), filepath.Dir(in.Manifest))
	}
	for _, dir := range in.Dirs {
		if info, err := os.Stat(dir); err != nil {
			return nil, 0, activity.NonRetryable(err)
		} else if !info.IsDir() {
			return nil, 0, activity.NonRetryable(fmt.Errorf("%s: not a directory", Quote(dir)))
		}
		// The separator makes WalkDir follow a dir that is a symbolic link.
		err := filepath.WalkDir(dir+string(filepath.Separator), func(path string, d fs.DirEntry, err error) error {
			if err := alive(); err != nil {
				return err
			}
			if err != nil {
				unread++
				say("%s", Reason(err))
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

// sumFile hashes a file. If that cannot be read, the sum says so, beside the error.
func sumFile(ctx activity.Context, path string) (sum, error) {
	s, before := sum{Size: -1}, state(path) // before it is read, so that a change meanwhile shows
	hash, size, err := hashFile(ctx, path)
	if err == nil {
		s.Size = size
		copy(s.Hash[:], hash)
	}
	s.Check = s.check(path, before)
	return s, err
}

func hashFile(ctx activity.Context, path string) (hash []byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, activity.Reader(ctx, f)) // so that a large file is no stall
	return h.Sum(nil), size, err
}

// line returns a file's line in the manifest, in sha256sum's format. If the name
// has to be escaped, the line begins with a backslash.
func line(sum []byte, path string) string {
	path = filepath.ToSlash(path)
	if path == "-" {
		path = "./-" // because sha256sum -c reads its standard input for -
	}
	mark, name := "", escape.Replace(path)
	if name != path {
		mark = `\`
	}
	return fmt.Sprintf("%s%x  %s\n", mark, sum, name)
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)

// Reason returns err on one line, with the file that it is about.
func Reason(err error) string {
	var e *fs.PathError
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: %v", Quote(e.Path), e.Err)
	}
	return err.Error()
}

// Quote quotes a name that would confuse a terminal.
func Quote(path string) string {
	if quoted := fmt.Sprintf("%q", path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
