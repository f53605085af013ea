package activity

import "io"

// Reader returns a reader of r that sends a heartbeat, without details, whenever bytes
// have passed. So a copy of a large file is no stall as long as it moves. Reader does not
// hurry a Read of r that blocks: close r when ctx ends, as [context.AfterFunc] can.
//
// Once the attempt is over, canceled or paused, Read returns context.Cause, and during a
// [Runtime.Drain] it returns [ErrShutdown]. Bytes that have arrived by then are returned
// before that.
func Reader(ctx Context, r io.Reader) io.Reader { return &reader{ctx, r} }

type reader struct {
	ctx Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := stopped(r.ctx); err != nil {
		return 0, err
	}
	n, err := r.r.Read(p)
	if n > 0 {
		// If the attempt is over or asked to stop, and err is nil, the next Read says so.
		if asked, _ := asks(r.ctx.Heartbeat()); asked {
			swallowed(r.ctx)
		}
	}
	if end := ended(r.ctx); end != nil && (n == 0 || err != nil) && err != io.EOF { // the end may be why r failed
		return n, noteCause(r.ctx, end)
	}
	return n, err
}
