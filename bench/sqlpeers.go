package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// pool opens a pool of connections of pgx, which River and DBOS need.
func (d *databases) pool() (*pgxpool.Pool, error) {
	s, err := d.server()
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(s.DSN())
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = connections
	return pgxpool.NewWithConfig(context.Background(), cfg)
}

func pgxpoolSteps(d *databases, c *sqlClient) (subject, error) {
	s, err := c.stepTable(1)
	if err != nil {
		return subject{}, err
	}
	pool, err := d.pool()
	if err != nil {
		return subject{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return subject{measure: timed(func(n int) error {
		return repeat(n, func() error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				s.last++
				_, err := tx.Exec(ctx, s.insert, s.last)
				return err
			})
		})
	}, s.verify), close: func() error { cancel(); pool.Close(); return nil }}, nil
}

// A riverClient is a client of River with the workers for jobs that it inserts itself.
type riverClient struct {
	*river.Client[pgx.Tx]
	pool   *pgxpool.Pool
	events <-chan *river.Event
	cancel func()
}

// river starts a client of River with the schema of that name.
func (d *databases) river(schema string, workers func(pool *pgxpool.Pool, all *river.Workers), change func(*river.Config)) (*riverClient, error) {
	pool, err := d.pool()
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*riverClient, error) { pool.Close(); return nil, err }
	ctx := context.Background()
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+schema); err != nil {
		return fail(err)
	}
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: discard})
	if err != nil {
		return fail(err)
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return fail(err)
	}
	cfg := &river.Config{
		Logger: discard, Schema: schema, Workers: river.NewWorkers(),
		Queues:     map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 4}},
		JobTimeout: time.Hour, // the default ends a job's context after a minute
	}
	workers(pool, cfg.Workers)
	change(cfg)
	c, err := river.NewClient(riverpgxv5.New(pool), cfg)
	if err != nil {
		return fail(err)
	}
	events, cancel := c.Subscribe(river.EventKindJobCompleted, river.EventKindJobFailed, river.EventKindJobCancelled)
	if err := c.Start(ctx); err != nil {
		cancel()
		return fail(err)
	}
	return &riverClient{c, pool, events, cancel}, nil
}

func (c *riverClient) close() error {
	err := c.Stop(context.Background())
	c.cancel()
	c.pool.Close()
	return err
}

// completed waits until River says that the job is completed.
func (c *riverClient) completed(id int64) error {
	for event := range c.events {
		if event.Job.ID == id && event.Kind != river.EventKindJobCompleted {
			return fmt.Errorf("the job is %s: %v", event.Job.State, event.Job.Errors)
		} else if event.Job.ID == id {
			return nil
		}
	}
	return errors.New("no more events")
}

type emptyJob struct{}

func (emptyJob) Kind() string { return "empty" }

func riverJobs(d *databases, schema string, tuned bool) (subject, error) {
	ctx, ran := context.Background(), 0
	done := make(chan struct{}, 1)
	c, err := d.river(schema, func(pool *pgxpool.Pool, all *river.Workers) {
		river.AddWorker(all, river.WorkFunc(func(ctx context.Context, job *river.Job[emptyJob]) error {
			ran++
			if !tuned {
				return ctx.Err()
			}
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job)
				return err
			})
			done <- struct{}{}
			return err
		}))
	}, func(cfg *river.Config) {
		if tuned {
			cfg.FetchCooldown = river.FetchCooldownMin
		}
	})
	if err != nil {
		return subject{}, err
	}
	var last int64
	one := func() error {
		inserted, err := c.Insert(ctx, emptyJob{}, nil)
		if err != nil {
			return err
		}
		last = inserted.Job.ID
		if tuned {
			<-done
			return nil
		}
		return c.completed(last)
	}
	measure := timed(func(n int) error { return repeat(n, one) }, func(n int) error {
		job, err := c.JobGet(ctx, last)
		if err == nil && job.State != rivertype.JobStateCompleted {
			err = fmt.Errorf("the job is %s", job.State)
		}
		return errors.Join(err, same(ran, n, "jobs"))
	})
	return subject{measure: func(n int) ([]sample, error) {
		// Two that are not measured. The first one ends at any time in the completer's period. If
		// that is soon, the second one is not fetched at once, because of the FetchCooldown.
		if err := repeat(2, one); err != nil {
			return nil, err
		}
		ran = 0
		return measure(n)
	}, close: c.close}, nil
}

type stepsJob struct{}

func (stepsJob) Kind() string { return "steps" }

