package activitytest_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var zooAll = flag.Bool("zoo.all", false, "whether TestZoo makes all runs of the tests without a bug, and repeats more often what depends on the seed")

// Given the test programs in testdata, whose tests have one bug each or none, when they run, then
// every bug is reported in the words that found has, and everything else passes.
func TestZoo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs another test program")
	}
	t.Parallel() // some of its tests wait for seconds
	host, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil || strings.TrimSpace(string(host)) != runtime.GOARCH {
		t.Skipf("needs a go command for this machine: %q, %v", host, err)
	}
	z, sqlite := build(t, "zoo"), build(t, "sqlite")
	t.Run("Finds", func(t *testing.T) { finds(t, z, sqlite) })
	t.Run("Replays", z.replays)
	t.Run("Short", z.short)
	t.Run("Alternatives", z.alternatives)
	t.Run("Always", z.always)
}

// build builds the test program in a directory of testdata.
func build(t *testing.T, name string) zoo {
	t.Helper()
	z := zoo(filepath.Join(t.TempDir(), name+".test"))
	cmd := exec.Command("go", "test", "-c", "-o", string(z), ".")
	cmd.Dir = filepath.Join("testdata", name)
	cmd.Env = append(cmd.Environ(), "GOWORK=off") // sqlite is a module of its own
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return z
}

// locks matches the tests in which a lock is held forever. They take seconds of real time.
const locks = "Lock"

// A zoo is the path of a test program.
type zoo string

// run runs tests of the zoo. By top-level test, it returns "pass", "fail" or "skip", and
// the output including that of the subtests.
func (z zoo) run(t *testing.T, args ...string) (results, output map[string]string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"tool", "test2json", "-t", string(z), "-test.v=test2json"}, args...)...)
	out, _ := cmd.Output() // most tests fail
	results, output = map[string]string{}, map[string]string{}
	for _, line := range bytes.Split(out, []byte("\n")) {
		var e struct{ Action, Test, Output string }
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		top, _, isSub := strings.Cut(e.Test, "/")
		output[top] += e.Output
		if !isSub && top != "" && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip") {
			results[top] = e.Action
		}
	}
	if len(results) == 0 {
		t.Fatalf("no test has run:\n%s", output[""])
	}
	return results, output
}

