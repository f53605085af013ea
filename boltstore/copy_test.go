package boltstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

var _ io.WriterTo = (*boltstore.Store)(nil)

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// opened returns a Store in a file with the given content.
func opened(t *testing.T, content []byte) *boltstore.Store {
	t.Helper()
	path := newPath(t)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, path)
}

// wantAlone checks that the file is alone in its directory.
func wantAlone(t *testing.T, path string) {
	t.Helper()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory has %v (error %v), want one file", entries, err)
	}
}

// Given a Store that batches are saved in and deleted from all the time, when copies are made,
// then each opens and has the state between two of these calls, and none is older than the one
// before.
func TestWriteTo_UnderLoad(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	const checkpoints = 30
	batch := func(round int) (batch []activity.Checkpoint) {
		for i := range checkpoints {
			c := checkpoint(fmt.Sprint(i), bytes.Repeat([]byte{byte(round)}, i*1000))
			c.Sequence, c.Input = uint64(round), bytes.Repeat([]byte{byte(round)}, i*500)
			batch = append(batch, c)
		}
		return batch
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	defer load.Wait()
	defer close(stop)
	first := make(chan struct{})
	load.Go(func() {
		for round := 1; ; round++ {
			select {
			case <-stop:
				return
			default:
			}
			err := s.Save(t.Context(), batch(round))
			if round%3 == 0 && err == nil {
				err = s.Delete(t.Context(), []string{"1", "2", "3"})
			}
			if err != nil {
				t.Error(err)
			}
			if round == 1 {
				close(first)
			}
		}
	})
	<-first
	last := uint64(0)
	for range 20 {
		var content bytes.Buffer
		n, err := s.WriteTo(&content)
		if err != nil || n != int64(content.Len()) {
			t.Fatalf("WriteTo returned %d, %v, and wrote %d bytes", n, err, content.Len())
		}
		found, round := 0, uint64(0)
		for c, err := range opened(t, content.Bytes()).All(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if found++; found == 1 {
				round = c.Sequence
			}
			if c.Sequence != round || bytes.Count(c.Input, []byte{byte(round)}) != len(c.Input) || bytes.Count(c.Details, []byte{byte(round)}) != len(c.Details) {
				t.Fatalf("the copy has %q of round %d, and another checkpoint of round %d", c.ID, c.Sequence, round)
			}
		}
		if found != checkpoints && (round%3 != 0 || found != checkpoints-3) {
			t.Errorf("the copy has %d checkpoints of round %d", found, round)
		}
		if round < last {
			t.Errorf("the copy is of round %d, and the one before is of round %d", round, last)
		}
		last = round
	}
	wantAlone(t, path)
}

// Given a writer that hangs, when a Save makes the file outgrow its mapping, then it does not
// wait, and the copy has the state from before.
func TestWriteTo_SlowWriterDelaysNoSave(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", nil))
	var content bytes.Buffer
	_, err := s.WriteTo(writerFunc(func(b []byte) (int, error) {
		// The copy cannot continue before the Save has returned.
		save(t, s, checkpoint("b", make([]byte, 64<<20)))
		return content.Write(b)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ids(opened(t, content.Bytes())); err != nil || fmt.Sprint(got) != "[a]" {
		t.Errorf("the copy has %q (error %v), want a", got, err)
	}
	if got, err := ids(s); err != nil || fmt.Sprint(got) != "[a b]" {
		t.Errorf("the Store has %q (error %v), want a and b", got, err)
	}
}

// Given a read-only Store, when it is copied, then the copy is the file byte for byte, and no
// other file is needed.
func TestWriteTo_ReadOnly(t *testing.T) {
	content, _ := sample(t)
	path := newPath(t)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, path)
	s := openReadOnly(t, path)
	var copied bytes.Buffer
	n, err := s.WriteTo(writerFunc(func(b []byte) (int, error) {
		wantAlone(t, path)
		return copied.Write(b)
	}))
	if err != nil || n != int64(len(content)) || !bytes.Equal(copied.Bytes(), content) {
		t.Errorf("WriteTo returned %d, %v, and wrote %d bytes, want the %d of the file", n, err, copied.Len(), len(content))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	_, err = s.WriteTo(io.Discard)
	wantError(t, err, path, "closed")
	check()
}

// Given a file that is truncated while it is copied, then WriteTo fails.
func TestWriteTo_Truncated(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be truncated")
	}
	content, _ := sample(t)
	path := newPath(t)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openReadOnly(t, path)
	n, err := s.WriteTo(writerFunc(func(b []byte) (int, error) { return len(b), os.Truncate(path, int64(len(b))) }))
	wantError(t, err, path, "copy: unexpected EOF")
	if n == 0 || n >= int64(len(content)) {
		t.Errorf("WriteTo wrote %d of %d bytes", n, len(content))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Given a writer that fails or panics, or a closed Store, when it is copied, then WriteTo fails,
// leaves no other file, and does not harm the Store.
func TestWriteTo_Fails(t *testing.T) {
	path := newPath(t)
	s := open(t, path)
	save(t, s, checkpoint("a", make([]byte, 100_000)))
	errFull := errors.New("no space")
	written := 0
	n, err := s.WriteTo(writerFunc(func(b []byte) (int, error) {
		if written > 0 {
			return 0, errFull
		}
		written = len(b)
		return written, nil
	}))
	wantError(t, err, path, "copy: no space")
	if !errors.Is(err, errFull) || n != int64(written) || n == 0 {
		t.Errorf("WriteTo returned %d, %v, want %d and the writer's error", n, err, written)
	}
	wantAlone(t, path)

	func() {
		defer func() {
			if p := recover(); p != "a panic of the writer" {
				t.Errorf("WriteTo panicked with %v", p)
			}
		}()
		_, _ = s.WriteTo(writerFunc(func([]byte) (int, error) { panic("a panic of the writer") }))
	}()
	wantAlone(t, path)
	save(t, s, checkpoint("a", nil))

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n, err = s.WriteTo(io.Discard)
	wantError(t, err, path, "copy: the Store is closed")
	if n != 0 {
		t.Errorf("of a closed Store, WriteTo wrote %d bytes", n)
	}
	wantAlone(t, path)
}
