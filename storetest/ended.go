package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/seed-9da638b0/activity"
)

var errStop = errors.New("stop")

// ended returns contexts that have ended, by how they ended.
func ended(ctx context.Context) map[string]context.Context {
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	stopped, stop := context.WithCancelCause(ctx)
	stop(errStop)
	expired, expire := context.WithDeadline(ctx, time.Now().Add(-time.Second))
	expire()
	return map[string]context.Context{"canceled": canceled, "canceled with a cause": stopped, "past its deadline": expired}
}

// tellsEnd checks that err is a valid error of a method whose ctx has ended.
func tellsEnd(ctx context.Context, method string, err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%s: no error, although its context has ended", method)
	case errors.Is(err, ctx.Err()), errors.Is(err, context.Cause(ctx)):
		return nil
	}
	return fmt.Errorf("%s: error %q wraps neither the context's error %q nor its cause", method, err, ctx.Err())
}

// A call is a call of one of a Store's methods.
type call struct {
	method string
	do     func(ctx context.Context) error
}

// calls returns calls of all methods of s, each of which should fail. Every Save has a
// higher Sequence, because a Save that fails may still have written.
func calls(s activity.Store) []call {
	sequence := uint64(1)
	return []call{
		{"Load", func(ctx context.Context) error { _, _, err := s.Load(ctx, "a"); return err }},
		{"Load of a missing ID", func(ctx context.Context) error { _, _, err := s.Load(ctx, "missing"); return err }},
		{"Save", func(ctx context.Context) error {
			sequence++
			return s.Save(ctx, []activity.Checkpoint{checkpoint("a", sequence)})
		}},
		{"Delete", func(ctx context.Context) error { return s.Delete(ctx, []string{"a"}) }},
		{"Delete of a missing ID", func(ctx context.Context) error { return s.Delete(ctx, []string{"missing"}) }},
		{"All", func(ctx context.Context) error {
			got, err := collect(s.All(ctx))
			if len(got) > 0 {
				return fmt.Errorf("%w: it yielded %d checkpoints (error %v), want only an error", errGoesOn, len(got), err)
			}
			return err
		}},
	}
}

func contextEnded(s *subject) error {
	if err := save(s.ctx, s, checkpoint("a", 1)); err != nil {
		return err
	}
	methods := calls(s)
	for how, ctx := range ended(s.ctx) {
		for _, c := range methods {
			if err := tellsEnd(ctx, c.method, c.do(ctx)); err != nil {
				return fmt.Errorf("with a context that is %s: %w", how, err)
			}
		}
	}
	return nil
}

// contextEndedIsAtomic allows a call that returned an error to have written or not.
func contextEndedIsAtomic(s *subject) error {
	stays := checkpoint("stays", 1)
	if err := save(s.ctx, s, stays); err != nil {
		return err
	}
	for how, ctx := range ended(s.ctx) {
		before, batch := replacing(how, 4)
		if err := save(s.ctx, s, before); err != nil {
			return err
		}
		if s.Save(ctx, batch) == nil {
			return fmt.Errorf("Save with a context that is %s: no error", how)
		}
		for name, in := range map[string]activity.Store{"the Store": s, "the reopened Store": s.reopen()} {
			if _, err := allOrNothing(s.ctx, in, before, batch); err != nil {
				return fmt.Errorf("%s after Save with a context that is %s: %w", name, how, err)
			}
		}
		for i := range batch {
			batch[i].Sequence++
		}
		if err := errors.Join(save(s.ctx, s, batch...), holds(s.ctx, s, append(batch, stays)...)); err != nil {
			return fmt.Errorf("after a Save that followed one with a context that is %s: %w", how, err)
		}
		if s.Delete(ctx, idsOf(batch)) == nil {
			return fmt.Errorf("Delete with a context that is %s: no error", how)
		}
		if err := errors.Join(holdsSome(s.ctx, s, batch, stays), holdsSome(s.ctx, s.reopen(), batch, stays)); err != nil {
			return fmt.Errorf("after Delete with a context that is %s: %w", how, err)
		}
		if err := remove(s.ctx, s, idsOf(batch)...); err != nil {
			return err
		}
	}
	return nil
}

func contextEndsDuringAll(s *subject) error {
	cs := checkpoints(100, 1)
	if err := save(s.ctx, s, cs...); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	err := each(s.All(ctx), func(activity.Checkpoint) bool {
		cancel(errStop)
		return true
	})
	if err := tellsEnd(ctx, "All", err); err != nil {
		return fmt.Errorf("the context ended when All yielded the first of %d checkpoints; All must check it before each one: %w", len(cs), err)
	}
	return holds(s.ctx, s, cs...)
}

// closes closes s if it is an io.Closer; otherwise it returns errNotApplicable.
func closes(s *subject) error {
	closer, ok := s.Store.(io.Closer)
	if !ok {
		return errNotApplicable
	}
	if err := closer.Close(); err != nil {
		return fmt.Errorf("Close: %w", err)
	}
	return nil
}

func closed(s *subject) error {
	if err := save(s.ctx, s, checkpoint("a", 1)); err != nil {
		return err
	}
	return unstuck(func(step func(string)) error {
		step("Close")
		if err := closes(s); err != nil {
			return err
		}
		for _, c := range calls(s) {
			step(c.method + " after Close")
			err := caught(func() error {
				switch err := c.do(s.ctx); {
				case err == nil:
					return errors.New("no error")
				case errors.Is(err, errGoesOn):
					return err
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s after Close: %w", c.method, err)
			}
		}
		return nil
	})
}

func closedTwice(s *subject) error {
	return unstuck(func(step func(string)) error {
		step("Close")
		if err := closes(s); err != nil {
			return err
		}
		step("the second Close")
		_ = s.Store.(io.Closer).Close() // it may return an error
		return nil
	})
}

func closedKeeps(s *subject) error {
	cs := checkpoints(3, 1)
	if err := errors.Join(save(s.ctx, s, cs...), remove(s.ctx, s, cs[0].ID)); err != nil {
		return err
	}
	if err := closes(s); err != nil {
		return err
	}
	if err := holds(s.ctx, s.reopen(), cs[1:]...); err != nil {
		return fmt.Errorf("reopened after Close: %w", err)
	}
	return nil
}
