package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/seed-9da638b0/activity"
	"github.com/seed-9da638b0/activity/boltstore"
	"go.etcd.io/bbolt"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)

func checkpoint(id string) activity.Checkpoint {
	return activity.Checkpoint{ID: id, Name: "import", State: activity.CheckpointRunning, ScheduledAt: noon, UpdatedAt: noon}
}

// details returns heartbeat details of these values as a Store keeps them.
func details(values ...string) (all []byte) {
	for _, v := range values {
		all = append(binary.AppendUvarint(all, uint64(len(v))), v...)
	}
	return all
}

// samples has a checkpoint in each interesting state.
func samples() []activity.Checkpoint {
	waiting := checkpoint("customers")
	waiting.State, waiting.Attempt, waiting.CountedFrom, waiting.Progressed, waiting.Sequence = activity.CheckpointWaiting, 3, 1, 2, 17
	waiting.UpdatedAt, waiting.NextAttempt = noon.Add(time.Minute), noon.Add(time.Hour)
	waiting.Input, waiting.Details = []byte(`"<customers>"`), details(`{"Next":7,"To":10}`)
	waiting.Header = map[string]string{"traceparent": "00-1", "a": "<b>"}
	waiting.LastFailure = "row 7:\tconnection refused\ngoroutine 7:\n\tmain.go:12"
	failed := checkpoint("today's import")
	failed.Name, failed.State, failed.Attempt = "example.com/shop.Import", activity.CheckpointFailed, 5
	failed.Input, failed.Details = []byte{0xff, 0}, details("\xfe")
	failed.LastFailure = strings.Repeat("way too long ", 10)
	return []activity.Checkpoint{waiting, failed, checkpoint("z")}
}

// Given checkpoints, when they are listed, then the table or the JSON has those that match.
func TestLs_Samples(t *testing.T) {
	dir := newFile(t, samples()...)
	defer unchanged(t, dir)()
	wantResult(t, dir, result{stdout: `ID                NAME                     STATE    ATTEMPT  UPDATED               NEXT ATTEMPT          LAST FAILURE
customers         import                   waiting  3        2026-11-24T12:01:00Z  2026-11-24T13:00:00Z  row 7: connection refused...
"today's import"  example.com/shop.Import  failed   5        2026-11-24T12:00:00Z  -                     way too long way too long way too long way too long way too ...
z                 import                   running  0        2026-11-24T12:00:00Z  -                     -
`}, "ls", file)
	wantResult(t, dir, result{stdout: `ID  NAME    STATE    ATTEMPT  UPDATED               NEXT ATTEMPT  LAST FAILURE
z   import  running  0        2026-11-24T12:00:00Z  -             -
`}, "ls", "-name", "import", "-state=running", file)
	wantResult(t, dir, result{stdout: `ID                NAME                     STATE   ATTEMPT  UPDATED               NEXT ATTEMPT  LAST FAILURE
"today's import"  example.com/shop.Import  failed  5        2026-11-24T12:00:00Z  -             way too long way too long way too long way too long way too ...
`}, "ls", "-name=example.com/shop.Import", file)
	const customers = `{"ID":"customers","Name":"import","State":"waiting","Attempt":3,"CountedFrom":1,"Progressed":2,"Sequence":17,` +
		`"ScheduledAt":"2026-11-24T12:00:00.123456789Z","UpdatedAt":"2026-11-24T12:01:00.123456789Z","NextAttempt":"2026-11-24T13:00:00.123456789Z",` +
		`"Input":"<customers>","Details":{"Next":7,"To":10},"Header":{"a":"<b>","traceparent":"00-1"},"LastFailure":"row 7:\tconnection refused\ngoroutine 7:\n\tmain.go:12"}` + "\n"
	wantResult(t, dir, result{stdout: customers}, "ls", "-json", "-state", "waiting", file)
	wantResult(t, dir, result{stdout: customers}, "show", "-json", file, "customers")
	if got := activities(t, dir, "ls", "-json", file); strings.Count(got.stdout, "\n") != 3 || !strings.HasPrefix(got.stdout, customers) {
		t.Errorf("ls -json: %+v", got)
	}
	wantResult(t, newFile(t), result{stdout: "ID  NAME  STATE  ATTEMPT  UPDATED  NEXT ATTEMPT  LAST FAILURE\n"}, "ls", file)
}

