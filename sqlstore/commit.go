package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/internal/inside"
)

// Commit records details in tx, and commits tx. So what the function has changed in tx and the
// progress happen together or not at all, and the step is done exactly once. The Store of the
// activity must be a [Store] on the database of tx.
//
// If Commit returns nil, tx is committed. If it returns an error, tx is rolled back, and the
// function should return the error: a later attempt does the step again. If the connection breaks
// during the COMMIT, Commit reads the database to find out what has happened. If that fails too,
// the error says that it is unknown. The next attempt then starts when the database has answered,
// and resumes from what it holds. Details, other errors and the behavior in a
// [activity.Runtime.Drain] are those of [activity.Commit].
//
// A transaction of an attempt that is over, or of a process whose checkpoints another one has
// taken over, cannot commit. Commit returns the cause, which in the latter case is
// [activity.ErrStoreLost].
//
// Do the step in tx alone: what the function does elsewhere may happen twice. In isolation levels
// above READ COMMITTED, Commit fails if the checkpoint was saved since tx began, and the step is
// repeated.
func Commit(ctx activity.Context, tx *sql.Tx, details ...any) error {
	s, err := storeOf(ctx)
	if err == nil && tx == nil {
		err = refuse(ctx, errors.New("the *sql.Tx is nil"))
	}
	if err == nil {
		err = activity.Commit(ctx, func(cp activity.Checkpoint) error { return s.commit(tx, &cp) }, details...)
	}
	if err != nil && tx != nil {
		_ = tx.Rollback() // does nothing if tx has ended
	}
	return err
}

// Range is [activity.Range] whose bodies are transactions: for each i, it begins one, calls body,
// and commits it with the progress, so that body i is done exactly once. db must be the database
// of the activity's [Store].
//
// If body returns an error, its transaction is rolled back, and Range returns that error as it
// is. body must not end tx. The transaction ends with ctx: an attempt that is over holds no locks.
//
// On SQLite, tx can write from the beginning, and waits for other writers before that.
func Range(ctx activity.Context, db *sql.DB, from, to int, body func(tx *sql.Tx, i int) error) error {
	s, err := storeOf(ctx)
	if err != nil {
		return err
	}
	if body == nil || db == nil {
		return refuse(ctx, errors.New("the *sql.DB and the function must not be nil"))
	}
	if err := s.checkDB(ctx, db); err != nil {
		return err
	}
	return inside.Range(ctx, "sqlstore.Range", from, to, func(i int, done func() any) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("sqlstore: beginning the transaction of body %d: %w", i, withCause(ctx, err))
		}
		defer tx.Rollback() // also if body panics
		if err := s.backend.begin(ctx, tx); err != nil {
			return fmt.Errorf("sqlstore: beginning the transaction of body %d: %w", i, withCause(ctx, err))
		}
		if err := body(tx, i); err != nil {
			return err
		}
		return Commit(ctx, tx, done())
	})
}

// checkDB returns an error if db is not the database of the Store, where its epoch is.
func (s *Store) checkDB(ctx activity.Context, db *sql.DB) error {
	check := func(db *sql.DB) error {
		return retryLocked(ctx, func() error { return s.backend.checkOwner(ctx, db, s.epoch) })
	}
	err := check(db)
	switch {
	case errors.Is(err, errNotOwner) && check(s.db) == nil:
		return refuse(ctx, errors.New("the *sql.DB is not the database of the Store"))
	case err != nil:
		return fmt.Errorf("sqlstore: looking for the owner of the Store in the *sql.DB of Range: %w", withCause(ctx, s.ifLost(err)))
	}
	return nil
}

// storeOf returns the Store of the activity.
func storeOf(ctx activity.Context) (*Store, error) {
	store := inside.Store(ctx)
	if s, ok := store.(*Store); ok {
		return s, nil
	}
	return nil, refuse(ctx, fmt.Errorf("Config.Store must be a *sqlstore.Store (got %T)", store))
}

// refuse returns the error of a call that no attempt can make.
func refuse(ctx activity.Context, err error) error {
	info := ctx.Info()
	return activity.NonRetryable(fmt.Errorf("sqlstore: activity %q (%s): nothing was committed: %w", info.ID, info.Name, err))
}

// commit writes cp in tx, and commits it.
func (s *Store) commit(tx *sql.Tx, cp *activity.Checkpoint) error {
	r, err := newRow(cp)
	if err != nil {
		return err
	}
	// Not the activity's context: if that ends now, it must still be known what has happened.
	ctx, cancel := context.WithTimeout(context.Background(), 3*s.lease)
	defer cancel()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if err := s.writeIn(ctx, tx, &r); err != nil {
		return fmt.Errorf("writing the checkpoint: %w", s.ifLost(err))
	}
	if s.dialect == SQLite { // a slow disk must not make it look as if COMMIT had failed
		err = tx.Commit()
	} else { // a server that is cut off does not answer
		done := make(chan error, 1)
		go func() { done <- tx.Commit() }()
		select {
		case err = <-done:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	if err == nil {
		return nil
	}
	return s.resolve(r, err)
}

// writeIn writes r in tx.
func (s *Store) writeIn(ctx context.Context, tx *sql.Tx, r *row) error {
	if err := s.backend.checkOpen(ctx, tx); err != nil {
		return err
	}
	// If SQLite is locked, the statement is not retried, because tx may have a snapshot that stays out
	// of date. The driver has waited for its busy timeout.
	result, err := s.execIn(ctx, tx, s.backend.commitArguments(s.epoch, r)...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	if err := s.backend.checkOwner(ctx, tx, s.epoch); err != nil {
		return err
	}
	return errors.New("the database has a newer one, or none")
}

// execIn executes the statement that writes a row in tx. The statement is prepared once for each
// connection. It cannot be used in a transaction of another *sql.DB than the one that Open got.
func (s *Store) execIn(ctx context.Context, tx *sql.Tx, args ...any) (sql.Result, error) {
	if s.prepared != nil {
		if result, err := tx.StmtContext(ctx, s.prepared).ExecContext(ctx, args...); err == nil || !isForeign(err) {
			return result, err
		}
	}
	return tx.ExecContext(ctx, s.backend.commitStatement(), args...)
}

// isForeign reports whether err says that a statement belongs to another *sql.DB than the
// transaction, for which database/sql has no error value.
func isForeign(err error) bool {
	return strings.Contains(err.Error(), "statement from different database")
}

// resolve finds out whether the transaction that has written r has committed, although its COMMIT
// has failed with err. It waits until that transaction has ended.
func (s *Store) resolve(r row, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*s.lease)
	defer cancel()
	s.unknown.Store(string(r.ID), true)
	epoch, sequence := int64(0), ""
	again := s.backend.await(ctx, r.ID)
	if again == nil {
		again = retryLocked(ctx, func() error {
			return s.db.QueryRowContext(ctx, s.names.expand(s.backend.writtenQuery()), s.owner, r.ID).Scan(&epoch, &sequence)
		})
	}
	if again != nil {
		return fmt.Errorf("committing: %w; it is unknown whether that has happened: %w", err, again)
	}
	s.unknown.Delete(string(r.ID))
	switch {
	case epoch != s.epoch: // the other owner may have written since
		return fmt.Errorf("committing: %w; it is unknown whether that has happened: %w", err, s.ifLost(errNotOwner))
	case sequence != r.Sequence:
		return fmt.Errorf("committing: %w; it was rolled back", err)
	}
	return nil
}
