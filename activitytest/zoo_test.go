package activitytest_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Given the test program in testdata/zoo, whose tests have one bug each or none, when it
// runs, then every bug is reported in the words that found has, and everything else passes.
func TestZoo(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs another test program")
	}
	t.Parallel() // some of its tests wait for seconds
	host, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil || strings.TrimSpace(string(host)) != runtime.GOARCH {
		t.Skipf("needs a go command for this machine: %q, %v", host, err)
	}
	z := zoo(filepath.Join(t.TempDir(), "zoo.test"))
	build := exec.Command("go", "test", "-c", "-o", string(z), "./testdata/zoo")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("Finds", z.finds)
	t.Run("Replays", z.replays)
	t.Run("Short", z.short)
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

// found says in which words each wrong activity must be found. Each must match,
// within one run.
var found = map[string][]string{
	"TestHeartbeatBeforeEffect_Wrong": {
		`--- FAIL: TestHeartbeatBeforeEffect_Wrong/crash_after_heartbeat_1 `,
		`row 0 is missing`,
		`interrupted by a crash after heartbeat 1 of activity "import"`,
		`in life 2, attempt 2 of activity "import" resumed from 1`,
		`life 1, import attempt 1: starts, resumes from nothing; HeartbeatDetails; Heartbeat\(1\); <<crash after heartbeat 1>>`,
		`life 2, import attempt 2: starts, resumes from 1; HeartbeatDetails; Point\("put"\)|life 2, import attempt 2: starts, resumes from 1; HeartbeatDetails; Heartbeat\(2\)`,
		`Again: go test -run '\^TestHeartbeatBeforeEffect_Wrong\$/\^crash_after_heartbeat_1\$'`,
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
		`a lock was held across a place`,
		`waits for a lock:\n\s+zoo_test\.\S*lockAcross\S*\n\s+\S+zoo_test\.go:\d+`,
		`was stopped at a place:\n\s+zoo_test\.\(\*table\)\.put\n`,
		`stopped after \d+ runs`,
	},
	"TestDeferredCommit_Wrong": {
		`stopped after \d+ runs, of which 10 failed`,
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
		`the details that activity "import" records make no difference: \d+ attempts resumed from them \(1; 2; 3\), and each did exactly what an attempt does that resumes from nothing\. The activity never reads them: resume from them with activity\.Resume, or call Heartbeat without details\.\n`,
		`activitytest: (\d+) of \d+ possible runs`,
	},
	"TestDetailsIgnored_Wrong": {
		`the details that activity "import" records make no difference: \d+ attempts resumed from them \(1; 2; 3\), .* The activity reads them and starts from the beginning: start where they say, or call Heartbeat without details\. If it skips work that comes to no place, give that work a Point\.\n`,
	},
	"TestDetailsDropped_Wrong": {
		`the details that activity "import" records make no difference: \d+ attempts resumed from them \(\{\}\), .* The activity reads only zero values: its Codec may drop what they hold, as encoding/json drops unexported fields\. Record what the Codec encodes, or call Heartbeat without details\. If it skips work that comes to no place, give that work a Point\.\n`,
	},
	"TestDetailsDroppedOverDefault_Wrong": {
		`resumed from them \(\{\}\), .* The activity reads only zero values: `,
	},
	"TestDetailsOfTwoExecutions_Wrong": {
		`the details that activity "import" records make no difference: \d+ attempts resumed from them \(\{"Day":1,"Next":1\}; \{"Day":1,"Next":2\}; \{"Day":1,"Next":3\}\), .* The activity never reads them: `,
	},
	"TestNotDeterministic_Wrong": {
		`activity "import": call 1 was HeartbeatDetails, now Heartbeat\n`,
	},
	"TestOrder_Wrong":               {`--- FAIL: TestOrder_Wrong/crash_`, `row \d is missing`},
	"TestProcessDropsError_Wrong":   {`--- FAIL: TestProcessDropsError_Wrong/shutdown_`, `the process ended without an error although activity "import" was interrupted and not resumed`},
	"TestDropsErrorWithoutID_Wrong": {`--- FAIL: TestDropsErrorWithoutID_Wrong/shutdown_`, `the process ended without an error although its activity was interrupted and not resumed`},
	"TestNotResumedWithoutID_Wrong": {`--- FAIL: TestNotResumedWithoutID_Wrong/crash_`, `the process ended without an error although its activity was interrupted and not resumed`},
	"TestStaleWrite_Wrong":          {`--- FAIL: TestStaleWrite_Wrong/stall_at_point_set_1_until_place_`, `the balance is 10 after 1 steps`},
	"TestNotResumed_Wrong":          {`--- FAIL: TestNotResumed_Wrong/crash_`, `the process ended without an error although activity "import" was interrupted and not resumed`},
	"TestPointInLock_Wrong": {
		`--- FAIL: TestPointInLock_Wrong/crash_at_point_locked_1 `,
		`stopped after 1 runs, of which 1 failed`, // each would take two seconds
		`a lock was held across a place`,
		`was stopped at a place:\n\s+zoo_test\.`,
		`waits for a lock:\n\s+zoo_test\.`,
	},
	"TestLockTwice_Wrong":       {`somebody waits for a lock, and nothing else goes on`, `waits for a lock:\n\s+zoo_test\.TestLockTwice_Wrong`},
	"TestNoPlace_Wrong":         {`no place at all`},
	"TestDryRun_Wrong":          {`this was the dry run`, `row 0 is missing`, `life 1, import attempt 1: .*Sleep\(1s\); return`},
	"TestLimit_Wrong":           {`not done within Plan\.Limit, 1000h0m0s of virtual time`, `this was the dry run`},
	"TestNeverDone_Wrong":       {`the processes have come to 100000 places, and are not done`, `\d+ more`},
	"TestRetriedForEver_Wrong":  {`activity "import" has made 1000 attempts, and is not done`},
	"TestStuckAfterCrash_Wrong": {`not done within Plan\.Limit`, `was stopped at a place:`, `waits \(chan send\):\n\s+zoo_test\.TestStuckAfterCrash_Wrong`},
	"TestProcessPanics_Wrong":   {`the process panicked: no second life`, `zoo_test\.TestProcessPanics_Wrong`},
	"TestFatalInProcess_Wrong":  {`fatal in the process: .*the activity runtime is shut down`},
	"TestNotStarted_Wrong":      {`the run never came before sleep 1 of activity "import", as the dry run did`},
	"TestConfig_Wrong":          {`World\.Config\.Clock and World\.Config\.Store are the World's own`},
	"TestLeak_Wrong":            {`deadlock: main bubble goroutine has exited but blocked goroutines remain`, `waits \(chan send\):\n\s+zoo_test\.TestLeak_Wrong`},
}

