package activitytest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
)

// ErrFault is the error of a call that fails because of a [Fault].
var ErrFault = errors.New("activitytest: the call fails because of a Fault")

// RoundTripper returns a RoundTripper that passes requests on to next, with a place before and after each
// request whose context is that of an activity or a process, or is derived from one. A request with
// another context has no place. So runs cover a request that is not sent, an answer that is lost, and
// an answer that is late. next must not use a real network: see [World.Serve].
//
// With a [Fault], the request fails with [ErrFault], which [http.Client] wraps: before it is sent, or after
// the server has answered.
func (w *World) RoundTripper(next http.RoundTripper) http.RoundTripper { return &roundTripper{next} }

// Serve returns a RoundTripper to h, a server in memory that outlives the process. Its places are those of
// [World.RoundTripper]. h has a goroutine of its own for each request, and no places. It continues if the
// client's process crashes. The answer arrives as a whole when h has returned, so h cannot stream.
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
		_ = r.Body.Close() // next may not have been called
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
	var body []byte
	if r.Body != nil {
		defer r.Body.Close() // as a RoundTripper must
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	// The handler does not run in the client's process. Its context ends if the client gives up.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := (&http.Request{
		Method: cmp.Or(r.Method, "GET"), URL: &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"Go-http-client/1.1"}}, Host: cmp.Or(r.Host, r.URL.Host),
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		RemoteAddr: "192.0.2.1:1234", RequestURI: r.URL.RequestURI(),
	}).WithContext(ctx)
	maps.Copy(served.Header, r.Header.Clone())
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
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	answer := w.Result()
	answer.Request = r
	switch {
	case served.Method == "HEAD":
		answer.Body = http.NoBody
	case answer.ContentLength < 0:
		answer.ContentLength = int64(w.Body.Len())
	}
	return answer, nil
}
