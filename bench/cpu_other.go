//go:build !linux && !darwin

package main

import "math"

// cpuTime is not known on this system.
func cpuTime() float64 { return math.NaN() }
