package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"go.etcd.io/bbolt"
)

var farYear = time.Unix(1<<62, 999999999).UTC()

func FuzzRecord(f *testing.F) {
	add := func(c activity.Checkpoint) {
		record, err := encodeRecord(&c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.ID, record[markSize:])
	}
	add(activity.Checkpoint{ID: "a"})
	add(activity.Checkpoint{
		ID: "\xff\x00", Name: "name", State: activity.CheckpointCanceled, Attempt: math.MaxInt, CountedFrom: math.MinInt, Progressed: -1,
		Sequence: math.MaxUint64, ScheduledAt: farYear, UpdatedAt: time.Unix(-1, 1), NextAttempt: farYear, Input: []byte{}, Details: []byte{0}, LastFailure: "\xff",
	})
	add(activity.Checkpoint{ID: "a", Header: map[string]string{"b": "c", "": "\xff"}})
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, id string, fields []byte) {
		none := func([]byte) []byte { return nil }
		_, _ = decodeRecord(id, fields, none) // does not panic
		for _, version := range []byte{2, 4} {
			c, err := decodeFields(id, version, fields, none)
			if err != nil || id == "" || len(id) > bbolt.MaxKeySize {
				continue
			}
			record, err := encodeRecord(&c)
			if err != nil {
				t.Fatal(err)
			}
			again, err := decodeRecord(id, record, pieces(id, c.Input))
			if err != nil || !reflect.DeepEqual(again, c) {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
	})
}

// Given a checkpoint, when it is encoded, then its record has exactly the bytes that other
// programs read. Given a record of version 1, when it is decoded, then it has no NextAttempt.
func TestRecord_Format(t *testing.T) {
	c := activity.Checkpoint{
		ID: "id", Name: "n", State: activity.CheckpointFailed, Attempt: 3, CountedFrom: 1, Progressed: 2, Sequence: 300,
		ScheduledAt: time.Unix(1, 5).UTC(), NextAttempt: time.Unix(2, 6).UTC(), Input: []byte{}, Details: []byte("d"), LastFailure: "f",
	}
	record, err := encodeRecord(&c)
	if err != nil {
		t.Fatal(err)
	}
	first := []byte("\x02n" + "\x06\x06\x02\x04" + "\xac\x02" + "\x02\x05" + "\xff\xdb\x8f\xf9\xce\x03\x00" + "\x01" + "\x02d" + "\x02f")
	if want := append(bytes.Clone(first), 4, 6); !bytes.Equal(record[markSize:], want) {
		t.Errorf("the fields are %q, want %q", record[markSize:], want)
	}
	if record[0] != 2 || binary.BigEndian.Uint32(record[1:]) != 0x84c330de {
		t.Errorf("the record begins with %x", record[:markSize])
	}
	got, err := decodeRecord(c.ID, record, nil)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v became %+v, %v", c, got, err)
	}
	withHeader := c
	withHeader.Header = map[string]string{"b": "", "a": "xy"}
	record, err = encodeRecord(&withHeader)
	if want := append(bytes.Clone(first), "\x04\x06"+"\x02"+"\x02a\x03xy"+"\x02b\x01"+"\x00\x00"...); err != nil || record[0] != 4 || !bytes.Equal(record[markSize:], want) {
		t.Errorf("the record is %q, %v, want version 4 and the fields %q", record, err, want)
	}
	got, err = decodeRecord(c.ID, record, nil)
	if err != nil || !reflect.DeepEqual(got, withHeader) {
		t.Errorf("%+v became %+v, %v", withHeader, got, err)
	}
	got, err = decodeRecord(c.ID, append([]byte{1, 0x22, 0x6a, 0x76, 0x99}, first...), nil)
	c.NextAttempt = time.Time{}
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("version 1: %+v became %+v, %v", c, got, err)
	}
}

