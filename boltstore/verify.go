package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
)

// bbolt maps its file and trusts it. Damage causes a panic, a fault, an endless loop or a wrong
// result. So verify reads a file before bbolt does. The layout of the file is defined in
// go.etcd.io/bbolt/internal/common.
const (
	headerSize   = 16 // header of a page: id, flags, count, overflow
	metaSize     = 64
	elementSize  = 16
	bucketHeader = 16 // root page or 0, sequence
	firstPage    = 2  // first page after the two meta pages
	fewestPages  = 4  // two meta pages, a freelist and a root

	bboltMagic   = 0xED0CDAED
	bboltVersion = 2
	noFreelist   = ^uint64(0)

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketElement = 0x01

	// bbolt searches for the second meta page at these powers of two.
	firstSearched = 1 << 10
	lastSearched  = 1 << 24

	minPageSize = 1 << 10
	maxPageSize = 1 << 16 // largest page size of any system; bbolt panics if 65,535 keys fit in a page
	maxFileSize = 1 << 48
	maxTxid     = 3 << 62 // far from an overflow, after which bbolt would use the older meta page
	maxDepth    = 64
	maxReach    = 1<<31 - 1 // longest distance from an element to the end of its value, common.MaxAllocSize
)

var native = binary.NativeEndian

// bucketNames lists the buckets that a Store's file may have. The sequence number of each is the
// sum of the marks of its keys and values.
var bucketNames = []string{bucketName, inputsName}

type meta struct {
	pageSize uint64
	root     uint64
	freelist uint64
	pages    uint64 // number of pages; bbolt ignores the rest of the file
	txid     uint64
	invalid  error // reason why bbolt does not use this meta page, or nil
}

// verify returns an error unless the file is a sound file of a Store. In such a file, every page
// is either used once or free, every key is where a search looks for it, and no record is missing
// or added. verify does not check the fields of records, which are checked when they are read.
func verify(file io.ReaderAt, size int64) error {
	m, err := readMeta(file, size)
	if err != nil {
		return err
	}
	if m.pages > uint64(size)/m.pageSize {
		return fmt.Errorf("truncated: %d bytes are missing", m.pages*m.pageSize-uint64(size))
	}
	v := verifier{file: file, pageSize: m.pageSize, seen: make([]bool, m.pages)}
	if err := v.root(m.root); err != nil {
		return err
	}
	if err := v.freelist(m.freelist); err != nil {
		return err
	}
	for id, seen := range v.seen[firstPage:] {
		if !seen {
			return damaged(uint64(id)+firstPage, "neither in use nor free")
		}
	}
	return nil
}

func damaged(page uint64, format string, args ...any) error {
	return fmt.Errorf("damaged: page %d: %s", page, fmt.Sprintf(format, args...))
}

// readMeta returns the meta page that bbolt will use. Of two valid ones, that is the one with
// the higher transaction ID or, if these are equal, the first. bbolt chooses by no other
// fields. So if those are impossible, readMeta returns an error and does not fall back to the
// other meta page.
func readMeta(file io.ReaderAt, size int64) (meta, error) {
	first, err := metaAt(file, 0)
	if err != nil {
		return meta{}, err
	}
	var second meta
	if first.invalid == nil {
		if err := first.checkPageSize(); err != nil {
			return meta{}, err
		}
		second, err = metaAt(file, int64(first.pageSize))
	} else {
		second, err = findSecondMeta(file, size)
	}
	if err != nil {
		return meta{}, err
	}
	chosen := first
	switch {
	case first.invalid != nil && second.invalid != nil:
		return meta{}, first.invalid
	case first.invalid != nil:
		chosen = second
	case second.invalid != nil:
		// chosen is already the first.
	case first.pageSize != second.pageSize, first.txid == second.txid && first != second:
		return meta{}, errors.New("damaged: the meta pages contradict each other")
	case second.txid > first.txid:
		chosen = second
	}
	switch {
	case chosen.pages < fewestPages, chosen.pages > maxFileSize/chosen.pageSize, chosen.txid == 0, chosen.txid > maxTxid:
		return meta{}, errNonsense
	case chosen.freelist == noFreelist:
		return meta{}, errors.New("a bbolt file without a freelist, which no Store wrote")
	}
	return chosen, nil
}