// found has, for each faulty test of the zoo, patterns that its output must match.
var found = map[string][]string{
	"TestHeartbeatBeforeEffect_Wrong": {
		`--- FAIL: TestHeartbeatBeforeEffect_Wrong/crash_after_heartbeat_1 `,
		`row 0 is missing`,
		`interrupted by a crash after heartbeat 1 of activity "import"`,
		`in life 2, attempt 2 of activity "import" resumed from 1`,
		`life 1, import attempt 1: starts, resumes from nothing; HeartbeatDetails; Heartbeat\(1\); <<crash after heartbeat 1>>`,
		`life 2, import attempt 2: starts, resumes from 1; HeartbeatDetails; Point\("put"\)|life 2, import attempt 2: starts, resumes from 1; HeartbeatDetails; Heartbeat\(2\)`,
		`To run it again: go test -run '\^TestHeartbeatBeforeEffect_Wrong\$/\^crash_after_heartbeat_1\$'`,
	},
	"TestAppendWithoutCut_Wrong": {
		`--- FAIL: TestAppendWithoutCut_Wrong/crash_at_point_appended_1 `,
		`lines \(-want \+got\)`,
		`resumed from nothing`,
	},
	"TestSwallowedHeartbeatError_Wrong": {
		`--- FAIL: TestSwallowedHeartbeatError_Wrong/stall_`,
		`import attempt 1: .*Heartbeat with details = heartbeat timeout; Point\("append"\)`,
	},
	"TestProgressInProcess_Wrong": {
		`--- FAIL: TestProgressInProcess_Wrong/crash_`,
		`lines \(-want \+got\)`,
	},
	"TestLockAcrossHeartbeat_Wrong": {
		`--- FAIL: TestLockAcrossHeartbeat_Wrong/stall_`,
		`a lock is held across a place, and a goroutine waits for it forever, so the bubble's time stands still\n`,
		`waits for a lock:\n\s+zoo_test\.\S*lockAcross\S*\n\s+\S+zoo_test\.go:\d+`,
		`is stopped at a place:\n\s+zoo_test\.\(\*table\)\.put\n`,
		`stopped after \d+ runs`,
	},
	"TestDeferredCommit_Wrong": {
		`stopped after \d+ runs, 10 of which failed`,
		`--- FAIL: TestDeferredCommit_Wrong/crash_after_heartbeat_1 `,
		`row 0 is missing`,
	},
	"TestWriteOutsideGuard_Wrong": {
		`--- FAIL: TestWriteOutsideGuard_Wrong/stall_at_point_append_\d_until_place_\d+ `,
		`lines \(-want \+got\)`,
	},
	"TestRenamedDetails_Wrong": {
		`--- FAIL: TestRenamedDetails_Wrong/crash_after_heartbeat_1 |--- FAIL: TestRenamedDetails_Wrong/shutdown_`,
		`unknown field "Next"`,
		`resumed from \{"Next":1\}`,
	},
	"TestNilOnDone_Wrong": {
		`--- FAIL: TestNilOnDone_Wrong/shutdown_`,
		`row 2 is missing`,
	},
	"TestDetailsNotRead_Wrong": {
		`the heartbeat details of activity "import" make no difference: \d+ attempts resumed from details \(1; 2; 3\), and each made the same calls as an attempt that resumed from nothing\. The activity never reads its details: resume from them with activity\.Resume, or call Heartbeat without details\.\n`,
		`activitytest: \d+ runs, at \d+ places, with seed \d+: (\d+) of \d+ sites in 3 ways; \d+ of \d+ pairs\n`,
	},
	"TestDetailsIgnored_Wrong": {
		`the heartbeat details of activity "import" make no difference: \d+ attempts resumed from details \(1; 2; 3\), .* The activity reads its details but starts from the beginning: continue from the details, or call Heartbeat without details\. If it skips work that has no place, add a Point to that work\.\n`,
	},
	"TestDetailsDropped_Wrong": {
		`the heartbeat details of activity "import" make no difference: \d+ attempts resumed from details \(\{\}\), .* The activity reads only zero values: its Codec may drop the data, as encoding/json drops unexported fields\. Record details that the Codec encodes, or call Heartbeat without details\. If it skips work that has no place, add a Point to that work\.\n`,
	},
	"TestDetailsDroppedOverDefault_Wrong": {
		`resumed from details \(\{\}\), .* The activity reads only zero values: `,
	},
	"TestDetailsOfTwoExecutions_Wrong": {
		`the heartbeat details of activity "import" make no difference: \d+ attempts resumed from details \(\{"Day":1,"Next":1\}; \{"Day":1,"Next":2\}; \{"Day":1,"Next":3\}\), .* The activity never reads its details: `,
	},
	"TestNotDeterministic_Wrong": {
		`the calls before the interruption must be those of the dry run, but call 1 of activity "import" was HeartbeatDetails in the dry run and is now Heartbeat\n`,
	},
	"TestOrder_Wrong":               {`--- FAIL: TestOrder_Wrong/crash_`, `row \d is missing`},
	"TestServerForgets_Wrong":       {`--- FAIL: TestServerForgets_Wrong/crash_`, `the process returned nil, although activity "rows" was interrupted and not resumed`},
	"TestProcessForgets_Wrong":      {`--- FAIL: TestProcessForgets_Wrong/shutdown_`, `the process returned nil, although its activity was interrupted and not resumed`},
	"TestDropsErrorWithoutID_Wrong": {`--- FAIL: TestDropsErrorWithoutID_Wrong/shutdown_`, `the process returned nil, although its activity was interrupted and not resumed`},
	"TestNotResumedWithoutID_Wrong": {`--- FAIL: TestNotResumedWithoutID_Wrong/crash_`, `the process returned nil, although its activity was interrupted and not resumed`},
	"TestStaleWrite_Wrong":          {`--- FAIL: TestStaleWrite_Wrong/stall_at_point_set_1_until_place_`, `the balance is 10 after 1 steps`},
	"TestNotResumed_Wrong":          {`--- FAIL: TestNotResumed_Wrong/crash_`, `the process returned nil, although activity "import" was interrupted and not resumed`},
	"TestPointInLock_Wrong": {
		`--- FAIL: TestPointInLock_Wrong/crash_at_point_locked_1 `,
		`stopped after 1 runs, 1 of which failed`, // since each would take two seconds
		`a lock is held across a place, and a goroutine waits for it forever, so the bubble's time stands still\n`,
		`is stopped at a place:\n\s+zoo_test\.`,
		`waits for a lock:\n\s+zoo_test\.`,
	},
	"TestLockTwice_Wrong":       {`a goroutine waits for a lock forever, and no other goroutine can continue, so the bubble's time stands still\n`, `waits for a lock:\n\s+zoo_test\.TestLockTwice_Wrong`},
	"TestNoPlace_Wrong":         {`there is no place to interrupt: run an activity on the Runtime that World\.Run passes to process\n`},
	"TestDryRun_Wrong":          {`this was the dry run`, `row 0 is missing`, `life 1, import attempt 1: .*Sleep\(1s\); return`},
	"TestLimit_Wrong":           {`the run has not ended within Plan\.Limit \(1000h0m0s of virtual time\)\n`, `this was the dry run`},
	"TestNeverDone_Wrong":       {`the processes have passed 100000 places without an end, the last one in activity "import"\n`, `\d+ more`},
	"TestRetriedForever_Wrong":  {`activity "import" has made 1000 attempts without an end\n`},
	"TestStuckAfterCrash_Wrong": {`the run has not ended within Plan\.Limit`, `is stopped at a place:`, `waits \(chan send\):\n\s+zoo_test\.TestStuckAfterCrash_Wrong`},
	"TestProcessPanics_Wrong":   {`the process panicked: no second life`, `zoo_test\.TestProcessPanics_Wrong`},
	"TestFatalInProcess_Wrong":  {`fatal in the process: .*the activity runtime is shut down`},
	"TestNotStarted_Wrong":      {`the run never reached the place of its interruption, as the dry run did: before sleep 1 of activity "import"\n`},
	"TestConfig_Wrong":          {`World\.Config\.Clock and World\.Config\.Store must be nil, because the World has its own\n`},
	"TestLeak_Wrong":            {`deadlock: main bubble goroutine has exited but blocked goroutines remain`, `waits \(chan send\):\n\s+zoo_test\.TestLeak_Wrong`},

	"TestOneStepOf1000_Wrong": {`step 573 was done 2 times`, `activitytest: 100 runs, at \d+ places, with seed \d+: (\d+) of \d+ sites in 3 ways`},
	"TestTape_Wrong": {
		`--- FAIL: TestTape_Wrong/\w+_then_crash_at_place_\d`,
		`the total is 2\d, want 33`,
		`place \d of the recovery was at point "undone" 1 of activity "import"`,
	},
	"TestFlushAtTheEnd_Wrong": {`--- FAIL: TestFlushAtTheEnd_Wrong/crash_after_heartbeat_1 `, `row 0 is missing`},
	"TestNetworkLock_Wrong": {
		`a goroutine waits for the network or a pipe, and no other goroutine can continue: use World\.Serve, a fake or a net\.Pipe, so the bubble's time stands still\n`,
		`goroutine \d+ waits for the network or a pipe:\n(.*\n)*\s+httptest\.\(\*Server\)\.goServe`,
	},
	"TestPostedTwice_Wrong": {
		`--- FAIL: TestPostedTwice_Wrong/crash_after_request_POST__pay-\w+_1 `,
		`--- FAIL: TestPostedTwice_Wrong/fault_after_request_POST__pay-\w+_1 `,
		`the total must be that of the dry run: got 4, want 3\n`,
		`Request\("POST /pay"\) = activitytest: the call fails because of a Fault; <<fault after request "POST /pay" 1>>; return`,
	},
	"TestFailureIsTheEnd_Wrong": {`--- FAIL: TestFailureIsTheEnd_Wrong/fault_before_request_GET__-\w+_1 `, `row 0 is missing`},
	"TestPoison_Wrong":          {`--- FAIL: TestPoison_Wrong/\w+_then_`, `row \d is missing`},
	"TestOnceKey_Wrong":         {`World\.Once: the key must be comparable \(got \[\]string\)\n`},
	"TestPaidTwice_Wrong": {
		`--- FAIL: TestPaidTwice_Wrong/crash_at_point_paid_1 `,
		`World\.Once was called twice with the key 0\n`,
		`the total must be that of the dry run: got 40, want 30\n`,
	},
	"TestNotCompared_Wrong":   {`World\.Same was called in the dry run, and not now: \["the total"\]\n`},
	"TestComparedTwice_Wrong": {`World\.Same was called twice with the name "the total"\n`, `this was the dry run`},
	"TestRequireAll_Wrong":    {`Plan\.RequireAll: not everything was tried with MaxRuns 40, or not every interruption was reached: (\d+) of (\d+) sites in 3 ways; \d+ of \d\d\d pairs\n`},

	"TestCSV_Wrong": {
		`--- FAIL: TestCSV_Wrong/crash_after_exec_INSERT_`,
		`imported \["ada" "ada" "barbara" "chien-shiung"\]`,
		`<<crash after exec "INSERT INTO people VALUES \(\?, \?\)" 1>>`,
	},
	"TestRecordedBeforeCommit_Wrong": {`--- FAIL: TestRecordedBeforeCommit_Wrong/crash_before_commit_1 `, `imported \["chien-shiung"\]`},
	"TestProgressBeside_Wrong":       {`--- FAIL: TestProgressBeside_Wrong/crash_after_commit_1 `, `imported \["ada" "ada"`},
	"TestErrorIgnored_Wrong":         {`--- FAIL: TestErrorIgnored_Wrong/fault_before_exec_`, `imported \["barbara" "chien-shiung"\]`},
	"TestLockOfTheDead_Wrong":        {`database is locked`, `The process that crashed may hold SQLite's lock, because its transaction is still open: open the database with World\.Driver, which rolls it back\n`},

	"TestWorkersRecordOwnRow_Wrong": {
		`--- FAIL: TestWorkersRecordOwnRow_Wrong/crash_after_heartbeat_1 `,
		`row 0 is missing`,
		`attempt \d of activity "import" resumed from 2\n`,
	},
	"TestBodyAdds_Wrong": {
		`--- FAIL: TestBodyAdds_Wrong/crash_at_point_added_1_of_body_1 `,
		`the total is 7, want 6`,
		`interrupted by a crash at point "added" 1 of body 1 of activity "import"\n`,
		`in life 2, attempt 2 of activity "import" resumed from \{"Next":1,"To":4,"Done":\[2\]\}\n`,
		`life 1, import attempt 1: .*; body 1: Point\("add"\).*; body 2: Heartbeat\(\{"Next":1,"To":4,"Done":\[2\]\}\); <<crash at point "added" 1 of body 1>>\n`,
	},
	"TestBodyReturnsEarly_Wrong": {
		`--- FAIL: TestBodyReturnsEarly_Wrong/crash_after_heartbeat_1_of_body_0 `,
		`row 0 is missing`,
		`resumed from \{"Next":1,"To":3\}\n`,
	},
	"TestResultsInMemory_Wrong": {
		`--- FAIL: TestResultsInMemory_Wrong/crash_after_sleep_1_of_body_1 `,
		`the total is 4, want 6`,
		`the stalled call of body 1 returns heartbeat timeout; `,
	},
	"TestBodyNilOnDone_Wrong": {
		`--- FAIL: TestBodyNilOnDone_Wrong/shutdown_after_heartbeat_1_of_body_1 `,
		`row 2 is missing`,
		`<<shutdown after heartbeat 1 of body 1>>; body 2: Heartbeat\(\{"Next":3,"To":3\}\) = the activity runtime is shut down; return; completed\n`,
	},
	"TestBodyRecordsDetails_Wrong": {
		`--- FAIL: TestBodyRecordsDetails_Wrong/crash_after_heartbeat_1_of_body_0 `,
		`activity\.RangeParallel from 0 to 3: the recorded details are not a Range's`,
	},
	"TestMarkersLock_Wrong": {`--- FAIL: TestMarkersLock_Wrong/crash_after_open_marker0_1_of_body_0 `, `data0: no such file`},
	"TestLockInBodies_Wrong": {
		`--- FAIL: TestLockInBodies_Wrong/stall_\w+_of_body_\d_until_return `,
		`a lock is held across a place, and a goroutine waits for it forever, so the bubble's time stands still\n`,
		`waits for a lock:\n\s+zoo_test\.\S*lockInBodies\S*\n\s+\S+parallel_test\.go:\d+`,
		`is stopped at a place:\n\s+zoo_test\.\S*lockInBodies`,
	},
}

