package activity

// Guard runs f, for side effects that must not overlap the work of a later
// attempt. It runs f only if the attempt's Context has not ended, else it returns
// the cause. While f runs no later attempt starts, nor does a new execution of the
// same ID ([ErrAlreadyRunning]). f's error or panic passes through. Keep f short:
// a stall inside f delays the retry.
//
// A Context that has a method Guard(f func() error) error does it itself. A
// wrapper that has one, and may be wrapped again, needs a Value method as well,
// which passes on to NewContext(inner, wrapper).Value.
func Guard(ctx Context, f func() error) error {
	type guard interface{ Guard(f func() error) error }
	if g, ok := ctx.(guard); ok {
		return g.Guard(f)
	}
	if err := ended(ctx); err != nil { // the wrapper's own end
		return noteCause(ctx, err)
	}
	if g, ok := methodsOf[guard](ctx); ok {
		return g.Guard(f)
	}
	return f()
}
