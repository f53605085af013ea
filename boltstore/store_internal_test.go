package boltstore

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/seed-9da638b0/activity"
)

// Given more checkpoints than a chunk has, when read is called, then it reads one chunk.
func TestAll_ReadsOneChunk(t *testing.T) {
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
		{"", 2}, // both are large
		{"large 2", chunkCount},
		{"small 000", chunkCount},
		{"small 001", chunkCount - 1},
		{fmt.Sprintf("small %03d", chunkCount), 0},
	} {
		c := chunk{last: []byte(test.last)}
		if _, err := s.read(t.Context(), &c); err != nil || len(c.checkpoints) != test.want {
			t.Errorf("after %q, the chunk has %d checkpoints, want %d: %v", test.last, len(c.checkpoints), test.want, err)
		}
	}
}