// inconclusive has the correct tests of the zoo some of whose runs may be inconclusive.
var inconclusive = map[string]bool{"TestPoolLockFirst_Right": true, "TestInMemory_Right": true}

func finds(t *testing.T, z, sqlite zoo) {
	var mu sync.Mutex
	results, output := map[string]string{}, map[string]string{}
	short := "-test.short=" + strconv.FormatBool(!*zooAll)
	t.Run("Run", func(t *testing.T) { // several processes at once, since one of them mostly waits
		for _, p := range []struct {
			zoo  zoo
			args []string
		}{
			{z, []string{"-test.run=" + locks + ".*_Wrong$"}},
			{z, []string{"-test.run=^Test[A-O].*_Wrong$", "-test.skip=" + locks}},
			{z, []string{"-test.run=^Test[^A-O].*_Wrong$", "-test.skip=" + locks}},
			{sqlite, []string{"-test.run=_Wrong$"}},
			{z, []string{"-test.run=" + locks, "-test.skip=_Wrong$", short}},
			{z, []string{"-test.skip=_Wrong$|" + locks, short}},
			{sqlite, []string{"-test.skip=_Wrong$", short}},
		} {
			t.Run(strings.Join(p.args, " "), func(t *testing.T) {
				t.Parallel()
				r, o := p.zoo.run(t, p.args...)
				mu.Lock()
				defer mu.Unlock()
				maps.Copy(results, r)
				maps.Copy(output, o)
			})
		}
	})
	for test, result := range results {
		switch words := found[test]; {
		case result == "skip": // a limit of the package
		case !strings.HasSuffix(test, "_Wrong"):
			if result != "pass" {
				t.Errorf("%s: got %q, want pass:\n%s", test, result, start(output[test]))
			}
			if strings.Contains(output[test], "were inconclusive") && !inconclusive[test] {
				t.Errorf("%s: inconclusive runs:\n%s", test, start(output[test]))
			}
		case words == nil:
			t.Errorf("%s is not in found", test)
		case result != "fail":
			t.Errorf("%s: got %q, want fail", test, result)
		default:
			for _, word := range words {
				if !regexp.MustCompile(word).MatchString(output[test]) {
					t.Errorf("%s: the output does not match\n%s\nThe output:\n%s", test, word, start(output[test]))
				}
			}
		}
	}
	for test := range found {
		if results[test] == "" {
			t.Errorf("%s has not run", test)
		}
	}
	if n := strings.Count(output["TestDeferredCommit_Wrong"], "--- FAIL: TestDeferredCommit_Wrong/"); n != 10 {
		t.Errorf("%d failures, want 10, after which the others are skipped", n)
	}
	if strings.Contains(output["TestDryRun_Wrong"], "TestDryRun_Wrong/") {
		t.Error("runs were made although the dry run failed")
	}
	if strings.Contains(output["TestFatalInProcess_Wrong"], "the body has continued") {
		t.Error("a t.Fatal in the process did not end the body")
	}
}

