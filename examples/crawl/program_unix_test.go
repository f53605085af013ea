//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/seed-9da638b0/activity/boltstore"
	"github.com/seed-9da638b0/activity/examples/internal/script"
)

// TestMain makes the test binary the program as well, so that all tests find crawl on their
// PATH.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"crawl": main})
}

// The whole program, as a user runs it. If the heartbeat timeout is an hour, the site's page
// that hangs keeps the crawl from finishing.
func TestProgram_Scripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Cmds: script.Commands, RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
		err := errors.Join(script.Setup(e), os.RemoveAll(filepath.Join(e.WorkDir, "want")))
		dir := filepath.Join(e.WorkDir, "want")
		err = errors.Join(err, os.Mkdir(dir, 0o777))
		for name, content := range wanted(60) {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666))
		}
		return err
	}})
}

// wanted returns the files of a whole crawl.
func wanted(pages int) map[string]string {
	s := newSite(pages, 0)
	files, outcomes := map[string]string{}, map[string]string{}
	for n := 1; n <= pages; n++ {
		page := strings.Join(s.parts(n), "")
		u := &url.URL{Scheme: "http", Host: host, Path: "/page/" + strconv.Itoa(n)}
		files[fileName(u)] = page
		outcomes[u.String()] = "200 OK"
		if strings.Contains(page, "/missing/") {
			outcomes["http://"+host+"/missing/"+strconv.Itoa(n)] = "404 Not Found"
		}
	}
	for _, u := range slices.Sorted(maps.Keys(outcomes)) {
		files["index.txt"] += u + " " + outcomes[u] + "\n"
	}
	return files
}

// A program is a crawl that runs in the background.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	page   string // URL of the activities
	stdout bytes.Buffer
	lines  chan string     // of standard error
	said   strings.Builder // the lines received
}

// limit is how long a program may take for a line, an update or its end. It is there to show
// what a program that hangs has said.
const limit = 2 * time.Minute

func start(t *testing.T, dir string, args ...string) *program {
	t.Helper()
	p := &program{t: t, cmd: exec.Command("crawl", args...), lines: make(chan string, 10_000)}
	p.cmd.Dir, p.cmd.Stdout = dir, &p.stdout
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() })
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	return p
}

// says waits for a line, and returns its submatches.
func (p *program) says(pattern string) []string {
	p.t.Helper()
	for expired := time.After(limit); ; {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("the program has ended without a line that matches %s:\n%s", pattern, p.said.String())
			}
			p.said.WriteString(line + "\n")
			if m := regexp.MustCompile(pattern).FindStringSubmatch(line); m != nil {
				return m
			}
		case <-expired:
			p.t.Fatalf("no line matches %s:\n%s", pattern, p.said.String())
		}
	}
}

