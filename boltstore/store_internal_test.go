package boltstore

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// All holds no more than a chunk in memory, whatever is stored.
func TestChunk(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "activities.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var batch []activity.Checkpoint
	for i := range chunkCount + 1 {
		batch = append(batch, activity.Checkpoint{ID: fmt.Sprintf("small %03d", i)})
	}
	for i := range 3 {
		batch = append(batch, activity.Checkpoint{ID: fmt.Sprintf("large %d", i), Details: make([]byte, chunkBytes/2)})
	}
	if err := s.Save(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		last string
		want int
	}{
		{"", 2}, // of the large ones
		{"large 2", chunkCount},
		{"small 000", chunkCount},
		{"small 001", chunkCount - 1},
		{fmt.Sprintf("small %03d", chunkCount), 0},
	} {
		c := chunk{last: []byte(test.last)}
		if _, err := s.read(t.Context(), &c); err != nil || len(c.checkpoints) != test.want {
			t.Errorf("after %q there are %d in the chunk, not %d: %v", test.last, len(c.checkpoints), test.want, err)
		}
	}
}
