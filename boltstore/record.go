package boltstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

const (
	recordVersion = 4     // version 1 has no NextAttempt, version 2 no separate input, and version 3 no Header
	markSize      = 1 + 4 // bytes of the version and the checksum at the start of each value

	// maxRecord is less than bbolt's own limit, because bbolt may keep four records in one
	// page, and counts the bytes of a page in 31 bits.
	maxRecord = 500 << 20
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errDamagedRecord = errors.New("the record is damaged: call Runtime.Forget to delete it")
)

// encodeRecord returns the value that is stored under c.ID.
func encodeRecord(c *activity.Checkpoint) ([]byte, error) {
	const fixed = markSize + 16*binary.MaxVarintLen64
	apart := len(c.Input) > largestInline
	size := fixed + int64(len(c.Name)) + int64(len(c.Input)) + int64(len(c.Details)) + int64(len(c.LastFailure))
	for k, v := range c.Header {
		size += int64(len(k)) + int64(len(v)) + 2*binary.MaxVarintLen64
	}
	switch {
	case c.ID == "":
		return nil, errors.New("the ID is empty")
	case len(c.ID) > bbolt.MaxKeySize:
		return nil, fmt.Errorf("the ID has %d bytes, more than bbolt's limit of %d", len(c.ID), bbolt.MaxKeySize)
	case size > maxRecord:
		return nil, fmt.Errorf("the checkpoint has %d bytes, more than the limit of %d", size, maxRecord)
	}
	input := c.Input
	if apart {
		size -= int64(len(input))
		input = nil
	}
	// Older programs can read the older versions.
	version := byte(2)
	switch {
	case len(c.Header) > 0:
		version = 4
	case apart:
		version = 3
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
	if version >= 4 {
		b = binary.AppendUvarint(b, uint64(len(c.Header)))
		for _, k := range slices.Sorted(maps.Keys(c.Header)) {
			b = appendBytes(b, []byte(k))
			b = appendBytes(b, []byte(c.Header[k]))
		}
	}
	switch {
	case apart:
		b = binary.AppendUvarint(b, uint64(checksum(c.ID, c.Input)))
		b = binary.AppendUvarint(b, uint64(len(c.Input)))
	case version >= 3:
		b = append(b, 0, 0)
	}
	b[0] = version
	binary.BigEndian.PutUint32(b[1:], checksum(c.ID, b[markSize:]))
	return b, nil
}

// decodeRecord decodes the record of id. If its input is stored separately, decodeRecord calls
// piece with the key of each piece, and piece must return the value or nil.
func decodeRecord(id string, record []byte, piece func(key []byte) []byte) (activity.Checkpoint, error) {
	switch {
	case len(record) < markSize:
		return activity.Checkpoint{}, errDamagedRecord
	case record[0] > recordVersion:
		return activity.Checkpoint{}, fmt.Errorf("the record has version %d, but this program reads versions up to %d: a newer program wrote it", record[0], recordVersion)
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
	if version >= 4 {
		c.Header = d.header()
	}
	var sum, length uint64
	if version >= 3 {
		sum, length = d.uvarint(), d.uvarint()
	}
	if d.failed || len(d.rest) > 0 || sum > math.MaxUint32 {
		return activity.Checkpoint{}, errDamagedRecord
	}
	if length > 0 || version == 3 {
		input, err := decodeInput(id, length, uint32(sum), piece)
		if err != nil {
			return activity.Checkpoint{}, err
		}
		c.Input = input
	}
	return c, nil
}

// checksum covers the ID as well, so that the record of another ID is detected.
func checksum(id string, fields []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(id), castagnoli), castagnoli, fields)
}

// mark returns the share of a record, or of any other key and value, in the sum of its bucket.
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

// A decoder reads one field after another. After an error it returns only zero values.
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

// header decodes pairs of keys and values. The keys must be in order, so that each Header has
// one form.
func (d *decoder) header() map[string]string {
	n := d.uvarint()
	if n == 0 || n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	h, last := make(map[string]string), ""
	for i := range n {
		k, v := string(d.bytes()), string(d.bytes())
		if d.failed || i > 0 && k <= last {
			d.fail()
			return nil
		}
		h[k], last = v, k
	}
	return h
}

func (d *decoder) fail() {
	d.rest, d.failed = nil, true
}