func start(output string) string { return output[:min(len(output), 5000)] }

// Given the name of a run that a failure shows, when -run has it, then only this run is made,
// whatever the seed. It has the same result each time, even if bodies of a RangeParallel run at
// the same instant.
func (z zoo) replays(t *testing.T) {
	ran := regexp.MustCompile(`(?m)^\s*=== RUN   (\S+/\S+)$`)
	for _, test := range []struct{ test, name, result string }{
		{"TestHeartbeatBeforeEffect_Right", "crash_after_heartbeat_3_lost_2", "--- PASS"},
		{"TestHeartbeatBeforeEffect_Right", "stall_at_point_put_2", "--- PASS"},
		{"TestHeartbeatBeforeEffect_Right", "stall_at_point_put_2_until_place_4", "--- PASS"},
		{"TestHeartbeatBeforeEffect_Right", "shutdown_before_return_1", "--- PASS"},
		{"TestHeartbeatBeforeEffect_Right", "crash_after_heartbeat_2_then_stall_at_place_5", "--- PASS"},
		{"TestHeartbeatBeforeEffect_Right", "stall_before_heartbeat_2_then_crash_at_place_3_lost_1", "--- PASS"},
		{"TestPointNamedThen_Right", "crash_at_point_write_then_sync_lost_3_1", "--- PASS"},
		{"TestPointNamedThen_Right", "crash_at_point_write_then_sync_lost_3_1_then_crash_at_place_2_lost_1", "--- PASS"},
		{"TestBodyAdds_Right", "crash_at_point_done_1_of_body_2", "--- PASS"},
		{"TestBodyAdds_Right", "crash_after_heartbeat_1_of_body_2_lost_1", "--- PASS"},
		{"TestBodyAdds_Right", "stall_at_point_set_1_of_body_1_until_place_4", "--- PASS"},
		{"TestBodyAdds_Right", "crash_before_heartbeat_1_of_body_2_then_stall_at_place_3", "--- PASS"},
		{"TestBodyAdds_Wrong", "crash_at_point_added_1_of_body_2", "--- FAIL"},
		{"TestBodyAdds_Wrong", "crash_before_heartbeat_1_of_body_1", "--- FAIL"},
		{"TestBodyReturnsEarly_Wrong", "crash_after_heartbeat_1_of_body_1_lost_1", "--- FAIL"},
		{"TestResultsInMemory_Wrong", "shutdown_after_sleep_1_of_body_2", "--- FAIL"},
		{"TestBodyNilOnDone_Wrong", "shutdown_before_heartbeat_1_of_body_1", "--- FAIL"},
		{"TestBodyNilOnDone_Wrong", "shutdown_before_heartbeat_1_of_body_0", "--- PASS"},
	} {
		times := 1
		if strings.Contains(test.name, "_of_body_") { // goroutines run at the same instant
			times = 10
		}
		pattern := "^(" + test.test + "|TestNilOnDone_Right)$/^" + test.name + "$"
		_, all := z.run(t, "-test.run", pattern, "-test.count", strconv.Itoa(times))
		output := all[test.test]
		var got []string
		for _, m := range ran.FindAllStringSubmatch(output, -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff(slices.Repeat([]string{test.test + "/" + test.name}, times), got); diff != "" {
			t.Errorf("-run %s (-want +got):\n%s", pattern, diff)
		}
		for _, text := range []string{"activitytest: 1 of 1 possible runs", test.result + ": " + test.test + "/"} {
			if n := strings.Count(output, text); n != times {
				t.Errorf("-run %s prints %d times, want %d: %s", pattern, n, times, text)
			}
		}
	}
}

// Given a pattern of -run with alternatives, then RequireAll demands nothing, as with a pattern that names
// subtests.
func (z zoo) alternatives(t *testing.T) {
	results, output := z.run(t, "-test.run", "^TestRequireAll_Right$/^crash_before|^TestNilOnDone_Right$")
	if results["TestRequireAll_Right"] != "pass" || !strings.Contains(output["TestRequireAll_Right"], "possible runs, at") {
		t.Errorf("%q:\n%s", results, output["TestRequireAll_Right"])
	}
}

// Given a fault that only one place in a thousand has, or only a second interruption, when the test
// runs with any seed, then it is found.
func (z zoo) always(t *testing.T) {
	for test, times := range map[string]int{"TestOneStepOf1000_Wrong": 5, "TestTape_Wrong": 20, "TestPoison_Wrong": 10} {
		if !*zooAll {
			times = 2
		}
		_, output := z.run(t, "-test.run", "^"+test+"$", "-test.count", strconv.Itoa(times))
		if n := strings.Count(output[test], "--- FAIL: "+test+" ("); n != times {
			t.Errorf("%s: found in %d of %d tests", test, n, times)
		}
	}
}

// Given -short, when a test runs, then it makes a tenth of the runs.
func (z zoo) short(t *testing.T) {
	count := regexp.MustCompile(`activitytest: (\d+) runs, at `)
	runs := func(args ...string) int {
		_, output := z.run(t, append(args, "-test.run", "^(TestHeartbeatBeforeEffect_Right|TestNilOnDone_Right)$")...)
		m := count.FindStringSubmatch(output["TestHeartbeatBeforeEffect_Right"])
		if m == nil {
			t.Fatalf("the output does not have the number of runs:\n%s", output["TestHeartbeatBeforeEffect_Right"])
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}
	// With fewer recoveries seen, fewer pairs are possible.
	if short, all := runs("-test.short"), runs(); short > all/10+2 || short < 10 {
		t.Errorf("%d of %d runs were made, want a tenth", short, all)
	}
}
