package activity

// Guard runs f, for side effects that must not overlap the work of a later
// attempt. It runs f only if the attempt's Context has not ended, else it returns
// the cause. While f runs no later attempt starts, nor does a new execution of the
// same ID ([ErrAlreadyRunning]). f's error or panic passes through. Keep f short:
// a stall inside f delays the retry.
func Guard(ctx Context, f func() error) error {
	if err := ended(ctx); err != nil { // also if only a context derived from the attempt's has ended
		return noteCause(ctx, err)
	}
	if e := engineOf(ctx); e != nil {
		return e.Guard(f)
	}
	return f()
}
