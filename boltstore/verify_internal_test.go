package boltstore

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

// A damager changes the content of a sound file.
type damager struct {
	content  []byte
	meta     meta
	root     uint64   // root of the bucket's tree, a branch page
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
	for range 3 { // so that there are free pages
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
		t.Fatalf("the tree has %d leaf pages, want at least 3", len(d.children))
	}
	return d
}

// page returns the content from the page on.
func (d damager) page(id uint64) []byte {
	return d.content[id*d.meta.pageSize:]
}

// element returns the content from the ith element of a page on.
func (d damager) element(id uint64, i int) []byte {
	return d.page(id)[headerSize+i*elementSize:]
}

// key returns the content from the key of the ith element of a page on.
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

// Given a sound file with one change, when it is verified, then the error describes the damage.
func TestVerify_Damage(t *testing.T) {
	for _, test := range []struct {
		name, want string
		damage     func(d damager)
	}{
		{"nothing", "", func(damager) {}},
		{"record missing", "element 0 does not follow the one before", func(d damager) { d.addToCount(d.children[1], -1) }},
		{"record of another", "the records do not match their checksum", func(d damager) {
			e := d.element(d.children[1], 0)
			e[native.Uint32(e[4:])+native.Uint32(e[8:])+1]++
		}},
		{"element before its place", "element 1 does not follow the one before", func(d damager) {
			e := d.element(d.children[0], 1)
			native.PutUint32(e[4:], native.Uint32(e[4:])-1)
		}},
		{"child before its place", "element 1 does not follow the one before", func(d damager) {
			e := d.element(d.root, 1)
			native.PutUint32(e, native.Uint32(e)-1)
		}},
		{"value over the next element", "element 1 does not follow the one before", func(d damager) {
			e := d.element(d.children[0], 0)
			native.PutUint32(e[12:], native.Uint32(e[12:])+100)
		}},
		{"bucket with an unknown flag", "a bbolt file of another program", func(d damager) { d.element(d.meta.root, 0)[0] |= 2 }},
		{"key changed", "the records do not match their checksum", func(d damager) { d.key(d.children[1], d.last(d.children[1]))[5] = 'x' }},
		{"keys out of order in a page", "keys out of order", func(d damager) { d.key(d.children[0], 1)[0] = 'A' }},
		{"key twice", "keys out of order", func(d damager) { copy(d.key(d.children[0], 1), d.key(d.children[0], 0)[:5]) }},
		{"key too low for its page", "keys out of order", func(d damager) { d.key(d.children[1], 0)[0] = 'A' }},
		{"key too high for its page", "keys out of order", func(d damager) { d.key(d.children[1], d.last(d.children[1]))[0] = 'z' }},
		{"keys out of order in a branch", "keys out of order", func(d damager) { d.key(d.root, 1)[0] = 'z' }},
		{"key in a branch too low", "keys out of order", func(d damager) { d.key(d.root, 0)[0] = 'A' }},
		{"empty key", "keys out of order", func(d damager) { native.PutUint32(d.element(d.children[0], 0)[8:], 0) }},
		{"bucket among the records", "a bucket among the records", func(d damager) { native.PutUint32(d.element(d.children[0], 0), bucketElement) }},
		{"element too long", "element 0 extends beyond the page", func(d damager) { native.PutUint32(d.element(d.children[0], 0)[12:], 1<<31) }},
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
			wantDamage(t, verify(bytes.NewReader(d.content), int64(len(d.content))), test.want)
		})
	}
}

// A forgery builds a file with correct checksums. The file has an empty freelist and a bucket
// whose root is page 4.
type forgery struct {
	content []byte
	pages   int    // number of pages of the file, padded with zeros; if 0, as many as content has
	sum     uint64 // sum of the bucket's marks
}

const (
	forgedRoot     = 3
	forgedTree     = 4
	forgedPageSize = minPageSize
)

// add adds the next page, from page 4 on, and its overflow.
func (f *forgery) add(flags uint16, elements ...element) {
	id := max(len(f.content)/forgedPageSize, forgedTree)
	f.put(id, flags, elements...)
	if flags == leafPage {
		for _, e := range elements {
			f.sum += mark(e.key, nil)
		}
	}
}

