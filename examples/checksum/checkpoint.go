package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc64"
	"io/fs"
	"os"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
)

// id is the same in every run, which finds by it what the one before has left.
// Each manifest has a store of its own, so it need not say which manifest.
const id = "manifest"

// A manifestStore keeps the checkpoint of an unfinished manifest in a file beside
// it.
type manifestStore struct {
	*boltstore.Store
	manifest string
}

func storeFile(manifest string) string { return manifest + ".checkpoint" }

func openStore(manifest string) (*manifestStore, error) {
	s, err := boltstore.Open(storeFile(manifest), nil)
	return &manifestStore{s, manifest}, err
}

// Save brings the manifest to the disk before a checkpoint that says how long it
// is: a loss of power could else leave only the checkpoint.
func (s *manifestStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	f, err := os.OpenFile(s.manifest, os.O_WRONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission): // nothing was written yet
	case err != nil:
		return err
	default:
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return s.Store.Save(ctx, batch)
}

// recall returns how far earlier runs came, and the zero progress if this one is
// to start over. That is so if they did not leave the first part of what a run
// from the start would write now; what they recorded is dropped then.
func (s *manifestStore) recall(files []string, say func(string, ...any)) (p progress, err error) {
	ctx := context.Background()
	c, found, err := s.Load(ctx, id)
	if err != nil || !found {
		return p, err
	}
	if _, err := c.HeartbeatDetails(nil, &p); err != nil {
		return p, fmt.Errorf("%s: %w", show(storeFile(s.manifest)), err)
	}
	if p.Next == 0 {
		return p, nil
	}
	if p, _ = p.ifSame(files, always, say); p.Next == 0 {
		return p, s.Delete(ctx, []string{id})
	}
	out, err := openManifest(s.manifest, p)
	switch {
	case errors.Is(err, errChanged):
		say("%v; starting over", err)
		return progress{}, s.Delete(ctx, []string{id})
	case err != nil:
		return p, err
	}
	return p, out.Close()
}

// leave waits until the store holds how the run has ended, and closes it. The file
// stays only if there is something to go on from.
func (s *manifestStore) leave(rt *activity.Runtime, unfinished bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	err := errors.Join(rt.Shutdown(ctx), s.Close())
	if !unfinished {
		err = errors.Join(err, os.Remove(storeFile(s.manifest)))
	}
	return err
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// ifSame returns p if the files before its place are those that it was recorded
// of, and else says so and returns the zero progress, to start over.
func (p progress) ifSame(files []string, alive func() error, say func(string, ...any)) (progress, error) {
	if p.Next <= len(files) {
		sum, err := fingerprint(files[:p.Next], alive)
		if err != nil || sum == p.Files {
			return p, err
		}
	}
	say("the first %d files are not those of the run before, or have changed; starting over", p.Next)
	return progress{}, nil
}

func always() error { return nil }

// fingerprint tells files, by name and as they are now, from others.
func fingerprint(files []string, alive func() error) (sum uint64, err error) {
	for _, file := range files {
		if err := alive(); err != nil {
			return 0, err
		}
		sum = addFingerprint(sum, file)
	}
	return sum, nil
}

// addFingerprint turns the fingerprint of some files into that of one more.
func addFingerprint(sum uint64, file string) uint64 {
	state := "unreadable"
	if info, err := os.Lstat(file); err == nil {
		state = fmt.Sprint(info.Mode(), info.Size(), info.ModTime().UnixNano())
	}
	return crc64.Update(sum, crcTable, fmt.Appendf(nil, "%q %s\n", file, state))
}
