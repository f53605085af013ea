//go:build linux || darwin

package boltstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"go.etcd.io/bbolt"
)

// These tests damage sound files, and hide some of the damage behind correct checksums. Open
// must refuse such a file, or all methods must work on it. bbolt can kill its process, so a
// child opens the files.

var (
	fuzzFiles = flag.Int("fuzz.files", 15, "the number of files that TestFuzz_ForgedFiles forges")
	fuzzSeed  = flag.Uint64("fuzz.seed", 0, "the seed of TestFuzz_ForgedFiles; if 0, a random one")
)

// fuzzVariable is the environment variable with the seed, the number of the first file, and
// the number of files.
const fuzzVariable = "BOLTSTORE_TEST_FUZZ"

// Given forged files, when they are opened, then Open refuses them, or all methods work on them.
func TestFuzz_ForgedFiles(t *testing.T) {
	seed := *fuzzSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-fuzz.seed %d", seed)
	folder := t.TempDir()
	forged, last := 0, ""
	opened := map[string]int{} // by the kind of damage
	defer func() {
		if t.Failed() {
			kept := filepath.Join(os.TempDir(), fmt.Sprintf("boltstore forged %d.db", seed))
			t.Logf("the last file, %q, is kept as %s (error %v)", last, kept, os.WriteFile(kept, read(t, lastForged(folder)), 0o600))
		}
	}()
	for forged < *fuzzFiles && !t.Failed() {
		cmd := child(t, "fuzz", folder)
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d %d %d", fuzzVariable, seed, forged, min(1000, *fuzzFiles-forged)))
		status := live(t, cmd, func(e event) {
			switch e.What {
			case "forged":
				last = e.ID
				forged++
			case "opened":
				opened[e.ID]++
			case "failed":
				t.Errorf("%s: %s", e.ID, e.Err)
			}
		})
		if status != 0 {
			t.Fatalf("the child ended with status %#x", status)
		}
	}
	t.Logf("Open took these of %d files, by kind of damage: %v", forged, opened)
	if forged >= 100 && len(opened) < 3 {
		t.Error("Open took fewer than 3 kinds of damage, so the forger is too coarse")
	}
}

// lastForged returns the path of a copy of the last file, made before it was opened.
func lastForged(folder string) string { return filepath.Join(folder, "last") }

func init() {
	children["fuzz"] = func(folder string) error {
		var seed uint64
		var first, n int
		if _, err := fmt.Sscan(os.Getenv(fuzzVariable), &seed, &first, &n); err != nil {
			return err
		}
		sound, err := soundFiles(folder)
		if err != nil {
			return err
		}
		for i := first; i < first+n; i++ {
			from := sound[i%len(sound)]
			f := &forger{
				Rand:     rand.New(rand.NewPCG(seed, uint64(i))),
				content:  slices.Clone(from.content),
				pageSize: from.pageSize,
			}
			kind := f.forge()
			id := fmt.Sprintf("%d, %s, %s", i, from.name, kind)
			path := filepath.Join(folder, "forged")
			if err := errors.Join(os.WriteFile(lastForged(folder), f.content, 0o600), os.WriteFile(path, f.content, 0o600)); err != nil {
				return err
			}
			tell(event{What: "forged", ID: id})
			opened, err := exercise(path, from.stored, from.last, f.complete)
			if err != nil {
				tell(event{What: "failed", ID: id, Err: err.Error()})
				return nil
			}
			if opened {
				tell(event{What: "opened", ID: kind})
			}
		}
		return nil
	}
}

// Given a forged meta page without a freelist, whose tree begins beyond the file, when the
// file is opened, then Open refuses it. bbolt would search for free pages in a goroutine,
// whose panic cannot be recovered.
func TestFuzz_MetaPageWithoutFreelist(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f := &forger{content: read(t, path), pageSize: os.Getpagesize()}
	m := f.chosen()
	order.PutUint64(m[pageHeader+16:], 1<<30)
	order.PutUint64(m[pageHeader+32:], 1<<64-1)
	f.sealMeta(m)
	if err := os.WriteFile(path, f.content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := child(t, "open", path).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "without a freelist") || strings.Contains(string(out), "panic") {
		t.Errorf("the child ended with %v: %.500s", err, out)
	}
}

// A soundFile is the file that a forger starts from. Each ID was always saved with the same
// content.
type soundFile struct {
	name     string
	pageSize int
	content  []byte
	stored   map[string]activity.Checkpoint // checkpoints that were ever stored, by ID
	last     []string                       // IDs stored after each of the last two commits
}