func (f *forgery) put(id int, flags uint16, elements ...element) {
	p := make([]byte, headerSize+len(elements)*elementSize)
	native.PutUint64(p, uint64(id))
	native.PutUint16(p[8:], flags)
	native.PutUint16(p[10:], uint16(len(elements)))
	for i, e := range elements {
		b := p[headerSize+i*elementSize:]
		pos := uint32(len(b))
		if flags == branchPage {
			native.PutUint32(b, pos)
			native.PutUint32(b[4:], uint32(len(e.key)))
			native.PutUint64(b[8:], e.child)
		} else {
			native.PutUint32(b, e.flags)
			native.PutUint32(b[4:], pos)
			native.PutUint32(b[8:], uint32(len(e.key)))
			native.PutUint32(b[12:], uint32(len(e.page.head)))
		}
		p = append(append(p, e.key...), e.page.head...)
	}
	pages := (len(p) + forgedPageSize - 1) / forgedPageSize
	native.PutUint32(p[12:], uint32(pages-1))
	if end := (id + pages) * forgedPageSize; end > len(f.content) {
		f.content = append(f.content, make([]byte, end-len(f.content))...)
	}
	copy(f.content[id*forgedPageSize:], p)
}

// verify completes the file and verifies it.
func (f *forgery) verify() error {
	bucket := native.AppendUint64(native.AppendUint64(nil, forgedTree), f.sum)
	return f.verifyBucket(bucket)
}

func (f *forgery) verifyBucket(value []byte) error {
	f.put(firstPage, freelistPage)
	f.put(forgedRoot, leafPage, element{flags: bucketElement, key: []byte(bucketName), page: page{head: value}})
	for i := range uint64(2) {
		b := f.content[i*forgedPageSize+headerSize:]
		native.PutUint32(b, bboltMagic)
		native.PutUint32(b[4:], bboltVersion)
		native.PutUint32(b[8:], forgedPageSize)
		native.PutUint64(b[16:], forgedRoot)
		native.PutUint64(b[32:], firstPage)
		native.PutUint64(b[40:], uint64(max(f.pages, len(f.content)/forgedPageSize)))
		native.PutUint64(b[48:], 10+i)
		sealMeta(b)
	}
	return verify(zeroPadded(f.content), max(int64(f.pages)*forgedPageSize, int64(len(f.content))))
}

// A zeroPadded is the content of a file that is followed by zeros.
type zeroPadded []byte

func (z zeroPadded) ReadAt(b []byte, offset int64) (int, error) {
	clear(b)
	if offset < int64(len(z)) {
		copy(b, z[offset:])
	}
	return len(b), nil
}

// sealMeta makes the checksum of the meta page correct.
func sealMeta(b []byte) {
	sum := fnv.New64a()
	sum.Write(b[:56])
	native.PutUint64(b[56:], sum.Sum64())
}

func record(key string) element { return element{key: []byte(key)} }

func child(key string, id uint64) element { return element{key: []byte(key), child: id} }

// Given a file with a tree that bbolt never writes, when it is verified, then it is refused.
func TestVerify_ForgedTree(t *testing.T) {
	for _, test := range []struct {
		name, want string
		forge      func(f *forgery)
	}{
		{"sound", "", func(f *forgery) {
			f.add(branchPage, child("a", 5), child("c", 6))
			f.add(leafPage, record("a"), record("b"))
			f.add(leafPage, record("c"))
		}},
		{"a branch with one child", "a branch with one child", func(f *forgery) {
			f.add(branchPage, child("a", 5))
			f.add(leafPage, record("a"), record("b"))
		}},
		{"leaves of different heights", "children of different heights", func(f *forgery) {
			f.add(branchPage, child("a", 5), child("b", 6))
			f.add(leafPage, record("a"))
			f.add(branchPage, child("b", 7), child("c", 8))
			f.add(leafPage, record("b"))
			f.add(leafPage, record("c"))
		}},
		{"the longest key", "", func(f *forgery) { f.add(leafPage, record(strings.Repeat("k", bbolt.MaxKeySize))) }},
		{"a longer key", "a key of 32769 bytes", func(f *forgery) { f.add(leafPage, record(strings.Repeat("k", bbolt.MaxKeySize+1))) }},
		{"a tree too deep", "a tree too deep", func(f *forgery) {
			for id := uint64(forgedTree); id < 100; id++ {
				f.add(branchPage, child("a", id+1), child("a"+strings.Repeat(" ", int(100-id)), 200))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := forgery{}
			test.forge(&f)
			wantDamage(t, f.verify(), test.want)
		})
	}
}

// Given a file with a changed inline bucket, when it is verified, then it is refused.
func TestVerify_ForgedBucket(t *testing.T) {
	for _, test := range []struct {
		name, want string
		forge      func(value []byte) []byte
	}{
		{"sound", "", func(b []byte) []byte { return b }},
		{"id", "inline bucket with id 1", func(b []byte) []byte { b[bucketHeader]++; return b }},
		{"flags", "inline bucket with id 0, flags 0x1", func(b []byte) []byte { b[bucketHeader+8] = branchPage; return b }},
		{"overflow", "overflow 1", func(b []byte) []byte { b[bucketHeader+12]++; return b }},
		{"more elements than fit", "more elements than fit", func(b []byte) []byte { b[bucketHeader+11]++; return b }},
		{"cut short", "bucket cut short", func(b []byte) []byte { return b[:bucketHeader+headerSize-1] }},
		{"header cut short", "bucket cut short", func(b []byte) []byte { return b[:bucketHeader-1] }},
		{"followed by something", "bucket too long", func(b []byte) []byte { return append(b, 0) }},
		{"emptied", "bucket too long", func(b []byte) []byte { b[bucketHeader+10] = 0; return b }},
		{"longer than a page", "bucket too long", func(b []byte) []byte { return append(b, make([]byte, forgedPageSize)...) }},
		{"not inline, but with more", "bucket too long", func(b []byte) []byte { b[0] = forgedTree; return b }},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := forgery{}
			wantDamage(t, f.verifyBucket(test.forge(inlineBucket())), test.want)
		})
	}
}

