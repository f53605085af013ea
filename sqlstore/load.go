package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"github.com/seed-9da638b0/activity"
)

// Load implements [activity.Store]. Calls at the same time share a query. After a [Commit] whose
// outcome is unknown, Load waits on PostgreSQL until its transaction has ended.
func (s *Store) Load(ctx context.Context, id string) (activity.Checkpoint, bool, error) {
	cp, found, err := s.load(ctx, id)
	if err != nil {
		return activity.Checkpoint{}, false, fmt.Errorf("sqlstore: load: %w", withCause(ctx, err))
	}
	return cp, found, nil
}

func (s *Store) load(ctx context.Context, id string) (cp activity.Checkpoint, found bool, err error) {
	if err := s.usable(ctx); err != nil {
		return cp, false, err
	}
	if _, unknown := s.unknown.Load(id); unknown {
		if err := s.backend.await(ctx, []byte(id)); err != nil {
			return cp, false, err
		}
		s.unknown.Delete(id)
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
		if len(batch) == 0 {
			l.busy = false
			l.mu.Unlock()
			return
		}
		n := min(len(batch), loadsAtOnce)
		batch, l.waiting = batch[:n:n], batch[n:]
		l.mu.Unlock()
		s.loadBatch(batch)
	}
}

const loadsAtOnce = 100

// loadBatch answers calls of Load.
func (s *Store) loadBatch(batch []*loading) {
	ctx, cancel := context.WithTimeout(s.closing, 3*s.lease)
	defer cancel()
	ids := make([][]byte, len(batch))
	for i, l := range batch {
		ids[i] = l.id
	}
	var rows []row
	err := retryLocked(ctx, func() (err error) {
		rows, err = s.backend.load(ctx, ids)
		return err
	})
	found := map[string]row{}
	for _, r := range rows {
		found[string(r.ID)] = r
	}
	for _, l := range batch {
		if r, ok := found[string(l.id)]; ok {
			l.row = &r
		}
		l.err = err
		close(l.done)
	}
}

// An idSet has the IDs of the owner's rows. Only the owner inserts rows, so the set stays correct
// without queries. Whoever changes it holds its Store's turn. mu is for has, which does not.
type idSet struct {
	mu    sync.RWMutex
	all   map[string]struct{} // nil before the first fill
	tried map[string]string   // the highest sequence of each new ID whose Save has not succeeded yet
}

// fill replaces the set with the IDs of rows, the result of a query for IDs and sequences. If there is
// a row that was deleted or is not the Store's own, fill returns an error that wraps errNotOwner: a
// server that was restarted or replaced may have an older database. What is saved now might be older
// than such a row, which would keep it from being stored.
func (s *idSet) fill(rows *sql.Rows, err error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	all := map[string]struct{}{}
	for rows.Next() {
		id, sequence := "", ""
		if err := rows.Scan(&id, &sequence); err != nil {
			return err
		}
		_, known := s.all[id]
		if tried, isNew := s.tried[id]; s.all != nil && (!known || isNew && sequence > tried) {
			return fmt.Errorf("%w, or the database is an older one: the checkpoint %q is there again", errNotOwner, id)
		}
		all[id] = struct{}{}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for id := range s.tried { // they may still be written
		all[id] = struct{}{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = all
	return nil
}

// add adds the rows of a Save that is about to be tried.
func (s *idSet) add(batch []row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range batch {
		id, sequence := string(batch[i].ID), batch[i].Sequence
		tried, isNew := s.tried[id]
		if _, known := s.all[id]; known && !isNew {
			continue
		}
		if s.tried == nil {
			s.tried = map[string]string{}
		}
		s.all[id], s.tried[id] = struct{}{}, max(tried, sequence)
	}
}

// saved notes that the Save has succeeded.
func (s *idSet) saved(batch []row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range batch {
		delete(s.tried, string(batch[i].ID))
	}
}

func (s *idSet) remove(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		delete(s.all, id)
		delete(s.tried, id)
	}
}

func (s *idSet) has(id string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.all[id]
	return ok
}
