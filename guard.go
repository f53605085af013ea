package activity

// Guard runs f, for side effects that must not overlap with a later attempt. It runs f only
// if ctx has not ended, and otherwise returns the cause. During a [Runtime.Drain] it returns
// [ErrShutdown] instead of running f. While f runs, no later attempt
// starts, and a new execution of the same ID is refused with [ErrAlreadyRunning]. Guard
// returns the error of f, and does not recover its panic. Keep f short, because a stall
// inside f delays the retry.
func Guard(ctx Context, f func() error) error {
	// The engine checks only the attempt's own Context. ctx may be derived from it, and end
	// before it.
	if err := stopped(ctx); err != nil {
		return err
	}
	e := engineOf(ctx)
	switch {
	case e == nil:
		return f()
	case attemptOf(ctx) != nil:
		return e.Guard(f)
	}
	return e.Guard(func() error {
		if err := stopped(ctx); err != nil { // another engine may have waited
			return err
		}
		return f()
	})
}
