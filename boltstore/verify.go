package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"strings"
)

// bbolt maps its file and trusts it: damage in it is a panic, a fault, an
// endless loop or a wrong answer. So before bbolt sees a file, verify reads it.
// The layout is that of go.etcd.io/bbolt/internal/common.
const (
	headerSize  = 16 // of a page: id, flags, count, overflow
	metaSize    = 64
	elementSize = 16
	firstPage   = 2 // after the two meta pages

	bboltMagic   = 0xED0CDAED
	bboltVersion = 2
	noFreelist   = ^uint64(0)

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketElement = 0x01

	minPageSize = 1 << 10 // as bbolt searches for the second meta page
	maxPageSize = 1 << 24
	maxDepth    = 64
)

var native = binary.NativeEndian

type meta struct {
	pageSize uint64
	root     uint64
	freelist uint64
	pages    uint64 // in use; what the file has after them is of no concern
	txid     uint64
}

// verify says whether a file of this size is sound and a Store's: every page is
// in use once or free, every key is where a search looks for it, and no record
// is missing or too many. Whether a record's fields are sound shows when it is
// read.
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

// readMeta gives the newest sound meta page, which is how bbolt chooses.
func readMeta(file io.ReaderAt, size int64) (meta, error) {
	first, err := metaAt(file, 0)
	if err == nil {
		second, err := metaAt(file, int64(first.pageSize))
		switch {
		case err != nil || second.txid < first.txid:
			return first, nil
		case second.pageSize != first.pageSize:
			return meta{}, errors.New("damaged: the meta pages contradict each other")
		}
		return second, nil
	}
	for offset := int64(minPageSize); offset <= maxPageSize && offset < size; offset *= 2 {
		if second, err := metaAt(file, offset); err == nil && second.pageSize == uint64(offset) {
			return second, nil
		}
	}
	return meta{}, err
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
		return meta{}, errors.New("not a bbolt file, or damaged at its beginning")
	case native.Uint32(b[4:]) != bboltVersion:
		return meta{}, fmt.Errorf("a bbolt file of version %d, not %d", native.Uint32(b[4:]), bboltVersion)
	case native.Uint64(b[56:]) != sum.Sum64():
		return meta{}, errors.New("damaged: both meta pages have a wrong checksum")
	case m.pageSize < minPageSize || m.pageSize > maxPageSize || bits.OnesCount64(m.pageSize) != 1 || m.pages <= firstPage:
		return meta{}, errors.New("damaged: a meta page makes no sense")
	case m.freelist == noFreelist:
		return meta{}, errors.New("a bbolt file without a freelist, which no Store wrote")
	}
	return m, nil
}

type verifier struct {
	file     io.ReaderAt
	pageSize uint64
	seen     []bool // by page
}

// A page with the pages it overflows to, or the page inside an inline bucket.
type page struct {
	id    uint64
	flags uint16
	count uint64
	data  []byte // header included
}

func parsePage(data []byte) page {
	return page{
		id:    native.Uint64(data),
		flags: native.Uint16(data[8:]),
		count: uint64(native.Uint16(data[10:])),
		data:  data,
	}
}

