package activity

import (
	"context"
	"fmt"
)

// A Definition is an activity with a name that outlives the process, which is
// what [Runtime.Recover] finds a stored activity's function by. Its input outlives the
// process too: no addresses, handles or temporary files.
type Definition[In, Out any] struct {
	Name    string
	Options Options // for every execution; ID and Name are ignored
	Func    func(Context, In) (Out, error)
}

// Execute runs the activity with this ID, as [Execute] does.
func (d *Definition[In, Out]) Execute(ctx context.Context, rt *Runtime, id string, in In) (Out, error) {
	opts, err := d.options(id)
	if err != nil {
		var zero Out
		return zero, err
	}
	return Execute(ctx, rt, opts, d.Func, in)
}

// Start starts the activity with this ID, as [Start] does; an empty one is made up,
// and never stored. A Definition without a Name is refused.
func (d *Definition[In, Out]) Start(ctx context.Context, rt *Runtime, id string, in In) (*Handle[Out], error) {
	opts, err := d.options(id)
	if err != nil {
		return nil, err
	}
	return Start(ctx, rt, opts, d.Func, in)
}

// options are those of the execution with this ID.
func (d *Definition[In, Out]) options(id string) (Options, error) {
	if d.Name == "" {
		return Options{}, fmt.Errorf("activity %q: Definition.Name is empty (Recover needs it)", id)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return opts, nil
}

func (d *Definition[In, Out]) definition() string { return d.Name }

func (d *Definition[In, Out]) recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error) {
	c := &call[In, Out]{fn: d.Func}
	if err := unmarshal(rt.cfg.Codec, cp.Input, &c.in); err != nil {
		return nil, fmt.Errorf("activity %q (%s): not recovered: cannot decode its input into a %T: %w", cp.ID, cp.Name, c.in, err)
	}
	opts, err := d.options(cp.ID)
	if err != nil {
		return nil, err
	}
	return rt.start(ctx, opts, c, startRecovering)
}

// A Recoverable is a *[Definition], of any types.
type Recoverable interface {
	definition() string
	recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error)
}
