// Package pgserver runs a real PostgreSQL server for tests. The server has its own cluster
// in a temporary folder and listens only on a Unix socket there. The package needs the
// PostgreSQL programs and Linux, but no database driver.
//
// Faults are part of the API. [Server.Crash] kills every process of the server,
// [Server.Pause] freezes them, and a [Proxy] is a network that can fail.
//
// The server is as durable as PostgreSQL is by default: fsync and synchronous_commit are
// on, unless the settings say otherwise. A server ends with the process that started it,
// even if that process is killed. If the process ends without [Server.Stop], the folder
// remains.
package pgserver

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ErrNotFound is the error of [New] if the PostgreSQL programs are not installed.
var ErrNotFound = errors.New("pgserver: no PostgreSQL in /usr/lib/postgresql or PATH (on Debian: apt-get install postgresql)")

var errStopped = errors.New("pgserver: the server is stopped")

const (
	// RequireEnv is an environment variable. If it is set, [Start] fails the test where it
	// would skip it.
	RequireEnv = "ACTIVITY_REQUIRE_POSTGRES"

	socketName    = ".s.PGSQL.5432"
	maxSocketPath = 100              // sun_path holds 108 bytes
	patience      = 60 * time.Second // for a server to start or to shut down
)

// A Server is a PostgreSQL server on a cluster of its own. Its methods may be called
// concurrently.
type Server struct {
	bin      string // folder of the PostgreSQL programs
	dir      string // temporary folder: the cluster, the socket, the log, the proxies' folders
	settings []string

	mu      sync.Mutex // guards the fields below
	server  *process   // the postmaster; nil if the last start failed
	stopped bool       // set once, by Stop
	proxies []*Proxy
}

// Start starts a server, as [New] does, and stops it at the end of the test. If there is no
// PostgreSQL or the system is not Linux, Start skips the test, or fails it if the
// environment variable [RequireEnv] is not empty. Any other error fails the test.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := New(settings...)
	missing := errors.Is(err, ErrNotFound) || errors.Is(err, errors.ErrUnsupported)
	if missing && os.Getenv(RequireEnv) == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// New creates a cluster in a new temporary folder and starts a server on it. Settings such