// take reads page id, which nothing else may have taken.
func (v *verifier) take(id uint64) (page, error) {
	if err := v.use(id); err != nil {
		return page{}, err
	}
	header := make([]byte, headerSize)
	if _, err := v.file.ReadAt(header, int64(id*v.pageSize)); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	if got := native.Uint64(header); got != id {
		return page{}, damaged(id, "says that it is page %d", got)
	}
	overflow := uint64(native.Uint32(header[12:]))
	for next := id + 1; next <= id+overflow; next++ {
		if err := v.use(next); err != nil {
			return page{}, err
		}
	}
	data := make([]byte, (1+overflow)*v.pageSize)
	if _, err := v.file.ReadAt(data, int64(id*v.pageSize)); err != nil {
		return page{}, fmt.Errorf("page %d: %w", id, err)
	}
	return parsePage(data), nil
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

// root reads the tree of buckets, which has the Store's or, in a file whose
// creation was cut short, none.
func (v *verifier) root(id uint64) error {
	return v.tree(id, nil, nil, 0, func(flags uint32, name, value []byte) error {
		switch {
		case flags&bucketElement != 0 && (string(name) == bucketName || string(name) == inputsName):
			return v.bucket(id, value)
		case flags&bucketElement != 0 && strings.HasPrefix(string(name), bucketPrefix):
			return fmt.Errorf("a Store of another version: %q; this program reads %q", name, bucketName)
		}
		return fmt.Errorf("a bbolt file of something else: it has %q", name)
	})
}

func (v *verifier) bucket(parent uint64, value []byte) error {
	const bucketHeader = 16
	if len(value) < bucketHeader {
		return damaged(parent, "bucket cut short")
	}
	var sum uint64
	add := func(flags uint32, id, record []byte) error {
		if flags != 0 {
			return damaged(parent, "a bucket among the records")
		}
		sum += mark(id, record)
		return nil
	}
	var err error
	if id := native.Uint64(value); id != 0 {
		err = v.tree(id, nil, nil, 0, add)
	} else if len(value) < bucketHeader+headerSize {
		err = damaged(parent, "bucket cut short")
	} else {
		inline := parsePage(value[bucketHeader:])
		if inline.flags != leafPage {
			return damaged(parent, "bucket with flags %#x", inline.flags)
		}
		err = inline.leaf(nil, nil, add)
	}
	if err == nil && sum != native.Uint64(value[8:]) {
		err = errors.New("damaged: the records are not those that were written")
	}
	return err
}

// tree visits what is stored under page id. Its first key is low, by which bbolt
// finds the page again in the one above when it writes; all are less than high.
// A nil low or high is no bound.
func (v *verifier) tree(id uint64, low, high []byte, depth int, visit func(flags uint32, key, value []byte) error) error {
	p, err := v.take(id)
	switch {
	case err != nil:
		return err
	case p.flags == leafPage && p.count == 0 && depth > 0, p.flags == branchPage && p.count == 0:
		return damaged(id, "empty")
	case p.flags == leafPage:
		return p.leaf(low, high, visit)
	case p.flags != branchPage:
		return damaged(id, "flags %#x in a tree", p.flags)
	case depth == maxDepth:
		return damaged(id, "a tree too deep")
	}
	children := make([]uint64, p.count)
	keys := make([][]byte, p.count, p.count+1)
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return err
		}
		if keys[i], err = p.span(i, native.Uint32(e), 0, native.Uint32(e[4:])); err != nil {
			return err
		}
		children[i] = native.Uint64(e[8:])
	}
	if err := p.ordered(keys, low, high); err != nil {
		return err
	}
	keys = append(keys, high)
	for i, child := range children {
		if err := v.tree(child, keys[i], keys[i+1], depth+1, visit); err != nil {
			return err
		}
	}
	return nil
}

func (p page) leaf(low, high []byte, visit func(flags uint32, key, value []byte) error) error {
	keys := make([][]byte, p.count)
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return err
		}
		flags, pos, keySize, valueSize := native.Uint32(e), native.Uint32(e[4:]), native.Uint32(e[8:]), native.Uint32(e[12:])
		if keys[i], err = p.span(i, pos, 0, keySize); err != nil {
			return err
		}
		value, err := p.span(i, pos, keySize, valueSize)
		if err != nil {
			return err
		}
		if err := visit(flags, keys[i], value); err != nil {
			return err
		}
	}
	return p.ordered(keys, low, high)
}

func (p page) element(i uint64) ([]byte, error) {
	start := headerSize + i*elementSize
	if start+elementSize > uint64(len(p.data)) {
		return nil, damaged(p.id, "more elements than fit")
	}
	return p.data[start : start+elementSize], nil
}

// span gives the size bytes that are pos+skip bytes after the start of element i.
func (p page) span(i uint64, pos, skip, size uint32) ([]byte, error) {
	start := headerSize + i*elementSize + uint64(pos) + uint64(skip)
	end := start + uint64(size)
	if end > uint64(len(p.data)) {
		return nil, damaged(p.id, "element %d reaches beyond it", i)
	}
	return p.data[start:end:end], nil
}

func (p page) ordered(keys [][]byte, low, high []byte) error {
	for i, key := range keys {
		if len(key) == 0 || i == 0 && low != nil && !bytes.Equal(key, low) || i > 0 && bytes.Compare(key, keys[i-1]) <= 0 ||
			high != nil && bytes.Compare(key, high) >= 0 {
			return damaged(p.id, "keys out of order")
		}
	}
	return nil
}

func (v *verifier) freelist(id uint64) error {
	p, err := v.take(id)
	if err != nil {
		return err
	}
	if p.flags != freelistPage {
		return damaged(id, "flags %#x in the freelist", p.flags)
	}
	ids, count := p.data[headerSize:], p.count
	if count == 0xFFFF { // then the count is the first element
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return damaged(id, "more elements than fit")
	}
	for i := range count {
		if err := v.use(native.Uint64(ids[8*i:])); err != nil {
			return err
		}
	}
	return nil
}
