package activitytest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
)

// Given a request without an activity, then Serve's handler gets what a real server's gets, and the
// client what a real client gets.
func TestServe_LikeARealServer(t *testing.T) {
	var w activitytest.World
	var got []string
	client := &http.Client{Transport: w.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s %d %s %s", r.Method, r.RequestURI, r.URL, r.Host, r.ContentLength, body, r.UserAgent()))
		_, _ = io.WriteString(w, "hello")
	}))}
	for _, r := range []struct{ method, url, body string }{
		{"GET", "http://site/a%20b?q=a b#part", ""}, {"POST", "http://site/x", "123"}, {"HEAD", "http://site/x", ""},
	} {
		request, err := http.NewRequest(r.method, r.url, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		got = append(got, fmt.Sprintf("%d %d %s", answer.StatusCode, answer.ContentLength, body))
	}
	want := []string{
		"GET /a%20b?q=a b /a%20b?q=a b site 0  Go-http-client/1.1", "200 5 hello",
		"POST /x /x site 3 123 Go-http-client/1.1", "200 5 hello",
		"HEAD /x /x site 0  Go-http-client/1.1", "200 -1 ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Given a request whose body cannot be read, or a handler that panics, then the client gets an error, and
// the body is closed.
func TestServe_Failures(t *testing.T) {
	var w activitytest.World
	errBody := errors.New("no body")
	for name, test := range map[string]struct {
		body io.Reader
		h    http.HandlerFunc
		want string
	}{
		"body":    {iotest.ErrReader(errBody), func(http.ResponseWriter, *http.Request) { t.Error("called") }, "no body"},
		"abort":   {strings.NewReader("x"), func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "unexpected EOF"},
		"handler": {strings.NewReader("x"), func(http.ResponseWriter, *http.Request) { panic("ouch") }, "the handler of POST http://site/ panicked: ouch"},
	} {
		body := &closing{Reader: test.body}
		r, err := http.NewRequest("POST", "http://site/", body)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Serve(test.h).RoundTrip(r); err == nil || !strings.Contains(err.Error(), test.want) || !body.closed {
			t.Errorf("%s: got %v, body closed: %t", name, err, body.closed)
		}
	}
}

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// Given a handler that waits for its context, when the client gives up, then the handler's context ends.
func TestServe_ClientGivesUp(t *testing.T) {
	runs(t, activitytest.Plan{Kinds: activitytest.Crash}, func(t *testing.T, w *activitytest.World, l *log) {
		client := &http.Client{Transport: w.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))}
		live(t, w, job, func(ctx activity.Context) error {
			short, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			r, _ := http.NewRequestWithContext(short, "GET", "http://site/", nil)
			if _, err := client.Do(r); !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				t.Errorf("got %v", err)
			}
			return nil
		})
	})
}

// Given requests whose paths have IDs, then they are one site, so that each kind and each pair is tried.
func TestServe_PathsWithIDs(t *testing.T) {
	plan := activitytest.Plan{Kinds: activitytest.Crash | activitytest.Fault | activitytest.Twice, MaxRuns: 200, Seed: 1, RequireAll: true}
	names, _ := runs(t, plan, func(t *testing.T, w *activitytest.World, l *log) {
		client := &http.Client{Transport: w.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
		live(t, w, job, func(ctx activity.Context) error {
			return activity.Range(ctx, 0, 50, func(i int) error {
				r, _ := http.NewRequestWithContext(ctx, "PUT", fmt.Sprint("http://site/rows/", i), nil)
				answer, err := client.Do(r)
				if err != nil {
					return err
				}
				return answer.Body.Close()
			})
		})
	})
	if len(names) > 201 {
		t.Errorf("%d runs", len(names))
	}
}

// Given a process that makes a request itself and returns its error, when a Fault makes it fail, then
// another life begins.
func TestFault_OfTheProcess(t *testing.T) {
	names, got := runs(t, activitytest.Plan{Kinds: activitytest.Fault}, func(t *testing.T, w *activitytest.World, l *log) {
		client := &http.Client{Transport: w.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))}
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) error {
			l.add("life")
			r, _ := http.NewRequestWithContext(ctx, "GET", "http://site/config", nil)
			if _, err := client.Do(r); err != nil {
				return err
			}
			return rt.Run(ctx, job, func(ctx activity.Context) error { return ctx.Sleep(time.Second) })
		})
		if err != nil {
			t.Error(err)
		}
	})
	for _, name := range names {
		if name != "" && !strings.Contains(name, "_then_") && len(got[name]) != 2 {
			t.Errorf("%s: %d lives", name, len(got[name]))
		}
	}
}
