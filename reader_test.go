package activity_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/seed-9da638b0/activity"
)

// slowReader gives a byte a second, on the activity's clock.
type slowReader struct {
	ctx  activity.Context
	left int
	end  error
}

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.end
	}
	_ = r.ctx.Sleep(time.Second)
	r.left--
	p[0] = 'x'
	return 1, nil
}

// Given a reader that gives a byte a second, when its copy takes ten times the heartbeat
// timeout, then no attempt times out; when it gives none for the timeout, one does.
func TestReader_HeartbeatsAsBytesPass(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{HeartbeatTimeout: 2 * time.Second, RetryPolicy: once}, func(ctx activity.Context) error {
			n, err := io.Copy(io.Discard, activity.Reader(ctx, &slowReader{ctx: ctx, left: 20, end: io.EOF}))
			if n != 20 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			return ctx.Sleep(2*time.Second - 1)
		})
		for range 22 {
			e.pass(time.Second)
		}
		checkErr(t, e.end(h), nil)

		h = e.start(activity.Options{HeartbeatTimeout: 2 * time.Second, RetryPolicy: once}, func(ctx activity.Context) error {
			_, err := activity.Reader(ctx, iotest.ErrReader(io.EOF)).Read(nil)
			checkErr(t, err, io.EOF)
			return ctx.Sleep(2 * time.Second)
		})
		e.pass(2 * time.Second)
		if err := e.end(h); timeoutType(err) != activity.TimeoutHeartbeat {
			t.Errorf("a Read of nothing is a heartbeat: %v", err)
		}
	})
}

// Given a Read that is under way when the attempt is canceled, then its bytes are returned, the
// next Read returns the cause, and a nil of the function counts as canceled.
func TestReader_ReturnsTheCause(t *testing.T) {
	both(t, activity.Config{}, func(t *testing.T, e *env) {
		h := e.start(activity.Options{}, func(ctx activity.Context) error {
			r := activity.Reader(ctx, &slowReader{ctx: ctx, left: 20, end: io.EOF})
			p := make([]byte, 8)
			for range 3 {
				if n, err := r.Read(p); n != 1 || err != nil {
					t.Errorf("%d, %v", n, err)
				}
			}
			for range 2 {
				if n, err := r.Read(p); n != 0 || err != errCancel {
					t.Errorf("after the end: %d, %v", n, err)
				}
			}
			return nil
		})
		e.pass(2500 * time.Millisecond)
		h.Cancel(errCancel)
		e.pass(0)
		checkEnd(t, e.end(h), 1, activity.RetryStateCancelRequested, errCancel)
	})
}

// Given a source that fails, then Reader returns its error; but if the attempt has ended
// meanwhile, that may be the reason, and Reader returns the cause. The end of the data stays
// the end.
func TestReader_TheSourceFails(t *testing.T) {
	for _, test := range []struct {
		name       string
		err, want  error
		whileEnded bool
	}{
		{"alive", errBoom, errBoom, false},
		{"ended", errBoom, errCancel, true},
		{"end of the data, ended", io.EOF, io.EOF, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				_ = rt.Run(ctx, activity.Options{RetryPolicy: once}, func(ctx activity.Context) error {
					r := activity.Reader(ctx, readerFunc(func([]byte) (int, error) {
						if test.whileEnded {
							cancel(errCancel)
							<-ctx.Done()
						}
						return 0, test.err
					}))
					if _, err := r.Read(make([]byte, 1)); err != test.want {
						t.Errorf("got %v, want %v", err, test.want)
					}
					return nil
				})
			})
		})
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Given bytes that come with the error, then both are passed on.
func TestReader_BytesWithTheError(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		checkErr(t, run(t, rt, activity.Options{}, func(ctx activity.Context) error {
			data, err := io.ReadAll(activity.Reader(ctx, iotest.DataErrReader(strings.NewReader("abc"))))
			if string(data) != "abc" || err != nil {
				return errors.Join(errBoom, err)
			}
			return nil
		}), nil)
	})
}

// Given a source that returns bytes and an error because the attempt has ended, then the copy
// ends with the cause, and a nil of the function counts as canceled.
func TestReader_BytesWithTheErrorOfTheEnd(t *testing.T) {
	bubble(t, activity.Config{}, func(t *testing.T, rt *activity.Runtime) {
		var h *activity.Handle[string]
		ready := make(chan struct{})
		h = start(t, rt, activity.Options{}, func(ctx activity.Context) error {
			<-ready
			_, err := io.Copy(io.Discard, activity.Reader(ctx, closedReader{func() { h.Cancel(errCancel) }}))
			if !errors.Is(err, errCancel) {
				t.Errorf("copy ends with %v", err)
			}
			return nil
		})
		close(ready)
		err := wait(t, h)
		if err == nil {
			t.Errorf("completed")
		}
	})
}

type closedReader struct{ end func() }

func (c closedReader) Read(p []byte) (int, error) {
	c.end()
	return 1, errBoom
}
