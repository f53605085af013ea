package activitytest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
)

// A Driver wraps a database/sql driver. It adds places, and closes the connections of a dead process.
type Driver struct {
	w    *World
	real driver.Driver
}

// Driver wraps a database/sql driver. There is a place before and after each Exec, Query and Commit of an
// activity or a process, including those of a prepared statement. Other calls have none. So runs cover a
// transaction that is not committed, and a commit whose answer is lost. A crash rolls back the transactions of
// the process, closes its connections, and so frees their locks. So does the end of the process.
//
// With a [Fault], a statement or a Commit fails with [ErrFault]: before it is executed, or after that. A
// stalled statement returns when its context ends, at the latest, as with most drivers. A
// statement without one, and a Commit, are executed late. The process opens the database and closes it before
// it returns:
//
//	db := w.Driver(&sqlite.Driver{}).DB(filepath.Join(dir, "rows.db"))
//	defer db.Close()
//
// If the body opens it, its pool outlives the process, and still counts the connections of a dead one as in
// use. With SetMaxOpenConns, later lives wait forever. If activities contend for the database's lock, their calls
// differ from run to run: limit the pool to one connection. [sql.Conn.Raw] gets the wrapper's connection, not the
// real driver's.
//
// The database runs in real time. If a statement waits for a lock in a system call, as with SQLite's
// busy_timeout, so does the test: make that timeout short. A database server is reached over a network, for
// which the bubble's time stands still until it answers.
func (w *World) Driver(real driver.Driver) *Driver {
	w.outside.Store(true)
	return &Driver{w, real}
}

// DB opens a database, like [sql.Open] with the driver. It panics if the driver refuses the name.
func (d *Driver) DB(dataSourceName string) *sql.DB {
	c, err := d.OpenConnector(dataSourceName)
	if err != nil {
		panic("activitytest: Driver.DB: " + err.Error())
	}
	return sql.OpenDB(c)
}

// Open implements [driver.Driver].
func (d *Driver) Open(name string) (driver.Conn, error) {
	c, err := d.OpenConnector(name)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background())
}

// OpenConnector implements [driver.DriverContext].
func (d *Driver) OpenConnector(name string) (driver.Connector, error) {
	c := &connector{d: d, connect: func(context.Context) (driver.Conn, error) { return d.real.Open(name) }}
	if real, ok := d.real.(driver.DriverContext); ok {
		opened, err := real.OpenConnector(name)
		if err != nil {
			return nil, err
		}
		c.connect = opened.Connect
	}
	return c, nil
}

type connector struct {
	d       *Driver
	connect func(context.Context) (driver.Conn, error)
}

func (c *connector) Driver() driver.Driver { return c.d }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	w := c.d.w
	opener := w.caller(ctx)
	if opener != nil && opener.life.stopped() {
		return nil, errOver
	}
	real, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	own := &conn{w: w, real: real, opener: opener, token: make(chan struct{}, 1)}
	own.ctx, own.cancel = context.WithCancel(context.Background())
	w.mu.Lock()
	w.conns = append(w.conns, own)
	w.mu.Unlock()
	return own, nil
}

// A conn is a connection. What it uses of the real one is closed when the process is dead.
type conn struct {
	w      *World
	real   driver.Conn
	opener *attempt                // nil for the body
	user   atomic.Pointer[attempt] // last user; a pool that outlives the process passes the connection on
	ctx    context.Context         // ends when the process is dead
	cancel context.CancelFunc

	token chan struct{} // held while the real connection is used; a wait for it is durable, as that for a mutex is not
	// Guarded by token.
	closed bool
	parts  []*part // that are open, in the order in which they were opened
}

// A part is a transaction, a statement or rows of the real connection.
type part struct{ close func() error }

// use calls f, which uses the real connection, unless this is closed.
func (c *conn) use(f func() error) error {
	c.token <- struct{}{}
	defer func() { <-c.token }()
	if c.closed {
		return driver.ErrBadConn
	}
	return f()
}

// opens notes that a part was opened. The connection is in use.
func (c *conn) opens(end func() error) *part {
	p := &part{end}
	c.parts = append(c.parts, p)
	return p
}

// ends closes a part by way of f. The connection is in use.
func (c *conn) ends(p *part, f func() error) error {
	i := slices.Index(c.parts, p)
	if i < 0 {
		return driver.ErrBadConn
	}
	c.parts = slices.Delete(c.parts, i, i+1)
	return f()
}

// end closes a part.
func (c *conn) end(p *part) error {
	return c.use(func() error { return c.ends(p, p.close) })
}

