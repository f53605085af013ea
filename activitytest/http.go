package activitytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
)

// ErrFault is the error of a call that fails because of a [Fault].
var ErrFault = errors.New("activitytest: the call fails because of a Fault")

// RoundTripper returns a RoundTripper that passes requests on to next, with a place before and after each
// request whose context is that of an activity or a process, or is derived from one. So a request is not
// sent, or it is sent and its answer is lost, or it is answered late. next must not use a real network:
// see [World.Serve].
//
// With a [Fault], the request fails with [ErrFault], which [http.Client] wraps: before it is sent, or after
// the server has answered.
func (w *World) RoundTripper(next http.RoundTripper) http.RoundTripper { return &roundTripper{next} }

// Serve returns a RoundTripper to h, a server in memory that outlives the process. Its places are those of
// [World.RoundTripper]. h has a goroutine of its own for each request, and no places: it goes on if the
// client's context ends, or its process crashes.
//
//	client := &http.Client{Transport: w.Serve(api)}
func (w *World) Serve(h http.Handler) http.RoundTripper { return w.RoundTripper(&server{h}) }

type roundTripper struct{ next http.RoundTripper }

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return t.next.RoundTrip(r)
	}
	request := r.Method + " " + r.URL.Path
	c := a.enter(ctx, call{kind: "Request", point: request})
	answer, err := t.between(a, c, r, request)
	if err != nil && r.Body != nil {
		_ = r.Body.Close() // as a RoundTripper must
	}
	a.leave(c, err)
	return answer, err
}

// between makes the request between its two places.
func (t *roundTripper) between(a *attempt, c *step, r *http.Request, request string) (*http.Response, error) {
	switch at := a.comeTo(c.body, "before request", request, true); {
	case at.over:
		return nil, errOver
	case at.fault:
		a.show(c)
		return nil, ErrFault
	}
	a.show(c)
	if ctx := r.Context(); ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	answer, err := t.next.RoundTrip(r)
	at := a.comeTo(c.body, "after request", request, true)
	if err != nil {
		return nil, err
	}
	switch {
	case at.over:
		err = errOver
	case at.fault:
		err = ErrFault
	case at.woken: // the answer comes when nobody waits for it
		err = context.Cause(r.Context())
	}
	if err != nil {
		_ = answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// A server serves requests in memory.
type server struct{ handler http.Handler }

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close()
	}
	// The handler does not run in the client's process.
	served := httptest.NewRequest(r.Method, r.URL.String(), bytes.NewReader(body)).WithContext(context.Background())
	served.Header = r.Header.Clone()
	if r.Host != "" {
		served.Host = r.Host
	}
	w := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() {
			if v := recover(); v == http.ErrAbortHandler {
				err = io.ErrUnexpectedEOF
			} else if v != nil {
				err = fmt.Errorf("activitytest: the handler of %s %s panicked: %v", r.Method, r.URL, v)
			}
			done <- err
		}()
		s.handler.ServeHTTP(w, served)
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		answer := w.Result()
		answer.Request = r
		return answer, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
