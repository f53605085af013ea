// Package sqlstore keeps the checkpoints of activities in a PostgreSQL or SQLite database. Its
// [Store] is an [activity.Store]. Because the activity's own rows are in the same database, a step
// and its progress can commit in one transaction: with [Range] or [Commit], a step is done exactly
// once.
//
//	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
//	if err != nil {
//		return err
//	}
//	store, err := sqlstore.Open(ctx, db, &sqlstore.Options{Wait: sqlstore.Forever})
//	if err != nil {
//		return err
//	}
//	defer store.Close() // after the Runtime's Shutdown
//	rt := activity.New(activity.Config{Store: store})
//	if _, err := rt.Recover(ctx, definitions...); err != nil {
//		log.Println(err)
//	}
//
// The package needs no particular driver. It is tested with github.com/jackc/pgx/v5/stdlib and
// github.com/lib/pq for PostgreSQL 15, and with modernc.org/sqlite and github.com/mattn/go-sqlite3 for
// SQLite. PostgreSQL 14 is the oldest version that it accepts. It runs on SQLite 3.35 or newer.
//
// # Exactly once
//
// [Range] is [activity.Range] whose bodies are transactions. [Commit] is for other loops: it takes
// the place of tx.Commit and of the Heartbeat after a step.
//
//	tx, err := db.BeginTx(ctx, nil)
//	if err != nil {
//		return err
//	}
//	defer tx.Rollback()
//	// ... the step, in tx
//	return sqlstore.Commit(ctx, tx, next)
//
// The transaction checks that the process still owns its checkpoints, and that nothing newer is
// stored. So a transaction of an attempt that is over, or of a process that was stopped and
// replaced, cannot commit. If the connection breaks during a COMMIT, Commit reads the database to
// find out whether it has happened.
//
// Only what is in the transaction happens once. A request to another service can be repeated, so
// give it an idempotency key, such as the number of the step. Return the errors of statements:
// after some of them, SQLite rolls the transaction back by itself, and what follows is not in it.
// [Commit] then returns an error.
//
// A transaction costs a commit. If the rows are small, let each body insert a batch of them in one
// statement. The number of a batch must mean the same rows in every run.
//
// Once an activity has completed, nothing is stored of it, so a start of its ID begins anew. Before
// a program starts an ID that may have completed, it must look at its own tables. Either the
// function notes in a transaction that it is done, or, as in the repository's examples/import, the
// program finds rows, and [Store.Load] finds no checkpoint.
//
// # One owner, and others that stand by
//
// One Store at a time owns the checkpoints of an [Options.Owner]. With [Options.Wait], Open stands
// by until the owner is gone. So of several replicas of a service, one runs the activities. When
// that is killed, another takes over, calls [activity.Runtime.Recover], and continues them.
//
// On PostgreSQL, one session of the server holds an advisory lock, and the Store writes through
// that session only. If the owner is silent for [Options.Lease], because its process is stopped or
// the network is cut, the server ends the session. If the connection is lost, the Store connects
// again. It is still the owner, unless another process has taken over meanwhile: then [Store.Lost]
// is closed, and the Runtime cancels its activities with [activity.ErrStoreLost]. To continue,
// the program opens a new Store and makes a new Runtime, or simply exits and is restarted.
//
// Between the end of the lease and the moment at which the old owner notices it, functions of both
// may run. What they do in transactions with [Commit] or [Range] is safe. Other effects can overlap.
// Whoever takes over waits for transactions that have locked a checkpoint, at most for the lease if
// they are an activity's, and rewrites all rows of the owner once.
//
// The owner keeps the IDs of its checkpoints in memory, so that a start of a new ID needs no query. A
// million short IDs take some 70 MB. Because the owner does not look for new rows, nothing else may
// insert any while the Store is open. If the owner connects again and finds rows that it has deleted,
// as after a failover to a server that lagged behind, the Store is lost, too.
//
// The Store takes one connection of the pool for itself, and needs another when it connects. If
// you limit the pool with SetMaxOpenConns, allow two more than the transactions at a time. The
// role needs SELECT, INSERT, UPDATE and DELETE on the three tables.
//
// A pooler that shares sessions among transactions, such as PgBouncer in transaction mode, cannot
// be used. Open refuses it. The application may use one for its own transactions, if the Store
// gets a *sql.DB that does not.
//
// On SQLite, the Store holds a lock on a file beside the database, named after the table and the
// owner. The operating system frees it when the process ends. A process that is stopped keeps it.
// Do not delete that file. As with every SQLite database, do not put it on a network file system.
//
// # SQLite
//
// SQLite has one writer at a time. While a transaction of an activity is open, the Store cannot
// save, so keep transactions short. Use a write-ahead log and a busy timeout, for example
// "file:data.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)" with modernc.org/sqlite, and
// "file:data.db?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=10000" with mattn/go-sqlite3. Use one
// driver in a process: two copies of SQLite do not see each other's locks, and can damage the file.
//
// A transaction that reads first and writes later can fail with SQLITE_BUSY ("database is locked") at
// once, whatever the busy timeout. Begin it as a writer, with _txlock=immediate in the name of the
// file. [Range] does so itself. The *sql.DB may be limited to one connection. The Store opens the file
// by its name for connections of its own, with the same driver, so it does not see settings of the
// data source name, such as a key for encryption. It refuses databases in memory.
//
// # Durability
//
// When Save returns nil, the checkpoints survive a crash of the server and a loss of power. The
// Store sets synchronous_commit and PRAGMA synchronous for its own connection. A transaction of the
// application's has the application's settings. With synchronous_commit=off, or in a write-ahead log
// with PRAGMA synchronous=NORMAL, the last transactions can be lost together with their progress, and
// then happen again, once. NORMAL is the default of mattn/go-sqlite3. With fsync=off, or PRAGMA
// synchronous=OFF, a loss of power can damage the database. Open warns of the settings that are off.
//
// # The tables
//
// [Open] creates three tables if they are missing: one row for each checkpoint, one for each owner,
// and one with the version. [Schema] prints the statements. To see what is stored on PostgreSQL:
//
//	SELECT encode(id, 'escape'), encode(name, 'escape'), state, attempt, updated_at,
//		encode(details, 'escape'), encode(last_failure, 'escape') FROM activity_checkpoints
//
// The states are the numbers of [activity.CheckpointState]. A Store with [Options.ReadOnly] reads
// them beside the owner.
package sqlstore