// shut closes the connection and all of its parts.
func (c *conn) shut() error {
	c.cancel() // a statement that is being executed
	return c.use(func() error {
		c.closed = true
		for _, p := range slices.Backward(c.parts) {
			_ = p.close() // a transaction is rolled back
		}
		return c.real.Close()
	})
}

// caller returns the attempt or the process that calls, or nil for the body.
func (c *conn) caller(ctx context.Context) *attempt {
	a := c.w.caller(ctx)
	c.user.Store(a)
	return a
}

// of reports whether a dead process has opened the connection or used it last.
func (c *conn) of(dead map[*life]bool) bool {
	user := c.user.Load()
	return c.opener != nil && dead[c.opener.life] || user != nil && dead[user.life]
}

// stopped reports whether the caller's process is dead. If so, it first waits until the body is over.
func (c *conn) stopped(ctx context.Context) bool {
	a := c.caller(ctx)
	return a != nil && a.life.stopped()
}

// effect makes a call between its places. fails makes a Commit fail because of a Fault before it.
func (c *conn) effect(ctx context.Context, kind, query string, do, fails func() error) error {
	a := c.caller(ctx)
	used := func() error { return c.use(do) }
	if a == nil {
		return used()
	}
	e := effect{noun: strings.ToLower(kind), call: call{kind: kind, point: strings.Join(strings.Fields(query), " ")}, do: used, locked: true}
	if fails != nil {
		e.fails = func() error { return errors.Join(ErrFault, c.use(fails)) }
	}
	if kind != "Commit" { // a Commit has no context
		e.ends = ctx.Done()
		e.do = func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return used()
		}
	}
	return a.outside(ctx, e)
}

// within returns a context that ends with ctx or the process.
func (c *conn) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// The methods that follow are all of the optional ones. If the real connection has none such, they
// say ErrSkip or do what database/sql does without them.

var (
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
)

