//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-9da638b0/activity/examples/internal/script"
	"github.com/seed-9da638b0/activity/internal/pgserver"
)

// TestMain makes the test binary the program as well, so that all tests find import on their
// PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"import": main})
}

func TestProgram_Scripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: script.Setup, Cmds: script.Commands, RequireExplicitExec: true})
}

// everywhere are the tests that both databases must pass. create creates a database and returns
// the value of -db.
var everywhere = []struct {
	name string
	test func(t *testing.T, create func() string)
}{
	{"KilledAtRandom", killedAtRandom},
	{"TakesOver", takesOver},
	{"StandsBy", standsBy},
	{"Interrupted", interrupted},
	{"OtherInput", otherInput},
	{"NoticesChanges", noticesChanges},
}

func TestProgram_SQLite(t *testing.T) {
	t.Parallel()
	dir, n := t.TempDir(), 0
	create := func() string {
		n++
		return filepath.Join(dir, fmt.Sprintf("%d.db", n))
	}
	for _, e := range everywhere {
		t.Run(e.name, func(t *testing.T) { e.test(t, create) })
	}
}

func TestProgram_PostgreSQL(t *testing.T) {
	t.Parallel()
	server, n := pgserver.Start(t), 0
	url := func(name string) string {
		return fmt.Sprintf("postgres:///%s?host=%s&port=5432&user=postgres&sslmode=disable", name, filepath.Dir(server.Socket()))
	}
	create := func() string {
		n++
		p := &place{t: t, dsn: url("postgres")}
		p.exec(fmt.Sprintf("CREATE DATABASE import%d", n))
		return url(fmt.Sprintf("import%d", n))
	}
	for _, e := range everywhere {
		t.Run(e.name, func(t *testing.T) { e.test(t, create) })
	}
	t.Run("Lost", func(t *testing.T) { lost(t, create) })
}

const (
	total = 20_000
	size  = 50 // of a batch
)

// A place is a database and a CSV file.
type place struct {
	t        *testing.T
	dsn, csv string
}

func newPlace(t *testing.T, dsn string) *place {
	t.Helper()
	p := &place{t, dsn, filepath.Join(t.TempDir(), "rows.csv")}
	if err := generate(p.csv, total); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *place) exec(statement string) {
	p.t.Helper()
	db, err := openDatabase(p.dsn)
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		p.t.Fatal(err)
	}
}

// count returns the number of rows. There must be whole batches, and each ID once.
func (p *place) count() (rows int) {
	p.t.Helper()
	db, err := openDatabase(p.dsn)
	if err != nil {
		p.t.Fatal(err)
	}
	defer db.Close()
	ids := 0
	err = db.QueryRow("SELECT count(*), count(DISTINCT id) FROM people").Scan(&rows, &ids)
	if err != nil && !strings.Contains(err.Error(), "people") { // there is no such table yet
		p.t.Fatal(err)
	}
	if rows != ids || rows%size != 0 {
		p.t.Fatalf("%d rows with %d different IDs", rows, ids)
	}
	return rows
}

// A program is an import that runs in the background.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout bytes.Buffer
	lines  chan string     // of standard error
	said   strings.Builder // the lines received
}

func (p *place) start(args ...string) *program {
	p.t.Helper()
	args = append([]string{"-db", p.dsn, "-csv", p.csv, "-batch", strconv.Itoa(size)}, args...)
	r := &program{t: p.t, cmd: exec.Command("import", args...), lines: make(chan string, 10_000)}
	r.cmd.Stdout = &r.stdout
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	go func() {
		defer close(r.lines)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			r.lines <- lines.Text()
		}
	}()
	return r
}

// limit is how long a program may take for a line or its end. It is there to show what a program
// that hangs has said.
const limit = 2 * time.Minute

// says waits for a line, and returns its submatches.
func (r *program) says(pattern string) []string {
	r.t.Helper()
	for expired := time.After(limit); ; {
		select {
		case line, ok := <-r.lines:
			if !ok {
				r.t.Fatalf("the program has ended without a line that matches %s:\n%s", pattern, r.said.String())
			}
			r.said.WriteString(line + "\n")
			if m := regexp.MustCompile(pattern).FindStringSubmatch(line); m != nil {
				return m
			}
		case <-expired:
			r.t.Fatalf("no line matches %s:\n%s", pattern, r.said.String())
		}
	}
}

