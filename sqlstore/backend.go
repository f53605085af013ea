package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"time"
)

// A backend is what differs between the databases. takeOver and the methods after it, up to close,
// are called by one goroutine at a time. Those that write return errNotOwner, and have written
// nothing, if the epoch of the owner in the database is another one.
type backend interface {
	// reader returns the connections for Load and All.
	reader() *sql.DB
	// tableExists reports whether there is a table with that name.
	tableExists(ctx context.Context, name string) (bool, error)
	// lockSchema keeps other processes from creating the tables until tx ends, unless the
	// database does so.
	lockSchema(ctx context.Context, tx *sql.Tx) error
	// warnings names settings of the user's connections that may be mistakes.
	warnings(ctx context.Context, users *sql.DB) ([]string, error)

	// takeOver makes the Store the owner, and returns its new epoch. If there is another owner,
	// the error is errOwned. A *finalError is one that waiting does not mend.
	takeOver(ctx context.Context) (epoch int64, err error)
	// connected reports whether the Store's own connection is there, as far as is known.
	connected() bool
	// regain makes sure that the Store's own connection works, and that it is still the owner. If
	// the connection was lost, regain makes a fresh one, and takes the lock again.
	regain(ctx context.Context, epoch int64) (fresh bool, err error)
	save(ctx context.Context, epoch int64, batch []row) error
	remove(ctx context.Context, epoch int64, ids [][]byte) error
	// close closes the Store's own connection, which gives up the ownership.
	close() error

	// load returns the rows with these IDs.
	load(ctx context.Context, ids [][]byte) ([]row, error)
	// await waits until no transaction of the user's that has written the row with this ID is open.
	await(ctx context.Context, id []byte) error
	// begin makes a transaction of the user's ready for writing.
	begin(ctx context.Context, tx *sql.Tx) error
	// checkOpen returns an error if a transaction of the user's is no longer open.
	checkOpen(ctx context.Context, tx *sql.Tx) error
	// commitStatement writes a row in a transaction of the user's, with commitArguments. It
	// changes nothing if the table has no older version of it, or has it with another epoch.
	commitStatement() string
	commitArguments(epoch int64, r *row) []any
	// checkOwner returns nil if the epoch in the database is this one, and otherwise errNotOwner.
	checkOwner(ctx context.Context, in querier, epoch int64) error

	allQuery() string     // arguments: owner, the ID after which the page begins
	holderQuery() string  // argument: owner
	writtenQuery() string // the epoch and the sequence of a row; arguments: owner, ID
}

var (
	errOwned    = errors.New("owned by another process")
	errNotOwner = errors.New("another process has taken over")
)

// A finalError is an error of takeOver that waiting does not mend.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// page is the largest number of checkpoints that All reads at once.
const page = "100"

// isLocked reports whether err says that SQLite is locked by another connection. The drivers have no
// common error type, so isLocked looks for SQLite's text.
func isLocked(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "SQLITE_BUSY") || strings.Contains(text, "database is locked") || strings.Contains(text, "table is locked")
}

// retryLocked calls f until it does not fail because SQLite is locked, or ctx ends. f must not write in
// a transaction that has read, because a snapshot that is out of date stays locked.
func retryLocked(ctx context.Context, f func() error) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := f()
		if !isLocked(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}

// discard closes a connection instead of returning it to the pool: what the Store has changed in
// its session is not for others.
func discard(c *sql.Conn) {
	_ = c.Raw(func(any) error { return driver.ErrBadConn })
	_ = c.Close()
}

// checkOwner returns errNotOwner unless query returns that epoch.
func checkOwner(ctx context.Context, in querier, query, owner string, epoch int64) error {
	current := int64(0)
	err := in.QueryRowContext(ctx, query, owner).Scan(&current)
	if errors.Is(err, sql.ErrNoRows) || err == nil && current != epoch {
		return errNotOwner
	}
	return err
}

// firstEpoch returns the epoch of the first owner. It depends on the time, so that it differs from
// those of a table that was dropped or replaced.
func firstEpoch() int64 { return time.Now().UnixMicro() }