func (z zoo) finds(t *testing.T) {
	var mu sync.Mutex
	results, output := map[string]string{}, map[string]string{}
	t.Run("Run", func(t *testing.T) { // two processes at once, since one of them mostly waits
		for _, arg := range []string{"-test.run=" + locks, "-test.skip=" + locks} {
			t.Run(arg, func(t *testing.T) {
				t.Parallel()
				r, o := z.run(t, arg)
				mu.Lock()
				defer mu.Unlock()
				maps.Copy(results, r)
				maps.Copy(output, o)
			})
		}
	})
	for test, result := range results {
		switch words := found[test]; {
		case !strings.HasSuffix(test, "_Wrong"):
			if result != "pass" {
				t.Errorf("%s: %s, although it is right:\n%s", test, result, start(output[test]))
			}
		case words == nil:
			t.Errorf("%s is not in the table", test)
		case result != "fail":
			t.Errorf("%s has not been found", test)
		default:
			for _, word := range words {
				if !regexp.MustCompile(word).MatchString(output[test]) {
					t.Errorf("%s: nothing matches\n%s\nin\n%s", test, word, start(output[test]))
				}
			}
		}
	}
	for test := range found {
		if results[test] == "" {
			t.Errorf("%s was not run", test)
		}
	}
	if n := strings.Count(output["TestDeferredCommit_Wrong"], "--- FAIL: TestDeferredCommit_Wrong/"); n != 10 {
		t.Errorf("%d failures, want 10 at most", n)
	}
	if strings.Contains(output["TestDryRun_Wrong"], "TestDryRun_Wrong/") {
		t.Error("there are runs although the dry run has failed")
	}
	if strings.Contains(output["TestFatalInProcess_Wrong"], "the body has gone on") {
		t.Error("a t.Fatal in the process has not ended the body")
	}
}

func start(output string) string { return output[:min(len(output), 5000)] }

// Any run can be run alone, by what its failure says, whatever the seed.
func (z zoo) replays(t *testing.T) {
	ran := regexp.MustCompile(`(?m)^\s*=== RUN   (\S+/\S+)$`)
	for _, name := range []string{
		"crash_after_heartbeat_3_lost_2",
		"stall_at_point_put_2",
		"stall_at_point_put_2_until_place_4",
		"shutdown_before_return_1",
		"crash_after_heartbeat_2_then_stall_at_place_5",
		"stall_before_heartbeat_2_then_crash_at_place_3_lost_1",
	} {
		_, output := z.run(t, "-test.run", "^(TestHeartbeatBeforeEffect_Right|TestNilOnDone_Right)$/^"+name+"$")
		var got []string
		for _, m := range ran.FindAllStringSubmatch(output["TestHeartbeatBeforeEffect_Right"], -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff([]string{"TestHeartbeatBeforeEffect_Right/" + name}, got); diff != "" {
			t.Errorf("-run %s (-want +got):\n%s", name, diff)
		}
		if text := "activitytest: 1 of 1 possible runs"; !strings.Contains(output["TestHeartbeatBeforeEffect_Right"], text) {
			t.Errorf("-run %s does not say: %s", name, text)
		}
	}
}

func (z zoo) short(t *testing.T) {
	count := regexp.MustCompile(`activitytest: (\d+) of (\d+) possible runs`)
	_, output := z.run(t, "-test.short", "-test.run", "^(TestHeartbeatBeforeEffect_Right|TestNilOnDone_Right)$")
	m := count.FindStringSubmatch(output["TestHeartbeatBeforeEffect_Right"])
	if m == nil {
		t.Fatalf("it does not say how many:\n%s", output["TestHeartbeatBeforeEffect_Right"])
	}
	n, _ := strconv.Atoi(m[1])
	all, _ := strconv.Atoi(m[2])
	if n < all/10 || n > all/10+4 { // each part of the plan is rounded up
		t.Errorf("%d of %d runs, want a tenth", n, all)
	}
}
