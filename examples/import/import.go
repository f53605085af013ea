package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"path/filepath"
	"strings"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/sqlstore"
)

// id is the ID of every import into the table, so that there is one at a time.
const id = "import people"

// table has no unique key, so that nothing hides a row that is imported twice.
const table = `CREATE TABLE IF NOT EXISTS people (id bigint NOT NULL, name text NOT NULL, city text NOT NULL, balance bigint NOT NULL)`

// A database has the rows and the checkpoints.
type database struct {
	*sql.DB
	unnest string // turns $1, a JSON array, into a table with the column value
}

func openDatabase(name string) (database, error) {
	if strings.HasPrefix(name, "postgres://") || strings.HasPrefix(name, "postgresql://") {
		db, err := sql.Open("pgx", name)
		return database{db, "json_array_elements($1::json)"}, err
	}
	db, err := sql.Open("sqlite", "file:"+strings.TrimPrefix(name, "file:")+"?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	return database{db, "json_each($1)"}, err
}

// An input says what is imported. It is stored with the progress. If it differs in the next run,
// Start returns an error, because a number of a batch would mean other rows.
type input struct {
	File   string
	Batch  int
	SHA256 string
}

// importer returns the activity that imports src. Each batch is one transaction, and the same
// transaction records that the batch is done. So each batch is imported exactly once.
func importer(db database, src *source) *activity.Definition[input, struct{}] {
	return &activity.Definition[input, struct{}]{
		Name: "import",
		Options: activity.Options{
			HeartbeatTimeout: time.Minute, // a batch takes milliseconds
			// Ten attempts at any one batch. A kill counts as an attempt.
			RetryPolicy: activity.RetryPolicy{MaximumInterval: 10 * time.Second, MaximumAttempts: 10, ResetOnProgress: true},
		},
		Func: func(ctx activity.Context, _ input) (struct{}, error) {
			return struct{}{}, sqlstore.Range(ctx, db.DB, 0, src.batches(), func(tx *sql.Tx, i int) error {
				rows, err := src.read(i)
				if err != nil {
					return err
				}
				data, err := json.Marshal(rows)
				if err != nil {
					return err
				}
				_, err = tx.ExecContext(ctx, `INSERT INTO people (id, name, city, balance)
					SELECT CAST(value->>0 AS bigint), value->>1, value->>2, CAST(value->>3 AS bigint) FROM `+db.unnest, string(data))
				return err
			})
		},
	}
}

// importAll imports what earlier processes have not imported.
func importAll(ctx context.Context, db database, src *source, observe func(activity.Event)) error {
	// If another process owns the checkpoints, this one stands by until that one has ended.
	store, err := sqlstore.Open(ctx, db.DB, &sqlstore.Options{Wait: sqlstore.Forever})
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := db.ExecContext(ctx, table); err != nil {
		return err
	}
	// An import that has completed has no checkpoint any more, and Start would begin another one.
	var started bool
	if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM people)").Scan(&started); err != nil {
		return err
	}
	checkpoint, unfinished, err := store.Load(ctx, id)
	if err != nil {
		return err
	}
	if started && !unfinished {
		log.Print("the rows are imported already")
		return nil
	}

	// Start continues an unfinished import. It does not get ctx, whose end would cut off a batch.
	rt := activity.New(activity.Config{Store: store, Observer: observe})
	in := input{filepath.Base(src.file.Name()), src.batch, src.sha256}
	h, err := importer(db, src).Start(context.Background(), rt, id, in)
	if err != nil {
		return err
	}
	var done activity.RangeProgress
	if resumes, _ := checkpoint.HeartbeatDetails(nil, &done); resumes {
		log.Printf("resuming after %s rows", comma(src.done(done)))
	}
	select {
	case <-h.Done():
	case <-ctx.Done():
		log.Print("stopping; a second signal ends the program at once")
	}
	// The batch in progress is finished. If that takes longer than 20 s, it is canceled.
	if err := errors.Join(within(20*time.Second, rt.Drain), within(10*time.Second, rt.Shutdown)); err != nil && !errors.Is(err, activity.ErrStoreLost) {
		log.Print(err)
	}
	_, err = h.Wait(context.Background())
	return err
}

// within calls end with a context that ends after d.
func within(d time.Duration, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return end(ctx)
}

// check compares the table with the file. It uses nothing that the import has recorded.
func check(ctx context.Context, db database, src *source) error {
	var rows, ids int
	if err := db.QueryRowContext(ctx, "SELECT count(*), count(DISTINCT id) FROM people").Scan(&rows, &ids); err != nil {
		return err
	}
	if rows != src.rows || ids != src.rows {
		return fmt.Errorf("the table has %s rows with %s different IDs, and the file has %s rows", comma(rows), comma(ids), comma(src.rows))
	}
	all, err := db.QueryContext(ctx, "SELECT id, name, city, balance FROM people")
	if err != nil {
		return err
	}
	defer all.Close()
	sum, row := uint64(0), make([]string, 4)
	for all.Next() {
		if err := all.Scan(&row[0], &row[1], &row[2], &row[3]); err != nil {
			return err
		}
		sum += hashOf(row)
	}
	if all.Err() == nil && sum != src.sum {
		return errors.New("the table has as many rows as the file, but other ones")
	}
	return all.Err()
}
