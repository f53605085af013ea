package boltstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// A power loss keeps everything that was synced, and any sectors of later writes. These tests
// record a child's system calls with strace, compute the files that a power loss between two
// calls may leave, and open them.

const sector = 512

var (
	powerLossMoments = flag.Int("powerloss.moments", 40, "the number of moments at which TestPowerLoss_AtRandom cuts the power; if 0, all")
	powerLossSeed    = flag.Uint64("powerloss.seed", 0, "the seed of TestPowerLoss_AtRandom; if 0, a random one")
)

func init() {
	children["history"] = func(path string) error {
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		for i, change := range history() {
			if err := change.apply(s); err != nil {
				return err
			}
			fmt.Println("done", i)
		}
		return s.Close()
	}
	children["failing fsync"] = func(path string) error {
		runtime.LockOSThread() // strace counts each thread's calls
		ctx := context.Background()
		s, err := boltstore.Open(path, nil)
		if err != nil {
			return err
		}
		saved := 0
		for ; err == nil; saved++ {
			err = s.Save(ctx, []activity.Checkpoint{checkpoint(fmt.Sprint(saved), nil)})
		}
		if !strings.Contains(err.Error(), "close the Store and open the file again: ") || saved != 2 {
			return fmt.Errorf("Save %d returned %w", saved, err)
		}
		if again := s.Save(ctx, []activity.Checkpoint{checkpoint("later", nil)}); again == nil || again.Error() != err.Error() {
			return fmt.Errorf("the next Save returned %w, want the same error", again)
		}
		if _, _, err := s.Load(ctx, "0"); err == nil {
			return errors.New("Load returned a checkpoint that the disk may not have")
		}
		if err := s.Close(); err != nil {
			return err
		}
		if s, err = boltstore.Open(path, nil); err != nil {
			return err
		}
		if _, found, err := s.Load(ctx, "0"); err != nil || !found {
			return fmt.Errorf("the checkpoint saved before is lost: found %v, %w", found, err)
		}
		return s.Close()
	}
}

// A change is a Save or a Delete in a history.
type change struct {
	save []activity.Checkpoint
	del  []string
}

func (c change) apply(s activity.Store) error {
	if c.save != nil {
		return s.Save(context.Background(), c.save)
	}
	return s.Delete(context.Background(), c.del)
}

func history() []change {
	random := rand.New(rand.NewPCG(1, 2))
	id := func() string { return fmt.Sprint("activity ", random.IntN(40)) }
	var changes []change
	for i := range 40 {
		var c change
		for range 1 + random.IntN(5) {
			if i%4 == 3 {
				c.del = append(c.del, id())
				continue
			}
			details := bytes.Repeat([]byte{byte(i)}, random.IntN(2000))
			if random.IntN(20) == 0 {
				details = bytes.Repeat([]byte{byte(i)}, 50_000)
			}
			c.save = append(c.save, checkpoint(id(), details))
		}
		changes = append(changes, c)
	}
	return changes
}

// strace runs one of children under strace, which writes to log. It skips the test if strace is
// missing or not permitted.
func strace(t *testing.T, log, name, path string, args ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short")
	}
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed: ", err)
	}
	if out, err := exec.Command("strace", "-o", log, "true").CombinedOutput(); err != nil {
		t.Skipf("strace is not permitted: %v: %s", err, out)
	}
	cmd := child(t, name, path)
	cmd.Args = append(append([]string{"strace", "-f", "-o", log}, args...), cmd.Path, path)
	cmd.Path, _ = exec.LookPath("strace")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Given a history of Saves and Deletes, when the power is cut at some moment, then the Store
