package boltstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// A damager changes the content of a sound file.
type damager struct {
	content  []byte
	meta     meta
	root     uint64   // of the bucket's tree, a branch page
	children []uint64 // leaf pages, at least three
}

func newDamager(t *testing.T) damager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "activities.db")
	s, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var batch []activity.Checkpoint
	for i := range 20 {
		batch = append(batch, activity.Checkpoint{ID: fmt.Sprintf("id %02d", i), Details: make([]byte, os.Getpagesize()/4)})
	}
	for range 3 { // to have free pages
		if err := s.Save(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d := damager{}
	if d.content, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if d.meta, err = readMeta(bytes.NewReader(d.content), int64(len(d.content))); err != nil {
		t.Fatal(err)
	}
	e := d.element(d.meta.root, 0)
	header := native.Uint32(e[4:]) + native.Uint32(e[8:])
	d.root = native.Uint64(e[header:])
	for i := range native.Uint16(d.page(d.root)[10:]) {
		d.children = append(d.children, native.Uint64(d.element(d.root, int(i))[8:]))
	}
	if len(d.children) < 3 {
		t.Fatalf("%d leaf pages", len(d.children))
	}
	return d
}

// page gives the content from that page on.
func (d damager) page(id uint64) []byte {
	return d.content[id*d.meta.pageSize:]
}

// element gives the content from that element of a page on.
func (d damager) element(id uint64, i int) []byte {
	return d.page(id)[headerSize+i*elementSize:]
}

// key gives the content from the key of that element of a page on.
func (d damager) key(id uint64, i int) []byte {
	e := d.element(id, i)
	if id == d.root {
		return e[native.Uint32(e):]
	}
	return e[native.Uint32(e[4:]):]
}

func (d damager) addToCount(id uint64, n int) {
	count := d.page(id)[10:]
	native.PutUint16(count, uint16(int(native.Uint16(count))+n))
}

func (d damager) last(id uint64) int {
	return int(native.Uint16(d.page(id)[10:])) - 1
}

func TestVerify(t *testing.T) {
	for _, test := range []struct {
		name, want string
		damage     func(d damager)
	}{
		{"nothing", "", func(damager) {}},
		{"record missing", "the records are not those that were written", func(d damager) { d.addToCount(d.children[1], -1) }},
		{"key changed", "the records are not those that were written", func(d damager) { d.key(d.children[1], d.last(d.children[1]))[5] = 'x' }},
		{"keys out of order in a page", "keys out of order", func(d damager) { d.key(d.children[0], 1)[0] = 'A' }},
		{"key twice", "keys out of order", func(d damager) { copy(d.key(d.children[0], 1), d.key(d.children[0], 0)[:5]) }},
		{"key too low for its page", "keys out of order", func(d damager) { d.key(d.children[1], 0)[0] = 'A' }},
		{"key too high for its page", "keys out of order", func(d damager) { d.key(d.children[1], d.last(d.children[1]))[0] = 'z' }},
		{"keys out of order in a branch", "keys out of order", func(d damager) { d.key(d.root, 1)[0] = 'z' }},
		{"key in a branch too low", "keys out of order", func(d damager) { d.key(d.root, 0)[0] = 'A' }},
		{"empty key", "keys out of order", func(d damager) { native.PutUint32(d.element(d.children[0], 0)[8:], 0) }},
		{"bucket among the records", "a bucket among the records", func(d damager) { native.PutUint32(d.element(d.children[0], 0), bucketElement) }},
		{"element too long", "element 0 reaches beyond it", func(d damager) { native.PutUint32(d.element(d.children[0], 0)[12:], 1<<31) }},
		{"too many elements", "more elements than fit", func(d damager) {
			clear(d.page(d.root)[headerSize:d.meta.pageSize])
			d.addToCount(d.root, 1<<15)
		}},
		{"empty leaf", "empty", func(d damager) { d.addToCount(d.children[0], -1-d.last(d.children[0])) }},
		{"empty branch", "empty", func(d damager) { d.addToCount(d.root, -1-d.last(d.root)) }},
		{"loop", "in use twice", func(d damager) { native.PutUint64(d.element(d.root, 0)[8:], d.root) }},
		{"child beyond the end", "there is no such page", func(d damager) { native.PutUint64(d.element(d.root, 0)[8:], 1<<62) }},
		{"meta page for a child", "there is no such page", func(d damager) { native.PutUint64(d.element(d.root, 0)[8:], 1) }},
		{"another page", "says that it is page", func(d damager) { d.page(d.children[0])[0]++ }},
		{"overflow", "damaged: page ", func(d damager) { native.PutUint32(d.page(d.children[0])[12:], 1<<32-1) }},
		{"flags", "flags 0x4 in a tree", func(d damager) { native.PutUint16(d.page(d.children[0])[8:], 4) }},
		{"freelist flags", "flags 0x2 in the freelist", func(d damager) { native.PutUint16(d.page(d.meta.freelist)[8:], leafPage) }},
		{"free page in use", "in use twice", func(d damager) { native.PutUint64(d.page(d.meta.freelist)[headerSize:], d.children[0]) }},
		{"free page lost", "neither in use nor free", func(d damager) { d.addToCount(d.meta.freelist, -1) }},
		{"freelist too long", "more elements than fit", func(d damager) {
			native.PutUint16(d.page(d.meta.freelist)[10:], 0xFFFF)
			native.PutUint64(d.page(d.meta.freelist)[headerSize:], 1<<62)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDamager(t)
			test.damage(d)
			err := verify(bytes.NewReader(d.content), int64(len(d.content)))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

// A tree deeper than any that bbolt makes is not followed.
func TestVerifyDepth(t *testing.T) {
	const pageSize, pages = minPageSize, 100
	content := make([]byte, pages*pageSize)
	for id := uint64(firstPage); id < pages; id++ {
		p := content[id*pageSize:]
		native.PutUint64(p, id)
		native.PutUint16(p[8:], branchPage)
		native.PutUint16(p[10:], 1)
		native.PutUint32(p[headerSize:], elementSize)
		native.PutUint32(p[headerSize+4:], 1)
		native.PutUint64(p[headerSize+8:], id+1)
		p[headerSize+elementSize] = 'k'
	}
	v := verifier{file: bytes.NewReader(content), pageSize: pageSize, seen: make([]bool, pages)}
	err := v.tree(firstPage, nil, nil, 0, nil)
	if err == nil || !strings.Contains(err.Error(), "a tree too deep") {
		t.Errorf("the error is %v", err)
	}
}

// The newest sound meta page counts.
func TestVerifyMeta(t *testing.T) {
	d := newDamager(t)
	newest := d.meta.txid % 2
	d.page(newest)[headerSize+60]++
	m, err := readMeta(bytes.NewReader(d.content), int64(len(d.content)))
	if err != nil || m.txid != d.meta.txid-1 {
		t.Errorf("with one bad meta page: transaction %d, not %d: %v", m.txid, d.meta.txid-1, err)
	}
	d.page(1 - newest)[headerSize+60]++
	if m, err := readMeta(bytes.NewReader(d.content), int64(len(d.content))); err == nil {
		t.Errorf("with two bad meta pages: %+v", m)
	}
}

// What bbolt writes is sound, whatever is written in whatever order.
func TestVerifySound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "activities.db")
	s, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.db.NoSync = true
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	id := func() string {
		return strings.Repeat("i", 1+random.IntN(100)) + fmt.Sprint(random.IntN(1000))
	}
	for step := range 400 {
		many := 1 + random.IntN(1+step%40)
		var batch []activity.Checkpoint
		var ids []string
		for range many {
			size := random.IntN(300)
			if random.IntN(20) == 0 {
				size = random.IntN(20_000)
			}
			batch = append(batch, activity.Checkpoint{ID: id(), Details: make([]byte, size)})
			ids = append(ids, id())
		}
		if random.IntN(3) == 0 { // those with the lowest keys go, and neighbours with them
			for c, err := range s.All(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if len(ids) > 10*many {
					break
				}
				ids = append(ids, c.ID)
			}
		}
		if random.IntN(2) == 0 {
			batch = batch[:1]
		}
		if err := s.Save(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(bytes.NewReader(content), int64(len(content))); err != nil {
			t.Fatalf("after step %d: %v", step, err)
		}
	}
}