// riverSteps returns a subject with the steps of one job. Each has the row and the cursor in
// one transaction.
func riverSteps(d *databases, table *sqlClient) (subject, error) {
	s, err := table.stepTable(1)
	if err != nil {
		return subject{}, err
	}
	var serve func(many func(n int) error) error // of the job that runs
	c, err := d.river(table.table, func(pool *pgxpool.Pool, all *river.Workers) {
		river.AddWorker(all, river.WorkFunc(func(ctx context.Context, job *river.Job[stepsJob]) error {
			river.ResumableStepCursor(ctx, "rows", nil, func(ctx context.Context, _ int) error {
				return serve(func(n int) error {
					return repeat(n, func() error {
						return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
							s.last++
							if _, err := tx.Exec(ctx, s.insert, s.last); err != nil {
								return err
							}
							_, err := river.ResumableSetStepCursorTx[*riverpgxv5.Driver](ctx, tx, job, s.last)
							return err
						})
					})
				})
			})
			return nil // River makes the error of the step that of the job
		}))
	}, func(*river.Config) {})
	if err != nil {
		return subject{}, err
	}
	sub := inside(func(f func(many func(n int) error) error) error {
		serve = f
		inserted, err := c.Insert(context.Background(), stepsJob{}, &river.InsertOpts{MaxAttempts: 1})
		if err != nil {
			return err
		}
		return c.completed(inserted.Job.ID)
	}, s.verify)
	sub.close = c.close
	return sub, nil
}

// dbos launches DBOS with the schema of that name. data has the pool of the system database.
func (d *databases) dbos(schema string, register func(ctx dbos.Context, data *dbos.DataSource)) (dbos.Context, func() error, error) {
	pool, err := d.pool()
	if err != nil {
		return nil, nil, err
	}
	ctx, err := dbos.NewContext(context.Background(), dbos.Config{
		AppName: "bench", SystemDBPool: pool, DatabaseSchema: schema, Logger: discard, ApplicationVersion: "1",
	})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	end := func() error {
		err := dbos.Shutdown(ctx, 10*time.Second)
		pool.Close()
		return err
	}
	data, err := dbos.NewDataSource(ctx, pool)
	if err == nil {
		register(ctx, data)
		err = dbos.Launch(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return ctx, end, nil
}

func dbosWorkflows(d *databases, schema string) (subject, error) {
	var mu sync.Mutex
	ran := 0
	empty := func(ctx dbos.Context, _ int) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		ran++
		return ran, ctx.Err()
	}
	ctx, end, err := d.dbos(schema, func(ctx dbos.Context, _ *dbos.DataSource) {
		dbos.RegisterWorkflow(ctx, empty, dbos.WithWorkflowName("empty"))
	})
	if err != nil {
		return subject{}, err
	}
	return subject{measure: timed(func(n int) error {
		return repeat(n, func() error {
			h, err := dbos.RunWorkflow(ctx, empty, 0)
			if err != nil {
				return err
			}
			_, err = h.GetResult()
			return err
		})
	}, func(n int) error {
		did := ran
		ran = 0
		return same(did, n, "workflows")
	}), close: end}, nil
}

// dbosSteps returns a subject with the steps of one workflow. Each has the row and the
// checkpoint in one transaction.
func dbosSteps(d *databases, table *sqlClient) (subject, error) {
	s, err := table.stepTable(1)
	if err != nil {
		return subject{}, err
	}
	var serve func(many func(n int) error) error // of the workflow that runs
	var data *dbos.DataSource
	workflow := func(ctx dbos.Context, _ int) (int, error) {
		return 0, serve(func(n int) error {
			return repeat(n, func() error {
				_, err := dbos.RunAsTransaction(ctx, data, func(ctx context.Context, tx dbos.Tx) (int, error) {
					s.last++
					_, err := tx.Exec(ctx, s.insert, s.last)
					return s.last, err
				})
				return err
			})
		})
	}
	ctx, end, err := d.dbos(table.table, func(ctx dbos.Context, source *dbos.DataSource) {
		data = source
		dbos.RegisterWorkflow(ctx, workflow, dbos.WithWorkflowName("steps"))
	})
	if err != nil {
		return subject{}, err
	}
	sub := inside(func(f func(many func(n int) error) error) error {
		serve = f
		h, err := dbos.RunWorkflow(ctx, workflow, 0)
		if err == nil {
			_, err = h.GetResult()
		}
		return err
	}, s.verify)
	sub.close = end
	return sub, nil
}
