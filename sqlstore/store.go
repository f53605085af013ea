package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/seed-9da638b0/activity"
)

// Options configure a Store. The zero Options are ready to use.
type Options struct {
	// Dialect is the kind of database. If zero, Open asks the database.
	Dialect Dialect

	// Table is the name of the table for checkpoints, of letters, digits and underscores. On
	// PostgreSQL it may have a schema before it, as in "jobs.checkpoints". Without one, Open looks
	// for it in the search_path of db once, and creates it in the first schema. There are two more
	// tables, whose names end in "_owners" and "_version". If empty, "activity_checkpoints".
	Table string

	// Owner is a name for the Runtime that uses the Store, at most 200 bytes. Stores with
	// different Owners are independent, even in one table. If empty, "default".
	Owner string

	// Wait is how long Open stands by if another process is the owner. Open returns as soon as
	// the owner is gone. If zero, Open returns [ErrInUse] at once. See [Forever].
	Wait time.Duration

	// Lease is for PostgreSQL. It is how long the owner may be silent, because its process is
	// stopped or the network is cut, before the server takes its lock away. Another process that
	// stands by then takes over. A server that has not answered a statement of the Store for three
	// times as long is taken for unreachable. If zero, 10 s.
	Lease time.Duration

	// ReadOnly makes a Store that only reads, beside the owner: for tools that look at the
	// checkpoints. Its Save and Delete return an error.
	ReadOnly bool

	// Logger gets a Warn for each setting of the database that may be a mistake, such as one with
	// which a loss of power can undo a commit. It also gets lines about standing by, and about a
	// connection that is lost. If nil, slog.Default() is used.
	Logger *slog.Logger
}

// Forever is an [Options.Wait] without a limit.
const Forever = time.Duration(math.MaxInt64)

const (
	defaultOwner = "default"
	defaultLease = 10 * time.Second
	maxOwner     = 200 // bytes
	tryAgain     = 200 * time.Millisecond
	busy         = 30 * time.Second // how long Open waits for a database that is locked or does not answer
)

// ErrInUse is returned by [Open] if another process, or another Store of this one, owns the
// checkpoints.
var ErrInUse = errors.New("the checkpoints are in use")

var (
	errClosed   = errors.New("the Store is closed")
	errReadOnly = errors.New("the Store is read-only")
	errBusy     = fmt.Errorf("the database was locked by another connection, or did not answer, for %s", busy)
)

// A Store keeps the checkpoints of one Runtime in a database. It is an [activity.Store]. All its
// methods may be called by several goroutines at once.
type Store struct {
	names    names
	owner    string
	dialect  Dialect
	lease    time.Duration
	readOnly bool
	logger   *slog.Logger
	backend  backend
	db       *sql.DB   // for Load and All
	epoch    int64     // number of the ownership; set by Open
	prepared *sql.Stmt // what Commit executes; nil if it could not be prepared

	// turn is a lock, of capacity 1, for what the backend does with its connection. It is a
	// channel so that waiting for it can be given up.
	turn chan struct{}

	loader   loader
	ids      idSet           // the IDs of all rows; unknown if readOnly
	unknown  sync.Map        // the IDs of checkpoints whose last Commit may still be in progress
	closed   bool            // whether Close has returned; guarded by turn
	closing  context.Context // ends when Close is called
	close    context.CancelFunc
	keeper   sync.WaitGroup // the goroutine of keep
	lost     chan struct{}  // closed when another owner has taken over
	markLost func()         // closes lost
}

var _ activity.Store = (*Store)(nil)

