package activity

import (
	"context"
	"errors"
	"fmt"
	"reflect"
)

// A Definition is a function with a name and Options. [Runtime.Recover] finds the function
// of a stored activity by that name, so the name must stay the same in all versions of the
// program. The stored input outlives the process, so it must not refer to addresses, handles,
// temporary files or anything else that ends with the process.
//
// Execute, Start and Recover return an error if Name is empty, or if Options has an ID or a
// Name. The ID is an argument of Execute and Start.
type Definition[In, Out any] struct {
	Name    string                         // name of the activity; must not be empty
	Options Options                        // options of each execution, without ID and Name
	Func    func(Context, In) (Out, error) // function of each attempt
}

// Execute runs the activity with the given ID and waits for its end, as the function
// [Execute] does.
func (d *Definition[In, Out]) Execute(ctx context.Context, rt *Runtime, id string, in In) (Out, error) {
	opts, err := d.options(id)
	if err != nil {
		var zero Out
		return zero, err
	}
	return Execute(ctx, rt, opts, d.Func, in)
}

// Start starts the activity with the given ID, as the function [Start] does. If id is empty,
// an ID is generated, and nothing is stored.
func (d *Definition[In, Out]) Start(ctx context.Context, rt *Runtime, id string, in In) (*Handle[Out], error) {
	opts, err := d.options(id)
	if err != nil {
		return nil, err
	}
	return Start(ctx, rt, opts, d.Func, in)
}

// options returns the Options of the execution with the given ID.
func (d *Definition[In, Out]) options(id string) (Options, error) {
	if err := d.check(); err != nil {
		return Options{}, fmt.Errorf("activity %q: not started: %w", id, err)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return opts, nil
}

// check returns an error that names the first invalid field, or nil.
func (d *Definition[In, Out]) check() error {
	switch {
	case d.Name == "":
		return errors.New("Definition.Name must not be empty (Recover finds the function by it)")
	case d.Options.ID != "":
		return fmt.Errorf("Definition.Options.ID must be empty (got %.40q); pass the ID to Start or Execute", d.Options.ID)
	case d.Options.Name != "":
		return fmt.Errorf("Definition.Options.Name must be empty (got %.40q); Definition.Name, %q, is the name", d.Options.Name, d.Name)
	}
	return nil
}

// definition implements Recoverable.
func (d *Definition[In, Out]) definition() (name string, err error) { return d.Name, d.check() }

// recover implements Recoverable. It starts the activity of cp with its stored input.
func (d *Definition[In, Out]) recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error) {
	c := &call[In, Out]{fn: d.Func}
	if err := unmarshal(rt.cfg.Codec, cp.Input, &c.in); err != nil {
		return nil, fmt.Errorf("activity %q (%s): not recovered: cannot decode the stored input into %s: %w", cp.ID, cp.Name, reflect.TypeFor[In](), err)
	}
	opts := d.Options
	opts.ID, opts.Name = cp.ID, d.Name
	return rt.start(ctx, &opts, c, startInBackground, &cp)
}

// A Recoverable is a *[Definition] with any type of input and result. It is an argument of
// [Runtime.Recover].
type Recoverable interface {
	definition() (name string, err error)
	recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error)
}
