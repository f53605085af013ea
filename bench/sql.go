package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/sqlstore"
)

const (
	sqlFloorRun  = "floor: two commits"
	sqlHandRun   = "by hand: SELECT, two commits"
	sqlFloorStep = "floor: BEGIN, INSERT, COMMIT"
	sqlHandStep  = "by hand: BEGIN, INSERT, UPDATE, COMMIT"
	sqlOurRun    = "this package, Run"
	sqlOurCommit = "this package, Commit"
	sqlOurRange  = "this package, Range"
	sqlOurStart  = "this package, Start"
)

func sqlRun(d database) string    { return "sql, run, " + d.name }
func sqlStep(d database) string   { return "sql, step, " + d.name }
func sqlBatch(d database) string  { return "sql, batch, " + d.name }
func sqlAtOnce(d database) string { return "sql, at once, " + d.name }

func sqlSections(s scale, d *databases) []section {
	pg, lite := d.postgres(), d.sqlite()

	run := sqlRunSection(pg, s)
	run.text += " River and DBOS: from the insertion of a job or a workflow that does nothing, until it is recorded as completed. " +
		"All three run the function at least once: if the process is killed, another execution begins. " +
		"This package's begins when the next process recovers its activities, and DBOS's when a process with the same executor ID starts. " +
		"River's begins when the job is rescued, by default after 1 h, on any machine: River is a queue for many workers, and this package has none."
	run.rows = append(run.rows,
		row{name: "River, default", rounds: s.slowRounds, remark: fmt.Sprintf("three commits: inserted, fetched, completed; the completer works every 250 ms unless there are many jobs; rounds: %d", s.slowRounds), open: pg.row("run_river_default", func(c *sqlClient) (subject, error) { return riverJobs(d, c.table, false) })},
		row{name: "River, tuned", remark: "the same with FetchCooldown 1 ms, and the worker calls JobCompleteTx", least: s.steps, open: pg.row("run_river_tuned", func(c *sqlClient) (subject, error) { return riverJobs(d, c.table, true) })},
		row{name: "DBOS", remark: "two commits: the workflow, and its outcome", least: s.steps, open: pg.row("run_dbos", func(c *sqlClient) (subject, error) { return dbosWorkflows(d, c.table) })},
	)

	step := sqlStepSection(pg, s)
	step.text += " River and DBOS: the steps of one job or workflow, without its start and end. " +
		"In all three, the row and the progress are committed together, so that a crash repeats no step. " +
		"This package and DBOS also compare the owner in that transaction, so that an execution that was taken over cannot commit. " +
		"River's cursor is not fenced: if a job is rescued while its worker still runs, both can commit the same step. " +
		"By default that takes a worker that runs for 1 h (RescueStuckJobsAfter) although its context ends after 1 min (JobTimeout), because it ignores that or its process was stopped. " +
		"The call returns the job's row, with which a worker can compare the attempt itself. " +
		"DBOS keeps a checkpoint for each step. Its next execution begins at the start and reads them, so the workflow must be deterministic. " +
		"This package and River keep the newest progress."
	step.rows = append(step.rows,
		row{name: "floor: the same, pgxpool", remark: "without database/sql, as River and DBOS do it", least: s.steps, open: pg.row("step_pgxpool", func(c *sqlClient) (subject, error) { return pgxpoolSteps(d, c) })},
		row{name: "River, ResumableSetStepCursorTx", remark: "pgxpool; four statements", least: s.steps, open: pg.row("step_river", func(c *sqlClient) (subject, error) { return riverSteps(d, c) })},
		row{name: "DBOS, RunAsTransaction", remark: "pgxpool, on the pool of the system database; nine statements", least: s.steps, open: pg.row("step_dbos", func(c *sqlClient) (subject, error) { return dbosSteps(d, c) })},
	)

	return []section{run, sqlRunSection(lite, s), step, sqlStepSection(lite, s), sqlBatchSection(pg, s), sqlBatchSection(lite, s), sqlAtOnceSection(pg, s), sqlAtOnceSection(lite, s)}
}

func sqlRunSection(d database, s scale) section {
	return section{
		name: sqlRun(d), title: "One durable activity, on " + d.name, missing: d.missing, rounds: s.commits,
		text: "On " + d.settings + ". One after the other. The function calls ctx.Err() once, and the caller's context can be canceled. ns: from the call to its return.",
		rows: []row{
			{name: sqlFloorRun, remark: "an upsert of the same row and its DELETE, each a transaction of one statement", least: s.steps, open: d.row("run_floor", func(c *sqlClient) (subject, error) {
				return c.floorRuns(func(ctx context.Context, f *floorTable) error {
					return errors.Join(f.save(ctx, "looks"), f.delete(ctx, "looks"))
				})
			})},
			{name: sqlHandRun, remark: "the same after a SELECT, which shows whether the activity is to be continued", least: s.steps, open: d.row("run_hand", func(c *sqlClient) (subject, error) {
				return c.floorRuns(func(ctx context.Context, f *floorTable) error {
					found, err := f.load(ctx, "looks")
					if err == nil && found {
						err = errors.New("the row is there before it is inserted")
					}
					return errors.Join(err, f.save(ctx, "looks"), f.delete(ctx, "looks"))
				})
			})},
			{name: sqlOurRun, ours: true, least: s.steps, open: d.row("run_ours", func(c *sqlClient) (subject, error) {
				rt, end, err := c.runtime()
				if err != nil {
					return subject{}, err
				}
				ctx, cancel := context.WithCancel(context.Background())
				opts := bothTimeouts()
				opts.ID = "looks"
				did := 0
				f := func(ctx activity.Context) error { did++; return ctx.Err() }
				return subject{measure: timed(func(n int) error {
					return repeat(n, func() error { return rt.Run(ctx, opts, f) })
				}, func(n int) error {
					ran := did
					did = 0
					return same(ran, n, "activities")
				}), close: func() error { cancel(); return end() }}, nil
			})},
		},
	}
}

