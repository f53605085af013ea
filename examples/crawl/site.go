package main

import (
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A site is the web site that is crawled. Page n links to pages 2n and 2n+1, so page 1 leads
// to all. Some pages give trouble, and do so again in each process.
type site struct {
	pages int
	delay time.Duration // before each part of a page

	mu       sync.Mutex
	requests map[int]int       // by page
	busy     map[int]time.Time // by page, until when it answers 429

	early atomic.Int32 // requests that came earlier than a 429 had asked for
}

func newSite(pages int, delay time.Duration) *site {
	return &site{pages: pages, delay: delay, requests: map[int]int{}, busy: map[int]time.Time{}}
}

// parts returns page n. A large page has several parts.
func (s *site) parts(n int) []string {
	page := fmt.Sprintf("<title>Page %d</title>\n", n)
	for _, to := range []int{2 * n, 2*n + 1} {
		if to <= s.pages {
			page += fmt.Sprintf("<a href=\"/page/%d\">%d</a>\n", to, to)
		}
	}
	if n%10 == 4 {
		page += fmt.Sprintf("<a href=\"/missing/%d#top\">gone</a> <a href=\"http://other.test/\">other</a>\n", n)
	}
	parts := []string{page}
	for i := 0; n%20 == 9 && i < 10; i++ {
		parts = append(parts, strings.Repeat(fmt.Sprintf("Part %d of a large page.\n", i), 5_000))
	}
	return parts
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/page/"))
	if err != nil || n < 1 || n > s.pages {
		http.NotFound(w, r)
		return
	}
	s.mu.Lock()
	s.requests[n]++
	request, now := s.requests[n], time.Now()
	busy := now.Before(s.busy[n])
	switch {
	case busy:
		s.early.Add(1)
	case n%20 == 3 && request == 1:
		busy, s.busy[n] = true, now.Add(2*time.Second)
	}
	s.mu.Unlock()

	switch {
	case busy:
		w.Header().Set("Retry-After", "2")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	case n%20 == 7 && request < 3:
		http.Error(w, "try again", http.StatusInternalServerError)
		return
	}
	for _, part := range s.parts(n) {
		select {
		case <-time.After(s.delay):
		case <-r.Context().Done():
			return
		}
		if n == s.pages/2 && request == 1 {
			_, _ = fmt.Fprint(w, part[:len(part)/2])
			_ = http.NewResponseController(w).Flush()
			log.Printf("the site hangs in the middle of %s", r.URL.Path)
			<-r.Context().Done()
			return
		}
		_, _ = fmt.Fprint(w, part)
		_ = http.NewResponseController(w).Flush()
	}
}
