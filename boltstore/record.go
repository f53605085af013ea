package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"math"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

const (
	recordVersion = 3     // version 1 has no NextAttempt, and version 2 no input that is kept apart
	markSize      = 1 + 4 // the version and the checksum, with which every record and input begins

	// maxRecord is less than bbolt's own limit, because bbolt may leave four records in one
	// page, and counts the bytes of a page with 31 bits.
	maxRecord = 500 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errDamagedRecord = errors.New("the record is damaged: Runtime.Forget drops it")
)

// encodeRecord gives the value that is stored under c.ID.
func encodeRecord(c *activity.Checkpoint) ([]byte, error) {
	const fixed = markSize + 16*binary.MaxVarintLen64
	apart := len(c.Input) > largestInline
	size := fixed + int64(len(c.Name)) + int64(len(c.Input)) + int64(len(c.Details)) + int64(len(c.LastFailure))
	switch {
	case c.ID == "":
		return nil, errors.New("the ID is empty")
	case len(c.ID) > bbolt.MaxKeySize:
		return nil, fmt.Errorf("the ID has %d bytes, more than bbolt's %d", len(c.ID), bbolt.MaxKeySize)
	case size > maxRecord:
		return nil, fmt.Errorf("a checkpoint of %d bytes is larger than the limit of %d", size, maxRecord)
	}
	input, version := c.Input, byte(recordVersion)
	if apart {
		size -= int64(len(input))
		input = nil
	} else {
		version = 2 // which older programs read
	}
	b := make([]byte, markSize, size)
	b = appendBytes(b, []byte(c.Name))
	b = binary.AppendVarint(b, int64(c.State))
	b = binary.AppendVarint(b, int64(c.Attempt))
	b = binary.AppendVarint(b, int64(c.CountedFrom))
	b = binary.AppendVarint(b, int64(c.Progressed))
	b = binary.AppendUvarint(b, c.Sequence)
	b = appendTime(b, c.ScheduledAt)
	b = appendTime(b, c.UpdatedAt)
	b = appendBytes(b, input)
	b = appendBytes(b, c.Details)
	b = appendBytes(b, []byte(c.LastFailure))
	b = appendTime(b, c.NextAttempt)
	if apart {
		b = binary.AppendUvarint(b, uint64(checksum(c.ID, c.Input)))
		b = binary.AppendUvarint(b, uint64(len(c.Input)))
	}
	b[0] = version
	binary.BigEndian.PutUint32(b[1:], checksum(c.ID, b[markSize:]))
	return b, nil
}

// decodeRecord calls piece for the pieces of an input that is kept apart.
func decodeRecord(id string, record []byte, piece func(key []byte) []byte) (activity.Checkpoint, error) {
	switch {
	case len(record) < markSize:
		return activity.Checkpoint{}, errDamagedRecord
	case record[0] > recordVersion:
		return activity.Checkpoint{}, fmt.Errorf("the record has version %d, and this program reads up to %d: a newer one wrote it", record[0], recordVersion)
	case record[0] == 0, binary.BigEndian.Uint32(record[1:]) != checksum(id, record[markSize:]):
		return activity.Checkpoint{}, errDamagedRecord
	}
	return decodeFields(id, record[0], record[markSize:], piece)
}

func decodeFields(id string, version byte, fields []byte, piece func(key []byte) []byte) (activity.Checkpoint, error) {
	d := decoder{rest: fields}
	c := activity.Checkpoint{
		ID:          id,
		Name:        string(d.bytes()),
		State:       activity.CheckpointState(d.int()),
		Attempt:     d.int(),
		CountedFrom: d.int(),
		Progressed:  d.int(),
		Sequence:    d.uvarint(),
		ScheduledAt: d.time(),
		UpdatedAt:   d.time(),
		Input:       d.bytes(),
		Details:     d.bytes(),
		LastFailure: string(d.bytes()),
	}
	if version >= 2 {
		c.NextAttempt = d.time()
	}
	var sum, length uint64
	if version >= 3 {
		sum, length = d.uvarint(), d.uvarint()
	}
	if d.failed || len(d.rest) > 0 || sum > math.MaxUint32 {
		return activity.Checkpoint{}, errDamagedRecord
	}
	if version >= 3 {
		input, err := decodeInput(id, length, uint32(sum), piece)
		if err != nil {
			return activity.Checkpoint{}, err
		}
		c.Input = input
	}
	return c, nil
}

// checksum covers the ID too, so that a record is not taken for another's.
func checksum(id string, fields []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(id), castagnoli), castagnoli, fields)
}

// mark is what a stored record adds to the bucket's sum, and what its removal
// takes from it again.
func mark(id, record []byte) uint64 {
	h := fnv.New64a()
	h.Write(id)
	h.Write(record[:min(markSize, len(record))])
	return h.Sum64()
}

// appendBytes writes the length plus one, and 0 for nil.
func appendBytes(b, v []byte) []byte {
	if v == nil {
		return binary.AppendUvarint(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(v))+1), v...)
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Unix()), uint64(t.Nanosecond()))
}

// A decoder reads one field after another. Once it has failed it gives zeros.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int {
	v := d.varint()
	if v < math.MinInt || v > math.MaxInt {
		d.fail()
		return 0
	}
	return int(v)
}

func (d *decoder) time() time.Time {
	seconds, nanoseconds := d.varint(), d.uvarint()
	if d.failed || nanoseconds >= 1e9 {
		d.fail()
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanoseconds)).UTC()
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	n--
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	v := append([]byte{}, d.rest[:n]...)
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) fail() {
	d.rest, d.failed = nil, true
}