// ends waits for the end of the program, and returns its exit code, -1 after SIGKILL.
func (p *program) ends() int {
	p.t.Helper()
	for expired := time.After(limit); ; {
		select {
		case line, ok := <-p.lines:
			if ok {
				p.said.WriteString(line + "\n")
				continue
			}
			_ = p.cmd.Wait() // its exit code tells
			return p.cmd.ProcessState.ExitCode()
		case <-expired:
			p.t.Fatalf("the program does not end:\n%s", p.said.String())
		}
	}
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// request returns the status and the body of a path below the page.
func (p *program) request(method, path string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.page+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// waitFor waits until the JSON lists exactly these states, by ID. Whatever comes from the
// page's stream of updates is a reason to look again.
func (p *program) waitFor(want map[string]string) {
	p.t.Helper()
	resp, err := http.Get(p.page + "live")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	defer time.AfterFunc(limit, func() { resp.Body.Close() }).Stop()
	for updates := bufio.NewReader(resp.Body); ; {
		var answer struct {
			Activities []struct{ Status struct{ ID, State string } }
		}
		if _, body := p.request("GET", "api/activities"); json.Unmarshal([]byte(body), &answer) != nil {
			p.t.Fatalf("no JSON: %s", body)
		}
		got := map[string]string{}
		for _, a := range answer.Activities {
			got[a.Status.ID] = a.Status.State
		}
		if maps.Equal(got, want) {
			return
		}
		if _, err := updates.ReadString('\n'); err != nil {
			p.t.Fatalf("the states are %v, want %v; no further update: %v", got, want, err)
		}
	}
}

const hanging = "http://site.test/page/30"

// Given a page that hangs while all others are done, then the page of the activities shows
// where. When the fetch is paused and the program is stopped, then it drains, and the next
// process continues with the paused page only, once that is unpaused.
func TestProgram_PageAndPause(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir, "-pages=60", "-delay=1ms", "-heartbeat-timeout=1h")
	first.page = first.says("watch (http.*)$")[1]
	first.says("hangs in the middle of /page/30")
	first.waitFor(map[string]string{host: "running", hanging: "running"})
	if code, body := first.request("GET", "healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body := first.request("GET", ""); code != 200 || !strings.Contains(body, hanging) {
		t.Errorf("the page, with status %d, does not show %s:\n%s", code, hanging, body)
	}
	_, stack := first.request("GET", "api/stack?id="+url.QueryEscape(hanging))
	if !strings.Contains(stack, "(*crawler).fetchPage(") || !strings.Contains(stack, "activity.(*reader).Read(") {
		t.Errorf("the stack does not show where the fetch hangs:\n%s", stack)
	}
	if code, body := first.request("POST", "api/pause?id="+url.QueryEscape(hanging)); code != 204 {
		t.Errorf("pause: %d %s", code, body)
	}
	first.waitFor(map[string]string{host: "running", hanging: "paused"})
	first.signal(syscall.SIGTERM)
	if code := first.ends(); code != 130 || !strings.HasSuffix(first.said.String(), "crawl: stopping; a second signal ends the program at once\ncrawl: interrupted; run the same command to continue\n") {
		t.Errorf("after SIGTERM: exit code %d, want 130\n%s", code, first.said.String())
	}
	want := wanted(60)
	undone := maps.Clone(want)
	for _, name := range []string{"index.txt", "%2Fpage%2F30.html", "%2Fpage%2F60.html"} { // page 30 leads to 60
		delete(undone, name)
	}
	if diff := cmp.Diff(undone, filesIn(t, filepath.Join(dir, "pages"))); diff != "" {
		t.Errorf("files after the drain (-want +got):\n%s", diff)
	}

	second := start(t, dir, "-pages=60", "-delay=1ms")
	second.page = second.says("watch (http.*)$")[1]
	second.says("resuming .*done=64 known=65$")
	second.waitFor(map[string]string{host: "running", hanging: "paused"})
	if code, body := second.request("POST", "api/unpause?id="+url.QueryEscape(hanging)); code != 204 {
		t.Errorf("unpause: %d %s", code, body)
	}
	if code := second.ends(); code != 0 || strings.Contains(second.said.String(), "429 Too Many Requests") {
		t.Errorf("exit code %d, want 0; or a page that was done was fetched again\n%s", code, second.said.String())
	}
	if diff := cmp.Diff(want, filesIn(t, filepath.Join(dir, "pages"))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	noCheckpoints(t, dir)
}

// Given a page that hangs, when SIGTERM comes, then its fetch is not cut off, and the page of
// the activities is still there. A second SIGTERM ends the program, and nothing is lost.
func TestProgram_Drains(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, dir, "-pages=60", "-delay=1ms", "-heartbeat-timeout=1h")
	first.page = first.says("watch (http.*)$")[1]
	first.waitFor(map[string]string{host: "running", hanging: "running"})
	first.signal(syscall.SIGTERM)
	first.says("stopping")
	for code := 200; code != 503; {
		var body string
		if code, body = first.request("GET", "healthz"); code == 503 && !strings.Contains(body, "no new activities") {
			t.Errorf("healthz says %s", body)
		}
	}
	first.waitFor(map[string]string{host: "running", hanging: "running"})
	first.signal(syscall.SIGTERM)
	if code := first.ends(); code != -1 {
		t.Errorf("after the second SIGTERM: exit code %d, want -1", code)
	}
	second := start(t, dir, "-pages=60", "-delay=1ms")
	if code := second.ends(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, second.said.String())
	}
	if diff := cmp.Diff(wanted(60), filesIn(t, filepath.Join(dir, "pages"))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	noCheckpoints(t, dir)
}

// noCheckpoints checks that a finished crawl leaves nothing in the Store.
func noCheckpoints(t *testing.T, dir string) {
	t.Helper()
	store, err := boltstore.Open(filepath.Join(dir, "crawl.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for c, err := range store.All(t.Context()) {
		t.Errorf("left behind: %+v, error %v", c, err)
	}
}

var (
	stops = flag.Int("stops", 6, "how often TestProgram_StoppedAtRandom stops the program")
	seed  = flag.Uint64("seed", rand.Uint64(), "of the moments at which TestProgram_StoppedAtRandom stops it")
)

// Given a program that SIGKILL or SIGTERM stops at random moments, when it runs once more to
// its end, then its files are those of an undisturbed crawl.
func TestProgram_StoppedAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("crawls for some seconds")
	}
	t.Parallel()
	t.Logf("-seed=%d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	dir := t.TempDir()
	args := []string{"-pages=200", "-delay=20ms"}
	for range *stops {
		p := start(t, dir, args...)
		p.says("watch")
		s, want := syscall.SIGKILL, -1
		if random.IntN(2) == 0 {
			s, want = syscall.SIGTERM, 130
		}
		moment := time.Duration(random.Int64N(int64(1500 * time.Millisecond)))
		stop := time.AfterFunc(moment, func() { _ = p.cmd.Process.Signal(s) })
		code := p.ends()
		stop.Stop()
		if code == 0 {
			break // it was faster
		}
		if code != want {
			t.Fatalf("exit code %d after %s, want %d\n%s", code, s, want, p.said.String())
		}
	}
	p := start(t, dir, args...)
	if code := p.ends(); code != 0 || !strings.Contains(p.stdout.String(), "site.test: 200 pages, 20 not found, 0 given up, ") || !strings.Contains(p.stdout.String(), "; 0 requests came earlier ") {
		t.Errorf("exit code %d, want 0\n%s%s", code, p.stdout.String(), p.said.String())
	}
	if diff := cmp.Diff(wanted(200), filesIn(t, filepath.Join(dir, "pages"))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	noCheckpoints(t, dir)
}
