// Stranger sees the libraries of this repository as a user's go command will.
//
//	stranger REPOSITORY DIRECTORY
//
// It packs the tracked files of each library into DIRECTORY/proxy, a module
// proxy, as if they were tagged, and writes DIRECTORY/module, which requires
// each of them without a replace and imports all of their public packages. What
// does not build there, no user can build.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const version = "v0.1.0" // what the nested modules require of each other

func main() {
	log.SetFlags(0)
	log.SetPrefix("stranger: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: stranger REPOSITORY DIRECTORY")
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(repository, out string) error {
	goMods, err := lines(repository, "git", "ls-files", "--", "go.mod", "*/go.mod")
	if err != nil {
		return err
	}
	var requires, imports strings.Builder
	for _, goMod := range goMods {
		if !library(path.Dir(goMod)) {
			continue
		}
		dir := filepath.Join(repository, filepath.Dir(goMod))
		mod, err := publish(dir, filepath.Join(out, "proxy"))
		if err != nil {
			return fmt.Errorf("%s: %w", goMod, err)
		}
		fmt.Fprintf(&requires, "require %s %s\n", mod.Path, mod.Version)
		packages, err := lines(dir, "go", "list", "-f", `{{if and .GoFiles (ne .Name "main")}}{{.ImportPath}}{{end}}`, "./...")
		if err != nil {
			return err
		}
		for _, p := range packages {
			if !slices.Contains(strings.Split(p, "/"), "internal") {
				fmt.Fprintf(&imports, "import _ %q\n", p)
				fmt.Println(p)
			}
		}
	}
	dir := filepath.Join(out, "module")
	if err := write(filepath.Join(dir, "go.mod"), "module stranger\n\ngo 1.26.0\n\n"+requires.String()); err != nil {
		return err
	}
	return write(filepath.Join(dir, "main.go"), "package main\n\n"+imports.String()+"\nfunc main() {}\n")
}

// library says whether users import the module in that directory.
func library(dir string) bool {
	elements := strings.Split(dir, "/")
	switch elements[0] {
	case ".ci", "bench", "examples":
		return false
	}
	if slices.Contains(elements, "testdata") {
		return false
	}
	switch path.Base(dir) {
	case "servertest", "browsertest":
		return false
	}
	return true
}

// publish puts the module in dir on the proxy.
func publish(dir, proxy string) (module.Version, error) {
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return module.Version{}, err
	}
	mod := module.Version{Path: modfile.ModulePath(goMod), Version: version}
	names, err := lines(dir, "git", "ls-files")
	if err != nil {
		return mod, err
	}
	var files []zip.File
	for _, name := range names {
		files = append(files, file{dir, name})
	}
	var packed bytes.Buffer
	if err := zip.Create(&packed, mod, files); err != nil {
		return mod, err
	}
	base := filepath.Join(proxy, mod.Path, "@v")
	for name, content := range map[string]string{
		"list":            version + "\n",
		version + ".info": fmt.Sprintf(`{"Version": %q}`, version),
		version + ".mod":  string(goMod),
		version + ".zip":  packed.String(),
	} {
		if err := write(filepath.Join(base, name), content); err != nil {
			return mod, err
		}
	}
	return mod, nil
}

// A file is a zip.File: a file of a module, by its slash-separated name there.
type file struct{ dir, name string }

func (f file) path() string                 { return filepath.Join(f.dir, filepath.FromSlash(f.name)) }
func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(f.path()) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(f.path()) }

func write(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o666)
}

// lines runs a command in dir and returns the lines it prints.
func lines(dir, name string, args ...string) ([]string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, dir, err)
	}
	return strings.Split(strings.Trim(string(out), "\n"), "\n"), nil
}
