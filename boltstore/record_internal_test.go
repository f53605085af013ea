package boltstore

import (
	"bytes"
	"encoding/binary"
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
	f.Add("", []byte{})
	f.Fuzz(func(t *testing.T, id string, fields []byte) {
		none := func([]byte) []byte { return nil }
		_, _ = decodeRecord(id, fields, none) // does not panic
		c, err := decodeFields(id, 2, fields, none)
		if err != nil || id == "" || len(id) > bbolt.MaxKeySize {
			return
		}
		record, err := encodeRecord(&c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRecord(id, record, pieces(id, c.Input))
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}

// The bytes are what other programs have written. Given a record of version 1, when it
// is read, then it has no NextAttempt.
func TestRecordFormat(t *testing.T) {
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
		t.Errorf("the fields are %q", record[markSize:])
	}
	if record[0] != 2 || binary.BigEndian.Uint32(record[1:]) != 0x84c330de {
		t.Errorf("the record begins with %x", record[:markSize])
	}
	got, err := decodeRecord(c.ID, record, nil)
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("%+v became %+v, %v", c, got, err)
	}
	got, err = decodeRecord(c.ID, append([]byte{1, 0x22, 0x6a, 0x76, 0x99}, first...), nil)
	c.NextAttempt = time.Time{}
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Errorf("version 1: %+v became %+v, %v", c, got, err)
	}
}

func TestRecordFields(t *testing.T) {
	zone := time.FixedZone("zone", 3600)
	for _, c := range []activity.Checkpoint{
		{},
		{Attempt: math.MaxInt, CountedFrom: math.MinInt, Progressed: math.MaxInt, Sequence: math.MaxUint64},
		{ScheduledAt: farYear, UpdatedAt: time.Date(-1000, 1, 1, 0, 0, 0, 1, zone)},
		{ScheduledAt: time.Now(), NextAttempt: time.Now()},
		{Input: []byte{}, Details: []byte{}},
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

func TestDamagedRecords(t *testing.T) {
	c := activity.Checkpoint{ID: "id", Name: "name", Input: []byte("input"), Details: []byte("details"), LastFailure: "failure"}
	record, err := encodeRecord(&c)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what, id string, record []byte) {
		t.Helper()
		if got, err := decodeRecord(id, record, nil); err == nil {
			t.Errorf("%s: read as %+v", what, got)
		}
	}
	for n := range record {
		refused("truncated", c.ID, record[:n])
		if _, err := decodeFields(c.ID, 2, record[markSize:max(n, markSize)], nil); err == nil {
			t.Errorf("fields were read up to %d bytes", n)
		}
		changed := bytes.Clone(record)
		changed[n]++
		refused("changed", c.ID, changed)
	}
	refused("another's", "di", record)
	if _, err := decodeFields(c.ID, 2, append(bytes.Clone(record[markSize:]), 0), nil); err == nil {
		t.Error("fields with something after them were read")
	}
	nanoseconds := func(n uint64) []byte {
		b := []byte("\x01\x00\x00\x00\x00\x00\x00") // up to ScheduledAt's seconds
		return append(binary.AppendUvarint(b, n), "\x00\x00\x00\x00\x01"...)
	}
	if _, err := decodeFields("id", 1, nanoseconds(1e9-1), nil); err != nil {
		t.Error(err)
	}
	if _, err := decodeFields("id", 1, nanoseconds(1e9), nil); err == nil {
		t.Error("a second with 1e9 nanoseconds was read")
	}
	tooLarge := binary.AppendVarint([]byte("\x01\x00"), math.MaxInt32+1) // Attempt
	tooLarge = append(tooLarge, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"...)
	if c, err := decodeFields("id", 1, tooLarge, nil); (err == nil) != (math.MaxInt > math.MaxInt32) {
		t.Errorf("an Attempt beyond 32 bits was read as %d, %v", c.Attempt, err)
	}
}

// Given a record whose input is kept apart, when that is missing or another, then the
// record is not read.
func TestDamagedInputs(t *testing.T) {
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
			t.Errorf("%d: read as %+v, %v", i, got, err)
		}
	}
	newer := bytes.Clone(piece)
	newer[0]++
	if _, err := decodeRecord(c.ID, record, func([]byte) []byte { return newer }); err == nil || !strings.Contains(err.Error(), "has version 2") {
		t.Errorf("a newer version: %v", err)
	}
}

// pieces returns what is stored of an input.
func pieces(id string, input []byte) func(key []byte) []byte {
	stored, n := map[string][]byte{}, 0
	for piece := range slices.Chunk(input, pieceSize) {
		key := pieceKey([]byte(id), n)
		n++
		stored[string(key)] = encodePiece(key, piece)
	}
	return func(key []byte) []byte { return stored[string(key)] }
}

func TestNewerRecord(t *testing.T) {
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
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `"b": the record has version 4`) {
			t.Errorf("the error is %v", err)
		}
	}
	_, found, err := s.Load(t.Context(), "b")
	if check(err); found {
		t.Error("it was found")
	}
	var yielded []string
	var errs []error
	for c, err := range s.All(t.Context()) {
		yielded = append(yielded, c.ID)
		errs = append(errs, err)
	}
	if !reflect.DeepEqual(yielded, []string{"a", ""}) || errs[0] != nil {
		t.Fatalf("All yielded %q and %v", yielded, errs)
	}
	check(errs[1])
}