func inlineBucket() []byte {
	inline := forgery{}
	inline.put(0, leafPage, record("a"), record("b"))
	value := native.AppendUint64(make([]byte, 8), mark([]byte("a"), nil)+mark([]byte("b"), nil))
	return append(value, inline.content[:headerSize+2*(elementSize+1)]...)
}

// Given a root page with a count of 0, when the file is verified, then it is sound only if the
// rest of the page is blank, as in a new file.
func TestVerify_EmptiedRoot(t *testing.T) {
	f := forgery{}
	if err := f.verifyBucket(inlineBucket()); err != nil {
		t.Fatal(err)
	}
	root := f.content[forgedRoot*forgedPageSize : (forgedRoot+1)*forgedPageSize]
	native.PutUint16(root[10:], 0)
	wantDamage(t, verify(bytes.NewReader(f.content), int64(len(f.content))), "empty, but not blank")
	clear(root[headerSize:])
	wantDamage(t, verify(bytes.NewReader(f.content), int64(len(f.content))), "")
}

// Given a file with holes and a page that is larger than any memory, when it is verified, then
// the page is refused without being read.
func TestVerify_LongPage(t *testing.T) {
	f := forgery{}
	f.add(leafPage, record("a"))
	native.PutUint32(f.content[forgedTree*forgedPageSize+12:], 1<<25)
	f.pages = forgedTree + 1 + 1<<25
	err := f.verify()
	wantDamage(t, err, "overflows to 33554432 pages")
}

// Given an element whose value ends more than 2 GiB behind it, when the page is verified, then
// it is refused, because bbolt cannot reach so far.
func TestVerify_Reach(t *testing.T) {
	const pages = 1 << 21
	head := make([]byte, forgedPageSize)
	native.PutUint16(head[8:], leafPage)
	native.PutUint16(head[10:], 2)
	p := parsePage(head)
	p.size = pages * forgedPageSize
	at := uint32(2 * elementSize)
	for i, size := range []uint32{1<<31 - 100, 50} {
		e := head[headerSize+i*elementSize:]
		native.PutUint32(e[4:], at-uint32(i)*elementSize)
		native.PutUint32(e[8:], 1)
		native.PutUint32(e[12:], size)
		at += 1 + size
	}
	head[headerSize+2*elementSize] = 'a'
	p.file = bytes.NewReader(append(make([]byte, 10), 'b'))
	p.offset = 10 - (headerSize + 2*elementSize + 1 + 1<<31 - 100)
	visited := 0
	visit := func(element) error { visited++; return nil }
	if _, err := p.elements(nil, nil, visit); err != nil || visited != 2 {
		t.Errorf("with a value within reach: %v", err)
	}
	native.PutUint32(head[headerSize+elementSize+12:], 100)
	_, err := p.elements(nil, nil, visit)
	wantDamage(t, err, "element 1 extends beyond the page")
}

func wantDamage(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got the error %v, want %q", err, want)
	}
}

