package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activitytest"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

const (
	root = "http://site.test/page/1"
	beat = 10 * time.Second // heartbeat timeout
)

// A fakeSite answers requests without a network, so that it can be used in a bubble. The
// number of requests for the path tells the first from the later ones.
type fakeSite struct {
	answer func(ctx context.Context, path string, request int) (code int, body io.Reader)

	mu       sync.Mutex
	requests map[string][]time.Time // by path, when each came
}

func (s *fakeSite) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	activitytest.Point(ctx, "request")
	s.mu.Lock()
	if s.requests == nil {
		s.requests = map[string][]time.Time{}
	}
	s.requests[req.URL.Path] = append(s.requests[req.URL.Path], time.Now())
	n := len(s.requests[req.URL.Path])
	s.mu.Unlock()
	code, body := s.answer(ctx, req.URL.Path, n)
	return &http.Response{
		StatusCode: code,
		Status:     fmt.Sprint(code, " ", http.StatusText(code)),
		Header:     http.Header{"Retry-After": {"60"}},
		Body:       io.NopCloser(body),
		Request:    req,
	}, nil
}

// A readerFunc is a Reader.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// hang is a body that never comes.
func hang(ctx context.Context) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
}

// links1 is page 1 of the fake sites. Pages 2, 3 and 4 are all that it leads to.
const links1 = `<a href="/page/2">2</a><a href="/page/3#part">3</a><a href="4">4</a><a href="http://other.test/">no</a>`

func page(content string) (int, io.Reader) { return 200, strings.NewReader(content) }

var quiet = slog.New(slog.DiscardHandler)

// crawlFake crawls s in the test's bubble, and returns the frontier and the files.
func crawlFake(t *testing.T, s *fakeSite) (frontier, map[string]string) {
	t.Helper()
	dir := t.TempDir()
	rt := activity.New(activity.Config{Logger: quiet})
	c := newCrawler(rt, &http.Client{Transport: s}, beat)
	f, err := c.crawl.Execute(t.Context(), rt, host, target{root, dir})
	if err != nil {
		t.Fatal(err)
	}
	return f, filesIn(t, dir)
}

// filesIn returns the files in dir, by name.
func filesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range entries {
		got[e.Name()] = script.ReadFile(t, filepath.Join(dir, e.Name()))
	}
	return got
}

// A testDisk is the directory of the pages.
type testDisk struct{ *activitytest.FS }

func (d testDisk) create(path string) (file, error) { return d.Create(filepath.Base(path)) }

func (d testDisk) rename(oldpath, newpath string) error {
	return d.Rename(filepath.Base(oldpath), filepath.Base(newpath))
}

func (d testDisk) syncDir(string) error {
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Given pages of each kind, when the program is interrupted anywhere, a request fails or the power does, then
// the files and the frontier are those of an undisturbed crawl, but for the number of retries.
func TestCrawl_SurvivesEveryInterruption(t *testing.T) {
	want := map[string]string{
		"%2Fpage%2F1.html": links1,
		"%2Fpage%2F2.html": "two",
		"%2Fpage%2F3.html": "three",
		"index.txt":        root + " 200 OK\nhttp://site.test/page/2 200 OK\nhttp://site.test/page/3 200 OK\nhttp://site.test/page/4 404 Not Found\n",
	}
	activitytest.Plan{PowerLoss: true}.Run(t, func(t *testing.T, w *activitytest.World) {
		dir := t.TempDir()
		disk := testDisk{w.FS(dir)}
		var mu sync.Mutex
		requests := map[string]int{}
		client := &http.Client{Transport: w.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			requests[r.URL.Path]++
			first := requests[r.URL.Path] == 1
			mu.Unlock()
			switch page := r.URL.Path; {
			case page == "/page/1":
				_, _ = io.WriteString(w, links1)
			case page == "/page/2" && first:
				w.Header().Set("Retry-After", "60")
				w.WriteHeader(http.StatusTooManyRequests)
			case page == "/page/2":
				_, _ = io.WriteString(w, "two")
			case page == "/page/3" && first:
				w.WriteHeader(http.StatusInternalServerError)
			case page == "/page/3":
				_, _ = io.WriteString(w, "three")
			default:
				http.NotFound(w, r)
			}
		}))}
		var f frontier
		err := w.Run(func(ctx context.Context, rt *activity.Runtime) (err error) { // one life of the program
			c := newCrawler(rt, client, beat)
			c.disk = disk
			f, err = c.crawl.Execute(ctx, rt, host, target{root, dir})
			return err
		})
		if err != nil || f.Done != 4 || f.NotFound != 1 || f.GaveUp != 0 {
			t.Errorf("frontier %+v, error %v", f, err)
		}
		got := filesIn(t, dir)
		maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasSuffix(name, ".new") }) // a dead process leaves them
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	})
}

