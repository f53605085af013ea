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

// hookedSQLite is a driver with hooks.
type hookedSQLite struct {
	driver.Driver
	h *hooks
}

func (d hookedSQLite) Open(file string) (driver.Conn, error) {
	conn, err := d.Driver.Open(file)
	if err != nil {
		return nil, err
	}
	return &hookedFile{conn.(fileConn), d.h}, nil
}

// A connector opens a file with a driver.
type connector struct {
	driver driver.Driver
	file   string
}

func (c connector) Driver() driver.Driver                        { return c.driver }
func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.file) }

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

// weakSQLite is a driver whose connections do not wait for the disk, unless they are told to.
type weakSQLite struct {
	driver.Driver
	atCommit func(conn fileConn) // called before each COMMIT that is prepared
}

func (d weakSQLite) Open(file string) (driver.Conn, error) {
	conn, err := d.Driver.Open(file)
	if err != nil {
		return nil, err
	}
	weak := &weakFile{conn.(fileConn), d}
	_, err = weak.ExecContext(context.Background(), "PRAGMA synchronous = OFF", nil)
	return weak, err
}

type weakFile struct {
	fileConn
	d weakSQLite
}

func (c *weakFile) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if query == "COMMIT" {
		c.d.atCommit(c.fileConn)
	}
	return c.fileConn.PrepareContext(ctx, query)
}
