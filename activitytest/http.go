package activitytest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
)

// RoundTripper returns a RoundTripper that passes requests on to next, with a place before and after each
// request of an activity or a process. So runs cover a request that is not sent, an answer that is lost, and
// an answer that is late. next must not use a real network: see [World.Serve].
//
// With a [Fault], the request fails with [ErrFault], which [http.Client] wraps: before it is sent, or after
// the server has answered.
func (w *World) RoundTripper(next http.RoundTripper) http.RoundTripper {
	w.outside.Store(true)
	return &roundTripper{w, next}
}

// Serve returns a RoundTripper to h, a server in memory that outlives the process. Its places are those of
// [World.RoundTripper]. h has a goroutine of its own for each request, and no places. It continues if the
// client's process crashes. The answer arrives as a whole when h has returned, so h cannot stream.
//
//	client := &http.Client{Transport: w.Serve(api)}
func (w *World) Serve(h http.Handler) http.RoundTripper { return w.RoundTripper(&server{w, h}) }

type roundTripper struct {
	w    *World
	next http.RoundTripper
}

func (t *roundTripper) RoundTrip(r *http.Request) (answer *http.Response, err error) {
	ctx := r.Context()
	a := t.w.caller(ctx)
	if a == nil {
		return t.next.RoundTrip(r)
	}
	called := false
	err = a.outside(ctx, effect{
		noun: "request", call: call{kind: "Request", point: r.Method + " " + r.URL.Path}, site: r.Method, // paths may have IDs
		ends: ctx.Done(),
		do: func() (err error) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			called = true
			answer, err = t.next.RoundTrip(r)
			return err
		},
		late: func() error { return context.Cause(ctx) }, // the answer comes when nobody waits for it
	})
	switch {
	case err == nil:
		return answer, nil
	case !called && r.Body != nil:
		_ = r.Body.Close() // as a RoundTripper must
	case answer != nil:
		_ = answer.Body.Close()
	}
	return nil, err
}

// A server serves requests in memory.
type server struct {
	w       *World
	handler http.Handler
}

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
		s.w.owns(nil, goid())
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
