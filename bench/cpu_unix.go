//go:build linux || darwin

package main

import (
	"math"
	"syscall"
)

// cpuTime returns the CPU time that the process has used, in ns.
func cpuTime() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return math.NaN()
	}
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}