// opens with all acknowledged changes, and with the change in progress as a whole or not at
// all.
func TestPowerLoss_AtRandom(t *testing.T) {
	path := newPath(t)
	log := filepath.Join(t.TempDir(), "strace")
	strace(t, log, "history", path, "-xx", "-s", "100000000",
		"-e", "trace=openat,close,pwrite64,write,fdatasync,fsync,ftruncate,linkat,unlinkat")

	states := []map[string]activity.Checkpoint{{}}
	for _, c := range history() {
		state := maps.Clone(states[len(states)-1])
		for _, c := range c.save {
			state[c.ID] = c
		}
		for _, id := range c.del {
			delete(state, id)
		}
		states = append(states, state)
	}

	seed := *powerLossSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-powerloss.seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	recorded := calls(t, log)
	moments := 0
	for _, call := range recorded {
		if call.syncs() {
			moments++
		}
		if call.syncs() || call.name == "write" || call.name == "linkat" {
			moments++
		}
	}
	chosen := random.Perm(moments)
	if *powerLossMoments > 0 {
		chosen = chosen[:min(*powerLossMoments, moments)]
	}
	slices.Sort(chosen)
	d := disk{files: map[int64]*file{}, names: map[string]*file{}, durableNames: map[string]*file{}}
	acknowledged, moment, cuts := 0, 0, 0
	cut := func() {
		_, isChosen := slices.BinarySearch(chosen, moment)
		moment++
		if !isChosen {
			return
		}
		for _, left := range d.afterPowerLoss(path, random) {
			cuts++
			at := newPath(t)
			if left.exists {
				if err := os.WriteFile(at, left.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, err := boltstore.Open(at, nil)
			if err != nil {
				t.Fatalf("after %d changes, %s: %v", acknowledged, left.how, err)
			}
			got := map[string]activity.Checkpoint{}
			for c, err := range s.All(t.Context()) {
				if err != nil {
					t.Fatalf("after %d changes, %s: %v", acknowledged, left.how, err)
				}
				got[c.ID] = c
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, states[acknowledged]) &&
				(acknowledged+1 == len(states) || !reflect.DeepEqual(got, states[acknowledged+1])) {
				t.Fatalf("after %d changes, %s: the Store's %d checkpoints are not the %d that were acknowledged",
					acknowledged, left.how, len(got), len(states[acknowledged]))
			}
		}
	}
	for _, call := range recorded {
		if call.syncs() {
			cut()
		}
		if d.apply(t, call) {
			acknowledged++
		}
		if call.syncs() || call.name == "write" || call.name == "linkat" {
			cut()
		}
	}
	if acknowledged != len(states)-1 {
		t.Errorf("%d of %d changes were acknowledged", acknowledged, len(states)-1)
	}
	if f := d.names[path]; f == nil || !bytes.Equal(f.with(f.pending), read(t, path)) {
		t.Error("the recorded system calls do not produce the file that the child left")
	}
	t.Logf("%d files after a loss of power, at %d of %d moments", cuts, len(chosen), moments)
}

// Given an fsync that fails, when Save returns its error, then every later call returns it,
// and the file can be opened again.
func TestPowerLoss_FailingFsync(t *testing.T) {
	// The first three calls create the file. Each Save makes one call for its pages and one
	// for its meta page.
	for _, n := range []int{6, 7} {
		t.Run(fmt.Sprint("call ", n), func(t *testing.T) {
			strace(t, os.DevNull, "failing fsync", newPath(t), "-e", "trace=fdatasync", "-e", fmt.Sprintf("inject=fdatasync:error=EIO:when=%d", n))
		})
	}
}

type call struct {
	name   string
	args   []string
	result int64
}

func (c call) syncs() bool { return c.name == "fdatasync" || c.name == "fsync" }

// number returns the ith argument, a number.
func (c call) number(i int) int64 {
	n, err := strconv.ParseInt(c.args[i], 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// text returns the ith argument, a string, which strace -xx writes as "\x61".
func (c call) text(i int) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(c.args[i], `"`), `\x`, ""))
	if err != nil {
		panic(err)
	}
	return b
}

var (
	callLine    = regexp.MustCompile(`^(\w+)\((.*)\) += (-?\d+)`)
	resumedLine = regexp.MustCompile(`^<\.\.\. \w+ resumed>(.*)`)
)

// calls reads the system calls from strace's log, in the order in which they returned.
func calls(t *testing.T, log string) []call {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []call
	unfinished := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<30)
	for lines.Scan() {
		thread, line, _ := strings.Cut(lines.Text(), " ")
		line = strings.TrimSpace(line)
		if begin, ok := strings.CutSuffix(line, " <unfinished ...>"); ok {
			unfinished[thread] = begin
			continue
		}
		if end := resumedLine.FindStringSubmatch(line); end != nil {
			line = unfinished[thread] + end[1]
		}
		if m := callLine.FindStringSubmatch(line); m != nil {
			result, err := strconv.ParseInt(m[3], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if result >= 0 {
				calls = append(calls, call{name: m[1], args: strings.Split(m[2], ", "), result: result})
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return calls
}

// A disk has files and their names. Some of both may not be durable yet.
type disk struct {
	files               map[int64]*file // open files by descriptor
	names, durableNames map[string]*file
}

type file struct {
	name    string
	durable []byte
	pending []write
}

// A write is a write of data at an offset or, if data is nil, a truncation to that offset.
type write struct {
	offset int64
	data   []byte
}

// apply applies a system call to the disk. It reports whether the call acknowledges a change.
func (d *disk) apply(t *testing.T, c call) bool {
	t.Helper()
	switch c.name {
	case "openat":
		name := string(c.text(1))
		f := d.names[name]
		if f == nil {
			f = &file{name: name}
		}
		if strings.Contains(c.args[2], "O_CREAT") {
			d.names[name] = f
		}
		d.files[c.result] = f
	case "close":
		delete(d.files, c.number(0))
	case "linkat":
		d.names[string(c.text(3))] = d.names[string(c.text(1))]
	case "unlinkat":
		delete(d.names, string(c.text(1)))
	case "write":
		if c.number(0) == 1 {
			return true
		}
		if d.files[c.number(0)] != nil {
			t.Fatalf("write to descriptor %v is not supported by this test", c.args[0])
		}
	case "pwrite64":
		f := d.files[c.number(0)]
		f.pending = append(f.pending, write{c.number(3), c.text(1)[:c.result]})
	case "ftruncate":
		f := d.files[c.number(0)]
		f.pending = append(f.pending, write{c.number(1), nil})
	case "fsync", "fdatasync":
		f := d.files[c.number(0)]
		f.durable, f.pending = f.with(f.pending), nil
		for name, g := range d.names {
			if filepath.Dir(name) == f.name {
				d.durableNames[name] = g
			}
		}
	}
	return false
}

// with returns the file's content if the given writes are on the disk as well.
func (f *file) with(writes []write) []byte {
	content := bytes.Clone(f.durable)
	reach := func(size int64) {
		content = append(content, make([]byte, max(0, size-int64(len(content))))...)
	}
	for _, w := range writes {
		if w.data == nil {
			reach(w.offset)
			content = content[:w.offset]
			continue
		}
		reach(w.offset + int64(len(w.data)))
		copy(content[w.offset:], w.data)
	}
	return content
}

type remains struct {
	how     string
	exists  bool
	content []byte
}

func (d *disk) afterPowerLoss(path string, random *rand.Rand) []remains {
	var all []remains
	if d.durableNames[path] == nil {
		all = append(all, remains{how: "the name is lost"})
	}
	f := d.names[path]
	if f == nil {
		return all
	}
	add := func(how string, writes []write) {
		all = append(all, remains{how, true, f.with(writes)})
	}
	add("un-synced writes are lost", nil)
	if len(f.pending) == 0 {
		return all
	}
	add("un-synced writes are kept", f.pending)
	for range 3 {
		var some, torn []write
		for _, w := range f.pending {
			if random.IntN(2) == 0 {
				some = append(some, w)
			}
			torn = append(torn, w.sectors(func(int64) bool { return random.IntN(2) == 0 })...)
		}
		add("some un-synced writes are kept", some)
		add("some sectors of un-synced writes are kept", torn)
	}
	i := random.IntN(len(f.pending))
	w := f.pending[i]
	half := w.sectors(func(offset int64) bool { return offset < int64(len(w.data))/2 })
	add("one write is torn", append(append(f.pending[:i:i], half...), f.pending[i+1:]...))
	return all
}

// sectors returns the sectors of w for which keep returns true, given their offset in w.
func (w write) sectors(keep func(offset int64) bool) []write {
	if w.data == nil {
		return []write{w}
	}
	var parts []write
	for offset := int64(0); offset < int64(len(w.data)); offset += sector {
		if keep(offset) {
			parts = append(parts, write{w.offset + offset, w.data[offset:min(offset+sector, int64(len(w.data)))]})
		}
	}
	return parts
}