func soundFiles(folder string) ([]soundFile, error) {
	details := func(size int) []byte {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(i * 7)
		}
		return b
	}
	var many []activity.Checkpoint
	for i := range 400 {
		many = append(many, checkpoint(fmt.Sprintf("%sactivity %03d", strings.Repeat("long ", i%20), i), details(i%90)))
	}
	small := checkpoint("small", details(20))
	var all []soundFile
	for _, s := range []struct {
		name     string
		pageSize int
		batch    []activity.Checkpoint
		gone     int // number of deleted checkpoints, from the beginning of batch
	}{
		{"empty", os.Getpagesize(), nil, 0},
		{"inline", os.Getpagesize(), []activity.Checkpoint{small}, 0},
		{"many", os.Getpagesize(), many, 0},
		{"many in small pages", 1024, many, 0}, // a tree of several levels
		{"large", os.Getpagesize(), []activity.Checkpoint{checkpoint("large", details(3<<20)), small}, 0},
		{"after deletes", os.Getpagesize(), many, 380},
	} {
		path := filepath.Join(folder, s.name)
		_ = os.Remove(path)
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: s.pageSize})
		if err != nil {
			return nil, err
		}
		if err := db.Close(); err != nil {
			return nil, err
		}
		store, err := boltstore.Open(path, nil)
		if err != nil {
			return nil, err
		}
		sound := soundFile{name: s.name, pageSize: s.pageSize, stored: map[string]activity.Checkpoint{}}
		var gone []string
		for i, c := range s.batch {
			sound.stored[c.ID] = c
			if i < s.gone {
				gone = append(gone, c.ID)
			} else {
				sound.last = append(sound.last, c.ID)
			}
		}
		ctx := context.Background()
		err = store.Save(ctx, s.batch)
		for ids := range slices.Chunk(gone, 60) {
			err = errors.Join(err, store.Delete(ctx, ids))
		}
		for range 2 { // a file with one damaged meta page is read as of the commit before
			err = errors.Join(err, store.Save(ctx, s.batch[max(0, len(s.batch)-1):]))
		}
		if err := errors.Join(err, store.Close()); err != nil {
			return nil, err
		}
		if sound.content, err = os.ReadFile(path); err != nil {
			return nil, err
		}
		all = append(all, sound)
	}
	return all, nil
}

