package activityhttp

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
	"weak"
)

const (
	writeTimeout = 10 * time.Second // after which a viewer that takes nothing is gone
	pingInterval = 15 * time.Second // of silence, so that proxies keep the stream open
)

// live serves the updates of a page as server-sent events. Each viewer has only the goroutine
// of its request. It compares what it has sent last with the present snapshot, so a viewer that
// is slow misses updates, and holds up nobody.
func (h *handler) live(w http.ResponseWriter, r *http.Request) {
	f, ok := filterOf(w, r)
	if !ok {
		return
	}
	rc := http.NewResponseController(w)
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx
	if r.Method == "HEAD" {
		return
	}
	send := func(event string) error {
		// Instead of Server.WriteTimeout. Between two events there is none, because HTTP/2 would
		// reset a silent stream.
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
		if _, err := w.Write([]byte(event)); err != nil {
			return err
		}
		return rc.Flush()
	}
	if err := rc.Flush(); err != nil {
		header.Del("X-Accel-Buffering")
		fail(w, r, http.StatusNotImplemented, "The server cannot stream: "+err.Error())
		return
	}
	h.shared.join()
	defer h.shared.leave()
	shutdown := h.servers.shutdownOf(r)
	var sent *view
	var lastSend time.Time
	for {
		v := h.view(f, h.shared.get(h.ask), sent)
		u, changed := v.change(sent)
		event := ": still here\n\n"
		if changed {
			data, err := json.Marshal(u)
			if err != nil {
				panic(err) // an update has only strings
			}
			event = "data: " + string(data) + "\n\n"
		}
		if changed || time.Since(lastSend) >= pingInterval {
			if err := send(event); err != nil {
				return
			}
			lastSend = time.Now()
		}
		sent = v
		select {
		case <-time.After(h.shared.next()):
		case <-r.Context().Done():
			return
		case <-shutdown:
			return
		}
	}
}

// servers notes which servers are shut down, because http.Server.Shutdown waits until all
// requests have ended, and does not end their contexts.
type servers struct {
	mu   sync.Mutex
	down map[serverKey]chan struct{} // closed when the server is shut down
}

// A serverKey is weak, so that no server is kept in memory.
type serverKey = weak.Pointer[http.Server]

// shutdownOf returns a channel that is closed when the server of the request is shut down. It is
// nil if the server is not known. Each request calls shutdownOf, because a server that is
// already being shut down no longer notifies: so the request that the browser makes before that
// of the stream registers.
func (s *servers) shutdownOf(r *http.Request) <-chan struct{} {
	server, _ := r.Context().Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := weak.Make(server)
	down, known := s.down[key]
	if !known {
		down = make(chan struct{})
		s.down[key] = down
		server.RegisterOnShutdown(sync.OnceFunc(func() { close(down) }))
	}
	return down
}