// Given fields with extreme values, when they are encoded and decoded, then they are unchanged.
func TestRecord_Fields(t *testing.T) {
	zone := time.FixedZone("zone", 3600)
	for _, c := range []activity.Checkpoint{
		{},
		{Attempt: math.MaxInt, CountedFrom: math.MinInt, Progressed: math.MaxInt, Sequence: math.MaxUint64},
		{ScheduledAt: farYear, UpdatedAt: time.Date(-1000, 1, 1, 0, 0, 0, 1, zone)},
		{ScheduledAt: time.Now(), NextAttempt: time.Now()},
		{Input: []byte{}, Details: []byte{}},
		{Header: map[string]string{"": "", "\xff": "\x00", "long": strings.Repeat("x", 1000)}},
		{Input: bytes.Repeat([]byte{0xff}, 1000), Name: "\xff", LastFailure: strings.Repeat("\x00", 16<<10)},
	} {
		c.ID = "id"
		record, err := encodeRecord(&c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(c.ID, record, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []*time.Time{&c.ScheduledAt, &c.UpdatedAt, &c.NextAttempt} {
			*at = at.Round(0).UTC()
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%+v became %+v", c, got)
		}
	}
}

// Given a record that is truncated, changed or of another ID, when it is decoded, then that is an
// error.
func TestRecord_Damaged(t *testing.T) {
	c := activity.Checkpoint{ID: "id", Name: "name", Input: []byte("input"), Details: []byte("details"), LastFailure: "failure"}
	record, err := encodeRecord(&c)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what, id string, record []byte) {
		t.Helper()
		if got, err := decodeRecord(id, record, nil); err == nil {
			t.Errorf("%s: decoded as %+v, want an error", what, got)
		}
	}
	for n := range record {
		refused("truncated", c.ID, record[:n])
		if _, err := decodeFields(c.ID, 2, record[markSize:max(n, markSize)], nil); err == nil {
			t.Errorf("the fields up to byte %d were decoded, want an error", n)
		}
		changed := bytes.Clone(record)
		changed[n]++
		refused("changed", c.ID, changed)
	}
	refused("another's", "di", record)
	if _, err := decodeFields(c.ID, 2, append(bytes.Clone(record[markSize:]), 0), nil); err == nil {
		t.Error("fields followed by another byte were decoded, want an error")
	}
	nanoseconds := func(n uint64) []byte {
		b := []byte("\x01\x00\x00\x00\x00\x00\x00") // the fields up to the seconds of ScheduledAt
		return append(binary.AppendUvarint(b, n), "\x00\x00\x00\x00\x01"...)
	}
	if _, err := decodeFields("id", 1, nanoseconds(1e9-1), nil); err != nil {
		t.Error(err)
	}
	if _, err := decodeFields("id", 1, nanoseconds(1e9), nil); err == nil {
		t.Error("a time with 1e9 nanoseconds was decoded, want an error")
	}
	tooLarge := binary.AppendVarint([]byte("\x01\x00"), math.MaxInt32+1) // Attempt
	tooLarge = append(tooLarge, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"...)
	if c, err := decodeFields("id", 1, tooLarge, nil); (err == nil) != (math.MaxInt > math.MaxInt32) {
		t.Errorf("an Attempt beyond 32 bits was decoded as %d, %v", c.Attempt, err)
	}
}

// Given a record with a separate input, when a piece of the input is missing or damaged, then
// decoding the record is an error.
func TestInput_Damaged(t *testing.T) {
	c := activity.Checkpoint{ID: "id", Input: bytes.Repeat([]byte("xyz"), pieceSize)}
	record, err := encodeRecord(&c)
	if err != nil || record[0] != 3 || len(record) > 100 {
		t.Fatal(err, len(record))
	}
	get := pieces(c.ID, c.Input)
	got, err := decodeRecord(c.ID, record, get)
	if err != nil || !bytes.Equal(got.Input, c.Input) {
		t.Errorf("%d bytes, %v", len(got.Input), err)
	}
	first, second := pieceKey([]byte(c.ID), 0), pieceKey([]byte(c.ID), 1)
	piece := get(first)
	damaged := [][]byte{nil, piece[:markSize-1], piece[:markSize], piece[:len(piece)-1], append(bytes.Clone(piece), 'x'), encodePiece(second, piece[markSize:]), encodePiece(first, piece[markSize+1:])}
	for i := 1; i <= markSize; i++ {
		changed := bytes.Clone(piece)
		changed[i]++
		damaged = append(damaged, changed)
	}
	for i, piece := range damaged {
		other := func(key []byte) []byte {
			if bytes.Equal(key, first) {
				return piece
			}
			return get(key)
		}
		if got, err := decodeRecord(c.ID, record, other); err != errDamagedInput {
			t.Errorf("with damage %d, the record was decoded as %+v, %v, want errDamagedInput", i, got, err)
		}
	}
	newer := bytes.Clone(piece)
	newer[0]++
	if _, err := decodeRecord(c.ID, record, func([]byte) []byte { return newer }); err == nil || !strings.Contains(err.Error(), "has version 2") {
		t.Errorf("with a piece of a newer version, the error is %v", err)
	}
}

// pieces returns a function that returns the value of a piece's key, for the given input.
func pieces(id string, input []byte) func(key []byte) []byte {
	stored, n := map[string][]byte{}, 0
	for piece := range slices.Chunk(input, pieceSize) {
		key := pieceKey([]byte(id), n)
		n++
		stored[string(key)] = encodePiece(key, piece)
	}
	return func(key []byte) []byte { return stored[string(key)] }
}

// Given a record of a newer version, when it is read, then Load and All return an error that
// names its ID and version.
func TestRecord_Newer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "activities.db")
	s, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { s.Close() }()
	if err := s.Save(t.Context(), []activity.Checkpoint{{ID: "a"}, {ID: "b"}}); err != nil {
		t.Fatal(err)
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketName))
		id := []byte("b")
		newer := bytes.Clone(b.Get(id))
		sum := b.Sequence() - mark(id, newer)
		newer[0] = recordVersion + 1
		if err := b.SetSequence(sum + mark(id, newer)); err != nil {
			return err
		}
		return b.Put(id, newer)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path, nil); err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), fmt.Sprintf(`"b": the record has version %d`, recordVersion+1)) {
			t.Errorf("got the error %v, want one with the ID and the version", err)
		}
	}
	_, found, err := s.Load(t.Context(), "b")
	if check(err); found {
		t.Error("Load found the record")
	}
	var yielded []string
	var errs []error
	for c, err := range s.All(t.Context()) {
		yielded = append(yielded, c.ID)
		errs = append(errs, err)
	}
	if !reflect.DeepEqual(yielded, []string{"a", ""}) || errs[0] != nil {
		t.Fatalf("All yielded the IDs %q and the errors %v", yielded, errs)
	}
	check(errs[1])
}
