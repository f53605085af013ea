package sqlstore

import (
	"context"
	"fmt"
	"sync"

	"github.com/seed-9da638b0/activity"
)

// Load implements [activity.Store]. On PostgreSQL it waits for a transaction that is about to
// commit the checkpoint, of this process or of the owner before. Calls at the same time share a
// query.
func (s *Store) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	cp, found, err := s.load(ctx, id)
	if err != nil {
		return activity.Checkpoint{}, false, fmt.Errorf("sqlstore: load: %w", ofContext(ctx, err))
	}
	return cp, found, nil
}

func (s *Store) load(ctx context.Context, id string) (cp activity.Checkpoint, found bool, err error) {
	if err := s.usable(ctx); err != nil {
		return cp, false, err
	}
	l := &loading{id: []byte(id), done: make(chan struct{})}
	s.loader.add(s, l)
	select {
	case <-l.done:
	case <-ctx.Done():
		return cp, false, context.Cause(ctx)
	}
	if l.err != nil || l.row == nil {
		return cp, false, l.err
	}
	cp, err = l.row.checkpoint()
	return cp, err == nil, err
}

// A loading is a call of Load.
type loading struct {
	id   []byte
	row  *row // nil if there is none
	err  error
	done chan struct{} // closed when row and err are set
}

// A loader makes one query at a time, for all calls of Load that have come by then. So a thousand
// starts at once do not need a thousand connections.
type loader struct {
	mu      sync.Mutex
	waiting []*loading
	busy    bool // whether the goroutine of run exists
}

func (l *loader) add(s *Store, call *loading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting = append(l.waiting, call); !l.busy {
		l.busy = true
		go l.run(s)
	}
}

func (l *loader) run(s *Store) {
	for {
		l.mu.Lock()
		batch := l.waiting
		if l.waiting = nil; len(batch) == 0 {
			l.busy = false
			l.mu.Unlock()
			return
		}
		if len(batch) > loadsAtOnce {
			batch, l.waiting = batch[:loadsAtOnce], batch[loadsAtOnce:]
		}
		l.mu.Unlock()
		s.loadBatch(batch)
	}
}

const loadsAtOnce = 100

// loadBatch answers calls of Load. A row that a transaction has locked is loaded again, by a
// query of its own that waits for the end of that.
func (s *Store) loadBatch(batch []*loading) {
	ctx, cancel := context.WithTimeout(s.closing, 3*s.lease)
	defer cancel()
	byID := map[string][]*loading{}
	var ids [][]byte
	for _, l := range batch {
		if byID[string(l.id)] == nil {
			ids = append(ids, l.id)
		}
		byID[string(l.id)] = append(byID[string(l.id)], l)
	}
	answer := func(id []byte, r *row, err error) {
		for i, l := range byID[string(id)] {
			if l.err = err; r != nil {
				own := *r
				if i > 0 { // each caller gets bytes of its own
					own = r.clone()
				}
				l.row = &own
			}
			close(l.done)
		}
	}
	var rows []row
	var locked [][]byte
	err := retryLocked(ctx, func() (err error) {
		rows, locked, err = s.backend.load(ctx, ids, !s.readOnly)
		return err
	})
	if err != nil {
		for _, id := range ids {
			answer(id, nil, err)
		}
		return
	}
	found := map[string]*row{}
	for i := range rows {
		found[string(rows[i].ID)] = &rows[i]
	}
	isLocked := map[string]bool{}
	for _, id := range locked {
		isLocked[string(id)] = true
		go func() {
			ctx, cancel := context.WithTimeout(s.closing, 3*s.lease)
			defer cancel()
			r, err := s.backend.loadLocked(ctx, id)
			answer(id, r, err)
		}()
	}
	for _, id := range ids {
		if !isLocked[string(id)] {
			answer(id, found[string(id)], nil)
		}
	}
}