func sqlStepSection(d database, s scale) section {
	return section{
		name: sqlStep(d), title: "One step that inserts a row, on " + d.name, missing: d.missing, rounds: s.commits,
		text: "On " + d.settings + ". One after the other, with a context that can be canceled. ns: from the beginning of the transaction until it is committed.",
		rows: []row{
			{name: sqlFloorStep, remark: "database/sql", least: s.steps, open: d.row("step_floor", func(c *sqlClient) (subject, error) {
				return c.floorSteps(1, func(_ context.Context, _ *stepTable, tx *sql.Tx) error { return tx.Commit() })
			})},
			{name: sqlHandStep, remark: "a row with the number of the last step: no fencing, no sequence, no answer if the connection breaks", least: s.steps, open: d.row("step_hand", func(c *sqlClient) (subject, error) {
				if err := c.exec("CREATE TABLE "+c.table+" (id text PRIMARY KEY, n bigint NOT NULL)", "INSERT INTO "+c.table+" (id, n) VALUES ('steps', 0)"); err != nil {
					return subject{}, err
				}
				progress := "UPDATE " + c.table + " SET n = $1 WHERE id = $2"
				return c.floorSteps(1, func(ctx context.Context, t *stepTable, tx *sql.Tx) error {
					result, err := tx.ExecContext(ctx, progress, t.last, "steps")
					if err != nil {
						return err
					}
					if n, err := result.RowsAffected(); err != nil || n != 1 {
						return errors.Join(err, same(int(n), 1, "rows with the progress"))
					}
					return tx.Commit()
				})
			})},
			{name: sqlOurCommit, remark: "sqlstore.Commit in place of COMMIT", ours: true, least: s.steps, open: d.row("step_commit", func(c *sqlClient) (subject, error) {
				return c.ourSteps(1, commits)
			})},
			{name: sqlOurRange, remark: "sqlstore.Range: one body", least: s.steps, open: d.row("step_range", func(c *sqlClient) (subject, error) {
				return c.ourSteps(1, func(ctx activity.Context, t *stepTable, n int) error {
					return sqlstore.Range(ctx, c.db, 0, n, func(tx *sql.Tx, _ int) error { return t.add(ctx, tx) })
				})
			})},
		},
	}
}

// stepRows is the number of rows that a step of sqlBatchSection inserts, as many as examples/import does.
const stepRows = 1000

func sqlBatchSection(d database, s scale) section {
	return section{
		name: sqlBatch(d), title: fmt.Sprintf("One step that inserts %s rows, on %s", count(stepRows), d.name), missing: d.missing, rounds: s.commits,
		text: "On " + d.settings + ". One after the other, with a context that can be canceled. The rows are in one statement. ns: from the beginning of the transaction until it is committed.",
		rows: []row{
			{name: sqlFloorStep, remark: "database/sql", least: s.steps, open: d.row("batch_floor", func(c *sqlClient) (subject, error) {
				return c.floorSteps(stepRows, func(_ context.Context, _ *stepTable, tx *sql.Tx) error { return tx.Commit() })
			})},
			{name: sqlOurCommit, remark: "sqlstore.Commit in place of COMMIT", ours: true, least: s.steps, open: d.row("batch_commit", func(c *sqlClient) (subject, error) {
				return c.ourSteps(stepRows, commits)
			})},
		},
	}
}

// commits takes n steps with sqlstore.Commit.
func commits(ctx activity.Context, t *stepTable, n int) error {
	return repeat(n, func() error {
		return t.step(ctx, func(tx *sql.Tx) error { return sqlstore.Commit(ctx, tx, t.last) })
	})
}

