// White box: the size of what each Run makes.

package activity

import (
	"strconv"
	"testing"
	"unsafe"
)

// The size of an activity, its first attempt included, is most of what a Run costs
// beyond its goroutine: 0.5 ns a byte on a small heap.
func TestSizeOfAnActivity(t *testing.T) {
	if strconv.IntSize < 64 {
		t.Skip("on 32 bits it is less")
	}
	const budget = 480 // a size class of the Go runtime's
	if got := unsafe.Sizeof(activity{}); got > budget {
		t.Errorf("an activity has %d bytes, its budget is %d", got, budget)
	}
}
