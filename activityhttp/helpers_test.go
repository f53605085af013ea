package activityhttp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	errBoom = errors.New("boom")
	control = &activityhttp.Options{Control: true}
)

// bubble runs body in a bubble, with a Runtime and its Handler.
func bubble(t *testing.T, cfg activity.Config, opts *activityhttp.Options, body func(t *testing.T, rt *activity.Runtime, h http.Handler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Logger = quiet
		rt := activity.New(cfg)
		t.Cleanup(func() {
			if err := rt.Shutdown(context.Background()); err != nil {
				t.Error(err)
			}
		})
		body(t, rt, activityhttp.Handler(rt, opts))
	})
}

// start starts fn, and waits until everything is at rest.
func start(t *testing.T, rt *activity.Runtime, opts activity.Options, fn func(activity.Context) error) {
	t.Helper()
	if _, err := rt.Start(context.Background(), opts, fn); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func job(id string) activity.Options { return activity.Options{ID: id, Name: "job"} }

func untilEnded(ctx activity.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// pass lets time go by, and all that happens in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// do serves a request and wants its status code.
func do(t *testing.T, h http.Handler, want int, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != want {
		t.Fatalf("%s %s: got status %d, want %d: %s", method, path, w.Code, want, w.Body)
	}
	return w
}

func get(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	return do(t, h, http.StatusOK, "GET", path).Body.String()
}

// contains wants all texts in body.
func contains(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(body, text) {
			t.Errorf("%q is missing in:\n%s", text, body)
		}
	}
}

// lacks wants none of the texts in body.
func lacks(t *testing.T, body string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(body, text) {
			t.Errorf("%q is in:\n%s", text, body)
		}
	}
}

func checkDiff(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// keys returns the Keys of the rows of a page, in their order.
func keys(page string) (all []string) {
	page, _, _ = strings.Cut(page, `id="ended"`) // which has keys of its own
	for _, part := range strings.Split(page, ` data-key="`)[1:] {
		key, _, _ := strings.Cut(part, `"`)
		all = append(all, html.UnescapeString(key))
	}
	return all
}

// An update is what a viewer gets.
type update struct {
	Parts, Rows map[string]string
	Cells       map[string]map[string]string
	Order       []string

	after time.Duration // since the stream began
	bytes int
}

// A viewer is a stream of updates. It is the http.ResponseWriter too.
type viewer struct {
	t     *testing.T
	leave context.CancelFunc
	done  chan struct{} // closed when the handler has returned
	begun time.Time
	in    *io.PipeReader
	out   *io.PipeWriter
	head  http.Header

	mu      sync.Mutex
	updates []update
	pings   int
}

func (v *viewer) Header() http.Header         { return v.head }
func (v *viewer) WriteHeader(int)             {}
func (v *viewer) Write(p []byte) (int, error) { return v.out.Write(p) }
func (v *viewer) Flush()                      {}

// watch opens a stream. If it is slow, nobody reads it until read is called.
func watch(t *testing.T, h http.Handler, query string, slow bool) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &viewer{t: t, leave: cancel, done: make(chan struct{}), begun: time.Now(), head: http.Header{}}
	v.in, v.out = io.Pipe()
	go func() {
		defer close(v.done)
		h.ServeHTTP(v, httptest.NewRequestWithContext(ctx, "GET", "/live"+query, nil))
		v.out.Close()
	}()
	t.Cleanup(v.gone)
	if !slow {
		go v.read()
	}
	synctest.Wait()
	return v
}

// gone closes the connection, as a browser does, and waits for the handler.
func (v *viewer) gone() {
	v.leave()
	v.in.Close()
	<-v.done
}

// read collects the updates.
func (v *viewer) read() {
	lines := bufio.NewReader(v.in)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		v.mu.Lock()
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			u := update{after: time.Since(v.begun), bytes: len(line)}
			if err := json.Unmarshal([]byte(data), &u); err != nil {
				v.t.Error(err)
			}
			v.updates = append(v.updates, u)
		} else if strings.HasPrefix(line, ":") {
			v.pings++
		}
		v.mu.Unlock()
	}
}

// take returns the updates since the last call.
func (v *viewer) take() []update {
	synctest.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	all := v.updates
	v.updates = nil
	return all
}