// as "max_connections=200" are passed to the server with -c. The caller must call
// [Server.Stop].
//
// PostgreSQL refuses to run as root. If the process runs as root, the server runs as the
// user postgres, or as nobody if there is no such user. That user must be able to reach
// the folder for temporary files.
//
// The error is [ErrNotFound] if there is no PostgreSQL. It wraps [errors.ErrUnsupported] if
// the system is not Linux.
func New(settings ...string) (*Server, error) {
	if err := checkSystem(); err != nil {
		return nil, err
	}
	bin, err := findPrograms()
	if err != nil {
		return nil, err
	}
	dir, err := makeFolder()
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	s := &Server{bin: bin, dir: dir, settings: slices.Clone(settings)}
	if err := s.create(); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// findPrograms returns the folder of the PostgreSQL programs. The one in PATH comes first,
// then the newest version in /usr/lib/postgresql.
func findPrograms() (string, error) {
	if initdb, err := exec.LookPath("initdb"); err == nil && hasPrograms(filepath.Dir(initdb)) {
		return filepath.Dir(initdb), nil
	}
	best, bestVersion := "", 0
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is valid
	for _, dir := range dirs {
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err == nil && version > bestVersion && hasPrograms(dir) {
			best, bestVersion = dir, version
		}
	}
	if best == "" {
		return "", ErrNotFound
	}
	return best, nil
}

func hasPrograms(dir string) bool {
	for _, name := range []string{"initdb", "postgres", "pg_isready"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// makeFolder creates the temporary folder, with a path that is short enough for the
// sockets of the server and its proxies.
func makeFolder() (string, error) {
	parent := os.TempDir()
	if len(parent)+len("/pg1234567890/p1234567890/")+len(socketName) > maxSocketPath {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "pg")
	if err != nil {
		return "", err
	}
	if err := giveAway(dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	return dir, nil
}

func (s *Server) create() error {
	// It is safe to skip initdb's sync, because no test cuts the power.
	p, err := s.run("initdb", "-D", s.data(), "-A", "trust", "-U", "postgres", "--no-sync", "--locale=C", "-E", "UTF8")
	if err != nil {
		return err
	}
	<-p.done
	if p.err != nil {
		return s.failure("initdb failed", p.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.startLocked()
}

// startLocked starts the postmaster and waits until it accepts connections.
func (s *Server) startLocked() error {
	args := []string{"-D", s.data()}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	// The last of two equal settings wins, and DSN relies on these.
	args = append(args, "-c", "listen_addresses=", "-c", "port=5432", "-c", "unix_socket_directories="+s.dir)
	p, err := s.run("postgres", args...)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		ready := exec.Command(filepath.Join(s.bin, "pg_isready"), "-q", "-h", s.dir, "-p", "5432", "-U", "postgres", "-d", "postgres")
		ready.Env = environment()
		if ready.Run() == nil {
			s.server = p
			return nil
		}
		select {
		case <-p.done:
			return s.failure("the server ended before it was ready", p.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return errors.Join(s.failure(fmt.Sprintf("the server was not ready after %v", patience), nil), p.kill())
}

// run starts a PostgreSQL program whose output goes to the log.
func (s *Server) run(name string, args ...string) (*process, error) {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("pgserver: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = environment()
	cmd.Stdout = log
	cmd.Stderr = log
	p, err := startProcess(cmd)
	if err != nil {
		return nil, fmt.Errorf("pgserver: cannot start %s: %w", name, err)
	}
	return p, nil
}

// environment returns the environment of PostgreSQL programs. It has none of the PG
// variables, because they change what the programs do.
func environment() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}

// failure returns an error that ends with the last lines of the log.
func (s *Server) failure(what string, cause error) error {
	if cause != nil {
		what += ": " + cause.Error()
	}
	log, err := os.ReadFile(s.log())
	if err != nil {
		return fmt.Errorf("pgserver: %s (no log: %w)", what, err)
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	lines = lines[max(0, len(lines)-20):]
	return fmt.Errorf("pgserver: %s; the log ends with:\n%s", what, bytes.Join(lines, []byte("\n")))
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

// DSN returns the connection string of the server, in the keyword form of libpq. It stays
// the same after Restart and Crash.
func (s *Server) DSN() string { return dsn(s.dir) }

func dsn(dir string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(dir)
	if quoted != dir || strings.ContainsAny(dir, " \t\r\n") {
		dir = "'" + quoted + "'"
	}
	return "host=" + dir + " port=5432 user=postgres dbname=postgres sslmode=disable"
}

// Socket returns the path of the server's socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, socketName) }

// Restart shuts the server down, starts it again and waits until it is ready. The shutdown
// is fast: it ends all connections and rolls their transactions back. If the server does
// not run, Restart only starts it.
func (s *Server) Restart() error {
	return s.startAfter(func(p *process) error { return s.shutDown(p, syscall.SIGINT) })
}

// Crash kills all processes of the server at once, with SIGKILL. It then starts the server
// again and waits until it has recovered. If the server does not run, Crash only starts it.
func (s *Server) Crash() error {
	return s.startAfter(func(p *process) error {
		if err := p.kill(); err != nil {
			return fmt.Errorf("pgserver: crash: %w", err)
		}
		return nil
	})
}

func (s *Server) startAfter(end func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	if p := s.server; p != nil {
		if err := end(p); err != nil {
			return err
		}
		s.server = nil
	}
	return s.startLocked()
}

// shutDown sends the postmaster a signal that ends it, and waits. If the server is paused,
// it is resumed first, because a frozen process does not handle signals.
func (s *Server) shutDown(p *process, signal syscall.Signal) error {
	if err := errors.Join(p.resume(), p.signal(signal)); err != nil {
		return fmt.Errorf("pgserver: shutdown: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return errors.Join(s.failure(fmt.Sprintf("no shutdown within %v", patience), nil), p.kill())
	}
}

// Stop closes the proxies, stops the server without a checkpoint and removes its folder.
// The second call does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil
	}
	s.stopped = true
	var errs []error
	for _, p := range s.proxies {
		errs = append(errs, p.Close())
	}
	if s.server != nil {
		// SIGKILL would leave shared memory behind. SIGQUIT lets the postmaster remove it.
		errs = append(errs, s.shutDown(s.server, syscall.SIGQUIT))
	}
	if err := os.RemoveAll(s.dir); err != nil {
		errs = append(errs, fmt.Errorf("pgserver: %w", err))
	}
	return errors.Join(errs...)
}

// Pause freezes all processes of the server, with SIGSTOP, and waits until they stand
// still. Connections stay open, and new ones are made, but nothing is answered. Restart,
// Crash and Stop end the pause.
func (s *Server) Pause() error { return s.do("pause", (*process).pause) }

// Resume ends a pause. If the server is not paused, Resume does nothing.
func (s *Server) Resume() error { return s.do("resume", (*process).resume) }

func (s *Server) do(name string, f func(*process) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.server == nil {
		return errStopped
	}
	if err := f(s.server); err != nil {
		return fmt.Errorf("pgserver: %s: %w", name, err)
	}
	return nil
}