// Given checkpoints, when one is shown, then all of its fields are.
func TestShow_Samples(t *testing.T) {
	dir := newFile(t, samples()...)
	defer unchanged(t, dir)()
	wantResult(t, dir, result{stdout: `ID:          customers
Name:        import
State:       waiting
Attempt:     3
CountedFrom: 1
Progressed:  2
Sequence:    17
ScheduledAt: 2026-11-24T12:00:00Z
UpdatedAt:   2026-11-24T12:01:00Z
NextAttempt: 2026-11-24T13:00:00Z
Input:       "<customers>"
Details:     {
               "Next": 7,
               "To": 10
             }
Header:      {
               "a": "<b>",
               "traceparent": "00-1"
             }
LastFailure: ` + "row 7:\tconnection refused\n             goroutine 7:\n             \tmain.go:12\n"}, "show", file, "customers")
	wantResult(t, dir, result{stderr: "activities: activities.db: there is no checkpoint with the ID \"x\"\n", code: 1}, "show", file, "x")
	if got := activities(t, dir, "show", file, "today's import"); !strings.Contains(got.stdout, "\nInput:       \"/wA=\"\nDetails:     \"/g==\"\n") {
		t.Errorf("bytes that are not JSON are shown as %s", got.stdout)
	}
}

// Given IDs of any bytes, when they are listed, shown, exported and deleted, then each is one
// line, no byte controls the terminal or is lost, and the quoted ID is accepted.
func TestIDs_Hostile(t *testing.T) {
	ids := []string{
		"plain", "-json", "with space", " ", "new\nline", "tab\t", "\xff\x00\xfe", `"quoted"`, `back\slash`, "\x1b[31mred\x9b31m",
		"ünï-çödé", "\u202ebidi", "\ufffd", strings.Repeat("long", 256), strings.Repeat("\xf0", 1024), "'", "`raw`", "raw", "$(reboot)",
	}
	var all []activity.Checkpoint
	for _, id := range ids {
		c := checkpoint(id)
		c.Name, c.LastFailure, c.Details = id, id, details("{\"\u009b\":\"\u202e\"}", "1")
		all = append(all, c)
	}
	dir := newFile(t, all...)
	list := activities(t, dir, "ls", file).stdout
	if n := strings.Count(list, "\n"); n != len(ids)+1 {
		t.Errorf("ls printed %d lines, want %d:\n%s", n, len(ids)+1, list)
	}
	wantPrintable(t, list)
	if strings.Contains(list, "\t") {
		t.Errorf("the table has a tab:\n%s", list)
	}
	sorted := slices.Sorted(slices.Values(ids))
	exports := strings.Split(activities(t, dir, "export", file).stdout, "\n")
	for i, id := range sorted {
		quoted := strconv.Quote(id)
		shown := activities(t, dir, "show", file, quoted)
		wantPrintable(t, shown.stdout)
		if !strings.Contains(list, "\n"+word(id)+" ") || !strings.HasPrefix(shown.stdout, "ID:          "+word(id)+"\n") {
			t.Errorf("%s is listed as\n%s\nand shown as\n%s%s", quoted, list, shown.stdout, shown.stderr)
		}
		if !strings.Contains(id, "\x00") { // which no argument can have
			wantResult(t, dir, shown, "show", file, id)
		}
		if got := exportedID(t, exports[i]); got != id {
			t.Errorf("%s is exported as %q", quoted, got)
		}
	}
	for i, id := range sorted {
		wantResult(t, dir, result{}, "forget", file, strconv.Quote(id))
		if left := stored(t, filepath.Join(dir, file)); len(left) != len(ids)-1-i {
			t.Errorf("after %q, %d checkpoints are left", id, len(left))
		}
	}
}

func wantPrintable(t *testing.T, s string) {
	t.Helper()
	for i, r := range s {
		if r != '\n' && r != '\t' && (!strconv.IsPrint(r) || r == '\ufffd' && s[i] != '\xef') {
			t.Errorf("the output has the character %q", r)
		}
	}
}

