package pgserver_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity/internal/pgserver"
)

const (
	soon  = 30 * time.Second       // for what must happen
	quiet = 100 * time.Millisecond // for what must not happen
)

func start(t *testing.T, settings ...string) *pgserver.Server {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	return pgserver.Start(t, settings...)
}

func proxy(t *testing.T, s *pgserver.Server) *pgserver.Proxy {
	t.Helper()
	p, err := s.Proxy()
	must(t, err)
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A session is a psql that stays connected.
type session struct {
	t     *testing.T
	in    io.WriteCloser
	lines chan string // what psql prints; closed when it ends
}

// connect starts a psql without waiting for its connection.
func connect(t *testing.T, dsn string) *session {
	t.Helper()
	psql, err := exec.LookPath("psql")
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql"); len(found) > 0 {
		psql, err = found[len(found)-1], nil
	}
	must(t, err)
	cmd := exec.Command(psql, "-X", "-q", "-A", "-t", dsn)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	must(t, cmd.Start())
	s := &session{t: t, in: in, lines: make(chan string, 100)}
	go func() {
		cmd.Wait()
		writer.Close()
	}()
	go func() {
		defer close(s.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			s.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		for range s.lines {
		}
	})
	return s
}

func (s *session) send(sql string) {
	s.t.Helper()
	_, err := io.WriteString(s.in, sql+";\n")
	must(s.t, err)
}

func (s *session) want(line string) {
	s.t.Helper()
	select {
	case got, open := <-s.lines:
		if got != line || !open {
			s.t.Fatalf("psql printed %q (open: %v), want %q", got, open, line)
		}
	case <-time.After(soon):
		s.t.Fatalf("psql printed nothing for %v, want %q", soon, line)
	}
}

func (s *session) wantQuiet() {
	s.t.Helper()
	select {
	case got, open := <-s.lines:
		s.t.Fatalf("psql printed %q (open: %v), want nothing", got, open)
	case <-time.After(quiet):
	}
}

// wantLost expects that psql ends because of its connection.
func (s *session) wantLost() {
	s.t.Helper()
	timeout := time.After(soon)
	var all strings.Builder
	for {
		select {
		case line, open := <-s.lines:
			fmt.Fprintln(&all, line)
			if open {
				continue
			}
			if !strings.Contains(all.String(), "connection") {
				s.t.Fatalf("psql ended with %q, want a lost connection", all.String())
			}
			return
		case <-timeout:
			s.t.Fatalf("psql has not ended after %v", soon)
		}
	}
}

// query expects that sql prints one line on a new connection.
func query(t *testing.T, dsn, sql, want string) {
	t.Helper()
	s := connect(t, dsn)
	s.send(sql)
	s.want(want)
	must(t, s.in.Close())
	if line, open := <-s.lines; open {
		t.Fatalf("psql printed %q after %q", line, want)
	}
}

// Given a process with two servers, one of them paused, when the process is killed, then
// both servers shut down.
func TestServer_EndsWithItsProcess(t *testing.T) {
	const env = "PGSERVER_TEST_CHILD"
	if os.Getenv(env) != "" {
		running, paused := pgserver.Start(t), pgserver.Start(t)
		must(t, paused.Pause())
		fmt.Println(running.Socket(), paused.Socket())
		select {} // until it is killed
	}
	if testing.Short() {
		t.Skip("starts PostgreSQL servers")
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServer_EndsWithItsProcess$")
	cmd.Env = append(os.Environ(), env+"=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	must(t, cmd.Process.Kill())
	cmd.Wait()
	if line == "PASS\n" {
		t.Skip("the child has skipped the test")
	}
	sockets := strings.Fields(line)
	if len(sockets) != 2 || !filepath.IsAbs(sockets[0]) {
		t.Fatalf("the child printed %q, %s", line, &stderr)
	}
	for _, socket := range sockets {
		t.Cleanup(func() { os.RemoveAll(filepath.Dir(socket)) })
		// The postmaster removes its socket when it has shut down. If its children are
		// paused, it waits five seconds before it kills them.
		for deadline := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
			if _, err := os.Stat(socket); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the server on %s still runs", socket)
			}
		}
	}
}

