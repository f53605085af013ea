package servertest

import (
	"bytes"
	"database/sql"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity/internal/pgserver"
)

// The crash harness: several processes import the same rows, and are killed, stopped, and cut off.
// However that goes, each row must be imported once.

var rounds = flag.Int("rounds", 1, "how many rounds of each fault the crash harness makes")

const testLease = time.Second

// A process is an instance of the importer.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
	err    error // set before ended is closed
	proxy  *pgserver.Proxy
}

// A round is one import.
type round struct {
	t      *testing.T
	rand   *rand.Rand
	db     *sql.DB // the test's own connection
	driver string
	dsn    string
	server *pgserver.Server // nil for SQLite
	mode   string

	mu  sync.Mutex
	all []*process
}

// start starts another instance.
func (r *round) start() *process {
	r.t.Helper()
	p := &process{ended: make(chan struct{})}
	dsn := r.dsn
	if r.server != nil {
		proxy, err := r.server.Proxy()
		if err != nil {
			r.t.Fatal(err)
		}
		p.proxy, dsn = proxy, proxy.DSN()
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childEnv+"=import", "DRIVER="+r.driver, "DSN="+dsn, "MODE="+r.mode, "LEASE="+testLease.String())
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	r.mu.Lock()
	r.all = append(r.all, p)
	r.mu.Unlock()
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
	if p.proxy != nil {
		p.proxy.Close()
	}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// owner returns the process that owns the checkpoints, and its epoch. It waits for one.
func (r *round) owner() (owner *process, epoch int) {
	r.t.Helper()
	r.until("an owner", func() bool {
		pid, holder := 0, ""
		if err := r.db.QueryRow("SELECT epoch, holder FROM activity_checkpoints_owners").Scan(&epoch, &holder); err != nil {
			return false
		}
		fmt.Sscanf(holder, "process %d", &pid)
		for _, p := range r.all {
			if p.cmd.Process.Pid == pid && p.running() {
				owner = p
			}
		}
		return owner != nil || r.finished()
	})
	return owner, epoch
}

// until waits until f reports true. It fails the test only if that takes absurdly long.
func (r *round) until(what string, f func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !f(); {
		if time.Now().After(deadline) {
			var said []string
			for _, p := range r.all {
				said = append(said, fmt.Sprintf("process %d, running %t: %s", p.cmd.Process.Pid, p.running(), p.stderr.String()))
			}
			r.t.Fatalf("gave up waiting for %s; %d rows\n%s", what, r.count(), said)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// count returns the number of rows, or -1 if the database does not answer.
func (r *round) count() int {
	n := -1
	_ = r.db.QueryRow("SELECT count(*) FROM imported").Scan(&n)
	return n
}

func (r *round) finished() bool {
	n := 0
	err := r.db.QueryRow("SELECT count(*) FROM finished").Scan(&n)
	return err == nil && n > 0
}

// progress waits until some more rows are imported.
func (r *round) progress() {
	r.t.Helper()
	from := r.count()
	goal := min(from+1+r.rand.IntN(importRows/4), importRows-1)
	r.until("more rows", func() bool { return r.count() > goal || r.finished() })
}

// end waits until the import has finished, stops all processes, and returns the number of rows
// that are there more than once.
func (r *round) end() (twice int) {
	r.t.Helper()
	r.until("the end", r.finished)
	for _, p := range r.all {
		if p.running() {
			p.signal(syscall.SIGCONT)
			if p.proxy != nil {
				p.proxy.Heal()
			}
		}
	}
	// They exit by themselves, once they have been the owner.
	for _, p := range r.all {
		r.until("the processes", func() bool { return !p.running() })
		if p.proxy != nil {
			p.proxy.Close()
		}
	}
	var rows, distinct int
	if err := r.db.QueryRow("SELECT count(*), count(DISTINCT n) FROM imported").Scan(&rows, &distinct); err != nil {
		r.t.Fatal(err)
	}
	if distinct != importRows {
		r.t.Errorf("%d different rows, want %d", distinct, importRows)
	}
	left := 0
	if err := r.db.QueryRow("SELECT count(*) FROM activity_checkpoints").Scan(&left); err != nil || left != 0 {
		r.t.Errorf("%d checkpoints are left (%v)", left, err)
	}
	return rows - distinct
}

// prepare empties the tables.
func (r *round) prepare() {
	r.t.Helper()
	for _, table := range []string{"imported", "finished", "activity_checkpoints", "activity_checkpoints_owners", "activity_checkpoints_version"} {
		if _, err := r.db.Exec("DROP TABLE IF EXISTS " + table); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, table := range []string{"imported", "finished"} {
		if _, err := r.db.Exec("CREATE TABLE " + table + " (n bigint NOT NULL)"); err != nil {
			r.t.Fatal(err)
		}
	}
}

// faults are what happens to the owner, or to the database.
var faults = map[string]func(r *round){
	"kill": func(r *round) {
		if p, _ := r.owner(); p != nil {
			p.kill()
			r.start()
		}
	},
	// The owner is stopped until another has taken over.
	"stop": func(r *round) {
		p, epoch := r.owner()
		if p == nil {
			return
		}
		p.signal(syscall.SIGSTOP)
		defer p.signal(syscall.SIGCONT)
		r.taken(epoch)
	},
	// The sessions of the owner are ended, those of its transactions and the one with the lock.
	"terminate": func(r *round) {
		_, _ = r.db.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
	},
	// The network of the owner is cut until another has taken over. What it has sent arrives later.
	"cut": func(r *round) {
		p, epoch := r.owner()
		if p == nil {
			return
		}
		p.proxy.Cut()
		defer p.proxy.Heal()
		r.taken(epoch)
	},
	"drop": func(r *round) {
		if p, _ := r.owner(); p != nil {
			p.proxy.Drop()
		}
	},
	"restart": func(r *round) {
		if err := r.server.Restart(); err != nil {
			r.t.Fatal(err)
		}
	},
	"crash": func(r *round) {
		if err := r.server.Crash(); err != nil {
			r.t.Fatal(err)
		}
	},
}

// taken waits until another process owns the checkpoints.
func (r *round) taken(before int) {
	r.t.Helper()
	r.until("another owner", func() bool {
		epoch := 0
		err := r.db.QueryRow("SELECT epoch FROM activity_checkpoints_owners").Scan(&epoch)
		return err == nil && epoch > before || r.finished()
	})
}

// run makes one round, with n processes.
func (r *round) run(n int, names ...string) (twice int) {
	r.t.Helper()
	r.prepare()
	defer func() {
		for _, p := range r.all {
			if p.running() {
				p.kill()
			}
		}
		r.all = nil
	}()
	for range n {
		r.start()
	}
	for range 3 {
		r.progress()
		if r.finished() {
			break
		}
		faults[names[r.rand.IntN(len(names))]](r)
	}
	return r.end()
}

// Given two or three processes and all kinds of faults, then each row is imported once.
func TestHarness_PostgreSQL(t *testing.T) {
	server := pgserver.Start(t)
	r := &round{t: t, driver: "pgx", dsn: server.DSN(), server: server, mode: "range", db: openDB(t, "pgx", server.DSN())}
	for _, fault := range [][]string{{"kill"}, {"stop"}, {"terminate"}, {"cut"}, {"restart"}, {"crash"}, {"kill", "stop", "terminate", "cut", "drop", "crash"}} {
		name := fault[0]
		if len(fault) > 1 {
			name = "any"
		}
		t.Run(name, func(t *testing.T) {
			r.t = t
			for i := range *rounds {
				seed := rand.Uint64()
				r.rand = rand.New(rand.NewPCG(seed, 1))
				if twice := r.run(2+i%2, fault...); twice != 0 {
					t.Fatalf("round %d (seed %d): %d rows are there more than once", i, seed, twice)
				}
			}
		})
	}
}

func TestHarness_SQLite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data.db")
	db := openSQLite(t, file)
	dsn := "file:" + file + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(10000)"
	r := &round{t: t, driver: "sqlite", dsn: dsn, mode: "range", db: db}
	for i := range *rounds {
		seed := rand.Uint64()
		r.rand = rand.New(rand.NewPCG(seed, 1))
		if twice := r.run(2+i%2, "kill"); twice != 0 {
			t.Fatalf("round %d (seed %d): %d rows are there more than once", i, seed, twice)
		}
	}
}

// Given the same import with plain heartbeats, then some rows are imported twice: the harness can
// fail.
func TestHarness_NoticesDuplicates(t *testing.T) {
	server := pgserver.Start(t)
	r := &round{t: t, driver: "pgx", dsn: server.DSN(), server: server, mode: "plain", db: openDB(t, "pgx", server.DSN())}
	for i := range 20 {
		r.rand = rand.New(rand.NewPCG(uint64(i), 1))
		if r.run(2, "kill") > 0 {
			return
		}
	}
	t.Error("20 imports with plain heartbeats have imported no row twice")
}