func (c *conn) Close() error {
	err := c.shut()
	if errors.Is(err, driver.ErrBadConn) { // it was closed because the process died
		return nil
	}
	return err
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (own driver.Stmt, err error) {
	if c.stopped(ctx) {
		return nil, errOver
	}
	err = c.use(func() error {
		var real driver.Stmt
		var err error
		if p, ok := c.real.(driver.ConnPrepareContext); ok {
			real, err = p.PrepareContext(ctx, query)
		} else {
			real, err = c.real.Prepare(query)
		}
		if err == nil {
			own = &stmt{c, real, query, c.opens(real.Close)}
		}
		return err
	})
	return own, err
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (own driver.Tx, err error) {
	if c.stopped(ctx) {
		return nil, errOver
	}
	err = c.use(func() error {
		var real driver.Tx
		var err error
		switch b, ok := c.real.(driver.ConnBeginTx); {
		case ok:
			real, err = b.BeginTx(ctx, opts)
		case opts.Isolation != 0:
			err = errors.New("sql: driver does not support non-default isolation level") // as database/sql says
		case opts.ReadOnly:
			err = errors.New("sql: driver does not support read-only transactions")
		default:
			//lint:ignore SA1019 A driver may have nothing else.
			real, err = c.real.Begin()
		}
		if err == nil {
			own = &tx{c, real, ctx, c.opens(real.Rollback)}
		}
		return err
	})
	return own, err
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (r driver.Result, err error) {
	real, ok := c.real.(driver.ExecerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	err = c.effect(ctx, "Exec", query, func() (err error) {
		ctx, done := c.within(ctx)
		defer done()
		r, err = real.ExecContext(ctx, query, args)
		return err
	}, nil)
	return r, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	real, ok := c.real.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	return c.query(ctx, query, func(ctx context.Context) (driver.Rows, error) { return real.QueryContext(ctx, query, args) })
}

// query makes a query, of the connection or of a prepared statement.
func (c *conn) query(ctx context.Context, query string, do func(context.Context) (driver.Rows, error)) (driver.Rows, error) {
	var own *rows
	err := c.effect(ctx, "Query", query, func() error {
		ctx, done := c.within(ctx)
		real, err := do(ctx)
		if err != nil {
			done()
			return err
		}
		own = &rows{c: c, real: real}
		own.part = c.opens(func() error { defer done(); return real.Close() })
		return nil
	}, nil)
	if err != nil && own != nil {
		_ = own.Close()
	}
	if err != nil {
		return nil, err
	}
	return own, nil
}

func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	if real, ok := c.real.(driver.NamedValueChecker); ok {
		return real.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

func (c *conn) Ping(ctx context.Context) error {
	if c.stopped(ctx) {
		return errOver
	}
	return c.use(func() error {
		if real, ok := c.real.(driver.Pinger); ok {
			return real.Ping(ctx)
		}
		return nil
	})
}

func (c *conn) ResetSession(ctx context.Context) error {
	return c.use(func() error {
		if real, ok := c.real.(driver.SessionResetter); ok {
			return real.ResetSession(ctx)
		}
		return nil
	})
}

func (c *conn) IsValid() bool {
	valid := true
	err := c.use(func() error {
		if real, ok := c.real.(driver.Validator); ok {
			valid = real.IsValid()
		}
		return nil
	})
	return valid && err == nil
}

type tx struct {
	c    *conn
	real driver.Tx
	ctx  context.Context // of BeginTx
	part *part
}

func (t *tx) Commit() error {
	end := func(f func() error) func() error { return func() error { return t.c.ends(t.part, f) } }
	return t.c.effect(t.ctx, "Commit", "", end(t.real.Commit), end(t.real.Rollback))
}

func (t *tx) Rollback() error { return t.c.end(t.part) }

type stmt struct {
	c     *conn
	real  driver.Stmt
	query string
	part  *part
}

var (
	_ driver.StmtExecContext   = (*stmt)(nil)
	_ driver.StmtQueryContext  = (*stmt)(nil)
	_ driver.NamedValueChecker = (*stmt)(nil)
	//lint:ignore SA1019 A driver may have nothing else.
	_ driver.ColumnConverter = (*stmt)(nil)
)

func (s *stmt) Close() error { return s.c.end(s.part) }

func (s *stmt) NumInput() int { return s.real.NumInput() }

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, errors.ErrUnsupported }

func (s *stmt) Query([]driver.Value) (driver.Rows, error) { return nil, errors.ErrUnsupported }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (r driver.Result, err error) {
	err = s.c.effect(ctx, "Exec", s.query, func() (err error) {
		if real, ok := s.real.(driver.StmtExecContext); ok {
			ctx, done := s.c.within(ctx)
			defer done()
			r, err = real.ExecContext(ctx, args)
			return err
		}
		values, err := unnamed(args)
		if err == nil {
			//lint:ignore SA1019 A driver may have nothing else.
			r, err = s.real.Exec(values)
		}
		return err
	}, nil)
	return r, err
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.c.query(ctx, s.query, func(ctx context.Context) (driver.Rows, error) {
		if real, ok := s.real.(driver.StmtQueryContext); ok {
			return real.QueryContext(ctx, args)
		}
		values, err := unnamed(args)
		if err != nil {
			return nil, err
		}
		//lint:ignore SA1019 A driver may have nothing else.
		return s.real.Query(values)
	})
}

func (s *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if real, ok := s.real.(driver.NamedValueChecker); ok {
		return real.CheckNamedValue(v)
	}
	//lint:ignore SA1019 A driver may have nothing else.
	if _, ok := s.real.(driver.ColumnConverter); ok {
		return driver.ErrSkip
	}
	return s.c.CheckNamedValue(v)
}

func (s *stmt) ColumnConverter(i int) driver.ValueConverter {
	//lint:ignore SA1019 A driver may have nothing else.
	if real, ok := s.real.(driver.ColumnConverter); ok {
		return real.ColumnConverter(i)
	}
	return driver.DefaultParameterConverter
}

// unnamed returns the values for a driver that knows no names.
func unnamed(args []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(args))
	for i, a := range args {
		if a.Name != "" {
			return nil, errors.New("sql: driver does not support the use of Named Parameters") // as database/sql says
		}
		values[i] = a.Value
	}
	return values, nil
}

type rows struct {
	c    *conn
	real driver.Rows
	part *part
}

var (
	_ driver.RowsNextResultSet              = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
)

func (r *rows) Close() error { return r.c.end(r.part) }

func (r *rows) Next(dest []driver.Value) error {
	return r.c.use(func() error { return r.real.Next(dest) })
}

func (r *rows) Columns() []string { return r.real.Columns() }

func (r *rows) HasNextResultSet() bool {
	real, ok := r.real.(driver.RowsNextResultSet)
	return ok && real.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	return r.c.use(func() error { return r.real.(driver.RowsNextResultSet).NextResultSet() })
}

func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	if real, ok := r.real.(driver.RowsColumnTypeScanType); ok {
		return real.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if real, ok := r.real.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return real.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r *rows) ColumnTypeLength(i int) (length int64, ok bool) {
	if real, is := r.real.(driver.RowsColumnTypeLength); is {
		return real.ColumnTypeLength(i)
	}
	return 0, false
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if real, is := r.real.(driver.RowsColumnTypeNullable); is {
		return real.ColumnTypeNullable(i)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if real, is := r.real.(driver.RowsColumnTypePrecisionScale); is {
		return real.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}