// Given settings, when the server starts, then it has them and is durable.
func TestServer_Settings(t *testing.T) {
	t.Parallel()
	s := start(t, "max_connections=17", "log_min_messages=debug1", "listen_addresses=*")
	for setting, want := range map[string]string{
		"max_connections":    "17",
		"log_min_messages":   "debug1",
		"fsync":              "on",
		"synchronous_commit": "on",
		"full_page_writes":   "on",
		"server_encoding":    "UTF8",
	} {
		query(t, s.DSN(), "SHOW "+setting, want)
	}
	query(t, s.DSN(), "SELECT '<' || current_setting('listen_addresses') || '>'", "<>")
	if info, err := os.Stat(s.Socket()); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("Socket() is %s: %v, %v", s.Socket(), info, err)
	}
}

// Given an invalid setting, when the server starts, then the error has the server's words
// and no folder is left.
func TestServer_InvalidSetting(t *testing.T) {
	t.Setenv("TMPDIR", publicFolder(t))
	if testing.Short() {
		t.Skip("creates a cluster")
	}
	s, err := pgserver.New("max_connections=many")
	if errors.Is(err, pgserver.ErrNotFound) || errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if s != nil || err == nil || !strings.Contains(err.Error(), `invalid value for parameter "max_connections": "many"`) {
		t.Errorf("New returned %v, %v", s, err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("the folder for temporary files has %v, %v", left, err)
	}
}

// publicFolder returns a folder that every user can reach. t.TempDir is private.
func publicFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "it's ") // a name that a DSN must quote
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// Given a folder whose name needs quotes, when psql connects, then it understands the DSN.
func TestServer_QuotedFolder(t *testing.T) {
	t.Setenv("TMPDIR", publicFolder(t))
	s := start(t)
	query(t, s.DSN(), "SELECT 1", "1")
	p := proxy(t, s)
	query(t, p.DSN(), "SELECT 2", "2")
}

// Given a committed row and an open transaction, when the server restarts or crashes, then
// the row is kept and the transaction is lost.
func TestServer_RestartAndCrash(t *testing.T) {
	t.Parallel()
	s := start(t)
	query(t, s.DSN(), "CREATE TABLE rows (n int); INSERT INTO rows VALUES (1) RETURNING n", "1")
	log := func() string {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(s.Socket()), "log"))
		must(t, err)
		return string(text)
	}
	const recovery = "database system was not properly shut down"
	for i, step := range []struct {
		name     string
		f        func() error
		recovers int
	}{
		{"restart", s.Restart, 0},
		{"crash", s.Crash, 1},
		{"pause, restart", func() error { return errors.Join(s.Pause(), s.Restart()) }, 1},
		{"pause, crash", func() error { return errors.Join(s.Pause(), s.Crash()) }, 2},
	} {
		open := connect(t, s.DSN())
		open.send("BEGIN; INSERT INTO rows VALUES (2) RETURNING n")
		open.want("2")
		if err := step.f(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		open.in.Write([]byte("SELECT 3;\n")) // psql notices; it may have ended already
		open.wantLost()
		query(t, s.DSN(), "SELECT n FROM rows", "1")
		if got := strings.Count(log(), recovery); got != step.recovers {
			t.Errorf("step %d, %s: the log has %d recoveries, want %d", i, step.name, got, step.recovers)
		}
	}
}

// Given a paused server, when clients send queries, then they are answered after Resume.
func TestServer_Pause(t *testing.T) {
	t.Parallel()
	s := start(t)
	old := connect(t, s.DSN())
	old.send("SELECT 1")
	old.want("1")
	must(t, s.Resume())
	must(t, s.Pause())
	must(t, s.Pause())
	old.send("SELECT 2")
	fresh := connect(t, s.DSN())
	fresh.send("SELECT 3")
	old.wantQuiet()
	fresh.wantQuiet()
	must(t, s.Resume())
	old.want("2")
	fresh.want("3")
}

// Given a stopped server, when its methods are called, then they report it, and nothing is
// left.
func TestServer_Stop(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := proxy(t, s)
	must(t, s.Pause())
	must(t, s.Stop())
	must(t, s.Stop())
	must(t, p.Close())
	if _, err := os.Stat(filepath.Dir(s.Socket())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
	_, err := s.Proxy()
	for _, err := range []error{s.Restart(), s.Crash(), s.Pause(), s.Resume(), err} {
		if err == nil || err.Error() != "pgserver: the server is stopped" {
			t.Errorf("the error is %v", err)
		}
	}
}

// Given no programs in PATH and elsewhere, when a server starts, then the error is
// ErrNotFound. PostgreSQL of Debian is found without PATH.
func TestServer_WithoutPath(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	t.Setenv("PATH", "")
	s, err := pgserver.New()
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); len(found) > 0 {
		must(t, err)
		must(t, s.Stop())
	} else if !errors.Is(err, pgserver.ErrNotFound) && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the error is %v", err)
	}
}

