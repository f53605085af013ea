package activitytest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A disk is what a power loss may leave of an FS's files. Its model is that of ALICE (Pillai et al., "All File
// Systems Are Not Created Equal", OSDI 2014): each call makes one or several small changes, and a power
// loss keeps any of those that were not synced, in any combination.
type disk struct {
	w       *World
	root    *os.Root
	names   map[string]*node // as the processes see them; nil for a name that does not exist
	durable map[string]*node // as they are after a power loss that loses all changes; each node has one name
	changes []*change        // not synced, in order
}

// A node is a file, whatever its name is.
type node struct {
	mode    fs.FileMode
	size    int64  // as the processes see it
	durable []byte // what is left after a power loss that loses all changes
}

// A change is a change that a power loss may lose.
type change struct {
	number uint64 // in the order in which the World's files changed
	node   *node
	name   bool   // whether its name changes, and not its content
	dir    string // the directory in which the name changes
	text   string
	apply  func()
}

func newDisk(w *World, root *os.Root) *disk {
	d := &disk{w: w, root: root}
	d.forget()
	return d
}

// forget drops what is recorded: what is on the real disk is durable.
func (d *disk) forget() {
	d.names, d.durable, d.changes = map[string]*node{}, map[string]*node{}, nil
}

func (d *disk) add(c change, format string, args ...any) {
	c.number = d.w.changes.Add(1)
	c.text = fmt.Sprintf(format, args...)
	d.changes = append(d.changes, &c)
}

// load makes a file known before its name or content changes for the first time. What it has then is durable.
func (d *disk) load(name string) error {
	name = filepath.Clean(name)
	if _, known := d.names[name]; known {
		return nil
	}
	info, err := d.root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.names[name] = nil
		return nil
	case err != nil || !info.Mode().IsRegular():
		return err
	}
	content, err := d.root.ReadFile(name)
	if err != nil {
		return err
	}
	n := &node{info.Mode().Perm(), int64(len(content)), content}
	d.names[name], d.durable[name] = n, n
	return nil
}

// opened notes that a file was opened, and returns its node, or nil for a directory.
func (d *disk) opened(name string, flag int, info fs.FileInfo) *node {
	if info.IsDir() {
		return nil
	}
	clean := filepath.Clean(name)
	n := d.names[clean]
	if n == nil {
		n = &node{mode: info.Mode().Perm()}
		d.named(n, clean, "the name of the new file %s", name)
	}
	if flag&os.O_TRUNC != 0 && n.size > 0 {
		d.truncated(n, name, 0)
	}
	return n
}

// named notes that a node has a new name.
func (d *disk) named(n *node, name, format string, args ...any) {
	d.names[name] = n
	d.add(change{node: n, name: true, dir: filepath.Dir(name), apply: func() {
		maps.DeleteFunc(d.durable, func(_ string, m *node) bool { return m == n })
		d.durable[name] = n
	}}, format, args...)
}

func (d *disk) renamed(from, to string) {
	if n := d.names[filepath.Clean(from)]; filepath.Clean(from) != filepath.Clean(to) {
		d.names[filepath.Clean(from)] = nil
		d.named(n, filepath.Clean(to), "the new name of %s, %s", from, to)
	}
}

func (d *disk) removed(name string) {
	clean := filepath.Clean(name)
	n := d.names[clean]
	if n == nil { // a directory
		return
	}
	d.names[clean] = nil
	d.add(change{node: n, name: true, dir: filepath.Dir(clean), apply: func() {
		maps.DeleteFunc(d.durable, func(_ string, m *node) bool { return m == n })
	}}, "the removal of %s", name)
}

// wrote notes a write. Each half may be lost, because a write may cross a block's end. If the file grows, it
// does so half by half, and its new size may be kept without the data. Data beyond the size is lost.
func (d *disk) wrote(n *node, name string, off int64, p []byte) {
	p = slices.Clone(p)
	half := len(p) / 2
	for _, part := range [][]byte{p[:half], p[half:]} {
		if len(part) == 0 {
			continue
		}
		at, end := off, off+int64(len(part))
		if end > n.size {
			n.size = end
			d.add(change{node: n, apply: func() { n.grow(end) }}, "the growth of %s to %d bytes", name, end)
		}
		d.add(change{node: n, apply: func() {
			if at < int64(len(n.durable)) {
				copy(n.durable[at:], part)
			}
		}}, "%q at byte %d of %s", clip(string(part), 20), at, name)
		off = end
	}
}