// floorRuns returns a subject that does what a durable run does with its checkpoint.
func (c *sqlClient) floorRuns(run func(ctx context.Context, f *floorTable) error) (subject, error) {
	f, err := c.floorTable()
	if err != nil {
		return subject{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return subject{measure: timed(func(n int) error {
		return repeat(n, func() error { return run(ctx, f) })
	}, func(int) error { return nil }), close: func() error { cancel(); return nil }}, nil
}

// floorSteps returns a subject with steps that no activity takes. Each inserts size rows.
func (c *sqlClient) floorSteps(size int, commit func(context.Context, *stepTable, *sql.Tx) error) (subject, error) {
	t, err := c.stepTable(size)
	if err != nil {
		return subject{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return subject{measure: timed(func(n int) error {
		return repeat(n, func() error { return t.step(ctx, func(tx *sql.Tx) error { return commit(ctx, t, tx) }) })
	}, t.verify), close: func() error { cancel(); return nil }}, nil
}

// ourSteps returns a subject with the steps of an activity. many takes the steps, and each inserts size
// rows.
func (c *sqlClient) ourSteps(size int, many func(ctx activity.Context, t *stepTable, n int) error) (subject, error) {
	t, err := c.stepTable(size)
	if err != nil {
		return subject{}, err
	}
	rt, end, err := c.runtime()
	if err != nil {
		return subject{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	opts := longTimeouts()
	opts.ID, opts.RetryPolicy.MaximumAttempts = "steps", 1
	sub := inside(func(serve func(many func(n int) error) error) error {
		return rt.Run(ctx, opts, func(ctx activity.Context) error {
			return serve(func(n int) error { return many(ctx, t, n) })
		})
	}, t.verify)
	sub.close = func() error { cancel(); return end() }
	return sub, nil
}

// inside returns a subject whose measurements each take place in an activity, a job or a
// workflow of their own: run starts it, calls serve in it, and waits for its end. Only what serve
// calls is measured.
func inside(run func(serve func(many func(n int) error) error) error, verify func(n int) error) subject {
	return subject{measure: func(n int) (samples []sample, err error) {
		err = run(func(many func(n int) error) (err error) {
			samples, err = timed(many, verify)(n)
			return err
		})
		return samples, err
	}}
}

func sqlAtOnceSection(d database, s scale) section {
	sec := section{
		name: sqlAtOnce(d), title: fmt.Sprintf("%d durable activities at once, on %s", s.durable, d.name), missing: d.missing, rounds: s.commits,
		text: "On " + d.settings + ". Each is started from a goroutine of its own. start: until all functions run and wait. end: from the release until all have ended. " +
			"ns: the elapsed time divided by the number of activities.",
		rows: []row{
			{name: "floor: a commit each", remark: "an upsert of the same row, and its DELETE", lines: []string{partStart, partEnd}, fixed: s.durable, open: d.row("once_floor", func(c *sqlClient) (subject, error) {
				f, err := c.floorTable()
				if err != nil {
					return subject{}, err
				}
				ctx, cancel := context.WithCancel(context.Background())
				all := func(do func(ctx context.Context, id string) error) func(n int) error {
					return func(n int) error { return each(n, func(i int) error { return do(ctx, waiting(i)) }) }
				}
				return subject{measure: c.counted(all(f.save), all(f.delete)), close: func() error { cancel(); return nil }}, nil
			})},
			{name: sqlOurStart, ours: true, lines: []string{partStart, partEnd}, fixed: s.durable, open: d.row("once_ours", func(c *sqlClient) (subject, error) {
				return c.ourStarts(s.durable)
			})},
		},
	}
	if d.counts {
		sec.text += " commits: the transactions that write, of all activities together."
	}
	return sec
}

// waiting returns the ID of an activity that waits for its release.
func waiting(i int) string { return fmt.Sprintf("waits-%d", i) }

// ourStarts returns a subject that starts n activities at once.
func (c *sqlClient) ourStarts(n int) (subject, error) {
	rt, end, err := c.runtime()
	if err != nil {
		return subject{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	handles := make([]*activity.Handle[struct{}], n)
	var release chan struct{}
	start := func(n int) error {
		var running sync.WaitGroup
		running.Add(n)
		release = make(chan struct{})
		f := func(ctx activity.Context, _ struct{}) (struct{}, error) {
			running.Done()
			<-release
			return struct{}{}, ctx.Err()
		}
		err := each(n, func(i int) (err error) {
			opts := longTimeouts()
			opts.ID = waiting(i)
			handles[i], err = activity.Start(ctx, rt, opts, f, struct{}{})
			return err
		})
		if err == nil {
			running.Wait()
		}
		return err
	}
	finish := func(n int) error {
		close(release)
		return each(n, func(i int) error {
			_, err := handles[i].Wait(ctx)
			return err
		})
	}
	return subject{measure: c.counted(start, finish), close: func() error { cancel(); return end() }}, nil
}

// each calls f with each number below n, all at once.
func each(n int, f func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// counted returns a measurement of operations that come one after the other, with the number of
// transactions of each.
func (c *sqlClient) counted(ops ...func(n int) error) func(n int) ([]sample, error) {
	return func(n int) (samples []sample, err error) {
		for _, op := range ops {
			before, err := c.transactions()
			if err != nil {
				return nil, err
			}
			one, err := timed(op, func(int) error { return nil })(n)
			if err != nil {
				return nil, err
			}
			after, err := c.transactions()
			if err != nil {
				return nil, err
			}
			one[0].commits = after - before
			samples = append(samples, one...)
		}
		return samples, nil
	}
}
