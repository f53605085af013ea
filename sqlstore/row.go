package sqlstore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
)

// A row is a checkpoint as the table holds it. Strings that may have any bytes are binary. Times
// are text, because no type of PostgreSQL has nanoseconds. The sequence is text of 20 digits,
// because no integer type of either database holds every uint64; its order is that of the number.
//
// In JSON, which PostgreSQL gets, binary values are base64.
type row struct {
	ID          []byte `json:"id"`
	Sequence    string `json:"sequence"`
	Attempt     int64  `json:"attempt"`
	CountedFrom int64  `json:"counted_from"`
	Progressed  int64  `json:"progressed"`
	State       int64  `json:"state"`
	Name        []byte `json:"name"`
	ScheduledAt string `json:"scheduled_at"`
	UpdatedAt   string `json:"updated_at"`
	NextAttempt string `json:"next_attempt"`
	Input       []byte `json:"input"`
	Details     []byte `json:"details"`
	Header      []byte `json:"header"`
	LastFailure []byte `json:"last_failure"`
}

// columns are the names of a row's columns, in the order of fields.
var columns = []string{
	"id", "sequence", "attempt", "counted_from", "progressed", "state", "name",
	"scheduled_at", "updated_at", "next_attempt", "input", "details", "header", "last_failure",
}

// The types of the columns. All others are text.
var (
	numberColumns = map[string]bool{"attempt": true, "counted_from": true, "progressed": true, "state": true}
	binaryColumns = map[string]bool{"id": true, "name": true, "input": true, "details": true, "header": true, "last_failure": true}
)

// columnType returns the type of a column, of those for text, numbers and bytes.
func columnType(column, text, number, bytes string) string {
	switch {
	case numberColumns[column]:
		return number
	case binaryColumns[column]:
		return bytes
	}
	return text
}

// fixedColumns do not change while an execution lasts.
var fixedColumns = map[string]bool{"id": true, "name": true, "input": true, "header": true}

// fields returns pointers to the row's fields, in the order of columns.
func (r *row) fields() []any {
	return []any{
		&r.ID, &r.Sequence, &r.Attempt, &r.CountedFrom, &r.Progressed, &r.State, &r.Name,
		&r.ScheduledAt, &r.UpdatedAt, &r.NextAttempt, &r.Input, &r.Details, &r.Header, &r.LastFailure,
	}
}

// values returns the values of the row's fields, in the order of columns.
func (r *row) values() []any {
	return []any{
		r.ID, r.Sequence, r.Attempt, r.CountedFrom, r.Progressed, r.State, r.Name,
		r.ScheduledAt, r.UpdatedAt, r.NextAttempt, r.Input, r.Details, r.Header, r.LastFailure,
	}
}

// changing returns the values of the columns that are not fixed, in the order of columns.
func (r *row) changing() (all []any) {
	for i, v := range r.values() {
		if !fixedColumns[columns[i]] {
			all = append(all, v)
		}
	}
	return all
}

const timeLayout = "2006-01-02T15:04:05.000000000Z"

// newRow returns the row of a checkpoint.
func newRow(cp *activity.Checkpoint) (row, error) {
	r := row{
		ID: blob(cp.ID), Sequence: sequenceText(cp.Sequence),
		Attempt: int64(cp.Attempt), CountedFrom: int64(cp.CountedFrom), Progressed: int64(cp.Progressed), State: int64(cp.State),
		Name: blob(cp.Name), Input: blob(cp.Input), Details: blob(cp.Details), LastFailure: blob(cp.LastFailure),
	}
	for _, t := range []struct {
		name string
		time time.Time
		text *string
	}{{"ScheduledAt", cp.ScheduledAt, &r.ScheduledAt}, {"UpdatedAt", cp.UpdatedAt, &r.UpdatedAt}, {"NextAttempt", cp.NextAttempt, &r.NextAttempt}} {
		u := t.time.UTC()
		if y := u.Year(); y < 1 || y > 9999 {
			return row{}, fmt.Errorf("checkpoint %q: %s is not in the years 1 to 9999 (%s)", cp.ID, t.name, t.time)
		}
		if !u.IsZero() {
			*t.text = u.Format(timeLayout)
		}
	}
	header := [][2][]byte{}
	for _, k := range slices.Sorted(maps.Keys(cp.Header)) {
		header = append(header, [2][]byte{[]byte(k), []byte(cp.Header[k])})
	}
	r.Header = []byte{}
	if len(header) > 0 {
		data, err := json.Marshal(header)
		if err != nil {
			return row{}, err
		}
		r.Header = data
	}
	return r, nil
}

// blob returns the bytes of s, which are never nil, because no column may be NULL.
func blob[S string | []byte](s S) []byte { return append(make([]byte, 0, len(s)), s...) }

// sequenceText returns a Sequence in the form of the table.
func sequenceText(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	return strings.Repeat("0", 20-len(digits)) + digits
}

// checkpoint returns the checkpoint of a row.
func (r *row) checkpoint() (activity.Checkpoint, error) {
	cp := activity.Checkpoint{
		ID: string(r.ID), Name: string(r.Name), State: activity.CheckpointState(r.State),
		Attempt: int(r.Attempt), CountedFrom: int(r.CountedFrom), Progressed: int(r.Progressed),
		Input: r.Input, Details: r.Details, LastFailure: string(r.LastFailure),
	}
	damaged := func(column string, err error) (activity.Checkpoint, error) {
		return activity.Checkpoint{}, fmt.Errorf("checkpoint %q: the column %s is damaged: %w", cp.ID, column, err)
	}
	var err error
	if cp.Sequence, err = strconv.ParseUint(r.Sequence, 10, 64); err != nil {
		return damaged("sequence", err)
	}
	for _, t := range []struct {
		column, text string
		time         *time.Time
	}{{"scheduled_at", r.ScheduledAt, &cp.ScheduledAt}, {"updated_at", r.UpdatedAt, &cp.UpdatedAt}, {"next_attempt", r.NextAttempt, &cp.NextAttempt}} {
		if t.text == "" {
			continue
		}
		if *t.time, err = time.Parse(timeLayout, t.text); err != nil {
			return damaged(t.column, err)
		}
	}
	if len(r.Header) > 0 {
		var header [][2][]byte
		if err := json.Unmarshal(r.Header, &header); err != nil {
			return damaged("header", err)
		}
		cp.Header = map[string]string{}
		for _, kv := range header {
			cp.Header[string(kv[0])] = string(kv[1])
		}
	}
	return cp, nil
}

// size returns the number of bytes of the row's large fields.
func (r *row) size() int { return len(r.Input) + len(r.Details) + len(r.Header) + len(r.LastFailure) }