func (d *disk) truncated(n *node, name string, size int64) {
	n.size = size
	d.add(change{node: n, apply: func() {
		n.durable = n.durable[:min(size, int64(len(n.durable)))]
		n.grow(size)
	}}, "the truncation of %s to %d bytes", name, size)
}

// grow makes what is durable at least this long.
func (n *node) grow(size int64) {
	if more := size - int64(len(n.durable)); more > 0 {
		n.durable = append(n.durable, make([]byte, more)...)
	}
}

// sync makes the content of a file durable.
func (d *disk) sync(n *node) { d.settle(func(c *change) bool { return !c.name && c.node == n }) }

// syncDir makes the names in a directory durable. If one of them has replaced an older name of its file, that
// is gone as well, in any directory.
func (d *disk) syncDir(name string) {
	dir := filepath.Clean(name)
	last := map[*node]int{}
	for i, c := range d.changes {
		if c.name && c.dir == dir {
			last[c.node] = i
		}
	}
	before := map[*change]bool{}
	for i, c := range d.changes {
		before[c] = c.name && i < last[c.node]
	}
	d.settle(func(c *change) bool { return c.name && c.dir == dir || before[c] })
}

func (d *disk) settle(is func(*change) bool) {
	d.changes = slices.DeleteFunc(d.changes, func(c *change) bool {
		if is(c) {
			c.apply()
			return true
		}
		return false
	})
}

// A state is what a power loss keeps of the changes that were not synced. It is one of states(n), where n is
// their number.
type state int

// states returns the number of states that are tried: they keep the first changes, from none to all but the
// last; all but one; exactly one. That is 0 if n is 0, because then a power loss is a crash.
func states(n int) int {
	if n == 2 { // then the one that is kept is the one that is not lost
		return 3
	}
	return max(3*n-2, 0)
}

// keeps reports whether change i of n is kept.
func (s state) keeps(i, n int) bool {
	switch s := int(s); {
	case s < n:
		return i < s
	case s < 2*n-1: // n-1 states
		return i != s-n
	default: // n-1 states
		return i == s-(2*n-1)+1
	}
}

// lose makes the changes of disks that a power loss keeps, and describes the others.
func lose(disks []*disk, s state) (lost []string) {
	var all []*change
	for _, d := range disks {
		all = append(all, d.changes...)
		d.changes = nil
	}
	slices.SortFunc(all, func(a, b *change) int { return cmp.Compare(a.number, b.number) })
	n := len(all)
	if most := states(n); most > 0 {
		s %= state(most) // another run may have other changes
	}
	for i, c := range all {
		if s.keeps(i, n) {
			c.apply()
		} else {
			lost = append(lost, c.text)
		}
	}
	return lost
}

// restore writes what is durable to the real files.
func (d *disk) restore() error {
	var errs []error
	for name := range d.names {
		n := d.durable[name]
		d.names[name] = n
		if n == nil {
			if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		n.size = int64(len(n.durable))
		if got, err := d.root.ReadFile(name); err == nil && bytes.Equal(got, n.durable) {
			continue
		}
		_ = d.root.Remove(name) // it may be read-only
		errs = append(errs, d.root.MkdirAll(filepath.Dir(name), 0o777), d.root.WriteFile(name, n.durable, n.mode), d.root.Chmod(name, n.mode))
	}
	return errors.Join(errs...)
}

// losses describes what power losses have lost.
func losses(lost []string) string {
	if len(lost) == 0 {
		return "the power loss loses nothing"
	}
	return "the power loss loses " + strings.Join(ends(lost, "%d more"), "; ")
}

// maxStates is the number of states that are tried at one place.
const maxStates = 40

// statesOf returns the states of n changes that are tried. The first one loses all of them.
func statesOf(n int, rng *rand.Rand) []state {
	all := make([]state, states(n))
	for i := range all {
		all[i] = state(i)
	}
	if len(all) <= maxStates {
		return all
	}
	return append(all[:1:1], spread(rng, all[1:], maxStates-1)...)
}