// Given pages that answer 429, 500 and 404, then each has its own wait: as long as the 429
// asked for, the policy's interval, and none.
func TestCrawl_WaitsForEachPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSite{answer: func(_ context.Context, path string, request int) (int, io.Reader) {
			switch {
			case path == "/page/1":
				return page(links1)
			case path == "/page/2" && request == 1:
				return 429, strings.NewReader("")
			case path == "/page/3" && request < 3:
				return 503, strings.NewReader("")
			case path == "/page/4":
				return 404, strings.NewReader("")
			}
			return page(path)
		}}
		start := time.Now()
		f, _ := crawlFake(t, s)
		got := map[string][]time.Duration{}
		for path, times := range s.requests {
			for _, at := range times {
				got[path] = append(got[path], at.Sub(start))
			}
		}
		const interval = 250 * time.Millisecond
		want := map[string][]time.Duration{"/page/1": {0}, "/page/2": {0, time.Minute}, "/page/3": {0, interval, 3 * interval}, "/page/4": {0}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		if f.Done != 4 || f.Retries != 3 || f.NotFound != 1 || f.GaveUp != 0 {
			t.Errorf("%+v", f)
		}
	})
}

// Given a page that always fails, and one that is forbidden, then the crawl gets the others,
// and says why it has no more.
func TestCrawl_GivesUpPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSite{answer: func(_ context.Context, path string, _ int) (int, io.Reader) {
			switch path {
			case "/page/1":
				return page(links1)
			case "/page/2":
				return 500, strings.NewReader("")
			case "/page/3":
				return 403, strings.NewReader("")
			}
			return page(path)
		}}
		f, files := crawlFake(t, s)
		want := root + " 200 OK\n" +
			"http://site.test/page/2 gave up: the server says 500 Internal Server Error\n" +
			"http://site.test/page/3 gave up: the server says 403 Forbidden\n" +
			"http://site.test/page/4 200 OK\n"
		if diff := cmp.Diff(want, files["index.txt"]); diff != "" {
			t.Errorf("index (-want +got):\n%s", diff)
		}
		if f.Done != 4 || f.GaveUp != 2 || f.Retries != 9 || len(s.requests["/page/3"]) != 1 {
			t.Errorf("%+v, %d requests for page 3", f, len(s.requests["/page/3"]))
		}
	})
}

// Given a page of which a byte a second arrives, and one that hangs, then only the second has
// another attempt, as soon as it was silent for the heartbeat timeout.
func TestCrawl_TellsSlowFromHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := strings.Repeat("slow", 50)
		s := &fakeSite{answer: func(ctx context.Context, path string, request int) (int, io.Reader) {
			switch {
			case path == "/page/1":
				return page(links1)
			case path == "/page/2":
				rest := strings.NewReader(slow)
				return 200, readerFunc(func(p []byte) (int, error) {
					time.Sleep(time.Second)
					return rest.Read(p[:1])
				})
			case path == "/page/3" && request == 1:
				return 200, hang(ctx)
			}
			return page(path)
		}}
		f, files := crawlFake(t, s)
		hung := s.requests["/page/3"]
		if len(hung) != 2 || hung[1].Sub(hung[0]) != beat {
			t.Errorf("requests for the page that hangs: %v", hung)
		}
		if len(s.requests["/page/2"]) != 1 || files["%2Fpage%2F2.html"] != slow {
			t.Errorf("%d requests for the slow page, which is %q", len(s.requests["/page/2"]), files["%2Fpage%2F2.html"])
		}
		if f.Done != 4 || f.Retries != 1 || f.GaveUp != 0 {
			t.Errorf("%+v", f)
		}
	})
}

