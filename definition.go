package activity

import (
	"context"
	"errors"
	"fmt"
)

// A Definition is an activity with a name that outlives the process, which is
// what [Recover] finds a stored activity's function by. Its input outlives the
// process too: no addresses, handles or temporary files.
type Definition[In, Out any] struct {
	Name    string
	Options Options // for every execution; ID and Name are ignored
	Func    func(Context, In) (Out, error)
}

// Execute runs the activity with this ID, as [Execute] does.
func (d *Definition[In, Out]) Execute(ctx context.Context, rt *Runtime, id string, in In) (Out, error) {
	h, err := d.Start(ctx, rt, id, in)
	if err != nil {
		var zero Out
		return zero, err
	}
	return h.answer()
}

// Start starts the activity with this ID, as [Start] does; an empty one is made up,
// and never stored. A Definition without a Name is refused.
func (d *Definition[In, Out]) Start(ctx context.Context, rt *Runtime, id string, in In) (*Handle[Out], error) {
	if d.Name == "" {
		return nil, fmt.Errorf("activity %q: Definition.Name is empty, and it is what a stored activity's function is found by", id)
	}
	opts := d.Options
	opts.ID, opts.Name = id, d.Name
	return Start(ctx, rt, opts, d.Func, in)
}

func (d *Definition[In, Out]) definition() string { return d.Name }

func (d *Definition[In, Out]) recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error) {
	c := &call[In, Out]{fn: d.Func}
	if err := unmarshal(rt.cfg.Codec, cp.Input, &c.in); err != nil {
		return nil, fmt.Errorf("activity %q (%s): not recovered: cannot decode its input into a %T: %w", cp.ID, cp.Name, c.in, err)
	}
	opts := d.Options
	opts.ID, opts.Name = cp.ID, d.Name
	return rt.start(ctx, &opts, c, true)
}

// A Recoverable is a *[Definition], of any types.
type Recoverable interface {
	definition() string
	recover(ctx context.Context, rt *Runtime, cp Checkpoint) (*activity, error)
}

// Recover starts every activity in the Store that a crash, a shutdown or the end
// of its context interrupted, each by the Definition of its Name and with its
// stored input, and returns how many: call it at the start of the program. Each
// goes on as the package's doc on durability says, with ctx as its context. What
// has failed for good, or was canceled by [Handle.Cancel], it leaves alone. It
// gives no handles: what you want one of, start before, by its ID; it goes on from
// its checkpoint, and Recover passes it over. One whose attempts are used up, or
// whose schedule-to-close timeout has passed, is started and fails at once, which
// the log says.
//
// An error names each ID that it could not start: since no Definition has its
// Name (Run's activities have none: start those by their ID, or [Runtime.Forget]
// them), its input does not decode, or the Store failed. The others are started
// all the same; but an error of Store.All ends it. Without a Store there is
// nothing to recover.
func Recover(ctx context.Context, rt *Runtime, defs ...Recoverable) (int, error) {
	byName := map[string]Recoverable{}
	for _, d := range defs {
		name := d.definition()
		switch {
		case name == "":
			return 0, errors.New(`activity: Recover: Definition.Name is "", and it is what a stored activity's function is found by`)
		case byName[name] != nil:
			return 0, fmt.Errorf("activity: Recover: two Definitions are named %q", name)
		}
		byName[name] = d
	}
	var errs []error
	var started []*activity
	for cp, err := range rt.Unfinished(ctx) {
		if err != nil {
			errs = append(errs, fmt.Errorf("activity: Recover: %w", err))
			break
		}
		if !cp.State.goesOn() {
			continue
		}
		d := byName[cp.Name]
		if d == nil {
			errs = append(errs, fmt.Errorf("activity %q: not recovered: there is no Definition named %q", cp.ID, cp.Name))
			continue
		}
		a, err := d.recover(ctx, rt, cp)
		switch {
		case err == nil:
			started = append(started, a)
		case errors.Is(err, errNotRecovered) || errors.Is(err, ErrAlreadyRunning): // somebody else did
		default:
			errs = append(errs, err)
		}
	}
	n := 0
	for _, a := range started { // their starts share their Saves
		if err := a.accepted(); err != nil {
			errs = append(errs, err)
		} else {
			n++
		}
	}
	return n, errors.Join(errs...)
}
