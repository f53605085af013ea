package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// A large input is stored separately, because the rest of its checkpoint is written with every
// Save. It is stored in pieces, because bbolt writes whole pages: a change writes all values in
// the same page.
const (
	largestInline = 1 << 10 // the largest input that stays in its record
	pieceSize     = 8 << 10
	inputVersion  = 1 // version of a piece's format
)

var errDamagedInput = errors.New("the input of the record is missing or damaged: call Runtime.Forget to delete the record")

// pieceKey returns the key of the nth piece of id's input.
func pieceKey(id []byte, n int) []byte {
	key := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen64+len(id)+4), uint64(len(id)))
	key = append(key, id...)
	return binary.BigEndian.AppendUint32(key, uint32(n))
}

func encodePiece(key, piece []byte) []byte {
	b := make([]byte, markSize, markSize+len(piece))
	b[0] = inputVersion
	binary.BigEndian.PutUint32(b[1:], checksum(string(key), piece))
	return append(b, piece...)
}

// decodeInput reads an input and checks its length and checksum. get returns the value of a
// piece's key, or nil.
func decodeInput(id string, length uint64, sum uint32, get func(key []byte) []byte) ([]byte, error) {
	var input []byte
	for n := 0; uint64(len(input)) < length; n++ {
		key := pieceKey([]byte(id), n)
		value := get(key)
		switch {
		case len(value) <= markSize:
			return nil, errDamagedInput
		case value[0] > inputVersion:
			return nil, fmt.Errorf("the input of the record has version %d, but this program reads versions up to %d: a newer program wrote it", value[0], inputVersion)
		case value[0] == 0, binary.BigEndian.Uint32(value[1:]) != checksum(string(key), value[markSize:]):
			return nil, errDamagedInput
		}
		input = append(input, value[markSize:]...)
	}
	if uint64(len(input)) != length || checksum(id, input) != sum {
		return nil, errDamagedInput
	}
	return input, nil
}

// A bucket is a bucket in a transaction that writes. It keeps the sum of the marks of its
// contents up to date, for verify. The sum is stored as bbolt's sequence number, which needs no
// page of its own.
type bucket struct {
	tx   *bbolt.Tx
	name string
	b    *bbolt.Bucket // nil while the bucket does not exist
	sum  uint64        // sum of the marks of all keys and values
}

func openBucket(tx *bbolt.Tx, name string) *bucket {
	b := &bucket{tx: tx, name: name, b: tx.Bucket([]byte(name))}
	if b.b != nil {
		b.sum = b.b.Sequence()
	}
	return b
}

func (b *bucket) get(key []byte) []byte {
	if b.b == nil {
		return nil
	}
	return b.b.Get(key)
}

func (b *bucket) put(key, value []byte) (err error) {
	if b.b == nil {
		if b.b, err = b.tx.CreateBucket([]byte(b.name)); err != nil {
			return err
		}
	}
	if old := b.b.Get(key); old != nil {
		b.sum -= mark(key, old)
	}
	b.sum += mark(key, value)
	return b.b.Put(key, value)
}

func (b *bucket) delete(key []byte) error {
	old := b.get(key)
	if old == nil {
		return nil
	}
	b.sum -= mark(key, old)
	return b.b.Delete(key)
}

// putInput writes the changed pieces of a large input, and deletes the pieces that it no longer
// needs. A small input needs none.
func (b *bucket) putInput(id, input []byte) error {
	n := 0
	if len(input) > largestInline {
		for piece := range slices.Chunk(input, pieceSize) {
			key := pieceKey(id, n)
			n++
			if old := b.get(key); len(old) == markSize+len(piece) && old[0] == inputVersion && bytes.Equal(old[markSize:], piece) {
				continue
			}
			if err := b.put(key, encodePiece(key, piece)); err != nil {
				return err
			}
		}
	}
	return b.deleteInput(id, n)
}

// deleteInput deletes the pieces of id's input from the nth on.
func (b *bucket) deleteInput(id []byte, n int) error {
	for ; ; n++ {
		key := pieceKey(id, n)
		if b.get(key) == nil {
			return nil
		}
		if err := b.delete(key); err != nil {
			return err
		}
	}
}

// close stores the sum. It deletes an empty bucket of inputs, because programs without separate
// inputs refuse a file with such a bucket.
func (b *bucket) close() error {
	if b.b == nil {
		return nil
	}
	if b.name == inputsName {
		if key, _ := b.b.Cursor().First(); key == nil {
			return b.tx.DeleteBucket([]byte(b.name))
		}
	}
	if b.sum == b.b.Sequence() {
		return nil
	}
	return b.b.SetSequence(b.sum)
}