// Given two meta pages, when readMeta chooses one, then it is the one that bbolt uses, or an
// error.
func TestReadMeta_Choice(t *testing.T) {
	const (
		pageSize = 8
		root     = 16
		freelist = 32
		pages    = 40
		txid     = 48
	)
	// The meta pages of a forgery have the transaction IDs 10 and 11.
	for _, test := range []struct {
		name    string
		forge   func(first, second []byte) // changes the pages before they are sealed
		invalid string                     // names of the pages that get a wrong checksum
		want    uint64                     // transaction ID of the chosen page
		err     string
	}{
		{name: "sound", want: 11},
		{name: "the first is newer", forge: func(first, _ []byte) { native.PutUint64(first[txid:], 12) }, want: 12},
		{name: "the newer one is invalid", invalid: "second", want: 10},
		{name: "the older one is invalid", invalid: "first", want: 11},
		{name: "both are invalid", invalid: "first, second", err: "both meta pages have a wrong checksum"},
		{name: "both are the same", forge: func(first, second []byte) { copy(first, second) }, want: 11},
		{name: "two of one transaction", forge: func(first, second []byte) {
			native.PutUint64(first[txid:], 11)
			native.PutUint64(first[root:], 5)
		}, err: "contradict each other"},
		{name: "two page sizes, the first newer", forge: func(first, second []byte) {
			native.PutUint64(first[txid:], 12)
			native.PutUint32(second[pageSize:], 4096)
		}, err: "contradict each other"},
		{name: "two page sizes, the second newer", forge: func(_, second []byte) { native.PutUint32(second[pageSize:], 4096) }, err: "contradict each other"},
		{name: "the first has no page size", forge: func(first, _ []byte) { native.PutUint32(first[pageSize:], 0) }, err: "makes no sense"},
		{name: "the second has another page size", forge: func(_, second []byte) { native.PutUint32(second[pageSize:], 4096) }, invalid: "first", err: "makes no sense"},
		{name: "pages too large", forge: func(first, _ []byte) { native.PutUint32(first[pageSize:], 1<<17) }, err: "makes no sense"},
		{name: "no pages", forge: func(_, second []byte) { native.PutUint64(second[pages:], 3) }, err: "makes no sense"},
		{name: "too many pages", forge: func(_, second []byte) { native.PutUint64(second[pages:], 1<<60) }, err: "makes no sense"},
		{name: "the highest transaction", forge: func(_, second []byte) { native.PutUint64(second[txid:], 1<<64-1) }, err: "makes no sense"},
		{name: "no transaction", forge: func(first, second []byte) { native.PutUint64(first[txid:], 0) }, invalid: "second", err: "makes no sense"},
		{name: "no freelist in the newer one", forge: func(_, second []byte) { native.PutUint64(second[freelist:], noFreelist) }, err: "without a freelist"},
		{name: "no freelist in the older one", forge: func(first, _ []byte) { native.PutUint64(first[freelist:], noFreelist) }, want: 11},
		{name: "no freelist in the only one", forge: func(first, _ []byte) { native.PutUint64(first[freelist:], noFreelist) }, invalid: "second", err: "without a freelist"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := forgery{}
			f.add(leafPage)
			if err := f.verify(); err != nil {
				t.Fatal(err)
			}
			first, second := f.content[headerSize:headerSize+metaSize], f.content[forgedPageSize+headerSize:forgedPageSize+headerSize+metaSize]
			if test.forge != nil {
				test.forge(first, second)
				sealMeta(first)
				sealMeta(second)
			}
			if strings.Contains(test.invalid, "first") {
				first[60]++
			}
			if strings.Contains(test.invalid, "second") {
				second[60]++
			}
			m, err := readMeta(bytes.NewReader(f.content), int64(len(f.content)))
			wantDamage(t, err, test.err)
			if err == nil && m.txid != test.want {
				t.Errorf("readMeta chose transaction %d, want %d", m.txid, test.want)
			}
		})
	}
}

// Given a meta page at a place before the second page, when the first meta page is invalid,
// then the file is refused. bbolt would use that page and its page size.
func TestReadMeta_FoundTooEarly(t *testing.T) {
	d := newDamager(t)
	if d.meta.pageSize <= firstSearched {
		t.Skip("there is no place before the second page")
	}
	m := bytes.Clone(d.page(1)[:headerSize+metaSize])
	d.page(0)[headerSize+60]++
	copy(d.content[firstSearched:], m)
	_, err := readMeta(bytes.NewReader(d.content), int64(len(d.content)))
	wantDamage(t, err, "makes no sense")
}

// Given random Saves and Deletes, when the file is verified after each, then it is sound.
// Small pages make a tree of many levels.
func TestVerify_Sound(t *testing.T) {
	for _, pageSize := range []int{os.Getpagesize(), minPageSize} {
		t.Run(fmt.Sprint(pageSize), func(t *testing.T) { testVerifySound(t, pageSize) })
	}
}

func testVerifySound(t *testing.T, pageSize int) {
	path := filepath.Join(t.TempDir(), "activities.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(addBucket(db), db.Close()); err != nil {
		t.Fatal(err)
	}
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
		if step/100%2 == 1 && random.IntN(3) == 0 { // delete the lowest keys, which empties neighboring pages
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