// ends waits for the end of the program, and returns its exit code, -1 after SIGKILL.
func (r *program) ends() int {
	r.t.Helper()
	for expired := time.After(limit); ; {
		select {
		case line, ok := <-r.lines:
			if ok {
				r.said.WriteString(line + "\n")
				continue
			}
			_ = r.cmd.Wait() // its exit code tells
			return r.cmd.ProcessState.ExitCode()
		case <-expired:
			r.t.Fatalf("the program does not end:\n%s", r.said.String())
		}
	}
}

// exits waits for the end of the program, whose exit code and standard error must be these.
func (r *program) exits(code int, stderr string) {
	r.t.Helper()
	stdout := ""
	if code == 0 {
		stdout = "20,000 rows, each once\n"
	}
	if got := r.ends(); got != code || r.stdout.String() != stdout || !regexp.MustCompile(stderr).MatchString(r.said.String()) {
		r.t.Fatalf("exit code %d, want %d, stdout %q, and a standard error that matches %s:\n%s", got, code, r.stdout.String(), stderr, r.said.String())
	}
}

func (r *program) signal(s os.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// standsBy waits until the program says that it stands by for another one.
func (r *program) standsBy(owner *program) {
	r.t.Helper()
	r.says(fmt.Sprintf(`^import: INFO sqlstore: standing by .* in use by process %d on `, owner.cmd.Process.Pid))
}

// middle starts a program and stops it, with SIGSTOP, when some of the rows are imported.
func middle(t *testing.T, create func() string) (*place, *program) {
	t.Helper()
	for {
		p := newPlace(t, create())
		r := p.start()
		r.says(" of 20,000 rows$")
		r.signal(syscall.SIGSTOP)
		if p.count() < total {
			return p, r
		}
		r.signal(os.Kill) // it was too fast
	}
}

// resumed returns how many rows were done when the program resumed.
func resumed(t *testing.T, number string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.ReplaceAll(number, ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wants checks the number of rows after which a program has resumed. Before it was killed, or
// shortly after that, the program before may have committed one batch more.
func wants(t *testing.T, resumed, counted int) {
	t.Helper()
	if resumed != counted && resumed != counted+size {
		t.Errorf("resumed after %d rows, and the table had %d", resumed, counted)
	}
}

const resuming = `(?m)^import: resuming after ([\d,]+) rows$`

// Given a process that stands by, when the owner is killed, then it takes over.
func takesOver(t *testing.T, create func() string) {
	p, first := middle(t, create)
	second := p.start()
	second.standsBy(first)
	counted := p.count()
	first.signal(os.Kill)
	if code := first.ends(); code != -1 {
		t.Errorf("exit code %d, want -1\n%s", code, first.said.String())
	}
	wants(t, resumed(t, second.says(resuming)[1]), counted)
	second.exits(0, "")
}

// Given a process that stands by, when the owner completes, then it only checks.
func standsBy(t *testing.T, create func() string) {
	p, first := middle(t, create)
	second := p.start()
	second.standsBy(first)
	first.signal(syscall.SIGCONT)
	first.exits(0, "import: 20,000 of 20,000 rows\n$")
	second.exits(0, `^import: INFO sqlstore: standing by .*\nimport: the rows are imported already\n$`)
}

// Given an import, when Ctrl-C stops it, then the next run continues.
func interrupted(t *testing.T, create func() string) {
	for {
		p, r := middle(t, create)
		r.signal(os.Interrupt)
		r.signal(syscall.SIGCONT)
		r.says("stopping; a second signal ends the program at once$")
		if code := r.ends(); code == 0 {
			continue // it was too fast
		} else if code != 130 || !strings.HasSuffix(r.said.String(), "\nimport: interrupted; run the same command to continue\n") {
			t.Fatalf("exit code %d, want 130\n%s", code, r.said.String())
		}
		counted := p.count()
		r = p.start()
		if got := resumed(t, r.says(resuming)[1]); got != counted {
			t.Errorf("resumed after %d rows, and the table had %d", got, counted)
		}
		r.exits(0, "")
		return
	}
}

// Given an import that was killed, when it is run with another file or batch, then it is refused.
func otherInput(t *testing.T, create func() string) {
	p, r := middle(t, create)
	r.signal(os.Kill)
	r.ends()
	const refused = `^import: activity "import people": not started: the checkpoint of this ID belongs to another activity: .*\n$`
	p.start("-batch=30").exits(1, refused)
	content := script.ReadFile(t, p.csv)
	script.WriteFile(t, p.csv, content+"20001,a,b,1\n")
	p.start().exits(1, refused)
	script.WriteFile(t, p.csv, content)
	p.start().exits(0, resuming)
	script.WriteFile(t, p.csv, content+"20001,a,b,1\n")
	p.start().exits(1, `^import: the rows are imported already\nimport: the table has 20,000 rows with 20,000 different IDs, and the file has 20,001 rows\n$`)
}

// Given an import that has completed, when a row is there twice, missing or another one, then the
// check says so.
func noticesChanges(t *testing.T, create func() string) {
	p := newPlace(t, create())
	p.start().exits(0, "import: 20,000 of 20,000 rows\n$")
	p.start().exits(0, "^import: the rows are imported already\n$")
	p.exec("UPDATE people SET balance = balance + 1 WHERE id = 77")
	p.start().exits(1, "import: the table has as many rows as the file, but other ones\n$")
	p.exec("UPDATE people SET balance = balance - 1 WHERE id = 77")
	p.exec("INSERT INTO people SELECT * FROM people WHERE id = 77")
	p.start().exits(1, "import: the table has 20,001 rows with 20,000 different IDs, and the file has 20,000 rows\n$")
	p.exec("DELETE FROM people WHERE id = 78")
	p.start().exits(1, "import: the table has 20,000 rows with 19,999 different IDs, and the file has 20,000 rows\n$")
	p.exec("DELETE FROM people WHERE id = 77")
	p.start().exits(1, "import: the table has 19,998 rows with 19,998 different IDs, and the file has 20,000 rows\n$")
}

// Given an owner that is stopped, when the server gives its lock to a process that stands by, then
// it notices when it continues, and stands by.
func lost(t *testing.T, create func() string) {
	if testing.Short() {
		t.Skip("waits for the lease, 10 s")
	}
	p, first := middle(t, create)
	second := p.start()
	second.standsBy(first)
	second.says(resuming)
	second.signal(syscall.SIGSTOP)
	first.signal(syscall.SIGCONT)
	first.says("^import: another process has taken over$")
	first.standsBy(second)
	second.signal(syscall.SIGCONT)
	second.exits(0, "")
	first.exits(0, "import: the rows are imported already\n$")
}

var (
	kills = flag.Int("kills", 8, "how often KilledAtRandom kills the program")
	seed  = flag.Uint64("seed", rand.Uint64(), "of the moments at which KilledAtRandom kills it")
)

// Given a program that is killed at random moments, when it runs again, then it resumes after
// exactly the rows that are there.
func killedAtRandom(t *testing.T, create func() string) {
	t.Logf("-seed=%d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	killed := 0
	for killed < *kills {
		p := newPlace(t, create())
		for counted, code := 0, -1; code == -1; {
			r := p.start()
			if killed < *kills {
				if random.IntN(4) > 0 { // otherwise it may be killed before it has begun
					r.says(`resuming after|of 20,000 rows|imported already`)
				}
				time.AfterFunc(time.Duration(random.Int64N(int64(100*time.Millisecond))), func() { _ = r.cmd.Process.Kill() })
			}
			switch code = r.ends(); {
			case code == -1:
				killed++
			case code == 1 && strings.Contains(r.said.String(), "maximum attempts reached"): // killed ten times at one batch
				code = -1
			default:
				r.exits(0, "")
			}
			if m := regexp.MustCompile(resuming).FindStringSubmatch(r.said.String()); m != nil {
				wants(t, resumed(t, m[1]), counted)
			}
			counted = p.count()
		}
	}
}
