package pgserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// A Proxy forwards the connections of its own socket to a server. It stands for the network
// between a client and the server. Its methods may be called concurrently.
type Proxy struct {
	dir      string // its own folder, inside the server's
	target   string // path of the server's socket
	listener net.Listener
	tasks    sync.WaitGroup

	mu     sync.Mutex     // guards the fields below, and link.server
	healed chan struct{}  // open while the network is cut, closed otherwise
	links  map[*link]bool // the open connections
	closed bool           // set once, by Close
}

// A link is one forwarded connection.
type link struct {
	client  net.Conn
	server  net.Conn      // nil until the server is connected
	dropped chan struct{} // closed with both connections
}

// Proxy starts a proxy in front of the server. It survives Restart and Crash. Stop closes
// it.
func (s *Server) Proxy() (*Proxy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errStopped
	}
	dir, err := os.MkdirTemp(s.dir, "p")
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	listener, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	p := &Proxy{dir: dir, target: s.Socket(), listener: listener, healed: make(chan struct{}), links: map[*link]bool{}}
	close(p.healed)
	p.tasks.Go(p.accept)
	s.proxies = append(s.proxies, p)
	return p, nil
}

// DSN returns the connection string of the proxy, in the keyword form of libpq.
func (p *Proxy) DSN() string { return dsn(p.dir) }

// Cut cuts the network. From now on nothing arrives, in either direction, and nobody is
// told: connections stay open, and new ones are made but never answered. Even the end of a
// connection does not arrive. Bytes that were sent before Cut may still arrive.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.isCutLocked() {
		p.healed = make(chan struct{})
	}
}

// Heal ends a cut. Everything that was sent meanwhile arrives now, because a real network
// retransmits it.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isCutLocked() {
		close(p.healed)
	}
}

func (p *Proxy) isCutLocked() bool {
	select {
	case <-p.healed:
		return false
	default:
		return true
	}
}

// Drop closes all open connections, on both sides. Bytes in flight are lost.
func (p *Proxy) Drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		p.dropLocked(l)
	}
}

// Close drops all connections and stops the proxy. The second call does nothing.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	errListener := p.listener.Close()
	p.Drop()
	p.tasks.Wait()
	if err := errors.Join(errListener, os.RemoveAll(p.dir)); err != nil {
		return fmt.Errorf("pgserver: close proxy: %w", err)
	}
	return nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		l := &link{client: client, dropped: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			client.Close()
		} else {
			p.links[l] = true
			p.tasks.Go(func() { p.connect(l) })
		}
		p.mu.Unlock()
	}
}

// connect connects a link with the server and forwards in both directions.
func (p *Proxy) connect(l *link) {
	if !p.wait(l) {
		return
	}
	server, err := net.Dial("unix", p.target)
	p.mu.Lock()
	if err != nil {
		p.dropLocked(l)
		p.mu.Unlock()
		return
	}
	if !p.links[l] {
		server.Close()
		p.mu.Unlock()
		return
	}
	l.server = server
	p.mu.Unlock()
	p.tasks.Go(func() { p.forward(l, server, l.client) })
	p.forward(l, l.client, server)
}

// forward copies from one side of a link to the other until the source ends. It then drops
// the link. If only the destination has ended, the rest is read and discarded: the other
// direction drops the link, after it has delivered the destination's last bytes.
func (p *Proxy) forward(l *link, to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	ended := false
	for {
		n, errRead := from.Read(buffer)
		if !p.wait(l) {
			return
		}
		if n > 0 && !ended {
			_, err := to.Write(buffer[:n])
			ended = err != nil
		}
		if errRead != nil {
			p.mu.Lock()
			p.dropLocked(l)
			p.mu.Unlock()
			return
		}
	}
}

// wait waits until the network is not cut. It returns false if the link was dropped.
func (p *Proxy) wait(l *link) bool {
	p.mu.Lock()
	healed := p.healed
	p.mu.Unlock()
	select {
	case <-healed:
		return true
	case <-l.dropped:
		return false
	}
}

// dropLocked closes a link. It does nothing if the link is closed.
func (p *Proxy) dropLocked(l *link) {
	if !p.links[l] {
		return
	}
	delete(p.links, l)
	close(l.dropped)
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}
