//go:build !linux && !darwin

package main

import "math"

// cpuTime is not known here.
func cpuTime() float64 { return math.NaN() }