var errNonsense = errors.New("damaged: a meta page makes no sense")

// findSecondMeta finds the second meta page of a file whose first one is invalid. Like bbolt, it
// uses the first valid one that it finds, which has the page size.
func findSecondMeta(file io.ReaderAt, size int64) (meta, error) {
	for offset := int64(firstSearched); offset <= lastSearched && offset < size-firstSearched; offset *= 2 {
		m, err := metaAt(file, offset)
		if err != nil {
			return meta{}, err
		}
		if m.invalid != nil {
			continue
		}
		if m.pageSize != uint64(offset) {
			return meta{}, errNonsense
		}
		return m, m.checkPageSize()
	}
	return meta{invalid: errors.New("no second meta page was found")}, nil
}

func (m meta) checkPageSize() error {
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || bits.OnesCount64(m.pageSize) != 1 {
		return errNonsense
	}
	return nil
}

func metaAt(file io.ReaderAt, offset int64) (meta, error) {
	b := make([]byte, headerSize+metaSize)
	if _, err := file.ReadAt(b, offset); err != nil && err != io.EOF {
		return meta{}, err
	}
	b = b[headerSize:]
	m := meta{
		pageSize: uint64(native.Uint32(b[8:])),
		root:     native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]),
		pages:    native.Uint64(b[40:]),
		txid:     native.Uint64(b[48:]),
	}
	sum := fnv.New64a()
	sum.Write(b[:56])
	switch {
	case native.Uint32(b) != bboltMagic:
		m.invalid = errors.New("not a bbolt file, or damaged at its beginning")
	case native.Uint32(b[4:]) != bboltVersion:
		m.invalid = fmt.Errorf("a bbolt file of version %d, not %d", native.Uint32(b[4:]), bboltVersion)
	case native.Uint64(b[56:]) != sum.Sum64():
		m.invalid = errors.New("damaged: both meta pages have a wrong checksum")
	}
	return m, nil
}

type verifier struct {
	file     io.ReaderAt
	pageSize uint64
	seen     []bool // whether a page is used or free, by page number
}

// A page is a page with the pages to which it overflows, or the page in an inline bucket.
type page struct {
	id       uint64
	flags    uint16
	count    uint64
	overflow uint64
	size     uint64      // number of bytes, including the header and the overflow
	head     []byte      // first bytes of the page, as far as they are in memory
	file     io.ReaderAt // source of the other bytes
	offset   int64       // position of the page in file
}

func parsePage(head []byte) page {
	return page{
		id:       native.Uint64(head),
		flags:    native.Uint16(head[8:]),
		count:    uint64(native.Uint16(head[10:])),
		overflow: uint64(native.Uint32(head[12:])),
		size:     uint64(len(head)),
		head:     head,
	}
}

// bytes returns size bytes of the page. The caller must check that they are inside the page.
func (p page) bytes(from, size uint64) ([]byte, error) {
	if end := from + size; end <= uint64(len(p.head)) {
		return p.head[from:end:end], nil
	}
	b := make([]byte, size)
	if _, err := p.file.ReadAt(b, p.offset+int64(from)); err != nil {
		return nil, fmt.Errorf("page %d: %w", p.id, err)
	}
	return b, nil
}

// take reads a page and marks it as used. It returns an error if the page is already used. It
// does not keep the overflow in memory, because a forged file can be larger than the memory.
func (v *verifier) take(id uint64) (page, error) {
	if err := v.use(id); err != nil {
		return page{}, err
	}
	offset := int64(id * v.pageSize)
	head := make([]byte, v.pageSize)
	if _, err := v.file.ReadAt(head, offset); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	p := parsePage(head)
	p.size, p.file, p.offset = (1+p.overflow)*v.pageSize, v.file, offset
	if p.id != id {
		return page{}, damaged(id, "says that it is page %d", p.id)
	}
	for next := id + 1; next <= id+p.overflow; next++ {
		if err := v.use(next); err != nil {
			return page{}, err
		}
	}
	return p, nil
}

