// Crawl is a service that crawls a web site, and survives what happens to the site and to
// itself. It also serves the site, on loopback, so that it can be tried anywhere:
//
//	go run ./examples/crawl [flags]
//
// See README.md. The exit code is 1 if the crawl has failed or was canceled, 2 for a usage
// error, and 130 after Ctrl-C or SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/activityhttp"
	"github.com/seed-9da638b0/activity/boltstore"
)

var (
	db      = flag.String("db", "crawl.db", "keep the checkpoints in this `file`")
	out     = flag.String("out", "pages", "write the pages to this `directory`")
	address = flag.String("http", "localhost:0", "serve the page with the activities at this `address`; it has no authentication")
	pages   = flag.Int("pages", 300, "how many pages the site has")
	delay   = flag.Duration("delay", 100*time.Millisecond, "how long the site takes for a page, or for a part of a large one")
	timeout = flag.Duration("heartbeat-timeout", 3*time.Second, "the longest silence of the site, after which a fetch has stalled")
)

// host is the name of the site, and the ID of its crawl. In all processes it is the same.
const host = "site.test"

func main() {
	log.SetFlags(0)
	log.SetPrefix("crawl: ")
	flag.Parse()
	code, err := run()
	if err != nil {
		log.Print(err)
	}
	os.Exit(code)
}

// run returns the exit code.
func run() (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case flag.NArg() > 0:
		return 2, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *pages < 20 || *pages > 10_000:
		return 2, fmt.Errorf("-pages must be between 20 and 10000 (got %d)", *pages)
	case *delay < 0:
		return 2, fmt.Errorf("-delay must not be negative (got %s)", *delay)
	case *timeout <= *delay:
		return 2, fmt.Errorf("-heartbeat-timeout must be longer than -delay, %s (got %s)", *delay, *timeout)
	}
	dir, err := filepath.Abs(*out)
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err != nil {
		return 1, err
	}
	store, err := boltstore.Open(*db, nil)
	if err != nil {
		return 1, err
	}
	defer store.Close()
	// A crawl keeps its slot while it waits for its fetches, so it needs one besides theirs.
	rt := activity.New(activity.Config{Store: store, MaxConcurrent: 1 + running})

	site := newSite(*pages, *delay)
	siteServer, err := serve("localhost:0", site)
	if err != nil {
		return 1, err
	}
	defer siteServer.Close()
	mux := http.NewServeMux()
	mux.Handle("/activities/", http.StripPrefix("/activities", activityhttp.Handler(rt, &activityhttp.Options{Control: true})))
	pageServer, err := serve(*address, mux)
	if err != nil {
		return 1, err
	}
	defer pageServer.Close()
	log.Printf("watch http://%s/activities/", pageServer.Addr)

	// The client finds the site by its name, because its port is another in each process.
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, siteServer.Addr)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: running}}

	// If a process has left the crawl unfinished, Start continues it. The crawl does not get the
	// context of the signal, because the end of that would cut what is under way.
	c := newCrawler(rt, client, *timeout)
	crawl, err := c.crawl.Start(context.Background(), rt, host, target{"http://" + host + "/page/1", dir})
	if err != nil {
		return 1, err
	}
	select {
	case <-crawl.Done():
	case <-ctx.Done():
		stop() // before the user is told
		log.Print("stopping; a second signal ends the program at once")
	}
	// Each activity stops at its next safe point. After 20 s, those that are left are canceled,
	// and the Store gets the last progress. Until then, the page shows what is left.
	if err := errors.Join(within(20*time.Second, rt.Drain), within(10*time.Second, rt.Shutdown)); err != nil {
		log.Print(err)
	}
	f, err := crawl.Wait(context.Background())
	switch {
	case errors.Is(err, activity.ErrShutdown):
		return 130, errors.New("interrupted; run the same command to continue")
	case err != nil:
		return 1, err
	}
	fmt.Printf("%s: %d pages, %d not found, %d given up, %d retries; %d requests came earlier than the site had asked for\n",
		host, f.Done-f.NotFound-f.GaveUp, f.NotFound, f.GaveUp, f.Retries, site.early.Load())
	return 0, nil
}

// serve serves h. The Addr of the server is where.
func serve(address string, h http.Handler) (*http.Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server, nil
}

// within calls end with a context that ends after d.
func within(d time.Duration, end func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return end(ctx)
}
