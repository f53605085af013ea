package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"github.com/seed-9da638b0/activity/examples/checksum/manifest"
)

// id is the same in every run, so that each run finds the checkpoint of the previous
// one. It does not name the manifest, because each manifest has a store of its own.
const id = "manifest"

// A manifestStore keeps the checkpoint of an unfinished manifest in a file beside it.
type manifestStore struct {
	*boltstore.Store
	manifest string
}

func openStore(path string) (*manifestStore, error) {
	s, err := boltstore.Open(manifest.CheckpointFile(path), nil)
	return &manifestStore{s, path}, err
}

// Save syncs the sums file before it saves a checkpoint that says which files are done.
// Otherwise a loss of power could leave only the checkpoint.
func (s *manifestStore) Save(ctx context.Context, batch []activity.Checkpoint) error {
	f, err := os.OpenFile(manifest.SumsFile(s.manifest), os.O_WRONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist): // nothing was written yet
	case err != nil:
		return err
	default:
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return s.Store.Save(ctx, batch)
}

// recall returns the progress of earlier runs. If the files have changed since, it drops
// the checkpoint and returns the zero progress.
func (s *manifestStore) recall(files []string, say func(string, ...any)) (p activity.RangeProgress, err error) {
	ctx := context.Background()
	c, found, err := s.Load(ctx, id)
	if err != nil || !found {
		return p, err
	}
	if _, err := c.HeartbeatDetails(nil, &p); err != nil {
		return p, fmt.Errorf("%s: %w", manifest.Quote(manifest.CheckpointFile(s.manifest)), err)
	}
	_, err = manifest.Recall(s.manifest, files, p, func() error { return nil })
	if errors.Is(err, manifest.ErrChanged) {
		say("%v; starting over", err)
		return activity.RangeProgress{}, s.Delete(ctx, []string{id})
	}
	return p, err
}

// leave closes the store. It removes what is beside the manifest, unless the next run can
// resume from it.
func (s *manifestStore) leave(unfinished bool) error {
	err := s.Close()
	if !unfinished {
		err = errors.Join(err, os.Remove(manifest.CheckpointFile(s.manifest)), os.RemoveAll(manifest.SumsFile(s.manifest)))
	}
	return err
}
