package activitytest

import (
	"sync"
	"testing"
)

// Given functions on the stack, then relocks finds one that unlocks before and in a deferred call.
func TestRelocks(t *testing.T) {
	var mu sync.Mutex
	var rw sync.RWMutex
	probe := relocks
	for name, test := range map[string]struct {
		f    func() bool
		want bool
	}{
		"no lock": {probe, false},
		"deferred": {func() bool {
			mu.Lock()
			defer mu.Unlock()
			return probe()
		}, false},
		"before": {func() bool {
			mu.Lock()
			found := probe()
			mu.Unlock()
			return found || probe()
		}, false},
		"both": {func() bool {
			mu.Lock()
			defer mu.Unlock()
			mu.Unlock()
			found := probe()
			mu.Lock()
			return found
		}, true},
		"both, in a closure": {func() bool {
			rw.RLock()
			defer func() { rw.RUnlock() }()
			rw.RUnlock()
			found := func() bool { return probe() }()
			rw.RLock()
			return found
		}, true},
		"closure that locks again": {func() bool {
			mu.Lock()
			found := probe()
			mu.Unlock()
			defer func() {
				mu.Lock()
				defer mu.Unlock()
			}()
			return found || probe()
		}, false},
		"after": {func() bool {
			mu.Lock()
			defer mu.Unlock()
			found := probe()
			mu.Unlock()
			mu.Lock()
			return found
		}, false},
	} {
		if got := test.f(); got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}
