package servertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
)

// hooks is called around each COMMIT of a connection that openHooked has made.
type hooks struct {
	beforeCommit func() error // nil: nothing; an error rolls back
	afterCommit  func() error
}

// openHooked opens PostgreSQL with hooks.
func openHooked(t testing.TB, dsn string, h *hooks) *sql.DB {
	t.Helper()
	c, err := stdlib.GetDefaultDriver().(driver.DriverContext).OpenConnector(dsn)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(hookedConnector{c, h})
	t.Cleanup(func() { db.Close() })
	return db
}

type hookedConnector struct {
	driver.Connector
	h *hooks
}

func (c hookedConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &hookedConn{conn.(*stdlib.Conn), c.h}, nil
}

type hookedConn struct {
	*stdlib.Conn
	h *hooks
}

func (c *hookedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.Conn.BeginTx(ctx, opts)
	return hookedTx{tx, c.h}, err
}

type hookedTx struct {
	driver.Tx
	h *hooks
}

func (x hookedTx) Commit() error {
	if f := x.h.beforeCommit; f != nil {
		if err := f(); err != nil {
			_ = x.Tx.Rollback()
			return err
		}
	}
	if err := x.Tx.Commit(); err != nil {
		return err
	}
	if f := x.h.afterCommit; f != nil {
		return f()
	}
	return nil
}

// hookedSQLite connects to a file of SQLite, with hooks.
type hookedSQLite struct {
	driver driver.Driver
	file   string
	h      *hooks
}

func (c hookedSQLite) Driver() driver.Driver { return c.driver }

func (c hookedSQLite) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.file)
	if err != nil {
		return nil, err
	}
	return &hookedFile{conn.(fileConn), c.h}, nil
}

// fileConn is what a connection of modernc.org/sqlite implements.
type fileConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type hookedFile struct {
	fileConn
	h *hooks
}

func (c *hookedFile) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	tx, err := c.fileConn.BeginTx(ctx, opts)
	return hookedTx{tx, c.h}, err
}
