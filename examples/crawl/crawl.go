package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/seed-9da638b0/activity"
)

const (
	running = 8   // fetches at once; one that waits for its retry is not running
	started = 100 // fetches that have not ended
)

// A target is the input of both activities. It is stored with them, so it holds all that
// the next process needs.
type target struct {
	URL string
	Dir string // gets the pages; absolute, because the next process may start elsewhere
}

// A frontier is what a crawl has found so far. It is the details of the crawl's heartbeats.
type frontier struct {
	Done, NotFound, GaveUp, Retries int
	Pages                           map[string]string // by URL, the outcome, such as "200 OK"; if empty, the page is not done
}

// A fetched is the result of a fetch. The page itself is in a file.
type fetched struct {
	Status   string
	NotFound bool
	Retries  int
	Links    []string
}

// A crawler has two activities. A crawl keeps the frontier of one site, and runs a fetch for
// each page. So each page has its own timeout, retries and backoff: a 429 delays only its page.
type crawler struct {
	rt     *activity.Runtime
	client *http.Client
	disk   disk
	crawl  activity.Definition[target, frontier]
	fetch  activity.Definition[target, fetched]
}

func newCrawler(rt *activity.Runtime, client *http.Client, heartbeatTimeout time.Duration) *crawler {
	c := &crawler{rt: rt, client: client, disk: osDisk{}}
	// A crawl has no timeout, because it only waits for its fetches, and these have one.
	c.crawl = activity.Definition[target, frontier]{Name: "crawl", Func: c.crawlSite}
	c.fetch = activity.Definition[target, fetched]{Name: "fetch", Func: c.fetchPage, Options: activity.Options{
		HeartbeatTimeout: heartbeatTimeout,
		RetryPolicy:      activity.RetryPolicy{InitialInterval: 250 * time.Millisecond, MaximumAttempts: 10},
	}}
	return c
}

// crawlSite is the function of a crawl.
func (c *crawler) crawlSite(ctx activity.Context, in target) (frontier, error) {
	f, err := activity.Resume(ctx, frontier{Pages: map[string]string{in.URL: ""}})
	if err != nil {
		return frontier{}, err
	}
	var todo []string
	for _, page := range slices.Sorted(maps.Keys(f.Pages)) {
		if f.Pages[page] == "" {
			todo = append(todo, page)
		}
	}
	if f.Done > 0 {
		ctx.Logger().Info("resuming", "done", f.Done, "known", len(f.Pages))
	}
	type outcome struct {
		page string
		fetched
		err error
	}
	outcomes := make(chan outcome, started) // has room for all, so that no fetch waits for the crawl
	n := 0                                  // fetches that have not ended
	for n > 0 || len(todo) > 0 && err == nil {
		for ; n < started && len(todo) > 0 && err == nil; n++ {
			page := todo[0]
			todo = todo[1:]
			// A fetch whose process has died has a checkpoint. It has no use for Runtime.Recover,
			// because this starts it again, under the same ID: it continues its count and backoff.
			go func() {
				got, err := c.fetch.Execute(ctx, c.rt, page, target{page, in.Dir})
				outcomes <- outcome{page, got, err}
			}()
		}
		got := <-outcomes
		n--
		var end *activity.Error
		switch {
		case got.err == nil:
		case ctx.Err() != nil, errors.Is(got.err, activity.ErrShutdown), !errors.As(got.err, &end):
			// The crawl or the program is being stopped, or the Store has refused the start. So no
			// other fetch starts, but what those under way have done is recorded.
			err = cmp.Or(err, got.err)
			continue
		default: // this page gets no further attempt, and the crawl continues without it
			got.Status, got.Retries = "gave up: "+end.Err.Error(), end.Attempt-1
			f.GaveUp++
		}
		if got.NotFound {
			f.NotFound++
		}
		f.Pages[got.page] = got.Status
		f.Done++
		f.Retries += got.Retries
		for _, link := range got.Links {
			if _, known := f.Pages[link]; !known {
				f.Pages[link] = ""
				todo = append(todo, link)
			}
		}
		// The page is in its file, so now it may be recorded as done. If the process dies between
		// the two, the page is fetched again, into the same file.
		err = cmp.Or(err, ctx.Heartbeat(f))
	}
	if err != nil {
		return frontier{}, err
	}
	var index []byte
	for _, page := range slices.Sorted(maps.Keys(f.Pages)) {
		index = fmt.Appendf(index, "%s %s\n", page, f.Pages[page])
	}
	return f, activity.Guard(ctx, func() error { return writeFile(c.disk, in.Dir, "index.txt", index) })
}

// fetchPage is the function of a fetch. It makes one request, and its error says whether and
// when there is another.
func (c *crawler) fetchPage(ctx activity.Context, in target) (fetched, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", in.URL, nil) // ends with the attempt
	if err != nil {
		return fetched{}, activity.NonRetryable(err)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fetched{}, err
	}
	defer resp.Body.Close()
	got := fetched{Status: resp.Status, Retries: ctx.Info().Attempt - 1}
	refused := fmt.Errorf("the server says %s", resp.Status)
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusNotFound:
		got.NotFound = true // a result, which is not retried
		return got, nil
	case code == http.StatusTooManyRequests:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // if zero, the RetryPolicy decides
		return fetched{}, activity.RetryAfter(refused, time.Duration(seconds)*time.Second)
	case code >= 500:
		return fetched{}, refused
	default:
		return fetched{}, activity.NonRetryable(refused)
	}
	// Reader heartbeats as bytes arrive. So a large page may take long, but a server that sends
	// nothing for the heartbeat timeout is found.
	body, err := io.ReadAll(activity.Reader(ctx, resp.Body))
	if err != nil {
		return fetched{}, err
	}
	got.Links = links(req.URL, body)
	// Guard keeps an attempt that has timed out from writing beside the next one.
	return got, activity.Guard(ctx, func() error { return writeFile(c.disk, in.Dir, fileName(req.URL), body) })
}

var href = regexp.MustCompile(`href="([^"]*)"`)

// links returns the URLs in the page that lead to the same site.
func links(page *url.URL, body []byte) (found []string) {
	for _, match := range href.FindAllSubmatch(body, -1) {
		link, err := page.Parse(string(match[1]))
		if err != nil || link.Host != page.Host {
			continue
		}
		link.Fragment = ""
		if s := link.String(); len(s) <= 1024 { // a longer one cannot be the ID of an activity
			found = append(found, s)
		}
	}
	return found
}

// fileName returns a name of its own for each page of a site.
func fileName(page *url.URL) string { return url.QueryEscape(page.RequestURI()) + ".html" }

// A disk is where the pages are. The tests have one that loses its power.
type disk interface {
	create(path string) (file, error)
	rename(oldpath, newpath string) error
	syncDir(dir string) error
}

type file interface {
	io.WriteCloser
	Sync() error
}

type osDisk struct{}

func (osDisk) create(path string) (file, error) { return os.Create(path) }

func (osDisk) rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

func (osDisk) syncDir(dir string) error {
	if runtime.GOOS == "windows" { // which syncs names itself
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile replaces a file. Whenever the process dies, there is the old file or the new one. The
// new one is on the disk before a checkpoint says so.
func writeFile(d disk, dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	f, err := d.create(path + ".new") // what a dead process has left is overwritten
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := d.rename(path+".new", path); err != nil {
		return err
	}
	return d.syncDir(dir) // or the file keeps its old name after a loss of power
}
