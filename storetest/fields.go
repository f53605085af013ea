package storetest

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
)

// fields saves, for every field of Checkpoint, one checkpoint for each sample value.
func fields(s *subject) error {
	var batch []activity.Checkpoint
	for _, field := range reflect.VisibleFields(reflect.TypeFor[activity.Checkpoint]()) {
		if field.Name == "ID" {
			continue // the check anyIDs covers it
		}
		values, err := samples(field)
		if err != nil {
			return err
		}
		for i, value := range values {
			c := checkpoint(fmt.Sprint(field.Name, "-", i), 1)
			reflect.ValueOf(&c).Elem().FieldByIndex(field.Index).Set(reflect.ValueOf(value))
			batch = append(batch, c)
		}
	}
	if err := save(s.ctx, s, batch...); err != nil {
		return err
	}
	for _, c := range batch {
		if err := loads(s.ctx, s, c); err != nil {
			return err
		}
	}
	if err := holds(s.ctx, s, batch...); err != nil {
		return err
	}
	if err := holds(s.ctx, s.reopen(), batch...); err != nil {
		return fmt.Errorf("reopened: %w", err)
	}
	return nil
}

// samples returns values of the field that a Store must keep.
func samples(field reflect.StructField) ([]any, error) {
	if !field.IsExported() {
		return nil, fmt.Errorf("storetest: Checkpoint.%s is unexported, so no Store can keep it", field.Name)
	}
	switch reflect.Zero(field.Type).Interface().(type) {
	case string:
		var values []any
		for _, text := range texts {
			values = append(values, text)
		}
		return append(values, "", strings.Repeat("x", 16<<10), string(noise(16<<10))), nil
	case []byte:
		values := []any{[]byte(nil), []byte{}}
		for _, text := range texts {
			values = append(values, []byte(text))
		}
		return append(values, noise(16<<10)), nil
	case map[string]string:
		all := map[string]string{"": "", "long": string(noise(16 << 10))}
		for i, text := range texts {
			all[text] = texts[len(texts)-1-i]
		}
		return []any{map[string]string(nil), map[string]string{}, map[string]string{"": ""}, all}, nil
	case int:
		return []any{0, 1, 255, 256, math.MaxInt32 - 1, math.MaxInt32}, nil
	case uint64:
		return []any{
			uint64(1),         // the lowest that a Runtime saves
			uint64(1<<53 + 1), // has no exact float64
			uint64(math.MaxInt64), uint64(math.MaxInt64 + 1),
			uint64(math.MaxUint64 - 1), uint64(math.MaxUint64),
		}, nil
	case time.Time:
		return []any{
			time.Time{},
			time.Time{}.Add(1),
			time.Date(1066, 10, 14, 9, 0, 0, 123456789, time.UTC),
			time.Unix(0, math.MinInt64).Add(-1), // has no UnixNano
			time.Unix(0, math.MinInt64),
			time.Date(1900, 1, 1, 0, 0, 0, 1, time.UTC),
			time.Date(1969, 12, 31, 23, 59, 59, 1, time.UTC),
			time.Date(1969, 12, 31, 23, 59, 59, 999999999, time.UTC),
			time.Unix(0, 0),
			time.Unix(0, 1),
			time.Now(), // has a monotonic reading
			time.Date(2026, 3, 29, 1, 30, 0, 1, time.FixedZone("east", 14*60*60)),
			time.Date(2026, 3, 29, 1, 30, 0, 999999999, time.FixedZone("west", -(3*60+30)*60)),
			time.Date(1936, 5, 1, 12, 0, 0, 10, time.FixedZone("AMT", 19*60+32)), // RFC 3339 drops the offset's seconds
			time.Unix(math.MaxInt32, 999999999),                                  // in 2038
			time.Unix(math.MaxInt32+1, 0),
			time.Unix(math.MaxUint32, 999999999), // in 2106
			time.Unix(math.MaxUint32+1, 0),
			time.Unix(0, math.MaxInt64),        // in 2262
			time.Unix(0, math.MaxInt64).Add(1), // has no UnixNano
			time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC),
		}, nil
	case activity.CheckpointState:
		var values []any
		for _, state := range states {
			values = append(values, state)
		}
		return values, nil
	}
	return nil, fmt.Errorf("storetest: no sample values for Checkpoint.%s of type %v", field.Name, field.Type)
}

// texts lists strings that faulty encodings and collations change or confuse. All of them
// are different.
var texts = []string{
	" ", "a", "A", "a ", " a", "a\x00", "a\x00\x00", "\x00a", "a\x00b", "ab", "abc", "aB", "a/", "a/b", "a//b",
	".", "..", "../a", "/a", `\`, `\x00`, "%", "%2F", "a%2Fb", "_", "*", "'", `"`, "--", "\n", "\r\n", "\t", "{}", "null", "0", "00",
	"\xc3\xa9", "e\xcc\x81", // é in two ways
	"\xe2\x84\xaa", "K", "k", // the Kelvin sign, which folds to k
	"\xff", "\xff\xff", "\xfe", "a\xffb", "a\xfeb", "a\xef\xbf\xbdb", // invalid UTF-8, and its usual replacement
	"\xed\xa0\x80", "\xf0\x9f\x98\x80",
}

// anyIDs saves IDs that are easily confused, and deletes first one half of them, then the
// other.
func anyIDs(s *subject) error {
	ids := slices.Clone(texts)
	for b := range 256 {
		if id := string([]byte{byte(b)}); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	long := strings.Repeat("x", 1023)
	ids = append(ids, long, long+"x", long+"y", long+"\x00", long+"\xff", strings.Repeat("\xff", 1024),
		strings.Repeat("\x00", 1024), strings.Repeat("/", 1024), string(noise(1024)))
	for half := range 2 {
		var all []activity.Checkpoint
		for i, id := range ids {
			c := checkpoint(id, uint64(half)+1)
			c.Name = fmt.Sprint("id ", i)
			all = append(all, c)
		}
		if err := save(s.ctx, s, all...); err != nil {
			return err
		}
		if err := checkIDs(s, all, nil); err != nil {
			return err
		}
		var stay, gone []activity.Checkpoint
		for i, c := range all {
			if i%2 == half {
				gone = append(gone, c)
			} else {
				stay = append(stay, c)
			}
		}
		if err := remove(s.ctx, s, idsOf(gone)...); err != nil {
			return err
		}
		if err := checkIDs(s, stay, gone); err != nil {
			return fmt.Errorf("after Delete of other IDs: %w", err)
		}
	}
	return nil
}

func checkIDs(s *subject, stay, gone []activity.Checkpoint) error {
	for _, c := range stay {
		if err := loads(s.ctx, s, c); err != nil {
			return err
		}
	}
	for _, c := range gone {
		if err := lacks(s.ctx, s, c.ID); err != nil {
			return err
		}
	}
	return errors.Join(holds(s.ctx, s, stay...), holds(s.ctx, s.reopen(), stay...))
}