func exportedID(t *testing.T, line string) string {
	t.Helper()
	var text struct{ ID string }
	if json.Unmarshal([]byte(line), &text) == nil {
		return text.ID
	}
	var raw struct {
		ID struct {
			Base64 []byte `json:"base64"`
		}
	}
	if err := json.Unmarshal([]byte(line), &raw); err != nil {
		t.Fatal(err)
	}
	return string(raw.ID.Base64)
}

// Given an ID and another that is the first one quoted, when the quoted one is given, then it is
// ambiguous, and nothing is deleted. When it is quoted once more, it is not.
func TestIDs_Ambiguous(t *testing.T) {
	dir := newFile(t, checkpoint("a"), checkpoint(`"a"`))
	check := unchanged(t, dir)
	ambiguous := result{stderr: "activities: activities.db: ambiguous ID, because both \"\\\"a\\\"\" and \"a\" exist\n", code: 1}
	wantResult(t, dir, ambiguous, "forget", file, `"a"`)
	wantResult(t, dir, ambiguous, "show", file, `"a"`)
	check()
	wantResult(t, dir, result{}, "forget", file, `"\"a\""`)
	if left := stored(t, filepath.Join(dir, file)); len(left) != 1 || left["a"].ID != "a" {
		t.Errorf("%v are left, want a", slices.Collect(maps.Keys(left)))
	}
}

// Given checkpoints, when all are exported, then nothing is lost: each line decodes into the
// checkpoint that was saved.
func TestExport_LosesNothing(t *testing.T) {
	all := samples()
	all[0].Details = bytes.Repeat([]byte("<huge>\x00"), 1<<19)
	all[1].Input, all[1].Details = []byte{}, nil
	all[2].ScheduledAt, all[2].NextAttempt = time.Unix(-1<<35, 7).UTC(), time.Unix(1, 0).UTC()
	dir := newFile(t, all...)
	defer unchanged(t, dir)()
	got := activities(t, dir, "export", file)
	if got.code != 0 || got.stderr != "" {
		t.Errorf("export exited with %d and the standard error %s", got.code, got.stderr)
	}
	var decoded []activity.Checkpoint
	for line := range strings.Lines(got.stdout) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		decoded = append(decoded, activity.Checkpoint(r))
	}
	if !reflect.DeepEqual(decoded, all) {
		t.Errorf("the export differs from the %d checkpoints that were saved", len(all))
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[activity.Checkpoint]()) {
		if n := strings.Count(got.stdout, fmt.Sprintf("%q:", field.Name)); n != len(all) {
			t.Errorf("%s is there %d times in %d lines", field.Name, n, len(all))
		}
	}

	a, late, z := checkpoint("a"), checkpoint("late"), checkpoint("z")
	late.UpdatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	a.Name, z.LastFailure = "\xff", "\xff"
	a.Header = map[string]string{"k": "\xff", "b": "c"}
	got = activities(t, newFile(t, a, late, z), "export", file)
	if lines := strings.Split(got.stdout, "\n"); got.code != 1 || len(lines) != 3 ||
		!strings.HasPrefix(lines[0], `{"ID":"a","Name":{"base64":"/w=="},"LastFailure":"","Header":[["b","c"],["k",{"base64":"/w=="}]],`) ||
		!strings.HasPrefix(lines[1], `{"ID":"z","Name":"import","LastFailure":{"base64":"/w=="},"Header":null,`) ||
		!strings.HasPrefix(got.stderr, `activities: activities.db: "late": not exported: `) || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("with a time after the year 9999: %+v", got)
	}
}