// readRest reads the overflow of p, whose content ends at end, because bbolt would fault if the
// disk cannot read it. The overflow may have one page too many, as older versions of bbolt wrote.
func (v *verifier) readRest(p page, end uint64) error {
	if p.overflow > end/v.pageSize {
		return damaged(p.id, "overflows to %d pages", p.overflow)
	}
	var b []byte
	for at := v.pageSize; at < p.size; at += uint64(len(b)) {
		var err error
		if b, err = p.bytes(at, min(p.size-at, 1<<18)); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) use(id uint64) error {
	switch {
	case id < firstPage || id >= uint64(len(v.seen)):
		return damaged(id, "there is no such page")
	case v.seen[id]:
		return damaged(id, "in use twice")
	}
	v.seen[id] = true
	return nil
}

// root reads the tree of buckets. It has only a Store's buckets or, if the creation of the file
// was interrupted, none.
func (v *verifier) root(id uint64) error {
	_, err := v.tree(id, nil, nil, 0, func(e element) error {
		name := string(e.key)
		switch {
		case e.flags == bucketElement && slices.Contains(bucketNames, name):
			return v.bucket(id, e)
		case e.flags == bucketElement && strings.HasPrefix(name, bucketPrefix):
			return fmt.Errorf("a Store of another version: %q; this program reads %q", name, bucketName)
		}
		return fmt.Errorf("a bbolt file of another program: it has the key %q", name)
	})
	return err
}

func (v *verifier) bucket(parent uint64, bucket element) error {
	if bucket.valueSize < bucketHeader {
		return damaged(parent, "bucket cut short")
	}
	if bucket.valueSize > v.pageSize { // an inline bucket has at most a quarter of a page
		return damaged(parent, "bucket too long")
	}
	value, err := bucket.value(bucket.valueSize)
	if err != nil {
		return err
	}
	var sum uint64
	add := func(e element) error {
		if e.flags != 0 {
			return damaged(parent, "a bucket among the records")
		}
		record, err := e.value(min(markSize, e.valueSize))
		sum += mark(e.key, record)
		return err
	}
	id, written := native.Uint64(value), native.Uint64(value[8:])
	switch {
	case id == 0:
		err = v.inline(parent, value[bucketHeader:], add)
	case len(value) > bucketHeader:
		err = damaged(parent, "bucket too long")
	default:
		_, err = v.tree(id, nil, nil, 0, add)
	}
	if err == nil && sum != written {
		err = errors.New("damaged: the records do not match their checksum")
	}
	return err
}

// inline reads the page inside an inline bucket. Its id must be 0: bbolt would free the page with
// any other id when the bucket grows.
func (v *verifier) inline(parent uint64, data []byte, visit func(element) error) error {
	if len(data) < headerSize {
		return damaged(parent, "bucket cut short")
	}
	p := parsePage(data)
	if p.id != 0 || p.flags != leafPage || p.overflow != 0 {
		return damaged(parent, "inline bucket with id %d, flags %#x, overflow %d", p.id, p.flags, p.overflow)
	}
	p.id = parent // errors name the page around it
	used, err := p.elements(nil, nil, visit)
	if err == nil && used != p.size {
		err = damaged(parent, "bucket too long")
	}
	return err
}

// tree visits the elements of the tree under a page and returns the tree's height. Its first key
// must equal low, because bbolt uses that key to find the page in its parent when it writes. All
// keys must be less than high. If low or high is nil, there is no such bound. All leaves must
// have the same depth, because bbolt merges neighbors and expects them to be of the same kind.
func (v *verifier) tree(id uint64, low, high []byte, depth int, visit func(element) error) (height int, err error) {
	p, err := v.take(id)
	switch {
	case err != nil:
		return 0, err
	case p.flags == leafPage && p.count == 0 && depth > 0, p.flags == branchPage && p.count == 0:
		return 0, damaged(id, "empty")
	case p.flags == leafPage && p.count == 0 && slices.ContainsFunc(p.head[headerSize:], func(b byte) bool { return b != 0 }):
		return 0, damaged(id, "empty, but not blank") // the page has content, so its count is damaged
	case p.flags == leafPage:
		end, err := p.elements(low, high, visit)
		if err != nil {
			return 0, err
		}
		return 0, v.readRest(p, end)
	case p.flags != branchPage:
		return 0, damaged(id, "flags %#x in a tree", p.flags)
	case p.count == 1: // bbolt expects each page to have a neighbor to merge with
		return 0, damaged(id, "a branch with one child")
	case depth == maxDepth:
		return 0, damaged(id, "a tree too deep")
	}
	var children []uint64
	var keys [][]byte
	end, err := p.elements(low, high, func(e element) error {
		children, keys = append(children, e.child), append(keys, e.key)
		return nil
	})
	if err == nil {
		err = v.readRest(p, end)
	}
	if err != nil {
		return 0, err
	}
	keys = append(keys, high)
	for i, child := range children {
		h, err := v.tree(child, keys[i], keys[i+1], depth+1, visit)
		switch {
		case err != nil:
			return 0, err
		case i > 0 && h != height:
			return 0, damaged(id, "children of different heights")
		}
		height = h
	}
	return 1 + height, nil
}

// An element is an element of a branch or leaf page. A branch's elements have a child, and a
// leaf's elements have flags and a value.
type element struct {
	key       []byte
	child     uint64
	flags     uint32
	valueSize uint64
	page      page
	at        uint64 // position of the value in page
}

// value returns the first size bytes of the value.
func (e element) value(size uint64) ([]byte, error) {
	return e.page.bytes(e.at, size)
}

// elements visits the elements of a branch or a leaf, and returns the end of the last one. Each
// must directly follow the one before, as bbolt writes them. Otherwise, overlapping elements
// could fill the disk when bbolt writes the page again.
func (p page) elements(low, high []byte, visit func(element) error) (end uint64, err error) {
	end = headerSize + p.count*elementSize
	if end > p.size {
		return 0, damaged(p.id, "more elements than fit")
	}
	all, err := p.bytes(headerSize, p.count*elementSize)
	if err != nil {
		return 0, err
	}
	var last []byte
	for i := range p.count {
		b := all[i*elementSize:]
		e := element{page: p}
		var pos, keySize uint64 // pos is relative to the element
		if p.flags == branchPage {
			pos, keySize, e.child = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:])), native.Uint64(b[8:])
		} else {
			e.flags, pos = native.Uint32(b), uint64(native.Uint32(b[4:]))
			keySize, e.valueSize = uint64(native.Uint32(b[8:])), uint64(native.Uint32(b[12:]))
		}
		start := end
		e.at = start + keySize
		end = e.at + e.valueSize
		switch {
		case end > p.size || pos+keySize+e.valueSize > maxReach:
			return 0, damaged(p.id, "element %d extends beyond the page", i)
		case headerSize+i*elementSize+pos != start:
			return 0, damaged(p.id, "element %d does not follow the one before", i)
		case keySize > bbolt.MaxKeySize:
			return 0, damaged(p.id, "a key of %d bytes", keySize)
		}
		if e.key, err = p.bytes(start, keySize); err != nil {
			return 0, err
		}
		if keySize == 0 || i == 0 && low != nil && !bytes.Equal(e.key, low) || i > 0 && bytes.Compare(e.key, last) <= 0 ||
			high != nil && bytes.Compare(e.key, high) >= 0 {
			return 0, damaged(p.id, "keys out of order")
		}
		last = e.key
		if err := visit(e); err != nil {
			return 0, err
		}
	}
	return end, nil
}

func (v *verifier) freelist(id uint64) error {
	p, err := v.take(id)
	if err != nil {
		return err
	}
	if p.flags != freelistPage {
		return damaged(id, "flags %#x in the freelist", p.flags)
	}
	const idSize = 8
	at, count := uint64(headerSize), p.count
	if count == 0xFFFF { // the first element is the count
		b, err := p.bytes(at, idSize)
		if err != nil {
			return err
		}
		count = native.Uint64(b)
		at += idSize
	}
	if count > (p.size-at)/idSize {
		return damaged(id, "more elements than fit")
	}
	for count > 0 {
		n := min(count, 1<<15)
		ids, err := p.bytes(at, n*idSize)
		if err != nil {
			return err
		}
		for i := range n {
			if err := v.use(native.Uint64(ids[i*idSize:])); err != nil {
				return err
			}
		}
		at, count = at+n*idSize, count-n
	}
	return nil
}
