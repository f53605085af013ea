// Snippets checks the Go code in the repository's Markdown files.
//
//	snippets REPOSITORY MODULE
//
// A block marked go that is a whole file is written to a directory of its own in
// MODULE, to be built there. Any other must stand, up to white space, in a
// tracked Go file, such as a test or an example.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	wholeFile = regexp.MustCompile(`\A(\s*//.*\n|\s*\n)*package `)
	testFile  = regexp.MustCompile(`(?m)^func (Test|Example|Benchmark|Fuzz)`)
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("snippets: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: snippets REPOSITORY MODULE")
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(repository, module string) error {
	code, err := tracked(repository, "*.go", ":!.ci", ":!**/testdata/**")
	if err != nil {
		return err
	}
	for name, content := range code {
		code[name] = normalize(content)
	}
	texts, err := tracked(repository, "*.md", ":!**/testdata/**")
	if err != nil {
		return err
	}
	var errs []error
	whole, quoted := 0, 0
	for name, content := range texts {
		blocks, err := goBlocks(content)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		for _, b := range blocks {
			switch {
			case wholeFile.MatchString(b.text):
				whole++
				dir := fmt.Sprintf("%s-line-%d", strings.ReplaceAll(name, "/", "-"), b.line)
				errs = append(errs, write(filepath.Join(module, dir), b.text))
			case stands(normalize(b.text), code):
				quoted++
			default:
				errs = append(errs, fmt.Errorf("%s:%d: this code is no whole file, and stands in no tracked Go file:\n%s", name, b.line, b.text))
			}
		}
	}
	fmt.Printf("%d whole files to build, %d quotations found\n", whole, quoted)
	return errors.Join(errs...)
}

type block struct {
	line int // of its first line of code
	text string
}

// goBlocks returns the fenced blocks that are marked as Go.
func goBlocks(markdown string) ([]block, error) {
	var blocks []block
	var text strings.Builder
	open, language := 0, "" // the fence's line; 0: outside
	for i, line := range strings.Split(markdown, "\n") {
		mark, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case !fence && open > 0:
			text.WriteString(line + "\n")
		case fence && open == 0:
			open, language = i+1, strings.TrimSpace(mark)
		case fence:
			if language == "go" {
				blocks = append(blocks, block{open + 1, text.String()})
			}
			text.Reset()
			open = 0
		}
	}
	if open > 0 {
		return blocks, fmt.Errorf("the block that opens in line %d is not closed", open)
	}
	return blocks, nil
}

// normalize makes all white space single spaces, with one at either end, so that
// a name is found only as a whole.
func normalize(s string) string {
	return " " + strings.Join(strings.Fields(s), " ") + " "
}

func stands(text string, code map[string]string) bool {
	for _, content := range code {
		if strings.TrimSpace(text) != "" && strings.Contains(content, text) {
			return true
		}
	}
	return false
}

func write(dir, text string) error {
	name := "snippet.go"
	if testFile.MatchString(text) {
		name = "snippet_test.go"
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666)
}

// tracked returns the tracked files that match the patterns, by their names.
func tracked(repository string, patterns ...string) (map[string]string, error) {
	cmd := exec.Command("git", append([]string{"ls-files", "--"}, patterns...)...)
	cmd.Dir = repository
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("git ls-files: %w", err)
	}
	files := map[string]string{}
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSuffix(name, "\n")
		content, err := os.ReadFile(filepath.Join(repository, name))
		if err != nil {
			return nil, err
		}
		files[name] = string(content)
	}
	return files, nil
}
