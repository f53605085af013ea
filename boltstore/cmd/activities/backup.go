package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/seed-9da638b0/activity/boltstore/internal/folder"
)

// backup gives the copy its name after it is complete and synced.
func backup(_ io.Writer, _ options, args []string) error {
	file, dest := args[0], args[1]
	s, err := open(file, true, lookInside)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := free(dest); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(dest), "activities.new*")
	if err != nil {
		return reason(dest, err)
	}
	defer os.Remove(temp.Name())
	_, err = s.WriteTo(temp)
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return reason(dest, err)
	}
	if err := name(temp.Name(), dest); err != nil {
		return err
	}
	if err := folder.TrySync(dest); err != nil {
		return reason(dest, err)
	}
	return nil
}

// reason returns an error that names dest and the reason of err, and not the temporary file.
func reason(dest string, err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	if e := (*os.LinkError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", dest, err)
}

// free returns an error unless there is no file at path.
func free(path string) error {
	if path == "" {
		return errors.New("DEST is empty")
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return fmt.Errorf("%s: the file exists and is left as it is", path)
	case !errors.Is(err, fs.ErrNotExist):
		return reason(path, err)
	}
	return nil
}

// name gives a file another name that no file has. If the file system has no hard links, a file
// that gets the name at the same moment is replaced.
func name(path, dest string) error {
	if os.Link(path, dest) == nil {
		return nil
	}
	if err := free(dest); err != nil {
		return err
	}
	if err := os.Rename(path, dest); err != nil {
		return reason(dest, err)
	}
	return nil
}
