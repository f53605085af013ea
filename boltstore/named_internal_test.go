package boltstore

import (
	"os"
	"path/filepath"
	"testing"
)

// Given an open file, when its name is removed, changed or given to another file, then both
// ways to check report that the path no longer names it.
func TestUnnamed_RemovedOrReplaced(t *testing.T) {
	for what, test := range map[string]struct {
		act  func(path string) error
		want bool
	}{
		"nothing": {func(string) error { return nil }, false},
		"removed": {os.Remove, true},
		"moved":   {func(path string) error { return os.Rename(path, path+"2") }, true},
		"replaced": {func(path string) error {
			if err := os.Rename(path, path+"2"); err != nil {
				return err
			}
			return os.WriteFile(path, nil, 0o600)
		}, true},
		"a second name": {func(path string) error { return os.Link(path, path+"2") }, false},
		"a link instead": {func(path string) error {
			if err := os.Rename(path, path+"2"); err != nil {
				return err
			}
			return os.Symlink(path+"2", path)
		}, false},
	} {
		t.Run(what, func(t *testing.T) {
			if !canReplace && test.want {
				t.Skip("this system keeps the name of an open file")
			}
			path := filepath.Join(t.TempDir(), "a file")
			file, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if err := test.act(path); err != nil {
				t.Skip(err)
			}
			for how, unnamed := range map[string]func(string, *os.File) bool{"unnamed": unnamed, "statUnnamed": statUnnamed} {
				if got := unnamed(path, file); got != test.want {
					t.Errorf("%s: %t, want %t", how, got, test.want)
				}
			}
		})
	}
}