// Given checkpoints in a file that is mostly free, when some are deleted, then only those are, and
// missing ones are named. If all are missing, the file stays as it is.
func TestForget_Some(t *testing.T) {
	large := checkpoint("large")
	large.Details = make([]byte, 20<<20)
	dir := newFile(t, append(samples(), large)...)
	s := openStore(t, dir)
	if err := errors.Join(s.Delete(t.Context(), []string{large.ID}), s.Close()); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, dir)
	wantResult(t, dir, result{stderr: `activities: activities.db: there is no checkpoint with the ID "x"
activities: activities.db: there is no checkpoint with the ID "y"
`, code: 1}, "forget", file, "x", `"y"`)
	check()
	before := stored(t, filepath.Join(dir, file))
	wantResult(t, dir, result{stderr: "activities: activities.db: there is no checkpoint with the ID \"x\"\n", code: 1},
		"forget", file, "customers", "x", `"today's import"`, "customers")
	delete(before, "customers")
	delete(before, "today's import")
	if after := stored(t, filepath.Join(dir, file)); !reflect.DeepEqual(after, before) {
		t.Errorf("%v are left, want %v", after, before)
	}
}

// Given checkpoints with 4 MiB of details, when they are listed and shown, then all of it is
// shown, and the list has none of it.
func TestShow_HugeDetails(t *testing.T) {
	c := checkpoint("a")
	c.Details = details(`["` + strings.Repeat("#", 4<<20) + `"]`)
	c.LastFailure = strings.Repeat("ü", 10_000)
	dir := newFile(t, c)
	if list := activities(t, dir, "ls", file).stdout; strings.Count(list, "ü") != maxLine || len(list) > 1000 {
		t.Errorf("ls printed %d bytes", len(list))
	}
	for _, args := range [][]string{{"show", file, "a"}, {"ls", "-json", file}} {
		if got := activities(t, dir, args...); strings.Count(got.stdout, "#") != 4<<20 || strings.Count(got.stdout, "ü") != 10_000 || got.code != 0 {
			t.Errorf("%q printed %d bytes, status %d, and the error %s", args, len(got.stdout), got.code, got.stderr)
		}
	}
}

// Given a sound file, a damaged page, or damaged records, when the file is verified, then each
// damage is named. The other commands report it as well, after what they can read.
func TestVerify_Damaged(t *testing.T) {
	var all []activity.Checkpoint
	for _, id := range []string{"a", "b", "c", "d"} {
		c := checkpoint(id)
		c.Details = details(`"details of ` + id + `"`)
		all = append(all, c)
	}
	dir := newFile(t, all...)
	wantResult(t, dir, result{stdout: "activities.db: ok; checkpoints: 4\n"}, "verify", file)

	path := filepath.Join(dir, file)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.ReplaceAll(bytes.ReplaceAll(content, []byte("details of b"), []byte("details of B")), []byte("details of c"), []byte("details of C"))
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	check := unchanged(t, dir)
	two := result{stderr: `activities: activities.db: "b": the record is damaged: call Runtime.Forget to delete it
activities: activities.db: "c": the record is damaged: call Runtime.Forget to delete it
`, code: 1}
	wantResult(t, dir, two, "verify", file)
	for _, args := range [][]string{{"ls", file}, {"ls", "-json", file}, {"export", file}} {
		got := activities(t, dir, args...)
		if got.code != 1 || got.stderr != two.stderr || !strings.Contains(got.stdout, "import") || strings.Count(got.stdout, "\n") > 3 {
			t.Errorf("%q: %+v", args, got)
		}
	}
	wantResult(t, dir, result{stderr: "activities: activities.db: load \"b\": the record is damaged: call Runtime.Forget to delete it\n", code: 1}, "show", file, "b")
	check()
	wantResult(t, dir, result{}, "forget", file, "b", "c")
	wantResult(t, dir, result{stdout: "activities.db: ok; checkpoints: 2\n"}, "verify", file)

	if err := os.WriteFile(path, content[:len(content)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	wantEveryError(t, dir, "activities: activities.db: truncated: ")
	page := slices.Clone(content)
	page[3*os.Getpagesize()]++
	if err := os.WriteFile(path, page, 0o600); err != nil {
		t.Fatal(err)
	}
	wantEveryError(t, dir, "activities: activities.db: damaged: page 3: says that it is page ")
}

// wantEveryError checks that every command fails with one line that names the file and has the
// text, and changes nothing.
func wantEveryError(t *testing.T, dir, text string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
		defer unchanged(t, dir)()
	}
	for _, args := range [][]string{
		{"ls", file}, {"ls", "-json", file}, {"show", file, "a"}, {"verify", file}, {"forget", file, "a"}, {"export", file}, {"backup", file, "backup.db"},
	} {
		got := activities(t, dir, args...)
		if got.code != 1 || got.stdout != "" || !strings.HasPrefix(got.stderr, "activities: "+file+": ") || !strings.Contains(got.stderr, text) || strings.Count(got.stderr, "\n") != 1 {
			t.Errorf("%q exited with %d, the output %s and the error %s; want an error with %q", args, got.code, got.stdout, got.stderr, text)
		}
	}
}

// Given no file, or one that is not a Store's, when a command gets it, then it names the reason,
// and creates and changes nothing.
func TestFile_Foreign(t *testing.T) {
	dir := t.TempDir()
	missing := "activities: activities.db: no such file or directory\n"
	if runtime.GOOS == "windows" {
		missing = "cannot find the file"
	}
	wantEveryError(t, dir, missing)
	wantResult(t, dir, result{stderr: "activities: .: not a regular file\n", code: 1}, "ls", ".")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the directory has %v (error %v), want nothing", entries, err)
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantEveryError(t, dir, "the file is empty")
	if err := os.WriteFile(path, bytes.Repeat([]byte("some text\n"), 10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	wantEveryError(t, dir, "not a bbolt file")
	for bucket, want := range map[string]string{
		"users":                  `another program: it has the key "users"`,
		"activity checkpoints 2": `another version: "activity checkpoints 2"`,
	} {
		dir := t.TempDir()
		db, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte(bucket))
			return err
		})
		if err = errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		wantEveryError(t, dir, want)
	}
}