// The tests of proxies share a server, because initdb takes a second.
func TestProxy(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, test := range map[string]func(*testing.T, *pgserver.Server){
		"CutAndHeal":    testCutAndHeal,
		"LargeMessages": testLargeMessages,
		"Drop":          testDrop,
		"Close":         testClose,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// Given a proxy, when its network is cut, then nothing arrives on old and new connections,
// not even their end, until it heals.
func testCutAndHeal(t *testing.T, s *pgserver.Server) {
	p := proxy(t, s)
	query(t, p.DSN(), "CREATE TABLE rows (n int); SELECT 0", "0")
	old := connect(t, p.DSN())
	old.send("SELECT 1")
	old.want("1")
	for range 2 {
		p.Heal()
		p.Cut()
		p.Cut()
		old.send("INSERT INTO rows VALUES (2) RETURNING n")
		fresh := connect(t, p.DSN())
		fresh.send("SELECT 3")
		old.wantQuiet()
		fresh.wantQuiet()
		query(t, s.DSN(), "SELECT count(*) FROM rows", "0")
		p.Heal()
		old.want("2")
		fresh.want("3")
		query(t, s.DSN(), "SELECT count(*) FROM rows", "1")
		query(t, s.DSN(), "DELETE FROM rows; SELECT 0", "0")
	}

	p.Cut()
	must(t, s.Crash())
	old.wantQuiet()
	fresh := connect(t, p.DSN())
	fresh.send("SELECT 4")
	old.send("SELECT 5")
	fresh.wantQuiet()
	p.Heal()
	old.wantLost()
	fresh.want("4")
}

// Given statements and answers larger than all buffers, when the network is cut amid them,
// then they arrive complete after it heals.
func testLargeMessages(t *testing.T, s *pgserver.Server) {
	p := proxy(t, s)
	c := connect(t, p.DSN())
	c.send("COPY (SELECT repeat('y', 60000) FROM generate_series(1, 300)) TO STDOUT")
	line := strings.Repeat("y", 60000)
	c.want(line)
	p.Cut() // amid the answer: c.lines and all buffers hold half of it at most
	got := 1
	for idle := false; !idle; {
		select {
		case <-c.lines:
			got++
		case <-time.After(quiet):
			idle = true
		}
	}
	if got >= 300 {
		t.Fatal("all lines have arrived in spite of the cut")
	}
	p.Heal()
	for ; got < 300; got++ {
		c.want(line)
	}

	p.Cut()
	c.send("SELECT length('" + strings.Repeat("y", 5_000_000) + "')")
	c.wantQuiet()
	p.Heal()
	c.want("5000000")
}

// Given open connections, when they are dropped, then their clients lose them, the server
// rolls back, and new ones work.
func testDrop(t *testing.T, s *pgserver.Server) {
	p := proxy(t, s)
	for _, cut := range []bool{false, true} {
		c := connect(t, p.DSN())
		c.send("BEGIN; CREATE TABLE never (); SELECT 1")
		c.want("1")
		if cut {
			p.Cut()
			c.send("COMMIT; SELECT 2")
			c.wantQuiet()
		}
		p.Drop()
		p.Heal()
		if !cut {
			c.send("COMMIT; SELECT 2")
		}
		c.wantLost()
		query(t, p.DSN(), "SELECT 3", "3")
		query(t, s.DSN(), "SELECT count(*) FROM pg_tables WHERE tablename = 'never'", "0")
	}
}

// Given two proxies, when one is closed, then only its connections are lost, and its folder
// is removed.
func testClose(t *testing.T, s *pgserver.Server) {
	closed, open := proxy(t, s), proxy(t, s)
	lost := connect(t, closed.DSN())
	kept := connect(t, open.DSN())
	for _, c := range []*session{lost, kept} {
		c.send("SELECT 1")
		c.want("1")
	}
	closed.Cut()
	must(t, closed.Close())
	must(t, closed.Close())
	lost.send("SELECT 2")
	lost.wantLost()
	connect(t, closed.DSN()).wantLost()
	kept.send("SELECT 2")
	kept.want("2")
	dir := strings.Fields(strings.TrimPrefix(closed.DSN(), "host="))[0]
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder %s is left: %v", dir, err)
	}
}
