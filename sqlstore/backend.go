package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"strings"
	"time"
)

// A backend is what differs between the databases. Its methods that write are called by one
// goroutine at a time.
type backend interface {
	// tableExists reports whether there is a table with that name.
	tableExists(ctx context.Context, name string) (bool, error)
	// lockSchema keeps other processes from creating the tables until tx ends, unless the
	// database does so.
	lockSchema(ctx context.Context, tx *sql.Tx) error
	// warnings names settings with which a loss of power can undo a commit.
	warnings(ctx context.Context, users *sql.DB) ([]string, error)
	// reader returns the connections for Load and All.
	reader() *sql.DB

	// own makes the Store the owner, and returns its new epoch. If there is another one, it
	// returns errOwned.
	own(ctx context.Context) (epoch int64, err error)
	// connected reports whether the connection is there, as far as is known.
	connected() bool
	// regain is called when own has succeeded before. It makes sure that the connection works,
	// and reports whether the Store is still the owner. If the connection was lost, regain makes
	// a fresh one, and takes the lock again.
	regain(ctx context.Context, epoch int64) (owner, fresh bool, err error)
	// save and remove write, and report whether the Store is still the owner.
	save(ctx context.Context, epoch int64, batch []row) (bool, error)
	remove(ctx context.Context, epoch int64, ids [][]byte) (bool, error)
	// commitStatement writes a row in a transaction of the user's, with commitArguments. It
	// changes nothing if the table has no older version of it, or another process is the owner.
	commitStatement() string
	commitArguments(epoch int64, r *row) []any
	// owns reports whether the Store is the owner.
	owns(ctx context.Context, in querier, epoch int64) (bool, error)
	// begin makes a transaction of the user's ready for writing.
	begin(ctx context.Context, tx *sql.Tx) error
	// load returns the rows with these IDs. If fenced, it returns the IDs of rows that a
	// transaction of the user's has locked apart, and the rows are those of the last transaction
	// that has ended. loadLocked returns a row, or nil, when the transaction has ended.
	load(ctx context.Context, ids [][]byte, fenced bool) (rows []row, locked [][]byte, err error)
	loadLocked(ctx context.Context, id []byte) (*row, error)
	// interrupt ends the statement that the Store's connection executes, if any.
	interrupt()
	// close closes the connection, which gives up the ownership.
	close() error

	writtenQuery() string // the epoch and the sequence of an ID, as loadLocked returns them; arguments: owner, id
	allQuery() string     // arguments: owner, the ID after which the page begins
	holderQuery() string  // argument: owner
}

// errOwned is the error of backend.own if another process owns the checkpoints.
var errOwned = errors.New("owned by another process")

// page is the largest number of checkpoints that All reads at once.
const page = "100"

// isLocked reports whether err says that SQLite is locked by another connection. There is no
// common type for that among the drivers.
func isLocked(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	return strings.Contains(text, "SQLITE_BUSY") || strings.Contains(text, "database is locked") || strings.Contains(text, "table is locked")
}

// retryLocked calls f until it does not fail because SQLite is locked, or ctx ends.
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