var tableName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*\.)?[A-Za-z_][A-Za-z0-9_]*$`)

// check returns an error if the Options are invalid.
func (o *Options) check() error {
	switch {
	case o.Dialect < 0 || o.Dialect > SQLite:
		return fmt.Errorf("Options.Dialect must be PostgreSQL, SQLite or zero (got %s)", o.Dialect)
	case o.Table != "" && (!tableName.MatchString(o.Table) || len(o.Table) > 50):
		return fmt.Errorf("Options.Table must be a name of at most 50 letters, digits and underscores, with or without a schema (got %q)", o.Table)
	case len(o.Owner) > maxOwner || strings.Contains(o.Owner, "\x00") || !utf8.ValidString(o.Owner):
		return fmt.Errorf("Options.Owner must be UTF-8 of at most %d bytes, without a zero byte (got %q)", maxOwner, o.Owner)
	case o.Wait < 0:
		return fmt.Errorf("Options.Wait must not be negative (got %s)", o.Wait)
	case o.Lease < 0 || o.Lease > 0 && o.Lease < 100*time.Millisecond:
		return fmt.Errorf("Options.Lease must be at least 100 ms, or zero (got %s)", o.Lease)
	}
	return nil
}

// Open makes a Store that owns the checkpoints of Options.Owner in db. If the tables are missing,
// Open creates them. opts may be nil. ctx limits Open, and not the Store.
//
// db must stay open until [Store.Close] has returned. On PostgreSQL the Store takes one of its
// connections for itself.
//
// Open returns [ErrInUse] if another process owns the checkpoints, and does not give them up
// within Options.Wait. If the database is locked or does not answer for 30 s while Open looks for the
// tables, Open returns an error. When Open returns nil, call [activity.Runtime.Recover] to continue what
// the owner before has left.
func Open(ctx context.Context, db *sql.DB, opts *Options) (*Store, error) {
	if opts == nil {
		opts = &Options{}
	}
	s, err := open(ctx, db, opts)
	if err != nil {
		return nil, fmt.Errorf("sqlstore: %w", withCause(ctx, err))
	}
	return s, nil
}

func open(ctx context.Context, db *sql.DB, opts *Options) (*Store, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if db == nil {
		return nil, errors.New("the *sql.DB is nil")
	}
	s := &Store{
		names: names{orDefault(opts.Table, defaultTable)}, owner: orDefault(opts.Owner, defaultOwner),
		dialect: opts.Dialect, lease: orDefault(opts.Lease, defaultLease), readOnly: opts.ReadOnly, logger: opts.Logger,
		turn: make(chan struct{}, 1), lost: make(chan struct{}),
	}
	s.markLost = sync.OnceFunc(func() { close(s.lost) })
	s.closing, s.close = context.WithCancel(context.Background())
	limit, cancel := context.WithTimeoutCause(ctx, busy, errBusy)
	defer cancel()
	if s.dialect == 0 {
		var err error
		if s.dialect, err = detect(limit, db); err != nil {
			return nil, err
		}
	}
	if s.dialect == SQLite && strings.Contains(s.names.table, ".") {
		return nil, fmt.Errorf("Options.Table must have no schema on SQLite (got %q)", s.names.table)
	}
	if s.dialect == PostgreSQL {
		if err := s.names.qualify(limit, db); err != nil {
			return nil, fmt.Errorf("finding the schema of the table %s: %w", s.names.table, err)
		}
		s.backend = newPostgres(db, s.names, s.owner, s.lease, &s.ids)
	} else {
		q, err := newSQLite(limit, db, s.names, s.owner, &s.ids)
		if err != nil {
			return nil, err
		}
		s.backend = q
	}
	s.db = s.backend.reader()
	if err := s.start(ctx, db, opts.Wait); err != nil {
		s.close()
		return nil, errors.Join(err, s.backend.close())
	}
	return s, nil
}

// orDefault returns v, or otherwise if v is zero.
func orDefault[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// detect returns the Dialect of db.
func detect(ctx context.Context, db *sql.DB) (Dialect, error) {
	// A new connection fails if its data source name sets the journal mode, and SQLite is locked.
	if err := retryLocked(ctx, func() error { return db.PingContext(ctx) }); err != nil {
		return 0, err
	}
	version := ""
	err := db.QueryRowContext(ctx, "SELECT version()").Scan(&version) // SQLite has no such function
	switch {
	case err == nil && strings.HasPrefix(version, "PostgreSQL ") && !strings.Contains(version, "-YB-"):
		return PostgreSQL, nil
	case err == nil:
		return 0, fmt.Errorf("the database is neither PostgreSQL nor SQLite (%s)", version)
	}
	if again := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); again != nil {
		return 0, fmt.Errorf("asking the database for its version: %w", errors.Join(err, again))
	}
	return SQLite, nil
}

// start creates the tables, and makes the Store the owner.
func (s *Store) start(ctx context.Context, users *sql.DB, wait time.Duration) error {
	// A transaction of others, on SQLite, must not keep Open waiting without a word.
	limit, cancel := context.WithTimeoutCause(ctx, busy, errBusy)
	err := withCause(limit, s.migrate(limit))
	cancel()
	if err != nil {
		return err
	}
	if s.readOnly {
		return nil
	}
	warnings, err := s.backend.warnings(ctx, users)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		s.log().Warn("sqlstore: " + w)
	}
	ended := time.NewTimer(wait)
	defer ended.Stop()
	said := ""
	for {
		limit, cancel := context.WithTimeoutCause(ctx, max(busy, 3*s.lease), errBusy)
		s.epoch, err = s.backend.takeOver(limit)
		err = withCause(limit, err)
		cancel()
		var final *finalError
		switch {
		case err == nil:
			if s.prepared, err = users.PrepareContext(ctx, s.backend.commitStatement()); err != nil {
				s.prepared = nil // such as in a pool whose only connection is in use
			}
			s.keeper.Go(s.keep)
			return nil
		case errors.As(err, &final):
			return err
		case errors.Is(err, errOwned):
			err = s.inUse(ctx)
		}
		if wait == 0 {
			return err
		}
		if text := err.Error(); text != said { // such as another owner
			said = text
			s.log().Info("sqlstore: standing by", "table", s.names.table, "owner", s.owner, "reason", text)
		}
		select {
		case <-time.After(tryAgain):
		case <-ended.C:
			return fmt.Errorf("%w; waited for %s", err, wait)
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// inUse returns an error that says who owns the checkpoints.
func (s *Store) inUse(ctx context.Context) error {
	by := ""
	_ = s.db.QueryRowContext(ctx, s.names.expand(s.backend.holderQuery()), s.owner).Scan(&by)
	return fmt.Errorf("%w by %s (table %s, owner %q)", ErrInUse, orDefault(by, "another process"), s.names.table, s.owner)
}

// holder describes this process, for inUse.
func holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("process %d on %s, since %s", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
}

func (s *Store) log() *slog.Logger {
	if s.logger != nil {
		return s.logger
	}
	return slog.Default()
}

// Close gives up the ownership, so that another process can take over. Close the Store after the
// Runtime's Shutdown. From then on, every method returns an error, and so do [Commit] and [Range]. A
// second Close does nothing.
func (s *Store) Close() error {
	s.close()
	s.keeper.Wait()
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.prepared != nil {
		_ = s.prepared.Close()
	}
	if err := s.backend.close(); err != nil {
		return fmt.Errorf("sqlstore: closing: %w", err)
	}
	return nil
}

// Lost returns a channel that is closed when another process has taken over the checkpoints. That
// can happen on PostgreSQL, after this process was silent for Options.Lease or has lost its
// connection. The channel is also closed if the Store connects again and finds an older database. On
// SQLite, it can be closed only if somebody removes the file with the lock. The Runtime then cancels
// its stored activities with [activity.ErrStoreLost].
func (s *Store) Lost() <-chan struct{} { return s.lost }

// KeepsNewest reports true: a Save never replaces a checkpoint that [Commit] has written later.
func (s *Store) KeepsNewest() bool { return true }

// MayHold reports whether there may be a checkpoint with that ID. It asks no database, so the
// Runtime starts an activity with a new ID without a query. If another process has taken over, it
// may be wrong until [Store.Lost] is closed: unlike [Store.Load], it is not for programs that only
// look.
func (s *Store) MayHold(id string) bool { return s.readOnly || s.ids.has(id) }

// keep makes sure that the Store stays the owner, until it is closed.
func (s *Store) keep() {
	for {
		select {
		case <-s.closing.Done():
			return
		case <-s.lost:
			return
		case <-time.After(s.lease / 4):
		}
		_ = s.do(s.closing, func(ctx context.Context) error {
			_, err := s.regain(ctx)
			return err
		})
	}
}

// do calls f, which writes, when the connection works and the Store is the owner. When ctx ends, or
// the Store is closed, f is asked to end. What f has done is then unknown: a canceled COMMIT may be on
// the server's disk, and not yet on that of its standby.
func (s *Store) do(ctx context.Context, f func(context.Context) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.turn }()
	if err := s.usable(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.closing, func() { cancel(errClosed) })()
	err := s.exchange(ctx, f)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return withCause(ctx, err)
}

// usable returns an error if the Store cannot be used any more, or ctx has ended.
func (s *Store) usable(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.closing.Err() != nil:
		return errClosed
	case s.readOnly:
		return nil
	}
	select {
	case <-s.lost:
		return activity.ErrStoreLost
	default:
		return nil
	}
}

// exchange calls f when the connection works. If the connection breaks, it is unknown what f has
// done, and exchange calls it again with another connection, if the Store is still the owner.
func (s *Store) exchange(ctx context.Context, f func(context.Context) error) error {
	if !s.backend.connected() {
		if _, err := s.regain(ctx); err != nil {
			return err
		}
	}
	for {
		err := f(ctx)
		switch {
		case err == nil || errors.Is(err, errNotOwner) || errors.Is(err, activity.ErrStoreLost):
			return s.ifLost(err)
		case ctx.Err() != nil:
			return err
		case isCanceled(err):
			continue // the cancel request was meant for the statement before
		}
		if fresh, again := s.regain(ctx); again != nil || !fresh {
			return errors.Join(err, again)
		}
	}
}

// isCanceled reports whether err says that the server was asked to cancel the statement.
func isCanceled(err error) bool {
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "57014"
}

// regain waits until the connection works, and reports whether it is a fresh one. It returns
// ErrStoreLost if the Store is no longer the owner.
func (s *Store) regain(ctx context.Context) (fresh bool, err error) {
	logged := false
	for {
		fresh, err := s.backend.regain(ctx, s.epoch)
		switch {
		case errors.Is(err, errNotOwner):
			s.log().Warn("sqlstore: the Store is lost", "table", s.names.table, "owner", s.owner, "error", err)
			return false, s.ifLost(err)
		case err == nil:
			if logged {
				s.log().Info("sqlstore: connected again, and still the owner", "table", s.names.table, "owner", s.owner)
			}
			return fresh, nil
		case !logged && ctx.Err() == nil:
			logged = true
			s.log().Warn("sqlstore: the connection that holds the lock is lost; connecting again", "table", s.names.table, "owner", s.owner, "error", err)
		}
		select {
		case <-time.After(tryAgain):
		case <-ctx.Done():
			return false, withCause(ctx, err)
		}
	}
}

// ifLost notes that another process is the owner, if err says so, and returns the error for users.
func (s *Store) ifLost(err error) error {
	if !errors.Is(err, errNotOwner) {
		return err
	}
	s.markLost()
	return activity.ErrStoreLost
}

// Save implements [activity.Store]. It is one transaction. If ctx ends, the server is asked to cancel
// the statement. If it does not answer, Save returns within three times Options.Lease, or, with
// lib/pq, when the network reports an error. On SQLite, Save waits for the disk.
func (s *Store) Save(ctx context.Context, batch []activity.Checkpoint) error {
	rows := make([]row, len(batch))
	for i := range batch {
		var err error
		if rows[i], err = newRow(&batch[i]); err != nil {
			return fmt.Errorf("sqlstore: %w", err)
		}
	}
	return s.change(ctx, "save", func(ctx context.Context) error {
		s.ids.add(rows) // even if this fails, because it may have happened
		err := s.backend.save(ctx, s.epoch, rows)
		if err == nil {
			s.ids.saved(rows)
		}
		return err
	})
}

// Delete implements [activity.Store].
func (s *Store) Delete(ctx context.Context, ids []string) error {
	all := make([][]byte, len(ids))
	for i, id := range ids {
		all[i] = blob(id)
	}
	return s.change(ctx, "delete", func(ctx context.Context) error {
		err := s.backend.remove(ctx, s.epoch, all)
		if err == nil {
			s.ids.remove(ids)
		}
		return err
	})
}

func (s *Store) change(ctx context.Context, what string, f func(context.Context) error) error {
	err := error(errReadOnly)
	if !s.readOnly {
		err = s.do(ctx, f)
	}
	if err != nil {
		return fmt.Errorf("sqlstore: %s: %w", what, err)
	}
	return nil
}

// withCause adds the cause of ctx to err, if ctx has ended and err does not say so.
func withCause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}

// All implements [activity.Store]. It yields the checkpoints in the order of their IDs, and reads
// some at a time, so that it holds no connection while it yields.
func (s *Store) All(ctx context.Context) iter.Seq2[activity.Checkpoint, error] {
	return func(yield func(activity.Checkpoint, error) bool) {
		for last := ""; ; {
			rows, more, err := s.page(ctx, last)
			if err != nil {
				yield(activity.Checkpoint{}, fmt.Errorf("sqlstore: reading all checkpoints: %w", err))
				return
			}
			for i := range rows {
				cp, err := rows[i].checkpoint()
				if err != nil {
					err = fmt.Errorf("sqlstore: reading all checkpoints: %w", err)
				}
				if !yield(cp, err) || err != nil {
					return
				}
				last, rows[i] = cp.ID, row{}
			}
			if !more {
				return
			}
		}
	}
}

const pageBytes = 16 << 20 // the size at which a page is cut

// page returns the checkpoints after that ID, and whether there may be more.
func (s *Store) page(ctx context.Context, after string) (all []row, more bool, err error) {
	if err := s.usable(ctx); err != nil {
		return nil, false, err
	}
	err = retryLocked(ctx, func() error {
		all, more = nil, false
		rows, err := s.db.QueryContext(ctx, s.names.expand(s.backend.allQuery()), s.owner, blob(after))
		if err != nil {
			return err
		}
		defer rows.Close()
		for size := 0; rows.Next(); {
			var r row
			if err := rows.Scan(r.fields()...); err != nil {
				return err
			}
			all, more = append(all, r), true
			if size += r.size(); size > pageBytes {
				return nil
			}
		}
		return rows.Err()
	})
	return all, more, withCause(ctx, err)
}