// exercise opens the file, reads it, and saves, replaces and deletes checkpoints. Every
// checkpoint that it reads must be as stored or be named as damaged. If complete is set, every
// ID of last must be there.
func exercise(path string, stored map[string]activity.Checkpoint, last []string, complete bool) (opened bool, err error) {
	ctx := context.Background()
	s, err := boltstore.Open(path, nil)
	if err != nil {
		if !strings.Contains(err.Error(), "left as it is") {
			return false, fmt.Errorf("Open failed, although verify did not: %w", err)
		}
		return false, nil
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	reopen := func(step string) error {
		if err := s.Close(); err != nil {
			return err
		}
		again, err := boltstore.Open(path, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		s = again
		return nil
	}
	check := func(want int) ([]string, error) {
		ids, named, err := readAll(s, stored)
		if err == nil && want >= 0 && len(ids)+len(named) != want {
			err = fmt.Errorf("All yielded %d checkpoints and named %d as damaged, want %d together", len(ids), len(named), want)
		}
		return append(ids, named...), err
	}

	want := -1 // any number
	if complete {
		want = len(last)
	}
	ids, err := check(want)
	if err != nil {
		return true, err
	}
	for _, id := range last {
		c, found, err := s.Load(ctx, id)
		switch {
		case err != nil && !damagedRecord.MatchString(err.Error()):
			return true, err
		case err == nil && !found && complete:
			return true, fmt.Errorf("Load did not find %q", id)
		case found && !reflect.DeepEqual(c, stored[id]):
			return true, fmt.Errorf("Load returned %q with wrong fields", id)
		}
	}
	added := []activity.Checkpoint{checkpoint("added", []byte("small")), checkpoint("added large", make([]byte, 3<<20))}
	for _, c := range added {
		if err := s.Save(ctx, []activity.Checkpoint{c}); err != nil {
			return true, err
		}
	}
	stored = maps.Clone(stored)
	for _, c := range added {
		stored[c.ID] = c
		ids = append(ids, c.ID)
	}
	if err := reopen("after two Saves"); err != nil {
		return true, err
	}
	if _, err := check(len(ids)); err != nil {
		return true, fmt.Errorf("after two Saves: %w", err)
	}
	var replaced []activity.Checkpoint
	for i := 0; i < len(ids); i += 3 {
		replaced = append(replaced, checkpoint(ids[i], nil))
	}
	if err := s.Save(ctx, replaced); err != nil {
		return true, err
	}
	third := len(ids) / 3
	for _, gone := range [][]string{ids[third : 2*third], ids} {
		if err := s.Delete(ctx, gone); err != nil {
			return true, err
		}
	}
	if err := reopen("after the Deletes"); err != nil {
		return true, err
	}
	if _, err := check(0); err != nil {
		return true, fmt.Errorf("after the Deletes: %w", err)
	}
	if err := s.Save(ctx, added); err != nil {
		return true, err
	}
	if err := reopen("at the end"); err != nil {
		return true, err
	}
	_, err = check(len(added))
	return true, err
}

var damagedRecord = regexp.MustCompile(`("(?:[^"\\]|\\.)*"): the record (?:is damaged|has version)`)

// readAll returns the IDs that All yields, and those that it names as damaged.
func readAll(s activity.Store, stored map[string]activity.Checkpoint) (ids, named []string, err error) {
	for c, err := range s.All(context.Background()) {
		if err != nil {
			for _, match := range damagedRecord.FindAllStringSubmatch(err.Error(), -1) {
				id, err := strconv.Unquote(match[1])
				if err != nil {
					return nil, nil, err
				}
				named = append(named, id)
			}
			if len(named) == 0 {
				return nil, nil, err
			}
			break
		}
		if !reflect.DeepEqual(c, stored[c.ID]) {
			return nil, nil, fmt.Errorf("All yielded %q with wrong fields", c.ID)
		}
		ids = append(ids, c.ID)
	}
	return ids, named, nil
}

// A forger damages the content of a sound file.
type forger struct {
	*rand.Rand
	content  []byte
	pageSize int
	complete bool // whether no record may be missing, because no damage is hidden behind a correct sum
}

const (
	pageHeader  = 16
	metaSum     = pageHeader + 56
	elementSize = 16
)

var order = binary.NativeEndian

// pages returns the number of pages in use.
func (f *forger) pages() int {
	n := max(order.Uint64(f.page(0)[pageHeader+40:]), order.Uint64(f.page(1)[pageHeader+40:]))
	return int(max(2, min(n, uint64(len(f.content)/f.pageSize))))
}

func (f *forger) page(id int) []byte {
	return f.content[id*f.pageSize : (id+1)*f.pageSize]
}

func (f *forger) forge() string {
	kinds := []struct {
		name string
		do   func()
	}{
		{"bit", f.bit},
		{"bytes", f.bytes},
		{"field", f.field},
		{"field, sealed", func() { f.field(); f.seal() }},
		{"two fields, sealed", func() { f.field(); f.field(); f.seal() }},
		{"bytes, sealed", func() { f.bytes(); f.seal() }},
		{"pages", f.movePage},
		{"pages, sealed", func() { f.movePage(); f.seal() }},
		{"meta", f.forgeMeta},
		{"length", f.length},
		{"value, sealed", func() { f.value(); f.seal() }},
		{"inline", f.inline},
		{"inline, sealed", func() { f.inline(); f.seal() }},
		{"branch, sealed", func() { f.branch(); f.seal() }},
	}
	for before := slices.Clone(f.content); ; {
		kind := kinds[f.IntN(len(kinds))]
		f.complete = true
		kind.do()
		if !bytes.Equal(f.content, before) {
			return kind.name
		}
	}
}

// usedPage returns the number of a random page. It prefers pages with a sound header, because
// most pages of a large record have none.
func (f *forger) usedPage() int {
	id := 0
	for range 20 {
		id = f.IntN(f.pages())
		if id < 2 || order.Uint64(f.page(id)) == uint64(id) {
			break
		}
	}
	return id
}

func (f *forger) bit() {
	p := f.page(f.usedPage())
	p[f.IntN(len(p))] ^= 1 << f.IntN(8)
}

func (f *forger) bytes() {
	p := f.page(f.usedPage())
	at := f.IntN(len(p))
	if f.IntN(2) == 0 {
		at = f.IntN(100)
	}
	for i := range min(1+f.IntN(8), len(p)-at) {
		p[at+i] = byte(f.Uint32())
	}
}

func (f *forger) number(old uint64) uint64 {
	all := []uint64{0, 1, 2, 3, old + 1, old - 1, old * 2, old ^ 1<<f.IntN(64), uint64(f.IntN(f.pages() + 2)), uint64(f.pageSize),
		0xFF, 0xFFFF, 1 << 16, 1 << 31, 1<<32 - 1, 1 << 62, 1<<63 - 1, 1<<64 - 1, f.Uint64()}
	return all[f.IntN(len(all))]
}

// set replaces the number at b, which has size bytes.
func (f *forger) set(b []byte, size int) {
	switch size {
	case 2:
		order.PutUint16(b, uint16(f.number(uint64(order.Uint16(b)))))
	case 4:
		order.PutUint32(b, uint32(f.number(uint64(order.Uint32(b)))))
	default:
		order.PutUint64(b, f.number(order.Uint64(b)))
	}
}

// field changes a number in a header or an element of a page.
func (f *forger) field() {
	id := f.usedPage()
	p := f.page(id)
	if id < 2 {
		f.metaField(p)
		return
	}
	if f.IntN(3) == 0 {
		header := []struct{ at, size int }{{0, 8}, {8, 2}, {10, 2}, {12, 4}}[f.IntN(4)]
		f.set(p[header.at:], header.size)
		return
	}
	e := pageHeader
	if count := int(order.Uint16(p[10:])); count > 0 {
		e += f.IntN(min(count, len(p)/elementSize-1)) * elementSize
	}
	if f.IntN(3) == 0 {
		f.set(p[e+8:], 8)
		return
	}
	f.set(p[e+4*f.IntN(4):], 4)
}

func (f *forger) metaField(p []byte) {
	field := []struct{ at, size int }{{0, 4}, {4, 4}, {8, 4}, {12, 4}, {16, 8}, {24, 8}, {32, 8}, {40, 8}, {48, 8}, {56, 8}}[f.IntN(10)]
	f.set(p[pageHeader+field.at:], field.size)
}

func (f *forger) movePage() {
	from, to := f.usedPage(), f.usedPage()
	a := slices.Clone(f.page(from))
	if f.IntN(2) == 0 {
		copy(f.page(from), f.page(to))
		if f.IntN(2) == 0 {
			order.PutUint64(f.page(from), uint64(from))
		}
	}
	copy(f.page(to), a)
	if f.IntN(2) == 0 {
		order.PutUint64(f.page(to), uint64(to))
	}
}

// forgeMeta changes one or both meta pages, or copies one to another place, with correct
// checksums.
func (f *forger) forgeMeta() {
	f.complete = false
	for range 1 + f.IntN(3) {
		f.metaField(f.page(f.IntN(2)))
	}
	f.sealMeta(f.page(0))
	f.sealMeta(f.page(1))
	switch f.IntN(4) {
	case 0: // one meta page has a wrong checksum
		f.page(f.IntN(2))[pageHeader+f.IntN(64)] ^= 0x10
	case 1: // a meta page at a place where bbolt searches for it
		m := slices.Clone(f.page(1)[:pageHeader+64])
		f.page(0)[pageHeader]++
		f.page(1)[pageHeader]++
		at := 1024 << f.IntN(8)
		order.PutUint32(m[pageHeader+8:], uint32([]int{at, 1024, f.pageSize}[f.IntN(3)]))
		f.sealMeta(m)
		if at+len(m) <= len(f.content) {
			copy(f.content[at:], m)
		}
	}
}

func (f *forger) sealMeta(p []byte) {
	h := fnv.New64a()
	h.Write(p[pageHeader:metaSum])
	order.PutUint64(p[metaSum:], h.Sum64())
}

func (f *forger) length() {
	if f.IntN(4) == 0 {
		f.content = append(f.content, make([]byte, f.IntN(100_000))...)
		return
	}
	f.content = f.content[:1+f.IntN(len(f.content))]
}

// chosen returns the newer meta page.
func (f *forger) chosen() []byte {
	a, b := f.page(0), f.page(1)
	if order.Uint64(b[pageHeader+48:]) > order.Uint64(a[pageHeader+48:]) {
		return b
	}
	return a
}

// bucket returns the value of the root page's first element, or nil.
func (f *forger) bucket() []byte {
	id := order.Uint64(f.chosen()[pageHeader+16:])
	if id >= uint64(f.pages()) {
		return nil
	}
	root := f.page(int(id))
	pos, keySize, valueSize := order.Uint32(root[pageHeader+4:]), order.Uint32(root[pageHeader+8:]), order.Uint32(root[pageHeader+12:])
	start := pageHeader + uint64(pos) + uint64(keySize)
	end := start + uint64(valueSize)
	if end > uint64(len(root)) || valueSize < 16 {
		return nil
	}
	return root[start:end]
}

// value changes a byte of a key or of the beginning of its value.
func (f *forger) value() {
	p := f.page(f.usedPage())
	count := int(order.Uint16(p[10:]))
	if order.Uint16(p[8:]) != 2 || count == 0 || count >= len(p)/elementSize {
		return
	}
	e := p[pageHeader+f.IntN(count)*elementSize:]
	at := uint64(order.Uint32(e[4:])) + uint64(f.IntN(1+int(order.Uint32(e[8:]))+7))
	if at < uint64(len(e)) {
		e[at] ^= 1 << f.IntN(8)
	}
}

// inline changes the bucket's header or the page in it.
func (f *forger) inline() {
	b := f.bucket()
	if b == nil {
		return
	}
	at := 2 * f.IntN(min(len(b)/2, 40))
	f.set(b[at:], []int{2, 4, 8}[f.IntN(min(3, len(b[at:])/2, 1+len(b[at:])/4))])
}

// branch inserts a branch page between another branch page and one of its children.
func (f *forger) branch() {
	id := f.usedPage()
	p := f.page(id)
	count := int(order.Uint16(p[10:]))
	if id < 2 || order.Uint16(p[8:]) != 1 || count == 0 || count >= len(p)/elementSize {
		return
	}
	e := p[pageHeader+f.IntN(count)*elementSize:]
	pos, size := order.Uint32(e), order.Uint32(e[4:])
	if uint64(pos)+uint64(size) > uint64(len(e)) || int(size) > f.pageSize-pageHeader-elementSize {
		return
	}
	key, under := slices.Clone(e[pos:pos+size]), order.Uint64(e[8:])
	at := f.pages()
	f.content = append(f.content[:at*f.pageSize:at*f.pageSize], make([]byte, f.pageSize)...)
	n := f.page(at)
	order.PutUint64(n, uint64(at))
	order.PutUint16(n[8:], 1)
	order.PutUint16(n[10:], 1)
	order.PutUint32(n[pageHeader:], elementSize)
	order.PutUint32(n[pageHeader+4:], size)
	order.PutUint64(n[pageHeader+8:], under)
	copy(n[pageHeader+elementSize:], key)
	order.PutUint64(e[8:], uint64(at))
	order.PutUint64(f.chosen()[pageHeader+40:], uint64(at+1))
}

// seal corrects the checksums of the meta pages and the sum of the bucket.
func (f *forger) seal() {
	f.complete = false
	if b := f.bucket(); len(b) >= 16 {
		var sum uint64
		if id := order.Uint64(b); id != 0 {
			f.sum(id, 0, &sum)
		} else if len(b) >= 32 {
			f.sumPage(b[16:], 0, &sum)
		}
		order.PutUint64(b[8:], sum)
	}
	f.sealMeta(f.page(0))
	f.sealMeta(f.page(1))
}

func (f *forger) sum(id uint64, depth int, sum *uint64) {
	if id < uint64(f.pages()) && depth < 5 {
		f.sumPage(f.content[id*uint64(f.pageSize):], depth, sum)
	}
}

func (f *forger) sumPage(p []byte, depth int, sum *uint64) {
	part := func(from, size uint64) []byte {
		from = min(from, uint64(len(p)))
		return p[from:min(from+size, uint64(len(p)))]
	}
	for i := range uint64(order.Uint16(p[10:])) {
		at := pageHeader + i*elementSize
		e := part(at, elementSize)
		if len(e) < elementSize {
			return
		}
		if order.Uint16(p[8:]) == 1 {
			f.sum(order.Uint64(e[8:]), depth+1, sum)
			continue
		}
		pos, keySize, valueSize := uint64(order.Uint32(e[4:])), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		h := fnv.New64a()
		h.Write(part(at+pos, keySize))
		h.Write(part(at+pos+keySize, min(valueSize, 5)))
		*sum += h.Sum64()
	}
}