// Given a crawl that is canceled, then it ends with that cause, and starts no other fetch.
func TestCrawl_Canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		s := &fakeSite{answer: func(ctx context.Context, path string, _ int) (int, io.Reader) {
			cancel(cause)
			return 200, hang(ctx)
		}}
		rt := activity.New(activity.Config{Logger: quiet})
		c := newCrawler(rt, &http.Client{Transport: s}, beat)
		_, err := c.crawl.Execute(ctx, rt, host, target{root, t.TempDir()})
		if !errors.Is(err, cause) || len(s.requests) != 1 {
			t.Errorf("error %v, want %v; requests %v", err, cause, s.requests)
		}
	})
}

// Given a crawl that is paused in the middle, when it is unpaused, then no page counts as
// given up because of the pause.
func TestCrawl_Paused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := activity.New(activity.Config{Logger: quiet})
		s := &fakeSite{answer: func(ctx context.Context, path string, request int) (int, io.Reader) {
			switch {
			case path == "/page/1":
				return page(links1)
			case request == 1:
				return 200, hang(ctx)
			}
			return page(path)
		}}
		c := newCrawler(rt, &http.Client{Transport: s}, beat)
		h, err := c.crawl.Start(t.Context(), rt, host, target{root, t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // three pages hang
		if err := rt.Pause(host); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := h.Status().State; got != activity.StatePaused {
			t.Errorf("the crawl is %s, want paused", got)
		}
		if err := rt.Unpause(host); err != nil {
			t.Fatal(err)
		}
		if f, err := h.Wait(t.Context()); err != nil || f.Done != 4 || f.GaveUp != 0 {
			t.Errorf("%+v, error %v", f, err)
		}
	})
}

// Given a page that arrives after its attempt has timed out, then it does not replace that
// of the next attempt.
func TestCrawl_LatePageIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSite{answer: func(_ context.Context, path string, request int) (int, io.Reader) {
			if request == 1 {
				return 200, readerFunc(func(p []byte) (int, error) {
					time.Sleep(time.Minute) // it does not notice that its request has ended
					return copy(p, "late"), io.EOF
				})
			}
			return page("in time")
		}}
		dir := t.TempDir()
		rt := activity.New(activity.Config{Logger: quiet})
		c := newCrawler(rt, &http.Client{Transport: s}, beat)
		_, err := c.crawl.Execute(t.Context(), rt, host, target{root, dir})
		time.Sleep(time.Hour)
		if got := filesIn(t, dir)["%2Fpage%2F1.html"]; err != nil || got != "in time" {
			t.Errorf("the page is %q, error %v", got, err)
		}
	})
}

// Given a frontier that is too large to be recorded, then the crawl fails, and starts no other
// fetch.
func TestCrawl_TooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeSite{answer: func(context.Context, string, int) (int, io.Reader) { return page(links1) }}
		rt := activity.New(activity.Config{Logger: quiet, MaxDetailsSize: 10})
		c := newCrawler(rt, &http.Client{Transport: s}, beat)
		_, err := c.crawl.Execute(t.Context(), rt, host, target{root, t.TempDir()})
		if !errors.Is(err, activity.ErrDetailsTooLarge) || len(s.requests) != 1 {
			t.Errorf("error %v, want %v; requests %v", err, activity.ErrDetailsTooLarge, s.requests)
		}
	})
}
