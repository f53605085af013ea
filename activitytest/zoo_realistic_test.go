package activitytest_test

import "maps"

func init() {
	maps.Copy(found, map[string][]string{
		"TestCrawl_Wrong": {
			`--- FAIL: TestCrawl_Wrong/stall_after_heartbeat_1 `,
			`number of items must be that of the dry run: got \d, want 5\n`,
			`resumed from \{"Cursor":"p2","Done":false\}\n`,
		},
		"TestPhases_Wrong": {
			`--- FAIL: TestPhases_Wrong/shutdown_before_heartbeat_4 `,
			`row 0 is missing`,
			`resumed from \{"Writing":true,"Next":3,"Found":\[2,1,0\]\}\n`,
		},
		"TestPool_Wrong": {
			`--- FAIL: TestPool_Wrong/(crash|shutdown)_`,
			`row 0 is missing`,
			`attempt \d of activity "import" resumed from [23]\n`,
		},
		"TestOffsets_Wrong": {
			`--- FAIL: TestOffsets_Wrong/crash_at_point_put_1 `,
			`row 2 is missing`,
			`Point\("committed"\); <<crash at point "put" 1>>`,
		},
		"TestBatches_Wrong": {
			`--- FAIL: TestBatches_Wrong/crash_after_heartbeat_1 `,
			`row 0 is missing`,
			`attempt \d of activity "import" resumed from 1\n`,
		},
		"TestSampler_Wrong": {
			`--- FAIL: TestSampler_Wrong/fault_before_request_PUT__samples_0-\w+_1 `,
			`--- FAIL: TestSampler_Wrong/stall_before_request_PUT__samples_1-\w+_1 `,
			`row 0 is missing`,
		},
		"TestChildIDs_Wrong": {
			`--- FAIL: TestChildIDs_Wrong/crash_at_point_send_1_of_invoice-0-1 `,
			`3 invoices were sent and [23] reported, want 2`,
			`in life 2, attempt 1 of activity "invoice-0-2" resumed from nothing\n`,
		},
		"TestChildrenStarted_Wrong": {
			`--- FAIL: TestChildrenStarted_Wrong/crash_after_heartbeat_2_of_billing `,
			`\d invoices were sent and [01] reported, want 2`,
			`in life 2, attempt \d of activity "billing" resumed from 2\n`,
		},
		"TestDebounce_Wrong": {
			`--- FAIL: TestDebounce_Wrong/crash_before_sleep_1 `,
			`row 0 is missing`,
			`resumed from 1\n`,
		},
		"TestAppendFile_Wrong": {`--- FAIL: TestAppendFile_Wrong/\w+_rows_1`, `rows "aabc"`},
		"TestRenamedBeforeSync_Wrong": {
			`--- FAIL: TestRenamedBeforeSync_Wrong/power_loss_\w+_state_0 `,
			`page0 is "", error <nil>`,
			`interrupted by a power loss \w+ .* of activity "import", in state 0\n`,
			`the power loss loses the growth of draft to 2 bytes; "he" at byte 0 of draft; the growth of draft to 5 bytes; "llo" at byte 2 of draft\n`,
		},
		"TestDoneBeforeSync_Wrong": {
			`--- FAIL: TestDoneBeforeSync_Wrong/power_loss_after_return_1_of_the_process_state_0 `,
			`page0 is "", error <nil>`,
			`interrupted by a power loss after return 1 of the process itself, in state 0\n`,
		},
		"TestLeasePolled_Wrong": {`--- FAIL: TestLeasePolled_Wrong/stall_at_point_append_1_until_return `, `lines \(-want \+got\)`},
		"TestUploadPlain_Wrong": {`attempt 1 of activity "import" hangs before heartbeat 1, and no later attempt can end before it continues, because they wait for something that it holds`},
		"TestUpload_Wrong": {
			`--- FAIL: TestUpload_Wrong/stall_before_heartbeat_1_until_return `,
			`attempt 1 of activity "import" hangs before heartbeat 1, and no later attempt can end before it continues, because they wait for something that it holds, such as a connection\n`,
		},
		"TestLease_Wrong": {
			`--- FAIL: TestLease_Wrong/stall_at_point_append_\d_until_return `,
			`lines \(-want \+got\)`,
			`import attempt 2: .*Point\("open"\)|import attempt 2: .*Point\("appended"\)`,
		},
		"TestRenewer_Wrong": {
			`--- FAIL: TestRenewer_Wrong/stall_at_point_put_1_of_import `,
			`the run has not ended within Plan\.Limit`,
			`waits \(select\):\n\s+zoo_test\.work\n.*\n\s+zoo_test\.\(\*leases\)\.keep`,
		},
		"TestReminder_Wrong": {
			`--- FAIL: TestReminder_Wrong/crash_before_sleep_1_of_order-1 `,
			`mails \(-want \+got\)`,
		},
		"TestQueue_Wrong": {
			`--- FAIL: TestQueue_Wrong/crash_after_heartbeat_2 `,
			`row \d is missing`,
			`resumed from 2\n`,
		},
		"TestCache_Wrong": {
			`--- FAIL: TestCache_Wrong/crash_before_heartbeat_2_of_import `,
			`row 0 is missing`,
			`resumed from \{"Next":1,"To":3\}\n`,
		},
	})
}