// Given a file that a program has open, when a command gets it, then it says so at once and how
// to go on, and does not disturb the program.
func TestFile_Held(t *testing.T) {
	t.Parallel() // each command waits for the lock
	dir := newFile(t, samples()...)
	s := openStore(t, dir)
	wantEveryError(t, dir, ": another process has the file open: ")
	wantResult(t, dir, result{stderr: "activities: activities.db: another process has the file open: look at that program's page (package activityhttp), or let it copy the file with Store.WriteTo\n", code: 1}, "ls", file)
	wantResult(t, dir, result{stderr: "activities: activities.db: another process has the file open: end it first, or let it call Runtime.Forget\n", code: 1}, "forget", file, "customers")
	err := s.Save(t.Context(), []activity.Checkpoint{checkpoint("b")})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Error(err)
	}
	if all := stored(t, filepath.Join(dir, file)); len(all) != 4 {
		t.Errorf("there are %d checkpoints, want 4", len(all))
	}
}

// Given a pager that does not read on, when a checkpoint is shown, then a program can open the
// file meanwhile.
func TestShow_ReleasesFile(t *testing.T) {
	c := checkpoint("a")
	c.Details = details(strconv.Quote(strings.Repeat("x", 1<<20)))
	dir := newFile(t, c)
	for _, args := range [][]string{{"show", file, "a"}, {"show", "-json", file, "a"}} {
		cmd := child(t, "activities", args...)
		cmd.Dir = dir
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
			t.Error(err)
		}
		s, err := boltstore.Open(filepath.Join(dir, file), nil)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		} else if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(io.Discard, out); err != nil || n < 1<<20 {
			t.Errorf("%q: %d bytes, error %v", args, n, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// Given an output that is full, when a command writes to it, then that is an error.
func TestOutput_Full(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	c := checkpoint("a")
	c.Details = details(strconv.Quote(strings.Repeat("x", 1<<20)))
	dir := newFile(t, c)
	for _, args := range [][]string{{"ls", file}, {"ls", "-json", file}, {"show", file, "a"}, {"export", file}, {"verify", file}, {"help"}} {
		cmd := child(t, "activities", args...)
		var stderr bytes.Buffer
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, full, &stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 1 || stderr.String() != "activities: write /dev/stdout: no space left on device\n" {
			t.Errorf("%q exited with %d and the error %s", args, code, &stderr)
		}
	}
}
